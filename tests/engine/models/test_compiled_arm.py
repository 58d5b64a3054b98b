"""Compiled arms: blocks of any cut, snapshots, the uncompiled program and models by dict all give the same bits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, ModelError
from engine.models.arm import Batch
from engine.models.compiled import LEARNERS, CompiledArm, CompiledModel, make_compiled_arm
from engine.models.compiled.program import plain_program
from engine.models.layout import LABEL, SLOT, STEP, UPTO, Layout

COUNT, FEATURES, DELAY = 240, 6, 7
ALGORITHMS: list[tuple[dict[str, Any], int]] = [
    ({"algorithm": "scaled_logistic", "lr": 0.05, "l2": 0.001}, 2),
    ({"algorithm": "scaled_softmax", "lr": 0.05, "clip_z": 4}, 3),
    ({"algorithm": "scaled_linear", "lr": 0.01}, 1),
    ({"algorithm": "scaled_linear", "lr": 0.2, "optimizer": "nlms", "l2": 0.01}, 1),
]
each = pytest.mark.parametrize(("algorithm", "outputs"), ALGORITHMS, ids=("logistic", "softmax", "sgd", "nlms"))
Cuts = st.lists(st.integers(0, COUNT), max_size=8).map(lambda at: sorted({0, *at, COUNT}))


class Tape:
    """A ledger of `COUNT` rows, each learned from `DELAY` steps after it was asked, with holes: void rows, damage, steps without a row."""

    def __init__(self, outputs: int) -> None:
        rng = np.random.default_rng(3)
        self.layout = Layout(FEATURES, outputs, 4, 3)
        self.outputs = outputs
        self.ledger = np.full((COUNT, self.layout.width), -7.0)
        begin = self.layout.x_at
        self.ledger[:, begin : begin + FEATURES] = (
            rng.standard_normal((COUNT, FEATURES)) * (1, 1e-4, 1e3, 1, 0, 5) + 3.0
        )
        labels = rng.integers(0, outputs, COUNT).astype(float) if outputs > 1 else rng.standard_normal(COUNT)
        labels[::11] = np.nan
        self.ledger[:, LABEL] = labels
        self.ledger[13, begin + 2] = np.inf
        self.slots = np.arange(COUNT)
        self.slots[::17] = -1

    def batch(self, begin: int, end: int) -> Batch:
        """The steps [begin, end) as an actor would hand them over."""
        steps = np.zeros((end - begin, STEP), np.int64)
        steps[:, SLOT] = self.slots[begin:end]
        answers = []
        for at in range(begin, end):
            if at >= DELAY and self.slots[at - DELAY] >= 0:
                answers.append(self.slots[at - DELAY])
            steps[at - begin, UPTO] = len(answers)
        return Batch(self.layout, self.ledger, self.ledger.view(np.int64), steps, np.array(answers, np.int64))

    def said(self, arm: int) -> npt.NDArray[np.float64]:
        at = self.layout.out_at(arm)
        return self.ledger[:, at : at + self.outputs].copy()

    def features(self, at: int) -> npt.NDArray[np.float64]:
        return self.ledger[at, self.layout.x_at : self.layout.x_at + FEATURES]

    def arm(self, algorithm: dict[str, Any]) -> CompiledArm:
        return make_compiled_arm(algorithm, self.layout, self.outputs, self.outputs > 1, 0)


def whole(algorithm: dict[str, Any], outputs: int) -> tuple[bytes, bytes]:
    """Bits of all outputs and of the state after one batch."""
    tape = Tape(outputs)
    arm = tape.arm(algorithm)
    assert arm.run(tape.batch(0, COUNT), tape.layout.out_at(1), 0) == []
    return tape.said(1).tobytes(), arm.arrays()["state"].tobytes()


@each
@settings(max_examples=25)
@given(cuts=Cuts)
def test_any_cut_into_batches_gives_the_same_bits(algorithm: dict[str, Any], outputs: int, cuts: list[int]) -> None:
    tape = Tape(outputs)
    arm = tape.arm(algorithm)
    for begin, end in pairwise(cuts):
        arm.run(tape.batch(begin, end), tape.layout.out_at(1), 0)
    assert (tape.said(1).tobytes(), arm.arrays()["state"].tobytes()) == whole(algorithm, outputs)


@each
@settings(max_examples=25)
@given(at=st.integers(0, COUNT))
def test_a_restored_arm_goes_on_with_the_same_bits(algorithm: dict[str, Any], outputs: int, at: int) -> None:
    tape = Tape(outputs)
    arm, later = tape.arm(algorithm), tape.arm(algorithm)
    arm.run(tape.batch(0, at), tape.layout.out_at(1), 0)
    kept = arm.arrays()
    arm.run(tape.batch(0, at), tape.layout.out_at(2), 0)  # what was kept is a copy
    later.restore(kept)
    later.run(tape.batch(at, COUNT), tape.layout.out_at(1), 0)
    assert (tape.said(1).tobytes(), later.arrays()["state"].tobytes()) == whole(algorithm, outputs)


@each
def test_one_row_a_call_is_the_same_as_a_model_on_rows(algorithm: dict[str, Any], outputs: int) -> None:
    tape = Tape(outputs)
    model = CompiledModel(algorithm, tuple("abcdef"), outputs)
    arm = tape.arm(algorithm)
    for at in range(COUNT):
        arm.run(tape.batch(at, at + 1), tape.layout.out_at(0), 0)
        if at >= DELAY and tape.slots[at - DELAY] >= 0:
            model.learn_row(tape.features(at - DELAY), tape.ledger[at - DELAY, LABEL])
        if tape.slots[at] >= 0:
            assert model.predict_row(tape.features(at)).tobytes() == tape.said(0)[at].tobytes(), f"row {at}"
    assert model.arrays()["state"].tobytes() == arm.arrays()["state"].tobytes()
    again = CompiledModel.of(algorithm, tuple("abcdef"), outputs, arm.arrays())
    assert again.learned == arm.learned > 150


@each
def test_the_program_uncompiled_gives_the_same_bits(algorithm: dict[str, Any], outputs: int) -> None:
    tape = Tape(outputs)
    arm = tape.arm(algorithm)
    batch = tape.batch(0, COUNT)
    plain = plain_program(LEARNERS[algorithm["algorithm"]])
    plain.run(arm.state, batch.ledger, batch.steps, batch.answers, tape.layout.out_at(1), tape.layout.x_at, 0)
    assert (tape.said(1).tobytes(), arm.arrays()["state"].tobytes()) == whole(algorithm, outputs)


@each
def test_a_batch_is_taken_up_where_another_arm_entered_it(algorithm: dict[str, Any], outputs: int) -> None:
    """Of steps before `first`, neither answers nor rows are the arm's."""
    tape, other = Tape(outputs), Tape(outputs)
    late, alone = tape.arm(algorithm), other.arm(algorithm)
    late.run(tape.batch(0, COUNT), tape.layout.out_at(1), 100)
    alone.run(other.batch(100, COUNT), other.layout.out_at(1), 0)
    assert tape.said(1).tobytes() == other.said(1).tobytes()
    assert late.arrays()["state"].tobytes() == alone.arrays()["state"].tobytes()
    assert set(tape.said(1)[:100].ravel().tolist()) == {-7.0}


