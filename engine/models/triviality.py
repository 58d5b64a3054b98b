"""What makes a target, or a score, worth nothing: found in the sums and said by name.

    price_level    the label is today's price in all but name: to repeat the price is to be right
    smoothed       labels go on as they were, beyond what overlaps: part of the answer is known when the question is asked
    bounce         labels turn round as if by rule: trades that alternate between bid and ask, which nobody can trade on
    one_class      more than 95 % of the labels are of one class: a model that always says it is right
    baseline_knows a rule without a model is nearly always right: labels are used before they matured, or the target is trivial
    leak           a model is right as nobody can be: it sees the future, or labels are used before they matured
    feature_leak   one feature goes with the label as only the label does

Nothing is said before OUTCOMES_MIN thinned outcomes. The limits are far from what honest work finds (an MCC of 0.05 is much for a
direction in seconds) and near to what leaks give: on a random walk "repeat the last label" reaches an MCC of 0.88 when labels are used
at the next tick with a horizon of 60.

`features_answer` is a step like those of the judge: it follows how each feature goes with the label, on thinned answers. `FeatureWatch`
takes it for whoever hears what matures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.events import Key
from engine.models import score
from engine.models.arm import Batch
from engine.models.baselines import callers
from engine.models.layout import CLOCK, DUE, LABEL, RESOLVED, STATUS
from engine.models.spec import ModelSpec
from engine.models.target import CUSTOM, DIRECTION, LOG_RETURN, VOLATILITY

OUTCOMES_MIN = 100
OUTCOMES_MIN_ONE_CLASS = 20
"""So few tell already that one class is nearly all there is: of 20 outcomes all would be the same once in a thousand times at 70 %."""
MCC_MAX = 0.5
SKILL_MAX = 0.5
ONE_CLASS = 0.95
SMOOTHED, BOUNCE, LEVEL, LEVEL_OFF = 0.4, -0.25, 0.95, 0.2
FEATURE_MAX, FEATURE_MAX_VOLATILITY = 0.9, 0.98  # volatility goes on for hours, and honest features know it
FEATURE_MAX_CLASSES = 0.65  # a normal return correlates 0.80 with its own sign

# State: labels, their mean and squares, then mean, squares and product with the label of each feature.
SEEN, MEAN, SQUARES, FEATURES_AT = 0, 1, 2, 3


@dataclass(frozen=True)
class Triviality:
    """One thing that makes a score worth nothing."""

    name: str
    text: str


def features_size(features: int) -> int:
    """Floats of state."""
    return FEATURES_AT + 3 * features


def features_answer(state: Any, row: Any, x_at: Any, features: Any) -> None:
    """Follow how the features of a thinned row go with its label. A void one (NaN) is passed over."""
    label = row[LABEL]
    if math.isnan(label):
        return
    state[SEEN] += 1.0
    state[MEAN] += (label - state[MEAN]) / state[SEEN]
    # Welford: one deviation from the mean before, which is the one from the mean after times n / (n - 1), one from the mean after.
    off = label - state[MEAN]
    weight = state[SEEN] / (state[SEEN] - 1.0) if state[SEEN] > 1.0 else 0.0
    state[SQUARES] += weight * off * off
    for feature in range(features):
        at = FEATURES_AT + 3 * feature
        before = row[x_at + feature] - state[at]
        state[at] += before / state[SEEN]
        state[at + 1] += before * (row[x_at + feature] - state[at])
        state[at + 2] += before * off


def feature_correlations(state: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the correlation of each feature with the label; NaN of one that never changed."""
    each = state[FEATURES_AT:].reshape(-1, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: npt.NDArray[np.float64] = each[:, 2] / np.sqrt(each[:, 1] * state[SQUARES])
    return found


def feature_leaks(state: npt.NDArray[np.float64], kind: int, names: Sequence[str]) -> tuple[Triviality, ...]:
    """Name the features that know the answer, from a state of `features_answer`."""
    if state[SEEN] < OUTCOMES_MIN:
        return ()
    most = FEATURE_MAX_CLASSES if kind >= DIRECTION else FEATURE_MAX_VOLATILITY if kind == VOLATILITY else FEATURE_MAX
    return tuple(
        Triviality(
            "feature_leak",
            f"{name} correlates {correlation:+.2f} with the label over {int(state[SEEN]):,} outcomes that do not overlap "
            f"(expected below {most} in size): it knows the answer, or is it",
        )
        for name, correlation in zip(names, feature_correlations(state).tolist(), strict=True)
        if abs(correlation) > most
    )


class FeatureWatch:
    """Hears what matures of every model and key (`ModelStage.matured`), and names the features that know the answer.

    An effect: it reads the ledger while it is called, and nothing that it finds reaches a model.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, Key], _Seen] = {}

    def __call__(self, spec: ModelSpec, key: Key, batch: Batch, versions: tuple[str, ...]) -> None:
        """Take in the answers of a batch that do not overlap the one that counted before."""
        if not spec.target.is_supervised:
            return
        seen = self._seen.get((spec.name, key))
        if seen is None:
            seen = self._seen[spec.name, key] = _Seen(spec, np.zeros(features_size(batch.layout.features)))
        columns = [batch.ids[batch.answers, column].tolist() for column in (STATUS, CLOCK, DUE)]
        for slot, status, clock, due in zip(batch.answers.tolist(), *columns, strict=True):
            if status == RESOLVED and clock >= seen.due:
                seen.due = due
                features_answer(seen.state, batch.ledger[slot], batch.layout.x_at, batch.layout.features)

    def leaks(self, model: str, key: Key) -> tuple[Triviality, ...]:
        """Return what was found of a model's features on one key."""
        seen = self._seen.get((model, key))
        return () if seen is None else feature_leaks(seen.state, seen.spec.target.kind, seen.spec.names)


@dataclass
class _Seen:
    spec: ModelSpec
    state: npt.NDArray[np.float64]
    due: int = 0  # where the horizon's clock stands when the outcome that counted last is due


def trivialities(
    state: npt.NDArray[np.float64], kind: int, classes: Sequence[str], scores: Mapping[str, Any], n_eff: int
) -> tuple[Triviality, ...]:
    """Name what makes the scores of a state of `score` worth nothing. `scores` are the report's, each beside its baselines'."""
    if kind >= DIRECTION and OUTCOMES_MIN_ONE_CLASS <= n_eff < OUTCOMES_MIN:
        return tuple(_of_one_class(state, classes))
    if n_eff < OUTCOMES_MIN:
        return ()
    found = [*_of_labels(state, kind)]
    if kind >= DIRECTION:
        found += _of_classes(state, kind, classes, scores, n_eff)
    elif kind != VOLATILITY:
        mse = scores["mse"]
        mean = mse.baselines["mean"]
        name, least = min(mse.baselines.items(), key=lambda one: one[1])
        if least < SKILL_MAX * mean and not found:
            found.append(
                Triviality(
                    "baseline_knows", f"{name} alone explains {1 - least / mean:.0%} of what the target varies by"
                )
            )
        if kind == LOG_RETURN and least > 0.0 and mse.value < SKILL_MAX * least:
            found.append(
                Triviality(
                    "leak",
                    f"the model explains {1 - mse.value / least:.0%} of what {name} leaves, over {n_eff:,} outcomes that do not "
                    "overlap: it sees the future, or learns labels before they mature",
                )
            )
    return tuple(found)


def _of_labels(state: npt.NDArray[np.float64], kind: int) -> list[Triviality]:
    """Look at the labels alone: whether they are prices, and whether each tells the next."""
    together = _correlation(state[score.LABEL_BY_PRICE], state[score.SQUARES_LABEL], state[score.SQUARES_PRICE])
    off = abs(state[score.MEAN_LABEL] / state[score.MEAN_PRICE] - 1.0) if state[score.MEAN_PRICE] else math.inf
    if kind == CUSTOM and together > LEVEL and off < LEVEL_OFF:
        return [
            Triviality(
                "price_level",
                f"the label correlates {together:.3f} with the price at the time of the prediction and is as large: the target is a "
                "price level; predict its change",
            )
        ]
    onward = _correlation(state[score.PRODUCTS], state[score.SQUARES_BEFORE], state[score.SQUARES_AFTER])
    if kind != VOLATILITY and onward > SMOOTHED:
        return [
            Triviality(
                "smoothed",
                f"a label correlates {onward:+.2f} with the one before it, though their horizons do not overlap: the target is "
                "smoothed, or labels are taken before they matured, and part of the answer is known beforehand",
            )
        ]
    if kind != VOLATILITY and onward < BOUNCE:
        return [
            Triviality(
                "bounce",
                f"a label correlates {onward:+.2f} with the one before it: prices of trades bounce between bid and ask; take "
                "quotes, or a longer horizon",
            )
        ]
    return []


def _of_one_class(state: npt.NDArray[np.float64], classes: Sequence[str]) -> list[Triviality]:
    """Look at how the labels are spread over the classes."""
    found: list[Triviality] = []
    blocks = score.blocks_of(state)
    outputs = len(classes)
    at = score.CLASSES_AT + 1 + 2 * callers(outputs)
    labels = blocks.sum(axis=0)[at : at + outputs * outputs].reshape(outputs, outputs).sum(axis=1)
    share, common = labels.max() / labels.sum(), classes[int(labels.argmax())]
    if share > ONE_CLASS:
        found.append(
            Triviality(
                "one_class",
                f"{share:.1%} of the labels are {common}: to say so always is right as often; narrow the band, or look further ahead",
            )
        )
    return found


def _of_classes(
    state: npt.NDArray[np.float64], kind: int, classes: Sequence[str], scores: Mapping[str, Any], n_eff: int
) -> list[Triviality]:
    found = _of_one_class(state, classes)
    mcc, accuracy = scores["mcc"], scores["accuracy"]
    knowing = [name for name, value in mcc.baselines.items() if value > MCC_MAX]
    if knowing:
        name = max(knowing, key=lambda one: mcc.baselines[one])
        early = (
            "labels are used before they matured, or the target is smoothed"
            if name == "last_label"
            else "the target is trivial"
        )
        found.append(
            Triviality(
                "baseline_knows",
                f"{name} alone is right {accuracy.baselines[name]:.1%} of the time (MCC {mcc.baselines[name]:.2f}, {n_eff:,} "
                f"outcomes that do not overlap), with no model: {early}",
            )
        )
    elif mcc.value > MCC_MAX:
        found.append(
            Triviality(
                "leak",
                f"MCC {mcc.value:.2f} where the best baseline has {max(mcc.baselines.values()):.2f}, over {n_eff:,} outcomes that do "
                "not overlap: nobody predicts a market so well; it sees the future, or learns labels before they mature",
            )
        )
    return found


def _correlation(product: float, left: float, right: float) -> float:
    return float(product / math.sqrt(left * right)) if left > 0.0 and right > 0.0 else 0.0
