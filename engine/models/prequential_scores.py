"""Running scores of progressive validation, in River's own arithmetic, so that they are River's numbers to the last bit."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

SMALLEST = 1e-15
"""A probability is taken to be at least this, and at most 1 less this, before its logarithm is taken."""
RANKED_MAX = 1 << 22
"""Rows whose scores are kept for the area under the ROC curve; it is that of the first so many."""


class Mean:
    """A running mean, updated as River's `stats.Mean` is."""

    def __init__(self) -> None:
        self.n = 0.0
        self._mean = 0.0

    def add(self, value: float) -> None:
        """Take one more value into it."""
        self.n += 1.0
        self._mean += (1.0 / self.n) * (value - self._mean)

    def get(self) -> float:
        """Return the mean, NaN of nothing."""
        return self._mean if self.n else math.nan


class ClassScores:
    """Of class probabilities. Classes are numbers; the baselines are the commonest label so far and the newest."""

    def __init__(self) -> None:
        self.n = self.unsaid = self.void = 0
        self._confusion: Counter[tuple[int, int]] = Counter()  # (class, class held likeliest)
        self._brier, self._log_loss = Mean(), Mean()
        self._right = [0, 0]  # of the baselines
        self._positive = 1  # the class of True, where there is one
        self._seen: Counter[int] = Counter()
        self._commonest, self._newest = math.nan, math.nan

    def reveal(self, label: float) -> None:
        """Let the baselines know a label."""
        if math.isnan(label):
            return
        self._seen[int(label)] += 1
        if math.isnan(self._commonest) or self._seen[int(label)] > self._seen[int(self._commonest)]:
            self._commonest = label
        self._newest = label

    def baselines(self) -> tuple[float, float]:
        """Return what they say by now."""
        return self._commonest, self._newest

    def add(
        self,
        label: float,
        said: Sequence[float],
        pick: int,
        positive: int,
        baselines: Sequence[float],
        elsewhere: float = 0.0,
    ) -> float:
        """Score one row: `said` are probabilities by class, `pick` the class that the model itself held likeliest.

        `positive` is the class of True, -1 if there is none; `elsewhere` sums the squared probabilities of labels without a class yet.
        Returns the loss, NaN of a row that is not scored.
        """
        if math.isnan(label):
            self.void += 1
            return math.nan
        if math.isnan(said[0]):
            self.unsaid += 1
            return math.nan
        self.n += 1
        truth = int(label)
        if positive >= 0:
            self._positive = positive
        self._confusion[truth, pick] += 1
        loss = 0.5 * (sum((p - (at == truth)) ** 2 for at, p in enumerate(said)) + elsewhere)
        self._brier.add(loss)
        if len(said) == 2 and positive >= 0:
            yes = min(max(said[positive], SMALLEST), 1 - SMALLEST)
            self._log_loss.add(-math.log(yes if truth == positive else 1 - yes))
        else:
            self._log_loss.add(-math.log(min(max(said[truth], SMALLEST), 1 - SMALLEST)))
        for at, base in enumerate(baselines):
            self._right[at] += base == label
        return loss

    def report(self) -> dict[str, Any]:
        """Return the scores."""
        right = sum(count for (truth, pick), count in self._confusion.items() if truth == pick)
        share = self.n or math.nan
        return {
            "n": self.n,
            "accuracy": right / share,
            "mcc": self._mcc(),
            "brier": self._brier.get(),
            "log_loss": self._log_loss.get(),
            "baselines": {"majority": self._right[0] / share, "last": self._right[1] / share},
            "unsaid": self.unsaid,
            "void": self.void,
        }

    def _mcc(self) -> float:
        """Matthews correlation; over more than two classes Gorodkin's R_K, which is the same of two. 0 where it is undefined."""
        found = self._confusion
        classes = sorted({one for pair in found for one in pair})
        if not self.n:
            return math.nan
        if len(classes) <= 2:
            yes = self._positive
            tp = found[yes, yes]
            fp = sum(count for (truth, pick), count in found.items() if truth != yes and pick == yes)
            fn = sum(count for (truth, pick), count in found.items() if truth == yes and pick != yes)
            s, p = (tp + fn) / self.n, (tp + fp) / self.n
            spread = p * s * (1 - s) * (1 - p)
            return (tp / self.n - s * p) / math.sqrt(spread) if spread else 0.0
        truths, picks = Counter[int](), Counter[int]()
        for (truth, pick), count in found.items():
            truths[truth] += count
            picks[pick] += count
        n, right = self.n, sum(found[one, one] for one in classes)
        covariance = right * n - sum(truths[one] * picks[one] for one in classes)
        spread = (n * n - sum(picks[one] ** 2 for one in classes)) * (n * n - sum(truths[one] ** 2 for one in classes))
        return covariance / math.sqrt(spread) if spread else 0.0


