"""The ingress: numbers the inputs, and turns away what is no input. It stands before the journal and the fold.

Per key, by trade id and never by time: an id that was taken already is a duplicate and is dropped; a higher one is taken at once,
with a gap before it where ids are missing; a lower one that was missing is late. Nothing is held back.
Refused: a price or volume that is NaN, infinite, zero or negative; a timestamp more than `max_ahead_ns` after `received`, which
would freeze every window of the key. Sizes of a quote may be NaN: not every exchange sends them.

Which ids are missing is kept as ranges, the newest `RANGES` of them a key; an id below those that is forgotten counts as taken.
Exchanges whose ids are not contiguous by design have no gaps, only duplicates and late ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.block import NO_ID, Block
from engine.errors import JournalError
from engine.jit import compile_function

SKIPPED, TRADE, QUOTE, LATE, DUPLICATE, BAD_PRICE, BAD_VOLUME, AHEAD = range(8)
"""What became of a row. TRADE, QUOTE and LATE are inputs; those from BAD_PRICE on were refused."""
OUTCOMES = ("skipped", "trades", "quotes", "late", "duplicates", "bad price", "bad volume", "timestamp ahead")

RANGES = 128
LAST, HIGHEST, COUNT, RECEIVED, CONTIGUOUS, FORGOTTEN, FIRST_RANGE = range(7)
"""Columns of a key's state: last id folded, highest id seen, ranges in use, last `received`, whether ids are contiguous, ranges
forgotten; then the missing ranges, lowest first, as (from, to) inclusive."""
STATE = FIRST_RANGE + 2 * RANGES
GAPS_A_CALL = 256
BEFORE_ALL = NO_ID + 1
"""Where the ids begin that are before the first of a key: they count as missing, so that history may bring them."""

GREATEST = int(np.iinfo(np.int64).max)

Integers = npt.NDArray[np.int64]


def is_positive(value: float) -> bool:
    """Whether a price or size is a positive, finite number."""
    return 0.0 < value < math.inf


def remember(state: Integers, key: Any, first: int, last: int) -> None:
    """Append a missing range above all others, forgetting the lowest if there is no place."""
    if first > last:
        return
    if state[key, COUNT] == RANGES:
        state[key, FORGOTTEN] += 1
        state[key, COUNT] -= 1
        for at in range(FIRST_RANGE, FIRST_RANGE + 2 * RANGES - 2):
            state[key, at] = state[key, at + 2]
    at = FIRST_RANGE + 2 * state[key, COUNT]
    state[key, at] = first
    state[key, at + 1] = last
    state[key, COUNT] += 1


def strike_out(state: Integers, key: Any, found: int) -> bool:
    """Remove one id from the missing ranges; return whether it was in one."""
    for number in range(state[key, COUNT] - 1, -1, -1):
        at = FIRST_RANGE + 2 * number
        first, last = state[key, at], state[key, at + 1]
        if found > last:
            return False
        if found < first:
            continue
        if first == last:
            state[key, COUNT] -= 1
            for place in range(at, FIRST_RANGE + 2 * state[key, COUNT]):
                state[key, place] = state[key, place + 2]
        elif found == first:
            state[key, at] = first + 1
        elif found == last:
            state[key, at + 1] = last - 1
        else:
            if state[key, COUNT] == RANGES:
                # Splitting needs one more place: the lowest range goes, or, if this is the lowest, its lower half.
                state[key, FORGOTTEN] += 1
                if number == 0:
                    state[key, at] = found + 1
                    return True
                state[key, COUNT] -= 1
                for place in range(FIRST_RANGE, FIRST_RANGE + 2 * RANGES - 2):
                    state[key, place] = state[key, place + 2]
                at -= 2
            for place in range(FIRST_RANGE + 2 * state[key, COUNT] - 1, at + 1, -1):
                state[key, place + 2] = state[key, place]
            state[key, COUNT] += 1
            state[key, at + 1] = found - 1
            state[key, at + 2] = found + 1
            state[key, at + 3] = last
        return True
    return False


def missing_between(state: Integers, key: Any, first: int, last: int) -> int:
    """How many ids of first..last have never been seen."""
    found = 0
    for number in range(state[key, COUNT]):
        at = FIRST_RANGE + 2 * number
        low, high = max(first, state[key, at]), min(last, state[key, at + 1])
        if low <= high:
            found += high - low + 1
    if last > state[key, HIGHEST]:
        found += last - max(first - 1, state[key, HIGHEST])
    return found


def take_id(state: Integers, key: Any, trade_id: int, is_late: bool) -> int:
    """Record an id; return TRADE, LATE or DUPLICATE."""
    highest = state[key, HIGHEST]
    if trade_id > highest:
        remember(state, key, highest + 1, trade_id - 1)
        state[key, HIGHEST] = trade_id
    elif is_late or trade_id <= state[key, LAST]:
        return LATE if strike_out(state, key, trade_id) else DUPLICATE
    else:
        # Seen as history above the last folded id, but never folded.
        strike_out(state, key, trade_id)
    if is_late:
        return LATE
    state[key, LAST] = trade_id
    return TRADE


def is_ahead(timestamp: int, now: int, most: int) -> bool:
    """Whether a timestamp lies more than `most` ns after `now`, without overflow at either end."""
    return timestamp > NO_ID + most and timestamp - most > now


def judge(
    state: Integers,
    k: Any,
    is_trade: bool,
    ahead: bool,
    price: float,
    volume: float,
    ask: float,
    ask_volume: float,
    trade_id: int,
    is_late: bool,
) -> int:
    """Return what becomes of one row, and record its id if it has one."""
    if not is_positive(price) or not (is_trade or is_positive(ask)):
        return BAD_PRICE
    if is_trade and not is_positive(volume):
        return BAD_VOLUME
    if not is_trade and not (
        (is_positive(volume) or math.isnan(volume)) and (is_positive(ask_volume) or math.isnan(ask_volume))
    ):
        return BAD_VOLUME
    if ahead:
        return AHEAD
    if is_trade and trade_id != NO_ID:
        return take_id(state, k, trade_id, is_late)
    if is_late:
        return LATE
    return TRADE if is_trade else QUOTE


def admit(
    state: Integers,
    counts: Integers,
    gaps: Integers,
    key: Any,
    kind: Any,
    timestamp: Any,
    received: Any,
    price: Any,
    volume: Any,
    ask: Any,
    ask_volume: Any,
    trade_id: Any,
    late: Any,
    max_ahead_ns: int,
    sequence: int,
    outcome: Any,
    numbered: Any,
    known: Any,
    start: int,
    stop: int,
) -> tuple[int, int, int]:
    """Judge the rows start..stop; return (next row, next sequence, gaps found). Stops early when `gaps` is full.

    Written for each row: `outcome`, `numbered` (its sequence, 0 if it is no input), `known` (its `received`, never decreasing
    within its key). A row of `gaps`: row, sequence, first id, last id, missing, of those already received as history.
    """
    found = 0
    i = start
    while i < stop:
        # Unsigned indexes spare numba's test for negative ones at each access.
        at = np.uint64(i)
        k = np.uint64(key[at])
        last = state[k, LAST]
        now = state[k, RECEIVED]
        if last != NO_ID and last == state[k, HIGHEST]:
            # A run of usual trades of one key, each with the next id and nothing wrong with it; its state stays in locals.
            first = i
            while (
                i < stop
                and key[at] == k
                and kind[at] == 0
                and late[at] == 0
                and trade_id[at] > last  # the id after the greatest there is would be NO_ID
                and trade_id[at] == last + 1
                and is_positive(price[at])
                and is_positive(volume[at])
                and not is_ahead(timestamp[at], max(received[at], now), max_ahead_ns)
            ):
                now = max(received[at], now)
                last += 1
                outcome[at] = TRADE
                known[at] = now
                numbered[at] = sequence
                sequence += 1
                i += 1
                at = np.uint64(i)
            if i > first:
                state[k, LAST] = last
                state[k, HIGHEST] = last
                state[k, RECEIVED] = now
                counts[k, np.uint64(TRADE)] += i - first
                continue
        if found == gaps.shape[0]:
            return i, sequence, found
        now = max(received[at], now)
        trade_number = trade_id[at]
        is_trade = kind[at] == 0
        is_late = late[at] != 0
        base = last if last != NO_ID else state[k, HIGHEST]
        skips = is_trade and trade_number != NO_ID and not is_late and base != NO_ID and trade_number - 1 > base
        filled = 0
        if skips:
            filled = trade_number - 1 - base - missing_between(state, k, base + 1, trade_number - 1)
        # A trade brings no quote columns, and they may be empty.
        other, other_volume = (1.0, 1.0) if is_trade else (ask[at], ask_volume[at])
        ahead = is_ahead(timestamp[at], now, max_ahead_ns)
        result = judge(state, k, is_trade, ahead, price[at], volume[at], other, other_volume, trade_number, is_late)
        if result == TRADE and skips and state[k, CONTIGUOUS] != 0:
            row = np.uint64(found)
            gaps[row, 0] = i
            gaps[row, 1] = sequence
            gaps[row, 2] = base + 1
            gaps[row, 3] = trade_number - 1
            # Of ids at both ends of int64 more are missing than it can count; then the difference has wrapped to a negative one.
            missing = trade_number - 1 - base
            gaps[row, 4] = missing if missing > 0 else GREATEST
            gaps[row, 5] = filled
            found += 1
            sequence += 1
        outcome[at] = result
        counts[k, np.uint64(result)] += 1
        known[at] = now
        if TRADE <= result <= LATE:
            state[k, RECEIVED] = now
            numbered[at] = sequence
            sequence += 1
        else:
            numbered[at] = 0
        i += 1
    return stop, sequence, found


ADMIT_SIGNATURE = (
    "UniTuple(int64, 3)(int64[:, ::1], int64[:, ::1], int64[:, ::1], Array(int32, 1, 'C', readonly=True), Array(uint8, 1, 'C', readonly=True), "
    "Array(int64, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True), Array(float64, 1, 'C', readonly=True), "
    "Array(float64, 1, 'C', readonly=True), Array(float64, 1, 'C', readonly=True), Array(float64, 1, 'C', readonly=True), "
    "Array(int64, 1, 'C', readonly=True), Array(uint8, 1, 'C', readonly=True), int64, int64, uint8[::1], int64[::1], int64[::1], int64, int64)"
)


@cache
def compiled_admit() -> Callable[..., tuple[int, int, int]]:
    """The compiled judge of rows."""
    return compile_function(admit, ADMIT_SIGNATURE, "the ingress")


def follow(
    state: Integers,
    counts: Integers,
    key: Any,
    outcome: Any,
    received: Any,
    trade_id: Any,
    kind: Any,
) -> int:
    """Record inputs that were admitted before; return the row that cannot have been, such as an id folded already; -1 if none."""
    for i in range(key.shape[0]):
        at = np.uint64(i)
        k = np.uint64(key[at])
        result = outcome[at]
        if kind[at] == 0 and trade_id[at] != NO_ID and take_id(state, k, trade_id[at], result == LATE) != result:
            return i
        state[k, RECEIVED] = max(received[at], state[k, RECEIVED])
        counts[k, np.uint64(result)] += 1
    return -1


FOLLOW_SIGNATURE = (
    "int64(int64[:, ::1], int64[:, ::1], Array(int32, 1, 'C', readonly=True), Array(uint8, 1, 'C', readonly=True), "
    "Array(int64, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True), Array(uint8, 1, 'C', readonly=True))"
)


@cache
def compiled_follow() -> Callable[..., int]:
    """The compiled bookkeeper of journaled rows."""
    return compile_function(follow, FOLLOW_SIGNATURE, "the ingress of journaled inputs")


class Admitted(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A block that went through the ingress. `received` is what the block's was, made never to decrease within a key."""

    block: Block
    outcome: npt.NDArray[np.uint8]
    sequence: Integers
    received: Integers
    gaps: Integers  # a row each: row of the block, sequence, first id, last id, missing, filled

    def part(self, start: int, stop: int) -> Admitted:
        """Return the rows start..stop, with the gaps before them."""
        if start == 0 and stop == len(self.block):
            return self
        at = slice(start, stop)
        gaps = self.gaps[(self.gaps[:, 0] >= start) & (self.gaps[:, 0] < stop)] - np.array([start, 0, 0, 0, 0, 0])
        return Admitted(self.block.take(at), self.outcome[at], self.sequence[at], self.received[at], gaps)


