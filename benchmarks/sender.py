"""An exchange in a process of its own: trades as Binance words them, over a raw websocket, at an exact pace or as fast as they are taken.

Frames are built beforehand, column by column, so that sending one is a system call and nothing else. Ids of each symbol are contiguous,
prices are a walk that comes back to where it began (`price_of` tells any of them), and all frames have one length: five digits before
the point of a price, and `M`, a field that nobody reads, is what `m` is not.

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
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
FIRST_ID = 1_000_000_000
LUMP = 512
CHUNK = 8_192
WEIGHTS = (0.5, 0.25, 0.15, 0.1)
ROUND = 4_000  # frames after which the order of the symbols repeats, or so
PERIOD = 1 << 16  # trades of a symbol after which its prices repeat
NS_PER_S, NS_PER_MS = 1_000_000_000, 1_000_000
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
    first: int, times_ms: Integers, symbols: Sequence[str], turns: Turns, *, combined: bool
) -> npt.NDArray[np.uint8]:
    """Build websocket frames, one a row: the frame `first` and those after it, with times in ms UTC."""
    code, turn = turns.of(np.arange(first, first + len(times_ms)))
    at = turn % PERIOD
    rows = np.array([list(_template(name, combined)) for name in symbols], np.uint8)[code]
    text = bytes(rows[0])
    for field, values, width in (
        (b'"E":', times_ms, 13),
        (b'"T":', times_ms, 13),
        (b'"t":', FIRST_ID + turn, 10),
        (b'"p":"', PRICES[at] // 100, 5),
        (b'"p":"00000.', PRICES[at] % 100, 2),
        (b'"q":"0.', VOLUMES[at], 5),
    ):
        _put(rows, text.index(field) + len(field), values, width)
    sold = np.array([b"false", b" true"], "S5")[SOLD[at].astype(int)]
    other = np.array([b" true", b"false"], "S5")[SOLD[at].astype(int)]
    for name, flag in ((b'"m":', sold), (b'"M":', other)):
        begin = text.index(name) + len(name)
        rows[:, begin : begin + 5] = flag.view(np.uint8).reshape(-1, 5)
    return rows


def _template(name: str, combined: bool) -> bytes:
    payload = (
        f'{{"e":"trade","E":0000000000000,"s":"{name}","t":0000000000,"p":"00000.00000000","q":"0.00000000",'
        '"T":0000000000000,"m":00000,"M":00000}'
    )
    if combined:
        payload = f'{{"stream":"{name.lower()}@trade","data":{payload}}}'
    return struct.pack(">BBH", 0x81, 126, len(payload)) + payload.encode()


def _put(rows: npt.NDArray[np.uint8], column: int, values: Integers, width: int) -> None:
    """Write numbers as digits."""
    for place in range(width):
        values, digit = np.divmod(values, 10)
        rows[:, column + width - 1 - place] = 48 + digit


class Peer:
    """A client that has subscribed."""

    def __init__(self, listening: socket.socket) -> None:
        self.socket, _ = listening.accept()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._some()
        path = head.split(b" ", 2)[1]
        self.is_combined = path.startswith(b"/stream")
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
        request = json.loads(self._message())
        self.streams: list[str] = request["params"]
        answer = json.dumps({"result": None, "id": request["id"]}).encode()
        self.socket.sendall(bytes((0x81, len(answer))) + answer)

    def _some(self) -> bytes:
        found = self.socket.recv(65_536)
        if not found:
            raise ConnectionError("the client has left before it subscribed")
        return found

    def _message(self) -> bytes:
        """Read one masked frame of text."""
        data = self._some()
        while len(data) < 14:
            data += self._some()
        length, at = data[1] & 127, 2
        if length == 126:
            length, at = int.from_bytes(data[2:4], "big"), 4
        while len(data) < at + 4 + length:
            data += self._some()
        mask, body = data[at : at + 4], data[at + 4 : at + 4 + length]
        return bytes(byte ^ mask[place % 4] for place, byte in enumerate(body))


class Sender:
    """Sends to the newest client."""

    def __init__(self, symbols: Sequence[str], stamps: Path | None, rows: int) -> None:
        self._symbols = symbols
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
        self._peer = Peer(self._listening)
        return {"streams": self._peer.streams, "combined": self._peer.is_combined}

    def pace(self, rate: float, count: int, nap: bool = False) -> dict[str, Any]:
        """Send `count` frames, `rate` a second, evenly. `nap`: let go of the processor in between, at the price of exactness."""
        assert self._peer is not None
        first = self._next
        lead = round((LEAD_S + count * LEAD_S_A_FRAME) * NS_PER_S)
        now, start = time.time_ns(), time.monotonic_ns() + lead
        due = (np.arange(count) * (NS_PER_S / rate)).astype(np.int64)
        built = frames(
            first, (now + lead + due) // NS_PER_MS, self._symbols, self._turns, combined=self._peer.is_combined
        )
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

    def flood(self, count: int, market_s: float = 0.0) -> dict[str, Any]:
        """Send as fast as they are taken; their times span `market_s` and end now."""
        assert self._peer is not None
        first, begun = self._next, time.monotonic_ns()
        begin = time.time_ns() - round(market_s * NS_PER_S)
        step = market_s * NS_PER_S / count
        done = 0
        try:
            while done < count:
                some = min(CHUNK, count - done)
                times = (begin + (np.arange(done, done + some) * step).astype(np.int64)) // NS_PER_MS
                built = frames(first + done, times, self._symbols, self._turns, combined=self._peer.is_combined)
                for lump in range(0, some, LUMP):
                    self._peer.socket.sendall(built[lump : lump + LUMP].tobytes())
                done += some
        except ConnectionError:
            pass  # it had enough
        self._next += done
        return {"first": first, "count": done, "seconds": (time.monotonic_ns() - begun) / NS_PER_S}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--symbols", default=",".join(SYMBOLS), help="Binance's spelling, all of one length")
    parser.add_argument("--stamps", type=Path)
    parser.add_argument("--rows", type=int, default=0)
    options = parser.parse_args()
    sender = Sender(options.symbols.split(","), options.stamps, options.rows)
    print(json.dumps({"port": sender.port, "pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(sender, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
