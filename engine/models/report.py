"""Honest scores, read from the sums of `score`: every statistic with its interval, and none without its baselines on the same rows.

The headline is the skill: 1 - loss / loss of the best baseline, the loss being the Brier score of classes (halved: in [0, 1]) and the
squared error of values. Above 0 is better than every baseline; an interval that reaches below 0 has not shown it. `n` counts
predictions, `n_eff` those whose outcomes do not overlap one another: that is how much has really been seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.models import score
from engine.models.baselines import VALUES, baselines_names, callers
from engine.models.bootstrap import Floats, intervals, wilson
from engine.models.target import CLASSES, DIRECTION, LOG_RETURN
from engine.models.triviality import trivialities

BINS = 10
BOUNDS = {"skill": (-np.inf, 1.0), "mcc": (-1.0, 1.0), "correlation": (-1.0, 1.0), "net_bps": (-np.inf, np.inf)}
SHARES = ("accuracy", "balanced_accuracy", "brier", "abstention", "coverage", "traded", "confusion")
CHANCE = {"mcc": 0.0, "net_bps": 0.0}
"""What a call by chance scores, where that is not one in so many classes."""
LOSS_FLOOR = 1e-3
"""Of the best baseline's Brier score: below it some rule is right always, and a ratio to it says nothing."""
PER_BASELINE = ("brier", "log_loss", "accuracy", "mcc", "balanced_accuracy", "net_bps", "mse", "mae")


@dataclass(frozen=True)
class Beside:
    """A score with what it has to be held against. It cannot be made without."""

    name: str
    value: float
    low: float  # its interval; NaN with too few outcomes
    high: float
    baselines: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.baselines:
            raise ValueError(f"{self.name} = {self.value}: expected the baselines' scores on the same rows beside it")

    def __str__(self) -> str:
        name, best = (min if self.name in LOSSES else max)(
            self.baselines.items(), key=lambda one: _ordered(one[1], self.name)
        )
        span = f" ({self.low:.4g} to {self.high:.4g})" if np.isfinite(self.low) else ""
        return f"{self.name} {self.value:.4g}{span} beside {best:.4g} of {name}"


LOSSES = ("brier", "log_loss", "mse", "mae")


def _ordered(value: float, name: str) -> float:
    if np.isnan(value):
        return np.inf if name in LOSSES else -np.inf
    return value


@dataclass(frozen=True)
class Report:
    """What is known about one arm, or about several that were pooled. NaN where a thing cannot be said."""

    kind: int
    classes: tuple[str, ...]
    level: float  # of the intervals
    n: int
    n_eff: int
    skill: float
    best: str  # the baseline that skill is measured against
    scores: Mapping[str, Beside]  # accuracy, mcc, brier, ...: what baselines have too
    values: Mapping[str, float]  # abstention, coverage, ...: what they have not
    intervals: Mapping[str, tuple[float, float]]
    confusion: tuple[tuple[int, ...], ...]  # by label, then by call
    confusion_intervals: tuple[tuple[tuple[float, float], ...], ...]  # of the share of all predictions
    reliability: Mapping[str, tuple[Mapping[str, float], ...]]  # by class
    recent: Mapping[str, float]
    curve: tuple[tuple[float, float, float], ...]  # by block: outcomes so far, loss, loss of the best baseline
    trivial: tuple[tuple[str, str], ...]  # (name, text)

    def __str__(self) -> str:
        span = self.intervals.get("skill", (np.nan, np.nan))
        shown = f" ({span[0]:.4g} to {span[1]:.4g})" if np.isfinite(span[0]) else ""
        lines = [
            f"n {self.n:,}, of which {self.n_eff:,} do not overlap",
            f"skill {self.skill:.4g}{shown} against {self.best}",
        ]
        lines += [str(one) for one in self.scores.values()]
        lines += [f"{name}: {text}" for name, text in self.trivial]
        return "\n".join(lines)


