"""The bus: who hears what, in which order, and within which limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from engine.bus import Bus, BusOverflowError, Route
from engine.errors import EngineError
from engine.events import Event, FeedStatus, Heartbeat, Signal, Tick
from tests.folding import BTC, ETH


class Subscriber:
    """A name, and whether it listens."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.listening = True


class Recorder:
    """A bus whose calls are noted as (subscriber, event); what a handler returns is published, as the supervisor does."""

    def __init__(self, limit: int = 1000) -> None:
        self.bus = Bus(self.call, limit)
        self.calls: list[tuple[str, Any]] = []
        self.depth = 0
        self.deepest = 0

    def call(self, route: Route, event: Any) -> None:
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        self.calls.append((route.subscriber.name, event))
        answers = route.handler(event)
        if answers is not None:
            self.bus.publish(route.subscriber, answers)
        self.depth -= 1

    def subscribe(
        self, name: str, topic: Any, answer: Callable[[Any], Iterable[Any] | None] | None = None, **how: Any
    ) -> Subscriber:
        subscriber = Subscriber(name)
        self.bus.subscribe(topic, subscriber, answer or (lambda event: None), **how)
        return subscriber

    def told(self) -> list[str]:
        """Calls as "subscriber value", where events are told apart by a signal's value or a heartbeat's time."""
        return [f"{name} {getattr(event, 'value', getattr(event, 'timestamp', None)):g}" for name, event in self.calls]


def beat(at: int) -> Heartbeat:
    return Heartbeat(at, at)


def note(value: float, key: tuple[str, str] = BTC) -> Signal:
    return Signal("s", *key, value, "", 0, 0)


def tick(key: tuple[str, str]) -> Tick:
    return Tick(*key, 1.0, 1.0, None, 0, 0)


def test_what_a_handler_publishes_waits_until_all_subscribers_have_heard_the_current_event() -> None:
    recorder = Recorder()
    recorder.subscribe("a", Heartbeat, lambda event: [note(10.0), note(11.0)])
    recorder.subscribe("b", Heartbeat, lambda event: [note(20.0)])
    recorder.subscribe("c", Signal)
    recorder.bus.send(beat(1))
    assert recorder.told() == ["a 1", "b 1", "c 10", "c 11", "c 20"]


def test_answers_to_answers_are_delivered_first_in_first_out() -> None:
    recorder = Recorder()
    recorder.subscribe("start", Heartbeat, lambda event: [note(1.0), note(2.0)])
    recorder.subscribe("tenfold", Signal, lambda event: [note(event.value * 10)] if event.value < 100 else None)
    recorder.bus.send(beat(0))
    assert recorder.told() == ["start 0", *(f"tenfold {value}" for value in (1, 2, 10, 20, 100, 200))]


def test_a_long_chain_of_answers_is_no_recursion() -> None:
    recorder = Recorder(limit=5000)
    recorder.subscribe("start", Heartbeat, lambda event: [note(0.0)])
    recorder.subscribe("chain", Signal, lambda event: [note(event.value + 1)] if event.value < 3000 else None)
    recorder.bus.send(beat(0))
    assert len(recorder.calls) == 3002
    assert recorder.deepest == 1, "a handler was called from within another"


def test_subscribers_hear_in_the_order_in_which_they_subscribed_whatever_their_key() -> None:
    recorder = Recorder()
    recorder.subscribe("a", Tick)
    recorder.subscribe("b", Tick, key=BTC)
    recorder.subscribe("c", Tick)
    recorder.subscribe("a-again", Tick, key=BTC)
    recorder.bus.send(tick(BTC))
    assert [name for name, _ in recorder.calls] == ["a", "b", "c", "a-again"]


def test_a_keyed_route_hears_its_key_only_and_one_without_key_hears_all() -> None:
    recorder = Recorder()
    recorder.subscribe("btc", Tick, key=BTC)
    recorder.subscribe("eth", Tick, key=ETH)
    recorder.subscribe("elsewhere", Tick, key=("y", BTC[1]))
    recorder.subscribe("all", Tick)
    recorder.bus.send(tick(BTC))
    recorder.bus.send(tick(ETH))
    assert [name for name, _ in recorder.calls] == ["btc", "all", "eth", "all"]


