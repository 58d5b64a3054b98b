// The view of the models: for each model of the symbol its scores beside its baselines, charts, versions and their evidence; for one
// without labels what it says. Asked for over HTTP, once a second while somebody looks; /models says what is in an answer.

import { ReliabilityChart, SaidChart, SkillChart, saidText } from "./model_charts.js";
import { NONE, bytes, count, fixed, make, micros, plural, put, signed, when } from "./text.js";

const EVERY_MS = 1000;
const UNSAID = "no skill can be said:";
const MARKS = 6; // drifts and promotions that are told below a chart

export class Models {
  constructor(root) {
    this.root = root;
    this.cards = new Map(); // by name of the model
    this.key = null;
    this.isShown = false;
    this.asking = null;
    this.timer = null;
    this.jumps = make("nav", "model-jumps");
    this.jumps.setAttribute("aria-label", "Models of the symbol");
    this.empty = root.appendChild(make("p", "empty", "Asking for the models"));
    addEventListener("themechange", () => this.cards.forEach((card) => card.build()));
    document.addEventListener("visibilitychange", () => this.ask());
    new ResizeObserver(() => this.cards.forEach((card) => card.resize())).observe(root);
  }

  /** Look at the models of a symbol, or at none. */
  show(key, isShown) {
    const isSame = key?.exchange === this.key?.exchange && key?.symbol === this.key?.symbol;
    if (isSame && isShown === this.isShown) return;
    if (!isSame) this.clear("Asking for the models");
    this.key = key;
    this.isShown = isShown;
    this.asking?.abort();
    this.asking = null;
    this.ask();
  }

  clear(text) {
    this.cards.forEach((card) => card.destroy());
    this.cards.clear();
    this.root.replaceChildren(this.empty);
    this.empty.hidden = false;
    put(this.empty, text);
  }

  async ask() {
    clearTimeout(this.timer);
    if (!this.isShown || !this.key || document.hidden || this.asking) return;
    const asking = (this.asking = new AbortController());
    const wish = new URLSearchParams({ exchange: this.key.exchange, symbol: this.key.symbol, history: "true" });
    try {
      const answer = await fetch(`/models?${wish}`, { signal: asking.signal });
      if (!answer.ok) throw new Error(`answered ${answer.status}`);
      const found = await answer.json();
      if (this.asking === asking) this.draw(found);
    } catch (error) {
      // A daemon that is gone is said at the top of the page; what is shown stays, and is asked for again.
      if (error.name !== "AbortError" && !this.cards.size) put(this.empty, "The models cannot be asked for just now.");
    } finally {
      if (this.asking === asking) {
        this.asking = null;
        this.timer = setTimeout(() => this.ask(), EVERY_MS);
      }
    }
  }

  draw(found) {
    if (!found.length) {
      this.clear("No model looks at this symbol yet. [models] run names those that take part.");
      return;
    }
    this.empty.hidden = true;
    const names = new Set(found.map((one) => one.model));
    for (const [name, card] of this.cards) {
      if (names.has(name)) continue;
      card.destroy();
      this.cards.delete(name);
    }
    for (const standing of found) {
      let card = this.cards.get(standing.model);
      if (!card) {
        this.cards.set(standing.model, (card = standing.said ? new SaidCard(standing) : new ScoredCard(standing)));
        this.root.append(card.element);
        card.build();
      }
      card.draw(standing);
    }
    this.drawJumps([...names]);
    this.root.dataset.asked = String(Number(this.root.dataset.asked ?? 0) + 1);
  }

  /** Several models make a long page: a button each, at its top. */
  drawJumps(names) {
    if (this.jumps.dataset.names !== names.join() || !this.jumps.isConnected) {
      this.jumps.dataset.names = names.join();
      this.jumps.replaceChildren(...names.map((name) => {
        const jump = make("button", "quiet", name);
        jump.type = "button";
        jump.addEventListener("click", () => this.cards.get(name)?.show());
        return jump;
      }));
      this.root.prepend(this.jumps);
    }
    this.jumps.hidden = names.length < 2;
  }
}

/** What one model is, with its figures, versions and marks; the rest is of its kind. */
class Card {
  constructor(standing) {
    this.element = make("article", "model");
    this.element.dataset.model = standing.model;
    this.element.setAttribute("aria-label", `Model ${standing.model}`);
    this.element.tabIndex = -1; // a jump ends here
    this.head = make("header", "model-head");
    this.figures = make("dl", "model-figures");
    this.warnings = make("div", "model-warnings");
    this.plots = make("div", "model-plots");
    this.below = make("div", "model-below");
    this.versions = make("div", "model-versions");
    this.marks = make("div", "model-marks");
    this.below.append(this.versions, this.marks);
    this.element.append(this.head, this.figures, this.warnings, this.plots, this.below);
    this.standing = standing;
  }

