"""What a restart must know of a fold, as plain values: taken at one sequence, one key at a time, while the fold goes on.

`Capture` copies all that is small at once. A key's arena, rows and open digest chunks are copied when their turn comes, or just before
the fold changes them: so every part is of the same sequence, and no copy takes longer than that of one key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.block import NO_ID
from engine.digest import ChainState, hexdigest_of, update
from engine.errors import StoreError
from engine.events import Heartbeat, Key
from engine.ingress import RECEIVED

if TYPE_CHECKING:
    from engine.fold import Fold


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
    """One key: its lane's arrays (none while it has no input) and its chains by kind."""

    key: Key
    lane: dict[str, npt.NDArray[Any]]
    chains: dict[str, list[ChainState]]


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


def fold_state(fold: Fold) -> FoldState:
    """Copy all that is not a key's own. Raises what an actor's `snapshot` raises."""
    supervised = fold.supervisor.actors.values()
    return FoldState(
        sequence=fold.ingress.next_sequence - 1,
        timestamp=fold.timestamp(),
        received=fold.now(),
        keys=tuple(fold.keys[code] for code in range(len(fold.ingress.state))),
        ingress=fold.ingress.state.copy(),
        counts=fold.ingress.counts.copy(),
        gaps=fold.gaps,
        signals=fold.signals,
        round=fold.bus.round,
        is_history=fold.is_history,
        symbols=dict(fold.symbols),
        actors=tuple(ActorState(one.name, one.listening, *one.record(), one.actor.snapshot()) for one in supervised),
        chains=fold.loose_chains(),
    )


def key_state(fold: Fold, code: int, *, has_lane: bool, room: npt.NDArray[np.float64] | None = None) -> KeyState:
    """Copy one key's own, with `has_lane` its arena and rows too: into `room` if that fits."""
    key = fold.keys[code]
    return KeyState(key=key, lane=fold.features.lane(key).copy(room) if has_lane else {}, chains=fold.key_chains(code))


def restore(fold: Fold, state: FoldState, keys: Iterable[KeyState]) -> None:
    """Make a fold that has folded nothing yet what the state was taken of.

    Raises StoreError if the fold has other plugins than the state.
    """
    have, want = sorted(fold.supervisor.actors), sorted(actor.name for actor in state.actors)
    if have != want:
        raise StoreError(
            f"a snapshot with the strategies {', '.join(want) or 'none'}: expected {', '.join(have) or 'none'}"
        )
    for code, key in enumerate(state.keys):
        if fold.keys.code(key) != code:
            raise StoreError(
                f"a snapshot in which {' '.join(key)} is key {code}: expected a fold that knows no keys yet"
            )
    fold.ingress.open([exchange for exchange, _ in state.keys])
    fold.ingress.state[:], fold.ingress.counts[:] = state.ingress, state.counts
    fold.ingress.next_sequence = state.sequence + 1
    for actor in state.actors:
        supervised = fold.supervisor.actors[actor.name]
        supervised.actor.restore(actor.snapshot)
        supervised.listening = actor.listening
        supervised.put_record(actor.failures, actor.failed, actor.failed_in, actor.succeeded_in)
    for kind, chains in state.chains.items():
        fold.digests[kind].put(chains)
    for one in keys:
        if one.lane:
            fold.features.lane(one.key).restore(one.lane)
        for kind, chains in one.chains.items():
            fold.digests[kind].put(chains)
    fold.become(state.gaps, state.signals, state.symbols, state.is_history)
    fold.stand_at(Heartbeat(state.timestamp, state.received, state.sequence))
    fold.bus.round = state.round
    fold.bus.refresh()


class Capture:
    """Takes the state of a fold at the sequence where it is made, while the fold goes on. `sink` gets each key's once.

    room: memory for the arenas of large keys, made ready before. with_lanes: without, only what digests need is taken. A fold has one
    capture at a time: raises StoreError if another is under way.
    """

    def __init__(
        self,
        fold: Fold,
        sink: Callable[[KeyState], None],
        room: Mapping[Key, npt.NDArray[np.float64]] | None = None,
        *,
        with_lanes: bool = True,
    ) -> None:
        if fold.before_change is not None:
            raise StoreError("a snapshot is being taken: expected one at a time")
        self.state = fold_state(fold)
        self.is_aborted = False
        self._fold = fold
        self._sink = sink
        self._room = room or {}
        self._with_lanes = with_lanes
        self._pending = dict.fromkeys(range(len(self.state.keys)))
        fold.before_change = self._take

    def step(self) -> bool:
        """Take one more key; return whether there was one. Lets go of the fold after the last."""
        code = next(iter(self._pending), None)
        if code is None:
            self._let_go()
            return False
        self._take(code)
        return True

    def abort(self) -> None:
        """Take nothing more. What was not complete by then is aborted."""
        self.is_aborted = self.is_aborted or bool(self._pending)
        self._pending.clear()
        self._let_go()

    def _let_go(self) -> None:
        if self._fold.before_change == self._take:
            self._fold.before_change = None

    def _take(self, code: int) -> None:
        if code not in self._pending:
            return
        del self._pending[code]
        # Whether it has a state is asked of the moment that is captured: its first input may have come since.
        has_lane = self._with_lanes and bool(self.state.ingress[code, RECEIVED] != NO_ID)
        self._sink(key_state(self._fold, code, has_lane=has_lane, room=self._room.get(self._fold.keys[code])))


def lane_digest(parts: Iterable[bytes]) -> bytes:
    """Hash one key's arena and newest rows."""
    total = hashlib.sha256()
    update(total, parts)
    return total.digest()


def state_digest(state: FoldState, lanes: Mapping[Key, bytes]) -> str:
    """Hash all that a restart must know, key by key in order: arenas and newest rows (`lanes`), ids; then the strategies' states."""
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
    return total.hexdigest()


def chain_digests(state: FoldState, keyed: Mapping[str, Iterable[ChainState]]) -> dict[str, str]:
    """Return the digest of each kind of stream, from the chains of all keys and those of the state."""
    return {
        "inputs": hexdigest_of(keyed["inputs"]),
        "features": hexdigest_of(keyed["features"]),
        "predictions": hexdigest_of(state.chains["predictions"]),
        "signals": hexdigest_of(state.chains["signals"]),
    }
