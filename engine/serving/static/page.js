// The page: puts together what comes over the wire, the charts and the panels. At most one drawing for each frame of the screen.

import { Charts } from "./charts.js";
import { Models } from "./models.js";
import { Picker } from "./picker.js";
import { Series } from "./series.js";
import { Status } from "./status.js";
import { NONE, ago, count, fixed, micros, put, signed, time, when } from "./text.js";
import { Wire } from "./wire.js";

const STALE_MS = 10000; // without any message on a feed, or with a symbol that is said to be stalled
const FEW_BARS = 30; // below that every trade is shown, unless bars are asked for
const DELAYS = 50;
const MODELS = ";models"; // behind the symbol in the address; a symbol's own semicolon is escaped there
const CLOCKS = 100; // messages over which the engine's clock is compared with this machine's

const $ = (id) => document.getElementById(id);
const put$ = (id, text) => put($(id), text);

function stored(name) {
  try {
    return localStorage.getItem(`tickfold.${name}`);
  } catch {
    return null; // storage is forbidden: nothing is remembered
  }
}

function store(name, value) {
  try {
    localStorage.setItem(`tickfold.${name}`, value);
  } catch {
    // as above
  }
}

class Page {
  constructor() {
    this.series = { bars: new Series(), ticks: new Series() };
    this.chosen = stored("interval");
    this.key = keyOf(location.hash);
    this.view = viewOf(location.hash);
    this.isUp = false;
    this.lost = { since: null, retryAt: null };
    this.header = null; // newest
    this.keys = [];
    this.newest = null;
    this.offsets = []; // arrival here less the engine's clock, ms
    this.delays = [];
    this.undrawn = null; // received_ms of a trade that came and is not drawn yet
    this.wanted = false;
    this.model = {
      series: this.series.ticks,
      signals: [],
      strategies: [],
      hidden: new Set(),
      price: null,
      places: 2,
      interval: "ticks",
      now: Date.now(),
    };
    this.status = new Status({
      onToggle: (name) => this.toggle(name),
      onKey: (key) => this.show(key),
    });
    this.status.hidden = this.model.hidden;
    this.charts = new Charts($("charts"), $("tip"), this.model, { onZoom: (isZoomed) => ($("unzoom").hidden = !isZoomed) });
    this.models = new Models($("models"));
    this.picker = new Picker($("symbol"), $("symbols"), $("exchange"), (key) => this.show(key));
    this.wire = new Wire({
      onFrame: (frame, arrived) => this.hear(frame, arrived),
      onState: (state, since, retryAt) => this.connection(state, since, retryAt),
    });
    if (!window.uPlot) {
      $("renderer").hidden = false;
      put$("renderer", "Drawn without uPlot, which is not installed: there is no zoom.");
    }
    $("unzoom").addEventListener("click", () => {
      this.charts.zoom(null);
      this.want();
    });
    $("earlier").addEventListener("click", () => {
      this.charts.zoom(this.charts.earlier());
      this.want();
    });
    $("theme").addEventListener("click", () => dispatchEvent(new Event("toggletheme")));
    addEventListener("themechange", () => this.charts.build());
    addEventListener("hashchange", () => {
      const key = keyOf(location.hash);
      this.look(viewOf(location.hash));
      if (key && !same(key, this.key)) this.show(key);
    });
    $("view").addEventListener("change", (event) => this.look(event.target.value));
    $("interval").addEventListener("change", (event) => {
      this.chosen = event.target.value;
      store("interval", this.chosen);
      this.charts.zoom(null);
      this.want();
    });
    setInterval(() => this.tick(), 250);
    this.picker.setCurrent(this.key);
    this.wire.show(this.key);
    this.look(this.view);
    this.tick();
  }

  /** Look at the market or at the models. */
  look(view) {
    this.view = view;
    document.body.dataset.view = view;
    for (const input of document.querySelectorAll("#view input")) input.checked = input.value === view;
    if (this.key) this.remember(this.key);
    this.models.show(this.key, view === "models");
  }

  // -- what comes in

