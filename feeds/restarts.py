"""Exchanges that number the trades of a symbol anew: what comes is lower than what is known, so it is late or a duplicate, never folded.

A sign of it is a trade that the stream brought as live, whose id is not above the newest that is known, and whose time by the exchange's
clock is after that one's. What is replayed, shuffled, sent again at a handover or as a snapshot is not newer. Such trades in `LOOKS`
looks, a second or so apart, each newer than the one before, and nothing folded in between: the ids were restarted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from engine.events import Tick
from feeds.history import Taken

LOOKS: Final = 5


class Restarted(msgspec.Struct, frozen=True):
    """The ids of a symbol were restarted; `first_id` and `last_id` are of the first and the last trade that showed it."""

    symbol: str
    first_id: int
    last_id: int


class _Seen(msgspec.Struct):
    folded: int = -1  # trades
    newest_at: int = (
        0  # when the newest trade was made, ns UTC by the exchange's clock, or later than that where it was not seen
    )
    behind_ns: int = (
        0  # how long after its making a trade was received, as of the last known: latency and the difference of clocks
    )
    suspicious: int = 0
    first_id: int = 0


class Restarts:
    """Watches the symbols of one exchange by what its stream brings and what the ingress folds of it."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._seen: dict[str, _Seen] = {}

    def look(self, live: Mapping[str, Tick]) -> list[Restarted]:
        """Return what was restarted; `live` is the last live trade of each symbol that had one since the last look."""
        found = []
        for symbol, tick in live.items():
            newest = self._taken.newest_id(symbol)
            if tick.trade_id is None or newest is None:
                continue
            folded = self._taken.trades_folded(symbol)
            seen = self._seen.get(symbol)
            if seen is None:
                seen = self._seen[symbol] = _Seen()
            if folded != seen.folded:
                # Where this is not the newest itself, that was made before this one was received. Of an earlier run we know ids only.
                is_newest = tick.trade_id == newest
                seen.behind_ns = tick.received - tick.timestamp if is_newest else seen.behind_ns
                seen.newest_at = tick.timestamp if is_newest else max(tick.timestamp, tick.received - seen.behind_ns)
                seen.folded, seen.suspicious = folded, 0
            elif tick.trade_id <= newest and tick.timestamp > seen.newest_at:
                seen.newest_at = tick.timestamp
                seen.suspicious += 1
                if seen.suspicious == 1:
                    seen.first_id = tick.trade_id
                if seen.suspicious == LOOKS:
                    seen.suspicious = 0
                    found.append(Restarted(symbol, seen.first_id, tick.trade_id))
        return found
