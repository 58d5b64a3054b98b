"""What is known of an exchange's products, and what one list says otherwise than the one before it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.listing import Changes, Listing, Source, changes
from feeds.product_lists import Product

BUILT_IN = {"BTC-USDT": "BTC/USDT", "OLD-USDT": "OLD/USDT", "BCHSV-USDT": "BSV/USDT"}
AT = 1_786_309_548_000_000_000


def listing(*products: Product, source: Source = "fetched") -> Listing:
    return Listing("kucoin", products, source, AT, BUILT_IN)


def product(symbol: str, tradable: bool = True, status: str = "", theirs: str = "") -> Product:
    return Product(theirs or symbol.replace("/", "-"), symbol, tradable, status)


def test_without_a_list_of_the_exchange_all_of_the_built_in_one_can_be_listened_to() -> None:
    known = Listing("kucoin", None, "built-in", 0, BUILT_IN)
    assert known.products == BUILT_IN
    assert known.known == {"BTC/USDT": "BTC-USDT", "OLD/USDT": "OLD-USDT", "BSV/USDT": "BCHSV-USDT"}
    assert not any(known.why_not(symbol) for symbol in known.known)
    assert known.why_not("NEW/EUR") == "not in the product list of kucoin (3 symbols, built in)"


def test_a_delisted_pair_cannot_be_listened_to_and_is_still_decoded() -> None:
    known = listing(product("BTC/USDT"), product("BAD/USDT", False, "BREAK"))
    assert known.why_not("BTC/USDT") == ""
    assert known.why_not("BAD/USDT") == "delisted: status BREAK"
    assert known.why_not("OLD/USDT").startswith(
        "not in the product list of kucoin (2 symbols, fetched 2026-08-09T21:05Z)"
    )
    assert known.products["OLD-USDT"] == "OLD/USDT"
    assert known.products["BAD-USDT"] == "BAD/USDT"
    assert known.known["OLD/USDT"] == "OLD-USDT"
    assert known.status("BAD/USDT") == "BREAK"
    assert known.status("OLD/USDT") == ""


def test_a_pause_of_unknown_length_is_not_called_a_delisting() -> None:
    known = listing(product("BTC/USDT", False, "enableTrading = false"))
    assert known.why_not("BTC/USDT") == "not traded any more, or not yet: enableTrading = false"


def test_an_alias_says_what_to_listen_to() -> None:
    known = listing(product("BTC/USD"), product("BTC/USDC", False, "alias of BTC-USD"))
    assert known.why_not("BTC/USDC") == "BTC-USDC is an alias of BTC-USD: listen to BTC/USD"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("BTC-USDT", "BTC/USDT"),  # their spelling
        ("btc-usdt", "BTC/USDT"),
        ("btc/usdt", "BTC/USDT"),
        ("BTC/USD", "BTC/USDT"),
        ("BTTC/USDT", "BTC/USDT"),
        ("ETH/BTX", "ETH/BTC"),
        ("DOGE/EUR", ""),
        ("", ""),
        ("BAD-USDT", ""),  # known, but gone: no advice
    ],
)
def test_a_symbol_that_is_not_there_is_met_with_the_nearest_one(asked: str, meant: str) -> None:
    known = listing(product("BTC/USDT"), product("ETH/BTC"), product("BAD/USDT", False, "BREAK"))
    why = known.why_not(asked)
    assert why.startswith("not in the product list of kucoin")
    assert why.partition("; did you mean ")[2] == (f"{meant}?" if meant else "")


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_ids_with_one_symbol_the_tradable_one_is_meant(order: int) -> None:
    two = [product("BSV/USDT", False, "BREAK", "BSV-USDT"), product("BSV/USDT", True, "", "BCHSV-USDT")]
    known = listing(*two[::order])
    assert known.known["BSV/USDT"] == "BCHSV-USDT"
    assert known.why_not("BSV/USDT") == ""
    assert known.ambiguous == 1
    assert len(known) == 1
    assert known.products["BSV-USDT"] == known.products["BCHSV-USDT"] == "BSV/USDT"


def test_changes_name_each_symbol_with_its_reason() -> None:
    before = listing(product("A/B"), product("C/D"), product("E/F", False, "BREAK"), product("G/H", status="TRADING"))
    after = listing(product("A/B", False, "BREAK"), product("E/F"), product("G/H", status="HALT"), product("I/J"))
    assert changes(before, after) == Changes(
        untradable=(
            ("A/B", "delisted: status BREAK"),
            ("C/D", "not in the product list of kucoin (4 symbols, fetched 2026-08-09T21:05Z)"),
        ),
        tradable=("E/F", "I/J"),
        restated=(("G/H", "TRADING, now HALT"),),
    )


def test_a_renamed_product_says_what_it_is_called_now() -> None:
    before, after = listing(product("BCHSV/USDT")), listing(product("BSV/USDT", theirs="BCHSV-USDT"))
    assert changes(before, after) == Changes((("BCHSV/USDT", "renamed: BCHSV-USDT is BSV/USDT now"),), ("BSV/USDT",))


def test_the_states_that_the_built_in_list_does_not_know_are_no_change() -> None:
    before = Listing("kucoin", None, "built-in", 0, BUILT_IN)
    after = listing(*(product(ours, status="TRADING", theirs=theirs) for theirs, ours in BUILT_IN.items()))
    assert changes(before, after) == Changes()


SYMBOLS = st.sampled_from(["A/B", "C/D", "E/F"])
LISTS = st.lists(
    st.builds(Product, st.sampled_from("abcd"), SYMBOLS, st.booleans(), st.sampled_from(["", "X"])), max_size=4
)


@given(LISTS, LISTS)
def test_changes_lead_from_what_could_be_listened_to_to_what_can(
    before: Sequence[Product], after: Sequence[Product]
) -> None:
    old, new = listing(*before), listing(*after)
    found = changes(old, new)
    could, can = ({symbol for symbol in ("A/B", "C/D", "E/F") if not known.why_not(symbol)} for known in (old, new))
    assert (could - {symbol for symbol, _ in found.untradable}) | set(found.tradable) == can
    assert {symbol for symbol, _ in found.untradable} == could - can
    assert {symbol for symbol, _ in found.restated} <= could & can


def test_nothing_of_a_listing_can_be_changed() -> None:
    known = listing(product("A/B"))
    for mapping in (known.products, known.known, known.by_symbol):
        with pytest.raises(TypeError):
            mapping["A-B"] = "C/D"  # type: ignore[index]
