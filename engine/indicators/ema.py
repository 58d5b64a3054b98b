"""Exponential Moving Average: mean + 2 / (period + 1) * (value - mean), seeded by the plain mean.

Input      any finite value
Output     in the unit of the input; NaN until `period` values have been seen
Cost       O(1) time, 2 floats of state
Reference  TA-Lib's EMA, which seeds with the mean of the first `period` values
"""

from __future__ import annotations

import math

from engine.indicator import indicator


@indicator(state={"count": 0.0, "mean": 0.0}, warm_up=math.ceil, at_least={"period": 1})
def ema(count: float, mean: float, value: float, period: float) -> tuple[float, float, float]:
    """Fold one value into (count, mean); return them with the new average."""
    if count >= period:
        mean += 2.0 / (period + 1.0) * (value - mean)
        return count, mean, mean
    count += 1.0
    mean += (value - mean) / count
    return count, mean, mean if count >= period else math.nan
