"""The watchdog: names what held the event loop for longer than it should have been held.

The fold looks at no clock, so nobody in it can say that it was slow. A thread looks at where the loop's thread stands, often enough
that nothing too long escapes it. If that is in a callback, it asks the loop for a sign of life and looks again and again until the
sign comes. An idle loop is never woken: each waking of a sleeping thread costs far more than the look itself.

    in a strategy's handler     "strategy mine: Mine.on_features (mine.py:31)"
    else in our own code        "engine.fold:Fold.push:210", the innermost frame of our packages
    else in somebody's          "plugin:refresh:12, in socket:socket.recv:706": the callback, and its innermost frame
    in no Python code           OUTSIDE

What was seen most often is what a hold is called. If garbage was collected for most of it, that is said; and if the watchdog's own
thread was late while the process used no processor, the process as a whole was held, and no handler is to blame. A laptop's sleep
stops the monotonic clock, and is no hold.

A hold ends with the sign of life. It begins with the loop's iteration, whose time asyncio has in a local variable; uvloop has none,
and there it begins as much before it was first seen as the loop's thread has used the processor since the last look. So what
computes is measured to a millisecond or two; what waits under uvloop may seem shorter by the time between two looks, 0.6 of
`hold_ms`, and what followed on other work longer by as much.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NamedTuple

from engine.actor import Supervisor

OUTSIDE = "no Python code: the event loop itself, or no processor for its thread"
PROCESS_HELD = "the whole process: it was stopped, or got no processor"
HOLDS_KEPT = 20
NAMES_KEPT = 32  # different places within one hold
PACKAGES = frozenset({"engine", "feeds", "store", "replay", "strategies"})
BETWEEN = frozenset({"engine.actor", "strategies.base"})
"""Modules whose frames stand between the supervisor's call and the plugin's handler."""
IDLE = frozenset({"selectors", "asyncio.base_events", "asyncio.events", __name__})
"""Modules whose frames are the loop's own work, or ours."""
LOOPS = frozenset({"asyncio", "uvloop"})
NS_PER_MS = 1_000_000
COLLECTION_NS = NS_PER_MS  # garbage collections below this are not worth a note
LASTING_NS = 5_000_000_000


class Hold(NamedTuple):
    """One time that the loop was held: what `heard` hears."""

    when_ns: int  # UTC, when it began
    held_ns: int
    what: str


