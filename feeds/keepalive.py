"""The pings of one socket, both ways: those of the exchange that we owe a pong, and those of ours that it owes one.

Some exchanges ping, and hang up on who does not answer; some want to be pinged by messages of ours, and hang up on who does not. A
busy socket is pinged like a quiet one: market data is no answer.
"""

from __future__ import annotations


class KeepAlive:
    """Which pings are due and which pongs are missing. Times are ns of the machine's clock."""

    def __init__(self) -> None:
        self.owed: bytes | None = None
        """The payload of the newest ping of the exchange, as long as it is not answered."""
        self.number = 0
        """Of the newest ping of ours."""
        self._every_ns = 0
        self._within_ns = 0
        self._ping_at: int | None = None
        self._sent_at: int | None = None

    def begin(self, every_ns: int, within_ns: int, now: int) -> None:
        """Ping every `every_ns` from here on, and expect a pong within `within_ns`; 0: the exchange wants no pings, or owes no pong."""
        self._every_ns, self._within_ns = every_ns, within_ns
        self._ping_at = now + every_ns if every_ns else None

    def end(self) -> None:
        """The socket is gone."""
        self.owed = self._ping_at = self._sent_at = None

    def is_due(self, now: int) -> bool:
        """Whether a ping of ours is due."""
        return self._ping_at is not None and self._ping_at <= now

    def sent(self, now: int) -> int:
        """A ping of ours goes out: return its number."""
        self.number += 1
        self._ping_at = now + self._every_ns
        if self._sent_at is None and self._within_ns:
            self._sent_at = now
        return self.number

    def ponged(self) -> None:
        """The exchange has answered."""
        self._sent_at = None

    def waited(self, now: int) -> int | None:
        """How long a pong has been missing, ns, once that is too long; None before."""
        if self._sent_at is None or now - self._sent_at < self._within_ns:
            return None
        return now - self._sent_at

    def put_off(self, since: int, now: int) -> None:
        """Pongs could not be heard from `since` to `now`: that time does not count."""
        if self._sent_at is not None:
            self._sent_at += now - max(since, self._sent_at)

    @property
    def ping_at(self) -> int | None:
        """When the next ping of ours is due."""
        return self._ping_at

    @property
    def pong_by(self) -> int | None:
        """When a pong that is missing will be too late."""
        return None if self._sent_at is None else self._sent_at + self._within_ns
