"""The online store: the newest rows of every view and key, in memory that is known when the engine starts.

Rows lie in numpy blocks, column after column; every read is a view of them, nothing is copied. Compiled code may have written rows
ahead of the Python that is to hear of them: no read sees past the cursor, the sequence of the input being folded.

A row's `timestamp` is the newest its key had seen, so both times never decrease and a read "as of" is two binary searches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError, StoreError
from engine.events import FeatureEvent, Key
from engine.indicator import Span
from store.layout import KEEP, POSITIONS, STAMPS, WIDTH
from store.program import Program

TIMESTAMP, RECEIVED, SEQUENCE = range(STAMPS)
NO_LIMIT = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Rows:
    """Rows of a view, oldest first: `values` is features x rows. All are read-only views of the store."""

    columns: dict[str, int]
    timestamp: npt.NDArray[np.int64]
    received: npt.NDArray[np.int64]
    sequence: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.timestamp)

    def __getitem__(self, feature: str) -> npt.NDArray[np.float64]:
        """One feature, oldest first. Raises KeyError naming the features there are."""
        if feature not in self.columns:
            raise KeyError(f"no feature {feature!r}; there are {', '.join(self.columns)}")
        row: npt.NDArray[np.float64] = self.values[self.columns[feature]]
        return row


class Lane:
    """One key: its state, its rows, and the program that takes the one to the other."""

    def __init__(self, program: Program, key: Key, keep: int, block_rows: int, window_ticks_max: int) -> None:
        self.program = program
        self.key = key
        self.arena = program.new_arena(window_ticks_max)
        self._ids = self.arena.view(np.int64)
        self.put_rows(program.new_rows(keep + block_rows, keep))

    def put_rows(self, rows: npt.NDArray[np.float64]) -> None:
        """Write into these rows from now on."""
        program = self.program
        self.rows = rows
        self._header = self.rows.view(np.int64)
        self._room = int(self._header[WIDTH] - self._header[KEEP])
        self._floats = [program.scope_rows(self.rows, scope.index) for scope in program.scopes]
        for values in self._floats:
            values.flags.writeable = False
        self._stamps = [values.view(np.int64) for values in self._floats]
        self._sequences = [stamps[SEQUENCE] for stamps in self._stamps]
        self._blocks = {
            view: self._floats[place.scope][STAMPS + place.first_column :][: len(place.columns)]
            for view, place in program.places.items()
        }

    def run(self, columns: tuple[npt.NDArray[Any], ...]) -> list[tuple[int, Span]]:
        """Fold input rows; return (row, window) for each window that outgrew its memory at that row.

        columns: action, timestamp, received, sequence, price, volume, side, ask, ask_volume, each contiguous and of one length;
        the last two may be empty where there is no quote.
        """
        if len(columns[0]) > self._room:
            raise StoreError(
                f"a block of {len(columns[0])} rows: expected at most {self._room}, what the lane reserved"
            )
        overflows: list[tuple[int, Span]] = []
        block = self.program.block
        start, stop = 0, len(columns[0])
        while True:
            try:
                start = block(self.arena, self.rows, *columns, start, stop)
            except Exception as error:
                # A step of a user's can divide by zero in an index and the like. Its state is torn: nobody may go on with it.
                views = ", ".join(view.name for view in self.program.views)
                raise StoreError(
                    f"{' '.join(self.key)}: a step of the views {views} raised {type(error).__name__}: {error}; expected a step to "
                    "return numbers whatever comes"
                ) from error
            alerts = int(self._ids[self.program.alerts_slot])
            if not alerts:
                return overflows
            self._ids[self.program.alerts_slot] = 0
            overflows += [(start - 1, span) for span in self.program.overflowed(alerts)]
            growing = self.program.growing(alerts)
            if growing is not None:
                self.arena = self.program.grown(self.arena, growing)
                self._ids = self.arena.view(np.int64)

    def emitted(self, scope: int) -> int:
        """How many rows one clock has put out so far."""
        return int(self._ids[self.program.emitted_slots[scope]])

    def all_emitted(self) -> list[int]:
        """How many rows each clock has put out so far."""
        found: list[int] = self._ids[self.program.emitted_slots].tolist()
        return found

    def stamps(self, scope: int, count: int) -> npt.NDArray[np.int64]:
        """(timestamp, received, sequence) x the newest `count` rows of one clock, those ahead of the cursor included."""
        position = int(self._header[POSITIONS + scope])
        return self._stamps[scope][:STAMPS, position - count : position]

    def values(self, view: str, count: int) -> npt.NDArray[np.float64]:
        """Features x the newest `count` rows of a view, those ahead of the cursor included."""
        place = self.program.places[view]
        position = int(self._header[POSITIONS + place.scope])
        return self.block(view)[:, position - count : position]

    def block(self, view: str) -> npt.NDArray[np.float64]:
        """Features x slots of a view, all of them."""
        return self._blocks[view]

    def table(self, scope: int) -> npt.NDArray[np.float64]:
        """(stamps, columns) x slots of one clock, all of them; the stamps are int64 in these bytes."""
        return self._floats[scope]

    def table_ids(self, scope: int) -> npt.NDArray[np.int64]:
        """The bytes of `table` as int64: what the stamps are."""
        return self._stamps[scope]

    def ready_from(self, view: str) -> int:
        """The number (from 0) of the first row of a view at which it was ready; NO_LIMIT while it is not."""
        first = int(self._ids[self.program.places[view].ready_slot])
        return first if first >= 0 else NO_LIMIT

    def position(self, scope: int) -> int:
        """The slot after the newest row of one clock."""
        return int(self._header[POSITIONS + scope])

    def stop(self, scope: int, cursor: int) -> int:
        """The slot after the newest row of one clock that came of an input up to sequence `cursor`."""
        position = int(self._header[POSITIONS + scope])
        sequences = self._sequences[scope]
        if not position or sequences.item(position - 1) <= cursor:
            return position
        return int(sequences[:position].searchsorted(cursor, side="right"))

    def stamp(self, scope: int, slot: int) -> tuple[int, int, int]:
        """(timestamp, received, sequence) of one row."""
        stamps = self._stamps[scope]
        return stamps.item(TIMESTAMP, slot), stamps.item(RECEIVED, slot), stamps.item(SEQUENCE, slot)

    @property
    def arena_size(self) -> int:
        """Values in the arena."""
        return self.arena.size

    @property
    def nbytes(self) -> int:
        """Memory of the state and the rows."""
        return int(self.arena.nbytes + self.rows.nbytes)

    def copy(self, room: npt.NDArray[np.float64] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Copy all that a restart must know: the arena, and of each clock the newest rows that are kept, oldest first.

        room: memory that was touched before and has the arena's size; copying a large arena into fresh memory takes ten times as long.
        """
        keep = int(self._header[KEEP])
        if room is None or room.size != self.arena.size:
            room = np.empty_like(self.arena)
        room[:] = self.arena
        result: dict[str, npt.NDArray[Any]] = {"arena": room}
        for scope in self.program.scopes:
            count = min(self.position(scope.index), keep, self.emitted(scope.index))
            at = slice(self.position(scope.index) - count, self.position(scope.index))
            result[f"rows_{scope.index}"] = self._floats[scope.index][:, at].copy()
        return result

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become what `copy` was made of. Raises StoreError if it was made by another program, or for other rows to keep."""
        keep = int(self._header[KEEP])
        for scope in self.program.scopes:
            rows = arrays[f"rows_{scope.index}"]
            expected = STAMPS + scope.columns
            if len(rows) != expected or rows.shape[1] > keep:
                raise StoreError(
                    f"{' '.join(self.key)}: a snapshot with {len(rows)} x {rows.shape[1]} rows on clock {scope.clock}: "
                    f"expected {expected} x at most {keep}"
                )
        self.arena = arrays["arena"].copy()
        self._ids = self.arena.view(np.int64)
        for scope in self.program.scopes:
            rows = arrays[f"rows_{scope.index}"]
            self.program.scope_rows(self.rows, scope.index)[:, : rows.shape[1]] = rows
            self._header[POSITIONS + scope.index] = rows.shape[1]


class OnlineStore:
    """Newest, as-of and last-n reads by view and key.

    `keep` rows of each view are there for reading at any time; a block that is folded at once may be as long as `block_rows`.
    """

    def __init__(
        self, program: Program, *, keep: int = 512, block_rows: int = 512, window_ticks_max: int = 1 << 20
    ) -> None:
        self.program = program
        self.keep = keep
        self.block_rows = block_rows
        self.window_ticks_max = window_ticks_max
        self.lanes: dict[Key, Lane] = {}
        self.cursor: Callable[[], int] = lambda: NO_LIMIT

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views, in the order in which they emit."""
        return tuple(view.name for view in self.program.views)

    def lane(self, key: Key) -> Lane:
        """Return a key's lane, a new one for a new key."""
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(self.program, key, self.keep, self.block_rows, self.window_ticks_max)
        return lane

    def state_parts(self, lane: Mapping[str, npt.NDArray[Any]]) -> Iterator[bytes]:
        """What a digest of the state covers of a lane's copy: the arena, and the newest rows by their order, not by where they lie."""
        yield from self.program.canonical(lane["arena"])
        for scope in self.program.scopes:
            rows = lane[f"rows_{scope.index}"]
            yield rows.view(np.int64)[[TIMESTAMP, RECEIVED]].tobytes()
            values = rows[STAMPS:].copy()
            values[np.isnan(values)] = np.nan
            yield values.tobytes()

    def all_lanes(self) -> Iterable[Lane]:
        """The lanes of all keys."""
        return self.lanes.values()

    def memory_per_key(self) -> int:
        """Bytes that a key takes from the start; windows of time grow beyond that, up to `window_ticks_max` trades."""
        rows = self.program.rows_size(self.keep + self.block_rows) * 8
        return rows + self.program.new_arena(self.window_ticks_max).nbytes

    def memory(self) -> int:
        """Bytes that all keys take now."""
        return sum(lane.nbytes for lane in self.lanes.values())

    def latest(self, view: str, exchange: str, symbol: str) -> FeatureEvent | None:
        """Return the newest row, None if there is none."""
        return self._row(view, (exchange, symbol), NO_LIMIT, NO_LIMIT)

    def as_of(
        self, view: str, exchange: str, symbol: str, timestamp: int, known_by: int | None = None
    ) -> FeatureEvent | None:
        """Return the newest row that was true at `timestamp` and received by `known_by` (default: `timestamp`); ns UTC.

        None if there is none, or if it lies further back than the rows that are kept.
        """
        return self._row(view, (exchange, symbol), timestamp, timestamp if known_by is None else known_by)

    def last(self, view: str, exchange: str, symbol: str, count: int) -> Rows:
        """Return the newest `count` rows, oldest first; fewer if there are fewer. Raises StoreError beyond what is kept."""
        if not 1 <= count <= self.keep:
            raise StoreError(f"last {count} rows of {view}: expected 1 to {self.keep} (store.ring_rows)")
        place = self._place(view)
        lane = self.lanes.get((exchange, symbol))
        if lane is None:
            nothing = np.empty(0, np.int64)
            return Rows(place.columns, nothing, nothing, nothing, np.empty((len(place.columns), 0)))
        stop = lane.stop(place.scope, self.cursor())
        at = slice(max(0, stop - count), stop)
        stamps = lane.table(place.scope).view(np.int64)[:STAMPS, at]
        return Rows(place.columns, stamps[TIMESTAMP], stamps[RECEIVED], stamps[SEQUENCE], lane.block(view)[:, at])

    def _place(self, view: str) -> Any:
        if view not in self.program.places:
            raise ConfigError(f"feature view {view!r}: expected one of {', '.join(self.views)}")
        return self.program.places[view]

    def _row(self, view: str, key: Key, timestamp: int, known_by: int) -> FeatureEvent | None:
        place = self._place(view)
        lane = self.lanes.get(key)
        if lane is None:
            return None
        stop = lane.stop(place.scope, self.cursor())
        # Rows further back may still be there or not, depending on how long the blocks were: nobody may depend on them.
        oldest = max(0, stop - self.keep)
        if timestamp != NO_LIMIT or known_by != NO_LIMIT:
            stamps = lane.table(place.scope).view(np.int64)
            stop = min(stop, int(stamps[TIMESTAMP, :stop].searchsorted(timestamp, side="right")))
            stop = min(stop, int(stamps[RECEIVED, :stop].searchsorted(known_by, side="right")))
        if stop <= oldest:
            return None
        slot = stop - 1
        number = lane.emitted(place.scope) - (lane.position(place.scope) - slot)
        is_ready = number >= lane.ready_from(view)
        return FeatureEvent(view, *key, *lane.stamp(place.scope, slot), is_ready, place.columns, lane.block(view), slot)