def test_a_keyed_route_does_not_hear_events_without_a_key() -> None:
    recorder = Recorder()
    recorder.subscribe("btc", Heartbeat, key=BTC)
    recorder.subscribe("all", Heartbeat)
    recorder.bus.send(beat(1))
    assert recorder.told() == ["all 1"]


def test_a_topic_is_exactly_its_class_and_not_a_base_of_it() -> None:
    recorder = Recorder()
    recorder.subscribe("events", Event)
    recorder.subscribe("statuses", FeedStatus)
    recorder.bus.send(beat(1))
    assert recorder.calls == []
    assert [route.subscriber.name for route in recorder.bus.routes(FeedStatus, None)] == ["statuses"]
    assert recorder.bus.routes(Heartbeat, None) == ()


def test_who_does_not_listen_has_no_route_until_it_listens_again() -> None:
    recorder = Recorder()
    subscriber = recorder.subscribe("a", Heartbeat)
    recorder.bus.send(beat(1))
    for listening, at in ((False, 2), (True, 3)):
        subscriber.listening = listening
        recorder.bus.refresh()
        recorder.bus.send(beat(at))
    assert recorder.told() == ["a 1", "a 3"]
    assert [route.subscriber.name for route in recorder.bus.routes(Heartbeat, None)] == ["a"]


def test_who_subscribes_after_the_first_event_hears_the_next() -> None:
    recorder = Recorder()
    recorder.bus.send(beat(1))
    recorder.subscribe("late-comer", Heartbeat)
    recorder.bus.send(beat(2))
    assert recorder.told() == ["late-comer 2"]


@pytest.mark.parametrize("topic", [7, None, ("market",), Heartbeat(0, 0)])
def test_a_topic_that_is_neither_class_nor_name_is_refused_with_the_subscriber_named(topic: object) -> None:
    with pytest.raises(EngineError, match=r"^greedy: topic .*expected an event class or the name of a feature view"):
        Recorder().subscribe("greedy", topic)


def test_the_limit_lets_as_many_events_through_as_it_says_and_not_one_more() -> None:
    recorder = Recorder(limit=5)
    recorder.bus.publish(Subscriber("p"), [note(float(i)) for i in range(5)])
    with pytest.raises(
        BusOverflowError, match=r"p published 6 events for one input, expected at most 5 \(engine.bus_limit\)"
    ):
        recorder.bus.publish(Subscriber("p"), [note(5.0)])


def test_a_publication_that_does_not_fit_is_queued_in_no_part() -> None:
    recorder = Recorder(limit=3)
    recorder.subscribe("a", Signal)
    recorder.bus.publish(Subscriber("p"), [note(1.0), note(2.0)])
    with pytest.raises(BusOverflowError):
        recorder.bus.publish(Subscriber("p"), [note(3.0), note(4.0)])
    recorder.bus.send(beat(0))
    assert recorder.told() == ["a 1", "a 2"]


def test_the_limit_counts_what_each_publishes_of_one_event_of_the_fold_and_starts_again_with_the_next() -> None:
    recorder = Recorder(limit=2)
    recorder.subscribe("a", Heartbeat, lambda event: [note(1.0), note(1.0)])
    recorder.subscribe("b", Signal, lambda event: [note(event.value + 1)] if event.value < 2 else None)
    for at in range(4):
        recorder.bus.send(beat(at))
    assert recorder.told() == [word for at in range(4) for word in (f"a {at}", "b 1", "b 1", "b 2", "b 2")]


def test_a_report_of_the_engine_is_queued_whatever_the_limit() -> None:
    recorder = Recorder(limit=1)
    recorder.subscribe("a", Signal)
    recorder.bus.publish(Subscriber("p"), [note(1.0)])
    for value in (2.0, 3.0):
        recorder.bus.report(note(value))
    recorder.bus.send(beat(0))
    assert recorder.told() == ["a 1", "a 2", "a 3"]
