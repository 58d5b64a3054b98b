// What is drawn in which pane, in words that both ways of drawing understand, and what lies over the curves: guides, marks, tags.

import { AXIS } from "./axis.js";
import { decimals, fixed, short } from "./text.js";

const MARK = 5; // px, half a mark
const signOf = (keep) => (values) => values.map((value) => (value !== null && keep(value) ? value : null));

export const PANES = {
  price: {
    name: "Price",
    lines: [
      { column: "upper", colour: "--band", width: 1 },
      { column: "lower", colour: "--band", width: 1 },
      { column: "middle", colour: "--band-middle", width: 1, dash: [3, 3] },
      { column: "price", colour: "--price", width: 1.5, bridges: true },
    ],
    fill: { upper: 0, lower: 1, colour: "--band-fill" },
    range: (low, high) => padded(low, high, 0.1),
    format: (value, scale) => fixed(value, scale.places),
    tag: "price",
    needs: ["price", 1, ""],
  },
  volume: {
    name: "Volume",
    bars: [{ column: "volume", colour: "--volume" }],
    lines: [],
    range: (low, high) => [0, (high ?? 1) * 1.3 || 1],
    format: (value) => short(value),
    ticks: 2,
    needs: ["volume", 1, ""],
  },
  rsi: {
    name: "RSI 14",
    lines: [{ column: "rsi", colour: "--rsi", width: 1.25 }],
    range: () => [0, 100],
    splits: [30, 50, 70],
    guides: [30, 70],
    format: (value) => fixed(value, 0),
    tag: "rsi",
    tagPlaces: 1,
    needs: ["rsi", 15, "RSI"],
  },
  macd: {
    name: "MACD 12 26 9",
    bars: [
      { column: "histogram", colour: "--up-soft", values: signOf((value) => value >= 0) },
      { column: "histogram", colour: "--down-soft", values: signOf((value) => value < 0) },
    ],
    lines: [
      { column: "macd", colour: "--macd", width: 1.25 },
      { column: "signal", colour: "--signal", width: 1.25 },
    ],
    range: (low, high) => padded(Math.min(low ?? 0, 0), Math.max(high ?? 0, 0), 0.18),
    guides: [0],
    ticks: 4,
    format: (value) => (value === 0 ? "0" : short(value)),
    needs: ["macd", 26, "MACD"],
  },
};

function padded(low, high, share) {
  if (low == null || high == null) return [0, 1];
  const room = (high - low) * share || Math.abs(high) * 1e-5 || 1;
  return [low - room, high + room];
}

/** The values of one curve of a pane, of `Series.drawn`: null where a line breaks, undefined where it goes on without a value. */
export function valuesOf(curve, { columns, holes }) {
  const values = columns[curve.column];
  if (curve.bridges) return values.map((value, row) => value ?? (holes.has(row) ? null : undefined));
  return curve.values ? curve.values(values) : values;
}

/** The colours of the theme that is on, by name. To be asked for anew when the theme changes. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const known = new Map();
  return (name) => {
    if (!known.has(name)) known.set(name, style.getPropertyValue(name).trim());
    return known.get(name);
  };
}

/** Round values between two limits, about `count` of them: 1, 2 or 5 times a power of ten apart. */
export function roundValues(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  if (!(rough > 0) || !Number.isFinite(rough)) return [];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((times) => times * power >= rough) * power;
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high; at++) found.push(at * step);
  return found;
}

/** How values beside a pane are written: not where the tag of the newest value lies. `height` of the plot in px. */
export function valueLabels(pane, values, low, high, height, model) {
  if (!model.series.rows) return values.map(() => "");
  const scale = scaleOf(low, high);
  const tagged = tagValue(pane, model);
  const reach = ((high - low) / height) * 15;
  return values.map((value) => (tagged !== null && Math.abs(value - tagged) < reach ? "" : pane.format(value, scale)));
}

/** With how many decimals prices between two limits are written. */
export function scaleOf(low, high) {
  return { places: Math.min(decimals(high), decimals(high, (high - low) / 40 || 0)) };
}

