"""Markets that are made up, in messages that are not: capture lines of each feed, out of one seed.

Three symbols: one that trades seven times a second and never pauses for as long as 0.9 s, a calm one, and one that is silent for up to
43 s, as NEXO/USDT was. Trade ids are contiguous, but for KuCoin's. Each trade and each quote is a message as the exchange sends it
today; what a session says by itself (acknowledgements, heartbeats, snapshots) is the loopback exchange's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec

from feeds.products import built_in_products
from replay.sources import Line
from replay.tape import Tape

NS_PER_S: Final = 1_000_000_000
BEGIN_NS: Final = 1_690_000_000_000_000_000
"""When the recording was made, as its lines say."""
DELAY_NS: Final = 20_000_000
"""From a trade to its message."""
SYMBOLS: Final = {
    "binance": ("BTC/USDT", "ETH/USDT", "NEXO/USDT"),
    "coinbase": ("BTC/USD", "ETH/USD", "BAND/USD"),
    "coinbase_exchange": ("BTC/USD", "ETH/USD", "BAND/USD"),
    "kucoin": ("BTC/USDT", "ETH/USDT", "ANKR/USDT"),
}
"""Of each feed: the busy one, the calm one, the quiet one."""
FEEDS: Final = tuple(SYMBOLS)


class Manner(NamedTuple):
    """How a symbol trades: times in s."""

    mean_s: float
    longest_s: float
    price: float
    first_id: int
    quotes_s: float


MANNERS: Final = (
    Manner(0.15, 0.6, 61_837.63, 3_735_683_259, 0.5),
    Manner(0.8, 3.0, 2_683.80, 1_541_003_117, 2.0),
    Manner(30.0, 43.0, 1.1284, 20_512_048, 40.0),
)


class Happened(NamedTuple):
    """A trade, or a quote."""

    at_ns: int
    number: int  # of the symbol: 0, 1, 2
    trade_id: int | None
    price: float
    size: float
    bought: bool  # by the taker


def happenings(seconds: float, seed: int, *, contiguous: bool = True) -> Iterator[Happened]:
    """Yield all trades and quotes of a market, in order of time."""
    found: list[Happened] = []
    for number, manner in enumerate(MANNERS):
        chance = random.Random(f"market {seed} {number}")
        price, at, trade_id = manner.price, 0.0, manner.first_id
        while (at := at + max(0.001, min(chance.expovariate(1 / manner.mean_s), manner.longest_s))) < seconds:
            price *= 1 + chance.gauss(0, 0.0002)
            trade_id += 1 if contiguous else 1 + int(chance.expovariate(0.2))
            found.append(_happened(at, number, trade_id, price, chance))
        at = 0.0
        while (at := at + chance.uniform(0.5, 1.0) * manner.quotes_s) < seconds:
            found.append(_happened(at, number, None, manner.price * (1 + chance.gauss(0, 0.0002)), chance))
    return iter(sorted(found))


def _happened(at: float, number: int, trade_id: int | None, price: float, chance: random.Random) -> Happened:
    at_ns = BEGIN_NS + round(at * 1e6) * 1_000
    return Happened(at_ns, number, trade_id, price, 0.001 + chance.expovariate(4.0), chance.random() < 0.5)


# What each exchange makes of it -----------------------------------------------------------------------------------------------


def _rfc3339(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%S") + (
        f".{time_ns % NS_PER_S // 1_000:06d}Z"
    )


def _binance(one: Happened, symbol: str, count: int) -> Any:
    if one.trade_id is None:
        bid, ask = f"{one.price:.8f}", f"{one.price * 1.0001:.8f}"
        return {
            "u": 50_093_239_212 + 7 * count,
            "s": symbol,
            "b": bid,
            "B": f"{one.size:.8f}",
            "a": ask,
            "A": "1.54698000",
        }
    ms = one.at_ns // 1_000_000
    return {
        "e": "trade", "E": ms + 1, "s": symbol, "t": one.trade_id, "p": f"{one.price:.8f}", "q": f"{one.size:.8f}", "T": ms,
        "m": not one.bought, "M": True,
    }  # fmt: skip


def _coinbase(one: Happened, symbol: str, count: int) -> Any:
    stamp = _rfc3339(one.at_ns + DELAY_NS // 2)
    if one.trade_id is None:
        ticker = {
            "type": "ticker", "product_id": symbol, "price": f"{one.price:.2f}", "volume_24_h": "2867.54532609",
            "best_bid": f"{one.price:.2f}", "best_ask": f"{one.price + 0.01:.2f}", "best_bid_quantity": f"{one.size:.8f}",
            "best_ask_quantity": "0.24290402",
        }  # fmt: skip
        return {
            "channel": "ticker", "timestamp": stamp, "sequence_num": count, "events": [{"type": "update", "tickers": [ticker]}],
        }  # fmt: skip
    trade = {
        "product_id": symbol, "trade_id": str(one.trade_id), "price": f"{one.price:.2f}", "size": f"{one.size:.8f}",
        "time": _rfc3339(one.at_ns), "side": "SELL" if one.bought else "BUY",  # the maker's
    }  # fmt: skip
    return {
        "channel": "market_trades", "timestamp": stamp, "sequence_num": count,
        "events": [{"type": "update", "trades": [trade]}],
    }  # fmt: skip


def _coinbase_exchange(one: Happened, symbol: str, count: int) -> Any:
    price, stamp = f"{one.price:.2f}", _rfc3339(one.at_ns)
    if one.trade_id is None:
        # A ticker tells of a trade; of one that was made before the recording it is a quote and nothing more.
        return {
            "type": "ticker", "sequence": 333_938_798 + 3 * count, "product_id": symbol, "price": price, "open_24h": price,
            "best_bid": price, "best_bid_size": f"{one.size:.8f}", "best_ask": f"{one.price + 0.01:.2f}",
            "best_ask_size": "0.24290402", "side": "buy" if one.bought else "sell", "time": stamp,
            "trade_id": MANNERS[one.number].first_id, "last_size": f"{one.size:.8f}",
        }  # fmt: skip
    return {
        "type": "match", "trade_id": one.trade_id, "maker_order_id": "2a0d1f6e-7f0c-4a35-8a6c-2b2f1d6c9a01",
        "taker_order_id": "3c82b8a4-0d4f-4c6e-9c55-0b7f0a1e7d02", "side": "sell" if one.bought else "buy",
        "size": f"{one.size:.8f}", "price": price, "product_id": symbol, "sequence": 333_938_798 + 3 * count, "time": stamp,
    }  # fmt: skip


def _kucoin(one: Happened, symbol: str, count: int) -> Any:
    if one.trade_id is None:
        quote = {
            "sequence": str(11_067_996_711_960_577 + count), "price": f"{one.price:.4f}", "size": f"{one.size:.4f}",
            "bestAsk": f"{one.price * 1.0001:.4f}", "bestAskSize": "0.6", "bestBid": f"{one.price:.4f}",
            "bestBidSize": f"{one.size:.4f}", "time": one.at_ns // 1_000_000,
        }  # fmt: skip
        return {"type": "message", "topic": f"/market/ticker:{symbol}", "subject": "trade.ticker", "data": quote}
    number = str(11_067_996_000_000_000 + one.trade_id)
    trade = {
        "makerOrderId": "671b5a86b3b2ab0007c4a3b4", "price": f"{one.price:.4f}", "sequence": number,
        "side": "buy" if one.bought else "sell", "size": f"{one.size:.4f}", "symbol": symbol,
        "takerOrderId": "671b5a86b3b2ab0007c4a3b5", "time": str(one.at_ns), "tradeId": number, "type": "match",
    }  # fmt: skip
    return {"topic": f"/market/match:{symbol}", "type": "message", "subject": "trade.l3match", "data": trade}


MESSAGES: Final[dict[str, Callable[[Happened, str, int], Any]]] = {
    "binance": _binance,
    "coinbase": _coinbase,
    "coinbase_exchange": _coinbase_exchange,
    "kucoin": _kucoin,
}


def lines(feed: str, seconds: float, seed: int) -> Iterator[Line]:
    """Yield the market of a feed as the lines of a capture."""
    spelled = {ours: theirs for theirs, ours in built_in_products(feed).items()}
    names = [spelled[symbol] for symbol in SYMBOLS[feed]]
    for count, one in enumerate(happenings(seconds, seed, contiguous=feed != "kucoin")):
        message = MESSAGES[feed](one, names[one.number], count)
        raw = msgspec.Raw(msgspec.json.encode(msgspec.json.encode(message).decode()))
        yield Line("recv", one.at_ns + DELAY_NS, feed, raw)


@cache
def tape(feed: str, seconds: float = 60.0, seed: int = 0) -> Tape:
    """The market of a feed, `seconds` long. Made once: a tape never changes."""
    return Tape.from_lines(feed, f"a made-up market of {feed}", lines(feed, seconds, seed))
