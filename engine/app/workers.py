"""Worker processes of a daemon: what the fold asks goes out after each turn of the loop, what they answer comes in as inputs.

The loop never waits for them. While the journal is folded again at a start, they are only taught: the answers are in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from engine.clock import Clock
from engine.errors import ConfigError
from engine.events import Answer, Event
from engine.fold import Fold
from engine.models.spec import ModelSpec
from engine.models.worker import Requests
from engine.models.worker_files import prune_models
from engine.models.worker_state import PoolHealth
from engine.models.workers import WorkerPool

RECOVERY_WAITING = 8_192
"""Outcomes that may wait for a worker while a journal is folded, before folding waits too."""
CHECK_S = 120.0
"""How long a start waits for models to be built once: River alone takes seconds to import."""
LOOK_S = 0.01
"""How often whoever waits for workers looks."""
UNANSWERED = "the engine was started again before it was answered"


class Workers:
    """The workers of one fold. Everything is called on the loop.

    offer: puts inputs into the intake. Raises ConfigError if processes cannot be started.
    """

    def __init__(
        self,
        fold: Fold,
        requests: Requests,
        folder: Path,
        definition: str,
        *,
        clock: Clock,
        offer: Callable[[Sequence[Event]], None],
        log: Any,
    ) -> None:
        self._fold = fold
        self._requests = requests
        self._folder = folder
        self._clock = clock
        self._offer = offer
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._is_recovered = False
        self._is_closed = False
        self.is_pressed = False
        """Whether feeds are to wait until workers have caught up with what is to be learned."""
        try:
            self._pool = WorkerPool(requests, folder, definition, heard=self._heard, say=self._say)
        except OSError as error:
            raise ConfigError(f"models.workers: a worker process cannot be started: {error.strerror}") from error

    # -- a start

    async def check(self, specs: Sequence[ModelSpec]) -> None:
        """Have all models built once before anything is asked of them. Raises ConfigError for one that cannot be."""
        placed = [spec for spec in specs if spec.config.place == "worker"]
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._pool.check(placed)), CHECK_S)
        except TimeoutError as error:
            raise ConfigError(f"models: a worker process has not built its models within {CHECK_S:.0f} s") from error

    def load(self, sequence: int) -> None:
        """Have the models become what they were at the snapshot from which the fold was restored."""
        self._pool.load(sequence)

    async def recover(self) -> None:
        """Teach what a piece of the journal teaches; wait where a worker falls behind."""
        self._pool.send(self._requests.take(), asks=False)
        while self._pool.waiting > RECOVERY_WAITING and not self._is_closed:
            await asyncio.sleep(LOOK_S)

    def recovered(self) -> None:
        """Ask from now on. Rows whose answer died with an engine are answered with nothing, so that nobody waits for them."""
        self._pool.send(self._requests.take(), asks=False)
        self._is_recovered = True
        now = self._clock.now()
        lost = [
            Answer(*name, asked, (), UNANSWERED, now, now)
            for name, arm in self._requests.arms.items()
            for asked in arm.unanswered()
        ]
        if lost:
            self._log.info("rows were left unanswered", rows=len(lost), reason=UNANSWERED)
            self._offer(lost)

    def use_clock(self, clock: Clock) -> None:
        """Stamp answers by another clock from now on."""
        self._clock = clock

    # -- while it runs

    def turned(self) -> None:
        """Send what the fold asked in the turn that ends. Does not wait."""
        if self._is_recovered and len(self._requests):
            self._pool.send(self._requests.take())
            if self._pool.is_pressed and not self.is_pressed:
                self.is_pressed = True
                self._log.warning(
                    "feeds wait for a worker",
                    waiting=self._pool.waiting,
                    hint="its models learn more slowly than rows come: fewer models or symbols, or more models.workers",
                )

    async def relieve(self, drained: Callable[[], None]) -> None:
        """Let feeds go on once workers have caught up by half; until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S * 10)
            if self.is_pressed and self._pool.waiting <= RECOVERY_WAITING:
                self.is_pressed = False
                self._log.info("workers have caught up")
                drained()

    async def caught_up(self) -> None:
        """Wait until all that was sent is handled: between blocks of history, which come as fast as they go."""
        while self._pool.waiting and not self._is_closed:
            await asyncio.sleep(LOOK_S)

    def save(self, sequence: int) -> Future[None]:
        """Have all models saved as they are at the end of the input `sequence`, which was folded last."""
        self.turned()
        return self._pool.save(sequence)

    def prune(self, kept: Sequence[int]) -> None:
        """Delete the models of snapshots that are gone. Raises OSError."""
        prune_models(self._folder, kept)

    def health(self) -> PoolHealth:
        """Say how they are."""
        return self._pool.health()

    def close(self) -> None:
        """End all processes."""
        self._is_closed = True
        self._pool.close()

    # -- what other threads say

    def _heard(self, answers: Sequence[Answer]) -> None:
        self._later(self._take_in, answers)

    def _take_in(self, answers: Sequence[Answer]) -> None:
        if self._is_closed:
            return
        # History is older than now, and the answers to it are of its time: `received` never decreases.
        now = self._fold.now() if self._fold.is_history else self._clock.now()
        self._offer([msgspec.structs.replace(answer, received=now) for answer in answers])

    def _say(self, what: str, facts: dict[str, Any]) -> None:
        self._later(lambda what, facts: self._log.warning(what, **facts), what, facts)

    def _later(self, work: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work, *arguments)
