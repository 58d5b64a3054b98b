"""The loader: by name, by path, by entry point, and what it says where it finds none."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import StrategyError
from strategies import load
from strategies.moving_average_cross import MovingAverageCross
from strategies.order_flow_imbalance import OrderFlowImbalance

PLUGIN = """
from __future__ import annotations

import msgspec

from strategies import Strategy
from strategies.moving_average_cross import MovingAverageCross


class Breakout(Strategy):
    subscribes = ["derived"]

    class Parameters(msgspec.Struct, frozen=True):
        margin_bps: float = 1.0
"""


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    """Forget the modules that a test has loaded."""
    before = set(sys.modules)
    yield
    for name in sorted(sys.modules.keys() - before):
        if name.startswith(("tickfold_strategy_", "mine_plugins")):
            del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, entry_points: str) -> None:
    """Make what `pip install` leaves behind of a distribution with these entry points."""
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    write(info / "METADATA", "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    write(info / "entry_points.txt", f"[tickfold.strategies]\n{entry_points}\n")
    monkeypatch.syspath_prepend(str(folder))


def refusal(spec: str) -> str:
    with pytest.raises(StrategyError) as caught:
        load(spec)
    return str(caught.value)


def test_the_built_in_strategies_are_found_by_name() -> None:
    assert type(load("moving_average_cross")) is MovingAverageCross
    assert type(load("order_flow_imbalance")) is OrderFlowImbalance


def test_parameters_reach_the_strategy() -> None:
    assert load("order_flow_imbalance", {"threshold": 0.75}).parameters.threshold == 0.75


def test_every_load_gives_a_new_strategy() -> None:
    assert load("moving_average_cross") is not load("moving_average_cross")


def test_a_path_loads_the_one_strategy_that_the_file_defines_not_those_it_imports(tmp_path: Path) -> None:
    found = load(str(write(tmp_path / "breakout.py", PLUGIN)), {"margin_bps": 2.5})
    assert (found.name, found.parameters.margin_bps) == ("breakout", 2.5)


def test_a_file_that_is_loaded_again_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "breakout.py", PLUGIN)
    assert load(str(path)).name == "breakout"
    write(path, PLUGIN.replace("class Breakout", "class Breakdown_"))
    assert load(str(path)).name == "breakdown_"


def test_a_class_of_a_file_is_chosen_behind_a_colon(tmp_path: Path) -> None:
    path = write(tmp_path / "two.py", PLUGIN + "\n\nclass Fade(Breakout):\n    pass\n")
    assert load(f"{path}:Fade").name == "fade"
    assert load(f"{path}:Breakout").name == "breakout"
    assert refusal(str(path)) == f"strategy {path}: expected one subclass of Strategy, found Breakout, Fade"
    assert refusal(f"{path}:Fad") == f"strategy {path}: expected one subclass of Strategy named Fad, found none"


def test_an_entry_point_of_an_installed_distribution_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mine_plugins.py", PLUGIN)
    install(tmp_path, monkeypatch, "breakout = mine_plugins:Breakout")
    assert load("breakout").name == "breakout"
    with pytest.raises(StrategyError, match="expected one of breakout, moving_average_cross, order_flow_imbalance"):
        load("nobody")


def test_an_entry_point_cannot_take_the_name_of_a_built_in_strategy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mine_plugins.py", PLUGIN)
    install(tmp_path, monkeypatch, "moving_average_cross = mine_plugins:Breakout")
    assert type(load("moving_average_cross")) is MovingAverageCross


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "no_such_module_at_all:X",
            "strategy 'broken': no_such_module_at_all:X cannot be imported: ModuleNotFoundError",
        ),
        ("mine_plugins:Nothing", "strategy 'broken': mine_plugins:Nothing cannot be imported: AttributeError"),
        (
            "mine_plugins:msgspec",
            "strategy mine_plugins:msgspec: expected a subclass of strategies.Strategy, found <module",
        ),
        ("json:dumps", "strategy json:dumps: expected a subclass of strategies.Strategy, found <function dumps"),
        ("pathlib:Path", "strategy pathlib:Path: expected a subclass of strategies.Strategy, found <class"),
    ],
)
def test_a_broken_entry_point_is_refused_with_its_target_and_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, said: str
) -> None:
    write(tmp_path / "mine_plugins.py", PLUGIN)
    install(tmp_path, monkeypatch, f"broken = {target}")
    assert refusal("broken").startswith(said)


def test_an_unknown_name_is_refused_with_those_there_are_and_the_nearest() -> None:
    said = refusal("moving_averge_cross")
    assert said.startswith("strategy 'moving_averge_cross': expected one of ")
    assert "moving_average_cross, order_flow_imbalance" in said
    assert said.endswith("or the path of a .py file; did you mean 'moving_average_cross'?")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}/none.py") == f"strategy {tmp_path}/none.py: no such file"
    assert refusal(f"{tmp_path}/none.py:X") == f"strategy {tmp_path}/none.py: no such file"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "expected one subclass of Strategy, found none"),
        ("def broken(:", "SyntaxError: "),
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("raise ValueError('at import')", "ValueError: at import"),
    ],
)
def test_a_file_that_holds_no_strategy_or_cannot_be_imported_is_refused_with_the_cause(
    tmp_path: Path, text: str, said: str
) -> None:
    path = write(tmp_path / "plugin.py", text)
    assert re.match(re.escape(f"strategy {path}: {said}"), refusal(str(path)))
    assert "tickfold_strategy_plugin" not in sys.modules or "x = 1" in text
