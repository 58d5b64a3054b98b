"""Relative Strength Index: 100 * G / (G + L), with Wilder averages of rises G and falls L.

Input      price, quote currency, finite
Output     0 to 100; NaN until `period` changes have been seen (period + 1 prices)
Flat       50 when G + L == 0: neither side has pushed
Cost       O(1) time, 4 floats of state
Reference  J. W. Wilder, New Concepts in Technical Trading Systems (1978)
"""

from __future__ import annotations

import math

from engine.indicator import indicator

# Averages decay for ever on flat prices. Below this they are zero, or they would end as denormals that never reach it and whose
# ratio is noise.
NEGLIGIBLE = 1e-290


@indicator(
    state={"count": -1.0, "last": 0.0, "gain": 0.0, "loss": 0.0},
    warm_up=lambda period: math.ceil(period) + 1,
    at_least={"period": 1},
)
def rsi(
    count: float, last: float, gain: float, loss: float, price: float, period: float
) -> tuple[float, float, float, float, float]:
    """Fold one price into (count, last, gain, loss); return them with the new RSI.

    `count` is the number of changes seen, -1 before the first price; it stays at `period`.
    """
    change = price - last
    if count >= period:
        weight = 1.0 / period
    else:
        count += 1.0
        if count == 0.0:
            return count, price, 0.0, 0.0, math.nan
        # Seeding is a plain mean, after that Wilder's average: one update, whose weight stops shrinking at 1 / period.
        weight = 1.0 / count
    gain += weight * (max(change, 0.0) - gain)
    loss += weight * (max(-change, 0.0) - loss)
    total = gain + loss
    if total < NEGLIGIBLE:
        return count, price, 0.0, 0.0, 50.0 if count >= period else math.nan
    return count, price, gain, loss, 100.0 * gain / total if count >= period else math.nan
