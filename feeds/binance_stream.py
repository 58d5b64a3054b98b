"""How Binance's websocket streams are spoken to: where to dial, what to ask for, what its answers mean.

Dial         <host>/ws: raw payloads, without the wrapper of /stream, which costs a fifth of the bytes and says nothing new
Ask          {"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}, any number of streams, UNSUBSCRIBE likewise
Granted      {"result":null,"id":1}
Turned down  {"id":1,"error":{"code":2,"msg":"..."}} or {"code":2,"msg":"...","id":1}; id may be null or missing
Mind         a stream that does not exist is granted too, and stays silent: names come from a product list, never from a user
Shutdown     {"e":"serverShutdown","E":...}, combined {"stream":"!serverShutdown","data":{...}}
Close 1008   "Too many requests": more than 5 messages of ours, pings and pongs included, in a second
Reference    https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from feeds.speech import Acknowledged, Address, Answer, Fetch, Rejected, ShuttingDown, excerpt, unexpected

EXCHANGE: Final = "binance"
STREAMS_A_REQUEST: Final = 200
"""Some 4 kB of text. Binance names no limit, and being cut off is no way to find one out."""
STREAMS_A_CONNECTION: Final = 1_024
POLICY_VIOLATION: Final = 1008
EXPECTED: Final = "market data or an answer with an id"


class BinanceProtocol:
    """The `StreamProtocol` of Binance spot. `spelling` is ours (BTC/USDT) to Binance's (BTCUSDT)."""

    exchange = EXCHANGE
    channels: tuple[str, ...] = ("",)
    once: tuple[str, ...] = ()
    greets = False
    counts_together = False
    caveat = ""

    def __init__(
        self,
        websocket: str,
        streams: Sequence[str],
        spelling: Mapping[str, str],
        streams_a_connection: int = STREAMS_A_CONNECTION,
    ) -> None:
        self.endpoint = _endpoint(websocket)
        self._streams = tuple(streams)
        self._spelling = spelling
        self.batch = max(1, STREAMS_A_REQUEST // len(self._streams))
        self.capacity = streams_a_connection // len(self._streams)

    def fetch(self) -> Fetch | None:
        return None

    def address(self, connection_id: str, fetched: bytes | None) -> Address:
        return Address(self.endpoint)

    def subscribe(self, number: int, channel: str, symbols: Sequence[str]) -> str:
        return self._request("SUBSCRIBE", number, symbols)

    def unsubscribe(self, number: int, channel: str, symbols: Sequence[str]) -> str:
        return self._request("UNSUBSCRIBE", number, symbols)

    def ping(self, number: int) -> str:
        """Binance pings us, and counts pings of ours among our messages: this one is never asked for."""
        return self._request("LIST_SUBSCRIPTIONS", number, ())

    def read(self, frame: bytes) -> Answer | None:
        """Read a message that the decoder found no event in."""
        try:
            message = msgspec.json.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return unexpected(EXCHANGE, EXPECTED, frame)
        if isinstance(message, list):
            return None  # the streams of all markets; nobody asked for them
        if not isinstance(message, dict):
            return unexpected(EXCHANGE, EXPECTED, frame)
        payload = message.get("data", message)
        if isinstance(payload, dict) and payload.get("e") == "serverShutdown":
            return ShuttingDown()
        if "e" in message or "stream" in message:
            return None
        number = message.get("id")
        if "error" in message or "code" in message:
            if number is not None and type(number) is not int:
                return unexpected(EXCHANGE, EXPECTED, frame)
            return Rejected(number, _reason(message, frame))
        if "result" in message and type(number) is int:
            return Acknowledged(number)
        if "u" in message or "lastUpdateId" in message:
            return None  # order books have no `e`
        return unexpected(EXCHANGE, EXPECTED, frame)

    def is_rate_limit(self, code: int, reason: str) -> bool:
        return code == POLICY_VIOLATION and "too many" in reason.lower()

    def _request(self, method: str, number: int, symbols: Sequence[str]) -> str:
        names = [f"{self._spelling[symbol].lower()}@{stream}" for symbol in symbols for stream in self._streams]
        return msgspec.json.encode({"method": method, "params": names, "id": number}).decode()


def _endpoint(websocket: str) -> str:
    """A host takes the path /ws; an address that has a path already is meant as it is."""
    address = websocket.rstrip("/")
    return address if "/" in address.partition("://")[2] else f"{address}/ws"


def _reason(message: dict[str, Any], frame: bytes) -> str:
    error = message.get("error", message)
    if isinstance(error, dict) and ("msg" in error or "code" in error):
        return f"{error.get('msg', 'no reason')} (code {error.get('code', 'missing')})"
    return excerpt(frame)
