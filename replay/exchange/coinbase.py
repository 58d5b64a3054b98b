"""The loopback Coinbase Advanced Trade: what a client asks for and is answered. No socket: texts in, texts out.

Requests    {"type":"subscribe","product_ids":["BTC-USD"],"channel":"market_trades"}: one channel each; unsubscribe likewise
Answers     the `subscriptions` of the whole connection, by channel; before it, at each subscribe of market_trades, a `snapshot` of each
            product's last 100 trades, and of ticker the newest one. An unknown product is not listed, and silent
Alias       a product that ends in -USDC is that in -USD, if only that is served
Heartbeats  each second, once they are subscribed to
Counted     sequence_num goes on from 0 over everything that the connection is sent
Silent      ticker_batch and status are granted, and nothing comes; level2 has no snapshot
Limits      a subscribe within 5 s; 8 messages and 8 connections a second from one address; 10 requests a second
Reference   https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-overview
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from replay.exchange import coinbase_data
from replay.exchange.market import EPOCH_NS, Market, View
from replay.exchange.venue import Hangup, Limits, Reply, Request, Session
from replay.rewrite import HOLE, NS_PER_S, Moves, rfc3339

CHANNELS: Final = ("market_trades", "ticker", "ticker_batch", "level2", "candles", "heartbeats", "status")
WITHOUT_PRODUCTS: Final = ("heartbeats",)
SNAPSHOT_TRADES: Final = 100
SUBSCRIBE_WITHIN_S: Final = 5.0
HEARTBEAT_S: Final = 1.0
POLICY_VIOLATION: Final = 1008

_UPDATE = re.compile(rb'"type"\s*:\s*"update"')
_encode = msgspec.json.encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Ask(msgspec.Struct):
    type: str
    channel: str = ""
    product_ids: list[str] = []


_read = msgspec.json.Decoder(_Ask).decode


class CoinbaseSession:
    """One connection: its subscriptions, and how much it has been sent."""

    form = None

    def __init__(self, market: Market) -> None:
        self.streams: dict[str, None] = {}
        self.count = 0
        """The next sequence_num."""
        self._market = market
        self._channels: dict[str, dict[str, None]] = {}
        self._subscribe_by: float | None = None
        self._heartbeat_at: float | None = None

    @property
    def due(self) -> float | None:
        return self._subscribe_by if self._heartbeat_at is None else self._heartbeat_at

    def opened(self, now: float) -> Sequence[bytes]:
        self._subscribe_by = now + SUBSCRIBE_WITHIN_S
        return ()

    def message(self, stream: str, payload: bytes) -> bytes:
        count, self.count = self.count, self.count + 1
        return payload.replace(HOLE, b"%d" % count, 1)

    def answer(self, text: str | bytes, now: float) -> Sequence[bytes]:
        try:
            ask = _read(text)
        except _UNREADABLE as error:
            return (_error(f"invalid message: {error}"),)
        if ask.type not in ("subscribe", "unsubscribe"):
            return (_error(f"unknown type {ask.type!r}, expected subscribe or unsubscribe"),)
        if ask.channel not in CHANNELS:
            return (_error(f"unknown channel {ask.channel!r}, expected one of {', '.join(CHANNELS)}"),)
        if ask.type == "unsubscribe":
            return self._unsubscribe(ask)
        if not ask.product_ids and ask.channel not in WITHOUT_PRODUCTS:
            return (_error("no product_ids provided"),)
        return self._subscribe(ask, now)

    def timer(self, now: float) -> Sequence[bytes | Hangup]:
        if self._subscribe_by is not None and now >= self._subscribe_by:
            return (Hangup(POLICY_VIOLATION, "no subscription within 5 seconds", "no subscription"),)
        if self._heartbeat_at is None or now < self._heartbeat_at:
            return ()
        # Beats that were missed are not made up for.
        self._heartbeat_at += ((now - self._heartbeat_at) // HEARTBEAT_S + 1) * HEARTBEAT_S
        return (self._heartbeat(),)

    def _subscribe(self, ask: _Ask, now: float) -> Sequence[bytes]:
        self._subscribe_by = None
        channel = self._channels.setdefault(ask.channel, {})
        if ask.channel in WITHOUT_PRODUCTS:
            channel[ask.channel] = None
            if self._heartbeat_at is None:
                self._heartbeat_at = now + HEARTBEAT_S
            return (self._subscriptions(),)
        products = dict.fromkeys(product for name in ask.product_ids if (product := self._served(name)) is not None)
        channel.update(products)
        self.streams = self.streams | {f"{ask.channel}:{product}": None for product in products}
        view = self._market.sent_view()
        snapshots = [text for product in products if (text := self._snapshot(ask.channel, product, view)) is not None]
        return (*snapshots, self._subscriptions())

    def _unsubscribe(self, ask: _Ask) -> Sequence[bytes]:
        channel = self._channels.get(ask.channel, {})
        gone = dict.fromkeys(self._served(name) for name in ask.product_ids) if ask.product_ids else dict(channel)
        self._channels[ask.channel] = {name: None for name in channel if name not in gone}
        ended = dict.fromkeys(f"{ask.channel}:{name}" for name in gone)
        self.streams = {stream: None for stream in self.streams if stream not in ended}
        if ask.channel in WITHOUT_PRODUCTS:
            self._channels[ask.channel] = {}
            self._heartbeat_at = None
        return (self._subscriptions(),)

    def _served(self, name: str) -> str | None:
        for product in (name, name.removesuffix("C") if name.endswith("-USDC") else name):
            if product in self._market.symbols:
                return product
        return None

    def _snapshot(self, channel: str, product: str, view: View) -> bytes | None:
        if channel == "market_trades":
            trades = view.newest(product, coinbase_data.KIND, SNAPSHOT_TRADES)
            said = [coinbase_data.trade_of(view, product, made) for made in reversed(trades)]
            return self._said(channel, {"type": "snapshot", "trades": said})
        if channel == "ticker" and (newest := view.message(f"ticker:{product}")) is not None:
            return self.message("", _UPDATE.sub(b'"type":"snapshot"', newest, count=1))
        return None

    def _subscriptions(self) -> bytes:
        channels = {channel: list(names) for channel, names in sorted(self._channels.items()) if names}
        return self._said("subscriptions", {"subscriptions": channels})

    def _heartbeat(self) -> bytes:
        now_ns = self._market.now()
        second, rest = divmod(now_ns, NS_PER_S)
        uptime_ns = now_ns - EPOCH_NS
        moment = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")
        current = f"{moment}.{rest:09d} +0000 UTC m=+{uptime_ns // NS_PER_S}.{uptime_ns % NS_PER_S:09d}"
        return self._said("heartbeats", {"current_time": current, "heartbeat_counter": uptime_ns // NS_PER_S})

    def _said(self, channel: str, event: dict[str, Any]) -> bytes:
        count, self.count = self.count, self.count + 1
        timestamp = rfc3339(self._market.now()).decode()
        return _encode({"channel": channel, "timestamp": timestamp, "sequence_num": count, "events": [event]})


def _error(message: str) -> bytes:
    return _encode({"type": "error", "message": message})


LIMITS: Final = Limits(
    messages=8,
    messages_s=1.0,
    counts_control=False,
    counts_together=True,
    dials=8,
    dials_s=1.0,
    weight=10,
    weight_s=1.0,
    bans=False,
    ping_s=None,
    pong_s=60.0,
    age_s=None,
)


class CoinbaseVenue:
    """The `Venue` of Coinbase Advanced Trade."""

    feed = exchange = "coinbase"
    api = "advanced"
    websocket_path = rest_path = "/coinbase"
    websocket = rest = ""
    ids = Moves.TRADE_ID

    def __init__(self, market: Market, limits: Limits = LIMITS) -> None:
        self.market, self.limits = market, limits

    def opens(self, path: str) -> bool:
        return path.rstrip("/") == self.websocket_path

    def session(self, path: str, query: Mapping[str, str], now: float) -> CoinbaseSession:
        return CoinbaseSession(self.market)

    def weight(self, request: Request) -> int:
        return 1

    def reply(self, request: Request, view: View, origin: str, now: float) -> Reply:
        return coinbase_data.reply(request, view)

    def too_many(self, used: int, retry_after_s: int, is_banned: bool) -> Reply:
        return coinbase_data.mistake(429, "RESOURCE_EXHAUSTED", "too many requests")

    def headers(self, used: int) -> Mapping[str, str]:
        return {}

    def shutdown_notice(self, session: Session) -> bytes | None:
        return None
