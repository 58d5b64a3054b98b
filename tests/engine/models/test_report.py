"""What is read from the sums: metrics against scikit-learn's and River's, intervals against a simulation, and no score alone."""

from __future__ import annotations

import json
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.models.baselines import baselines_names
from engine.models.bootstrap import t_quantile, wilson
from engine.models.report import BINS, Beside, read, report
from engine.models.score import closed, pooled, score_size
from engine.models.target import CLASSES, DIRECTION, LOG_RETURN, TRADE, UP_DOWN, VOLATILITY
from tests.scoring import Floats, Verified, outcomes, random_walk, verify

KEYS = {
    "n", "n_eff", "accuracy", "mcc", "brier", "log_loss", "balanced_accuracy", "confusion", "reliability", "abstention",
    "net_bps", "skill", "interval", "intervals", "coverage", "baselines", "recent",
}  # fmt: skip


def noisy(
    kind: int, count: int = 3_000, horizon: int = 10, seed: int = 0, **other: object
) -> tuple[Verified, Floats, Floats]:
    """Predictions that know a little: (what became of them, probabilities of those with an outcome, labels)."""
    prices = random_walk(count, seed)
    rng = np.random.default_rng(seed)
    outputs = len(CLASSES[kind])
    labels = outcomes(prices, kind, horizon, band=2.0)
    said = rng.dirichlet(np.full(outputs, 4.0), count)
    known = np.flatnonzero(np.isfinite(labels))
    said[known, labels[known].astype(int)] += 0.1
    said /= said.sum(axis=1, keepdims=True)
    made = verify(prices, said, kind=kind, horizon=horizon, band=2.0, **other)  # type: ignore[arg-type]
    return made, said[known], labels[known].astype(int)


@pytest.mark.parametrize("kind", [DIRECTION, UP_DOWN])
def test_metrics_equal_those_of_scikit_learn(kind: int) -> None:
    from sklearn import metrics  # type: ignore[import-untyped]

    made, said, labels = noisy(kind)
    found = report(made.state, kind=kind, draws=0)
    calls = said.argmax(axis=1)
    assert found["n"] == len(labels)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, calls))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(labels, calls))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, calls))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(labels, said))
    assert found["confusion"] == metrics.confusion_matrix(labels, calls).tolist()
    one_hot = np.eye(said.shape[1])[labels]
    assert found["brier"] == pytest.approx(0.5 * ((said - one_hot) ** 2).sum(axis=1).mean())
    if kind == UP_DOWN:
        assert found["brier"] == pytest.approx(metrics.brier_score_loss(labels, said[:, 1]))


def test_metrics_equal_those_of_river() -> None:
    from river import metrics as untyped

    metrics: Any = untyped
    made, said, labels = noisy(DIRECTION)
    found = report(made.state, kind=DIRECTION, draws=0)
    peers = {
        "accuracy": metrics.Accuracy(),
        "balanced_accuracy": metrics.BalancedAccuracy(),
        "log_loss": metrics.CrossEntropy(),
    }
    for label, row in zip(labels.tolist(), said.tolist(), strict=True):
        peers["accuracy"].update(label, int(np.argmax(row)))
        peers["balanced_accuracy"].update(label, int(np.argmax(row)))
        peers["log_loss"].update(label, dict(enumerate(row)))
    for name, peer in peers.items():
        assert found[name] == pytest.approx(peer.get()), name


def test_metrics_of_values_equal_those_of_scikit_learn() -> None:
    from sklearn import metrics

    prices = random_walk(2_000, 1)
    labels = outcomes(prices, LOG_RETURN, 5)
    said = np.random.default_rng(0).normal(0.0, 1e-4, 2_000)
    said[: len(labels)] += 0.3 * labels
    found = report(verify(prices, said, kind=LOG_RETURN, horizon=5).state, kind=LOG_RETURN, draws=0)
    said = said[: len(labels)]
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(labels, said))
    assert found["mse"] == pytest.approx(metrics.mean_squared_error(labels, said))
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(labels, said))
    assert found["correlation"] == pytest.approx(np.corrcoef(labels, said)[0, 1])
    assert found["baselines"]["no_change"] == pytest.approx((labels**2).mean())
    assert found["skill"] == pytest.approx(1.0 - found["mse"] / min(found["baselines"].values()))
    assert found["accuracy"] is None


