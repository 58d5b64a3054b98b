"""A daemon under load is killed at whatever instruction it is, and started again: as if nothing had happened.

What the loopback exchange sends at many times its pace is journaled, folded, kept in snapshots several times a second, rotated through
segments of 1 MiB and exported, so that a kill falls into each of these. Some kills are aimed: at the moment when a snapshot, a
segment or an export has been begun and is not finished.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.cli.options import load_strategies
from engine.config import Config
from replay.history import fold_journal, landmarks, past
from store.folder import DataFolder
from tests.commands import inside
from tests.daemons import Child

LOAD = {
    "FEEDS__REPLAY_SPEED": "60",
    "JOURNAL__SEGMENT_MIB": "1",
    "JOURNAL__CHECKPOINT_INPUTS": "2000",
    "SNAPSHOTS__EVERY_S": "0.2",
    "FEEDS__BACKOFF_FIRST_S": "0.01",
}
SEED = 20_261_124


Moment = Callable[[Child], int]
"""Waits for the moment of a kill; returns a sequence that was acknowledged by then."""


def killed_and_started(folder: Path, *moments: Moment) -> None:
    """Kill a daemon at each of the moments, one life after the other, and let the last life end well.

    No life has lost what an earlier one acknowledged, and what each found itself to be when it had started is what one uninterrupted
    fold of all of their journal, from the first input on, is at that place; so is what the last one was in the end.
    """
    acknowledged = 0
    found: list[tuple[int, dict[str, str]]] = []

    def note(child: Child) -> None:
        health = child.health()
        assert health["live_sequence"] >= acknowledged, "an acknowledged input is lost"
        found.append((health["sequence"], health["digest"]))

    for moment in moments:
        with Child(folder, **LOAD) as child:
            note(child)
            acknowledged = moment(child)
            child.kill()
    with Child(folder, **LOAD) as child:
        note(child)
        kept = child.stop()
    assert folded_again(folder, found) == kept, (
        "the restarted daemon is not what one fold of its journal makes of nothing"
    )


def folded_again(folder: Path, found: list[tuple[int, dict[str, str]]]) -> dict[str, Any]:
    """One uninterrupted fold of a journal from its first input on, compared on its way with what was found (by sequence)."""
    data = DataFolder(folder)
    marks = landmarks(data)
    assert marks.first == 1
    known = past(data, marks, marks.last, Config(), load_strategies)
    assert known.found.snapshot is None
    compared = []
    for reached in fold_journal(known.fold, data.journal, until=marks.last, stops=[sequence for sequence, _ in found]):
        for sequence, digest in found:
            if sequence == reached:
                now = known.fold.digest()
                assert {kind: now[kind] for kind in digest} == digest, f"a life that began at {sequence} was another"
                compared.append(sequence)
    assert compared == [sequence for sequence, _ in found]
    return {"inputs": known.fold.folded, "sequence": marks.last, "digest": known.fold.digest()}


def after(more: int) -> Moment:
    """The moment when so many more inputs were journaled."""

    def wait(child: Child) -> int:
        begun = child.health()["live_sequence"]
        health = child.wait_for_sequence(begun + more)
        sequence: int = health["parts"]["journal"]["sequence"]
        return sequence

    return wait


def begun(what: str, pattern: str) -> Moment:
    """The moment when a file of some kind has been begun and is not finished."""

    def wait(child: Child) -> int:
        sequence: int = child.health()["parts"]["journal"]["sequence"]
        deadline = time.monotonic() + 60.0
        while not any(child.folder.glob(pattern)):
            assert time.monotonic() < deadline, f"{what} was not begun within a minute"
        return sequence

    return wait


def test_a_daemon_killed_at_random_moments_goes_on_bit_for_bit(tmp_path: Path) -> None:
    drawn = random.Random(SEED)
    killed_and_started(tmp_path / "data", *(after(drawn.randrange(200, 8000)) for _ in range(5)))
    verdict = inside("verify", tmp_path / "data")
    assert verdict.returncode == 0, verdict.stdout


def test_a_daemon_killed_inside_a_snapshot_a_rotation_and_an_export_goes_on_bit_for_bit(tmp_path: Path) -> None:
    aims = {"a snapshot": "snapshots/*.part", "a rotation": "journal/*.tmp", "an export": "ticks/*.tmp"}
    killed_and_started(tmp_path / "data", *(begun(*aim) for aim in aims.items()))


@pytest.mark.soak
def test_two_hundred_kills(tmp_path: Path) -> None:
    drawn = random.Random(SEED + 1)
    for number in range(200):
        # A life that ends well behind each kill, so that its whole state is compared. A new folder now and then, so that folding all
        # of it again stays affordable.
        killed_and_started(tmp_path / f"data-{number // 20}", after(drawn.randrange(1, 20_000)))
