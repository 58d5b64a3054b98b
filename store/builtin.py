"""The built-in feature views, version 1.0.0: market, technical (by tick, 1 s and 1 min bars), derived."""

from __future__ import annotations

from functools import cache

from engine.errors import ConfigError
from engine.indicator import Value
from engine.indicators import (
    bollinger,
    ema,
    highest,
    lowest,
    macd,
    mid,
    price_change,
    quote_imbalance,
    realised_volatility,
    rsi,
    sma,
    spread_bps,
    trade_imbalance,
    volume_ratio,
    vwap,
)
from store.schema import FeatureView


def _market() -> dict[str, Value]:
    return {
        "price": "price",
        "volume": "volume",
        "side": "side",
        "bid": "bid",
        "ask": "ask",
        "mid": mid("bid", "ask"),
        "spread_bps": spread_bps("bid", "ask"),
        "imbalance": quote_imbalance("bid_volume", "ask_volume"),
    }


def _technical() -> dict[str, Value]:
    line, signal, histogram = macd("price", 12, 26, 9)
    upper, middle, lower = bollinger("price", 20, 2.0)
    return {
        "rsi_14": rsi("price", 14),
        "rsi_21": rsi("price", 21),
        "rsi_50": rsi("price", 50),
        "macd": line,
        "macd_signal": signal,
        "macd_histogram": histogram,
        "bollinger_upper": upper,
        "bollinger_middle": middle,
        "bollinger_lower": lower,
        "volume_sma_20": sma("volume", 20),
        "volume_ema_12": ema("volume", 12),
    }


def _derived() -> dict[str, Value]:
    return {
        "price_change_1m": price_change("price", "1m"),
        "price_change_5m": price_change("price", "5m"),
        "price_change_15m": price_change("price", "15m"),
        "volume_ratio": volume_ratio("volume", 20),
        "volatility_index": realised_volatility("price", "1m"),
        "support_15m": lowest("price", "15m"),
        "resistance_15m": highest("price", "15m"),
        "vwap_1m": vwap("price", "volume", "1m"),
        "trade_imbalance_1m": trade_imbalance("side", "volume", "1m"),
    }


@cache
def builtin_views() -> dict[str, FeatureView]:
    """Return the built-in views by name, in the order in which they emit."""
    technical = "RSI, MACD, Bollinger bands, averages of volume"
    views = (
        FeatureView("market", _market(), description="the trade, and the newest quote before it"),
        FeatureView("technical", _technical(), description=f"{technical}, at each trade"),
        FeatureView("technical_1s", _technical(), clock="1s", description=f"{technical}, on bars of one second"),
        FeatureView("technical_1m", _technical(), clock="1m", description=f"{technical}, on bars of one minute"),
        FeatureView("derived", _derived(), description="changes, ranges, volatility and flow over windows of time"),
    )
    return {view.name: view for view in views}


def resolve(views: list[str | FeatureView] | tuple[str | FeatureView, ...]) -> tuple[FeatureView, ...]:
    """Return views by name or as they are. Raises ConfigError for an unknown name or one name given twice."""
    known = builtin_views()
    found: dict[str, FeatureView] = {}
    for view in views:
        if isinstance(view, str):
            if view not in known:
                raise ConfigError(f"feature view {view!r}: expected one of {', '.join(known)}, or a FeatureView")
            view = known[view]  # noqa: PLW2901 - the name becomes what it names
        if view.name in found:
            raise ConfigError(f"feature view {view.name!r} is given twice")
        found[view.name] = view
    if not found:
        raise ConfigError("expected at least one feature view, found none")
    return tuple(found.values())
