"""What conformal intervals hold of what they promise, and how many of them are infinite: simulations, and recorded trades.

    .venv/bin/python -m benchmarks.interval_coverage [--write]

`--write` puts the table into docs/intervals.md. The predictions are 0; the thresholds are those of the compiled kernel, asked and
answered in the order of the clock, so that with n answers a horizon the newest n outcomes are not known yet.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from engine.jit import compile_function
from engine.models.conformal import conformal_answer, conformal_ask, conformal_new
from engine.models.layout import CLOCK, DUE, HEAD, LABEL

Floats = npt.NDArray[np.float64]
Clock = npt.NDArray[np.int64]

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "intervals.md"
LTC = ROOT / "tests" / "data" / "binance_20250621_ltc_trades.parquet"
WINDOW = 1_000


def fold(state: Any, rows: Any, first: int, done: int, outputs: int, is_class: bool, coverage: float) -> int:
    """Ask at each row from `first` on, before that answer all that are due; rows before `done` were answered before."""
    times = rows.view(np.int64)
    for at in range(first, len(rows)):
        while done < at and times[done, DUE] <= times[at, CLOCK]:
            conformal_answer(state, rows[done], HEAD, outputs, is_class, coverage)
            done += 1
        conformal_ask(state, rows[at], HEAD, outputs, is_class)
    return done


@cache
def compiled() -> Any:
    """Return `fold`, compiled."""
    signature = "int64(float64[::1], float64[:, ::1], int64, int64, int64, boolean, float64)"
    return compile_function(fold, signature, "the simulation of intervals")


def ledger(labels: Floats, outputs: Floats, clock: Clock, horizon: int) -> Floats:
    """Return rows of a ledger whose outputs are the last columns, and room for a threshold."""
    rows = np.zeros((len(labels), HEAD + outputs.shape[1] + 1))
    times = rows.view(np.int64)
    times[:, CLOCK], times[:, DUE] = clock, clock + horizon
    rows[:, LABEL] = labels
    rows[:, HEAD:-1] = outputs
    return rows


def thresholds(
    labels: Floats, outputs: Floats, coverage: float, clock: Clock, horizon: int, is_class: bool = False
) -> Floats:
    """Return what is said of each row, asked and answered in the order of its clock."""
    rows = ledger(labels, outputs, clock, horizon)
    compiled()(conformal_new(coverage), rows, 0, 0, outputs.shape[1], is_class, coverage)
    return rows[:, -1]


def changing(count: int, seed: int, horizon: int = 1, spread: float = 0.5) -> Floats:
    """Return sums of `horizon` normal returns each, whose log volatility (of sd `spread`) wanders with a memory of 20 horizons."""
    rng = np.random.default_rng(seed)
    length = count + horizon
    memory = math.exp(-1.0 / (20 * horizon))
    shocks = rng.standard_normal(length) * spread * math.sqrt(1.0 - memory**2)
    level = 0.0
    levels = np.empty(length)
    for at, shock in enumerate(shocks):
        level = memory * level + shock
        levels[at] = level
    path = np.concatenate([[0.0], np.cumsum(np.exp(levels) * rng.standard_normal(length))])
    moves: Floats = (path[horizon:] - path[:-horizon])[:count]
    return moves


def recorded_moves(horizon_ns: int) -> tuple[Floats, Clock, Floats]:
    """Return log returns over a horizon from each recorded trade on, when that was, and log returns over the horizon before it."""
    table = pq.read_table(LTC)
    clock, price = table["received"].to_numpy(), table["price"].to_numpy()
    due = np.searchsorted(clock, clock + horizon_ns)
    count = int(np.argmax(due == len(clock)))
    before = np.maximum(np.searchsorted(clock, clock[:count] - horizon_ns) - 1, 0)
    return np.log(price[due[:count]] / price[:count]), clock[:count], np.log(price[:count] / price[before])


def line(name: str, moves: Floats, clock: Clock, horizon: int) -> str:
    cells = []
    for coverage in (0.9, 0.95):
        said = thresholds(moves, np.zeros((len(moves), 1)), coverage, clock, horizon)
        start = int(np.argmax(np.isfinite(said)))
        held, said = (np.abs(moves) <= said)[start:], said[start:]
        windows = held[: len(held) // WINDOW * WINDOW].reshape(-1, WINDOW).mean(axis=1)
        cells.append(
            f"{held.mean():.3f} | {windows.min():.3f}-{windows.max():.3f} | {100 * np.isinf(said).mean():.1f} %"
        )
    return f"| {name} | {' | '.join(cells)} |"


def cost() -> str:
    moves = np.random.default_rng(1).standard_normal(200_000)
    rows = ledger(moves, np.zeros((len(moves), 1)), np.arange(len(moves)), 1)
    state = conformal_new(0.9)
    compiled()(state, rows, 0, 0, 1, False, 0.9)
    began = time.process_time_ns()
    compiled()(state, rows, 0, 0, 1, False, 0.9)
    return (
        f"{(time.process_time_ns() - began) / len(moves):,.0f} ns for a question and its answer, with 500 scores held"
    )


def table() -> list[str]:
    heads = " | ".join(f"{wanted} % | windows of {WINDOW:,} | infinite" for wanted in (90, 95))
    lines = [f"| | {heads} |", "| --- | --- | --- | --- | --- | --- | --- |"]
    steady = np.random.default_rng(0).standard_normal(50_000)
    lines.append(line("normal, no overlap", steady, np.arange(len(steady)), 1))
    for overlap in (1, 5, 42, 200, 1_000):
        moves = changing(max(50_000, 500 * overlap), 0, overlap)
        name = f"volatility wanders, {overlap:,} answers a horizon" if overlap > 1 else "volatility wanders, no overlap"
        lines.append(line(name, moves, np.arange(len(moves)), overlap))
    moves, clock, _ = recorded_moves(60_000_000_000)
    lines.append(line("recorded LTC/USDT, 60 s: 42 answers a horizon, 90 horizons", moves, clock, 60_000_000_000))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/intervals.md")
    arguments = parser.parse_args()
    for name, text in (("coverage", "\n".join(table())), ("cost", cost())):
        print(text, end="\n\n", flush=True)
        if arguments.write:
            place = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
            PAGE.write_text(place.sub(rf"\g<1>{text}\g<2>", PAGE.read_text()))


if __name__ == "__main__":
    main()
