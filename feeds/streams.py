"""The streams of a symbol, trades and quotes, are watched apart: trades can be mute while quotes come.

A symbol is `stalled` from the first of its streams that stalls until all of them are heard again. It is silent if nothing at all came of
it: in a thin market quotes come for an hour without a trade. Pure, as `feeds.liveness`, which says when a stream stalls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from feeds.liveness import Change, Recovered, Silent, Stalled, SymbolWatch


class Heard(msgspec.Struct, frozen=True):
    """What has changed of one stream of a symbol. `tells`: it is what has to be told of the symbol, too."""

    change: Change
    tells: bool


class StreamWatch:
    """Watches the trades and the quotes of the symbols of one connection, each by what is usual for it."""

    def __init__(self, trades: SymbolWatch, quotes: SymbolWatch) -> None:
        self.trades = trades
        self.quotes = quotes
        self._streams: Final = (("trades", trades, quotes), ("quotes", quotes, trades))
        self._stalled: dict[str, None] = {}
        """Symbols that were told of as stalled."""
        self._silent: dict[str, int] = {}
        """Symbols that were told of as silent, and when."""

    @property
    def stalled(self) -> tuple[str, ...]:
        """Symbols that have a stream that is stalled."""
        return tuple(dict.fromkeys((*self.trades.stalled, *self.quotes.stalled)))

    def add(self, symbol: str, now: int) -> None:
        """Watch `symbol` from `now` on."""
        self.trades.add(symbol, now)
        self.quotes.add(symbol, now)

    def remove(self, symbol: str) -> None:
        """Forget `symbol`."""
        self.trades.remove(symbol)
        self.quotes.remove(symbol)
        self._stalled.pop(symbol, None)
        self._silent.pop(symbol, None)

    def hold(self, now: int) -> None:
        """Silence proves nothing from `now` on."""
        self.trades.hold(now)
        self.quotes.hold(now)

    def resume(self, now: int) -> None:
        """Silences continue where they were held."""
        self.trades.resume(now)
        self.quotes.resume(now)

    def reset(self, now: int) -> None:
        """The connection is live anew."""
        self.trades.reset(now)
        self.quotes.reset(now)

    def look(self, now: int) -> list[Heard]:
        """Return what has changed since the last look."""
        heard = []
        changed = [(stream, other, watch.look(now)) for stream, watch, other in self._streams]
        stalled: Sequence[str] = self.stalled if any(changes for _, _, changes in changed) else ()
        for stream, other, changes in changed:
            for change in changes:
                tells = self._tells(change, other, stalled, now)
                detail = change.detail if isinstance(change, Silent) else f"{stream}: {change.detail}"
                heard.append(Heard(msgspec.structs.replace(change, detail=detail), tells))
        for symbol, since in tuple(self._silent.items()):
            last = max(self.trades.heard_at(symbol), self.quotes.heard_at(symbol))
            if last > since:
                del self._silent[symbol]
                heard.append(Heard(Recovered(symbol, last - since, "is heard now"), True))
        return heard

    def _tells(self, change: Change, other: SymbolWatch, stalled: Sequence[str], now: int) -> bool:
        symbol = change.symbol
        if isinstance(change, Stalled):
            if symbol in self._stalled or symbol in self._silent:
                return False
            self._stalled[symbol] = None
            return True
        if isinstance(change, Silent):
            is_heard = other.heard_at(symbol) > now - change.silent_ns
            if is_heard or symbol in self._stalled or symbol in self._silent:
                return False
            self._silent[symbol] = now
            return True
        if symbol in self._silent:
            del self._silent[symbol]
            if symbol not in stalled:
                return True
            self._stalled[symbol] = None  # one of its streams is still mute: told already
        if symbol in self._stalled and symbol not in stalled:
            del self._stalled[symbol]
            return True
        return False
