"""What a loopback exchange sends when: captures as endless tapes, pure, with positions in ns and no clock.

Track       the messages of one market, one after another: a connection of a capture, or several that hold the same symbols, such
            as those before and after a reconnect, or the files of a recorder
Position    ns since the tape began. Each track is rebased: its first line lies at 0
Loop        a track repeats by itself, each time with ids that go on where they ended and times that go on with the position, so
            that it never says a thing twice
Ids         of loop k are greater by k times the range that the recording covers, per symbol and kind of id. A range of trade ids
            is that of `trade` if that was recorded; aggTrade and kline move with it. Ids of book updates are one kind: what a
            depth stream knows of a bookTicker stays true, but where a loop begins anew the book does jump, and `U` says so
Times       keep their distance from the moment at which the message was received, less what the recording host's clock was
            behind: no event lies in the future of its sending. A pace that is not 1 scales the distances too, so that times
            never step back where the recorded ones do not
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

import msgspec

from engine.errors import ReplayError
from replay.rewrite import NS_PER_MS, Movable, Moves, movable
from replay.sources import Capture, Line, open_source

MOVERS: Final = MappingProxyType({"binance": movable})
"""Exchanges that can be served: name to what makes a frame of theirs movable, None for one that is no market data."""

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

    def position(self, now_ns: int) -> int:
        """Return how far the tape has come at a moment."""
        return (now_ns - self.origin_ns) * self.ahead // self.during

    def moment(self, position: int) -> int:
        """Return the first moment at which a position is reached."""
        return self.origin_ns - (-position * self.during // self.ahead)


class Track:
    """The messages of one market; see the module. Made by `Tape`."""

    def __init__(self, number: int, messages: Sequence[tuple[int, int, Movable]], length_ns: int) -> None:
        """Take (position, position less the time of reception, message) in order, and how long the recording is."""
        self.number = number
        self.positions = [position for position, _, _ in messages]
        self.streams = [message.stream for _, _, message in messages]
        self.symbols = tuple(dict.fromkeys(message.symbol for _, _, message in messages))
        self._templates = [message.template for _, _, message in messages]
        slots, self._spans = _id_ranges(message for _, _, message in messages)
        behind = [
            shift + number.value - position
            for position, shift, message in messages
            for number in message.numbers
            if number.moves is Moves.EVENT_TIME and number.value + shift - position < AHEAD_MAX_NS
        ]
        correction = -max(0, max(behind, default=0))
        # A number is (slot of its kind of id, id) or (minus its unit in ns, position on the tape).
        self._numbers = [
            tuple(
                (-number.unit, number.value + shift + correction)
                if number.unit
                else (slots[message.symbol, number.moves], number.value)
                for number in message.numbers
            )
            for _, shift, message in messages
        ]
        self.duration_ns = self._duration(messages, length_ns)
        self._shifts: tuple[int, list[int]] = (0, [0] * len(self._spans))

    def _duration(self, messages: Sequence[tuple[int, int, Movable]], length_ns: int) -> int:
        """Return how long a loop is: the recording, and a pause such that no time steps back where it begins anew."""
        first: dict[tuple[str, int], int] = {}
        last: dict[tuple[str, int], int] = {}
        for (_, _, message), numbers in zip(messages, self._numbers, strict=True):
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

    def payload(self, loop: int, index: int, pace: Pace) -> bytes:
        """Return a message as it is sent in a loop at a pace."""
        if self._shifts[0] != loop:
            self._shifts = loop, [loop * span for span in self._spans]
        shifts = self._shifts[1]
        start = loop * self.duration_ns
        origin, ahead, during = pace
        return self._templates[index] % tuple(
            [
                value + shifts[slot] if slot >= 0 else (origin + (start + value) * during // ahead) // -slot
                for slot, value in self._numbers[index]
            ]
        )


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
        captures = [open_source(path) for path in paths]
        exchanges = []
        for capture in captures:
            if not isinstance(capture, Capture):
                raise ReplayError(f"{capture.name}: expected a capture of raw messages (.jsonl, .jsonl.gz)")
            exchanges.append(capture.feed())
        lines = (line for capture in captures if isinstance(capture, Capture) for line in _named(capture))
        if not captures or len(set(exchanges)) > 1:
            raise ReplayError(f"expected captures of one exchange, found {', '.join(exchanges) or 'none'}")
        return cls.from_lines(exchanges[0], ", ".join(capture.name for capture in captures), lines)

    @classmethod
    def from_lines(cls, exchange: str, name: str, lines: Iterable[Line]) -> Tape:
        """Make a tape of the lines of a capture. Raises ReplayError if none of them can be sent."""
        mover: Callable[[bytes], Movable | None] | None = MOVERS.get(exchange)
        if mover is None:
            raise ReplayError(f"{name}: captures of {exchange} cannot be served, only those of {', '.join(MOVERS)}")
        connections: dict[str, _Connection] = {}
        passed_over = 0
        for line in lines:
            connection = connections.get(line.conn)
            if connection is None:
                connection = connections[line.conn] = _Connection(line.recv_ns, line.recv_ns, [])
            connection.last_ns = max(connection.last_ns, line.recv_ns)
            if line.kind == "recv":
                message = mover(_frame(line))
                if message is None:
                    passed_over += 1
                else:
                    # A capture is in the order of time; where it is not, the order stands and time waits.
                    connection.messages.append((connection.last_ns, message))
        tracks = [
            Track(number, *_joined(market))
            for number, market in enumerate(_markets([c for c in connections.values() if c.messages]))
        ]
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

    def payload(self, due: Due, pace: Pace) -> bytes:
        """Return a message as it is sent at a pace, without its combined wrapping."""
        return self.tracks[due[1]].payload(due[2], due[3], pace)


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


def _id_ranges(messages: Iterable[Movable]) -> tuple[dict[tuple[str, Moves], int], list[int]]:
    """Return a slot for each symbol and kind of id, and of each slot how many ids the recording covers."""
    ranges: dict[tuple[str, Moves], dict[int, tuple[int, int]]] = {}
    for message in messages:
        for number in message.numbers:
            if not number.unit:
                by_rank = ranges.setdefault((message.symbol, number.moves), {})
                low, high = by_rank.get(number.rank, (number.value, number.value))
                by_rank[number.rank] = min(low, number.value), max(high, number.value)
    leading = [by_rank[min(by_rank)] for by_rank in ranges.values()]
    return {key: slot for slot, key in enumerate(ranges)}, [high - low + 1 for low, high in leading]
