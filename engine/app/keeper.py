"""Keeps what a restart must know: snapshots while the fold goes on, digests for `verify`, and no more of the past than configured.

A snapshot is taken key by key, a millisecond at a time; a thread writes and hashes what was taken. What it costs the loop is measured
and said. Digests are noted the same way, without the keys' arenas.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from engine.capture import Capture
from engine.clock import Clock
from engine.digest import ChainState
from engine.errors import EngineError, ServiceError
from engine.events import Configured, Key
from engine.fold import Fold
from engine.health import Digested, SnapshotHealth
from engine.state import FoldState, KeyState, chain_digests, state_digest
from store.folder import DataFolder, write_atomically
from store.journal import Journal
from store.snapshot import VERSION, FileHead, Found, SnapshotWriter, chains_of, prune, remove_unfinished, snapshots

HOLD_NS = 1_000_000
"""How long keys are copied at a stretch."""
LARGE = 1 << 19
"""Values in an arena, 4 MiB, from which on memory for its copy is made ready before: fresh pages cost ten times the copy itself."""
COPIES_WAITING = 16
"""Keys that were copied and are not written yet: beyond that, copying waits."""
INLINE_BYTES = 4 << 20
"""Open digest chunks that are hashed on the loop, which takes 2 to 4 ms; larger ones by the thread."""
SHARE = 100
"""A digest is made anew once this many times its cost has passed."""
MODELS_S = 60.0
"""How long the thread waits for worker processes to save their models: what was sent before is handled first."""
KEYED = ("inputs", "features", "predictions")


class End(Enum):
    """What comes behind the last key."""

    WHOLE = "all keys were copied"
    ABORTED = "some were not: nothing of it counts"


Copies: TypeAlias = "queue.SimpleQueue[KeyState | End]"


class Workers(Protocol):
    """Worker processes, as a keeper sees them."""

    def save(self, sequence: int) -> Future[None]: ...
    def prune(self, kept: Sequence[int]) -> None: ...


class AbortedError(EngineError):
    """A snapshot was begun and given up."""


@dataclass
class Taken:
    """What came of a capture: digests, and of a snapshot the file and those that are left."""

    sequence: int
    digests: dict[str, str]
    path: Path | None = None
    bytes_written: int = 0
    left: list[Found] = field(default_factory=list)


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
    """Takes snapshots and digests of one fold. Everything is called on the loop.

    may: whether what was folded is all in the journal; a snapshot of anything else would be of inputs that nobody can fold again.
    exported: the sequence up to which segments were exported, None if they are not. models: worker processes, whose models are saved
    with each snapshot: without them it would not be whole.
    """

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
        may: Callable[[], bool],
        exported: Callable[[], int | None],
        warn: Callable[[str], None],
        models: Workers | None = None,
        first: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._fold = fold
        self._folder = folder
        self._journal = journal
        self._clock = clock
        self._keep = keep
        self._configured = configured
        self._checkpoint_inputs = checkpoint_inputs
        self._may = may
        self._exported = exported
        self._warn = warn
        self._models = models
        self._first = first
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._busy = asyncio.Lock()
        self._capture: Capture | None = None
        self.wanted = asyncio.Event()
        """Set it to have a snapshot taken now."""
        remove_unfinished(folder.snapshots)
        found = snapshots(folder.snapshots)
        self._sequence = found[0].head.sequence if found else 0
        self._taken_at = found[0].head.created if found else 0
        self._bytes = found[0].path.stat().st_size if found else 0
        self._longest_hold_ns = 0
        self._detail = ""
        self._checkpoint = fold.ingress.next_sequence - 1
        self._digested = Digested(self._checkpoint, **_hashed(fold))
        self._digest_due_ns = 0

    def health(self) -> SnapshotHealth:
        """What is on disk."""
        return SnapshotHealth(self._sequence, self._taken_at, self._bytes, self._longest_hold_ns, self._detail)

    def close(self) -> None:
        """Give up what is under way, and wait for the thread to end."""
        self.abort()
        self._pool.shutdown()

    # -- digests

    def digest(self) -> Digested:
        """Return the newest chain digests that there are, made anew if they are cheap and enough time has passed."""
        sequence = self._fold.ingress.next_sequence - 1
        started = time.monotonic_ns()
        if sequence != self._digested.sequence and started >= self._digest_due_ns and self._is_cheap():
            self._digested = Digested(sequence, **_hashed(self._fold))
            ended = time.monotonic_ns()
            self._digest_due_ns = ended + SHARE * (ended - started)
        return self._digested

    def _is_cheap(self) -> bool:
        return self._fold.digest_bytes <= INLINE_BYTES

    async def note_digest(self) -> None:
        """Note the digests in the journal if so many inputs have passed, for `tickfold verify`. Raises JournalError."""
        sequence = self._fold.ingress.next_sequence - 1
        if sequence - self._checkpoint < self._checkpoint_inputs or self._busy.locked():
            return
        if self._is_cheap():
            self._note(Taken(sequence, _hashed(self._fold)))
            return
        async with self._busy:
            with contextlib.suppress(AbortedError):
                self._note(await self._captured(self._hash, with_lanes=False))

    def _note(self, taken: Taken) -> None:
        self._checkpoint = max(self._checkpoint, taken.sequence)
        self._journal.note_checkpoint(taken.sequence, taken.digests)
        if taken.sequence > self._digested.sequence:
            self._digested = Digested(taken.sequence, **{kind: taken.digests[kind] for kind in self._fold.digest_kinds})

    # -- snapshots

    async def run(self, every_s: float) -> None:
        """Take a snapshot every so often, and when one is wanted."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wanted.wait(), every_s)
            self.wanted.clear()
            await self.take()

    async def take(self) -> Taken | None:
        """Take a snapshot while the fold goes on; None if there is nothing new or it could not be written, which is said."""
        async with self._busy:
            if not self._may() or self._fold.ingress.next_sequence - 1 == self._sequence:
                return None
            try:
                if self._first is not None:
                    await self._first()
                taken = await self._captured(self._write, with_lanes=True)
                self._written(taken)
                self._note(taken)
                self._journal.retain(min(found.head.sequence for found in taken.left), exported=self._exported())
            # A plugin whose State cannot be kept, a disk: whatever keeps a snapshot from being taken ends nothing else.
            except (EngineError, OSError) as error:
                self._detail = str(error)
                self._warn(self._detail)
                return None
            return taken

    def take_at_once(self, *, with_models: bool = False) -> None:
        """Take a snapshot before anything else happens. Raises EngineError or OSError if it cannot be written.

        Without `with_models` worker processes are not waited for: a restart passes it over where they did not save in the end.
        """
        self.abort()
        copies: Copies = queue.SimpleQueue()
        capture = Capture(self._fold, copies.put)
        saved = self._save_models(capture.state)
        while capture.step():
            pass
        copies.put(End.WHOLE)
        saved = saved if with_models else None
        self._written(self._write(capture.state, self._clock.now(), copies, saved, sync=False))

    def abort(self) -> None:
        """Give up a capture that is under way: nothing of it is kept."""
        if self._capture is not None:
            self._capture.abort()

    def _save_models(self, state: FoldState) -> Future[None] | None:
        return None if self._models is None else self._models.save(state.sequence)

    async def _captured(
        self, work: Callable[[FoldState, int, Copies, Future[None] | None], Taken], *, with_lanes: bool
    ) -> Taken:
        """Copy the fold's state a bit at a time, and have a thread do `work` on it. Raises what `work` raises, or AbortedError."""
        loop = asyncio.get_running_loop()
        copies: Copies = queue.SimpleQueue()
        lanes = self._fold.features.all_lanes() if with_lanes else ()
        sizes = {lane.key: lane.arena_size for lane in lanes if lane.arena_size > LARGE}
        room = await loop.run_in_executor(self._pool, _touched, sizes) if sizes else {}
        if with_lanes and not self._may():
            raise AbortedError("a snapshot was given up: inputs are not journaled")
        started = time.perf_counter_ns()
        capture = self._capture = Capture(self._fold, copies.put, room, with_lanes=with_lanes)
        saved = self._save_models(capture.state) if with_lanes else None
        working = loop.run_in_executor(self._pool, work, capture.state, self._clock.now(), copies, saved)
        # Where this is cancelled nobody awaits it any more, and what it raised is known.
        working.add_done_callback(lambda done: done.cancelled() or done.exception())
        del room
        end = End.ABORTED
        try:
            while capture.step():
                if time.perf_counter_ns() - started >= HOLD_NS:
                    self._held(started)
                    await asyncio.sleep(0 if copies.qsize() < COPIES_WAITING else HOLD_NS / 1e9)
                    started = time.perf_counter_ns()
            self._held(started)
            end = End.ABORTED if capture.is_aborted else End.WHOLE
        finally:
            capture.abort()
            self._capture = None
            copies.put(end)
        return await working

    def _held(self, started: int) -> None:
        self._longest_hold_ns = max(self._longest_hold_ns, time.perf_counter_ns() - started)

    def _written(self, taken: Taken) -> None:
        self._sequence, self._taken_at, self._bytes = taken.sequence, self._clock.now(), taken.bytes_written
        self._detail = ""

    # -- what the thread does

    def _hash(self, state: FoldState, _created: int, copies: Copies, _saved: Future[None] | None) -> Taken:
        keyed: dict[str, list[ChainState]] = {kind: [] for kind in KEYED}
        for one in _until_end(copies):
            for kind in KEYED:
                keyed[kind] += one.chains[kind]
        return Taken(state.sequence, chain_digests(state, keyed))

    def _write(
        self, state: FoldState, created: int, copies: Copies, saved: Future[None] | None, sync: bool = True
    ) -> Taken:
        """Write keys as they come, then the rest; hash on the way. Its file is there under its name only if all of it is whole."""
        writer = None
        lanes: dict[Key, bytes] = {}
        try:
            writer = SnapshotWriter(
                self._folder.snapshots, FileHead(VERSION, state.sequence, created, self._configured)
            )
            for one in _until_end(copies):
                writer.add_key(one)
                if one.lane:
                    lanes[one.key] = self._fold.key_digest(one)
            if sync:
                # A snapshot that outlived the journal behind it in a power cut would be of inputs that nobody knows.
                self._journal.sync()
            _wait_for(saved)
            path = writer.finish(state)
        except BaseException:
            if writer is not None:
                writer.discard()
            raise
        keyed = {kind: list(chains_of(path, kind)) for kind in KEYED}
        digests = {**chain_digests(state, keyed), "state": state_digest(state, lanes)}
        left = prune(self._folder.snapshots, self._keep)
        if self._models is not None:
            self._models.prune([found.head.sequence for found in left])
        return Taken(state.sequence, digests, path, writer.bytes_written, left)


def _wait_for(saved: Future[None] | None) -> None:
    """Wait until worker processes have saved their models. Raises EngineError if they have not, or not in time."""
    if saved is None:
        return
    try:
        saved.result(MODELS_S)
    except TimeoutError as error:
        raise ServiceError(f"worker processes have not saved their models within {MODELS_S:.0f} s") from error


def _until_end(copies: Copies) -> Iterable[KeyState]:
    """Yield keys until the last. Raises AbortedError if they did not all come."""
    while not isinstance(one := copies.get(), End):
        yield one
    if one is End.ABORTED:
        raise AbortedError("a snapshot was given up half-way")


def _hashed(fold: Fold) -> dict[str, str]:
    return {kind: one.hexdigest() for kind, one in fold.digests.items()}


def _touched(sizes: dict[Key, int]) -> dict[Key, npt.NDArray[np.float64]]:
    """Return memory for arenas, every page of it touched, without holding the interpreter: reading into it lets others run."""
    room = {key: np.empty(size) for key, size in sizes.items()}
    with Path("/dev/zero").open("rb", buffering=0) as zeros:
        for array in room.values():
            zeros.readinto(array.data.cast("B"))
    return room
