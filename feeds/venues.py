"""The live feed of a named exchange, put together from the configuration: decoder, protocol, limits, product list, back-fill."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import aiohttp

from engine.clock import Clock
from engine.config import BinanceConfig, Config, KucoinConfig, VenueConfig
from engine.errors import ConfigError
from feeds.backfill import Backfill
from feeds.binance_rest import BinanceHistory
from feeds.binance_stream import BinanceProtocol
from feeds.catalogue import Catalogue
from feeds.coinbase_exchange_rest import CoinbaseExchangeHistory
from feeds.coinbase_exchange_stream import CoinbaseExchangeProtocol
from feeds.coinbase_rest import CoinbaseHistory
from feeds.coinbase_stream import CoinbaseProtocol
from feeds.history import HistoryProtocol, Taken
from feeds.kucoin_rest import KucoinHistory
from feeds.kucoin_stream import KucoinProtocol
from feeds.limits import Host
from feeds.link import Inbox, Outside, RawSink
from feeds.listing import Listing
from feeds.live import Feed
from feeds.liveness import SymbolWatch
from feeds.product_lists import products_url
from feeds.products import built_in_products
from feeds.rest import Rest
from feeds.skew import ClockSkew
from feeds.speech import Limits, StreamProtocol
from feeds.wares import Wares

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
FIRST_SILENCE_NS = 60 * NS_PER_S
"""How long a symbol of which nothing is known may be silent: a healthy one was for 43 s."""

Venue: TypeAlias = Literal["binance", "coinbase", "kucoin"]
VENUES: tuple[Venue, ...] = ("binance", "coinbase", "kucoin")


@dataclass(frozen=True)
class _Api:
    """One exchange API as it is configured. `name` is that of its decoder and of its product list."""

    name: str
    config: VenueConfig | KucoinConfig
    protocol: Callable[[Mapping[str, str]], StreamProtocol]
    history: Callable[[Mapping[str, str]], HistoryProtocol]


def symbols_of(name: Venue, config: Config) -> tuple[str, ...]:
    """Return the symbols that are configured for an exchange: its API's own, else the exchange's, else those of all feeds."""
    own = config.coinbase_exchange.symbols if name == "coinbase" and config.coinbase.api == "exchange" else ()
    venue: VenueConfig = getattr(config, name)
    return own or venue.symbols or config.feeds.symbols


def feed_of(
    name: Venue,
    config: Config,
    symbols: Sequence[str],
    *,
    clock: Clock,
    inbox: Inbox,
    seed: int,
    recording: bool = False,
    raw: RawSink | None = None,
    products_folder: Path | None = None,
    refresh_products: bool = True,
    taken: Taken | None = None,
    connector: aiohttp.BaseConnector | None = None,
) -> Feed:
    """Make the live feed of an exchange for `symbols` (ours: BTC/USDT); it does nothing before `run`.

    clock: stamps `received`; it has to be one that never goes back. recording: a loopback exchange serves a recording. raw: hears all
    that goes over the wires. products_folder: where fetched product lists are kept; None keeps none. refresh_products: whether lists
    are fetched at all. taken: what was folded already, which back-fill goes by; None means no back-fill. connector: None dials by TCP.
    Raises ConfigError if one symbol alone is more than a connection may carry.
    """
    api = _api(name, config)
    venue, feeds = api.config, config.feeds
    if refresh_products:
        catalogue = Catalogue(
            api.name,
            products_url(api.name, venue.rest),
            products_folder,
            clock=clock,
            refresh_s=feeds.products_refresh_s,
        )
        catalogue.load()
        wares = Wares(api.name, catalogue)
    else:
        wares = Wares(api.name, Listing(api.name, None, "built-in", 0, built_in_products(api.name)))
    protocol = api.protocol(wares.spelling)
    limits = Limits(
        connect_ns=_ns(feeds.connect_s),
        acknowledge_ns=_ns(feeds.acknowledge_s),
        silence_ns=_ns(venue.silence_s),
        backoff_first_ns=_ns(feeds.backoff_first_s),
        backoff_max_ns=_ns(feeds.backoff_max_s),
        stable_ns=_ns(feeds.backoff_max_s),
        messages=venue.messages,
        messages_span_ns=_ns(venue.messages_s),
        renew_ns=_ns(venue.connection_max_s),
    )
    outside = Outside(
        clock=clock,
        inbox=inbox,
        decoder=wares.decoder,
        protocol=protocol,
        frame_bytes=feeds.frame_mib << 20,
        recording=recording,
        raw=raw,
    )
    feed = Feed(
        outside,
        limits,
        Host(venue.dials, _ns(venue.dials_s), limits),
        wares,
        symbols,
        seed=seed,
        new_watch=lambda: SymbolWatch(floor_ns=_ns(feeds.stalled_s), first_ns=FIRST_SILENCE_NS),
        new_skew=lambda: ClockSkew(bound_ns=feeds.skew_ms * NS_PER_MS, bound_old_ns=feeds.old_ms * NS_PER_MS),
        connector=connector,
    )
    if taken is not None:
        feed.backfill = Backfill(
            api.history(wares.spelling),
            Rest(clock, venue.requests, _ns(venue.requests_s)),
            taken,
            clock=clock,
            inbox=inbox,
            give_up_ns=_ns(feeds.backfill_s),
            random=random.Random(f"{seed} back-fill of {name}"),
            on_defect=feed.broke,
        )
    return feed


def _api(name: Venue, config: Config) -> _Api:
    if name == "binance":
        return _binance(config.binance)
    if name == "kucoin":
        kucoin = config.kucoin
        return _Api(
            "kucoin",
            kucoin,
            lambda spelling: KucoinProtocol(kucoin.rest, kucoin.websocket, spelling, kucoin.symbols_a_connection),
            lambda spelling: KucoinHistory(kucoin.rest, spelling),
        )
    if config.coinbase.api == "exchange":
        older = config.coinbase_exchange
        return _Api(
            "coinbase_exchange",
            older,
            lambda spelling: CoinbaseExchangeProtocol(older.websocket, spelling, older.symbols_a_connection),
            lambda spelling: CoinbaseExchangeHistory(older.rest, spelling),
        )
    coinbase = config.coinbase
    return _Api(
        "coinbase",
        coinbase,
        lambda spelling: CoinbaseProtocol(coinbase.websocket, spelling, coinbase.symbols_a_connection),
        lambda spelling: CoinbaseHistory(coinbase.rest, spelling),
    )


def _binance(config: BinanceConfig) -> _Api:
    if not config.streams:
        raise ConfigError("binance.streams = []: expected at least one of trade, aggTrade, bookTicker")
    if config.streams_a_connection < len(config.streams):
        raise ConfigError(
            f"binance.streams_a_connection = {config.streams_a_connection}: "
            f"expected at least {len(config.streams)}, the streams of one symbol (binance.streams)"
        )
    aggregates = "aggTrade" in config.streams and "trade" not in config.streams
    return _Api(
        "binance",
        config,
        lambda spelling: BinanceProtocol(config.websocket, config.streams, spelling, config.streams_a_connection),
        lambda spelling: BinanceHistory(config.rest, spelling, aggregates=aggregates),
    )


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
