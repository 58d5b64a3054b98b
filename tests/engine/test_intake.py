"""The intake: what feeds heard is journaled before it is folded, in its order, whatever the journal does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import intake as intake_module
from engine.block import Block, Keys
from engine.errors import ConfigError, JournalError
from engine.events import Command, Event, FeedStatus, Heartbeat, Quote, Shed, Tick
from engine.ingress import LATE, QUOTE, TRADE, Admitted
from engine.intake import BATCH, CAPACITY, HIGH_WATER, Intake
from engine.latency import Latency
from tests.folding import BTC, ETH, SECOND, START, Run, block_of, listener, trades


class Hand:
    """A clock that is turned by hand, and a loop whose turns are taken by hand."""

    def __init__(self) -> None:
        self.time = START
        self.calls: list[Callable[[], None]] = []

    def now(self) -> int:
        return self.time

    def later(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def turn(self) -> int:
        """Take all turns until nothing is scheduled; return how many there were."""
        turns = 0
        while self.calls:
            calls, self.calls = self.calls, []
            for call in calls:
                call()
                turns += 1
        return turns


class Noting:
    """A journal that notes what was written, and how far the fold was then."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.sequences: list[int] = []
        self.folded_then: list[int] = []
        self.fails_from = 1 << 62

    def append(self, admitted: Admitted, keys: Keys) -> None:
        found = [*admitted.gaps[:, 1].tolist(), *admitted.sequence[admitted.sequence > 0].tolist()]
        self._write(sorted(found))

    def append_event(self, event: Any) -> None:
        self._write([event.sequence])

    def _write(self, sequences: list[int]) -> None:
        if sequences[-1] >= self.fails_from:
            raise JournalError("No space left on device")
        self.sequences += sequences
        self.folded_then += [self.run.fold.sequence()] * len(sequences)


class Rig:
    """A fold with an intake, a journal and a hand."""

    def __init__(self, *plugins: Any, goes_on: bool = True, shed_behind_ns: int = 10**18, ring_rows: int = 512) -> None:
        self.run = Run(*plugins, ring_rows=ring_rows)
        self.hand = Hand()
        self.journal = Noting(self.run)
        self.failures: list[JournalError] = []
        self.broken: list[BaseException] = []
        self.latency = Latency()

        def failed(error: JournalError) -> bool:
            self.failures.append(error)
            return goes_on

        self.intake = Intake(
            self.run.fold, self.journal, clock=self.hand, later=self.hand.later, failed=failed, broke=self.broken.append, latency=self.latency,
            shed_behind_ns=shed_behind_ns,
        )  # fmt: skip


def tick(number: int, key: tuple[str, str] = BTC, **other: Any) -> Tick:
    at = START + number * 1000
    return Tick(*key, 100.0 + number % 7, 1.0, "buy", at, at, **{"trade_id": number, **other})


def quote(number: int, key: tuple[str, str] = BTC) -> Quote:
    at = START + number * 1000
    return Quote(*key, 99.0, 1.0, 101.0, float("nan"), at, at, number)


def status(number: int) -> FeedStatus:
    return FeedStatus("x", "", "connected", str(number), START, START + number * 1000)


def test_a_turn_is_journaled_as_a_whole_before_the_first_of_it_is_folded() -> None:
    heard = listener(Tick, Quote, FeedStatus)
    rig = Rig(heard)
    rig.intake.offer([tick(1), quote(2)])
    rig.intake.offer([status(3), tick(4, ETH)])
    assert heard.heard == []
    assert rig.hand.turn() == 1
    assert rig.journal.sequences == [1, 2, 3, 4]
    assert rig.journal.folded_then == [0, 0, 0, 0]
    assert [(type(event), event.sequence) for event in heard.heard] == [
        (Tick, 1),
        (Quote, 2),
        (FeedStatus, 3),
        (Tick, 4),
    ]


