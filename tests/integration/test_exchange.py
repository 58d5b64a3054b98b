"""The loopback exchange as a client meets it: real sockets on loopback, and the command as a real process."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import WSMsgType

from engine.clock import LiveClock
from engine.config import BinanceConfig, Config
from engine.errors import ConfigError, ReplayError, ServiceError
from engine.events import Event, FeedStatus, Quote, Tick
from feeds import decoder
from feeds.venues import feed_of
from replay.exchange import EPOCH_NS, RECORDING_HEADER, Exchange
from replay.exchange.binance import LIMITS
from replay.sources import BUILT_IN, Line
from replay.tape import Pace, Tape
from tests.folding import COMMAND, environment

MS = 1_000_000
DEADLINE_S = 30.0
STREAMS = "btcusdt@trade", "btcusdt@bookTicker"
CUT_LINES = 3_000  # 37 s of the recording


def read(path: Path) -> list[Line]:
    with gzip.open(path) as file:
        return [msgspec.json.decode(text, type=Line) for text in file]


LINES = read(BUILT_IN)[:CUT_LINES]
FRAMES = [line.frame for line in LINES]


def tape() -> Tape:
    return Tape.from_lines("binance", "cut.jsonl", LINES)


class Log:
    """Notes what the exchange warns of."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warning(self, event: str, **facts: Any) -> None:
        self.said.append(f"{event} {facts}")


class Setting:
    """An exchange that runs, and clients of it."""

    def __init__(self, exchange: Exchange, client: aiohttp.ClientSession, log: Log) -> None:
        self.exchange, self.client, self.log = exchange, client, log

    async def connect(self, path: str, **options: Any) -> aiohttp.ClientWebSocketResponse:
        connection: aiohttp.ClientWebSocketResponse = await self.client.ws_connect(self.exchange.url + path, **options)
        return connection


@contextlib.asynccontextmanager
async def serving(tapes: Sequence[Tape] = (), **options: Any) -> AsyncIterator[Setting]:
    log = Log()
    exchange = Exchange(tapes or [tape()], logger=log, **options)
    await exchange.start()
    try:
        async with asyncio.timeout(DEADLINE_S), aiohttp.ClientSession() as client:
            yield Setting(exchange, client, log)
    finally:
        await exchange.stop()


async def ask(
    connection: aiohttp.ClientWebSocketResponse, method: str, params: Sequence[Any] | None = None, number: int = 1
) -> Any:
    """Ask, and return the answer; messages of markets that come in between are let go."""
    request = {"method": method, "id": number} | ({} if params is None else {"params": list(params)})
    await connection.send_json(request)
    while True:
        said = json.loads(await connection.receive_str())
        if said.get("id") == number or "code" in said:
            return said


def combined(*streams: str) -> str:
    return f"/stream?streams={'/'.join(streams)}"


ENDS = WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR


async def hear_to_the_end(connection: aiohttp.ClientWebSocketResponse) -> list[aiohttp.WSMessage]:
    """All that comes, and how it ended."""
    heard: list[aiohttp.WSMessage] = []
    while not heard or heard[-1].type not in ENDS:
        heard.append(await connection.receive())
    return heard


def without_times(payload: Any) -> Any:
    return {name: value for name, value in payload.items() if name not in ("E", "T")}


# What is served


@pytest.mark.asyncio
async def test_from_the_start_the_recorded_messages_come_in_order_with_their_ids() -> None:
    async with serving(speed=100.0, loop=False) as here:
        connection = await here.connect("/stream")
        assert await ask(connection, "SUBSCRIBE", STREAMS) == {"result": None, "id": 1}
        feed = decoder("binance")
        before_ns = 0
        for frame in FRAMES:
            got = (await connection.receive_str()).encode()
            now_ns = LiveClock().now()
            was, sent = json.loads(frame), json.loads(got)
            assert list(sent) == ["stream", "data"]
            assert sent["stream"] == was["stream"]
            assert without_times(sent["data"]) == without_times(was["data"])
            expected, found = feed.decode(frame, 1)[0], feed.decode(got, 1)[0]
            if isinstance(found, Tick):
                assert msgspec.structs.replace(found, timestamp=0) == msgspec.structs.replace(expected, timestamp=0)
                assert before_ns <= found.timestamp <= now_ns
                before_ns = found.timestamp
            else:
                assert isinstance(found, Quote)
                assert found == expected
        # The tape has ended: silence, on a connection that is still there.
        assert await ask(connection, "LIST_SUBSCRIPTIONS", number=2) == {"result": list(STREAMS), "id": 2}
        assert here.exchange.sent == len(FRAMES)


