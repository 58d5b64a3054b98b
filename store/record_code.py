"""The compiled half of the journal's records: writing the rows of a block, proving what is read, making rows of it again.

Each function is one loop over records. Writing goes record by record, the last word of each last: whatever kills it, what is
half-written is the end of what there is. Unsigned indexes spare numba's test for negative ones; a uint64 beside an int64 would
become a float.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from engine.block import IS_TRADE
from engine.errors import JournalError
from engine.ingress import LATE, QUOTE, TRADE
from engine.jit import Gathered, compile_module, entry_point
from store.records import (
    BREAK,
    EVENT,
    GAP,
    KEY,
    KEYS_MAX,
    LATE_QUOTE,
    LATE_TRADE,
    MULTIPLIER,
    PART,
    PART_BYTES,
    PAYLOAD_BYTES_MAX,
    Words,
)

COMPLETE, UNFINISHED, UNWRITTEN, BAD_CHECK, BAD_ORDER = range(5)
"""Why `verify` stopped: nothing left; a group's end is missing; zeros; the check fails; a kind that may not stand there."""
WRITTEN, UNDECLARED, OUT_OF_SEQUENCE = range(3)
"""What `write_rows` says."""


def mix(state: Any, word: Any) -> Any:
    """Fold one word into the state of a check."""
    state = (state ^ word) * np.uint64(MULTIPLIER)
    return state ^ (state >> np.uint64(32))


def mixed(words: Words, row: Any, index: Any, tail: Any) -> Any:
    """Return the check of a record as if its sequence were 0; `tail` is its last word without the check."""
    state = mix(np.uint64(MULTIPLIER), np.uint64(index))
    for column in range(7):
        state = mix(state, words[row, np.uint64(column)])
    return mix(mix(state, tail), np.uint64(0)) & np.uint64(0xFFFF_FFFF)


def seal(words: Words, row: Any, tail: Any, sequence: int) -> None:
    """Write the last word of a record whose other words are there: it counts as written from here on."""
    check = (mixed(words, row, row, tail) + np.uint64(sequence)) & np.uint64(0xFFFF_FFFF)
    words[row, np.uint64(7)] = tail | (check << np.uint64(32))


def tail_of(key: Any, kind: Any, side: Any) -> Any:
    """Return the last word of a record without its check."""
    return np.uint64(key) | (np.uint64(kind) << np.uint64(16)) | (np.uint64(side & 0xFF) << np.uint64(24))


def as_int(word: Any) -> Any:
    """Return a word as the signed integer that it holds."""
    return np.int64(word)


def write_group(words: Words, at: int, sequence: int, group: Words) -> None:
    """Write a group at index `at`, record by record in order: one that is killed half-way leaves a torn tail and nothing else."""
    for part in range(group.shape[0]):
        source, row = np.uint64(part), np.uint64(at + part)
        for column in range(7):
            words[row, np.uint64(column)] = group[source, np.uint64(column)]
        tail = group[source, np.uint64(7)] & np.uint64(0xFFFF_FFFF)
        seal(words, row, tail, sequence)
        if (tail >> np.uint64(16)) & np.uint64(0xFF) == np.uint64(EVENT):
            sequence += 1


