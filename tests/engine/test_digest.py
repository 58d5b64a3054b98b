"""The digests against a second implementation, written from the paragraph "Digest" of INTERFACES.

> Per (view, exchange, symbol): rows (timestamp as int64, values as float64, little-endian, every NaN one bit pattern) are hashed in
> chunks of 4,096 rows, d = SHA256(d | chunk). `features` = SHA256 over the sorted (key, d, open chunk). An empty stream hashes empty.

What INTERFACES leaves open, how parts are kept apart, is as `engine.digest.update` says: each has its length before it.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.digest import CHUNK_ROWS, Digests
from engine.events import Signal
from tests.folding import BTC, ETH, Run, listener, signal, trade, trades

Row = tuple[int, list[float]]
Streams = Mapping[Any, Sequence[Row]]  # by tuples of words
EMPTY = hashlib.sha256().hexdigest()
CANONICAL_NAN = bytes.fromhex("000000000000f87f")
SIGNALLING, PAYLOAD = (
    struct.unpack("<d", bits.to_bytes(8, "little"))[0] for bits in (0xFFF8000000000000, 0x7FF8000000000123)
)


def by_definition(streams: Streams) -> str:
    """The digest of streams, row by row."""
    total = hashlib.sha256()

    def feed(part: bytes) -> None:
        total.update(struct.pack("<Q", len(part)) + part)

    for name in sorted(streams):
        packed = [
            struct.pack("<q", at) + b"".join(CANONICAL_NAN if math.isnan(v) else struct.pack("<d", v) for v in row)
            for at, row in streams[name]
        ]
        chain = b""
        while len(packed) >= 4096:
            chain = hashlib.sha256(chain + b"".join(packed[:4096])).digest()
            packed = packed[4096:]
        for word in name:
            feed(word.encode())
        feed(chain)
        feed(b"".join(packed))
    return total.hexdigest()


def add(digests: Digests, name: tuple[str, ...], rows: Sequence[Row]) -> None:
    values = np.array([row for _, row in rows], np.float64).T
    digests.add(name, np.array([at for at, _ in rows], np.int64), np.ascontiguousarray(values))


def rows_of(count: int, seed: int = 0, width: int = 2) -> list[Row]:
    random = np.random.Generator(np.random.PCG64(seed))
    return [(1_700_000_000_000_000_000 + i, random.normal(size=width).tolist()) for i in range(count)]


def digest_of(streams: Streams) -> str:
    digests = Digests()
    for name, rows in streams.items():
        add(digests, name, rows)
    return digests.hexdigest()


def test_no_streams_hash_empty() -> None:
    assert Digests().hexdigest() == EMPTY == by_definition({})


def test_a_stream_without_rows_is_none() -> None:
    digests = Digests()
    digests.extend(("a",), np.empty((0, 3)))
    assert digests.hexdigest() == EMPTY


def test_the_chunk_is_4096_rows() -> None:
    assert CHUNK_ROWS == 4096


@pytest.mark.parametrize("count", [1, 4095, 4096, 4097, 8191, 8192, 9000])
def test_the_chain_is_the_definition_around_every_edge_of_a_chunk(count: int) -> None:
    streams = {("view", "x", "A/B"): rows_of(count)}
    assert digest_of(streams) == by_definition(streams)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=6))
def test_the_chain_does_not_depend_on_the_pieces_in_which_rows_arrive(pieces: list[int]) -> None:
    rows = ROWS[: sum(pieces)]
    digests = Digests()
    start = 0
    for piece in pieces:
        if rows[start : start + piece]:
            add(digests, ("v", "x", "A/B"), rows[start : start + piece])
        start += piece
    assert digests.hexdigest() == digest_of({("v", "x", "A/B"): rows})


ROWS = rows_of(12_000)


def test_every_nan_is_one_bit_pattern_and_every_other_bit_counts() -> None:
    first, *same = ([(5, [value, 1.0])] for value in (math.nan, SIGNALLING, PAYLOAD, -math.nan))
    assert {digest_of({("v",): rows}) for rows in same} == {digest_of({("v",): first})}
    assert digest_of({("v",): first}) == by_definition({("v",): first})
    different = [0.0, -0.0, 5e-324, 1.0, math.nextafter(1.0, 2.0), math.inf, -math.inf, math.nan]
    assert len({digest_of({("v",): [(5, [value])]}) for value in different}) == len(different)


def test_a_timestamp_is_an_integer_and_never_taken_for_a_nan() -> None:
    bits_of_nans = [0x7FF8000000000000, 0x7FF8000000000001, -0x0008000000000000]
    digests = {digest_of({("v",): [(at, [1.0])]}) for at in bits_of_nans}
    assert len(digests) == 3
    for at in bits_of_nans:
        assert digest_of({("v",): [(at, [1.0])]}) == by_definition({("v",): [(at, [1.0])]})


@given(st.permutations(["b", "a", "ab", "", "ä", "z"]))
def test_streams_are_taken_in_the_order_of_their_names_and_not_of_their_arrival(order: list[str]) -> None:
    streams = {("view", "x", name): rows_of(3, seed=len(name) + ord((name or "-")[0])) for name in order}
    assert digest_of(streams) == by_definition(streams) == digest_of(dict(sorted(streams.items())))


def test_names_cannot_run_into_one_another_nor_into_rows() -> None:
    rows = rows_of(2)
    names: list[tuple[str, ...]] = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", "")]
    assert len({digest_of({name: rows}) for name in names}) == len(names)
    one, two = {("v",): rows}, {("v",): rows[:1], ("w",): rows[1:]}
    assert digest_of(one) != digest_of(two)


def test_the_order_of_rows_counts() -> None:
    rows = rows_of(10)
    assert digest_of({("v",): rows}) != digest_of({("v",): rows[::-1]})


# What the fold feeds into them


def folded(*plugins: Any) -> tuple[Run, dict[tuple[str, ...], list[Row]]]:
    streams: dict[tuple[str, ...], list[Row]] = {}

    def rows(view: str, key: tuple[str, str], stamps: Any, values: Any) -> None:
        found = zip(stamps[0].tolist(), values.T.tolist(), strict=True)
        streams.setdefault((view, *key), []).extend(found)

    run = Run(*plugins)
    run.fold.rows = rows
    return run, streams


def test_the_digest_of_the_features_is_the_definition_over_all_rows_that_were_put_out() -> None:
    run, streams = folded()
    run.push([*trades(5000, BTC), *trades(700, ETH)], 1000)
    assert sorted(streams) == [(view, *key) for view in ("bars", "quick", "slow") for key in (BTC, ETH)]
    assert run.fold.digest()["features"] == by_definition(streams)


def test_the_digest_of_the_signals_is_the_definition_by_strategy_and_key() -> None:
    plugins = (
        listener("quick", name="many", answer=lambda event: [signal(event, event["price"])]),
        listener("bars", name="few", answer=lambda event: [signal(event, math.nan)]),
    )
    run, _ = folded(*plugins)
    run.push([*trades(5000, BTC), *trades(700, ETH)], 999)
    streams: dict[tuple[str, ...], list[Row]] = {}
    for found in run.of(Signal):
        streams.setdefault((found.strategy, found.exchange, found.symbol), []).append((found.timestamp, [found.value]))
    assert len(streams) == 4
    assert run.fold.digest()["signals"] == by_definition(streams)


def test_nothing_was_predicted_so_the_predictions_hash_empty() -> None:
    run, _ = folded()
    digest = run.push([trade()]).fold.digest()
    assert digest["predictions"] == digest["signals"] == EMPTY
    assert sorted(digest) == ["features", "inputs", "predictions", "signals", "state"]
