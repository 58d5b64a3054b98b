"""What is said to Coinbase Exchange's ws-feed, and how its answers are read."""

from __future__ import annotations

import json

import pytest

from feeds.coinbase_exchange_stream import CoinbaseExchangeProtocol
from feeds.speech import Address, Answer, Listed, Reached, Rejected, Unexpected

SPELLING = {"BTC/USD": "BTC-USD", "SKL/GBP": "SKL-GBP"}
PROTOCOL = CoinbaseExchangeProtocol("wss://ws-feed.exchange.coinbase.com", SPELLING)


def test_it_dials_the_host_itself_and_fetches_nothing() -> None:
    assert PROTOCOL.fetch() is None
    assert PROTOCOL.address("coinbase 1 1", None) == Address("wss://ws-feed.exchange.coinbase.com")


def test_a_request_names_all_channels_at_once() -> None:
    # The form is the documentation's.
    assert json.loads(PROTOCOL.subscribe(1, "", ["BTC/USD"])) == {
        "type": "subscribe",
        "product_ids": ["BTC-USD"],
        "channels": ["matches", "ticker", "heartbeat"],
    }
    assert json.loads(PROTOCOL.unsubscribe(2, "", ["BTC/USD", "SKL/GBP"]))["type"] == "unsubscribe"


def listing(**channels: list[str]) -> str:
    named = [{"name": name, "product_ids": products} for name, products in channels.items()]
    return json.dumps({"type": "subscriptions", "channels": named})


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        (listing(ticker=["BTC-USD"], heartbeat=["BTC-USD"], matches=["BTC-USD"]), Listed({"": ("BTC/USD",)})),
        (
            listing(ticker=["BTC-USD"], heartbeat=["SKL-GBP", "BTC-USD"], matches=["BTC-USD", "SKL-GBP"]),
            Listed({"": ("BTC/USD",)}),  # whoever is not on all three is not subscribed
        ),
        (listing(ticker=["BTC-USD"], matches=["BTC-USD"]), Listed({"": ()})),
        (listing(), Listed({"": ()})),
        (
            '{"type":"error","message":"Failed to subscribe","reason":"X-USD is not a valid product"}',
            Rejected(None, "Failed to subscribe: X-USD is not a valid product"),
        ),
        ('{"type":"error"}', Rejected(None, '{"type":"error"}')),
        (
            '{"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"BTC-USD","time":"2014-11-07T08:19:28Z"}',
            Reached("BTC/USD", 20),
        ),
        ('{"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"X-USD","time":""}', None),
        ('{"type":"heartbeat","sequence":90,"product_id":"BTC-USD"}', None),
        ('{"type":"status","products":[]}', None),
        ('{"type":"l2update","product_id":"BTC-USD","changes":[]}', None),
    ],
)
def test_each_known_answer_is_read_for_what_it_is(frame: str, answer: Answer | None) -> None:
    assert PROTOCOL.read(frame.encode()) == answer


@pytest.mark.parametrize("frame", ['{"hello":1}', "[]", "nonsense", '{"type":"subscriptions"}', '{"type":7}'])
def test_an_unknown_answer_says_what_was_expected_and_shows_what_came(frame: str) -> None:
    answer = PROTOCOL.read(frame.encode())
    assert answer == Unexpected(f"coinbase: expected a type, or an error with a message, came {frame}")
