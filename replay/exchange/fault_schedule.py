"""When a fault happens: its windows, drawn from a seed alone.

Times are s since the exchange began. Windows of one fault never overlap, and are drawn one by one as they come, from a random
number generator that serves nothing else: what a fault does within a window moves none of the later ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import NamedTuple

from replay.exchange.fault_plan import Fault


class Window(NamedTuple):
    """A time in which a fault is on. `stop` is inf for one without end, and equals `start` for what happens at a moment."""

    start: float
    stop: float


def windows(fault: Fault, chance: random.Random) -> Iterator[Window]:
    """Yield the windows of a fault in order, without end if it has none."""
    number = 0
    while not fault.times or number < fault.times:
        start = fault.at_s + number * fault.every_s + chance.random() * fault.jitter_s
        lasts_s = (math.inf if fault.for_s is None else fault.for_s) if fault.lasts else 0.0
        yield Window(start, start + lasts_s)
        number += 1
        if not fault.every_s:
            return


def generator(seed: int, number: int, fault: Fault, use: str) -> random.Random:
    """Return a generator for one use of one fault: the `number` is its place in the plan."""
    return random.Random(f"{seed}:{number}:{fault.kind}:{use}")
