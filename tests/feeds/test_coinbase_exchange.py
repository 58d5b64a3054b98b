"""The decoder of Coinbase Exchange, field by field. What recordings must give is in tests/contracts/test_decoders.py."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from engine.errors import DecodeError
from engine.events import Event, Quote, Tick
from feeds import decoder
from tests.captures import messages

RECEIVED = 1_618_677_817_120_000_000
SECOND = 1_618_677_817_000_000_000  # 2021-04-17T16:43:37Z
INT64_MAX = 2**63 - 1

MATCH: dict[str, Any] = {
    "type": "match",
    "trade_id": 280232,
    "maker_order_id": "2a0da34e-61f7-4c36-88e5-c9dd15927b16",
    "taker_order_id": "3c82abaa-c01e-4608-be59-6a1e69742891",
    "side": "sell",
    "size": "985",
    "price": "0.00001305",
    "product_id": "SKL-BTC",
    "sequence": 177100030,
    "time": "2021-04-17T16:43:37.089723Z",
}
TICKER: dict[str, Any] = {
    "type": "ticker",
    "sequence": 333938798,
    "product_id": "BAND-GBP",
    "price": "14.7775",
    "best_bid": "14.7550",
    "best_ask": "14.8060",
    "side": "buy",
    "time": "2021-04-17T16:43:37.089723Z",
    "trade_id": 881613,
    "last_size": "0.04",
}
SIZES = {"best_bid_size": "9.18", "best_ask_size": "0.04"}
TICK = Tick("coinbase", "SKL/BTC", 0.00001305, 985.0, "buy", SECOND + 89_723_000, RECEIVED, 280232)

exchange = decoder("coinbase_exchange")


def decode(message: object) -> list[Event]:
    return exchange.decode(json.dumps(message, separators=(",", ":")).encode(), RECEIVED)


def one_tick(message: dict[str, Any]) -> Tick:
    (event,) = decode(message)
    assert isinstance(event, Tick)
    return event


def one_quote(message: dict[str, Any]) -> Quote:
    (event,) = decode(message)
    assert isinstance(event, Quote)
    return event


def test_a_match_is_a_tick_of_coinbase() -> None:
    assert decode(MATCH) == [TICK]


def test_the_side_of_a_match_is_the_takers_though_the_makers_is_sent() -> None:
    assert one_tick(MATCH | {"side": "sell"}).side == "buy"
    assert one_tick(MATCH | {"side": "buy"}).side == "sell"


def test_the_last_match_before_the_subscription_is_history() -> None:
    assert one_tick(MATCH | {"type": "last_match"}).late
    assert not one_tick(MATCH).late


def test_a_ticker_is_a_quote_and_no_trade() -> None:
    quote = one_quote(TICKER | SIZES)
    times = (SECOND + 89_723_000, RECEIVED)
    assert quote == Quote("coinbase", "BAND/GBP", 14.7550, 9.18, 14.8060, 0.04, *times, 333938798)


def test_sizes_that_are_not_sent_are_nan() -> None:
    quote = one_quote(TICKER)
    assert (quote.bid, quote.ask) == (14.7550, 14.8060)
    assert math.isnan(quote.bid_volume)
    assert math.isnan(quote.ask_volume)


def test_every_recorded_trade_has_the_side_that_its_ticker_says() -> None:
    """A match carries the maker's side, the ticker of the same trade the taker's: opposite words for one thing."""
    takers, found = {}, {}
    for message in messages("coinbase_exchange"):
        text = json.loads(message.frame)
        if text["type"] == "ticker":
            takers[text["trade_id"]] = text["side"]
        for event in exchange.decode(message.frame, RECEIVED):
            if isinstance(event, Tick):
                found[event.trade_id] = event.side
    assert found == takers
    assert len(found) == 74


@pytest.mark.parametrize("value", ["0", "-1.5", "1e-30"])
def test_odd_but_well_formed_numbers_go_through_for_the_ingress_to_judge(value: str) -> None:
    assert one_tick(MATCH | {"price": value}).price == float(value)
    assert one_tick(MATCH | {"size": value}).volume == float(value)
    crossed = one_quote(TICKER | {"best_bid": "15", "best_ask": value})
    assert (crossed.bid, crossed.ask) == (15.0, float(value))


def test_the_greatest_ids_are_kept_exactly() -> None:
    assert one_tick(MATCH | {"trade_id": INT64_MAX}).trade_id == INT64_MAX
    assert one_quote(TICKER | {"sequence": INT64_MAX}).update_id == INT64_MAX


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"subscriptions","channels":[{"name":"matches","product_ids":["BTC-USD"]}]}',
        '{"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"BTC-USD","time":"2021-04-17T16:43:37.089723Z"}',
        '{"type":"status","products":[],"currencies":[]}',
        '{"type":"error","message":"Failed to subscribe","reason":"FAKE-USD is not a valid product"}',
        '{"type":"l2update","product_id":"SKL-BTC","changes":[["sell","0.00001306","660.5"]],"time":"0001-01-01T00:00:00.000000Z"}',
        '{"type":"snapshot","product_id":"SKL-GBP","asks":[["0.5762","2865.9"]],"bids":[]}',
        '{"type":"received","order_type":"limit","side":"buy","price":"1","size":"1","product_id":"BTC-USD"}',
        '{"type":"not known yet","trade_id":[1],"price":null}',
        '{"channel":"ticker"}',
        "{}",
    ],
)
def test_well_formed_messages_without_a_trade_or_quote_give_nothing(text: str) -> None:
    assert exchange.decode(text.encode(), RECEIVED) == []


@pytest.mark.parametrize(
    ("message", "field"),
    [
        *((MATCH, field) for field in ("trade_id", "side", "size", "price", "product_id", "time")),
        *((MATCH | {"type": "last_match"}, field) for field in ("trade_id", "side", "size", "price")),
        *((TICKER, field) for field in ("sequence", "product_id", "best_bid", "best_ask", "time")),
    ],
)
def test_a_missing_or_wrongly_typed_field_breaks_the_protocol(message: dict[str, Any], field: str) -> None:
    missing = {name: value for name, value in message.items() if name != field}
    values: list[object] = [None, [], {}, "", True]
    for broken in (missing, *(message | {field: value} for value in values)):
        with pytest.raises(DecodeError, match=field):
            decode(broken)


@pytest.mark.parametrize("value", ["NaN", "inf", "-Infinity", "1e400", "0x10", "1_000", "garbage"])
def test_numbers_that_are_none_break_the_protocol(value: str) -> None:
    for message, field in ((MATCH, "price"), (MATCH, "size"), *((TICKER, f) for f in ("best_bid", "best_ask", *SIZES))):
        with pytest.raises(DecodeError, match=field):
            decode(message | {field: value})


@pytest.mark.parametrize("value", [INT64_MAX + 1, -(2**63) - 1, 10**30, 1.5, "d8f1"])
def test_ids_that_no_int64_holds_break_the_protocol(value: object) -> None:
    with pytest.raises(DecodeError, match="trade_id"):
        decode(MATCH | {"trade_id": value})


@pytest.mark.parametrize("value", ["0001-01-01T00:00:00.000000Z", "2262-01-01T00:00:00Z", "yesterday"])
def test_times_that_are_none_break_the_protocol(value: str) -> None:
    for message in (MATCH, TICKER):
        with pytest.raises(DecodeError, match="expected RFC 3339"):
            decode(message | {"time": value})


@pytest.mark.parametrize(
    "message", [{"type": 5}, {"type": None}, {"type": ["match"]}, {"type": "match"}, {"type": "ticker"}]
)
def test_messages_of_another_build_break_the_protocol(message: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        decode(message)
