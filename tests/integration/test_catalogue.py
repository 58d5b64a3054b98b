"""Product lists fetched from a real HTTP server on loopback, kept on disk, and kept when the exchange is away."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from engine.errors import FeedError
from feeds import catalogue as subject
from feeds.catalogue import Catalogue
from feeds.listing import NO_CHANGES
from feeds.product_lists import products_url

S = 1_000_000_000
NOW = 1_786_309_548_000_000_000  # Sun, 09 Aug 2026 21:05:48 GMT
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Hands:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> int:
        return self.time


class Exchange:
    """Answers each request for the list with what a test has put there."""

    def __init__(self) -> None:
        self.answer: Answer = ok("BTC-USDT", "ETH-USDT")
        self.requests = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        return await self.answer(request)


def symbols(*ids: str, off: tuple[str, ...] = ()) -> bytes:
    data = []
    for theirs in ids:
        base, quote = theirs.split("-")
        entry: dict[str, Any] = {"symbol": theirs, "name": theirs, "baseCurrency": base, "quoteCurrency": quote}
        data.append({**entry, "enableTrading": theirs not in off})
    return json.dumps({"code": "200000", "data": data}).encode()


def ok(*ids: str, off: tuple[str, ...] = ()) -> Answer:
    return says(200, symbols(*ids, off=off))


def says(status: int, body: bytes, **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return answer


@contextlib.asynccontextmanager
async def running(exchange: Exchange) -> AsyncIterator[str]:
    """The exchange on a port of its own; yields the URL of its list."""
    app = web.Application()
    app.router.add_get("/{path:.*}", exchange.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        exchange.url = products_url("kucoin", f"http://{host}:{port}")
        yield exchange.url
    finally:
        await runner.cleanup()


class Bench:
    """A catalogue at an exchange, with what it has said."""

    def __init__(self, url: str, folder: Path | None, **options: Any) -> None:
        self.clock = Hands()
        self.said: list[str] = []
        self.catalogue = Catalogue("kucoin", url, folder, clock=self.clock, on_trouble=self.said.append, **options)


@pytest.mark.asyncio
async def test_a_fetched_list_takes_the_place_of_the_built_in_one_and_is_there_after_a_restart(tmp_path: Path) -> None:
    exchange = Exchange()
    exchange.answer = ok("BTC-USDT", "NEWEST-USDT", "XRP-USDT", off=("XRP-USDT",))
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        bench = Bench(url, tmp_path / "products")
        catalogue = bench.catalogue
        assert catalogue.load() is NO_CHANGES
        assert (catalogue.source, catalogue.as_of) == ("built-in", 0)
        assert catalogue.why_not("BTC/USDT") == ""
        assert catalogue.refresh_due(bench.clock.now())
        found = await catalogue.refresh(session)
        assert (catalogue.source, catalogue.as_of, catalogue.trouble) == ("fetched", NOW, "")
        assert found.tradable == ("NEWEST/USDT",)
        untradable = dict(found.untradable)
        assert untradable["XRP/USDT"] == "not traded any more, or not yet: enableTrading = false"
        assert untradable["ETH/USDT"] == "not in the product list of kucoin (3 symbols, fetched 2026-08-09T21:05Z)"
        assert catalogue.known["NEWEST/USDT"] == "NEWEST-USDT"
        assert catalogue.products["BCHSV-USDT"] == "BSV/USDT"  # what is not listed any more is decoded all the same
        again = Bench(url, tmp_path / "products")
        assert again.catalogue.load() == found
        assert (again.catalogue.source, again.catalogue.as_of) == ("cache", NOW)
        assert again.catalogue.products == catalogue.products
        assert again.catalogue.why_not("XRP/USDT") == catalogue.why_not("XRP/USDT")
    assert exchange.requests == 1
    assert bench.said == again.said == []


@pytest.mark.asyncio
async def test_a_list_on_disk_serves_while_the_exchange_is_away(tmp_path: Path) -> None:
    exchange = Exchange()
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        await Bench(url, tmp_path).catalogue.refresh(session)
    bench = Bench(url, tmp_path)
    bench.clock.time += 90 * 86_400 * S
    catalogue = bench.catalogue
    catalogue.load()
    assert catalogue.refresh_due(bench.clock.now())
    async with aiohttp.ClientSession() as session:
        assert await catalogue.refresh(session) is NO_CHANGES
    assert (catalogue.source, catalogue.as_of) == ("cache", NOW)
    assert catalogue.why_not("BTC/USDT") == ""
    assert f"{url}: " in catalogue.trouble
    assert "the list of 2 symbols, fetched 2026-08-09T21:05Z stays, and is asked for again in 30 s" in bench.said[0]


@pytest.mark.asyncio
async def test_one_symbol_that_goes_leaves_the_others_alone(tmp_path: Path) -> None:
    exchange = Exchange()
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        bench = Bench(url, tmp_path)
        await bench.catalogue.refresh(session)
        exchange.answer = ok("BTC-USDT", "ETH-USDT", "SOL-USDT", off=("ETH-USDT",))
        found = await bench.catalogue.refresh(session)
    assert found.untradable == (("ETH/USDT", "not traded any more, or not yet: enableTrading = false"),)
    assert found.tradable == ("SOL/USDT",)


async def cut_short(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"code":"200000","data":[')
    assert request.transport is not None
    request.transport.close()
    return response


async def cut_in_a_chunk(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(b'{"code":"200000","data":[')
    assert request.transport is not None
    request.transport.close()
    return response


BAD: dict[str, tuple[Answer, str]] = {
    "404": (says(404, b"<h1>nothing\nhere</h1>"), "expected 200, came 404 Not Found: <h1>nothing here</h1>"),
    "503": (says(503, b""), "expected 200, came 503 Service Unavailable: nothing"),
    "204": (says(204, b""), "expected 200, came 204 No Content"),
    "451": (says(451, b"Service unavailable from a restricted location"), "came 451 .*: Service unavailable from"),
    "garbage": (says(200, b"\x00\xff\xfe garbage"), r"kucoin: expected \{\"code\": \"200000\".*, came .* garbage"),
    "html": (says(200, b"<html>welcome</html>"), "came <html>welcome</html>"),
    "truncated json": (says(200, symbols("BTC-USDT")[:-9]), "Input data was truncated"),
    "truncated body": (cut_short, "(?i)payload"),
    "truncated chunk": (cut_in_a_chunk, "(?i)payload|transfer"),
    "no gzip": (says(200, b"no gzip at all", Content_Encoding="gzip"), "Content-Encoding|decode"),
    "maintenance": (ok("BTC-USDT", "ETH-USDT", off=("BTC-USDT", "ETH-USDT")), "came 2, none of them tradable"),
    "empty list": (ok(), "with at least one product"),
    "moved": (
        says(301, b"", Location="https://elsewhere/list"),
        "came 301 Moved Permanently to https://elsewhere/list",
    ),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_answer_is_reported_and_changes_nothing(kind: str, tmp_path: Path) -> None:
    answer, said = BAD[kind]
    exchange = Exchange()
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        bench = Bench(url, tmp_path)
        catalogue = bench.catalogue
        await catalogue.refresh(session)
        held = catalogue.listing
        kept = (tmp_path / "kucoin.json").read_bytes()
        exchange.answer = answer
        assert await catalogue.refresh(session) is NO_CHANGES
        assert catalogue.listing is held
        assert (tmp_path / "kucoin.json").read_bytes() == kept
        assert len(bench.said) == 1
        assert re.search(said, catalogue.trouble), catalogue.trouble
        exchange.answer = ok("BTC-USDT")
        await catalogue.refresh(session)
        assert catalogue.trouble == ""
        assert len(catalogue.listing) == 1


@pytest.mark.asyncio
async def test_a_session_that_refuses_what_is_no_upgrade_serves_as_well(tmp_path: Path) -> None:
    async def refuse(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        raise AssertionError("the session's middleware, which is for websockets")

    exchange = Exchange()
    async with running(exchange) as url, aiohttp.ClientSession(middlewares=(refuse,)) as session:
        bench = Bench(url, tmp_path)
        await bench.catalogue.refresh(session)
        assert (bench.catalogue.source, bench.said) == ("fetched", [])


@pytest.mark.asyncio
async def test_a_list_that_is_too_large_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "BODY_MIB", 1)
    exchange = Exchange()
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        bench = Bench(url, None)
        exchange.answer = says(200, b" " * (1 << 20) + symbols("BTC-USDT"))
        await bench.catalogue.refresh(session)
        assert "expected a product list of at most 1 MiB, came more" in bench.catalogue.trouble
        # Small on the wire, and large when it is unpacked.
        exchange.answer = says(200, gzip.compress(b" " * (8 << 20)), Content_Encoding="gzip")
        await bench.catalogue.refresh(session)
        assert "expected a product list of at most 1 MiB, came more" in bench.catalogue.trouble
        assert bench.catalogue.source == "built-in"


@pytest.mark.asyncio
async def test_a_server_that_does_not_answer_is_given_up() -> None:
    exchange, released = Exchange(), asyncio.Event()

    async def never(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"code":')
        await released.wait()
        return response

    exchange.answer = never
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        bench = Bench(url, None, timeout_s=0.1)
        await bench.catalogue.refresh(session)
        released.set()
    assert bench.catalogue.trouble == f"{url}: expected a product list within 0.1 s, came none"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "headers", "wait_s"),
    [
        (429, {"Retry_After": "7200"}, 7_200),
        (429, {"Retry_After": "Sun, 09 Aug 2026 21:15:48 GMT"}, 600),
        (429, {}, 60),
        (418, {"Retry_After": "soon"}, 120),
        (418, {"Retry_After": "259200"}, 259_200),
        (503, {"Retry_After": "300"}, 300),
    ],
)
async def test_an_exchange_that_wants_to_be_left_alone_is(status: int, headers: dict[str, str], wait_s: int) -> None:
    exchange = Exchange()
    exchange.answer = says(status, b'{"code":"429000","msg":"Too many requests"}', **headers)
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        bench = Bench(url, None)
        catalogue = bench.catalogue
        await catalogue.refresh(session)
        assert f"came {status} " in catalogue.trouble
        assert '{"code":"429000","msg":"Too many requests"}' in catalogue.trouble
        assert bench.said[0].endswith(f"is asked for again in {wait_s:,} s")
        exchange.answer = ok("BTC-USDT")
        bench.clock.time = NOW + wait_s * S - 1
        assert not catalogue.refresh_due(bench.clock.now())
        assert await catalogue.refresh(session) is NO_CHANGES  # even when it is told to
        assert exchange.requests == 1
        bench.clock.time += 1
        assert catalogue.refresh_due(bench.clock.now())
        await catalogue.refresh(session)
        assert (exchange.requests, catalogue.source) == (2, "fetched")


@pytest.mark.asyncio
async def test_a_list_is_due_at_start_then_by_its_age_and_sooner_after_a_failure(tmp_path: Path) -> None:
    exchange = Exchange()
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        bench = Bench(url, tmp_path, refresh_s=200.0)
        catalogue, clock = bench.catalogue, bench.clock
        assert catalogue.refresh_due(0)
        await catalogue.refresh(session)
        assert catalogue.due_at() == NOW + 200 * S
        exchange.answer = says(500, b"")
        waits = []
        for _ in range(5):
            clock.time = catalogue.due_at()
            await catalogue.refresh(session)
            waits.append((catalogue.due_at() - clock.time) // S)
        assert waits == [30, 60, 120, 200, 200]  # doubled up to the period
        exchange.answer = ok("BTC-USDT")
        clock.time = catalogue.due_at()
        await catalogue.refresh(session)
        assert catalogue.due_at() == clock.time + 200 * S
        # After a restart the age of what is on disk counts.
        young = Bench(url, tmp_path, refresh_s=200.0)
        young.clock.time = clock.time + 50 * S
        young.catalogue.load()
        assert young.catalogue.due_at() == clock.time + 200 * S
        ahead = Bench(url, tmp_path, refresh_s=200.0)  # a clock that was set back: the age is not known
        ahead.clock.time = clock.time - 50 * S
        ahead.catalogue.load()
        assert ahead.catalogue.refresh_due(ahead.clock.now())


@pytest.mark.asyncio
async def test_only_one_refresh_is_under_way_at_a_time() -> None:
    exchange, asked, released = Exchange(), asyncio.Event(), asyncio.Event()

    async def slowly(request: web.Request) -> web.StreamResponse:
        asked.set()
        await released.wait()
        return await ok("BTC-USDT")(request)

    exchange.answer = slowly
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        catalogue = Bench(url, None).catalogue
        first = asyncio.create_task(catalogue.refresh(session))
        await asked.wait()
        assert not catalogue.refresh_due(NOW)
        assert await catalogue.refresh(session) is NO_CHANGES
        released.set()
        await first
        assert exchange.requests == 1
        asked.clear()
        released.clear()
        gone = asyncio.create_task(catalogue.refresh(session))
        await asked.wait()
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        released.set()
        await catalogue.refresh(session)  # one that was cancelled is not in its way
        assert (exchange.requests, catalogue.trouble) == (3, "")


@pytest.mark.asyncio
async def test_after_a_kill_between_writing_and_renaming_the_old_list_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    places: dict[str, object] = {"fsync": os, "replace": Path}
    exchange = Exchange()
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        await Bench(url, tmp_path).catalogue.refresh(session)
        for step, place in places.items():
            exchange.answer = ok("BTC-USDT", f"{step.upper()}-USDT")
            with monkeypatch.context() as patch:
                patch.setattr(place, step, kill)
                with pytest.raises(Killed):
                    await Bench(url, tmp_path).catalogue.refresh(session)
            assert (tmp_path / "kucoin.json.part").exists()
            after = Bench(url, tmp_path)
            after.catalogue.load()
            assert set(after.catalogue.listing.by_symbol) == {"BTC/USDT", "ETH/USDT"}
            assert after.said == []
        await Bench(url, tmp_path).catalogue.refresh(session)
        assert [file.name for file in tmp_path.iterdir()] == ["kucoin.json"]
        after = Bench(url, tmp_path)
        after.catalogue.load()
        assert set(after.catalogue.listing.by_symbol) == {"BTC/USDT", "REPLACE/USDT"}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b'{"format":1,"url":"URL","fetched":1786309548000000000,"products":[{"id":"BTC-US',
        b'{"format":2,"url":"URL","fetched":0,"products":[{"id":"A-B","symbol":"A/B","tradable":true,"status":""}]}',
        b'{"format":1,"url":"URL","fetched":0,"products":[]}',
        b"[" * 100_000,
    ],
    ids=lambda text: text[:24].decode("ascii", "replace"),
)
async def test_a_list_on_disk_that_cannot_be_read_is_reported_ignored_and_replaced(text: bytes, tmp_path: Path) -> None:
    exchange = Exchange()
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        path = tmp_path / "kucoin.json"
        path.write_bytes(text.replace(b"URL", url.encode()))
        bench = Bench(url, tmp_path)
        assert bench.catalogue.load() is NO_CHANGES
        assert bench.catalogue.source == "built-in"
        assert len(bench.said) == 1
        assert bench.said[0].startswith(f"{path}: ")
        assert bench.said[0].endswith("it is ignored, and the next list fetched replaces it")
        await bench.catalogue.refresh(session)
        after = Bench(url, tmp_path)
        after.catalogue.load()
        assert (after.catalogue.source, after.said) == ("cache", [])


@pytest.mark.asyncio
async def test_the_list_of_another_host_is_not_used(tmp_path: Path) -> None:
    exchange = Exchange()
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        await Bench(url, tmp_path).catalogue.refresh(session)
    other = Bench("https://api.kucoin.com/api/v2/symbols", tmp_path)
    assert other.catalogue.load() is NO_CHANGES
    assert other.catalogue.source == "built-in"
    assert other.said == [
        f"{tmp_path / 'kucoin.json'}: came from {url}, not from https://api.kucoin.com/api/v2/symbols; it is ignored"
    ]


@pytest.mark.asyncio
async def test_a_folder_that_cannot_be_written_costs_the_file_and_not_the_list(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    exchange = Exchange()
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        bench = Bench(url, tmp_path / "file" / "products")
        bench.catalogue.load()
        await bench.catalogue.refresh(session)
    assert bench.catalogue.source == "fetched"
    assert "the product list cannot be kept" in bench.said[-1]


@pytest.mark.asyncio
async def test_entries_that_cannot_be_read_and_symbols_named_twice_are_told_once_a_list() -> None:
    data = json.loads(symbols("BTC-USDT", "BCHSV-USDT", "BSV-USDT", off=("BSV-USDT",)))["data"]
    data[1]["name"] = "BSV-USDT"
    exchange = Exchange()
    exchange.answer = says(200, json.dumps({"code": "200000", "data": [*data, {"symbol": "X-Y"}, 5]}).encode())
    async with running(exchange) as url, aiohttp.ClientSession() as session:
        bench = Bench(url, None)
        await bench.catalogue.refresh(session)
        assert bench.catalogue.unreadable == 2
        assert bench.catalogue.known["BSV/USDT"] == "BCHSV-USDT"
        assert bench.said == [
            '2 of the products could not be read: Object missing required field `baseCurrency`, in {"symbol": "X-Y"}',
            "1 products have the symbol of another one; the tradable one of each is meant",
        ]


@pytest.mark.asyncio
async def test_a_host_that_nobody_listens_at_is_a_failure_like_any_other() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = products_url("kucoin", f"http://127.0.0.1:{bound.getsockname()[1]}")
        bench = Bench(url, None)
        async with aiohttp.ClientSession() as session:
            await bench.catalogue.refresh(session)
    assert bench.catalogue.trouble.startswith(f"{url}: ")


def test_trouble_is_logged_if_nobody_else_wants_to_hear_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "binance.json").write_text("{")
    Catalogue("binance", "https://host", tmp_path, clock=Hands()).load()
    assert "it is ignored" in "".join(capsys.readouterr())


def test_an_api_that_is_not_known_is_refused() -> None:
    with pytest.raises(FeedError, match="nowhere"):
        Catalogue("nowhere", "https://host", None, clock=Hands())


def test_both_coinbase_apis_begin_with_one_list() -> None:
    made = [Catalogue(name, "https://host", None, clock=Hands()) for name in ("coinbase", "coinbase_exchange")]
    assert made[0].products == made[1].products
