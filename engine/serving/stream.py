"""`/stream`: a websocket that tells what happens, to readers of any speed.

    hello       first: sequence, version, views, keys
    features    the newest row of a view and key, at most `server.stream_hz` times a second: rows in between are passed over, so a
                reader who falls behind misses rows and never the newest
    prediction, outcome
                likewise: the newest of a model and key
    signal, feed_status, gap, drift, promotion, fill, event
                each one as it was reported, through a queue of QUEUE; what does not fit is let go of, oldest first, and counted in a
                `dropped` message

Rows are read from the ring when they are sent, so a client adds nothing to the work of the fold. Events are noted by the fold's
report, and handed out and encoded once the loop has come round. With `format=columns` it is what the page draws (frames.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from engine.events import Key
from engine.serving.answers import ApiError, Limits, invalid
from engine.serving.frames import Frames
from engine.serving.host import Host
from engine.serving.metrics import Served
from engine.serving.newest import Conflated, OfModels
from engine.serving.operations import keys_of, live_sequence, store_of
from engine.serving.selection import CONFLATED, UNHEARD, KeyName, Selection, message_of, of_message, of_query, select

QUEUE = 1_000  # events that wait for one client
REPORTED = 10_000  # events that wait to be handed out
BATCH = 100  # messages, or events handed out, after which others get their turn
MESSAGE_MAX = 65_536
PING_SHARE = 2.0 / 3.0  # of `unread_s`: when a silent client is pinged; the answer has half as long again
CLOSE_S = 1.0
FORMATS = ("json", "columns")


class Rows:
    """Newest rows as messages, each encoded once however many clients it goes to."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._encoded: dict[tuple[str, Key], tuple[int, bytes]] = {}

    def newer(self, selection: Selection, sent: dict[tuple[str, Key], int]) -> Iterator[bytes]:
        """Yield the newest row of each view and key that is wanted and newer than what was sent; note that it is sent."""
        store = store_of(self._host)
        for key in list(store.lanes) if selection.keys is None else selection.keys:
            lane = store.lanes.get(key)
            if lane is None:
                continue
            counts = lane.all_emitted()
            for view, place in store.program.places.items():
                count = counts[place.scope]
                if count and sent.get((view, key)) != count and selection.has_features(view, key):
                    sent[view, key] = count
                    yield self._message(view, key, count)

    def _message(self, view: str, key: Key, count: int) -> bytes:
        known = self._encoded.get((view, key))
        if known is not None and known[0] == count:
            return known[1]
        store = store_of(self._host)
        lane, place = store.lanes[key], store.program.places[view]
        slot = lane.position(place.scope) - 1
        timestamp, received, sequence = lane.stamp(place.scope, slot)
        message = msgspec.json.encode(
            {
                "type": "features",
                "view": view,
                "exchange": key[0],
                "symbol": key[1],
                "timestamp": timestamp,
                "received": received,
                "sequence": sequence,
                "ready": count - 1 >= lane.ready_from(view),
                "values": dict(zip(place.columns, lane.block(view)[:, slot].tolist(), strict=True)),
            }
        )
        self._encoded[view, key] = (count, message)
        return message


