"""What is said to Binance, and how its answers are read."""

from __future__ import annotations

import json

import pytest

from feeds.binance_stream import BinanceProtocol
from feeds.speech import Acknowledged, Address, Answer, Rejected, ShuttingDown, Unexpected

SPELLING = {"BTC/USDT": "BTCUSDT", "ETH/USDT": "ETHUSDT", "AR/BNB": "ARBNB"}


def protocol(
    websocket: str = "wss://stream.binance.com:9443", streams: tuple[str, ...] = ("trade", "bookTicker")
) -> BinanceProtocol:
    return BinanceProtocol(websocket, streams, SPELLING)


@pytest.mark.parametrize(
    ("websocket", "url"),
    [
        ("wss://stream.binance.com:9443", "wss://stream.binance.com:9443/ws"),
        ("wss://data-stream.binance.vision/", "wss://data-stream.binance.vision/ws"),
        ("ws://127.0.0.1:8421/ws", "ws://127.0.0.1:8421/ws"),
        (
            "wss://stream.binance.com/stream?timeUnit=MICROSECOND",
            "wss://stream.binance.com/stream?timeUnit=MICROSECOND",
        ),
    ],
)
def test_a_host_takes_the_path_of_raw_streams_and_an_address_is_meant_as_it_is(websocket: str, url: str) -> None:
    assert protocol(websocket).fetch() is None
    assert protocol(websocket).address("binance 1 1", None) == Address(url)


def test_a_request_names_every_stream_of_every_symbol_in_lower_case() -> None:
    # The form is the documentation's: {"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade", "btcusdt@depth"], "id": 1}
    assert json.loads(protocol().subscribe(1, "", ["BTC/USDT", "AR/BNB"])) == {
        "method": "SUBSCRIBE",
        "params": ["btcusdt@trade", "btcusdt@bookTicker", "arbnb@trade", "arbnb@bookTicker"],
        "id": 1,
    }
    assert json.loads(protocol(streams=("aggTrade",)).unsubscribe(7, "", ["ETH/USDT"])) == {
        "method": "UNSUBSCRIBE",
        "params": ["ethusdt@aggTrade"],
        "id": 7,
    }


def test_a_full_request_stays_below_five_kilobytes() -> None:
    spelling = {f"{number}": f"1000000BABYDOGE{number:04d}" for number in range(1_000)}
    spoken = BinanceProtocol("wss://host", ("trade", "bookTicker"), spelling)
    assert len(spoken.subscribe(1, "", list(spelling)[: spoken.batch])) < 8_000
    assert spoken.batch == 100
    assert spoken.capacity == 512  # 1,024 streams


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        ('{"result":null,"id":1}', Acknowledged(1)),
        ('{"result":["btcusdt@aggTrade"],"id":3}', Acknowledged(3)),
        (
            '{"code":2,"msg":"Invalid request: unknown variant"}',
            Rejected(None, "Invalid request: unknown variant (code 2)"),
        ),
        ('{"code":0,"msg":"Unknown property","id":1}', Rejected(1, "Unknown property (code 0)")),
        ('{"id":null,"error":{"code":3,"msg":"Invalid json"}}', Rejected(None, "Invalid json (code 3)")),
        ('{"id":4,"error":{"code":1,"msg":"Invalid value type"}}', Rejected(4, "Invalid value type (code 1)")),
        ('{"id":4,"error":"no"}', Rejected(4, '{"id":4,"error":"no"}')),
        ('{"e":"serverShutdown","E":1770123456789}', ShuttingDown()),
        ('{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}', ShuttingDown()),
        ('{"e":"kline","E":1,"s":"BTCUSDT","k":{}}', None),
        ('{"stream":"btcusdt@depth5","data":{"lastUpdateId":160,"bids":[],"asks":[]}}', None),
        ('{"lastUpdateId":160,"bids":[],"asks":[]}', None),
        ('[{"e":"24hrMiniTicker"}]', None),
    ],
)
def test_each_known_answer_is_read_for_what_it_is(frame: str, answer: Answer | None) -> None:
    assert protocol().read(frame.encode()) == answer


@pytest.mark.parametrize(
    "frame", ['{"hello":1}', '{"result":null}', '{"result":null,"id":"x"}', "7", "nonsense", '"text"']
)
def test_an_unknown_answer_says_what_was_expected_and_shows_what_came(frame: str) -> None:
    answer = protocol().read(frame.encode())
    assert isinstance(answer, Unexpected)
    assert answer.detail == f"binance: expected market data or an answer with an id, came {frame}"


def test_only_a_policy_violation_that_says_too_many_is_a_rate_limit() -> None:
    assert protocol().is_rate_limit(1008, "Too many requests")
    assert not protocol().is_rate_limit(1008, "Pong timeout")
    assert not protocol().is_rate_limit(1001, "too many")
