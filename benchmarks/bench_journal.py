"""The journal: what it costs to write a tick, alone and as a part of the daemon.

Alone: `Journal.append` of blocks that went through the ingress before, into segments of the default size. In the daemon: the real one at
50,000 ticks a second over a websocket, beside the same daemon without a journal.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.harness import Case, Line, Run, Timing, rate_line, require
from benchmarks.live import Daemon, Sender, settings
from benchmarks.synthetic import walk
from engine.block import Keys
from engine.config import Config
from engine.ingress import Admitted, Ingress
from store.journal import Fsync, Journal
from store.journal_reader import read

BATCHES = (1, 8, 32, 128, 512)
POLICIES: tuple[Fsync, ...] = ("interval", "never")
RATE = 50_000
WARM_UP_S = 1.0
WANTED_NS = 1_000.0
WANTED_AT = "append 8 at a time, fsync interval"
"""At 50,000 ticks/s the daemon takes more than that at a time: its latency times the rate."""


def open_journal(folder: Path, fsync: Fsync) -> Journal:
    config = Config().journal
    return Journal.open(
        folder,
        segment_bytes=config.segment_mib << 20,
        fsync=fsync,
        fsync_ms=config.fsync_ms,
        retention_bytes=1 << 40,
        created=1,
    )


def admitted(rows: int, batch: int) -> tuple[Keys, list[Admitted]]:
    """Return ticks as the ingress lets them through, `batch` at a time."""
    keys, ticks = Keys(), walk(rows)
    blocks = ticks.blocks(keys, batch)
    ingress = Ingress(max_ahead_ns=10_000_000_000)
    ingress.open([keys[0][0]])
    return keys, [ingress.admit(block) for block in blocks]


class Appending:
    """Blocks of one size that are appended to a new journal by each repetition."""

    def __init__(self, folder: Path, fsync: Fsync, rows: int, batch: int) -> None:
        self.rows = rows
        self._folder = folder
        self._fsync = fsync
        self._keys, self._blocks = admitted(rows, batch)
        self._journal: Journal | None = None

    def prepare(self) -> Run:
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        journal = self._journal = open_journal(self._folder, self._fsync)
        keys, blocks, append = self._keys, self._blocks, journal.append

        def run() -> None:
            for block in blocks:
                append(block, keys)

        return run

    def check(self) -> None:
        """What is in the journal is what was appended."""
        self.close()
        found = [item for item in read(self._folder, Keys()) if isinstance(item, Admitted)]
        for name in ("timestamp", "price", "volume", "side", "trade_id"):
            written = np.concatenate([getattr(item.block, name) for item in found])
            expected = np.concatenate([getattr(item.block, name) for item in self._blocks])
            require(np.array_equal(written, expected), f"the journal's {name} differs from what was appended")
        sequences = np.concatenate([item.sequence for item in found])
        require(np.array_equal(sequences, np.arange(1, self.rows + 1)), "the journal's sequences are not 1, 2, 3, ...")

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def alone(report: harness.Report, folder: Path, quick: bool) -> None:
    """Measure appends."""
    repetitions = 2 if quick else 11
    cases, appending = [], []
    for batch in BATCHES:
        rows = (20_000 if quick else 100_000) if batch < 32 else (100_000 if quick else 1_000_000)
        for fsync in POLICIES:
            one = Appending(folder / f"{fsync}-{batch}", fsync, rows, batch)
            appending.append(one)
            cases.append(Case(f"append {batch} at a time, fsync {fsync}", rows, one.prepare, one.check))
    found = harness.interleaved(cases, repetitions)
    for case in cases:
        line = rate_line(case.name, found[case.name])
        if case.name == WANTED_AT:
            line.wanted, line.met = f"below {WANTED_NS:,.0f} ns", float(np.median(line.values)) < WANTED_NS
        report.add(line)
    report.note(
        "append: a loop over blocks that lie in memory, admitted before; CPU of all threads, the one that goes to the disk included. Rows: 1,000,000 a "
        "repetition, 100,000 where batches are of 1 or 8. What was written is read again and compared after each repetition."
    )


def in_the_daemon(report: harness.Report, quick: bool) -> None:
    """Measure the daemon with and without its journal."""
    rounds, seconds = (1, 2.0) if quick else (7, 4.0)
    modules = {"with": "engine", "without": "benchmarks.without_journal"}
    found: dict[str, list[Timing]] = {name: [] for name in modules}
    latency: dict[str, list[tuple[float, float]]] = {name: [] for name in modules}
    for number in range(1, rounds + 1):
        for name in sorted(modules, reverse=number % 2 == 0):
            took, quantiles = daemon_at_rate(modules[name], seconds)
            found[name].append(took)
            latency[name].append(quantiles)
            harness.say(f"  {number}/{rounds} daemon {name} a journal: {took.cpu_ns:,.0f} ns CPU a tick")
    for name, timings in found.items():
        report.add(
            Line(f"daemon {name} a journal, {RATE:,} ticks/s", "ns CPU a tick", [timing.cpu_ns for timing in timings])
        )
    for at, share in enumerate(("p50", "p99")):
        for name, pairs in latency.items():
            line = f"daemon {name} a journal, {RATE:,} ticks/s: received to end of fold, {share}"
            report.add(Line(line, "us", [one[at] for one in pairs]))
    report.note(
        f"daemon: {rounds} rounds of {seconds:g} s, a fresh daemon each, after {WARM_UP_S:g} s that are left out; its CPU time, all threads, fsync every second. "
        "The one without a journal takes no snapshots; none was due in that time. A loop that is "
        "always busy takes smaller batches when each is cheaper, so CPU a tick may not show what the journal takes, where latency does."
    )


def daemon_at_rate(module: str, seconds: float) -> tuple[Timing, tuple[float, float]]:
    """Return the CPU time of a daemon a tick and the wall time; p50 and p99 from `received` to the end of the fold, us."""
    warm, count = int(WARM_UP_S * RATE), int(seconds * RATE)
    with (
        tempfile.TemporaryDirectory(prefix="tickfold-bench-") as name,
        Sender() as sender,
        Daemon(Path(name) / "data", settings(sender), module=module) as daemon,
    ):
        sender.do("accept")
        sender.do("pace", rate=RATE, count=warm)
        daemon.wait_for(warm)
        before = daemon.usage()
        sent = sender.do("pace", rate=RATE, count=count)
        require(sent["count"] == count, f"the daemon hung up after {sent['count']} of {count} frames")
        daemon.wait_for(warm + count)
        after = daemon.usage()
        daemon.check_prices(warm + count - 1, sender.symbols)
        health = daemon.get("/health")
        state, own = health["parts"]["journal"], health["latency_ns"]
        written, is_kept = state["bytes_written"], module == "engine"
        require((written > 64 * count) == is_kept, f"{module}: {written} bytes were written to the journal")
        took = Timing((after.cpu_s - before.cpu_s) * 1e9 / count, (after.at_ns - before.at_ns) / count)
        return took, (own["p50"] / 1e3, own["p99"] / 1e3)


def main() -> int:
    options: argparse.Namespace = harness.arguments(__doc__ or "")
    report = harness.Report("bench_journal", "What the journal costs a tick.", options)
    with tempfile.TemporaryDirectory(prefix="tickfold-bench-") as name:
        alone(report, Path(name), options.quick)
    in_the_daemon(report, options.quick)
    return report.finish()


if __name__ == "__main__":
    harness.run(main)
