"""`tickfold record` as a real process, listening to a loopback exchange."""

from __future__ import annotations

import contextlib
import gzip
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.block import IS_TRADE, Block, Keys
from feeds.recorder import PART, SUFFIX
from replay.sources import Capture
from tests.folding import COMMAND, environment

DEADLINE_S = 60.0
PIPE = subprocess.PIPE


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of an exchange that goes on as long as the tests do."""
    command = [str(COMMAND), "exchange", "--port", "0", "--loop", "--speed", "20", "--until-stdin-closes"]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=environment()) as exchange:
        assert exchange.stdout is not None
        yield exchange.stdout.readline().strip()
        assert exchange.stdin is not None
        exchange.stdin.close()
        assert exchange.wait(DEADLINE_S) == 0


@contextlib.contextmanager
def recording(folder: Path, url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    http = url.replace("ws://", "http://")
    settings = environment(
        TICKFOLD_BINANCE__WEBSOCKET=url,
        TICKFOLD_BINANCE__REST=f"{http}/binance",
        TICKFOLD_COINBASE__WEBSOCKET=f"{url}/coinbase",
        TICKFOLD_COINBASE__REST=f"{http}/coinbase",
        TICKFOLD_KUCOIN__REST=f"{http}/kucoin",
    )
    command = [str(COMMAND), "record", "--dir", str(folder), "--json", *arguments]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=settings, cwd=folder) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_lines(folder: Path, process: subprocess.Popen[str], count: int) -> Path:
    """Look again and again, as long as the process lives, until enough has been written."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        for part in folder.glob(f"*{PART}"):
            with gzip.open(part) as file, contextlib.suppress(EOFError):
                if sum(1 for _ in file) >= count:
                    return part
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            break
    raise AssertionError(f"{count} lines were not written; exit code {process.poll()}")


def ids(path: Path) -> list[int]:
    """The trade ids of BTC/USDT in a capture."""
    keys = Keys()
    capture = Capture(path)
    block = Block.concatenate(list(capture.blocks(keys)))
    assert capture.undecodable == 0
    found: list[int] = block.trade_id[
        (block.kind == IS_TRADE) & (block.key == keys.code(("binance", "BTC/USDT")))
    ].tolist()
    return found


def test_a_minute_or_less_of_a_live_feed_becomes_a_capture_that_replays(tmp_path: Path, url: str) -> None:
    with recording(tmp_path, url, "--symbols", "BTC/USDT", "--minutes", "0.05") as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, "")
    said = json.loads(out)
    (path,) = said["files"]
    with gzip.open(path) as file:
        lines = [json.loads(line) for line in file]
    assert [line["kind"] for line in lines[:3]] == ["connect", "send", "recv"]
    assert lines[0]["url"].startswith(url)
    assert said["messages"] == len(lines)
    assert said["received"] == sum(line["kind"] == "recv" for line in lines)
    found = ids(Path(path))
    assert found == list(range(found[0], found[0] + len(found)))
    assert (said["ticks"], said["lost"], said["recovered"]) == (len(found), 0, [])
    replayed = subprocess.run(
        [str(COMMAND), "replay", path, "--json"], capture_output=True, text=True, check=True, env=environment()
    )
    assert json.loads(replayed.stdout)["inputs"] == said["ticks"] + said["quotes"]


def test_three_feeds_become_three_captures_and_parquet(tmp_path: Path, url: str) -> None:
    symbols = "binance:BTC/USDT,coinbase:BTC/USD,coinbase:ETH/USD,kucoin:ANKR/BTC"
    with recording(
        tmp_path, url, "--feeds", "binance,coinbase,kucoin", "--symbols", symbols, "--parquet", "--minutes", "0.05"
    ) as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, "")
    said = json.loads(out)
    captures = {Path(path).name.partition("-")[0]: Path(path) for path in said["files"]}
    assert sorted(captures) == ["binance", "coinbase", "kucoin"]
    assert {Capture(path).feed() for path in captures.values()} == set(captures)
    rows = dict.fromkeys(("trades", "quotes"), 0)
    for path in map(Path, said["parquet"]):
        rows[path.stem.rpartition("_")[2]] += pq.read_metadata(path).num_rows
    assert rows == {"trades": said["ticks"], "quotes": said["quotes"]}
    with gzip.open(captures["kucoin"]) as file:
        kinds = [json.loads(line)["kind"] for line in file]
    assert kinds[:2] == ["http", "connect"]  # the token, then the dial
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {Path(path).name for path in (*said["files"], *said["parquet"])}


def test_an_interrupt_completes_the_file(tmp_path: Path, url: str) -> None:
    with recording(tmp_path, url, "--symbols", "BTC/USDT") as process:
        wait_for_lines(tmp_path, process, 50)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (130, "")
    (path,) = json.loads(out)["files"]
    assert [str(one) for one in tmp_path.iterdir()] == [path]
    assert ids(Path(path))


def test_after_a_kill_the_next_one_completes_what_was_left(tmp_path: Path, url: str) -> None:
    with recording(tmp_path, url) as process:
        part = wait_for_lines(tmp_path, process, 50)
        process.kill()
        process.wait(DEADLINE_S)
    with recording(tmp_path, url, "--minutes", "0.02") as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert "recovered" in err
    (recovered,) = json.loads(out)["recovered"]
    assert recovered["path"] == str(part).removesuffix(PART)
    assert recovered["lines"] >= 50
    assert sorted(path.name.endswith(SUFFIX) for path in tmp_path.iterdir()) == [True, True]
    first, second = (ids(path) for path in sorted(tmp_path.iterdir()))
    # The market went on meanwhile: no id came twice.
    assert first[-1] < second[0]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--symbols", "NO/SUCH"), 2, "tickfold: NO/SUCH: not in the product list of binance"),
        (("--feeds", "mtgox"), 2, "'mtgox': expected binance, coinbase, kucoin"),
        (("--minutes", "0"), 2, "expected minutes, a number above 0"),
        (("--minutes", "0.01"), 3, "no message was received in 0.01 min: ws://127.0.0.1:1"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    with recording(tmp_path, "ws://127.0.0.1:1", *arguments) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code
    assert said in err.splitlines()[-1]


def test_a_folder_that_cannot_be_had_is_said(tmp_path: Path, url: str) -> None:
    (tmp_path / "file").write_text("")
    with recording(tmp_path, url, "--dir", str(tmp_path / "file")) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert err.startswith(f"tickfold: {tmp_path}/file: cannot ")
