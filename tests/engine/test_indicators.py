"""Every built-in indicator: against a slow definition of its own in plain Python, and against TA-Lib where TA-Lib has it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.indicator import Node, before, indicator
from engine.indicators import (
    bollinger,
    difference,
    ema,
    highest,
    lowest,
    macd,
    mid,
    price_change,
    product,
    quote_imbalance,
    ratio,
    realised_volatility,
    rsi,
    sma,
    spread_bps,
    total,
    trade_imbalance,
    volume_ratio,
    vwap,
)
from store import FeatureView, compute
from store.program import Program
from tests.brute_force import (
    QUOTE,
    SECOND,
    START,
    TRADE,
    Columns,
    Floats,
    fold,
    markets,
    numbers,
    of_symbol,
    spot_trades,
    tick_table,
    trade_columns,
)

W = 3 * SECOND
YEAR = 365 * 86_400 * SECOND
NAN = math.nan


# Definitions ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One trade as a feature sees it; `time` is the newest timestamp of its key so far."""

    time: int
    price: float
    volume: float
    side: int
    bid: float
    bid_volume: float
    ask: float
    ask_volume: float


Rows = Sequence[Row]
Series = list[float]


def in_window(rows: Rows, i: int) -> list[int]:
    """The numbers of the trades in (t - w, t]."""
    return [j for j in range(i + 1) if rows[j].time > rows[i].time - W]


def over_time(rows: Rows, value: Callable[[Rows], float]) -> Series:
    return [value([rows[j] for j in in_window(rows, i)]) for i in range(len(rows))]


def over_ticks(rows: Rows, count: int, value: Callable[[Rows], float]) -> Series:
    return [value(rows[i - count + 1 : i + 1]) if i + 1 >= count else NAN for i in range(len(rows))]


def base_before_time(rows: Rows) -> Series:
    """The last price at or before t - w."""
    old = [[row.price for row in rows[: i + 1] if row.time <= rows[i].time - W] for i in range(len(rows))]
    return [prices[-1] if prices else NAN for prices in old]


def lagged(values: Series, count: int) -> Series:
    return [values[i - count] if i >= count else NAN for i in range(len(values))]


def prices(rows: Rows) -> Series:
    return [row.price for row in rows]


def volumes(rows: Rows) -> Series:
    return [row.volume for row in rows]


def mean(values: Series) -> float:
    return math.fsum(values) / len(values)


def exact_ema(values: Sequence[Fraction | None], period: int) -> list[Fraction | None]:
    """The mean of the first `period` values, from then on average + 2 / (period + 1) * (value - average), without rounding."""
    average: Fraction | None = None
    seed: list[Fraction] = []
    result: list[Fraction | None] = []
    for value in values:
        if value is None:
            result.append(None)
            continue
        if average is not None:
            average += Fraction(2, period + 1) * (value - average)
        else:
            seed.append(value)
            if len(seed) == period:
                average = sum(seed, Fraction(0)) / period
        result.append(average)
    return result


def as_floats(values: Sequence[Fraction | None]) -> Series:
    return [NAN if value is None else float(value) for value in values]


def exact(values: Series) -> list[Fraction]:
    return [Fraction(value) for value in values]


def exact_macd(rows: Rows) -> tuple[Series, Series, Series]:
    pairs = zip(exact_ema(exact(prices(rows)), 5), exact_ema(exact(prices(rows)), 9), strict=True)
    line = [None if fast is None or slow is None else fast - slow for fast, slow in pairs]
    signal = exact_ema(line, 4)
    histogram = [None if a is None or b is None else a - b for a, b in zip(line, signal, strict=True)]
    return as_floats(line), as_floats(signal), as_floats(histogram)


def wilder_rsi(rows: Rows, period: int) -> Series:
    """100 G / (G + L) of Wilder's averages: the mean of the first `period` changes, then (old * (period - 1) + new) / period."""
    moves = [Fraction(b.price) - Fraction(a.price) for a, b in pairwise(rows)]
    result = [NAN] * min(period, len(rows))
    if len(moves) < period:
        return result
    gain = sum((max(move, Fraction(0)) for move in moves[:period]), Fraction(0)) / period
    loss = sum((max(-move, Fraction(0)) for move in moves[:period]), Fraction(0)) / period
    for i in range(period - 1, len(moves)):
        if i >= period:
            gain = (gain * (period - 1) + max(moves[i], Fraction(0))) / period
            loss = (loss * (period - 1) + max(-moves[i], Fraction(0))) / period
        result.append(50.0 if gain + loss == 0 else float(100 * gain / (gain + loss)))
    return result


