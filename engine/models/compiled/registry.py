"""The learners there are, by name, and the check of what a configuration says of one: {algorithm = "scaled_logistic", lr = 0.005}."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from engine.errors import ConfigError
from engine.models.compiled.learner import Learner, Parameter
from engine.models.compiled.linear import LINEAR
from engine.models.compiled.logistic import LOGISTIC
from engine.models.compiled.softmax import SOFTMAX

LEARNERS: Mapping[str, Learner] = {learner.name: learner for learner in (LOGISTIC, SOFTMAX, LINEAR)}


def learner_of(algorithm: Mapping[str, Any], where: str = "algorithm") -> tuple[Learner, tuple[float, ...]]:
    """Return the learner that `algorithm` names and its parameters as numbers, in the order of their declaration.

    Raises ConfigError for an unknown algorithm or parameter, naming the nearest there is, and for a value outside its range.
    """
    name = algorithm.get("algorithm")
    if not isinstance(name, str) or name not in LEARNERS:
        raise ConfigError(f"{where} = {name!r}: expected one of {', '.join(LEARNERS)}{nearest(name, LEARNERS)}")
    learner = LEARNERS[name]
    for key in algorithm:
        if key != "algorithm" and key not in learner.parameters:
            known = ", ".join(learner.parameters)
            raise ConfigError(
                f"{where}.{key}: {name} has no such parameter; it has {known}{nearest(key, learner.parameters)}"
            )
    return learner, tuple(
        _number(parameter, algorithm.get(key, parameter.default), f"{where}.{key}")
        for key, parameter in learner.parameters.items()
    )


def fitting(
    algorithm: Mapping[str, Any], outputs: int, is_class: bool, where: str = "algorithm"
) -> tuple[Learner, tuple[float, ...]]:
    """Return `learner_of(algorithm)`, once it can say as many classes, or a value. Raises ConfigError if it cannot."""
    learner, parameters = learner_of(algorithm, where)
    if learner.is_class != is_class or not learner.outputs_min <= outputs <= learner.outputs_max:
        asked = f"{outputs} classes" if is_class else "a value"
        able = [
            other.name
            for other in LEARNERS.values()
            if other.is_class == is_class and other.outputs_min <= outputs <= other.outputs_max
        ]
        raise ConfigError(
            f"{where} = {learner.name!r} predicts {learner.does}, the target is {asked}: expected one of {', '.join(able)}"
        )
    return learner, parameters


def nearest(name: object, known: Iterable[str]) -> str:
    """Return a hint at the known name that `name` is likely meant to be, or nothing."""
    found = difflib.get_close_matches(str(name), list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""


def _number(parameter: Parameter, value: object, where: str) -> float:
    if parameter.choices:
        if value not in parameter.choices:
            hint = nearest(value, parameter.choices)
            raise ConfigError(f"{where} = {value!r}: expected {parameter.expected}{hint}")
        return float(parameter.choices.index(str(value)))
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if is_number:
        number = float(value)  # type: ignore[arg-type]
        above = number > parameter.low if parameter.is_open else number >= parameter.low
        if above and number <= parameter.high:
            return number
    raise ConfigError(f"{where} = {value!r}: expected {parameter.expected}")
