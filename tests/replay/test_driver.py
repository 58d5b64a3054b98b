"""Driving recordings through a fold: what is selected, where it stops, and at which pace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.block import Block, Keys
from engine.errors import ReplayError
from engine.events import Gap, Tick
from replay.driver import Selection, drive
from replay.sources import Source, open_source
from tests.folding import BTC, ETH, LTC, QUOTES, SECOND, START, TRADES, Run, block_of, listener, quote, trade, trades


class Rows:
    """A source of rows that are given by hand, in blocks."""

    name = "rows"

    def __init__(self, *blocks: Sequence[dict[str, Any]]) -> None:
        self._blocks = blocks

    def rows(self) -> int | None:
        return sum(len(block) for block in self._blocks)

    def blocks(self, keys: Keys) -> Iterator[Block]:
        for block in self._blocks:
            yield block_of(keys, block)

    def notes(self) -> list[str]:
        return []


def driven(*sources: Source, selection: Selection | None = None, **how: Any) -> Run:
    run = Run(listener(Tick, Gap))
    drive(run.fold, sources, selection, **how)
    return run


def ids(run: Run) -> list[int | None]:
    """The ids of the ticks that were folded."""
    plugin: Any = run.fold.supervisor.actors["listener"].actor
    return [event.trade_id for event in plugin.heard if isinstance(event, Tick)]


def four(*, first: int = 0) -> list[dict[str, Any]]:
    return [trade(at=float(i), trade_id=i + 1) for i in range(first, first + 4)]


# --from, --to


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (None, None, [1, 2, 3, 4]),
        (1, None, [2, 3, 4]),
        (None, 2, [1, 2]),
        (1, 2, [2]),
        (2, 2, []),
        (9, None, []),
    ],
)
def test_from_is_the_first_received_that_is_folded_and_to_the_first_that_is_not(
    start: int | None, stop: int | None, expected: list[int]
) -> None:
    first, end = (None if at is None else START + at * SECOND for at in (start, stop))
    assert ids(driven(Rows(four()), selection=Selection(first, end))) == expected


def test_from_and_to_cut_to_the_nanosecond_and_by_received_and_not_by_timestamp() -> None:
    rows = [trade(timestamp=START + 50, received=START + i, trade_id=i) for i in range(1, 6)]
    assert ids(driven(Rows(rows), selection=Selection(START + 2, START + 5))) == [2, 3, 4]


def test_halves_of_a_time_range_make_the_whole() -> None:
    middle = int(np.median(pq.read_table(TRADES)["received"].to_numpy()))
    whole = driven(open_source(QUOTES), open_source(TRADES))
    halves = Run(listener(Tick, Gap))
    for selection in (Selection(stop=middle), Selection(start=middle)):
        drive(halves.fold, [open_source(QUOTES), open_source(TRADES)], selection)
    assert halves.fold.digest() == whole.fold.digest()


# --symbols


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        ((), {("x", "BTC/USDT"), ("x", "ETH/USDT"), ("y", "BTC/USDT")}),
        (("BTC/USDT",), {("x", "BTC/USDT"), ("y", "BTC/USDT")}),
        (("x:BTC/USDT",), {("x", "BTC/USDT")}),
        (("y:BTC/USDT", "ETH/USDT"), {("y", "BTC/USDT"), ("x", "ETH/USDT")}),
    ],
)
def test_symbols_are_chosen_with_or_without_their_exchange(
    symbols: tuple[str, ...], expected: set[tuple[str, str]]
) -> None:
    rows = [trade(key, at) for key, at in ((BTC, 0.0), (ETH, 1.0), (("y", "BTC/USDT"), 2.0), (BTC, 3.0))]
    run = driven(Rows(rows), selection=Selection(symbols=symbols))
    plugin: Any = run.fold.supervisor.actors["listener"].actor
    assert {(event.exchange, event.symbol) for event in plugin.heard} == expected


def test_a_symbol_may_have_a_colon_of_its_own() -> None:
    perpetual = ("x", "BTC/USDT:PERP")
    run = driven(Rows([trade(BTC), trade(perpetual)]), selection=Selection(symbols=("BTC/USDT:PERP",)))
    assert run.fold.folded == 1


def test_a_symbol_that_the_sources_do_not_hold_is_refused_with_those_they_hold() -> None:
    for symbol in ("XRP/USDT", "y:BTC/USDT"):
        with pytest.raises(ReplayError) as caught:
            driven(Rows([trade(BTC), trade(ETH)]), selection=Selection(symbols=("BTC/USDT", symbol)))
        assert str(caught.value) == f"symbols {symbol}: not in the sources, which hold BTC/USDT, ETH/USDT"
    with pytest.raises(ReplayError, match="which hold none"):
        driven(Rows(), selection=Selection(symbols=("BTC/USDT",)))


def test_a_selection_of_symbols_folds_what_a_file_of_those_alone_would() -> None:
    both = [*trades(50, ETH), *trades(50, BTC)]
    selected = driven(Rows(both), selection=Selection(symbols=("BTC/USDT",)))
    alone = driven(Rows(trades(50, BTC)))
    assert selected.fold.digest() == alone.fold.digest()


# --until-sequence


def test_until_sequence_stops_after_the_input_of_that_number() -> None:
    for last in range(1, 9):
        run = driven(Rows(four(), four(first=4)), selection=Selection(until_sequence=last))
        assert ids(run) == list(range(1, last + 1))
        assert run.fold.ingress.next_sequence == last + 1


def test_until_sequence_beyond_the_end_folds_all_and_none_folds_nothing() -> None:
    assert ids(driven(Rows(four()), selection=Selection(until_sequence=99))) == [1, 2, 3, 4]
    assert ids(driven(Rows(four()), selection=Selection(until_sequence=0))) == []


def test_until_sequence_gives_the_prefix_of_the_whole_replay() -> None:
    keys = Keys()
    (block,) = open_source(LTC).blocks(keys)
    for last in (1, 999, 3001):
        run = driven(open_source(LTC), selection=Selection(until_sequence=last))
        prefix = Run(listener(Tick, Gap))
        prefix.fold.keys = keys
        while prefix.fold.ingress.next_sequence <= last:
            done = prefix.fold.ingress.counts.sum()
            prefix.fold.push(block.take(slice(done, done + 1)))
        assert run.fold.digest() == prefix.fold.digest()


def test_until_the_sequence_of_a_gap_the_trade_behind_it_is_folded_with_it() -> None:
    rows = [trade(at=0.0, trade_id=1), trade(at=1.0, trade_id=5), trade(at=2.0, trade_id=6)]
    run = driven(Rows(rows), selection=Selection(until_sequence=2))
    assert run.fold.ingress.next_sequence == 4, "the gap has number 2, the trade behind it number 3"
    assert ids(run) == [1, 5]


def test_until_sequence_counts_no_row_that_is_no_input() -> None:
    rows = [
        trade(at=0.0, trade_id=1),
        trade(at=0.0, trade_id=1),
        trade(at=0.5, price=-1.0),
        trade(at=1.0, trade_id=2),
        trade(at=2.0, trade_id=3),
    ]
    assert ids(driven(Rows(rows), selection=Selection(until_sequence=2))) == [1, 2]


# Pace


def paced(
    *sources: Source, selection: Selection | None = None, speed: float = 1.0
) -> tuple[Run, list[tuple[int, int]]]:
    """Drive with a pace that waits for nothing; return (received it was asked to wait for, inputs folded by then)."""
    run = Run(listener(Tick, Gap))
    waited: list[tuple[int, int]] = []
    drive(run.fold, sources, selection, pace=lambda received: waited.append((received, run.fold.folded)), speed=speed)
    return run, waited


def test_the_pace_is_asked_before_the_inputs_of_each_moment_and_times_never_decrease() -> None:
    run, waited = paced(open_source(TRADES))
    times = [received for received, _ in waited]
    assert times == sorted(times)
    assert len(waited) > 500
    received = pq.read_table(TRADES)["received"].to_pylist()
    assert all(received[folded] == at for at, folded in waited), "asked to wait for the next input"
    assert run.fold.folded == 6000


def test_the_pace_never_decreases_where_a_source_steps_back_between_its_blocks() -> None:
    back = [trade(at=0.5, trade_id=5), trade(at=9.0, trade_id=6)]
    _, waited = paced(Rows(four(), back))
    times = [received - START for received, _ in waited]
    assert times == sorted(times)


def test_the_pace_changes_no_bit() -> None:
    run, _ = paced(open_source(QUOTES), open_source(TRADES), speed=3.0)
    assert run.fold.digest() == driven(open_source(QUOTES), open_source(TRADES)).fold.digest()


def test_a_greater_speed_asks_less_often() -> None:
    slow, fast = (len(paced(open_source(LTC), speed=speed)[1]) for speed in (1.0, 100_000.0))
    assert fast < slow / 5


@pytest.mark.parametrize(
    "selection", [Selection(start=START + 3600 * SECOND), Selection(symbols=("x:ETH/USDT",)), Selection(stop=START)]
)
def test_a_paced_replay_passes_over_blocks_of_which_nothing_is_selected(selection: Selection) -> None:
    run, waited = paced(Rows(four(), [trade(ETH, 5.0)], four(first=9)), selection=selection)
    assert len(waited) == run.fold.folded
    assert run.fold.folded == (1 if selection.symbols else 0)


def test_progress_hears_of_every_row_that_was_read_selected_or_not() -> None:
    heard: list[int] = []
    driven(Rows(four(), four(first=4)), selection=Selection(stop=START + 2 * SECOND), progress=heard.append)
    assert sum(heard) == 8


def test_sources_are_merged_by_received_with_the_earlier_on_the_command_line_first() -> None:
    run = Run(listener(Tick))
    first = Rows([trade(at=1.0, price=1.0), trade(at=2.0, price=2.0)])
    second = Rows([quote(at=1.0), trade(at=1.5, price=3.0), trade(at=2.0, price=4.0)])
    drive(run.fold, [first, second])
    plugin: Any = run.fold.supervisor.actors["listener"].actor
    assert [event.price for event in plugin.heard] == [1.0, 3.0, 2.0, 4.0]
    assert [event.sequence for event in plugin.heard] == [1, 3, 4, 5]


def test_a_file_cut_in_pieces_folds_as_the_whole(tmp_path: Path) -> None:
    whole = pq.read_table(TRADES)
    edges = [0, 10, 11, 3000, 5999, 6000]
    paths = []
    for number, (first, end) in enumerate(pairwise(edges)):
        paths.append(tmp_path / f"{number}.parquet")
        pq.write_table(whole.slice(first, end - first), paths[-1])
    pieces = driven(*(open_source(path) for path in paths))
    assert pieces.fold.digest() == driven(open_source(TRADES)).fold.digest()
