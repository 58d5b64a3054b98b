"""Matured rows of a ledger as columns: what each version had said, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.models.arm import Batch
from engine.models.layout import (
    HEAD,
    IS_MID,
    IS_READY,
    LABEL,
    MADE,
    OUTCOME,
    OUTCOME_RECEIVED,
    OUTCOME_SEQUENCE,
    OUTCOME_TIMESTAMP,
    REFERENCE,
    SEQUENCE,
    SERVED,
    SPREAD,
    STATUS,
    TIMESTAMP,
    VOID,
    Layout,
)
from engine.models.spec import ModelSpec

SCHEMA = pa.schema(
    [
        ("sequence", pa.int64()), ("model", pa.string()), ("version", pa.string()), ("role", pa.string()),
        ("schema", pa.string()), ("exchange", pa.string()), ("symbol", pa.string()), ("made", pa.int64()),
        ("timestamp", pa.int64()), ("target", pa.string()), ("horizon", pa.string()), ("is_ready", pa.bool_()),
        ("probabilities", pa.list_(pa.float64())), ("class_set", pa.list_(pa.string())), ("value", pa.float64()),
        ("low", pa.float64()), ("high", pa.float64()), ("reference", pa.float64()), ("is_mid", pa.bool_()),
        ("spread_bps", pa.float64()), ("outcome", pa.float64()), ("outcome_timestamp", pa.int64()),
        ("outcome_received", pa.int64()), ("outcome_sequence", pa.int64()), ("label", pa.float64()),
        ("label_class", pa.string()), ("is_void", pa.bool_()),
    ]
)  # fmt: skip
"""One row a prediction of a version. Times are ns UTC, `made` and `outcome_received` ours.

role: "served" or "shadow". probabilities, class_set, label_class: of classes, in the model's order; value, low, high: of a regression; a set
or an interval is null until the version has enough outcomes to say one. Of a void prediction `is_void`, and no outcome and label.
"""


@dataclass(frozen=True)
class Matured:
    """Answers of one model and key, in their order, by the same versions."""

    spec: ModelSpec
    key: tuple[str, str]
    versions: tuple[str, ...]
    said: npt.NDArray[np.float64]  # answers x arms x (outputs + 1)
    heads: npt.NDArray[np.float64]  # answers x HEAD


class Pending:
    """Collects copies of a ledger's rows: one array that doubles, for a row comes at a time, millions of times."""

    def __init__(self, spec: ModelSpec, key: tuple[str, str], versions: tuple[str, ...], layout: Layout) -> None:
        self._spec, self._key, self._versions = spec, key, versions
        self._layout = layout
        self._rows = np.empty((16, layout.width))
        self._count = 0

    def add(self, batch: Batch) -> None:
        """Copy a batch's answers: its arrays are the fold's."""
        first, count = self._count, self._count + len(batch.answers)
        if count > len(self._rows):
            grown = np.empty((max(count, 2 * len(self._rows)), self._layout.width))
            grown[:first] = self._rows[:first]
            self._rows = grown
        if count == first + 1:
            self._rows[first] = batch.ledger[batch.answers[0]]
        else:
            self._rows[first:count] = batch.ledger[batch.answers]
        self._count = count

    def matured(self) -> Matured:
        """Return all of them."""
        layout, rows, arms = self._layout, self._rows[: self._count], len(self._versions)
        first, width = layout.out_at(0), layout.outputs + 1
        said = rows[:, first : first + arms * width].reshape(len(rows), arms, width)
        return Matured(self._spec, self._key, self._versions, said, rows[:, :HEAD].copy())


