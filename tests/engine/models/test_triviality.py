"""What makes a score worth nothing is said by name, and honest scores are left in peace."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.models.layout import HEAD, LABEL
from engine.models.report import read, report
from engine.models.target import CLASSES, CUSTOM, DIRECTION, LOG_RETURN, UP_DOWN, VOLATILITY
from engine.models.triviality import (
    OUTCOMES_MIN,
    feature_correlations,
    feature_leaks,
    features_answer,
    features_size,
)
from tests.scoring import Floats, Verified, outcomes, random_walk, verify

TICKS = 20_000


def named(made: Verified, kind: int) -> dict[str, str]:
    return dict(read(made.state, kind=kind, draws=0).trivial)


def coin(kind: int, count: int = TICKS) -> Floats:
    outputs = len(CLASSES.get(kind, ())) or 1
    return np.full((count, outputs), 1.0 / outputs if outputs > 1 else 0.0)


def padded(labels: Floats, count: int = TICKS) -> Floats:
    return np.concatenate([labels, np.full(count - len(labels), math.nan)])


@pytest.mark.parametrize("kind", [DIRECTION, UP_DOWN, LOG_RETURN])
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_said_of_a_random_walk(kind: int, seed: int) -> None:
    made = verify(random_walk(TICKS, seed), coin(kind), kind=kind, horizon=60, band=3.0)
    assert named(made, kind) == {}


def test_a_price_level_is_named() -> None:
    prices = random_walk(TICKS, 0)
    labels = padded(prices[60:])
    made = verify(prices, prices[:, None], kind=CUSTOM, horizon=60, labels=labels)
    text = named(made, CUSTOM)["price_level"]
    assert text.endswith("the target is a price level; predict its change")
    found = report(made.state, kind=CUSTOM)
    assert found["best_baseline"] == "no_change"  # to repeat the price is hard to beat
    assert abs(found["skill"]) < 0.01
    assert found["correlation"] > 0.95


def test_a_smoothed_target_is_named() -> None:
    prices = random_walk(TICKS, 1)
    smooth = np.convolve(prices, np.full(50, 1 / 50))[:TICKS]
    labels = padded((smooth[10:] > smooth[:-10]).astype(float))
    rising = prices > np.concatenate(
        [np.full(40, prices[0]), prices[:-40]]
    )  # what leaves the average against what is there
    said = np.where(rising[:, None] == [False, True], 0.8, 0.2)
    made = verify(prices, said, kind=UP_DOWN, horizon=10, labels=labels)
    found = report(made.state, kind=UP_DOWN)
    assert found["accuracy"] > 0.8  # and is worth nothing
    assert "though their horizons do not overlap" in named(made, UP_DOWN)["smoothed"]


def test_volatility_may_go_on_as_it_was() -> None:
    rng = np.random.default_rng(2)
    level = np.zeros(TICKS)
    for at in range(1, TICKS):
        level[at] = 0.999 * level[at - 1] + 0.05 * rng.normal()
    made = verify(
        random_walk(TICKS, 2),
        np.exp(level)[:, None],
        kind=VOLATILITY,
        horizon=20,
        labels=np.exp(level + 0.05 * rng.normal(size=TICKS)),
    )
    assert named(made, VOLATILITY) == {}


def test_prices_that_bounce_between_bid_and_ask_are_named() -> None:
    rng = np.random.default_rng(3)
    prices = random_walk(TICKS, 3, step=1e-5) * (1.0 + 1e-3 * (rng.integers(0, 2, TICKS) * 2 - 1))
    made = verify(prices, coin(LOG_RETURN), kind=LOG_RETURN, horizon=5)
    assert "bounce between bid and ask" in named(made, LOG_RETURN)["bounce"]


def test_a_target_that_is_always_hold_is_named() -> None:
    made = verify(random_walk(TICKS, 4), coin(DIRECTION), kind=DIRECTION, horizon=10, band=20.0)
    found = named(made, DIRECTION)
    assert list(found) == ["one_class"]
    assert "of the labels are flat: to say so always is right as often" in found["one_class"]


def test_a_rule_that_nearly_always_holds_is_named() -> None:
    prices = 100.0 * np.exp(1e-4 * np.cumsum(np.where(np.arange(TICKS) // 1_000 % 2 == 0, 1.0, -1.0)))
    made = verify(prices, coin(UP_DOWN), kind=UP_DOWN, horizon=10)
    found = named(made, UP_DOWN)
    assert "smoothed" in found
    assert "with no model" in found["baseline_knows"]


def test_a_model_that_is_too_good_is_named() -> None:
    prices = random_walk(TICKS, 5)
    right = np.nan_to_num(padded(outcomes(prices, UP_DOWN, 60)))
    right = np.where(np.random.default_rng(5).random(TICKS) < 0.85, right, 1.0 - right)
    made = verify(prices, np.where(right[:, None] == [0.0, 1.0], 0.8, 0.2), kind=UP_DOWN, horizon=60)
    assert named(made, UP_DOWN)["leak"].startswith("MCC 0.")
    returns = padded(outcomes(prices, LOG_RETURN, 60))
    made = verify(prices, 0.9 * np.nan_to_num(returns)[:, None], kind=LOG_RETURN, horizon=60)
    assert "sees the future" in named(made, LOG_RETURN)["leak"]


def test_a_feature_that_knows_the_answer_is_named() -> None:
    prices = random_walk(TICKS, 6)
    rng = np.random.default_rng(6)
    returns = np.nan_to_num(padded(outcomes(prices, LOG_RETURN, 60)))
    features = np.stack([rng.normal(size=TICKS), returns + 1e-4 * rng.normal(size=TICKS), np.full(TICKS, 3.0)], axis=1)
    names = ("derived:noise", "derived:tomorrow", "derived:constant")
    for kind in (LOG_RETURN, UP_DOWN):
        made = verify(prices, coin(kind), kind=kind, horizon=60, features=features)
        found = feature_leaks(made.watch, kind, names)
        assert [one.text.split()[0] for one in found] == ["derived:tomorrow"]
        assert math.isnan(feature_correlations(made.watch)[2])
        assert abs(feature_correlations(made.watch)[0]) < 0.3


def test_correlations_of_features_are_those_of_numpy_and_void_rows_teach_nothing() -> None:
    rng = np.random.default_rng(7)
    rows = np.full((400, HEAD + 2), math.nan)
    rows[:, HEAD:] = rng.normal(size=(400, 2)) * [1.0, 1e-6] + [0.0, 60_000.0]
    rows[:, LABEL] = rows[:, HEAD] + rng.normal(size=400)
    rows[::7, LABEL] = math.nan
    state = np.zeros(features_size(2))
    for row in rows:
        features_answer(state, row, HEAD, 2)
    known = rows[np.isfinite(rows[:, LABEL])]
    expected = [np.corrcoef(known[:, HEAD + at], known[:, LABEL])[0, 1] for at in range(2)]
    np.testing.assert_allclose(feature_correlations(state), expected, atol=1e-4)


def test_few_outcomes_prove_nothing() -> None:
    count = (OUTCOMES_MIN - 1) * 60
    prices = random_walk(count, 0)
    right = np.nan_to_num(padded(outcomes(prices, UP_DOWN, 60), count))
    said = np.where(right[:, None] == [0.0, 1.0], 1.0, 0.0)
    made = verify(prices, said, kind=UP_DOWN, horizon=60, features=right[:, None])
    assert named(made, UP_DOWN) == {}
    assert feature_leaks(made.watch, UP_DOWN, ("a:b",)) == ()


def test_a_report_says_it_in_json_and_in_words() -> None:
    made = verify(random_walk(TICKS, 4), coin(DIRECTION), kind=DIRECTION, horizon=10, band=20.0)
    assert [one["name"] for one in report(made.state, kind=DIRECTION)["trivial"]] == ["one_class"]
    assert "one_class: " in str(read(made.state, kind=DIRECTION))
