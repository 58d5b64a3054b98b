"""The sections [models] and [mlflow] of the configuration, as structs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class SplitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Symbols on which another version serves from the start: an A/B test by symbol."""

    version: Annotated[str, Meta(pattern="^[1-9][0-9]*$")] = "2"
    share: Share = 0.0


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model: what it predicts, from what, how, and how it is judged. Each symbol has an instance of its own."""

    features: tuple[str, ...]  # "view:feature", all of views on one clock
    algorithm: dict[
        str, Any
    ]  # version 1: {algorithm = "scaled_softmax", lr = 0.01}, {river = "..."} or {factory = "file.py:name"}
    target: Annotated[str, Meta(min_length=1)] = "direction"
    horizon: str = "60s"  # "60s", "500ms", "100t" (trades), "10b" (rows of the views)
    band: Annotated[float, Meta(ge=0.0, le=10_000.0)] = 1.0
    band_unit: Literal["bps", "spreads"] = "bps"
    fee_bps: Annotated[float, Meta(ge=0.0, le=1_000.0)] = 1.0
    missing: Literal["skip", "last", "mean"] = "mean"
    staleness_s: Annotated[float, Meta(gt=0.0, le=86_400.0)] = 60.0
    warm_up: Annotated[int, Meta(ge=0, le=1_000_000)] = 200
    challengers: tuple[dict[str, Any], ...] = ()
    place: Literal["auto", "loop", "worker"] = "auto"
    coverage: Annotated[float, Meta(ge=0.5, le=0.999)] = 0.9
    on_drift: Literal["challenger", "report"] = "challenger"
    promote: Literal["auto", "manual"] = "auto"
    alpha: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.05
    pairs_min: Annotated[int, Meta(ge=1)] = 200
    margin_bps: Annotated[float, Meta(ge=0.0, le=10_000.0)] = 0.5
    pooled: bool = False
    split: SplitConfig = SplitConfig()


class ModelsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which models take part."""

    run: tuple[str, ...] = ("built-in",)
    ledger_rows: Annotated[int, Meta(ge=16, le=1 << 22)] = 1 << 16
    arms_max: Annotated[int, Meta(ge=2, le=64)] = 8
    memory_mib: Annotated[float, Meta(gt=0.0)] = 100.0
    budget_ms: Annotated[float, Meta(gt=0.0)] = 5.0
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    worker_queue: Annotated[int, Meta(ge=1, le=65_536)] = 1_024
    ledger: bool = True
    define: dict[str, ModelConfig] = {}


class MlflowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where versions of models are kept."""

    enabled: bool = False
    tracking_uri: str = ""  # empty: sqlite in the data folder
    experiment: Annotated[str, Meta(min_length=1)] = "tickfold"
    every_s: Annotated[float, Meta(gt=0.0)] = 3_600.0
    metrics_s: Annotated[float, Meta(gt=0.0)] = 60.0
    follow_aliases: bool = False
    allow_pickle: bool = False
