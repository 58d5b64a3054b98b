from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from engine.events import (
    Configured,
    Drift,
    FeedStatus,
    Gap,
    HandlerFailed,
    Heartbeat,
    Parked,
    Signal,
)
from engine.serving.answers import Limits
from engine.serving.selection import KeyName, Wish, message_of, select
from engine.serving.server import Server, serve
from engine.serving.stream import MESSAGE_MAX, QUEUE
from tests.folding import START, VIEWS, trade, trades
from tests.serving import Daemon

Socket = aiohttp.ClientWebSocketResponse
DEADLINE_S = 20.0


@asynccontextmanager
async def streaming(
    daemon: Daemon, query: str = "", limits: Limits | None = None
) -> AsyncIterator[tuple[Server, Socket]]:
    """A server, and a client that was greeted."""
    server = await serve(daemon, limits)
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/stream{query}") as client:
            yield server, client
    finally:
        await server.stop()


async def until(client: Socket, wanted: Callable[[Any], bool]) -> list[Any]:
    """All that comes up to the first message that is wanted."""
    heard: list[Any] = []
    async with asyncio.timeout(DEADLINE_S):
        while not heard or not wanted(heard[-1]):
            heard.append(await client.receive_json())
    return heard


def of_type(kind: str) -> Callable[[Any], bool]:
    return lambda message: bool(message["type"] == kind)


def a_signal(number: int, strategy: str = "mine", symbol: str = "BTC/USDT", value: float = 1.0) -> Signal:
    return Signal(strategy, "x", symbol, value, "why", START, START, number)


def a_status(number: int, symbol: str = "") -> FeedStatus:
    return FeedStatus("x", symbol, "stalled", "nothing came", START, START, number)


