"""The loop in virtual time and its network: what the fault suite stands on."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.virtual_network import WINDOW_BYTES, VirtualTransport
from tests.virtual_time import BEGIN_S, VirtualClock, VirtualLoop, run


class Keeper(asyncio.Protocol):
    """Keeps what it hears, and what happened to it."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.told: list[str] = []
        self.gone = asyncio.get_running_loop().create_future()
        self.transport: VirtualTransport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def eof_received(self) -> bool:
        self.told.append("eof")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set_result(type(error).__name__ if error else "closed")


async def pair(loop: VirtualLoop) -> tuple[Keeper, Keeper]:
    """Two protocols that are connected: the dialling one and the accepting one."""
    accepted: list[Keeper] = []

    def accept() -> Keeper:
        accepted.append(Keeper())
        return accepted[-1]

    server = await loop.create_server(accept, "127.0.0.1", 0)
    _, client = await loop.create_connection(Keeper, *server.sockets[0].getsockname())
    server.close()
    return client, accepted[0]


# Time -------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 1_000_000), max_size=20), st.sets(st.integers(0, 19)))
@settings(max_examples=30)
def test_timers_run_in_order_at_their_time_and_cancelled_ones_never(delays_ms: list[int], cancelled: set[int]) -> None:
    async def main(loop: VirtualLoop) -> None:
        rung: list[tuple[float, int]] = []

        def ring(number: int) -> None:
            rung.append((loop.time() - BEGIN_S, number))

        timers = [loop.call_later(delay / 1000, ring, number) for number, delay in enumerate(delays_ms)]
        for number in cancelled & set(range(len(timers))):
            timers[number].cancel()
        await asyncio.sleep(2_000)
        expected = sorted((delay / 1000, number) for number, delay in enumerate(delays_ms) if number not in cancelled)
        assert [at for at, _ in rung] == pytest.approx([at for at, _ in expected])
        assert sorted(number for _, number in rung) == sorted(number for _, number in expected)

    run(main)


def test_hours_pass_in_milliseconds() -> None:
    async def main(loop: VirtualLoop) -> int:
        clock = VirtualClock(loop)
        before = clock.now()
        for _ in range(24):
            await asyncio.sleep(3_600)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(86_400):
                await loop.create_future()
        return clock.now() - before

    began = time.perf_counter()
    assert run(main) == 2 * 86_400 * 1_000_000_000
    assert time.perf_counter() - began < 1.0


def test_a_run_that_would_wait_for_ever_says_who_waits() -> None:
    async def main(loop: VirtualLoop) -> None:
        asyncio.current_task(loop).set_name("sleeping beauty")  # type: ignore[union-attr]
        await loop.create_future()

    with pytest.raises(RuntimeError, match="sleeping beauty would wait for ever"):
        run(main)


def test_a_storm_of_callbacks_in_which_no_time_passes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(loop: VirtualLoop) -> None:
        while True:
            await asyncio.sleep(0)

    monkeypatch.setattr("tests.virtual_time.TURNS_MAX", 1_000)
    with pytest.raises(RuntimeError, match="no time passes"):
        run(main)


def test_a_loop_that_is_held_finds_its_timers_overdue_and_in_order() -> None:
    async def main(loop: VirtualLoop) -> list[tuple[str, float]]:
        rung: list[tuple[str, float]] = []
        loop.call_later(1, lambda: rung.append(("first", loop.time() - BEGIN_S)))
        loop.call_later(2, lambda: rung.append(("second", loop.time() - BEGIN_S)))
        loop.hold(5)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return rung

    assert run(main) == [("first", 5), ("second", 5)]


def test_threads_and_tls_are_refused() -> None:
    async def main(loop: VirtualLoop) -> None:
        with pytest.raises(RuntimeError, match="'perf_counter' in a thread"):
            await loop.run_in_executor(None, time.perf_counter)
        with pytest.raises(NotImplementedError, match="no TLS"):
            await asyncio.open_connection("127.0.0.1", 443, ssl=True)

    run(main)


@pytest.mark.parametrize("leak", ["task", "connection", "error"])
def test_what_a_run_leaves_behind_is_an_error(leak: str) -> None:
    async def fail() -> None:
        raise ValueError("nobody hears this")

    async def main(loop: VirtualLoop) -> Any:
        if leak == "task":
            return loop.create_task(asyncio.sleep(1e6), name="left over")
        if leak == "connection":
            return await pair(loop)
        loop.create_task(fail())  # it is to be forgotten
        return None

    with pytest.raises(AssertionError, match={"task": "left over", "error": "nobody hears"}.get(leak, "left: 2")):
        run(main)


