"""`tickfold models` against a real daemon that learns from the loopback exchange, and on recorded ticks: what it prints and how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import inside
from tests.daemons import Child, replayed
from tests.folding import LTC

MODELS = """
[models]
run = ["quick"]

[models.define.quick]
features = ["market:side", "technical:rsi_14"]
algorithm = {algorithm = "scaled_softmax", lr = 0.001}
challengers = [{algorithm = "scaled_softmax", lr = 0.0001}]
horizon = "5t"
warm_up = 5
"""
KEYS = {
    "exchange",
    "symbol",
    "model",
    "horizon",
    "n",
    "n_eff",
    "accuracy",
    "mcc",
    "brier",
    "skill",
    "interval",
    "baselines",
    "void",
}


class Learner:
    """A daemon with a model, and the verbs over it."""

    def __init__(self, child: Child, config: Path) -> None:
        self.child = child
        self.config = config

    def run(self, *words: str, token: bool = True) -> Any:
        more = ["--token-file", str(self.child.folder / "token")] if token else []
        return inside("models", *words, "--url", self.child.url, "--config", self.config, *more)

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learner]:
    folder = tmp_path_factory.mktemp("models")
    config = folder / "own.toml"
    config.write_text(MODELS, encoding="utf-8")
    with Child(folder / "data", "--feeds", "replay", "--config", str(config)) as child:
        child.wait_for(lambda health: health["parts"]["models"]["ready"] >= 1)
        yield Learner(child, config)


def test_a_daemon_tells_of_its_models_promotes_them_and_a_replay_obeys_too(learner: Learner) -> None:
    found = learner.json("list")
    assert {one["model"] for one in found} == {"quick"}
    assert all(one["versions"][0]["report"] is not None for one in found)
    key = next(f"{one['exchange']}:{one['symbol']}" for one in found if one["ready"])
    shown = learner.run("list")
    assert re.search(r"n_eff +skill \(interval\) +accuracy \(best baseline's\)", shown.stdout)
    assert learner.run("show", "quick", key).returncode == 0

    said = learner.json("promote", "quick@2", key)
    assert (said["verb"], said["target"]) == ("promote", f"quick@2 {key}")
    (one,) = learner.json("show", "quick", key)
    assert (one["champion"], one["promotions"]) == ("2", 1)
    assert "promotion 1 -> 2" in learner.run("show", "quick", key).stdout
    assert "folded as input" in learner.run("pin", "quick").stdout
    assert all(one["pinned"] for one in learner.json("list"))
    assert learner.run("unpin", "quick").returncode == 0
    place = key.replace(":", " ")
    again = learner.run("promote", "quick@2", key)
    assert again.returncode == 0
    assert "no promotions came of it" in again.stdout
    assert f"  2 is the champion already: {place}" in again.stdout
    back = learner.json("rollback", "quick", key)
    assert back["verb"] == "rollback"
    assert [(one["promoted"], one["effect"]) for one in back["effects"]] == [(True, "2 -> 1")]
    assert learner.json("show", "quick", key)[0]["champion"] == "1"

    log = (learner.child.folder / "log.jsonl").read_text()
    promoted = [line for line in map(json.loads, log.splitlines()) if line["event"] == "model promoted"]
    assert [(line["level"], line["versions"]) for line in promoted] == [("warning", "1 -> 2"), ("warning", "2 -> 1")]
    ended = learner.child.stop()
    again = replayed(learner.child.folder)
    assert again["digest"]["predictions"] == ended["digest"]["predictions"]
    assert again["digest"] == ended["digest"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("show", "nothing"), 2, "no model 'nothing'; the daemon has quick"),
        (("list", "--model", "nothing"), 2, "no model 'nothing'; the daemon has quick"),
        (("promote", "quick"), 2, "expected MODEL@VERSION"),
        (("promote", "quick@9"), 2, "tickfold: promote 'quick@9': quick "),
        (("rollback", "other"), 2, "expected one of quick"),
        (("pin", "quick", "BTC"), 2, "expected EXCHANGE:SYMBOL"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(learner: Learner, words: tuple[str, ...], code: int, says: str) -> None:
    if learner.child.process.poll() is not None:
        learner.child.url = ""
        learner.child.__enter__()  # goes on from its folder
    done = learner.run(*words)
    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_without_a_daemon_or_a_verb_it_says_so() -> None:
    done = inside("models", "list", "--url", "http://127.0.0.1:9")
    assert done.returncode == 3
    assert "no daemon answers" in done.stderr
    done = inside("models")
    assert done.returncode == 2
    assert "evaluate" in done.stderr


def test_what_all_verbs_take_may_stand_before_or_behind(tmp_path: Path) -> None:
    config = tmp_path / "own.toml"
    config.write_text(MODELS, encoding="utf-8")
    before = inside("models", "--json", "--config", config, "evaluate", LTC, "--model", "quick")
    behind = inside("models", "evaluate", LTC, "--model", "quick", "--json", "--config", config)
    assert before.returncode == behind.returncode == 0, before.stderr + behind.stderr
    assert json.loads(before.stdout) == json.loads(behind.stdout)
    for verb in ("list", "show", "promote", "rollback", "pin", "unpin", "evaluate"):
        shown = inside("models", verb, "--help")
        assert shown.returncode == 0
        assert "--json" in shown.stdout


# evaluate ---------------------------------------------------------------------------------------------------------------------


def walk(path: Path, rows: int = 8_000) -> Path:
    """Trades whose price goes up or down by chance."""
    draw = np.random.default_rng(11)
    at = 1_700_000_000_000_000_000 + np.cumsum(draw.integers(1, 200_000_000, rows))
    table = {
        "timestamp": at,
        "received": at,
        "exchange": ["x"] * rows,
        "symbol": ["BTC/USDT"] * rows,
        "price": np.round(30_000.0 * np.exp(np.cumsum(draw.choice([-1, 1], rows) * 1e-5)), 2),
        "volume": draw.exponential(1.0, rows),
        "side": draw.choice([-1, 1], rows).astype(np.int8),
        "trade_id": np.arange(rows),
    }
    pq.write_table(pa.table(table), path)
    return path


def test_evaluate_gives_one_verdict_a_key_and_a_random_walk_has_no_skill(tmp_path: Path) -> None:
    done = inside(
        "models", "evaluate", walk(tmp_path / "walk.parquet"), "--model", "direction", "--horizon", "20t", "--json"
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert set(found) >= KEYS
    assert (found["exchange"], found["symbol"], found["model"], found["horizon"]) == (
        "x",
        "BTC/USDT",
        "direction",
        "20t",
    )
    assert found["n"] > 7_000
    assert abs(found["mcc"]) < 3.5 / found["n_eff"] ** 0.5
    assert found["interval"][0] < found["skill"] < found["interval"][1]
    assert found["interval"][0] < 0.0
    assert done.stderr == ""


def test_evaluate_shows_no_score_without_its_baselines(tmp_path: Path) -> None:
    done = inside("models", "evaluate", LTC, "--all", "--horizon", "50t")
    assert done.returncode == 0, done.stderr
    for name in (
        "direction of binance LTC/USDT",
        "log_return of binance",
        "base rate",
        "no change",
        "the best baseline",
    ):
        assert name in done.stdout
    assert re.search(r"[\d,]+ verified, [\d,]+ of them independent", done.stdout)
    assert re.search(r"[+-]\d+\.\d\d % \([+-]\d+\.\d\d to [+-]\d+\.\d\d\)", done.stdout)


def test_evaluate_takes_data_sets(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text(
        "a,label\n" + "".join(f"{n % 5},{'high' if n % 5 > 2 else 'low'}\n" for n in range(300)), encoding="utf-8"
    )
    done = inside(
        "models", "evaluate", path, "--algorithm", '{river="tree.HoeffdingTreeClassifier"}', "--delay", "3", "--json"
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert set(found) >= KEYS
    assert (found["symbol"], found["model"], found["horizon"]) == ("some", "tree.HoeffdingTreeClassifier", "3 rows")
    assert found["brier"] < min(found["baselines"].values())
    shown = inside("models", "evaluate", path, "--algorithm", '{river="tree.HoeffdingTreeClassifier"}')
    assert "base rate" in shown.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((LTC,), "expected --model NAME or --all"),
        ((LTC, "--model", "directoin"), "did you mean direction"),
        ((LTC, "--model", "direction", "--algorithm", "scaled_logistic"), "is for a data set"),
        (("river:Phishing",), "expected --algorithm"),
        (("river:Phishing", LTC, "--algorithm", "scaled_logistic"), "expected a data set by itself"),
        (("river:Phishing", "--algorithm", "scaled_logistic", "--horizon", "60s"), "--horizon: is for ticks"),
        (("river:Phishing", "--algorithm", "scaled_logistik"), "scaled_logistic"),
        ((LTC, "--model", "direction", "--symbols", "SOL/USDT"), "not in the sources"),
    ],
)
def test_evaluate_says_what_it_expects(words: tuple[Any, ...], says: str) -> None:
    done = inside("models", "evaluate", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) <= 2
