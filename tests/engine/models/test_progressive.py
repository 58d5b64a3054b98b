"""Progressive validation gives River's own numbers, to the last bit, through the loop that the actors run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.models import build, prequential, progressive
from engine.models.arm import Batch
from engine.models.compiled import make_compiled_arm
from engine.models.layout import LABEL, SLOT, STEP, UPTO, Layout

RIVER: Any = import_module("river.api")  # partly untyped
anomaly = RIVER.anomaly
cluster = RIVER.cluster
datasets = RIVER.datasets
evaluate = RIVER.evaluate
linear_model = RIVER.linear_model
metrics = RIVER.metrics
multiclass = RIVER.multiclass
naive_bayes = RIVER.naive_bayes
neighbors = RIVER.neighbors
optim = RIVER.optim
preprocessing = RIVER.preprocessing
tree = RIVER.tree

CLASSES = {"accuracy": metrics.Accuracy, "mcc": metrics.MCC, "log_loss": metrics.LogLoss}
VALUES = {"mae": metrics.MAE, "rmse": metrics.RMSE}
DELAYS = (None, 0, 1, 2, 7)


def scaled(model: Any) -> Any:
    return preprocessing.StandardScaler() | model


BINARY: dict[str, Callable[[], Any]] = {
    "logistic": lambda: scaled(linear_model.LogisticRegression()),
    "alma": lambda: scaled(linear_model.ALMAClassifier()),
    "tree": lambda: tree.HoeffdingTreeClassifier(grace_period=20),
    "bayes": naive_bayes.GaussianNB,
    "neighbours": lambda: neighbors.KNNClassifier(n_neighbors=2, engine=neighbors.LazySearch(window_size=20)),
}
REGRESSORS: dict[str, Callable[[], Any]] = {
    "linear": lambda: scaled(linear_model.LinearRegression()),
    "exploding": linear_model.LinearRegression,
    "tree": lambda: tree.HoeffdingTreeRegressor(grace_period=20),
}


def first(dataset: Iterable[Any], rows: int) -> list[Any]:
    return list(islice(dataset, rows))


def assert_equal_to_river(make: Callable[[], Any], rows: list[Any], delay: int | None, wanted: dict[str, Any]) -> None:
    ours = progressive(make(), rows, delay)
    theirs = evaluate.progressive_val_score(
        rows, make(), metrics.base.Metrics([metric() for metric in wanted.values()]), delay=delay
    )
    assert {name: ours[name] for name in wanted} == dict(zip(wanted, theirs.get(), strict=True))


# Equal to River ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize("name", BINARY)
def test_classes_score_as_in_river(name: str, delay: int | None) -> None:
    rows = first(datasets.Phishing(), 150)
    ours = progressive(BINARY[name](), rows, delay)
    for key, metric in CLASSES.items():
        theirs = evaluate.progressive_val_score(rows, BINARY[name](), metric(), delay=delay)
        assert ours[key] == theirs.get(), key


@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize("name", REGRESSORS)
def test_values_score_as_in_river(name: str, delay: int | None) -> None:
    assert_equal_to_river(REGRESSORS[name], first(datasets.TrumpApproval(), 150), delay, VALUES)


@pytest.mark.parametrize("delay", [None, 3])
def test_many_classes_with_texts_as_labels_score_as_in_river(delay: int | None) -> None:
    rows = first(datasets.ImageSegments(), 120)
    for make in (naive_bayes.GaussianNB, lambda: scaled(linear_model.SoftmaxRegression())):
        assert_equal_to_river(make, rows, delay, {"accuracy": metrics.Accuracy})


FEATURE = st.floats(-1e3, 1e3, width=32)
ROWS = st.lists(
    st.dictionaries(st.sampled_from("abc"), FEATURE, min_size=1, max_size=3), min_size=1, max_size=25
)  # features come and go


@settings(max_examples=30, deadline=None)
@given(rows=ROWS, data=st.data(), delay=st.one_of(st.none(), st.integers(0, 30)))
def test_any_stream_scores_as_in_river(rows: list[dict[str, float]], data: st.DataObject, delay: int | None) -> None:
    many = len(rows)
    labels = data.draw(st.lists(st.booleans(), min_size=many, max_size=many))
    numbers = data.draw(st.lists(st.one_of(st.integers(-50, 50), FEATURE), min_size=many, max_size=many))
    for make in (BINARY["logistic"], BINARY["tree"]):
        ours = progressive(make(), zip(rows, labels, strict=True), delay)
        for key, metric in CLASSES.items():
            theirs = evaluate.progressive_val_score(zip(rows, labels, strict=True), make(), metric(), delay=delay)
            assert ours[key] == theirs.get() or not ours["n"], key

    linear = REGRESSORS["linear"]
    ours = progressive(linear(), zip(rows, numbers, strict=True), delay)
    for key, metric in VALUES.items():
        theirs = evaluate.progressive_val_score(zip(rows, numbers, strict=True), linear(), metric(), delay=delay)
        assert ours[key] == theirs.get(), key


@settings(max_examples=15, deadline=None)
@given(block=st.integers(1, 9), delay=st.integers(0, 40))
def test_blocks_change_no_number(block: int, delay: int) -> None:
    rows = first(datasets.Phishing(), 40)
    whole = progressive(BINARY["tree"](), rows, delay)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prequential, "BLOCK", block)
        assert repr(progressive(BINARY["tree"](), rows, delay)) == repr(whole)  # repr: NaN is NaN


# Published numbers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "make", "score", "expected"),
    [
        (datasets.Phishing, lambda: scaled(linear_model.LogisticRegression(optim.SGD(0.005))), "accuracy", 0.8872),
        (datasets.Phishing, lambda: scaled(linear_model.ALMAClassifier()), "accuracy", 0.8256),
        (datasets.Phishing, tree.HoeffdingTreeClassifier, "accuracy", 0.8799),
        (datasets.Bananas, tree.HoeffdingTreeClassifier, "accuracy", 0.6431),
        (datasets.ImageSegments, tree.HoeffdingTreeClassifier, "accuracy", 0.7783),
        (datasets.ChickWeights, lambda: scaled(linear_model.LinearRegression()), "mae", 23.759),
        (datasets.ChickWeights, lambda: scaled(tree.HoeffdingTreeRegressor()), "mae", 23.162),
        (datasets.TrumpApproval, lambda: scaled(linear_model.LinearRegression()), "mae", 1.3146),
        (datasets.TrumpApproval, lambda: scaled(tree.HoeffdingTreeRegressor()), "mae", 0.9561),
    ],
)
def test_the_known_prequential_scores_come_out(
    dataset: Any, make: Callable[[], Any], score: str, expected: float
) -> None:
    assert progressive(make(), dataset())[score] == pytest.approx(expected, abs=0.0005)


def test_a_compiled_model_is_as_good_as_rivers() -> None:
    found = progressive({"algorithm": "scaled_logistic", "lr": 0.005}, datasets.Phishing())
    assert found["accuracy"] == pytest.approx(0.8872, abs=0.003)
    assert found["baselines"]["majority"] < 0.56


def test_a_compiled_model_says_what_its_arm_says() -> None:
    algorithm = {"algorithm": "scaled_logistic", "lr": 0.01}
    rows = first(datasets.Phishing(), 300)
    model = build(algorithm)
    heard: list[float] = []

    class Heard:
        def learn_one(self, x: Any, y: Any) -> None:
            model.learn_one(x, y)

        def predict_proba_one(self, x: Any) -> Any:
            said = model.predict_proba_one(x)
            heard.append(said[True])
            return said

    progressive(Heard(), rows, delay=5)
    names = tuple(rows[0][0])
    layout = Layout(len(names), 2, 0, 1)
    ledger = np.full((len(rows), layout.width), np.nan)
    ledger[:, layout.x_at : layout.x_at + len(names)] = [[x[name] for name in names] for x, _ in rows]
    ledger[:, LABEL] = [y for _, y in rows]
    steps = np.zeros((len(rows), STEP), np.int64)
    steps[:, SLOT] = np.arange(len(rows))
    steps[:, UPTO] = np.maximum(np.arange(len(rows)) - 4, 0)
    arm = make_compiled_arm(algorithm, layout, 2, is_class=True)
    arm.run(Batch(layout, ledger, ledger.view(np.int64), steps, np.arange(len(rows) - 5)), layout.out_at(0), 0)
    assert ledger[:, layout.out_at(0) + 1].tolist() == heard


# Meanings ---------------------------------------------------------------------------------------------------------------------


class Told:
    """Notes what it is asked and taught, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def learn_one(self, x: Any, y: Any) -> None:
        self.log.append(f"learn {x['i']}")

    def predict_one(self, x: Any) -> float:
        self.log.append(f"ask {x['i']}")
        return 0.0


