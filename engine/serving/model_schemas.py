"""The description of what /models answers: schemas for openapi.py."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TIME_NS: Schema = {"type": "integer", "description": "ns since 1970, UTC"}
NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
COUNTS: Schema = {"type": "object", "additionalProperties": COUNT}
NUMBERS: Schema = {"type": "array", "items": NUMBER_OR_NULL}
BY_BASELINE: Schema = {"type": "object", "additionalProperties": NUMBER_OR_NULL}


def _object(properties: dict[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def standing() -> Schema:
    """One model of one key."""
    mark = _object({"sequence": COUNT, "received": TIME_NS, "kind": TEXT, "text": TEXT})
    version = _object(
        {
            "version": TEXT,
            "role": {"type": "string", "enum": ["champion", "challenger", "previous"]},
            "algorithm": {"type": "object"},
            "algorithm_text": {**TEXT, "description": "the same, short, for people"},
            "since": {**COUNT, "description": "sequence at which it began"},
            "learned": COUNT,
            "failed": COUNT,
            "parked": {**TEXT, "description": "why it is heard no more, empty while it is"},
            "memory_bytes": COUNT,
            "e_value": {**NUMBER_OR_NULL, "description": "evidence against the champion"},
            "threshold": {**NUMBER_OR_NULL, "description": "the evidence that promotes it"},
            "pairs": COUNT,
            "report": {**report(), "type": ["object", "null"]},
        }
    )
    return _object(
        {
            "model": TEXT,
            "exchange": TEXT,
            "symbol": TEXT,
            "target": TEXT,
            "horizon": TEXT,
            "classes": _list(TEXT),
            "coverage": {"type": "number", "description": "that its intervals and sets are to have"},
            "champion": TEXT,
            "served": TEXT,
            "ready": FLAG,
            "pinned": FLAG,
            "predictions": COUNT,
            "outcomes": COUNT,
            "void": {**COUNT, "description": "predictions whose outcome did not come in time"},
            "waiting": COUNT,
            "skipped": {**COUNTS, "description": "rows of features that were not predicted on, by why"},
            "imputed": COUNT,
            "late_answers": COUNT,
            "drifts": COUNT,
            "promotions": COUNT,
            "marks": _list(mark),
            "row_us": {**NUMBER_OR_NULL, "description": "learning and predicting, a row of features, all versions"},
            "memory_bytes": COUNT,
            "said": {**said(), "type": ["object", "null"]},
            "versions": _list(version),
            "history": {**history(), "type": ["object", "null"]},
        },
        optional=("history",),
    )


def said() -> Schema:
    """What a model without labels says; null of all others."""
    before = _object({"at_ms": _list({"type": "number"}), "values": _list({"type": "number"})})
    return _object(
        {
            "kind": {"type": "string", "enum": ["score", "cluster", ""], "description": "empty where it is not known"},
            "value": {**NUMBER_OR_NULL, "description": "the newest anomaly score, or the number of the cluster"},
            "received": {"type": ["integer", "null"], "description": "ns since 1970, UTC: when it was said"},
            "history": {**before, "type": ["object", "null"], "description": "samples of what was said, oldest first"},
        },
        optional=("history",),
    )


def report() -> Schema:
    """What scores say; as far as all kinds of target have it."""
    return _object(
        {
            "n": COUNT,
            "n_eff": {**COUNT, "description": "outcomes that do not overlap one another"},
            "skill": {**NUMBER_OR_NULL, "description": "1 - loss / loss of the best baseline on the same rows"},
            "interval": {**NUMBERS, "description": "of the skill"},
            "best_baseline": TEXT,
            "headline": {**TEXT, "description": "the loss: brier or mse"},
            "baselines": {**BY_BASELINE, "description": "that loss, by baseline"},
            "beside": {"type": "object", "additionalProperties": BY_BASELINE},
            "coverage": NUMBER_OR_NULL,
            "intervals": {"type": "object", "additionalProperties": NUMBERS, "description": "of each score"},
            "trivial": _list(_object({"name": TEXT, "text": TEXT})),
        }
    )


def history() -> Schema:
    """How the champion's scores went: columns of equal length, oldest first."""
    return _object(
        {
            "at_ms": _list({"type": "number"}),
            "n": _list(COUNT),
            "n_eff": NUMBERS,
            "skill": NUMBERS,
            "low": NUMBERS,
            "high": NUMBERS,
            "rolling": {**NUMBERS, "description": "skill over the last `rolling_samples`"},
            "rolling_samples": COUNT,
            "baselines": {"type": "object", "additionalProperties": NUMBERS},
        }
    )
