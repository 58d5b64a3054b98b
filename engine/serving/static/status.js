// The panels at the side: strategies, signals, feeds, events, engine. Each is made anew when what it tells has changed; ages tick on.

import { word } from "./charts.js";
import { ago, bytes, count, date, make, plural, put, short, time } from "./text.js";

const GOOD = new Set(["live"]);
const WORKING = new Set(["connecting", "subscribing", "waiting"]);
const LISTED = 30;

/** An element whose text is the age of something, kept up by `age`. */
function since(ms, before = "", after = " ago") {
  const element = make("time", "since");
  Object.assign(element.dataset, { ms: String(ms), before, after });
  element.dateTime = new Date(ms).toISOString();
  return element;
}

function body(id) {
  return document.querySelector(`#${id} .body`);
}

function empty(text) {
  return make("p", "empty", text);
}

function dot(kind, text) {
  const element = make("span", `state state-${kind}`);
  element.append(make("i"), make("b", "", text));
  return element;
}

export class Status {
  constructor({ onToggle, onKey }) {
    this.onToggle = onToggle;
    this.onKey = onKey;
    this.news = [];
    this.signals = [];
    this.parts = {};
    this.now = Date.now();
  }

  /** Take what a message tells. */
  hear(header) {
    this.now = header.clock_ms;
    if (header.full) {
      this.news = [];
      this.signals = [];
    }
    for (const name of ["engine", "feeds", "exchanges", "troubles", "strategies", "journal", "holds"]) {
      if (header[name] !== undefined) this.parts[name] = header[name];
    }
    this.news = [...this.news, ...header.news].slice(-40);
    this.signals = [...this.signals, ...header.signals].slice(-100);
    if (header.strategies) this.strategies(header.strategies);
    if (header.feeds || header.exchanges || header.troubles) this.feeds(this.parts);
    if (header.full || header.signals.length) this.listSignals();
    if (header.full || header.news.length) this.listNews();
    if (header.engine || header.journal || header.holds) this.engine();
  }

  /** Bring all ages up to the engine's time. */
  age(now) {
    const isNextDay = date(now) !== date(this.now);
    this.now = now;
    if (isNextDay) {
      this.listSignals();
      this.listNews();
      this.engine();
    }
    for (const element of document.querySelectorAll("time.since")) {
      const { ms, before, after } = element.dataset;
      put(element, `${before}${ago(now - Number(ms))}${after}`);
    }
  }

  strategies(strategies) {
    if (!strategies.length) {
      body("strategies").replaceChildren(empty("No strategy takes part. Name one under [strategies] run."));
      return;
    }
    const hidden = this.hidden ?? new Set();
    body("strategies").replaceChildren(
      ...strategies.map((strategy, index) => {
        const card = make("article", strategy.listening ? "card" : "card card-bad");
        const head = make("div", "line");
        const toggle = make("button", `mark mark-${index > 0 ? "hollow" : "filled"}`);
        toggle.type = "button";
        toggle.title = "Show or hide its signals on the chart";
        toggle.setAttribute("aria-label", `Signals of ${strategy.name} on the chart`);
        toggle.setAttribute("aria-pressed", String(!hidden.has(strategy.name)));
        toggle.addEventListener("click", () => {
          toggle.setAttribute("aria-pressed", String(this.onToggle(strategy.name)));
        });
        head.append(toggle, make("h3", "", strategy.name), dot(strategy.listening ? "good" : "bad", strategy.listening ? "listening" : "parked"));
        card.append(head);
        card.append(this.lastSignal(strategy));
        if (strategy.error) {
          const line = make("p", "error", strategy.error.text);
          line.append(" ", since(strategy.error.at_ms));
          card.append(line);
        }
        const facts = `${plural(strategy.signals, "signal")} · ${plural(strategy.failed, "failure")}`;
        card.append(make("p", "faint", strategy.failures && strategy.listening ? `${facts}, ${strategy.failures} in a row` : facts));
        return card;
      }),
    );
  }

  lastSignal({ last }) {
    if (!last) return make("p", "faint", "no signal yet");
    const line = make("p", "last");
    line.append(sideOf(last.value), " ", make("b", "", last.symbol), ` ${last.reason} `, since(last.at_ms));
    return line;
  }

  listSignals() {
    const newest = this.signals.slice(-LISTED).reverse();
    if (!newest.length) {
      body("signals").replaceChildren(empty("None for this symbol yet."));
      return;
    }
    body("signals").replaceChildren(
      ...this.byDay(newest, (signal) => {
        const row = make("div", "row");
        const what = make("span", "grow", signal.reason || "no reason given");
        what.title = `${signal.strategy}: ${signal.reason}`;
        row.append(make("time", "at", time(signal.at_ms)), sideOf(signal.value), what);
        return row;
      }),
    );
  }

