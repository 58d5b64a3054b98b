"""Snapshots on disk: what a restart must know of a fold, at one sequence. Typed, versioned, checksummed, atomic; nothing in it runs.

File      magic (8 bytes), then sections, then the magic again: a file without it was cut
Section   size of the head (u32), CRC-32 of head and arrays (u32), size of the arrays (u64); the head as MessagePack; the arrays' bytes
          one after the other, each C-contiguous and little-endian
Order     first the file's own section, then one of each key in the order in which they were taken, last the fold's own

A file is written beside its final name, synced and renamed. The newest `keep` stay; one that cannot be read is passed over with its
reason, and the next older one is taken.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.digest import ChainState
from engine.errors import JournalCorruptError, JournalError
from engine.events import Configured, Key
from engine.state import ActorState, FoldState, KeyState

MAGIC = b"TFSNAP\r\n"
VERSION = 2
SUFFIX = ".snap"
COMMON = "models "  # how names of arrays begin that are the models'
SECTION = struct.Struct("<IIQ")
SECTION_MAX = 1 << 30  # of a head: what is larger was never written by us


class ArrayHead(msgspec.Struct, frozen=True):
    """One array of a section."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Chained(msgspec.Struct, frozen=True):
    """A chain of a digest; its open chunk is the array `chunk`."""

    kind: str
    name: tuple[str, ...]
    digest: bytes
    chunk: int  # bytes


class FileHead(msgspec.Struct, frozen=True):
    """What tells whether a snapshot fits the fold that is to be restored, before any of it is read."""

    version: int
    sequence: int
    created: int  # ns UTC
    configured: Configured
    """By which it was folded: kept here too, for the journal's beginning may be gone."""

    @property
    def definition(self) -> str:
        """Hash of what was computed."""
        return self.configured.definition


class KeyHead(msgspec.Struct, frozen=True, tag=True):
    """The head of a key's section; arrays: the lane's and the models' by name, then the open chunks."""

    key: Key
    lane: tuple[ArrayHead, ...]
    models: tuple[ArrayHead, ...]
    chains: tuple[Chained, ...]


class FoldHead(msgspec.Struct, frozen=True, tag=True):
    """The head of the fold's section; arrays: ingress, counts, the models' common ones, then the open chunks."""

    sequence: int
    timestamp: int
    received: int
    keys: tuple[Key, ...]
    gaps: int
    signals: int
    round: int
    is_history: bool
    symbols: dict[str, bool]
    actors: tuple[ActorState, ...]
    arrays: tuple[ArrayHead, ...]
    chains: tuple[Chained, ...]


@dataclass(frozen=True)
class Found:
    """A snapshot on disk whose own section can be read."""

    path: Path
    head: FileHead


