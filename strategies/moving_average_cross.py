"""Moving-average cross on bars of one second: buy when the fast average rises above the slow one, sell when it falls below.

An example of the form, not of a way to earn money. `technical_1s` has the MACD line, which is the fast EMA (12) less the slow one
(26) of the bars' close: the averages cross where it changes its sign.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.events import FeatureEvent, Signal
from strategies.base import Strategy


class MovingAverageCross(Strategy):
    """Signals +1 and -1 at crosses; `margin_bps` of the price must lie between the averages."""

    subscribes = ["technical_1s"]

    class Parameters(msgspec.Struct, frozen=True):
        margin_bps: float = 0.05

    class State(msgspec.Struct):
        side: dict[str, int] = {}  # by "exchange symbol": which average was above at the last cross

    def on_features(self, event: FeatureEvent) -> Iterator[Signal]:
        """Signal when the averages have crossed by more than the margin."""
        if not event.ready:
            return
        distance = event["macd"]
        margin = self.parameters.margin_bps * 1e-4 * event["bollinger_middle"]
        if abs(distance) < margin:
            return
        side = 1 if distance > 0.0 else -1
        key = f"{event.exchange} {event.symbol}"
        if self.state.side.get(key) == side:
            return
        self.state.side[key] = side
        yield self.signal(event, side, f"fast average {'above' if side > 0 else 'below'} slow by {abs(distance):.4g}")
