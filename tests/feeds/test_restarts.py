"""Ids that begin anew: told from history, from what comes again and from mere disorder."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from engine.block import IS_TRADE, Block, Keys
from engine.events import FeedStatus, Tick
from engine.ingress import Ingress
from engine.trade_ids import TradeIds
from feeds.restarts import LOOKS, Restarts
from tests.folding import BTC, START, Run, trade

SECOND = 1_000_000_000
LATENCY = SECOND // 10


class Stream:
    """A symbol's trades as its feed brings them, an ingress that takes them, and a look each second."""

    def __init__(self, exchange: str = "binance", ahead_s: float = 0.0) -> None:
        """`ahead_s`: by how much our clock is ahead of the exchange's."""
        keys = Keys()
        keys.code((exchange, "X"))
        self.ingress = Ingress(max_ahead_ns=10**15, not_contiguous=("kucoin",))
        self.ingress.open([exchange])
        self.ahead = round(ahead_s * SECOND)
        self.exchange = exchange
        self.now = START
        self.found: list[tuple[int, int]] = []
        self.taken = TradeIds(keys, self.ingress, exchange)
        self.watch = Restarts(self.taken)
        self.live: dict[str, Tick] = {}
        self.made: dict[int, int] = {}
        """When each trade was made, as of its last making."""

    def bring(self, *ids: int, late: bool = False, price: float = 1.0) -> None:
        """Let trades come, made now unless they were made before; those that are not late are noted as the feed does it."""
        for number in ids:
            made, received = self.made.setdefault(number, self.now), self.now + LATENCY + self.ahead
            self.now += 1_000
            if not late:
                self.live["X"] = Tick(self.exchange, "X", price, 1.0, "buy", made, received, number)
            self.ingress.admit(row(number, made, received, late, price))

    def anew(self, ids: Iterable[int]) -> None:
        """Make these trades anew: other ones, of the same ids."""
        for number in ids:
            self.made.pop(number, None)

    def second(self, *ids: int, late: bool = False, price: float = 1.0) -> bool:
        """Let a second pass in which these come, and look; return whether ids were found to begin anew."""
        self.bring(*ids, late=late, price=price)
        self.now += SECOND
        live, self.live = self.live, {}
        found = self.watch.look(live)
        for one in found:
            self.found.append((one.first_id, one.last_id))
            self.ingress.begin_anew(0)
        return bool(found)


def row(number: int, made: int, received: int, late: bool, price: float) -> Block:
    return Block(
        key=np.zeros(1, np.int32), kind=np.full(1, IS_TRADE, np.uint8), timestamp=np.array([made]), received=np.array([received]),
        price=np.array([price]), volume=np.ones(1), side=np.ones(1, np.int8), ask=np.full(1, np.nan),
        ask_volume=np.full(1, np.nan), trade_id=np.array([number]), late=np.full(1, late, np.uint8),
    )  # fmt: skip


def begun(first: int = 1_000, count: int = 30, exchange: str = "binance", ahead_s: float = 0.0) -> Stream:
    """A stream that has brought `count` trades, three a second."""
    stream = Stream(exchange, ahead_s)
    for number in range(first, first + count, 3):
        assert not stream.second(number, number + 1, number + 2)
    return stream


# What is a restart ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchange", ["binance", "coinbase", "kucoin"])
@pytest.mark.parametrize("ahead_s", [0.0, 3_600.0, -3_600.0])
def test_ids_that_begin_at_nought_are_noticed_in_five_looks(exchange: str, ahead_s: float) -> None:
    stream = begun(exchange=exchange, ahead_s=ahead_s)
    found = [stream.second(2 * number, 2 * number + 1) for number in range(LOOKS + 3)]
    assert found == [False] * (LOOKS - 1) + [True] + [False] * 3
    assert stream.found == [(1, 2 * LOOKS - 1)]
    assert stream.taken.newest_id("X") == 2 * (LOOKS + 3) - 1


@pytest.mark.parametrize("exchange", ["binance", "coinbase", "kucoin"])
def test_so_are_ids_that_were_taken_already(exchange: str) -> None:
    stream = begun(exchange=exchange)
    stream.anew(range(1_000, 1_020))
    assert [stream.second(number) for number in range(1_000, 1_000 + LOOKS)] == [False] * (LOOKS - 1) + [True]
    folded = stream.taken.trades_folded("X")
    stream.second(1_000 + LOOKS)
    assert stream.taken.trades_folded("X") == folded + 1


def test_ids_that_are_the_newest_again_are_no_newest_trade() -> None:
    stream = begun()
    stream.anew(range(1_025, 1_030))
    assert [stream.second(number) for number in range(1_025, 1_030)][-1]


@pytest.mark.parametrize("to", [1, 5_000])
def test_a_second_restart_is_noticed_too(to: int) -> None:
    stream = begun(10_000)
    assert sum(stream.second(5_000 + number) for number in range(20)) == 1
    stream.anew(range(6_000))
    assert sum(stream.second(to + number) for number in range(20)) == 1


