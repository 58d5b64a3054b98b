"""Where things are in a program's memory: its clocks, their windows, and the places of the views.

One arena a key (float64; times and counts are int64 views of the same bytes): slots first, then for each clock its rings, which are
the times of its emissions, the histories of values that windows need, and the suffix aggregates of its windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.indicator import Node, Span, Windowed
from store.schema import Clock, FeatureView

TRADE, QUOTE = 1, 2  # values of `action`; every other one is passed over
NO_TIME = int(np.iinfo(np.int64).min)
WIDTH, KEEP, POSITIONS = 0, 1, 2  # of the header of `rows`
STAMPS = 3  # timestamp, received, sequence: the first int64 columns of a clock's rows
FIRST_OVERFLOW_BIT = 16
WINDOWS_MAX = 40  # as many overflow bits fit beside the growth bits in one int64
CLOCKS_MAX = FIRST_OVERFLOW_BIT
RING_MIN = 64


@dataclass
class SpanState:
    """One window of one clock: where its slots are called, which aggregates run over it."""

    name: str
    span: Span
    bit: int  # in the alerts, of its overflow
    aggregates: list[Windowed] = field(default_factory=list)
    anchors: list[Node] = field(default_factory=list)  # values whose lifted aggregates run over it


@dataclass
class Scope:
    """All views on one clock: their columns lie side by side in one block of rows."""

    index: int
    clock: Clock
    views: list[FeatureView] = field(default_factory=list)
    spans: dict[Span, SpanState] = field(default_factory=dict)
    series: list[Node] = field(default_factory=list)  # nodes whose history windows need
    aggregates: list[Windowed] = field(default_factory=list)

    @property
    def columns(self) -> int:
        return sum(len(view.features) for view in self.views)

    @property
    def has_times(self) -> bool:
        return any(span.time_ns for span in self.spans)

    @property
    def rings(self) -> int:
        """How many rings of `capacity` values this clock has: times, histories, suffix aggregates."""
        return int(self.has_times) + len(self.series) + len(self.aggregates)

    @property
    def ring_start(self) -> int:
        """Capacity at the start, a power of two. Windows of ticks fit from the start; those of time grow."""
        longest = max([0, *(span.ticks for span in self.spans)])
        return 1 << max(longest + 1, RING_MIN).bit_length() if self.has_times else 1 << max(longest + 1, 1).bit_length()


@dataclass(frozen=True)
class ViewPlace:
    """Where a view's values are: `scope` of its clock, the first of its columns, the slot of its readiness."""

    view: FeatureView
    scope: int
    first_column: int
    ready_slot: int
    columns: dict[str, int]