@each
def test_an_arm_writes_its_own_outputs_and_nothing_else(algorithm: dict[str, Any], outputs: int) -> None:
    tape = Tape(outputs)
    before = tape.ledger.copy()
    tape.arm(algorithm).run(tape.batch(0, COUNT), tape.layout.out_at(1), 0)
    at = tape.layout.out_at(1)
    assert np.isnan(tape.said(1)[13]).all(), "a row with an infinite feature says nothing"
    asked = np.flatnonzero(tape.slots >= 0)
    finite = np.asarray(np.isfinite(tape.said(1)).all(axis=1))
    assert finite[np.setdiff1d(asked, [13])].all()
    if outputs > 1:
        sums = tape.said(1)[np.setdiff1d(asked, [13])].sum(axis=1)
        assert np.allclose(sums, 1.0, atol=1e-12)
    tape.ledger[asked, at : at + outputs] = -7.0
    assert tape.ledger.tobytes() == before.tobytes()


# Restoring --------------------------------------------------------------------------------------------------------------------


def arm_of(algorithm: dict[str, Any], features: int = FEATURES, outputs: int = 2) -> CompiledArm:
    return make_compiled_arm(algorithm, Layout(features, outputs, 4, 2), outputs, outputs > 1, 0)


def refused(arm: CompiledArm, arrays: dict[str, npt.NDArray[Any]], said: str) -> None:
    before = arm.arrays()["state"].tobytes()
    with pytest.raises(ModelError, match=said):
        arm.restore(arrays)
    assert arm.arrays()["state"].tobytes() == before


def test_the_state_of_something_else_is_refused() -> None:
    logistic = arm_of({"algorithm": "scaled_logistic"})
    refused(logistic, {}, r"state: expected float64 \(29,\) for 6 features and 2 outputs, found none")
    refused(logistic, arm_of({"algorithm": "scaled_logistic"}, 7).arrays(), r"found float64 \(32,\)")
    refused(logistic, {"state": logistic.arrays()["state"].astype(np.float32)}, r"found float32 \(29,\)")
    refused(
        logistic, arm_of({"algorithm": "scaled_logistic", "lr": 0.02}).arrays(), r"expected lr = 0\.01, found 0\.02"
    )
    other_version = logistic.arrays()["state"]
    other_version[0] += 1.0
    refused(logistic, {"state": other_version}, "expected one of scaled_logistic version 1, found another")
    damaged = logistic.arrays()["state"]
    damaged[-1] = np.nan
    refused(logistic, {"state": damaged}, "expected finite numbers, found NaN or infinity")


def test_states_of_the_same_size_are_told_apart_by_their_learner() -> None:
    # 4 + 4 + 1 + 2 * 2 + 2 * 4 floats of a softmax of two classes, 4 + 5 + 1 + 2 n + 1 + n of a logistic regression.
    sizes: dict[int, list[tuple[str, int]]] = {}
    for features in range(1, 40):
        for name in ("scaled_logistic", "scaled_softmax"):
            sizes.setdefault(len(arm_of({"algorithm": name}, features).arrays()["state"]), []).append((name, features))
    pairs = [found for found in sizes.values() if len(found) == 2]
    assert pairs
    (one, first), (two, second) = pairs[0]
    refused(arm_of({"algorithm": one}, first), arm_of({"algorithm": two}, second).arrays(), "found another")


def test_an_arm_of_an_algorithm_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="predicts 2 classes, the target is 3 classes"):
        arm_of({"algorithm": "scaled_logistic"}, outputs=3)
    with pytest.raises(ConfigError, match="did you mean scaled_linear"):
        arm_of({"algorithm": "scaled_liner"}, outputs=1)


def test_memory_is_that_of_the_state() -> None:
    arm = arm_of({"algorithm": "scaled_softmax"}, 12, 3)
    assert arm.memory == 8 * (4 + 4 + 1 + 24 + 3 * 14 + 12 + 3)
