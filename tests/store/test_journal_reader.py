"""The journal read back: what was appended, cut where asked, torn tails told apart from damage."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.block import Block, Keys
from engine.errors import JournalCorruptError, JournalError
from engine.events import Command, Configured, FeedStatus, Gap, Heartbeat, History, Shed
from engine.fold import Told
from engine.ingress import LATE, TRADE, Admitted
from store.journal import Journal
from store.journal_disk import Disk
from store.journal_reader import Break, Checkpoint, read, scan
from store.records import EVENT, RECORD_BYTES, WORDS
from store.segment import HEADER_BYTES, header_of, segment_name
from store.segment_reader import kind_of
from tests.journaling import expected_rows, fill, keys_of, open_journal, plain, read_plain, rows_of

PAGE = 4096
INT64 = st.integers(-(2**63), 2**63 - 1)
BITS = st.integers(0, 2**64 - 1)
TEXT = st.text(max_size=200)
NAMES = st.text(min_size=1, max_size=8)
FREE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class Rows(list[Any]):
    """Rows with a short name: of a long one Hypothesis warns when it tells of a failure, and the warning would stand in its place."""

    def __repr__(self) -> str:
        return f"{len(self)} rows"


EVENTS: st.SearchStrategy[Told] = st.one_of(
    st.builds(Heartbeat, INT64, INT64),
    st.builds(FeedStatus, TEXT, TEXT, st.sampled_from(["connected", "lost", "clock_skew"]), TEXT, INT64, INT64),
    st.builds(Command, st.sampled_from(["park", "snapshot"]), TEXT, INT64, INT64),
    st.builds(Configured, TEXT, TEXT, INT64, INT64, INT64),
    st.builds(History, st.sampled_from(["begins", "ends"]), TEXT, INT64, INT64),
    st.builds(Shed, INT64, TEXT, INT64, INT64),
)


@st.composite
def admitted_blocks(draw: st.DrawFn) -> tuple[Admitted, Keys]:
    """Any block that an ingress could give, as if its next sequence were 1; numbers of every bit pattern."""
    keys = Keys()
    for key in draw(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=4, unique=True)):
        keys.code(key)
    count = draw(st.integers(1, 25))
    outcome = np.array(draw(st.lists(st.integers(0, 7), min_size=count, max_size=count)), np.uint8)
    kind = np.array(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)), np.uint8)
    kind[outcome == TRADE] = 0
    kind[outcome == TRADE + 1] = 1
    sequence = np.zeros(count, np.int64)
    gaps: list[list[int]] = []
    number = 1
    for row in range(count):
        if TRADE <= outcome[row] <= LATE:
            if outcome[row] == TRADE and draw(st.booleans()):
                gaps.append([row, number, *draw(st.lists(INT64, min_size=4, max_size=4))])
                number += 1
            sequence[row] = number
            number += 1

    def integers(values: st.SearchStrategy[int], kind: Any) -> Any:
        return np.array(draw(st.lists(values, min_size=count, max_size=count)), kind)

    floats = [integers(BITS, np.uint64).view(np.float64) for _ in range(4)]
    block = Block(
        integers(st.integers(0, len(keys) - 1), np.int32), kind, integers(INT64, np.int64), integers(INT64, np.int64),
        floats[0], floats[1], integers(st.integers(-1, 1), np.int8), floats[2], floats[3], integers(INT64, np.int64),
        (outcome == LATE).astype(np.uint8),
    )  # fmt: skip
    return Admitted(block, outcome, sequence, integers(INT64, np.int64), np.array(gaps, np.int64).reshape(-1, 6)), keys


def told(event: Told, journal: Journal) -> Told:
    """Number an event and append it."""
    numbered = msgspec.structs.replace(event, sequence=journal.next_sequence)
    journal.append_event(numbered)
    return numbered


# What was appended is what is read ---------------------------------------------------------------------------------------------


@FREE
@given(admitted_blocks(), st.lists(EVENTS, max_size=3), st.integers(1, 30))
def test_whatever_is_appended_is_read_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, block: tuple[Admitted, Keys], events: list[Told], rows: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    admitted, keys = block
    with open_journal(folder) as journal:
        journal.append(admitted, keys)
        expected = [*rows_of(admitted, keys), *(told(event, journal) for event in events)]
        assert journal.last_received == max(
            0, *(row[4] if isinstance(row, tuple) else row.received for row in expected), 0
        )
    mine = Keys()
    found = list(read(folder, mine, rows=rows))
    assert plain(found, mine) == expected
    blocks = [item for item in found if isinstance(item, Admitted)]
    assert all(len(item.block) <= rows for item in blocks)
    assert all(len(item.block.ask) in (0, len(item.block)) for item in blocks)
    assert all(bool(len(item.block.ask)) == bool(item.block.kind.any()) for item in blocks)
    assert all((item.block.late == (item.outcome == LATE)).all() for item in blocks)
    assert scan(folder).last_sequence == len(expected)


def test_blocks_go_on_across_segments_and_declarations_of_keys(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys_of(5), [50] * 10)
        assert journal.segments > 3
    keys = Keys()
    found = list(read(tmp_path, keys))
    assert [type(item) for item in found] == [Admitted]
    assert plain(found, keys) == rows
    assert scan(tmp_path).last_sequence == 500


def test_a_reader_numbers_keys_as_it_meets_them(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys_of(3), [20])
    keys = Keys()
    keys.code(("other", "KEY"))
    keys.code(("x", "K2/USDT"))
    found = list(read(tmp_path, keys))
    assert plain(found, keys) == rows
    assert len(keys) == 4


def test_each_segment_can_be_read_alone(tmp_path: Path) -> None:
    with open_journal(tmp_path / "all") as journal:
        rows = fill(journal, keys_of(3), [30] * 12)
    for segment in scan(tmp_path / "all").segments:
        alone = tmp_path / segment.path.stem
        alone.mkdir()
        shutil.copy(segment.path, alone)
        assert read_plain(alone) == [r for r in rows if segment.first_sequence <= r[0] <= segment.last_sequence]


def test_a_number_that_means_another_key_later_is_declared_again(tmp_path: Path) -> None:
    swapped = Keys()
    for number in (2, 0, 1):
        swapped.code(("x", f"K{number}/USDT"))
    with open_journal(tmp_path, segment_bytes=1 << 20) as journal:
        rows = fill(journal, keys_of(3), [20]) + fill(journal, swapped, [20])
    with open_journal(tmp_path, segment_bytes=1 << 20) as journal:
        rows += fill(journal, keys_of(3), [20])
        assert journal.segments == 1
    assert read_plain(tmp_path) == rows


@pytest.mark.parametrize("rows", [1, 7, 65_536])
def test_what_is_read_is_cut_exactly(tmp_path: Path, rows: int) -> None:
    with open_journal(tmp_path) as journal:
        keys = keys_of(3)
        content: list[Any] = []
        for _ in range(8):
            content += fill(journal, keys, [25])
            content.append(told(Heartbeat(journal.next_sequence, 5), journal))

    def place(item: Any) -> int:
        return item[0] if isinstance(item, tuple) else int(item.sequence)

    for after, until in ((0, 208), (0, 1), (24, 27), (101, 130), (207, None), (208, None), (60, 60), (9, 23)):
        found = read_plain(tmp_path, after=after, until=until, rows=rows)
        expected = [item for item in content if after < place(item) <= (until or 1 << 40)]
        if isinstance(found[-1] if found else None, Gap):
            gap = found.pop()
            lone = expected.pop()
            assert (gap.sequence, "gap", (gap.exchange, gap.symbol), gap.timestamp, gap.received) == lone[:5]
            assert (gap.first_id, gap.last_id, gap.missing, gap.filled) == lone[5:]
        assert found == expected


def test_a_gap_whose_trade_lies_behind_the_cut_comes_as_an_event(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys_of(3), [30])
    at = next(row[0] for row in rows if row[1] == "gap")
    found = read_plain(tmp_path, until=at)
    assert found[:-1] == rows[: at - 1]
    assert isinstance(found[-1], Gap)
    assert found[-1].sequence == at
    assert read_plain(tmp_path, after=at) == rows[at:]
    assert read_plain(tmp_path, after=at - 1) == rows[at - 1 :]


def test_what_is_no_input_comes_with_the_input_before_it(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        first = fill(journal, keys_of(3), [10])
        journal.note_checkpoint(8, {"features": "a"})
        second = fill(journal, keys_of(3), [10])
    note = Checkpoint(8, {"features": "a"})
    assert read_plain(tmp_path) == [*first, note, *second]
    assert read_plain(tmp_path, until=10) == [*first, note]
    assert read_plain(tmp_path, until=9) == first[:9]
    assert read_plain(tmp_path, after=9, until=11) == [first[9], note, second[0]]
    assert read_plain(tmp_path, after=10) == second


def test_segments_before_the_cut_are_not_read(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys_of(3), [30] * 10)
    first, second, *_ = scan(tmp_path).segments
    damaged = bytearray(first.path.read_bytes())
    damaged[HEADER_BYTES] ^= 1
    first.path.write_bytes(damaged)
    assert read_plain(tmp_path, after=first.last_sequence) == rows[first.last_sequence :]
    with pytest.raises(JournalCorruptError):
        read_plain(tmp_path, after=first.last_sequence - 1)
    first.path.unlink()
    assert read_plain(tmp_path)[0][0] == second.first_sequence
    with pytest.raises(JournalError, match=f"begins at input {second.first_sequence}: expected 2; older segments"):
        read_plain(tmp_path, after=1)


def test_an_empty_folder_and_none_hold_nothing(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert read_plain(folder) == []
        assert (scan(folder).segments, scan(folder).last_sequence) == ((), 0)


# A torn tail --------------------------------------------------------------------------------------------------------------------


def small(folder: Path) -> list[Any]:
    """A journal of one open segment that ends with a gap and its trade, an event of three parts, a checkpoint and a quote."""
    with open_journal(folder) as journal:
        keys = keys_of(2)
        rows = fill(journal, keys, [10])
        rows.append(told(FeedStatus("x", "", "lost", "détail " * 20, 1, 2), journal))
        journal.note_checkpoint(11, {"features": "f"})
        rows.append(Checkpoint(11, {"features": "f"}))
        return rows + fill(journal, keys, [8])


def is_prefix(found: list[Any], rows: list[Any]) -> bool:
    return found == rows[: len(found)]


@pytest.mark.parametrize("how", ["cut short", "zeros"])
def test_cut_at_any_byte_a_journal_ends_with_its_last_whole_group(tmp_path: Path, how: str) -> None:
    rows = small(tmp_path / "whole")
    path = next((tmp_path / "whole").glob("*.seg"))
    data = path.read_bytes()
    records = scan(tmp_path / "whole").records
    end = HEADER_BYTES + records * RECORD_BYTES
    folder = tmp_path / "cut"
    folder.mkdir()
    counts = set()
    for at in range(HEADER_BYTES, end + 1):
        (folder / path.name).write_bytes(data[:at] if how == "cut short" else data[:at].ljust(len(data), b"\0"))
        found = read_plain(folder)
        counts.add(len(found))
        assert is_prefix(found, rows)
        overview = scan(folder)
        whole = HEADER_BYTES + overview.records * RECORD_BYTES
        left = data[whole:at].rstrip(b"\0")
        assert (overview.torn is not None) == bool(left)
        if overview.torn is not None:
            assert (overview.torn.path, overview.torn.offset) == (folder / path.name, whole)
            assert overview.torn.records <= (at - whole) // RECORD_BYTES
            assert len(left) <= overview.torn.bytes <= len(left) + RECORD_BYTES
        if at % 61 == 0:
            with open_journal(folder) as journal:
                assert journal.torn == overview.torn
                assert journal.next_sequence == overview.last_sequence + 1
                again = fill(journal, keys_of(2), [4])
            assert read_plain(folder) == found + again
            assert scan(folder).torn is None
    gaps = {number for number, row in enumerate(rows, 1) if isinstance(row, tuple) and row[1] == "gap"}
    assert counts == set(range(len(rows) + 1)) - gaps


def test_a_page_that_was_never_written_back_takes_what_follows_with_it(tmp_path: Path) -> None:
    with open_journal(tmp_path, segment_bytes=64 * PAGE) as journal:
        rows = fill(journal, keys_of(3), [40] * 20)
    path = next(tmp_path.glob("*.seg"))
    data = bytearray(path.read_bytes())
    data[3 * PAGE : 4 * PAGE] = bytes(PAGE)
    path.write_bytes(data)
    # Three declarations of keys in two records each, and the inputs. The last record before the page is a gap; its trade is in it.
    total = 6 + 20 * 40
    overview = scan(tmp_path)
    assert overview.torn is not None
    assert (overview.records, overview.torn.offset) == (127, 3 * PAGE - RECORD_BYTES)
    assert overview.torn.records == total - 127 - 64
    with open_journal(tmp_path, segment_bytes=64 * PAGE) as journal:
        assert journal.torn == overview.torn
        assert "valid records are cut" in str(journal.torn)
        kept = journal.next_sequence - 1
        again = fill(journal, keys_of(3), [10])
    assert read_plain(tmp_path) == rows[:kept] + again


def test_part_of_a_page_may_be_older_than_the_page_behind_it(tmp_path: Path) -> None:
    with open_journal(tmp_path, segment_bytes=64 * PAGE) as journal:
        rows = fill(journal, keys_of(3), [40] * 5)
    path = next(tmp_path.glob("*.seg"))
    data = bytearray(path.read_bytes())
    data[2 * PAGE + 20 * RECORD_BYTES : 3 * PAGE] = bytes(PAGE - 20 * RECORD_BYTES)
    path.write_bytes(data)
    torn = scan(tmp_path).torn
    assert torn is not None
    assert torn.offset in (2 * PAGE + 20 * RECORD_BYTES, 2 * PAGE + 19 * RECORD_BYTES)  # a gap goes with its trade
    assert is_prefix(read_plain(tmp_path), rows)


def test_a_header_that_never_came_to_the_disk_takes_its_segment_with_it(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        rows = fill(journal, keys_of(3), [30] * 10)
    *_, before, newest = scan(tmp_path).segments
    data = newest.path.read_bytes()
    for left in (b"", bytes(100), bytes(PAGE), bytes(PAGE) + data[PAGE:]):
        newest.path.write_bytes(left)
        torn = scan(tmp_path).torn
        assert torn is not None
        assert (torn.path, torn.offset, torn.dropped) == (newest.path, 0, newest.path)
        assert torn.records == (newest.records if len(left) > PAGE else 0)
        assert read_plain(tmp_path) == rows[: before.last_sequence]
    with open_journal(tmp_path) as journal:
        assert journal.torn is not None
        assert journal.next_sequence == before.last_sequence + 1
        again = fill(journal, keys_of(3), [30])
    assert read_plain(tmp_path) == rows[: before.last_sequence] + again


@pytest.fixture
def two_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Any]]:
    """A copy of a journal as a kill just after a rotation leaves it: the segment before the newest is not sealed."""
    with open_journal(tmp_path / "running") as journal:
        monkeypatch.setattr(Disk, "_seal_retired", lambda self: None)
        rows = fill(journal, keys_of(3), [30] * 6)
        assert journal.segments == 2
        shutil.copytree(tmp_path / "running", tmp_path / "killed")
        monkeypatch.undo()
    for leftover in (tmp_path / "killed").glob("*.tmp"):
        assert leftover.stat().st_size == 3 * PAGE
    return tmp_path / "killed", rows


def test_killed_before_the_old_segment_is_sealed_nothing_is_lost(two_open: tuple[Path, list[Any]]) -> None:
    folder, rows = two_open
    assert read_plain(folder) == rows
    assert [segment.is_sealed for segment in scan(folder).segments] == [False, False]
    with open_journal(folder) as journal:
        assert (journal.torn, journal.segments) == (None, 2)
        assert not list(folder.glob("*.tmp"))
        rows += fill(journal, keys_of(3), [10])
    assert [segment.is_sealed for segment in scan(folder).segments] == [True, False]
    assert read_plain(folder) == rows


@pytest.mark.parametrize("pages", [1, 2])
def test_a_power_cut_after_a_rotation_may_take_the_end_of_the_segment_before(
    two_open: tuple[Path, list[Any]], pages: int
) -> None:
    folder, rows = two_open
    first, newest = scan(folder).segments
    data = bytearray(first.path.read_bytes())
    data[-pages * PAGE :] = bytes(pages * PAGE)
    first.path.write_bytes(data)
    torn = scan(folder).torn
    assert torn is not None
    assert (torn.path, torn.dropped) == (first.path, newest.path)
    assert torn.records == newest.records
    with open_journal(folder) as journal:
        assert (journal.torn, journal.segments) == (torn, 1)
        kept = journal.next_sequence - 1
        again = fill(journal, keys_of(3), [10])
    assert read_plain(folder) == rows[:kept] + again


# Damage -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def journal_of_three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Two sealed segments and an open one."""
    folder = tmp_path_factory.mktemp("three")
    with open_journal(folder) as journal:
        rows = fill(journal, keys_of(3), [30] * 9)
        rows.append(told(FeedStatus("x", "", "lost", "detail" * 30, 1, 2), journal))
        assert journal.segments == 3
    return folder, Rows(rows)


