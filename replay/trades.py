"""All trades of one symbol, as its market has made them: a function of the position on the tape, endless in both directions.

Ordinal     counts the trades, 0 being the first of the tape. With loops those of the loops before are below it, so that a market has
            a past as soon as it begins; without, what the recording tells of the time before it (a snapshot at the subscription)
Made        a trade is there with its message, or with that of a higher id if that comes first
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from replay.rewrite import Trade

BEFORE: Final = -1
"""Position at which nothing of a tape has happened yet."""


class Recorded(NamedTuple):
    """A trade on the tape."""

    position: int  # of its message
    tape_ns: int  # when it was made: a position too
    trade: Trade


class Made(NamedTuple):
    """A trade of the market."""

    trade: Trade  # as it was recorded
    shift: int  # of its id
    inner_shift: int  # of the ids of the trades in an aggregate
    tape_ns: int

    @property
    def id(self) -> int:
        return self.trade.id + self.shift


class Trades:
    """See the module."""

    def __init__(
        self,
        recorded: Iterable[Recorded],
        history: Iterable[Recorded],
        low: int,
        span: int,
        duration_ns: int,
        inner_span: int = 0,
    ) -> None:
        """`low` and `span` are the ids that a loop covers, `inner_span` is that of ids in aggregates, `duration_ns` a loop's length."""
        by_id = {one.trade.id: one for one in reversed(list(recorded))}
        told = {one.trade.id: one for one in history}
        if by_id:
            missed = {number: one for number, one in told.items() if min(by_id) < number < max(by_id)}
            told = {number: one for number, one in told.items() if number < min(by_id)}
            by_id = missed | by_id
        tape = [one for _, one in sorted(by_id.items())]
        self._once = _Row([one._replace(position=BEFORE) for _, one in sorted(told.items())] + tape)
        self._tape = _Row(tape)
        self._before = len(told)
        self._low, self._span, self._inner_span, self._duration_ns = low, span, inner_span, duration_ns

    def first(self, looping: bool) -> int:
        """Return the ordinal of the oldest trade that anybody knows of."""
        if not self._loops(looping):
            return -self._before
        return -(self._low // self._span) * len(self._tape.ids)

    def end(self, position: int, looping: bool) -> int:
        """Return the ordinal behind the newest trade that is made by a position."""
        return self._find(position, looping, 0, self._duration_ns, lambda row, at: bisect_right(row.positions, at))

    def ordinal(self, number: int, looping: bool) -> int:
        """Return the ordinal of the first trade whose id is at least `number`."""
        return self._find(number, looping, self._low, self._span, lambda row, at: bisect_left(row.ids, at))

    def since(self, tape_ns: int, looping: bool) -> int:
        """Return an ordinal before which no trade is as new as `tape_ns`."""
        first = self._tape.newest_ns[0] if self._tape.ids else 0
        return self._find(tape_ns, looping, first, self._duration_ns, lambda row, at: bisect_left(row.newest_ns, at))

    def until(self, tape_ns: int, looping: bool) -> int:
        """Return an ordinal from which on no trade is as old as `tape_ns`."""
        first = self._tape.oldest_ns[0] if self._tape.ids else 0
        return self._find(tape_ns, looping, first, self._duration_ns, lambda row, at: bisect_right(row.oldest_ns, at))

    def between(self, start: int, stop: int, looping: bool) -> list[Made]:
        """Return the trades of a range of ordinals that lies within `first` and `end`."""
        get = self._looped if self._loops(looping) else self._recorded
        return [get(ordinal) for ordinal in range(start, stop)]

    def _recorded(self, ordinal: int) -> Made:
        one = self._once.recorded[ordinal + self._before]
        return Made(one.trade, 0, 0, one.tape_ns)

    def _looped(self, ordinal: int) -> Made:
        loop, index = divmod(ordinal, len(self._tape.ids))
        one = self._tape.recorded[index]
        return Made(one.trade, loop * self._span, loop * self._inner_span, one.tape_ns + loop * self._duration_ns)

    def _find(self, value: int, looping: bool, first: int, period: int, find: Callable[[_Row, int], int]) -> int:
        """Return the ordinal that `find` finds in the row of the loop in which a value lies that grows by `period` with each."""
        if not self._loops(looping):
            return find(self._once, value) - self._before
        loop, rest = divmod(value - first, period)
        return loop * len(self._tape.ids) + find(self._tape, first + rest)

    def _loops(self, looping: bool) -> bool:
        return looping and bool(self._tape.ids) and self._span > 0


class _Row:
    """Trades in the order of their ids, and what can be looked for among them: columns that never decrease."""

    def __init__(self, recorded: Sequence[Recorded]) -> None:
        self.recorded = recorded
        self.ids = [one.trade.id for one in recorded]
        self.positions = _lowest_from(one.position for one in recorded)
        self.newest_ns = list(accumulate((one.tape_ns for one in recorded), max))
        self.oldest_ns = _lowest_from(one.tape_ns for one in recorded)


def _lowest_from(values: Iterable[int]) -> list[int]:
    """Return of each value the lowest from there on."""
    return list(accumulate(reversed(list(values)), min))[::-1]