def volatility(rows: Rows) -> Series:
    squares = [0.0, *(math.log(b.price / a.price) ** 2 for a, b in pairwise(rows))]
    return [
        100.0 * math.sqrt(math.fsum(squares[j] for j in in_window(rows, i)) * (YEAR / W)) if i else NAN
        for i in range(len(rows))
    ]


def vwap_of(rows: Rows) -> float:
    return math.fsum(row.price * row.volume for row in rows) / math.fsum(volumes(rows))


def imbalance_of(rows: Rows) -> float:
    return math.fsum(row.side * row.volume for row in rows) / math.fsum(volumes(rows))


def quote_imbalance_of(row: Row) -> float:
    size = row.bid_volume + row.ask_volume
    return (row.bid_volume - row.ask_volume) / size if size > 0.0 else NAN


@dataclass(frozen=True)
class Definition:
    """A node and what it ought to be. Within `relative` of the value, or within `absolute` of it, or of the largest price so far."""

    node: Node
    series: Callable[[Rows], Series]
    relative: float = 0.0
    absolute: float = 0.0
    of_history: float = 0.0


def each(value: Callable[[Row], float]) -> Callable[[Rows], Series]:
    return lambda rows: [value(row) for row in rows]


LINE, SIGNAL, HISTOGRAM = macd("price", 5, 9, 4)
DEFINITIONS: dict[str, Definition] = {
    "total_over_time": Definition(
        total("price", "3s"), lambda rows: over_time(rows, lambda r: math.fsum(prices(r))), 1e-13
    ),
    "total_over_ticks": Definition(
        total("volume", 7), lambda rows: over_ticks(rows, 7, lambda r: math.fsum(volumes(r))), 1e-13
    ),
    "lowest_over_time": Definition(lowest("price", "3s"), lambda rows: over_time(rows, lambda r: min(prices(r)))),
    "highest_over_time": Definition(highest("price", "3s"), lambda rows: over_time(rows, lambda r: max(prices(r)))),
    "lowest_over_ticks": Definition(lowest("price", 4), lambda rows: over_ticks(rows, 4, lambda r: min(prices(r)))),
    "highest_over_ticks": Definition(highest("price", 4), lambda rows: over_ticks(rows, 4, lambda r: max(prices(r)))),
    "before_time": Definition(before("price", "3s"), base_before_time),
    "before_ticks": Definition(before("price", 3), lambda rows: lagged(prices(rows), 3)),
    "sma": Definition(sma("price", 5), lambda rows: over_ticks(rows, 5, lambda r: mean(prices(r))), 1e-13),
    "sma_of_one": Definition(sma("price", 1), prices),
    "ema": Definition(ema("price", 9), lambda rows: as_floats(exact_ema(exact(prices(rows)), 9)), of_history=1e-14),
    "ema_of_two": Definition(
        ema("price", 2), lambda rows: as_floats(exact_ema(exact(prices(rows)), 2)), of_history=1e-14
    ),
    "macd": Definition(LINE, lambda rows: exact_macd(rows)[0], of_history=1e-13),
    "macd_signal": Definition(SIGNAL, lambda rows: exact_macd(rows)[1], of_history=1e-13),
    "macd_histogram": Definition(HISTOGRAM, lambda rows: exact_macd(rows)[2], of_history=1e-13),
    "rsi_2": Definition(rsi("price", 2), lambda rows: wilder_rsi(rows, 2), absolute=1e-9),
    "rsi_14": Definition(rsi("price", 14), lambda rows: wilder_rsi(rows, 14), absolute=1e-9),
    "price_change_over_time": Definition(
        price_change("price", "3s"),
        lambda rows: [row.price / base - 1.0 for row, base in zip(rows, base_before_time(rows), strict=True)],
    ),
    "price_change_over_ticks": Definition(
        price_change("price", 3),
        lambda rows: [row.price / base - 1.0 for row, base in zip(rows, lagged(prices(rows), 3), strict=True)],
    ),
    "volume_ratio": Definition(
        volume_ratio("volume", 5), lambda rows: over_ticks(rows, 5, lambda r: r[-1].volume / mean(volumes(r))), 1e-13
    ),
    "realised_volatility": Definition(realised_volatility("price", "3s"), volatility, 1e-13),
    "vwap_over_time": Definition(vwap("price", "volume", "3s"), lambda rows: over_time(rows, vwap_of), 1e-13),
    "vwap_over_ticks": Definition(vwap("price", "volume", 5), lambda rows: over_ticks(rows, 5, vwap_of), 1e-13),
    "trade_imbalance": Definition(
        trade_imbalance("side", "volume", "3s"), lambda rows: over_time(rows, imbalance_of), absolute=1e-13
    ),
    "mid": Definition(mid("bid", "ask"), each(lambda row: (row.bid + row.ask) / 2.0)),
    "spread_bps": Definition(
        spread_bps("bid", "ask"), each(lambda row: 10_000.0 * (row.ask - row.bid) / ((row.bid + row.ask) / 2.0)), 1e-14
    ),
    "quote_imbalance": Definition(quote_imbalance("bid_volume", "ask_volume"), each(quote_imbalance_of)),
    "difference": Definition(difference("price", "volume"), each(lambda row: row.price - row.volume)),
    "product": Definition(product("price", "volume"), each(lambda row: row.price * row.volume)),
    "ratio": Definition(ratio("price", "volume"), each(lambda row: row.price / row.volume)),
}
UPPER, MIDDLE, LOWER = bollinger("price", 6, 2.0)
GOLDEN_LINE, GOLDEN_SIGNAL, GOLDEN_HISTOGRAM = macd("price", 12, 26, 9)
GOLDEN_UPPER, GOLDEN_MIDDLE, GOLDEN_LOWER = bollinger("price", 20, 2.0)
OTHERS: dict[str, Node] = {
    "bollinger_upper": UPPER,
    "bollinger_middle": MIDDLE,
    "bollinger_lower": LOWER,
    "golden_rsi_14": rsi("price", 14),
    "golden_rsi_50": rsi("price", 50),
    "golden_macd": GOLDEN_LINE,
    "golden_macd_signal": GOLDEN_SIGNAL,
    "golden_macd_histogram": GOLDEN_HISTOGRAM,
    "golden_upper": GOLDEN_UPPER,
    "golden_middle": GOLDEN_MIDDLE,
    "golden_lower": GOLDEN_LOWER,
    "golden_sma_20": sma("volume", 20),
    "golden_ema_12": ema("volume", 12),
    "ema_of_sizes": ema("bid_volume", 2),
    "total_of_sizes": total("bid_volume", 2),
    "ratio_by_zero": ratio("price", difference("volume", "volume")),
}
VIEW = FeatureView("everything", {**{name: d.node for name, d in DEFINITIONS.items()}, **OTHERS})


