"""Messages whose ids and times can be moved; everything else of them stays as it was, byte for byte.

Where the numbers of a message stand is found once, by reading its bytes in the order of the JSON grammar along a shape, not by
searching for text: a price that looks like an id, a name inside a string or a field of the same name further down is not touched.
What shape a message has, and what it says of trades, each exchange's own module knows (replay.exchange.*_data).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from feeds.timestamps import rfc3339_ns

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
NS_PER_US: Final = 1_000
FIRST_US: Final = 1_000_000_000_000_000  # a time at least so great is in us: in ms it would be after the year 33000
FIRST_NS: Final = 100_000_000_000_000_000  # in ns: in us it would be after the year 5000
ID_DIGITS_MAX: Final = 18  # what is longer is no id of an exchange, and would leave int64 when it is moved
TIME_DIGITS_MAX: Final = 19
COVERS_NOTHING: Final = 9
"""Rank of ids that move with the others of their kind, but say nothing of the range that the recording covers."""
HOLE: Final = b"\0"
"""What stands for the count of messages of a connection, which is not known yet. JSON holds no such byte."""


class Moves(IntEnum):
    """What a number is, and so by how much it moves."""

    EVENT_TIME = 0
    OTHER_TIME = 1
    TRADE_ID = 2
    AGGREGATE_ID = 3
    UPDATE_ID = 4  # of the book, or of all that happens to a symbol
    COUNT = 5  # of the messages of a connection: counted anew for each client


class Form(IntEnum):
    """How a number is written."""

    DIGITS = 0  # also in quotes
    RFC3339 = 1  # with as many digits of the second as it needs
    RFC3339_US = 2  # with six
    HEX_S = 3  # the first eight digits of an object id: when it was made
    HOLE = 4


class Number(NamedTuple):
    """One number of a message that moves."""

    moves: Moves
    value: int  # as recorded; a time in ns
    unit: int  # ns of one unit of a time, 0 for an id
    rank: int  # of ids: those of the lowest rank say which range the recording covers
    form: Form = Form.DIGITS


class Trade(NamedTuple):
    """What a message says of a trade, or of trades that are one."""

    kind: Moves  # which kind of id it has
    id: int
    price: str  # decimal, as it was sent
    size: str
    side: Literal["buy", "sell"]  # the taker's
    time_ns: int
    first_id: int = 0  # of the trades in an aggregate
    last_id: int = 0
    is_best_match: bool = True  # Binance


class Movable(NamedTuple):
    """A payload with holes where its numbers stand."""

    stream: str  # as the market names it, which is as one subscribes to it: btcusdt@trade
    symbol: str  # BTCUSDT
    template: bytes
    numbers: tuple[Number, ...]
    trades: tuple[Trade, ...] = ()
    """What it says of trades, oldest first."""
    is_history: bool = False
    """It tells of trades that happened before it, and is not sent itself."""

    def payload(self) -> bytes:
        """Return the message as it was recorded."""
        return self.template % tuple(
            written(number.form, number.value // number.unit if number.unit else number.value, number.unit)
            if number.form is not Form.HOLE
            else b"%d" % number.value
            for number in self.numbers
        )


# What a number looks like


def written(form: Form, count: int, unit: int) -> int | bytes:
    """Return what goes into the hole of a number: `count` units of a time, or an id."""
    if form is Form.DIGITS:
        return count
    if form is Form.HOLE:
        return HOLE
    if form is Form.HEX_S:
        return b"%08x" % count
    return rfc3339(count * unit, is_short=form is Form.RFC3339)


def rfc3339(time_ns: int, is_short: bool = True) -> bytes:
    """Return a time as RFC 3339 in UTC: with as many digits of the second as it needs, or with six."""
    second, rest = divmod(time_ns, NS_PER_S)
    if not is_short:
        return b"%b.%06dZ" % (_second(second), rest // NS_PER_US)
    if not rest:
        return _second(second) + b"Z"
    return b"%b.%bZ" % (_second(second), (b"%09d" % rest).rstrip(b"0"))


@functools.lru_cache(maxsize=4_096)
def _second(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


def time_of(text: bytes) -> int | None:
    """Read an RFC 3339 time in UTC as ns; None for what is none, or lies before 1970."""
    try:
        return rfc3339_ns(text.decode())
    except ValueError:
        return None


# Where the numbers stand


class Field(NamedTuple):
    """A number in the shape of a message. One that has another form than this is left as it is."""

    moves: Moves
    rank: int = 0
    form: Form = Form.DIGITS
    unit: int = 0  # of a time, where its digits do not say: ns


class Each(NamedTuple):
    """A list: one shape of all its elements, or of the one that is `only` there (from 0)."""

    shape: Shape
    only: int | None = None


Shape: TypeAlias = "Field | Each | Mapping[str, Shape]"

Place: TypeAlias = tuple[int, int, Number]
"""First byte of a number, the first behind it, and what it is."""

_PAIR = re.compile(rb'\s*[{,]\s*"((?:[^"\\]|\\.)*)"\s*:\s*("(?:[^"\\]|\\.)*"|[^"\[\]{},\s]+)?')
_ELEMENT = re.compile(rb'\s*[\[,]\s*("(?:[^"\\]|\\.)*"|[^"\[\]{},\s]+)?')
_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def movable_of(
    payload: bytes,
    stream: str,
    symbol: str,
    places: Iterable[Place],
    trades: Sequence[Trade] = (),
    *,
    is_history: bool = False,
) -> Movable:
    """Return a message with a hole at each of the places."""
    ordered = sorted(places)
    parts, end = [], 0
    for start, stop, number in ordered:
        parts.append(payload[end:start].replace(b"%", b"%%") + (b"%d" if number.form is Form.DIGITS else b"%b"))
        end = stop
    parts.append(payload[end:].replace(b"%", b"%%"))
    return Movable(stream, symbol, b"".join(parts), tuple(place[2] for place in ordered), tuple(trades), is_history)


def places(text: bytes, shape: Shape, start: int = 0, stop: int | None = None) -> Iterator[Place]:
    """Yield the numbers of a value that stands at `start`, in valid JSON, as its shape says where they are."""
    if isinstance(shape, Field):
        if (place := _place(text, shape, start, len(text) if stop is None else stop)) is not None:
            yield place
    elif isinstance(shape, Each):
        for number, (begin, end) in enumerate(elements(text, start)):
            if shape.only is None or shape.only == number:
                yield from places(text, shape.shape, begin, end)
    else:
        found = dict(members(text, start))
        for name, inner in shape.items():
            if name in found:
                yield from places(text, inner, *found[name])


def members(text: bytes, start: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield name and place of each value of the object that opens at `start`, in valid JSON; of equal names the last one counts."""
    at = start
    while pair := _PAIR.match(text, at):
        name = pair[1]
        begin, at = pair.span(2)
        if at < 0:  # an object or a list
            begin = pair.end()
            at = _end_of_container(text, begin)
        yield msgspec.json.decode(b'"' + name + b'"') if b"\\" in name else name.decode(), (begin, at)


