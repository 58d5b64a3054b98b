"""The models' stage of the fold: all actors of all models, key by key, between the features and the strategies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.digest import Digests
from engine.errors import ConfigError
from engine.events import Answer, Command, Key, Outcome, Prediction, Promotion, Resumed
from engine.models import timeline
from engine.models.actor import Decided, ModelActor
from engine.models.arm import Arm
from engine.models.contest import previous_of
from engine.models.layout import (
    CLASSES,
    HIGH,
    IS_READY,
    LABEL,
    LOW,
    MADE,
    OUTCOME,
    OUTCOME_RECEIVED,
    OUTCOME_SEQUENCE,
    OUTCOME_TIMESTAMP,
    REFERENCE,
    SEQUENCE,
    SERVED,
    SLOT,
    STEP_RECEIVED,
    STEP_SEQUENCE,
    STEP_TIMESTAMP,
    TIMESTAMP,
    UPTO,
)
from engine.models.settings import ModelsConfig
from engine.models.shared import ArmMaker, MaturedHearer, Shared
from engine.models.spec import ModelSpec
from engine.models.standing import Standing, standing_of
from engine.models.worker import Requests


@dataclass(frozen=True)
class Due:
    """An event that is due at an input, and whether it is reported even where nobody hears it."""

    sequence: int
    event: Any
    is_news: bool


class ModelStage:
    """Runs the models of every key. It is given rows of features and inputs, and gives events; nothing else reaches it.

    places: where each view's columns are, as a feature program says. make: builds an arm of its algorithm.
    Raises ConfigError for a model whose features are not computed, or are on more than one clock.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        config: ModelsConfig,
        *,
        places: Mapping[str, Any],
        stamps: int,
        seed: int,
        make: ArmMaker,
    ) -> None:
        self.specs = tuple(specs)
        in_workers = any(spec.config.place == "worker" for spec in self.specs)
        self.requests = Requests(config) if in_workers else None
        """What models in worker processes want of them; None where there are none."""
        self.models = [
            Shared(
                spec, config, seed=seed, make=make, requests=self._requests_for(spec), **where_of(spec, places, stamps)
            )
            for spec in self.specs
        ]
        self.actors: dict[Key, list[ModelActor]] = {}
        self.before_change: Callable[[Key], None] = lambda _: None
        """Hears of a key other than the one that is run, whose models are about to change."""
        self.number_of: Callable[[Key], int] = lambda _: 0
        """A key's number, the same after every restart; the fold sets it."""
        self.is_one_by_one = any(shared.pool is not None for shared in self.models)
        """Whether keys touch one another, so that no block may be longer than one input."""
        for number, shared in enumerate(self.models):
            shared.crown = partial(self._crown, number)
            shared.number = self._number
        self._matured: MaturedHearer | None = None
        self.is_history = False
        self.timer: Callable[[], int] | None = None
        """Of the shell's, ns: what a model takes, for display only."""

    @property
    def matured(self) -> MaturedHearer | None:
        """An effect that hears the answers of each batch, and the versions by arm; the arrays are valid until it returns."""
        return self._matured

    @matured.setter
    def matured(self, hear: MaturedHearer | None) -> None:
        self._matured = hear
        for shared in self.models:
            shared.matured = hear

    def _requests_for(self, spec: ModelSpec) -> Requests | None:
        return self.requests if spec.config.place == "worker" else None

    # -- inputs

    def run(
        self,
        key: Key,
        lane: Any,
        columns: tuple[npt.NDArray[Any], ...],
        fresh: Sequence[int],
        digests: Digests | None,
        *,
        predictions: bool,
        outcomes: bool,
    ) -> Iterator[tuple[int, list[Due]]]:
        """Work through one block of one key; yield (model's number, what is due in order) for each model that has something.

        predictions, outcomes: whether somebody hears them; where nobody does, none are built.
        """
        actors = self.actors.get(key)
        if actors is None:
            actors = self.actors[key] = [ModelActor(shared, key) for shared in self.models]
        timer = self.timer
        for number, actor in enumerate(actors):
            count = fresh[actor.shared.scope]
            began = 0 if timer is None else timer()
            decided = actor.run(lane, columns, count)
            if timer is not None:
                actor.busy_ns += timer() - began
                actor.rows += count
            if not count:
                continue
            if digests is not None:
                self._digest(actor, digests)
            actor.hand_over(actor.answer_count)
            if decided or predictions or outcomes:
                yield number, list(_due(actor, decided, predictions=predictions, outcomes=outcomes))

    def _number(self, key: Key) -> int:
        return self.number_of(key)

    def _crown(self, number: int, arm: int, reason: str, stamp: tuple[int, int, int]) -> list[Promotion]:
        """Make an arm the champion of all keys."""
        pool = self.models[number].pool
        assert pool is not None
        if arm == previous_of(pool.state):
            pool.rollback()
        else:
            pool.promote(arm)
        found = []
        for key, actors in self.actors.items():
            self.before_change(key)
            found.append(actors[number].crown(arm, reason, stamp))
        return found

    def _digest(self, actor: ModelActor, digests: Digests) -> None:
        shared, count = actor.shared, actor.count
        said, steps = shared.said[:count], shared.steps[:count]
        if count > 1:
            served = ~np.isnan(said[:, 0])
            said, steps = said[served], steps[served]
        elif said[0, 0] != said[0, 0]:
            return
        digests.add((shared.spec.name, *actor.key), steps[:, STEP_TIMESTAMP], said.T)

    def mute(self, is_history: bool) -> None:
        """While recorded ticks are folded as history, nothing that is predicted is scored."""
        self.is_history = is_history
        for shared in self.models:
            shared.mute(is_history)

    # -- told inputs

    def check(self, command: Command) -> None:
        """Raise ConfigError for a command that cannot be obeyed: a model, version or key that is not there."""
        for actor, version in self._meant(command):
            if version and actor.record.arm_of(version) < 0:
                running = ", ".join(seat.version for seat in actor.record.seats if seat is not None)
                raise ConfigError(f"{command.verb} {command.target!r}: {actor.name} runs the versions {running}")

    def obey(self, command: Command) -> list[Promotion | Resumed]:
        """Do what a command says; return what came of it."""
        stamp = (command.timestamp, command.received, command.sequence)
        found: list[Promotion | Resumed] = []
        for actor, version in self._meant(command):
            if command.verb == "promote":
                found += actor.promote(version, stamp)
            elif command.verb == "rollback":
                found += actor.roll_back(stamp)
            elif command.verb == "resume":
                found += actor.resume(version, stamp)
            else:
                if command.verb == "pin" and version:
                    if actor.record.arm_of(version) < 0:
                        continue  # it was retired since
                    found += actor.promote(version, stamp)
                actor.pin(command.verb == "pin")
        return found

    def _meant(self, command: Command) -> list[tuple[ModelActor, str]]:
        """The actors that a target means, MODEL[@VERSION] [EXCHANGE:SYMBOL], and the version that it names."""
        model, _, place = command.target.strip().partition(" ")
        name, _, version = model.partition("@")
        names = [spec.name for spec in self.specs]
        if name not in names:
            raise ConfigError(f"{command.verb} {command.target!r}: expected one of {', '.join(names) or 'no models'}")
        if command.verb in ("promote", "resume") and not version:
            raise ConfigError(f"{command.verb} {command.target!r}: expected MODEL@VERSION, such as {name}@2")
        exchange, _, symbol = place.strip().partition(":")
        keys = list(self.actors) if not place.strip() else [(exchange, symbol)]
        if unknown := [key for key in keys if key not in self.actors]:
            known = ", ".join(":".join(key) for key in self.actors) or "none so far"
            raise ConfigError(
                f"{command.verb} {command.target!r}: no model of {':'.join(unknown[0])}; there are {known}"
            )
        if not keys:
            raise ConfigError(f"{command.verb} {command.target!r}: no key has had an input yet")
        if self.models[names.index(name)].pool is not None:
            keys = list(self.actors)  # what is said of one is said of all
        return [(self.actors[key][names.index(name)], version) for key in keys]

    def answer(self, event: Answer, digests: Digests | None) -> Prediction | None:
        """Take in what a worker said; return the prediction if it is served."""
        actor = next(
            (a for a in self.actors.get((event.exchange, event.symbol), ()) if a.shared.spec.name == event.model), None
        )
        if actor is None or not actor.answer(event):
            return None
        slot, _ = actor.ledger.newest
        row, ids = actor.ledger.rows[slot], actor.ledger.ids[slot]
        if digests is not None:
            outputs = actor.shared.layout.outputs
            said = actor.shared.said[0, : outputs + 3]
            digests.add((event.model, *actor.key), ids[[TIMESTAMP]], said[:, None])
        return _prediction(actor, row, ids, int(ids[TIMESTAMP]), event.received, event.asked)

    # -- what readers see

    def latest(self, model: str, exchange: str, symbol: str) -> Prediction | None:
        """Return the newest prediction that was served, None if there is none."""
        for actor in self.actors.get((exchange, symbol), ()):
            if actor.shared.spec.name == model and (found := actor.ledger.newest_row()) is not None:
                row, ids = found
                return _prediction(actor, row, ids, int(ids[TIMESTAMP]), int(ids[MADE]), int(ids[SEQUENCE]))
        return None

    def verified(self, model: str, exchange: str, symbol: str) -> Outcome | None:
        """Return what became of the newest prediction that has matured, None if there is none or it was not served."""
        for actor in self.actors.get((exchange, symbol), ()):
            if actor.shared.spec.name == model and (answered := int(actor.ids[timeline.ANSWERED])):
                slot = (answered - 1) % len(actor.ledger.rows)
                ids = actor.ledger.ids[slot]
                return _outcome(actor, actor.ledger.rows[slot], ids, int(ids[OUTCOME_SEQUENCE]))
        return None

    def arm(self, model: str, exchange: str, symbol: str, version: str) -> Arm | None:
        """Return a version of a key's model, None if it does not run."""
        for actor in self.actors.get((exchange, symbol), ()):
            if actor.shared.spec.name == model and (place := actor.record.arm_of(version)) >= 0:
                return actor.arms[place]
        return None

    def standings(self) -> list[Standing]:
        """Return how each model of each key stands, in the order of the keys and models."""
        return [standing_of(actor) for actors in self.actors.values() for actor in actors]

    # -- state

    def arrays(self, key: Key) -> dict[str, npt.NDArray[Any]]:
        """Copy what a restart must know of one key's models."""
        return {
            f"{actor.shared.spec.name} {name}": array
            for actor in self.actors.get(key, ())
            for name, array in actor.arrays().items()
        }

    def restore(self, key: Key, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become what `arrays` was made of, for one key. Raises ModelError if it was made by another definition."""
        if not arrays:
            return
        actors = self.actors[key] = [ModelActor(shared, key) for shared in self.models]
        for actor in actors:
            prefix = f"{actor.shared.spec.name} "
            actor.restore(
                {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            )

    def common(self) -> dict[str, npt.NDArray[Any]]:
        """Copy what a restart must know of contests that are of all keys."""
        found: dict[str, npt.NDArray[Any]] = {}
        for shared in self.models:
            if shared.pool is not None:
                found |= {f"{shared.spec.name} {name}": array for name, array in shared.pool.arrays().items()}
                found[f"{shared.spec.name} pinned"] = np.array([shared.is_pinned], np.int64)
        return found

    def restore_common(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become what `common` was made of; before the keys are restored. Raises ModelError if it was made of another definition."""
        for shared in self.models:
            if shared.pool is not None:
                prefix = f"{shared.spec.name} "
                shared.pool.restore({n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)})
                shared.is_pinned = bool(arrays[f"{prefix}pinned"][0])

    def memory(self) -> int:
        """Bytes that all models take now."""
        return sum(actor.memory for actors in self.actors.values() for actor in actors)


