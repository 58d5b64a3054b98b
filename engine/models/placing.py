"""Where a model runs: in the loop, or in a worker process. Decided before the fold starts, for the fold itself must not look at a clock.

Compiled models run in the loop. Of others, place = "loop" or "worker" is obeyed, and "auto" is measured: a model is built and fed rows
of noise, and where its slowest row costs more processor time than `models.budget_ms`, it goes to a worker. What was decided becomes part
of the configuration that is journaled, so a replay of the journal does not measure again. It is kept in the data folder too: a restart
that measured a little more or less would be another definition, of which no snapshot is.

A probe sees a thousand rows. A tree that stalls at its ten thousandth is not found out: say place = "worker" of those.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.models.arm import Batch
from engine.models.layout import LABEL, SLOT, STEP, STEP_SEQUENCE, UPTO, Layout
from engine.models.settings import ModelConfig, ModelsConfig
from engine.models.spec import ModelSpec, resolve_model
from engine.models.worker_files import versions

PROBE_ROWS, FIRST_ROWS = 1_000, 16
"""Rows of a probe, and those of them that are not measured: what is made once is made then."""
PROBE_S = 2.0
"""Processor time after which a probe ends."""
NS_PER_MS = 1e6
KEPT = "places.json"


def place_models(config: ModelsConfig, kept_in: Path | None = None) -> ModelsConfig:
    """Return the configuration with "auto" decided for each model that runs. Takes seconds where River has to be imported.

    kept_in: a folder where decisions are read and written; what cannot be read is decided anew. Raises ConfigError for a model that
    cannot be.
    """
    open_ones = [name for name in config.run if name in config.define and is_open(config.define[name])]
    if not open_ones:
        return config
    known = _read(kept_in)
    define = dict(config.define)
    for name in open_ones:
        own = define[name]
        identity = hashlib.sha256(msgspec.json.encode((own, config.budget_ms, versions()), order="sorted")).hexdigest()
        place = known.get(identity)
        if place not in ("loop", "worker"):
            place = known[identity] = "worker" if slowest_ms(resolve_model(name, own)) > config.budget_ms else "loop"
        define[name] = msgspec.structs.replace(own, place="worker" if place == "worker" else "loop")
    if kept_in is not None:
        _write(kept_in, known)
    return msgspec.structs.replace(config, define=define)


def is_open(config: ModelConfig) -> bool:
    """Whether it has to be measured where a model runs."""
    algorithms = (config.algorithm, *config.challengers)
    return config.place == "auto" and not all("algorithm" in one for one in algorithms)


def slowest_ms(spec: ModelSpec) -> float:
    """Return the most processor time, in ms, that one row of noise costs any version of a model: learned from and predicted."""
    return max(_slowest_ms(spec, algorithm) for algorithm in spec.algorithms if "algorithm" not in algorithm)


def _slowest_ms(spec: ModelSpec, algorithm: Mapping[str, Any]) -> float:
    from engine.models.build import make_arm

    layout = Layout(len(spec.features), spec.target.outputs, 0, 1)
    arm = make_arm(dict(algorithm), spec, layout, 0)
    ledger = np.full((1, layout.width), np.nan)
    steps = np.zeros((1, STEP), np.int64)
    steps[0, UPTO] = 1
    batch = Batch(layout, ledger, ledger.view(np.int64), steps, np.zeros(1, np.int64))
    noise = np.random.default_rng(0)
    rows = noise.normal(size=(PROBE_ROWS, layout.features))
    classes = noise.integers(0, layout.outputs, PROBE_ROWS)
    slowest = 0
    began = time.thread_time_ns()
    for number in range(PROBE_ROWS):
        ledger[0, layout.x_at : layout.x_at + layout.features] = rows[number]
        ledger[0, LABEL] = classes[number] if spec.target.classes else rows[number].sum() + noise.normal()
        steps[0, SLOT], steps[0, STEP_SEQUENCE] = 0, number + 1
        started = time.thread_time_ns()
        arm.run(batch, layout.out_at(0), 0)
        ended = time.thread_time_ns()
        if number >= FIRST_ROWS:
            slowest = max(slowest, ended - started)
        if ended - began > PROBE_S * 1e9:
            break
    return slowest / NS_PER_MS


def _read(folder: Path | None) -> dict[str, str]:
    if folder is not None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((folder / KEPT).read_bytes(), type=dict[str, str])
    return {}


def _write(folder: Path, known: dict[str, str]) -> None:
    """Keep what was decided; a disk that will not have it costs the next start a probe."""
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = folder / f"{KEPT}.part"
        part.write_bytes(msgspec.json.encode(known, order="sorted"))
        part.replace(folder / KEPT)
