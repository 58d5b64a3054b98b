"""What the actors of one model share: its specification as numbers, its compiled passes, and memory that is used for one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.events import Key, Promotion
from engine.models import judge, timeline
from engine.models.arm import Arm, Batch
from engine.models.baselines import baselines_width
from engine.models.contest import contest_hold
from engine.models.horizon import BY_TIME
from engine.models.layout import MADE, OUTCOME_RECEIVED, STEP, Layout
from engine.models.pooled_contest import PooledContest
from engine.models.settings import ModelsConfig
from engine.models.spec import ModelSpec
from engine.models.worker import Requests

NEVER = 1 << 60

ArmMaker = Callable[[Mapping[str, Any], ModelSpec, Layout, int], Arm]
"""(algorithm, spec, layout, seed) -> arm"""


MaturedHearer = Callable[[ModelSpec, Key, Batch, tuple[str, ...]], None]
"""(spec, key, batch, versions by arm): hears of the batch's answers; the arrays are valid until it returns."""


class Shared:
    """One model's numbers and scratch memory. `where`: rows of the features in the table of their clock, `scope`."""

    def __init__(
        self,
        spec: ModelSpec,
        config: ModelsConfig,
        *,
        scope: int,
        where: npt.NDArray[np.int64],
        seed: int,
        make: ArmMaker,
        requests: Requests | None = None,
    ) -> None:
        self.spec = spec
        self.config = config
        self.scope = scope
        self.where = where
        self.seed = seed
        self.make = make
        self.requests = requests
        """Where the arms live in worker processes: what they want of them."""
        target, own = spec.target, spec.config
        self.is_class = bool(target.classes)
        self.arms = max(config.arms_max, len(spec.algorithms))
        width = baselines_width(target.kind, target.outputs) if target.is_supervised else 0
        self.layout = Layout(len(spec.features), target.outputs, width, self.arms)
        self.clock_ints = np.zeros(8, np.int64)
        for at, value in {
            timeline.P_TARGET: target.kind,
            timeline.P_HORIZON: spec.horizon.kind,
            timeline.P_COUNT: spec.horizon.count,
            timeline.P_STALE_NS: round(own.staleness_s * 1e9),
            timeline.P_MISSING: timeline.MISSING[own.missing],
            timeline.P_LEDGER_MAX: config.ledger_rows,
            timeline.P_WARM_UP: own.warm_up,
            timeline.P_IN_SPREADS: own.band_unit == "spreads",
        }.items():
            self.clock_ints[at] = value
        self.clock_floats = np.array([own.band, own.fee_bps])
        by_time = spec.horizon.kind == BY_TIME
        self.judge_ints = np.array(
            [
                target.kind, target.outputs, self.is_class, len(spec.features), width, own.pairs_min, own.pooled, by_time
            ],
            np.int64,
        )  # fmt: skip
        self.judge_floats = np.array([own.fee_bps, own.coverage, own.alpha, own.margin_bps])
        for algorithm in spec.algorithms:
            if "algorithm" in algorithm:
                make(algorithm, spec, self.layout, seed)  # compiled now, so that the first input does not wait for it
        self.walk = timeline.walker()
        self.judge, self.answered = judge.compiled()
        self.losses = np.full(self.arms, np.nan)
        self.nets = np.full(self.arms, np.nan)
        self.pool = PooledContest(self.arms) if own.pooled else None
        """The contest of all keys, where there is one for all."""
        self.is_pinned = False
        """Whether its champion is pinned."""
        if self.pool is not None:
            contest_hold(self.pool.state, own.promote == "manual")
        self.matured: MaturedHearer | None = None
        """An effect that hears of answers; the stage passes it on."""
        for arm in range(1, len(spec.algorithms) if self.pool is not None else 0):
            self.pool.enter(arm)  # type: ignore[union-attr]
        self.crown: Callable[[int, str, tuple[int, int, int]], list[Promotion]] = lambda *_: []
        """Makes an arm the champion of all keys; the stage, which knows them, sets it."""
        self.number: Callable[[Key], int] = lambda _: 0
        """A key's number, which stays the same; set likewise."""
        self.steps = np.empty((0, STEP), np.int64)
        self.said = np.empty((0, target.outputs + 3))
        self.answers = np.empty(0, np.int64)

    def mute(self, is_history: bool) -> None:
        """While recorded ticks are folded as history, predictions are learned from and not scored."""
        self.clock_ints[timeline.P_WARM_UP] = NEVER if is_history else self.spec.config.warm_up

    def pair(self, key: Key, ids: npt.NDArray[np.int64]) -> int:
        """Give the contest of all keys what the arms lost and earned on one row; return the arm that shall be champion, or -1."""
        assert self.pool is not None
        own = self.spec.config
        made, resolved = int(ids[MADE]), int(ids[OUTCOME_RECEIVED])
        return self.pool.answer(
            self.number(key), made, resolved, self.losses, self.nets, own.alpha, own.pairs_min, own.margin_bps
        )

    def make_room(self, steps: int, answers: int) -> None:
        """Have scratch memory for so many steps and answers."""
        if len(self.steps) < steps:
            size = 1 << (steps - 1).bit_length()
            self.steps = np.empty((size, STEP), np.int64)
            self.said = np.empty((size, self.said.shape[1]))
        if len(self.answers) < answers:
            self.answers = np.empty(1 << (answers - 1).bit_length(), np.int64)
