"""The description of the API, OpenAPI 3.1: what `/openapi.json` gives."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from engine.serving.model_schemas import standing
from engine.serving.models import FIELDS
from engine.serving.online import ENTITIES_MAX, FEATURES_MAX, NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, PRESENT, REFERENCE
from engine.serving.operations import TARGET_CHARACTERS, VERBS
from engine.serving.selection import ALL_TYPES

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TIME_NS: Schema = {"type": "integer", "description": "ns since 1970, UTC"}
NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
FLAG: Schema = {"type": "boolean"}
ANY_OF_THESE = "https://spec.openapis.org/oas/3.1/dialect/base"

EVERYWHERE = (400, 401, 403, 500)
"""Statuses that any request may bring: what is no HTTP, no token where the server can be reached from elsewhere, a foreign Host or
Origin, a defect."""


def _object(properties: dict[str, Schema], *, optional: tuple[str, ...] = (), **more: Any) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, **({"required": required} if required else {}), **more}


def _list(of: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": of, **more}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _of(schema: Schema, example: Any = None) -> Schema:
    return {"application/json": {"schema": schema, **({} if example is None else {"example": example})}}


def _answers(ok: Schema, *statuses: int) -> Schema:
    codes = sorted({*EVERYWHERE, *statuses})
    failures = {str(code): {"description": HTTPStatus(code).phrase, "content": _of(_ref("Error"))} for code in codes}
    return {**ok, **failures}


def _ok(description: str, schema: Schema) -> Schema:
    return {"200": {"description": description, "content": _of(schema)}}


def description(version: str) -> Schema:
    """Return the description of the API of this version."""
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": ANY_OF_THESE,
        "info": {
            "title": "tickfold",
            "version": version,
            "description": "Features, signals and the state of a trading engine. Times are int ns UTC unless they are text; NaN is null.",
        },
        "paths": {
            "/get-online-features": {"post": _online()},
            "/push": {"post": _push()},
            "/commands": {"post": _commands()},
            "/health": {"get": _get("Status of each part, and the chain digests at `sequence`", _ref("Health"))},
            "/ready": {"get": _get("Whether it is ready; 503 with the reason while it is not", _ref("Ready"), 503)},
            "/features": {"get": _get("Feature views, and the keys that there are values of", _ref("Features"))},
            "/models": {"get": _models()},
            "/openapi.json": {"get": _get("This description", {"type": "object"})},
            "/metrics": {"get": _text("Counters, for Prometheus", "text/plain")},
            "/": {"get": _text("The page", "text/html")},
            "/stream": {"get": _stream()},
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The word in the token file (DIR/token, mode 0600), made at the first start",
                }
            },
        },
    }


def _get(summary: str, schema: Schema, *statuses: int) -> Schema:
    return {"summary": summary, "responses": _answers(_ok(summary, schema), *statuses)}


def _text(summary: str, media_type: str) -> Schema:
    ok = {"200": {"description": summary, "content": {media_type: {"schema": TEXT}}}}
    return {"summary": summary, "responses": _answers(ok)}


def _online() -> Schema:
    names = _list(TEXT, minItems=1, maxItems=ENTITIES_MAX)
    request = _object(
        {
            "features": _list(
                {
                    "type": "string",
                    "pattern": f"^{REFERENCE.pattern}$",
                    "description": "view:feature or view@version:feature",
                },
                minItems=1,
                maxItems=FEATURES_MAX,
            ),
            "entities": _object({"exchange": names, "symbol": names}, additionalProperties=False),
            "full_feature_names": {"type": "boolean", "default": False, "description": "name results view__feature"},
        },
        optional=("full_feature_names",),
    )
    example = {
        "features": ["technical:rsi_14", "technical:macd"],
        "entities": {"exchange": ["binance"], "symbol": ["BTC/USDT"]},
        "full_feature_names": False,
    }
    return {
        "summary": "Newest values of features by entity, in Feast's JSON",
        "description": "`exchange` and `symbol` are lists of one length. One result a name: entity keys first, then features as asked.",
        "requestBody": {"required": True, "content": _of(request, example)},
        "responses": _answers(_ok("The values", _ref("OnlineFeatures")), 404, 408, 413, 422),
    }


def _push() -> Schema:
    request = _object(
        {
            "push_source_name": TEXT,
            "df": {"type": "object", "additionalProperties": _list({})},
            "to": {"type": "string", "enum": ["online", "offline", "online_and_offline"], "default": "online"},
        },
        optional=("to",),
    )
    return {
        "summary": "Push feature rows, as Feast's clients do",
        "description": "This version has no push sources: a well-formed push is answered 404, whatever source it names.",
        "security": [{"token": []}],
        "requestBody": {"required": True, "content": _of(request)},
        "responses": _answers({}, 404, 408, 413, 415, 422),
    }


def _commands() -> Schema:
    target = (
        "A strategy for park and resume, exchange:symbol for add_symbol and remove_symbol, nothing for snapshot, MODEL@VERSION for promote, "
        "MODEL for rollback, pin and unpin, each of all keys or of the exchange:symbol behind a space"
    )
    request = _object(
        {
            "verb": {"type": "string", "enum": list(VERBS)},
            "target": {"type": "string", "maxLength": TARGET_CHARACTERS, "default": "", "description": target},
        },
        optional=("target",),
        additionalProperties=False,
    )
    return {
        "summary": "Command the engine: a journaled input, which a replay obeys at the same place",
        "security": [{"token": []}],
        "requestBody": {"required": True, "content": _of(request, {"verb": "park", "target": "moving_average_cross"})},
        "responses": _answers(_ok("It was folded", _ref("Command")), 404, 408, 413, 415, 422, 503),
    }


def _parameter(name: str, text: str, schema: Schema = TEXT) -> Schema:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": schema}


def _models() -> Schema:
    texts = dict.fromkeys(FIELDS, "only those of this name")
    parameters = [_parameter(name, text) for name, text in texts.items() if name != "history"]
    flag: Schema = {"type": "string", "enum": ["false", "true"]}
    return {
        "summary": "Models, by key: how each stands, its versions and their scores beside their baselines",
        "parameters": [*parameters, _parameter("history", "true: with how its skill went", flag)],
        "responses": _answers(_ok("The models", _list(_ref("Model"))), 422),
    }


def _stream() -> Schema:
    return {
        "summary": "A websocket: features, signals, feed statuses and more as they come",
        "description": (
            "First `hello`. Rows of features are conflated to the newest of each view and key, predictions and outcomes to the newest of "
            "each model and key; everything else comes through a queue, whose overflow a `dropped` message counts. A client may say "
            '{"subscribe": {"types", "views", "keys": [{"exchange", "symbol"}], "strategies", "models"}}, each of them optional.'
        ),
        "parameters": [
            _parameter("types", f"with commas between them: {', '.join(ALL_TYPES)}"),
            _parameter("views", "names of feature views, with commas between them"),
            _parameter("keys", "exchange:symbol, with commas between them"),
            _parameter("exchange", "with symbol: one key"),
            _parameter("symbol", "with exchange: one key"),
            _parameter("strategies", "names, with commas between them"),
            _parameter("models", "names, with commas between them"),
            _parameter(
                "format",
                "json, or columns: binary messages, as the page draws them",
                {"type": "string", "enum": ["json", "columns"]},
            ),
        ],
        "responses": _answers({"101": {"description": "It is a websocket from here on"}}, 422, 426, 503),
    }


def _schemas() -> dict[str, Schema]:
    status = {"type": "string", "enum": [PRESENT, NULL_VALUE, NOT_FOUND, OUTSIDE_MAX_AGE]}
    feed = _object({"status": TEXT, "detail": TEXT, "since": {"type": ["integer", "null"], "description": "ns UTC"}})
    key = _object({"exchange": TEXT, "symbol": TEXT, "feed": feed})
    error = _object({"code": TEXT, "message": TEXT, "field": {"type": ["string", "null"]}})
    result = _object(
        {
            "values": _list({"type": ["number", "string", "null"]}),
            "statuses": _list(status),
            "event_timestamps": _list({"type": "string", "format": "date-time"}),
        }
    )
    view = _object(
        {
            "name": TEXT,
            "version": TEXT,
            "clock": {"type": "string", "description": "tick, or what a bar is made of"},
            "description": TEXT,
            "features": _list(TEXT),
            "entities": _list(TEXT),
            "ttl_ns": {"type": ["integer", "null"]},
        }
    )
    return {
        "Error": _object({"error": error}),
        "OnlineFeatures": _object({"metadata": _object({"feature_names": _list(TEXT)}), "results": _list(result)}),
        "Command": _object(
            {"sequence": COUNT, "verb": TEXT, "target": TEXT, "timestamp": TIME_NS, "received": TIME_NS}
        ),
        "Ready": _object({"ready": FLAG, "live_sequence": COUNT}),
        "Features": _object({"views": _list(view), "keys": _list(key)}),
        "Model": standing(),
        "Health": _health(),
    }


def _health() -> Schema:
    digest = _object(dict.fromkeys(("inputs", "features", "predictions", "signals"), TEXT))
    latency = _object({"p50": NUMBER_OR_NULL, "p99": NUMBER_OR_NULL, "max": COUNT, "count": COUNT})
    feed = _object(
        {
            "name": TEXT,
            "exchange": TEXT,
            "url": TEXT,
            "state": TEXT,
            "symbols": _list(TEXT),
            "recording": FLAG,
            "connected_at": TIME_NS,
            "newest": TIME_NS,
            "messages": COUNT,
            "undecodable": COUNT,
            "reconnects": COUNT,
            "detail": TEXT,
            "ignored": COUNT,
            "stalled": _list(TEXT),
        }
    )
    exchange = _object(
        {
            "exchange": TEXT,
            "products": TEXT,
            "products_trouble": TEXT,
            "unlisted": _list(TEXT),
            "gaps_open": COUNT,
            "trades_filled": COUNT,
            "trades_lost": COUNT,
            "requests": COUNT,
            "backfill_trouble": TEXT,
        }
    )
    journal = _object(
        {
            "state": {"type": "string", "enum": ["journaling", "not journaling", "off"]},
            "folder": TEXT,
            "sequence": COUNT,
            "synced": COUNT,
            "bytes_written": COUNT,
            "segments": COUNT,
            "detail": TEXT,
        }
    )
    snapshots = _object(
        {"sequence": COUNT, "taken_at": TIME_NS, "bytes_written": COUNT, "longest_hold_ns": COUNT, "detail": TEXT}
    )
    strategy = _object(
        {
            "name": TEXT,
            "state": {"type": "string", "enum": ["listening", "parked"]},
            "failures": COUNT,
            "failures_in_a_row": COUNT,
            "signals": {**COUNT, "description": "since this process began"},
            "last_signal": {"type": ["object", "null"]},
            "last_error": {"type": ["object", "null"]},
        }
    )
    models = _object(
        {
            "running": _list(TEXT),
            "instances": {**COUNT, "description": "models of keys"},
            "ready": COUNT,
            "memory_bytes": COUNT,
            "alarms": _list(TEXT, description="models that take too much memory, versions that are parked"),
        }
    )
    mlflow = _object(
        {
            "state": {"type": "string", "enum": ["starting", "tracking", "retrying", "stopped"]},
            "uri": TEXT,
            "waiting": COUNT,
            "sent": COUNT,
            "logged": COUNT,
            "dropped": COUNT,
            "refused": COUNT,
            "failures": COUNT,
            "detail": TEXT,
        }
    )
    hold = _object({"at": TIME_NS, "held_ns": COUNT, "what": TEXT})
    return _object(
        {
            "status": {"type": "string", "enum": ["starting", "ok", "degraded"]},
            "starting": {"type": "string", "description": "why it is not ready; empty once it is"},
            "reasons": _list(TEXT, description="what is wrong; empty if nothing is"),
            "version": TEXT,
            "started": TIME_NS,
            "uptime_s": {"type": "number"},
            "sequence": {**COUNT, "description": "the input at which the digests stand"},
            "digest": digest,
            "live_sequence": {**COUNT, "description": "the newest input that was folded"},
            "latency_ns": latency,
            "clock_skew_ns": {"type": "integer"},
            "memory_bytes": COUNT,
            "store_bytes": COUNT,
            "parts": _object(
                {
                    "feeds": _list(feed),
                    "exchanges": _list(exchange),
                    "journal": journal,
                    "snapshots": snapshots,
                    "strategies": _list(strategy),
                    "models": models,
                    "mlflow": {"anyOf": [mlflow, {"type": "null"}], "description": "null where it is not switched on"},
                    "loop": _object({"holds": _list(hold)}),
                }
            ),
        }
    )
