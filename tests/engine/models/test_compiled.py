"""Compiled learners beside River 0.26 on the same rows, in the same order, and what they do where River breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from engine.errors import ConfigError
from engine.models.compiled import LEARNERS, CompiledModel, fitting, learner_of
from engine.models.spec import ON_TICKS

LTC = Path(__file__).parents[2] / "data" / "binance_20250621_ltc_trades.parquet"
EQUAL = 1e-9
Rows = list[tuple[dict[str, float], Any]]


# Rows -------------------------------------------------------------------------------------------------------------------------


def drawn(
    label: Callable[[npt.NDArray[np.float64], np.random.Generator], Any], count: int = 1_500, seed: int = 1
) -> Rows:
    """Rows of five features of very different sizes, one of them constant, one that drifts; labels made from them."""
    rng = np.random.default_rng(seed)
    found = []
    for at in range(count):
        plain = rng.standard_normal(5)
        x = plain * (1.0, 1e-6, 1e4, 0.0, 1.0) + (0.0, 0.0, 1e5, 7.0, at / 100.0)
        found.append((dict(zip("abcde", x.tolist(), strict=True)), label(plain, rng)))
    return found


@cache
def recorded() -> tuple[list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Names and rows of the built-in models' features over recorded trades, and the log return over the next sixty trades."""
    from store import compute

    ticks = pq.read_table(LTC)
    views: dict[str, list[str]] = {}
    for name in ON_TICKS:
        view, _, feature = name.partition(":")
        if view != "market":  # there are no quotes in the recording
            views.setdefault(view, []).append(feature)
    tables = {view: compute(view, ticks) for view in views}
    names = [f"{view}:{feature}" for view, features in views.items() for feature in features]
    rows = np.column_stack(
        [tables[view][feature].to_numpy() for view, features in views.items() for feature in features]
    )
    price = compute("market", ticks)["price"].to_numpy()
    labels = np.full(len(rows), np.nan)
    labels[:-60] = np.log(price[60:] / price[:-60])
    usable = np.isfinite(rows).all(axis=1) & np.isfinite(labels)
    return names, rows[usable], labels[usable]


def recorded_rows(label: Callable[[float], Any]) -> Rows:
    names, rows, labels = recorded()
    return [(dict(zip(names, x, strict=True)), label(y)) for x, y in zip(rows.tolist(), labels.tolist(), strict=True)]


def three_of(moved: float) -> int:
    return 2 if moved > 1e-4 else 0 if moved < -1e-4 else 1


def river(kind: str, lr: float, **parameters: Any) -> Any:
    from river import linear_model, optim, preprocessing

    last = {
        "scaled_logistic": linear_model.LogisticRegression,
        "scaled_softmax": linear_model.SoftmaxRegression,
        "scaled_linear": linear_model.LinearRegression,
    }[kind]
    return preprocessing.StandardScaler() | last(optim.SGD(lr), **parameters)


def require_equal_to_river(ours: CompiledModel, theirs: Any, rows: Iterable[tuple[Any, Any]]) -> int:
    """Predict, compare, learn; return the rows on which the labels agreed."""
    agreed = 0
    for at, (x, y) in enumerate(rows):
        if ours.learner.is_class:
            said, expected = ours.predict_proba_one(x), theirs.predict_proba_one(x)
            assert said.keys() == expected.keys(), f"row {at}"
            for label, probability in said.items():
                assert probability == pytest.approx(expected[label], abs=EQUAL), f"row {at}, {label}"
            likeliest = ours.predict_one(x)
            assert likeliest == theirs.predict_one(x), f"row {at}"
            agreed += likeliest == y
        else:
            assert ours.predict_one(x) == pytest.approx(theirs.predict_one(x), rel=EQUAL, abs=EQUAL), f"row {at}"
        ours.learn_one(x, y)
        theirs.learn_one(x, y)
    return agreed


# Equal to River ---------------------------------------------------------------------------------------------------------------


def test_phishing_comes_out_as_with_river() -> None:
    from river import datasets

    model = CompiledModel({"algorithm": "scaled_logistic", "lr": 0.005})
    agreed = require_equal_to_river(model, river("scaled_logistic", 0.005), datasets.Phishing())
    assert agreed / 1_250 == pytest.approx(0.8872, abs=1e-4)


