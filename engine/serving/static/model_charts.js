// The charts of a model, drawn by uPlot: how its skill went beside its baselines, its reliability curve, and what one without labels said.
// Without uPlot they are left out, and say so; all figures stand beside them.

import { AXIS, TIMES, roundTimes, timeLabels } from "./axis.js";
import { colours, roundValues } from "./panes.js";
import { ago, fixed, make, put, short } from "./text.js";

const BASELINES = ["--signal", "--rsi", "--band", "--warn", "--down-soft", "--up-soft", "--muted"];
const ROOM = 0.02; // of the width, right of the newest sample
const LOWEST = 0.02; // of skill: what is shown at least, either way
const WORST = -1; // of skill: what lies below leaves the picture, and does not squeeze the rest

/** What both have in common: a legend above a plot of uPlot's, made anew when the curves are others. */
class Chart {
  constructor(root) {
    this.root = root;
    this.legend = root.appendChild(make("p", "model-legend"));
    this.place = root.appendChild(make("div", "model-plot-area"));
    this.none = root.appendChild(make("p", "warming"));
    this.colour = colours();
    this.plot = null;
    this.made = "";
    this.none.hidden = true;
    if (!window.uPlot) this.say("Not drawn: uPlot is not installed.");
  }

  say(text) {
    this.none.hidden = text === "";
    this.root.classList.toggle("is-blank", text !== ""); // words want a line, not the room of a picture
    put(this.none, text);
  }

  /** Draw data; `name` says which curves these are, `options` makes uPlot's options of them. */
  update(name, data, options) {
    if (!window.uPlot) return;
    if (this.plot && this.made === name) {
      this.plot.setData(data);
      return;
    }
    this.plot?.destroy();
    this.made = name;
    const common = {
      width: Math.max(this.place.clientWidth, 80),
      height: Math.max(this.place.clientHeight, 60),
      legend: { show: false },
      cursor: { show: false },
    };
    this.plot = new window.uPlot({ ...common, ...options() }, data, this.place);
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.place;
    if (this.plot && width && height) this.plot.setSize({ width, height });
  }

  destroy() {
    this.plot?.destroy();
    this.root.replaceChildren();
  }

  axis(more) {
    const font = `11px ${this.colour("--font")}`;
    return { font, stroke: this.colour("--muted"), grid: { stroke: this.colour("--grid"), width: 1 }, ticks: { show: false }, ...more };
  }

  /** Name the curves: [name, value, colour]. */
  name(curves) {
    const parts = curves.map(([name, value, colour]) => {
      const part = make("span", "", value === null ? name : `${name} ${value}`);
      part.style.setProperty("--curve", this.colour(colour));
      return part;
    });
    this.legend.replaceChildren(...parts);
  }
}

/** Cumulative skill with its interval, rolling skill, and the rolling skill of each baseline; drifts and promotions on the axis of time. */
export class SkillChart extends Chart {
  draw(standing) {
    const history = standing.history;
    this.marks = standing.marks;
    if (!history || history.at_ms.length < 2) {
      if (window.uPlot) this.say(`No line yet: a prediction is verified ${standing.horizon} after it was made, and scored once the model is warm`);
      return;
    }
    if (window.uPlot) this.say("");
    this.view = { min: history.at_ms[0], max: history.at_ms.at(-1) };
    this.view.max += Math.max((this.view.max - this.view.min) * ROOM, 10);
    this.now = history.at_ms.at(-1);
    const names = Object.keys(history.baselines);
    const curves = [history.low, history.high, ...names.map((name) => history.baselines[name]), history.rolling, history.skill];
    // The interval is wide at first; the lines say what has to be in sight.
    const seen = curves.slice(2).flatMap((values) => values.filter((value) => value !== null));
    this.range = around(Math.min(0, ...seen), Math.max(0, ...seen));
    const last = (values) => {
      const value = values.at(-1);
      return value === null ? "–" : `${fixed(100 * value, 2)} %`;
    };
    const first = history.at_ms.at(-Math.min(history.rolling_samples + 1, history.at_ms.length));
    this.name([
      ["skill so far, and its interval", last(history.skill), "--price"],
      [`over the last ${ago(this.now - first)}`, last(history.rolling), "--macd"],
      ...names.map((name, at) => [name.replaceAll("_", " "), null, BASELINES[at % BASELINES.length]]),
    ]);
    this.update(names.join(), [history.at_ms, ...curves], () => this.options(names));
  }

