"""The built-in indicators, one a file. They are made by the same public pieces (`engine.indicator`) that anybody can use."""

from __future__ import annotations

from engine.indicators.arithmetic import difference, product, ratio
from engine.indicators.bollinger import bollinger
from engine.indicators.ema import ema
from engine.indicators.macd import macd
from engine.indicators.price_change import price_change
from engine.indicators.quotes import mid, quote_imbalance, spread_bps
from engine.indicators.rsi import rsi
from engine.indicators.sma import sma
from engine.indicators.trade_imbalance import trade_imbalance
from engine.indicators.volatility import realised_volatility
from engine.indicators.volume_ratio import volume_ratio
from engine.indicators.vwap import vwap
from engine.indicators.window import highest, lowest, total

__all__ = [
    "bollinger",
    "difference",
    "ema",
    "highest",
    "lowest",
    "macd",
    "mid",
    "price_change",
    "product",
    "quote_imbalance",
    "ratio",
    "realised_volatility",
    "rsi",
    "sma",
    "spread_bps",
    "total",
    "trade_imbalance",
    "volume_ratio",
    "vwap",
]
