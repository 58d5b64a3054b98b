"""Two canaries. On a random walk no model beats a coin, through the real fold; and a planted leak is caught, and named.

Bounds are at 99.9 %: they hold whatever model stands here, and what a leak gives lies far beyond them.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.block import IS_TRADE, NO_ID, Block, Keys
from engine.config import Config
from engine.indicators import difference, ema, price_change, ratio, rsi, sma, trade_imbalance
from engine.models.report import Report, read
from engine.models.settings import ModelConfig, ModelsConfig
from engine.models.spec import resolve_model
from engine.models.standing import Standing
from engine.models.target import CLASSES, LOG_RETURN, UP_DOWN
from engine.models.triviality import FeatureWatch
from replay.driver import Selection, build_fold
from replay.evaluate import evaluate
from replay.sources import open_source
from store.schema import FeatureView
from tests.folding import BTC, SECOND, START
from tests.scoring import Floats, outcomes, random_walk, verify

LEVEL = 0.999
TICKS, HORIZON = 6_000, 20
VIEW = FeatureView(
    "canary",
    {
        "rsi": rsi("price", 14),
        "trend": difference(ratio("price", sma("price", 20)), ratio("price", ema("price", 50))),
        "change": price_change("price", "10s"),
        "imbalance": trade_imbalance("side", "volume", "30s"),
        "volume": "volume",
    },
)
HONEST = ("canary:rsi", "canary:trend", "canary:change", "canary:imbalance", "canary:volume")
MODELS: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "up_down": (
        "up_down",
        (
            {"algorithm": "scaled_logistic", "lr": 0.005},
            {"algorithm": "scaled_softmax", "lr": 0.005},
            {"river": "tree.HoeffdingTreeClassifier", "grace_period": 50},
        ),
    ),
    "direction": ("direction", ({"algorithm": "scaled_softmax", "lr": 0.005},)),
    "log_return": (
        "log_return",
        (
            {"algorithm": "scaled_linear", "optimizer": "nlms", "lr": 0.001},
            {"algorithm": "scaled_linear", "optimizer": "sgd", "lr": 0.001},
        ),
    ),
}
HEAVY: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "up_down": (
        "up_down",
        ({"river": "naive_bayes.GaussianNB"}, {"river": "forest.ARFClassifier", "n_models": 5, "seed": 1}),
    ),
    "direction": ("direction", ({"river": "tree.HoeffdingAdaptiveTreeClassifier", "grace_period": 50, "seed": 1},)),
    "log_return": ("log_return", ({"river": "tree.HoeffdingTreeRegressor", "grace_period": 50},)),
}


def tape(prices: Floats, volumes: Floats, keys: Keys, seed: int) -> Block:
    """Trades, one a second."""
    count = len(prices)
    at = START + np.arange(count, dtype=np.int64) * SECOND
    return Block(
        key=np.full(count, keys.code(BTC), np.int32),
        kind=np.full(count, IS_TRADE, np.uint8),
        timestamp=at,
        received=at,
        price=prices,
        volume=volumes,
        side=np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), count),
        ask=np.full(count, math.nan),
        ask_volume=np.full(count, math.nan),
        trade_id=np.full(count, NO_ID, np.int64),
        late=np.zeros(count, np.uint8),
    )


def fold(
    prices: Floats, volumes: Floats, models: dict[str, tuple[str, tuple[dict[str, Any], ...]]]
) -> tuple[list[Standing], FeatureWatch]:
    """Fold a tape with models that hear all its features."""
    defined = {
        f"canary_{name}": ModelConfig(
            features=HONEST,
            algorithm=algorithms[0],
            challengers=algorithms[1:],
            target=target,
            horizon=f"{HORIZON}s",
            fee_bps=0.0,
            promote="manual",
            on_drift="report",
            place="loop",
        )
        for name, (target, algorithms) in models.items()
    }
    config = Config(models=ModelsConfig(run=tuple(defined), define=defined, ledger=False))
    made = build_fold(config, [], views=(VIEW,))
    assert made.models is not None
    watch = made.models.matured = FeatureWatch()
    made.push(tape(prices, volumes, made.keys, 0))
    return made.models.standings(), watch


def reports(standings: list[Standing]) -> dict[str, Report]:
    """What became of every model and version, by "model@version"."""
    return {
        f"{standing.model}@{one.version}": read(one.score, kind=standing.kind, classes=standing.classes, level=LEVEL)
        for standing in standings
        for one in standing.versions
    }


@cache
def on_a_random_walk() -> tuple[dict[str, Report], FeatureWatch]:
    """What became of all light models."""
    standings, watch = fold(random_walk(TICKS, 0), np.random.default_rng(1).exponential(1.0, TICKS), MODELS)
    return reports(standings), watch


def names_of() -> list[str]:
    return [f"canary_{name}@{1 + at}" for name, (_, algorithms) in MODELS.items() for at in range(len(algorithms))]


def require_no_skill(made: Report) -> None:
    """Hold a model of a random walk to what can be known of one: nothing."""
    assert made.n_eff >= 0.7 * TICKS / HORIZON
    assert made.n >= 10 * made.n_eff  # they overlap, and are counted as what they are
    assert made.intervals["skill"][0] <= 0.0
    assert made.intervals["net_bps"][0] <= 0.0 <= made.intervals["net_bps"][1]
    assert made.trivial == ()
    if made.kind == UP_DOWN:
        bound = NormalDist().inv_cdf(0.5 + 0.5 * LEVEL) * math.sqrt(0.25 / made.n_eff)
        accuracy = made.scores["accuracy"]
        assert abs(accuracy.value - 0.5) <= bound
        assert accuracy.low <= 0.5 <= accuracy.high
        assert abs(made.scores["mcc"].value) <= 2.0 * bound
        # Baselines have no more: "repeat the last label" hears of it when it has matured.
        for baseline, value in accuracy.baselines.items():
            assert abs(value - 0.5) <= bound, baseline


@pytest.mark.parametrize("name", names_of())
def test_on_a_random_walk_no_model_is_better_than_a_coin(name: str) -> None:
    require_no_skill(on_a_random_walk()[0][name])


@pytest.mark.soak
def test_on_a_random_walk_no_heavy_model_is_better_than_a_coin() -> None:
    standings, _ = fold(random_walk(TICKS, 0), np.random.default_rng(1).exponential(1.0, TICKS), HEAVY)
    for name, made in reports(standings).items():
        print(name, made, sep="\n")
        require_no_skill(made)


def test_no_feature_of_a_random_walk_knows_the_answer() -> None:
    watch = on_a_random_walk()[1]
    for name in MODELS:
        assert watch.leaks(f"canary_{name}", BTC) == ()


def test_a_feature_that_sees_the_future_is_caught_and_named() -> None:
    prices = random_walk(TICKS, 3)
    ahead = np.concatenate([np.log(prices[HORIZON:] / prices[:-HORIZON]), np.zeros(HORIZON)])
    noise = np.random.default_rng(3).normal(0.0, 1e-4, TICKS)
    models = {name: (MODELS[name][0], MODELS[name][1][:1]) for name in ("up_down", "log_return")}
    standings, watch = fold(prices, np.exp(200.0 * (ahead + noise)), models)
    for standing in standings:
        made = reports(standings)[f"{standing.model}@1"]
        assert made.intervals["skill"][0] > 0.0, "it looks like a discovery"
        assert [leak.text.split()[0] for leak in watch.leaks(standing.model, BTC)] == ["canary:volume"]
        if standing.kind == UP_DOWN:
            assert made.scores["accuracy"].value > 0.9
            assert "it sees the future" in dict(made.trivial)["leak"]


def test_an_evaluation_names_the_feature_that_sees_the_future(tmp_path: Path) -> None:
    prices = random_walk(TICKS, 4)
    ahead = np.concatenate([np.log(prices[HORIZON:] / prices[:-HORIZON]), np.zeros(HORIZON)])
    at = START + np.arange(TICKS) * SECOND
    columns = {
        "timestamp": at, "received": at, "exchange": ["x"] * TICKS, "symbol": ["BTC/USDT"] * TICKS, "price": prices,
        "volume": np.exp(200.0 * ahead), "side": np.ones(TICKS, np.int8), "trade_id": np.arange(TICKS),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "leak.parquet")
    config = ModelConfig(
        features=("market:volume", "technical:rsi_14"),
        algorithm={"algorithm": "scaled_logistic", "lr": 0.005},
        target="up_down",
        horizon=f"{HORIZON}s",
    )
    (found,) = evaluate(
        Config(), [open_source(tmp_path / "leak.parquet")], Selection(), [resolve_model("leaking", config)]
    )
    assert found["accuracy"] > 0.9
    assert {warning.split(":")[0] for warning in found["warnings"]} == {"leak", "feature_leak"}
    assert any("market:volume correlates" in warning for warning in found["warnings"])


def test_a_label_that_is_used_before_it_matured_is_caught_and_named() -> None:
    """The prices know nothing. A ledger that gave labels away at the next tick would make a genius of whoever repeats the last one."""
    horizon, ticks = 60, 20_000
    prices = random_walk(ticks, 0)
    coin = np.full((ticks, 2), 0.5)
    right, wrong = (
        read(verify(prices, coin, kind=UP_DOWN, horizon=horizon, early=early).state, kind=UP_DOWN)
        for early in (False, True)
    )
    assert right.scores["accuracy"].baselines["last_label"] == pytest.approx(0.5, abs=0.06)
    assert right.trivial == ()
    assert wrong.scores["accuracy"].baselines["last_label"] > 0.9
    ((name, text),) = wrong.trivial
    assert name == "baseline_knows"
    assert text.startswith("last_label alone is right 9")
    assert "labels are used before they matured" in text


def test_a_model_that_learned_its_labels_early_is_caught_and_named() -> None:
    horizon, ticks = 60, 20_000
    prices = random_walk(ticks, 1)
    labels = np.nan_to_num(np.concatenate([outcomes(prices, UP_DOWN, horizon), np.zeros(horizon)]))
    early = np.concatenate([[0.0], labels[:-1]])  # of the prediction a tick ago, whose outcome nobody can know
    said = np.where(early[:, None] == [0.0, 1.0], 0.9, 0.1)
    made = read(verify(prices, said, kind=UP_DOWN, horizon=horizon).state, kind=UP_DOWN)
    assert made.scores["accuracy"].value > 0.9
    assert max(made.scores["accuracy"].baselines.values()) < 0.6
    assert "learns labels before they mature" in dict(made.trivial)["leak"]
    returns = np.nan_to_num(np.concatenate([outcomes(prices, LOG_RETURN, horizon), np.zeros(horizon)]))
    shifted = np.concatenate([[0.0], returns[:-1]])
    made = read(verify(prices, shifted[:, None], kind=LOG_RETURN, horizon=horizon).state, kind=LOG_RETURN)
    assert "learns labels before they mature" in dict(made.trivial)["leak"]


def test_every_kind_of_class_has_a_coin_to_be_compared_with() -> None:
    for kind, names in CLASSES.items():
        coin = np.full((500, len(names)), 1.0 / len(names))
        made = read(verify(random_walk(500, 9), coin, kind=kind, horizon=1).state, kind=kind)
        assert made.scores["brier"].value == pytest.approx(0.5 * (1.0 - 1.0 / len(names)))
