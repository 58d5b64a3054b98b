"""What the tests of features compare with: slow, plain Python that is read off the definitions, and small tables to run on.

`evaluate` interprets any graph of nodes over whole histories: no rings, no two-stack queues, no generated code. It calls the steps
themselves as Python, so it says nothing about them; `tests/engine/test_indicators.py` has a definition of its own for each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from hypothesis import strategies as st

from engine.block import Block, Keys
from engine.indicator import Before, Call, Field, Node, Output, Span, Windowed
from engine.ingress import Ingress
from store import FeatureView
from store.program import Program
from store.schema import QUOTE_FIELDS, Clock
from store.tables import to_block

DATA = Path(__file__).parent / "data"
START = 1_723_161_255_342_000_000  # ns UTC: not a whole second, so that bars must be aligned to the epoch to be right
SECOND = 1_000_000_000
TRADE, QUOTE = 1, 2
SECOND_BARS = ("technical_1s", FeatureView("bar", {"close": "close", "volume": "volume"}, clock="1s"))
"""One program for all that asks about bars of a second: compiling is what these tests cost."""

Floats = npt.NDArray[np.float64]
Columns = tuple[npt.NDArray[Any], ...]


# Tables -----------------------------------------------------------------------------------------------------------------------


def tick_table(
    price: Sequence[float],
    *,
    volume: Sequence[float] | None = None,
    side: Sequence[int] | None = None,
    timestamp: Sequence[int] | None = None,
    received: Sequence[int] | None = None,
    trade_id: Sequence[int | None] | None = None,
    exchange: str | Sequence[str] = "x",
    symbol: str | Sequence[str] = "A/B",
    late: Sequence[bool] | None = None,
) -> pa.Table:
    """A tick table: by default a trade a second, of volume 1, by a buyer, ids from 1, received when it happened."""
    count = len(price)
    times = [START + i * SECOND for i in range(count)] if timestamp is None else list(timestamp)
    columns: dict[str, Any] = {
        "timestamp": pa.array(times, pa.int64()),
        "received": pa.array(times if received is None else received, pa.int64()),
        "exchange": pa.array([exchange] * count if isinstance(exchange, str) else exchange, pa.string()),
        "symbol": pa.array([symbol] * count if isinstance(symbol, str) else symbol, pa.string()),
        "price": pa.array(price, pa.float64()),
        "volume": pa.array([1.0] * count if volume is None else volume, pa.float64()),
        "side": pa.array([1] * count if side is None else side, pa.int8()),
        "trade_id": pa.array(range(1, count + 1) if trade_id is None else trade_id, pa.int64()),
    }
    if late is not None:
        columns["late"] = pa.array(late, pa.bool_())
    return pa.table(columns)


def quote_table(
    received: Sequence[int],
    bid: Sequence[float],
    ask: Sequence[float],
    *,
    bid_volume: Sequence[float] | None = None,
    ask_volume: Sequence[float] | None = None,
    symbol: str = "A/B",
) -> pa.Table:
    """A quote table of exchange x: sizes 1 where none are given."""
    count = len(bid)
    return pa.table(
        {
            "timestamp": pa.array(received, pa.int64()),
            "received": pa.array(received, pa.int64()),
            "exchange": pa.array(["x"] * count, pa.string()),
            "symbol": pa.array([symbol] * count, pa.string()),
            "bid": pa.array(bid, pa.float64()),
            "bid_volume": pa.array([1.0] * count if bid_volume is None else bid_volume, pa.float64()),
            "ask": pa.array(ask, pa.float64()),
            "ask_volume": pa.array([1.0] * count if ask_volume is None else ask_volume, pa.float64()),
            "update_id": pa.array(range(1, count + 1), pa.int64()),
        }
    )


@cache
def spot_trades() -> pa.Table:
    """6,000 trades of BTC/USDT and ETH/USDT, interleaved as they arrived."""
    return pq.read_table(DATA / "binance_20240808_spot_trades.parquet")


@cache
def spot_quotes() -> pa.Table:
    """The quotes of the same minutes."""
    return pq.read_table(DATA / "binance_20240808_spot_quotes.parquet")


@cache
def ltc_trades() -> pa.Table:
    """4,000 trades of LTC/USDT over 95 minutes, with five gaps of ids."""
    return pq.read_table(DATA / "binance_20250621_ltc_trades.parquet")


def of_symbol(table: pa.Table, symbol: str) -> pa.Table:
    return table.filter(pc.equal(table["symbol"], symbol))


def numbers(table: pa.Table, name: str) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = table[name].to_numpy()
    return found


def same_bits(left: Any, right: Any) -> bool:
    """Whether two arrays of float64 are equal to the last bit, any NaN being like any other."""
    a, b = np.array(left, np.float64), np.array(right, np.float64)
    a[np.isnan(a)] = np.nan
    b[np.isnan(b)] = np.nan
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def first_difference(found: Any, expected: Any) -> str:
    """Where two sequences of floats first differ in a bit, for the message of an assertion; "" if they do not."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if a.shape != b.shape:
        return f"shape {a.shape}, expected {b.shape}"
    differs = np.argwhere(~((a == b) | (np.isnan(a) & np.isnan(b))))
    if not len(differs):
        return ""
    at = tuple(differs[0].tolist())
    return f"{len(differs)} values differ, the first at {at}: {a[at]!r}, expected {b[at]!r}"


