"""Real worker processes: what waits for them is bounded, what they learned survives them, and nobody waits for them but a replay."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import ConfigError, ModelError
from engine.events import Answer
from engine.models import workers
from engine.models.arm import Batch
from engine.models.layout import LABEL, SLOT, STEP, STEP_RECEIVED, STEP_SEQUENCE, STEP_TIMESTAMP, UPTO, Layout
from engine.models.settings import ModelConfig, ModelsConfig
from engine.models.spec import resolve_model
from engine.models.worker import Requests
from engine.models.worker_files import path_of, read_model, suffix_of
from engine.models.worker_state import check_saved
from engine.models.workers import WorkerPool

SOFTMAX = {"algorithm": "scaled_softmax", "lr": 0.1}
LAYOUT = Layout(2, 3, 0, 1)
ROWS = 60
DEADLINE_S = 60.0
NOISE = np.random.default_rng(3).normal(size=(ROWS, 2))
DEADLY = """
import os, signal

class Deadly:
    def learn_one(self, x, y): os.kill(os.getpid(), signal.SIGKILL)
    def predict_one(self, x): return 0
    def predict_proba_one(self, x): return {0: 1.0}

def make(): return Deadly()
"""


class Bench:
    """Arms as a fold has them, and a pool that is fed one row at a time."""

    def __init__(self, folder: Path, *, is_live: bool, algorithm: Any = None, keys: int = 1, **config: Any) -> None:
        self.requests = Requests(ModelsConfig(**config))
        own = ModelConfig(("market:price", "market:side"), algorithm or SOFTMAX)
        spec = resolve_model("mine", own)
        self.arms = [self.requests.arm("x", f"S{key}", "1", own.algorithm, spec, 7) for key in range(keys)]
        self.heard: list[Answer] = []
        self.said: list[tuple[str, dict[str, Any]]] = []
        self._changed = threading.Condition()
        self.folder = folder / "models"
        self.pool = WorkerPool(
            self.requests, self.folder, "definition", heard=self._hear if is_live else None, say=self._say
        )

    def _hear(self, answers: Sequence[Answer]) -> None:
        with self._changed:
            self.heard += answers
            self._changed.notify_all()

    def _say(self, what: str, facts: dict[str, Any]) -> None:
        with self._changed:
            self.said.append((what, facts))
            self._changed.notify_all()

    def note(self, number: int, *, learns: bool = True) -> None:
        """Have each arm learn from the row before, and ask about row `number`."""
        ledger = np.full((2, LAYOUT.width), np.nan)
        ledger[:, LAYOUT.x_at : LAYOUT.x_at + 2] = NOISE[[number - 1, number]]
        ledger[0, LABEL] = number % 3
        steps = np.zeros((1, STEP), np.int64)
        steps[0, [SLOT, UPTO, STEP_TIMESTAMP, STEP_RECEIVED, STEP_SEQUENCE]] = (1, int(learns), 10, 20, number)
        for arm in self.arms:
            arm.run(Batch(LAYOUT, ledger, ledger.view(np.int64), steps, np.array([0])), LAYOUT.out_at(0), 0)

    def send(self, number: int) -> None:
        self.note(number)
        self.pool.send(self.requests.take())

    def answered(self, first: int, end: int) -> list[Answer]:
        """Feed rows one at a time, each answered before the next: patient pools."""
        found = []
        for number in range(first, end):
            self.send(number)
            found += self.pool.wait()
        return found

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Wait until something heard or said makes it true."""
        with self._changed:
            assert self._changed.wait_for(what, DEADLINE_S), (self.said, self.pool.health())

    def kill(self) -> None:
        os.kill(self.pool.health().workers[0].pid, signal.SIGKILL)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**config: Any) -> Bench:
        made.append(Bench(tmp_path, **config))
        return made[-1]

    yield make
    for one in made:
        one.pool.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[float, ...]]:
    """What the model says to each row if nothing happens to its process."""
    one = Bench(tmp_path_factory.mktemp("expected"), is_live=False)
    try:
        return [answer.values for answer in one.answered(1, ROWS)]
    finally:
        one.pool.close()


