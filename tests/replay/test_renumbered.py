"""A market whose ids begin anew and which stands still, against a list that is written down trade by trade."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from replay.renumbered import Renumbered
from replay.rewrite import Moves, Trade
from replay.trades import Recorded, Trades

TRADES, LOW, STEP = 5, 100, 10


def market() -> Trades:
    """Five trades a loop, at 0, 10, ...: ids 100 to 104 in loop 0."""
    recorded = [
        Recorded(number * STEP, number * STEP, Trade(Moves.TRADE_ID, LOW + number, "1", "1", "buy", 0))
        for number in range(TRADES)
    ]
    return Trades(recorded, [], LOW, TRADES, TRADES * STEP)


def ids(trades: Renumbered, position: int) -> list[int]:
    end = trades.end(position, True)
    return [made.id for made in trades.between(end - min(end, 40), end, True)]


def test_without_a_change_it_is_the_market_itself() -> None:
    plain, trades = market(), Renumbered(market(), True)
    assert trades.first(True) == plain.first(True)
    for position in (0, 5, 10, 49, 50, 512):
        assert trades.end(position, True) == plain.end(position, True)
        assert trades.since(position, True) == plain.since(position, True)
    assert trades.between(3, 9, True) == plain.between(3, 9, True)
    assert trades.next_id(20) == 103


def test_ids_go_on_from_another_number_and_history_agrees() -> None:
    trades = Renumbered(market(), True)
    trades.renumber(20, 0)  # 100, 101, 102 were made
    assert ids(trades, 50) == [100, 101, 102, 0, 1, 2]
    assert trades.next_id(50) == 3
    assert trades.ordinal(1, True) == 4
    assert trades.ordinal(0, True) == 3
    trades.renumber(50, 1_000)
    assert ids(trades, 70) == [100, 101, 102, 0, 1, 2, 1_000, 1_001]
    assert trades.ordinal(3, True) == 6  # of those that are above it the first
    assert trades.ordinal(500, True) == 6
    assert trades.ordinal(1_001, True) == 7


def test_a_market_that_stood_still_has_made_nothing_and_its_ids_go_on_without_a_gap() -> None:
    trades = Renumbered(market(), True)
    trades.stand_still(20, True)
    assert ids(trades, 45) == [100, 101, 102]
    trades.stand_still(45, False)
    assert ids(trades, 70) == [100, 101, 102, 103, 104, 105]
    made = trades.between(0, 6, True)
    assert [one.tape_ns for one in made] == [0, 10, 20, 50, 60, 70]
    assert trades.since(25, True) == 3
    assert trades.until(45, True) == 3


def test_what_has_no_loop_has_a_next_id_behind_its_end_too() -> None:
    once = Renumbered(market(), False)
    assert once.next_id(1_000) == 105
    once.renumber(1_000, 7)
    assert once.next_id(1_000) == 7
    assert Renumbered(Trades([], [], 0, 0, 1), False).next_id(5) == 0


STEPS = st.tuples(st.integers(1, 40), st.sampled_from(["restart", "jump", "still", "on"]), st.integers(0, 50))


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=6))
def test_it_says_what_was_written_down(steps: list[tuple[int, str, int]]) -> None:
    plain, trades = market(), Renumbered(market(), True)
    written: list[tuple[int, int]] = []  # id, position
    position, begun, following, is_still = 0, 0, LOW, False
    for wait, what, number in [*steps, (40, "on", 0)]:
        for ordinal in range(begun, plain.end(position + wait, True)):
            if not is_still:
                written.append((following, ordinal * STEP))
                following += 1
        position += wait
        begun = plain.end(position, True)
        if what in ("restart", "jump"):
            following = number if what == "restart" else following + number + 1
            trades.renumber(position, following)
        else:
            is_still = what == "still"
            trades.stand_still(position, is_still)
        end = trades.end(position, True)
        assert end == len(written)
        assert [(made.id, made.tape_ns) for made in trades.between(0, end, True)] == written
        assert trades.next_id(position) == following