  hear({ header, columns }, arrived) {
    this.offsets.push(arrived - header.clock_ms);
    if (this.offsets.length > CLOCKS) this.offsets.shift();
    const key = header.symbol ? { exchange: header.exchange, symbol: header.symbol } : null;
    if (this.key && key && !same(this.key, key)) return; // of the symbol before: the new one's is on its way
    if (key && !this.key) this.remember(key);
    this.header = header;
    if (header.full) {
      this.clear();
      this.picker.setCurrent(key ?? this.key);
    }
    for (const [name, said] of Object.entries(header.series)) {
      if (said.full) this.series[name].clear();
      this.series[name].append(columns[name]);
    }
    if (header.newest) {
      if (header.newest.received_ms !== this.newest?.received_ms && !header.full) this.undrawn = header.newest.received_ms;
      this.newest = header.newest;
    }
    if (header.keys) {
      this.keys = header.keys;
      this.picker.setKeys(header.keys);
    }
    if (header.troubles) {
      this.picker.setTroubled(new Set(header.troubles.map((trouble) => `${trouble.exchange} ${trouble.symbol}`)));
    }
    if (header.strategies) this.model.strategies = header.strategies.map((strategy) => strategy.name);
    this.status.hear(header);
    this.model.signals = this.status.signals;
    this.tick();
    this.want();
  }

  clear() {
    this.series.bars.clear();
    this.series.ticks.clear();
    this.newest = null;
    this.undrawn = null;
    this.delays = [];
    this.charts.zoom(null);
  }

  connection(state, since, retryAt) {
    this.isUp = state === "up";
    this.lost = { since, retryAt };
    // What is up says how it is in its first message, which follows at once.
    if (this.isUp) this.offsets = [];
    else this.tick();
  }

  /** Look at another symbol. */
  show(key) {
    this.remember(key);
    this.clear();
    this.status.signals = this.model.signals = [];
    this.picker.setCurrent(key);
    this.wire.show(key);
    this.want();
  }

  remember(key) {
    this.key = key;
    const place = `#${encodeURIComponent(key.exchange)}:${encodeURIComponent(key.symbol).replaceAll("%2F", "/")}`;
    const hash = this.view === "models" ? `${place}${MODELS}` : place;
    this.models.show(key, this.view === "models");
    if (location.hash !== hash) history.replaceState(null, "", hash);
  }

  toggle(strategy) {
    const { hidden } = this.model;
    if (!hidden.delete(strategy)) hidden.add(strategy);
    this.want();
    return !hidden.has(strategy);
  }

  // -- what is drawn

  want() {
    if (this.wanted) return;
    this.wanted = true;
    requestAnimationFrame(() => {
      this.wanted = false;
      this.draw();
    });
  }

  /** The engine's clock now, ms UTC: the least delayed message of the last ones tells how far it is from ours. */
  now() {
    if (!this.offsets.length) return Date.now();
    return performance.now() - this.offsets.reduce((least, offset) => Math.min(least, offset), Infinity);
  }

  draw() {
    const { model, header } = this;
    const { bars, ticks } = this.series;
    model.interval = this.chosen ?? (hasEnough(bars, ticks) ? "bars" : "ticks");
    model.now = this.now();
    model.series = this.series[model.interval];
    model.price = this.newest?.price ?? null;
    for (const input of document.querySelectorAll("#interval input")) input.checked = input.value === model.interval;
    this.charts.draw();
    const earlier = this.charts.earlier();
    $("earlier").hidden = earlier === null;
    if (earlier) put$("earlier", `Earlier: ${when(earlier[0], model.now).split(" ")[0]}`);
    if (!header) return;
    put$("price", fixed(model.price, model.places));
    const oldest = model.series.columns.price.find((value, row) => value !== null && row >= model.series.begin);
    const change = model.price && oldest ? (model.price / oldest - 1) * 100 : null;
    put$("change", change === null ? "" : `${signed(change, 2)} %`);
    $("change").className = change < 0 ? "down" : "up";
    const { rates } = header;
    put$("ticks", rates.ticks === null ? NONE : rate(rates.ticks));
    $("ticks").title = `Trades a second; besides ${rates.quotes === null ? NONE : rate(rates.quotes)} quotes a second`;
    put$("latency", `${micros(rates.p50_us)} / ${micros(rates.p99_us)}`);
    put$("sequence", count(header.sequence));
    document.body.dataset.sequence = String(header.sequence);
    if (this.undrawn !== null) {
      this.delays.push(this.now() - this.undrawn);
      if (this.delays.length > DELAYS) this.delays.shift();
      this.undrawn = null;
    }
    this.delay();
  }

  delay() {
    const sorted = [...this.delays].sort((a, b) => a - b);
    const median = sorted[sorted.length >> 1];
    const isKnown = median !== undefined && median >= 0 && median < 3600000;
    put$("delay", isKnown ? micros(Math.max(median, 0.1) * 1000) : NONE);
    if (isKnown) {
      const worst = micros(sorted.at(-1) * 1000);
      $("delay").title = `From the receipt of the newest trade to its drawing: median of the last ${sorted.length}, worst ${worst}`;
    }
  }

  // -- what ticks on by itself

