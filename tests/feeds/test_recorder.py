from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import tempfile
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.block import Block, Keys
from engine.errors import StoreError
from feeds.recorder import Recorder, recover
from replay.sources import BUILT_IN, Capture

START = 1_723_161_254_087_891_268  # 2024-08-08 23:54:14 UTC
SECOND = 1_000_000_000
URL = "wss://stream.binance.com:9443/ws"
ROOT = Path(__file__).parents[2]


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(recorder: Recorder, count: int, start: int = START, step: int = SECOND // 10, size: int = 100) -> None:
    for number in range(count):
        recorder("recv", start + number * step, "binance 1", f"{number:0{size}}")


# What is in a file


def test_a_file_holds_what_came_and_went_in_the_form_of_the_captures(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, name="binance")
    recorder("connect", START, "binance 1", URL)
    recorder("send", START + 1, "binance 1", '{"method":"SUBSCRIBE"}')
    recorder("recv", START + 2, "binance 1", b'{"result":null}')
    recorder("recv", START + 3, "binance 1", 'an umlaut \u00fc, a quote "')
    recorder.close()
    assert recorder.files == [tmp_path / "binance-20240808T235414Z.jsonl.gz"]
    assert names(tmp_path) == ["binance-20240808T235414Z.jsonl.gz"]
    head = {"recv_ns": START, "conn": "binance 1"}
    assert read(recorder.files[0]) == [
        {"n": 1, "kind": "connect", **head, "url": URL, "raw": None},
        {"n": 2, "kind": "send", **head, "recv_ns": START + 1, "url": URL, "raw": '{"method":"SUBSCRIBE"}'},
        {"n": 3, "kind": "recv", **head, "recv_ns": START + 2, "raw": '{"result":null}'},
        {"n": 4, "kind": "recv", **head, "recv_ns": START + 3, "raw": 'an umlaut \u00fc, a quote "'},
    ]
    assert (recorder.messages, recorder.received, recorder.lost) == (4, 2, 0)


@given(st.lists(st.tuples(st.binary() | st.text() | st.binary().map(bytearray), st.integers(0, 10 * SECOND)), max_size=30),
       st.integers(1, 400))  # fmt: skip
def test_whatever_came_is_read_again_in_order(messages: list[tuple[bytes | str, int]], rotate_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(folder, name="x", rotate_bytes=rotate_bytes)
        at, times = START, []
        for message, step in messages:
            at += step
            times.append(at)
            recorder("recv", at, "x 1", message)
        recorder.close()
        files = [read(path) for path in recorder.files]
    for lines in files:
        assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
    lines = [line for file in files for line in file]
    assert [line["recv_ns"] for line in lines] == times
    found = [b64decode(line["base64"]) if "base64" in line else line["raw"].encode() for line in lines]
    assert found == [message.encode() if isinstance(message, str) else message for message, _ in messages]


def test_a_text_that_is_no_unicode_is_kept_exactly(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, name="x")
    recorder("recv", START, "x 1", b"\x00\xff")
    recorder("send", START, "x 1", "\ud800")
    recorder.close()
    first, second = read(recorder.files[0])
    assert (first["raw"], b64decode(first["base64"])) == ("\x00\ufffd", b"\x00\xff")
    assert b64decode(second["base64"]) == b"\xed\xa0\x80"


def test_what_was_recorded_replays_as_what_came(tmp_path: Path) -> None:
    recording = Capture(BUILT_IN)
    recorder = Recorder(tmp_path, name="binance")
    for _, line in recording.lines():
        recorder(line.kind, line.recv_ns, line.conn, line.frame if line.kind == "recv" else URL)
    recorder.close()
    # Two files, for it holds two different hours.
    recorded = [Capture(path) for path in recorder.files]
    assert [capture.feed() for capture in recorded] == ["binance", "binance"]
    lines = [(line.kind, line.conn, line.recv_ns, line.raw) for capture in recorded for _, line in capture.lines()]
    assert [line for line in lines if line[0] == "recv"] == [
        (line.kind, line.conn, line.recv_ns, line.raw) for _, line in recording.lines() if line.kind == "recv"
    ]
    keys = Keys()
    blocks = [Block.concatenate(list(capture.blocks(keys))) for capture in (recording, *recorded)]
    assert len(blocks[0]) == len(blocks[1]) + len(blocks[2])
    assert [keys.code(("binance", symbol)) in blocks[2].key for symbol in ("BTC/USDT", "NKN/USDT")] == [False, True]
    bitcoin = keys.code(("binance", "BTC/USDT"))
    for name in ("timestamp", "received", "price", "volume", "side", "ask", "trade_id"):
        was, now = (getattr(block, name)[block.key == bitcoin] for block in blocks[:2])
        np.testing.assert_array_equal(was, now)


# When it is on disk


def test_after_a_second_it_is_on_disk_whatever_becomes_of_the_process(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, name="binance")
    fill(recorder, 11)
    part = tmp_path / "binance-20240808T235414Z.jsonl.gz.part"
    assert [line["n"] for line in read(part)] == list(range(1, 12))
    fill(recorder, 3, START + 2 * SECOND)
    assert len(read(part)) == 11
    recorder.tick(START + 2 * SECOND + SECOND // 2)
    assert len(read(part)) == 11
    recorder.tick(START + 3 * SECOND)
    assert len(read(part)) == 14
    recorder.close()
    assert names(tmp_path) == ["binance-20240808T235414Z.jsonl.gz"]


def test_a_burst_is_on_disk_at_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, name="binance")
    fill(recorder, 2_000, step=0)
    lines = len(read(tmp_path / "binance-20240808T235414Z.jsonl.gz.part"))
    assert 1_000 < lines < 2_000
    recorder.close()
    assert len(read(recorder.files[0])) == 2_000


def test_a_new_file_begins_with_the_hour(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, name="binance")
    fill(recorder, 10, step=60 * SECOND)
    assert [path.name for path in recorder.files] == ["binance-20240808T235414Z.jsonl.gz"]
    recorder.tick(START + 3_600 * SECOND)
    recorder.close()
    assert names(tmp_path) == ["binance-20240808T235414Z.jsonl.gz", "binance-20240809T000014Z.jsonl.gz"]
    assert [len(read(path)) for path in recorder.files] == [6, 4]
    assert [line["n"] for line in read(recorder.files[1])] == [1, 2, 3, 4]


def test_a_new_file_begins_when_one_is_large_and_no_name_is_used_twice(tmp_path: Path) -> None:
    made: list[Path] = []
    for _ in range(2):
        recorder = Recorder(tmp_path, name="binance", rotate_bytes=500, flush_s=0.0)
        fill(recorder, 20, step=1)
        recorder.close()
        made += recorder.files
    # The order of names is the order in which they were made.
    files = sorted(tmp_path.iterdir())
    assert files == made
    assert [path.name for path in files[:2]] == [
        "binance-20240808T235414Z.jsonl.gz", "binance-20240808T235414Z_002.jsonl.gz"
    ]  # fmt: skip
    assert len(files) > 4
    assert sum(len(read(path)) for path in files) == 40
    assert all(path.stat().st_size < 800 for path in files)


def test_a_recorder_that_heard_nothing_leaves_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "new", name="binance")
    recorder.tick(START)
    recorder.close()
    assert names(tmp_path / "new") == []


# What is left after a kill


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.data())
def test_what_a_dead_recorder_left_is_cut_to_its_last_whole_block(blocks: list[int], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(folder, name="x")
        ends = [0]
        for number, count in enumerate(blocks):
            fill(recorder, count, START + 2 * number * SECOND, step=1)
            recorder.tick(START + (2 * number + 1) * SECOND + 100)
            ends.append(recorder.bytes_written)
        recorder.close()
        whole = recorder.files[0].read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        torn = whole[:cut] + data.draw(st.sampled_from([b"", b"\x00" * 50, b"\x1f\x8b\x08", b"rubbish"]))
        recorder.files[0].unlink()
        (Path(folder) / "x-1.jsonl.gz.part").write_bytes(torn)
        (found,) = recover(folder, "x")
        good = max(number for number, end in enumerate(ends) if torn[:end] == whole[:end])
        assert found.lines == sum(blocks[:good])
        assert found.bytes_cut == len(torn) - ends[good]
        if good:
            assert names(Path(folder)) == ["x-1.jsonl.gz"]
            assert found.path == str(Path(folder) / "x-1.jsonl.gz")
            assert len(read(Path(found.path))) == found.lines
        else:
            assert (names(Path(folder)), found.path) == ([], "")
        assert recover(folder, "x") == []


def test_what_a_running_recorder_writes_is_left_alone(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, name="binance")
    fill(recorder, 11)
    assert recover(tmp_path, "binance") == []
    assert recover(tmp_path, "kucoin") == []
    recorder.close()
    assert len(read(recorder.files[0])) == 11
    assert recover(tmp_path / "none", "binance") == []


KILLED = """
import sys, time
sys.path.insert(0, {root!r})
from feeds.recorder import Recorder
recorder = Recorder({folder!r}, name="binance")
number = 0
while True:
    for _ in range(1000):
        recorder("recv", {start} + number * 1_000_000, "binance 1", str(number))
        number += 1
    print(number, flush=True)
"""


def test_a_killed_recorder_loses_less_than_its_last_second(tmp_path: Path) -> None:
    code = KILLED.format(root=str(ROOT), folder=str(tmp_path), start=START)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(5)][-1]
        child.send_signal(signal.SIGKILL)
        child.wait()
    (found,) = recover(tmp_path, "binance")
    lines = read(Path(found.path))
    assert len(lines) == found.lines > told - 1_001
    assert [line["raw"] for line in lines] == [str(number) for number in range(len(lines))]


