"""Compiled models by dict: labels, features, and what is kept of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from engine.errors import ConfigError, ModelError
from engine.models.compiled import CompiledModel

X = {"a": 1.0, "b": -2.0}
Y = {"a": -1.0, "b": 3.0}


def learned(algorithm: str, labels: list[Any], **given: Any) -> CompiledModel:
    model = CompiledModel({"algorithm": algorithm, "lr": 0.1}, **given)
    for at, label in enumerate(labels):
        model.learn_one(X if at % 2 else Y, label)
    return model


def test_before_anything_was_learned_it_says_what_river_says() -> None:
    assert CompiledModel({"algorithm": "scaled_logistic"}).predict_proba_one(X) == {False: 0.5, True: 0.5}
    assert CompiledModel({"algorithm": "scaled_logistic"}).predict_one(X) is False
    assert CompiledModel({"algorithm": "scaled_softmax"}).predict_proba_one(X) == {}
    assert CompiledModel({"algorithm": "scaled_softmax"}).predict_one(X) is None
    assert CompiledModel({"algorithm": "scaled_linear"}).predict_one(X) == 0.0


@pytest.mark.parametrize("labels", [[False, True], [0, 1], [np.bool_(False), np.int64(1)]])
def test_two_classes_are_false_and_true_and_their_numbers(labels: list[Any]) -> None:
    model = learned("scaled_logistic", labels * 20)
    assert model.predict_one(X) is True
    assert model.predict_one(Y) is False
    assert set(model.predict_proba_one(X)) == {False, True}
    with pytest.raises(ModelError, match=r"label 2: expected one of \(False, True\)"):
        model.learn_one(X, 2)


def test_texts_are_numbered_as_they_appear() -> None:
    model = learned("scaled_logistic", ["up", "down"] * 20)
    assert model.classes == ("up", "down")
    assert (model.predict_one(X), model.predict_one(Y)) == ("down", "up")
    with pytest.raises(ModelError, match="label 'flat': it has at most 2 classes"):
        model.learn_one(X, "flat")


def test_classes_are_added_as_they_appear_and_learning_goes_on() -> None:
    model = learned("scaled_softmax", ["b", "a"] * 20)
    before = model.predict_proba_one(X)
    assert list(before) == ["b", "a"]
    model.learn_one({"a": 9.0, "b": 9.0}, "c")
    model.learn_one({"a": 9.0, "b": 9.0}, "d")
    assert (model.outputs, model.classes) == (4, ("b", "a", "c", "d"))
    after = model.predict_proba_one(X)
    assert after["a"] > 0.5
    assert sum(after.values()) == pytest.approx(1.0)
    assert model.learned == 42


def test_a_label_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(ModelError, match=r"label 0\.5: expected a bool, an int or a text"):
        CompiledModel({"algorithm": "scaled_softmax"}).learn_one(X, 0.5)
    with pytest.raises(ModelError, match="predicts a value: it has no probabilities"):
        CompiledModel({"algorithm": "scaled_linear"}).predict_proba_one(X)


def test_features_are_those_of_the_first_row_whatever_the_order_later() -> None:
    model = learned("scaled_linear", [1.0, 2.0])
    assert model.features == ("a", "b")
    assert model.predict_one({"b": -2.0, "extra": 5.0, "a": 1.0}) == model.predict_one(X)
    with pytest.raises(ModelError, match="the row has no feature 'b'; expected a, b"):
        model.predict_one({"a": 1.0})
    with pytest.raises(ModelError, match="expected numbers as features"):
        model.predict_one({"a": "high", "b": 1.0})
    with pytest.raises(ModelError, match=r"expected a row of 2 features, found shape \(3,\)"):
        model.predict_row([1.0, 2.0, 3.0])
    with pytest.raises(ModelError, match="expected the names of the features before the first row"):
        CompiledModel({"algorithm": "scaled_linear"}).predict_row([1.0])
    with pytest.raises(ModelError, match="expected different features, at least one"):
        CompiledModel({"algorithm": "scaled_linear"}, ())


def test_one_feature_is_enough() -> None:
    model = CompiledModel({"algorithm": "scaled_linear", "lr": 0.1, "optimizer": "nlms"})
    for at in range(400):
        model.learn_one({"x": at % 5}, 2.0 * (at % 5))
    assert model.predict_one({"x": 4}) == pytest.approx(8.0, abs=0.1)


def test_a_row_with_nan_is_answered_by_nothing_and_passed_over() -> None:
    for name, labels in (("scaled_logistic", [True, False]), ("scaled_softmax", ["a", "b"])):
        model = learned(name, labels * 5)
        model.learn_one({"a": float("nan"), "b": 1.0}, labels[0])
        assert model.predict_one({"a": float("nan"), "b": 1.0}) is None
        assert model.learned == 10
    model = learned("scaled_linear", [1.0] * 10)
    model.learn_one(X, float("inf"))
    assert np.isnan(model.predict_one({"a": float("inf"), "b": 1.0}))
    assert model.learned == 10


@pytest.mark.parametrize(
    ("algorithm", "labels"),
    [
        ("scaled_logistic", [True, False]),
        ("scaled_logistic", ["up", "down"]),
        ("scaled_softmax", ["c", "a", "b"]),
        ("scaled_softmax", [3, 1, 2, 7]),
        ("scaled_linear", [1.0, 2.5]),
    ],
)
def test_what_was_kept_in_an_npz_goes_on_with_the_same_bits(algorithm: str, labels: list[Any]) -> None:
    model = learned(algorithm, labels * 10)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **model.arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        again = CompiledModel.of(model.algorithm, model.features or (), model.outputs, dict(arrays))
    for at, label in enumerate(labels * 3):
        row = X if at % 2 else Y
        assert again.predict_one(row) == model.predict_one(row)
        assert again.predict_row(list(row.values())).tobytes() == model.predict_row(list(row.values())).tobytes()
        again.learn_one(row, label)
        model.learn_one(row, label)
    kept, kept_again = model.arrays(), again.arrays()
    assert {name: array.tobytes() for name, array in kept.items()} == {n: a.tobytes() for n, a in kept_again.items()}
    assert again.classes == model.classes


def test_what_does_not_fit_is_refused() -> None:
    model = learned("scaled_softmax", ["a", "b"])
    with pytest.raises(ModelError, match="state: expected float64"):
        CompiledModel.of(model.algorithm, ("a", "b", "c"), 2, model.arrays())
    with pytest.raises(ModelError, match="labels: expected a JSON list"):
        CompiledModel.of(model.algorithm, ("a", "b"), 2, {**model.arrays(), "labels": np.frombuffer(b"{[", np.uint8)})
    with pytest.raises(ModelError, match="nothing to keep before the first row"):
        CompiledModel({"algorithm": "scaled_softmax"}).arrays()
    with pytest.raises(ConfigError, match="expected one of scaled_softmax"):
        CompiledModel({"algorithm": "scaled_logistic"}, ("a",), 3)
