"""One client of the loopback exchange: its websocket as bytes on a transport, and the limits that it has to keep.

Frames are made here, so that one write carries many: aiohttp would write each on its own.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import Final

from aiohttp import web

from replay.exchange.binance import BinanceSession

CLOSE_S: Final = 2.0  # so long a client may take to say goodbye
SEND_BUFFER_BYTES: Final = 262_144  # of the system, for each client
RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)  # what SO_LINGER wants for it
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A  # first byte of a frame, which is whole


class Client:
    """One connection."""

    def __init__(
        self,
        response: web.WebSocketResponse,
        transport: asyncio.Transport,
        session: BinanceSession,
        messages_a_second: int,
    ) -> None:
        self.response, self.transport, self.session = response, transport, session
        # Left to itself the system takes 4 MB more for a client that does not read, and nobody sees them.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.frames: list[bytes] = []
        """What the round that is going on has for it."""
        self.is_dropped = False
        self.pings: dict[bytes, float] = {}
        """Payload of each unanswered ping, oldest first, and when it was sent. As many as fit into the time for a pong."""
        self._messages: deque[float] = deque(maxlen=messages_a_second)

    @property
    def unanswered_since(self) -> float | None:
        """When the oldest unanswered ping was sent."""
        return next(iter(self.pings.values()), None)

    def pong(self, payload: bytes) -> None:
        """Take an answer: the copy of a ping's payload. One that was not asked for does not help."""
        if payload in self.pings:
            self.pings.clear()

    def may_send(self, now: float) -> bool:
        """Note a message of the client, and tell whether it keeps the limit in every second."""
        messages = self._messages
        within = len(messages) < (messages.maxlen or 0) or now - messages[0] >= 1.0
        messages.append(now)
        return within

    async def close(self, code: int, reason: str) -> None:
        """Close as the protocol wants it; after a while without asking."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.response.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError):
            self.abort()

    def abort(self) -> None:
        """Reset the connection, and forget what the system still holds for it."""
        if not self.transport.is_closing():
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        self.transport.abort()


def frame_of(kind: int, payload: bytes) -> bytes:
    """Return a frame as a server sends it: whole, not masked, not compressed."""
    length = len(payload)
    if length < 126:
        return bytes((kind, length)) + payload
    if length < 65_536:
        return bytes((kind, 126)) + length.to_bytes(2, "big") + payload
    return bytes((kind, 127)) + length.to_bytes(8, "big") + payload
