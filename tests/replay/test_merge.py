"""Merging: the order of `sorted()` by (received made never to decrease, position, row), however the sources are cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.block import IS_QUOTE, IS_TRADE, Block, Keys
from replay.merge import merge
from replay.sources import open_source
from tests.folding import QUOTES, TRADES, block_of, cut, quote, trade

Times = list[int]

times = st.lists(st.integers(0, 12), max_size=25)
cuts = st.lists(st.integers(0, 7), min_size=1, max_size=12)


def block(received: Sequence[int], position: int, first: int = 0) -> Block:
    """Trades that can be told apart: the price is the position, the id the row."""
    rows = [
        trade(received=at, timestamp=0, price=float(position + 1), trade_id=first + i) for i, at in enumerate(received)
    ]
    return block_of(Keys(), rows)


def pieces(received: Times, position: int, lengths: list[int]) -> Iterator[Block]:
    """A source in blocks of these lengths, over and over; blocks of none are among them."""
    done = turn = 0
    while done < len(received):
        size = lengths[turn % len(lengths)] if any(lengths) else 1
        yield block(received[done : done + size], position, done)
        done, turn = done + size, turn + 1


def told(blocks: Iterator[Block]) -> list[tuple[int, int, int]]:
    """(received, position, row) of each row."""
    found: list[tuple[int, int, int]] = []
    for part in blocks:
        found += zip(part.received.tolist(), (part.price - 1).astype(int).tolist(), part.trade_id.tolist(), strict=True)
    return found


def by_sorting(sources: Sequence[Times]) -> list[tuple[int, int, int]]:
    rows = [
        (known, position, row, received[row])
        for position, received in enumerate(sources)
        for row, known in enumerate(accumulate(received, max))
    ]
    return [(received, position, row) for _, position, row, received in sorted(rows)]


@given(st.lists(st.tuples(times, cuts), min_size=1, max_size=4))
def test_the_order_is_that_of_sorting_all_rows_however_the_sources_are_cut(
    sources: list[tuple[Times, list[int]]],
) -> None:
    blocks = [pieces(received, position, lengths) for position, (received, lengths) in enumerate(sources)]
    assert told(merge(blocks)) == by_sorting([received for received, _ in sources])


@given(st.lists(st.integers(0, 3), max_size=40), cuts, cuts)
def test_on_equal_times_the_earlier_source_comes_first_even_where_its_next_block_is_not_read_yet(
    received: Times, first: list[int], second: list[int]
) -> None:
    both = [sorted(received), sorted(received)]
    assert told(merge([pieces(both[0], 0, first), pieces(both[1], 1, second)])) == by_sorting(both)


def test_a_row_that_steps_back_in_time_stays_behind_the_one_before_it_also_across_blocks() -> None:
    first = iter([block([10, 30], 0), block([20, 40], 0, 2)])
    assert told(merge([first, iter([block([25, 35], 1)])])) == [
        (10, 0, 0),
        (25, 1, 0),
        (30, 0, 1),
        (20, 0, 2),
        (35, 1, 1),
        (40, 0, 3),
    ]


def test_no_sources_and_empty_sources_give_nothing() -> None:
    assert told(merge([])) == []
    assert told(merge([iter(()), iter([block([], 1)])])) == []


def test_a_single_source_is_given_out_as_it_is() -> None:
    blocks = [block([3, 1], 0), block([2], 0, 2)]
    assert list(merge([iter(blocks)])) == blocks


def test_a_source_is_read_no_further_than_the_order_needs() -> None:
    read: list[str] = []

    def source(name: str, position: int, starts: Sequence[int]) -> Iterator[Block]:
        for at in starts:
            read.append(f"{name}{at}")
            yield block([at, at + 5], position)

    merged = merge([source("a", 0, (0, 100, 200)), source("b", 1, (0, 10, 20))])
    assert len(next(merged)) == 3
    assert read == ["a0", "b0"]


def test_all_columns_stay_together_where_trades_have_no_quote_columns() -> None:
    keys = Keys()
    trades = block_of(keys, [trade(at=float(i), price=1.0 + i, side=1) for i in range(5)])
    empty = np.empty(0)
    bare = msgspec.structs.replace(trades, ask=empty, ask_volume=empty)
    quotes = block_of(keys, [quote(at=i + 0.5, ask=50.0 + i) for i in range(5)])
    both = Block.concatenate(list(merge([iter(cut(bare, 2)), iter(cut(quotes, 3))])))
    assert both.kind.tolist() == [IS_TRADE, IS_QUOTE] * 5
    assert both.price[both.kind == IS_TRADE].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert both.ask[both.kind == IS_QUOTE].tolist() == [50.0, 51.0, 52.0, 53.0, 54.0]
    assert np.isnan(both.ask[both.kind == IS_TRADE]).all()


def test_recorded_trades_and_quotes_are_merged_by_received() -> None:
    keys = Keys()
    sources = [open_source(path) for path in (QUOTES, TRADES)]
    both: Any = Block.concatenate(list(merge([source.blocks(keys) for source in sources])))
    assert len(both) == sum(source.rows() or 0 for source in sources)
    assert (np.diff(both.received) >= 0).all()
