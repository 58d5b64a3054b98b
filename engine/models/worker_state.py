"""What an engine knows of one worker process, and what it would have to tell a new one that takes its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from engine.errors import ModelError
from engine.events import Answer
from engine.models.worker import Requests
from engine.models.worker_files import path_of, read_model, suffix_of
from engine.models.worker_link import WorkerLink
from engine.models.worker_messages import ArmName, Ask, Open, Request, frame


class WorkerHealth(msgspec.Struct, frozen=True):
    """How one worker is."""

    pid: int  # 0 while there is none
    arms: int
    waiting: int  # requests that it has not handled yet
    kept: int  # requests since its last save
    deaths: int
    memory: int  # bytes of its models


class PoolHealth(msgspec.Struct, frozen=True):
    """How the workers are, and what became of rows that were asked."""

    workers: tuple[WorkerHealth, ...]
    queue: int
    asked: int
    answered: int  # with values
    empty: int  # without: the model failed, or had nothing to say
    let_go: int  # for the queue was full, or no process ran
    lost: int  # for the process died
    saves: int
    is_pressed: bool


@dataclass
class Saving:
    """A save under way: what is kept up to `mark` can be forgotten once it is done."""

    mark: int
    suffix: str
    done: Callable[[str], None]


@dataclass
class WorkerState:
    """One process and what it has to know."""

    link: WorkerLink | None = None
    arms: dict[ArmName, Open] = field(default_factory=dict)
    kept: deque[tuple[Request, bytes]] = field(default_factory=deque)
    forgotten: int = 0  # requests that were kept before the first of `kept`
    save_at: int = 0  # of so many requests, those forgotten included, its models are saved next
    asked: dict[tuple[ArmName, int], Ask] = field(default_factory=dict)
    saving: dict[int, Saving] = field(default_factory=dict)
    sent: int = 0  # in this life
    done: int = 0
    deaths: int = 0
    in_a_row: int = 0
    started: float = 0.0
    is_letting_go: bool = False
    say_at: float = 0.0
    has_said: bool = False  # that its queue is full
    is_incomplete: bool = False

    @property
    def waiting(self) -> int:
        """Requests that are not handled yet; of a dead one, those that will be sent again."""
        return len(self.kept) if self.link is None else self.sent - self.done

    def keep(self, request: Request, data: bytes, limit: int) -> bool:
        """Keep a request for a process that may die; return whether that is where the first of them had to be forgotten."""
        self.kept.append((request, data))
        if len(self.kept) <= limit:
            return False
        self.forget(self.forgotten + 1)
        was_complete, self.is_incomplete = not self.is_incomplete, True
        return was_complete

    def forget(self, mark: int) -> None:
        """Forget what was kept before so many requests."""
        while self.forgotten < mark and self.kept:
            self.kept.popleft()
            self.forgotten += 1

    def to_send_again(self) -> list[bytes]:
        """Return what makes a new process what the old one was: its arms, then all that is kept but for questions that are answered."""
        frames = [frame(request) for request in self.arms.values()]
        for request, data in self.kept:
            if not isinstance(request, Ask) or (request.arm, request.sequence) in self.asked:
                frames.append(data)
            elif request.number:
                frames.append(frame(msgspec.structs.replace(request, is_quiet=True)))
        return frames


def answer_to(ask: Ask, values: tuple[float, ...], error: str) -> Answer:
    """Return the answer to a row, with the row's own times."""
    return Answer(*ask.arm, ask.sequence, values, error, ask.timestamp, ask.received)


def check_saved(requests: Requests, folder: Path, sequence: int, definition: str) -> None:
    """Raise ModelError unless every arm that has learned anything was saved at the snapshot of a sequence, by this definition."""
    for arm in requests.arms.values():
        if not arm.learned:
            continue
        path = path_of(folder, arm.name, suffix_of(sequence))
        head, _ = read_model(path, arm.name)
        found, expected = (head.sequence, head.definition, head.learned), (sequence, definition, arm.learned)
        if found != expected:
            raise ModelError(f"{path}: of (sequence, definition, outcomes learned) {found}, expected {expected}")
