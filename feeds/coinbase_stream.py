"""How Coinbase Advanced Trade's websocket is spoken to: where to dial, what to ask for, what its answers mean.

Dial         the host itself; a first request has to come within 5 s, or it hangs up
Ask          {"type":"subscribe","product_ids":["BTC-USD"],"channel":"market_trades"}: one channel a message, no id
Heartbeats   a channel without products, once a second: without it the others close after 60 to 90 s that bring nothing
Granted      {"channel":"subscriptions",...,"events":[{"subscriptions":{"market_trades":["BTC-USD"],"heartbeats":["heartbeats"]}}]}:
             all that the socket is subscribed to, whatever was asked
Turned down  {"type":"error","message":"..."}, without a word about which request
Counted      sequence_num counts the messages of the socket, of every channel, from 0: a heartbeat tells how many there have been
Mind         8 messages of ours a second for an address, not for a socket
Reference    https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-overview
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from feeds.speech import Address, Answer, Counted, Fetch, Listed, Rejected, excerpt, unexpected
from feeds.spelling import Spelling
from feeds.wire import UNREADABLE

EXCHANGE: Final = "coinbase"
SYMBOLS_A_CONNECTION: Final = 100
POLICY_VIOLATION: Final = 1008
EXPECTED: Final = "a channel, or an error with a message"


class _Message(msgspec.Struct):
    channel: str | None = None
    type: str | None = None
    message: str | None = None
    reason: str | None = None
    sequence_num: int | None = None
    events: list[msgspec.Raw] = []


class _Subscriptions(msgspec.Struct):
    subscriptions: dict[str, list[str]]


_decode = msgspec.json.Decoder(_Message, strict=False).decode
_decode_subscriptions = msgspec.json.Decoder(_Subscriptions).decode


class CoinbaseProtocol:
    """The `StreamProtocol` of Coinbase Advanced Trade. `spelling` is ours (BTC/USD) to Coinbase's (BTC-USD), and may change."""

    exchange = EXCHANGE
    channels: tuple[str, ...] = ("market_trades", "ticker")
    once: tuple[str, ...] = ("heartbeats",)
    greets = False
    counts_together = True
    caveat = ""

    def __init__(
        self, websocket: str, spelling: Mapping[str, str], symbols_a_connection: int = SYMBOLS_A_CONNECTION
    ) -> None:
        self.endpoint = websocket
        self.batch = self.capacity = symbols_a_connection
        self._spelling = Spelling(spelling)

    def fetch(self) -> Fetch | None:
        return None

    def address(self, connection_id: str, fetched: bytes | None) -> Address:
        return Address(self.endpoint)

    def subscribe(self, number: int, channel: str, symbols: Sequence[str]) -> str:
        return self._request("subscribe", channel, symbols)

    def unsubscribe(self, number: int, channel: str, symbols: Sequence[str]) -> str:
        return self._request("unsubscribe", channel, symbols)

    def ping(self, number: int) -> str:
        """Coinbase wants no pings, so this one is never asked for: to ask for heartbeats again changes nothing."""
        return self._request("subscribe", "heartbeats", ())

    def read(self, frame: bytes) -> Answer | None:
        """Read a message that the decoder found no event in."""
        try:
            message = _decode(frame)
            if message.channel == "subscriptions":
                return self._listed(message)
        except UNREADABLE:
            return unexpected(EXCHANGE, EXPECTED, frame)
        if message.type == "error":
            said = ": ".join(part for part in (message.message, message.reason) if part)
            return Rejected(None, said or excerpt(frame))
        if message.channel == "heartbeats" and message.sequence_num is not None:
            return Counted(message.sequence_num + 1)
        return unexpected(EXCHANGE, EXPECTED, frame) if message.channel is None else None

    def is_rate_limit(self, code: int, reason: str) -> bool:
        return code == POLICY_VIOLATION and says_too_often(reason)

    def _request(self, kind: str, channel: str, symbols: Sequence[str]) -> str:
        request: dict[str, object] = {"type": kind}
        if symbols:
            request["product_ids"] = self._spelling.theirs(symbols)
        return msgspec.json.encode({**request, "channel": channel}).decode()

    def _listed(self, message: _Message) -> Listed:
        channels: dict[str, tuple[str, ...]] = {}
        for event in message.events:
            for channel, products in _decode_subscriptions(event).subscriptions.items():
                channels[channel] = tuple(self._spelling.ours(product) or product for product in products)
        return Listed(channels)


def says_too_often(reason: str) -> bool:
    """Whether the reason of a close speaks of a rate."""
    said = reason.lower()
    return "too many" in said or "rate limit" in said
