"""The loopback Coinbase Exchange (ws-feed): what a client asks for and is answered. No socket: texts in, texts out.

Requests    {"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches","ticker","heartbeat"]}; a channel may also be an object
            with product_ids of its own; unsubscribe likewise, and of a whole channel where no products are named
Answers     the `subscriptions` of the whole connection; behind it a `last_match` and the newest `ticker` of each product
Mistakes    {"type":"error","message":"Failed to subscribe","reason":"X is not a valid product"}: nothing of that message is granted
Heartbeats  of each product, each second, with the id of the last trade that was sent
Silent      ticker_batch and status are granted, and nothing comes; level2_batch has no snapshot
Limits      a subscribe within 5 s; 8 messages and 8 connections a second from one address; 10 requests a second
Reference   https://docs.cdp.coinbase.com/exchange/websocket-feed/overview
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from replay.exchange import coinbase_exchange_data
from replay.exchange.coinbase import HEARTBEAT_S, LIMITS, POLICY_VIOLATION, SUBSCRIBE_WITHIN_S
from replay.exchange.market import Market, View
from replay.exchange.venue import Hangup, Limits, Reply, Request, Session
from replay.rewrite import Moves, rfc3339

CHANNELS: Final = ("matches", "ticker", "ticker_batch", "heartbeat", "status", "level2_batch")
NEED_A_KEY: Final = ("level2", "level3", "full", "user")

_MATCH = re.compile(rb'"type"\s*:\s*"match"')
_encode = msgspec.json.encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Channel(msgspec.Struct):
    name: str
    product_ids: list[str] = []


class _Ask(msgspec.Struct):
    type: str
    product_ids: list[str] = []
    channels: list[str | _Channel] = []


class _Sequenced(msgspec.Struct):
    sequence: int = 0


_read = msgspec.json.Decoder(_Ask).decode
_read_sequence = msgspec.json.Decoder(_Sequenced).decode


class CoinbaseExchangeSession:
    """One connection: its subscriptions."""

    form = "message"

    def __init__(self, market: Market) -> None:
        self.streams: dict[str, None] = {}
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
        return payload

    def answer(self, text: str | bytes, now: float) -> Sequence[bytes]:
        try:
            ask = _read(text)
        except _UNREADABLE as error:
            return (_error("Malformed JSON", str(error)),)
        if ask.type not in ("subscribe", "unsubscribe"):
            return (_error("Invalid message", f"{ask.type} is not a valid type"),)
        wanted = {
            (channel if isinstance(channel, str) else channel.name): ask.product_ids
            if isinstance(channel, str)
            else channel.product_ids or ask.product_ids
            for channel in ask.channels
        }
        verb = f"Failed to {ask.type}"
        if not wanted:
            return (_error(verb, "no channels provided"),)
        for name, products in wanted.items():
            if name in NEED_A_KEY:
                return (_error(verb, f"{name} channel requires authentication"),)
            if name not in CHANNELS:
                return (_error(verb, f"{name} is not a valid channel"),)
            if ask.type == "unsubscribe":
                continue
            if not products and name != "status":
                return (_error(verb, "no product_ids provided"),)
            for product in products:
                if product not in self._market.symbols:
                    return (_error(verb, f"{product} is not a valid product"),)
        return self._subscribe(wanted, now) if ask.type == "subscribe" else self._unsubscribe(wanted)

    def timer(self, now: float) -> Sequence[bytes | Hangup]:
        if self._subscribe_by is not None and now >= self._subscribe_by:
            return (Hangup(POLICY_VIOLATION, "no subscription within 5 seconds", "no subscription"),)
        if self._heartbeat_at is None or now < self._heartbeat_at:
            return ()
        self._heartbeat_at += ((now - self._heartbeat_at) // HEARTBEAT_S + 1) * HEARTBEAT_S
        view = self._market.sent_view()
        return [self._heartbeat(product, view) for product in self._channels.get("heartbeat", {})]

    def _subscribe(self, wanted: Mapping[str, Sequence[str]], now: float) -> Sequence[bytes]:
        self._subscribe_by = None
        view = self._market.sent_view()
        said = []
        for name, products in wanted.items():
            self._channels.setdefault(name, {}).update(dict.fromkeys(products))
            for product in products:
                newest = view.message(f"{name}:{product}") if name in ("matches", "ticker") else None
                if newest is not None:
                    said.append(_MATCH.sub(b'"type":"last_match"', newest, count=1))
        self._channels_changed(now)
        return (self._subscriptions(), *said)

    def _unsubscribe(self, wanted: Mapping[str, Sequence[str]]) -> Sequence[bytes]:
        for name, products in wanted.items():
            channel = self._channels.get(name, {})
            self._channels[name] = {one: None for one in channel if products and one not in products}
        self._channels_changed(None)
        return (self._subscriptions(),)

    def _channels_changed(self, now: float | None) -> None:
        self.streams = {f"{name}:{one}": None for name, products in self._channels.items() for one in products}
        if not self._channels.get("heartbeat"):
            self._heartbeat_at = None
        elif self._heartbeat_at is None and now is not None:
            self._heartbeat_at = now + HEARTBEAT_S

    def _subscriptions(self) -> bytes:
        channels = [
            {"name": name, "product_ids": list(products)} for name, products in self._channels.items() if products
        ]
        return _encode({"type": "subscriptions", "channels": channels})

    def _heartbeat(self, product: str, view: View) -> bytes:
        newest = view.newest(product, coinbase_exchange_data.KIND, 1)
        match = view.message(f"matches:{product}")
        said: dict[str, Any] = {
            "type": "heartbeat",
            "sequence": _read_sequence(match).sequence if match is not None else 0,
            "last_trade_id": newest[0].id if newest else 0,
            "product_id": product,
            "time": rfc3339(view.now_ns, is_short=False).decode(),
        }
        return _encode(said)


def _error(message: str, reason: str) -> bytes:
    return _encode({"type": "error", "message": message, "reason": reason})


class CoinbaseExchangeVenue:
    """The `Venue` of Coinbase Exchange."""

    feed = "coinbase_exchange"
    exchange = "coinbase"
    api = "exchange"
    websocket_path = rest_path = "/coinbase_exchange"
    websocket = rest = ""
    ids = Moves.TRADE_ID

    def __init__(self, market: Market, limits: Limits = LIMITS) -> None:
        self.market, self.limits = market, limits

    def opens(self, path: str) -> bool:
        return path.rstrip("/") == self.websocket_path

    def session(self, path: str, query: Mapping[str, str], now: float) -> CoinbaseExchangeSession:
        return CoinbaseExchangeSession(self.market)

    def weight(self, request: Request) -> int:
        return 1

    def reply(self, request: Request, view: View, origin: str, now: float) -> Reply:
        return coinbase_exchange_data.reply(request, view)

    def too_many(self, used: int, retry_after_s: int, is_banned: bool) -> Reply:
        return coinbase_exchange_data.mistake(429, "Public rate limit exceeded")

    def headers(self, used: int) -> Mapping[str, str]:
        return {}

    def shutdown_notice(self, session: Session) -> bytes | None:
        return None
