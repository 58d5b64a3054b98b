"""The shell of one connection: a socket by aiohttp, what it brings decoded and offered to the daemon's inbox.

All decisions are the state machine's (`feeds.connection`); this carries its actions out and tells it what happened. Between one
frame and the next it costs what aiohttp and the decoder cost, and little else.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import aiohttp
import structlog
from aiohttp import WSMsgType

from engine.clock import Clock
from engine.errors import DecodeError
from engine.events import Event, FeedStatus
from engine.health import FeedHealth
from feeds import Decoder
from feeds.connection import Connection
from feeds.speech import Action, Close, Dial, Note, Pong, Report, Send, Status, StreamProtocol, Wake

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
FRAME_MIB = 16
FRAMES_A_TURN = 256
"""Frames that one connection may take before the loop turns: under a millisecond with the decoder."""
CLOSE_S = 1.0
"""How long a closing handshake may take; then the socket is cut."""
BODY_EXCERPT = 200
SECONDS_DIGITS = 12
"""Of a Retry-After; the machine has a limit of its own."""
OUTGOING = 64
"""Messages of ours that may wait for a peer that does not read them."""
UNDECODABLE_SHOWN = 5
ABNORMAL = 1006
RECORDING_HEADER = "X-Tickfold-Recording"
"""A loopback exchange answers the upgrade with it: whoever shows its prices is to say that they are not today's."""

RawSink: TypeAlias = Callable[[str, int, str, str | bytes], None]
"""What a recorder hears: ("connect", "recv" or "send"; ns UTC; name of the connection; the URL or the raw message)."""


class Inbox(Protocol):
    """Where a feed puts what it has heard. Called on the loop."""

    @property
    def is_full(self) -> bool:
        """Whether the feed is to stop reading. It stops before the next frame, and awaits `drained`."""

    def offer(self, events: Sequence[Event]) -> None:
        """Take the events of one frame, or a FeedStatus, in order; never refuses, may not raise."""

    async def drained(self) -> None:
        """Return once it is no longer full."""


@dataclass(frozen=True)
class Outside:
    """What the connections of one feed share of the world."""

    clock: Clock
    inbox: Inbox
    decoder: Decoder
    protocol: StreamProtocol
    recording: bool
    raw: RawSink | None


