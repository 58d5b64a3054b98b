"""Ids that begin anew: told from history, from what was asked for and from mere disorder."""

from __future__ import annotations

from engine.block import IS_TRADE
from engine.events import FeedStatus
from engine.trade_ids import TradeIds
from feeds.restarts import LOOKS, Restarts
from tests.folding import BTC, START, Run, trade


class Counts:
    """What an ingress counts."""

    def __init__(self) -> None:
        self.folded = self.late = 0

    def counts(self, symbol: str) -> tuple[int, int]:
        return self.folded, self.late

    def missing(self, symbol: str) -> list[tuple[int, int]]:
        return []

    def newest_id(self, symbol: str) -> int | None:
        return None

    def skipped_below(self, symbol: str) -> int | None:
        return None

    def forgotten(self, symbol: str) -> int:
        return 0


def looks(watch: Restarts, taken: Counts, *steps: tuple[int, int]) -> list[bool]:
    """Look once, and again after each step of (folded, late)."""
    watch.look(["X"])
    found = []
    for folded, late in steps:
        taken.folded += folded
        taken.late += late
        found.append(watch.look(["X"]) == ["X"])
    return found


def test_trades_that_are_all_late_for_long_were_numbered_anew() -> None:
    taken = Counts()
    assert looks(Restarts(taken), taken, *[(0, 3)] * LOOKS) == [False] * (LOOKS - 1) + [True]


def test_a_quiet_second_between_does_not_excuse_it() -> None:
    taken = Counts()
    assert looks(Restarts(taken), taken, *[(0, 3), (0, 0)] * (LOOKS - 1), (0, 3))[-1]


def test_a_stream_that_is_out_of_order_was_not() -> None:
    taken = Counts()
    assert not any(looks(Restarts(taken), taken, *[(0, 30), (0, 30), (1, 30)] * LOOKS))


def test_a_snapshot_is_one_piece_of_history() -> None:
    taken = Counts()
    assert not any(looks(Restarts(taken), taken, (0, 100), *[(0, 0)] * LOOKS))


def test_what_was_asked_for_is_no_sign() -> None:
    taken = Counts()
    watch = Restarts(taken)
    watch.look(["X"])
    for _ in range(3 * LOOKS):
        watch.asked_for("X", 1_000)
        taken.late += 1_000
        assert not watch.look(["X"])


def test_the_fold_begins_a_new_count_without_a_gap() -> None:
    run = Run().push([trade(at=0.0, trade_id=1_000), trade(at=1.0, trade_id=1_009)])
    ids = TradeIds(run.fold.keys, run.fold.ingress, BTC[0])
    run.push([trade(at=2.0, trade_id=1), trade(at=3.0, trade_id=2)])
    assert ids.counts(BTC[1]) == (2, 2)
    run.fold.input(FeedStatus(*BTC, "restarted", "", START, START))
    assert ids.newest_id(BTC[1]) is None
    run.push([trade(at=4.0, trade_id=3), trade(at=5.0, trade_id=4, kind=IS_TRADE)])
    assert ids.counts(BTC[1]) == (4, 2)
    assert ids.missing(BTC[1]) == []
    assert run.fold.gaps == 1
