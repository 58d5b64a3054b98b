"""How KuCoin's classic public websocket is spoken to: where to ask where to dial, what to ask for, what its answers mean.

Fetch        POST <rest>/api/v1/bullet-public before every dial: {"code":"200000","data":{"token":"...","instanceServers":[
             {"endpoint":"wss://...","protocol":"websocket","pingInterval":18000,"pingTimeout":10000}]}}; a token that was used is
             turned down after a day, with {"type":"error","code":401,"data":"token is expired"}
Dial         <endpoint>?token=<token>&connectId=<a name of ours>; nothing may be said before {"type":"welcome"}
Ask          {"id":"1","type":"subscribe","topic":"/market/match:BTC-USDT,ETH-USDT","privateChannel":false,"response":true},
             at most 100 symbols to a topic
Granted      {"id":"1","type":"ack"}: the id comes back as text, whatever it was
Turned down  {"id":"1","type":"error","code":415,"data":"type is not supported"}
Ping         {"id":"ping-1","type":"ping"} from us every pingInterval, however busy the socket is: {"id":"ping-1","type":"pong"}
             within pingTimeout. It hangs up on who does not; the websocket's own pings do not count
Gaps         cannot be proved: trade ids rise, but are not contiguous
Reference    https://www.kucoin.com/docs/websocket/basic-info/apply-connect-token/public-token-no-authentication-required-
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal
from urllib.parse import urlencode

import msgspec
from msgspec import Meta

from engine.errors import FeedError
from feeds.coinbase_stream import POLICY_VIOLATION, says_too_often
from feeds.speech import (
    Acknowledged,
    Address,
    Answer,
    Expired,
    Fetch,
    Greeted,
    Ponged,
    Rejected,
    excerpt,
    unexpected,
)
from feeds.spelling import Spelling
from feeds.wire import UNREADABLE, Word

EXCHANGE: Final = "kucoin"
SYMBOLS_A_TOPIC: Final = 100
SYMBOLS_A_CONNECTION: Final = 300
NS_PER_MS: Final = 1_000_000
SUCCESS: Final = "200000"
EXPIRED: Final = 401
DIGITS: Final = 18
"""Of an id of ours; anything longer is somebody else's."""
EXPECTED: Final = "welcome, ack, pong, error or a message"
EXPECTED_BULLET: Final = (
    f"code {SUCCESS} and data with a token and instanceServers with endpoint, pingInterval and pingTimeout"
)

_Ms = Annotated[int, Meta(ge=1, le=3_600_000)]


class _Server(msgspec.Struct, rename={"ping_interval": "pingInterval", "ping_timeout": "pingTimeout"}):
    endpoint: Annotated[str, Meta(pattern="^wss?://[^/?#]")]
    ping_interval: _Ms
    ping_timeout: _Ms
    protocol: str = "websocket"


class _Bullet(msgspec.Struct):
    token: Word
    servers: Annotated[list[_Server], Meta(min_length=1)] = msgspec.field(name="instanceServers")


class _BulletAnswer(msgspec.Struct):
    code: Literal["200000"]
    data: _Bullet


class _Message(msgspec.Struct):
    type: str
    id: str | int | None = None
    code: int | None = None
    data: msgspec.Raw = msgspec.Raw()


_decode_bullet = msgspec.json.Decoder(_BulletAnswer).decode
_decode = msgspec.json.Decoder(_Message, strict=False).decode


class KucoinProtocol:
    """The `StreamProtocol` of KuCoin spot. `spelling` is ours (BTC/USDT) to KuCoin's (BTC-USDT), and may change.

    `websocket`, if it is not empty, goes before the endpoint that `rest` answers; the token and the times are taken all the same.
    """

    exchange = EXCHANGE
    channels: tuple[str, ...] = ("/market/match", "/market/ticker")
    once: tuple[str, ...] = ()
    batch = SYMBOLS_A_TOPIC
    greets = True
    counts_together = False
    caveat = "gaps of kucoin cannot be proved: its trade ids are not contiguous"

    def __init__(
        self,
        rest: str,
        websocket: str,
        spelling: Mapping[str, str],
        symbols_a_connection: int = SYMBOLS_A_CONNECTION,
    ) -> None:
        self.endpoint = websocket or rest
        self.capacity = symbols_a_connection
        self._fetch = Fetch("POST", f"{rest.rstrip('/')}/api/v1/bullet-public")
        self._websocket = websocket
        self._spelling = Spelling(spelling)

    def fetch(self) -> Fetch:
        return self._fetch

    def address(self, connection_id: str, fetched: bytes | None) -> Address:
        """Find token, endpoint and the times of pings in the answer to `fetch`. Raises FeedError if they are not there."""
        body = fetched or b""
        try:
            bullet = _decode_bullet(body).data
        except UNREADABLE as error:
            raise FeedError(
                f"{self._fetch.url}: expected {EXPECTED_BULLET}, came {excerpt(body) or 'nothing'} ({error})"
            ) from error
        server = next((server for server in bullet.servers if server.protocol == "websocket"), None)
        if server is None:
            raise FeedError(f"{self._fetch.url}: expected an instance server for websockets, came {excerpt(body)}")
        url = self._websocket or server.endpoint
        joined = "&" if "?" in url else "?"
        query = urlencode({"token": bullet.token, "connectId": connection_id.replace(" ", "-")})
        return Address(
            f"{url}{joined}{query}",
            ping_every_ns=server.ping_interval * NS_PER_MS,
            pong_within_ns=server.ping_timeout * NS_PER_MS,
        )

    def subscribe(self, number: int, channel: str, symbols: Sequence[str]) -> str:
        return self._request("subscribe", number, channel, symbols)

    def unsubscribe(self, number: int, channel: str, symbols: Sequence[str]) -> str:
        return self._request("unsubscribe", number, channel, symbols)

    def ping(self, number: int) -> str:
        return msgspec.json.encode({"id": f"ping-{number}", "type": "ping"}).decode()

    def read(self, frame: bytes) -> Answer | None:
        """Read a message that the decoder found no event in."""
        try:
            message = _decode(frame)
        except UNREADABLE:
            return unexpected(EXCHANGE, EXPECTED, frame)
        match message.type:
            case "welcome":
                return Greeted()
            case "pong":
                return Ponged()
            case "ack" if (number := _number(message.id)) is not None:
                return Acknowledged(number)
            case "error" if message.code == EXPIRED:
                return Expired(f"the exchange turns the token down: {_reason(message)}")
            case "error" if message.id is None or _number(message.id) is not None:
                return Rejected(_number(message.id), _reason(message))
            case "ack" | "error":
                return unexpected(EXCHANGE, "the id of a request of ours", frame)
        return None

    def is_rate_limit(self, code: int, reason: str) -> bool:
        return code == POLICY_VIOLATION and says_too_often(reason)

    def _request(self, kind: str, number: int, channel: str, symbols: Sequence[str]) -> str:
        topic = f"{channel}:{','.join(self._spelling.theirs(symbols))}"
        request = {"id": str(number), "type": kind, "topic": topic, "privateChannel": False, "response": True}
        return msgspec.json.encode(request).decode()


def _number(identifier: str | int | None) -> int | None:
    """The number of a request of ours; None if it is none."""
    said = "" if identifier is None else str(identifier)
    return int(said) if said.isascii() and said.isdigit() and len(said) <= DIGITS else None


def _reason(message: _Message) -> str:
    said = excerpt(bytes(message.data)).strip('"') or "no reason"
    return f"{said} (code {'missing' if message.code is None else message.code})"
