"""`tickfold top` against real servers: what it shows, that it waits for a daemon that goes, and what it says if there is none."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from engine.cli.client import Client, Features, KeyName, ModelsHealth, Row, View
from engine.cli.top_view import Sample, TopView, shown_features
from engine.errors import ConfigError, ServiceError
from engine.events import FeedStatus, Signal, Tick
from engine.health import JournalHealth
from engine.serving.server import serve
from strategies.order_flow_imbalance import OrderFlowImbalance
from tests.daemons import Child, command
from tests.folding import COMMAND, VIEWS, environment, failing, listener, trade
from tests.serving import FEED, Daemon

DEADLINE_S = 30.0


@contextmanager
def on_a_loop(start: Any) -> Iterator[Any]:
    """Run a server on a loop of its own, in a thread: `start` gives (what it is, what stops it)."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made, stop = asyncio.run_coroutine_threadsafe(start(), loop).result(DEADLINE_S)
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(DEADLINE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def served(daemon: Daemon) -> Iterator[str]:
    """Serve what HTTP says of a daemon; give its address."""

    async def start() -> Any:
        server = await serve(daemon)
        return server.url, server.stop

    with on_a_loop(start) as url:
        yield url


@contextmanager
def answering(body: str, status: int = 200) -> Iterator[str]:
    """A server that is no tickfold."""

    async def start() -> Any:
        async def handle(_: web.Request) -> web.Response:
            return web.Response(text=body, status=status)

        runner = web.AppRunner(app := web.Application())
        app.router.add_route("*", "/{path:.*}", handle)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return site._server.sockets[0].getsockname()[1], runner.cleanup  # type: ignore[union-attr]

    with on_a_loop(start) as port:
        yield f"http://127.0.0.1:{port}"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Daemon:
    """A daemon with everything that may go wrong: a parked strategy, a stale feed, a journal that cannot be written."""
    wrong = listener(Tick, name="wrong", answer=failing)
    made = Daemon(tmp_path_factory.mktemp("data"), wrong, OrderFlowImbalance())
    return made


@pytest.fixture(scope="module")
def url(daemon: Daemon) -> Iterator[str]:
    with served(daemon) as found:
        daemon.push_recorded()
        daemon.report(
            Signal(
                "order_flow_imbalance",
                "binance",
                "BTC/USDT",
                1.0,
                "takers [bold]+0.70[/]",
                1,
                daemon.clock.now(),
                9_999,
            )
        )
        yield found  # fmt: skip


def sample(url: str) -> Sample:
    """What `top` asks a daemon for."""
    client = Client(url)
    features = client.features()
    keys = [(key.exchange, key.symbol) for key in features.keys]
    found = Sample(time.monotonic(), client.health(), features, client.newest(keys, shown_features(features)))
    client.close()
    return found


def drawn(view: TopView, width: int, height: int | None = None) -> list[str]:
    """The picture as lines of text."""
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=False, legacy_windows=False)
    console.print(view.picture(width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def view_of(*samples: Sample) -> TopView:
    view = TopView("http://127.0.0.1:8420")
    for found in samples:
        view.add(found)
    return view


# The picture


@pytest.mark.parametrize("width", [80, 140])
def test_the_picture_has_all_parts_at_80_and_at_140_columns(daemon: Daemon, url: str, width: int) -> None:
    first = sample(url)
    second = msgspec.structs.replace(
        first.health, uptime_s=first.health.uptime_s + 2.0, live_sequence=first.health.live_sequence + 500
    )
    lines = drawn(view_of(first, Sample(0.0, second, first.features, first.rows)), width)
    shown = "\n".join(lines)
    assert max(map(len, lines)) <= width
    words = [
        "tickfold 0.0.1",
        "degraded",
        "recording",
        "strategy wrong is parked",
        "inputs/s 250",
        "fold p50 2",
        "binance 1",
        "live",
        "binance BTC/USDT",
        "binance ETH/USDT",
        "price",
        "spread_bps",
        "rsi_14",
        "wrong",
        "parked",
        "order_flow_imbalance",
        "listening",
        "+1 BTC/USDT",
        "journaling",
        "synced to 7",
        "snapshot   at 5",
        "held the loop 2 ms",
        "60 ms  moving_average_cross.on_features",
    ]
    assert [word for word in words if word not in shown] == []
    wide = [
        "http://127.0.0.1:8420",
        "trade_imbalance_1m",
        "takers [bold]+0.70[/]",
        "ValueError: cannot stand Tick",
        "█",
    ]
    assert [word in shown for word in wide] == [width == 140] * len(wide)  # fmt: skip


def test_the_newest_values_are_those_of_the_store(daemon: Daemon, url: str) -> None:
    found = {(row.exchange, row.symbol): row for row in sample(url).rows}
    newest = daemon.fold.features.latest("market", "binance", "BTC/USDT")
    assert newest is not None
    row = found["binance", "BTC/USDT"]
    assert row.values["market:price"] == newest["price"]
    assert len(found) == len(daemon.fold.keys) == 2
    line = next(line for line in drawn(view_of(sample(url)), 140) if line.startswith("binance BTC/USDT"))
    assert f"{newest['price']:,.6g}" in line


def test_what_is_wrong_stands_in_words(daemon: Daemon, url: str, tmp_path: Path) -> None:
    feed, journal = daemon.feed, daemon.journal_state
    daemon.feed = msgspec.structs.replace(FEED, state="stale", detail="nothing for 30 s", messages=0, newest=0)
    daemon.journal_state = JournalHealth("not journaling", "journal", 9, 7, 0, 1, "No space left on device")
    try:
        shown = "\n".join(drawn(view_of(sample(url)), 140))
    finally:
        daemon.feed, daemon.journal_state = feed, journal
    for words in ("stale", "nothing for 30 s", "not journaling  No space left on device", "inputs are not journaled"):
        assert words in shown


def test_models_are_told_in_a_line_and_what_is_wrong_with_them_first(url: str) -> None:
    first = sample(url)
    assert not any(line.startswith("models") for line in drawn(view_of(first), 100))
    models = ModelsHealth(("direction", "log_return"), 4, 2, 5_000_000, ())
    parts = msgspec.structs.replace(first.health.parts, models=models)
    health = msgspec.structs.replace(first.health, parts=parts)
    shown = drawn(view_of(Sample(0.0, health, first.features, first.rows)), 100)
    assert "models     direction, log_return  2 of 4 ready  5.0 MB" in [line.rstrip() for line in shown]


def test_a_daemon_that_starts_and_one_without_anything_yet(tmp_path: Path) -> None:
    empty = Daemon(tmp_path, listener(Tick, name="quiet"), views=VIEWS)
    empty.not_ready = "folding the journal: 40 %"
    with served(empty) as url:
        assert "folding the journal: 40 %" in "\n".join(drawn(view_of(sample(url)), 80))
        empty.not_ready = ""
        lines = drawn(view_of(sample(url)), 80)
    assert any(line.startswith("newest features") for line in lines)
    assert "none yet" in "\n".join(lines)
    assert "inputs/s -" in "\n".join(lines)


def test_views_of_ones_own_are_shown_where_none_is_built_in(tmp_path: Path) -> None:
    own = Daemon(tmp_path, listener(Tick, name="quiet"), views=VIEWS)
    with served(own) as url:
        own.push(trade(("x", "BTC/USDT"), price=101.25))
        shown = "\n".join(drawn(view_of(sample(url)), 100))
    assert "101.25" in shown
    assert "quick" in shown


def test_many_keys_fit_a_screen_and_the_rest_is_counted(url: str) -> None:
    found = sample(url)
    rows = [Row("x", f"C{i}/USDT", {}, "") for i in range(100)]
    keys = tuple(KeyName("x", f"C{i}/USDT") for i in range(1_000))
    features = Features((View("market", ("price",)),), keys)
    view = view_of(Sample(0.0, found.health, features, rows))
    for height in (24, 50, 200):
        lines = drawn(view, 80, height)
        assert len(lines) <= max(height, 27)
        shown = sum(line.startswith("x C") for line in lines)
        assert f"and {1_000 - shown} more" in "\n".join(lines)


@given(st.integers(12, 260), st.integers(1, 120), st.integers(0, 2**62), st.floats(0.0, 1e9))
def test_any_terminal_and_any_numbers_can_be_drawn(width: int, height: int, number: int, seconds: float) -> None:
    health = msgspec.structs.replace(
        BARE, uptime_s=seconds, live_sequence=number, memory_bytes=number, clock_skew_ns=number
    )
    feed = msgspec.structs.replace(FEED, messages=number, newest=number)
    health = msgspec.structs.replace(health, parts=msgspec.structs.replace(health.parts, feeds=(feed,)))
    row = Row(
        "binance", "BTC/USDT", {"market:price": float(number), "market:spread_bps": None}, "2024-08-08T23:59:59.999000Z"
    )
    features = Features((View("market", ("price", "spread_bps")),), (KeyName("binance", "BTC/USDT"),))
    view = view_of(Sample(0.0, BARE, features, [row]), Sample(0.5, health, features, [row]))
    assert max(map(len, drawn(view, width, height))) <= width
    json.dumps(view.document(), allow_nan=False)  # fmt: skip


def bare() -> Any:
    raw = {
        "status": "ok", "starting": "", "reasons": [], "version": "0.1.0", "started": 1_700_000_000_000_000_000, "uptime_s": 1.0,
        "live_sequence": 0, "latency_ns": {"p50": None, "p99": None, "max": 0, "count": 0}, "clock_skew_ns": 0, "memory_bytes": 0,
        "store_bytes": 0,
        "parts": {
            "feeds": [], "strategies": [], "loop": {"holds": []},
            "journal": {"state": "off", "folder": "", "sequence": 0, "synced": 0, "bytes_written": 0, "segments": 0, "detail": ""},
            "snapshots": {"sequence": 0, "taken_at": 0, "bytes_written": 0, "longest_hold_ns": 0, "detail": ""},
        },
    }  # fmt: skip
    from engine.cli.client import Health

    return msgspec.convert(raw, Health)


BARE = bare()


# The command


def test_once_and_where_stdout_is_no_terminal_it_prints_one_picture_and_exits(url: str) -> None:
    for words in (("--once",), ()):
        done = command("top", "--url", url, *words, COLUMNS="100")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("tickfold 0.0.1") == 1
        assert "binance BTC/USDT" in done.stdout
        assert "\x1b" not in done.stdout


def test_json_is_one_document_with_health_rates_and_keys(url: str) -> None:
    done = command("top", "--url", url, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["url"] == url
    assert found["health"]["parts"]["strategies"][0]["name"] == "wrong"
    assert found["rates"]["inputs_per_s"] == 0.0
    assert found["rates"]["messages_per_s"] == {"binance 1": 0.0}
    assert found["keys"][0]["values"]["market:price"] > 0.0


def test_without_a_daemon_it_says_in_one_line_how_to_start_one_and_ends_with_3(tmp_path: Path) -> None:
    port = free_port()
    done = command("top", cwd=tmp_path, TICKFOLD_SERVER__PORT=str(port))
    assert (done.returncode, done.stdout) == (3, "")
    assert (
        done.stderr
        == f"tickfold: no daemon answers at http://127.0.0.1:{port}: Connection refused; `tickfold run` starts one\n"
    )


@pytest.mark.parametrize(("body", "status"), [("<html>", 200), ("{}", 200), ("gone", 404)])
def test_what_is_no_tickfold_is_said_in_one_line(body: str, status: int) -> None:
    with answering(body, status) as url:
        done = command("top", "--url", url)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, "", 1)
    assert url in done.stderr
    assert "expected" in done.stderr


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://127.0.0.1:notaport"])
def test_what_is_no_address_is_a_wrong_input(url: str) -> None:
    with pytest.raises(ConfigError, match="expected an address such as"):
        Client(url)
    assert command("top", "--url", url).returncode == 2


def test_a_server_that_takes_a_connection_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05)
        with pytest.raises(ServiceError, match="does not answer in time"):
            client.health()
        client.close()


def test_a_daemon_that_wants_its_token_gets_it_from_a_file(tmp_path: Path) -> None:
    remote = Daemon(tmp_path / "data", listener(Tick, name="quiet"), views=VIEWS, allow_remote=True, host="0.0.0.0")
    with served(remote) as url:
        address = f"http://127.0.0.1:{url.rpartition(':')[2].rstrip('/')}"
        without = command("top", "--url", address)
        assert (without.returncode, len(without.stderr.splitlines())) == (3, 1)
        assert "--token-file" in without.stderr
        given_it = command("top", "--url", address, "--once", "--token-file", tmp_path / "data" / "token")
        assert (given_it.returncode, given_it.stderr) == (0, "")
    assert command("top", "--token-file", tmp_path / "none").returncode == 2


def test_help_is_there_and_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", COMMAND, "top", "--help"], capture_output=True, text=True, env=environment(), check=True
    )  # fmt: skip
    assert "--once" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert imported & {"numba", "numpy", "rich", "aiohttp", "msgspec"} == set()


