"""The decoder of Coinbase Advanced Trade, field by field. What recordings must give is in tests/contracts/test_decoders.py."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from engine.errors import DecodeError
from engine.events import Event, Quote, Tick
from feeds import decoder

RECEIVED = 1_786_309_548_258_000_000
SECOND = 1_786_309_548_000_000_000  # 2026-08-09T21:05:48Z
INT64_MAX = 2**63 - 1

TRADE: dict[str, Any] = {
    "product_id": "BTC-USD",
    "trade_id": "1068572091",
    "price": "65083.67",
    "size": "0.01034361",
    "time": "2026-08-09T21:05:48.167634Z",
    "side": "SELL",
}
TICKER: dict[str, Any] = {
    "type": "ticker",
    "product_id": "ETH-USD",
    "price": "1919.41",
    "best_bid": "1919.44",
    "best_ask": "1919.49",
    "best_bid_quantity": "0.02858092",
    "best_ask_quantity": "0.07814824",
}
TICK = Tick("coinbase", "BTC/USD", 65083.67, 0.01034361, "buy", SECOND + 167_634_000, RECEIVED, 1068572091)
QUOTE = Quote("coinbase", "ETH/USD", 1919.44, 0.02858092, 1919.49, 0.07814824, SECOND + 298_032_046, RECEIVED)

coinbase = decoder("coinbase")


def envelope(channel: str, *events: dict[str, Any]) -> bytes:
    message = {"channel": channel, "timestamp": "2026-08-09T21:05:48.298032046Z", "sequence_num": 9, "events": events}
    return json.dumps(message, separators=(",", ":")).encode()


def trades(*trades: dict[str, Any], kind: str = "update") -> list[Event]:
    return coinbase.decode(envelope("market_trades", {"type": kind, "trades": trades}), RECEIVED)


def tickers(*tickers: dict[str, Any], kind: str = "update") -> list[Event]:
    return coinbase.decode(envelope("ticker", {"type": kind, "tickers": tickers}), RECEIVED)


def one_tick(trade: dict[str, Any]) -> Tick:
    (event,) = trades(trade)
    assert isinstance(event, Tick)
    return event


def one_quote(ticker: dict[str, Any]) -> Quote:
    (event,) = tickers(ticker)
    assert isinstance(event, Quote)
    return event


# ----------------------------------------------------------------------------------------------------------- trades


def test_a_market_trade_is_a_tick() -> None:
    assert trades(TRADE) == [TICK]


def test_the_side_is_the_takers_though_the_makers_is_sent() -> None:
    assert one_tick(TRADE | {"side": "SELL"}).side == "buy"
    assert one_tick(TRADE | {"side": "BUY"}).side == "sell"
    assert one_tick(TRADE | {"side": "UNKNOWN_ORDER_SIDE"}).side is None


def test_the_newest_trade_comes_first_and_leaves_last() -> None:
    newer, older = TRADE | {"trade_id": "8"}, TRADE | {"trade_id": "7"}
    assert [event.trade_id for event in trades(newer, older) if isinstance(event, Tick)] == [7, 8]


def test_a_snapshot_is_history() -> None:
    late = [event.late for event in trades(TRADE, TRADE, kind="snapshot") if isinstance(event, Tick)]
    assert late == [True, True]
    assert not one_tick(TRADE).late


def test_all_events_of_a_message_are_read_in_their_order() -> None:
    first = {"type": "snapshot", "trades": [TRADE | {"trade_id": "2"}, TRADE | {"trade_id": "1"}]}
    second = {"type": "update", "trades": [TRADE | {"trade_id": "3"}]}
    found = coinbase.decode(envelope("market_trades", first, {"type": "update", "trades": []}, second), RECEIVED)
    assert [(e.trade_id, e.late) for e in found if isinstance(e, Tick)] == [(1, True), (2, True), (3, False)]


@pytest.mark.parametrize(
    ("time", "ns"),
    [("", 0), (".5", 500_000_000), (".50436", 504_360_000), (".123456789", 123_456_789), (".000000001", 1)],
)
def test_times_are_exact_with_any_number_of_digits(time: str, ns: int) -> None:
    assert one_tick(TRADE | {"time": f"2026-08-09T21:05:48{time}Z"}).timestamp == SECOND + ns


@pytest.mark.parametrize("value", ["0", "0.00000000", "-1.5", "1e-30"])
def test_odd_but_well_formed_numbers_go_through_for_the_ingress_to_judge(value: str) -> None:
    assert one_tick(TRADE | {"price": value}).price == float(value)
    assert one_tick(TRADE | {"size": value}).volume == float(value)
    assert one_quote(TICKER | {"best_bid": value}).bid == float(value)
    assert one_quote(TICKER | {"best_ask_quantity": value}).ask_volume == float(value)


def test_numbers_may_come_as_numbers() -> None:
    assert one_tick(TRADE | {"trade_id": 1068572091, "price": 65083.67, "size": 1}).price == 65083.67


def test_the_greatest_id_is_kept_exactly() -> None:
    assert one_tick(TRADE | {"trade_id": str(INT64_MAX)}).trade_id == INT64_MAX


def test_an_alias_is_answered_with_the_pair_that_was_traded_and_nothing_is_renamed() -> None:
    """Who asks for BTC-USDC gets messages of BTC-USD: there is nothing for the decoder to map."""
    assert one_tick(TRADE).symbol == "BTC/USD"
    assert one_tick(TRADE | {"product_id": "NEW-USD"}).symbol == "NEW-USD"


# ----------------------------------------------------------------------------------------------------------- quotes


def test_a_ticker_is_a_quote_of_the_time_of_its_message() -> None:
    assert tickers(TICKER) == [QUOTE]


def test_all_tickers_of_a_message_are_quotes_and_those_of_a_snapshot_are_no_history() -> None:
    found = tickers(TICKER, TICKER | {"product_id": "BTC-USD"}, kind="snapshot")
    assert [(e.symbol, e.late) for e in found if isinstance(e, Quote)] == [("ETH/USD", False), ("BTC/USD", False)]


def test_sizes_that_are_not_sent_are_nan() -> None:
    quote = one_quote({key: value for key, value in TICKER.items() if not key.endswith("quantity")})
    assert math.isnan(quote.bid_volume)
    assert math.isnan(quote.ask_volume)


def test_the_counter_of_a_connection_is_no_update_id() -> None:
    assert one_quote(TICKER).update_id is None


# --------------------------------------------------------------------------------------------------------- no event


@pytest.mark.parametrize(
    "text",
    [
        '{"channel":"subscriptions","timestamp":"2026-08-09T21:05:48.228846629Z","sequence_num":2,"events":[{"subscriptions":{"market_trades":["BTC-USD"]}}]}',
        '{"channel":"heartbeats","timestamp":"2026-08-09T21:05:48.856364007Z","sequence_num":35,"events":[{"current_time":"2026-08-09 21:05:48.854840045 +0000 UTC m=+41691.260485341","heartbeat_counter":41691}]}',
        '{"channel":"l2_data","timestamp":"0001-01-01T00:00:00Z","sequence_num":1,"events":[{"type":"snapshot","product_id":"BTC-USD","updates":[{"side":"bid","event_time":"0001-01-01T00:00:00Z","price_level":"1","new_quantity":"0"}]}]}',
        '{"channel":"candles","events":[{"type":"update","candles":[{"start":"1786309500","high":"1919.6"}]}]}',
        '{"channel":"status","events":[{"type":"snapshot","products":[]}]}',
        '{"channel":"ticker_batch","events":[{"type":"update","tickers":[{"product_id":"BTC-USD"}]}]}',
        '{"channel":"user","events":[{"type":"snapshot","orders":[]}]}',
        '{"channel":"not known yet","events":5}',
        '{"type":"error","message":"authentication failure"}',
        '{"channel":"market_trades","timestamp":"x","sequence_num":9,"events":[]}',
        '{"channel":"ticker","timestamp":"2026-08-09T21:05:48Z","events":[{"type":"update","tickers":[]}]}',
        "{}",
    ],
)
def test_well_formed_messages_without_a_trade_or_quote_give_nothing(text: str) -> None:
    assert coinbase.decode(text.encode(), RECEIVED) == []


def test_a_book_of_five_megabytes_is_passed_over() -> None:
    level = {
        "side": "offer",
        "event_time": "2026-08-09T21:05:48.170326Z",
        "price_level": "65083.66",
        "new_quantity": "0.2",
    }
    frame = envelope("l2_data", {"type": "snapshot", "product_id": "BTC-USD", "updates": [level] * 48_000})
    assert len(frame) > 5_000_000
    assert coinbase.decode(frame, RECEIVED) == []
    with pytest.raises(DecodeError):
        coinbase.decode(frame[:-2], RECEIVED)


# -------------------------------------------------------------------------------------------------- broken protocol


@pytest.mark.parametrize("field", list(TRADE))
def test_a_missing_or_wrongly_typed_field_of_a_trade_breaks_the_protocol(field: str) -> None:
    missing = {name: value for name, value in TRADE.items() if name != field}
    values: list[object] = [None, [], {}, "", True]
    for broken in (missing, *(TRADE | {field: value} for value in values)):
        with pytest.raises(DecodeError, match=field):
            trades(TRADE, broken)


@pytest.mark.parametrize("field", ["product_id", "best_bid", "best_ask"])
def test_a_missing_or_wrongly_typed_field_of_a_ticker_breaks_the_protocol(field: str) -> None:
    missing = {name: value for name, value in TICKER.items() if name != field}
    values: list[object] = [None, [], {}, "", True]
    for broken in (missing, *(TICKER | {field: value} for value in values)):
        with pytest.raises(DecodeError, match=field):
            tickers(TICKER, broken)


@pytest.mark.parametrize("value", ["NaN", "nan", "Infinity", "-inf", "1e400", "0x10", "1_000", "", " 1", "garbage"])
def test_numbers_that_are_none_break_the_protocol(value: str) -> None:
    for field in ("price", "size"):
        with pytest.raises(DecodeError, match=field):
            trades(TRADE | {field: value})
    for field in ("best_bid", "best_ask", "best_bid_quantity", "best_ask_quantity"):
        with pytest.raises(DecodeError, match=field):
            tickers(TICKER | {field: value})


@pytest.mark.parametrize("value", [INT64_MAX + 1, -(2**63) - 1, "9223372036854775808", "1.5", "0x1", "d8f1"])
def test_ids_that_no_int64_holds_break_the_protocol(value: object) -> None:
    with pytest.raises(DecodeError, match="trade_id"):
        trades(TRADE | {"trade_id": value})


@pytest.mark.parametrize("value", ["0001-01-01T00:00:00.000000Z", "2262-01-01T00:00:00Z", "yesterday", "1786309548"])
def test_times_that_are_none_break_the_protocol(value: str) -> None:
    with pytest.raises(DecodeError, match="expected RFC 3339"):
        trades(TRADE | {"time": value})
    frame = envelope("ticker", {"type": "update", "tickers": [TICKER]})
    with pytest.raises(DecodeError, match="expected RFC 3339"):
        coinbase.decode(frame.replace(b"2026-08-09T21:05:48.298032046Z", value.encode()), RECEIVED)


@pytest.mark.parametrize("value", ["buy", "sell", "Buy", "OFFER", ""])
def test_sides_that_are_none_break_the_protocol(value: str) -> None:
    with pytest.raises(DecodeError, match="side"):
        trades(TRADE | {"side": value})


@pytest.mark.parametrize(
    "text",
    [
        '{"channel":"market_trades"}',
        '{"channel":"market_trades","events":null}',
        '{"channel":"market_trades","events":{}}',
        '{"channel":"market_trades","events":[{}]}',
        '{"channel":"market_trades","events":[{"type":"update"}]}',
        '{"channel":"market_trades","events":[{"trades":[]}]}',
        '{"channel":"ticker","events":[]}',
        '{"channel":"ticker","timestamp":5,"events":[]}',
        '{"channel":"ticker","timestamp":"2026-08-09T21:05:48Z","events":[{"type":"update"}]}',
        '{"channel":5,"events":[]}',
        '{"channel":null}',
        '{"channel":["ticker"]}',
    ],
)
def test_messages_of_another_build_break_the_protocol(text: str) -> None:
    with pytest.raises(DecodeError):
        coinbase.decode(text.encode(), RECEIVED)
