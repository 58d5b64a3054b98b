"""What moves in a message of each exchange, and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.events import Tick
from feeds import decoder
from replay.exchange import binance_data, coinbase_data, coinbase_exchange_data, kucoin_data
from replay.rewrite import (
    HOLE,
    NS_PER_S,
    Each,
    Field,
    Form,
    Movable,
    Moves,
    Shape,
    elements,
    members,
    places,
    rfc3339,
    time_of,
)
from replay.sources import BUILT_INS, Capture

MOVERS: dict[str, Callable[[bytes], Sequence[Movable]]] = {
    "binance": binance_data.movable,
    "coinbase": coinbase_data.movable,
    "coinbase_exchange": coinbase_exchange_data.movable,
    "kucoin": kucoin_data.movable,
}
FIRST_LINES = 2_000


def frames(feed: str) -> list[bytes]:
    lines = [line for _, line in Capture(BUILT_INS[feed]).lines() if line.kind == "recv"]
    return [line.frame for line in lines[:FIRST_LINES]]


@pytest.mark.parametrize("feed", MOVERS)
def test_every_recorded_message_comes_back_byte_for_byte(feed: str) -> None:
    served = 0
    for frame in frames(feed):
        for message in MOVERS[feed](frame):
            payload = json.dumps(json.loads(frame)["data"]).replace(" ", "").encode() if feed == "binance" else frame
            assert message.payload() == payload
            served += 1
    assert served > 100


@pytest.mark.parametrize("feed", MOVERS)
def test_what_a_message_says_of_trades_is_what_the_decoder_makes_of_it(feed: str) -> None:
    decode = decoder(feed).decode
    trades = 0
    for frame in frames(feed):
        said = [
            (one.id, float(one.price), float(one.size), one.side, one.time_ns, message.is_history)
            for message in MOVERS[feed](frame)
            for one in message.trades
        ]
        ticks = [
            (tick.trade_id, tick.price, tick.volume, tick.side, tick.timestamp, tick.late)
            for tick in decode(frame, 1)
            if isinstance(tick, Tick)
        ]
        assert said == ticks
        trades += len(ticks)
    assert trades >= 13


def moved(message: Movable) -> Any:
    """The message with each number greater by one: of what counts a connection's messages, a hole."""
    values: list[int | bytes] = []
    for number in message.numbers:
        if number.form is Form.DIGITS:
            values.append(number.value // (number.unit or 1) + 1)
        elif number.form is Form.HOLE:
            values.append(b"7")
        elif number.form is Form.HEX_S:
            values.append(b"%08x" % (number.value // NS_PER_S + 1))
        else:
            values.append(rfc3339(number.value + number.unit))
    return json.loads(message.template % tuple(values))


def test_numbers_of_coinbase_move_and_nothing_else() -> None:
    frame = (
        b'{"channel":"market_trades","timestamp":"2026-08-09T21:05:48.251397169Z","sequence_num":9,"events":[{"type":"update",'
        b'"trades":[{"product_id":"BTC-USD","trade_id":"1068572091","price":"65083.67","size":"0.01034361",'
        b'"time":"2026-08-09T21:05:48.50436Z","side":"SELL"}]}]}'
    )
    (message,) = coinbase_data.movable(frame)
    assert (message.stream, message.symbol) == ("market_trades:BTC-USD", "BTC-USD")
    found, was = moved(message), json.loads(frame)
    assert found["timestamp"] == "2026-08-09T21:05:48.25139717Z"
    assert found["sequence_num"] == 7
    trade = found["events"][0]["trades"][0]
    assert trade["trade_id"] == "1068572092"
    assert trade["time"] == "2026-08-09T21:05:48.504361Z"
    found["timestamp"], found["sequence_num"] = was["timestamp"], 9
    trade["trade_id"], trade["time"] = "1068572091", "2026-08-09T21:05:48.50436Z"
    assert found == was


def test_numbers_of_coinbase_exchange_move_and_nothing_else() -> None:
    frame = (
        b'{"type":"match","trade_id":280232,"maker_order_id":"2a0d","taker_order_id":"3c82","side":"sell","size":"985",'
        b'"price":"0.00001305","product_id":"SKL-BTC","sequence":177100030,"time":"2021-04-17T16:43:37.089720Z"}'
    )
    (message,) = coinbase_exchange_data.movable(frame)
    assert (message.stream, message.symbol) == ("matches:SKL-BTC", "SKL-BTC")
    assert [number.form for number in message.numbers] == [Form.DIGITS, Form.DIGITS, Form.RFC3339_US]
    found, was = moved(message), json.loads(frame)
    assert found.pop("time") == "2021-04-17T16:43:37.089721Z"
    assert (found.pop("trade_id"), found.pop("sequence")) == (280233, 177100031)
    assert found == {name: was[name] for name in found}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("11067996711960577", "11067996711960578"),
        ("6085c09769bc506996295e36", "6085c09869bc506996295e36"),
        ("a name", "a name"),
    ],
)
def test_numbers_of_kucoin_move_and_nothing_else(said: str, expected: str) -> None:
    frame = (
        b'{"topic":"/market/match:BTC-USDT","type":"message","subject":"trade.l3match","data":{"makerOrderId":"671b","price":"67523",'
        b'"sequence":"11067996711960577","side":"buy","size":"0.003","symbol":"BTC-USDT","takerOrderId":"671b",'
        b'"time":"1729843222921000000","tradeId":"%b","type":"match"}}' % said.encode()
    )
    (message,) = kucoin_data.movable(frame)
    assert (message.stream, message.symbol) == ("/market/match:BTC-USDT", "BTC-USDT")
    found, was = moved(message)["data"], json.loads(frame)["data"]
    assert found.pop("sequence") == "11067996711960578"
    assert found.pop("time") == "1729843222921000001"
    assert found.pop("tradeId") == expected
    assert found == {name: was[name] for name in found}


def test_the_book_of_kucoin_moves_with_its_trades() -> None:
    frame = (
        b'{"data":{"sequenceStart":10,"symbol":"CAPP-BTC","changes":{"asks":[["0.0000002197","4895.9","10"],["1","2","11"]],"bids":[]},'
        b'"sequenceEnd":11},"subject":"trade.l2update","topic":"/market/level2:CAPP-BTC","type":"message"}'
    )
    (message,) = kucoin_data.movable(frame)
    assert [number.value for number in message.numbers] == [10, 10, 11, 11]
    assert all(number.moves is Moves.UPDATE_ID for number in message.numbers)


def test_a_message_of_several_products_becomes_one_for_each() -> None:
    def event(*products: str) -> dict[str, Any]:
        rows = [
            {
                "product_id": name,
                "trade_id": f"{at}",
                "price": "1",
                "size": "2",
                "time": "2026-08-09T21:05:48Z",
                "side": "BUY",
            }
            for at, name in enumerate(products, 10)
        ]
        return {"type": "update", "trades": rows[::-1]}

    frame = {
        "channel": "market_trades", "timestamp": "2026-08-09T21:05:48.1Z", "sequence_num": 3,
        "events": [event("BTC-USD", "ETH-USD", "BTC-USD"), event("SOL-USD")],
    }  # fmt: skip
    found = coinbase_data.movable(json.dumps(frame).encode())
    assert [message.symbol for message in found] == ["BTC-USD", "ETH-USD", "SOL-USD"]
    assert [[trade.id for trade in message.trades] for message in found] == [[10, 12], [11], [10]]
    said = json.loads(found[0].payload())
    assert (said["sequence_num"], said["timestamp"]) == (3, "2026-08-09T21:05:48.1Z")
    assert [trade["trade_id"] for trade in said["events"][0]["trades"]] == ["12", "10"]


@pytest.mark.parametrize(
    ("feed", "frame"),
    [
        ("coinbase", '{"channel":"heartbeats","timestamp":"2026-08-09T21:05:48Z","sequence_num":1,"events":[{"heartbeat_counter":1}]}'),
        ("coinbase", '{"channel":"subscriptions","timestamp":"2026-08-09T21:05:48Z","sequence_num":1,"events":[{"subscriptions":{}}]}'),
        ("coinbase", '{"type":"error","message":"x"}'),
        ("coinbase_exchange", '{"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"BTC-USD","time":"x"}'),
        ("coinbase_exchange", '{"type":"subscriptions","channels":[]}'),
        ("coinbase_exchange", '{"type":"match","trade_id":1,"product_id":""}'),
        ("kucoin", '{"id":"1","type":"ack"}'),
        ("kucoin", '{"id":"x","type":"welcome"}'),
        ("kucoin", '{"type":"message","topic":"/market/match:A-B,C-D","data":{}}'),
    ],
)  # fmt: skip
def test_what_is_no_market_data_of_a_symbol_is_passed_over(feed: str, frame: str) -> None:
    assert not MOVERS[feed](frame.encode())


@given(st.binary())
def test_no_bytes_make_reading_a_message_fail(frame: bytes) -> None:
    for mover in MOVERS.values():
        assert all(isinstance(message, Movable) for message in mover(frame))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["7", "2026-08-09T21:05:48.25Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(st.sampled_from(["sequence", "time", "trade_id", "price", "%d", 'q"']), JSON, max_size=6),
    st.sampled_from(["match", "ticker", "l2update"]),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]),
)
def test_any_message_comes_back_byte_for_byte(fields: dict[str, Any], kind: str, separators: tuple[str, str]) -> None:
    frame = json.dumps(fields | {"type": kind, "product_id": "A-B"}, separators=separators).encode()
    (message,) = coinbase_exchange_data.movable(frame)
    assert message.payload() == frame


