"""The dated product lists inside the package: an exchange's spelling of a pair to ours.

Spelling    BTCUSDT at the exchange is BTC/USDT here: the base and quote that the exchange itself names
Lists       binance, coinbase (for both Coinbase APIs, which spell alike), kucoin
Why a list  ARBNB is AR/BNB and ARBUSDT is ARB/USDT: text cannot be split by rule
Source      products/README.md
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

import msgspec

from engine.errors import FeedError

SHARED = {"coinbase_exchange": "coinbase"}
"""APIs that spell as another one does."""


@functools.cache
def built_in_products(exchange: str) -> Mapping[str, str]:
    """Read the list of an exchange or an API of one, once: the exchange's spelling to BASE/QUOTE, read-only.

    Raises FeedError if the package holds no list for it.
    """
    file = resources.files("feeds").joinpath("products", f"{SHARED.get(exchange, exchange)}.json")
    if not file.is_file():
        raise FeedError(f"no built-in product list for {exchange!r}: hand in `products`")
    return MappingProxyType(msgspec.json.decode(file.read_bytes(), type=dict[str, str]))
