"""The journal written: all or nothing, on and on through rotations, kills, full disks and failing ones."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store.journal_disk
import store.segment
from engine.errors import JournalError
from engine.events import Configured, FeedStatus, Heartbeat, Tick
from engine.ingress import DUPLICATE, Admitted
from store.journal_disk import Disk
from store.journal_reader import Break, Checkpoint, scan
from store.records import RECORD_BYTES
from tests.journaling import (
    START,
    block_at,
    check_rows,
    expected_rows,
    fill,
    heartbeat_at,
    keys_of,
    open_journal,
    read_plain,
    wait_for,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = 4096


def broken(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


# Appending ----------------------------------------------------------------------------------------------------------------------


def test_a_fresh_journal_begins_with_input_1(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal") as journal:
        assert (journal.next_sequence, journal.last_received, journal.synced, journal.segments) == (1, 0, 0, 1)
        assert (journal.torn, journal.failure, journal.bytes_written) == (None, "", 0)
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["00000000000000000001.seg"]


def test_an_append_counts_inputs_times_and_bytes(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        admitted = block_at(1, 10)
        journal.append(admitted, keys_of(3))
        assert journal.next_sequence == 11
        assert journal.last_received == admitted.received.max()
        assert journal.bytes_written == (10 + 3 * 2) * RECORD_BYTES  # three keys, each with a part
        journal.append_event(Heartbeat(5, 6, 11))
        assert journal.next_sequence == 12
        assert journal.last_received == admitted.received.max()
        journal.append_event(Heartbeat(5, START * 2, 12))
        assert journal.last_received == START * 2


def test_rows_that_are_no_inputs_are_not_written(tmp_path: Path) -> None:
    admitted = block_at(1, 10)
    outcome, sequence = np.insert(admitted.outcome, 4, DUPLICATE), np.insert(admitted.sequence, 4, 0)
    rows = np.insert(np.arange(len(admitted.block)), 4, 0)
    gaps = admitted.gaps + np.array([1, 0, 0, 0, 0, 0]) * (admitted.gaps[:, :1] >= 4)
    with open_journal(tmp_path) as journal:
        journal.append(
            Admitted(admitted.block.take(rows), outcome, sequence, admitted.received[rows], gaps), keys_of(3)
        )
        nothing = np.full(len(rows), DUPLICATE, np.uint8)
        none = np.zeros((0, 6), np.int64)
        journal.append(
            Admitted(admitted.block.take(rows), nothing, sequence * 0, admitted.received[rows], none), keys_of(3)
        )
        assert journal.next_sequence == 11
    assert read_plain(tmp_path) == expected_rows(1, 10)


def test_sequences_that_do_not_go_on_are_refused_and_named(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, keys_of(3), [5])
        with pytest.raises(JournalError, match="row 0 is input 8: expected 6, the next of the journal"):
            journal.append(block_at(8, 2), keys_of(3))
        with pytest.raises(JournalError, match="Heartbeat is input 9: expected 6"):
            journal.append_event(Heartbeat(1, 2, 9))
        with pytest.raises(JournalError, match="found Tick: expected one of FeedStatus, Heartbeat"):
            journal.append_event(Tick("x", "y", 1.0, 1.0, None, 1, 2, sequence=6))  # type: ignore[arg-type]
        with pytest.raises(JournalError, match="a checkpoint of input 6: expected at most 5"):
            journal.note_checkpoint(6, {})
        with pytest.raises(JournalError, match="cannot be written as JSON"):
            journal.append_event(FeedStatus("x", "", "lost", "\ud800", 1, 2, 6))
        with pytest.raises(JournalError, match="at most 1048576 bytes of JSON"):
            journal.append_event(Configured("x" * (1 << 20), "", 1, 2, 3, 6))
        assert (journal.next_sequence, journal.failure) == (6, "")
        fill(journal, keys_of(3), [5])
    assert read_plain(tmp_path) == expected_rows(1, 5) + expected_rows(6, 10)


def test_more_keys_than_a_record_can_name_are_refused(tmp_path: Path) -> None:
    keys = keys_of(65_536)
    admitted = block_at(1, 2, keys=3)
    with open_journal(tmp_path, segment_bytes=1 << 20) as journal:
        for code, is_fine in ((65_534, True), (65_535, False)):
            admitted = block_at(journal.next_sequence, 2)
            admitted.block.key[:] = code
            if is_fine:
                journal.append(admitted, keys)
            else:
                with pytest.raises(JournalError, match="key number 65535: expected at most 65535 keys"):
                    journal.append(admitted, keys)
        assert journal.next_sequence == 3
    assert [row[2] for row in read_plain(tmp_path)] == [("x", "K65534/USDT")] * 2


def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    fill(journal, keys_of(3), [5])
    journal.close()
    journal.close()
    calls: list[Callable[[], None]] = [
        lambda: journal.append(block_at(6, 1), keys_of(3)),
        lambda: journal.append_event(Heartbeat(1, 2, 6)),
        lambda: journal.note_checkpoint(5, {}),
        lambda: journal.resume(6, "reason"),
    ]
    for call in calls:
        with pytest.raises(JournalError, match="it is closed"):
            call()


# Segments -----------------------------------------------------------------------------------------------------------------------


def test_a_full_segment_is_sealed_and_cut_to_what_it_holds(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys_of(3), [30] * 20)
        assert journal.segments > 4
    *sealed, newest = scan(tmp_path).segments
    assert all(segment.is_sealed and segment.bytes == PAGE + segment.records * RECORD_BYTES for segment in sealed)
    assert not newest.is_sealed
    assert newest.bytes == 3 * PAGE
    assert not list(tmp_path.glob("*.tmp"))
    assert read_plain(tmp_path) == rows


def test_the_next_segment_is_reserved_once_the_newest_is_half_full(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        keys = keys_of(3)
        rows = fill(journal, keys, [50])
        assert not list(tmp_path.glob("*.tmp"))
        rows += fill(journal, keys, [20])
        wait_for(lambda: journal.size_bytes == 2 * 3 * PAGE)
        (ahead,) = tmp_path.glob("*.tmp")
        inode = ahead.stat().st_ino
        rows += fill(journal, keys, [60])
        assert (tmp_path / "00000000000000000071.seg").stat().st_ino == inode
    assert read_plain(tmp_path) == rows


def test_what_is_larger_than_a_segment_gets_one_of_its_own_size(tmp_path: Path) -> None:
    keys = keys_of(3)
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys, [1_000, 1, 500])
        event = Configured("configuration " * 10_000, "definition", 1, 2, 3, journal.next_sequence)
        journal.append_event(event)
        rows += [event, *fill(journal, keys, [10])]
    assert read_plain(tmp_path) == rows
    assert len({path.name for path in tmp_path.iterdir()}) == len(scan(tmp_path).segments)


def test_a_break_is_kept_if_its_segment_is_too_small_for_the_first_input(tmp_path: Path) -> None:
    event = Configured("configuration " * 10_000, "definition", 1, 2, 3, 50)
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys_of(3), [10])
        journal.resume(50, "reason")
        journal.append_event(event)
        assert journal.segments == 2
    assert read_plain(tmp_path) == [*rows, Break("reason", 11, 49), event]


def test_opened_again_it_goes_on_where_it_ended(tmp_path: Path) -> None:
    rows: list[Any] = []
    for turn in range(12):
        with open_journal(tmp_path, fsync=("always", "interval", "never")[turn % 3]) as journal:
            assert journal.next_sequence == len(rows) + 1
            assert journal.last_received == (rows[-1][4] if rows else 0)
            assert journal.torn is None
            rows += fill(journal, keys_of(3), [25, 1])
    assert read_plain(tmp_path) == rows


def test_a_larger_segment_size_holds_from_the_next_segment_on(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys_of(3), [20])
    with open_journal(tmp_path, segment_bytes=16 * PAGE) as journal:
        rows += fill(journal, keys_of(3), [700])
        assert journal.segments == 1
    assert read_plain(tmp_path) == rows


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    (tmp_path / "1.tmp").write_bytes(b"x" * 5_000)
    with open_journal(tmp_path) as journal:
        assert not (tmp_path / "1.tmp").exists()
        fill(journal, keys_of(3), [300])


# The disk -----------------------------------------------------------------------------------------------------------------------


def test_always_means_that_what_is_appended_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[int] = []
    real = store.segment.force

    def force(fd: int) -> None:
        forced.append(fd)
        real(fd)

    monkeypatch.setattr(store.journal_disk, "force", force)
    with open_journal(tmp_path, fsync="always") as journal:
        for turn in range(5):
            before = len(forced)
            fill(journal, keys_of(3), [30])
            assert journal.synced == 30 * (turn + 1)
            assert len(forced) > before
        journal.append_event(heartbeat_at(151))
        assert journal.synced == 151


def test_at_intervals_what_is_appended_comes_to_the_disk_by_itself(tmp_path: Path) -> None:
    with open_journal(tmp_path, fsync="interval", fsync_ms=1) as journal:
        for _ in range(5):
            fill(journal, keys_of(3), [30])
            wait_for(lambda: journal.synced == journal.next_sequence - 1)
    with open_journal(tmp_path, fsync="interval", fsync_ms=60_000) as journal:
        assert journal.synced == 150
        fill(journal, keys_of(3), [10])
        assert journal.synced == 150
        journal.sync()
        assert journal.synced == 160


def test_never_means_that_only_whole_segments_are_known_to_be_on_the_disk(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, keys_of(3), [100])
        assert journal.synced == 0
        fill(journal, keys_of(3), [100])
        wait_for(lambda: journal.synced == 100)


def test_what_could_not_be_forced_to_the_disk_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_journal(tmp_path, fsync="always") as journal:
        rows = fill(journal, keys_of(3), [10])
        with monkeypatch.context() as patch:
            patch.setattr(store.journal_disk, "force", broken)
            with pytest.raises(JournalError, match="cannot be forced to the disk: Input/output error"):
                fill(journal, keys_of(3), [10])
        assert (journal.next_sequence, journal.synced) == (11, 10)
        assert read_plain(tmp_path) == rows
        with pytest.raises(JournalError, match="cannot be forced"):
            fill(journal, keys_of(3), [10])
        with pytest.raises(JournalError, match="cannot be forced"):
            journal.append_event(heartbeat_at(11))
        journal.resume(31, "the disk failed")
        rows += [Break("the disk failed", 11, 30), *fill(journal, keys_of(3), [10])]
        assert (journal.failure, journal.synced) == ("", 40)
    assert read_plain(tmp_path) == rows


def test_what_fails_in_the_background_is_raised_by_the_next_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_journal(tmp_path, fsync="interval") as journal:
        rows = fill(journal, keys_of(3), [10])
        wait_for(lambda: journal.synced == 10)
        monkeypatch.setattr(store.journal_disk, "force", broken)
        rows += fill(journal, keys_of(3), [10])
        wait_for(lambda: journal.failure)
        with pytest.raises(JournalError, match="cannot be forced to the disk: Input/output error"):
            fill(journal, keys_of(3), [10])
        assert journal.next_sequence == 21
        monkeypatch.undo()
        journal.sync()
        assert journal.synced == 10  # the system may have let go of what it could not write
        journal.resume(21, "the disk failed")
        rows += [Break("the disk failed", 21, 20), *fill(journal, keys_of(3), [10])]
    assert read_plain(tmp_path) == rows


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB of its own, where the system lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tickfold-test", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting needs privileges that are not there: {mounted.stderr.decode(errors='replace').strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_an_error_and_once_there_is_room_it_goes_on(disk: Path) -> None:
    keys = keys_of(3)
    with open_journal(disk / "journal", segment_bytes=8 * PAGE, retention_bytes=1) as journal:
        rows: list[Any] = []
        error = ""
        while not error:
            try:
                rows += fill(journal, keys, [50])
            except JournalError as full:
                error = str(full)
        assert error.endswith("cannot be given a new segment: No space left on device")
        assert len(rows) > 2_000
        with pytest.raises(JournalError, match="No space left on device"):
            fill(journal, keys, [50])
        assert journal.next_sequence == len(rows) + 1
        with pytest.raises(JournalError, match="cannot be resumed: No space left on device"):
            journal.resume(9_001, "the disk was full")
        with pytest.raises(JournalError, match="cannot be resumed"):
            journal.append_event(heartbeat_at(journal.next_sequence))
        assert read_plain(disk / "journal") == rows
        deleted = journal.retain(1_500)
        assert deleted
        rows = [row for row in rows if row[0] >= scan(disk / "journal").first_sequence]
        journal.resume(9_001, "the disk was full")
        rows += [Break("the disk was full", rows[-1][0] + 1, 9_000), *fill(journal, keys, [50] * 3)]
    assert read_plain(disk / "journal") == rows
    with open_journal(disk / "journal", segment_bytes=8 * PAGE) as journal:
        assert (journal.next_sequence, journal.torn) == (9_151, None)


def test_a_full_disk_at_the_start_is_an_error(disk: Path) -> None:
    with pytest.raises(JournalError, match="cannot be opened: No space left on device"):
        open_journal(disk / "journal", segment_bytes=1 << 20)
    assert list((disk / "journal").iterdir()) == []


def test_a_disk_that_cannot_be_written_is_an_error(disk: Path) -> None:
    with open_journal(disk / "journal") as journal:
        rows = fill(journal, keys_of(3), [10])
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(JournalError, match="cannot be opened: Read-only file system"):
        open_journal(disk / "journal")
    assert read_plain(disk / "journal") == rows


def test_a_limit_on_the_size_of_files_is_an_error(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys_of(3), [60])
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * PAGE, limits[1]))
        try:
            with pytest.raises(JournalError, match="cannot be given a new segment: File too large"):
                fill(journal, keys_of(3), [80])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list(tmp_path.glob("*.tmp"))
        rows += fill(journal, keys_of(3), [80])
    assert read_plain(tmp_path) == rows


# Resuming -----------------------------------------------------------------------------------------------------------------------


def test_resuming_says_what_was_lost_and_goes_on_behind_it(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys_of(3), [20])
        with pytest.raises(JournalError, match="cannot resume at input 20: expected at least 21"):
            journal.resume(20, "reason")
        journal.resume(31, "first")
        assert (journal.next_sequence, journal.segments) == (31, 2)
        journal.note_checkpoint(30, {"features": "f"})
        rows += [Break("first", 21, 30), Checkpoint(30, {"features": "f"}), *fill(journal, keys_of(3), [5])]
        journal.resume(36, "nothing was lost")
        rows.append(Break("nothing was lost", 36, 35))
        journal.resume(40, "and again")
        rows += [Break("and again", 36, 39), *fill(journal, keys_of(3), [5])]
    assert read_plain(tmp_path) == rows
    assert scan(tmp_path).last_sequence == 44
    with open_journal(tmp_path) as journal:
        assert journal.next_sequence == 45


def test_a_break_before_which_nothing_came_swallows_the_one_in_its_place(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys_of(3), [20])
        journal.resume(31, "first")
        journal.resume(31, "second")
        assert journal.segments == 2
        rows += [Break("second", 21, 30), *fill(journal, keys_of(3), [5])]
    assert read_plain(tmp_path) == rows


def test_an_empty_journal_can_begin_anywhere(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        journal.resume(1_000, "a snapshot without its journal")
        rows = fill(journal, keys_of(3), [20])
    assert read_plain(tmp_path) == [Break("a snapshot without its journal", 1, 999), *rows]
    assert read_plain(tmp_path, after=999) == rows


# Retention ----------------------------------------------------------------------------------------------------------------------


def test_retention_deletes_the_oldest_and_nothing_that_is_needed(tmp_path: Path) -> None:
    with open_journal(tmp_path, retention_bytes=5 * 3 * PAGE) as journal:
        rows = fill(journal, keys_of(3), [30] * 40)
        journal.sync()
        segments = scan(tmp_path).segments
        assert journal.retain(segments[0].last_sequence - 1) == []
        assert journal.retain(segments[2].last_sequence, exported=segments[0].last_sequence) == [segments[0].path]
        assert journal.retain(segments[2].last_sequence, exported=rows[-1][0]) == [s.path for s in segments[1:3]]
        rest = journal.retain(journal.next_sequence)
        assert rest
        assert journal.size_bytes <= 5 * 3 * PAGE
        assert journal.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
        left = scan(tmp_path)
        assert journal.segments == len(left.segments)
        assert journal.retain(journal.next_sequence) == []
    assert read_plain(tmp_path) == rows[left.first_sequence - 1 :]
    with open_journal(tmp_path, retention_bytes=1) as journal:
        journal.retain(journal.next_sequence)
        assert journal.segments == 1
        assert journal.next_sequence == len(rows) + 1


# Kills --------------------------------------------------------------------------------------------------------------------------


class Copies:
    """Copies a folder before each step that a journal takes on the disk, as a kill at that step would leave it."""

    def __init__(self, folder: Path, to: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.to = to
        self.taken: list[tuple[Path, int]] = []  # with the newest input that was acknowledged by then
        self.acknowledged = 0
        for module, name in (
            (os, "pwrite"), (os, "rename"), (os, "ftruncate"), (os, "posix_fallocate"),
            (store.segment, "force"), (store.journal_disk, "force"), (store.journal_disk, "force_folder"),
        ):  # fmt: skip
            patch.setattr(module, name, self.around(getattr(module, name)))

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            self.take()
            return real(*arguments)

        return step

    def take(self) -> None:
        copy = self.to / f"{len(self.taken)}"
        shutil.copytree(self.folder, copy)
        self.taken.append((copy, self.acknowledged))


@pytest.mark.parametrize("fsync", ["never", "always"])
def test_killed_at_any_step_a_journal_opens_with_all_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str
) -> None:
    keys = keys_of(3)
    rows: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            Disk, "start", lambda disk: None
        )  # its work is done below, so that no copy is made while another writes
        journal = open_journal(tmp_path / "journal", fsync=fsync)
        copies = Copies(tmp_path / "journal", tmp_path / "copies", patch)
        for turn in range(20):
            rows += fill(journal, keys, [31])
            copies.acknowledged = journal.next_sequence - 1
            if turn % 3 == 0:
                journal._disk.finish_retired()
        journal._disk.sync()
        copies.take()
        journal.close()
    assert len(copies.taken) > 30
    for folder, acknowledged in copies.taken:
        found = read_plain(folder)
        assert found == rows[: len(found)]
        assert len(found) >= acknowledged
        with open_journal(folder) as again:
            assert again.torn is None
            assert again.next_sequence == len(found) + 1
            more = fill(again, keys, [100])
        assert read_plain(folder) == found + more


def test_killed_at_any_step_of_resuming_a_journal_is_as_before_or_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = keys_of(3)
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "start", lambda disk: None)
        journal = open_journal(tmp_path / "journal")
        rows = fill(journal, keys, [31] * 5)
        copies = Copies(tmp_path / "journal", tmp_path / "copies", patch)
        journal.resume(500, "one")
        one = Break("one", len(rows) + 1, 499)
        journal.resume(500, "two")
        two = Break("two", len(rows) + 1, 499)
        journal.resume(600, "three")
        three = Break("three", 500, 599)
        copies.take()
        journal.close()
    states = [rows, [*rows, one], [*rows, two], [*rows, two, three]]
    seen = set()
    for folder, _ in copies.taken:
        found = read_plain(folder)
        state = states.index(found)
        seen.add(state)
        with open_journal(folder) as again:
            assert again.torn is None
            assert again.next_sequence == (len(rows) + 1, 500, 500, 600)[state]
            again.resume(700, "at last")
            more = fill(again, keys, [5])
        lost = (len(rows) + 1, 500, 500, 600)[state]
        assert read_plain(folder) == [*found, Break("at last", lost, 699), *more]
    assert seen == {0, 1, 2, 3}


def kill_and_look(folder: Path, seeds: range) -> None:
    """Kill a process that writes as fast as it can, again and again, and read what it left."""
    for seed in seeds:
        chance = random.Random(seed)
        acknowledged = 0
        fsync = ("never", "interval", "always")[seed % 3]
        command = [sys.executable, "-m", "tests.journaling", str(folder), str(seed), fsync]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            try:
                for _ in range(chance.randint(1, 400)):
                    acknowledged = int(child.stdout.readline())
            finally:
                child.kill()
            rest = child.stdout.read()
        whole = rest[: rest.rfind("\n") + 1].split()
        acknowledged = int(whole[-1]) if whole else acknowledged
        inputs = [row for row in read_plain(folder) if not isinstance(row, Checkpoint)]
        check_rows(inputs)
        newest = scan(folder).last_sequence
        assert newest >= acknowledged
        assert newest == (inputs[-1].sequence if isinstance(inputs[-1], Heartbeat) else inputs[-1][0])


def test_killed_while_it_writes_a_journal_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    kill_and_look(tmp_path, range(5))


@pytest.mark.soak
def test_killed_200_times_a_journal_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    kill_and_look(tmp_path, range(1_000, 1_200))


def test_keys_stay_what_they_are_through_rotations_with_many_of_them(tmp_path: Path) -> None:
    keys = keys_of(60)
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys, [60] * 10)
        assert journal.segments >= 10
    assert read_plain(tmp_path) == rows
