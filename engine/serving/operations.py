"""What operators and programs ask of the daemon: /health, /ready, /features, /models, and the commands. All in, all out as JSON."""

from __future__ import annotations

import math
import os
import resource
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import msgspec
import structlog
from msgspec import Meta

from engine.errors import ConfigError, EngineError
from engine.events import HandlerFailed, Key, Parked
from engine.health import ExchangeHealth, FeedHealth
from engine.latency import Latency
from engine.serving.answers import ApiError, decode, plain_error
from engine.serving.bulletin import Bulletin
from engine.serving.host import Host
from engine.serving.models import Board
from store.ring import OnlineStore

Verb = Literal["add_symbol", "remove_symbol", "park", "resume", "snapshot", "promote", "rollback", "pin", "unpin"]
VERBS: tuple[str, ...] = get_args(Verb)
TARGET_CHARACTERS = 200
UNLISTED = 10  # symbols that are named in reasons, an exchange
HURT = ("stale", "waiting", "failed")
"""States of a feed in which something is wrong with it."""
NS_PER_S = 1e9


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """A command, as it is posted."""

    verb: Verb
    target: Annotated[str, Meta(max_length=TARGET_CHARACTERS)] = ""


class Push(msgspec.Struct):
    """A push, as Feast's clients post it."""

    push_source_name: str
    df: dict[str, list[Any]]
    to: Literal["online", "offline", "online_and_offline"] = "online"


_order = msgspec.json.Decoder(Order)
_push = msgspec.json.Decoder(Push)


def store_of(host: Host) -> OnlineStore:
    """The online store of a daemon."""
    return cast(OnlineStore, host.fold.features)


def keys_of(host: Host) -> list[Key]:
    """The keys that have had an input, in the order in which they came."""
    fold = host.fold
    return [fold.keys[code] for code in range(len(fold.keys)) if fold.ingress.has_input(code)]


def live_sequence(host: Host) -> int:
    """The newest input that was folded."""
    return host.fold.sequence()


def memory_bytes() -> int:
    """Resident memory of this process; where the system does not say, the most that it ever was."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def health(host: Host, bulletin: Bulletin, board: Board) -> dict[str, Any]:
    """Return the status of each part, and the chain digests at `sequence`."""
    starting = host.starting()
    digested = host.digest()
    feeds, exchanges = host.feeds(), host.exchanges()
    journal, snapshots = host.journal(), host.snapshots()
    models = board.health()
    reasons = [] if starting else _reasons(host, bulletin, feeds, exchanges) + models["alarms"]
    return {
        "status": "starting" if starting else "degraded" if reasons else "ok",
        "starting": starting,
        "reasons": reasons,
        "version": host.version,
        "started": host.started,
        "uptime_s": max(0, host.clock.now() - host.started) / NS_PER_S,
        "sequence": digested.sequence,
        "digest": {
            "inputs": digested.inputs,
            "features": digested.features,
            "predictions": digested.predictions,
            "signals": digested.signals,
        },
        "live_sequence": live_sequence(host),
        "latency_ns": quantiles(host.latency),
        "clock_skew_ns": host.clock.skew_ns(),
        "memory_bytes": memory_bytes(),
        "store_bytes": host.fold.features.memory(),
        "parts": {
            "feeds": feeds,
            "exchanges": exchanges,
            "journal": {**msgspec.structs.asdict(journal), "folder": Path(journal.folder).name},
            "snapshots": snapshots,
            "strategies": _strategies(host, bulletin),
            "models": models,
            "mlflow": host.tracking(),
            "loop": {"holds": [{"at": at, "held_ns": held, "what": what} for at, held, what in host.holds()]},
        },
    }


def _reasons(host: Host, bulletin: Bulletin, feeds: list[FeedHealth], exchanges: list[ExchangeHealth]) -> list[str]:
    """What is wrong, in words: empty if nothing is."""
    said = [f"feed {feed.name} is {feed.state}" for feed in feeds if feed.state in HURT]
    for one in exchanges:
        said += [f"{symbol} is not in the product list of {one.exchange}" for symbol in one.unlisted[:UNLISTED]]
        if len(one.unlisted) > UNLISTED:
            said.append(f"{len(one.unlisted) - UNLISTED} more symbols are not in the product list of {one.exchange}")
    said += bulletin.lasting(exchanges, host.clock.now())
    journal, snapshots = host.journal(), host.snapshots()
    if journal.state == "not journaling":
        said.append("inputs are not journaled")
    if snapshots.detail:
        said.append("the newest snapshot failed")
    said += [f"strategy {name} is parked" for name, actor in host.fold.supervisor.actors.items() if not actor.listening]
    return said


def quantiles(latency: Latency) -> dict[str, float | int | None]:
    """Return p50, p99 and the longest, ns; None while there is nothing."""
    p50, p99 = latency.quantile(0.5), latency.quantile(0.99)
    known = not math.isnan(p50)
    return {"p50": p50 if known else None, "p99": p99 if known else None, "max": latency.max_ns, "count": latency.count}


def _strategies(host: Host, bulletin: Bulletin) -> list[dict[str, Any]]:
    found = []
    for name, supervised in host.fold.supervisor.actors.items():
        signal, error = bulletin.last_signals.get(name), bulletin.last_errors.get(name)
        found.append(
            {
                "name": name,
                "state": "listening" if supervised.listening else "parked",
                "failures": supervised.failed,
                "failures_in_a_row": supervised.failures,
                "signals": bulletin.counts.get(name, 0),
                "last_signal": signal,
                "last_error": None if error is None else _error(error),
            }
        )
    return found


def _error(error: HandlerFailed | Parked) -> dict[str, Any]:
    """What a strategy's last failure says of itself; its traceback is in the log."""
    handler, said = (error.handler, error.error) if isinstance(error, HandlerFailed) else (None, error.reason)
    return {
        "handler": handler,
        "error": said,
        "received": error.received,
        "sequence": error.sequence,
    }


