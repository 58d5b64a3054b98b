"""What is said to Coinbase Advanced Trade, and how its answers are read."""

from __future__ import annotations

import json

import pytest

from feeds.coinbase_stream import CoinbaseProtocol
from feeds.speech import Address, Answer, Counted, Listed, Rejected, Unexpected

SPELLING = {"BTC/USD": "BTC-USD", "ETH/USD": "ETH-USD"}
PROTOCOL = CoinbaseProtocol("wss://advanced-trade-ws.coinbase.com", SPELLING)


def test_it_dials_the_host_itself_and_fetches_nothing() -> None:
    assert PROTOCOL.fetch() is None
    assert PROTOCOL.address("coinbase 1 1", None) == Address("wss://advanced-trade-ws.coinbase.com")


def test_a_request_names_one_channel_and_heartbeats_have_no_products() -> None:
    # The forms of the capture of 2026-08-09, but for heartbeats, which were asked for with products there.
    assert json.loads(PROTOCOL.subscribe(1, "market_trades", ["BTC/USD", "ETH/USD"])) == {
        "type": "subscribe",
        "product_ids": ["BTC-USD", "ETH-USD"],
        "channel": "market_trades",
    }
    assert json.loads(PROTOCOL.unsubscribe(2, "ticker", ["ETH/USD"])) == {
        "type": "unsubscribe",
        "product_ids": ["ETH-USD"],
        "channel": "ticker",
    }
    assert json.loads(PROTOCOL.subscribe(3, "heartbeats", [])) == {"type": "subscribe", "channel": "heartbeats"}


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        # The first two are lines 9 and 42 of the capture of 2026-08-09 (cryptofeed's sample data).
        (
            (
                '{"channel":"subscriptions","timestamp":"2026-08-09T21:05:48.228846629Z","sequence_num":2,'
                '"events":[{"subscriptions":{"market_trades":["BTC-USD","ETH-USD"]}}]}'
            ),
            Listed({"market_trades": ("BTC/USD", "ETH/USD")}),
        ),
        (
            (
                '{"channel":"heartbeats","timestamp":"2026-08-09T21:05:48.856364007Z","sequence_num":35,"events":'
                '[{"current_time":"2026-08-09 21:05:48.854840045 +0000 UTC m=+41691.260485341","heartbeat_counter":41691}]}'
            ),
            Counted(36),
        ),
        (
            '{"channel":"subscriptions","events":[{"subscriptions":{"heartbeats":["heartbeats"],"ticker":["X-USD"]}}]}',
            Listed({"heartbeats": ("heartbeats",), "ticker": ("X-USD",)}),
        ),
        ('{"channel":"subscriptions","events":[]}', Listed({})),
        ('{"type":"error","message":"invalid product_id"}', Rejected(None, "invalid product_id")),
        ('{"type":"error","message":"no","reason":"rate"}', Rejected(None, "no: rate")),
        ('{"type":"error"}', Rejected(None, '{"type":"error"}')),
        ('{"channel":"l2_data","sequence_num":3,"events":[{"type":"update","updates":[]}]}', None),
        ('{"channel":"something_new","sequence_num":3,"events":[]}', None),
        ('{"channel":"heartbeats","events":[]}', None),
    ],
)
def test_each_known_answer_is_read_for_what_it_is(frame: str, answer: Answer | None) -> None:
    assert PROTOCOL.read(frame.encode()) == answer


@pytest.mark.parametrize(
    "frame",
    ['{"hello":1}', "7", "nonsense", '{"channel":"subscriptions","events":[{}]}', '{"type":"error","message":7}'],
)
def test_an_unknown_answer_says_what_was_expected_and_shows_what_came(frame: str) -> None:
    answer = PROTOCOL.read(frame.encode())
    assert answer == Unexpected(f"coinbase: expected a channel, or an error with a message, came {frame}")


def test_products_that_are_listed_later_are_read_too() -> None:
    spelling = {"BTC/USD": "BTC-USD"}
    protocol = CoinbaseProtocol("wss://host", spelling)
    frame = b'{"channel":"subscriptions","events":[{"subscriptions":{"ticker":["ETH-USD","BTC-USD"]}}]}'
    assert protocol.read(frame) == Listed({"ticker": ("ETH-USD", "BTC/USD")})
    spelling["ETH/USD"] = "ETH-USD"
    assert protocol.read(frame) == Listed({"ticker": ("ETH/USD", "BTC/USD")})
    del spelling["BTC/USD"]
    assert protocol.read(frame) == Listed({"ticker": ("ETH/USD", "BTC-USD")})


def test_only_a_policy_violation_that_speaks_of_a_rate_is_a_rate_limit() -> None:
    assert PROTOCOL.is_rate_limit(1008, "Rate limit exceeded")
    assert PROTOCOL.is_rate_limit(1008, "too many requests")
    assert not PROTOCOL.is_rate_limit(1008, "subscribe within 5 seconds")
    assert not PROTOCOL.is_rate_limit(1001, "rate limit")
