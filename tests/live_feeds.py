"""A loopback exchange that does as a test says, an inbox, and the feeds between them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from engine.clock import Clock, LiveClock
from engine.config import BinanceConfig, Config, FeedsConfig
from engine.events import Event, FeedStatus, Tick
from feeds.live import Feed
from feeds.venues import feed_of

DEADLINE_S = 20.0
QUICK = FeedsConfig(backoff_first_s=0.02, backoff_max_s=0.1, connect_s=10.0, acknowledge_s=10.0)
BTC, ETH = "BTC/USDT", "ETH/USDT"


def trade(number: int, symbol: str = "BTCUSDT", padding: int = 0) -> str:
    pad = f',"pad":"{"x" * padding}"' if padding else ""
    return (
        f'{{"e":"trade","E":1680652800000,"s":"{symbol}","t":{number},"p":"28165.47000000","q":"0.00056000",'
        f'"T":1680652799999,"m":true,"M":true{pad}}}'
    )


class Changes:
    """Lets a test wait for what it wants to see; whoever changes something says so."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        self._changed.set()

    async def until(self, seen: Callable[[], Any]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not seen():
                self._changed.clear()
                await self._changed.wait()


class Box:
    """The daemon's inbox: keeps what it is offered, and is full when a test says so."""

    def __init__(self, changes: Changes) -> None:
        self.events: list[Event] = []
        self.capacity: int | None = None
        self._changes = changes

    @property
    def is_full(self) -> bool:
        return self.capacity is not None and len(self.events) >= self.capacity

    def offer(self, events: Sequence[Event]) -> None:
        self.events += events
        self._changes.notify()

    async def drained(self) -> None:
        await self._changes.until(lambda: not self.is_full)

    def statuses(self) -> list[tuple[str, str]]:
        return [(event.status, event.symbol) for event in self.events if isinstance(event, FeedStatus)]

    def details(self) -> str:
        return "\n".join(event.detail for event in self.events if isinstance(event, FeedStatus))

    def ids(self) -> list[int | None]:
        return [event.trade_id for event in self.events if isinstance(event, Tick)]


class Client:
    """One connection, as the exchange sees it."""

    def __init__(self, ws: web.WebSocketResponse, request: web.Request) -> None:
        self.ws = ws
        self.path = request.path
        self.request = request
        self.asked: list[dict[str, Any]] = []
        self.streams: set[str] = set()
        self.pongs: list[bytes] = []
        self.is_gone = False

    def abort(self) -> None:
        """Cut the connection as a broken network does."""
        assert self.request.transport is not None
        self.request.transport.abort()


class Exchange:
    """A websocket server that takes subscriptions as Binance does."""

    def __init__(self, changes: Changes) -> None:
        self.clients: list[Client] = []
        self.refusals: list[web.Response] = []
        """HTTP answers to the next dials."""
        self.dials: list[float] = []
        self.listed: dict[str, str] = {}
        """BASE/QUOTE of its product list to their status."""
        self.acknowledges = True
        self.headers: dict[str, str] = {}
        """Of the answer to an upgrade."""
        self.port = 0
        self._changes = changes
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def live(self) -> list[Client]:
        return [client for client in self.clients if not client.is_gone]

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            for client in self.live:
                client.abort()
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/api/v3/exchangeInfo":
            return web.json_response({"symbols": [_product(*of) for of in self.listed.items()]})
        self.dials.append(asyncio.get_running_loop().time())
        self._changes.notify()
        if self.refusals:
            return self.refusals.pop(0)
        ws = web.WebSocketResponse(autoping=False, compress=False, timeout=1.0)
        ws.headers.update(self.headers)
        await ws.prepare(request)
        client = Client(ws, request)
        self.clients.append(client)
        try:
            async for message in ws:
                if message.type is WSMsgType.PONG:
                    client.pongs.append(bytes(message.data))
                elif message.type is WSMsgType.TEXT:
                    await self._hear(client, json.loads(message.data))
                self._changes.notify()
        finally:
            client.is_gone = True
            self._changes.notify()
        return ws

    async def _hear(self, client: Client, asked: dict[str, Any]) -> None:
        client.asked.append(asked)
        change = client.streams.update if asked["method"] == "SUBSCRIBE" else client.streams.difference_update
        change(asked["params"])
        if self.acknowledges:
            await client.ws.send_str(json.dumps({"result": None, "id": asked["id"]}))


def _product(symbol: str, status: str) -> dict[str, Any]:
    base, _, quote = symbol.partition("/")
    return {"symbol": base + quote, "status": status, "baseAsset": base, "quoteAsset": quote}


class World:
    """An exchange, an inbox, and the feeds between them."""

    def __init__(self, clock: Clock) -> None:
        self.changes = Changes()
        self.until = self.changes.until
        self.exchange = Exchange(self.changes)
        self.box = Box(self.changes)
        self.clock = clock
        self.runs: list[tuple[Feed, asyncio.Task[None]]] = []

    def run(
        self,
        symbols: Sequence[str] = (BTC,),
        feeds: FeedsConfig = QUICK,
        raw: Any = None,
        refresh_products: bool = False,
        **binance: Any,
    ) -> Feed:
        address = self.exchange.address
        venue = BinanceConfig(websocket=address, rest=address.replace("ws:", "http:"), streams=("trade",))
        feed = feed_of(
            "binance",
            Config(binance=msgspec.structs.replace(venue, **binance), feeds=feeds),
            symbols,
            clock=self.clock,
            inbox=self.box,
            seed=1,
            raw=raw,
            refresh_products=refresh_products,
        )
        task = asyncio.get_running_loop().create_task(feed.run())
        task.add_done_callback(lambda _: self.changes.notify())
        self.runs.append((feed, task))
        return feed

    async def live(self, connections: int = 1) -> Client:
        """Wait until so many connections were made and the newest is live."""
        up = ("connected", "recovered")
        await self.until(lambda: sum(status in up for status, _ in self.box.statuses()) >= connections)
        return self.exchange.clients[-1]


@contextlib.asynccontextmanager
async def world(*, listening: bool = True, clock: Clock | None = None) -> AsyncIterator[World]:
    """A world that leaves nothing behind: no task, no socket, no error that nobody saw."""
    before = asyncio.all_tasks()
    made = World(LiveClock() if clock is None else clock)
    if listening:
        await made.exchange.start()
    try:
        yield made
        for feed, task in made.runs:
            await feed.stop()
            await task
    finally:
        for _, task in made.runs:
            task.cancel()
        await made.exchange.stop()
    left = [task.get_name() for task in asyncio.all_tasks() - before if not task.done()]
    assert not left, left
