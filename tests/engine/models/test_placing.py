"""Where a model runs is measured once, outside the fold, and stays decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.models import placing
from engine.models.placing import place_models, slowest_ms
from engine.models.settings import ModelConfig, ModelsConfig
from engine.models.spec import resolve_model

SLOW = """
class Slow:
    def learn_one(self, x, y): sum(range(100_000))
    def predict_one(self, x): return 0
    def predict_proba_one(self, x): return {0: 1.0}

class Quick(Slow):
    def learn_one(self, x, y): pass

def slow(): return Slow()
def quick(): return Quick()
"""
COMPILED = {"algorithm": "scaled_softmax"}


@pytest.fixture
def factory(tmp_path: Path) -> str:
    path = tmp_path / "slow_model.py"
    path.write_text(SLOW)
    return str(path)


def models(*algorithms: dict[str, Any], place: str = "auto", budget_ms: float = 0.3) -> ModelsConfig:
    own = ModelConfig(("market:price",), algorithms[0], challengers=algorithms[1:], place=place)  # type: ignore[arg-type]
    return ModelsConfig(run=("mine",), define={"mine": own}, budget_ms=budget_ms)


def placed(config: ModelsConfig, kept_in: Path | None = None) -> str:
    return place_models(config, kept_in).define["mine"].place


def test_what_costs_more_than_its_budget_goes_to_a_worker(factory: str) -> None:
    assert placed(models({"factory": f"{factory}:slow"})) == "worker"
    assert placed(models({"factory": f"{factory}:slow"}, budget_ms=1e4)) == "loop"
    assert placed(models({"factory": f"{factory}:quick"}, budget_ms=50.0)) == "loop"


def test_the_slowest_version_decides(factory: str) -> None:
    assert placed(models(COMPILED, {"factory": f"{factory}:slow"})) == "worker"


def test_what_is_compiled_or_declared_is_not_measured(factory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "slowest_ms", pytest.fail)
    for config in (models(COMPILED, COMPILED), models({"factory": f"{factory}:slow"}, place="loop")):
        assert place_models(config) is config
    assert placed(models({"factory": f"{factory}:quick"}, place="worker")) == "worker"
    assert place_models(ModelsConfig()) == ModelsConfig()


def test_a_decision_is_kept_until_something_that_counts_changes(
    factory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measure(spec: Any) -> float:
        measured.append(spec.name)
        return 1.0 if len(measured) == 1 else 0.0

    monkeypatch.setattr(placing, "slowest_ms", measure)
    config = models({"factory": f"{factory}:slow"})
    assert [placed(config, tmp_path / "models") for _ in range(3)] == ["worker"] * 3
    assert measured == ["mine"]
    assert placed(msgspec.structs.replace(config, budget_ms=0.4), tmp_path / "models") == "loop"
    (tmp_path / "models" / "places.json").write_text("{")
    assert placed(config, tmp_path / "models") == "loop"


def test_a_value_is_probed_as_a_value() -> None:
    spec = resolve_model(
        "mine", ModelConfig(("market:price",), {"river": "linear_model.LinearRegression"}, target="log_return")
    )
    assert 0.0 < slowest_ms(spec) < 1e4
