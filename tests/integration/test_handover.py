"""A connection takes over from another: planned, because of a mute symbol, or in the midst of a loss. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from aiohttp import web

from engine.config import FeedsConfig
from engine.events import Event, FeedStatus, Tick
from feeds.handover import CAPACITY
from feeds.line import RENEW_APART_NS, STALL_FIRST_NS
from tests.live_feeds import BTC, DEADLINE_S, ETH, Client, World, trade, world
from tests.virtual_time import VirtualClock, VirtualLoop, run

S = 1_000_000_000
SHUTDOWN = '{"e":"serverShutdown","E":1770123456789}'
STEADY = FeedsConfig(backoff_first_s=1.0, backoff_max_s=2.0, old_ms=10**12)  # its trades are of 2023


def in_virtual_time(test: Any, *arguments: Any) -> None:
    """Run a test of a world on the virtual loop."""

    async def main(loop: VirtualLoop) -> None:
        async with world(clock=VirtualClock(loop)) as made:
            await test(made, *arguments)

    run(main)


async def send(clients: Sequence[Client], *numbers: int, symbol: str = "BTCUSDT") -> None:
    for number in numbers:
        for client in clients:
            await client.ws.send_str(trade(number, symbol))


def folded(events: Sequence[Event], symbol: str = BTC) -> list[int]:
    """The trades that are left once the ingress has dropped what it has; raises if one would be late."""
    taken: list[int] = []
    for event in events:
        if isinstance(event, Tick) and event.symbol == symbol:
            assert event.trade_id is not None
            if event.trade_id not in taken:
                assert not taken or event.trade_id > taken[-1]
                taken.append(event.trade_id)
    return taken


def is_in_order(events: Sequence[Any]) -> bool:
    received = [event.received for event in events]
    return received == sorted(received)


async def two_live(made: World) -> tuple[Client, Client]:
    """Wait until a second connection is live beside the first."""
    async with asyncio.timeout(DEADLINE_S):
        while [one.state for one in made.runs[0][0].health()] != ["live", "live"]:
            await asyncio.sleep(0.01)
    old, new = made.exchange.live
    return old, new


def test_a_connection_whose_end_is_announced_is_taken_over_without_a_lost_or_doubled_trade() -> None:
    async def scene(made: World) -> None:
        feed = made.run([BTC], STEADY)
        await send([await made.live()], 1, 2)
        await made.exchange.live[0].ws.send_str(SHUTDOWN)
        old, new = await two_live(made)
        assert old.streams == new.streams
        await send([old, new], 3, 4)
        await send([new], 5)  # the new one is ahead
        await asyncio.sleep(0.5)
        assert made.box.ids() == [1, 2, 3, 4]
        await send([old], 5)
        await made.until(lambda: old.is_gone)
        await send([new], 6)
        await made.until(lambda: 6 in made.box.ids())
        assert folded(made.box.events) == [1, 2, 3, 4, 5, 6]
        assert is_in_order(made.box.events)
        assert made.box.statuses() == [("connected", "")] * 2
        assert "binance 2: took over from binance 1: the exchange announced its shutdown" in made.box.details()
        assert [health.name for health in feed.health()] == ["binance 2"]

    in_virtual_time(scene)


@pytest.mark.parametrize("how", ["abort", "close"])
def test_a_connection_that_is_cut_while_its_successor_is_live_loses_nothing(how: str) -> None:
    async def scene(made: World) -> None:
        made.run([BTC], STEADY)
        await send([await made.live()], 1)
        await made.exchange.live[0].ws.send_str(SHUTDOWN)
        old, new = await two_live(made)
        await send([old], 2)
        await send([new], 2, 3, 4)
        await made.until(lambda: made.box.ids() == [1, 2])
        if how == "abort":
            old.abort()
        else:
            await old.ws.close(code=1001)
        await made.until(lambda: 4 in made.box.ids())
        assert folded(made.box.events) == [1, 2, 3, 4]
        assert made.box.statuses() == [("connected", "")] * 2
        await asyncio.sleep(10)
        assert len(made.exchange.dials) == 2

    in_virtual_time(scene)


def test_a_connection_is_renewed_before_the_exchange_cuts_it_for_its_age() -> None:
    async def scene(made: World) -> None:
        made.run([BTC], STEADY, connection_max_s=3_600.0)
        first = await made.live()
        number = 0
        while not first.is_gone:
            number += 1
            await send(made.exchange.live, number)
            await asyncio.sleep(0.2)
        assert made.box.statuses() == [("connected", "")] * 2
        assert " s old" in made.box.details()
        assert 3_000 < number / 5 < 3_601
        assert folded(made.box.events) == list(range(1, number + 1))

    in_virtual_time(scene)


def test_the_old_connection_stays_while_the_new_one_cannot_be_had() -> None:
    async def scene(made: World) -> None:
        made.run([BTC], STEADY)
        old = await made.live()
        made.exchange.refusals = [web.Response(status=503) for _ in range(4)]
        await old.ws.send_str(SHUTDOWN)
        await made.until(lambda: len(made.exchange.dials) == 6)
        await send([old], 1)
        await made.until(lambda: made.box.ids() == [1])
        assert made.box.statuses() == [("connected", "")]
        await made.until(lambda: old.is_gone)
        assert made.box.statuses() == [("connected", "")] * 2

    in_virtual_time(scene)


def test_a_loss_before_the_new_connection_is_live_is_reported_as_one() -> None:
    async def scene(made: World) -> None:
        feed = made.run([BTC], STEADY)
        old = await made.live()
        made.exchange.refusals = [web.Response(status=503) for _ in range(2)]
        await old.ws.send_str(SHUTDOWN)
        await made.until(lambda: len(made.exchange.dials) == 2)
        old.abort()
        new = (await made.live(2)).ws
        assert [status for status, _ in made.box.statuses()][:2] == ["connected", "disconnected"]
        assert [health.name for health in feed.health()] == ["binance 2"]
        await new.send_str(trade(7))
        await made.until(lambda: made.box.ids() == [7])
        await asyncio.sleep(10)
        assert len(made.exchange.live) == 1

    in_virtual_time(scene)


def test_symbols_that_come_and_go_during_a_handover_do_so_on_both_connections() -> None:
    async def scene(made: World) -> None:
        feed = made.run([BTC], STEADY)
        await (await made.live()).ws.send_str(SHUTDOWN)
        old, new = await two_live(made)
        feed.add(ETH)
        await made.until(lambda: old.streams == new.streams == {"btcusdt@trade", "ethusdt@trade"})
        feed.remove(BTC)
        await made.until(lambda: old.streams == new.streams == {"ethusdt@trade"})
        await made.until(lambda: old.is_gone)
        assert feed.symbols == (ETH,)
        feed.remove(ETH)
        await made.until(lambda: new.is_gone)
        assert feed.health() == []

    in_virtual_time(scene)


def test_a_feed_that_is_stopped_during_a_handover_closes_both_connections() -> None:
    async def scene(made: World) -> None:
        feed = made.run([BTC], STEADY)
        await (await made.live()).ws.send_str(SHUTDOWN)
        old, new = await two_live(made)
        began = made.clock.now()
        await feed.stop()
        assert made.clock.now() - began < 1.5 * S
        await made.until(lambda: old.is_gone and new.is_gone)

    in_virtual_time(scene)


def test_an_exchange_that_announces_its_end_at_every_dial_is_not_stormed() -> None:
    async def scene(made: World) -> None:
        made.run([BTC], STEADY)
        seen: list[Client] = []
        until = made.clock.now() + 60 * S
        await made.live()
        while made.clock.now() < until:
            for client in made.exchange.live:
                if client not in seen and client.streams:
                    seen.append(client)
                    await client.ws.send_str(SHUTDOWN)
            await asyncio.sleep(0.1)
        assert 2 <= len(made.exchange.dials) <= 2 + 60 * S // RENEW_APART_NS

    in_virtual_time(scene)


def test_more_than_may_wait_is_handed_over_at_once() -> None:
    async def scene(made: World) -> None:
        made.run([BTC], STEADY)
        await (await made.live()).ws.send_str(SHUTDOWN)
        _, new = await two_live(made)
        began = made.clock.now()
        await send([new], *range(1, CAPACITY + 1))
        await made.until(lambda: CAPACITY in made.box.ids())
        assert made.clock.now() - began < S
        assert folded(made.box.events) == list(range(1, CAPACITY + 1))

    in_virtual_time(scene)


def test_nothing_is_released_into_an_inbox_that_is_full() -> None:
    async def scene(made: World) -> None:
        made.run([BTC], STEADY)
        await (await made.live()).ws.send_str(SHUTDOWN)
        old, new = await two_live(made)
        await send([new], 1, 2)
        await asyncio.sleep(0.1)
        made.box.capacity = 0
        old.abort()
        await asyncio.sleep(5)
        assert made.box.ids() == []
        made.box.capacity = None
        made.changes.notify()
        await made.until(lambda: made.box.ids() == [1, 2])
        await send([new], 3)
        await made.until(lambda: made.box.ids() == [1, 2, 3])
        assert made.box.statuses() == [("connected", "")] * 2

    in_virtual_time(scene)


class Market:
    """Trades of two symbols, ten a second each, to all who are there; the first connection can be muted for one of them."""

    def __init__(self, made: World) -> None:
        self.made = made
        self.muted: tuple[list[Client], str] = ([], "")
        self.count = 0

    async def trade_for(self, seconds: float) -> None:
        until = self.made.clock.now() + round(seconds * S)
        while self.made.clock.now() < until:
            self.count += 1
            clients, mute = self.muted
            for client in self.made.exchange.live:
                for symbol in ("BTCUSDT", "ETHUSDT"):
                    if symbol != mute or client not in clients:
                        await send([client], self.count, symbol=symbol)
            await asyncio.sleep(0.1)

    def statuses(self, symbol: str) -> list[FeedStatus]:
        return [event for event in self.made.box.events if isinstance(event, FeedStatus) and event.symbol == symbol]


def test_a_mute_symbol_is_noticed_told_of_and_remedied_by_another_connection() -> None:
    async def scene(made: World) -> None:
        feed = made.run([BTC, ETH], STEADY)
        await made.live()
        market = Market(made)
        await market.trade_for(120)
        market.muted = (made.exchange.live, "BTCUSDT")
        muted_at, count = made.clock.now(), market.count
        await market.trade_for(2.5)
        (stalled,) = market.statuses(BTC)
        assert stalled.status == "stalled"
        assert stalled.received - muted_at <= 2.3 * S
        assert feed.health()[0].stalled == (BTC,)
        await market.trade_for(5)
        assert [status.status for status in market.statuses(BTC)] == ["stalled", "recovered"]
        assert "took over from binance 1: BTC/USDT mute" in made.box.details()
        assert folded(made.box.events, ETH) == list(range(1, market.count + 1))
        assert market.statuses(ETH) == []
        missing = set(range(1, market.count + 1)) - set(folded(made.box.events))
        assert missing == set(range(count + 1, min(number for number in folded(made.box.events) if number > count)))
        told = made.box.events.index(stalled)
        assert not any(
            isinstance(event, Tick) and event.symbol == BTC and event.trade_id and event.trade_id > count
            for event in made.box.events[:told]
        )

    in_virtual_time(scene)


def test_a_symbol_that_stays_mute_has_its_connection_renewed_ever_more_rarely() -> None:
    async def scene(made: World) -> None:
        made.run([BTC, ETH], STEADY)
        await made.live()
        market = Market(made)
        await market.trade_for(120)
        market.muted = (made.exchange.clients, "BTCUSDT")  # the new ones too
        await market.trade_for(200)
        assert [status.status for status in market.statuses(BTC)] == ["stalled"]
        waits = [
            second - first for first, second in zip(made.exchange.dials[1:], made.exchange.dials[2:], strict=False)
        ]
        assert waits == pytest.approx([STALL_FIRST_NS / S * 2**number for number in range(len(waits))], rel=0.1)
        assert len(waits) >= 2
        assert folded(made.box.events, ETH) == list(range(1, market.count + 1))

    in_virtual_time(scene)


def test_a_symbol_that_is_never_heard_is_said_once() -> None:
    async def scene(made: World) -> None:
        made.run([BTC, ETH], STEADY, silence_s=3_600.0)
        await made.live()
        await asyncio.sleep(200)
        (status,) = Market(made).statuses(BTC)
        assert status.status == "stalled"
        assert "nothing has come for 60.2 s: delisted, halted or very quiet" in status.detail
        assert len(made.exchange.dials) == 1

    in_virtual_time(scene)


def test_trades_that_are_old_when_they_come_are_told_of_once() -> None:
    async def scene(made: World) -> None:
        made.run([BTC, ETH], msgspec.structs.replace(STEADY, old_ms=5_000))
        await made.live()
        await Market(made).trade_for(40)
        assert made.box.statuses() == [("connected", ""), ("clock_skew", "")]
        assert "the newest trades are 19347200." in made.box.details()

    in_virtual_time(scene)
