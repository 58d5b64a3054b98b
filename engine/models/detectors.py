"""A detector of change in one stream of numbers that allows for the stream's own memory: the newest rows against those before.

Each value becomes its mid-rank u in the first 256 rows (the reference), and that two scores which no outlier can carry far, both of
mean 0 and variance 1 while nothing changes: the place a = sqrt(12) (u - 1/2) and the spread b = sqrt(5) (6 u^2 - 6 u + 1). Of a loss
only a rise counts, of its place or of its upper end, (a + b) / sqrt(2): one that is scaled up moves there the most.

    tested      the newest 32, 64, ... 8,192 rows (W) against all before them since the reference began (n), at every 32, 32, 64, ...
                rows: windows of dyadic lengths, as in ADWIN, each overlapping the one before it by half
    statistic   T = (mean of W - mean of n) / sqrt(L (1/n + 1/W)),  z = sqrt(v ln(1 + T^2 / v)),  v = n / tau
    noise       L, the long-run variance of the rows before: the greater of s^2 (1 + r) / (1 - r) from the rows' lag-1 correlation r
                (its small-sample bias and one standard error added), and of the same from means of 32 rows; tau = L / s^2
    said        where z passes the threshold, with at least 8 tau rows in the window, and before it 16 tau and 512: a stream that
                remembers for long needs longer windows, one that seems to wander without returning is not judged
    Cost        O(log 256) a row, a few hundred operations at every 32nd; 385 floats of state

Sources: mid-ranks and their two components, Neyman's smooth test (J. Neyman, Skandinavisk Aktuarietidskrift 20, 1937) between two
samples as in Wilcoxon, Mann and Whitney (1947); dyadic windows, A. Bifet and R. Gavalda, Learning from Time-Changing Data with
Adaptive Windowing (2007); long-run variance from an AR(1), D. Andrews, Econometrica 59 (1991); bias of r, M. Kendall, Biometrika 41
(1954); from T, which has about v degrees of freedom, to z, D. Wallace, Annals of Mathematical Statistics 30 (1959).
"""

from __future__ import annotations

import math
from typing import Any

REFERENCE = 256  # rows that ranks are counted in
BATCH = 32  # rows between two looks, and the shortest window
LEVELS = 8  # of windows: 32, then 64 to 8,192 rows
EFFECTIVE_WINDOW, EFFECTIVE_BEFORE = 8.0, 16.0  # rows, each counted as 1 / tau
ROWS_MIN = 512  # before a window: 16 batches, for a variance of their means
# A feature that is nearly always the same has scores of hardly any variance, and sums that are far from normal.
VARIANCE_MIN = 0.5
MEMORY_MAX = 0.999  # lag-1 correlation from which on a stream counts as one that does not return

# A detector's state: floats, relative to where it begins.
FILLED = 0  # rows of the reference so far
TOTAL = 1  # rows judged or waiting to be, a multiple of BATCH, the reference's among them
ROWS = 2  # in the batch that is open
LAST, LAST_BATCH = 3, 5  # scores of the row before, means of the batch before: two components each
PARITY = 7  # of the windows of each level, LEVELS
# For each component: sum, sum of squares, of products with the row before, of squared means of batches, of their products.
MOMENTS = 5
SUMS = 2 * MOMENTS
OPEN = PARITY + LEVELS  # of the batch that is open
ALL = OPEN + SUMS
BLOCK = ALL + SUMS  # of the newest window, while it is tested
NEWEST = BLOCK + SUMS  # of the last window of each level
RANKED = NEWEST + LEVELS * SUMS  # the reference: in order of arrival, then sorted
DETECTOR = RANKED + REFERENCE

ROOT_2, ROOT_5, ROOT_12 = math.sqrt(2.0), math.sqrt(5.0), math.sqrt(12.0)


def detector_step(state: Any, at: Any, value: float, threshold: float, is_rise: Any) -> float:
    """Take one value into the detector at `state[at:]`; return z where it passed `threshold`, else 0. Not finite: passed over.

    After a change the detector begins anew: the next rows are the reference. `is_rise`: only a rise is looked for, of a loss.
    """
    if not math.isfinite(value):
        return 0.0
    filled = int(state[at + FILLED])
    if filled == REFERENCE:
        return _add(state, at, _rank(state, at + RANKED, value), threshold, is_rise)
    state[at + RANKED + filled] = value
    state[at + FILLED] = filled + 1.0
    if filled + 1 < REFERENCE:
        return 0.0
    # The reference's own rows are scored in their order, then it is sorted.
    ranked = state[at + RANKED : at + RANKED + REFERENCE]
    found = 0.0
    for row in range(REFERENCE):
        below = 0
        upto = 0
        for other in range(REFERENCE):
            below += int(ranked[other] < ranked[row])
            upto += int(ranked[other] <= ranked[row])
        found = max(found, _add(state, at, (below + upto) / (2.0 * REFERENCE), threshold, is_rise))
    ranked.sort()
    return found