@FREE
@given(number=st.integers(0, 2), from_end=st.integers(1, 12 * PAGE), bit=st.integers(0, 7))
@example(number=2, from_end=1, bit=0)
@example(number=2, from_end=RECORD_BYTES, bit=7)
@example(number=2, from_end=RECORD_BYTES + 1, bit=7)
@example(number=1, from_end=1, bit=0)
def test_one_flipped_bit_is_named_with_its_file_and_record(
    tmp_path_factory: pytest.TempPathFactory,
    journal_of_three: tuple[Path, list[Any]],
    number: int,
    from_end: int,
    bit: int,
) -> None:
    source, rows = journal_of_three
    folder = tmp_path_factory.mktemp("flipped") / "journal"
    shutil.copytree(source, folder)
    segment = scan(folder).segments[number]
    content = bytearray(segment.path.read_bytes())
    used = HEADER_BYTES + segment.records * RECORD_BYTES
    byte = -from_end % used
    records = np.frombuffer(content, np.uint64, segment.records * WORDS, HEADER_BYTES).reshape(-1, WORDS)
    event = max((row for row in range(segment.records) if kind_of(records, row) == EVENT), default=0)
    del records
    content[byte] ^= 1 << bit
    segment.path.write_bytes(content)
    last_record = used - RECORD_BYTES
    if not segment.is_sealed and byte >= last_record:
        torn = scan(folder).torn
        assert torn is not None
        parts = segment.records - event - 1  # the newest of them is the one that is flipped
        assert (torn.path, torn.offset) == (segment.path, HEADER_BYTES + event * RECORD_BYTES)
        assert torn.records == parts > 1
        assert read_plain(folder) == rows[:-1]
        return
    with pytest.raises(JournalCorruptError) as caught:
        scan(folder)
    error = caught.value
    assert error.path == segment.path
    assert (
        error.offset == HEADER_BYTES + (byte - HEADER_BYTES) // 64 * 64 if byte >= HEADER_BYTES else error.offset < 60
    )
    with pytest.raises(JournalCorruptError) as caught:
        read_plain(folder)
    assert (caught.value.path, caught.value.offset) == (error.path, error.offset)
    if not segment.is_sealed or byte < HEADER_BYTES:
        with pytest.raises(JournalCorruptError) as caught:
            open_journal(folder)
        assert (caught.value.path, caught.value.offset) == (error.path, error.offset)


