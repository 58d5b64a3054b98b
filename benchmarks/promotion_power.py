"""How often promotion is wrong, and how long it takes to be right: simulations of `engine.models.contest`, each from a seed.

    .venv/bin/python -m benchmarks.promotion_power [--runs 1000] [--write]

`--write` puts the tables into docs/promotion.md. The losses are made here, the decisions are those of the compiled kernel.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jit import compile_function
from engine.models.contest import contest_answer, contest_enter, contest_new, contest_promote

Floats = npt.NDArray[np.float64]
Make = Callable[[np.random.Generator, int], tuple[Floats, Floats]]
"""Losses and nets, pairs x arms, of one run; arm 0 is the champion."""

PAGE = Path(__file__).parent.parent / "docs" / "promotion.md"
ALPHA, PAIRS_MIN, MARGIN_BPS = 0.05, 200, 0.5
MOVE_BPS = 5.0


def first_decision(state: Any, losses: Any, nets: Any, alpha: float, pairs_min: int, margin_bps: float) -> int:
    """Return the number of the pair after which the contest decides, -1 if it never does."""
    for at in range(losses.shape[0]):
        if contest_answer(state, losses[at], nets[at], alpha, pairs_min, margin_bps) >= 0:
            return at + 1
    return -1


def first_z(differences: Any, least: int, most: float) -> int:
    """Return the number of the pair after which a one-sided z-test, made at each pair from `least` on, is above `most`; -1: never."""
    total = 0.0
    squares = 0.0
    for at in range(differences.shape[0]):
        total += differences[at]
        squares += differences[at] * differences[at]
        count = at + 1.0
        variance = squares / count - (total / count) * (total / count)
        if count >= least and total > most * math.sqrt(variance * count):
            return at + 1
    return -1


def remembered(values: Any, share: float) -> int:
    """Add to each value `share` of the one before; return how many there are."""
    for at in range(1, values.shape[0]):
        values[at] += share * values[at - 1]
    return int(values.shape[0])


@cache
def remember() -> Callable[..., int]:
    """Return `remembered`, compiled."""
    return compile_function(remembered, "int64(float64[::1], float64)", "a random series")


@cache
def decide() -> Callable[..., int]:
    """Return `first_decision`, compiled."""
    signature = "int64(float64[:, ::1], float64[:, ::1], float64[:, ::1], float64, int64, float64)"
    return compile_function(first_decision, signature, "the simulation of promotions")


@cache
def look() -> Callable[..., int]:
    """Return `first_z`, compiled."""
    return compile_function(first_z, "int64(float64[::1], int64, float64)", "the z-test at each look")


# Two arms or more that say up with probability p; the outcome is up in half of all cases.


def brier(p: Floats, is_up: npt.NDArray[np.bool_]) -> Floats:
    """Return the loss of each forecast of up."""
    return np.square(p - is_up[:, None])


def earned(p: Floats, is_up: npt.NDArray[np.bool_], move_bps: Floats) -> Floats:
    """Return net basis points before costs, which all arms pay alike: long where up is likelier, else short."""
    moved = np.where(is_up, move_bps, -move_bps)
    return np.where(p > 0.5, 1.0, -1.0) * moved[:, None]


def moves(random: np.random.Generator, pairs: int) -> Floats:
    """Return how far the price went, with tails of Student's t with 3 degrees of freedom: sd MOVE_BPS."""
    return np.abs(random.standard_t(3, pairs)) * (MOVE_BPS / math.sqrt(3.0))


def equal(challengers: int) -> Make:
    """All forecasts are one half and a noise of their own."""

    def make(random: np.random.Generator, pairs: int) -> tuple[Floats, Floats]:
        is_up = random.random(pairs) < 0.5
        p = 0.5 + 0.05 * random.standard_normal((pairs, challengers + 1))
        return brier(p, is_up), earned(p, is_up, moves(random, pairs))

    return make


def clustered(random: np.random.Generator, pairs: int) -> tuple[Floats, Floats]:
    """Squared errors of returns with tails of t(3) and a volatility that lasts: losses are autocorrelated, and without a variance."""
    shocks = 0.3 * random.standard_normal(pairs)
    volatility = np.exp(autoregressive(shocks, 0.98))
    returns = MOVE_BPS * volatility * random.standard_t(3, pairs) / math.sqrt(3.0)
    said = np.sign(random.standard_normal((pairs, 2)))
    return np.square(returns[:, None] - said * volatility[:, None]), said * returns[:, None]


def autoregressive(shocks: Floats, share: float) -> Floats:
    """Return x with x[t] = share x[t - 1] + shocks[t]."""
    out = shocks.copy()
    remember()(out, share)
    return out


