// Numbers and times as text, and text into elements: only what has changed is written.

export const NONE = "–";

const grouped = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export function count(value) {
  return value == null ? NONE : grouped.format(value);
}

/** Decimals with which prices of this size and spread are told apart. */
export function decimals(price, step = 0) {
  if (!price) return 2;
  const bySize = Math.max(0, 5 - Math.floor(Math.log10(Math.abs(price))) - 1);
  const byStep = step > 0 ? Math.ceil(-Math.log10(step)) + 1 : 0;
  return Math.min(10, Math.max(2, Math.min(bySize, 8), Math.min(byStep, 8)));
}

const formats = new Map();

export function fixed(value, places) {
  if (value == null || Number.isNaN(value)) return NONE;
  let format = formats.get(places);
  if (!format) {
    format = new Intl.NumberFormat("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
    formats.set(places, format);
  }
  return minus(format.format(value));
}

/** A number of things: "1 signal", "2 signals". */
export function plural(value, one) {
  return `${count(value)} ${value === 1 ? one : `${one}s`}`;
}

/** A minus is as wide as a plus; a hyphen is not. */
function minus(text) {
  return text.replaceAll("-", "−");
}

/** Three significant digits, with k, M, G. */
export function short(value) {
  if (value == null || Number.isNaN(value)) return NONE;
  const size = Math.abs(value);
  for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= limit) return minus(`${Number((value / (limit === 1e4 ? 1e3 : limit)).toPrecision(3))}${unit}`);
  }
  if (size >= 1000) return minus(grouped.format(value));
  if (size !== 0 && size < 1e-4) return minus(value.toExponential(1));
  return minus(String(Number(value.toPrecision(3))));
}

export function signed(value, places) {
  return value == null ? NONE : `${value < 0 ? "−" : "+"}${fixed(Math.abs(value), places)}`;
}

/** A duration in us. */
export function micros(value) {
  if (value == null) return NONE;
  if (value < 1000) return `${Number(value.toPrecision(value < 100 ? 2 : 3))} µs`;
  if (value < 1e6) return `${Number((value / 1000).toPrecision(3))} ms`;
  return `${Number((value / 1e6).toPrecision(3))} s`;
}

/** How long ago, in ms. */
export function ago(ms) {
  if (ms == null) return NONE;
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export function bytes(value) {
  if (value == null) return NONE;
  for (const [limit, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (value >= limit) return `${(value / limit).toFixed(1)} ${unit}`;
  }
  return `${value} B`;
}

/** Time of day, UTC. */
export function time(ms, withMillis = false) {
  if (!ms) return NONE;
  return new Date(ms).toISOString().slice(11, withMillis ? 23 : 19);
}

export function date(ms) {
  return new Date(ms).toISOString().slice(0, 10);
}

/** Time of day, behind the date if that is not the day of `now`. */
export function when(ms, now, withMillis = false) {
  return !ms || date(ms) === date(now) ? time(ms, withMillis) : `${date(ms)} ${time(ms, withMillis)}`;
}

/** Write text into an element unless it is there already. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** An element with classes and text; the text is never markup. */
export function make(tag, className = "", text = null) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== null) element.textContent = text;
  return element;
}
