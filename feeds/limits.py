"""Rolling windows: at most so many events in any span of time, whichever moment it begins at.

Not a token bucket: one of 5 a second with a burst of 5 lets 9 messages through in one second, and the exchange hangs up.
"""

from __future__ import annotations

from collections import deque


class RollingWindow:
    """At most `limit` events in any `span_ns`. Two events that are exactly a span apart do not share one."""

    def __init__(self, limit: int, span_ns: int) -> None:
        self.limit = limit
        self.span_ns = span_ns
        self._taken: deque[int] = deque(maxlen=limit)

    def free_at(self, now: int) -> int:
        """When the next event may happen: `now`, or later."""
        if len(self._taken) < self.limit:
            return now
        return max(now, self._taken[0] + self.span_ns)

    def take(self, now: int) -> None:
        """Record an event at `now` (ns, never decreasing), which has to be free."""
        assert self.free_at(now) == now, f"{self.limit} events within {self.span_ns} ns already"
        self._taken.append(now)


class DialLimit:
    """Who may dial a host, and when: shared by all of its connections, since the host counts addresses, not sockets."""

    def __init__(self, limit: int, span_ns: int) -> None:
        self._window = RollingWindow(limit, span_ns)
        self._barred_until = 0

    def free_at(self, now: int) -> int:
        """When the next dial may be made: `now`, or later."""
        return max(self._window.free_at(now), self._barred_until)

    def take(self, now: int) -> None:
        """Record a dial at `now`, which has to be free."""
        self._window.take(now)

    def bar(self, until: int) -> None:
        """Let nobody dial before `until` (ns): the host said so."""
        self._barred_until = max(self._barred_until, until)

    def why(self, now: int) -> str:
        """What keeps the next dial waiting at `now`, in words."""
        if self._barred_until > now:
            return f"the host wants to be left alone for {(self._barred_until - now) / 1e9:.3g} s"
        return f"at most {self._window.limit} dials in {self._window.span_ns / 1e9:g} s"
