"""Sums over blocks of the rows of a stream, so that scores of progressive validation have intervals, by `engine.models.bootstrap`.

Rows of a stream do not overlap one another, but those whose labels were awaited together were asked of the same model: a block is at
least max(1, delay) rows. It doubles whenever there are BLOCKS_MAX of them, so a stream of any length takes the same memory.
Runs over the same stream have the same blocks; their sums may be drawn together.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.models.bootstrap import Floats, intervals

BLOCKS_MAX = 512
N, LOSS, RIGHT, ABSOLUTE = range(4)
COUNTS_AT = 4  # behind them, of classes: how often each was the label, then how often each was picked
BOUNDS = {"mcc": (-1.0, 1.0), "skill": (-np.inf, 1.0), "accuracy": (0.0, 1.0), "brier": (0.0, 1.0)}


class Blocks:
    """The sums of one run. `heard` takes each row in its order, those that nothing was said of too."""

    def __init__(self, rows: int) -> None:
        """`rows` of the stream that belong together: max(1, delay)."""
        self._unit = rows
        self._length = rows  # rows of a block by now
        self._rows = 0
        self._sums = np.zeros((1, COUNTS_AT))
        self._labels = np.zeros((1, 0))
        self._picks = np.zeros((1, 0))

    def heard(self, label: float, said: float, loss: float, *, is_class: bool) -> None:
        """Add a row: its label, the class or value that was said, and the loss, NaN of a row that is not scored."""
        if self._rows and self._rows % self._length == 0:
            self._open()
        self._rows += 1
        if loss != loss:  # noqa: PLR0124 - NaN: not scored
            return
        sums = self._sums[-1]
        sums[N] += 1.0
        sums[LOSS] += loss
        if not is_class:
            sums[ABSOLUTE] += abs(label - said)
            return
        sums[RIGHT] += label == said
        self._labels = _counted(self._labels, int(label))
        self._picks = _counted(self._picks, int(said))

    def _open(self) -> None:
        """Begin another block; where there are too many, join neighbours first."""
        if len(self._sums) == BLOCKS_MAX:
            self._length *= 2
            self._sums, self._labels, self._picks = (
                one.reshape(BLOCKS_MAX // 2, 2, -1).sum(axis=1) for one in (self._sums, self._labels, self._picks)
            )
        self._sums, self._labels, self._picks = (
            np.concatenate([one, np.zeros((1, one.shape[1]))]) for one in (self._sums, self._labels, self._picks)
        )

    @property
    def units(self) -> float:
        """How many times max(1, delay) rows a block holds."""
        return self._length / self._unit

    def sums(self) -> Floats:
        """Return blocks x (COUNTS_AT + 2 classes): the sums, the counts of labels, the counts of picks."""
        classes = max(self._labels.shape[1], self._picks.shape[1])
        counts = [np.pad(one, ((0, 0), (0, classes - one.shape[1]))) for one in (self._labels, self._picks)]
        return np.concatenate([self._sums, *counts], axis=1)


def _counted(counts: Floats, at: int) -> Floats:
    """Count one more of a class in the newest block; widen for a class that is new."""
    if at >= counts.shape[1]:
        counts = np.pad(counts, ((0, 0), (0, at + 1 - counts.shape[1])))
    counts[-1, at] += 1.0
    return counts


def stream_intervals(
    own: Blocks, baseline: Blocks | None, *, is_class: bool, level: float = 0.95, draws: int = 1_000
) -> dict[str, tuple[float, float]]:
    """Return the interval of each score of a run, and of its skill against a baseline that ran over the same rows.

    NaN where it cannot be said; empty with too few blocks.
    """
    sums = own.sums()
    width = sums.shape[1]
    if baseline is not None:
        sums = np.concatenate([sums, baseline.sums()[:, : LOSS + 1]], axis=1)

    def statistics(rows: Floats) -> Mapping[str, Floats]:
        n = rows[:, N]
        loss = rows[:, LOSS] / n
        found: dict[str, Floats] = {}
        if baseline is not None:
            found["skill"] = 1.0 - loss / (rows[:, width + LOSS] / rows[:, width + N])
        if not is_class:
            return found | {"mse": loss, "rmse": np.sqrt(loss), "mae": rows[:, ABSOLUTE] / n}
        labels, picks = np.split(rows[:, COUNTS_AT:width], 2, axis=1)
        spread = (n * n - (picks * picks).sum(axis=1)) * (n * n - (labels * labels).sum(axis=1))
        together = rows[:, RIGHT] * n - (labels * picks).sum(axis=1)
        mcc = np.where(spread > 0.0, together / np.sqrt(np.maximum(spread, 0.0)), 0.0)
        return found | {"brier": loss, "accuracy": rows[:, RIGHT] / n, "mcc": mcc}

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        spans = intervals(sums, own.units, statistics, level=level, draws=draws)
    return {name: _span(span, *BOUNDS.get(name, (0.0, np.inf))) for name, span in spans.items()}


def _span(span: Floats, low: float, high: float) -> tuple[float, float]:
    clipped = np.clip(span, low, high)
    return float(clipped[0]), float(clipped[1])
