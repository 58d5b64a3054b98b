"""Arrow tables of ticks and quotes to blocks, checked: what is missing or of another type is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.block import IS_QUOTE, IS_TRADE, NO_ID, Block, Keys
from engine.errors import StoreError

TICK_COLUMNS = ("timestamp", "received", "exchange", "symbol", "price", "volume", "side", "trade_id")
QUOTE_COLUMNS = ("timestamp", "received", "exchange", "symbol", "bid", "bid_volume", "ask", "ask_volume", "update_id")
OPTIONAL = ("side", "trade_id", "update_id", "late", "bid_volume", "ask_volume")


def is_quotes(names: list[str]) -> bool | None:
    """Whether columns of these names are quotes (True) or ticks (False); None if neither."""
    have = set(names)
    if {"bid", "ask"} <= have:
        return True
    return False if {"price", "volume"} <= have else None


def to_block(table: pa.Table, keys: Keys, where: str, *, quotes: bool | None = None) -> Block:
    """Return the rows of a tick or quote table, in their order. `where` names the table in errors.

    `quotes` says which of the two it must be; None takes either.

    Times are int64 ns or Arrow timestamps. Missing: side is 0, an id none, the size of a quote NaN. A null price or size is NaN,
    which the ingress refuses. Raises StoreError for a missing column, another type, or a null time or key.
    """
    found = is_quotes(table.column_names)
    if quotes is not None and found is not None and found is not quotes:
        raise StoreError(f"{where}: expected {'quotes' if quotes else 'ticks'}, found {'quotes' if found else 'ticks'}")
    quotes = found if quotes is None else quotes
    expected = QUOTE_COLUMNS if quotes else TICK_COLUMNS
    missing = [name for name in expected if name not in OPTIONAL and name not in table.column_names]
    if found is None or quotes is None or missing:
        raise StoreError(
            f"{where}: expected columns {', '.join(expected)}; missing {', '.join(missing) or 'price or bid'}"
        )
    reader = _Reader(table, where)
    count = table.num_rows
    nothing = np.empty(0)
    prices = ("bid", "bid_volume", "ask", "ask_volume") if quotes else ("price", "volume")
    values = [reader.floats(name) for name in prices]
    return Block(
        key=reader.keys(keys),
        kind=np.full(count, IS_QUOTE if quotes else IS_TRADE, np.uint8),
        timestamp=reader.times("timestamp"),
        received=reader.times("received"),
        price=values[0],
        volume=values[1],
        side=np.zeros(count, np.int8) if quotes else reader.sides(),
        ask=values[2] if quotes else nothing,
        ask_volume=values[3] if quotes else nothing,
        trade_id=reader.ids("update_id" if quotes else "trade_id"),
        late=reader.flags("late"),
    )


class _Reader:
    """Columns of one table as numpy arrays, without a copy where the types agree."""

    def __init__(self, table: pa.Table, where: str) -> None:
        self.table = table
        self.where = where

    def column(self, name: str) -> pa.Array:
        column = self.table[name]
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def cast(self, name: str, kind: pa.DataType) -> pa.Array:
        column = self.column(name)
        try:
            return column if column.type == kind else column.cast(kind)
        except pa.ArrowInvalid as error:
            raise StoreError(f"{self.where}: column {name}: expected {kind}, found {column.type}: {error}") from error
        except pa.ArrowNotImplementedError as error:
            raise StoreError(f"{self.where}: column {name}: expected {kind}, found {column.type}") from error

    def times(self, name: str) -> npt.NDArray[np.int64]:
        column = self.column(name)
        if pa.types.is_timestamp(column.type):
            column = self.cast(name, pa.timestamp("ns", column.type.tz)).cast(pa.int64())
        elif not pa.types.is_integer(column.type):
            raise StoreError(
                f"{self.where}: column {name}: expected int64 nanoseconds or an Arrow timestamp, found {column.type}"
            )
        else:
            column = self.cast(name, pa.int64())
        if column.null_count:
            raise StoreError(f"{self.where}: column {name}: expected no nulls, found {column.null_count}")
        return _numpy(column)

    def floats(self, name: str) -> npt.NDArray[np.float64]:
        if name not in self.table.column_names:
            return np.full(self.table.num_rows, np.nan)
        kind = self.table.schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
            raise StoreError(f"{self.where}: column {name}: expected double, found {kind}")
        column = self.cast(name, pa.float64())
        return _numpy(pc.fill_null(column, np.nan) if column.null_count else column)

    def sides(self) -> npt.NDArray[np.int8]:
        if "side" not in self.table.column_names:
            return np.zeros(self.table.num_rows, np.int8)
        column = self.cast("side", pa.int8())
        side = _numpy(pc.fill_null(column, 0) if column.null_count else column)
        if len(side) and (side.min() < -1 or side.max() > 1):
            wrong = int(side[np.abs(side.astype(np.int16)) > 1][0])
            raise StoreError(
                f"{self.where}: column side: expected +1 (the taker bought), -1 (sold) or 0 (unknown), found {wrong}"
            )
        return side

    def ids(self, name: str) -> npt.NDArray[np.int64]:
        if name not in self.table.column_names:
            return np.full(self.table.num_rows, NO_ID)
        column = self.cast(name, pa.int64())
        return _numpy(pc.fill_null(column, NO_ID) if column.null_count else column)

    def flags(self, name: str) -> npt.NDArray[np.uint8]:
        if name not in self.table.column_names:
            return np.zeros(self.table.num_rows, np.uint8)
        column = self.cast(name, pa.bool_())
        return _numpy(pc.fill_null(column, False).cast(pa.uint8()))

    def keys(self, keys: Keys) -> npt.NDArray[np.int32]:
        """Number the key of each row, in the order in which keys first appear."""
        count = self.table.num_rows
        if not count:
            return np.empty(0, np.int32)
        (exchange, exchanges), (symbol, symbols) = self.words("exchange"), self.words("symbol")
        if exchange is None and symbol is None:
            return np.full(count, keys.code((exchanges[0], symbols[0])), np.int32)
        zeros = np.zeros(count, np.int64)
        pairs = (zeros if exchange is None else exchange) * len(symbols) + (zeros if symbol is None else symbol)
        found, first, inverse = np.unique(pairs, return_index=True, return_inverse=True)
        codes = np.empty(len(found), np.int32)
        for at in np.argsort(first, kind="stable").tolist():
            pair = int(found[at])
            codes[at] = keys.code((exchanges[pair // len(symbols)], symbols[pair % len(symbols)]))
        return codes[inverse]

    def words(self, name: str) -> tuple[npt.NDArray[np.int64] | None, list[str]]:
        """Return the code of each row's text and the texts; None for the codes where all rows have the same."""
        column = self.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string_view(column.type):
            column = column.cast(pa.string())
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise StoreError(f"{self.where}: column {name}: expected text, found {column.type}")
        if column.null_count:
            raise StoreError(f"{self.where}: column {name}: expected no nulls, found {column.null_count}")
        if _is_constant(column):
            words, codes = [column[0].as_py()], None
        else:
            encoded = column.dictionary_encode()
            codes, words = (
                encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64),
                encoded.dictionary.to_pylist(),
            )
        if "" in words:
            raise StoreError(f"{self.where}: column {name}: expected text that is not empty")
        return codes, words


def _is_constant(column: pa.Array) -> bool:
    """Whether all texts are the same: a comparison of bytes, several times faster than hashing each text."""
    wide = pa.types.is_large_string(column.type)
    _, offsets_buffer, data_buffer = column.buffers()
    offsets: npt.NDArray[Any] = np.frombuffer(offsets_buffer, np.int64 if wide else np.int32)[
        column.offset : column.offset + len(column) + 1
    ]
    size = int(offsets[1] - offsets[0])
    if int(offsets[-1] - offsets[0]) != size * len(column) or not (np.diff(offsets) == size).all():
        return False
    if size == 0:
        return True
    data = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    return bool((data[size:] == data[:-size]).all())


def _numpy(column: pa.Array) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return found
