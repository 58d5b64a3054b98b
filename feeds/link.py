"""The shell of one connection: a socket by aiohttp, what it brings decoded and given to whoever the connection belongs to.

All decisions are the state machine's (`feeds.connection`); this carries its actions out and tells it what happened. Between one
frame and the next it costs what aiohttp and the decoder cost, and little else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import aiohttp
import structlog
from aiohttp import WSMsgType

from engine.clock import Clock
from engine.errors import DecodeError
from engine.events import Event
from engine.health import FeedHealth
from feeds import Decoder
from feeds.connection import Connection
from feeds.dialling import ABNORMAL, CLOSE_S, RefusedError, WebSocket, farewell, fetch
from feeds.retry_after import retry_after_ns
from feeds.speech import (
    Action,
    Close,
    Dial,
    Fetch,
    Missed,
    Note,
    Pong,
    Reach,
    Renew,
    Report,
    Send,
    StreamProtocol,
    Wake,
)

NS_PER_MS = 1_000_000
FRAMES_A_TURN = 256
"""Frames that one connection may take before the loop turns: under a millisecond with the decoder."""
OUTGOING = 64
"""Messages of ours that may wait for a peer that does not read them."""
UNDECODABLE_SHOWN = 5

RawSink: TypeAlias = Callable[[str, int, str, str | bytes], None]
"""What a recorder hears: ("connect", "http", "recv" or "send"; ns UTC; name of the connection; the URL or the raw message).

