"""From starting a process to being ready: the fold built and its program loaded, cold and warm, and whole commands.

Ready means that `build_fold` with the built-in views and the configured strategies has returned: the next input would be folded at
once. Cold has an empty TICKFOLD_CACHE_DIR, so everything is compiled; warm finds what cold left there. Every repetition is a process
of its own; its time runs from the spawn to a line on its stdout (ready) or to its end (commands), CPU time is the child's own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Line, require

ROOT = Path(__file__).parents[1]
READY = """
from engine.config import Config
from replay.driver import build_fold
from strategies import load
config = Config()
fold = build_fold(config, [load(name, None) for name in config.strategies.run])
assert fold.features.views == config.features.views
print("ready", flush=True)
"""
PEER = """
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig
from nautilus_trader.model.currencies import USDT
from nautilus_trader.model.enums import AccountType, OmsType
from nautilus_trader.model.identifiers import Venue
from nautilus_trader.model.objects import Money
engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
engine.add_venue(Venue("BINANCE"), OmsType.NETTING, AccountType.CASH, [Money(1_000_000, USDT)], base_currency=None)
print("ready", flush=True)
"""


@dataclass(frozen=True)
class Child:
    """A process to start; `until_ready` stops the clock at its first line instead of at its end."""

    name: str
    command: list[str]
    repetitions: int
    expected: str
    """What its stdout must contain."""
    until_ready: bool = False
    prepare: Callable[[], Path] | None = None
    """Returns the cache folder; None: the warm one."""
    at_most_s: float | None = None


def start(child: Child, cache: Path) -> tuple[float, float]:
    """Start a process; return (wall, CPU) seconds. Raises WrongOutputError if it does not say what it should."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TICKFOLD_")}
    environment["TICKFOLD_CACHE_DIR"] = str(cache)
    begun = time.perf_counter()
    with subprocess.Popen(
        child.command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline() if child.until_ready else ""
        ready = time.perf_counter() - begun
        out, err = first + process.stdout.read(), process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        ended = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
    require(process.returncode == 0, f"{child.name}: exit code {process.returncode}: {err.strip()[-500:]}")
    require(child.expected in out, f"{child.name}: expected {child.expected!r} on stdout, found {out.strip()[:200]!r}")
    return (ready if child.until_ready else ended), used.ru_utime + used.ru_stime


def main() -> int:
    options = harness.arguments(__doc__)
    many, few = (10, 2) if options.quick else (31, 7)
    report = harness.Report("bench_start", "Starting: wall time of whole processes.", options)
    python = sys.executable
    script = Path(python).with_name("tickfold")
    tickfold = [str(script)] if script.exists() else [python, "-m", "engine"]
    with tempfile.TemporaryDirectory(prefix="tickfold-bench-") as name:
        folder = Path(name)
        warm, cold = folder / "warm", folder / "cold"

        def emptied() -> Path:
            shutil.rmtree(cold, ignore_errors=True)
            return cold

        children = [
            Child("ready, cold", [python, "-c", READY], few, "ready", until_ready=True, prepare=emptied),
            Child("ready, warm", [python, "-c", READY], many, "ready", until_ready=True, at_most_s=2.0),
            Child("tickfold --help", [*tickfold, "--help"], many, "replay", at_most_s=0.3),
            Child("tickfold replay, built-in recording, digests", [*tickfold, "replay", "--json"], many, '"digest"'),
            Child("python -c pass", [python, "-c", "pass"], many, ""),
        ]
        if util.find_spec("nautilus_trader") is not None:
            children.append(
                Child("NautilusTrader imported, engine built", [python, "-c", PEER], many, "ready", until_ready=True)
            )
        else:
            report.note("nautilus_trader is not installed here: `make bench` installs it into .venv-bench.")
        found: dict[str, list[tuple[float, float]]] = {child.name: [] for child in children}
        check_replay(tickfold, warm)
        for repetition in range(many + 1):
            for child in children:
                # The first round writes caches (bytecode, programs, the file system's) and is not counted.
                if repetition > child.repetitions or (repetition == 0 and child.prepare is not None):
                    continue
                took = start(child, warm if child.prepare is None else child.prepare())
                if repetition:
                    found[child.name].append(took)
                harness.say(f"  {repetition or 'warm-up'}/{many} {child.name}: {took[0]:.3f} s, CPU {took[1]:.3f} s")
    for child in children:
        walls = [wall for wall, _ in found[child.name]]
        line = Line(child.name, "s", walls)
        if child.at_most_s is not None:
            line.wanted = f"at most {child.at_most_s:g} s"
            line.met = line.summary()["median"] <= child.at_most_s
        report.add(line, Line(f"{child.name}: CPU of the process", "s CPU", [cpu for _, cpu in found[child.name]]))
    report.note(
        "Ready: imports, configuration, two strategies, five views, their program and the ingress loaded or compiled."
    )
    report.note(
        "Wall time from the spawn to the line `ready`, or to the end of the command. CPU time of the whole process, its end included."
    )
    report.note(
        "Cold: an empty folder of compiled programs; Python's bytecode files are there. The first round is not counted."
    )
    return report.finish()


def check_replay(tickfold: list[str], cache: Path) -> None:
    """Two replays of the built-in recording must give one digest."""
    environment = {**os.environ, "TICKFOLD_CACHE_DIR": str(cache)}
    texts = [
        subprocess.run(
            [*tickfold, "replay", "--json"], cwd=ROOT, env=environment, check=True, capture_output=True
        ).stdout
        for _ in range(2)
    ]
    first, second = (json.loads(text) for text in texts)
    require(first == second, f"two replays of the built-in recording differ: {first} and {second}")
    require(first["inputs"] > 0, "the built-in recording gave no inputs")


if __name__ == "__main__":
    harness.run(main)
