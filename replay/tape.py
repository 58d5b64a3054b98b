"""What a loopback exchange sends when: captures as endless tapes, pure, with positions in ns and no clock.

Track       the messages of one market, one after another: a connection of a capture, or several that hold the same symbols, such
            as those before and after a reconnect, or the files of a recorder
Position    ns since the tape began. Each track is rebased: its first line lies at 0
Trades      what the messages say of trades, as one market whose past goes on backwards over the loops: `Track.trades`
Loop        a track repeats by itself, each time with ids that go on where they ended and times that go on with the position, so
            that it never says a thing twice
Ids         of loop k are greater by k times the range that the recording covers, per symbol and kind of id. A range of trade ids
            is that of Binance's `trade` if that was recorded; aggTrade and kline move with it. Ids of book updates are one kind:
            what a depth stream knows of a bookTicker stays true, but where a loop begins anew the book does jump, and `U` says so
Times       keep their distance from the moment at which the message was received, less what the recording host's clock was
            behind: no event lies in the future of its sending. A pace that is not 1 scales the distances too, so that times
            never step back where the recorded ones do not
"""

from __future__ import annotations

import heapq
import importlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias, cast

import msgspec

from engine.errors import ReplayError
from replay.rewrite import COVERS_NOTHING, NS_PER_MS, Form, Movable, Moves, written
from replay.sources import PROBE_LINES, Capture, Line, open_source
from replay.trades import Recorded, Trades

MOVERS: Final = MappingProxyType(
    {
        "binance": "replay.exchange.binance_data:movable",
        "coinbase": "replay.exchange.coinbase_data:movable",
        "coinbase_exchange": "replay.exchange.coinbase_exchange_data:movable",
        "kucoin": "replay.exchange.kucoin_data:movable",
    }
)
"""Feeds that can be served: name to module:function of what makes a frame of theirs movable; it gives () for one that is no market data.

Imported when asked for: the package of the exchange knows the tape."""

Moved: TypeAlias = Mapping[tuple[str, Moves], int]
"""Symbol and kind of id to what its ids are moved by."""
NOT_MOVED: Final[Moved] = MappingProxyType({})

Mover: TypeAlias = Callable[[bytes], Sequence[Movable]]

PAUSE_MAX_NS: Final = 60_000_000_000
"""The longest silence between connections of one market, and at the end of a loop: nobody wants to wait out a recorder's holiday."""
AHEAD_MAX_NS: Final = 86_400_000_000_000
"""A recording host's clock is not further behind than this; a time that is was sent wrong and says nothing of the clock."""
SPEED_DENOMINATOR: Final = 1_000_000

Due: TypeAlias = tuple[int, int, int, int]
"""Position of a message, number of its track, loop, index in the track: where it stands, in the order in which it is sent."""