def detector_reset(state: Any, at: Any) -> None:
    """Forget everything: the next row is the first of a new reference."""
    for cell in range(at, at + DETECTOR):
        state[cell] = 0.0


def _rank(state: Any, at: Any, value: float) -> float:
    """Return the mid-rank of a value in the sorted reference at `state[at:]`, 0 to 1."""
    low = 0
    high = REFERENCE
    while low < high:
        middle = (low + high) // 2
        if state[at + middle] < value:
            low = middle + 1
        else:
            high = middle
    upto = low
    high = REFERENCE
    while upto < high:
        middle = (upto + high) // 2
        if state[at + middle] <= value:
            upto = middle + 1
        else:
            high = middle
    return (low + upto) / (2.0 * REFERENCE)


def _add(state: Any, at: Any, rank: float, threshold: float, is_rise: Any) -> float:
    """Add the scores of a rank to the open batch, and look where that completes it."""
    place = ROOT_12 * (rank - 0.5)
    other = ROOT_5 * (6.0 * rank * rank - 6.0 * rank + 1.0)
    if is_rise:
        other = (place + other) / ROOT_2
    for component in range(2):
        score = place if component == 0 else other
        sums = at + OPEN + component * MOMENTS
        state[sums] += score
        state[sums + 1] += score * score
        state[sums + 2] += score * state[at + LAST + component]
        state[at + LAST + component] = score
    state[at + ROWS] += 1.0
    if state[at + ROWS] < BATCH:
        return 0.0
    found = _look(state, at, is_rise)
    if found <= threshold:
        return 0.0
    detector_reset(state, at)
    return found


def _look(state: Any, at: Any, is_rise: Any) -> float:
    """Close the open batch; return the greatest z of the windows that end with it."""
    for component in range(2):
        sums = at + OPEN + component * MOMENTS
        mean = state[sums] / BATCH
        state[sums + 3] = mean * mean
        state[sums + 4] = mean * state[at + LAST_BATCH + component]
        state[at + LAST_BATCH + component] = mean
    for cell in range(SUMS):
        state[at + ALL + cell] += state[at + OPEN + cell]
        state[at + BLOCK + cell] = state[at + OPEN + cell]
        state[at + OPEN + cell] = 0.0
    state[at + ROWS] = 0.0
    state[at + TOTAL] += BATCH
    rows = float(BATCH)
    found = _compare(state, at, rows, is_rise)
    for level in range(LEVELS):
        newest = at + NEWEST + level * SUMS
        for cell in range(SUMS):
            block = state[at + BLOCK + cell]
            state[at + BLOCK + cell] = block + state[newest + cell]
            state[newest + cell] = block
        rows *= 2.0
        if state[at + TOTAL] >= rows:
            found = max(found, _compare(state, at, rows, is_rise))
        # Two windows of a level are one of the next.
        state[at + PARITY + level] = 1.0 - state[at + PARITY + level]
        if state[at + PARITY + level] == 1.0:
            break
    return found


def _compare(state: Any, at: Any, rows: float, is_rise: Any) -> float:
    """Return z of the `rows` newest rows, whose sums are in BLOCK, against those before them; 0 where it cannot be told."""
    before = state[at + TOTAL] - rows
    if before < ROWS_MIN:
        return 0.0
    found = 0.0
    for component in range(2):
        whole = at + ALL + component * MOMENTS
        newest = at + BLOCK + component * MOMENTS
        mean = (state[whole] - state[newest]) / before
        square = mean * mean
        variance = (state[whole + 1] - state[newest + 1]) / before - square
        noise = _long_run(variance, (state[whole + 2] - state[newest + 2]) / before - square, before)
        batches = before / BATCH
        of_means = (state[whole + 3] - state[newest + 3]) / batches - square
        covariance = (state[whole + 4] - state[newest + 4]) / batches - square
        noise = max(noise, BATCH * _long_run(of_means, covariance, batches) * batches / (batches - 1.0))
        noise = max(noise, VARIANCE_MIN)
        tau = max(1.0, noise / max(variance, VARIANCE_MIN))
        freedom = before / tau
        if not (rows >= EFFECTIVE_WINDOW * tau and freedom >= EFFECTIVE_BEFORE):
            continue
        moved = state[newest] / rows - mean
        if is_rise and moved < 0.0:
            continue
        squared = moved * moved / (noise * (1.0 / before + 1.0 / rows))
        found = max(found, math.sqrt(freedom * math.log1p(squared / freedom)))
    return found


def _long_run(variance: float, covariance: float, count: float) -> float:
    """Return the long-run variance of an AR(1) from its variance and lag-1 covariance, estimated from `count` values."""
    if variance <= 0.0:
        return 0.0
    memory = min(max(covariance / variance, -1.0), 1.0)
    memory += (1.0 + 3.0 * memory) / count + math.sqrt((1.0 - memory * memory) / count)
    memory = max(memory, 0.0)
    return variance * (1.0 + memory) / (1.0 - memory) if memory < MEMORY_MAX else math.inf
