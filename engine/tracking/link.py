"""The engine's end of the pipes to the process that talks to MLflow: starts it, asks with a time limit, and ends it if it hangs."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import msgspec

from engine.errors import ServiceError
from engine.tracking.messages import FRAME_MAX, LENGTH, Done, Request

NICE = 5
SAID_LINES = 20
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # its own 120 s, seven times over, would look like a hang
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
"""What MLflow is told, unless the environment says otherwise; telemetry is off whatever it says."""


class Link:
    """One process. Used by one thread; whoever wants it to end at once calls `kill` from any."""

    def __init__(self, folder: Path) -> None:
        environment = {**ENVIRONMENT, **os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "engine.tracking.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=environment,
                start_new_session=True, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            raise ServiceError(f"no process for MLflow: {error.strerror}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        with contextlib.suppress(OSError):  # it gives way to the loop; where it may not be told so, it does not
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICE)
        self._said: deque[str] = deque(maxlen=SAID_LINES)
        self._listening = threading.Thread(target=self._listen, name="mlflow says", daemon=True)
        self._listening.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def _listen(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        for line in iter(lambda: stderr.readline(4_096), b""):
            self._said.append(line.decode("utf-8", "replace").rstrip())

    def ask(self, request: Request, timeout_s: float) -> Done:
        """Send a request and wait for its answer. Raises ServiceError if there is none in time or the process is gone."""
        deadline = time.monotonic() + timeout_s
        data = msgspec.msgpack.encode(request)
        if len(data) > FRAME_MAX:
            return Done(f"a request of {len(data)} bytes; expected at most {FRAME_MAX}", is_lasting=True)
        try:
            self._write(LENGTH.pack(len(data)) + data, deadline)
            (length,) = LENGTH.unpack(self._read(LENGTH.size, deadline))
            return msgspec.msgpack.decode(self._read(length, deadline), type=Done)
        except TimeoutError:
            raise ServiceError(f"MLflow did not answer within {timeout_s:g} s") from None
        except OSError as error:
            raise ServiceError(f"the process for MLflow is gone: {self._last() or error}") from error
        except msgspec.MsgspecError as error:
            raise ServiceError(f"the process for MLflow answered what nobody understands: {error}") from error

    def _last(self) -> str:
        self._process.poll()
        self._listening.join(1.0)
        return next((line for line in reversed(self._said) if line), "")

    def _write(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            _, ready, _ = select.select([], [self._in], [], _left(deadline))
            if ready:
                view = view[os.write(self._in, view) :]

    def _read(self, count: int, deadline: float) -> bytes:
        parts = []
        while count:
            ready, _, _ = select.select([self._out], [], [], _left(deadline))
            if ready:
                part = os.read(self._out, count)
                if not part:
                    raise ConnectionError("end of its answers")
                parts.append(part)
                count -= len(part)
        return b"".join(parts)

    def kill(self) -> None:
        """End the process now. It may be at anything: what it does is done whole or not at all by what it talks to."""
        self._process.kill()

    def close(self) -> None:
        """End the process, and wait until it has."""
        self._process.kill()
        self._process.wait()
        self._listening.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0.0:
        raise TimeoutError
    return left
