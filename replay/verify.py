"""Checks a data folder: what is on the disk is what was written, and folding it again gives what the daemon noted.

First every record's checksum, the order of the sequences, and the segments against one another. Then each stretch of the journal that
was folded by one configuration without a break is folded anew, and the digests at each checkpoint are compared with those that the
daemon wrote there: the first difference is named by sequence and by kind of stream. Last the snapshots and `digest.json`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from engine.config import Config
from engine.errors import EngineError, JournalCorruptError, JournalError, ReplayError
from engine.fold import Fold
from replay.history import Landmarks, Past, fold_journal, landmarks, past
from store.folder import DataFolder
from store.journal_reader import scan
from store.snapshot import read_snapshot, snapshots


class Difference(msgspec.Struct, frozen=True):
    """Where the journal and what was noted of it part."""

    sequence: int
    what: str  # features, signals, state, ...
    recorded: str
    folded: str
    agreed_until: int  # the checkpoint before, at which all was equal; 0 if there was none


class Stretch(msgspec.Struct):
    """Inputs that one configuration folded without a break."""

    first: int
    last: int
    is_folded: bool = False
    checkpoints: int = 0  # that were compared
    note: str = ""  # why it was not folded again or not compared, or what else a reader should know


@dataclass
class Verdict:
    """What was found."""

    folder: str
    first: int = 0
    last: int = 0
    records: int = 0
    segments: int = 0
    torn: str = ""
    corrupt: str = ""
    file: str = ""
    offset: int | None = None
    difference: Difference | None = None
    breaks: list[dict[str, Any]] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    snapshots: int = 0
    bad_snapshots: list[str] = field(default_factory=list)
    digest: str = ""  # of which sequence digest.json is
    missing: list[str] = field(default_factory=list)
    """Snapshots and digests of inputs that the journal does not have, and what cannot be read."""

    @property
    def is_folded(self) -> bool:
        """Whether anything was folded again; in an empty journal there is nothing to fold."""
        return not self.last or any(stretch.is_folded for stretch in self.stretches)

    @property
    def passed(self) -> bool:
        return not (self.corrupt or self.difference or self.bad_snapshots or self.missing) and self.is_folded

    def to_builtins(self) -> dict[str, Any]:
        """As one JSON document."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return {"passed": self.passed, **found}

    def text(self) -> str:
        """As lines for people."""
        if self.corrupt and not self.records:
            return f"{self.folder}: CORRUPT  {self.corrupt}\nNOT VERIFIED"
        lines = [
            f"{self.folder}: {self.records:,} records in {self.segments} segments, sequences {self.first:,} to {self.last:,}"
        ]
        if self.torn:
            lines.append(f"torn tail: {self.torn}")
        if self.corrupt:
            lines.append(f"CORRUPT  {self.corrupt}")
        for one in self.breaks:
            lines.append(
                f"not journaled: sequences {one['first']:,} to {one['last']:,} ({one['reason']}); digests start anew there"
            )
        for stretch in self.stretches:
            lines.append(
                (
                    f"folded again: {stretch.first:,} to {stretch.last:,}, {stretch.checkpoints} checkpoints equal"
                    if stretch.is_folded
                    else f"not folded again: {stretch.first:,} to {stretch.last:,}"
                )
                + (f"; {stretch.note}" if stretch.note else "")
            )
        lines += [f"BAD SNAPSHOT  {reason}" for reason in self.bad_snapshots]
        lines += [f"MISSING  {reason}" for reason in self.missing]
        if self.snapshots:
            lines.append(f"{self.snapshots} snapshots are what was written")
        if self.digest:
            lines.append(f"digest.json: {self.digest}")
        if self.difference is not None:
            d = self.difference
            lines.append(
                f"DIFFERENT  {d.what} at sequence {d.sequence:,}: recorded {d.recorded}, folded {d.folded}; "
                + (f"equal at {d.agreed_until:,}" if d.agreed_until else "no checkpoint before it")
            )
        if not self.is_folded and not self.corrupt:
            lines.append("the checksums hold, but nothing could be folded again and compared")
        lines.append("verified" if self.passed else "NOT VERIFIED")
        return "\n".join(lines)


