"""Statuses that concern trade ids, and trades, in whatever turns of the loop they come: the journal makes the state that live has."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from engine.config import Config
from engine.events import Event, FeedStatus, Tick
from engine.fold import Fold
from engine.intake import Intake
from engine.latency import Latency
from replay.driver import build_fold
from replay.history import fold_journal
from tests.folding import BTC, ETH, START, VIEWS
from tests.journaling import open_journal

NS_PER_MS = 1_000_000


class Ticking:
    """A clock that goes on by a millisecond each time that it is looked at."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> int:
        self.time += NS_PER_MS
        return self.time


def fold_of() -> Fold:
    fold = build_fold(Config(), [], views=VIEWS, digests=True, begins=False)
    fold.start()
    return fold


def tick(key: tuple[str, str], trade_id: int, *, late: bool = False) -> Event:
    return Tick(*key, 100.0, 1.0, "buy", START + trade_id * NS_PER_MS, START, trade_id, 0, late)


def lost(key: tuple[str, str], first: int, last: int) -> Event:
    return FeedStatus(*key, "lost", "", START, START, 0, first, last)


def restarted(key: tuple[str, str]) -> Event:
    return FeedStatus(*key, "restarted", "", START, START)


KEYS = st.sampled_from([BTC, ETH])
IDS = st.integers(1, 25)
EVENTS = st.one_of(
    st.builds(tick, KEYS, IDS),
    st.builds(lambda key, number: tick(key, number, late=True), KEYS, IDS),
    st.builds(lambda key, first, more: lost(key, first, first + more), KEYS, IDS, st.integers(0, 6)),
    st.builds(restarted, KEYS),
)


@given(st.lists(st.lists(EVENTS, min_size=1, max_size=12), max_size=8))
def test_a_journal_folds_to_the_state_that_it_was_written_from(turns: list[list[Event]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, clock, live = Path(name), Ticking(), fold_of()
        journal = open_journal(folder, segment_bytes=1 << 20)
        broken: list[BaseException] = []
        intake = Intake(
            live, journal, clock=clock, later=lambda _: None, failed=lambda _: False, broke=broken.append, latency=Latency(),
            shed_behind_ns=1 << 60,
        )  # fmt: skip
        for turn in turns:
            intake.offer(turn)
            intake.drain()
        journal.close()
        again = fold_of()
        for _ in fold_journal(again, folder):
            pass
    assert not broken
    assert again.digest() == live.digest()
    assert again.ingress.next_sequence == live.ingress.next_sequence


def test_what_is_lost_is_not_waited_for_by_a_trade_of_the_same_turn() -> None:
    live, clock = fold_of(), Ticking()
    intake = Intake(
        live, None, clock=clock, later=lambda _: None, failed=lambda _: False, broke=lambda _: None, latency=Latency(),
        shed_behind_ns=1 << 60,
    )  # fmt: skip
    intake.offer([tick(BTC, 1), tick(BTC, 5), lost(BTC, 2, 4), tick(BTC, 3, late=True)])
    intake.offer([restarted(BTC), tick(BTC, 1), tick(BTC, 2)])
    intake.drain()
    trades, late = live.ingress.counts[live.keys.code(BTC), [1, 3]].tolist()
    assert (trades, late) == (4, 0)
