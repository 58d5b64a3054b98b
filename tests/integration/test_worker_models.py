"""Models in worker processes, whole: the same bits as in the loop, in a journal that needs no worker, through kills of either side."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.block import Keys
from engine.config import Config
from engine.events import Answer
from engine.models.settings import ModelConfig, ModelsConfig
from engine.models.worker_files import SUFFIX
from replay.definition import definition_of
from replay.driver import Selection, build_fold, drive
from replay.history import landmarks
from replay.sources import open_source
from store.folder import DataFolder
from store.journal_reader import read
from store.snapshot import snapshots
from tests.commands import inside
from tests.daemons import Child, children, replayed
from tests.folding import LTC

FEATURES = ("market:side", "market:price", "technical:rsi_14", "technical:macd")
SOFTMAX = {"algorithm": "scaled_softmax", "lr": 0.02}
TREE = {"river": "tree.HoeffdingTreeClassifier", "grace_period": 20}
ROWS = 500
FAST = {"FEEDS__REPLAY_SPEED": "20", "JOURNAL__EXPORT": "false", "SNAPSHOTS__EVERY_S": "0.3"}

TOML = """
[models]
run = ["mine"]

[models.define.mine]
features = ["market:side", "technical:rsi_14", "technical:macd"]
target = "up_down"
horizon = "5t"
warm_up = 20
place = "worker"
algorithm = { algorithm = "scaled_logistic", lr = 0.02 }
challengers = [{ river = "naive_bayes.GaussianNB" }]
"""


def model(place: str, algorithm: dict[str, Any], **other: Any) -> Config:
    """A configuration with one model."""
    own = ModelConfig(FEATURES, algorithm, horizon="10t", warm_up=20, place=place, **other)  # type: ignore[arg-type]
    return Config(models=ModelsConfig(run=("mine",), define={"mine": own}))


def folded(config: Config) -> tuple[str, list[Any]]:
    """The digest of the predictions of the first trades of the fixture, and how the models stand."""
    fold = build_fold(config, [], digests=True)
    until = next(int(block.received[ROWS]) for block in open_source(LTC).blocks(fold.keys))
    drive(fold, [open_source(LTC)], Selection(stop=until))
    assert fold.models is not None
    return fold.digest()["predictions"], fold.models.standings()


@pytest.mark.parametrize(
    "other",
    [
        {"algorithm": SOFTMAX, "challengers": (TREE,)},
        {"algorithm": {"algorithm": "scaled_linear"}, "target": "log_return"},
        {"algorithm": {"river": "anomaly.HalfSpaceTrees", "seed": 7, "n_trees": 3}, "target": "none"},
    ],
    ids=["classes", "a value", "no label"],
)
def test_a_model_says_the_same_in_the_loop_and_in_a_worker(other: dict[str, Any]) -> None:
    (in_loop, loop_stands), (in_worker, worker_stands) = (folded(model(place, **other)) for place in ("loop", "worker"))
    assert in_worker == in_loop
    for here, there in zip(loop_stands, worker_stands, strict=True):
        assert (there.predictions, there.outcomes, there.void) == (here.predictions, here.outcomes, here.void)
        assert here.predictions > ROWS // 2
        for mine, its in zip(here.versions, there.versions, strict=True):
            assert its.score.tobytes() == mine.score.tobytes()
            assert its.learned == mine.learned


# Daemons ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(TOML)
    return path


def workers(child: Child) -> list[int]:
    """The worker processes of a daemon."""
    found = []
    for pid in children(child.process.pid):
        try:
            if "engine.models.worker_process" in psutil.Process(pid).cmdline():
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def answers(folder: Path) -> Iterator[Any]:
    """The answers that a journal holds."""
    return (item for item in read(DataFolder(folder).journal, Keys()) if isinstance(item, Answer))


def beyond(child: Child, inputs: int) -> int:
    """Wait until so many more inputs were folded; return the sequence."""
    sequence: int = child.wait_for_sequence(child.health()["live_sequence"] + inputs)["live_sequence"]
    return sequence


def snapshotted(child: Child) -> None:
    """Wait until a snapshot was taken of models that have learned something, and with it those models."""
    child.wait_for(lambda health: health["parts"]["snapshots"]["sequence"] > 500)


def test_a_daemon_and_its_workers_are_killed_and_the_journal_tells_it_all(tmp_path: Path, config: Path) -> None:
    folder = tmp_path / "data"
    with Child(folder, "--config", str(config), **FAST) as child:
        beyond(child, 1500)
        first = workers(child)
        assert len(first) == 1
        os.kill(first[0], signal.SIGKILL)
        child.wait_for(lambda _: bool(workers(child)) and workers(child) != first)
        beyond(child, 1500)
        snapshotted(child)
        (second,) = workers(child)
        child.kill()
        assert "a worker process ended" in child.stderr()
    psutil.wait_procs([psutil.Process(second)] if psutil.pid_exists(second) else [], timeout=20)
    assert not psutil.pid_exists(second) or psutil.Process(second).status() == psutil.STATUS_ZOMBIE

    with Child(folder, "--config", str(config), **FAST) as child:
        beyond(child, 1000)
        final = child.stop()
        assert "passed over" not in child.stderr()

    said = list(answers(folder))
    assert {one.version for one in said if one.values} == {"1", "2"}
    assert [one for one in said if one.error == "the worker process ended"]
    kept = {found.head.sequence for found in snapshots(DataFolder(folder).snapshots)}
    saved = {
        int(path.name.rpartition("-")[2].removesuffix(SUFFIX))
        for path in (folder / "models").glob(f"mine-*[0-9]{SUFFIX}")
    }
    assert kept
    assert kept <= saved

    # Nothing of the fold's needs a process: the answers are inputs of the journal.
    again = replayed(folder)
    assert again["digest"] == final["digest"]
    assert len(landmarks(DataFolder(folder)).configured) == 1
    for path in (folder / "models").glob(f"*{SUFFIX}"):
        path.unlink()
    assert replayed(folder)["digest"] == final["digest"]


def test_a_replay_into_a_folder_is_one_that_a_daemon_goes_on_from(tmp_path: Path, config: Path) -> None:
    folder = tmp_path / "data"
    done = inside("replay", LTC, "--data", folder, "--config", config, "--digest", "--json")
    assert done.returncode == 0, done.stderr
    assert replayed(folder)["digest"] == json.loads(done.stdout)["digest"]
    with Child(folder, "--config", str(config), **FAST) as child:
        assert child.health()["live_sequence"] > 4_000
        beyond(child, 300)
        final = child.stop()
        assert "passed over" not in child.stderr()
    assert replayed(folder)["digest"] == final["digest"]


def test_a_snapshot_without_its_models_is_passed_over(tmp_path: Path, config: Path) -> None:
    folder = tmp_path / "data"
    with Child(folder, "--config", str(config), **FAST) as child:
        snapshotted(child)
        child.stop()
    for path in (folder / "models").glob(f"*{SUFFIX}"):
        path.unlink()
    with Child(folder, "--config", str(config), **FAST) as child:
        beyond(child, 100)
        final = child.stop()
        assert "snapshot passed over" in child.stderr()
    assert replayed(folder)["digest"] == final["digest"]


def test_another_version_of_river_is_another_definition_where_a_model_of_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def definition(config: Config) -> str:
        fold = build_fold(config, [])
        return definition_of(config, fold.features, [])  # type: ignore[arg-type]

    of_river, of_ours = model("worker", TREE), model("worker", SOFTMAX)
    before = definition(of_river), definition(of_ours)
    monkeypatch.setattr("replay.definition.versions", lambda: "river 9.9, python 3.0")
    assert definition(of_river) != before[0]
    assert definition(of_ours) == before[1]
