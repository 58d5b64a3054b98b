"""The names under which decoders are built."""

from __future__ import annotations

import pytest

from engine.errors import FeedError
from engine.events import Tick
from feeds import DECODERS, decoder
from tests.captures import messages


def test_there_is_a_decoder_for_every_feed() -> None:
    assert sorted(DECODERS) == ["binance", "coinbase", "coinbase_exchange", "kucoin"]
    assert {type(decoder(name)).__name__ for name in DECODERS} == {
        "BinanceDecoder",
        "CoinbaseDecoder",
        "CoinbaseExchangeDecoder",
        "KucoinDecoder",
    }


def test_an_unknown_exchange_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(FeedError, match=r"no decoder named 'mtgox': expected one of .*binance, coinbase, .*kucoin"):
        decoder("mtgox")


@pytest.mark.parametrize(
    ("feed", "exchange"),
    [("binance", "binance"), ("coinbase", "coinbase"), ("coinbase_exchange", "coinbase"), ("kucoin", "kucoin")],
)
def test_both_feeds_of_coinbase_are_of_one_exchange(feed: str, exchange: str) -> None:
    decode = decoder(feed).decode
    ticks = (e for m in messages(feed) for e in decode(m.frame, m.received) if isinstance(e, Tick))
    tick = next(ticks)
    assert tick.exchange == exchange
    assert "/" in tick.symbol


@pytest.mark.parametrize("feed", sorted(DECODERS))
def test_a_product_list_handed_in_replaces_the_built_in_one(feed: str) -> None:
    decode = decoder(feed, {}).decode
    ticks = (e for m in messages(feed) for e in decode(m.frame, m.received) if isinstance(e, Tick))
    assert "/" not in next(ticks).symbol
