"""Binance spot streams to ticks and quotes: `trade`, `aggTrade` and `bookTicker`, raw or combined.

Raw         the payload itself: {"e":"trade","s":"BTCUSDT",...}
Combined    {"stream":"btcusdt@trade","data":<payload>}
Side        m=true: the buyer was the maker, so the taker sold
Times       T and E in ms, or in us if the stream was asked for with timeUnit=MICROSECOND
Ids         t (trade) or a (aggTrade) is the trade id, u (bookTicker) the update id
No event    acknowledgements, errors, every other type of message, USD-M trades that were not made on the market
Reference   https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from engine.errors import DecodeError
from engine.events import Event, Quote, Tick
from feeds.binance_forms import LAST_MS, LAST_US, NS_PER_MS, readers
from feeds.products import built_in_products
from feeds.wire import ABSENT, UNREADABLE, Identifier, Number, Spelling, is_text

EXCHANGE: Final = "binance"
KINDS: Final = frozenset({"trade", "aggTrade", "bookTicker"})
WITH_EVENTS: Final = frozenset(f'"{kind}"'.encode() for kind in KINDS)

# No frame says its unit, but the magnitudes cannot meet: until the year 2262, where int64 ns end, ms stay below 1e13,
# and us have been above 1e15 since 2001, before there was a Binance. What lies between is no time.
FIRST_US: Final = 1_000_000_000_000_000
NS_PER_US: Final = 1_000
LONGEST_BYTES: Final = 8192
"""Forty times a trade. What is longer is only asked of what kind it is, so that nobody can make it costly."""

_Time: TypeAlias = Annotated[int, Meta(ge=0, le=LAST_US)]


class _Payload(
    msgspec.Struct,
    gc=False,
    rename={
        "kind": "e",
        "event_time": "E",
        "symbol": "s",
        "trade_id": "t",
        "bid": "b",
        "bid_volume": "B",
        "ask_or_id": "a",
        "ask_volume": "A",
        "price": "p",
        "volume": "q",
        "time": "T",
        "buyer_is_maker": "m",
        "execution": "X",
        "update_id": "u",
    },
):
    """The fields of all three kinds at once, so that one pass serves them all, whatever their order.

    `b` and `a` are prices in a bookTicker and, until 2024, order ids in a trade; `a` is the id of an aggTrade.
    """

    kind: str | None = None
    event_time: _Time | None = None
    symbol: str | None = None
    trade_id: Identifier | None = None
    bid: Number | None = None
    bid_volume: Number | None = None
    ask_or_id: Identifier | Number | None = None
    ask_volume: Number | None = None
    price: Number | None = None
    volume: Number | None = None
    time: _Time | None = None
    buyer_is_maker: bool | None = None
    execution: str | None = None
    update_id: Identifier | None = None


class _Frame(_Payload, gc=False):
    """A raw frame, or a combined one, of which only these two are set."""

    stream: str | None = None
    data: _Payload | None = None


class _Outline(msgspec.Struct, rename={"kind": "e", "update_id": "u"}):
    """What tells which kind a payload is, of whatever type: other kinds use the same letters for other things."""

    kind: msgspec.Raw = ABSENT
    update_id: msgspec.Raw = ABSENT


class _FrameOutline(_Outline):
    stream: str | None = None
    data: msgspec.Raw = ABSENT


class _ListOutline(msgspec.Struct, array_like=True):
    """The first of many payloads: the streams of all markets, !miniTicker@arr."""

    first: _Outline


_decode = msgspec.json.Decoder(_Frame, strict=False).decode
_decode_outline = msgspec.json.Decoder(_Outline).decode
_decode_frame_outline = msgspec.json.Decoder(_FrameOutline).decode
_decode_list_outline = msgspec.json.Decoder(_ListOutline).decode

# The third byte from the end tells the usual forms apart: "M":true} and false}, the same in a wrapper, "A":"1.54698000"} likewise.
_TRUE: Final = ord("u")
_FALSE: Final = ord("s")
_STREAMED_TRADE: Final = ord("e")
_STREAMED_BOOK: Final = ord('"')
_BOOK_FROM: Final = ord("0")
_BOOK_TO: Final = ord("9")


class BinanceDecoder:
    """Decode what a Binance spot stream sends. `products` as in `feeds.decoder`.

    Pairs of the list in one of spot's usual forms take the shortest way, all else a longer one, to the same events.
    """

    def __init__(self, products: Mapping[str, str] | None = None) -> None:
        self._symbols = Spelling(built_in_products(EXCHANGE) if products is None else products)
        self._listed = dict(self._symbols)  # a plain dict is the fastest, and the readers let no other name pass
        self._trade, self._streamed_trade, self._book, self._streamed_book = readers(tuple(self._listed))

    def decode(self, frame: bytes, received: int) -> list[Event]:
        """Turn one frame into at most one event, stamped with `received` (ns, our clock).

        Zero and negative prices and sizes go through: whoever reads refuses and counts them.
        Raises DecodeError if the frame breaks the protocol.
        """
        try:
            # A guess, which costs a tenth of finding it out: what is none of these does not fit, and goes the longer way.
            ending = frame[-3]
            if ending == _STREAMED_TRADE:
                read_streamed_trade = (
                    self._streamed_trade
                )  # called in two steps, since Python looks up a method slowly that is none
                trade = read_streamed_trade(frame).data
            elif ending == _TRUE or ending == _FALSE:  # noqa: PLR1714, SIM109  # a tuple costs 0.02 us
                read_trade = self._trade
                trade = read_trade(frame)
            else:
                if ending == _STREAMED_BOOK:
                    read_streamed_book = self._streamed_book
                    book = read_streamed_book(frame).data
                elif _BOOK_FROM <= ending <= _BOOK_TO:
                    read_book = self._book
                    book = read_book(frame)
                else:
                    return self._decode_any(frame, received)
                return [
                    Quote(
                        EXCHANGE,
                        self._listed[book.symbol],
                        book.bid,
                        book.bid_volume,
                        book.ask,
                        book.ask_volume,
                        received,
                        received,
                        book.update_id,
                    )
                ]
            return [
                Tick(
                    EXCHANGE,
                    self._listed[trade.symbol],
                    trade.price,
                    trade.volume,
                    "sell" if trade.buyer_is_maker else "buy",
                    trade.time * NS_PER_MS,
                    received,
                    trade.trade_id,
                )
            ]
        except (*UNREADABLE, LookupError):
            return self._decode_any(frame, received)

    def _decode_any(self, frame: bytes, received: int) -> list[Event]:
        """Decode any form of any message, or say what is wrong with it."""
        try:
            if not frame.isascii():
                frame.decode()  # the parser takes any bytes in the fields that it skips
            if len(frame) > LONGEST_BYTES:
                if _is_of_other_kind(frame):
                    return []
                raise DecodeError(EXCHANGE, f"expected a trade or quote in at most {LONGEST_BYTES} bytes", frame)
            message = _decode(frame)
        except msgspec.ValidationError as error:
            if _is_foreign(frame):
                return []
            raise DecodeError(EXCHANGE, str(error), frame) from error
        except UNREADABLE as error:
            raise DecodeError(EXCHANGE, str(error), frame) from error
        payload: _Payload | None = message if message.stream is None else message.data
        if payload is None:
            raise DecodeError(EXCHANGE, "a combined frame without data", frame)
        kind = payload.kind
        if kind is None:
            # Spot's bookTicker has no `e`; of the messages that have none, only it has these.
            if payload.update_id is not None or payload.bid_volume is not None or payload.ask_volume is not None:
                return [self._quote(payload, frame, received)]
            if message.stream is not None and message.stream.rpartition("@")[2] in KINDS:
                raise DecodeError(EXCHANGE, f"no event in a message of {message.stream}", frame)
            return []
        if kind == "trade":
            # USD-M also reports what the insurance fund and ADL did, at price 0; spot has no X.
            if payload.execution is not None and payload.execution != "MARKET":
                return []
            return [self._tick(payload, payload.trade_id, frame, received)]
        if kind == "aggTrade":
            return [self._tick(payload, payload.ask_or_id, frame, received)]
        if kind == "bookTicker":
            return [self._quote(payload, frame, received)]
        return []

    def _tick(self, trade: _Payload, trade_id: int | float | None, frame: bytes, received: int) -> Tick:
        symbol = trade.symbol
        price = trade.price
        volume = trade.volume
        sold = trade.buyer_is_maker
        time = trade.time
        if (
            not symbol
            or price is None
            or volume is None
            or sold is None
            or time is None
            or not isinstance(trade_id, int)
        ):
            raise DecodeError(EXCHANGE, f"a {trade.kind} needs s, p, q, T, m and an integer id", frame)
        return Tick(
            EXCHANGE,
            self._symbols[symbol],
            price,
            volume,
            "sell" if sold else "buy",
            time * NS_PER_MS if time <= LAST_MS else _from_us(time, frame),
            received,
            trade_id,
        )

    def _quote(self, book: _Payload, frame: bytes, received: int) -> Quote:
        symbol = book.symbol
        bid = book.bid
        bid_volume = book.bid_volume
        ask = book.ask_or_id
        ask_volume = book.ask_volume
        if (
            not symbol
            or bid is None
            or bid_volume is None
            or ask is None
            or ask_volume is None
            or book.update_id is None
        ):
            raise DecodeError(EXCHANGE, "a bookTicker needs u, s, b, B, a and A", frame)
        # Spot says nothing of when; USD-M says when it was matched (T) and sent (E).
        time = book.event_time if book.time is None else book.time
        timestamp = received
        if time is not None:
            timestamp = time * NS_PER_MS if time <= LAST_MS else _from_us(time, frame)
        return Quote(
            EXCHANGE,
            self._symbols[symbol],
            bid,
            bid_volume,
            float(ask),
            ask_volume,
            timestamp,
            received,
            book.update_id,
        )


def _from_us(time: int, frame: bytes) -> int:
    if time < FIRST_US:
        raise DecodeError(EXCHANGE, f"time {time} is neither ms nor us", frame)
    return time * NS_PER_US


def _is_foreign(frame: bytes) -> bool:
    """Tell whether a frame that does not fit is a well-formed message of a kind that holds no event."""
    try:
        return _is_of_other_kind(frame)
    except UNREADABLE:
        return False


def _is_of_other_kind(frame: bytes) -> bool:
    if frame.lstrip()[:1] == b"[":
        return is_text(_decode_list_outline(frame).first.kind)
    outline = _decode_frame_outline(frame)
    if outline.stream is None:
        return _holds_no_event(outline)
    if bytes(memoryview(outline.data)[:1]) == b"[":
        return True
    return _holds_no_event(_decode_outline(outline.data))


def _holds_no_event(payload: _Outline) -> bool:
    if payload.kind is ABSENT:
        return payload.update_id is ABSENT
    return is_text(payload.kind) and bytes(payload.kind) not in WITH_EVENTS
