"""Models are built from plain values; what is wrong in them is named, with the nearest that is right."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import ConfigError, EngineError, ModelError
from engine.models import build
from engine.models.build import make_arm
from engine.models.compiled import CompiledArm, CompiledModel
from engine.models.layout import Layout
from engine.models.river_arm import RiverArm
from engine.models.settings import ModelConfig
from engine.models.spec import ModelSpec, resolve_model

RIVER: Any = import_module("river.api")  # partly untyped
cluster = RIVER.cluster
compose = RIVER.compose
ensemble = RIVER.ensemble
linear_model = RIVER.linear_model
optim = RIVER.optim
preprocessing = RIVER.preprocessing

LOGISTIC = {"river": ["preprocessing.StandardScaler", "linear_model.LogisticRegression"]}


def spec_of(algorithm: dict[str, Any], target: str = "up_down") -> ModelSpec:
    return resolve_model(
        "mine", ModelConfig(features=("market:side", "technical:rsi_14"), algorithm=algorithm, target=target)
    )


def arm_of(algorithm: dict[str, Any], target: str = "up_down", seed: int = 0) -> Any:
    spec = spec_of(algorithm, target)
    return make_arm(algorithm, spec, Layout(2, spec.target.outputs, 0, 1), seed)


def test_importing_it_costs_neither_numba_nor_river() -> None:
    code = "import sys, engine.models; print([name for name in ('numba', 'river', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_build_stays_a_function_once_its_module_was_imported() -> None:
    import engine.models
    import engine.models.build
    import engine.models.progressive

    assert callable(engine.models.build)
    assert callable(engine.models.progressive)


def test_an_algorithm_is_compiled() -> None:
    model = build({"algorithm": "scaled_logistic", "lr": 0.05})
    assert isinstance(model, CompiledModel)
    assert model.algorithm["lr"] == 0.05


def test_toml_says_a_pipeline_with_parts_inside_parts() -> None:
    text = """
        river = [
            "preprocessing.StandardScaler",
            {clip = 4.0},
            {river = "linear_model.LogisticRegression", l2 = 0.001, optimizer = {river = "optim.SGD", lr = 0.005}},
        ]
    """
    model = build(tomllib.loads(text))
    scaler, clip, logistic = model.steps.values()
    assert isinstance(scaler, preprocessing.StandardScaler)
    assert clip.transform_one({"a": 9.0, "b": -9.0, "c": 1.0, "d": "text"}) == {
        "a": 4.0,
        "b": -4.0,
        "c": 1.0,
        "d": "text",
    }
    assert isinstance(logistic, linear_model.LogisticRegression)
    assert logistic.l2 == 0.001
    assert isinstance(logistic.optimizer, optim.SGD)
    assert logistic.optimizer.learning_rate == 0.005


def test_clipping_keeps_sgd_from_exploding_on_heavy_tails() -> None:
    draw = np.random.default_rng(2)
    rows = [{"a": float(a), "b": float(b)} for a, b in draw.standard_t(1.2, size=(2_000, 2))]
    targets = [
        max(-1.0, min(1.0, x["a"])) + float(noise) for x, noise in zip(rows, draw.normal(size=2_000), strict=True)
    ]
    linear = {"river": "linear_model.LinearRegression", "optimizer": {"river": "optim.SGD", "lr": 0.01}}
    worst = []
    for steps in (["preprocessing.StandardScaler", linear], ["preprocessing.StandardScaler", {"clip": 5.0}, linear]):
        model = build(steps)
        errors = []
        for x, y in zip(rows, targets, strict=True):
            errors.append(abs(y - model.predict_one(x)))
            model.learn_one(x, y)
        worst.append(max(errors))
    assert worst[1] < 20.0
    assert worst[0] > 50.0


def test_ensembles_hold_models_that_are_specs() -> None:
    model = build({"river": "ensemble.BaggingClassifier", "model": LOGISTIC, "n_models": 3})
    assert isinstance(model, ensemble.BaggingClassifier)
    assert len(model) == 3
    model = build(
        {"river": "ensemble.VotingClassifier", "models": [LOGISTIC, {"river": "tree.HoeffdingTreeClassifier"}]}
    )
    assert [type(one).__name__ for one in model] == ["Pipeline", "HoeffdingTreeClassifier"]


def test_parameters_by_position_go_by_their_name() -> None:
    model = build({"river": "compose.Select", "keys": ["b", "a"]})
    assert isinstance(model, compose.Select)
    assert list(model.transform_one({"a": 1, "b": 2, "c": 3})) == ["a", "b"]


def test_the_name_may_begin_with_river() -> None:
    assert isinstance(build("river.linear_model.LinearRegression"), linear_model.LinearRegression)


def test_an_object_of_river_is_taken_as_it_is() -> None:
    model = cluster.KMeans(seed=1)
    assert build(model) is model
    assert type(model) is cluster.KMeans


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("linear_model.LogisticRegresion", "did you mean linear_model.LogisticRegression?"),
        ({"river": "linear.LogisticRegression"}, "did you mean linear_model.LogisticRegression?"),
        ("LogisticRegression", "did you mean linear_model.LogisticRegression?"),
        ("os.system", "River has no class os.system"),
        ("linear_model.log_reg", "River has no class linear_model.log_reg"),
        ("rm -rf", "expected a dotted name of River"),
        ({"river": "forest.ARFClassifier", "n_model": 3}, "has no parameter 'n_model'; expected n_models"),
        ({"river": "forest.ARFClassifier", "n_model": 3}, "did you mean n_models?"),
        ({"river": "ensemble.BaggingClassifier"}, "expected the parameter model"),
        ({"river": "base.Classifier"}, "is abstract"),
        ({"river": [LOGISTIC, {"river": "optim.SGB"}]}, "model[1]: River has no class optim.SGB"),
        (
            {"river": "linear_model.LinearRegression", "optimizer": {"river": "optim.SGD", "rate": 1}},
            "model linear_model.LinearRegression.optimizer optim.SGD: has no parameter 'rate'",
        ),
        ({"river": [], "x": 1}, "a list of steps takes no parameters, found x"),
        ({"river": []}, "at least one step"),
        ({"river": 3}, "expected the dotted name of a class of River, or a list of steps"),
        ({"clip": 0.0}, "model.clip = 0.0: expected a number above 0"),
        ({"factory": "nowhere.py:make"}, "nowhere.py: no such file"),
        ({"factory": "nowhere.py"}, 'expected "FILE.py:NAME"'),
        ({"name": "x"}, "expected one of the keys river, factory, clip, found name"),
        (3, "expected a spec or an object with learn_one, found 3"),
        (linear_model.LinearRegression, "expected a spec or an object with learn_one"),
    ],
)
def test_what_is_wrong_is_named(spec: Any, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(spec)
    assert said in str(caught.value)


def test_what_takes_a_seed_and_was_given_none_gets_the_models() -> None:
    spec = {"river": "ensemble.BaggingClassifier", "model": {"river": "tree.HoeffdingAdaptiveTreeClassifier"}}
    model = build(spec, seed=7)
    assert (model.seed, model.model.seed) == (7, 7)
    assert build({**spec, "seed": 3}, seed=7).seed == 3
    assert build(spec).seed == 0


# Factories --------------------------------------------------------------------------------------------------------------------

FACTORY = """
from river import cluster, linear_model, preprocessing