# The program, run by hand -----------------------------------------------------------------------------------------------------


def read_only(columns: Iterable[npt.NDArray[Any]]) -> Columns:
    """Columns as the compiled function takes them."""
    frozen = tuple(np.ascontiguousarray(column).view() for column in columns)
    for column in frozen:
        column.flags.writeable = False
    return frozen


def trade_columns(
    price: npt.ArrayLike,
    *,
    volume: npt.ArrayLike | None = None,
    side: npt.ArrayLike | None = None,
    timestamp: npt.ArrayLike | None = None,
    received: npt.ArrayLike | None = None,
    sequence: npt.ArrayLike | None = None,
    action: npt.ArrayLike | None = None,
    ask: npt.ArrayLike | None = None,
    ask_volume: npt.ArrayLike | None = None,
) -> Columns:
    """Input rows of a program: by default trades a second apart, numbered from 1."""
    count = np.size(price)
    times = START + SECOND * np.arange(count) if timestamp is None else np.array(timestamp, np.int64)
    return read_only(
        (
            np.full(count, TRADE, np.uint8) if action is None else np.array(action, np.uint8),
            times,
            times if received is None else np.array(received, np.int64),
            np.arange(1, count + 1) if sequence is None else np.array(sequence, np.int64),
            np.array(price, np.float64),
            np.ones(count) if volume is None else np.array(volume, np.float64),
            np.ones(count, np.int8) if side is None else np.array(side, np.int8),
            np.full(count, np.nan) if ask is None else np.array(ask, np.float64),
            np.full(count, np.nan) if ask_volume is None else np.array(ask_volume, np.float64),
        )
    )


@dataclass
class Folded:
    """What a program put out: for each of its clocks the stamps (3 x rows) and the values (columns x rows)."""

    arena: Floats
    stamps: list[npt.NDArray[np.int64]]
    values: list[Floats]
    overflows: list[tuple[int, Span]]  # number of the input row, window
    grew: int

    def view(self, program: Program, name: str) -> Floats:
        """Features x rows of one view."""
        place = program.places[name]
        return self.values[place.scope][place.first_column : place.first_column + len(place.columns)]

    def stamps_of(self, program: Program, name: str) -> npt.NDArray[np.int64]:
        """(timestamp, received, sequence) x rows of one view."""
        return self.stamps[program.places[name].scope]

    def ready_from(self, program: Program, name: str) -> int:
        """The number of the first row at which a view was ready, -1 if none was."""
        return int(self.arena.view(np.int64)[program.places[name].ready_slot])

    def __add__(self, later: Folded) -> Folded:
        """This, and what was folded after it."""
        return Folded(
            later.arena,
            [np.concatenate(pair, axis=1) for pair in zip(self.stamps, later.stamps, strict=True)],
            [np.concatenate(pair, axis=1) for pair in zip(self.values, later.values, strict=True)],
            self.overflows + later.overflows,
            self.grew + later.grew,
        )

    def difference(self, expected: Folded) -> str:
        """Say where this differs in a bit from `expected`; "" if it does not."""
        for clock, (found, wanted) in enumerate(zip(self.stamps, expected.stamps, strict=True)):
            if found.shape != wanted.shape or (found != wanted).any():
                return f"the stamps of clock {clock} differ: {found.shape} {wanted.shape}"
        for clock, (values, others) in enumerate(zip(self.values, expected.values, strict=True)):
            if not same_bits(values, others):
                return f"clock {clock}: {first_difference(values, others)}"
        return ""