def test_the_error_says_what_was_found_and_what_was_expected(
    journal_of_three: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    shutil.copytree(journal_of_three[0], tmp_path / "journal")
    path = tmp_path / "journal" / segment_name(1)
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + 40 * RECORD_BYTES + 3] ^= 8
    path.write_bytes(content)
    with pytest.raises(
        JournalCorruptError, match=r"seg: byte 6656: found a record with check 0x[0-9a-f]{8}, expected 0x"
    ):
        scan(tmp_path / "journal")


def resize(folder: Path, by: int) -> tuple[Path, int]:
    path = folder / segment_name(1)
    data = path.read_bytes()
    path.write_bytes(data[:by] if by < 0 else data + b"\1" * by)
    return path, len(data) + min(by, 0)


def remove(folder: Path) -> tuple[Path, int]:
    *_, second, third = scan(folder).segments
    second.path.unlink()
    return third.path, 16


def rename(folder: Path) -> tuple[Path, int]:
    *_, second, _ = scan(folder).segments
    path = second.path.with_name(segment_name(second.first_sequence + 1))
    second.path.rename(path)
    return path, 16


def unseal(folder: Path) -> tuple[Path, int]:
    path = folder / segment_name(1)
    header = header_of(path)
    assert header is not None
    data = path.read_bytes()
    path.write_bytes(replace(header, records=-1, last_sequence=0).pack() + data[PAGE:])
    return path, 40


