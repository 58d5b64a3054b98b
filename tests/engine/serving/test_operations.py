from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from engine.errors import ConfigError, JournalError
from engine.events import FeedStatus, Gap
from engine.serving.bulletin import LASTING_NS
from engine.serving.metrics import LinkTotals
from engine.serving.server import Server, serve
from tests.folding import BTC, ETH, START, VIEWS, failing, listener, trade
from tests.serving import FEED, Daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


@pytest_asyncio.fixture
async def server(daemon: Daemon) -> AsyncIterator[Server]:
    server = await serve(daemon)
    yield server
    await server.stop()


async def get(server: Server, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(server.url + path) as got:
        assert got.status == 200
        return await got.json()


async def command(server: Server, body: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {server.token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{server.url}/commands", json=body) as got,
    ):
        return got.status, await got.json()


async def metrics(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/metrics") as got:
        assert got.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await got.text()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# /health ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_health_gives_the_digests_at_its_sequence(daemon: Daemon, server: Server) -> None:
    daemon.push_recorded()
    found = await get(server, "/health")
    expected = {name: digests.hexdigest() for name, digests in daemon.fold.digests.items()}
    assert found["digest"] == expected
    assert found["sequence"] == found["live_sequence"] == daemon.fold.sequence() > 0
    assert found["status"] == "ok"
    assert found["reasons"] == []
    assert found["version"] == daemon.version
    assert 0.0 < found["uptime_s"] < 600.0
    assert found["memory_bytes"] > 10 << 20
    assert found["latency_ns"] == {"p50": 25_000.0, "p99": 25_000.0, "max": 25_000, "count": 100}


@pytest.mark.asyncio
async def test_health_tells_of_each_part(daemon: Daemon, server: Server) -> None:
    daemon.push_recorded()
    parts = (await get(server, "/health"))["parts"]
    assert parts["feeds"] == [json.loads(msgspec.json.encode(daemon.feed))]
    assert parts["journal"]["state"] == "journaling"
    assert parts["snapshots"]["sequence"] == 5
    assert parts["loop"]["holds"][0]["held_ns"] == 60_000_000
    told = {strategy["name"]: strategy for strategy in parts["strategies"]}
    assert told.keys() == {"moving_average_cross", "order_flow_imbalance"}
    flow = told["order_flow_imbalance"]
    assert (flow["state"], flow["failures"], flow["last_error"]) == ("listening", 0, None)
    assert flow["signals"] > 0
    assert flow["last_signal"]["strategy"] == "order_flow_imbalance"


@pytest.mark.asyncio
async def test_health_names_no_folder_of_this_machine(daemon: Daemon, server: Server, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/health") as got:
        assert str(tmp_path) not in await got.text()


@pytest.mark.asyncio
async def test_health_is_degraded_with_the_reasons_and_still_200(daemon: Daemon, server: Server) -> None:
    daemon.feed = msgspec.structs.replace(daemon.feed, state="waiting")
    daemon.journal_state = msgspec.structs.replace(daemon.journal_state, state="not journaling", detail="disk full")
    assert (await command(server, {"verb": "park", "target": "moving_average_cross"}))[0] == 200
    found = await get(server, "/health")
    assert found["status"] == "degraded"
    assert found["reasons"] == [
        "feed binance 1 is waiting",
        "inputs are not journaled",
        "strategy moving_average_cross is parked",
    ]


@pytest.mark.asyncio
async def test_while_it_starts_health_says_so_and_ready_is_503_with_the_reason(daemon: Daemon, server: Server) -> None:
    daemon.not_ready = "folding the journal: 40 %"
    assert (await get(server, "/health"))["status"] == "starting"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{server.url}/ready") as got:
            assert got.status == 503
            assert (await got.json())["error"]["message"] == "folding the journal: 40 %"
        assert (await command(server, {"verb": "snapshot"}))[0] == 503
        daemon.not_ready = ""
        async with session.get(f"{server.url}/ready") as got:
            assert (got.status, (await got.json())["ready"]) == (200, True)


@pytest.mark.asyncio
async def test_a_strategy_that_fails_is_told_of_without_its_traceback(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, listener("quick", name="broken", answer=failing), views=VIEWS)
    server = await serve(daemon)
    try:
        daemon.push(*(trade(at=number, trade_id=number) for number in range(6)))
        async with aiohttp.ClientSession() as session, session.get(f"{server.url}/health") as got:
            text = await got.text()
        assert "Traceback" not in text
        assert __file__ not in text
        (told,) = json.loads(text)["parts"]["strategies"]
        assert (told["state"], told["failures"]) == ("parked", 5)
        assert told["last_error"]["error"] == "ValueError: cannot stand FeatureEvent"
        found = await metrics(server)
        assert found["tickfold_handler_failures_total", (("strategy", "broken"),)] == 5.0
        assert found["tickfold_strategy_listening", (("strategy", "broken"),)] == 0.0
    finally:
        await server.stop()


# /features, /models -----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_features_lists_the_views_and_the_keys_that_have_values(daemon: Daemon, server: Server) -> None:
    assert (await get(server, "/features"))["keys"] == []
    daemon.push_recorded()
    found = await get(server, "/features")
    views = {view["name"]: view for view in found["views"]}
    assert list(views) == ["market", "technical", "technical_1s", "technical_1m", "derived"]
    assert views["technical"]["features"][:3] == ["rsi_14", "rsi_21", "rsi_50"]
    assert (views["technical"]["version"], views["technical"]["clock"]) == ("1.0.0", "tick")
    ok = {"status": "ok", "detail": "", "since": None}
    assert {"exchange": "binance", "symbol": "BTC/USDT", "feed": ok} in found["keys"]
    assert await get(server, "/models") == []


@pytest.mark.asyncio
async def test_features_say_whether_their_feed_is_well(daemon: Daemon, server: Server) -> None:
    async def feeds() -> dict[str, tuple[str, str]]:
        keys = (await get(server, "/features"))["keys"]
        return {key["symbol"]: (key["feed"]["status"], key["feed"]["detail"]) for key in keys}

    daemon.push(trade(BTC, at=0), trade(ETH, at=1))
    daemon.fold.input(FeedStatus(*BTC, "stalled", "silent for 2.1 s", 1, 1))
    assert await feeds() == {"BTC/USDT": ("stalled", "silent for 2.1 s"), "ETH/USDT": ("ok", "")}
    daemon.fold.input(FeedStatus(BTC[0], "", "disconnected", "closed with 1006", 2, 2))
    assert await feeds() == {
        "BTC/USDT": ("stalled", "silent for 2.1 s"),
        "ETH/USDT": ("disconnected", "closed with 1006"),
    }
    daemon.fold.input(FeedStatus(BTC[0], "", "connected", "", 3, 3))
    daemon.fold.input(FeedStatus(*BTC, "recovered", "", 4, 4))
    assert await feeds() == {"BTC/USDT": ("ok", ""), "ETH/USDT": ("ok", "")}


@pytest.mark.asyncio
async def test_metrics_count_what_feeds_say_and_what_became_of_gaps(daemon: Daemon, server: Server) -> None:
    daemon.push(trade(BTC, at=0, trade_id=1), trade(BTC, at=1, trade_id=9))
    daemon.fold.input(FeedStatus(*BTC, "filled", "", 1, 1, 0, 2, 6))
    daemon.fold.input(FeedStatus(*BTC, "lost", "", 2, 2, 0, 7, 8))
    daemon.fold.input(FeedStatus(*BTC, "lost", "not to be proved", 3, 3))
    daemon.fold.input(FeedStatus(*BTC, "stalled", "", 4, 4))
    found = await metrics(server)
    key = (("exchange", BTC[0]), ("symbol", BTC[1]))
    assert found["tickfold_missing_trades_total", key] == 7.0
    assert found["tickfold_filled_trades_total", key] == 5.0
    assert found["tickfold_lost_trades_total", key] == 2.0
    assert found["tickfold_feed_statuses_total", (("exchange", BTC[0]), ("status", "lost"))] == 2.0
    assert found["tickfold_symbol_stalled", key] == 1.0


# /metrics ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_metrics_count_what_the_fold_did_key_by_key(daemon: Daemon, server: Server) -> None:
    daemon.push(
        trade(at=0, trade_id=1),
        trade(at=1, trade_id=2),
        trade(at=1, trade_id=2),
        trade(at=2, trade_id=6),
        trade(at=3, trade_id=4),
        trade(at=4, price=float("nan"), trade_id=7),
    )
    found = await metrics(server)
    key = (("exchange", "x"), ("symbol", "BTC/USDT"))

    def rows(outcome: str) -> float:
        return found["tickfold_rows_total", (("exchange", "x"), ("outcome", outcome), ("symbol", "BTC/USDT"))]

    assert [rows(outcome) for outcome in ("trades", "quotes", "late", "duplicates")] == [3.0, 0.0, 1.0, 1.0]
    assert found["tickfold_refused_total", (("exchange", "x"), ("reason", "bad price"), ("symbol", "BTC/USDT"))] == 1.0
    assert found["tickfold_gaps_total", key] == 1.0
    assert found["tickfold_missing_trades_total", key] == 3.0
    assert found["tickfold_folded_total", ()] == 4.0
    assert found["tickfold_sequence", ()] == float(daemon.fold.sequence())


@pytest.mark.asyncio
async def test_metrics_tell_of_feeds_journal_snapshot_and_loop(daemon: Daemon, server: Server) -> None:
    found = await metrics(server)
    feed = (("exchange", "binance"),)
    assert found["tickfold_feed_messages_total", feed] == 6_000.0
    assert found["tickfold_feed_reconnects_total", feed] == 2.0
    states = {dict(labels)["state"]: value for (name, labels), value in found.items() if name == "tickfold_feed_state"}
    assert [state for state, value in states.items() if value] == ["live"]
    assert found["tickfold_journal_unsynced_inputs", ()] == 2.0
    assert found["tickfold_journal_written_bytes_total", ()] == 4_096.0
    assert found["tickfold_snapshot_bytes", ()] == 1_000.0
    assert 0.0 <= found["tickfold_snapshot_age_seconds", ()] < 600.0
    assert found["tickfold_loop_hold_longest_seconds", ()] == 0.06
    assert found["tickfold_resident_memory_bytes", ()] > 10 << 20


@pytest.mark.asyncio
async def test_counters_of_feeds_go_on_where_one_connection_takes_over_from_another(
    daemon: Daemon, server: Server
) -> None:
    names = [f"tickfold_feed_{name}_total" for name in ("messages", "undecodable", "reconnects")]

    async def counted(**changes: Any) -> list[float]:
        daemon.feed = msgspec.structs.replace(daemon.feed, **changes)
        found = await metrics(server)
        assert [labels for name, labels in found if name in names] == [(("exchange", "binance"),)] * 3
        return [found[name, (("exchange", "binance"),)] for name in names]

    assert await counted() == [6_000.0, 1.0, 2.0]
    assert await counted(name="binance 2", messages=5, undecodable=0, reconnects=0) == [6_005.0, 1.0, 2.0]
    assert await counted(messages=9) == [6_009.0, 1.0, 2.0]
    assert await counted(messages=1) == [6_010.0, 1.0, 2.0]  # another of that name


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=3), max_size=8))
def test_totals_of_connections_never_fall(looks: list[dict[str, int]]) -> None:
    links, before = LinkTotals(), 0
    for look in looks:
        feeds = [
            msgspec.structs.replace(FEED, name=name, messages=count, undecodable=0, reconnects=0)
            for name, count in look.items()
        ]
        total = links.totals(feeds).get("binance", (0, 0, 0))[0]
        assert total >= max(before, sum(look.values()))
        before = total


@pytest.mark.asyncio
async def test_health_names_symbols_that_the_product_list_does_not_have(daemon: Daemon, server: Server) -> None:
    symbols = tuple(f"NO{number}/USDT" for number in range(12))
    daemon.exchange = msgspec.structs.replace(daemon.exchange, unlisted=symbols)
    found = await get(server, "/health")
    assert found["status"] == "degraded"
    assert found["reasons"] == [
        *(f"{symbol} is not in the product list of binance" for symbol in symbols[:10]),
        "2 more symbols are not in the product list of binance",
    ]


@pytest.mark.asyncio
async def test_a_trouble_of_an_exchange_degrades_health_only_when_it_lasts(daemon: Daemon, server: Server) -> None:
    quiet = daemon.exchange
    hurt = msgspec.structs.replace(quiet, backfill_trouble="HTTP 503", products_trouble="HTTP 500")
    now = daemon.set_clock.stands_at = daemon.clock.now()
    for at, exchange, reasons in (
        (0, hurt, []),
        (LASTING_NS - 1, hurt, []),
        (
            LASTING_NS,
            hurt,
            [
                "the product list of binance is in trouble: HTTP 500",
                "the back-fill of binance is in trouble: HTTP 503",
            ],
        ),
        (LASTING_NS + 1, quiet, []),
        (LASTING_NS + 2, hurt, []),
    ):
        daemon.exchange, daemon.set_clock.stands_at = exchange, now + at
        assert (await get(server, "/health"))["reasons"] == reasons


@pytest.mark.asyncio
async def test_the_latency_is_a_histogram_whose_buckets_hold_what_lies_below_them(
    daemon: Daemon, server: Server
) -> None:
    durations = [1, 900, 1_023, 1_024, 5_000, 70_000, 3_000_000, 40_000_000_000]
    for duration in durations:
        daemon.latency.add(duration)
    found = await metrics(server)
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in found.items()
        if name == "tickfold_latency_seconds_bucket"
    }
    for bound, count in buckets.items():
        below = [duration for duration in durations if bound == "+Inf" or duration < round(float(bound) * 1e9)]
        assert count == len(below), bound
    assert found["tickfold_latency_seconds_count", ()] == len(durations)
    assert found["tickfold_latency_seconds_sum", ()] == pytest.approx(sum(durations) / 1e9)