"http" is the body of what was fetched before a dial.
"""


class Inbox(Protocol):
    """Where a feed puts what it has heard. Called on the loop."""

    @property
    def is_full(self) -> bool:
        """Whether the feed is to stop reading. It stops before the next frame, and awaits `drained`."""

    def offer(self, events: Sequence[Event]) -> None:
        """Take the events of one frame, or a FeedStatus, in order; never refuses, may not raise."""

    async def drained(self) -> None:
        """Return once it is no longer full."""


class Owner(Protocol):
    """Whom a connection belongs to: hears what it brings and what its machine asks for. Called on the loop."""

    def reported(self, link: Link, report: Report) -> None:
        """The connection, or a symbol on it, is another than it was."""

    def renew(self, link: Link, reason: str) -> None:
        """A second connection with the same symbols is wanted."""

    def missed(self, link: Link, count: int) -> None:
        """So many messages of this socket never came."""

    def reached(self, link: Link, symbol: str, trade_id: int) -> None:
        """The exchange says which trade is the newest of a symbol."""

    def held(self, link: Link, now: int) -> None:
        """Nothing is read from `now` (ns) on."""

    def resumed(self, link: Link, now: int) -> None:
        """Reading goes on at `now` (ns)."""

    def broke(self, defect: BaseException) -> None:
        """A task of the connection has ended by a defect of ours."""


@dataclass
class Outside:
    """What the connections of one feed share of the world."""

    clock: Clock
    inbox: Inbox
    decoder: Decoder
    protocol: StreamProtocol
    frame_bytes: int
    recording: bool
    raw: RawSink | None


@dataclass(eq=False)
class _Socket:
    """One fetch, or one dial and what becomes of it."""

    outgoing: asyncio.Queue[Send | Pong] = field(default_factory=lambda: asyncio.Queue(OUTGOING))
    task: asyncio.Task[None] | None = None
    close_with: tuple[int, str] = (1000, "")


class Link:
    """One connection: its machine, its socket of the moment, its timer.

    `take` is given the events of each frame that holds some; it may be set anew at any time.
    """

    def __init__(
        self, name: str, machine: Connection, outside: Outside, owner: Owner, take: Callable[[Sequence[Event]], None]
    ) -> None:
        self.name = name
        self.machine = machine
        self.take = take
        self.messages = 0
        self.undecodable = 0
        self.newest = 0
        """When the newest message came, ns; 0 if none has."""
        self._is_recording = False
        self._outside = outside
        self._now = outside.clock.now
        self._owner = owner
        self._session: aiohttp.ClientSession | None = None
        self._socket: _Socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = 0
        self._log = structlog.get_logger(connection=name)

    def start(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.do(self.machine.start(self._now()))

    async def stop(self) -> None:
        """Close for good, and wait until the sockets are gone."""
        self.do(self.machine.stop(self._now()))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._tasks:
            await asyncio.wait(self._tasks)

    def health(self) -> FeedHealth:
        machine, outside = self.machine, self._outside
        detail = machine.detail
        if machine.waiting_messages:
            detail = f"{detail}; requests wait for the limit of messages a second".removeprefix("; ")
        return FeedHealth(
            name=self.name,
            exchange=outside.protocol.exchange,
            url=outside.protocol.endpoint,
            state=machine.state,
            symbols=machine.symbols,
            recording=outside.recording or self._is_recording,
            connected_at=machine.connected_at,
            newest=self.newest,
            messages=self.messages,
            undecodable=self.undecodable,
            reconnects=machine.reconnects,
            detail=detail,
            ignored=machine.ignored,
        )

    def do(self, actions: Sequence[Action]) -> None:
        """Carry out what the machine wants done."""
        for action in actions:
            match action:
                case Report():
                    self._owner.reported(self, action)
                case Send() | Pong():
                    self._say(action)
                case Wake(at_ns):
                    self._wake_by(at_ns)
                case Close(code, reason):
                    self._let_go(code, reason)
                case Fetch(method, url):
                    socket = self._socket = _Socket()
                    self._spawn(socket, self._fetch(method, url, socket))
                case Dial(url):
                    socket = self._socket = _Socket()
                    self._spawn(socket, self._live(url, socket))
                case Note(detail):
                    self._log.warning("unexpected", detail=detail)
                case Renew(reason):
                    self._owner.renew(self, reason)
                case Missed(count):
                    self._owner.missed(self, count)
                case Reach(symbol, trade_id):
                    self._owner.reached(self, symbol, trade_id)

    def _say(self, message: Send | Pong) -> None:
        socket = self._socket
        if socket is None:
            return
        try:
            socket.outgoing.put_nowait(message)
        except asyncio.QueueFull:
            self._let_go(1001, "does not read")
            self.do(self.machine.closed(ABNORMAL, f"the exchange has left {OUTGOING} messages unread", self._now()))

    def _wake_by(self, at_ns: int) -> None:
        if self._timer is not None:
            if self._wake_at <= at_ns:
                return
            self._timer.cancel()
        self._wake_at = at_ns
        # Rounded up: event loops keep time in ms, and one that is early would call again and again.
        delay_ms = -(-max(0, at_ns - self._now()) // NS_PER_MS)
        self._timer = asyncio.get_running_loop().call_later(delay_ms / 1000, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.do(self.machine.timer(self._now()))

    def _spawn(self, socket: _Socket, life: Coroutine[Any, Any, None]) -> None:
        socket.task = asyncio.get_running_loop().create_task(life, name=f"feed {self.name}")
        self._tasks.add(socket.task)
        socket.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._owner.broke(defect)

    def _let_go(self, code: int, reason: str) -> None:
        """Close the socket of the moment, in the background; a socket that does so from its own task sees that it is not it any more."""
        socket, self._socket = self._socket, None
        if socket is not None and socket.task is not None:
            socket.close_with = (code, reason)
            if socket.task is not asyncio.current_task():
                socket.task.cancel()

    async def _fetch(self, method: str, url: str, socket: _Socket) -> None:
        """Ask for what has to be known before the dial."""
        assert self._session is not None
        try:
            body = await fetch(self._session, method, url)
        except asyncio.CancelledError:
            if socket is self._socket:
                raise
            return  # the machine has broken it off
        except (RefusedError, aiohttp.ClientError, OSError, ValueError) as error:
            self._fail(url, error, socket)
            return
        if socket is self._socket:
            self._socket = None
            now = self._now()
            if self._outside.raw is not None:
                self._outside.raw("http", now, self.name, body)
            self.do(self.machine.fetched(body, now))

    async def _live(self, url: str, socket: _Socket) -> None:
        """Live the life of one socket: dial, listen, close."""
        assert self._session is not None
        if self._outside.raw is not None:
            self._outside.raw("connect", self._now(), self.name, url)
        try:
            ws = await self._session.ws_connect(
                url,
                autoping=False,  # a pong is one of the messages that the exchange counts: the machine sends it
                compress=0,
                decode_text=False,  # the decoder reads bytes, and says what is wrong with them
                max_msg_size=self._outside.frame_bytes,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
            )
        except asyncio.CancelledError:
            if socket is self._socket:
                raise
            return  # the machine has broken the dial off
        except (RefusedError, aiohttp.ClientError, OSError, ValueError) as error:
            self._fail(url, error, socket)
            return
        speaking = asyncio.get_running_loop().create_task(self._speak(ws, socket), name=f"feed {self.name} speaks")
        self._tasks.add(speaking)
        speaking.add_done_callback(self._ended)
        try:
            if socket is self._socket:
                self._is_recording = isinstance(ws, WebSocket) and ws.is_recording
                self.do(self.machine.opened(self._now()))
                await self._listen(ws, socket)
        except asyncio.CancelledError:
            if socket is self._socket:
                raise
        finally:
            speaking.cancel()
            code, reason = socket.close_with
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):  # a peer that goes on talking would keep aiohttp's own waiting
                    await ws.close(code=code, message=reason.encode())

    def _fail(self, url: str, error: Exception, socket: _Socket) -> None:
        """Tell the machine why a fetch or a dial came to nothing, if it still waits for it."""
        if socket is not self._socket:
            return
        self._socket = None
        now = self._now()
        if isinstance(error, RefusedError):
            wait_ns = retry_after_ns(error.retry_after, now)
            self.do(self.machine.refused(error.status, error.detail, wait_ns, now))
        else:  # TimeoutError is an OSError
            self.do(self.machine.failed(f"{url}: {str(error) or type(error).__name__}", now))

    async def _speak(self, ws: aiohttp.ClientWebSocketResponse[bool], socket: _Socket) -> None:
        raw = self._outside.raw
        while True:
            message = await socket.outgoing.get()
            with contextlib.suppress(aiohttp.ClientError, OSError):  # gone: the listener hears of it
                if isinstance(message, Pong):
                    await ws.pong(message.payload)
                else:
                    await ws.send_str(message.text)
                    if raw is not None:
                        raw("send", self._now(), self.name, message.text)

    async def _listen(self, ws: aiohttp.ClientWebSocketResponse[bool], socket: _Socket) -> None:
        """Take frames until the socket is closed by either side."""
        machine, name, outside = self.machine, self.name, self._outside
        raw, inbox = outside.raw, outside.inbox
        receive, now = ws.receive, self._now
        text, binary = WSMsgType.TEXT, WSMsgType.BINARY
        before = self.messages
        frames = 0
        while socket is self._socket:
            kind, data, extra = await receive()
            received = now()
            if kind is text or kind is binary:
                machine.last_heard = self.newest = received
                self.messages += 1
                if raw is not None:
                    raw("recv", received, name, data)
                try:
                    events = outside.decoder.decode(data, received)
                except DecodeError as error:
                    self._cannot_decode(error)
                else:
                    if events:
                        self.take(events)
                    else:
                        answer = outside.protocol.read(data)
                        self.do(machine.answered(answer, received, self.messages - before))
                if inbox.is_full:
                    await self._wait_for_room(socket)
                frames += 1
                if frames >= FRAMES_A_TURN:
                    frames = 0
                    await asyncio.sleep(0)
            elif kind is WSMsgType.PING:
                self.do(machine.pinged(bytes(data), received))
            elif kind is WSMsgType.PONG:
                machine.last_heard = received
            else:
                self._socket = None
                self.do(machine.closed(*farewell(kind, data, extra, outside.frame_bytes), received))
                return

    async def _wait_for_room(self, socket: _Socket) -> None:
        """Read nothing until the inbox has room: the kernel's buffers fill, and the exchange feels it."""
        now = self._now()
        self.do(self.machine.hold(now))
        self._owner.held(self, now)
        await self._outside.inbox.drained()
        if socket is self._socket:
            now = self._now()
            self.do(self.machine.resume(now))
            self._owner.resumed(self, now)

    def _cannot_decode(self, error: DecodeError) -> None:
        self.undecodable += 1
        if self.undecodable <= UNDECODABLE_SHOWN:
            self.machine.detail = f"undecodable: {error}"
            self._log.warning("undecodable frame", error=str(error))
            if self.undecodable == UNDECODABLE_SHOWN:
                self._log.warning("undecodable frame", more="further ones are only counted")