/**
 * Draw what lies over the curves. `at` gives the pane's plot in canvas px: {left, top, width, height, ratio, x(ms), y(value)}.
 * Returns the marks that were drawn, in css px.
 */
export function decorate(context, pane, at, model, colour) {
  context.save();
  if (pane.guides) guides(context, pane, at, colour);
  if (pane.tag) tag(context, pane, at, model, colour);
  context.beginPath();
  context.rect(at.left, at.top, at.width, at.height);
  context.clip();
  const marks = pane === PANES.price ? drawMarks(context, at, model, colour) : [];
  context.restore();
  return marks;
}

function guides(context, pane, at, colour) {
  context.strokeStyle = colour("--guide");
  context.lineWidth = at.ratio;
  context.setLineDash([2 * at.ratio, 3 * at.ratio]);
  for (const value of pane.guides) {
    const y = Math.round(at.y(value)) + 0.5;
    context.beginPath();
    context.moveTo(at.left, y);
    context.lineTo(at.left + at.width, y);
    context.stroke();
  }
  context.setLineDash([]);
}

/** Signals: a triangle below the price for buy, above for sell, a ring for flat; filled for the first strategy, hollow for others. */
function drawMarks(context, at, model, colour) {
  const { series, view, signals, strategies } = model;
  const found = [];
  const { ratio } = at;
  const size = MARK * ratio;
  for (const signal of signals) {
    if (signal.at_ms < view.min || signal.at_ms > view.max || model.hidden.has(signal.strategy)) continue;
    const price = series.columns.price[series.nearest(signal.at_ms)];
    if (price == null) continue;
    const x = at.x(signal.at_ms);
    if (x < at.left + size) continue;
    const side = Math.sign(signal.value);
    const y = Math.min(Math.max(at.y(price) + side * size * 2.4, at.top + size), at.top + at.height - size);
    const paint = colour(side > 0 ? "--up" : side < 0 ? "--down" : "--muted");
    context.beginPath();
    if (side === 0) {
      context.arc(x, y, size * 0.6, 0, 2 * Math.PI);
    } else {
      context.moveTo(x, y - side * size);
      context.lineTo(x + size, y + side * size * 0.8);
      context.lineTo(x - size, y + side * size * 0.8);
      context.closePath();
    }
    context.lineWidth = 1.5 * ratio;
    context.fillStyle = strategies.indexOf(signal.strategy) > 0 || side === 0 ? colour("--panel") : paint;
    context.strokeStyle = paint;
    context.fill();
    context.stroke();
    found.push({ x: x / ratio, y: y / ratio, signal });
  }
  return found;
}

function tagValue(pane, model) {
  if (!pane.tag) return null;
  return (pane.tag === "price" ? model.price : null) ?? model.series.newest(pane.tag);
}

/** The newest value, written over the axis. */
function tag(context, pane, at, model, colour) {
  const line = pane.lines.find((found) => found.column === pane.tag);
  const value = tagValue(pane, model);
  if (value === null) return;
  const { ratio } = at;
  const height = 17 * ratio;
  const level = at.y(value);
  const y = Math.min(Math.max(level, at.top + height / 2), at.top + at.height - height / 2);
  const text = fixed(value, pane.tagPlaces ?? model.places);
  if (level >= at.top && level <= at.top + at.height) {
    context.strokeStyle = colour(line.colour);
    context.globalAlpha = 0.45;
    context.lineWidth = ratio;
    context.setLineDash([ratio, 3 * ratio]);
    context.beginPath();
    context.moveTo(at.left, Math.round(level) + 0.5);
    context.lineTo(at.left + at.width, Math.round(level) + 0.5);
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 1;
  }
  context.fillStyle = colour(line.colour);
  context.beginPath();
  context.roundRect(at.left + at.width + 2 * ratio, y - height / 2, (AXIS - 4) * ratio, height, 3 * ratio);
  context.fill();
  context.fillStyle = colour("--on-tag");
  context.font = `600 ${11 * ratio}px ${colour("--font")}`;
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillText(text, at.left + at.width + 8 * ratio, y + 0.5 * ratio, (AXIS - 12) * ratio);
}
