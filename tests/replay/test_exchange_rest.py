"""What each exchange answers to requests for history, symbols and time. Pure: paths and queries in, status and bodies out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from feeds.product_lists import parse, products_url
from replay.exchange.market import Market, View
from replay.exchange.venue import Request, Venue
from replay.exchange.venues import LIMITS, venue_of
from replay.rewrite import Moves
from replay.tape import Tape
from tests.replay.test_tape import line
from tests.replay.test_trades import KINDS, Clock, a_market

MS = 1_000_000
FEEDS = tuple(KINDS)


def a_venue(feed: str, *, loop: bool = True) -> tuple[Venue, Clock]:
    clock = Clock()
    return venue_of(a_market(feed, loop=loop, clock=clock), LIMITS[feed], 0, 86_400.0), clock


def get(venue: Venue, path: str, *, view: View | None = None, method: str = "GET", **query: Any) -> tuple[int, Any]:
    asked = Request(method, path, {name: str(value) for name, value in query.items()})
    reply = venue.reply(asked, view or venue.market.now_view(), "127.0.0.1:9", 0.0)
    try:
        return reply.status, json.loads(reply.body)
    except ValueError:
        return reply.status, reply.body.decode()


@pytest.mark.parametrize("feed", FEEDS)
def test_the_product_list_is_what_is_served_as_the_exchange_spells_it(feed: str) -> None:
    venue, _ = a_venue(feed)
    path = products_url(feed, "http://x").removeprefix("http://x")
    reply = venue.reply(Request("GET", path, {}), venue.market.now_view(), "h", 0.0)
    products = parse(feed, reply.body)
    assert {product.id: product.symbol for product in products} == {
        name: venue.market.symbol(name) for name in venue.market.symbols
    }
    assert all(product.tradable for product in products)


# Binance


def test_historical_trades_begin_at_an_id_and_the_newest_come_without_one() -> None:
    venue, _ = a_venue("binance")
    path = "/api/v3/historicalTrades"
    newest = [made.id for made in venue.market.now_view().newest("BTCUSDT", Moves.TRADE_ID, 1_000)]
    status, rows = get(venue, path, symbol="BTCUSDT")
    assert status == 200
    assert [row["id"] for row in rows] == newest[-500:]
    status, rows = get(venue, path, symbol="BTCUSDT", fromId=newest[-1_000], limit=1_000)
    assert [row["id"] for row in rows] == newest
    assert get(venue, path, symbol="BTCUSDT", fromId=newest[-1] + 1) == (200, [])
    assert len(get(venue, path, symbol="BTCUSDT", fromId=0, limit=7)[1]) == 7
    assert [row["id"] for row in get(venue, "/api/v3/trades", symbol="BTCUSDT", limit=3)[1]] == newest[-3:]
    row = rows[-1]
    assert set(row) == {"id", "price", "qty", "quoteQty", "time", "isBuyerMaker", "isBestMatch"}
    (made,) = venue.market.now_view().newest("BTCUSDT", Moves.TRADE_ID, 1)
    assert (row["price"], row["qty"], row["isBuyerMaker"]) == (
        made.trade.price,
        made.trade.size,
        made.trade.side == "sell",
    )
    assert float(row["quoteQty"]) == pytest.approx(float(row["price"]) * float(row["qty"]), abs=1e-8)
    assert row["time"] == venue.market.now_view().time_ns(made) // MS


def test_what_is_behind_does_not_know_the_newest() -> None:
    venue, _ = a_venue("binance")
    newest = venue.market.now_view().newest("BTCUSDT", Moves.TRADE_ID, 1)[0].id
    view = venue.market.now_view(behind=3)
    _, rows = get(venue, "/api/v3/historicalTrades", view=view, symbol="BTCUSDT", limit=2)
    assert [row["id"] for row in rows] == [newest - 4, newest - 3]


def test_aggregates_are_found_by_id_and_by_time_with_the_ids_in_them() -> None:
    lines = [
        f'{{"e":"aggTrade","E":{1_700_000_000_000 + at},"s":"BNBBTC","a":{12 + at},"p":"1","q":"2","f":{100 + 3 * at},'
        f'"l":{102 + 3 * at},"T":{1_700_000_000_000 + at},"m":true,"M":true}}'
        for at in range(10)
    ]
    tape = Tape.from_lines("binance", "x", [line(text, (1_700_000_000_000 + at) * MS) for at, text in enumerate(lines)])
    market = Market([tape], speed=1.0, loop=True, from_start=False, clock=Clock())
    venue = venue_of(market, LIMITS["binance"], 0, 1.0)
    path = "/api/v3/aggTrades"
    _, rows = get(venue, path, symbol="BNBBTC", limit=25)
    assert [row["a"] for row in rows] == list(range(rows[0]["a"], rows[0]["a"] + 25))
    assert [row["f"] for row in rows] == [rows[0]["f"] + 3 * at for at in range(25)]
    assert all(row["l"] == row["f"] + 2 for row in rows)
    assert (rows[0]["f"] - 100) == 3 * (rows[0]["a"] - 12)
    _, again = get(venue, path, symbol="BNBBTC", fromId=rows[3]["a"], limit=5)
    assert again == rows[3:8]
    start, end = rows[4]["T"], rows[9]["T"]
    inside = [row for row in rows if start <= row["T"] <= end]
    assert get(venue, path, symbol="BNBBTC", startTime=start, endTime=end, limit=25)[1] == inside
    assert get(venue, path, symbol="BNBBTC", startTime=start, limit=2)[1] == inside[:2]
    assert get(venue, path, symbol="BNBBTC", fromId=1, startTime=start)[1]["code"] == -1128
    assert get(venue, "/api/v3/historicalTrades", symbol="BNBBTC") == (200, [])


def test_binance_says_its_time_and_its_limits() -> None:
    venue, clock = a_venue("binance")
    assert get(venue, "/api/v3/time") == (200, {"serverTime": clock.time // MS})
    assert get(venue, "/api/v3/ping") == (200, {})
    _, said = get(venue, "/api/v3/exchangeInfo", symbol="BTCUSDT")
    assert [symbol["baseAsset"] for symbol in said["symbols"]] == ["BTC"]
    assert said["rateLimits"][0] == {
        "rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6_000,
    }  # fmt: skip
    assert [
        venue.weight(Request("GET", f"/api/v3/{name}", {}))
        for name in ("historicalTrades", "aggTrades", "exchangeInfo", "time")
    ] == [25, 4, 20, 1]


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/api/v3/historicalTrades", {"symbol": "NOSUCH"}, -1121),
        ("/api/v3/historicalTrades", {}, -1102),
        ("/api/v3/historicalTrades", {"symbol": "BTCUSDT", "limit": 1_001}, -1130),
        ("/api/v3/aggTrades", {"symbol": "BTCUSDT", "fromId": "x"}, -1100),
        ("/api/v3/exchangeInfo", {"symbols": "x"}, -1100),
    ],
)
def test_a_wrong_request_to_binance_is_told_its_code(path: str, query: dict[str, Any], code: int) -> None:
    status, said = get(a_venue("binance")[0], path, **query)
    assert (status, said["code"]) == (400, code)


# Coinbase


def test_trades_of_coinbase_are_found_by_time_newest_first_with_the_makers_side() -> None:
    venue, clock = a_venue("coinbase")
    path = "/api/v3/brokerage/market/products/BTC-USD/ticker"
    status, said = get(venue, path, limit=50)
    assert status == 200
    trades = said["trades"]
    ids = [int(trade["trade_id"]) for trade in trades]
    assert ids == list(range(ids[0], ids[0] - 50, -1))
    assert float(said["best_bid"]) <= float(said["best_ask"])
    made = venue.market.now_view().newest("BTC-USD", Moves.TRADE_ID, 50)[::-1]
    assert [trade["side"] for trade in trades] == ["SELL" if one.trade.side == "buy" else "BUY" for one in made]
    assert [trade["price"] for trade in trades] == [one.trade.price for one in made]
    now_s = clock.time // 1_000_000_000
    _, said = get(venue, path, limit=1_000, start=now_s - 30, end=now_s - 10)
    times = [trade["time"] for trade in said["trades"]]
    assert times == sorted(times, reverse=True)
    view = venue.market.now_view()
    expected = [
        one.id
        for one in view.newest("BTC-USD", Moves.TRADE_ID, 1_000)
        if (now_s - 30) * 10**9 <= view.time_ns(one) <= (now_s - 10) * 10**9
    ]
    assert [int(trade["trade_id"]) for trade in said["trades"]] == expected[::-1]
    assert len(expected) > 30


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/api/v3/brokerage/market/products/NO-SUCH/ticker", {}, 404),
        ("/api/v3/brokerage/market/products/BTC-USD/ticker", {"limit": 0}, 400),
        ("/api/v3/brokerage/market/products/BTC-USD/ticker", {"start": "now"}, 400),
        ("/api/v3/brokerage/market/products/BTC-USD", {}, 200),
        ("/api/v3/brokerage/accounts", {}, 404),
    ],
)
def test_coinbase_says_what_it_does_not_have(path: str, query: dict[str, Any], status: int) -> None:
    found, said = get(a_venue("coinbase")[0], path, **query)
    assert found == status
    assert status == 200 or said["message"]


# Coinbase Exchange


def test_trades_of_coinbase_exchange_are_paged_by_id() -> None:
    venue, _ = a_venue("coinbase_exchange")
    path = "/products/SKL-USD/trades"
    _, rows = get(venue, path, limit=5)
    ids = [row["trade_id"] for row in rows]
    assert ids == list(range(ids[0], ids[0] - 5, -1))
    reply = venue.reply(Request("GET", path, {"limit": "5"}), venue.market.now_view(), "h", 0.0)
    assert reply.headers == {"CB-BEFORE": str(ids[0]), "CB-AFTER": str(ids[-1])}
    _, older = get(venue, path, limit=5, after=ids[-1])
    assert [row["trade_id"] for row in older] == list(range(ids[-1] - 1, ids[-1] - 6, -1))
    assert [row["trade_id"] for row in get(venue, path, before=ids[2])[1]] == ids[:2]
    assert get(venue, path, before=ids[0])[1] == []
    assert len(get(venue, path)[1]) == 1_000
    (made,) = venue.market.now_view().newest("SKL-USD", Moves.TRADE_ID, 1)
    assert rows[0]["side"] == ("sell" if made.trade.side == "buy" else "buy")


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/products/NO-SUCH/trades", {}, 404),
        ("/products/SKL-USD/candles", {}, 404),
        ("/products/SKL-USD/trades", {"limit": 1_001}, 400),
        ("/products/SKL-USD/trades", {"after": "x"}, 400),
        ("/products/SKL-USD/trades", {"after": 5, "before": 3}, 400),
        ("/products/SKL-USD", {}, 200),
        ("/", {}, 404),
    ],
)
def test_coinbase_exchange_says_what_it_does_not_have(path: str, query: dict[str, Any], status: int) -> None:
    found, said = get(a_venue("coinbase_exchange")[0], path, **query)
    assert found == status
    assert status == 200 or said["message"]


# KuCoin


def test_kucoin_knows_its_last_hundred_trades_and_their_sequence() -> None:
    venue, clock = a_venue("kucoin")
    status, said = get(venue, "/api/v1/market/histories", symbol="DAPPT-BTC")
    assert (status, said["code"]) == (200, "200000")
    rows = said["data"]
    assert len(rows) == 100
    numbers = [int(row["sequence"]) for row in rows]
    assert numbers == sorted(set(numbers))
    made = venue.market.now_view().newest("DAPPT-BTC", Moves.UPDATE_ID, 100)
    assert [(row["side"], row["price"], row["size"]) for row in rows] == [
        (one.trade.side, one.trade.price, one.trade.size) for one in made
    ]
    assert all(0 < row["time"] <= clock.time for row in rows)
    assert get(venue, "/api/v1/timestamp")[1]["data"] == clock.time // MS


@pytest.mark.parametrize(
    ("method", "path", "query", "status"),
    [
        ("GET", "/api/v1/market/histories", {"symbol": "NO-SUCH"}, 400),
        ("GET", "/api/v1/bullet-public", {}, 405),
        ("GET", "/api/v1/accounts", {}, 404),
        ("POST", "/api/v2/symbols", {}, 404),
        ("GET", "/api/v2/symbols/DAPPT-BTC", {}, 200),
        ("GET", "/api/v2/symbols/NO-SUCH", {}, 400),
    ],
)
def test_kucoin_says_what_it_does_not_have(method: str, path: str, query: dict[str, Any], status: int) -> None:
    found, said = get(a_venue("kucoin")[0], path, method=method, **query)
    assert found == status
    assert (said["code"] == "200000") == (status == 200)


@pytest.mark.parametrize("feed", FEEDS)
def test_a_banned_address_is_told_how_long(feed: str) -> None:
    venue, _ = a_venue(feed)
    reply = venue.too_many(9_999, 30, False)
    assert reply.status == 429
    assert json.loads(reply.body)
    if feed == "binance":
        assert reply.headers["Retry-After"] == "30"
        assert reply.headers["X-MBX-USED-WEIGHT-1M"] == "9999"
        assert venue.too_many(9_999, 120, True).status == 418
