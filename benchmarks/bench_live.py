"""The live daemon: from a frame on a real websocket to a strategy, how many frames one core takes, and whether its memory grows.

A sender in another process, on another core, writes real Binance frames to a loopback socket; the daemon is the real one, with its
default configuration: five views, two strategies, journal with fsync by interval, digests, HTTP. A third strategy notes when it hears
of each trade (on_tick) and of the last row of features that it brings (on_features); both clocks are the system's monotonic one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import harness
from benchmarks.harness import Line, Timing, rate_line, require
from benchmarks.live import (
    CORES,
    DAEMONS,
    NS_PER_S,
    NS_PER_US,
    ROOT,
    US_PER_S,
    Daemon,
    Heard,
    Latencies,
    Sender,
    Usage,
    heard,
    pin,
    settings,
    with_stopwatch,
)  # fmt: skip
from benchmarks.stages import STAGES

RATES = (1_000, 10_000, 50_000)
WARM_UP_S = 2.0
WANTED_RATE, WANTED_US = 10_000, 1_000.0
WANTED_PER_S = 100_000
WANTED_MIB, PER_TICKS = 1.0, 10_000_000
MARKET_TICKS_A_SECOND = 800
"""Of the flood's own time, all symbols: windows of 15 minutes hold 72,000 to 360,000 trades."""
WINDOWS_FULL = MARKET_TICKS_A_SECOND * 900
LOOK_S = 0.5
SNAPSHOTS_S = 12.0
"""Between snapshots of the flood: the first keeps memory for the next, and is to lie in what is left out."""


@dataclass
class Paced:
    """Rounds at one rate."""

    phases: list[Heard] = field(default_factory=list)
    own: list[dict[str, float]] = field(default_factory=list)
    """What the daemon says of its latency, ns."""
    cpu_us: list[float] = field(default_factory=list)
    """CPU time of the daemon a tick."""


def paced(rate: int, seconds: float, found: Paced) -> None:
    """Run a fresh daemon at a rate; a snapshot is taken half-way."""
    warm, count = int(WARM_UP_S * rate), int(seconds * rate)
    with tempfile.TemporaryDirectory(prefix="tickfold-bench-") as name:
        folder, rows = Path(name), warm + count
        with Sender(stamps=folder / "sent", rows=rows) as sender:
            configured = with_stopwatch(settings(sender), folder / "heard", rows, sender.symbols)
            with Daemon(folder / "data", configured) as daemon:
                sender.do("accept")
                before = daemon.usage()
                sender.begin("pace", rate=rate, count=rows)
                time.sleep(WARM_UP_S + seconds / 2)
                daemon.post("/commands", {"verb": "snapshot"})
                sent = sender.answer()
                require(sent["count"] == rows, f"the daemon hung up after {sent['count']} of {rows} frames")
                daemon.wait_for(rows)
                found.cpu_us.append((daemon.usage().cpu_s - before.cpu_s) / rows * US_PER_S)
                daemon.check_prices(rows - 1, sender.symbols)
                found.own.append(daemon.get("/health")["latency_ns"])
                result = daemon.stop()
                require(result["inputs"] == rows, f"{result['inputs']} inputs are in the digest, expected {rows}")
                found.phases.append(heard(sender, folder / "heard", warm, count))


