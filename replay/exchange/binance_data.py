"""What Binance says of its market: which numbers of a message move, and trades and symbols as REST answers them.

What moves      E, T             times of the event
                t                trade id (trade); f, l of an aggTrade and f, L of a kline count in the same ids
                a                id of an aggTrade
                u, U, pu, lastUpdateId   update ids of the book
                k.t, k.T, O, C   other times: they move along, but may lie anywhere
What does not   b, a of a trade (order ids, until 2024), prices, sizes, counts
Trades          historicalTrades and trades answer those of `trade`, aggTrades those of `aggTrade`: what a recording does not hold is []
Mistakes        {"code":-1121,"msg":"Invalid symbol."} and the like, with status 400
Reference       https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams, .../rest-api, .../errors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, overload

import msgspec

from replay.exchange.market import View
from replay.exchange.venue import Reply, Request
from replay.rewrite import NS_PER_MS, Field, Movable, Moves, Shape, Trade, members, movable_of, places, unit_of
from replay.trades import Made

Side: TypeAlias = Literal["buy", "sell"]

# Messages

_TIMES: Final[Mapping[str, Field]] = {"E": Field(Moves.EVENT_TIME), "T": Field(Moves.EVENT_TIME)}
_BOOK: Final[Mapping[str, Field]] = {
    **_TIMES,
    **dict.fromkeys(("u", "U", "pu", "lastUpdateId"), Field(Moves.UPDATE_ID)),
}
_KLINE: Final[Mapping[str, Field]] = {
    "t": Field(Moves.OTHER_TIME),
    "T": Field(Moves.OTHER_TIME),
    "f": Field(Moves.TRADE_ID, 2),
    "L": Field(Moves.TRADE_ID, 2),
}
_SHAPES: Final[Mapping[str, Mapping[str, Shape]]] = MappingProxyType(
    {
        "trade": {**_TIMES, "t": Field(Moves.TRADE_ID)},
        "aggTrade": {
            **_TIMES,
            "a": Field(Moves.AGGREGATE_ID),
            "f": Field(Moves.TRADE_ID, 1),
            "l": Field(Moves.TRADE_ID, 1),
        },
        "bookTicker": _BOOK,
        "depthUpdate": _BOOK,
        "depth": _BOOK,
        "kline": {"E": Field(Moves.EVENT_TIME), "k": _KLINE},
        "24hrTicker": {
            "E": Field(Moves.EVENT_TIME),
            "O": Field(Moves.OTHER_TIME),
            "C": Field(Moves.OTHER_TIME),
            "F": Field(Moves.TRADE_ID, 2),
            "L": Field(Moves.TRADE_ID, 2),
        },
    }
)
"""Event type to its numbers that move; other types have times only."""
_SUFFIXES: Final = MappingProxyType({"depthUpdate": "depth", "24hrTicker": "ticker", "24hrMiniTicker": "miniTicker"})


class _Outline(msgspec.Struct):
    """What a frame says of itself; to decode it checks all of the frame's JSON."""

    stream: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    e: str | None = None
    s: str | None = None


class _Kline(msgspec.Struct, frozen=True):
    i: str = ""


class _KlineOutline(msgspec.Struct):
    k: _Kline = _Kline()


class _Trade(msgspec.Struct, rename={"id": "t", "time": "T"}):
    id: int
    p: str
    q: str
    time: int
    m: bool
    best: bool = msgspec.field(default=True, name="M")


class _Aggregate(msgspec.Struct, rename={"id": "a", "time": "T"}):
    id: int
    p: str
    q: str
    f: int
    l: int  # noqa: E741 - Binance's name
    time: int
    m: bool
    best: bool = msgspec.field(default=True, name="M")


_read_outline = msgspec.json.Decoder(_Outline).decode
_read_kline = msgspec.json.Decoder(_KlineOutline).decode
_read_trade = msgspec.json.Decoder(_Trade).decode
_read_aggregate = msgspec.json.Decoder(_Aggregate).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def movable(frame: bytes) -> Sequence[Movable]:
    """Return the payload of a raw or combined frame, so that it can be moved; () if it is no market data of one symbol."""
    try:
        outline = _read_outline(frame)
        if outline.stream is None or not bytes(outline.data):
            payload, said, stream = frame, outline, None
        else:
            payload, stream = bytes(outline.data), outline.stream
            said = _read_outline(payload)
    except _UNREADABLE:
        return ()
    payload = payload.strip()
    kind = said.e
    if kind is None:
        names = dict(members(payload, 0)).keys()
        kind = "bookTicker" if {"u", "B", "A"} <= names else "depth" if "lastUpdateId" in names else ""
    symbol = said.s or (stream.partition("@")[0].upper() if stream and not stream.startswith("!") else "")
    if not kind or not symbol:
        return ()
    found = places(payload, _SHAPES.get(kind, _TIMES))
    suffix = _SUFFIXES.get(kind, kind) if kind != "kline" else f"kline_{_interval(payload)}"
    return (movable_of(payload, stream or f"{symbol.lower()}@{suffix}", symbol, found, _trades(kind, payload)),)


def _interval(payload: bytes) -> str:
    try:
        return _read_kline(payload).k.i
    except _UNREADABLE:
        return ""


def _trades(kind: str, payload: bytes) -> tuple[Trade, ...]:
    try:
        if kind == "trade":
            one = _read_trade(payload)
            side = _side(one.m)
            return (
                Trade(Moves.TRADE_ID, one.id, one.p, one.q, side, one.time * unit_of(one.time), is_best_match=one.best),
            )
        if kind == "aggTrade":
            many = _read_aggregate(payload)
            time_ns = many.time * unit_of(many.time)
            return (
                Trade(Moves.AGGREGATE_ID, many.id, many.p, many.q, _side(many.m), time_ns, many.f, many.l, many.best),
            )
    except _UNREADABLE:
        pass
    return ()


