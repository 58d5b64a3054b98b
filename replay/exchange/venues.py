"""The exchanges that can be served, by the feed of their recordings."""

from __future__ import annotations

from replay.exchange import binance, coinbase, coinbase_exchange, kucoin
from replay.exchange.market import Market
from replay.exchange.venue import Limits, Venue

LIMITS = {
    "binance": binance.LIMITS,
    "coinbase": coinbase.LIMITS,
    "coinbase_exchange": coinbase.LIMITS,
    "kucoin": kucoin.LIMITS,
}
"""What each of them lets its clients do, as documented."""


def venue_of(market: Market, limits: Limits, seed: int, token_s: float) -> Venue:
    """Return the exchange whose recording a market plays. `token_s` is how long a token of KuCoin is good."""
    if market.feed == "binance":
        return binance.BinanceVenue(market, limits)
    if market.feed == "coinbase":
        return coinbase.CoinbaseVenue(market, limits)
    if market.feed == "coinbase_exchange":
        return coinbase_exchange.CoinbaseExchangeVenue(market, limits)
    return kucoin.KucoinVenue(market, limits, seed=seed, token_s=token_s)