@cache
def program() -> Program:
    """One program for the whole module: compiling is what these tests cost."""
    return Program((VIEW,))


def run(columns: Columns) -> dict[str, Floats]:
    """All features over input rows, by name."""
    return dict(zip(VIEW.features, fold(program(), columns).view(program(), VIEW.name), strict=True))


def rows_of(columns: Columns) -> list[Row]:
    """The trades as features see them."""
    rows: list[Row] = []
    newest, quote = -(2**63), (NAN, NAN, NAN, NAN)
    action, timestamp, _, _, price, volume, side, ask, ask_volume = (column.tolist() for column in columns)
    for i in range(len(action)):
        if action[i] == QUOTE:
            quote = (price[i], volume[i], ask[i], ask_volume[i])
        else:
            newest = max(newest, timestamp[i])
            rows.append(Row(newest, price[i], volume[i], side[i], *quote))
    return rows


@pytest.mark.parametrize("name", DEFINITIONS)
@settings(max_examples=40, deadline=None)
@given(columns=markets())
def test_an_indicator_equals_its_definition_on_any_ticks(name: str, columns: Columns) -> None:
    rows = rows_of(columns)
    definition = DEFINITIONS[name]
    found, expected = run(columns)[name].tolist(), definition.series(rows)
    assert len(found) == len(expected)
    largest = 0.0
    for i, (value, wanted) in enumerate(zip(found, expected, strict=True)):
        largest = max(largest, rows[i].price)
        if math.isnan(wanted):
            assert math.isnan(value), f"{name} at row {i}: found {value!r}, expected NaN"
            continue
        allowed = definition.relative * abs(wanted) + definition.absolute + definition.of_history * largest
        assert abs(value - wanted) <= allowed, f"{name} at row {i}: found {value!r}, expected {wanted!r} +- {allowed}"


