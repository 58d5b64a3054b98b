"""The watchdog under real loops, asyncio's and uvloop's: what holds them is named, what does not is let alone.

The one sleep here is what is looked for: a handler that blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from engine.events import Tick
from engine.watchdog import HOLDS_KEPT, OUTSIDE, PROCESS_HELD, Watchdog
from tests.folding import BTC, Run, environment, failing, listener, recorded, trade

MS = 1_000_000
DEADLINE_S = 20.0
STARVED = (PROCESS_HELD, OUTSIDE)
"""What a machine with too much to do may bring about by itself."""
Loop = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Loop:
    return asyncio.run if request.param == "asyncio" else uvloop.run


async def watched(hold: Callable[[], Any], hold_ms: float = 50.0, wanted: str = "") -> list[tuple[int, int, str]]:
    """Let something hold the loop, again if a busy machine got in between; return the holds up to one that is called as wanted."""
    heard: list[tuple[int, int, str]] = []
    told = asyncio.Event()

    def hear(when: int, held: int, what: str) -> None:
        heard.append((when, held, what))
        if re.search(wanted, what):
            told.set()

    watchdog = Watchdog(hold_ms, heard=hear)
    watchdog.start()
    await asyncio.sleep(0)  # from here on it watches
    async with asyncio.timeout(DEADLINE_S):
        while not told.is_set():
            asyncio.get_running_loop().call_soon(hold)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(told.wait(), 1.0)
    watchdog.stop()
    assert watchdog.holds() == heard
    assert (watchdog.count, watchdog.total_ns) == (len(heard), sum(held for _, held, _ in heard))
    return heard


def block(seconds: float = 0.12) -> None:
    time.sleep(seconds)


def spin(seconds: float = 0.12) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def blocking(_: Any) -> None:
    block()


def spinning(_: Any) -> Iterable[Any]:
    spin()
    yield from ()


@pytest.mark.parametrize("answer", [blocking, spinning], ids=["one that waits", "a generator that computes"])
def test_a_strategys_handler_that_blocks_is_named_with_its_strategy_and_line(run: Loop, answer: Any) -> None:
    fold = Run(listener(Tick, name="quick"), listener(Tick, name="slow", answer=answer))
    fold.push([trade(BTC, 0.0)])  # what it compiles is not what is looked for
    before = time.time_ns()
    heard = run(watched(lambda: fold.push([trade(BTC, 1.0)]), wanted="strategy"))
    when, held, what = next(hold for hold in heard if "strategy" in hold[2])
    assert re.fullmatch(r"strategy slow: \S+ \((folding|test_watchdog)\.py:\d+\)", what), what
    assert 60 * MS <= held <= 5_000 * MS
    assert before <= when <= time.time_ns() - held + 50 * MS


def test_a_handler_that_fails_slowly_and_one_at_the_start_are_named_too(run: Loop) -> None:
    def fails(event: Any) -> Any:
        block()
        return failing(event)

    fold = Run(listener(Tick, name="wrong", answer=fails))
    heard = run(watched(lambda: fold.push([trade(BTC, 1.0)]), wanted="strategy wrong: Listener.on_event"))
    assert fold.troubles()[0] == ("HandlerFailed", "wrong")
    assert any(re.fullmatch(r"strategy wrong: Listener\.\w+ \(folding\.py:\d+\)", what) for _, _, what in heard)


def test_a_handler_in_native_code_that_lets_no_thread_run_is_named(run: Loop) -> None:
    # sorted() keeps the interpreter's lock: the watchdog comes to see it only when it is over, and still finds who called it.
    numbers = [float(i * 7919 % 1_000_003) for i in range(600_000)]

    def sort(_: Any) -> None:
        sorted(numbers, key=lambda number: -number)
        sorted(numbers)

    fold = Run(listener(Tick, name="sorting", answer=sort))
    heard = run(watched(lambda: fold.push([trade(BTC, 1.0)]), wanted="strategy sorting"))
    assert [what for _, _, what in heard if "sorting" in what]


def test_without_a_strategy_the_innermost_frame_of_our_packages_is_named(run: Loop) -> None:
    fold = Run()
    _, rows = recorded()

    def work() -> None:
        end = time.perf_counter() + 0.15
        while time.perf_counter() < end:
            fold.push(rows.take(slice(0, 500)))

    fold.fold.keys = recorded()[0]
    fold.push(rows.take(slice(0, 500)))
    heard = run(watched(work, wanted="^(engine|store)"))
    assert any(re.fullmatch(r"(engine|store)\.\w+:[\w.<>]+:\d+", what) for _, _, what in heard), heard


def test_what_is_not_ours_is_named_by_its_innermost_python_frame(run: Loop) -> None:
    blocked = run(watched(block, wanted=r"^\S*test_watchdog:block:\d+$"))
    assert blocked[-1][1] >= 60 * MS

    def decode() -> None:
        end = time.perf_counter() + 0.2
        while time.perf_counter() < end:
            json.dumps([0] * 1_000, indent=1)  # with an indent it is Python that encodes

    decoded = run(watched(decode, wanted=r"^\S*decode:\d+, in json\.\S+:\d+$"))
    assert decoded[-1][1] >= 60 * MS


def test_what_most_of_the_time_went_to_is_the_name(run: Loop) -> None:
    def both() -> None:
        block(0.08)
        spin(0.4)

    heard = run(watched(both, wanted="spin:"))
    assert any(re.search(r"test_watchdog:spin:\d+$", what) and held > 400 * MS for _, held, what in heard), heard


def collect() -> None:
    gc.collect()


@pytest.mark.parametrize("hold", [collect, gc.collect], ids=["in a callback", "in no Python code"])
def test_a_garbage_collection_is_named_as_what_it_is(run: Loop, hold: Callable[[], Any]) -> None:
    kept: list[Any] = [[] for _ in range(100_000)]
    for part in kept:
        part.append(part)
    try:
        heard = run(watched(hold, 10.0, wanted="garbage"))
    finally:
        kept.clear()
        gc.collect()
    assert any(re.match(r"garbage collection, \d+ ms(, in .+)?$", what) for _, _, what in heard), heard


class Looking(Watchdog):
    """Tells how often it has looked whether the loop is busy; it does so every 0.6 of `hold_ms`."""

    looks = 0

    def _is_busy(self, now: int) -> bool:
        self.looks += 1
        return super()._is_busy(now)

    def _go_on(self, now: int) -> bool:
        going = super()._go_on(now)
        self.has_looked()
        return going

    def has_looked(self) -> None:
        """Replaced by whoever wants to hear of it, on the watchdog's thread."""


