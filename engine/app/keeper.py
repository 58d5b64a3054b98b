"""Keeps what a restart must know: snapshots while the fold goes on, digests for `verify`, and no more of the past than configured.

A snapshot is taken key by key, a millisecond at a time; a thread writes what was taken. What it costs the loop is measured and said.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.clock import Clock
from engine.digest import ChainState
from engine.errors import JournalError, ServiceError
from engine.events import Configured, Key
from engine.fold import Fold
from engine.health import Digested, SnapshotHealth
from engine.state import Capture, FoldState, KeyState, chain_digests, state_digest
from store.folder import DataFolder, write_atomically
from store.journal import Journal
from store.snapshot import VERSION, FileHead, SnapshotWriter, chains_of, prune, snapshots

HOLD_NS = 1_000_000
"""How long keys are copied at a stretch."""
LARGE = 1 << 19
"""Values in an arena, 4 MiB, from which on memory for its copy is made ready before: fresh pages cost ten times the copy itself."""
COPIES_WAITING = 16
"""Keys that were copied and are not written yet: beyond that, copying waits."""
INLINE_BYTES = 8 << 20
"""Open digest chunks that are hashed on the loop; larger ones only by the thread that writes a snapshot."""
SHARE = 100
"""A digest is made anew once this many times its cost has passed."""


@dataclass
class Taken:
    """A snapshot that was written."""

    path: Path
    sequence: int
    bytes_written: int
    digests: dict[str, str]
    lanes: dict[Key, bytes] = field(default_factory=dict)


def _touched(sizes: dict[Key, int]) -> dict[Key, npt.NDArray[np.float64]]:
    """Return memory for arenas, every page of it touched, without holding the interpreter: reading into it lets others run."""
    room = {key: np.empty(size) for key, size in sizes.items()}
    with Path("/dev/zero").open("rb", buffering=0) as zeros:
        for array in room.values():
            zeros.readinto(array.data.cast("B"))
    return room


def write_digest(folder: DataFolder, fold: Fold) -> dict[str, Any]:
    """Write what `tickfold replay DIR --digest --json` prints of the same inputs into the folder; return it.

    Raises ServiceError if the disk will not have it.
    """
    result = {"inputs": fold.folded, "sequence": fold.ingress.next_sequence - 1, "digest": fold.digest()}
    try:
        write_atomically(folder.digest, msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    except OSError as error:
        raise ServiceError(f"{folder.digest}: {error.strerror}") from error
    return result


class Keeper:
    """Takes snapshots and digests of one fold."""

    def __init__(
        self,
        fold: Fold,
        folder: DataFolder,
        journal: Journal,
        *,
        clock: Clock,
        keep: int,
        configured: Configured,
        checkpoint_inputs: int,
        exported: Callable[[], int | None],
        warn: Callable[[str], None],
    ) -> None:
        self._fold = fold
        self._folder = folder
        self._journal = journal
        self._clock = clock
        self._keep = keep
        self._configured = configured
        self._checkpoint_inputs = checkpoint_inputs
        self._exported = exported
        self._warn = warn
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._busy = asyncio.Lock()
        self.wanted = asyncio.Event()
        """Set it to have a snapshot taken now."""
        found = snapshots(folder.snapshots)
        self._sequence = found[0].head.sequence if found else 0
        self._taken_at = found[0].head.created if found else 0
        self._bytes = found[0].path.stat().st_size if found else 0
        self._longest_hold_ns = 0
        self._detail = ""
        self._checkpoint = fold.ingress.next_sequence - 1
        self._digested = Digested(0, *([fold.digests["inputs"].hexdigest()] * 4))
        self._digest_due_ns = 0

    def health(self) -> SnapshotHealth:
        """What is on disk."""
        return SnapshotHealth(self._sequence, self._taken_at, self._bytes, self._longest_hold_ns, self._detail)

    # -- digests

    def digest(self) -> Digested:
        """Return the newest chain digests that there are, made anew if they are cheap and enough time has passed."""
        sequence = self._fold.ingress.next_sequence - 1
        started = time.monotonic_ns()
        if sequence != self._digested.sequence and started >= self._digest_due_ns and self._is_cheap():
            self._digested = Digested(sequence, **{kind: one.hexdigest() for kind, one in self._fold.digests.items()})
            ended = time.monotonic_ns()
            self._digest_due_ns = ended + SHARE * (ended - started)
        return self._digested

    def _is_cheap(self) -> bool:
        return sum(one.open_bytes for one in self._fold.digests.values()) <= INLINE_BYTES

    def note_digest(self) -> None:
        """Note the digests in the journal if so many inputs have passed, for `tickfold verify`."""
        sequence = self._fold.ingress.next_sequence - 1
        if sequence - self._checkpoint < self._checkpoint_inputs or not self._is_cheap():
            return
        self._checkpoint = sequence
        self._journal.note_checkpoint(sequence, {kind: one.hexdigest() for kind, one in self._fold.digests.items()})

    # -- snapshots

    async def run(self, every_s: float, may: Callable[[], bool]) -> None:
        """Take a snapshot every so often, and when one is wanted; only while `may` says so."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wanted.wait(), every_s)
            self.wanted.clear()
            if may():
                await self.take()

    async def take(self) -> Taken | None:
        """Take a snapshot while the fold goes on; None if there is nothing new or it could not be written, which is said."""
        async with self._busy:
            if self._fold.ingress.next_sequence - 1 == self._sequence:
                return None
            copies: queue.SimpleQueue[KeyState | None] = queue.SimpleQueue()
            loop = asyncio.get_running_loop()
            sizes = {lane.key: lane.arena_size for lane in self._fold.features.all_lanes() if lane.arena_size > LARGE}
            room = await loop.run_in_executor(self._pool, _touched, sizes) if sizes else {}
            started = time.perf_counter_ns()
            capture = Capture(self._fold, copies.put, room)
            created = self._clock.now()
            writing = loop.run_in_executor(self._pool, self._write, capture.state, created, copies)
            del room
            try:
                while capture.step():
                    if time.perf_counter_ns() - started >= HOLD_NS:
                        self._held(started)
                        await asyncio.sleep(0 if copies.qsize() < COPIES_WAITING else HOLD_NS / 1e9)
                        started = time.perf_counter_ns()
                self._held(started)
            finally:
                self._fold.before_change = None
                copies.put(None)
            try:
                return self._done(await writing, created)
            except JournalError as error:
                self._failed(error)
                return None

    def take_at_once(self) -> Taken:
        """Take a snapshot before anything else happens. Raises JournalError if it cannot be written."""
        copies: queue.SimpleQueue[KeyState | None] = queue.SimpleQueue()
        capture = Capture(self._fold, copies.put)
        while capture.step():
            pass
        copies.put(None)
        created = self._clock.now()
        return self._done(self._write(capture.state, created, copies), created)

    def close(self) -> None:
        """Wait for the thread to end."""
        self._pool.shutdown()

    def _held(self, started: int) -> None:
        self._longest_hold_ns = max(self._longest_hold_ns, time.perf_counter_ns() - started)

    def _write(self, state: FoldState, created: int, copies: queue.SimpleQueue[KeyState | None]) -> Taken:
        """Write keys as they come, then the rest; hash on the way. Runs in the thread."""
        writer = None
        lanes: dict[Key, bytes] = {}
        try:
            writer = SnapshotWriter(
                self._folder.snapshots, FileHead(VERSION, state.sequence, created, self._configured)
            )
            while (one := copies.get()) is not None:
                writer.add_key(one)
                if one.lane:
                    lanes[one.key] = self._fold.lane_digest(one.lane)
            path = writer.finish(state)
        except JournalError:
            while copies.get() is not None:
                pass
            raise
        except BaseException:
            if writer is not None:
                writer.discard()
            raise
        keyed: dict[str, list[ChainState]] = {kind: list(chains_of(path, kind)) for kind in ("inputs", "features")}
        digests = {**chain_digests(state, keyed), "state": state_digest(state, lanes)}
        return Taken(path, state.sequence, writer.bytes_written, digests)

    def _done(self, taken: Taken, created: int) -> Taken:
        self._sequence, self._taken_at, self._bytes, self._detail = taken.sequence, created, taken.bytes_written, ""
        left = prune(self._folder.snapshots, self._keep)
        try:
            self._journal.note_checkpoint(taken.sequence, taken.digests)
            self._journal.retain(min(found.head.sequence for found in left), exported=self._exported())
        except JournalError as error:
            self._failed(error)
        chains: dict[str, Any] = {kind: taken.digests[kind] for kind in self._fold.digests}
        if taken.sequence > self._digested.sequence:
            self._digested = Digested(taken.sequence, **chains)
        return taken

    def _failed(self, error: JournalError) -> None:
        self._detail = str(error)
        self._warn(str(error))
