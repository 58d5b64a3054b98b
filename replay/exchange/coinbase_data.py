"""What Coinbase Advanced Trade says of its market: which numbers of a message move, and trades and products as REST answers them.

What moves      timestamp of the envelope, time of a trade, trade_id; event_time of the book, start of a candle
                sequence_num, which is counted anew for each client
What does not   prices, sizes, volumes
Split           a message that speaks of several products becomes one for each, since a client may want only some of them
History         the snapshots that a subscription began with are not sent: a session makes its own of what its market has traded
Side            the MAKER's, in messages and in REST answers
Reference       https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels
                https://docs.cdp.coinbase.com/api-reference/advanced-trade-api/rest-api/public/get-public-market-trades
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from replay.exchange.market import View
from replay.exchange.venue import Reply, Request
from replay.rewrite import (
    NS_PER_S,
    NS_PER_US,
    Each,
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

_TIME: Final = Field(Moves.EVENT_TIME, form=Form.RFC3339, unit=NS_PER_US)
_ENVELOPE: Final[Mapping[str, Shape]] = {
    "timestamp": Field(Moves.EVENT_TIME, form=Form.RFC3339, unit=1),
    "sequence_num": Field(Moves.COUNT, form=Form.HOLE),
}
_SHAPES: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        "market_trades": {
            **_ENVELOPE,
            "events": Each({"trades": Each({"trade_id": Field(KIND), "time": _TIME})}),
        },
        "ticker": _ENVELOPE,
        "l2_data": {
            **_ENVELOPE,
            "events": Each(
                {"updates": Each({"event_time": Field(Moves.OTHER_TIME, form=Form.RFC3339, unit=NS_PER_US)})}
            ),
        },
        "candles": {
            **_ENVELOPE,
            "events": Each({"candles": Each({"start": Field(Moves.OTHER_TIME, unit=NS_PER_S)})}),
        },
    }
)
_CHANNELS: Final = MappingProxyType({"l2_data": "level2"})
"""What messages call a channel to what one subscribes to, where they differ."""
_LISTS: Final = MappingProxyType({"market_trades": "trades", "ticker": "tickers", "candles": "candles"})
"""Channel to the list of an event that speaks of products."""


class _Envelope(msgspec.Struct):
    channel: str
    timestamp: str
    sequence_num: int
    events: list[msgspec.Raw]


class _Event(msgspec.Struct):
    type: str
    product_id: str = ""
    trades: list[msgspec.Raw] = []
    tickers: list[msgspec.Raw] = []
    candles: list[msgspec.Raw] = []


class _Entry(msgspec.Struct):
    product_id: str


class _Trade(msgspec.Struct):
    trade_id: str
    price: str
    size: str
    time: str
    side: Literal["BUY", "SELL"]


_read = msgspec.json.Decoder(_Envelope).decode
_read_event = msgspec.json.Decoder(_Event).decode
_read_entry = msgspec.json.Decoder(_Entry).decode
_read_trade = msgspec.json.Decoder(_Trade).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encode = msgspec.json.encode


def movable(frame: bytes) -> Sequence[Movable]:
    """Return what a frame says, so that it can be moved, a message for each product; () if it is no market data of products."""
    try:
        envelope = _read(frame)
        if envelope.channel not in _SHAPES:
            return ()
        return tuple(_messages(frame.strip(), envelope))
    except _UNREADABLE:
        return ()


def _messages(frame: bytes, envelope: _Envelope) -> Iterator[Movable]:
    channel = envelope.channel
    for raw in envelope.events:
        event = _read_event(raw)
        entries: list[msgspec.Raw] = getattr(event, _LISTS[channel]) if channel in _LISTS else []
        by_product: dict[str, list[msgspec.Raw]] = {event.product_id: []} if event.product_id else {}
        for entry in entries:
            by_product.setdefault(_read_entry(entry).product_id, []).append(entry)
        is_history = event.type == "snapshot"
        if is_history and channel not in ("market_trades", "ticker"):
            continue
        for product, own in by_product.items():
            text = frame
            if len(envelope.events) > 1 or len(by_product) > 1:
                said = {"type": event.type, _LISTS[channel]: own} if own else raw
                text = _encode(
                    {
                        "channel": channel,
                        "timestamp": envelope.timestamp,
                        "sequence_num": envelope.sequence_num,
                        "events": [said],
                    }
                )
            trades = (
                [trade for entry in reversed(own) for trade in _trades(entry)] if channel == "market_trades" else []
            )
            stream = f"{_CHANNELS.get(channel, channel)}:{product}"
            yield movable_of(text, stream, product, places(text, _SHAPES[channel]), trades, is_history=is_history)


def _trades(entry: msgspec.Raw) -> Iterator[Trade]:
    try:
        trade = _read_trade(entry)
    except _UNREADABLE:
        return
    time_ns = time_of(trade.time.encode())
    if trade.trade_id.isascii() and trade.trade_id.isdigit() and time_ns is not None:
        side: Literal["buy", "sell"] = "sell" if trade.side == "BUY" else "buy"
        yield Trade(KIND, int(trade.trade_id), trade.price, trade.size, side, time_ns)


def trade_of(view: View, product: str, made: Made) -> dict[str, Any]:
    """Return a trade as Coinbase says it, in a snapshot and by REST."""
    return {
        "product_id": product,
        "trade_id": str(made.id),
        "price": made.trade.price,
        "size": made.trade.size,
        "time": rfc3339(view.time_ns(made) // NS_PER_US * NS_PER_US).decode(),
        "side": "SELL" if made.trade.side == "buy" else "BUY",
    }


# REST

PRODUCTS: Final = "/api/v3/brokerage/market/products"
PAGE_MAX: Final = 1_000
PAGE: Final = 100


class _Quote(msgspec.Struct):
    best_bid: str = ""
    best_ask: str = ""
    price: str = ""


class _Quotes(msgspec.Struct):
    tickers: list[_Quote]


class _Tickers(msgspec.Struct):
    events: list[_Quotes]


_read_tickers = msgspec.json.Decoder(_Tickers).decode


def reply(request: Request, view: View) -> Reply:
    """Answer a request."""
    if request.method != "GET" or not (request.path + "/").startswith(PRODUCTS + "/"):
        return mistake(404, "NOT_FOUND", f"expected GET {PRODUCTS}, {PRODUCTS}/<id> or {PRODUCTS}/<id>/ticker")
    product, _, rest = request.path.removeprefix(PRODUCTS).strip("/").partition("/")
    if not product:
        products = [_product(view, symbol) for symbol in view.market.symbols]
        return Reply(200, _encode({"products": products, "num_products": len(products)}))
    if product not in view.market.symbols or rest not in ("", "ticker"):
        return mistake(404, "NOT_FOUND", "valid product_id is required")
    if not rest:
        return Reply(200, _encode(_product(view, product)))
    return _ticker(request.query, view, product)


def mistake(status: int, error: str, message: str) -> Reply:
    """Return what is answered instead of a result."""
    return Reply(status, _encode({"error": error, "error_details": message, "message": message}))


def _ticker(query: Mapping[str, str], view: View, product: str) -> Reply:
    numbers: dict[str, int | None] = {}
    for name in ("limit", "start", "end"):
        text = query.get(name) or None
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 12):
            return mistake(400, "INVALID_ARGUMENT", f"{name}: expected a whole number, found {text!r}")
        numbers[name] = None if text is None else int(text)
    limit = PAGE if numbers["limit"] is None else numbers["limit"]
    if not 1 <= limit <= PAGE_MAX:
        return mistake(400, "INVALID_ARGUMENT", f"limit: expected 1 to {PAGE_MAX}, found {limit}")
    start, end = numbers["start"], numbers["end"]
    start_ns = start * NS_PER_S if start is not None else None
    end_ns = end * NS_PER_S if end is not None else None
    made = view.during(product, KIND, start_ns, end_ns, limit)
    quote = _quote(view, product)
    trades = [trade_of(view, product, one) | {"bid": "", "ask": ""} for one in reversed(made)]
    return Reply(200, _encode({"trades": trades, "best_bid": quote.best_bid, "best_ask": quote.best_ask}))


def _product(view: View, product: str) -> dict[str, Any]:
    base, _, quote = view.market.symbol(product).replace("-", "/").partition("/")
    return {
        "product_id": product,
        "price": _quote(view, product).price,
        "base_currency_id": base,
        "quote_currency_id": quote,
        "base_display_symbol": base,
        "quote_display_symbol": quote,
        "status": "online",
        "is_disabled": False,
        "trading_disabled": False,
        "view_only": False,
        "product_type": "SPOT",
        "alias": "",
        "alias_to": [],
    }


def _quote(view: View, product: str) -> _Quote:
    """Return the newest quote; an empty one if there was none yet."""
    message = view.message(f"ticker:{product}")
    if message is not None:
        tickers = _read_tickers(message.replace(b"\0", b"0")).events[0].tickers
        if tickers:
            return tickers[0]
    return _Quote()
