"""Takes the state of a fold while it goes on, one key at a time, and makes another fold of it.

`Capture` copies all that is small at once. A key's arena, rows and open digest chunks are copied when their turn comes, or just before
the fold changes them: so every part is of the same sequence, and no copy takes longer than that of one key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from engine.block import NO_ID
from engine.errors import StoreError
from engine.events import Heartbeat, Key
from engine.fold import Fold
from engine.ingress import RECEIVED
from engine.state import FoldState, KeyState


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
        self.state = fold.state()
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
        room = self._room.get(self._fold.keys[code])
        self._sink(self._fold.key_state(code, has_lane=has_lane, room=room))


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
    if fold.models is not None:
        fold.models.restore_common(state.models)
    for one in keys:
        if one.lane:
            fold.features.lane(one.key).restore(one.lane)
        if one.models and fold.models is not None:
            fold.models.restore(one.key, one.models)
        for kind, chains in one.chains.items():
            fold.digests[kind].put(chains)
    fold.become(state.gaps, state.signals, state.symbols, state.is_history)
    fold.stand_at(Heartbeat(state.timestamp, state.received, state.sequence))
    fold.bus.round = state.round
    fold.bus.refresh()