def test_a_restart_within_a_second_in_which_trades_were_folded_is_noticed() -> None:
    stream = begun()
    assert not stream.second(1_030, 1_031, 1, 2)
    assert [stream.second(number) for number in range(3, 3 + LOOKS)][-1]


def test_a_quiet_minute_between_does_not_excuse_it() -> None:
    stream = begun()
    found = []
    for number in range(LOOKS):
        found.append(stream.second(1 + number))
        assert not any(stream.second() for _ in range(60))
    assert found == [False] * (LOOKS - 1) + [True]


def test_snapshots_between_do_not_excuse_it() -> None:
    stream = begun()
    for number in range(1, LOOKS):
        assert not stream.second(number)
        assert not stream.second(number, late=True)
    assert stream.second(LOOKS)


def test_ids_that_began_anew_while_we_were_down_are_noticed() -> None:
    stream = begun()
    stream.watch, stream.now = Restarts(stream.taken), stream.now + 3_600 * SECOND
    assert [stream.second(number) for number in range(1, LOOKS + 2)][-1]


# What is none -----------------------------------------------------------------------------------------------------------------


def test_snapshots_on_every_reconnect_of_a_quiet_symbol_are_none() -> None:
    stream = begun()
    for number in range(1_030, 1_030 + 3 * LOOKS):
        stream.bring(number - 2, number - 1, late=True)
        assert not stream.second(number, late=True)  # made while nobody listened: news, and history


def test_live_trades_that_history_has_brought_before_are_none() -> None:
    stream = begun()
    stream.second(*range(1_030, 1_060), late=True)
    assert not any(stream.second(number) for number in range(1_030, 1_060))


@pytest.mark.parametrize("late", [True, False])
def test_a_filled_gap_is_none(late: bool) -> None:
    stream = begun()
    for number in range(1_030, 1_100):
        stream.made[number] = stream.now + (number - 1_100) * SECOND // 100
    stream.second(1_100)
    assert not any(stream.second(number, late=late) for number in range(1_030, 1_100))


@pytest.mark.parametrize("by", [1, 3])
def test_a_stream_that_is_out_of_order_is_none(by: int) -> None:
    stream = begun()
    for first in range(1_030, 1_400, 8):
        ids = list(range(first, first + 8))
        for number in ids:
            stream.made[number] = stream.now + (number - first) * SECOND
        order = [ids[i] for i in (7, 0, 1, 2, 3, 4, 5, 6)]
        for at in range(0, 8, by):
            assert not stream.second(*order[at : at + by])


def test_one_that_is_ahead_of_all_others_within_its_second_is_none() -> None:
    stream = begun()
    for number in range(1_030, 1_050):
        stream.made[number] = stream.now + (number - 1_049) * SECOND
    stream.second(1_049, 1_030)
    assert not any(stream.second(number) for number in range(1_031, 1_049))


def test_duplicates_of_a_connection_that_takes_over_and_lags_are_none() -> None:
    stream = begun(1_000, 300)
    assert not any(stream.second(number) for number in range(1_200, 1_300))


def test_those_of_one_that_lags_after_we_were_down_are_none() -> None:
    stream = begun(1_000, 300)
    stream.watch = Restarts(stream.taken)
    assert not any(stream.second(number) for number in range(1_200, 1_300))


def test_the_last_trades_again_and_again_are_none() -> None:
    stream = begun()
    for _ in range(3 * LOOKS):
        assert not stream.second(*range(1_020, 1_030))
        assert not any(stream.second(number) for number in range(1_020, 1_030))


def test_trades_that_are_refused_are_none() -> None:
    stream = begun()
    assert not any(stream.second(number, price=-1.0) for number in range(1_030, 1_050))


def test_trades_that_the_ingress_has_not_looked_at_yet_are_none() -> None:
    stream = begun()
    for number in range(1_030, 1_050):
        tick = Tick("binance", "X", 1.0, 1.0, "buy", stream.now, stream.now, number)
        stream.now += SECOND
        assert not stream.watch.look({"X": tick})


def test_a_trade_that_is_folded_clears_those_before_it_of_suspicion() -> None:
    stream = begun()
    for number in range(1, 40):
        assert not stream.second(1_030 + number if number % LOOKS == 0 else number)


# What follows -----------------------------------------------------------------------------------------------------------------


def test_the_fold_begins_a_new_count_without_a_gap() -> None:
    run = Run().push([trade(at=0.0, trade_id=1_000), trade(at=1.0, trade_id=1_009)])
    ids = TradeIds(run.fold.keys, run.fold.ingress, BTC[0])
    run.push([trade(at=2.0, trade_id=1), trade(at=3.0, trade_id=2)])
    assert ids.trades_folded(BTC[1]) == 2
    run.fold.input(FeedStatus(*BTC, "restarted", "", START, START))
    assert ids.newest_id(BTC[1]) is None
    run.push([trade(at=4.0, trade_id=3), trade(at=5.0, trade_id=4, kind=IS_TRADE)])
    assert ids.trades_folded(BTC[1]) == 4
    assert ids.missing(BTC[1]) == []
    assert run.fold.gaps == 1
