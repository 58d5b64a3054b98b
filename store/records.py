"""The journal's record: 64 bytes that numpy maps, that compiled code writes and reads, and that prove themselves.

    bytes  0   timestamp int64, received int64: ns UTC
          16   five words of 8 bytes, by kind
          56   key uint16 (as the segment's KEY records number them), kind uint8, side int8 (of the taker)
          60   check uint32

    TRADE, LATE_TRADE   price, volume (float64), trade id, 0, 0
    QUOTE, LATE_QUOTE   bid, bid volume, ask, ask volume (float64), update id
    GAP                 first id, last id, missing, filled, 0: stands right before the TRADE of its key that skipped the ids
    EVENT               length of its JSON in bytes: any other input
    KEY                 length of its JSON, [exchange, symbol]: what this number means from here on
    CHECKPOINT, BREAK   length of its JSON; both are no inputs
    PART                56 bytes of the JSON of the record before it, filled up with zeros

All is little-endian, floats are kept bit for bit. A record of zeros is one that was not written yet. Kinds up to EVENT are inputs:
each takes the next sequence number, which is written nowhere but in the check.

The check mixes, one word of 64 bits after the other, the record's index in its segment, the record without its check, and one
round more: state = (state ^ word) * MULTIPLIER mod 2^64, then state ^= state >> 32. Each step is a bijection of the state and of
the word, so a change inside one word always gives another state. The lower half of the last state plus the record's sequence,
mod 2^32, is the check: a record that stands elsewhere, or whose predecessors are missing, fails it. And the sequence that a record
claims can be had from it, which tells a torn tail (nothing valid behind it) from damage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from engine.errors import JournalError
from engine.ingress import QUOTE, TRADE

# The ingress's outcomes of a row in time are the first two kinds.
assert (TRADE, QUOTE) == (1, 2)
LATE_TRADE, LATE_QUOTE, GAP, EVENT, PART, KEY, CHECKPOINT, BREAK = range(3, 11)
KINDS = ["nothing", "trade", "quote", "late_trade", "late_quote", "gap", "event", "part", "key", "checkpoint", "break"]
"""Names of the kinds, by number."""

RECORD = np.dtype(
    [
        ("timestamp", "<i8"), ("received", "<i8"), ("values", "<i8", (5,)),
        ("key", "<u2"), ("kind", "u1"), ("side", "i1"), ("check", "<u4"),
    ]
)  # fmt: skip
RECORD_BYTES = 64
WORDS = RECORD_BYTES // 8
PART_BYTES = 56
PAYLOAD_BYTES_MAX = 1 << 20
"""The longest JSON of one event, key, checkpoint or break."""
KEYS_MAX = 65_535

MULTIPLIER = 0x5851F42D4C957F2D  # D. E. Knuth, MMIX; any odd number gives a bijection
Words = npt.NDArray[np.uint64]


class Checkpoint(msgspec.Struct, frozen=True):
    """Digests that the daemon had once it had folded the input `sequence`. Inputs after that one may stand before the checkpoint."""

    sequence: int
    digests: Mapping[str, str]


class Break(msgspec.Struct, frozen=True):
    """The inputs `first_lost` to `last_lost`, both inclusive, were folded but not journaled."""

    reason: str
    first_lost: int
    last_lost: int


def check_of(words: Sequence[int], index: int, sequence: int) -> int:
    """Return the check of a record: `words` are its eight, `index` is its place in the segment. The compiled one's definition."""
    state = MULTIPLIER
    for word in (index, *words[:7], words[7] & 0xFFFF_FFFF, 0):
        state = (state ^ word) * MULTIPLIER & 0xFFFF_FFFF_FFFF_FFFF
        state ^= state >> 32
    return (state + sequence) & 0xFFFF_FFFF


def parts_of(length: int) -> int:
    """Return how many PART records hold a payload of so many bytes."""
    return -(-length // PART_BYTES)


def group(kind: int, payload: bytes, *, timestamp: int = 0, received: int = 0, key: int = 0) -> Words:
    """Return a record with its parts, still without checks: shape (1 + parts, 8). Raises JournalError for a payload too long."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise JournalError(
            f"a journal record of kind {KINDS[kind]}: expected at most {PAYLOAD_BYTES_MAX} bytes of JSON, "
            f"found {len(payload)}: {payload[:80]!r}..."
        )
    count = parts_of(len(payload))
    records = np.zeros(1 + count, RECORD)
    records[0] = (timestamp, received, (len(payload), 0, 0, 0, 0), key, kind, 0, 0)
    records["kind"][1:] = PART
    found: Words = records.view(np.uint64).reshape(-1, WORDS)
    text = np.frombuffer(payload.ljust(count * PART_BYTES, b"\0"), np.uint64)
    found[1:, : WORDS - 1] = text.reshape(count, WORDS - 1)
    return found


def payload_of(words: Words, row: int) -> bytes:
    """Return the payload of the head at `row`, whose parts follow it."""
    length = int(words[row, 2])
    return words[row + 1 : row + 1 + parts_of(length), : WORDS - 1].tobytes()[:length]
