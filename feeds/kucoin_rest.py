"""The newest trades of KuCoin: the last 100 of a symbol are all that it tells of the past.

Ask         GET /api/v1/market/histories?symbol=BTC-USDT
Answer      {"code":"200000","data":[{"sequence":"..","price":"..","size":"..","side":"buy","time":<ns>}]}
Side        the taker's, as in the stream
Ids         `sequence` rises and is not contiguous: a trade that is missing cannot be told from an id that never was
Reference   https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-trade-history
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from engine.events import Tick
from feeds.history import Page, rows_of
from feeds.spans import Span
from feeds.wire import Identifier, Number

EXCHANGE: Final = "kucoin"
GRANTED: Final = "200000"


class _Trade(msgspec.Struct, gc=False):
    sequence: Identifier
    price: Number
    size: Number
    side: Literal["buy", "sell"]
    time: Annotated[int, Meta(ge=0, le=2**63 - 1)]  # ns


class _Answer(msgspec.Struct, gc=False):
    code: str
    data: list[_Trade] = []
    msg: str = ""


_decode = msgspec.json.Decoder(_Answer, strict=False).decode


def _rows(answer: bytes) -> list[_Trade]:
    read = _decode(answer)
    if read.code != GRANTED:
        raise ValueError(f"code {read.code} {read.msg}".rstrip())
    return read.data


class KucoinHistory:
    """The `HistoryProtocol` of KuCoin spot. `spelling` is ours (BTC/USDT) to KuCoin's (BTC-USDT)."""

    exchange = EXCHANGE
    proves_gaps = False

    def __init__(self, rest: str, spelling: Mapping[str, str]) -> None:
        self._path = f"{rest.rstrip('/')}/api/v1/market/histories"
        self._spelling = spelling

    def ask(self, symbol: str, first: int, last: int, until_ns: int) -> str:
        return self.ask_newest(symbol)

    def ask_newest(self, symbol: str) -> str:
        return f"{self._path}?symbol={self._spelling[symbol]}"

    def read(self, symbol: str, body: bytes, received: int, wanted: Span | None = None) -> Page:
        def ticks(answer: bytes) -> list[Tick]:
            return [
                Tick(EXCHANGE, symbol, row.price, row.size, row.side, row.time, received, row.sequence, late=True)
                for row in _rows(answer)
            ]

        found = rows_of(EXCHANGE, body, ticks, f'an object with code "{GRANTED}" and data')
        if not found or found[0].trade_id is None or found[-1].trade_id is None:
            return Page((), None)
        return Page(tuple(found), (found[0].trade_id, found[-1].trade_id), found[0].timestamp)
