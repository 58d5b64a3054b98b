"""How a benchmark measures, and how it writes down what it measured.

A benchmark lists cases. Every repetition runs each case once, so that noise of the machine hits all of them alike, and ratios are
taken within a repetition. A case is prepared outside the measured part; inside it the cyclic garbage collector is off, for all
alike. CPU time is `process_time` (user and system, all threads), wall time `perf_counter`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "tickfold",
    "numpy",
    "numba",
    "pyarrow",
    "msgspec",
    "aiohttp",
    "uvloop",
    "river",
    "TA-Lib",
    "talipp",
    "nautilus_trader",
    "cryptofeed",
    "ccxt",
    "orjson",
)
Run = Callable[[], object]


class WrongOutputError(Exception):
    """What is about to be measured does not compute what it should: nothing is measured."""


@dataclass(frozen=True)
class Case:
    """One thing to measure: `prepare` builds what a repetition needs and returns what is timed, over `rows` rows."""

    name: str
    rows: int
    prepare: Callable[[], Run]
    check: Callable[[], object] | None = None
    """Called after each repetition, outside of the measured part. Raises WrongOutputError."""


@dataclass(frozen=True)
class Timing:
    """One repetition, ns a row."""

    cpu_ns: float
    wall_ns: float


@dataclass
class Line:
    """One line of a result: `values` are its repetitions, in `unit`."""

    name: str
    unit: str
    values: list[float]
    wall: list[float] = field(default_factory=list)
    """The same in wall time, if `values` are CPU time."""
    wanted: str = ""
    """The target as text, such as "at least 500,000 ticks/s"; empty where there is none."""
    met: bool | None = None
    per_second: bool = False
    """Whether 1e9 / median is a rate that says more than the median."""

    def summary(self) -> dict[str, Any]:
        """n, min, median, p99 of the values; p99 is interpolated, so of few repetitions it is nearly the greatest."""
        low, median, high = (float(x) for x in np.quantile(self.values, (0.0, 0.5, 0.99)))
        found: dict[str, Any] = {"line": self.name, "unit": self.unit, "n": len(self.values)}
        found |= {"min": low, "median": median, "p99": high}
        if self.wall:
            found["wall_median"] = float(np.median(self.wall))
        if self.per_second:
            found["per_second_at_median"] = 1e9 / median
        if self.wanted:
            found |= {"wanted": self.wanted, "met": self.met}
        return found | {"values": self.values} | ({"wall": self.wall} if self.wall else {})


def arguments(description: str) -> argparse.Namespace:
    """Read the command line that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and repetitions; to see that it works")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="where to write (default: benchmarks/results; with --quick: nowhere)",
    )
    options = parser.parse_args()
    if options.results is None and not options.quick:
        options.results = RESULTS
    return options


def say(text: str) -> None:
    """Tell whoever waits what is going on."""
    print(text, file=sys.stderr, flush=True)


def require(condition: object, text: str) -> None:
    """Raise WrongOutputError unless the condition holds."""
    if not condition:
        raise WrongOutputError(text)


def require_close(name: str, ours: Any, theirs: Any, *, absolute: float = 0.0, relative: float = 0.0) -> None:
    """Raise WrongOutputError, naming the worst place, unless two arrays agree; NaN agrees with nothing."""
    ours, theirs = np.atleast_1d(np.asarray(ours, float)), np.atleast_1d(np.asarray(theirs, float))
    require(ours.shape == theirs.shape, f"{name}: found {ours.shape} values, expected {theirs.shape}")
    error = np.abs(ours - theirs)
    wrong = ~(error <= absolute + relative * np.abs(theirs))
    if wrong.any():
        at = int(np.flatnonzero(wrong)[np.argmax(np.nan_to_num(error[wrong], nan=np.inf))])
        raise WrongOutputError(
            f"{name}: {int(wrong.sum())} of {len(ours)} values differ by more than {absolute:g} + {relative:g} x theirs, "
            f"the worst at {at}: {ours[at]!r}, expected {theirs[at]!r}"
        )


def timed(run: Run, rows: int) -> Timing:
    """Run once with the garbage collector off."""
    gc.collect()
    gc.disable()
    try:
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        run()
        cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    finally:
        gc.enable()
    return Timing(cpu / rows, wall / rows)


def interleaved(cases: Sequence[Case], repetitions: int) -> dict[str, list[Timing]]:
    """Run each case once a repetition, each time beginning with another one; a first round is checked and not counted."""
    found: dict[str, list[Timing]] = {case.name: [] for case in cases}
    for repetition in range(repetitions + 1):
        first = repetition % len(cases)
        for case in [*cases[first:], *cases[:first]]:
            timing = timed(case.prepare(), case.rows)
            if case.check is not None:
                case.check()
            if repetition:
                found[case.name].append(timing)
            say(f"  {repetition or 'warm-up'}/{repetitions} {case.name}: {timing.cpu_ns:,.1f} ns CPU a row")
    return found


