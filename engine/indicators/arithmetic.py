"""Plain arithmetic between nodes, for building indicators out of others."""

from __future__ import annotations

import math

from engine.indicator import indicator


@indicator()
def difference(left: float, right: float) -> float:
    """left - right."""
    return left - right


@indicator()
def product(left: float, right: float) -> float:
    """left * right."""
    return left * right


@indicator()
def ratio(numerator: float, denominator: float) -> float:
    """numerator / denominator; NaN where the denominator is zero."""
    return numerator / denominator if denominator != 0.0 else math.nan
