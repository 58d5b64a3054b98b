// Rows as the charts want them: plain arrays of equal length, oldest first, null where a value is not defined.

export const NAMES = ["time_ms", "price", "volume", "upper", "middle", "lower", "rsi", "macd", "signal", "histogram"];
const CAPACITY = 512; // rows that are drawn; the daemon keeps as many by default
const MANY = 30; // times the usual distance of rows: no line over more, if that is more than
const HOLE_MS = 60000;
const STRETCH_MS = 600000; // and behind so much, the charts begin anew

export class Series {
  constructor() {
    this.clear();
  }

  clear() {
    this.rows = 0;
    this.columns = Object.fromEntries(NAMES.map((name) => [name, []]));
    this.measure();
  }

  /** Put the rows of a message behind those that are there. Columns that the daemon does not compute stay null. */
  append(columns) {
    const count = columns?.time_ms?.length ?? 0;
    if (!count) return;
    for (const name of NAMES) {
      const into = this.columns[name];
      const from = columns[name];
      for (let row = 0; row < count; row++) {
        const value = from ? from[row] : NaN;
        into.push(Number.isNaN(value) ? null : value);
      }
      if (into.length > CAPACITY) into.splice(0, into.length - CAPACITY);
    }
    this.rows = this.columns.time_ms.length;
    this.measure();
  }

  /** Find where rows are far apart: `usual` is their distance, `holes` are rows that come after a hole, `stretches` first and last rows between large ones. */
  measure() {
    const times = this.columns.time_ms;
    const steps = times.slice(1).map((time, row) => time - times[row]);
    this.usual = [...steps].sort((a, b) => a - b)[(steps.length - 1) >> 1] ?? 0;
    const after = (limit) => steps.flatMap((step, row) => (step > Math.max(limit, MANY * this.usual) ? [row + 1] : []));
    const begins = [0, ...after(STRETCH_MS)];
    this.holes = after(HOLE_MS);
    this.stretches = begins.map((first, index) => [first, (begins[index + 1] ?? this.rows) - 1]);
    this.laidOut = null;
  }

  /** The first row of the newest stretch. */
  get begin() {
    return this.stretches.at(-1)[0];
  }

  /** What is drawn: {columns, holes, lone}, with a row of null in each hole, and which rows have no neighbour to draw a line to. */
  get drawn() {
    return (this.laidOut ??= this.layOut());
  }

  layOut() {
    const columns = {};
    for (const name of NAMES) {
      const values = this.columns[name];
      const parts = this.holes.map((row, index) => [
        ...values.slice(this.holes[index - 1] ?? 0, row),
        name === "time_ms" ? (values[row - 1] + values[row]) / 2 : null,
      ]);
      columns[name] = this.holes.length ? [...parts.flat(), ...values.slice(this.holes.at(-1))] : values;
    }
    const holes = new Set(this.holes.map((row, index) => row + index));
    const count = this.rows + holes.size;
    const isEdge = (row) => row < 0 || row >= count || holes.has(row);
    const lone = [...Array(count).keys()].filter((row) => !holes.has(row) && isEdge(row - 1) && isEdge(row + 1));
    return { columns, holes, lone };
  }

  /** The newest value of a column that is defined, or null. */
  newest(name) {
    return this.rows ? this.columns[name][this.rows - 1] : null;
  }

  /** The row nearest to a time, by bisection; -1 without rows. */
  nearest(time) {
    const times = this.columns.time_ms;
    if (!times.length) return -1;
    let low = 0;
    let high = times.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (times[middle] <= time) low = middle;
      else high = middle;
    }
    return time - times[low] <= times[high] - time ? low : high;
  }
}
