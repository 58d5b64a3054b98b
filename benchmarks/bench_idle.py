"""A daemon that has nothing to do: the share of a core that it takes with three exchanges connected and quiet.

A loopback exchange in another process serves the built-in recordings a million times too slowly, so nothing is traded; it sends what real
ones send in silence: Binance's pings, Coinbase's heartbeats each second, KuCoin's pongs to the pings that it asks for. The daemon is the
real one with its default configuration. Then daemons without one of its clocks, or with one exchange, run beside each other: what each
takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.harness import Line, require
from benchmarks.live import NS_PER_S, OTHERS, ROOT, Daemon, Settings, Usage, environment, pin

SPEED = "0.000001"
SETTLE_S = 8.0
"""After the start: product lists, snapshots of subscriptions, the first look at histories."""
WINDOW_S = 60.0
"""As long as from snapshot to snapshot: each window has one."""
WANTED_PERCENT = 3.0
LEAVE_S = 20.0
EXCHANGES = ("binance", "coinbase", "kucoin")
NEVER: Settings = {"feeds": {"heartbeat_s": 3_600.0}, "watchdog": {"hold_ms": 60_000}}


@dataclass(frozen=True)
class Variant:
    """A daemon that differs from the usual one."""

    name: str
    settings: Settings
    module: str = "engine"
    page: bool = False


def variants(usual: Settings) -> tuple[Variant, ...]:
    """The usual daemon, and those that lack something or have something more."""
    quiet_clock = {**usual, "feeds": {**usual["feeds"], **NEVER["feeds"]}}
    unwatched = {**usual, "watchdog": NEVER["watchdog"]}
    alone = [Variant(f"{name} alone", {**usual, "feeds": {**usual["feeds"], "run": [name]}}) for name in EXCHANGES]
    return (
        Variant("all three", usual),
        Variant("without a heartbeat each second", quiet_clock),
        Variant("without the watchdog's looks", unwatched),
        Variant("without the feeds' looks after symbols", usual, module="benchmarks.without_looks"),
        *alone,
        Variant("with a page open", usual, page=True),
    )


@contextmanager
def exchange() -> Iterator[Settings]:
    """Serve what hardly moves; give the settings of a daemon that listens to all of it."""
    words = ["exchange", "--port", "0", "--speed", SPEED, "--json", "--until-stdin-closes"]
    child = subprocess.Popen(
        [sys.executable, "-m", "engine", *words],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pin(child, OTHERS)
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        require(line, f"the loopback exchange ended, exit code {child.poll()}")
        venues = {venue["exchange"]: venue for venue in json.loads(line)["venues"]}
        require(set(venues) == set(EXCHANGES), f"the loopback exchange serves {sorted(venues)}")
        hosts = {name: {key: venue[key] for key in ("websocket", "rest", "symbols")} for name, venue in venues.items()}
        yield {"feeds": {"run": list(EXCHANGES)}, **hosts}
    finally:
        child.communicate(timeout=LEAVE_S)


@contextmanager
def viewer(daemon: Daemon) -> Iterator[None]:
    """Look at a daemon's page."""
    words = ["viewers", daemon.url, "--count", "1", "--seconds", "100000"]
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.clients", *words], cwd=ROOT, stdout=subprocess.DEVNULL, text=True
    )
    pin(child, OTHERS)
    try:
        yield
        require(child.poll() is None, "whoever looked at the page was cut off")
    finally:
        child.kill()
        child.wait()


def state(daemon: Daemon, run: list[str]) -> tuple[int, int]:
    """Return how many trades were folded and how many messages came. Raises WrongOutputError unless all is connected and well."""
    feeds = daemon.get("/health")["parts"]["feeds"]
    require([feed["exchange"] for feed in feeds] == run, f"there are feeds of {feeds}, expected {run}")
    for feed in feeds:
        require(feed["state"] == "live" and not feed["reconnects"] and not feed["stalled"], f"not idle: {feed}")
    return daemon.folded(), sum(feed["messages"] for feed in feeds)


@dataclass
class Shares:
    """What a daemon took in each window, percent of a core."""

    whole: list[float]
    loop: list[float]
    messages: list[float]
    """That came, a second."""


