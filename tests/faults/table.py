"""The table of docs/reliability.md: every failure alone, and mixtures, played and measured.

python -m tests.faults.table --write docs/reliability.md --seeds 10 --mixtures 1000
python -m tests.faults.table --mixture 17              repeats one run, and shows what was said in it
python -m tests.faults.table --case "02 connection lost for 5 s, binance" --seed 2
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from engine.events import FeedStatus, Gap
from tests.faults.cases import Case, mixture, singles
from tests.faults.invariants import Bounds, noticed_s, recovery_s, violations
from tests.faults.world import NS_PER_S, Outcome, Scenario, play

BEGIN, END = "<!-- begin: python -m tests.faults.table -->", "<!-- end -->"
FIRST_SEED: Final = 100


class Result(NamedTuple):
    """What came of one failure, or of all mixtures, over its seeds. Times are the longest, in s."""

    trades: int
    late: int
    lost: int
    violations: list[str]
    noticed_s: float | None
    recovered_s: float
    settled_s: float


def result_of(outcome: Outcome, bounds: Bounds) -> Result:
    """Judge and measure a run."""
    feeds = outcome.scenario.feeds
    spans = [one for one in outcome.statuses("lost") if one.first_id is not None and one.last_id is not None]
    noticed = None
    if bounds.mute_s is not None:
        noticed = max((noticed_s(outcome, feed, bounds.mute_s) or 0.0 for feed in feeds), default=0.0)
    return Result(
        trades=sum(len(outcome.ticks(key)) for key in outcome.traded),
        late=sum(len(outcome.ticks(key, late=True)) for key in outcome.traded),
        lost=sum((one.last_id or 0) - (one.first_id or 0) + 1 for one in spans),
        violations=violations(outcome, bounds),
        noticed_s=noticed,
        recovered_s=max(recovery_s(outcome, feed, bounds.over_s) for feed in feeds),
        settled_s=_settled_s(outcome, bounds),
    )


def _settled_s(outcome: Outcome, bounds: Bounds) -> float:
    """How long after the last fault the last missing trade was there, or declared lost."""
    over_ns = outcome.begin_ns + round(bounds.over_s * NS_PER_S)
    said = [one.received for one in outcome.statuses("filled", "lost")]
    return max(0.0, (max(said, default=over_ns) - over_ns) / NS_PER_S)


def together(results: Sequence[Result]) -> Result:
    """Sum up results, and take the longest of the times."""
    noticed = [one.noticed_s for one in results if one.noticed_s is not None]
    return Result(
        sum(one.trades for one in results),
        sum(one.late for one in results),
        sum(one.lost for one in results),
        [said for one in results for said in one.violations],
        max(noticed, default=None),
        max(one.recovered_s for one in results),
        max(one.settled_s for one in results),
    )


def row(number: str, name: str, feeds: str, seeds: int, result: Result, stated_s: float) -> str:
    """Return a row of the table; `stated_s` is what recovery may take."""
    verdict = "kept" if not result.violations else f"**{len(result.violations)} violations**"
    noticed = "" if result.noticed_s is None else f"{result.noticed_s:.2f}"
    cells = (
        number, name, feeds, seeds, f"{result.trades:,}", f"{result.late:,}", f"{result.lost:,}", verdict, noticed,
        f"{result.recovered_s:.1f}", f"{stated_s:g}", f"{result.settled_s:.1f}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


HEAD: Final = (
    "| # | failure | exchanges | runs | trades folded | late | lost, said so | laws | noticed s | recovered s | stated s | settled s |\n"
    "| --- | --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |"
)


def table(seeds: int, mixtures: int) -> Iterator[str]:
    """Play everything, and yield the table line by line."""
    yield HEAD
    cases: dict[tuple[int, str], list[Case]] = {}
    for case in singles():
        cases.setdefault((case.number, case.name), []).append(case)
    for (number, name), group in cases.items():
        results = [
            result_of(play(case.scenario, seed=seed), case.bounds)
            for case in group
            for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        ]
        feeds, stated_s = ", ".join(case.feed for case in group), max(case.bounds.recovers_s for case in group)
        yield row(str(number), name, feeds, len(results), together(results), stated_s)
    results, stated_s = [], 0.0
    for seed in range(mixtures):
        scenario, bounds = mixture(seed)
        results.append(result_of(play(scenario, seed=seed), bounds))
        stated_s = max(stated_s, bounds.recovers_s)
        if results[-1].violations:
            print(f"mixture {seed}: {results[-1].violations}", file=sys.stderr)
    if results:
        yield row("", "mixtures of two to five", "one, or three at once", len(results), together(results), stated_s)


def show(scenario: Scenario, bounds: Bounds, seed: int) -> int:
    """Play one run, and print its plan, what was said in it, and what it did wrong."""
    outcome = play(scenario, seed=seed)
    print(scenario.toml())
    for weather in (*scenario.weather, *scenario.held):
        print(f"# {weather}")
    happened = [(one.at_s, f"      {one.kind} {one.feed} {one.symbol} {one.detail}") for one in outcome.done]
    happened += [
        (outcome.after_s(one.received), f"{one.exchange} {one.symbol} {one.status}: {one.detail}")
        for one in outcome.heard
        if type(one) is FeedStatus
    ]
    happened += [
        (outcome.after_s(one.received), f"{one.exchange} {one.symbol} gap {one.first_id} to {one.last_id}")
        for one in outcome.heard
        if type(one) is Gap
    ]
    for at_s, text in sorted(happened):
        print(f"{at_s:9.3f} {text}")
    found = violations(outcome, bounds)
    print(f"\n{outcome.digest()}\n{result_of(outcome, bounds)._replace(violations=[])}\n{len(found)} violations")
    print("\n".join(found))
    return bool(found)


def main() -> int:
    """Run from the command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.table")
    parser.add_argument("--write", type=Path, help="the page to write the table into")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each failure and exchange")
    parser.add_argument("--mixtures", type=int, default=50)
    parser.add_argument("--mixture", type=int, help="show this one only")
    parser.add_argument("--case", help="show this one only")
    parser.add_argument("--seed", type=int, default=0, help="of --case")
    given = parser.parse_args()
    if given.mixture is not None:
        return show(*mixture(given.mixture), given.mixture)
    if given.case is not None:
        case = next((case for case in singles() if str(case) == given.case), None)
        if case is None:
            names = "\n".join(str(case) for case in singles())
            parser.error(f"no case {given.case!r}: expected one of\n{names}")
        return show(case.scenario, case.bounds, given.seed)
    began = time.perf_counter()
    lines = []
    for line in table(given.seeds, given.mixtures):
        print(line, flush=True)
        lines.append(line)
    if given.write is not None:
        text = given.write.read_text()
        before, _, rest = text.partition(BEGIN)
        given.write.write_text("\n".join([before + BEGIN, "", *lines, "", END + rest.partition(END)[2]]))
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    return "**" in "".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
