"""Worker processes of a replay: where a source holds no answers, the fold is fed one row at a time and waits for them.

Each answer is folded as the very next input, as if the model had run in the loop; so predictions have the same digest either way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from engine.block import Block
from engine.errors import ReplayError
from engine.events import Answer
from engine.fold import Fold
from engine.models.worker import Requests

if TYPE_CHECKING:
    from engine.models.workers import WorkerPool

WAITING_MAX = 4_096
"""Outcomes that may wait to be learned before the fold waits too."""


class Working:
    """The workers of one fold in a replay. Made by `working`."""

    def __init__(self, fold: Fold, requests: Requests, pool: WorkerPool, tell: Callable[[Answer], object]) -> None:
        self._fold = fold
        self._requests = requests
        self._pool = pool
        self._tell = tell

    def push(self, block: Block) -> None:
        """Fold a block row by row, each with the answers that it brings about. Raises ModelError if workers give up."""
        for row in range(len(block)):
            self._fold.push(block.take(slice(row, row + 1)))
            self.answer()

    def answer(self) -> None:
        """Have what was asked answered, and fold the answers."""
        while len(self._requests):
            self._pool.send(self._requests.take())
            for answer in self._pool.wait():
                self._tell(answer)
            self._pool.wait_below(WAITING_MAX)

    def save(self, sequence: int) -> Future[None]:
        """Have all models saved as they are now, with the snapshot of a sequence."""
        return self._pool.save(sequence)

    def prune(self, kept: Sequence[int]) -> None:
        """Do nothing: a replay takes one snapshot."""


def requests_of(fold: Fold) -> Requests | None:
    """Return what the models of a fold want of workers; None where none of them runs in one."""
    return None if fold.models is None else fold.models.requests


@contextmanager
def working(
    fold: Fold,
    folder: Path | None = None,
    definition: str = "",
    tell: Callable[[Answer], object] | None = None,
) -> Iterator[Working | None]:
    """Have workers for a fold that needs some, else None.

    folder: where models are saved, for snapshots of that definition; None: in one that goes with them. tell: folds an answer, by
    default `fold.input`. Raises ReplayError if no process can be started.
    """
    requests = requests_of(fold)
    if requests is None:
        yield None
        return
    from engine.models.workers import WorkerPool

    with tempfile.TemporaryDirectory(prefix="tickfold-models-") as own:
        try:
            pool = WorkerPool(requests, folder or Path(own), definition, heard=None, say=lambda what, facts: None)
        except OSError as error:
            raise ReplayError(f"a worker process for models cannot be started: {error.strerror}") from error
        try:
            yield Working(fold, requests, pool, tell or fold.input)
        finally:
            pool.close()
