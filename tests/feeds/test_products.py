"""The product lists inside the package."""

from __future__ import annotations

import json
import re
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


@pytest.mark.parametrize(
    ("exchange", "product", "ours"),
    [
        ("coinbase", "BTC-USD", "BTC/USD"),
        ("coinbase", "ETH-USD", "ETH/USD"),
        ("coinbase", "SKL-GBP", "SKL/GBP"),
        ("coinbase", "YFI-BTC", "YFI/BTC"),
        ("coinbase", "NMR-EUR", "NMR/EUR"),
        ("coinbase", "00-USD", "00/USD"),
        ("kucoin", "BTC-USDT", "BTC/USDT"),
        ("kucoin", "DAPPT-BTC", "DAPPT/BTC"),
        ("kucoin", "EQZ-BTC", "EQZ/BTC"),
        ("kucoin", "BCHSV-USDT", "BSV/USDT"),  # renamed since: the id stays
        ("kucoin", "GALAX-USDT", "GALA/USDT"),
        ("kucoin", "LOKI-BTC", "OXEN/BTC"),
    ],
)
def test_products_have_the_name_that_the_exchange_shows(exchange: str, product: str, ours: str) -> None:
    assert built_in_products(exchange)[product] == ours


@pytest.mark.parametrize(("exchange", "at_least"), [("coinbase", 600), ("kucoin", 600)])
def test_no_two_products_of_a_list_share_a_symbol(exchange: str, at_least: int) -> None:
    products = built_in_products(exchange)
    assert len(products) >= at_least
    assert len(set(products.values())) == len(products)
    for product, ours in products.items():
        assert re.fullmatch(r"[A-Z0-9]+-[A-Z0-9]+", product)
        assert re.fullmatch(r"[A-Z0-9]+/[A-Z0-9]+", ours)


@pytest.mark.parametrize("exchange", ["binance", "coinbase", "kucoin"])
def test_the_file_is_sorted_with_one_product_a_line_and_none_twice(exchange: str) -> None:
    text = (FOLDER / f"{exchange}.json").read_text()
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
