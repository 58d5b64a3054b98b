"""Aggregates over a window of ticks or of time: total, lowest, highest.

Input      any value; an undefined one makes the window undefined for as long as it is in it
Output     in the unit of the input; over ticks NaN until the window is full, over time from the first value on
Cost       O(1) amortised: two stacks, each value combined at most three times, nothing subtracted
Reference  K. Tangwongsan, M. Hirzel, S. Schneider, Low-Latency Sliding-Window Aggregation in Worst-Case Constant Time (2017)
"""

from __future__ import annotations

import math

from engine.indicator import aggregate


@aggregate(identity=0.0)
def total(older: float, newer: float) -> float:
    """Sum."""
    return older + newer


@aggregate(identity=math.inf)
def lowest(older: float, newer: float) -> float:
    """Minimum; NaN if either is."""
    return older if older <= newer or older != older else newer  # noqa: PLR0124 - NaN is what differs from itself


@aggregate(identity=-math.inf)
def highest(older: float, newer: float) -> float:
    """Maximum; NaN if either is."""
    return older if older >= newer or older != older else newer  # noqa: PLR0124 - NaN is what differs from itself
