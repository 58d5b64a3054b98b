"""A live feed: one exchange, its symbols spread over as many connections as its limit asks for.

Nothing that the network does makes `Feed.run` raise: it is reported as a FeedStatus and dialled again. A symbol that the product list
does not know is reported by name, and listened to as soon as a newer list has it; the others go on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Literal

import aiohttp
import structlog

from engine.events import Event, FeedStatus, Gap, Tick
from engine.health import ExchangeHealth, FeedHealth
from feeds.backfill import Backfill
from feeds.connection import Connection
from feeds.dialling import open_session
from feeds.limits import Host
from feeds.line import Line
from feeds.link import Inbox, Link, Outside, Owner, RawSink
from feeds.liveness import SymbolWatch
from feeds.skew import ClockSkew
from feeds.speech import Limits
from feeds.streams import StreamWatch
from feeds.wares import Wares

__all__ = ["Feed", "Inbox", "RawSink"]

LOOK_S = 0.25
"""How often symbols are looked after: what this adds to the time in which a stall is noticed."""
LOOKS_A_SECOND = 4


class Feed:
    """The live feed of one exchange. Made by `feeds.venues.feed_of`."""

    def __init__(
        self,
        outside: Outside,
        limits: Limits,
        host: Host,
        wares: Wares,
        symbols: Sequence[str],
        *,
        seed: int,
        new_watch: Callable[[], SymbolWatch],
        new_skew: Callable[[], ClockSkew],
        connector: aiohttp.BaseConnector | None = None,
    ) -> None:
        self._outside = outside
        self._limits = limits
        self._host = host
        self._wares = wares
        self._seed = seed
        self._new_watch = new_watch
        self._new_skew = new_skew
        self.backfill: Backfill | None = None
        """Who asks for what the stream skipped; to be set before `run`."""
        self._connector = connector
        self._lines: list[Line] = []
        self._unlisted: dict[str, None] = {}
        self._number = 0
        self._looks = 0
        self._session: aiohttp.ClientSession | None = None
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()
        self._defect: BaseException | None = None
        self._leaving: dict[asyncio.Task[None], None] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._unsaid: list[FeedStatus] = []
        self._log = structlog.get_logger(exchange=outside.protocol.exchange)
        for symbol in symbols:
            self.add(symbol)

    @property
    def exchange(self) -> str:
        """Whose feed it is."""
        return self._outside.protocol.exchange

    @property
    def symbols(self) -> tuple[str, ...]:
        """What it listens to, ours, connection by connection."""
        return tuple(symbol for line in self._lines for symbol in line.symbols)

    def health(self) -> list[FeedHealth]:
        """What each connection says of itself, in the order in which they were made."""
        return [health for line in self._lines for health in line.health()]

    def exchange_health(self) -> ExchangeHealth:
        """What is to be said of all of them together."""
        filling = None if self.backfill is None else self.backfill.health()
        return ExchangeHealth(
            exchange=self.exchange,
            products=self._wares.listing.describe(),
            products_trouble=self._wares.trouble,
            unlisted=tuple(self._unlisted),
            gaps_open=filling.open if filling else 0,
            trades_filled=filling.filled if filling else 0,
            trades_lost=filling.lost if filling else 0,
            requests=filling.requests if filling else 0,
            backfill_trouble=filling.detail if filling else "",
        )

    def why_not(self, symbol: str) -> str:
        """Why a symbol cannot be listened to; empty if it can."""
        return self._wares.listing.why_not(symbol)

    def add(self, symbol: str) -> None:
        """Listen to `symbol` too. One that the product list does not know is reported as a FeedStatus `failed`."""
        if symbol in self.symbols:
            return
        if why := self.why_not(symbol):
            self._unlisted[symbol] = None
            self._say("failed", symbol, why)
            return
        self._unlisted.pop(symbol, None)
        line = next((line for line in self._lines if len(line.symbols) < self._outside.protocol.capacity), None)
        if line is not None:
            line.add(symbol)
            return
        watch = StreamWatch(self._new_watch(), self._new_watch())
        line = Line(self, self._outside, watch, self._new_skew(), [symbol])
        self._lines.append(line)
        if self._session is not None:
            self.muted([symbol])
            line.start(self._session)

    def remove(self, symbol: str) -> None:
        """Listen to `symbol` no longer. What is on its way still comes. One that it does not listen to is reported."""
        line = next((line for line in self._lines if symbol in line.symbols), None)
        if line is None:
            if self._unlisted.pop(symbol, symbol) is not None:
                self._say("failed", symbol, f"is not among the {len(self.symbols)} symbols of this feed")
            return
        if line.symbols != (symbol,):
            line.remove(symbol)
            return
        self._lines.remove(line)
        self.unmuted([symbol])
        for link in line.links:
            self.let_go(link)

    def gap(self, gap: Gap) -> None:
        """Ids were skipped: ask for those trades."""
        if self.backfill is not None:
            self.backfill.gap(gap.symbol, gap.first_id, gap.last_id, gap.timestamp)

    async def run(self) -> None:
        """Dial, and go on until `stop` or cancellation. Raises nothing that the network has done. Runs once."""
        if self._stopping.is_set():
            return
        self._stopped.clear()
        unsaid, self._unsaid = self._unsaid, []
        if unsaid:
            self._outside.inbox.offer(unsaid)
        try:
            async with open_session(self._connector) as session:
                self._session = session
                if self.backfill is not None:
                    self.backfill.start(session)
                self.muted(self.symbols)  # nothing is heard of them until they are `reconnected`
                for line in self._lines:
                    line.start(session)
                try:
                    await self._look_after(session)
                finally:
                    self._session = None
                    await self._close()
            if self._defect is not None:
                raise self._defect
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Close the connections, within `CLOSE_S` or so; `run` returns, or will never begin."""
        self._stopping.set()
        await self._stopped.wait()

    async def _look_after(self, session: aiohttp.ClientSession) -> None:
        """Look after symbols, handovers and the product list, until the feed is to stop."""
        stopping = asyncio.get_running_loop().create_task(self._stopping.wait())
        try:
            while not stopping.done():
                self._look(session)
                await asyncio.wait([stopping], timeout=LOOK_S)
        finally:
            stopping.cancel()

    def _look(self, session: aiohttp.ClientSession) -> None:
        now = self._outside.clock.now()
        for line in tuple(self._lines):
            line.look(now)
        if self._looks % LOOKS_A_SECOND == 0:
            if self.backfill is not None:
                live: dict[str, Tick] = {}
                for line in self._lines:
                    live.update(line.last_live())
                self.backfill.look(self.symbols, live)
            if self._refreshing is None and self._wares.refresh_due(now):
                self._refreshing = asyncio.get_running_loop().create_task(
                    self._refresh(session), name=f"product list of {self.exchange}"
                )
                self._refreshing.add_done_callback(self._refreshed)
        self._looks += 1

    async def _close(self) -> None:
        for line in self._lines:
            line.end()
        parts = [link.stop() for line in self._lines for link in line.links]
        if self.backfill is not None:
            parts.append(self.backfill.stop())
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await asyncio.gather(*parts, *self._leaving)

    # -- product list

    async def _refresh(self, session: aiohttp.ClientSession) -> None:
        """Ask for the product list, and do what a change of it asks for."""
        changed = await self._wares.refresh(session)
        self._outside.decoder = self._wares.decoder
        heard = self.symbols
        for symbol, why in changed.untradable:
            if symbol in heard:
                self._unlisted[symbol] = None
                self._say("failed", symbol, why)
        for symbol, how in changed.restated:
            if symbol in heard:
                self._log.warning("product", symbol=symbol, status=how)
        for symbol in changed.tradable:
            if symbol in heard:
                self._unlisted.pop(symbol, None)
                self._say("recovered", symbol, "can be listened to again")
            elif symbol in self._unlisted:
                self._say("recovered", symbol, f"is in the product list now ({self._wares.listing.describe()})")
                self.add(symbol)

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled() and (defect := task.exception()) is not None:
            self.broke(defect)

    # -- what lines want (`feeds.line.Desk`)

    def new_link(self, owner: Owner, take: Callable[[Sequence[Event]], None], symbols: Sequence[str]) -> Link:
        self._number += 1
        name = f"{self.exchange} {self._number}"
        drawn = random.Random(f"{self._seed} {name}")
        connection_id = f"{drawn.getrandbits(64):016x}"
        machine = Connection(self._outside.protocol, self._limits, self._host, drawn, symbols, connection_id)
        return Link(name, machine, self._outside, owner, take)

    def let_go(self, link: Link) -> None:
        if self._session is not None:
            task = asyncio.get_running_loop().create_task(link.stop(), name=f"feed {link.name} stops")
            self._leaving[task] = None
            task.add_done_callback(lambda done: self._leaving.pop(done, None))

    def reconnected(self, symbols: Sequence[str], since_ns: int) -> None:
        if self.backfill is not None:
            self.backfill.reconnected(symbols, since_ns)

    def muted(self, symbols: Sequence[str]) -> None:
        if self.backfill is not None:
            self.backfill.muted(symbols)

    def unmuted(self, symbols: Sequence[str]) -> None:
        if self.backfill is not None:
            self.backfill.unmuted(symbols)

    def missed(self, symbols: Sequence[str]) -> None:
        if self.backfill is not None:
            self.backfill.missed(symbols)

    def reached(self, symbol: str, trade_id: int) -> None:
        if self.backfill is not None:
            self.backfill.reached(symbol, trade_id)

    def broke(self, defect: BaseException) -> None:
        """A defect of ours in a task ends the feed; `run` raises it."""
        self._defect = self._defect or defect
        self._stopping.set()

    def _say(self, status: Literal["failed", "recovered"], symbol: str, detail: str) -> None:
        now = self._outside.clock.now()
        said = FeedStatus(self.exchange, symbol, status, detail, now, now)
        if self._session is None:
            self._unsaid.append(said)
        else:
            self._outside.inbox.offer([said])
