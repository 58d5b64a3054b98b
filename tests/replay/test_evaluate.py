"""Models judged on recorded ticks and on data sets: the scores are those of the fold's own ledger, and of the actors' own loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import Config
from engine.errors import ConfigError
from engine.models.build import build
from engine.models.progressive import progressive
from engine.models.report import report
from engine.models.settings import ModelConfig, ModelsConfig
from engine.models.spec import BUILT_IN
from replay.datasets import open_data_set
from replay.driver import Selection, build_fold, drive
from replay.evaluate import algorithm_of, evaluate, evaluate_data_set, models_to_judge
from replay.sources import open_source
from tests.folding import LTC, TRADES

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


def test_the_scores_are_those_that_a_fold_with_all_views_and_models_comes_to() -> None:
    config = Config()
    whole = build_fold(config, [])
    drive(whole, [open_source(LTC)])
    assert whole.models is not None
    (judged,) = evaluate(config, [open_source(LTC)], Selection(), models_to_judge(config, "direction"))
    standing = next(one for one in whole.models.standings() if one.model == "direction")
    (champion,) = (one for one in standing.versions if one.role == "champion")
    own = report(champion.score, kind=standing.kind, classes=standing.classes, coverage=standing.coverage)
    assert judged["n"] == own["n"] > 1_000
    assert {name: judged[name] for name in own} == own


def test_a_verdict_has_what_others_rely_on() -> None:
    heard: list[int] = []
    models = models_to_judge(Config(), "direction", horizon="50t") + models_to_judge(
        Config(), "log_return", horizon="50t"
    )
    found = evaluate(Config(), [open_source(TRADES)], Selection(), models, progress=heard.append, pooled=True)
    where = [(one["exchange"], one["symbol"], one["model"]) for one in found]
    assert where == [
        ("binance", "BTC/USDT", "direction"), ("binance", "BTC/USDT", "log_return"),
        ("binance", "ETH/USDT", "direction"), ("binance", "ETH/USDT", "log_return"),
        ("*", "*", "direction"), ("*", "*", "log_return"),
    ]  # fmt: skip
    assert json.loads(json.dumps(found, allow_nan=False))
    for one in found:
        assert set(one) >= KEYS
        assert one["horizon"] == "50t"
        assert one["baselines"]
        assert len(one["interval"]) == 2
        assert 0 < one["n_eff"] <= one["n"] / 50 + 1
    assert found[0]["n"] + found[2]["n"] == found[4]["n"]
    assert found[1]["accuracy"] is None
    assert found[1]["mae"] > 0.0
    assert heard == sorted(heard)
    assert heard[-1] == 6_000


def test_a_model_that_belongs_in_a_worker_process_is_judged_without_one() -> None:
    changes = ['algorithm={river="dummy.PriorClassifier"}', "place=worker"]
    models = models_to_judge(Config(), "direction", horizon="20t", changes=changes)
    (found,) = evaluate(Config(), [open_source(LTC)], Selection(), models)
    assert found["n"] > 1_000
    assert found["skill"] < 0.05


def test_symbols_can_be_chosen() -> None:
    models = models_to_judge(Config(), "log_return", horizon="20t")
    found = evaluate(Config(), [open_source(TRADES)], Selection(symbols=("ETH/USDT",)), models)
    assert [one["symbol"] for one in found] == ["ETH/USDT"]


def test_a_model_can_be_changed_for_the_occasion() -> None:
    changes = ["band=2.5", "algorithm.lr=0.01", "missing=skip", 'challengers=[{river="dummy.PriorClassifier"}]']
    (made,) = models_to_judge(Config(), "direction", horizon="100t", changes=changes)
    assert (made.config.band, made.config.missing, made.horizon.text) == (2.5, "skip", "100t")
    assert made.config.algorithm == {**BUILT_IN["direction"].algorithm, "lr": 0.01}
    assert made.algorithms[1] == {"river": "dummy.PriorClassifier"}
    own = ModelConfig(features=("market:side",), algorithm={"algorithm": "scaled_softmax"})
    config = Config(models=ModelsConfig(define={"own": own}))
    assert {spec.name for spec in models_to_judge(config)} == {*BUILT_IN, "own"}


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("directoin", (), "did you mean direction"),
        ("direction", ("bands=1",), "did you mean band"),
        ("direction", ("band",), "expected KEY=VALUE"),
        ("direction", ("band=-1",), "Expected `float` >= 0"),
        ("direction", ("horizon=6x",), "expected a time"),
        ("direction", ("band.wide=1",), "band has no keys below it"),
    ],
)
def test_a_model_or_change_that_cannot_be_is_refused(name: str, changes: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        models_to_judge(Config(), name, changes=changes)


@pytest.mark.parametrize("delay", [0, 12])
def test_a_learner_on_a_data_set_is_judged_as_progressive_validation_judges_it(delay: int) -> None:
    algorithm = {"algorithm": "scaled_logistic", "lr": 0.005}
    heard: list[int] = []
    found = evaluate_data_set(open_data_set("river:Phishing"), algorithm, delay=delay, progress=heard.append)
    own = progressive(build(algorithm), open_data_set("river:Phishing").rows(), delay)
    assert set(found) >= KEYS
    assert {name: found[name] for name in ("n", "accuracy", "mcc", "brier")} == {
        name: own[name] for name in ("n", "accuracy", "mcc", "brier")
    }
    if not delay:
        assert found["accuracy"] == pytest.approx(0.8872, abs=5e-5)
    assert found["n_eff"] == -(-found["n"] // max(delay, 1))
    assert found["skill"] == pytest.approx(1.0 - found["brier"] / min(found["baselines"].values()))
    assert heard[-1] == 1_024  # of 1,250, in steps
    assert found["interval"] == found["intervals"]["skill"]
    for name in ("accuracy", "mcc", "brier", "skill"):
        low, high = found["intervals"][name]
        assert low < found[name] < high


def test_a_regression_is_judged_by_its_squared_error_beside_the_mean_and_the_last_value(tmp_path: Path) -> None:
    path = tmp_path / "line.csv"
    path.write_text("x,y\n" + "".join(f"{x % 17},{2.0 * (x % 17) + 1.5}\n" for x in range(400)), encoding="utf-8")
    found = evaluate_data_set(open_data_set(str(path)), {"river": "tree.HoeffdingTreeRegressor"}, name="own")
    assert (found["model"], found["symbol"], found["target"], found["headline"]) == ("own", "line", "y", "mse")
    assert set(found["baselines"]) == {"mean", "last_label"}
    assert found["skill"] > 0.5
    assert found["accuracy"] is None


def test_a_regressor_is_told_that_a_column_of_text_names_classes(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text("x,size\n1,7\n2,big\n", encoding="utf-8")
    says = r"words: column size names a class \('big' in row 2\), and LinearRegression\(l2=0.1\) is a regressor"
    with pytest.raises(ConfigError, match=says):
        evaluate_data_set(open_data_set(str(path)), {"river": "linear_model.LinearRegression", "l2": 0.1})
    with pytest.raises(ConfigError, match="column size names a class"):
        evaluate_data_set(open_data_set(str(path)), {"algorithm": "scaled_linear"})


def test_what_has_no_such_scores_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a classifier or a regressor"):
        evaluate_data_set(open_data_set("river:Phishing", rows=50), {"river": "anomaly.HalfSpaceTrees"})


@pytest.mark.parametrize(
    ("text", "changes", "algorithm"),
    [
        ('{"algorithm": "scaled_logistic", "lr": 0.5}', (), {"algorithm": "scaled_logistic", "lr": 0.5}),
        (
            '{river="tree.HoeffdingTreeClassifier", grace_period=50}',
            (),
            {"river": "tree.HoeffdingTreeClassifier", "grace_period": 50},
        ),
        ("scaled_linear", ("lr=0.1",), {"algorithm": "scaled_linear", "lr": 0.1}),
        (
            "tree.HoeffdingTreeClassifier",
            ("algorithm.delta=1e-5",),
            {"river": "tree.HoeffdingTreeClassifier", "delta": 1e-5},
        ),
    ],
)
def test_an_algorithm_may_be_json_toml_or_a_name(
    text: str, changes: tuple[str, ...], algorithm: dict[str, object]
) -> None:
    assert algorithm_of(text, changes) == algorithm


def test_an_algorithm_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected JSON or TOML"):
        algorithm_of("[1, 2]")
