"""A River transformer that clips each feature: behind a scaler, against the heavy tails that make SGD explode."""

from __future__ import annotations

from typing import Any

from river import base


class Clip(base.Transformer):
    """Clips every number to [-limit, limit]; what is no number passes.

    SGD on market features needs it: one z-score of 40 moves the weights of River's linear models so far that the next predictions are
    off by orders of magnitude, and nothing brings them back soon. A target with heavy tails wants {river =
    "preprocessing.TargetStandardScaler", regressor = ...} as well, and what still runs away {river = "preprocessing.PredClipper", ...}.
    """

    def __init__(self, limit: float = 5.0) -> None:
        if not limit > 0.0:
            raise ValueError(f"limit {limit!r}: expected a number above 0")
        self.limit = limit

    def transform_one(self, x: dict[Any, Any]) -> dict[Any, Any]:
        """Return the clipped features, in their order."""
        limit = self.limit
        return {
            name: (limit if value > limit else -limit if value < -limit else value)
            if isinstance(value, int | float)
            else value
            for name, value in x.items()
        }
