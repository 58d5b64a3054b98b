"""Bollinger bands: the mean of the last `period` values, and `width` population standard deviations above and below it.

Input      price, quote currency, finite
Output     bollinger_upper, bollinger_middle, bollinger_lower, in the unit of the input; NaN until `period` values have been seen
Cost       O(1) time, 10 floats of state and the window
Accuracy   sums are taken relative to an anchor inside the window and taken afresh each time the window has turned over: rounding
           neither adds up nor suffers from prices that are large beside their deviation
Reference  J. Bollinger, Bollinger on Bollinger Bands (2001)
"""

from __future__ import annotations

import math

from engine.indicator import Node, Value, before, indicator


@indicator(
    state={
        "seen": 0.0,
        "anchor": 0.0,
        "total": 0.0,
        "squares": 0.0,
        "age": 0.0,
        "next_anchor": 0.0,
        "next_total": 0.0,
        "next_squares": 0.0,
    },
    outputs=("mean", "deviation"),
    undefined=("leaving",),
    warm_up=int,
)
def deviation(
    seen: float,
    anchor: float,
    total: float,
    squares: float,
    age: float,
    next_anchor: float,
    next_total: float,
    next_squares: float,
    value: float,
    leaving: float,
    period: float,
) -> tuple[float, float, float, float, float, float, float, float, float, float]:
    """Mean and population standard deviation of the last `period` values; `leaving` is the one that has just left, NaN if none has.

    `total` and `squares` are sums of (value - anchor) and its square over the window; the `next_` ones are those of the `age`
    values since the last renewal, relative to the first of them, and take over once they are the whole window.
    """
    if age == 0.0:
        next_anchor = value
        next_total = 0.0
        next_squares = 0.0
    fresh = value - next_anchor
    next_total += fresh
    next_squares += fresh * fresh
    age += 1.0
    if age == period:
        seen = period
        anchor = next_anchor
        total = next_total
        squares = next_squares
        age = 0.0
    elif seen >= period:
        entered = value - anchor
        left = leaving - anchor
        total += entered - left
        squares += (entered - left) * (entered + left)
    else:
        return seen, anchor, total, squares, age, next_anchor, next_total, next_squares, math.nan, math.nan
    mean = total / period
    variance = squares / period - mean * mean
    spread = math.sqrt(variance) if variance > 0.0 else 0.0
    return seen, anchor, total, squares, age, next_anchor, next_total, next_squares, anchor + mean, spread


@indicator(outputs=("upper", "lower"))
def bands(mean: float, spread: float, width: float) -> tuple[float, float]:
    """`width` times `spread` above and below `mean`."""
    return mean + width * spread, mean - width * spread


def bollinger(value: Value, period: int = 20, width: float = 2.0) -> tuple[Node, Node, Node]:
    """Return the nodes (upper, middle, lower)."""
    mean, spread = deviation(value, before(value, period), float(period))
    upper, lower = bands(mean, spread, width)
    return upper, mean, lower
