import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.jit import compile_function
from engine.models.evidence import BET_MAX, SCALE, SHRINKAGE, bet_of, evidence, rescaled, scale_of, truncated
from engine.models.lower_bound import BOUND, CUT, PAIRS, bound_scale, bound_start, bound_step, lower_bound

DIFFERENCES = st.lists(st.floats(-1.0, 1.0), max_size=40)
SURPRISE = math.log(40.0)


def e_value_by_definition(differences: list[float]) -> float:
    """The product of 1 + lambda d, lambda from the list of what came before."""
    value = 1.0
    for at, difference in enumerate(differences):
        past = np.array(differences[:at])
        bet = 0.0
        if at and past.sum() > 0.0 and np.square(past).sum() > 0.0:
            bet = min(max(past.sum() / (at + SHRINKAGE) / np.square(past).mean(), 0.0), BET_MAX)
        value *= 1.0 + bet * difference
    return value


def run(differences: list[float]) -> tuple[float, float, float, float]:
    state = (0.0, 0.0, 0.0, 0.0)
    for difference in differences:
        state = evidence(*state, difference)
    return state


@given(DIFFERENCES)
def test_evidence_is_the_product_of_its_definition(differences: list[float]) -> None:
    assert math.exp(run(differences)[0]) == pytest.approx(e_value_by_definition(differences), rel=1e-9)


@given(DIFFERENCES)
def test_evidence_never_reaches_zero_and_a_bet_stays_within_its_limits(differences: list[float]) -> None:
    log_e, total, squares, count = run(differences)
    assert math.isfinite(log_e)
    assert 0.0 <= bet_of(total, squares, count) <= BET_MAX


@given(DIFFERENCES, st.floats(0.0, 1.0))
def test_a_fair_pair_leaves_evidence_as_it_is_in_the_mean(differences: list[float], stake: float) -> None:
    state = run(differences)
    up, down = (math.exp(evidence(*state, sign * stake)[0]) for sign in (1.0, -1.0))
    assert (up + down) / 2.0 == pytest.approx(math.exp(state[0]), rel=1e-12)


def test_nothing_is_staked_before_a_pair_or_on_a_challenger_that_lost_so_far() -> None:
    assert bet_of(0.0, 0.0, 0.0) == 0.0
    assert bet_of(-3.0, 5.0, 10.0) == 0.0
    assert run([-0.5, -0.5, -0.5])[0] == 0.0


def test_evidence_for_an_obvious_difference_grows_beyond_what_a_float_holds() -> None:
    state = (0.0, 0.0, 0.0, 0.0)
    for _ in range(2_000):
        state = evidence(*state, 1.0)
    assert state[0] > 1_000.0


def test_the_scale_is_eight_root_mean_squares_of_what_came_before() -> None:
    mean_square, count = 0.0, 0.0
    random = np.random.default_rng(1)
    values = random.standard_normal(500).tolist()
    for value in values:
        mean_square, count = rescaled(mean_square, count, value)
    assert scale_of(mean_square) == pytest.approx(8.0 * math.sqrt(np.square(values).mean()))


def test_a_model_that_explodes_once_does_not_blind_the_scale() -> None:
    mean_square, count = 0.0, 0.0
    for _ in range(300):
        mean_square, count = rescaled(mean_square, count, 1.0)
    for value in (1e300, -math.inf):
        shaken, _ = rescaled(mean_square, count, value)
        assert scale_of(shaken) < 5.0 * scale_of(mean_square)
    assert rescaled(0.0, 0.0, math.inf) == (0.0, 0.0)


def test_the_scale_follows_a_volatility_that_rises_a_hundredfold_within_fifty_pairs() -> None:
    mean_square, count = 1.0, 1_000.0
    for _ in range(50):
        mean_square, count = rescaled(mean_square, count, 100.0)
    assert scale_of(mean_square) > 100.0


def test_a_difference_is_truncated_at_its_scale_on_both_sides() -> None:
    assert truncated(3.0, 4.0) == 0.75
    assert truncated(math.inf, 4.0) == 1.0
    assert truncated(-9.0, 4.0) == -1.0
    assert truncated(5.0, 0.0) == 0.0


