"""The journal, written: every input in one order, before it is folded.

`append` puts the inputs of a block into the map of the newest segment: that store is the acknowledgement, and it survives the
process, whatever kills it. What goes to the disk when is the policy of `fsync`: within `append` ("always"), by a thread every
`fsync_ms` ("interval"), or when the system likes ("never"). The same thread seals the segment before the newest and reserves the
next one once the newest is half full, so that a rotation does not hold the loop.

A call writes all or nothing: if it raises, the journal is as it was, and the engine says so or stops. `resume` begins anew behind the
inputs that were lost, with a break that names them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np

from engine.block import Keys
from engine.errors import JournalError
from engine.fold import Told
from engine.ingress import LATE, TRADE, Admitted
from store.record_code import UNDECLARED, WRITTEN, compiled
from store.records import (
    BREAK,
    CHECKPOINT,
    EVENT,
    KEY,
    KEYS_MAX,
    RECORD_BYTES,
    Break,
    Checkpoint,
    Words,
    group,
)
from store.segment import HEADER_BYTES, UNFINISHED_SUFFIX, Header, OpenSegment, force, force_folder, write_page
from store.segment_reader import SegmentInfo, SegmentReader, TornTail, walk

Fsync = Literal["always", "interval", "never"]
EVENTS = get_args(Told)
CLOSED = "the journal is closed"


class Journal:
    """Appends inputs. Made by `open`. One thread may call it; a thread of its own does what would hold that one."""

    def __init__(
        self, folder: Path, segment_bytes: int, fsync: Fsync, fsync_ms: int, retention_bytes: int, created: int
    ) -> None:
        self.folder = folder
        self.segment_bytes = max(segment_bytes // HEADER_BYTES, 2) * HEADER_BYTES
        self.fsync = fsync
        self.fsync_s = fsync_ms / 1000
        self.retention_bytes = retention_bytes
        self.created = created
        self.torn: TornTail | None = None
        """What was cut off when the journal was opened."""
        self.next_sequence = 1
        self.last_received = 0
        """Newest `received` in the journal, ns UTC; 0 if there is none."""
        self.synced = 0
        """Newest sequence that is known to be on the disk."""
        self.bytes_written = 0
        """Bytes of records, since it was opened."""
        self.failure = ""
        """What went wrong in the background; the next append raises it, `resume` forgets it."""
        self._sealed: list[SegmentInfo] = []
        self._segment: OpenSegment | None = None
        self._at = 0  # index of the next record
        self._limit = 0  # rows beyond it ask for more than a store into the map
        self._keys = Keys()
        self._declared = np.zeros(KEYS_MAX, np.uint8)
        self._write = compiled().write_rows
        self._always = fsync == "always"
        self._disk = threading.Lock()  # held while something goes to the disk
        self._switch = threading.Lock()  # held for the moment in which segments change places
        self._retired: tuple[OpenSegment, int, int, int] | None = (
            None  # what it holds: records, last sequence, newest received
        )
        self._prepared: OpenSegment | None = None
        self._names = self._names_forced = (
            0  # segments that got their name, and how many of those names are on the disk
        )
        self._made = 0
        self._wake = threading.Event()
        self._wanted = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    @classmethod
    def open(
        cls, folder: Path, *, segment_bytes: int, fsync: Fsync, fsync_ms: int, retention_bytes: int, created: int
    ) -> Journal:
        """Open a folder's journal to append, made if needed; cut a torn tail (`torn` says what was lost). `created`: ns UTC, now.

        Sealed segments are taken by their headers; what they hold is proved when it is read. Raises JournalCorruptError with
        file and byte offset for damage in what was not sealed, JournalError if the folder cannot be written to.
        """
        journal = cls(folder, segment_bytes, fsync, fsync_ms, retention_bytes, created)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            journal._recover()
        except OSError as error:
            raise JournalError(f"journal {folder}: cannot be opened: {error.strerror}") from error
        journal._thread = threading.Thread(target=journal._serve, name="journal", daemon=True)
        journal._thread.start()
        return journal

    # -- appending

    def append(self, admitted: Admitted, keys: Keys) -> None:
        """Write the inputs among the rows of a block, at most some thousand, with their gaps.

        Raises JournalError, and has written none of them then: no room for the next segment, a failure in the background, sequences
        that do not go on from `next_sequence`, more than 65,535 keys.
        """
        block = admitted.block
        needed = len(block.key) + len(admitted.gaps)
        if self._at + needed > self._limit or keys is not self._keys or self.failure:
            self._make_room(needed, keys)
        while True:
            segment = self._segment
            assert segment is not None
            first = self._at
            status, at, sequence, newest = self._write(
                segment.words, segment.floats, self._declared, first, self.next_sequence, admitted.outcome, admitted.sequence,
                admitted.received, block.key, block.kind, block.timestamp, block.price, block.volume, block.side, block.ask,
                block.ask_volume, block.trade_id, admitted.gaps,
            )  # fmt: skip
            if status == WRITTEN:
                break
            if status != UNDECLARED:
                raise JournalError(
                    f"journal {self.folder}: row {at} is input {sequence}: expected {newest}, the next of the journal"
                )
            self._declare(admitted, keys, needed)
        if self._always:
            self._force_now(first, at)
            self.synced = sequence - 1
        self._at = at
        self.next_sequence = sequence
        self.bytes_written += (at - first) * RECORD_BYTES
        self.last_received = max(self.last_received, newest)

    def append_event(self, event: Told) -> None:
        """Write an input that is not of the market. Its sequence must be `next_sequence`.

        Raises JournalError, and has not written it then.
        """
        if not isinstance(event, EVENTS):
            names = ", ".join(kind.__name__ for kind in EVENTS)
            raise JournalError(f"journal {self.folder}: found {type(event).__name__}: expected one of {names}")
        if event.sequence != self.next_sequence:
            raise JournalError(
                f"journal {self.folder}: {type(event).__name__} is input {event.sequence}: expected {self.next_sequence}"
            )
        records = group(EVENT, self._encode(event), timestamp=event.timestamp, received=event.received)
        self._put(records, inputs=1)
        self.last_received = max(self.last_received, event.received)

    def note_checkpoint(self, sequence: int, digests: Mapping[str, str]) -> None:
        """Write the digests as of an input that is in the journal already. Raises JournalError, and has not written them then."""
        if sequence >= self.next_sequence:
            raise JournalError(
                f"journal {self.folder}: a checkpoint of input {sequence}: expected at most {self.next_sequence - 1}"
            )
        self._put(group(CHECKPOINT, self._encode(Checkpoint(sequence, dict(digests)))), inputs=0)

    def resume(self, next_sequence: int, reason: str) -> None:
        """Begin a new segment with input `next_sequence`, behind a break that says which inputs were lost, and why.

        Forgets `failure`; `synced` then speaks of what comes. Raises JournalError if it still cannot be written, and appends raise
        until it can; or if `next_sequence` is in the journal already.
        """
        if self._stopping:
            raise JournalError(f"journal {self.folder}: {CLOSED}")
        if next_sequence < self.next_sequence:
            raise JournalError(
                f"journal {self.folder}: cannot resume at input {next_sequence}: expected at least {self.next_sequence}"
            )
        old = self._segment
        assert old is not None
        is_empty = self.next_sequence == old.header.first_sequence
        first_lost = old.lost.first_lost if is_empty and old.lost is not None else self.next_sequence
        lost = Break(reason, first_lost, next_sequence - 1)
        records = group(BREAK, self._encode(lost))
        try:
            self._finish_retired()
            fresh = self._fresh(len(records))
            with self._disk:
                try:
                    if next_sequence != old.header.first_sequence:
                        old.seal(self._at, self.next_sequence - 1, self.last_received)
                    self._begin(fresh, next_sequence, lost)
                    force_folder(self.folder)
                except OSError:
                    self._discard(fresh)
                    raise
                with self._switch:
                    if next_sequence != old.header.first_sequence:
                        self._sealed.append(_info(old, self._at, self.next_sequence - 1))
                    old.close()
                    self._use(fresh, len(records))
                    self.next_sequence = next_sequence
                    self.synced = next_sequence - 1
                    self.failure = ""
        except OSError as error:
            # The old segment may be sealed by now, and must not be written to.
            self.failure = f"cannot be resumed: {error.strerror}"
            raise JournalError(f"journal {self.folder}: {self.failure}") from error

    # -- the disk

    def sync(self) -> None:
        """Force all that was written to the disk. Raises JournalError."""
        with self._guarded("forced to the disk"):
            self._sync()

    def retain(self, needed: int, *, exported: int | None = None) -> list[Path]:
        """Delete the oldest sealed segments while the journal is larger than `retention_bytes`; return them.

        For any thread. None that holds an input after `needed`, the sequence of the oldest kept snapshot; and, if segments are exported, none
        that holds one after `exported`, the exporter's newest. Raises JournalError.
        """
        limit = needed if exported is None else min(needed, exported)
        deleted: list[Path] = []
        with self._guarded("shortened"):
            while self.size_bytes > self.retention_bytes and self._sealed and self._sealed[0].last_sequence <= limit:
                path = self._sealed[0].path
                path.unlink(missing_ok=True)
                with self._switch:
                    del self._sealed[0]
                deleted.append(path)
        return deleted

    @property
    def segments(self) -> int:
        """How many segments there are."""
        return len(self._sealed) + (self._retired is not None) + (self._segment is not None)

    @property
    def size_bytes(self) -> int:
        """Bytes that the journal has on the disk, those that are only reserved included."""
        with self._switch:
            opened = (self._segment, self._prepared, self._retired and self._retired[0])
            return sum(info.bytes for info in self._sealed) + sum(segment.bytes for segment in opened if segment)

    def close(self) -> None:
        """Force all to the disk, whatever the policy, and let go of the folder. Raises JournalError if it cannot be forced."""
        if self._stopping:
            return
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.sync()
        finally:
            self.failure = self.failure or CLOSED
            if self._prepared is not None:
                self._discard(self._prepared)
                self._prepared = None
            if self._segment is not None:
                self._segment.close()
            self._segment, self._limit = None, 0

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- the parts of an append

    def _encode(self, value: object) -> bytes:
        try:
            return msgspec.json.encode(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise JournalError(f"journal {self.folder}: {value!r:.200}: cannot be written as JSON: {error}") from error

    def _put(self, records: Words, inputs: int) -> None:
        """Write a group, in a segment that has room for it."""
        count = len(records)
        if self._at + count > self._limit or self.failure:
            self._make_room(count, self._keys)
        segment = self._segment
        assert segment is not None
        compiled().write_group(segment.words, self._at, self.next_sequence, records)
        if self._always:
            self._force_now(self._at, self._at + count)
            self.synced = self.next_sequence + inputs - 1
        self._at += count
        self.next_sequence += inputs
        self.bytes_written += count * RECORD_BYTES

    def _force_now(self, first: int, at: int) -> None:
        """Force what was just written to the disk; if that fails, take it back."""
        segment = self._segment
        assert segment is not None
        try:
            with self._disk:
                self._force_names()
                force(segment.fd)
        except OSError as error:
            segment.words[first:at] = 0
            self.failure = f"cannot be forced to the disk: {error.strerror}"
            raise JournalError(f"journal {self.folder}: {self.failure}") from error

    def _make_room(self, count: int, keys: Keys) -> None:
        """Take other keys, begin the next segment, ask for one after it: whatever is due before `count` records can be written."""
        if self.failure:
            raise JournalError(f"journal {self.folder}: {self.failure}")
        if keys is not self._keys:
            self._keys = keys
            self._declared[:] = 0
        segment = self._segment
        assert segment is not None
        if self._at + count > segment.capacity:
            self._rotate(count)
        elif self._at + count > self._limit:
            self._limit = segment.capacity
            self._wanted = True
            self._wake.set()

    def _declare(self, admitted: Admitted, keys: Keys, needed: int) -> None:
        """Write what the numbers of the keys in a block mean, and leave room for `needed` records behind it."""
        is_input = (admitted.outcome >= TRADE) & (admitted.outcome <= LATE)
        used = np.unique(admitted.block.key[is_input]).tolist()
        if used[-1] >= KEYS_MAX:
            raise JournalError(f"journal {self.folder}: key number {used[-1]}: expected at most {KEYS_MAX} keys")
        groups = {code: group(KEY, self._encode(keys[code]), key=code) for code in used if not self._declared[code]}
        total = sum(map(len, groups.values())) + needed
        segment = self._segment
        assert segment is not None
        if self._at + total > segment.capacity:
            groups = {code: group(KEY, self._encode(keys[code]), key=code) for code in used}
            self._rotate(sum(map(len, groups.values())) + needed)
        for code, records in groups.items():
            self._put(records, inputs=0)
            self._declared[code] = 1

    def _rotate(self, count: int) -> None:
        """Go on in a new segment with room for `count` records. The old one is sealed by the thread."""
        segment = self._segment
        assert segment is not None
        with self._guarded("given a new segment"):
            # At most two segments are open; if the thread has not come to the older one, this waits for it.
            self._finish_retired()
            fresh = self._fresh(count)
            is_empty = self.next_sequence == segment.header.first_sequence
            try:
                records = self._begin(fresh, self.next_sequence, segment.lost if is_empty else None)
            except OSError:
                self._discard(fresh)
                raise
            with self._switch:
                if is_empty:
                    segment.close()  # it was too small for the first input; the new one took its name
                else:
                    self._retired = (segment, self._at, self.next_sequence - 1, self.last_received)
                self._names += 1
                self._use(fresh, records)
            self._wake.set()

    def _begin(self, segment: OpenSegment, sequence: int, lost: Break | None) -> int:
        """Give a segment its header, its break and its name; return its records. Raises OSError."""
        records = None if lost is None else group(BREAK, self._encode(lost))
        segment.begin(Header(sequence, max(self.created, self.last_received), self.last_received), records)
        segment.lost = lost
        return 0 if records is None else len(records)

    def _use(self, segment: OpenSegment, records: int) -> None:
        self._segment = segment
        self._at = records
        self._limit = segment.capacity // 2
        self._declared[:] = 0

    def _fresh(self, count: int) -> OpenSegment:
        """Return a segment that is reserved and has no name yet. Raises OSError."""
        with self._switch:
            prepared = self._prepared
            if prepared is not None and prepared.capacity >= count:
                self._prepared = None
                return prepared
        size = HEADER_BYTES + -(-count * RECORD_BYTES // HEADER_BYTES) * HEADER_BYTES
        return self._reserve(max(size, self.segment_bytes))

    def _reserve(self, size: int) -> OpenSegment:
        with self._switch:
            self._made += 1
            name = f"{self._made}{UNFINISHED_SUFFIX}"
        return OpenSegment.reserve(self.folder / name, size)

    def _discard(self, segment: OpenSegment) -> None:
        segment.close()
        with contextlib.suppress(OSError):
            segment.path.unlink()

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Turn what the system says into a JournalError."""
        try:
            yield
        except OSError as error:
            raise JournalError(f"journal {self.folder}: cannot be {what}: {error.strerror}") from error

    # -- the thread

    def _serve(self) -> None:
        """Seal, reserve, force to the disk, until the journal is closed."""
        while not self._stopping:
            self._wake.wait(self.fsync_s if self.fsync == "interval" else None)
            self._wake.clear()
            steps: list[Callable[[], None]] = [self._finish_retired]
            if self.fsync == "interval" and self.synced < self.next_sequence - 1:
                steps.append(self._sync)
            for step in steps:
                try:
                    step()
                except OSError as error:
                    self.failure = self.failure or f"cannot be forced to the disk: {error.strerror}"
            if self._wanted and not self._stopping:
                self._wanted = False
                # What fails here is tried again, and heard of, when the next segment is due.
                with contextlib.suppress(OSError):
                    if self._prepared is None:
                        prepared = self._reserve(self.segment_bytes)
                        with self._switch:
                            self._prepared = prepared

    def _finish_retired(self) -> None:
        """Seal the segment before the newest, if that is still to be done. Raises OSError."""
        if self._retired is not None:  # else without waiting for what goes to the disk just now
            with self._disk:
                self._seal_retired()

    def _seal_retired(self) -> None:
        if self._retired is not None:
            segment, records, last, received = self._retired
            segment.seal(records, last, received)
            with self._switch:
                self._sealed.append(_info(segment, records, last))
                self._retired = None
            segment.close()
            if not self._always:
                self.synced = max(self.synced, last)

    def _sync(self) -> None:
        """Force all that is written by now to the disk. Raises OSError."""
        self._finish_retired()
        with self._disk:
            with self._switch:
                segment, sequence = self._segment, self.next_sequence - 1
                if self._retired is not None:
                    # The segment changed just now: what was written before is in the one that is sealed next.
                    segment, sequence = self._retired[0], self._retired[2]
            if segment is None:
                return
            self._force_names()
            force(segment.fd)
            self.synced = max(self.synced, sequence)

    # -- opening

    def _recover(self) -> None:
        """Take stock of the folder, cut a torn tail, and have a segment to append to. Raises OSError."""
        for leftover in sorted(self.folder.glob(f"*{UNFINISHED_SUFFIX}")):
            leftover.unlink()
        readers = list(self._drained())
        if readers and (torn := readers[-1].torn):
            self.torn = torn
            if torn.dropped is not None:
                torn.dropped.unlink()
                force_folder(self.folder)
        opened: list[SegmentReader] = []
        for reader in readers:
            if reader.header is None:
                continue
            self.next_sequence = reader.next_sequence
            self.last_received = max(self.last_received, reader.received)
            # One that was sealed without an input goes on: the next would have its name.
            goes_on = reader is readers[-1] and reader.next_sequence == reader.header.first_sequence
            if reader.header.is_sealed and not goes_on:
                self._sealed.append(reader.info())
                reader.give_back()
            else:
                opened.append(reader)
        for reader in opened[:-1]:
            segment = self._reopen(reader)
            segment.seal(reader.records, reader.next_sequence - 1, reader.received)
            self._sealed.append(_info(segment, reader.records, reader.next_sequence - 1))
            segment.close()
        if opened:
            self._use(self._reopen(opened[-1]), opened[-1].records)
        else:
            segment = self._reserve(self.segment_bytes)
            self._use(segment, self._begin(segment, self.next_sequence, None))
        self.synced = self._sealed[-1].last_sequence if self._sealed else 0
        if self.fsync != "never":
            force_folder(self.folder)
            self._sync()

    def _drained(self) -> Iterator[SegmentReader]:
        """Yield the reader of each segment; those of open ones have read it to its end."""
        for reader in walk(self.folder, only_open=True):
            if reader.header is None or not reader.header.is_sealed:
                for _ in reader.chunks():
                    pass
            yield reader

    def _reopen(self, reader: SegmentReader) -> OpenSegment:
        """Open a segment to append behind what its reader found whole."""
        assert reader.header is not None
        header = replace(reader.header, records=-1, last_sequence=0)
        cut = reader.torn is not None
        segment = OpenSegment.reopen(reader.path, header, reader.records, self.segment_bytes, cut=cut)
        if reader.header.is_sealed:
            write_page(segment.fd, header)
        segment.lost = reader.first_break() if reader.records else None
        return segment

    def _force_names(self) -> None:
        """Force the names of new segments to the disk. Raises OSError."""
        if self._names_forced < (names := self._names):
            force_folder(self.folder)
            self._names_forced = names


def _info(segment: OpenSegment, records: int, last_sequence: int) -> SegmentInfo:
    return SegmentInfo(segment.path, segment.header.first_sequence, last_sequence, records, True, segment.bytes)
