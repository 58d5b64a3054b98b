"""KuCoin's classic public feed to ticks and quotes: `trade.l3match` and `trade.ticker`.

Message     {"topic":"/market/match:BTC-USDT","type":"message","subject":"trade.l3match","data":{...}}, keys in any order
Side        the taker's, as it is
Times       of a match in ns, as text; of a ticker in ms, as a number, under `time` (`Time` in the exchange's own example)
Ids         a match's `sequence` is the trade id: an integer that rises, but is not contiguous. (Its tradeId was hexadecimal until
            2021; since then it is that same number.) A ticker's `sequence` is the quote's update_id
Pairs       a ticker names its pair only in its topic. Ids stay when a currency is renamed: BCHSV-USDT is BSV/USDT
No event    welcome, ack, pong, error, every other subject: level 1 and 2, candles, what is not known yet
Reference   https://www.kucoin.com/docs/websocket/spot-trading/public-channels/introduction
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from engine.errors import DecodeError
from engine.events import Event, Quote, Tick
from feeds.products import built_in_products
from feeds.wire import ABSENT, UNREADABLE, Identifier, Number, Spelling, Word, is_text

EXCHANGE: Final = "kucoin"
TICKERS: Final = "/market/ticker"
NS_PER_MS: Final = 1_000_000

_Ns: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Ms: TypeAlias = Annotated[int, Meta(ge=0, le=(2**63 - 1) // NS_PER_MS)]


class _Trade(msgspec.Struct, gc=False):
    # In today's order on the wire, where the parser looks for each field first.
    price: Number
    sequence: Identifier
    side: Literal["buy", "sell"]
    size: Number
    symbol: Word
    time: _Ns


class _Match(msgspec.Struct, gc=False, tag_field="subject", tag="trade.l3match"):
    data: _Trade
    type: Literal["message"]


class _Best(msgspec.Struct, gc=False):
    best_ask: Number = msgspec.field(name="bestAsk")
    best_ask_size: Number = msgspec.field(name="bestAskSize")
    best_bid: Number = msgspec.field(name="bestBid")
    best_bid_size: Number = msgspec.field(name="bestBidSize")
    sequence: Identifier
    time: _Ms | None = None
    time_of_the_example: _Ms | None = msgspec.field(default=None, name="Time")


class _Ticker(msgspec.Struct, gc=False, tag_field="subject", tag="trade.ticker"):
    data: _Best
    topic: str
    type: Literal["message"]


class _Level2(msgspec.Struct, gc=False, tag_field="subject", tag="trade.l2update"):
    """A subject without events: named, so that the most frequent of all needs no second look."""


class _Outline(msgspec.Struct):
    type: msgspec.Raw = ABSENT
    subject: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(_Match | _Ticker | _Level2, strict=False).decode
_decode_outline = msgspec.json.Decoder(_Outline).decode
_WITH_EVENTS: Final = (b'"trade.l3match"', b'"trade.ticker"')


class KucoinDecoder:
    """Decode what KuCoin's public channels send. `products` as in `feeds.decoder`."""

    def __init__(self, products: Mapping[str, str] | None = None) -> None:
        self._symbols = Spelling(built_in_products(EXCHANGE) if products is None else products)
        self._topics = {f"{TICKERS}:{pair}": symbol for pair, symbol in self._symbols.items()}

    def decode(self, frame: bytes, received: int) -> list[Event]:
        """Turn one frame into at most one event, stamped with `received` (ns, our clock).

        Zero, negative and crossed values go through: whoever reads refuses and counts them.
        Raises DecodeError if the frame breaks the protocol.
        """
        try:
            if not frame.isascii():
                frame.decode()  # the parser takes any bytes in the fields that it skips
            message = _decode(frame)
        except msgspec.ValidationError as error:
            if _is_foreign(frame):
                return []
            raise DecodeError(EXCHANGE, str(error), frame) from error
        except UNREADABLE as error:
            raise DecodeError(EXCHANGE, str(error), frame) from error
        if type(message) is _Match:
            trade = message.data
            return [
                Tick(
                    EXCHANGE,
                    self._symbols[trade.symbol],
                    trade.price,
                    trade.size,
                    trade.side,
                    trade.time,
                    received,
                    trade.sequence,
                )
            ]
        if type(message) is _Ticker:
            return [self._quote(message, frame, received)]
        return []

    def _quote(self, ticker: _Ticker, frame: bytes, received: int) -> Quote:
        best = ticker.data
        time = best.time_of_the_example if best.time is None else best.time
        if time is None:
            raise DecodeError(EXCHANGE, "a ticker without a time: expected `time` in ms", frame)
        symbol = self._topics.get(ticker.topic)
        if symbol is None:
            head, _, symbol = ticker.topic.partition(":")
            if head != TICKERS or not symbol:
                raise DecodeError(EXCHANGE, f"a ticker of {ticker.topic[:80]!r}, expected {TICKERS}:PAIR", frame)
        return Quote(
            EXCHANGE,
            symbol,
            best.best_bid,
            best.best_bid_size,
            best.best_ask,
            best.best_ask_size,
            time * NS_PER_MS,
            received,
            best.sequence,
        )


def _is_foreign(frame: bytes) -> bool:
    """Tell whether a frame that does not fit is a well-formed message that holds no event."""
    try:
        outline = _decode_outline(frame)
    except UNREADABLE:
        return False
    kind, subject = outline.type, outline.subject
    if kind is ABSENT:
        return subject is ABSENT
    if not is_text(kind):
        return False
    return bytes(kind) != b'"message"' or (is_text(subject) and bytes(subject) not in _WITH_EVENTS)
