"""Recorded inputs into a data folder: journaled before they are folded and kept as a daemon would have, so that one can go on from there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from engine.app.keeper import Keeper, write_digest
from engine.clock import LiveClock
from engine.config import Config
from engine.errors import ReplayError
from engine.events import Answer, Configured
from engine.fold import Fold
from engine.ingress import Admitted
from replay.definition import definition_of, fold_config
from replay.working import Working, working
from store.folder import DataFolder
from store.journal import Journal

APPEND_ROWS = 4096
"""Most rows that one append may bring."""


@contextmanager
def kept_in(path: Path, config: Config, fold: Fold, strategies: Sequence[Any]) -> Iterator[Working | None]:
    """Keep what `fold` folds meanwhile in the data folder at `path`; at the end a snapshot and the digests.

    Yields the workers that the fold's models need, whose answers are kept too; None where they need none.

    Raises ReplayError if the folder holds inputs already, JournalError if it cannot be written.
    """
    folder = DataFolder(path)
    folder.acquire()
    try:
        journal = Journal.open(
            folder.journal,
            segment_bytes=config.journal.segment_mib << 20,
            fsync=config.journal.fsync,
            fsync_ms=config.journal.fsync_ms,
            retention_bytes=config.journal.retention_mib << 20,
            created=time.time_ns(),
        )
        try:
            if journal.next_sequence > 1:
                raise ReplayError(
                    f"{path}: expected an empty data folder, found one with inputs up to {journal.next_sequence - 1}"
                )
            definition = definition_of(config, fold.features, strategies)  # type: ignore[arg-type]
            configured = Configured(fold_config(config), definition, 1, 0, 0)
            configured = msgspec.structs.replace(configured, sequence=fold.ingress.number())
            journal.append_event(configured)
            fold.obey(configured)

            def write(admitted: Admitted) -> None:
                for start in range(0, len(admitted.block), APPEND_ROWS):
                    part = admitted.part(start, min(start + APPEND_ROWS, len(admitted.block)))
                    if part.sequence.any():
                        journal.append(part, fold.keys)

            def tell(answer: Answer) -> None:
                numbered = fold.number(answer)
                journal.append_event(numbered)
                fold.obey(numbered)

            fold.journal = write
            with working(fold, folder.models, definition, tell) as workers:
                yield workers
                keeper = Keeper(
                    fold, folder, journal, clock=LiveClock(), keep=config.snapshots.keep, configured=configured,
                    checkpoint_inputs=config.journal.checkpoint_inputs, may=lambda: True, exported=lambda: 0, warn=lambda _: None,
                    models=workers,
                )  # fmt: skip
                keeper.take_at_once(with_models=True)
                keeper.close()
            write_digest(folder, fold)
        finally:
            fold.journal = None
            journal.close()
    finally:
        folder.release()
