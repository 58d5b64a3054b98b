"""Baselines against a slow reference that keeps every label, and what they may not know."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.models.baselines import (
    CALLERS,
    SHRINKAGE,
    VALUES,
    baselines_answer,
    baselines_ask,
    baselines_names,
    baselines_size,
    baselines_width,
    call_at,
)
from engine.models.layout import HEAD, LABEL, LAST_RETURN, LAST_SIDE, REFERENCE
from engine.models.target import CLASSES, CUSTOM, DIRECTION, LOG_RETURN, TRADE, UP_DOWN, VOLATILITY
from tests.scoring import Floats, random_walk, run, verify

AT = HEAD


def new_row(kind: int, outputs: int, rose: float, side: float, reference: float = 100.0) -> Floats:
    row = np.full(AT + baselines_width(kind, outputs), math.nan)
    row[LAST_RETURN], row[LAST_SIDE], row[REFERENCE] = rose, side, reference
    return row


# Of each prediction: the sign of the last return, the last side, and what came of it (above 2: void).
ASKED = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 1.0]), st.sampled_from([-1.0, 0.0, 1.0]), st.integers(0, 3)), max_size=30
)


def class_reference(
    outputs: int, matured: Sequence[tuple[tuple[int, ...], int]], rose: float, side: float
) -> tuple[list[int], list[list[float]]]:
    """Calls and probabilities from all that has matured, (calls then, label) each, counted anew."""
    labels = [label for _, label in matured]
    majority = max(range(outputs), key=lambda k: (labels.count(k), -k))

    def towards(sign: float) -> int:
        return outputs - 1 if sign > 0 else 0 if sign < 0 else 1 if outputs == 3 else majority

    calls = [majority, labels[-1] if labels else majority, towards(rose), towards(-rose), towards(side), 1]
    calls = calls[: 6 if outputs == 3 else 5]
    base = [(labels.count(k) + 1) / (len(labels) + outputs) for k in range(outputs)]
    said = [base]
    for caller, call in enumerate(calls):
        came = [label for then, label in matured if then[caller] == call]
        said.append([(came.count(k) + SHRINKAGE * base[k]) / (len(came) + SHRINKAGE) for k in range(outputs)])
    return calls, said


@pytest.mark.parametrize("kind", [DIRECTION, UP_DOWN, TRADE])
@settings(max_examples=60, deadline=None)
@given(asked=ASKED, delay=st.integers(0, 5))
def test_baselines_of_classes_say_what_counting_all_that_matured_says(
    kind: int, asked: list[tuple[float, float, int]], delay: int
) -> None:
    outputs = len(CLASSES[kind])
    state = np.zeros(baselines_size(kind, outputs))
    waiting: list[tuple[Floats, int]] = []
    matured: list[tuple[tuple[int, ...], int]] = []
    for rose, side, label in asked:
        row = new_row(kind, outputs, rose, side)
        baselines_ask(state, row, AT, kind, outputs)
        calls, said = class_reference(outputs, matured, rose, side)
        assert [call_at(row, AT, caller) for caller in range(len(calls))] == calls
        np.testing.assert_allclose(row[AT + 1 :].reshape(-1, outputs), said, rtol=1e-12)
        np.testing.assert_allclose(row[AT + 1 :].reshape(-1, outputs).sum(axis=1), 1.0)
        waiting.append((row, label))
        if len(waiting) > delay:
            then, came = waiting.pop(0)
            then[LABEL] = came if came < outputs else math.nan
            baselines_answer(state, then, AT, kind, outputs)
            if came < outputs:
                matured.append((tuple(call_at(then, AT, caller) for caller in range(len(calls))), came))


@pytest.mark.parametrize("kind", [LOG_RETURN, VOLATILITY, CUSTOM])
def test_baselines_of_values_are_the_means_and_the_regression_of_all_that_matured(kind: int) -> None:
    rng = np.random.default_rng(3)
    state = np.zeros(baselines_size(kind, 1))
    befores: list[float] = []
    labels: list[float] = []
    roses: list[float] = []
    sides: list[float] = []
    for at in range(200):
        rose, side = rng.integers(-1, 2, 2).astype(float)
        row = new_row(kind, 1, rose, side, reference=100.0 + at)
        baselines_ask(state, row, AT, kind, 1)
        mean, newest, still, slope, by_return, by_side = row[AT:]
        if len(labels) > 2:
            y, x = np.array(labels), np.array(befores)
            assert mean == pytest.approx(y.mean())
            assert newest == labels[-1]
            b = np.clip(np.polyfit(x, y, 1)[0], -1.0, 1.0)
            assert slope == pytest.approx(y.mean() + b * (newest - x.mean()))
            for sign, signs, said in ((rose, roses, by_return), (side, sides, by_side)):
                of = y[np.array(signs) == sign]
                assert said == pytest.approx((of.sum() + SHRINKAGE * y.mean()) / (len(of) + SHRINKAGE))
        assert still == {LOG_RETURN: 0.0, VOLATILITY: newest, CUSTOM: 100.0 + at}[kind]
        label = 0.5 + 0.4 * newest + rng.normal() + 0.3 * rose
        row[LABEL] = label
        baselines_answer(state, row, AT, kind, 1)
        befores.append(newest)
        labels.append(label)
        roses.append(rose)
        sides.append(side)


def test_a_void_outcome_teaches_nothing() -> None:
    for kind, outputs in ((DIRECTION, 3), (LOG_RETURN, 1)):
        state = np.zeros(baselines_size(kind, outputs))
        row = new_row(kind, outputs, 1.0, -1.0)
        baselines_ask(state, row, AT, kind, outputs)
        baselines_answer(state, row, AT, kind, outputs)
        assert not state.any()


def test_what_matures_later_changes_nothing_that_was_said() -> None:
    state = np.zeros(baselines_size(DIRECTION, 3))
    row = new_row(DIRECTION, 3, 1.0, 1.0)
    baselines_ask(state, row, AT, DIRECTION, 3)
    said = row.copy()
    for _ in range(5):
        other = new_row(DIRECTION, 3, 1.0, 1.0)
        baselines_ask(state, other, AT, DIRECTION, 3)
        other[LABEL] = 2.0
        baselines_answer(state, other, AT, DIRECTION, 3)
    assert row.tobytes() == said.tobytes()


def test_names_stand_in_the_order_of_the_row() -> None:
    assert baselines_names(DIRECTION) == ("base_rate", *CALLERS, "uniform")
    assert baselines_names(UP_DOWN) == ("base_rate", *CALLERS[:5], "uniform")
    assert baselines_names(LOG_RETURN) == VALUES
    for kind in (DIRECTION, UP_DOWN, TRADE):
        outputs = len(CLASSES[kind])
        assert (
            baselines_width(kind, outputs) == 1 + (len(baselines_names(kind)) - 1) * outputs
        )  # uniform takes no place


@pytest.mark.parametrize("kind", [DIRECTION, UP_DOWN, LOG_RETURN])
def test_compiled_steps_give_the_bits_of_the_plain_ones(kind: int) -> None:
    prices = random_walk(300, 5)
    rng = np.random.default_rng(1)
    outputs = len(CLASSES.get(kind, ())) or 1
    said = rng.dirichlet(np.ones(outputs), 300) if outputs > 1 else rng.normal(0.0, 1e-4, (300, 1))
    sides = rng.integers(-1, 2, 300).astype(float)
    plain, fast = (
        verify(prices, said, kind=kind, horizon=3, sides=sides, thresholds=0.6, function=function)
        for function in (run, None)
    )
    assert plain.ledger.tobytes() == fast.ledger.tobytes()
    assert plain.state.tobytes() == fast.state.tobytes()
