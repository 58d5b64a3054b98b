"""What a River model takes, out of a ledger's row: a dict of features by name, and the target as a label or a value."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from engine.errors import ModelError
from engine.models.layout import Layout

FLOAT = 8  # bytes


class Rows(Protocol):
    """Where an arm finds, by the slot of a ledger row, what its model takes."""

    @property
    def classes(self) -> Sequence[Any]:
        """The label of each class, as the model knows it; empty of a value."""

    @property
    def x(self) -> Callable[[Any, int, int], Any]:
        """A function of (the ledger's floats, a slot, where its row begins) that returns the features, as the model takes them."""

    @property
    def y(self) -> Callable[[int, float], Any]:
        """A function of (a slot, its LABEL) that returns the target, as the model takes it."""


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
        self.x: Callable[[Any, int, int], Any] = _dict_reader(names, layout.x_at)

    def y(self, slot: int, label: float) -> Any:
        """Return the class's label or the value."""
        return self.classes[int(label)] if self.classes else label


def _dict_reader(names: Sequence[str], first: int) -> Callable[[Any, int, int], dict[str, float]]:
    """Return a function that makes a dict of the features of a row.

    Generated, for this is most of what an arm costs beside its model: unpacking into names and a dict display, which Python fills
    without growing it, takes half of dict(zip(names, row.tolist())).
    """
    values = [f"_{at}" for at in range(len(names))]
    pairs = ", ".join(f"{name!r}: {value}" for name, value in zip(names, values, strict=True))
    source = (
        "def read(ledger, slot, at):\n"
        f"    {', '.join(values)}, = unpack(ledger, (at + {first}) * {FLOAT})\n"
        f"    return {{{pairs}}}\n"
    )
    scope: dict[str, Any] = {"unpack": struct.Struct(f"={len(names)}d").unpack_from}
    exec(source, scope)
    made: Callable[[Any, int, int], dict[str, float]] = scope["read"]
    return made
