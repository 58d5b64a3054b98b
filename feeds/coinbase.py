"""Coinbase Advanced Trade to ticks and quotes: `market_trades` and `ticker`.

Envelope    {"channel":"market_trades","timestamp":"...","sequence_num":9,"events":[{"type":"update","trades":[...]}]}
Side        market_trades sends the MAKER's: the taker's is the opposite. In a recording of 2026-08-09, 73 of 78 trades printed
            on the other side of the mid than their `side` says
Order       the trades of an event come newest first, and leave here oldest first
History     an event of type `snapshot` repeats the last trades of a product at each subscribe: its ticks are late. A snapshot of
            tickers holds the newest quote, which is not
Times       RFC 3339. A trade has its own, a quote that of its envelope
Ids         trade_id is contiguous per product. sequence_num counts the messages of one connection and begins at 0 with each, so it
            is no update_id of a quote: that is None
Pairs       BTC-USDC is an alias of BTC-USD: public channels answer with the product of the USD pair, which is what was traded
No event    heartbeats, subscriptions, l2_data, candles, status, errors, channels not known yet. They are skipped, not parsed: the
            snapshot of a book is one message of 5 MB
Reference   https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from engine.errors import DecodeError
from engine.events import Event, Quote, Side, Tick
from feeds.products import built_in_products
from feeds.timestamps import rfc3339_ns
from feeds.wire import ABSENT, UNREADABLE, Identifier, Number, Spelling, Word, is_text

EXCHANGE: Final = "coinbase"

_TAKER: Final[dict[str, Side | None]] = {"BUY": "sell", "SELL": "buy", "UNKNOWN_ORDER_SIDE": None}


class _Trade(msgspec.Struct, gc=False):
    product_id: Word
    trade_id: Identifier
    price: Number
    size: Number
    time: str
    side: Literal["BUY", "SELL", "UNKNOWN_ORDER_SIDE"]  # the third is in the exchange's own list of them


class _Trades(msgspec.Struct, gc=False):
    type: str
    trades: list[_Trade]


class _Ticker(msgspec.Struct, gc=False):
    product_id: Word
    best_bid: Number
    best_ask: Number
    best_bid_quantity: Number = math.nan
    best_ask_quantity: Number = math.nan


class _Tickers(msgspec.Struct, gc=False):
    tickers: list[_Ticker]


class _MarketTrades(msgspec.Struct, gc=False, tag_field="channel", tag="market_trades"):
    events: list[_Trades]


class _TickerChannel(msgspec.Struct, gc=False, tag_field="channel", tag="ticker"):
    timestamp: str
    events: list[_Tickers]


class _Heartbeats(msgspec.Struct, gc=False, tag_field="channel", tag="heartbeats"):
    """A channel without events, as the next five: named, so that its messages need no second look."""


class _Level2(msgspec.Struct, gc=False, tag_field="channel", tag="l2_data"): ...


class _Subscriptions(msgspec.Struct, gc=False, tag_field="channel", tag="subscriptions"): ...


class _Candles(msgspec.Struct, gc=False, tag_field="channel", tag="candles"): ...


class _TickerBatch(msgspec.Struct, gc=False, tag_field="channel", tag="ticker_batch"): ...


class _Status(msgspec.Struct, gc=False, tag_field="channel", tag="status"): ...


class _Outline(msgspec.Struct):
    channel: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(
    _MarketTrades | _TickerChannel | _Heartbeats | _Level2 | _Subscriptions | _Candles | _TickerBatch | _Status,
    strict=False,
).decode
_decode_outline = msgspec.json.Decoder(_Outline).decode
_WITH_EVENTS: Final = (b'"market_trades"', b'"ticker"')


class CoinbaseDecoder:
    """Decode what the public channels of Coinbase Advanced Trade send. `products` as in `feeds.decoder`."""

    def __init__(self, products: Mapping[str, str] | None = None) -> None:
        self._symbols = Spelling(built_in_products(EXCHANGE) if products is None else products)

    def decode(self, frame: bytes, received: int) -> list[Event]:
        """Turn one frame into all its trades or quotes, stamped with `received` (ns, our clock).

        Zero, negative and crossed values go through: whoever reads refuses and counts them.
        Raises DecodeError if the frame breaks the protocol.
        """
        try:
            if not frame.isascii():
                frame.decode()  # the parser takes any bytes in the fields that it skips
            message = _decode(frame)
            if type(message) is _MarketTrades:
                return self._ticks(message, received)
            if type(message) is _TickerChannel:
                return self._quotes(message, received)
        except msgspec.ValidationError as error:
            if _is_foreign(frame):
                return []
            raise DecodeError(EXCHANGE, str(error), frame) from error
        except (*UNREADABLE, ValueError) as error:
            raise DecodeError(EXCHANGE, str(error), frame) from error
        return []

    def _ticks(self, message: _MarketTrades, received: int) -> list[Event]:
        symbols = self._symbols
        ticks: list[Event] = []
        for event in message.events:
            is_history = event.type == "snapshot"
            event.trades.reverse()
            for trade in event.trades:
                ticks.append(
                    Tick(
                        EXCHANGE,
                        symbols[trade.product_id],
                        trade.price,
                        trade.size,
                        _TAKER[trade.side],
                        rfc3339_ns(trade.time),
                        received,
                        trade.trade_id,
                        0,
                        is_history,
                    )
                )
        return ticks

    def _quotes(self, message: _TickerChannel, received: int) -> list[Event]:
        symbols = self._symbols
        timestamp = rfc3339_ns(message.timestamp)
        quotes: list[Event] = []
        for event in message.events:
            for ticker in event.tickers:
                quotes.append(
                    Quote(
                        EXCHANGE,
                        symbols[ticker.product_id],
                        ticker.best_bid,
                        ticker.best_bid_quantity,
                        ticker.best_ask,
                        ticker.best_ask_quantity,
                        timestamp,
                        received,
                    )
                )
        return quotes


def _is_foreign(frame: bytes) -> bool:
    """Tell whether a frame that does not fit is a well-formed message of a channel that holds no event."""
    try:
        channel = _decode_outline(frame).channel
    except UNREADABLE:
        return False
    return channel is ABSENT or (is_text(channel) and bytes(channel) not in _WITH_EVENTS)
