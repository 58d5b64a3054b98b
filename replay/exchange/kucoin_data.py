"""What KuCoin says of its market: which numbers of a message move, and trades and symbols as REST answers them.

What moves      sequence, sequenceStart, sequenceEnd and those of the book's changes: one count of all that happens to a symbol
                tradeId: the number of `sequence`; until 2021 an object id, the first digits of which are when it was made
                time (ns as text, ms as a number), start of a candle
What does not   order ids, prices, sizes
Side            the taker's
Ids             `sequence` rises from trade to trade and is not contiguous
Reference       https://www.kucoin.com/docs/websocket/spot-trading/public-channels, .../rest/spot-trading/market-data
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from replay.exchange.market import View
from replay.exchange.venue import Reply, Request
from replay.rewrite import (
    NS_PER_MS,
    NS_PER_S,
    Each,
    Field,
    Form,
    Movable,
    Moves,
    Shape,
    Trade,
    movable_of,
    places,
    unit_of,
)
from replay.trades import Made

KIND: Final = Moves.UPDATE_ID

# Messages

_TIME: Final = Field(Moves.EVENT_TIME)
_MATCH: Final[Mapping[str, Shape]] = {"sequence": Field(KIND), "time": _TIME}
_LEVELS: Final = Each(Each(Field(KIND), 2))
_SHAPES: Final[Mapping[str, Mapping[str, Shape]]] = MappingProxyType(
    {
        "trade.l3match": {**_MATCH, "tradeId": Field(KIND)},
        "trade.ticker": {**_MATCH, "Time": _TIME},
        "trade.l2update": {
            "sequenceStart": Field(KIND),
            "sequenceEnd": Field(KIND),
            "changes": {"asks": _LEVELS, "bids": _LEVELS},
            "time": _TIME,
        },
        "trade.candles.add": {"candles": Each(Field(Moves.OTHER_TIME, unit=NS_PER_S), 0), "time": _TIME},
        "trade.candles.update": {"candles": Each(Field(Moves.OTHER_TIME, unit=NS_PER_S), 0), "time": _TIME},
        "level1": {"timestamp": _TIME},
        "level2": {"timestamp": _TIME},
    }
)
"""Subject to the numbers of its `data` that move; other subjects have a time only."""
_OBJECT_ID: Final[Mapping[str, Shape]] = {**_MATCH, "tradeId": Field(Moves.OTHER_TIME, form=Form.HEX_S)}


class _Message(msgspec.Struct):
    type: str
    topic: str
    data: msgspec.Raw
    subject: str = ""


class _Match(msgspec.Struct, rename={"name": "tradeId"}):
    sequence: str
    price: str
    size: str
    side: Literal["buy", "sell"]
    time: str
    name: str = ""


_read = msgspec.json.Decoder(_Message).decode
_read_match = msgspec.json.Decoder(_Match).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encode = msgspec.json.encode


def movable(frame: bytes) -> Sequence[Movable]:
    """Return a frame so that it can be moved; () if it is no market data of one symbol."""
    try:
        message = _read(frame)
    except _UNREADABLE:
        return ()
    symbol = message.topic.partition(":")[2].partition("_")[0]
    if message.type != "message" or not symbol or "," in symbol:
        return ()
    payload = frame.strip()
    shape = _SHAPES.get(message.subject, {"time": _TIME})
    trades: tuple[Trade, ...] = ()
    if message.subject == "trade.l3match" and (match := _match(bytes(message.data))) is not None:
        if not match.name.isdigit():
            shape = _OBJECT_ID
        time = int(match.time)
        trades = (Trade(KIND, int(match.sequence), match.price, match.size, match.side, time * unit_of(time)),)
    return (movable_of(payload, message.topic, symbol, places(payload, {"data": shape}), trades),)


def _match(data: bytes) -> _Match | None:
    try:
        match = _read_match(data)
    except _UNREADABLE:
        return None
    numbers = match.sequence, match.time
    return match if all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers) else None


# REST

HISTORIES: Final = "/api/v1/market/histories"
SYMBOLS: Final = "/api/v2/symbols"
TIMESTAMP: Final = "/api/v1/timestamp"
HISTORY_TRADES: Final = 100


def reply(request: Request, view: View) -> Reply:
    """Answer a request for market data."""
    path, query = request.path, request.query
    if request.method == "GET":
        if path == TIMESTAMP:
            return granted(view.now_ns // NS_PER_MS)
        if path == SYMBOLS:
            return granted([_symbol(view, symbol) for symbol in view.market.symbols])
        if path.startswith(SYMBOLS + "/"):
            symbol = path.removeprefix(SYMBOLS + "/")
            return (
                granted(_symbol(view, symbol))
                if symbol in view.market.symbols
                else mistake(400, "900001", "symbol not exists")
            )
        if path == HISTORIES:
            symbol = query.get("symbol", "")
            if symbol not in view.market.symbols:
                return mistake(400, "400100", "symbol not exists")
            return granted([_trade(view, made) for made in view.newest(symbol, KIND, HISTORY_TRADES)])
    return mistake(404, "404", f"{request.method} {path} is not found")


def granted(data: Any) -> Reply:
    """Return an answer that holds what was asked for."""
    return Reply(200, _encode({"code": "200000", "data": data}))


def mistake(status: int, code: str, message: str) -> Reply:
    """Return what is answered instead of a result."""
    return Reply(status, _encode({"code": code, "msg": message}))


def _trade(view: View, made: Made) -> dict[str, Any]:
    trade = made.trade
    return {
        "sequence": str(made.id),
        "price": trade.price,
        "size": trade.size,
        "side": trade.side,
        "time": view.time_ns(made),
    }


def _symbol(view: View, symbol: str) -> dict[str, Any]:
    name = view.market.symbol(symbol).replace("/", "-")
    base, _, quote = symbol.partition("-")
    return {"symbol": symbol, "name": name, "baseCurrency": base, "quoteCurrency": quote, "enableTrading": True}
