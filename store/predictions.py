"""What became of each prediction, as Parquet: rows of the ledger, as they mature, for any tool to read.

    DIR/predictions/MODEL/2024-08-08-00000000000000012345.parquet

A file holds predictions that were made on one UTC day, at most FILE_ROWS or so, and is named by the sequence of its first. It is written
whole, again and again while it grows, each time under another name first: what lies there under its own name can be read at any time.

The fold hands over numpy arrays and goes on; a thread makes columns of them and writes. The queue between the two is bounded. Where it is
full, rows are dropped, counted and told of, unless the writer was made to wait: the fold of a live market never does. Folded again from a
snapshot, the same predictions mature again: what a file has already is passed over, by when it was made.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import StoreError
from engine.models.arm import Batch
from engine.models.layout import MADE, OUTCOME_RECEIVED, SEQUENCE
from engine.models.spec import ModelSpec
from store.prediction_columns import Matured, Pending, columns

FILE_ROWS = 1 << 16
"""Rows after which a file is complete. One batch is never cut."""
QUEUE_ROWS = 1 << 16
"""Predictions that may wait for the thread. It wakes for a quarter of that: columns are made of many rows at once or they cost too much."""
EVERY_S = 300.0
"""Seconds of `received` after which what matured is written, whether a file is complete or not; also how long a pause lasts, on any
clock, until it is, and when what the disk refused is tried again."""
UNFINISHED_SUFFIX = ".tmp"
NEWEST = b"tickfold.newest"
"""In a file's metadata: {exchange: {symbol: [made, sequence]}} of the newest row of each key in it."""
DAY_NS = 86_400_000_000_000
NS_PER_S = 1_000_000_000


@dataclass
class _Growing:
    """A file that is not complete: its rows are in memory too."""

    path: Path
    parts: list[pa.Table] = field(default_factory=list)
    newest: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)  # as in the metadata
    rows: int = 0
    written: int = 0