  build() {
    this.charts?.forEach((chart) => chart.destroy());
    this.charts = this.makeCharts();
    this.draw(this.standing);
  }

  show() {
    this.element.scrollIntoView({ block: "start" });
    this.element.focus({ preventScroll: true });
  }

  resize() {
    this.charts?.forEach((chart) => chart.resize());
  }

  destroy() {
    this.charts?.forEach((chart) => chart.destroy());
    this.element.remove();
  }

  draw(standing) {
    this.standing = standing;
    const champion = standing.versions.find((one) => one.role === "champion") ?? null;
    this.drawHead(standing, champion);
    this.drawWarnings(standing, champion?.report ?? null);
    this.drawVersions(standing);
    this.drawMarks(standing);
    this.drawOwn(standing, champion?.report ?? null);
  }

  drawHead(standing, champion) {
    const title = make("h2", "", standing.model);
    const what = [`version ${standing.champion}`, this.what(standing), champion?.algorithm_text ?? ""];
    if (standing.classes.length) what.push(standing.classes.join(" / "));
    const state = make("span", `state state-${standing.ready ? "good" : "warn"}`);
    state.append(make("i"), make("b", "", standing.ready ? "ready" : `warming up: ${this.progress(standing, champion)}`));
    const parts = [title, make("span", "faint", what.join(" · ")), state];
    if (standing.pinned) parts.push(make("span", "badge", "pinned"));
    this.head.replaceChildren(...parts);
  }

  /** Figures: [name, value, lines below it, what it means]. Those of what it costs are behind all others. */
  drawFigures(standing, figures) {
    const costs = [
      ["Learn + predict", micros(standing.row_us), ["a row, all versions"]],
      ["Memory", bytes(standing.memory_bytes), standing.said ? [] : [`${count(standing.waiting)} waiting · ${count(standing.void)} void`]],
    ];
    const made = [...figures, ...costs].map(([name, value, lines, title = ""]) => {
      const one = make("div");
      one.title = title;
      const isText = value === UNSAID;
      one.append(make("dt", "", name), make("dd", isText ? "in-words" : "", value), ...lines.map((line) => make("dd", "beside", line)));
      return one;
    });
    this.figures.replaceChildren(...made);
  }

  drawWarnings(standing, report) {
    const said = (report?.trivial ?? []).map(({ name, text }) => `${words(name)}: ${text}`);
    for (const one of standing.versions) if (one.parked) said.push(`version ${one.version} is parked: ${one.parked}`);
    this.warnings.replaceChildren(...said.map((text) => make("p", "", text)));
  }

  drawVersions(standing) {
    const rows = [make("h3", "", standing.said ? "Versions" : "Versions, and their evidence against the champion")];
    for (const one of standing.versions) {
      const row = make("div", "version");
      row.dataset.version = one.version;
      const line = make("div", "line");
      line.title = one.algorithm_text;
      line.append(make("b", "", `${one.version} ${one.role}`), make("span", "faint grow", one.algorithm_text));
      if (!standing.said) line.append(skillOf(standing, one));
      row.append(line);
      if (one.role !== "champion" && one.e_value != null && one.threshold != null) {
        const meter = make("div", "meter");
        meter.setAttribute("role", "meter");
        meter.setAttribute("aria-valuemin", "0");
        meter.setAttribute("aria-valuemax", "1");
        // E begins at 1 and wins at the threshold: on a scale of logarithms that is the share of the way.
        const share = Math.min(Math.max(Math.log(Math.max(one.e_value, 1e-9)) / Math.log(Math.max(one.threshold, 1.001)), 0), 1);
        meter.setAttribute("aria-valuenow", share.toFixed(3));
        meter.setAttribute("aria-label", `evidence of version ${one.version}`);
        const bar = make("i");
        bar.style.setProperty("--share", String(share));
        meter.append(bar);
        row.append(meter, make("span", "faint", `E ${short3(one.e_value)} of ${short3(one.threshold)} · ${count(one.pairs)} pairs`));
      }
      rows.push(row);
    }
    this.versions.replaceChildren(...rows);
  }

