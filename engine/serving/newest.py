"""The newest predictions and outcomes for readers of the stream: one of each model and key at a time, however fast they come.

What models serve is read from the fold when it is sent, so a reader adds nothing to its work; what is reported as an event is kept
until it is sent, a newer one in the place of an older one. No more is kept than there are models and keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from engine.events import Outcome, Prediction
from engine.serving.host import Host
from engine.serving.operations import keys_of
from engine.serving.selection import Selection, message_of

Of: TypeAlias = tuple[type, str, str, str]
"""(kind of event, model, exchange, symbol)."""


class Conflated:
    """What waits for one reader, and up to which sequence it was sent."""

    def __init__(self) -> None:
        self._waiting: dict[Of, tuple[int, bytes]] = {}
        self._sent: dict[Of, int] = {}

    def put(self, event: Any, message: bytes) -> None:
        """Keep a message in the place of the older one of its model and key."""
        of = (type(event), event.model, event.exchange, event.symbol)
        self._waiting[of] = (event.sequence, message)

    def is_new(self, of: Of, sequence: int) -> bool:
        """Whether that is newer than what was sent; note that it is sent."""
        if self._sent.get(of, -1) >= sequence:
            return False
        self._sent[of] = sequence
        return True

    def take(self) -> Iterator[bytes]:
        """Yield what waits and is newer than what was sent."""
        waiting, self._waiting = self._waiting, {}
        for of, (sequence, message) in waiting.items():
            if self.is_new(of, sequence):
                yield message

    def clear(self) -> None:
        """Begin anew: the reader wants something else."""
        self._waiting.clear()
        self._sent.clear()


class OfModels:
    """Newest predictions and outcomes of a daemon's models as messages, each encoded once however many readers it goes to."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._encoded: dict[Of, tuple[int, bytes]] = {}

    def newer(self, selection: Selection, conflated: Conflated) -> Iterator[bytes]:
        """Yield the newest of each kind, model and key that is wanted and newer than what was sent."""
        stage = self._host.fold.models
        if stage is None:
            return
        readers = {Prediction: stage.latest, Outcome: stage.verified}
        wanted = {kind: read for kind, read in readers.items() if selection.has_type(kind)}
        for key in keys_of(self._host) if wanted and selection.keys is None else selection.keys or ():
            for spec in stage.specs:
                if selection.models is not None and spec.name not in selection.models:
                    continue
                for kind, read in wanted.items():
                    newest = read(spec.name, *key)
                    of = (kind, spec.name, *key)
                    if newest is not None and conflated.is_new(of, newest.sequence):
                        yield self._message(of, newest)

    def _message(self, of: Of, newest: Prediction | Outcome) -> bytes:
        known = self._encoded.get(of)
        if known is None or known[0] != newest.sequence:
            known = self._encoded[of] = (newest.sequence, message_of(newest))
        return known[1]
