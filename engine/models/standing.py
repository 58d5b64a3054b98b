"""How a model of a key stands, as plain values: what effects and readers see of an actor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.models import contest, timeline
from engine.models.actor import ModelActor
from engine.models.record import Mark


@dataclass(frozen=True)
class VersionStanding:
    """One version: champion, challenger, or the champion before."""

    version: str
    role: str  # champion, challenger, previous
    algorithm: dict[str, Any]
    since: int  # sequence of the input at which it began
    learned: int  # outcomes that the model has learned from
    memory: int  # bytes
    parked: str  # why it is heard no more, empty while it is
    failed: int
    score: npt.NDArray[np.float64]  # a copy, for `engine.models.report.report`
    e_value: float  # evidence against the champion; NaN of the champion itself
    threshold: float  # that promotes it
    pairs: int  # independent outcomes on which the two were compared
    net_difference: float  # bps that it earned more than the champion on them, on average, and the lower bound of that; NaN without pairs
    net_bound: float


@dataclass(frozen=True)
class Standing:
    """One model of one key."""

    exchange: str
    symbol: str
    model: str
    horizon: str
    target: str
    kind: int
    classes: tuple[str, ...]
    coverage: float
    champion: str
    served: str
    is_ready: bool
    is_pinned: bool
    predictions: int
    outcomes: int
    void: int
    skipped: dict[str, int]  # rows of features that were not predicted on, by why
    imputed: int
    waiting: int  # predictions whose outcome is not known yet
    late_answers: int
    drifts: int
    promotions: int
    marks: tuple[Mark, ...]  # newest drifts and promotions: sequence, received, text
    busy_ns: int  # spent learning and predicting since the start, 0 where nobody measures
    rows: int  # in which it was spent
    memory: int
    versions: tuple[VersionStanding, ...]


def standing_of(actor: ModelActor) -> Standing:
    """Copy how an actor stands."""
    spec, own, ids = actor.shared.spec, actor.record, actor.ids
    learned = int(ids[timeline.LEARNED])
    served = actor.split if actor.split >= 0 else actor.champion
    return Standing(
        exchange=actor.key[0],
        symbol=actor.key[1],
        model=spec.name,
        horizon=spec.horizon.text,
        target=spec.target.name,
        kind=spec.target.kind,
        classes=spec.target.classes,
        coverage=spec.config.coverage,
        champion=own.version_of(actor.champion),
        served=own.version_of(served),
        is_ready=learned >= spec.config.warm_up,
        is_pinned=own.is_pinned,
        predictions=own.predictions,
        outcomes=own.outcomes,
        void=int(ids[timeline.VOIDS]),
        skipped={name: int(ids[at]) for name, at in timeline.COUNTERS.items()},
        imputed=int(ids[timeline.IMPUTED]),
        waiting=int(ids[timeline.ASKED] - ids[timeline.ANSWERED]) if spec.target.is_supervised else 0,
        late_answers=own.late_answers,
        drifts=own.drifts,
        promotions=own.promotions,
        marks=tuple(own.marks),
        busy_ns=actor.busy_ns,
        rows=actor.rows,
        memory=actor.memory,
        versions=tuple(_version(actor, arm) for arm, seat in enumerate(own.seats) if seat is not None),
    )


def _version(actor: ModelActor, arm: int) -> VersionStanding:
    seat, model = actor.record.seats[arm], actor.arms[arm]
    assert seat is not None
    assert model is not None
    found = contest.standing(actor.contest, arm)
    is_champion = found.role == "champion"
    return VersionStanding(
        version=seat.version,
        role=found.role,
        algorithm=dict(seat.algorithm),
        since=seat.since,
        learned=seat.learned,
        memory=model.memory,
        parked=seat.parked,
        failed=seat.failed,
        score=actor.scores[arm].copy(),
        e_value=math.nan if is_champion else found.e_value,
        threshold=found.threshold,
        pairs=found.pairs,
        net_difference=found.net_difference,
        net_bound=found.net_bound,
    )
