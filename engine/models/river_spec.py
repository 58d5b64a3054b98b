"""River models as plain values, so that TOML can say them.

    {river = "linear_model.LogisticRegression", l2 = 0.01}           a class of River by its dotted name, with its parameters
    {river = "preprocessing.StandardScaler"} or just the name        for a step; in parameters a text stays a text
    {river = ["preprocessing.StandardScaler", {clip = 5.0}, {river = "linear_model.LinearRegression",
              optimizer = {river = "optim.SGD", lr = 0.005}}]}       a list: a pipeline, of steps in their order
    {river = "ensemble.BaggingClassifier", model = {river = ...}}    specs are built wherever they stand in parameters
    {river = "compose.Select", keys = ["view:a", "view:b"]}          parameters that the class takes by position go by their name
    {factory = "models.py:make", depth = 3}                          what the function `make` of a Python file returns
    {clip = 5.0}                                                     a step that clips each feature to +-5

What takes a seed and was given none gets the model's.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.errors import ModelError
from engine.plugin import import_file

RIVER, FACTORY, CLIP = "river", "factory", "clip"
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
SHOWN_MAX = 24
"""Names that an error lists at most."""


def is_spec(value: Any) -> bool:
    """Whether a value says how to build something, by one of the words above."""
    return isinstance(value, Mapping) and (RIVER in value or FACTORY in value or set(value) == {CLIP})


def build_river(spec: Any, seed: int, where: str = "model") -> Any:
    """Return what a spec, or the dotted name of a class of River, means; a River object as it is.

    Raises ModelError, opened by `where`, that names what is not known and the nearest that is.
    """
    if isinstance(spec, str):
        return _made(_class_of(spec, where), {}, seed, f"{where} {spec}")
    if isinstance(spec, list | tuple):
        return _pipeline(spec, seed, where)
    if not isinstance(spec, Mapping):
        return spec
    words = [word for word in (RIVER, FACTORY, CLIP) if word in spec]
    if len(words) != 1:
        raise ModelError(f"{where}: expected one of the keys {RIVER}, {FACTORY}, {CLIP}, found {_shown(spec)}")
    word, named = words[0], spec[words[0]]
    given = {key: value for key, value in spec.items() if key != word}
    if word == CLIP:
        return _clip(named, given, where)
    if word == FACTORY:
        return _from_factory(named, given, seed, where)
    if isinstance(named, list | tuple):
        if given:
            raise ModelError(
                f"{where}: a list of steps takes no parameters, found {_shown(given)}; they belong to a step"
            )
        return _pipeline(named, seed, where)
    if not isinstance(named, str):
        raise ModelError(
            f"{where}.{RIVER} = {named!r}: expected the dotted name of a class of River, or a list of steps"
        )
    return _made(_class_of(named, where), given, seed, f"{where} {named}")


def _pipeline(steps: Iterable[Any], seed: int, where: str) -> Any:
    from river import compose

    built = [build_river(step, seed, f"{where}[{at}]") for at, step in enumerate(steps)]
    if not built:
        raise ModelError(f"{where}: a pipeline has at least one step, found an empty list")
    try:
        return compose.Pipeline(*built)
    except Exception as error:
        raise ModelError(f"{where}: these steps make no pipeline: {type(error).__name__}: {error}") from error


def _clip(limit: Any, given: Mapping[str, Any], where: str) -> Any:
    from engine.models.river_clip import Clip

    if given:
        raise ModelError(f"{where}: {CLIP} takes nothing else, found {_shown(given)}")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0.0:
        raise ModelError(f"{where}.{CLIP} = {limit!r}: expected a number above 0")
    return Clip(float(limit))


def _from_factory(named: Any, given: Mapping[str, Any], seed: int, where: str) -> Any:
    path, _, name = str(named).partition(":")
    if not isinstance(named, str) or not path.endswith(".py") or not name:
        raise ModelError(f'{where}.{FACTORY} = {named!r}: expected "FILE.py:NAME"')
    factory = getattr(_module_of(Path(path), f"{where}.{FACTORY}"), name, None)
    if not callable(factory):
        raise ModelError(f"{where}.{FACTORY} = {named!r}: expected a function or class {name} in {path}")
    return _made(factory, given, seed, f"{where} {named}")


def _module_of(path: Path, where: str) -> ModuleType:
    """Return the module of a file, run once a process for each content: its classes must stay the same ones, or they pickle no more."""
    try:
        content = path.read_bytes()
    except OSError:
        content = b""  # import_file says what is wrong
    name = f"tickfold_model_{path.stem}_{hashlib.sha256(content).hexdigest()[:16]}"
    return sys.modules.get(name) or import_file(path, ModelError, where, name)


def _made(maker: Any, given: Mapping[str, Any], seed: int, where: str) -> Any:
    """Call a class or function with what was given, specs built. Raises ModelError for parameters that it has not, or refuses."""
    try:
        known = inspect.signature(maker).parameters
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where}: cannot be built by name: {error}") from error
    positional = next((name for name, one in known.items() if one.kind is one.VAR_POSITIONAL), None)
    names = [name for name, one in known.items() if one.kind is not one.VAR_KEYWORD]
    if len(names) == len(known):
        for key in given:
            if key not in names:
                raise ModelError(
                    f"{where}: has no parameter {key!r}; expected {_listed(names) or 'none'}{nearest(key, names)}"
                )
    missing = [
        name
        for name, one in known.items()
        if one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and name not in given
    ]
    if missing:
        raise ModelError(f"{where}: expected the parameter {', '.join(missing)}")
    built = {key: _value(value, seed, f"{where}.{key}") for key, value in given.items()}
    if "seed" in known and built.get("seed") is None:
        built["seed"] = seed
    rest = built.pop(positional, ()) if positional else ()
    if not isinstance(rest, list | tuple):
        raise ModelError(f"{where}.{positional} = {rest!r}: expected a list")
    try:
        return maker(*rest, **built)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{where}: cannot be built: {type(error).__name__}: {error}") from error


def _value(value: Any, seed: int, where: str) -> Any:
    """Return a parameter with the specs in it built."""
    if is_spec(value):
        return build_river(value, seed, where)
    if isinstance(value, list | tuple):
        return [_value(one, seed, f"{where}[{at}]") for at, one in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: _value(one, seed, f"{where}.{key}") for key, one in value.items()}
    return value


def _class_of(dotted: str, where: str) -> Any:
    """Return the class that a dotted name means, with or without `river.` before it. Raises ModelError naming the nearest."""
    if not DOTTED.fullmatch(dotted):
        raise ModelError(
            f'{where}: {dotted!r}: expected a dotted name of River, such as "linear_model.LogisticRegression"'
        )
    path = dotted.removeprefix("river.")
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(f"river.{module_name}") if module_name else None
    except ModuleNotFoundError as error:
        if error.name is not None and not f"river.{module_name}".startswith(error.name):
            raise ModelError(f"{where}: {dotted}: {error}") from error  # an extra that River needs for it
        module = None
    found = getattr(module, name, None) if module is not None else None
    if inspect.isclass(found) and inspect.isabstract(found):
        raise ModelError(f"{where}: {dotted} is abstract: expected one of the classes derived from it")
    if inspect.isclass(found):
        return found
    known = _known()
    same = [one for one in known if one.rpartition(".")[2].lower() == name.lower()]
    hint = f"; did you mean {same[0]}?" if same else nearest(path, known)
    raise ModelError(f"{where}: River has no class {path}{hint}")


def _known() -> list[str]:
    """Return the dotted names of River's public classes. It imports all of River: for an error's text only."""
    import river

    found = []
    for module in pkgutil.iter_modules(river.__path__):
        if module.name in {"checks", "datasets", "evaluate", "test_estimators"} or module.name.startswith("_"):
            continue
        try:
            loaded = importlib.import_module(f"river.{module.name}")
        except ImportError:
            continue  # it wants an extra that is not installed
        public = getattr(loaded, "__all__", ())
        found += [f"{module.name}.{name}" for name in public if inspect.isclass(getattr(loaded, name, None))]
    return sorted(found)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that was likely meant, or nothing."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN_MAX]) + (", ..." if len(names) > SHOWN_MAX else "")


def _shown(spec: Mapping[str, Any]) -> str:
    return _listed([str(key) for key in spec]) or "nothing"
