"""Sealed segments of the journal as Parquet: ticks and quotes that any tool reads, and that a replay takes as its source.

A segment becomes `ticks-FIRST-LAST.parquet` and `quotes-FIRST-LAST.parquet`, of what it holds. Each is written under another name and
gets its own when it is whole; then the segment is noted in `exported.json`. Killed in between, the segment is exported once more, to
the same bytes under the same names. Gaps, and inputs that are not of the market, stay in the journal alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from engine.block import IS_QUOTE, IS_TRADE, NO_ID, Keys
from engine.errors import EngineError, JournalError
from engine.ingress import Admitted
from store.folder import write_atomically
from store.journal_reader import read_segment
from store.segment import Header, header_of, list_segments

ROWS = 1 << 16
"""Rows in memory at once, and of a row group."""
UNFINISHED_SUFFIX = ".tmp"
TICKS = pa.schema(
    [
        ("timestamp", pa.int64()), ("received", pa.int64()), ("exchange", pa.string()), ("symbol", pa.string()),
        ("price", pa.float64()), ("volume", pa.float64()), ("side", pa.int8()), ("trade_id", pa.int64()),
        ("late", pa.bool_()), ("sequence", pa.int64()),
    ]
)  # fmt: skip
QUOTES = pa.schema(
    [
        ("timestamp", pa.int64()), ("received", pa.int64()), ("exchange", pa.string()), ("symbol", pa.string()),
        ("bid", pa.float64()), ("bid_volume", pa.float64()), ("ask", pa.float64()), ("ask_volume", pa.float64()),
        ("update_id", pa.int64()), ("late", pa.bool_()), ("sequence", pa.int64()),
    ]
)  # fmt: skip


class Exported(msgspec.Struct, frozen=True):
    """One segment that was exported. `created` tells it from one of another journal that once had the same name."""

    created: int
    last_sequence: int


class Exporter:
    """Exports the sealed segments of `journal_folder` into `ticks_folder`; by a thread of its own between `start` and `stop`."""

    def __init__(self, journal_folder: Path, ticks_folder: Path) -> None:
        self.journal_folder = journal_folder
        self.ticks_folder = ticks_folder
        self.exported = 0
        """Newest sequence up to which all sealed segments are exported: what retention may delete."""
        self.segments = 0
        """Segments exported since the exporter was made."""
        self.rows = 0
        """Ticks and quotes exported since the exporter was made."""
        self.failures = 0
        """How often a segment could not be exported; it is tried again with the next one."""
        self.error = ""
        """Why the last try failed; empty once one went well."""
        self._turn = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Export what is there, and then each time that `notify` is called, in the background."""
        if self._thread is None:
            self._wake.set()
            self._thread = threading.Thread(target=self._serve, name="export", daemon=True)
            self._thread.start()

    def notify(self) -> None:
        """Say that a segment may have been sealed. For any thread."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread after the rows it is at; a segment that is not whole by then is exported at the next start."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._stopping.clear()

    def export(self) -> int:
        """Export all sealed segments that are not exported yet, oldest first; return how many were.

        Raises EngineError for a segment that is not what was written, JournalError for a folder that cannot be written to.
        """
        with self._turn:
            try:
                count = self._export()
            except OSError as error:
                self._failed(f"{self.ticks_folder}: cannot be exported to: {error.strerror or error}")
                raise JournalError(self.error) from error
            except (EngineError, pa.ArrowException) as error:
                self._failed(str(error))
                raise
            self.error = ""
            return count

    def _failed(self, error: str) -> None:
        self.failures += 1
        self.error = error

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            if not self._stopping.is_set():
                with contextlib.suppress(EngineError, pa.ArrowException):
                    self.export()  # what goes wrong is counted and kept there

    def _export(self) -> int:
        self.ticks_folder.mkdir(parents=True, exist_ok=True)
        for leftover in sorted(self.ticks_folder.glob(f"*{UNFINISHED_SUFFIX}")):
            leftover.unlink()
        known = self._load()
        noted = {path.name: known.get(path.name) for path in list_segments(self.journal_folder)}
        done = 0
        for name, before in list(noted.items()):
            try:
                header = header_of(self.journal_folder / name)
            except FileNotFoundError:
                continue  # retention has just deleted it, as it may: it was exported
            if header is None or not header.is_sealed or self._stopping.is_set():
                break
            entry = Exported(header.created, header.last_sequence)
            if before != entry:
                if not self._export_segment(self.journal_folder / name, header):
                    break
                noted[name] = entry
                self._save({name: entry for name, entry in noted.items() if entry is not None})
                done += 1
                self.segments += 1
            self.exported = header.last_sequence
        return done

    def _export_segment(self, path: Path, header: Header) -> bool:
        """Write one segment's files; return False if the exporter is stopped first."""
        keys = Keys()
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(
                    _File(self.ticks_folder, f"{name}-{header.first_sequence:020d}-{header.last_sequence:020d}", schema)
                )
                for name, schema in (("ticks", TICKS), ("quotes", QUOTES))
            ]
            for admitted in read_segment(path, header, keys, rows=ROWS):
                if self._stopping.is_set():
                    return False
                for file, kind in zip(files, (IS_TRADE, IS_QUOTE), strict=True):
                    rows = np.flatnonzero(admitted.block.kind == kind)
                    if len(rows):
                        file.write(_columns(admitted, rows, keys, is_quotes=kind == IS_QUOTE))
                        self.rows += len(rows)
            for file in files:
                file.finish()
        return True

    def _load(self) -> dict[str, Exported]:
        """Return what was exported; nothing if that is not known: exporting again gives the same files."""
        try:
            return msgspec.json.decode((self.ticks_folder / "exported.json").read_bytes(), type=dict[str, Exported])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def _save(self, exported: dict[str, Exported]) -> None:
        write_atomically(self.ticks_folder / "exported.json", msgspec.json.encode(exported))


class _File:
    """A Parquet file that gets its name when it is whole; one without rows is never made."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self._path = folder / f"{name}.parquet"
        self._part = folder / f"{name}{UNFINISHED_SUFFIX}"
        self._schema = schema
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.close()
            self._part.unlink(missing_ok=True)

    def write(self, columns: list[pa.Array]) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._part, self._schema, compression="zstd")
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def finish(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        fd = os.open(self._part, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self._part.replace(self._path)


def _columns(admitted: Admitted, rows: npt.NDArray[np.intp], keys: Keys, *, is_quotes: bool) -> list[pa.Array]:
    """Return the columns of some rows, in the order of their schema."""
    block = admitted.block
    ids = block.trade_id[rows]
    prices = (block.price, block.volume, block.ask, block.ask_volume) if is_quotes else (block.price, block.volume)
    return [
        pa.array(block.timestamp[rows]),
        pa.array(admitted.received[rows]),
        *_names(block.key[rows], keys),
        *(pa.array(column[rows]) for column in prices),
        *([] if is_quotes else [pa.array(block.side[rows])]),
        pa.array(ids, mask=ids == NO_ID),
        pa.array(block.late[rows] != 0),
        pa.array(admitted.sequence[rows]),
    ]


def _names(codes: npt.NDArray[np.int32], keys: Keys) -> Iterator[pa.Array]:
    """Yield the exchange and the symbol of each row."""
    for part in range(2):
        names = pa.array([keys[code][part] for code in range(len(keys))])
        yield names.take(pa.array(codes))
