"""A model that only notes what it is asked: the rows that River gets when it is measured alone are those that the fold gives it."""

from __future__ import annotations

from typing import Any

Asked = list[tuple[dict[str, float], Any]]
"""(features, None) where a prediction was asked for, (features, label) where there was something to learn."""


class Overheard:
    """Has River's methods of a classifier. `asked` is all that it was asked, in order."""

    def __init__(self) -> None:
        self.asked: Asked = []

    def predict_proba_one(self, x: dict[str, float]) -> dict[bool, float]:
        self.asked.append((dict(x), None))
        return {False: 0.5, True: 0.5}

    def predict_one(self, x: dict[str, float]) -> bool:
        return max(self.predict_proba_one(x)) is False

    def learn_one(self, x: dict[str, float], y: bool) -> None:
        self.asked.append((dict(x), y))