def write_rows(
    words: Words,
    floats: Any,
    declared: Any,
    at: int,
    sequence: int,
    outcome: Any,
    numbered: Any,
    received: Any,
    key: Any,
    kind: Any,
    timestamp: Any,
    price: Any,
    volume: Any,
    side: Any,
    ask: Any,
    ask_volume: Any,
    trade_id: Any,
    gaps: Any,
) -> tuple[int, int, int, int]:
    """Write the inputs among the rows of a block from index `at` on; return (WRITTEN, next index, next sequence, newest received).

    Nothing is written unless all can be: else (UNDECLARED, row, 0, 0) for a key that this segment does not know, or
    (OUT_OF_SEQUENCE, row, sequence found, sequence expected).
    """
    expected = sequence
    found = 0
    newest = 0
    for i in range(outcome.shape[0]):
        row = np.uint64(i)
        if outcome[row] < TRADE or outcome[row] > LATE:
            continue
        if found < gaps.shape[0] and gaps[found, 0] == i:
            if gaps[found, 1] != expected or outcome[row] != TRADE:
                return OUT_OF_SEQUENCE, i, gaps[found, 1], expected
            expected += 1
            found += 1
        if numbered[row] != expected:
            return OUT_OF_SEQUENCE, i, numbered[row], expected
        expected += 1
        if key[row] >= declared.shape[0] or declared[key[row]] == 0:
            return UNDECLARED, i, 0, 0
        newest = max(newest, received[row])
    if found != gaps.shape[0]:
        return OUT_OF_SEQUENCE, gaps[found, 0], gaps[found, 1], expected
    found = 0
    nothing = np.uint64(0)
    for i in range(outcome.shape[0]):
        row = np.uint64(i)
        if outcome[row] < TRADE or outcome[row] > LATE:
            continue
        place = np.uint64(at)
        if found < gaps.shape[0] and gaps[found, 0] == i:
            words[place, np.uint64(0)] = np.uint64(timestamp[row])
            words[place, np.uint64(1)] = np.uint64(received[row])
            for column in range(4):
                words[place, np.uint64(column + 2)] = np.uint64(gaps[found, column + 2])
            words[place, np.uint64(6)] = nothing
            seal(words, place, tail_of(key[row], GAP, 0), sequence)
            found += 1
            sequence += 1
            at += 1
            place = np.uint64(at)
        words[place, np.uint64(0)] = np.uint64(timestamp[row])
        words[place, np.uint64(1)] = np.uint64(received[row])
        floats[place, np.uint64(2)] = price[row]
        floats[place, np.uint64(3)] = volume[row]
        written = outcome[row]
        if kind[row] == IS_TRADE:
            words[place, np.uint64(4)] = np.uint64(trade_id[row])
            words[place, np.uint64(5)] = nothing
            words[place, np.uint64(6)] = nothing
            if written == LATE:
                written = LATE_TRADE
        else:
            floats[place, np.uint64(4)] = ask[row]
            floats[place, np.uint64(5)] = ask_volume[row]
            words[place, np.uint64(6)] = np.uint64(trade_id[row])
            if written == LATE:
                written = LATE_QUOTE
        seal(words, place, tail_of(key[row], written, side[row]), sequence)
        sequence += 1
        at += 1
    return WRITTEN, at, sequence, newest


def verify(words: Words, count: int, index: int, sequence: int, declared: Any) -> tuple[int, int, int, int, int, int]:
    """Check the first `count` records, of which the first has this index and sequence.

    Returns (rows in complete groups, the sequence behind them, their newest received, why it stopped, the row at which, the
    sequence there). A GAP and its TRADE, or a head and its parts, are a group. Keys that are declared are marked in `declared`.
    """
    done = row = 0
    done_sequence = sequence
    newest = 0
    done_newest = 0
    parts = np.int64(0)
    is_gap = False
    gap_key = np.uint64(0)
    while row < count:
        at = np.uint64(row)
        last = words[at, np.uint64(7)]
        kind = np.int64((last >> np.uint64(16)) & np.uint64(0xFF))
        if last == np.uint64(0):
            is_empty = True
            for column in range(7):
                is_empty = is_empty and words[at, np.uint64(column)] == np.uint64(0)
            return done, done_sequence, done_newest, UNWRITTEN if is_empty else BAD_CHECK, row, sequence
        check = (mixed(words, at, index + row, last & np.uint64(0xFFFF_FFFF)) + np.uint64(sequence)) & np.uint64(
            0xFFFF_FFFF
        )
        if check != last >> np.uint64(32):
            return done, done_sequence, done_newest, BAD_CHECK, row, sequence
        key = last & np.uint64(0xFFFF)
        is_market = TRADE <= kind <= GAP
        wrong = kind < TRADE or kind > BREAK or (kind == PART) != (parts > 0) or (kind == BREAK and index + row > 0)
        wrong = wrong or (is_gap and (kind != TRADE or key != gap_key)) or key == np.uint64(KEYS_MAX)
        if wrong or (is_market and declared[key] == 0):
            return done, done_sequence, done_newest, BAD_ORDER, row, sequence
        if kind == PART:
            parts -= 1
        elif not is_market:
            length = words[at, np.uint64(2)]
            if length > np.uint64(PAYLOAD_BYTES_MAX):
                return done, done_sequence, done_newest, BAD_ORDER, row, sequence
            parts = (np.int64(length) + PART_BYTES - 1) // PART_BYTES
            if kind == KEY:
                declared[key] = 1
        if kind <= EVENT:
            sequence += 1
            newest = max(newest, as_int(words[at, np.uint64(1)]))
        is_gap, gap_key = kind == GAP, key
        row += 1
        if parts == 0 and not is_gap:
            done, done_sequence, done_newest = row, sequence, newest
    return done, done_sequence, done_newest, COMPLETE if done == count else UNFINISHED, row, sequence


