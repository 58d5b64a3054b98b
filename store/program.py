"""The compiled function of a set of feature views, and the memory that it works on.

    block(arena, rows, action, timestamp, received, sequence, price, volume, side, ask, ask_volume, start, stop) -> next row

It folds the input rows start..stop of one key: loads the state into locals, loops, stores the state. It returns early where Python
has to act: to let a window's memory grow, or to report one that may not grow any more.

Input rows    `action` 0 skip, 1 trade (price, volume, side), 2 quote (price = bid, volume = bid size, ask, ask_volume)
Arena         float64, all state of one key: slots first, then for each clock the rings of its windows. Times, counts and ids are
              int64 views of the same bytes. A copy of the arena is a snapshot.
Rows          float64, what is put out: a header (width, rows to keep, next position of each clock), then for each clock
              (timestamp, received, sequence, columns...) x width. When a block would not fit, the newest rows move to the front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.indicator import Span
from engine.jit import compile_module
from store.codegen import Writer
from store.layout import KEEP, POSITIONS, STAMPS, WIDTH, ViewPlace
from store.schema import FeatureView

PIECE = 1 << 16
Floats = npt.NDArray[np.float64]


class Program:
    """The compiled function of a set of views, and how its memory is laid out.

    One program serves every key; each key has an arena and rows of its own. Raises ConfigError for what cannot be compiled.
    """

    def __init__(self, views: tuple[FeatureView, ...]) -> None:
        self.views = views
        writer = Writer(views)
        self.source = writer.write()
        self.scopes = writer.scopes
        self.places: dict[str, ViewPlace] = {view.name: writer.places[view.name] for view in views}
        """Where each view is, in the order in which the views emit."""
        self._slots = writer.slots
        self._initial = writer.initial
        self.alerts_slot = writer.slots["alerts"]
        self.emitted_slots = [writer.slots[f"head_{scope.index}"] for scope in self.scopes]
        self._window_max_slot = writer.slots["window_ticks_max"]
        self._capacity_slots = [writer.slots[f"capacity_{scope.index}"] for scope in self.scopes]
        self._capacity_max_slots = [writer.slots[f"capacity_max_{scope.index}"] for scope in self.scopes]

    @cached_property
    def block(self) -> Callable[..., int]:
        """The compiled function, from the cache or compiled now."""
        names = ", ".join(view.name for view in self.views)
        features = sum(len(view.features) for view in self.views)
        module = compile_module(self.source, f"{features} features of {names}")
        function: Callable[..., int] = module.block
        return function

    def new_arena(self, window_ticks_max: int) -> Floats:
        """Return the state of a key that has seen nothing; its time windows may grow to hold `window_ticks_max` trades."""
        fixed = np.zeros(len(self._initial), np.float64)
        ids = fixed.view(np.int64)
        for slot, (value, is_integer) in enumerate(self._initial):
            if is_integer:
                ids[slot] = int(value)
            else:
                fixed[slot] = value
        most = 1 << (window_ticks_max + 1).bit_length()
        ids[self._window_max_slot] = window_ticks_max
        for scope in self.scopes:
            ids[self._capacity_slots[scope.index]] = scope.ring_start
            ids[self._capacity_max_slots[scope.index]] = max(most, scope.ring_start)
        size = len(fixed) + sum(scope.rings * scope.ring_start for scope in self.scopes)
        arena = np.zeros(size, np.float64)
        arena[: len(fixed)] = fixed
        return arena

    def grown(self, arena: Floats, scope_index: int) -> Floats:
        """Return a copy of the arena in which the rings of one clock have twice the capacity, everything else the same."""
        ids = arena.view(np.int64)
        fixed = len(self._initial)
        capacities = [int(ids[slot]) for slot in self._capacity_slots]
        larger = [2 * c if index == scope_index else c for index, c in enumerate(capacities)]
        result = np.zeros(fixed + sum(scope.rings * larger[scope.index] for scope in self.scopes), np.float64)
        result[:fixed] = arena[:fixed]
        result.view(np.int64)[self._capacity_slots[scope_index]] = larger[scope_index]
        source, target = fixed, fixed
        for scope, old, new in zip(self.scopes, capacities, larger, strict=True):
            held = arena[source : source + scope.rings * old].reshape(scope.rings, old)
            place = result[target : target + scope.rings * new].reshape(scope.rings, new)
            head = int(ids[self.emitted_slots[scope.index]])
            # Oldest first, cut where the old rings began anew: each part lies in one piece before and after.
            start = max(0, head - old)
            seam = -(-start // old) * old
            for first, end in ((start, min(seam, head)), (seam, head)):
                if first < end:
                    place[:, first % new : first % new + end - first] = held[:, first % old : first % old + end - first]
            source += scope.rings * old
            target += scope.rings * new
        return result

    def canonical(self, arena: Floats) -> Iterator[bytes]:
        """Yield the bytes of an arena with one bit pattern for every NaN, integers as they are; a piece at a time, for it may be large.

        Threads share one interpreter: a piece of 512 KiB is done with in a fraction of a millisecond.
        """
        fixed = arena[: len(self._initial)].copy()
        is_float = np.array([not is_integer for _, is_integer in self._initial])
        fixed[is_float & np.isnan(fixed)] = np.nan
        yield fixed.tobytes()
        at = len(self._initial)
        for scope, slot in zip(self.scopes, self._capacity_slots, strict=True):
            capacity = int(arena.view(np.int64)[slot])
            for ring in range(scope.rings):
                end = at + capacity
                for start in range(at, end, PIECE):
                    piece = arena[start : min(start + PIECE, end)]
                    if ring or not scope.has_times:
                        piece = np.where(np.isnan(piece), np.nan, piece)
                    yield piece.tobytes()
                at = end

    def new_rows(self, width: int, keep: int) -> Floats:
        """Return rows for `width` emissions of each clock, of which the newest `keep` survive when a block needs room.

        Memory is reserved, and touched only as rows are written.
        """
        rows = np.empty(self.rows_size(width), np.float64)
        width = spaced(width)
        header = rows.view(np.int64)
        header[: self.header] = 0
        header[WIDTH] = width
        header[KEEP] = keep
        return rows

    @property
    def header(self) -> int:
        """Values before the first clock's rows."""
        return POSITIONS + len(self.scopes)

    def rows_size(self, width: int) -> int:
        """Return the float64 values that rows of this width take."""
        return self.header + spaced(width) * sum(STAMPS + scope.columns for scope in self.scopes)

    def scope_rows(self, rows: Floats, scope_index: int) -> Floats:
        """Return one clock's part of `rows` as (STAMPS + columns) x width, a view."""
        width = int(rows.view(np.int64)[WIDTH])
        first = self.header + width * sum(STAMPS + scope.columns for scope in self.scopes[:scope_index])
        count = STAMPS + self.scopes[scope_index].columns
        return rows[first : first + count * width].reshape(count, width)

    def overflowed(self, alerts: int) -> list[Span]:
        """Return the windows whose overflow the alerts report."""
        states = [state for scope in self.scopes for state in scope.spans.values()]
        return [state.span for state in states if state.span.time_ns and alerts >> state.bit & 1]

    def growing(self, alerts: int) -> int | None:
        """Return the clock whose rings must grow before the block can go on, None if none."""
        return next((scope.index for scope in self.scopes if alerts >> scope.index & 1), None)


def spaced(width: int) -> int:
    """Return a width of at least so many rows that puts columns an odd number of cache lines apart.

    At a power of two all columns of a row would compete for the same few places in the processor's cache: writing 14 of them was
    measured to take half as long again.
    """
    return (width + 7) // 8 * 8 | 8


_programs: dict[Any, Program] = {}


def program_of(views: tuple[FeatureView, ...]) -> Program:
    """Return the program of these views; equal views share one."""
    key = tuple((view.name, view.version, view.ticking, tuple(view.nodes.items())) for view in views)
    if key not in _programs:
        _programs[key] = Program(views)
    return _programs[key]