  tick() {
    const { header } = this;
    const isKnown = this.offsets.length > 0;
    const now = this.now();
    if (this.isUp && isKnown) {
      put$("clock", time(now));
      $("clock").title = `${new Date(now).toISOString().slice(0, 10)} UTC`;
      this.status.age(now);
    }
    const { engine, feeds = [], journal } = this.status.parts;
    const trouble = this.trouble(now);
    if (!this.isUp || !header) this.say(header ? "disconnected" : "connecting", this.retrying());
    else if (engine?.starting) this.say("starting", engine.starting);
    else if (trouble) this.say("stale", trouble);
    else this.say("live", "");
    $("recording").hidden = !feeds.some((feed) => feed.recording);
    put$("age", this.isUp && this.newest ? `last trade ${ago(now - this.newest.received_ms)} ago` : "");
    const alarm = journal?.state === "not journaling";
    $("alarm").hidden = !alarm;
    if (alarm) put$("alarm", `Not journaling: inputs are folded but not kept${journal.detail ? `: ${journal.detail}` : "."}`);
    this.veil();
  }

  /** Why what is shown may be old, or nothing. */
  trouble(now) {
    const { feeds = [], troubles = [] } = this.status.parts;
    const own = troubles.find((trouble) => same(trouble, this.key));
    if (own) return `${own.symbol} ${own.status}`;
    const mine = feeds.filter((feed) => !this.key || feed.exchange === this.key.exchange);
    if (!feeds.length) return "no feeds";
    if (!mine.length || mine.some((feed) => feed.state === "live" && now - feed.newest_ms < STALE_MS)) return "";
    const worst = mine.find((feed) => feed.state !== "live") ?? mine[0];
    return worst.state === "live" ? `${worst.name} silent` : `${worst.name} ${worst.state}`;
  }

  retrying() {
    const { since, retryAt } = this.lost;
    if (since === null) return "";
    const wait = Math.max(0, (retryAt - performance.now()) / 1000);
    return `for ${ago(performance.now() - since)}, ${wait > 0.5 ? `next try in ${Math.ceil(wait)} s` : "trying"}`;
  }

  say(state, detail) {
    const pill = $("connection");
    document.body.dataset.connection = state;
    put(pill.querySelector("b"), state);
    put(pill.querySelector("span"), detail);
    const price = this.newest ? `${fixed(this.newest.price, this.model.places)} ` : "";
    document.title = state === "disconnected" ? "disconnected – tickfold" : `${price}${this.key?.symbol ?? ""} – tickfold`;
  }

  veil() {
    const rows = this.model.series.rows;
    let text = "";
    if (!this.isUp && this.header) {
      const at = Date.now() - (performance.now() - this.lost.since);
      text = `Disconnected since ${when(at, Date.now())} UTC`;
    } else if (!this.header) text = "Connecting to the daemon";
    else if (this.status.parts.engine?.starting) text = `Starting: ${this.status.parts.engine.starting}`;
    else if (!this.key) text = this.status.parts.feeds?.length ? "No trades yet" : "No feeds, and no trades yet";
    else if (!rows) text = this.newest ? "No bar is full yet" : `No data yet for ${this.key.symbol}`;
    $("veil").hidden = text === "";
    $("veil").classList.toggle("veil-grey", !this.isUp && this.header !== null);
    put($("veil").firstElementChild, text);
  }
}

/** Whether there are enough bars to be looked at: of the newest stretch, and not of another time than the trades. */
function hasEnough(bars, ticks) {
  if (!bars.rows || !ticks.rows) return bars.rows > 0;
  const isBehind = bars.columns.time_ms.at(-1) < ticks.columns.time_ms[ticks.begin];
  return !isBehind && bars.rows - bars.begin >= FEW_BARS;
}

function rate(value) {
  return value < 10 ? value.toFixed(1) : count(value);
}

function same(one, other) {
  return one?.exchange === other?.exchange && one?.symbol === other?.symbol;
}

/** What an address says is looked at: behind the symbol, ;models. */
function viewOf(hash) {
  return hash.endsWith(MODELS) ? "models" : "market";
}

/** The symbol that an address names: #binance:BTC/USDT. */
function keyOf(address) {
  const hash = address.endsWith(MODELS) ? address.slice(0, -MODELS.length) : address;
  const at = hash.indexOf(":");
  if (at < 2) return null;
  try {
    const symbol = decodeURIComponent(hash.slice(at + 1));
    return symbol ? { exchange: decodeURIComponent(hash.slice(1, at)), symbol } : null;
  } catch {
    return null; // not an address of ours
  }
}

new Page();
