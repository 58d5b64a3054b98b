"""The trades of a market as a function of the position, against the tape played message by message."""

from __future__ import annotations

import functools
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.exchange.market import Market, View
from replay.rewrite import Moves, Trade, time_of
from replay.sources import BUILT_INS, Capture
from replay.tape import Pace, Tape
from replay.trades import Made, Recorded, Trades

NOW = 1_790_000_000_123_456_789
SECOND = 1_000_000_000
KINDS = {
    "binance": Moves.TRADE_ID,
    "coinbase": Moves.TRADE_ID,
    "coinbase_exchange": Moves.TRADE_ID,
    "kucoin": Moves.UPDATE_ID,
}


class Clock:
    """Shows what it is set to."""

    def __init__(self, now: int = NOW) -> None:
        self.time = now

    def now(self) -> int:
        return self.time


@functools.cache
def tape(feed: str) -> Tape:
    return Tape.from_lines(feed, feed, [line for _, line in Capture(BUILT_INS[feed]).lines()][:2_000])


def a_market(feed: str, *, loop: bool = True, from_start: bool = False, clock: Clock | None = None) -> Market:
    return Market([tape(feed)], speed=1.0, loop=loop, from_start=from_start, clock=clock or Clock())


@pytest.mark.parametrize("feed", KINDS)
@pytest.mark.parametrize("looping", [True, False])
def test_what_is_known_is_what_was_sent(feed: str, looping: bool) -> None:
    pace, kind = Pace.of(NOW, 1.0), KINDS[feed]
    for track in tape(feed).tracks:
        sent: dict[str, list[int]] = {symbol: [] for symbol in track.symbols}
        for position, _, loop, index in track.due(-1, 2 * track.duration_ns, looping):
            message = track.messages[index]
            ids = track.ids(loop, index)
            # What a message says when it is sent are these ids.
            payload = track.payload(loop, index, pace)
            assert all(b"%d" % number in payload for number in ids)
            sent[message.symbol] += [one for one, trade in zip(ids, message.trades, strict=True) if trade.kind is kind]
            trades = track.trades.get((message.symbol, kind))
            if trades is not None:
                end = trades.end(position, looping)
                known = [made.id for made in trades.between(0, end, looping)]
                assert known[: len(sent[message.symbol])] == sent[message.symbol]
        for symbol, ids_sent in sent.items():
            if (symbol, kind) in track.trades:
                trades = track.trades[symbol, kind]
                assert len(ids_sent) == trades.end(2 * track.duration_ns, looping)


@pytest.mark.parametrize("feed", ["binance", "coinbase", "coinbase_exchange"])
def test_ids_are_contiguous_backwards_too_and_times_do_not_step_back(feed: str) -> None:
    view = View(a_market(feed), 10**15)
    for symbol, kind in view.market.trades:
        made = view.newest(symbol, kind, 500)
        if kind is KINDS[feed] and len(made) > 1:
            assert [one.id for one in made] == list(range(made[0].id, made[0].id + 500))
            times = [view.time_ns(one) for one in made]
            assert all(before <= after + SECOND for before, after in pairwise(times))
            assert times[-1] <= view.market.pace.time(10**15)  # type: ignore[union-attr]


def test_without_loops_the_past_is_what_the_recording_tells_of_it() -> None:
    view = View(a_market("coinbase", loop=False), -1)
    made = view.newest("BTC-USD", Moves.TRADE_ID, 1_000)
    assert [one.id for one in made] == list(range(1_068_571_991, 1_068_572_091))
    assert View(a_market("coinbase", loop=True), -1).newest("BTC-USD", Moves.TRADE_ID, 1)[0].id == 1_068_572_090
    # Those of a loop before have the same ids, and are its own.
    (last,) = View(a_market("coinbase_exchange", loop=False), -1).newest("YFI-BTC", Moves.TRADE_ID, 5)
    assert last.id == 889_760


STEP = 10


def made_up(ids: list[int]) -> Trades:
    recorded = [
        Recorded(at * STEP, at * STEP - 1, Trade(Moves.TRADE_ID, number, "1", "1", "buy", 0))
        for at, number in enumerate(ids)
    ]
    return Trades(recorded, [], min(ids), max(ids) - min(ids) + 1, len(ids) * STEP)