def read(
    state: npt.NDArray[np.float64], *, kind: int, classes: Sequence[str] = (), level: float = 0.95, draws: int = 1_000
) -> Report:
    """Read a state of `score`. `classes` are names in the order of the outputs; `draws` = 0 leaves the intervals out."""
    names = tuple(classes) or CLASSES.get(kind, ())
    state = score.closed(state)
    blocks = score.blocks_of(state)
    baselines = baselines_names(kind)
    outputs = len(names) or 1
    if not len(blocks):
        blocks = np.zeros((0, score.sums_width(kind, outputs)))
    total = blocks.sum(axis=0, keepdims=True)
    losses = _losses(total, kind, outputs)[0]
    best = int(np.nanargmin(losses)) if total[0, score.N] else 0

    def statistics(sums: Floats) -> dict[str, Floats]:
        return _statistics(sums, kind, outputs, best)

    with np.errstate(divide="ignore", invalid="ignore"):
        point = {name: value[0] for name, value in statistics(total).items()}
        spans: dict[str, Floats] = {}
        if draws:
            spans = intervals(blocks, 2.0 ** state[score.DOUBLINGS], statistics, level=level, draws=draws)
            spans = {name: np.clip(span, *_bounds(name)) for name, span in spans.items()}
        beside = _baseline_scores(total, kind, outputs)
        recent = score.recent_of(state)
        recents = _statistics(recent[None], kind, outputs, best) if len(recent) else {}
        curve = np.stack(
            [
                np.cumsum(blocks[:, score.THIN]),
                blocks[:, score.LOSS] / blocks[:, score.N],
                _losses(blocks, kind, outputs)[:, best],
            ],
            axis=1,
        )
    if kind >= DIRECTION and (not losses[best] >= LOSS_FLOOR or _has_one_class(total, outputs)):
        point["skill"], spans["skill"] = np.array(np.nan), np.full(2, np.nan)
        recents = {**recents, "skill": np.full(1, np.nan)} if recents else recents
    # Those that are counted may all lie between two thinned ones, the first of which came before the model was ready.
    n_eff = max(int(total[0, score.THIN]), min(int(total[0, score.N]), 1))

    def span_of(name: str) -> tuple[float, float]:
        low, high = spans.get(name, (np.nan, np.nan))
        return float(low), float(high)

    scores = {
        name: Beside(name, float(point[name]), *span_of(name), dict(zip(baselines, beside[name].tolist(), strict=True)))
        for name in PER_BASELINE
        if name in point and name in beside
    }
    others = {
        name: float(value) for name, value in point.items() if name not in scores and name not in ("skill", "confusion")
    }
    reliability = _reliability(state, names, int(total[0, score.N]), n_eff, level)
    if reliability:
        off = [abs(one["predicted"] - one["observed"]) for bins in reliability.values() for one in bins]
        others["calibration_error"] = float(np.mean(off))
    cells = total[0, _cells(outputs, 0)].reshape(outputs, outputs) if kind >= DIRECTION else np.zeros((0, 0))
    share_spans = spans.get("confusion", np.full((2, outputs, outputs), np.nan))
    return Report(
        kind=kind,
        classes=names,
        level=level,
        n=int(total[0, score.N]),
        n_eff=n_eff,
        skill=float(point["skill"]),
        best=baselines[best],
        scores=scores,
        values=others,
        intervals={name: span_of(name) for name in point if name != "confusion"},
        confusion=tuple(tuple(int(cell) for cell in row) for row in cells),
        confusion_intervals=tuple(
            tuple((float(share_spans[0, y, x]), float(share_spans[1, y, x])) for x in range(outputs))
            for y in range(len(cells))
        ),
        reliability=reliability,
        recent={
            "n_eff": float(recent[score.THIN]) if len(recent) else 0.0,
            **{name: float(value[0]) for name, value in recents.items() if name != "confusion"},
            **({"baseline": float(_losses(recent[None], kind, outputs)[0, best])} if len(recent) else {}),
        },
        curve=tuple((float(at), float(loss), float(base)) for at, loss, base in curve),
        trivial=tuple((one.name, one.text) for one in trivialities(state, kind, names, scores, n_eff)),
    )