@pytest.mark.asyncio
async def test_the_form_of_a_message_is_that_of_the_connection_whatever_the_capture_holds() -> None:
    async with serving(speed=20.0, loop=False) as here:
        paths = "/ws/btcusdt@trade", combined("btcusdt@trade"), "/ws"
        raw, wrapped, plain = [await here.connect(path) for path in paths]
        trades = [json.loads(frame)["data"] for frame in FRAMES if b"@trade" in frame]
        first = json.loads(await wrapped.receive_str())["data"]["t"]
        for trade in trades[:100]:
            payload = await raw.receive_str()
            assert without_times(json.loads(payload)) == without_times(trade)
            if trade["t"] > first:
                assert await wrapped.receive_str() == '{"stream":"btcusdt@trade","data":' + payload + "}"
        await ask(plain, "SUBSCRIBE", ["btcusdt@bookTicker"])
        assert "stream" not in json.loads(await plain.receive_str())
        await ask(plain, "SET_PROPERTY", ["combined", True], 2)
        assert json.loads(await plain.receive_str())["stream"] == "btcusdt@bookTicker"


@pytest.mark.asyncio
async def test_a_wrong_symbol_is_acknowledged_and_silent_and_so_is_what_was_unsubscribed() -> None:
    async with serving(speed=100.0) as here:
        wrong = await here.connect("/ws")
        gone = await here.connect("/ws/btcusdt@trade/btcusdt@bookTicker")
        assert await ask(wrong, "SUBSCRIBE", ["nosuch@trade", "BTCUSDT@trade"]) == {"result": None, "id": 1}
        await gone.receive_str()
        assert await ask(gone, "UNSUBSCRIBE", STREAMS) == {"result": None, "id": 1}
        other = await here.connect(combined(*STREAMS))
        for _ in range(500):
            await other.receive_str()
        # Had anything come meanwhile, it would be read before the answer.
        for connection, streams in (wrong, ["nosuch@trade", "BTCUSDT@trade"]), (gone, []):
            await connection.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 9})
            assert await connection.receive_json() == {"result": streams, "id": 9}


@pytest.mark.asyncio
async def test_it_says_that_it_is_a_recording() -> None:
    async with serving(speed=3.0) as here:
        connection = await here.connect("/ws/btcusdt@trade")
        assert connection._response.headers[RECORDING_HEADER] == "cut.jsonl"
        async with here.client.get(here.exchange.url.replace("ws:", "http:") + "/") as answer:
            assert answer.headers[RECORDING_HEADER] == "cut.jsonl"
            said = await answer.json()
    known = {"exchange": "binance", "capture": "cut.jsonl", "recording": True, "speed": 3.0, "loop": True, "clients": 1}
    assert known.items() <= said.items()
    assert said["symbols"] == ["BTC/USDT"]
    assert said["streams"] == ["btcusdt@bookTicker", "btcusdt@trade"]


# A market that goes on


