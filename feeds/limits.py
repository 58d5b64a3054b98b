"""Rolling windows, at most so many events in any span of time, whichever moment it begins at; and what sockets to one host share.

Not a token bucket: one of 5 a second with a burst of 5 lets 9 messages through in one second, and the exchange hangs up.
"""

from __future__ import annotations

from collections import deque

from feeds.speech import Limits

MARGIN_NS = 250_000_000
"""Added to each span, with a two-hundredth of it: what left apart may arrive together, and it is the exchange that counts."""
SLOTS = 16
"""Dials that a host in trouble may see within one wait, however many connections there are."""
DOUBLINGS = 62


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


class Host:
    """Who may dial a host, and when: shared by all of its connections, since the host counts addresses, not sockets.

    Dials keep to a rolling window, to a bar (Retry-After), and while the host does not answer apart from one another: `SLOTS` in
    the wait that is due, which doubles with each failure. Connections that fail within half of such a wait, the shortest that there is,
    have met one failure, not one each.
    """

    def __init__(self, dials: int, dials_span_ns: int, limits: Limits) -> None:
        self.messages = RollingWindow(limits.messages, with_margin(limits.messages_span_ns))
        """For exchanges that count the messages of all our sockets together."""
        self.failures = 0
        """Waits in a row that did not end in an answered dial."""
        self._said = f"at most {dials} dials in {dials_span_ns / 1e9:g} s"
        self._begun = RollingWindow(dials, with_margin(dials_span_ns))
        self._dialled = RollingWindow(dials, with_margin(dials_span_ns))
        self._first_ns = limits.backoff_first_ns
        self._most_ns = limits.backoff_max_ns
        self._barred_until = 0
        self._next_slot = 0
        self._round_ends = 0

    @property
    def apart_ns(self) -> int:
        """How far apart dials have to be."""
        return self._bound() // SLOTS if self.failures else 0

    def reserve(self, now: int) -> int:
        """Reserve the next slot for a dial, first come, first served; return its time: `now`, or later."""
        slot = max(now, self._next_slot)
        self._next_slot = slot + self.apart_ns
        return slot

    def begin_at(self, now: int) -> int:
        """When the next dial, or the fetch before it, may be made: `now`, or later."""
        return max(self.dial_at(now), self._begun.free_at(now))

    def begin(self, now: int) -> None:
        """Record the beginning of a dial, or of the fetch before it, at `now`, which has to be free."""
        self._begun.take(now)

    def dial_at(self, now: int) -> int:
        """When a dial that has begun may be made: `now`, or later."""
        return max(self._dialled.free_at(now), self._barred_until)

    def dial(self, now: int) -> None:
        """Record a dial at `now`, which has to be free."""
        self._dialled.take(now)

    def answered(self) -> None:
        """A dial was answered: the host is there."""
        self.failures = self._next_slot = 0

    def lost(self, now: int) -> int:
        """A socket was lost: until a dial is answered, dials keep apart. Return how many failures in a row the host has had."""
        return self.failures or self.failed(now)

    def failed(self, now: int) -> int:
        """A dial came to nothing: return how many failures in a row the host has had, 1 or more."""
        if now >= self._round_ends or self.failures == 0:
            self.failures += 1
            self._round_ends = now + self._bound() // 2
        return self.failures

    def bar(self, until: int) -> None:
        """Let nobody dial before `until` (ns): the host said so."""
        self._barred_until = max(self._barred_until, until)

    def why(self, now: int) -> str:
        """What keeps the next dial waiting at `now`, in words."""
        if self._barred_until > now:
            return f"the host wants to be left alone for {(self._barred_until - now) / 1e9:.3g} s"
        return self._said

    def _bound(self) -> int:
        """The longest wait that is due, ns."""
        return min(self._most_ns, self._first_ns << min(max(self.failures - 1, 0), DOUBLINGS))


def with_margin(span_ns: int) -> int:
    """A span that is safe to count in on this side of the network."""
    return span_ns + MARGIN_NS + span_ns // 200
