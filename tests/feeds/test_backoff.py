"""Backoff and rolling windows: waits within their bounds, and never more events in a span than allowed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.backoff import Backoff
from feeds.limits import DialLimit, RollingWindow

S = 1_000_000_000
SPANS = st.integers(1, 1 << 62)


@given(SPANS, SPANS, st.integers(0, 100), st.integers())
def test_each_wait_lies_between_half_its_bound_and_its_bound(first: int, most: int, failures: int, seed: int) -> None:
    backoff = Backoff(first, most, random.Random(seed))
    for failure in range(failures):
        bound = min(most, first * 2**failure)
        assert bound / 2 <= backoff.next_ns() <= bound
    assert backoff.failures == failures


def test_the_bound_doubles_up_to_the_cap_and_begins_anew_after_a_reset() -> None:
    class Least(random.Random):
        def random(self) -> float:
            return 0.0

    backoff = Backoff(S // 4, 30 * S, Least())
    waits = [backoff.next_ns() / S for _ in range(9)]
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30]
    backoff.reset()
    assert backoff.next_ns() == S // 4
    assert backoff.longest_ns() == 30 * S
    assert backoff.failures == 2


def test_a_thousand_failures_still_give_the_cap() -> None:
    backoff = Backoff(1, 10, random.Random(0))
    for _ in range(1_000):
        assert 1 <= backoff.next_ns() <= 10


def test_equal_seeds_wait_equally_and_others_do_not() -> None:
    def waits(seed: str) -> list[int]:
        backoff = Backoff(S, 60 * S, random.Random(seed))
        return [backoff.next_ns() for _ in range(8)]

    assert waits("1 binance 1") == waits("1 binance 1")
    assert len({tuple(waits(f"1 binance {number}")) for number in range(20)}) == 20


@given(st.integers(1, 7), st.integers(1, 50), st.lists(st.integers(0, 30), max_size=60))
def test_no_span_ever_holds_more_than_the_limit(limit: int, span: int, pauses: list[int]) -> None:
    window = RollingWindow(limit, span)
    now = 0
    taken: list[int] = []
    for pause in pauses:
        now = max(now + pause, window.free_at(now + pause))
        window.take(now)
        taken.append(now)
    for at in taken:
        assert sum(at <= other < at + span for other in taken) <= limit


@given(st.integers(1, 7), st.integers(1, 50), st.lists(st.integers(0, 30), max_size=60))
def test_nothing_waits_longer_than_it_has_to(limit: int, span: int, pauses: list[int]) -> None:
    window = RollingWindow(limit, span)
    now = 0
    taken: list[int] = []
    for pause in pauses:
        now += pause
        free = window.free_at(now)
        if free > now:
            # One ns earlier would be one too many.
            assert sum(free - 1 - span < other <= free - 1 for other in taken) == limit
            now = free
        window.take(now)
        taken.append(now)


def test_a_token_bucket_would_let_nine_through_where_the_window_lets_five() -> None:
    window = RollingWindow(5, S)
    sent, now = [], 0
    while now < S:
        now = window.free_at(now)
        window.take(now)
        sent.append(now)
    assert [at for at in sent if at < S] == [0] * 5


def test_to_take_what_is_not_free_is_a_defect() -> None:
    window = RollingWindow(1, S)
    window.take(0)
    with pytest.raises(AssertionError, match="1 events within"):
        window.take(S - 1)


def test_a_host_that_bars_us_is_left_alone_by_everybody() -> None:
    dials = DialLimit(300, 300 * S)
    assert dials.free_at(S) == S
    dials.bar(61 * S)
    dials.bar(10 * S)  # a shorter ban does not shorten a longer one
    assert dials.free_at(S) == 61 * S
    assert dials.why(S) == "the host wants to be left alone for 60 s"
    assert dials.free_at(62 * S) == 62 * S
    assert dials.why(62 * S) == "at most 300 dials in 300 s"