@settings(max_examples=60)
@given(
    st.lists(st.integers(50, 90), min_size=1, max_size=6, unique=True).map(sorted),
    st.integers(0, 400),
    st.integers(0, 300),
)
def test_trades_are_found_by_id_and_by_time(ids: list[int], number: int, at: int) -> None:
    trades = made_up(ids)
    first, end = trades.first(True), trades.end(40 * STEP * len(ids), True)
    known = trades.between(first, end, True)
    assert [made.id for made in known] == sorted({made.id for made in known})
    assert known[0].id >= 0

    def from_(ordinal: int) -> list[Made]:
        return trades.between(max(first, min(ordinal, end)), end, True)

    assert from_(trades.ordinal(number, True)) == [made for made in known if made.id >= number]
    assert from_(trades.since(at, True)) == [made for made in known if made.tape_ns >= at]
    assert from_(trades.until(at, True)) == [made for made in known if made.tape_ns > at]


def test_a_trade_is_known_when_one_with_a_higher_id_is() -> None:
    rows = [(1, 0), (2, 30), (3, 20)]
    trades = Trades(
        [Recorded(position, position, Trade(Moves.TRADE_ID, number, "1", "1", "buy", 0)) for number, position in rows],
        [], 1, 3, 100,
    )  # fmt: skip
    assert [trades.end(position, False) for position in (-1, 0, 19, 20, 30)] == [0, 1, 1, 3, 3]


def test_a_trade_that_only_a_later_snapshot_tells_of_is_one_of_the_market() -> None:
    recorded = [Recorded(at, at, Trade(Moves.TRADE_ID, number, "1", "1", "buy", 0)) for number, at in ((5, 0), (8, 60))]
    told = [
        Recorded(50, at, Trade(Moves.TRADE_ID, number, "1", "1", "buy", 0)) for number, at in ((4, -9), (5, 0), (6, 20))
    ]
    trades = Trades(recorded, told, 5, 4, 100)
    assert [made.id for made in trades.between(-1, 3, False)] == [4, 5, 6, 8]
    assert trades.end(49, False) == 1
    assert trades.end(50, False) == 2


@pytest.mark.parametrize("feed", KINDS)
def test_what_has_been_traded_begins_where_the_market_was_opened(feed: str) -> None:
    clock = Clock()
    market = a_market(feed, clock=clock)
    market.open()
    symbol, kind = next(key for key in market.trades if key[1] is KINDS[feed])
    assert market.traded(symbol, kind) == []
    (before,) = market.now_view().newest(symbol, kind, 1)
    clock.time += 3 * max(track.duration_ns for track in tape(feed).tracks)
    ids = market.traded(symbol, kind)
    assert ids == sorted(set(ids))
    assert ids[0] > before.id
    assert ids[-1] == market.now_view().newest(symbol, kind, 1)[0].id
    behind = market.now_view(behind=2).newest(symbol, kind, 1)
    assert behind[0].id == ids[-3]


def test_a_market_that_waits_for_its_first_listener_has_a_past_and_no_trades() -> None:
    clock = Clock()
    market = a_market("coinbase", from_start=True, clock=clock)
    market.open()
    clock.time += 5 * SECOND
    assert market.traded("BTC-USD", Moves.TRADE_ID) == []
    assert market.now_view().newest("BTC-USD", Moves.TRADE_ID, 1)[0].id == 1_068_572_090
    market.catch_up()
    market.listen(True)
    clock.time += 5 * SECOND
    assert market.traded("BTC-USD", Moves.TRADE_ID)[:2] == [1_068_572_091, 1_068_572_092]


def test_the_clock_of_a_venue_moves_what_it_says_and_nothing_else() -> None:
    market = a_market("coinbase")
    right = market.now_view()
    market.skew_ns = 90 * SECOND
    wrong = market.now_view()
    (one,), (other,) = (view.newest("BTC-USD", Moves.TRADE_ID, 1) for view in (right, wrong))
    assert one.id == other.id
    assert wrong.time_ns(other) - right.time_ns(one) == 90 * SECOND
    assert wrong.now_ns - right.now_ns == 90 * SECOND
    said = wrong.message("ticker:BTC-USD")
    assert said is not None
    shown = time_of(json.loads(said.replace(b"\0", b"0"))["timestamp"].encode())
    assert shown is not None
    assert wrong.now_ns - 15 * SECOND < shown <= wrong.now_ns
