"""Every example runs, and says what its text promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.config import load
from engine.models.build import make_arm
from engine.models.layout import Layout
from engine.models.spec import resolve_models
from replay.driver import views_of

ROOT = Path(__file__).parents[1]
DIRECTION = ROOT / "examples" / "direction"
LTC = "tests/data/binance_20250621_ltc_trades.parquet"
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def run(*command: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_there_is_a_test_for_each_example() -> None:
    assert EXAMPLES == ["01_features_of_a_table.py", "02_own_indicator.py", "03_breakout.py"]


def test_features_of_the_recording_have_a_row_for_each_trade() -> None:
    out = run("examples/01_features_of_a_table.py")
    assert "9,759 rows x 32 columns from 9,759 trades, 28,124 quotes" in out
    assert re.search(r"rsi_14 +\d", out), out


def test_an_own_indicator_works_on_bars_of_ticks() -> None:
    assert re.match(r"100 bars of ten ticks; longest run of rising closes: [1-9]", run("examples/02_own_indicator.py"))


def test_an_own_strategy_signals_on_the_recording() -> None:
    out = run("-m", "engine", "replay", TICKFOLD_STRATEGIES__RUN="examples/03_breakout.py")
    found = re.search(r"(\d+) signals of examples/03_breakout.py", out)
    assert found, out
    assert int(found[1]) > 0, out


def test_the_direction_example_sets_models_beside_baselines_and_writes_its_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    out = run("examples/direction/run.py", LTC, "--models", "direction_60s,return_60s", "--html", str(page))
    assert "direction_60s: n 1,702, n_eff 64" in out
    # Compiled models, River's, a tree and a forest, each with the interval of its skill; then the baselines.
    for name in ("softmax, compiled", "logistic regression, River", "Gaussian naive Bayes", "Hoeffding tree"):
        assert re.search(rf"{name} .* [+-]\d+\.\d% \([+-]\d+\.\d% to [+-]\d+\.\d%\)", out), name
    assert "adaptive random forest" in out
    assert "the best baseline" in out
    assert "Labels used before they matured" in out
    html = page.read_text()
    assert "<script" not in html
    assert not re.search(r"""(?:src|href)=|url\(|@import""", html), "the page loads something"
    assert html.count("</article>") == 2


def test_the_figures_in_the_readme_of_the_direction_example_are_those_of_its_page() -> None:
    page = (DIRECTION / "report.html").read_text().replace("&minus;", "-")
    rows = [line for line in (DIRECTION / "README.md").read_text().splitlines() if line.startswith("| ")]
    counts = re.findall(r"n_eff ([\d,]+) \|", "\n".join(rows))
    skills = re.findall(r"([+-]\d+\.\d) % \(([+-]\d+\.\d) to ([+-]\d+\.\d)\)", "\n".join(rows))
    assert (len(counts), len(skills)) == (4, 20)
    for count in counts:
        assert f"<b>{count}</b> do not overlap" in page, count
    for skill, low, high in skills:
        assert f"{skill}% <small>{low}% to {high}%</small>" in page, skill


def configurations() -> list[Any]:
    """Every piece of TOML in the documentation that speaks of models, by where it stands."""
    found = {}
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), DIRECTION / "README.md"):
        for number, text in enumerate(re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL), 1):
            if "[models" in text:
                found[f"{path.relative_to(ROOT)} {number}"] = text
    found["examples/direction/direction.toml"] = (DIRECTION / "direction.toml").read_text()
    return [pytest.param(where, text, id=where) for where, text in found.items()]


@pytest.mark.parametrize(("where", "text"), configurations())
def test_models_that_the_documentation_shows_can_be_built(where: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    config = load(path, {})
    specs = resolve_models(config.models, [view.name for view in views_of(config)])
    assert set(config.models.define) <= {spec.name for spec in specs}, f"{where}: what it defines runs"
    for spec in specs:
        for algorithm in spec.algorithms:
            make_arm(algorithm, spec, Layout(len(spec.features), spec.target.outputs, 0, 1), seed=0)
