"""What is said to KuCoin, where it is dialled, and how its answers are read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import FeedError
from feeds.kucoin_stream import KucoinProtocol
from feeds.speech import Acknowledged, Address, Answer, Expired, Fetch, Greeted, Ponged, Rejected, Unexpected

SPELLING = {"BTC/USDT": "BTC-USDT", "BSV/USDT": "BCHSV-USDT"}
PROTOCOL = KucoinProtocol("https://api.kucoin.com", "", SPELLING)
S = 1_000_000_000


def bullet(**server: Any) -> bytes:
    # The documentation's example.
    known = {
        "endpoint": "wss://ws-api-spot.kucoin.com/",
        "encrypt": True,
        "protocol": "websocket",
        "pingInterval": 18000,
        "pingTimeout": 10000,
    }
    return json.dumps({"code": "200000", "data": {"token": "2neA+/=", "instanceServers": [known | server]}}).encode()


def test_where_to_dial_is_what_the_answer_says() -> None:
    assert PROTOCOL.fetch() == Fetch("POST", "https://api.kucoin.com/api/v1/bullet-public")
    assert PROTOCOL.address("kucoin 1 3", bullet()) == Address(
        "wss://ws-api-spot.kucoin.com/?token=2neA%2B%2F%3D&connectId=kucoin-1-3",
        ping_every_ns=18 * S,
        pong_within_ns=10 * S,
    )
    other = PROTOCOL.address("k", bullet(endpoint="ws://127.0.0.1:1/kucoin/endpoint?a=1", pingInterval=500))
    assert other == Address("ws://127.0.0.1:1/kucoin/endpoint?a=1&token=2neA%2B%2F%3D&connectId=k", S // 2, 10 * S)


def test_a_websocket_of_the_configuration_goes_before_the_answers_endpoint() -> None:
    protocol = KucoinProtocol("http://127.0.0.1:9/kucoin/", "ws://127.0.0.1:9/elsewhere", SPELLING)
    assert protocol.fetch().url == "http://127.0.0.1:9/kucoin/api/v1/bullet-public"
    assert protocol.address("k", bullet()).url == "ws://127.0.0.1:9/elsewhere?token=2neA%2B%2F%3D&connectId=k"


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"\xff",
        b'{"code":"429000","msg":"Too many requests"}',
        b'{"code":"200000","data":{"token":"","instanceServers":[]}}',
        bullet(endpoint="https://somewhere"),
        bullet(pingInterval=0),
        bullet(pingTimeout="soon"),
        bullet(protocol="socket.io"),
    ],
)
def test_an_answer_that_names_no_server_says_what_was_expected_and_what_came(body: bytes | None) -> None:
    with pytest.raises(FeedError, match=r"https://api.kucoin.com/api/v1/bullet-public: expected .*, came ."):
        PROTOCOL.address("k", body)


def test_a_request_names_a_topic_with_its_symbols_by_id() -> None:
    # The form of the capture of 2021-04-25.
    assert json.loads(PROTOCOL.subscribe(1, "/market/match", ["BTC/USDT", "BSV/USDT"])) == {
        "id": "1",
        "type": "subscribe",
        "topic": "/market/match:BTC-USDT,BCHSV-USDT",
        "privateChannel": False,
        "response": True,
    }
    assert json.loads(PROTOCOL.unsubscribe(2, "/market/ticker", ["BTC/USDT"]))["type"] == "unsubscribe"
    assert json.loads(PROTOCOL.ping(3)) == {"id": "ping-3", "type": "ping"}


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        ('{"id":"hQvf8jkno","type":"welcome"}', Greeted()),
        ('{"id":"1","type":"ack"}', Acknowledged(1)),
        ('{"id":12,"type":"ack"}', Acknowledged(12)),
        ('{"id":"ping-3","type":"pong"}', Ponged()),
        (
            '{"id":"1","type":"error","code":415,"data":"type is not supported"}',
            Rejected(1, "type is not supported (code 415)"),
        ),
        (
            '{"id":"7","type":"error","code":404,"data":"topic is not found"}',
            Rejected(7, "topic is not found (code 404)"),
        ),
        ('{"id":"7","type":"error","code":509,"data":"exceed max"}', Rejected(7, "exceed max (code 509)")),
        ('{"type":"error","code":400}', Rejected(None, "no reason (code 400)")),
        ('{"id":"7","type":"error","data":{"a":1}}', Rejected(7, '{"a":1} (code missing)')),
        (
            '{"id":"660fd6c8","type":"error","code":401,"data":"token is expired"}',
            Expired("the exchange turns the token down: token is expired (code 401)"),
        ),
        ('{"topic":"/market/candles:BTC-USDT_1min","type":"message","subject":"trade.candles.update","data":{}}', None),
        ('{"type":"something new"}', None),
    ],
)
def test_each_known_answer_is_read_for_what_it_is(frame: str, answer: Answer | None) -> None:
    assert PROTOCOL.read(frame.encode()) == answer


@pytest.mark.parametrize("frame", ['{"hello":1}', "7", "nonsense", '{"type":7}'])
def test_an_unknown_answer_says_what_was_expected_and_shows_what_came(frame: str) -> None:
    said = f"kucoin: expected welcome, ack, pong, error or a message, came {frame}"
    assert PROTOCOL.read(frame.encode()) == Unexpected(said)


@pytest.mark.parametrize(
    "frame",
    [
        '{"id":"x","type":"ack"}',
        '{"type":"ack"}',
        '{"id":"660f","type":"error","code":500}',
        f'{{"id":"{"9" * 19}","type":"ack"}}',
    ],
)
def test_an_answer_to_a_request_that_is_none_of_ours_is_unexpected(frame: str) -> None:
    assert PROTOCOL.read(frame.encode()) == Unexpected(f"kucoin: expected the id of a request of ours, came {frame}")


@settings(max_examples=60)
@given(
    st.binary()
    | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=12).map(lambda v: json.dumps(v).encode())
)
def test_no_answer_raises_anything_but_feed_error(body: bytes) -> None:
    with pytest.raises(FeedError):
        PROTOCOL.address("k", body)
