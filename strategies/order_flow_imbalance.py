"""Order-flow imbalance at each trade: follow takers when both their volume and the quote lean the same way.

An example of the form, not of a way to earn money. Quotes can overtake the trade that caused them, so the imbalance of the newest
quote may already hold this trade's effect; a strategy meant for trading would lag it.
"""

from __future__ import annotations

import msgspec

from engine.events import FeatureEvent, Signal
from strategies.base import Strategy


class OrderFlowImbalance(Strategy):
    """Signals +1 or -1 when the lean exceeds `threshold`, 0 when it has gone again."""

    subscribes = ["derived"]

    class Parameters(msgspec.Struct, frozen=True):
        threshold: float = 0.6

    class State(msgspec.Struct):
        position: dict[str, int] = {}  # by "exchange symbol": the last signal

    def on_features(self, event: FeatureEvent) -> list[Signal] | None:
        """Signal when the lean of flow and book changes.

        It returns rather than yields: it hears every trade, and a generator for each, mostly of nothing, takes as long as all the rest.
        """
        flow, book = event["trade_imbalance_1m"], 0.0
        threshold = self.parameters.threshold
        if abs(flow) > threshold:
            # NaN before the first quote and where none has sizes: a comparison with it is false, and no side is taken.
            book = self.features.latest("market", event.exchange, event.symbol)["imbalance"]
        is_long = flow > threshold and book > threshold
        is_short = flow < -threshold and book < -threshold
        position = 1 if is_long else -1 if is_short else 0
        key = f"{event.exchange} {event.symbol}"
        if position == self.state.position.get(key, 0):
            return None
        self.state.position[key] = position
        return [self.signal(event, position, f"takers {flow:+.2f}, book {book:+.2f}")]
