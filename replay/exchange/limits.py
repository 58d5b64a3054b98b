"""What one address has used of what an exchange lets it do: messages, dials and the weight of requests. Pure: `now` is handed in, in s."""

from __future__ import annotations

import math
from collections import deque
from typing import Final, NamedTuple

from replay.exchange.venue import Limits

PATIENCE: Final = 10
"""Requests while one is barred that are still answered 429; those beyond are banned, where the exchange bans."""
BAN_S: Final = 120.0
BAN_MAX_S: Final = 259_200.0


class Window:
    """So many of something in any rolling span of time."""

    def __init__(self, count: int, span_s: float) -> None:
        self.span_s = span_s
        self._moments: deque[float] = deque(maxlen=count)

    def note(self, now: float) -> bool:
        """Count one, and return whether it keeps the limit."""
        keeps = self.wait_s(now) <= 0.0
        self._moments.append(now)
        return keeps

    def wait_s(self, now: float) -> float:
        """Return for how long there is no room for another one; 0 if there is now."""
        moments = self._moments
        if len(moments) < (moments.maxlen or 0):
            return 0.0
        return max(0.0, self.span_s - (now - moments[0]))


class Refusal(NamedTuple):
    """What is said to who has asked too much."""

    used: int
    retry_after_s: int
    is_banned: bool


class Account:
    """One address at one exchange."""

    def __init__(self, limits: Limits) -> None:
        self.messages = Window(limits.messages, limits.messages_s)
        """Of all its websockets together."""
        self.used = 0
        """Weight of requests in this span."""
        self._limits = limits
        self._dials = Window(limits.dials, limits.dials_s)
        self._span = -1
        self._barred_until = -math.inf
        self._is_banned = False
        self._impatience = 0
        self._ban_s = BAN_S

    def dial(self, now: float) -> Refusal | None:
        """Count an upgrade; one that is refused is not counted."""
        if (barred := self._bar(now)) is not None:
            return barred
        wait_s = self._dials.wait_s(now)
        if wait_s > 0.0:
            return self._begin_bar(now, wait_s)
        self._dials.note(now)
        return None

    def ask(self, weight: int, now: float) -> Refusal | None:
        """Count a request."""
        span = int(now // self._limits.weight_s)
        if span != self._span:
            self._span, self.used = span, 0
        if (barred := self._bar(now)) is not None:
            return barred
        self.used += weight
        if self.used > self._limits.weight:
            return self._begin_bar(now, (span + 1) * self._limits.weight_s - now)
        return None

    def _begin_bar(self, now: float, wait_s: float) -> Refusal:
        self._barred_until, self._is_banned, self._impatience = now + wait_s, False, 0
        return self._refusal(now)

    def _bar(self, now: float) -> Refusal | None:
        if now >= self._barred_until:
            return None
        self._impatience += 1
        if self._impatience > PATIENCE and self._limits.bans:
            self._barred_until, self._is_banned, self._impatience = now + self._ban_s, True, 0
            self._ban_s = min(self._ban_s * 2.0, BAN_MAX_S)
        return self._refusal(now)

    def _refusal(self, now: float) -> Refusal:
        return Refusal(self.used, max(1, math.ceil(self._barred_until - now)), self._is_banned)
