"""Real daemons under test: child processes over a folder of their own, on ports that are free, served by the loopback exchange."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.commands import inside
from tests.folding import COMMAND, environment

READY_S = 60.0
"""A deadline for a machine that is busy; a daemon with compiled programs is ready in a second or two."""


class Child:
    """A daemon in a process of its own. Entering waits until it is ready."""

    def __init__(self, folder: Path, *words: str, **config: str) -> None:
        self.folder = folder
        self._words = words
        self._config = {"SERVER__PORT": "0", "SNAPSHOTS__EVERY_S": "3600", **config}
        self.process: subprocess.Popen[bytes]
        self.url = ""

    def __enter__(self) -> Child:
        variables = {f"TICKFOLD_{key}": value for key, value in self._config.items()}
        self.log = self.folder.parent / f"{self.folder.name}.stderr"
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                [COMMAND, "run", "--data", str(self.folder), *self._words],
                cwd=self.folder.parent,
                env=environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        # The address is in the log: the port is whatever was free.
        begun = self.log.stat().st_size
        deadline = time.monotonic() + READY_S
        while not self.url:
            said = self.log.read_bytes().decode()
            found = [line.split()[1] for line in said.splitlines() if line.startswith("  page ")]
            if len(found) > said[:begun].count("  page "):
                self.url = found[-1]
            elif self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the daemon did not get ready, exit code {self.process.poll()}:\n{said[-4000:]}")
            else:
                self._turn()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()

    def _turn(self) -> None:
        """Let others have the processor until the daemon ends or a moment has passed."""
        try:
            self.process.wait(0.01)
        except subprocess.TimeoutExpired:
            return

    # -- what it says

    def get(self, path: str) -> Any:
        """The JSON of a GET, whatever its status."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def post(self, path: str, body: Any, *, token: bool = True) -> tuple[int, Any]:
        """The status and JSON of a POST of JSON."""
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {(self.folder / 'token').read_text().strip()}"
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def health(self) -> Any:
        return self.get("/health")

    def wait_for(self, what: Callable[[Any], bool], seconds: float = READY_S) -> Any:
        """Ask /health until it is as wanted; return it."""
        deadline = time.monotonic() + seconds
        while True:
            health = self.health()
            if what(health):
                return health
            assert time.monotonic() < deadline, f"not within {seconds} s: {json.dumps(health)[:3000]}"
            self._turn()

    def wait_for_sequence(self, sequence: int, seconds: float = READY_S) -> Any:
        """Wait until so many inputs were folded."""
        return self.wait_for(lambda health: health["live_sequence"] >= sequence, seconds)

    # -- how it ends

    def kill(self) -> None:
        """End it at whatever instruction it is."""
        self.process.kill()
        self.process.communicate()

    def stop(self, seconds: float = 20.0) -> dict[str, Any]:
        """End it as a system does; return its digests."""
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, (
            f"exit code {self.process.returncode}: {out.decode()}\n{self.stderr()[-4000:]}"
        )
        found: dict[str, Any] = json.loads((self.folder / "digest.json").read_bytes())
        return found

    def stderr(self) -> str:
        return self.log.read_text()


def command(*words: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end, in a process of its own."""
    return subprocess.run(
        [COMMAND, *map(str, words)],
        cwd=cwd or os.environ.get("TMPDIR", "/tmp"),
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def replayed(folder: Path, *words: str) -> dict[str, Any]:
    """What `tickfold replay FOLDER --digest --json` prints, in this process: never the one whose daemon wrote the folder."""
    done = inside("replay", folder, "--digest", "--json", *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def children(pid: int) -> list[int]:
    """Processes that a process started and that are alive, where the system can say."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]
