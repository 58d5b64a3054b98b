"""A block bootstrap: intervals for any statistic of sums, where neighbouring outcomes overlap.

The sums lie in blocks of L thinned outcomes (those that do not overlap). Runs of neighbouring blocks are drawn with replacement, round
the end (circular block bootstrap: Politis and Romano 1992), so what overlaps is drawn together: a run holds at least RUN outcomes where
there are blocks enough. With a fixed seed the same sums give the same interval.

Few runs make a bootstrap too sure of itself, in ways that are known, so what is drawn is spread by
    sqrt(runs / (runs - 1))        the mean is that of the same runs
    t / z                          few degrees of freedom
    1 / sqrt(1 - 1 / (3 L r))      of what overlaps across the ends of a run of r blocks nothing is drawn together
In 300 simulated walks each, at a horizon of 60 ticks and 20, 40, 100, 333 and 1,000 outcomes that do not overlap, 95 % intervals of the
accuracy covered the truth in 94.7, 96.3, 94.7, 95.0 and 94.7 % of them, binomial ones in 20 to 26 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SEED = 20_100
RUN = 4
BLOCKS_MIN = 8
"""With fewer blocks nothing is said about how sure a statistic is."""


@lru_cache(maxsize=64)
def drawn(blocks: int, run: int, draws: int) -> Floats:
    """How often each block is in each draw: draws x blocks."""
    runs = -(-blocks // run)
    starts = np.random.default_rng(SEED).integers(0, blocks, size=(draws, runs))
    members = (starts[:, :, None] + np.arange(run)) % blocks
    members += np.arange(draws)[:, None, None] * blocks
    counts = np.bincount(members.ravel(), minlength=draws * blocks).reshape(draws, blocks)
    return counts.astype(np.float64)


def intervals(
    blocks: Floats, length: float, statistics: Callable[[Floats], Mapping[str, Floats]], *, level: float, draws: int
) -> dict[str, Floats]:
    """Return (low, high), along the first axis, of each statistic; NaN where it cannot be said.

    `blocks` is blocks x sums, oldest first, each about `length` thinned outcomes; `statistics` takes rows of sums and returns arrays
    with as many first entries. Empty with fewer than BLOCKS_MIN blocks.
    """
    count = len(blocks)
    if count < BLOCKS_MIN:
        return {}
    run = max(1, min(math.ceil(RUN / length), count // BLOCKS_MIN))
    runs = -(-count // run)
    spread = math.sqrt(runs * run / count) * math.sqrt(runs / (runs - 1)) / math.sqrt(1.0 - 1.0 / (3.0 * length * run))
    tail = 0.5 * (1.0 - level)
    spread *= t_quantile(1.0 - tail, runs - 1) / NormalDist().inv_cdf(1.0 - tail)
    point = statistics(blocks.sum(axis=0, keepdims=True))
    found = statistics(drawn(count, run, draws) @ blocks)
    made = {}
    for name, values in found.items():
        centre = point[name][0]
        # A draw in which a statistic is not defined (no trade in it) says nothing about its spread.
        with np.errstate(invalid="ignore"):
            off = np.sort(values - centre, axis=0)
        defined = np.sum(np.isfinite(off), axis=0)
        low, high = (_rank(off, defined, share) for share in (tail, 1.0 - tail))
        made[name] = np.stack([centre + spread * low, centre + spread * high])
    return made


def _rank(ordered: Floats, defined: npt.NDArray[np.int64], share: float) -> Floats:
    """Return the quantile of what is defined; NaN (which sorts last) where that is less than half."""
    at = np.clip(np.rint(share * (defined - 1)).astype(np.int64), 0, None)
    found: Floats = np.take_along_axis(ordered, at[None], axis=0)[0]
    return np.where(2 * defined >= len(ordered), found, np.nan)


def t_quantile(share: float, freedom: int) -> float:
    """Quantile of Student's t from that of the normal (Abramowitz and Stegun 26.7.5); 0.01 off at 7 degrees of freedom, less above."""
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4.0,
        (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0,
        (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0,
    )
    return z + float(sum(term / freedom ** (power + 1) for power, term in enumerate(terms)))


def wilson(share: float, trials: float, level: float) -> tuple[float, float]:
    """Return Wilson's interval (1927) of a share seen in so many independent trials."""
    z = NormalDist().inv_cdf(0.5 + 0.5 * level)
    if trials <= 0.0:
        return 0.0, 1.0
    centre = (share + z * z / (2.0 * trials)) / (1.0 + z * z / trials)
    half = z / (1.0 + z * z / trials) * math.sqrt(share * (1.0 - share) / trials + z * z / (4.0 * trials * trials))
    return max(centre - half, 0.0), min(centre + half, 1.0)
