"""Something that takes a flood of trades from a websocket, in a process of its own: what a message costs it.

    aiohttp     aiohttp's websocket, each frame taken and thrown away
    feed        tickfold's live feed as `feed_of` makes it: connection, decoder, watch, a Tick offered to an inbox that counts
    journaled   and the intake, the ingress, the journal, a fold without views: the daemon, but for what it computes
    views       and the default views, and the digests of their rows
    cryptofeed, ccxt
                in receiving_peers.py

All run on uvloop. Writes the CPU time of the process (all threads, user and system) and wall time a message, ns, between two messages
of a flood; once all have come, how many there were and the newest id of each symbol. With --keep it writes every trade too.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import uvloop
from aiohttp import ClientWSTimeout, WSMsgType

from benchmarks.wording import KINDS
from engine.app.daemon import SWITCH_S
from engine.block import Keys
from engine.clock import LiveClock
from engine.config import BinanceConfig, CoinbaseConfig, Config
from engine.errors import JournalError
from engine.events import Event, FeedStatus, Tick
from engine.ingress import Admitted
from engine.intake import Intake
from engine.latency import Latency
from engine.trade_ids import TradeIds
from feeds.binance_stream import BinanceProtocol
from feeds.coinbase_stream import CoinbaseProtocol
from feeds.dialling import CLOSE_S, open_session
from feeds.link import FRAMES_A_TURN
from feeds.live import Feed, Inbox
from feeds.products import built_in_products
from feeds.venues import Venue, feed_of
from replay.driver import build_fold
from store.journal import Journal
from store.journal_reader import read

OURS = ("aiohttp", "feed", "journaled", "views")
PEERS = ("cryptofeed", "ccxt")
LOOK_S = 0.005
END_S = 60.0
"""How long a flood may take, and its last messages."""
NS_PER_MS = 1_000_000
SIDES = {1: "buy", -1: "sell", 0: "None"}

Row = tuple[str, int, float, float, str, int]
"""Symbol as the exchange spells it, id, price, volume, taker's side, ms."""


class Receiver(Protocol):
    """Takes a flood from its making to `stop`."""

    def count(self) -> int:
        """Trades so far."""

    def newest(self) -> dict[str, int]:
        """The newest id of each symbol, or of the last one only."""

    async def stop(self) -> None:
        """Leave."""

    def rows(self) -> list[Row]:
        """Every trade, once it has stopped; none if it was not asked to keep them, or does not read them."""


class Flood:
    """Where the flood comes from, and what a receiver is to do with it."""

    def __init__(self, kind: str, url: str, symbols: Sequence[str], keep: bool, folder: Path) -> None:
        self.kind, self.url, self.symbols, self.keep, self.folder = kind, url, symbols, keep, folder
        self.venue: Venue = "coinbase" if kind == "market_trades" else "binance"
        self.known = built_in_products(self.venue)
        self.spelling = {self.known[name]: name for name in symbols}
        self.streams = ("aggTrade" if kind == "aggTrade" else "trade",)

    def config(self) -> Config:
        """The defaults, but for where the exchange is and which of Binance's streams is listened to."""
        binance = BinanceConfig(websocket=self.url, streams=self.streams)  # type: ignore[arg-type]
        return Config(binance=binance, coinbase=CoinbaseConfig(websocket=self.url))

    def feed(self, config: Config, inbox: Inbox, clock: LiveClock) -> Feed:
        """Our feed; no product list is fetched, and no gap filled: there is none."""
        symbols = list(self.spelling)
        return feed_of(self.venue, config, symbols, clock=clock, inbox=inbox, seed=0, refresh_products=False)


class Aiohttp:
    """Takes frames as a connection of ours does, and nothing else."""

    def __init__(self, flood: Flood) -> None:
        self._flood = flood
        self._count = 0
        self._last: Any = b""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        flood = self._flood
        protocol: BinanceProtocol | CoinbaseProtocol = BinanceProtocol(flood.url, flood.streams, flood.spelling)
        if flood.venue == "coinbase":
            protocol = CoinbaseProtocol(flood.url, flood.spelling)
        async with open_session() as session:
            ws = await session.ws_connect(
                protocol.endpoint,
                autoping=False,
                compress=0,
                decode_text=False,
                max_msg_size=16 << 20,
                timeout=ClientWSTimeout(ws_close=CLOSE_S),
            )
            for number, channel in enumerate((*protocol.once, *protocol.channels), 1):
                symbols = () if channel in protocol.once else tuple(flood.spelling)
                await ws.send_str(protocol.subscribe(number, channel, symbols))
                await ws.receive()
            frames = 0
            while True:
                kind, data, _ = await ws.receive()
                if kind is not WSMsgType.TEXT:
                    return
                self._last = data
                self._count += 1
                frames += 1
                if frames == FRAMES_A_TURN:
                    frames = 0
                    await asyncio.sleep(0)

    def count(self) -> int:
        return self._count

    def newest(self) -> dict[str, int]:
        message = json.loads(self._last)
        if self._flood.venue == "coinbase":
            trade = message["events"][0]["trades"][0]
            return {trade["product_id"]: int(trade["trade_id"])}
        trade = message.get("data", message)
        return {trade["s"]: trade["t" if trade["e"] == "trade" else "a"]}

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def rows(self) -> list[Row]:
        return []


class Sink:
    """An inbox that counts."""

    is_full = False

    def __init__(self, keep: bool) -> None:
        self.count = 0
        self.kept: list[Event] | None = [] if keep else None
        self.last: Sequence[Event] = ()

    def offer(self, events: Sequence[Event]) -> None:
        if type(events[0]) is FeedStatus:
            return
        self.count += len(events)
        self.last = events
        if self.kept is not None:
            self.kept += events

    async def drained(self) -> None:
        return


