"""Records of the journal: their layout, their check, and which orders of them are valid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import JournalError
from store.record_code import BAD_CHECK, BAD_ORDER, COMPLETE, UNFINISHED, UNWRITTEN, compiled
from store.records import (
    BREAK,
    CHECKPOINT,
    EVENT,
    KEY,
    KEYS_MAX,
    PART,
    PAYLOAD_BYTES_MAX,
    RECORD,
    RECORD_BYTES,
    WORDS,
    Words,
    check_of,
    group,
    parts_of,
    payload_of,
)
from tests.journaling import block_at, keys_of

WORD = st.integers(0, 2**64 - 1)


def written(*groups: tuple[int, bytes], sequence: int = 1, room: int = 64) -> Words:
    """Groups one after the other, with their checks."""
    words = np.zeros((room, WORDS), np.uint64)
    at = 0
    for kind, payload in groups:
        records = group(kind, payload, received=at + 1)
        compiled().write_group(words, at, sequence, records)
        sequence += kind == EVENT
        at += len(records)
    return words


def market(first: int, count: int) -> Words:
    """Inputs of the market behind the declarations of their keys."""
    words = np.zeros((256, WORDS), np.uint64)
    at = 0
    declared = np.ones(KEYS_MAX, np.uint8)
    for code in range(3):
        records = group(KEY, b'["x","y"]', key=code)
        compiled().write_group(words, at, first, records)
        at += len(records)
    a = block_at(first, count)
    b = a.block
    columns = (
        a.outcome, a.sequence, a.received, b.key, b.kind, b.timestamp, b.price, b.volume, b.side, b.ask, b.ask_volume,
        b.trade_id, a.gaps,
    )  # fmt: skip
    status, end, *_ = compiled().write_rows(words, words.view(np.float64), declared, at, first, *columns)
    assert status == 0
    return words[:end]


def verify(words: Words, *, index: int = 0, sequence: int = 1) -> tuple[int, int, int, int, int, int]:
    words = np.ascontiguousarray(words)
    return compiled().verify(words, len(words), index, sequence, np.zeros(KEYS_MAX, np.uint8))


def test_a_record_has_64_bytes_and_no_padding() -> None:
    assert RECORD.itemsize == RECORD_BYTES
    assert [RECORD.fields[name][1] for name in RECORD.names or ()] == [0, 8, 16, 56, 58, 59, 60]  # type: ignore[index]


@given(st.lists(WORD, min_size=8, max_size=8), st.integers(0, 2**40), st.integers(1, 2**62))
def test_the_compiled_check_is_the_one_that_is_defined(values: list[int], index: int, sequence: int) -> None:
    records = np.array([values], np.uint64)
    place = index % 64
    words = np.zeros((64, WORDS), np.uint64)
    compiled().write_group(words, place, sequence, records)
    assert int(words[place, 7]) >> 32 == check_of(values, place, sequence)
    assert words[place].tolist()[:7] == values[:7]
    assert int(words[place, 7]) & 0xFFFF_FFFF == values[7] & 0xFFFF_FFFF


@given(st.lists(WORD, min_size=8, max_size=8), st.integers(0, 511), st.integers(0, 2**32), st.integers(1, 2**62))
def test_no_flipped_bit_goes_unnoticed(values: list[int], bit: int, index: int, sequence: int) -> None:
    check = check_of(values, index, sequence)
    values[7] = values[7] & 0xFFFF_FFFF | check << 32
    values[bit // 64] ^= 1 << bit % 64
    assert check_of(values, index, sequence) != values[7] >> 32


def test_a_record_in_another_place_or_of_another_sequence_fails() -> None:
    words = [1, 2, 3, 4, 5, 6, 7, 8]
    checks = [check_of(words, index, sequence) for index in range(100) for sequence in range(1, 101)]
    # 10,000 values out of 2^32: an expected hundredth of a pair.
    assert len(set(checks)) > 9_990
    assert len({check_of(words, 5, sequence) for sequence in range(1, 1_000)}) == 999


@given(st.binary(max_size=400))
def test_a_payload_comes_back_whatever_its_length(payload: bytes) -> None:
    words = written((EVENT, payload))
    assert payload_of(words, 0) == payload
    assert verify(words[: 1 + parts_of(len(payload))])[:2] == (1 + parts_of(len(payload)), 2)


def test_a_payload_that_is_too_long_is_refused() -> None:
    group(EVENT, bytes(PAYLOAD_BYTES_MAX))
    with pytest.raises(JournalError, match="at most 1048576 bytes of JSON, found 1048577"):
        group(EVENT, bytes(PAYLOAD_BYTES_MAX + 1))


def test_inputs_count_and_what_is_noted_does_not() -> None:
    words = written((BREAK, b"b"), (EVENT, b""), (CHECKPOINT, b"c" * 57), (EVENT, b"e"), sequence=9)
    done, sequence, newest, why, row, _ = verify(words, sequence=9)
    assert (done, sequence, why, row) == (8, 11, UNWRITTEN, 8)
    assert newest == 7  # `received` of the second event


def test_a_group_is_complete_only_with_all_its_parts() -> None:
    words = written((EVENT, b""), (EVENT, b"x" * 200))
    for count in (2, 3, 4):
        assert verify(words[:count])[:4] == (1, 2, 1, UNFINISHED)
    assert verify(words[:6])[3] == COMPLETE


def test_a_gap_belongs_to_the_trade_behind_it() -> None:
    words = market(3, 8)  # the first input is a gap
    gap = 6
    assert words.view(RECORD)[gap, 0]["kind"] == 5
    assert verify(words, sequence=3)[:2] == (len(words), 11)
    assert verify(words[: gap + 1], sequence=3)[:4] == (gap, 3, 0, UNFINISHED)


@pytest.mark.parametrize(
    ("wrong", "row"),
    [
        ([(PART, b"")], 0),
        ([(EVENT, b""), (BREAK, b"")], 1),
        ([(EVENT, b""), (11, b"")], 1),
        ([(1, b"")], 0),
    ],
    ids=["a part without a head", "a break behind something", "a kind that is not known", "a key that is not declared"],
)
def test_what_may_not_stand_somewhere_is_refused(wrong: list[tuple[int, bytes]], row: int) -> None:
    found = verify(written(*wrong))
    assert found[3:5] == (BAD_ORDER, row)


def test_a_part_may_not_be_taken_out_of_the_middle() -> None:
    words = written((EVENT, b"x" * 150), (EVENT, b""))
    assert verify(np.delete(words, 2, axis=0)[:4])[3:5] == (BAD_CHECK, 2)


@given(st.integers(0, 10), st.integers(1, 30))
def test_a_valid_record_tells_its_sequence_even_behind_damage(bad: int, count: int) -> None:
    words = market(1, count)
    bad = min(bad, len(words) - 1)
    sequence = verify(words[:bad])[5] if bad else 1
    found = compiled().find_valid(np.ascontiguousarray(words[bad:]), len(words) - bad, bad, bad, sequence)
    assert found == len(words) - bad
    damaged = words.copy()
    damaged[bad:] ^= np.uint64(1 << 40)
    assert compiled().find_valid(damaged[bad:], len(words) - bad, bad, bad, sequence) == 0


def test_rows_are_written_at_once_or_not_at_all() -> None:
    a = block_at(1, 20)
    b = a.block
    words = np.zeros((64, WORDS), np.uint64)
    declared = np.ones(KEYS_MAX, np.uint8)

    def write(outcome: npt.NDArray[np.uint8], sequence: npt.NDArray[np.int64]) -> tuple[int, int, int, int]:
        columns = (
            outcome, sequence, a.received, b.key, b.kind, b.timestamp, b.price, b.volume, b.side, b.ask, b.ask_volume,
            b.trade_id, a.gaps,
        )  # fmt: skip
        return compiled().write_rows(words, words.view(np.float64), declared, 0, 1, *columns)

    jump = a.sequence.copy()
    jump[-1] += 1
    assert write(a.outcome, jump) == (2, len(b) - 1, 21, 20)
    no_trade = a.outcome.copy()
    no_trade[a.gaps[0, 0]] = 0
    assert write(no_trade, a.sequence)[0] == 2
    declared[len(keys_of(3)) - 1] = 0
    assert write(a.outcome, a.sequence)[:2] == (1, int(np.flatnonzero(b.key == 2)[0]))
    assert not words.any()
