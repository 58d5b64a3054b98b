"""The ledger of one model and key: predictions whose outcome is not known yet, in a ring that grows up to its limit.

How a row is laid out is said in `engine.models.layout`; what is asked and resolved, by `engine.models.timeline`, whose state counts the
rows: numbers from ANSWERED to ASKED wait.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.models.layout import SEQUENCE, STATUS, WAITING
from engine.models.timeline import ANSWERED, ASKED

START = 64


class Ledger:
    """Rows of float64 and the same bytes as int64. `counts` is the timeline's state, as int64."""

    def __init__(self, width: int, counts: npt.NDArray[np.int64]) -> None:
        self._counts = counts
        self.newest = (-1, 0)
        """(slot, sequence) of the newest served prediction; the slot is -1 if there is none."""
        self._put(np.full((START, width), np.nan))

    def _put(self, rows: npt.NDArray[np.float64]) -> None:
        self.rows = rows
        self.ids: npt.NDArray[np.int64] = rows.view(np.int64)

    @property
    def waiting(self) -> int:
        """Rows that were asked and are not answered."""
        return int(self._counts.item(ASKED) - self._counts.item(ANSWERED))

    def make_room(self, count: int) -> int:
        """Have room for `count` more rows beside those that wait, none of which is written over; return how many wait."""
        waiting = self.waiting
        if waiting + count >= len(self.rows):
            self._grow(waiting + count + 1)
        return waiting

    def held(self) -> npt.NDArray[np.float64]:
        """Copy the rows that wait, oldest first."""
        numbers = np.arange(self._counts[ANSWERED], self._counts[ASKED])
        found: npt.NDArray[np.float64] = self.rows[numbers & (len(self.rows) - 1)]
        return found

    def put(self, held: npt.NDArray[np.float64]) -> None:
        """Hold these rows, as many as wait by the counts. Raises ValueError if they are not."""
        rows = np.full((max(START, 1 << (len(held) + 1).bit_length()), self.rows.shape[1]), np.nan)
        numbers = np.arange(self._counts[ANSWERED], self._counts[ASKED])
        rows[numbers & (len(rows) - 1)] = held
        self._put(rows)
        self.newest = (-1, 0)

    def slot_of(self, sequence: int) -> int:
        """Return the slot of the row that was asked for at an input, -1 if it does not wait any more."""
        low, end = int(self._counts[ANSWERED]), int(self._counts[ASKED])
        mask = len(self.rows) - 1
        last = end
        while low < end:
            middle = (low + end) // 2
            if self.ids[middle & mask, SEQUENCE] < sequence:
                low = middle + 1
            else:
                end = middle
        slot = low & mask
        if low >= last or self.ids[slot, SEQUENCE] != sequence or self.ids[slot, STATUS] != WAITING:
            return -1
        return slot

    def newest_row(self) -> tuple[Any, Any] | None:
        """Return the row of the newest served prediction and its int64 view; None if there is none, or it was written over."""
        slot, sequence = self.newest
        if slot < 0 or self.ids[slot, SEQUENCE] != sequence:
            return None
        return self.rows[slot], self.ids[slot]

    def _grow(self, count: int) -> None:
        larger = np.full((1 << count.bit_length(), self.rows.shape[1]), np.nan)
        mask = len(larger) - 1
        numbers = np.arange(self._counts[ANSWERED], self._counts[ASKED])
        larger[numbers & mask] = self.held()
        newest = self.newest_row()
        if newest is not None:
            sequence = self.newest[1]
            found = np.flatnonzero(larger.view(np.int64)[:, SEQUENCE] == sequence)
            # One that was answered already is kept before the oldest that waits.
            slot = int(found[0]) if len(found) else int(self._counts[ANSWERED] - 1) & mask
            larger[slot] = newest[0]
            self.newest = (slot, sequence)
        self._put(larger)
