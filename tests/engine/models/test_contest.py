import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.jit import compile_function
from engine.models.contest import (
    CONTEST,
    LOG_E,
    champion_of,
    contest_answer,
    contest_enter,
    contest_hold,
    contest_leave,
    contest_new,
    contest_promote,
    contest_rollback,
    log_threshold,
    previous_of,
    retiring,
    standing,
    vacant,
)
from engine.models.evidence import evidence
from engine.models.lower_bound import BOUND, bound_start, bound_step, lower_bound

Floats = npt.NDArray[np.float64]
ALPHA, PAIRS_MIN, MARGIN = 0.05, 200, 0.5
NAN = math.nan


def answer(state: Floats, losses: list[float], nets: list[float] | None = None) -> int:
    said = [NAN] * len(losses) if nets is None else nets
    return contest_answer(state, np.array(losses), np.array(said), ALPHA, PAIRS_MIN, MARGIN)


def until_decided(
    state: Floats, losses: list[float], nets: list[float] | None = None, most: int = 2_000
) -> tuple[int, int]:
    """The arm that is decided for, and after how many pairs; -1 if none is within `most`."""
    for pairs in range(1, most + 1):
        if (arm := answer(state, losses, nets)) >= 0:
            return arm, pairs
    return -1, most


def two() -> Floats:
    state = contest_new(3, is_bounded=True)
    contest_enter(state, 1)
    return state


def test_a_challenger_that_is_always_better_is_promoted_at_the_least_number_of_pairs_and_not_before() -> None:
    state = two()
    assert until_decided(state, [0.5, 0.1, NAN]) == (1, PAIRS_MIN)
    assert champion_of(state) == 0  # whoever asked decides
    contest_promote(state, 1)
    assert (champion_of(state), previous_of(state)) == (1, 0)


def test_evidence_alone_decides_once_there_are_pairs_enough() -> None:
    """E by its own steps, against j (j + 1) / alpha = 40."""
    state, by_hand, is_due = two(), (0.0, 0.0, 0.0, 0.0), False
    random = np.random.default_rng(5)
    for _ in range(5_000):
        losses = [0.25, 0.2025 if random.random() < 0.56 else 0.3025, NAN]
        by_hand = evidence(*by_hand, losses[0] - losses[1])
        is_due = by_hand[3] >= PAIRS_MIN and by_hand[0] >= math.log(40.0)
        assert answer(state, losses) == (1 if is_due else -1)
        if is_due:
            break
    assert is_due
    assert standing(state, 1).threshold == pytest.approx(40.0)


def test_the_worse_and_the_equal_are_never_promoted() -> None:
    assert until_decided(two(), [0.1, 0.5, NAN])[0] == -1
    assert until_decided(two(), [0.3, 0.3, NAN])[0] == -1


def test_each_challenger_ever_started_raises_the_threshold_of_the_next() -> None:
    state = contest_new(4, is_bounded=True)
    answer(state, [0.2, NAN, NAN, NAN])
    for turn in range(1, 5):
        contest_enter(state, 1)
        assert standing(state, 1).threshold == pytest.approx(turn * (turn + 1) / ALPHA)
        contest_leave(state, 1)
    assert sum(1.0 / math.exp(log_threshold(j, ALPHA)) for j in range(1, 10_000)) == pytest.approx(ALPHA, rel=1e-3)
    assert math.exp(log_threshold(0, ALPHA)) == pytest.approx(1.0 / ALPHA)


def test_a_challenger_that_earns_less_than_the_margin_allows_is_not_promoted() -> None:
    assert until_decided(two(), [0.5, 0.1, NAN], [0.0, -1.0, NAN])[0] == -1
    assert until_decided(two(), [0.5, 0.1, NAN], [0.0, 1.0, NAN]) == (1, PAIRS_MIN)
    assert until_decided(two(), [0.5, 0.1, NAN], [0.0, 0.0, NAN]) == (1, PAIRS_MIN)


def test_the_net_bound_is_held_to_the_same_share_of_alpha_as_the_evidence() -> None:
    state = contest_new(3, is_bounded=True)
    contest_enter(state, 1)
    contest_enter(state, 2)
    by_hand = np.zeros(BOUND)
    bound_start(by_hand, 0)
    for net in np.random.default_rng(6).normal(1.0, 4.0, 300).tolist():
        answer(state, [0.2, NAN, 0.2], [0.0, NAN, net])
        bound_step(by_hand, 0, net, math.log(6.0 / ALPHA))
    assert standing(state, 2).net_bound == lower_bound(by_hand, 0, math.log(6.0 / ALPHA))
    assert standing(state, 2).net_pairs == 300


