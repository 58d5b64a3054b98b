"""What a worker process does with requests: the same as the arm in the loop, in their order, and no error gets out but as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.models.arm import Batch
from engine.models.build import make_arm
from engine.models.layout import LABEL, SLOT, STEP, STEP_SEQUENCE, UPTO, Layout
from engine.models.settings import ModelConfig
from engine.models.spec import resolve_model
from engine.models.worker_files import own_folder, path_of, suffix_of
from engine.models.worker_messages import (
    REQUESTS,
    SAID,
    SIZE,
    Answered,
    ArmName,
    Ask,
    Done,
    Learn,
    Measured,
    Open,
    Save,
    Saved,
    frame,
)
from engine.models.worker_process import Handler

ARM = ArmName("mine", "1", "x", "BTC/USDT")
CONFIG = ModelConfig(("market:price", "market:side"), {"algorithm": "scaled_softmax", "lr": 0.1})
BROKEN = """
class Broken:
    def __init__(self): self.count = 0
    def learn_one(self, x, y):
        self.count += 1
        if self.count == 2: raise ValueError("no second time")
    def predict_one(self, x): return 1
    def predict_proba_one(self, x):
        if x["market:price"] > 5.0: raise ArithmeticError("too high")
        return {0: 0.5, 1: 0.25, 2: 0.25} if x["market:price"] >= 0.0 else {0: float("inf"), 1: 0.0, 2: 0.0}

def make(): return Broken()
"""


class Process:
    """A handler with what it said; its clock goes on by a second at each look."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.handler = Handler(self.said.append, iter(range(1_000_000)).__next__)

    def handle(self, *requests: Any) -> list[Any]:
        """What is said to requests, but for how far it is and what it measured."""
        self.said.clear()
        for request in requests:
            self.handler.handle(REQUESTS.decode(frame(request)[SIZE.size :]), is_idle=False)
        return [one for one in self.said if isinstance(one, Answered | Saved)]


def opened(algorithm: dict[str, Any] | None = None, config: ModelConfig = CONFIG, load: str = "") -> Open:
    return Open(ARM, config, algorithm or config.algorithm, 7, load)


def row(*values: float) -> bytes:
    return np.array(values).tobytes()


def learn(number: int, *x: float, y: float) -> Learn:
    return Learn(ARM, number, row(*x), y)


def ask(sequence: int, *x: float) -> Ask:
    return Ask(ARM, 0, sequence, 10, 20, row(*x))


def values(said: list[Any]) -> list[tuple[float, ...]]:
    return [one.values for one in said]


def stream(count: int) -> list[Any]:
    """Outcomes and questions in turn."""
    noise = np.random.default_rng(1)
    rows = noise.normal(size=(count, 2)).tolist()
    found: list[Any] = []
    for number, x in enumerate(rows, 1):
        found += [ask(number, *x), learn(number, *x, y=float(number % 3))]
    return found


def test_a_process_says_what_the_arm_in_the_loop_says() -> None:
    said = Process().handle(opened(), *stream(50))
    layout = Layout(2, 3, 0, 1)
    arm = make_arm(CONFIG.algorithm, resolve_model("mine", CONFIG), layout, 7)
    requests = stream(50)
    asked = [one for one in requests if isinstance(one, Ask)]
    learned = [one for one in requests if isinstance(one, Learn)]
    # In the loop all rows lie in one ledger, and one batch takes all steps: at each the outcome before it is learned from.
    ledger = np.full((50, layout.width), np.nan)
    steps = np.zeros((50, STEP), np.int64)
    for number, (question, outcome) in enumerate(zip(asked, learned, strict=True)):
        ledger[number, layout.x_at : layout.x_at + 2] = np.frombuffer(question.x)
        ledger[number, LABEL] = outcome.y
        steps[number, [SLOT, UPTO, STEP_SEQUENCE]] = (number, number, number + 1)
    out = layout.out_at(0)
    assert arm.run(Batch(layout, ledger, ledger.view(np.int64), steps, np.arange(50)), out, 0) == []
    assert values(said) == [tuple(one) for one in ledger[:, out : out + 3].tolist()]
    assert [one.sequence for one in said] == [*range(1, 51)]


def test_what_was_learned_before_is_passed_over() -> None:
    requests = stream(20)
    once = Process().handle(opened(), *requests, ask(99, 1.0, 2.0))
    again = [one for one in requests[:30] if isinstance(one, Learn)]
    twice = Process().handle(opened(), *requests, *again, ask(99, 1.0, 2.0))
    assert values(twice) == values(once)