def find_valid(words: Words, count: int, index: int, first: int, sequence: int) -> int:
    """Return how many of the first `count` records are valid under a sequence that they can have.

    Their first has the index `index`; `first` and `sequence` are of the record from which on nothing is known.
    """
    found = 0
    for row in range(count):
        at = np.uint64(row)
        last = words[at, np.uint64(7)]
        kind = np.int64((last >> np.uint64(16)) & np.uint64(0xFF))
        if kind < TRADE or kind > BREAK:
            continue
        zero = mixed(words, at, index + row, last & np.uint64(0xFFFF_FFFF))
        claimed = ((last >> np.uint64(32)) - zero - np.uint64(sequence)) & np.uint64(0xFFFF_FFFF)
        if claimed <= np.uint64(index + row - first):
            found += 1
    return found


def unpack(
    words: Words,
    floats: Any,
    row: int,
    stop: int,
    sequence: int,
    after: int,
    until: int,
    codes: Any,
    key: Any,
    kind: Any,
    timestamp: Any,
    received: Any,
    price: Any,
    volume: Any,
    side: Any,
    ask: Any,
    ask_volume: Any,
    trade_id: Any,
    late: Any,
    outcome: Any,
    numbered: Any,
    gaps: Any,
    filled: int,
    gap_count: int,
) -> tuple[int, int, int, int, int]:
    """Turn verified records of the market from `row` on into columns, behind the `filled` rows and `gap_count` gaps there are.

    Inputs up to `after` are passed over. Returns (row, its sequence, filled, gap_count, quotes found), where it stopped: at `stop`,
    at a record that is not of the market, before an input after `until`, before a GAP whose trade is, or because the columns are
    full.
    """
    quotes = 0
    while row < stop:
        at = np.uint64(row)
        last = words[at, np.uint64(7)]
        found = np.int64((last >> np.uint64(16)) & np.uint64(0xFF))
        if found > GAP or sequence > until or filled == key.shape[0]:
            break
        if found == GAP:
            if sequence == until:
                break
            if sequence > after:
                gaps[gap_count, 0] = filled
                gaps[gap_count, 1] = sequence
                for column in range(2, 6):
                    gaps[gap_count, column] = np.int64(words[at, np.uint64(column)])
                gap_count += 1
            row += 1
            sequence += 1
            at = np.uint64(row)
            last = words[at, np.uint64(7)]
            found = np.int64((last >> np.uint64(16)) & np.uint64(0xFF))
        if sequence > after:
            to = np.uint64(filled)
            is_quote = found in (QUOTE, LATE_QUOTE)
            is_late = found in (LATE_TRADE, LATE_QUOTE)
            key[to] = codes[last & np.uint64(0xFFFF)]
            kind[to] = is_quote
            timestamp[to] = np.int64(words[at, np.uint64(0)])
            received[to] = np.int64(words[at, np.uint64(1)])
            price[to] = floats[at, np.uint64(2)]
            volume[to] = floats[at, np.uint64(3)]
            side[to] = np.int8((last >> np.uint64(24)) & np.uint64(0xFF))
            late[to] = is_late
            outcome[to] = LATE if is_late else found
            numbered[to] = sequence
            if is_quote:
                ask[to] = floats[at, np.uint64(4)]
                ask_volume[to] = floats[at, np.uint64(5)]
                trade_id[to] = np.int64(words[at, np.uint64(6)])
                quotes += 1
            else:
                ask[to] = np.nan
                ask_volume[to] = np.nan
                trade_id[to] = np.int64(words[at, np.uint64(4)])
            filled += 1
        row += 1
        sequence += 1
    return row, sequence, filled, gap_count, quotes


