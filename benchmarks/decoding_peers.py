"""cryptofeed's and ccxt's own handlers of the messages that our decoders read: the peers of the decode path.

cryptofeed  a feed object's `message_handler(text, connection, received)`: yapic.json, Decimals, its Cython Trade or Ticker, and a callback
            of ours that does nothing. The coroutine is run to its end by hand, without an event loop
ccxt        `orjson.loads`, as its client does, then `handle_message(client, message)` of ccxt.pro with a client that resolves nothing:
            its parsed trade or ticker ends in its cache

Neither has a network here: markets are handed in, and KuCoin's token is made up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ccxt.pro as ccxt_pro
import orjson
from cryptofeed.defines import TICKER, TRADES
from cryptofeed.exchanges import Binance, Coinbase, KuCoin
from cryptofeed.symbols import Symbol, Symbols

Pair = tuple[str, str, str]
"""(the exchange's name, base, quote)."""
Handler = Callable[[Any], None]


@dataclass(frozen=True)
class Peer:
    """Something that takes a message, and where what it made of it can be found."""

    handle: Handler
    newest: Callable[[str], Any]
    """The newest trade or quote of a pair as (price or bid, size or ask, side or None, ms or None, id or None)."""
    takes_text: bool


class _Client:
    """What a handler of ccxt asks of its connection."""

    url = "wss://stream.binance.com:9443/stream"
    subscriptions: dict[str, Any] = {}  # noqa: RUF012  # nobody writes into it

    def resolve(self, *_: Any) -> None:
        """Nobody waits."""


class _NoToken:
    def write(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"data": {"token": "", "instanceServers": [{"endpoint": "wss://localhost", "pingInterval": 18000}]}}


def ccxt(feed: str, pairs: Sequence[Pair], kind: str) -> tuple[Peer, Any]:
    """Build ccxt's handler for a feed; `kind` is trade or quote. Returns it with the exchange object, which wants to be closed."""
    names = {"coinbase_exchange": "coinbaseexchange"}
    exchange = getattr(ccxt_pro, names.get(feed, feed))({"newUpdates": True})
    exchange.set_markets([_market(*pair) for pair in pairs])
    client, loads, handle_message = _Client(), orjson.loads, exchange.handle_message

    def handle(frame: bytes) -> None:
        handle_message(client, loads(frame))

    def newest(symbol: str) -> Any:
        if kind == "trade":
            trade = exchange.trades[symbol][-1]
            return trade["price"], trade["amount"], trade["side"], trade["timestamp"], trade["id"]
        quote = (exchange.bidsasks if feed == "binance" else exchange.tickers)[symbol]
        return quote["bid"], quote["ask"], None, quote["timestamp"], None

    return Peer(handle, newest, takes_text=False), exchange


def _market(name: str, base: str, quote: str) -> dict[str, Any]:
    unit = {"amount": 1e-12, "price": 1e-12}
    kinds = dict.fromkeys(("swap", "future", "option", "contract", "margin"), False)
    unknown = dict.fromkeys(("linear", "inverse", "settle", "settleId", "contractSize"))
    told = {"id": name, "symbol": f"{base}/{quote}", "base": base, "quote": quote, "baseId": base, "quoteId": quote}
    return (
        told
        | kinds
        | unknown
        | {"type": "spot", "spot": True, "active": True, "precision": unit, "limits": {}, "info": {}}
    )


def cryptofeed(feed: str, pairs: Sequence[Pair], kind: str) -> Peer:
    """Build cryptofeed's handler for a feed that it has: binance (aggTrade, bookTicker), coinbase (trades), kucoin."""
    exchange: Any = {"binance": Binance, "coinbase": Coinbase, "kucoin": KuCoin}[feed]
    exchange.http_sync = _NoToken()
    normal = {Symbol(base, quote).normalized: name for name, base, quote in pairs}
    Symbols.set(exchange.id, normal, {"instrument_type": dict.fromkeys(normal, "spot"), "tick_size": {}})
    made: deque[Any] = deque(maxlen=100)

    async def callback(told: Any, _: float) -> None:
        made.append(told)

    channel = TRADES if kind == "trade" else TICKER
    key = {"coinbase": {"key_id": "none", "key_secret": "none"}}
    handler = exchange(
        symbols=list(normal), channels=[channel], callbacks={channel: callback}, config=key
    ).message_handler

    def handle(text: str) -> None:
        running = handler(text, None, 1.0)
        try:
            running.send(None)
        except StopIteration:
            return
        raise RuntimeError(f"cryptofeed waits for something in {text[:100]}")

    def newest(symbol: str) -> Any:
        of_pair = [told for told in made if told.symbol == symbol.replace("/", "-")]
        if kind == "trade":  # of the trades of one message it tells the newest first
            told = max(of_pair, key=lambda told: int(told.id, 16))
            return float(told.price), float(told.amount), told.side, round(told.timestamp * 1000), told.id
        told = of_pair[-1]
        return float(told.bid), float(told.ask), None, None, None

    return Peer(handle, newest, takes_text=True)
