"""The journal's segments on the disk: reserved ahead, sealed, forced and taken stock of, so that whoever appends need not wait.

At most two segments are open: the newest, and the one before it until the thread has sealed it. What the thread fails at stands in
`failure`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from store.records import RECORD_BYTES
from store.segment import HEADER_BYTES, UNFINISHED_SUFFIX, OpenSegment, force, force_folder, write_page
from store.segment_reader import SegmentInfo, SegmentReader, TornTail, walk


@dataclass(frozen=True)
class Stock:
    """What a folder was found to hold. `segment` is the newest, to append to behind its `records`; None if there is none."""

    segment: OpenSegment | None
    records: int
    next_sequence: int
    received: int  # ns UTC, the newest; 0 if there is none
    torn: TornTail | None


class Disk:
    """One folder's segments. `newest` says which segment is written to, and the last sequence in it."""

    def __init__(
        self, folder: Path, segment_bytes: int, interval_s: float | None, newest: Callable[[], tuple[OpenSegment, int]]
    ) -> None:
        self.folder = folder
        self.segment_bytes = max(segment_bytes // HEADER_BYTES, 2) * HEADER_BYTES
        self.sealed: list[SegmentInfo] = []
        self.synced = 0
        """Newest sequence that is known to be on the disk."""
        self.failure = ""
        self.switch = threading.Lock()
        """Held for the moment in which segments change places."""
        self.lock = threading.Lock()
        """Held while something goes to the disk."""
        self._interval_s = interval_s
        self._newest = newest
        self._retired: tuple[OpenSegment, int, int, int] | None = (
            None  # with its records, last sequence, newest received
        )
        self._prepared: OpenSegment | None = None
        self._named = self._names_forced = 0  # segments that were named, and how many of those names are on the disk
        self._made = 0
        self._wake = threading.Event()
        self._is_wanted = False
        self._is_stopping = False
        self._reserving = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="journal", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and remove what was reserved ahead."""
        self._is_stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._prepared is not None:
            self.discard(self._prepared)
            self._prepared = None

    # -- for whoever appends

    def want_next(self) -> None:
        """Have a segment reserved in the background."""
        self._is_wanted = True
        self._wake.set()

    def fresh(self, count: int) -> OpenSegment:
        """Return a segment without a name that has room for `count` records. Raises OSError."""
        with self._reserving:  # else two could share out the last room for one, and neither would have it
            with self.switch:
                prepared = self._prepared
                if prepared is not None and prepared.capacity >= count:
                    self._prepared = None
                    return prepared
            size = HEADER_BYTES + -(-count * RECORD_BYTES // HEADER_BYTES) * HEADER_BYTES
            return self._reserve(max(size, self.segment_bytes))

    def discard(self, segment: OpenSegment) -> None:
        """Remove a segment that nothing was written to."""
        segment.close()
        with contextlib.suppress(OSError):
            segment.path.unlink()

    def retire(self, segment: OpenSegment, records: int, last_sequence: int, received: int) -> None:
        """Have a segment sealed in the background; the one before was (`finish_retired`). Under `switch`."""
        self._retired = (segment, records, last_sequence, received)
        self._named += 1
        self._wake.set()

    def finish_retired(self) -> None:
        """Seal the segment before the newest, if that is still to be done. Raises OSError."""
        if self._retired is not None:  # else without waiting for what goes to the disk just now
            with self.lock:
                self._seal_retired()

    def force_newest(self, segment: OpenSegment, sequence: int) -> None:
        """Force the newest segment, up to an input, to the disk. Raises OSError."""
        with self.lock:
            self._force_names()
            force(segment.fd)
            self.synced = sequence

    def sync(self) -> None:
        """Force all that is written by now to the disk. Raises OSError."""
        self.finish_retired()
        with self.lock:
            with self.switch:
                segment, sequence = self._newest()
                if self._retired is not None:
                    # The segment changed just now: what was written before is in the one that is sealed next.
                    segment, sequence = self._retired[0], self._retired[2]
            self._force_names()
            force(segment.fd)
            if not self.failure:
                self.synced = max(self.synced, sequence)

    # -- what there is

    @property
    def segments(self) -> int:
        """How many segments there are, the newest included."""
        return len(self.sealed) + (self._retired is not None) + 1

    def size_bytes(self, segment: OpenSegment | None) -> int:
        """Bytes of all segments, `segment` being the newest, and of what is reserved ahead."""
        with self.switch:
            opened = (segment, self._prepared, self._retired and self._retired[0])
            return sum(info.bytes for info in self.sealed) + sum(segment.bytes for segment in opened if segment)

    def drop_oldest(self) -> Path:
        """Delete the oldest sealed segment; return what it was. Raises OSError."""
        path = self.sealed[0].path
        path.unlink(missing_ok=True)
        with self.switch:
            del self.sealed[0]
        return path

    # -- the thread

    def _serve(self) -> None:
        """Seal, force to the disk, reserve, until stopped."""
        while not self._is_stopping:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            try:
                self.finish_retired()
                # Once it failed, a system may call pages clean that it never wrote: what it says then proves nothing.
                if self._interval_s is not None and not self.failure and self.synced < self._newest()[1]:
                    self.sync()
            except OSError as error:
                self.failure = self.failure or f"cannot be forced to the disk: {error.strerror}"
            except Exception as error:
                # A defect; but a thread that ended of it would leave a journal that nobody seals or forces any more, without a word.
                self.failure = self.failure or f"cannot be kept: {type(error).__name__}: {error}"
            if self._is_wanted and not self._is_stopping:
                self._is_wanted = False
                # What fails here is tried again, and heard of, when the next segment is due.
                with contextlib.suppress(OSError), self._reserving:
                    if self._prepared is None:
                        prepared = self._reserve(self.segment_bytes)
                        with self.switch:
                            self._prepared = prepared

    def _seal_retired(self) -> None:
        if self._retired is not None:
            segment, records, last, received = self._retired
            segment.seal(records, last, received)
            with self.switch:
                self.sealed.append(info_of(segment, records, last))
                self._retired = None
            segment.close()
            self.synced = max(self.synced, last)

    def _force_names(self) -> None:
        if self._names_forced < (named := self._named):
            force_folder(self.folder)
            self._names_forced = named

    def _reserve(self, size: int) -> OpenSegment:
        with self.switch:
            self._made += 1
            name = f"{self._made}{UNFINISHED_SUFFIX}"
        return OpenSegment.reserve(self.folder / name, size)

    # -- opening

    def take_stock(self) -> Stock:
        """Remove leftovers, cut a torn tail, seal what should be. Raises OSError, JournalCorruptError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in sorted(self.folder.glob(f"*{UNFINISHED_SUFFIX}")):
            leftover.unlink()
        readers = list(self._drained())
        torn = readers[-1].torn if readers else None
        if torn is not None and torn.dropped is not None:
            torn.dropped.unlink()
            force_folder(self.folder)
        readers = [reader for reader in readers if reader.header is not None]
        opened: list[SegmentReader] = []
        for reader in readers:
            # One that was sealed without an input goes on: the next would have its name.
            if reader.is_sealed and not (reader is readers[-1] and reader.is_empty):
                reader.give_back()
                self.sealed.append(reader.info())
            else:
                opened.append(reader)
        for reader in opened[:-1]:
            segment = self._reopen(reader)
            segment.seal(reader.records, reader.next_sequence - 1, reader.received)
            self.sealed.append(info_of(segment, reader.records, reader.next_sequence - 1))
            segment.close()
        self.synced = self.sealed[-1].last_sequence if self.sealed else 0
        if not readers:
            return Stock(None, 0, 1, 0, torn)
        last = readers[-1]
        newest = self._reopen(opened[-1]) if opened else None
        return Stock(newest, last.records, last.next_sequence, last.received, torn)

    def _drained(self) -> Iterator[SegmentReader]:
        """Yield the reader of each segment; those of open ones have read it to its end."""
        for reader in walk(self.folder, only_open=True):
            if not reader.is_sealed:
                for _ in reader.chunks():
                    pass
            yield reader

    def _reopen(self, reader: SegmentReader) -> OpenSegment:
        """Open a segment to append behind what its reader found whole."""
        assert reader.header is not None
        header = replace(reader.header, records=-1, last_sequence=0)
        cut = reader.torn is not None
        segment = OpenSegment.reopen(reader.path, header, reader.records, self.segment_bytes, cut=cut)
        if reader.is_sealed:
            write_page(segment.fd, header)
        segment.lost = reader.first_break() if reader.records else None
        return segment


def info_of(segment: OpenSegment, records: int, last_sequence: int) -> SegmentInfo:
    """Describe a segment that was sealed."""
    return SegmentInfo(segment.path, segment.header.first_sequence, last_sequence, records, True, segment.bytes)
