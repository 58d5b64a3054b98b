"""Memory of a fold with all built-in views: 1, 100 and 1,000 symbols after twenty minutes of market time, two ticks a second each.

By then the 15-minute windows are full and the rings of the online store have wrapped. Each count of symbols is a process of its own,
which reads its resident memory from /proc. The configuration is the default one; no digest, no strategy.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Line, require
from engine.block import IS_TRADE, Block
from engine.config import Config
from engine.fold import Fold
from replay.driver import build_fold

MINUTES, TICKS_A_SECOND = 20, 2
BLOCK_ROWS = 1 << 16
START_NS = 1_700_000_000_000_000_000 // 60_000_000_000 * 60_000_000_000
STEP_NS = 1_000_000_000 // TICKS_A_SECOND
EXCHANGE = "binance"
MIB = 1 << 20
WANTED_MIB = 1536.0


def blocks(symbols: int, steps: int) -> Iterator[Block]:
    """Yield ticks of all symbols in turn, a step of half a second after the other; prices are random walks."""
    random = np.random.default_rng(symbols)
    last = np.log(random.uniform(0.5, 50_000.0, symbols))
    a_block = max(1, BLOCK_ROWS // symbols)
    for first in range(0, steps, a_block):
        count = min(a_block, steps - first)
        walk = last + np.cumsum(random.normal(0.0, 1e-4, (count, symbols)), axis=0)
        last = walk[-1]
        step = np.repeat(np.arange(first, first + count), symbols)
        which = np.tile(np.arange(symbols), count)
        timestamp = START_NS + step * STEP_NS + which * (STEP_NS // (2 * symbols))
        yield Block(
            key=which.astype(np.int32),
            kind=np.full(len(which), IS_TRADE, np.uint8),
            timestamp=timestamp,
            received=timestamp + 3_000_000,
            price=np.exp(walk).ravel(),
            volume=random.lognormal(0.0, 1.0, len(which)),
            side=random.choice(np.array([-1, 1], np.int8), len(which)),
            ask=np.empty(0),
            ask_volume=np.empty(0),
            trade_id=step + 1,
            late=np.zeros(len(which), np.uint8),
        )


def status(field: str) -> float:
    """Return a line of /proc/self/status, such as VmRSS, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return math.nan


def feed(symbols: int) -> dict[str, float]:
    """Fold everything in this process; return what it took."""
    fold = build_fold(Config(), [])
    names = [f"S{number:04}/USDT" for number in range(symbols)]
    for name in names:
        fold.keys.code((EXCHANGE, name))
    steps = MINUTES * 60 * TICKS_A_SECOND
    before, cpu, wall, lowest = status("VmRSS"), 0, 0, []
    for block in blocks(symbols, steps):
        lowest.append(block.price[block.key == symbols // 2])
        began, used = time.perf_counter_ns(), time.process_time_ns()
        fold.push(block)
        cpu, wall = cpu + time.process_time_ns() - used, wall + time.perf_counter_ns() - began
    resident, highest = status("VmRSS"), status("VmHWM")
    check(fold, names, steps, np.concatenate(lowest))
    ticks = symbols * steps
    return {
        "before_mib": before,
        "resident_mib": resident,
        "highest_mib": highest,
        "store_mib": fold.features.memory() / MIB,
        "cpu_ns": cpu / ticks,
        "wall_ns": wall / ticks,
    }


def check(fold: Fold, names: list[str], steps: int, price: Any) -> None:
    """Every tick was folded, the windows are full, and the range of one symbol's last 15 minutes is that of its prices."""
    require(fold.folded == len(names) * steps, f"{fold.folded} ticks were folded, expected {len(names) * steps}")
    for name in (names[0], names[len(names) // 2], names[-1]):
        lane = fold.features.lane((EXCHANGE, name))
        emitted = lane.emitted(fold.features.program.places["derived"].scope)
        is_ready = lane.ready_from("derived") < emitted
        require(is_ready, f"{name}: the view `derived` is not ready after {MINUTES} minutes")
    columns = fold.features.program.places["derived"].columns
    newest = fold.features.lane((EXCHANGE, names[len(names) // 2])).values("derived", 1)
    window = price[-15 * 60 * TICKS_A_SECOND :]
    for feature, expected in (("support_15m", window.min()), ("resistance_15m", window.max())):
        found = newest[columns[feature], 0]
        require(found == expected, f"{feature} is {found}, expected {expected}")


def in_a_process(symbols: int) -> dict[str, float]:
    """Run `feed` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.bench_memory", "--feed", str(symbols)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"{symbols} symbols: {done.stderr.strip()[-500:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> int:
    options = harness.arguments(__doc__)
    require(Path("/proc/self/status").exists(), "this benchmark reads /proc/self/status, which only Linux has")
    repetitions = 1 if options.quick else 5
    report = harness.Report(
        "bench_memory",
        f"Resident memory after {MINUTES} minutes at {TICKS_A_SECOND} ticks a second and symbol, all built-in views.",
        options,
    )
    counts = (1, 100, 1000)
    found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    in_a_process(1)  # compiles, where that was not done before
    for repetition in range(1, repetitions + 1):
        for count in counts:
            took = in_a_process(count)
            found[count].append(took)
            harness.say(f"  {repetition}/{repetitions} {count:,} symbols: {took['resident_mib']:,.0f} MiB resident")
    for count in counts:
        runs = found[count]
        resident = Line(
            f"{count:,} symbol{'s' * (count > 1)}: resident at the end (VmRSS)",
            "MiB",
            [run["resident_mib"] for run in runs],
        )
        highest = Line(
            f"{count:,} symbol{'s' * (count > 1)}: highest (VmHWM)", "MiB", [run["highest_mib"] for run in runs]
        )
        if count == counts[-1]:
            highest.wanted = f"below {WANTED_MIB:,.0f} MiB"
            highest.met = max(highest.values) < WANTED_MIB
        each = [(run["resident_mib"] - run["before_mib"]) / count for run in runs]
        report.add(
            resident,
            highest,
            Line(f"{count:,} symbol{'s' * (count > 1)}: a symbol, above the fold without any", "MiB", each),
            Line(f"{count:,} symbol{'s' * (count > 1)}: arenas and rows by the store's own count", "MiB", [run["store_mib"] for run in runs]),
            Line(
                f"{count:,} symbol{'s' * (count > 1)}: folding", "ns CPU a tick", [r["cpu_ns"] for r in runs], [r["wall_ns"] for r in runs],
                per_second=True,
            ),
        )  # fmt: skip
    report.add(
        Line("fold without a symbol, imports and program loaded", "MiB", [run["before_mib"] for run in found[1]])
    )
    report.note(
        "Through `Fold.push` in blocks of about 65,536 rows, symbols in turn; nobody listens, so no event is built. No digest."
    )
    report.note(
        "VmHWM holds the block being folded and what is made of it; VmRSS what is left at the end. store.ring_rows is the default."
    )
    return report.finish()


if __name__ == "__main__":
    if "--feed" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--feed", type=int, required=True)
        print(json.dumps(feed(parser.parse_args().feed)))
    else:
        harness.run(main)
