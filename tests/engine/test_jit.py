"""Compiled programs: what a kernel may reach, that every change of what it reaches is noticed, and that nothing compiles twice."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import jit
from engine.errors import ConfigError, StoreError
from engine.indicator import Node, aggregate, indicator
from engine.indicators import ema, total
from engine.ingress import compiled_admit
from store import FeatureView, compute
from tests.brute_force import tick_table

ROOT = Path(__file__).parents[2]


def values_of(node: Node, price: list[float]) -> list[float]:
    """One feature over prices a second apart."""
    found: list[float] = compute(FeatureView("one", {"value": node}), tick_table(price))["value"].to_pylist()
    return found


def module_from(path: Path, source: str) -> types.ModuleType:
    """Write a module and import it, as a user's file of indicators is."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Between processes ------------------------------------------------------------------------------------------------------------

USER_MODULE = """
from engine.indicator import indicator
from helpers import twice

@indicator()
def scaled(value):
    return twice(value) + 1.0
"""
HELPERS = """
FACTOR = 2.0

def twice(value):
    return FACTOR * value
"""
SCRIPT = """
import json, engine.jit
heard = []
engine.jit.announce = heard.append
import engine.indicators
from engine.indicators import rsi
from mine import scaled
from store import FeatureView, compute
import pyarrow as pa
count = 6
table = pa.table({
    "timestamp": pa.array(range(count), pa.int64()), "received": pa.array(range(count), pa.int64()),
    "exchange": ["x"] * count, "symbol": ["A"] * count, "price": [5.0] * count, "volume": [1.0] * count,
})
rows = compute(FeatureView("mine", {"rsi": rsi("price", 3), "scaled": scaled("price")}), table)
print(json.dumps({
    "heard": heard, "rsi": rows["rsi"][-1].as_py(), "scaled": rows["scaled"][-1].as_py(), "file": engine.indicators.__file__,
}))
"""


@dataclass(frozen=True)
class Start:
    """What one process said: what it compiled, the last values, and how many compiled programs lie in the cache then."""

    compiled: list[str]
    rsi: float
    scaled: float
    programs: int