def where_of(spec: ModelSpec, places: Mapping[str, Any], stamps: int) -> dict[str, Any]:
    """Which clock a model's features are on, and in which rows of its table they lie."""
    key = f"models.define.{spec.name}.features"
    rows: list[int] = []
    clocks: dict[int, str] = {}
    for (view, feature), version in zip(spec.features, spec.versions, strict=True):
        if view not in places:
            raise ConfigError(f"{key}: {view}:{feature}: that view is not computed; there are {', '.join(places)}")
        place = places[view]
        if version not in ("", place.view.version):
            raise ConfigError(f"{key}: {view}@{version}:{feature}: the version of {view} is {place.view.version}")
        if feature not in place.columns:
            raise ConfigError(f"{key}: {view} has no feature {feature!r}; it has {', '.join(place.columns)}")
        clocks.setdefault(place.scope, view)
        rows.append(stamps + place.first_column + place.columns[feature])
    if len(clocks) > 1:
        views = " and ".join(sorted(clocks.values()))
        raise ConfigError(f"{key}: {views} are on different clocks; a model predicts at each row of one clock")
    return {"scope": next(iter(clocks)), "where": np.array(rows, np.int64)}


def _due(actor: ModelActor, decided: list[Decided], *, predictions: bool, outcomes: bool) -> Iterator[Due]:
    """Yield what a block brought about, step by step: outcomes, decisions, the prediction."""
    shared, at, answer = actor.shared, 0, 0
    for step in range(actor.count):
        stamps = shared.steps[step]
        sequence = int(stamps[STEP_SEQUENCE])
        if outcomes:
            while answer < stamps[UPTO]:
                slot = int(shared.answers[answer])
                answer += 1
                found = _outcome(actor, actor.ledger.rows[slot], actor.ledger.ids[slot], sequence)
                if found is not None:
                    yield Due(sequence, found, False)
        while at < len(decided) and decided[at].step == step:
            yield Due(sequence, decided[at].event, True)
            at += 1
        if predictions and shared.said[step, 0] == shared.said[step, 0]:
            slot = int(stamps[SLOT])
            times = int(stamps[STEP_TIMESTAMP]), int(stamps[STEP_RECEIVED]), sequence
            yield Due(sequence, _prediction(actor, actor.ledger.rows[slot], actor.ledger.ids[slot], *times), False)


