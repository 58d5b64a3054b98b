"""Adaptive conformal inference: how wide an interval, or how large a set of classes, must be to hold the outcome at a given rate.

    score      |y - v| of a value, 1 - p_y of a class: what the threshold must not be less than for a hit
    threshold  the ceil((n + 1) (1 - alpha))-th least of the newest scores (n up to 500, at least 30), the greatest where that is
               beyond it; infinite (everything) while there are fewer or alpha <= 0, EMPTY (nothing) where alpha >= 1
    alpha      alpha + gamma (1 - coverage - miss) at each answer, gamma = 0.01, from 1 - coverage on
    Promise    after T answers without delay, of any sequence at all: |misses / T - (1 - coverage)| <= (max(a, 1 - a) + gamma) / (T gamma),
               a = 1 - coverage
    Cost       two binary searches and a shift in 500 sorted scores; 1,012 floats of state
    Source     I. Gibbs and E. Candes, Adaptive Conformal Inference Under Distribution Shift (2021), formula 2 and proposition 4.1

A miss is judged against the threshold that was said when the prediction was made. Answers come a horizon later and overlap: one move
of the price is a miss of all that were waiting. If each of them took a whole step, alpha would be thrown far beyond 0 and 1 and back
(with 42 answers a horizon a third of all intervals is infinite, with 1,000 nearly all are: right on average, and of no use), and 500
scores would be of a few moves. So where more than STEPS answers come in a horizon they share STEPS steps, and of a horizon at most
KEPT scores are kept, evenly spaced on its clock. Without overlap both are the textbook's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.models.layout import CLOCK, DUE, LABEL

GAMMA = 0.01
SCORES = 500
SCORES_MIN = 30
STEPS = 5  # of gamma in a horizon, at most
KEPT = 10  # scores of a horizon, at most
GAPS = 500.0  # answers that the mean distance between them remembers
EMPTY = -1e-300
"""A threshold below any score; as the half-width of an interval it is as good as zero."""

# State. Clocks are int64 views of the same bytes.
ALPHA = 0
JUDGED, MISSED = 1, 2
HELD, NEXT = 3, 4  # scores; where the ring takes the next
GAP, ANSWERS = 5, 6  # mean distance of answers on the horizon's clock, and how many it was taken from
LAST_CLOCK, KEPT_CLOCK = 7, 8  # of the newest answer, and of the newest whose score was kept
HEAD = 12
SORTED, RING = HEAD, HEAD + SCORES


def conformal_size() -> int:
    """Return how many floats the state takes."""
    return HEAD + 2 * SCORES


def conformal_new(coverage: float) -> npt.NDArray[np.float64]:
    """Return the state before the first answer; `coverage` is the share of outcomes to be held, 0 to 1."""
    state = np.zeros(conformal_size())
    state[ALPHA] = 1.0 - coverage
    return state


def conformal_answer(state: Any, row: Any, out_at: Any, outputs: Any, is_class: Any, coverage: float) -> None:
    """Judge what was said in a row whose LABEL is known now, and keep its score. What is not finite is passed over.

    The first thresholds, infinite because there were too few scores, are not judged: they say nothing of alpha.
    """
    label = row[LABEL]
    if not math.isfinite(label):
        return
    score = math.nan
    if not is_class:
        score = abs(label - row[out_at])
    elif 0.0 <= label < outputs:
        score = 1.0 - row[out_at + int(label)]
    if not math.isfinite(score):
        return
    score = max(score, 0.0)  # a probability may be rounded to more than 1
    step, is_kept = _pace(state, row)
    said = row[out_at + outputs]
    if said < math.inf or (said == math.inf and state[JUDGED] > 0.0):
        miss = 0.0 if score <= said else 1.0
        state[JUDGED] += 1.0
        state[MISSED] += miss
        state[ALPHA] += step * (1.0 - coverage - miss)
    if is_kept:
        _keep(state, score)


def conformal_ask(state: Any, row: Any, out_at: Any, outputs: Any, is_class: Any) -> None:
    """Write the threshold of a prediction, whose outputs are in the row, behind them."""
    held = state[HELD]
    alpha = state[ALPHA]
    threshold = math.inf
    if held >= SCORES_MIN and alpha > 0.0:
        threshold = EMPTY
        if alpha < 1.0:
            rank = min(held, math.ceil((held + 1.0) * (1.0 - alpha)))
            threshold = state[SORTED + int(rank) - 1]
    row[out_at + outputs] = threshold


def interval_of(row: Any, out_at: Any) -> tuple[float, float]:
    """Return the interval of a value that was said: infinite where there is none yet, a point where it is empty."""
    half = max(row[out_at + 1], 0.0)
    return row[out_at] - half, row[out_at] + half


def set_mask(row: Any, out_at: Any, outputs: Any) -> int:
    """Return the set of classes that was said, bit k for class k."""
    mask = 0
    for at in range(outputs):
        if 1.0 - row[out_at + at] <= row[out_at + outputs]:
            mask |= 1 << at
    return mask


def coverage_of(state: npt.NDArray[np.float64]) -> tuple[int, float]:
    """Return how many answers were judged, and the share of them that was held; NaN of none."""
    judged = int(state[JUDGED])
    return judged, 1.0 - float(state[MISSED]) / judged if judged else math.nan


def _pace(state: Any, row: Any) -> tuple[float, bool]:
    """Return the step that alpha takes at this answer, and whether its score is kept."""
    clocks = state.view(np.int64)
    times = row.view(np.int64)
    horizon = times[DUE] - times[CLOCK]
    count = min(state[ANSWERS] + 1.0, GAPS)
    gap = float(max(times[CLOCK] - clocks[LAST_CLOCK], 0)) if state[ANSWERS] > 0.0 else float(horizon)
    state[GAP] += (gap - state[GAP]) / count
    state[ANSWERS] = count
    clocks[LAST_CLOCK] = times[CLOCK]
    step = GAMMA
    if horizon > STEPS * state[GAP]:
        step *= STEPS * state[GAP] / horizon
    if state[HELD] > 0.0 and KEPT * (times[CLOCK] - clocks[KEPT_CLOCK]) < horizon:
        return step, False
    clocks[KEPT_CLOCK] = times[CLOCK]
    return step, True


def _keep(state: Any, score: float) -> None:
    """Put a score in place of the oldest, in the ring and among the sorted: what lies between the two places shifts by one."""
    held = int(state[HELD])
    slot = int(state[NEXT])
    place = _before(state, held, score)
    if held < SCORES:
        for at in range(held, place, -1):
            state[SORTED + at] = state[SORTED + at - 1]
        state[HELD] = held + 1.0
    else:
        gone = _before(state, held, state[RING + slot])
        if gone < place:
            place -= 1
            for at in range(gone, place):
                state[SORTED + at] = state[SORTED + at + 1]
        else:
            for at in range(gone, place, -1):
                state[SORTED + at] = state[SORTED + at - 1]
    state[SORTED + place] = score
    state[RING + slot] = score
    state[NEXT] = float((slot + 1) % SCORES)


def _before(state: Any, held: Any, score: float) -> int:
    """Return how many of the sorted scores are less."""
    low = 0
    high = held
    while low < high:
        middle = (low + high) // 2
        if state[SORTED + middle] < score:
            low = middle + 1
        else:
            high = middle
    return low