  drawMarks(standing) {
    const rows = [make("h3", "", `${plural(standing.drifts, "drift")}, ${plural(standing.promotions, "promotion")}`)];
    for (const mark of standing.marks.slice(-MARKS).reverse()) {
      const row = make("div", "row");
      const text = make("span", "grow", mark.text.replace(`${mark.kind} `, ""));
      text.title = mark.text;
      row.append(make("time", "at", when(mark.received / 1e6, Date.now())), make("b", `kind kind-${mark.kind}`, mark.kind), text);
      rows.push(row);
    }
    this.marks.replaceChildren(...rows);
  }
}

/** A model whose predictions are verified: its skill, and its scores beside those of its baselines. */
class ScoredCard extends Card {
  constructor(standing) {
    super(standing);
    this.skill = panel(this.plots, "plot-skill", "Skill against the best baseline");
    this.reliability = panel(this.plots, "plot-reliability", "Reliability");
    this.baselines = make("div", "model-baselines");
    this.below.prepend(this.baselines);
  }

  makeCharts() {
    return [new SkillChart(this.skill), new ReliabilityChart(this.reliability)];
  }

  progress(_, champion) {
    return `${count(champion?.learned)} learned`;
  }

  what(standing) {
    return `${standing.target} over ${standing.horizon}`;
  }

  drawOwn(standing, report) {
    this.drawFigures(standing, this.scores(standing, report));
    this.drawBaselines(standing, report);
    this.charts[0].draw(standing);
    this.reliability.parentElement.hidden = !standing.classes.length;
    if (standing.classes.length) this.charts[1].draw(report?.reliability ?? null, standing.classes);
  }

  scores(standing, report) {
    const best = bestOf(report);
    const independent = report?.n_eff == null ? NONE : count(Math.floor(report.n_eff));
    /** The interval of a score, and of how many outcomes that do not overlap it comes. */
    const span = (name, shown) => {
      const [low, high] = report?.intervals?.[name] ?? [null, null];
      const told = low === null || high === null ? "no interval yet" : `${shown(low)} to ${shown(high)}`;
      return `${told} · n_eff ${independent}`;
    };
    const share = (value) => fixed(100 * value, 1);
    const figures = [];
    const figure = (...one) => figures.push(one);
    const meaning = "Of its squared loss against the best baseline on the same rows; below 0 it is worse than that";
    if (report?.skill == null) figure("Skill", UNSAID, [unsaid(standing, report)], meaning);
    else figure("Skill", percent(report.skill, true), [span("skill", (value) => signed(100 * value, 2))], meaning);
    figure("Independent outcomes", independent, [`of ${count(report?.n ?? 0)} verified`], "n_eff: predictions that overlap say the same thing again");
    if (standing.classes.length) {
      figure("Brier", fixed(report?.brier ?? null, 4), [span("brier", (value) => fixed(value, 4)), best ? `${words(best[0])} ${fixed(best[1], 4)}` : NONE], "Halved, 0 to 1; beside the best baseline's");
      const usual = mostAccurate(report);
      if (usual) figure("Accuracy", percent(report.accuracy), [span("accuracy", share), `${words(usual[0])} ${percent(usual[1])}`], "Beside the most accurate baseline on the same rows");
      figure("MCC", signedOr(report?.mcc, 3), [span("mcc", (value) => signed(value, 3)), "0 is chance"]);
    } else {
      figure("RMSE", scientific(report?.rmse), [span("rmse", scientific), best ? `${words(best[0])} ${scientific(Math.sqrt(best[1]))}` : NONE]);
      figure("MAE", scientific(report?.mae), [span("mae", scientific), "mean absolute error"]);
    }
    figure("Coverage", percent(report?.coverage ?? null), [span("coverage", share), `wanted ${percent(standing.coverage)}`], "How often the interval, or the set of classes, held what came");
    figure("Net", report?.net_bps == null ? NONE : `${signed(report.net_bps, 2)} bps`, [span("net_bps", (value) => signed(value, 2)), "a prediction, after costs"]);
    return figures;
  }

