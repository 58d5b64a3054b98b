"""A block: some inputs of the market in order, as columns, so that compiled code can take them at once. Live it holds one.

Trades and quotes share the columns: a quote's bid and bid size lie where a trade has price and volume.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.events import Key

NO_ID = int(np.iinfo(np.int64).min)
"""Stands for a trade without an id."""

IS_TRADE, IS_QUOTE = 0, 1


class Keys:
    """Numbers the keys (exchange, symbol) in the order in which they first appear."""

    def __init__(self) -> None:
        self._codes: dict[Key, int] = {}
        self._keys: list[Key] = []

    def code(self, key: Key) -> int:
        """Return the number of a key, a new one for a new key."""
        code = self._codes.get(key)
        if code is None:
            code = self._codes[key] = len(self._keys)
            self._keys.append(key)
        return code

    def find(self, key: Key) -> int | None:
        """Return the number of a key, None if it has none."""
        return self._codes.get(key)

    def __getitem__(self, code: int) -> Key:
        return self._keys[code]

    def __len__(self) -> int:
        return len(self._keys)


class Block(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Columns of equal length, contiguous, never written to. What a row does not have is NaN, 0, NO_ID.

    A struct, because live there is one for each tick: as a dataclass it took 3 us to make.
    """

    key: npt.NDArray[np.int32]  # as `Keys` numbers them
    kind: npt.NDArray[np.uint8]  # IS_TRADE or IS_QUOTE
    timestamp: npt.NDArray[np.int64]  # ns UTC, the exchange's
    received: npt.NDArray[np.int64]  # ns UTC, ours
    price: npt.NDArray[np.float64]  # bid of a quote
    volume: npt.NDArray[np.float64]  # size of the bid
    side: npt.NDArray[np.int8]  # +1 the taker bought, -1 sold, 0 unknown or a quote
    ask: npt.NDArray[np.float64]  # NaN of a trade; an empty column if the block holds no quote
    ask_volume: npt.NDArray[np.float64]
    trade_id: npt.NDArray[np.int64]  # update id of a quote
    late: npt.NDArray[np.uint8]  # 1 for history

    def __len__(self) -> int:
        return len(self.key)

    def columns(self) -> tuple[npt.NDArray[Any], ...]:
        """All columns, in the order of their declaration."""
        return (
            self.key, self.kind, self.timestamp, self.received, self.price, self.volume, self.side, self.ask, self.ask_volume,
            self.trade_id, self.late,
        )  # fmt: skip

    def take(self, rows: slice | npt.NDArray[Any]) -> Block:
        """Return the rows of a slice, a mask or an index array."""
        return Block(*[column[rows] if len(column) else column for column in self.columns()])

    def with_key(self, key: npt.NDArray[np.int32]) -> Block:
        """Return the same rows under other keys."""
        return msgspec.structs.replace(self, key=key)

    @classmethod
    def concatenate(cls, blocks: list[Block]) -> Block:
        """Return blocks one after the other; a missing `ask` column becomes NaN where another block has one."""
        if len(blocks) == 1:
            return blocks[0]
        has_quotes = any(len(block.ask) for block in blocks)

        def column(name: str) -> npt.NDArray[Any]:
            parts: list[npt.NDArray[Any]] = [getattr(block, name) for block in blocks]
            if name in ("ask", "ask_volume"):
                if not has_quotes:
                    return parts[0]
                parts = [p if len(p) else np.full(len(b), np.nan) for p, b in zip(parts, blocks, strict=True)]
            return np.concatenate(parts)

        return cls(*[column(name) for name in cls.__struct_fields__])
