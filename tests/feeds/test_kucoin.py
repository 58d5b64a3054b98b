"""The decoder of KuCoin's classic feed, field by field. What recordings must give is in tests/contracts/test_decoders.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.errors import DecodeError
from engine.events import Event, Quote, Tick
from feeds import decoder

RECEIVED = 1_729_843_222_930_000_000
INT64_MAX = 2**63 - 1

TRADE: dict[str, Any] = {
    "makerOrderId": "671b4f14a8b8b90007d6a5bb",
    "price": "67523",
    "sequence": "11067996711960577",
    "side": "buy",
    "size": "0.003",
    "symbol": "BTC-USDT",
    "takerOrderId": "671b4f16c0ba4c0007a7f1e0",
    "time": "1729843222921000000",
    "tradeId": "11067996711960577",
    "type": "match",
}
BEST: dict[str, Any] = {
    "bestAsk": "67523.1",
    "bestAskSize": "1.5",
    "bestBid": "67523",
    "bestBidSize": "0.25",
    "price": "67523",
    "sequence": "14610502970",
    "size": "0.003",
    "time": 1729843222921,
}
TICK = Tick("kucoin", "BTC/USDT", 67523.0, 0.003, "buy", 1729843222921000000, RECEIVED, 11067996711960577)
QUOTE = Quote("kucoin", "BTC/USDT", 67523.0, 0.25, 67523.1, 1.5, 1729843222921000000, RECEIVED, 14610502970)

kucoin = decoder("kucoin")


def match(data: object, **envelope: Any) -> dict[str, Any]:
    message = {"topic": "/market/match:BTC-USDT", "type": "message", "subject": "trade.l3match", "data": data}
    return message | envelope


def ticker(data: object, **envelope: Any) -> dict[str, Any]:
    message = {"topic": "/market/ticker:BTC-USDT", "type": "message", "subject": "trade.ticker", "data": data}
    return message | envelope


def decode(message: object) -> list[Event]:
    return kucoin.decode(json.dumps(message, separators=(",", ":")).encode(), RECEIVED)


def one_tick(data: dict[str, Any]) -> Tick:
    (event,) = decode(match(data))
    assert isinstance(event, Tick)
    return event


def one_quote(data: dict[str, Any], **envelope: Any) -> Quote:
    (event,) = decode(ticker(data, **envelope))
    assert isinstance(event, Quote)
    return event


def test_a_match_is_a_tick_whose_id_is_its_sequence() -> None:
    assert decode(match(TRADE)) == [TICK]
    assert one_tick(TRADE | {"tradeId": "6085c09769bc506996295e36"}) == TICK  # hexadecimal, as it was until 2021


def test_the_side_is_the_takers_as_it_is_sent() -> None:
    assert one_tick(TRADE | {"side": "buy"}).side == "buy"
    assert one_tick(TRADE | {"side": "sell"}).side == "sell"


def test_nanoseconds_are_kept_exactly() -> None:
    assert one_tick(TRADE | {"time": "1619378327739050725"}).timestamp == 1619378327739050725
    assert one_tick(TRADE | {"time": str(INT64_MAX)}).timestamp == INT64_MAX


def test_a_ticker_is_a_quote_of_the_pair_in_its_topic() -> None:
    assert decode(ticker(BEST)) == [QUOTE]
    assert one_quote(BEST, topic="/market/ticker:ETH-USDT").symbol == "ETH/USDT"
    assert one_quote(BEST, topic="/market/ticker:NEW-USDT").symbol == "NEW-USDT"


def test_the_time_of_a_ticker_may_be_spelled_as_in_the_exchanges_example() -> None:
    timeless = {key: value for key, value in BEST.items() if key != "time"}
    assert decode(ticker(timeless | {"Time": BEST["time"]})) == [QUOTE]
    with pytest.raises(DecodeError, match="without a time: expected `time` in ms"):
        decode(ticker(timeless))


def test_a_pair_is_named_as_its_currency_is_called_today() -> None:
    assert one_tick(TRADE | {"symbol": "BCHSV-USDT"}).symbol == "BSV/USDT"
    assert one_quote(BEST, topic="/market/ticker:BCHSV-USDT").symbol == "BSV/USDT"


@pytest.mark.parametrize("value", ["0", "-1.5", "1e-30"])
def test_odd_but_well_formed_numbers_go_through_for_the_ingress_to_judge(value: str) -> None:
    assert one_tick(TRADE | {"price": value}).price == float(value)
    assert one_tick(TRADE | {"size": value}).volume == float(value)
    assert one_quote(BEST | {"bestBid": "99999999", "bestAsk": value}).ask == float(value)


def test_the_greatest_ids_are_kept_exactly() -> None:
    assert one_tick(TRADE | {"sequence": str(INT64_MAX)}).trade_id == INT64_MAX
    assert one_quote(BEST | {"sequence": INT64_MAX}).update_id == INT64_MAX


@pytest.mark.parametrize(
    "text",
    [
        '{"id":"hQvf8jkno","type":"welcome"}',
        '{"id":"1","type":"ack"}',
        '{"id":"1545910590801","type":"pong"}',
        '{"id":"660fd6c8","type":"error","code":401,"data":"token is expired"}',
        '{"id":"1","type":"error","code":415,"data":"type is not supported"}',
        '{"type":"notice","subject":"trade.l3match"}',
        '{"data":{"sequenceStart":1,"symbol":"A-BTC","changes":{"asks":[["0","0","1"]],"bids":[]},"sequenceEnd":1},"subject":"trade.l2update","topic":"/market/level2:A-BTC","type":"message"}',
        '{"type":"message","topic":"/spotMarket/level1:BTC-USDT","subject":"level1","data":{"asks":["1","2"],"bids":["1","2"],"timestamp":1}}',
        '{"type":"message","topic":"/spotMarket/level2Depth5:BTC-USDT","subject":"level2","data":{"asks":[],"bids":[],"timestamp":1}}',
        '{"type":"message","topic":"/market/candles:A-BTC_1min","subject":"trade.candles.update","data":{"symbol":"A-BTC","candles":["1"],"time":1}}',
        '{"type":"message","topic":"/market/new:A-BTC","subject":"not known yet","data":5}',
        '{"sessionId":"x","message":"welcome","pingInterval":18000}',
        "{}",
    ],
)
def test_well_formed_messages_without_a_trade_or_quote_give_nothing(text: str) -> None:
    assert kucoin.decode(text.encode(), RECEIVED) == []


@pytest.mark.parametrize("field", ["price", "sequence", "side", "size", "symbol", "time"])
def test_a_missing_or_wrongly_typed_field_of_a_match_breaks_the_protocol(field: str) -> None:
    missing = {name: value for name, value in TRADE.items() if name != field}
    values: list[object] = [None, [], {}, "", True]
    for broken in (missing, *(TRADE | {field: value} for value in values)):
        with pytest.raises(DecodeError, match=field):
            decode(match(broken))


@pytest.mark.parametrize("field", ["bestAsk", "bestAskSize", "bestBid", "bestBidSize", "sequence"])
def test_a_missing_or_wrongly_typed_field_of_a_ticker_breaks_the_protocol(field: str) -> None:
    missing = {name: value for name, value in BEST.items() if name != field}
    values: list[object] = [None, [], {}, "", True]
    for broken in (missing, *(BEST | {field: value} for value in values)):
        with pytest.raises(DecodeError, match=field):
            decode(ticker(broken))


@pytest.mark.parametrize("value", ["NaN", "inf", "-Infinity", "1e400", "0x10", "1_000", "garbage"])
def test_numbers_that_are_none_break_the_protocol(value: str) -> None:
    for field in ("price", "size"):
        with pytest.raises(DecodeError, match=field):
            decode(match(TRADE | {field: value}))
    for field in ("bestAsk", "bestAskSize", "bestBid", "bestBidSize"):
        with pytest.raises(DecodeError, match=field):
            decode(ticker(BEST | {field: value}))


@pytest.mark.parametrize("value", [INT64_MAX + 1, -(2**63) - 1, "9223372036854775808", 1.5, "6085c09769bc506996295e36"])
def test_ids_that_no_int64_holds_break_the_protocol(value: object) -> None:
    with pytest.raises(DecodeError, match="sequence"):
        decode(match(TRADE | {"sequence": value}))
    with pytest.raises(DecodeError, match="sequence"):
        decode(ticker(BEST | {"sequence": value}))


@pytest.mark.parametrize("value", [-1, INT64_MAX + 1, "yesterday", 1.5])
def test_times_that_are_none_break_the_protocol(value: object) -> None:
    with pytest.raises(DecodeError, match="time"):
        decode(match(TRADE | {"time": value}))
    with pytest.raises(DecodeError, match="time"):
        decode(ticker(BEST | {"time": value}))


@pytest.mark.parametrize(
    "topic", ["", "/market/ticker", "/market/ticker:", "/market/match:BTC-USDT", "BTC-USDT", 5, None]
)
def test_a_ticker_needs_a_topic_that_names_its_pair(topic: object) -> None:
    with pytest.raises(DecodeError):
        decode(ticker(BEST, topic=topic))


@pytest.mark.parametrize(
    "message",
    [
        {"type": 5},
        {"type": None},
        {"type": "message"},
        {"type": "message", "subject": 5},
        {"type": "message", "topic": "/market/match:BTC-USDT", "data": TRADE},
        {"subject": "trade.l3match", "data": TRADE},
        match(None),
        match("token is expired"),
        match([TRADE]),
        ticker(None),
        match(TRADE, type=5),
    ],
    ids=lambda message: json.dumps(message)[:60],
)
def test_messages_of_another_build_break_the_protocol(message: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        decode(message)