def exact_bands(values: Series, period: int, width: float) -> list[tuple[float, float, float]]:
    """(upper, middle, lower) of a window, without rounding but for the root."""
    result = [(NAN, NAN, NAN)] * min(period - 1, len(values))
    for i in range(period - 1, len(values)):
        window = exact(values[i - period + 1 : i + 1])
        middle = sum(window, Fraction(0)) / period
        variance = sum(((value - middle) ** 2 for value in window), Fraction(0)) / period
        deviation = math.sqrt(variance)
        result.append((float(middle) + width * deviation, float(middle), float(middle) - width * deviation))
    return result


def assert_bands(found: dict[str, Floats], values: Series, relative: float, start: int = 0) -> None:
    """Within `relative` of the largest price in the window."""
    for i, expected in enumerate(exact_bands(values, 6, 2.0)):
        if i < start:
            continue
        allowed = relative * max(values[max(i - 5, 0) : i + 1])
        for name, wanted in zip(("bollinger_upper", "bollinger_middle", "bollinger_lower"), expected, strict=True):
            value = float(found[name][i])
            near = math.isnan(value) if math.isnan(wanted) else abs(value - wanted) <= allowed
            assert near, f"{name} at row {i}: found {value!r}, expected {wanted!r} +- {allowed}"


@settings(max_examples=60, deadline=None)
@given(scale=st.sampled_from([1e-8, 1.0, 1e9]), values=st.lists(st.floats(1.0, 1_000.0), min_size=1, max_size=60))
def test_bollinger_bands_equal_their_definition(scale: float, values: Series) -> None:
    scaled = [scale * value for value in values]
    assert_bands(run(trade_columns(scaled)), scaled, 1e-9)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.integers(0, 20), min_size=6, max_size=60))
def test_bollinger_bands_resolve_a_cent_at_a_price_of_a_hundred_million(values: list[int]) -> None:
    at_price = [1e8 + value / 128 for value in values]  # exact in binary, so that only the indicator rounds
    found = run(trade_columns(at_price))
    width = found["bollinger_upper"] - found["bollinger_lower"]
    expected = [upper - lower for upper, _, lower in exact_bands([value / 128 for value in values], 6, 2.0)]
    assert width == pytest.approx(expected, abs=1e-7, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([100.0, 100.5, 101.0, 101.5]), min_size=20, max_size=60),
    spikes=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    size=st.sampled_from([1e6, 1e12, 1e150, 1e300]),
)
def test_bollinger_bands_depend_on_nothing_that_has_left_their_window(
    values: Series, spikes: list[int], size: float
) -> None:
    for at in spikes:
        values[at % len(values)] = size
    found = run(trade_columns(values))
    for i in range(5, len(values)):
        window = values[i - 5 : i + 1]
        if size not in window:
            assert_bands({name: series[i - 5 : i + 1] for name, series in found.items()}, window, 1e-9, start=5)


# Golden -----------------------------------------------------------------------------------------------------------------------


@cache
def recorded() -> tuple[dict[str, Floats], Floats, Floats]:
    """Features over the recorded trades of BTC/USDT, their prices and volumes."""
    trades = of_symbol(spot_trades(), "BTC/USDT")
    price, volume = numbers(trades, "price"), numbers(trades, "volume")
    return run(trade_columns(price, volume=volume, timestamp=numbers(trades, "timestamp"))), price, volume


@pytest.mark.parametrize("period", [14, 50])
def test_rsi_equals_talib_once_2000_prices_have_been_seen(period: int) -> None:
    features, price, _ = recorded()
    assert features[f"golden_rsi_{period}"][2000:] == pytest.approx(talib.RSI(price, period)[2000:], abs=1e-7, rel=0)


def test_macd_equals_talib_once_2000_prices_have_been_seen() -> None:
    features, price, _ = recorded()
    for name, expected in zip(("macd", "macd_signal", "macd_histogram"), talib.MACD(price, 12, 26, 9), strict=True):
        assert features[f"golden_{name}"][2000:] == pytest.approx(expected[2000:], abs=1e-7, rel=0), name


def test_bollinger_bands_equal_talib_from_the_first() -> None:
    features, price, _ = recorded()
    for name, expected in zip(("upper", "middle", "lower"), talib.BBANDS(price, 20, 2.0, 2.0), strict=True):
        assert features[f"golden_{name}"] == pytest.approx(expected, rel=1e-6, abs=0, nan_ok=True), name


