"""Journals that are small enough to look at: admitted blocks out of plain rows, and what was read back as plain rows again.

A row of the market is (sequence, kind, key, timestamp, received, side, trade id, bits of its four floats, late); a gap has its six
integers. Floats are compared by their bits, so a NaN equals itself and no other NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.block import IS_QUOTE, IS_TRADE, Block, Keys
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


def keys_of(count: int) -> Keys:
    """So many keys, numbered."""
    keys = Keys()
    for number in range(count):
        keys.code(("x", f"K{number}/USDT"))
    return keys


def block_at(first: int, count: int, *, keys: int = 3) -> Admitted:
    """Inputs `first` to `first + count - 1`: each a function of its sequence alone. Every seventh trade has a gap before it."""
    outcome: list[int] = []
    sequence: list[int] = []
    gaps: list[tuple[int, ...]] = []
    number = first
    while number < first + count:
        if number % 7 == 3 and number + 1 < first + count:
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
    for count in counts:
        admitted = block_at(journal.next_sequence, count, keys=len(keys))
        journal.append(admitted, keys)
        rows.extend(rows_of(admitted, keys))
    return rows
