"""The journal, written: every input in one order, before it is folded.

`append` puts the inputs of a block into the map of the newest segment: that store is the acknowledgement, and it survives the
process, whatever kills it. What goes to the disk when is the policy of `fsync`: within `append` ("always"), by a thread every
`fsync_ms` ("interval"), or when the system likes ("never").

A call writes all or nothing: if it raises, the journal is as it was, and the engine says so or stops. `resume` begins anew behind the
inputs that were lost, with a break that names them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np

from engine.block import Keys
from engine.errors import JournalError
from engine.fold import Told
from engine.ingress import LATE, TRADE, Admitted
from store.journal_disk import Disk, info_of
from store.record_code import UNDECLARED, WRITTEN, compiled
from store.records import BREAK, CHECKPOINT, EVENT, KEY, KEYS_MAX, RECORD_BYTES, Break, Checkpoint, Words, group
from store.segment import Header, OpenSegment, force_folder
from store.segment_reader import TornTail

Fsync = Literal["always", "interval", "never"]
EVENTS = get_args(Told)
CLOSED = "it is closed"


class Journal:
    """Appends inputs. Made by `open`. One thread may append; `retain` is for any thread."""

    def __init__(self, folder: Path, disk: Disk, *, is_forced: bool, retention_bytes: int, created: int) -> None:
        self.folder = folder
        self.retention_bytes = retention_bytes
        self.torn: TornTail | None = None
        """What was cut off when the journal was opened."""
        self.next_sequence = 1
        self.last_received = 0
        """Newest `received` in the journal, ns UTC; 0 if there is none."""
        self.bytes_written = 0
        """Bytes of records, since it was opened."""
        self._disk = disk
        self._created = created
        self._is_forced = is_forced  # within each append
        self._failure = ""
        self._segment: OpenSegment
        self._at = 0  # index of the next record
        self._limit = 0  # a record from there on asks for more than a store into the map
        self._keys = Keys()
        self._declared = np.zeros(KEYS_MAX, np.uint8)
        self._write = compiled().write_rows

    @classmethod
    def open(
        cls, folder: Path, *, segment_bytes: int, fsync: Fsync, fsync_ms: int, retention_bytes: int, created: int
    ) -> Journal:
        """Open a folder's journal to append, made if needed; cut a torn tail (`torn` says what was lost). `created`: ns UTC, now.

        Sealed segments are taken by their headers; what they hold is proved when it is read. Raises JournalCorruptError with
        file and byte offset for damage in what was not sealed, JournalError if the folder cannot be written to.
        """
        interval_s = fsync_ms / 1000 if fsync == "interval" else None
        disk = Disk(folder, segment_bytes, interval_s, newest=lambda: (journal._segment, journal.next_sequence - 1))
        journal = cls(folder, disk, is_forced=fsync == "always", retention_bytes=retention_bytes, created=created)
        with journal._guarded("opened"):
            stock = disk.take_stock()
            journal.torn, journal.next_sequence, journal.last_received = stock.torn, stock.next_sequence, stock.received
            if stock.segment is not None:
                journal._use(stock.segment, stock.records)
            else:
                segment = disk.fresh(0)
                journal._use(segment, journal._begin(segment, journal.next_sequence, None))
            if fsync != "never":
                force_folder(folder)
                disk.sync()
        disk.start()
        return journal

    # -- appending

    def append(self, admitted: Admitted, keys: Keys) -> None:
        """Write the inputs among the rows of a block, at most some thousand, with their gaps.

        Raises JournalError, and has written none of them then: no room for the next segment, a failure in the background, sequences
        that do not go on from `next_sequence`, more than 65,535 keys.
        """
        block = admitted.block
        needed = len(block.key) + len(admitted.gaps)
        if self._at + needed > self._limit or keys is not self._keys or self._disk.failure or self._failure:
            self._make_room(needed, keys)
        while True:
            segment, first = self._segment, self._at
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
        if self._is_forced:
            self._force(first, at, sequence - 1)
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
        if self._failure == CLOSED:
            raise JournalError(f"journal {self.folder}: {CLOSED}")
        if next_sequence < self.next_sequence:
            raise JournalError(
                f"journal {self.folder}: cannot resume at input {next_sequence}: expected at least {self.next_sequence}"
            )
        disk, old = self._disk, self._segment
        # A segment that holds no input yet gives way to one of the same name, and a break at its head goes into the new one.
        gives_way = next_sequence == old.header.first_sequence
        before = self._lost_before(old) if gives_way else None
        first_lost = self.next_sequence if before is None else before.first_lost
        lost = Break(reason, first_lost, next_sequence - 1)
        try:
            disk.finish_retired()
            fresh = disk.fresh(len(group(BREAK, self._encode(lost))))
            with disk.lock:
                try:
                    if not gives_way:
                        old.seal(self._at, self.next_sequence - 1, self.last_received)
                    records = self._begin(fresh, next_sequence, lost)
                    force_folder(self.folder)
                except OSError:
                    disk.discard(fresh)
                    raise
                with disk.switch:
                    if not gives_way:
                        disk.sealed.append(info_of(old, self._at, self.next_sequence - 1))
                    self._use(fresh, records)
                    self.next_sequence = next_sequence
                    disk.synced = next_sequence - 1
                    disk.failure = self._failure = ""
                old.close()
        except OSError as error:
            # The old segment may be sealed by now, and must not be written to.
            self._failure = f"cannot be resumed: {error.strerror}"
            raise JournalError(f"journal {self.folder}: {self._failure}") from error

    # -- the disk

    @property
    def synced(self) -> int:
        """Newest sequence that is known to be on the disk."""
        return self._disk.synced

    @property
    def failure(self) -> str:
        """What keeps inputs from being written: the next append raises it, `resume` forgets it. Empty if nothing does."""
        return self._failure or self._disk.failure

    @property
    def segments(self) -> int:
        """How many segments there are."""
        return self._disk.segments

    @property
    def sealed(self) -> int:
        """Last sequence of the newest sealed segment: it rises when there is something to export. 0 if there is none."""
        return self._disk.sealed[-1].last_sequence if self._disk.sealed else 0

    @property
    def size_bytes(self) -> int:
        """Bytes that the journal has on the disk, those that are only reserved included."""
        return self._disk.size_bytes(self._segment)

    def sync(self) -> None:
        """Force all that was written to the disk. Raises JournalError."""
        with self._guarded("forced to the disk"):
            self._disk.sync()

    def retain(self, needed: int, *, exported: int | None = None) -> list[Path]:
        """Delete the oldest sealed segments while the journal is larger than `retention_bytes`; return them.

        For any thread. None that holds an input after `needed`, the sequence of the oldest kept snapshot; and, if segments are
        exported, none that holds one after `exported`, the exporter's newest. Raises JournalError.
        """
        limit = needed if exported is None else min(needed, exported)
        deleted: list[Path] = []
        with self._guarded("shortened"):
            sealed = self._disk.sealed
            while self.size_bytes > self.retention_bytes and sealed and sealed[0].last_sequence <= limit:
                deleted.append(self._disk.drop_oldest())
        return deleted

    def close(self) -> None:
        """Force all to the disk, whatever the policy, and let go of the folder. Raises JournalError if it cannot be forced."""
        if self._failure == CLOSED:
            return
        self._disk.stop()
        try:
            self.sync()
        finally:
            self._failure = CLOSED
            self._limit = 0
            self._segment.close()

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
        """Write a group."""
        count = len(records)
        if self._at + count > self._limit or self._disk.failure or self._failure:
            self._make_room(count, self._keys)
        compiled().write_group(self._segment.words, self._at, self.next_sequence, records)
        if self._is_forced:
            self._force(self._at, self._at + count, self.next_sequence + inputs - 1)
        self._at += count
        self.next_sequence += inputs
        self.bytes_written += count * RECORD_BYTES

    def _force(self, first: int, at: int, sequence: int) -> None:
        """Force what was just written to the disk; if that fails, take it back."""
        try:
            self._disk.force_newest(self._segment, sequence)
        except OSError as error:
            self._segment.words[first:at] = 0
            self._failure = f"cannot be forced to the disk: {error.strerror}"
            raise JournalError(f"journal {self.folder}: {self._failure}") from error

    def _make_room(self, count: int, keys: Keys) -> None:
        """Take other keys, begin the next segment, ask for one after it: whatever is due before `count` records can be written."""
        if self.failure:
            raise JournalError(f"journal {self.folder}: {self.failure}")
        if keys is not self._keys:
            self._keys = keys
            self._declared[:] = 0
        if self._at + count > self._segment.capacity:
            self._rotate(count)
        elif self._at + count > self._limit:
            self._limit = self._segment.capacity
            self._disk.want_next()

    def _declare(self, admitted: Admitted, keys: Keys, needed: int) -> None:
        """Write what the numbers of the keys in a block mean, and leave room for `needed` records behind it."""
        is_input = (admitted.outcome >= TRADE) & (admitted.outcome <= LATE)
        used = np.unique(admitted.block.key[is_input]).tolist()
        if used[-1] >= KEYS_MAX:
            raise JournalError(f"journal {self.folder}: key number {used[-1]}: expected at most {KEYS_MAX} keys")
        groups = {code: group(KEY, self._encode(keys[code]), key=code) for code in used}
        total = sum(map(len, groups.values())) + needed
        if self._at + total > self._segment.capacity:
            self._rotate(total)
        for code, records in groups.items():
            if not self._declared[code]:
                self._put(records, inputs=0)
                self._declared[code] = 1

    def _rotate(self, count: int) -> None:
        """Go on in a new segment with room for `count` records. The old one is sealed in the background."""
        disk, old = self._disk, self._segment
        lost = self._lost_before(old)
        gives_way = self.next_sequence == old.header.first_sequence
        with self._guarded("given a new segment"):
            # At most two segments are open; if the thread has not come to the older one, this waits for it.
            disk.finish_retired()
            fresh = disk.fresh(count + (0 if lost is None else len(group(BREAK, self._encode(lost)))))
            try:
                records = self._begin(fresh, self.next_sequence, lost)
            except OSError:
                disk.discard(fresh)
                raise
            at = self._at
            with disk.switch:
                self._use(fresh, records)
                if not gives_way:
                    disk.retire(old, at, self.next_sequence - 1, self.last_received)
            if gives_way:
                with disk.lock:  # the thread may be forcing it to the disk
                    old.close()  # too small for its first input: the new one took its name

    def _lost_before(self, old: OpenSegment) -> Break | None:
        """The break at the head of a segment without inputs: whatever takes its place begins with it."""
        return old.lost if self.next_sequence == old.header.first_sequence else None

    def _begin(self, segment: OpenSegment, sequence: int, lost: Break | None) -> int:
        """Give a segment its header, its break and its name; return its records. Raises OSError."""
        records = None if lost is None else group(BREAK, self._encode(lost))
        segment.begin(Header(sequence, max(self._created, self.last_received), self.last_received), records)
        segment.lost = lost
        return 0 if records is None else len(records)

    def _use(self, segment: OpenSegment, records: int) -> None:
        self._segment = segment
        self._at = records
        self._limit = segment.capacity // 2
        self._declared[:] = 0

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Turn what the system says into a JournalError."""
        try:
            yield
        except OSError as error:
            raise JournalError(f"journal {self.folder}: cannot be {what}: {error.strerror}") from error
