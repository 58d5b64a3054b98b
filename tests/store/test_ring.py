"""The online store: newest, as-of and last-n reads against a list of all rows, over blocks of any length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, StoreError
from engine.events import FeatureEvent
from engine.indicator import before
from engine.indicators import sma, total
from store import FeatureView, OnlineStore
from store.program import Program
from store.ring import Lane
from tests.brute_force import QUOTE, SECOND, START, TRADE, Columns, emissions, evaluate, trade_columns

NAN = math.nan
A, B = ("x", "A/B"), ("x", "C/D")
TICKS = FeatureView("by_tick", {"price": "price", "mean": sma("price", 3), "old": before("price", 2)})
BARS = FeatureView("by_bar", {"close": "close", "sum": total("volume", "5s")}, clock="2s")
KEEP, BLOCK_ROWS = 16, 8


@cache
def program() -> Program:
    return Program((TICKS, BARS))


def new_store(keep: int = KEEP, block_rows: int = BLOCK_ROWS) -> OnlineStore:
    return OnlineStore(program(), keep=keep, block_rows=block_rows, window_ticks_max=1_000)


def rows_between(columns: Columns, start: int, stop: int) -> Columns:
    return tuple(column[start:stop] for column in columns)


def feed(store: OnlineStore, columns: Columns, key: tuple[str, str] = A, block_rows: int = BLOCK_ROWS) -> OnlineStore:
    """Fold all rows of one key, so many at a time."""
    for start in range(0, len(columns[0]), block_rows):
        store.lane(key).run(rows_between(columns, start, start + block_rows))
    return store


@dataclass
class AllRows:
    """Everything that a view ever put out, and the reads on it as INTERFACES and the store's docstrings say."""

    view: FeatureView
    stamps: list[tuple[int, int, int]]
    values: list[tuple[float, ...]]

    @classmethod
    def of(cls, view: FeatureView, columns: Columns) -> AllRows:
        rows = emissions(view.ticking, columns)
        stamps = [(row.timestamp, row.received, row.sequence) for row in rows]
        return cls(view, stamps, list(zip(*evaluate(view.nodes, rows).values(), strict=True)))

    def newest(
        self, cursor: int | None = None, timestamp: int | None = None, known_by: int | None = None
    ) -> int | None:
        """The number of the newest row that fits."""
        fitting = [
            i
            for i, (when, received, sequence) in enumerate(self.stamps)
            if (cursor is None or sequence <= cursor)
            and (timestamp is None or when <= timestamp)
            and (known_by is None or received <= known_by)
        ]
        return fitting[-1] if fitting else None

    def assert_is(self, event: FeatureEvent | None, number: int | None) -> None:
        if number is None:
            assert event is None
            return
        assert event is not None, f"found nothing, expected row {number}: {self.stamps[number]}"
        assert (event.timestamp, event.received, event.sequence) == self.stamps[number]
        assert same(dict(event.items()), dict(zip(self.view.features, self.values[number], strict=True)))


def same(left: dict[str, float], right: dict[str, float]) -> bool:
    """Equal, NaN being like NaN."""
    return list(left) == list(right) and np.array_equal(list(left.values()), list(right.values()), equal_nan=True)


STEPS = st.one_of(st.sampled_from([0, 0, 1, 2 * SECOND, 7 * SECOND, -SECOND]), st.integers(0, SECOND))


