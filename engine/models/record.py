"""What of an actor is no array: its versions, by their places, and what happened to them. Kept in its snapshots."""

from __future__ import annotations

from typing import Any

import msgspec

MARKS = 64
"""Newest drifts and promotions that are kept for display."""
Mark = tuple[int, int, str]
"""Sequence, received, what happened."""


class Seat(msgspec.Struct):
    """A version in its place among the arms."""

    version: str
    algorithm: dict[str, Any]
    since: int  # sequence of the input at which it began; 0: from the start
    parked: str = ""  # why it is heard no more; empty while it is
    learned: int = 0  # outcomes that it has learned from
    failed: int = 0  # ever


class Record(msgspec.Struct):
    """One actor's."""

    seats: list[Seat | None]
    next_version: int = 1
    is_pinned: bool = False
    predictions: int = 0
    outcomes: int = 0
    drifts: int = 0
    promotions: int = 0
    late_answers: int = 0
    marks: list[Mark] = []

    def mark(self, stamp: tuple[int, int, int], text: str) -> None:
        """Note what happened at an input, (timestamp, received, sequence)."""
        self.marks.append((stamp[2], stamp[1], text))
        del self.marks[:-MARKS]

    def arm_of(self, version: str) -> int:
        """Return the place of a version, -1 if it does not run."""
        return next((arm for arm, seat in enumerate(self.seats) if seat is not None and seat.version == version), -1)

    def version_of(self, arm: int) -> str:
        """Return the version in a place; empty if there is none."""
        seat = self.seats[arm] if arm >= 0 else None
        return "" if seat is None else seat.version

    def versions(self) -> tuple[str, ...]:
        """Return the version in each place; empty where there is none."""
        return tuple("" if seat is None else seat.version for seat in self.seats)
