"""Bars by time, ticks, volume and notional, against a brute force that keeps the trades of a bar in a list."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import FeatureView, compute
from store.program import Program
from store.schema import BAR_FIELDS, Clock
from tests.brute_force import (
    QUOTE,
    SECOND,
    START,
    TRADE,
    Columns,
    emissions,
    first_difference,
    fold,
    markets,
    of_symbol,
    spot_trades,
    tick_table,
    trade_columns,
)

NAN = math.nan
CLOCKS = ("3s", "250ms", "1 ticks", "4 ticks", "10 volume", "0.5 volume", "1000 notional")


def view_of(clock: str) -> FeatureView:
    """All fields of a bar, under a name of its own."""
    name = "bars_" + clock.replace(" ", "_").replace(".", "_")
    return FeatureView(name, {field: field for field in BAR_FIELDS}, clock=clock)


@cache
def program() -> Program:
    """All clocks in one program, as in the daemon."""
    return Program(tuple(view_of(clock) for clock in CLOCKS))


def bars_of(clock: str, columns: Columns, block_rows: int | None = None) -> list[dict[str, Any]]:
    """The bars that the program makes: times, sequence and fields."""
    found = fold(program(), columns, block_rows=block_rows)
    name = view_of(clock).name
    stamps, values = found.stamps_of(program(), name), found.view(program(), name)
    return [
        dict(zip(("timestamp", "received", "sequence", *BAR_FIELDS), (*stamp, *value), strict=True))
        for stamp, value in zip(stamps.T.tolist(), values.T.tolist(), strict=True)
    ]


def trades_at(seconds: Sequence[float], price: Sequence[float] | None = None, **more: Any) -> Columns:
    """Trades so many seconds after START, received a second after they happened."""
    timestamp = [START + round(second * SECOND) for second in seconds]
    more.setdefault("received", [time + SECOND for time in timestamp])
    return trade_columns([100.0] * len(seconds) if price is None else price, timestamp=timestamp, **more)


# START is 255.342 s after a multiple of 1,000 s: the bar of 3 s that it lies in ends 2.658 s later.
FIRST_END = START // (3 * SECOND) * (3 * SECOND) + 3 * SECOND


def test_a_time_bar_is_aligned_to_the_epoch_and_ends_at_the_next_multiple() -> None:
    bars = bars_of("3s", trades_at([0.0, 1.0, 5.0, 9.0]))
    assert [bar["timestamp"] for bar in bars] == [FIRST_END, FIRST_END + 3 * SECOND]
    assert [bar["trades"] for bar in bars] == [2.0, 1.0]
    assert all(bar["timestamp"] % (3 * SECOND) == 0 for bar in bars)


def test_a_trade_at_the_very_end_of_a_time_bar_belongs_to_the_next() -> None:
    to_end = (FIRST_END - START) / SECOND
    columns = trade_columns([1.0, 2.0, 3.0, 4.0], timestamp=[START, FIRST_END - 1, FIRST_END, FIRST_END + 3 * SECOND])
    assert to_end == pytest.approx(2.658), "the fixture's START lies inside a bar"
    assert [bar["close"] for bar in bars_of("3s", columns)] == [2.0, 3.0]


def test_a_time_bar_that_no_trade_closes_is_not_put_out() -> None:
    assert bars_of("3s", trades_at([0.0, 1.0, 2.0])) == []


def test_quotes_close_no_bar() -> None:
    columns = trades_at([0.0, 60.0, 120.0], action=[TRADE, QUOTE, QUOTE], ask=[NAN, 101.0, 102.0])
    assert bars_of("3s", columns) == []


def test_a_period_without_a_trade_makes_no_bar() -> None:
    bars = bars_of("3s", trades_at([0.0, 3_600.0, 3_600.1, 90_000.0]))
    assert [bar["trades"] for bar in bars] == [1.0, 2.0]
    assert bars[1]["timestamp"] - bars[0]["timestamp"] == 3_600 * SECOND


def test_a_time_bar_has_the_received_and_the_sequence_of_the_trade_that_closed_it() -> None:
    columns = trades_at([0.0, 1.0, 7.0], sequence=[11, 12, 19])
    (bar,) = bars_of("3s", columns)
    assert (bar["timestamp"], bar["received"], bar["sequence"]) == (FIRST_END, START + 8 * SECOND, 19)


def test_a_trade_that_is_stamped_earlier_counts_as_if_it_came_at_the_newest_time() -> None:
    bars = bars_of("3s", trades_at([0.0, 4.0, 1.0, 5.0, 20.0], price=[1.0, 2.0, 3.0, 4.0, 5.0]))
    assert [(bar["open"], bar["close"], bar["trades"]) for bar in bars] == [(1.0, 1.0, 1.0), (2.0, 4.0, 3.0)]


def test_bars_before_1970_are_aligned_like_all_others() -> None:
    columns = trade_columns([1.0, 2.0, 3.0], timestamp=[-1, 0, 3 * SECOND])
    assert [bar["timestamp"] for bar in bars_of("3s", columns)] == [0, 3 * SECOND]


def test_only_a_trade_of_the_own_key_closes_a_bar() -> None:
    ticks = tick_table(
        [100.0, 7.0, 101.0, 7.5, 102.0],
        timestamp=[START + s * SECOND for s in (0, 60, 1, 120, 180)],
        received=[START + 200 * SECOND + i for i in range(5)],
        symbol=["A/B", "C/D", "A/B", "C/D", "A/B"],
        trade_id=[1, 1, 2, 2, 3],
    )
    found = compute(view_of("3s"), ticks).select(["symbol", "open", "close", "received"]).to_pylist()
    assert found == [
        {"symbol": "C/D", "open": 7.0, "close": 7.0, "received": START + 200 * SECOND + 3},
        {"symbol": "A/B", "open": 100.0, "close": 101.0, "received": START + 200 * SECOND + 4},
    ]


@pytest.mark.parametrize(
    ("clock", "volume", "trades"),
    [
        ("4 ticks", [1.0] * 9, [4, 4]),
        ("1 ticks", [1.0] * 3, [1, 1, 1]),
        ("10 volume", [4.0, 4.0, 4.0, 9.0, 1.0, 25.0, 9.5], [3, 2, 1]),
        ("0.5 volume", [0.25, 0.25, 0.125], [2]),
        ("1000 notional", [4.0, 6.0, 9.0, 30.0], [2, 2]),
    ],
)
def test_the_trade_that_completes_a_bar_belongs_to_it(clock: str, volume: list[float], trades: list[int]) -> None:
    columns = trades_at([float(i) for i in range(len(volume))], volume=volume)
    bars = bars_of(clock, columns)
    assert [bar["trades"] for bar in bars] == trades
    completing = np.cumsum(trades) - 1
    assert [bar["timestamp"] for bar in bars] == columns[1][completing].tolist()
    assert [bar["received"] for bar in bars] == columns[2][completing].tolist()
    assert [bar["sequence"] for bar in bars] == columns[3][completing].tolist()


def test_a_bar_has_open_high_low_close_and_what_takers_bought_and_sold() -> None:
    columns = trades_at(
        [0.0, 0.5, 1.0, 1.5], price=[10.0, 12.0, 9.0, 11.0], volume=[1.0, 2.0, 4.0, 8.0], side=[1, -1, 0, 1]
    )
    (bar,) = bars_of("4 ticks", columns)
    fields = ("open", "high", "low", "close", "price", "volume", "notional", "buy_volume", "sell_volume", "trades")
    assert [bar[name] for name in fields] == [10.0, 12.0, 9.0, 11.0, 11.0, 15.0, 158.0, 9.0, 2.0, 4.0]


def test_a_bar_has_the_quote_before_its_last_trade() -> None:
    columns = trades_at(
        [0.0, 0.1, 0.2, 0.3, 60.0],
        price=[100.0, 99.0, 100.0, 98.0, 100.0],
        action=[TRADE, QUOTE, TRADE, QUOTE, TRADE],
        ask=[NAN, 101.0, NAN, 102.0, NAN],
        ask_volume=[NAN, 5.0, NAN, 6.0, NAN],
    )
    (bar,) = bars_of("3s", columns)
    assert [bar[name] for name in ("bid", "bid_volume", "ask", "ask_volume")] == [99.0, 1.0, 101.0, 5.0]


SIZES = st.one_of(st.sampled_from([1.0, 10.0, 0.25]), st.floats(1e-8, 100.0))


@pytest.mark.parametrize("clock", CLOCKS)
@settings(max_examples=40, deadline=None)
@given(columns=markets(sizes=SIZES, most=80), block_rows=st.sampled_from([1, 3, 1_000]))
def test_bars_equal_brute_force_to_the_last_bit(clock: str, columns: Columns, block_rows: int) -> None:
    expected = emissions(Clock.parse(clock), columns)
    found = bars_of(clock, columns, block_rows)
    stamps = [(bar["timestamp"], bar["received"], bar["sequence"]) for bar in found]
    assert stamps == [(bar.timestamp, bar.received, bar.sequence) for bar in expected]
    for name in BAR_FIELDS:
        assert not first_difference([bar[name] for bar in found], [bar.fields[name] for bar in expected]), name


@pytest.mark.parametrize("clock", ["3s", "0.5 volume"])
def test_bars_of_the_recording_equal_a_grouping_of_its_trades(clock: str) -> None:
    rows = compute(view_of(clock), spot_trades())
    kind, size = Clock.parse(clock).kind, Clock.parse(clock).size
    for symbol in ("BTC/USDT", "ETH/USDT"):
        bars: dict[int, list[dict[str, Any]]] = defaultdict(list)
        number, measured, newest = 0, 0.0, 0
        for trade in of_symbol(spot_trades(), symbol).to_pylist():
            newest = max(newest, trade["timestamp"])
            bars[newest // int(size) if kind == "time" else number].append(trade)
            if kind != "time":
                measured += {"ticks": 1.0, "volume": trade["volume"]}.get(kind, trade["price"] * trade["volume"])
                if measured >= size:
                    number, measured = number + 1, 0.0
        is_open = kind == "time" or measured > 0.0
        complete = list(bars.values())[:-1] if is_open else list(bars.values())
        found = of_symbol(rows, symbol)
        assert len(complete) > 10, "the recording holds enough bars to mean something"
        assert found["open"].to_pylist() == [bar[0]["price"] for bar in complete]
        assert found["high"].to_pylist() == [max(t["price"] for t in bar) for bar in complete]
        assert found["low"].to_pylist() == [min(t["price"] for t in bar) for bar in complete]
        assert found["trades"].to_pylist() == [len(bar) for bar in complete]
        volumes = [math.fsum(t["volume"] for t in bar) for bar in complete]
        assert found["volume"].to_pylist() == pytest.approx(volumes, rel=1e-12)


def test_a_table_that_closes_no_bar_gives_an_empty_table_with_all_columns() -> None:
    rows = compute(view_of("3s"), tick_table([100.0, 101.0], timestamp=[START, START + 1]))
    assert rows.num_rows == 0
    assert rows.schema.field("close").type == pa.float64()
    assert rows.column_names == ["timestamp", "received", "exchange", "symbol", *BAR_FIELDS]