class Ingress:
    """Judges blocks and numbers inputs. Its state is what a restart must remember: ids by key, and the next sequence."""

    def __init__(self, *, max_ahead_ns: int, not_contiguous: tuple[str, ...] = (), first_sequence: int = 1) -> None:
        self.max_ahead_ns = max_ahead_ns
        self.not_contiguous = not_contiguous
        self.next_sequence = first_sequence
        self.state = np.zeros((0, STATE), np.int64)
        self.counts = np.zeros((0, len(OUTCOMES)), np.int64)
        self._gaps = np.zeros((GAPS_A_CALL, 6), np.int64)
        self._admit = compiled_admit()

    def open(self, exchanges: list[str]) -> None:
        """Make room for keys up to the last of `exchanges`, the exchange of each key in order of their numbers."""
        known = len(self.state)
        if len(exchanges) <= known:
            return
        fresh = np.zeros((len(exchanges) - known, STATE), np.int64)
        fresh[:, [LAST, HIGHEST, RECEIVED]] = NO_ID
        fresh[:, CONTIGUOUS] = [name not in self.not_contiguous for name in exchanges[known:]]
        self.state = np.concatenate([self.state, fresh])
        self.counts = np.concatenate([self.counts, np.zeros((len(fresh), len(OUTCOMES)), np.int64)])

    def admit(self, block: Block) -> Admitted:
        """Judge a block. Every key in it must have been opened."""
        count = len(block)
        outcome, numbered, known = np.empty(count, np.uint8), np.empty(count, np.int64), np.empty(count, np.int64)
        columns = (
            block.key, block.kind, block.timestamp, block.received, block.price, block.volume, block.ask, block.ask_volume,
            block.trade_id, block.late,
        )  # fmt: skip
        gaps, done = [], 0
        while True:
            done, self.next_sequence, found = self._admit(
                self.state,
                self.counts,
                self._gaps,
                *columns,
                self.max_ahead_ns,
                self.next_sequence,
                outcome,
                numbered,
                known,
                done,
                count,
            )
            if found:
                gaps.append(self._gaps[:found].copy())
            if done == count:
                break
        return Admitted(block, outcome, numbered, known, np.concatenate(gaps) if gaps else self._gaps[:0])

    def follow(self, admitted: Admitted) -> None:
        """Take note of inputs that were admitted, numbered and journaled before: nothing is judged again.

        Raises JournalError if they cannot have been: a sequence out of its turn, a trade that was folded already.
        """
        columns = (
            admitted.block.key,
            admitted.outcome,
            admitted.received,
            admitted.block.trade_id,
            admitted.block.kind,
        )
        numbers = np.sort(np.concatenate([admitted.sequence, admitted.gaps[:, 1]]))
        expected = np.arange(self.next_sequence, self.next_sequence + len(numbers))
        if not np.array_equal(numbers, expected):
            wrong = int(np.flatnonzero(numbers != expected)[0])
            raise JournalError(f"input {int(numbers[wrong])} of the journal: expected sequence {int(expected[wrong])}")
        row = compiled_follow()(self.state, self.counts, *columns)
        if row >= 0:
            what, trade_id = OUTCOMES[int(admitted.outcome[row])], int(admitted.block.trade_id[row])
            raise JournalError(
                f"input {int(admitted.sequence[row])} of the journal: trade {trade_id} among the {what}: expected an id that is new to its key"
            )
        self.next_sequence += len(numbers)

    def missing(self, code: int) -> list[tuple[int, int]]:
        """Return the ids of a key that are missing and may still come, as (first, last), both inclusive, lowest first.

        Ids that were skipped without being a gap are not among them: those before the first that ever came, and all of an exchange
        whose ids are not contiguous.
        """
        if code >= len(self.state) or not self.state[code, CONTIGUOUS]:
            return []
        bounds = self.state[code, FIRST_RANGE : FIRST_RANGE + 2 * self.state[code, COUNT]].tolist()
        last = self.state.item(code, LAST)
        # What lies above the last id that was folded may still come live: as yet it is no gap.
        ranges = zip(bounds[::2], bounds[1::2], strict=True)
        return [(low, min(high, last)) for low, high in ranges if BEFORE_ALL < low <= last]

    def give_up(self, code: int, first: int, last: int) -> None:
        """Wait no longer for the ids first..last of a key: if one comes after all it is a duplicate."""
        if code >= len(self.state):
            return
        state = self.state[code]
        bounds = state[FIRST_RANGE : FIRST_RANGE + 2 * state[COUNT]].tolist()
        left: list[tuple[int, int]] = []
        for low, high in zip(bounds[::2], bounds[1::2], strict=True):
            if low == BEFORE_ALL:
                left.append((low, high))
            else:
                parts = (low, min(high, first - 1)), (max(low, last + 1), high)
                left.extend(part for part in parts if part[0] <= part[1])
        if len(left) > RANGES:  # cut in two where there is no place for one more: the lowest is forgotten
            state[FORGOTTEN] += len(left) - RANGES
            left = left[-RANGES:]
        state[COUNT] = len(left)
        state[FIRST_RANGE : FIRST_RANGE + 2 * len(left)] = [bound for part in left for bound in part]
        # Places that are not in use hold nothing that a digest could see.
        state[FIRST_RANGE + 2 * len(left) :] = 0

    def begin_anew(self, code: int) -> None:
        """Forget all ids of a key: its exchange numbers its trades anew."""
        if code < len(self.state):
            self.state[code, [LAST, HIGHEST]] = NO_ID
            self.state[code, COUNT] = 0
            self.state[code, FIRST_RANGE:] = 0

    def newest_id(self, code: int) -> int | None:
        """Return the highest trade id of a key that has come, live or as history; None if there is none."""
        newest = self.state.item(code, HIGHEST) if code < len(self.state) else NO_ID
        return None if newest == NO_ID else newest

    def forgotten_of(self, code: int) -> int:
        """Return how many missing ranges of a key had to be forgotten."""
        return self.state.item(code, FORGOTTEN) if code < len(self.state) else 0

    def has_input(self, code: int) -> bool:
        """Whether a key has had an input: one that a source only mentions, or that was refused throughout, has no state."""
        return code < len(self.state) and bool(self.state[code, RECEIVED] != NO_ID)

    def forgotten(self) -> int:
        """How many missing ranges had to be forgotten: more than `RANGES` of a key were open."""
        return int(self.state[:, FORGOTTEN].sum())

    def number(self) -> int:
        """Return the sequence of an input that is not of the market, such as a command."""
        self.next_sequence += 1
        return self.next_sequence - 1

    def describe(self, block: Block, row: int, outcome: int) -> str:
        """Say why a row was refused: which field, its value, what was expected."""
        is_quote = bool(block.kind[row])
        if outcome == AHEAD:
            ahead = (int(block.timestamp[row]) - int(block.received[row])) // 1_000_000
            return f"timestamp is {ahead} ms after received, expected at most {self.max_ahead_ns // 1_000_000}"
        names = ("bid", "ask") if is_quote else ("price",)
        values: tuple[float, ...] = (float(block.price[row]),)
        if outcome == BAD_VOLUME:
            names, values = (("bid_volume", "ask_volume") if is_quote else ("volume",)), (float(block.volume[row]),)
        if is_quote:
            values += (float((block.ask if outcome == BAD_PRICE else block.ask_volume)[row]),)
        shown = ", ".join(f"{name} {value!r}" for name, value in zip(names, values, strict=True))
        return f"{shown}: expected positive and finite" + (
            ", or NaN where not sent" if is_quote and outcome == BAD_VOLUME else ""
        )
