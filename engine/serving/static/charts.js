// The charts: four panes over one axis of time, with one crosshair through all of them, their legends, and tips over signals.

import { AXIS } from "./axis.js";
import { CanvasChart } from "./canvas_chart.js";
import { PANES, colours, scaleOf } from "./panes.js";
import { fixed, make, put, short, signed, when } from "./text.js";
import { UPlotChart } from "./uplot_chart.js";

const NEAR = 12; // px within which a pointer touches a mark
const ROOM = 0.02; // of the width, right of the newest row

export class Charts {
  /** `model` is what is drawn: {series, signals, strategies, hidden, price, places, interval, now}. */
  constructor(root, tip, model, { onZoom }) {
    this.root = root;
    this.tip = tip;
    this.model = Object.assign(model, { view: { min: Date.now() - 60000, max: Date.now() } });
    this.onZoom = onZoom;
    this.Chart = window.uPlot ? UPlotChart : CanvasChart;
    this.zoomed = null;
    this.pointer = null;
    this.panes = [...root.querySelectorAll(".pane")].map((element) => {
      const pane = PANES[element.dataset.pane];
      const legend = element.appendChild(make("p", "legend"));
      const plot = element.appendChild(make("div", "plot"));
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", pane.name);
      const warming = element.appendChild(make("p", "warming"));
      warming.hidden = true;
      return { element, pane, legend, plot, warming, chart: null, cells: new Map() };
    });
    this.vertical = root.appendChild(make("div", "cross cross-x"));
    this.horizontal = root.appendChild(make("div", "cross cross-y"));
    this.timeTag = root.appendChild(make("div", "cross-tag cross-tag-x"));
    this.valueTag = root.appendChild(make("div", "cross-tag cross-tag-y"));
    this.build();
    new ResizeObserver(() => this.resize()).observe(root);
    root.addEventListener("pointermove", (event) => this.point(event));
    root.addEventListener("pointerdown", (event) => this.point(event));
    root.addEventListener("pointerleave", () => this.leave());
    root.addEventListener("dblclick", () => this.zoom(null));
  }

  /** Make all panes anew, in the colours of the theme that is on. */
  build() {
    const colour = colours();
    this.fit();
    for (const entry of this.panes) {
      entry.chart?.destroy();
      entry.chart = new this.Chart(entry.plot, entry.pane, {
        hasTimes: entry.pane === PANES.macd,
        model: this.model,
        colour,
        onZoom: (from, to) => this.zoom([from, to]),
      });
    }
    this.draw();
  }

  resize() {
    for (const { plot, chart } of this.panes) {
      if (plot.clientWidth && plot.clientHeight) chart.resize(plot.clientWidth, plot.clientHeight);
    }
    this.hover();
  }

  /** Look at a span of time, or at the newest rows without a large gap (null). */
  zoom(span) {
    this.zoomed = span;
    this.onZoom(span !== null);
    this.draw();
  }

  fit() {
    const times = this.model.series.columns.time_ms;
    const { view } = this.model;
    // What was zoomed to has left the rows that are kept.
    if (this.zoomed && !(times[0] < this.zoomed[1])) {
      this.zoomed = null;
      this.onZoom(false);
    }
    if (this.zoomed) [view.min, view.max] = this.zoomed;
    else if (times.length) {
      [view.min, view.max] = this.spanOf(this.model.series.stretches.at(-1));
    }
  }

  spanOf([first, last]) {
    const times = this.model.series.columns.time_ms;
    const width = Math.max(times[last] - times[first], 1000);
    return [times[last] - width, times[last] + width * ROOM];
  }

  /** The span of the stretch of rows before what is looked at, or null. */
  earlier() {
    const { series, view } = this.model;
    if (!series.rows) return null;
    const before = series.stretches.findLast(([, last]) => series.columns.time_ms[last] < view.min);
    return before ? this.spanOf(before) : null;
  }

  draw() {
    const { model } = this;
    this.fit();
    const { columns } = model.series;
    const isSeen = (row) => columns.time_ms[row] >= model.view.min && columns.time_ms[row] <= model.view.max;
    const prices = columns.price.filter((value, row) => value !== null && isSeen(row));
    if (prices.length) {
      const [low, high] = prices.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
      model.places = scaleOf(low, high).places;
    }
    for (const { chart, pane, warming } of this.panes) {
      chart.draw();
      const [column, need, what] = pane.needs;
      const rows = model.series.rows;
      const isWarming = rows > 0 && what !== "" && model.series.newest(column) === null;
      warming.hidden = !isWarming;
      if (isWarming) {
        const unit = model.interval === "bars" ? "bars" : "trades";
        put(warming, rows < need ? `${what} is warming up: ${rows} of ${need} ${unit}` : `${what} is not computed`);
      }
    }
    this.hover();
  }

  // -- the pointer

  point(event) {
    const box = this.root.getBoundingClientRect();
    this.pointer = { x: event.clientX - box.left, y: event.clientY - box.top };
    this.hover();
  }

