"""How an algorithm is called where people read it: "MinMaxScaler | LogisticRegression(l2=0.1)"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORDS = ("algorithm", "river", "factory")
BETWEEN = " | "


def algorithm_text(spec: Any) -> str:
    """Return the short name of what a configuration says of a model (engine.models.build).

    Classes stand without their modules, parameters behind them, the steps of a pipeline in their order.
    """
    if isinstance(spec, list | tuple):
        return BETWEEN.join(map(algorithm_text, spec))
    if isinstance(spec, str):
        return _class_name(spec)
    if not isinstance(spec, Mapping):
        return _value_text(spec)
    if set(spec) == {"clip"}:
        return f"clip({_value_text(spec['clip'])})"
    word = next((word for word in WORDS if word in spec), None)
    if word is None:
        return _value_text(spec)
    named = spec[word]
    name = str(named) if word == "factory" else algorithm_text(named)
    given = ", ".join(f"{key}={_value_text(value)}" for key, value in spec.items() if key != word)
    return f"{name}({given})" if given else name


def _class_name(dotted: str) -> str:
    return dotted.rpartition(".")[2] or dotted


def _value_text(value: Any) -> str:
    """A parameter: a spec in it by its name, a text without quotes."""
    if isinstance(value, Mapping):
        if set(value) == {"clip"} or any(word in value for word in WORDS):
            return algorithm_text(value)
        return "{" + ", ".join(f"{key}={_value_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value_text, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