@pytest.mark.parametrize(
    ("delay", "log"),
    [
        (0, "ask 0, learn 0, ask 1, learn 1, ask 2, learn 2, ask 3, learn 3"),
        (1, "ask 0, learn 0, ask 1, learn 1, ask 2, learn 2, ask 3, learn 3"),
        (2, "ask 0, ask 1, learn 0, ask 2, learn 1, ask 3, learn 2, learn 3"),
        (9, "ask 0, ask 1, ask 2, ask 3, learn 0, learn 1, learn 2, learn 3"),
    ],
)
def test_a_label_is_used_so_many_rows_later(delay: int, log: str) -> None:
    model = Told()
    scores = progressive(model, [({"i": i}, float(i)) for i in range(4)], delay)
    assert ", ".join(model.log) == log
    assert scores["mae"] == 1.5
    assert scores["n"] == 4


def test_baselines_know_no_more_than_the_model() -> None:
    stream = [({"i": i}, float(i)) for i in range(6)]
    assert progressive(Told(), stream, 1)["baselines"]["last"] == pytest.approx((0 + 1 + 1 + 1 + 1 + 1) / 6)
    assert progressive(Told(), stream, 3)["baselines"]["last"] == pytest.approx((0 + 1 + 2 + 3 + 3 + 3) / 6)


