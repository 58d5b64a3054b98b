"""The event path: ticks a CPU second from a block of inputs to a strategy's handler, beside NautilusTrader in the same run.

Ours, measured: ingress (ids, prices, times), numbering, the compiled views, the rows of the online store, building and ordering of
events, bus, supervisor, handler. Not measured: building the fold, compiling, the blocks in memory; no journal, no digest unless a
line says so. Ticks are one symbol's, 20 a second on average.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from importlib import util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq

from benchmarks import harness
from benchmarks.harness import Case, Run, require
from benchmarks.synthetic import EXCHANGE, SYMBOL, MemorySource, Ticks, walk
from engine.block import Block, Keys
from engine.config import Config
from engine.events import FeatureEvent, Signal, Tick
from engine.fold import Fold
from replay.driver import build_fold, drive
from replay.sources import Columns, Source, open_source
from store import compute
from store.builtin import builtin_views, resolve
from strategies import Strategy

ALL = tuple(builtin_views())
ON_TICKS = ("market", "technical", "derived")
SIDES = {1: "buy", -1: "sell"}


class EmptyOnTick(Strategy):
    """Hears every trade and does nothing."""

    subscribes: ClassVar[list[str | type]] = [Tick]

    def on_tick(self, event: Tick) -> None:
        pass


class EmptyOnAll(EmptyOnTick):
    """Hears every trade and every row of the five built-in views, and does nothing."""

    subscribes: ClassVar[list[str | type]] = [Tick, *ALL]

    def on_features(self, event: FeatureEvent) -> None:
        pass


class EmptyOnSeconds(Strategy):
    """Hears the rows of `technical_1s` and does nothing."""

    subscribes: ClassVar[list[str | type]] = ["technical_1s"]

    def on_features(self, event: FeatureEvent) -> None:
        pass


class Counting(Strategy):
    """What the check before the measurement uses: counts what it hears, keeps the newest values."""

    subscribes: ClassVar[list[str | type]] = [Tick, *ALL]

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.total = 0.0
        self.newest: dict[str, dict[str, float]] = {}

    def on_tick(self, event: Tick) -> Iterable[Signal] | None:
        self.count["tick"] = self.count.get("tick", 0) + 1
        self.total += event.price
        return None

    def on_features(self, event: FeatureEvent) -> Iterable[Signal] | None:
        self.count[event.view] = self.count.get(event.view, 0) + 1
        self.newest[event.view] = dict(event.items())
        return None


class Replay:
    """Folds a source with a strategy; each repetition has a fold of its own."""

    def __init__(
        self,
        strategy: type[Strategy],
        views: Sequence[str],
        ticks: Ticks,
        source: Callable[[], Source],
        *,
        digests: bool = False,
        models: bool = False,
    ) -> None:
        self.strategy, self.views, self.ticks, self.source, self.digests = strategy, views, ticks, source, digests
        self.models = models
        self.fold: Fold | None = None

    def build(self) -> Fold:
        # What is measured beside peers has no models, as they have none.
        self.fold = build_fold(
            Config(), [self.strategy()], views=resolve(tuple(self.views)), digests=self.digests,
            models=None if self.models else (),
        )  # fmt: skip
        return self.fold

    def prepare(self) -> Run:
        fold, source = self.build(), self.source()
        return lambda: drive(fold, [source])

    def check(self) -> None:
        """Nothing was refused, and nobody failed."""
        assert self.fold is not None
        require(
            self.fold.folded == len(self.ticks), f"{self.fold.folded} ticks were folded, expected {len(self.ticks)}"
        )
        for supervised in self.fold.supervisor.actors.values():
            require(not supervised.failed, f"strategy {supervised.name} failed {supervised.failed} times")


class OneByOne(Replay):
    """Pushes one tick at a time, as a live feed does."""

    def __init__(self, strategy: type[Strategy], ticks: Ticks, *, decoded: bool) -> None:
        super().__init__(strategy, ALL, ticks, lambda: MemorySource([]))
        self.decoded = decoded
        self.blocks = [] if decoded else ticks.blocks(Keys(), rows=1)
        self.events = events(ticks) if decoded else []

    def prepare(self) -> Run:
        fold = self.build()
        fold.keys.code((EXCHANGE, SYMBOL))
        push = fold.push

        def blocks() -> None:
            for block in self.blocks:
                push(block)

        def decoded() -> None:
            keys = fold.keys
            for event in self.events:
                columns = Columns()
                columns.add(event, keys, 0)
                push(columns.block())

        return decoded if self.decoded else blocks


def events(ticks: Ticks) -> list[Tick]:
    """Return the ticks as a decoder would."""
    columns = (ticks.price, ticks.volume, ticks.side, ticks.timestamp, ticks.received, ticks.trade_id)
    return [
        Tick(EXCHANGE, SYMBOL, price, volume, "buy" if side > 0 else "sell", timestamp, received, number)
        for price, volume, side, timestamp, received, number in zip(*(c.tolist() for c in columns), strict=True)
    ]


def check_ours(ticks: Ticks, folder: Path) -> dict[str, float]:
    """Compare what a strategy hears with what `compute` gives, from blocks, one tick at a time and Parquet; return `technical`."""
    table = ticks.table()
    results = {view: compute(view, table) for view in ALL}
    ways: dict[str, Replay] = {
        "blocks": Replay(Counting, ALL, ticks, lambda: MemorySource(ticks.blocks(Keys()))),
        "Parquet": Replay(Counting, ALL, ticks, lambda: open_source(_parquet(ticks, folder))),
        "blocks of one": OneByOne(Counting, ticks, decoded=False),
        "decoded ticks": OneByOne(Counting, ticks, decoded=True),
    }
    newest: dict[str, float] = {}
    for way, replay in ways.items():
        replay.prepare()()
        replay.check()
        assert replay.fold is not None
        heard: Any = replay.fold.supervisor.actors["counting"].actor
        require(heard.count["tick"] == len(ticks), f"{way}: {heard.count['tick']} ticks heard, expected {len(ticks)}")
        require(heard.total == sum(ticks.price.tolist()), f"{way}: the prices that were heard are not those pushed")
        for view, result in results.items():
            require(
                heard.count.get(view, 0) == result.num_rows,
                f"{way}: {heard.count.get(view, 0)} rows of {view} heard, expected {result.num_rows}",
            )
            if result.num_rows:
                values = [result[name][-1].as_py() for name in heard.newest[view]]
                same = np.array_equal(list(heard.newest[view].values()), values, equal_nan=True)
                require(same, f"{way}: the newest row of {view} is not the one that compute gives, bit by bit")
        newest = heard.newest["technical"]
    return newest


def _parquet(ticks: Ticks, folder: Path) -> Path:
    path = folder / f"ticks_{len(ticks)}.parquet"
    if not path.exists():
        pq.write_table(ticks.table(), path)
    return path


def main() -> int:
    options = harness.arguments(__doc__)
    counts = (50_000, 200_000, 5_000, 3) if options.quick else (200_000, 1_000_000, 50_000, 21)
    with tempfile.TemporaryDirectory(prefix="tickfold-bench-") as folder:
        return measure(options, Path(folder), *counts)


def measure(options: Any, folder: Path, count: int, many: int, few: int, repetitions: int) -> int:
    report = harness.Report(
        "bench_events", f"Ticks through the engine to a strategy: {count:,} of one symbol, one thread.", options
    )
    every = walk(many)
    ticks, start = every.head(count), every.head(few)
    has_peer = util.find_spec("nautilus_trader") is not None
    harness.say("comparing outputs")
    check_ours(start, folder)
    peers: dict[str, Any] = {}
    if has_peer:
        from benchmarks import nautilus

        objects = nautilus.trade_ticks(ticks)
        expected = compute("technical", ticks.table()).slice(count - 1).to_pylist()[0]
        nautilus.check(ticks, objects, expected)
        peers = {
            "NautilusTrader, empty on_trade_tick": nautilus.Backtest(nautilus.Empty, objects),
            "NautilusTrader, RSI x3, MACD, signal, Bollinger, volume SMA, EMA": nautilus.Backtest(
                nautilus.Indicators, objects
            ),
        }

    def memory(data: Ticks) -> Callable[[], Source]:
        blocks: list[Block] = data.blocks(Keys())
        return lambda: MemorySource(blocks)

    def parquet(data: Ticks) -> Callable[[], Source]:
        path = _parquet(data, folder)
        return lambda: open_source(path)

    short, long, short_file, long_file = memory(ticks), memory(every), parquet(ticks), parquet(every)
    seconds = ("technical_1s",)
    ours: dict[str, tuple[Replay, float | None]] = {
        "1. empty on_tick, view market": (Replay(EmptyOnTick, ("market",), ticks, short), 500_000),
        "1. the same from Parquet": (Replay(EmptyOnTick, ("market",), ticks, short_file), None),
        "2. empty on_tick, all views computed": (Replay(EmptyOnTick, ALL, ticks, short), 300_000),
        "2. the same from Parquet": (Replay(EmptyOnTick, ALL, ticks, short_file), None),
        "2. the same with digests": (Replay(EmptyOnTick, ALL, ticks, short, digests=True), None),
        "2. the same with the two built-in models": (Replay(EmptyOnTick, ALL, ticks, short, models=True), None),
        "3. empty on_tick and on_features of five views": (Replay(EmptyOnAll, ALL, ticks, short), None),
        "4. empty on_features of technical_1s, only that view": (
            Replay(EmptyOnSeconds, seconds, every, long),
            3_000_000,
        ),
        "4. the same from Parquet": (Replay(EmptyOnSeconds, seconds, every, long_file), None),
        "4. the same, all views computed": (Replay(EmptyOnSeconds, ALL, every, long), None),
        "5. one tick a push, empty on_tick, all views": (OneByOne(EmptyOnTick, start, decoded=False), None),
        "5. the same from Tick objects": (OneByOne(EmptyOnTick, start, decoded=True), None),
    }
    cases = [Case(name, len(made.ticks), made.prepare, made.check) for name, (made, _) in ours.items()]
    cases += [Case(name, count, made.prepare, made.close) for name, made in peers.items()]
    found = harness.interleaved(cases, repetitions)

    report.add(*(harness.rate_line(name, found[name], wanted) for name, (_, wanted) in ours.items()))
    report.add(*(harness.rate_line(name, found[name]) for name in peers))
    if peers:
        empty, indicators = peers
        names = list(ours)
        pairs = [(names[0], empty), (names[2], empty), (names[2], indicators), (names[5], indicators)]
        pairs += [(names[9], empty), (names[9], indicators), (names[10], indicators)]
        report.add(*(harness.ratio_line(f"{a} / {b}", found[b], found[a]) for a, b in pairs))
    else:
        report.note("nautilus_trader is not installed here: `make bench` installs it into .venv-bench.")
    report.note(
        "Ours includes ingress, numbering, compiled views, rows of the store, events, bus, supervisor and handler; blocks of 65,536 rows "
        "lie in memory, or are read from Parquet within the measured part. Excluded: building the fold; journal and report."
    )
    report.note(
        f"Lines 4 run over {many:,} ticks, lines 5 over {few:,}. Line 5 pushes blocks of one that lie in memory; `from Tick objects` builds "
        "each block of one from a decoded Tick within the measured part."
    )
    report.note(
        "All views: market 8, technical 11, technical_1s 11, technical_1m 11, derived 9 columns. Line 3 delivers one Tick and three "
        "FeatureEvents a tick, and the bars."
    )
    report.note(
        "NautilusTrader: `BacktestEngine.run(streaming=True)` on prebuilt TradeTicks, logging bypassed: clock, simulated exchange, data "
        "engine, cache, message bus, strategy. Building the objects, add_data and the analysis after the run are excluded. It has a matching "
        "engine in this path, which tickfold has not; tickfold computes 50 columns where it computes none or 11."
    )
    return report.finish()


if __name__ == "__main__":
    harness.run(main)
