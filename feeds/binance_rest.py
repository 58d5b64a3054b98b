"""Trades of Binance's past: `trade` ids from historicalTrades, `aggTrade` ids from aggTrades, each of which counts by itself.

Ask         GET /api/v3/historicalTrades?symbol=BTCUSDT&fromId=1&limit=1000 (weight 25), /api/v3/aggTrades likewise (weight 4)
Answer      trades from `fromId` on, oldest first; none if there is none so new
Side        isBuyerMaker or m, as in the stream: the buyer was the maker, so the taker sold
Times       in ms, or in us, as in the stream
Reference   https://developers.binance.com/docs/binance-spot-api-docs/rest-api
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from engine.events import Tick
from feeds.binance import FIRST_US, NS_PER_US
from feeds.binance_forms import LAST_MS, LAST_US, NS_PER_MS
from feeds.history import Page, rows_of
from feeds.spans import Span
from feeds.wire import Identifier, Number

EXCHANGE: Final = "binance"
PAGE: Final = 1_000

_Time: TypeAlias = Annotated[int, Meta(ge=0, le=LAST_US)]


class _Trade(msgspec.Struct, gc=False, rename={"volume": "qty", "sold": "isBuyerMaker"}):
    id: Identifier
    price: Number
    volume: Number
    time: _Time
    sold: bool


class _Aggregate(msgspec.Struct, gc=False, rename={"id": "a", "price": "p", "volume": "q", "time": "T", "sold": "m"}):
    id: Identifier
    price: Number
    volume: Number
    time: _Time
    sold: bool


_read_trades = msgspec.json.Decoder(list[_Trade], strict=False).decode
_read_aggregates = msgspec.json.Decoder(list[_Aggregate], strict=False).decode


def _time_ns(time: int) -> int:
    if time <= LAST_MS:
        return time * NS_PER_MS
    if time < FIRST_US:
        raise ValueError(f"time {time} is neither ms nor us")
    return time * NS_PER_US


class BinanceHistory:
    """The `HistoryProtocol` of Binance spot. `spelling` is ours (BTC/USDT) to Binance's (BTCUSDT)."""

    exchange = EXCHANGE
    proves_gaps = True

    def __init__(self, rest: str, spelling: Mapping[str, str], *, aggregates: bool = False) -> None:
        self._path = f"{rest.rstrip('/')}/api/v3/{'aggTrades' if aggregates else 'historicalTrades'}"
        self._read = _read_aggregates if aggregates else _read_trades
        self._expected = f"a list of {'aggregate ' if aggregates else ''}trades"
        self._spelling = spelling

    def ask(self, symbol: str, first: int, last: int, until_ns: int) -> str:
        # One more than is missing: where the trade behind the gap is there, none before it is still on its way.
        limit = min(PAGE, last - first + 2)
        return f"{self._path}?symbol={self._spelling[symbol]}&fromId={first}&limit={limit}"

    def ask_newest(self, symbol: str) -> str:
        return f"{self._path}?symbol={self._spelling[symbol]}&limit={PAGE}"

    def read(self, symbol: str, body: bytes, received: int, wanted: Span | None = None) -> Page:
        def ticks(answer: bytes) -> list[Tick]:
            return [
                Tick(
                    EXCHANGE, symbol, row.price, row.volume, "sell" if row.sold else "buy", _time_ns(row.time), received,
                    row.id, late=True,
                )
                for row in self._read(answer)
            ]  # fmt: skip

        found = rows_of(EXCHANGE, body, ticks, self._expected)
        newest = found[-1].trade_id if found else None
        return Page(tuple(found), (wanted[0], newest) if wanted is not None and newest is not None else None)
