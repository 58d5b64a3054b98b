// The wire: messages of columns over a websocket that comes back by itself. engine/serving/frames.py says what is in them.

const MAGIC = 0x31666b74; // "tkf1", little-endian
const FIRST_MS = 250;
const MOST_MS = 4000;
const SILENCE_MS = 1500; // without any message the daemon is as good as gone; it speaks at least every 400 ms
const ARRAYS = { f8: Float64Array, f4: Float32Array };

/** Turn one message into {header, columns}: columns[series][name] is a typed array over the message. */
export function decode(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < 8 || view.getUint32(0, true) !== MAGIC) {
    throw new Error("a message that is not of columns");
  }
  const length = view.getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const columns = {};
  for (const [series, name, kind, rows, offset] of header.columns) {
    (columns[series] ??= {})[name] = new ARRAYS[kind](buffer, offset, rows);
  }
  return { header, columns };
}

/** One connection to /stream. `onFrame(frame, arrived)` and `onState(state, since, retryAt)` are called; times are performance.now(). */
export class Wire {
  constructor({ onFrame, onState }) {
    this.onFrame = onFrame;
    this.onState = onState;
    this.key = null;
    this.wait = FIRST_MS;
    this.silence = SILENCE_MS;
    this.heard = performance.now();
    this.isUp = false;
    this.lostAt = null;
    this.socket = null;
    this.timer = null;
    setInterval(() => this.watch(), 250);
    addEventListener("online", () => this.soon());
    document.addEventListener("visibilitychange", () => this.soon());
  }

  /** Look at a symbol, or null for the busiest; the connection stays. */
  show(key) {
    this.key = key;
    if (this.socket?.readyState === WebSocket.OPEN && key) {
      this.socket.send(JSON.stringify({ exchange: key.exchange, symbol: key.symbol }));
    } else if (!this.socket) {
      this.dial();
    }
  }

  dial() {
    clearTimeout(this.timer);
    this.timer = null;
    const address = new URL("/stream", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.searchParams.set("format", "columns");
    if (this.key) {
      address.searchParams.set("exchange", this.key.exchange);
      address.searchParams.set("symbol", this.key.symbol);
    }
    const socket = new WebSocket(address);
    const asked = this.key;
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.heard = performance.now();
    socket.onopen = () => {
      this.heard = performance.now();
      if (this.key && this.key !== asked) this.show(this.key);
    };
    socket.onmessage = (message) => this.hear(socket, message);
    socket.onclose = () => this.lose(socket);
  }

  hear(socket, message) {
    if (socket !== this.socket) return;
    const arrived = (this.heard = performance.now());
    if (typeof message.data === "string") return; // answers in words are for readers of JSON
    const frame = decode(message.data);
    if (frame.header.engine?.hz) this.silence = Math.max(SILENCE_MS, 3000 / frame.header.engine.hz);
    this.wait = FIRST_MS;
    this.lostAt = null;
    if (!this.isUp) {
      this.isUp = true;
      this.onState("up", arrived, null);
    }
    this.onFrame(frame, arrived);
  }

  /** The socket is closed, or as good as. Dial again after a wait that doubles, with a random part. */
  lose(socket) {
    if (socket !== this.socket) return;
    this.socket = null;
    this.isUp = false;
    this.lostAt ??= this.heard;
    const wait = this.wait * (0.75 + 0.5 * Math.random());
    this.wait = Math.min(this.wait * 2, MOST_MS);
    this.timer = setTimeout(() => this.dial(), wait);
    this.onState("down", this.lostAt, performance.now() + wait);
  }

  /** A daemon that hangs closes nothing: silence counts as gone. */
  watch() {
    if (this.socket && performance.now() - this.heard > this.silence && !document.hidden) {
      const socket = this.socket;
      socket.onclose = null;
      socket.close();
      this.lose(socket);
    }
  }

  /** Dial at once, if a dial is being waited for and somebody looks. */
  soon() {
    if (document.hidden) {
      return;
    }
    this.heard = Math.max(this.heard, performance.now() - this.silence / 2);
    if (this.timer !== null && !this.socket) this.dial();
  }
}
