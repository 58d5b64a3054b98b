"""A worker process: models that would hold the loop, handled request by request. `python -m engine.models.worker_process`.

Requests come on stdin and answers go to stdout, as engine.models.worker_messages says. The process ends when its stdin does, so with
the engine that began it, however that ended. What a model prints goes to stderr.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from engine.errors import EngineError, ModelError
from engine.models.arm import Arm, Batch, Failure
from engine.models.layout import LABEL, SLOT, STEP, STEP_RECEIVED, STEP_SEQUENCE, STEP_TIMESTAMP, UPTO, Layout
from engine.models.spec import resolve_model
from engine.models.worker_files import FileHead, path_of, read_model, versions, write_model
from engine.models.worker_messages import (
    REQUESTS,
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
    read_frame,
)

TO_LEARN, TO_ASK = 0, 1
"""Rows of the small ledger that an arm is given here."""
DONE_EVERY = 64
"""Requests after which the process says how far it is, if it is not idle before."""
MEASURE_S, MEASURE_SHARE = 10.0, 100.0
"""How often the memory of a model is measured: not sooner, nor before so many times its cost has passed."""


class Held:
    """One arm of this process: an arm as the loop would have it, driven one row at a time."""

    def __init__(self, request: Open) -> None:
        """Build it, or make it what was saved. Raises whatever a model's constructor raises."""
        from engine.models.build import make_arm

        spec = resolve_model(request.arm.model, request.config)
        self.layout = Layout(len(spec.features), spec.target.outputs, 0, 1)
        self.arm: Arm = make_arm(request.algorithm, spec, self.layout, request.seed)
        self.learned = 0
        self.trouble = ""  # of learning, told with the next answer
        self.measure_at = 0.0
        if request.load:
            head, arrays = read_model(Path(request.load), request.arm)
            self.arm.restore(arrays)
            self.learned = head.learned
        ledger = np.full((2, self.layout.width), np.nan)
        ids = ledger.view(np.int64)
        self._ledger = ledger
        learning, asking = np.zeros((1, STEP), np.int64), np.zeros((1, STEP), np.int64)
        learning[0, SLOT], learning[0, UPTO] = -1, 1
        asking[0, SLOT] = TO_ASK
        self._learning = Batch(self.layout, ledger, ids, learning, np.array([TO_LEARN], np.int64))
        self._asking = Batch(self.layout, ledger, ids, asking, np.array([], np.int64))

    def learn(self, request: Learn) -> None:
        """Learn, unless it was learned before. Raises ModelError if outcomes are missing before it."""
        if not self._is_next(request.number):
            return
        self._put(TO_LEARN, request.x)
        self._ledger[TO_LEARN, LABEL] = request.y
        self._run(self._learning)

    def ask(self, request: Ask) -> tuple[float, ...]:
        """Return what it says; empty if it can say nothing. Raises ModelError where it failed."""
        if request.number:
            self._is_next(request.number)
        self._put(TO_ASK, request.x)
        self._asking.steps[0, [STEP_TIMESTAMP, STEP_RECEIVED, STEP_SEQUENCE]] = (
            request.timestamp,
            request.received,
            request.sequence,
        )
        first = self.layout.out_at(0)
        self._ledger[TO_ASK, first : first + self.layout.outputs] = np.nan
        failure = self._run(self._asking)
        if failure is not None and failure.handler == "predict":
            raise ModelError(failure.error)
        values = self._ledger[TO_ASK, first : first + self.layout.outputs]
        # What is not finite says nothing, and could not be journaled as it is.
        return tuple(values.tolist()) if np.isfinite(values).all() else ()

    def _is_next(self, number: int) -> bool:
        if number <= self.learned:
            return False
        if number > self.learned + 1:
            raise ModelError(
                f"outcomes {self.learned + 1} to {number - 1} are missing: the model is rebuilt when the engine starts again"
            )
        self.learned = number
        return True

    def _put(self, row: int, x: bytes) -> None:
        at = self.layout.x_at
        self._ledger[row, at : at + self.layout.features] = np.frombuffer(x, np.float64)

    def _run(self, batch: Batch) -> Failure | None:
        """Run one step; note that the model failed to learn. Returns the failure, None if there is none."""
        failures = self.arm.run(batch, self.layout.out_at(0), 0)
        if not failures:
            return None
        if failures[0].handler == "learn":
            self.trouble = failures[0].error
        return failures[0]


