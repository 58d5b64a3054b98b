"""The loopback Coinbase and KuCoin as a client meets them: their websockets and REST over one server, mostly in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from engine.clock import LiveClock
from engine.events import Quote, Tick
from feeds import decoder
from replay.exchange import RECORDING_HEADER, Exchange
from replay.exchange.venues import LIMITS
from replay.sources import BUILT_INS, Capture
from replay.tape import Tape
from tests.virtual_time import VirtualClock, VirtualLoop, run

LINES = 2_000
DEADLINE_S = 30.0
Connection = aiohttp.ClientWebSocketResponse


def tape(feed: str) -> Tape:
    return Tape.from_lines(feed, feed, [line for _, line in Capture(BUILT_INS[feed]).lines()][:LINES])


class Setting:
    """An exchange that runs, and clients of it."""

    def __init__(self, exchange: Exchange, client: aiohttp.ClientSession) -> None:
        self.exchange, self.client = exchange, client

    async def get(self, feed: str, path: str, method: str = "GET") -> tuple[int, Any, Any]:
        async with self.client.request(method, self.exchange.venue(feed).rest + path) as answer:
            return answer.status, await answer.json(), answer.headers

    async def connect(self, feed: str, *requests: dict[str, Any]) -> Connection:
        """Connect as the exchange wants it, and ask."""
        address = self.exchange.venue(feed).websocket
        if feed == "kucoin":
            _, said, _ = await self.get(feed, "/api/v1/bullet-public", "POST")
            address = f"{said['data']['instanceServers'][0]['endpoint']}?token={said['data']['token']}&connectId=me"
        connection: Connection = await self.client.ws_connect(address)
        if feed == "kucoin":
            assert await connection.receive_json() == {"id": "me", "type": "welcome"}
        for request in requests:
            await connection.send_json(request)
        return connection


Story = Callable[[Setting], Awaitable[None]]


async def serve(story: Story, feeds: Sequence[str], **options: Any) -> None:
    exchange = Exchange([tape(feed) for feed in feeds], **options)
    await exchange.start()
    try:
        async with aiohttp.ClientSession() as client:
            await story(Setting(exchange, client))
    finally:
        await exchange.stop()


def stage(story: Story, *feeds: str, **options: Any) -> None:
    """Run a story in virtual time."""

    async def play(loop: VirtualLoop) -> None:
        await serve(story, feeds, clock=VirtualClock(loop, 1_790_000_000_000_000_000), **options)

    run(play)


async def ending(connection: Connection) -> tuple[Any, Any]:
    """How a connection ends: code and reason."""
    while (message := await connection.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR):
        pass
    return message.data, message.extra


def subscription(feed: str, names: Sequence[str]) -> list[dict[str, Any]]:
    if feed == "coinbase":
        channels = ("heartbeats", "market_trades", "ticker")
        return [{"type": "subscribe", "channel": channel, "product_ids": list(names)} for channel in channels]
    if feed == "coinbase_exchange":
        return [{"type": "subscribe", "product_ids": list(names), "channels": ["matches", "ticker", "heartbeat"]}]
    topics = [f"/market/{kind}:{','.join(names)}" for kind in ("match", "ticker")]
    return [{"id": at, "type": "subscribe", "topic": topic, "response": True} for at, topic in enumerate(topics, 1)]


SYMBOLS = {"coinbase": "BTC/USD", "coinbase_exchange": "SKL/USD", "kucoin": "DAPPT/BTC"}


@pytest.mark.parametrize("feed", SYMBOLS)
def test_what_is_heard_is_what_was_traded_over_several_loops(feed: str) -> None:
    async def story(here: Setting) -> None:
        names = here.exchange.venue(feed).market.symbols
        connection = await here.connect(feed, *subscription(feed, names))
        symbol, feed_decoder = SYMBOLS[feed], decoder(feed)
        live: list[int] = []
        past: list[int] = []
        quotes = 0
        while len(live) < 120:
            frame = (await connection.receive_str()).encode()
            for event in feed_decoder.decode(frame, here.exchange.venue(feed).market.now()):
                if isinstance(event, Tick) and event.symbol == symbol:
                    assert event.trade_id is not None
                    assert event.timestamp <= event.received
                    (past if event.late else live).append(event.trade_id)
                quotes += isinstance(event, Quote)
        traded = here.exchange.traded(feed, symbol)
        # Nothing twice, nothing missing from the snapshot on, and nothing that was not traded.
        begun = traded.index(live[0])
        assert traded[begun : begun + len(live)] == live
        if feed != "kucoin":
            assert past[-1] + 1 == live[0]
            assert live == list(range(live[0], live[0] + len(live)))
        assert quotes > 10
        assert here.exchange.dropped == {}

    stage(story, feed, speed=20.0)


def test_coinbase_counts_each_connection_by_itself_over_everything() -> None:
    async def story(here: Setting) -> None:
        counts: list[list[int]] = []
        channels: list[str] = []
        connections = [await here.connect("coinbase", *subscription("coinbase", ["BTC-USD"])) for _ in range(2)]
        for connection in connections:
            messages = [await connection.receive_json() for _ in range(150)]
            counts.append([message["sequence_num"] for message in messages])
            channels += [message["channel"] for message in messages]
        assert counts == [list(range(150))] * 2
        assert set(channels) == {"subscriptions", "market_trades", "ticker", "heartbeats"}

    stage(story, "coinbase", speed=5.0)


@pytest.mark.parametrize(
    ("feed", "path", "symbol", "key"),
    [
        ("coinbase", "/api/v3/brokerage/market/products/BTC-USD/ticker?limit=1", "BTC/USD", "trade_id"),
        ("coinbase_exchange", "/products/SKL-USD/trades?limit=1", "SKL/USD", "trade_id"),
        ("kucoin", "/api/v1/market/histories?symbol=DAPPT-BTC", "DAPPT/BTC", "sequence"),
    ],
)
def test_a_trade_that_was_heard_is_in_history_at_once(feed: str, path: str, symbol: str, key: str) -> None:
    async def story(here: Setting) -> None:
        connection = await here.connect(feed, *subscription(feed, here.exchange.venue(feed).market.symbols))
        feed_decoder = decoder(feed)
        heard = 0
        while heard < 5:
            for event in feed_decoder.decode((await connection.receive_str()).encode(), 1):
                if isinstance(event, Tick) and event.symbol == symbol and not event.late:
                    _, said, _ = await here.get(feed, path)
                    rows = said if isinstance(said, list) else said.get("trades", said.get("data"))
                    assert event.trade_id is not None
                    assert event.trade_id <= max(int(row[key]) for row in rows)
                    heard += 1

    stage(story, feed)


def test_at_the_slowest_pace_history_knows_no_trade_from_before_the_epoch() -> None:
    async def story(here: Setting) -> None:
        for symbol in here.exchange.venue("kucoin").market.symbols:
            _, document, _ = await here.get("kucoin", f"/api/v1/market/histories?symbol={symbol}")
            assert all(trade["time"] >= 0 for trade in document["data"])
            found.extend(document["data"])

    found: list[Any] = []
    stage(story, "kucoin", loop=True, speed=1e-6)
    assert found


def test_heartbeats_say_which_trade_was_the_last_that_was_sent() -> None:
    async def story(here: Setting) -> None:
        connection = await here.connect("coinbase_exchange", *subscription("coinbase_exchange", ["SKL-USD"]))
        newest = beats = 0
        while beats < 30:
            message = await connection.receive_json()
            if message["type"] in ("match", "last_match"):
                newest = message["trade_id"]
            elif message["type"] == "heartbeat":
                assert message["last_trade_id"] == newest
                beats += 1

    stage(story, "coinbase_exchange", speed=10.0)


# Limits


@pytest.mark.parametrize("feed", ["coinbase", "coinbase_exchange"])
def test_who_does_not_subscribe_in_time_is_cut_off(feed: str) -> None:
    async def story(here: Setting) -> None:
        connection = await here.connect(feed)
        before = asyncio.get_running_loop().time()
        assert await ending(connection) == (1008, "no subscription within 5 seconds")
        assert asyncio.get_running_loop().time() - before == pytest.approx(5.0, abs=0.1)
        assert here.exchange.dropped == {"no subscription": 1}

    stage(story, feed)


def test_kucoin_cuts_off_who_does_not_ping() -> None:
    async def story(here: Setting) -> None:
        silent, modest = await here.connect("kucoin"), await here.connect("kucoin")
        for number in range(4):
            await asyncio.sleep(18.0)
            if number < 3:
                await silent.ping()  # of the websocket: does not count
            await modest.send_json({"id": "7", "type": "ping"})
            assert await modest.receive_json() == {"id": "7", "type": "pong"}
        assert await ending(silent) == (1008, "no ping")
        assert here.exchange.dropped == {"no ping": 1}

    stage(story, "kucoin")


@pytest.mark.parametrize(
    ("feed", "count", "sockets"), [("coinbase", 8, 2), ("coinbase_exchange", 8, 1), ("kucoin", 100, 1)]
)
def test_more_messages_than_are_allowed_close_the_connection(feed: str, count: int, sockets: int) -> None:
    async def story(here: Setting) -> None:
        connections = [await here.connect(feed) for _ in range(sockets)]
        for number in range(count):
            await connections[number % sockets].send_str("{}")
            await asyncio.sleep(0.9 / count)
        await connections[0].send_str("{}")
        assert await ending(connections[0]) == (1008, "Too many requests")
        assert here.exchange.dropped == {"too many requests": 1}

    stage(story, feed)


def test_dials_beyond_the_limit_are_refused_until_there_is_room() -> None:
    async def story(here: Setting) -> None:
        for _ in range(8):
            await here.connect("coinbase")
        for _ in range(2):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await here.connect("coinbase")
            assert refused.value.status == 429
        await asyncio.sleep(1.0)
        await here.connect("coinbase")
        assert here.exchange.refused == 2

    stage(story, "coinbase")


def test_binance_counts_the_weight_of_requests_and_bans_who_goes_on() -> None:
    async def story(here: Setting) -> None:
        path = "/api/v3/historicalTrades?symbol=BTCUSDT&limit=5"
        status, said, headers = await here.get("binance", path)
        assert headers["X-MBX-USED-WEIGHT-1M"] == "25"
        asked = 1
        while status == 200:
            status, said, headers = await here.get("binance", path)
            asked += 1
        assert (asked, status, said["code"]) == (41, 429, -1003)
        assert 0 < int(headers["Retry-After"]) <= 60
        while status == 429:
            status, said, headers = await here.get("binance", path)
        assert (status, headers["Retry-After"]) == (418, "120")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="418"):
            await here.client.ws_connect(here.exchange.url + "/ws")
        await asyncio.sleep(120.0)
        status, rows, _ = await here.get("binance", path)
        assert (status, len(rows)) == (200, 5)

    stage(story, "binance", limits={"binance": LIMITS["binance"]._replace(weight=1_000)})


def test_a_connection_of_binance_and_of_kucoin_lives_a_day() -> None:
    async def story(here: Setting) -> None:
        kucoin = await here.connect("kucoin")
        binance = await here.client.ws_connect(here.exchange.url + "/ws")
        endings = [asyncio.create_task(ending(connection)) for connection in (kucoin, binance)]
        for _ in range(9):
            await asyncio.sleep(10.0)
            if not kucoin.closed:
                await kucoin.send_json({"id": "7", "type": "ping"})
        assert await asyncio.gather(*endings) == [(1001, "Connection has reached its maximum age")] * 2
        assert here.exchange.dropped == {"age": 2}

    short = {feed: LIMITS[feed]._replace(age_s=60.0) for feed in ("binance", "kucoin")}
    stage(story, "kucoin", "binance", limits=short)


def test_a_token_that_has_expired_opens_nothing() -> None:
    async def story(here: Setting) -> None:
        _, said, _ = await here.get("kucoin", "/api/v1/bullet-public", "POST")
        data = said["data"]
        await asyncio.sleep(61.0)
        connection = await here.client.ws_connect(
            f"{data['instanceServers'][0]['endpoint']}?token={data['token']}&connectId=me"
        )
        assert await connection.receive_json() == {"id": "me", "type": "error", "code": 401, "data": "token is expired"}
        assert (await ending(connection))[0] == 1008
        await here.connect("kucoin")

    stage(story, "kucoin", token_s=60.0)


# One server, real sockets


@pytest.mark.asyncio
async def test_all_exchanges_are_served_on_one_port() -> None:
    feeds = ["binance", "coinbase", "coinbase_exchange", "kucoin"]

    async def story(here: Setting) -> None:
        address = here.exchange.url.replace("ws:", "http:") + "/"
        async with here.client.get(address) as answer:
            said = await answer.json()
            assert answer.headers[RECORDING_HEADER] == ", ".join(feeds)
        assert [(venue["exchange"], venue["api"]) for venue in said["venues"]] == [
            ("binance", "spot"), ("coinbase", "advanced"), ("coinbase", "exchange"), ("kucoin", "classic"),
        ]  # fmt: skip
        assert [venue["rest"] for venue in said["venues"]] == [f"{address}{feed}" for feed in feeds]
        assert [venue["websocket"] for venue in said["venues"]] == [
            here.exchange.url, here.exchange.url + "/coinbase", here.exchange.url + "/coinbase_exchange", "",
        ]  # fmt: skip
        assert "NMR/EUR" in said["venues"][2]["symbols"]
        for feed in feeds[1:]:
            connection = await here.connect(feed, *subscription(feed, here.exchange.venue(feed).market.symbols))
            feed_decoder = decoder(feed)
            events: list[Any] = []
            while not events:
                frame = (await connection.receive_str()).encode()
                events = [event for event in feed_decoder.decode(frame, LiveClock().now()) if isinstance(event, Quote)]
            assert events[0].exchange == here.exchange.venue(feed).exchange
        binance = await here.client.ws_connect(here.exchange.url + "/ws/btcusdt@trade")
        assert json.loads(await binance.receive_str())["s"] == "BTCUSDT"
        async with here.client.get(address + "nothing") as answer:
            assert answer.status == 404
            assert "expected /ws" in await answer.text()
        with pytest.raises(KeyError):
            here.exchange.traded("mtgox", "BTC/USD")
        with pytest.raises(KeyError):
            here.exchange.traded("coinbase", "SKL/USD")

    async with asyncio.timeout(DEADLINE_S):
        await serve(story, feeds, speed=20.0)
