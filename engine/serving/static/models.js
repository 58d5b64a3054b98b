// The view of the models: for each model of the symbol its scores beside its baselines, charts, versions and their evidence. Asked for
// over HTTP, once a second while somebody looks; /models says what is in an answer.

import { ReliabilityChart, SkillChart } from "./model_charts.js";
import { NONE, bytes, count, fixed, make, micros, plural, put, signed, when } from "./text.js";

const EVERY_MS = 1000;
const MARKS = 6; // drifts and promotions that are told below a chart

export class Models {
  constructor(root) {
    this.root = root;
    this.cards = new Map(); // by name of the model
    this.key = null;
    this.isShown = false;
    this.asking = null;
    this.timer = null;
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
        this.cards.set(standing.model, (card = new Card(standing)));
        this.root.append(card.element);
        card.build();
      }
      card.draw(standing);
    }
    this.root.dataset.asked = String(Number(this.root.dataset.asked ?? 0) + 1);
  }
}

/** What one model is and how it does. */
class Card {
  constructor(standing) {
    this.element = make("article", "model");
    this.element.dataset.model = standing.model;
    this.element.setAttribute("aria-label", `Model ${standing.model}`);
    this.head = make("header", "model-head");
    this.figures = make("dl", "model-figures");
    this.warnings = make("div", "model-warnings");
    const plots = make("div", "model-plots");
    this.skill = panel(plots, "plot-skill", "Skill against the best baseline");
    this.reliability = panel(plots, "plot-reliability", "Reliability");
    this.baselines = make("div", "model-baselines");
    this.versions = make("div", "model-versions");
    this.marks = make("div", "model-marks");
    const below = make("div", "model-below");
    below.append(this.baselines, this.versions, this.marks);
    this.element.append(this.head, this.figures, this.warnings, plots, below);
    this.standing = standing;
  }

  build() {
    this.charts?.forEach((chart) => chart.destroy());
    this.charts = [new SkillChart(this.skill), new ReliabilityChart(this.reliability)];
    this.draw(this.standing);
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
    const report = champion?.report ?? null;
    this.drawHead(standing, champion);
    this.drawFigures(standing, report);
    this.drawWarnings(standing, report);
    this.drawBaselines(standing, report);
    this.drawVersions(standing);
    this.drawMarks(standing);
    this.charts[0].draw(standing);
    this.reliability.parentElement.hidden = !standing.classes.length;
    if (standing.classes.length) this.charts[1].draw(report?.reliability ?? null, standing.classes);
  }

  drawHead(standing, champion) {
    const title = make("h2", "", standing.model);
    const what = [`version ${standing.champion}`, `${standing.target} over ${standing.horizon}`, champion?.algorithm_text ?? ""];
    if (standing.classes.length) what.push(standing.classes.join(" / "));
    const state = make("span", `state state-${standing.ready ? "good" : "warn"}`);
    state.append(make("i"), make("b", "", standing.ready ? "ready" : `warming up: ${count(champion?.learned)} learned`));
    const parts = [title, make("span", "faint", what.join(" · ")), state];
    if (standing.pinned) parts.push(make("span", "badge", "pinned"));
    this.head.replaceChildren(...parts);
  }

  drawFigures(standing, report) {
    const figures = [];
    const figure = (name, value, beside, title = "") => {
      const one = make("div");
      one.title = title;
      one.append(make("dt", "", name), make("dd", "", value), make("dd", "beside", beside));
      figures.push(one);
    };
    const n = report?.n ?? 0;
    const best = bestOf(report);
    const interval = report?.interval;
    const told = interval && interval[0] !== null ? `${percent(interval[0], true)} to ${percent(interval[1], true)}` : "no interval yet";
    figure("Skill", percent(report?.skill ?? null, true), told, "Of its squared loss against the best baseline on the same rows; below 0 it is worse than that");
    figure("Independent outcomes", count(report?.n_eff == null ? null : Math.floor(report.n_eff)), `of ${count(n)} verified`, "n_eff: predictions that overlap say the same thing again");
    if (standing.classes.length) {
      figure("Brier", fixed(report?.brier ?? null, 4), best ? `${words(best[0])} ${fixed(best[1], 4)}` : NONE, "Halved, 0 to 1; beside the best baseline's");
      const usual = mostAccurate(report);
      if (usual) figure("Accuracy", percent(report.accuracy), `${words(usual[0])} ${percent(usual[1])}`, "Beside the most accurate baseline on the same rows");
      figure("MCC", signedOr(report?.mcc, 3), "0 is chance");
    } else {
      figure("RMSE", scientific(report?.rmse), best ? `${words(best[0])} ${scientific(Math.sqrt(best[1]))}` : NONE);
      figure("MAE", scientific(report?.mae), "mean absolute error");
    }
    figure("Coverage", percent(report?.coverage ?? null), `wanted ${percent(standing.coverage)}`, "How often the interval, or the set of classes, held what came");
    figure("Net", report?.net_bps == null ? NONE : `${signed(report.net_bps, 2)} bps`, "a prediction, after costs");
    figure("Learn + predict", micros(standing.row_us), "a row, all versions");
    figure("Memory", bytes(standing.memory_bytes), `${count(standing.waiting)} waiting · ${count(standing.void)} void`);
    this.figures.replaceChildren(...figures);
  }

  drawWarnings(standing, report) {
    const said = (report?.trivial ?? []).map(({ name, text }) => `${words(name)}: ${text}`);
    for (const one of standing.versions) if (one.parked) said.push(`version ${one.version} is parked: ${one.parked}`);
    this.warnings.replaceChildren(...said.map((text) => make("p", "", text)));
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
    if (!all.length) rows.push(make("p", "empty", "Nothing verified yet."));
    this.baselines.replaceChildren(...rows);
  }

  drawVersions(standing) {
    const rows = [make("h3", "", "Versions, and their evidence against the champion")];
    for (const one of standing.versions) {
      const row = make("div", "version");
      row.dataset.version = one.version;
      const line = make("div", "line");
      line.append(make("b", "", `${one.version} ${one.role}`), make("span", "faint grow", one.algorithm_text), make("span", "", `skill ${percent(one.report?.skill ?? null, true)}`));
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

function panel(plots, className, title) {
  const section = make("section", `model-plot ${className}`);
  section.append(make("h3", "", title));
  const plot = section.appendChild(make("div", "model-canvas"));
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", title);
  plots.append(section);
  return plot;
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