def test_image_segments_come_out_as_with_river_while_their_seven_classes_appear() -> None:
    from river import datasets

    model = CompiledModel({"algorithm": "scaled_softmax", "lr": 0.01})
    rows = datasets.ImageSegments().take(1_500)  # type: ignore[no-untyped-call]
    agreed = require_equal_to_river(model, river("scaled_softmax", 0.01), rows)
    assert agreed > 1_000
    assert model.outputs == 7


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"l2": 0.02},
        {"intercept_lr": 0.2, "clip_gradient": 0.3},
        {"intercept_lr": 0.0},
    ],
)
def test_logistic_regression_equals_rivers(parameters: dict[str, float]) -> None:
    def label(x: npt.NDArray[np.float64], rng: np.random.Generator) -> bool:
        return bool(x[0] - 2.0 * x[1] + 0.5 * x[4] + rng.standard_normal() > 0.3)

    model = CompiledModel({"algorithm": "scaled_logistic", "lr": 0.05, **parameters})
    require_equal_to_river(model, river("scaled_logistic", 0.05, **parameters), drawn(label))


def test_logits_beyond_every_shortcut_equal_rivers() -> None:
    """A learning rate that lets weights run until the sigmoid saturates: both tails of the gradient, and 0 and 1."""
    model = CompiledModel({"algorithm": "scaled_logistic", "lr": 1.0, "intercept_lr": 1.0})
    theirs = river("scaled_logistic", 1.0, intercept_lr=1.0)
    rows = drawn(lambda x, rng: bool(x[0] > 0.0) != (rng.random() < 0.02), 1_000)
    rows += [({"a": size, "b": 0.0, "c": 0.0, "d": 7.0, "e": 0.0}, size < 0.0) for size in (60.0, -60.0, 15.0, -15.0)]
    require_equal_to_river(model, theirs, rows)


@pytest.mark.parametrize("parameters", [{}, {"l2": 0.02}])
def test_softmax_regression_equals_rivers_with_outputs_given_once_all_classes_were_seen(
    parameters: dict[str, float],
) -> None:
    rows = drawn(lambda x, _: int(x[0] > 0.4) + int(x[1] + x[4] > 0.0))
    model = CompiledModel({"algorithm": "scaled_softmax", "lr": 0.05, **parameters}, tuple("abcde"), 3)
    theirs = river("scaled_softmax", 0.05, **parameters)
    seen: set[int] = set()
    for x, y in rows:
        said, expected = model.predict_proba_one(x), theirs.predict_proba_one(x)
        if seen:
            assert said == pytest.approx({0: 0.0, 1: 0.0, 2: 0.0} | expected, abs=EQUAL)
        else:
            assert said == {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}
        seen.add(y)
        model.learn_one(x, y)
        theirs.learn_one(x, y)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("parameters", [{}, {"l2": 0.02}, {"intercept_lr": 0.1, "clip_gradient": 1.5}])
def test_linear_regression_without_clips_equals_rivers(parameters: dict[str, float]) -> None:
    rows = drawn(lambda x, rng: float(3.0 + x[0] - 2.0 * x[1] + rng.standard_t(3)))
    free = {"clip_z": 0, "clip_prediction": 0}
    model = CompiledModel({"algorithm": "scaled_linear", "lr": 0.01, **parameters, **free})
    require_equal_to_river(model, river("scaled_linear", 0.01, **parameters), rows)


def test_clips_change_nothing_on_tame_rows_once_the_scaler_has_seen_some() -> None:
    """Two rows are no measure of a deviation: the third may be twenty away, so the first predictions are clipped. Learning is not."""
    rows = drawn(lambda x, rng: float(1.0 + 0.5 * x[0] - x[1] + 0.1 * rng.standard_normal()))
    tame = [(x, y) for x, y in rows if abs(x["a"]) < 3.0]
    ours, theirs = CompiledModel({"algorithm": "scaled_linear", "lr": 0.005}), river("scaled_linear", 0.005)
    for x, y in tame[:100]:
        ours.learn_one(x, y)
        theirs.learn_one(x, y)
    require_equal_to_river(ours, theirs, tame[100:])


