"""The imports of every module, held to the directions of the style guide: who may know whom, absolute only, no cycles.

Modules are parsed, not imported, so a module that cannot be imported here is judged all the same.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("engine", "feeds", "store", "replay", "strategies")

SHELL = ("engine.app", "engine.cli", "engine.serving")
"""These build and run everything, so they may import everything; nothing imports them but one another and `python -m engine`."""
STARTERS = (*SHELL, "engine.__main__")

MAY_IMPORT = {
    "engine": ("engine",),
    "feeds": ("feeds", "engine"),
    "store": ("store", "engine"),
    "strategies": ("strategies", "engine"),
    "replay": ("replay", "feeds", "store", "engine"),
}
OUTSIDE = ("tests", "benchmarks", "examples")
"""Not installed with the packages, so no module of theirs may need them."""


@dataclass(frozen=True)
class Import:
    target: str  # a module, or a name in one where the tree has no such module
    line: int
    runs_at_import: bool  # neither inside a function nor under TYPE_CHECKING


@dataclass(frozen=True)
class Module:
    name: str
    path: str
    imports: tuple[Import, ...]
    relative_lines: tuple[int, ...]


class ImportReader(ast.NodeVisitor):
    """Collects what one module imports. `known` are the modules of the tree, to tell `from package import module` from a name."""

    def __init__(self, known: frozenset[str]) -> None:
        self.known = known
        self.imports: list[Import] = []
        self.relative_lines: list[int] = []
        self.deferred = 0

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level > 0 or node.module is None:
            self.relative_lines.append(node.lineno)
            return
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            self.add(submodule if submodule in self.known else node.module, node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        if called in {"import_module", "__import__"} and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                self.add(name.value, node.lineno)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        tested = node.test.attr if isinstance(node.test, ast.Attribute) else getattr(node.test, "id", None)
        if tested != "TYPE_CHECKING":
            self.generic_visit(node)
            return
        self.visit_deferred(*node.body)
        for statement in node.orelse:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.visit_deferred(*node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_deferred(*node.body)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit_deferred(node.body)

    def visit_deferred(self, *nodes: ast.AST) -> None:
        self.deferred += 1
        for node in nodes:
            self.visit(node)
        self.deferred -= 1

    def add(self, target: str, line: int) -> None:
        self.imports.append(Import(target, line, runs_at_import=self.deferred == 0))


def read_tree() -> dict[str, str]:
    """Return the source of every module of the five packages by its path, relative to the root."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def parse(sources: Mapping[str, str]) -> dict[str, Module]:
    known = frozenset(module_name(path) for path in sources)
    modules = {}
    for path, source in sources.items():
        reader = ImportReader(known)
        reader.visit(ast.parse(source, path))
        name = module_name(path)
        modules[name] = Module(name, path, tuple(reader.imports), tuple(reader.relative_lines))
    return modules