def fold(
    program: Program,
    columns: Columns,
    *,
    block_rows: int | None = None,
    arena: Floats | None = None,
    window_ticks_max: int = 1 << 16,
) -> Folded:
    """Run the compiled function over all rows, so many at a time, as `store.ring.Lane` does; `arena` is copied first."""
    count = len(columns[0])
    arena = program.new_arena(window_ticks_max) if arena is None else arena.copy()
    rows = program.new_rows(max(count, 1), 0)
    overflows: list[tuple[int, Span]] = []
    grew = 0
    size = max(count if block_rows is None else block_rows, 1)
    for first in range(0, count, size):
        at, stop = first, min(first + size, count)
        while True:
            at = program.block(arena, rows, *columns, at, stop)
            alerts = int(arena.view(np.int64)[program.alerts_slot])
            if not alerts:
                break
            arena.view(np.int64)[program.alerts_slot] = 0
            overflows += [(at - 1, span) for span in program.overflowed(alerts)]
            growing = program.growing(alerts)
            if growing is not None:
                arena = program.grown(arena, growing)
                grew += 1
    stamps, values = [], []
    for scope in program.scopes:
        position = int(rows.view(np.int64)[2 + scope.index])
        block = program.scope_rows(rows, scope.index)
        stamps.append(block.view(np.int64)[:3, :position].copy())
        values.append(block[3:, :position].copy())
    return Folded(arena, stamps, values, overflows, grew)


# Markets ----------------------------------------------------------------------------------------------------------------------

PRICES = st.one_of(st.sampled_from([100.0, 100.5, 1e-8, 1e12]), st.floats(1e-8, 1e12))
STEPS = st.one_of(
    st.sampled_from([0, 0, 0, 1, -1, 3 * SECOND - 1, 3 * SECOND, 3 * SECOND + 1, -SECOND, -3 * SECOND]),
    st.sampled_from([60 * SECOND, 3_600 * SECOND, -7_200 * SECOND]),
    st.integers(0, SECOND),
)
"""Nanoseconds from one input to the next: bursts in one instant, exactly three seconds, long gaps, clocks that step back."""


@st.composite
def markets(
    draw: st.DrawFn,
    *,
    prices: st.SearchStrategy[float] = PRICES,
    sizes: st.SearchStrategy[float] = PRICES,
    most: int = 60,
) -> Columns:
    """Trades and quotes of one key as input rows of a program; the sizes of some quotes are not sent."""
    kinds = draw(st.lists(st.sampled_from([TRADE, TRADE, TRADE, QUOTE]), min_size=1, max_size=most))

    def several(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=len(kinds), max_size=len(kinds)))

    sent = several(st.booleans())
    timestamp = START + np.cumsum(several(STEPS))
    return trade_columns(
        several(prices),
        volume=[
            size if kind == TRADE or is_sent else math.nan
            for kind, size, is_sent in zip(kinds, several(sizes), sent, strict=True)
        ],
        side=several(st.sampled_from([1, -1, 0])),
        timestamp=timestamp,
        received=np.maximum.accumulate(timestamp) + 5,
        action=kinds,
        ask=several(prices),
        ask_volume=[size if is_sent else math.nan for size, is_sent in zip(several(sizes), sent, strict=True)],
    )


def recorded_columns(symbol: str, trades: int, every_quote: int = 1) -> Columns:
    """Input rows of the recorded spot trades and quotes of one symbol, through the ingress, as the daemon folds them."""
    ticks = of_symbol(spot_trades(), symbol).slice(0, trades)
    quotes = of_symbol(spot_quotes(), symbol)
    quotes = quotes.filter(pc.less_equal(quotes["received"], pc.max(ticks["received"])))
    quotes = quotes.take(pa.array(range(0, quotes.num_rows, every_quote)))
    keys = Keys()
    both = Block.concatenate([to_block(quotes, keys, "quotes"), to_block(ticks, keys, "ticks")])
    both = both.take(np.argsort(both.received, kind="stable"))
    ingress = Ingress(max_ahead_ns=10 * SECOND)
    ingress.open(["binance"])
    admitted = ingress.admit(both)
    return read_only(
        (
            admitted.outcome, both.timestamp, admitted.received, admitted.sequence, both.price, both.volume, both.side,
            both.ask, both.ask_volume,
        )
    )  # fmt: skip


# Emissions of a clock ---------------------------------------------------------------------------------------------------------


@dataclass
class Emission:
    """One row that is due: its times, the number of the input row that made it due, and the fields that features may read."""

    timestamp: int
    received: int
    sequence: int
    fields: dict[str, float]


