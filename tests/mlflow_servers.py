"""MLflow's own servers as child processes on loopback, a door before one that can be shut or hang, and logs that tests can read."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.tracking.link import ENVIRONMENT

READY_S = 240.0
"""A deadline for a busy machine; a server takes some ten seconds to import what it needs."""

JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""A server begins several processes for its jobs otherwise, and each imports MLflow."""


def until(holds: Callable[[], bool], what: str, seconds: float = READY_S) -> None:
    """Wait until something holds, letting others have the processor."""
    deadline, turn = time.monotonic() + seconds, threading.Event()
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        turn.wait(0.02)


def free_port() -> int:
    """A port that was free a moment ago: MLflow's servers do not choose one themselves."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Lines:
    """A log, as structlog is called: (level, event, fields)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **fields: self.lines.append((level, event, fields))

    def of(self, level: str) -> list[str]:
        return [event for said, event, _ in self.lines if said == level]


class MlflowServer:
    """`mlflow WORDS --port N`, ended when it is left."""

    def __init__(self, folder: Path, *words: str, **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        path = os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        )  # it calls uvicorn by name
        self.log = folder / f"{words[0]}-{self.port}.log"
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *words, "--host", "127.0.0.1", "--port", str(self.port)],
                cwd=folder, env={**os.environ, **ENVIRONMENT, "PATH": path, **JOBS, **variables}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    def wait(self, path: str) -> None:
        """Wait until it answers."""
        until(lambda: self._answers(path), f"{self.url}{path}")

    def _answers(self, path: str) -> bool:
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, path: str, body: Any = None) -> Any:
        """The JSON of a POST of JSON, or of a GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read()[:1000]!r}") from error

    def stop(self) -> None:
        """End it and what it started, which are a process group of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()


class Door:
    """A port before another one. It can be shut (connections are refused), hang (nothing comes back) or be open."""

    def __init__(self, beyond: int) -> None:
        self.port = free_port()
        self._beyond = beyond
        self._listening: socket.socket | None = None
        self._is_hanging = False
        self._through: list[socket.socket] = []
        self.knocks = 0

    def open(self, *, is_hanging: bool = False) -> None:
        self._is_hanging = is_hanging
        if self._listening is None:
            self._listening = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def shut(self) -> None:
        if self._listening is not None:
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._listening.close()
            self._listening = None
        self.cut()

    def cut(self) -> None:
        """End all connections that there are."""
        for one in self._through:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._through.clear()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            self.knocks += 1
            self._through.append(near)
            if not self._is_hanging:
                far = socket.create_connection(("127.0.0.1", self._beyond))
                self._through.append(far)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
