"""Every example runs, and says what its text promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
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
