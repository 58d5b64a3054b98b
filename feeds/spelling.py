"""Symbols in an exchange's spelling, and back again: the two directions of one mapping, which may change in its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Spelling:
    """`theirs_of`, ours to theirs, belongs to whoever handed it in; what it says now is what holds."""

    def __init__(self, theirs_of: Mapping[str, str]) -> None:
        self._theirs_of = theirs_of
        self._ours_of: dict[str, str] = {}

    def theirs(self, symbols: Iterable[str]) -> list[str]:
        """Spell symbols as the exchange does. Raises KeyError for one that is not in the mapping."""
        return [self._theirs_of[symbol] for symbol in symbols]

    def ours(self, theirs: str) -> str | None:
        """Our spelling; None if there is none."""
        symbol = self._ours_of.get(theirs)
        if symbol is None or self._theirs_of.get(symbol) != theirs:
            self._ours_of = {product: ours for ours, product in self._theirs_of.items()}
            symbol = self._ours_of.get(theirs)
        return symbol
