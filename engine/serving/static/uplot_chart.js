// One pane drawn by uPlot, which zooms by dragging.

import { AXIS, TIMES, roundTimes, timeLabels } from "./axis.js";
import { decorate, roundValues, valueLabels, valuesOf } from "./panes.js";

/** The plot without its axes, css px. */
function plotSize({ bbox }) {
  return { width: bbox.width / devicePixelRatio, height: Math.max(bbox.height / devicePixelRatio, 1) };
}

export class UPlotChart {
  static canZoom = true;

  constructor(root, pane, { hasTimes, model, colour, onZoom }) {
    this.pane = pane;
    this.model = model;
    this.marks = [];
    this.bars = pane.bars ?? [];
    const font = `11px ${colour("--font")}`;
    const grid = { stroke: colour("--grid"), width: 1 };
    const options = {
      width: Math.max(root.clientWidth, 80),
      height: Math.max(root.clientHeight, 40),
      ms: 1,
      padding: [6, 0, hasTimes ? 0 : 4, 0],
      legend: { show: false },
      cursor: { x: false, y: false, points: { show: false }, drag: { x: true, y: false, setScale: false, dist: 6 } },
      scales: {
        x: { time: true, range: () => [model.view.min, model.view.max] },
        y: { range: (_, low, high) => pane.range(low, high) },
      },
      axes: [
        {
          font,
          grid,
          size: hasTimes ? TIMES : 0,
          gap: 5,
          stroke: colour("--muted"),
          ticks: { show: false },
          splits: (plot) => roundTimes(model.view.min, model.view.max, plotSize(plot).width),
          values: (plot, splits) =>
            hasTimes ? timeLabels(splits, (ms) => plot.valToPos(ms, "x"), plotSize(plot).width, model) : splits.map(() => ""),
        },
        {
          font,
          grid,
          side: 1,
          size: AXIS,
          gap: 8,
          stroke: colour("--muted"),
          ticks: { show: false },
          splits: (plot, _, low, high) => pane.splits ?? roundValues(low, high, pane.ticks ?? plotSize(plot).height / 52),
          values: (plot, splits) => valueLabels(pane, splits, plot.scales.y.min, plot.scales.y.max, plotSize(plot).height, model),
        },
      ],
      series: [
        {},
        ...this.bars.map((bar) => ({
          stroke: colour(bar.colour),
          fill: colour(bar.colour),
          width: 0,
          fillTo: () => 0,
          paths: window.uPlot.paths.bars({ size: [0.7, 9, 1] }),
          points: { show: false },
        })),
        ...pane.lines.map((line) => ({
          stroke: colour(line.colour),
          width: line.width,
          dash: line.dash,
          points: { show: false, filter: () => model.series.drawn.lone, size: 3, width: 0, fill: colour(line.colour) },
        })),
      ],
      bands: pane.fill
        ? [{ series: [pane.fill.upper + 1 + this.bars.length, pane.fill.lower + 1 + this.bars.length], fill: colour(pane.fill.colour) }]
        : [],
      hooks: {
        draw: [
          (plot) => {
            const ratio = devicePixelRatio;
            const { left, top, width, height } = plot.bbox;
            const x = (ms) => plot.valToPos(ms, "x", true);
            const y = (value) => plot.valToPos(value, "y", true);
            this.marks = decorate(plot.ctx, pane, { left, top, width, height, ratio, x, y }, model, colour);
          },
        ],
        setSelect: [
          (plot) => {
            if (plot.select.width < 6) return;
            const from = plot.posToVal(plot.select.left, "x");
            const to = plot.posToVal(plot.select.left + plot.select.width, "x");
            plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
            onZoom(from, to);
          },
        ],
      },
    };
    this.plot = new window.uPlot(options, this.data(), root);
  }

  data() {
    const { drawn } = this.model.series;
    return [drawn.columns.time_ms, ...[...this.bars, ...this.pane.lines].map((curve) => valuesOf(curve, drawn))];
  }

  draw() {
    this.plot.setData(this.data());
  }

  resize(width, height) {
    this.plot.setSize({ width, height });
  }

  /** The value at a height in css px from the top of the pane, or null outside the plot. */
  valueAt(top) {
    const { bbox } = this.plot;
    const within = top - bbox.top / devicePixelRatio;
    return within < 0 || within > bbox.height / devicePixelRatio ? null : this.plot.posToVal(within, "y");
  }

  destroy() {
    this.plot.destroy();
  }
}
