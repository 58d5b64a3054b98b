"""Volume ratio: the volume of this trade (or bar) beside the mean of the last `period`, this one included.

Input      volume, base currency, positive
Output     a ratio, 1 is usual; NaN until `period` values have been seen
Cost       O(1) amortised
"""

from __future__ import annotations

from engine.indicator import Node, Value
from engine.indicators.arithmetic import ratio
from engine.indicators.sma import sma


def volume_ratio(volume: Value, period: int = 20) -> Node:
    """Return the node of volume / sma(volume, period)."""
    node: Node = ratio(volume, sma(volume, period))
    return node
