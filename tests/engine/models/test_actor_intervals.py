"""Through the fold, on recorded trades: served intervals hold what they promise, a change of regime is a drift and starts a challenger."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.block import Block, Keys
from engine.config import Config
from engine.events import Drift, Outcome, Prediction
from engine.fold import Fold
from engine.models.settings import ModelConfig, ModelsConfig
from engine.models.spec import BUILT_IN, resolve_model
from replay.driver import build_fold
from replay.sources import open_source
from tests.folding import LTC, cut, listener

SIZE = 500
TILES, CHANGE = 3, 8_000


@cache
def recorded() -> tuple[Keys, Block]:
    keys = Keys()
    return keys, Block.concatenate([*open_source(LTC).blocks(keys)])


def tape(factor: float) -> Block:
    """The recorded trades three times in a row, one path of prices; from trade CHANGE on, its moves are `factor` times as large."""
    _, block = recorded()
    count = len(block)
    tiles = np.repeat(np.arange(TILES), count)
    later = tiles * (int(block.received[-1] - block.received[0]) + 1_000_000_000)
    moves = np.tile(np.append(np.diff(np.log(block.price)), 0.0), TILES)[:-1]
    moves[CHANGE:] *= factor
    many = block.take(np.tile(np.arange(count), TILES))
    many.timestamp[:] += later
    many.received[:] += later
    many.trade_id[:] = np.arange(1, len(many) + 1)
    many.price[:] = block.price[0] * np.exp(np.append(0.0, np.cumsum(moves)))
    return many


def run(models: dict[str, ModelConfig], block: Block) -> tuple[Fold, list[Any], list[Any]]:
    """Fold a block; return the fold, what a subscriber heard of predictions and outcomes, and what was reported."""
    ear = listener(Prediction, Outcome)
    ear.on_prediction = ear.on_outcome = ear.hear  # type: ignore[method-assign]
    reported: list[Any] = []
    specs = [resolve_model(name, model) for name, model in models.items()]
    config = msgspec.structs.replace(Config(), models=ModelsConfig(run=()))
    fold = build_fold(config, [ear], keys=recorded()[0], digests=True, models=specs, report=reported.append)
    for part in cut(block, SIZE):
        fold.push(part)
    return fold, ear.heard, reported


@pytest.mark.parametrize("coverage", [0.9, 0.95])
def test_served_intervals_and_sets_hold_the_outcome_at_the_promised_rate(coverage: float) -> None:
    models = {name: msgspec.structs.replace(model, coverage=coverage) for name, model in BUILT_IN.items()}
    _, heard, _ = run(models, recorded()[1])
    said = {(event.model, event.sequence): event for event in heard if isinstance(event, Prediction)}
    hits: dict[str, list[bool]] = {name: [] for name in models}
    for event in heard:
        if not isinstance(event, Outcome) or np.isnan(event.value):
            continue
        prediction = said[event.model, event.prediction_sequence]
        if event.model == "direction":
            if len(prediction.likely) < 3 or hits["direction"]:
                hits["direction"].append(prediction.classes[int(event.value)] in prediction.likely)
        elif prediction.high < np.inf or hits["log_return"]:
            hits["log_return"].append(prediction.low <= event.value <= prediction.high)
    # Some 90 horizons of a minute, 42 answers in each: what they show is known to no more than this.
    for held in hits.values():
        assert len(held) > 3_500
        assert np.mean(held) == pytest.approx(coverage, abs=0.02)


def watching(feature: str, on_drift: Any = "challenger") -> ModelConfig:
    base = msgspec.structs.replace(BUILT_IN["direction"], features=(feature, "market:side"), horizon="10t")
    return msgspec.structs.replace(base, on_drift=on_drift)


def test_recorded_trades_over_and_over_are_no_drift() -> None:
    models = {name: msgspec.structs.replace(model, horizon="5t") for name, model in BUILT_IN.items()}
    _, _, reported = run(models, tape(1.0))
    assert [event for event in reported if isinstance(event, Drift)] == []


def test_a_change_of_regime_is_a_drift_and_starts_exactly_one_challenger() -> None:
    feature = "technical:macd_histogram"
    fold, _, reported = run({"m": watching(feature)}, tape(8.0))
    (drift,) = [event for event in reported if isinstance(event, Drift)]
    assert (drift.model, drift.stream, drift.started) == ("m", f"m:{feature}", "2")
    assert CHANGE < drift.sequence < CHANGE + 1_000  # of trades: within 100 rows of 10
    assert drift.statistic > 5.0
    assert fold.models is not None
    (standing,) = fold.models.standings()
    assert [(version.version, version.role) for version in standing.versions] == [
        ("1", "champion"),
        ("2", "challenger"),
    ]
    assert standing.drifts == 1
    # The champion is as it would be without: it is judged by what it does, never reset.
    quiet, _, told = run({"m": watching(feature, "report")}, tape(8.0))
    assert [(event.stream, event.sequence, event.started) for event in told if isinstance(event, Drift)] == [
        (drift.stream, drift.sequence, "")
    ]
    assert quiet.models is not None
    (alone,) = quiet.models.standings()
    assert [version.version for version in alone.versions] == ["1"]
    assert alone.versions[0].score.tobytes() == standing.versions[0].score.tobytes()
    assert alone.versions[0].learned == standing.versions[0].learned > standing.versions[1].learned > 0