  feeds({ feeds = [], exchanges = [], troubles = [] }) {
    const common = exchanges.flatMap(ofExchange);
    if (!feeds.length) {
      body("feeds").replaceChildren(empty("No feeds: nothing is listened to."), ...common);
      return;
    }
    const unlisted = new Set(exchanges.flatMap((one) => one.unlisted.map((symbol) => `${one.exchange} ${symbol}`)));
    const cards = feeds.map((feed) => {
      const kind = GOOD.has(feed.state) ? "good" : WORKING.has(feed.state) ? "warn" : "bad";
      const card = make("article", kind === "bad" ? "card card-bad" : "card");
      const head = make("div", "line");
      head.append(make("h3", "", feed.name), dot(kind, feed.state));
      const facts = make("p", "facts");
      facts.append(plural(feed.messages, "message"));
      if (feed.newest_ms) facts.append(", newest ", since(feed.newest_ms));
      card.append(head, facts);
      const more = [plural(feed.symbols, "symbol"), plural(feed.reconnects, "reconnect")];
      if (feed.undecodable) more.push(`${feed.undecodable} undecodable`);
      card.append(make("p", "faint", more.join(" · ")));
      if (feed.detail) card.append(make("p", kind === "good" ? "faint" : "error", feed.detail));
      return card;
    });
    const stalled = troubles
      .filter(({ exchange, symbol }) => symbol && !unlisted.has(`${exchange} ${symbol}`))
      .slice(-LISTED)
      .reverse()
      .map((trouble) => {
        const row = make("div", "row row-bad");
        const open = make("button", "link", trouble.symbol);
        open.type = "button";
        open.addEventListener("click", () => this.onKey({ exchange: trouble.exchange, symbol: trouble.symbol }));
        row.append(open, make("b", "", trouble.status), make("span", "grow", trouble.detail), since(trouble.at_ms, "", ""));
        return row;
      });
    body("feeds").replaceChildren(...cards, ...common, ...stalled);
  }

  listNews() {
    const newest = this.news.slice(-LISTED).reverse();
    if (!newest.length) {
      body("news").replaceChildren(empty("No gaps, refusals or failures."));
      return;
    }
    body("news").replaceChildren(
      ...this.byDay(newest, (piece) => {
        const row = make("div", "row");
        const text = make("span", "grow", [piece.symbol, piece.text].filter(Boolean).join(" "));
        text.title = text.textContent;
        row.append(make("time", "at", time(piece.at_ms)), make("b", `kind kind-${piece.kind}`, piece.kind), text);
        return row;
      }),
    );
  }

  engine() {
    const { journal, engine, holds = [] } = this.parts;
    const lines = [];
    const line = (name, ...content) => {
      const row = make("div", "fact");
      const value = make("span");
      value.append(...content);
      row.append(make("span", "", name), value);
      lines.push(row);
    };
    if (journal) {
      const kind = { journaling: "good", off: "warn" }[journal.state] ?? "bad";
      line("Journal", dot(kind, journal.state));
      if (journal.state !== "off") {
        line("Written", `${bytes(journal.bytes)} in ${plural(journal.segments, "segment")}`);
        line("On disk", `to sequence ${count(journal.synced)}`);
      }
      const { snapshot } = journal;
      line("Snapshot", ...(snapshot.taken_ms ? [since(snapshot.taken_ms), `, ${bytes(snapshot.bytes)}`] : ["none yet"]));
      if (snapshot.detail) lines.push(make("p", "error", snapshot.detail));
    }
    if (engine) {
      line("Up", since(engine.started_ms, "", ""), ` since ${date(engine.started_ms)} ${time(engine.started_ms)}`);
      line("Version", engine.version);
    }
    line("Loop holds", holds.length ? `${count(holds.length)} lately` : "none");
    const held = this.byDay([...holds].reverse(), (hold) => {
      const row = make("div", "row");
      const what = make("span", "grow", hold.what);
      what.title = hold.what;
      row.append(make("time", "at", time(hold.at_ms)), make("b", "", `${short(hold.ms)} ms`), what);
      return row;
    });
    body("engine").replaceChildren(...lines, ...held);
  }

  /** Rows of what happened, newest first: those of another day than today under their date. */
  byDay(happened, rowOf) {
    let day = date(this.now);
    return happened.flatMap((piece) => {
      const row = rowOf(piece);
      if (date(piece.at_ms) === day) return [row];
      day = date(piece.at_ms);
      return [make("h3", "day", day), row];
    });
  }
}

/** What the connections to one exchange have in common: trades that were missed, and symbols that it does not have. */
function ofExchange({ exchange, filled, lost, open, unlisted, unlisted_more, backfill_trouble }) {
  const line = (kind, text) => {
    const row = make("p", `exchange-line ${kind}`);
    row.append(make("b", "", exchange), ` ${text}`);
    return row;
  };
  const lines = [];
  if (filled || lost || open) {
    const told = [`filled ${count(filled)}`, `lost ${count(lost)}`, `${plural(open, "gap")} open`];
    lines.push(line(lost ? "error" : "faint", told.join(" · ")));
  }
  if (backfill_trouble) lines.push(line("warn", `back-fill: ${backfill_trouble}`));
  if (unlisted.length) {
    const more = unlisted_more ? ` and ${count(unlisted_more)} more` : "";
    lines.push(line("warn", `not listed: ${unlisted.join(", ")}${more}`));
  }
  return lines;
}

function sideOf(value) {
  return make("b", `side ${value > 0 ? "up" : value < 0 ? "down" : "flat"}`, word(value));
}
