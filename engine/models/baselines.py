"""Baselines: what anybody can say without a model, on the same rows, from what had matured when the model spoke.

    classes  base_rate             frequencies of the labels so far
             majority              the most frequent label so far
             last_label            the newest matured label
             last_return           the direction of the newest price change, and
             last_return_opposite  the other one
             last_side             the side of the newest trade
             no_change             flat, or hold, where there is such a class
             uniform               as much for each class: knows nothing, and is better than a base rate that a few outcomes made
    values   mean                  of the labels so far
             last_label            the newest matured label
             no_change             0 of a return, the newest label of a volatility, today's price of a custom target
             autoregression        mean + b (newest label - mean), b by least squares so far
             last_return           mean of the labels so far that came after a change of the same sign
             last_side             mean of the labels so far that came after a trade on the same side

A baseline that makes a call is counted by its call for accuracy, and as a forecast for the Brier score: the frequencies of the labels
that came after that call so far, shrunk to the base rate. That is harder to beat than a call taken for certain, whose Brier score is
its error rate. Where a call has no meaning (no label yet, a side that is unknown) it is flat, or the majority's.

What is said is written into the ledger's row when the prediction is made; nothing that matures later can change it. The step functions
are compiled into the judge; a state of zeros knows nothing.
"""

from __future__ import annotations

import math
from typing import Any

from engine.models.layout import LABEL, LAST_RETURN, LAST_SIDE, REFERENCE
from engine.models.target import CLASSES, DIRECTION, LOG_RETURN, VOLATILITY

CALLERS = ("majority", "last_label", "last_return", "last_return_opposite", "last_side", "no_change")
UNIFORM = "uniform"
"""It needs no state and no place in a row: its scores are constants."""
VALUES = ("mean", "last_label", "no_change", "autoregression", "last_return", "last_side")

SHRINKAGE = 4.0
"""Labels that a base rate, or a mean, counts for beside what came after a call."""
CALL_BITS, CALL_MASK = 2, 3
"""All calls of a row lie in one number, two bits a call."""

# State of classes: labels so far, 1 + the newest label (0: none), counts by class, then counts by caller, call and label.
LABELS, NEWEST, COUNTS = 0, 1, 2
# State of values, behind the first two: running means and co-moments of (newest label then, label), then count and mean of labels by
# the sign of the last return, then by that of the last side.
MEAN_BEFORE, MEAN, SQUARES_BEFORE, PRODUCTS, BY_RETURN, BY_SIDE = 2, 3, 4, 5, 6, 12
VALUES_SIZE = 18


def baselines_names(kind: int) -> tuple[str, ...]:
    """Names of the baselines of a kind of target, in the order in which they lie in a row, `uniform` last. Two classes have no `no_change`."""
    if kind < DIRECTION:
        return VALUES
    return ("base_rate", *CALLERS[: callers(len(CLASSES[kind]))], UNIFORM)


def baselines_width(kind: int, outputs: int) -> int:
    """Floats that the baselines take in a row: calls and probabilities by baseline and class, or values."""
    return 1 + (callers(outputs) + 1) * outputs if kind >= DIRECTION else len(VALUES)


def baselines_size(kind: int, outputs: int) -> int:
    """Floats of state."""
    return COUNTS + outputs + callers(outputs) * outputs * outputs if kind >= DIRECTION else VALUES_SIZE


def callers(outputs: Any) -> Any:
    """Return how many baselines of classes make calls."""
    return 6 if outputs == 3 else 5


def baselines_ask(state: Any, row: Any, base_at: Any, kind: Any, outputs: Any) -> None:
    """Write what the baselines say now into `row[base_at:]`: packed calls, then probabilities; or values."""
    if kind < DIRECTION:
        _ask_values(state, row, base_at, kind)
    else:
        _ask_classes(state, row, base_at, outputs)


def baselines_answer(state: Any, row: Any, base_at: Any, kind: Any, outputs: Any) -> None:
    """Learn the label of a row that has matured. A void one (NaN) teaches nothing."""
    label = row[LABEL]
    if math.isnan(label):
        return
    if kind < DIRECTION:
        _learn_value(state, row, base_at, label)
    else:
        _learn_class(state, row, base_at, int(label), outputs)


