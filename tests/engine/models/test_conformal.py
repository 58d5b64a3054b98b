"""Intervals and class sets hold the outcome at the promised rate: proved for any sequence, measured where answers come late and overlap."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.interval_coverage import changing, compiled, fold, ledger, recorded_moves, thresholds
from engine.models.conformal import (
    ALPHA,
    EMPTY,
    GAMMA,
    HELD,
    JUDGED,
    MISSED,
    RING,
    SCORES,
    SCORES_MIN,
    SORTED,
    conformal_answer,
    conformal_ask,
    conformal_new,
    conformal_size,
    coverage_of,
    interval_of,
    set_mask,
)
from engine.models.layout import HEAD, LABEL

Floats = npt.NDArray[np.float64]
HORIZON_NS = 60_000_000_000


def hits(labels: Floats, coverage: float, horizon: int = 1) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Return which outcomes around 0 were held once there was an interval, and the half-widths."""
    said = thresholds(labels, np.zeros((len(labels), 1)), coverage, np.arange(len(labels)), horizon)
    start = int(np.argmax(np.isfinite(said)))
    return (np.abs(labels) <= said)[start:], said[start:]


@pytest.mark.parametrize("coverage", [0.9, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_outcomes_of_one_distribution_are_held_at_the_promised_rate(coverage: float, seed: int) -> None:
    held, _ = hits(np.random.default_rng(seed).standard_normal(20_000), coverage)
    assert held.mean() == pytest.approx(coverage, abs=0.003)


@pytest.mark.parametrize("coverage", [0.9, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_changing_volatility_is_followed(coverage: float, seed: int) -> None:
    held, said = hits(changing(30_000, seed), coverage)
    assert held.mean() == pytest.approx(coverage, abs=0.003)
    windows = held[: len(held) // 1_000 * 1_000].reshape(-1, 1_000).mean(axis=1)
    assert windows.min() > coverage - 0.03
    assert windows.max() < coverage + 0.03
    assert np.isinf(said).mean() < 0.05


@pytest.mark.parametrize("coverage", [0.9, 0.95])
@pytest.mark.parametrize("overlap", [5, 42, 200])
def test_late_and_overlapping_answers_cost_no_coverage(coverage: float, overlap: int) -> None:
    labels = changing(500 * overlap if overlap > 40 else 20_000, 0, overlap)
    held, said = hits(labels, coverage, overlap)
    assert held.mean() == pytest.approx(coverage, abs=0.01)
    # One move of the price is a miss of all that wait. Were each a step of its own, most intervals would be infinite.
    assert np.isinf(said).mean() < 0.13
    assert (said > 0.0).all()


@pytest.mark.parametrize("coverage", [0.9, 0.95])
@pytest.mark.parametrize("is_reverting", [False, True])
def test_moves_of_recorded_trades_over_a_minute_are_held_at_the_promised_rate(
    coverage: float, is_reverting: bool
) -> None:
    labels, clock, before = recorded_moves(HORIZON_NS)
    value = -0.3 * before if is_reverting else np.zeros(len(labels))
    said = thresholds(labels, value[:, np.newaxis], coverage, clock, HORIZON_NS)
    held = (np.abs(labels - value) <= said)[np.argmax(np.isfinite(said)) :]
    assert len(held) > 3_500
    assert held.mean() == pytest.approx(coverage, abs=0.01)


@pytest.mark.parametrize("coverage", [0.9, 0.95])
@pytest.mark.parametrize("overlap", [1, 42])
def test_sets_of_classes_hold_the_outcome_at_the_promised_rate(coverage: float, overlap: int) -> None:
    rng = np.random.default_rng(1)
    moves = changing(20_000, 1, overlap)
    moves /= moves.std()
    labels = np.digitize(moves, [-0.5, 0.5])
    guess = np.eye(3)[np.digitize(moves + rng.standard_normal(len(moves)), [-0.5, 0.5])]
    odds = np.exp(guess + 0.3 * rng.standard_normal((len(moves), 3)))
    chances = odds / odds.sum(axis=1)[:, np.newaxis]
    said = thresholds(labels.astype(float), chances, coverage, np.arange(len(moves)), overlap, is_class=True)
    start = int(np.argmax(np.isfinite(said)))
    sets = (1.0 - chances <= said[:, np.newaxis])[start:]
    assert sets[np.arange(len(sets)), labels[start:]].mean() == pytest.approx(coverage, abs=0.01)
    assert sets.sum(axis=1).mean() < 2.9


@settings(max_examples=12)
@given(st.lists(st.sampled_from([0.0, 1e-3, 1.0, -1.0, 5.0, 1e300]), max_size=300), st.sampled_from([0.5, 0.9, 0.95]))
def test_any_sequence_at_all_is_held_as_proposition_4_1_says(labels: list[float], coverage: float) -> None:
    state = conformal_new(coverage)
    alpha = 1.0 - coverage
    row = np.zeros(HEAD + 2)
    # More of the same bring alpha to its ends, and hypothesis' own come where it hurts.
    for label in [0.0] * SCORES_MIN + labels + [0.0] * 1_500 + labels:
        conformal_ask(state, row, HEAD, 1, False)
        row[LABEL] = label
        conformal_answer(state, row, HEAD, 1, False, coverage)
        judged = state[JUDGED]
        if judged:
            bound = (max(alpha, 1.0 - alpha) + GAMMA) / (judged * GAMMA)
            assert abs(state[MISSED] / judged - alpha) <= bound + 1e-12
        assert -GAMMA <= state[ALPHA] <= 1.0 + GAMMA


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 1_400), st.integers(1, 9))
def test_the_sorted_scores_are_those_of_the_ring(seed: int, count: int, distinct: int) -> None:
    labels = np.random.default_rng(seed).integers(0, distinct, count).astype(float)
    state = conformal_new(0.9)
    row = np.zeros(HEAD + 2)
    for label in labels:
        row[LABEL] = label
        conformal_answer(state, row, HEAD, 1, False, 0.9)
    held = int(state[HELD])
    assert held == min(count, SCORES)
    assert sorted(labels[-SCORES:] if count else []) == list(state[SORTED : SORTED + held])
    assert sorted(state[RING : RING + held]) == list(state[SORTED : SORTED + held])


def test_the_threshold_is_the_quantile_of_split_conformal_prediction() -> None:
    labels = np.random.default_rng(4).standard_normal(400)
    state = conformal_new(0.9)
    row = np.zeros(HEAD + 2)
    for label in labels:
        row[LABEL], row[HEAD + 1] = label, math.nan  # nothing was said: alpha stays as it is
        conformal_answer(state, row, HEAD, 1, False, 0.9)
    conformal_ask(state, row, HEAD, 1, False)
    assert row[HEAD + 1] == np.quantile(np.abs(labels), math.ceil(401 * 0.9) / 400, method="inverted_cdf")


@pytest.mark.parametrize("cut", [1, 47, 4_000, 9_999])
def test_a_copied_state_goes_on_as_the_original_and_uncompiled_steps_give_the_same_bits(cut: int) -> None:
    labels = changing(10_000, 3, 42)
    rows = ledger(labels, np.zeros((len(labels), 1)), np.arange(len(labels)) * 7, 42 * 7)
    straight, parted = rows.copy(), rows.copy()
    whole = conformal_new(0.9)
    compiled()(whole, straight, 0, 0, 1, False, 0.9)
    state = conformal_new(0.9)
    done = compiled()(state, parted[:cut], 0, 0, 1, False, 0.9)
    copied = state.copy()
    compiled()(copied, parted, cut, done, 1, False, 0.9)
    assert copied.tobytes() == whole.tobytes()
    assert parted.tobytes() == straight.tobytes()
    if cut == 4_000:
        plain = conformal_new(0.9)
        fold(plain, rows[:cut], 0, 0, 1, False, 0.9)
        assert plain.tobytes() == state.tobytes()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [LABEL, HEAD])
@pytest.mark.parametrize("is_class", [False, True])
def test_what_is_not_finite_changes_nothing(value: float, place: int, is_class: bool) -> None:
    state = conformal_new(0.9)
    row = np.zeros(HEAD + 3)
    for at in range(100):
        row[LABEL] = at % 2
        conformal_answer(state, row, HEAD, 2, is_class, 0.9)
        conformal_ask(state, row, HEAD, 2, is_class)
    before = state.copy()
    row[LABEL], row[place] = 0.0, value
    conformal_answer(state, row, HEAD, 2, is_class, 0.9)
    assert state.tobytes() == before.tobytes()


def test_nothing_is_judged_before_the_first_threshold_and_everything_after_it() -> None:
    state = conformal_new(0.9)
    row = np.zeros(HEAD + 2)
    for _ in range(SCORES_MIN):
        conformal_ask(state, row, HEAD, 1, False)
        assert row[HEAD + 1] == math.inf
        row[LABEL] = 1.0
        conformal_answer(state, row, HEAD, 1, False, 0.9)
    assert (state[ALPHA], coverage_of(state)[0]) == (1.0 - 0.9, 0)
    conformal_ask(state, row, HEAD, 1, False)
    assert row[HEAD + 1] == 1.0
    conformal_answer(state, row, HEAD, 1, False, 0.9)
    assert coverage_of(state) == (1, 1.0)
    row[HEAD + 1], row[LABEL] = math.inf, 9.0  # everything was said to be possible: a hit like any other
    conformal_answer(state, row, HEAD, 1, False, 0.9)
    assert coverage_of(state) == (2, 1.0)
    row[HEAD + 1] = 1.0
    conformal_answer(state, row, HEAD, 1, False, 0.9)
    assert coverage_of(state) == (3, 1.0 - 1.0 / 3.0)


def test_beyond_its_ends_alpha_says_everything_or_nothing() -> None:
    state = conformal_new(0.9)
    row = np.zeros(HEAD + 4)
    row[HEAD : HEAD + 3] = 0.2, 0.3, 0.5
    state[HELD] = 100.0
    state[ALPHA] = 0.0
    conformal_ask(state, row, HEAD, 3, True)
    assert (row[HEAD + 3], set_mask(row, HEAD, 3)) == (math.inf, 0b111)
    state[ALPHA] = 1.0
    conformal_ask(state, row, HEAD, 3, True)
    assert (row[HEAD + 3], set_mask(row, HEAD, 3)) == (EMPTY, 0)
    row[HEAD + 3] = 0.7
    assert set_mask(row, HEAD, 3) == 0b110
    row[HEAD : HEAD + 2] = 2.0, EMPTY
    assert interval_of(row, HEAD) == (2.0, 2.0)
    row[HEAD + 1] = 0.5
    assert interval_of(row, HEAD) == (1.5, 2.5)
    row[HEAD + 1] = math.inf
    assert interval_of(row, HEAD) == (-math.inf, math.inf)


def test_coverage_of_nothing_is_not_a_number() -> None:
    assert len(conformal_new(0.9)) == conformal_size()
    judged, share = coverage_of(conformal_new(0.9))
    assert judged == 0
    assert math.isnan(share)
