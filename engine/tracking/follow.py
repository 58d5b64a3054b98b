"""Aliases that someone moved in MLflow: what they ask of the engine. Off by default.

Only `champion` is followed, and only to a version that this engine logged itself: the number stands in its own record, and what MLflow
has under that number still carries the hash of the state that was logged. What is promoted is the engine's living version of that name,
which has gone on learning; nothing is ever loaded from MLflow into the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from engine.tracking.registry import CHAMPION, Record, RegisteredModel, Subject, alias_of


class Moved(msgspec.Struct, frozen=True):
    """An alias names something else than the engine set it to."""

    subject: Subject
    name: str
    number: str  # MLflow's version that it names now
    version: str  # the engine's version that is to be champion, "" if the move is refused
    reason: str  # why it is refused, "" if it is not

    @property
    def target(self) -> str:
        """The target of the command that follows it."""
        return f"{self.subject.model}@{self.version} {self.subject.target}"


def moved_aliases(client: Any, record: Record) -> Iterator[Moved]:
    """Yield the moves since the last look, each once."""
    for known in record.models.values():
        if (found := moved_alias(client, record.engine, known)) is not None:
            yield found


def moved_alias(client: Any, engine: str, known: RegisteredModel) -> Moved | None:
    """Return what became of one model's champion alias, None if it is where it was. A move is noted, and so told once."""
    before, now = known.aliases.get(CHAMPION), alias_of(client, known.name, CHAMPION)
    if before is None or now is None or now == before:
        return None
    known.aliases[CHAMPION] = now
    logged = known.numbered(now)
    if logged is None:
        return Moved(known.subject, known.name, now, "", "this engine did not log that version")
    tags = client.get_model_version(known.name, now).tags
    if tags.get("tickfold.engine") != engine or tags.get("tickfold.state") != logged.sha256:
        return Moved(
            known.subject, known.name, now, "", "its tags are not those of the version that this engine logged"
        )
    current = known.numbered(before)
    if current is not None and current.version == logged.version:
        return None  # an older state of what is champion already
    return Moved(known.subject, known.name, now, logged.version, "")