# A disk that is full


FULL = """
import json, resource, sys
sys.path.insert(0, {root!r})
from engine.errors import StoreError
from feeds.recorder import Recorder
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a write beyond fails as on a full disk, after a part of it
recorder = Recorder({folder!r}, name="binance")
import random
drawn = random.Random(0)
count = 0
try:
    while True:
        recorder("recv", {start} + count * 10_000_000, "binance 1", str(drawn.random()))
        count += 1
        recorder.tick({start} + count * 10_000_000)
except StoreError as error:
    said = str(error)
try:
    recorder.close()
except StoreError as error:
    again = str(error)
recorder("recv", {start}, "binance 1", "after")
print(json.dumps([count, recorder.lost, said, again, [path.name for path in recorder.files]]))
"""


def test_a_full_disk_is_said_and_what_has_a_name_is_whole(tmp_path: Path) -> None:
    code = FULL.format(root=str(ROOT), folder=str(tmp_path), start=START)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    count, lost, said, again, files = json.loads(ran.stdout)
    assert said == again == f"{tmp_path}: cannot record: File too large"
    assert names(tmp_path) == files == ["binance-20240808T235414Z.jsonl.gz"]
    lines = read(tmp_path / files[0])
    assert len(lines) + lost == count + 1  # the one that came afterwards
    assert len(lines) > 500
    assert (tmp_path / files[0]).stat().st_size < 20_000


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/sub: cannot be made: Not a directory"):
        Recorder(tmp_path / "file" / "sub", name="binance")


def test_a_folder_that_disappears_is_said_and_what_comes_is_counted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "here", name="binance")
    (tmp_path / "here").rmdir()
    fill(recorder, 3)
    with pytest.raises(StoreError, match="here: cannot record: No such file"):
        recorder.tick(START)
    assert (recorder.messages, recorder.lost) == (0, 3)
