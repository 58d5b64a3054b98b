"""The log: JSON lines in a bounded file, people told on stderr, nothing that a slow or full place could hold up."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from engine.events import (
    Command,
    Configured,
    Drift,
    FeedStatus,
    Gap,
    HandlerFailed,
    Heartbeat,
    History,
    Parked,
    Promotion,
    Refused,
    Resumed,
    Shed,
    WindowOverflow,
)
from engine.log import Reporter, close_daemon, configure_daemon, lost_lines
from engine.log_file import LineWriter, RotatingFile, Stream
from tests.folding import environment

DEADLINE_S = 20.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread will bring about."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        os.sched_yield()


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data" / "log.jsonl"
    close_daemon()


def daemon(file: Path, verbose: bool = False, file_bytes: int = 1 << 20, sequence: int = 7) -> Any:
    return configure_daemon(file, file_bytes=file_bytes, verbose=verbose, sequence=lambda: sequence)


# Lines


def test_a_record_is_one_json_line_with_time_level_event_sequence_and_its_fields(file: Path) -> None:
    before = time.time_ns()
    daemon(file).info("listening", url="http://127.0.0.1:8420", port=8420, share=0.5, none=None)
    close_daemon()
    (line,) = file.read_text().splitlines()
    record = json.loads(line)
    assert list(record) == ["time", "level", "event", "sequence", "url", "port", "share", "none"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["time"])
    stamp = record.pop("time")
    assert iso(before) <= stamp <= iso(time.time_ns())
    assert record == {"level": "info", "event": "listening", "sequence": 7, "url": "http://127.0.0.1:8420", "port": 8420,
                      "share": 0.5, "none": None}  # fmt: skip


def iso(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"


def test_the_sequence_is_that_of_the_input_being_folded_unless_the_record_has_its_own(file: Path) -> None:
    folded = [3]
    logger = configure_daemon(file, file_bytes=1 << 20, verbose=False, sequence=lambda: folded[0])
    logger.info("a")
    folded[0] = 4
    logger.info("b")
    logger.info("c", sequence=2)
    folded.clear()
    logger.info("d")
    close_daemon()
    assert [record["sequence"] for record in lines_of(file)] == [3, 4, 2, None]


def test_the_file_has_everything_from_info_on_and_with_verbose_debug_too(file: Path) -> None:
    for verbose, levels in (
        (False, ["info", "warning", "error", "critical"]),
        (True, ["debug", "info", "warning", "error", "critical"]),
    ):
        logger = daemon(file, verbose)
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(logger, level)("said")
        close_daemon()
        assert [record["level"] for record in lines_of(file)] == levels
        file.unlink()  # fmt: skip


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_whatever_a_record_holds_is_a_line_that_parses(file: Path) -> None:
    circle: list[Any] = []
    circle.append(circle)
    odd: dict[str, Any] = {
        "circle": circle,
        "unprintable": Unprintable(),
        "nan": float("nan"),
        "surrogate": "\ud800",
        "bytes": b"\xff",
        "tuple keys": {(1, 2): 3},
        "big": 10**40,
        "error": ValueError("no"),
        "lines": "a\nb",
        "time": 1,
        "path": file,
    }
    logger = daemon(file)
    for name, value in odd.items():
        logger.info("odd", **{name: value})
    logger.info(None)
    logger.info("long", text="x" * 100_000, many={str(i): "y" * 100 for i in range(5_000)})
    logger.info("last")
    close_daemon()
    records = lines_of(file)
    assert len(records) == len(odd) + 3
    assert max(map(len, file.read_bytes().splitlines())) < 65_536
    said = {key: value for record in records for key, value in record.items()}
    assert (said["error"], said["lines"], said["time_"], said["bytes"]) == ("no", "a\nb", 1, "\\xff")
    assert said["tuple keys"] == {"(1, 2)": 3}  # fmt: skip


def test_no_secret_reaches_the_file_or_the_people(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = daemon(file)
    logger.warning(
        "cannot reach redis://:hunter2@cache", token="hunter2", headers={"Authorization": "Bearer hunter2hunter2"}
    )
    try:
        raise ValueError("postgresql://ann:hunter2@db/ticks: refused")
    except ValueError:
        logger.exception("failed")
    close_daemon()
    said = file.read_text() + capfd.readouterr().err
    assert "hunter2" not in said
    assert said.count("redis://[redacted]@cache") == 2


def test_an_exception_is_in_the_file_with_its_traceback_and_for_people_in_one_line(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for verbose in (False, True):
        logger = daemon(file, verbose)
        try:
            raise ValueError("no idea")
        except ValueError as error:
            logger.exception("failed")
            logger.error("failed again", exc_info=error)
        close_daemon()
        records = lines_of(file)
        assert [record["level"] for record in records] == ["error", "error"]
        assert all("Traceback (most recent call last)" in record["exception"] for record in records)
        shown = capfd.readouterr().err
        assert shown.count("ValueError: no idea") == 2
        assert ("Traceback" in shown) == verbose
        assert len(shown.splitlines()) == 2 or verbose
        file.unlink()


def test_what_python_logs_and_what_threads_die_of_is_in_the_log(file: Path) -> None:
    daemon(file)
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    logging.getLogger("aiohttp.access").info("GET /")
    dying = threading.Thread(target=lambda: 1 / 0, name="dying")
    dying.start()
    dying.join()
    close_daemon()
    logging.getLogger("asyncio").error("later")
    task, thread = lines_of(file)
    assert (task["event"], task["source"], task["level"]) == ("Task exception was never retrieved", "asyncio", "error")
    assert (thread["event"], thread["thread"]) == ("thread died", "dying")
    assert "ZeroDivisionError" in thread["exception"]


def test_threads_log_at_once_and_every_line_is_whole(file: Path) -> None:
    logger = daemon(file)

    def say(who: int) -> None:
        for i in range(200):
            logger.info("said", who=who, i=i)

    threads = [threading.Thread(target=say, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    close_daemon()
    records = lines_of(file)
    assert len(records) + lost_lines() == 1_600
    for who in range(8):
        assert [record["i"] for record in records if record["who"] == who] == list(range(200))


# The file


def test_a_file_is_moved_to_one_older_before_it_outgrows_its_size_and_no_line_is_parted(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    complaints: list[str] = []
    sink = RotatingFile(file, 100, complaints.append)
    lines = [b"%04d %s\n" % (i, b"x" * (i % 40)) for i in range(60)]
    for start in range(0, 60, 7):
        assert sink.write(lines[start : start + 7]) == 0
    sink.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "log.jsonl.1"]
    older, newer = (tmp_path / "log.jsonl.1").read_bytes(), file.read_bytes()
    assert 0 < len(newer) <= 100
    assert 0 < len(older) <= 100
    kept = (older + newer).splitlines(keepends=True)
    assert kept == lines[-len(kept) :]
    assert complaints == []


def test_a_line_that_is_larger_than_a_file_may_be_gets_a_file_of_its_own(tmp_path: Path) -> None:
    sink = RotatingFile(tmp_path / "log", 100, print)
    assert sink.write([b"a\n", b"x" * 500 + b"\n", b"b\n"]) == 0
    sink.close()
    assert (tmp_path / "log").read_bytes() == b"b\n"
    assert len((tmp_path / "log.1").read_bytes()) == 501


def test_a_restart_goes_on_in_the_same_file_and_its_size_counts(tmp_path: Path) -> None:
    for part in range(4):
        sink = RotatingFile(tmp_path / "log", 100, print)
        assert sink.write([b"%d" % part + b"x" * 38 + b"\n"]) == 0
        sink.close()
    assert len((tmp_path / "log").read_bytes()) == len((tmp_path / "log.1").read_bytes()) == 80
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_file_that_somebody_moved_away_is_begun_anew(tmp_path: Path) -> None:
    sink = RotatingFile(tmp_path / "log", 1_000, print)
    sink.write([b"a\n"])
    (tmp_path / "log").rename(tmp_path / "taken")
    sink.write([b"b\n"])
    (tmp_path / "log").unlink()
    sink.write([b"c\n"])
    sink.close()
    assert ((tmp_path / "taken").read_bytes(), (tmp_path / "log").read_bytes()) == (b"a\n", b"c\n")


def test_a_file_that_cannot_be_written_is_complained_of_once_and_later_tells_what_is_missing(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file.mkdir(parents=True)
    logger = daemon(file)
    for i in range(5):
        logger.info("lost", i=i)
    until(lambda: lost_lines() == 5)
    file.rmdir()
    logger.info("kept")
    close_daemon()
    kept, missing = sorted(lines_of(file), key=lambda record: str(record["event"]))
    assert kept["event"] == "kept"
    assert (missing["event"], missing["count"], missing["reason"]) == ("log lines lost", 5, "Is a directory")
    shown = capfd.readouterr().err
    assert shown.splitlines() == [f"log: {file}: Is a directory; lines are counted until it can be written again"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_hurts_nobody(tmp_path: Path) -> None:
    complaints: list[str] = []
    (tmp_path / "log").symlink_to("/dev/full")
    sink = RotatingFile(tmp_path / "log", 1_000, complaints.append)
    assert sink.write([b"a\n", b"b\n"]) == 2
    assert sink.write([b"c\n"]) == 1
    sink.close()
    assert len(complaints) == 1
    assert "No space left on device" in complaints[0]


def test_what_a_filling_disk_tore_does_not_spoil_the_line_behind_it(tmp_path: Path) -> None:
    # A limit on the size of files stands for a disk with 100 bytes left: the kernel writes what fits, then fails.
    script = """
        import resource, signal, sys
        from pathlib import Path
        from engine.log_file import RotatingFile
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        file = Path(sys.argv[1])
        sink = RotatingFile(file, 1_000_000, print)
        assert sink.write([b"a" * 59 + b"\\n"]) == 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        assert sink.write([b"b" * 59 + b"\\n"]) == 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert sink.write([b"c" * 59 + b"\\n"]) == 0
        sink.close()
    """
    done = run(script, tmp_path / "log")
    assert done.returncode == 0, done.stderr
    assert [line[:1] for line in (tmp_path / "log").read_bytes().splitlines()] == [b"a", b"c"]
    assert "File too large" in done.stdout


# Queues


def test_a_full_queue_drops_and_counts_never_waits_and_says_so_when_it_is_drained() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as reader, open(writing, "w") as stream:
        writer = LineWriter(Stream(stream), "test", lambda why, count: f"{count} lost: {why}\n".encode(), capacity=10)
        line = b"x" * 65_535 + b"\n"
        while writer.lost == 0:  # the pipe is full, its writer hangs in it, then the queue fills
            writer.put(line)
        started = time.monotonic()
        for _ in range(1_000):
            writer.put(line)
        assert time.monotonic() - started < 1.0
        lost = writer.lost
        assert lost >= 1_000
        read = b""
        while not read.endswith(f"{lost} lost: more than 10 lines waited\n".encode()):
            read += reader.read(1 << 20)
        assert read.count(b"\n") >= 11
        writer.put(b"after\n")
        writer.close(DEADLINE_S)
        assert reader.read(100) == b"after\n"


def test_closing_leaves_a_place_that_hangs_behind() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "w") as stream:
        writer = LineWriter(Stream(stream), "test", lambda *_: b"", capacity=4)
        while writer.lost == 0:
            writer.put(b"x" * 65_536)
        started = time.monotonic()
        writer.close(0.05)
        assert 0.05 <= time.monotonic() - started < DEADLINE_S
        os.set_blocking(reading, False)
        until(lambda: drained(reading, writer))


def drained(reading: int, writer: LineWriter) -> bool:
    with contextlib.suppress(BlockingIOError):
        while os.read(reading, 1 << 20):
            pass
    return not writer._thread.is_alive()


def test_a_sink_with_a_defect_does_not_end_its_thread() -> None:
    class Broken:
        def __init__(self) -> None:
            self.written: list[bytes] = []

        def write(self, lines: Any) -> int:
            if b"bad\n" in lines:
                raise RuntimeError("a defect")
            self.written += lines
            return 0

        def why(self) -> str:
            return "a defect"

        def close(self) -> None: ...

    sink = Broken()
    writer = LineWriter(sink, "test", lambda why, count: f"{count}: {why}\n".encode())
    writer.put(b"bad\n")
    until(lambda: writer.lost == 1)
    writer.put(b"good\n")
    writer.close(DEADLINE_S)
    assert sink.written in ([b"1: a defect\n", b"good\n"], [b"good\n", b"1: a defect\n"])


def test_a_stream_without_a_descriptor_and_one_that_was_closed() -> None:
    text = io.StringIO()
    sink = Stream(text)
    assert sink.write([b"a\n", "ü\n".encode()]) == 0
    assert text.getvalue() == "a\nü\n"
    text.close()
    assert sink.write([b"b\n"]) == 1
    assert "closed" in sink.why()


# People


def run(script: str, *arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=environment(**settings), timeout=60, check=False)


SPEAKER = """
    import sys
    from pathlib import Path
    from engine.log import configure_daemon
    logger = configure_daemon(Path(sys.argv[1]), file_bytes=1 << 20, verbose=sys.argv[2:] == ["-v"], sequence=lambda: 42)
    logger.debug("detail")
    logger.info("listening", url="http://127.0.0.1:8420")
    logger.info("gap", missing=3)
    logger.warning("feed stalled", feed="binance")
