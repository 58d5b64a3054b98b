"""A real fold told of to a real MLflow: what stands there, what is served of it, and what the engine makes of aliases and outages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.app.tracking import Tracking
from engine.config import Config
from engine.errors import ConfigError
from engine.events import Command, Prediction, Promotion
from engine.fold import Fold
from engine.models.compiled import CompiledModel
from engine.models.score import score_size
from engine.models.settings import MlflowConfig, ModelConfig
from engine.models.spec import resolve_model
from engine.models.target import DIRECTION
from engine.tracking import load_model
from engine.tracking.follow import Moved
from engine.tracking.messages import Begin, Scores, State
from engine.tracking.registry import Subject, read_record
from engine.tracking.tracker import Copied, Tracker
from replay.driver import build_fold
from store.folder import DataFolder
from tests.folding import VIEWS, cut, recorded
from tests.mlflow_reports import CLASSES, FEATURES, report, taught
from tests.mlflow_servers import READY_S, Door, Lines, MlflowServer, until

KEY = ("binance", "BTC/USDT")
NAME = "btcusdt.direction_60s"
MODEL = ModelConfig(
    features=FEATURES,
    algorithm={"algorithm": "scaled_softmax", "lr": 0.005},
    challengers=(
        {"algorithm": "scaled_softmax", "lr": 0.05},
        {"river": "tree.HoeffdingTreeClassifier", "grace_period": 50},
    ),
    warm_up=20,
)


@dataclass
class Told:
    """What was told of one engine, and to where."""

    folder: DataFolder
    fold: Fold
    log: Lines = field(default_factory=Lines)
    reported: list[Any] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder.path / "mlflow"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"

    def latest(self) -> tuple[dict[str, float], Prediction]:
        """The newest prediction, and the row that it was made from, as it lies in the ledger."""
        assert self.fold.models is not None
        said = self.fold.models.latest("direction", *KEY)
        actor = self.fold.models.actors[KEY][0]
        slot, _ = actor.ledger.newest
        at = actor.shared.layout.x_at
        assert said is not None
        return dict(zip(FEATURES, actor.ledger.rows[slot, at : at + len(FEATURES)].tolist(), strict=True)), said

    def record(self) -> Any:
        return read_record(next(self.home.glob("logged-*.json")), (self.home / "engine").read_text().strip())


async def story(told: Told) -> None:
    """Fold half of the recording, begin to track, fold on, promote version 2 by hand, fold the rest, and stop."""
    fold, log = told.fold, told.log
    config = msgspec.structs.replace(Config(), mlflow=MlflowConfig(enabled=True, metrics_s=0.5))
    tracking = Tracking(config, told.folder, log)
    fold.keys, block = recorded()
    half = len(block) // 2
    for part in cut(block.take(slice(0, half)), 512):
        fold.push(part)
    tracking.start(fold, lambda verb, target: pytest.fail(f"{verb} {target}"))
    running = asyncio.create_task(tracking.run())
    await reached(lambda: tracking.health().logged >= 4, told)
    for part in cut(block.take(slice(half, len(block) - 500)), 512):
        fold.push(part)
    now = fold.now()
    fold.input(Command("promote", f"direction@2 {':'.join(KEY)}", now, now))
    fold.push(block.take(slice(len(block) - 500, None)))
    for event in told.reported:
        tracking.hear(event)
    await reached(lambda: tracking.health().logged >= 6, told)
    running.cancel()
    await asyncio.wait([running])
    await tracking.close(60.0)
    assert tracking.health().state == "stopped"
    assert tracking.health().waiting == 0


async def reached(holds: Any, told: Told) -> None:
    deadline = time.monotonic() + READY_S
    while not holds():
        assert time.monotonic() < deadline, told.log.lines
        await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The one SQLite file of all these tests, made by the engine itself."""
    path = tmp_path_factory.mktemp("engine")
    reported: list[Any] = []
    fold = build_fold(
        Config(), [], views=VIEWS, digests=True, report=reported.append, models=[resolve_model("direction", MODEL)]
    )
    made = Told(DataFolder(path), fold, reported=reported)
    asyncio.run(story(made))
    return made


@pytest.fixture(scope="module")
def servers(told: Told) -> Iterator[tuple[MlflowServer, MlflowServer]]:
    """What serves the champion, and MLflow's own server with its page; both start at the same time."""
    folder = told.folder.path
    server = MlflowServer(
        folder, "server", "--backend-store-uri", told.uri, "--artifacts-destination", str(folder / "remote"), "--workers", "1",
    )  # fmt: skip
    model = MlflowServer(
        folder,
        "models",
        "serve",
        "-m",
        f"models:/{NAME}@champion",
        "--env-manager",
        "local",
        MLFLOW_TRACKING_URI=told.uri,
    )
    try:
        server.wait("/health")
        model.wait("/ping")
        yield model, server
    finally:
        server.stop()
        model.stop()


