"""What algorithms are called where people read it."""

from __future__ import annotations

from typing import Any

import pytest

from engine.models.naming import algorithm_text


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"algorithm": "scaled_logistic", "lr": 0.005}, "scaled_logistic(lr=0.005)"),
        ({"river": "tree.HoeffdingTreeClassifier"}, "HoeffdingTreeClassifier"),
        (
            {"river": ["preprocessing.MinMaxScaler", {"river": "linear_model.LogisticRegression", "l2": 0.1}]},
            "MinMaxScaler | LogisticRegression(l2=0.1)",
        ),
        (
            {
                "river": "ensemble.BaggingClassifier",
                "n_models": 3,
                "model": {
                    "river": ["preprocessing.StandardScaler", {"clip": 5.0}, {"river": "linear_model.Perceptron"}]
                },
            },
            "BaggingClassifier(n_models=3, model=StandardScaler | clip(5) | Perceptron)",
        ),
        ({"river": "compose.Select", "keys": ["view:a", "view:b"]}, "Select(keys=[view:a, view:b])"),
        ({"factory": "models.py:make", "depth": 3}, "models.py:make(depth=3)"),
        ({"river": "optim.X", "map": {"a": 1}, "none": None}, "X(map={a=1}, none=None)"),
        ({}, "{}"),
    ],
)
def test_an_algorithm_is_told_as_one_would_write_it(spec: Any, text: str) -> None:
    assert algorithm_text(spec) == text
