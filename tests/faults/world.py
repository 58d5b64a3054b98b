"""One seeded run in virtual time: a loopback exchange with its faults, the feeds, the intake and the fold, and a strategy that listens.

Everything but the wires and the clock is the product's own, with the limits and waits of its default configuration. A run ends when
the market has ended and no trade is asked for any more; what it heard, what the exchange says it traded, and what was used of limits
is its `Outcome`. Equal seeds give equal outcomes, bit for bit.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import structlog

from engine.config import Config, StoreConfig
from engine.events import FeedStatus, Gap, Quote, Tick
from engine.fold import Fold
from engine.intake import Intake
from engine.latency import Latency
from engine.trade_ids import TradeIds
from feeds.live import Feed
from feeds.venues import Venue, feed_of
from replay.driver import build_fold
from replay.exchange import Exchange
from replay.exchange.fault_plan import AnyFault, Fault, Plan
from replay.exchange.faults import PreparedPlan
from store.journal import Journal
from tests.faults.market import SYMBOLS, tape
from tests.folding import VIEWS, Listener, listener
from tests.virtual_time import VirtualClock, VirtualLoop, run

NS_PER_S: Final = 1_000_000_000
BEGIN_NS: Final = 1_700_000_000_000_000_000
SETTLE_S, UNPROVED_SETTLE_S = 5.0, 75.0
"""After the market has ended, before anything is concluded; longer where what is asked for is no gap that one could see open."""
SETTLE_MAX_S: Final = 300.0
SAMPLE_S: Final = 0.5
HOST: Final = "exchange.test"
VENUES: Final[dict[str, Venue]] = {
    "binance": "binance",
    "coinbase": "coinbase",
    "coinbase_exchange": "coinbase",
    "kucoin": "kucoin",
}
"""Feed to the exchange whose events it brings."""
Key = tuple[str, str]


class Weather(NamedTuple):
    """What the network does, rather than the exchange."""

    what: Literal["black hole", "one-way black hole", "refused", "unreachable", "no name", "reset", "slow"]
    at_s: float
    for_s: float = 0.0


class Scenario(NamedTuple):
    """What is to be run."""

    feeds: tuple[str, ...] = ("binance",)
    faults: tuple[AnyFault, ...] = ()
    weather: tuple[Weather, ...] = ()
    held: tuple[tuple[float, float, float], ...] = ()
    """At s, for s: our own loop is held for so many s of each second."""
    flips: tuple[tuple[float, int], ...] = ()
    """At s, so many times within a second: the calm symbol is removed, and added again."""
    seconds: float = 60.0
    market: int = 0
    """Seed of the market."""
    settings: tuple[tuple[str, dict[str, Any]], ...] = ()
    """Sections of the configuration, and what of them is changed."""

    def toml(self) -> str:
        """Return the plan of faults as a file for `tickfold exchange --faults`."""
        return "\n".join(_table(fault) for fault in self.faults)


def _table(fault: Fault) -> str:
    rows = [f"kind = {msgspec.json.encode(fault.kind).decode()}"]
    for name in fault.__struct_fields__:
        value = getattr(fault, name)
        if value != _default(fault, name):
            rows.append(f"{name} = {msgspec.json.encode(value).decode()}")
    return "\n".join(["[[fault]]", *rows, ""])


def _default(fault: Fault, name: str) -> Any:
    return next(one.default for one in msgspec.structs.fields(fault) if one.name == name)


class Dial(NamedTuple):
    """A websocket that was dialled, or a message of ours on it."""

    at_ns: int
    feed: str
    connection: str


@dataclass
class Outcome:
    """What came of a run. Times are ns UTC."""

    scenario: Scenario
    seed: int
    begin_ns: int
    """When the exchange began: what `at_s` of faults is counted from."""
    heard: list[Any]
    """All that a strategy heard: ticks, late ones too, quotes, gaps and statuses, in the order in which they were folded."""
    traded: dict[Key, list[int]]
    """Ids of all trades, as the exchange says."""
    missing: dict[Key, list[tuple[int, int]]]
    """Ids that are neither folded, nor late, nor given up at the end."""
    dropped: dict[str, int]
    """Clients that the exchange has disconnected, by why."""
    done: Sequence[Any]
    """What the faults have done."""
    dials: list[Dial] = field(default_factory=list)
    sent: list[Dial] = field(default_factory=list)
    log: list[Any] = field(default_factory=list)
    waiting_max: int = 0
    """Inputs that waited in the intake."""
    tasks: list[int] = field(default_factory=list)
    """How many there were, every half second."""
    connections: list[int] = field(default_factory=list)
    settled_s: float = 0.0
    """How long after the end of the market the last question was answered."""
    refused: int = 0
    """Inputs that the ingress refused."""
    sequence: int = 0

    def digest(self) -> str:
        """Hash all that was heard and said: equal runs have equal ones."""
        said = (
            self.heard,
            self.traded,
            self.missing,
            self.dropped,
            self.dials,
            self.sent,
            self.tasks,
            self.connections,
        )
        return hashlib.sha256(repr(said).encode()).hexdigest()

    def ticks(self, key: Key, *, late: bool = False) -> list[Tick]:
        """Return the trades of a key that were folded, or those that came as history."""
        return [
            one for one in self.heard if type(one) is Tick and (one.exchange, one.symbol) == key and one.late == late
        ]

    def statuses(self, *statuses: str, exchange: str = "", symbol: str | None = None) -> list[FeedStatus]:
        """Return what feeds said of themselves."""
        return [
            one
            for one in self.heard
            if type(one) is FeedStatus
            and (not statuses or one.status in statuses)
            and exchange in ("", one.exchange)
            and symbol in (None, one.symbol)
        ]

    def after_s(self, at_ns: int) -> float:
        """Return how long after the beginning a moment was."""
        return (at_ns - self.begin_ns) / NS_PER_S


class World:
    """A run that is going on."""

    def __init__(self, loop: VirtualLoop, scenario: Scenario, journal: Path | None = None) -> None:
        self.loop, self.scenario = loop, scenario
        self.clock = VirtualClock(loop, BEGIN_NS)
        self.exchange = Exchange(
            [tape(feed, scenario.seconds, scenario.market) for feed in scenario.feeds],
            loop=False,
            from_start=True,
            clock=self.clock,
            faults=PreparedPlan(Plan(scenario.faults, f"seed {loop.seed}")),
            seed=loop.seed,
        )
        self.fold, self.listener = new_fold()
        self.fold.report = self._hear
        self.broken: list[BaseException] = []
        self.journal = None if journal is None else _open(journal, self.clock.now())
        self.intake = Intake(
            self.fold,
            self.journal,
            clock=self.clock,
            later=loop.call_soon,
            failed=lambda _: False,
            broke=self.broken.append,
            latency=Latency(),
            shed_behind_ns=Config().feeds.shed_behind_ms * 1_000_000,
        )
        self.feeds: list[Feed] = []
        self.outcome: Outcome

    def _hear(self, event: Any) -> None:
        if isinstance(event, Gap):
            for feed in self.feeds:
                if feed.exchange == event.exchange:
                    feed.gap(event)

    async def live(self) -> Outcome:
        """Run it to its end."""
        scenario, exchange, network = self.scenario, self.exchange, self.loop.network
        await exchange.start()
        network.names[HOST] = "127.0.0.1"
        self.outcome = Outcome(scenario, self.loop.seed, self.clock.now(), self.listener.heard, {}, {}, {}, ())
        config = self._config()
        self.feeds = [self._feed(feed, config) for feed in scenario.feeds]
        tasks = [self.loop.create_task(feed.run(), name=f"run {feed.exchange}") for feed in self.feeds]
        helpers = [
            self.loop.create_task(self._sample()),
            *(self.loop.create_task(self._blow(one)) for one in scenario.weather),
        ]
        helpers += [self.loop.create_task(self._hold(*held)) for held in scenario.held]
        helpers += [self.loop.create_task(self._flip(*flip)) for flip in scenario.flips]
        try:
            await asyncio.sleep(scenario.seconds + (UNPROVED_SETTLE_S if "kucoin" in scenario.feeds else SETTLE_S))
            while self._is_asking() and self.outcome.settled_s < SETTLE_MAX_S:
                await asyncio.sleep(1.0)
                self.outcome.settled_s += 1.0
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*(feed.stop() for feed in self.feeds))
            await asyncio.gather(*tasks)
            self.intake.drain()
            self._look_back()
            await exchange.stop()
            if self.journal is not None:
                self.journal.close()
        if self.broken:
            raise self.broken[0]
        return self.outcome

    def _config(self) -> Config:
        """The default configuration, with the addresses of the loopback exchange."""
        sections = dict(self.scenario.settings)
        config = Config()
        for venue in self.exchange.venues:
            changes: dict[str, Any] = {"rest": venue.rest.replace("127.0.0.1", HOST)}
            if venue.websocket:
                changes["websocket"] = venue.websocket.replace("127.0.0.1", HOST)
            sections[venue.feed] = changes | sections.get(venue.feed, {})
        if "coinbase_exchange" in self.scenario.feeds:
            sections["coinbase"] = {"api": "exchange"}
        changed = {
            name: msgspec.structs.replace(getattr(config, name), **changes) for name, changes in sections.items()
        }
        return msgspec.structs.replace(config, **changed)

    def _feed(self, feed: str, config: Config) -> Feed:
        outcome = self.outcome

        def hear(kind: str, at_ns: int, connection: str, _: Any) -> None:
            if kind in ("connect", "send"):
                (outcome.dials if kind == "connect" else outcome.sent).append(Dial(at_ns, feed, connection))

        return feed_of(
            VENUES[feed],
            config,
            SYMBOLS[feed],
            clock=self.clock,
            inbox=self.intake,
            seed=self.loop.seed,
            raw=hear,
            refresh_products=False,
            taken=TradeIds(self.fold.keys, self.fold.ingress, VENUES[feed]),
        )

    def _keys(self) -> list[Key]:
        return [(VENUES[feed], symbol) for feed in self.scenario.feeds for symbol in SYMBOLS[feed]]

    def _missing(self, key: Key) -> list[tuple[int, int]]:
        return TradeIds(self.fold.keys, self.fold.ingress, key[0]).missing(key[1])

    def _is_asking(self) -> bool:
        return any(self._missing(key) for key in self._keys()) or any(
            feed.exchange_health().gaps_open for feed in self.feeds
        )

    def _look_back(self) -> None:
        outcome = self.outcome
        for feed in self.scenario.feeds:
            for symbol in SYMBOLS[feed]:
                key = (VENUES[feed], symbol)
                outcome.traded[key] = list(self.exchange.traded(feed, symbol))
                outcome.missing[key] = self._missing(key)
        outcome.dropped = dict(self.exchange.dropped)
        outcome.done = list(self.exchange.faults_done)
        outcome.refused = int(self.fold.ingress.counts[:, 5:].sum())
        outcome.sequence = self.fold.ingress.next_sequence - 1

    # -- what happens besides

    async def _sample(self) -> None:
        while True:
            self.outcome.waiting_max = max(self.outcome.waiting_max, self.intake.waiting)
            self.outcome.tasks.append(len(asyncio.all_tasks(self.loop)))
            self.outcome.connections.append(len(self.loop.network.transports))
            await asyncio.sleep(SAMPLE_S)

    async def _hold(self, at_s: float, for_s: float, share: float) -> None:
        await asyncio.sleep(at_s)
        for _ in range(round(for_s)):
            self.loop.hold(share)
            await asyncio.sleep(1.0 - share)

    async def _flip(self, at_s: float, times: int) -> None:
        await asyncio.sleep(at_s)
        for _ in range(times):
            for name, feed in zip(self.scenario.feeds, self.feeds, strict=True):
                feed.remove(SYMBOLS[name][1])
                await asyncio.sleep(0.5 / times)
                feed.add(SYMBOLS[name][1])
            await asyncio.sleep(0.5 / times)

    async def _blow(self, weather: Weather) -> None:
        """Let a weather come and go."""
        network = self.loop.network
        await asyncio.sleep(weather.at_s)
        addresses = set(network.listeners)
        match weather.what:
            case "black hole" | "one-way black hole":
                network.unreachable |= addresses
                network.black_hole(towards_servers=weather.what == "black hole")
            case "refused" | "reset" | "unreachable" | "no name":
                for transport in [one for one in network.transports if one.is_server]:
                    transport.abort()
                if weather.what == "refused":
                    network.refuse |= addresses
                elif weather.what == "unreachable":
                    network.unreachable |= addresses
                elif weather.what == "no name":
                    network.names.pop(HOST, None)
            case "slow":
                network.latency_s *= 100
        await asyncio.sleep(weather.for_s)
        network.refuse.clear()
        network.unreachable.clear()
        network.names[HOST] = "127.0.0.1"
        if weather.what == "slow":
            network.latency_s /= 100
        network.black_hole(False)


def new_fold() -> tuple[Fold, Listener]:
    """Make a fold, and the strategy in it that hears all."""
    strategy = listener(Tick, Quote, Gap, FeedStatus, late=True)
    return build_fold(Config(store=StoreConfig(ring_rows=512, block_rows=512)), [strategy], views=VIEWS), strategy


def _open(folder: Path, created: int) -> Journal:
    config = Config().journal
    return Journal.open(
        folder, segment_bytes=1 << 20, fsync="never", fsync_ms=config.fsync_ms, retention_bytes=1 << 30, created=created
    )


def play(scenario: Scenario, seed: int = 0, journal: Path | None = None) -> Outcome:
    """Run a scenario to its end, with all that chance decides drawn from `seed`."""
    with structlog.testing.capture_logs() as log:
        outcome = run(lambda loop: World(loop, scenario, journal).live(), seed=seed)
    outcome.log = list(log)
    return outcome
