"""A compiled model as an arm of a model's actor: one call of its program a batch, nothing else in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from engine.models.arm import Batch, Failure
from engine.models.compiled.learner import Learner
from engine.models.compiled.program import run_of
from engine.models.compiled.registry import fitting
from engine.models.compiled.state import LEARNED, kept_of, new_state, restore_state
from engine.models.layout import Layout


class CompiledArm:
    """An `Arm` of a compiled learner. It cannot fail half-way: what cannot be learned from is passed over, as `program` says."""

    def __init__(self, learner: Learner, parameters: tuple[float, ...], layout: Layout, seed: int = 0) -> None:
        self.learner = learner
        self.state = new_state(learner, parameters, layout.features, layout.outputs, seed)
        self._x_at = layout.x_at
        self._run = run_of(learner)

    def run(self, batch: Batch, out_at: int, first: int) -> list[Failure]:
        """Do the steps from `first` on, as `Arm.run` says."""
        self._run(self.state, batch.ledger, batch.steps, batch.answers, out_at, self._x_at, first)
        return []

    @property
    def learned(self) -> int:
        """Rows that it has learned from."""
        return int(self.state[LEARNED])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return {"state": a copy, float64}."""
        return {"state": kept_of(self.learner, self.state)}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become what `arrays` was made of. Raises ModelError for another learner, version, size or parameters, and for damage."""
        restore_state(self.learner, self.state, arrays)

    @property
    def memory(self) -> int:
        """Bytes of the state."""
        return self.state.nbytes


def make_compiled_arm(
    algorithm: Mapping[str, Any], layout: Layout, outputs: int, is_class: bool, seed: int = 0
) -> CompiledArm:
    """Return an arm that has learned nothing. Raises ConfigError for an algorithm that is unknown or does not fit the target."""
    learner, parameters = fitting(algorithm, outputs, is_class)
    return CompiledArm(learner, parameters, Layout(layout.features, outputs, layout.baselines, layout.arms), seed)