def test_recorded_tick_features_come_out_as_with_river() -> None:
    up = recorded_rows(lambda moved: moved > 0.0)
    require_equal_to_river(
        CompiledModel({"algorithm": "scaled_logistic", "lr": 0.005}), river("scaled_logistic", 0.005), up
    )
    three = recorded_rows(three_of)
    require_equal_to_river(
        CompiledModel({"algorithm": "scaled_softmax", "lr": 0.005}), river("scaled_softmax", 0.005), three
    )
    values = recorded_rows(lambda moved: 1e4 * moved)
    free = {"clip_z": 0, "clip_prediction": 0}
    require_equal_to_river(
        CompiledModel({"algorithm": "scaled_linear", "lr": 0.001, **free}), river("scaled_linear", 0.001), values
    )


# Where River breaks -----------------------------------------------------------------------------------------------------------

DAMAGE = (np.nan, np.inf, -np.inf, 1e101, -1e300)
ALL = [
    ({"algorithm": "scaled_logistic", "lr": 0.05}, 2),
    ({"algorithm": "scaled_softmax", "lr": 0.05}, 3),
    ({"algorithm": "scaled_linear", "lr": 0.05}, 1),
    ({"algorithm": "scaled_linear", "lr": 0.5, "clip_z": 0, "clip_prediction": 0}, 1),
    ({"algorithm": "scaled_linear", "lr": 0.5, "optimizer": "nlms", "l2": 0.001}, 1),
]
each = pytest.mark.parametrize(("algorithm", "outputs"), ALL, ids=lambda value: str(value)[14:40])


def made(algorithm: dict[str, Any], outputs: int, features: int = 4) -> CompiledModel:
    return CompiledModel(algorithm, tuple(f"f{at}" for at in range(features)), outputs)


@each
def test_what_is_not_finite_never_changes_the_state(algorithm: dict[str, Any], outputs: int) -> None:
    model = made(algorithm, outputs)
    rng = np.random.default_rng(5)
    for _ in range(50):
        model.learn_row(rng.standard_normal(4), float(rng.integers(0, outputs)))
    before = model.arrays()["state"].tobytes()
    for bad in DAMAGE:
        for at in range(4):
            row = rng.standard_normal(4)
            row[at] = bad
            assert not model.learn_row(row, 0.0)
            assert np.isnan(model.predict_row(row)).all()
        assert not model.learn_row(rng.standard_normal(4), bad)
    if outputs > 1:
        assert not model.learn_row(rng.standard_normal(4), float(outputs))
        assert not model.learn_row(rng.standard_normal(4), -1.0)
    assert model.arrays()["state"].tobytes() == before
    assert model.learned == 50


@each
def test_no_size_of_numbers_makes_a_state_that_is_not_finite(algorithm: dict[str, Any], outputs: int) -> None:
    model = made(algorithm, outputs)
    rng = np.random.default_rng(6)
    sizes = np.array([0.0, 5e-324, 1e-160, 1e-8, 1.0, 1e8, 1e99, 1e100])
    for at in range(4_000):
        plain = rng.choice(sizes, 4) * rng.choice((-1.0, 1.0), 4)
        row = plain if at % 500 < 250 else rng.standard_t(1.0, 4) * 1e90  # Cauchy: no variance, no mean
        label = float(rng.integers(0, outputs)) if outputs > 1 else float(rng.choice(sizes) * rng.choice((-1.0, 1.0)))
        said = model.predict_row(row)
        if np.abs(row).max() <= 1e100:
            assert np.isfinite(said).all(), f"row {at}"
        model.learn_row(row, label)
    assert model.learned > 3_000
    assert np.isfinite(model.arrays()["state"]).all()


