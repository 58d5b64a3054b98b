"""The ingress: what becomes of each row, which gaps are found, how inputs are numbered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.block import IS_QUOTE, IS_TRADE, NO_ID, Block, Keys
from engine.ingress import (
    AHEAD,
    BAD_PRICE,
    BAD_VOLUME,
    DUPLICATE,
    FORGOTTEN,
    GAPS_A_CALL,
    LATE,
    OUTCOMES,
    QUOTE,
    RANGES,
    TRADE,
    Ingress,
)
from store.tables import to_block
from tests.brute_force import ltc_trades, numbers, spot_quotes, spot_trades

MAX_AHEAD_NS = 10_000_000_000
NOW = 1_723_161_255_000_000_000
NAN = math.nan


@dataclass(frozen=True)
class Row:
    """One message; a quote if it has an ask."""

    id: int | None = None
    late: bool = False
    key: int = 0
    price: float = 100.0
    volume: float = 1.0
    ask: float | None = None
    ask_volume: float = 1.0
    timestamp: int = NOW
    received: int = NOW


def block_of(rows: Sequence[Row]) -> Block:
    quotes = any(row.ask is not None for row in rows)
    return Block(
        key=np.array([row.key for row in rows], np.int32),
        kind=np.array([IS_TRADE if row.ask is None else IS_QUOTE for row in rows], np.uint8),
        timestamp=np.array([row.timestamp for row in rows], np.int64),
        received=np.array([row.received for row in rows], np.int64),
        price=np.array([row.price for row in rows], np.float64),
        volume=np.array([row.volume for row in rows], np.float64),
        side=np.zeros(len(rows), np.int8),
        ask=np.array([NAN if row.ask is None else row.ask for row in rows] if quotes else [], np.float64),
        ask_volume=np.array([row.ask_volume for row in rows] if quotes else [], np.float64),
        trade_id=np.array([NO_ID if row.id is None else row.id for row in rows], np.int64),
        late=np.array([row.late for row in rows], np.uint8),
    )


@dataclass
class Judged:
    """What an ingress said of rows, over all blocks: `gaps` as (row, sequence, first id, last id, missing, filled)."""

    outcome: list[int] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    gaps: list[list[int]] = field(default_factory=list)


def new_ingress(exchanges: Sequence[str] = ("x",), **arguments: Any) -> Ingress:
    ingress = Ingress(max_ahead_ns=MAX_AHEAD_NS, **arguments)
    ingress.open(list(exchanges))
    return ingress


def judge(ingress: Ingress, rows: Sequence[Row] | Block, block_rows: int | None = None) -> Judged:
    """Send rows through, so many at a time (None: all at once)."""
    block = rows if isinstance(rows, Block) else block_of(rows)
    result = Judged()
    size = block_rows or max(len(block), 1)
    for start in range(0, len(block), size):
        admitted = ingress.admit(block.take(slice(start, start + size)))
        result.outcome += admitted.outcome.tolist()
        result.sequence += admitted.sequence.tolist()
        result.received += admitted.received.tolist()
        result.gaps += [[row + start, *rest] for row, *rest in admitted.gaps.tolist()]
    return result


def outcomes(ids: Sequence[int | None], ingress: Ingress | None = None) -> list[int]:
    """What becomes of live trades with these ids."""
    return judge(ingress or new_ingress(), [Row(number) for number in ids]).outcome


def live(*ids: int) -> list[Row]:
    return [Row(number) for number in ids]


def history(*ids: int) -> list[Row]:
    return [Row(number, late=True) for number in ids]


# Ids --------------------------------------------------------------------------------------------------------------------------


def test_an_id_that_was_folded_is_a_duplicate_and_gets_no_number() -> None:
    found = judge(new_ingress(), live(5, 6, 6, 5, 7))
    assert found.outcome == [TRADE, TRADE, DUPLICATE, DUPLICATE, TRADE]
    assert found.sequence == [1, 2, 0, 0, 3]
    assert found.gaps == []


def test_a_higher_id_is_taken_at_once_with_a_numbered_gap_before_it() -> None:
    found = judge(new_ingress(), live(5, 9, 10))
    assert found.outcome == [TRADE, TRADE, TRADE]
    assert found.gaps == [[1, 2, 6, 8, 3, 0]]
    assert found.sequence == [1, 3, 4]


def test_a_missing_id_that_comes_after_all_is_late_once_and_then_a_duplicate() -> None:
    assert outcomes([5, 9, 7, 7, 6, 8, 8]) == [TRADE, TRADE, LATE, DUPLICATE, LATE, LATE, DUPLICATE]


def test_an_id_below_the_first_ever_seen_is_late() -> None:
    assert outcomes([100, 1, 1, 99]) == [TRADE, LATE, DUPLICATE, LATE]


def test_ids_are_compared_exactly_beyond_2_to_the_53() -> None:
    base = 2**60
    found = judge(new_ingress(), live(base, base + 1, base + 1, base + 3))
    assert found.outcome == [TRADE, TRADE, DUPLICATE, TRADE]
    assert found.gaps == [[3, 3, base + 2, base + 2, 1, 0]]


def test_the_greatest_id_there_is_stays_taken_when_a_trade_without_an_id_follows() -> None:
    assert outcomes([2**63 - 1, None, 2**63 - 1]) == [TRADE, TRADE, DUPLICATE]


def test_trades_without_ids_are_all_taken_and_have_no_gaps() -> None:
    found = judge(new_ingress(), [Row(None), Row(None), Row(7), Row(None), Row(9)])
    assert found.outcome == [TRADE] * 5
    assert [gap[2:4] for gap in found.gaps] == [[8, 8]]


def test_history_is_an_input_that_is_not_folded_and_moves_no_last_id() -> None:
    found = judge(new_ingress(), live(10) + history(8, 8, 10, 12) + live(11))
    assert found.outcome == [TRADE, LATE, DUPLICATE, DUPLICATE, LATE, TRADE]
    assert found.sequence == [1, 2, 0, 0, 3, 4]
    assert found.gaps == [], "11 follows 10: that 12 came as history before leaves no id missing"


def test_history_above_the_last_id_is_folded_when_the_live_trade_comes_and_then_is_a_duplicate() -> None:
    found = judge(new_ingress(), live(10) + history(11, 12) + live(11, 12, 12) + history(11))
    assert found.outcome == [TRADE, LATE, LATE, TRADE, TRADE, DUPLICATE, DUPLICATE]


def test_a_gap_says_how_many_of_its_ids_had_come_as_history() -> None:
    found = judge(new_ingress(), live(10) + history(12, 13, 17) + live(16, 20))
    assert found.gaps == [[4, 5, 11, 15, 5, 2], [5, 7, 17, 19, 3, 1]]


def test_a_gap_of_more_ids_than_int64_counts_says_as_many_as_that() -> None:
    least, most = -(2**63) + 1, 2**63 - 1
    found = judge(new_ingress(), live(least, most))
    assert found.gaps == [[1, 2, least + 1, most - 1, most, 0]]
    assert found.outcome == [TRADE, TRADE]
    found = judge(new_ingress(), [*live(least), *history(least + 1, 0, 2**62), *live(most)])
    assert found.gaps == [[4, 5, least + 1, most - 1, most, 3]]
    # The greatest that can be counted, and the least that cannot.
    assert judge(new_ingress(), live(-1, most)).gaps == [[1, 2, 0, most - 1, most, 0]]
    assert judge(new_ingress(), live(-2, most)).gaps == [[1, 2, -1, most - 1, most, 0]]


def test_the_first_live_trade_after_a_snapshot_continues_it() -> None:
    found = judge(new_ingress(), history(7, 8, 9) + live(10))
    assert found.outcome == [LATE, LATE, LATE, TRADE]
    assert found.gaps == []
    assert judge(new_ingress(), history(7, 8, 9) + live(12)).gaps == [[3, 4, 10, 11, 2, 0]]


def test_history_without_an_id_is_late() -> None:
    found = judge(new_ingress(), [Row(None, late=True), Row(None)])
    assert found.outcome == [LATE, TRADE]


def test_ids_that_are_not_contiguous_by_design_have_no_gaps_but_duplicates_and_late_ones() -> None:
    ingress = new_ingress(["kucoin", "x"], not_contiguous=("kucoin",))
    ids = [10, 20, 20, 15, 30]
    found = judge(ingress, [Row(number, key=key) for number in ids for key in (0, 1)])
    assert found.outcome[0::2] == found.outcome[1::2] == [TRADE, TRADE, DUPLICATE, LATE, TRADE]
    assert [gap[2:4] for gap in found.gaps] == [[11, 19], [21, 29]]
    assert {gap[0] % 2 for gap in found.gaps} == {1}, "every gap belongs to the second key"


def test_keys_know_nothing_of_one_another() -> None:
    ingress = new_ingress(["x", "x"])
    rows = [Row(5, key=0), Row(5, key=1), Row(6, key=0), Row(7, key=1), Row(6, key=1)]
    found = judge(ingress, rows)
    assert found.outcome == [TRADE, TRADE, TRADE, TRADE, LATE]
    assert found.gaps == [[3, 4, 6, 6, 1, 0]]


def test_keys_that_are_opened_later_leave_the_others_as_they_are() -> None:
    ingress = new_ingress(["x"])
    judge(ingress, live(5))
    ingress.open(["x", "y"])
    assert judge(ingress, [Row(5, key=0), Row(5, key=1), Row(6, key=0)]).outcome == [DUPLICATE, TRADE, TRADE]


def test_more_gaps_in_a_block_than_one_call_holds_are_all_found() -> None:
    count = 2 * GAPS_A_CALL + 10
    found = judge(new_ingress(), live(*range(1, 2 * count, 2)))
    assert [gap[2] for gap in found.gaps] == list(range(2, 2 * count - 1, 2))
    assert found.sequence[-1] == 2 * count - 1, "a number for each trade and for each gap"


# Memory of missing ranges -----------------------------------------------------------------------------------------------------


def test_an_id_in_a_range_that_was_forgotten_counts_as_taken() -> None:
    ingress = new_ingress()
    # The ids below the first are a missing range too: with it, RANGES - 1 gaps are remembered.
    ids = list(range(1_000, 1_000 + 2 * RANGES, 2))
    judge(ingress, live(*ids))
    assert ingress.state[0, FORGOTTEN] == 0
    assert outcomes([999, 1_001], ingress) == [LATE, LATE]
    judge(ingress, live(ids[-1] + 2, ids[-1] + 4))
    assert ingress.state[0, FORGOTTEN] == 1, "below the first is a range again, 1,001 was struck out: one too many"
    assert outcomes([998, 1_003], ingress) == [DUPLICATE, LATE]


def test_an_id_in_the_middle_of_a_range_splits_it_even_where_memory_is_full() -> None:
    ingress = new_ingress()
    ids = list(range(1_000, 1_000 + 10 * RANGES, 10))
    judge(ingress, live(*ids))
    last = ids[-1]
    # Full: the lowest range (below 1,000) makes place for the two halves of the newest.
    assert outcomes([last - 5, last - 5, last - 1, last - 9, 999], ingress) == [LATE, DUPLICATE, LATE, LATE, DUPLICATE]
    assert ingress.state[0, FORGOTTEN] == 1


def test_splitting_the_lowest_range_where_memory_is_full_forgets_its_lower_half() -> None:
    ingress = new_ingress()
    judge(ingress, live(*range(1_000, 1_000 + 10 * RANGES, 10)))
    assert outcomes([500, 499, 501], ingress) == [LATE, DUPLICATE, LATE]
    assert ingress.state[0, FORGOTTEN] == 1


def test_forgetting_never_makes_a_folded_id_new() -> None:
    ingress = new_ingress()
    ids = list(range(0, 5 * RANGES, 3))
    judge(ingress, live(*ids))
    assert set(outcomes(ids, ingress)) == {DUPLICATE}


# Refusals ---------------------------------------------------------------------------------------------------------------------

BAD_NUMBERS = [NAN, math.inf, -math.inf, 0.0, -0.0, -1.0]


@pytest.mark.parametrize("value", BAD_NUMBERS)
def test_a_price_or_volume_that_is_not_positive_and_finite_is_refused_and_says_so(value: float) -> None:
    ingress = new_ingress()
    rows = [Row(1, price=value), Row(1, volume=value), Row(1)]
    block = block_of(rows)
    assert judge(ingress, rows).outcome == [BAD_PRICE, BAD_VOLUME, TRADE], "a refused id is not taken"
    assert ingress.describe(block, 0, BAD_PRICE) == f"price {value!r}: expected positive and finite"
    assert ingress.describe(block, 1, BAD_VOLUME) == f"volume {value!r}: expected positive and finite"


@pytest.mark.parametrize("value", BAD_NUMBERS)
def test_a_quote_with_a_bad_side_is_refused_and_says_so(value: float) -> None:
    ingress = new_ingress()
    rows = [Row(ask=101.0, price=value), Row(ask=value), Row(ask=101.0)]
    block = block_of(rows)
    assert judge(ingress, rows).outcome == [BAD_PRICE, BAD_PRICE, QUOTE]
    assert ingress.describe(block, 0, BAD_PRICE) == f"bid {value!r}, ask 101.0: expected positive and finite"
    assert ingress.describe(block, 1, BAD_PRICE) == f"bid 100.0, ask {value!r}: expected positive and finite"


def test_a_quote_may_come_without_sizes_but_not_with_impossible_ones() -> None:
    ingress = new_ingress()
    rows = [
        Row(ask=101.0, volume=NAN, ask_volume=NAN),
        Row(ask=101.0, volume=NAN, ask_volume=2.0),
        Row(ask=101.0, volume=0.0),
        Row(ask=101.0, ask_volume=math.inf),
    ]
    assert judge(ingress, rows).outcome == [QUOTE, QUOTE, BAD_VOLUME, BAD_VOLUME]
    text = ingress.describe(block_of(rows), 3, BAD_VOLUME)
    assert text == "bid_volume 1.0, ask_volume inf: expected positive and finite, or NaN where not sent"


def test_a_timestamp_too_far_ahead_of_received_is_refused_and_the_limit_itself_is_not() -> None:
    ingress = new_ingress()
    rows = [
        Row(1, timestamp=NOW + MAX_AHEAD_NS + 1_000_000),
        Row(1, timestamp=NOW + MAX_AHEAD_NS + 1),
        Row(1, timestamp=NOW + MAX_AHEAD_NS),
        Row(2, timestamp=NOW - 3_600 * 10**9),
        Row(ask=101.0, timestamp=2**63 - 1),
        Row(3, timestamp=-(2**63)),
    ]
    assert judge(ingress, rows).outcome == [AHEAD, AHEAD, TRADE, TRADE, AHEAD, TRADE]
    text = ingress.describe(block_of(rows), 0, AHEAD)
    assert text == "timestamp is 10001 ms after received, expected at most 10000"


def test_a_refused_row_leaves_received_and_numbers_as_they_were() -> None:
    ingress = new_ingress()
    rows = [
        Row(1, received=NOW),
        Row(2, price=NAN, received=NOW + 50),
        Row(2, received=NOW + 10),
        Row(2, received=NOW + 60),
        Row(3, received=NOW + 20),
    ]
    found = judge(ingress, rows)
    assert found.outcome == [TRADE, BAD_PRICE, TRADE, DUPLICATE, TRADE]
    assert found.sequence == [1, 0, 2, 0, 3]
    assert [found.received[i] - NOW for i in (0, 2, 4)] == [0, 10, 20]


def test_received_never_decreases_within_a_key_over_trades_quotes_and_history() -> None:
    ingress = new_ingress(["x", "x"])
    rows = [
        Row(1, received=NOW + 9),
        Row(ask=101.0, received=NOW + 5),
        Row(0, late=True, received=NOW + 7),
        Row(2, received=NOW + 8),
        Row(1, key=1, received=NOW + 3),
        Row(3, received=NOW + 12),
    ]
    assert [value - NOW for value in judge(ingress, rows).received] == [9, 9, 9, 9, 3, 12]


def test_counts_are_kept_by_key_and_outcome() -> None:
    ingress = new_ingress(["x", "x"])
    judge(ingress, [*live(1, 1, 3), *history(2), Row(4, price=0.0), Row(ask=1.0, key=1), Row(1, volume=0.0, key=1)])
    assert dict(zip(OUTCOMES, ingress.counts[0].tolist(), strict=True)) == {
        "skipped": 0,
        "trades": 2,
        "quotes": 0,
        "late": 1,
        "duplicates": 1,
        "bad price": 1,
        "bad volume": 0,
        "timestamp ahead": 0,
    }
    assert [ingress.counts[1, at].item() for at in (QUOTE, BAD_VOLUME)] == [1, 1]
    assert ingress.counts.sum() == 7


def test_numbers_begin_where_they_are_told_and_other_inputs_take_theirs_between() -> None:
    ingress = new_ingress(first_sequence=41)
    assert judge(ingress, live(1)).sequence == [41]
    assert ingress.number() == 42
    assert judge(ingress, live(2)).sequence == [43]


# Laws -------------------------------------------------------------------------------------------------------------------------


class SetModel:
    """The rules of the ingress over sets of ids, for one key: no ranges, no limits."""

    def __init__(self, contiguous: bool) -> None:
        self.contiguous = contiguous
        self.seen: set[int] = set()
        self.last: int | None = None
        self.received: int | None = None

    def judge(self, row: Row) -> tuple[int, list[int] | None]:
        """The outcome, and (first id, last id, missing, filled) of a gap before the row."""
        now = row.received if self.received is None else max(row.received, self.received)
        is_trade = row.ask is None
        result, gap = self.outcome(row, now, is_trade)
        if result in (TRADE, QUOTE, LATE):
            self.received = now
        return result, gap

    def outcome(self, row: Row, now: int, is_trade: bool) -> tuple[int, list[int] | None]:
        sides = [row.price] if row.ask is None else [row.price, row.ask]
        sizes = [row.volume] if is_trade else [row.volume, row.ask_volume]
        if not all(0.0 < value < math.inf for value in sides):
            return BAD_PRICE, None
        if not all(0.0 < value < math.inf or (math.isnan(value) and not is_trade) for value in sizes):
            return BAD_VOLUME, None
        if row.timestamp - now > MAX_AHEAD_NS:
            return AHEAD, None
        if not is_trade or row.id is None:
            return (LATE if row.late else TRADE if is_trade else QUOTE), None
        is_new = row.id not in self.seen
        if row.late or (self.last is not None and row.id <= self.last):
            self.seen.add(row.id)
            return (LATE if is_new else DUPLICATE), None
        base = self.last if self.last is not None else max(self.seen, default=row.id)
        missing = range(base + 1, row.id)
        gap = [base + 1, row.id - 1, len(missing), len(self.seen & set(missing))]
        self.seen.add(row.id)
        self.last = row.id
        return TRADE, gap if missing and self.contiguous else None


def expect(rows: Sequence[Row], exchanges: Sequence[str], not_contiguous: tuple[str, ...]) -> Judged:
    """What the rules say."""
    models = [SetModel(name not in not_contiguous) for name in exchanges]
    result, sequence = Judged(), 1
    for i, row in enumerate(rows):
        outcome, gap = models[row.key].judge(row)
        if gap:
            result.gaps.append([i, sequence, *gap])
            sequence += 1
        is_input = outcome in (TRADE, QUOTE, LATE)
        result.outcome.append(outcome)
        result.sequence.append(sequence if is_input else 0)
        sequence += is_input
        result.received.append(models[row.key].received or 0)
    return result


MOSTLY_GOOD = st.sampled_from([1.0] * 20 + [NAN, 0.0, -1.0, math.inf])
ROWS = st.lists(
    st.builds(
        Row,
        id=st.one_of(st.integers(0, 60), st.integers(-3, 400), st.none()),
        late=st.sampled_from([False, False, False, True]),
        key=st.integers(0, 2),
        price=MOSTLY_GOOD,
        volume=MOSTLY_GOOD,
        ask=st.sampled_from([None] * 4 + [1.0, NAN]),
        ask_volume=MOSTLY_GOOD,
        timestamp=st.sampled_from([NOW] * 10 + [NOW + MAX_AHEAD_NS, NOW + MAX_AHEAD_NS + 1, 0]),
        received=st.integers(NOW - 5, NOW + 5),
    ),
    max_size=100,  # fewer rows than RANGES: nothing is ever forgotten
)


@settings(max_examples=300, deadline=None)
@given(rows=ROWS, block_rows=st.sampled_from([1, 2, 7, 1_000]))
def test_the_ingress_follows_its_rules_whatever_the_length_of_the_blocks(rows: list[Row], block_rows: int) -> None:
    exchanges = ["x", "kucoin", "x"]
    found = judge(new_ingress(exchanges, not_contiguous=("kucoin",)), rows, block_rows)
    expected = expect(rows, exchanges, ("kucoin",))
    named = [OUTCOMES[outcome] for outcome in found.outcome]
    assert named == [OUTCOMES[outcome] for outcome in expected.outcome]
    assert found.gaps == expected.gaps
    assert found.sequence == expected.sequence
    inputs = [i for i, number in enumerate(expected.sequence) if number]
    assert [found.received[i] for i in inputs] == [expected.received[i] for i in inputs]


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 40 * RANGES), max_size=4 * RANGES), block_rows=st.sampled_from([1, 5, 64]))
def test_with_forgetting_no_id_is_taken_twice_and_blocks_change_nothing(ids: list[int], block_rows: int) -> None:
    rows = [Row(number, late=number % 5 == 0) for number in ids]
    whole, cut = new_ingress(), new_ingress()
    found = judge(whole, rows)
    assert found == judge(cut, rows, block_rows)
    assert (whole.state == cut.state).all()
    assert (whole.counts == cut.counts).all()
    for outcome in (TRADE, LATE):
        taken = Counter(number for number, what in zip(ids, found.outcome, strict=True) if what == outcome)
        assert not taken or max(taken.values()) == 1, f"{OUTCOMES[outcome]} more than once: {taken.most_common(1)}"


@pytest.mark.parametrize("block_rows", [1, 7, 4_096])
def test_recorded_ticks_are_judged_alike_in_blocks_of_any_length(block_rows: int) -> None:
    keys = Keys()
    both = Block.concatenate([to_block(spot_quotes().slice(0, 2_000), keys, "q"), to_block(spot_trades(), keys, "t")])
    mixed = both.take(np.argsort(both.received, kind="stable"))
    exchanges = ["binance"] * len(keys)
    assert judge(new_ingress(exchanges), mixed, block_rows) == judge(new_ingress(exchanges), mixed)


def test_exactly_the_gaps_of_the_recorded_ids_are_found() -> None:
    ids = numbers(ltc_trades(), "trade_id")
    at = np.flatnonzero(np.diff(ids) != 1) + 1
    found = judge(new_ingress(["binance"]), to_block(ltc_trades(), Keys(), "ltc"))
    assert len(at) == 5, "the fixture was cut to hold five gaps"
    expected = [[row, ids[row - 1] + 1, ids[row] - 1, ids[row] - ids[row - 1] - 1, 0] for row in at.tolist()]
    assert [[row, *rest] for row, _, *rest in found.gaps] == expected
    assert set(found.outcome) == {TRADE}


def test_a_missing_range_of_the_recording_that_comes_as_history_before_the_gap_fills_it() -> None:
    block = to_block(ltc_trades(), Keys(), "ltc")
    ids = block.trade_id
    row = int(np.flatnonzero(np.diff(ids) != 1)[2]) + 1  # eleven are missing
    missing = list(range(int(ids[row - 1]) + 1, int(ids[row])))
    ingress = new_ingress(["binance"])
    judge(ingress, block.take(slice(0, row)))
    before = history(*missing[:4])
    stamped = [Row(r.id, late=True, received=int(block.received[row])) for r in before]
    assert judge(ingress, stamped).outcome == [LATE] * 4
    found = judge(ingress, block.take(slice(row, None)))
    assert found.gaps[0][2:] == [missing[0], missing[-1], 11, 4]


def admitted_ids(*ids: int, late: tuple[int, ...] = (), exchange: str = "binance") -> Ingress:
    """An ingress that took these ids live, then those late."""
    ingress = Ingress(max_ahead_ns=MAX_AHEAD_NS, not_contiguous=("kucoin",))
    ingress.open([exchange])
    ingress.admit(block_of([Row(id=number) for number in ids]))
    if late:
        ingress.admit(block_of([Row(id=number, late=True) for number in late]))
    return ingress


def test_missing_ids_are_those_below_the_last_one_folded() -> None:
    assert admitted_ids(10, 14, 20, late=(12, 25)).missing(0) == [(11, 11), (13, 13), (15, 19)]


def test_an_exchange_without_contiguous_ids_misses_none() -> None:
    assert admitted_ids(10, 14, 20, exchange="kucoin").missing(0) == []


def test_a_key_without_inputs_misses_none() -> None:
    assert admitted_ids().missing(3) == []


def test_ids_given_up_are_duplicates_when_they_come_after_all() -> None:
    ingress = admitted_ids(10, 20)
    ingress.give_up(0, 12, 14)
    assert ingress.missing(0) == [(11, 11), (15, 19)]
    outcome = ingress.admit(block_of([Row(id=number, late=True) for number in (11, 12, 14, 15)])).outcome
    assert outcome.tolist() == [LATE, DUPLICATE, DUPLICATE, LATE]


def test_giving_up_the_middle_of_the_last_free_place_forgets_the_lowest() -> None:
    ingress = admitted_ids(*range(0, 10 * (RANGES + 1), 10))
    forgotten = ingress.forgotten()
    assert len(ingress.missing(0)) == RANGES
    ingress.give_up(0, 10 * RANGES - 5, 10 * RANGES - 5)
    missing = ingress.missing(0)
    assert len(missing) == RANGES
    assert missing[0] == (11, 19)
    assert missing[-2:] == [(10 * RANGES - 9, 10 * RANGES - 6), (10 * RANGES - 4, 10 * RANGES - 1)]
    assert ingress.forgotten() == forgotten + 1


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=20, unique=True).map(sorted),
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 20)), max_size=5),
)
def test_giving_up_is_striking_out_one_by_one(ids: list[int], spans: list[tuple[int, int]]) -> None:
    ingress = admitted_ids(*ids)
    expected = set(range(ids[0], ids[-1] + 1)) - set(ids)
    for first, length in spans:
        ingress.give_up(0, first, first + length)
        expected -= set(range(first, first + length + 1))
    found = [number for first, last in ingress.missing(0) for number in range(first, last + 1)]
    assert found == sorted(expected)