@pytest.mark.asyncio
async def test_the_market_goes_on_while_the_exchange_is_away() -> None:
    speed = 40.0
    pure, pace = tape(), Pace.of(EPOCH_NS, speed)
    begun = pace.position(LiveClock().now())
    sessions: list[list[str]] = []
    for _ in range(2):
        async with serving(speed=speed) as here:
            connection = await here.connect("/ws/btcusdt@trade")
            sessions.append([await connection.receive_str() for _ in range(150)])
    until = pace.position(LiveClock().now())
    # What came is the pure tape's at those positions, each session a stretch of it without a hole, the second after the first.
    market = [
        pure.payload(due, pace).decode()
        for due in pure.due(begun, until, looping=True)
        if pure.stream(due) == "btcusdt@trade"
    ]
    starts = [market.index(session[0]) for session in sessions]
    for start, session in zip(starts, sessions, strict=True):
        assert market[start : start + len(session)] == session
    assert starts[1] >= starts[0] + len(sessions[0])
    ids = [json.loads(payload)["t"] for session in sessions for payload in session]
    assert ids == sorted(set(ids))
    assert ids[0] > json.loads(FRAMES[1])["data"]["t"]


@pytest.mark.asyncio
async def test_a_loop_from_the_start_has_no_seam_in_its_ids() -> None:
    async with serving(speed=1_000.0, from_start=True) as here:
        connection = await here.connect("/ws/btcusdt@trade")
        trades = sum(b"@trade" in frame for frame in FRAMES)
        payloads = [json.loads(await connection.receive_str()) for _ in range(3 * trades)]
        first = next(json.loads(frame)["data"]["t"] for frame in FRAMES if b"@trade" in frame)
        assert [payload["t"] for payload in payloads] == list(range(first, first + 3 * trades))
        assert all(a["T"] <= b["T"] for a, b in pairwise(payloads))
        assert payloads[0]["p"] == payloads[trades]["p"]
        assert payloads[-1]["T"] * MS <= LiveClock().now()


@pytest.mark.asyncio
async def test_who_comes_later_hears_what_the_others_hear() -> None:
    async with serving(speed=50.0) as here:
        early = await here.connect("/ws/btcusdt@trade")
        await early.receive_str()
        late = await here.connect("/ws/btcusdt@trade")
        joined = await late.receive_str()
        while await early.receive_str() != joined:
            pass
        for _ in range(100):
            assert await early.receive_str() == await late.receive_str()


# Limits


@pytest.mark.asyncio
async def test_pings_are_to_be_answered() -> None:
    async with serving(limits={"binance": LIMITS._replace(ping_s=0.02, pong_s=0.1)}) as here:
        mute = await here.connect("/ws", autoping=False)
        stale = await here.connect("/ws", autoping=False)
        heard = await hear_to_the_end(mute)
        assert len(heard) >= 5
        assert heard[0].data.isdigit()
        assert heard[-1].type is WSMsgType.CLOSE
        assert (heard[-1].data, heard[-1].extra) == (1008, "Pong timeout")
        # A pong that nobody asked for does not help.
        await stale.pong(b"17")
        assert (await hear_to_the_end(stale))[-1].type is WSMsgType.CLOSE
        assert here.exchange.dropped == {"no pong": 2}
        assert "no pong" in here.log.said[0]


@pytest.mark.asyncio
async def test_who_answers_pings_stays() -> None:
    async with serving(limits={"binance": LIMITS._replace(ping_s=0.02, pong_s=0.05, messages=1_000)}) as here:
        connection = await here.connect("/ws", autoping=False)
        for _ in range(20):
            ping = await connection.receive()
            assert ping.type is WSMsgType.PING
            await connection.pong(ping.data)
        await ask_past_pings(connection)
        assert here.exchange.dropped == {}


async def ask_past_pings(connection: aiohttp.ClientWebSocketResponse) -> None:
    """See that the connection answers, whatever pings come in between."""
    await connection.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
    while (message := await connection.receive()).type is WSMsgType.PING:
        await connection.pong(message.data)
    assert json.loads(message.data) == {"result": [], "id": 1}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["requests", "pongs", "pings", "nonsense"])
