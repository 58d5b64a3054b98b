"""Every fault of the loopback exchange, as a client meets it: over websockets and REST, in virtual time, but for one on real sockets."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import WSMsgType

from engine.errors import ConfigError, DecodeError
from engine.events import Event, Quote, Tick
from feeds import decoder
from replay.exchange import Exchange
from replay.exchange.fault_plan import parse
from replay.exchange.faults import PreparedPlan
from replay.sources import BUILT_INS, Capture, Line
from replay.tape import Tape
from tests.virtual_time import VirtualClock, VirtualLoop, run

BINANCE_LINES, OTHER_LINES = 3_000, 100  # 37 s of BTC/USDT, and other pairs: the whole of the other recordings
BTC, ETH = "BTC/USD", "ETH/USD"


@functools.cache
def tape(feed: str) -> Tape:
    lines: list[Line] = [line for _, line in Capture(BUILT_INS[feed]).lines()]
    return Tape.from_lines(feed, feed, lines[:BINANCE_LINES] + lines[BINANCE_LINES:][-OTHER_LINES:])


class Heard:
    """What a client heard of one connection: (s since the exchange began, message)."""

    def __init__(self, feed: str) -> None:
        self.feed = feed
        self.frames: list[tuple[float, WSMsgType, Any]] = []
        self.code: int | None = None
        """What the connection ended with."""
        self.ended_s: float | None = None
        self.answers: list[tuple[float, Any]] = []
        """What was not market data."""
        self.undecodable = 0

    def texts(self) -> list[tuple[float, bytes]]:
        kinds = WSMsgType.TEXT, WSMsgType.BINARY
        return [
            (at_s, data.encode() if isinstance(data, str) else data)
            for at_s, kind, data in self.frames
            if kind in kinds
        ]

    def events(self) -> list[tuple[float, Event]]:
        decode = decoder(self.feed).decode
        found: list[tuple[float, Event]] = []
        self.undecodable = 0
        for at_s, text in self.texts():
            try:
                found += [(at_s, event) for event in decode(text, 1)]
            except DecodeError:
                self.undecodable += 1
        return found

    def ticks(self, symbol: str = "", *, live: bool = True) -> list[tuple[float, Tick]]:
        return [
            (at_s, event)
            for at_s, event in self.events()
            if isinstance(event, Tick) and symbol in ("", event.symbol) and not (live and event.late)
        ]

    def quotes(self, symbol: str = "") -> list[tuple[float, Quote]]:
        return [
            (at_s, event) for at_s, event in self.events() if isinstance(event, Quote) and symbol in ("", event.symbol)
        ]

    def ids(self, symbol: str = "") -> list[int]:
        return [tick.trade_id for _, tick in self.ticks(symbol) if tick.trade_id is not None]

    def documents(self) -> list[tuple[float, Any]]:
        found = []
        for at_s, text in self.texts():
            try:
                found.append((at_s, json.loads(text)))
            except ValueError:
                continue
        return found

    def pings(self) -> list[float]:
        return [at_s for at_s, kind, _ in self.frames if kind is WSMsgType.PING]


class Setting:
    """An exchange with faults in virtual time, and clients of it."""

    def __init__(self, exchange: Exchange, session: aiohttp.ClientSession, loop: VirtualLoop) -> None:
        self.exchange, self.session, self._loop = exchange, session, loop
        self._begun = loop.time()
        self.host = exchange.url.removeprefix("ws://")
        self._connections: list[aiohttp.ClientWebSocketResponse] = []
        self._listeners: list[asyncio.Task[None]] = []

    @property
    def now_s(self) -> float:
        return self._loop.time() - self._begun

    async def until(self, at_s: float) -> None:
        await asyncio.sleep(at_s - self.now_s)

    async def dial(self, feed: str) -> aiohttp.ClientWebSocketResponse:
        address = f"ws://{self.host}/" + {"binance": "stream", "kucoin": ""}.get(feed, feed)
        if feed == "kucoin":
            async with self.session.post(f"http://{self.host}/kucoin/api/v1/bullet-public") as answer:
                answer.raise_for_status()
                data = (await answer.json())["data"]
            address = f"{data['instanceServers'][0]['endpoint']}?token={data['token']}&connectId=c1"
        connection = await self.session.ws_connect(address, autoping=False, autoclose=False, max_msg_size=1 << 24)
        self._connections.append(connection)
        return connection

    def requests(self, feed: str, symbols: Sequence[str] = ()) -> list[dict[str, Any]]:
        """What subscribes to trades and quotes of symbols (as the exchange spells them), all if none is named."""
        (venue,) = [venue for venue in self.exchange.venues if venue.feed == feed]
        names = list(symbols or venue.market.symbols)
        if feed == "binance":
            streams = [f"{name.lower()}@{kind}" for name in names for kind in ("trade", "bookTicker")]
            return [{"method": "SUBSCRIBE", "params": streams, "id": 1}]
        if feed == "coinbase":
            return [
                {"type": "subscribe", "channel": "heartbeats"},
                {"type": "subscribe", "channel": "market_trades", "product_ids": names},
                {"type": "subscribe", "channel": "ticker", "product_ids": names},
            ]
        if feed == "coinbase_exchange":
            return [{"type": "subscribe", "product_ids": names, "channels": ["matches", "ticker", "heartbeat"]}]
        topics = [f"/market/{kind}:{','.join(names)}" for kind in ("match", "ticker")]
        return [{"id": at, "type": "subscribe", "topic": topic, "response": True} for at, topic in enumerate(topics, 1)]

    async def listen(
        self, feed: str, symbols: Sequence[str] = (), *, answers_pings: bool = True, pings_s: float = 0.0
    ) -> Heard:
        """Subscribe, and hear in the background what comes."""
        heard = Heard(feed)
        connection = await self.dial(feed)
        if feed == "kucoin":
            first = await connection.receive()
            heard.frames.append((self.now_s, first.type, first.data))
            if first.type is not WSMsgType.TEXT or json.loads(first.data)["type"] != "welcome":
                self._listeners.append(asyncio.create_task(self._hear(heard, connection, answers_pings)))
                return heard
        for request in self.requests(feed, symbols):
            await connection.send_json(request)
        self._listeners.append(asyncio.create_task(self._hear(heard, connection, answers_pings)))
        return heard

    async def _hear(self, heard: Heard, connection: aiohttp.ClientWebSocketResponse, answers_pings: bool) -> None:
        while True:
            message = await connection.receive()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR):
                heard.code, heard.ended_s = connection.close_code, self.now_s
                await connection.close()
                return
            heard.frames.append((self.now_s, message.type, message.data))
            if message.type is WSMsgType.PING and answers_pings:
                await connection.pong(message.data)

    async def get(self, path: str) -> tuple[int, Any, dict[str, str]]:
        """Ask REST: status, document (bytes if it is none), headers."""
        async with self.session.get(f"http://{self.host}{path}") as answer:
            body = await answer.read()
            try:
                return answer.status, json.loads(body), dict(answer.headers)
            except ValueError:
                return answer.status, body, dict(answer.headers)

    def did(self, kind: str) -> list[str]:
        return [done.detail for done in self.exchange.faults_done if done.kind == kind]

    async def end(self) -> None:
        for listener in self._listeners:
            listener.cancel()
        await asyncio.gather(*self._listeners, return_exceptions=True)
        await asyncio.gather(*(connection.close() for connection in self._connections))


def stage(
    plan: str,
    story: Callable[[Setting], Awaitable[None]],
    *feeds: str,
    seed: int = 0,
    speed: float = 1.0,
    loop_tape: bool = True,
) -> None:
    """Run a story with the exchange of a plan, in virtual time."""

    async def play(loop: VirtualLoop) -> None:
        exchange = Exchange(
            [tape(feed) for feed in feeds or ("binance",)],
            speed=speed,
            loop=loop_tape,
            from_start=True,
            faults=PreparedPlan(parse(plan)),
            seed=seed,
            clock=VirtualClock(loop),
        )
        await exchange.start()
        try:
            async with aiohttp.ClientSession() as session:
                here = Setting(exchange, session, loop)
                try:
                    await story(here)
                finally:
                    await here.end()
        finally:
            await exchange.stop()

    run(play, seed=seed)


def table(kind: str, **keys: Any) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(["[[fault]]", f'kind = "{kind}"', *lines, ""])


def between(found: Sequence[tuple[float, Any]], start: float, stop: float) -> list[Any]:
    return [what for at_s, what in found if start <= at_s < stop]


# 1: silence


def test_a_mute_symbol_is_silent_and_its_connection_is_not() -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("coinbase")
        await here.until(11)
        for symbol, is_mute in ((BTC, True), (ETH, False)):
            ticks = heard.ticks(symbol)
            assert between(ticks, 0, 3)
            assert bool(between(ticks, 3.1, 8)) is not is_mute
            assert between(ticks, 8, 11)
        counts = [document["sequence_num"] for _, document in heard.documents()]
        assert counts == list(range(len(counts)))  # what was never sent is not counted
        beats = [at_s for at_s, document in heard.documents() if document["channel"] == "heartbeats"]
        assert len(between([(at_s, 0) for at_s in beats], 3, 8)) >= 4
        truth = here.exchange.traded("coinbase", BTC)
        assert set(heard.ids(BTC)) < set(truth)
        assert here.did("mute")[0] == "begins, for 5 s"
        assert here.did("mute")[-1].startswith("ended: ")

    stage(table("mute", venue="coinbase", symbols=[BTC], at_s=3, for_s=5), story, "coinbase")


def test_some_of_the_streams_are_mute_drawn_from_the_seed() -> None:
    def muted(seed: int) -> str:
        said: list[str] = []

        async def story(here: Setting) -> None:
            heard = await here.listen("coinbase")
            await here.until(10)
            said.extend(detail for detail in here.did("mute") if detail.startswith("mutes "))
            assert len(heard.ids()) > 5 or len(heard.quotes()) > 5

        stage(table("mute", venue="coinbase", streams=1), story, "coinbase", seed=seed)
        return said[0]

    assert len({muted(seed) for seed in range(6)}) > 1


def test_what_is_mute_is_drawn_among_what_somebody_is_subscribed_to() -> None:
    async def story(here: Setting) -> None:
        await here.until(5)
        assert here.did("mute") == ["begins"]  # nobody is there, so there is nothing to draw
        heard = await here.listen("binance", ["BTCUSDT"])
        await here.until(12)
        muted = [done for done in here.exchange.faults_done if done.detail.startswith("mutes ")]
        assert {(done.detail, done.symbol) for done in muted} == {
            (f"mutes btcusdt@{kind}", "BTC/USDT") for kind in ("trade", "bookTicker")
        }
        assert between(heard.ticks(), 5, 6.1)
        assert not between(heard.ticks(), 6.1, 12)
        assert not between(heard.quotes(), 6.1, 12)

    for seed in range(3):
        stage(table("mute", streams=2), story, "binance", seed=seed)


@pytest.mark.parametrize("feed", ["binance", "coinbase", "kucoin"])
def test_without_pings_nothing_at_all_comes(feed: str) -> None:
    async def story(here: Setting) -> None:
        connection = await here.dial(feed)
        heard: list[tuple[float, Any]] = []
        for request in here.requests(feed):
            await connection.send_json(request)

        async def hear() -> None:
            async for message in connection:
                heard.append((here.now_s, message))

        hearing = asyncio.create_task(hear())
        await here.until(5)
        if feed == "kucoin":
            await connection.send_json({"id": "7", "type": "ping"})
        await here.until(45)
        assert between(heard, 0, 4)
        assert not between(heard, 4.1, 45)
        assert not connection.closed
        hearing.cancel()
        await connection.close()

    stage(table("mute", pings=False, at_s=4, for_s=50), story, feed)


# 2: drops


def test_a_drop_resets_connections_and_dials_and_rest_serves_what_was_missed() -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("binance")
        await here.until(3)
        assert heard.ended_s is not None
        assert heard.ended_s == pytest.approx(2, abs=0.1)
        assert heard.code in (None, 1006)
        with pytest.raises(aiohttp.ClientError):
            await here.listen("binance")
        await here.until(7.1)
        again = await here.listen("binance")
        await here.until(9)
        missing = [
            number
            for number in here.exchange.traded("binance", "BTC/USDT")
            if heard.ids()[-1] < number < again.ids()[0]
        ]
        assert len(missing) > 5
        path = f"/binance/api/v3/historicalTrades?symbol=BTCUSDT&fromId={missing[0]}&limit={len(missing)}"
        status, rows, _ = await here.get(path)
        assert status == 200
        assert [row["id"] for row in rows] == missing
        assert here.did("drop")[:2] == ["resets 1 connections, no dial for 5 s", "resets the upgrade"]

    stage(table("drop", venue="binance", at_s=2, for_s=5), story)


def test_after_a_drop_rest_may_be_away_for_good() -> None:
    async def story(here: Setting) -> None:
        path = "/binance/api/v3/historicalTrades?symbol=BTCUSDT"
        await here.listen("binance")
        assert (await here.get(path))[0] == 200
        await here.until(3)
        assert (await here.get(path))[0] == 503
        await here.until(30)
        assert (await here.get(path))[0] == 503

    stage(table("drop", rest=False, at_s=2), story)


def test_some_of_the_connections_are_dropped() -> None:
    async def story(here: Setting) -> None:
        heard = [await here.listen("binance") for _ in range(4)]
        await here.until(3)
        assert sum(one.ended_s is not None for one in heard) == 2

    stage(table("drop", connections=2, at_s=2), story)


# 3: closes


def test_a_connection_is_closed_at_an_age_and_says_so_before() -> None:
    async def story(here: Setting) -> None:
        await here.until(1)
        heard = await here.listen("binance")
        await here.until(8)
        assert heard.code == 1012
        assert heard.ended_s == pytest.approx(6, abs=0.1)
        notices = [at_s for at_s, said in heard.documents() if said.get("data", said).get("e") == "serverShutdown"]
        assert notices == [pytest.approx(4, abs=0.1)]

    stage(table("close", age_s=5, notice_s=2, code=1012, reason="Restart"), story)


def test_connections_are_closed_at_moments_or_break_without_a_word() -> None:
    async def story(here: Setting) -> None:
        first = await here.listen("kucoin")
        await here.until(4)
        assert first.code == 1001
        assert first.ended_s == pytest.approx(3, abs=0.1)
        second = await here.listen("kucoin")
        await here.until(7)
        assert second.code in (None, 1006)
        assert second.ended_s == pytest.approx(6, abs=0.1)

    stage(table("close", at_s=3) + table("close", at_s=6, code=1006), story, "kucoin")


# 4 and 5: limits, tokens


@pytest.mark.parametrize("status", [429, 418])
def test_requests_beyond_a_limit_are_told_when_to_come_again(status: int) -> None:
    async def story(here: Setting) -> None:
        path = "/binance/api/v3/historicalTrades?symbol=BTCUSDT"
        await here.listen("binance")
        answers = [await here.get(path) for _ in range(5)]
        assert [answer[0] for answer in answers] == [200, status, status, 200, 200]
        assert answers[1][2]["Retry-After"] == "7"
        assert answers[1][1]["code"] == -1003

    stage(table("limit", status=status, retry_after_s=7, after=1, requests=2), story)


def test_dials_and_tokens_are_limited_too() -> None:
    async def story(here: Setting) -> None:
        with pytest.raises(aiohttp.ClientResponseError) as token:
            await here.dial("kucoin")
        assert token.value.status == 429
        with pytest.raises(aiohttp.WSServerHandshakeError) as upgrade:
            await here.dial("binance")
        assert upgrade.value.status == 429
        assert upgrade.value.headers is not None
        assert upgrade.value.headers["Retry-After"] == "5"

    stage(table("limit", on=["upgrade", "token"]), story, "binance", "kucoin")


def test_an_expired_token_is_told_in_place_of_the_welcome_and_the_connection_is_closed() -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("kucoin")
        await here.until(1)
        assert heard.documents()[0][1] == {"id": "c1", "type": "error", "code": 401, "data": "token is expired"}
        assert heard.ended_s is not None
        again = await here.listen("kucoin")
        await here.until(20)
        assert again.documents()[0][1]["type"] == "welcome"
        assert again.ended_s is None

    stage(table("expire", venue="kucoin", dials=1), story, "kucoin")


def test_a_token_may_expire_at_an_age() -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("kucoin")
        await here.until(6)
        assert heard.documents()[0][1]["type"] == "welcome"
        assert heard.documents()[-1][1]["code"] == 401
        assert heard.ended_s == pytest.approx(5, abs=0.1)

    stage(table("expire", venue="kucoin", age_s=5), story, "kucoin")


# 6, 7, 9: duplicates, bursts, order


@pytest.mark.parametrize("feed", ["binance", "coinbase"])
def test_the_last_messages_are_repeated(feed: str) -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen(feed)
        await here.until(8)
        ids = heard.ids()
        assert len(ids) > len(set(ids)) + 5
        first_times = list(dict.fromkeys(heard.ids("BTC/USDT" if feed == "binance" else BTC)))
        assert first_times == sorted(first_times)
        if feed == "coinbase":
            counts = [document["sequence_num"] for _, document in heard.documents()]
            assert counts == list(range(len(counts)))

    stage(table("repeat", last=3, share=0.3), story, feed)


def test_a_burst_brings_the_same_market_in_a_tenth_of_the_time() -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("binance")
        await here.until(8)
        assert not between(heard.events(), 2.1, 6.5)
        assert len(between(heard.events(), 6.5, 7.05)) > 200
        ids = heard.ids()
        assert ids == sorted(set(ids))
        assert set(ids) <= set(here.exchange.traded("binance", "BTC/USDT"))
        assert ids == [number for number in here.exchange.traded("binance", "BTC/USDT") if ids[0] <= number <= ids[-1]]

    stage(table("burst", faster=10, at_s=2, for_s=5), story)


def test_an_exchange_that_does_not_read_answers_nothing_until_it_does() -> None:
    async def story(here: Setting) -> None:
        connection = await here.dial("binance")
        await here.until(1)
        await connection.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        with pytest.raises(TimeoutError):
            await connection.receive(timeout=3)

    async def later(here: Setting) -> None:
        connection = await here.dial("binance")
        await here.until(1)
        await connection.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        assert json.loads((await connection.receive()).data) == {"result": [], "id": 1}
        assert here.now_s >= 4
        await connection.close()

    stage(table("deaf", for_s=10), story)
    stage(table("deaf", for_s=4), later)


def test_an_exchange_that_does_not_read_goes_on_to_speak() -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("coinbase")
        await here.until(9)
        beats = [at_s for at_s, document in heard.documents() if document["channel"] == "heartbeats"]
        assert len(beats) >= 7
        assert between(heard.ticks(), 2, 9)

    stage(table("deaf", at_s=1, for_s=10), story, "coinbase")


def test_lag_keeps_the_order_and_shuffle_and_delay_do_not() -> None:
    heard: dict[str, Heard] = {}

    def told(name: str) -> Callable[[Setting], Awaitable[None]]:
        async def story(here: Setting) -> None:
            heard[name] = await here.listen("binance")
            await here.until(10)

        return story

    stage("", told("plain"))
    stage(table("lag", delay_s=2.0, for_s=6), told("lag"))
    stage(table("shuffle", within_s=0.3, for_s=6), told("shuffle"))
    stage(table("delay", delay_s=2.0, share=0.1, for_s=6), told("delay"))
    plain = heard["plain"].ids()
    assert plain == sorted(plain)
    assert not between(heard["lag"].events(), 0, 2)
    lag = between(heard["lag"].ticks(), 0, 6)
    assert [tick.trade_id for tick in lag] == sorted(tick.trade_id for tick in lag)
    for name in ("lag", "shuffle", "delay"):
        assert sorted(heard[name].ids()) == plain  # late or not, all of it came
    assert sum(before > after for before, after in pairwise(heard["shuffle"].ids())) > 20
    late = [before - after for before, after in pairwise(heard["delay"].ids()) if before > after]
    assert 3 < len(late) < 60


# 10, 11: numbers and clocks


@pytest.mark.parametrize("feed", ["binance", "coinbase", "coinbase_exchange", "kucoin"])
@pytest.mark.parametrize("keys", [{"to": 0}, {"by": 1_000_000_000}], ids=["restart", "jump"])
def test_ids_go_on_from_another_number_on_the_stream_and_in_history(feed: str, keys: dict[str, int]) -> None:
    symbol, name, moment, end, path = {
        "binance": ("BTC/USDT", "BTCUSDT", 3, 6, "/binance/api/v3/historicalTrades?symbol={}&limit=500"),
        "coinbase": (BTC, "BTC-USD", 3, 11, "/coinbase/api/v3/brokerage/market/products/{}/ticker?limit=500"),
        "coinbase_exchange": ("SKL/USD", "SKL-USD", 10, 28, "/coinbase_exchange/products/{}/trades?limit=100"),
        "kucoin": ("DAPPT/BTC", "DAPPT-BTC", 5, 29, "/kucoin/api/v1/market/histories?symbol={}"),
    }[feed]  # fmt: skip

    async def story(here: Setting) -> None:
        heard = await here.listen(feed)
        await here.until(end)
        ids, truth = heard.ids(symbol), here.exchange.traded(feed, symbol)
        before = [tick.trade_id for tick in between(heard.ticks(symbol), 0, moment)]
        after = [tick.trade_id for tick in between(heard.ticks(symbol), moment, end)]
        assert before
        assert after
        assert after[0] == (0 if "to" in keys else pytest.approx(before[-1] + 1_000_000_001, abs=1_000_000))
        assert ids == [number for number in truth if number in set(ids)]
        assert set(after) <= set(truth)
        _, document, _ = await here.get(path.format(name))
        rows = document if isinstance(document, list) else document.get("trades", document.get("data"))
        known = {int(row.get("id", row.get("trade_id", row.get("sequence")))) for row in rows}
        assert set(after[-5:]) <= known

    stage(table("renumber", symbols=[symbol], at_s=moment, **keys), story, feed)


@pytest.mark.parametrize("feed", ["binance", "coinbase", "coinbase_exchange", "kucoin"])
def test_a_clock_that_is_ahead_moves_all_times(feed: str) -> None:
    heard: dict[int, Heard] = {}

    def told(ahead_ms: int) -> Callable[[Setting], Awaitable[None]]:
        async def story(here: Setting) -> None:
            heard[ahead_ms] = await here.listen(feed)
            await here.until(12)

        return story

    for ahead_ms in (0, 2_500):
        stage(table("clock", offset_ms=ahead_ms, at_s=0) if ahead_ms else "", told(ahead_ms), feed)
    right, wrong = ({tick.trade_id: tick.timestamp for _, tick in heard[ms].ticks()} for ms in (0, 2_500))
    assert right.keys() == wrong.keys()
    assert len(right) > 3
    assert all(abs(wrong[number] - right[number] - 2_500_000_000) <= 2_000_000 for number in right)


def test_a_clock_drifts() -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("binance")
        await here.until(20)
        received = VirtualClock(asyncio.get_running_loop()).now  # type: ignore[arg-type]
        ahead = [tick.timestamp / 1e9 + here.now_s - at_s - received() / 1e9 for at_s, tick in heard.ticks()]
        first, last = heard.ticks()[0][0], heard.ticks()[-1][0]
        assert ahead[-1] - ahead[0] == pytest.approx((last - first) * 0.1, abs=0.3)
        await here.until(22)
        assert here.did("clock")[0] == "begins, for 21 s"
        assert int(here.did("clock")[1].removeprefix("ended: ")) > 30

    stage(table("clock", drift_ms_s=100, for_s=21), story)


# 12: symbols that are gone


@pytest.mark.parametrize(("feed", "symbol"), [("binance", "BTC/USDT"), ("coinbase", BTC), ("coinbase_exchange", "SKL/USD"), ("kucoin", "DAPPT/BTC")])  # fmt: skip
def test_a_batch_with_a_symbol_that_is_gone_is_turned_down_as_a_whole(feed: str, symbol: str) -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen(feed)
        await here.until(15)
        assert heard.events() == []
        said = json.dumps([document for _, document in heard.documents()])
        assert "error" in said
        assert "turns a subscription down" in here.did("delist")

    stage(table("delist", symbols=[symbol], how="error"), story, feed)


def test_a_symbol_that_is_gone_may_be_acknowledged_and_stay_silent() -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("coinbase")
        await here.until(10)
        assert {tick.symbol for _, tick in heard.ticks()} == {BTC}
        assert any(document["channel"] == "subscriptions" for _, document in heard.documents())

    stage(table("delist", symbols=[ETH], how="silent"), story, "coinbase")


@pytest.mark.parametrize("how", ["listed", "unlisted"])
@pytest.mark.parametrize("feed", ["binance", "coinbase", "coinbase_exchange", "kucoin"])
def test_a_product_list_says_which_symbol_is_gone(feed: str, how: str) -> None:
    from feeds.product_lists import parse as products
    from feeds.product_lists import products_url

    symbol = {"binance": "NKN/USDT", "coinbase": ETH, "coinbase_exchange": "NMR/EUR", "kucoin": "FET/BTC"}[feed]

    async def story(here: Setting) -> None:
        async with here.session.get(products_url(feed, f"http://{here.host}/{feed}")) as answer:
            found = {product.symbol: product.tradable for product in products(feed, await answer.read())}
        assert found.pop(symbol, None) is (False if how == "listed" else None)
        assert found
        assert all(found.values())

    stage(table("delist", symbols=[symbol], how=how), story, feed)


# 13: frames


@pytest.mark.parametrize("how", ["fragments", "binary", "empty"])
def test_frames_of_another_kind_hold_the_same_messages(how: str) -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("binance")
        await here.until(4)
        ids = heard.ids()
        truth = here.exchange.traded("binance", "BTC/USDT")
        assert ids == [number for number in truth if ids[0] <= number <= ids[-1]]
        assert len(ids) > 30
        kinds = {kind for _, kind, _ in heard.frames}
        assert (WSMsgType.BINARY in kinds) is (how == "binary")
        assert any(text == b"" for _, text in heard.texts()) is (how == "empty")

    stage(table("garble", how=how, share=0.5), story)


@pytest.mark.parametrize("how", ["cut", "nul"])
def test_broken_messages_are_no_json_and_those_around_them_are(how: str) -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("binance")
        await here.until(4)
        ids = heard.ids()
        assert heard.undecodable > 5
        assert len(ids) > 30
        assert heard.ended_s is None
        assert set(ids) < set(here.exchange.traded("binance", "BTC/USDT"))

    stage(table("garble", how=how, share=0.2), story)


@pytest.mark.parametrize(
    ("keys", "code"),
    [({"how": "utf8"}, 1007), ({"how": "oversize", "bytes": 17 << 20}, 1009), ({"how": "oversize"}, None)],
    ids=["utf8", "17 MiB", "5 MB"],
)
def test_invalid_utf8_and_what_is_too_large_end_the_connection_and_5_mb_do_not(
    keys: dict[str, Any], code: int | None
) -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("binance", ["BTCUSDT"])
        await here.until(5)
        assert heard.code == code
        if code is None:
            assert max(len(text) for _, text in heard.texts()) >= 5_000_000
            assert len(heard.ids()) > 30

    stage(table("garble", at_s=2, messages=1, **keys), story)


# 14: acknowledgements


def test_answers_come_late_or_never() -> None:
    async def story(here: Setting) -> None:
        connection = await here.dial("binance")
        await connection.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        with pytest.raises(TimeoutError):
            await connection.receive(timeout=5)

    async def later(here: Setting) -> None:
        connection = await here.dial("binance")
        for number in (1, 2):
            await connection.send_json({"method": "LIST_SUBSCRIPTIONS", "id": number})
        said = [(json.loads((await connection.receive()).data)["id"], here.now_s) for _ in range(2)]
        assert [number for number, _ in said] == [2, 1]
        assert [at_s for _, at_s in said] == pytest.approx([0, 3], abs=0.2)
        await connection.close()

    stage(table("ack"), story)
    stage(table("ack", delay_s=3, requests=1), later)


def test_streams_beyond_the_cap_are_acknowledged_and_silent() -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("binance", ["BTCUSDT"])  # its trades, then its quotes
        await here.until(4)
        assert any(document.get("id") == 1 for _, document in heard.documents())
        assert len(heard.ids()) > 30
        assert heard.quotes() == []
        assert here.did("cap")[1] == "1 of 2 streams are silent"

    stage(table("cap", streams=1), story)


# 15, 16: one symbol's gap, a quiet symbol


def test_the_next_messages_of_one_symbol_are_lost_for_all_clients() -> None:
    async def story(here: Setting) -> None:
        first, second = await here.listen("coinbase"), await here.listen("coinbase")
        await here.until(11)
        lost = [done for done in here.exchange.faults_done if done.detail.endswith("is lost")]
        assert {done.symbol for done in lost} == {BTC}
        truth = here.exchange.traded("coinbase", BTC)
        for heard in (first, second):
            ids = heard.ids(BTC)
            missing = {number for number in truth if ids[0] <= number <= ids[-1]} - set(ids)
            assert missing
            assert heard.ids(ETH) == [
                number
                for number in here.exchange.traded("coinbase", ETH)
                if number in range(heard.ids(ETH)[0], heard.ids(ETH)[-1] + 1)
            ]
        assert first.ids(BTC) == second.ids(BTC)
        counts = [document["sequence_num"] for _, document in first.documents()]
        assert len(counts) == counts[-1] + 1 - 2  # what was lost on the way is counted

    stage(table("gap", venue="coinbase", symbols=[BTC], messages=2, at_s=2), story, "coinbase")


def test_a_quiet_market_makes_no_trades_and_its_ids_go_on_without_a_gap() -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("coinbase")
        await here.until(11)
        assert between(heard.ticks(ETH), 2.1, 7)
        assert not [
            event
            for _, event in heard.events()
            if isinstance(event, Tick | Quote) and event.symbol == BTC and 2.1 < _ < 7
        ]
        beats = [at_s for at_s, document in heard.documents() if document["channel"] == "heartbeats"]
        assert len(between([(at_s, 0) for at_s in beats], 2, 7)) >= 4
        ids = heard.ids(BTC)
        assert between(heard.ticks(BTC), 7, 11)
        assert ids == list(range(ids[0], ids[-1] + 1))
        assert ids == [number for number in here.exchange.traded("coinbase", BTC) if ids[0] <= number <= ids[-1]]
        counts = [document["sequence_num"] for _, document in heard.documents()]
        assert counts == list(range(len(counts)))

    stage(table("quiet", symbols=[BTC], at_s=2, for_s=5), story, "coinbase")


# 17: the network


def test_in_a_black_hole_nothing_comes_nothing_is_heard_and_dials_hang() -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("binance")
        await here.until(3)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await here.dial("binance")
        await here.until(20)
        assert between(heard.events(), 0, 2)
        assert not between([(at_s, kind) for at_s, kind, _ in heard.frames], 2.1, 20)
        assert heard.ended_s is None
        await here.until(31)
        assert heard.ended_s == pytest.approx(30, abs=0.1)
        assert (await here.listen("binance")).ended_s is None

    stage(table("blackhole", at_s=2, for_s=28), story)


@pytest.mark.parametrize("status", [404, 429, 451, 503])
def test_a_dial_is_turned_away_with_a_status(status: int) -> None:
    async def story(here: Setting) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as upgrade:
            await here.dial("binance")
        assert upgrade.value.status == status
        with pytest.raises(aiohttp.ClientResponseError) as token:
            await here.dial("kucoin")
        assert token.value.status == status
        assert (await here.get("/binance/api/v3/time"))[0] == 200

    stage(table("refuse", status=status), story, "binance", "kucoin")


def test_a_dial_is_reset() -> None:
    async def story(here: Setting) -> None:
        with pytest.raises(aiohttp.ClientConnectionError):
            await here.dial("binance")

    stage(table("refuse", status=0), story)


# 18: novelties


@pytest.mark.parametrize("how", ["type", "field"])
@pytest.mark.parametrize("feed", ["binance", "coinbase", "coinbase_exchange", "kucoin"])
def test_what_nobody_knows_comes_in_between(feed: str, how: str) -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen(feed)
        await here.until(20)
        assert sum(b"nknown" in text for _, text in heard.texts()) >= 5
        assert len(heard.events()) > 10
        assert heard.undecodable == 0
        if feed == "coinbase":
            counts = [document["sequence_num"] for _, document in heard.documents()]
            assert counts == list(range(len(counts)))

    stage(table("unknown", how=how), story, feed)


# 19: REST


def test_history_is_behind() -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen("binance")
        await here.until(5)
        truth = here.exchange.traded("binance", "BTC/USDT")
        _, rows, _ = await here.get("/binance/api/v3/historicalTrades?symbol=BTCUSDT&limit=10")
        assert rows[-1]["id"] == truth[-31]
        assert heard.ids()[-1] > rows[-1]["id"]

    stage(table("rest", behind=30), story)


def test_history_is_broken_in_the_middle_slow_or_hangs() -> None:
    path = "/binance/api/v3/historicalTrades?symbol=BTCUSDT&limit=10"

    async def broken(here: Setting) -> None:
        assert [(await here.get(path))[0] for _ in range(4)] == [200, 500, 500, 200]

    async def limited(here: Setting) -> None:
        status, document, headers = await here.get(path)
        assert (status, document["code"], headers["Retry-After"]) == (429, -1003, "3")

    async def slow(here: Setting) -> None:
        assert (await here.get(path))[0] == 200
        assert here.now_s == pytest.approx(2, abs=0.1)

    async def hanging(here: Setting) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await here.get(path)

    stage(table("rest", status=500, after=1, requests=2), broken)
    stage(table("rest", status=429, retry_after_s=3), limited)
    stage(table("rest", delay_s=2), slow)
    stage(table("rest", hangs=True), hanging)


@pytest.mark.parametrize("feed", ["binance", "coinbase", "coinbase_exchange", "kucoin"])
def test_history_says_rows_twice(feed: str) -> None:
    path = {
        "binance": "/binance/api/v3/historicalTrades?symbol=BTCUSDT&limit=10",
        "coinbase": "/coinbase/api/v3/brokerage/market/products/BTC-USD/ticker?limit=10",
        "coinbase_exchange": "/coinbase_exchange/products/SKL-USD/trades?limit=10",
        "kucoin": "/kucoin/api/v1/market/histories?symbol=DAPPT-BTC",
    }[feed]

    async def story(here: Setting) -> None:
        await here.listen(feed)
        await here.until(25)
        _, document, _ = await here.get(path)
        rows = document if isinstance(document, list) else document.get("trades", document.get("data"))
        assert rows[:3] == rows[3:6]
        assert len(rows) > 6

    stage(table("rest", overlap=3), story, feed)


# 20: values


@pytest.mark.parametrize("how", ["price_zero", "size_negative", "crossed", "nan", "year_one"])
@pytest.mark.parametrize("feed", ["binance", "coinbase", "coinbase_exchange", "kucoin"])
def test_values_that_cannot_be_come_on_the_stream_and_never_from_history(feed: str, how: str) -> None:
    async def story(here: Setting) -> None:
        heard = await here.listen(feed)
        await here.until(20)
        ticks, quotes = [tick for _, tick in heard.ticks()], [quote for _, quote in heard.quotes()]
        assert here.did("bad")[1:]
        if how == "price_zero":
            assert any(tick.price == 0 for tick in ticks)
        elif how == "size_negative":
            assert any(tick.volume < 0 for tick in ticks)
        elif how == "crossed":
            assert any(quote.bid > quote.ask for quote in quotes)
        else:
            assert heard.undecodable > 0
        if feed == "binance":
            _, rows, _ = await here.get("/binance/api/v3/historicalTrades?symbol=BTCUSDT&limit=500")
            assert all(float(row["price"]) > 0 and float(row["qty"]) > 0 for row in rows)
            assert {row["id"] for row in rows} >= set(heard.ids()[-20:])

    stage(table("bad", how=how, share=0.5), story, feed)


# Of all


MIXTURE = "".join(
    [
        table("gap", share=0.05),
        table("repeat", share=0.05, last=3),
        table("shuffle", within_s=0.1, share=0.3),
        table("garble", how="fragments", share=0.1),
        table("bad", how="price_zero", share=0.05),
        table("unknown", share=0.05),
        table("mute", at_s=4, for_s=1, every_s=5, jitter_s=2),
        table("close", at_s=8, code=1001),
        table("clock", offset_ms=700, at_s=6, for_s=2),
    ]
)


def played(seed: int) -> tuple[list[Any], list[Any]]:
    """All that was done in a mixture, and all that two clients heard."""
    done: list[Any] = []
    frames: list[Any] = []

    async def story(here: Setting) -> None:
        heard = [await here.listen("binance"), await here.listen("coinbase")]
        await here.until(11)
        done.extend(here.exchange.faults_done)
        frames.extend(one.frames for one in heard)

    stage(MIXTURE, story, "binance", "coinbase", seed=seed)
    return done, frames


def test_equal_seeds_give_equal_faults_and_bytes_and_others_others() -> None:
    first, again, other = played(3), played(3), played(4)
    assert first == again
    assert len(first[0]) > 50
    assert other[0] != first[0]
    assert other[1] != first[1]


def test_what_was_done_is_said() -> None:
    async def story(here: Setting) -> None:
        await here.listen("binance")
        await here.until(3)
        _, document, _ = await here.get("/")
        faults = document["faults"]
        assert (faults["plan"], faults["seed"]) == ("the fault plan", 9)
        assert faults["counts"]["gap"] == len(here.did("gap"))
        assert faults["planned"][0]["kind"] == "gap"
        assert faults["planned"][0]["on"] is True
        assert faults["planned"][0]["treated"] > 5
        assert faults["newest"][-1]["detail"].endswith("is lost")
        assert len(faults["newest"]) <= 20

    stage(table("gap", share=0.5), story, seed=9)


def test_a_symbol_or_a_venue_that_is_not_served_is_told_at_the_start() -> None:
    async def story(here: Setting) -> None:
        assert here.exchange.faults_done[0].detail == "begins"

    with pytest.raises(
        ConfigError, match=r"fault 1 \(mute\): symbols = \['BTC/EUR'\]: 'BTC/EUR' is not served; there are .*BTC/USDT"
    ):
        stage(table("mute", symbols=["BTC/EUR"]), story)
    with pytest.raises(
        ConfigError,
        match=r"the fault plan: fault 2 \(gap\): venue = kucoin: not served, so it would never happen; there are binance$",
    ):
        stage(table("lag") + table("gap", venue="kucoin", symbols=["A/B"]), story)
    stage(table("mute", venue=["kucoin", "binance"], symbols=["BTC/USDT"]) + table("lag"), story)


def test_the_log_says_of_each_deed_which_fault_it_was_when_and_what_it_concerned() -> None:
    async def story(here: Setting) -> None:
        await here.until(13)

    plan = table("mute", venue="coinbase", symbols=[BTC], at_s=3, for_s=5) + table("lag", at_s=9.25, for_s=1)
    with structlog.testing.capture_logs() as logged:
        stage(plan, story, "binance", "coinbase")
    told = [
        (line["at_s"], line["fault"], line["number"], line["exchange"], line.get("symbol"))
        for line in logged
        if "fault" in line
    ]
    assert told == [
        (3.0, "mute", 1, "coinbase", BTC),
        (8.0, "mute", 1, "coinbase", BTC),
        (9.2, "lag", 2, "binance,coinbase", None),
        (10.2, "lag", 2, "binance,coinbase", None),
    ]


@pytest.mark.asyncio
async def test_on_real_sockets_and_without_a_plan() -> None:
    async with asyncio.timeout(30):
        plan = PreparedPlan(parse(table("gap", symbols=["BTC/USDT"], share=0.5)))
        for faults in (plan, None):
            exchange = Exchange([tape("binance")], speed=50.0, from_start=True, faults=faults)
            url = await exchange.start()
            try:
                async with (
                    aiohttp.ClientSession() as session,
                    session.ws_connect(f"{url}/ws/btcusdt@trade") as connection,
                ):
                    ids: list[int] = []
                    while len(ids) < 200:
                        ids.append(json.loads((await connection.receive()).data)["t"])
                missing = ids[-1] + 1 - ids[0] - len(ids)
                assert (missing > 50) if faults else (missing == 0)
                assert bool(exchange.faults_done) is bool(faults)
            finally:
                await exchange.stop()
