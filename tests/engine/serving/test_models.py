"""What /models, /metrics, /health, /commands and the stream tell of models: over the real server and the real stage of the fold."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from engine.events import Drift, Outcome, Prediction
from engine.models.report import report
from engine.models.settings import ModelConfig, ModelsConfig
from engine.models.standing import standing_of
from engine.serving import models as board_module
from engine.serving.models import Board, Wish
from engine.serving.server import Server, serve
from engine.serving.tracks import ROLLING, SAMPLES, Recent, Track
from tests.engine.serving.test_operations import command, get, metrics
from tests.engine.serving.test_stream import of_type, streaming, until
from tests.folding import BTC, ETH, START, VIEWS, trade, trades
from tests.serving import Daemon

SOFTMAX = {"algorithm": "scaled_softmax", "lr": 0.01}
DIRECTION = ModelConfig(
    features=("quick:price", "quick:sum_10s"),
    algorithm=SOFTMAX,
    horizon="5t",
    warm_up=5,
    challengers=({**SOFTMAX, "lr": 0.001},),
)
RETURN = ModelConfig(
    features=("quick:price",), algorithm={"algorithm": "scaled_linear"}, target="log_return", horizon="2s", warm_up=5
)
MODELS = ModelsConfig(run=("turn", "move"), define={"turn": DIRECTION, "move": RETURN})


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path, views=VIEWS, models=MODELS, stream_hz=50.0)


@pytest_asyncio.fixture
async def server(daemon: Daemon) -> AsyncIterator[Server]:
    server = await serve(daemon)
    yield server
    await server.stop()


def actor_of(daemon: Daemon, model: str = "turn", key: tuple[str, str] = BTC) -> Any:
    stage = daemon.fold.models
    assert stage is not None
    return next(actor for actor in stage.actors[key] if actor.shared.spec.name == model)


async def refused(server: Server, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(server.url + path) as got:
        assert got.status == 422
        return (await got.json())["error"]


# /models ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_models_are_told_by_key_each_with_its_report(daemon: Daemon, server: Server) -> None:
    assert await get(server, "/models") == []
    daemon.push(*trades(200), *trades(40, ETH))
    found = await get(server, "/models")
    told = [(one["symbol"], one["model"]) for one in found]
    assert told == [("BTC/USDT", "turn"), ("BTC/USDT", "move"), ("ETH/USDT", "turn"), ("ETH/USDT", "move")]
    first, standing = found[0], standing_of(actor_of(daemon))
    assert (first["target"], first["horizon"], first["classes"]) == ("direction", "5t", ["down", "flat", "up"])
    assert first["ready"]
    assert first["outcomes"] == standing.outcomes > 100
    assert [(one["version"], one["role"]) for one in first["versions"]] == [("1", "champion"), ("2", "challenger")]
    for told_of, version in zip(first["versions"], standing.versions, strict=True):
        own = report(version.score, kind=standing.kind, classes=standing.classes, coverage=standing.coverage)
        assert told_of["report"] == json.loads(json.dumps(own))
        assert own["n"] > 100
        assert own["baselines"]
    assert first["said"] is None
    assert first["versions"][0]["algorithm_text"] == "scaled_softmax(lr=0.01)"
    assert first["versions"][0]["e_value"] is None
    assert first["versions"][1]["e_value"] > 0.0
    assert found[1]["classes"] == []
    assert found[1]["versions"][0]["report"]["headline"] == "mse"


@pytest.mark.asyncio
async def test_models_can_be_asked_for_by_name_and_key(daemon: Daemon, server: Server) -> None:
    daemon.push(*trades(60), *trades(60, ETH))
    found = await get(server, "/models?model=move&exchange=x&symbol=ETH/USDT")
    assert [(one["symbol"], one["model"]) for one in found] == [("ETH/USDT", "move")]
    assert "history" not in found[0]
    assert await get(server, "/models?symbol=SOL/USDT") == []
    assert (await refused(server, "/models?modell=move"))["field"] == "modell"
    assert (await refused(server, "/models?history=yes"))["field"] == "history"


@pytest.mark.asyncio
async def test_a_report_is_made_in_a_thread_and_again_only_when_more_was_verified(
    daemon: Daemon, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def noted(*arguments: Any, **named: Any) -> Any:
        made.append(threading.current_thread().name)
        return report(*arguments, **named)

    monkeypatch.setattr(board_module, "report", noted)
    daemon.push(*trades(100))
    await get(server, "/models?model=turn")
    assert len(made) == 2  # the champion's and the challenger's
    assert threading.main_thread().name not in made
    await get(server, "/models?model=turn")
    assert len(made) == 2
    daemon.push(*(trade(at=25.0 + number, trade_id=101 + number) for number in range(9)))
    await get(server, "/models?model=turn")
    assert len(made) == 4


@pytest.mark.asyncio
async def test_the_history_holds_samples_in_which_more_was_verified(daemon: Daemon) -> None:
    board = Board(daemon)
    for count in (50, 50, 100, 150):
        newest = daemon.fold.sequence()
        daemon.push(*(trade(at=0.25 * n, trade_id=n + 1, price=100.0 + n % 7) for n in range(newest, newest + count)))
        await board.sample()
        await board.sample()  # nothing new: no further sample
    (told,) = await board.standings(Wish(model="turn", history=True))
    history = told["history"]
    assert len(history["at_ms"]) == 4
    assert history["n"] == sorted(set(history["n"]))
    assert set(history["baselines"]) == set(told["versions"][0]["report"]["baselines"])
    assert history["skill"][-1] == pytest.approx(told["versions"][0]["report"]["skill"])
    assert max(rolling[-1] for rolling in history["baselines"].values()) == pytest.approx(0.0)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        ({"river": ["preprocessing.MinMaxScaler", "anomaly.HalfSpaceTrees"]}, "score"),
        ({"river": ["preprocessing.StandardScaler", {"river": "cluster.KMeans", "n_clusters": 2}]}, "cluster"),
    ],
)
async def test_what_has_no_labels_is_told_by_what_it_says(tmp_path: Path, algorithm: dict[str, Any], kind: str) -> None:
    config = ModelConfig(features=("quick:price", "quick:sum_10s"), algorithm=algorithm, target="none", warm_up=5)
    daemon = Daemon(tmp_path, views=VIEWS, models=ModelsConfig(run=("odd",), define={"odd": config}))
    board = Board(daemon)
    said = []
    for start in (0, 30, 60):
        daemon.push(*(trade(at=n, trade_id=n + 1, price=100.0 + n % 7) for n in range(start, start + 30)))
        await board.sample()
        await board.sample()  # nothing was said since: no further sample
        newest = daemon.fold.models.latest("odd", *BTC)  # type: ignore[union-attr]
        assert newest is not None
        said.append(newest)
    (told,) = await board.standings(Wish(history=True))
    assert told["said"] == {
        "kind": kind,
        "value": said[-1].value,
        "received": said[-1].received,
        "history": {
            "at_ms": [pytest.approx(one.received / 1e6) for one in said],
            "values": [one.value for one in said],
        },
    }
    assert told["predictions"] == 90
    assert told["history"] is None
    (told,) = await board.standings(Wish())
    assert "history" not in told["said"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        ({"river": ["preprocessing.MinMaxScaler", {"river": "anomaly.HalfSpaceTrees"}]}, "score"),
        ({"river": "cluster.KMeans", "n_clusters": 2}, "cluster"),
        ({"factory": "models.py:make"}, ""),
    ],
)
async def test_a_model_in_a_worker_is_called_by_its_last_step(
    tmp_path: Path, algorithm: dict[str, Any], kind: str
) -> None:
    config = ModelConfig(features=("quick:price",), algorithm=algorithm, target="none", place="worker")
    daemon = Daemon(tmp_path, views=VIEWS, models=ModelsConfig(run=("odd",), define={"odd": config}))
    daemon.push(*trades(20))
    (told,) = await Board(daemon).standings(Wish(history=True))
    assert told["said"] == {"kind": kind, "value": None, "received": None, "history": None}  # nobody answers here


@pytest.mark.asyncio
async def test_without_models_there_is_nothing_to_tell(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS)
    daemon.push(*trades(20))
    board = Board(daemon)
    await board.sample()
    assert await board.standings(Wish()) == []
    assert board.health() == {"running": [], "instances": 0, "ready": 0, "memory_bytes": 0, "alarms": []}


# Tracks -----------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9), st.integers(1, 9)), min_size=2, max_size=40))
def test_rolling_skill_is_that_of_the_rows_between_two_samples(steps: list[tuple[int, int, int]]) -> None:
    track, n, sums = Track(("base_rate",)), 0, np.zeros(2)
    for at, (rows, loss, base) in enumerate(steps):
        n += rows
        sums += (rows * loss, rows * base)
        told = {"n": n, "n_eff": n, "skill": 1.0 - sums[0] / sums[1], "interval": [None, None]}
        track.add(at, 1, told, {"base_rate": sums[1] / n}, sums[0] / n)
    found = track.to_builtins()
    for row in range(1, len(steps)):
        between = np.array(steps[max(row - ROLLING, 0) + 1 : row + 1], float)
        lost, base = between[:, 0] @ between[:, 1], between[:, 0] @ between[:, 2]
        assert found["rolling"][row] == pytest.approx(1.0 - lost / base, abs=1e-9)
    assert found["rolling"][0] is None
    assert found["low"] == [None] * len(steps)


def test_a_track_reaches_back_to_its_beginning_in_memory_that_does_not_grow() -> None:
    track = Track(("base_rate", "majority"))
    memory = track.memory
    for at in range(5_000):
        told = {"n": at + 1, "n_eff": None, "skill": 0.0, "interval": [-1.0, 1.0]}
        track.add(1_000_000 * at, 1, told, {"base_rate": 0.5, "majority": None}, 0.5)
    found = track.to_builtins()
    assert track.memory == memory
    assert SAMPLES / 2 <= len(track) <= SAMPLES
    assert found["at_ms"][0] < 100
    assert found["at_ms"][-1] > 4_900
    assert max(np.diff(found["at_ms"])) <= 5_000 / (SAMPLES / 2)
    assert set(found["baselines"]["majority"]) == {None}


def test_what_was_said_is_kept_in_memory_that_does_not_grow() -> None:
    recent = Recent()
    for at in range(3 * SAMPLES):
        recent.add(1_000_000 * at, at / 2)
        recent.add(1_000_000 * at, -1.0)  # the same moment: not said anew
    found = recent.to_builtins()
    assert found["values"] == [at / 2 for at in range(2 * SAMPLES, 3 * SAMPLES)]
    assert found["at_ms"][-1] == pytest.approx(3 * SAMPLES - 1)


def test_rolling_skill_does_not_reach_over_a_promotion() -> None:
    track = Track(("base_rate",))
    for n, version, loss in ((10, 1, 0.5), (20, 1, 0.5), (5, 7, 0.1), (10, 7, 0.1)):
        track.add(n, version, {"n": n, "n_eff": n, "skill": 0.0, "interval": [0.0, 0.0]}, {"base_rate": 0.5}, loss)
    assert track.to_builtins()["rolling"] == [None, pytest.approx(0.0), None, pytest.approx(0.8)]


# Commands ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_challenger_is_promoted_pinned_and_rolled_back_by_command(daemon: Daemon, server: Server) -> None:
    daemon.push(*trades(60))
    status, said = await command(server, {"verb": "promote", "target": "turn@2 x:BTC/USDT"})
    assert (status, said["verb"], said["sequence"]) == (200, "promote", daemon.fold.sequence())
    (one,) = await get(server, "/models?model=turn")
    assert (one["champion"], one["promotions"]) == ("2", 1)
    assert [mark["kind"] for mark in one["marks"]] == ["promotion"]
    assert (await command(server, {"verb": "pin", "target": "turn"}))[0] == 200
    assert (await get(server, "/models?model=turn"))[0]["pinned"]
    assert (await command(server, {"verb": "unpin", "target": "turn"}))[0] == 200
    assert (await command(server, {"verb": "rollback", "target": "turn"}))[0] == 200
    (one,) = await get(server, "/models?model=turn")
    assert (one["champion"], one["pinned"]) == ("1", False)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("verb", "target", "says"),
    [
        ("promote", "turn@9", "runs the versions 1, 2"),
        ("promote", "turn", "expected MODEL@VERSION"),
        ("pin", "nothing", "expected one of turn, move"),
        ("rollback", "turn x:SOL/USDT", "no model of x:SOL/USDT"),
    ],
)
async def test_a_command_that_means_no_model_is_refused(
    daemon: Daemon, server: Server, verb: str, target: str, says: str
) -> None:
    daemon.push(*trades(20))
    before = daemon.fold.sequence()
    status, said = await command(server, {"verb": verb, "target": target})
    assert status == 422
    assert says in said["error"]["message"]
    assert daemon.fold.sequence() == before


# /metrics and /health ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_metrics_give_each_score_beside_the_baselines(daemon: Daemon, server: Server) -> None:
    daemon.push(*trades(150))
    (one,) = await get(server, "/models?model=turn")
    found = await metrics(server)
    of = (("exchange", "x"), ("model", "turn"), ("symbol", "BTC/USDT"))

    def value(name: str, **labels: str) -> float:
        return found[f"tickfold_model_{name}", tuple(sorted([*of, *labels.items()]))]

    own = one["versions"][0]["report"]
    assert value("predictions_total") == one["predictions"] > 100
    assert value("outcomes_total") == one["outcomes"]
    assert value("void_total") == 0
    assert value("ready") == 1
    assert value("memory_bytes") == one["memory_bytes"] > 0
    assert value("skill", baseline=own["best_baseline"]) == pytest.approx(own["skill"])
    assert value("loss", score="brier") == pytest.approx(own["brier"])
    for name, loss in own["baselines"].items():
        assert value("baseline_loss", score="brier", baseline=name) == pytest.approx(loss)
    assert value("independent") == own["n_eff"]
    assert value("champion", version="1") == 1
    assert value("e_value", version="2") == pytest.approx(one["versions"][1]["e_value"])
    assert {name for name, _ in found if name.startswith("tickfold_model_skipped")}


@pytest.mark.asyncio
async def test_health_alarms_of_a_model_that_takes_too_much_memory(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS, models=msgspec.structs.replace(MODELS, memory_mib=0.01))
    server = await serve(daemon)
    try:
        daemon.push(*trades(60))
        await get(server, "/models")
        found = await get(server, "/health")
    finally:
        await server.stop()
    part = found["parts"]["models"]
    assert (part["running"], part["instances"], part["ready"]) == (["turn", "move"], 2, 2)
    assert part["alarms"][0].startswith("model turn of x BTC/USDT takes")
    assert found["status"] == "degraded"
    assert part["alarms"][0] in found["reasons"]


# The stream -------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_newest_prediction_and_outcome_of_each_model_are_streamed(daemon: Daemon) -> None:
    async with streaming(daemon, "?types=prediction,outcome&models=turn") as (_, client):
        await client.receive_json()
        sent: list[Any] = []
        newest = 0
        for start in range(0, 1_200, 300):
            daemon.push(*(trade(at=n, trade_id=n + 1, price=100.0 + n % 5) for n in range(start, start + 300)))
            newest = daemon.fold.sequence()
            sent += await until(client, lambda m, newest=newest: m["type"] == "prediction" and m["sequence"] == newest)  # type: ignore[misc]
    predictions = [message for message in sent if message["type"] == "prediction"]
    outcomes = [message for message in sent if message["type"] == "outcome"]
    assert {message["model"] for message in sent} == {"turn"}
    assert len(predictions) < 40  # of 1,200
    numbers = [message["sequence"] for message in predictions]
    assert numbers == sorted(set(numbers))
    last = predictions[-1]
    assert sum(last["probabilities"]) == pytest.approx(1.0)
    assert (last["classes"], last["horizon"], last["ready"]) == (["down", "flat", "up"], "5t", True)
    assert outcomes
    assert outcomes[-1]["prediction_sequence"] < outcomes[-1]["sequence"] <= newest


@pytest.mark.asyncio
async def test_reported_predictions_are_conflated_and_drifts_are_not(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS, stream_hz=2.0)
    async with streaming(daemon, "?types=prediction,outcome,drift") as (_, client):
        await client.receive_json()
        for number in range(1, 51):
            said = Prediction("own", "1", "x", "BTC/USDT", 60, 0.5, (), 1.0, START, START, number)
            came = Outcome("own", "1", "x", "BTC/USDT", number, 1.0, 0.25, START, START, number)
            for event in (said, came, Drift("adwin", "own:loss", "x", "BTC/USDT", 3.5, START, START, number, "own")):
                daemon.report(event)
        heard = await until(client, lambda message: message["type"] == "outcome" and message["sequence"] == 50)
    assert [message["sequence"] for message in heard if message["type"] == "drift"] == list(range(1, 51))
    assert 1 <= len([message for message in heard if message["type"] == "prediction"]) <= 2
    assert 1 <= len([message for message in heard if message["type"] == "outcome"]) <= 2


@pytest.mark.asyncio
async def test_looking_at_many_models_gives_way_to_others(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "AT_ONCE_S", 0.0)
    daemon.push(*trades(30), *trades(30, ETH))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await Board(daemon).sample()
    task.cancel()
    assert turns > 4


@pytest.mark.asyncio
async def test_what_is_not_wanted_is_not_read(daemon: Daemon) -> None:
    daemon.push(*trades(30))
    async with streaming(daemon, "?types=prediction&models=move") as (_, client):
        await client.receive_json()
        (first,) = await until(client, of_type("prediction"))
    assert (first["model"], first["probabilities"]) == ("move", [])
    assert first["low"] is None or first["low"] <= first["value"]
