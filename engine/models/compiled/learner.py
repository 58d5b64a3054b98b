"""A learner: how one algorithm is declared, so that it is compiled, kept and driven like every other.

To add one (a Hoeffding tree, FTRL, k nearest neighbours, ...) write one file beside this one that ends in `NAME = Learner(...)`, and
list NAME in `registry.LEARNERS`. That is all: arms, models by dict, snapshots, refusal of bad rows and parameters come from here.

    predict(p, s, x, out, work)      writes out[:], the probability of each class or the one value; may not change p or s
    learn(p, s, x, y, outputs, work) learns that x became y, a class's number or a value

All but y and outputs are vectors of float64: `p` the parameters in the order of their declaration (a choice by its number), `s` the
learner's own state, `x` the features, `work` scratch that nothing may be read from that was not written in the same call. Both are
plain functions under the rules of `engine.jit`: they reach numbers, tuples of them, math, numpy functions and other such functions;
they neither raise nor allocate, take no time without a bound, and give the same bits whether compiled or not (no sums by numpy).

What a learner may count on: x is finite and within +-LIMIT, and so is y; of a class y is one of 0.0 ... outputs - 1. A row of which
that does not hold is never learned from, and predicts NaN. What it has to promise: with parameters in their ranges its state stays
finite on any such rows. What is limited (nodes of a tree, neighbours) lies in `s` at its greatest size from the beginning, addressed
by offsets, numbers of nodes as floats. `start` fills `s` where zeros are not the beginning, from `seed` and nothing else at random;
a learner that draws numbers later keeps the generator's state in `s`.

A learner of which `grows` is true keeps what belongs to a class behind all else, class by class, so that its state for one class more
is the old one with zeros at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LIMIT = 1e100
"""A feature or a label beyond it, in size, is taken for damage like NaN: its square would be near the end of float64."""


@dataclass(frozen=True)
class Parameter:
    """One number or word that a learner is told: its default, and what it may be."""

    default: float | str
    low: float = 0.0
    high: float = 0.0
    is_open: bool = False  # greater than `low`, not equal to it
    choices: tuple[str, ...] = ()  # words; the learner sees the word's place among them

    @property
    def expected(self) -> str:
        """What it may be, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return f"a number {'>' if self.is_open else '>='} {self.low:g} and <= {self.high:g}"


@dataclass(frozen=True, eq=False)
class Learner:
    """One algorithm; the module docstring says what its functions are. Equal only to itself."""

    name: str
    version: int  # raised when the meaning of the state changes: states of another version are refused
    is_class: bool
    outputs_min: int
    outputs_max: int
    parameters: Mapping[str, Parameter]
    size: Callable[[int, int], int]  # (features, outputs) to floats of `s`
    work: Callable[[int, int], int]  # (features, outputs) to floats of `work`
    predict: Callable[[Any, Any, Any, Any, Any], None]
    learn: Callable[[Any, Any, Any, float, int, Any], None]
    start: Callable[[Floats, int, int, int], None] | None = None  # (s of zeros, features, outputs, seed)
    grows: bool = False

    @property
    def does(self) -> str:
        """What it is for, in words."""
        if not self.is_class:
            return "a value"
        if self.outputs_min == self.outputs_max:
            return f"{self.outputs_min} classes"
        return f"{self.outputs_min} to {self.outputs_max} classes"
