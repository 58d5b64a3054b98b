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
from tests.daemons import Child, command

LOAD = {
    "FEEDS__REPLAY_SPEED": "60",
    "JOURNAL__SEGMENT_MIB": "1",
    "JOURNAL__CHECKPOINT_INPUTS": "2000",
    "SNAPSHOTS__EVERY_S": "0.2",
    "FEEDS__BACKOFF_FIRST_S": "0.01",
}
SEED = 20_261_124


def is_begun(folder: Path, pattern: str) -> Callable[[], bool]:
    """Whether a file is there that is not finished yet."""
    return lambda: any(folder.glob(pattern))


def check(folder: Path, acknowledged: int) -> None:
    """Start it again, stop it, and compare what it has become with one fold of its journal from the first input on."""
    with Child(folder, **LOAD) as child:
        started = child.health()
        assert started["live_sequence"] >= acknowledged, "an acknowledged input is lost"
        kept = child.stop()
    assert folded_again(folder) == kept, "the restarted daemon is not what one fold of its journal makes of nothing"


def folded_again(folder: Path) -> dict[str, Any]:
    """One uninterrupted fold of a journal, from its first input on."""
    data = DataFolder(folder)
    marks = landmarks(data)
    assert marks.first == 1
    known = past(data, marks, marks.last, Config(), load_strategies)
    assert known.found.snapshot is None
    for _ in fold_journal(known.fold, data.journal, until=marks.last):
        pass
    return {"inputs": known.fold.folded, "sequence": marks.last, "digest": known.fold.digest()}


def kill(folder: Path, moment: Callable[[Child], int]) -> None:
    """Kill a daemon at a moment; `moment` waits for it, and gives a sequence that was acknowledged by then."""
    with Child(folder, **LOAD) as child:
        acknowledged = moment(child)
        child.kill()
    check(folder, acknowledged)


def after(more: int) -> Callable[[Child], int]:
    """The moment when so many more inputs were journaled."""

    def wait(child: Child) -> int:
        begun = child.health()["live_sequence"]
        health = child.wait_for_sequence(begun + more)
        sequence: int = health["parts"]["journal"]["sequence"]
        return sequence

    return wait


def test_a_daemon_killed_at_random_moments_goes_on_bit_for_bit(tmp_path: Path) -> None:
    drawn = random.Random(SEED)
    folder = tmp_path / "data"
    for _ in range(5):
        kill(folder, after(drawn.randrange(200, 8000)))
    verdict = command("verify", folder)
    assert verdict.returncode == 0, verdict.stdout


@pytest.mark.parametrize(
    ("what", "pattern"),
    [("a snapshot", "snapshots/*.part"), ("a rotation", "journal/*.tmp"), ("an export", "ticks/*.tmp")],
)
def test_a_daemon_killed_inside(tmp_path: Path, what: str, pattern: str) -> None:
    folder = tmp_path / "data"
    begun = is_begun(folder, pattern)

    def wait(child: Child) -> int:
        sequence: int = child.health()["parts"]["journal"]["sequence"]
        deadline = time.monotonic() + 60.0
        while not begun():
            assert time.monotonic() < deadline, f"{what} was not begun within a minute"
        return sequence

    kill(folder, wait)


@pytest.mark.soak
def test_two_hundred_kills(tmp_path: Path) -> None:
    drawn = random.Random(SEED + 1)
    for number in range(200):
        # A new folder now and then, so that folding all of it again stays affordable.
        kill(tmp_path / f"data-{number // 20}", after(drawn.randrange(1, 20_000)))
