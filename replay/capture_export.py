"""A capture as Parquet ticks and quotes: what the decoders find in it, in its order, as any tool reads it.

Beside `NAME.jsonl.gz` come `NAME_trades.parquet` and `NAME_quotes.parquet`, of what it holds. Each is written under another name and
gets its own when it is whole, so after a kill there is the whole file or none. Times stay as recorded: connections are not rebased.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import DecodeError, ReplayError
from engine.events import Event, Quote, Tick
from feeds import decoder
from replay.sources import SIDE_CODES, Capture
from store.export import QUOTES, TICKS

ROWS = 1 << 16
"""Rows in memory at once, and of a row group."""
UNFINISHED_SUFFIX = ".part"
NO_SEQUENCE = "sequence"  # a column that only what went through the ingress has
COMPRESSION = "zstd"


class ExportedCapture(msgspec.Struct, frozen=True):
    """What was made of a capture."""

    files: tuple[Path, ...]
    ticks: int
    quotes: int
    undecodable: int


def export_capture(path: Path) -> ExportedCapture:
    """Write the ticks and quotes of a capture beside it; files of the same name are replaced.

    Raises ReplayError for a file that is no capture or cannot be read, or if the folder cannot be written to.
    """
    capture = Capture(path)
    feed = decoder(capture.feed())
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
    trades = _Table(path.with_name(f"{stem}_trades.parquet"), TICKS)
    quotes = _Table(path.with_name(f"{stem}_quotes.parquet"), QUOTES)
    undecodable = 0
    try:
        for _, line in capture.lines():
            if line.kind != "recv":
                continue
            try:
                events: Sequence[Event] = feed.decode(line.frame, line.recv_ns)
            except (DecodeError, msgspec.DecodeError, UnicodeError):
                undecodable += 1
                continue
            for event in events:
                if isinstance(event, Tick):
                    trades.add(event, side=SIDE_CODES[event.side])
                elif isinstance(event, Quote):
                    quotes.add(event)
        files = [table.complete() for table in (trades, quotes)]
    except OSError as error:
        raise ReplayError(f"{path}: cannot be exported: {error.strerror or error}") from error
    finally:
        for table in (trades, quotes):
            table.discard()
    return ExportedCapture(tuple(file for file in files if file is not None), trades.rows, quotes.rows, undecodable)


class _Table:
    """One Parquet file that is being written; none while there is no row."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._path = path
        self._part = path.with_name(path.name + UNFINISHED_SUFFIX)
        self._schema = schema.remove(schema.get_field_index(NO_SEQUENCE))
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[dict[str, Any]] = []

    def add(self, event: Tick | Quote, **other: Any) -> None:
        """Append an event; `other` stands for fields of another form in the table."""
        self._waiting.append({name: getattr(event, name) for name in self._schema.names} | other)
        self.rows += 1
        if len(self._waiting) == ROWS:
            self._write()

    def complete(self) -> Path | None:
        """Give the file its name once it is on the disk; None if it has no row."""
        self._write()
        if self._writer is None:
            return None
        self._writer.close()
        self._writer = None
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        self._part.replace(self._path)
        return self._path

    def discard(self) -> None:
        """Remove what is not whole."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._part.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._waiting:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._part, self._schema, compression=COMPRESSION)
            self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
            self._waiting.clear()