def test_many_short_callbacks_and_an_idle_loop_are_no_hold(run: Loop) -> None:
    heard: list[str] = []

    async def busy_then_idle() -> None:
        watchdog = Looking(200, heard=lambda _when, _held, what: heard.append(what))
        watchdog.start()
        loop, enough = asyncio.get_running_loop(), asyncio.Event()
        begun = time.monotonic()
        while time.monotonic() - begun < 0.5:
            spin(0.01)
            await asyncio.sleep(0)
        wanted = watchdog.looks + 4

        def looked() -> None:
            if watchdog.looks >= wanted:
                loop.call_soon_threadsafe(enough.set)

        watchdog.has_looked = looked  # type: ignore[method-assign]
        async with asyncio.timeout(DEADLINE_S):
            await enough.wait()
        watchdog.stop()

    run(busy_then_idle())
    assert [what for what in heard if what not in STARVED] == []


def test_a_hold_that_stop_ends_is_reported_and_stop_leaves_nothing_behind(run: Loop) -> None:
    heard: list[tuple[int, str]] = []

    async def hold() -> None:
        watchdog = Watchdog(50, heard=lambda _when, held, what: heard.append((held, what)))
        watchdog.start()
        await asyncio.sleep(0)
        block(0.15)
        watchdog.stop()
        watchdog.stop()

    threads, callbacks = threading.active_count(), list(gc.callbacks)
    run(hold())
    assert any(held >= 100 * MS and "block" in what for held, what in heard), heard
    assert (threading.active_count(), gc.callbacks) == (threads, callbacks)


