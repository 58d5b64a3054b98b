"""A lower confidence bound of a mean that holds at all times at once: what a challenger earns at least, beside the champion.

    L = (sum w x - sum v psi(lambda) - log(1 / alpha)) / sum w,   psi(lambda) = -log(1 - lambda) - lambda

Input      x, net basis points of the challenger less the champion's, truncated to [-b, b]; b is 8 root mean squares of the x before this one
Terms      m the mean of the x before; c = b + |m|; v = ((x - m) / c)^2; w = lambda / c; lambda in (0, 0.75] from the past alone
Promise    the probability that L ever lies above the mean is at most alpha, however long it runs and whenever somebody looks. The mean
           is that of the truncated x, weighted by w; where it is the same at each pair, the weights do not matter. With x the mean is
           expected to be at its pair, exp(sum w (x - mean) - sum v psi) is a supermartingale, for exp(y - y^2 psi / lambda^2) <= 1 + y where
           y >= -lambda (X. Fan, I. Grama, Q. Liu 2015)
Width      about sqrt(2 log(1 / alpha) log n / n) standard deviations after n pairs
Cost       O(1) time, 9 floats of state
Reference  empirical Bernstein with predictable plug-in, theorem 2 of I. Waudby-Smith and A. Ramdas, Estimating means of bounded random
           variables by betting (2024), one-sided, with a bound b that may change from pair to pair as long as it is known before

Gains beyond b are truncated too: that only lowers the bound. Losses beyond b count as b: the bound is blind to a rare loss that is far
greater than all that was seen, as every bound from a sample is.
"""

from __future__ import annotations

import math
from typing import Any

from engine.models.evidence import rescaled, scale_of

WEIGHT_MAX = 0.75
UNIT = 1.0
"""Squared basis points: before the first pair the scale is that of one pair of 1 bps."""

# Columns of the state, from `at` on: mean square and count of all x seen (the scale), then of the pairs that count: how many, sums of
# the truncated x and of their squared distances from the mean before, sum w, sum w x, sum v psi, how many were truncated.
MEAN_SQUARE, SEEN, PAIRS, TOTAL, SPREAD, WEIGHT, WEIGHTED, PENALTY, CUT = range(9)
BOUND = 9


def bound_start(state: Any, at: int) -> None:
    """Forget all that was seen."""
    for column in range(BOUND):
        state[at + column] = 0.0
    state[at + MEAN_SQUARE] = UNIT
    state[at + SEEN] = 1.0


def bound_scale(state: Any, at: int, x: float) -> None:
    """Learn the scale from x (bps, finite), and nothing else: of a pair that does not count."""
    state[at + MEAN_SQUARE], state[at + SEEN] = rescaled(state[at + MEAN_SQUARE], state[at + SEEN], x)


def bound_step(state: Any, at: int, x: float, surprise: float) -> None:
    """Take in x (bps, finite) of one pair. `surprise` is log(1 / alpha)."""
    count = state[at + PAIRS] + 1.0
    most = scale_of(state[at + MEAN_SQUARE])
    mean = state[at + TOTAL] / count  # shrunk by one pair of zero
    reach = most + abs(mean)
    if abs(x) > most:
        state[at + CUT] += 1.0
    kept = max(-most, min(most, x))
    away = kept - mean
    if reach > 0.0:
        variance = (state[at + SPREAD] + state[at + MEAN_SQUARE]) / count
        share = WEIGHT_MAX
        if variance > 0.0:
            share = min(share, reach * math.sqrt(2.0 * surprise / (variance * count * math.log(1.0 + count))))
        weight = share / reach
        state[at + WEIGHT] += weight
        state[at + WEIGHTED] += weight * kept
        state[at + PENALTY] += (away / reach) * (away / reach) * (-math.log1p(-share) - share)
    state[at + PAIRS] = count
    state[at + TOTAL] += kept
    state[at + SPREAD] += away * away
    bound_scale(state, at, x)


def lower_bound(state: Any, at: int, surprise: float) -> float:
    """Return the bound (bps) that holds but with probability alpha; minus infinity before the first pair."""
    weight = state[at + WEIGHT]
    if weight <= 0.0:
        return -math.inf
    bound: float = (state[at + WEIGHTED] - state[at + PENALTY] - surprise) / weight
    return bound
