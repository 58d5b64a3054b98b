"""Where log lines go: a bounded queue and a thread for each place, so that no slow disk or terminal holds who logs.

A full queue lets go of new lines and counts them; once it is empty again a line says how many. A place that cannot be written (a
full disk, a folder without permission) is complained of once; its lines are counted, and are told of when it works again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol, TextIO

QUEUE_LINES = 4_096
BATCH_LINES = 256


class Sink(Protocol):
    """A place for lines; used by one thread."""

    def write(self, lines: Sequence[bytes]) -> int:
        """Write whole lines; return how many of them could not be written. Never raises."""

    def why(self) -> str:
        """What the newest trouble was."""

    def close(self) -> None: ...


class LineWriter:
    """Writes lines to a sink from a thread of its own.

    `notice` makes the line by which it tells of (why, how many) lines are missing.
    """

    def __init__(self, sink: Sink, name: str, notice: Callable[[str, int], bytes], capacity: int = QUEUE_LINES) -> None:
        self._sink = sink
        self._notice = notice
        self._capacity = capacity
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._counting = threading.RLock()  # a signal handler may log while its thread counts
        self._dropped = 0  # by a full queue
        self._failed = 0  # by the sink
        self._told = self._failed_told = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that found no place so far."""
        return self._dropped + self._failed

    def put(self, line: bytes) -> None:
        """Have a line written. Never waits and never raises; safe from any thread, and from a signal handler."""
        if self._queue.qsize() >= self._capacity:
            with self._counting:
                self._dropped += 1
        else:
            self._queue.put(line)

    def close(self, timeout_s: float) -> None:
        """Write out what waits and close the sink; after `timeout_s` leave it, if it still hangs."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        is_open = True
        while is_open:
            lines = self._take()
            is_open = lines[-1] is not None
            self._failed += self._write([line for line in lines if line is not None])
            if self.lost > self._told and (self._queue.empty() or not is_open):
                self._tell()
        self._sink.close()

    def _take(self) -> list[bytes | None]:
        """Wait for a line; return it with those behind it, up to the one that closes."""
        lines = [self._queue.get()]
        while len(lines) < BATCH_LINES and lines[-1] is not None:
            try:
                lines.append(self._queue.get_nowait())
            except Empty:
                break
        return lines

    def _write(self, lines: Sequence[bytes]) -> int:
        """Return how many of the lines could not be written."""
        try:
            return self._sink.write(lines)
        except Exception:  # a defect of a sink must not end its thread: nothing would be heard any more
            return len(lines)

    def _tell(self) -> None:
        missing = self.lost - self._told
        why = self._sink.why() if self._failed > self._failed_told else f"more than {self._capacity:,} lines waited"
        if not self._write([self._notice(why, missing)]):
            self._told += missing
            self._failed_told = self._failed


class Stream:
    """A text stream as a sink: stderr.

    Written through its descriptor where it has one: a thread that hangs in Python's own buffer could not be left behind at the end,
    because that buffer's lock is wanted when the process exits.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._trouble = ""
        try:
            self._descriptor = stream.fileno()
        except (OSError, ValueError):
            self._descriptor = -1

    def write(self, lines: Sequence[bytes]) -> int:
        try:
            data = b"".join(lines)
            if self._descriptor < 0:
                self._stream.write(data.decode("utf-8", "replace"))
                self._stream.flush()
            while data and self._descriptor >= 0:
                data = data[os.write(self._descriptor, data) :]
        except (OSError, ValueError) as error:  # ValueError: somebody closed it
            self._trouble = str(error)
            return len(lines)
        return 0

    def why(self) -> str:
        return self._trouble

    def close(self) -> None:
        """Nothing: the stream is not ours."""


class RotatingFile:
    """A file that is moved to NAME.1 before it would outgrow `file_bytes`; mode 0600, made with its folder.

    A line is never parted between two files. If somebody moves the file away, a new one is begun. `complain` hears once of each
    time of trouble.
    """

    def __init__(self, file: Path, file_bytes: int, complain: Callable[[str], None]) -> None:
        self._file = file
        self._file_bytes = file_bytes
        self._complain = complain
        self._descriptor = -1
        self._size = 0
        self._in_trouble = False
        self._trouble = ""

    def write(self, lines: Sequence[bytes]) -> int:
        start = 0
        try:
            self._open()
            while start < len(lines):
                stop, room = start, self._file_bytes - self._size
                while stop < len(lines) and (room := room - len(lines[stop])) >= 0:
                    stop += 1
                if stop == start and self._size:
                    self._rotate()
                else:
                    stop = max(stop, start + 1)  # a line that is larger than the whole file gets one of its own
                    self._append(b"".join(lines[start:stop]))
                    start = stop
        except OSError as error:
            self._trouble = error.strerror or str(error)
            if not self._in_trouble:
                self._complain(f"{self._file}: {self._trouble}; lines are counted until it can be written again")
            self._in_trouble = True
            return len(lines) - start
        self._in_trouble = False
        return 0

    def why(self) -> str:
        return self._trouble

    def close(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):  # a device or a dying disk: what could be written is written
                os.fsync(self._descriptor)
                self._let_go()

    def _open(self) -> None:
        if self._descriptor >= 0:
            try:
                found, ours = os.stat(self._file), os.fstat(self._descriptor)
            except FileNotFoundError:
                self._let_go()
            else:
                if (found.st_ino, found.st_dev) == (ours.st_ino, ours.st_dev):
                    return
                self._let_go()
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        self._let_go()
        os.replace(self._file, self._file.with_name(self._file.name + ".1"))
        self._open()

    def _append(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            if written:
                os.ftruncate(self._descriptor, self._size)  # what was torn would spoil the line behind it
            raise
        self._size += len(data)

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