def call_at(row: Any, base_at: Any, caller: Any) -> Any:
    """Return the class that a caller (0: majority, ...) named in a row."""
    return (int(row[base_at]) >> (CALL_BITS * caller)) & CALL_MASK


def _call_of(sign: float, outputs: Any, otherwise: Any) -> Any:
    if sign > 0.0:
        return outputs - 1
    if sign < 0.0:
        return 0
    return 1 if outputs == 3 else otherwise


def _ask_classes(state: Any, row: Any, base_at: Any, outputs: Any) -> None:
    majority = 0
    for at in range(1, outputs):
        if state[COUNTS + at] > state[COUNTS + majority]:
            majority = at
    newest = int(state[NEWEST]) - 1 if state[NEWEST] > 0.0 else majority
    calls = (
        majority
        | (newest << CALL_BITS)
        | (_call_of(row[LAST_RETURN], outputs, majority) << (2 * CALL_BITS))
        | (_call_of(-row[LAST_RETURN], outputs, majority) << (3 * CALL_BITS))
        | (_call_of(row[LAST_SIDE], outputs, majority) << (4 * CALL_BITS))
        | (1 << (5 * CALL_BITS))
    )
    row[base_at] = float(calls)
    rates_at = base_at + 1
    share = 1.0 / (state[LABELS] + outputs)
    for at in range(outputs):
        row[rates_at + at] = (state[COUNTS + at] + 1.0) * share
    for caller in range(callers(outputs)):
        call = (calls >> (CALL_BITS * caller)) & CALL_MASK
        record = COUNTS + outputs + (caller * outputs + call) * outputs
        seen = SHRINKAGE
        for at in range(outputs):
            seen += state[record + at]
        share = 1.0 / seen
        said = rates_at + (caller + 1) * outputs
        for at in range(outputs):
            row[said + at] = (state[record + at] + SHRINKAGE * row[rates_at + at]) * share


def _learn_class(state: Any, row: Any, base_at: Any, label: Any, outputs: Any) -> None:
    state[LABELS] += 1.0
    state[NEWEST] = label + 1.0
    state[COUNTS + label] += 1.0
    for caller in range(callers(outputs)):
        call = call_at(row, base_at, caller)
        state[COUNTS + outputs + (caller * outputs + call) * outputs + label] += 1.0


def _ask_values(state: Any, row: Any, base_at: Any, kind: Any) -> None:
    mean, newest = state[MEAN], state[NEWEST]
    row[base_at] = mean
    row[base_at + 1] = newest
    if kind == LOG_RETURN:
        row[base_at + 2] = 0.0
    else:
        row[base_at + 2] = newest if kind == VOLATILITY else row[REFERENCE]
    slope = state[PRODUCTS] / state[SQUARES_BEFORE] if state[SQUARES_BEFORE] > 0.0 else 0.0
    row[base_at + 3] = mean + min(max(slope, -1.0), 1.0) * (newest - state[MEAN_BEFORE])
    for place in range(2):
        at = BY_RETURN + 2 * _sign_index(row[LAST_RETURN]) if place == 0 else BY_SIDE + 2 * _sign_index(row[LAST_SIDE])
        seen = state[at]
        row[base_at + 4 + place] = (seen * state[at + 1] + SHRINKAGE * mean) / (seen + SHRINKAGE)


def _learn_value(state: Any, row: Any, base_at: Any, label: float) -> None:
    seen = state[LABELS] + 1.0
    state[LABELS] = seen
    state[NEWEST] = label
    before = row[base_at + 1]
    moved = before - state[MEAN_BEFORE]
    state[MEAN_BEFORE] += moved / seen
    state[SQUARES_BEFORE] += moved * (before - state[MEAN_BEFORE])
    state[MEAN] += (label - state[MEAN]) / seen
    state[PRODUCTS] += moved * (
        label - state[MEAN]
    )  # Welford: one deviation from the mean before, one from the mean after
    for place in range(2):
        at = BY_RETURN + 2 * _sign_index(row[LAST_RETURN]) if place == 0 else BY_SIDE + 2 * _sign_index(row[LAST_SIDE])
        state[at] += 1.0
        state[at + 1] += (label - state[at + 1]) / state[at]


def _sign_index(sign: float) -> Any:
    if sign > 0.0:
        return 2
    return 0 if sign < 0.0 else 1
