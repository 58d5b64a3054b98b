"""What the page is sent: binary messages of columns, first all that there is, then what is new.

A message, little-endian:

    0   4 bytes  "tkf1": what it is, and its version
    4   uint32   length n of the header, a multiple of 8
    8   n bytes  header, JSON padded with spaces
    8+n ...      columns, each beginning at a multiple of 8

Header, in every message:

    exchange, symbol   what is shown; empty while there is nothing to show
    full               true: forget what came before; false: rows, signals and news go behind those that are there
    sequence           of the newest input that was folded
    clock_ms           the engine's clock when this was made; all times are ms UTC, with a fraction
    newest             null, or price, timestamp_ms and received_ms of the symbol's newest trade
    rates              ticks, quotes: a second; p50_us, p99_us: from `received` of an input to the end of its fold
    series             "bars" and "ticks": {"full": as above, for these rows alone; "skipped": rows that were thinned out}
    columns            [series, name, "f8" or "f4", rows, offset from the start of the message]
    signals, news      what was reported: of this symbol, of all

and, in the first message and whenever they have changed: engine, keys, feeds, troubles, strategies, journal, holds.

A column of a view that is not computed is left out. NaN in a column is a value that is not defined (yet); in JSON it is null.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.events import Key
from engine.ingress import TRADE
from engine.serving.bulletin import MS, bulletin_of
from engine.serving.closes import closes, volumes
from engine.serving.host import Host
from store.ring import Rows

MAGIC = b"tkf1"
PULSE_NS = 400_000_000  # a message says that the engine lives, if nothing else does for so long
ROWS = 64  # rows of one series in one message but the first; more are thinned
TICKS, BARS, PRICES = "technical", "technical_1s", "market"
BAR_NS = 1_000_000_000
# What is near a price is kept as exactly as the price; the rest is drawn on scales of its own.
COLUMNS = {
    "upper": ("bollinger_upper", "f8"),
    "middle": ("bollinger_middle", "f8"),
    "lower": ("bollinger_lower", "f8"),
    "rsi": ("rsi_14", "f4"),
    "macd": ("macd", "f4"),
    "signal": ("macd_signal", "f4"),
    "histogram": ("macd_histogram", "f4"),
}

Floats = npt.NDArray[np.float64]
Column = tuple[str, str, str, npt.NDArray[Any]]


class Frames:
    """The messages for one viewer of one symbol. Empty names mean the one with most trades, of those that a feed listens to if any has."""

    def __init__(self, host: Host, exchange: str = "", symbol: str = "") -> None:
        self._host = host
        self._bulletin = bulletin_of(host)
        self._ring_rows = host.config.store.ring_rows
        self._key: Key | None = (exchange, symbol) if exchange and symbol else None
        self._known: dict[str, msgspec.Raw] = {}  # parts as they were sent
        self._row = {BARS: 0, PRICES: 0}  # sequence of the newest row that was sent
        self._number = 0
        self._sent_at = 0
        self._sequence = 0

    def first(self) -> bytes:
        """Return a message with all that there is: as many rows as the ring holds."""
        self._known.clear()
        self._row = {BARS: 0, PRICES: 0}
        self._number = 0
        return self._message(self._host.clock.now(), full=True)

    def next(self) -> bytes | None:
        """Return a message with what is new, None if nothing is and the viewer was told so lately."""
        now = self._host.clock.now()
        if self._key is None and (key := self._busiest()) is not None:
            self._key = key
            return self.first()
        is_quiet = self._host.fold.sequence() == self._sequence and self._bulletin.number == self._number
        if is_quiet and now - self._sent_at < PULSE_NS:
            return None
        return self._message(now, full=False)

    def _message(self, now: int, full: bool) -> bytes:
        host, bulletin = self._host, self._bulletin
        self._key = self._key or self._busiest()
        exchange, symbol = self._key or ("", "")
        header: dict[str, Any] = {
            "exchange": exchange,
            "symbol": symbol,
            "full": full,
            "sequence": host.fold.sequence(),
            "clock_ms": now * MS,
            "newest": None,
            "rates": bulletin.rates(host, now),
            "signals": bulletin.signals((exchange, symbol), self._number),
            "news": bulletin.newer(self._number),
        }
        for name, part in bulletin.parts(host, now).items():
            if self._known.get(name) != part:
                header[name] = self._known[name] = part
        self._number, self._sent_at, self._sequence = bulletin.number, now, header["sequence"]
        columns: list[Column] = []
        header["series"] = self._series(exchange, symbol, columns, header) if symbol else {}
        return encode(header, columns)

    def _busiest(self) -> Key | None:
        fold = self._host.fold
        trades = fold.ingress.counts[: len(fold.keys), TRADE]
        # What was folded as history and is not listened to stands still.
        listened = {(feed.exchange, symbol) for feed in self._host.feeds() for symbol in feed.symbols}
        heard = trades * [fold.keys[code] in listened for code in range(len(trades))]
        if heard.any():
            trades = heard
        return fold.keys[int(trades.argmax())] if trades.any() else None

    # -- rows

    def _series(self, exchange: str, symbol: str, columns: list[Column], header: dict[str, Any]) -> dict[str, Any]:
        """Append what is new of ticks and bars to `columns`; say what became of each."""
        ticks = self._rows(PRICES, exchange, symbol)
        if ticks is None:
            return {}
        if len(ticks):
            header["newest"] = {
                "price": float(ticks["price"][-1]),
                "timestamp_ms": int(ticks.timestamp[-1]) * MS,
                "received_ms": int(ticks.received[-1]) * MS,
            }
        said = {"ticks": self._ticks(ticks, self._rows(TICKS, exchange, symbol), columns)}
        bars = self._rows(BARS, exchange, symbol)
        if bars is not None:
            said["bars"] = self._bars(bars, ticks, columns)
        return said

    def _rows(self, view: str, exchange: str, symbol: str) -> Rows | None:
        features: Any = self._host.fold.features
        return features.last(view, exchange, symbol, self._ring_rows) if view in features.views else None

    def _ticks(self, ticks: Rows, technical: Rows | None, columns: list[Column]) -> dict[str, Any]:
        start = int(np.searchsorted(ticks.sequence, self._row[PRICES], side="right"))
        full = self._row[PRICES] == 0
        groups = _groups(start, len(ticks), None if full else ROWS)
        _append(columns, "ticks", ticks, groups, ticks["price"], ticks["volume"], technical)
        if len(ticks):
            self._row[PRICES] = int(ticks.sequence[-1])
        return {"full": full, "skipped": len(ticks) - start - len(groups)}

    def _bars(self, bars: Rows, ticks: Rows, columns: list[Column]) -> dict[str, Any]:
        start = int(np.searchsorted(bars.sequence, self._row[BARS], side="right"))
        full = self._row[BARS] == 0
        if start == len(bars):
            return {"full": full, "skipped": 0}
        groups = _groups(start, len(bars), None if full else ROWS)
        prices, volume = closes(bars, ticks, BAR_NS), volumes(bars, ticks, BAR_NS, self._ring_rows)
        _append(columns, "bars", bars, groups, prices, volume, bars)
        self._row[BARS] = int(bars.sequence[-1])
        return {"full": full, "skipped": len(bars) - start - len(groups)}


def encode(header: dict[str, Any], columns: list[Column]) -> bytes:
    """Return a message: `columns` are (series, name, dtype, values); the header gets their places."""
    places: list[list[Any]] = [[series, name, kind, len(values), 0] for series, name, kind, values in columns]
    text = b""
    # The offsets depend on the header's length, and that on their digits: room is left for the most that they can have.
    room = len(msgspec.json.encode({**header, "columns": places})) + 10 * len(places)
    begin = offset = 8 + -(-room // 8) * 8
    parts = []
    for place, (_, _, kind, values) in zip(places, columns, strict=True):
        data = np.ascontiguousarray(values, f"<{kind}").tobytes()
        parts.append(data.ljust(-(-len(data) // 8) * 8, b"\0"))
        place[4] = offset
        offset += len(parts[-1])
    text = msgspec.json.encode({**header, "columns": places}).ljust(begin - 8)
    return b"".join((MAGIC, struct.pack("<I", len(text)), text, *parts))


def decode(message: bytes) -> tuple[dict[str, Any], dict[tuple[str, str], npt.NDArray[Any]]]:
    """Return header and columns by (series, name). Raises ValueError for what is no such message."""
    if message[:4] != MAGIC:
        raise ValueError(f"message begins with {message[:4]!r}: expected {MAGIC!r}")
    (length,) = struct.unpack_from("<I", message, 4)
    header: dict[str, Any] = msgspec.json.decode(message[8 : 8 + length])
    columns = {
        (series, name): np.frombuffer(message, f"<{kind}", rows, offset)
        for series, name, kind, rows, offset in header["columns"]
    }
    return header, columns


def _groups(start: int, stop: int, most: int | None) -> npt.NDArray[np.intp]:
    """Return where each group of rows begins: rows one by one, or `most` groups of about equal size."""
    if most is None or stop - start <= most:
        return np.arange(start, stop)
    return np.linspace(start, stop, most, endpoint=False).astype(np.intp)


def _append(
    columns: list[Column],
    series: str,
    rows: Rows,
    groups: npt.NDArray[np.intp],
    prices: Floats,
    volume: Floats,
    technical: Rows | None,
) -> None:
    """Append columns of the last row of each group; volumes are added up."""
    if not len(groups):
        return
    last = np.append(groups[1:], len(rows)) - 1
    columns.append((series, "time_ms", "f8", rows.timestamp[last] * MS))
    columns.append((series, "price", "f8", prices[last]))
    columns.append((series, "volume", "f4", np.add.reduceat(volume, groups)))
    # Two views of one clock put out their rows together.
    if technical is not None and len(technical) == len(rows):
        for name, (feature, kind) in COLUMNS.items():
            if feature in technical.columns:
                columns.append((series, name, kind, technical[feature][last]))
