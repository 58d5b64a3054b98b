"""River's models as arms: what they say in the ledger's numbers, whatever the blocks, and what becomes of what they raise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import base

from engine.errors import ModelError
from engine.models import river_arm
from engine.models.arm import Batch, Failure
from engine.models.layout import LABEL, SLOT, STEP, UPTO, Layout
from engine.models.river_arm import CLASSIFIER, CLUSTERER, DETECTOR, REGRESSOR, RiverArm
from engine.models.river_rows import LedgerRows

RIVER: Any = import_module("river.api")  # partly untyped
anomaly = RIVER.anomaly
cluster = RIVER.cluster
ensemble = RIVER.ensemble
linear_model = RIVER.linear_model
naive_bayes = RIVER.naive_bayes
preprocessing = RIVER.preprocessing
tree = RIVER.tree

NAMES = ("market:side", "technical:rsi_14", 'it\'s "quoted"')


class Tape:
    """A ledger with all rows of a tape in it, and the steps and answers of any part of it, labels being known `delay` rows later."""

    def __init__(self, rows: int, outputs: int, is_class: bool, delay: int = 3, seed: int = 1) -> None:
        draw = np.random.default_rng(seed)
        self.layout = Layout(len(NAMES), outputs, 2, 2)
        self.is_class = is_class
        self.delay = delay
        self.x = draw.normal(size=(rows, len(NAMES)))
        score = self.x[:, 0] - 0.5 * self.x[:, 1] + 0.3 * draw.normal(size=rows)
        self.y = np.digitize(score, np.linspace(-0.5, 0.5, outputs - 1)).astype(float) if is_class else score
        self.ledger = np.full((rows, self.layout.width), np.nan)
        self.ledger[:, self.layout.x_at : self.layout.x_at + len(NAMES)] = self.x
        self.ledger[:, LABEL] = self.y

    def batch(self, begin: int, end: int) -> Batch:
        before = self.answered(begin)
        steps = np.zeros((end - begin, STEP), np.int64)
        steps[:, SLOT] = np.arange(begin, end)
        steps[:, UPTO] = [self.answered(row + 1) - before for row in range(begin, end)]
        answers = np.arange(before, self.answered(end))
        return Batch(self.layout, self.ledger, self.ledger.view(np.int64), steps, answers)

    def answered(self, asked: int) -> int:
        """Rows whose labels are known once `asked` rows were asked about, the last of them included."""
        return max(asked - self.delay, 0)

    def run(self, arm: RiverArm, cuts: Sequence[int] = (), out: int = 0) -> list[Failure]:
        failures = []
        edges = [0, *cuts, len(self.x)]
        for begin, end in pairwise(edges):
            failures += arm.run(self.batch(begin, end), self.layout.out_at(out), 0)
        return failures

    def said(self, out: int = 0) -> npt.NDArray[np.float64]:
        at = self.layout.out_at(out)
        return self.ledger[:, at : at + self.layout.outputs]

    def arm(self, model: Any, role: str, **other: Any) -> RiverArm:
        return RiverArm(model, role, LedgerRows(NAMES, self.layout, self.is_class), **other)


def by_hand(tape: Tape, model: Any, ask: Callable[[Any], Any], labels: Sequence[Any] = ()) -> list[Any]:
    """What River says when it is driven by hand, in the same order."""
    said, learned = [], 0
    rows = [dict(zip(NAMES, row, strict=True)) for row in tape.x.tolist()]
    for at, x in enumerate(rows):
        while learned < tape.answered(at + 1):
            y = tape.y[learned]
            model.learn_one(rows[learned], labels[int(y)] if labels else float(y))
            learned += 1
        said.append(ask(model)(x))
    return said


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


# What is said -----------------------------------------------------------------------------------------------------------------


def test_a_binary_classifier_says_the_probabilities_of_false_and_true() -> None:
    tape = Tape(200, 2, is_class=True)
    assert tape.run(tape.arm(logistic(), CLASSIFIER)) == []
    expected = by_hand(tape, logistic(), lambda model: model.predict_proba_one, (False, True))
    assert tape.said().tolist() == [[one[False], one[True]] for one in expected]


def test_classes_not_seen_have_no_probability_and_no_class_at_all_says_nothing() -> None:
    tape = Tape(120, 3, is_class=True)
    tape.run(tape.arm(naive_bayes.GaussianNB(), CLASSIFIER))
    expected = by_hand(tape, naive_bayes.GaussianNB(), lambda model: model.predict_proba_one, (0, 1, 2))
    assert np.isnan(tape.said()[: tape.delay]).all()
    for said, theirs in zip(tape.said()[tape.delay :].tolist(), expected[tape.delay :], strict=True):
        assert said == [theirs.get(label, 0.0) for label in (0, 1, 2)]
        assert sum(said) == pytest.approx(1.0)
    assert 0.0 in tape.said()[tape.delay].tolist()


def test_a_classifier_without_probabilities_says_one_for_its_label() -> None:
    tape = Tape(60, 2, is_class=True)
    voting = ensemble.VotingClassifier([logistic(), logistic()], use_probabilities=False)
    tape.run(tape.arm(voting, CLASSIFIER))
    assert sorted({tuple(row) for row in tape.said().tolist()}) == [(0.0, 1.0), (1.0, 0.0)]


def test_a_regressor_says_its_value() -> None:
    tape = Tape(150, 1, is_class=False)

    def made() -> Any:
        return preprocessing.StandardScaler() | linear_model.LinearRegression()

    tape.run(tape.arm(made(), REGRESSOR))
    assert tape.said()[:, 0].tolist() == by_hand(tape, made(), lambda model: model.predict_one)


@pytest.mark.parametrize(
    ("make", "role", "method"),
    [
        (lambda: preprocessing.StandardScaler() | anomaly.OneClassSVM(), DETECTOR, "score_one"),
        (lambda: anomaly.QuantileFilter(anomaly.OneClassSVM(), q=0.9), DETECTOR, "score_one"),
        (lambda: cluster.KMeans(seed=1), CLUSTERER, "predict_one"),
    ],
)
def test_what_needs_no_label_is_asked_about_each_row_and_then_learns_it(
    make: Callable[[], Any], role: str, method: str
) -> None:
    tape = Tape(80, 1, is_class=False)
    arm = tape.arm(make(), role)
    tape.run(arm, cuts=(10, 11, 50))
    model = make()
    for said, x in zip(tape.said()[:, 0].tolist(), tape.x.tolist(), strict=True):
        row = dict(zip(NAMES, x, strict=True))
        assert said == float(getattr(model, method)(row))
        model.learn_one(row)
    assert arm.learned == 80


class Says(base.Classifier):
    """A classifier that always says the same."""

    def __init__(self, said: Any) -> None:
        self.said = said

    def learn_one(self, x: Any, y: Any) -> None:
        pass

    def predict_proba_one(self, x: Any, **_: Any) -> Any:
        return self.said


@pytest.mark.parametrize(
    ("said", "expected", "refused"),
    [
        ({0: 1.0, 1: 2.0, 2: 1.0}, [0.25, 0.5, 0.25], 0),
        ({1: 0.5}, [0.0, 1.0, 0.0], 0),
        ({0: 0.25, 7: 0.75}, [0.25, 0.0, 0.0], 0),
        ({0: 0.0, 1: 0.0}, [1 / 3] * 3, 0),
        ({}, [math.nan] * 3, 0),
        (None, [math.nan] * 3, 0),
        ({0: math.nan, 1: 0.5}, [math.nan] * 3, 1),
        ({0: math.inf, 1: 0.5}, [math.nan] * 3, 1),
        ({0: -0.5, 1: 1.5}, [math.nan] * 3, 1),
    ],
)
def test_probabilities_add_up_to_one_or_are_refused(said: Any, expected: list[float], refused: int) -> None:
    tape = Tape(1, 3, is_class=True)
    arm = tape.arm(Says(said), CLASSIFIER)
    assert tape.run(arm) == []
    np.testing.assert_array_equal(tape.said()[0], expected)
    assert arm.refused == refused


class Value:
    """No River class: what it is told is what it says, and it may raise."""

    def __init__(self, said: Any = 0.0) -> None:
        self.said = said
        self.heard: list[float] = []

    def learn_one(self, x: Any, y: Any) -> None:
        self.heard.append(y)

    def predict_one(self, x: Any) -> Any:
        if isinstance(self.said, BaseException):
            raise self.said
        return self.said


@pytest.mark.parametrize(("said", "refused"), [(None, 0), (math.inf, 1), (math.nan, 1), (-math.inf, 1)])
def test_a_value_that_is_no_finite_number_says_nothing_and_is_counted(said: Any, refused: int) -> None:
    tape = Tape(1, 1, is_class=False)
    arm = tape.arm(Value(said), REGRESSOR)
    assert tape.run(arm) == []
    assert np.isnan(tape.said()).all()
    assert arm.refused == refused


def test_a_void_outcome_is_not_learned_from() -> None:
    tape = Tape(10, 1, is_class=False, delay=2)
    tape.ledger[3, LABEL] = math.nan
    model = Value()
    tape.run(tape.arm(model, REGRESSOR))
    assert model.heard == [tape.y[row] for row in range(8) if row != 3]


def test_an_arm_writes_nothing_but_its_own_outputs() -> None:
    tape = Tape(30, 2, is_class=True)
    before = tape.ledger.copy()
    tape.run(tape.arm(logistic(), CLASSIFIER), out=1)
    at = tape.layout.out_at(1)
    changed = np.flatnonzero(~((tape.ledger == before) | (np.isnan(tape.ledger) & np.isnan(before))).all(axis=0))
    assert changed.tolist() == [at, at + 1]


# Blocks and beginnings --------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(1, 59), unique=True, max_size=8).map(sorted), delay=st.integers(1, 9))
def test_blocks_change_no_bit(cuts: list[int], delay: int) -> None:
    whole, cut = (Tape(60, 3, is_class=True, delay=delay) for _ in range(2))
    first, second = (tape.arm(tree.HoeffdingTreeClassifier(grace_period=10), CLASSIFIER) for tape in (whole, cut))
    whole.run(first)
    cut.run(second, cuts)
    assert whole.said().tobytes() == cut.said().tobytes()
    assert first.learned == second.learned == whole.answered(60)


def test_an_arm_that_enters_inside_a_block_learns_only_from_then_on() -> None:
    tape = Tape(20, 1, is_class=False, delay=2)
    model = Value(1.0)
    tape.arm(model, REGRESSOR).run(tape.batch(0, 20), tape.layout.out_at(0), 12)
    assert model.heard == [tape.y[row] for row in range(tape.answered(12), tape.answered(20))]
    assert np.isnan(tape.said()[:12]).all()
    assert (tape.said()[12:] == 1.0).all()


# Failures ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), GeneratorExit()])
def test_five_failures_in_a_row_park_the_model_until_it_is_resumed(error: BaseException) -> None:
    tape = Tape(12, 1, is_class=False, delay=3)
    model = Value(error)
    arm = tape.arm(model, REGRESSOR)
    failures = tape.run(arm)
    assert [(one.step, one.handler, one.in_a_row) for one in failures] == [(at, "predict", at + 1) for at in range(5)]
    assert type(error).__name__ in failures[0].error
    assert "predict_one" in failures[0].traceback
    assert arm.parked.startswith("5 failures in a row, the last in predict: ")
    assert np.isnan(tape.said()).all()
    heard = list(model.heard)
    model.said = 2.0
    again = Tape(12, 1, is_class=False, delay=3)
    assert again.run(arm) == []
    assert np.isnan(again.said()).all()
    assert model.heard == heard, "a parked model learns nothing"
    arm.resume()
    assert again.run(arm) == []
    assert arm.parked == ""
    assert (again.said() == 2.0).all()


def test_a_success_in_between_keeps_it_running() -> None:
    class Every:
        def __init__(self) -> None:
            self.count = 0

        def learn_one(self, x: Any, y: Any) -> None:
            self.count += 1
            if self.count % 5:
                raise ValueError(self.count)

        def predict_one(self, x: Any) -> float:
            return 1.0

    tape = Tape(50, 1, is_class=False, delay=1)
    arm = tape.arm(Every(), REGRESSOR)
    failures = tape.run(arm, cuts=(7, 23))
    assert arm.parked == ""
    assert max(one.in_a_row for one in failures) == 4
    assert {one.handler for one in failures} == {"learn"}
    assert (tape.said() == 1.0).all()


def test_an_interrupt_is_not_the_models_failure() -> None:
    tape = Tape(3, 1, is_class=False)
    with pytest.raises(KeyboardInterrupt):
        tape.run(tape.arm(Value(KeyboardInterrupt()), REGRESSOR))


# State ------------------------------------------------------------------------------------------------------------------------


def test_a_restored_arm_goes_on_with_the_same_bits() -> None:
    whole, resumed = Tape(100, 2, is_class=True), Tape(100, 2, is_class=True)

    def make(tape: Any) -> Any:
        return tape.arm(tree.HoeffdingTreeClassifier(grace_period=10), CLASSIFIER, definition="a tree")

    straight, before, after = make(whole), make(resumed), make(resumed)
    whole.run(straight)
    before.run(resumed.batch(0, 40), resumed.layout.out_at(0), 0)
    kept = before.arrays()
    before.run(resumed.batch(40, 60), resumed.layout.out_at(0), 0)
    after.restore(kept)
    after.run(resumed.batch(40, 100), resumed.layout.out_at(0), 0)
    assert whole.said().tobytes() == resumed.said().tobytes()
    assert {name: array.dtype for name, array in kept.items()}["pickle"] == np.uint8
    assert straight.learned == after.learned


def test_failures_and_the_reason_for_being_parked_are_kept() -> None:
    tape = Tape(12, 1, is_class=False, delay=3)
    arm, other = tape.arm(Value(), REGRESSOR), tape.arm(Value(), REGRESSOR)
    arm.model.said = "text"  # no number
    failures = arm.run(tape.batch(0, 3), tape.layout.out_at(0), 0)
    other.restore(arm.arrays())
    failures = other.run(tape.batch(3, 12), tape.layout.out_at(0), 0)
    assert [one.in_a_row for one in failures] == [4, 5]
    third = tape.arm(Value(), REGRESSOR)
    third.restore(other.arrays())
    assert third.parked == other.parked != ""


def test_a_snapshot_of_another_model_or_of_another_river_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tape = Tape(1, 2, is_class=True)
    kept = tape.arm(logistic(), CLASSIFIER, definition="one").arrays()
    with pytest.raises(ModelError, match="expected one of two, found one"):
        tape.arm(logistic(), CLASSIFIER, definition="two").restore(kept)
    with pytest.raises(ModelError, match="cannot be read"):
        tape.arm(logistic(), CLASSIFIER, definition="one").restore({**kept, "pickle": kept["pickle"][:-9]})
    with pytest.raises(ModelError, match="expected pickle, river"):
        tape.arm(logistic(), CLASSIFIER, definition="one").restore({"state": np.zeros(1)})
    monkeypatch.setattr(river_arm, "river_version", lambda: "0.99.0")
    with pytest.raises(ModelError, match=r"does not load in River 0\.99\.0"):
        tape.arm(logistic(), CLASSIFIER, definition="one").restore(kept)


def test_memory_grows_with_a_model_that_grows() -> None:
    tape = Tape(600, 2, is_class=True)
    arm = tape.arm(ensemble.BaggingClassifier(naive_bayes.GaussianNB(), n_models=3, seed=1), CLASSIFIER)
    at_first = arm.memory
    tape.run(arm)
    assert arm.memory > at_first > 0
    assert tape.arm(Value(), REGRESSOR).memory > 0


# Rows -------------------------------------------------------------------------------------------------------------------------


def test_rows_are_dicts_by_name_of_floats() -> None:
    layout = Layout(3, 3, 1, 1)
    rows = LedgerRows(NAMES, layout, is_class=True)
    ledger = np.arange(2.0 * layout.width).reshape(2, -1)
    x = rows.x(river_arm.floats_of(ledger), 1, layout.width)
    assert x == dict(zip(NAMES, ledger[1, layout.x_at : layout.x_at + 3].tolist(), strict=True))
    assert rows.y(0, 2.0) == 2
    assert LedgerRows(NAMES, Layout(3, 2, 1, 1), is_class=True).y(0, 1.0) is True
    assert LedgerRows(NAMES, Layout(3, 1, 1, 1), is_class=False).y(0, 1.5) == 1.5


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True))
@settings(max_examples=50, deadline=None)
def test_any_text_may_be_a_features_name(names: list[str]) -> None:
    layout = Layout(len(names), 1, 0, 1)
    ledger = np.arange(float(layout.width)).reshape(1, -1)
    assert list(LedgerRows(names, layout, is_class=False).x(river_arm.floats_of(ledger), 0, 0)) == names


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="expected 3 different names"):
        LedgerRows(("a", "b"), Layout(3, 1, 0, 1), is_class=False)
    with pytest.raises(ModelError, match="expected 2 different names"):
        LedgerRows(("a", "a"), Layout(2, 1, 0, 1), is_class=False)
