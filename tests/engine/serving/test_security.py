from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from engine.config import Config, DataConfig, ServerConfig
from engine.errors import ConfigError
from engine.serving.security import check_address, is_loopback, read_token, token_path
from engine.serving.server import Server, serve
from tests.folding import VIEWS
from tests.serving import Daemon

ASKING = {"features": ["quick:price"], "entities": {"exchange": ["x"], "symbol": ["BTC/USDT"]}}
ORDER = {"verb": "snapshot"}
PUSH = {"push_source_name": "mine", "df": {"x": [1]}}
WRITES = [("/commands", ORDER), ("/push", PUSH)]


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = await serve(Daemon(tmp_path, views=VIEWS))
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def status_of(session: aiohttp.ClientSession, method: str, url: str, **options: Any) -> tuple[int, Any]:
    async with session.request(method, url, **options) as got:
        return got.status, (await got.json())["error"]["code"] if got.status >= 400 else None


# The token --------------------------------------------------------------------------------------------------------------------


def test_a_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    token = read_token(path)
    assert len(token) >= 43  # 32 random bytes, as URLs spell them
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_token(path) == token
    assert os.listdir(path.parent) == ["token"]


def test_a_token_is_never_readable_by_others_even_under_a_lax_umask(tmp_path: Path) -> None:
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for name in os.listdir(tmp_path):
                with contextlib.suppress(FileNotFoundError):
                    seen.add(stat.S_IMODE((tmp_path / name).stat().st_mode))

    before = os.umask(0)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for number in range(20):
            read_token(tmp_path / f"token{number}")
    finally:
        os.umask(before)
        done.set()
        watcher.join()
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert seen <= {0o600}


def test_all_who_start_at_once_get_one_token(tmp_path: Path) -> None:
    found: list[str] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        found.append(read_token(tmp_path / "token"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text("a-token-that-is-long-enough\n")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}: expected 0600"):
        read_token(path)


@pytest.mark.parametrize("text", ["", "\n", "short", "two words of it, long enough", "ä" * 20, "x" * 20 + "\x00"])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="expected one word of at least 16"):
        read_token(path)


def test_what_is_no_file_is_no_token(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("pipe", "folder"):
        with pytest.raises(ConfigError, match=r"server\.token_file"):
            read_token(tmp_path / name)


def test_the_token_lies_in_the_data_folder_unless_the_configuration_says_otherwise() -> None:
    data = DataConfig(dir="somewhere")
    assert token_path(Config(data=data)) == Path("somewhere/token")
    assert token_path(Config(data=data, server=ServerConfig(token_file="/run/word"))) == Path("/run/word")


# Addresses --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "loopback"), [
    ("127.0.0.1", True), ("127.8.0.9", True), ("::1", True), ("[::1]", True), ("localhost", True),
    ("0.0.0.0", False), ("::", False), ("", False), ("192.168.1.4", False), ("example.org", False), ("localhost.evil.org", False),
])  # fmt: skip
def test_only_loopback_addresses_are_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    if loopback:
        check_address(ServerConfig(host=host))
    else:
        with pytest.raises(ConfigError, match=r"server\.allow_remote"):
            check_address(ServerConfig(host=host))
        check_address(ServerConfig(host=host, allow_remote=True))


