// The symbol picker: a combobox that lists all symbols, filters as one types, and works by keyboard alone. "/" goes to it.

import { make, put } from "./text.js";

const LISTED = 60; // options that are in the document at once; typing finds the others

export class Picker {
  constructor(input, list, exchange, onPick) {
    Object.assign(this, { input, list, exchange, onPick });
    this.keys = [];
    this.current = null;
    this.shown = [];
    this.active = -1;
    this.troubled = new Set();
    input.addEventListener("focus", () => this.open());
    input.addEventListener("click", () => this.open());
    input.addEventListener("input", () => this.render(input.value));
    input.addEventListener("keydown", (event) => this.press(event));
    input.addEventListener("blur", () => this.close());
    // Before the blur that the press would cause.
    list.addEventListener("pointerdown", (event) => event.preventDefault());
    list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.pick(this.shown[Number(option.dataset.index)]);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && !(event.target instanceof HTMLInputElement && event.target.type === "text")) {
        event.preventDefault();
        input.focus();
      }
    });
  }

  setKeys(keys) {
    this.keys = keys.map(([exchange, symbol]) => ({ exchange, symbol, text: `${symbol} ${exchange}`.toLowerCase() }));
    if (this.isOpen) this.render(this.input.value);
  }

  /** Mark symbols that are in trouble: "exchange symbol". */
  setTroubled(names) {
    this.troubled = names;
  }

  setCurrent(key) {
    this.current = key;
    put(this.exchange, key?.exchange ?? "");
    if (!this.isOpen) this.input.value = key?.symbol ?? "";
  }

  get isOpen() {
    return !this.list.hidden;
  }

  open() {
    if (this.isOpen) return;
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.input.select();
    this.render("");
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
    this.input.value = this.current?.symbol ?? "";
  }

  render(text) {
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.keys.filter((key) => words.every((word) => key.text.includes(word) || plain(key.text).includes(plain(word))));
    this.shown = found.slice(0, LISTED);
    const isCurrent = (key) => key.symbol === this.current?.symbol && key.exchange === this.current?.exchange;
    this.active = this.shown.length ? Math.max(0, this.shown.findIndex(isCurrent)) : -1;
    const options = this.shown.map((key, index) => {
      const option = make("li", this.troubled.has(`${key.exchange} ${key.symbol}`) ? "troubled" : "");
      option.id = `symbol-${index}`;
      option.dataset.index = String(index);
      option.setAttribute("role", "option");
      option.append(make("b", "", key.symbol), make("span", "", key.exchange));
      return option;
    });
    if (!found.length) options.push(make("li", "none", this.keys.length ? "no such symbol" : "no symbols yet"));
    if (found.length > LISTED) options.push(make("li", "none", `${found.length - LISTED} more: type to find them`));
    this.list.replaceChildren(...options);
    this.activate(this.active);
  }

  activate(index) {
    this.active = index;
    this.list.querySelectorAll("[role=option]").forEach((option, at) => {
      option.setAttribute("aria-selected", String(at === index));
      if (at === index) option.scrollIntoView({ block: "nearest" });
    });
    if (index >= 0) this.input.setAttribute("aria-activedescendant", `symbol-${index}`);
    else this.input.removeAttribute("aria-activedescendant");
  }

  press(event) {
    const last = this.shown.length - 1;
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 };
    if (event.key in moves) {
      event.preventDefault();
      if (!this.isOpen) this.open();
      else if (last >= 0) this.activate(Math.min(Math.max(this.active + moves[event.key], 0), last));
    } else if (event.key === "Enter" && this.isOpen) {
      event.preventDefault();
      if (this.active >= 0) this.pick(this.shown[this.active]);
    } else if (event.key === "Escape" && this.isOpen) {
      event.preventDefault();
      this.close();
    }
  }

  pick(key) {
    this.current = { exchange: key.exchange, symbol: key.symbol };
    this.close();
    put(this.exchange, key.exchange);
    this.input.blur();
    this.onPick(this.current);
  }
}

/** BTC/USDT is found by btcusdt too. */
function plain(text) {
  return text.replace(/[/:\-_]/g, "");
}
