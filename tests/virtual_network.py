"""A network in memory for the loop in virtual time: connections with latency, jitter, flow control, and all that breaks them.

Order       kept within a connection, as TCP keeps it; what is written at once may arrive in pieces
Window      so many bytes may be on their way or unread; what is beyond waits with the writer, who is told to pause (`pause_writing`)
Close       what was written before it still arrives; a side that is closed with bytes unread, or written to after it is, resets
Black hole  nothing arrives any more, and nobody is told; `heal` sends it all again
Dials       of an address where nobody listens are refused; `refuse`, `unreachable` and `names` make them fail in other ways
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import random
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

Address: TypeAlias = tuple[str, int]
FIRST_PORT: Final = 40_000
NO_ROUTE_S: Final = 127.0
"""How long Linux goes on asking where nobody answers."""
WINDOW_BYTES: Final = 1 << 18
HIGH_WATER, LOW_WATER = 1 << 16, 1 << 14
PIECES: Final = 16
"""One write in so many arrives in two pieces."""


class _Mark:
    """What travels besides bytes."""

    def __init__(self, name: str) -> None:
        self.name = name


FIN, RESET = _Mark("end"), _Mark("reset")
Item: TypeAlias = bytes | _Mark


class VirtualSocket:
    """What a transport shows as its socket: addresses, and options that nobody looks at."""

    family, type, proto = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP

    def __init__(self, name: Address, peer: Address | None = None) -> None:
        self._name, self._peer = name, peer

    def getsockname(self) -> Address:
        return self._name

    def getpeername(self) -> Address | None:
        return self._peer

    def setsockopt(self, *_: Any) -> None: ...
    def close(self) -> None: ...
    def fileno(self) -> int:
        return -1


class VirtualServer(asyncio.AbstractServer):
    """A listener. Closing it leaves its connections alone."""

    def __init__(self, network: Network, factory: Callable[[], Any], address: Address) -> None:
        self.factory, self.address = factory, address
        self._network = network

    @property
    def sockets(self) -> tuple[VirtualSocket, ...]:
        return (VirtualSocket(self.address),) if self.is_serving() else ()

    def close(self) -> None:
        if self.is_serving():
            del self._network.listeners[self.address]

    def is_serving(self) -> bool:
        return self._network.listeners.get(self.address) is self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._network.loop

    async def start_serving(self) -> None: ...

    async def serve_forever(self) -> None:
        await self._network.loop.create_future()

    async def wait_closed(self) -> None: ...


class Network:
    """All connections of one loop, and the weather they go through. What is changed holds from the next byte on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, chance: random.Random) -> None:
        self.loop = loop
        self.latency_s, self.jitter_s = 0.002, 0.003
        self.names: dict[str, str] = {"localhost": "127.0.0.1"}
        self.refuse: set[Address] = set()
        """Addresses that answer dials with a reset."""
        self.unreachable: set[Address] = set()
        """Addresses that answer dials with nothing at all."""
        self.listeners: dict[Address, VirtualServer] = {}
        self.transports: dict[VirtualTransport, None] = {}
        """Both ends of each connection that is not lost, in the order in which they were made."""
        self.dials: list[tuple[float, Address]] = []
        """When connections were asked for, and whither."""
        self._random = chance
        self._port = FIRST_PORT

    def listen(self, factory: Callable[[], Any], address: Address, *, is_path: bool = False) -> VirtualServer:
        host, port = address
        address = (host, port if port or is_path else self._next_port())
        if address in self.listeners:
            raise OSError(errno.EADDRINUSE, f"{address}: address already in use")
        server = self.listeners[address] = VirtualServer(self, factory, address)
        return server

    async def resolve(self, host: Any) -> str:
        """Return the address of a name, itself for an address. Raises socket.gaierror for a name that is not in `names`."""
        text = host.decode() if isinstance(host, bytes) else str(host)
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            await asyncio.sleep(self._delay())
            if text not in self.names:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
            return self.names[text]

    async def connect(self, address: Address) -> VirtualServer:
        """Shake hands, and return who listens. Raises ConnectionRefusedError, TimeoutError."""
        self.dials.append((self.loop.time(), address))
        if address in self.unreachable:
            await asyncio.sleep(NO_ROUTE_S)
            raise TimeoutError(errno.ETIMEDOUT, f"connect to {address}: timed out")
        await asyncio.sleep(2 * self._delay())
        server = self.listeners.get(address)
        if server is None or address in self.refuse:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"connect to {address}: refused")
        return server

    def attach(
        self, server: VirtualServer, factory: Callable[[], Any], sock: socket.socket | None = None
    ) -> tuple[VirtualTransport, Any]:
        """Make both ends of a connection; returns the dialling one, which shows `sock` as its socket, and closes it."""
        here = ("127.0.0.1", self._next_port())
        client = VirtualTransport(self, factory(), sock or VirtualSocket(here, server.address), here, server.address)
        accepted = VirtualTransport(
            self, server.factory(), VirtualSocket(server.address, here), server.address, here, is_server=True
        )
        client.peer, accepted.peer = accepted, client
        client.get_protocol().connection_made(client)
        accepted.get_protocol().connection_made(accepted)
        return client, client.get_protocol()

    def black_hole(self, is_wanted: bool = True, *, towards_clients: bool = True, towards_servers: bool = True) -> None:
        """Let all connections there are now hang, one way or both; False heals them, and all is sent again."""
        ends = dict.fromkeys(end for transport in self.transports for end in (transport, transport.peer))
        for transport in ends:  # one that is closed on one side only among them
            if towards_clients if transport.is_server else towards_servers:
                transport.black_hole(is_wanted)

    def arrival(self, not_before: float) -> float:
        """When what is sent now arrives."""
        return max(not_before, self.loop.time() + self._delay())

    def pieces(self, data: bytes) -> list[bytes]:
        """Cut what is sent, now and then."""
        if len(data) < 2 or self._random.randrange(PIECES):
            return [data]
        at = self._random.randrange(1, len(data))
        return [data[:at], data[at:]]

    def _delay(self) -> float:
        return self.latency_s + self.jitter_s * self._random.random()

    def _next_port(self) -> int:
        self._port += 1
        return self._port