async def counted(server: Server, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/metrics") as got:
        lines = (await got.text()).splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


async def eventually(server: Server, name: str, value: float) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await counted(server, name) != value:
            await asyncio.sleep(0)


# What is sent -----------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_it_opens_with_hello_and_then_the_newest_row_of_each_view_and_key(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS)
    daemon.push(*trades(20))
    async with streaming(daemon) as (_, client):
        hello = await client.receive_json()
        assert hello == {
            "type": "hello",
            "sequence": 20,
            "version": daemon.version,
            "views": ["quick", "slow", "bars"],
            "keys": [{"exchange": "x", "symbol": "BTC/USDT"}],
        }
        rows = [await client.receive_json() for _ in range(3)]
    for row in rows:
        newest = daemon.fold.features.latest(row["view"], "x", "BTC/USDT")
        assert newest is not None
        assert (row["type"], row["exchange"], row["symbol"]) == ("features", "x", "BTC/USDT")
        stamps = (row["timestamp"], row["received"], row["sequence"], row["ready"])
        assert stamps == (newest.timestamp, newest.received, newest.sequence, newest.ready)
        assert row["values"] == {name: None if np.isnan(value) else value for name, value in newest.items()}
    assert [row["view"] for row in rows] == ["quick", "slow", "bars"]
    assert rows[1]["values"]["mid"] is None  # NaN until the first quote


@pytest.mark.asyncio
async def test_rows_are_conflated_to_the_newest_and_each_is_sent_once(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS, stream_hz=50.0)
    async with streaming(daemon, "?views=quick") as (_, client):
        await client.receive_json()
        sent: list[int] = []
        for start in range(0, 3_000, 500):
            daemon.push(*(trade(at=number, trade_id=number + 1) for number in range(start, start + 500)))
            newest = daemon.fold.sequence()
            heard = await until(client, lambda message, newest=newest: message["sequence"] == newest)  # type: ignore[misc]
            sent += [message["sequence"] for message in heard]
        assert sent == sorted(set(sent))
        assert sent[-1] == 3_000
        assert len(sent) < 20  # of 3,000 rows


@pytest.mark.asyncio
async def test_events_come_in_their_order_each_under_its_type(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS)
    events: list[Any] = [
        a_signal(1, value=float("nan")),
        a_status(2),
        Gap("x", "BTC/USDT", 5, 9, 5, 0, START, START, 3),
        Drift("adwin", "direction:loss", "x", "BTC/USDT", 3.5, START, START, 4, "direction", "2"),
        Heartbeat(START, START, 5),
        Configured("{}", "", 1, START, START, 6),
        HandlerFailed("mine", "on_tick", "ValueError: no", "Traceback: /a/file.py", 1, START, START, 7),
        Parked("mine", "too many", START, START, 8),
    ]
    async with streaming(daemon) as (_, client):
        await client.receive_json()
        for event in events:
            daemon.report(event)
        heard = await until(client, lambda message: message.get("event") == "parked")
    assert [(m["type"], m["sequence"]) for m in heard] == [
        ("signal", 1), ("feed_status", 2), ("gap", 3), ("drift", 4), ("event", 7), ("event", 8),
    ]  # fmt: skip
    assert heard[0] == {
        "type": "signal", "strategy": "mine", "exchange": "x", "symbol": "BTC/USDT", "value": None, "reason": "why",
        "timestamp": START, "received": START, "sequence": 1,
    }  # fmt: skip
    assert heard[4]["event"] == "handler_failed"
    assert "traceback" not in heard[4]


@pytest.mark.asyncio
async def test_signals_of_a_real_strategy_reach_the_client(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    async with streaming(daemon, "?types=signal") as (_, client):
        await client.receive_json()
        daemon.push_recorded()
        signals = [await asyncio.wait_for(client.receive_json(), DEADLINE_S) for _ in range(daemon.fold.signals)]
    assert {signal["type"] for signal in signals} == {"signal"}
    assert [signal["sequence"] for signal in signals] == sorted(signal["sequence"] for signal in signals)


# Filters ----------------------------------------------------------------------------------------------------------------------


def test_a_wish_that_is_not_made_is_no_filter() -> None:
    everything = select(Wish(), ("quick",))
    assert everything.has_features("quick", ("x", "y"))
    assert all(everything.has(event) for event in (a_signal(1), a_status(2), Parked("mine", "", 0, 0)))


@pytest.mark.parametrize(
    ("wish", "heard"),
    [
        (Wish(types=["signal"]), [True, True, False, False, False, False]),
        (Wish(types=["event", "gap"]), [False, False, False, False, True, True]),
        (Wish(types=[]), [False] * 6),
        (Wish(keys=[KeyName("x", "ETH/USDT")]), [False, True, True, False, False, True]),
        (Wish(keys=[KeyName("y", "BTC/USDT")]), [False, False, False, False, False, True]),
        (Wish(strategies=["mine"]), [True, True, True, True, True, True]),
        (Wish(strategies=["other"]), [False, False, True, True, True, False]),
        (Wish(views=["quick"]), [True] * 6),
    ],
)
def test_events_are_filtered_by_type_key_and_strategy(wish: Wish, heard: list[bool]) -> None:
    selection = select(wish, ("quick",))
    events = [
        a_signal(1),
        a_signal(2, symbol="ETH/USDT"),
        a_status(3),
        a_status(4, "BTC/USDT"),
        Gap("x", "BTC/USDT", 1, 2, 2, 0, START, START, 5),
        Parked("mine", "too many", START, START, 6),
    ]
    assert [selection.has(event) for event in events] == heard


@pytest.mark.asyncio
async def test_a_message_changes_what_is_heard(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS, stream_hz=50.0)
    daemon.push(trade(), trade(("x", "ETH/USDT")))
    async with streaming(daemon, "?types=signal") as (_, client):
        await client.receive_json()
        wish = {"types": ["features"], "views": ["slow"], "keys": [{"exchange": "x", "symbol": "ETH/USDT"}]}
        await client.send_json({"subscribe": wish})
        (said,) = await until(client, of_type("subscribed"))
        assert said["subscribe"] == {**wish, "strategies": None, "models": None}
        daemon.report(a_signal(1))
        row = await client.receive_json()
        assert (row["type"], row["view"], row["symbol"]) == ("features", "slow", "ETH/USDT")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", None),
        ("[]", None),
        ("{}", "subscribe"),
        ('{"subscribe": {"types": ["nothing"]}}', "types"),
        ('{"subscribe": {"views": ["technical"]}}', "views"),
        ('{"subscribe": {"keys": [{"exchange": "x"}]}}', "subscribe.keys[0]"),
        ('{"subscribe": {"views": "quick"}}', "subscribe.views"),
        ('{"subscribe": {"everything": true}}', "subscribe"),
        ('{"subscribe": {"strategies": [' + '"x",' * 1_000 + '"x"]}}', "strategies"),
    ],
)
async def test_a_message_that_is_wrong_is_answered_and_the_client_stays(
    tmp_path: Path, text: str, field: str | None
) -> None:
    daemon = Daemon(tmp_path, views=VIEWS)
    async with streaming(daemon) as (_, client):
        await client.receive_json()
        await client.send_str(text)
        (said,) = await until(client, of_type("error"))
        assert said["error"]["field"] == field
        daemon.report(a_signal(1))
        await until(client, of_type("signal"))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?views=technical", "views"),
        ("?types=features,news", "types"),
        ("?keys=BTC", "keys"),
        ("?exchange=x", "symbol"),
        ("?symbol=BTC/USDT", "exchange"),
        ("?format=xml", "format"),
    ],
)
async def test_a_query_that_is_wrong_is_refused_before_the_upgrade(tmp_path: Path, query: str, field: str) -> None:
    server = await serve(Daemon(tmp_path, views=VIEWS))
    try:
        async with aiohttp.ClientSession() as session:
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            headers = {**upgrade, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
            async with session.get(f"{server.url}/stream{query}", headers=headers) as got:
                assert got.status == 422
                assert (await got.json())["error"]["field"] == field
            async with session.get(f"{server.url}/stream") as got:
                assert got.status == 426
                assert got.headers["Upgrade"] == "websocket"
    finally:
        await server.stop()


@pytest.mark.asyncio
async def test_keys_may_be_chosen_in_the_query(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS)
    daemon.push(trade(), trade(("x", "ETH/USDT")))
    server = await serve(daemon)
    try:
        async with aiohttp.ClientSession() as session:
            for query in ("?exchange=x&symbol=ETH/USDT&views=quick", "?keys=x:ETH/USDT&views=quick"):
                async with session.ws_connect(f"{server.url}/stream{query}") as client:
                    await client.receive_json()
                    row = await client.receive_json()
                    assert (row["view"], row["symbol"]) == ("quick", "ETH/USDT")
    finally:
        await server.stop()


# Slow readers, and other limits -----------------------------------------------------------------------------------------------


def deaf(server: Server, query: str = "") -> socket.socket:
    """A client that says hello and then reads no more than the answer to its handshake."""
    port = int(server.url.rpartition(":")[2])
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    made.connect(("127.0.0.1", port))
    lines = (
        f"GET /stream{query} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "",
    )  # fmt: skip
    made.sendall("\r\n".join(lines).encode())
    return made


def everything(client: socket.socket) -> bytes:
    """All that a client was sent, up to where the server hung up."""
    said = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65_536):
            said += part
    return bytes(said)