  options(names) {
    const { colour } = this;
    const line = (name, width, dash) => ({ stroke: colour(name), width, dash, points: { show: false } });
    return {
      ms: 1,
      padding: [8, 0, 0, 0],
      scales: { x: { time: true, range: () => [this.view.min, this.view.max] }, y: { range: () => this.range } },
      axes: [
        this.axis({
          size: TIMES,
          gap: 5,
          splits: (plot) => roundTimes(this.view.min, this.view.max, plot.bbox.width / devicePixelRatio),
          values: (plot, splits) => timeLabels(splits, (ms) => plot.valToPos(ms, "x"), plot.bbox.width / devicePixelRatio, this),
        }),
        this.axis({
          side: 1,
          size: AXIS,
          gap: 8,
          splits: (plot, _, low, high) => roundValues(low, high, plot.bbox.height / devicePixelRatio / 40),
          values: (_, splits) => splits.map((value) => `${fixed(100 * value, Math.abs(splits[1] - splits[0]) < 0.0099 ? 2 : 0)} %`),
        }),
      ],
      series: [
        {},
        line("--band", 0),
        line("--band", 0),
        ...names.map((_, at) => line(BASELINES[at % BASELINES.length], 1, [4, 3])),
        line("--macd", 1.25),
        line("--price", 1.75),
      ],
      bands: [{ series: [2, 1], fill: colour("--band-fill") }],
      hooks: { draw: [(plot) => this.decorate(plot)] },
    };
  }

  /** Zero, which is the best baseline; and what happened, a line down from the top each. */
  decorate(plot) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.lineWidth = ratio;
    ctx.strokeStyle = this.colour("--guide");
    ctx.setLineDash([2 * ratio, 3 * ratio]);
    const zero = Math.round(plot.valToPos(0, "y", true)) + 0.5;
    this.stroke(ctx, bbox.left, zero, bbox.left + bbox.width, zero);
    ctx.setLineDash([]);
    ctx.font = `600 ${10 * ratio}px ${this.colour("--font")}`;
    ctx.textBaseline = "top";
    let written = -Infinity;
    for (const mark of this.marks) {
      const at = mark.received / 1e6;
      if (at < this.view.min || at > this.view.max) continue;
      const x = Math.round(plot.valToPos(at, "x", true)) + 0.5;
      ctx.strokeStyle = ctx.fillStyle = this.colour(mark.kind === "promotion" ? "--accent" : "--warn");
      this.stroke(ctx, x, bbox.top, x, bbox.top + bbox.height);
      if (x - written < 60 * ratio) continue;
      written = x;
      ctx.fillText(mark.kind, x + 4 * ratio, bbox.top + 2 * ratio);
    }
    ctx.restore();
  }

  stroke(context, x, y, toX, toY) {
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(toX, toY);
    context.stroke();
  }
}

/** What a model without labels said of the rows it was asked at: a score as a line, a cluster as steps. */
export class SaidChart extends Chart {
  draw(said) {
    const history = said.history;
    if (!history || history.at_ms.length < 2) {
      if (window.uPlot) this.say("No line yet: a sample is taken a second, once something was said");
      return;
    }
    if (window.uPlot) this.say("");
    this.view = { min: history.at_ms[0], max: history.at_ms.at(-1) };
    this.view.max += Math.max((this.view.max - this.view.min) * ROOM, 10);
    this.now = history.at_ms.at(-1);
    const low = Math.min(...history.values);
    const high = Math.max(...history.values);
    const room = said.kind === "cluster" ? 0.5 : 0.1 * (high - low) || 0.1 * Math.abs(high) || 1;
    this.range = [low - room, high + room];
    this.name([[said.kind === "cluster" ? "cluster" : "said", saidText({ ...said, value: history.values.at(-1) }), "--price"]]);
    this.update(said.kind, [history.at_ms, history.values], () => this.options(said.kind));
  }

