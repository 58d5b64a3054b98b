"""The packed state of a compiled model: one vector of float64. A kernel takes one array, a copy is a snapshot.

head         STAMP, LEARNED, FEATURES, OUTPUTS: which learner of which version, rows learned from, widths
parameters   as the learner declares them
the learner's own, then its scratch, which no copy holds
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.models.compiled.learner import Floats, Learner

STAMP, LEARNED, FEATURES, OUTPUTS = range(4)
HEAD = 4


def stamp_of(learner: Learner) -> float:
    """Return a number that tells learners and versions apart, exact in a float64."""
    return float(zlib.crc32(f"{learner.name} {learner.version}".encode()))


def new_state(learner: Learner, parameters: tuple[float, ...], features: int, outputs: int, seed: int = 0) -> Floats:
    """Return the state of a model that has learned nothing, its scratch at the end."""
    own_at = HEAD + len(parameters)
    own = learner.size(features, outputs)
    state = np.zeros(own_at + own + learner.work(features, outputs))
    state[:HEAD] = stamp_of(learner), 0.0, features, outputs
    state[HEAD:own_at] = parameters
    if learner.start is not None:
        learner.start(state[own_at : own_at + own], features, outputs, seed)
    return state


def kept_of(learner: Learner, state: Floats) -> Floats:
    """Return a copy of all of a state but its scratch."""
    return state[: _kept_size(learner, state)].copy()


def restore_state(learner: Learner, state: Floats, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Overwrite `state` with what `kept_of` gave of one like it.

    Raises ModelError, and leaves the state as it is, if that was of another learner, version, size or parameters, or is damaged.
    """
    kept = arrays.get("state")
    size = _kept_size(learner, state)
    if kept is None or kept.dtype != np.float64 or kept.shape != (size,):
        found = "none" if kept is None else f"{kept.dtype} {kept.shape}"
        raise ModelError(
            f"{learner.name}: state: expected float64 ({size},) for {state[FEATURES]:.0f} features and {state[OUTPUTS]:.0f} outputs, "
            f"found {found}"
        )
    if kept[STAMP] != state[STAMP]:
        raise ModelError(
            f"{learner.name}: state: expected one of {learner.name} version {learner.version}, found another"
        )
    own_at = HEAD + len(learner.parameters)
    for name, at in (
        ("features", FEATURES),
        ("outputs", OUTPUTS),
        *zip(learner.parameters, range(HEAD, own_at), strict=True),
    ):
        if kept[at] != state[at]:
            raise ModelError(f"{learner.name}: state: expected {name} = {state[at]:g}, found {kept[at]:g}")
    if not np.isfinite(kept).all():
        raise ModelError(f"{learner.name}: state: expected finite numbers, found NaN or infinity")
    state[:size] = kept


def grown_state(learner: Learner, parameters: tuple[float, ...], state: Floats, outputs: int) -> Floats:
    """Return the state of the same model with more classes, which it has not seen yet."""
    grown = new_state(learner, parameters, int(state[FEATURES]), outputs)
    size = _kept_size(learner, state)
    grown[HEAD:size] = state[HEAD:size]
    grown[LEARNED] = state[LEARNED]
    return grown


def _kept_size(learner: Learner, state: Floats) -> int:
    return HEAD + len(learner.parameters) + learner.size(int(state[FEATURES]), int(state[OUTPUTS]))