# Connections ------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=30), st.integers(0, 1_000_000))
@settings(max_examples=30)
def test_what_two_protocols_exchange_arrives_whole_and_in_order(parts: list[bytes], seed: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        client, server = await pair(loop)
        for part in parts:
            client.transport.write(part)
            server.transport.write(part[::-1])
            await asyncio.sleep(0.001)
        client.transport.close()
        assert await server.gone == "closed"
        assert await client.gone == "closed"
        assert server.heard == b"".join(parts)
        assert client.heard == b"".join(part[::-1] for part in parts)[: len(client.heard)]
        assert server.told == ["eof"]

    run(main, seed=seed)


def test_a_reader_that_pauses_is_felt_by_the_writer_and_loses_nothing() -> None:
    async def main(loop: VirtualLoop) -> None:
        client, server = await pair(loop)
        server.transport.pause_reading()
        sent = bytes(range(256)) * 8_192
        for at in range(0, len(sent), 10_000):
            client.transport.write(sent[at : at + 10_000])
        await asyncio.sleep(10)
        assert client.told == ["pause"]
        assert client.transport.get_write_buffer_size() == len(sent) - WINDOW_BYTES
        assert not server.heard
        server.transport.resume_reading()
        await asyncio.sleep(10)
        assert client.told == ["pause", "resume"]
        assert client.transport.get_write_buffer_size() == 0
        assert server.heard == sent
        client.transport.close()
        await server.gone

    run(main)


def test_a_close_comes_after_what_was_written_and_an_abort_does_not_wait() -> None:
    async def main(loop: VirtualLoop) -> None:
        client, server = await pair(loop)
        client.transport.write(b"x" * 2 * WINDOW_BYTES)
        client.transport.close()
        client.transport.write(b"more")
        assert await server.gone == "closed"
        assert server.heard == b"x" * 2 * WINDOW_BYTES
        client, server = await pair(loop)
        server.transport.pause_reading()
        client.transport.write(b"x" * 2 * WINDOW_BYTES)
        client.transport.abort()
        assert await client.gone == "closed"
        assert await server.gone == "ConnectionResetError"
        assert not server.heard

    run(main)


def test_a_peer_that_is_gone_or_closes_with_bytes_unread_resets() -> None:
    async def main(loop: VirtualLoop) -> None:
        client, server = await pair(loop)
        server.transport.pause_reading()
        client.transport.write(b"unread")
        await asyncio.sleep(1)
        server.transport.close()
        assert await client.gone == "ConnectionResetError"
        client, server = await pair(loop)
        client.transport.write_eof()
        server.transport.write(b"said while it leaves")
        assert await server.gone == "closed"
        await client.gone

    run(main)


def test_in_a_black_hole_nothing_arrives_and_nobody_is_told_until_it_heals() -> None:
    async def main(loop: VirtualLoop) -> None:
        client, server = await pair(loop)
        client.transport.write(b"before")
        await asyncio.sleep(1)
        loop.network.black_hole()
        client.transport.write(b", within")
        server.transport.close()
        await asyncio.sleep(3_600)
        assert server.heard == b"before"
        assert not client.gone.done()
        loop.network.black_hole(False)
        await client.gone
        client, server = await pair(loop)
        loop.network.black_hole(towards_servers=False)
        client.transport.write(b"one way")
        server.transport.write(b"the other")
        await asyncio.sleep(60)
        assert server.heard == b"one way"
        assert not client.heard
        loop.network.black_hole(False)
        await asyncio.sleep(60)
        assert client.heard == b"the other"
        client.transport.close()
        await server.gone

    run(main)


def test_dials_fail_in_every_way_that_they_fail_outside() -> None:
    async def main(loop: VirtualLoop) -> None:
        server = await loop.create_server(Keeper, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with pytest.raises(OSError, match="in use"):
            await loop.create_server(Keeper, *address)
        loop.network.refuse.add(address)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        loop.network.refuse.clear()
        loop.network.unreachable.add(address)
        with pytest.raises(TimeoutError, match="timed out"):
            await asyncio.open_connection(*address)
        loop.network.unreachable.clear()
        with pytest.raises(socket.gaierror):
            await asyncio.open_connection("exchange.test", address[1])
        loop.network.names["exchange.test"] = "127.0.0.1"
        _, writer = await asyncio.open_connection("exchange.test", address[1])
        writer.close()
        server.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        assert len(loop.network.dials) == 4

    run(main)


# aiohttp ----------------------------------------------------------------------------------------------------------------------


async def serve(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(heartbeat=20, max_msg_size=1 << 23)
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


async def speak(loop: VirtualLoop, session: aiohttp.ClientSession, url: str, log: list[tuple[float, str]]) -> None:
    async with session.ws_connect(url, max_msg_size=1 << 23) as ws:
        for number in range(50):
            await ws.send_str(str(number))
            log.append((loop.time(), await ws.receive_str()))
        await ws.send_str("x" * 3_000_000)
        assert len(await ws.receive_str()) == 3_000_000
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3_600):  # an hour of pings and pongs
                await ws.receive()


async def talk(loop: VirtualLoop, log: list[tuple[float, str]], path: str = "") -> None:
    """Serve a page and websockets with aiohttp, and have two clients talk to them at once."""
    app = web.Application()
    app.router.add_get("/ws", serve)
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await (web.UnixSite(runner, path) if path else web.TCPSite(runner, "localhost", 0)).start()
    url = "http://inside" if path else f"http://localhost:{runner.addresses[0][1]}"
    connector = aiohttp.UnixConnector(path) if path else aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.get(url) as answer:
            assert await answer.text() == "hello"
        await asyncio.gather(*(speak(loop, session, f"{url}/ws", log) for _ in range(2)))
    await runner.cleanup()


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


def conversation(seed: int) -> str:
    log: list[tuple[float, str]] = []
    run(lambda loop: talk(loop, log), seed=seed)
    assert len(log) == 100
    return hashlib.sha256(repr(log).encode()).hexdigest()


def test_aiohttp_runs_on_it_and_a_seed_repeats_its_run_bit_for_bit() -> None:
    assert conversation(1) == conversation(1)
    assert conversation(1) != conversation(2)


def test_aiohttp_runs_on_its_unix_sockets_too() -> None:
    log: list[tuple[float, str]] = []
    run(lambda loop: talk(loop, log, path="/virtual/socket"))
    assert len(log) == 100