class Watchdog:
    """Watches the loop that it is started on, asyncio's or uvloop's.

    `heard` is called on the loop with (when, how long, what), ns, soon after a hold of `hold_ms` or longer has ended. `lasting` is
    called with the same from the watchdog's own thread once a hold has lasted for five seconds and goes on: a loop that never comes
    back could not tell.
    """

    def __init__(
        self,
        hold_ms: float,
        *,
        heard: Callable[[int, int, str], None],
        lasting: Callable[[int, int, str], None] | None = None,
    ) -> None:
        self._hold_ns = round(hold_ms * NS_PER_MS)
        self._look_ns = self._hold_ns * 6 // 10
        self._heard = heard
        self._lasting = lasting
        self._newest: deque[Hold] = deque(maxlen=HOLDS_KEPT)
        self.count = 0
        """Holds so far."""
        self.total_ns = 0
        """How long all of them took together."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._thread_id = 0
        self._clock_id: int | None = None  # of the processor time of the loop's thread
        self._outside: frozenset[CodeType] = frozenset()
        self._wake = threading.Event()
        self._is_stopping = False
        self._came = 0  # when the sign of life came that was asked for, 0 while it has not; monotonic ns
        self._collections: deque[tuple[int, int]] = deque(maxlen=HOLDS_KEPT)
        self._collection_began = 0
        self._judged: deque[Hold] = deque(maxlen=HOLDS_KEPT)  # on its way to the loop
        # The thread's own notes:
        self._began = 0  # of what may be a hold, monotonic ns; 0 while the loop is free
        self._free = 0  # when the loop was last known to be free
        self._judged_until = 0  # the end of the newest hold
        self._used = 0  # processor time of its thread at the last look
        self._seen: Counter[tuple[str, str]] = Counter()  # (what, where in it)
        self._is_told = False
        self._slips: deque[tuple[int, int]] = deque(maxlen=HOLDS_KEPT)  # (from, to): no thread of the process got on

    def holds(self) -> list[tuple[int, int, str]]:
        """Return the newest holds, (when, how long, what), ns, newest last; at most 20."""
        return [(hold.when_ns, hold.held_ns, hold.what) for hold in self._newest]

    def start(self) -> None:
        """Begin to watch the running loop. Called on it; watches from its next iteration on."""
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._is_stopping = False
        self._wake.clear()
        self._began = 0
        gc.callbacks.append(self._collected)
        self._loop.call_soon(self._begin)

    def stop(self) -> None:
        """Cease to watch. Called on the loop; a hold that is just ending is reported now."""
        if self._loop is None:
            return
        self._is_stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        gc.callbacks.remove(self._collected)
        self._loop = self._thread = None
        self._judge(self._came or time.monotonic_ns())
        self._report()

    # -- on the loop

    def _begin(self) -> None:
        """Learn which frames are the loop's own, those under which it calls a callback, and let the thread go."""
        if self._is_stopping or self._loop is None:
            return
        outside = set()
        frame = sys._getframe().f_back
        while frame is not None:
            outside.add(frame.f_code)
            frame = frame.f_back
        self._outside = frozenset(outside)
        self._free = time.monotonic_ns()
        if hasattr(time, "pthread_getcpuclockid"):  # macOS has none
            self._clock_id = time.pthread_getcpuclockid(self._thread_id)
        self._used = self._processor_ns()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        """The sign of life."""
        self._came = time.monotonic_ns()
        if self._came - self._began >= self._hold_ns:
            self._wake.set()

    def _report(self) -> None:
        while self._judged:
            hold = self._judged.popleft()
            self._newest.append(hold)
            self.count += 1
            self.total_ns += hold.held_ns
            self._heard(*hold)

    def _collected(self, phase: str, _: dict[str, int]) -> None:
        """Note a garbage collection: it holds every thread, whichever it runs on."""
        if phase == "start":
            self._collection_began = time.monotonic_ns()
        elif self._collection_began:
            ended = time.monotonic_ns()
            if ended - self._collection_began >= COLLECTION_NS:
                self._collections.append((self._collection_began, ended))
            self._collection_began = 0

    # -- on the thread

    def _watch(self) -> None:
        used = time.process_time_ns()
        while True:
            now = time.monotonic_ns()
            # While a hold lasts it is looked at often; the longer it lasts, the less often.
            wait = self._look_ns if not self._began else max(self._look_ns // 5, (now - self._began) // 20)
            if self._wake.wait(wait / 1e9):
                self._wake.clear()
            planned, now, before, used = now + wait, time.monotonic_ns(), used, time.process_time_ns()
            if self._is_stopping:
                return
            slip = now - planned
            if slip > self._look_ns and used - before < slip // 2:
                self._slips.append((planned, now))
                if slip >= self._hold_ns and not self._began:
                    self._began, self._came = planned, now  # an idle loop was held too
                    self._seen.clear()
            if not self._go_on(now):
                return

    def _go_on(self, now: int) -> bool:
        """Take note of a sign of life, or look; return False if the loop has gone without a stop."""
        loop = self._loop
        if loop is None:
            return False
        if self._began and self._came:
            self._judge(self._came)
        elif self._began:
            self._look(now)
        try:
            if not self._began and self._is_busy(now):
                self._came = 0
                loop.call_soon_threadsafe(self._live)
            if not self._began:
                self._judge_collections()
            if self._judged:
                loop.call_soon_threadsafe(self._report)
        except RuntimeError:
            return False
        return True

    def _is_busy(self, now: int) -> bool:
        """Whether the loop is in a callback; if so, what may be a hold has begun."""
        used = self._processor_ns()
        frame = sys._current_frames().get(self._thread_id)
        inside, base = self._inside(frame)
        busy = any(_module(found) not in IDLE for found in inside)
        if busy:
            began = self._iteration(base)
            self._began = max(self._free, min(now, began or now - (used - self._used)))
            self._seen.clear()
            self._seen[_place(inside)] = 1
            self._is_told = False
        else:
            self._free = now
        self._used = used
        del frame, inside, base  # or the locals of those frames would outlive their functions
        return busy

    def _look(self, now: int) -> None:
        """Note where the loop's thread stands while the sign of life does not come."""
        place = _place(self._inside(sys._current_frames().get(self._thread_id))[0])
        if self._came:
            return  # it has just come
        if place in self._seen or len(self._seen) < NAMES_KEPT:
            self._seen[place] += 1
        if self._lasting is not None and not self._is_told and now - self._began >= LASTING_NS:
            self._is_told = True
            self._lasting(_utc(self._began), now - self._began, self._most_seen())

    def _judge(self, ended: int) -> None:
        """Say what may have been a hold, if it was one. The loop is free."""
        began, self._began, self._free, self._used = self._began, 0, ended, self._processor_ns()
        held = ended - began
        if not began or held < self._hold_ns:
            return
        seen = self._most_seen()
        collecting = _overlap(self._collections, began, ended)
        if self._collection_began:  # it has just ended, and waits to note it
            collecting += max(0, ended - max(began, self._collection_began))
        if collecting >= held // 2:
            what = f"garbage collection, {collecting / 1e6:.0f} ms" + (f", in {seen}" if seen else "")
        elif _overlap(self._slips, began, ended) >= held // 2:
            what = PROCESS_HELD
        else:
            what = seen
        self._judged.append(Hold(_utc(began), held, what))
        self._judged_until = ended

    def _judge_collections(self) -> None:
        """Report collections that were long enough by themselves and fell into no hold: while another thread or the loop itself ran."""
        while self._collections:
            began, ended = self._collections.popleft()
            if ended - began >= self._hold_ns and began >= self._judged_until:
                self._judged.append(
                    Hold(_utc(began), ended - began, f"garbage collection, {(ended - began) / 1e6:.0f} ms")
                )

    def _most_seen(self) -> str:
        """What was seen most often, and where in it most often; "" if the loop was idle throughout."""
        totals: Counter[str] = Counter()
        for (what, _), times in self._seen.items():
            totals[what] += times
        if not totals:
            return ""
        found = totals.most_common(1)[0][0]
        (_, where), _ = max(
            ((place, n) for place, n in self._seen.items() if place[0] == found), key=lambda pair: pair[1]
        )
        return found + where

    def _processor_ns(self) -> int:
        """Processor time that the loop's thread has used; 0 where the system does not say."""
        try:
            return 0 if self._clock_id is None else time.clock_gettime_ns(self._clock_id)
        except OSError:
            return 0  # the thread has ended

    def _inside(self, frame: FrameType | None) -> tuple[list[FrameType], FrameType | None]:
        """Return a thread's frames below the loop's own, innermost first, and the innermost of the loop's own."""
        found: list[FrameType] = []
        while frame is not None and frame.f_code not in self._outside:
            found.append(frame)
            frame = frame.f_back
        return found, frame

    def _iteration(self, base: FrameType | None) -> int:
        """When the loop's present iteration began, monotonic ns; 0 if that cannot be found out."""
        while base is not None:
            if base.f_code is asyncio.BaseEventLoop._run_once.__code__:  # type: ignore[attr-defined]
                seconds = base.f_locals.get("end_time")
                return int(seconds * 1e9) if isinstance(seconds, float) else 0
            base = base.f_back
        return 0


def _place(inside: list[FrameType]) -> tuple[str, str]:
    """Name what a thread is in, and where in that, by its frames, innermost first."""
    for index, found in enumerate(inside):
        if found.f_code is Supervisor._call.__code__:
            return _handler(found, inside[:index])
    others = [found for found in inside if _module(found) not in IDLE]
    ours = next((found for found in others if _module(found).partition(".")[0] in PACKAGES), None)
    if ours is not None:
        return _name(ours), f":{ours.f_lineno}"
    if not others:
        return OUTSIDE, ""
    # The callback is the outermost of all; asyncio and uvloop wrap some in frames of their own.
    callback = next((found for found in reversed(others) if _module(found).partition(".")[0] not in LOOPS), others[-1])
    innermost = "" if callback is others[0] else f", in {_name(others[0])}:{others[0].f_lineno}"
    return _name(callback), f":{callback.f_lineno}{innermost}"


def _handler(call: FrameType, inner: list[FrameType]) -> tuple[str, str]:
    """Name the strategy whose handler the supervisor called, and where in its handler it stands."""
    supervised: Any = call.f_locals.get("supervised")
    name = getattr(supervised, "name", "unknown")
    handler = next((frame for frame in reversed(inner) if _module(frame) not in BETWEEN), None)
    if handler is None:
        return f"strategy {name}", ""
    file = handler.f_code.co_filename.rpartition("/")[2]
    return f"strategy {name}: {handler.f_code.co_qualname}", f" ({file}:{handler.f_lineno})"


def _name(frame: FrameType) -> str:
    return f"{_module(frame)}:{frame.f_code.co_qualname}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "?"))


def _overlap(spans: deque[tuple[int, int]], began: int, ended: int) -> int:
    """How much of began..ended lies in the spans, ns. They may grow meanwhile, on another thread."""
    return sum(max(0, min(to, ended) - max(start, began)) for start, to in spans.copy())


def _utc(monotonic_ns: int) -> int:
    """A moment of the monotonic clock as ns UTC."""
    return time.time_ns() - (time.monotonic_ns() - monotonic_ns)
