"""Horizons: how far ahead a model looks, by time, by trades or by rows of its views."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import ConfigError

UNITS_NS = {"ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000}
LONGEST_NS = 366 * 24 * UNITS_NS["h"]
MOST = 1 << 40
"""Trades or rows of a horizon."""
BY_TIME, BY_TRADES, BY_ROWS = 0, 1, 2


@dataclass(frozen=True)
class Horizon:
    """`count` ns of `received`, trades of the key, or rows of the model's views (bars, where those are on bars)."""

    text: str
    kind: int  # BY_TIME, BY_TRADES, BY_ROWS
    count: int

    @property
    def ns(self) -> int:
        """Nanoseconds of a horizon of time, else 0."""
        return self.count if self.kind == BY_TIME else 0


def parse_horizon(text: str, where: str) -> Horizon:
    """Return the horizon that `text` means: "500ms", "60s", "5m", "1h", "100t" (trades), "10b" (rows). Raises ConfigError."""
    found = re.fullmatch(r"([1-9][0-9]{0,11})(ms|s|m|h|t|b)", text.strip())
    if found is None:
        raise ConfigError(
            f"{where} = {text!r}: expected a time (500ms, 60s, 5m, 1h), trades (100t) or rows of its views (10b)"
        )
    count, unit = int(found[1]), found[2]
    if count * UNITS_NS.get(unit, 0) > LONGEST_NS or count > MOST:
        raise ConfigError(f"{where} = {text!r}: expected at most 366 days, or {MOST} trades or rows")
    if unit in UNITS_NS:
        return Horizon(text.strip(), BY_TIME, count * UNITS_NS[unit])
    return Horizon(text.strip(), BY_TRADES if unit == "t" else BY_ROWS, count)