"""


def test_people_see_warnings_and_with_verbose_everything_and_the_file_is_flushed_at_exit(file: Path) -> None:
    done = run(SPEAKER, file)
    assert (done.returncode, done.stdout) == (0, "")
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} \[warning\s*\] feed stalled\s+feed=binance sequence=42", line), line
    assert [record["event"] for record in lines_of(file)] == ["listening", "gap", "feed stalled"]
    loud = run(SPEAKER, file, "-v")
    assert [word in loud.stderr for word in ("detail", "listening", "gap", "feed stalled")] == [True] * 4
    assert "\x1b" not in done.stderr + loud.stderr


def test_on_a_terminal_people_see_the_lifecycle_too_in_colours(file: Path) -> None:
    master, slave = pty.openpty()
    words = [sys.executable, "-c", textwrap.dedent(SPEAKER), str(file)]
    settings = {key: value for key, value in environment(TERM="xterm-256color").items() if key != "NO_COLOR"}
    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, env=settings)
    os.close(slave)
    shown = b""
    with process, contextlib.suppress(OSError):
        while part := os.read(master, 65_536):
            shown += part
    os.close(master)
    assert process.returncode == 0
    assert b"\x1b[" in shown
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    assert "listening" in text
    assert "feed stalled" in text
    assert "gap" not in text


def test_a_stalled_stderr_holds_up_neither_logging_nor_the_exit(file: Path) -> None:
    script = """
        import sys, time
        from pathlib import Path
        from engine.log import close_daemon, configure_daemon
        logger = configure_daemon(Path(sys.argv[1]), file_bytes=1 << 24, verbose=False, sequence=lambda: 0)
        for i in range(3_000):
            logger.warning("loud", i=i, text="x" * 100)
        close_daemon(0.2)
        print("ended")
    """
    words = [sys.executable, "-c", textwrap.dedent(script), str(file)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    with process:
        assert process.stdout is not None
        assert process.stdout.read() == b"ended\n"  # nobody reads its stderr meanwhile
        assert process.wait(DEADLINE_S) == 0
    assert [record["i"] for record in lines_of(file)] == list(range(3_000))


def test_a_killed_process_leaves_whole_lines(file: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from engine.log import configure_daemon
        logger = configure_daemon(Path(sys.argv[1]), file_bytes=1 << 24, verbose=False, sequence=lambda: 0)
        i = 0
        while True:
            logger.info("line", i=i)
            i += 1
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(file)], env=environment())
    with process:
        until(lambda: file.exists() and file.stat().st_size > 100_000)
        process.send_signal(signal.SIGKILL)
    *whole, _last = file.read_text().split("\n")
    assert all(json.loads(line)["event"] == "line" for line in whole)


# The reporter

AT = (1, 2, 3)
REPORTED: list[tuple[Any, str, str]] = [
    (FeedStatus("binance", "", "connected", "wss://x", *AT), "info", "feed connected"),
    (FeedStatus("binance", "BTC/USDT", "stalled", "nothing for 30 s", *AT), "warning", "feed stalled"),
    (FeedStatus("binance", "", "failed", "gave up", *AT), "error", "feed failed"),
    (Shed(12, "2,100 ms behind", *AT), "warning", "quotes shed"),
    (Command("park", "mine", *AT), "info", "command"),
    (Configured("{}", "ab12", 1, *AT), "info", "configured"),
    (History("begins", "ticks.parquet", *AT), "info", "history begins"),
    (Gap("binance", "BTC/USDT", 5, 7, 3, 0, *AT), "info", "gap"),
    (WindowOverflow("binance", "BTC/USDT", "15m", 64, *AT), "warning", "window overflow"),
    (HandlerFailed("mine", "on_tick", "ValueError: no", "Traceback ...", 1, *AT), "error", "plugin failed"),
    (Parked("mine", "by command", *AT), "error", "plugin parked"),
    (Resumed("mine", *AT), "info", "plugin resumed"),
    (Promotion("direction", "1", "2", "binance", "BTC/USDT", "E = 41", *AT), "warning", "model promoted"),
    (Drift("adwin", "direction:loss", "binance", "BTC/USDT", 3.5, *AT, "direction", "3"), "info", "drift"),
]


@pytest.mark.parametrize(("event", "level", "said"), REPORTED, ids=lambda value: str(value).replace(" ", "_")[:24])
def test_what_the_fold_reports_is_logged_with_its_own_sequence(file: Path, event: Any, level: str, said: str) -> None:
    Reporter(daemon(file), verbose=True)(event)
    close_daemon()
    (record,) = lines_of(file)
    assert (record["level"], record["event"], record["sequence"]) == (level, said, 3)


def test_what_is_no_trouble_is_passed_over(file: Path) -> None:
    Reporter(daemon(file), verbose=True)(Heartbeat(1, 1, 1))
    close_daemon()
    assert lines_of(file) == []


def test_refusals_are_said_five_times_and_then_at_each_power_of_ten(file: Path) -> None:
    reporter = Reporter(daemon(file), verbose=False)
    for _ in range(1_234):
        reporter(Refused("binance", "BTC/USDT", "bad price", 1, 2))
    close_daemon()
    records = lines_of(file)
    assert [record.get("so_far") for record in records] == [None] * 6 + [100, 1_000]
    assert records[5]["more"] == "further ones are only counted"


def test_a_plugins_traceback_is_in_the_file_and_people_see_its_last_line(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Reporter(daemon(file), verbose=True)(
        HandlerFailed("mine", "on_tick", "ValueError: no", "Traceback\n  there\nValueError: no\n", 1, *AT)
    )
    close_daemon()
    assert "there" in lines_of(file)[0]["traceback"]
    shown = capfd.readouterr().err
    assert "ValueError: no" in shown
    assert "there" not in shown


def test_after_closing_the_log_is_that_of_a_command_again(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    daemon(file).info("in the file")
    close_daemon()
    structlog.get_logger().warning("on stderr")
    captured = capfd.readouterr()
    assert (len(lines_of(file)), captured.out) == (1, "")
    assert "on stderr" in captured.err
