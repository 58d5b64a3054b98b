"""How far our clock and an exchange's are apart, and whether what comes is old: `received - timestamp` of a connection's trades.

A trade cannot be received before it happened, so the least of the differences within a window is the offset of the clocks plus the
shortest way: what delays single messages only adds. Hosts have been 16 ms, 170 ms and 1.27 s behind an exchange; a negative
latency is normal, and is reported only beyond a bound. The times themselves are never touched.

behind    below -500 ms: our clock is behind the exchange's
old       above 5 s: the data is old (a queue, a slow consumer, an exchange that lags), or our clock is ahead
normal    back within half of either bound
stepped   otherwise: it has moved by more than 500 ms and stays there

One wrong timestamp is no skew: it is the second least that counts. Each is said once, at the end of a window: 10 s or
more, and 5 looks with new trades or more. Pass trades of the live stream only: history is old by nature, and quotes without a time of their own carry ours.
Pure: ints in ns, no clock inside, five numbers of state.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

MS = 1_000_000
S = 1_000 * MS
BOUND_NS = 500 * MS
BOUND_OLD_NS = 5 * S
WINDOW_NS = 10 * S
LEAST = 5
"""Looks with new trades that a window has to hold: the trades of one order are delayed together, and count once."""
NONE = 1 << 63
"""More than any difference of two times."""

Level: TypeAlias = Literal["behind", "old", "normal"]


class Skew(msgspec.Struct, frozen=True):
    """What has changed. `offset_ns` is `received - timestamp`, the (second) least of the window."""

    kind: Literal["behind", "old", "normal", "stepped"]
    offset_ns: int
    detail: str


class ClockSkew:
    """Watches the times of one connection."""

    def __init__(
        self, *, bound_ns: int = BOUND_NS, bound_old_ns: int = BOUND_OLD_NS, window_ns: int = WINDOW_NS
    ) -> None:
        self.level: Level = "normal"
        self.offset_ns: int | None = None
        """Of the last window that was full; None before there is one."""
        self._bound_ns = bound_ns
        self._bound_old_ns = bound_old_ns
        self._window_ns = window_ns
        self._least = self._second = NONE
        self._trades = 0  # since the last look
        self._looks = 0  # with new trades, in this window
        self._since: int | None = None
        self._settled: int | None = None  # what a step is measured from
        self._moved: int | None = None  # the last offset, if it was more than a bound from there

    def note(self, received: int, timestamp: int) -> None:
        """A trade of the live stream came."""
        self._trades += 1
        offset = received - timestamp
        if offset < self._second:
            if offset < self._least:
                self._second, self._least = self._least, offset
            else:
                self._second = offset

    def reset(self, now: int) -> None:
        """The connection is live anew: begin a window of its own. What was said holds until a window says otherwise."""
        self._since = now
        self._least = self._second = NONE
        self._trades = self._looks = 0

    def look(self, now: int) -> Skew | None:
        """Return what the window that ends now has changed, None if nothing has or it is not full yet. To be called by a timer."""
        if self._since is None:
            self._since = now
        if self._trades:
            self._trades = 0
            self._looks += 1
        if now - self._since < self._window_ns or self._looks < LEAST:
            return None
        offset = self._second
        self.offset_ns = offset
        self.reset(now)
        level = self._level(offset)
        stepped_from = self._step(offset)
        if level != self.level:
            self.level = level
            self._settled, self._moved = offset, None
            return Skew(level, offset, self._say(level, offset))
        if stepped_from is not None:
            return Skew("stepped", offset, f"received - timestamp went from {_ms(stepped_from)} to {_ms(offset)}")
        return None

    def _level(self, offset: int) -> Level:
        if offset < -self._bound_ns:
            return "behind"
        if offset > self._bound_old_ns:
            return "old"
        # Half a bound of hysteresis: an offset that lies on it is said once.
        if self.level == "behind" and offset < -self._bound_ns // 2:
            return "behind"
        if self.level == "old" and offset > self._bound_old_ns // 2:
            return "old"
        return "normal"

    def _step(self, offset: int) -> int | None:
        """Return what the offset has stepped from, once a second window in a row confirms it; a drift is followed."""
        if self._settled is None or abs(offset - self._settled) <= self._bound_ns:
            self._settled, self._moved = offset, None
            return None
        if self._moved is None or abs(offset - self._moved) > self._bound_ns:
            self._moved = offset
            return None
        stepped_from = self._settled
        self._settled, self._moved = offset, None
        return stepped_from

    def _say(self, level: Level, offset: int) -> str:
        if level == "behind":
            return f"trades arrive {_ms(-offset)} before their own time: our clock is behind the exchange's"
        if level == "old":
            return f"the newest trades are {_ms(offset)} old on arrival: the data is late, or our clock is ahead"
        return f"received - timestamp is back at {_ms(offset)}"


def _ms(ns: int) -> str:
    return f"{ns / 1e9:.3f} s" if abs(ns) >= S else f"{ns / 1e6:.0f} ms"