  drawBaselines(standing, report) {
    const rows = [make("h3", "", standing.classes.length ? "Baselines, by Brier" : "Baselines, by mean squared error")];
    const own = report?.[report.headline];
    const found = Object.entries(report?.baselines ?? {}).filter(([, loss]) => loss !== null);
    const all = [...found, ...(own == null ? [] : [[standing.model, own]])].sort((a, b) => a[1] - b[1]);
    const most = Math.max(...all.map(([, loss]) => loss), 1e-300);
    for (const [name, loss] of all) {
      const row = make("div", name === standing.model ? "bar-row bar-own" : "bar-row");
      const bar = make("i");
      bar.style.setProperty("--share", String(loss / most));
      row.append(make("span", "", name === standing.model ? name : words(name)), bar, make("b", "", standing.classes.length ? fixed(loss, 4) : scientific(loss)));
      rows.push(row);
    }
    // Both are forecasts by what came after a call: turning every call round changes none of them.
    const losses = Object.fromEntries(found);
    for (const name of Object.keys(losses).filter((one) => losses[`${one}_opposite`] === losses[one])) {
      rows.push(make("p", "faint footnote", `${words(name)} and ${words(name)} opposite have the same Brier by construction: each is scored as a forecast by what came after its call, and their calls differ in name only.`));
    }
    if (!all.length) rows.push(make("p", "empty", "Nothing verified yet."));
    this.baselines.replaceChildren(...rows);
  }
}

/** A model without labels: an anomaly score, or a cluster. It is never verified, so there is nothing to score it by. */
class SaidCard extends Card {
  constructor(standing) {
    super(standing);
    this.plots.classList.add("is-alone");
    this.said = panel(this.plots, "plot-said", `${this.what(standing)}, lately`);
  }

  makeCharts() {
    return [new SaidChart(this.said)];
  }

  progress(standing) {
    return `${count(standing.predictions)} rows seen`;
  }

  what(standing) {
    return { score: "Anomaly score", cluster: "Cluster" }[standing.said.kind] ?? "Score or cluster";
  }

  drawOwn(standing) {
    const { said } = standing;
    const at = said.received === null ? "nothing said yet" : `at ${when(said.received / 1e6, Date.now())}`;
    this.drawFigures(standing, [
      [this.what(standing), said.value === null ? NONE : saidText(said), [at], "What it said of the newest row"],
      ["Rows scored", count(standing.predictions), ["never verified: there is no label"]],
    ]);
    this.charts[0].draw(said);
  }
}

function panel(plots, className, title) {
  const section = make("section", `model-plot ${className}`);
  section.append(make("h3", "", title));
  const plot = section.appendChild(make("div", "model-canvas"));
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", title);
  plots.append(section);
  return plot;
}

/** Why there is no skill, for a reader who may otherwise take silence for good news. */
function unsaid(standing, report) {
  if (!report?.n && !standing.outcomes) return "nothing verified yet";
  if (!report?.n) return standing.ready ? "of what it said since it is ready nothing is verified" : "none counted yet: it is warming up";
  const seen = (report.confusion ?? []).map((row) => row.reduce((sum, cell) => sum + cell, 0));
  const came = standing.classes.filter((_, at) => seen[at] > 0);
  if (standing.classes.length && came.length < 2) return `one class only: all ${count(report.n)} were ${came[0] ?? "of it"}`;
  const best = bestOf(report);
  if (best && standing.classes.length) return `${words(best[0])} is always right`;
  return `too few outcomes: n_eff ${count(Math.floor(report.n_eff))}`;
}

/** The skill of a version, in its line. */
function skillOf(standing, one) {
  if (one.report?.skill != null) return make("span", "", `skill ${percent(one.report.skill, true)}`);
  const found = make("span", "faint", UNSAID.replace(":", ""));
  found.title = `${UNSAID} ${unsaid(standing, one.report)}`;
  return found;
}

/** The baseline with the least loss, [name, loss]; null without any. */
function bestOf(report) {
  const found = Object.entries(report?.baselines ?? {}).filter(([, loss]) => loss !== null);
  return found.length ? found.reduce((best, one) => (one[1] < best[1] ? one : best)) : null;
}

/** The baseline that was right most often, [name, accuracy]; null without any. */
function mostAccurate(report) {
  const found = Object.entries(report?.beside ?? {}).map(([name, scores]) => [name, scores.accuracy ?? null]);
  const known = found.filter(([, accuracy]) => accuracy !== null);
  return known.length ? known.reduce((best, one) => (one[1] > best[1] ? one : best)) : null;
}

function words(name) {
  return name.replaceAll("_", " ");
}

function percent(value, isSigned = false) {
  if (value == null) return NONE;
  return `${isSigned ? signed(100 * value, 2) : fixed(100 * value, 1)} %`;
}

function signedOr(value, places) {
  return value == null ? NONE : signed(value, places);
}

function scientific(value) {
  return value == null || Number.isNaN(value) ? NONE : value.toExponential(2).replace("-", "−");
}

function short3(value) {
  return value >= 1e4 || (value !== 0 && value < 1e-2) ? value.toExponential(1).replace("-", "−") : String(Number(value.toPrecision(3)));
}