def swap(folder: Path) -> tuple[Path, int]:
    path = folder / segment_name(1)
    data = bytearray(path.read_bytes())
    first, second = (slice(HEADER_BYTES + at * 64, HEADER_BYTES + at * 64 + 64) for at in (20, 21))
    data[first], data[second] = data[second], data[first]
    path.write_bytes(data)
    return path, HEADER_BYTES + 20 * 64


def blank(folder: Path) -> tuple[Path, int]:
    path = folder / segment_name(1)
    path.write_bytes(bytes(PAGE) + path.read_bytes()[PAGE:])
    return path, 0


def blank_page(folder: Path) -> tuple[Path, int]:
    path = folder / segment_name(1)
    data = path.read_bytes()
    path.write_bytes(data[:PAGE] + bytes(PAGE) + data[2 * PAGE :])
    return path, PAGE


def blank_record(folder: Path) -> tuple[Path, int]:
    newest = scan(folder).segments[-1]
    data = bytearray(newest.path.read_bytes())
    at = HEADER_BYTES + 12 * 64
    data[at : at + 64] = bytes(64)
    newest.path.write_bytes(data)
    return newest.path, at


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: resize(folder, -10),
        lambda folder: resize(folder, -RECORD_BYTES),
        lambda folder: resize(folder, 10),
        lambda folder: resize(folder, 100),
        remove,
        rename,
        unseal,
        swap,
        blank,
        blank_page,
        blank_record,
    ],
    ids=[
        "a sealed segment cut inside a record", "a record short", "ten bytes long", "a hundred bytes long",
        "a segment missing", "renamed", "not sealed", "two records swapped", "a header of zeros", "a page of zeros in a sealed one",
        "a record of zeros in the open one",
    ],
)  # fmt: skip
def test_damage_is_refused_and_named(
    journal_of_three: tuple[Path, list[Any]], tmp_path: Path, damage: Callable[[Path], tuple[Path, int]]
) -> None:
    folder = tmp_path / "journal"
    shutil.copytree(journal_of_three[0], folder)
    path, offset = damage(folder)
    for look in (scan, read_plain):
        with pytest.raises(JournalCorruptError) as caught:
            look(folder)
        assert caught.value.path == path
        assert abs(caught.value.offset - offset) < RECORD_BYTES


