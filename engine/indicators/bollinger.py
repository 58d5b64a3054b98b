"""Bollinger bands: the mean of the last `period` values, and `width` population standard deviations above and below it.

Input      price, quote currency, finite
Output     bollinger_upper, bollinger_middle, bollinger_lower, in the unit of the input; NaN until `period` values have been seen
Cost       O(1) amortised, the window and two suffix aggregates
Accuracy   sums are of differences from a recent price: neither prices that are large beside their deviation nor one that has left
           the window leave rounding behind
Reference  J. Bollinger, Bollinger on Bollinger Bands (2001)
"""

from __future__ import annotations

import math

from engine.indicator import Node, Value, aggregate, anchor, indicator, kernel, ticks_of


@kernel
def deviation(value: float, base: float) -> float:
    """value - base."""
    return value - base


@kernel
def squared_deviation(value: float, base: float) -> float:
    """(value - base) squared."""
    return (value - base) * (value - base)


@aggregate(identity=0.0, lift=deviation)
def total_deviation(older: float, newer: float) -> float:
    """Sum of the deviations from the window's anchor."""
    return older + newer


@aggregate(identity=0.0, lift=squared_deviation)
def total_squares(older: float, newer: float) -> float:
    """Sum of the squared deviations from the window's anchor."""
    return older + newer


@indicator(outputs=("upper", "middle", "lower"))
def bands(base: float, total: float, squares: float, period: float, width: float) -> tuple[float, float, float]:
    """The mean, and `width` population standard deviations above and below it, from sums relative to `base`."""
    # A constant for the compiler: divisions are what costs most here.
    share = 1.0 / period
    offset = total * share
    variance = squares * share - offset * offset
    spread = width * math.sqrt(variance) if variance > 0.0 else 0.0
    mean = base + offset
    return mean + spread, mean, mean - spread


def bollinger(value: Value, period: int = 20, width: float = 2.0) -> tuple[Node, Node, Node]:
    """Return the nodes (upper, middle, lower)."""
    count = ticks_of(period, "bollinger")
    sums = total_deviation(value, period), total_squares(value, period)
    upper, middle, lower = bands(anchor(value, period), *sums, count, width)
    return upper, middle, lower
