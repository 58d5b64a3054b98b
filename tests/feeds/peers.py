"""Exchanges as a state machine meets them: what they take, what they answer, what they hold against whoever speaks to them.

Each keeps one socket at a time, checks every message of ours against its own rules, and has its answers ready as frames. They are
written from the exchanges' documentation, not from the protocols that they test.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, ClassVar

from feeds.binance_stream import BinanceProtocol
from feeds.coinbase_exchange_stream import CoinbaseExchangeProtocol
from feeds.coinbase_stream import CoinbaseProtocol
from feeds.kucoin_stream import KucoinProtocol
from feeds.speech import StreamProtocol

S = 1_000_000_000
SYMBOLS = tuple(f"S{number}/USDT" for number in range(12))
DASHED = {name: name.replace("/", "-") for name in SYMBOLS}
OURS = {theirs: ours for ours, theirs in DASHED.items()}


class Peer:
    """One exchange, one socket at a time. `pending` are the frames that it is about to send."""

    exchange: ClassVar[str]
    protocol: StreamProtocol
    messages: ClassVar[int]
    span_ns: ClassVar[int] = S
    first_by_ns: ClassVar[int | None] = None
    """Within which time of the opening it has to be spoken to."""

    def __init__(self) -> None:
        self.subscribed: dict[str, set[str]] = {channel: set() for channel in self.protocol.channels}
        self.waiting: deque[tuple[Any, bool, str, list[str]]] = deque()
        """Requests that are not answered: (id, subscribes, channel, our symbols)."""
        self.pending: deque[str] = deque()
        self.spoken: list[int] = []
        self.opened_at = 0
        self.is_greeted = True
        self.unknown: set[str] = set()
        """Symbols that it does not have."""
        self.is_lossy = False
        """Whether an answer on this socket was lost or made up: what is asked then need not fit what was."""

    def open(self, now: int) -> None:
        self.opened_at = now
        self.is_greeted = not self.protocol.greets

    def close(self) -> None:
        self.is_lossy = False
        self.waiting.clear()
        self.pending.clear()
        for symbols in self.subscribed.values():
            symbols.clear()

    def hear(self, text: str, now: int) -> None:
        """Take a message of ours."""
        self.say(now)
        assert self.is_greeted, f"{text} before the greeting"
        self.take(json.loads(text), now)
        for symbols in self.subscribed.values():
            assert len(symbols) <= self.protocol.capacity

    def say(self, now: int) -> None:
        """Count a message of ours, of whatever kind."""
        self.spoken.append(now)
        before = self.spoken[-self.messages - 1 : -self.messages]
        assert not before or before[0] <= now - self.span_ns, f"{self.messages + 1} messages within {self.span_ns} ns"

    def take(self, message: dict[str, Any], now: int) -> None:
        raise NotImplementedError

    def ask(self, number: Any, subscribes: bool, channel: str, symbols: list[str]) -> None:
        assert len(set(symbols)) == len(symbols)
        had = self.subscribed[channel]
        if subscribes:
            assert self.is_lossy or not had & set(symbols), "asked for what is subscribed already"
            had |= set(symbols)
        else:
            assert self.is_lossy or set(symbols) <= had, "dropped what was never asked for"
            had -= set(symbols)
        self.waiting.append((number, subscribes, channel, symbols))

    def answer(self) -> None:
        """Answer all requests as it sees fit."""
        while self.waiting:
            if self.unknown & set(self.waiting[0][3]):
                self.refuse()
            else:
                self.accept()

    def accept(self) -> None:
        """Grant the request that has waited longest."""
        number, subscribes, channel, symbols = self.waiting.popleft()
        self.pending.append(self.granted(number, subscribes, channel, symbols))

    def refuse(self) -> None:
        """Turn it down."""
        number, subscribes, channel, symbols = self.waiting.popleft()
        if subscribes and symbols:
            # What was asked for again by a later request stays.
            later = {symbol for _, _, other, named in self.waiting if other == channel for symbol in named}
            self.subscribed[channel] -= set(symbols) - later
        self.pending.append(self.turned_down(number))

    def granted(self, number: Any, subscribes: bool, channel: str, symbols: list[str]) -> str:
        raise NotImplementedError

    def turned_down(self, number: Any) -> str:
        raise NotImplementedError


class BinancePeer(Peer):
    exchange = "binance"
    messages = 5

    def __init__(self, batch: int = 100, capacity: int = 1_024) -> None:
        self.protocol = BinanceProtocol(
            "wss://stream.binance.com:9443", ["trade"], {name: name.replace("/", "") for name in SYMBOLS}, capacity
        )
        self.protocol.batch = batch
        super().__init__()

    def take(self, message: dict[str, Any], now: int) -> None:
        assert set(message) == {"method", "params", "id"}
        names = [name.removesuffix("@trade") for name in message["params"]]
        symbols = [name[: -len("usdt")].upper() + "/USDT" for name in names]
        assert symbols
        self.ask(message["id"], message["method"] == "SUBSCRIBE", "", symbols)

    def granted(self, number: Any, subscribes: bool, channel: str, symbols: list[str]) -> str:
        return json.dumps({"result": None, "id": number})

    def turned_down(self, number: Any) -> str:
        return json.dumps({"id": number, "error": {"code": 2, "msg": "Invalid symbol"}})


class CoinbasePeer(Peer):
    exchange = "coinbase"
    messages = 8
    first_by_ns = 5 * S

    def __init__(self, batch: int = 100, capacity: int = 100) -> None:
        self.protocol = CoinbaseProtocol("wss://advanced-trade-ws.coinbase.com", DASHED, capacity)
        self.protocol.batch = batch
        super().__init__()
        self.has_heartbeats = False
        self.lists: dict[str, list[str]] = {}

    def close(self) -> None:
        super().close()
        self.has_heartbeats = False
        self.lists.clear()

    def take(self, message: dict[str, Any], now: int) -> None:
        channel, subscribes = message["channel"], message["type"] == "subscribe"
        if channel == "heartbeats":
            assert set(message) == {"type", "channel"}
            assert not self.has_heartbeats
            self.has_heartbeats = True
            self.waiting.append((None, True, channel, []))
            return
        assert self.has_heartbeats, "heartbeats come first"
        assert set(message) == {"type", "channel", "product_ids"}
        self.ask(None, subscribes, channel, [OURS[product] for product in message["product_ids"]])

    def granted(self, number: Any, subscribes: bool, channel: str, symbols: list[str]) -> str:
        listed = self.lists.setdefault(channel, [])
        if channel == "heartbeats":
            listed.append("heartbeats")
        for symbol in symbols:
            if subscribes and DASHED[symbol] not in listed:
                listed.append(DASHED[symbol])
            elif not subscribes and DASHED[symbol] in listed:
                listed.remove(DASHED[symbol])
        subscriptions = {name: products for name, products in self.lists.items() if products}
        return json.dumps({"channel": "subscriptions", "sequence_num": 2, "events": [{"subscriptions": subscriptions}]})

    def turned_down(self, number: Any) -> str:
        return json.dumps({"type": "error", "message": "failed to subscribe"})

    def answer(self) -> None:
        """It grants what it has, and does not speak of the rest."""
        while self.waiting:
            _, _, channel, symbols = self.waiting[0]
            symbols[:] = [symbol for symbol in symbols if symbol not in self.unknown]
            if channel in self.subscribed:
                self.subscribed[channel] -= self.unknown
            self.accept()


class CoinbaseExchangePeer(Peer):
    exchange = "coinbase_exchange"
    messages = 8
    first_by_ns = 5 * S

    def __init__(self, batch: int = 100, capacity: int = 100) -> None:
        self.protocol = CoinbaseExchangeProtocol("wss://ws-feed.exchange.coinbase.com", DASHED, capacity)
        self.protocol.batch = batch
        super().__init__()
        self.listed: list[str] = []

    def close(self) -> None:
        super().close()
        self.listed.clear()

    def take(self, message: dict[str, Any], now: int) -> None:
        assert set(message) == {"type", "product_ids", "channels"}
        assert message["channels"] == ["matches", "ticker", "heartbeat"]
        self.ask(None, message["type"] == "subscribe", "", [OURS[product] for product in message["product_ids"]])

    def granted(self, number: Any, subscribes: bool, channel: str, symbols: list[str]) -> str:
        for symbol in symbols:
            if subscribes and DASHED[symbol] not in self.listed:
                self.listed.append(DASHED[symbol])
            elif not subscribes and DASHED[symbol] in self.listed:
                self.listed.remove(DASHED[symbol])
        names = ("ticker", "heartbeat", "matches") if self.listed else ()
        channels = [{"name": name, "product_ids": self.listed} for name in names]
        return json.dumps({"type": "subscriptions", "channels": channels})

    def turned_down(self, number: Any) -> str:
        return json.dumps({"type": "error", "message": "Failed to subscribe", "reason": "not a valid product"})


class KucoinPeer(Peer):
    exchange = "kucoin"
    messages = 100
    span_ns = 10 * S
    ping_ns = 18 * S
    pong_ns = 10 * S

    def __init__(self, batch: int = 100, capacity: int = 300) -> None:
        self.protocol = KucoinProtocol("https://api.kucoin.com", "", DASHED, capacity)
        self.protocol.batch = batch
        super().__init__()
        self.tokens = 0
        self.pings: list[int] = []

    def bullet(self) -> bytes:
        """The answer to the fetch before a dial: another token each time."""
        self.tokens += 1
        server = {
            "endpoint": "wss://ws-api-spot.kucoin.com/",
            "encrypt": True,
            "protocol": "websocket",
            "pingInterval": self.ping_ns // 1_000_000,
            "pingTimeout": self.pong_ns // 1_000_000,
        }
        data = {"token": f"token{self.tokens}", "instanceServers": [server]}
        return json.dumps({"code": "200000", "data": data}).encode()

    def open(self, now: int) -> None:
        super().open(now)
        self.pings.clear()
        self.pending.append('{"id":"hQvf8jkno","type":"welcome"}')

    def take(self, message: dict[str, Any], now: int) -> None:
        if message["type"] == "ping":
            assert set(message) == {"id", "type"}
            self.pings.append(now)
            self.pending.append(json.dumps({"id": message["id"], "type": "pong"}))
            return
        assert set(message) == {"id", "type", "topic", "privateChannel", "response"}
        topic, _, products = message["topic"].partition(":")
        symbols = [OURS[product] for product in products.split(",")]
        assert 0 < len(symbols) <= 100
        self.ask(message["id"], message["type"] == "subscribe", topic, symbols)

    def granted(self, number: Any, subscribes: bool, channel: str, symbols: list[str]) -> str:
        return json.dumps({"id": str(number), "type": "ack"})

    def turned_down(self, number: Any) -> str:
        return json.dumps({"id": str(number), "type": "error", "code": 404, "data": "topic is not found"})


PEERS: dict[str, type[BinancePeer | CoinbasePeer | CoinbaseExchangePeer | KucoinPeer]] = {
    peer.exchange: peer for peer in (BinancePeer, CoinbasePeer, CoinbaseExchangePeer, KucoinPeer)
}