  leave() {
    this.pointer = null;
    this.hover();
  }

  /** Show what is under the pointer; without one, the newest row. */
  hover() {
    const { model, pointer } = this;
    const width = this.root.clientWidth - AXIS;
    const isInside = pointer !== null && pointer.x >= 0 && pointer.x <= width && model.series.rows > 0;
    let row = model.series.rows - 1;
    for (const element of [this.vertical, this.horizontal, this.timeTag, this.valueTag]) element.hidden = !isInside;
    this.tip.hidden = true;
    if (isInside) {
      const { min, max } = model.view;
      row = model.series.nearest(min + (pointer.x / width) * (max - min));
      const at = model.series.columns.time_ms[row];
      const x = ((at - min) / (max - min)) * width;
      this.vertical.style.transform = `translateX(${x}px)`;
      put(this.timeTag, when(at, model.now, model.interval === "ticks"));
      const wide = this.timeTag.offsetWidth;
      this.timeTag.style.transform = `translateX(${Math.min(Math.max(x - wide / 2, 0), width - wide)}px)`;
      this.horizontal.style.transform = `translateY(${pointer.y}px)`;
      this.cross(pointer.y);
      this.touch(pointer);
    }
    for (const entry of this.panes) this.legend(entry, row);
  }

  /** The value at the pointer's height, beside the pane that it is over. */
  cross(y) {
    const entry = this.panes.find(({ element }) => y >= element.offsetTop && y < element.offsetTop + element.offsetHeight);
    const value = entry?.chart.valueAt(y - entry.element.offsetTop - entry.plot.offsetTop);
    this.horizontal.hidden = this.valueTag.hidden = value == null;
    if (value != null) {
      put(this.valueTag, entry.pane === PANES.price ? fixed(value, this.model.places) : short(value));
      this.valueTag.style.transform = `translateY(${y - 9}px)`;
    }
  }

  /** A tip over the signal that the pointer is on. */
  touch(pointer) {
    const { element, plot, chart } = this.panes[0];
    const top = element.offsetTop + plot.offsetTop;
    let best = null;
    for (const mark of chart.marks) {
      const distance = Math.hypot(mark.x - pointer.x, mark.y + top - pointer.y);
      if (distance <= NEAR && (best === null || distance < best.distance)) best = { ...mark, distance };
    }
    if (best === null) return;
    const { signal } = best;
    this.tip.replaceChildren(
      make("b", signal.value > 0 ? "up" : signal.value < 0 ? "down" : "", word(signal.value)),
      make("span", "", ` ${signal.strategy}`),
      make("p", "", signal.reason || "no reason given"),
      make("small", "", `${when(signal.at_ms, this.model.now, true)} UTC · value ${signal.value}`),
    );
    this.tip.hidden = false;
    const x = Math.min(Math.max(best.x - this.tip.offsetWidth / 2, 4), this.root.clientWidth - this.tip.offsetWidth - 4);
    const y = best.y + top + (best.y + top > this.tip.offsetHeight + 48 ? -this.tip.offsetHeight - 14 : 14);
    this.tip.style.transform = `translate(${x}px, ${y}px)`;
  }

  // -- legends

  legend({ pane, legend, cells }, row) {
    const { series, places, interval } = this.model;
    const value = (name) => (row >= 0 ? series.columns[name][row] : null);
    const write = (name, text, className = "") => {
      let cell = cells.get(name);
      if (!cell) cells.set(name, (cell = legend.appendChild(make("span"))));
      if (cell.className !== className) cell.className = className;
      put(cell, text);
    };
    if (pane === PANES.price) {
      write("title", interval === "bars" ? "Close" : "Price", "strong");
      write("price", fixed(value("price"), places), "of-price");
      write("bands", "Bollinger 20, 2", "of-bands");
      for (const name of ["upper", "middle", "lower"]) write(name, fixed(value(name), places), `of-band of-${name}`);
    } else if (pane === PANES.volume) {
      write("title", "Volume", "strong");
      write("volume", short(value("volume")), "of-volume");
    } else if (pane === PANES.rsi) {
      write("title", "RSI 14", "strong");
      write("rsi", fixed(value("rsi"), 1), "of-rsi");
    } else {
      const histogram = value("histogram");
      write("title", "MACD 12, 26, 9", "strong");
      write("macd", short(value("macd")), "of-macd");
      write("signal", short(value("signal")), "of-signal");
      write("histogram", histogram == null ? short(null) : signedShort(histogram), histogram < 0 ? "down" : "up");
    }
  }
}

function signedShort(value) {
  return `${value < 0 ? "−" : "+"}${short(Math.abs(value))}`;
}

/** What a signal's value says, by custom. */
export function word(value) {
  if (value > 0) return value >= 1 ? "BUY" : `BUY ${signed(value, 2)}`;
  if (value < 0) return value <= -1 ? "SELL" : `SELL ${signed(value, 2)}`;
  return "FLAT";
}