@dataclass(frozen=True)
class Tree:
    """A copy of the source with a user's modules beside it, and a cache folder of its own."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Tree:
        for package in ("engine", "store"):
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "mine.py").write_text(USER_MODULE)
        (folder / "helpers.py").write_text(HELPERS)
        # The ingress is what it is in the tree that this was copied from: found compiled, wherever the sources lie.
        ingress = compiled_admit().__module__
        place = folder / "cache" / "programs" / "__pycache__"
        place.mkdir(parents=True, mode=0o700)
        place.parent.chmod(0o700)
        shutil.copy2(jit.cache_place() / f"{ingress}.py", place.parent)
        for compiled in (jit.cache_place() / "__pycache__").glob(f"{ingress}.*.nb?"):
            shutil.copy2(compiled, place)
        return cls(folder)

    def start(self) -> Start:
        import json

        environment = {**os.environ, "PYTHONPATH": str(self.folder), "TICKFOLD_CACHE_DIR": str(self.folder / "cache")}
        # Sources are edited within the same second: a .pyc that goes by the time of its source would hide the edit.
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["file"].startswith(str(self.folder)), "the copied tree is what was to run"
        programs = len(list((self.folder / "cache").rglob("*.nbi")))
        compiled = [text for text in said["heard"] if "compiling" in text]
        return Start(compiled, said["rsi"], said["scaled"], programs)

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file}: expected {old!r} once"
        path.write_text(text.replace(old, new))


def test_starts_compile_once_and_notice_every_change_of_what_a_step_reaches(tmp_path: Path) -> None:
    tree = Tree.make(tmp_path)
    first = tree.start()
    assert len(first.compiled) == 1, f"the view, but not the ingress: {first.compiled}"
    assert (first.rsi, first.scaled, first.programs) == (50.0, 11.0, 2)

    again = tree.start()
    assert again.compiled == [], "what has not changed is not compiled again"
    assert (again.rsi, again.scaled, again.programs) == (50.0, 11.0, 2)

    tree.edit("engine/indicators/rsi.py", "0.0, 0.0, 50.0 if", "0.0, 0.0, 49.0 if")
    line = tree.start()
    assert (line.rsi, line.scaled) == (49.0, 11.0), "a line in an indicator's own file"
    assert len(line.compiled) == 1, f"the view only: {line.compiled}"

    tree.edit("helpers.py", "FACTOR = 2.0", "FACTOR = 3.0")
    constant = tree.start()
    assert (constant.rsi, constant.scaled) == (49.0, 16.0), "a constant in another file"

    tree.edit("helpers.py", "FACTOR = 3.0", "FACTOR = 2.0")
    tree.edit("engine/indicators/rsi.py", "0.0, 0.0, 49.0 if", "0.0, 0.0, 50.0 if")
    tree.edit("mine.py", "+ 1.0\n", "+ 1.0  # a comment is not a change\n")
    back = tree.start()
    assert (back.rsi, back.scaled) == (50.0, 11.0)
    assert back.compiled == [], "the first program is still there"
    assert back.programs == 4


# What a kernel may reach ------------------------------------------------------------------------------------------------------

WEIGHT = 0.5
LEVELS = (1.0, 2.0, (3.0, math.inf))
TABLE = np.arange(10.0)
NAMES = ["a", "b"]
LOOKUP = {"a": 1.0}
NUMPY_FLOAT = np.float64(2.0)


class Thing:
    """An object of some class."""

    level = 1.0


THING = Thing()


def halved(value: float) -> float:
    return WEIGHT * value


def even(count: float) -> float:
    return 1.0 if count <= 0.0 else odd(count - 1.0)


def odd(count: float) -> float:
    return 0.0 if count <= 0.0 else even(count - 1.0)


@indicator()
def reaches_all_it_may(value: float) -> float:
    """Helpers of helpers, constants, nested tuples, math, numpy, built-in functions."""
    third = LEVELS[2]
    return (
        max(halved(value), LEVELS[1])
        + math.floor(float(np.sqrt(value)))
        + third[0] * NUMPY_FLOAT
        + abs(min(value, 0.0))
    )


def test_a_step_may_reach_helpers_constants_math_numpy_and_built_in_functions() -> None:
    assert values_of(reaches_all_it_may("price"), [1.0, 9.0]) == [2.0 + 1.0 + 6.0, 4.5 + 3.0 + 6.0]


@indicator()
def reads_a_table(value: float) -> float:
    return float(value + TABLE[0])


@indicator()
def reads_a_list(value: float) -> float:
    return value if NAMES else 0.0


@indicator()
def reads_a_dict(value: float) -> float:
    return value * LOOKUP["a"]


@indicator()
def reads_an_object(value: float) -> float:
    return value * THING.level


@indicator()
def asks_the_system(value: float) -> float:
    return value + os.getpid()


@indicator()
def draws_at_random(value: float) -> float:
    return value + np.random.random()  # noqa: NPY002 - what is to be refused


@indicator()
def has_a_typo(value: float) -> float:
    return vaule  # type: ignore[name-defined,no-any-return]  # noqa: F821


def through_a_helper(value: float) -> float:
    return value + NAMES.count("a")


@indicator()
def reaches_a_list_through_a_helper(value: float) -> float:
    return through_a_helper(value)


@pytest.mark.parametrize(
    ("step", "name", "what"),
    [
        (reads_a_table, "reads_a_table", "`TABLE` is a ndarray; a kernel may reach numbers, text, tuples of them"),
        (reads_a_list, "reads_a_list", "`NAMES` is a list"),
        (reads_a_dict, "reads_a_dict", "`LOOKUP` is a dict"),
        (reads_an_object, "reads_an_object", "`THING` is a Thing"),
        (asks_the_system, "asks_the_system", "`os.getpid` is a builtin_function_or_method"),
        (draws_at_random, "draws_at_random", "`np.random` is a module"),
        (has_a_typo, "has_a_typo", "`vaule` is not defined where the function is"),
        (reaches_a_list_through_a_helper, "through_a_helper", "`NAMES` is a list"),
    ],
)
def test_what_a_kernel_may_not_reach_is_refused_with_file_line_and_name(step: Any, name: str, what: str) -> None:
    function = getattr(sys.modules[__name__], name, None)
    assert function is not None
    plain = getattr(function, "step", function)
    # The body is the last line of each of these functions.
    body = plain.__code__.co_firstlineno + (2 if plain is not function else 1)
    with pytest.raises(ConfigError) as caught:
        values_of(step("price"), [1.0])
    assert str(caught.value).startswith(f"test_jit.py:{body}: {name}: {what}")


def test_constants_of_a_closure_are_taken_as_they_are_and_two_closures_are_two_steps() -> None:
    def scaled_by(factor: float) -> Any:
        @indicator()
        def scaled(value: float) -> float:
            return factor * value

        return scaled

    view = FeatureView("closures", {"two": scaled_by(2.0)("price"), "three": scaled_by(3.0)("price")})
    rows = compute(view, tick_table([1.0, 5.0]))
    assert rows["two"].to_pylist() == [2.0, 10.0]
    assert rows["three"].to_pylist() == [3.0, 15.0]


def test_a_constant_that_is_not_finite_survives() -> None:
    @indicator(state={"least": math.inf, "greatest": -math.inf, "never": math.nan})
    def spread(least: float, greatest: float, never: float, value: float) -> tuple[float, float, float, float]:
        least, greatest = min(least, value), max(greatest, value)
        return least, greatest, never, greatest - least if never != never else math.inf  # noqa: PLR0124

    assert values_of(spread("price"), [3.0, 1.0, 4.0]) == [0.0, 2.0, 3.0]


# Names of a user's functions, constants and locals cannot be mistaken for ours or for one another ---------------------------------


@aggregate(identity=math.nan)
def first(older: float, newer: float) -> float:
    """The oldest value of the window."""
    return newer if math.isnan(older) else older


@aggregate(identity=math.nan)
def back(older: float, newer: float) -> float:
    """The newest value of the window."""
    return older if math.isnan(newer) else newer


@indicator()
def position(value: float) -> float:
    return 2.0 * value


@indicator()
def capacity(value: float) -> float:
    return 2.0 * value


@indicator()
def block(value: float) -> float:
    return 2.0 * value


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (first("price", 2), [math.nan, 1.0, 2.0]),
        (back("price", 2), [math.nan, 2.0, 4.0]),
        (position("price"), [2.0, 4.0, 8.0]),
        (capacity("price"), [2.0, 4.0, 8.0]),
        (block("price"), [2.0, 4.0, 8.0]),
    ],
    ids=["first", "back", "position", "capacity", "block"],
)
def test_a_function_may_be_called_what_a_local_of_the_generated_program_is_called(
    node: Node, expected: list[float]
) -> None:
    assert values_of(node, [1.0, 2.0, 4.0]) == pytest.approx(expected, nan_ok=True)


SCALE = 10.0


@indicator()
def local_like_a_gathered_constant(value: float) -> float:
    SCALE_0 = SCALE_1 = SCALE_2 = SCALE_3 = value  # noqa: N806
    return SCALE * (SCALE_0 + SCALE_1 + SCALE_2 + SCALE_3)


@indicator()
def local_like_an_underscored_constant(value: float) -> float:
    _SCALE_0 = _SCALE_1 = _SCALE_2 = _SCALE_3 = value  # noqa: N806
    return SCALE * (_SCALE_0 + _SCALE_1 + _SCALE_2 + _SCALE_3)


@indicator()
def local_like_a_gathered_function(value: float) -> float:
    halved_0 = halved_1 = halved_2 = halved_3 = value
    return halved(halved_0 + halved_1 + halved_2 + halved_3)


def test_locals_of_a_step_are_never_taken_for_what_it_reaches() -> None:
    assert values_of(local_like_a_gathered_constant("price"), [1.0, 2.0]) == [40.0, 80.0]
    assert values_of(local_like_a_gathered_function("price"), [1.0, 2.0]) == [2.0, 4.0]
    assert values_of(local_like_an_underscored_constant("price"), [1.0, 2.0]) == [40.0, 80.0]


@indicator()
def has_a_comprehension(value: float) -> float:
    result = 0.0
    for SCALE in [part * 2.0 for part in (value, value)]:  # noqa: N806
        result += SCALE
    return result


level = 5.0


@indicator()
def comprehends_a_name_that_is_also_global(value: float) -> float:
    result = 0.0
    for doubled in [level * 2.0 for level in (value, value)]:
        result += doubled
    return result


@pytest.mark.parametrize("step", [has_a_comprehension, comprehends_a_name_that_is_also_global])
def test_the_variable_of_a_comprehension_is_its_own_and_no_global(step: Any) -> None:
    try:
        found = values_of(step("price"), [1.0, 3.0])
    except ConfigError as error:
        assert "test_jit.py" in str(error)  # noqa: PT017 - refused with the place is right too; a wrong value is not
    else:
        assert found == [4.0, 12.0]


# Functions that have no source ----------------------------------------------------------------------------------------------------


def test_a_lambda_is_refused_as_such() -> None:
    with pytest.raises(ConfigError, match="<lambda>"):
        values_of(indicator()(lambda value: value + 1.0)("price"), [1.0])


def test_a_function_without_source_text_is_refused_with_what_to_do() -> None:
    scope: dict[str, Any] = {}
    exec("def conjured(value):\n    return value + 1.0\n", scope)
    with pytest.raises(ConfigError, match=r"conjured: its source text cannot be read \(.*\); define it in a file"):
        values_of(indicator()(scope["conjured"])("price"), [1.0])


def test_a_built_in_function_is_refused_as_a_step() -> None:
    with pytest.raises(ConfigError, match="expected a Python function, found a builtin_function_or_method"):
        values_of(indicator()(math.sqrt)("price"), [1.0])


def test_a_step_that_numba_cannot_type_is_a_config_error_that_names_the_view_and_the_file() -> None:
    @indicator()
    def mixes(value: float) -> Any:
        return value + "text"  # type: ignore[operator]

    with pytest.raises(ConfigError, match=r"compiling 1 features of one: .* \(generated source: .*\.py\)"):
        values_of(mixes("price"), [1.0])


def test_a_module_that_was_edited_and_loaded_again_gives_its_new_values(tmp_path: Path) -> None:
    source = "from engine.indicator import indicator\n\n@indicator()\ndef mine(value):\n    return value + {}\n"
    old = module_from(tmp_path / "mine_1.py", source.format(1.0))
    new = module_from(tmp_path / "mine_2.py", source.format(2.0))
    assert values_of(old.mine("price"), [1.0]) == [2.0]
    assert values_of(new.mine("price"), [1.0]) == [3.0]


# The cache folder ---------------------------------------------------------------------------------------------------------------


def test_the_cache_folder_is_made_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKFOLD_CACHE_DIR", str(tmp_path / "deep" / "cache"))
    folder = jit.cache_folder()
    assert folder == tmp_path / "deep" / "cache" / "programs"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_cache_folder_follows_the_desktop_standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TICKFOLD_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jit.cache_folder() == tmp_path / "tickfold" / "programs"


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_a_cache_folder_that_others_may_write_to_is_refused(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKFOLD_CACHE_DIR", str(tmp_path))
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs").chmod(mode)
    with pytest.raises(
        StoreError, match=rf"expected to be owned by user \d+ and writable by nobody else.*mode {mode:o}"
    ):
        jit.compile_module("VALUE = 1\n", "nothing")
    assert list((tmp_path / "programs").iterdir()) == []


def test_a_cache_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKFOLD_CACHE_DIR", str(tmp_path))
    stranger = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: stranger)
    with pytest.raises(StoreError, match=f"expected to be owned by user {stranger}"):
        jit.cache_folder()


def test_a_cache_folder_that_cannot_be_made_says_which_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TICKFOLD_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="set TICKFOLD_CACHE_DIR to a folder of yours"):
        jit.cache_folder()


def test_a_program_whose_file_was_tampered_with_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKFOLD_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "announce", lambda text: None)
    text = "VALUE = 'as it was written'\n"
    module = jit.compile_module(text, "nothing")
    (file,) = (tmp_path / "programs").glob("*.py")
    file.write_text("VALUE = 'something else'\n")
    monkeypatch.delitem(sys.modules, module.__name__)
    assert jit.compile_module(text, "nothing").VALUE == "as it was written"
    assert file.read_text() == text


def test_one_text_is_one_module_and_a_failed_one_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKFOLD_CACHE_DIR", str(tmp_path))
    heard: list[str] = []
    monkeypatch.setattr(jit, "announce", heard.append)
    assert jit.compile_module("VALUE = 2\n", "two") is jit.compile_module("VALUE = 2\n", "two")
    assert [text for text in heard if "compiling two" in text] == heard[:1]
    for _ in range(2):
        with pytest.raises(ConfigError, match="compiling ruins: division by zero"):
            jit.compile_module("VALUE = 1 / 0\n", "ruins")


def test_what_is_shared_between_features_is_gathered_once() -> None:
    gathered = jit.Gathered()
    names = [gathered.add(function) for function in (halved, even, halved, ema.step, total.combine)]
    text = gathered.text("")
    assert names[0] == names[2]
    for name in ("halved", "even", "odd"):  # the last two call one another
        assert len(re.findall(rf"def \w*{name}\w*\(", text)) == 1, name
    assert len(re.findall(r"\w*WEIGHT\w*", text)) == 2, "one definition, one use"
