"""A daemon's data folder as the past of a fold: where a state begins, what of the journal follows, and folding that.

State at sequence N = what the configuration in force at N makes of the journal. Where all of the journal since that state began is
there, it is folded from its beginning; where its start is gone, or inputs were not journaled in between, from the oldest snapshot after
that. Digests are of the same rows either way: a snapshot holds their chains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.block import Keys
from engine.capture import restore
from engine.config import Config
from engine.errors import EngineError, JournalError, ReplayError
from engine.events import Configured
from engine.fold import TOLD, Fold
from engine.ingress import Admitted
from replay.definition import config_of, definition_of
from replay.driver import build_fold
from store.folder import DataFolder
from store.journal_reader import Break, Checkpoint, read, scan
from store.segment_reader import CHUNK_RECORDS
from store.snapshot import Found, read_snapshot, snapshots


@dataclass
class Landmarks:
    """What is said in a journal besides its inputs of the market, up to a sequence."""

    first: int  # sequences of the oldest input that is kept, and of the newest
    last: int
    configured: list[Configured] = field(default_factory=list)
    breaks: list[Break] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)

    def configured_at(self, sequence: int) -> Configured:
        """Return the configuration in force at a sequence. Raises ReplayError where what it was is gone."""
        known = [one for one in self.configured if one.sequence <= sequence]
        if not self.last:
            raise ReplayError("the journal holds no input: expected a folder in which a daemon has run")
        if not known:
            raise ReplayError(
                f"the configuration at sequence {sequence} is not in the journal, which begins at {self.first}"
            )
        return known[-1]


@dataclass(frozen=True)
class Beginning:
    """Where to begin folding for the state at a sequence: behind `after`, at nothing or at a snapshot."""

    configured: Configured
    after: int
    snapshot: Found | None


def landmarks(folder: DataFolder, until: int | None = None) -> Landmarks:
    """Read a journal through for its landmarks. Raises ReplayError if there is no journal, JournalCorruptError if it is not whole."""
    if not folder.exists():
        raise ReplayError(f"{folder.path}: expected a data folder of the daemon, with journal/ in it")
    overview = scan(folder.journal)
    # What the state was folded by may stand in a segment that is gone; then a snapshot has it.
    earlier = {found.head.configured.sequence: found.head.configured for found in snapshots(folder.snapshots)}
    last = overview.last_sequence if until is None else min(overview.last_sequence, until)
    known = [earlier[sequence] for sequence in sorted(earlier) if sequence < overview.first_sequence]
    marks = Landmarks(overview.first_sequence, last, known)
    for item in read(folder.journal, Keys(), until=last):
        if isinstance(item, Configured):
            marks.configured.append(item)
        elif isinstance(item, Break):
            marks.breaks.append(item)
        elif isinstance(item, Checkpoint):
            marks.checkpoints.append(item)
    return marks


def beginnings(folder: DataFolder, marks: Landmarks, sequence: int) -> list[Beginning]:
    """Return where one may begin for the state at a sequence, the best first: with the first input, or at the oldest snapshot that leads there.

    Raises ReplayError that says what is gone if nothing of what is kept leads there.
    """
    configured = marks.configured_at(sequence)
    # A configuration that came after a break was made of all that was kept, across the break; one that lived through it was not.
    lived_through = [one.last_lost for one in marks.breaks if configured.sequence <= one.last_lost < sequence]
    if not lived_through and marks.first <= configured.begins:
        return [Beginning(configured, configured.begins - 1, None)]
    oldest = max([configured.sequence, *lived_through])
    fit = [
        Beginning(configured, found.head.sequence, found)
        for found in reversed(snapshots(folder.snapshots))
        if found.head.definition == configured.definition and oldest <= found.head.sequence <= sequence
    ]
    if fit:
        return fit
    why = "inputs were not journaled" if lived_through else f"the journal begins at sequence {marks.first}"
    raise ReplayError(
        f"{folder.path}: the state at sequence {sequence} cannot be folded again: {why}, and no snapshot between {oldest} and there is kept"
    )


@dataclass(frozen=True)
class Past:
    """A fold that stands where folding again begins."""

    fold: Fold
    found: Beginning
    config: Config
    is_as_recorded: bool
    """Whether features and strategies are defined as they were then: otherwise the digests differ."""


def past(
    folder: DataFolder,
    marks: Landmarks,
    sequence: int,
    config: Config,
    strategies: Callable[[Config], Sequence[Any]],
    *,
    use_journaled: bool = True,
    report: Callable[[Any], None] | None = None,
) -> Past:
    """Build the fold that is to become the state at a sequence, and bring it to where the journal has to be folded from.

    `use_journaled`: fold by the configuration that was in force, rather than by `config`. Raises ReplayError if nothing of what is
    kept leads there.
    """
    why = ""
    for found in beginnings(folder, marks, sequence):
        used = config_of(found.configured, config) if use_journaled else config
        plugins = strategies(used)
        fold = build_fold(used, plugins, digests=True, report=report, begins=False)
        definition = definition_of(used, fold.features, plugins)  # type: ignore[arg-type]
        try:
            _begin(fold, found, definition)
        except (OSError, EngineError) as error:
            why = why or str(error)  # the next newer snapshot may be good
            continue
        return Past(fold, found, used, definition == found.configured.definition)
    raise ReplayError(why)


def _begin(fold: Fold, found: Beginning, definition: str) -> None:
    """Bring a fold that was not started to where folding begins. Raises ReplayError if it computes something else than the snapshot."""
    if found.snapshot is None:
        fold.start()
        fold.ingress.next_sequence = found.after + 1
        return
    if definition != found.snapshot.head.definition:
        raise ReplayError(
            f"{found.snapshot.path}: made by another definition of features or strategies, and the journal before it is gone"
        )
    restore(fold, *read_snapshot(found.snapshot))


def restore_newest(
    build: Callable[[], tuple[Fold, str]],
    folder: DataFolder,
    last: int,
    passed_over: Callable[[str], None],
    *,
    fits: Callable[[Fold, Found], None] | None = None,
) -> tuple[Fold, str, Found | None]:
    """Return a fold that is what the newest good snapshot of its definition was taken of, its definition, and that snapshot.

    build: makes a fold that was not started, and its definition; called again where a snapshot turns out not to fit half-way. None
    for the snapshot: nothing was restored, and the fold is as it was built. A snapshot newer than the journal, which ends at `last`,
    is deleted: the inputs that it was of are lost, and others will get their numbers. `passed_over` hears why each was not taken.
    fits: raises EngineError where what belongs to a snapshot and is no part of it is not there.
    """
    fold, definition = build()
    for found in snapshots(folder.snapshots, passed_over):
        if found.head.sequence > last:
            passed_over(f"{found.path}: deleted, for it is newer than the journal, which ends at {last}")
            found.path.unlink(missing_ok=True)
        elif found.head.definition != definition:
            passed_over(f"{found.path}: made by another definition of features or strategies")
        else:
            try:
                restore(fold, *read_snapshot(found))
                if fits is not None:
                    fits(fold, found)
            except (OSError, EngineError) as error:
                passed_over(str(error))
                fold, definition = build()
                continue
            fold.configured = found.head.configured
            return fold, definition, found
    return fold, definition, None


def fold_journal(
    fold: Fold,
    journal: Path,
    *,
    until: int | None = None,
    stops: Sequence[int] = (),
    pace: Callable[[int], None] | None = None,
    rows: int = CHUNK_RECORDS,
) -> Iterator[int]:
    """Fold what follows in the journal; yield the sequence reached after each piece, at most `rows` inputs.

    `stops`: sequences, ascending, behind which a piece ends. pace: called with the `received` of the first input of each piece. A gap
    whose trade lies behind `until` is not folded either: the two are one step.
    """
    waiting = [stop for stop in stops if stop >= fold.ingress.next_sequence]
    for item in read(journal, fold.keys, after=fold.ingress.next_sequence - 1, until=until, rows=rows):
        if isinstance(item, Admitted):
            for part in _cut(item, waiting):
                if pace is not None and len(part.block):
                    pace(int(part.received[0]))
                fold.replay(part)
                yield fold.ingress.next_sequence - 1
        elif isinstance(item, Break):
            # What came in between is lost to everybody: the state goes on, the digests start anew.
            fold.ingress.next_sequence = item.last_lost + 1
            for digests in fold.digests.values():
                digests.clear()
        elif isinstance(item, TOLD):
            numbered = fold.number(item)
            if item.sequence != numbered.sequence:
                raise JournalError(f"{type(item).__name__} {item.sequence}: expected {numbered.sequence}")
            fold.obey(numbered)
            yield item.sequence
        while waiting and waiting[0] < fold.ingress.next_sequence:
            waiting.pop(0)


def _cut(admitted: Admitted, stops: Sequence[int]) -> Iterator[Admitted]:
    """Cut behind each stop that lies within."""
    start = 0
    for stop in stops:
        end = int(admitted.sequence.searchsorted(stop, side="right"))
        if start < end < len(admitted.block):
            yield admitted.part(start, end)
            start = end
    yield admitted.part(start, len(admitted.block)) if start else admitted
