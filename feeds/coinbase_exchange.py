"""Coinbase Exchange (ws-feed) to ticks and quotes: `match`, `last_match` and `ticker`.

Side        that of a match is the MAKER's: "sell" is an up-tick, the taker bought. (That of a ticker is the taker's, of the same
            trade. Nothing is made of it: the match has told of that trade already)
History     last_match repeats a product's last trade at each subscribe: its tick is late
Times       RFC 3339 with microseconds. 0001-01-01T00:00:00.000000Z has been sent, and is refused
Ids         trade_id is contiguous per product. `sequence` counts every message of a product's full channel, of which these are a
            few: it is a quote's update_id, and tells no gaps
Sizes       best_bid_size and best_ask_size are sent since 2022; without them a quote's sizes are NaN
No event    heartbeat, subscriptions, status, error, l2update, snapshot, the orders of the full channel, types not known yet
Exchange    `coinbase`, as in Advanced Trade: both APIs tell of the same trades, by the same ids
Reference   https://docs.cdp.coinbase.com/exchange/websocket-feed/channels
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from engine.errors import DecodeError
from engine.events import Event, Quote, Tick
from feeds.products import built_in_products
from feeds.timestamps import rfc3339_ns
from feeds.wire import ABSENT, UNREADABLE, Identifier, Number, Spelling, Word, is_text

EXCHANGE: Final = "coinbase"


class _Match(msgspec.Struct, gc=False, tag_field="type", tag="match"):
    trade_id: Identifier
    side: Literal["buy", "sell"]
    size: Number
    price: Number
    product_id: Word
    time: str


class _LastMatch(_Match, gc=False, tag_field="type", tag="last_match"): ...


class _Ticker(msgspec.Struct, gc=False, tag_field="type", tag="ticker"):
    sequence: Identifier
    product_id: Word
    best_bid: Number
    best_ask: Number
    time: str
    best_bid_size: Number = math.nan
    best_ask_size: Number = math.nan


class _Heartbeat(msgspec.Struct, gc=False, tag_field="type", tag="heartbeat"):
    """A type without events, as the next two: named, so that its messages need no second look."""


class _Level2Update(msgspec.Struct, gc=False, tag_field="type", tag="l2update"): ...


class _Snapshot(msgspec.Struct, gc=False, tag_field="type", tag="snapshot"): ...


class _Outline(msgspec.Struct):
    type: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(
    _Match | _LastMatch | _Ticker | _Heartbeat | _Level2Update | _Snapshot, strict=False
).decode
_decode_outline = msgspec.json.Decoder(_Outline).decode
_WITH_EVENTS: Final = (b'"match"', b'"last_match"', b'"ticker"')


class CoinbaseExchangeDecoder:
    """Decode what the public channels of Coinbase Exchange send. `products` as in `feeds.decoder`."""

    def __init__(self, products: Mapping[str, str] | None = None) -> None:
        self._symbols = Spelling(built_in_products(EXCHANGE) if products is None else products)

    def decode(self, frame: bytes, received: int) -> list[Event]:
        """Turn one frame into at most one event, stamped with `received` (ns, our clock).

        Zero, negative and crossed values go through: whoever reads refuses and counts them.
        Raises DecodeError if the frame breaks the protocol.
        """
        try:
            if not frame.isascii():
                frame.decode()  # the parser takes any bytes in the fields that it skips
            message = _decode(frame)
            if isinstance(message, _Match):
                return [
                    Tick(
                        EXCHANGE,
                        self._symbols[message.product_id],
                        message.price,
                        message.size,
                        "buy" if message.side == "sell" else "sell",
                        rfc3339_ns(message.time),
                        received,
                        message.trade_id,
                        0,
                        type(message) is _LastMatch,
                    )
                ]
            if type(message) is _Ticker:
                return [
                    Quote(
                        EXCHANGE,
                        self._symbols[message.product_id],
                        message.best_bid,
                        message.best_bid_size,
                        message.best_ask,
                        message.best_ask_size,
                        rfc3339_ns(message.time),
                        received,
                        message.sequence,
                    )
                ]
        except msgspec.ValidationError as error:
            if _is_foreign(frame):
                return []
            raise DecodeError(EXCHANGE, str(error), frame) from error
        except (*UNREADABLE, ValueError) as error:
            raise DecodeError(EXCHANGE, str(error), frame) from error
        return []


def _is_foreign(frame: bytes) -> bool:
    """Tell whether a frame that does not fit is a well-formed message of a type that holds no event."""
    try:
        kind = _decode_outline(frame).type
    except UNREADABLE:
        return False
    return kind is ABSENT or (is_text(kind) and bytes(kind) not in _WITH_EVENTS)
