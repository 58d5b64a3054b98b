"""The worker processes of an engine: who has which models, what waits for them, and what happens when one dies.

Live, nothing here waits for a process. Where `models.worker_queue` requests wait for one, rows are not asked any more: each is let go of,
and answered with nothing at once. What is to be learned is never let go of, for a model that misses outcomes is another model: it queues,
up to `LEARNS_QUEUES` times as much; from there on `is_pressed` says that feeds are to stop reading until the worker has caught up.

A replay is patient: `wait` blocks until every row is answered, whatever becomes of the processes meanwhile.

A process that dies is started again, and becomes what it was: its models are loaded as they were last saved, and all that was to be
learned since is sent again. For that, requests since the last save are kept; where they grow many, the models are saved.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import ConfigError, ModelError
from engine.events import Answer
from engine.models.settings import ModelsConfig
from engine.models.spec import ModelSpec
from engine.models.worker import Requests, WorkerArm
from engine.models.worker_files import CHECKPOINT, own_folder, path_of, remove_unfinished, suffix_of
from engine.models.worker_link import WorkerLink
from engine.models.worker_messages import (
    Answered,
    ArmName,
    Ask,
    Close,
    Done,
    Learn,
    Measured,
    Open,
    Request,
    Said,
    Save,
    Saved,
    frame,
)
from engine.models.worker_state import PoolHealth, Saving, WorkerHealth, WorkerState, answer_to

LEARNS_QUEUES = 64
"""Queues' worth of outcomes that may wait for a worker before feeds have to."""
CHECKPOINT_LEARNS = 8_192
"""Requests that are kept for a worker that may die, before its models are saved and they can be forgotten."""
KEPT_QUEUES = 256
"""Queues' worth of requests that are kept at most: beyond that, where nothing could be saved, a worker that dies cannot become what it was."""
AGAIN_S, AGAIN_MAX_S, LIVED_S = 0.1, 30.0, 60.0
"""How long after its end a worker is started again: doubled each time, until one has lived that long."""
DEATHS_MAX = 5
"""Deaths in a row after which a replay gives up; live, it is tried for ever."""
STUCK_S = 600.0
"""How long a replay waits for one answer."""
SAY_S = 10.0
"""How often it is said that a queue is full."""
ERROR_CHARACTERS = 500
CHECK = "check.model"


