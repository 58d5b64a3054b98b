"""One segment of the journal, read and proved; and all of them in order, proved to follow one another.

A bad record is a torn tail, and reading ends before it, only in what was being written: in the newest segment if nothing valid
follows, or where all of its page of 4 KiB from there on is zeros, which is what a power cut leaves of a page that was never written
back (then whatever follows goes with it). A power cut just after a rotation can leave that in the segment before the newest, as long
as it is not sealed. Everything else that does not fit is refused with file and offset.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.errors import JournalCorruptError, JournalError
from store.record_code import BAD_CHECK, BAD_ORDER, COMPLETE, UNFINISHED, compiled
from store.records import BREAK, KEYS_MAX, KINDS, RECORD_BYTES, WORDS, Break, Words, check_of, payload_of
from store.segment import HEADER_BYTES, REREADS, Header, header_of, list_segments, segment_name

CHUNK_RECORDS = 1 << 16
"""Records that are read at once: more than a group can hold."""
PAGE_BYTES = 4096


@dataclass(frozen=True)
class TornTail:
    """What the end of a journal lost: everything in `path` from byte `offset` on, and the whole segment `dropped` behind it."""

    path: Path
    offset: int
    records: int  # valid ones among what is lost; none of them was known to be on the disk
    bytes: int  # up to the last one that is not zero
    dropped: Path | None = None

    def __str__(self) -> str:
        behind = f", and {self.dropped.name} behind it" if self.dropped and self.dropped != self.path else ""
        return f"{self.path}: torn at byte {self.offset}: {self.bytes} bytes with {self.records} valid records are cut{behind}"


@dataclass(frozen=True)
class SegmentInfo:
    """One segment of an overview. A segment without inputs ends before it begins."""

    path: Path
    first_sequence: int
    last_sequence: int
    records: int
    is_sealed: bool
    bytes: int


@dataclass(frozen=True)
class Chunk:
    """Verified records in complete groups, valid until the next chunk is asked for."""

    words: Words
    index: int  # of the first, in its segment
    sequence: int  # of the first input among them


class SegmentReader:
    """Reads one segment and proves it. `header` is None where a power cut left nothing of it."""

    def __init__(self, path: Path, header: Header | None) -> None:
        self.path = path
        self.header = header
        self.records = 0
        self.next_sequence = header.first_sequence if header else int(path.stem)
        self.received = header.received if header else 0
        """Newest `received` so far, ns UTC."""
        self.bytes = 0
        self.torn: TornTail | None = None
        self.follower: SegmentReader | None = None
        """The segment behind this one, where both are still open: a rotation was cut short."""

    @property
    def is_sealed(self) -> bool:
        """Whether nothing is appended to it any more."""
        return self.header is not None and self.header.is_sealed

    @property
    def is_empty(self) -> bool:
        """Whether it holds no input, as far as it was read."""
        return self.header is None or self.next_sequence == self.header.first_sequence

    def info(self) -> SegmentInfo:
        """What was found, once all chunks were read."""
        assert self.header is not None
        return SegmentInfo(
            self.path,
            self.header.first_sequence,
            self.next_sequence - 1,
            self.records,
            self.header.is_sealed,
            self.bytes,
        )

    def first_break(self) -> Break | None:
        """Return the break that the segment begins with."""
        twin = SegmentReader(self.path, self.header)
        with contextlib.closing(twin.chunks()) as chunks:
            chunk = next(chunks, None)
        if chunk is None or kind_of(chunk.words, 0) != BREAK:
            return None
        found: Break = decode(BREAKS, chunk.words, 0, self.path, 0)
        return found

    def give_back(self) -> None:
        """Cut a sealed segment to what it holds: its writer was killed before it could. Raises OSError, JournalCorruptError."""
        assert self.header is not None
        end = self._offset(self.header.records)
        if self.path.stat().st_size <= end:
            return
        with self.path.open("r+b", buffering=0) as file:
            self._check_end(file.fileno(), self.header)
            file.truncate(end)

    def chunks(self) -> Generator[Chunk, None, None]:
        """Yield all records in their order. Raises JournalCorruptError; sets `torn` if the segment's tail is."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise JournalError(f"{self.path}: {error.strerror}") from error
        try:
            self.bytes = os.fstat(fd).st_size
            if self.header is None:
                self._lost_header(fd)
            else:
                yield from self._chunks(fd, self.header)
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be read: {error.strerror}") from error
        finally:
            os.close(fd)

    def _chunks(self, fd: int, header: Header) -> Generator[Chunk, None, None]:
        verify = compiled().verify
        declared = np.zeros(KEYS_MAX, np.uint8)
        end = header.records if header.is_sealed else max(0, self.bytes - HEADER_BYTES) // RECORD_BYTES
        buffer = np.empty((min(CHUNK_RECORDS, end), WORDS), np.uint64)
        tries = 0
        why = COMPLETE
        while self.records < end:
            asked = min(len(buffer), end - self.records)
            count = _fill(fd, buffer[:asked], self.records)
            if count < asked:
                # Sealed by its writer meanwhile, which gave back what was not used; or cut short by somebody.
                end = self.records + count
                if header.is_sealed:
                    found = f"the end of the file after {end} records"
                    raise JournalCorruptError(
                        self.path, self._offset(end), found, f"{header.records} as its header says"
                    )
                continue
            index, sequence = self.records, self.next_sequence
            done, following, newest, why, row, at = verify(buffer, count, index, sequence, declared)
            if done:
                self.received = max(self.received, newest)
                self.records += done
                self.next_sequence = following
                tries = 0
                yield Chunk(buffer[:done], index, sequence)
            if why == COMPLETE or (why == UNFINISHED and index + count < end):
                continue
            try:
                self._judge(fd, buffer[row] if row < count else None, index + row, at, why, header)
                break
            except JournalCorruptError:
                tries += 1
                if header.is_sealed or tries > REREADS:
                    raise
        if header.is_sealed:
            self._check_seal(fd, header)
        elif why == COMPLETE:
            cut = self._offset(self.records)
            if tail := os.pread(fd, RECORD_BYTES, cut).rstrip(b"\0"):
                self.torn = TornTail(self.path, cut, 0, len(tail))  # less than a record
            self._check_follower(self.records, 0)

    def _judge(self, fd: int, record: Words | None, bad: int, sequence: int, why: int, header: Header) -> None:
        """Say what it means that record `bad`, which would have this sequence, is not what it should be."""
        offset, cut = self._offset(bad), self._offset(self.records)
        if why == UNFINISHED and not header.is_sealed and self.follower is None:
            self.torn = TornTail(self.path, cut, bad - self.records, self.bytes - cut)
            return
        valid, last = (0, 0) if record is None else self._rest(fd, bad, sequence)
        page_end = offset - offset % PAGE_BYTES + PAGE_BYTES
        page_is_zero = not any(os.pread(fd, page_end - offset, offset))
        if not header.is_sealed and why != BAD_ORDER and (page_is_zero or (valid == 0 and self.follower is None)):
            if last > cut or bad > self.records:
                lost = bad - self.records + valid
                self.torn = TornTail(self.path, cut, lost, max(last, offset) - cut)
            self._check_follower(self.records, bad - self.records + valid)
            return
        expected = f"the record of input {sequence}, or zeros to the end of what was not written yet"
        if why == BAD_CHECK and record is not None:
            words = record.tolist()
            found = f"a record with check 0x{words[7] >> 32:08x}"
            expected = (
                f"0x{check_of(words, bad, sequence):08x} (record {bad}, before which {sequence - 1} inputs stand)"
            )
        elif why == BAD_ORDER and record is not None:
            kind = int(record[7]) >> 16 & 0xFF
            found = f"a record of kind {KINDS[kind] if kind < len(KINDS) else kind} where it cannot stand"
            expected = (
                "a record of the market of a declared key, a gap right before its trade, parts right behind their head"
            )
        elif why == UNFINISHED:
            found = "the end of the segment"
            expected = "the rest of the group before it"
        else:
            found = f"an unwritten record with {valid} valid records behind it" if valid else "an unwritten record"
        raise JournalCorruptError(self.path, offset, found, expected)

    def _rest(self, fd: int, bad: int, sequence: int) -> tuple[int, int]:
        """Return how many records behind `bad` are valid, and the end of the last byte that is not zero."""
        buffer = np.empty((CHUNK_RECORDS, WORDS), np.uint64)
        valid = last = 0
        index = bad
        while count := _fill(fd, buffer, index):
            if nonzero := np.flatnonzero(buffer[:count].any(axis=1)).tolist():
                end = len(buffer[nonzero[-1]].tobytes().rstrip(b"\0"))
                last = self._offset(index + nonzero[-1]) + end
                valid += compiled().find_valid(buffer, count, index, bad, sequence)
            index += count
        tail = os.pread(fd, RECORD_BYTES, self._offset(index)).rstrip(b"\0")
        return valid, self._offset(index) + len(tail) if tail else last

    def _check_seal(self, fd: int, header: Header) -> None:
        if self.next_sequence - 1 != header.last_sequence:
            found = f"{self.records} records that end at input {self.next_sequence - 1}"
            raise JournalCorruptError(
                self.path, self._offset(self.records), found, f"{header.last_sequence} as its header says"
            )
        self._check_end(fd, header)

    def _check_end(self, fd: int, header: Header) -> None:
        valid, last = self._rest(fd, header.records, self.next_sequence)
        if last:
            found = f"bytes that are not zero up to {last}, {valid} valid records among them"
            raise JournalCorruptError(self.path, self._offset(header.records), found, "the end of a sealed segment")

    def _check_follower(self, records: int, lost: int) -> None:
        """Where the segment behind this one is open too, it must go on where this one ends; else a power cut took what is between."""
        if (follower := self.follower) is None:
            return
        begins = self._first_of(follower)
        if begins == self.next_sequence and self.torn is None:
            return
        cut = self._offset(records)
        if begins < self.next_sequence:
            found = f"input {self.next_sequence - 1}, though {follower.path.name} begins with {begins}"
            raise JournalCorruptError(self.path, cut, found, "the end of the segment")
        behind = SegmentReader(follower.path, follower.header)
        with contextlib.suppress(JournalCorruptError):
            for _ in behind.chunks():
                pass
        torn = self.torn or TornTail(self.path, cut, lost, 0)
        self.torn = replace(torn, records=torn.records + behind.records, dropped=follower.path)

    @staticmethod
    def _first_of(follower: SegmentReader) -> int:
        """The sequence that must come right before a segment, plus one."""
        found = follower.first_break() if follower.header else None
        return found.first_lost if found else follower.next_sequence

    def _lost_header(self, fd: int) -> None:
        """A segment of which the header never came to the disk: nothing in it was ever known to be there."""
        valid, last = self._rest(fd, 0, self.next_sequence)
        self.torn = TornTail(self.path, 0, valid, last, dropped=self.path)

    @staticmethod
    def _offset(index: int) -> int:
        return HEADER_BYTES + index * RECORD_BYTES


