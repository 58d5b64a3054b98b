"""Features of the best bid and offer: mid, spread in basis points, imbalance of the sizes.

Input      bid, ask, quote currency; bid_volume, ask_volume, base currency
Output     NaN until the first quote; the imbalance also where the exchange sends no sizes
Cost       O(1), no state

The quote is the newest one received before the trade. On some exchanges quotes overtake the trade that caused them, so it may
already hold that trade's effect (measured on Binance spot: half of the time).
"""

from __future__ import annotations

import math

from engine.indicator import indicator


@indicator()
def mid(bid: float, ask: float) -> float:
    """(bid + ask) / 2, quote currency."""
    return (bid + ask) / 2.0


@indicator()
def spread_bps(bid: float, ask: float) -> float:
    """10,000 * (ask - bid) / mid, basis points; negative if crossed."""
    return 10_000.0 * (ask - bid) / ((bid + ask) / 2.0)


@indicator()
def quote_imbalance(bid_volume: float, ask_volume: float) -> float:
    """(bid_volume - ask_volume) / (bid_volume + ask_volume), -1 to 1; NaN if both are zero."""
    size = bid_volume + ask_volume
    return (bid_volume - ask_volume) / size if size > 0.0 else math.nan