@pytest.mark.asyncio
async def test_a_server_beyond_loopback_is_not_started_without_leave(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.host = '0\.0\.0\.0'"):
        await serve(Daemon(tmp_path, views=VIEWS, host="0.0.0.0"))
    assert not (tmp_path / "token").exists()


@pytest.mark.asyncio
async def test_a_server_beyond_loopback_needs_the_token_everywhere(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    server = await serve(Daemon(tmp_path, views=VIEWS, host="0.0.0.0", allow_remote=True))
    bearer = {"Authorization": f"Bearer {server.token}"}
    try:
        for path in (
            "/health",
            "/ready",
            "/metrics",
            "/features",
            "/openapi.json",
            "/",
            "/stream",
            "/models",
            "/nowhere",
        ):
            assert await status_of(session, "GET", server.url + path) == (401, "no_token"), path
        assert await status_of(session, "POST", f"{server.url}/get-online-features", json=ASKING) == (401, "no_token")
        assert await status_of(session, "GET", f"{server.url}/health", headers=bearer) == (200, None)
        async with session.ws_connect(f"{server.url}/stream", headers=bearer) as socket:
            assert (await socket.receive_json())["type"] == "hello"
    finally:
        await server.stop()


# Writes -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(("path", "body"), WRITES)
async def test_writes_need_the_token(server: Server, session: aiohttp.ClientSession, path: str, body: Any) -> None:
    url = server.url + path
    token = server.token
    assert await status_of(session, "POST", url, json=body) == (401, "no_token")
    wrong = [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {token[:-1]}",
        f"Bearer {token}x",
        f"Basic {token}",
        token,
        "Bearer \xff\xfe",
    ]
    for given in wrong:
        status, code = await status_of(session, "POST", url, json=body, headers={"Authorization": given})
        assert (status, code) == (401, "wrong_token"), given
    async with session.post(url, json=body) as got:
        assert got.headers["WWW-Authenticate"].startswith("Bearer")
    for scheme in ("Bearer", "bearer"):
        status, _ = await status_of(session, "POST", url, json=body, headers={"Authorization": f"{scheme} {token}"})
        assert status in (200, 404)


@pytest.mark.asyncio
@pytest.mark.parametrize(("path", "body"), WRITES)
async def test_writes_are_json_and_say_so(server: Server, session: aiohttp.ClientSession, path: str, body: Any) -> None:
    bearer = {"Authorization": f"Bearer {server.token}"}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        headers = {**bearer, "Content-Type": kind}
        assert await status_of(session, "POST", server.url + path, data=b"{}", headers=headers) == (415, "not_json")
    assert await status_of(
        session, "POST", server.url + path, data=b"{", headers={**bearer, "Content-Type": "application/json"}
    ) == (400, "bad_json")


@pytest.mark.asyncio
async def test_reads_on_loopback_need_no_token_and_a_wrong_one_hurts_nobody(
    server: Server, session: aiohttp.ClientSession
) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert await status_of(session, "GET", f"{server.url}/health", headers=headers) == (200, None)
        assert await status_of(session, "POST", f"{server.url}/get-online-features", json=ASKING, headers=headers) == (
            200,
            None,
        )


# Host and Origin --------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_foreign_host_is_refused_on_every_path(server: Server, session: aiohttp.ClientSession) -> None:
    port = server.url.rpartition(":")[2]
    foreign = [
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "127.0.0.1:1",
        "localhost:1",
        "",
        "0.0.0.0",
        "[::2]",
    ]
    for path in ("/health", "/", "/stream", "/metrics", "/nowhere"):
        for host in foreign:
            found = await status_of(session, "GET", server.url + path, headers={"Host": host})
            assert found == (403, "foreign_host"), (path, host)
    for host in ("127.0.0.1", "localhost", f"localhost:{port}", f"[::1]:{port}", "LOCALHOST"):
        assert await status_of(session, "GET", f"{server.url}/health", headers={"Host": host}) == (200, None), host


@pytest.mark.asyncio
async def test_a_foreign_origin_is_refused_also_with_the_token(server: Server, session: aiohttp.ClientSession) -> None:
    port = server.url.rpartition(":")[2]
    bearer = {"Authorization": f"Bearer {server.token}"}
    for origin in (
        "https://evil.example",
        "null",
        "http://localhost:1",
        f"https://localhost:{port}",
        "http://127.0.0.1",
        "",
    ):
        headers = {"Origin": origin}
        assert await status_of(session, "GET", f"{server.url}/health", headers=headers) == (403, "foreign_origin"), (
            origin
        )
        for path, body in (*WRITES, ("/get-online-features", ASKING)):
            found = await status_of(session, "POST", server.url + path, json=body, headers={**bearer, **headers})
            assert found == (403, "foreign_origin")
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(f"{server.url}/stream", headers=headers)
        assert caught.value.status == 403
    for origin in (f"http://127.0.0.1:{port}", f"http://localhost:{port}", f"http://LOCALHOST:{port}"):
        assert await status_of(session, "GET", f"{server.url}/health", headers={"Origin": origin}) == (200, None)
        async with session.ws_connect(f"{server.url}/stream", headers={"Origin": origin}) as socket:
            assert (await socket.receive_json())["type"] == "hello"


@pytest.mark.asyncio
async def test_two_host_headers_are_refused(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\n\r\n".encode())
    status = (await reader.readline()).split()[1]
    assert status in (b"400", b"403")
    writer.close()
    await writer.wait_closed()


@pytest.mark.asyncio
async def test_hosts_and_origins_may_be_allowed_by_name(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    daemon = Daemon(
        tmp_path, views=VIEWS, allowed_hosts=("desk.example", "other:99"), allowed_origins=("https://desk.example",)
    )
    server = await serve(daemon)
    health = f"{server.url}/health"
    try:
        for host, status in (
            ("desk.example", 200),
            ("Desk.Example:443", 200),
            ("other:99", 200),
            ("other", 403),
            ("x.desk.example", 403),
        ):
            assert (await status_of(session, "GET", health, headers={"Host": host}))[0] == status, host
        origin = {"Origin": "https://desk.example"}
        async with session.get(health, headers=origin) as got:
            assert got.status == 200
            assert got.headers["Access-Control-Allow-Origin"] == "https://desk.example"
            assert "Origin" in got.headers["Vary"]
        async with session.options(
            f"{server.url}/commands", headers={**origin, "Access-Control-Request-Method": "POST"}
        ) as got:
            assert got.status == 204
            assert "POST" in got.headers["Access-Control-Allow-Methods"]
            assert "authorization" in got.headers["Access-Control-Allow-Headers"]
        async with session.get(health) as got:
            assert "Access-Control-Allow-Origin" not in got.headers
    finally:
        await server.stop()
