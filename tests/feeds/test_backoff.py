"""Backoff: waits within their bounds."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from feeds.backoff import Backoff

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


@given(st.integers(0, 200), st.integers(1, 200), st.integers())
def test_who_comes_late_to_a_host_that_is_down_waits_as_long_as_the_others(own: int, hosts: int, seed: int) -> None:
    backoff = Backoff(S // 4, 30 * S, random.Random(seed))
    for _ in range(own):
        backoff.next_ns()
    bound = min(30 * S, S // 4 * 2 ** max(own, hosts - 1))
    assert bound / 2 <= backoff.next_ns(hosts) <= bound
    assert backoff.failures == own + 1