def by_turns(random: np.random.Generator, pairs: int) -> tuple[Floats, Floats]:
    """Each of two is right 55 % of the time for 500 pairs while the other guesses, then the other: equal in the long run only."""
    is_up = random.random(pairs) < 0.5
    is_first = (np.arange(pairs) // 500 + random.integers(2)) % 2 == 0
    p = np.full((pairs, 2), 0.5)
    said = np.where(random.random(pairs) < 0.55, is_up, ~is_up)
    p[np.arange(pairs), np.where(is_first, 0, 1)] = np.where(said, 0.55, 0.45)
    return brier(p, is_up), earned(p, is_up, moves(random, pairs))


def dependent(random: np.random.Generator, pairs: int) -> tuple[Floats, Floats]:
    """Differences of Brier scores whose neighbours correlate by 0.3: the null holds in the mean, not at each pair."""
    difference = 0.02 * autoregressive(random.standard_normal(pairs), 0.3)
    losses = np.full((pairs, 2), 0.25)
    losses[:, 1] -= difference
    return losses, np.full((pairs, 2), math.nan)


def calibrated(share: float, best: int = 1) -> Make:
    """One arm says `share` for what comes true in that share of all cases; the other says one half."""

    def make(random: np.random.Generator, pairs: int) -> tuple[Floats, Floats]:
        is_up = random.random(pairs) < 0.5
        p = np.full((pairs, 2), 0.5)
        said = np.where(random.random(pairs) < share, is_up, ~is_up)
        p[:, best] = np.where(said, share, 1.0 - share)
        return brier(p, is_up), earned(p, is_up, moves(random, pairs))

    return make


def overconfident(random: np.random.Generator, pairs: int) -> tuple[Floats, Floats]:
    """The champion guesses and says 60 %, the other says one half."""
    is_up = random.random(pairs) < 0.5
    p = np.full((pairs, 2), 0.5)
    p[:, 0] = np.where(random.random(pairs) < 0.5, 0.6, 0.4)
    return brier(p, is_up), earned(p, is_up, moves(random, pairs))


def returns_of(share: float) -> Make:
    """Returns with tails of t(3) and a lasting volatility, of whose variance a challenger explains `share`; the champion says zero."""

    def make(random: np.random.Generator, pairs: int) -> tuple[Floats, Floats]:
        volatility = np.exp(autoregressive(0.1 * random.standard_normal(pairs), 0.98))
        known = volatility * random.standard_normal(pairs) * math.sqrt(share)
        rest = volatility * random.standard_t(3, pairs) * math.sqrt((1.0 - share) / 3.0)
        said = np.stack([np.zeros(pairs), known], axis=1)
        return np.square((known + rest)[:, None] - said), np.full((pairs, 2), math.nan)

    return make


def costly(random: np.random.Generator, pairs: int) -> tuple[Floats, Floats]:
    """A challenger with the better score that earns less than the champion, just as much less as the margin."""
    losses, _ = calibrated(0.6)(random, pairs)
    nets = random.standard_t(3, (pairs, 2)) * (MOVE_BPS / math.sqrt(3.0))
    nets[:, 1] -= MARGIN_BPS
    return losses, nets


@dataclass(frozen=True)
class Outcome:
    """What became of `runs` runs."""

    runs: int
    times: npt.NDArray[np.int64]  # pairs until the decision, of the runs that came to one

    @property
    def share(self) -> float:
        """Of runs that came to a decision."""
        return len(self.times) / self.runs

    def within(self, quantile: float) -> int | None:
        """Pairs within which that share of all runs was decided; None if not so many were."""
        rank = math.ceil(quantile * self.runs)
        return int(np.sort(self.times)[rank - 1]) if rank <= len(self.times) else None


def simulate(
    make: Make, *, runs: int, pairs: int, seed: int, challengers: int = 1, is_bounded: bool = True, with_net: bool = True,
    is_rollback: bool = False, pairs_min: int = PAIRS_MIN,
) -> Outcome:  # fmt: skip
    """Run the contest `runs` times. is_rollback: arm 0 has just been promoted over arm 1, which is `previous`."""
    times = []
    for run in range(runs):
        losses, nets = make(np.random.default_rng([seed, run]), pairs)
        state = contest_new(challengers + 1, is_bounded=is_bounded, champion=1 if is_rollback else 0)
        for arm in range(challengers):
            contest_enter(state, 0 if is_rollback else arm + 1)
        if is_rollback:
            contest_promote(state, 0)
        if not with_net:
            nets = np.full_like(losses, math.nan)
        at = decide()(state, losses, nets, ALPHA, pairs_min, MARGIN_BPS)
        if at >= 0:
            times.append(at)
    return Outcome(runs, np.array(times, np.int64))


def watch(make: Make, *, runs: int, pairs: int, seed: int, least: int = 30) -> Outcome:
    """Make a one-sided z-test of 5 % at each pair from `least` on, on the runs that `simulate` is given; any challenger counts."""
    times = []
    for run in range(runs):
        losses, _ = make(np.random.default_rng([seed, run]), pairs)
        found = [look()(losses[:, 0] - losses[:, arm], least, 1.6449) for arm in range(1, losses.shape[1])]
        if any(at >= 0 for at in found):
            times.append(min(at for at in found if at >= 0))
    return Outcome(runs, np.array(times, np.int64))


NULLS: dict[str, tuple[str, Make, int, bool]] = {
    # what is said of it, how it is made, challengers, whether losses lie in [0, 1]
    "equal": ("equal forecasters", equal(1), 1, True),
    "three": ("equal forecasters, 3 challengers at once", equal(3), 3, True),
    "clustered": ("squared errors, tails of t(3), lasting volatility", clustered, 1, False),
}
BEYOND: dict[str, tuple[str, Make, int, bool]] = {
    # Equal in the mean over time, but not at each pair: what the promise does not cover.
    "dependent": ("not promised: neighbouring differences correlate by 0.3", dependent, 1, True),
    "by turns": ("not promised: each is better for 500 pairs, by turns", by_turns, 1, True),
}


def false_promotions(runs: int, pairs: int) -> list[str]:
    lines = [
        f"| equal models, {pairs:,} pairs, {runs:,} runs | promoted | z-test at each look |",
        "| --- | --- | --- |",
    ]
    for seed, (name, make, challengers, is_bounded) in enumerate([*NULLS.values(), *BEYOND.values()]):
        ours = simulate(
            make, runs=runs, pairs=pairs, seed=seed, challengers=challengers, is_bounded=is_bounded, with_net=False
        )
        theirs = watch(make, runs=runs, pairs=pairs, seed=seed)
        lines.append(f"| {name} | {100 * ours.share:.1f} % | {100 * theirs.share:.1f} % |")
    ours = simulate(costly, runs=runs, pairs=pairs, seed=50)
    lines.append(f"| 60 % right, but earns 0.5 bps less, which is the margin | {100 * ours.share:.1f} % | |")
    return lines


def power(runs: int) -> list[str]:
    lines = ["| pairs until | median | 90 % of runs | decided |", "| --- | --- | --- | --- |"]
    cases: list[tuple[str, Make, int, dict[str, Any]]] = []
    for share, pairs in ((0.52, 60_000), (0.55, 12_000), (0.6, 6_000)):
        cases.append(
            (
                f"promotion of a calibrated {share:.0%} challenger, score alone",
                calibrated(share),
                pairs,
                {"with_net": False},
            )
        )
        cases.append(("the same, with the bound on net basis points", calibrated(share), pairs, {}))
    for share, pairs in ((0.002, 40_000), (0.01, 20_000)):
        cases.append(
            (
                f"promotion where {share:.1%} of the variance of returns is explained",
                returns_of(share),
                pairs,
                {"is_bounded": False},
            )
        )
    for share, pairs in ((0.52, 60_000), (0.55, 12_000), (0.6, 6_000)):
        cases.append(
            (
                f"rollback of a guess of 50 % to a calibrated {share:.0%}",
                calibrated(share, best=1),
                pairs,
                {"is_rollback": True},
            )
        )
    cases.append(("rollback of a guess that says 60 % to one of 50 %", overconfident, 6_000, {"is_rollback": True}))
    for name, make, pairs, options in cases:
        found = simulate(make, runs=runs, pairs=pairs, seed=100, **options)
        median, most = ("-" if (value := found.within(quantile)) is None else f"{value:,}" for quantile in (0.5, 0.9))
        lines.append(f"| {name} | {median} | {most} | {100 * found.share:.1f} % |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/promotion.md")
    arguments = parser.parse_args()
    for name, lines in (
        ("false promotions", false_promotions(arguments.runs, arguments.pairs)),
        ("power", power(arguments.runs)),
    ):
        text = "\n".join(lines)
        print(text, end="\n\n", flush=True)
        if arguments.write:
            page = PAGE.read_text()
            place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            PAGE.write_text(place.sub(rf"\g<1>{text}\n\g<2>", page))


if __name__ == "__main__":
    main()