class WorkerPool:
    """Worker processes of one fold. Called by the thread that folds; answers and news come from others.

    folder: where models are saved. heard: gets answers as they come; None makes the pool patient, and `wait` returns them. say: hears
    (what, facts) of what an operator wants to know. Raises OSError if a process cannot be started, ModelError if the folder is not ours.
    """

    def __init__(
        self,
        requests: Requests,
        folder: Path,
        definition: str,
        *,
        heard: Callable[[Sequence[Answer]], None] | None,
        say: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self._requests = requests
        self._config: ModelsConfig = requests.config
        self._folder = own_folder(folder)
        remove_unfinished(self._folder)
        self._definition = definition
        self._heard = heard
        self._say = say
        self._changed = threading.Condition(threading.RLock())
        self._is_closed = False
        self._tickets = 0
        self._order: list[tuple[ArmName, int]] = []  # rows that a patient caller waits for
        self._answers: dict[tuple[ArmName, int], Answer] = {}
        self._given_up = ""
        self._too_large: set[ArmName] = set()
        self._asked = self._answered = self._empty = self._let_go = self._lost = self._saves = 0
        self._workers = [WorkerState() for _ in range(self._config.workers)]
        requests.is_wanted = True
        for worker in self._workers:
            self._start(worker)

    # -- what the fold's driver calls

    def check(self, specs: Iterable[ModelSpec]) -> Future[None]:
        """Have each version of these models built and saved once, in a worker. The future raises ConfigError where one cannot be."""
        future: Future[None] = Future()
        with self._changed:
            worker = self._workers[0]
            opened = [
                Open(ArmName(spec.name, str(number), "", ""), spec.config, algorithm, 0)
                for spec in specs
                for number, algorithm in enumerate(spec.algorithms, 1)
            ]

            def done(error: str) -> None:
                for one in opened:
                    path_of(self._folder, one.arm, CHECK).unlink(missing_ok=True)
                if error:
                    future.set_exception(ConfigError(f"models: {error}"))
                else:
                    future.set_result(None)

            if worker.link is None:
                done("a worker process ended as soon as it was started")
                return future
            worker.sent += 2 * len(opened)
            worker.link.put([frame(one) for one in opened])
            self._save(worker, CHECK, 0, done)
            worker.link.put([frame(Close(one.arm)) for one in opened])
        return future

    def load(self, sequence: int) -> None:
        """Have all arms that the fold has now become what was saved at the snapshot of a sequence. Before anything is sent."""
        with self._changed:
            for arm in self._requests.arms.values():
                if arm.learned:
                    self._open(arm, str(path_of(self._folder, arm.name, suffix_of(sequence))))

    def send(self, requests: Iterable[Request], *, asks: bool = True) -> None:
        """Send what was noted; never waits for a process. Without `asks`, rows are not asked: their answers are known."""
        let_go: list[Answer] = []
        with self._changed:
            for request in requests:
                self._send(request, asks, let_go)
        self._hear(let_go)

    def wait(self) -> list[Answer]:
        """Block until all rows that were asked are answered; return the answers in the order of the questions. Patient pools only.

        Raises ModelError if a worker dies again and again, or says nothing for ten minutes.
        """
        with self._changed:
            while len(self._answers) < len(self._order) and not self._given_up:
                if not self._changed.wait(STUCK_S):
                    raise ModelError(f"a worker has not answered for {STUCK_S:.0f} s")
            if self._given_up:
                raise ModelError(self._given_up)
            found = [self._answers[one] for one in self._order]
            self._order, self._answers = [], {}
        return found

    def wait_below(self, waiting: int) -> None:
        """Block until fewer requests wait for each worker. Raises ModelError as `wait` does."""
        with self._changed:
            while max(worker.waiting for worker in self._workers) > waiting and not self._given_up:
                if not self._changed.wait(STUCK_S):
                    raise ModelError(f"a worker has handled nothing for {STUCK_S:.0f} s")
            if self._given_up:
                raise ModelError(self._given_up)

    def save(self, sequence: int) -> Future[None]:
        """Have all models saved as they are once all that was sent so far is handled. The future raises ModelError where that failed."""
        with self._changed:
            concerned = [worker for worker in self._workers if worker.arms]
            future: Future[None] = Future()
            left = len(concerned)

            def done(error: str) -> None:
                nonlocal left
                left -= 1
                if error and not future.done():
                    future.set_exception(ModelError(f"models at sequence {sequence}: {error}"))
                elif not left and not future.done():
                    future.set_result(None)

            if not concerned:
                future.set_result(None)
            for worker in concerned:
                if worker.link is None:
                    done("a worker process has ended and is being started again")
                else:
                    self._save(worker, suffix_of(sequence), sequence, done)
        return future

    @property
    def waiting(self) -> int:
        """Requests that wait for the worker for which most do."""
        with self._changed:
            return max(worker.waiting for worker in self._workers)

    @property
    def is_pressed(self) -> bool:
        """Whether so much waits to be learned by a worker that feeds have to wait. What waits for a dead one is limited otherwise."""
        return any(
            worker.link is not None and worker.sent - worker.done >= LEARNS_QUEUES * self._config.worker_queue
            for worker in self._workers
        )

    def health(self) -> PoolHealth:
        """Say how the workers are."""
        with self._changed:
            arms = self._requests.arms
            workers = tuple(
                WorkerHealth(
                    0 if worker.link is None else worker.link.pid,
                    len(worker.arms),
                    worker.waiting,
                    len(worker.kept),
                    worker.deaths,
                    sum(arms[name].measured for name in worker.arms if name in arms),
                )
                for worker in self._workers
            )
            return PoolHealth(
                workers, self._config.worker_queue, self._asked, self._answered, self._empty, self._let_go, self._lost,
                self._saves, self.is_pressed,
            )  # fmt: skip

    def close(self) -> None:
        """End all processes."""
        with self._changed:
            self._is_closed = True
            self._requests.is_wanted = False
            links = [worker.link for worker in self._workers if worker.link is not None]
            saving = [one for worker in self._workers for one in worker.saving.values()]
            for worker in self._workers:
                worker.link, worker.saving = None, {}
            self._changed.notify_all()
        for one in saving:
            one.done("the workers were stopped")
        for link in links:
            link.close()

    # -- sending; the lock is held

    def _send(self, request: Request, asks: bool, let_go: list[Answer]) -> None:
        assert isinstance(request, Learn | Ask | Close)
        worker = self._worker_of(request.arm)
        if worker is None:
            return
        if isinstance(request, Close):
            worker.arms.pop(request.arm, None)
        elif isinstance(request, Ask):
            if asks and not self._may_ask(worker):
                self._let_go += 1
                is_dead = worker.link is None
                error = "let go of: " + (
                    "no worker runs" if is_dead else f"{worker.waiting} requests wait for the worker"
                )
                let_go.append(answer_to(request, (), error))
                asks = False
            if asks:
                self._asked += 1
                worker.asked[request.arm, request.sequence] = request
                if self._heard is None:
                    self._order.append((request.arm, request.sequence))
            elif request.number:
                request = msgspec.structs.replace(request, is_quiet=True)
            else:
                return
        self._put(worker, request)

    def _may_ask(self, worker: WorkerState) -> bool:
        """Whether another row may wait for a worker; how that changes is said, now and then where it does all the time."""
        if self._heard is None:
            return True
        if worker.link is None:
            return False  # that it died was said
        queue = self._config.worker_queue
        is_full = worker.waiting >= queue
        if is_full != worker.is_letting_go and (is_full or worker.waiting <= queue // 2):
            worker.is_letting_go = is_full
            facts = {"waiting": worker.waiting, "queue": queue, "let_go": self._let_go}
            now = time.monotonic()
            if is_full and now >= worker.say_at:
                worker.say_at = now + SAY_S
                worker.has_said = True
                self._say("rows are let go of by a worker's full queue", facts)
            elif not is_full and worker.has_said:
                worker.has_said = False
                self._say("a worker has caught up", facts)
        return not is_full

    def _worker_of(self, name: ArmName) -> WorkerState | None:
        """The worker that has an arm; an arm that none has is built in the one that has fewest."""
        for worker in self._workers:
            if name in worker.arms:
                return worker
        arm = self._requests.arms.get(name)
        return None if arm is None else self._open(arm)

    def _open(self, arm: WorkerArm, load: str = "") -> WorkerState:
        worker = min(self._workers, key=lambda one: len(one.arms))
        request = Open(arm.name, arm.config, arm.algorithm, arm.seed, load)
        worker.arms[arm.name] = request
        if worker.link is not None:
            worker.sent += 1
            worker.link.put([frame(request)])
        return worker

    def _put(self, worker: WorkerState, request: Learn | Ask | Close) -> None:
        data = frame(request)
        is_kept = not isinstance(request, Close) and (
            isinstance(request, Learn) or request.number or self._heard is None
        )
        if is_kept and worker.keep(request, data, KEPT_QUEUES * self._config.worker_queue):
            self._say("a worker could not become what it is again", {"kept": len(worker.kept)})
        if worker.link is not None:
            worker.sent += 1
            worker.link.put([data])
            if len(worker.kept) >= CHECKPOINT_LEARNS and worker.forgotten + len(worker.kept) >= worker.save_at:
                worker.save_at = worker.forgotten + len(worker.kept) + CHECKPOINT_LEARNS
                self._save(worker, CHECKPOINT, 0, self._checkpointed)

    def _save(self, worker: WorkerState, suffix: str, sequence: int, done: Callable[[str], None]) -> None:
        assert worker.link is not None
        self._tickets += 1
        worker.saving[self._tickets] = Saving(worker.forgotten + len(worker.kept), suffix, done)
        worker.sent += 1
        worker.link.put([frame(Save(self._tickets, str(self._folder), suffix, sequence, self._definition))])

    def _checkpointed(self, error: str) -> None:
        if error:
            self._say("models of a worker could not be saved", {"error": error})

    # -- hearing: in a thread of a link's

    def _hear(self, answers: Sequence[Answer]) -> None:
        if answers and self._heard is not None:
            self._heard(answers)

    def _hears(self, worker: WorkerState, link: WorkerLink, message: Said) -> None:
        answer = None
        saved = None
        with self._changed:
            if worker.link is not link:
                return
            worker.done = message.done
            if isinstance(message, Answered):
                answer = self._take(worker, message)
            elif isinstance(message, Saved):
                saved = self._saved(worker, message)
            elif isinstance(message, Measured):
                self._measure(message)
            elif isinstance(message, Done) and message.trouble:
                name = " ".join(message.arm or ())
                self._say("a model in a worker failed", {"model": name, "error": message.trouble[:ERROR_CHARACTERS]})
                if message.is_broken and self._heard is None:
                    self._given_up = f"model {name} in a worker: {message.trouble}"  # as it would be in the loop
            self._changed.notify_all()
        if saved is not None:
            saved.done(message.error if isinstance(message, Saved) else "")
        if answer is not None:
            self._hear([answer])

    def _take(self, worker: WorkerState, message: Answered) -> Answer | None:
        ask = worker.asked.pop((message.arm, message.sequence), None)
        if ask is None:
            return None
        self._answered += bool(message.values)
        self._empty += not message.values
        answer = answer_to(ask, message.values, message.error[:ERROR_CHARACTERS])
        if self._heard is None:
            self._answers[message.arm, message.sequence] = answer
        return answer

    def _saved(self, worker: WorkerState, message: Saved) -> Saving | None:
        saving = worker.saving.pop(message.ticket, None)
        if saving is None or message.error:
            return saving
        self._saves += 1
        worker.forget(saving.mark)
        worker.is_incomplete = False
        for name, request in worker.arms.items():
            # An arm that was opened since has no such file; then it has not been forgotten what it learned, either.
            path = path_of(self._folder, name, saving.suffix)
            if path.is_file():
                worker.arms[name] = msgspec.structs.replace(request, load=str(path))
        return saving

    def _measure(self, message: Measured) -> None:
        arm = self._requests.arms.get(message.arm)
        if arm is None:
            return
        arm.measured = message.memory
        limit = self._config.memory_mib * (1 << 20)
        if message.memory <= limit:
            self._too_large.discard(message.arm)
        elif message.arm not in self._too_large:
            self._too_large.add(message.arm)
            facts = {"model": " ".join(message.arm), "mib": round(message.memory / (1 << 20), 1)}
            self._say("a model takes more memory than it may", {**facts, "limit_mib": self._config.memory_mib})

    # -- life and death

    def _start(self, worker: WorkerState) -> None:
        """Start a process, and send what it has to become what its models were."""
        with self._changed:
            if self._is_closed:
                return
            link = WorkerLink(
                lambda message: self._hears(worker, link, message), lambda code: self._died(worker, link, code)
            )
            frames = worker.to_send_again()
            worker.link, worker.sent, worker.done, worker.started = link, len(frames), 0, time.monotonic()
            link.put(frames)
        link.start()

    def _died(self, worker: WorkerState, link: WorkerLink, code: int) -> None:
        """Answer with nothing what it was asked, and start it again after a while: the engine goes on meanwhile."""
        lost: list[Answer] = []
        with self._changed:
            if worker.link is not link or self._is_closed:
                return
            worker.link = None
            worker.deaths += 1
            worker.in_a_row = 1 if time.monotonic() - worker.started > LIVED_S else worker.in_a_row + 1
            if self._heard is not None:
                lost = [answer_to(ask, (), "the worker process ended") for ask in worker.asked.values()]
                self._lost += len(lost)
                worker.asked = {}
            elif worker.in_a_row >= DEATHS_MAX:
                self._given_up = f"a worker process ended {DEATHS_MAX} times, the last time with exit code {code}"
            saving, worker.saving = worker.saving, {}
            wait_s = min(AGAIN_S * 2.0 ** (worker.in_a_row - 1), AGAIN_MAX_S)
            self._changed.notify_all()
        for one in saving.values():
            one.done("the worker process ended")
        facts = {"exit_code": code, "pid": link.pid, "lost": len(lost), "again_in_s": wait_s}
        self._say("a worker process ended", facts)
        self._hear(lost)
        self._start_again(worker, wait_s)

    def _start_again(self, worker: WorkerState, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        with self._changed:
            while not self._is_closed and not self._given_up and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            if self._is_closed or self._given_up:
                return
        try:
            self._start(worker)
            self._say("a worker process was started again", {"sent_again": len(worker.kept)})
        except OSError as error:
            self._say("a worker process cannot be started", {"error": str(error)})
            with self._changed:
                worker.link = None
                worker.in_a_row += 1
            self._start_again(worker, AGAIN_MAX_S)
