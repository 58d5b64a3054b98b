"""Finds strategies by name (built in, or of the entry point group `tickfold.strategies`) or by the path of a Python file."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import StrategyError
from engine.plugin import import_file
from strategies.base import Strategy

GROUP = "tickfold.strategies"
BUILT_IN = {
    "moving_average_cross": "strategies.moving_average_cross:MovingAverageCross",
    "order_flow_imbalance": "strategies.order_flow_imbalance:OrderFlowImbalance",
}


def load(spec: str, parameters: Mapping[str, Any] | None = None) -> Strategy:
    """Return the strategy that `spec` names: a name, `path/to/file.py`, or `path/to/file.py:Class` where a file holds several.

    Raises StrategyError that says what was looked for, where, and what is there.
    """
    path, _, wanted = spec.partition(":")
    found = _of_file(Path(path), wanted) if path.endswith(".py") else _of_name(spec)
    try:
        return found(parameters)
    except StrategyError:
        raise
    except Exception as error:
        raise StrategyError(
            f"strategy {spec}: {found.__name__}(parameters) fails: {type(error).__name__}: {error}"
        ) from error


def _of_name(name: str) -> type[Strategy]:
    targets = {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)} | BUILT_IN
    if name not in targets:
        near = difflib.get_close_matches(name, targets, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise StrategyError(
            f"strategy {name!r}: expected one of {', '.join(sorted(targets))}, or the path of a .py file{hint}"
        )
    module_name, _, attribute = targets[name].partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:
        raise StrategyError(
            f"strategy {name!r}: {targets[name]} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return _checked(found, targets[name])


def _of_file(path: Path, wanted: str) -> type[Strategy]:
    module = import_file(path, StrategyError, "strategy")
    classes = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Strategy) and member is not Strategy and member.__module__ == module.__name__
    ]
    if wanted:
        classes = [member for member in classes if member.__name__ == wanted]
    if len(classes) != 1:
        shown = ", ".join(member.__name__ for member in classes) or "none"
        raise StrategyError(
            f"strategy {path}: expected one subclass of Strategy{f' named {wanted}' if wanted else ''}, found {shown}"
        )
    return classes[0]


def _checked(found: Any, where: str) -> type[Strategy]:
    if not (inspect.isclass(found) and issubclass(found, Strategy)):
        raise StrategyError(f"strategy {where}: expected a subclass of strategies.Strategy, found {found!r}")
    return found