class Pace(NamedTuple):
    """How positions on the tape and moments of the wall clock (ns UTC) belong together, exactly."""

    origin_ns: int  # when position 0 is
    ahead: int  # so much of the tape
    during: int  # passes in so much time

    @classmethod
    def of(cls, origin_ns: int, speed: float) -> Pace:
        """Return the pace that goes `speed` times as fast as the recording."""
        exact = Fraction(speed).limit_denominator(SPEED_DENOMINATOR)
        return cls(origin_ns, exact.numerator, exact.denominator)

    def shifted(self, by_ns: int) -> Pace:
        """Return the same pace by a clock that is ahead by so much."""
        return self._replace(origin_ns=self.origin_ns + by_ns)

    def position(self, now_ns: int) -> int:
        """Return how far the tape has come at a moment."""
        return (now_ns - self.origin_ns) * self.ahead // self.during

    def time(self, position: int) -> int:
        """Return what the clock shows at a position, in whole ns."""
        return self.origin_ns + position * self.during // self.ahead

    def moment(self, position: int) -> int:
        """Return the first moment at which a position is reached."""
        return self.origin_ns - (-position * self.during // self.ahead)


class Track:
    """The messages of one market; see the module. Made by `Tape`."""

    def __init__(self, number: int, messages: Sequence[tuple[int, int, Movable]], length_ns: int) -> None:
        """Take (position, position less the time of reception, message) in order, and how long the recording is."""
        sent = [message for message in messages if not message[2].is_history]
        told = [message for message in messages if message[2].is_history]
        self.number = number
        self.positions = [position for position, _, _ in sent]
        self.streams = [message.stream for _, _, message in sent]
        self.symbols = tuple(dict.fromkeys(message.symbol for _, _, message in sent))
        self.messages = [message for _, _, message in sent + told]
        """As they were recorded; behind those that are sent, what tells of the time before them."""
        self._templates = [message.template for message in self.messages]
        slots, self._spans, lows = _id_ranges(self.messages)
        self._slots = slots
        """Symbol and kind of id to where its shift is, in this order."""
        self._is_moved = False
        behind = [
            shift + number.value - position
            for position, shift, message in sent
            for number in message.numbers
            if number.moves is Moves.EVENT_TIME and number.value + shift - position < AHEAD_MAX_NS
        ]
        correction = -max(0, max(behind, default=0))
        # A number is (slot of its kind of id, id) or (minus its unit in ns, position on the tape).
        self._numbers = [
            tuple(
                (slots[message.symbol, number.moves], number.value)
                if (message.symbol, number.moves) in slots
                else (-(number.unit or 1), number.value + shift + correction)
                for number in message.numbers
            )
            for _, shift, message in sent + told
        ]
        self._forms = [_forms(message) for message in self.messages]
        self.duration_ns = self._duration(sent, length_ns)
        self._shifts: tuple[int, list[int]] = (0, [0] * len(self._spans))
        self._of_stream: dict[str, list[int]] = {}
        for index, stream in enumerate(self.streams):
            self._of_stream.setdefault(stream, []).append(index)
        self._before = {message[2].stream: index for index, message in enumerate(told, len(sent))}
        recorded: dict[tuple[str, Moves], tuple[list[Recorded], list[Recorded]]] = {}
        for position, shift, message in messages:
            for trade in message.trades:
                made, history = recorded.setdefault((message.symbol, trade.kind), ([], []))
                one = Recorded(position, trade.time_ns + shift + correction, trade)
                (history if message.is_history else made).append(one)
        spans = {key: self._spans[slot] for key, slot in slots.items()}
        self.trades = {
            (symbol, kind): Trades(
                made, history, lows[slots[symbol, kind]] if (symbol, kind) in slots else 0, spans.get((symbol, kind), 0),
                self.duration_ns, spans.get((symbol, Moves.TRADE_ID), 0),
            )
            for (symbol, kind), (made, history) in recorded.items()
        }  # fmt: skip
        """By symbol and kind of id."""

    def _duration(self, messages: Sequence[tuple[int, int, Movable]], length_ns: int) -> int:
        """Return how long a loop is: the recording, and a pause such that no time steps back where it begins anew."""
        first: dict[tuple[str, int], int] = {}
        last: dict[tuple[str, int], int] = {}
        for (_, _, message), numbers in zip(messages, self._numbers, strict=False):  # behind them stands history
            for place, (number, (_, value)) in enumerate(zip(message.numbers, numbers, strict=True)):
                if number.moves is Moves.EVENT_TIME:
                    key = message.stream, place
                    first[key] = min(value, first.get(key, value))
                    last[key] = max(value, last.get(key, value))
        mean = self.positions[-1] // max(len(messages) - 1, 1)
        pause = max(1, mean, *(last[key] - first[key] - length_ns for key in last))
        return -(-(length_ns + min(pause, PAUSE_MAX_NS)) // NS_PER_MS) * NS_PER_MS

    def due(self, after: int, until: int, looping: bool) -> Iterator[Due]:
        """Yield the messages of after < position <= until, in order."""
        positions, number = self.positions, self.number
        loop = after // self.duration_ns if looping else 0
        start = loop * self.duration_ns
        first = bisect_right(positions, after - start)
        while True:
            for index in range(first, len(positions)):
                position = start + positions[index]
                if position > until:
                    return
                yield position, number, loop, index
            if not looping:
                return
            loop += 1
            start += self.duration_ns
            first = 0

    def following(self, after: int, looping: bool) -> int | None:
        """Return the position of the first message behind a position, None if there is none."""
        loop = after // self.duration_ns if looping else 0
        index = bisect_right(self.positions, after - loop * self.duration_ns)
        if index < len(self.positions):
            return loop * self.duration_ns + self.positions[index]
        return (loop + 1) * self.duration_ns + self.positions[0] if looping else None

    def payload(self, loop: int, index: int, pace: Pace, moved: Moved = NOT_MOVED) -> bytes:
        """Return a message as it is sent in a loop at a pace; `moved` moves ids by more than the loops do."""
        if self._shifts[0] != loop or moved or self._is_moved:
            self._shifts = (
                loop,
                [loop * span + moved.get(key, 0) for key, span in zip(self._slots, self._spans, strict=True)],
            )
            self._is_moved = bool(moved)
        shifts = self._shifts[1]
        start = loop * self.duration_ns
        origin, ahead, during = pace
        values = [
            value + shifts[slot] if slot >= 0 else (origin + (start + value) * during // ahead) // -slot
            for slot, value in self._numbers[index]
        ]
        forms = self._forms[index]
        if forms is None:
            return self._templates[index] % tuple(values)
        numbers = zip(forms, values, self._numbers[index], strict=True)
        return self._templates[index] % tuple([written(form, value, -slot) for form, value, (slot, _) in numbers])

    def ids(self, loop: int, index: int, moved: Moved = NOT_MOVED) -> tuple[int, ...]:
        """Return the ids of the trades that a message speaks of, as they are sent."""
        message = self.messages[index]
        return tuple(
            trade.id + loop * self._spans[self._slots[key]] + moved.get(key, 0)
            for trade in message.trades
            if (key := (message.symbol, trade.kind)) in self._slots
        )

    def newest(self, stream: str, position: int, looping: bool) -> tuple[int, int] | None:
        """Return loop and index of the newest message of a stream by a position, None if there is none yet."""
        if (indices := self._of_stream.get(stream)) is not None:
            loop = position // self.duration_ns if looping else 0
            found = bisect_right(indices, position - loop * self.duration_ns, key=lambda index: self.positions[index])
            if found:
                return loop, indices[found - 1]
            if looping:
                return loop - 1, indices[-1]
        return (0, self._before[stream]) if stream in self._before else None


class Tape:
    """Captures of one exchange as one endless recording."""

    def __init__(self, exchange: str, name: str, tracks: Sequence[Track], passed_over: int = 0) -> None:
        self.exchange = exchange
        self.name = name
        self.tracks = tuple(tracks)
        self.streams = tuple(dict.fromkeys(stream for track in tracks for stream in track.streams))
        self.symbols = tuple(dict.fromkeys(symbol for track in tracks for symbol in track.symbols))
        """As the exchange spells them."""
        self.passed_over = passed_over
        """Messages of the captures that are no market data of a symbol: acknowledgements, errors, all that cannot be read."""

    @classmethod
    def of(cls, *paths: str | Path) -> Tape:
        """Read captures of one exchange, as they are on disk.

        Raises ReplayError for a file that is no capture, holds nothing that can be sent, or is of another exchange than the first.
        """
        captures = [_capture(path) for path in paths]
        exchanges = [_feed(capture) for capture in captures]
        if not captures or len(set(exchanges)) > 1:
            raise ReplayError(f"expected captures of one exchange, found {', '.join(exchanges) or 'none'}")
        return cls._joined(exchanges[0], captures)

    @classmethod
    def each_of(cls, paths: Iterable[str | Path]) -> list[Tape]:
        """Read captures of several exchanges: a tape for each exchange. Raises ReplayError as `of` does."""
        by_exchange: dict[str, list[Capture]] = {}
        for path in paths:
            capture = _capture(path)
            by_exchange.setdefault(_feed(capture), []).append(capture)
        return [cls._joined(exchange, captures) for exchange, captures in by_exchange.items()]

    @classmethod
    def _joined(cls, exchange: str, captures: Sequence[Capture]) -> Tape:
        lines = (line for capture in captures for line in _named(capture))
        return cls.from_lines(exchange, ", ".join(capture.name for capture in captures), lines)

    @classmethod
    def from_lines(cls, exchange: str, name: str, lines: Iterable[Line]) -> Tape:
        """Make a tape of the lines of a capture. Raises ReplayError if none of them can be sent."""
        if exchange not in MOVERS:
            raise ReplayError(f"{name}: captures of {exchange} cannot be served, only those of {', '.join(MOVERS)}")
        mover = _mover(exchange)
        connections: dict[str, _Connection] = {}
        passed_over = 0
        for line in lines:
            connection = connections.get(line.conn)
            if connection is None:
                connection = connections[line.conn] = _Connection(line.recv_ns, line.recv_ns, [])
            connection.last_ns = max(connection.last_ns, line.recv_ns)
            if line.kind == "recv":
                messages = mover(_frame(line))
                passed_over += not messages
                # A capture is in the order of time; where it is not, the order stands and time waits.
                connection.messages += [(connection.last_ns, message) for message in messages]
        markets = [_joined(market) for market in _markets([c for c in connections.values() if c.messages])]
        sent = [market for market in markets if any(not message.is_history for _, _, message in market[0])]
        tracks = [Track(number, messages, length_ns) for number, (messages, length_ns) in enumerate(sent)]
        if not tracks:
            raise ReplayError(f"{name}: expected messages of a market, found none in {passed_over} received ones")
        return cls(exchange, name, tracks, passed_over)

    def due(self, after: int, until: int, *, looping: bool) -> Iterator[Due]:
        """Yield what is due at after < position <= until, in order: by position, then by track."""
        if len(self.tracks) == 1:
            return self.tracks[0].due(after, until, looping)
        return heapq.merge(*(track.due(after, until, looping) for track in self.tracks))

    def following(self, after: int, *, looping: bool) -> int | None:
        """Return the position of the first message behind a position, None if the tape has ended."""
        found = [track.following(after, looping) for track in self.tracks]
        return min((position for position in found if position is not None), default=None)

    def stream(self, due: Due) -> str:
        """Return the name of the stream that a message belongs to."""
        return self.tracks[due[1]].streams[due[3]]

    def recorded(self, due: Due) -> Movable:
        """Return a message as it was recorded."""
        return self.tracks[due[1]].messages[due[3]]

    def payload(self, due: Due, pace: Pace, moved: Moved = NOT_MOVED) -> bytes:
        """Return a message as it is sent at a pace, without its combined wrapping."""
        return self.tracks[due[1]].payload(due[2], due[3], pace, moved)

    def ids(self, due: Due, moved: Moved = NOT_MOVED) -> tuple[int, ...]:
        """Return the ids of the trades that a message speaks of, as they are sent."""
        return self.tracks[due[1]].ids(due[2], due[3], moved)

    def newest(
        self, stream: str, position: int, pace: Pace, moved: Moved = NOT_MOVED, *, looping: bool
    ) -> bytes | None:
        """Return the newest message of a stream by a position, None if there is none."""
        for track in self.tracks:
            if (found := track.newest(stream, position, looping)) is not None:
                return track.payload(*found, pace, moved)
        return None


def _mover(exchange: str) -> Mover:
    module, _, function = MOVERS[exchange].partition(":")
    return cast(Mover, getattr(importlib.import_module(module), function))


def _capture(path: str | Path) -> Capture:
    capture = open_source(path)
    if not isinstance(capture, Capture):
        raise ReplayError(f"{capture.name}: expected a capture of raw messages (.jsonl, .jsonl.gz)")
    return capture


def _feed(capture: Capture) -> str:
    """Name the feed that was captured: by the name of the file, else by whose market data its first lines are."""
    named = [name for name in MOVERS if capture.name.startswith(name)]
    if named:
        return max(named, key=len)
    lines = [line for (_, line), _ in zip(capture.lines(), range(PROBE_LINES), strict=False) if line.kind == "recv"]
    counts = {name: sum(bool(_mover(name)(_frame(line))) for line in lines) for name in MOVERS}
    best = max(counts, key=lambda name: counts[name])
    if not counts[best]:
        raise ReplayError(
            f"{capture.path}: expected messages of one of {', '.join(MOVERS)}, found none in its first {PROBE_LINES} lines"
        )
    return best


def _frame(line: Line) -> bytes:
    """Return the message of a line; none at all for one that no frame could hold."""
    try:
        return line.frame
    except (msgspec.DecodeError, UnicodeError):
        return b""


class _Connection:
    """What one connection of a capture received."""

    def __init__(self, first_ns: int, last_ns: int, messages: list[tuple[int, Movable]]) -> None:
        self.first_ns, self.last_ns, self.messages = first_ns, last_ns, messages

    def symbols(self) -> set[str]:
        return {message.symbol for _, message in self.messages}


def _named(capture: Capture) -> Iterator[Line]:
    """Yield the lines of a capture, whose connections are its own even if another file has some of the same name."""
    for _, line in capture.lines():
        line.conn = f"{capture.path}:{line.conn}"
        yield line


def _markets(connections: list[_Connection]) -> list[list[_Connection]]:
    """Put connections together that have a symbol in common, directly or by way of others."""
    markets: list[tuple[set[str], list[_Connection]]] = []
    for connection in connections:
        symbols, together = connection.symbols(), [connection]
        for market in [market for market in markets if market[0] & symbols]:
            symbols |= market[0]
            together = market[1] + together
            markets.remove(market)
        markets.append((symbols, together))
    order = {connection: number for number, connection in enumerate(connections)}
    return sorted((together for _, together in markets), key=lambda together: min(order[one] for one in together))


def _joined(connections: list[_Connection]) -> tuple[list[tuple[int, int, Movable]], int]:
    """Return the messages of one market's connections as `Track` takes them, and how long they are together."""
    offset = length = 0
    messages: list[tuple[int, int, Movable]] = []
    before = connections[0].first_ns
    for connection in sorted(connections, key=lambda connection: connection.first_ns):
        offset = min(offset + connection.first_ns - before, length + PAUSE_MAX_NS) if messages else 0
        before = connection.first_ns
        shift = offset - connection.first_ns
        messages.extend((at + shift, shift, message) for at, message in connection.messages)
        length = max(length, connection.last_ns + shift)
    messages.sort(key=lambda message: message[0])
    return messages, length


def _id_ranges(messages: Iterable[Movable]) -> tuple[dict[tuple[str, Moves], int], list[int], list[int]]:
    """Return a slot for each symbol and kind of id; of each slot how many ids the recording covers, and the lowest of them."""
    ranges: dict[tuple[str, Moves], dict[int, tuple[int, int]]] = {}
    for message in messages:
        for number in message.numbers:
            if not number.unit and number.moves is not Moves.COUNT:
                by_rank = ranges.setdefault((message.symbol, number.moves), {})
                rank = COVERS_NOTHING if message.is_history else number.rank
                low, high = by_rank.get(rank, (number.value, number.value))
                by_rank[rank] = min(low, number.value), max(high, number.value)
    leading = [(min(by_rank), by_rank[min(by_rank)]) for by_rank in ranges.values()]
    spans = [0 if rank == COVERS_NOTHING else high - low + 1 for rank, (low, high) in leading]
    return {key: slot for slot, key in enumerate(ranges)}, spans, [low for _, (low, _) in leading]


def _forms(message: Movable) -> tuple[Form, ...] | None:
    """Return the forms of a message's numbers, None if all of them are digits."""
    forms = tuple(number.form for number in message.numbers)
    return forms if any(forms) else None
