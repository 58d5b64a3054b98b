"""Price change over a window of time (or ticks): price / last price at or before t - w, minus 1.

Input      price, quote currency, finite
Output     a fraction (0.01 is one per cent); NaN until there is a price that old
Cost       O(1) amortised
"""

from __future__ import annotations

from engine.indicator import Node, Value, Window, before, indicator


@indicator()
def relative_change(value: float, base: float) -> float:
    """value / base - 1."""
    return value / base - 1.0


def price_change(value: Value, window: Window) -> Node:
    """Return the node of the relative change of `value` over the last `window`."""
    node: Node = relative_change(value, before(value, window))
    return node