@pytest.mark.parametrize("kind", [DIRECTION, UP_DOWN, TRADE, LOG_RETURN, VOLATILITY])
@pytest.mark.parametrize("count", [0, 3, 400])
def test_a_report_is_json_and_has_every_key_from_the_first_row_on(kind: int, count: int) -> None:
    outputs = len(CLASSES.get(kind, ())) or 1
    prices = random_walk(count + 1, 3)
    said = np.full((count + 1, outputs), 1.0 / outputs)
    state = verify(prices, said, kind=kind, horizon=1).state if count else np.zeros(score_size(kind, outputs))
    found = report(state, kind=kind)
    assert set(found) >= KEYS
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["n"] == count
    assert len(found["interval"]) == 2
    assert tuple(found["baselines"]) == baselines_names(kind) == tuple(found["beside"])
    assert str(read(state, kind=kind)).startswith(f"n {count}")


def test_an_accuracy_cannot_be_made_without_its_baselines() -> None:
    with pytest.raises(
        ValueError, match=r"accuracy = 0\.95: expected the baselines' scores on the same rows beside it"
    ):
        Beside("accuracy", 0.95, 0.9, 1.0, {})
    made, _, _ = noisy(DIRECTION)
    whole = read(made.state, kind=DIRECTION)
    assert "accuracy" not in whole.values
    assert set(whole.scores["accuracy"].baselines) == set(baselines_names(DIRECTION))
    line = next(line for line in str(whole).splitlines() if line.startswith("accuracy"))
    assert " beside " in line


def test_baselines_are_scored_on_the_same_rows() -> None:
    made, _, labels = noisy(UP_DOWN, horizon=10)
    found = report(made.state, kind=UP_DOWN, draws=0)
    prices = random_walk(3_000, 0)
    rose = np.sign(np.diff(prices, prepend=prices[0]))[: len(prices) - 10]
    known = np.isfinite(outcomes(prices, UP_DOWN, 10)) & (rose != 0)
    right = np.mean((rose[known] > 0) == outcomes(prices, UP_DOWN, 10)[known])
    assert found["beside"]["last_return"]["accuracy"] == pytest.approx(right, abs=2 / len(labels))
    both = [found["beside"][name]["accuracy"] for name in ("last_return", "last_return_opposite")]
    assert sum(both) == pytest.approx(1.0, abs=2 / len(labels))
    assert found["baselines"] == {name: found["beside"][name]["brier"] for name in baselines_names(UP_DOWN)}
    assert found["best_baseline"] == min(found["baselines"], key=found["baselines"].__getitem__)


def test_ten_bins_of_equal_mass_say_how_often_what_was_said_came_true() -> None:
    rng = np.random.default_rng(0)
    count = 20_000
    chance = rng.beta(8.0, 8.0, count)
    labels = np.concatenate([(rng.random(count - 1) < chance[:-1]).astype(float), [math.nan]])
    said = np.stack([1.0 - chance, chance], axis=1)
    made = verify(random_walk(count, 0), said, kind=UP_DOWN, horizon=1, labels=labels)
    bins = read(made.state, kind=UP_DOWN).reliability["up"]
    assert len(bins) == BINS
    assert [one["n"] for one in bins] == pytest.approx([(count - 1) / BINS] * BINS)
    edges = np.quantile(chance[:-1], np.linspace(0.0, 1.0, BINS + 1))
    for one, low, high in zip(bins, edges[:-1], edges[1:], strict=True):
        inside = (chance[:-1] >= low) & (chance[:-1] <= high)
        assert one["predicted"] == pytest.approx(chance[:-1][inside].mean(), abs=2e-3)
        assert one["low"] <= one["predicted"] <= one["high"] or abs(one["predicted"] - one["observed"]) < 0.03
        assert one["observed"] == pytest.approx(labels[:-1][inside].mean(), abs=0.01)
    assert read(made.state, kind=UP_DOWN).values["calibration_error"] < 0.015


