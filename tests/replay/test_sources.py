"""Recordings as blocks: Parquet and captures, whole and broken."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.block import IS_QUOTE, IS_TRADE, NO_ID, Block, Keys
from engine.errors import ReplayError, StoreError
from replay.sources import BUILT_IN, Capture, open_source, total_rows
from tests.folding import QUOTES, SECOND, START, TRADES

FIRST = 1_723_161_254_000_000_000  # received of the first frame of a capture


def frame(trade_id: int, *, event: str = "trade", symbol: str = "BTCUSDT", at_ms: int = 1_723_161_255_342) -> str:
    fields = {
        "e": event,
        "E": at_ms,
        "s": symbol,
        "t": trade_id,
        "p": "61837.63",
        "q": "0.02",
        "T": at_ms,
        "m": True,
        "M": True,
    }
    return json.dumps({"stream": f"{symbol.lower()}@trade", "data": fields})


def book(update_id: int, symbol: str = "BTCUSDT") -> str:
    fields = {"u": update_id, "s": symbol, "b": "61837.63", "B": "3.5", "a": "61837.64", "A": "1.5"}
    return json.dumps({"stream": f"{symbol.lower()}@bookTicker", "data": fields})


def line(raw: Any, received: int, conn: str = "a", kind: str = "recv") -> str:
    return json.dumps({"kind": kind, "recv_ns": received, "conn": conn, "raw": raw})


def capture(path: Path, lines: Sequence[str]) -> Path:
    data = "".join(f"{text}\n" for text in lines).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def read(path: Path) -> tuple[Keys, Block]:
    keys = Keys()
    blocks = [block for block in open_source(path).blocks(keys) if len(block)]
    assert blocks, f"{path.name} gave no rows"
    return keys, Block.concatenate(blocks)


def refusal(path: Path, kind: type[Exception] = ReplayError) -> str:
    with pytest.raises(kind) as caught:
        for _ in open_source(path).blocks(Keys()):
            pass
    return str(caught.value)


def table(**columns: Any) -> pa.Table:
    count = 3
    usual: dict[str, Any] = {
        "timestamp": [START + i for i in range(count)], "received": [START + 10 + i for i in range(count)],
        "exchange": ["x"] * count, "symbol": ["A/B", "C/D", "A/B"], "price": [1.0, 2.0, 3.0], "volume": [0.5] * count,
        "side": pa.array([1, -1, 0], pa.int8()), "trade_id": [7, None, 8],
    }  # fmt: skip
    return pa.table({name: column for name, column in {**usual, **columns}.items() if column is not None})


def written(path: Path, rows: pa.Table, **how: Any) -> Path:
    pq.write_table(rows, path, **how)
    return path


# Parquet


def test_a_parquet_file_of_ticks_gives_its_rows_in_their_order(tmp_path: Path) -> None:
    keys, block = read(written(tmp_path / "t.parquet", table(late=[False, False, True])))
    assert [keys[code] for code in block.key.tolist()] == [("x", "A/B"), ("x", "C/D"), ("x", "A/B")]
    assert block.kind.tolist() == [IS_TRADE] * 3
    assert block.timestamp.tolist() == [START, START + 1, START + 2]
    assert block.received.tolist() == [START + 10, START + 11, START + 12]
    assert (block.price.tolist(), block.volume.tolist()) == ([1.0, 2.0, 3.0], [0.5] * 3)
    assert (block.side.tolist(), block.trade_id.tolist(), block.late.tolist()) == ([1, -1, 0], [7, NO_ID, 8], [0, 0, 1])


def test_a_parquet_file_of_quotes_gives_quotes() -> None:
    keys, block = read(QUOTES)
    expected = pq.read_table(QUOTES)
    assert (block.kind == IS_QUOTE).all()
    for column, name in (
        ("price", "bid"),
        ("volume", "bid_volume"),
        ("ask", "ask"),
        ("ask_volume", "ask_volume"),
        ("trade_id", "update_id"),
    ):
        assert getattr(block, column).tolist() == expected[name].to_pylist(), name
    assert len(keys) == 2


def test_times_may_be_arrow_timestamps_and_columns_may_be_missing_that_are_optional(tmp_path: Path) -> None:
    times = pa.array([START, START + 1, START + 2], pa.timestamp("ns", "UTC"))
    rows = table(timestamp=times, received=times, side=None, trade_id=None)
    _, block = read(written(tmp_path / "t.parquet", rows))
    assert block.received.tolist() == [START, START + 1, START + 2]
    assert (block.side.tolist(), block.trade_id.tolist(), block.late.tolist()) == ([0] * 3, [NO_ID] * 3, [0] * 3)


def test_the_row_groups_of_a_file_are_of_no_consequence(tmp_path: Path) -> None:
    whole = pq.read_table(TRADES)
    _, expected = read(TRADES)
    _, found = read(written(tmp_path / "t.parquet", whole, row_group_size=77))
    for name, column in msgspec.structs.asdict(expected).items():
        assert column.tolist() == getattr(found, name).tolist(), name


def test_a_parquet_file_knows_its_rows_and_a_capture_does_not(tmp_path: Path) -> None:
    ticks, quotes = open_source(TRADES), open_source(QUOTES)
    raw = open_source(capture(tmp_path / "binance.jsonl", [line(frame(1), FIRST)]))
    assert (ticks.rows(), raw.rows()) == (6000, None)
    assert total_rows([ticks, quotes]) == 32_275
    assert total_rows([ticks, raw]) is None


@pytest.mark.parametrize(
    ("rows", "kind", "said"),
    [
        (table(price=None), ReplayError, "expected ticks (price, volume, ...) or quotes (bid, ask, ...), found columns timestamp, received"),
        (table(received=None), StoreError, "missing received"),
        (table(exchange=None, timestamp=None), StoreError, "missing timestamp, exchange"),
        (table(price=["1", "x", "3"]), StoreError, "column price: expected double, found string"),
        (table(side=pa.array([1, 2, 0], pa.int8())), StoreError, "column side: expected +1 (the taker bought), -1 (sold) or 0 (unknown), found 2"),
        (table(timestamp=[1.0, 2.0, 3.0]), StoreError, "column timestamp: expected int64 nanoseconds or an Arrow timestamp, found double"),
        (table(received=[START, None, START]), StoreError, "column received: expected no nulls, found 1"),
        (table(symbol=["A/B", None, "A/B"]), StoreError, "column symbol: expected no nulls, found 1"),
        (table(symbol=["A/B", "", "A/B"]), StoreError, "column symbol: expected text that is not empty"),
        (table(symbol=[1, 2, 3]), StoreError, "column symbol: expected text, found int64"),
    ],
)  # fmt: skip
def test_wrong_columns_are_refused_with_file_column_and_what_was_found(
    tmp_path: Path, rows: pa.Table, kind: type[Exception], said: str
) -> None:
    path = written(tmp_path / "t.parquet", rows)
    found = refusal(path, kind)
    assert found.startswith(f"{path}: ")
    assert said in found


def test_a_file_that_is_no_parquet_or_is_torn_is_refused(tmp_path: Path) -> None:
    whole = TRADES.read_bytes()
    for name, content in (("empty", b""), ("text", b"price,volume\n1,2\n"), ("torn", whole[: len(whole) // 2])):
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(content)
        assert refusal(path).startswith(f"{path}: expected a Parquet file: ")


def test_a_parquet_file_with_a_damaged_page_is_refused_where_it_is_read(tmp_path: Path) -> None:
    data = bytearray(TRADES.read_bytes())
    data[4:3000] = bytes(2996)
    path = tmp_path / "damaged.parquet"
    path.write_bytes(data)
    assert refusal(path).startswith(f"{path}: cannot be read to its end: ")


# What is no recording


def test_a_path_that_is_no_recording_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    assert refusal(tmp_path / "none.parquet") == f"{tmp_path}/none.parquet: no such file"
    assert refusal(tmp_path).endswith(
        "expected a Parquet file of ticks or quotes, a capture (.jsonl, .jsonl.gz) or a data folder of the daemon (with journal/ in it), "
        "found another folder"
    )
    assert (
        refusal(tmp_path / "a.csv")
        == f"{tmp_path}/a.csv: expected Parquet ticks or quotes (.parquet) or a capture (.jsonl, .jsonl.gz)"
    )


# Captures


@pytest.mark.parametrize("name", ["binance_spot.jsonl", "binance_spot.jsonl.gz", "unnamed.jsonl", "unnamed.jsonl.gz"])
def test_a_capture_plain_or_packed_gives_the_events_of_its_frames(tmp_path: Path, name: str) -> None:
    lines = [line(book(5), FIRST), line(frame(7), FIRST + 1), line(frame(8, symbol="ETHUSDT"), FIRST + 2)]
    keys, block = read(capture(tmp_path / name, lines))
    assert [keys[code] for code in block.key.tolist()] == [("binance", "BTC/USDT")] * 2 + [("binance", "ETH/USDT")]
    assert block.kind.tolist() == [IS_QUOTE, IS_TRADE, IS_TRADE]
    assert block.received.tolist() == [FIRST, FIRST + 1, FIRST + 2]
    assert block.trade_id.tolist() == [5, 7, 8]
    assert (block.ask[0], block.ask_volume[0], block.side[1]) == (61837.64, 1.5, -1)


def test_a_frame_may_stand_in_a_line_as_text_or_as_json(tmp_path: Path) -> None:
    _, block = read(capture(tmp_path / "binance.jsonl", [line(frame(7), FIRST), line(json.loads(frame(8)), FIRST + 1)]))
    assert block.trade_id.tolist() == [7, 8]


def test_lines_that_are_no_messages_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    lines = [
        line("", FIRST, kind="open"),
        "",
        line(frame(7), FIRST),
        "   ",
        line("x", FIRST, kind="sent"),
        line('{"result":null,"id":1}', FIRST),
    ]
    source = open_source(capture(tmp_path / "binance.jsonl", lines))
    assert [len(block) for block in source.blocks(Keys())] == [1]
    assert source.notes() == []


def test_connections_are_rebased_to_the_start_of_the_first_and_merged(tmp_path: Path) -> None:
    day = 86_400 * SECOND
    first_ms = 1_723_161_255_000
    lines = [
        line(frame(1, at_ms=first_ms), FIRST, "a"),
        line(frame(2, at_ms=first_ms + 20), FIRST + 20, "a"),
        line(frame(1, symbol="ETHUSDT", at_ms=first_ms + 86_400_000), FIRST + day, "b"),
        line(frame(2, symbol="ETHUSDT", at_ms=first_ms + 86_400_000 + 10), FIRST + day + 10, "b"),
    ]
    keys, block = read(capture(tmp_path / "binance.jsonl", lines))
    assert [keys[code][1] for code in block.key.tolist()] == ["BTC/USDT", "ETH/USDT", "ETH/USDT", "BTC/USDT"]
    assert (block.received - FIRST).tolist() == [0, 0, 10, 20]
    moved_ms = (block.timestamp // 1_000_000 - first_ms).tolist()
    assert moved_ms == [0, 0, 10, 20], "timestamp moves as far as received does"


def test_a_connection_begins_with_its_first_line_of_any_kind(tmp_path: Path) -> None:
    lines = [
        line(frame(1), FIRST, "a"),
        line("", FIRST + 1000, "b", "open"),
        line(frame(1, symbol="ETHUSDT"), FIRST + 1007, "b"),
    ]
    _, block = read(capture(tmp_path / "binance.jsonl", lines))
    assert (block.received - FIRST).tolist() == [0, 7]


def test_frames_that_cannot_be_decoded_are_counted_and_the_first_is_shown_with_its_line(tmp_path: Path) -> None:
    lines = [
        line(frame(1), FIRST),
        line('{"e":"trade"}', FIRST + 1),
        line("not json", FIRST + 2),
        line(frame(2), FIRST + 3),
    ]
    path = capture(tmp_path / "binance.jsonl", lines)
    source = open_source(path)
    assert isinstance(source, Capture)
    assert [block.trade_id.tolist() for block in source.blocks(Keys())] == [[1, 2]]
    assert source.undecodable == 2
    (note,) = source.notes()
    assert note.startswith(f"2 frames of {path} could not be decoded; the first: {path}:2: binance: ")


@pytest.mark.parametrize(
    "text",
    [
        '{"kind":"recv","recv_ns":1',
        "not json",
        "[1,2]",
        '{"recv_ns":1}',
        '{"kind":"recv","recv_ns":"x","conn":"a","raw":""}',
        '{"kind":"\udcff"}',
    ],
)
@pytest.mark.parametrize("name", ["binance.jsonl", "binance.jsonl.gz"])
def test_a_malformed_line_is_refused_with_file_and_line(tmp_path: Path, name: str, text: str) -> None:
    data = f"{line(frame(1), FIRST)}\n\n".encode() + text.encode("utf-8", "surrogateescape") + b"\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert refusal(path).startswith(f"{path}:3: expected a JSON object with kind, recv_ns, conn, raw: ")


@pytest.mark.parametrize("raw", [r'"\ud800"', r'"\udc00 \ud800"', '"\\u0000"', '"a', "{", '"\\x"'])
def test_a_line_whose_message_is_no_text_is_refused_or_counted_and_never_a_defect(tmp_path: Path, raw: str) -> None:
    path = tmp_path / "binance.jsonl"
    text = f'{line(frame(1), FIRST)}\n{{"kind":"recv","recv_ns":{FIRST},"conn":"a","raw":{raw}}}\n'
    path.write_text(text)
    source = open_source(path)
    try:
        rows = [block.trade_id.tolist() for block in source.blocks(Keys())]
    except ReplayError as error:
        assert str(error).startswith(f"{path}:2: ")  # noqa: PT017 - either is right
    else:
        assert rows == [[1]]
        assert source.notes()[0].startswith("1 frames")


def test_a_message_without_the_time_it_was_received_is_refused(tmp_path: Path) -> None:
    text = json.dumps({"kind": "recv", "conn": "a", "raw": frame(2)})
    path = capture(tmp_path / "binance.jsonl", [line(frame(1), FIRST), text])
    assert refusal(path).startswith(f"{path}:2: ")


def test_a_torn_gzip_is_refused_and_named(tmp_path: Path) -> None:
    path = capture(tmp_path / "binance.jsonl.gz", [line(frame(i), FIRST + i) for i in range(500)])
    path.write_bytes(path.read_bytes()[:-30])
    assert refusal(path).startswith(f"{path}: cannot be read to its end: ")


def test_a_gzip_with_damaged_bytes_is_refused_and_named_wherever_they_are(tmp_path: Path) -> None:
    path = capture(tmp_path / "binance.jsonl.gz", [line(frame(i), FIRST + i) for i in range(500)])
    whole = path.read_bytes()
    for at in range(10, len(whole), len(whole) // 12):
        damaged = bytearray(whole)
        damaged[at : at + 4] = b"\xff\xff\xff\xff"
        path.write_bytes(damaged)
        assert str(path) in refusal(path), f"damaged at byte {at}"


def test_a_file_that_is_no_gzip_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "binance.jsonl.gz"
    path.write_bytes(b"plain text")
    assert refusal(path).startswith(f"{path}: cannot be read to its end: ")


def test_a_capture_of_an_unknown_feed_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    path = capture(tmp_path / "mystery.jsonl", [line('{"topic":"/market/match"}', FIRST)] * 3)
    assert refusal(path).startswith(f"{path}: expected messages of one of binance")
    assert "found none in its first 500 lines" in refusal(path)


def test_an_empty_capture_of_a_known_feed_gives_nothing(tmp_path: Path) -> None:
    path = capture(tmp_path / "binance.jsonl", [])
    assert [len(block) for block in open_source(path).blocks(Keys())] == []


def test_the_built_in_recording_can_be_read_to_its_end() -> None:
    keys, block = read(BUILT_IN)
    assert len(block) == 37_883
    assert sorted(keys[code][1] for code in range(len(keys))) == ["BLZ/ETH", "BTC/USDT", "LRC/BTC", "NKN/USDT"]
    assert open_source(BUILT_IN).notes() == []
