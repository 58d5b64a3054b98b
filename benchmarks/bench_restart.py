"""A restart of the daemon: from the spawn of the process until it is ready, by how much of the journal it has to fold again.

Journals of 1 and 3 million ticks without a snapshot, 3 million with the newest snapshot half-way, and an empty folder. The daemon is the
real one with its default configuration, programs compiled before; it has no feed, but for one line, where it is `make run`'s.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Line, WrongOutputError, require
from benchmarks.live import DAEMONS, Daemon, Settings, Usage, ours
from benchmarks.sender import SYMBOLS
from engine.app.journaled import kept_in
from engine.block import IS_TRADE, Block
from engine.config import Config
from replay.driver import build_fold
from store.folder import DataFolder
from strategies import load

TICKS_A_SECOND = 800
STEP_NS = 1_000_000_000 // TICKS_A_SECOND
BATCH = 512
WANTED_S = 2.0
LOG_S = 10.0
QUIET: Settings = {"feeds": {"run": []}, "snapshots": {"every_s": 86_400.0}}


@dataclass
class Folder:
    """A data folder to restart over."""

    name: str
    ticks: int
    snapshot_at: int | None = None
    settings: Settings = field(default_factory=lambda: QUIET)
    path: Path | None = None
    digests: dict[str, str] = field(default_factory=dict)
    """What the fold had when the folder was made."""
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    folding_s: list[float] = field(default_factory=list)
    """What the daemon says that recovering took."""

    @property
    def to_fold(self) -> int:
        return self.ticks - (self.snapshot_at or 0)


def block(first: int, count: int, start_ns: int, random: np.random.Generator) -> Block:
    """Return trades of four symbols in turn."""
    index = np.arange(first, first + count)
    key = (index % len(SYMBOLS)).astype(np.int32)
    timestamp = start_ns + index * STEP_NS
    return Block(
        key=key,
        kind=np.full(count, IS_TRADE, np.uint8),
        timestamp=timestamp,
        received=timestamp + 3_000_000,
        price=np.round(60_000.0 + 2_000.0 * np.sin(index / 50_000.0) + random.normal(0.0, 5.0, count), 2),
        volume=np.maximum(np.round(random.lognormal(-4.0, 1.2, count), 5), 1e-5),
        side=np.where(random.random(count) < 0.5, 1, -1).astype(np.int8),
        ask=np.full(count, np.nan),
        ask_volume=np.full(count, np.nan),
        trade_id=index // len(SYMBOLS) + 1,
        late=np.zeros(count, np.uint8),
    )


def fill(path: Path, ticks: int, start_ns: int) -> dict[str, str]:
    """Fill a data folder as a daemon would have, the same for the same arguments; return the digests. A snapshot stands at its end."""
    config = Config()
    strategies = [load(name, None) for name in config.strategies.run]
    fold = build_fold(config, strategies, digests=True)
    for symbol in ours():
        fold.keys.code(("binance", symbol))
    random = np.random.default_rng(20241123)
    with kept_in(path, config, fold, strategies):
        for first in range(0, ticks, BATCH):
            fold.push(block(first, min(BATCH, ticks - first), start_ns, random))
    return {kind: digests.hexdigest() for kind, digests in fold.digests.items()}


def make(made: Folder, path: Path) -> None:
    """Make the folder to restart over."""
    start_ns = time.time_ns() - (made.ticks + TICKS_A_SECOND) * STEP_NS
    made.digests = fill(path, made.ticks, start_ns)
    made.path = path
    kept = DataFolder(path).snapshots
    shutil.rmtree(kept)
    if made.snapshot_at is not None:
        # The same inputs up to there: its snapshot is one of the whole's.
        part = path.with_name(f"{path.name}-part")
        fill(part, made.snapshot_at, start_ns)
        shutil.move(DataFolder(part).snapshots, kept)
        shutil.rmtree(part)


def recovered(log: Path) -> dict[str, Any]:
    """Wait for what the daemon says of its recovery: a thread writes the log."""
    deadline = time.monotonic() + LOG_S
    while time.monotonic() < deadline:
        for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
            found: dict[str, Any] = json.loads(line)
            if found["event"] == "recovered":
                return found
        time.sleep(0.05)
    raise WrongOutputError(f"{log} does not say what was recovered")


def restart(made: Folder, path: Path) -> None:
    """Start a daemon over a copy of the folder, check what it has become, and kill it."""
    if made.path is not None:
        shutil.copytree(made.path, path)
    # The exchange of `make run` is a child of the daemon, and starts meanwhile on the other core.
    with Daemon(path, made.settings, core=DAEMONS if made.settings is QUIET else None) as daemon:
        used: Usage = daemon.usage()
        made.wall_s.append(daemon.ready_s)
        made.cpu_s.append(used.cpu_s)
        if made.ticks:
            health = daemon.get("/health")
            require(
                health["digest"] == made.digests, f"{made.name}: the digests after the restart are not those before"
            )
            require(daemon.folded() == made.ticks, f"{made.name}: {daemon.folded()} ticks, expected {made.ticks}")
            said = recovered(path / "log.jsonl")
            require(
                said["inputs"] in (made.to_fold, made.to_fold + 1),
                f"{made.name}: it folded {said['inputs']} inputs again",
            )
            made.folding_s.append(said["seconds"])
    shutil.rmtree(path)


def main() -> int:
    options: argparse.Namespace = harness.arguments(__doc__ or "")
    rounds, million = (1, 100_000) if options.quick else (5, 1_000_000)
    report = harness.Report("bench_restart", "From the spawn of the daemon until it is ready.", options)
    folders = [
        Folder("an empty folder", 0),
        Folder("an empty folder, feed and exchange of `make run`", 0, settings={"feeds": {"run": ["replay"]}}),
        Folder(f"{million:,} ticks, no snapshot", million),
        Folder(f"{3 * million:,} ticks, no snapshot", 3 * million),
        Folder(
            f"{3 * million:,} ticks, the newest snapshot half-way",
            3 * million,
            1_500_160 if not options.quick else 150_016,
        ),
    ]
    with tempfile.TemporaryDirectory(prefix="tickfold-bench-") as name:
        base = Path(name)
        for number, folder in enumerate(folders):
            if folder.ticks:
                harness.say(f"  making {folder.name}")
                make(folder, base / f"made-{number}")
        os.sync()  # else the disk would be busy with them while they are read
        for number in range(rounds + 1):
            for folder in folders:
                restart(folder, base / "restarted")
                harness.say(f"  {number or 'warm-up'}/{rounds} {folder.name}: ready after {folder.wall_s[-1]:.2f} s")
                if not number:  # the first round brings files into memory
                    folder.wall_s, folder.cpu_s, folder.folding_s = [], [], []
    for folder in folders:
        ready = Line(f"{folder.name}: spawn to ready", "s", folder.wall_s)
        if not folder.ticks:
            ready.wanted, ready.met = f"below {WANTED_S:g} s", float(np.median(folder.wall_s)) < WANTED_S
        report.add(ready, Line(f"{folder.name}: CPU of the process", "s CPU", folder.cpu_s))
        if folder.ticks:
            each = [seconds / folder.to_fold * 1e6 for seconds in folder.folding_s]
            line = Line(f"{folder.name}: recovering, a million of the {folder.to_fold:,} that are folded", "s", each)
            line.wanted, line.met = f"below {WANTED_S:g} s", float(np.median(each)) < WANTED_S
            above = [
                (one - nothing) / folder.to_fold * 1e6
                for one, nothing in zip(folder.cpu_s, folders[0].cpu_s, strict=True)
            ]
            report.add(line, Line(f"{folder.name}: CPU a million, above an empty folder", "s CPU", above))
    report.note(
        "Ready is the line that the daemon says once it would fold the next input. The digests after each restart are those before it."
    )
    report.note(
        "Recovering is what the daemon says of it: proving the journal's records, the newest snapshot, folding what follows. The daemon, with all "
        "its threads, has one core, but for the line with the exchange. Files are in memory; programs are compiled."
    )
    return report.finish()


if __name__ == "__main__":
    harness.run(main)