@pytest.mark.parametrize("optimizer", ["sgd", "nlms"])
def test_heavy_tails_on_which_rivers_regression_explodes_are_survived(optimizer: str) -> None:
    rng = np.random.default_rng(9)
    rows = rng.standard_t(1.2, (3_000, 30))
    rows[:, 1:] = rows[:, :1] + 0.1 * rows[:, 1:]  # features that jump together, as those of one price do
    labels = 0.5 * np.clip(rows[:, 0], -3.0, 3.0) + rng.standard_normal(3_000)
    ours = CompiledModel({"algorithm": "scaled_linear", "lr": 0.01, "optimizer": optimizer})
    theirs = river("scaled_linear", 0.01)
    errors, worst = [], 0.0
    for x, y in zip(rows.tolist(), labels.tolist(), strict=True):
        named = {str(at): value for at, value in enumerate(x)}
        errors.append((ours.predict_one(named) - y) ** 2)
        worst = max(worst, abs(theirs.predict_one(named)))
        ours.learn_one(named, y)
        theirs.learn_one(named, y)
    assert worst > 1e8, "the rows no longer show what they are for"
    assert np.mean(errors[1_000:]) < 3.0 * np.var(labels)


# Declared by configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        ({"algorithm": "scaled_logit"}, "algorithm = 'scaled_logit'.*did you mean scaled_logistic"),
        ({}, "algorithm = None: expected one of scaled_logistic, scaled_softmax, scaled_linear"),
        (
            {"algorithm": "scaled_logistic", "l_r": 0.1},
            r"algorithm\.l_r: scaled_logistic has no such .*did you mean lr",
        ),
        ({"algorithm": "scaled_logistic", "lr": 0.0}, r"algorithm\.lr = 0\.0: expected a number > 0 and <= 1"),
        ({"algorithm": "scaled_logistic", "lr": True}, r"algorithm\.lr = True: expected a number"),
        ({"algorithm": "scaled_softmax", "lr": "fast"}, r"algorithm\.lr = 'fast': expected a number"),
        ({"algorithm": "scaled_softmax", "lr": float("nan")}, r"algorithm\.lr = nan: expected a number"),
        ({"algorithm": "scaled_linear", "l2": -0.1}, r"algorithm\.l2 = -0\.1: expected a number >= 0 and <= 1"),
        ({"algorithm": "scaled_linear", "optimizer": "nlm"}, r"optimizer = 'nlm': .*sgd, nlms; did you mean nlms"),
        ({"algorithm": "scaled_linear", "optimizer": ["sgd"]}, r"optimizer = \['sgd'\]: expected one of sgd, nlms"),
    ],
)
def test_what_no_learner_has_is_refused_by_name(algorithm: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        learner_of(algorithm)


@pytest.mark.parametrize(
    ("name", "outputs", "is_class", "said"),
    [
        ("scaled_logistic", 3, True, "predicts 2 classes, the target is 3 classes: expected one of scaled_softmax"),
        (
            "scaled_softmax",
            1,
            False,
            "predicts 2 to 1024 classes, the target is a value: expected one of scaled_linear",
        ),
        ("scaled_linear", 2, True, "predicts a value, .* 2 classes: expected one of scaled_logistic, scaled_softmax"),
    ],
)
def test_a_learner_that_does_not_fit_the_target_is_refused(name: str, outputs: int, is_class: bool, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fitting({"algorithm": name}, outputs, is_class)


def test_every_default_is_in_its_own_range() -> None:
    for name, learner in LEARNERS.items():
        assert learner.name == name
        spelled_out = {key: parameter.default for key, parameter in learner.parameters.items()}
        assert learner_of({"algorithm": name, **spelled_out}) == learner_of({"algorithm": name})


def test_intercepts_learn_how_frequent_classes_are_where_standardised_features_cannot() -> None:
    random = np.random.default_rng(3)
    rows, labels = random.normal(size=(20_000, 2)), random.choice(3, 20_000, p=[0.1, 0.7, 0.2])
    said = {}
    for rate in (0.0, 0.005):
        model = CompiledModel({"algorithm": "scaled_softmax", "lr": 0.001, "intercept_lr": rate}, ("a", "b"), 3)
        for row, label in zip(rows, labels, strict=True):
            model.learn_row(row, float(label))
        said[rate] = model.predict_row(np.zeros(2))
    assert said[0.0] == pytest.approx([1 / 3] * 3, abs=0.02)
    assert said[0.005] == pytest.approx([0.1, 0.7, 0.2], abs=0.05)