  options(kind) {
    const isCluster = kind === "cluster";
    const whole = (low, high) => roundValues(low, high, 4).filter(Number.isInteger);
    return {
      ms: 1,
      padding: [8, 0, 0, 0],
      scales: { x: { time: true, range: () => [this.view.min, this.view.max] }, y: { range: () => this.range } },
      axes: [
        this.axis({
          size: TIMES,
          gap: 5,
          splits: (plot) => roundTimes(this.view.min, this.view.max, plot.bbox.width / devicePixelRatio),
          values: (plot, splits) => timeLabels(splits, (ms) => plot.valToPos(ms, "x"), plot.bbox.width / devicePixelRatio, this),
        }),
        this.axis({
          side: 1,
          size: AXIS,
          gap: 8,
          splits: (plot, _, low, high) => (isCluster ? whole(low, high) : roundValues(low, high, plot.bbox.height / devicePixelRatio / 40)),
          values: (_, splits) => splits.map((value) => saidText({ kind, value })),
        }),
      ],
      series: [
        {},
        {
          stroke: this.colour("--price"),
          width: 1.5,
          points: { show: false },
          ...(isCluster ? { paths: window.uPlot.paths.stepped({ align: 1 }) } : {}),
        },
      ],
    };
  }
}

/** A score to three digits, a cluster by its number. */
export function saidText({ kind, value }) {
  return kind === "cluster" ? String(value) : short(value);
}

/** Skill between sensible limits, with zero in sight. */
function around(low, high) {
  const least = Math.max(Math.min(low, -LOWEST), WORST);
  const most = Math.min(Math.max(high, LOWEST), 1);
  const room = 0.08 * (most - least);
  return [least - room, most + room];
}

/** How often what was said came true, by class, in ten bins of equal mass: on the diagonal it is calibrated. */
export class ReliabilityChart extends Chart {
  draw(reliability, classes) {
    const names = classes.filter((name) => reliability?.[name]?.length);
    if (!names.length) {
      if (window.uPlot) this.say("Nothing verified yet");
      return;
    }
    if (window.uPlot) this.say("");
    const tints = { down: "--down", sell: "--down", up: "--up", buy: "--up" };
    const tint = (name) => tints[name] ?? "--macd";
    this.name([["said, against came true", null, "--muted"], ...names.map((name) => [name, null, tint(name)])]);
    // uPlot wants one axis for all curves: the said probabilities of all classes, in order.
    const points = names.flatMap((name, at) => reliability[name].map((bin) => ({ at, ...bin })));
    points.sort((one, other) => one.predicted - other.predicted);
    const data = [points.map((point) => point.predicted)];
    for (const at of names.keys()) data.push(points.map((point) => (point.at === at ? point.observed : undefined)));
    this.points = points;
    this.tint = (at) => this.colour(tint(names[at]));
    this.update(names.join(), data, () => this.options(names, tint));
  }

  options(names, tint) {
    const { colour } = this;
    const percent = (_, splits) => splits.map((value) => `${fixed(100 * value, 0)} %`);
    const quarters = () => [0, 0.25, 0.5, 0.75, 1];
    return {
      padding: [8, 22, 0, 0],
      scales: { x: { time: false, range: () => [0, 1] }, y: { range: () => [0, 1] } },
      axes: [
        this.axis({ size: TIMES, gap: 5, splits: quarters, values: percent }),
        this.axis({ side: 3, size: 44, gap: 6, splits: quarters, values: percent }),
      ],
      series: [
        {},
        ...names.map((name) => ({
          stroke: colour(tint(name)),
          width: 1.25,
          points: { show: true, size: 5, width: 0, fill: colour(tint(name)) },
        })),
      ],
      hooks: { drawAxes: [(plot) => this.decorate(plot)] },
    };
  }

  /** The diagonal, and the interval of each point. */
  decorate(plot) {
    const { ctx } = plot;
    const ratio = devicePixelRatio;
    const x = (value) => plot.valToPos(value, "x", true);
    const y = (value) => plot.valToPos(value, "y", true);
    ctx.save();
    ctx.lineWidth = ratio;
    ctx.strokeStyle = this.colour("--guide");
    ctx.setLineDash([2 * ratio, 3 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x(0), y(0));
    ctx.lineTo(x(1), y(1));
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.globalAlpha = 0.45;
    for (const point of this.points) {
      if (point.low === null || point.high === null) continue;
      ctx.strokeStyle = this.tint(point.at);
      ctx.beginPath();
      ctx.moveTo(x(point.predicted), y(point.low));
      ctx.lineTo(x(point.predicted), y(point.high));
      ctx.stroke();
    }
    ctx.restore();
  }
}
