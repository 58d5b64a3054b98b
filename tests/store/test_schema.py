"""Feature views and clocks: what is read, what is refused and with which words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.indicator import Field, duration_ns
from engine.indicators import bollinger, ema, rsi, sma
from store import FeatureView
from store.builtin import builtin_views, resolve
from store.schema import BAR_FIELDS, QUOTE_FIELDS, TICK_FIELDS, Clock

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "kind", "size"),
    [
        ("tick", "tick", 0),
        ("1s", "time", SECOND),
        ("5m", "time", 300 * SECOND),
        ("250ms", "time", SECOND // 4),
        ("7us", "time", 7_000),
        ("13ns", "time", 13),
        ("1h", "time", 3_600 * SECOND),
        ("2d", "time", 172_800 * SECOND),
        ("100 ticks", "ticks", 100),
        ("25 volume", "volume", 25.0),
        ("0.125 volume", "volume", 0.125),
        ("1000000 notional", "notional", 1_000_000.0),
    ],
)
def test_a_clock_is_read_with_its_kind_and_size(text: str, kind: str, size: float) -> None:
    clock = Clock.parse(text)
    assert (clock.kind, clock.size) == (kind, size)
    assert isinstance(clock.size, float) == (kind in ("volume", "notional"))
    assert Clock.parse(clock) is clock


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ticks",
        "0s",
        "-1s",
        "1.5s",
        "1 s",
        "1w",
        "0 ticks",
        "2.5 ticks",
        "10 tick",
        "0 volume",
        "0.0 notional",
        "-3 volume",
        "1e6 notional",
        "nan volume",
        "Tick",
    ],
)
def test_what_is_no_clock_is_refused_with_examples_of_clocks(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r'clock .*: expected "tick", a time such as "1s", or bars such as "100 ticks"'
    ):
        Clock.parse(text)


def test_equal_clocks_are_equal_however_they_were_written() -> None:
    assert Clock.parse("60s") == Clock.parse("1m") == Clock.parse("60000ms")
    assert Clock.parse("25 volume") == Clock.parse("25.0 volume")
    assert len({Clock.parse("100 ticks"), Clock.parse("100 volume"), Clock.parse("100 notional")}) == 3


def test_a_time_is_read_in_whole_units_only() -> None:
    assert duration_ns("15m") == 900 * SECOND
    assert [duration_ns(text) for text in ("0s", "1.5s", "s", "1 s", "1S", "10", "1s1s")] == [None] * 7


def test_a_feature_is_a_node_or_the_name_of_a_field() -> None:
    view = FeatureView("mine", {"last": "price", "rsi": rsi("price", 3)})
    assert view.nodes == {"last": Field("price"), "rsi": rsi("price", 3)}
    assert list(view.nodes) == ["last", "rsi"]
    assert (view.ticking, view.version) == (Clock(), "1.0.0")


@pytest.mark.parametrize("name", ["", "Mine", "1s", "a-b", "a b", "_a", "ä", "a\n", 3])
def test_a_view_needs_a_plain_name(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"feature view .*: expected a name of lower-case letters, digits and under"):
        FeatureView(name, {"a": "price"})


@pytest.mark.parametrize("feature", ["", "RSI", "rsi-14", "14", "rsi.14"])
def test_a_feature_needs_a_plain_name_and_the_view_is_named(feature: str) -> None:
    with pytest.raises(ConfigError, match=rf"feature view mine: feature '{feature}': expected lower-case letters"):
        FeatureView("mine", {feature: "price"})


@pytest.mark.parametrize("version", ["", "1", "1.0", "v1.0.0", "1.0.0-rc1", "1.0.0.0"])
def test_a_version_is_three_numbers(version: str) -> None:
    with pytest.raises(ConfigError, match=rf"feature view mine: version '{version}': expected three numbers"):
        FeatureView("mine", {"a": "price"}, version=version)


def test_a_view_without_features_is_refused() -> None:
    with pytest.raises(ConfigError, match="feature view mine: expected at least one feature"):
        FeatureView("mine", {})


@pytest.mark.parametrize("reserved", ["timestamp", "received", "exchange", "symbol"])
def test_a_feature_cannot_have_the_name_of_a_column_that_every_row_has(reserved: str) -> None:
    with pytest.raises(ConfigError, match=rf"mine.*{reserved}"):
        FeatureView("mine", {reserved: "price"})


@pytest.mark.parametrize(
    ("clock", "features", "message"),
    [
        ("tick", {"a": "high"}, "feature view mine: a: no field 'high' on clock tick; there are price, volume, side"),
        (
            "1s",
            {"a": "side"},
            "feature view mine: a: no field 'side' on clock time 1000000000; there are price, volume, open",
        ),
        ("tick", {"a": sma(ema("prize", 3), 2)}, "feature view mine: a: no field 'prize' on clock tick"),
        ("100 ticks", {"b": "price", "a": ema("side", 3)}, "feature view mine: a: no field 'side' on clock ticks 100"),
    ],
)
def test_an_unknown_field_is_named_with_those_that_the_clock_has(
    clock: str, features: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        FeatureView("mine", features, clock=clock)
    assert str(caught.value).startswith(message)


def test_every_field_of_a_clock_can_be_a_feature() -> None:
    assert list(FeatureView("mine", {name: name for name in TICK_FIELDS}).nodes) == list(TICK_FIELDS)
    assert list(FeatureView("mine", {name: name for name in BAR_FIELDS}, clock="1s").nodes) == list(BAR_FIELDS)
    assert set(QUOTE_FIELDS) < set(TICK_FIELDS) & set(BAR_FIELDS)


def test_several_outputs_must_be_unpacked() -> None:
    with pytest.raises(ConfigError, match="feature view mine: bands: found 3 outputs, expected one; unpack them"):
        FeatureView("mine", {"bands": bollinger("price", 20, 2.0)})


@pytest.mark.parametrize("value", [3.0, None, ["price"]])
def test_what_is_neither_node_nor_field_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="expected a node or the name of a field such as 'price', found a "):
        FeatureView("mine", {"a": value})


COLUMNS = {
    "market": ["price", "volume", "side", "bid", "ask", "mid", "spread_bps", "imbalance"],
    "technical": [
        *("rsi_14", "rsi_21", "rsi_50"),
        *("macd", "macd_signal", "macd_histogram"),
        *("bollinger_upper", "bollinger_middle", "bollinger_lower"),
        *("volume_sma_20", "volume_ema_12"),
    ],
    "derived": [
        *("price_change_1m", "price_change_5m", "price_change_15m"),
        *("volume_ratio", "volatility_index", "support_15m", "resistance_15m", "vwap_1m", "trade_imbalance_1m"),
    ],
}


def test_the_built_in_views_have_the_columns_and_clocks_that_others_rely_on() -> None:
    views = builtin_views()
    expected = {**COLUMNS, "technical_1s": COLUMNS["technical"], "technical_1m": COLUMNS["technical"]}
    assert {name: list(view.nodes) for name, view in views.items()} == expected
    assert {name: str(view.ticking) for name, view in views.items()} == {
        "market": "tick",
        "technical": "tick",
        "technical_1s": f"time {SECOND}",
        "technical_1m": f"time {60 * SECOND}",
        "derived": "tick",
    }
    assert {view.version for view in views.values()} == {"1.0.0"}


def test_views_are_found_by_name_or_taken_as_they_are_in_the_order_given() -> None:
    mine = FeatureView("mine", {"a": "price"})
    assert resolve(["derived", mine, "market"]) == (builtin_views()["derived"], mine, builtin_views()["market"])


def test_an_unknown_view_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(["technical_1h"])
    assert str(caught.value) == (
        "feature view 'technical_1h': expected one of market, technical, technical_1s, technical_1m, derived, or a FeatureView"
    )


def test_one_name_twice_and_no_view_at_all_are_refused() -> None:
    with pytest.raises(ConfigError, match="feature view 'market' is given twice"):
        resolve(["market", FeatureView("market", {"a": "price"})])
    with pytest.raises(ConfigError, match="expected at least one feature view, found none"):
        resolve([])
