"""The process that talks to MLflow, for an engine that must not notice it: `python -m engine.tracking.worker`, told by frames on stdin.

It does one request after the other, and ends with its engine: when stdin closes, whatever it is at. What a request asks for twice is
done once: runs are found by what they are of, versions by the hash of their state, and a metric that was written is the same again.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import numpy as np

from engine.errors import EngineError, ModelError
from engine.models.target import NONE
from engine.tracking.flavour import import_mlflow, log_model
from engine.tracking.follow import Moved, moved_alias, moved_aliases
from engine.tracking.messages import Begin, Done, Report, Request, Scores, State, read_frame, write_frame
from engine.tracking.registry import (
    LoggedVersion,
    Record,
    RegisteredModel,
    claim,
    read_record,
    record_path,
    registered_name,
    set_aliases,
    subject_tags,
    write_record,
)
from engine.tracking.state import KeptModel, of_npz

LASTING = frozenset(
    {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "PERMISSION_DENIED", "FEATURE_DISABLED", "MALFORMED_REQUEST"}
)
"""MLflow's error codes that another try would get again."""
PARAMETER_MAX = 6_000
DRAWS = 200
"""Of the bootstrap behind the intervals: they are drawn again at each report."""
METRICS_MAX = 1_000
"""Metrics that MLflow takes at once."""


class MlflowSide:
    """One connection to one tracking server."""

    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        self.mlflow = import_mlflow()
        self.client = self.mlflow.MlflowClient(tracking_uri=begin.uri, registry_uri=begin.uri)
        self.mlflow.set_tracking_uri(begin.uri)
        self.mlflow.set_registry_uri(begin.uri)
        found = self.client.get_experiment_by_name(begin.experiment)
        if found is not None and found.lifecycle_stage != "active":
            self.client.restore_experiment(found.experiment_id)
        self.experiment = (
            found.experiment_id
            if found is not None
            else self.client.create_experiment(begin.experiment, artifact_location=begin.artifacts or None)
        )
        self.mlflow.set_experiment(experiment_id=self.experiment)
        self.path = record_path(Path(begin.folder), begin.uri)
        self.record: Record = read_record(self.path, begin.engine)
        self._runs: dict[str, str] = {}

    def report(self, told: Report) -> Done:
        """Do what a report asks for: metrics, then versions, then aliases."""
        try:
            try:
                return self._report(told)
            except self.mlflow.MlflowException:
                if not self._runs:
                    raise
                self._runs.clear()  # the run may have been deleted over there
                return self._report(told)
        finally:
            write_record(self.path, self.record)

    def _report(self, told: Report) -> Done:
        run = self._run(told)
        self._log_metrics(run, told)
        if not told.states and not told.aliases:
            return Done()
        known = claim(self.client, self.record, told.subject)
        moved: Moved | None = None
        if told.is_following:  # before the engine's own view of the aliases goes over someone's move
            moved = moved_alias(self.client, self.record.engine, known)
        logged = sum(self._log_state(run, known, told, state) for state in told.states)
        if moved is None or not moved.version:
            set_aliases(self.client, known, told.aliases)
        return Done(logged=logged, moved=() if moved is None else (moved,))

    def follow(self) -> Done:
        """Look for moved aliases."""
        moved = tuple(moved_aliases(self.client, self.record))
        write_record(self.path, self.record)
        return Done(moved=moved)

    def _run(self, told: Report) -> str:
        """Return the run of a model with these parameters: parameters of a run cannot change, so other ones are another run."""
        tags = subject_tags(self.begin.engine, told.subject)
        name = hashlib.sha256(msgspec.json.encode([tags, told.parameters], order="sorted")).hexdigest()[:16]
        if name in self._runs:
            return self._runs[name]
        found = self.client.search_runs([self.experiment], f"tags.`tickfold.run` = '{name}'", max_results=1)
        if found:
            run = str(found[0].info.run_id)
        else:
            param = self.mlflow.entities.Param
            created = self.client.create_run(
                self.experiment, tags={**tags, "tickfold.run": name}, run_name=registered_name(told.subject)
            )
            run = str(created.info.run_id)
            self.client.log_batch(
                run, params=[param(key, value[:PARAMETER_MAX]) for key, value in told.parameters.items()]
            )
        self._runs[name] = run
        return run

    def _log_metrics(self, run: str, told: Report) -> None:
        metric = self.mlflow.entities.Metric
        values = {**told.counts}
        for scores in told.scores:
            values |= {f"v{scores.version}/{name}": value for name, value in metrics_of(scores, told).items()}
        now = told.received // 1_000_000
        metrics = [metric(name, value, now, told.sequence) for name, value in values.items() if np.isfinite(value)]
        for at in range(0, len(metrics), METRICS_MAX):
            self.client.log_batch(run, metrics=metrics[at : at + METRICS_MAX])

    def _log_state(self, run: str, known: RegisteredModel, told: Report, state: State) -> int:
        """Log and register one version, unless that was done. Returns how many were logged."""
        kept = KeptModel(
            features=told.features,
            algorithm=state.algorithm,
            outputs=len(told.classes) or 1,
            classes=told.classes,
            target=told.target,
            horizon=told.subject.horizon,
            arrays=of_npz(state.arrays, "a state to be logged") if not state.pickled else None,
            pickled=state.pickled or None,
        )
        sha256 = hashlib.sha256(kept.state()[1]).hexdigest()
        newest = known.newest(state.version)
        if newest is not None and newest.sha256 == sha256:
            return 0
        tags = {
            **subject_tags(self.begin.engine, told.subject),
            "tickfold.version": state.version,
            "tickfold.sequence": str(state.sequence),
            "tickfold.learned": str(state.learned),
            "tickfold.schema": kept.schema_hash,
            "tickfold.state": sha256,
        }
        info = log_model(
            kept,
            f"version_{state.version}",
            run_id=run,
            tags=tags,
            step=state.sequence,
            allow_pickle=self.begin.allow_pickle,
        )
        made = self.client.create_model_version(
            known.name, info.model_uri, run_id=run, tags=tags, model_id=info.model_id
        )
        known.versions.append(LoggedVersion(str(made.version), state.version, state.sequence, state.learned, sha256))
        return 1

    def answer(self, request: Request) -> Done:
        """Do a request; what goes wrong is the answer."""
        try:
            return self.report(request) if isinstance(request, Report) else self.follow()
        except Exception as error:
            return Done(_said(error), is_lasting=_is_lasting(error))


