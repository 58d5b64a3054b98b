"""What a feed does when an exchange's product list says something else than before. In virtual time."""

from __future__ import annotations

import asyncio

from engine.config import FeedsConfig
from engine.events import FeedStatus, Tick
from tests.live_feeds import BTC, ETH, World, trade, world
from tests.virtual_time import VirtualClock, VirtualLoop, run

NEW = "NEWCOIN/USDT"
HOURLY = FeedsConfig(products_refresh_s=3_600.0, old_ms=10**12)


def said_of(made: World, symbol: str) -> list[str]:
    return [event.status for event in made.box.events if isinstance(event, FeedStatus) and event.symbol == symbol]


def test_a_new_list_brings_what_was_not_listed_and_tells_of_what_is_gone() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(clock=VirtualClock(loop)) as made:
            made.exchange.listed = dict.fromkeys((BTC, ETH), "TRADING")
            feed = made.run([BTC, NEW, ETH], HOURLY, refresh_products=True, silence_s=3_600.0)
            client = await made.live()
            await asyncio.sleep(10)
            assert "fetched" in feed.exchange_health().products
            assert said_of(made, NEW) == ["failed"]
            assert feed.exchange_health().unlisted == (NEW,)

            made.exchange.listed = {BTC: "TRADING", ETH: "BREAK", NEW: "TRADING"}
            await asyncio.sleep(3_600)
            client = made.exchange.live[0]
            assert said_of(made, NEW)[:2] == ["failed", "recovered"]
            assert feed.symbols == (BTC, ETH, NEW)
            assert "newcoinusdt@trade" in client.streams
            assert "failed" in said_of(made, ETH)
            assert "delisted: status BREAK" in made.box.details()
            await client.ws.send_str(trade(1, "NEWCOINUSDT"))
            await made.until(lambda: made.box.ids() == [1])
            (tick,) = [event for event in made.box.events if isinstance(event, Tick)]
            assert tick.symbol == NEW

            made.exchange.listed = dict.fromkeys((BTC, ETH, NEW), "TRADING")
            await asyncio.sleep(3_600)
            assert said_of(made, ETH)[-1] == "recovered"

    run(main)


def test_a_list_that_cannot_be_had_changes_nothing() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with world(clock=VirtualClock(loop)) as made:
            feed = made.run([BTC], HOURLY, refresh_products=True)
            client = await made.live()
            await asyncio.sleep(5)
            assert "built in" in feed.exchange_health().products
            assert "at least one product" in feed.exchange_health().products_trouble
            await client.ws.send_str(trade(1))
            await made.until(lambda: made.box.ids() == [1])
            assert said_of(made, BTC) == []

    run(main)
