"""The two examples against slow references, written from their docstrings, on recorded trades and quotes."""

from __future__ import annotations

import math
from collections import deque
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from engine.block import IS_QUOTE, Block, Keys
from engine.events import FeatureEvent, Signal
from strategies import load
from tests.folding import SECOND, SIZES, Run, listener, recorded, trade

Found = tuple[str, int, float]  # symbol, received, value


@cache
def inputs() -> tuple[Keys, Block]:
    """The recorded trades and quotes but for the first trades: every key has had a quote before its first trade."""
    keys, block = recorded()
    begun = np.arange(len(block)) >= 100
    assert set(block.key[~begun & (block.kind == IS_QUOTE)].tolist()) == {0, 1}
    return keys, block.take(begun | (block.kind == IS_QUOTE))


@cache
def rows() -> list[dict[str, Any]]:
    """The recorded trades and quotes, one dict each. `now` is the newest timestamp of the key's trades."""
    keys, block = inputs()
    found = []
    newest: dict[int, int] = {}
    for key, kind, at, received, price, volume, side, _ask, ask_volume in zip(
        *(
            getattr(block, name).tolist()
            for name in ("key", "kind", "timestamp", "received", "price", "volume", "side", "ask", "ask_volume")
        ),
        strict=True,
    ):
        if kind != IS_QUOTE:
            newest[key] = max(newest.get(key, 0), at)
        found.append(
            {
                "symbol": keys[key][1], "is_quote": kind == IS_QUOTE, "now": newest.get(key, 0), "received": received,
                "price": price, "volume": volume, "side": side, "ask_volume": ask_volume,
            }
        )  # fmt: skip
    return found


def signals(name: str, parameters: dict[str, Any], size: int = 4096) -> list[Found]:
    run = Run(load(name, parameters), views=None)
    run.fold.keys, block = inputs()
    run.push(block, size)
    assert run.troubles() == []
    return [(found.symbol, found.received, found.value) for found in run.of(Signal)]


# Moving-average cross: buy when the fast average (12) rises above the slow one (26) of one-second bars, sell when it falls below.


def mean_of(closes: list[float], period: int) -> float:
    """The exponential average, seeded with the plain mean of its first values."""
    average = math.fsum(closes[:period]) / period
    for close in closes[period:]:
        average += 2.0 / (period + 1) * (close - average)
    return average


def crosses(margin_bps: float) -> list[Found]:
    found: list[Found] = []
    closes: dict[str, list[float]] = {}
    current: dict[str, tuple[int, float]] = {}
    side: dict[str, int] = {}
    for row in rows():
        if row["is_quote"]:
            continue
        symbol, second = row["symbol"], row["now"] // SECOND
        last = current.get(symbol)
        current[symbol] = (second, row["price"])
        if last is None or last[0] == second:
            continue
        bars = closes.setdefault(symbol, [])
        bars.append(last[1])
        # `ready` is that of the whole view: its slowest feature is the RSI over 50 changes.
        if len(bars) < 51:
            continue
        distance = mean_of(bars, 12) - mean_of(bars, 26)
        margin = margin_bps * 1e-4 * math.fsum(bars[-20:]) / 20
        now = 0 if abs(distance) < margin else 1 if distance > 0.0 else -1
        if now and now != side.get(symbol):
            side[symbol] = now
            found.append((symbol, row["received"], float(now)))
    return found


@pytest.mark.parametrize("margin_bps", [0.0, 0.05, 0.5])
def test_moving_average_cross_is_its_docstring(margin_bps: float) -> None:
    expected = crosses(margin_bps)
    assert {value for _, _, value in expected} == {1.0, -1.0}, "the reference never bought or never sold"
    assert signals("moving_average_cross", {"margin_bps": margin_bps}) == expected


def test_a_wide_margin_silences_the_moving_average_cross() -> None:
    assert crosses(100.0) == []
    assert signals("moving_average_cross", {"margin_bps": 100.0}) == []


def test_moving_average_cross_never_signals_the_same_side_twice() -> None:
    by_symbol: dict[str, list[float]] = {}
    for symbol, _, value in signals("moving_average_cross", {"margin_bps": 0.0}):
        by_symbol.setdefault(symbol, []).append(value)
    assert all(left == -right for values in by_symbol.values() for left, right in pairwise(values))


# Order-flow imbalance: follow takers when both their volume of the last minute and the newest quote lean the same way.


def leans(threshold: float) -> list[Found]:
    found: list[Found] = []
    book: dict[str, float] = {}
    window: dict[str, deque[tuple[int, float, int]]] = {}
    position: dict[str, int] = {}
    for row in rows():
        symbol = row["symbol"]
        if row["is_quote"]:
            book[symbol] = (row["volume"] - row["ask_volume"]) / (row["volume"] + row["ask_volume"])
            continue
        held = window.setdefault(symbol, deque())
        held.append((row["now"], row["volume"], row["side"]))
        while held[0][0] <= row["now"] - 60 * SECOND:
            held.popleft()
        flow = math.fsum(volume * side for _, volume, side in held) / math.fsum(volume for _, volume, _ in held)
        lean = book.get(symbol, math.nan)
        now = 1 if flow > threshold and lean > threshold else -1 if flow < -threshold and lean < -threshold else 0
        if now != position.get(symbol, 0):
            position[symbol] = now
            found.append((symbol, row["received"], float(now)))
    return found


@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.6])
def test_order_flow_imbalance_is_its_docstring(threshold: float) -> None:
    expected = leans(threshold)
    assert len(expected) > 5, "the reference hardly ever took a side and left it"
    assert signals("order_flow_imbalance", {"threshold": threshold}) == expected


@pytest.mark.parametrize("threshold", [0.0, 0.99])
def test_order_flow_imbalance_is_its_docstring_at_the_ends_of_its_range(threshold: float) -> None:
    assert signals("order_flow_imbalance", {"threshold": threshold}) == leans(threshold)


def test_order_flow_imbalance_takes_no_side_before_it_has_seen_a_quote() -> None:
    run = Run(load("order_flow_imbalance"), views=None).push([trade(at=float(i), side=-1) for i in range(5)])
    assert run.of(Signal) == [], "there was no quote, so nothing can have leant the same way"


@pytest.mark.parametrize("name", ["moving_average_cross", "order_flow_imbalance"])
def test_an_example_says_the_same_at_every_block_size(name: str) -> None:
    alone, sevens, whole = (signals(name, {}, size) for size in SIZES)
    assert alone == sevens == whole
    assert whole


def test_the_bars_of_the_reference_are_those_of_the_view() -> None:
    plugin = listener("technical_1s")
    Run(plugin, views=None).push_recorded(4096)
    ready = [event for event in plugin.heard if isinstance(event, FeatureEvent) and event.ready]
    counts = {symbol: sum(event.symbol == symbol for event in plugin.heard) for symbol in ("BTC/USDT", "ETH/USDT")}
    assert len(ready) == sum(count - 50 for count in counts.values())