def test_it_can_be_started_again_on_another_loop(run: Loop) -> None:
    heard: list[str] = []
    watchdog = Watchdog(50, heard=lambda _when, _held, what: heard.append(what))

    async def hold() -> None:
        watchdog.start()
        watchdog.start()
        await asyncio.sleep(0)
        block(0.1)
        await asyncio.sleep(0)
        watchdog.stop()

    for _ in range(2):
        run(hold())
    assert len([what for what in heard if "block" in what]) == 2


def test_started_and_stopped_within_one_iteration_it_never_runs(run: Loop) -> None:
    async def both() -> None:
        watchdog = Watchdog(50, heard=lambda *_: None)
        watchdog.start()
        watchdog.stop()
        await asyncio.sleep(0)

    threads = threading.active_count()
    run(both())
    assert threading.active_count() == threads


def test_only_the_newest_holds_are_kept_and_all_are_counted(run: Loop) -> None:
    async def many() -> Watchdog:
        watchdog = Watchdog(2, heard=lambda *_: None)
        watchdog.start()
        async with asyncio.timeout(DEADLINE_S):
            while watchdog.count < HOLDS_KEPT + 5:
                await asyncio.sleep(0)
                block(0.006)
        watchdog.stop()
        return watchdog

    watchdog = run(many())
    assert watchdog.count >= HOLDS_KEPT + 5
    holds = watchdog.holds()
    assert len(holds) == HOLDS_KEPT
    assert holds == sorted(holds)


def test_a_hold_that_does_not_end_is_told_of_while_it_lasts(run: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.watchdog.LASTING_NS", 100 * MS)
    told: list[tuple[int, str, str]] = []
    stuck = threading.Event()

    def lasting(_when: int, held: int, what: str) -> None:
        told.append((held, what, threading.current_thread().name))
        stuck.set()

    async def hang() -> None:
        watchdog = Watchdog(50, heard=lambda *_: None, lasting=lasting)
        watchdog.start()
        await asyncio.sleep(0)
        assert stuck.wait(DEADLINE_S)  # the loop stands until it was told of
        watchdog.stop()

    run(hang())
    ((held, _, thread),) = [hold for hold in told if re.search(r"hang:\d+, in threading:", hold[1])]
    assert (held >= 100 * MS, thread) == (True, "watchdog")


STOPPED = """
    import asyncio, sys, uvloop
    from engine.watchdog import Watchdog

    async def main():
        told = asyncio.Event()
        watchdog = Watchdog(100, heard=lambda when, held, what: (print(held, what, flush=True), told.set()))
        watchdog.start()
        await asyncio.sleep(0)
        print("ready", flush=True)
        await told.wait()
        watchdog.stop()

    (uvloop if sys.argv[1] == "uvloop" else asyncio).run(main())
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process is stopped is read from /proc")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_process_that_was_stopped_is_no_fault_of_a_handler(loop: str) -> None:
    words = [sys.executable, "-c", textwrap.dedent(STOPPED), loop]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # Again if it was stopped before the watchdog had begun to wait.
        end = time.monotonic() + DEADLINE_S
        while not select.select([process.stdout], [], [], 0.5)[0]:
            assert time.monotonic() < end
            process.send_signal(signal.SIGSTOP)
            while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                os.sched_yield()
            threading.Event().wait(0.3)  # what is looked for: so long nothing of it runs
            process.send_signal(signal.SIGCONT)
        held, _, what = process.stdout.readline().strip().partition(" ")
        assert process.wait(DEADLINE_S) == 0
    assert what == PROCESS_HELD
    assert int(held) > 200 * MS
