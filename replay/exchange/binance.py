"""The loopback Binance: what a client asks for and is answered. No socket: texts in, texts out.

Raw         /ws/<stream>, /ws/<stream>/<stream>, or /ws and SUBSCRIBE: gets payloads
Combined    /stream?streams=<stream>/<stream>, or /stream and SUBSCRIBE: gets {"stream":"<name>","data":<payload>}
Requests    SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS, SET_PROPERTY and GET_PROPERTY of `combined`
Answers     {"result":null,"id":1}; a wrong one gets {"code":..,"msg":".."} and changes nothing
Unknown     a stream that does not exist is acknowledged, and stays silent
Limits      5 messages a second, 300 dials in 5 minutes, a weight of 6,000 a minute; 429 with Retry-After, and 418 for who goes on
Reference   https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams, .../rest-api
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from engine.errors import FeedError
from replay.exchange import binance_data
from replay.exchange.market import Market, View
from replay.exchange.venue import Limits, Reply, Request, Session
from replay.rewrite import NS_PER_MS, Moves

STREAMS_MAX: Final = 1_024
METHODS: Final = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
ID_CHARACTERS_MAX: Final = 36
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

_encode = msgspec.json.encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _RequestError(Exception):
    """What a request is answered instead of its result."""

    def __init__(self, code: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.answer = _encode({"code": code, "msg": message, **more})


class BinanceSession:
    """The streams and properties of one connection."""

    def __init__(self, combined: bool, streams: Sequence[str]) -> None:
        """Raises FeedError if the address asks for more streams than one connection may have."""
        self.combined = combined
        self.streams: dict[str, None] = {}
        """What it is subscribed to, in the order in which it asked."""
        wanted = dict.fromkeys(stream for stream in streams if stream)
        if len(wanted) > STREAMS_MAX:
            raise FeedError(f"binance: {len(wanted)} streams on one connection, expected at most {STREAMS_MAX}")
        self.streams.update(wanted)

    @property
    def form(self) -> bool:
        return self.combined

    @property
    def due(self) -> None:
        return None

    def opened(self, now: float) -> Sequence[bytes]:
        return ()

    def answer(self, text: str | bytes, now: float) -> Sequence[bytes]:
        return (self.obey(text),)

    def message(self, stream: str, payload: bytes) -> bytes:
        return wrapped(stream, payload) if self.combined else payload

    def timer(self, now: float) -> Sequence[bytes]:
        return ()

    def obey(self, text: str | bytes) -> bytes:
        """Obey one request and return its answer."""
        try:
            request = msgspec.json.decode(text)
        except _UNREADABLE as error:
            return _RequestError(3, f"Invalid JSON: {error}").answer
        try:
            return self._obey(request)
        except _RequestError as wrong:
            return wrong.answer

    def _obey(self, request: Any) -> bytes:
        if not isinstance(request, dict):
            raise _RequestError(2, "Invalid request: expected an object")
        if "method" not in request:
            raise _RequestError(2, "Invalid request: missing field `method`")
        method, number = request["method"], request.get("id")
        if method not in METHODS:
            raise _RequestError(2, f"Invalid request: unknown variant `{method}`, expected one of {', '.join(METHODS)}")
        if not _is_id(number):
            raise _RequestError(2, "Invalid request: request ID must be an unsigned integer")
        parameters = request.get("params", [])
        if not isinstance(parameters, list):
            raise _RequestError(2, "Invalid request: params must be a list")
        result: Any = None
        if method == "LIST_SUBSCRIPTIONS":
            result = list(self.streams)
        elif method == "SET_PROPERTY":
            self._set(parameters, number)
        elif method == "GET_PROPERTY":
            self._check_property(parameters[0] if parameters else None, number)
            result = self.combined
        else:
            self._change(method == "SUBSCRIBE", parameters)
        return _encode({"result": result, "id": number})

    def _change(self, add: bool, streams: Sequence[Any]) -> None:
        if not streams or not all(isinstance(stream, str) for stream in streams):
            raise _RequestError(2, "Invalid request: params must be a list of stream names")
        if add:
            wanted = self.streams | dict.fromkeys(streams)
            if len(wanted) > STREAMS_MAX:
                raise _RequestError(2, "Invalid request: too many parameters")
            self.streams = wanted
        else:
            self.streams = {stream: None for stream in self.streams if stream not in frozenset(streams)}

    def _set(self, parameters: Sequence[Any], number: Any) -> None:
        if len(parameters) > 2:
            raise _RequestError(2, "Invalid request: too many parameters")
        self._check_property(parameters[0] if parameters else None, number)
        if len(parameters) != 2 or not isinstance(parameters[1], bool):
            raise _RequestError(1, "Invalid value type: expected Boolean")
        self.combined = parameters[1]

    @staticmethod
    def _check_property(name: Any, number: Any) -> None:
        if not isinstance(name, str):
            raise _RequestError(2, "Invalid request: property name must be a string")
        if name != "combined":
            raise _RequestError(0, "Unknown property", id=number)


def session_of(path: str, streams: str | None) -> BinanceSession | None:
    """Return the session that an address opens: its path and the `streams` of its query; None if nothing is served there.

    Raises FeedError as BinanceSession does.
    """
    if path == "/stream" or path.startswith("/stream/"):
        return BinanceSession(True, _names(streams or ""))
    if path == "/ws" or path.startswith("/ws/"):
        return BinanceSession(False, _names(path.removeprefix("/ws")))
    return None


def wrapped(stream: str, payload: bytes) -> bytes:
    """Return a payload in its combined form."""
    return _before(stream) + payload + b"}"


@functools.lru_cache(maxsize=STREAMS_MAX)
def _before(stream: str) -> bytes:
    return b'{"stream":' + _encode(stream) + b',"data":'


def _names(text: str) -> list[str]:
    return [name for name in text.split("/") if name]


def _is_id(number: Any) -> bool:
    if isinstance(number, str):
        return len(number) <= ID_CHARACTERS_MAX
    return number is None or (
        isinstance(number, int) and not isinstance(number, bool) and INT64_MIN <= number <= INT64_MAX
    )


LIMITS: Final = Limits(
    messages=5,
    messages_s=1.0,
    counts_control=True,
    counts_together=False,
    dials=300,
    dials_s=300.0,
    weight=6_000,
    weight_s=60.0,
    bans=True,
    ping_s=20.0,
    pong_s=60.0,
    age_s=86_400.0,
)


class BinanceVenue:
    """The `Venue` of Binance spot."""

    feed = exchange = "binance"
    api = "spot"
    websocket_path = ""
    rest_path = "/binance"
    websocket = rest = ""
    ids = Moves.TRADE_ID

    def __init__(self, market: Market, limits: Limits = LIMITS) -> None:
        self.market, self.limits = market, limits

    def opens(self, path: str) -> bool:
        return session_of(path, None) is not None

    def session(self, path: str, query: Mapping[str, str], now: float) -> BinanceSession:
        session = session_of(path, query.get("streams"))
        assert session is not None
        return session

    def weight(self, request: Request) -> int:
        return binance_data.WEIGHTS.get(request.path, 1)

    def reply(self, request: Request, view: View, origin: str, now: float) -> Reply:
        weight = {
            "rateLimitType": "REQUEST_WEIGHT",
            "interval": "MINUTE",
            "intervalNum": max(1, round(self.limits.weight_s / 60)),
            "limit": self.limits.weight,
        }
        return binance_data.reply(request, view, (weight,))

    def too_many(self, used: int, retry_after_s: int, is_banned: bool) -> Reply:
        said = (
            f"Way too much request weight used; IP banned until {self.market.now() // NS_PER_MS + retry_after_s * 1000}."
            if is_banned
            else f"Too much request weight used; current limit is {self.limits.weight} request weight per "
            f"{self.limits.weight_s:g} s. Please use WebSocket Streams for live updates to avoid polling the API."
        )
        return Reply(
            418 if is_banned else 429,
            _encode({"code": -1003, "msg": said}),
            {"Retry-After": str(retry_after_s), **self.headers(used)},
        )

    def headers(self, used: int) -> Mapping[str, str]:
        return {"X-MBX-USED-WEIGHT-1M": str(used)}

    def shutdown_notice(self, session: Session) -> bytes:
        notice = _encode({"e": "serverShutdown", "E": self.market.now() // NS_PER_MS})
        return (
            wrapped("!serverShutdown", notice) if isinstance(session, BinanceSession) and session.combined else notice
        )
