"""One worker process, seen from the engine: frames in, messages out, and two threads that do the waiting.

Whoever puts frames in never waits for the process: what it has not read yet lies here, and is bounded by whoever puts it in.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import IO, cast

import msgspec

from engine.errors import ModelError
from engine.models.worker_messages import SAID, Said, read_frame

JOIN_S = 5.0


def _environment() -> dict[str, str]:
    """One thread a worker; and the order of sets, on which a few algorithms depend, the same in all of them."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TICKFOLD_") or key.endswith("_DIR")}
    return {**kept, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class WorkerLink:
    """A process. `said` hears its messages and `ended` its exit code, both in a thread of this link's."""

    def __init__(self, said: Callable[[Said], None], ended: Callable[[int], None]) -> None:
        self._said = said
        self._ended = ended
        self._frames: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the process; what was put in before is sent first. Raises OSError if it cannot be started."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine.models.worker_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,  # signals of a terminal are the engine's
        )
        self._threads = [
            threading.Thread(target=work, args=(self._process,), name=f"worker {self.pid} {name}", daemon=True)
            for name, work in (("writer", self._write), ("reader", self._read))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """The process's number; 0 before it is started."""
        return 0 if self._process is None else self._process.pid

    def put(self, frames: Iterable[bytes]) -> None:
        """Have frames sent, in their order."""
        with self._changed:
            self._frames.extend(frames)
            self._changed.notify()

    def close(self) -> None:
        """End the process at whatever it is, and wait until its threads are done."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(JOIN_S)

    def _write(self, process: subprocess.Popen[bytes]) -> None:
        stream = cast(IO[bytes], process.stdin)
        try:
            while True:
                with self._changed:
                    while not self._frames and not self._is_closed:
                        self._changed.wait()
                    if self._is_closed:
                        break
                    data = b"".join(self._frames)
                    self._frames.clear()
                stream.write(data)
                stream.flush()
        except OSError:
            pass  # it ended: the reader says so
        with contextlib.suppress(OSError):
            stream.close()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        with cast(IO[bytes], process.stdout) as stream:
            try:
                while (body := read_frame(stream)) is not None:
                    self._said(SAID.decode(body))
            except (ModelError, msgspec.MsgspecError):
                process.kill()  # what it says cannot be understood
        code = process.wait()
        with self._changed:
            was_closed, self._is_closed = self._is_closed, True
            self._changed.notify()
        if not was_closed:
            self._ended(code)
