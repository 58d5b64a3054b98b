"""What is known of an exchange's products at one moment: their spelling and ours, what can be listened to, and what has changed since.

Listed    the exchange's own list, fetched or kept on disk; without one, the dated list inside the package
Products  their spelling to ours, of all that is or was listed (the package's list too): old recordings go on being decoded
Known     ours to theirs, likewise; where two ids share a symbol, the one that can be listened to, then the one that is listed
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

import msgspec

from feeds.product_lists import ALIAS_OF, KUCOIN_GONE, Product

NS_PER_S = 1_000_000_000

Source = Literal["built-in", "cache", "fetched"]


class Changes(msgspec.Struct, frozen=True):
    """What one list says otherwise than the one before it, in the order of symbols.

    `untradable` and `restated` give the reason with each symbol: why not, and "TRADING, now HALT".
    """

    untradable: tuple[tuple[str, str], ...] = ()
    tradable: tuple[str, ...] = ()
    restated: tuple[tuple[str, str], ...] = ()


NO_CHANGES = Changes()


class Listing:
    """The products of one exchange API. Never changes once it is made.

    `as_of` is when the exchange said so, ns UTC; 0 for the package's list. `ambiguous` ids are hidden behind another of the same symbol.
    """

    def __init__(
        self,
        exchange_api: str,
        listed: Sequence[Product] | None,
        source: Source,
        as_of: int,
        built_in: Mapping[str, str],
    ) -> None:
        """`listed` is the exchange's list, None if there is none; `built_in` the package's, their spelling to ours."""
        self.exchange_api = exchange_api
        self.source = source
        self.as_of = as_of
        if listed is None:
            listed = [Product(theirs, ours, True, "") for theirs, ours in built_in.items()]
        by_symbol: dict[str, Product] = {}
        self.ambiguous = 0
        for product in listed:
            other = by_symbol.get(product.symbol)
            if other is not None:
                self.ambiguous += 1
            if other is None or (product.tradable and not other.tradable):
                by_symbol[product.symbol] = product
        self.by_symbol: Mapping[str, Product] = MappingProxyType(by_symbol)
        known = {ours: theirs for theirs, ours in built_in.items()}
        known.update((symbol, product.id) for symbol, product in self.by_symbol.items())
        self.known: Mapping[str, str] = MappingProxyType(known)
        self.products: Mapping[str, str] = MappingProxyType(
            {**built_in, **{product.id: product.symbol for product in listed}}
        )

    def __len__(self) -> int:
        """How many symbols are listed."""
        return len(self.by_symbol)

    def why_not(self, symbol: str) -> str:
        """Why a symbol cannot be listened to, with the nearest one that can if there is one; empty if it can."""
        why = self._why_not(symbol)
        if why and symbol not in self.by_symbol and (near := self._nearest(symbol)):
            why += f"; did you mean {near}?"
        return why

    def status(self, symbol: str) -> str:
        """The exchange's own word for the state of a listed symbol (TRADING, HALT, online, ...); empty if it has said none."""
        product = self.by_symbol.get(symbol)
        return "" if product is None else product.status

    def describe(self) -> str:
        """How much there is, and how old it is: `912 symbols, fetched 2026-08-09T21:05Z`."""
        if self.source == "built-in":
            return f"{len(self)} symbols, built in"
        fetched = datetime.fromtimestamp(self.as_of // NS_PER_S, UTC)
        return f"{len(self)} symbols, fetched {fetched:%Y-%m-%dT%H:%MZ}"

    def _why_not(self, symbol: str) -> str:
        product = self.by_symbol.get(symbol)
        if product is None:
            return f"not in the product list of {self.exchange_api} ({self.describe()})"
        if product.tradable:
            return ""
        if product.status.startswith(ALIAS_OF):
            theirs = product.status.removeprefix(ALIAS_OF)
            return f"{product.id} is an alias of {theirs}: listen to {self.products.get(theirs, theirs)}"
        if product.status == KUCOIN_GONE:
            return f"not traded any more, or not yet: {product.status}"
        return f"delisted: status {product.status or 'unknown'}"

    def _nearest(self, symbol: str) -> str:
        """The symbol that was meant, as far as one can tell: by their spelling, else the most alike of the same base or quote."""
        if ours := self.products.get(symbol) or self.products.get(symbol.upper()):
            return ours if not self._why_not(ours) else ""
        base, _, quote = symbol.upper().partition("/")
        alike = [
            ours
            for ours, product in self.by_symbol.items()
            if product.tradable and (ours.startswith(f"{base}/") or (quote and ours.endswith(f"/{quote}")))
        ]
        near = difflib.get_close_matches(symbol.upper(), alike, 1)
        return near[0] if near else ""


def changes(before: Listing, after: Listing) -> Changes:
    """Compare two lists of one API: which symbols can no longer be listened to, which can now, and whose status is another.

    A change of status is told only between two lists of the exchange's own, and only of what could and can be listened to.
    """
    untradable, tradable, restated = [], [], []
    for symbol in sorted(before.by_symbol.keys() | after.by_symbol.keys()):
        could, why = not before._why_not(symbol), after._why_not(symbol)
        if could and why:
            untradable.append((symbol, _renamed(symbol, before, after) or why))
        elif not could and not why:
            tradable.append(symbol)
        elif not why and "built-in" not in (before.source, after.source):
            was, now = before.by_symbol[symbol].status, after.by_symbol[symbol].status
            if was != now:
                restated.append((symbol, f"{was}, now {now}"))
    return Changes(tuple(untradable), tuple(tradable), tuple(restated))


def _renamed(symbol: str, before: Listing, after: Listing) -> str:
    """What has become of a symbol whose id is still there, under another name."""
    theirs = before.known[symbol]
    now = after.products.get(theirs, symbol)
    return f"renamed: {theirs} is {now} now" if now != symbol else ""