def elements(text: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Yield the place of each element of the list that opens at `start`, in valid JSON."""
    at = start
    while element := _ELEMENT.match(text, at):
        begin, at = element.span(1)
        if at < 0:
            begin = element.end()
            if text[begin : begin + 1] == b"]":
                return
            at = _end_of_container(text, begin)
        yield begin, at


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


def _place(text: bytes, field: Field, start: int, stop: int) -> Place | None:
    """Return a number as it is to move; None for what is not written as it should be: -1 says that a kline has no trades."""
    is_quoted = text[start : start + 1] == b'"'
    if is_quoted:
        start, stop = start + 1, stop - 1
    said = text[start:stop]
    moves, rank, form, unit = field
    if form is Form.HEX_S:
        if is_quoted and len(said) == 24 and re.fullmatch(rb"[0-9a-f]{24}", said):
            return start, start + 8, Number(moves, int(said[:8], 16) * NS_PER_S, NS_PER_S, rank, form)
        return None
    if form in (Form.RFC3339, Form.RFC3339_US):
        value = time_of(said) if is_quoted else None
        for shown, step in ((form, unit or NS_PER_US), (Form.RFC3339, 1), (Form.RFC3339_US, NS_PER_US)):
            if value is not None and written(shown, value // step, step) == said:
                return start, stop, Number(moves, value, step, rank, shown)
        return None
    if not said.isdigit() or (said.startswith(b"0") and said != b"0"):
        return None
    if moves in (Moves.EVENT_TIME, Moves.OTHER_TIME):
        if len(said) > TIME_DIGITS_MAX:
            return None
        unit = unit or unit_of(int(said))
        return start, stop, Number(moves, int(said) * unit, unit, rank, form)
    if len(said) > ID_DIGITS_MAX:
        return None
    return start, stop, Number(moves, int(said), 0, rank, form)


def unit_of(time: int) -> int:
    """Return in how many ns a time that is given as a number counts."""
    return 1 if time >= FIRST_NS else NS_PER_US if time >= FIRST_US else NS_PER_MS
