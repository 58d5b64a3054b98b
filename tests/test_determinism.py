"""The core looks at no clock, draws no unseeded number and follows no order that Python does not promise.

Every module of the five packages is parsed, not imported, except those in SHELL, which talk to the world. The check reads spelling,
not types: a set that arrives through an attribute of another object, or through an unannotated argument, escapes it. It is a net
for the common slips; the digests of the replay tests prove the rest.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from tests.test_layering import read_tree

SHELL: dict[str, str] = {
    "engine/cli/replay.py": "measures how long a replay took, and waits for the pace of a paced one",
    "engine/cli/top.py": "polls a daemon twice a second",
    "replay/terminal.py": "the live view shows rates by the machine's clock",
    "engine/clock.py": "LiveClock: the one place where the machine's time comes in",
    "engine/log.py": "stamps what is logged",
    "engine/watchdog.py": "measures how long the loop was held",
    "engine/doctor.py": "measures clocks and disks",
    "engine/app/daemon.py": "the shell: says how long it took to recover, and when to try the journal again",
    "engine/app/keeper.py": "measures what a snapshot costs the loop, so that it can give way",
    "engine/app/journaled.py": "says when a data folder was made",
    "engine/app/model_effects.py": "hands the models' stage a stopwatch: what a model takes is shown, and nothing else is made of it",
    "engine/app/tracking.py": "says when MLflow is to be told of models, and measures what copying them costs the loop",
    "engine/tracking/tracker.py": "an effect, in its own thread: waits before it tries again",
    "engine/tracking/link.py": "an effect: how long a process may take to answer",
    "engine/tracking/registry.py": "an effect: draws what an engine is called in MLflow",
    "engine/jit.py": "times compilation, and keeps compiled code on disk",
    "engine/models/placing.py": "measures what a model costs, before the fold starts; what it decides is journaled",
    "engine/models/workers.py": "says how long a worker process lived, and when it is started again",
    "engine/models/worker_process.py": "the process itself: says how often memory is measured; its answers are inputs",
    "engine/serving/security.py": "makes the token, which nobody may guess",
}
"""Module: why it may look at the world. What stands here must exist, so that no exemption outlives its module."""

CLOCKS = frozenset(
    {
        *(
            f"time.{clock}{unit}"
            for clock in ("time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime")
            for unit in ("", "_ns")
        ),
        *(f"time.{name}" for name in ("sleep", "localtime", "ctime", "asctime")),
        *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
        "datetime.date.today",
    }
)
ENTROPY = frozenset(
    {
        *(f"uuid.{name}" for name in ("uuid1", "uuid4", "uuid6", "uuid7", "getnode")),
        *(f"os.{name}" for name in ("urandom", "getrandom")),
        "random.SystemRandom",
    }
)
SEEDED = frozenset(
    {
        "random.Random",
        *(
            f"numpy.random.{name}"
            for name in ("default_rng", "Generator", "SeedSequence", "PCG64", "PCG64DXSM", "Philox", "SFC64", "MT19937")
        ),
    }
)
"""Random numbers that are fine as long as a seed (or for Generator: a source that has one) is handed in."""
RANDOM_MODULES = ("random.", "numpy.random.", "secrets.")

LISTINGS = frozenset({"os.listdir", "os.scandir", "os.walk", "glob.glob", "glob.iglob"})
LISTING_METHODS = frozenset({"iterdir", "glob", "rglob"})

SET_METHODS = frozenset({"union", "intersection", "difference", "symmetric_difference"})
SET_OPERATORS = (ast.BitOr, ast.BitAnd, ast.BitXor, ast.Sub)
SET_ANNOTATIONS = frozenset({"set", "frozenset", "Set", "FrozenSet", "AbstractSet", "MutableSet"})
ORDER_FREE = frozenset({"sorted", "set", "frozenset", "any", "all", "min", "max", "len"})
ORDERED = frozenset({"list", "tuple", "enumerate", "iter", "zip", "map", "filter", "sum", "reversed"})
ORDERED_IMPORTS = frozenset({"collections.deque", "functools.reduce", "numpy.array", "numpy.asarray", "numpy.fromiter"})
ORDERED_METHODS = frozenset({"join", "extend", "fromkeys"})

COMPILER_WORDS = re.compile(r"\b(?:fastmath|jitclass|parallel\s*=\s*True)\b")

Comprehension = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp


@dataclass
class Scope:
    """Names bound in one module, class or function, and those of them that a set was bound to."""

    is_class: bool
    bound: set[str] = field(default_factory=set)
    sets: set[str] = field(default_factory=set)


class CoreReader(ast.NodeVisitor):
    """Collects the faults of one module."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.faults: list[str] = []
        self.imported: dict[str, str] = {}  # local name: what it stands for, dotted
        self.scopes: list[Scope] = []
        self.set_attributes: set[str] = set()  # of `self`, in the class being read
        self.order_free: set[ast.AST] = set()  # arguments of a call whose result does not depend on their order

    def fault(self, node: ast.expr | ast.stmt, text: str) -> None:
        self.faults.append(f"{self.path}:{node.lineno} {text}")

    # Scopes

    def visit_Module(self, node: ast.Module) -> None:
        for child in ast.walk(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    top = alias.name.partition(".")[0]
                    self.imported[alias.asname or top] = alias.name if alias.asname else top
            elif isinstance(child, ast.ImportFrom) and child.module:
                for alias in child.names:
                    self.imported[alias.asname or alias.name] = f"{child.module}.{alias.name}"
        self.enter(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outside in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(outside)
        outer, self.set_attributes = self.set_attributes, set()
        for child in ast.walk(node):
            self.note_set_attributes(child)
        for statement in node.body:
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation) if is_set_annotation(annotation):
                    self.set_attributes.add(name)
        self.enter(node.body, is_class=True)
        self.set_attributes = outer

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for outside in (*node.decorator_list, *argument_defaults(node.args)):
            self.visit(outside)
        self.enter(node.body, arguments=node.args)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for default in argument_defaults(node.args):
            self.visit(default)
        self.enter([node.body], arguments=node.args)

    def enter(
        self, body: Iterable[ast.stmt | ast.expr], arguments: ast.arguments | None = None, is_class: bool = False
    ) -> None:
        nodes = list(body)
        scope = Scope(is_class)
        self.scopes.append(scope)
        if arguments is not None:
            for argument in all_arguments(arguments):
                scope.bound.add(argument.arg)
                if argument.annotation is not None and is_set_annotation(argument.annotation):
                    scope.sets.add(argument.arg)
        for _ in range(2):  # twice: a set may be bound from a name that is bound further down in a loop
            for node in own_nodes(nodes):
                self.note_names(scope, node)
        for node in nodes:
            self.visit(node)
        self.scopes.pop()

    def note_names(self, scope: Scope, node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope.bound.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            scope.bound.add(node.id)
        for target, value, annotation in bindings(node):
            if isinstance(target, ast.Name) and (is_set_annotation(annotation) or self.is_set(value)):
                scope.sets.add(target.id)

    def note_set_attributes(self, node: ast.AST) -> None:
        for target, value, annotation in bindings(node):
            match target:
                case ast.Attribute(value=ast.Name(id="self"), attr=name):
                    if is_set_annotation(annotation) or self.is_set(value):
                        self.set_attributes.add(name)

    def visible(self) -> Iterator[Scope]:
        """Yield the scopes that a name is looked up in, innermost first: a class body is not seen from its methods."""
        yield self.scopes[-1]
        yield from (scope for scope in reversed(self.scopes[:-1]) if not scope.is_class)

    def is_builtin(self, name: str) -> bool:
        return name not in self.imported and not any(name in scope.bound for scope in self.visible())

    def dotted(self, node: ast.AST) -> str | None:
        """Return the full name of an imported thing, `numpy.random.default_rng` for `np.random.default_rng`; else None."""
        if isinstance(node, ast.Attribute):
            prefix = self.dotted(node.value)
            return None if prefix is None else f"{prefix}.{node.attr}"
        if isinstance(node, ast.Name) and not any(node.id in scope.bound for scope in self.visible()):
            return self.imported.get(node.id)
        return None

    def is_set(self, node: ast.AST | None) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Name(id=name):
                scope = next((scope for scope in self.visible() if name in scope.bound), None)
                return scope is not None and name in scope.sets
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return name in self.set_attributes
            case ast.Call(func=ast.Name(id=name)):
                return name in {"set", "frozenset"} and self.is_builtin(name)
            case ast.Call(func=ast.Attribute(value=of, attr=method)):
                return (method in SET_METHODS or method == "copy") and self.is_set(of)
            case ast.BinOp(left=left, op=operator, right=right):
                return isinstance(operator, SET_OPERATORS) and any(
                    self.is_set(side) or is_keys_view(side) for side in (left, right)
                )
            case ast.IfExp(body=body, orelse=orelse):
                return self.is_set(body) or self.is_set(orelse)
            case ast.NamedExpr(value=value):
                return self.is_set(value)
        return False

    # What looks at the world

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            if node.id in {"hash", "id"} and self.is_builtin(node.id):
                self.fault(node, f"{node.id}() differs from one process to the next")
            self.check_reference(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.check_reference(node)
        if self.dotted(node) is None:  # an imported thing is judged once, by its whole name
            self.visit(node.value)

    def check_reference(self, node: ast.Name | ast.Attribute) -> None:
        """Judge a name wherever it stands: a clock that is passed on is read just the same."""
        name = self.dotted(node)
        if name is None:
            return
        if name in CLOCKS:
            self.fault(node, f"{name} looks at the clock; time is that of the input being folded")
        elif name in ENTROPY or (
            name.startswith(RANDOM_MODULES) and name not in SEEDED and not name.endswith("BitGenerator")
        ):
            self.fault(node, f"{name} cannot be repeated; use a generator with a seed that is handed in")

    def visit_Call(self, node: ast.Call) -> None:
        name = self.dotted(node.func)
        if name in SEEDED and not has_seed(node):
            self.fault(node, f"{name}() without a seed cannot be repeated")
        listing = name in LISTINGS or (
            name is None and isinstance(node.func, ast.Attribute) and node.func.attr in LISTING_METHODS
        )
        if listing and node not in self.order_free:
            self.fault(node, "lists files in the order of the file system; wrap it in sorted()")
        self.check_consumer(node, name)
        self.generic_visit(node)

    # What follows the order of a set

    def check_consumer(self, node: ast.Call, name: str | None) -> None:
        called = node.func.id if isinstance(node.func, ast.Name) and self.is_builtin(node.func.id) else None
        method = node.func.attr if isinstance(node.func, ast.Attribute) else None
        if called in ORDER_FREE and node.args:
            keyed = called in {"sorted", "min", "max"} and any(keyword.arg == "key" for keyword in node.keywords)
            iterable = node.args[0]
            if isinstance(iterable, ast.ListComp | ast.GeneratorExp):
                self.order_free.add(iterable.generators[0].iter)
                if not keyed:
                    self.order_free.add(iterable)
            else:
                self.order_free.add(iterable)
            if keyed and self.is_set(iterable):
                self.fault(node, f"{called}() with a key leaves ties in the order of a set; sort without a key first")
        if (
            called in ORDERED
            or name in ORDERED_IMPORTS
            or method in ORDERED_METHODS
            or (name or "").startswith("itertools.")
        ):
            for argument in node.args:
                self.check_order(argument, f"{called or method}()")
        if method == "pop" and isinstance(node.func, ast.Attribute) and not node.args and self.is_set(node.func.value):
            self.fault(node, "pop() takes whichever element of a set comes first")

    def check_order(self, node: ast.expr, what: str) -> None:
        if self.is_set(node):
            self.fault(node, f"{what} follows the order of a set; wrap it in sorted()")

    def visit_For(self, node: ast.For) -> None:
        self.check_order(node.iter, "a loop")
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        if isinstance(node.ctx, ast.Load):
            self.check_order(node.value, "unpacking")
        self.generic_visit(node)

    def visit_Set(self, node: ast.Set) -> None:
        for element in node.elts:  # {*a, *b} of sets is a set: nothing has followed an order yet
            self.visit(element.value if isinstance(element, ast.Starred) else element)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> None:
        self.check_order(node.value, "yield from")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Tuple | ast.List) for target in node.targets):
            self.check_order(node.value, "unpacking")
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self.visit_comprehension_of(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self.visit_comprehension_of(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self.visit_comprehension_of(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self.visit_comprehension_of(node)

    def visit_comprehension_of(self, node: Comprehension) -> None:
        for generator in node.generators:
            if not isinstance(node, ast.SetComp) and node not in self.order_free:
                self.check_order(generator.iter, "a comprehension")
        if isinstance(node, ast.SetComp):
            self.order_free.add(node.generators[0].iter)
        self.generic_visit(node)


def own_nodes(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Walk a scope in order, yielding functions and classes in it but not what they hold: those are scopes of their own."""
    for node in nodes:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from own_nodes(ast.iter_child_nodes(node))


def bindings(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST | None, ast.AST | None]]:
    """Yield (target, value, annotation) of what a statement binds."""
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield target, value, None
                if (
                    isinstance(target, ast.Tuple)
                    and isinstance(value, ast.Tuple)
                    and len(target.elts) == len(value.elts)
                ):
                    yield from ((name, part, None) for name, part in zip(target.elts, value.elts, strict=True))
        case ast.AnnAssign(target=target, value=value, annotation=annotation):
            yield target, value, annotation
        case ast.NamedExpr(target=target, value=value) | ast.AugAssign(target=target, value=value):
            yield target, value, None


def all_arguments(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    yield from (argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None)


def argument_defaults(arguments: ast.arguments) -> Iterator[ast.expr]:
    yield from (default for default in (*arguments.defaults, *arguments.kw_defaults) if default is not None)


def is_set_annotation(annotation: ast.AST | None) -> bool:
    """Tell `set`, `frozenset[str]`, `set[int] | None`, and the same in quotes; `dict[str, set[int]]` is no set."""
    match annotation:
        case ast.Constant(value=str(text)):
            return is_set_annotation(ast.parse(text, mode="eval").body)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return is_set_annotation(left) or is_set_annotation(right)
        case ast.Subscript(value=ast.Name(id="Final" | "ClassVar" | "Annotated"), slice=inner):
            return is_set_annotation(inner.elts[0] if isinstance(inner, ast.Tuple) else inner)
        case ast.Subscript(value=value):
            return is_set_annotation(value)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in SET_ANNOTATIONS
    return False


def is_keys_view(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"keys", "items"}


def has_seed(call: ast.Call) -> bool:
    values = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg in {"seed", "x", "entropy"})]
    return any(not (isinstance(value, ast.Constant) and value.value is None) for value in values)


def core_faults(sources: Mapping[str, str]) -> list[str]:
    faults = []
    for path, source in sources.items():
        reader = CoreReader(path)
        reader.visit(ast.parse(source, path))
        faults += reader.faults
    return faults


def compiler_faults(sources: Mapping[str, str]) -> list[str]:
    """Find the compiler options that change bits or hide state, in code and in generated code, which stands in strings."""
    faults = []
    for path, source in sources.items():
        tree = ast.parse(source, path)
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            match node:
                case ast.Constant(value=str(text)) if id(node) not in prose:
                    words = COMPILER_WORDS.findall(text)
                case ast.Name(id=word) | ast.Attribute(attr=word) | ast.alias(name=word):
                    words = COMPILER_WORDS.findall(word)
                case ast.keyword(arg=str(word), value=value):
                    words = COMPILER_WORDS.findall(f"{word}={ast.unparse(value)}")
                case ast.Dict(keys=keys, values=values):
                    pairs = zip(keys, values, strict=True)
                    words = [
                        "parallel"
                        for key, value in pairs
                        if isinstance(key, ast.Constant) and key.value == "parallel" and ast.unparse(value) == "True"
                    ]
                case _:
                    continue
            faults += [
                f"{path}:{getattr(node, 'lineno', 0)} {word} is not used here: it changes bits" for word in words
            ]
    return faults


def test_the_core_is_deterministic() -> None:
    faults = core_faults({path: source for path, source in read_tree().items() if path not in SHELL})
    assert not faults, "\n" + "\n".join(faults)


def test_every_shell_module_exists() -> None:
    missing = sorted(SHELL.keys() - read_tree().keys())
    assert not missing, f"listed in SHELL, but not in the tree: {', '.join(missing)}"


def test_no_compiler_option_that_changes_bits_is_used() -> None:
    faults = compiler_faults(read_tree())
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        # clocks
        ("import time\ntime.time()", ":2 time.time looks at the clock"),
        ("import time as t\nt.time_ns()", "time.time_ns"),
        ("from time import monotonic_ns as now\ndef f():\n    return now()", ":3 time.monotonic_ns"),
        ("import time\ndef f(clock=time.perf_counter): ...", "time.perf_counter"),
        ("import time\ntime.sleep(1)", "time.sleep"),
        ("import datetime\ndatetime.datetime.now(datetime.UTC)", "datetime.datetime.now"),
        ("import datetime as dt\ndt.datetime.utcnow()", "datetime.datetime.utcnow"),
        ("from datetime import datetime\nx = datetime.today()", "datetime.datetime.today"),
        ("from datetime import date\nx = date.today()", "datetime.date.today"),
        # randomness
        ("import uuid\nuuid.uuid4()", "uuid.uuid4"),
        ("from uuid import uuid1\nuuid1().hex", "uuid.uuid1"),
        ("import os\nos.urandom(8)", "os.urandom"),
        ("import secrets\nsecrets.token_hex()", "secrets.token_hex"),
        ("import random\nrandom.random()", "random.random"),
        ("import random\nrandom.seed(1)", "random.seed"),
        ("from random import shuffle\nshuffle(x)", "random.shuffle"),
        ("import random\nrandom.SystemRandom(1)", "random.SystemRandom"),
        ("import random\nrandom.Random()", "random.Random() without a seed"),
        ("import random\nrandom.Random(None)", "random.Random() without a seed"),
        ("import numpy as np\nnp.random.normal()", "numpy.random.normal"),
        ("import numpy as np\nnp.random.RandomState(1)", "numpy.random.RandomState"),
        ("import numpy as np\nnp.random.default_rng()", "numpy.random.default_rng() without a seed"),
        ("from numpy.random import default_rng\ndefault_rng(seed=None)", "numpy.random.default_rng() without a seed"),
        ("from numpy import random\nrandom.Generator(random.PCG64())", "numpy.random.PCG64() without a seed"),
        # identities
        ("x = hash('a')", "hash() differs"),
        ("def f(x):\n    return id(x)", ":2 id() differs"),
        ("x = sorted(y, key=id)", "id() differs"),
        # sets
        ("for x in {1, 2}: ...", "a loop follows the order of a set"),
        ("for x in set(y): ...", "a loop"),
        ("def f():\n    s = frozenset(y)\n    for x in s: ...", ":3 a loop"),
        ("s = set()\ndef f():\n    return [x for x in s]", ":3 a comprehension"),
        ("def f(s: set[int] | None):\n    return {x: 1 for x in s}", ":2 a comprehension"),
        ("def f(s: 'frozenset[int]'):\n    yield from s", "yield from"),
        ("s: set[int] = y\nfor x in s: ...", ":2 a loop"),
        (
            "class A:\n    def f(self):\n        self.s = set()\n    def g(self):\n        for x in self.s: ...",
            ":5 a loop",
        ),
        ("class A:\n    s: frozenset[str]\n    def g(self):\n        return list(self.s)", ":4 list()"),
        ("for x in a.keys() & b.keys(): ...", "a loop"),
        ("for x in {1} | y: ...", "a loop"),
        ("for x in {1}.union(y): ...", "a loop"),
        ("for x in {1} if y else z: ...", "a loop"),
        ("list({1})", "list()"),
        ("tuple({x for x in y})", "tuple()"),
        ("sum(set(y))", "sum()"),
        ("','.join({'a'})", "join()"),
        ("enumerate({1})", "enumerate()"),
        ("next(iter({1}))", "iter()"),
        ("zip(y, {1})", "zip()"),
        ("dict.fromkeys({1})", "fromkeys()"),
        ("from itertools import chain\nchain({1})", "follows the order of a set"),
        ("x = [*{1}]", "unpacking"),
        ("f(*{1})", "unpacking"),
        ("a, b = {1, 2}", "unpacking"),
        ("s = {1}\ns.pop()", "pop()"),
        ("sum(x for x in {1.0})", "a comprehension"),
        ("sorted({'b', 'a'}, key=len)", "ties in the order of a set"),
        ("max((x for x in {'b', 'a'}), key=len)", "a comprehension"),
        # folders
        ("import os\nfor x in os.listdir(y): ...", "in the order of the file system"),
        ("import glob\nglob.glob('*')", "in the order of the file system"),
        ("import os\nos.walk(y)", "in the order of the file system"),
        ("for x in path.iterdir(): ...", "in the order of the file system"),
        ("[x for x in path.glob('*')]", "in the order of the file system"),
    ],
)
def test_what_cannot_be_repeated_is_found(source: str, found: str) -> None:
    faults = core_faults({"engine/planted.py": source})
    assert len(faults) == 1
    assert found in faults[0]
    assert faults[0].startswith("engine/planted.py:")


@pytest.mark.parametrize(
    "source",
    [
        "def f(clock):\n    return clock.now() + clock.time_ns()",
        "import time\nx = time.gmtime(0)\ntime = 5\n",
        "def f(time):\n    return time.time",
        "from datetime import UTC, datetime\nx = datetime.fromtimestamp(0, UTC)",
        "import random\nx = random.Random(7)\ndef f(r: random.Random): return r.random()",
        "import numpy as np\nx = np.random.default_rng(seed)\ny = np.random.Generator(np.random.PCG64(1))",
        "import numpy as np\ndef f(r: np.random.Generator): return r.normal()",
        "import uuid\nx = uuid.uuid5(uuid.NAMESPACE_OID, 'a')",
        "import hashlib\nx = hashlib.sha256(b'')",
        "def f(id, hash):\n    return hash(id)",
        "class A:\n    id: int\n    def __hash__(self): return self.id",
        "s = {1}\nfor x in sorted(s): ...",
        "s = {1}\nx = [f(y) for y in sorted(s)]",
        "s = {1}\nx = sorted(f(y) for y in s)",
        "s = {1}\nx = any(y for y in s) and all([y for y in s]) and max(s) and len(s) and 1 in s",
        "s = {1}\nx = {y for y in s} | {*s}\ns.add(2)\ns |= x",
        "x = sorted({'b'} | y)",
        "for x in {'a': 1}: ...",
        "for x in {'a': 1}.keys(): ...",
        "def f():\n    s = {1}\ndef g(s):\n    for x in s: ...",
        "s: dict[str, set[int]] = {}\nfor x in s: ...",
        "x = a - b\nfor y in x: ...",
        "l = [1]\nl.pop()",
        "from pathlib import Path\nfor x in sorted(Path('a').glob('*')): ...",
        "x = sorted(p.name for p in path.iterdir())",
        "'time.time()'  # hash(x)",
    ],
)
def test_what_can_be_repeated_is_let_through(source: str) -> None:
    assert core_faults({"engine/planted.py": source}) == []


@pytest.mark.parametrize(
    "source",
    [
        "@njit(fastmath=True)\ndef f(): ...",
        "options = {'fastmath': True}",
        "from numba.experimental import jitclass",
        "import numba\nx = numba.experimental.jitclass(s)",
        "njit(parallel=True)(f)",
        "options = {'cache': True, 'parallel': True}",
        "SOURCE = '@njit(cache=True, parallel = True)'",
        "SOURCE = f'@njit(fastmath={x})'",
    ],
)
def test_a_compiler_option_that_changes_bits_is_found(source: str) -> None:
    assert len(compiler_faults({"engine/planted.py": source})) == 1


@pytest.mark.parametrize(
    "source",
    [
        "'''No fastmath, no jitclass.'''\nx = 1  # parallel=True",
        "def f():\n    '''Without parallel=True.'''",
        "njit(parallel=False, cache=True)(f)",
        "run_in_parallel = True",
    ],
)
def test_a_compiler_option_in_prose_is_let_through(source: str) -> None:
    assert compiler_faults({"engine/planted.py": source}) == []
