"""Two connections carry the same symbols for a while: what of them passes, and what waits.

Before   everything the old connection brings passes; what the new one brings waits, in order, in a buffer with a limit
Release  the old one is let go of; what waited passes, stamped with the time at which it does
After    quotes of the new one that are no newer than the old one's last are dropped, until each symbol has had a newer one

Trades are not looked at: whoever takes them drops those that it has by their ids, so that none is lost or doubled. Quotes have no
such ids everywhere, and an old one must not follow a newer one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from engine.events import Event, Quote, Tick

CAPACITY = 10_000
"""Events that wait at most: a second of a very busy connection, some 3 MB."""


class Handover:
    """What two connections bring, between the first message of the new one and the last of the old one."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.forgotten = 0
        """Events that waited and were let go of, the oldest first: the old connection was there to bring them."""
        self._waiting: deque[Event] = deque(maxlen=capacity)
        self._newest: dict[str, Quote] = {}

    @property
    def is_full(self) -> bool:
        """Whether what comes next costs the oldest event that waits."""
        return len(self._waiting) == self._waiting.maxlen

    @property
    def is_over(self) -> bool:
        """Whether all that comes from here on is news."""
        return not self._newest

    def forget(self, symbol: str) -> None:
        """Nothing more of `symbol` will come."""
        self._newest.pop(symbol, None)

    def given(self, events: Sequence[Event]) -> None:
        """Hear what the old connection brought, all of which passes."""
        for event in events:
            if type(event) is Quote:
                self._newest[event.symbol] = event

    def keep(self, events: Sequence[Event]) -> None:
        """Let what the new connection brought wait."""
        waiting = self._waiting
        for event in events:
            self.forgotten += len(waiting) == waiting.maxlen
            waiting.append(event)

    def release(self, now: int) -> list[Event]:
        """Return what waited and is still news, stamped as received `now` (ns); nothing waits any more."""
        # Without a counter of the exchange's, the newest quote of a symbol is the only one that is surely no step back.
        last = {event.symbol: event for event in self._waiting if type(event) is Quote}
        released: list[Event] = []
        for event in self._waiting:
            if type(event) is Quote:
                if (event.update_id is None and last[event.symbol] is not event) or not self._is_news(event):
                    continue
                self._newest[event.symbol] = event
                released.append(msgspec.structs.replace(event, received=now))
            elif type(event) is Tick:
                released.append(msgspec.structs.replace(event, received=now))
        self._waiting.clear()
        return released

    def news(self, events: Sequence[Event]) -> Sequence[Event]:
        """Return those events of the new connection that may pass after the release: it may lag behind the old one."""
        newest = self._newest
        if not newest:
            return events
        passing = []
        for event in events:
            if type(event) is Quote and event.symbol in newest:
                if not self._is_news(event):
                    continue
                del newest[event.symbol]  # what follows on the same connection is newer still
            passing.append(event)
        return passing

    def _is_news(self, quote: Quote) -> bool:
        before = self._newest.get(quote.symbol)
        if before is None:
            return True
        if before.update_id is None or quote.update_id is None:
            return quote.timestamp > before.timestamp
        return quote.update_id > before.update_id