@pytest.mark.asyncio
async def test_requests_are_counted_by_route_and_status(server: Server) -> None:
    await get(server, "/health")
    await get(server, "/health")
    async with aiohttp.ClientSession() as session:
        for number in range(3):
            await session.get(f"{server.url}/no/{number}")
    found = await metrics(server)
    assert found["tickfold_http_requests_total", (("route", "/health"), ("status", "200"))] == 2.0
    assert found["tickfold_http_requests_total", (("route", "none"), ("status", "404"))] == 3.0


# /commands --------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_command_is_folded_and_answered_with_its_sequence(daemon: Daemon, server: Server) -> None:
    daemon.push_recorded()
    before = daemon.fold.sequence()
    status, found = await command(server, {"verb": "park", "target": "moving_average_cross"})
    assert (status, found["sequence"], found["verb"]) == (200, before + 1, "park")
    assert (await get(server, "/health"))["parts"]["strategies"][0]["state"] == "parked"
    assert (await command(server, {"verb": "resume", "target": "moving_average_cross"}))[1]["sequence"] == before + 2
    assert daemon.fold.supervisor.actors["moving_average_cross"].listening
    assert (await command(server, {"verb": "add_symbol", "target": "binance:SOL/USDT"}))[0] == 200
    assert (await command(server, {"verb": "snapshot"}))[0] == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "verb"),
        ([], 422, None),
        ({"verb": "explode"}, 422, "verb"),
        ({"verb": "park", "target": 7}, 422, "target"),
        ({"verb": "park", "target": "x" * 201}, 422, "target"),
        ({"verb": "park", "target": "nobody"}, 404, "target"),
        ({"verb": "resume"}, 404, "target"),
        ({"verb": "add_symbol", "target": "BTC"}, 422, "target"),
        ({"verb": "snapshot", "urgently": True}, 422, "urgently"),
    ],
)
async def test_a_command_that_cannot_be_is_refused_with_its_field_and_is_no_input(
    daemon: Daemon, server: Server, body: Any, status: int, field: str | None
) -> None:
    before = daemon.fold.ingress.next_sequence
    found = await command(server, body)
    assert found[0] == status
    assert found[1]["error"]["field"] == field
    assert daemon.fold.ingress.next_sequence == before


