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
from feeds.products import built_in_products

EXCHANGE: Final = "binance"
KINDS: Final = frozenset({"trade", "aggTrade", "bookTicker"})

# No frame says its unit, but the magnitudes cannot meet: until the year 2262, where int64 ns end, ms stay below 1e13,
# and us have been above 1e15 since 2001, before there was a Binance. What lies between is no time.
FIRST_US: Final = 1_000_000_000_000_000
LAST_MS: Final = (2**63 - 1) // 1_000_000
LAST_US: Final = (2**63 - 1) // 1_000
NS_PER_MS: Final = 1_000_000
NS_PER_US: Final = 1_000

# Prices are JSON texts, so the parser is lax (strict=False); the bounds keep out what it would take for floats: "nan", "inf".
_Number: TypeAlias = Annotated[float, Meta(ge=-1.7976931348623157e308, le=1.7976931348623157e308)]
_Id: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
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

    Faster than a struct for each kind, which needs a look at the bytes beforehand (sketches of both took 0.69 and 0.89 us a
    combined trade). `b` and `a` are prices in a bookTicker and, until 2024, order ids in a trade; `a` is the id of an aggTrade.
    """

    kind: str | None = None
    event_time: _Time | None = None
    symbol: str | None = None
    trade_id: _Id | None = None
    bid: _Number | None = None
    bid_volume: _Number | None = None
    ask_or_id: _Id | _Number | None = None
    ask_volume: _Number | None = None
    price: _Number | None = None
    volume: _Number | None = None
    time: _Time | None = None
    buyer_is_maker: bool | None = None
    execution: str | None = None
    update_id: _Id | None = None


class _Frame(_Payload, gc=False):
    """A raw frame, or a combined one, of which only these two are set."""

    stream: str | None = None
    data: _Payload | None = None


_Anything: TypeAlias = str | int | float | bool | list[msgspec.Raw] | dict[str, msgspec.Raw] | None


class _Outline(msgspec.Struct, rename={"kind": "e", "update_id": "u"}):
    """What tells which kind a payload is, of whatever type: other kinds use the same letters for other things."""

    kind: _Anything = None
    update_id: _Anything = None


class _FrameOutline(_Outline):
    stream: str | None = None
    data: _Outline | list[msgspec.Raw] | str | int | float | bool | None = None


_decode = msgspec.json.Decoder(_Frame, strict=False).decode
_decode_outline = msgspec.json.Decoder(_FrameOutline | list[_Outline]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class BinanceDecoder:
    """Decode what a Binance spot stream sends. `products` as in `feeds.decoder`."""

    def __init__(self, products: Mapping[str, str] | None = None) -> None:
        self._symbols = dict(built_in_products(EXCHANGE) if products is None else products)

    def decode(self, frame: bytes, received: int) -> list[Event]:
        """Turn one frame into at most one event, stamped with `received` (ns, our clock).

        Zero and negative prices and sizes go through: whoever reads refuses and counts them.
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
        except _UNREADABLE as error:
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
            self._symbols.get(symbol, symbol),
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
            self._symbols.get(symbol, symbol),
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
        outline = _decode_outline(frame)
    except _UNREADABLE:
        return False
    if isinstance(outline, list):  # the streams of all markets, raw: !miniTicker@arr
        return bool(outline) and all(isinstance(payload.kind, str) for payload in outline)
    if outline.stream is None:
        payload: object = outline
    else:
        payload = outline.data
        if isinstance(payload, list):
            return True
    if not isinstance(payload, _Outline):
        return False
    if payload.kind is None:
        return payload.update_id is None
    return isinstance(payload.kind, str) and payload.kind not in KINDS
