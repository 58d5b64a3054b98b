"""The journal, read back: inputs in their order as the ingress admitted them, each record proved before it is believed.

A journal can be read while it is written: the reader sees what was written when it came by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.block import Block, Keys
from engine.errors import JournalCorruptError, JournalError
from engine.events import Event, Gap
from engine.fold import Told
from engine.ingress import Admitted
from store.record_code import compiled
from store.records import CHECKPOINT, EVENT, GAP, KEY, KEYS_MAX, RECORD_BYTES, Break, Checkpoint, Words, parts_of
from store.segment import HEADER_BYTES, Header
from store.segment_reader import (
    BREAKS,
    CHUNK_RECORDS,
    Chunk,
    SegmentInfo,
    SegmentReader,
    TornTail,
    decode,
    kind_of,
    walk,
)

__all__ = ["Break", "Checkpoint", "Overview", "SegmentInfo", "TornTail", "read", "read_segment", "scan"]

INT64_MAX = int(np.iinfo(np.int64).max)
EVENTS = msgspec.json.Decoder(Told)
KEY_NAMES = msgspec.json.Decoder(tuple[str, str])
CHECKPOINTS = msgspec.json.Decoder(Checkpoint)


@dataclass(frozen=True)
class Overview:
    """A journal whose every record was checked."""

    segments: tuple[SegmentInfo, ...]
    torn: TornTail | None

    @property
    def records(self) -> int:
        """All records, inputs and others."""
        return sum(segment.records for segment in self.segments)

    @property
    def first_sequence(self) -> int:
        """Of the oldest segment; 1 for an empty journal."""
        return self.segments[0].first_sequence if self.segments else 1

    @property
    def last_sequence(self) -> int:
        """Of the newest input, 0 for an empty journal."""
        return self.segments[-1].last_sequence if self.segments else 0


def scan(folder: Path) -> Overview:
    """Check every record of a journal. Raises JournalCorruptError with file and byte offset; a torn tail is reported, not raised."""
    segments: list[SegmentInfo] = []
    torn: TornTail | None = None
    for reader in walk(folder):
        for _ in reader.chunks():
            pass
        torn = reader.torn
        if reader.header is not None:
            segments.append(reader.info())
    return Overview(tuple(segments), torn)


def read(
    folder: Path, keys: Keys, *, after: int = 0, until: int | None = None, rows: int = CHUNK_RECORDS
) -> Iterator[Admitted | Event | Checkpoint | Break]:
    """Yield the inputs with `after` < sequence <= `until`, and what was noted among them, in order.

    Trades, quotes and gaps that follow one another come as one Admitted of at most `rows` rows, under the numbers of `keys`; its
    `late` and `outcome` say the same, and its `ask` is empty if it holds no quote. Other inputs come as their events. A gap whose
    trade lies behind `until` comes as a Gap. Checkpoints and breaks come if the input before them has a sequence in the range (or
    from the very start: all). Ends before the first record that is not written, and before a torn tail.

    Raises JournalCorruptError with file and byte offset, and JournalError if the journal begins after the inputs that are asked for.
    """
    last = INT64_MAX if until is None else until
    inbox = _Inbox(keys, rows, after, last)
    is_first = True
    for reader in walk(folder, after):
        if is_first and reader.header is not None and after > 0 and reader.header.first_sequence > after + 1:
            found = reader.first_break()
            if found is None or found.first_lost > after + 1:
                raise JournalError(
                    f"{folder}: begins at input {reader.header.first_sequence}: expected {after + 1}; older segments were deleted"
                )
        is_first = False
        inbox.codes[:] = 0
        for chunk in reader.chunks():
            yield from inbox.take(chunk, reader.path)
            if inbox.is_done:
                break
        if inbox.is_done:
            break
    yield from inbox.flush()


def read_segment(path: Path, header: Header, keys: Keys, *, rows: int = CHUNK_RECORDS) -> Iterator[Admitted]:
    """Yield the trades, quotes and gaps of one segment, as `read` does. Raises JournalCorruptError."""
    inbox = _Inbox(keys, rows, 0, INT64_MAX)
    for chunk in SegmentReader(path, header).chunks():
        for found in inbox.take(chunk, path):
            if isinstance(found, Admitted):
                yield found
    yield from inbox.flush()


class _Inbox:
    """Records on their way to what `read` yields."""

    def __init__(self, keys: Keys, rows: int, after: int, until: int) -> None:
        if rows < 1:
            raise JournalError(f"rows = {rows}: expected at least 1")
        self.keys = keys
        self.after = after
        self.until = until
        self.codes = np.zeros(KEYS_MAX, np.int32)
        self.is_done = False
        self._columns: tuple[Any, ...] = (
            np.empty(rows, np.int32),
            np.empty(rows, np.uint8),
            np.empty(rows, np.int64),
            np.empty(rows, np.int64),
            np.empty(rows, np.float64),
            np.empty(rows, np.float64),
            np.empty(rows, np.int8),
            np.empty(rows, np.float64),
            np.empty(rows, np.float64),
            np.empty(rows, np.int64),
            np.empty(rows, np.uint8),
            np.empty(rows, np.uint8),
            np.empty(rows, np.int64),
        )
        self._gaps = np.empty((rows, 6), np.int64)
        self._filled = self._gap_count = self._quotes = 0
        self._unpack = compiled().unpack

    def take(self, chunk: Chunk, path: Path) -> Iterator[Any]:
        """Yield what becomes complete by a chunk."""
        words, sequence = chunk.words, chunk.sequence
        floats = words.view(np.float64)
        row = 0
        while row < len(words) and not self.is_done:
            kind = kind_of(words, row)
            if kind <= GAP:
                row, sequence = self._market(words, floats, row, sequence)
                if self._filled == len(self._columns[0]):
                    yield from self.flush()
                elif row < len(words) and (kind := kind_of(words, row)) <= GAP:
                    yield from self.flush()
                    if kind == GAP and self.after < sequence == self.until:
                        yield self._lone_gap(words, row, sequence)
                    self.is_done = True
                continue
            index = chunk.index + row
            place = sequence - 1  # of what is no input: that of the input before it
            if kind == KEY:
                exchange, symbol = decode(KEY_NAMES, words, row, path, index)
                self.codes[int(words[row, 7]) & 0xFFFF] = self.keys.code((exchange, symbol))
            elif kind == EVENT:
                if sequence > self.until:
                    self.is_done = True
                elif sequence > self.after:
                    event = decode(EVENTS, words, row, path, index)
                    if event.sequence != sequence:
                        text = f"an event that says it is input {event.sequence}"
                        raise JournalCorruptError(path, HEADER_BYTES + index * RECORD_BYTES, text, f"input {sequence}")
                    yield from self.flush()
                    yield event
                sequence += 1
            elif place <= self.until and (place > self.after or self.after == 0):
                yield from self.flush()
                yield decode(CHECKPOINTS if kind == CHECKPOINT else BREAKS, words, row, path, index)
            row += 1 + parts_of(int(words[row, 2]))

    def flush(self) -> Iterator[Admitted]:
        """Yield the rows that wait."""
        count = self._filled
        if not count:
            return
        taken = [column[:count].copy() for column in self._columns]
        if not self._quotes:
            taken[7], taken[8] = np.empty(0), np.empty(0)
        gaps = self._gaps[: self._gap_count].copy()
        self._filled = self._gap_count = self._quotes = 0
        yield Admitted(Block(*taken[:11]), taken[11], taken[12], taken[3], gaps)

    def _market(self, words: Words, floats: npt.NDArray[np.float64], row: int, sequence: int) -> tuple[int, int]:
        row, sequence, self._filled, self._gap_count, quotes = self._unpack(
            words, floats, row, len(words), sequence, self.after, self.until, self.codes,
            *self._columns, self._gaps, self._filled, self._gap_count,
        )  # fmt: skip
        self._quotes += quotes
        return row, sequence

    def _lone_gap(self, words: Words, row: int, sequence: int) -> Gap:
        timestamp, received, *values = words[row, :6].view(np.int64).tolist()
        first, last, missing, filled = values
        key = self.keys[int(self.codes[int(words[row, 7]) & 0xFFFF])]
        return Gap(*key, first, last, missing, filled, timestamp, received, sequence)
