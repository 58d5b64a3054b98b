"""One client of the loopback exchange: its websocket as bytes on a transport.

Frames are made here, so that one write carries many: aiohttp would write each on its own.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

from aiohttp import web

from replay.exchange.limits import Window
from replay.exchange.venue import Session, Venue

CLOSE_S: Final = 2.0  # so long a client may take to say goodbye
SEND_BUFFER_BYTES: Final = 262_144  # of the system, for each client
RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)  # what SO_LINGER wants for it
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A  # first byte of a frame, which is whole


class Client:
    """One connection."""

    def __init__(
        self,
        number: int,
        response: web.WebSocketResponse,
        transport: asyncio.Transport,
        venue: Venue,
        session: Session,
        messages: Window,
    ) -> None:
        self.number = number
        """Counts the clients of an exchange."""
        self.response, self.transport, self.venue, self.session = response, transport, venue, session
        # Left to itself the system takes 4 MB more for a client that does not read, and nobody sees them.
        _set_option(transport, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.frames: list[bytes] = []
        """What the round that is going on has for it."""
        self.is_dropped = False
        self.is_held = False
        """Whether it is neither read from nor disconnected for what it does not say."""
        self.large_bytes = 0
        """Of a large message that may still be unread."""
        self.wakes_at: float | None = None
        self.ping_at: float | None = None
        self.ends_at: float | None = None
        self.pings: dict[bytes, float] = {}
        """Payload of each unanswered ping, oldest first, and when it was sent. As many as fit into the time for a pong."""
        self._messages = messages
        self._released: asyncio.Event | None = None

    @property
    def unanswered_since(self) -> float | None:
        """When the oldest unanswered ping was sent."""
        return next(iter(self.pings.values()), None)

    def pong(self, payload: bytes) -> None:
        """Take an answer: the copy of a ping's payload. One that was not asked for does not help."""
        if payload in self.pings:
            self.pings.clear()

    def may_send(self, now: float) -> bool:
        """Note a message of the client, and tell whether it keeps the limit."""
        return self._messages.note(now)

    async def close(self, code: int, reason: str) -> None:
        """Close as the protocol wants it; after a while without asking."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.response.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError):
            self.abort()

    def abort(self) -> None:
        """Reset the connection, and forget what the system still holds for it."""
        reset(self.transport)
        self._release()

    def hold(self) -> None:
        """Stop reading what it says."""
        if not self.is_held and not self.transport.is_closing():
            self.is_held = True
            self._released = asyncio.Event()
            self.transport.pause_reading()

    def release(self) -> None:
        """Read on."""
        if self.is_held and not self.transport.is_closing():
            self.transport.resume_reading()
        self._release()

    async def released(self) -> None:
        """Wait until it is read from."""
        while self._released is not None:
            await self._released.wait()

    def _release(self) -> None:
        self.is_held = False
        if self._released is not None:
            self._released.set()
            self._released = None


def reset(transport: asyncio.Transport) -> None:
    """Reset a connection."""
    if not transport.is_closing():
        _set_option(transport, socket.SO_LINGER, RESET_AT_CLOSE)
    transport.abort()


def _set_option(transport: asyncio.Transport, option: int, value: int | bytes) -> None:
    # A transport in memory has no socket.
    if (found := transport.get_extra_info("socket")) is not None:
        found.setsockopt(socket.SOL_SOCKET, option, value)


def frame_of(kind: int, payload: bytes) -> bytes:
    """Return a frame as a server sends it: whole, not masked, not compressed."""
    length = len(payload)
    if length < 126:
        return bytes((kind, length)) + payload
    if length < 65_536:
        return bytes((kind, 126)) + length.to_bytes(2, "big") + payload
    return bytes((kind, 127)) + length.to_bytes(8, "big") + payload
