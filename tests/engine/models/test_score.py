"""Sums of scores: what a row adds, blocks that merge, and states that are pooled."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.models import score
from engine.models.baselines import baselines_ask, baselines_size, baselines_width
from engine.models.layout import HEAD, LABEL, LAST_RETURN, LAST_SIDE, MADE, OUTCOME, REFERENCE, SPREAD
from engine.models.score import (
    BLOCKS,
    blocks_of,
    closed,
    net_bps,
    pooled,
    recent_of,
    score_answer,
    score_size,
    shape_of,
)
from engine.models.target import CLASSES, DIRECTION, LOG_RETURN, TRADE, UP_DOWN, VOLATILITY
from tests.scoring import SECOND, Floats, outcomes, random_walk, verify


def row_of(
    kind: int,
    said: list[float],
    label: float,
    *,
    outcome: float = 101.0,
    spread: float = math.nan,
    made: int = 0,
    most: float = math.inf,
) -> tuple[Floats, int, int]:
    """A row in which an arm said something, before anything had matured: (row, out_at, outputs)."""
    outputs = len(said)
    out_at = HEAD + baselines_width(kind, outputs)
    row = np.full(out_at + outputs + 1, math.nan)
    row.view(np.int64)[MADE] = made
    row[[REFERENCE, OUTCOME, SPREAD, LAST_RETURN, LAST_SIDE]] = 100.0, outcome, spread, 1.0, -1.0
    baselines_ask(np.zeros(baselines_size(kind, outputs)), row, HEAD, kind, outputs)
    row[LABEL] = label
    row[out_at:] = [*said, most]
    return row, out_at, outputs


def counted(
    kind: int, outputs: int, rows: list[tuple[Floats, bool]], out_at: int, *, fee_bps: float = 0.0
) -> tuple[Floats, list[float]]:
    """The closed state that has counted rows, and what each lost."""
    state = np.zeros(score_size(kind, outputs))
    losses = [score_answer(state, row, out_at, HEAD, kind, outputs, thin, fee_bps) for row, thin in rows]
    return closed(state), losses


def test_the_loss_of_classes_is_brier_halved_and_of_values_the_squared_error() -> None:
    row, out_at, outputs = row_of(DIRECTION, [0.2, 0.3, 0.5], 1.0)
    _, losses = counted(DIRECTION, outputs, [(row, True)], out_at)
    assert losses == [pytest.approx(0.5 * (0.2**2 + 0.7**2 + 0.5**2))]
    row, out_at, outputs = row_of(UP_DOWN, [0.3, 0.7], 1.0)
    assert counted(UP_DOWN, outputs, [(row, True)], out_at)[1] == [pytest.approx(0.3**2)]
    row, out_at, outputs = row_of(LOG_RETURN, [0.002], 0.005)
    assert counted(LOG_RETURN, outputs, [(row, True)], out_at)[1] == [pytest.approx(0.003**2)]


@pytest.mark.parametrize(
    ("said", "label"), [([0.2, 0.3, 0.5], math.nan), ([math.nan] * 3, 1.0), ([0.1, math.inf, 0.2], 1.0)]
)
def test_a_void_row_and_an_arm_that_said_nothing_count_nothing(said: list[float], label: float) -> None:
    row, out_at, outputs = row_of(DIRECTION, said, label)
    state, losses = counted(DIRECTION, outputs, [(row, True)], out_at)
    assert math.isnan(losses[0])
    assert not state.any()
    assert shape_of(state) == (-1, 0)
    assert len(blocks_of(state)) == 0


@pytest.mark.parametrize(
    ("kind", "said", "label", "spread", "expected"),
    [
        (DIRECTION, [0.1, 0.2, 0.7], 2.0, math.nan, 100.0 - 2.0),  # long, 1 %, two fees
        (DIRECTION, [0.7, 0.2, 0.1], 2.0, 3.0, -100.0 - 2.0 - 3.0),  # short, and the spread
        (TRADE, [0.1, 0.8, 0.1], 2.0, 3.0, 0.0),  # out of the market
        (UP_DOWN, [0.4, 0.6], 1.0, math.nan, 100.0 - 2.0),
        (LOG_RETURN, [0.001], 0.01, math.nan, 100.0 - 2.0),  # 10 bps expected, 2 is the cost
        (LOG_RETURN, [0.0001], 0.01, math.nan, 0.0),  # 1 bp does not pay it
        (VOLATILITY, [0.01], 0.01, math.nan, math.nan),
        (UP_DOWN, [0.4, 0.6], math.nan, math.nan, math.nan),
    ],
)
def test_net_is_what_the_position_earned_after_fees_and_spread(
    kind: int, said: list[float], label: float, spread: float, expected: float
) -> None:
    row, out_at, outputs = row_of(kind, said, label, spread=spread)
    assert net_bps(row, out_at, kind, outputs, 1.0) == pytest.approx(expected, nan_ok=True)
    if not math.isnan(expected):
        state, _ = counted(kind, outputs, [(row, True)], out_at, fee_bps=1.0)
        assert blocks_of(state)[0, score.NET] == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(apart=st.integers(1, 9), count=st.integers(1, 900), seed=st.integers(0, 3))
def test_blocks_hold_whole_thinned_outcomes_and_lose_nothing(apart: int, count: int, seed: int) -> None:
    prices = random_walk(count + apart, seed)
    rng = np.random.default_rng(seed)
    said = rng.dirichlet(np.ones(3), len(prices))
    made = verify(prices, said, kind=DIRECTION, horizon=apart)
    state = closed(made.state)
    blocks = blocks_of(state)
    doublings = int(state[score.DOUBLINGS])
    assert len(made.state) == score_size(DIRECTION, 3)
    assert len(blocks) <= BLOCKS
    assert (blocks[:-1, score.THIN] == 2**doublings).all()
    assert 1 <= blocks[-1, score.THIN] <= 2**doublings
    assert blocks[:, score.N].sum() == count
    assert blocks[:, score.THIN].sum() == -(-count // apart)
    assert blocks[:, score.LOSS].sum() == pytest.approx(np.nansum(made.losses))
    # A tick is a second: a block begins where the ones before it end.
    before = np.concatenate([[0.0], np.cumsum(blocks[:, score.N])[:-1]])
    np.testing.assert_array_equal(times(state), before * SECOND)


def test_recent_sums_forget() -> None:
    right, out_at, outputs = row_of(DIRECTION, [1.0, 0.0, 0.0], 0.0)
    wrong, _, _ = row_of(DIRECTION, [1.0, 0.0, 0.0], 2.0)
    state, _ = counted(DIRECTION, outputs, [(right, True)] * 2_000 + [(wrong, True)] * 2_000, out_at)
    recent = recent_of(state)
    assert recent[score.LOSS] / recent[score.N] == pytest.approx(1.0, abs=1e-6)
    assert recent[score.THIN] == pytest.approx(100.0, abs=1e-3)
    assert blocks_of(state)[:, score.LOSS].sum() == 2_000


def times(state: Floats) -> list[int]:
    return [int(at) for at in blocks_of(state)[:, score.START].copy().view(np.int64)]


def state_of(count: int, *, first: int = 0, apart: int = SECOND, label: float = 2.0) -> Floats:
    made = [1_700_000_000 * SECOND + first + at * apart for at in range(count)]
    rows = [(row_of(DIRECTION, [0.2, 0.3, 0.5], label, made=at)[0], True) for at in made]
    return counted(DIRECTION, 3, rows, HEAD + baselines_width(DIRECTION, 3))[0]


def test_pooled_sums_are_those_of_all_states() -> None:
    one, other = state_of(300), state_of(1_000, first=SECOND // 3, apart=SECOND // 4, label=0.0)
    both = pooled([one, other])
    for read in (blocks_of, recent_of):
        parts = [read(state) for state in (one, other)]
        sums = [part.reshape(-1, part.shape[-1]).sum(axis=0)[1:] for part in parts]
        np.testing.assert_allclose(read(both).reshape(-1, parts[0].shape[-1]).sum(axis=0)[1:], sums[0] + sums[1])
    np.testing.assert_allclose(score.histogram_of(both), score.histogram_of(one) + score.histogram_of(other))
    assert times(both) == sorted(times(both))
    assert times(both)[0] == times(one)[0]


def test_what_happens_to_all_symbols_at_once_is_one_block() -> None:
    state = state_of(40)
    both = pooled([state, state.copy(), state.copy()])
    assert times(both) == times(state)
    np.testing.assert_array_equal(blocks_of(both)[:, score.N], 3.0)


def test_pooling_refuses_what_does_not_belong_together() -> None:
    value, out_at, _ = row_of(LOG_RETURN, [0.1], 0.2)
    other, _ = counted(LOG_RETURN, 1, [(value, True)], out_at)
    with pytest.raises(
        ModelError, match="scores of 2 arms cannot be pooled: expected at least one, and all of one target"
    ):
        pooled([state_of(3), other])
    with pytest.raises(ModelError, match="scores of 0 arms"):
        pooled([])
    empty = np.zeros(score_size(DIRECTION, 3))
    assert pooled([empty, state_of(3)]).tobytes() == state_of(3).tobytes()
    assert not pooled([empty, empty]).any()


def test_baselines_are_counted_on_the_rows_that_the_arm_spoke_in() -> None:
    prices = random_walk(2_000, 8)
    said = np.full((2_000, 2), 0.5)
    said[: len(said) // 2] = math.nan  # a challenger that came later
    made = verify(prices, said, kind=UP_DOWN, horizon=4)
    blocks = blocks_of(closed(made.state))
    labels = outcomes(prices, UP_DOWN, 4)[1_000:]
    assert blocks[:, score.N].sum() == np.isfinite(labels).sum()
    callers = len(CLASSES[UP_DOWN]) + 3
    cells = blocks.sum(axis=0)[score.CLASSES_AT + 1 + 2 * callers :].reshape(-1, 4).sum(axis=1)
    assert (cells == np.isfinite(labels).sum()).all()
