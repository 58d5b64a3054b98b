"""Which symbols an exchange's feed is configured to listen to."""

from __future__ import annotations

import pytest

from engine.config import CoinbaseConfig, CoinbaseExchangeConfig, Config, FeedsConfig, KucoinConfig
from feeds.venues import Venue, symbols_of

ADVANCED = CoinbaseConfig(symbols=("ADVANCED/USD",))
EXCHANGE = CoinbaseConfig(api="exchange", symbols=("ADVANCED/USD",))
OLDER = CoinbaseExchangeConfig(symbols=("OLDER/USD",))
ALL = FeedsConfig(symbols=("ALL/USD",))


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("kucoin", Config(feeds=ALL), "ALL/USD"),
        ("kucoin", Config(feeds=ALL, kucoin=KucoinConfig(symbols=("OWN/USD",))), "OWN/USD"),
        ("coinbase", Config(feeds=ALL, coinbase=ADVANCED, coinbase_exchange=OLDER), "ADVANCED/USD"),
        ("coinbase", Config(feeds=ALL, coinbase=EXCHANGE, coinbase_exchange=OLDER), "OLDER/USD"),
        ("coinbase", Config(feeds=ALL, coinbase=EXCHANGE), "ADVANCED/USD"),
    ],
)
def test_the_nearest_section_that_names_symbols_counts(name: Venue, config: Config, expected: str) -> None:
    assert symbols_of(name, config) == (expected,)