@st.composite
def market(draw: st.DrawFn) -> Columns:
    count = draw(st.integers(1, 40))

    def several(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=count, max_size=count))

    kinds = several(st.sampled_from([TRADE, TRADE, TRADE, QUOTE, 0]))
    return trade_columns(
        several(st.integers(1, 50)),
        volume=several(st.integers(1, 9)),
        timestamp=START + np.cumsum(several(STEPS)),
        received=START + SECOND + np.cumsum(several(st.sampled_from([0, 1, SECOND // 2, 3 * SECOND]))),
        sequence=np.cumsum(several(st.integers(1, 3))),
        action=kinds,
        ask=[60.0] * count,
        ask_volume=[1.0] * count,
    )


@settings(max_examples=80, deadline=None)
@given(columns=market(), block_rows=st.integers(1, BLOCK_ROWS), data=st.data())
def test_reads_equal_a_search_through_all_rows(columns: Columns, block_rows: int, data: st.DataObject) -> None:
    store = feed(new_store(keep=64), columns, block_rows=block_rows)
    times = sorted({int(t) + d for t in (*columns[1], *columns[2]) for d in (-1, 0, 1)})
    for view in (TICKS, BARS):
        rows = AllRows.of(view, columns)
        rows.assert_is(store.latest(view.name, *A), rows.newest())
        for _ in range(6):
            t, known_by = data.draw(st.sampled_from(times)), data.draw(st.sampled_from([None, *times]))
            expected = rows.newest(timestamp=t, known_by=t if known_by is None else known_by)
            rows.assert_is(store.as_of(view.name, *A, t, known_by), expected)
        count = data.draw(st.integers(1, 64))
        found = store.last(view.name, *A, count)
        assert list(zip(found.timestamp, found.received, found.sequence, strict=True)) == rows.stamps[-count:]
        assert np.array_equal(found.values.T, np.array(rows.values[-count:]).reshape(-1, len(rows.view.features)), True)
        assert len(found) == min(count, len(rows.stamps))


@settings(max_examples=60, deadline=None)
@given(columns=market(), block_rows=st.integers(1, BLOCK_ROWS), data=st.data())
def test_no_read_sees_past_the_cursor(columns: Columns, block_rows: int, data: st.DataObject) -> None:
    store = feed(new_store(keep=64), columns, block_rows=block_rows)
    cursor = data.draw(st.integers(0, int(columns[3][-1]) + 1))
    store.cursor = lambda: cursor
    for view in (TICKS, BARS):
        rows = AllRows.of(view, columns)
        rows.assert_is(store.latest(view.name, *A), rows.newest(cursor))
        t = data.draw(st.sampled_from(columns[2].tolist()))
        rows.assert_is(store.as_of(view.name, *A, t), rows.newest(cursor, t, t))
        visible = [stamps for stamps in rows.stamps if stamps[2] <= cursor]
        assert store.last(view.name, *A, 64).sequence.tolist() == [sequence for _, _, sequence in visible]


def counted(count: int, start: int = 1) -> Columns:
    """Trades a second apart: price, sequence and the seconds since START are all the number of the trade."""
    numbers = np.arange(start, start + count)
    return trade_columns(numbers, timestamp=START + SECOND * numbers, sequence=numbers)


def test_at_least_keep_rows_stay_readable_however_many_blocks_follow() -> None:
    store = new_store()
    for block in range(20):
        feed(store, counted(BLOCK_ROWS, 1 + block * BLOCK_ROWS))
        seen = (block + 1) * BLOCK_ROWS
        expected = list(range(max(1, seen - KEEP + 1), seen + 1))
        assert store.last("by_tick", *A, KEEP)["price"].tolist() == expected
        oldest = expected[0]
        event = store.as_of("by_tick", *A, START + SECOND * oldest)
        assert event is not None
        assert event["price"] == oldest


def test_a_read_further_back_than_what_is_kept_finds_nothing_rather_than_a_wrong_row() -> None:
    store = feed(new_store(), counted(10 * BLOCK_ROWS))
    assert store.as_of("by_tick", *A, START + SECOND * 2) is None
    assert store.as_of("by_tick", *A, START - 1) is None


def test_as_of_returns_nothing_that_was_received_after_the_time_asked_for() -> None:
    columns = trade_columns([1.0, 2.0, 3.0], timestamp=[START, START, START], received=[START, START + 5, START + 9])
    store = feed(new_store(), columns)
    prices = [store.as_of("by_tick", *A, START + t) for t in (0, 4, 5, 8, 9)]
    assert [event and event["price"] for event in prices] == [1.0, 1.0, 2.0, 2.0, 3.0]
    known = store.as_of("by_tick", *A, START, known_by=START + 5)
    assert known is not None
    assert known["price"] == 2.0
    assert store.as_of("by_tick", *A, START - 1, known_by=START + 9) is None
    assert store.as_of("by_tick", *A, START + 9, known_by=START - 1) is None


def test_readiness_belongs_to_the_row_that_is_read() -> None:
    store = feed(new_store(), counted(5))
    ready = [store.as_of("by_tick", *A, START + SECOND * t) for t in range(1, 6)]
    # sma needs three prices, `before` two older ones: ready at the third.
    assert [event is not None and event.ready for event in ready] == [False, False, True, True, True]
    feed(store, counted(10 * BLOCK_ROWS, 6))
    newest = store.latest("by_tick", *A)
    assert newest is not None
    assert newest.ready


def test_keys_have_rows_of_their_own() -> None:
    store = new_store()
    feed(store, counted(3), A)
    feed(store, counted(2, 100), B)
    assert store.last("by_tick", *A, 9)["price"].tolist() == [1.0, 2.0, 3.0]
    assert store.last("by_tick", *B, 9)["price"].tolist() == [100.0, 101.0]


def test_a_key_that_was_never_seen_has_no_rows() -> None:
    store = feed(new_store(), counted(3))
    assert store.latest("by_tick", "x", "nothing") is None
    assert store.as_of("by_tick", "x", "nothing", START) is None
    rows = store.last("by_tick", "x", "nothing", 5)
    assert len(rows) == 0
    assert rows["price"].tolist() == []
    assert list(store.lanes) == [A], "reading makes no lane"


def test_reads_copy_nothing() -> None:
    store = feed(new_store(), counted(6))
    memory = store.lane(A).rows
    rows, event = store.last("by_tick", *A, 4), store.latest("by_tick", *A)
    assert event is not None
    for array in (rows.values, rows.timestamp, rows.received, rows.sequence, rows["mean"], event.values, event.block):
        assert np.shares_memory(array, memory)
    assert not np.shares_memory(event.copy().values, memory)


def test_what_is_read_cannot_be_written_to() -> None:
    store = feed(new_store(), counted(6))
    rows, event = store.last("by_tick", *A, 4), store.latest("by_tick", *A)
    assert event is not None
    arrays: Sequence[np.ndarray[Any, Any]] = (
        rows.values,
        rows.timestamp,
        rows.received,
        rows.sequence,
        rows["mean"],
        event.values,
        event.copy().values,
    )
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_a_copied_event_keeps_its_values_while_the_store_moves_on() -> None:
    store = feed(new_store(), counted(6))
    event = store.latest("by_tick", *A)
    assert event is not None
    kept = event.copy()
    feed(store, counted(10 * BLOCK_ROWS, 7))
    assert kept["price"] == 6.0
    assert kept["mean"] == 5.0
    assert (kept.timestamp, kept.sequence, kept.ready) == (START + 6 * SECOND, 6, True)


def test_memory_is_what_is_allocated_and_is_known_before_the_first_tick() -> None:
    store = new_store()
    assert store.memory() == 0
    for key in (A, B):
        store.lane(key)
    allocated = sum(lane.arena.nbytes + lane.rows.nbytes for lane in store.lanes.values())
    assert store.memory() == allocated == 2 * store.memory_per_key()
    feed(store, counted(10 * BLOCK_ROWS))
    assert store.memory() == allocated, "windows of this length need no growth"


def test_memory_reports_a_window_that_has_grown() -> None:
    store = OnlineStore(dense_program(), keep=KEEP, block_rows=BLOCK_ROWS, window_ticks_max=10_000)
    at_start = store.lane(A).arena.nbytes
    feed(store, trade_columns([1.0] * 1_000, timestamp=[START] * 1_000))
    lane = store.lane(A)
    assert lane.arena.nbytes > at_start
    assert store.memory() == lane.nbytes == lane.arena.nbytes + lane.rows.nbytes
    event = store.latest("dense", *A)
    assert event is not None
    assert event["sum"] == 1_000.0


@cache
def dense_program() -> Program:
    return Program((FeatureView("dense", {"sum": total("price", "1m")}),))


@pytest.mark.parametrize("count", [0, -1, KEEP + 1])
def test_more_rows_than_are_kept_or_none_are_refused_with_the_limit(count: int) -> None:
    store = feed(new_store(), counted(3))
    with pytest.raises(StoreError, match=rf"last {count} rows of by_tick: expected 1 to {KEEP} \(store.ring_rows\)"):
        store.last("by_tick", *A, count)


def test_unknown_views_and_features_are_refused_with_those_there_are() -> None:
    store = feed(new_store(), counted(3))
    reads: tuple[Callable[[], object], ...] = (
        lambda: store.latest("by_tock", *A),
        lambda: store.as_of("by_tock", *A, START),
        lambda: store.last("by_tock", *A, 1),
    )
    for read in reads:
        with pytest.raises(ConfigError, match="feature view 'by_tock': expected one of by_tick, by_bar"):
            read()
    with pytest.raises(KeyError, match="no feature 'meen'; there are price, mean, old"):
        store.last("by_tick", *A, 1)["meen"]
    event = store.latest("by_tick", *A)
    assert event is not None
    with pytest.raises(KeyError, match="by_tick has no feature 'meen'; it has price, mean, old"):
        event["meen"]
    assert "mean" in event
    assert "meen" not in event


def test_a_block_longer_than_what_was_reserved_is_refused_before_it_writes_over_other_rows() -> None:
    lane = Lane(program(), A, KEEP, BLOCK_ROWS, 1_000)
    with pytest.raises(StoreError, match=str(BLOCK_ROWS)):
        lane.run(counted(KEEP + BLOCK_ROWS + 1))
