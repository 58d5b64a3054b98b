"""The events as INTERFACES names them: frozen, typed, with their fields in the documented order."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.events import (
    Drift,
    FeatureEvent,
    FeedStatus,
    Fill,
    Gap,
    Heartbeat,
    Outcome,
    Prediction,
    Promotion,
    Quote,
    Signal,
    Tick,
)

TICK = Tick("binance", "BTC/USDT", 61_000.5, 0.25, "buy", 1_723_161_255_342_000_000, 1_723_161_255_342_000_007, 42)

FIELDS: dict[type, str] = {
    Tick: "exchange symbol price volume side timestamp received trade_id sequence late",
    Quote: "exchange symbol bid bid_volume ask ask_volume timestamp received update_id sequence late",
    Gap: "exchange symbol first_id last_id missing filled timestamp received sequence",
    Signal: "strategy exchange symbol value reason timestamp received sequence",
    FeatureEvent: "view exchange symbol timestamp received sequence ready",
}
INSTANCES: dict[type, tuple[Any, ...]] = {
    Tick: ("x", "A/B", 1.0, 2.0, "sell", 3, 4, 5, 6, True),
    Quote: ("x", "A/B", 1.0, 2.0, 1.5, math.inf, 3, 4, 5, 6, True),
    Gap: ("x", "A/B", 1, 3, 3, 1, 4, 5, 6),
    FeedStatus: ("x", "", "stalled", "quiet for 30 s", 3, 4, 5),
    Heartbeat: (3, 4, 5),
    Prediction: ("m", "1.0.0", "x", "A/B", 60, 0.5, (0.2, 0.8), 100.0, 3, 4, 5),
    Outcome: ("m", "1.0.0", "x", "A/B", 2, 0.5, 0.7, 3, 4, 5),
    Drift: ("adwin", "loss", "x", "A/B", 0.5, 3, 4, 5),
    Promotion: ("m", "1.0.0", "1.1.0", "x", "A/B", "better", 3, 4, 5),
    Signal: ("s", "x", "A/B", 1.0, "because", 3, 4, 5),
    Fill: ("s", "x", "A/B", "buy", 1.0, 2.0, 0.1, 3, 4, 5),
}


def feature_event(values: Any = ((1.0, 2.0), (3.0, 4.0)), slot: int = 1) -> FeatureEvent:
    block = np.array(values)
    block.flags.writeable = False
    return FeatureEvent("mine", "x", "A/B", 10, 11, 12, True, {"first": 0, "second": 1}, block, slot)


@pytest.mark.parametrize(("kind", "names"), FIELDS.items(), ids=lambda part: getattr(part, "__name__", ""))
def test_an_event_has_the_documented_fields_in_their_order(kind: type[msgspec.Struct], names: str) -> None:
    expected = tuple(names.split())
    assert kind.__struct_fields__[: len(expected)] == expected
    if kind is not FeatureEvent:
        assert kind.__struct_fields__ == expected


@pytest.mark.parametrize("kind", INSTANCES, ids=lambda kind: kind.__name__)
def test_an_event_is_frozen_and_equal_by_its_values(kind: type[msgspec.Struct]) -> None:
    event = kind(*INSTANCES[kind])
    assert event == kind(*INSTANCES[kind])
    assert event != kind(*INSTANCES[kind][:-2], 77, 78)
    for field in kind.__struct_fields__:
        with pytest.raises(AttributeError, match="immutable"):
            setattr(event, field, getattr(event, field))
    with pytest.raises(AttributeError):
        event.note = "x"  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", INSTANCES, ids=lambda kind: kind.__name__)
def test_an_event_survives_the_way_into_bytes_and_back_and_says_what_it_is(kind: type[msgspec.Struct]) -> None:
    event = kind(*INSTANCES[kind])
    # By their text: what is not known of a prediction is NaN, which equals nothing.
    assert repr(msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=kind)) == repr(event)
    assert msgspec.to_builtins(event)["type"] == kind.__name__


def test_what_an_exchange_does_not_say_has_a_default() -> None:
    assert (TICK.sequence, TICK.late) == (0, False)
    assert Tick("x", "A/B", 1.0, 1.0, None, 0, 0).trade_id is None
    quote = Quote("x", "A/B", 1.0, math.nan, 2.0, math.nan, 0, 0)
    assert (quote.update_id, quote.sequence, quote.late) == (None, 0, False)


def test_times_keep_every_nanosecond() -> None:
    assert msgspec.json.decode(msgspec.json.encode(TICK), type=Tick).timestamp == 1_723_161_255_342_000_000
    assert TICK.received - TICK.timestamp == 7


def test_a_feature_event_gives_its_values_by_name_in_order_and_as_an_array() -> None:
    event = feature_event()
    assert (event["first"], event["second"]) == (2.0, 4.0)
    assert list(event.items()) == [("first", 2.0), ("second", 4.0)]
    assert event.values.tolist() == [2.0, 4.0]
    assert "second" in event
    assert "third" not in event


def test_an_unknown_feature_is_refused_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="mine has no feature 'third'; it has first, second"):
        feature_event()["third"]


def test_a_feature_event_is_frozen_and_its_values_are_read_only() -> None:
    event = feature_event()
    with pytest.raises(AttributeError):
        event.ready = False  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        event.values[0] = 9.0


def test_a_copy_of_a_feature_event_keeps_its_values_when_the_row_is_written_over() -> None:
    memory = np.array([[1.0, 2.0], [3.0, 4.0]])
    shown = memory.view()
    shown.flags.writeable = False
    event = FeatureEvent("mine", "x", "A/B", 10, 11, 12, True, {"first": 0, "second": 1}, shown, 0)
    copy = event.copy()
    memory[:] = 0.0
    assert dict(event.items()) == {"first": 0.0, "second": 0.0}
    assert dict(copy.items()) == {"first": 1.0, "second": 3.0}
    assert (copy.view, copy.exchange, copy.symbol, copy.timestamp, copy.received, copy.sequence, copy.ready) == (
        "mine", "x", "A/B", 10, 11, 12, True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="read-only"):
        copy.values[0] = 9.0