class ValueScores:
    """Of values. The baselines are the mean of the targets so far and the newest one, 0 before there is one."""

    def __init__(self) -> None:
        self.n = self.unsaid = self.void = 0
        self._mae, self._mse, self._of_mean, self._of_newest = Mean(), Mean(), Mean(), Mean()
        self._mean, self._newest = Mean(), 0.0

    def reveal(self, label: float) -> None:
        """Let the baselines know a target."""
        if not math.isnan(label):
            self._mean.add(label)
            self._newest = label

    def baselines(self) -> tuple[float, float]:
        """Return what they say by now."""
        return (self._mean.get() if self._mean.n else 0.0), self._newest

    def add(self, label: float, said: float, baselines: Sequence[float]) -> float:
        """Score one row. Returns the loss, NaN of a row that is not scored."""
        if math.isnan(label):
            self.void += 1
            return math.nan
        if math.isnan(said):
            self.unsaid += 1
            return math.nan
        self.n += 1
        self._mae.add(abs(label - said))
        try:
            loss = (label - said) ** 2
        except OverflowError:
            loss = math.inf
        self._mse.add(loss)
        self._of_mean.add(abs(label - baselines[0]))
        self._of_newest.add(abs(label - baselines[1]))
        return loss

    def report(self) -> dict[str, Any]:
        """Return the scores."""
        return {
            "n": self.n,
            "mae": self._mae.get(),
            "rmse": self._mse.get() ** 0.5,
            "baselines": {"mean": self._of_mean.get(), "last": self._of_newest.get()},
            "unsaid": self.unsaid,
            "void": self.void,
        }


class DetectorScores:
    """Of anomaly scores. Targets, where there are any, are 1 or True for an anomaly."""

    def __init__(self) -> None:
        self.n = self.unsaid = 0
        self._mean, self._highest = Mean(), -math.inf
        self._ranked, self._truths = array("d"), bytearray()

    def reveal(self, label: float) -> None:
        """Nothing learns from labels here."""

    def baselines(self) -> tuple[float, float]:
        """Return nothing: a score alone has none; half of all pairs are ranked rightly by a coin."""
        return math.nan, math.nan

    def add(self, said: float, target: Any) -> None:
        """Score one row."""
        if math.isnan(said):
            self.unsaid += 1
            return
        self.n += 1
        self._mean.add(said)
        self._highest = max(self._highest, said)
        if target in (0, 1) and len(self._ranked) < RANKED_MAX:
            self._ranked.append(said)
            self._truths.append(int(target))

    def report(self) -> dict[str, Any]:
        """Return the scores; roc_auc is NaN unless both kinds of rows were met."""
        return {
            "n": self.n,
            "mean": self._mean.get(),
            "highest": self._highest if self.n else math.nan,
            "roc_auc": self._area(),
            "baselines": {"coin": 0.5},
            "unsaid": self.unsaid,
        }

    def _area(self) -> float:
        """Return the share of pairs (anomaly, other) in which the anomaly scores higher, ties half."""
        truths = np.frombuffer(bytes(self._truths), np.uint8) == 1
        scores = np.array(self._ranked)
        above, below = scores[truths], np.sort(scores[~truths])
        if not len(above) or not len(below):
            return math.nan
        lower = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
        return float(lower.sum() / 2.0 / len(above) / len(below))


class ClusterScores:
    """Of clusters, against targets where there are any."""

    def __init__(self) -> None:
        self.n = self.unsaid = 0
        self._clusters: Counter[float] = Counter()
        self._table: Counter[tuple[float, Hashable]] = Counter()

    def reveal(self, label: float) -> None:
        """Nothing learns from labels here."""

    def baselines(self) -> tuple[float, float]:
        """Return nothing: a cluster alone has none."""
        return math.nan, math.nan

    def add(self, said: float, target: Any) -> None:
        """Score one row."""
        if math.isnan(said):
            self.unsaid += 1
            return
        self.n += 1
        self._clusters[said] += 1
        if target is not None:
            self._table[said, target] += 1

    def report(self) -> dict[str, Any]:
        """Return the scores. The baseline of purity is that of a single cluster; adjusted_rand is 0 for clusters at random."""
        classes, columns = Counter[Hashable](), Counter[float]()
        purest: dict[float, int] = {}
        for (cluster, target), count in self._table.items():
            classes[target] += count
            columns[cluster] += count
            purest[cluster] = max(purest.get(cluster, 0), count)
        n = sum(classes.values())
        together = sum(_pairs(count) for count in self._table.values())
        by_class, by_cluster = (sum(_pairs(count) for count in one.values()) for one in (classes, columns))
        expected = by_class * by_cluster / _pairs(n) if n > 1 else math.nan
        most = (by_class + by_cluster) / 2
        return {
            "n": self.n,
            "clusters": len(self._clusters),
            "purity": sum(purest.values()) / n if n else math.nan,
            "adjusted_rand": (together - expected) / (most - expected) if most != expected else math.nan,
            "baselines": {"purity": max(classes.values()) / n if n else math.nan, "adjusted_rand": 0.0},
            "unsaid": self.unsaid,
        }


def _pairs(count: int) -> float:
    return count * (count - 1) / 2
