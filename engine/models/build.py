"""Builds models out of what a configuration says of them.

    {algorithm = "scaled_logistic", lr = 0.005}   a compiled learner: engine.models.compiled
    {river = ..., ...}, {factory = "FILE.py:NAME", ...}   a River model, or whatever a function returns: engine.models.river_spec

Importing this costs neither numba nor River: both take seconds, and come when a model of theirs is built.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, ModelError
from engine.models.layout import Layout

if TYPE_CHECKING:
    from engine.models.arm import Arm
    from engine.models.spec import ModelSpec

ALGORITHM = "algorithm"


def build(spec: Any, seed: int = 0) -> Any:
    """Return a new model that `spec` means: a compiled one for {"algorithm": ...}, else a River object; an object as it is.

    A list of specs is a pipeline, a text the dotted name of a class of River. What takes a seed and was given none gets `seed`, so a
    spec gives the same model each time, whatever PYTHONHASHSEED is. Raises ConfigError or ModelError naming what is not known.
    """
    if isinstance(spec, Mapping) and ALGORITHM in spec:
        from engine.models.compiled import CompiledModel

        return CompiledModel(spec, seed=seed)
    from engine.models.river_spec import build_river

    if not isinstance(spec, Mapping | list | tuple | str):
        if not callable(getattr(spec, "learn_one", None)) or isinstance(spec, type):
            raise ModelError(f"model: expected a spec or an object with learn_one, found {spec!r}")
        return spec
    model = build_river(spec, seed)
    _settle(model, seed)
    return model


def check_algorithms(spec: ModelSpec) -> None:
    """Raise ConfigError or ModelError for an algorithm of a model that cannot be; compiles nothing.

    Those of worker processes are built there, before the first input.
    """
    for number, algorithm in enumerate(spec.algorithms):
        key = "algorithm" if not number else f"challengers[{number - 1}]"
        try:
            if ALGORITHM in algorithm:
                _check_compiled(algorithm, spec)
            elif spec.config.place != "worker":
                make_arm(algorithm, spec, Layout(len(spec.features), spec.target.outputs, 0, 1), 0)
        except (ConfigError, ModelError) as error:
            raise type(error)(f"models.define.{spec.name}.{key}: {error}") from error


def _check_compiled(algorithm: Mapping[str, Any], spec: ModelSpec) -> None:
    from engine.models.compiled import fitting

    if not spec.target.is_supervised:
        raise ConfigError(
            f"{algorithm[ALGORITHM]!r} learns from labels, and target = {spec.target.name!r} has none: expected a River model that "
            "detects anomalies or clusters"
        )
    fitting(algorithm, spec.target.outputs, bool(spec.target.classes))


def make_arm(algorithm: Mapping[str, Any], spec: ModelSpec, layout: Layout, seed: int) -> Arm:
    """Return an arm that has learned nothing, for one key of the model `spec`.

    Raises ConfigError or ModelError if the algorithm is not known, does not fit the target, depends on more than its seed, or could not
    be kept in a snapshot.
    """
    target = spec.target
    is_class = bool(target.classes)
    if ALGORITHM in algorithm:
        _check_compiled(algorithm, spec)
        from engine.models.compiled import make_compiled_arm

        return make_compiled_arm(algorithm, layout, target.outputs, is_class, seed)
    from engine.models.river_arm import RiverArm, pickled
    from engine.models.river_role import role_for
    from engine.models.river_rows import LedgerRows
    from engine.models.river_spec import build_river

    where = f"model {spec.name}"
    model = build_river(dict(algorithm), seed, where)
    role = role_for(model, target, where)
    try:
        pickled(model)
        faults = _settle(model, seed)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    if faults:
        raise ConfigError(f"{where}: {'; '.join(faults)}")
    definition = json.dumps([dict(algorithm), spec.names, target.name, seed], sort_keys=True, default=repr)
    return RiverArm(model, role, LedgerRows(spec.names, layout, is_class), definition)


def _settle(model: Any, seed: int) -> list[str]:
    """Make River's parts of a model depend on nothing but the seed; return what still depends on something else."""
    if "river" not in sys.modules:
        return []  # none of it is River's
    from engine.models.river_steady import settle

    try:
        return settle(model, seed)
    except Exception as error:
        raise ModelError(f"the model cannot be looked through: {type(error).__name__}: {error}") from error