def test_brier_is_the_mean_squared_distance_of_the_probability_of_two_classes() -> None:
    rows, asked = first(datasets.Phishing(), 100), BINARY["logistic"]()
    squares = []
    for x, y in rows:
        squares.append((asked.predict_proba_one(x)[True] - y) ** 2)
        asked.learn_one(x, y)
    assert progressive(BINARY["logistic"](), rows)["brier"] == pytest.approx(np.mean(squares), rel=1e-12)


def test_the_correlation_of_many_classes_is_that_of_their_confusion() -> None:
    """Against the definition: the correlation of indicator variables, summed over classes."""
    rows, model = first(datasets.ImageSegments(), 200), naive_bayes.GaussianNB()
    pairs = []
    for x, y in rows:
        said = model.predict_one(x)
        if said is not None:
            pairs.append((y, said))
        model.learn_one(x, y)
    labels = sorted({one for pair in pairs for one in pair})
    truth, pick = (np.array([[pair[at] == label for label in labels] for pair in pairs], float) for at in (0, 1))

    def covariance(a: Any, b: Any) -> Any:
        return ((a - a.mean(0)) * (b - b.mean(0))).sum()

    expected = covariance(truth, pick) / math.sqrt(covariance(truth, truth) * covariance(pick, pick))
    assert progressive(naive_bayes.GaussianNB(), rows)["mcc"] == pytest.approx(expected, rel=1e-12)


def test_texts_serve_a_model_that_knows_only_false_and_true() -> None:
    rows = first(datasets.Phishing(), 200)
    texts = [(x, "bad" if y else "good") for x, y in rows]
    plain, named = (progressive(BINARY["logistic"](), stream) for stream in (rows, texts))
    assert named["accuracy"] > 0.8
    assert plain["n"] == named["n"] == 200


def test_a_third_class_is_refused_by_a_model_of_two() -> None:
    stream = [({"a": float(i)}, i % 3) for i in range(9)]
    with pytest.raises(ModelError, match=r"label 2: the model tells two classes apart.*OneVsRestClassifier"):
        progressive(BINARY["logistic"](), stream)
    wrapped = multiclass.OneVsRestClassifier(BINARY["logistic"]())
    assert progressive(wrapped, stream)["n"] == 8


def test_a_model_that_learned_before_keeps_what_it_knows() -> None:
    """It names classes that the stream has not met yet: they take their share from the first row on."""
    rows = first(datasets.ImageSegments(), 120)
    model = naive_bayes.GaussianNB()
    for x, y in rows:
        model.learn_one(x, y)
    expected = evaluate.progressive_val_score(rows, model.clone(include_attributes=True), metrics.Accuracy()).get()
    scores = progressive(model, rows)
    assert scores["accuracy"] == expected
    assert scores["n"] == 120
    assert 0.0 < scores["brier"] < 0.5