def walk(folder: Path, after: int = 0, *, only_open: bool = False) -> Iterator[SegmentReader]:
    """Yield a reader for each segment in order; the chunks of one must be read before the next is asked for.

    Sealed segments that end at or before `after`, or all of them if `only_open`, are passed over by their headers. Ends where a reader
    finds its segment torn. Raises JournalCorruptError for headers, for a segment that is missing between two others, and for
    sequences that jump without a break.
    """
    paths = list_segments(folder)
    readers: list[SegmentReader] = []
    # Newest first: segments are sealed oldest first, so one that is open now has none behind it that was sealed before.
    for path in reversed(paths):
        try:
            header = header_of(path)
        except FileNotFoundError:
            break  # retention has just deleted it and all before it
        if header is None and path is not paths[-1]:
            raise JournalCorruptError(path, 0, "zeros", "the header of a segment")
        readers.insert(0, SegmentReader(path, header))
    for reader, follower in itertools.pairwise(readers):
        assert reader.header is not None
        if reader.header.is_sealed:
            continue
        if follower is not readers[-1] or (follower.header is not None and follower.header.is_sealed):
            raise JournalCorruptError(
                reader.path, 40, "a segment that was not sealed", "only the newest two of a journal to be so"
            )
        reader.follower = follower
    expected: int | None = None
    for reader in readers:
        header = reader.header
        if header is not None and expected is not None:
            _check_link(reader, header, expected)
        if header is not None and header.is_sealed and (only_open or (after > 0 and header.last_sequence <= after)):
            expected = header.last_sequence + 1
            reader.records, reader.next_sequence = header.records, expected
            if only_open:
                reader.bytes = HEADER_BYTES + header.records * RECORD_BYTES
                if (size := reader.path.stat().st_size) < reader.bytes:
                    found = f"the end of the file, where its header says {header.records} records"
                    raise JournalCorruptError(reader.path, size, found, f"{reader.bytes} bytes")
                yield reader
            continue
        yield reader
        if reader.torn is not None:
            return
        expected = reader.next_sequence


