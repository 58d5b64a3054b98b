"""The supervisor: a failing plugin is isolated, reported, parked and resumed, and nobody else notices by a bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, ClassVar

import msgspec
import pytest

from engine.actor import FAILURES_IN_A_ROW
from engine.errors import ConfigError
from engine.events import (
    Command,
    FeatureEvent,
    HandlerFailed,
    Heartbeat,
    Parked,
    Resumed,
    Signal,
    Tick,
)
from strategies import Strategy, load
from tests.folding import BTC, SIZES, START, Listener, Run, failing, listener, signal, trade, trades

EXAMPLES = ("moving_average_cross", "order_flow_imbalance")


def command(verb: Any, target: str) -> Command:
    return Command(verb, target, START, START)


def on_prices(*broken: float) -> Callable[[Any], Iterable[Any] | None]:
    """Fail at ticks of these prices, answer all others with a signal."""

    def answer(event: Any) -> Iterable[Any]:
        return failing(event) if event.price in broken else [signal(event, event.price)]

    return answer


def ticks(*prices: float) -> list[dict[str, Any]]:
    return [trade(at=float(i), price=price) for i, price in enumerate(prices)]


def values(run: Run, strategy: str = "listener") -> list[float]:
    return [found.value for found in run.of(Signal, strategy)]


# A failing handler


def test_a_failure_is_an_event_with_the_plugin_the_handler_the_error_its_traceback_and_the_times_of_the_input() -> None:
    class Fragile(Strategy):
        subscribes: ClassVar[list[str | type]] = [Tick]

        def on_tick(self, event: Tick) -> None:
            raise LookupError(f"no level at {event.price}")

    run = Run(Fragile()).push([trade(at=1.0, price=7.0, received=START + 5)])
    (failed,) = run.of(HandlerFailed)
    assert (failed.actor, failed.handler, failed.error) == ("fragile", "on_tick", "LookupError: no level at 7.0")
    assert failed.traceback.startswith("Traceback (most recent call last):")
    assert "in on_tick" in failed.traceback
    assert failed.traceback.rstrip().endswith("LookupError: no level at 7.0")
    assert (failed.in_a_row, failed.sequence, failed.received) == (1, 1, START + 5)


def test_failures_are_heard_by_plugins_that_subscribe_to_them() -> None:
    watcher = listener(HandlerFailed, Parked, Resumed, name="watcher")
    run = Run(listener(Tick, answer=failing), watcher).push(trades(6))
    run.fold.input(command("resume", "listener"))
    assert [type(event) for event in watcher.heard] == [HandlerFailed] * 5 + [Parked, Resumed]


def test_a_generator_that_raises_after_its_first_yield_publishes_nothing_for_that_event() -> None:
    def answer(event: Any) -> Iterator[Signal]:
        yield signal(event, event.price)
        if event.price == 2.0:
            raise ValueError("too late")

    watcher = listener(Signal, name="watcher")
    run = Run(listener(Tick, answer=answer), watcher).push(ticks(1.0, 2.0, 3.0))
    assert values(run) == [1.0, 3.0]
    assert [event.value for event in watcher.heard] == [1.0, 3.0]
    assert run.troubles() == [("HandlerFailed", "listener")]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda event: [signal(event), "sell everything"], "listener published str 'sell everything'"),
        (lambda event: [signal(event), None], "listener published NoneType None"),
        (lambda event: 5, "TypeError: 'int' object is not iterable"),
        (lambda event: [event.no_such_field], "AttributeError"),
    ],
)
def test_an_answer_that_is_no_event_is_a_failure_and_nothing_of_it_is_published(answer: Any, said: str) -> None:
    run = Run(listener(Tick, answer=answer)).push(ticks(1.0))
    assert values(run) == []
    assert said in run.of(HandlerFailed)[0].error


def test_a_single_signal_is_taken_without_a_list_around_it() -> None:
    run = Run(listener(Tick, answer=signal)).push(ticks(1.0, 2.0))
    assert values(run) == [1.0, 1.0]
    assert run.troubles() == []


def test_an_error_that_cannot_even_be_printed_is_isolated_like_any_other() -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def answer(event: Any) -> None:
        raise UnprintableError

    after = listener(Tick, name="after")
    run = Run(listener(Tick, answer=answer), after).push(trades(3))
    assert run.troubles() == [("HandlerFailed", "listener")] * 3
    assert len(after.heard) == 3


def test_a_failing_handler_keeps_the_state_it_has() -> None:
    class Counting(Strategy):
        subscribes: ClassVar[list[str | type]] = [Tick]

        class State(msgspec.Struct):
            seen: int = 0

        def on_tick(self, event: Tick) -> list[Signal]:
            self.state.seen += 1
            if event.price == 2.0:
                raise ValueError
            return [self.signal(event, self.state.seen)]

    run = Run(Counting()).push(ticks(1.0, 2.0, 3.0))
    assert values(run, "counting") == [1.0, 3.0]


def test_handlers_after_a_failing_one_hear_the_same_event() -> None:
    before, after = (listener(Tick, name=name) for name in ("before", "after"))
    Run(before, listener(Tick, answer=failing), after).push(trades(7))
    assert before.heard == after.heard
    assert [event.sequence for event in after.heard] == list(range(1, 8))


# Parking


def test_five_failures_in_a_row_park_a_plugin_and_it_hears_no_more() -> None:
    plugin = listener(Tick, answer=failing)
    run = Run(plugin).push(trades(9))
    assert run.troubles() == [("HandlerFailed", "listener")] * FAILURES_IN_A_ROW + [("Parked", "listener")]
    assert [event.in_a_row for event in run.of(HandlerFailed)] == [1, 2, 3, 4, 5]
    assert [event.sequence for event in plugin.heard] == [1, 2, 3, 4, 5]
    (parked,) = run.of(Parked)
    assert parked.sequence == 5
    assert parked.reason == "5 failures in a row, the last in on_event: ValueError: cannot stand Tick"


def test_a_success_in_between_resets_the_count() -> None:
    prices = [2.0] * 4 + [1.0] + [2.0] * 4 + [1.0] + [2.0] * 5 + [1.0]
    run = Run(listener(Tick, answer=on_prices(2.0))).push(ticks(*prices))
    assert [event.in_a_row for event in run.of(HandlerFailed)] == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert values(run) == [1.0, 1.0]
    assert [event.sequence for event in run.of(Parked)] == [15]


def test_failures_of_different_handlers_of_one_plugin_count_together() -> None:
    plugin = listener(Tick, "quick", "bars", answer=failing)
    run = Run(plugin).push(trades(9, step=1.0))
    assert [type(event) for event in plugin.heard] == [Tick, FeatureEvent, Tick, FeatureEvent, FeatureEvent]
    assert [event.sequence for event in run.of(Parked)] == [2]


@pytest.mark.parametrize("size", SIZES)
def test_resume_wakes_a_parked_plugin_with_a_count_of_none(size: int) -> None:
    plugin = listener(Tick, answer=on_prices(2.0))
    run = Run(plugin).push(ticks(*[2.0] * 6), size)
    run.fold.input(command("resume", "listener"))
    run.push(ticks(2.0, 2.0, 2.0, 2.0, 1.0), size)
    assert run.troubles() == [
        *[("HandlerFailed", "listener")] * 5, ("Parked", "listener"), ("Resumed", "listener"),
        *[("HandlerFailed", "listener")] * 4,
    ]  # fmt: skip
    (resumed,) = run.of(Resumed)
    assert (resumed.sequence, resumed.received) == (7, START)
    assert values(run) == [1.0]


@pytest.mark.parametrize("size", SIZES)
def test_a_park_command_silences_a_plugin_from_there_on(size: int) -> None:
    plugin, other = listener(Tick), listener(Tick, name="other")
    run = Run(plugin, other).push(ticks(1.0, 2.0), size)
    run.fold.input(command("park", "listener"))
    run.push(ticks(3.0), size)
    assert [event.price for event in plugin.heard] == [1.0, 2.0]
    assert [event.price for event in other.heard] == [1.0, 2.0, 3.0]
    (parked,) = run.of(Parked)
    assert (parked.actor, parked.reason, parked.sequence) == ("listener", "by command", 3)


def test_parking_the_parked_and_resuming_the_running_changes_nothing() -> None:
    run = Run(listener(Tick))
    run.fold.input(command("resume", "listener"))
    for _ in range(2):
        run.fold.input(command("park", "listener"))
    assert run.troubles() == [("Parked", "listener")]


def test_a_command_takes_the_next_sequence_number() -> None:
    commands = listener(Command)
    run = Run(commands).push(trades(2))
    run.fold.input(command("resume", "listener"))
    run.push(trades(1, first_id=3))
    assert [event.sequence for event in commands.heard] == [3]
    assert run.fold.ingress.next_sequence == 5


def test_a_command_for_an_unknown_plugin_names_those_there_are() -> None:
    run = Run(listener(Tick), listener(Tick, name="other"))
    with pytest.raises(ConfigError, match=r"^resume 'lisener': expected one of listener, other$"):
        run.fold.input(command("resume", "lisener"))
    with pytest.raises(ConfigError, match=r"^park 'x': expected one of no actors$"):
        Run().fold.input(command("park", "x"))


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ConfigError, match="actor 'listener' is there already"):
        Run(listener(Tick), listener(Tick))


# The limit


def endless(event: Any) -> Iterable[Any]:
    """Answer a tick, and each signal with two more."""
    return [signal(event), signal(event)]


def test_a_handler_that_answers_its_own_events_twice_each_fails_and_is_parked_and_the_engine_goes_on() -> None:
    watcher = listener(Tick, name="watcher")
    run = Run(listener(Tick, Signal, answer=endless), watcher, bus_limit=50).push(trades(20))
    assert run.troubles()[-1] == ("Parked", "listener")
    assert "expected at most 50 (engine.bus_limit)" in run.of(HandlerFailed)[0].error
    assert len(run.of(Signal)) <= 50 * len({event.sequence for event in run.of(Signal)})
    assert [event.sequence for event in watcher.heard] == list(range(1, 21))


def test_a_handler_that_answers_each_of_its_own_events_with_one_more_is_parked_in_the_end() -> None:
    # It fails once an input, when the limit is hit: the successes before that must not save it for ever.
    watcher = listener(Tick, name="watcher")
    run = Run(listener(Tick, Signal, answer=lambda event: [signal(event)]), watcher, bus_limit=50).push(trades(20))
    assert len(watcher.heard) == 20
    assert ("Parked", "listener") in run.troubles(), f"after {len(run.of(HandlerFailed))} inputs that hit the limit"


def test_a_generator_that_does_not_end_is_cut_off_at_the_limit() -> None:
    given = []

    def answer(event: Any) -> Iterator[Signal]:
        for number in range(1000):  # an endless one would never come back
            given.append(number)
            yield signal(event)

    run = Run(listener(Tick, answer=answer), bus_limit=10).push(trades(1))
    assert run.troubles() == [("HandlerFailed", "listener")]
    assert len(given) <= 11, f"{len(given)} events were taken from a handler that may publish 10"


def test_who_hears_its_own_failures_and_fails_at_them_is_parked_too() -> None:
    run = Run(listener(Tick, HandlerFailed, answer=failing)).push(trades(1))
    assert run.troubles() == [("HandlerFailed", "listener")] * 5 + [("Parked", "listener")]


# Start and stop


def test_a_failure_at_start_or_stop_is_isolated_and_named() -> None:
    class Sick(Strategy):
        def on_start(self) -> None:
            raise ValueError("no start")

        def on_stop(self) -> None:
            raise ValueError("no stop")

    class Well(Strategy):
        started = stopped = 0

        def on_start(self) -> None:
            self.started += 1

        def on_stop(self) -> None:
            self.stopped += 1

    well = Well()
    run = Run(Sick(), well).push(trades(1))
    run.fold.stop()
    assert [(event.handler, event.error) for event in run.of(HandlerFailed)] == [
        ("start", "ValueError: no start"),
        ("stop", "ValueError: no stop"),
    ]
    assert (well.started, well.stopped) == (1, 1)


def test_a_parked_plugin_is_not_asked_for_its_last_words() -> None:
    class Talkative(Listener):
        subscribes: ClassVar[list[str | type]] = [Tick]

        def on_stop(self) -> Iterable[Signal]:
            return [Signal("", *BTC, 1.0, "bye", 0, 0)]

    run = Run(Talkative()).push(trades(2))
    run.fold.input(command("park", "talkative"))
    run.fold.stop()
    assert run.of(Signal) == []


# Everybody else


def faults(event: Any) -> Iterable[Any] | None:
    """Fail at two of three events: never five in a row."""
    return failing(event) if event.sequence % 3 else None


def spoilt(event: Any) -> Iterator[Any]:
    yield from failing(event)
    yield signal(event)


BROKEN: dict[str, Callable[[Any], Iterable[Any] | None]] = {
    "fails now and then": faults,
    "is parked": failing,
    "is parked, a generator": spoilt,
    "publishes without end": endless,
}


@cache
def between_examples(size: int, *plugins: Any) -> Run:
    """Fold a minute and a half of the fixture with the two examples, and plugins between them."""
    first, second = (load(name) for name in EXAMPLES)
    return Run(first, *plugins, second, views=None, bus_limit=500).push_recorded(size, last=6000)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", BROKEN)
def test_a_plugin_that_fails_changes_no_bit_of_anything_else(how: str, size: int) -> None:
    clean = between_examples(size)
    spoiled = between_examples(size, listener(Tick, "market", Signal, Heartbeat, name="broken", answer=BROKEN[how]))
    assert any(actor == "broken" for _, actor in spoiled.troubles()), "the plugin did not fail: nothing was tried"
    for name in EXAMPLES:
        assert clean.of(Signal, name), f"no signals of {name}: nothing was compared"
        assert spoiled.of(Signal, name) == clean.of(Signal, name)
    assert spoiled.digest()["features"] == clean.digest()["features"]
    assert spoiled.digest()["inputs"] == clean.digest()["inputs"]
    if how != "publishes without end":
        assert spoiled.digest()["signals"] == clean.digest()["signals"]
        assert spoiled.of(Signal, "broken") == []


@pytest.mark.parametrize("how", BROKEN)
def test_a_failing_plugin_fails_alike_at_every_block_size(how: str) -> None:
    def run(size: int) -> list[Any]:
        made = Run(listener(Tick, "quick", Signal, name="broken", answer=BROKEN[how]), bus_limit=100)
        made.push_recorded(size, last=500)
        return [msgspec.structs.replace(e, traceback="") if isinstance(e, HandlerFailed) else e for e in made.reported]

    alone, sevens, whole = (run(size) for size in SIZES)
    assert alone == sevens
    assert alone == whole