class VirtualTransport(asyncio.Transport):
    """One end of a connection. All but `peer`, `is_server` and `black_hole` is asyncio's interface."""

    peer: VirtualTransport

    def __init__(
        self,
        network: Network,
        protocol: Any,
        sock: Any,
        here: Address,
        there: Address,
        *,
        is_server: bool = False,
    ) -> None:
        super().__init__({"socket": sock, "sockname": here, "peername": there})
        self.is_server = is_server
        self._network, self._loop = network, network.loop
        self._protocol = protocol
        self._sock = sock
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._high, self._low = HIGH_WATER, LOW_WATER
        self._is_writing_paused = False
        self._away = 0  # bytes that the peer has not read
        self._flying: deque[Item] = deque()
        self._newest = 0.0  # when what was sent last arrives
        self._hole: list[Item] | None = None
        self._arrived: deque[Item] = deque()
        self._is_reading_paused = False
        self._is_closing = False
        self._is_lost = False
        self._ends = False  # FIN is to be sent, or was
        self._has_ended = False
        network.transports[self] = None

    # -- what a protocol uses

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: Any) -> None:
        if self._ends and not self._is_closing:
            raise RuntimeError("cannot write after write_eof")
        if self._is_closing or not data:
            return
        self._backlog.append(bytes(data))
        self._backlog_bytes += len(data)
        self._send()
        if self._backlog_bytes > self._high and not self._is_writing_paused:
            self._is_writing_paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._ends = True
        self._send()

    def get_write_buffer_size(self) -> int:
        return self._backlog_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = (HIGH_WATER if low is None else 4 * low) if high is None else high
        self._low = self._high // 4 if low is None else low

    def is_reading(self) -> bool:
        return not self._is_reading_paused and not self._is_closing

    def pause_reading(self) -> None:
        self._is_reading_paused = True

    def resume_reading(self) -> None:
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._loop.call_soon(self._read)

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._ends = True
            self._send()

    def abort(self) -> None:
        if not self._is_lost:
            self._lose(None)
            self._fly(RESET)

    def black_hole(self, is_wanted: bool) -> None:
        """Let nothing that this end sends arrive; False sends all of it again."""
        if is_wanted:
            self._hole = [] if self._hole is None else self._hole
        elif self._hole is not None:
            items, self._hole = self._hole, None
            for item in items:
                self._fly(item)

    # -- sending

    def _send(self) -> None:
        """Send what the window lets through."""
        while self._backlog and self._away < WINDOW_BYTES:
            data, room = self._backlog.popleft(), WINDOW_BYTES - self._away
            if len(data) > room:
                self._backlog.appendleft(data[room:])
                data = data[:room]
            self._backlog_bytes -= len(data)
            self._away += len(data)
            for piece in self._network.pieces(data):
                self._fly(piece)
        if self._is_writing_paused and self._backlog_bytes <= self._low and not self._is_lost:
            self._is_writing_paused = False
            self._protocol.resume_writing()
        if self._ends and not self._backlog and not self._is_lost:
            if not self._has_ended:
                self._has_ended = True
                self._fly(RESET if self._is_closing and self._has_unread() else FIN)
            if self._is_closing:
                self._lose(None)

    def _fly(self, item: Item) -> None:
        self._newest = self._network.arrival(self._newest)
        self._flying.append(item)  # timers of one moment ring in any order
        self._loop.call_at(self._newest, self._land)

    def _land(self) -> None:
        item = self._flying.popleft()
        if self._hole is not None:
            self._hole.append(item)
        else:
            self.peer._take(item)  # the other end

    # -- receiving

    def _take(self, item: Item) -> None:
        if self._is_lost:
            if isinstance(item, bytes):  # nobody is there any more, says the system
                self._fly(RESET)
        elif item is RESET:
            self._lose(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
        else:
            self._arrived.append(item)
            self._read()

    def _read(self) -> None:
        while self._arrived and self.is_reading():
            item = self._arrived.popleft()
            if isinstance(item, bytes):
                self.peer._away -= len(item)
                self.peer._send()
                self._protocol.data_received(item)
            elif not self._protocol.eof_received():
                self.close()

    def _has_unread(self) -> bool:
        return any(isinstance(item, bytes) for item in self._arrived)

    def _lose(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = self._is_closing = True
        self._backlog.clear()
        self._backlog_bytes = 0
        self._arrived.clear()
        self._network.transports.pop(self, None)
        self._sock.close()
        self._loop.call_soon(self._protocol.connection_lost, error)