class Handler:
    """Handles requests in their order. `reply` sends a message; `now` tells seconds of a clock that only moves on."""

    def __init__(self, reply: Callable[[Said], None], now: Callable[[], float]) -> None:
        self._reply = reply
        self._now = now
        self._arms: dict[ArmName, Held] = {}
        self._broken: dict[ArmName, str] = {}  # what could not be built, or misses outcomes, and why
        self.done = 0

    def handle(self, request: Request, *, is_idle: bool) -> None:
        """Handle one. Whatever a model does becomes an answer with its text."""
        self.done += 1
        if isinstance(request, Learn):
            self._learn(request)
        elif isinstance(request, Ask):
            self._ask(request)
        elif isinstance(request, Open):
            self._open(request)
        elif isinstance(request, Save):
            self._save(request)
        else:
            self._close(request)
        is_told = isinstance(request, Save) or (isinstance(request, Ask) and not request.is_quiet)
        if not is_told and (is_idle or self.done % DONE_EVERY == 0):
            self._reply(Done(self.done))

    def _open(self, request: Open) -> None:
        self._close(Close(request.arm))
        try:
            self._arms[request.arm] = Held(request)
        except Exception as error:
            self._break(request.arm, error)

    def _close(self, request: Close) -> None:
        self._arms.pop(request.arm, None)
        self._broken.pop(request.arm, None)

    def _learn(self, request: Learn) -> None:
        held = self._arms.get(request.arm)
        if held is None:
            return
        before = held.trouble
        try:
            held.learn(request)
        except ModelError as error:
            self._break(request.arm, error)
            return
        if held.trouble and not before:
            self._reply(Done(self.done, request.arm, f"learn: {held.trouble}"))
        self._measure(request.arm, held)

    def _ask(self, request: Ask) -> None:
        values: tuple[float, ...] = ()
        held = self._arms.get(request.arm)
        error = self._broken.get(request.arm, "the worker has no such model")
        if held is not None:
            error = held.trouble and f"learn: {held.trouble}"
            held.trouble = ""
            try:
                values = held.ask(request)
            except ModelError as failed:
                error = f"predict: {failed}"
            if request.number:
                self._measure(request.arm, held)
        if not request.is_quiet:
            self._reply(Answered(request.arm, request.sequence, values, error, self.done))

    def _save(self, request: Save) -> None:
        folder = Path(request.folder)
        error = ""
        try:
            if self._broken:
                name, why = next(iter(self._broken.items()))
                raise ModelError(f"{' '.join(name)}: {why}")
            for name, held in self._arms.items():
                head = FileHead(name, request.definition, request.sequence, held.learned, versions(), ())
                write_model(path_of(folder, name, request.suffix), head, held.arm.arrays())
        except Exception as failed:  # a model that cannot be pickled, a disk
            error = _text(failed)
        self._reply(Saved(request.ticket, error, self.done))

    def _break(self, arm: ArmName, error: BaseException) -> None:
        self._arms.pop(arm, None)
        self._broken[arm] = _text(error)
        if not isinstance(error, EngineError):
            traceback.print_exception(error)
        self._reply(Done(self.done, arm, self._broken[arm], True))

    def _measure(self, arm: ArmName, held: Held) -> None:
        now = self._now()
        if now < held.measure_at:
            return
        memory = held.arm.memory
        took = self._now() - now
        held.measure_at = now + max(MEASURE_S, MEASURE_SHARE * took)
        self._reply(Measured(arm, memory, self.done))


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"


def _listen(frames: SimpleQueue[bytes]) -> None:
    """Take in requests as they come. The engine lets only so many wait, so what lies here is bounded by that."""
    try:
        while (body := read_frame(sys.stdin.buffer)) is not None:
            frames.put(body)
    finally:
        os._exit(0)  # the engine is gone, or wants this process to be: at whatever the model is


def main() -> None:
    """Handle requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's to handle
    out = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)
    frames: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(frames,), daemon=True).start()

    def reply(message: Said) -> None:
        data = memoryview(frame(message))
        while data:
            data = data[out.write(data) :]

    handler = Handler(reply, time.monotonic)
    while True:
        request: Any = REQUESTS.decode(frames.get())
        handler.handle(request, is_idle=frames.empty())


if __name__ == "__main__":
    main()
