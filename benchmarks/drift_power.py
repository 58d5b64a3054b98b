"""How often the drift detectors cry wolf, and how soon they see one: simulations of `engine.models.drift`, each from a seed.

    .venv/bin/python -m benchmarks.drift_power [--runs 10] [--write]

`--write` puts the tables into docs/drift.md. Rows are thinned rows, one a horizon. The series are made here, the decisions are those of
the compiled kernel: 12 features, the predictions and the loss, 14 streams. River's ADWIN beside them sees one feature, not 12.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jit import compile_function
from engine.models.drift import FEATURE, LOSS, drift_answer, drift_new

Floats = npt.NDArray[np.float64]
Make = Callable[[np.random.Generator, int], tuple[Floats, Floats]]
"""Rows x (prediction, features), and losses, of so many rows."""

PAGE = Path(__file__).parent.parent / "docs" / "drift.md"
FEATURES = 12
ROWS = 100_000
DAY = 1_440  # rows of a minute


def drifts(state: Any, rows: Any, losses: Any, features: int, found: Any) -> int:
    """Fold all rows (a prediction, then features); write (row, stream, z) of each drift, return how many there were."""
    count = 0
    for at in range(len(rows)):
        stream = drift_answer(state, rows[at], 1, features, 0, 1, False, losses[at])
        if stream >= 0 and count < len(found):
            found[count, 0] = at
            found[count, 1] = stream
            found[count, 2] = state[0]
            count += 1
    return count


@cache
def fold() -> Callable[..., int]:
    """Return `drifts`, compiled."""
    signature = "int64(float64[::1], float64[:, ::1], float64[::1], int64, float64[:, ::1])"
    return compile_function(drifts, signature, "the simulation of drifts")


def remembered(values: Any, share: float) -> int:
    """Add to each row `share` of the one before; return how many there are."""
    for at in range(1, values.shape[0]):
        for column in range(values.shape[1]):
            values[at, column] += share * values[at - 1, column]
    return int(values.shape[0])


@cache
def remember() -> Callable[..., int]:
    """Return `remembered`, compiled."""
    return compile_function(remembered, "int64(float64[:, ::1], float64)", "a random series of drifts")


def series(random: np.random.Generator, count: int, memory: float, columns: int = FEATURES + 1) -> Floats:
    """Return stationary AR(1) columns of variance 1."""
    if memory == 1.0:
        return np.cumsum(random.standard_normal((count, columns)), axis=0)
    values = random.standard_normal((count, columns)) * math.sqrt(1.0 - memory**2)
    values[0] /= math.sqrt(1.0 - memory**2)
    remember()(values, memory)
    return values


def errors(random: np.random.Generator, count: int) -> Floats:
    return np.square(random.standard_normal(count))


def remembering(memory: float) -> Make:
    return lambda random, count: (series(random, count, memory), errors(random, count))


def signs(random: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    return np.sign(series(random, count, 0.0)), errors(random, count)


def rare(random: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    return (random.random((count, FEATURES + 1)) < 0.01).astype(float), (random.random(count) < 0.01).astype(float)


def lasting_volatility(random: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    spread = np.exp(0.75 * series(random, count, 0.98, FEATURES + 2))
    moves = spread * random.standard_normal((count, FEATURES + 2))
    return np.ascontiguousarray(np.abs(moves[:, 1:])), np.square(moves[:, 0])


def hidden(memory: float) -> Make:
    """A slow wave under noise of four times its variance: what correlation of neighbours hardly shows."""

    def make(random: np.random.Generator, count: int) -> tuple[Floats, Floats]:
        noise = 2.0 * random.standard_normal((count, FEATURES + 1))
        return series(random, count, memory) + noise, errors(random, count)

    return make


def daily(random: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    wave = np.sin(np.arange(count) * (2.0 * math.pi / DAY))
    return series(random, count, 0.0) + 0.5 * wave[:, np.newaxis], errors(random, count) * (1.5 + 0.5 * wave)


NULLS: dict[str, Make] = {
    "independent": remembering(0.0),
    "AR(.5)": remembering(0.5),
    "AR(.9)": remembering(0.9),
    "AR(.95)": remembering(0.95),
    "AR(.98)": remembering(0.98),
    "signs, -1 or +1": signs,
    "an event in 1 % of rows": rare,
    "absolute returns, log volatility AR(.98) of sd 0.75; loss their square": lasting_volatility,
}
BEYOND: dict[str, Make] = {
    # Stationary only over times far longer than any window, or not at all.
    "not promised: AR(.99) under noise of twice its sd": hidden(0.99),
    "not promised: AR(.999) under noise of twice its sd": hidden(0.999),
    "not promised: a day's wave of 0.5 sd, in features and loss": daily,
    "not promised: random walks": remembering(1.0),
}


def found_by(rows: Floats, losses: Floats) -> Floats:
    """Return (row, stream, z) of each drift."""
    found = np.empty((4_096, 3))
    features = rows.shape[1] - 1
    count = fold()(drift_new(features), np.ascontiguousarray(rows), losses, features, found)
    return found[:count]


def adwin(values: Floats) -> int:
    """Return how often River's ADWIN, as it comes, detects drift."""
    from river.drift import ADWIN

    detector: Any = ADWIN()  # type: ignore[no-untyped-call]
    count = 0
    for value in values.tolist():
        detector.update(value)
        count += detector.drift_detected
    return count