class _RefusedError(Exception):
    """The dial was answered with an HTTP status other than 101."""

    def __init__(self, status: int, detail: str, retry_after: str | None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class _WebSocket(aiohttp.ClientWebSocketResponse[bool]):
    """A websocket that knows whether the answer to its upgrade named a recording."""

    def __init__(
        self, reader: Any, writer: Any, protocol: Any, response: aiohttp.ClientResponse, *rest: Any, **more: Any
    ):
        super().__init__(reader, writer, protocol, response, *rest, **more)
        self.is_recording = RECORDING_HEADER in response.headers


@dataclass(eq=False)
class _Socket:
    """One dial and what becomes of it."""

    outgoing: asyncio.Queue[Send | Pong] = field(default_factory=lambda: asyncio.Queue(OUTGOING))
    task: asyncio.Task[None] | None = None
    close_with: tuple[int, str] = (1000, "")


def open_session() -> aiohttp.ClientSession:
    """The session that links dial with."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        ws_response_class=_WebSocket,  # type: ignore[arg-type]  # declared for text frames that are decoded
        middlewares=(_refuse_what_is_no_upgrade,),
        timeout=aiohttp.ClientTimeout(total=None),  # the machine breaks a dial off
    )


class Link:
    """One connection: its machine, its socket of the moment, its timer."""

    def __init__(self, name: str, machine: Connection, outside: Outside, on_defect: Callable[[BaseException], None]):
        self.name = name
        self.machine = machine
        self.messages = 0
        self.undecodable = 0
        self._newest = 0
        self._is_recording = False
        self._outside = outside
        self._now = outside.clock.now
        self._on_defect = on_defect
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
            newest=self._newest,
            messages=self.messages,
            undecodable=self.undecodable,
            reconnects=machine.reconnects,
            detail=detail,
        )

    def do(self, actions: Sequence[Action]) -> None:
        """Carry out what the machine wants done."""
        for action in actions:
            match action:
                case Report(status, symbol, detail):
                    self._outside.inbox.offer([self._status(status, symbol, detail)])
                case Send() | Pong():
                    self._say(action)
                case Wake(at_ns):
                    if self._timer is not None:
                        if self._wake_at <= at_ns:
                            continue
                        self._timer.cancel()
                    self._wake_at = at_ns
                    # Rounded up: event loops keep time in ms, and one that is early would call again and again.
                    delay_ms = -(-max(0, at_ns - self._now()) // NS_PER_MS)
                    self._timer = asyncio.get_running_loop().call_later(delay_ms / 1000, self._wake)
                case Close(code, reason):
                    self._let_go(code, reason)
                case Dial(url):
                    self._open(url)
                case Note(detail):
                    self._log.warning("unexpected", detail=detail)

    def _say(self, message: Send | Pong) -> None:
        socket = self._socket
        if socket is None:
            return
        try:
            socket.outgoing.put_nowait(message)
        except asyncio.QueueFull:
            self._let_go(1001, "does not read")
            self.do(self.machine.closed(ABNORMAL, f"the exchange has left {OUTGOING} messages unread", self._now()))

    def _status(self, status: Status, symbol: str, detail: str) -> FeedStatus:
        now = self._now()
        return FeedStatus(self._outside.protocol.exchange, symbol, status, f"{self.name}: {detail}", now, now)

    def _wake(self) -> None:
        self._timer = None
        self.do(self.machine.timer(self._now()))

    def _open(self, url: str) -> None:
        socket = self._socket = _Socket()
        socket.task = asyncio.get_running_loop().create_task(self._live(url, socket), name=f"feed {self.name}")
        self._tasks.add(socket.task)
        socket.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._on_defect(defect)

    def _let_go(self, code: int, reason: str) -> None:
        """Close the socket of the moment, in the background; a socket that does so from its own task sees that it is not it any more."""
        socket, self._socket = self._socket, None
        if socket is not None and socket.task is not None:
            socket.close_with = (code, reason)
            if socket.task is not asyncio.current_task():
                socket.task.cancel()

    async def _live(self, url: str, socket: _Socket) -> None:
        """Live the life of one socket: dial, listen, close."""
        assert self._session is not None
        raw = self._outside.raw
        if raw is not None:
            raw("connect", self._now(), self.name, url)
        try:
            ws = await self._session.ws_connect(
                url,
                autoping=False,  # a pong is one of the messages that the exchange counts: the machine sends it
                compress=0,
                decode_text=False,  # the decoder reads bytes, and says what is wrong with them
                max_msg_size=FRAME_MIB << 20,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
            )
        except asyncio.CancelledError:
            if socket is self._socket:
                raise
            return  # the machine has broken the dial off
        except _RefusedError as answer:
            if socket is self._socket:
                self._socket = None
                now = self._now()
                retry_after_ns = _retry_after_ns(answer.retry_after, now)
                self.do(self.machine.refused(answer.status, answer.detail, retry_after_ns, now))
            return
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            if socket is self._socket:
                self._socket = None
                self.do(self.machine.failed(f"{url}: {str(error) or type(error).__name__}", self._now()))
            return
        speaking = asyncio.get_running_loop().create_task(self._speak(ws, socket), name=f"feed {self.name} speaks")
        self._tasks.add(speaking)
        speaking.add_done_callback(self._ended)
        try:
            if socket is self._socket:
                self._is_recording = isinstance(ws, _WebSocket) and ws.is_recording
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
        machine, name, raw = self.machine, self.name, self._outside.raw
        inbox, offer = self._outside.inbox, self._outside.inbox.offer
        receive, now, decode = ws.receive, self._now, self._outside.decoder.decode
        read = self._outside.protocol.read
        text, binary = WSMsgType.TEXT, WSMsgType.BINARY
        frames = 0
        while socket is self._socket:
            kind, data, extra = await receive()
            received = now()
            if kind is text or kind is binary:
                machine.last_heard = self._newest = received
                self.messages += 1
                if raw is not None:
                    raw("recv", received, name, data)
                try:
                    events = decode(data, received)
                except DecodeError as error:
                    self._cannot_decode(error)
                else:
                    if events:
                        offer(events)
                    else:
                        self.do(machine.answered(read(data), received))
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
                self.do(machine.closed(*_farewell(kind, data, extra), received))
                return

    async def _wait_for_room(self, socket: _Socket) -> None:
        """Read nothing until the inbox has room: the kernel's buffers fill, and the exchange feels it."""
        self.do(self.machine.hold(self._now()))
        await self._outside.inbox.drained()
        if socket is self._socket:
            self.do(self.machine.resume(self._now()))

    def _cannot_decode(self, error: DecodeError) -> None:
        self.undecodable += 1
        if self.undecodable <= UNDECODABLE_SHOWN:
            self.machine.detail = f"undecodable: {error}"
            self._log.warning("undecodable frame", error=str(error))
            if self.undecodable == UNDECODABLE_SHOWN:
                self._log.warning("undecodable frame", more="further ones are only counted")


async def _refuse_what_is_no_upgrade(
    request: aiohttp.ClientRequest, handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """Keep the status and the beginning of the body of an answer that is no websocket: aiohttp itself throws the body away."""
    response = await handler(request)
    if response.status == 101:
        return response
    try:
        async with asyncio.timeout(CLOSE_S):
            body = await response.content.read(BODY_EXCERPT)
    except (aiohttp.ClientError, OSError):
        body = b""
    response.close()
    said = " ".join(body.decode("utf-8", "replace").split())
    where = response.headers.get("Location")
    detail = f"{request.url}: expected 101 Switching Protocols, came {response.status} {response.reason or ''}".rstrip()
    detail += (f" to {where}" if where else "") + (f": {said}" if said else "")
    raise _RefusedError(response.status, detail, response.headers.get("Retry-After"))


def _retry_after_ns(value: str | None, now: int) -> int | None:
    """Read a Retry-After header: seconds, or a date (RFC 9110 10.2.3). None if there is none that can be read."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return int(value[:SECONDS_DIGITS]) * NS_PER_S
    try:
        return max(0, int(email.utils.parsedate_to_datetime(value).timestamp()) * NS_PER_S - now)
    except ValueError:
        return None


def _farewell(kind: WSMsgType, data: object, extra: object) -> tuple[int, str]:
    """The code and reason of whatever ended a socket."""
    if kind is WSMsgType.CLOSE:
        return (data if isinstance(data, int) and data else 1005), str(extra or "")
    if kind is WSMsgType.ERROR:
        return int(getattr(data, "code", ABNORMAL)), str(data)
    return ABNORMAL, "the connection broke off"
