"""Tells MLflow what the engine says of its models: a bounded queue, a thread of its own, and a process behind that.

The loop only puts reports into the queue. The thread sends one after the other to the process, which talks to MLflow; one that fails is
tried again, with waits that double, until MLflow has it or the queue needs its place. What is left when the engine stops is kept in a
file, and is the first thing that the next start tells.

Limits   QUEUE_REPORTS and QUEUE_BYTES waiting: the oldest is let go of for a new one, and counted
         ANSWER_S for a request, START_S for the first: beyond that the process is ended and begun anew
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy.typing as npt

from engine.errors import ServiceError
from engine.health import TrackingHealth
from engine.redact import redact_text
from engine.tracking.follow import Moved
from engine.tracking.link import Link
from engine.tracking.messages import Begin, Done, Follow, Report, State
from engine.tracking.state import to_npz

QUEUE_REPORTS = 2_048
QUEUE_BYTES = 64 << 20
START_S = 120.0
ANSWER_S = 60.0
RETRY_S, RETRY_MAX_S = 1.0, 60.0
PENDING = "pending.msgpack"
PICKLED = "pickle"
"""The name under which an arm has a River model among its arrays."""


class MlflowAwayError(ServiceError):
    """The process is there, and MLflow is not."""


@dataclass(frozen=True)
class Copied:
    """What one version has learned, copied between two inputs; it is made bytes of elsewhere."""

    version: str
    sequence: int  # of the newest input folded into it
    learned: int
    algorithm: dict[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return sum(array.nbytes for array in self.arrays.values())

    def packed(self) -> State:
        """Return it as it travels. A River model is bytes already."""
        pickled = self.arrays.get(PICKLED)
        if pickled is not None:
            return State(self.version, self.sequence, self.learned, self.algorithm, b"", pickled.tobytes())
        return State(self.version, self.sequence, self.learned, self.algorithm, to_npz(self.arrays))


@dataclass
class Waiting:
    """A report in the queue, with what is not packed yet."""

    report: Report
    copies: tuple[Copied, ...] = ()

    def __post_init__(self) -> None:
        self.nbytes = self.report.nbytes + sum(copy.nbytes for copy in self.copies)

    def packed(self) -> Report:
        """Return the report as it travels."""
        if self.copies:
            states = (*self.report.states, *(copy.packed() for copy in self.copies))
            self.report, self.copies = msgspec.structs.replace(self.report, states=states), ()
        return self.report


class Tracker:
    """One MLflow server, as the engine has it. `offer`, `follow` and `health` never wait.

    log: structlog, from any thread. moved: is told, in the tracker's thread, of aliases that someone moved.
    """

    def __init__(
        self,
        begin: Begin,
        *,
        log: Any,
        moved: Callable[[Moved], None] | None = None,
        reports_max: int = QUEUE_REPORTS,
        bytes_max: int = QUEUE_BYTES,
        start_s: float = START_S,
        answer_s: float = ANSWER_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._begin = begin
        self._folder = Path(begin.folder)
        self._log = log
        self._moved = moved
        self._reports_max, self._bytes_max = reports_max, bytes_max
        self._start_s, self._answer_s = start_s, answer_s
        self._first_retry_s = self._retry_s = retry_s
        self._queue: deque[Waiting] = deque()
        self._bytes = 0
        self._is_to_follow = False
        self._is_stopping = False
        self._changed = threading.Condition()
        self._link: Link | None = None
        self._has_begun = False
        self._state: Literal["starting", "tracking", "retrying", "stopped"] = "starting"
        self._detail = ""
        self._sent = self._logged = self._dropped = self._refused = self._failures = self._dropped_told = 0
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin, with what an earlier engine left over."""
        for report in self._left_over():
            self.offer(report)
        self._thread.start()

    def offer(self, report: Report, copies: Sequence[Copied] = ()) -> None:
        """Have a report told, with the states that were copied for it. Beyond the limits the oldest waiting one is let go of."""
        waiting = Waiting(report, tuple(copies))
        with self._changed:
            self._queue.append(waiting)
            self._bytes += waiting.nbytes
            while len(self._queue) > self._reports_max or (self._bytes > self._bytes_max and len(self._queue) > 1):
                self._bytes -= self._queue.popleft().nbytes
                self._dropped += 1
            self._changed.notify()

    def follow(self) -> None:
        """Have the aliases looked at, once there is nothing else to tell."""
        with self._changed:
            self._is_to_follow = True
            self._changed.notify()

    def health(self) -> TrackingHealth:
        """Say how it is going."""
        with self._changed:
            return TrackingHealth(
                self._state, redact_text(self._begin.uri), len(self._queue), self._sent, self._logged, self._dropped, self._refused,
                self._failures, redact_text(self._detail),
            )  # fmt: skip

    def stop(self, timeout_s: float) -> None:
        """Tell what waits for so long at most, keep the rest for the next start, and end. Waits: not for the loop."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            with self._changed:
                self._state = "stopped"  # the thread sees it as soon as its request has failed
                self._changed.notify()
                if self._link is not None:
                    self._link.kill()
            self._thread.join()
        self._state = "stopped"
        self._keep_rest()

    # -- the thread

    def _run(self) -> None:
        try:
            while (work := self._next()) is not None:
                self._do(work)
        finally:
            if self._link is not None:
                self._link.close()

    def _next(self) -> Waiting | Follow | None:
        """Wait for something to tell; None at the end. A report stays in the queue until it was told."""
        with self._changed:
            while True:
                if self._state == "stopped" or (self._is_stopping and not self._queue):
                    return None
                if self._queue:
                    return self._queue[0]
                if self._is_to_follow:
                    self._is_to_follow = False
                    return Follow()
                self._changed.wait()

    def _do(self, work: Waiting | Follow) -> None:
        try:
            done = self._ready_link().ask(work.packed() if isinstance(work, Waiting) else work, self._answer_s)
        except MlflowAwayError as error:
            self._failed(str(error))
            return
        except ServiceError as error:
            self._close_link()
            self._failed(str(error))
            return
        if done.error and not done.is_lasting:
            self._failed(done.error)
            return
        with self._changed:
            if isinstance(work, Waiting) and self._queue and self._queue[0] is work:
                self._bytes -= self._queue.popleft().nbytes
            if done.error:
                self._refused += 1
            else:
                self._sent += isinstance(work, Waiting)
                self._logged += done.logged
        if done.error:
            self._log.error("MLflow refused a report", error=done.error)
        self._works()
        self._tell_moved(done)

    def _ready_link(self) -> Link:
        """Return a process that has begun. Raises ServiceError if there is none, or MLflow is not there: it lives on for the next try."""
        link = self._link
        if link is None:
            link = Link(self._folder)
            with self._changed:
                self._link, self._has_begun = link, False
                if self._state == "stopped":
                    link.kill()
        if not self._has_begun:
            done = link.ask(self._begin, self._start_s)
            if done.error:
                raise MlflowAwayError(done.error)
            self._has_begun = True
        return link

    def _close_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _failed(self, why: str) -> None:
        """Note that a try failed, say so once, and wait before the next."""
        with self._changed:
            if self._state == "stopped":
                return
            self._failures += 1
            is_news = self._state != "retrying"
            self._state, self._detail = "retrying", why
            wait_s, self._retry_s = self._retry_s, min(2.0 * self._retry_s, RETRY_MAX_S)
        if is_news:
            self._log.warning(
                "MLflow does not take what it is told", error=why, hint="the engine goes on; it is tried again"
            )
        until = time.monotonic() + wait_s
        with self._changed:
            while not self._is_stopping and (left := until - time.monotonic()) > 0.0:
                self._changed.wait(left)
            if self._is_stopping:
                self._state = "stopped"  # one that does not answer is not waited for at the end

    def _works(self) -> None:
        with self._changed:
            was, self._state, self._detail = self._state, "tracking" if self._state != "stopped" else "stopped", ""
            self._retry_s = self._first_retry_s
            dropped, self._dropped_told = self._dropped - self._dropped_told, self._dropped
        if was == "retrying":
            self._log.info("MLflow takes what it is told again")
        if dropped:
            self._log.warning("reports were let go of for want of room", reports=dropped)

    def _tell_moved(self, done: Done) -> None:
        for moved in done.moved:
            if not moved.version:
                self._log.warning(
                    "an alias that was moved is not followed", name=moved.name, number=moved.number, reason=moved.reason
                )
            elif self._moved is not None:
                self._moved(moved)

    # -- between two runs

    def _left_over(self) -> list[Report]:
        path = self._folder / PENDING
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=list[Report])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            self._log.warning("what was left to tell MLflow cannot be read", path=str(path), error=str(error))
            return []

    def _keep_rest(self) -> None:
        path = self._folder / PENDING
        try:
            if not self._queue:
                path.unlink(missing_ok=True)
                return
            part = path.with_name(path.name + ".part")
            part.write_bytes(msgspec.msgpack.encode([waiting.packed() for waiting in self._queue]))
            part.replace(path)
            self._log.info("what MLflow was not told yet is kept", reports=len(self._queue), path=str(path))
        except OSError as error:
            self._log.error("what MLflow was not told yet is lost", reports=len(self._queue), error=str(error))