class Client:
    """One reader: what it wants, what waits for it, and what it was sent."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.sent: dict[tuple[str, Key], int] = {}
        self.queue: deque[bytes] = deque()
        self.newest = Conflated()
        self.dropped = 0
        self.woken = asyncio.Event()

    def put(self, message: bytes) -> int:
        """Queue a message; return how many were let go of for it."""
        let_go = len(self.queue) >= QUEUE
        if let_go:
            self.queue.popleft()
            self.dropped += 1
        self.queue.append(message)
        self.woken.set()
        return int(let_go)


class Streams:
    """All clients of the stream."""

    def __init__(self, host: Host, served: Served, limits: Limits) -> None:
        self._host = host
        self._served = served
        self._limits = limits
        self._rows = Rows(host)
        self._of_models = OfModels(host)
        self._clients: dict[Client, None] = {}
        self._sockets: dict[web.WebSocketResponse, None] = {}
        self._reported: deque[Any] = deque(maxlen=REPORTED)
        self._missed = 0
        self._loop = asyncio.get_running_loop()

    # -- events

    def hear(self, event: Any) -> None:
        """Note an event for those who are connected; called by the fold's report, so no more than that."""
        if not self._clients or isinstance(event, UNHEARD):
            return
        if not self._reported:
            self._loop.call_soon(self._hand_out)
        elif len(self._reported) == REPORTED:
            self._missed += 1
        self._reported.append(event)

    def _hand_out(self) -> None:
        """Queue what was reported for each client that wants it."""
        missed, self._missed = self._missed, 0
        served = self._served
        for client in self._clients if missed else ():
            client.dropped += missed
            client.woken.set()
            served.stream_dropped += missed
        for _ in range(min(BATCH, len(self._reported))):
            event = self._reported.popleft()
            message = b""
            for client in self._clients:
                if client.selection.has(event):
                    message = message or message_of(event)
                    if type(event) in CONFLATED:
                        client.newest.put(event, message)
                    else:
                        served.stream_dropped += client.put(message)
        if self._reported:
            self._loop.call_soon(self._hand_out)

    # -- clients

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one client until it leaves. Raises ApiError before the upgrade: for what it asks, or because there are too many."""
        kind = request.query.get("format", "json")
        if kind not in FORMATS:
            message = f"format: {kind[:100]!r}: expected {' or '.join(FORMATS)}"
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", message, "format")
        serve: Callable[[web.WebSocketResponse], Awaitable[None]]
        if kind == "columns":
            frames = Frames(self._host, request.query.get("exchange", ""), request.query.get("symbol", ""))
            serve = Columns(self, frames).serve
        else:
            client = Client(select(of_query(request.query), self._host.fold.features.views))
            serve = Messages(self, client).serve
        socket = web.WebSocketResponse(
            heartbeat=self._limits.unread_s * PING_SHARE, max_msg_size=MESSAGE_MAX, compress=False, timeout=CLOSE_S
        )
        if not socket.can_prepare(request):
            headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
            raise ApiError(HTTPStatus.UPGRADE_REQUIRED, "no_websocket", "/stream is a websocket", "Upgrade", headers)
        most = self._host.config.server.clients_max
        if len(self._sockets) >= most:
            self._served.stream_refused += 1
            message = f"{most} clients are connected, as many as may be (server.clients_max)"
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_clients", message, headers={"Retry-After": "5"})
        self._sockets[socket] = None
        self._served.stream_clients += 1
        try:
            await socket.prepare(request)
            await self._run(request, socket, serve)
        finally:
            del self._sockets[socket]
            self._served.stream_clients -= 1
        return socket

    async def _run(
        self,
        request: web.Request,
        socket: web.WebSocketResponse,
        serve: Callable[[web.WebSocketResponse], Awaitable[None]],
    ) -> None:
        transport = request.transport
        is_deaf = False
        try:
            await serve(socket)
        except TimeoutError:
            is_deaf = True
        except ConnectionError:
            pass  # it has left
        finally:
            if is_deaf or isinstance(socket.exception(), TimeoutError):
                # It reads no more, neither what it was sent nor pings: what waits for it, and a goodbye, would wait for good.
                self._served.stream_cut += 1
                structlog.get_logger().warning("stream client cut", unread_s=self._limits.unread_s)
                if transport is not None:
                    transport.abort()
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await socket.close()

    async def close(self) -> None:
        """Say goodbye to all."""
        code = WSCloseCode.GOING_AWAY
        farewells = (socket.close(code=code, message=b"the daemon stops") for socket in list(self._sockets))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*farewells, return_exceptions=True)

    # -- what the two formats share

    @property
    def host(self) -> Host:
        """The daemon."""
        return self._host

    @property
    def period_s(self) -> float:
        """Time from one look for new rows to the next."""
        return 1.0 / self._host.config.server.stream_hz

    def rows(self, client: Client) -> Iterator[bytes]:
        """Newest rows, predictions and outcomes that a client has not been sent."""
        yield from self._rows.newer(client.selection, client.sent)
        yield from self._of_models.newer(client.selection, client.newest)
        yield from client.newest.take()

    def enter(self, client: Client) -> None:
        """Let a client hear events."""
        self._clients[client] = None

    def leave(self, client: Client) -> None:
        """A client hears no more."""
        del self._clients[client]

    async def send(self, socket: web.WebSocketResponse, messages: list[bytes], kind: WSMsgType) -> None:
        """Send messages, in turn with other clients. Raises TimeoutError for one who does not read."""
        for first in range(0, len(messages), BATCH):
            batch = messages[first : first + BATCH]
            async with asyncio.timeout(self._limits.unread_s):
                for message in batch:
                    await socket.send_frame(message, kind)
            self._served.stream_messages += len(batch)
            await asyncio.sleep(0)


async def _both(sending: Awaitable[None], receiving: Awaitable[None]) -> None:
    """Send and receive until one of them ends; raise what it raised."""
    tasks = [asyncio.ensure_future(sending), asyncio.ensure_future(receiving)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


class Messages:
    """One client that is sent JSON."""

    def __init__(self, streams: Streams, client: Client) -> None:
        self._streams = streams
        self._client = client

    async def serve(self, socket: web.WebSocketResponse) -> None:
        """Say hello, then send and listen until it leaves."""
        host = self._streams.host
        hello = {
            "type": "hello",
            "sequence": live_sequence(host),
            "version": host.version,
            "views": host.fold.features.views,
            "keys": [KeyName(*key) for key in keys_of(host)],
        }
        await self._streams.send(socket, [msgspec.json.encode(hello)], WSMsgType.TEXT)
        self._streams.enter(self._client)
        try:
            await _both(self._send(socket), self._receive(socket))
        finally:
            self._streams.leave(self._client)

    async def _send(self, socket: web.WebSocketResponse) -> None:
        client, loop = self._client, asyncio.get_running_loop()
        due = loop.time()
        while True:
            messages: list[bytes] = []
            if client.dropped:
                messages.append(msgspec.json.encode({"type": "dropped", "count": client.dropped}))
                client.dropped = 0
            messages += client.queue
            client.queue.clear()
            client.woken.clear()
            if loop.time() >= due:
                messages += self._streams.rows(client)
                # Counted from when it was done, so that a slow reader is not sent more for its slowness.
                due = loop.time() + self._streams.period_s
            await self._streams.send(socket, messages, WSMsgType.TEXT)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await client.woken.wait()

    async def _receive(self, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            try:
                wish = of_message(_text_of(message))
                selection = select(wish, self._streams.host.fold.features.views)
            except ApiError as error:
                said = msgspec.json.encode({"type": "error", **error.body()})
            else:
                self._client.selection = selection
                self._client.sent.clear()
                self._client.newest.clear()
                said = msgspec.json.encode({"type": "subscribed", "subscribe": wish})
            await self._streams.send(socket, [said], WSMsgType.TEXT)


class Columns:
    """One client that is sent what the page draws."""

    def __init__(self, streams: Streams, frames: Frames) -> None:
        self._streams = streams
        self._frames = frames

    async def serve(self, socket: web.WebSocketResponse) -> None:
        """Send and listen until it leaves."""
        await _both(self._send(socket), self._receive(socket))

    async def _send(self, socket: web.WebSocketResponse) -> None:
        shown: Frames | None = None
        while True:
            frames = self._frames
            message = frames.next() if frames is shown else frames.first()
            shown = frames
            if message is not None:
                await self._streams.send(socket, [message], WSMsgType.BINARY)
            await asyncio.sleep(self._streams.period_s)

    async def _receive(self, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            try:
                key = _key.decode(_text_of(message))
            except msgspec.ValidationError as error:
                said = invalid(error)
            except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
                said = ApiError(HTTPStatus.BAD_REQUEST, "bad_json", f"the message is no JSON: {error}")
            except ApiError as error:
                said = error
            else:
                self._frames = Frames(self._streams.host, key.exchange, key.symbol)
                continue
            body = msgspec.json.encode({"type": "error", **said.body()})
            await self._streams.send(socket, [body], WSMsgType.TEXT)


_key = msgspec.json.Decoder(KeyName)


def _text_of(message: WSMessage) -> str:
    """The text of a client's message. Raises ApiError for bytes."""
    if message.type is not WSMsgType.TEXT:
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not_text", "expected a text message with JSON in it")
    text: str = message.data
    return text
