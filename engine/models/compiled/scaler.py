"""The standard scaler: (x - mean) / deviation of all that was learned so far, feature by feature. It never forgets.

State      1 + 2 n floats: count, means, population variances (Welford)
Constant   a feature that has not varied scales to 0
Order      as in a River pipeline: learning takes the row in first and then scales it, so |z| <= sqrt(count - 1) there; predicting
           scales by what was learned before
Reference  B. P. Welford, Note on a method for calculating corrected sums of squares and products, Technometrics 4 (1962)
"""

from __future__ import annotations

import math
from typing import Any

Z_LIMIT = 1e30
"""No learner sees more deviations than that. After a past that was constant but for rounding, a row may well be 1e15 away."""


def scaler_size(features: Any) -> int:
    """Return the floats of state that a scaler takes."""
    size: int = 1 + 2 * features
    return size


def scaler_learn(s: Any, x: Any, z: Any, most: float) -> None:
    """Take `x` in, and write it as scaled from then on to `z`, within +-`most`."""
    features = len(x)
    count = s[0] + 1.0
    s[0] = count
    means = s[1 : 1 + features]
    variances = s[1 + features : 1 + 2 * features]
    for at in range(features):
        before = means[at]
        mean = before + (x[at] - before) / count
        variance = variances[at]
        variance = variance + ((x[at] - before) * (x[at] - mean) - variance) / count
        means[at] = mean
        variances[at] = variance
        scaled = (x[at] - mean) / math.sqrt(variance) if variance > 0.0 else 0.0
        z[at] = min(max(scaled, -most), most)


def scaler_transform(s: Any, x: Any, z: Any, most: float) -> None:
    """Write `x` as scaled by what was learned so far to `z`, within +-`most`."""
    features = len(x)
    means = s[1 : 1 + features]
    variances = s[1 + features : 1 + 2 * features]
    for at in range(features):
        variance = variances[at]
        scaled = (x[at] - means[at]) / math.sqrt(variance) if variance > 0.0 else 0.0
        z[at] = min(max(scaled, -most), most)


def dot(weights: Any, z: Any) -> float:
    """Return the inner product, summed in the order of the features."""
    total = 0.0
    for at in range(len(z)):
        total += weights[at] * z[at]
    return total


def clip_of(clip: float) -> float:
    """Return the bound of a scaled feature that an option `clip_z` means: 0 is none but the scaler's own."""
    return clip if clip > 0.0 else Z_LIMIT
