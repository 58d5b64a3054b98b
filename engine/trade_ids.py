"""What an ingress knows of the trade ids of one exchange: what its feed asks before it asks the exchange for what is missing."""

from __future__ import annotations

from engine.block import NO_ID, Keys
from engine.ingress import COUNT, FIRST_RANGE, HIGHEST, LAST, TRADE, Ingress


class TradeIds:
    """The ids by symbol; all of them as of the last input that was admitted."""

    def __init__(self, keys: Keys, ingress: Ingress, exchange: str) -> None:
        self._keys, self._ingress, self._exchange = keys, ingress, exchange

    def missing(self, symbol: str) -> list[tuple[int, int]]:
        """Return the ids that are missing and not given up, as (first, last), both inclusive, lowest first."""
        code = self._code(symbol)
        return [] if code is None else self._ingress.missing(code)

    def newest_id(self, symbol: str) -> int | None:
        """Return the highest id that has come, live or as history; None if there is none."""
        code = self._code(symbol)
        return None if code is None else self._ingress.newest_id(code)

    def skipped_below(self, symbol: str) -> int | None:
        """Return the highest id that has come, if ids between the last that was folded and it have not; else None."""
        code = self._code(symbol)
        if code is None:
            return None
        last, highest, count = self._ingress.state[code, [LAST, HIGHEST, COUNT]].tolist()
        if not count or last in (highest, NO_ID):
            return None
        end = self._ingress.state.item(code, FIRST_RANGE + 2 * count - 1)
        return highest if end > last else None

    def forgotten(self, symbol: str) -> int:
        """Return how many spans of missing ids had to be forgotten."""
        code = self._code(symbol)
        return 0 if code is None else self._ingress.forgotten_of(code)

    def trades_folded(self, symbol: str) -> int:
        """Return how many trades were folded."""
        code = self._code(symbol)
        return 0 if code is None else self._ingress.counts.item(code, TRADE)

    def _code(self, symbol: str) -> int | None:
        code = self._keys.find((self._exchange, symbol))
        return code if code is not None and code < len(self._ingress.state) else None
