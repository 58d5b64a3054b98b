"""A strategy plugin: signal when the price leaves the range of the last 15 minutes on heavy volume.

Run it: TICKFOLD_STRATEGIES__RUN=examples/03_breakout.py .venv/bin/tickfold replay
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.events import FeatureEvent, Signal
from strategies import Strategy


class Breakout(Strategy):
    """Signals +1 at a new high, -1 at a new low, of trades that are `volume` times the usual size."""

    subscribes = ["derived", "market"]

    class Parameters(msgspec.Struct, frozen=True):
        volume: float = 3.0

    class State(msgspec.Struct):
        ranges: dict[str, tuple[float, float]] = {}  # by "exchange symbol": lowest and highest before this trade
        price: dict[str, float] = {}

    def on_features(self, event: FeatureEvent) -> Iterator[Signal]:
        """Remember the price of `market`; decide on `derived`, which comes after it for each trade."""
        key = f"{event.exchange} {event.symbol}"
        if event.view == "market":
            self.state.price[key] = event["price"]
            return
        before = self.state.ranges.get(key)
        self.state.ranges[key] = event["support_15m"], event["resistance_15m"]
        if before is None or not event["volume_ratio"] > self.parameters.volume:
            return
        price = self.state.price[key]
        if price > before[1]:
            yield self.signal(event, +1.0, f"above {before[1]:.6g}")
        elif price < before[0]:
            yield self.signal(event, -1.0, f"below {before[0]:.6g}")
