"""Every example runs, and says what its text promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.config import load
from engine.models.build import make_arm
from engine.models.layout import Layout
from engine.models.spec import resolve_models
from replay.driver import views_of

ROOT = Path(__file__).parents[1]
DIRECTION = ROOT / "examples" / "direction"
LTC = "tests/data/binance_20250621_ltc_trades.parquet"
ES = "tests/data/cme_es_20130901_trades.parquet"
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


def test_the_direction_example_leaves_its_committed_page_alone(tmp_path: Path) -> None:
    before = (DIRECTION / "report.html").read_bytes()
    out = run("examples/direction/run.py", LTC, "--models", "return_60s", TMPDIR=str(tmp_path))
    (page,) = tmp_path.glob("tickfold-*/report.html")
    assert f"the page: {page}" in out
    assert (DIRECTION / "report.html").read_bytes() == before


def made(kind: str, sources: list[Path], into: Path) -> pa.Table:
    """What convert.py writes, which ends with 1: an excerpt is another recording than the full one."""
    command = [sys.executable, str(DIRECTION / "convert.py"), kind, str(into), *map(str, sources)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (1, "")
    assert "that is another recording than the one of README.md" in result.stdout
    return pq.read_table(into)


def test_the_trades_of_ltc_are_made_of_files_in_any_order_that_overlap_and_go_on(tmp_path: Path) -> None:
    trades = pq.read_table(ROOT / LTC)
    rows = trades.to_pylist()
    after = {"timestamp": 1750568400000000000, "price": 81.0, "volume": 1.0, "side": 1, "trade_id": 293588443}
    files = []
    for number, part in enumerate((rows[2_000:], [*rows[:2_001], after])):
        lines = [
            f"{row['timestamp'] // 1_000_000},{row['price']:g},{row['volume']!r},{'buy' if row['side'] > 0 else 'sell'},{row['trade_id']}\n"
            for row in part
        ]
        files.append(tmp_path / f"{number}.csv")
        files[-1].write_text("".join(["timestamp,price,quantity,side,tradeId\n", *lines]))
    assert made("ltc", files, tmp_path / "LTC.parquet").equals(trades)


@pytest.mark.parametrize("is_wheel", [True, False])
def test_the_trades_of_es_are_made_of_the_wheel_or_of_its_file(tmp_path: Path, is_wheel: bool) -> None:
    trades = pq.read_table(ROOT / ES)
    lines = ["DateTime,Price,Volume\n"]
    for row in trades.to_pylist():
        there = datetime.fromtimestamp(row["timestamp"] // 1_000_000 / 1_000, timezone(timedelta(hours=-5)))
        lines.append(f"{there:%Y-%m-%d %H:%M:%S}.{there.microsecond // 1_000:03},{row['price']:g},{row['volume']:g}\n")
    source = tmp_path / "source"
    if is_wheel:
        with zipfile.ZipFile(source, "w") as wheel:
            wheel.writestr("mlfinpy/dataset/data/tick_data.csv", "".join(lines))
    else:
        source.write_text("".join(lines))
    assert made("es", [source], tmp_path / "ES.parquet").equals(trades)


def test_the_lines_that_the_sources_publish_are_read_as_they_are_meant(tmp_path: Path) -> None:
    ltc, es = tmp_path / "ltc.csv", tmp_path / "es.csv"
    ltc.write_text(
        "timestamp,price,quantity,side,tradeId\n1750507467356,83.29,0.107,buy,293517768\n1750507476168,83.28,0.229,sell,293517771\n"
    )
    es.write_text("DateTime,Price,Volume\n2013-09-01 17:00:00.083,1640.25,8\n")
    assert made("ltc", [ltc], tmp_path / "a").drop(["received", "exchange", "symbol"]).to_pylist() == [
        {"timestamp": 1750507467356000000, "price": 83.29, "volume": 0.107, "side": 1, "trade_id": 293517768},
        {"timestamp": 1750507476168000000, "price": 83.28, "volume": 0.229, "side": -1, "trade_id": 293517771},
    ]
    assert made("es", [es], tmp_path / "b").drop(["received", "exchange", "symbol"]).to_pylist() == [
        {"timestamp": 1378072800083000000, "price": 1640.25, "volume": 8.0, "side": 0, "trade_id": 1}
    ]


def test_the_sums_in_the_readme_are_those_that_the_conversion_expects() -> None:
    sums = re.findall(r"[0-9a-f]{64}", (DIRECTION / "convert.py").read_text())
    assert sorted(sums) == sorted(re.findall(r"[0-9a-f]{64}", (DIRECTION / "README.md").read_text()))
    assert len(sums) == 2


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