def test_abstention_and_coverage_are_those_of_the_conformal_sets() -> None:
    said = np.array(
        [[0.1, 0.2, 0.7], [0.3, 0.35, 0.35], [0.4, 0.3, 0.3], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.1, 0.2, 0.7]]
    )
    thresholds = np.array([0.5, 0.66, 0.5, 0.65, math.inf, 0.5])  # one, two, none, two, not yet; the last never matures
    labels = np.array([2.0, 0.0, 1.0, 0.0, 2.0, math.nan])
    made = verify(random_walk(6, 0), said, kind=DIRECTION, horizon=1, labels=labels, thresholds=thresholds)
    found = report(made.state, kind=DIRECTION, coverage=0.9)
    assert found["abstention"] == pytest.approx(3 / 4)
    assert found["coverage"] == pytest.approx(2 / 4)
    assert found["coverage_target"] == 0.9
    made = verify(
        random_walk(6, 0),
        np.zeros(6),
        kind=LOG_RETURN,
        horizon=1,
        thresholds=0.5,
        labels=np.array([0.1, 0.9, -0.4, -0.6, 0.0, 0.0]),
    )
    found = report(made.state, kind=LOG_RETURN)
    assert found["coverage"] == pytest.approx(3 / 5)
    assert found["width"] == 1.0


def test_intervals_cover_what_is_true_where_a_binomial_one_does_not() -> None:
    horizon, count, runs = 60, 6_000, 150
    covered = naive = 0
    always = np.tile([0.4, 0.6], (count, 1))
    for seed in range(runs):
        made = read(
            verify(random_walk(count, seed), always, kind=UP_DOWN, horizon=horizon).state, kind=UP_DOWN, draws=400
        )
        accuracy = made.scores["accuracy"]
        assert made.n_eff <= count // horizon
        covered += accuracy.low <= 0.5 <= accuracy.high
        half = NormalDist().inv_cdf(0.975) * math.sqrt(0.25 / made.n)
        naive += abs(accuracy.value - 0.5) <= half
    assert 0.90 <= covered / runs <= 0.98
    assert naive / runs < 0.40


def test_few_outcomes_have_no_interval() -> None:
    said = np.tile([0.45, 0.55], (300, 1))
    assert report(verify(random_walk(300, 1), said, kind=UP_DOWN, horizon=60).state, kind=UP_DOWN)["interval"] == [
        None,
        None,
    ]
    low, high = report(
        verify(random_walk(900, 1), said[:1].repeat(900, 0), kind=UP_DOWN, horizon=60).state, kind=UP_DOWN
    )["interval"]
    assert low < high <= 1.0