# The places of numbers


@given(JSON, st.sampled_from([(",", ":"), (", ", ": ")]))
def test_members_and_elements_are_where_the_grammar_says(value: Any, separators: tuple[str, str]) -> None:
    text = json.dumps({"list": [value, value], "object": {"a": value, "b": 1}}, separators=separators).encode()
    found = {name: json.loads(text[start:stop]) for name, (start, stop) in members(text, 0)}
    assert found == {"list": [value, value], "object": {"a": value, "b": 1}}
    start, _ = dict(members(text, 0))["list"]
    assert [json.loads(text[begin:end]) for begin, end in elements(text, start)] == [value, value]


def test_a_shape_finds_what_it_names_and_of_equal_names_the_last() -> None:
    text = b'{"a":[[1,2],[3,4]],"b":5,"c":{"b":6},"b":"7","d":-8,"e":1.5,"f":"0012"}'
    one = Field(Moves.TRADE_ID)
    shape: Shape = {"a": Each(Each(one, 1)), "b": one, "d": one, "e": one, "f": one, "g": one}
    assert [number.value for _, _, number in places(text, shape)] == [2, 4, 7]
    assert HOLE not in text


@given(st.integers(1_000_000, 4_000_000_000 * NS_PER_S))
def test_a_time_is_read_as_it_is_written(time_ns: int) -> None:
    if time_ns >= NS_PER_S:
        assert time_of(rfc3339(time_ns)) == time_ns
        assert time_of(rfc3339(time_ns, is_short=False)) == time_ns // 1_000 * 1_000


@pytest.mark.parametrize("text", [b"0001-01-01T00:00:00.000000Z", b"2026-13-01T00:00:00Z", b"", b"\xff", b"1690000000"])
def test_what_is_no_time_is_none(text: bytes) -> None:
    assert time_of(text) is None


@settings(max_examples=20)
@given(st.text(max_size=20))
def test_a_time_that_cannot_be_is_left_as_it_is(text: str) -> None:
    frame = json.dumps({"type": "match", "product_id": "A-B", "trade_id": 1, "time": text}).encode()
    (message,) = coinbase_exchange_data.movable(frame)
    assert message.payload() == frame