def watch(daemons: list[tuple[Daemon, list[str]]], windows: int, seconds: float) -> list[Shares]:
    """Let daemons run, and see what each takes."""
    time.sleep(SETTLE_S)
    found = [Shares([], [], []) for _ in daemons]
    for _ in range(windows):
        begun = [state(daemon, run) for daemon, run in daemons]
        time.sleep(1.0)  # what was asked is answered
        before = [daemon.usage() for daemon, _ in daemons]
        time.sleep(seconds)
        after = [daemon.usage() for daemon, _ in daemons]
        ended = [state(daemon, run) for daemon, run in daemons]
        for shares, first, last, (folded, heard), (folded_then, heard_then) in zip(
            found, before, after, begun, ended, strict=True
        ):
            require(folded == folded_then, f"{folded_then - folded} trades and quotes came: not quiet")
            shares.whole.append(percent(first, last, "cpu_s"))
            shares.loop.append(percent(first, last, "loop_cpu_s"))
            shares.messages.append((heard_then - heard) / (seconds + 1.0))
    return found


def percent(first: Usage, last: Usage, what: str) -> float:
    """A share of one core."""
    taken: float = getattr(last, what) - getattr(first, what)
    return 100.0 * taken * NS_PER_S / (last.at_ns - first.at_ns)


def run(chosen: tuple[Variant, ...], folder: Path, windows: int, seconds: float) -> list[Shares]:
    """Run daemons side by side, each in a folder of its own in `folder`."""
    folder.mkdir()
    with ExitStack() as running:
        daemons: list[tuple[Daemon, list[str]]] = []
        with ExitStack() as looking:
            for number, variant in enumerate(chosen):
                daemon = running.enter_context(Daemon(folder / str(number), variant.settings, module=variant.module))
                daemons.append((daemon, list(variant.settings["feeds"]["run"])))
                if variant.page:
                    looking.enter_context(viewer(daemon))
            found = watch(daemons, windows, seconds)
        for daemon, _ in daemons:
            daemon.stop()
        return found


def main() -> int:
    options = harness.arguments(__doc__ or "")
    require(Path("/proc/self/stat").exists(), "this benchmark reads /proc, which only Linux has")
    report = harness.Report("bench_idle", "A daemon with three exchanges connected and quiet.", options)
    windows, rounds, seconds = (1, 1, 10.0) if options.quick else (4, 3, WINDOW_S)
    with tempfile.TemporaryDirectory(prefix="tickfold-bench-") as name, exchange() as usual:
        chosen = variants(usual)
        harness.say(f"one daemon, {windows} x {seconds:g} s")
        (alone,) = run(chosen[:1], Path(name) / "alone", windows, seconds)
        load = os.getloadavg()[0]
        harness.say(f"{len(chosen)} daemons side by side, {rounds} x {seconds:g} s")
        together = run(chosen, Path(name) / "together", rounds, seconds)
    unit = "% of a core"
    whole = Line("all three exchanges, user and system", unit, alone.whole)
    whole.wanted, whole.met = f"below {WANTED_PERCENT:g} %", float(np.median(alone.whole)) < WANTED_PERCENT
    rest = [all_ - loop for all_, loop in zip(alone.whole, alone.loop, strict=True)]
    report.add(
        whole,
        Line("of that the loop's thread", unit, alone.loop),
        Line("of that other threads", unit, rest),
        Line("messages of the exchanges", "a second", alone.messages),
    )
    for variant, shares in zip(chosen, together, strict=True):
        report.add(Line(f"side by side: {variant.name}", unit, shares.whole))
    usual_shares = together[0].whole
    for variant, shares in zip(chosen[1:4], together[1:4], strict=True):
        took = [usually - less for usually, less in zip(usual_shares, shares.whole, strict=True)]
        report.add(Line(f"so much less {variant.name}", unit, took))
    opened = [more - usually for usually, more in zip(usual_shares, together[-1].whole, strict=True)]
    report.add(Line(f"so much more {chosen[-1].name}", unit, opened))
    notes(report, seconds, load)
    return report.finish()


def notes(report: harness.Report, seconds: float, load: float) -> None:
    """Say what is in the lines."""
    report.note(
        f"CPU time of the daemon's process by /proc, all threads, over windows of {seconds:g} s; the first {SETTLE_S:g} s are left out, a snapshot is taken "
        "each minute. All feeds were live at both ends of each window, none was dialled anew, and not one trade or quote came in it."
    )
    report.note(
        "The daemon and all its threads are pinned to one core, the exchange to another; side by side, all daemons share that core. "
        "Other threads are the watchdog, the journal's, the export's and those of snapshots."
    )
    report.note(f"Load average after the daemon ran alone: {load:.2f}.")


if __name__ == "__main__":
    harness.run(main)
