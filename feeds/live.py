"""A live feed: one exchange, its symbols spread over as many connections as its limit of streams asks for.

Nothing that the network does makes `Feed.run` raise: it is reported as a FeedStatus and dialled again.
"""

from __future__ import annotations

import asyncio
import difflib
import random
from collections.abc import Mapping, Sequence

import aiohttp

from engine.clock import Clock
from engine.config import BinanceConfig, FeedsConfig
from engine.errors import ConfigError
from engine.events import FeedStatus
from engine.health import FeedHealth
from feeds.binance import BinanceDecoder
from feeds.binance_stream import EXCHANGE as BINANCE
from feeds.binance_stream import BinanceProtocol
from feeds.connection import Connection
from feeds.limits import Host
from feeds.link import NS_PER_S, Inbox, Link, Outside, RawSink, open_session
from feeds.products import built_in_products
from feeds.speech import Limits

__all__ = ["Feed", "Inbox", "RawSink", "binance_feed"]


class Feed:
    """The live feed of one exchange. Made by `binance_feed`."""

    def __init__(
        self,
        outside: Outside,
        limits: Limits,
        host: Host,
        known: Mapping[str, str],
        symbols: Sequence[str],
        symbols_a_connection: int,
        seed: int,
    ) -> None:
        self._outside = outside
        self._limits = limits
        self._host = host
        self._known = known
        self._most = symbols_a_connection
        self._seed = seed
        self._links: list[Link] = []
        self._number = 0
        self._session: aiohttp.ClientSession | None = None
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()
        self._defect: BaseException | None = None
        self._leaving: dict[asyncio.Task[None], None] = {}
        self._unsaid: list[FeedStatus] = []
        for symbol in symbols:
            self.add(symbol)

    @property
    def exchange(self) -> str:
        """Whose feed it is."""
        return self._outside.protocol.exchange

    @property
    def symbols(self) -> tuple[str, ...]:
        """What it listens to, ours, connection by connection."""
        return tuple(symbol for link in self._links for symbol in link.machine.symbols)

    def health(self) -> list[FeedHealth]:
        """What each connection says of itself, in the order in which they were made."""
        return [link.health() for link in self._links]

    def why_not(self, symbol: str) -> str:
        """Why a symbol cannot be listened to; empty if it can."""
        if symbol in self._known:
            return ""
        near = difflib.get_close_matches(symbol, self._known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"not in the product list of {self.exchange} ({len(self._known)} symbols){hint}"

    def add(self, symbol: str) -> None:
        """Listen to `symbol` too. One that the product list does not know is reported as a FeedStatus `failed`."""
        if symbol in self.symbols:
            return
        if why := self.why_not(symbol):
            self._say(symbol, why)
            return
        link = next((link for link in self._links if len(link.machine.symbols) < self._most), None)
        if link is None:
            link = self._new_link()
            link.machine.add([symbol], self._outside.clock.now())
            if self._session is not None:
                link.start(self._session)
        else:
            link.do(link.machine.add([symbol], self._outside.clock.now()))

    def remove(self, symbol: str) -> None:
        """Listen to `symbol` no longer. What is on its way still comes. One that it does not listen to is reported."""
        link = next((link for link in self._links if symbol in link.machine.symbols), None)
        if link is None:
            self._say(symbol, f"is not among the {len(self.symbols)} symbols of this feed")
            return
        if link.machine.symbols != (symbol,):
            link.do(link.machine.remove([symbol], self._outside.clock.now()))
            return
        self._links.remove(link)
        if self._session is not None:
            task = asyncio.get_running_loop().create_task(link.stop())
            self._leaving[task] = None
            task.add_done_callback(lambda done: self._leaving.pop(done, None))

    async def run(self) -> None:
        """Dial, and go on until `stop` or cancellation. Raises nothing that the network has done. Runs once."""
        if self._stopping.is_set():
            return
        self._stopped.clear()
        unsaid, self._unsaid = self._unsaid, []
        if unsaid:
            self._outside.inbox.offer(unsaid)
        try:
            async with open_session() as session:
                self._session = session
                for link in self._links:
                    link.start(session)
                try:
                    await self._stopping.wait()
                finally:
                    self._session = None
                    await asyncio.gather(*(link.stop() for link in self._links), *self._leaving)
            if self._defect is not None:
                raise self._defect
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Close the connections, within `CLOSE_S` or so; `run` returns, or will never begin."""
        self._stopping.set()
        await self._stopped.wait()

    def _new_link(self) -> Link:
        self._number += 1
        name = f"{self.exchange} {self._number}"
        drawn = random.Random(f"{self._seed} {name}")
        machine = Connection(self._outside.protocol, self._limits, self._host, drawn, connection_id=name)
        link = Link(name, machine, self._outside, self._break)
        self._links.append(link)
        return link

    def _break(self, defect: BaseException) -> None:
        """A defect of ours in a connection's task ends the feed; `run` raises it."""
        self._defect = self._defect or defect
        self._stopping.set()

    def _say(self, symbol: str, detail: str) -> None:
        now = self._outside.clock.now()
        status = FeedStatus(self.exchange, symbol, "failed", detail, now, now)
        if self._session is None:
            self._unsaid.append(status)
        else:
            self._outside.inbox.offer([status])


def binance_feed(
    config: BinanceConfig,
    feeds: FeedsConfig,
    symbols: Sequence[str],
    *,
    clock: Clock,
    inbox: Inbox,
    seed: int,
    recording: bool = False,
    raw: RawSink | None = None,
    products: Mapping[str, str] | None = None,
) -> Feed:
    """Make the live feed of Binance spot for `symbols` (ours: BTC/USDT); it does nothing before `run`.

    `clock` stamps `received` and has to be one that never goes back. `recording` says that a loopback exchange serves a recording.
    `products` is Binance's spelling to ours, None for the dated list inside the package.
    Raises ConfigError if one symbol alone needs more streams than a connection may carry.
    """
    if not config.streams:
        raise ConfigError("binance.streams = []: expected at least one of trade, aggTrade, bookTicker")
    symbols_a_connection = config.streams_a_connection // len(config.streams)
    if symbols_a_connection == 0:
        raise ConfigError(
            f"binance.streams_a_connection = {config.streams_a_connection}: "
            f"expected at least {len(config.streams)}, the streams of one symbol (binance.streams)"
        )
    products = built_in_products(BINANCE) if products is None else products
    known = {ours: theirs for theirs, ours in products.items()}
    outside = Outside(
        clock=clock,
        inbox=inbox,
        decoder=BinanceDecoder(products),
        protocol=BinanceProtocol(config.websocket, config.streams, known, config.streams_a_connection),
        recording=recording,
        raw=raw,
    )
    limits = Limits(
        connect_ns=_ns(feeds.connect_s),
        acknowledge_ns=_ns(feeds.acknowledge_s),
        silence_ns=_ns(config.silence_s),
        backoff_first_ns=_ns(feeds.backoff_first_s),
        backoff_max_ns=_ns(feeds.backoff_max_s),
        stable_ns=_ns(feeds.backoff_max_s),
        messages=config.messages,
        messages_span_ns=_ns(config.messages_s),
        renew_ns=0,
    )
    host = Host(config.dials, _ns(config.dials_s), limits)
    return Feed(outside, limits, host, known, symbols, symbols_a_connection, seed)


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
