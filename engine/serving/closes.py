"""Close and volume of bars, for a chart: views on bars hold indicators, not the prices that these were made of.

Where the trades of a bar are still in the ring, they are read off. Older bars are worked out of the columns that were computed from
them: the mean of 20 closes moves by (newest - oldest) / 20, which gives the oldest of them, back through all history; an EMA moves by
alpha (value - EMA), which gives each volume. Both to rounding, some 1e-12 of the value; for drawing, and nothing else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from store.ring import Rows

MEAN_OF = 20  # bars in bollinger_middle
ALPHA = 2.0 / 13.0  # of volume_ema_12

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]


class Closes:
    """Closes of one key's bars of one width, as far as they are known. Kept from call to call, at most `capacity` of them."""

    def __init__(self, width_ns: int, capacity: int) -> None:
        self.width_ns = width_ns
        self.capacity = capacity
        self._ends: Times = np.empty(0, np.int64)
        self._closes: Floats = np.empty(0)

    def fill(self, bars: Rows, ticks: Rows) -> Floats:
        """Return the closes of bars, NaN where they are not known (yet). `ticks` has `price`, `bars` the view's own columns."""
        ends = bars.timestamp
        closes = np.full(len(ends), np.nan)
        if len(self._ends) and len(ends):
            at = np.searchsorted(self._ends, ends)
            known = at < len(self._ends)
            known[known] = self._ends[at[known]] == ends[known]
            closes[known] = self._closes[at[known]]
        _read_off(closes, ends, self.width_ns, ticks)
        if "bollinger_middle" in bars.columns:
            _work_out(closes, bars["bollinger_middle"])
        kept = np.flatnonzero(np.isfinite(closes))[-self.capacity :]
        self._ends, self._closes = ends[kept].copy(), closes[kept]
        return closes


def volumes(bars: Rows, ticks: Rows, width_ns: int, ring_rows: int) -> Floats:
    """Return the volumes of bars, NaN where they are not known."""
    result = np.full(len(bars), np.nan)
    if "volume_ema_12" in bars.columns and len(bars) > 1:
        mean = bars["volume_ema_12"]
        result[1:] = np.maximum(mean[:-1] + (mean[1:] - mean[:-1]) / ALPHA, 0.0)
    if "volume" in ticks.columns and len(ticks):
        first = np.searchsorted(ticks.timestamp, bars.timestamp - width_ns, side="left")
        stop = np.searchsorted(ticks.timestamp, bars.timestamp, side="left")
        # The oldest trades of a full ring may be the rest of a bar.
        whole = (stop > first) & ((first > 0) | (len(ticks) < ring_rows))
        total = np.concatenate(([0.0], np.cumsum(ticks["volume"])))
        result[whole] = (total[stop] - total[first])[whole]
    return result


def _read_off(closes: Floats, ends: Times, width_ns: int, ticks: Rows) -> None:
    """Take the last trade of each bar, where the ring still has it."""
    if not len(ticks):
        return
    last = np.searchsorted(ticks.timestamp, ends, side="left") - 1
    has = last >= 0
    has[has] = ticks.timestamp[last[has]] >= ends[has] - width_ns
    closes[has] = ticks["price"][last[has]]


def _work_out(closes: Floats, middle: Floats) -> None:
    """Go back from known closes: the bar that left the mean is the one that came, less what the mean moved by."""
    moved = np.full(len(closes), np.nan)
    moved[1:] = MEAN_OF * (middle[1:] - middle[:-1])
    for stop in range(len(closes), MEAN_OF, -MEAN_OF):
        newer = slice(max(stop - MEAN_OF, MEAN_OF), stop)
        older = slice(newer.start - MEAN_OF, newer.stop - MEAN_OF)
        guess = closes[newer] - moved[newer]
        closes[older] = np.where(np.isnan(closes[older]), guess, closes[older])