def bound_of(values: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    state = np.zeros(BOUND)
    bound_start(state, 0)
    for value in values:
        bound_step(state, 0, value, SURPRISE)
    return state


def lower_bound_by_definition(values: list[float]) -> float:
    """The bound of the docstring, from lists."""
    weights: list[float] = []
    kept: list[float] = []
    penalties: list[float] = []
    mean_square, seen, squared = 1.0, 1.0, 0.0
    for at, value in enumerate(values):
        most = SCALE * math.sqrt(mean_square)
        mean = sum(kept) / (at + 1)
        reach = most + abs(mean)
        variance = (squared + mean_square) / (at + 1)
        share = min(0.75, reach * math.sqrt(2 * SURPRISE / (variance * (at + 1) * math.log(at + 2))))
        x = min(max(value, -most), most)
        weights.append(share / reach)
        penalties.append(((x - mean) / reach) ** 2 * (-math.log(1 - share) - share))
        squared += (x - mean) ** 2
        kept.append(x)
        mean_square, seen = rescaled(mean_square, seen, value)
    return (float(np.dot(weights, kept)) - sum(penalties) - SURPRISE) / sum(weights)


@given(st.lists(st.floats(-200.0, 200.0), min_size=1, max_size=30))
def test_the_lower_bound_is_that_of_its_definition(values: list[float]) -> None:
    assert lower_bound(bound_of(values), 0, SURPRISE) == pytest.approx(
        lower_bound_by_definition(values), rel=1e-9, abs=1e-9
    )


@given(st.floats(-1.0, 20.0), st.floats(0.01, 0.74))
def test_the_step_of_the_bound_is_that_of_a_supermartingale(y: float, share: float) -> None:
    """Fan, Grama and Liu: exp(share y - psi(share) y^2) <= 1 + share y for y >= -1, of which the promise follows."""
    psi = -math.log1p(-share) - share
    assert math.exp(share * y - psi * y * y) <= (1.0 + share * y) * (1.0 + 1e-12)


def test_the_bound_comes_near_the_mean_and_stays_below_it() -> None:
    values = np.random.default_rng(2).normal(2.0, 5.0, 20_000)
    state = bound_of(values.tolist())
    assert 1.7 < lower_bound(state, 0, SURPRISE) < values.mean()
    assert state[PAIRS] == 20_000


def test_without_a_pair_there_is_no_bound_and_a_scale_can_be_learned_all_the_same() -> None:
    state = bound_of([])
    for _ in range(5):
        bound_scale(state, 0, 100.0)
    assert lower_bound(state, 0, SURPRISE) == -math.inf
    bound_step(state, 0, 500.0, SURPRISE)
    assert state[CUT] == 0
    assert bound_of([500.0])[CUT] == 1


def test_positions_that_never_differ_end_just_below_zero() -> None:
    assert -0.05 < lower_bound(bound_of([0.0] * 1_000), 0, SURPRISE) < 0.0


def wrong(values: Any, mean: float, surprise: float) -> int:
    """Return whether the bound is above the mean after any of the values."""
    state = np.zeros(BOUND)
    bound_start(state, 0)
    for at in range(values.shape[0]):
        bound_step(state, 0, values[at], surprise)
        if lower_bound(state, 0, surprise) > mean:
            return 1
    return 0


@cache
def compiled() -> Callable[..., int]:
    return compile_function(wrong, "int64(float64[::1], float64, float64)", "a test of the lower bound")


def test_the_bound_is_wrong_at_any_time_in_fewer_runs_than_it_may_be() -> None:
    """At alpha 5 %, looked at after each of 5,000 values: of normal, and of t(3) ones. 200 runs: binomial, mean 10."""
    for has_tails in (False, True):
        found = 0
        for run in range(200):
            random = np.random.default_rng([3, run])
            values = 3.0 * random.standard_t(3, 5_000) if has_tails else random.normal(0.0, 5.0, 5_000)
            found += compiled()(values, 0.0, math.log(20.0))
        assert found <= 16
