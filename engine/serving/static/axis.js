// The axis of time: where its lines stand and what is written below them, over any range from milliseconds to centuries, all UTC.

import { date } from "./text.js";

export const AXIS = 66; // px on the right, where the values of all panes are written
export const TIMES = 22; // px below the last pane

const APART = 110; // px between lines, at least: a date with a time beside a time has room
const HALF_A_LETTER = 3.2; // px
const SECOND = 1000;
const DAY = 86400 * SECOND;
const WEEK = 7 * DAY;
const MONDAY = 4 * DAY; // the first Monday after the epoch
const MONTH = 30.44 * DAY;

const CLOCKS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200];
const STEPS = [...CLOCKS.map((seconds) => seconds * SECOND), DAY, 2 * DAY, WEEK, 2 * WEEK];
const MONTHS = [1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1200];

/** How far lines are apart over `width` px: {ms}, or {months} beyond two weeks. */
function stepOf(low, high, width) {
  const rough = (high - low) / Math.max(width / APART, 1);
  const ms = STEPS.find((step) => step >= rough);
  return ms ? { ms } : { months: MONTHS.find((count) => count * MONTH >= rough) ?? MONTHS.at(-1) };
}

/** When a month begins; months are counted from the year 0. */
function firstOf(month) {
  return Date.UTC(Math.floor(month / 12), month % 12);
}

/** Times to be written below a width of `width` px: round ones, weeks from Monday, months from their first. */
export function roundTimes(low, high, width) {
  const { ms, months } = stepOf(low, high, width);
  const found = [];
  if (ms) {
    const from = ms >= WEEK ? MONDAY : 0;
    for (let at = Math.ceil((low - from) / ms); from + at * ms <= high; at++) found.push(from + at * ms);
    return found;
  }
  const first = new Date(low);
  const month = first.getUTCFullYear() * 12 + first.getUTCMonth();
  for (let at = Math.ceil(month / months) * months; firstOf(at) <= high; at += months) {
    if (firstOf(at) >= low) found.push(firstOf(at));
  }
  return found;
}

/**
 * How they are written; one that would run over an edge is not. `at` gives the place of a time, px of `width`. Times of another day
 * than `now` show their date, once for each day.
 */
export function timeLabels(times, at, width, { view, now }) {
  const { ms: step, months } = stepOf(view.min, view.max, width);
  const end = step >= 60 * SECOND ? 16 : step >= SECOND ? 19 : step >= 100 ? 21 : step >= 10 ? 22 : 23;
  let said = date(now);
  return times.map((ms) => {
    const fits = (text) => at(ms) >= text.length * HALF_A_LETTER && at(ms) <= width + AXIS - text.length * HALF_A_LETTER;
    const day = date(ms);
    const clock = new Date(ms).toISOString().slice(11, end);
    let text = clock;
    if (months) text = day.slice(0, months % 12 ? 7 : 4);
    else if (step >= DAY) text = day;
    else if (day !== said) {
      const dated = ms % DAY === 0 ? day : `${day} ${clock}`;
      if (fits(dated)) [text, said] = [dated, day];
    }
    return fits(text) ? text : "";
  });
}