def test_live_answers_come_by_themselves(bench: Callable[..., Bench], expected: list[tuple[float, ...]]) -> None:
    one = bench(is_live=True)
    for number in range(1, ROWS):
        one.send(number)
    one.wait_for(lambda: len(one.heard) == ROWS - 1)
    assert [answer.values for answer in one.heard] == expected
    assert [answer.asked for answer in one.heard] == [*range(1, ROWS)]
    assert len(set(expected)) > ROWS // 2
    health = one.pool.health()
    assert (health.asked, health.answered, health.let_go, health.lost) == (ROWS - 1, ROWS - 1, 0, 0)


def test_a_full_queue_lets_go_of_questions_and_of_no_outcome(bench: Callable[..., Bench]) -> None:
    one = bench(is_live=True, worker_queue=4)
    for number in range(1, ROWS):
        one.send(number)  # the process is still being started: nothing is handled meanwhile
    health = one.pool.health()
    let_go = [answer for answer in one.heard if answer.error.startswith("let go of")]
    assert len(let_go) == health.let_go > ROWS // 2
    assert all(answer.values == () and answer.timestamp == 10 for answer in let_go)
    assert "rows are let go of by a worker's full queue" in [what for what, _ in one.said]
    one.pool.save(5).result(DEADLINE_S)
    head, _ = read_model(path_of(one.folder, one.arms[0].name, suffix_of(5)), one.arms[0].name)
    assert head.learned == ROWS - 1
    one.wait_for(lambda: len(one.heard) == ROWS - 1)
    one.pool.wait_below(0)
    one.send(1)
    one.wait_for(lambda: len(one.heard) == ROWS)
    assert one.heard[-1].values
    assert one.said[-1][0] == "a worker has caught up"


