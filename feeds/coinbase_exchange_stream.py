"""How Coinbase Exchange's websocket (ws-feed) is spoken to: where to dial, what to ask for, what its answers mean.

Dial         the host itself; a first request has to come within 5 s, or it hangs up
Ask          {"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches","ticker","heartbeat"]}: channels together, no id
Granted      {"type":"subscriptions","channels":[{"name":"matches","product_ids":["BTC-USD"]},...]}: all that the socket is
             subscribed to, whatever was asked
Turned down  {"type":"error","message":"Failed to subscribe","reason":"..."}, without a word about which request
Heartbeats   {"type":"heartbeat","last_trade_id":20,"product_id":"BTC-USD",...} once a second for each product: they tell of a
             newest trade that never came
Reference    https://docs.cdp.coinbase.com/exchange/websocket-feed/overview
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from feeds.coinbase_stream import POLICY_VIOLATION, SYMBOLS_A_CONNECTION, says_too_often
from feeds.speech import Address, Answer, Fetch, Listed, Reached, Rejected, excerpt, unexpected
from feeds.spelling import Spelling
from feeds.wire import UNREADABLE, Identifier

EXCHANGE: Final = "coinbase"
CHANNELS: Final = ("matches", "ticker", "heartbeat")
EXPECTED: Final = "a type, or an error with a message"


class _Channel(msgspec.Struct):
    name: str
    product_ids: list[str] = []


class _Message(msgspec.Struct):
    type: str | None = None
    message: str | None = None
    reason: str | None = None
    product_id: str | None = None
    last_trade_id: Identifier | None = None


class _Subscriptions(msgspec.Struct):
    channels: list[_Channel]


_decode = msgspec.json.Decoder(_Message, strict=False).decode
_decode_subscriptions = msgspec.json.Decoder(_Subscriptions).decode


class CoinbaseExchangeProtocol:
    """The `StreamProtocol` of Coinbase Exchange. `spelling` is ours (BTC/USD) to Coinbase's (BTC-USD), and may change."""

    exchange = EXCHANGE
    channels: tuple[str, ...] = ("",)
    once: tuple[str, ...] = ()
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
        return self._request("subscribe", symbols)

    def unsubscribe(self, number: int, channel: str, symbols: Sequence[str]) -> str:
        return self._request("unsubscribe", symbols)

    def ping(self, number: int) -> str:
        """Coinbase wants no pings: this one is never asked for."""
        return self._request("subscribe", ())

    def read(self, frame: bytes) -> Answer | None:
        """Read a message that the decoder found no event in."""
        try:
            message = _decode(frame)
            if message.type == "subscriptions":
                return self._listed(_decode_subscriptions(frame).channels)
        except UNREADABLE:
            return unexpected(EXCHANGE, EXPECTED, frame)
        if message.type == "error":
            said = ": ".join(part for part in (message.message, message.reason) if part)
            return Rejected(None, said or excerpt(frame))
        if message.type == "heartbeat" and message.product_id is not None and message.last_trade_id is not None:
            symbol = self._spelling.ours(message.product_id)
            return None if symbol is None else Reached(symbol, message.last_trade_id)
        return unexpected(EXCHANGE, EXPECTED, frame) if message.type is None else None

    def is_rate_limit(self, code: int, reason: str) -> bool:
        return code == POLICY_VIOLATION and says_too_often(reason)

    def _request(self, kind: str, symbols: Sequence[str]) -> str:
        products = self._spelling.theirs(symbols)
        return msgspec.json.encode({"type": kind, "product_ids": products, "channels": CHANNELS}).decode()

    def _listed(self, channels: Sequence[_Channel]) -> Listed:
        """Of the symbols, those that are subscribed on every channel that was asked for."""
        products = {channel.name: channel.product_ids for channel in channels}
        everywhere = [frozenset(products.get(name, ())) for name in CHANNELS]
        listed = [product for product in products.get(CHANNELS[0], ()) if all(product in each for each in everywhere)]
        return Listed({"": tuple(self._spelling.ours(product) or product for product in listed)})
