"""Seeded random-walk ticks of one key: as an Arrow table and as blocks for the fold, the same numbers.

Prices start at 60,000 and move by about one basis point a tick, rounded to cents; volumes are log-normal, rounded to 1e-5; gaps in
time are exponential. Trade ids are contiguous, nothing is late or refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.block import IS_TRADE, Block, Keys

EXCHANGE, SYMBOL = "binance", "BTC/USDT"
START_NS = 1_700_000_000_000_000_000
TICKS_A_SECOND = 20.0
BATCH_ROWS = 1 << 16  # what the Parquet source reads at a time, too


@dataclass(frozen=True)
class Ticks:
    """Trades of one key, column by column."""

    timestamp: npt.NDArray[np.int64]
    received: npt.NDArray[np.int64]
    price: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    side: npt.NDArray[np.int8]
    trade_id: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.price)

    def head(self, count: int) -> Ticks:
        """Return the first `count`."""
        return Ticks(*(getattr(self, name)[:count].copy() for name in self.__dataclass_fields__))

    def table(self) -> pa.Table:
        """Return a tick table as INTERFACES names its columns."""
        count = len(self)
        return pa.table(
            {
                "timestamp": self.timestamp,
                "received": self.received,
                "exchange": pa.repeat(EXCHANGE, count),
                "symbol": pa.repeat(SYMBOL, count),
                "price": self.price,
                "volume": self.volume,
                "side": self.side,
                "trade_id": self.trade_id,
            }
        )

    def block(self, keys: Keys) -> Block:
        """Return all as one block."""
        count, nothing = len(self), np.empty(0)
        return Block(
            key=np.full(count, keys.code((EXCHANGE, SYMBOL)), np.int32),
            kind=np.full(count, IS_TRADE, np.uint8),
            timestamp=self.timestamp,
            received=self.received,
            price=self.price,
            volume=self.volume,
            side=self.side,
            ask=nothing,
            ask_volume=nothing,
            trade_id=self.trade_id,
            late=np.zeros(count, np.uint8),
        )

    def blocks(self, keys: Keys, rows: int = BATCH_ROWS) -> list[Block]:
        """Return blocks of so many rows; each owns its columns."""
        whole = self.block(keys)
        return [whole.take(slice(first, first + rows)) for first in range(0, len(self), rows)]


def walk(count: int, seed: int = 20241123) -> Ticks:
    """Return `count` ticks, the same for the same seed."""
    random = np.random.default_rng(seed)
    steps = random.normal(0.0, 1e-4, count)
    timestamp = START_NS + np.cumsum(random.exponential(1e9 / TICKS_A_SECOND, count)).astype(np.int64)
    received = np.maximum.accumulate(timestamp + random.integers(2_000_000, 10_000_000, count))
    return Ticks(
        timestamp=timestamp,
        received=received,
        price=np.round(60_000.0 * np.exp(np.cumsum(steps)), 2),
        volume=np.maximum(np.round(random.lognormal(-4.0, 1.2, count), 5), 1e-5),
        side=np.where(random.random(count) < 0.5, 1, -1).astype(np.int8),
        trade_id=np.arange(1, count + 1),
    )


class MemorySource:
    """Prebuilt blocks as a replay source: what Parquet costs is left out."""

    name = "memory"

    def __init__(self, blocks: list[Block]) -> None:
        self._blocks = blocks

    def rows(self) -> int | None:
        return sum(len(block) for block in self._blocks)

    def blocks(self, keys: Keys) -> Iterator[Block]:
        """Yield the blocks; they were built under the same numbers, for there is one key."""
        keys.code((EXCHANGE, SYMBOL))
        yield from self._blocks

    def notes(self) -> list[str]:
        return []