def metrics_of(scores: Scores, told: Report) -> dict[str, float]:
    """Return the numbers of one version's scores, each score beside its baselines': nested names are joined by a stroke."""
    values: dict[str, float] = {
        "learned": scores.learned, "memory_bytes": scores.memory, "e_value": scores.e_value, "threshold": scores.threshold,
        "pairs": scores.pairs,
    }  # fmt: skip
    if scores.score and told.kind != NONE:
        from engine.models.report import report

        made = report(
            np.frombuffer(scores.score, np.float64),
            kind=told.kind,
            classes=told.classes,
            coverage=told.coverage,
            draws=DRAWS,
        )
        values |= flat(made)
    return values


def flat(values: Any, name: str = "") -> dict[str, float]:
    """Return all numbers in nested dicts by joined names, and intervals as low and high; other lists (curves, tables) are no metrics."""
    if isinstance(values, list) and len(values) == 2 and "interval" in name:
        return flat(dict(zip(("low", "high"), values, strict=True)), name)
    if isinstance(values, dict):
        found: dict[str, float] = {}
        for key, value in values.items():
            found |= flat(value, f"{name}/{key}" if name else str(key))
        return found
    return {name: float(values)} if isinstance(values, int | float) else {}


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}"


def _is_lasting(error: BaseException) -> bool:
    return isinstance(error, EngineError) or getattr(error, "error_code", "") in LASTING


def _read_requests(requests: SimpleQueue[Request]) -> None:
    """Hand on what is read; at the end of it, end the process: the engine is gone, and MLflow may hold a thread for minutes."""
    decoder = msgspec.msgpack.Decoder(Request)
    try:
        while True:
            requests.put(decoder.decode(read_frame(sys.stdin.buffer)))
    except EOFError:
        os._exit(0)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        print(f"tickfold: a request could not be read: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def main() -> None:
    """Answer requests until stdin closes."""
    # MLflow and its friends print; what they print is no answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests: SimpleQueue[Request] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), name="requests", daemon=True).start()
    side: MlflowSide | None = None
    while True:
        request = requests.get()
        if isinstance(request, Begin):
            try:
                side = MlflowSide(request)
                done = Done()
            except Exception as error:
                done = Done(_said(error), is_lasting=isinstance(error, ModelError))
        elif side is None:
            done = Done("asked before it began", is_lasting=True)
        else:
            done = side.answer(request)
        write_frame(answers, done)


if __name__ == "__main__":
    main()