def latency_lines(report: harness.Report, quick: bool) -> None:
    """Measure the way to the strategy at each rate, interleaved."""
    rounds, seconds = (1, 3.0) if quick else (3, 8.0)
    rates: dict[int, Paced] = {rate: Paced() for rate in RATES}
    for number in range(1, rounds + 1):
        for rate, found in rates.items():
            paced(rate, seconds, found)
            phase = found.phases[-1]
            p50, p99 = np.quantile(phase.on_features - phase.sent, (0.5, 0.99)) / NS_PER_US
            harness.say(f"  {number}/{rounds} {rate:,} ticks/s: to on_features p50 {p50:,.0f} us, p99 {p99:,.0f} us")
    for rate, found in rates.items():
        name = f"{rate:,} ticks/s"
        to_tick = Latencies.of(f"{name}: sent to on_tick", [phase.on_tick - phase.sent for phase in found.phases])
        to_row = Latencies.of(
            f"{name}: sent to on_features", [phase.on_features - phase.sent for phase in found.phases]
        )
        if rate == WANTED_RATE:
            for line in (to_tick, to_row):
                line.at_most(0.99, WANTED_US, f"p99 below {WANTED_US:,.0f} us")
        report.add(
            to_tick,
            to_row,
            Latencies.of(f"{name}: due to on_features", [phase.on_features - phase.due for phase in found.phases]),
            Latencies.of(f"{name}: due to sent, by the sender", [phase.sent - phase.due for phase in found.phases]),
            Line(
                f"{name}: received to end of fold, p50, the daemon says",
                "us",
                [own["p50"] / NS_PER_US for own in found.own],
            ),
            Line(
                f"{name}: received to end of fold, p99, the daemon says",
                "us",
                [own["p99"] / NS_PER_US for own in found.own],
            ),
            Line(f"{name}: CPU of the daemon", "us CPU a tick", found.cpu_us),
        )
    report.note(
        f"Latencies: {rounds} rounds of {seconds:g} s at each rate, a fresh daemon each, the first {WARM_UP_S:g} s left out; every frame is counted. A snapshot "
        "is asked for in the middle of each. `sent` is read right before the system call that sends the frame, `due` is when the pace wanted it."
    )
    report.note(
        "The daemon's own figures hold its first seconds too, and count each input of a turn as late as the oldest."
    )


