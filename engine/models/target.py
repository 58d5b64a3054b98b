"""Targets: what a model predicts, as the label that its horizon's end gives.

    direction     class down, flat or up: the return against a dead band of so many basis points, or spreads
    up_down       class down or up; a return of zero is void, so a coin has 50 %
    trade         class sell, hold or buy: whether the move pays twice the fee and the spread
    log_return    ln(outcome / reference)
    volatility    sqrt of the sum of squared log returns over the horizon
    none          no label: anomaly scores and clusters learn from each row at once
    FILE.py:NAME  a function of (reference, outcome, spread_bps, variance) that gives a value, NaN for void

A price is a mid where the key had a quote when the prediction was made, else a trade's price; reference and outcome are of one kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.plugin import import_file

NONE, CUSTOM, LOG_RETURN, VOLATILITY, DIRECTION, UP_DOWN, TRADE = range(7)
KINDS = {
    "none": NONE,
    "log_return": LOG_RETURN,
    "volatility": VOLATILITY,
    "direction": DIRECTION,
    "up_down": UP_DOWN,
    "trade": TRADE,
}
CLASSES: dict[int, tuple[str, ...]] = {
    DIRECTION: ("down", "flat", "up"),
    UP_DOWN: ("down", "up"),
    TRADE: ("sell", "hold", "buy"),
}
BPS = 10_000.0


@dataclass(frozen=True)
class Target:
    """A target as it was resolved."""

    name: str
    kind: int
    classes: tuple[str, ...]  # names, empty of a regression
    label: Callable[[float, float, float, float], float] | None = None  # of a custom one

    @property
    def outputs(self) -> int:
        """Numbers that a model says: a probability a class, or one value."""
        return len(self.classes) or 1

    @property
    def is_supervised(self) -> bool:
        """Whether there are labels at all."""
        return self.kind != NONE


def resolve_target(text: str, where: str) -> Target:
    """Return the target of a name, or of "FILE.py:FUNCTION". Raises ConfigError naming the targets there are."""
    path, _, name = text.partition(":")
    if path.endswith(".py"):
        label = getattr(import_file(Path(path), ConfigError, where), name or "label", None)
        if not callable(label):
            raise ConfigError(f"{where} = {text!r}: expected a function {name or 'label'} in {path}")
        return Target(text, CUSTOM, (), label)
    if text not in KINDS:
        raise ConfigError(f"{where} = {text!r}: expected one of {', '.join(KINDS)}, or FILE.py:FUNCTION")
    kind = KINDS[text]
    return Target(text, kind, CLASSES.get(kind, ()))


def label_of(
    kind: Any,
    reference: float,
    outcome: float,
    spread_bps: float,
    variance: float,
    band: float,
    in_spreads: Any,
    fee_bps: float,
) -> float:
    """Return the label of an outcome: a class's number or a value; NaN where it is void. Compiled into the ledger's clock."""
    if not (reference > 0.0 and outcome > 0.0):
        return math.nan
    if kind == LOG_RETURN:
        return math.log(outcome / reference)
    if kind == VOLATILITY:
        return math.sqrt(max(variance, 0.0))
    moved = BPS * (outcome / reference - 1.0)
    spread = spread_bps if spread_bps > 0.0 else 0.0
    if kind == UP_DOWN:
        if moved == 0.0:
            return math.nan
        return 1.0 if moved > 0.0 else 0.0
    edge = 2.0 * fee_bps + spread
    if kind == DIRECTION:
        edge = band * spread if in_spreads else band
    if moved > edge:
        return 2.0
    return 0.0 if moved < -edge else 1.0


def cost_bps(spread_bps: float, fee_bps: float) -> float:
    """Return what going in and out costs: two fees, and the spread where it is known."""
    return 2.0 * fee_bps + (spread_bps if spread_bps > 0.0 else 0.0)


def position_of(row: Any, out_at: Any, outputs: Any, is_class: Any, cost: float) -> float:
    """Return the position that an arm's outputs at `row[out_at:]` ask for: -1, 0 or +1.

    Of classes the likeliest, the first of equals; of a return one that is expected to pay its cost (bps).
    """
    if not is_class:
        expected = BPS * row[out_at]
        if expected > cost:
            return 1.0
        return -1.0 if expected < -cost else 0.0
    best = 0
    for at in range(1, outputs):
        if row[out_at + at] > row[out_at + best]:
            best = at
    if outputs == 2:
        return 1.0 if best == 1 else -1.0
    return float(best) - 1.0
