"""A daemon's data folder: what lies where, and that only one daemon has it at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from engine.errors import ServiceError, StoreError


class DataFolder:
    """`DIR` and what lies in it.

    journal/, snapshots/, models/ (of worker processes), ticks/ (Parquet of sealed segments), predictions/ (Parquet of what matured),
    products/ (lists of the exchanges), digest.json, log.jsonl, token.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / "journal"
        self.snapshots = path / "snapshots"
        self.models = path / "models"
        self.ticks = path / "ticks"
        self.predictions = path / "predictions"
        self.products = path / "products"
        self.digest = path / "digest.json"
        self.token = path / "token"
        self.log = path / "log.jsonl"
        self._lock = -1

    def exists(self) -> bool:
        """Whether a daemon has kept a journal here."""
        return self.journal.is_dir()

    def acquire(self) -> None:
        """Make the folder if needed, and keep other daemons out until the process ends.

        Raises StoreError if it cannot be made or written, ServiceError naming the process that has it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"data folder {self.path}: {error.strerror}; --data DIR or data.dir names another"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock)
            raise ServiceError(
                f"data folder {self.path}: in use by process {holder}; stop that daemon, or name another folder with --data DIR"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def write_atomically(path: Path, data: bytes) -> None:
    """Put bytes under a name all at once: after a kill there is the old file or the new one."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
