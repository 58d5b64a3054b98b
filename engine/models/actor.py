"""The actor of one model for one key: a ledger, the arms that learn and predict side by side on it, and who of them is champion.

At each row of features, in this order: what has matured is verified and learned from; promotions and drifts that this decides take
place; then every arm predicts, and what the champion says is served. A block is worked through in three compiled passes (timeline,
arms, judge); the bits are those of one row at a time.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.events import Answer, Drift, HandlerFailed, Key, Parked, Promotion, Resumed
from engine.models import judge, timeline
from engine.models.arm import Arm, Batch, Failure
from engine.models.baselines import baselines_size
from engine.models.conformal import conformal_new
from engine.models.contest import (
    champion_of,
    contest_enter,
    contest_hold,
    contest_leave,
    contest_new,
    contest_promote,
    contest_rollback,
    is_fresh,
    previous_of,
    retiring,
    standing,
)
from engine.models.drift import drift_new
from engine.models.layout import (
    LABEL,
    OUTCOME,
    REFERENCE,
    SERVED,
    SLOT,
    SPREAD,
    STATUS,
    STEP_RECEIVED,
    STEP_SEQUENCE,
    STEP_TIMESTAMP,
    UPTO,
    VARIANCE,
    VOID,
)
from engine.models.ledger import Ledger
from engine.models.record import Record, Seat
from engine.models.score import score_size
from engine.models.shared import Shared
from engine.models.target import CUSTOM
from engine.models.worker import WorkerArm

FRESH_PAIRS = 20
"""Pairs of a challenger that a drift started which are not counted: it is still learning."""


@dataclass(frozen=True)
class Decided:
    """An event that a step brought about, besides outcomes and predictions."""

    step: int
    event: Any


class ModelActor:
    """One model, one key. Nothing outside of it is changed by what it does."""

    def __init__(self, shared: Shared, key: Key) -> None:
        self.shared = shared
        self.key = key
        spec, target = shared.spec, shared.spec.target
        self.state = timeline.new_timeline(len(spec.features))
        self.ids = self.state.view(np.int64)
        self.ledger = Ledger(shared.layout.width, self.ids)
        self.baselines = np.zeros(baselines_size(target.kind, target.outputs))
        # One row an arm that there is; a thousand symbols would not have the memory for those that there may be.
        self.scores = np.zeros((0, score_size(target.kind, target.outputs)))
        self.conformal = conformal_new(spec.config.coverage)[None, :][:0]
        self.contest = (
            contest_new(shared.arms, is_bounded=shared.is_class) if shared.pool is None else shared.pool.state
        )
        if shared.pool is None:
            contest_hold(self.contest, spec.config.promote == "manual")
        self.drift = drift_new(len(spec.features))
        self.position = np.full(judge.POSITION, -1, np.int64)
        self.position[judge.CHAMPION] = champion_of(self.contest)
        self.record = Record([None] * shared.arms, is_pinned=shared.is_pinned)
        self.arms: list[Arm | None] = [None] * shared.arms
        for arm, algorithm in enumerate(spec.algorithms):
            self._seat(arm, algorithm, 0)
        self.position[judge.SPLIT] = self._split()
        self.busy_ns = 0
        self.rows = 0
        self.count = 0
        self.answer_count = 0
        self._handed_over = 0  # answers of this block

    # -- one block

    def run(self, lane: Any, columns: tuple[npt.NDArray[Any], ...], count: int) -> list[Decided]:
        """Work through the inputs of a block and the `count` rows of features that came of them; return what was decided.

        columns: as a lane takes them. Afterwards `shared.steps`, `said` and `answers` hold what happened, until the next `run` of an
        actor of this model.
        """
        shared = self.shared
        waiting = self.ledger.make_room(count)
        if count > len(shared.steps) or waiting + count > len(shared.answers):
            shared.make_room(max(count, 1), max(waiting + count, 1))
        outcome, timestamp, received, sequence, price, _, side, ask, _ = columns
        table = lane.table(shared.scope)
        self.answer_count = shared.walk(
            self.state, self.ids, self.ledger.rows, self.ledger.ids, shared.steps, shared.answers, shared.clock_ints,
            shared.clock_floats, outcome, timestamp, received, sequence, price, side, ask if len(ask) else price,
            table, lane.table_ids(shared.scope), shared.where, lane.position(shared.scope) - count, count,
        )  # fmt: skip
        self.count = count
        self._handed_over = 0
        if not count:
            return []
        decided: list[Decided] = []
        if shared.spec.target.kind == CUSTOM and self.answer_count:
            self._label(decided)
        self._learn_and_predict(decided)
        if shared.spec.target.is_supervised:
            self._judge(decided)
        else:
            self._serve_unsupervised()
        self._note_served()
        return decided

    def batch(self) -> Batch:
        """What the newest block meant to the arms."""
        shared = self.shared
        return Batch(
            shared.layout,
            self.ledger.rows,
            self.ledger.ids,
            shared.steps[: self.count],
            shared.answers[: self.answer_count],
        )

    def _learn_and_predict(self, decided: list[Decided]) -> None:
        batch = self.batch()
        for number, arm in enumerate(self.arms):
            if arm is not None:
                self._run_arm(number, arm, batch, 0, decided)

    def _run_arm(self, number: int, arm: Arm, batch: Batch, first: int, decided: list[Decided]) -> None:
        failures = arm.run(batch, self.shared.layout.out_at(number), first)
        seat = self.record.seats[number]
        assert seat is not None
        seat.learned += int(self.answer_count if not first else self.answer_count - self.shared.steps[first - 1, UPTO])
        for failure in failures:
            decided.append(Decided(failure.step, self._failed(seat, failure)))
        parked = getattr(arm, "parked", "")
        if parked and not seat.parked:
            seat.parked = parked
            step = failures[-1].step if failures else 0
            decided.append(Decided(step, Parked(self._name(seat), parked, *self._stamp(step))))

    def _failed(self, seat: Seat, failure: Failure) -> HandlerFailed:
        seat.failed += 1
        stamp = self._stamp(failure.step)
        return HandlerFailed(
            self._name(seat), failure.handler, failure.error, failure.traceback, failure.in_a_row, *stamp
        )

    def hand_over(self, upto: int) -> None:
        """Let who hears of what matured have the answers up to that one, by the versions that there are now."""
        hear = self.shared.matured
        if hear is not None and upto > self._handed_over:
            batch = self.batch()
            batch.answers = batch.answers[self._handed_over : upto]
            hear(self.shared.spec, self.key, batch, self.record.versions())
        self._handed_over = upto

    def _label(self, decided: list[Decided]) -> None:
        """Have a custom target name the labels of this batch's answers. What is no finite number is void; an error is heard of."""
        label = self.shared.spec.target.label
        assert label is not None
        upto = self.shared.steps[: self.count, UPTO]
        for number, slot in enumerate(self.shared.answers[: self.answer_count].tolist()):
            row, ids = self.ledger.rows[slot], self.ledger.ids[slot]
            if ids[STATUS] == VOID:
                continue
            row[LABEL] = np.nan
            try:
                found = float(label(row.item(REFERENCE), row.item(OUTCOME), row.item(SPREAD), row.item(VARIANCE)))
                row[LABEL] = found if np.isfinite(found) else np.nan
            except Exception as error:
                step = int(np.searchsorted(upto, number, side="right"))
                said = traceback.format_exception_only(error)[-1].strip()
                text = "".join(traceback.format_exception(error))
                decided.append(Decided(step, HandlerFailed(self.name, "label", said, text, 1, *self._stamp(step))))
            if np.isnan(row[LABEL]):
                ids[STATUS] = VOID
                self.ids[timeline.VOIDS] += 1

    def _judge(self, decided: list[Decided]) -> None:
        shared, position = self.shared, self.position
        position[judge.AT_STEP] = position[judge.AT_ANSWER] = 0
        while shared.judge(
            self.ledger.rows, self.ledger.ids, shared.steps, shared.answers, self.count, position, self.ids, self.baselines, self.scores,
            self.conformal, self.contest, self.drift, shared.losses, shared.nets, shared.judge_ints, shared.judge_floats,
            shared.said,
        ):  # fmt: skip
            step, winner, drifted, paired = position[
                [judge.AT_STEP, judge.WINNER, judge.DRIFTED, judge.PAIRED]
            ].tolist()
            if paired >= 0:
                winner = shared.pair(self.key, self.ledger.ids[paired])
            if winner >= 0:
                found = self._promote(winner, self._evidence(winner), self._stamp(step))
                decided += [Decided(step, one) for one in found]
            if drifted >= 0:
                self._drifted(drifted, step, decided)
        decided.sort(key=lambda one: one.step)

    def _serve_unsupervised(self) -> None:
        shared = self.shared
        champion = int(self.position[judge.CHAMPION])
        out_at = shared.layout.out_at(champion)
        for step, slot in enumerate(shared.steps[: self.count, SLOT].tolist()):
            shared.said[step] = np.nan
            if slot >= 0 and not np.isnan(self.ledger.rows[slot, out_at]):
                self.ledger.ids[slot, SERVED] = champion
                shared.said[step, 0] = self.ledger.rows[slot, out_at]

    def _note_served(self) -> None:
        shared = self.shared
        if self.count == 1:
            served = shared.said.item(0, 0)
            if served == served:  # noqa: PLR0124 - not NaN
                self.record.predictions += 1
                self.ledger.newest = shared.steps.item(0, SLOT), shared.steps.item(0, STEP_SEQUENCE)
        else:
            steps = np.flatnonzero(~np.isnan(shared.said[: self.count, 0]))
            if len(steps):
                self.record.predictions += len(steps)
                self.ledger.newest = int(shared.steps[steps[-1], SLOT]), int(shared.steps[steps[-1], STEP_SEQUENCE])
        if self.answer_count:
            self.record.outcomes += int(shared.steps[self.count - 1, UPTO])

    # -- versions

    def _seat(self, arm: int, algorithm: Mapping[str, Any], since: int, *, by_drift: bool = False) -> Seat:
        """Begin a version in a free place."""
        shared, record = self.shared, self.record
        version = str(record.next_version)
        record.next_version += 1
        seat = record.seats[arm] = Seat(version, dict(algorithm), since)
        if isinstance(retired := self.arms[arm], WorkerArm):
            retired.close()
        self.arms[arm] = self._make(algorithm, version)
        fresh = conformal_new(shared.spec.config.coverage)
        if arm == len(self.scores):
            self.scores = np.vstack([self.scores, np.zeros((1, self.scores.shape[1]))])
            self.conformal = np.vstack([self.conformal, fresh[None, :]])
        self.scores[arm], self.conformal[arm] = 0.0, fresh
        if arm != self.champion and shared.pool is None:
            contest_enter(self.contest, arm, FRESH_PAIRS if by_drift else 0, by_drift=by_drift)
        return seat

    def _make(self, algorithm: Mapping[str, Any], version: str) -> Arm:
        shared, seed = self.shared, self._seed(version)
        if shared.requests is not None:
            return shared.requests.arm(*self.key, version, algorithm, shared.spec, seed)
        return shared.make(algorithm, shared.spec, shared.layout, seed)

    def _seed(self, version: str) -> int:
        """A seed of this version's own, the same on every machine."""
        text = f"{self.shared.seed} {self.shared.spec.name} {version} {self.key[0]} {self.key[1]}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")

    def _split(self) -> int:
        """The arm that serves here in a split by symbol, -1 if none does."""
        split = self.shared.spec.config.split
        share = int.from_bytes(hashlib.sha256("\0".join(self.key).encode()).digest()[:8], "little") / (1 << 64)
        arm = int(split.version) - 1
        return arm if share < split.share and arm < len(self.shared.spec.algorithms) else -1

    def _evidence(self, arm: int) -> str:
        """Say by what an arm replaces the champion."""
        found = standing(self.contest, arm)
        what = "rolled back, " if arm == previous_of(self.contest) else ""
        return (
            f"{what}E {found.e_value:.4g} >= {found.threshold:.4g} after {found.pairs} pairs, "
            f"loss lower by {found.mean_difference:.3g}"
        )

    def _promote(self, arm: int, reason: str, stamp: tuple[int, int, int]) -> list[Promotion]:
        """Make an arm champion. The one before stays in its shadow, unless this takes back a promotion."""
        if self.shared.pool is not None:
            return self.shared.crown(arm, reason, stamp)
        if arm == previous_of(self.contest):
            contest_rollback(self.contest)
        else:
            contest_promote(self.contest, arm)
        return [self.crown(arm, reason, stamp)]

    def crown(self, arm: int, reason: str, stamp: tuple[int, int, int]) -> Promotion:
        """Serve another champion, as the contest has it."""
        before, after = self.record.version_of(self.champion), self.record.version_of(arm)
        self.position[judge.CHAMPION] = arm
        self.position[judge.SPLIT] = -1
        self.record.promotions += 1
        self.record.mark(stamp, f"promotion {before} -> {after}: {reason}")
        return Promotion(self.shared.spec.name, before, after, *self.key, reason, *stamp)

    def _drifted(self, stream: int, step: int, decided: list[Decided]) -> None:
        spec, record, stamp = self.shared.spec, self.record, self._stamp(step)
        name = ("loss", "prediction", *spec.names)[stream]
        record.drifts += 1
        started = ""
        if spec.config.on_drift == "challenger" and self.shared.pool is None:
            # One regime change is heard in several streams: one answer to it is enough.
            arm = -1 if is_fresh(self.contest, spec.config.pairs_min) else self._place_for_challenger()
            if arm >= 0:
                champion = record.seats[int(self.position[judge.CHAMPION])]
                assert champion is not None
                started = self._seat(arm, champion.algorithm, stamp[2], by_drift=True).version
                fresh = self.arms[arm]
                assert fresh is not None
                self._run_arm(arm, fresh, self.batch(), step + 1, decided)
        statistic = float(self.drift[0])
        self.record.mark(stamp, f"drift of {name}" + (f", version {started} started" if started else ""))
        decided.append(
            Decided(
                step,
                Drift("drift", f"{spec.name}:{name}", *self.key, statistic, *stamp, model=spec.name, started=started),
            )
        )

    def _place_for_challenger(self) -> int:
        """A free place, or that of the challenger that is retired for it; -1 if there is neither."""
        seats = self.record.seats
        if None in seats:
            return seats.index(None)
        # As of this step, wherever the block ends: what is answered behind it still waits.
        at = int(self.position[judge.AT_ANSWER])
        later = self.shared.answers[at : self.answer_count]
        numbers = np.arange(self.ids[timeline.ANSWERED], self.ids[timeline.ASKED])
        waiting = np.concatenate([later, numbers & (len(self.ledger.rows) - 1)])
        # Nor is one retired whose predictions were served and wait for their outcome, which is told by its version.
        serving = set(self.ledger.ids[waiting, SERVED].tolist())
        arm = retiring(self.contest)
        if arm < 0 or arm in {self.split, *serving}:
            return -1
        self.hand_over(at)
        contest_leave(self.contest, arm)
        # What an arm said before it was replaced is not the new one's.
        out_at = self.shared.layout.out_at(arm)
        self.ledger.rows[waiting, out_at : out_at + self.shared.layout.outputs + 1] = np.nan
        return arm

    def _stamp(self, step: int) -> tuple[int, int, int]:
        row = self.shared.steps[step]
        return int(row[STEP_TIMESTAMP]), int(row[STEP_RECEIVED]), int(row[STEP_SEQUENCE])

    def _name(self, seat: Seat) -> str:
        return f"{self.shared.spec.name}@{seat.version} {self.key[0]}:{self.key[1]}"

    # -- commands

    @property
    def name(self) -> str:
        """Of the model and its key."""
        return f"{self.shared.spec.name} {self.key[0]}:{self.key[1]}"

    @property
    def split(self) -> int:
        """The arm that serves here instead of the champion, -1 if none does."""
        return int(self.position[judge.SPLIT])

    @property
    def champion(self) -> int:
        """The champion's place."""
        return int(self.position[judge.CHAMPION])

    def promote(self, version: str, stamp: tuple[int, int, int]) -> list[Promotion]:
        """Make a version champion by command; does nothing if it is already."""
        arm = self.record.arm_of(version)
        return [] if arm in (-1, self.champion) else self._promote(arm, "by command", stamp)

    def roll_back(self, stamp: tuple[int, int, int]) -> list[Promotion]:
        """Make the champion before champion again, by command; does nothing if there is none."""
        previous = previous_of(self.contest)
        return [] if previous < 0 else self._promote(previous, "rolled back by command", stamp)

    def resume(self, version: str, stamp: tuple[int, int, int]) -> list[Resumed]:
        """Hear a parked version again; does nothing if it is not parked."""
        number = self.record.arm_of(version)
        seat = self.record.seats[number] if number >= 0 else None
        arm = self.arms[number]
        if seat is None or not seat.parked:
            return []
        seat.parked = ""
        arm.resume()  # type: ignore[union-attr]
        return [Resumed(self._name(seat), *stamp)]

    def pin(self, is_pinned: bool) -> None:
        """Keep the champion whatever the evidence, or no longer."""
        self.record.is_pinned = is_pinned
        if self.shared.pool is not None:
            self.shared.is_pinned = is_pinned
        contest_hold(self.contest, is_pinned or self.shared.spec.config.promote == "manual")

    # -- answers of workers

    def answer(self, event: Answer) -> bool:
        """Take in what a worker said to a row; return whether that is served now. Late ones are counted; empty ones, by the arm."""
        shared = self.shared
        arm = self.record.arm_of(event.version)
        slot = self.ledger.slot_of(event.asked)
        if arm >= 0 and isinstance(asker := self.arms[arm], WorkerArm):
            asker.answered(event)
        if not event.values:
            return False
        if arm < 0 or slot < 0 or len(event.values) != shared.layout.outputs:
            self.record.late_answers += 1
            return False
        out_at = shared.layout.out_at(arm)
        row, ids = self.ledger.rows[slot], self.ledger.ids[slot]
        row[out_at : out_at + shared.layout.outputs] = event.values
        serves = int(self.position[judge.SPLIT]) if self.position[judge.SPLIT] >= 0 else self.champion
        is_served = arm == serves and ids[SERVED] < 0
        if len(shared.said) < 1:
            shared.make_room(1, 1)
        if shared.spec.target.is_supervised:
            shared.answered(
                row, ids, arm if is_served else -1, out_at, shared.layout.outputs, shared.is_class, self.conformal[arm],
                shared.said[0],
            )  # fmt: skip
        elif is_served:
            ids[SERVED] = arm
            shared.said[0] = np.nan
            shared.said[0, 0] = row[out_at]
        if is_served:
            self.record.predictions += 1
            self.ledger.newest = slot, event.asked
        return is_served

    # -- memory and state

    @property
    def memory(self) -> int:
        """Bytes that the actor takes, its models included."""
        own = sum(
            array.nbytes
            for array in (
                self.state,
                self.ledger.rows,
                self.baselines,
                self.scores,
                self.conformal,
                self.contest,
                self.drift,
            )
        )
        return own + sum(arm.memory for arm in self.arms if arm is not None)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Copy all that a restart must know, as arrays by name. What ends in "pickle" is no part of the state's digest."""
        found = {
            "timeline": self.state.copy(),
            "ledger": self.ledger.held(),
            "baselines": self.baselines.copy(),
            "scores": self.scores.copy(),
            "conformal": self.conformal.copy(),
            "drift": self.drift.copy(),
            "position": self.position[[judge.CHAMPION, judge.SPLIT]].copy(),
            "record": np.frombuffer(msgspec.msgpack.encode(self.record), np.uint8).copy(),
        }
        if self.shared.pool is None:
            found["contest"] = self.contest.copy()
        for number, arm in enumerate(self.arms):
            if arm is not None:
                found |= {f"arm {number} {name}": array for name, array in arm.arrays().items()}
        return found

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become what `arrays` was made of. Raises ModelError if it was made by another definition."""
        try:
            self._restore(arrays)
        except (KeyError, ValueError, msgspec.MsgspecError) as error:
            raise ModelError(
                f"model {self.shared.spec.name} of {' '.join(self.key)}: a snapshot of another definition: {error}"
            ) from error

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, array in (("timeline", self.state), ("baselines", self.baselines), ("drift", self.drift)):
            array[...] = arrays[name]
        if self.shared.pool is None:
            self.contest[...] = arrays["contest"]
        for name in ("scores", "conformal"):
            if arrays[name].shape[1:] != getattr(self, name).shape[1:]:
                raise ValueError(f"{name} of {arrays[name].shape}: expected rows of {getattr(self, name).shape[1]}")
            setattr(self, name, arrays[name].copy())
        self.position[[judge.CHAMPION, judge.SPLIT]] = arrays["position"]
        self.record = msgspec.msgpack.decode(arrays["record"].tobytes(), type=Record)
        self.ledger.put(arrays["ledger"])
        for number, seat in enumerate(self.record.seats):
            self.arms[number] = None
            if seat is None:
                continue
            arm = self._make(seat.algorithm, seat.version)
            prefix = f"arm {number} "
            arm.restore({name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)})
            self.arms[number] = arm
