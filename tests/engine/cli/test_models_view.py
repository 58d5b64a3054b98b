"""What `tickfold models` shows, at any width: intervals beside the scores, and names in full."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from engine.cli.fitting import UNLIMITED
from engine.cli.models_view import overview, portrait, verdicts

REPORT: dict[str, Any] = {
    "n": 12_345, "n_eff": 321, "headline": "brier", "brier": 0.2101, "skill": 0.1234, "interval": [0.1, 0.14],
    "accuracy": 0.571, "mcc": 0.123, "coverage": 0.941, "coverage_target": 0.95, "net_bps": 0.12,
    "best_baseline": "base_rate", "baselines": {"base_rate": 0.24}, "trivial": [],
    "beside": {"base_rate": {"brier": 0.24, "accuracy": 0.52, "mcc": 0.0, "net_bps": -0.5}},
    "intervals": {"accuracy": [0.55, 0.593], "mcc": [0.08, 0.17], "coverage": [0.92, 0.961], "net_bps": [-0.1, 0.3]},
}  # fmt: skip
VERSION: dict[str, Any] = {
    "version": "1", "role": "champion", "since": 1_000, "learned": 12_345, "memory_bytes": 9 << 20, "parked": "",
    "algorithm": {"river": ["preprocessing.MinMaxScaler", {"river": "linear_model.LogisticRegression", "l2": 0.1}]},
    "e_value": None, "threshold": None, "pairs": 0, "report": REPORT,
}  # fmt: skip
STANDING: dict[str, Any] = {
    "model": "direction_of_the_next_minute", "exchange": "binance", "symbol": "1000PEPE/USDT", "horizon": "60s",
    "target": "direction", "champion": "1", "served": "1", "ready": True, "pinned": True, "predictions": 13_000,
    "outcomes": 12_345, "void": 1, "waiting": 2, "drifts": 0, "promotions": 0, "skipped": {}, "row_us": 1_850.0,
    "memory_bytes": 9 << 20, "versions": [VERSION], "marks": [],
}  # fmt: skip


def shown(drawn: RenderableType, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(drawn)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200, UNLIMITED])
def test_model_and_key_are_named_in_full_at_any_width(width: int) -> None:
    text = shown(overview([STANDING], width), width)
    assert "direction_of_the_next_minute  binance 1000PEPE/USDT" in text
    for drawn in (overview([STANDING], width), portrait([STANDING], width)):
        text = shown(drawn, width)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width


def test_each_score_has_its_interval() -> None:
    verdict = {**REPORT, **{key: STANDING[key] for key in ("model", "exchange", "symbol", "horizon", "target", "void")}}
    for drawn in (portrait([STANDING], UNLIMITED), verdicts([verdict], UNLIMITED)):
        text = shown(drawn, UNLIMITED)
        for part in (
            "+12.34 % (+10.00 to +14.00)",
            "57.1 % (55.0 to 59.3)",
            "+0.123 (+0.080 to +0.170)",
            "94.1 % (92.0 to 96.1)",
            "+0.12 (-0.10 to +0.30) bps",
        ):
            assert part in text


def test_a_pipeline_is_named_by_its_steps_and_a_parked_version_says_why() -> None:
    text = shown(portrait([{**STANDING, "versions": [{**VERSION, "parked": "it failed"}]}], UNLIMITED), UNLIMITED)
    assert "MinMaxScaler | LogisticRegression(l2=0.1)" in text
    assert "version 1 is parked: it failed" in text


@pytest.mark.parametrize(("us", "text"), [(0.04, "40 ns"), (3.25, "3.2 us"), (85.4, "85 us"), (1_850.0, "1.9 ms")])
def test_durations_have_the_unit_that_reads_best(us: float, text: str) -> None:
    assert f"{text} a row" in shown(portrait([{**STANDING, "row_us": us}], UNLIMITED), UNLIMITED)