def test_what_lies_between_two_thinned_outcomes_is_one_outcome() -> None:
    said = np.full((40, 2), math.nan)
    said[5:12] = 0.5  # of a horizon of 20 ticks the first is thinned, and the arm said nothing then
    found = report(verify(random_walk(40, 1), said, kind=UP_DOWN, horizon=20).state, kind=UP_DOWN)
    assert 1 <= found["n"] <= 7
    assert found["n_eff"] == 1


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from([DIRECTION, UP_DOWN, TRADE, LOG_RETURN]),
    count=st.integers(2, 400),
    horizon=st.integers(1, 40),
    sure=st.floats(0.05, 50.0),
    seed=st.integers(0, 99),
)
def test_every_score_lies_where_it_can(kind: int, count: int, horizon: int, sure: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs = len(CLASSES.get(kind, ())) or 1
    said = rng.dirichlet(np.full(outputs, sure), count) if outputs > 1 else sure * 1e-4 * rng.normal(size=(count, 1))
    found = report(
        verify(random_walk(count, seed), said, kind=kind, horizon=horizon, thresholds=0.6).state, kind=kind, draws=100
    )
    assert found["n_eff"] <= found["n"] <= max(count - horizon, 0)
    for name in ("accuracy", "balanced_accuracy", "brier", "abstention", "coverage", "traded"):
        for value in (found[name], *(found["intervals"].get(name) or ())):
            assert value is None or 0.0 <= value <= 1.0, name
    for name, (low, high) in found["intervals"].items():
        assert low is None or low <= high, name
    for bins in found["reliability"].values():
        predicted = [one["predicted"] for one in bins]
        assert predicted == pytest.approx(sorted(predicted))
        assert all(one["low"] - 1e-9 <= one["observed"] <= one["high"] + 1e-9 for one in bins)
    assert sum(map(sum, found["confusion"])) == (found["n"] if outputs > 1 else 0)


def test_the_same_sums_give_the_same_intervals() -> None:
    made, _, _ = noisy(DIRECTION)
    assert report(made.state, kind=DIRECTION) == report(made.state.copy(), kind=DIRECTION)


def test_recent_scores_and_the_curve_show_what_the_whole_hides() -> None:
    count = 4_000
    labels = np.random.default_rng(0).integers(0, 2, count).astype(float)
    said = np.where(labels[:, None] == [0.0, 1.0], 0.9, 0.1)
    said[count // 2 :] = said[count // 2 :, ::-1]  # turned round half-way
    made = verify(random_walk(count, 0), said, kind=UP_DOWN, horizon=1, labels=labels)
    found = report(made.state, kind=UP_DOWN)
    assert found["accuracy"] == pytest.approx(0.5, abs=0.01)
    assert found["recent"]["accuracy"] < 0.01
    assert found["recent"]["n_eff"] == pytest.approx(100.0, abs=2.0)
    losses = [loss for _, loss, _ in found["curve"]]
    assert losses[0] < 0.02
    assert losses[-1] > 0.8


def test_pooling_symbols_that_move_together_does_not_make_more_sure() -> None:
    said = np.tile([0.4, 0.6], (6_000, 1))
    alone = verify(random_walk(6_000, 2), said, kind=UP_DOWN, horizon=20)
    apart = [verify(random_walk(6_000, 3 + seed), said, kind=UP_DOWN, horizon=20) for seed in range(8)]

    def width(state: Floats) -> float:
        low, high = report(state, kind=UP_DOWN)["intervals"]["accuracy"]
        return float(high - low)

    one = width(alone.state)
    assert width(pooled([alone.state] * 8)) == pytest.approx(one, rel=0.15)
    assert width(pooled([each.state for each in apart])) < 0.6 * one
    assert report(pooled([each.state for each in apart]), kind=UP_DOWN)["n"] == sum(
        report(each.state, kind=UP_DOWN, draws=0)["n"] for each in apart
    )


def test_reading_changes_no_bit_of_what_is_read() -> None:
    made, _, _ = noisy(DIRECTION)
    before = made.state.tobytes()
    report(made.state, kind=DIRECTION)
    closed(made.state)
    assert made.state.tobytes() == before


def test_quantiles_and_shares_are_those_of_the_tables() -> None:
    for freedom, expected in ((7, 2.365), (15, 2.131), (30, 2.042), (60, 2.000)):
        assert t_quantile(0.975, freedom) == pytest.approx(expected, abs=0.01)
    low, high = wilson(0.1, 20.0, 0.95)  # Newcombe (1998), table I: 2 of 20
    assert (low, high) == pytest.approx((0.0279, 0.3010), abs=1e-4)


def test_what_says_nothing_has_no_skill_where_the_base_rate_follows_overlapping_labels() -> None:
    found = []
    for seed in range(12):
        said = np.full((4_000, 2), 0.5)
        one = report(verify(random_walk(4_000, seed), said, kind=UP_DOWN, horizon=60).state, kind=UP_DOWN, draws=0)
        assert one["baselines"]["base_rate"] > one["baselines"]["uniform"] * 0.9
        found.append(one["skill"])
    assert max(found) <= 0.0


def test_where_a_rule_is_always_right_no_skill_is_said_and_it_is_named() -> None:
    said = np.tile([0.0, 1.0], (2_000, 1))
    rising = np.linspace(100.0, 200.0, 2_000)
    one = report(verify(rising, said, kind=UP_DOWN, horizon=60).state, kind=UP_DOWN)
    assert 20 <= one["n_eff"] < 100
    assert (one["skill"], one["interval"], one["accuracy"]) == (None, [None, None], 1.0)
    assert [found["name"] for found in one["trivial"]] == ["one_class"]
