"""Captures as Parquet: the same ticks and quotes as a replay of the capture itself."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.block import Block, Keys
from engine.errors import ReplayError
from replay import capture_export
from replay.capture_export import export_capture
from replay.merge import merge
from replay.sources import BUILT_IN, open_source

LINES = 4_000


def cut(folder: Path, lines: int = LINES) -> Path:
    path = folder / "binance-20240808T235413Z.jsonl.gz"
    with gzip.open(BUILT_IN, "rb") as file:
        path.write_bytes(gzip.compress(b"".join(line for line, _ in zip(file, range(lines), strict=False))))
    return path


def block_of(*paths: Path) -> tuple[Block, Keys]:
    keys = Keys()
    return Block.concatenate(list(merge([open_source(path).blocks(keys) for path in paths]))), keys


def test_the_export_replays_as_the_capture_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_export, "ROWS", 700)
    path = cut(tmp_path)
    made = export_capture(path)
    assert [file.name for file in made.files] == [
        "binance-20240808T235413Z_trades.parquet",
        "binance-20240808T235413Z_quotes.parquet",
    ]
    assert made.undecodable == 0
    (trades, trade_keys), (quotes, quote_keys) = (block_of(file) for file in made.files)
    whole, keys = block_of(path)
    assert (len(trades), len(quotes)) == (made.ticks, made.quotes) == tuple(np.bincount(whole.kind))
    for part, part_keys, kind in ((trades, trade_keys, 0), (quotes, quote_keys, 1)):
        expected = whole.take(whole.kind == kind)
        # The recording has one connection in these lines, so nothing was rebased.
        named = [part_keys[code] for code in part.key.tolist()]
        assert named == [keys[code] for code in expected.key.tolist()]
        for ours, theirs in zip(part.columns()[2:], expected.columns()[2:], strict=True):
            if len(ours):
                np.testing.assert_array_equal(ours, theirs)
    assert pq.read_schema(made.files[0]).names == [
        "timestamp", "received", "exchange", "symbol", "price", "volume", "side", "trade_id", "late",
    ]  # fmt: skip


def test_a_capture_that_breaks_off_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    path = cut(tmp_path)
    path.write_bytes(path.read_bytes()[:-2_000])
    with pytest.raises(ReplayError, match="cannot be read to its end"):
        export_capture(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_frames_that_cannot_be_decoded_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "binance-x.jsonl"
    good = '{"n":1,"kind":"recv","recv_ns":1700000000000000000,"conn":"a","raw":"{\\"u\\":1,\\"s\\":\\"BTCUSDT\\",\\"b\\":\\"1\\",\\"B\\":\\"1\\",\\"a\\":\\"2\\",\\"A\\":\\"1\\"}"}'
    bad = '{"n":2,"kind":"recv","recv_ns":1700000000000000001,"conn":"a","raw":"{\\"e\\":\\"trade\\""}'
    path.write_text(f"{good}\n{bad}\n")
    made = export_capture(path)
    assert (made.ticks, made.quotes, made.undecodable) == (0, 1, 1)
    assert [file.name for file in made.files] == ["binance-x_quotes.parquet"]