class SnapshotWriter:
    """Writes one snapshot. Sections go to the disk as they come; under its name it is there only once `finish` returned."""

    def __init__(self, folder: Path, head: FileHead) -> None:
        """Begin. Raises JournalError if the disk will not have it."""
        self.path = folder / f"{head.sequence:020d}{SUFFIX}"
        self._part = self.path.with_suffix(".part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("wb")
        except OSError as error:
            raise JournalError(f"snapshot {self.path}: {error.strerror}") from error
        self.bytes_written = 0
        self._write(MAGIC)
        self.add(head, [])

    def add_key(self, state: KeyState) -> None:
        """Append a key. Raises JournalError if the disk is full."""
        chains, chunks = _chained(state.chains)
        lane, models = _contiguous(state.lane), _contiguous(state.models)
        arrays = [*lane.values(), *models.values()]
        self.add(KeyHead(state.key, _heads(lane), _heads(models), chains), [*map(_bytes, arrays), *chunks])

    def finish(self, state: FoldState) -> Path:
        """Append the fold's own part, and put the file under its name."""
        chains, chunks = _chained(state.chains)
        named = {
            "ingress": state.ingress,
            "counts": state.counts,
            **{f"{COMMON}{n}": a for n, a in state.models.items()},
        }
        arrays = _contiguous(named)
        head = FoldHead(
            state.sequence, state.timestamp, state.received, state.keys, state.gaps, state.signals, state.round,
            state.is_history, state.symbols, state.actors, _heads(arrays), chains,
        )  # fmt: skip
        self.add(head, [*map(_bytes, arrays.values()), *chunks])
        try:
            self._write(MAGIC)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.rename(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            self.discard()
            raise JournalError(f"snapshot {self.path}: {error.strerror}") from error
        return self.path

    def discard(self) -> None:
        """Give up: nothing is left of it."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(
            OSError
        ):  # a file system that has become read-only keeps it; the next start removes it
            self._part.unlink(missing_ok=True)

    def add(self, head: msgspec.Struct, parts: list[Any]) -> None:
        """Append a section of a head and bytes-like parts."""
        text = msgspec.msgpack.encode(head)
        check = zlib.crc32(text)
        for part in parts:
            check = zlib.crc32(part, check)
        self._write(SECTION.pack(len(text), check, sum(len(part) for part in parts)), text, *parts)

    def _write(self, *parts: Any) -> None:
        try:
            for part in parts:
                self._file.write(part)
                self.bytes_written += len(part)
        except OSError as error:
            self.discard()
            raise JournalError(f"snapshot {self.path}: {error.strerror}") from error


def snapshots(folder: Path, passed_over: Callable[[str], None] | None = None) -> list[Found]:
    """Return the snapshots of a folder, newest first. `passed_over` hears of each that cannot be read, and why."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}"), reverse=True):
        try:
            with path.open("rb") as file:
                found.append(Found(path, _Sections(path, file).file_head()))
        except (OSError, JournalError) as error:
            if passed_over is not None:
                passed_over(str(error))
    return found


def read_snapshot(found: Found) -> tuple[FoldState, list[KeyState]]:
    """Return what a snapshot holds. Raises JournalCorruptError, with the byte offset, unless all of it is what was written."""
    keys: list[KeyState] = []
    with found.path.open("rb") as file:
        sections = _Sections(found.path, file)
        sections.file_head()
        while True:
            head, arrays = sections.next(KeyHead | FoldHead)
            if isinstance(head, FoldHead):
                sections.end()
                _check_keys(found.path, head, keys)
                return _fold_state(head, arrays), keys
            keys.append(_key_state(head, arrays))


def _check_keys(path: Path, head: FoldHead, keys: list[KeyState]) -> None:
    """Refuse a snapshot that has not each of the fold's keys once."""
    have, want = sorted(one.key for one in keys), sorted(head.keys)
    if have != want:
        raise JournalCorruptError(path, 0, f"{len(have)} keys", f"each of the fold's {len(want)} once")


def chains_of(path: Path, kind: str) -> Iterator[ChainState]:
    """Yield the chains of one kind of all keys of a snapshot."""
    with path.open("rb") as file:
        sections = _Sections(path, file)
        sections.file_head()
        while True:
            head, arrays = sections.next(KeyHead | FoldHead)
            if isinstance(head, FoldHead):
                return
            yield from _key_state(head, arrays).chains[kind]


def prune(folder: Path, keep: int) -> list[Found]:
    """Delete all but the newest `keep` snapshots; return those that are left, newest first. Raises OSError if one cannot be deleted."""
    found = snapshots(folder)
    for old in found[keep:]:
        old.path.unlink(missing_ok=True)
    return found[:keep]


def remove_unfinished(folder: Path) -> None:
    """Delete what was begun by a process that is gone. Does nothing where that is not allowed."""
    for part in sorted(folder.glob("*.part")):
        with contextlib.suppress(OSError):
            part.unlink()


