"""The live feed against a real websocket server on loopback, which does what exchanges do on bad days."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import msgspec
import pytest
import uvloop
from aiohttp import WSMsgType, web

from engine.clock import LiveClock
from engine.config import BinanceConfig, Config, FeedsConfig
from engine.errors import ConfigError
from engine.events import FeedStatus, Quote, Tick
from feeds.dialling import RECORDING_HEADER
from feeds.link import FRAMES_A_TURN
from feeds.venues import feed_of
from tests.live_feeds import BTC, ETH, QUICK, Box, Changes, trade, world


@pytest.mark.asyncio
async def test_it_subscribes_is_acknowledged_and_brings_ticks_and_quotes() -> None:
    async with world() as made:
        before = made.clock.now()
        feed = made.run([BTC, ETH], streams=("trade", "bookTicker"))
        client = await made.live()
        assert client.path == "/ws"
        assert client.streams == {"btcusdt@trade", "btcusdt@bookTicker", "ethusdt@trade", "ethusdt@bookTicker"}
        await client.ws.send_str(trade(1))
        await client.ws.send_str(
            '{"u":9,"s":"ETHUSDT","b":"2683.80000000","B":"3.02920000","a":"2683.81000000","A":"31.43950000"}'
        )
        await made.until(lambda: len(made.box.events) == 3)
        status, tick, quote = made.box.events
        assert isinstance(status, FeedStatus)
        assert (status.exchange, status.status, status.detail) == (
            "binance",
            "connected",
            "binance 1: live with 2 of 2 symbols",
        )
        assert isinstance(tick, Tick)
        assert (tick.symbol, tick.price, tick.side, tick.timestamp) == (BTC, 28165.47, "sell", 1680652799999000000)
        assert isinstance(quote, Quote)
        assert (quote.symbol, quote.bid, quote.ask) == (ETH, 2683.80, 2683.81)
        assert before <= status.received <= tick.received <= quote.received <= made.clock.now()
        (health,) = feed.health()
        assert (health.name, health.state, health.symbols, health.recording) == ("binance 1", "live", (BTC, ETH), False)
        assert (health.messages, health.undecodable, health.reconnects) == (3, 0, 0)
        assert health.url == f"{made.exchange.address}/ws"
        assert before <= health.connected_at <= health.newest == quote.received


@pytest.mark.asyncio
async def test_a_server_that_serves_a_recording_is_believed() -> None:
    async with world() as made:
        made.exchange.headers = {RECORDING_HEADER: "binance.jsonl.gz"}
        feed = made.run()
        client = await made.live()
        assert feed.health()[0].recording
        made.exchange.headers = {}
        client.abort()
        await made.live(2)
        assert not feed.health()[0].recording


@pytest.mark.asyncio
async def test_a_ping_is_answered_with_its_own_payload() -> None:
    async with world() as made:
        made.run()
        client = await made.live()
        await client.ws.ping(b"1770123456789")
        await made.until(lambda: client.pongs == [b"1770123456789"])


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["abort", "close"])
async def test_a_lost_connection_is_made_again_with_all_its_symbols(how: str) -> None:
    async with world() as made:
        feed = made.run([BTC, ETH])
        client = await made.live()
        await client.ws.send_str(trade(1))
        await made.until(lambda: made.box.ids() == [1])
        if how == "abort":
            client.abort()
        else:
            await client.ws.close(code=1001, message=b"maintenance")
        again = await made.live(2)
        assert again is not client
        assert again.streams == {"btcusdt@trade", "ethusdt@trade"}
        await again.ws.send_str(trade(2))
        await made.until(lambda: made.box.ids() == [1, 2])
        assert made.box.statuses() == [("connected", ""), ("disconnected", ""), ("connected", "")]
        assert (
            "closed with 1006: the connection broke off" if how == "abort" else "closed with 1001: maintenance"
        ) in made.box.details()
        assert feed.health()[0].reconnects == 1


@pytest.mark.asyncio
async def test_a_silent_socket_is_noticed_and_dialled_anew() -> None:
    async with world() as made:
        made.run(silence_s=0.2)
        client = await made.live()
        await made.until(lambda: ("stalled", "") in made.box.statuses())
        await made.until(lambda: client.is_gone)
        await made.until(lambda: ("recovered", "") in made.box.statuses())
        assert made.box.statuses()[:3] == [("connected", ""), ("stalled", ""), ("recovered", "")]
        assert "not even a ping" in made.box.details()


@pytest.mark.asyncio
async def test_pings_alone_keep_a_quiet_connection() -> None:
    async with world() as made:
        made.run(silence_s=0.3, messages=1_000_000)
        client = await made.live()
        until = made.clock.now() + 900_000_000
        while made.clock.now() < until:
            client.pongs.clear()
            await client.ws.ping(b"still here")
            await made.until(lambda: client.pongs)
        assert made.box.statuses() == [("connected", "")]


@pytest.mark.asyncio
async def test_a_port_that_nobody_listens_at_is_dialled_until_somebody_does() -> None:
    async with world(listening=False) as made:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            made.exchange.port = reserved.getsockname()[1]
        feed = made.run()
        await made.until(lambda: made.box.statuses().count(("failed", "")) >= 3)
        assert "Cannot connect to host 127.0.0.1" in made.box.details()
        assert feed.health()[0].state in ("waiting", "connecting")
        await made.exchange.start()
        await made.live()


@pytest.mark.asyncio
async def test_a_host_without_a_name_is_a_failure_that_is_reported() -> None:
    async with world(listening=False) as made:
        made.run(websocket="ws://no-such-host.invalid:9443")
        await made.until(lambda: ("failed", "") in made.box.statuses())
        assert "ws://no-such-host.invalid:9443/ws: " in made.box.details()


@pytest.mark.asyncio
async def test_retry_after_is_obeyed_and_the_answer_is_shown() -> None:
    async with world() as made:
        body = '{"code":-1003,"msg":"Way too many requests"}'
        made.exchange.refusals = [web.Response(status=429, text=body, headers={"Retry-After": "1"})]
        made.run()
        await made.until(lambda: ("rate_limited", "") in made.box.statuses())
        assert f"expected 101 Switching Protocols, came 429 Too Many Requests: {body}" in made.box.details()
        await made.live()
        first, second = made.exchange.dials
        assert second - first >= 0.99


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "state", "said"),
    [
        (web.Response(status=404, text="gone\n away "), "failed", "came 404 Not Found: gone away;"),
        (web.Response(status=200, text="<html>log in</html>"), "failed", "came 200 OK: <html>log in</html>;"),
        (web.Response(status=301, headers={"Location": "/new"}), "failed", "came 301 Moved Permanently to /new"),
        (web.Response(status=503, body=b"\xff" * 100_000), "waiting", "came 503 Service Unavailable: \ufffd\ufffd"),
    ],
)
async def test_an_answer_that_is_no_upgrade_is_reported_and_dialled_again(
    answer: web.Response, state: str, said: str
) -> None:
    async with world() as made:
        made.exchange.refusals = [answer]
        feed = made.run()
        await made.until(lambda: ("failed", "") in made.box.statuses())
        assert feed.health()[0].state == state
        assert said in made.box.details()
        assert len(made.box.details()) < 1_000
        await made.live()


@pytest.mark.asyncio
async def test_garbage_is_counted_and_the_connection_kept() -> None:
    async with world() as made:
        feed = made.run()
        client = await made.live()
        await client.ws.send_str(trade(1)[:-5])
        await client.ws.send_str("")
        await client.ws.send_str("\x00")
        await client.ws.send_bytes(b"\x80\xff\x00")
        await client.ws.send_frame(b'{"e":"kline","x":"\xff\xfe"}', WSMsgType.TEXT)  # no UTF-8
        await client.ws.send_str('{"e":"trade","s":"BTCUSDT"}')
        await client.ws.send_bytes(trade(2).encode())
        await client.ws.send_str('{"e":"somethingNew","s":"BTCUSDT"}')
        await client.ws.send_str('{"what":"is this"}')
        await client.ws.send_str(trade(3))
        await made.until(lambda: made.box.ids() == [2, 3])
        (health,) = feed.health()
        assert health.undecodable == 6
        assert health.messages == 11
        assert health.state == "live"
        assert health.detail == 'binance: expected market data or an answer with an id, came {"what":"is this"}'
        assert made.box.statuses() == [("connected", "")]


@pytest.mark.asyncio
async def test_five_megabytes_pass_and_more_than_sixteen_end_the_connection() -> None:
    async with world() as made:
        feed = made.run()
        client = await made.live()
        await client.ws.send_str(f'{{"e":"depthUpdate","E":1,"s":"BTCUSDT","b":[],"pad":"{"x" * 5_079_379}"}}')
        await client.ws.send_str(trade(1))
        await made.until(lambda: made.box.ids() == [1])
        assert (feed.health()[0].ignored, feed.health()[0].undecodable) == (1, 0)
        with contextlib.suppress(ConnectionError):
            await client.ws.send_str(trade(2, padding=17 << 20))
        again = await made.live(2)
        await again.ws.send_str(trade(3))
        await made.until(lambda: made.box.ids() == [1, 3])
        assert "closed with 1009: a message above the 16 MiB of feeds.frame_mib came" in made.box.details()


@pytest.mark.asyncio
async def test_a_shutdown_notice_is_followed_by_a_new_connection_at_once() -> None:
    async with world() as made:
        made.run(feeds=FeedsConfig(backoff_first_s=60.0, backoff_max_s=60.0))  # a wait would outlast the test
        client = await made.live()
        await client.ws.send_str('{"e":"serverShutdown","E":1770123456789}')
        again = await made.live(2)
        assert again is not client
        assert made.box.statuses() == [("connected", "")] * 2
        assert "binance 2: took over from binance 1: the exchange announced its shutdown" in made.box.details()
        await made.until(lambda: client.is_gone)


@pytest.mark.asyncio
async def test_symbols_come_and_go_while_it_runs() -> None:
    async with world() as made:
        feed = made.run([BTC, "BTC/USDD"])
        client = await made.live()
        assert ("failed", "BTC/USDD") in made.box.statuses()
        assert (
            "not in the product list of binance (2679 symbols, built in); did you mean BTC/USDT?" in made.box.details()
        )
        feed.add(ETH)
        feed.add("NO/SUCH")
        await made.until(lambda: client.streams == {"btcusdt@trade", "ethusdt@trade"})
        assert feed.symbols == (BTC, ETH)
        assert ("failed", "NO/SUCH") in made.box.statuses()
        feed.remove(BTC)
        feed.remove("XRP/USDT")
        await made.until(lambda: client.streams == {"ethusdt@trade"})
        assert made.box.statuses()[-1] == ("failed", "XRP/USDT")
        feed.remove(ETH)
        await made.until(lambda: client.is_gone)
        assert feed.health() == []
        feed.add(BTC)
        again = await made.live(2)
        assert again.streams == {"btcusdt@trade"}
        assert len(made.exchange.dials) == 2


@pytest.mark.asyncio
async def test_symbols_beyond_the_limit_of_streams_get_connections_of_their_own() -> None:
    async with world() as made:
        symbols = [BTC, ETH, "BNB/USDT", "XRP/USDT", "LTC/USDT"]
        feed = made.run(symbols, streams=("trade", "bookTicker"), streams_a_connection=4)
        await made.live(3)
        assert sorted(len(client.streams) for client in made.exchange.clients) == [2, 4, 4]
        assert [health.name for health in feed.health()] == ["binance 1", "binance 2", "binance 3"]
        assert feed.symbols == tuple(symbols)


def test_a_symbol_that_fits_into_no_connection_is_an_error_of_configuration() -> None:
    made = BinanceConfig(streams=("trade", "bookTicker"), streams_a_connection=1)
    with pytest.raises(ConfigError, match="streams_a_connection = 1: expected at least 2"):
        feed_of("binance", Config(binance=made, feeds=QUICK), [BTC], clock=LiveClock(), inbox=Box(Changes()), seed=1)


@pytest.mark.asyncio
async def test_a_lost_acknowledgement_ends_the_connection() -> None:
    async with world() as made:
        made.exchange.acknowledges = False
        made.run(feeds=msgspec.structs.replace(QUICK, acknowledge_s=0.2))
        await made.until(lambda: ("disconnected", "") in made.box.statuses())
        assert "within 0.2 s" in made.box.details()
        made.exchange.acknowledges = True
        await made.live()


@pytest.mark.asyncio
async def test_a_server_that_takes_the_call_and_says_nothing_is_hung_up_on() -> None:
    async with world(listening=False) as made:
        accepted = 0

        async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal accepted
            accepted += 1
            made.changes.notify()
            writers.append(writer)

        writers: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(take, "127.0.0.1", 0)
        try:
            made.exchange.port = server.sockets[0].getsockname()[1]
            made.run(feeds=msgspec.structs.replace(QUICK, connect_s=0.1))
            await made.until(lambda: accepted >= 3)
            assert "no answer within 0.1 s" in made.box.details()
        finally:
            for writer in writers:
                writer.close()
            server.close()


@pytest.mark.asyncio
async def test_a_full_inbox_is_felt_by_the_exchange_and_nothing_is_lost() -> None:
    async with world() as made:
        feed = made.run(silence_s=0.2)
        client = await made.live()
        made.box.capacity = 100
        total, sent = 6_000, 0

        async def pour() -> None:
            nonlocal sent
            for number in range(total):
                await client.ws.send_str(trade(number, padding=7_000))
                sent += 1
                made.changes.notify()

        pouring = asyncio.get_running_loop().create_task(pour())
        await made.until(lambda: made.box.is_full and client.request.protocol.writing_paused)
        # Not to be read for longer than silence_s is no fault of the exchange's.
        full_since = made.clock.now()
        asyncio.get_running_loop().call_later(0.5, made.changes.notify)
        await made.until(lambda: made.clock.now() >= full_since + 400_000_000)
        assert len(made.box.events) == 100
        assert feed.health()[0].state == "live"
        # What the kernel's buffers and ours hold has left the exchange, and the rest waits there.
        assert not pouring.done()
        assert client.request.protocol.writing_paused
        assert sent < total
        made.box.capacity = None
        made.changes.notify()
        await pouring
        await made.until(lambda: len(made.box.ids()) == total)
        assert made.box.ids() == list(range(total))
        assert made.box.statuses() == [("connected", "")]


@pytest.mark.asyncio
async def test_a_flood_leaves_the_loop_its_turns() -> None:
    async with world() as made:
        loop = asyncio.get_running_loop()
        turns, total, is_over = 0, 5_000, False
        heard: dict[int, int] = {}

        def turn() -> None:
            nonlocal turns
            turns += 1
            if not is_over:
                loop.call_soon(turn)

        def hear(kind: str, *_: object) -> None:
            heard[turns] = heard.get(turns, 0) + (kind == "recv")

        made.run(raw=hear)
        client = await made.live()
        turn()
        # In one write: all of it is there before the first of it is read.
        frame = trade(1).encode()
        header = bytes([0x81, 126, len(frame) >> 8, len(frame) & 0xFF])
        assert client.request.transport is not None
        client.request.transport.write((header + frame) * total)
        await made.until(lambda: len(made.box.ids()) == total)
        is_over = True
        assert max(heard.values()) <= FRAMES_A_TURN
        assert len(heard) >= total / FRAMES_A_TURN


@pytest.mark.asyncio
async def test_a_recorder_hears_what_was_dialled_said_and_heard() -> None:
    async with world() as made:
        heard: list[tuple[str, int, str, str | bytes]] = []

        def hear(*what: Any) -> None:
            heard.append(what)
            made.changes.notify()

        made.run(raw=hear)
        client = await made.live()
        await client.ws.send_str(trade(1))
        await client.ws.send_str("garbage")
        await made.until(lambda: len(heard) == 5)
        kinds, times, names, texts = zip(*heard, strict=True)
        assert kinds == ("connect", "send", "recv", "recv", "recv")
        assert list(times) == sorted(times)
        assert set(names) == {"binance 1"}
        asked = '{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}'
        assert texts == (
            f"{made.exchange.address}/ws",
            asked,
            b'{"result": null, "id": 1}',
            trade(1).encode(),
            b"garbage",
        )


@pytest.mark.asyncio
async def test_cancellation_closes_everything_and_is_passed_on() -> None:
    async with world() as made:
        made.run()
        client = await made.live()
        _, task = made.runs.pop()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await made.until(lambda: client.is_gone)
        assert client.ws.close_code == 1000


@pytest.mark.asyncio
async def test_a_feed_that_is_stopped_before_it_ran_never_dials() -> None:
    async with world() as made:
        feed = made.run()
        await feed.stop()
        await made.runs[0][1]
        assert made.exchange.dials == []


@pytest.mark.asyncio
async def test_a_defect_of_ours_ends_the_feed_and_is_raised() -> None:
    async with world() as made:
        made.run(raw=lambda *_: 1 // 0)
        _, task = made.runs.pop()
        with pytest.raises(ZeroDivisionError):
            await task


def test_it_runs_on_uvloop_too() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_a_lost_connection_is_made_again_with_all_its_symbols("abort"))
        runner.run(test_a_silent_socket_is_noticed_and_dialled_anew())
        runner.run(test_cancellation_closes_everything_and_is_passed_on())