def report(
    state: npt.NDArray[np.float64],
    *,
    kind: int,
    classes: Sequence[str] = (),
    coverage: float | None = None,
    level: float = 0.95,
    draws: int = 1_000,
) -> dict[str, Any]:
    """Return `read` as JSON: None where a thing cannot be said, or does not exist for the kind of target.

    `skill` and `interval` are the headline; `baselines` are {name: loss} (Brier, or squared error), `beside` {name: {score: value}};
    `intervals` {score: [low, high]}; `coverage` what the conformal sets achieved, `coverage_target` what they were to.
    """
    made = read(state, kind=kind, classes=classes, level=level, draws=draws)
    headline = "brier" if kind >= DIRECTION else "mse"
    names = baselines_names(kind)
    flat = {
        **dict.fromkeys(
            ("accuracy", "mcc", "brier", "log_loss", "balanced_accuracy", "abstention", "net_bps", "coverage")
        ),
        **{name: one.value for name, one in made.scores.items()},
        **made.values,
    }
    found = {
        "n": made.n,
        "n_eff": made.n_eff,
        "level": level,
        **flat,
        "skill": made.skill,
        "interval": made.intervals["skill"],
        "best_baseline": made.best,
        "headline": headline,
        "baselines": made.scores[headline].baselines,
        "beside": {name: {key: one.baselines[name] for key, one in made.scores.items()} for name in names},
        "intervals": made.intervals,
        "coverage_target": coverage,
        "classes": made.classes,
        "confusion": made.confusion,
        "confusion_intervals": made.confusion_intervals,
        "reliability": made.reliability,
        "recent": made.recent,
        "curve": made.curve,
        "trivial": [{"name": name, "text": text} for name, text in made.trivial],
    }
    plain: dict[str, Any] = _plain(found)
    return plain