class _Sections:
    """Reads a file section by section, and refuses what is not what was written."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        self._offset = 0
        self._expect(MAGIC, "the beginning of a snapshot")

    def file_head(self) -> FileHead:
        head: FileHead = self.next(FileHead)[0]
        if head.version != VERSION:
            raise JournalError(f"{self._path}: version {head.version} of snapshots: expected {VERSION}")
        return head

    def next(self, kind: Any) -> tuple[Any, memoryview]:
        """Return the head and the bytes of the arrays of the next section."""
        begin = self._offset
        size, check, arrays_size = SECTION.unpack(self._read(SECTION.size))
        left = os.fstat(self._file.fileno()).st_size - self._offset
        if size > SECTION_MAX or size + arrays_size > left:
            raise JournalCorruptError(self._path, begin, f"a section of {size + arrays_size} bytes", f"at most {left}")
        body = memoryview(self._read(size + arrays_size))
        if zlib.crc32(body) != check:
            raise JournalCorruptError(self._path, begin, "a section that is not what was written", "its CRC-32")
        try:
            return msgspec.msgpack.decode(body[:size], type=kind), body[size:]
        except msgspec.MsgspecError as error:
            raise JournalCorruptError(
                self._path, begin, f"a section whose head does not fit: {error}", "a snapshot's"
            ) from error

    def end(self) -> None:
        """Expect the end of the file."""
        self._expect(MAGIC, "the end of a snapshot")
        if self._file.read(1):
            raise JournalCorruptError(self._path, self._offset, "more bytes", "the end of a snapshot")

    def _expect(self, wanted: bytes, what: str) -> None:
        begin = self._offset
        if self._read(len(wanted)) != wanted:
            raise JournalCorruptError(self._path, begin, "other bytes", what)

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise JournalCorruptError(self._path, self._offset, f"{len(data)} bytes", f"{size}: the file was cut")
        self._offset += size
        return data


def _chained(chains: dict[str, list[ChainState]]) -> tuple[tuple[Chained, ...], list[bytes]]:
    heads = tuple(
        Chained(kind, name, digest, len(chunk)) for kind, states in chains.items() for name, digest, chunk in states
    )
    return heads, [chunk for states in chains.values() for _, _, chunk in states]


def _bytes(array: npt.NDArray[Any]) -> memoryview | bytes:
    """The bytes of a contiguous array, without a copy; of an empty one, which has no memory to view, none."""
    return array.data.cast("B") if array.size else b""


def _contiguous(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _heads(arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[ArrayHead, ...]:
    return tuple(ArrayHead(name, array.dtype.newbyteorder("<").str, array.shape) for name, array in arrays.items())


def _arrays(heads: tuple[ArrayHead, ...], data: memoryview) -> tuple[dict[str, npt.NDArray[Any]], memoryview]:
    """Cut the arrays off the bytes; return them and the rest."""
    result = {}
    for head in heads:
        kind = np.dtype(head.dtype)
        size = kind.itemsize * int(np.prod(head.shape))
        result[head.name] = np.frombuffer(data[:size], kind).reshape(head.shape)
        data = data[size:]
    return result, data


def _chains(heads: tuple[Chained, ...], data: memoryview) -> dict[str, list[ChainState]]:
    result: dict[str, list[ChainState]] = {"inputs": [], "features": [], "predictions": [], "signals": []}
    for head in heads:
        result[head.kind].append((head.name, head.digest, bytes(data[: head.chunk])))
        data = data[head.chunk :]
    return result


def _key_state(head: KeyHead, data: memoryview) -> KeyState:
    lane, rest = _arrays(head.lane, data)
    models, rest = _arrays(head.models, rest)
    return KeyState(head.key, lane, _chains(head.chains, rest), models)


def _fold_state(head: FoldHead, data: memoryview) -> FoldState:
    arrays, rest = _arrays(head.arrays, data)
    chains = {kind: found for kind, found in _chains(head.chains, rest).items() if kind == "signals"}
    return FoldState(
        head.sequence, head.timestamp, head.received, head.keys, arrays["ingress"], arrays["counts"], head.gaps, head.signals,
        head.round, head.is_history, head.symbols, head.actors, chains,
        {name.removeprefix(COMMON): array for name, array in arrays.items() if name.startswith(COMMON)},
    )  # fmt: skip


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
