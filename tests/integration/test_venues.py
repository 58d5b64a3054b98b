"""The live feed of every exchange API, over real sockets, against the loopback exchange."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.clock import LiveClock
from engine.config import Config, VenueConfig
from engine.events import Event, FeedStatus, Quote, Tick
from feeds.live import Feed
from feeds.venues import Venue, feed_of
from replay.exchange import Exchange
from tests.faults.market import FEEDS, SYMBOLS, tape
from tests.live_feeds import Box, Changes

SPEED = 20.0
VENUES: dict[str, Venue] = {
    "binance": "binance",
    "coinbase": "coinbase",
    "coinbase_exchange": "coinbase",
    "kucoin": "kucoin",
}


class Run:
    """One feed, the exchange that it listens to, and what came of it."""

    def __init__(self, api: str, **options: Any) -> None:
        self.api = api
        self.name = VENUES[api]
        self.busy, self.calm, _ = SYMBOLS[api]
        self.changes = Changes()
        self.box = Box(self.changes)
        self.exchange = Exchange([tape(api, 60.0)], speed=SPEED, from_start=True, **options)
        self.raw: list[tuple[str, str]] = []
        self.feed: Feed

    def hear(self, kind: str, _: int, __: str, text: str | bytes) -> None:
        self.raw.append((kind, text if isinstance(text, str) else text.decode()))
        self.changes.notify()

    def of(self, kind: str) -> list[str]:
        return [text for of, text in self.raw if of == kind]

    def live(self, symbol: str) -> list[int]:
        """Ids that came by the stream."""
        return [
            event.trade_id
            for event in self.box.events
            if isinstance(event, Tick) and event.symbol == symbol and not event.late and event.trade_id is not None
        ]

    def statuses(self) -> list[str]:
        return [event.status for event in self.box.events if isinstance(event, FeedStatus)]

    async def until(self, seen: Callable[[], Any]) -> None:
        await self.changes.until(seen)


@contextlib.asynccontextmanager
async def running(
    api: str,
    symbols: Sequence[str] = (),
    folder: Path | None = None,
    settings: dict[str, Any] | None = None,
    **more: Any,
) -> AsyncIterator[Run]:
    before = asyncio.all_tasks()
    made = Run(api)
    await made.exchange.start()
    venue = made.exchange.venue(api)
    at: VenueConfig = getattr(Config(), api)
    changes: dict[str, Any] = {"rest": venue.rest, **({"websocket": venue.websocket} if venue.websocket else {})}
    config = msgspec.structs.replace(Config(), **{api: msgspec.structs.replace(at, **changes, **(settings or {}))})
    if api == "coinbase_exchange":
        config = msgspec.structs.replace(config, coinbase=msgspec.structs.replace(config.coinbase, api="exchange"))
    config = msgspec.structs.replace(
        config, feeds=msgspec.structs.replace(config.feeds, backoff_first_s=0.02, backoff_max_s=0.1)
    )
    made.feed = feed_of(
        made.name,
        config,
        symbols or (made.busy, made.calm),
        clock=LiveClock(),
        inbox=made.box,
        seed=1,
        raw=made.hear,
        products_folder=folder,
        refresh_products=folder is not None,
        **more,
    )
    task = asyncio.get_running_loop().create_task(made.feed.run())
    try:
        yield made
        await made.feed.stop()
        await task
    finally:
        task.cancel()
        await made.exchange.stop()
    left = [task.get_name() for task in asyncio.all_tasks() - before if not task.done()]
    assert not left, left


def is_run_of(ids: Sequence[int], traded: Sequence[int]) -> bool:
    """Whether ids are a stretch of what was traded, without a hole."""
    at = traded.index(ids[0])
    return list(ids) == list(traded[at : at + len(ids)])


@pytest.mark.asyncio
@pytest.mark.parametrize("api", FEEDS)
async def test_trades_and_quotes_come_live_and_go_on_after_a_reset(api: str) -> None:
    async with running(api) as made:
        await made.until(lambda: len(made.live(made.busy)) >= 20 and made.live(made.calm))
        assert any(isinstance(event, Quote) for event in made.box.events)
        assert {event.exchange for event in made.box.events if isinstance(event, Tick)} == {made.name}
        first = len(made.live(made.busy))
        made.exchange.clients[0].abort()
        await made.until(lambda: made.statuses().count("connected") == 2)
        lost = next(
            at
            for at, event in enumerate(made.box.events)
            if isinstance(event, FeedStatus) and event.status == "disconnected"
        )
        before = [event for event in made.box.events[:lost] if _is_live(event, made.busy)]
        await made.until(lambda: len(made.live(made.busy)) >= first + 20)
        traded = made.exchange.traded(api, made.busy)
        ids = made.live(made.busy)
        assert is_run_of(ids[: len(before)], traded)
        assert is_run_of(ids[len(before) :], traded)
        assert made.statuses() == ["connected", "disconnected", "connected"]
        (health,) = made.feed.health()
        assert (health.state, health.undecodable, health.reconnects) == ("live", 0, 1)


def _is_live(event: Event, symbol: str) -> bool:
    return isinstance(event, Tick) and event.symbol == symbol and not event.late


@pytest.mark.asyncio
@pytest.mark.parametrize("api", FEEDS)
async def test_a_renewed_connection_takes_over_in_the_midst_of_a_market(api: str) -> None:
    async with running(api, settings={"connection_max_s": 1.0}) as made:
        await made.until(lambda: "took over from" in made.box.details())
        first = len(made.live(made.busy))
        await made.until(lambda: len(made.live(made.busy)) >= first + 20)
        taken = list(dict.fromkeys(made.live(made.busy)))
        assert taken == sorted(taken)
        assert is_run_of(taken, made.exchange.traded(api, made.busy))
        assert set(made.statuses()) == {"connected"}


@pytest.mark.asyncio
async def test_kucoin_is_asked_for_a_token_before_every_dial_and_pinged() -> None:
    async with running("kucoin") as made:
        await made.until(lambda: made.live(made.busy))
        made.exchange.clients[0].abort()
        await made.until(lambda: made.statuses().count("connected") == 2)
        kinds = [kind for kind, _ in made.raw if kind in ("http", "connect")]
        assert kinds == ["http", "connect"] * 2
        first, second = made.of("connect")
        assert first != second
        assert all("token=" in url for url in (first, second))
        assert "cannot be proved" in made.box.details()


@pytest.mark.asyncio
async def test_heartbeats_keep_a_connection_to_coinbase_whose_symbols_are_quiet() -> None:
    quiet = SYMBOLS["coinbase"][2]
    async with running("coinbase", [quiet], settings={"silence_s": 1.2}) as made:
        await made.until(lambda: made.statuses() == ["connected"])
        await made.until(lambda: sum('"heartbeats"' in text for text in made.of("recv")) >= 3)
        assert set(made.statuses()) == {"connected"}


@pytest.mark.asyncio
@pytest.mark.parametrize("api", FEEDS)
async def test_the_product_list_is_fetched_and_an_unknown_symbol_is_named_alone(api: str, tmp_path: Path) -> None:
    async with running(api, ["NO/SUCH", SYMBOLS[api][0]], tmp_path) as made:
        await made.until(lambda: made.live(made.busy))
        failed = [event for event in made.box.events if isinstance(event, FeedStatus) and event.status == "failed"]
        assert [event.symbol for event in failed] == ["NO/SUCH"]
        assert made.feed.exchange_health().unlisted == ("NO/SUCH",)
        await made.until(lambda: "fetched" in made.feed.exchange_health().products)
        assert made.feed.exchange_health().products_trouble == ""
        assert made.live(made.busy)
        assert made.feed.symbols == (made.busy,)
