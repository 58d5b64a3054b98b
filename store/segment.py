"""One segment of the journal: a file of records that is reserved as a whole, named by the first sequence that it can hold.

    00000000000000000001.seg
        4,096 bytes of header: magic, version, size of a record, first sequence, created, newest received, and once the segment is
        sealed the number of its records and its last sequence; a CRC-32 over all of it
        64 bytes a record, zeros where none was written yet

All of the file is reserved before its first record, so a full disk is an error of the reservation, never a bus error of a store
into the map. It is made under another name and gets its own once its header, and a break record if there is one, are in it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import JournalCorruptError, JournalError
from store.record_code import compiled
from store.records import RECORD_BYTES, WORDS, Break, Words

HEADER_BYTES = 4096
MAGIC = b"TICKFOLD"
VERSION = 1
_HEADER = struct.Struct("<8sIIqqqqq")
_NAME = re.compile(r"(\d{20})\.seg")
UNFINISHED_SUFFIX = ".tmp"
REREADS = 3
"""How often what looks damaged, in a segment that may be being written, is read again before that is believed."""
ZEROS = bytes(1 << 20)
force = getattr(os, "fdatasync", os.fsync)
"""Force a file's data to the disk; not every system has the cheaper of the two."""


@dataclass(frozen=True)
class Header:
    """What the first page of a segment says."""

    first_sequence: int
    created: int  # ns UTC
    received: int  # ns UTC, the newest before the segment; once it is sealed, up to its end
    records: int = -1  # -1 until it is sealed
    last_sequence: int = 0  # once it is sealed; first_sequence - 1 if it holds no input

    @property
    def is_sealed(self) -> bool:
        """Whether nothing will be appended any more."""
        return self.records >= 0

    def pack(self) -> bytes:
        """Return the page."""
        values = (self.first_sequence, self.created, self.received, self.records, self.last_sequence)
        fields = _HEADER.pack(MAGIC, VERSION, RECORD_BYTES, *values)
        return _checked(fields.ljust(HEADER_BYTES, b"\0"))


def _checked(page: bytes) -> bytes:
    """Return a page with its checksum, which stands behind the fields and covers all the rest."""
    end = _HEADER.size + 4
    checksum = zlib.crc32(page[end:], zlib.crc32(page[: _HEADER.size]))
    return page[: _HEADER.size] + checksum.to_bytes(4, "little") + page[end:]


def segment_name(first_sequence: int) -> str:
    """Return the name of the segment that begins with a sequence."""
    return f"{first_sequence:020d}.seg"


def list_segments(folder: Path) -> list[Path]:
    """Return the segments of a folder in their order; none if there is no folder."""
    try:
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(f"{folder}: cannot be listed: {error.strerror}") from error


def first_sequence(folder: Path) -> int:
    """Return the sequence of the oldest input that a journal can hold; 1 for an empty one."""
    segments = list_segments(folder)
    return int(segments[0].stem) if segments else 1


def unpack_header(path: Path, page: bytes) -> Header:
    """Return the header in a page. Raises JournalCorruptError."""
    if len(page) < HEADER_BYTES:
        raise JournalCorruptError(path, len(page), "the end of the file", f"a header of {HEADER_BYTES} bytes")
    magic, version, record_bytes, *values = _HEADER.unpack_from(page)
    if magic != MAGIC:
        raise JournalCorruptError(path, 0, repr(magic), f"the magic {MAGIC!r} of a journal's segment")
    if (version, record_bytes) != (VERSION, RECORD_BYTES):
        found = f"version {version} with records of {record_bytes} bytes"
        raise JournalCorruptError(path, len(MAGIC), found, f"version {VERSION} with records of {RECORD_BYTES} bytes")
    if page != (right := _checked(page)):
        at = _HEADER.size
        raise JournalCorruptError(path, at, f"checksum 0x{page[at : at + 4][::-1].hex()} of a header that gives 0x{right[at : at + 4][::-1].hex()}", "them to be the same")  # fmt: skip
    header = Header(*values)
    if path.name != segment_name(header.first_sequence):
        raise JournalCorruptError(
            path, 16, f"first sequence {header.first_sequence}", f"{int(path.stem)}, as the file is named"
        )
    return header


