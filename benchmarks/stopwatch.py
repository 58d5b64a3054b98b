"""A strategy that notes when it hears of each trade: what `bench_live` and `bench_http` give the daemon to run.

A strategy of a user's never looks at the machine's clock; this one is there for nothing else. Moments (CLOCK_MONOTONIC, ns, which all
processes share) go into a mapped file: rows x (at `on_tick`, at `on_features`), the row being the number of the frame that held the trade.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.sender import FIRST_ID, Turns
from engine.events import FeatureEvent, Tick
from strategies import Strategy

VIEW = "derived"
"""The last view that a trade emits: at its row, the rows of all others are there."""


class Stopwatch(Strategy):
    """Hears every trade and its last row of features."""

    subscribes = [Tick, VIEW]  # noqa: RUF012 - the documented way to declare it

    class Parameters(msgspec.Struct, frozen=True):
        path: str
        rows: int
        symbols: tuple[str, ...]

    def __init__(self, parameters: Mapping[str, Any] | None = None) -> None:
        super().__init__(parameters)
        rows = self.parameters.rows
        with Path(self.parameters.path).open("w+b") as file:
            file.truncate(rows * 16)
            self._heard = memoryview(mmap.mmap(file.fileno(), rows * 16)).cast("q")
        for at in range(0, len(self._heard), 512):
            self._heard[at] = 0  # the page is there before it is needed
        turns = Turns(len(self.parameters.symbols))
        self._places = {symbol: turns.places(code) for code, symbol in enumerate(self.parameters.symbols)}
        self._at = 0

    def on_tick(self, event: Tick) -> None:
        assert event.trade_id is not None
        length, places = self._places[event.symbol]
        rounds, rank = divmod(event.trade_id - FIRST_ID, len(places))
        self._at = at = 2 * (rounds * length + places[rank])
        self._heard[at] = time.monotonic_ns()

    def on_features(self, _: FeatureEvent) -> None:
        self._heard[self._at + 1] = time.monotonic_ns()
