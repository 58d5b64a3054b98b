"""Trades of a market whose ids began anew, or which stood still for a while: `replay.trades.Trades` with a history of its own.

Segment     trades that follow one another on the tape and have ids that are moved alike. A new number begins a new one; what the
            tape holds of a time when the market stood still lies between two, and was never made: the ids go on without a gap
Ordinal     counts the trades that were made
By id       the newest segment that has begun with an id at or below the one that is looked for: what had such ids before a restart
            is found by time only, as nobody can tell which is meant
Limit       the newest 1,024 segments; what lies before them is no longer known
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from replay.trades import Made, Trades

SEGMENTS_MAX: Final = 1_024
FOR_EVER: Final = 1 << 62
"""A position behind all that is ever played."""


class Segment(NamedTuple):
    """See the module."""

    start: int  # the ordinal of its first trade
    base: int  # the same on the tape
    shift: int  # of its ids


class Renumbered:
    """See the module. Methods as those of `Trades`, of the same market: `looping` may not change."""

    def __init__(self, trades: Trades, looping: bool) -> None:
        self.trades = trades
        self._looping = looping
        first = trades.first(looping)
        self._segments: deque[Segment] = deque([Segment(first, first, 0)], maxlen=SEGMENTS_MAX)
        self._still_since: int | None = None

    def next_id(self, position: int) -> int:
        """Return the id of the next trade that is made after a position; without one, the id that it would have."""
        last = self._segments[-1]
        is_still = self._still_since is not None
        base = self._stopped(last) if is_still else self.trades.end(position, self._looping)
        return self._id(base) + last.shift

    def shift(self) -> int:
        """Return what the ids are moved by now, beyond what the tape moves them."""
        return self._segments[-1].shift

    def renumber(self, position: int, number: int) -> None:
        """Let the next trade that is made after a position have this id, and those that follow go on from it."""
        base = self.trades.end(position, self._looping)
        start = self._still_since if self._still_since is not None else self._made(base)
        self._begin(Segment(start, base, number - self._id(base)))

    def stand_still(self, position: int, is_still: bool) -> None:
        """Stop making trades at a position, or go on from it."""
        base = self.trades.end(position, self._looping)
        if is_still and self._still_since is None:
            self._still_since = self._made(base)
        elif not is_still and self._still_since is not None:
            start, last = self._still_since, self._segments[-1]
            shift = last.shift + self._id(self._stopped(last)) - self._id(base)
            self._still_since = None
            self._begin(Segment(start, base, shift))

    def first(self, looping: bool) -> int:
        """See `Trades`."""
        return self._segments[0].start

    def end(self, position: int, looping: bool) -> int:
        """See `Trades`."""
        end = self._made(self.trades.end(position, looping))
        return end if self._still_since is None else min(end, self._still_since)

    def ordinal(self, number: int, looping: bool) -> int:
        """See `Trades`, and the module."""
        following: int | None = None
        for segment in reversed(self._segments):
            if number >= self._id(segment.base) + segment.shift or segment is self._segments[0]:
                at = segment.start + self.trades.ordinal(number - segment.shift, looping) - segment.base
                at = max(at, segment.start)
                return at if following is None else min(at, following)
            following = segment.start
        raise AssertionError("there is always a segment")

    def since(self, tape_ns: int, looping: bool) -> int:
        """See `Trades`."""
        return self._made(self.trades.since(tape_ns, looping))

    def until(self, tape_ns: int, looping: bool) -> int:
        """See `Trades`."""
        return self._made(self.trades.until(tape_ns, looping))

    def between(self, start: int, stop: int, looping: bool) -> list[Made]:
        """See `Trades`."""
        found: list[Made] = []
        end = stop
        for segment in reversed(self._segments):
            if end <= start:
                break
            begin = max(start, segment.start)
            if begin < end:
                base = segment.base + begin - segment.start
                made = self.trades.between(base, base + end - begin, looping)
                found[:0] = [one._replace(shift=one.shift + segment.shift) for one in made]
                end = begin
        return found

    def _stopped(self, last: Segment) -> int:
        """Return the trade of the tape that would have been the next one when the market stopped."""
        assert self._still_since is not None
        return last.base + self._still_since - last.start

    def _begin(self, segment: Segment) -> None:
        while len(self._segments) > 1 and self._segments[-1].start >= segment.start:
            self._segments.pop()  # nothing was made of it
        self._segments.append(segment)

    def _made(self, base: int) -> int:
        """Return the ordinal that a trade of the tape has, or that of the next one that was made."""
        following: int | None = None
        for segment in reversed(self._segments):
            if base >= segment.base or segment is self._segments[0]:
                at = segment.start + base - segment.base
                return at if following is None else min(at, following)
            following = segment.start
        raise AssertionError("there is always a segment")

    def _id(self, base: int) -> int:
        """Return the id of a trade of the tape; behind its end, the one that would follow."""
        trades, looping = self.trades, self._looping
        end = trades.end(FOR_EVER, looping)
        if base < end:
            return trades.between(base, base + 1, looping)[0].id
        if end == trades.first(looping):
            return 0
        return trades.between(end - 1, end, looping)[0].id + 1 + base - end
