"""The base class of strategies: names, parameters, what they hear, seeds, snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.errors import ConfigError, StrategyError
from engine.events import Command, FeedStatus, Fill, Gap, Heartbeat, Outcome, Prediction, Quote, Refused, Signal, Tick
from strategies import Strategy
from tests.folding import BTC, START, Run, quote, trade


class Tuned(Strategy):
    """Has parameters of several types."""

    class Parameters(msgspec.Struct, frozen=True):
        threshold: float = 0.5
        period: int = 14
        names: tuple[str, ...] = ()
        active: bool = True


class Drawing(Strategy):
    """Draws random numbers."""

    class State(msgspec.Struct):
        count: int = 0
        last: dict[str, float] = {}


class Clock:
    def now(self) -> int:
        return 0


def entered(strategy: Strategy, seed: int = 0) -> Strategy:
    strategy.enter(Clock(), None, seed)
    return strategy


# Names


@pytest.mark.parametrize(
    ("class_name", "name"),
    [("Breakout", "breakout"), ("MeanReversion", "mean_reversion"), ("Sma20Cross", "sma20_cross"), ("X", "x")],
)
def test_a_strategy_is_named_after_its_class_in_snake_case(class_name: str, name: str) -> None:
    made: Any = type(class_name, (Strategy,), {})
    assert made.name == name


def test_a_name_that_is_given_holds_and_is_not_inherited_by_subclasses() -> None:
    class Named(Strategy):
        name = "mine"

    class Heir(Named):
        pass

    assert (Named.name, Heir.name) == ("mine", "heir")


# Parameters


def test_parameters_have_defaults_and_take_what_is_set() -> None:
    assert Tuned().parameters == Tuned.Parameters()
    assert Tuned({"threshold": 0.25, "names": ["a", "b"]}).parameters == Tuned.Parameters(0.25, 14, ("a", "b"))


def test_parameters_may_come_as_text_from_a_command_line() -> None:
    assert Tuned({"threshold": "0.25", "period": "7", "active": "false"}).parameters == Tuned.Parameters(
        0.25, 7, (), False
    )


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"treshold": 1.0}, "strategy tuned: no parameter 'treshold'; there are threshold, period, names, active"),
        ({"period": 1.5}, "strategy tuned: parameter period = 1.5: Expected `int`"),
        ({"threshold": "high"}, "strategy tuned: parameter threshold = 'high': Expected `float`"),
    ],
)
def test_a_wrong_parameter_is_refused_with_the_strategy_and_what_was_expected(
    parameters: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(StrategyError) as caught:
        Tuned(parameters)
    assert said in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("period", 1.5), ("threshold", "high"), ("active", 7)])
def test_a_parameter_of_another_type_is_refused_with_its_name_and_value(name: str, value: Any) -> None:
    with pytest.raises(StrategyError) as caught:
        Tuned({name: value})
    missing = [part for part in (name, repr(value)) if part not in str(caught.value)]
    assert missing == [], f"not in: {caught.value}"


def test_a_strategy_without_parameters_says_that_there_are_none() -> None:
    with pytest.raises(StrategyError, match="strategy drawing: no parameter 'x'; there are none"):
        Drawing({"x": 1})


def test_two_strategies_of_one_class_share_no_state() -> None:
    first, second = Drawing(), Drawing()
    first.state.last["a"] = 1.0
    assert second.state.last == {}


# What it hears


def test_each_event_class_has_its_handler_and_any_other_goes_to_on_event() -> None:
    kinds = [Tick, Quote, Prediction, Outcome, Fill, FeedStatus, Gap, Heartbeat, Command]
    everything = type("Everything", (Strategy,), {"subscribes": ["market", *kinds]})()
    handlers = [found.handler.__name__ for found in everything.subscriptions()]
    assert handlers == [
        "on_features", "on_tick", "on_quote", "on_prediction", "on_outcome", "on_fill", "on_feed_status", "on_gap",
        "on_event", "on_event",
    ]  # fmt: skip


def test_a_refused_row_is_no_input_and_nobody_in_the_fold_may_hear_of_it() -> None:
    with pytest.raises(StrategyError, match="strategy curious subscribes to Refused: that is no input"):
        type("Curious", (Strategy,), {"subscribes": [Refused]})().subscriptions()


def test_a_text_is_no_list_of_topics() -> None:
    with pytest.raises(StrategyError, match="subscribes = 'technical_1s': expected a list"):
        type("Hasty", (Strategy,), {"subscribes": "technical_1s"})().subscriptions()


def test_a_state_that_cannot_be_kept_is_refused_before_the_first_input() -> None:
    class Unkept(Strategy):
        class State(msgspec.Struct):
            what: Any = 2**70

    with pytest.raises(StrategyError, match="strategy unkept: its State cannot be kept"):
        Run(Unkept())


@pytest.mark.parametrize("topic", [7, int, None, Strategy])
def test_a_topic_that_is_neither_a_view_nor_an_event_is_refused(topic: Any) -> None:
    wrong = type("Wrong", (Strategy,), {"subscribes": [topic]})()
    with pytest.raises(StrategyError, match=r"strategy wrong subscribes to .*expected a view's name or an event class"):
        wrong.subscriptions()


def test_a_view_that_is_not_computed_is_refused_with_those_that_are() -> None:
    wrong = type("Wrong", (Strategy,), {"subscribes": ["technical_2s"]})()
    with pytest.raises(
        ConfigError, match=r"strategy wrong subscribes to 'technical_2s'; views that are computed: quick, slow, bars"
    ):
        Run(wrong)


def test_handlers_that_are_not_overridden_answer_nothing() -> None:
    quiet = type("Quiet", (Strategy,), {"subscribes": [Tick, Quote, Gap, "quick", Heartbeat]})()
    run = Run(quiet).push([quote(), trade(trade_id=1), trade(at=1.0, trade_id=9)])
    run.fold.input(Heartbeat(START, START))
    run.fold.stop()
    assert [event for event in run.reported if not isinstance(event, Gap)] == []


def test_a_signal_takes_key_and_times_of_the_event_that_it_answers() -> None:
    tick = Tick(*BTC, 1.0, 1.0, None, 10, 11, None, 12)
    assert entered(Drawing()).signal(tick, 1, "because") == Signal("drawing", *BTC, 1.0, "because", 10, 11, 12)


# Random numbers


def drawn(strategy: Strategy) -> list[float]:
    numbers: list[float] = strategy.random.random(5).tolist()
    return numbers


def test_random_numbers_depend_on_the_seed_and_the_name_and_nothing_else() -> None:
    class Other(Drawing):
        pass

    first = drawn(entered(Drawing(), 1))
    assert drawn(entered(Drawing(), 1)) == first
    assert drawn(entered(Drawing(), 2)) != first
    assert drawn(entered(Other(), 1)) != first


def test_random_numbers_are_the_same_on_every_machine() -> None:
    # Written down once. Another number here breaks every recorded digest of a strategy that draws.
    raw: Any = entered(Drawing(), 7).random.bit_generator
    assert raw.random_raw(3).tolist() == [9575718799741288799, 16998193504931131453, 12731062267438520898]


# Snapshots


def test_a_snapshot_keeps_the_state_and_the_place_in_the_random_numbers() -> None:
    first, second = entered(Drawing()), entered(Drawing())
    first.state.count, first.state.last["a"] = 3, float("inf")
    first.random.random(7)
    first.random.integers(0, 9, dtype=np.int32)  # leaves half of a 64-bit number for the next draw
    second.restore(first.snapshot())
    assert second.state == first.state
    assert (
        second.random.integers(0, 9, 20, dtype=np.int32).tolist()
        == first.random.integers(0, 9, 20, dtype=np.int32).tolist()
    )
    assert drawn(second) == drawn(first)


@pytest.mark.parametrize(
    "snapshot", [b"", b"\x00", b"garbage", msgspec.msgpack.encode(({"count": "three"}, ["1", "2", "0", "0"]))]
)
def test_a_snapshot_of_something_else_is_refused_with_the_strategy_named(snapshot: bytes) -> None:
    with pytest.raises(StrategyError, match="strategy drawing: its snapshot does not fit its State"):
        entered(Drawing()).restore(snapshot)


@pytest.mark.parametrize("place", [[], ["1"], ["x", "1", "0", "0"], ["-1", "1", "0", "0"]])
def test_a_snapshot_with_a_broken_place_in_the_random_numbers_is_refused(place: list[str]) -> None:
    snapshot = msgspec.msgpack.encode(({"count": 1, "last": {}}, place))
    with pytest.raises(StrategyError, match="strategy drawing: its snapshot does not fit"):
        entered(Drawing()).restore(snapshot)


def test_a_refused_snapshot_leaves_the_strategy_as_it_was() -> None:
    strategy = entered(Drawing())
    strategy.state.count = 3
    before = strategy.snapshot()
    with pytest.raises(StrategyError):
        strategy.restore(msgspec.msgpack.encode(({"count": 9, "last": {}}, ["x", "1", "0", "0"])))
    assert strategy.snapshot() == before