def _prediction(
    actor: ModelActor,
    row: npt.NDArray[np.float64],
    ids: npt.NDArray[np.int64],
    timestamp: int,
    received: int,
    sequence: int,
) -> Prediction:
    shared = actor.shared
    spec, arm = shared.spec, int(ids[SERVED])
    out_at = shared.layout.out_at(arm)
    said = tuple(row[out_at : out_at + shared.layout.outputs].tolist())
    names = spec.target.classes
    mask = int(row[CLASSES]) if shared.is_class and row[CLASSES] == row[CLASSES] else 0
    return Prediction(
        spec.name, actor.record.version_of(arm), *actor.key, spec.horizon.ns, float("nan") if shared.is_class else said[0],
        said if shared.is_class else (), row.item(REFERENCE), timestamp, received, sequence, spec.horizon.text, names,
        row.item(LOW), row.item(HIGH), tuple(name for at, name in enumerate(names) if mask >> at & 1), spec.config.coverage,
        bool(ids[IS_READY]),
    )  # fmt: skip


def _outcome(
    actor: ModelActor, row: npt.NDArray[np.float64], ids: npt.NDArray[np.int64], sequence: int
) -> Outcome | None:
    """The outcome of a prediction that was served, None of one that was not."""
    shared, arm = actor.shared, int(ids[SERVED])
    if arm < 0:
        return None
    out_at = shared.layout.out_at(arm)
    said = row[out_at : out_at + shared.layout.outputs].tolist()
    label = row.item(LABEL)
    if label != label:  # noqa: PLR0124 - NaN: void
        score = label
    elif shared.is_class:
        score = 0.5 * sum((p - (at == label)) ** 2 for at, p in enumerate(said))
    else:
        score = (said[0] - label) ** 2
    return Outcome(
        shared.spec.name, actor.record.version_of(arm), *actor.key, int(ids[SEQUENCE]), label, score, int(ids[OUTCOME_TIMESTAMP]),
        int(ids[OUTCOME_RECEIVED]), sequence, row.item(REFERENCE), row.item(OUTCOME),
    )  # fmt: skip