def columns(matured: Matured, rows: npt.NDArray[np.intp], schema: str) -> pa.Table:
    """Return what each version said in some rows: by row, then by the version's place."""
    spec, classes = matured.spec, matured.spec.target.classes
    outputs = spec.target.outputs
    has_said = ~np.isnan(matured.said[rows, :, 0])
    has_said[:, [not version for version in matured.versions]] = False
    at, arm = np.nonzero(has_said)
    at = rows[at]
    head, ids = matured.heads[at], matured.heads.view(np.int64)[at]
    said, threshold = matured.said[at, arm, :outputs], matured.said[at, arm, outputs]
    has_threshold = np.isfinite(threshold)
    count = len(at)
    is_void = ids[:, STATUS] == VOID
    is_known = ~is_void & ~np.isnan(head[:, LABEL])
    nothing = np.ones(count, bool)

    def integers(column: int) -> pa.Array:
        return pa.array(ids[:, column])

    def floats(values: npt.NDArray[np.float64], missing: npt.NDArray[np.bool_] | None = None) -> pa.Array:
        return pa.array(values, mask=np.isnan(values) if missing is None else missing)

    def repeated(text: str) -> pa.Array:
        return pa.repeat(pa.scalar(text), count)

    if classes:
        lists = pa.ListArray.from_arrays(
            pa.array(np.arange(count + 1, dtype=np.int32) * outputs), pa.array(said.ravel())
        )
        sets = _sets(1.0 - said <= threshold[:, None], has_threshold, classes)
        values, low, high = (floats(np.zeros(count), nothing) for _ in range(3))
        labels = np.where(is_known, head[:, LABEL], 0.0).astype(np.int32)
        label_classes = pa.array(classes).take(pa.array(labels, mask=~is_known))
    else:
        lists = pa.nulls(count, pa.list_(pa.float64()))
        sets = pa.nulls(count, pa.list_(pa.string()))
        values = floats(said[:, 0])
        reach = np.where(has_threshold, threshold, 0.0)
        low, high = (floats(said[:, 0] + sign * reach, ~has_threshold) for sign in (-1.0, 1.0))
        label_classes = pa.nulls(count, pa.string())
    found = {
        "sequence": integers(SEQUENCE),
        "model": repeated(spec.name),
        "version": pa.array(matured.versions).take(pa.array(arm)),
        "role": pa.array(["shadow", "served"]).take(pa.array((ids[:, SERVED] == arm).astype(np.int32))),
        "schema": repeated(schema),
        "exchange": repeated(matured.key[0]),
        "symbol": repeated(matured.key[1]),
        "made": integers(MADE),
        "timestamp": integers(TIMESTAMP),
        "target": repeated(spec.target.name),
        "horizon": repeated(spec.horizon.text),
        "is_ready": pa.array(ids[:, IS_READY] == 1),
        "probabilities": lists,
        "class_set": sets,
        "value": values,
        "low": low,
        "high": high,
        "reference": floats(head[:, REFERENCE]),
        "is_mid": pa.array(ids[:, IS_MID] == 1),
        "spread_bps": floats(head[:, SPREAD]),
        "outcome": floats(head[:, OUTCOME]),
        "outcome_timestamp": integers(OUTCOME_TIMESTAMP),
        "outcome_received": integers(OUTCOME_RECEIVED),
        "outcome_sequence": integers(OUTCOME_SEQUENCE),
        "label": floats(head[:, LABEL]),
        "label_class": label_classes,
        "is_void": pa.array(is_void),
    }
    return pa.Table.from_arrays([found[name] for name in SCHEMA.names], schema=SCHEMA)


def _sets(is_in: npt.NDArray[np.bool_], has_threshold: npt.NDArray[np.bool_], classes: tuple[str, ...]) -> pa.Array:
    """Return the names of the classes in each set; null where there is none yet."""
    is_in = is_in & has_threshold[:, None]
    offsets = np.concatenate([[0], np.cumsum(is_in.sum(axis=1))]).astype(np.int32)
    members = pa.array(classes).take(pa.array(np.nonzero(is_in)[1].astype(np.int32)))
    return pa.ListArray.from_arrays(pa.array(offsets), members, mask=pa.array(~has_threshold))
