"""Realised volatility: 100 * sqrt(sum of squared log returns in the window * windows in a year), per cent.

Input      price, quote currency, positive
Output     per cent a year; NaN until the second price. A return belongs to its later price, so the newest always counts
Cost       O(1) amortised
Reference  T. G. Andersen, T. Bollerslev, F. X. Diebold, P. Labys, Modeling and Forecasting Realized Volatility (2003)
"""

from __future__ import annotations

import math

from engine.errors import ConfigError
from engine.indicator import Node, Span, Value, Window, indicator
from engine.indicators.window import total

NS_PER_YEAR = 365 * 24 * 3600 * 1_000_000_000


@indicator(state={"last": 0.0})
def squared_return(last: float, price: float) -> tuple[float, float]:
    """Square of the log return since the price before; 0 at the first price, which has none."""
    if last == 0.0:
        return price, 0.0
    move = math.log(price / last)
    return price, move * move


@indicator(state={"count": 0.0}, warm_up=2)
def annualised(count: float, variance: float, per_year: float) -> tuple[float, float]:
    """100 * sqrt(variance * per_year), from the second value on."""
    if count < 1.0:
        return 1.0, math.nan
    return count, 100.0 * math.sqrt(variance * per_year)


def realised_volatility(price: Value, window: Window) -> Node:
    """Return the node of the annualised volatility over the last `window`, a time. Raises ConfigError for a number of ticks."""
    span = Span.parse(window)
    if not span.time_ns:
        raise ConfigError(
            f'realised_volatility: window {window!r}: expected a time such as "60s", which can be annualised'
        )
    node: Node = annualised(total(squared_return(price), window), NS_PER_YEAR / span.time_ns)
    return node
