"""The keeper: a snapshot is whole or not there, of one sequence, and no more than the journal has behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from engine.app.keeper import Keeper
from engine.app.recording import Recording
from engine.capture import Capture, restore
from engine.clock import LiveClock
from engine.config import Config
from engine.errors import JournalCorruptError, ServiceError, StoreError
from engine.events import Configured, Key
from engine.fold import Fold
from engine.state import KeyState, state_digest
from replay.driver import build_fold
from replay.history import restore_newest
from store.folder import DataFolder
from store.journal import Journal
from store.snapshot import VERSION, FileHead, SnapshotWriter, read_snapshot, snapshots
from strategies import Strategy
from tests.folding import BTC, VIEWS, block_of, trade, trades

CONFIGURED = Configured("{}", "definition", 1, 0, 0, 1)


def key(number: int) -> Key:
    return ("x", f"K{number}/USDT")


def fresh(*plugins: Any) -> Fold:
    return build_fold(Config(), plugins, views=VIEWS, digests=True)


class Kept:
    """A fold over some keys with a journal and a keeper of its own."""

    def __init__(self, folder: Path, *plugins: Any, keys: int = 40, checkpoint_inputs: int = 1_000_000) -> None:
        self.folder = DataFolder(folder)
        self.fold = fresh(*plugins)
        self.journal = Journal.open(
            self.folder.journal, segment_bytes=1 << 20, fsync="never", fsync_ms=1000, retention_bytes=1 << 30, created=1
        )
        self.fold.journal = lambda admitted: self.journal.append(admitted, self.fold.keys)
        self.keys = keys
        self.pushed = 0
        self.may = True
        self.warnings: list[str] = []
        self.push(20)
        self.keeper = Keeper(
            self.fold, self.folder, self.journal, clock=LiveClock(), keep=2, configured=CONFIGURED,
            checkpoint_inputs=checkpoint_inputs, may=lambda: self.may, exported=lambda: None, warn=self.warnings.append,
        )  # fmt: skip

    def push(self, count: int) -> None:
        for number in range(self.keys):
            self.fold.push(block_of(self.fold.keys, trades(count, key(number), first_id=self.pushed + 1)))
        self.pushed += count

    def restored(self) -> Fold:
        fold = build_fold(Config(), [], views=VIEWS, digests=True, begins=False)
        restore(fold, *read_snapshot(snapshots(self.folder.snapshots)[0]))
        return fold


@contextmanager
def kept(folder: Path, *plugins: Any, **options: Any) -> Iterator[Kept]:
    made = Kept(folder, *plugins, **options)
    try:
        yield made
    finally:
        made.keeper.close()
        made.journal.close()


@pytest.mark.asyncio
async def test_a_snapshot_is_of_one_sequence_though_the_fold_goes_on(tmp_path: Path) -> None:
    with kept(tmp_path) as made:
        then = made.fold.digest()
        sequence = made.fold.sequence()
        taking = asyncio.ensure_future(made.keeper.take())
        await asyncio.sleep(0)
        made.push(7)
        taken = await taking
        assert taken is not None
        assert taken.sequence == sequence
        assert taken.digests == then
        assert made.restored().digest() == then
        assert made.keeper.digest().sequence >= sequence


@pytest.mark.asyncio
async def test_a_snapshot_that_is_cancelled_half_way_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.app.keeper.HOLD_NS", 0)  # gives way after each key
    with kept(tmp_path) as made:
        taking = asyncio.ensure_future(made.keeper.take())
        for _ in range(5):
            await asyncio.sleep(0)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert made.fold.before_change is None
        taken = await made.keeper.take()
        assert taken is not None
        assert [found.head.sequence for found in snapshots(made.folder.snapshots)] == [taken.sequence]
        assert made.restored().digest() == made.fold.digest()
        assert list(made.folder.snapshots.glob("*.part")) == []


@pytest.mark.asyncio
async def test_a_snapshot_at_once_gives_up_the_one_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.app.keeper.HOLD_NS", 0)
    with kept(tmp_path) as made:
        taking = asyncio.ensure_future(made.keeper.take())
        for _ in range(5):
            await asyncio.sleep(0)
        made.fold.push(block_of(made.fold.keys, trades(3, key(39), first_id=21)))
        made.keeper.take_at_once()
        assert await taking is None
        assert "given up" in made.warnings[0]
        assert [found.head.sequence for found in snapshots(made.folder.snapshots)] == [made.fold.sequence()]
        assert made.restored().digest() == made.fold.digest()


@pytest.mark.asyncio
async def test_nothing_is_kept_of_inputs_that_are_not_journaled(tmp_path: Path) -> None:
    with kept(tmp_path) as made:
        made.may = False
        assert await made.keeper.take() is None
        assert snapshots(made.folder.snapshots) == []


@pytest.mark.asyncio
async def test_a_state_that_cannot_be_kept_is_said_and_ends_nothing(tmp_path: Path) -> None:
    class Hoarder(Strategy):
        subscribes: ClassVar[list[str | type]] = ["quick"]

        class State(msgspec.Struct):
            things: dict[str, Any] = {}

        def on_features(self, event: Any) -> None:
            self.state.things["it"] = object()

    with kept(tmp_path, Hoarder()) as made:
        assert await made.keeper.take() is None
        assert "hoarder" in made.warnings[0]
        assert made.keeper.health().detail == made.warnings[0]
        made.push(1)  # and the fold goes on


@pytest.mark.asyncio
async def test_digests_are_noted_by_the_thread_where_there_are_many_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.app.keeper.INLINE_BYTES", 0)
    with kept(tmp_path, checkpoint_inputs=100) as made:
        made.push(10)
        then = {kind: made.fold.digests[kind].hexdigest() for kind in made.fold.digest_kinds}
        noting = asyncio.ensure_future(made.keeper.note_digest())
        await asyncio.sleep(0)
        sequence = made.fold.sequence()
        made.push(3)
        await noting
        found = made.keeper.digest()
        assert found.sequence == sequence
        assert {kind: getattr(found, kind) for kind in then} == then


def test_a_fold_has_one_capture_at_a_time(tmp_path: Path) -> None:
    with kept(tmp_path) as made:
        capture = Capture(made.fold, lambda _: None)
        with pytest.raises(StoreError, match="one at a time"):
            Capture(made.fold, lambda _: None)
        capture.abort()
        assert capture.is_aborted
        assert made.fold.before_change is None


def test_a_key_whose_first_input_comes_after_the_capture_is_no_part_of_it() -> None:
    fold = fresh()
    fold.push(block_of(fold.keys, trades(3)))
    late = ("x", "LATER/USDT")
    fold.keys.code(late)
    fold.open_keys()
    then = fold.digest()["state"]
    taken: list[KeyState] = []
    capture = Capture(fold, taken.append)
    fold.push(block_of(fold.keys, [trade(late, price=5.0)]))
    while capture.step():
        pass
    lanes = {one.key: fold.key_digest(one) for one in taken if one.lane}
    assert set(lanes) == {BTC}
    assert state_digest(capture.state, lanes) == then


def test_a_snapshot_without_some_of_its_keys_is_refused(tmp_path: Path) -> None:
    fold = fresh()
    for number in range(3):
        fold.push(block_of(fold.keys, trades(3, key(number))))
    state = fold.state()
    writer = SnapshotWriter(tmp_path, FileHead(VERSION, state.sequence, 0, CONFIGURED))
    for code in range(2):
        writer.add_key(fold.key_state(code, has_lane=True))
    writer.finish(state)
    with pytest.raises(JournalCorruptError, match="found 2 keys, expected each of the fold's 3 once"):
        read_snapshot(snapshots(tmp_path)[0])


def test_a_snapshot_newer_than_the_journal_is_deleted_before_its_numbers_are_given_again(tmp_path: Path) -> None:
    said: list[str] = []
    with kept(tmp_path) as made:
        made.keeper.take_at_once()
        [newer] = snapshots(made.folder.snapshots)

        def build() -> tuple[Fold, str]:
            return build_fold(Config(), [], views=VIEWS, digests=True, begins=False), "definition"

        fold, _, found = restore_newest(build, made.folder, newer.head.sequence - 1, said.append)
        assert found is None
        assert fold.sequence() == 0
        assert "newer than the journal" in said[0]
        assert snapshots(made.folder.snapshots) == []


def test_a_snapshot_that_does_not_fit_half_way_is_passed_over(tmp_path: Path) -> None:
    said: list[str] = []
    with kept(tmp_path) as made:
        made.keeper.take_at_once()

        def build() -> tuple[Fold, str]:
            # The definition says that it fits; its plugins say otherwise.
            class Stranger(Strategy):
                pass

            return build_fold(Config(), [Stranger()], views=VIEWS, digests=True, begins=False), "definition"

        fold, _, found = restore_newest(build, made.folder, made.fold.sequence(), said.append)
        assert found is None
        assert len(fold.keys) == 0, "what was half restored is thrown away"
        assert "strategies" in said[0]


@pytest.mark.asyncio
async def test_the_exchange_is_started_again_until_it_comes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.app.recording.AGAIN_S", 0.0)
    recording = Recording(1.0)
    tries: list[int] = []
    up = asyncio.Event()

    async def spawn(port: int = 0) -> None:
        tries.append(port)

    async def served() -> None:
        if len(tries) < 3:
            raise ServiceError("the port is taken")
        up.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(recording, "spawn", spawn)
    monkeypatch.setattr(recording, "served", served)
    watching = asyncio.ensure_future(recording.watch(7, lambda _: None))
    async with asyncio.timeout(20):
        await up.wait()
    watching.cancel()
    assert tries == [7, 7, 7]