def false_alarms(runs: int) -> list[str]:
    lines = [
        f"| nothing changes: alarms in {ROWS:,} rows, mean of {runs} runs | all 14 streams | the worst stream | ADWIN, one feature |",
        "| --- | --- | --- | --- |",
    ]
    for seed, (name, make) in enumerate([*NULLS.items(), *BEYOND.items()]):
        counts = np.zeros(FEATURE + FEATURES)
        theirs = 0.0
        for run in range(runs):
            rows, losses = make(np.random.default_rng([seed, run]), ROWS)
            counts += np.bincount(found_by(rows, losses)[:, 1].astype(int), minlength=len(counts))
            theirs += adwin(rows[:, 1]) if run < 2 else 0.0
        lines.append(
            f"| {name} | {counts.sum() / runs:.1f} | {counts.max() / runs:.1f} | {theirs / min(runs, 2):,.0f} |"
        )
    return lines


def delay(make: Make, change: Callable[[Floats, Floats], None], stream: int, before: int, runs: int, seed: int) -> str:
    """Return the cells: rows until the drift of `stream` is said, of half and of nine in ten runs; and how many found it at all."""
    most = 20_000
    delays = []
    for run in range(runs):
        rows, losses = make(np.random.default_rng([seed, before, run]), before + most)
        change(rows[before:], losses[before:])
        found = found_by(rows, losses)
        hits = found[(found[:, 0] >= before) & (found[:, 1] == stream), 0]
        delays.append(hits[0] - before + 1 if len(hits) else math.inf)
    ranked = sorted(delays)
    cells = [ranked[math.ceil(share * runs) - 1] for share in (0.5, 0.9)]
    shown = " | ".join("-" if math.isinf(cell) else f"{cell:,.0f}" for cell in cells)
    return f"{shown} | {sum(map(math.isfinite, delays)) / runs:.0%}"


def moved(by: float) -> Callable[[Floats, Floats], None]:
    def change(rows: Floats, losses: Floats) -> None:
        rows[:, 1] += by

    return change


def spread(rows: Floats, losses: Floats) -> None:
    rows[:, 1] *= math.sqrt(2.0)


def worse(rows: Floats, losses: Floats) -> None:
    losses *= 1.2


def brier(random: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    return series(random, count, 0.0), random.beta(4.0, 8.0, count)


def heavy(random: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    return series(random, count, 0.0), np.square(random.standard_t(4, count))


def power(runs: int) -> list[str]:
    heads = " | ".join(f"after {before:,} rows: half | 9 in 10 | found" for before in (2_000, 10_000))
    lines = [f"| rows until it is said, {runs} runs each | {heads} |", "| --- | --- | --- | --- | --- | --- | --- |"]
    cases: list[tuple[str, Make, Callable[[Floats, Floats], None], int]] = []
    for memory in (0.0, 0.5, 0.9, 0.95):
        name = f"AR({memory:g})".replace("0.", ".") if memory else "independent"
        cases.append((f"a feature moves by 2 sd, {name}", remembering(memory), moved(2.0), FEATURE))
        cases.append((f"by 1 sd, {name}", remembering(memory), moved(1.0), FEATURE))
        cases.append((f"its variance doubles, {name}", remembering(memory), spread, FEATURE))
    cases.append(("Brier halved (mean .33, sd .13) rises by 20 %", brier, worse, LOSS))
    cases.append(("squared errors of a normal rise by 20 %", remembering(0.0), worse, LOSS))
    cases.append(("squared errors of t(4) rise by 20 %", heavy, worse, LOSS))
    for seed, (name, make, change, stream) in enumerate(cases, 100):
        cells = [delay(make, change, stream, before, runs, seed) for before in (2_000, 10_000)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def cost() -> str:
    rows, losses = remembering(0.0)(np.random.default_rng(1), ROWS)
    found_by(rows, losses)
    began = time.process_time_ns()
    found_by(rows, losses)
    each = (time.process_time_ns() - began) / ROWS
    return f"{each:,.0f} ns a row for 14 streams; {drift_new(FEATURES).nbytes:,} bytes of state"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="of 100,000 rows; four times as many for the delays")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/drift.md")
    arguments = parser.parse_args()
    for name, lines in (
        ("false alarms", false_alarms(arguments.runs)),
        ("power", power(4 * arguments.runs)),
        ("cost", [cost()]),
    ):
        text = "\n".join(lines)
        print(text, end="\n\n", flush=True)
        if arguments.write:
            page = PAGE.read_text()
            place = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
            PAGE.write_text(place.sub(rf"\g<1>{text}\g<2>", page))


if __name__ == "__main__":
    main()
