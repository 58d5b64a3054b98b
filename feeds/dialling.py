"""How connections dial by aiohttp: the session that they share, and what is read in an answer that is not the one asked for.

An exchange that refuses says why, and when to come back, in the status, the headers and the first words of the body: all of it is
kept, for the machine and for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import WSMsgType

CLOSE_S = 1.0
"""How long a closing handshake may take; then the socket is cut. The body of a refusal gets as much."""
BODY_EXCERPT = 200
BODY_BYTES = 1 << 20
"""Of an answer that is asked for before a dial."""
ABNORMAL = 1006
TOO_BIG = 1009
RECORDING_HEADER = "X-Tickfold-Recording"
"""A loopback exchange answers the upgrade with it: whoever shows its prices is to say that they are not today's."""


class RefusedError(Exception):
    """The answer has another HTTP status than the one that was asked for."""

    def __init__(self, status: int, detail: str, retry_after: str | None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class WebSocket(aiohttp.ClientWebSocketResponse[bool]):
    """A websocket that knows whether the answer to its upgrade named a recording."""

    def __init__(
        self, reader: Any, writer: Any, protocol: Any, response: aiohttp.ClientResponse, *rest: Any, **more: Any
    ):
        super().__init__(reader, writer, protocol, response, *rest, **more)
        self.is_recording = RECORDING_HEADER in response.headers


def open_session(connector: aiohttp.BaseConnector | None = None) -> aiohttp.ClientSession:
    """The session that links dial with, and that back-fill and product lists are asked for by. `connector`: None for TCP."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True) if connector is None else connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        ws_response_class=WebSocket,  # type: ignore[arg-type]  # declared for text frames that are decoded
        middlewares=(_ask_once, _refuse_what_is_no_upgrade),
        timeout=aiohttp.ClientTimeout(total=None),  # the machine breaks a dial off
    )


async def fetch(session: aiohttp.ClientSession, method: str, url: str) -> bytes:
    """Make a request and return the body of its answer. Raises RefusedError for a status other than 200, aiohttp's errors else.

    Nothing is followed: where a host has moved to is to be seen, and put into the configuration.
    """
    async with session.request(method, url, allow_redirects=False) as response:
        if response.status != 200:
            raise await _refused(response, "200 OK")
        body = bytearray()
        async for part in response.content.iter_any():
            body += part
            if len(body) > BODY_BYTES:
                raise aiohttp.ClientPayloadError(f"expected an answer of at most {BODY_BYTES} bytes, came more")
        return bytes(body)


async def _ask_once(
    request: aiohttp.ClientRequest, handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """Let a request that is broken off be one: aiohttp repeats these two errors at once, and what counts for limits would be two."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error) or type(error).__name__) from error


async def _refuse_what_is_no_upgrade(
    request: aiohttp.ClientRequest, handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """Keep what the answer to a dial says if it is no websocket: aiohttp itself throws the body away."""
    response = await handler(request)
    if response.status == 101 or "Upgrade" not in request.headers:
        return response
    refusal = await _refused(response, "101 Switching Protocols")
    response.close()
    raise refusal


async def _refused(response: aiohttp.ClientResponse, expected: str) -> RefusedError:
    try:
        async with asyncio.timeout(CLOSE_S):
            body = await response.content.read(BODY_EXCERPT)
    except (aiohttp.ClientError, OSError):
        body = b""
    said = " ".join(body.decode("utf-8", "replace").split())
    where = response.headers.get("Location")
    detail = f"{response.url}: expected {expected}, came {response.status} {response.reason or ''}".rstrip()
    detail += (f" to {where}" if where else "") + (f": {said}" if said else "")
    return RefusedError(response.status, detail, response.headers.get("Retry-After"))


def farewell(kind: WSMsgType, data: object, extra: object, limit_bytes: int) -> tuple[int, str]:
    """The code and reason of whatever ended a socket, which took messages of at most `limit_bytes`."""
    if kind is WSMsgType.CLOSE:
        return (data if isinstance(data, int) and data else 1005), str(extra or "")
    if kind is WSMsgType.ERROR:
        code = int(getattr(data, "code", ABNORMAL))
        if code == TOO_BIG:
            return code, f"a message above the {limit_bytes >> 20} MiB of feeds.frame_mib came ({data})"
        return code, str(data)
    return ABNORMAL, "the connection broke off"