class PredictionWriter:
    """Writes what matures into `folder`; by a thread of its own between `start` and `stop`."""

    def __init__(
        self,
        folder: Path,
        schema_of: Callable[[ModelSpec], str],
        *,
        tell: Callable[[str], None] = lambda text: None,
        queue_rows: int = QUEUE_ROWS,
        file_rows: int = FILE_ROWS,
        every_s: float = EVERY_S,
        waits: bool = False,
    ) -> None:
        """schema_of: the hash of what a model takes and says. tell: hears what goes wrong, and that it is over, from any thread.

        waits: `matured` waits for room instead of dropping: for a replay, which has the time.
        """
        self.folder = folder
        self.rows = 0
        """Rows written to files since the writer was made."""
        self.dropped = 0
        """Predictions that the queue had no room for."""
        self.repeated = 0
        """Predictions that a file had already."""
        self.failures = 0
        """How often the disk refused; rows stay in memory and are tried again."""
        self.error = ""
        """Why the last try failed; empty once one went well."""
        self._schema_of = schema_of
        self._tell = tell
        self._queue_rows = queue_rows
        self._file_rows = file_rows
        self._every_s = every_s
        self._waits = waits
        self._changed = threading.Condition()
        self._queue: dict[tuple[str, tuple[str, str], tuple[str, ...]], Pending] = {}  # by model, key and versions
        self._waiting = 0  # rows in it
        self._is_dropping = False
        self._is_stopping = False
        self._asked = self._done = 0  # how many times `flush` was called, and up to which of these all is written
        self._received = 0  # of the newest outcome
        self._written_at = 0  # `_received` when all was written
        self._thread: threading.Thread | None = None
        self._growing: dict[tuple[str, int], _Growing] = {}  # by model and day
        self._newest: dict[str, dict[tuple[str, str], tuple[int, int]]] = {}  # by model: what files have

    def start(self) -> None:
        """Begin to write in the background. Raises StoreError if the folder cannot be made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot be made: {error.strerror}") from error
        if self._thread is None:
            self._is_stopping = False
            self._thread = threading.Thread(target=self._serve, name="predictions", daemon=True)
            self._thread.start()

    def matured(self, spec: ModelSpec, key: tuple[str, str], batch: Batch, versions: tuple[str, ...]) -> None:
        """Take copies of a batch's answers. versions: of each arm by its place, "" where there is none."""
        count = len(batch.answers)
        if not count:
            return
        with self._changed:
            while self._waits and self._thread is not None and not self._has_room(count) and not self.error:
                self._changed.wait()
            if not self._has_room(count):
                self.dropped += count
                if not self._is_dropping:
                    self._is_dropping = True
                    self._tell(
                        f"{self.folder}: writing is behind by {self._waiting:,} predictions; dropping what comes"
                    )
                return
            if self._is_dropping:
                self._is_dropping = False
                self._tell(f"{self.folder}: writing again; {self.dropped:,} predictions were dropped so far")
            # Versions are never reused: what is of one key stays in its order.
            pending = self._queue.get((spec.name, key, versions))
            if pending is None:
                pending = self._queue[spec.name, key, versions] = Pending(spec, key, versions, batch.layout)
            pending.add(batch)
            self._waiting += count
            self._received = batch.ids[batch.answers[-1], OUTCOME_RECEIVED].item()
            self._written_at = self._written_at or self._received
            if self._has_work():
                self._changed.notify_all()

    def _has_room(self, count: int) -> bool:
        # A batch greater than the whole queue goes in when there is nothing else.
        return not self._waiting or self._waiting + count <= self._queue_rows

    def flush(self, timeout_s: float | None = None) -> bool:
        """Have everything that matured so far written; return whether it was, in time. None: do not wait for it.

        Before a snapshot is taken, so that what matured before it is not in memory alone.
        """
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            if timeout_s is None or self._thread is None:
                return False
            return self._changed.wait_for(lambda: self._done >= mine, timeout_s) and not self.error

    def stop(self) -> None:
        """Write what is there and end the thread. What the disk refuses then is lost, counted and told of."""
        if self._thread is None:
            return
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._thread = None

    # -- the thread

    def _serve(self) -> None:
        self._resume()
        is_stopping = False
        while not is_stopping:
            with self._changed:
                is_idle = not self._changed.wait_for(self._has_work, self._every_s)
                asked, is_stopping = self._asked, self._is_stopping
                is_due = is_idle or asked > self._done or is_stopping or self._is_due()
            self._take()
            if is_due or any(file.rows >= self._file_rows for file in self._growing.values()):
                had_error = self.error
                if self._write_all() and had_error:
                    self._take()  # what was left in the queue while the disk refused
                    self._write_all()
            if is_due:
                with self._changed:
                    self._done = asked
                    self._written_at = self._received
                    self._changed.notify_all()
        self._give_up()

    def _is_due(self) -> bool:
        return self._received - self._written_at >= self._every_s * NS_PER_S

    def _has_work(self) -> bool:
        # While the disk refuses, the queue fills up: what is in memory stays bounded, and what has no room is counted.
        is_loaded = not self.error and (4 * self._waiting >= self._queue_rows or self._is_due())
        return is_loaded or self._asked > self._done or self._is_stopping

    def _take(self) -> None:
        """Make columns of what is in the queue."""
        if self.error:
            return
        with self._changed:
            taken, self._queue = self._queue, {}
            self._waiting = 0
            self._changed.notify_all()
        for pending in taken.values():
            self._add(self._unwritten(pending.matured()))

    def _add(self, matured: Matured) -> None:
        model, (exchange, symbol) = matured.spec.name, matured.key
        ids = matured.heads.view(np.int64)
        days = ids[:, MADE] // DAY_NS
        for day in np.unique(days).tolist():
            rows = np.flatnonzero(days == day)
            part = columns(matured, rows, self._schema_of(matured.spec))
            if not part.num_rows:
                continue
            file = self._growing.get((model, day))
            if file is None:
                file = self._growing[model, day] = _Growing(self._path(model, day, part["sequence"][0].as_py()))
            file.parts.append(part)
            file.rows += part.num_rows
            file.newest.setdefault(exchange, {})[symbol] = ids[rows[-1], MADE].item(), ids[rows[-1], SEQUENCE].item()

    def _unwritten(self, matured: Matured) -> Matured:
        """Return what no file has, and note it as had."""
        newest = self._newest.setdefault(matured.spec.name, {})
        ids = matured.heads.view(np.int64)
        made, sequence = newest.get(matured.key, (-1, -1))
        is_new = (ids[:, MADE] > made) | ((ids[:, MADE] == made) & (ids[:, SEQUENCE] > sequence))
        self.repeated += int(np.count_nonzero(~is_new))
        if is_new.any():
            newest[matured.key] = ids[-1, MADE].item(), ids[-1, SEQUENCE].item()
        return replace(matured, said=matured.said[is_new], heads=matured.heads[is_new])

    def _path(self, model: str, day: int, sequence: int) -> Path:
        """Return a name that no file has: another journal may have used the same sequence on the same day."""
        folder = self.folder / model
        date = datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
        path = folder / f"{date}-{sequence:020d}.parquet"
        again = 2
        while path.exists():
            path = folder / f"{date}-{sequence:020d}-{again}.parquet"
            again += 1
        return path

    def _write_all(self) -> bool:
        """Write all files, older days first and none after one that was refused: a file tells a restart that all before is written."""
        went_well = all(self._write(model, day) for model, day in sorted(self._growing))
        if went_well and self.error:
            self.error = ""
            self._tell(f"{self.folder}: written to again")
        return went_well

    def _write(self, model: str, day: int) -> bool:
        """Write one file as it is by now; forget it if it is complete or of a day that is over."""
        file = self._growing[model, day]
        if file.rows > file.written:
            try:
                _write_whole(file)
            except (OSError, pa.ArrowException) as error:
                self.failures += 1
                if not self.error:
                    self._tell(f"{file.path}: cannot be written: {error}; tried again every {self._every_s:g} s")
                self.error = str(error)
                return False
            self.rows += file.rows - file.written
            file.written = file.rows
        elif max(other for name, other in self._growing if name == model) > day:
            del self._growing[model, day]
            return True
        if file.rows >= self._file_rows:
            del self._growing[model, day]
        return True

    def _give_up(self) -> None:
        """Forget what is left when the writer ends."""
        with self._changed:
            lost = sum(file.rows - file.written for file in self._growing.values()) + self._waiting
            self._growing.clear()
            self._queue = {}
            self._waiting = 0
            self._changed.notify_all()
            if lost:
                self.dropped += lost
                self._tell(f"{self.folder}: {lost:,} predictions could not be written and are lost: {self.error}")

    def _resume(self) -> None:
        """Learn from the files what they have; remove what was not finished."""
        for leftover in sorted(self.folder.glob(f"*/*{UNFINISHED_SUFFIX}")):
            with contextlib.suppress(OSError):
                leftover.unlink()
        for path in sorted(self.folder.glob("*/*.parquet")):
            newest = self._newest.setdefault(path.parent.name, {})
            try:
                metadata = pq.read_metadata(path).metadata or {}
                found = msgspec.json.decode(metadata.get(NEWEST, b"{}"), type=dict[str, dict[str, tuple[int, int]]])
            except (OSError, pa.ArrowException, msgspec.MsgspecError) as error:
                self._tell(f"{path}: cannot be read: {error}; what it holds may be written once more")
                continue
            for exchange, symbols in found.items():
                for symbol, last in symbols.items():
                    newest[exchange, symbol] = max(newest.get((exchange, symbol), (-1, -1)), last)


def _write_whole(file: _Growing) -> None:
    """Write a file under another name, force it to the disk, and give it its own."""
    table = pa.concat_tables(file.parts).combine_chunks()
    file.parts = [table]
    table = table.replace_schema_metadata({NEWEST: msgspec.json.encode(file.newest)})
    part = file.path.with_name(file.path.name + UNFINISHED_SUFFIX)
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("wb") as handle:
        pq.write_table(table, handle, compression="zstd")
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(file.path)
