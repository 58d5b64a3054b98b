"""The daemon's side of MLflow: copies what is to be told between two inputs, a bit at a time, and hands it to the tracker's thread.

Metrics of each model are told every `mlflow.metrics_s`; versions are logged and aliases set every `mlflow.every_s`, when a promotion is
heard of, and at the end. Nothing of it reaches the fold but the command that follows a moved alias, an input like any other.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from engine.config import Config
from engine.errors import ConfigError, EngineError, StoreError
from engine.events import Command, Promotion
from engine.fold import Fold
from engine.health import TrackingHealth
from engine.models.spec import ModelSpec
from engine.models.standing import Standing, VersionStanding, standing_of
from engine.tracking.follow import Moved
from engine.tracking.messages import Begin, Report, Scores
from engine.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, Subject, engine_id
from engine.tracking.tracker import PICKLED, Copied, Tracker
from store.folder import DataFolder

HOLD_NS = 1_000_000
"""How long models are copied at a stretch."""
Wanted = tuple[str, str, str]


class Tracking:
    """Everything is called on the loop. Raises ConfigError if MLflow is not installed, StoreError if its folder cannot be made."""

    def __init__(self, config: Config, folder: DataFolder, log: Any) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise ConfigError("mlflow.enabled = true: expected MLflow to be installed: pip install tickfold[mlflow]")
        self._config = config.mlflow
        self._log = log
        home = (folder.path / "mlflow").absolute()
        try:
            home.mkdir(mode=0o700, exist_ok=True)
            engine = engine_id(home)
        except OSError as error:
            raise StoreError(f"{home}: {error.strerror}") from error
        is_local = not self._config.tracking_uri
        begin = Begin(
            uri=f"sqlite:///{home / 'mlflow.db'}" if is_local else self._config.tracking_uri,
            experiment=self._config.experiment,
            artifacts=(home / "artifacts").as_uri() if is_local else "",
            folder=str(home),
            engine=engine,
            allow_pickle=self._config.allow_pickle,
        )
        self._tracker = Tracker(begin, log=log, moved=self._heard_moved)
        self._promoted: set[Wanted] = set()
        self._wake = asyncio.Event()
        self._unlogged: set[Wanted] = set()  # versions that cannot be logged, said once
        self._parameters: dict[str, dict[str, str]] = {}  # by model
        self._is_started = False
        self._fold: Fold
        self._command: Callable[[str, str], Command]
        self._loop: asyncio.AbstractEventLoop

    def start(self, fold: Fold, command: Callable[[str, str], Command]) -> None:
        """Begin to tell of the models of a fold. `command` is how a moved alias is followed."""
        self._fold, self._command = fold, command
        self._loop = asyncio.get_running_loop()
        self._tracker.start()
        self._is_started = True

    def health(self) -> TrackingHealth:
        """How it is going."""
        return self._tracker.health()

    def hear(self, event: Any) -> None:
        """Hear what the fold reports."""
        if isinstance(event, Promotion):
            self._promoted.add((event.exchange, event.symbol, event.model))
            self._wake.set()

    async def run(self) -> None:
        """Tell what is due, until cancelled."""
        metrics_at = time.monotonic() + min(self._config.metrics_s, self._config.every_s)
        states_at = time.monotonic()
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, min(metrics_at, states_at) - time.monotonic()))
            self._wake.clear()
            now = time.monotonic()
            if now >= states_at:
                states_at = now + self._config.every_s
                metrics_at = now + self._config.metrics_s
                await self._tell_all(with_states=True)
            elif now >= metrics_at:
                metrics_at = now + self._config.metrics_s
                await self._tell_all(with_states=False)
                if self._config.follow_aliases:
                    self._tracker.follow()
            if self._promoted:
                promoted, self._promoted = self._promoted, set()
                await self._tell_all(with_states=True, only=promoted)

    async def close(self, timeout_s: float) -> None:
        """Tell of all models a last time, for so long at most; what is left is told at the next start."""
        if not self._is_started:
            return
        for actor in self._actors(None):
            self._try_to_tell(actor, with_states=True)
        await asyncio.to_thread(self._tracker.stop, timeout_s)

    async def _tell_all(self, *, with_states: bool, only: set[Wanted] | None = None) -> None:
        """Tell of models one by one, giving way to inputs."""
        began = time.perf_counter_ns()
        for actor in list(self._actors(only)):
            self._try_to_tell(actor, with_states=with_states)
            if time.perf_counter_ns() - began >= HOLD_NS:
                await asyncio.sleep(0)
                began = time.perf_counter_ns()

    def _actors(self, only: set[Wanted] | None) -> Iterator[Any]:
        stage = self._fold.models
        if stage is not None:
            for key, actors in stage.actors.items():
                for actor in actors:
                    if only is None or (*key, actor.shared.spec.name) in only:
                        yield actor

    def _try_to_tell(self, actor: Any, *, with_states: bool) -> None:
        """Tell of one model; what goes wrong ends nothing else, and is said."""
        try:
            self._tell(actor, with_states=with_states)
        except Exception as error:
            self._log.error("MLflow cannot be told of a model", model=actor.name, exc_info=error)

    def _tell(self, actor: Any, *, with_states: bool) -> None:
        standing, spec, sequence = standing_of(actor), actor.shared.spec, self._fold.sequence()
        if spec.name not in self._parameters:
            self._parameters[spec.name] = parameters_of(spec)
        parameters = self._parameters[spec.name]
        roles = roles_of(standing) if with_states else {}
        copies = [
            copied
            for version in standing.versions
            if version.learned
            and version.version in roles.values()
            and (copied := self._copy(standing, version, sequence)) is not None
        ]
        self._tracker.offer(
            report_of(standing, spec, parameters, sequence, self._fold.now(), roles, self._config.follow_aliases),
            copies,
        )

    def _copy(self, standing: Standing, version: VersionStanding, sequence: int) -> Copied | None:
        """Copy what a version has learned; None of one that lives elsewhere, or is a pickle where that is not allowed."""
        stage = self._fold.models
        wanted = (standing.model, standing.exchange, standing.symbol)
        arm = None if stage is None else stage.arm(*wanted, version.version)
        if arm is None:
            return None
        is_compiled = "algorithm" in version.algorithm
        if is_compiled or self._config.allow_pickle:
            arrays = arm.arrays()
            if is_compiled or PICKLED in arrays:
                return Copied(version.version, sequence, version.learned, version.algorithm, arrays)
            why = "its model lives in a worker process"
        else:
            why = "a River model is a pickle: mlflow.allow_pickle = true would have it logged"
        name = f"{standing.model}@{version.version}"
        if (name, *wanted[1:]) not in self._unlogged:
            self._unlogged.add((name, *wanted[1:]))
            self._log.info(
                "a version is not logged in MLflow", model=name, symbol=f"{wanted[1]}:{wanted[2]}", reason=why
            )
        return None

    def _heard_moved(self, moved: Moved) -> None:
        """Hear of a moved alias, in the tracker's thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._follow, moved)

    def _follow(self, moved: Moved) -> None:
        """Promote what an alias was moved to."""
        try:
            self._command("promote", moved.target)
        except EngineError as error:
            self._log.warning(
                "an alias that was moved is not followed", name=moved.name, number=moved.number, reason=str(error)
            )
        else:
            self._log.info("followed an alias", name=moved.name, number=moved.number, promoted=moved.target)


