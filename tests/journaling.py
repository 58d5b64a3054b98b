"""Journals that are small enough to look at: admitted blocks out of plain rows, and what was read back as plain rows again.

A row of the market is (sequence, kind, key, timestamp, received, side, trade id, bits of its four floats, late); a gap has its six
integers. Floats are compared by their bits, so a NaN equals itself and no other NaN.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from engine.block import IS_QUOTE, IS_TRADE, Block, Keys
from engine.events import Heartbeat
from engine.ingress import LATE, QUOTE, TRADE, Admitted
from store.journal import Journal
from store.journal_reader import read

MIB = 1 << 20
START = 1_700_000_000_000_000_000


def open_journal(folder: Path, **changes: Any) -> Journal:
    """A journal with segments of two pages more than its header, which is 128 records, that leaves the disk to the system."""
    settings: dict[str, Any] = {
        "segment_bytes": 3 * 4096,
        "fsync": "never",
        "fsync_ms": 1,
        "retention_bytes": 1 << 40,
        "created": START,
    }
    return Journal.open(folder, **{**settings, **changes})


def keys_of(size: int) -> Keys:
    """So many keys, numbered."""
    keys = Keys()
    for number in range(size):
        keys.code(("x", f"K{number}/USDT"))
    return keys


def block_at(first: int, rows: int, *, keys: int = 3) -> Admitted:
    """Inputs `first` to `first + rows - 1`: each a function of its sequence alone. Every seventh trade has a gap before it."""
    outcome: list[int] = []
    sequence: list[int] = []
    gaps: list[tuple[int, ...]] = []
    number = first
    while number < first + rows:
        if number % 7 == 3 and number + 1 < first + rows:
            gaps.append((len(sequence), number, number * 10, number * 10 + 4, 5, number % 5))
            number += 1
            outcome.append(TRADE)
        else:
            outcome.append((TRADE, QUOTE, QUOTE, LATE)[number % 4])
        sequence.append(number)
        number += 1
    numbers = np.array(sequence, np.int64)
    late = np.array(outcome, np.uint8) == LATE
    is_quote = (np.array(outcome) == QUOTE) | (late & (numbers % 8 == 3))
    block = Block(
        key=(numbers % keys).astype(np.int32),
        kind=np.where(is_quote, IS_QUOTE, IS_TRADE).astype(np.uint8),
        timestamp=START + numbers * 1_000,
        received=START + numbers * 1_000 - 7,
        price=100.0 + numbers / 3.0,
        volume=1.0 / numbers,
        side=np.where(is_quote, 0, numbers % 3 - 1).astype(np.int8),
        ask=np.where(is_quote, 101.0 + numbers / 3.0, np.nan),
        ask_volume=np.where(is_quote, np.where(numbers % 5 == 0, np.nan, 2.0), np.nan),
        trade_id=numbers * 10 + 5,
        late=late.astype(np.uint8),
    )
    found = np.array(gaps, np.int64).reshape(-1, 6)
    return Admitted(block, np.array(outcome, np.uint8), numbers, block.received + 7, found)


def rows_of(admitted: Admitted, keys: Keys) -> Iterator[tuple[Any, ...]]:
    """The inputs of a block as plain rows, in their order."""
    block = admitted.block
    gaps = {row: (sequence, "gap", *rest) for row, sequence, *rest in admitted.gaps.tolist()}
    bits = [column.view(np.int64) for column in (block.price, block.volume)]
    asks = [column.view(np.int64) for column in (block.ask, block.ask_volume)]
    for row in range(len(block)):
        outcome = int(admitted.outcome[row])
        if not TRADE <= outcome <= LATE:
            continue
        times = int(block.timestamp[row]), int(admitted.received[row])
        key = keys[int(block.key[row])]
        if row in gaps:
            yield (*gaps[row][:2], key, *times, *gaps[row][2:])
        is_quote = block.kind[row] == IS_QUOTE
        yield (
            int(admitted.sequence[row]),
            "quote" if is_quote else "trade",
            key,
            *times,
            int(block.side[row]),
            int(block.trade_id[row]),
            *(int(column[row]) for column in bits),
            *(int(column[row]) for column in asks if is_quote),
            outcome == LATE,
        )


def plain(found: Iterable[Any], keys: Keys) -> list[Any]:
    """What was read, blocks of any length as plain rows; everything else as it is."""
    rows: list[Any] = []
    for item in found:
        rows.extend(rows_of(item, keys) if isinstance(item, Admitted) else [item])
    return rows


def read_plain(folder: Path, **options: Any) -> list[Any]:
    """A journal's content as plain rows."""
    keys = Keys()
    return plain(read(folder, keys, **options), keys)


def expected_rows(first: int, last: int, *, keys: int = 3) -> list[Any]:
    """The rows of inputs `first` to `last`, as `fill` writes them in one call."""
    return plain([block_at(first, last - first + 1, keys=keys)], keys_of(keys))


def fill(journal: Journal, keys: Keys, counts: Sequence[int]) -> list[Any]:
    """Append blocks of so many inputs each; return their plain rows."""
    rows: list[Any] = []
    for size in counts:
        admitted = block_at(journal.next_sequence, size, keys=len(keys))
        journal.append(admitted, keys)
        rows.extend(rows_of(admitted, keys))
    return rows


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition holds. Fails after so many seconds."""
    tick = threading.Event()
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        tick.wait(0.001)


def heartbeat_at(sequence: int) -> Heartbeat:
    """The heartbeat that stands for an input which is not of the market."""
    return Heartbeat(START + sequence * 1_000, START + sequence * 1_000, sequence)


def check_rows(rows: Sequence[Any]) -> None:
    """Check that each input is what `block_at` or `heartbeat_at` makes of its sequence, and that none is missing."""
    keys = keys_of(3)
    before: Any = None
    for row in rows:
        sequence = row.sequence if isinstance(row, Heartbeat) else row[0]
        last = before.sequence if isinstance(before, Heartbeat) else before[0] if before else sequence - 1
        assert sequence == last + 1, f"input {sequence} comes behind {last}"
        is_pair = isinstance(before, tuple) and before[1] == "gap"
        if isinstance(row, Heartbeat):
            assert row == heartbeat_at(sequence)
        elif row[1] == "gap":
            assert row == next(rows_of(block_at(sequence, 2), keys))
        else:
            assert row == list(rows_of(block_at(sequence - is_pair, 1 + is_pair), keys))[-1]
        before = row


def write_for_ever(folder: Path, seed: int, fsync: str) -> None:
    """Append blocks and heartbeats of random lengths, with rotations, retention and checkpoints; print each sequence acknowledged."""
    chance = random.Random(seed)
    journal = open_journal(folder, segment_bytes=8 * 4096, fsync=fsync, retention_bytes=20 * 8 * 4096)
    keys = keys_of(3)
    print(journal.next_sequence - 1, flush=True)
    for turn in count():
        if turn % 5 == 4:
            journal.append_event(heartbeat_at(journal.next_sequence))
        else:
            journal.append(block_at(journal.next_sequence, chance.randint(1, 60)), keys)
        print(journal.next_sequence - 1, flush=True)
        if turn % 50 == 49:
            journal.note_checkpoint(journal.next_sequence - 1, {"features": str(turn)})
            journal.retain(journal.next_sequence - 1)


if __name__ == "__main__":
    write_for_ever(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
