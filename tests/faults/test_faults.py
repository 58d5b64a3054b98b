"""The feeds under every failure that is known from production: alone, and in mixtures drawn from seeds.

A failing mixture is repeated exactly, with all that was heard, by `python -m tests.faults.table --mixture SEED`; a failure alone by
`--case NAME --seed SEED`. `make soak` plays 1,000 mixtures, and each failure with ten seeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from replay.exchange import fault_plan as plan
from replay.history import fold_journal
from tests.faults.cases import Case, mixture, singles
from tests.faults.invariants import Bounds, violations
from tests.faults.world import Outcome, Scenario, new_fold, play

SEEDS = 50
SOAK_SEEDS = 1_000


def judge(outcome: Outcome, bounds: Bounds, again: str) -> None:
    """Fail with all that a run did wrong, the plan of its faults, and how to repeat it."""
    found = violations(outcome, bounds)
    assert not found, "\n".join(
        [
            f"seed {outcome.seed}: {len(found)} violations",
            *found[:30],
            "",
            outcome.scenario.toml(),
            *(f"# {weather}" for weather in (*outcome.scenario.weather, *outcome.scenario.held)),
            f"again: python -m tests.faults.table {again}",
        ]
    )


@pytest.mark.parametrize("case", singles(), ids=str)
def test_a_failure_alone_breaks_no_law(case: Case) -> None:
    judge(play(case.scenario, seed=case.number), case.bounds, f"--case '{case}' --seed {case.number}")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_mixture_of_failures_breaks_no_law(seed: int) -> None:
    scenario, bounds = mixture(seed)
    judge(play(scenario, seed=seed), bounds, f"--mixture {seed}")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(SEEDS, SOAK_SEEDS))
def test_a_thousand_mixtures_break_no_law(seed: int) -> None:
    scenario, bounds = mixture(seed)
    judge(play(scenario, seed=seed), bounds, f"--mixture {seed}")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 110))
@pytest.mark.parametrize("case", singles(), ids=str)
def test_a_failure_alone_breaks_no_law_whatever_the_seed(case: Case, seed: int) -> None:
    judge(play(case.scenario, seed=seed), case.bounds, f"--case '{case}' --seed {seed}")


def test_a_mixture_repeats_bit_for_bit() -> None:
    scenario, _ = mixture(7)
    assert play(scenario, seed=7).digest() == play(scenario, seed=7).digest()


@pytest.mark.parametrize("status", [0, 503])
def test_a_dial_that_is_turned_away_was_one_dial(status: Literal[0, 503]) -> None:
    faults = (plan.Close(at_s=5, code=1006), plan.Refuse(at_s=5, for_s=10, on=("upgrade",), status=status))
    outcome = play(Scenario(faults=faults, seconds=30.0))
    turned_away = [one for one in outcome.done if one.kind == "refuse" and "upgrade" in one.detail]
    assert len(turned_away) > 2
    assert len(outcome.dials) == len(turned_away) + 2  # the first of all, and the one that was let in


def test_what_was_journaled_under_faults_folds_to_the_same_again(tmp_path: Path) -> None:
    scenario, _ = mixture(7)
    outcome = play(scenario, seed=7, journal=tmp_path)
    fold, strategy = new_fold()
    for _ in fold_journal(fold, tmp_path):
        pass
    assert fold.ingress.next_sequence - 1 == outcome.sequence
    assert strategy.heard == outcome.heard
