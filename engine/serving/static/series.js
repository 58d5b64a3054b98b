// Rows as the charts want them: plain arrays of equal length, oldest first, null where a value is not defined.

export const NAMES = ["time_ms", "price", "volume", "upper", "middle", "lower", "rsi", "macd", "signal", "histogram"];
const CAPACITY = 512; // rows that are drawn; the daemon keeps as many by default

export class Series {
  constructor() {
    this.clear();
  }

  clear() {
    this.rows = 0;
    this.columns = Object.fromEntries(NAMES.map((name) => [name, []]));
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
