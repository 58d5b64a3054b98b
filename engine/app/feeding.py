"""The feeds of a daemon: which there are, what they listen to, and what operators change about that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.app.recording import Recording, VenueServed
from engine.clock import Clock
from engine.config import Config
from engine.errors import ConfigError
from engine.events import Command, Gap
from engine.fold import Fold
from engine.health import ExchangeHealth, FeedHealth
from engine.trade_ids import TradeIds
from feeds.live import Feed, Inbox
from feeds.venues import Venue, feed_of, symbols_of

CHANGES = ("add_symbol", "remove_symbol")
SHOWN = 20


class Feeding:
    """The configured feeds. The built-in recordings are served by a loopback exchange to the clients that dial the real ones."""

    def __init__(self, config: Config, log: Any, products: Path) -> None:
        """`products` is the folder in which product lists are kept."""
        self._config = config
        self._log = log
        self._products = products
        self._feeds: list[Feed] = []
        self._recording = Recording(config.feeds.replay_speed) if "replay" in config.feeds.run else None

    async def prepare(self) -> None:
        """Have the loopback exchange start, if one is needed: on another core, while the daemon recovers."""
        if self._recording is not None:
            await self._recording.spawn()

    async def start(
        self,
        fold: Fold,
        *,
        clock: Clock,
        inbox: Inbox,
        spawn: Callable[[Coroutine[Any, Any, Any]], None],
    ) -> None:
        """Start all feeds, their symbols as operators have changed them (`fold.symbols`).

        spawn: runs a coroutine for as long as the daemon does. Raises ConfigError if a feed knows none of its symbols, ServiceError
        if the loopback exchange does not come up.
        """
        changes = fold.symbols
        async for name, config, configured in self._wanted(spawn):
            symbols = _changed(name, configured, changes)
            feed = feed_of(
                name,
                config,
                symbols,
                clock=clock,
                inbox=inbox,
                seed=config.engine.seed,
                recording=self._recording is not None,
                products_folder=None if self._recording is not None else self._products,
                taken=TradeIds(fold.keys, fold.ingress, name),
            )
            if not feed.symbols and not changes:
                why = "; ".join(f"{symbol}: {feed.why_not(symbol)}" for symbol in symbols[:5]) or "there are none"
                raise ConfigError(f"{name}.symbols, feeds.symbols: expected symbols of {feed.exchange}: {why}")
            self._feeds.append(feed)
            if feed.backfill is not None:
                # Of symbols that are listened to no longer too: each gap is to be closed, or said to be lost.
                keys = (fold.keys[code] for code in range(len(fold.keys)))
                feed.backfill.resume([symbol for exchange, symbol in keys if exchange == name])
            spawn(feed.run())

    async def _wanted(self, spawn: Callable[..., None]) -> AsyncIterator[tuple[Venue, Config, list[str]]]:
        """Yield each feed's exchange, its configuration, and what it is to listen to."""
        config = self._config
        if self._recording is not None:
            served = await self._recording.served()
            spawn(self._recording.watch(int(served.url.rstrip("/").rpartition(":")[2]), self._exchange_ended))
            for venue in served.venues:
                yield venue.exchange, _at(config, venue), list(venue.symbols)
        for name in config.feeds.run:
            if name != "replay":
                yield name, config, list(symbols_of(name, config))

    def gap(self, gap: Gap) -> None:
        """Have what is missing asked for."""
        for feed in self._feeds:
            if feed.exchange == gap.exchange:
                feed.gap(gap)

    def health(self) -> list[FeedHealth]:
        """What each connection says of itself."""
        return [health for feed in self._feeds for health in feed.health()]

    def exchanges(self) -> list[ExchangeHealth]:
        """What the connections to each exchange have in common."""
        return [feed.exchange_health() for feed in self._feeds]

    def check(self, command: Command) -> None:
        """Raise ConfigError for a symbol that no feed knows or listens to: as an input the command would be there for good."""
        if command.verb not in CHANGES:
            return
        feed, symbol = self._of(command)
        if command.verb == "add_symbol" and (why := feed.why_not(symbol)):
            raise ConfigError(f"target {command.target!r}: {symbol}: {why}")
        if command.verb == "remove_symbol" and symbol not in feed.symbols:
            raise ConfigError(f"target {command.target!r}: expected one of {', '.join(feed.symbols[:SHOWN]) or 'none'}")

    def obey(self, command: Command) -> None:
        """Listen to another symbol, or no longer to one."""
        if command.verb in CHANGES:
            feed, symbol = self._of(command)
            (feed.add if command.verb == "add_symbol" else feed.remove)(symbol)

    async def stop(self, within_s: float) -> None:
        """Stop all feeds at once, each within its time, then the loopback exchange: else it would be said to have hung up."""
        await self._stop([feed.stop() for feed in self._feeds], within_s)
        if self._recording is not None:
            await self._stop([self._recording.stop()], within_s)

    async def _stop(self, parts: Sequence[Coroutine[Any, Any, None]], within_s: float) -> None:
        timed = [asyncio.wait_for(part, within_s) for part in parts]
        for stopped in await asyncio.gather(*timed, return_exceptions=True):
            if isinstance(stopped, BaseException):
                self._log.warning("a feed did not stop in time", error=repr(stopped))

    def _of(self, command: Command) -> tuple[Feed, str]:
        exchange, _, symbol = command.target.partition(":")
        for feed in self._feeds:
            if feed.exchange == exchange:
                return feed, symbol
        known = ", ".join(feed.exchange for feed in self._feeds) or "none"
        raise ConfigError(f"target {command.target!r}: no feed of {exchange}; there are feeds of {known}")

    def _exchange_ended(self, code: int) -> None:
        self._log.error("the loopback exchange ended", code=code, hint="it is started again")


def _at(config: Config, venue: VenueServed) -> Config:
    """Return the configuration with the hosts of an exchange that is served here."""
    hosts = msgspec.structs.replace(getattr(config, venue.exchange), rest=venue.rest, websocket=venue.websocket)
    if venue.exchange == "coinbase":
        hosts = msgspec.structs.replace(hosts, api="advanced")
    return msgspec.structs.replace(config, **{venue.exchange: hosts})


def _changed(exchange: str, symbols: list[str], changes: Mapping[str, bool]) -> list[str]:
    """Return the symbols of an exchange as operators have changed them."""
    wanted = dict.fromkeys(symbols)
    for target, is_wanted in changes.items():
        of, _, symbol = target.partition(":")
        if of == exchange and is_wanted:
            wanted[symbol] = None
        elif of == exchange:
            wanted.pop(symbol, None)
    return list(wanted)