def emissions(clock: Clock, columns: Columns) -> list[Emission]:
    """The rows of a clock over input rows, from the definition of a bar: a list of its own trades, looked at when it is complete."""
    action, timestamp, received, sequence, price, volume, side, ask, ask_volume = (c.tolist() for c in columns)
    quote = dict.fromkeys(QUOTE_FIELDS, math.nan)
    newest: int | None = None
    held: list[tuple[float, float, int, dict[str, float]]] = []
    end = 0
    found: list[Emission] = []
    for i, kind in enumerate(action):
        if kind == QUOTE:
            quote = dict(zip(QUOTE_FIELDS, (price[i], volume[i], ask[i], ask_volume[i]), strict=True))
        if kind != TRADE:
            continue
        newest = timestamp[i] if newest is None else max(newest, timestamp[i])
        if clock.kind == "tick":
            fields = {"price": price[i], "volume": volume[i], "side": float(side[i]), **quote}
            found.append(Emission(newest, received[i], sequence[i], fields))
            continue
        if clock.kind == "time" and held and newest >= end:
            found.append(Emission(end, received[i], sequence[i], bar(held)))
            held = []
        if not held and clock.kind == "time":
            end = (newest // int(clock.size) + 1) * int(clock.size)
        held.append((price[i], volume[i], side[i], quote))
        measure = {"ticks": "trades", "volume": "volume", "notional": "notional"}.get(clock.kind)
        if measure and bar(held)[measure] >= clock.size:
            found.append(Emission(newest, received[i], sequence[i], bar(held)))
            held = []
    return found


def bar(trades: list[tuple[float, float, int, dict[str, float]]]) -> dict[str, float]:
    """The fields of a bar from its (price, volume, side, quote), oldest first."""
    prices = [price for price, _, _, _ in trades]
    return {
        "price": prices[-1],
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": in_order(volume for _, volume, _, _ in trades),
        "notional": in_order(price * volume for price, volume, _, _ in trades),
        "buy_volume": in_order(volume for _, volume, side, _ in trades if side > 0),
        "sell_volume": in_order(volume for _, volume, side, _ in trades if side < 0),
        "trades": float(len(trades)),
        **trades[-1][3],
    }


def in_order(values: Iterable[float]) -> float:
    """The sum as one adds it up, one after the other. (Python 3.12's `sum` compensates.)"""
    result = 0.0
    for value in values:
        result += value
    return result


# Nodes ------------------------------------------------------------------------------------------------------------------------


def evaluate(nodes: Mapping[str, Node], rows: Sequence[Emission]) -> dict[str, list[float]]:
    """The values of nodes over emissions, each from the whole history before it."""
    times = [row.timestamp for row in rows]
    known: dict[Node, list[float]] = {}
    calls: dict[Call, list[tuple[float, ...]]] = {}

    def series(node: Node) -> list[float]:
        if node not in known:
            known[node] = compute(node)
        return known[node]

    def compute(node: Node) -> list[float]:
        if isinstance(node, Field):
            return [row.fields[node.name] for row in rows]
        if isinstance(node, Output):
            if node.call not in calls:
                calls[node.call] = call(node.call)
            return [outputs[node.index] for outputs in calls[node.call]]
        assert isinstance(node, (Windowed, Before))
        values, span = series(node.value), node.span
        result = []
        for i in range(len(values)):
            # The first that is still in the window.
            first = oldest(times, i, span.time_ns) if span.time_ns else max(i - span.ticks + 1, 0)
            if isinstance(node, Before):
                result.append(values[first - 1] if first > 0 else math.nan)
            elif span.ticks and i + 1 < span.ticks:
                result.append(math.nan)
            else:
                result.append(reduce(node.aggregate.combine, values[first : i + 1]))
        return result

    def call(node: Call) -> list[tuple[float, ...]]:
        inputs = [series(part) for part in node.inputs]
        state: tuple[float, ...] = tuple(np.float64(v) for v in node.indicator.state.values())
        must = [name not in node.indicator.undefined for name in node.indicator.arguments[: len(inputs)]]
        result: list[tuple[float, ...]] = []
        for values in zip(*inputs, strict=True):
            if any(needed and not math.isfinite(value) for needed, value in zip(must, values, strict=True)):
                result.append((math.nan,) * len(node.indicator.outputs))
                continue
            # As numpy's numbers, which divide by zero without an exception, as the compiled code does.
            with np.errstate(all="ignore"):
                found = node.indicator.step(*state, *map(np.float64, values), *node.parameters)
            everything = found if isinstance(found, tuple) else (found,)
            state = everything[: len(state)]
            result.append(tuple(float(value) for value in everything[len(state) :]))
        return result

    return {name: series(node) for name, node in nodes.items()}


def oldest(times: Sequence[int], i: int, width: int) -> int:
    """The first index whose time lies in (t - width, t], t being the time at i; times never decrease."""
    first = i
    while first > 0 and times[first - 1] > times[i] - width:
        first -= 1
    return first


def expected_rows(view: FeatureView, columns: Columns) -> tuple[list[Emission], list[list[float]]]:
    """The emissions of a view and its features x rows."""
    rows = emissions(view.ticking, columns)
    return rows, list(evaluate(view.nodes, rows).values())