def test_a_break_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, keys_of(3), [30] * 5)
        journal.resume(400, "the disk was full")
        fill(journal, keys_of(3), [5])
    segments = scan(tmp_path).segments
    segments[-2].path.unlink()
    with pytest.raises(
        JournalCorruptError,
        match=f"first sequence 400 behind a break of 151 to 399, expected {segments[-2].first_sequence}",
    ):
        scan(tmp_path)
    for segment in segments[:-1]:
        segment.path.unlink(missing_ok=True)
    assert read_plain(tmp_path)[0] == Break("the disk was full", 151, 399)


# While it is written ------------------------------------------------------------------------------------------------------------


def test_a_journal_is_read_while_it_is_written(tmp_path: Path) -> None:
    keys = keys_of(3)
    rows: list[Any] = []
    with open_journal(tmp_path, segment_bytes=8 * PAGE) as journal:
        counts = [1, 30, 2, 50, 7] * 60
        writer = threading.Thread(target=lambda: rows.extend(fill(journal, keys, counts)))
        writer.start()
        lengths = []
        while writer.is_alive():
            found = read_plain(tmp_path)
            lengths.append(len(found))
            assert [row[0] for row in found] == list(range(1, len(found) + 1))
        writer.join()
        assert read_plain(tmp_path) == rows
    assert lengths == sorted(lengths)
    assert expected_rows(1, 5)[0] == rows[0]


def test_a_segment_that_is_deleted_while_it_is_read_is_said_to_be(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        fill(journal, keys_of(3), [30] * 10)
    found = read(tmp_path, Keys(), rows=10)
    next(found)
    for path in tmp_path.glob("*.seg"):
        path.unlink()
    with pytest.raises(JournalError, match="No such file"):
        list(found)
