"""Close and volume of bars, for a chart: views on bars hold indicators, not the prices that these were made of.

Where the trades of a bar are still in the ring, they are read off. Older bars are worked out of the columns that were computed from
them. With fast and slow for the EMAs (weights a and b) whose difference the MACD line is, and A = 1 / (1 - a), B = 1 / (1 - b):

    close[t] = fast[t] + g[t],   fast[t - 1] = fast[t] - (A - 1) g[t],   g[t] = (B line[t] - line[t - 1]) / (A - B)

so that one close that is known gives all before it; an error stays what it is on the way back. The first bars, which have no MACD yet,
come of the mean of 20 closes, which moves by (newest - oldest) / 20; four of them are not known before there are 46 bars. Volumes come
of their EMA, which moves by a (volume - EMA). All to rounding, some 1e-12 of a price; for drawing, and nothing else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from store.ring import Rows

FAST, SLOW = 13.0 / 11.0, 27.0 / 25.0  # A and B: weights 2 / 13 and 2 / 27
MEAN_OF = 20  # bars in bollinger_middle
VOLUME_WEIGHT = 2.0 / 13.0  # of volume_ema_12

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]


def closes(bars: Rows, ticks: Rows, width_ns: int) -> Floats:
    """Return the closes of bars, NaN where they are not known: `bars` has the view's own columns, `ticks` has `price`."""
    found = np.full(len(bars), np.nan)
    if len(ticks) and len(bars):
        last = np.searchsorted(ticks.timestamp, bars.timestamp, side="left") - 1
        has = last >= 0
        has[has] = ticks.timestamp[last[has]] >= bars.timestamp[has] - width_ns
        found[has] = ticks["price"][last[has]]
    if "macd" in bars.columns:
        _by_macd(found, bars["macd"])
    if "bollinger_middle" in bars.columns:
        _by_mean(found, bars["bollinger_middle"])
    return found


def volumes(bars: Rows, ticks: Rows, width_ns: int, ring_rows: int) -> Floats:
    """Return the volumes of bars, NaN where they are not known."""
    found = np.full(len(bars), np.nan)
    if "volume_ema_12" in bars.columns and len(bars) > 1:
        mean = bars["volume_ema_12"]
        found[1:] = np.maximum(mean[:-1] + (mean[1:] - mean[:-1]) / VOLUME_WEIGHT, 0.0)
    if "volume" in ticks.columns and len(ticks):
        first = np.searchsorted(ticks.timestamp, bars.timestamp - width_ns, side="left")
        stop = np.searchsorted(ticks.timestamp, bars.timestamp, side="left")
        # The oldest trades of a full ring may be the rest of a bar.
        whole = (stop > first) & ((first > 0) | (len(ticks) < ring_rows))
        total = np.concatenate(([0.0], np.cumsum(ticks["volume"])))
        found[whole] = (total[stop] - total[first])[whole]
    return found


def _by_macd(found: Floats, line: Floats) -> None:
    """Go back from the oldest close that is known and has a MACD before it."""
    moves = np.full(len(found), np.nan)
    moves[1:] = (SLOW * line[1:] - line[:-1]) / (FAST - SLOW)
    usable = np.flatnonzero(np.isfinite(found) & np.isfinite(moves))
    if not len(usable):
        return
    known = int(usable[0])
    first = int(np.flatnonzero(np.isfinite(moves))[0])
    at = slice(first, known)
    steps = (FAST - 1.0) * moves[first + 1 : known + 1]
    averages = found[known] - moves[known] - np.cumsum(steps[::-1])[::-1]
    found[at] = np.where(np.isnan(found[at]), averages + moves[at], found[at])


def _by_mean(found: Floats, middle: Floats) -> None:
    """Go back from closes that are known: the bar that left the mean is the one that came, less what the mean moved by."""
    moved = np.full(len(found), np.nan)
    moved[1:] = MEAN_OF * (middle[1:] - middle[:-1])
    for stop in range(len(found), MEAN_OF, -MEAN_OF):
        newer = slice(max(stop - MEAN_OF, MEAN_OF), stop)
        older = slice(newer.start - MEAN_OF, newer.stop - MEAN_OF)
        guess = found[newer] - moved[newer]
        found[older] = np.where(np.isnan(found[older]), guess, found[older])