def test_rows_without_a_target_are_void_and_rows_without_an_answer_unsaid() -> None:
    stream = [({"a": 1.0}, True), ({"a": 2.0}, None), ({"a": 1.5}, False), ({"a": 2.0}, True)]
    scores = progressive(naive_bayes.GaussianNB(), stream)
    assert (scores["n"], scores["void"], scores["unsaid"]) == (2, 1, 1)


def test_a_stream_may_hand_out_the_same_dict_changed() -> None:
    def stream() -> Iterable[Any]:
        x: dict[str, float] = {}
        for i in range(60):
            x["a"] = math.sin(i)
            yield x, math.sin(i) > 0.0

    kept = [(dict(x), y) for x, y in stream()]
    for delay in (0, 5):
        assert progressive(BINARY["tree"](), stream(), delay) == progressive(BINARY["tree"](), kept, delay)


def test_a_stream_without_rows_has_no_scores() -> None:
    scores = progressive(BINARY["logistic"](), [])
    assert scores["n"] == 0
    assert all(math.isnan(scores[name]) for name in ("accuracy", "mcc", "brier", "log_loss"))
    assert progressive(REGRESSORS["linear"](), [])["n"] == 0


def test_it_tells_how_far_it_is() -> None:
    told: list[int] = []
    progressive(Told(), [({"i": i}, 0.0) for i in range(20)], on_rows=told.append)
    assert told[-1] == 20
    assert told == sorted(told)


# Without labels ---------------------------------------------------------------------------------------------------------------


def test_anomaly_scores_are_ranked_against_the_truth() -> None:
    draw = np.random.default_rng(3)
    stream = [
        ({"a": float(draw.normal() + 8.0 * (i % 20 == 0)), "b": float(draw.normal())}, i % 20 == 0) for i in range(300)
    ]

    def make() -> Any:
        return preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=1, window_size=50)

    model, said = make(), []
    for x, y in stream:
        said.append((model.score_one(x), y))
        model.learn_one(x)
    higher = [(a > b) + 0.5 * (a == b) for a, yes in said if yes for b, no in said if not no]
    scores = progressive(make(), stream)
    assert scores["roc_auc"] == pytest.approx(np.mean(higher), rel=1e-12)
    assert scores["mean"] == pytest.approx(np.mean([one for one, _ in said]))
    assert scores["n"] == 300


def test_clusters_are_compared_with_the_truth_as_river_does() -> None:
    draw = np.random.default_rng(3)
    stream = [({"a": float(draw.normal() + 9.0 * (i % 2)), "b": float(draw.normal())}, i % 2) for i in range(200)]

    def make() -> Any:
        return cluster.DBSTREAM(clustering_threshold=2.0, fading_factor=0.01)

    model, rand = make(), metrics.AdjustedRand()
    for x, y in stream:
        rand.update(y, model.predict_one(x))
        model.learn_one(x)
    scores = progressive(make(), stream)
    assert scores["adjusted_rand"] == pytest.approx(rand.get(), rel=1e-9)
    assert scores["purity"] >= scores["baselines"]["purity"]
    assert progressive(make(), [(x, None) for x, _ in stream])["clusters"] == scores["clusters"]


# Refusals ---------------------------------------------------------------------------------------------------------------------


class Fails:
    def learn_one(self, x: Any, y: Any) -> None:
        if x["i"] == 5:
            raise ValueError("five")

    def predict_one(self, x: Any) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("model", "stream", "delay", "said"),
    [
        (Told(), [({"i": 0}, 1.0)], -1, "delay = -1: expected a number of rows"),
        (Told(), [({"i": 0}, 1.0)], 1.5, "delay = 1.5: expected a number of rows"),
        (Told(), [({"i": 0}, 1.0), 3], 0, "row 1: expected a pair"),
        (Told(), [({"i": 0}, 1.0), ({"i": 0}, "up")], 0, "row 1: target 'up'"),
        (Fails(), [({"i": i}, 1.0) for i in range(9)], 0, "the model failed to learn at row 6: ValueError: five"),
        (naive_bayes.GaussianNB(), [({"i": 0}, [1])], 0, "row 0: target [1]"),
        (naive_bayes.GaussianNB(), (({"i": i}, i) for i in range(1_200)), 0, "more than 1000 classes"),
        (preprocessing.StandardScaler(), [], 0, "is no classifier, regressor"),
        (object(), [], 0, "expected a spec or an object with learn_one"),
    ],
)
def test_what_cannot_be_validated_is_named(model: Any, stream: Any, delay: Any, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        progressive(model, stream, delay)
    assert said in str(caught.value)
