"""Volume-weighted average price over a window: sum of price * volume / sum of volume.

Input      price, quote currency; volume, base currency
Output     quote currency; over time from the first trade on, over ticks NaN until the window is full
Cost       O(1) amortised
"""

from __future__ import annotations

from engine.indicator import Node, Value, Window
from engine.indicators.arithmetic import product, ratio
from engine.indicators.window import total


def vwap(price: Value, volume: Value, window: Window) -> Node:
    """Return the node of the volume-weighted mean of `price` over the last `window`."""
    node: Node = ratio(total(product(price, volume), window), total(volume, window))
    return node
