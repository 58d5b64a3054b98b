"""Simple Moving Average: the mean of the last `period` values.

Input      any finite value
Output     in the unit of the input; NaN until `period` values have been seen
Cost       O(1) amortised, re-summed as the window turns over: no drift
Reference  TA-Lib's SMA
"""

from __future__ import annotations

from engine.indicator import Node, Value, ticks_of
from engine.indicators.arithmetic import ratio
from engine.indicators.window import total


def sma(value: Value, period: int) -> Node:
    """Return the node of the mean of the last `period` values."""
    node: Node = ratio(total(value, period), ticks_of(period, "sma"))
    return node
