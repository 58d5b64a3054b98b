"""Moving Average Convergence Divergence: a fast less a slow EMA, the EMA of that (signal), and how far it is from it (histogram).

Input      price, quote currency, finite
Output     macd, macd_signal, macd_histogram, in the unit of the input; NaN until the slow EMA, then the signal's, has warmed up
Cost       O(1) time, 6 floats of state
Reference  G. Appel, Technical Analysis: Power Tools for Active Investors (2005)
"""

from __future__ import annotations

from engine.indicator import Node, Value
from engine.indicators.arithmetic import difference
from engine.indicators.ema import ema


def macd(value: Value, fast: int = 12, slow: int = 26, signal: int = 9) -> tuple[Node, Node, Node]:
    """Return the nodes (macd, macd_signal, macd_histogram)."""
    line: Node = difference(ema(value, fast), ema(value, slow))
    trigger: Node = ema(line, signal)
    return line, trigger, difference(line, trigger)
