"""Features of whole tables: the same ingress and the same compiled program as in the daemon, a million ticks at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.block import Block, Keys
from engine.config import Config
from engine.errors import ConfigError
from engine.ingress import Ingress
from store.builtin import resolve
from store.layout import STAMPS
from store.program import program_of
from store.ring import RECEIVED, SEQUENCE, TIMESTAMP, Lane
from store.schema import FeatureView
from store.tables import to_block

CHUNK_ROWS = (
    1 << 16
)  # what the ingress writes about a chunk is still in the processor's cache when the program reads it
DEFAULTS = Config()

Part: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Stamps (STAMPS x rows) and values (features x rows)."""


def compute(
    views: str | FeatureView | Sequence[str | FeatureView],
    ticks: pa.Table,
    quotes: pa.Table | None = None,
    *,
    max_ahead_ns: int = DEFAULTS.ingress.max_ahead_ns,
    not_contiguous: tuple[str, ...] = DEFAULTS.ingress.not_contiguous,
    window_ticks_max: int = DEFAULTS.features.window_ticks_max,
) -> pa.Table:
    """Return the features of `views`, one row an emission, in the order of the ticks.

    views: names of built-in ones, or FeatureViews, all of one clock. ticks, quotes: tables as INTERFACES names their columns; of
    equal `received` a quote comes before a trade. Columns of the result: timestamp, received (int64 ns), exchange, symbol, then
    the features (float64, NaN while undefined). Ticks that the ingress refuses, drops or finds late give no row.

    Raises ConfigError for views of different clocks or with a feature of one name, StoreError for tables that are not as expected.
    """
    found = resolve((views,) if isinstance(views, (str, FeatureView)) else tuple(views))
    clocks = {view.name: view.ticking for view in found}
    if len(set(clocks.values())) > 1:
        raise ConfigError(
            f"compute: expected views of one clock, found {', '.join(f'{name} ({clock})' for name, clock in clocks.items())}"
        )
    names = [name for view in found for name in view.features]
    if twice := sorted(name for name in dict.fromkeys(names) if names.count(name) > 1):
        raise ConfigError(f"compute: feature {', '.join(twice)} is in more than one of the views {', '.join(clocks)}")
    program = program_of(found)
    keys = Keys()
    trades = to_block(ticks, keys, "ticks", quotes=False)
    asks = None if quotes is None else to_block(quotes, keys, "quotes", quotes=True)
    parts: list[Part] = []
    quotes_of = {} if asks is None else {code: asks.take(rows) for code, rows in _by_key(asks.key)}
    for code, rows in _by_key(trades.key):
        ingress = Ingress(max_ahead_ns=max_ahead_ns, not_contiguous=not_contiguous)
        ingress.open([keys[code][0]])
        own = trades if isinstance(rows, slice) else trades.take(rows)
        origin = None if isinstance(rows, slice) else rows
        if code in quotes_of:
            own, origin = _with_quotes(own, np.arange(len(own)) if origin is None else origin, quotes_of[code])
        parts.append(_run(Lane(program, keys[code], 0, len(own), window_ticks_max), ingress, own, origin))
    return _table(ticks, names, parts)


def _by_key(codes: npt.NDArray[np.int32]) -> list[tuple[int, slice | npt.NDArray[np.intp]]]:
    """(key, its rows in order); all rows as a slice where there is one key only."""
    if not len(codes):
        return []
    if codes.min() == codes.max():
        return [(int(codes[0]), slice(None))]
    order = np.argsort(codes, kind="stable")
    present = np.flatnonzero(np.bincount(codes))
    ends = np.searchsorted(codes[order], present, side="right").tolist()
    return [(int(code), order[first:end]) for code, first, end in zip(present, [0, *ends[:-1]], ends, strict=True)]


def _with_quotes(trades: Block, origin: npt.NDArray[np.intp], quotes: Block) -> tuple[Block, npt.NDArray[np.intp]]:
    """Merge one key's trades and quotes by `received`, quotes first, each in its own order."""
    both = Block.concatenate([quotes, trades])
    # A source is read in its own order, so a row that steps back in time stays behind the one before it.
    received = np.concatenate([np.maximum.accumulate(quotes.received), np.maximum.accumulate(trades.received)])
    order = np.argsort(received, kind="stable")
    return both.take(order), np.concatenate([np.full(len(quotes), -1), origin])[order]


def _run(lane: Lane, ingress: Ingress, block: Block, origin: npt.NDArray[np.intp] | None) -> Part:
    """Fold one key's rows, chunk by chunk. In place of a sequence, each row keeps the number of the tick that it came from.

    `origin` has these numbers; None: they are those of the rows.
    """
    zeros = np.zeros(min(CHUNK_ROWS, len(block)), np.int32)
    for start in range(0, len(block), CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, len(block))
        part = block.take(slice(start, stop))
        admitted = ingress.admit(part.with_key(zeros[: len(part)]))
        numbers = np.arange(start, stop) if origin is None else origin[start:stop]
        columns = (
            admitted.outcome, part.timestamp, admitted.received, numbers, part.price, part.volume, part.side, part.ask, part.ask_volume,
        )  # fmt: skip
        lane.run(columns)
    count = lane.position(0)
    return lane.stamps(0, count), lane.table(0)[STAMPS:, :count]


def _table(ticks: pa.Table, names: list[str], parts: list[Part]) -> pa.Table:
    """Put the rows of all keys into the order of the ticks; rows of a single key are in it already, and are not copied."""
    if len(parts) == 1:
        stamps, values = parts[0]
    else:
        stamps = np.concatenate([stamps for stamps, _ in parts], axis=1) if parts else np.empty((STAMPS, 0), np.int64)
        values = np.concatenate([values for _, values in parts], axis=1) if parts else np.empty((len(names), 0))
        order = np.argsort(stamps[SEQUENCE], kind="stable")
        stamps, values = stamps[:, order], values[:, order]
    keys = ticks.select(["exchange", "symbol"])
    if stamps.shape[1] != ticks.num_rows:
        keys = keys.take(pa.array(stamps[SEQUENCE]))
    columns = [
        pa.array(stamps[TIMESTAMP]),
        pa.array(stamps[RECEIVED]),
        *keys.columns,
        *(pa.array(row) for row in values),
    ]
    return pa.table(columns, names=["timestamp", "received", "exchange", "symbol", *names])