def test_averages_equal_talib_from_the_first() -> None:
    features, _, volume = recorded()
    assert features["golden_sma_20"] == pytest.approx(talib.SMA(volume, 20), rel=1e-9, abs=0, nan_ok=True)
    assert features["golden_ema_12"] == pytest.approx(talib.EMA(volume, 12), rel=1e-9, abs=0, nan_ok=True)


# Corners ----------------------------------------------------------------------------------------------------------------------


def test_rsi_of_flat_prices_is_50_as_soon_as_it_is_defined() -> None:
    found = run(trade_columns([83.23] * 100))
    assert np.isnan(found["golden_rsi_14"][:14]).all()
    assert (found["golden_rsi_14"][14:] == 50.0).all()


def test_rsi_keeps_its_value_on_flat_prices_until_both_averages_are_gone_and_is_50_from_then_on() -> None:
    moved = [100.0, 101.0, 100.5, 102.0, 101.0] * 4
    found = run(trade_columns(moved + [100.0] * 12_000))["golden_rsi_14"]
    after = found[len(moved) :]
    settled = after == 50.0
    # (13 / 14) ** n falls below 1e-290 after some 9,000 prices.
    assert settled[-1], f"after 12,000 flat prices RSI is {after[-1]!r}"
    gone = int(np.argmax(settled))
    assert settled[gone:].all()
    assert after[:gone] == pytest.approx(after[0], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(columns=markets(prices=st.floats(1e-300, 1e300)))
def test_rsi_never_leaves_0_to_100(columns: Columns) -> None:
    found = run(columns)
    for name in ("rsi_2", "rsi_14"):
        values = found[name][~np.isnan(found[name])]
        assert ((values >= 0.0) & (values <= 100.0 + 1e-12)).all(), f"{name}: {values}"


def quoted(price: Series, volume: Series) -> Columns:
    """One quote, then trades a second apart."""
    count = len(price) + 1
    return trade_columns(
        [99.0, *price],
        volume=[2.0, *volume],
        side=[0, *(1 if i % 3 else -1 for i in range(len(price)))],
        action=[QUOTE] + [TRADE] * len(price),
        ask=[101.0] + [NAN] * (count - 1),
        ask_volume=[3.0] + [NAN] * (count - 1),
    )


SPIKES = {"price": (1e300, 1.0), "volume": (1.0, 1e300), "both": (1e300, 1e300)}
LONGEST_WINDOW = 20
FOLLOWS = ("bollinger", "golden_upper", "golden_middle", "golden_lower")


@pytest.mark.parametrize("which", SPIKES)
@pytest.mark.parametrize("at", [60, 61, 67, 73])
def test_everything_is_finite_again_once_a_spike_of_1e300_has_left_the_window(which: str, at: int) -> None:
    price = [100.0 + 0.5 * (i * 7 % 11) for i in range(160)]
    volume = [1.0 + 0.25 * (i * 5 % 7) for i in range(160)]
    calm = run(quoted(price, volume))
    price[at], volume[at] = (old * spike for old, spike in zip((price[at], volume[at]), SPIKES[which], strict=True))
    spiked = run(quoted(price, volume))
    for name, values in spiked.items():
        if name == "ratio_by_zero":
            continue
        after = values[at + LONGEST_WINDOW + 1 :]
        assert np.isfinite(after).all(), f"{name}: {after}"
        remembers = any(word in name for word in ("ema", "macd", "rsi"))  # averages without a window
        if not remembers and not name.startswith(FOLLOWS):
            assert after == pytest.approx(calm[name][at + LONGEST_WINDOW + 1 :], rel=1e-12), name


@pytest.mark.parametrize("at", range(60, 66))
def test_bollinger_bands_are_right_again_once_a_spike_of_1e300_has_left_the_window(at: int) -> None:
    price = [100.0 + 0.5 * (i * 7 % 11) for i in range(80)]
    price[at] = 1e300
    found = {name: values[at + 1 :] for name, values in run(trade_columns(price)).items()}
    assert_bands(found, price[at + 1 :], 1e-9, start=5)


def test_a_step_is_not_called_on_an_undefined_input_and_goes_on_from_its_old_state() -> None:
    sizes = [2.0, 4.0, NAN, 8.0, 16.0]
    rows = [(QUOTE, size) if k == 0 else (TRADE, 1.0) for size in sizes for k in (0, 1)]
    found = run(
        trade_columns(
            [100.0] * 10,
            volume=[size for _, size in rows],
            action=[kind for kind, _ in rows],
            ask=[101.0] * 10,
            ask_volume=[1.0] * 10,
        )
    )
    seeded = 3.0
    after_8 = seeded + 2.0 / 3.0 * (8.0 - seeded)
    expected = [NAN, seeded, NAN, after_8, after_8 + 2.0 / 3.0 * (16.0 - after_8)]
    assert found["ema_of_sizes"] == pytest.approx(expected, nan_ok=True)
    assert found["total_of_sizes"] == pytest.approx([NAN, 6.0, NAN, NAN, 24.0], nan_ok=True)


def test_a_ratio_to_zero_is_undefined() -> None:
    assert np.isnan(run(trade_columns([1.0, 2.0]))["ratio_by_zero"]).all()


def test_a_bar_volume_that_overflows_does_not_poison_an_average() -> None:
    view = FeatureView("overflowing", {"volume": "volume", "average": ema("volume", 2)}, clock="1s")
    times = [START, START + 1, *(START + i * SECOND for i in range(1, 8))]
    rows = compute(view, tick_table([1.0] * 9, volume=[1e308, 1e308, *[1.0] * 7], timestamp=times))
    assert math.isinf(rows["volume"][0].as_py()), "the first bar was to overflow"
    assert rows["average"].to_pylist()[-3:] == [1.0, 1.0, 1.0]


# Binding ----------------------------------------------------------------------------------------------------------------------


@indicator(state={"last": 0.0}, outputs=("sum", "gap"), warm_up=lambda scale: int(scale) + 1)
def pair(last: float, left: float, right: float, scale: float = 2.0) -> tuple[float, float, float]:
    """Two outputs of two inputs."""
    return left, scale * (left + right), right - last


def test_equal_nodes_are_one_node_however_their_arguments_were_given() -> None:
    assert pair("price", "volume") == pair("price", "volume", 2.0) == pair(left="price", right="volume", scale=2.0)
    assert len({*pair("price", "volume"), *pair("price", "volume", scale=2.0)}) == 2
    assert pair("price", "volume") != pair("volume", "price")
    assert pair("price", "volume") != pair("price", "volume", 3.0)


def test_warm_ups_of_a_chain_add_up() -> None:
    assert rsi("price", 14).warm_up() == 15
    assert macd("price", 12, 26, 9)[1].warm_up() == 26 + 9 - 1
    assert sma(before("price", 3), 4).warm_up() == 3 + 4
    assert pair("price", sma("volume", 5), 7.0)[0].warm_up() == 5 + 8 - 1


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        (lambda: pair("price"), r"indicator pair: missing a required argument: 'right'; it takes left, right, scale"),
        (lambda: pair("price", "volume", width=1.0), r"indicator pair: got an unexpected keyword argument 'width'"),
        (lambda: pair("price", "volume", None), r"indicator pair: scale = None: expected a node, a field's name or a"),
        (
            lambda: pair("price", 1.0, "volume"),
            r"indicator pair: expected inputs before parameters, found input 'scale'",
        ),
        (lambda: total(1.5, 3), r"1.5: expected a node or the name of a field such as 'price', found a float"),  # type: ignore[arg-type]
        (lambda: total("price", 0), r"window 0: expected a number of ticks >= 1 or a time"),
        (lambda: total("price", "0s"), r"window '0s': expected a number of ticks >= 1 or a time"),
        (lambda: total("price", True), r"window True: expected a number of ticks"),
        (lambda: before("price", "1 s"), r"window '1 s': expected"),
        (lambda: before("price", -1), r"window -1: expected"),
        (lambda: realised_volatility("price", 20), r"realised_volatility: window 20: expected a time such as"),
    ],
)
def test_a_wrong_argument_is_named_when_the_node_is_made(bind: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bind()


def test_a_step_must_begin_with_its_state_and_list_real_inputs() -> None:
    def step(value: float, last: float) -> tuple[float, float]:
        return value, last

    with pytest.raises(ConfigError, match=r"indicator step: expected its first arguments to be its state \['last'\]"):
        indicator(state={"last": 0.0})(step)
    with pytest.raises(ConfigError, match=r"indicator step: undefined names 'valeu', expected one of"):
        indicator(undefined=("valeu",))(step)
