"""Product lists, from the bytes of an exchange's answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import FeedError
from feeds.product_lists import EXCHANGE_APIS, Product, RateLimit, parse, products_url, read_list

BINANCE = {
    "timezone": "UTC",
    "serverTime": 1786309548031,
    "rateLimits": [
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000},
        {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61000},
        {"rateLimitType": "ORDERS", "interval": "FORTNIGHT", "intervalNum": 1, "limit": 1},
        {"limit": "soon"},
    ],
    "exchangeFilters": [],
    "symbols": [
        {"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT", "filters": [{"a": 1}]},
        {"symbol": "ARBNB", "status": "HALT", "baseAsset": "AR", "quoteAsset": "BNB"},
        {"symbol": "ARBUSDT", "status": "CANCEL_ONLY", "baseAsset": "ARB", "quoteAsset": "USDT"},
        {"symbol": "BCHABCUSDT", "status": "BREAK", "baseAsset": "BCHABC", "quoteAsset": "USDT"},
        {"symbol": "NEWUSDT", "status": "SOMETHING_NEW", "baseAsset": "NEW", "quoteAsset": "USDT"},
    ],
}
ADVANCED = {
    "products": [
        {
            "product_id": "BTC-USD",
            "base_currency_id": "BTC",
            "quote_currency_id": "USD",
            "base_display_symbol": "BTC",
            "quote_display_symbol": "USD",
            "product_type": "SPOT",
            "status": "online",
            "trading_disabled": False,
            "is_disabled": False,
            "view_only": False,
            "alias": "",
            "alias_to": ["BTC-USDC"],
            "price": "65086.18",
        },
        {
            "product_id": "BTC-USDC",
            "base_currency_id": "BTC",
            "quote_currency_id": "USDC",
            "product_type": "SPOT",
            "status": "online",
            "alias": "BTC-USD",
        },
        {
            "product_id": "OLD-USD",
            "base_currency_id": "OLD",
            "quote_currency_id": "USD",
            "product_type": "SPOT",
            "status": "delisted",
            "trading_disabled": True,
            "is_disabled": True,
        },
        {
            "product_id": "OFF-USD",
            "base_currency_id": "OFF",
            "quote_currency_id": "USD",
            "product_type": "SPOT",
            "status": "online",
            "is_disabled": True,
        },
        {
            "product_id": "SEE-USD",
            "base_currency_id": "",
            "quote_currency_id": None,
            "base_display_symbol": "SEE",
            "quote_display_symbol": "USD",
            "status": "online",
            "view_only": True,
        },
        {
            "product_id": "NAP-USD",
            "base_currency_id": "NAP",
            "quote_currency_id": "USD",
            "status": "online",
            "trading_disabled": True,
        },
        {"product_id": "BIT-31MAY26-CDE", "base_currency_id": "", "quote_currency_id": "USD", "product_type": "FUTURE"},
    ],
    "num_products": 7,
}
EXCHANGE = [
    {
        "id": "BTC-USD",
        "base_currency": "BTC",
        "quote_currency": "USD",
        "status": "online",
        "status_message": "",
        "trading_disabled": False,
    },
    {"id": "XRP-BTC", "base_currency": "XRP", "quote_currency": "BTC", "status": "delisted", "trading_disabled": True},
    {"id": "INT-USD", "base_currency": "INT", "quote_currency": "USD", "status": "internal"},
    {"id": "NAP-USD", "base_currency": "NAP", "quote_currency": "USD", "status": "online", "trading_disabled": True},
    {"id": "OFF-USD", "base_currency": "OFF", "quote_currency": "USD", "status": "offline", "trading_disabled": None},
]
KUCOIN = {
    "code": "200000",
    "data": [
        {
            "symbol": "BTC-USDT",
            "name": "BTC-USDT",
            "baseCurrency": "BTC",
            "quoteCurrency": "USDT",
            "enableTrading": True,
        },
        {
            "symbol": "BCHSV-USDT",
            "name": "BSV-USDT",
            "baseCurrency": "BSV",
            "quoteCurrency": "USDT",
            "enableTrading": True,
        },
        {"symbol": "GALAX-USDT", "name": "GALA-USDT", "baseCurrency": "GALAX", "quoteCurrency": "USDT"},
        {"symbol": "A-OLD", "name": "A-NEW", "baseCurrency": "A", "quoteCurrency": "OLD"},
        {"symbol": "B-C", "name": None, "baseCurrency": "B", "quoteCurrency": "C", "enableTrading": False},
        {"symbol": "D-E", "name": "F-G", "baseCurrency": "D", "quoteCurrency": "E"},
    ],
}
ANSWERS: dict[str, Any] = {
    "binance": BINANCE,
    "coinbase": ADVANCED,
    "coinbase_exchange": EXCHANGE,
    "kucoin": KUCOIN,
}


def test_binance_names_base_quote_and_status() -> None:
    assert parse("binance", json.dumps(BINANCE).encode()) == (
        Product("BTCUSDT", "BTC/USDT", True, "TRADING"),
        Product("ARBNB", "AR/BNB", True, "HALT"),
        Product("ARBUSDT", "ARB/USDT", True, "CANCEL_ONLY"),
        Product("BCHABCUSDT", "BCHABC/USDT", False, "BREAK"),
        Product("NEWUSDT", "NEW/USDT", True, "SOMETHING_NEW"),
    )


def test_binance_names_its_own_limits() -> None:
    assert read_list("binance", json.dumps(BINANCE).encode()).limits == (
        RateLimit("REQUEST_WEIGHT", 6_000, 60),
        RateLimit("RAW_REQUESTS", 61_000, 300),
    )


def test_an_alias_a_disabled_and_a_delisted_product_of_coinbase_cannot_be_listened_to() -> None:
    assert parse("coinbase", json.dumps(ADVANCED).encode()) == (
        Product("BTC-USD", "BTC/USD", True, "online"),
        Product("BTC-USDC", "BTC/USDC", False, "alias of BTC-USD"),
        Product("OLD-USD", "OLD/USD", False, "delisted"),
        Product("OFF-USD", "OFF/USD", False, "is_disabled"),
        Product("SEE-USD", "SEE/USD", False, "view_only"),
        Product("NAP-USD", "NAP/USD", True, "online, trading_disabled"),
    )


def test_futures_are_passed_over_and_not_counted_as_unreadable() -> None:
    assert read_list("coinbase", json.dumps(ADVANCED).encode()).unreadable == 0


def test_coinbase_exchange_tells_delisted_products_from_paused_ones() -> None:
    assert parse("coinbase_exchange", json.dumps(EXCHANGE).encode()) == (
        Product("BTC-USD", "BTC/USD", True, "online"),
        Product("XRP-BTC", "XRP/BTC", False, "delisted"),
        Product("INT-USD", "INT/USD", False, "internal"),
        Product("NAP-USD", "NAP/USD", True, "online, trading_disabled"),
        Product("OFF-USD", "OFF/USD", True, "offline"),
    )


def test_a_kucoin_pair_is_mapped_by_id_and_shown_by_name() -> None:
    assert parse("kucoin", json.dumps(KUCOIN).encode()) == (
        Product("BTC-USDT", "BTC/USDT", True, ""),
        Product("BCHSV-USDT", "BSV/USDT", True, ""),
        Product("GALAX-USDT", "GALA/USDT", True, ""),
        Product("A-OLD", "A/NEW", True, ""),
        Product("B-C", "B/C", False, "enableTrading = false"),
        Product("D-E", "D/E", True, ""),  # a name of which neither part is known is not guessed at
    )


@pytest.mark.parametrize("exchange_api", EXCHANGE_APIS)
def test_an_entry_that_cannot_be_read_is_left_out_and_counted(exchange_api: str) -> None:
    answer = json.loads(json.dumps(ANSWERS[exchange_api]))
    whole = read_list(exchange_api, json.dumps(answer).encode())
    entries = answer if isinstance(answer, list) else answer.get("symbols") or answer.get("products") or answer["data"]
    names = [name for name in entries[0] if name in ("baseAsset", "base_currency_id", "base_currency", "baseCurrency")]
    spoilt = [
        {**entries[0], names[0]: wrong, "base_display_symbol": "", "name": ""} for wrong in ("", "A/B", 7, "x" * 65)
    ]
    entries[0:0] = [*spoilt, 5, None, entries[0]]
    found = read_list(exchange_api, json.dumps(answer).encode())
    assert found.products == whole.products
    assert found.unreadable == whole.unreadable + 4 + 2 + 1  # the last is there twice
    assert "expected a base of 1 to 64 characters" in found.first_unreadable


@pytest.mark.parametrize(
    ("exchange_api", "body", "said"),
    [
        ("binance", b"", r"binance: expected \{\"symbols\": .* \(Input data was truncated\), came nothing"),
        ("binance", b'{"code":-1003,"msg":"Too many requests"}', r"missing required field `symbols`.* came .*Too many"),
        ("binance", b'{"symbols":[]}', r"with at least one product, came \{\"symbols\":\[\]\}"),
        ("coinbase", b"<html>\n <body>Bad gateway</body></html>", "came <html> <body>Bad gateway</body></html>"),
        ("coinbase", b'{"products":[{"product_id":"BTC-USD"}]}', r"\(1 entries, none of them readable: .*BTC-USD"),
        ("coinbase_exchange", b'{"message":"NotFound"}', "Expected `array`, got `object`"),
        ("coinbase_exchange", b"\xff\xfe[", r"came \\xff\\xfe\["),
        ("kucoin", b'{"code":"429000","msg":"Too many requests"}', "came .*429000"),
        ("kucoin", b'{"code":"400100","data":[]}', "its code is 400100"),
        ("kucoin", b"[" * 100_000, r"came \[\[\["),
        ("coinbase_exchange", b'[{"id":' + b"[" * 100_000, "recursion depth"),
    ],
)
def test_an_answer_that_is_something_else_is_shown_beside_what_was_expected(
    exchange_api: str, body: bytes, said: str
) -> None:
    with pytest.raises(FeedError, match=said) as raised:
        parse(exchange_api, body)
    assert len(str(raised.value)) < 700


@pytest.mark.parametrize(
    ("exchange_api", "url"),
    [
        ("binance", "https://host/api/v3/exchangeInfo"),
        ("coinbase", "https://host/api/v3/brokerage/market/products"),
        ("coinbase_exchange", "https://host/products"),
        ("kucoin", "https://host/api/v2/symbols"),
    ],
)
def test_each_api_has_its_list_at_a_path_of_its_own(exchange_api: str, url: str) -> None:
    assert products_url(exchange_api, "https://host") == url
    assert products_url(exchange_api, "https://host/") == url


def test_an_api_that_is_not_known_says_which_ones_are() -> None:
    with pytest.raises(FeedError, match="no product list for 'nowhere': expected one of binance, coinbase, "):
        parse("nowhere", b"")
    with pytest.raises(FeedError, match="nowhere"):
        products_url("nowhere", "https://host")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        *(
            "symbols",
            "products",
            "data",
            "code",
            "symbol",
            "id",
            "product_id",
            "name",
            "status",
            "baseAsset",
            "quoteAsset",
        ),
        *("baseCurrency", "quoteCurrency", "base_currency", "quote_currency", "base_currency_id", "quote_currency_id"),
    ]
)


@given(st.sampled_from(EXCHANGE_APIS), st.binary(max_size=60))
def test_any_bytes_at_all_give_products_or_a_feed_error(exchange_api: str, body: bytes) -> None:
    check(exchange_api, body)


@given(st.sampled_from(EXCHANGE_APIS), st.lists(st.dictionaries(FIELDS, JSON, max_size=6), max_size=3))
def test_any_entries_at_all_give_products_or_a_feed_error(exchange_api: str, entries: list[dict[str, Any]]) -> None:
    body = {"symbols": entries, "products": entries, "data": entries, "code": "200000"}
    check(exchange_api, json.dumps(entries if exchange_api == "coinbase_exchange" else body).encode())


def check(exchange_api: str, body: bytes) -> None:
    try:
        products = parse(exchange_api, body)
    except FeedError:
        return
    assert products
    assert len({product.id for product in products}) == len(products)
    for product in products:
        base, slash, quote = product.symbol.partition("/")
        assert base
        assert slash
        assert quote
        assert "/" not in quote
        assert product.id
        product.id.encode()  # can be written to disk, and sent
        product.symbol.encode()
