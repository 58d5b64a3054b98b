"""An exchange's own list of its products, from the bytes of its answer: which pairs there are, what they are called, which are gone.

API                Answer of                              Gone, so that nobody can listen to it
binance            /api/v3/exchangeInfo                   status BREAK or END_OF_DAY
coinbase           /api/v3/brokerage/market/products      status delisted, is_disabled, view_only; an alias, whose messages come as those of another
coinbase_exchange  /products                              status delisted or internal
kucoin             /api/v2/symbols                        enableTrading = false, the one sign that it gives before a pair leaves the list

Base and quote are those that the exchange names, never a text that was split. A pause is no end: after HALT, CANCEL_ONLY or
trading_disabled trades come again on the same subscription, so such a product stays tradable and says so in its `status`.
Unknown fields are ignored, unknown states are taken for pauses, futures are passed over. Not verified against the live endpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from engine.errors import FRAME_EXCERPT_CHARACTERS, FeedError

NAME_CHARACTERS: Final = 64
BINANCE_GONE: Final = frozenset({"BREAK", "END_OF_DAY"})
COINBASE_GONE: Final = frozenset({"delisted", "internal"})
ALIAS_OF: Final = "alias of "
KUCOIN_OK: Final = "200000"
KUCOIN_GONE: Final = "enableTrading = false"
SECONDS: Final = {"SECOND": 1, "MINUTE": 60, "HOUR": 3_600, "DAY": 86_400}

_T = TypeVar("_T")


class Product(msgspec.Struct, frozen=True, gc=False):
    """One pair. `id` is the exchange's spelling, `symbol` ours (BASE/QUOTE), `status` the exchange's own word for its state.

    `tradable` is whether one can listen to it: False for what was delisted, True for what only pauses.
    """

    id: str
    symbol: str
    tradable: bool
    status: str


class RateLimit(msgspec.Struct, frozen=True):
    """A limit that the exchange names in the same answer: `limit` of `kind` (REQUEST_WEIGHT, ...) in any `interval_s` seconds."""

    kind: str
    limit: int
    interval_s: int


class ProductList(msgspec.Struct, frozen=True):
    """What one answer holds. `unreadable` entries were left out; `first_unreadable` says what was wrong with one of them."""

    products: tuple[Product, ...]
    unreadable: int = 0
    first_unreadable: str = ""
    limits: tuple[RateLimit, ...] = ()


def products_url(exchange_api: str, rest: str) -> str:
    """Where the list of an API is, on the REST host `rest` (https://api.binance.com).

    Raises FeedError if no API has that name.
    """
    return rest.rstrip("/") + _format(exchange_api).path


def parse(exchange_api: str, body: bytes) -> tuple[Product, ...]:
    """The products of an answer, in its order; `read_list` tells what was left out of them.

    Raises FeedError if the answer is no product list.
    """
    return read_list(exchange_api, body).products


def read_list(exchange_api: str, body: bytes) -> ProductList:
    """Read a whole answer. An entry that cannot be read, or has an id that came before, is left out and counted.

    Raises FeedError if the answer is something else, or holds no product at all: it says what was expected, and shows what came.
    """
    form = _format(exchange_api)
    try:
        entries, limits = form.entries(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FeedError(f"{exchange_api}: expected {form.expected} ({error}), came {excerpt(body)}") from error
    products: dict[str, Product] = {}
    unreadable, first_unreadable = 0, ""
    for entry in entries:
        try:
            product = form.product(entry)
            if product is None:
                continue
            if product.id in products:
                raise ValueError(f"{product.id} came before")
        except (msgspec.DecodeError, ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
            unreadable += 1
            first_unreadable = first_unreadable or f"{error}, in {excerpt(bytes(entry))}"
        else:
            products[product.id] = product
    if not products:
        why = f" ({unreadable} entries, none of them readable: {first_unreadable})" if unreadable else ""
        raise FeedError(
            f"{exchange_api}: expected {form.expected} with at least one product{why}, came {excerpt(body)}"
        )
    return ProductList(tuple(products.values()), unreadable, first_unreadable, limits)


def excerpt(body: bytes) -> str:
    """The beginning of an answer, as one line of text for an error."""
    shown = " ".join(body[:FRAME_EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace").split())
    tail = "..." if len(body) > FRAME_EXCERPT_CHARACTERS else ""
    return f"{shown}{tail}" if body else "nothing"


_Entries = tuple[list[msgspec.Raw], tuple[RateLimit, ...]]


class _Format:
    """How one API answers."""

    def __init__(
        self,
        path: str,
        expected: str,
        entries: Callable[[bytes], _Entries],
        product: Callable[[msgspec.Raw], Product | None],
    ) -> None:
        self.path = path
        self.expected = expected
        self.entries = entries
        self.product = product


def _format(exchange_api: str) -> _Format:
    try:
        return _FORMATS[exchange_api]
    except KeyError:
        raise FeedError(
            f"no product list for {exchange_api!r}: expected one of {', '.join(sorted(_FORMATS))}"
        ) from None


def _decode(kind: type[_T]) -> Callable[[bytes | msgspec.Raw], _T]:
    return msgspec.json.Decoder(kind).decode


def _symbol(base: str, quote: str) -> str:
    """Join base and quote. Raises ValueError for what would not be read again as the two."""
    return f"{_name(base, 'base')}/{_name(quote, 'quote')}"


def _name(text: str, what: str) -> str:
    if not text or len(text) > NAME_CHARACTERS or not text.isprintable() or any(mark in text for mark in " /:"):
        raise ValueError(f"expected a {what} of 1 to {NAME_CHARACTERS} characters without space, / or :, got {text!r}")
    return text


# Binance spot


class _BinanceLimit(msgspec.Struct, rename="camel"):
    rate_limit_type: str
    interval: str
    interval_num: int
    limit: int


class _BinanceAnswer(msgspec.Struct, rename="camel"):
    symbols: list[msgspec.Raw]
    rate_limits: list[msgspec.Raw] = []


class _BinanceSymbol(msgspec.Struct, rename="camel"):
    symbol: str
    base_asset: str
    quote_asset: str
    status: str = ""


_binance_answer = _decode(_BinanceAnswer)
_binance_limit = _decode(_BinanceLimit)
_binance_symbol = _decode(_BinanceSymbol)


def _binance_entries(body: bytes) -> _Entries:
    answer = _binance_answer(body)
    limits = []
    for raw in answer.rate_limits:
        try:
            limit = _binance_limit(raw)
        except msgspec.DecodeError:
            continue  # a limit of a new form is no reason to do without the list
        if limit.interval in SECONDS and limit.interval_num > 0 and limit.limit > 0:
            limits.append(RateLimit(limit.rate_limit_type, limit.limit, SECONDS[limit.interval] * limit.interval_num))
    return answer.symbols, tuple(limits)


def _binance_product(entry: msgspec.Raw) -> Product:
    found = _binance_symbol(entry)
    symbol = _symbol(found.base_asset, found.quote_asset)
    return Product(_name(found.symbol, "symbol"), symbol, found.status not in BINANCE_GONE, found.status)


# Coinbase Advanced Trade


class _AdvancedAnswer(msgspec.Struct):
    products: list[msgspec.Raw]


class _AdvancedProduct(msgspec.Struct):
    product_id: str
    base_currency_id: str | None = None
    quote_currency_id: str | None = None
    base_display_symbol: str | None = None
    quote_display_symbol: str | None = None
    product_type: str | None = None
    status: str | None = None
    trading_disabled: bool | None = None
    is_disabled: bool | None = None
    view_only: bool | None = None
    alias: str | None = None


_advanced_answer = _decode(_AdvancedAnswer)
_advanced_product = _decode(_AdvancedProduct)


def _advanced_entries(body: bytes) -> _Entries:
    return _advanced_answer(body).products, ()


def _advanced_product_of(entry: msgspec.Raw) -> Product | None:
    found = _advanced_product(entry)
    if found.product_type not in (None, "", "SPOT", "UNKNOWN_PRODUCT_TYPE"):
        return None
    # The ids before the names for display: they are what the older API calls base and quote, so that both give one symbol.
    symbol = _symbol(
        found.base_currency_id or found.base_display_symbol or "",
        found.quote_currency_id or found.quote_display_symbol or "",
    )
    gone, status = found.status in COINBASE_GONE, found.status or ""
    if found.alias:
        gone, status = True, f"{ALIAS_OF}{found.alias}"
    elif found.is_disabled:
        gone, status = True, status if gone else "is_disabled"
    elif found.view_only:
        gone, status = True, status if gone else "view_only"
    elif found.trading_disabled and not gone:
        status = f"{status}, trading_disabled".removeprefix(", ")
    return Product(_name(found.product_id, "product_id"), symbol, not gone, status)


# Coinbase Exchange


class _ExchangeProduct(msgspec.Struct):
    id: str
    base_currency: str
    quote_currency: str
    status: str | None = None
    trading_disabled: bool | None = None


_exchange_answer = _decode(list[msgspec.Raw])
_exchange_product = _decode(_ExchangeProduct)


def _exchange_entries(body: bytes) -> _Entries:
    return _exchange_answer(body), ()


def _exchange_product_of(entry: msgspec.Raw) -> Product:
    found = _exchange_product(entry)
    gone, status = found.status in COINBASE_GONE, found.status or ""
    if found.trading_disabled and not gone:
        status = f"{status}, trading_disabled".removeprefix(", ")
    symbol = _symbol(found.base_currency, found.quote_currency)
    return Product(_name(found.id, "id"), symbol, not gone, status)


# KuCoin


class _KucoinAnswer(msgspec.Struct, rename="camel"):
    code: str
    data: list[msgspec.Raw]


class _KucoinSymbol(msgspec.Struct, rename="camel"):
    symbol: str
    base_currency: str
    quote_currency: str
    name: str | None = None
    enable_trading: bool = True


_kucoin_answer = _decode(_KucoinAnswer)
_kucoin_symbol = _decode(_KucoinSymbol)


def _kucoin_entries(body: bytes) -> _Entries:
    answer = _kucoin_answer(body)
    if answer.code != KUCOIN_OK:
        raise msgspec.DecodeError(f"its code is {answer.code}")
    return answer.data, ()


def _kucoin_product(entry: msgspec.Raw) -> Product:
    found = _kucoin_symbol(entry)
    base, quote = _kucoin_names(found.name or "", found.base_currency, found.quote_currency)
    status = "" if found.enable_trading else KUCOIN_GONE
    return Product(_name(found.symbol, "symbol"), _symbol(base, quote), found.enable_trading, status)


def _kucoin_names(name: str, base: str, quote: str) -> tuple[str, str]:
    """Base and quote as `name` shows them: a renamed currency has its new name there, while the fields may keep the old one.

    GALAX-USDT has the name GALA-USDT and the base GALAX. Which part of the name is which, the unchanged field of the two says.
    """
    if name.endswith(f"-{quote}") and len(name) > len(quote) + 1:
        return name[: -len(quote) - 1], quote
    if name.startswith(f"{base}-") and len(name) > len(base) + 1:
        return base, name[len(base) + 1 :]
    return base, quote


_FORMATS: Final = {
    "binance": _Format(
        "/api/v3/exchangeInfo", '{"symbols": [{"symbol", "baseAsset", ...}]}', _binance_entries, _binance_product
    ),
    "coinbase": _Format(
        "/api/v3/brokerage/market/products",
        '{"products": [{"product_id", "base_currency_id", ...}]}',
        _advanced_entries,
        _advanced_product_of,
    ),
    "coinbase_exchange": _Format(
        "/products", '[{"id", "base_currency", "quote_currency", ...}]', _exchange_entries, _exchange_product_of
    ),
    "kucoin": _Format(
        "/api/v2/symbols",
        '{"code": "200000", "data": [{"symbol", "baseCurrency", ...}]}',
        _kucoin_entries,
        _kucoin_product,
    ),
}
EXCHANGE_APIS: Final = tuple(_FORMATS)
"""The names that `parse` and `products_url` know."""
