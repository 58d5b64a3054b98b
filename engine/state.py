"""What a restart must know of a fold, as plain values of one sequence, and the digests of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.digest import ChainState, hexdigest_of, update
from engine.events import Key
from engine.models.state import model_parts


class ActorState(msgspec.Struct, frozen=True):
    """One plugin: its standing with the supervisor, and its own snapshot."""

    name: str
    listening: bool
    failures: int
    failed: int
    failed_in: int
    succeeded_in: int
    snapshot: bytes


@dataclass(frozen=True)
class KeyState:
    """One key: its lane's arrays and its models' (none while it has no input), and its chains by kind."""

    key: Key
    lane: dict[str, npt.NDArray[Any]]
    chains: dict[str, list[ChainState]]
    models: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class FoldState:
    """All the rest, at `sequence`."""

    sequence: int
    timestamp: int
    received: int
    keys: tuple[Key, ...]  # in the order of their numbers
    ingress: npt.NDArray[np.int64]  # keys x state
    counts: npt.NDArray[np.int64]  # keys x outcomes
    gaps: int
    signals: int
    round: int
    is_history: bool
    symbols: dict[str, bool]
    actors: tuple[ActorState, ...]
    chains: dict[str, list[ChainState]]
    models: dict[str, npt.NDArray[Any]] = field(default_factory=dict)  # contests of all keys


def key_digest(parts: Iterable[bytes]) -> bytes:
    """Hash one key's arena and newest rows, then its models."""
    total = hashlib.sha256()
    update(total, parts)
    return total.digest()


def state_digest(state: FoldState, lanes: Mapping[Key, bytes]) -> str:
    """Hash all that a restart must know, key by key in order: arenas, newest rows and models (`lanes`), ids; then the strategies' states."""
    total = hashlib.sha256()
    for key, code in sorted((key, code) for code, key in enumerate(state.keys)):
        if key not in lanes:
            continue
        update(total, (part.encode() for part in key))
        update(total, (lanes[key], state.ingress[code].astype("<i8").tobytes()))
    for actor in sorted(state.actors, key=lambda one: one.name):
        failures = 0 if actor.succeeded_in else actor.failures
        update(total, (msgspec.msgpack.encode((actor.name, actor.listening, failures)), actor.snapshot))
    for symbol, wanted in sorted(state.symbols.items()):
        update(total, (symbol.encode(), bytes([wanted])))
    update(total, model_parts(state.models))
    return total.hexdigest()


def chain_digests(state: FoldState, keyed: Mapping[str, Iterable[ChainState]]) -> dict[str, str]:
    """Return the digest of each kind of stream, from the chains of all keys and those of the state."""
    return {
        "inputs": hexdigest_of(keyed["inputs"]),
        "features": hexdigest_of(keyed["features"]),
        "predictions": hexdigest_of(keyed["predictions"]),
        "signals": hexdigest_of(state.chains["signals"]),
    }
