"""What a River model takes, out of a ledger's row: a dict of features by name, and the target as a label or a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.models.layout import LABEL, Layout


class Rows(Protocol):
    """Where an arm finds, by the slot of a ledger row, what its model takes."""

    @property
    def classes(self) -> Sequence[Any]:
        """The label of each class, as the model knows it; empty of a value."""

    def x(self, ledger: npt.NDArray[np.float64], slot: int) -> Any:
        """Return the features as the model takes them, new or never changed."""

    def y(self, ledger: npt.NDArray[np.float64], slot: int) -> Any:
        """Return the target as the model takes it."""


class LedgerRows:
    """Rows of floats, as the fold keeps them: a dict by the features' names.

    Two classes are False and True, others 0, 1, 2, ...; a value is itself.
    """

    def __init__(self, names: Sequence[str], layout: Layout, is_class: bool) -> None:
        if len(names) != layout.features or len(set(names)) != len(names):
            raise ModelError(f"expected {layout.features} different names of features, found {', '.join(names)}")
        self.classes: tuple[Any, ...] = ()
        if is_class:
            self.classes = (False, True) if layout.outputs == 2 else tuple(range(layout.outputs))
        self._first, self._end = layout.x_at, layout.x_at + layout.features
        self._dict_of = _dict_maker(names)

    def x(self, ledger: npt.NDArray[np.float64], slot: int) -> Any:
        """Return {name: float}."""
        return self._dict_of(*ledger[slot, self._first : self._end].tolist())

    def y(self, ledger: npt.NDArray[np.float64], slot: int) -> Any:
        """Return the class's label or the value."""
        label = ledger.item(slot, LABEL)
        return self.classes[int(label)] if self.classes else label


def _dict_maker(names: Sequence[str]) -> Callable[..., dict[str, float]]:
    """Return a function of so many values that makes a dict of them.

    Written as a dict display, which Python fills without growing it: dict(zip(names, values)) takes a quarter longer, and this is
    most of what an arm costs beside its model.
    """
    arguments = [f"_{at}" for at in range(len(names))]
    pairs = ", ".join(f"{name!r}: {argument}" for name, argument in zip(names, arguments, strict=True))
    made: Callable[..., dict[str, float]] = eval(f"lambda {', '.join(arguments)}: {{{pairs}}}", {"__builtins__": {}})
    return made
