"""Raw captures on disk: what came and went on the wire, a JSON object a line, gzip.

Line        n (from 1 in each file), kind (connect, recv, send), recv_ns, conn, url (not for recv), raw: the text as it was on the
            wire; null for connect. What is no UTF-8 has its exact bytes in `base64` besides
Blocks      lines are written a block at a time, each a gzip member of its own and whole lines: at least every second. So a file is
            valid up to its last whole block whatever happens to the process, and `zcat` reads it like any other
Names       NAME-20240808T235414Z.jsonl.gz by the time of its first line, with `.part` behind it until it is complete: synced, then
            renamed. With _002 and so on in the same second, so that the order of names is that of time. A new file begins when
            one is large enough, and with each hour of UTC
After kill  `recover` cuts what a dead recorder left behind to its last whole block, and gives it its name. A lock says who is dead
Disk full   the file is cut to its last whole block and completed; `tick` and `close` raise; what comes after that is counted as lost
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from engine.errors import StoreError

SUFFIX: Final = ".jsonl.gz"
PART: Final = ".part"
NS_PER_S: Final = 1_000_000_000
LEVEL: Final = 6
BLOCK_BYTES: Final = 131_072  # compressing them holds the loop for 2 ms
GZIP_MEMBER: Final = 31  # what zlib calls a gzip header and trailer
READ_BYTES: Final = 1 << 20


class _Received(msgspec.Struct, gc=False):
    n: int
    kind: str
    recv_ns: int
    conn: str
    raw: str


class _Said(msgspec.Struct, gc=False):
    n: int
    kind: str
    recv_ns: int
    conn: str
    url: str
    raw: str | None


class _Binary(msgspec.Struct, gc=False):
    n: int
    kind: str
    recv_ns: int
    conn: str
    raw: str
    base64: str


class Recorder:
    """Writes one capture after another. Call it with each message, `tick` it about every second, and `close` it."""

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str,
        rotate_bytes: int = 256 << 20,
        rotate_s: int = 3_600,
        flush_s: float = 1.0,
    ) -> None:
        """`name` begins the names of the files: that of the feed's decoder. `rotate_bytes` is compressed.

        Raises StoreError if the folder cannot be made.
        """
        self.folder = Path(folder)
        self.name = name
        self.messages = 0
        """Lines that were taken, of every kind."""
        self.received = 0
        """Those of them that came from the exchange."""
        self.lost = 0
        """Lines that came after the disk had failed, or were in memory then."""
        self.bytes_written = 0
        self.files: list[Path] = []
        """Complete ones, oldest first."""
        self.error: StoreError | None = None
        """Why it does not record any longer."""
        self._rotate_bytes = rotate_bytes
        self._rotate_ns = rotate_s * NS_PER_S
        self._flush_ns = round(flush_s * NS_PER_S)
        self._file: _File | None = None
        self._period = 0
        self._lines: list[bytes] = []
        self._pending_bytes = 0
        self._pending_since = 0
        self._urls: dict[str, str] = {}
        self._encode = msgspec.json.Encoder().encode
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot be made: {error.strerror}") from error

    def __call__(self, kind: str, time_ns: int, connection: str, text: str | bytes) -> None:
        """Take a message: `kind` is connect (`text` is the URL), recv or send; `time_ns` is UTC and never decreases. Never raises."""
        if self.error is not None:
            self.lost += 1
            return
        if self._file is not None and self._is_time_to_rotate(time_ns):
            self._complete()
        if self._file is None and not self._open(time_ns):
            self.lost += 1
            return
        assert self._file is not None
        self._file.lines += 1
        line = self._line(self._file.lines, kind, time_ns, connection, text)
        self.messages += 1
        self.received += kind == "recv"
        if not self._lines:
            self._pending_since = time_ns
        self._lines.append(line)
        self._pending_bytes += len(line) + 1
        if self._pending_bytes >= BLOCK_BYTES or time_ns - self._pending_since >= self._flush_ns:
            self._write()

    def tick(self, now_ns: int) -> None:
        """Write what has waited, and begin a new file if it is time. Raises StoreError if recording has failed."""
        if self._lines and now_ns - self._pending_since >= self._flush_ns:
            self._write()
        if self._file is not None and self._is_time_to_rotate(now_ns):
            self._complete()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Complete the file. Raises StoreError if recording has failed."""
        self._complete()
        if self.error is not None:
            raise self.error

    def _is_time_to_rotate(self, time_ns: int) -> bool:
        assert self._file is not None
        return time_ns // self._rotate_ns != self._period or self._file.bytes_written >= self._rotate_bytes

    def _line(self, number: int, kind: str, time_ns: int, connection: str, text: str | bytes) -> bytes:
        if kind == "connect":
            url = text if isinstance(text, str) else text.decode()
            self._urls[connection] = url
            return self._encode(_Said(number, kind, time_ns, connection, url, None))
        try:
            raw = text if isinstance(text, str) else text.decode()
            if kind == "recv":
                return self._encode(_Received(number, kind, time_ns, connection, raw))
            return self._encode(_Said(number, kind, time_ns, connection, self._urls.get(connection, ""), raw))
        except UnicodeError:
            exact = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
            shown = exact.decode("utf-8", "replace")
            return self._encode(_Binary(number, kind, time_ns, connection, shown, b64encode(exact).decode()))

    def _open(self, time_ns: int) -> bool:
        try:
            self._file = _File(self.folder, self.name, time_ns)
        except OSError as error:
            self._fail(error)
            return False
        self._period = time_ns // self._rotate_ns
        return True

    def _write(self) -> None:
        """Write what is in memory as one block."""
        if self._file is None or not self._lines:
            return
        block = b"\n".join(self._lines) + b"\n"
        count = len(self._lines)
        self._lines.clear()
        self._pending_bytes = 0
        try:
            self.bytes_written += self._file.append(_member(block))
        except OSError as error:
            self.lost += count
            self._fail(error)

    def _complete(self) -> None:
        self._write()
        file, self._file = self._file, None
        if file is not None:
            try:
                self.files.extend(file.complete())
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        """Keep what is whole, and record no longer."""
        if self.error is not None:
            return
        self.error = StoreError(f"{self.folder}: cannot record: {error.strerror or error}")
        self.error.__cause__ = error
        self._complete()