def test_the_first_pairs_of_a_fresh_challenger_are_not_counted() -> None:
    state = contest_new(2, is_bounded=True)
    contest_enter(state, 1, 50)
    for _ in range(49):
        answer(state, [0.9, 0.1], [0.0, 5.0])
    found = standing(state, 1)
    assert (found.pairs, found.net_pairs, found.warming, found.e_value) == (0, 0, 1, 1.0)
    assert math.isnan(found.mean_difference)
    assert math.isnan(found.net_bound)
    assert until_decided(state, [0.9, 0.1], [0.0, 5.0]) == (1, PAIRS_MIN + 1)


def test_an_arm_that_says_nothing_has_no_pair_and_neither_has_anyone_when_the_champion_is_silent() -> None:
    state = two()
    answer(state, [0.2, NAN, NAN])
    answer(state, [NAN, 0.2, NAN])
    answer(state, [0.2, 0.2, NAN])
    assert standing(state, 1).pairs == 1


def test_after_a_promotion_all_begin_anew_and_the_old_champion_is_held_against_the_new_one() -> None:
    state = contest_new(5, is_bounded=True)
    for arm in (3, 1, 2):
        contest_enter(state, arm)
    contest_leave(state, 1)
    for _ in range(300):
        answer(state, [0.5, NAN, 0.1, 0.2, NAN])
    contest_promote(state, 2)
    roles = [standing(state, arm).role for arm in range(5)]
    assert roles == ["previous", "absent", "champion", "challenger", "absent"]
    found = standing(state, 3)
    assert (found.order, found.pairs, found.e_value) == (1, 0, 1.0)
    assert standing(state, 0).threshold == pytest.approx(1.0 / ALPHA)
    assert math.isnan(standing(state, 2).threshold)
    contest_enter(state, 1)
    assert standing(state, 1).order == 2


def test_a_bad_promotion_is_rolled_back_at_one_over_alpha_without_waiting_for_pairs_or_profits() -> None:
    state = two()
    contest_promote(state, 1)
    arm, pairs = until_decided(state, [0.1, 0.6, NAN], [-9.0, 0.0, NAN])
    assert arm == previous_of(state) == 0
    assert pairs < PAIRS_MIN
    assert standing(state, 0).e_value >= 1.0 / ALPHA
    assert contest_rollback(state) == 0
    assert [standing(state, arm).role for arm in range(3)] == ["champion", "challenger", "absent"]
    assert standing(state, 1).order == 1
    with pytest.raises(ModelError, match="no previous champion"):
        contest_rollback(state)


def test_a_second_promotion_makes_the_previous_of_before_an_ordinary_challenger_the_last_in_order() -> None:
    state = contest_new(4, is_bounded=True)
    for arm in (1, 2, 3):
        contest_enter(state, arm)
    contest_promote(state, 1)
    contest_promote(state, 3)
    assert previous_of(state) == 1
    assert [(standing(state, arm).role, standing(state, arm).order) for arm in range(4)] == [
        ("challenger", 2), ("previous", 0), ("challenger", 1), ("champion", 0),
    ]  # fmt: skip


def test_promoting_the_previous_champion_by_hand_leaves_the_other_as_previous() -> None:
    state = two()
    contest_promote(state, 1)
    contest_promote(state, 0)
    assert (champion_of(state), previous_of(state)) == (0, 1)


def test_a_held_contest_gathers_evidence_and_decides_nothing() -> None:
    state = two()
    contest_hold(state, True)
    assert until_decided(state, [0.5, 0.1, NAN], most=500)[0] == -1
    assert standing(state, 1).e_value > 1e6
    contest_hold(state, False)
    assert answer(state, [0.5, 0.1, NAN]) == 1


def test_of_two_that_are_due_the_one_further_beyond_its_threshold_wins() -> None:
    state = contest_new(3, is_bounded=True)
    contest_enter(state, 1)
    contest_enter(state, 2)
    assert until_decided(state, [0.6, 0.3, 0.1]) == (2, PAIRS_MIN)


@pytest.mark.parametrize("arm", [0, 2, 3, -1])
def test_what_is_no_challenger_cannot_be_promoted(arm: int) -> None:
    with pytest.raises(ModelError, match=f"arm {arm}: expected"):
        contest_promote(two(), arm)


