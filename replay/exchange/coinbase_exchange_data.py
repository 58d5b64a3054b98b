"""What Coinbase Exchange says of its market: which numbers of a message move, and trades and products as REST answers them.

What moves      trade_id, sequence (which counts all that happens to a product), time
What does not   order ids, prices, sizes, volumes
History         last_match, which a subscription begins with, is not sent: a session says its own
Side            the MAKER's in match and in REST answers; the taker's in ticker
Reference       https://docs.cdp.coinbase.com/exchange/websocket-feed/channels, .../reference/exchangerestapi_getproducttrades
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from replay.exchange.market import View
from replay.exchange.venue import Reply, Request
from replay.rewrite import (
    COVERS_NOTHING,
    Field,
    Form,
    Movable,
    Moves,
    Shape,
    Trade,
    movable_of,
    places,
    rfc3339,
    time_of,
)
from replay.trades import Made

KIND: Final = Moves.TRADE_ID

# Messages

_TIME: Final = Field(Moves.EVENT_TIME, form=Form.RFC3339_US)
_MATCH: Final[Mapping[str, Shape]] = {"trade_id": Field(KIND), "sequence": Field(Moves.UPDATE_ID), "time": _TIME}
_SHAPES: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        "match": _MATCH,
        "last_match": _MATCH,
        # The first ticker of a recording speaks of a trade before it: what the recording covers, matches say.
        "ticker": {**_MATCH, "trade_id": Field(KIND, COVERS_NOTHING)},
        "l2update": {"time": _TIME},
    }
)
_CHANNELS: Final = MappingProxyType({"match": "matches", "last_match": "matches", "l2update": "level2_batch"})


class _Message(msgspec.Struct):
    type: str
    product_id: str


class _Match(msgspec.Struct):
    trade_id: int
    price: str
    size: str
    time: str
    side: Literal["buy", "sell"]


_read = msgspec.json.Decoder(_Message).decode
_read_match = msgspec.json.Decoder(_Match).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encode = msgspec.json.encode


def movable(frame: bytes) -> Sequence[Movable]:
    """Return a frame so that it can be moved; () if it is no market data of a product."""
    try:
        message = _read(frame)
    except _UNREADABLE:
        return ()
    kind, product = message.type, message.product_id
    if kind not in _SHAPES or not product:
        return ()
    payload = frame.strip()
    trades = _trades(payload) if kind in ("match", "last_match") else ()
    stream = f"{_CHANNELS.get(kind, kind)}:{product}"
    found = places(payload, _SHAPES[kind])
    return (movable_of(payload, stream, product, found, trades, is_history=kind == "last_match"),)


def _trades(payload: bytes) -> tuple[Trade, ...]:
    try:
        match = _read_match(payload)
    except _UNREADABLE:
        return ()
    time_ns = time_of(match.time.encode())
    if time_ns is None:
        return ()
    return (Trade(KIND, match.trade_id, match.price, match.size, "sell" if match.side == "buy" else "buy", time_ns),)


# REST

PAGE_MAX: Final = 1_000


def reply(request: Request, view: View) -> Reply:
    """Answer a request."""
    parts = request.path.strip("/").split("/")
    if request.method != "GET" or parts[0] != "products" or len(parts) > 3:
        return mistake(404, "NotFound")
    if len(parts) == 1:
        return Reply(200, _encode([_product(view, symbol) for symbol in view.market.symbols]))
    product = parts[1]
    if product not in view.market.symbols:
        return mistake(404, "NotFound")
    if len(parts) == 2:
        return Reply(200, _encode(_product(view, product)))
    return _trades_page(request.query, view, product) if parts[2] == "trades" else mistake(404, "NotFound")


def mistake(status: int, message: str) -> Reply:
    """Return what is answered instead of a result."""
    return Reply(status, _encode({"message": message}))


def _trades_page(query: Mapping[str, str], view: View, product: str) -> Reply:
    numbers: dict[str, int | None] = {}
    for name in ("limit", "before", "after"):
        text = query.get(name) or None
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 19):
            return mistake(400, f"Invalid {name}: expected a whole number, found {text!r}")
        numbers[name] = None if text is None else int(text)
    limit, before, after = numbers["limit"], numbers["before"], numbers["after"]
    count = PAGE_MAX if limit is None else limit
    if not 1 <= count <= PAGE_MAX:
        return mistake(400, f"Invalid limit: expected 1 to {PAGE_MAX}, found {count}")
    if before is not None and after is not None:
        return mistake(400, "only one of before and after can be given")
    if after is not None:
        made = view.older(product, KIND, after, count)
    elif before is not None:
        made = view.newer(product, KIND, before, count)
    else:
        made = view.newest(product, KIND, count)
    cursors = {"CB-BEFORE": str(made[-1].id), "CB-AFTER": str(made[0].id)} if made else {}
    return Reply(200, _encode([_trade(view, one) for one in reversed(made)]), cursors)


def _trade(view: View, made: Made) -> dict[str, Any]:
    return {
        "trade_id": made.id,
        "side": "sell" if made.trade.side == "buy" else "buy",
        "size": made.trade.size,
        "price": made.trade.price,
        "time": rfc3339(view.time_ns(made), is_short=False).decode(),
    }


def _product(view: View, product: str) -> dict[str, Any]:
    base, _, quote = view.market.symbol(product).replace("-", "/").partition("/")
    return {
        "id": product,
        "base_currency": base,
        "quote_currency": quote,
        "display_name": f"{base}-{quote}",
        "status": "online",
        "status_message": "",
        "trading_disabled": False,
    }
