"""An exchange in a process of its own: trades over a raw websocket, at an exact pace or as fast as they are taken.

Frames are built beforehand (`wording.py`), so that sending one is a system call and nothing else. Ids of each symbol are contiguous,
prices are a walk that comes back to where it began (`price_of` tells any of them), and all frames have one length.

    pace    frame i at start + i / rate, each by itself; its times T and E are the wall clock's of that moment
    flood   frames in lumps of `LUMP`; T and E begin so far back that they reach the wall clock at the end

It does what one JSON line a command on stdin says, and answers with one line. Stamps (CLOCK_MONOTONIC, ns) of paced frames go into a
file: rows x (sent, due).
"""

from __future__ import annotations

import argparse
import base64
import gc
import hashlib
import json
import mmap
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import wording

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
FIRST_ID = 1_000_000_000
LUMP = 512
CHUNK = 8_192
WEIGHTS = (0.5, 0.25, 0.15, 0.1)
ROUND = 4_000  # frames after which the order of the symbols repeats, or so
PERIOD = 1 << 16  # trades of a symbol after which its prices repeat
NS_PER_S, NS_PER_MS = 1_000_000_000, 1_000_000
CHANNELS = ("heartbeats", "market_trades", "ticker")
"""What a feed of ours asks Coinbase for."""
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
LEAD_S, LEAD_S_A_FRAME = 0.3, 3e-6
NAP_NS, WAKING_NS = 300_000, 150_000
"""A sender that naps instead of spinning does so for a wait longer than the first, and wakes earlier by the second."""

_random = np.random.default_rng(20241123)
_steps = np.cumsum(_random.normal(0.0, 400.0, PERIOD))
PRICES = np.round(6_000_000 + _steps - np.linspace(0.0, _steps[-1], PERIOD)).astype(np.int64)
"""Of the n-th trade of a symbol, n mod PERIOD: cents."""
VOLUMES = np.clip(_random.lognormal(7.0, 1.2, PERIOD), 1, 99_999).astype(np.int64)
"""1e-5 of the base currency."""
SOLD = _random.random(PERIOD) < 0.5

Integers = npt.NDArray[np.int64]


def price_of(turn: int) -> float:
    """The price of a symbol's n-th trade, from 0."""
    return round(int(PRICES[turn % PERIOD]) / 100, 2)


class Turns:
    """Whose trade each frame holds: the four usual symbols by `WEIGHTS`, any other number of them alike, in a mixed order that repeats.

    Symbols that took turns would fill their chunks, rings and bars at the same moments, which those of an exchange do not.
    """

    def __init__(self, symbols: int) -> None:
        weights = WEIGHTS if symbols == len(WEIGHTS) else (1.0 / symbols,) * symbols
        pattern = np.repeat(np.arange(symbols), [max(1, round(weight * ROUND)) for weight in weights])
        self._symbol = np.random.default_rng(symbols).permutation(pattern)
        self._places = [np.flatnonzero(self._symbol == code) for code in range(symbols)]
        self._counts = np.bincount(self._symbol)
        self._ranks = np.empty_like(self._symbol)
        for places in self._places:
            self._ranks[places] = np.arange(len(places))

    def of(self, index: Integers) -> tuple[Integers, Integers]:
        """Return the symbols of frames, by their place in the list, and which trades of those they hold, from 0."""
        rounds, at = np.divmod(index, len(self._symbol))
        code = self._symbol[at]
        return code, rounds * self._counts[code] + self._ranks[at]

    def places(self, code: int) -> tuple[int, list[int]]:
        """Return after how many frames the order repeats, and where in it a symbol's trades are."""
        return len(self._symbol), self._places[code].tolist()

    def last(self, code: int, index: int) -> int:
        """Return which trade of a symbol is its newest once frame `index` was sent."""
        rounds, at = divmod(index + 1, len(self._symbol))
        return int(rounds * self._counts[code] + np.searchsorted(self._places[code], at)) - 1


def frames(
    first: int,
    times_ms: Integers,
    symbols: Sequence[str],
    turns: Turns,
    *,
    combined: bool,
    kind: str = "trade",
) -> npt.NDArray[np.uint8]:
    """Build websocket frames, one a row: the frame `first` and those after it, with times in ms UTC."""
    number = np.arange(first, first + len(times_ms))
    code, turn = turns.of(number)
    at = turn % PERIOD
    trades = wording.Trades(code, number, FIRST_ID + turn, times_ms, PRICES[at], VOLUMES[at], SOLD[at])
    return wording.frames(kind, symbols, trades, combined=combined)


def flood_times(begin_ns: int, count: int, market_s: float, first: int = 0, some: int | None = None) -> Integers:
    """The times of a flood's frames, ms UTC: all of them, or `some` from `first` on."""
    index = np.arange(first, first + (count if some is None else some))
    return (begin_ns + (index * (market_s * NS_PER_S / count)).astype(np.int64)) // NS_PER_MS


