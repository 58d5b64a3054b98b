"""Evidence that a challenger is better: an e-process, which may be looked at after each pair, for as long as one likes.

    E <- E (1 + lambda d),   lambda = clip(shrunk mean / second moment of the past d, 0, 0.9)

Input      d, the champion's loss less the challenger's, in [-1, 1]; one a pair of predictions that do not overlap
Null       whatever has happened so far, the next d is expected to be at most 0: E[d | past] <= 0 at every pair
Promise    under the null, the probability that E ever reaches 1 / alpha is at most alpha (Ville 1939), however long it runs and
           whenever somebody looks: the bet is made before d is known, so E is a supermartingale that begins at 1
Power      log E grows by about mean(d)^2 / (2 mean(d^2)) a pair
Cost       O(1) time, 4 floats of state; log E is kept, so that nothing overflows
Reference  Y. J. Choe and A. Ramdas, Comparing sequential forecasters (arXiv 2110.00115); I. Waudby-Smith and A. Ramdas, Estimating means
           of bounded random variables by betting (2024)

A Brier score, halved where there are more than two classes, lies in [0, 1], hence a difference of two in [-1, 1]. A squared error has no
bound, and no test of an unbounded mean can be honest without one (R. Bahadur and L. Savage 1956). There d is the difference of the
losses in units of a scale, truncated: d = clip(difference / s, -1, 1), where s is 8 root mean squares of the differences before this pair.
The null is then of the truncated difference. Truncation is rare, is the same on both sides, and is counted.
"""

from __future__ import annotations

import math

BET_MAX = 0.9
"""Of all that is staked, what one pair may lose at most."""
SHRINKAGE = 50.0
"""Pairs of no difference that the mean is shrunk by."""
SCALE = 8.0
"""Root mean squares of what came before, at which a difference of unbounded losses is truncated."""
MEMORY = 1_000.0
"""Pairs after which the scale forgets: it follows what volatility does."""
FIRST_MAX = 1e100
"""A first difference beyond this sets no scale: its square would be infinite."""


def bet_of(total: float, squares: float, count: float) -> float:
    """Return the share of E to stake on the next difference, from the sums of `count` differences and of their squares."""
    if total <= 0.0 or squares <= 0.0:
        return 0.0
    return min(total / (count + SHRINKAGE) * count / squares, BET_MAX)


def evidence(
    log_e: float, total: float, squares: float, count: float, difference: float
) -> tuple[float, float, float, float]:
    """Fold one difference in [-1, 1] into (log E, sum, sum of squares, count)."""
    log_e += math.log1p(bet_of(total, squares, count) * difference)
    return log_e, total + difference, squares + difference * difference, count + 1.0


def scale_of(mean_square: float) -> float:
    """Return where the next difference is truncated; 0 while there is no scale."""
    return SCALE * math.sqrt(mean_square)


def truncated(difference: float, scale: float) -> float:
    """Return a difference, which may be infinite, in units of its scale, in [-1, 1]; 0 without a scale: nothing is staked."""
    if scale <= 0.0:
        return 0.0
    return max(-1.0, min(1.0, difference / scale))


def rescaled(mean_square: float, count: float, difference: float) -> tuple[float, float]:
    """Fold one difference into the (mean square, count) that make the scale of the next one.

    A difference counts at most as 8 scales: a model that explodes once must not blind the contest for ever.
    """
    if mean_square <= 0.0 and not abs(difference) <= FIRST_MAX:
        return mean_square, count
    if mean_square > 0.0:
        most = SCALE * scale_of(mean_square)
        difference = max(-most, min(most, difference))
    count = min(count + 1.0, MEMORY)
    return mean_square + (difference * difference - mean_square) / count, count
