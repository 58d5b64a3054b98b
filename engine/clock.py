"""Clocks: inside the fold time is that of the input being folded (`Fold.now`); only the shell looks at the machine's."""

from __future__ import annotations

import time
from typing import Protocol

MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS has no other, and its own goes on


class Clock(Protocol):
    """Tells the time, int nanoseconds UTC. The live clock's never decreases; the fold's is `received` of one input after the other."""

    def now(self) -> int: ...


def _monotonic_ns() -> int:
    """The machine's monotonic clock, that which goes on while the machine sleeps: else all is ahead of its time when it wakes."""
    return time.clock_gettime_ns(MONOTONIC)


class LiveClock:
    """The monotonic clock anchored to UTC at start, for stamping `received`: a step of the wall clock cannot turn it back."""

    def __init__(self, not_before: int = 0) -> None:
        """`not_before` is the last time that an earlier run gave out."""
        self._anchor = max(time.time_ns(), not_before) - _monotonic_ns()

    def now(self) -> int:
        return self._anchor + _monotonic_ns()

    def skew_ns(self) -> int:
        """What the wall clock says besides: how far it is ahead of this one now."""
        return time.time_ns() - self.now()
