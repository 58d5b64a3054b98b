"""An arm: one version of one model for one key, as the model's actor drives it. Champion and challengers are arms on the same rows.

An actor gives all its arms the same batch: the ledger, the steps (one a row of features) and the answers (predictions whose outcome is
known by now). At each step an arm first learns from the answers that fall to it, in their order, then predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.models.layout import Layout


@dataclass
class Batch:
    """What one block of inputs means to the arms of one actor. The arrays are valid until `run` returns."""

    layout: Layout
    ledger: npt.NDArray[np.float64]  # capacity x layout.width
    ids: npt.NDArray[np.int64]  # the same bytes
    steps: npt.NDArray[np.int64]  # steps x STEP
    answers: npt.NDArray[np.int64]  # slots of the ledger, in the order in which they are learned from


@dataclass(frozen=True)
class Failure:
    """An arm raised at a step: it said nothing there, and keeps the state it has."""

    step: int
    handler: str  # "learn" or "predict"
    error: str
    traceback: str
    in_a_row: int = 1


class Arm(Protocol):
    """Learns and predicts. Nothing it does may depend on how the rows were cut into batches."""

    def run(self, batch: Batch, out_at: int, first: int) -> list[Failure]:
        """Do the steps from `first` on.

        At step i, in this order:
        1. for each slot of answers[UPTO of step i - 1 : UPTO of step i]: learn from the row's features and its LABEL, unless that
           is NaN (void). Of step 0 the answers begin at 0; those of steps before `first` are not the arm's.
        2. if SLOT of the step is not -1: write layout.outputs numbers to ledger[slot, out_at:], NaN if it can say nothing.
           Features lie at ledger[slot, layout.x_at : layout.x_at + layout.features], all finite.
        """

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Copy all that a restart must know. What lies in "pickle" (uint8) is no part of the state's digest."""

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become what `arrays` was made of. Raises ModelError if it was made of something else."""

    @property
    def memory(self) -> int:
        """Bytes that the model takes, about."""
