"""How the skill of a model went: samples of its sums of loss and of its baselines', in memory that does not grow.

A track holds at most SAMPLES. When they are all there every other one goes, and from then on half as many are taken: a track reaches
back to its beginning, ever more coarsely. Sums of the same rows can be subtracted, so the skill over the last ROLLING samples comes of
two of them, for any moment and as if it had been watched so finely all along.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLES = 480
ROLLING = 60
MS = 1e-6

Floats = npt.NDArray[np.float64]


class Track:
    """One model of one key. `baselines` are the names of those whose losses are followed."""

    def __init__(self, baselines: tuple[str, ...]) -> None:
        self.baselines = baselines
        self._at = np.zeros(SAMPLES, np.int64)
        self._version = np.zeros(SAMPLES, np.int64)
        # n, n_eff, skill, low, high, sum of losses, then by baseline; NaN where there is none yet
        self._values = np.full((6 + len(baselines), SAMPLES), np.nan)
        self._count = 0
        self._stride = 1
        self._passed = 0

    def __len__(self) -> int:
        return self._count

    @property
    def memory(self) -> int:
        """Bytes."""
        return self._at.nbytes + self._version.nbytes + self._values.nbytes

    def add(self, at: int, version: int, report: dict[str, Any], losses: dict[str, Any], loss: float | None) -> None:
        """Take a sample, if it is its turn. at: ns UTC; version: the number of the one whose scores these are; losses: means by baseline."""
        n = report.get("n") or 0
        if self._count and self._values[0, self._count - 1] == n and self._version[self._count - 1] == version:
            return  # nothing was verified since
        self._passed += 1
        if self._passed < self._stride:
            return
        self._passed = 0
        if self._count == SAMPLES:
            self._thin()
        low, high = report.get("interval") or (None, None)
        told = [n, report.get("n_eff"), report.get("skill"), low, high, _sum(loss, n)]
        told += [_sum(losses.get(name), n) for name in self.baselines]
        self._at[self._count], self._version[self._count] = at, version
        self._values[:, self._count] = [np.nan if value is None else value for value in told]
        self._count += 1

    def _thin(self) -> None:
        half = SAMPLES // 2
        self._at[:half], self._version[:half] = self._at[1::2].copy(), self._version[1::2].copy()
        self._values[:, :half] = self._values[:, 1::2].copy()
        self._count, self._stride = half, 2 * self._stride

    def to_builtins(self) -> dict[str, Any]:
        """Return the samples as lists, oldest first, null for what is not known: cumulative scores, and those of the last ROLLING samples.

        `baselines` are the rolling skills of each against the best one of the same samples, so 0 or below.
        """
        count = self._count
        n, n_eff, skill, low, high, *sums = self._values[:, :count]
        rolling, others = self._rolling(np.array(sums))
        return {
            "at_ms": (self._at[:count] * MS).tolist(),
            "n": [int(value) for value in n],
            **{
                name: listed(values)
                for name, values in (("n_eff", n_eff), ("skill", skill), ("low", low), ("high", high))
            },
            "rolling": listed(rolling),
            "rolling_samples": ROLLING,
            "baselines": {name: listed(values) for name, values in zip(self.baselines, others, strict=True)},
        }

    def _rolling(self, sums: Floats) -> tuple[Floats, Floats]:
        """Skill of the model, and of each baseline, over the last samples; NaN before there are two of one version."""
        count = self._count
        found = np.full(count, np.nan), np.full((len(self.baselines), count), np.nan)
        if not self.baselines or count < 2:
            return found
        rows = np.arange(count)
        first = np.maximum(rows - ROLLING, 0)
        # Scores of another version begin anew: not further back than its first sample.
        begins = np.maximum.accumulate(
            np.where(np.diff(self._version[:count], prepend=self._version[0] - 1) != 0, rows, 0)
        )
        lost = sums - sums[:, np.maximum(first, begins)]
        best = np.nanmin(np.where(np.isnan(lost[1:]), np.inf, lost[1:]), axis=0)
        usable = np.isfinite(best) & (best > 0.0)
        found[0][usable] = 1.0 - lost[0, usable] / best[usable]
        found[1][:, usable] = 1.0 - lost[1:, usable] / best[usable]
        return found


class Recent:
    """What a model without labels said lately: the newest SAMPLES samples, older ones go."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, float]] = deque(maxlen=SAMPLES)

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, at: int, value: float) -> None:
        """Take a sample, unless nothing was said since. at: ns UTC, when it was said."""
        if not self._samples or at > self._samples[-1][0]:
            self._samples.append((at, value))

    def to_builtins(self) -> dict[str, list[float]]:
        """Return the samples as lists, oldest first."""
        return {"at_ms": [at * MS for at, _ in self._samples], "values": [value for _, value in self._samples]}


def _sum(mean: float | None, n: float) -> float | None:
    return None if mean is None else mean * n


def listed(values: Floats) -> list[float | None]:
    """Return numbers as JSON can have them."""
    return [value if np.isfinite(value) else None for value in values.tolist()]