@given(
    st.lists(st.sampled_from(["tick", "quote", "status", "other"]), max_size=60), st.integers(1, 9), st.integers(16, 64)
)
def test_whatever_is_offered_is_folded_in_its_order_however_it_is_cut(kinds: list[str], cut: int, rows: int) -> None:
    makers: dict[str, Callable[[int], Event]] = {
        "tick": tick, "quote": quote, "status": status, "other": lambda number: tick(number, ETH),
    }  # fmt: skip
    events = [makers[kind](number) for number, kind in enumerate(kinds, 1)]
    heard = listener(Tick, Quote, FeedStatus)
    rig = Rig(heard, ring_rows=rows)
    for start in range(0, len(events), cut):
        rig.intake.offer(events[start : start + cut])
        if start % 2:
            rig.hand.turn()
    rig.hand.turn()
    assert [event.received for event in heard.heard] == [event.received for event in events]  # type: ignore[attr-defined]
    assert [event.sequence for event in heard.heard] == sorted(event.sequence for event in heard.heard)
    assert rig.journal.sequences == list(range(1, rig.run.fold.ingress.next_sequence))


def test_a_tick_and_a_quote_come_out_as_they_went_in() -> None:
    heard = listener(Tick, Quote, late=True)
    rig = Rig(heard)
    events: list[Any] = [tick(5), quote(6), tick(7, trade_id=3, late=True), tick(8, trade_id=None)]
    rig.intake.offer(events)
    rig.hand.turn()
    for number, (heard_event, event) in enumerate(zip(heard.heard, events, strict=True), 1):
        assert repr(heard_event) == repr(
            type(event)(**{**{f: getattr(event, f) for f in event.__struct_fields__}, "sequence": number})
        )


def test_duplicates_and_refused_rows_are_no_inputs_and_are_not_journaled() -> None:
    rig = Rig()
    rig.intake.offer([tick(1), tick(1), tick(2, trade_id=2)])
    rig.intake.offer([Tick(*BTC, float("nan"), 1.0, None, START, START, 3)])
    rig.hand.turn()
    assert rig.journal.sequences == [1, 2]
    assert rig.run.fold.ingress.counts.sum(axis=0)[[TRADE, QUOTE, LATE]].tolist() == [2, 0, 0]


def test_long_queues_take_several_turns_so_that_others_get_theirs() -> None:
    rig = Rig()
    rig.intake.offer([tick(number) for number in range(1, 2 * BATCH + 2)])
    assert rig.hand.turn() == 3
    assert rig.run.fold.ingress.next_sequence == 2 * BATCH + 2


def test_a_feed_is_told_to_stop_and_when_to_go_on() -> None:
    rig = Rig()
    for start in range(1, HIGH_WATER + 2, 1000):
        rig.intake.offer([tick(number) for number in range(start, start + 1000)])
    assert rig.intake.is_full

    async def wait() -> None:
        task = asyncio.ensure_future(rig.intake.drained())
        await asyncio.sleep(0)
        assert not task.done()
        rig.hand.turn()
        await task
        assert not rig.intake.is_full

    asyncio.run(wait())


def test_a_frame_of_more_than_there_is_room_for_is_taken_whole_and_in_its_order() -> None:
    # 7 MiB of Coinbase trades, half of what a frame may have.
    heard = listener(FeedStatus)
    rig = Rig(heard)
    rig.intake.offer([tick(1), *(tick(number) for number in range(2, 70_001)), status(70_001), tick(70_001)])
    assert rig.intake.waiting == 70_002
    rig.hand.turn()
    assert rig.run.fold.ingress.next_sequence == 70_003
    assert [event.sequence for event in heard.heard] == [70_001]
    assert rig.intake.waiting == 0


def test_frames_that_were_read_before_the_intake_was_full_are_taken_too() -> None:
    rig = Rig()
    number = 0
    while number <= 2 * CAPACITY:
        rig.intake.offer([tick(at) for at in range(number + 1, number + 1_001)])
        number += 1_000
        if number == CAPACITY // 1_000 * 1_000:  # one turn, of which much is left
            rig.hand.calls.pop()()
    assert rig.intake.is_full
    rig.hand.turn()
    assert rig.run.fold.ingress.next_sequence == number + 1
    assert not rig.intake.is_full


def test_room_is_made_at_the_front_and_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "CAPACITY", 8)
    monkeypatch.setattr(intake_module, "BATCH", 4)
    heard = listener(Tick, FeedStatus)
    rig = Rig(heard)
    rig.intake.offer([tick(1), tick(2), status(3), tick(4), tick(5), tick(6)])
    for number in range(7, 100, 4):
        calls, rig.hand.calls = rig.hand.calls, []
        for call in calls:  # one turn, of which something is left
            call()
        rig.intake.offer([tick(number), status(number + 1), tick(number + 2), tick(number + 3)])
    rig.hand.turn()
    assert [event.received for event in heard.heard] == [START + n * 1000 for n in range(1, len(heard.heard) + 1)]
    assert len(heard.heard) > 90


