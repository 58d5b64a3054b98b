"""An arm in a worker notes what is to be learned and asked, in order, and knows which rows wait for an answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import ModelError
from engine.events import Answer
from engine.models.arm import Batch
from engine.models.layout import LABEL, SLOT, STEP, STEP_RECEIVED, STEP_SEQUENCE, STEP_TIMESTAMP, UPTO, Layout
from engine.models.settings import ModelConfig
from engine.models.spec import resolve_model
from engine.models.worker import Requests, WorkerArm
from engine.models.worker_messages import Ask, Close, Learn

LAYOUT = Layout(features=2, outputs=3, baselines=0, arms=1)
OUT = LAYOUT.out_at(0)


def arm(requests: Requests, target: str = "direction") -> WorkerArm:
    config = ModelConfig(("market:price", "market:side"), {"algorithm": "scaled_softmax"}, target=target)
    return requests.arm("x", "BTC/USDT", "1", config.algorithm, resolve_model("mine", config), 7)


def batch(labels: dict[int, float], steps: list[tuple[int, int]], answers: list[int]) -> Batch:
    """Eight rows with features (slot, -slot); steps as (slot, upto), their sequences 100, 101, ..."""
    ledger = np.full((8, LAYOUT.width), 0.5)
    for slot in range(8):
        ledger[slot, LAYOUT.x_at : LAYOUT.x_at + 2] = (slot, -slot)
        ledger[slot, LABEL] = labels.get(slot, np.nan)
    rows = np.zeros((len(steps), STEP), np.int64)
    for number, (slot, upto) in enumerate(steps):
        rows[number, [SLOT, UPTO, STEP_TIMESTAMP, STEP_RECEIVED, STEP_SEQUENCE]] = (slot, upto, 10, 20, 100 + number)
    return Batch(LAYOUT, ledger, ledger.view(np.int64), rows, np.array(answers, np.int64))


def noted(requests: Requests) -> list[Any]:
    """What was noted: (number, features, label) of outcomes, (sequence, features) of questions."""
    return [
        (one.number, tuple(np.frombuffer(one.x)), one.y)
        if isinstance(one, Learn)
        else (one.sequence, tuple(np.frombuffer(one.x)))
        if isinstance(one, Ask)
        else one
        for one in requests.take()
    ]


def answer(asked: int, *values: float) -> Answer:
    return Answer("mine", "1", "x", "BTC/USDT", asked, values, "", 0, 0)


def test_each_step_first_learns_then_asks() -> None:
    requests = Requests()
    requests.is_wanted = True
    one = batch({0: 2.0, 2: 1.0}, [(4, 0), (5, 2), (-1, 3), (6, 3)], [0, 1, 2])
    assert arm(requests).run(one, OUT, 0) == []
    assert noted(requests) == [
        (100, (4.0, -4.0)),
        (1, (0.0, 0.0), 2.0),
        (101, (5.0, -5.0)),
        (2, (2.0, -2.0), 1.0),
        (103, (6.0, -6.0)),
    ]
    assert np.isnan(one.ledger[[4, 5, 6], OUT : OUT + 3]).all()
    assert (one.ledger[[0, 7], OUT : OUT + 3] == 0.5).all()


def test_however_rows_are_cut_the_same_is_noted() -> None:
    whole, parts = Requests(), Requests()
    whole.is_wanted = parts.is_wanted = True
    steps, labels = [(4, 0), (5, 2), (-1, 3), (6, 3)], {0: 2.0, 2: 1.0}
    arm(whole).run(batch(labels, steps, [0, 1, 2]), OUT, 0)
    cut = arm(parts)
    cut.run(batch(labels, steps[:2], [0, 1]), OUT, 0)
    for number, (slot, upto) in enumerate(((-1, 1), (6, 0)), 2):
        part = batch(labels, [(slot, upto)], [2][:upto])
        part.steps[0, STEP_SEQUENCE] = 100 + number
        cut.run(part, OUT, 0)
    assert noted(parts) == noted(whole)


def test_steps_before_the_first_are_not_the_arms() -> None:
    requests = Requests()
    requests.is_wanted = True
    arm(requests).run(batch({0: 2.0, 2: 1.0}, [(4, 1), (5, 2)], [0, 2]), OUT, 1)
    assert noted(requests) == [(1, (2.0, -2.0), 1.0), (101, (5.0, -5.0))]


def test_where_nobody_takes_them_requests_are_counted_and_not_kept() -> None:
    requests = Requests()
    one = arm(requests)
    one.run(batch({0: 2.0}, [(4, 1), (5, 1)], [0]), OUT, 0)
    assert len(requests) == 0
    assert one.learned == 1
    assert [*one.unanswered()] == [100, 101]


def test_an_answered_row_waits_no_more_and_empty_answers_are_counted() -> None:
    one = arm(Requests())
    one.run(batch({}, [(4, 0), (5, 0), (6, 0)], []), OUT, 0)
    one.answered(answer(101, 0.2, 0.3, 0.5))
    one.answered(answer(100))
    one.answered(answer(7))
    assert [*one.unanswered()] == [102]
    assert one.arrays()["worker_counts"].tolist() == [0, 3, 2]


def test_a_model_without_labels_learns_by_being_asked() -> None:
    requests = Requests()
    requests.is_wanted = True
    one = arm(requests, "none")
    one.run(batch({0: 1.0}, [(4, 1), (5, 1)], [0]), OUT, 0)
    asked = requests.take()
    assert [request.number for request in asked if isinstance(request, Ask)] == [1, 2]
    assert one.learned == 2


def test_an_arm_becomes_what_its_arrays_were_made_of() -> None:
    one, other = arm(Requests()), arm(Requests())
    one.run(batch({0: 2.0}, [(4, 1), (5, 1)], [0]), OUT, 0)
    other.restore({name: array.copy() for name, array in one.arrays().items()})
    assert other.learned == 1
    assert [*other.unanswered()] == [100, 101]
    assert {name: array.tolist() for name, array in other.arrays().items()} == {
        name: array.tolist() for name, array in one.arrays().items()
    }


def test_what_another_arm_kept_is_refused() -> None:
    with pytest.raises(ModelError, match="in a worker"):
        arm(Requests()).restore({"weights": np.zeros(3)})


def test_an_arm_that_is_closed_is_known_no_more() -> None:
    requests = Requests()
    requests.is_wanted = True
    one = arm(requests)
    assert requests.arms == {one.name: one}
    one.close()
    assert requests.arms == {}
    assert requests.take() == [Close(one.name)]
