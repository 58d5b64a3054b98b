"""What every exchange's protocol obeys: whatever its decoder finds no event in, it reads as an answer or as nothing."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DecodeError
from feeds import decoder
from feeds.binance_stream import BinanceProtocol
from feeds.coinbase_exchange_stream import CoinbaseExchangeProtocol
from feeds.coinbase_stream import CoinbaseProtocol
from feeds.kucoin_stream import KucoinProtocol
from feeds.speech import Answer, StreamProtocol

PROTOCOLS: dict[str, StreamProtocol] = {
    "binance": BinanceProtocol("ws://x", ("trade",), {"BTC/USDT": "BTCUSDT"}),
    "coinbase": CoinbaseProtocol("ws://x", {"BTC/USD": "BTC-USD"}),
    "coinbase_exchange": CoinbaseExchangeProtocol("ws://x", {"BTC/USD": "BTC-USD"}),
    "kucoin": KucoinProtocol("http://x", "", {"BTC/USDT": "BTC-USDT"}),
}
WORDS = [
    "401", "ack", "BTC-USD", "channel", "channels", "code", "data", "e", "error", "events", "heartbeat", "heartbeats", "id",
    "last_trade_id", "message", "msg", "name", "pong", "product_id", "product_ids", "reason", "result", "sequence_num", "stream",
    "subject", "subscriptions", "ticker", "topic", "type", "u", "welcome",
]  # fmt: skip
FRAMES = st.binary() | st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=60)
@given(frame=FRAMES)
def test_whatever_the_decoder_finds_no_event_in_is_an_answer_or_nothing(name: str, frame: bytes) -> None:
    try:
        events = decoder(name, {}).decode(frame, 0)
    except DecodeError:
        return
    if not events:
        answer = PROTOCOLS[name].read(frame)
        assert answer is None or isinstance(answer, get_args(Answer))
