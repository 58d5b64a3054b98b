"""One client of the loopback Binance: what it asks for and what it is answered. No socket: texts in, texts out.

Raw         /ws/<stream>, /ws/<stream>/<stream>, or /ws and SUBSCRIBE: gets payloads
Combined    /stream?streams=<stream>/<stream>, or /stream and SUBSCRIBE: gets {"stream":"<name>","data":<payload>}
Requests    SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS, SET_PROPERTY and GET_PROPERTY of `combined`
Answers     {"result":null,"id":1}; a wrong one gets {"code":..,"msg":".."} and changes nothing
Unknown     a stream that does not exist is acknowledged, and stays silent
Reference   https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from engine.errors import FeedError

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

    def answer(self, text: str | bytes) -> bytes:
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


def wrapping(stream: str) -> tuple[bytes, bytes]:
    """Return what stands before and after a payload in its combined form."""
    return b'{"stream":' + _encode(stream) + b',"data":', b"}"


def _names(text: str) -> list[str]:
    return [name for name in text.split("/") if name]


def _is_id(number: Any) -> bool:
    if isinstance(number, str):
        return len(number) <= ID_CHARACTERS_MAX
    return number is None or (
        isinstance(number, int) and not isinstance(number, bool) and INT64_MIN <= number <= INT64_MAX
    )