def test_outcomes_that_pile_up_make_feeds_wait(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LEARNS_QUEUES", 2)
    one = bench(is_live=True, worker_queue=8)
    assert not one.pool.health().is_pressed
    for number in range(1, 30):
        one.send(number)
    assert one.pool.health().is_pressed
    one.pool.wait_below(0)
    assert not one.pool.health().is_pressed


def test_a_replay_does_not_notice_that_workers_die(
    bench: Callable[..., Bench], expected: list[tuple[float, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "CHECKPOINT_LEARNS", 25)
    one = bench(is_live=False)
    said = one.answered(1, 20)
    one.kill()  # nothing was saved: all is sent again
    said += one.answered(20, 50)
    one.pool.wait_below(0)
    assert one.pool.health().saves > 0
    one.send(50)
    one.kill()  # while it is asked, and after a save
    said += one.pool.wait()
    said += one.answered(51, ROWS)
    assert [answer.error for answer in said if answer.error] == []
    assert [answer.values for answer in said] == expected
    assert one.pool.health().workers[0].deaths == 2


def test_live_a_dead_worker_is_lost_for_a_moment_and_then_what_it_was(
    bench: Callable[..., Bench], expected: list[tuple[float, ...]]
) -> None:
    one = bench(is_live=True)
    one.send(1)
    one.wait_for(lambda: len(one.heard) == 1)
    one.kill()
    one.wait_for(lambda: "a worker process ended" in [what for what, _ in one.said])
    for number in range(2, 30):
        one.send(number)
    lost = [answer for answer in one.heard if not answer.values]
    assert lost
    assert {answer.error for answer in lost} <= {"let go of: no worker runs", "the worker process ended"}
    one.wait_for(lambda: "a worker process was started again" in [what for what, _ in one.said])
    for number in range(30, ROWS):
        one.send(number)
    one.wait_for(lambda: len(one.heard) == ROWS - 1)
    heard = {answer.asked: answer.values for answer in one.heard}
    assert [heard[number] for number in range(30, ROWS)] == expected[29:]


def test_models_go_on_from_where_they_were_saved(
    bench: Callable[..., Bench], expected: list[tuple[float, ...]]
) -> None:
    one = bench(is_live=False)
    one.answered(1, 30)
    one.pool.save(29).result(DEADLINE_S)
    check_saved(one.requests, one.folder, 29, "definition")
    one.pool.close()
    other = bench(is_live=False)
    other.note(1)
    with pytest.raises(ModelError, match="outcomes learned"):
        check_saved(other.requests, other.folder, 29, "definition")
    other.requests.take()
    other.arms[0].restore(one.arms[0].arrays())
    with pytest.raises(ModelError, match="definition"):
        check_saved(other.requests, other.folder, 29, "another")
    with pytest.raises(ModelError, match="No such file"):
        check_saved(other.requests, other.folder, 30, "definition")
    other.pool.load(29)
    assert [answer.values for answer in other.answered(30, ROWS)] == expected[29:]


def test_arms_are_shared_out_and_answers_come_in_the_order_of_the_questions(bench: Callable[..., Bench]) -> None:
    one = bench(is_live=False, keys=5, workers=2)
    said = one.answered(1, 6)
    assert [(answer.asked, answer.symbol) for answer in said] == [
        (row, f"S{key}") for row in range(1, 6) for key in range(5)
    ]
    assert sorted(worker.arms for worker in one.pool.health().workers) == [2, 3]
    one.arms[0].close()
    one.pool.send(one.requests.take())
    assert sum(worker.arms for worker in one.pool.health().workers) == 4


def test_a_replay_gives_up_on_a_model_that_kills_its_process(
    bench: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "AGAIN_S", 0.001)
    monkeypatch.setattr(workers, "DEATHS_MAX", 2)
    path = tmp_path / "deadly_model.py"
    path.write_text(DEADLY)
    one = bench(is_live=False, algorithm={"factory": f"{path}:make"})
    with pytest.raises(ModelError, match="ended 2 times, the last time with exit code -9"):
        one.answered(1, 3)


def test_a_model_that_takes_too_much_memory_is_named_once(bench: Callable[..., Bench]) -> None:
    one = bench(is_live=True, memory_mib=1e-6)
    for number in range(1, 10):
        one.send(number)
    one.wait_for(lambda: len(one.heard) == 9)
    large = [facts for what, facts in one.said if what == "a model takes more memory than it may"]
    assert [facts["model"] for facts in large] == ["mine 1 x S0"]
    assert one.arms[0].memory == one.pool.health().workers[0].memory > 0


def test_a_save_without_a_process_fails_at_once(bench: Callable[..., Bench]) -> None:
    one = bench(is_live=True)
    one.send(1)
    one.wait_for(lambda: len(one.heard) == 1)
    one.kill()
    one.wait_for(lambda: bool(one.said))
    with pytest.raises(ModelError, match="at sequence 3"):
        one.pool.save(3).result(DEADLINE_S)


def test_a_model_that_cannot_be_built_is_found_out_before_anything_is_asked(bench: Callable[..., Bench]) -> None:
    one = bench(is_live=True)
    good = ModelConfig(("market:price",), SOFTMAX, challengers=({"algorithm": "scaled_linear"},))
    with pytest.raises(ConfigError, match=r"mine 2 .*scaled_linear"):
        one.pool.check([resolve_model("mine", good)]).result(DEADLINE_S)
    one.pool.check([resolve_model("mine", ModelConfig(("market:price",), SOFTMAX))]).result(DEADLINE_S)
    assert [*one.folder.iterdir()] == []


def test_a_replay_ends_with_a_model_that_cannot_be_built(bench: Callable[..., Bench]) -> None:
    one = bench(is_live=False, algorithm={"algorithm": "scaled_linear"})
    with pytest.raises(ModelError, match="scaled_linear"):
        one.answered(1, 3)