@pytest.mark.asyncio
async def test_what_does_not_fit_into_the_queue_is_dropped_oldest_first_and_counted(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS)
    async with streaming(daemon, "?types=signal") as (server, client):
        await client.receive_json()
        for number in range(1, 3 * QUEUE + 1):  # before the client's turn comes
            daemon.report(a_signal(number))
        heard = await until(client, lambda message: message.get("sequence") == 3 * QUEUE)
        dropped = [message["count"] for message in heard if message["type"] == "dropped"]
        signals = [message["sequence"] for message in heard if message["type"] == "signal"]
        assert sum(dropped) + len(signals) == 3 * QUEUE
        assert signals == sorted(signals)
        assert await counted(server, "tickfold_stream_dropped_total") == float(sum(dropped))


@pytest.mark.asyncio
async def test_a_flood_that_nobody_could_hand_out_is_told_too(tmp_path: Path) -> None:
    from engine.serving.stream import REPORTED

    daemon = Daemon(tmp_path, views=VIEWS)
    async with streaming(daemon, "?types=signal") as (_, client):
        await client.receive_json()
        count = REPORTED + 500
        for number in range(1, count + 1):
            daemon.report(a_signal(number))
        heard = await until(client, lambda message: message.get("sequence") == count)
        dropped = sum(message["count"] for message in heard if message["type"] == "dropped")
        assert dropped + sum(message["type"] == "signal" for message in heard) == count
        assert dropped >= 500


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_is_cut_and_holds_nobody_up(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS)
    async with streaming(daemon, "?types=signal", Limits(unread_s=1.5)) as (server, client):
        await client.receive_json()
        mute = await asyncio.to_thread(deaf, server, "?types=signal")
        await eventually(server, "tickfold_stream_clients", 2.0)
        number, reason = 0, "x" * 10_000
        async with asyncio.timeout(DEADLINE_S):
            while await counted(server, "tickfold_stream_cut_total") == 0.0:
                number += 1
                daemon.report(Signal("mine", "x", "BTC/USDT", 1.0, reason, START, START, number))
                assert (await client.receive_json())["sequence"] == number
        await eventually(server, "tickfold_stream_clients", 1.0)
        mute.close()