def verify(
    folder: DataFolder,
    config: Config,
    strategies: Callable[[Config], Sequence[Any]],
    *,
    use_journaled: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Check a folder. `use_journaled`: fold by the configuration that the journal holds, rather than by `config`.

    progress: hears (inputs done, of how many). Raises ReplayError if there is no journal to verify.
    """
    verdict = Verdict(str(folder.path))
    try:
        if not folder.exists():
            raise ReplayError(f"{folder.path}: expected a data folder of the daemon, with journal/ in it")
        overview = scan(folder.journal)
        verdict.first, verdict.last = overview.first_sequence, overview.last_sequence
        verdict.records, verdict.segments = overview.records, len(overview.segments)
        verdict.torn = str(overview.torn or "")
        marks = landmarks(folder)
    except JournalCorruptError as error:
        verdict.corrupt, verdict.file, verdict.offset = str(error), str(error.path), error.offset
        return verdict
    verdict.breaks = [{"first": one.first_lost, "last": one.last_lost, "reason": one.reason} for one in marks.breaks]
    _check_snapshots(folder, verdict)
    noted = _noted(folder, marks, verdict)
    total = sum(last - first + 1 for first, last in _stretches(marks))
    done = 0
    for first, last in _stretches(marks):
        stretch = Stretch(first, last)
        verdict.stretches.append(stretch)
        try:
            known = past(folder, marks, last, config, strategies, use_journaled=use_journaled)
        except JournalCorruptError as error:
            verdict.bad_snapshots.append(str(error))
            continue
        except EngineError as error:
            stretch.note = str(error)
            continue
        here = {sequence: digests for sequence, digests in noted.items() if first <= sequence <= last}
        behind = done

        def advance(reached: int, first: int = first, behind: int = behind) -> None:
            if progress is not None:
                progress(behind + max(reached - first + 1, 0), total)

        try:
            difference = _fold_again(folder, known, stretch, here, advance)
        except JournalCorruptError as error:
            verdict.corrupt, verdict.file, verdict.offset = str(error), str(error.path), error.offset
            return verdict
        except (JournalError, EngineError) as error:
            verdict.corrupt = str(error)
            return verdict
        done += last - first + 1
        if difference is not None:
            verdict.difference = difference
            return verdict
    return verdict


def _stretches(marks: Landmarks) -> list[tuple[int, int]]:
    """Cut the journal where another configuration begins, and where inputs are missing."""
    begins = sorted(
        {
            marks.first,
            *(one.sequence for one in marks.configured if one.sequence > marks.first),
            *(one.last_lost + 1 for one in marks.breaks),
        }
    )
    lost = {one.last_lost + 1: one.first_lost - 1 for one in marks.breaks}
    ends = [lost.get(following, following - 1) for following in begins[1:]] + [marks.last]
    return [(first, last) for first, last in zip(begins, ends, strict=True) if first <= last]


def _noted(folder: DataFolder, marks: Landmarks, verdict: Verdict) -> dict[int, dict[str, str]]:
    """Digests by the sequence at which they were noted: checkpoints, and the file that a clean stop writes."""
    noted: dict[int, dict[str, str]] = {}
    for checkpoint in marks.checkpoints:
        noted.setdefault(checkpoint.sequence, {}).update(checkpoint.digests)
    if folder.digest.is_file():
        try:
            final = msgspec.json.decode(folder.digest.read_bytes(), type=dict[str, Any])
            sequence = int(final["sequence"])
            verdict.digest = f"at sequence {sequence:,}"
            if sequence > marks.last:
                verdict.missing.append(_lost(folder.digest, sequence, marks.last))
            else:
                noted.setdefault(sequence, {}).update(final["digest"])
        except (OSError, msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            verdict.missing.append(
                f"{folder.digest}: expected inputs, sequence and digest: {type(error).__name__}: {error}"
            )
    return noted


def _lost(path: Path, sequence: int, last: int) -> str:
    return f"{path} is of sequence {sequence:,}, and the journal ends at {last:,}: {sequence - last:,} acknowledged inputs are missing"


def _check_snapshots(folder: DataFolder, verdict: Verdict) -> None:
    for found in snapshots(folder.snapshots, verdict.bad_snapshots.append):
        if found.head.sequence > verdict.last:
            verdict.missing.append(_lost(found.path, found.head.sequence, verdict.last))
        try:
            read_snapshot(found)
            verdict.snapshots += 1
        except (OSError, JournalError) as error:
            verdict.bad_snapshots.append(str(error))


def _fold_again(
    folder: DataFolder, known: Past, stretch: Stretch, noted: dict[int, dict[str, str]], advance: Callable[[int], None]
) -> Difference | None:
    """Fold one stretch from where it can be begun; return the first difference to what was noted."""
    notes = []
    if not known.is_as_recorded:
        notes.append("not compared: features or strategies are defined otherwise now than when they were recorded")
    if known.found.snapshot is not None:
        notes.append(f"begun at the snapshot of sequence {known.found.after:,}")
    stretch.note = "; ".join(notes)
    stretch.is_folded = True
    fold = known.fold
    agreed = 0
    pieces = fold_journal(fold, folder.journal, until=stretch.last, stops=sorted(noted))
    for sequence in itertools.chain((known.found.after,), pieces):
        advance(sequence)
        recorded = noted.get(sequence)
        if recorded is None or not known.is_as_recorded:
            continue
        stretch.checkpoints += 1
        difference = _compare(fold, sequence, recorded, agreed)
        if difference is not None:
            return difference
        agreed = sequence
    return None


def _compare(fold: Fold, sequence: int, recorded: dict[str, str], agreed: int) -> Difference | None:
    for kind, value in recorded.items():
        folded = fold.state_digest() if kind == "state" else fold.digests[kind].hexdigest()
        if folded != value:
            return Difference(sequence, kind, value, folded, agreed)
    return None