class Peer:
    """A client that has subscribed: by requests, or as Binance allows it too by the address that it has dialled."""

    def __init__(self, listening: socket.socket, kind: str) -> None:
        self.socket, _ = listening.accept()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""
        while b"\r\n\r\n" not in self._data:
            self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        self.is_combined = path.startswith("/stream")
        key = next(
            line.split(b":", 1)[1].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        )
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        self.socket.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept
            + b"\r\n\r\n"
        )
        _, is_in_address, streams = path.partition("streams=")
        self.streams: list[str]
        if is_in_address:
            self.streams = streams.split("/")
        elif kind == "market_trades":
            self.streams = self._coinbase()
        else:
            request = json.loads(self._message())
            self.streams = request["params"]
            self._say({"result": None, "id": request["id"]})

    def _coinbase(self) -> list[str]:
        """Grant what is asked for, channel by channel, until all are there that a feed of ours asks for."""
        channels: dict[str, list[str]] = {}
        while len(channels) < len(CHANNELS):
            request = json.loads(self._message())
            channels[request["channel"]] = request.get("product_ids", [request["channel"]])
            self._say({"channel": "subscriptions", "sequence_num": 0, "events": [{"subscriptions": channels}]})
        return channels["market_trades"]

    def _say(self, answer: Any) -> None:
        self.socket.sendall(wording.framed(json.dumps(answer).encode()))

    def _more(self) -> None:
        found = self.socket.recv(65_536)
        if not found:
            raise ConnectionError("the client has left before it subscribed")
        self._data += found

    def _message(self) -> bytes:
        """Read one masked frame of text."""
        while len(self._data) < 14:
            self._more()
        length, at = self._data[1] & 127, 2
        if length == 126:
            length, at = int.from_bytes(self._data[2:4], "big"), 4
        end = at + 4 + length
        while len(self._data) < end:
            self._more()
        mask, body = self._data[at : at + 4], self._data[at + 4 : end]
        self._data = self._data[end:]
        return bytes(byte ^ mask[place % 4] for place, byte in enumerate(body))


class Sender:
    """Sends to the newest client. `kind` is one of `wording.KINDS`."""

    def __init__(self, symbols: Sequence[str], stamps: Path | None, rows: int, kind: str = "trade") -> None:
        self._symbols = symbols
        self._kind = kind
        self._turns = Turns(len(symbols))
        self._next = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._peer: Peer | None = None
        self._rows = rows
        self._stamps = memoryview(bytearray(0)).cast("q")
        if stamps is not None:
            with stamps.open("w+b") as file:
                file.truncate(rows * 16)
                self._stamps = memoryview(mmap.mmap(file.fileno(), rows * 16)).cast("q")
            for at in range(0, len(self._stamps), 512):
                self._stamps[at] = 0  # the page is there before it is needed

    @property
    def port(self) -> int:
        port: int = self._listening.getsockname()[1]
        return port

    def accept(self) -> dict[str, Any]:
        """Wait for the next client to subscribe."""
        if self._peer is not None:
            self._peer.socket.close()
        self._peer = Peer(self._listening, self._kind)
        return {"streams": self._peer.streams, "combined": self._peer.is_combined}

    def pace(self, rate: float, count: int, nap: bool = False) -> dict[str, Any]:
        """Send `count` frames, `rate` a second, evenly. `nap`: let go of the processor in between, at the price of exactness."""
        assert self._peer is not None
        first = self._next
        lead = round((LEAD_S + count * LEAD_S_A_FRAME) * NS_PER_S)
        now, start = time.time_ns(), time.monotonic_ns() + lead
        due = (np.arange(count) * (NS_PER_S / rate)).astype(np.int64)
        built = self._frames(first, (now + lead + due) // NS_PER_MS)
        size, data = built.shape[1], built.tobytes()
        messages = [data[at : at + size] for at in range(0, len(data), size)]
        dues = (start + due).tolist()
        stamps = self._stamps if first + count <= self._rows else memoryview(bytearray(16 * (first + count))).cast("q")
        clock, send, sleep = time.monotonic_ns, self._peer.socket.sendall, time.sleep
        late = 0
        gc.collect()
        gc.disable()
        at = 2 * first
        time.sleep(max(0.0, (start - clock()) / NS_PER_S - 0.01))
        for moment, message in zip(dues, messages, strict=True):
            now = clock()
            if nap and moment - now > NAP_NS:
                sleep((moment - now - WAKING_NS) / NS_PER_S)
            while (now := clock()) < moment:
                pass
            stamps[at] = now
            stamps[at + 1] = moment
            at += 2
            late = max(late, now - moment)
            try:
                send(message)
            except ConnectionError:
                break  # it had enough
        gc.enable()
        self._next += count
        return {"first": first, "count": count, "seconds": (clock() - start) / NS_PER_S, "late_ns_max": late}

    def flood(self, count: int, market_s: float = 0.0, ahead: bool = False) -> dict[str, Any]:
        """Send as fast as they are taken; their times span `market_s` and end now. `ahead`: build all of them before the first is sent."""
        assert self._peer is not None
        first = self._next
        begin = time.time_ns() - round(market_s * NS_PER_S)
        chunks = (
            self._frames(first + done, flood_times(begin, count, market_s, done, min(CHUNK, count - done)))
            for done in range(0, count, CHUNK)
        )
        ready = list(chunks) if ahead else chunks
        begun = time.monotonic_ns()
        done = 0
        try:
            for built in ready:
                for lump in range(0, len(built), LUMP):
                    self._peer.socket.sendall(built[lump : lump + LUMP].tobytes())
                done += len(built)
        except ConnectionError:
            pass  # it had enough
        self._next += done
        seconds = (time.monotonic_ns() - begun) / NS_PER_S
        return {"first": first, "count": done, "seconds": seconds, "begin_ns": begin}

    def _frames(self, first: int, times_ms: Integers) -> npt.NDArray[np.uint8]:
        assert self._peer is not None
        combined = self._peer.is_combined
        return frames(first, times_ms, self._symbols, self._turns, combined=combined, kind=self._kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--symbols", default=",".join(SYMBOLS), help="Binance's spelling, all of one length")
    parser.add_argument("--kind", choices=wording.KINDS, default="trade")
    parser.add_argument("--stamps", type=Path)
    parser.add_argument("--rows", type=int, default=0)
    options = parser.parse_args()
    sender = Sender(options.symbols.split(","), options.stamps, options.rows, options.kind)
    print(json.dumps({"port": sender.port, "pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(sender, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
