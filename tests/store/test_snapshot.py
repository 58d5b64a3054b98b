"""A fold that is cut anywhere, kept on disk and restored goes on bit for bit; what is damaged is refused with file and offset."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.capture import Capture, restore
from engine.config import Config, StoreConfig
from engine.errors import JournalCorruptError, JournalError, StoreError
from engine.events import Configured, FeatureEvent
from engine.fold import Fold
from engine.state import KeyState, chain_digests, state_digest
from replay.driver import build_fold
from store.snapshot import (
    VERSION,
    FileHead,
    SnapshotWriter,
    chains_of,
    prune,
    read_snapshot,
    remove_unfinished,
    snapshots,
)
from strategies import Strategy
from tests.folding import VIEWS, block_of, cut, failing, listener, recorded, trades

HEAD = FileHead(VERSION, 0, 0, Configured("{}", "definition", 1, 0, 0, 1))


class Counting(Strategy):
    """Signals on each third row, and at random ones: its state and its random numbers must both survive."""

    subscribes: ClassVar[list[str | type]] = ["quick", "bars"]

    class State(msgspec.Struct):
        rows: dict[str, int] = {}

    def on_features(self, event: FeatureEvent) -> Any:
        rows = self.state.rows
        rows[event.symbol] = rows.get(event.symbol, 0) + 1
        if rows[event.symbol] % 3 == 0 or self.random.random() < 0.1:
            yield self.signal(event, rows[event.symbol], "third")


def fresh(*, begins: bool = True, ring_rows: int = 64) -> Fold:
    config = Config(store=StoreConfig(ring_rows=ring_rows, block_rows=256))
    plugins = [Counting(), listener("quick", name="broken", answer=failing)]
    fold = build_fold(config, plugins, views=VIEWS, digests=True, begins=begins)
    return fold


def written(folder: Path, fold: Fold) -> Path:
    state = fold.state()
    writer = SnapshotWriter(folder, msgspec.structs.replace(HEAD, sequence=state.sequence))
    for code in range(len(state.keys)):
        writer.add_key(fold.key_state(code, has_lane=fold.ingress.has_input(code)))
    return writer.finish(state)


def restored(folder: Path, **options: Any) -> Fold:
    fold = fresh(begins=False, **options)
    restore(fold, *read_snapshot(snapshots(folder)[0]))
    return fold


def push(fold: Fold, first: int, last: int, size: int) -> None:
    keys, block = recorded()
    codes = [fold.keys.code(keys[code]) for code in range(len(keys))]
    assert codes == list(range(len(keys)))
    for part in cut(block.take(slice(first, last)), size):
        fold.push(part)


@pytest.fixture(scope="module")
def whole() -> dict[str, str]:
    fold = fresh()
    push(fold, 0, 3000, 100)
    return fold.digest()


@settings(max_examples=12)
@given(at=st.integers(0, 3000), size=st.sampled_from([1, 7, 100]))
def test_a_fold_restored_at_any_place_gives_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, whole: dict[str, str], at: int, size: int
) -> None:
    folder = tmp_path_factory.mktemp("snapshots")
    before = fresh()
    push(before, 0, at, 100)
    written(folder, before)
    after = restored(folder)
    assert after.digest() == before.digest()
    push(after, at, 3000, size)
    assert after.digest() == whole
    assert after.folded == 3000


def test_what_is_captured_while_the_fold_goes_on_is_of_one_sequence(tmp_path: Path, whole: dict[str, str]) -> None:
    fold = fresh()
    push(fold, 0, 1000, 100)
    at_once = fold.digest()
    taken: list[KeyState] = []
    capture = Capture(fold, taken.append)
    push(fold, 1000, 1500, 7)  # copies both keys before it changes them
    while capture.step():
        pass
    assert fold.before_change is None
    assert sorted(one.key for one in taken) == sorted(fold.keys[code] for code in range(len(fold.keys)))
    writer = SnapshotWriter(tmp_path, msgspec.structs.replace(HEAD, sequence=capture.state.sequence))
    for one in taken:
        writer.add_key(one)
    path = writer.finish(capture.state)
    again = restored(tmp_path)
    assert again.digest() == at_once
    push(again, 1000, 3000, 100)
    assert again.digest() == whole
    keyed = {kind: list(chains_of(path, kind)) for kind in ("inputs", "features", "predictions")}
    lanes = {one.key: fold.key_digest(one) for one in taken}
    assert {**chain_digests(capture.state, keyed), "state": state_digest(capture.state, lanes)} == at_once


def test_a_snapshot_keeps_parked_plugins_and_failures_in_a_row(tmp_path: Path) -> None:
    fold = fresh()
    push(fold, 0, 40, 1)
    assert not fold.supervisor.actors["broken"].listening
    written(tmp_path, fold)
    again = restored(tmp_path)
    assert not again.supervisor.actors["broken"].listening
    assert again.supervisor.actors["broken"].failed == 5


def test_signals_go_on_after_a_restart_and_on_start_does_not_run_again(tmp_path: Path) -> None:
    heard: list[str] = []

    class Starting(Strategy):
        def on_start(self) -> None:
            heard.append("start")

    config = Config()
    fold = build_fold(config, [Starting()], views=VIEWS, digests=True)
    fold.push(block_of(fold.keys, trades(3)))
    written(tmp_path, fold)
    again = build_fold(config, [Starting()], views=VIEWS, digests=True, begins=False)
    restore(again, *read_snapshot(snapshots(tmp_path)[0]))
    assert heard == ["start"]
    assert again.sequence() == 3


def test_any_flipped_byte_of_a_snapshot_is_refused_with_its_file(tmp_path: Path) -> None:
    fold = fresh()
    push(fold, 0, 300, 100)
    path = written(tmp_path, fold)
    good = path.read_bytes()
    for at in range(0, len(good), max(1, len(good) // 97)):
        bad = bytearray(good)
        bad[at] ^= 0x40
        path.write_bytes(bad)
        said: list[str] = []
        found = snapshots(tmp_path, said.append)
        if found:
            with pytest.raises(JournalError) as refused:
                read_snapshot(found[0])
            said.append(str(refused.value))
        assert len(said) == 1
        assert str(path) in said[0]


@pytest.mark.parametrize("left", [0, 7, 8, 50, 1000, -1, -8, -9])
def test_a_snapshot_that_was_cut_is_refused_with_its_offset(tmp_path: Path, left: int) -> None:
    fold = fresh()
    push(fold, 0, 300, 100)
    path = written(tmp_path, fold)
    path.write_bytes(path.read_bytes()[:left])
    said: list[str] = []
    for found in snapshots(tmp_path, said.append):
        with pytest.raises(JournalCorruptError) as refused:
            read_snapshot(found)
        assert refused.value.offset <= path.stat().st_size
        said.append(str(refused.value))
    assert len(said) == 1
    assert str(path) in said[0]


def test_a_snapshot_of_other_strategies_is_refused(tmp_path: Path) -> None:
    fold = fresh()
    written(tmp_path, fold)
    other = build_fold(Config(), [Counting()], views=VIEWS, digests=True, begins=False)
    with pytest.raises(StoreError, match="with the strategies broken, counting: expected counting"):
        restore(other, *read_snapshot(snapshots(tmp_path)[0]))


def test_only_the_newest_snapshots_are_kept_and_what_was_never_finished_goes(tmp_path: Path) -> None:
    fold = fresh()
    for first in range(0, 500, 100):
        push(fold, first, first + 100, 100)
        written(tmp_path, fold)
    (tmp_path / "00000000000000000999.part").write_bytes(b"half")
    remove_unfinished(tmp_path)
    left = prune(tmp_path, 2)
    assert [found.head.sequence for found in left] == [500, 400]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    fold = fresh()
    push(fold, 0, 300, 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(JournalError, match=r"snapshot .*\.snap: File too large"):
            written(tmp_path, fold)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_fold_that_knows_keys_already_cannot_become_another(tmp_path: Path) -> None:
    fold = fresh()
    push(fold, 0, 10, 10)
    written(tmp_path, fold)
    other = fresh(begins=False)
    other.keys.code(("somewhere", "else"))
    with pytest.raises(StoreError, match="expected a fold that knows no keys yet"):
        restore(other, *read_snapshot(snapshots(tmp_path)[0]))


def test_rows_that_were_there_before_can_be_read_after(tmp_path: Path) -> None:
    fold = fresh()
    push(fold, 0, 900, 100)
    written(tmp_path, fold)
    again = restored(tmp_path)
    for view in ("quick", "slow", "bars"):
        for code in range(len(fold.keys)):
            old, new = (one.features.last(view, *fold.keys[code], 64) for one in (fold, again))  # type: ignore[attr-defined]
            assert old.values.tobytes() == new.values.tobytes()
            assert old.sequence.tolist() == new.sequence.tolist()