def header_of(path: Path) -> Header | None:
    """Read a segment's header; None for a page of zeros, which a power cut leaves. A page that is being written is read again.

    Raises JournalCorruptError, JournalError, and FileNotFoundError.
    """
    for tries in range(REREADS + 1):
        try:
            with path.open("rb", buffering=0) as file:
                page = file.read(HEADER_BYTES)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise JournalError(f"{path}: {error.strerror}; expected a segment of the journal") from error
        if not any(page):
            return None
        try:
            return unpack_header(path, page)
        except JournalCorruptError:
            if tries == REREADS:
                raise
    raise AssertionError("unreachable")


class OpenSegment:
    """The segment that is being written: reserved, mapped, with room for `capacity` records. Owns its file."""

    def __init__(self, path: Path, fd: int, header: Header) -> None:
        self.path = path
        self.fd = fd
        self.header = header
        self.bytes = os.fstat(fd).st_size
        self.capacity = (self.bytes - HEADER_BYTES) // RECORD_BYTES
        memory = mmap.mmap(fd, self.bytes)
        words = np.frombuffer(memory, np.uint64, self.capacity * WORDS, HEADER_BYTES)
        self.words: Words = words.reshape(-1, WORDS)
        self.floats: npt.NDArray[np.float64] = self.words.view(np.float64)
        self.lost: Break | None = None
        """The break that the segment begins with."""

    @classmethod
    def reserve(cls, path: Path, size: int) -> OpenSegment:
        """Make the file of a segment under a name of its own, all of it reserved. Raises OSError, and leaves nothing behind then."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            reserve(fd, size)
            return cls(path, fd, Header(0, 0, 0))
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    @classmethod
    def reopen(cls, path: Path, header: Header, records: int, size: int, *, cut: bool) -> OpenSegment:
        """Open a segment to append behind its `records`, at least `size` bytes long; `cut` what stands there. Raises OSError."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            found = os.fstat(fd).st_size
            if cut:
                os.ftruncate(fd, HEADER_BYTES + records * RECORD_BYTES)
            if cut or found < size or found % RECORD_BYTES:
                reserve(fd, max(-(-found // HEADER_BYTES) * HEADER_BYTES, size))
            if cut:
                force(fd)
            return cls(path, fd, header)
        except BaseException:
            os.close(fd)
            raise

    def begin(self, header: Header, group: Words | None = None) -> None:
        """Write the header, and the break that the segment begins with, then take the segment's own name. Raises OSError."""
        write_page(self.fd, header)
        if group is not None:
            compiled().write_group(self.words, 0, header.first_sequence, group)
            force(self.fd)
        path = self.path.with_name(segment_name(header.first_sequence))
        os.rename(self.path, path)
        self.path, self.header = path, header

    def seal(self, records: int, last_sequence: int, received: int) -> None:
        """Force the records to the disk, then a header that counts them, then give back what was not used. Raises OSError.

        The map must not be used any more. Killed in between, the segment is whole, sealed or not.
        """
        force(self.fd)
        self.header = replace(self.header, records=records, last_sequence=last_sequence, received=received)
        write_page(self.fd, self.header)
        force(self.fd)
        self.bytes = HEADER_BYTES + records * RECORD_BYTES
        os.ftruncate(self.fd, self.bytes)

    def close(self) -> None:
        """Let go of the file and the map."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.words, self.floats = np.empty((0, WORDS), np.uint64), np.empty((0, WORDS))


def write_page(fd: int, header: Header) -> None:
    """Write a segment's header. Raises OSError."""
    os.pwrite(fd, header.pack(), 0)


def reserve(fd: int, size: int) -> None:
    """Make a file `size` bytes long, each of them on the disk already. Raises OSError if there is no room."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    for at in range(os.fstat(fd).st_size, size, len(ZEROS)):  # a system without it: the zeros are written
        os.pwrite(fd, ZEROS[: size - at], at)


def force_folder(folder: Path) -> None:
    """Force the names in a folder to the disk. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
