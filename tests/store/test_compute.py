"""`compute`: what it takes, what it refuses, in which order rows come, and that its features are what they are said to be."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import talib

from engine.errors import ConfigError, StoreError
from engine.indicator import before, indicator
from engine.indicators import sma, total
from store import FeatureView, compute
from store.builtin import builtin_views
from tests.brute_force import (
    SECOND,
    SECOND_BARS,
    START,
    ltc_trades,
    numbers,
    of_symbol,
    quote_table,
    spot_quotes,
    spot_trades,
    tick_table,
)

NAN = math.nan
EVERY_TICK = ("market", "technical", "derived")
LAST = FeatureView("last", {"price": "price", "volume": "volume", "side": "side", "bid": "bid", "ask": "ask"})
"""What each row saw: one small program for all questions of input."""

# Columns ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timestamp", "received", "exchange", "symbol", "price", "volume"])
def test_a_column_that_is_missing_is_named_beside_those_expected(name: str) -> None:
    with pytest.raises(StoreError) as caught:
        compute(LAST, tick_table([1.0]).drop_columns([name]))
    assert str(caught.value).startswith("ticks: expected columns timestamp, received, exchange, symbol, price, volume")
    if name not in ("price", "volume"):
        assert str(caught.value).endswith(f"missing {name}")


@pytest.mark.parametrize("name", ["timestamp", "received", "exchange", "symbol", "ask"])
def test_a_column_that_is_missing_of_the_quotes_is_named(name: str) -> None:
    with pytest.raises(StoreError, match=r"^quotes: expected columns"):
        compute(LAST, tick_table([1.0]), quote_table([START], [1.0], [2.0]).drop_columns([name]))


def test_side_ids_and_the_late_flag_may_be_missing() -> None:
    rows = compute(LAST, tick_table([1.0, 2.0]).drop_columns(["side", "trade_id"]))
    assert rows["side"].to_pylist() == [0.0, 0.0]
    assert rows["price"].to_pylist() == [1.0, 2.0]


def test_sizes_of_quotes_may_be_missing() -> None:
    quotes = quote_table([START - 1], [99.0], [101.0]).drop_columns(["bid_volume", "ask_volume", "update_id"])
    assert compute(LAST, tick_table([100.0]), quotes)["bid"].to_pylist() == [99.0]


def test_columns_that_nobody_asked_for_are_passed_over() -> None:
    ticks = tick_table([1.0]).append_column("note", pa.array(["hello"]))
    assert compute(LAST, ticks).num_rows == 1


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "timestamp",
            pa.array([1.5]),
            "column timestamp: expected int64 nanoseconds or an Arrow timestamp, found double",
        ),
        (
            "timestamp",
            pa.array(["2024-08-08"]),
            "column timestamp: expected int64 nanoseconds or an Arrow timestamp, found",
        ),
        ("received", pa.array([2**63], pa.uint64()), "column received: expected int64, found uint64"),
        (
            "timestamp",
            pa.array([2**62], pa.timestamp("s")),
            r"column timestamp: expected timestamp\[ns\], found timestamp\[s",
        ),
        ("timestamp", pa.array([None], pa.int64()), "column timestamp: expected no nulls, found 1"),
        ("received", pa.array([None], pa.timestamp("ns")), "column received: expected no nulls, found 1"),
        ("exchange", pa.array([1]), "column exchange: expected text, found int64"),
        ("symbol", pa.array([None], pa.string()), "column symbol: expected no nulls, found 1"),
        ("symbol", pa.array([""]), "column symbol: expected text that is not empty"),
        ("price", pa.array([[1.0]]), "column price: expected double, found list"),
        (
            "side",
            pa.array([2]),
            r"column side: expected \+1 \(the taker bought\), -1 \(sold\) or 0 \(unknown\), found 2",
        ),
        ("side", pa.array([-128], pa.int8()), "column side: expected .*, found -128"),
        ("side", pa.array([300]), "column side: expected int8, found int64"),
        ("side", pa.array(["buy"]), "column side: expected int8, found string"),
        ("trade_id", pa.array([1.5]), "column trade_id: expected int64, found double"),
        ("trade_id", pa.array(["a1"]), "column trade_id: expected int64, found string"),
    ],
)
def test_a_column_of_another_type_or_content_is_named(name: str, values: pa.Array, message: str) -> None:
    ticks = tick_table([1.0])
    with pytest.raises(StoreError, match=rf"^ticks: {message}"):
        compute(LAST, ticks.set_column(ticks.column_names.index(name), name, values))


@pytest.mark.parametrize("name", ["price", "volume"])
def test_prices_and_volumes_as_text_are_not_quietly_parsed(name: str) -> None:
    ticks = tick_table([1.0])
    with pytest.raises(StoreError, match=f"column {name}: expected double, found string"):
        compute(LAST, ticks.set_column(ticks.column_names.index(name), name, pa.array(["1.5"])))


def test_a_table_of_quotes_is_not_taken_for_ticks_nor_one_of_ticks_for_quotes() -> None:
    quotes = quote_table([START], [1.0], [2.0])
    with pytest.raises(StoreError, match=r"^ticks: expected"):
        compute(LAST, quotes)
    with pytest.raises(StoreError, match=r"^quotes: expected"):
        compute(LAST, tick_table([1.0]), tick_table([1.0]))


def listed(table: pa.Table) -> dict[str, list[Any]]:
    """The columns as lists, None for NaN so that they can be compared."""
    return {
        name: [None if value != value else value for value in values]  # noqa: PLR0124 - NaN is what differs from itself
        for name, values in table.to_pydict().items()
    }


# Types that are taken ---------------------------------------------------------------------------------------------------------


@cache
def plain() -> pa.Table:
    """Rows of a small table with two keys, in the types that the others are compared with."""
    return compute(LAST, two_keys())


def two_keys() -> pa.Table:
    return tick_table(
        [100.0, 7.5, 100.25, 7.25, 7.75],
        volume=[1.0, 2.0, 3.0, 4.0, 5.0],
        side=[1, -1, 0, 1, -1],
        timestamp=[START + i * 1_000_000 for i in range(5)],
        symbol=["A/B", "C/D", "A/B", "C/D", "C/D"],
        trade_id=[1, 1, 2, 2, 3],
    )


def recast(name: str, kind: pa.DataType) -> pa.Table:
    ticks = two_keys()
    column = ticks[name].cast(pa.timestamp("ns", kind.tz)) if pa.types.is_timestamp(kind) else ticks[name]
    return ticks.set_column(ticks.column_names.index(name), name, column.cast(kind))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("timestamp", pa.timestamp("ns")),
        ("timestamp", pa.timestamp("us")),
        ("timestamp", pa.timestamp("ms", "UTC")),
        ("received", pa.timestamp("ns", "Europe/Berlin")),
        ("exchange", pa.dictionary(pa.int32(), pa.string())),
        ("symbol", pa.dictionary(pa.int8(), pa.string())),
        ("symbol", pa.large_string()),
        ("price", pa.float32()),
        ("volume", pa.int64()),
        ("side", pa.int64()),
        ("trade_id", pa.uint32()),
    ],
)
def test_a_column_of_a_kindred_type_gives_the_same_rows(name: str, kind: pa.DataType) -> None:
    found = compute(LAST, recast(name, kind))
    assert found["timestamp"].type == pa.int64()
    assert found["price"].type == pa.float64()
    assert listed(found) == listed(plain())


def test_chunks_make_no_difference_even_where_their_dictionaries_differ() -> None:
    ticks = two_keys()
    parts = [ticks.slice(at, 1).combine_chunks() for at in range(5)]
    chunked = pa.concat_tables(parts)
    encoded = pa.concat_tables(
        [part.set_column(3, "symbol", part["symbol"].cast(pa.string()).dictionary_encode()) for part in parts]
    )
    for table in (chunked, encoded):
        assert table["symbol"].num_chunks == 5
        assert listed(compute(LAST, table)) == listed(plain())


def test_a_slice_of_a_table_is_read_from_where_it_begins() -> None:
    found = compute(LAST, two_keys().slice(2, 3))
    assert found["price"].to_pylist() == [100.25, 7.25, 7.75]
    assert found["symbol"].to_pylist() == ["A/B", "C/D", "C/D"]


def test_a_float32_price_is_widened_as_it_is() -> None:
    ticks = tick_table([0.1])
    narrow = ticks.set_column(4, "price", pa.array([0.1], pa.float32()))
    assert compute(LAST, narrow)["price"].to_pylist() == [float(np.float32(0.1))]


def test_null_sides_are_unknown_and_null_ids_are_no_ids() -> None:
    ticks = tick_table([1.0, 2.0, 3.0], trade_id=[7, None, 7]).set_column(6, "side", pa.array([None, 1, -1], pa.int8()))
    rows = compute(LAST, ticks)
    assert rows["side"].to_pylist() == [0.0, 1.0], "the third is a duplicate of the first"


def test_a_table_without_rows_gives_one_without_rows_and_all_columns() -> None:
    for empty in (tick_table([]), tick_table([]).combine_chunks(), tick_table([1.0]).slice(1)):
        rows = compute(EVERY_TICK, empty, quote_table([], [], []))
        features = [name for view in EVERY_TICK for name in builtin_views()[view].features]
        assert rows.column_names == ["timestamp", "received", "exchange", "symbol", *features]
        assert rows.num_rows == 0
        assert {field.type for field in rows.schema} == {pa.int64(), pa.string(), pa.float64()}


# Views ------------------------------------------------------------------------------------------------------------------------


def test_views_of_two_clocks_are_refused_with_their_clocks() -> None:
    with pytest.raises(ConfigError) as caught:
        compute(["technical", "technical_1s"], tick_table([1.0]))
    assert str(caught.value) == (
        "compute: expected views of one clock, found technical (tick), technical_1s (time 1000000000)"
    )


def test_an_unknown_view_is_refused_with_all_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="'tecnical': expected one of market, technical, technical_1s, technical_1m, der"
    ):
        compute(["tecnical"], tick_table([1.0]))


def test_two_views_with_a_feature_of_one_name_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="compute: feature price, volume is in more than one of the views market, again"
    ):
        compute(["market", FeatureView("again", {"price": "price", "volume": "volume"})], tick_table([1.0]))


def test_one_view_may_be_given_by_itself_or_by_name() -> None:
    assert listed(compute(LAST, two_keys())) == listed(plain()) == listed(compute([LAST], two_keys()))
    names = builtin_views()["market"].features
    assert compute("market", two_keys()).column_names[4:] == list(names)
    with pytest.raises(ConfigError, match="feature view 'nothing'"):
        compute("nothing", two_keys())


def test_a_window_that_reaches_back_before_1970_is_never_left() -> None:
    view = FeatureView("long", {"sum": total("price", "20000d"), "before": before("price", "20000d")})
    rows = compute(view, tick_table([1.0, 2.0, 3.0]))
    assert rows["sum"].to_pylist() == [1.0, 3.0, 6.0]
    assert np.isnan(numbers(rows, "before")).all()


def test_a_window_too_long_for_int64_nanoseconds_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match="300000000h"):
        compute(FeatureView("long", {"sum": total("price", "300000000h")}), tick_table([1.0]))


# Rows -------------------------------------------------------------------------------------------------------------------------


def test_refused_duplicate_and_late_ticks_give_no_row_and_leave_no_trace() -> None:
    good = [100.0, 101.0, 102.0, 103.0]
    bad = tick_table(
        [100.0, NAN, 101.0, 555.0, 102.0, 666.0, 777.0, 103.0, 888.0],
        volume=[1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0],
        timestamp=[START + s * SECOND for s in (0, 1, 1, 1, 2, 3, 60, 3, 4)],
        received=[START + s * SECOND for s in (0, 1, 1, 1, 2, 3, 3, 3, 4)],
        trade_id=[1, 2, 2, 1, 4, 5, 6, 5, 3],
        late=[False] * 9,
    )
    history = tick_table([999.0], timestamp=[START + 4 * SECOND], trade_id=[9], late=[True])
    rows = compute(EVERY_TICK, pa.concat_tables([bad, history]))
    assert rows["price"].to_pylist() == good
    assert listed(rows) == listed(compute(EVERY_TICK, tick_table(good, trade_id=[1, 2, 4, 5])))


def test_rows_come_in_the_order_of_the_ticks_whatever_the_keys() -> None:
    ticks = spot_trades()
    rows = compute(LAST, ticks)
    assert rows.num_rows == ticks.num_rows == 6_000
    for name in ("exchange", "symbol", "price", "volume"):
        assert rows[name].to_pylist() == ticks[name].to_pylist(), name


def test_many_keys_come_back_in_order_each_with_its_own_state() -> None:
    count, keys = 400, 37
    code = [i * 29 % keys for i in range(count)]
    own = [code[:i].count(k) for i, k in enumerate(code)]
    ticks = tick_table(
        [float(i + 1) for i in range(count)],
        exchange=["xy"[k % 2] for k in code],
        symbol=[f"S{k}" for k in code],
        trade_id=[number + 1 for number in own],
    )
    rows = compute(FeatureView("two", {"price": "price", "mean": sma("price", 2)}), ticks)
    assert rows["price"].to_pylist() == [float(i + 1) for i in range(count)]
    assert rows["symbol"].to_pylist() == [f"S{k}" for k in code]
    newest = dict.fromkeys(range(keys), NAN)
    for i, (k, mean) in enumerate(zip(code, rows["mean"].to_pylist(), strict=True)):
        expected = (newest[k] + i + 1.0) / 2.0
        assert mean == expected or (math.isnan(mean) and math.isnan(expected)), f"row {i}, key {k}"
        newest[k] = i + 1.0


def test_one_symbol_on_two_exchanges_is_two_keys() -> None:
    ticks = tick_table([1.0, 2.0, 3.0], exchange=["x", "y", "x"], trade_id=[1, 1, 1])
    rows = compute(LAST, ticks)
    assert rows["price"].to_pylist() == [1.0, 2.0], "the third is a duplicate on x"


def test_timestamp_is_the_newest_of_the_key_and_received_never_decreases() -> None:
    ticks = tick_table(
        [1.0, 2.0, 3.0, 4.0],
        timestamp=[START, START + 5, START + 3, START + 4],
        received=[START + 10, START + 20, START + 15, START + 30],
        symbol=["A", "A", "A", "B"],
        trade_id=[1, 2, 3, 1],
    )
    rows = compute(LAST, ticks)
    assert rows["timestamp"].to_pylist() == [START, START + 5, START + 5, START + 4]
    assert rows["received"].to_pylist() == [START + 10, START + 20, START + 20, START + 30]


def test_times_and_ids_beyond_2_to_the_53_come_back_exactly() -> None:
    base = 2**62 + 1
    ticks = tick_table(
        [1.0, 2.0, 3.0, 4.0],
        timestamp=[base, base + 1, base + 3, base + 7],
        received=[base + 10, base + 11, base + 13, base + 17],
        trade_id=[2**60, 2**60 + 1, 2**60 + 1, 2**60 + 2],
    )
    rows = compute(LAST, ticks)
    assert rows["timestamp"].to_pylist() == [base, base + 1, base + 7]
    assert rows["received"].to_pylist() == [base + 10, base + 11, base + 17]


def test_of_equal_received_the_quote_comes_before_the_trade() -> None:
    ticks = tick_table([100.0, 101.0], received=[START, START + 10], timestamp=[START, START])
    quotes = quote_table([START, START + 9, START + 11], [1.0, 2.0, 3.0], [1.5, 2.5, 3.5])
    assert compute(LAST, ticks, quotes)["bid"].to_pylist() == [1.0, 2.0]


def test_quotes_touch_only_their_own_key_and_refused_ones_touch_nothing() -> None:
    ticks = tick_table([1.0, 2.0], symbol=["A/B", "C/D"], trade_id=[1, 1])
    quotes = pa.concat_tables(
        [
            quote_table([START - 3], [9.0], [9.5]),
            quote_table([START - 2], [NAN], [8.5]),
            quote_table([START - 1], [7.0], [7.5], symbol="E/F"),
        ]
    )
    rows = compute(LAST, ticks, quotes)
    assert rows["bid"].to_pylist() == pytest.approx([9.0, NAN], nan_ok=True)


def test_quotes_and_trades_each_stay_in_their_own_order_where_received_steps_back() -> None:
    ticks = tick_table([1.0, 2.0, 3.0], received=[START + 20, START + 10, START + 30], timestamp=[START] * 3)
    quotes = quote_table([START + 15, START + 5, START + 25], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    rows = compute(LAST, ticks, quotes)
    assert rows["price"].to_pylist() == [1.0, 2.0, 3.0]
    assert rows["bid"].to_pylist() == [2.0, 2.0, 3.0]


def test_the_ticks_given_are_not_written_to() -> None:
    ticks = two_keys()
    copy = pa.table({name: pa.array(ticks[name].to_pylist(), ticks[name].type) for name in ticks.column_names})
    compute(LAST, ticks)
    assert ticks.equals(copy)


def test_how_far_ahead_a_timestamp_may_be_can_be_set() -> None:
    ticks = tick_table([1.0, 2.0], timestamp=[START, START + SECOND], received=[START, START])
    assert compute(LAST, ticks, max_ahead_ns=SECOND).num_rows == 2
    assert compute(LAST, ticks, max_ahead_ns=SECOND - 1).num_rows == 1


# What the built-in views say --------------------------------------------------------------------------------------------------


@cache
def recorded() -> pa.Table:
    """All features of each tick over the recording, with quotes."""
    return compute(EVERY_TICK, spot_trades(), spot_quotes())


@cache
def ltc() -> pa.Table:
    return compute(EVERY_TICK, ltc_trades())


@pytest.mark.parametrize("symbol", ["BTC/USDT", "ETH/USDT"])
def test_technical_equals_talib_on_the_recording(symbol: str) -> None:
    rows = of_symbol(recorded(), symbol)
    price, volume = numbers(rows, "price"), numbers(rows, "volume")
    macd = talib.MACD(price, 12, 26, 9)
    bands = talib.BBANDS(price, 20, 2.0, 2.0)
    checks: list[tuple[str, Any, float, float]] = [
        *((f"rsi_{period}", talib.RSI(price, period), 0.0, 1e-7) for period in (14, 21, 50)),
        *((name, macd[i], 0.0, 1e-7) for i, name in enumerate(("macd", "macd_signal", "macd_histogram"))),
        *((f"bollinger_{name}", bands[i], 1e-6, 0.0) for i, name in enumerate(("upper", "middle", "lower"))),
        ("volume_sma_20", talib.SMA(volume, 20), 1e-9, 0.0),
        ("volume_ema_12", talib.EMA(volume, 12), 1e-9, 0.0),
    ]
    for name, expected, relative, absolute in checks:
        assert numbers(rows, name)[2_000:] == pytest.approx(expected[2_000:], rel=relative, abs=absolute), name


def test_technical_on_bars_of_a_second_equals_talib_on_their_closes() -> None:
    bars = compute(SECOND_BARS, ltc_trades())
    close, volume = numbers(bars, "close"), numbers(bars, "volume")
    assert len(close) > 2_000, "INTERFACES speaks of values after 2,000"
    assert numbers(bars, "rsi_14")[2_000:] == pytest.approx(talib.RSI(close, 14)[2_000:], abs=1e-7, rel=0)
    assert numbers(bars, "macd")[2_000:] == pytest.approx(talib.MACD(close)[0][2_000:], abs=1e-7, rel=0)
    assert numbers(bars, "volume_sma_20")[2_000:] == pytest.approx(talib.SMA(volume, 20)[2_000:], rel=1e-9, abs=0)


def test_market_has_the_newest_quote_received_before_or_with_each_trade() -> None:
    for symbol in ("BTC/USDT", "ETH/USDT"):
        rows, quotes = of_symbol(recorded(), symbol), of_symbol(spot_quotes(), symbol)
        at = np.searchsorted(numbers(quotes, "received"), numbers(rows, "received"), side="right") - 1
        known = at >= 0
        bid, ask, bid_size, ask_size = (
            numbers(quotes, name)[at] for name in ("bid", "ask", "bid_volume", "ask_volume")
        )
        mid = (bid + ask) / 2.0
        expected = {
            "bid": bid,
            "ask": ask,
            "mid": mid,
            "spread_bps": 10_000.0 * (ask - bid) / mid,
            "imbalance": (bid_size - ask_size) / (bid_size + ask_size),
        }
        assert known.sum() > 2_000
        for name, values in expected.items():
            assert numbers(rows, name) == pytest.approx(np.where(known, values, NAN), rel=1e-12, nan_ok=True), name


def windows(rows: pa.Table, seconds: int) -> list[slice]:
    """The rows in (t - w, t] of each row."""
    times = numbers(rows, "timestamp")
    first = np.searchsorted(times, times - seconds * SECOND, side="right").tolist()
    return [slice(start, i + 1) for i, start in enumerate(first)]


def derived_columns() -> dict[str, Callable[[pa.Table], list[float]]]:
    """Each column of `derived` from its sentence in INTERFACES."""

    def change(seconds: int) -> Callable[[pa.Table], list[float]]:
        def of(rows: pa.Table) -> list[float]:
            price = numbers(rows, "price")
            spans = windows(rows, seconds)
            return [price[i] / price[s.start - 1] - 1.0 if s.start > 0 else NAN for i, s in enumerate(spans)]

        return of

    def over(seconds: int, value: Callable[..., float]) -> Callable[[pa.Table], list[float]]:
        def of(rows: pa.Table) -> list[float]:
            price, volume, side = (numbers(rows, name) for name in ("price", "volume", "side"))
            return [value(price[s], volume[s], side[s]) for s in windows(rows, seconds)]

        return of

    def volatility(rows: pa.Table) -> list[float]:
        price = numbers(rows, "price")
        squares = np.square(np.diff(np.log(price), prepend=math.log(price[0])))
        values = [100.0 * math.sqrt(math.fsum(squares[s]) * 525_600) for s in windows(rows, 60)]
        return [NAN, *values[1:]]

    def ratio(rows: pa.Table) -> list[float]:
        volume = numbers(rows, "volume")
        return [NAN if i < 19 else volume[i] / (math.fsum(volume[i - 19 : i + 1]) / 20) for i in range(len(volume))]

    return {
        "price_change_1m": change(60),
        "price_change_5m": change(300),
        "price_change_15m": change(900),
        "volume_ratio": ratio,
        "volatility_index": volatility,
        "support_15m": over(900, lambda price, volume, side: float(price.min())),
        "resistance_15m": over(900, lambda price, volume, side: float(price.max())),
        "vwap_1m": over(60, lambda price, volume, side: math.fsum(price * volume) / math.fsum(volume)),
        "trade_imbalance_1m": over(60, lambda price, volume, side: math.fsum(side * volume) / math.fsum(volume)),
    }


@pytest.mark.parametrize("name", builtin_views()["derived"].features)
def test_derived_equals_brute_force_on_the_recordings(name: str) -> None:
    of = derived_columns()[name]
    for rows in (of_symbol(recorded(), "BTC/USDT"), of_symbol(recorded(), "ETH/USDT"), ltc()):
        expected = of(rows)
        tolerance = {"trade_imbalance_1m": 1e-12, "volatility_index": 1e-9}.get(name, 0.0)
        assert numbers(rows, name) == pytest.approx(expected, rel=1e-10, abs=tolerance, nan_ok=True)
    assert np.isfinite(numbers(ltc(), name)).sum() > 2_000, "the recording is long enough to define it"


# A user's own -----------------------------------------------------------------------------------------------------------------


@indicator(state={"last": NAN, "run": 0.0}, warm_up=2)
def streak(last: float, run: float, value: float, most: float) -> tuple[float, float, float]:
    """How many rises in a row, negative for falls, at most `most`."""
    if value > last:
        run = min(max(run, 0.0) + 1.0, most)
    elif value < last:
        run = max(min(run, 0.0) - 1.0, -most)
    return value, run, run


def test_an_indicator_of_ten_lines_through_the_public_decorator_works_in_compute() -> None:
    view = FeatureView("mine", {"streak": streak("price", 3.0), "of_mean": streak(sma("price", 2), most=9)})
    rows = compute(view, tick_table([1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 4.0, 3.0]))
    assert rows["streak"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 3.0, 3.0, -1.0, -2.0]
    assert rows["of_mean"].to_pylist() == pytest.approx([NAN, 0.0, 1.0, 2.0, 3.0, 4.0, -1.0, -2.0], nan_ok=True)
