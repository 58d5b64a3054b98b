"""Drift of one model for one key: a detector (`engine.models.detectors`) on its champion's loss, on its predictions and on each feature.

Only outcomes that do not overlap are looked at, one a horizon, each when its prediction has matured: the row's features and
prediction are those of when it was made. What counts as drift:

    0      the champion's loss rose (that it fell is no drift)
    1      its predictions moved or spread: the value, or the expected number of the class, sum of k p_k
    2 + j  feature j moved or spread

A stream in which drift was found begins anew with a new reference; the others go on. Where a look finds several they are told one at
each of the next rows, the plainest first. Another champion is another stream of losses and predictions: both begin anew.

The thresholds share out a budget: FALSE_ALARMS in 100,000 rows are expected of all streams together, half of them of the loss.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.models.detectors import BATCH, DETECTOR, detector_reset, detector_step

FALSE_ALARMS = 0.1  # in 100,000 rows, if z were normal
LOOKS = 3.0 / BATCH  # windows tested a row: one of 32, and 64, 128, ... half as often each
LOSS, PREDICTION, FEATURE = 0, 1, 2

STATISTIC = 0  # z of the newest drift
CHAMPION = 1  # 1 + where the champion's outputs lie; 0 before the first row
THRESHOLD = 2  # of the loss, then of all others
HEAD = 4
STREAM = 1 + DETECTOR  # a statistic to be told, 0 if there is none; a detector


def drift_size(features: int) -> int:
    """Return how many floats the state takes."""
    return HEAD + (FEATURE + features) * STREAM


def drift_new(features: int) -> npt.NDArray[np.float64]:
    """Return the state before the first row."""
    state = np.zeros(drift_size(features))
    # Two components each; those of a loss can only go up, others up or down.
    budget = FALSE_ALARMS / 2.0 / (100_000.0 * LOOKS) / 2.0
    state[THRESHOLD] = NormalDist().inv_cdf(1.0 - budget)
    state[THRESHOLD + 1] = NormalDist().inv_cdf(1.0 - budget / (2.0 * (1 + features)))
    return state


def drift_answer(
    state: Any, row: Any, x_at: Any, features: Any, out_at: Any, outputs: Any, is_class: Any, loss: float
) -> int:
    """Take a matured row of the ledger, the champion's; return -1, or the stream in which there is drift. Then state[0] is its z.

    What is not finite (a loss, a prediction, a feature) is passed over by its stream. Compiled into the judge.
    """
    if state[CHAMPION] != out_at + 1.0:
        state[CHAMPION] = out_at + 1.0
        for stream in range(FEATURE):
            state[HEAD + stream * STREAM] = 0.0
            detector_reset(state, HEAD + stream * STREAM + 1)
    said = row[out_at]
    if is_class:
        said = 0.0
        for at in range(outputs):
            said += at * row[out_at + at]
    plainest = -1
    for stream in range(FEATURE + features):
        here = HEAD + stream * STREAM
        value = loss
        if stream == PREDICTION:
            value = said
        elif stream >= FEATURE:
            value = row[x_at + stream - FEATURE]
        is_loss = stream == LOSS
        found = detector_step(state, here + 1, value, state[THRESHOLD] if is_loss else state[THRESHOLD + 1], is_loss)
        if found > 0.0:
            state[here] = found
        if state[here] > 0.0 and (plainest < 0 or state[here] > state[HEAD + plainest * STREAM]):
            plainest = stream
    if plainest >= 0:
        state[STATISTIC] = state[HEAD + plainest * STREAM]
        state[HEAD + plainest * STREAM] = 0.0
    return plainest
