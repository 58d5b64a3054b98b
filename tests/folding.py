"""Folds that are small enough to look at: blocks out of plain rows, plugins that note what they hear, pushes of any size.

`VIEWS` are compiled once for all tests of the fold: two views on every trade and one on bars of a second, with a window of time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.block import IS_QUOTE, IS_TRADE, NO_ID, Block, Keys
from engine.config import Config, EngineConfig, FeaturesConfig, IngressConfig, StoreConfig
from engine.events import FeatureEvent, HandlerFailed, Key, Parked, Resumed, Signal
from engine.fold import Fold
from engine.indicators import ema, mid, sma, total
from replay.driver import build_fold
from replay.merge import merge
from replay.sources import open_source
from store.schema import FeatureView
from strategies import Strategy

DATA = Path(__file__).parent / "data"
TRADES, QUOTES, LTC = (
    DATA / f"binance_{name}.parquet" for name in ("20240808_spot_trades", "20240808_spot_quotes", "20250621_ltc_trades")
)
COMMAND = Path(sys.executable).parent / "tickfold"
START = 1_700_000_000_000_000_000  # a whole second
SECOND = 1_000_000_000
BTC, ETH = ("x", "BTC/USDT"), ("x", "ETH/USDT")
SIZES = (1, 7, 4096)

VIEWS = (
    FeatureView("quick", {"price": "price", "mean_3": sma("price", 3), "sum_10s": total("volume", "10s")}),
    FeatureView("slow", {"mid": mid("bid", "ask"), "ema_5": ema("price", 5)}),
    FeatureView("bars", {"close": "close", "trades": "trades"}, clock="1s"),
)


# Blocks -----------------------------------------------------------------------------------------------------------------------


def trade(key: Key = BTC, at: float = 0.0, **other: Any) -> dict[str, Any]:
    """A trade `at` seconds after START, received at once."""
    return {
        "key": key,
        "kind": IS_TRADE,
        "timestamp": START + round(at * SECOND),
        "price": 100.0,
        "volume": 1.0,
        **other,
    }


def quote(key: Key = BTC, at: float = 0.0, **other: Any) -> dict[str, Any]:
    """A quote `at` seconds after START, received at once."""
    both = {"price": 99.0, "volume": 1.0, "ask": 101.0, "ask_volume": 2.0}
    return {"key": key, "kind": IS_QUOTE, "timestamp": START + round(at * SECOND), **both, **other}


def trades(count: int, key: Key = BTC, *, step: float = 0.25, first_id: int = 1) -> list[dict[str, Any]]:
    """Trades `step` seconds apart, with prices that go up and down, volumes and sides that differ, and ids without a gap."""
    return [
        trade(
            key,
            i * step,
            price=100.0 + 3.0 * np.sin(i / 5.0) + i % 3,
            volume=1.0 + i % 4,
            side=1 - i % 3,
            trade_id=first_id + i,
        )
        for i in range(count)
    ]


def block_of(keys: Keys, rows: Sequence[Mapping[str, Any]]) -> Block:
    """Rows as `trade` and `quote` make them, in a block."""

    def column(name: str, kind: Any, default: Any) -> npt.NDArray[Any]:
        return np.array([row.get(name, default) for row in rows], kind)

    return Block(
        key=np.array([keys.code(row["key"]) for row in rows], np.int32),
        kind=column("kind", np.uint8, IS_TRADE),
        timestamp=column("timestamp", np.int64, START),
        received=np.array([row.get("received", row["timestamp"]) for row in rows], np.int64),
        price=column("price", np.float64, np.nan),
        volume=column("volume", np.float64, np.nan),
        side=column("side", np.int8, 0),
        ask=column("ask", np.float64, np.nan),
        ask_volume=column("ask_volume", np.float64, np.nan),
        trade_id=column("trade_id", np.int64, NO_ID),
        late=column("late", np.uint8, 0),
    )


@cache
def recorded() -> tuple[Keys, Block]:
    """The 6,000 trades of BTC/USDT and ETH/USDT in the fixtures and every eighth of their quotes, in one order: 9,285 rows."""
    keys = Keys()
    quotes, trades = ([*open_source(path).blocks(keys)] for path in (QUOTES, TRADES))
    few = Block.concatenate(quotes).take(np.arange(0, sum(map(len, quotes)), 8))
    return keys, Block.concatenate(list(merge([iter([few]), iter(trades)])))


def cut(block: Block, size: int) -> Iterator[Block]:
    """A block in pieces of `size` rows."""
    for start in range(0, len(block), size):
        yield block.take(slice(start, start + size))


# Plugins ----------------------------------------------------------------------------------------------------------------------

Answer = Callable[[Any], Any]


class Listener(Strategy):
    """Notes all it hears, and answers with what it is told to. Made by `listener`."""

    def __init__(self, answer: Answer | None = None) -> None:
        super().__init__()
        self.heard: list[Any] = []
        self.answer = answer

    def hear(self, event: Any) -> Iterable[Any] | None:
        self.heard.append(event.copy() if isinstance(event, FeatureEvent) else event)
        return None if self.answer is None else self.answer(event)

    def on_event(self, event: Any) -> Iterable[Any] | None:
        return self.hear(event)

    on_features = on_tick = on_quote = on_gap = on_feed_status = on_event


def listener(*topics: str | type, name: str = "listener", answer: Answer | None = None, late: bool = False) -> Listener:
    """A plugin that hears topics."""
    kind = type(name, (Listener,), {"name": name, "subscribes": list(topics), "late": late})
    made: Listener = kind(answer)
    return made


def signal(event: Any, value: float = 1.0) -> Signal:
    """A signal as a plugin gives it: the engine completes name and times."""
    return Signal("", event.exchange, event.symbol, value, "", 0, 0)


def failing(event: Any) -> Iterable[Any]:
    """What a broken handler answers."""
    raise ValueError(f"cannot stand {type(event).__name__}")


# Folds ------------------------------------------------------------------------------------------------------------------------


class Run:
    """A fold with what it reported."""

    def __init__(
        self,
        *strategies: Any,
        views: tuple[FeatureView, ...] | None = VIEWS,
        bus_limit: int = 10_000,
        ring_rows: int = 512,
        window_ticks_max: int = 1 << 20,
        seed: int = 0,
    ) -> None:
        self.reported: list[Any] = []
        config = Config(
            engine=EngineConfig(seed=seed, bus_limit=bus_limit),
            ingress=IngressConfig(),
            features=FeaturesConfig(window_ticks_max=window_ticks_max),
            store=StoreConfig(ring_rows=ring_rows, block_rows=ring_rows),
        )
        self.fold: Fold = build_fold(config, strategies, views=views, digests=True, report=self.reported.append)

    def push(self, rows: Sequence[Mapping[str, Any]] | Block, size: int | None = None) -> Run:
        """Fold rows, `size` at a time."""
        block = rows if isinstance(rows, Block) else block_of(self.fold.keys, rows)
        for part in cut(block, size or max(len(block), 1)):
            self.fold.push(part)
        return self

    def push_recorded(self, size: int, first: int = 0, last: int | None = None) -> Run:
        """Fold the fixture, `size` rows at a time."""
        self.fold.keys, block = recorded()
        return self.push(block.take(slice(first, last)), size)

    def of(self, kind: type, strategy: str | None = None) -> list[Any]:
        """What was reported of a kind; of signals, those of one strategy."""
        found: list[Any] = [event for event in self.reported if type(event) is kind]
        return [event for event in found if strategy is None or event.strategy == strategy]

    def troubles(self) -> list[tuple[str, str]]:
        """(kind, plugin) of each failure, parking and resumption, in order."""
        kinds = HandlerFailed, Parked, Resumed
        return [(type(event).__name__, event.actor) for event in self.reported if isinstance(event, kinds)]

    def digest(self) -> dict[str, str]:
        """All digests but that of the state, which holds the plugins' own."""
        return {name: digest for name, digest in self.fold.digest().items() if name != "state"}


# The command ------------------------------------------------------------------------------------------------------------------


def environment(**changes: str) -> dict[str, str]:
    """The environment of a subprocess: ours without its TICKFOLD_ settings, but for where compiled programs lie.

    And without the size of our terminal, which a process that has one of its own would take for that one's.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TICKFOLD_") or k == "TICKFOLD_CACHE_DIR"}
    for name in ("COLUMNS", "LINES"):
        kept.pop(name, None)
    return {**kept, "NO_COLOR": "1", **changes}