def _input(kind: str) -> str:
    return f"Array({kind}, 1, 'C', readonly=True)"


WRITE_ROWS_SIGNATURE = (
    f"UniTuple(int64, 4)(uint64[:, ::1], float64[:, ::1], uint8[::1], int64, int64, {_input('uint8')}, "
    f"{_input('int64')}, {_input('int64')}, {_input('int32')}, {_input('uint8')}, {_input('int64')}, {_input('float64')}, "
    f"{_input('float64')}, {_input('int8')}, {_input('float64')}, {_input('float64')}, {_input('int64')}, "
    "Array(int64, 2, 'C', readonly=True))"
)
WRITE_GROUP_SIGNATURE = "void(uint64[:, ::1], int64, int64, uint64[:, ::1])"
VERIFY_SIGNATURE = "UniTuple(int64, 6)(uint64[:, ::1], int64, int64, int64, uint8[::1])"
FIND_VALID_SIGNATURE = "int64(uint64[:, ::1], int64, int64, int64, int64)"
UNPACK_SIGNATURE = (
    "UniTuple(int64, 5)(uint64[:, ::1], float64[:, ::1], int64, int64, int64, int64, int64, int32[::1], int32[::1], "
    "uint8[::1], int64[::1], int64[::1], float64[::1], float64[::1], int8[::1], float64[::1], float64[::1], int64[::1], "
    "uint8[::1], uint8[::1], int64[::1], int64[:, ::1], int64, int64)"
)


@dataclass(frozen=True)
class Compiled:
    """The compiled functions of this module, under their names."""

    write_rows: Callable[..., tuple[int, int, int, int]]
    write_group: Callable[..., None]
    verify: Callable[..., tuple[int, int, int, int, int, int]]
    find_valid: Callable[..., int]
    unpack: Callable[..., tuple[int, int, int, int, int]]


@cache
def compiled() -> Compiled:
    """Return the compiled functions. Raises JournalError on a machine whose byte order is not the file's."""
    if sys.byteorder != "little":
        raise JournalError(f"a journal is little-endian, and so must be the machine; found {sys.byteorder}-endian")
    gathered = Gathered()
    entries: dict[Callable[..., Any], str] = {
        write_rows: WRITE_ROWS_SIGNATURE,
        write_group: WRITE_GROUP_SIGNATURE,
        verify: VERIFY_SIGNATURE,
        find_valid: FIND_VALID_SIGNATURE,
        unpack: UNPACK_SIGNATURE,
    }
    bodies = []
    for function, signature in entries.items():
        arguments = ", ".join(inspect.signature(function).parameters)
        call = f"    return {gathered.add(function)}({arguments})"
        bodies.append(entry_point(function.__name__, signature, arguments, call))
    module = compile_module(gathered.text("\n\n".join(bodies)), "the journal")
    return Compiled(**{function.__name__: getattr(module, function.__name__) for function in entries})