def _plain(value: Any) -> Any:
    """Return JSON's own types; None for what is not finite."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    return value


def _bounds(name: str) -> tuple[float, float]:
    if name in BOUNDS:
        return BOUNDS[name]
    return (0.0, 1.0) if name in SHARES else (0.0, np.inf)


def _cells(outputs: int, place: int) -> slice:
    """Return where the confusion of the arm (0) or of a caller (1, ...) lies in a block."""
    calls = callers(outputs)
    at = score.CLASSES_AT + 1 + 2 * calls + place * outputs * outputs
    return slice(at, at + outputs * outputs)


def _has_one_class(total: Floats, outputs: int) -> bool:
    """Whether all that came true was of one class: then whoever says so always is right."""
    labels = total[0, _cells(outputs, 0)].reshape(outputs, outputs).sum(axis=1)
    return int(np.count_nonzero(labels)) < 2


def _losses(sums: Floats, kind: int, outputs: int) -> Floats:
    """Return the headline loss of each baseline: rows x baselines, in the order of their names."""
    at = score.CLASSES_AT if kind >= DIRECTION else score.VALUES_AT
    count = 1 + callers(outputs) if kind >= DIRECTION else len(VALUES)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = sums[:, at : at + count] / sums[:, score.N, None]
    if kind < DIRECTION:
        return found
    # Brier of the same for each class, halved: ((1 - 1/k)^2 + (k - 1) / k^2) / 2.
    uniform = np.full((len(found), 1), 0.5 * (outputs - 1.0) / outputs)
    return np.concatenate([found, np.where(sums[:, score.N, None] > 0.0, uniform, np.nan)], axis=1)


def _statistics(sums: Floats, kind: int, outputs: int, best: int) -> dict[str, Floats]:
    """Return each statistic for each row of sums."""
    n = sums[:, score.N]
    found = {
        "skill": 1.0 - sums[:, score.LOSS] / n / _losses(sums, kind, outputs)[:, best],
        "coverage": sums[:, score.COVERED] / sums[:, score.SETS],
        "width": sums[:, score.WIDTH] / sums[:, score.SETS],
    }
    if kind >= DIRECTION or kind == LOG_RETURN:
        found |= {"net_bps": sums[:, score.NET] / n, "traded": sums[:, score.TRADED] / n}
    if kind < DIRECTION:
        y, said = sums[:, score.LABELS] / n, sums[:, score.SAID] / n
        together = sums[:, score.SAID_BY_LABEL] / n - y * said
        spread = (sums[:, score.LABELS_SQUARED] / n - y * y) * (sums[:, score.SAID_SQUARED] / n - said * said)
        mse = sums[:, score.LOSS] / n
        correlation = np.where(spread > 0.0, together / np.sqrt(np.maximum(spread, 0.0)), np.nan)
        return found | {
            "mse": mse,
            "rmse": np.sqrt(mse),
            "mae": sums[:, score.ABSOLUTE] / n,
            "correlation": np.clip(correlation, -1.0, 1.0),
        }
    cells = sums[:, _cells(outputs, 0)].reshape(-1, outputs, outputs)
    return found | {
        "brier": sums[:, score.LOSS] / n,
        "log_loss": sums[:, score.LOG_LOSS] / n,
        **_of_confusion(cells),
        "confusion": cells / n[:, None, None],
        "abstention": 1.0 - sums[:, score.SINGLE] / sums[:, score.SETS],
    }


def _of_confusion(cells: Floats) -> dict[str, Floats]:
    """Return accuracy, MCC (R_K: Gorodkin 2004; 0 where one class was called, or seen) and balanced accuracy of rows of confusions."""
    labels, calls = cells.sum(axis=2), cells.sum(axis=1)
    n = labels.sum(axis=1)
    right = np.trace(cells, axis1=1, axis2=2)
    spread = (n * n - (calls * calls).sum(axis=1)) * (n * n - (labels * labels).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = np.diagonal(cells, axis1=1, axis2=2) / labels
        seen = labels > 0.0
        return {
            "accuracy": right / n,
            "mcc": np.where(
                spread > 0.0,
                (right * n - (labels * calls).sum(axis=1)) / np.sqrt(spread),
                np.where(n > 0.0, 0.0, np.nan),
            ),
            "balanced_accuracy": np.where(seen, recall, 0.0).sum(axis=1) / seen.sum(axis=1),
        }


def _baseline_scores(total: Floats, kind: int, outputs: int) -> dict[str, Floats]:
    """Return each score that baselines have too, by baseline."""
    n = total[0, score.N]
    losses = _losses(total, kind, outputs)[0]
    if kind < DIRECTION:
        at, count = score.VALUES_AT, len(VALUES)
        found = {"mse": losses, "mae": total[0, at + count : at + 2 * count] / n}
        return found | ({"net_bps": total[0, at + 2 * count : at + 3 * count] / n} if kind == LOG_RETURN else {})
    calls = callers(outputs)
    cells = np.stack([total[0, _cells(outputs, 1 + caller)] for caller in range(calls)]).reshape(
        calls, outputs, outputs
    )
    nets_at = score.CLASSES_AT + 1 + calls
    log_loss = np.full(calls + 1, np.nan)
    log_loss[0] = total[0, score.BASE_LOG_LOSS] / n
    nets = total[0, nets_at : nets_at + calls] / n
    of_calls = _of_confusion(cells)
    # What the base rate calls is the majority.
    first = {
        name: np.concatenate([one[:1], one, [CHANCE.get(name, 1.0 / outputs)]])
        for name, one in {**of_calls, "net_bps": nets}.items()
    }
    return {"brier": losses, "log_loss": np.append(log_loss, np.log(outputs)), **first}


def _reliability(
    state: Floats, names: Sequence[str], n: int, n_eff: int, level: float
) -> dict[str, tuple[Mapping[str, float], ...]]:
    """Return, by class, ten bins of equal mass: what was said, and how often it came true, with its interval by n_eff.

    A fine bin that lies across an edge is shared out.
    """
    found: dict[str, tuple[Mapping[str, float], ...]] = {}
    shown = names if len(names) > 2 else names[1:]
    for name, fine in zip(shown, score.histogram_of(state) if n else (), strict=False):
        sums = np.concatenate([np.zeros((1, score.BIN)), np.cumsum(fine, axis=0)])
        # Empty fine bins are steps of no width, at which nothing can be interpolated.
        sums = sums[np.concatenate([[True], np.diff(sums[:, 0]) > 0.0])]
        at_edges = np.linspace(0.0, sums[-1, 0], BINS + 1)
        said, came = (np.diff(np.interp(at_edges, sums[:, 0], sums[:, column])) for column in (1, 2))
        mass = sums[-1, 0] / BINS
        bins = []
        for p, y in zip(said / mass, np.clip(came / mass, 0.0, 1.0), strict=True):
            low, high = wilson(float(y), n_eff / BINS, level)
            bins.append({"predicted": float(p), "observed": float(y), "n": float(mass), "low": low, "high": high})
        found[name] = tuple(bins)
    return found
