"""The loopback exchange: serves tapes over a real websocket on this machine, as the exchange that was recorded does.

Market      with `loop`, loop number and position are a function of UTC: the market goes on while a client is away, and while the
            exchange itself is: ids never go backwards, unless the speed is lowered. With `from_start`, and without `loop`, the tape
            begins at its beginning when the first client subscribes; without `loop` it plays once and is silent then
Clients     one protocol object each (`replay.binance_session`) behind one scheduler, which sends all that is due to all in rounds
Limits      messages a second from a client, unanswered pings, bytes that a client leaves unread, clients at once: whoever is beyond
            one is disconnected or refused, which is counted and logged, and nobody else notices
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from engine.clock import Clock, LiveClock
from engine.errors import ConfigError, FeedError, ReplayError, ServiceError
from feeds.products import built_in_products
from replay.exchange.binance import session_of, wrapping
from replay.exchange.client import CLOSE, CLOSE_S, PING, PONG, TEXT, Client, frame_of
from replay.tape import Pace, Tape

RECORDING_HEADER: Final = "X-Tickfold-Recording"
EPOCH_NS: Final = 1_704_067_200_000_000_000
"""2024-01-01 UTC: when a looped tape that follows the clock was at its beginning."""
NS_PER_S: Final = 1_000_000_000

ROUND_MESSAGES: Final = 1_000  # then others have the loop: some 3 ms
ROUND_S: Final = (
    0.001  # rounds are not closer than this: a write for each message of a burst would cost more than the messages
)
REQUEST_BYTES_MAX: Final = 262_144  # of a message, and of an address: 1,024 names of streams are 20,000
BEHIND_NS: Final = NS_PER_S  # from here on it says that it cannot keep the pace
BEHIND_EVERY_NS: Final = 10 * NS_PER_S


class Exchange:
    """Serves the tapes of a recording. Counts what it did in `sent`, `refused`, `dropped`."""

    def __init__(
        self,
        tapes: Sequence[Tape],
        *,
        speed: float = 1.0,
        loop: bool = True,
        from_start: bool = False,
        ping_s: float = 20.0,
        pong_s: float = 60.0,
        messages_a_second: int = 5,
        unread_bytes_max: int = 4 << 20,
        clients_max: int = 256,
        clock: Clock | None = None,
        logger: Any = None,
    ) -> None:
        """Raises ReplayError if there is no tape, or two hold the same stream: their ids would contradict each other."""
        self.tapes = tuple(tapes)
        self.speed = speed
        self.loop = loop
        self.follows_clock = loop and not from_start
        self.url = ""
        self.sent = 0
        """Messages of markets that went to clients."""
        self.refused = 0
        """Connections that were refused: wrong addresses, and clients beyond the limit."""
        self.dropped: dict[str, int] = {}
        """Clients that were disconnected, by why."""
        self.behind_ns = 0
        """How late its latest round was."""
        self._ping_s, self._pong_s = ping_s, pong_s
        self._messages_a_second = messages_a_second
        self._unread_bytes_max = unread_bytes_max
        self._clients_max = clients_max
        self._clock = LiveClock() if clock is None else clock
        self._log = structlog.get_logger() if logger is None else logger
        self._wrappings: dict[str, tuple[bytes, bytes]] = {}
        for tape in self.tapes:
            for stream in tape.streams:
                if stream in self._wrappings:
                    raise ReplayError(f"{tape.name}: {stream} is in another tape too; hand their captures to one tape")
                self._wrappings[stream] = wrapping(stream)
        if not self.tapes:
            raise ReplayError("no tape to serve")
        self._clients: dict[Client, None] = {}
        self._subscribers: dict[str, list[Client]] = {}
        self._pings: deque[tuple[float, Client]] = deque()  # in the order in which they are due
        self._pace: Pace | None = None
        self._cursor = -1
        """Position up to which all has been sent."""
        self._is_wanted = False
        self._behind_said_ns = 0
        self._waiting: asyncio.Future[None] | None = None
        self._runner: web.AppRunner | None = None
        self._scheduler: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The names of what is served."""
        return ", ".join(tape.name for tape in self.tapes)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that are served, as tickfold spells them."""
        return tuple(built_in_products(tape.exchange).get(name, name) for tape in self.tapes for name in tape.symbols)

    def status(self) -> dict[str, Any]:
        """Return what `GET /` says: that this is a recording, and how it is going."""
        return {
            "exchange": ", ".join(dict.fromkeys(tape.exchange for tape in self.tapes)),
            "capture": self.name,
            "recording": True,
            "speed": self.speed,
            "symbols": list(self.symbols),
            "streams": list(self._wrappings),
            "loop": self.loop,
            "clients": len(self._clients),
            "sent": self.sent,
            "refused": self.refused,
            "dropped": self.dropped,
            "behind_ms": self.behind_ns // 1_000_000,
        }

    # From start to stop

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen, and return the address: ws://host:port. Port 0 picks a free one.

        Raises ConfigError for a host that is not this machine alone, ServiceError if the port cannot be had.
        """
        if host != "localhost" and not _is_loopback(host):
            raise ConfigError(f"{host}: the loopback exchange listens on this machine only, expected 127.0.0.1 or ::1")
        application = web.Application()
        application.router.add_get("/", self._say)
        application.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            application, access_log=None, shutdown_timeout=CLOSE_S, max_line_size=REQUEST_BYTES_MAX
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            reason = error.strerror or str(error)
            raise ServiceError(f"{host}:{port}: cannot listen: {reason}; port 0 picks a free one") from error
        bound = self._runner.addresses[0]
        self.url = f"ws://[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"ws://{bound[0]}:{bound[1]}"
        self._scheduler = asyncio.create_task(self._run(), name="exchange")
        self._scheduler.add_done_callback(self._ended)
        return self.url

    async def serve_until(self, stopped: asyncio.Event) -> None:
        """Serve until told to stop. Raises whatever ended the sending."""
        assert self._scheduler is not None
        waiting = asyncio.create_task(stopped.wait())
        try:
            await asyncio.wait([self._scheduler, waiting], return_when=asyncio.FIRST_COMPLETED)
            if self._scheduler.done():
                self._scheduler.result()
        finally:
            waiting.cancel()

    def _ended(self, scheduler: asyncio.Task[None]) -> None:
        if not scheduler.cancelled() and (error := scheduler.exception()) is not None:
            self._log.error(
                "nothing is sent any longer: a defect of tickfold", error=f"{type(error).__name__}: {error}"
            )

    async def stop(self) -> None:
        """Say goodbye to all clients (1001, going away) and let go of the port."""
        if self._scheduler is not None:
            self._scheduler.cancel()
            await asyncio.wait([self._scheduler])
        await asyncio.gather(
            *(client.close(WSCloseCode.GOING_AWAY, "The exchange is shutting down") for client in list(self._clients))
        )
        if self._runner is not None:
            await self._runner.cleanup()

    # Clients

    async def _say(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.status(), headers={RECORDING_HEADER: self.name})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            session = session_of(request.path, request.query.get("streams"))
        except FeedError as error:
            return self._refuse(web.HTTPBadRequest.status_code, str(error))
        if session is None:
            return self._refuse(web.HTTPNotFound.status_code, "expected /ws, /ws/<stream> or /stream?streams=<stream>")
        if len(self._clients) >= self._clients_max:
            return self._refuse(web.HTTPServiceUnavailable.status_code, f"{self._clients_max} clients are connected")
        response = web.WebSocketResponse(
            autoping=False, compress=False, timeout=CLOSE_S, max_msg_size=REQUEST_BYTES_MAX
        )
        response.headers[RECORDING_HEADER] = self.name
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        client = Client(response, transport, session, self._messages_a_second)
        self._clients[client] = None
        self._subscribe(client, {}, session.streams)
        self._pings.append((asyncio.get_running_loop().time() + self._ping_s, client))
        self._wake()
        try:
            await self._listen(client)
        finally:
            self._forget(client)
        return response

    def _refuse(self, status: int, reason: str) -> web.Response:
        self.refused += 1
        self._log.warning("refused a connection", status=status, reason=reason)
        return web.Response(status=status, text=reason + "\n")

    async def _listen(self, client: Client) -> None:
        """Answer a client until it leaves or asks too much."""
        now = asyncio.get_running_loop().time
        while True:
            message = await client.response.receive()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG):
                return
            if client.is_dropped:
                continue
            if not client.may_send(now()):
                self._note_drop(client, "too many requests")
                await client.close(WSCloseCode.POLICY_VIOLATION, "Too many requests")
                return
            if message.type is WSMsgType.PONG:
                client.pong(bytes(message.data))
            elif message.type is WSMsgType.PING:
                self._write(client, frame_of(PONG, bytes(message.data)))
            else:
                before = client.session.streams
                self._write(client, frame_of(TEXT, client.session.answer(message.data)))
                if client.session.streams is not before:
                    self._subscribe(client, before, client.session.streams)
                    self._wake()

    def _subscribe(self, client: Client, before: dict[str, None], after: dict[str, None]) -> None:
        """Note what a client wants to hear. Streams that do not exist are no error, and silent."""
        for stream in before:
            if stream not in after and stream in self._wrappings:
                self._subscribers[stream].remove(client)
                if not self._subscribers[stream]:
                    del self._subscribers[stream]
        for stream in after:
            if stream not in before and stream in self._wrappings:
                self._subscribers.setdefault(stream, []).append(client)

    def _forget(self, client: Client) -> None:
        if client in self._clients:
            del self._clients[client]
            self._subscribe(client, client.session.streams, {})
            self._pings = deque(ping for ping in self._pings if ping[1] is not client)

    def _note_drop(self, client: Client, why: str) -> None:
        """Forget a client that is to be disconnected, and let it be heard."""
        client.is_dropped = True
        self._forget(client)
        self.dropped[why] = self.dropped.get(why, 0) + 1
        self._log.warning("disconnected a client", why=why, streams=len(client.session.streams))

    def _drop(self, client: Client, why: str, reason: str) -> None:
        """Disconnect a client without waiting for it."""
        self._note_drop(client, why)
        client.transport.write(frame_of(CLOSE, WSCloseCode.POLICY_VIOLATION.to_bytes(2, "big") + reason.encode()))
        asyncio.get_running_loop().call_later(CLOSE_S, client.abort)

    def _write(self, client: Client, frames: bytes) -> None:
        if client.is_dropped or client.transport.is_closing():
            return
        if client.transport.get_write_buffer_size() + len(frames) > self._unread_bytes_max:
            self._drop(client, "too slow", "Too slow")
        else:
            client.transport.write(frames)

    # The scheduler

    async def _run(self) -> None:
        """Send what is due, ping who is to be pinged, and wait for the next of either."""
        loop = asyncio.get_running_loop()
        while True:
            wait_s: float | None = None
            if self._begin():
                assert self._pace is not None
                await self._send_until(self._pace.position(self._clock.now()), self._pace)
                following = [tape.following(self._cursor, looping=self.loop) for tape in self.tapes]
                positions = [position for position in following if position is not None]
                if positions:
                    wait_s = max((self._pace.moment(min(positions)) - self._clock.now()) / NS_PER_S, ROUND_S)
            self._ping(loop.time())
            if self._pings:
                until_ping = max(self._pings[0][0] - loop.time(), 0.0)
                wait_s = until_ping if wait_s is None else min(wait_s, until_ping)
            await self._wait(wait_s)

    def _begin(self) -> bool:
        """Return whether anybody listens; when somebody begins to, set the position."""
        was_wanted, self._is_wanted = self._is_wanted, bool(self._subscribers)
        if self._is_wanted and not was_wanted:
            now = self._clock.now()
            if self._pace is None and not self.follows_clock:
                self._pace = Pace.of(now, self.speed)
            else:
                self._pace = self._pace or Pace.of(EPOCH_NS, self.speed)
                self._cursor = self._pace.position(now)
        return self._is_wanted

    async def _send_until(self, until: int, pace: Pace) -> None:
        """Send all that is due by a position, in rounds."""
        subscribers, wrappings = self._subscribers, self._wrappings
        count = 0
        now = self._clock.now()
        for tape in self.tapes:
            for due in tape.due(self._cursor, until, looping=self.loop):
                stream = tape.stream(due)
                clients = subscribers.get(stream)
                if clients:
                    payload = tape.payload(due, pace)
                    raw = combined = None
                    for client in clients:
                        if client.session.combined:
                            if combined is None:
                                before, after = wrappings[stream]
                                combined = frame_of(TEXT, before + payload + after)
                            client.frames.append(combined)
                        else:
                            if raw is None:
                                raw = frame_of(TEXT, payload)
                            client.frames.append(raw)
                    self.sent += len(clients)
                count += 1
                if count % ROUND_MESSAGES == 0:
                    self._flush()
                    self._note_behind(now - pace.moment(due[0]))
                    await asyncio.sleep(0)
                    if not subscribers:
                        return
                    self._ping(asyncio.get_running_loop().time())
                    now = self._clock.now()
        self._flush()
        self._cursor = max(self._cursor, until)
        self._note_behind(self._clock.now() - pace.moment(until))

    def _flush(self) -> None:
        for client in list(self._clients):
            if client.frames:
                frames = b"".join(client.frames)
                client.frames.clear()
                self._write(client, frames)

    def _note_behind(self, behind_ns: int) -> None:
        self.behind_ns = behind_ns
        if behind_ns > BEHIND_NS:
            now = self._clock.now()
            if now - self._behind_said_ns > BEHIND_EVERY_NS:
                self._behind_said_ns = now
                self._log.warning("cannot keep the pace", behind_s=behind_ns / NS_PER_S, speed=self.speed)

    def _ping(self, now: float) -> None:
        """Ping the clients whose turn it is, and disconnect those that have not answered for too long."""
        while self._pings and self._pings[0][0] <= now:
            _, client = self._pings.popleft()
            if client.unanswered_since is not None and now - client.unanswered_since >= self._pong_s:
                self._drop(client, "no pong", "Pong timeout")
                continue
            payload = str(self._clock.now() // 1_000_000).encode()
            client.pings[payload] = now
            self._write(client, frame_of(PING, payload))
            self._pings.append((now + self._ping_s, client))

    async def _wait(self, seconds: float | None) -> None:
        """Wait until so much time has passed (None: for ever) or somebody calls `_wake`."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(seconds, self._wake) if seconds is not None else None
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