@pytest.mark.asyncio
async def test_a_client_that_answers_no_ping_is_cut(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS)
    server = await serve(daemon, Limits(unread_s=0.3))
    try:
        mute = await asyncio.to_thread(deaf, server)
        await eventually(server, "tickfold_stream_cut_total", 1.0)
        await eventually(server, "tickfold_stream_clients", 0.0)
        mute.settimeout(DEADLINE_S)
        said = await asyncio.to_thread(everything, mute)
        assert said.startswith(b"HTTP/1.1 101 ")
        mute.close()
    finally:
        await server.stop()


@pytest.mark.asyncio
async def test_no_more_clients_than_may_be(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS, clients_max=3)
    server = await serve(daemon)
    try:
        async with aiohttp.ClientSession() as session:
            clients = [await session.ws_connect(f"{server.url}/stream") for _ in range(3)]
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(f"{server.url}/stream")
            assert caught.value.status == 503
            await clients.pop().close()
            await eventually(server, "tickfold_stream_clients", 2.0)
            clients.append(await session.ws_connect(f"{server.url}/stream?format=columns"))
            assert await counted(server, "tickfold_stream_clients_refused_total") == 1.0
            for client in clients:
                await client.close()
    finally:
        await server.stop()


@pytest.mark.asyncio
async def test_a_message_that_is_too_long_ends_the_connection(tmp_path: Path) -> None:
    async with streaming(Daemon(tmp_path, views=VIEWS)) as (_, client):
        await client.receive_json()
        await client.send_str("x" * (MESSAGE_MAX + 1))
        async with asyncio.timeout(DEADLINE_S):
            while (message := await client.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        assert client.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


@pytest.mark.asyncio
async def test_clients_are_told_when_the_server_stops(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, views=VIEWS)
    server = await serve(daemon)
    async with aiohttp.ClientSession() as session:
        clients = [await session.ws_connect(f"{server.url}/stream{query}") for query in ("", "?format=columns")]

        async def code_of(client: Socket) -> int | None:
            async for _ in client:
                pass
            return client.close_code

        waiting = [asyncio.ensure_future(code_of(client)) for client in clients]
        async with asyncio.timeout(5.0):
            await server.stop()
            assert await asyncio.gather(*waiting) == [aiohttp.WSCloseCode.GOING_AWAY] * 2
    assert len(daemon.ears) == 1  # the bulletin, which belongs to the daemon


# Columns ----------------------------------------------------------------------------------------------------------------------


def header_of(message: bytes) -> Any:
    return json.loads(message[8 : 8 + int.from_bytes(message[4:8], "little")])


@pytest.mark.asyncio
async def test_columns_are_binary_first_all_then_what_is_new_and_the_client_may_switch(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, stream_hz=50.0)
    daemon.push_recorded()
    async with streaming(daemon, "?format=columns&exchange=binance&symbol=BTC/USDT") as (_, client):
        first = header_of(await client.receive_bytes())
        assert (first["full"], first["symbol"]) == (True, "BTC/USDT")
        daemon.push_recorded(2_000, 2_500)
        async with asyncio.timeout(DEADLINE_S):
            while (header := header_of(await client.receive_bytes()))["sequence"] != daemon.fold.sequence():
                assert not header["full"]
            await client.send_json({"exchange": "binance", "symbol": "ETH/USDT"})
            while (header := header_of(await client.receive_bytes()))["symbol"] != "ETH/USDT":
                pass
            assert header["full"]
            await client.send_str("no")
            while (message := await client.receive()).type is aiohttp.WSMsgType.BINARY:
                pass
        assert json.loads(message.data)["error"]["code"] == "bad_json"


def test_a_message_holds_the_fields_of_its_event() -> None:
    assert json.loads(message_of(a_status(7))) == {
        "type": "feed_status", "exchange": "x", "symbol": "", "status": "stalled", "detail": "nothing came", "timestamp": START,
        "received": START, "sequence": 7, "first_id": None, "last_id": None,
    }  # fmt: skip