def roles_of(standing: Standing) -> dict[str, str | None]:
    """Return the version that each alias shall name, None for none: of challengers the one with the most evidence."""
    challengers = [one for one in standing.versions if one.role == "challenger" and not one.parked]
    previous = [one.version for one in standing.versions if one.role == "previous"]
    best = max(challengers, key=lambda one: one.e_value, default=None)
    return {
        CHAMPION: standing.champion,
        CHALLENGER: None if best is None else best.version,
        PREVIOUS: previous[0] if previous else None,
    }


def report_of(
    standing: Standing,
    spec: ModelSpec,
    parameters: dict[str, str],
    sequence: int,
    received: int,
    aliases: dict[str, str | None],
    is_following: bool,
) -> Report:
    """Return all there is to say of one model, but for what its versions have learned."""
    counts = {
        name: float(getattr(standing, name))
        for name in (
            "predictions",
            "outcomes",
            "void",
            "imputed",
            "waiting",
            "drifts",
            "promotions",
            "memory",
            "is_ready",
        )
    }
    counts["champion"] = float(standing.champion)
    counts |= {f"skipped/{why}": float(count) for why, count in standing.skipped.items()}
    if standing.rows:
        counts["us_a_row"] = standing.busy_ns / standing.rows / 1e3
    return Report(
        subject=Subject(standing.exchange, standing.symbol, standing.model, standing.horizon),
        sequence=sequence,
        received=received,
        parameters=parameters,
        features=spec.names,
        classes=spec.target.classes,
        kind=spec.target.kind,
        target=spec.target.name,
        coverage=standing.coverage,
        counts=counts,
        scores=tuple(
            Scores(
                one.version,
                one.score.tobytes(),
                one.learned,
                one.memory,
                one.e_value,
                one.threshold,
                one.pairs,
            )
            for one in standing.versions
        ),
        aliases=aliases,
        is_following=is_following,
    )


def parameters_of(spec: ModelSpec) -> dict[str, str]:
    """Return a model's configuration as a run's parameters, with the versions of what computes it."""
    from importlib.metadata import version

    from engine.tracking.state import schema_hash

    given = msgspec.to_builtins(spec.config)
    return {
        **{
            name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
            for name, value in given.items()
        },
        "schema_hash": schema_hash(spec.names, spec.target.classes, spec.target.name, spec.horizon.text),
        "tickfold": version("tickfold"),
        "river": version("river"),
    }