def rate_line(name: str, timings: list[Timing], at_least: float | None = None, unit: str = "ns CPU a tick") -> Line:
    """Return a line of ns a row, with its target in rows a CPU second."""
    line = Line(name, unit, [t.cpu_ns for t in timings], [t.wall_ns for t in timings], per_second=True)
    if at_least is not None:
        line.wanted = f"at least {at_least:,.0f}/s"
        line.met = 1e9 / float(np.median(line.values)) >= at_least
    return line


def ratio_line(name: str, theirs: list[Timing], ours: list[Timing], at_least: float | None = None) -> Line:
    """Return how many times as fast as theirs ours is, repetition by repetition."""
    line = Line(name, "times as fast", [b.cpu_ns / a.cpu_ns for a, b in zip(ours, theirs, strict=True)])
    if at_least is not None:
        line.wanted, line.met = f"at least {at_least:g}", float(np.median(line.values)) >= at_least
    return line


def machine() -> dict[str, Any]:
    """Say on what this was measured."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


class Report:
    """The result of one benchmark: a table on stdout, JSON and Markdown where asked."""

    def __init__(self, name: str, about: str, options: argparse.Namespace) -> None:
        self.name = name
        self.about = about
        self.options = options
        self.lines: list[Line] = []
        self.notes: list[str] = []
        self.begun = datetime.now(UTC)
        self.load_before = os.getloadavg()[0]

    def add(self, *lines: Line) -> None:
        """Append lines."""
        self.lines += lines

    def note(self, text: str) -> None:
        """Append what a reader of the table must know."""
        self.notes.append(text)

    def finish(self) -> int:
        """Print and write everything; return the exit code. A target that is missed is said, and is no failure."""
        made = {
            "benchmark": self.name,
            "about": self.about,
            "command": f"python -m benchmarks.{self.name}{' --quick' if self.options.quick else ''}",
            "begun": self.begun.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(UTC) - self.begun).total_seconds(), 1),
            "load_average": [round(self.load_before, 2), round(os.getloadavg()[0], 2)],
            "machine": machine(),
            "notes": self.notes,
            "lines": [line.summary() for line in self.lines],
        }
        text = self._markdown(made)
        print(text)
        if self.options.results is not None:
            folder: Path = self.options.results
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{self.name}.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
            (folder / f"{self.name}.md").write_text(text, encoding="utf-8")
            say(f"wrote {folder / self.name}.json and .md")
        return 0

    def _markdown(self, made: dict[str, Any]) -> str:
        host = made["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in host["versions"].items())
        more = [name for name in ("p99.9", "max") if any(name in line for line in made["lines"])]
        rows = [
            f"| | unit | n | min | median | p99 |{''.join(f' {name} |' for name in more)} wall median | per second | wanted | |",
            f"| --- | --- | ---: | ---: | ---: | ---: |{' ---: |' * len(more)} ---: | ---: | --- | --- |",
        ]
        for line in made["lines"]:
            wall = _number(line["wall_median"]) if "wall_median" in line else ""
            rate = f"{line['per_second_at_median']:,.0f}" if "per_second_at_median" in line else ""
            verdict = {True: "met", False: "**missed**", None: ""}[line.get("met")]
            numbers = " | ".join(_number(line[name]) for name in ("min", "median", "p99"))
            numbers += "".join(f" | {_number(line[name]) if name in line else ''}" for name in more)
            cells = (line["line"], line["unit"], line["n"], numbers, wall, rate, line.get("wanted", ""), verdict)
            rows.append(f"| {' | '.join(str(cell) for cell in cells)} |")
        head = (
            f"# {self.name}\n\n{self.about}\n\n"
            f"{made['begun']}, {made['seconds']:,.0f} s, load average {made['load_average'][0]} before and {made['load_average'][1]} after. "
            f"{host['cpu']}, {host['cores']} cores, {host['memory_gib']} GiB, {host['system']}. Python {host['python']}, {versions}. "
            f"`{made['command']}`\n\n"
        )
        notes = "".join(f"- {note}\n" for note in self.notes)
        return f"{head}{chr(10).join(rows)}\n" + (f"\n{notes}" if notes else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 100 else f"{value:,.2f}"


def run(main: Callable[[], int]) -> None:
    """Run a benchmark's `main`; an output that is wrong is one line and exit code 1."""
    try:
        code = main()
    except WrongOutputError as error:
        say(f"wrong output, nothing was measured: {error}")
        code = 1
    sys.exit(code)
