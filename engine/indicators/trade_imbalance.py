"""Trade imbalance over a window: (volume that takers bought - volume that takers sold) / all volume.

Input      side (+1 the taker bought, -1 sold, 0 unknown); volume, base currency
Output     -1 to 1; trades of unknown side count in the denominator only
Cost       O(1) amortised
"""

from __future__ import annotations

from engine.indicator import Node, Value, Window
from engine.indicators.arithmetic import product, ratio
from engine.indicators.window import total


def trade_imbalance(side: Value, volume: Value, window: Window) -> Node:
    """Return the node of the signed share of taker volume over the last `window`."""
    node: Node = ratio(total(product(side, volume), window), total(volume, window))
    return node