def _side(buyer_is_maker: bool) -> Side:
    return "sell" if buyer_is_maker else "buy"


# REST

PAGE_MAX: Final = 1_000
PAGE: Final = 500
WEIGHTS: Final = MappingProxyType(
    {
        "/api/v3/ping": 1,
        "/api/v3/time": 1,
        "/api/v3/exchangeInfo": 20,
        "/api/v3/trades": 25,
        "/api/v3/historicalTrades": 25,
        "/api/v3/aggTrades": 4,
    }
)
"""Path to the weight of a request."""

_encode = msgspec.json.encode


class _MistakeError(Exception):
    """What a request is answered instead of its result."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.reply = Reply(400, _encode({"code": code, "msg": message}))


def reply(request: Request, view: View, limits: Sequence[Mapping[str, Any]]) -> Reply:
    """Answer a request. `limits` is what exchangeInfo says of them."""
    if request.path not in WEIGHTS:
        return Reply(404, f"expected one of {', '.join(WEIGHTS)}, found {request.path}\n".encode())
    if request.method != "GET":
        return Reply(405, b"expected GET\n")
    try:
        return Reply(200, _encode(_result(request, view, limits)))
    except _MistakeError as mistake:
        return mistake.reply


def _result(request: Request, view: View, limits: Sequence[Mapping[str, Any]]) -> Any:
    query = request.query
    name = request.path.rpartition("/")[2]
    if name == "ping":
        return {}
    if name == "time":
        return {"serverTime": view.now_ns // NS_PER_MS}
    if name == "exchangeInfo":
        return {
            "timezone": "UTC",
            "serverTime": view.now_ns // NS_PER_MS,
            "rateLimits": limits,
            "exchangeFilters": [],
            "symbols": [_symbol(view, symbol) for symbol in _asked_symbols(query, view)],
        }
    symbol, limit = _known_symbol(query.get("symbol"), view), _number(query, "limit", PAGE)
    if not 1 <= limit <= PAGE_MAX:
        raise _MistakeError(-1130, f"Data sent for parameter 'limit' is not valid: 1 to {PAGE_MAX}.")
    if name == "trades":
        return [_trade(view, made) for made in view.newest(symbol, Moves.TRADE_ID, limit)]
    if name == "historicalTrades":
        if "fromId" not in query:
            return [_trade(view, made) for made in view.newest(symbol, Moves.TRADE_ID, limit)]
        first = _number(query, "fromId", 0)
        return [_trade(view, made) for made in view.from_id(symbol, Moves.TRADE_ID, first, limit)]
    return [_aggregate(view, made) for made in _aggregates(query, view, symbol, limit)]


def _aggregates(query: Mapping[str, str], view: View, symbol: str, limit: int) -> list[Made]:
    kind = Moves.AGGREGATE_ID
    start, end = (_number(query, name, None) for name in ("startTime", "endTime"))
    if "fromId" in query:
        if start is not None or end is not None:
            raise _MistakeError(-1128, "Combination of optional parameters invalid.")
        return view.from_id(symbol, kind, _number(query, "fromId", 0), limit)
    if start is None and end is None:
        return view.newest(symbol, kind, limit)
    end_ns = (end + 1) * NS_PER_MS - 1 if end is not None else None
    return view.during(
        symbol, kind, start * NS_PER_MS if start is not None else None, end_ns, limit, oldest=start is not None
    )


def _trade(view: View, made: Made) -> dict[str, Any]:
    trade = made.trade
    return {
        "id": made.id,
        "price": trade.price,
        "qty": trade.size,
        "quoteQty": f"{Decimal(trade.price) * Decimal(trade.size):.8f}",
        "time": view.time_ns(made) // NS_PER_MS,
        "isBuyerMaker": trade.side == "sell",
        "isBestMatch": trade.is_best_match,
    }


def _aggregate(view: View, made: Made) -> dict[str, Any]:
    trade = made.trade
    inner = made.inner_shift
    return {
        "a": made.id,
        "p": trade.price,
        "q": trade.size,
        "f": trade.first_id + inner,
        "l": trade.last_id + inner,
        "T": view.time_ns(made) // NS_PER_MS,
        "m": trade.side == "sell",
        "M": trade.is_best_match,
    }


def _symbol(view: View, symbol: str) -> dict[str, Any]:
    base, _, quote = view.market.symbol(symbol).partition("/")
    return {"symbol": symbol, "status": "TRADING", "baseAsset": base, "quoteAsset": quote, "isSpotTradingAllowed": True}


def _asked_symbols(query: Mapping[str, str], view: View) -> Sequence[str]:
    """Return the symbols that exchangeInfo is asked for, or all whose base and quote are known."""
    if "symbol" in query:
        return [_known_symbol(query["symbol"], view)]
    if "symbols" in query:
        try:
            names = msgspec.json.decode(query["symbols"], type=list[str])
        except msgspec.DecodeError:
            raise _MistakeError(-1100, "Illegal characters found in parameter 'symbols'.") from None
        return [_known_symbol(name, view) for name in names]
    return [symbol for symbol in view.market.symbols if "/" in view.market.symbol(symbol)]


def _known_symbol(name: str | None, view: View) -> str:
    if name is None:
        raise _MistakeError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    if name not in view.market.symbols:
        raise _MistakeError(-1121, "Invalid symbol.")
    return name


@overload
def _number(query: Mapping[str, str], name: str, default: int) -> int: ...
@overload
def _number(query: Mapping[str, str], name: str, default: None) -> int | None: ...
def _number(query: Mapping[str, str], name: str, default: int | None) -> int | None:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _MistakeError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)
