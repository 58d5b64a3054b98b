"""What Coinbase and KuCoin answer on a websocket: texts in, texts out. Binance's session has a file of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds import decoder
from replay.exchange.coinbase import CoinbaseSession
from replay.exchange.coinbase_exchange import CoinbaseExchangeSession
from replay.exchange.kucoin import LIMITS, TOKENS_MAX, KucoinSession, KucoinVenue
from replay.exchange.market import Market
from replay.exchange.venue import Hangup, Request, Session
from tests.replay.test_trades import SECOND, Clock, a_market


def said(answers: Sequence[bytes | Hangup]) -> list[Any]:
    return [json.loads(answer) for answer in answers if isinstance(answer, bytes)]


def ask(session: Session, now: float = 0.0, **request: Any) -> list[Any]:
    return said(session.answer(json.dumps(request), now))


# Coinbase Advanced Trade


def advanced(market: Market | None = None) -> CoinbaseSession:
    session = CoinbaseSession(market or a_market("coinbase"))
    assert session.opened(0.0) == ()
    return session


def test_a_subscription_to_trades_is_answered_with_a_snapshot_of_each_product_and_the_list_of_all() -> None:
    session = advanced()
    answers = ask(session, type="subscribe", product_ids=["BTC-USD", "ETH-USD"], channel="market_trades")
    assert [answer["channel"] for answer in answers] == ["market_trades", "market_trades", "subscriptions"]
    assert [answer["sequence_num"] for answer in answers] == [0, 1, 2]
    for answer, product in zip(answers, ("BTC-USD", "ETH-USD"), strict=False):
        (event,) = answer["events"]
        assert event["type"] == "snapshot"
        ids = [int(trade["trade_id"]) for trade in event["trades"]]
        assert ids == list(range(ids[0], ids[0] - 100, -1))
        assert {trade["product_id"] for trade in event["trades"]} == {product}
    assert answers[2]["events"] == [{"subscriptions": {"market_trades": ["BTC-USD", "ETH-USD"]}}]
    answers = ask(session, type="subscribe", product_ids=["ETH-USD"], channel="ticker")
    assert [answer["sequence_num"] for answer in answers] == [3, 4]
    assert answers[0]["events"][0]["type"] == "snapshot"
    assert answers[0]["events"][0]["tickers"][0]["product_id"] == "ETH-USD"
    assert answers[1]["events"] == [{"subscriptions": {"market_trades": ["BTC-USD", "ETH-USD"], "ticker": ["ETH-USD"]}}]
    assert list(session.streams) == ["market_trades:BTC-USD", "market_trades:ETH-USD", "ticker:ETH-USD"]


def test_a_snapshot_is_what_the_decoder_takes_for_history_with_the_takers_side() -> None:
    market = a_market("coinbase", loop=False)
    answers = advanced(market).answer('{"type":"subscribe","product_ids":["BTC-USD"],"channel":"market_trades"}', 0.0)
    ticks: list[Any] = decoder("coinbase").decode(answers[0] if isinstance(answers[0], bytes) else b"", 1)
    assert all(tick.late for tick in ticks)
    recorded = [trade for message in market.tapes[0].tracks[0].messages[-4:] for trade in message.trades]
    assert [(tick.trade_id, tick.price, tick.side) for tick in ticks] == [
        (trade.id, float(trade.price), trade.side) for trade in recorded if 1_068_571_000 < trade.id < 1_068_573_000
    ]


def test_the_count_goes_over_everything_that_a_connection_is_sent() -> None:
    session = advanced()
    ask(session, type="subscribe", channel="heartbeats")
    payload = b'{"channel":"ticker","sequence_num":\0,"events":[]}'
    assert json.loads(session.message("ticker:BTC-USD", payload))["sequence_num"] == 1
    assert json.loads(session.message("ticker:BTC-USD", payload))["sequence_num"] == 2
    assert session.due == 1.0
    assert session.timer(0.5) == ()
    (beat,) = said(session.timer(1.0))
    assert (beat["channel"], beat["sequence_num"]) == ("heartbeats", 3)
    assert " +0000 UTC m=+" in beat["events"][0]["current_time"]
    assert session.due == 2.0
    assert len(said(session.timer(7.5))) == 1  # what was missed is not made up for
    assert session.due == 8.0


def test_who_does_not_subscribe_within_five_seconds_is_cut_off() -> None:
    session = advanced()
    assert session.due == 5.0
    (end,) = session.timer(5.0)
    assert isinstance(end, Hangup)
    assert end.code == 1008
    other = advanced()
    ask(other, 4.0, type="subscribe", product_ids=["BTC-USD"], channel="ticker")
    assert other.due is None


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"type": "subscribe", "product_ids": ["BTC-USD"], "channel": "matches"}, "unknown channel 'matches'"),
        ({"type": "buy", "channel": "ticker"}, "unknown type 'buy'"),
        ({"type": "subscribe", "channel": "ticker"}, "no product_ids"),
        ({"channel": "ticker"}, "invalid message"),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(request_: dict[str, Any], message: str) -> None:
    session = advanced()
    (answer,) = ask(session, **request_)
    assert answer["type"] == "error"
    assert message in answer["message"]
    assert not session.streams
    assert session.due == 5.0


def test_an_unknown_product_is_not_listed_and_an_alias_is_what_it_stands_for() -> None:
    session = advanced()
    answers = ask(session, type="subscribe", product_ids=["NO-SUCH", "ETH-USDC", "BTC-USD"], channel="ticker")
    assert answers[-1]["events"] == [{"subscriptions": {"ticker": ["ETH-USD", "BTC-USD"]}}]
    answers = ask(session, type="unsubscribe", product_ids=["ETH-USD"], channel="ticker")
    assert answers[-1]["events"] == [{"subscriptions": {"ticker": ["BTC-USD"]}}]
    assert list(session.streams) == ["ticker:BTC-USD"]
    assert ask(session, type="unsubscribe", channel="ticker")[-1]["events"] == [{"subscriptions": {}}]


# Coinbase Exchange


def exchange() -> CoinbaseExchangeSession:
    session = CoinbaseExchangeSession(a_market("coinbase_exchange"))
    assert session.opened(0.0) == ()
    return session


def test_a_subscription_is_answered_with_the_list_and_the_last_match_of_each_product() -> None:
    session = exchange()
    answers = ask(session, type="subscribe", product_ids=["SKL-USD", "NMR-EUR"], channels=["matches", "heartbeat"])
    assert [answer["type"] for answer in answers] == ["subscriptions", "last_match", "last_match"]
    assert answers[0]["channels"] == [
        {"name": "matches", "product_ids": ["SKL-USD", "NMR-EUR"]},
        {"name": "heartbeat", "product_ids": ["SKL-USD", "NMR-EUR"]},
    ]
    last_ids = [answer["trade_id"] for answer in answers[1:]]
    beats = said(session.timer(1.0))
    assert [beat["last_trade_id"] for beat in beats] == last_ids
    assert [beat["sequence"] for beat in beats] == [answer["sequence"] for answer in answers[1:]]
    ticks: list[Any] = [
        decoder("coinbase_exchange").decode(json.dumps(answer).encode(), 1)[0] for answer in answers[1:]
    ]
    assert all(tick.late for tick in ticks)


def test_a_channel_may_have_products_of_its_own_and_be_left_as_a_whole() -> None:
    session = exchange()
    channels: list[Any] = ["ticker", {"name": "matches", "product_ids": ["NMR-EUR"]}]
    ask(session, type="subscribe", product_ids=["SKL-USD"], channels=channels)
    assert list(session.streams) == ["ticker:SKL-USD", "matches:NMR-EUR"]
    (answer,) = ask(session, type="unsubscribe", channels=["ticker"])
    assert answer["channels"] == [{"name": "matches", "product_ids": ["NMR-EUR"]}]
    assert list(session.streams) == ["matches:NMR-EUR"]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"type": "subscribe", "product_ids": ["SKL-USD", "NO-SUCH"], "channels": ["matches"]}, "NO-SUCH is not a valid product"),
        ({"type": "subscribe", "product_ids": ["SKL-USD"], "channels": ["trades"]}, "trades is not a valid channel"),
        ({"type": "subscribe", "product_ids": ["SKL-USD"], "channels": ["full"]}, "full channel requires authentication"),
        ({"type": "subscribe", "channels": ["matches"]}, "no product_ids"),
        ({"type": "subscribe", "product_ids": ["SKL-USD"]}, "no channels"),
        ({"type": "x"}, "x is not a valid type"),
        ({}, "required field `type`"),
    ],
)  # fmt: skip
def test_a_wrong_subscription_is_turned_down_as_a_whole(request_: dict[str, Any], reason: str) -> None:
    session = exchange()
    (answer,) = ask(session, **request_)
    assert answer["type"] == "error"
    assert reason in answer["reason"]
    assert not session.streams


# KuCoin


def kucoin_venue(**options: Any) -> tuple[KucoinVenue, Clock]:
    clock = Clock()
    return KucoinVenue(a_market("kucoin", clock=clock), **options), clock


def token_of(venue: KucoinVenue) -> str:
    reply = venue.reply(Request("POST", "/api/v1/bullet-public", {}), venue.market.now_view(), "127.0.0.1:9", 0.0)
    data = json.loads(reply.body)["data"]
    assert data["instanceServers"] == [
        {
            "endpoint": "ws://127.0.0.1:9/kucoin/endpoint",
            "encrypt": False,
            "protocol": "websocket",
            "pingInterval": 18_000,
            "pingTimeout": 10_000,
        }
    ]
    token = data["token"]
    assert isinstance(token, str)
    return token


def test_a_token_opens_connections_until_its_time_is_over() -> None:
    venue, clock = kucoin_venue(token_s=100.0)
    token = token_of(venue)
    for _ in range(2):
        session = venue.session("/kucoin/endpoint", {"token": token, "connectId": "me"}, 0.0)
        assert said(session.opened(0.0)) == [{"id": "me", "type": "welcome"}]
    clock.time += 100 * SECOND
    for wrong, reason in ((token, "token is expired"), ("nonsense", "token is invalid"), ("", "token is invalid")):
        answers = venue.session("/kucoin/endpoint", {"token": wrong, "connectId": "me"}, 0.0).opened(0.0)
        assert said(answers) == [{"id": "me", "type": "error", "code": 401, "data": reason}]
        assert isinstance(answers[-1], Hangup)
    token = token_of(venue)
    venue.expire_tokens()
    assert said(venue.session("", {"token": token}, 0.0).opened(0.0))[0]["data"] == "token is expired"


def test_tokens_are_not_kept_for_ever() -> None:
    venue, _ = kucoin_venue()
    first = token_of(venue)
    for _ in range(TOKENS_MAX):
        venue.reply(Request("POST", "/api/v1/bullet-public", {}), venue.market.now_view(), "h", 0.0)
    assert said(venue.session("", {"token": first}, 0.0).opened(0.0))[0]["data"] == "token is invalid"


def kucoin() -> KucoinSession:
    session = KucoinSession(a_market("kucoin"), "me")
    session.opened(0.0)
    return session


def test_requests_are_acknowledged_with_their_id_as_text() -> None:
    session = kucoin()
    topic = "/market/match:DAPPT-BTC,FET-BTC"
    assert ask(session, id=1, type="subscribe", topic=topic, privateChannel=False, response=True) == [
        {"id": "1", "type": "ack"}
    ]
    assert ask(session, id="x", type="subscribe", topic="/market/ticker:FET-BTC", response=False) == []
    assert list(session.streams) == ["/market/match:DAPPT-BTC", "/market/match:FET-BTC", "/market/ticker:FET-BTC"]
    assert ask(session, id=3, type="unsubscribe", topic=topic, response=True) == [{"id": "3", "type": "ack"}]
    assert list(session.streams) == ["/market/ticker:FET-BTC"]


@pytest.mark.parametrize(
    ("request_", "code", "data"),
    [
        ({"id": 1, "type": "buy"}, 415, "type is not supported"),
        ({"id": 1, "type": "subscribe", "topic": "/market/nothing:FET-BTC"}, 404, "topic /market/nothing:FET-BTC is not found"),
        ({"id": 1, "type": "subscribe", "topic": "/market/match:FET-BTC,NO-SUCH"}, 404, "topic /market/match:NO-SUCH is not found"),
        ({"id": 1, "type": "subscribe", "topic": "/market/match"}, 404, "topic /market/match is not found"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_its_code_and_changes_nothing(request_: dict[str, Any], code: int, data: str) -> None:
    session = kucoin()
    assert ask(session, **request_) == [{"id": "1", "type": "error", "code": code, "data": data}]
    assert not session.streams


def test_a_topic_has_at_most_100_symbols_and_what_is_beyond_300_topics_is_silent() -> None:
    session = kucoin()
    many = ",".join(f"FET-BTC_{number}min" for number in range(101))
    (answer,) = ask(session, id=1, type="subscribe", topic=f"/market/candles:{many}", response=True)
    assert answer["code"] == 509
    for start in range(0, 400, 100):
        names = ",".join(f"FET-BTC_{number}min" for number in range(start, start + 100))
        assert ask(session, id=2, type="subscribe", topic=f"/market/candles:{names}", response=True)[0]["type"] == "ack"
    assert len(session.streams) == 300


def test_a_client_that_does_not_ping_is_cut_off_and_one_that_does_is_answered() -> None:
    session = kucoin()
    assert session.due == 60.0
    assert ask(session, 50.0, id="15", type="ping") == [{"id": "15", "type": "pong"}]
    assert session.due == 110.0
    assert session.timer(109.0) == ()
    (end,) = session.timer(110.0)
    assert isinstance(end, Hangup)


def test_the_weights_of_requests_are_those_of_the_documentation() -> None:
    venue, _ = kucoin_venue()
    weights = [venue.weight(Request("GET", path, {})) for path in ("/api/v1/bullet-public", "/api/v1/market/histories")]
    assert weights == [10, 3]
    reply = venue.too_many(2_001, 7, False)
    assert (reply.status, json.loads(reply.body)["code"]) == (429, "429000")
    assert reply.headers["gw-ratelimit-limit"] == str(LIMITS.weight)


# All


@settings(max_examples=60)
@given(st.sampled_from(["coinbase", "coinbase_exchange", "kucoin"]), st.binary(max_size=30) | st.text(max_size=30))
def test_no_text_makes_a_session_fail(feed: str, text: bytes | str) -> None:
    sessions: dict[str, Callable[[], Session]] = {"coinbase": advanced, "coinbase_exchange": exchange, "kucoin": kucoin}
    answers = said(sessions[feed]().answer(text, 0.0))
    assert [answer["type"] for answer in answers] == ["error"]
