"""What passes while two connections carry the same symbols."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from engine.events import Event, FeedStatus, Quote, Tick
from feeds.handover import Handover


def tick(number: int, received: int = 0, symbol: str = "BTC/USDT") -> Tick:
    return Tick("binance", symbol, 100.0, 1.0, "buy", number, received, number)


def quote(
    number: int, received: int = 0, symbol: str = "BTC/USDT", *, counted: bool = True, timestamp: int | None = None
) -> Quote:
    at = number if timestamp is None else timestamp
    return Quote("binance", symbol, 99.0, 1.0, 101.0, 1.0, at, received, number if counted else None)


def number(event: Tick | Quote) -> int | None:
    return event.trade_id if isinstance(event, Tick) else event.update_id


def taken(events: Iterable[Event]) -> list[Event]:
    """What is left once ids that were taken already are dropped, as the ingress does."""
    last: dict[str, int] = {}
    left: list[Event] = []
    for event in events:
        if isinstance(event, Tick):
            assert event.trade_id is not None
            if event.trade_id <= last.get(event.symbol, 0):
                continue
            last[event.symbol] = event.trade_id
        left.append(event)
    return left


@given(st.data())
def test_nothing_is_lost_doubled_or_out_of_order_wherever_the_new_one_begins_and_the_old_one_ends(
    data: st.DataObject,
) -> None:
    kinds = data.draw(st.text("tqTQ", min_size=1, max_size=30))
    market: list[Tick | Quote] = []
    for at, kind in enumerate(kinds, 1):
        symbol = "BTC/USDT" if kind.islower() else "ETH/USDT"
        count = kinds[:at].count(kind)
        market.append(tick(count, symbol=symbol) if kind in "tT" else quote(count, symbol=symbol))
    size = len(market)
    old_ends = data.draw(st.integers(0, size), "the old one brings so many")
    new_begins = data.draw(st.integers(0, old_ends), "the new one begins there")
    released = data.draw(st.integers(new_begins, size), "the new one has brought so many by the release")
    handover = Handover()
    passed: list[Event] = []
    old, new = market[:old_ends], market[new_begins:released]
    for turn in data.draw(st.permutations([True] * len(old) + [False] * len(new)), "whose turn it is"):
        if turn:
            handover.given([old[0]])
            passed.append(old.pop(0))
        else:
            handover.keep([new.pop(0)])
    passed += handover.release(now=7)
    passed += handover.news(market[released:])
    for symbol in ("BTC/USDT", "ETH/USDT"):
        of_symbol = [event for event in taken(passed) if isinstance(event, Tick | Quote) and event.symbol == symbol]
        for wanted in (Tick, Quote):
            ids = [number(event) for event in of_symbol if type(event) is wanted]
            assert ids == [number(event) for event in market if type(event) is wanted and event.symbol == symbol]


def test_what_waited_is_stamped_with_the_time_at_which_it_passes() -> None:
    handover = Handover()
    handover.given([quote(4, received=100)])
    handover.keep([tick(1, received=50), quote(5, received=60), tick(2, received=70)])
    assert handover.release(now=200) == [tick(1, 200), quote(5, 200), tick(2, 200)]
    assert handover.release(now=300) == []


def test_of_quotes_without_a_counter_only_the_newest_passes_and_only_if_the_old_one_gave_none_as_new() -> None:
    handover = Handover()
    handover.given([quote(5, symbol="ETH/USDT", counted=False)])
    handover.keep(
        [quote(number, symbol=symbol, counted=False) for number in (3, 5) for symbol in ("BTC/USDT", "ETH/USDT")]
    )
    assert handover.release(now=9) == [quote(5, 9, counted=False)]
    assert handover.news([quote(5, symbol="ETH/USDT", counted=False), quote(6, symbol="ETH/USDT", counted=False)]) == [
        quote(6, symbol="ETH/USDT", counted=False)
    ]


def test_a_new_connection_that_lags_behind_brings_no_old_quote() -> None:
    handover = Handover()
    handover.given([quote(10)])
    assert handover.release(now=1) == []
    assert handover.news([quote(9), tick(1), quote(10), quote(11)]) == [tick(1), quote(11)]


def test_history_that_a_subscription_begins_with_passes_too() -> None:
    handover = Handover()
    late = Tick("coinbase", "BTC/USD", 1.0, 1.0, "sell", 1, 2, 3, late=True)
    handover.keep([late])
    assert [event.trade_id for event in handover.release(now=5) if isinstance(event, Tick) and event.late] == [3]


def test_what_waits_is_bounded_and_what_is_let_go_of_is_counted() -> None:
    handover = Handover(capacity=3)
    handover.keep([tick(1), tick(2)])
    fullness = [handover.is_full]
    handover.keep([tick(3), tick(4), tick(5)])
    fullness.append(handover.is_full)
    assert fullness == [False, True]
    assert handover.forgotten == 2
    assert [event.trade_id for event in handover.release(now=1) if isinstance(event, Tick)] == [3, 4, 5]


def test_words_of_a_feed_do_not_wait() -> None:
    status = FeedStatus("binance", "", "connected", "", 1, 1)
    handover = Handover()
    assert handover.news([status]) == [status]


def test_a_new_one_that_lags_for_long_has_its_old_quotes_dropped_until_each_symbol_has_caught_up() -> None:
    handover = Handover()
    handover.given([quote(9), quote(5, symbol="ETH/USDT")])
    assert handover.release(0) == []
    assert handover.news([quote(8), quote(6, symbol="ETH/USDT")]) == [quote(6, symbol="ETH/USDT")]
    assert not handover.is_over
    assert handover.news([quote(9), tick(3)]) == [tick(3)]
    assert handover.news([quote(10)]) == [quote(10)]
    assert handover.is_over