def test_the_latency_is_from_received_to_the_end_of_the_fold() -> None:
    rig = Rig()
    rig.intake.offer([tick(1), tick(2)])
    rig.hand.time = START + 1000 + 40_000
    rig.hand.turn()
    assert rig.latency.count == 2
    assert rig.latency.max_ns == 40_000


# Trouble ----------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_journaled_is_folded_all_the_same_and_said_once() -> None:
    heard = listener(Tick)
    rig = Rig(heard)
    rig.journal.fails_from = 3
    for number in range(1, 6):
        rig.intake.offer([tick(number)])
        rig.hand.turn()
    assert [event.sequence for event in heard.heard] == [1, 2, 3, 4, 5]
    assert rig.journal.sequences == [1, 2]
    assert len(rig.failures) == 1
    assert rig.intake.journal is None


def test_or_nothing_of_that_turn_is_folded_if_the_engine_is_to_stop() -> None:
    heard = listener(Tick)
    rig = Rig(heard, goes_on=False)
    rig.journal.fails_from = 2
    rig.intake.offer([tick(1), status(2), tick(3)])
    rig.hand.turn()
    rig.intake.offer([tick(4)])
    rig.hand.turn()
    assert heard.heard == []
    assert rig.intake.stopped
    other = Rig(goes_on=False)
    other.journal.fails_from = 1
    with pytest.raises(JournalError, match="Heartbeat cannot be journaled"):
        other.intake.tell(Heartbeat(START, START))


def test_a_command_is_numbered_journaled_and_folded_at_once() -> None:
    rig = Rig(listener(Tick, name="one"))
    rig.intake.offer([tick(1)])
    command = rig.intake.tell(Command("park", "one", START, START + SECOND))
    # Behind what was received before it: `received` never decreases from input to input.
    assert command.sequence == 2
    assert rig.journal.sequences == [1, 2]
    assert not rig.run.fold.supervisor.actors["one"].listening
    with pytest.raises(ConfigError, match="expected one of one"):
        rig.intake.tell(Command("park", "two", START, START))
    with pytest.raises(ConfigError, match="expected exchange:symbol"):
        rig.intake.tell(Command("add_symbol", "BTC/USDT", START, START))


def test_an_error_of_the_engine_s_own_stops_the_fold_rather_than_leave_a_hole() -> None:
    rig = Rig()

    def report(event: Any) -> None:
        raise RuntimeError("a listener that raises is the daemon's to catch")

    rig.run.fold.report = report
    rig.intake.offer([status(1), tick(2), status(3)])
    with pytest.raises(RuntimeError):
        rig.hand.turn()
    assert rig.intake.stopped
    assert len(rig.broken) == 1
    rig.hand.calls.clear()
    rig.intake.offer([tick(4)])
    rig.hand.turn()
    assert rig.run.fold.ingress.next_sequence == 4


def test_an_engine_that_is_behind_lets_go_of_quotes_never_of_trades_and_journals_that_it_did() -> None:
    heard = listener(Tick, Quote, Shed, FeedStatus)
    rig = Rig(heard, shed_behind_ns=SECOND)
    rig.intake.offer([tick(1), quote(2), quote(3), status(4), quote(5), tick(6, trade_id=2)])
    rig.hand.time = START + 2 * SECOND
    rig.hand.turn()
    assert [type(event) for event in heard.heard] == [Shed, Tick, FeedStatus, Tick]
    shed = heard.heard[0]
    assert (shed.quotes, shed.sequence) == (3, 1)
    assert [event.received for event in heard.heard] == sorted(event.received for event in heard.heard)
    assert "behind" in shed.reason
    assert rig.journal.sequences == [1, 2, 3, 4]
    assert rig.intake.shed == 3
    # The next decision waits: a word for each turn would be load itself.
    rig.intake.offer([quote(7)])
    rig.hand.turn()
    assert [type(event) for event in heard.heard[4:]] == [Quote]


def test_history_is_journaled_block_by_block() -> None:
    rig = Rig()
    block: Block = block_of(rig.run.fold.keys, trades(1300))
    rig.intake.admit(block)
    assert rig.journal.sequences == list(range(1, 1301))
    assert rig.run.fold.folded == 1300
