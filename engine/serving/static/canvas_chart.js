// One pane drawn by hand, for where uPlot is not installed: the same curves, axes and marks, without zoom.

import { AXIS, TIMES, roundTimes, timeLabels } from "./axis.js";
import { decorate, roundValues, valueLabels, valuesOf } from "./panes.js";

const TOP = 6;
const BOTTOM = 4;
const BAR_MOST = 9; // px

export class CanvasChart {
  static canZoom = false;

  constructor(root, pane, { hasTimes, model, colour }) {
    this.pane = pane;
    this.model = model;
    this.hasTimes = hasTimes;
    this.colour = colour;
    this.marks = [];
    this.canvas = document.createElement("canvas");
    this.canvas.className = "own";
    root.append(this.canvas);
    this.resize(root.clientWidth, root.clientHeight);
  }

  resize(width, height) {
    this.ratio = devicePixelRatio;
    this.canvas.width = Math.max(80, width) * this.ratio;
    this.canvas.height = Math.max(40, height) * this.ratio;
    this.draw();
  }

  draw() {
    const { pane, model, ratio, colour } = this;
    const { drawn } = model.series;
    const { columns } = drawn;
    const { min, max } = model.view;
    const context = this.canvas.getContext("2d");
    const [width, height] = [this.canvas.width, this.canvas.height];
    context.clearRect(0, 0, width, height);
    const at = {
      ratio,
      left: 0,
      top: TOP * ratio,
      width: width - AXIS * ratio,
      height: height - (TOP + (this.hasTimes ? TIMES : BOTTOM)) * ratio,
    };
    const bars = (pane.bars ?? []).map((curve) => [curve, valuesOf(curve, drawn)]);
    const lines = pane.lines.map((curve) => [curve, valuesOf(curve, drawn)]);
    const rows = [...columns.time_ms.keys()].filter((row) => columns.time_ms[row] >= min && columns.time_ms[row] <= max);
    const seen = [...bars, ...lines].flatMap(([, values]) => rows.map((row) => values[row])).filter((value) => value != null);
    const extremes = seen.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    const [low, high] = pane.range(...(seen.length ? extremes : [null, null]));
    at.x = (time) => at.left + ((time - min) / (max - min || 1)) * at.width;
    at.y = (value) => at.top + (1 - (value - low) / (high - low || 1)) * at.height;
    this.at = at;
    this.limits = [low, high];
    this.axes(context, at, low, high, height);
    context.save();
    context.beginPath();
    context.rect(at.left, at.top, at.width, at.height);
    context.clip();
    if (pane.fill) this.band(context, at, columns, rows, lines);
    for (const [curve, values] of bars) this.barsOf(context, at, columns, rows, curve, values);
    for (const [curve, values] of lines) this.line(context, at, columns, rows, curve, values);
    context.restore();
    this.marks = decorate(context, pane, at, model, colour);
  }

  axes(context, at, low, high, height) {
    const { pane, model, ratio, colour } = this;
    context.font = `${11 * ratio}px ${colour("--font")}`;
    context.fillStyle = colour("--muted");
    context.strokeStyle = colour("--grid");
    context.lineWidth = ratio;
    context.textBaseline = "middle";
    context.textAlign = "left";
    const rule = (fromX, fromY, toX, toY) => {
      context.beginPath();
      context.moveTo(fromX, fromY);
      context.lineTo(toX, toY);
      context.stroke();
    };
    const values = pane.splits ?? roundValues(low, high, pane.ticks ?? at.height / ratio / 52);
    valueLabels(pane, values, low, high, at.height / ratio, model).forEach((label, index) => {
      const y = Math.round(at.y(values[index])) + 0.5;
      rule(at.left, y, at.left + at.width, y);
      context.fillText(label, at.left + at.width + 8 * ratio, y);
    });
    const times = roundTimes(model.view.min, model.view.max, at.width / ratio);
    context.textAlign = "center";
    timeLabels(times, (ms) => at.x(ms) / ratio, at.width / ratio, model).forEach((label, index) => {
      const x = Math.round(at.x(times[index])) + 0.5;
      rule(x, at.top, x, at.top + at.height);
      if (this.hasTimes) context.fillText(label, x, height - (TIMES / 2 - 2) * ratio);
    });
  }

  line(context, at, columns, rows, curve, values) {
    context.strokeStyle = this.colour(curve.colour);
    context.lineWidth = curve.width * this.ratio;
    context.lineJoin = "round";
    context.setLineDash((curve.dash ?? []).map((part) => part * this.ratio));
    context.beginPath();
    let isDown = false;
    for (const row of rows) {
      if (values[row] === null) isDown = false;
      else if (values[row] === undefined) continue;
      else if (isDown) context.lineTo(at.x(columns.time_ms[row]), at.y(values[row]));
      else {
        context.moveTo(at.x(columns.time_ms[row]), at.y(values[row]));
        isDown = true;
      }
    }
    context.stroke();
    context.setLineDash([]);
    context.fillStyle = this.colour(curve.colour);
    const size = 3 * this.ratio;
    for (const row of this.model.series.drawn.lone) {
      if (values[row] == null) continue;
      context.fillRect(at.x(columns.time_ms[row]) - size / 2, at.y(values[row]) - size / 2, size, size);
    }
  }

  band(context, at, columns, rows, lines) {
    const [upper, lower] = [lines[this.pane.fill.upper][1], lines[this.pane.fill.lower][1]];
    context.fillStyle = this.colour(this.pane.fill.colour);
    let there = [];
    const fill = () => {
      context.beginPath();
      for (const row of there) context.lineTo(at.x(columns.time_ms[row]), at.y(upper[row]));
      for (const row of there.reverse()) context.lineTo(at.x(columns.time_ms[row]), at.y(lower[row]));
      context.fill();
      there = [];
    };
    for (const row of rows) {
      if (upper[row] !== null && lower[row] !== null) there.push(row);
      else fill();
    }
    fill();
  }

  barsOf(context, at, columns, rows, curve, values) {
    const width = Math.min(Math.max((at.x(this.model.series.usual) - at.x(0)) * 0.7, this.ratio), BAR_MOST * this.ratio);
    const zero = at.y(0);
    context.fillStyle = this.colour(curve.colour);
    for (const row of rows) {
      if (values[row] == null) continue;
      const y = at.y(values[row]);
      context.fillRect(at.x(columns.time_ms[row]) - width / 2, Math.min(y, zero), width, Math.abs(y - zero));
    }
  }

  /** The value at a height in css px from the top of the pane, or null outside the plot. */
  valueAt(top) {
    const within = (top * this.ratio - this.at.top) / this.at.height;
    const [low, high] = this.limits;
    return within < 0 || within > 1 ? null : high - within * (high - low);
  }

  destroy() {
    this.canvas.remove();
  }
}
