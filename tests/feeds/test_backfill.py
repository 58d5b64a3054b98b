"""Back-fill: what is missing is asked for over a real HTTP exchange (in virtual time), comes as history, or is declared lost."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from engine.block import IS_TRADE, Block, Keys
from engine.errors import FeedError
from engine.events import Event, FeedStatus, Tick
from engine.ingress import HIGHEST, LATE, TRADE, Ingress
from engine.trade_ids import TradeIds
from feeds.backfill import Backfill
from feeds.binance_rest import BinanceHistory
from feeds.coinbase_exchange_rest import CoinbaseExchangeHistory
from feeds.coinbase_rest import CoinbaseHistory
from feeds.history import HistoryProtocol
from feeds.kucoin_rest import KucoinHistory
from feeds.rest import Rest
from feeds.spans import Span, of_ids
from tests.virtual_time import VirtualClock, VirtualLoop, run

T = TypeVar("T")
SYMBOL = "BTC/USD"
SPELLING = {SYMBOL: "BTCUSD"}
NS_PER_S = 1_000_000_000
PORT = 8080
HOST = f"http://127.0.0.1:{PORT}"
EXCHANGES = ("binance", "binance aggregates", "coinbase", "coinbase_exchange")


def history_of(name: str) -> HistoryProtocol:
    match name:
        case "binance":
            return BinanceHistory(HOST, SPELLING)
        case "binance aggregates":
            return BinanceHistory(HOST, SPELLING, aggregates=True)
        case "coinbase":
            return CoinbaseHistory(HOST, SPELLING)
        case "coinbase_exchange":
            return CoinbaseExchangeHistory(HOST, SPELLING)
    return KucoinHistory(HOST, SPELLING)


class World:
    """An exchange with trades 1 to 5,000, ten a second, and an ingress that has heard some of them."""

    def __init__(self, loop: VirtualLoop, name: str, *, give_up_s: float = 60.0, requests: int = 100) -> None:
        self.clock = VirtualClock(loop)
        self.history = history_of(name)
        self.begin = self.clock.now() - 600 * NS_PER_S
        self.trades = dict.fromkeys(range(1, 5_001))
        self.asked: list[str] = []
        self.answers: list[web.Response] = []
        """Sent instead of the next ones."""
        self.ingress = Ingress(max_ahead_ns=10 * NS_PER_S, not_contiguous=("kucoin",))
        self.ingress.open([self.history.exchange])
        self.outcomes: dict[int, list[int]] = {}
        self.statuses: list[FeedStatus] = []
        self.ticks: list[Tick] = []
        self.defects: list[BaseException] = []
        self._requests, self._give_up_ns = requests, round(give_up_s * NS_PER_S)
        self.backfill = self.new_backfill()

    def new_backfill(self) -> Backfill:
        return Backfill(
            self.history, Rest(self.clock, self._requests, NS_PER_S), self, clock=self.clock, inbox=self,
            give_up_ns=self._give_up_ns, random=random.Random(1), on_defect=self.defects.append,
        )  # fmt: skip

    def time_of(self, trade_id: int) -> int:
        return self.begin + trade_id * NS_PER_S // 10

    # What feeds see of an ingress and its inbox

    is_full = False

    async def drained(self) -> None: ...

    def offer(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Tick):
                self.ticks.append(event)
                assert event.trade_id is not None
                self.take([event.trade_id], late=event.late, price=event.price)
            elif isinstance(event, FeedStatus):
                self.statuses.append(event)
                if event.status == "restarted":
                    self.ingress.begin_anew(0)
                if event.status == "lost" and event.first_id is not None and event.last_id is not None:
                    self.ingress.give_up(0, event.first_id, event.last_id)

    def missing(self, symbol: str) -> list[Span]:
        return self.ingress.missing(0)

    def newest_id(self, symbol: str) -> int | None:
        return self.ingress.state.item(0, HIGHEST)

    def skipped_below(self, symbol: str) -> int | None:
        keys = Keys()
        keys.code((self.history.exchange, symbol))
        return TradeIds(keys, self.ingress, self.history.exchange).skipped_below(symbol)

    def forgotten(self, symbol: str) -> int:
        return self.ingress.forgotten()

    def trades_folded(self, symbol: str) -> int:
        return self.ingress.counts.item(0, TRADE)

    def take(self, ids: Sequence[int], *, late: bool = False, price: float = 1.0) -> None:
        """Let the ingress take trades; say so to the back-fill where it finds a gap."""
        now = self.clock.now()
        columns = {name: np.zeros(len(ids)) for name in ("price", "volume", "ask", "ask_volume")}
        block = Block(
            key=np.zeros(len(ids), np.int32), kind=np.full(len(ids), IS_TRADE, np.uint8),
            timestamp=np.array([self.time_of(number) for number in ids], np.int64),
            received=np.full(len(ids), now, np.int64), side=np.zeros(len(ids), np.int8),
            trade_id=np.array(ids, np.int64), late=np.full(len(ids), late, np.uint8),
            **{**columns, "price": np.full(len(ids), price), "volume": np.ones(len(ids))},
        )  # fmt: skip
        admitted = self.ingress.admit(block)
        for number, outcome in zip(ids, admitted.outcome.tolist(), strict=True):
            self.outcomes.setdefault(number, []).append(outcome)
        for row, _, first, last, _, _ in admitted.gaps.tolist():
            self.backfill.gap(SYMBOL, first, last, self.time_of(ids[row]))

    # The exchange

    async def serve(self, request: web.Request) -> web.Response:
        self.asked.append(str(request.rel_url))
        if self.answers:
            return self.answers.pop(0)
        query = request.query
        limit = int(query.get("limit", "100"))
        if "fromId" in query:
            found = [number for number in self.trades if number >= int(query["fromId"])][:limit]
        elif "after" in query:
            found = [number for number in self.trades if number < int(query["after"])][: -limit - 1 : -1]
        elif "end" in query:
            span = int(query["start"]) * NS_PER_S, int(query["end"]) * NS_PER_S
            found = [number for number in self.trades if span[0] <= self.time_of(number) <= span[1]][: -limit - 1 : -1]
        else:
            found = list(self.trades)[: -limit - 1 : -1]
        return web.json_response(self.body(request.path, found))

    def body(self, path: str, found: list[int]) -> Any:
        if path.endswith("historicalTrades"):
            return [
                {
                    "id": number,
                    "price": "1.5",
                    "qty": "2",
                    "time": self.time_of(number) // 1_000_000,
                    "isBuyerMaker": True,
                }
                for number in found
            ]
        if path.endswith("aggTrades"):
            return [
                {"a": number, "p": "1.5", "q": "2", "T": self.time_of(number) // 1_000_000, "m": True}
                for number in found
            ]
        if path.endswith("histories"):
            rows = [
                {"sequence": str(number), "price": "1.5", "size": "2", "side": "sell", "time": self.time_of(number)}
                for number in found
            ]
            return {"code": "200000", "data": rows}
        upper = path.endswith("ticker")
        rows = [
            {
                "trade_id": str(number) if upper else number, "price": "1.5", "size": "2", "side": "BUY" if upper else "buy",
                "time": datetime.fromtimestamp(self.time_of(number) / NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            }
            for number in found
        ]  # fmt: skip
        return {"trades": rows} if upper else rows

    # What became of it

    def said(self, status: str) -> list[Span]:
        """The ids that were reported so, none of them twice, as spans."""
        spans = sorted((one.first_id, one.last_id) for one in self.statuses if one.status == status)
        joined: list[Span] = []
        for first, last in spans:
            assert first is not None
            assert last is not None
            assert not joined or joined[-1][1] < first, f"{status} was said twice of {first}"
            if joined and joined[-1][1] == first - 1:
                joined[-1] = joined[-1][0], last
            else:
                joined.append((first, last))
        return joined

    def folded(self, outcome: int) -> list[Span]:
        return of_ids(number for number, outcomes in self.outcomes.items() if outcome in outcomes)

    async def until(self, condition: Callable[[], bool], within_s: float = 300.0) -> None:
        end = self.clock.now() + round(within_s * NS_PER_S)
        while not condition():
            assert self.clock.now() < end, (self.statuses, self.asked)
            assert not self.defects, self.defects
            await asyncio.sleep(0.05)


def play(name: str, story: Callable[[World], Awaitable[None]], **settings: Any) -> World:
    """Run a story against an exchange in virtual time."""

    async def main(loop: VirtualLoop) -> World:
        world = World(loop, name, **settings)
        application = web.Application()

        async def serve(request: web.Request) -> web.Response:
            return await world.serve(request)

        application.router.add_get("/{path:.*}", serve)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", PORT).start()
        try:
            async with aiohttp.ClientSession() as session:
                world.backfill.start(session)
                await story(world)
                await world.backfill.stop()
        finally:
            await runner.cleanup()
        assert not world.defects
        return world

    return run(main)


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_gap_is_filled_as_history_and_said_once(name: str) -> None:
    async def story(world: World) -> None:
        world.take([100, 101])
        world.take([110])
        await world.until(lambda: bool(world.said("filled")))

    world = play(name, story)
    assert world.said("gap") == [(102, 109)]
    assert world.said("filled") == [(102, 109)]
    assert not world.said("lost")
    assert world.folded(LATE) == [(102, 109)]
    assert world.folded(TRADE) == [(100, 101), (110, 110)]
    first = world.ticks[0]
    assert (first.exchange, first.symbol, first.price, first.volume) == (world.history.exchange, SYMBOL, 1.5, 2.0)
    assert first.side == "sell"
    assert first.late
    assert abs(first.timestamp - world.time_of(first.trade_id or 0)) < 1_000_000


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_gap_of_thousands_is_filled_page_by_page(name: str) -> None:
    async def story(world: World) -> None:
        world.take([1, 4_800])
        await world.until(lambda: world.said("filled") == [(2, 4_799)])

    world = play(name, story)
    assert world.said("filled") == [(2, 4_799)]
    assert world.folded(LATE) == [(2, 4_799)]
    assert 5 <= len(world.asked) <= 12


@pytest.mark.parametrize("begin_ns", [0, 1, 500_000_000, 999_999_999])
@pytest.mark.parametrize("per_s", [600, 980])
def test_seconds_with_nearly_as_many_trades_as_a_page_are_got_behind(per_s: int, begin_ns: int) -> None:
    # Coinbase Advanced is asked by whole seconds, and answers with the newest 1,000 before their end.
    async def story(world: World) -> None:
        begin = world.begin // NS_PER_S * NS_PER_S + begin_ns
        world.time_of = lambda trade_id: begin + trade_id * NS_PER_S // per_s  # type: ignore[method-assign]
        world.take([99, 101, 3_000])
        await world.until(lambda: world.ingress.missing(0) == [], 30.0)
        await world.until(lambda: len(world.said("filled")) == 2, 30.0)

    world = play("coinbase", story)
    assert sorted(world.said("filled")) == [(100, 100), (102, 2_999)]
    assert not world.said("lost")
    assert len(world.asked) <= 20


def test_a_second_with_more_trades_than_a_page_is_asked_for_until_it_is_given_up() -> None:
    async def story(world: World) -> None:
        begin = world.begin // NS_PER_S * NS_PER_S
        world.time_of = lambda trade_id: begin + trade_id * NS_PER_S // 2_000  # type: ignore[method-assign]
        world.take([99, 101])
        await world.until(lambda: bool(world.said("lost")))

    world = play("coinbase", story, give_up_s=20.0)
    assert world.said("lost") == [(100, 100)]
    assert "not to be had within 20 s" in world.statuses[-1].detail
    assert len(world.asked) <= 40


@pytest.mark.parametrize("name", EXCHANGES)
def test_ids_that_do_not_exist_are_lost_once_two_answers_have_shown_it(name: str) -> None:
    async def story(world: World) -> None:
        for number in (105, 106):
            del world.trades[number]
        world.take([100, 110])
        await world.until(lambda: bool(world.said("lost")))

    world = play(name, story)
    assert world.said("lost") == [(105, 106)]
    assert world.said("filled") == [(101, 104), (107, 109)]
    assert not world.ingress.missing(0)
    assert "no such trade" in world.statuses[-1].detail


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_jump_of_the_ids_is_declared_lost_soon(name: str) -> None:
    async def story(world: World) -> None:
        world.trades = dict.fromkeys([*range(90, 101), *range(1_000_000_100, 1_000_000_110)])
        world.time_of = lambda trade_id: world.begin + trade_id % 1_000 * NS_PER_S  # type: ignore[method-assign]
        world.take([100, 1_000_000_100])
        await world.until(lambda: bool(world.said("lost")), 30.0)

    world = play(name, story)
    assert world.said("lost") == [(101, 1_000_000_099)]
    assert not world.said("filled")


@pytest.mark.parametrize("name", EXCHANGES)
def test_an_exchange_that_is_behind_is_asked_again(name: str) -> None:
    async def story(world: World) -> None:
        kept = dict(world.trades)
        world.trades = dict.fromkeys(range(1, 104))
        world.take([100, 110])
        await world.until(lambda: len(world.asked) > 2)
        assert world.said("filled") == [(101, 103)]
        world.trades = kept
        await world.until(lambda: world.said("filled") == [(101, 109)])

    world = play(name, story)
    assert world.said("filled") == [(101, 109)]
    assert not world.said("lost")


def test_what_is_not_to_be_had_in_time_is_lost_and_says_why() -> None:
    async def story(world: World) -> None:
        world.answers = [web.Response(status=503, text="maintenance") for _ in range(100)]
        world.take([100, 110])
        await world.until(lambda: bool(world.said("lost")))

    world = play("binance", story, give_up_s=20.0)
    assert world.said("lost") == [(101, 109)]
    assert "20 s" in world.statuses[-1].detail
    assert "expected 200, came 503 Service Unavailable: maintenance" in world.statuses[-1].detail
    assert 3 <= len(world.asked) <= 10


def test_a_retry_after_is_obeyed_by_all_requests() -> None:
    times: list[int] = []

    async def story(world: World) -> None:
        world.answers = [web.Response(status=429, headers={"Retry-After": "7"}, text="slow down")]
        began = world.clock.now()
        world.take([100, 110, 120])
        await world.until(lambda: len(world.said("filled")) == 2)
        times.append(world.clock.now() - began)

    world = play("binance", story)
    assert times[0] >= 7 * NS_PER_S
    assert len(world.asked) == 3
    assert [one.symbol for one in world.statuses if one.status == "rate_limited"] == [SYMBOL]
    assert not world.said("lost")


def test_requests_keep_the_limit_in_every_span_of_time() -> None:
    at: list[float] = []

    async def story(world: World) -> None:
        serve = world.serve

        async def timed(request: web.Request) -> web.Response:
            at.append(world.clock.now() / NS_PER_S)
            return await serve(request)

        world.serve = timed  # type: ignore[method-assign]
        world.take(list(range(100, 200, 2)))
        await world.until(lambda: len(world.said("filled")) == 49)

    play("binance", story, requests=3)
    assert len(at) == 49
    assert all(later - earlier >= 1.0 for earlier, later in zip(at, at[3:], strict=False))


def test_trades_that_come_by_the_stream_meanwhile_count_as_filled() -> None:
    async def story(world: World) -> None:
        world.answers = [web.Response(status=503) for _ in range(3)]
        world.take([100, 110])
        await world.until(lambda: len(world.asked) == 2)
        world.take(list(range(101, 110)))
        await world.until(lambda: bool(world.said("filled")))

    world = play("binance", story)
    assert world.said("filled") == [(101, 109)]
    assert not world.ticks


def test_an_answer_that_is_none_says_what_was_expected_and_what_came() -> None:
    with pytest.raises(FeedError, match=r"binance: expected a list of trades, came '<html>maintenance'"):
        BinanceHistory(HOST, SPELLING).read(SYMBOL, b"<html>maintenance", 0)
    with pytest.raises(
        FeedError, match=r"kucoin: expected an object with code \"200000\" and data.*code 429000 too many"
    ):
        KucoinHistory(HOST, SPELLING).read(SYMBOL, b'{"code":"429000","msg":"too many requests"}', 0)


@pytest.mark.parametrize(
    ("name", "time", "said"),
    [
        ("binance", -1, "Expected `int` >= 0"),
        ("binance", 9_223_372_036_855, "time 9223372036855 is neither ms nor us"),
        ("binance", 999_999_999_999_999, "is neither ms nor us"),
        ("binance", 2**63 // 1_000 + 1, "Expected `int` <= 9223372036854775"),
        ("binance aggregates", 9_223_372_036_855, "time 9223372036855 is neither ms nor us"),
        ("kucoin", -1, "Expected `int` >= 0"),
        ("kucoin", 2**63, "Expected `int` <= 9223372036854775807"),
        ("coinbase", "2262-01-01T00:00:00Z", "expected RFC 3339 in UTC from 1970 to 2261"),
        ("coinbase_exchange", "0001-01-01T00:00:00Z", "expected RFC 3339 in UTC from 1970 to 2261"),
    ],
)
def test_an_answer_with_a_time_that_no_clock_can_show_says_so(name: str, time: int | str, said: str) -> None:
    with pytest.raises(FeedError, match=f"expected .*, came .*{time}.*{said}"):
        history_of(name).read(SYMBOL, an_answer(name, time), 0)


@pytest.mark.parametrize(
    ("name", "time", "ns"),
    [
        ("binance", 9_223_372_036_854, 9_223_372_036_854_000_000),
        ("binance", 1_700_000_000_000, 1_700_000_000_000_000_000),
        ("binance", 1_700_000_000_000_001, 1_700_000_000_000_001_000),
        ("binance aggregates", 9_223_372_036_854_775, 9_223_372_036_854_775_000),
        ("kucoin", 2**63 - 1, 2**63 - 1),
        ("kucoin", 0, 0),
        ("coinbase", "2261-12-31T23:59:59.999999999Z", 9_214_646_399_999_999_999),
    ],
)
def test_times_of_history_are_read_in_the_unit_they_are_in(name: str, time: int | str, ns: int) -> None:
    assert history_of(name).read(SYMBOL, an_answer(name, time), 0).ticks[0].timestamp == ns


def an_answer(name: str, time: int | str) -> bytes:
    """An answer with one trade of this time."""
    trade = {"price": "1", "time": time}
    match name:
        case "binance":
            return json.dumps([{**trade, "id": 7, "qty": "2", "isBuyerMaker": True}]).encode()
        case "binance aggregates":
            return json.dumps([{"a": 7, "p": "1", "q": "2", "T": time, "m": True}]).encode()
        case "coinbase":
            return json.dumps({"trades": [{**trade, "trade_id": "7", "size": "2", "side": "BUY"}]}).encode()
        case "coinbase_exchange":
            return json.dumps([{**trade, "trade_id": 7, "size": "2", "side": "buy"}]).encode()
    return json.dumps({"code": "200000", "data": [{**trade, "sequence": "7", "size": "2", "side": "buy"}]}).encode()


def test_kucoin_looks_at_its_newest_trades_after_a_reconnect() -> None:
    async def story(world: World) -> None:
        world.trades = dict.fromkeys(range(3, 3_000, 7))
        world.take([2_803, 2_810])
        world.backfill.gap(SYMBOL, 1, 2, 0)  # proves nothing here, and is not asked for
        world.backfill.reconnected([SYMBOL], world.time_of(2_810))
        await world.until(lambda: bool(world.ticks))

    world = play("kucoin", story)
    assert len(world.asked) == 1
    assert not world.statuses
    newest = list(range(3, 3_000, 7))[-100:]
    assert world.folded(LATE) == of_ids(number for number in newest if number not in (2_803, 2_810))


def test_kucoin_says_that_trades_may_be_lost_where_its_newest_do_not_reach_back() -> None:
    async def story(world: World) -> None:
        world.take([100, 110])
        world.backfill.reconnected([SYMBOL], world.time_of(110))
        await world.until(lambda: bool(world.statuses))

    world = play("kucoin", story)
    assert [one.status for one in world.statuses] == ["lost"]
    assert (world.statuses[0].first_id, world.statuses[0].last_id) == (None, None)
    assert "between 110 and trade 4901 may be lost, which cannot be proved" in world.statuses[0].detail


@pytest.mark.parametrize("name", EXCHANGES)
def test_what_history_has_skipped_is_asked_for_once_and_before_the_next_trade_shows_it(name: str) -> None:
    async def story(world: World) -> None:
        world.trades = dict.fromkeys(range(1, 106))
        world.take([100])
        world.backfill.look([SYMBOL], {})
        world.take([105], late=True)  # such as a last_match at the subscription
        world.backfill.look([SYMBOL], {})
        assert not world.asked
        world.backfill.look([SYMBOL], {})
        await world.until(lambda: len(world.ticks) >= 4)
        for _ in range(3):
            world.backfill.look([SYMBOL], {})
        await asyncio.sleep(60)

    world = play(name, story)
    assert len(world.asked) == 1
    assert world.folded(LATE)[-1] == (101, 105)
    assert not world.statuses


@pytest.mark.parametrize("name", ["coinbase_exchange", "coinbase"])
def test_a_newest_trade_that_never_came_is_asked_for(name: str) -> None:
    async def story(world: World) -> None:
        world.trades = dict.fromkeys(range(1, 106))
        world.take([100, 101])
        world.backfill.reached(SYMBOL, 101)
        world.backfill.reached(SYMBOL, 105)
        world.backfill.reached(SYMBOL, 105)
        await world.until(lambda: bool(world.ticks))
        world.backfill.reached(SYMBOL, 105)
        world.take([106])
        await world.until(lambda: bool(world.said("filled")))

    world = play(name, story)
    assert world.folded(LATE) == [(1, 99), (102, 105)] or world.folded(LATE) == [(6, 99), (102, 105)]
    assert world.said("gap") == [(102, 105)]
    assert world.said("filled") == [(102, 105)]
    assert len(world.asked) == 1


def test_a_restart_asks_for_what_was_missing_and_says_it_once() -> None:
    async def story(world: World) -> None:
        world.backfill.gap = lambda *_: None  # type: ignore[method-assign]  # heard by an earlier run
        world.take([100, 110])
        world.backfill.resume([SYMBOL])
        world.backfill.resume([SYMBOL])
        await world.until(lambda: bool(world.said("filled")))
        world.backfill.resume([SYMBOL])
        await asyncio.sleep(5.0)

    world = play("binance", story)
    assert world.said("filled") == [(101, 109)]
    assert not world.said("gap")


def test_ids_that_begin_anew_end_what_is_asked_for_and_begin_a_new_count() -> None:
    async def story(world: World) -> None:
        world.answers = [web.Response(status=503) for _ in range(100)]
        world.take([4_000, 4_010])
        for number in range(1, 20):
            now = world.clock.now()
            tick = Tick(world.history.exchange, SYMBOL, 1.0, 1.0, "buy", now, now, number)
            world.offer([tick])
            world.backfill.look([SYMBOL], {SYMBOL: tick})
            await asyncio.sleep(1.0)

    world = play("binance", story)
    assert [one.status for one in world.statuses] == ["gap", "lost", "restarted"]
    assert world.said("lost") == [(4_001, 4_009)]
    first_folded = next(number for number in range(1, 20) if TRADE in world.outcomes[number])
    assert 5 <= first_folded <= 8
    assert world.folded(TRADE) == [(first_folded, 19), (4_000, 4_000), (4_010, 4_010)]


def test_what_the_ingress_refuses_did_not_come() -> None:
    async def story(world: World) -> None:
        rows = [
            {"id": number, "price": "0" if number == 102 else "1.5", "qty": "2", "time": 1, "isBuyerMaker": True}
            for number in range(101, 105)
        ]
        world.answers = [web.json_response(rows)]
        world.take([100, 104])
        await world.until(lambda: bool(world.said("lost")))

    world = play("binance", story)
    assert world.said("filled") == [(101, 101), (103, 103)]
    assert world.said("lost") == [(102, 102)]
    assert "was refused" in world.statuses[-1].detail


def test_a_stop_in_the_middle_leaves_the_rest_to_the_next_run() -> None:
    async def story(world: World) -> None:
        world.answers = []
        world.take([1, 4_800])
        await world.until(lambda: len(world.asked) == 2)
        await world.backfill.stop()
        said = world.said("filled")
        assert world.missing(SYMBOL) == [(said[0][1] + 1, 4_799)]
        async with aiohttp.ClientSession() as session:
            world.backfill = world.new_backfill()
            world.backfill.resume([SYMBOL])
            world.backfill.start(session)
            await world.until(lambda: world.said("filled") == [(2, 4_799)])
            await world.backfill.stop()

    assert not play("binance", story, requests=1).said("lost")


def test_spans_that_the_ingress_had_to_forget_are_lost() -> None:
    async def story(world: World) -> None:
        world.trades = dict.fromkeys(range(1, 601, 2))
        world.take(list(range(1, 602, 2)))  # 300 gaps in one turn
        await world.until(lambda: len(world.said("lost")) == 300)

    world = play("binance", story)
    assert not world.said("filled")
    assert sum("too many" in one.detail for one in world.statuses) == 300 - 128


def test_a_burst_of_more_than_a_page_in_a_second_is_stepped_over() -> None:
    async def story(world: World) -> None:
        world.trades = dict.fromkeys(range(1, 4_001))
        world.time_of = lambda trade_id: world.begin + (trade_id if trade_id < 1_000 else 1_000) * NS_PER_S // 10  # type: ignore[method-assign]
        world.take([100, 102])
        world.backfill._jobs[0].until_ns = world.backfill._jobs[0]._first_until_ns = world.time_of(4_000)
        await world.until(lambda: bool(world.said("filled")), 50.0)

    assert play("coinbase", story).said("filled") == [(101, 101)]


def test_a_stop_ends_a_request_that_is_under_way() -> None:
    async def story(world: World) -> None:
        async def slowly(request: web.Request) -> web.Response:
            await asyncio.sleep(30.0)
            return web.Response()

        world.serve = slowly  # type: ignore[method-assign]
        world.take([100, 110])
        await asyncio.sleep(1.0)

    world = play("binance", story)
    assert world.ingress.missing(0) == [(101, 109)]
    assert world.backfill.health().open == 1