# Watching


class Screen:
    """`tickfold top` on a terminal, watched."""

    def __init__(self, *words: str, width: int = 100, height: int = 40) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        settings = {**environment(TERM="xterm-256color")}
        self.process = subprocess.Popen([COMMAND, "top", *words], stdin=slave, stdout=slave, stderr=slave, env=settings)
        os.close(slave)
        self._drawn = bytearray()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_S)
        os.close(self._master)

    @property
    def text(self) -> str:
        """All that was drawn, without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._drawn.decode("utf-8", "replace"))

    def wait_for(self, *words: str) -> None:
        """Read on until each of these was drawn anew."""
        end = time.monotonic() + DEADLINE_S
        since = len(self.text)
        while missing := [one for one in words if one not in self.text[since:]]:
            assert time.monotonic() < end, f"{missing} are not on the screen:\n{self.text[-3000:]}"
            assert self._read(), f"it ended without {missing} on the screen:\n{self.text[-3000:]}"

    def end(self) -> int:
        """Press Ctrl-C; return the exit code."""
        self.process.send_signal(signal.SIGINT)
        while self._read():
            pass
        return self.process.wait(DEADLINE_S)

    def _read(self) -> bool:
        try:
            part = os.read(self._master, 65_536)
        except OSError:  # Linux says so when the last writer has left
            return False
        self._drawn += part
        return bool(part)


def test_a_watched_daemon_is_drawn_again_and_again_and_waited_for_when_it_goes(tmp_path: Path) -> None:
    port = free_port()
    watched = Daemon(tmp_path, listener(Tick, name="quiet"), views=VIEWS, port=port)
    with contextlib.ExitStack() as stack:
        with served(watched) as url:
            screen = stack.enter_context(Screen("--url", url))
            screen.wait_for("none yet")
            watched.push(trade(("x", "BTC/USDT"), price=123.5))
            screen.wait_for("123.5")
            watched.push(trade(("x", "BTC/USDT"), at=1.0, price=124.5))
            screen.wait_for("124.5")
        screen.wait_for("disconnected since ", "Connection refused")
        assert screen.process.poll() is None
        again = Daemon(tmp_path, listener(Tick, name="quiet"), views=VIEWS, port=port)
        with served(again):
            again.push(trade(("x", "BTC/USDT"), price=99.75))
            screen.wait_for("99.75")
            assert screen.end() == 130
        assert "Traceback" not in screen.text


def test_a_real_daemon_is_watched(tmp_path: Path) -> None:
    with Child(tmp_path / "data", FEEDS__REPLAY_SPEED="20.0") as child:
        child.wait_for_sequence(200)
        with Screen("--url", child.url, width=140, height=45) as screen:
            screen.wait_for("binance BTC/USDT", "recording", "moving_average_cross", "journaling", "live with")
            found = json.loads(command("top", "--url", child.url, "--json").stdout)
            assert found["rates"]["inputs_per_s"] > 0.0
            assert found["health"]["live_sequence"] >= 200
            child.stop()
            screen.wait_for("disconnected since ")
            assert screen.end() == 130


def test_a_feeds_own_words_are_no_markup(url: str, daemon: Daemon) -> None:
    feed, daemon.feed = daemon.feed, msgspec.structs.replace(FEED, detail="[red]not red[/] [/nothing]")
    daemon.report(FeedStatus("binance", "", "stalled", "[bold]", 1, 2, 3))
    try:
        assert "[red]not red[/] [/nothing]" in "\n".join(drawn(view_of(sample(url)), 140))
    finally:
        daemon.feed = feed
