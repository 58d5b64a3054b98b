"""Models of worker processes on disk: one file an arm, in a folder that nobody else may touch, for what is in it may be a pickle.

File      magic (8 bytes), size of the head (u32), CRC-32 of head and arrays (u32), the head as MessagePack, the arrays' bytes
Head      arm, definition of the fold, sequence, outcomes learned from, versions of River and Python, the arrays' names and shapes

A file is written beside its name and renamed. It is read only if it and its folder are this user's and closed to others, and if the
versions are this process's: a pickle of another version would not load, or worse, would.
"""

from __future__ import annotations

import os
import platform
import stat
import struct
import urllib.parse
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.models.worker_messages import ArmName

MAGIC = b"TFMODEL\n"
PREFIX = struct.Struct("<II")
SUFFIX = ".model"
PART = ".part"
CHECKPOINT = f"checkpoint{SUFFIX}"
"""How files end that only serve a worker that died: each save goes over the one before."""


class ArrayHead(msgspec.Struct, frozen=True):
    """One array of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class FileHead(msgspec.Struct, frozen=True):
    """What tells whether a file is of the arm that is to become it."""

    arm: ArmName
    definition: str
    sequence: int
    learned: int
    versions: str
    arrays: tuple[ArrayHead, ...]


@cache
def versions() -> str:
    """Return what a pickle depends on: the versions of River and of Python."""
    try:
        river = version("river")
    except PackageNotFoundError:
        river = "none"
    return f"river {river}, python {platform.python_version()}"


def own_folder(path: Path) -> Path:
    """Return a folder that is this user's and closed to others, made if it is not there. Raises ModelError if it is not so."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(path, path.lstat(), stat.S_ISDIR)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    return path


def _check_owner(path: Path, found: os.stat_result, is_kind: Any) -> None:
    if not is_kind(found.st_mode):
        raise ModelError(f"{path}: expected a plain {'folder' if is_kind is stat.S_ISDIR else 'file'}")
    if found.st_uid != os.getuid():
        raise ModelError(f"{path}: owned by user {found.st_uid}, expected {os.getuid()}: what is in it would run")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise ModelError(f"{path}: mode {mode:04o} lets others in, expected 0700 of the folder and 0600 of a file")


def suffix_of(sequence: int) -> str:
    """Return how the files end that belong to the snapshot at a sequence."""
    return f"{sequence:020d}{SUFFIX}"


def path_of(folder: Path, arm: ArmName, suffix: str) -> Path:
    """Return where an arm lies."""
    return folder / "-".join([*(urllib.parse.quote(part, safe="") for part in arm), suffix])


def write_model(path: Path, head: FileHead, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Put an arm's arrays under a name, all at once. Raises ModelError if the disk will not have it."""
    plain = [np.ascontiguousarray(array) for array in arrays.values()]
    heads = tuple(
        ArrayHead(name, array.dtype.newbyteorder("<").str, array.shape)
        for name, array in zip(arrays, plain, strict=True)
    )
    text = msgspec.msgpack.encode(msgspec.structs.replace(head, arrays=heads))
    parts = [array.tobytes() for array in plain]
    check = zlib.crc32(text)
    for one in parts:
        check = zlib.crc32(one, check)
    part = path.with_name(path.name + PART)
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(MAGIC + PREFIX.pack(len(text), check) + text)
            for one in parts:
                file.write(one)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ModelError(f"{path}: {error.strerror}") from error


def read_model(path: Path, arm: ArmName) -> tuple[FileHead, dict[str, npt.NDArray[Any]]]:
    """Return what a file holds. Raises ModelError unless it is this user's, whole, of that arm and of these versions."""
    _check_owner(path.parent, _status(path.parent), stat.S_ISDIR)
    _check_owner(path, _status(path), stat.S_ISREG)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    begin = len(MAGIC) + PREFIX.size
    if len(data) < begin or not data.startswith(MAGIC):
        raise ModelError(f"{path}: expected a model's file, which begins with {MAGIC!r}")
    size, check = PREFIX.unpack(data[len(MAGIC) : begin])
    if zlib.crc32(memoryview(data)[begin:]) != check:
        raise ModelError(f"{path}: not what was written: its CRC-32 differs")
    head = msgspec.msgpack.decode(data[begin : begin + size], type=FileHead)
    if head.arm != arm:
        raise ModelError(f"{path}: of {' '.join(head.arm)}, expected {' '.join(arm)}")
    if head.versions != versions():
        raise ModelError(f"{path}: written by {head.versions}, expected {versions()}")
    arrays = {}
    at = begin + size
    for one in head.arrays:
        kind = np.dtype(one.dtype)
        count = int(np.prod(one.shape))
        arrays[one.name] = np.frombuffer(data, kind, count, at).reshape(one.shape)
        at += kind.itemsize * count
    return head, arrays


def _status(path: Path) -> os.stat_result:
    try:
        return path.lstat()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error


def remove_unfinished(folder: Path) -> None:
    """Delete what was begun by a process that is gone. Raises OSError."""
    for path in sorted(folder.glob(f"*{SUFFIX}{PART}")):
        path.unlink(missing_ok=True)


def prune_models(folder: Path, kept: Iterable[int]) -> None:
    """Delete the files of snapshots that are gone: all but those of `kept`, and of what is newer. Raises OSError."""
    names = {suffix_of(sequence) for sequence in kept}
    newest = max(names, default="")
    for path in sorted(folder.glob(f"*-{'[0-9]' * 20}{SUFFIX}*")):
        suffix = path.name.rpartition("-")[2].removesuffix(PART)
        if suffix not in names and suffix < newest:
            path.unlink(missing_ok=True)