class _File:
    """A capture that is being written, locked as long as its process lives."""

    def __init__(self, folder: Path, name: str, time_ns: int) -> None:
        self.lines = 0
        self.bytes_written = 0
        stamp = datetime.fromtimestamp(time_ns // NS_PER_S, UTC).strftime("%Y%m%dT%H%M%SZ")
        number = 1
        while True:
            stem = f"{name}-{stamp}" if number == 1 else f"{name}-{stamp}_{number:03d}"
            self.path = folder / (stem + SUFFIX)
            self._part = folder / (stem + SUFFIX + PART)
            number += 1
            if self.path.exists():
                continue
            try:
                self._file = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                continue
            if _lock(self._file, self._part):
                return
            os.close(self._file)  # somebody who looked for remains took it for one

    def append(self, block: bytes) -> int:
        """Write a block, whole or not at all; return its length. Raises OSError."""
        rest = memoryview(block)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.bytes_written)
                os.lseek(self._file, self.bytes_written, os.SEEK_SET)
            raise
        self.bytes_written += len(block)
        return len(block)

    def complete(self) -> list[Path]:
        """Give it its name, unless nothing is in it. Raises OSError."""
        try:
            if not self.bytes_written:
                self._part.unlink()
                return []
            _complete(self._file, self._part, self.path)
            return [self.path]
        finally:
            os.close(self._file)


class Recovered(msgspec.Struct, frozen=True):
    """What was found of a recorder that had died."""

    path: str  # its name now; empty if nothing of it could be read
    lines: int
    bytes_cut: int  # of a block that was not whole


def recover(folder: str | Path, name: str) -> list[Recovered]:
    """Complete what recorders of this name left behind when they died; those of running ones are left alone.

    Raises StoreError if a file cannot be read or renamed.
    """
    folder = Path(folder)
    found = []
    try:
        parts = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX + PART))
        for part in parts:
            if part.name.startswith(f"{name}-") and (one := _recover(part)) is not None:
                found.append(one)
    except FileNotFoundError:
        return []  # the folder
    except OSError as error:
        raise StoreError(f"{folder}: cannot recover what is there: {error.strerror or error}") from error
    return found


def _recover(part: Path) -> Recovered | None:
    """Complete one file; None if somebody is still writing it, or has just completed it."""
    try:
        file = os.open(part, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if not _lock(file, part):
            return None
        lines, whole, size = _whole_members(file)
        if not whole:
            part.unlink()
            return Recovered("", 0, size)
        os.ftruncate(file, whole)
        path = part.with_name(part.name.removesuffix(PART))
        _complete(file, part, path)
        return Recovered(str(path), lines, size - whole)
    finally:
        os.close(file)


def _whole_members(file: int) -> tuple[int, int, int]:
    """Return the lines in the whole gzip members that a file begins with, where they end, and where the file does."""
    size = os.fstat(file).st_size
    lines = lines_of_member = whole = at = 0
    member = zlib.decompressobj(GZIP_MEMBER)
    rest = b""
    while True:
        if not rest:
            rest = os.pread(file, READ_BYTES, at)
            at += len(rest)
            if not rest:
                return lines, whole, size
        try:
            lines_of_member += member.decompress(rest, READ_BYTES).count(b"\n")
        except zlib.error:
            return lines, whole, size
        if member.eof:
            rest = member.unused_data
            whole = at - len(rest)
            lines += lines_of_member
            lines_of_member = 0
            member = zlib.decompressobj(GZIP_MEMBER)
        else:
            rest = member.unconsumed_tail


def _complete(file: int, part: Path, path: Path) -> None:
    """Sync a file and its new name."""
    os.fsync(file)
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock(file: int, path: Path) -> bool:
    """Take a file for this process, until it is closed; False if another has it, or it is no longer there."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(file).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _member(block: bytes) -> bytes:
    """Return a block as a gzip member, the same for the same bytes."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_MEMBER)
    return packer.compress(block) + packer.flush()
