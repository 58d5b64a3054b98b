"""Reports on models that need no engine: small, and with a state that was learned from drawn rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.models.compiled import CompiledModel
from engine.models.target import DIRECTION
from engine.tracking.messages import Report, State
from engine.tracking.registry import Subject
from engine.tracking.state import to_npz
from tests.folding import START

CLASSES = ("down", "flat", "up")
FEATURES = ("quick:mean_3", "quick:sum_10s", "slow:ema_5")
SUBJECT = Subject("x", "A/B", "m", "10t")


def report(sequence: int = 1, subject: Subject = SUBJECT, **other: Any) -> Report:
    return Report(
        subject, sequence, START + sequence, {"lr": "0.1"}, FEATURES, CLASSES, DIRECTION, "direction", 0.9,
        {"predictions": float(sequence)}, **other,
    )  # fmt: skip


def taught(count: int) -> CompiledModel:
    model = CompiledModel({"algorithm": "scaled_softmax"}, FEATURES, 3)
    for at, row in enumerate(np.random.default_rng(1).standard_normal((count, 3))):
        model.learn_row(row, at % 3)
    return model


def state(version: str, count: int) -> State:
    return State(version, count, count, {"algorithm": "scaled_softmax"}, to_npz(taught(count).arrays()))