@pytest.mark.asyncio
async def test_a_command_that_cannot_be_journaled_is_503_and_names_no_file(daemon: Daemon, server: Server) -> None:
    daemon.command_error = JournalError("/secret/place/journal.1: no space left")
    status, found = await command(server, {"verb": "snapshot"})
    assert status == 503
    assert "secret" not in json.dumps(found)
    daemon.command_error = ConfigError("remove_symbol: not subscribed")
    status, found = await command(server, {"verb": "remove_symbol", "target": "binance:SOL/USDT"})
    assert (status, found["error"]["field"]) == (422, "target")


@pytest.mark.asyncio
async def test_a_push_is_checked_and_its_source_unknown(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for body, status, field in (
            ({"push_source_name": "mine", "df": {"rsi": [1.0]}}, 404, "push_source_name"),
            ({"df": {}}, 422, "push_source_name"),
            ({"push_source_name": "mine", "df": {"rsi": 1.0}}, 422, "df[...]"),
            ({"push_source_name": "mine", "df": {}, "to": "nowhere"}, 422, "to"),
        ):
            async with session.post(f"{server.url}/push", json=body) as got:
                assert (got.status, (await got.json())["error"]["field"]) == (status, field)


def test_gaps_are_counted_by_what_was_reported() -> None:
    from engine.serving.metrics import Served

    served = Served()
    for missing in (3, 4):
        served.hear(Gap("x", "BTC/USDT", 1, missing, missing, 0, START, START, 1))
    assert served.gaps == {("x", "BTC/USDT"): 2}
    assert served.missing == {("x", "BTC/USDT"): 7}