async def test_a_sixth_message_within_a_second_closes_the_connection(kind: str) -> None:
    async with serving() as here:
        greedy, modest = await here.connect("/ws", autoping=False), await here.connect("/ws")
        for number in range(6):
            if kind == "requests":
                await greedy.send_json({"method": "LIST_SUBSCRIPTIONS", "id": number})
            elif kind == "pongs":
                await greedy.pong(b"x")
            elif kind == "pings":
                await greedy.ping(b"x")
            else:
                await greedy.send_str("nonsense")
        heard = await hear_to_the_end(greedy)
        assert (heard[-1].data, heard[-1].extra) == (1008, "Too many requests")
        assert len(heard) == (1 if kind == "pongs" else 6)
        assert here.exchange.dropped == {"too many requests": 1}
        assert await ask(modest, "LIST_SUBSCRIPTIONS") == {"result": [], "id": 1}


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_is_cut_and_the_others_hear_all() -> None:
    async with serving(speed=30.0, unread_bytes_max=256 * 1024) as here:
        reader = await here.connect("/ws/btcusdt@trade")
        port = int(here.exchange.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as sleeper:
            sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sleeper.sendall(
                f"GET {combined(*STREAMS)} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            ids = []
            while not here.exchange.dropped:
                ids.append(json.loads(await reader.receive_str())["t"])
            # It is cut for good: what was written comes to an end.
            sleeper.setblocking(False)
            loop = asyncio.get_running_loop()
            with contextlib.suppress(ConnectionResetError):
                while await loop.sock_recv(sleeper, 1 << 20):
                    pass
            ids += [json.loads(await reader.receive_str())["t"] for _ in range(100)]
        assert here.exchange.dropped == {"too slow": 1}
        assert "too slow" in here.log.said[0]
        assert ids == list(range(ids[0], ids[0] + len(ids)))


@pytest.mark.asyncio
async def test_refusals_say_why_and_are_counted() -> None:
    async with serving(clients_max=1) as here:
        address = here.exchange.url.replace("ws:", "http:")
        streams = "/".join(f"s{number}@trade" for number in range(1_025))
        for path, status, said in (
            ("/api/v3/time", 404, "expected /ws"),
            (f"/stream?streams={streams}", 400, "1025 streams on one connection, expected at most 1024"),
            ("/ws", 400, ""),
        ):
            async with here.client.get(address + path) as answer:
                assert answer.status == status
                assert said in await answer.text()
        held = await here.connect("/ws")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await here.connect("/ws")
        assert here.exchange.refused == 3
        assert await ask(held, "LIST_SUBSCRIPTIONS") == {"result": [], "id": 1}
        assert len(here.log.said) == 3


@pytest.mark.asyncio
async def test_a_message_that_is_far_too_long_ends_the_connection() -> None:
    async with serving() as here:
        connection = await here.connect("/ws")
        await connection.send_str("x" * 300_000)
        message = await connection.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1009)


@pytest.mark.asyncio
async def test_the_clients_of_an_exchange_that_stops_are_told() -> None:
    async with serving() as here:
        connection = await here.connect(combined("btcusdt@trade"))
        stopping = asyncio.create_task(here.exchange.stop())
        message = (await hear_to_the_end(connection))[-1]
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)
        await stopping
        with pytest.raises(aiohttp.ClientConnectorError):
            await here.connect("/ws")


@pytest.mark.asyncio
async def test_what_cannot_be_served_is_said_before_anything_starts() -> None:
    with pytest.raises(ReplayError, match="no tape"):
        Exchange([])
    with pytest.raises(ReplayError, match=r"btcusdt@\w+ is in another tape too"):
        Exchange([tape(), tape()])
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0: the loopback exchange listens on this machine only"):
        await Exchange([tape()]).start("0.0.0.0")
    async with serving() as here:
        port = int(here.exchange.url.rpartition(":")[2])
        with pytest.raises(ServiceError, match=f"127.0.0.1:{port}: cannot listen"):
            await Exchange([tape()]).start(port=port)


# The live feed


class Inbox:
    """Keeps what a feed brings until there is enough of it."""

    is_full = False

    def __init__(self, enough: int) -> None:
        self.events: list[Event] = []
        self.enough = enough
        self.done = asyncio.Event()

    def offer(self, events: Sequence[Event]) -> None:
        self.events += events
        if len(self.events) >= self.enough:
            self.done.set()

    async def drained(self) -> None:
        raise AssertionError("it is never full")