class OurFeed:
    """The feed, into an inbox that counts."""

    def __init__(self, flood: Flood) -> None:
        self._flood = flood
        self._sink = Sink(flood.keep)
        self._feed = flood.feed(flood.config(), self._sink, LiveClock())
        self._task = asyncio.get_running_loop().create_task(self._feed.run())

    def count(self) -> int:
        return self._sink.count

    def newest(self) -> dict[str, int]:
        symbol, trade_id, *_ = self._row(self._sink.last[-1])
        return {symbol: trade_id}

    async def stop(self) -> None:
        await self._feed.stop()
        await self._task

    def rows(self) -> list[Row]:
        return [self._row(event) for event in self._sink.kept or ()]

    def _row(self, tick: Event) -> Row:
        assert isinstance(tick, Tick)
        assert tick.trade_id is not None
        symbol = self._flood.spelling[tick.symbol]
        return symbol, tick.trade_id, tick.price, tick.volume, str(tick.side), tick.timestamp // NS_PER_MS


class Journaled:
    """The feed, the intake, the ingress, the journal, and a fold with the default views or none. Settings are the daemon's."""

    def __init__(self, flood: Flood, *, with_views: bool) -> None:
        self._flood = flood
        config, clock = flood.config(), LiveClock()
        self._fold = build_fold(config, [], views=None if with_views else (), digests=True, models=())
        self._journal = Journal.open(
            flood.folder,
            segment_bytes=config.journal.segment_mib << 20,
            fsync=config.journal.fsync,
            fsync_ms=config.journal.fsync_ms,
            retention_bytes=1 << 40,
            created=clock.now(),
        )
        inbox = Intake(
            self._fold,
            self._journal,
            clock=clock,
            later=asyncio.get_running_loop().call_soon,
            failed=_failed,
            broke=_broke,
            latency=Latency(),
            shed_behind_ns=config.feeds.shed_behind_ms * NS_PER_MS,
        )
        self._feed = flood.feed(config, inbox, clock)
        self._task = asyncio.get_running_loop().create_task(self._feed.run())

    def count(self) -> int:
        return self._fold.folded

    def newest(self) -> dict[str, int]:
        found = {
            theirs: TradeIds(self._fold.keys, self._fold.ingress, self._flood.venue).newest_id(ours)
            for ours, theirs in self._flood.spelling.items()
        }
        return {name: trade_id for name, trade_id in found.items() if trade_id is not None}

    async def stop(self) -> None:
        await self._feed.stop()
        await self._task
        self._journal.close()

    def rows(self) -> list[Row]:
        """What is in the journal, read again."""
        if not self._flood.keep:
            return []
        keys, found = Keys(), []
        for item in read(self._flood.folder, keys):
            if isinstance(item, Admitted):
                block = item.block
                columns = (block.key, block.trade_id, block.price, block.volume, block.side, block.timestamp)
                for code, trade_id, price, volume, side, timestamp in zip(*(c.tolist() for c in columns), strict=True):
                    symbol = self._flood.spelling[keys[code][1]]
                    found.append((symbol, trade_id, price, volume, SIDES[side], timestamp // NS_PER_MS))
        return found


def _failed(error: JournalError) -> bool:
    raise error


def _broke(error: BaseException) -> None:
    raise error


def receiver(name: str, flood: Flood) -> Receiver:
    """Make a receiver, which begins to dial at once."""
    if name in PEERS:
        from benchmarks import (
            receiving_peers,
        )  # only where it is asked for: it takes seconds to import, and may not be there

        return receiving_peers.Cryptofeed(flood) if name == "cryptofeed" else receiving_peers.Ccxt(flood)
    if name == "aiohttp":
        return Aiohttp(flood)
    return OurFeed(flood) if name == "feed" else Journaled(flood, with_views=name == "views")


async def reach(taking: Receiver, count: int) -> None:
    """Wait until so many trades have come. Raises TimeoutError, saying how many there were."""
    deadline = time.monotonic() + END_S
    while taking.count() < count:
        await asyncio.sleep(LOOK_S)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{taking.count()} of {count} trades came within {END_S:g} s")


async def measure(name: str, flood: Flood, skip: int, until: int, total: int) -> Mapping[str, Any]:
    """Take a flood of `total` messages; return what each cost between `skip` and `until`, and what came."""
    sys.setswitchinterval(SWITCH_S)
    taking = receiver(name, flood)
    gc.collect()
    gc.freeze()
    await reach(taking, max(skip, 1))
    first, cpu, wall = taking.count(), time.process_time_ns(), time.monotonic_ns()
    await reach(taking, until)
    last, cpu, wall = taking.count(), time.process_time_ns() - cpu, time.monotonic_ns() - wall
    await reach(taking, total)
    span = max(last - first, 1)  # a flood that is only to be compared may come within one look
    found: dict[str, Any] = {"cpu_ns": cpu / span, "wall_ns": wall / span, "messages": last - first}
    found |= {"count": taking.count(), "newest": taking.newest()}
    await taking.stop()
    return found | {"rows": taking.rows()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("receiver", choices=(*OURS, *PEERS))
    parser.add_argument("url")
    parser.add_argument("out", type=Path, help="a file, JSON")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--symbols", required=True)
    parser.add_argument("--skip", type=int, required=True)
    parser.add_argument("--until", type=int, required=True)
    parser.add_argument("--total", type=int, required=True)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="tickfold-bench-") as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        flood = Flood(options.kind, options.url, options.symbols.split(","), options.keep, Path(name))
        found = runner.run(measure(options.receiver, flood, options.skip, options.until, options.total))
    options.out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
