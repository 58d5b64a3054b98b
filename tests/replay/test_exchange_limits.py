"""What one address may use: rolling windows, weights, and bans for who goes on."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from replay.exchange.binance import LIMITS
from replay.exchange.kucoin import LIMITS as KUCOIN
from replay.exchange.limits import BAN_S, PATIENCE, Account, Window


@settings(max_examples=100)
@given(st.lists(st.floats(0.0, 0.6), max_size=40), st.integers(1, 6))
def test_a_window_says_what_a_count_of_the_last_second_says(pauses: list[float], count: int) -> None:
    window, moments, now = Window(count, 1.0), list[float](), 100.0
    for pause in pauses:
        now += pause
        within = sum(now - moment < 1.0 for moment in moments) < count
        assert (window.wait_s(now) == 0.0) == within
        assert window.note(now) == within
        moments.append(now)


def test_dials_beyond_the_limit_are_told_when_there_is_room_again() -> None:
    account = Account(LIMITS)
    assert all(account.dial(float(number)) is None for number in range(300))
    refusal = account.dial(299.5)
    assert refusal is not None
    assert (refusal.retry_after_s, refusal.is_banned) == (1, False)
    assert account.dial(300.0) is None  # the first is out of the window, and who waited is not punished
    later = account.dial(300.2)
    assert later is not None
    assert later.retry_after_s == 1


def test_who_goes_on_while_barred_is_banned_for_longer_each_time() -> None:
    account = Account(LIMITS)
    now = 30.0
    refusal = account.ask(6_001, now)
    assert refusal is not None
    assert (refusal.used, refusal.retry_after_s, refusal.is_banned) == (6_001, 30, False)
    for _ in range(PATIENCE):
        refusal = account.ask(1, now)
        assert refusal is not None
        assert not refusal.is_banned
    refusal = account.ask(1, now)
    assert refusal is not None
    assert (refusal.is_banned, refusal.retry_after_s) == (True, BAN_S)
    assert account.dial(now + BAN_S - 1.0) is not None
    assert account.ask(1, now + BAN_S) is None
    assert account.used == 1


def test_weight_is_counted_in_each_span() -> None:
    account = Account(LIMITS)
    assert account.ask(6_000, 59.0) is None
    assert account.ask(6_000, 60.0) is None
    assert account.used == 6_000


def test_an_exchange_that_does_not_ban_only_bars() -> None:
    account = Account(KUCOIN)
    assert account.ask(2_001, 0.0) is not None
    for _ in range(10 * PATIENCE):
        refusal = account.ask(1, 1.0)
        assert refusal is not None
        assert not refusal.is_banned
    assert account.ask(1, 30.0) is None
