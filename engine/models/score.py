"""Scores: sums over what has matured, of one arm and of its baselines on the same rows, from which `report` reads every statistic.

Outcomes overlap: of two predictions a second apart with a horizon of a minute, 59 seconds are the same. So the sums are kept in
blocks of whole *thinned* outcomes, those that do not overlap one another; resampling blocks gives intervals that respect the overlap.
There are at most BLOCKS: when all are full, neighbours merge and a block holds twice as many outcomes. Memory is fixed, an answer
costs O(1), and nothing depends on how rows were cut into batches.

State, float64: HEAD numbers, the open sums (since the newest thinned outcome), the recent sums (the same, each thinned outcome
counting FORGETTING times the one after it), BLOCKS blocks of sums, then a fine histogram of the probabilities (n, their sum, how often
it came true), by class. A state of zeros knows nothing. START of a block is an int64 (ns UTC), as in the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.models.baselines import CALL_BITS, CALL_MASK, VALUES, callers
from engine.models.layout import LABEL, MADE, OUTCOME, REFERENCE, SPREAD
from engine.models.target import BPS, DIRECTION, LOG_RETURN, cost_bps, position_of

BLOCKS = 64
FORGETTING = 0.99  # a hundred horizons
PROBABILITY_FLOOR = 2.220446049250313e-16  # log loss of a probability of 0 is that of this one, as in scikit-learn

USED, DOUBLINGS = 0, 1
# Of thinned labels: pairs of neighbours (Welford means and co-moments), then label against reference price.
PREVIOUS, PAIRS, MEAN_BEFORE, MEAN_AFTER, SQUARES_BEFORE, SQUARES_AFTER, PRODUCTS = 2, 3, 4, 5, 6, 7, 8
LEVELS, MEAN_LABEL, MEAN_PRICE, SQUARES_LABEL, SQUARES_PRICE, LABEL_BY_PRICE = 9, 10, 11, 12, 13, 14
SHAPE = 15  # 1 + 16 outputs + kind; 0 where nothing was counted
HEAD = 16

# Sums of a block: of any kind of target,
START, N, THIN, LOSS, NET, TRADED, SETS, COVERED, WIDTH = 0, 1, 2, 3, 4, 5, 6, 7, 8
# of classes (LOSS is Brier halved, WIDTH counts classes in the conformal set), then by baseline: Brier; by caller: net bps; confusion
# (label, called) of the arm, then of each caller,
LOG_LOSS, BASE_LOG_LOSS, SINGLE, CLASSES_AT = 9, 10, 11, 12
# of values (LOSS is the squared error), then by baseline: squared error, absolute error, net bps.
ABSOLUTE, LABELS, LABELS_SQUARED, SAID, SAID_SQUARED, SAID_BY_LABEL, VALUES_AT = 9, 10, 11, 12, 13, 14, 15

VALUES_COUNT = len(VALUES)

BINS = 400
BIN = 3  # n, sum of probabilities, how often it came true


def sums_width(kind: Any, outputs: Any) -> Any:
    """Return how many floats a block of sums takes."""
    if kind < DIRECTION:
        return VALUES_AT + 3 * VALUES_COUNT
    calls = callers(outputs)
    return CLASSES_AT + 1 + 2 * calls + (calls + 1) * outputs * outputs


def score_size(kind: int, outputs: int) -> int:
    """Floats of state."""
    shown = outputs if outputs > 2 else outputs - 1  # of two classes the second says it all, of a value there is none
    size: int = HEAD + (BLOCKS + 2) * sums_width(kind, outputs) + shown * BINS * BIN
    return size


def score_answer(
    state: Any, row: Any, out_at: Any, base_at: Any, kind: Any, outputs: Any, is_thin: Any, fee_bps: float
) -> float:
    """Count one matured row; return the arm's loss: Brier halved, in [0, 1], or the squared error.

    NaN, and nothing is counted, if the row is void or the arm said nothing in it. `is_thin`: the outcome does not overlap that of
    the thinned row before.
    """
    label = row[LABEL]
    said = 0.0
    for at in range(outputs):
        said += row[out_at + at]
    if math.isnan(label) or not math.isfinite(said):
        return math.nan
    width = sums_width(kind, outputs)
    if is_thin:
        _close(state, width)
        state[HEAD + THIN] += 1.0
        _watch_labels(state, label, row[REFERENCE])
    if state[HEAD + N] == 0.0:
        state[HEAD + START] = row[MADE]
        state[SHAPE] = 1.0 + 16.0 * outputs + kind
    state[HEAD + N] += 1.0
    moved = BPS * (row[OUTCOME] / row[REFERENCE] - 1.0)
    cost = cost_bps(row[SPREAD], fee_bps)
    if kind < DIRECTION:
        return _count_value(state, row, out_at, base_at, kind, label, moved, cost)
    return _count_class(state, row, out_at, base_at, outputs, int(label), moved, cost, HEAD + (BLOCKS + 2) * width)


def net_bps(row: Any, out_at: Any, kind: Any, outputs: Any, fee_bps: float) -> float:
    """Return what the position that an arm's outputs ask for has earned, after costs, in bps.

    NaN where the target asks for none (a volatility, a custom value), where the row is void, and where the arm said nothing.
    """
    if (kind < DIRECTION and kind != LOG_RETURN) or math.isnan(row[LABEL]) or not math.isfinite(row[out_at]):
        return math.nan
    cost = cost_bps(row[SPREAD], fee_bps)
    position = position_of(row, out_at, outputs, kind >= DIRECTION, cost)
    return float(position * BPS * (row[OUTCOME] / row[REFERENCE] - 1.0) - abs(position) * cost)


def shape_of(state: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Return (kind, outputs) of what a state has counted; (-1, 0) of one that has counted nothing."""
    code = int(state[SHAPE]) - 1
    return (code % 16, code // 16) if code >= 0 else (-1, 0)


def closed(state: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a copy in which the open sums are a block's, as they will be from the next thinned outcome on."""
    kind, outputs = shape_of(state)
    made = state.copy()
    if kind >= 0:
        _close(made, sums_width(kind, outputs))
    return made


def blocks_of(state: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the blocks of sums of a closed state, oldest first: blocks x sums. None where nothing was counted."""
    width = sums_width(*shape_of(state)) if state[USED] else 1
    at = HEAD + 2 * width
    return state[at : at + int(state[USED]) * width].reshape(-1, width)


def recent_of(state: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the sums of the last hundred horizons or so of a closed state, older ones counting less."""
    width = sums_width(*shape_of(state)) if state[USED] else 0
    return state[HEAD + width : HEAD + 2 * width]


def histogram_of(state: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return classes x BINS x (n, sum of probabilities, how often it came true); of two classes only the second."""
    kind, outputs = shape_of(state)
    at = HEAD + (BLOCKS + 2) * sums_width(kind, outputs) if kind >= 0 else len(state)
    return state[at:].reshape(-1, BINS, BIN)


def pooled(states: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Return one state that has counted what several arms' have, of several symbols say.

    Blocks of one time become one block, as long as the longest of them: what moves all symbols at once is one event to an
    interval, not many. For reading; it counts no further rows. Raises ModelError if there is none, or they are of several kinds.
    """
    known = [closed(state) for state in states if state[SHAPE] > 0.0]
    if not len(states) or len({state[SHAPE] for state in known}) > 1:
        raise ModelError(f"scores of {len(states)} arms cannot be pooled: expected at least one, and all of one target")
    if len(known) < 2:
        return (known or states)[0].copy()
    kind, outputs = shape_of(known[0])
    width = sums_width(kind, outputs)
    parts = [blocks_of(state) for state in known]
    starts = [np.ascontiguousarray(part[:, START]).view(np.int64) for part in parts]
    first, last = min(int(at[0]) for at in starts), max(int(at[-1]) for at in starts)
    step = max((int(np.median(np.diff(at))) for at in starts if len(at) > 1), default=0) or last - first + 1
    while (last - first) // step >= BLOCKS:
        step *= 2
    rows = np.concatenate(parts)
    when = np.concatenate(starts)
    place = np.unique((when - first) // step, return_inverse=True)[1]
    made = np.zeros_like(known[0])
    made[SHAPE], made[USED] = known[0][SHAPE], place.max() + 1
    made[DOUBLINGS] = max(state[DOUBLINGS] for state in known)
    blocks = made[HEAD + 2 * width : HEAD + (2 + BLOCKS) * width].reshape(BLOCKS, width)
    np.add.at(blocks, place, np.where(np.arange(width) == START, 0.0, rows))
    began = np.full(BLOCKS, last)
    np.minimum.at(began, place, when)
    blocks[:, START] = np.where(np.arange(BLOCKS) < made[USED], began, 0).view(np.float64)
    made[HEAD + width : HEAD + 2 * width] = sum(recent_of(state) for state in known)
    for at in (PAIRS, SQUARES_BEFORE, SQUARES_AFTER, PRODUCTS, LEVELS, SQUARES_LABEL, SQUARES_PRICE, LABEL_BY_PRICE):
        made[at] = sum(state[at] for state in known)
    for at, weight in ((MEAN_BEFORE, PAIRS), (MEAN_AFTER, PAIRS), (MEAN_LABEL, LEVELS), (MEAN_PRICE, LEVELS)):
        made[at] = sum(state[at] * state[weight] for state in known) / max(made[weight], 1.0)
    bins = HEAD + (BLOCKS + 2) * width
    made[bins:] = sum(state[bins:] for state in known)
    return made


def _count_class(
    state: Any, row: Any, out_at: Any, base_at: Any, outputs: Any, label: Any, moved: float, cost: float, bins_at: Any
) -> float:
    loss = 0.0
    called = 0
    held = 0
    most = row[out_at + outputs]
    for at in range(outputs):
        probability = row[out_at + at]
        came = 1.0 if at == label else 0.0
        loss += (probability - came) * (probability - came)
        if probability > row[out_at + called]:
            called = at
        if 1.0 - probability <= most:
            held += 1
        if at > 0 or outputs > 2:
            place = min(max(int(probability * BINS), 0), BINS - 1) + (at if outputs > 2 else 0) * BINS
            place = bins_at + BIN * place
            state[place] += 1.0
            state[place + 1] += probability
            state[place + 2] += came
    loss *= 0.5
    state[HEAD + LOSS] += loss
    state[HEAD + LOG_LOSS] -= math.log(max(row[out_at + label], PROBABILITY_FLOOR))
    state[HEAD + BASE_LOG_LOSS] -= math.log(max(row[base_at + 1 + label], PROBABILITY_FLOOR))
    if math.isfinite(most):
        state[HEAD + SETS] += 1.0
        state[HEAD + WIDTH] += held
        state[HEAD + SINGLE] += 1.0 if held == 1 else 0.0
        state[HEAD + COVERED] += 1.0 if 1.0 - row[out_at + label] <= most else 0.0
    calls = callers(outputs)
    nets_at = HEAD + CLASSES_AT + 1 + calls
    cells_at = nets_at + calls + label * outputs  # of the label's row of the confusion
    state[cells_at + called] += 1.0
    position = _position(called, outputs)
    state[HEAD + NET] += position * moved - abs(position) * cost
    state[HEAD + TRADED] += abs(position)
    packed = int(row[base_at])
    for caller in range(calls + 1):
        brier = 0.0
        for at in range(outputs):
            off = row[base_at + 1 + caller * outputs + at] - (1.0 if at == label else 0.0)
            brier += off * off
        state[HEAD + CLASSES_AT + caller] += 0.5 * brier
        if caller < calls:
            call = (packed >> (CALL_BITS * caller)) & CALL_MASK
            position = _position(call, outputs)
            state[nets_at + caller] += position * moved - abs(position) * cost
            state[cells_at + (caller + 1) * outputs * outputs + call] += 1.0
    return float(loss)


def _position(called: Any, outputs: Any) -> float:
    if outputs == 2:
        return 2.0 * float(called) - 1.0
    return float(called) - 1.0


def _count_value(
    state: Any, row: Any, out_at: Any, base_at: Any, kind: Any, label: float, moved: float, cost: float
) -> float:
    value = row[out_at]
    loss = (value - label) * (value - label)
    state[HEAD + LOSS] += loss
    state[HEAD + ABSOLUTE] += abs(value - label)
    state[HEAD + LABELS] += label
    state[HEAD + LABELS_SQUARED] += label * label
    state[HEAD + SAID] += value
    state[HEAD + SAID_SQUARED] += value * value
    state[HEAD + SAID_BY_LABEL] += value * label
    half = row[out_at + 1]
    if math.isfinite(half):
        state[HEAD + SETS] += 1.0
        state[HEAD + WIDTH] += 2.0 * half
        state[HEAD + COVERED] += 1.0 if abs(value - label) <= half else 0.0
    if kind == LOG_RETURN:
        position = position_of(row, out_at, 1, False, cost)
        state[HEAD + NET] += position * moved - abs(position) * cost
        state[HEAD + TRADED] += abs(position)
    for at in range(VALUES_COUNT):
        off = row[base_at + at] - label
        state[HEAD + VALUES_AT + at] += off * off
        state[HEAD + VALUES_AT + VALUES_COUNT + at] += abs(off)
        if kind == LOG_RETURN:
            position = position_of(row, base_at + at, 1, False, cost)
            state[HEAD + VALUES_AT + 2 * VALUES_COUNT + at] += position * moved - abs(position) * cost
    return float(loss)


def _close(state: Any, width: Any) -> None:
    """Move the open sums into the newest block and the recent ones, and begin them anew."""
    if state[HEAD + N] == 0.0:
        return
    recent_at, blocks_at = HEAD + width, HEAD + 2 * width
    used = int(state[USED])
    if used == 0 or state[blocks_at + (used - 1) * width + THIN] >= 2.0 ** state[DOUBLINGS]:
        if used == BLOCKS:
            used = BLOCKS // 2
            for at in range(used):
                left, right = blocks_at + 2 * at * width, blocks_at + (2 * at + 1) * width
                to = blocks_at + at * width
                state[to] = state[left]
                for column in range(1, width):
                    state[to + column] = state[left + column] + state[right + column]
            for at in range(blocks_at + used * width, blocks_at + BLOCKS * width):
                state[at] = 0.0
            state[DOUBLINGS] += 1.0
        state[blocks_at + used * width] = state[HEAD]
        used += 1
        state[USED] = used
    block_at = blocks_at + (used - 1) * width
    state[HEAD] = 0.0
    for column in range(1, width):
        fresh = state[HEAD + column]
        state[block_at + column] += fresh
        state[recent_at + column] = FORGETTING * state[recent_at + column] + fresh
        state[HEAD + column] = 0.0


def _watch_labels(state: Any, label: float, price: float) -> None:
    """Follow how a thinned label goes with the one before it, and with the price it is measured from."""
    if state[LEVELS] > 0.0:
        state[PAIRS] += 1.0
        before = state[PREVIOUS] - state[MEAN_BEFORE]
        after = label - state[MEAN_AFTER]
        state[MEAN_BEFORE] += before / state[PAIRS]
        state[MEAN_AFTER] += after / state[PAIRS]
        state[SQUARES_BEFORE] += before * (state[PREVIOUS] - state[MEAN_BEFORE])
        state[SQUARES_AFTER] += after * (label - state[MEAN_AFTER])
        state[PRODUCTS] += before * (label - state[MEAN_AFTER])
    state[PREVIOUS] = label
    state[LEVELS] += 1.0
    by_label = label - state[MEAN_LABEL]
    by_price = price - state[MEAN_PRICE]
    state[MEAN_LABEL] += by_label / state[LEVELS]
    state[MEAN_PRICE] += by_price / state[LEVELS]
    state[SQUARES_LABEL] += by_label * (label - state[MEAN_LABEL])
    state[SQUARES_PRICE] += by_price * (price - state[MEAN_PRICE])
    state[LABEL_BY_PRICE] += by_label * (price - state[MEAN_PRICE])