def ready(host: Host) -> dict[str, Any]:
    """Return that it is ready. Raises ApiError with the reason while it is not."""
    if starting := host.starting():
        raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "starting", starting, headers={"Retry-After": "1"})
    return {"ready": True, "live_sequence": live_sequence(host)}


def features(host: Host, bulletin: Bulletin) -> dict[str, Any]:
    """Return the views with their columns, and the keys that there are values of, each with what is wrong with its feed, if anything is."""
    views = [
        {
            "name": view.name,
            "version": view.version,
            "clock": str(view.ticking),
            "description": view.description,
            "features": list(view.features),
            "entities": ["exchange", "symbol"],
            "ttl_ns": getattr(view, "ttl_ns", None),
        }
        for view in store_of(host).program.views
    ]
    keys = [{"exchange": key[0], "symbol": key[1], "feed": _feed(bulletin, key)} for key in keys_of(host)]
    return {"views": views, "keys": keys}


def _feed(bulletin: Bulletin, key: Key) -> dict[str, Any]:
    """Whether the values of a key are fed: its status, and since when and why where it is not "ok"."""
    trouble = bulletin.trouble_of(key)
    if trouble is None:
        return {"status": "ok", "detail": "", "since": None}
    return {"status": trouble.status, "detail": trouble.detail, "since": trouble.received}


def obey(host: Host, body: bytes) -> dict[str, Any]:
    """Journal and fold a command; return it with its sequence. Raises ApiError for one that cannot be done."""
    order = decode(body, _order)
    ready(host)  # while the journal is folded again, nothing new can come between
    if order.verb in ("park", "resume") and order.target not in host.fold.supervisor.actors:
        known = ", ".join(host.fold.supervisor.actors) or "none"
        message = f"target: no strategy {order.target!r}; there are {known}"
        raise ApiError(HTTPStatus.NOT_FOUND, "unknown_strategy", message, "target")
    try:
        command = host.command(order.verb, order.target)
    except ConfigError as error:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "refused", str(error), "target") from error
    except EngineError as error:
        # What it says may name files; that is for the log.
        structlog.get_logger().error("command failed", verb=order.verb, target=order.target, error=str(error))
        raise plain_error(HTTPStatus.SERVICE_UNAVAILABLE) from error
    return {
        "sequence": command.sequence,
        "verb": command.verb,
        "target": command.target,
        "timestamp": command.timestamp,
        "received": command.received,
    }


def push(body: bytes) -> dict[str, Any]:
    """Raise ApiError: a push is checked as Feast would, and its source is unknown, for this version has none."""
    asked = decode(body, _push)
    message = f"push_source_name: no push source {asked.push_source_name[:100]!r}; this version has none to push to"
    raise ApiError(HTTPStatus.NOT_FOUND, "unknown_push_source", message, "push_source_name")
