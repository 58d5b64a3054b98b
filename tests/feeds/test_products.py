"""The product lists inside the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import FeedError
from feeds.products import built_in_products

FOLDER = Path(__file__).parents[2] / "feeds" / "products"


@pytest.mark.parametrize(
    ("symbol", "ours"),
    [
        ("BTCUSDT", "BTC/USDT"),
        ("ETHUSDT", "ETH/USDT"),
        ("NKNUSDT", "NKN/USDT"),
        ("BLZETH", "BLZ/ETH"),
        ("LRCBTC", "LRC/BTC"),
        ("RUNEEUR", "RUNE/EUR"),
        ("LTCUSDT", "LTC/USDT"),
        ("NEXOUSDT", "NEXO/USDT"),
        ("ARBNB", "AR/BNB"),  # not ARB/NB
        ("ARBUSDT", "ARB/USDT"),
        ("TUSDT", "T/USDT"),  # not TUSD/T
        ("BCHABCUSDT", "BCHABC/USDT"),
    ],
)
def test_binance_pairs_have_the_base_and_quote_that_binance_names(symbol: str, ours: str) -> None:
    assert built_in_products("binance")[symbol] == ours


def test_every_binance_symbol_is_its_base_and_quote_joined() -> None:
    products = built_in_products("binance")
    assert len(products) > 2_000
    for symbol, ours in products.items():
        base, quote = ours.split("/")
        assert base
        assert quote
        assert symbol == base + quote


def test_the_file_is_sorted_with_one_product_a_line_and_none_twice() -> None:
    text = (FOLDER / "binance.json").read_text()
    pairs = json.loads(text, object_pairs_hook=list)
    symbols = [symbol for symbol, _ in pairs]
    assert symbols == sorted(set(symbols))
    assert len(text.splitlines()) == len(symbols) + 2


def test_a_list_is_read_once_and_cannot_be_changed() -> None:
    products = built_in_products("binance")
    assert built_in_products("binance") is products
    with pytest.raises(TypeError):
        products["BTCUSDT"] = "BTC/USD"  # type: ignore[index]


def test_an_exchange_without_a_list_says_so() -> None:
    with pytest.raises(FeedError, match="no built-in product list for 'nowhere'"):
        built_in_products("nowhere")