def _check_link(reader: SegmentReader, header: Header, expected: int) -> None:
    """Check that a segment goes on where the one before it ended."""
    if header.first_sequence == expected:
        return
    found = reader.first_break()
    begins = found.first_lost if found else header.first_sequence
    if begins == expected and (found is None or found.last_lost == header.first_sequence - 1):
        return
    text = f"first sequence {header.first_sequence}"
    if found:
        text += f" behind a break of {found.first_lost} to {found.last_lost}"
    raise JournalCorruptError(
        reader.path,
        16,
        text,
        f"{expected}, where the segment before ends, or a break from there on; is {segment_name(expected)} missing?",
    )


def _fill(fd: int, buffer: Words, index: int) -> int:
    """Read records from `index` on; return how many whole ones there were."""
    view = buffer.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], HEADER_BYTES + index * RECORD_BYTES + done)
        if not got:
            break
        done += got
    return done // RECORD_BYTES


BREAKS = msgspec.json.Decoder(Break)


def kind_of(words: Words, row: int) -> int:
    """Return the kind of a record."""
    return words.item(row, 7) >> 16 & 0xFF


def decode(decoder: Any, words: Words, row: int, path: Path, index: int) -> Any:
    """Decode the payload of a head. Raises JournalCorruptError for what no writer of this version wrote."""
    try:
        return decoder.decode(payload_of(words, row))
    except msgspec.DecodeError as error:
        found = f"a record of kind {KINDS[kind_of(words, row)]} with {payload_of(words, row)[:80]!r}"
        raise JournalCorruptError(path, HEADER_BYTES + index * RECORD_BYTES, found, str(error)) from error