def test_missing_outcomes_are_noticed_and_nothing_is_said_any_more() -> None:
    process = Process()
    said = process.handle(opened(), learn(1, 1.0, 1.0, y=1.0), learn(4, 1.0, 1.0, y=1.0), ask(9, 1.0, 1.0))
    assert values(said) == [()]
    assert "outcomes 2 to 3 are missing" in said[0].error
    assert [one.arm for one in process.said if isinstance(one, Done)] == [ARM]


@pytest.mark.parametrize(
    "algorithm",
    [{"algorithm": "scaled_softmaks"}, {"river": "tree.NoSuchTree"}, {"factory": "nowhere.py:make"}],
    ids=lambda one: next(iter(one.values())),
)
def test_a_model_that_cannot_be_built_answers_with_the_reason(algorithm: dict[str, Any]) -> None:
    said = Process().handle(opened(algorithm), learn(1, 1.0, 1.0, y=1.0), ask(1, 1.0, 1.0))
    assert values(said) == [()]
    assert next(iter(algorithm.values())).partition(":")[0].partition(".")[0] in said[0].error


def test_what_a_model_raises_becomes_an_answer_with_text(tmp_path: Path) -> None:
    path = tmp_path / "broken_model.py"
    path.write_text(BROKEN)
    process = Process()
    said = process.handle(
        opened({"factory": f"{path}:make"}),
        ask(1, 9.0, 0.0),
        ask(2, 1.0, 0.0),
        ask(3, -1.0, 0.0),
        learn(1, 1.0, 0.0, y=0.0),
        learn(2, 1.0, 0.0, y=0.0),
        ask(4, 1.0, 0.0),
        ask(5, 1.0, 0.0),
    )
    assert values(said) == [(), (0.5, 0.25, 0.25), (), (0.5, 0.25, 0.25), (0.5, 0.25, 0.25)]
    assert "too high" in said[0].error
    assert "no second time" in said[3].error
    assert [one.error for one in said[1::3]] == ["", ""]


def test_an_arm_goes_on_from_its_file(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "models")
    requests = stream(40)
    whole = Process().handle(opened(), *requests)
    first = Process()
    first.handle(opened(), *requests[:40])
    (saved,) = first.handle(Save(3, str(folder), suffix_of(20), 20, "definition"))
    assert saved == Saved(3, "", 42)
    second = Process()
    said = second.handle(opened(load=str(path_of(folder, ARM, suffix_of(20)))), *requests[30:])
    assert values(said[-20:]) == values(whole[-20:])


def test_a_save_that_fails_says_why(tmp_path: Path) -> None:
    process = Process()
    process.handle(opened())
    (saved,) = process.handle(Save(1, str(tmp_path / "nowhere"), suffix_of(1), 1, ""))
    assert "No such file" in saved.error
    (broken,) = Process().handle(opened({"algorithm": "nothing"}), Save(1, str(tmp_path), suffix_of(1), 1, ""))[-1:]
    assert "nothing" in broken.error


def test_a_quiet_question_teaches_and_is_not_answered() -> None:
    config = msgspec.structs.replace(
        CONFIG, target="none", algorithm={"river": "anomaly.HalfSpaceTrees", "seed": 1, "window_size": 5}
    )
    requests = [Ask(ARM, number, number, 0, 0, row(number % 5 / 5, number % 3 / 3)) for number in range(1, 40)]
    quiet = [msgspec.structs.replace(one, is_quiet=one.number < 30) for one in requests]
    loud, silent = (Process().handle(opened(config=config), *each) for each in (requests, quiet))
    assert len(silent) == 10
    assert values(silent) == values(loud)[-10:]
    assert len(set(values(silent))) > 1


def test_memory_is_measured_and_progress_is_told() -> None:
    process = Process()
    process.handle(opened(), *(one for one in stream(150) if isinstance(one, Learn)))
    measured = [one for one in process.said if isinstance(one, Measured)]
    assert measured
    assert all(one.memory > 0 for one in measured)
    assert max(one.done for one in process.said if isinstance(one, Done)) >= 128


def test_messages_travel_bit_for_bit() -> None:
    tiny = Answered(ARM, 1, (5e-324, -0.0, 0.1 + 0.2), "", 3)
    back = SAID.decode(frame(tiny)[SIZE.size :])
    assert isinstance(back, Answered)
    assert np.array(back.values).tobytes() == np.array(tiny.values).tobytes()
