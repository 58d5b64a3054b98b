"""Trades of Coinbase Advanced Trade's past, by time: it does not take ids.

Ask         GET /api/v3/brokerage/market/products/BTC-USD/ticker?limit=1000&start=<s>&end=<s>: newest first, whole seconds of UTC
Side        the MAKER's, as in the stream
Reference   https://docs.cdp.coinbase.com/api-reference/advanced-trade-api/rest-api/public/get-public-market-trades
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
BACK_S: Final = 86_400
"""How far one question reaches back: newest first, so what is further away than a page is asked for next."""
NS_PER_S: Final = 1_000_000_000

_TAKER: Final[dict[str, Side | None]] = {"BUY": "sell", "SELL": "buy", "UNKNOWN_ORDER_SIDE": None}


class _Trade(msgspec.Struct, gc=False):
    trade_id: Identifier
    price: Number
    size: Number
    time: str
    side: Literal["BUY", "SELL", "UNKNOWN_ORDER_SIDE"]


class _Trades(msgspec.Struct, gc=False):
    trades: list[_Trade]


_read = msgspec.json.Decoder(_Trades, strict=False).decode


class CoinbaseHistory:
    """The `HistoryProtocol` of Coinbase Advanced Trade. `spelling` is ours (BTC/USD) to Coinbase's (BTC-USD)."""

    exchange = EXCHANGE
    proves_gaps = True

    def __init__(self, rest: str, spelling: Mapping[str, str]) -> None:
        self._products = f"{rest.rstrip('/')}/api/v3/brokerage/market/products"
        self._spelling = spelling

    def ask(self, symbol: str, first: int, last: int, until_ns: int) -> str:
        # A second more than that: the trade behind the gap is to be among them, so that none before it is still on its way.
        end = -(-until_ns // NS_PER_S) + 1
        return f"{self._products}/{self._spelling[symbol]}/ticker?limit={PAGE}&start={end - BACK_S}&end={end}"

    def ask_newest(self, symbol: str) -> str:
        return f"{self._products}/{self._spelling[symbol]}/ticker?limit={NEWEST}"

    def read(self, symbol: str, body: bytes, received: int, wanted: Span | None = None) -> Page:
        def ticks(answer: bytes) -> list[Tick]:
            return [
                Tick(
                    EXCHANGE, symbol, row.price, row.size, _TAKER[row.side], rfc3339_ns(row.time), received, row.trade_id,
                    late=True,
                )
                for row in _read(answer).trades
            ]  # fmt: skip

        found = rows_of(EXCHANGE, body, ticks, "an object with trades")
        if not found or found[0].trade_id is None or found[-1].trade_id is None:
            return Page((), None, None)
        return Page(tuple(found), (found[0].trade_id, found[-1].trade_id), found[0].timestamp)
