"""When a connection dials next: what its own failures and its host's make it wait, and whether it may hurry.

An exchange that announces its shutdown, or lets a token expire, wants to be dialled at once. One that does so at every dial would
be stormed: who has hurried waits the next time, until a connection has held.
"""

from __future__ import annotations

import random
from typing import Literal, TypeAlias

from feeds.backoff import Backoff
from feeds.limits import Host
from feeds.speech import Limits

Pace: TypeAlias = Literal["at once", "soon", "longest"]
"""How long to wait: not at all, as long as the backoff says, as long as it ever says."""

LOOK_AGAIN_NS = 1_000_000_000
"""Who waits for a slot looks this often whether the host has answered somebody in the meantime: then none is needed."""


class Redial:
    """The waits of one connection to `host`."""

    def __init__(self, host: Host, limits: Limits, random: random.Random) -> None:
        self.host = host
        self.at: int | None = None
        """When to dial next; None while there is a socket, or no wish for one."""
        self.holds = ""
        """Which limit the dial that `may` has put off waits for, in words; empty if that was said, or if it waits for a slot."""
        self._slot: int | None = None
        self._backoff = Backoff(limits.backoff_first_ns, limits.backoff_max_ns, random)
        self._has_hurried = False
        self._is_held_up = False

    def held(self) -> None:
        """The socket that is lost had held: begin anew."""
        self._backoff.reset()
        self._has_hurried = False

    def hurry(self) -> Pace:
        """The exchange itself has asked for a dial: at once, unless that is a habit."""
        if self._has_hurried:
            return "soon"
        self._has_hurried = True
        return "at once"

    def wait(self, now: int, pace: Pace, was_answered: bool, not_before: int) -> int:
        """Set and return when to dial next. `was_answered`: it was a socket that is lost, no dial that came to nothing."""
        if pace == "at once":
            self._backoff.next_ns()
            self.at = now
        else:
            failures = self.host.lost(now) if was_answered else self.host.failed(now)
            ns = self._backoff.longest_ns() if pace == "longest" else self._backoff.next_ns(failures)
            self.at = max(now + ns, not_before)
        return self.at

    def may(self, now: int, *, begun: bool) -> bool:
        """Whether the host may be dialled, or be asked where to, at `now`; if not, `at` is set to when. `begun`: it was asked."""
        self.holds = ""
        if not begun and self._waits_for_slot(now):
            return False
        free = self.host.dial_at(now) if begun else self.host.begin_at(now)
        if free > now:
            self.at = free
            if not self._is_held_up:
                self._is_held_up = True
                self.holds = self.host.why(now)
            return False
        (self.host.dial if begun else self.host.begin)(now)
        self.at = self._slot = None
        self._is_held_up = self._is_held_up and not begun
        return True

    def _waits_for_slot(self, now: int) -> bool:
        if self.host.failures == 0:
            return False
        if self._slot is None:
            self._slot = self.host.reserve(now)
        if self._slot <= now:
            return False
        self.at = min(self._slot, now + LOOK_AGAIN_NS)
        return True
