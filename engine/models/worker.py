"""An arm whose model lives in a worker process: it does not learn or predict, it notes what is to be learned and asked.

Live, what was noted goes to the process, and the answer comes back as an input of its own (`Answer`), journaled like any other. In a
replay of a journal the answers are there already, and nobody takes the notes: the same bits, without a process. Where a source holds
no answers, its driver feeds one row at a time and waits, so that each answer is the very next input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.events import Answer
from engine.models.arm import Batch, Failure
from engine.models.layout import (
    LABEL,
    SLOT,
    STEP_RECEIVED,
    STEP_SEQUENCE,
    STEP_TIMESTAMP,
    UPTO,
)
from engine.models.settings import ModelConfig, ModelsConfig
from engine.models.spec import ModelSpec
from engine.models.worker_messages import ArmName, Ask, Close, Learn

LEARNED, ASKED, EMPTY = range(3)
"""Counts of an arm: outcomes learned from (rows, of a model without labels), rows asked, and answers without values."""


ASKED_MAX = 1 << 16
"""Rows without an answer that an arm knows of: what is asked is answered sooner or later, even if with nothing."""


class Requests:
    """What the arms of one fold want of worker processes, in order. Whoever drives the fold takes it after each block.

    Nothing is noted unless it `is_wanted`: in a replay of a journal nobody would take it.
    """

    def __init__(self, config: ModelsConfig | None = None) -> None:
        self.config = config or ModelsConfig()
        self.is_wanted = False
        self.arms: dict[ArmName, WorkerArm] = {}
        """All arms that live in workers, in the order in which they came to be."""
        self._noted: list[Learn | Ask | Close] = []

    def __len__(self) -> int:
        return len(self._noted)

    def arm(
        self, exchange: str, symbol: str, version: str, algorithm: Mapping[str, Any], spec: ModelSpec, seed: int
    ) -> WorkerArm:  # fmt: skip
        """Make an arm, which is built in a worker once there is something to learn or to ask."""
        name = ArmName(spec.name, version, exchange, symbol)
        made = WorkerArm(name, spec, dict(algorithm), seed, self)
        self.arms[name] = made
        return made

    def note(self, request: Learn | Ask | Close) -> None:
        """Have a request sent."""
        if self.is_wanted:
            self._noted.append(request)

    def take(self) -> list[Learn | Ask | Close]:
        """Return what was noted since, and forget it."""
        taken, self._noted = self._noted, []
        return taken


class WorkerArm:
    """One version of a model for one key, in a worker process. Made by `Requests.arm`."""

    def __init__(
        self, name: ArmName, spec: ModelSpec, algorithm: dict[str, Any], seed: int, requests: Requests
    ) -> None:
        self.name = name
        self.config: ModelConfig = spec.config
        self.algorithm = algorithm
        self.seed = seed
        self.counts = np.zeros(3, np.int64)
        self.measured = 0
        """Bytes that the model takes, as its process last said: for display, no part of the state."""
        self._is_supervised = spec.target.is_supervised
        self._requests = requests
        self._asked: dict[int, None] = {}  # sequences of rows that wait for an answer, oldest first

    # -- what the actor calls

    def run(self, batch: Batch, out_at: int, first: int) -> list[Failure]:
        """Note what is to be learned and asked; the outputs are NaN until an answer has come. Never fails."""
        layout, ledger = batch.layout, batch.ledger
        x = slice(layout.x_at, layout.x_at + layout.features)
        at = int(batch.steps[first - 1, UPTO]) if first else 0
        for step in batch.steps[first:].tolist():
            for slot in batch.answers[at : step[UPTO]].tolist():
                label = ledger.item(slot, LABEL)
                if label == label and self._is_supervised:  # noqa: PLR0124 - not NaN
                    self._note_learn(ledger[slot, x], label)
            at = step[UPTO]
            slot = step[SLOT]
            if slot >= 0:
                ledger[slot, out_at : out_at + layout.outputs] = np.nan
                self._note_ask(step, ledger[slot, x])
        return []

    def answered(self, event: Answer) -> None:
        """Hear that an answer to one of this arm's rows was folded: what it holds is the actor's to use."""
        self._asked.pop(event.asked, None)
        if not event.values:
            self.counts[EMPTY] += 1

    def close(self) -> None:
        """Let go of the model: this arm learns and is asked no more."""
        if self._requests.arms.get(self.name) is self:
            del self._requests.arms[self.name]
        self._requests.note(Close(self.name))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Copy what a restart must know of the arm; the model itself lies in a file of its process's."""
        asked = np.array([*self._asked], np.int64)
        return {"worker_counts": self.counts.copy(), "worker_asked": asked}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become what `arrays` was made of. Raises ModelError if it was made of something else."""
        try:
            counts, asked = arrays["worker_counts"], arrays["worker_asked"]
        except KeyError as error:
            raise ModelError(
                f"{' '.join(self.name)}: expected the state of an arm in a worker, found {sorted(arrays)}"
            ) from error
        if counts.shape != self.counts.shape or asked.ndim != 1:
            raise ModelError(f"{' '.join(self.name)}: expected {len(self.counts)} counts, and sequences")
        self.counts[:] = counts
        self._asked = dict.fromkeys(asked.tolist())

    @property
    def memory(self) -> int:
        """Bytes that the model takes, as its process last said; 0 before it did, and in a replay without one."""
        return self.measured

    # -- what those ask who drive workers

    @property
    def learned(self) -> int:
        """Numbered requests so far: what a model that is loaded from a file must have learned from."""
        return int(self.counts[LEARNED])

    def unanswered(self) -> Iterator[int]:
        """Yield the sequences of the rows that wait for an answer, oldest first."""
        yield from self._asked

    # -- noting

    def _note_learn(self, x: npt.NDArray[np.float64], label: float) -> None:
        self.counts[LEARNED] += 1
        if self._requests.is_wanted:
            self._requests.note(Learn(self.name, self.learned, x.tobytes(), label))

    def _note_ask(self, step: list[int], x: npt.NDArray[np.float64]) -> None:
        sequence = step[STEP_SEQUENCE]
        self.counts[ASKED] += 1
        self._asked[sequence] = None
        if len(self._asked) > ASKED_MAX:
            del self._asked[next(iter(self._asked))]  # no answer will come; if one does, it is folded all the same
        number = 0
        if not self._is_supervised:
            self.counts[LEARNED] += 1
            number = self.learned
        if self._requests.is_wanted:
            times = step[STEP_TIMESTAMP], step[STEP_RECEIVED]
            self._requests.note(Ask(self.name, number, sequence, *times, x.tobytes()))
