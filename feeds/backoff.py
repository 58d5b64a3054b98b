"""When to dial again: a random wait whose bound doubles with each failure, up to a cap.

The wait is drawn between half the bound and the bound. The half spares a server that is coming up; the draw keeps connections that
were lost together from coming back together.
"""

from __future__ import annotations

import random

DOUBLINGS = 62
"""More would overflow nothing in Python, but 2^62 ns are 146 years: every cap has been reached by then."""


class Backoff:
    """The waits of one connection. `failures` is how many have been handed out since the last reset."""

    def __init__(self, first_ns: int, most_ns: int, random: random.Random) -> None:
        self._first_ns = min(first_ns, most_ns)
        self._most_ns = most_ns
        self._random = random
        self.failures = 0

    def next_ns(self, of_the_host: int = 0) -> int:
        """How long to wait this time, ns: in [bound / 2, bound], bound = min(most, first * 2^failures).

        `of_the_host` is how many failures in a row the host has had (`feeds.limits.Host`), this one among them: who comes late to
        a host that is down waits as long as the others.
        """
        doublings = max(self.failures, of_the_host - 1)
        bound = min(self._most_ns, self._first_ns << min(doublings, DOUBLINGS))
        self.failures += 1
        return self._between(bound)

    def longest_ns(self) -> int:
        """A wait at the cap, ns: for what does not get better by asking again soon. Counts as a failure too."""
        self.failures += 1
        return self._between(self._most_ns)

    def reset(self) -> None:
        """Begin anew: the connection has held."""
        self.failures = 0

    def _between(self, bound: int) -> int:
        return bound - int(self._random.random() * (bound // 2))
