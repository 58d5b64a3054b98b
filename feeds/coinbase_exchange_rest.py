"""Trades of Coinbase Exchange's past, by id.

Ask         GET /products/BTC-USD/trades?limit=1000&after=<id>: trades OLDER than the id, newest first
Side        the MAKER's, as in the stream
Reference   https://docs.cdp.coinbase.com/exchange/reference/exchangerestapi_getproducttrades
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from engine.events import Side, Tick
from feeds.history import Page, rows_of
from feeds.spans import Span
from feeds.timestamps import rfc3339_ns
from feeds.wire import Identifier, Number

EXCHANGE: Final = "coinbase"
PAGE: Final = 1_000
NEWEST: Final = 100

_TAKER: Final[dict[str, Side]] = {"buy": "sell", "sell": "buy"}


class _Trade(msgspec.Struct, gc=False):
    trade_id: Identifier
    price: Number
    size: Number
    time: str
    side: Literal["buy", "sell"]


_read = msgspec.json.Decoder(list[_Trade], strict=False).decode


class CoinbaseExchangeHistory:
    """The `HistoryProtocol` of Coinbase Exchange. `spelling` is ours (BTC/USD) to Coinbase's (BTC-USD)."""

    exchange = EXCHANGE
    proves_gaps = True

    def __init__(self, rest: str, spelling: Mapping[str, str]) -> None:
        self._products = f"{rest.rstrip('/')}/products"
        self._spelling = spelling

    def ask(self, symbol: str, first: int, last: int, until_ns: int) -> str:
        # The trade behind the gap is asked for too: where it is there, none before it is still on its way.
        limit = min(PAGE, last - first + 2)
        return f"{self._products}/{self._spelling[symbol]}/trades?limit={limit}&after={last + 2}"

    def ask_newest(self, symbol: str) -> str:
        return f"{self._products}/{self._spelling[symbol]}/trades?limit={NEWEST}"

    def read(self, symbol: str, body: bytes, received: int, wanted: Span | None = None) -> Page:
        def ticks(answer: bytes) -> list[Tick]:
            return [
                Tick(
                    EXCHANGE, symbol, row.price, row.size, _TAKER[row.side], rfc3339_ns(row.time), received, row.trade_id,
                    late=True,
                )
                for row in _read(answer)
            ]  # fmt: skip

        found = rows_of(EXCHANGE, body, ticks, "a list of trades")
        if not found or found[0].trade_id is None or found[-1].trade_id is None:
            return Page((), None)
        return Page(tuple(found), (found[0].trade_id, found[-1].trade_id))
