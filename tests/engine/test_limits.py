"""Limits that are hit are heard, and one part's trouble stays its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ConfigError, StoreError
from engine.events import HandlerFailed, Signal, Tick
from engine.indicator import anchor, indicator
from engine.indicators import bollinger, ema, lowest, sma
from store import FeatureView, compute
from tests.brute_force import tick_table
from tests.folding import Run, listener, signal, trades

ROOT = Path(__file__).parents[2]


def twice(value: float) -> float:
    return 2.0 * value


@indicator()
def falls_over(price: float) -> float:
    return (1.0, 2.0)[int(price)]


def test_one_actor_that_publishes_too_much_does_not_make_another_fail() -> None:
    flood = listener(Tick, name="flood", answer=lambda event: [signal(event) for _ in range(10)])
    greedy = listener(Tick, name="greedy", answer=lambda event: [signal(event) for _ in range(11)])
    good = listener(Tick, name="good", answer=lambda event: [signal(event)])
    run = Run(flood, greedy, good, bus_limit=10).push(trades(7))
    assert len(run.of(Signal, "good")) == 7
    assert len(run.of(Signal, "flood")) == 70
    assert {event.actor for event in run.of(HandlerFailed)} == {"greedy"}


def test_a_step_that_raises_is_an_error_that_names_the_views_and_the_key() -> None:
    with pytest.raises(StoreError, match=r"x A/B: a step of the views broken raised IndexError"):
        compute(FeatureView("broken", {"value": falls_over("price")}), tick_table([0.0 + 1.0, 7.0]))


def test_a_window_of_more_ticks_than_memory_should_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"window 99999999999: expected at most 1048576 ticks"):
        lowest("price", 99_999_999_999)


@pytest.mark.parametrize("make", [sma, bollinger])
def test_an_average_over_ticks_takes_no_window_of_time(make: object) -> None:
    with pytest.raises(ConfigError, match=r"window '15m': expected a number of ticks"):
        make("price", "15m")  # type: ignore[operator]


def test_a_parameter_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"indicator ema: period = inf: expected a finite number"):
        ema("price", float("inf"))


def test_a_bar_longer_than_a_century_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"clock '150000d': expected at most 36500d"):
        FeatureView("long", {"price": "price"}, clock="150000d")


def test_an_anchor_moves_on_whoever_else_looks_at_the_window() -> None:
    table = tick_table([float(price) for price in range(1, 61)])
    alone = compute(FeatureView("alone", {"x": anchor("price", 5)}), table)["x"].to_pylist()
    beside = compute(FeatureView("beside", {"x": anchor("price", 5), "y": lowest("price", 5)}), table)["x"].to_pylist()
    assert alone == beside
    assert all(price - 2 * 5 <= value <= price for price, value in enumerate(alone, 1))


def test_compiled_files_that_were_cut_short_are_made_again(tmp_path: Path) -> None:
    script = (
        "from engine.jit import compile_function; from tests.engine.test_limits import twice; "
        "print(compile_function(twice, 'float64(float64)', 'a step')(21.0))"
    )
    environment = {**os.environ, "TICKFOLD_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]

    def run() -> tuple[str, int]:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr.count("compiling a step")

    assert run() == ("42.0\n", 1)
    [compiled] = (tmp_path / "programs" / "__pycache__").glob("tickfold_*.nbc")
    compiled.write_bytes(b"")
    assert run() == ("42.0\n", 0), "it was thought to be compiled"
    assert compiled.stat().st_size
    assert run() == ("42.0\n", 0)


def test_views_and_indicators_of_a_python_file_can_be_named_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from engine.indicator import indicator\nfrom store import FeatureView\n"
        "@indicator(state={'last': 0.0})\ndef move(last, price):\n    return price, price - last\n"
        "MINE = FeatureView('mine', {'move': move('price')})\nOTHER = FeatureView('other', {'p': 'price'})\n"
    )
    environment = {**os.environ, "TICKFOLD_FEATURES__VIEWS": "market,mine.py:mine", "TICKFOLD_STRATEGIES__RUN": ""}
    done = subprocess.run(
        [sys.executable, "-m", "engine", "replay", "--symbols", "LRC/BTC"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "0 signals of no strategy; views market, mine;" in done.stdout
