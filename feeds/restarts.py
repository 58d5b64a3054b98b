"""Exchanges that number the trades of a symbol anew: then all that comes is lower than what is known, late, and never folded.

A feed that is only out of order brings higher ids in between, and history comes in one piece. So: trades that were late in `LOOKS`
looks, a second or so apart, with not one between them that was folded, are no history that we asked for: the ids were restarted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from feeds.history import Taken

LOOKS: Final = 5


class _Seen(msgspec.Struct):
    folded: int
    late: int
    suspicious: int = 0


class Restarts:
    """Watches the symbols of one exchange by what the ingress counts."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._seen: dict[str, _Seen] = {}
        self._asked_for: dict[str, int] = {}

    def asked_for(self, symbol: str, count: int) -> None:
        """So many late trades are coming because we asked for them."""
        self._asked_for[symbol] = self._asked_for.get(symbol, 0) + count

    def look(self, symbols: Iterable[str]) -> list[str]:
        """Return the symbols whose ids were restarted; each is watched anew from here on."""
        found = []
        for symbol in symbols:
            folded, late = self._taken.counts(symbol)
            seen = self._seen.get(symbol)
            if seen is None or folded != seen.folded:
                self._seen[symbol] = _Seen(folded, late)
            elif late - seen.late > self._asked_for.get(symbol, 0):
                seen.late = late
                seen.suspicious += 1
                if seen.suspicious >= LOOKS:
                    found.append(symbol)
                    del self._seen[symbol]
            else:
                seen.late = late
            self._asked_for.pop(symbol, None)
        return found