def test_places_are_given_once_and_the_champion_does_not_leave() -> None:
    state = two()
    assert vacant(state) == 2
    with pytest.raises(ModelError, match="arm 1: expected absent, found challenger"):
        contest_enter(state, 1)
    with pytest.raises(ModelError, match="arm 0: expected challenger or previous, found champion"):
        contest_leave(state, 0)
    contest_promote(state, 1)
    contest_leave(state, 0)
    assert previous_of(state) == -1
    contest_enter(state, 0)
    contest_enter(state, 2)
    assert vacant(state) == -1


def test_the_drift_started_challenger_with_the_least_evidence_makes_room() -> None:
    state = contest_new(6, is_bounded=True)
    assert retiring(state) == -1
    contest_enter(state, 1)
    for arm in (2, 3, 4, 5):
        contest_enter(state, arm, by_drift=True)
    for second, third, fifth in ((0.4, 0.1, 0.4), (0.4, 0.1, 0.9), (0.49, 0.1, 0.9)):
        answer(state, [0.5, 0.9, second, third, NAN, fifth])
    assert state[5, LOG_E] < 0.0 < state[2, LOG_E] < state[3, LOG_E]
    assert retiring(state) == 5  # 4 showed nothing yet, neither good nor bad
    contest_leave(state, 5)
    assert retiring(state) == 4
    contest_leave(state, 4)
    contest_promote(state, 2)
    assert retiring(state) == 3
    contest_leave(state, 3)
    assert retiring(state) == -1  # the configured one, the champion and the previous one stay


def test_of_drift_started_challengers_without_evidence_the_one_that_had_more_pairs_makes_room() -> None:
    state = contest_new(3, is_bounded=True)
    contest_enter(state, 1, by_drift=True)
    contest_enter(state, 2, by_drift=True)
    answer(state, [0.5, NAN, 0.9])
    assert retiring(state) == 2


def test_squared_errors_of_any_size_are_compared_in_units_of_what_came_before() -> None:
    results = []
    for unit in (1.0, 1e-12, 1e9):
        state = contest_new(2, is_bounded=False)
        contest_enter(state, 1)
        random = np.random.default_rng(7)
        for _ in range(400):
            errors = random.standard_normal(2) * [1.2, 1.0]
            answer(state, (np.square(errors) * unit).tolist())
        found = standing(state, 1)
        results.append((found.e_value, found.mean_difference / unit, found.truncated))
    assert results[0][0] > 1.0
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-6)


def test_a_champion_that_explodes_loses_and_the_contest_goes_on() -> None:
    state = contest_new(2, is_bounded=False)
    contest_enter(state, 1)
    for _ in range(50):
        answer(state, [1.0, 1.0 + 1e-3])
    assert until_decided(state, [math.inf, 1.0]) == (1, PAIRS_MIN - 50)
    assert standing(state, 1).truncated == PAIRS_MIN - 50
    assert answer(state, [math.inf, math.inf]) == 1


LOSS = st.one_of(st.floats(0.0, 1.0), st.just(NAN))
ROWS = st.lists(st.tuples(LOSS, LOSS, LOSS, st.floats(-50.0, 50.0)), max_size=12)


@cache
def compiled() -> Any:
    return compile_function(
        contest_answer, "int64(float64[:, ::1], float64[::1], float64[::1], float64, int64, float64)", "the contest"
    )


@settings(max_examples=30)
@given(ROWS, st.integers(0, 12), st.booleans())
def test_compiled_or_not_and_resumed_from_a_copy_the_bits_are_the_same(rows: Any, cut: int, is_bounded: bool) -> None:
    straight, resumed = contest_new(3, is_bounded=is_bounded), contest_new(3, is_bounded=is_bounded)
    for state in (straight, resumed):
        contest_enter(state, 1, 2)
        contest_enter(state, 2)
    for at, (first, second, third, net) in enumerate(rows):
        if at == cut:
            resumed = resumed.copy()
        losses, nets = np.array([first, second, third]), np.array([0.0, net, -net])
        said = contest_answer(straight, losses, nets, ALPHA, 3, MARGIN)
        assert compiled()(resumed, losses, nets, ALPHA, 3, MARGIN) == said
    assert straight.tobytes() == resumed.tobytes()
    assert straight.shape == (4, CONTEST)