@pytest.mark.asyncio
async def test_the_code_that_connects_to_binance_connects_to_this_one() -> None:
    async with serving(speed=20.0) as here:
        inbox = Inbox(500)
        venue = here.exchange.venue("binance")
        config = Config(binance=BinanceConfig(websocket=venue.websocket, rest=venue.rest))
        feed = feed_of("binance", config, here.exchange.symbols, clock=LiveClock(), inbox=inbox, seed=1)
        running = asyncio.create_task(feed.run())
        await inbox.done.wait()
        await feed.stop()
        await running
    ticks = [event for event in inbox.events if isinstance(event, Tick)]
    ids = [tick.trade_id for tick in ticks]
    assert ids == list(range(ids[0] or 0, (ids[0] or 0) + len(ids)))
    assert len(ids) > 50
    assert all(0 <= tick.received - tick.timestamp < 10_000 * MS for tick in ticks)
    assert [event.status for event in inbox.events if isinstance(event, FeedStatus)][:1] == ["connected"]
    assert here.exchange.dropped == {}


# The command


@contextlib.contextmanager
def process(*arguments: str) -> Any:
    command = [str(COMMAND), "exchange", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment(), cwd=BUILT_IN.parent
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_line_is_the_address_and_a_signal_ends_it_well(number: int) -> None:
    with process("--port", "0", "--loop") as running:
        url = running.stdout.readline().strip()
        assert url.startswith("ws://127.0.0.1:")
        assert asyncio.run(first_message(url)).startswith('{"stream":"btcusdt@')
        running.send_signal(number)
        assert running.wait(DEADLINE_S) == 0
        assert running.stderr.read() == ""


async def first_message(url: str) -> str:
    async with aiohttp.ClientSession() as client, client.ws_connect(url + combined(*STREAMS)) as connection:
        return await connection.receive_str(timeout=DEADLINE_S)


def test_it_ends_when_its_stdin_does_and_not_before() -> None:
    with process("--port", "0", "--json", "--until-stdin-closes") as running:
        said = json.loads(running.stdout.readline())
        assert said["url"].startswith("ws://127.0.0.1:")
        assert said["symbols"][:6] == ["BTC/USDT", "NKN/USDT", "LRC/BTC", "BLZ/ETH", "BTC/USD", "ETH/USD"]
        assert [venue["exchange"] for venue in said["venues"]] == ["binance", "coinbase", "kucoin"]
        running.stdin.write("anything but the end\n")
        running.stdin.flush()
        assert asyncio.run(first_message(said["url"]))
        running.stdin.close()
        assert running.wait(DEADLINE_S) == 0


def test_the_end_of_stdin_means_nothing_unless_it_is_asked_for() -> None:
    with process("--port", "0") as running:
        url = running.stdout.readline().strip()
        running.stdin.close()
        assert asyncio.run(first_message(url))
        assert running.poll() is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--port", "{port}"), 3, "cannot listen"),
        (("nosuch.jsonl",), 2, "nosuch.jsonl: no such file"),
        (("README.md",), 2, "expected Parquet ticks"),
        (("--port", "70000"), 2, "expected a port"),
        (("--speed", "0"), 2, "expected a number above 0"),
        (("--exchange", "mtgox"), 2, "'mtgox': expected binance, coinbase, coinbase_exchange, kucoin"),
        (("--faults", "none.toml"), 2, "none.toml"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(arguments: tuple[str, ...], code: int, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with process(*(argument.format(port=port) for argument in arguments)) as running:
            out, err = running.communicate(timeout=DEADLINE_S)
    assert (running.returncode, out) == (code, "")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.asyncio
async def test_a_client_that_left_before_it_was_answered_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as here:
        log = logging.getLogger("replay.exchange.http")
        for error in (ConnectionResetError("Cannot write to closing transport"), ValueError("a defect")):
            try:
                raise error
            except (ConnectionResetError, ValueError):
                log.exception("Error handling request")
        assert [record.exc_info[1].args for record in caplog.records if record.exc_info and record.exc_info[1]] == [
            ("a defect",)
        ]
        assert here.exchange.dropped == {}
