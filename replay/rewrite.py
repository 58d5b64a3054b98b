"""A Binance message whose ids and times can be moved; everything else of it stays as it was, byte for byte.

Where its numbers stand is found once, by reading the bytes in the order of the JSON grammar, not by searching for text: a price
that looks like an id, an `"E":` inside a string or a field of the same letter further down is not touched.

What moves      E, T             times of the event
                t                trade id (trade); f, l of an aggTrade and f, L of a kline count in the same ids
                a                id of an aggTrade
                u, U, pu, lastUpdateId   update ids of the book
                k.t, k.T, O, C   other times: they move along, but may lie anywhere
What does not   b, a of a trade (order ids, until 2024), prices, sizes, counts
Reference       https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

NS_PER_MS: Final = 1_000_000
NS_PER_US: Final = 1_000
FIRST_US: Final = 1_000_000_000_000_000  # a time at least so great is in us: in ms it would be after the year 33000
DIGITS_MAX: Final = 18  # what is longer is no id of an exchange, and would leave int64 when it is moved


class Moves(IntEnum):
    """What a number is, and so by how much it moves."""

    EVENT_TIME = 0
    OTHER_TIME = 1
    TRADE_ID = 2
    AGGREGATE_ID = 3
    UPDATE_ID = 4


class Number(NamedTuple):
    """One number of a message that moves."""

    moves: Moves
    value: int  # as recorded; a time in ns
    unit: int  # ns of one unit of a time, 0 for an id
    rank: int  # of ids: those of the lowest rank say which range the recording covers


class Movable(NamedTuple):
    """A payload with holes where its numbers stand: `template % tuple of numbers` is the message again."""

    stream: str  # as one subscribes to it: btcusdt@trade
    symbol: str  # BTCUSDT
    template: bytes
    numbers: tuple[Number, ...]

    def payload(self) -> bytes:
        """Return the message as it was recorded."""
        values = tuple(number.value // number.unit if number.unit else number.value for number in self.numbers)
        return self.template % values


_Table = Mapping[str, tuple[Moves, int]]
_TIMES: Final[_Table] = {"E": (Moves.EVENT_TIME, 0), "T": (Moves.EVENT_TIME, 0)}
_BOOK: Final[_Table] = {
    **_TIMES,
    **dict.fromkeys(("u", "U", "pu", "lastUpdateId"), (Moves.UPDATE_ID, 0)),
}
_KLINE: Final[_Table] = {
    "t": (Moves.OTHER_TIME, 0),
    "T": (Moves.OTHER_TIME, 0),
    "f": (Moves.TRADE_ID, 2),
    "L": (Moves.TRADE_ID, 2),
}
_FIELDS: Final[Mapping[str, _Table]] = MappingProxyType(
    {
        "trade": {**_TIMES, "t": (Moves.TRADE_ID, 0)},
        "aggTrade": {
            **_TIMES,
            "a": (Moves.AGGREGATE_ID, 0),
            "f": (Moves.TRADE_ID, 1),
            "l": (Moves.TRADE_ID, 1),
        },
        "bookTicker": _BOOK,
        "depthUpdate": _BOOK,
        "depth": _BOOK,
        "kline": {"E": (Moves.EVENT_TIME, 0)},
        "24hrTicker": {
            "E": (Moves.EVENT_TIME, 0),
            "O": (Moves.OTHER_TIME, 0),
            "C": (Moves.OTHER_TIME, 0),
            "F": (Moves.TRADE_ID, 2),
            "L": (Moves.TRADE_ID, 2),
        },
    }
)
"""Event type to its fields that move; other types have times only."""
_SUFFIXES: Final = MappingProxyType({"depthUpdate": "depth", "24hrTicker": "ticker", "24hrMiniTicker": "miniTicker"})

_PAIR = re.compile(rb'\s*[{,]\s*"((?:[^"\\]|\\.)*)"\s*:\s*("(?:[^"\\]|\\.)*"|[^"\[\]{},\s]+)?')
_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')


class _Outline(msgspec.Struct):
    """What a frame says of itself; to decode it checks all of the frame's JSON."""

    stream: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    e: str | None = None
    s: str | None = None


_read_outline = msgspec.json.Decoder(_Outline).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def movable(frame: bytes) -> Movable | None:
    """Return a raw or combined frame as a payload that can be moved; None if it is no market data of one symbol."""
    try:
        outline = _read_outline(frame)
        if outline.stream is None or not bytes(outline.data):
            payload, said, stream = frame, outline, None
        else:
            payload, stream = bytes(outline.data), outline.stream
            said = _read_outline(payload)
    except _UNREADABLE:
        return None
    payload = payload.strip()
    fields = dict(_fields(payload, 0))
    kind = said.e or ("bookTicker" if {"u", "B", "A"} <= fields.keys() else "depth" if "lastUpdateId" in fields else "")
    symbol = said.s or (stream.partition("@")[0].upper() if stream and not stream.startswith("!") else "")
    if not kind or not symbol:
        return None
    found = list(_numbers(payload, fields, _FIELDS.get(kind, _TIMES)))
    if kind == "kline" and "k" in fields:
        inner = dict(_fields(payload, fields["k"][0]))
        found += _numbers(payload, inner, _KLINE)
        stream = stream or f"{symbol.lower()}@kline_{_text(payload, inner.get('i'))}"
    found.sort(key=lambda place: place[0])
    parts, end = [], 0
    for start, stop, _ in found:
        parts.append(payload[end:start].replace(b"%", b"%%"))
        end = stop
    parts.append(payload[end:].replace(b"%", b"%%"))
    return Movable(
        stream or f"{symbol.lower()}@{_SUFFIXES.get(kind, kind)}",
        symbol,
        b"%d".join(parts),
        tuple(number for _, _, number in found),
    )


def _numbers(payload: bytes, fields: Mapping[str, tuple[int, int]], table: _Table) -> Iterator[tuple[int, int, Number]]:
    """Yield (start, stop, number) of the fields of one object that are in a table and are whole numbers."""
    for name, (moves, rank) in table.items():
        start, stop = fields.get(name, (0, 0))
        text = payload[start:stop]
        if not text.isdigit() or len(text) > DIGITS_MAX:
            continue  # -1 says that a kline has no trades; a text is a price
        value, unit = int(text), 0
        if moves in (Moves.EVENT_TIME, Moves.OTHER_TIME):
            unit = NS_PER_US if value >= FIRST_US else NS_PER_MS
            value *= unit
        yield start, stop, Number(moves, value, unit, rank)


def _text(payload: bytes, place: tuple[int, int] | None) -> str:
    return payload[place[0] : place[1]].decode().strip('"') if place else ""


def _fields(text: bytes, start: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield name and place of each value of the object that opens at `start`, in valid JSON; of equal names the last one counts."""
    at = start
    while pair := _PAIR.match(text, at):
        name = pair[1]
        begin, at = pair.span(2)
        if at < 0:  # an object or a list
            begin = pair.end()
            at = _end_of_container(text, begin)
        yield msgspec.json.decode(b'"' + name + b'"') if b"\\" in name else name.decode(), (begin, at)


def _end_of_container(text: bytes, start: int) -> int:
    depth = 0
    for token in _BRACKET.finditer(text, start):
        if token[0] in (b"{", b"["):
            depth += 1
        elif token[0] in (b"}", b"]"):
            depth -= 1
            if not depth:
                return token.end()
    return len(text)
