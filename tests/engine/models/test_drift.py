"""Drift is said where there is some, soon enough, and hardly ever where there is none, however long a stream remembers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import drift_power
from benchmarks.drift_power import Make, daily, drifts, errors, found_by, heavy, rare, remembering, series, signs
from engine.models.detectors import BATCH, REFERENCE, ROWS_MIN
from engine.models.drift import (
    FEATURE,
    HEAD,
    LOSS,
    PREDICTION,
    STREAM,
    THRESHOLD,
    drift_answer,
    drift_new,
    drift_size,
)

Floats = npt.NDArray[np.float64]


def fold(state: Floats, rows: Floats, losses: Floats) -> list[tuple[int, int, float]]:
    """Fold rows (a prediction, then features) from `state` on, compiled; return (row, stream, z) of each drift."""
    found = np.empty((1_000, 3))
    count = drift_power.fold()(state, np.ascontiguousarray(rows), losses, rows.shape[1] - 1, found)
    return [(int(row), int(stream), float(z)) for row, stream, z in found[:count]]


def changed(seed: int, before: int, count: int, features: int = 3) -> tuple[Floats, Floats]:
    """Return rows and losses of which all change at `before`: predictions spread, feature j moves by 3 - j / 2 sd, losses double."""
    random = np.random.default_rng(seed)
    rows, losses = series(random, count, 0.0, features + 1), errors(random, count)
    rows[before:, 0] *= 3.0
    for feature in range(features):
        rows[before:, 1 + feature] += 3.0 - feature / 2
    losses[before:] *= 2.0
    return rows, losses


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, 0.95, 0.98])
def test_a_stationary_stream_hardly_ever_drifts_however_long_it_remembers(memory: float) -> None:
    rows, losses = remembering(memory)(np.random.default_rng([8, round(100 * memory)]), 100_000)
    assert len(found_by(rows, losses)) <= 1


@pytest.mark.parametrize("make", [signs, rare, heavy])
def test_neither_do_streams_of_few_values_or_of_outliers(make: Make) -> None:
    rows, losses = make(np.random.default_rng(9), 100_000)
    assert len(found_by(rows, losses)) <= 2


def test_a_constant_stream_never_drifts_and_one_other_value_is_no_drift() -> None:
    rows, losses = np.ones((20_000, 3)), np.zeros(20_000)
    rows[5_000, 1] = 1e9
    losses[7_000] = 1e9
    assert len(found_by(rows, losses)) == 0


def test_a_wave_of_a_day_is_not_taken_for_a_drift_each_day() -> None:
    rows, losses = daily(np.random.default_rng(3), 30_000)
    assert len(found_by(rows, losses)) < 20  # in 13 streams and 21 days


@pytest.mark.parametrize(
    ("memory", "by", "spread", "within"),
    [(0.0, 1.0, 1.0, 256), (0.0, 2.0, 1.0, 96), (0.0, 0.0, math.sqrt(2.0), 1_100), (0.5, 1.0, 1.0, 512),
     (0.95, 2.0, 1.0, 3_000)],
)  # fmt: skip
def test_a_feature_that_moves_or_spreads_is_found_in_time(memory: float, by: float, spread: float, within: int) -> None:
    for seed in range(4):
        rows, losses = remembering(memory)(np.random.default_rng(seed), 5_000 + within)
        rows[5_000:, 4] = rows[5_000:, 4] * spread + by
        found = [(row, stream) for row, stream, _ in found_by(rows, losses) if row >= 5_000]
        assert found
        assert found[0][1] == FEATURE + 3


def test_a_loss_that_rises_by_a_fifth_is_found_and_one_that_falls_is_not() -> None:
    for seed in range(4):
        random = np.random.default_rng(seed)
        rows, losses = series(random, 8_000, 0.0), random.beta(4.0, 8.0, 8_000)
        better = losses.copy()
        losses[5_000:] *= 1.2
        better[5_000:] *= 0.5
        assert [int(stream) for _, stream, _ in found_by(rows, losses)][:1] == [LOSS]
        assert len(found_by(rows, better)) == 0


def test_predictions_that_become_bolder_are_a_drift_of_predictions() -> None:
    random = np.random.default_rng(5)
    rows = series(random, 4_000, 0.0)
    rows[3_000:, 0] *= 3.0
    found = found_by(rows, errors(random, 4_000))
    assert found[0, 1] == PREDICTION
    assert found[0, 0] < 3_200


def test_of_classes_the_expected_number_is_watched() -> None:
    random = np.random.default_rng(6)
    state = drift_new(0)
    found = []
    for at in range(1_400):
        chances = random.dirichlet([5.0, 5.0, 5.0] if at < 1_000 else [3.0, 5.0, 7.0])
        stream = drift_answer(state, chances, 0, 0, 0, 3, True, random.random())
        found += [(at, stream)] if stream >= 0 else []
    assert found[0][1] == PREDICTION
    assert 1_000 < found[0][0] < 1_200


def test_after_a_drift_its_stream_begins_anew_and_the_others_go_on() -> None:
    random = np.random.default_rng(7)
    rows, losses = series(random, 6_000, 0.0, 4), errors(random, 6_000)
    rows[2_000:, 1] += 3.0
    rows[4_000:, 1] -= 3.0
    rows[4_000:, 2] += 3.0
    found = found_by(rows, losses)
    assert sorted(int(stream) for stream in found[:, 1]) == [FEATURE, FEATURE, FEATURE + 1]
    state = drift_new(3)
    first = int(found[0, 0])
    assert fold(state, rows[: first + 1], losses[: first + 1])[-1][1] == FEATURE
    at = HEAD + FEATURE * STREAM
    assert not state[at : at + STREAM].any()
    assert state[at + STREAM + 1] == REFERENCE  # the next one holds what it held
    assert state[0] == found[0, 2] > state[THRESHOLD + 1]


def test_drifts_of_one_row_are_told_one_after_another_the_plainest_first() -> None:
    found = [one for one in fold(drift_new(3), *changed(1, 2_000, 2_200)) if one[0] < 2_060]
    assert len({stream for _, stream, _ in found}) == len(found) >= 3
    together = [one for one in found if one[0] - found[0][0] < len(found)]
    assert [z for _, _, z in together] == sorted((z for _, _, z in together), reverse=True)
    assert [row - found[0][0] for row, _, _ in together] == list(range(len(together)))


def test_another_champion_is_another_stream_of_losses_and_predictions() -> None:
    random = np.random.default_rng(2)
    state = drift_new(1)
    row = np.zeros(8)
    for at in range(3_000):
        # The new champion's outputs lie elsewhere, and are of another kind: that is no drift.
        out_at = 1 if at < 2_000 else 3
        row[0], row[out_at] = random.standard_normal(), random.standard_normal() + (9.0 if out_at == 3 else 0.0)
        assert drift_answer(state, row, 0, 1, out_at, 1, False, random.random() * out_at) == -1


@settings(max_examples=10)
@given(st.permutations(range(3)), st.integers(0, 50))
def test_a_permutation_of_features_permutes_drifts(order: list[int], seed: int) -> None:
    rows, losses = changed(seed, 1_000, 1_400)
    mixed = np.ascontiguousarray(rows[:, [0, *(1 + feature for feature in order)]])
    names = {LOSS: LOSS, PREDICTION: PREDICTION, **{FEATURE + at: FEATURE + old for at, old in enumerate(order)}}
    there = [(row, names[stream], z) for row, stream, z in fold(drift_new(3), mixed, losses)]
    assert there == fold(drift_new(3), rows, losses)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 1_500), max_size=4), st.integers(0, 50))
def test_any_cut_and_any_copied_state_give_the_same_drifts_and_bits(cuts: list[int], seed: int) -> None:
    rows, losses = changed(seed, 900, 1_500)
    whole = drift_new(3)
    straight = fold(whole, rows, losses)
    state = drift_new(3)
    parted = []
    edges = [0, *sorted(cuts), len(rows)]
    for start, stop in itertools.pairwise(edges):
        state = state.copy()
        parted += [(start + row, stream, z) for row, stream, z in fold(state, rows[start:stop], losses[start:stop])]
    assert parted == straight
    assert state.tobytes() == whole.tobytes()
    assert straight


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("stream", [LOSS, PREDICTION, FEATURE + 1])
def test_what_is_not_finite_is_as_if_it_had_not_been(value: float, stream: int) -> None:
    rows, losses = changed(1, 1_000, 1_400)
    table = np.column_stack([losses, rows])  # in the order of the streams
    places = [0, 17, 18, 255, 256, 900, 1_200]
    whole = np.delete(table, places, axis=0)
    holed = table.copy()
    holed[places, stream] = value
    mine = slice(HEAD + stream * STREAM, HEAD + (stream + 1) * STREAM)
    states = []
    for each in (whole, holed):
        state = drift_new(3)
        fold(state, each[:, 1:], np.ascontiguousarray(each[:, 0]))
        assert np.isfinite(state).all()
        states.append(state[mine])
    assert states[0].tobytes() == states[1].tobytes()


def test_compiled_and_uncompiled_steps_give_the_same_bits() -> None:
    rows, losses = changed(1, 900, 1_300)
    compiled, plain = drift_new(3), drift_new(3)
    found = np.empty((100, 3))
    count = drifts(plain, rows, losses, 3, found)
    assert fold(compiled, rows, losses) == [tuple(one) for one in found[:count].tolist()]
    assert compiled.tobytes() == plain.tobytes()


def test_nothing_is_judged_before_there_are_enough_rows_to_judge_by() -> None:
    rows, losses = changed(1, ROWS_MIN, 1_000)
    assert fold(drift_new(3), rows, losses)[0][0] == ROWS_MIN + BATCH - 1


def test_the_state_is_of_the_size_that_was_said_whatever_is_folded() -> None:
    state = drift_new(12)
    assert len(state) == drift_size(12)
    assert state[THRESHOLD] == pytest.approx(4.55, abs=0.1)
    assert state[THRESHOLD + 1] == pytest.approx(5.15, abs=0.1)