class Own:
    def __init__(self, start=0.0):
        self.value = start
    def learn_one(self, x, y):
        self.value = y
    def predict_one(self, x):
        return self.value

def make(lr, inner=None, seed=None):
    made = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    made.given = (lr, inner, seed)
    return made

def unseeded():
    return preprocessing.StandardScaler() | cluster.KMeans()

def hidden():
    class Inner(Own):
        pass
    return Inner()

def broken():
    raise SystemExit("no")

NOT_CALLABLE = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "factories.py"
    path.write_text(FACTORY, encoding="utf-8")
    return str(path)


def test_a_factory_gets_its_parameters_and_the_seed(file: str) -> None:
    model = build({"factory": f"{file}:make", "lr": 0.5, "inner": {"river": "optim.SGD"}}, seed=9)
    lr, inner, seed = model.given
    assert (lr, seed) == (0.5, 9)
    assert isinstance(inner, optim.SGD)


def test_an_object_that_is_no_river_class_works_too(file: str) -> None:
    algorithm = {"factory": f"{file}:Own", "start": 2.0}
    assert build(algorithm).predict_one({}) == 2.0
    assert isinstance(arm_of(algorithm, "log_return"), RiverArm)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "expected a function or class nothing"),
        ("NOT_CALLABLE", "expected a function or class NOT_CALLABLE"),
        ("broken", "cannot be built: SystemExit: no"),
    ],
)
def test_a_factory_that_gives_nothing_is_named(file: str, name: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        build({"factory": f"{file}:{name}"})
    assert said in str(caught.value)


def test_an_arm_is_refused_a_model_that_no_snapshot_could_keep(file: str) -> None:
    with pytest.raises(ModelError, match="model mine: the model cannot be pickled, so no snapshot could keep it"):
        arm_of({"factory": f"{file}:hidden"}, "log_return")


def test_what_a_factory_left_unseeded_gets_the_models_seed(file: str) -> None:
    draw = np.random.default_rng(1)
    rows = [{name: float(draw.normal()) for name in "abc"} for _ in range(50)]
    said = []
    for seed in (3, 3, 4):
        model = arm_of({"factory": f"{file}:unseeded"}, "none", seed).model
        for x in rows:
            model.learn_one(x)
        said.append(repr(list(model["KMeans"].centers.values())))
    assert said[0] == said[1] != said[2]


def test_the_search_inside_of_nearest_neighbours_is_seeded() -> None:
    engine = build({"river": "neighbors.KNNClassifier"}, seed=5)._nn
    assert (engine.seed, engine._rng.random()) == (
        5,
        build({"river": "neighbors.KNNClassifier"}, seed=5)._nn._rng.random(),
    )


def test_an_arm_is_refused_a_model_that_depends_on_the_hash_seed() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.STREAMKMeans depends on PYTHONHASHSEED"):
        arm_of({"river": "cluster.STREAMKMeans"}, "none")


def test_arms_of_several_keys_share_the_classes_of_a_file(file: str, tmp_path: Path) -> None:
    """A file that is run again has other classes of the same names, and the older objects could be pickled no more."""
    first = arm_of({"factory": f"{file}:Own"}, "log_return")
    other = tmp_path / "other"
    other.mkdir()
    namesake = other / "factories.py"
    namesake.write_text("class Own:\n    learn_one = predict_one = lambda *_: None\n", encoding="utf-8")
    second, third = (arm_of({"factory": f"{path}:Own"}, "log_return") for path in (namesake, file))
    for arm in (first, second, third):
        arm.restore(arm.arrays())
    assert type(first.model) is type(third.model) is not type(second.model)


# Arms -------------------------------------------------------------------------------------------------------------------------


def test_an_arm_is_compiled_or_rivers_by_its_algorithm() -> None:
    assert isinstance(arm_of({"algorithm": "scaled_logistic"}), CompiledArm)
    assert isinstance(arm_of(LOGISTIC), RiverArm)


@pytest.mark.parametrize(
    ("algorithm", "target", "said"),
    [
        ({"river": "linear_model.LinearRegression"}, "up_down", "is a regressor, target up_down asks for a classifier"),
        (LOGISTIC, "log_return", "LogisticRegression is a classifier, target log_return asks for a regressor"),
        (LOGISTIC, "direction", "tells two classes apart, target direction has 3"),
        (LOGISTIC, "none", "is a classifier: it needs a target"),
        ({"river": "cluster.KMeans"}, "log_return", "KMeans is a clusterer, target log_return asks for a regressor"),
        (
            {"river": "preprocessing.StandardScaler"},
            "up_down",
            "is no classifier, regressor, anomaly detector or clusterer",
        ),
        ({"river": "anomaly.GaussianScorer"}, "none", "scores the label of a row"),
        ({"river": "optim.SGD"}, "up_down", "expected an object with learn_one, found SGD"),
        (
            {"river": "active.EntropySampler", "classifier": LOGISTIC},
            "up_down",
            "EntropySampler asks for labels of its own choice",
        ),
        ({"algorithm": "scaled_linear"}, "up_down", "scaled_linear"),
    ],
)
def test_a_model_that_does_not_fit_its_target_is_refused(algorithm: dict[str, Any], target: str, said: str) -> None:
    with pytest.raises(EngineError) as caught:
        arm_of(algorithm, target)
    assert said in str(caught.value)


# Hash seeds -------------------------------------------------------------------------------------------------------------------

STEADY = """
import hashlib, random
from engine.models import build

def told():
    names = ["market:side", "derived:ratio", "technical:rsi_14", "zeta", "alpha", "q:x"]
    draw = random.Random(3)
    rows = [{name: draw.gauss(0, 1) for name in names} for _ in range(200)]
    stream = {"river": "cluster.CluStream", "time_gap": 20, "max_micro_clusters": 20}
    found = []
    for spec in (
        {"river": "cluster.KMeans"},
        {"river": ["preprocessing.StandardScaler", stream]},
        {"river": [{"river": "compose.Select", "keys": names[1:]}, "anomaly.OneClassSVM"]},
        "anomaly.HalfSpaceTrees",
    ):
        model, total = build(spec), hashlib.sha256()
        for x in rows:
            said = model.score_one(x) if "anomaly" in str(spec) else model.predict_one(x)
            total.update(repr(said).encode())
            model.learn_one(x)
        found.append(total.hexdigest())
    return found
"""


def test_models_give_the_same_bits_whatever_the_hash_seed() -> None:
    """River's own k-means, CluStream and Select do not."""
    here: dict[str, Any] = {}
    exec(STEADY, here)
    mine = here["told"]()
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    there = subprocess.run(
        [sys.executable, "-c", f"{STEADY}\nprint(told())"],
        env={**os.environ, "PYTHONHASHSEED": other},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert there.strip() == repr(mine)
    assert len(set(mine)) == 4


def test_a_steady_k_means_is_rivers_k_means() -> None:
    """With one feature there is no order to differ by: the draws, the distances and the centres are the same."""
    ours, theirs = build({"river": "cluster.KMeans", "n_clusters": 3, "seed": 5}), cluster.KMeans(n_clusters=3, seed=5)
    draw = np.random.default_rng(1)
    for value in draw.normal(size=300).tolist():
        assert ours.predict_one({"a": value}) == theirs.predict_one({"a": value})
        ours.learn_one({"a": value})
        theirs.learn_one({"a": value})
    assert ours.centers == theirs.centers


def test_the_definition_of_an_arm_tells_algorithms_features_and_seeds_apart() -> None:
    told = [
        hashlib.sha256(arm.arrays()["definition"].tobytes()).hexdigest()
        for arm in (arm_of(LOGISTIC), arm_of(LOGISTIC, seed=1), arm_of({"river": "linear_model.ALMAClassifier"}))
    ]
    assert len(set(told)) == 3
