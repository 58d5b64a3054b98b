"""The loopback KuCoin (classic spot): what a client asks for and is answered. No socket: texts in, texts out.

Token       POST /api/v1/bullet-public names the endpoint and a token, which is good for 24 h; endpoint?token=<token>&connectId=<id>
Greeting    {"id":"<connectId>","type":"welcome"}; for a wrong token {"id":..,"type":"error","code":401,"data":"token is expired"}, and the end
Requests    {"id":1,"type":"subscribe","topic":"/market/match:BTC-USDT,ETH-USDT","response":true}; unsubscribe likewise; ping
Answers     {"id":"1","type":"ack"}, the id as text; {"id":"1","type":"pong"}
Mistakes    {"id":"1","type":"error","code":404|415|509,"data":".."}: nothing of that message is granted
Limits      a ping of the client each 60 s; 100 messages in 10 s; 100 symbols a topic; 300 topics a connection, of which more are
            acknowledged and silent; 30 connections a minute; a weight of 2,000 in 30 s
Reference   https://www.kucoin.com/docs/websocket/basic-info
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from replay.exchange import kucoin_data
from replay.exchange.market import Market, View
from replay.exchange.venue import Hangup, Limits, Reply, Request, Session
from replay.rewrite import NS_PER_S, Moves

BULLET: Final = "/api/v1/bullet-public"
TOPICS: Final = (
    "/market/match",
    "/market/ticker",
    "/market/level2",
    "/market/candles",
    "/market/snapshot",
    "/spotMarket/level1",
    "/spotMarket/level2Depth5",
    "/spotMarket/level2Depth50",
)
SYMBOLS_A_TOPIC: Final = 100
TOPICS_A_CONNECTION: Final = 300
PING_INTERVAL_MS: Final = 18_000
PING_TIMEOUT_MS: Final = 10_000
CUT_AFTER_S: Final = 60.0
TOKEN_S: Final = 86_400.0
TOKENS_MAX: Final = 10_000
POLICY_VIOLATION: Final = 1008
WEIGHTS: Final = {BULLET: 10, kucoin_data.HISTORIES: 3, kucoin_data.SYMBOLS: 4, kucoin_data.TIMESTAMP: 3}

_encode = msgspec.json.encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Ask(msgspec.Struct):
    type: str = ""
    id: str | int = ""
    topic: str = ""
    response: bool = False


_read = msgspec.json.Decoder(_Ask).decode


class KucoinSession:
    """One connection: its topics. `refusal` is what is wrong with its token, "" for nothing."""

    form = "message"

    def __init__(self, market: Market, connect_id: str, refusal: str = "") -> None:
        self.streams: dict[str, None] = {}
        self._market = market
        self._connect_id = connect_id
        self._refusal = refusal
        self._cut_at: float | None = None

    @property
    def due(self) -> float | None:
        return self._cut_at

    def opened(self, now: float) -> Sequence[bytes | Hangup]:
        if self._refusal:
            said = {"id": self._connect_id, "type": "error", "code": 401, "data": self._refusal}
            return (_encode(said), Hangup(POLICY_VIOLATION, self._refusal, "token"))
        self._cut_at = now + CUT_AFTER_S
        return (_encode({"id": self._connect_id, "type": "welcome"}),)

    def message(self, stream: str, payload: bytes) -> bytes:
        return payload

    def answer(self, text: str | bytes, now: float) -> Sequence[bytes]:
        try:
            ask = _read(text)
        except _UNREADABLE:
            return (_error("", 400, "invalid message"),)
        number = str(ask.id)
        if ask.type == "ping":
            self._cut_at = now + CUT_AFTER_S
            return (_encode({"id": number, "type": "pong"}),)
        if ask.type not in ("subscribe", "unsubscribe"):
            return (_error(number, 415, "type is not supported"),)
        kind, _, names = ask.topic.partition(":")
        wanted = dict.fromkeys(name for name in names.split(",") if name)
        if kind not in TOPICS or not wanted:
            return (_error(number, 404, f"topic {ask.topic} is not found"),)
        for name in wanted:
            if name.partition("_")[0] not in self._market.symbols:
                return (_error(number, 404, f"topic {kind}:{name} is not found"),)
        if len(wanted) > SYMBOLS_A_TOPIC:
            said = f"exceed max subscription count limitation of {SYMBOLS_A_TOPIC} per time"
            return (_error(number, 509, said),)
        topics = {f"{kind}:{name}": None for name in wanted}
        if ask.type == "unsubscribe":
            self.streams = {topic: None for topic in self.streams if topic not in topics}
        else:
            # What is too many is granted, and stays silent.
            self.streams = dict.fromkeys(list(self.streams | topics)[:TOPICS_A_CONNECTION])
        return (_encode({"id": number, "type": "ack"}),) if ask.response else ()

    def timer(self, now: float) -> Sequence[bytes | Hangup]:
        if self._cut_at is not None and now >= self._cut_at:
            return (Hangup(POLICY_VIOLATION, "no ping", "no ping"),)
        return ()


def _error(number: str, code: int, said: str) -> bytes:
    return _encode({"id": number, "type": "error", "code": code, "data": said})


LIMITS: Final = Limits(
    messages=100,
    messages_s=10.0,
    counts_control=False,
    counts_together=False,
    dials=30,
    dials_s=60.0,
    weight=2_000,
    weight_s=30.0,
    bans=False,
    ping_s=None,
    pong_s=60.0,
    age_s=86_400.0,
)


class KucoinVenue:
    """The `Venue` of KuCoin spot, classic."""

    feed = exchange = "kucoin"
    api = "classic"
    websocket_path = None
    rest_path = "/kucoin"
    websocket = rest = ""
    ids = Moves.UPDATE_ID
    endpoint = "/kucoin/endpoint"

    def __init__(self, market: Market, limits: Limits = LIMITS, *, seed: int = 0, token_s: float = TOKEN_S) -> None:
        self.market, self.limits = market, limits
        self.token_s = token_s
        self._seed = seed
        self._made = 0
        self._tokens: dict[str, int] = {}
        """Each token and when it ends, ns of the market's clock; the oldest are forgotten."""

    def opens(self, path: str) -> bool:
        return path.rstrip("/") == self.endpoint

    def session(self, path: str, query: Mapping[str, str], now: float) -> KucoinSession:
        ends = self._tokens.get(query.get("token", ""))
        refusal = "token is invalid" if ends is None else "token is expired" if ends <= self.market.clock.now() else ""
        return KucoinSession(self.market, query.get("connectId") or f"{self._made:010d}", refusal)

    def expire_tokens(self) -> None:
        """End the time of all tokens that were given out."""
        self._tokens = dict.fromkeys(self._tokens, 0)

    def weight(self, request: Request) -> int:
        return WEIGHTS.get(request.path, 4)

    def reply(self, request: Request, view: View, origin: str, now: float) -> Reply:
        if request.path != BULLET:
            return kucoin_data.reply(request, view)
        if request.method != "POST":
            return kucoin_data.mistake(405, "405", "expected POST")
        server = {
            "endpoint": f"ws://{origin}{self.endpoint}",
            "encrypt": False,
            "protocol": "websocket",
            "pingInterval": PING_INTERVAL_MS,
            "pingTimeout": PING_TIMEOUT_MS,
        }
        return kucoin_data.granted({"token": self._token(), "instanceServers": [server]})

    def too_many(self, used: int, retry_after_s: int, is_banned: bool) -> Reply:
        said = kucoin_data.mistake(429, "429000", "Too many requests")
        return said._replace(headers={"gw-ratelimit-reset": str(retry_after_s * 1000), **self.headers(used)})

    def headers(self, used: int) -> Mapping[str, str]:
        left = max(0, self.limits.weight - used)
        return {"gw-ratelimit-limit": str(self.limits.weight), "gw-ratelimit-remaining": str(left)}

    def shutdown_notice(self, session: Session) -> bytes | None:
        return None

    def _token(self) -> str:
        self._made += 1
        token = "2neAiuYvAU61" + hashlib.sha256(f"{self._seed} {self._made}".encode()).hexdigest()
        self._tokens[token] = self.market.clock.now() + round(self.token_s * NS_PER_S)
        while len(self._tokens) > TOKENS_MAX:
            del self._tokens[next(iter(self._tokens))]
        return token