def is_within(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def direction_faults(modules: Mapping[str, Module]) -> list[str]:
    faults = []
    for module in modules.values():
        faults += [f"{module.path}:{line} imports relatively; imports are absolute" for line in module.relative_lines]
        package = module.name.partition(".")[0]
        allowed = PACKAGES if is_within(module.name, SHELL) else MAY_IMPORT[package]
        for edge in module.imports:
            where = f"{module.path}:{edge.line} imports {edge.target}"
            top = edge.target.partition(".")[0]
            if top in OUTSIDE or (top in PACKAGES and top not in allowed):
                faults.append(f"{where}; {module.name} may import: {', '.join(allowed)}")
            elif is_within(edge.target, SHELL) and not is_within(module.name, STARTERS):
                faults.append(f"{where}; only {', '.join(STARTERS)} may import the shell that runs everything")
    return faults


def cycle_faults(modules: Mapping[str, Module]) -> list[str]:
    """Find chains of imports that come back to where they began, each edge once.

    That a package's `__init__` runs before its modules is no edge: only what stands in the source is.
    """
    faults = []
    done: set[str] = set()
    trail: list[tuple[str, str]] = []  # (module, "path:line" of the import that leads on from it)

    def follow(name: str) -> None:
        on_trail = [passed for passed, _ in trail]
        if name in on_trail:
            loop = trail[on_trail.index(name) :]
            steps = "; ".join(f"{where} imports on from {passed}" for passed, where in loop)
            faults.append(f"cycle back to {name}: {steps}")
        elif name in modules and name not in done:
            for edge in modules[name].imports:
                if edge.runs_at_import:
                    trail.append((name, f"{modules[name].path}:{edge.line}"))
                    follow(edge.target)
                    trail.pop()
            done.add(name)

    for name in modules:
        follow(name)
    return faults


def test_every_import_points_the_allowed_way() -> None:
    faults = direction_faults(parse(read_tree()))
    assert not faults, "\n" + "\n".join(faults)


def test_no_modules_import_each_other_in_a_circle() -> None:
    faults = cycle_faults(parse(read_tree()))
    assert not faults, "\n" + "\n".join(faults)


def test_the_check_reads_the_whole_tree() -> None:
    assert {"engine.events", "engine.errors"} <= parse(read_tree()).keys()
    assert MAY_IMPORT.keys() == set(PACKAGES)


def test_every_folder_with_modules_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    data = {f"{name}/{pattern}" for name, patterns in setuptools["package-data"].items() for pattern in patterns}
    folders = {Path(path).parent.as_posix() for path in read_tree()}
    modules = {folder.replace("/", ".") for folder in folders if f"{folder}/*" not in data}
    assert sorted(modules - set(setuptools["packages"])) == [], "missing in pyproject.toml, tool.setuptools.packages"


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("engine/bus.py", "import feeds.binance", "engine/bus.py:1 imports feeds.binance"),
        ("engine/bus.py", "x = 1\nfrom store import ring", "engine/bus.py:2 imports store"),
        ("engine/models/actor.py", "import strategies", "engine/models/actor.py:1 imports strategies"),
        ("engine/bus.py", "def f():\n    import replay.merge", "engine/bus.py:2 imports replay.merge"),
        ("engine/bus.py", "async def f():\n    import replay", "engine/bus.py:2 imports replay"),
        ("engine/bus.py", "f = lambda: __import__('store')", "engine/bus.py:1 imports store"),
        ("engine/bus.py", "if TYPE_CHECKING:\n    from feeds import x", "engine/bus.py:2 imports feeds"),
        ("engine/bus.py", "import importlib\nimportlib.import_module('feeds')", "engine/bus.py:2 imports feeds"),
        ("feeds/binance.py", "from store.ring import Ring", "feeds/binance.py:1 imports store.ring"),
        ("feeds/binance.py", "import strategies.base", "feeds/binance.py:1 imports strategies.base"),
        ("store/compute.py", "from replay import merge", "store/compute.py:1 imports replay"),
        ("strategies/base.py", "try:\n    import feeds\nexcept ImportError: ...", "strategies/base.py:2 imports feeds"),
        ("replay/driver.py", "import strategies", "may import: replay, feeds, store, engine"),
        ("replay/driver.py", "from engine.app import build", "only engine.app, engine.cli, engine.serving"),
        ("engine/clock.py", "import engine.cli", "only engine.app, engine.cli, engine.serving"),
        ("engine/app.py", "import tests.helpers", "engine/app.py:1 imports tests.helpers"),
        ("engine/app.py", "class A:\n    from . import bus", "engine/app.py:2 imports relatively"),
        ("feeds/binance.py", "from ..engine import bus", "feeds/binance.py:1 imports relatively"),
    ],
)
def test_an_import_in_a_forbidden_direction_is_found(path: str, source: str, found: str) -> None:
    faults = direction_faults(parse({path: source}))
    assert len(faults) == 1
    assert found in faults[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("engine/app.py", "import feeds, store, replay, strategies, engine.cli"),
        ("engine/serving/page.py", "import store.online, engine.app"),
        ("engine/__main__.py", "from engine.cli import main"),
        ("replay/driver.py", "import feeds.symbols, store.ring, engine.bus, numpy"),
        ("strategies/base.py", "from engine.events import Tick\nfrom strategies.loader import load"),
        ("engine/bus.py", "import feedsomething, storey"),
        ("engine/bus.py", "'import feeds'  # import store"),
    ],
)
def test_an_allowed_import_is_let_through(path: str, source: str) -> None:
    assert direction_faults(parse({path: source})) == []


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ({"store/a.py": "import store.a"}, "store/a.py:1 imports on from store.a"),
        ({"store/a.py": "import store.b", "store/b.py": "\nfrom store.a import x"}, "store/b.py:2 imports on"),
        (
            {"store/__init__.py": "from store.a import x", "store/a.py": "from store import y"},
            "cycle back to store: store/__init__.py:1 imports on from store; store/a.py:1 imports on from store.a",
        ),
        (
            {"store/a.py": "from store import b", "store/b.py": "try:\n  from store import a\nfinally: ..."},
            "store/b.py:2",
        ),
        (
            {"store/a.py": "import store.b", "store/b.py": "import store.c", "store/c.py": "import store.b"},
            "store/c.py:1",
        ),
    ],
)
def test_a_circle_of_imports_is_found(sources: dict[str, str], found: str) -> None:
    faults = cycle_faults(parse(sources))
    assert len(faults) == 1
    assert found in faults[0]


@pytest.mark.parametrize(
    "back",
    [
        "def f():\n    import store.a",
        "import typing\nif typing.TYPE_CHECKING:\n    import store.a",
        "if TYPE_CHECKING:\n    import store.a\nelse:\n    import store.c",
        "import numpy",
    ],
)
def test_an_import_that_does_not_run_at_import_closes_no_circle(back: str) -> None:
    assert cycle_faults(parse({"store/a.py": "import store.b", "store/b.py": back, "store/c.py": ""})) == []
