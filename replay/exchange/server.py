"""The loopback exchange: serves tapes over real websockets and REST on this machine, as the exchanges that were recorded do.

Market      with `loop`, loop number and position are a function of UTC: the market goes on while a client is away, and while the
            exchange itself is: ids never go backwards, unless the speed is lowered. With `from_start`, and without `loop`, the tape
            of an exchange begins at its beginning when its first client subscribes; without `loop` it plays once and is silent then
Clients     one session each (`replay.exchange.venue`) behind one scheduler, which sends all that is due to all in rounds
Limits      those of each exchange, per address; clients at once: whoever is beyond one is disconnected or refused, which is counted
            and logged, and nobody else notices
Faults      are asked at each request, message, answer and ping, if there are any
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from engine.clock import Clock, LiveClock
from engine.errors import ConfigError, FeedError, ReplayError, ServiceError
from replay.exchange.client import CLOSE_S, Client, reset
from replay.exchange.kucoin import TOKEN_S
from replay.exchange.limits import Account, Refusal
from replay.exchange.market import EPOCH_NS, Market
from replay.exchange.scheduler import Scheduler
from replay.exchange.venue import Done, FaultPlan, Limits, Reply, Request, RequestKind, Treatment, Venue
from replay.exchange.venues import LIMITS, venue_of
from replay.rewrite import Moves
from replay.tape import Tape

__all__ = ["EPOCH_NS", "RECORDING_HEADER", "Exchange"]

RECORDING_HEADER: Final = "X-Tickfold-Recording"
REQUEST_BYTES_MAX: Final = 262_144  # of a message, and of an address: 1,024 names of streams are 20,000
ACCOUNTS_MAX: Final = 10_000
"""Addresses that are remembered; beyond them the oldest is forgotten."""
UNANSWERED_MAX: Final = 1_000
"""Requests that a fault leaves without an answer, at once; more are answered 503."""


class Exchange:
    """Serves the tapes of recordings. Counts what it did in `sent`, `refused`, `dropped`."""

    def __init__(
        self,
        tapes: Sequence[Tape],
        *,
        speed: float = 1.0,
        loop: bool = True,
        from_start: bool = False,
        faults: FaultPlan | None = None,
        seed: int = 0,
        limits: Mapping[str, Limits] | None = None,
        token_s: float = TOKEN_S,
        unread_bytes_max: int = 4 << 20,
        clients_max: int = 256,
        clock: Clock | None = None,
        logger: Any = None,
    ) -> None:
        """Take tapes of one exchange or several; `limits` by feed replace what is documented, `token_s` is a KuCoin token's life.

        Raises ReplayError if there is no tape, or two hold the same stream: their ids would contradict each other.
        """
        if not tapes:
            raise ReplayError("no tape to serve")
        self.tapes = tuple(tapes)
        self.speed = speed
        self.loop = loop
        self.follows_clock = loop and not from_start
        self.url = ""
        """ws://host:port, once it listens."""
        self.refused = 0
        """Connections that were refused: wrong addresses, and clients beyond a limit."""
        self.faults = None if faults is None else faults.faults(seed)
        self._clients_max = clients_max
        self._clock = LiveClock() if clock is None else clock
        self._log = structlog.get_logger() if logger is None else logger
        by_feed: dict[str, list[Tape]] = {}
        for tape in self.tapes:
            by_feed.setdefault(tape.exchange, []).append(tape)
        chosen = LIMITS | dict(limits or {})
        self.venues: tuple[Venue, ...] = tuple(
            venue_of(
                Market(own, speed=speed, loop=loop, from_start=from_start, clock=self._clock),
                chosen[feed],
                seed,
                token_s,
            )
            for feed, own in by_feed.items()
        )
        self._scheduler = Scheduler(self.venues, self.faults, unread_bytes_max, self._log)
        self._accounts: dict[tuple[str, str], Account] = {}
        self._joined = 0
        self._unanswered: dict[asyncio.Future[None], None] = {}
        self._runner: web.AppRunner | None = None
        self._running: asyncio.Task[None] | None = None

    # What it says of itself

    @property
    def name(self) -> str:
        """The names of what is served."""
        return ", ".join(tape.name for tape in self.tapes)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that are served, as tickfold spells them."""
        return tuple(dict.fromkeys(venue.market.symbol(name) for venue in self.venues for name in venue.market.symbols))

    @property
    def clients(self) -> tuple[Client, ...]:
        """Who is connected, in the order in which they came."""
        return tuple(self._scheduler.clients)

    @property
    def sent(self) -> int:
        """Messages of markets that went to clients."""
        return self._scheduler.sent

    @property
    def dropped(self) -> Mapping[str, int]:
        """Clients that were disconnected, by why."""
        return self._scheduler.dropped

    @property
    def behind_ns(self) -> int:
        """How late its latest round was."""
        return self._scheduler.behind_ns

    @property
    def faults_done(self) -> Sequence[Done]:
        """What went wrong by its own will, oldest first; as much of it as is kept."""
        return () if self.faults is None else self.faults.done

    def venue(self, feed: str) -> Venue:
        """Return what is served of a feed: binance, coinbase, coinbase_exchange, kucoin. Raises KeyError if it is not."""
        for venue in self.venues:
            if venue.feed == feed:
                return venue
        raise KeyError(feed)

    def traded(self, exchange: str, symbol: str, *, aggregates: bool = False) -> list[int]:
        """Return the ids of all trades that a market has made since the exchange was started, in order.

        `exchange` is a feed, `symbol` spelled as tickfold or the exchange does; of Binance the ids of `trade`, or those of `aggTrade`
        if `aggregates` is set or nothing else was recorded. Raises KeyError for what is not served.
        """
        market = self.venue(exchange).market
        name = next((name for name in market.symbols if symbol in (name, market.symbol(name))), None)
        if name is None:
            raise KeyError(symbol)
        kinds = [kind for of, kind in market.trades if of == name]
        kind = Moves.AGGREGATE_ID if aggregates else self.venue(exchange).ids
        return market.traded(name, kind if kind in kinds or not kinds else kinds[0])

    def status(self) -> dict[str, Any]:
        """Return what `GET /` says: that these are recordings, and how it is going."""
        said: dict[str, Any] = {
            "exchange": ", ".join(venue.feed for venue in self.venues),
            "capture": self.name,
            "recording": True,
            "speed": self.speed,
            "symbols": list(self.symbols),
            "streams": [stream for venue in self.venues for stream in venue.market.streams],
            "loop": self.loop,
            "venues": [
                {
                    "exchange": venue.exchange,
                    "feed": venue.feed,
                    "api": venue.api,
                    "websocket": venue.websocket,
                    "rest": venue.rest,
                    "symbols": [venue.market.symbol(name) for name in venue.market.symbols],
                }
                for venue in self.venues
            ],
            "clients": len(self._scheduler.clients),
            "sent": self.sent,
            "refused": self.refused,
            "dropped": self.dropped,
            "behind_ms": self.behind_ns // 1_000_000,
        }
        return said if self.faults is None else said | {"faults": self.faults.status()}

    # From start to stop

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen, and return the address: ws://host:port. Port 0 picks a free one.

        Raises ConfigError for a host that is not this machine alone, or faults that do not fit what is served; ServiceError if
        the port cannot be had.
        """
        if host != "localhost" and not _is_loopback(host):
            raise ConfigError(f"{host}: the loopback exchange listens on this machine only, expected 127.0.0.1 or ::1")
        application = web.Application()
        application.router.add_get("/", self._say)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=_http_log(),
            shutdown_timeout=CLOSE_S,
            max_line_size=REQUEST_BYTES_MAX,
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
        for venue in self.venues:
            venue.websocket = "" if venue.websocket_path is None else self.url + venue.websocket_path
            venue.rest = self.url.replace("ws:", "http:", 1) + venue.rest_path
            venue.market.open()
        if self.faults is not None:
            try:
                self.faults.begin(self)
            except ConfigError:
                await self._runner.cleanup()
                raise
        self._running = asyncio.create_task(self._scheduler.run(), name="exchange")
        self._running.add_done_callback(self._ended)
        return self.url

    async def serve_until(self, stopped: asyncio.Event) -> None:
        """Serve until told to stop. Raises whatever ended the sending."""
        assert self._running is not None
        waiting = asyncio.create_task(stopped.wait())
        try:
            await asyncio.wait([self._running, waiting], return_when=asyncio.FIRST_COMPLETED)
            if self._running.done():
                self._running.result()
        finally:
            waiting.cancel()

    def _ended(self, running: asyncio.Task[None]) -> None:
        if not running.cancelled() and (error := running.exception()) is not None:
            self._log.error(
                "nothing is sent any longer: a defect of tickfold", error=f"{type(error).__name__}: {error}"
            )

    async def stop(self) -> None:
        """Say goodbye to all clients (1001, going away) and let go of the port."""
        if self.faults is not None:
            self.faults.end()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        for waiting in tuple(self._unanswered):
            waiting.cancel()
        for client in self.clients:
            client.release()
        await asyncio.gather(
            *(client.close(WSCloseCode.GOING_AWAY, "The exchange is shutting down") for client in self.clients)
        )
        if self._runner is not None:
            await self._runner.cleanup()

    # What faults arrange

    def say(self, client: Client, text: bytes) -> None:
        """Send a client a text."""
        self._scheduler.say(client, text)

    def close(self, client: Client, code: int, reason: str) -> None:
        """Close a client's connection, without waiting for it."""
        self._scheduler.close(client, code, reason)

    # Requests

    async def _say(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.status(), headers={RECORDING_HEADER: self.name})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        for venue in self.venues:
            if venue.opens(path):
                return await self._upgrade(request, venue)
        for venue in self.venues:
            if path.startswith(venue.rest_path + "/"):
                return await self._answer(request, venue)
        there = [
            venue.websocket_path or "/ws, /ws/<stream>, /stream?streams=<stream>"
            for venue in self.venues
            if venue.websocket_path is not None
        ] + [f"{venue.rest_path}/..." for venue in self.venues]
        return self._refuse(web.HTTPNotFound.status_code, f"found {path}, expected {', '.join(there)}")

    async def _upgrade(self, request: web.Request, venue: Venue) -> web.StreamResponse:
        treatment = await self._treated("upgrade", venue, request)
        if isinstance(treatment, web.Response):
            return treatment
        now = asyncio.get_running_loop().time()
        account = self._account(venue, request)
        if (refusal := account.dial(now)) is not None:
            return self._too_many(venue, refusal, "too many dials")
        try:
            session = venue.session(request.path, request.query, now)
        except FeedError as error:
            return self._refuse(web.HTTPBadRequest.status_code, str(error))
        if len(self._scheduler.clients) >= self._clients_max:
            return self._refuse(web.HTTPServiceUnavailable.status_code, f"{self._clients_max} clients are connected")
        response = web.WebSocketResponse(
            autoping=False, compress=False, timeout=CLOSE_S, max_msg_size=REQUEST_BYTES_MAX
        )
        response.headers[RECORDING_HEADER] = self.name
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        self._joined += 1
        limits = venue.limits
        messages = account.messages if limits.counts_together else Account(limits).messages
        client = Client(self._joined, response, transport, venue, session, messages)
        self._scheduler.join(client)
        try:
            await self._listen(client)
        finally:
            self._scheduler.leave(client)
        return response

    async def _listen(self, client: Client) -> None:
        """Answer a client until it leaves or asks too much."""
        now = asyncio.get_running_loop().time
        limits = client.venue.limits
        while True:
            message = await client.response.receive()
            await client.released()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG):
                return
            if client.is_dropped:
                continue
            is_control = message.type in (WSMsgType.PING, WSMsgType.PONG)
            if not (is_control and not limits.counts_control) and not client.may_send(now()):
                self._scheduler.note_drop(client, "too many requests")
                client.is_dropped = True
                self._scheduler.leave(client)
                await client.close(WSCloseCode.POLICY_VIOLATION, "Too many requests")
                return
            if message.type is WSMsgType.PONG:
                client.pong(bytes(message.data))
            elif message.type is WSMsgType.PING:
                self._scheduler.ping_of(client, bytes(message.data))
            else:
                self._scheduler.hear(client, message.data)

    async def _answer(self, request: web.Request, venue: Venue) -> web.Response:
        """Answer a REST request."""
        kind: RequestKind = "token" if request.method == "POST" else "rest"
        treatment = await self._treated(kind, venue, request)
        if isinstance(treatment, web.Response):
            return treatment
        now = asyncio.get_running_loop().time()
        asked = Request(request.method, request.path.removeprefix(venue.rest_path), dict(request.query))
        account = self._account(venue, request)
        if (refusal := account.ask(venue.weight(asked), now)) is not None:
            return self._too_many(venue, refusal, "too many requests")
        market = venue.market
        if self.faults is not None:
            market.skew_ns = self.faults.skew_ns(venue.feed, now)
        reply = venue.reply(asked, market.now_view(treatment.behind), request.host, now)
        if self.faults is not None:
            reply = self.faults.replied(venue.feed, asked, reply, now)
        return self._response(reply, venue.headers(account.used))

    async def _treated(self, kind: RequestKind, venue: Venue, request: web.Request) -> Treatment | web.Response:
        """Return what faults make of a request: how it is to be answered, or the answer."""
        now = asyncio.get_running_loop().time()
        treatment = None if self.faults is None else self.faults.request(kind, venue.feed, request.path, now)
        if treatment is None:
            return Treatment()
        if treatment.delay_s > 0.0:
            await asyncio.sleep(treatment.delay_s)
        if treatment.is_unanswered:
            await self._leave_unanswered(request)
        if (treatment.is_reset or treatment.is_unanswered) and request.transport is not None:
            reset(request.transport)
        if treatment.is_reset or treatment.is_unanswered:
            return web.Response(status=web.HTTPServiceUnavailable.status_code)
        return treatment if treatment.reply is None else self._response(treatment.reply, {})

    async def _leave_unanswered(self, request: web.Request) -> None:
        """Wait until the client has gone, or the exchange stops."""
        if len(self._unanswered) >= UNANSWERED_MAX:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._unanswered[waiting] = None
        try:
            while request.transport is not None and not request.transport.is_closing():
                done, _ = await asyncio.wait([waiting], timeout=CLOSE_S)
                if done:
                    return
        finally:
            self._unanswered.pop(waiting, None)

    def _account(self, venue: Venue, request: web.Request) -> Account:
        key = venue.feed, request.remote or ""
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(venue.limits)
            while len(self._accounts) > ACCOUNTS_MAX:
                del self._accounts[next(iter(self._accounts))]
        return account

    def _too_many(self, venue: Venue, refusal: Refusal, why: str) -> web.Response:
        self.refused += 1
        self._log.warning(
            "refused an address", why=why, exchange=venue.feed, used=refusal.used, retry_after_s=refusal.retry_after_s
        )
        return self._response(venue.too_many(*refusal), {})

    def _refuse(self, status: int, reason: str) -> web.Response:
        self.refused += 1
        self._log.warning("refused a connection", status=status, reason=reason)
        return web.Response(status=status, text=reason + "\n")

    def _response(self, reply: Reply, headers: Mapping[str, str]) -> web.Response:
        shown = {"Content-Type": "application/json", **headers, **reply.headers, RECORDING_HEADER: self.name}
        return web.Response(status=reply.status, body=reply.body, headers=shown)


def _http_log() -> logging.Logger:
    """The log of the HTTP server, without clients that left before they were answered: those are no errors."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.exc_info is None or not isinstance(record.exc_info[1], ConnectionError)

    log = logging.getLogger("replay.exchange.http")
    if not log.filters:
        log.addFilter(is_error)
    return log


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