def client(told: Told) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=told.uri, registry_uri=told.uri)


# What stands in MLflow --------------------------------------------------------------------------------------------------------


def test_the_champion_is_served_as_the_actor_says_it(told: Told, servers: tuple[MlflowServer, MlflowServer]) -> None:
    row, said = told.latest()
    assert said.version == "2", "the one that was promoted"
    names, values = [*row], [*row.values()]
    body = {"dataframe_split": {"columns": names, "data": [values, [None, *values[1:]]]}}
    answer, nothing = servers[0].ask("/invocations", body)["predictions"]
    assert [answer[name] for name in CLASSES] == list(said.probabilities), "to the last bit"
    assert answer["class"] == CLASSES[int(np.argmax(said.probabilities))]
    assert all(np.isnan(nothing[name]) for name in (*CLASSES, "class")), "nothing that is not finite reaches a model"
    records = servers[0].ask("/invocations", {"dataframe_records": [dict(reversed(row.items()))]})
    assert records["predictions"] == [answer]


def test_the_page_of_mlflow_shows_the_run(told: Told, servers: tuple[MlflowServer, MlflowServer]) -> None:
    server = servers[1]
    found = server.ask("/api/2.0/mlflow/experiments/get-by-name?experiment_name=tickfold")["experiment"]
    runs = server.ask("/api/2.0/mlflow/runs/search", {"experiment_ids": [found["experiment_id"]]})["runs"]
    by_name = {run["info"]["run_name"]: run for run in runs}
    assert sorted(by_name) == ["btcusdt.direction_60s", "ethusdt.direction_60s"]
    data = by_name[NAME]["data"]
    parameters = {one["key"]: one["value"] for one in data["params"]}
    assert parameters["algorithm"] == '{"algorithm":"scaled_softmax","lr":0.005}'
    assert {"schema_hash", "river", "tickfold", "target", "horizon"} <= parameters.keys()
    metrics = {one["key"]: one for one in data["metrics"]}
    assert {"predictions", "v1/brier", "v2/brier", "v2/e_value", "v1/learned"} <= metrics.keys()
    assert any(name.startswith("v1/baselines/") for name in metrics), "no score without its baselines"
    assert int(metrics["outcomes"]["step"]) == told.fold.sequence()
    history = server.ask(
        f"/api/2.0/mlflow/metrics/get-history?run_id={by_name[NAME]['info']['run_id']}&metric_key=outcomes"
    )
    steps = [int(one["step"]) for one in history["metrics"]]
    assert steps == sorted(steps)
    assert len(set(steps)) > 1
    alias = server.ask(f"/api/2.0/mlflow/registered-models/alias?name={NAME}&alias=champion")["model_version"]
    assert {one["key"]: one["value"] for one in alias["tags"]}["tickfold.version"] == "2"


def test_each_alias_names_the_newest_state_of_its_version(told: Told) -> None:
    assert told.fold.models is not None
    promoted = [event for event in told.reported if isinstance(event, Promotion)]
    assert [(event.from_version, event.to_version) for event in promoted] == [("1", "2")]
    found = client(told)
    for alias, version in (("champion", "2"), ("previous", "1")):
        number = found.get_model_version_by_alias(NAME, alias)
        assert number.tags["tickfold.version"] == version
        assert number.tags["tickfold.symbol"] == "BTC/USDT"
        arm = told.fold.models.arm("direction", *KEY, version)
        assert arm is not None
        model = load(told, f"models:/{NAME}@{alias}")
        assert model.arrays()["state"].tobytes() == arm.arrays()["state"].tobytes(), "it goes on where the actor is"


def load(told: Told, uri: str) -> CompiledModel:
    import mlflow

    mlflow.set_tracking_uri(told.uri)
    loaded: CompiledModel = load_model(uri)
    return loaded


def test_a_river_version_is_not_logged_and_that_is_said_once(told: Told) -> None:
    assert told.record().models[NAME].newest("3") is None
    said = [fields for _, event, fields in told.log.lines if event == "a version is not logged in MLflow"]
    assert {(one["model"], one["symbol"]) for one in said} <= {
        ("direction@3", "binance:BTC/USDT"), ("direction@3", "binance:ETH/USDT"),
    }  # fmt: skip
    assert len(said) <= 2
    assert all("allow_pickle" in one["reason"] for one in said)
    assert not told.log.of("error")


# Outages ----------------------------------------------------------------------------------------------------------------------


