from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import uvloop

from engine.errors import ServiceError
from engine.serving import operations
from engine.serving.answers import BODY_MAX, HEADERS, Limits
from engine.serving.server import Server, serve
from tests.folding import VIEWS
from tests.serving import Daemon

ASKING = {"features": ["quick:price"], "entities": {"exchange": ["x"], "symbol": ["BTC/USDT"]}}
PATHS = ("/", "/health", "/ready", "/metrics", "/features", "/models", "/openapi.json", "/nowhere", "/stream")
DEADLINE_S = 10.0
HASTY = Limits(idle_s=0.2, body_s=0.2)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = await serve(Daemon(tmp_path, views=VIEWS))
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Server]:
    """A server that soon loses its patience."""
    server = await serve(Daemon(tmp_path, views=VIEWS), HASTY)
    yield server
    await server.stop()


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


async def raw(server: Server, request: bytes) -> bytes:
    """What comes back until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    async with asyncio.timeout(DEADLINE_S):
        writer.write(request)
        answer = await reader.read()
    writer.close()
    return answer


def head_and_body(answer: bytes) -> tuple[bytes, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, json.loads(body)


# Start and stop ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_it_starts_answers_stops_and_starts_again_at_the_same_port(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def twice() -> None:
        port = 0
        for _ in range(2):
            server = await serve(Daemon(tmp_path, views=VIEWS, port=port))
            port = port or port_of(server)
            assert server.url == f"http://127.0.0.1:{port}"
            assert server.token == (tmp_path / "token").read_text().strip()
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{server.url}/health") as got:
                    assert got.status == 200
                await server.stop()
                with pytest.raises(aiohttp.ClientConnectorError):
                    await session.get(f"{server.url}/health")

    run(twice())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_port_in_use_is_an_error_that_names_it_and_how_to_choose_another(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def twice() -> None:
        server = await serve(Daemon(tmp_path, views=VIEWS))
        try:
            with pytest.raises(ServiceError) as caught:
                await serve(Daemon(tmp_path, views=VIEWS, port=port_of(server)))
            assert f"port {port_of(server)}" in str(caught.value)
            assert "TICKFOLD_SERVER__PORT" in str(caught.value)
        finally:
            await server.stop()

    run(twice())


@pytest.mark.asyncio
async def test_an_address_that_is_not_this_machines_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"192\.0\.2\.1"):
        await serve(Daemon(tmp_path, views=VIEWS, host="192.0.2.1", allow_remote=True))


@pytest.mark.asyncio
async def test_stopping_waits_for_no_idle_connection(tmp_path: Path) -> None:
    server = await serve(Daemon(tmp_path, views=VIEWS))
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{server.url}/health"):
            pass
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        async with asyncio.timeout(4.0):
            await server.stop()
            assert await reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.close()


# What every answer is like ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("path", PATHS)
async def test_every_answer_carries_the_headers(server: Server, path: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(server.url + path) as got:
        for name, value in HEADERS.items():
            if name != "Cache-Control" or path != "/":
                assert got.headers[name] == value, name
        assert "frame-ancestors 'none'" in got.headers["Content-Security-Policy"]
        if got.status >= 400:
            assert (await got.json())["error"].keys() == {"code", "message", "field"}


@pytest.mark.asyncio
async def test_assets_of_the_page_may_be_kept_and_carry_the_headers_too(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{server.url}/") as got:
            page = await got.text()
        asset = "/assets/" + page.partition('"/assets/')[2].partition('"')[0]
        async with session.get(server.url + asset) as got:
            assert got.status == 200
            assert "immutable" in got.headers["Cache-Control"]
            assert got.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.asyncio
async def test_methods_that_are_not_there_are_405_and_options_says_which_are(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        for method, path, allowed in (
            ("GET", "/get-online-features", "OPTIONS, POST"),
            ("DELETE", "/health", "GET, HEAD, OPTIONS"),
            ("PATCH", "/commands", "OPTIONS, POST"),
        ):
            async with session.request(method, server.url + path) as got:
                assert (got.status, got.headers["Allow"]) == (405, allowed)
                assert (await got.json())["error"]["code"] == "method_not_allowed"
            async with session.options(server.url + path) as got:
                assert (got.status, got.headers["Allow"]) == (204, allowed)
        async with session.options(f"{server.url}/nowhere") as got:
            assert got.status == 404


@pytest.mark.asyncio
async def test_head_is_get_without_a_body(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{server.url}/models") as got:
            length = got.headers["Content-Length"]
        async with session.head(f"{server.url}/models") as got:
            assert (got.status, got.headers["Content-Length"], await got.read()) == (200, length, b"")


@pytest.mark.asyncio
async def test_a_handler_that_crashes_is_500_without_details_and_the_server_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*_: Any) -> None:
        raise RuntimeError("/secret/place is broken")

    monkeypatch.setattr(operations, "features", crash)
    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.get(f"{server.url}/features") as got:
                assert got.status == 500
                body = await got.json()
                assert body["error"] == {
                    "code": "internal_server_error", "message": "Internal Server Error", "field": None,
                }  # fmt: skip
        async with session.get(f"{server.url}/health") as got:
            assert got.status == 200
    said = capsys.readouterr()
    assert "/secret/place is broken" in said.out + said.err


# Limits -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_body_of_a_mebibyte_is_read_and_a_larger_one_refused(server: Server) -> None:
    body = json.dumps(ASKING).encode()
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{server.url}/get-online-features", data=io.BytesIO(body.ljust(BODY_MAX))) as got:
            assert got.status == 200
        async with session.post(f"{server.url}/get-online-features", data=io.BytesIO(body.ljust(BODY_MAX + 1))) as got:
            assert (got.status, (await got.json())["error"]["code"]) == (413, "too_large")


@pytest.mark.asyncio
async def test_a_body_that_grows_without_saying_so_is_refused_once_it_is_too_large(server: Server) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * (BODY_MAX // 10)

    async with aiohttp.ClientSession() as session:
        async with session.post(f"{server.url}/get-online-features", data=pieces()) as got:
            assert got.status == 413
        packed = {"Content-Encoding": "deflate"}
        bomb = zlib.compress(b" " * (64 * BODY_MAX))
        assert len(bomb) < BODY_MAX
        async with session.post(f"{server.url}/get-online-features", data=bomb, headers=packed) as got:
            assert got.status == 413
        async with session.post(f"{server.url}/get-online-features", data=b"not deflated", headers=packed) as got:
            assert got.status == 400
            assert (await got.json())["error"]["code"] in ("bad_body", "bad_request")


@pytest.mark.asyncio
async def test_a_body_that_does_not_come_is_given_up(hasty: Server) -> None:
    head, body = head_and_body(
        await raw(
            hasty,
            b"POST /get-online-features HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{",
        )
    )
    assert head.startswith(b"HTTP/1.1 408")
    assert body["error"]["code"] == "timeout"


@pytest.mark.asyncio
@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "])
async def test_headers_that_do_not_come_are_given_up(hasty: Server, sent: bytes) -> None:
    assert await raw(hasty, sent) == b""


@pytest.mark.asyncio
async def test_headers_that_trickle_are_given_up_all_the_same(hasty: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(hasty))
    writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    waiting = asyncio.ensure_future(reader.read())
    async with asyncio.timeout(DEADLINE_S):
        number = 0
        while not waiting.done():
            number += 1
            writer.write(b"X-%d: slowly\r\n" % number if number < 100 else b"")
            await asyncio.wait([waiting], timeout=0.01)
    # What was on its way to a socket that is closed already is answered by a reset.
    with contextlib.suppress(ConnectionResetError):
        assert waiting.result() == b""
    writer.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "sent",
    [
        b"HELLO\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /push HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /push HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_no_http_is_400_as_every_mistake_is(server: Server, sent: bytes) -> None:
    head, body = head_and_body(await raw(server, sent))
    assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert body["error"]["code"] == "bad_request"
    assert b"X-Content-Type-Options: nosniff" in head


@pytest.mark.asyncio
async def test_connections_beyond_the_limit_are_closed_and_counted(tmp_path: Path) -> None:
    server = await serve(Daemon(tmp_path, views=VIEWS, clients_max=1), Limits(connections=2))
    try:
        kept = [await asyncio.open_connection("127.0.0.1", port_of(server)) for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b""
        writer.close()
        for _, other in kept:
            other.close()
            await other.wait_closed()
        async with aiohttp.ClientSession() as session, asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    async with session.get(f"{server.url}/metrics") as got:
                        text = await got.text()
                        break
                except aiohttp.ClientError:
                    continue  # the server has yet to hear that the others have left
        assert "tickfold_http_connections_refused_total 1.0" in text
    finally:
        await server.stop()


@pytest.mark.asyncio
async def test_requests_may_be_pipelined(server: Server) -> None:
    one = b"GET /models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    last = one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = await raw(server, one * 49 + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 50


@pytest.mark.asyncio
async def test_it_listens_on_loopback_alone(server: Server) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.2", port_of(server)))  # the address beside it is free
        assert other.getsockname() == ("127.0.0.2", port_of(server))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.2", port_of(server))
