"""What was asked for, what was answered, and what is asked for again: by number and by content."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.binance_stream import BinanceProtocol
from feeds.coinbase_stream import CoinbaseProtocol
from feeds.subscriptions import Subscriptions, few

SYMBOLS = tuple(f"S{number}/USD" for number in range(8))
SPELLING = {symbol: symbol.replace("/", "-") for symbol in SYMBOLS}
A, B, C = SYMBOLS[:3]


def by_number(symbols: tuple[str, ...] = SYMBOLS, batch: int = 4) -> Subscriptions:
    protocol = BinanceProtocol("wss://host", ["trade"], SPELLING)
    protocol.batch = batch
    return Subscriptions(protocol, symbols)


def by_content(symbols: tuple[str, ...] = SYMBOLS[:3], batch: int = 4) -> Subscriptions:
    protocol = CoinbaseProtocol("wss://host", SPELLING)
    protocol.batch = batch
    return Subscriptions(protocol, symbols)


def ask(subscriptions: Subscriptions) -> list[dict[str, object]]:
    """Make all requests that are to be made."""
    asked = []
    while subscriptions.has_to_say:
        text = subscriptions.next_request(0)
        if text is not None:
            asked.append(json.loads(text))
    return asked


def test_all_channels_are_asked_for_and_it_is_settled_once_all_are_acknowledged() -> None:
    subscriptions = by_content()
    assert not subscriptions.has_to_say  # there is no socket
    subscriptions.begin()
    assert [request["channel"] for request in ask(subscriptions)] == ["heartbeats", "market_trades", "ticker"]
    oldest = subscriptions.oldest
    assert oldest is not None
    assert oldest.channel == "heartbeats"
    lists: dict[str, tuple[str, ...]] = {}
    for channel, symbols in (("heartbeats", ("heartbeats",)), ("market_trades", (C, A, B)), ("ticker", (A, B, C))):
        assert not subscriptions.is_settled
        lists = {channel: symbols, **lists}  # a list names all that there is, in any order
        verdict = subscriptions.listed(lists)
        assert verdict is not None
        assert (verdict.request.channel, verdict.refused, verdict.is_granted) == (channel, (), True)
    assert subscriptions.is_settled
    assert subscriptions.listed(lists) is None


def test_a_symbol_that_a_list_leaves_out_is_refused_once_however_many_channels_leave_it_out() -> None:
    subscriptions = by_content()
    subscriptions.begin()
    ask(subscriptions)
    subscriptions.listed({"heartbeats": ("heartbeats",)})
    verdict = subscriptions.listed({"heartbeats": ("heartbeats",), "market_trades": (A, "SX-USD", C)})
    assert verdict is not None
    assert (verdict.refused, verdict.is_granted) == ((B,), True)
    verdict = subscriptions.listed({"market_trades": (A, C), "ticker": (A,)})
    assert verdict is not None
    assert verdict.refused == (C,)
    assert list(subscriptions.rejected) == [B, C]
    assert subscriptions.is_settled


def test_a_list_without_anything_that_was_asked_for_refuses_the_oldest_request() -> None:
    subscriptions = by_content((A,))
    subscriptions.begin()
    ask(subscriptions)
    subscriptions.listed({"heartbeats": ("heartbeats",)})
    verdict = subscriptions.listed({"heartbeats": ("heartbeats",)})
    assert verdict is not None
    assert (verdict.request.channel, verdict.refused, verdict.is_granted) == ("market_trades", (A,), False)


def test_a_list_that_came_does_not_stand_for_one_that_was_lost() -> None:
    subscriptions = by_content((A,))
    subscriptions.begin()
    ask(subscriptions)
    # The list that answers heartbeats is lost; the two others come.
    subscriptions.listed({"heartbeats": ("heartbeats",), "market_trades": (A,)})
    subscriptions.listed({"heartbeats": ("heartbeats",), "market_trades": (A,), "ticker": (A,)})
    assert not subscriptions.is_settled
    assert list(subscriptions.rejected) == []
    # A form that names only what was asked for is understood too.
    other = by_content((A,))
    other.begin()
    ask(other)
    other.listed({"market_trades": (A,)})
    assert other.oldest is not None
    assert other.oldest.channel == "heartbeats"


def test_what_is_dropped_is_acknowledged_by_a_list_without_it() -> None:
    subscriptions = by_content((A, B))
    subscriptions.begin()
    ask(subscriptions)
    for channels in ({"heartbeats": ("heartbeats",)}, {"market_trades": (A, B)}, {"ticker": (A, B)}):
        subscriptions.listed(channels)
    subscriptions.remove(A)
    assert [(request["type"], request["channel"]) for request in ask(subscriptions)] == [
        ("unsubscribe", "market_trades"),
        ("unsubscribe", "ticker"),
    ]
    verdict = subscriptions.listed({"market_trades": (B,), "ticker": (A, B)})
    assert verdict is not None
    assert (verdict.request.subscribes, verdict.is_granted) == (False, True)
    verdict = subscriptions.listed({"market_trades": (B,), "ticker": (A, B)})  # still there
    assert verdict is not None
    assert (verdict.request.channel, verdict.is_granted) == ("ticker", False)
    assert subscriptions.oldest is None


def test_the_answer_to_a_request_says_nothing_of_what_was_asked_for_again_since() -> None:
    subscriptions = by_number((A,))
    subscriptions.begin()
    ask(subscriptions)
    subscriptions.remove(A)
    ask(subscriptions)
    subscriptions.add(A)
    ask(subscriptions)
    verdict = subscriptions.reject(1)
    assert verdict is not None
    assert verdict.refused == ()
    assert subscriptions.acknowledge(2)
    assert subscriptions.acknowledge(3)
    assert subscriptions.is_settled
    assert not subscriptions.rejected


def test_an_error_that_names_no_request_is_of_the_oldest_and_one_that_names_another_is_of_none() -> None:
    subscriptions = by_number(batch=4)
    subscriptions.begin()
    ask(subscriptions)
    assert subscriptions.reject(7) is None
    verdict = subscriptions.reject(None)
    assert verdict is not None
    assert verdict.request.symbols == SYMBOLS[:4]
    assert [len(request["params"]) for request in ask(subscriptions)] == [2, 2]  # type: ignore[arg-type]
    assert subscriptions.reject(2) is not None
    assert not subscriptions.acknowledge(2)


@pytest.mark.parametrize("batch", [1, 3, 8])
@given(st.sets(st.sampled_from(SYMBOLS)))
@settings(max_examples=40)
def test_halving_finds_the_bad_symbols_and_no_others(batch: int, bad: set[str]) -> None:
    subscriptions = by_number(batch=batch)
    subscriptions.begin()
    accepted: list[str] = []
    requests = 0
    while subscriptions.has_to_say:
        for request in ask(subscriptions):
            requests += 1
            symbols = [OURS[name] for name in request["params"]]  # type: ignore[attr-defined]
            number = request["id"]
            assert isinstance(number, int)
            if bad & set(symbols):
                subscriptions.reject(number)
            else:
                accepted += symbols
                subscriptions.acknowledge(number)
    assert sorted(accepted) == sorted(set(SYMBOLS) - bad)
    assert set(subscriptions.rejected) == bad
    assert subscriptions.is_settled
    assert requests <= -(-len(SYMBOLS) // batch) + 2 * len(bad) * batch.bit_length()


OURS = {f"{theirs.lower()}@trade": ours for ours, theirs in SPELLING.items()}


def test_a_connection_wants_no_more_than_one_socket_may_carry() -> None:
    protocol = BinanceProtocol("wss://host", ["trade", "bookTicker"], SPELLING, streams_a_connection=7)
    subscriptions = Subscriptions(protocol, SYMBOLS[:5])
    assert (tuple(subscriptions.wanted), subscriptions.left_out) == (SYMBOLS[:3], SYMBOLS[3:5])
    assert subscriptions.add(A)
    assert not subscriptions.add(SYMBOLS[7])
    subscriptions.remove(A)
    assert subscriptions.add(SYMBOLS[7])


def test_few_names_three_and_counts_the_others() -> None:
    assert few(SYMBOLS[:2]) == "S0/USD, S1/USD"
    assert few(SYMBOLS) == "S0/USD, S1/USD, S2/USD and 5 more"