def test_mlflow_that_is_down_hangs_and_comes_back_costs_nothing_that_finds_room(
    told: Told, servers: tuple[MlflowServer, MlflowServer], tmp_path: Path
) -> None:
    door, log = Door(servers[1].port), Lines()
    begin = Begin(f"http://127.0.0.1:{door.port}", "far", "", str(tmp_path), "far engine", False)
    how: dict[str, Any] = {"log": log, "retry_s": 0.05, "reports_max": 3}
    tracker = Tracker(begin, answer_s=60.0, **how)
    tracker.start()
    copied = Copied("1", 30, 30, {"algorithm": "scaled_softmax"}, taught(30).arrays())
    scores = (Scores("1", np.zeros(score_size(DIRECTION, 3)).tobytes(), 30, 1_000, 1.0, 20.0, 0),)
    # Down.
    tracker.offer(report(1, aliases={"champion": "1"}, scores=scores), [copied])
    until(lambda: tracker.health().failures >= 2, "a second try")
    down = tracker.health()
    assert (down.state, down.waiting, down.sent) == ("retrying", 1, 0)
    assert "refused" in down.detail
    assert log.of("warning") == ["MLflow does not take what it is told"], "said once"
    assert down.failures < 50, "with waits that grow"
    # There.
    door.open()
    until(lambda: tracker.health().sent == 1, "the first report")
    assert (tracker.health().state, tracker.health().logged, tracker.health().detail) == ("tracking", 1, "")
    assert log.of("info") == ["MLflow takes what it is told again"]
    # One that will never be taken stops nothing.
    tracker.offer(report(2, states=(State("1", 1, 1, {}, b"no npz"),)))
    until(lambda: tracker.health().refused == 1, "a report that is refused")
    assert log.of("error") == ["MLflow refused a report"]
    tracker.stop(30.0)
    # It hangs: the next engine's process is ended, and begun anew.
    tracker = Tracker(begin, answer_s=3.0, **how)
    tracker.start()
    tracker.offer(report(2))
    until(lambda: tracker.health().sent == 1, "the second report")
    door.cut()
    door.open(is_hanging=True)
    for sequence in range(3, 9):
        tracker.offer(report(sequence))
    until(lambda: tracker.health().detail == "MLflow did not answer within 3 s", "a try that is given up")
    hung = tracker.health()
    assert (hung.waiting, hung.dropped) == (3, 3)
    # The engine stops meanwhile: what is left is told by the next one.
    began = time.monotonic()
    tracker.stop(0.5)
    assert time.monotonic() - began < 30.0, "a process that hangs is not waited for"
    assert (tmp_path / "pending.msgpack").is_file()
    door.shut()
    door.open()
    tracker = Tracker(begin, **how)
    tracker.start()
    until(lambda: tracker.health().sent == 3, "what was left")
    tracker.stop(30.0)
    door.shut()
    assert not (tmp_path / "pending.msgpack").exists()
    found = servers[1].ask("/api/2.0/mlflow/experiments/get-by-name?experiment_name=far")["experiment"]
    (run,) = servers[1].ask("/api/2.0/mlflow/runs/search", {"experiment_ids": [found["experiment_id"]]})["runs"]
    path = f"/api/2.0/mlflow/metrics/get-history?run_id={run['info']['run_id']}&metric_key=predictions"
    assert [int(one["step"]) for one in servers[1].ask(path)["metrics"]] == [1, 2, 6, 7, 8], "the oldest made room"


def test_a_moved_alias_becomes_a_command_on_the_loop_and_one_that_cannot_be_obeyed_is_said(tmp_path: Path) -> None:
    reported: list[Any] = []
    fold = build_fold(Config(), [], views=VIEWS, report=reported.append, models=[resolve_model("direction", MODEL)])
    fold.keys, block = recorded()
    fold.push(block.take(slice(0, 512)))
    log, now = Lines(), fold.now()

    def command(verb: Any, target: str) -> Command:
        told = Command(verb, target, now, now)
        fold.check(told)
        fold.input(told)
        return told

    async def follow() -> None:
        config = msgspec.structs.replace(Config(), mlflow=MlflowConfig(enabled=True, follow_aliases=True))
        tracking = Tracking(config, DataFolder(tmp_path), log)
        tracking.start(fold, command)
        subject = Subject(*KEY, "direction", "60s")
        for version in ("2", "9"):  # the tracker's thread tells it
            await asyncio.to_thread(tracking._heard_moved, Moved(subject, NAME, "7", version, ""))
        await asyncio.sleep(0)
        await tracking.close(0.0)

    asyncio.run(follow())
    assert [event.to_version for event in reported if isinstance(event, Promotion)] == ["2"]
    assert log.of("info")[0] == "followed an alias"
    assert log.of("warning") == ["an alias that was moved is not followed"]


def test_without_mlflow_installed_the_daemon_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = msgspec.structs.replace(Config(), mlflow=MlflowConfig(enabled=True))
    with pytest.raises(ConfigError, match=r"pip install tickfold\[mlflow\]"):
        Tracking(config, DataFolder(tmp_path), Lines())