def stage_lines(report: harness.Report, quick: bool) -> None:
    """Measure what a message costs up to each stage."""
    rounds, count = (1, 200_000) if quick else (5, 500_000)
    found: dict[str, list[Timing]] = {stage: [] for stage in STAGES}
    for number in range(1, rounds + 1):
        for stage in STAGES:
            with Sender() as sender:
                words = [
                    "-m",
                    "benchmarks.stages",
                    stage,
                    sender.url(),
                    "--skip",
                    str(count // 4),
                    "--until",
                    str(count),
                ]
                child = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
                pin(child, DAEMONS)
                sender.do("accept")
                sender.begin("flood", count=count + count // 8, market_s=count / MARKET_TICKS_A_SECOND)
                out, _ = child.communicate(timeout=120)
                require(child.returncode == 0, f"stage {stage}: exit code {child.returncode}")
            took = json.loads(out)
            found[stage].append(Timing(took["cpu_ns"], took["wall_ns"]))
            harness.say(f"  {number}/{rounds} {stage}: {took['cpu_ns']:,.0f} ns CPU a message")
    names = {
        "receive": "flood: aiohttp's websocket alone",
        "decode": "flood: and connection, decoder, Tick",
        "fold": "flood: and intake, ingress, five views, digests, two strategies",
        "journal": "flood: and the journal",
    }
    for stage, timings in found.items():
        report.add(rate_line(names[stage], timings, unit="ns CPU a message"))
    steps = [found[stage] for stage in STAGES]
    for stage, before, after in zip(STAGES[1:], steps[:-1], steps[1:], strict=True):
        more = [b.cpu_ns - a.cpu_ns for a, b in zip(before, after, strict=True)]
        report.add(Line(f"flood: what `{stage}` adds", "ns CPU a message", more))
    report.note(
        f"Flood: frames as fast as TCP takes them, 4 symbols, {count:,} a repetition, the first quarter left out; a process with all its "
        "threads on one core, the sender on another. CPU is that of the process, kernel included."
    )


def theil_sen(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Return the median of the slopes between all pairs of points: what memory a snapshot takes for a second does not tilt it."""
    one, other = np.triu_indices(len(x), 1)
    return float(np.median((y[other] - y[one]) / (x[other] - x[one])))


def flood_lines(report: harness.Report, quick: bool) -> None:
    """Flood a daemon for long: messages a second on one core, and memory."""
    count = 1_500_000 if quick else PER_TICKS + 3_500_000
    begin = count // 2 if quick else 3_500_000
    with (
        tempfile.TemporaryDirectory(prefix="tickfold-bench-") as name,
        Sender() as sender,
        Daemon(Path(name) / "data", {**settings(sender), "snapshots": {"every_s": SNAPSHOTS_S}}) as daemon,
    ):
        sender.do("accept")
        sender.begin("flood", count=count, market_s=count / MARKET_TICKS_A_SECOND)
        looks: list[tuple[int, Usage]] = []
        stuck = time.monotonic() + 60.0
        while (sequence := daemon.sequence()) < count:
            if looks and sequence > looks[-1][0]:
                stuck = time.monotonic() + 60.0
            require(time.monotonic() < stuck, f"stuck at {sequence} of {count} messages")
            looks.append((sequence, daemon.usage()))
            time.sleep(LOOK_S)
        sender.answer()
        daemon.wait_for(count)
        daemon.check_prices(count - 1, sender.symbols)
        holds = daemon.get("/health")["parts"]["loop"]["holds"]
    pairs = [(a, b) for a, b in pairwise(looks) if a[0] > WINDOWS_FULL // 4 and b[0] > a[0]]
    timings = [
        Timing(
            (late.cpu_s - early.cpu_s) * NS_PER_S / (last - first),
            (late.at_ns - early.at_ns) / (last - first),
        )
        for (first, early), (last, late) in pairs
    ]
    whole = rate_line("flood: the whole daemon", timings, unit="ns CPU a message")
    per_s = 1e9 / float(np.median(whole.wall))
    whole.wanted, whole.met = f"at least {WANTED_PER_S:,}/s of wall time", per_s >= WANTED_PER_S
    report.add(whole, Line("flood: messages a second of wall time", "messages/s", [1e9 / wall for wall in whole.wall]))
    late = [(sequence, used) for sequence, used in looks if sequence >= begin]
    sequences = np.array([sequence for sequence, _ in late], float)
    for what, sizes in (
        ("anonymous memory (RssAnon)", [used.anonymous_mib for _, used in late]),
        ("resident memory (VmRSS, mapped segments of the journal included)", [used.resident_mib for _, used in late]),
    ):
        slope = theil_sen(sequences, np.array(sizes)) * PER_TICKS
        line = Line(f"flood: growth of {what}", "MiB per 10^7 ticks", [slope])
        if what.startswith("anonymous"):
            line.wanted, line.met = f"below {WANTED_MIB:g} MiB", slope < WANTED_MIB
        report.add(line, Line(f"flood: {what}", "MiB", sizes))
    report.note(
        f"The whole daemon: {count:,} messages in one flood, looked at every {LOOK_S:g} s; their times are {MARKET_TICKS_A_SECOND} a second and end now, so that "
        f"windows of 15 minutes turn over {count / WINDOWS_FULL:.0f} times. Memory: Theil-Sen slope over the looks "
        f"from message {begin:,} on. A snapshot every {SNAPSHOTS_S:g} s."
    )
    if holds:
        report.note(
            "Holds of the loop during the flood: "
            + "; ".join(f"{hold['held_ns'] / 1e6:.0f} ms by {hold['what']}" for hold in holds)
        )


def main() -> int:
    options: argparse.Namespace = harness.arguments(__doc__ or "")
    require(Path("/proc/self/stat").exists(), "this benchmark reads /proc, which only Linux has")
    report = harness.Report("bench_live", "The live daemon over a loopback websocket, the journal on.", options)
    latency_lines(report, options.quick)
    stage_lines(report, options.quick)
    flood_lines(report, options.quick)
    if len(CORES) < 2:
        report.note("There is one core only: the sender takes part of it, and no figure here is of use.")
    report.note(
        "Frames are combined ones of 174 bytes, trades only, of 4 symbols (50, 25, 15 and 10 %) in a mixed order; the daemon and all its threads are pinned to one core, the sender to another."
    )
    return report.finish()


if __name__ == "__main__":
    harness.run(main)
