"""Rolling windows and hosts: never more events in a span than allowed, and no storm of dials, however many connections are lost."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.binance_stream import BinanceProtocol
from feeds.connection import Connection
from feeds.limits import MARGIN_NS, SLOTS, Host, RollingWindow, with_margin
from feeds.speech import Dial, Limits, Report, Wake

S = 1_000_000_000
FIRST = S // 4
MOST = 30 * S
LIMITS = Limits(
    connect_ns=10 * S,
    acknowledge_ns=5 * S,
    silence_ns=600 * S,
    backoff_first_ns=FIRST,
    backoff_max_ns=MOST,
    stable_ns=MOST,
    messages=5,
    messages_span_ns=S,
    renew_ns=0,
)


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


def test_spans_have_a_margin_for_what_the_network_pushes_together() -> None:
    assert with_margin(S) == S + MARGIN_NS + 5_000_000
    assert with_margin(300 * S) == 301 * S + S // 2 + MARGIN_NS


def test_a_host_that_bars_us_is_left_alone_by_everybody() -> None:
    host = Host(300, 300 * S, LIMITS)
    assert host.begin_at(S) == host.dial_at(S) == S
    host.bar(61 * S)
    host.bar(10 * S)  # a shorter ban does not shorten a longer one
    assert host.begin_at(S) == host.dial_at(S) == 61 * S
    assert host.why(S) == "the host wants to be left alone for 60 s"
    assert host.begin_at(62 * S) == 62 * S


def test_fetches_and_dials_have_a_window_each() -> None:
    host = Host(2, 60 * S, LIMITS)
    for at in (0, 1):
        host.begin(at)
    assert host.dial_at(2) == 2  # two were begun, none is dialled
    assert host.begin_at(2) == with_margin(60 * S)
    assert host.why(2) == "at most 2 dials in 60 s"
    host.dial(10 * S)
    host.dial(20 * S)
    assert host.dial_at(30 * S) == 10 * S + with_margin(60 * S)
    assert host.begin_at(30 * S) == host.dial_at(30 * S)


@given(st.integers(1, 40), st.integers())
def test_connections_that_fail_together_are_one_failure_of_the_host(connections: int, seed: int) -> None:
    host, drawn = Host(300, 300 * S, LIMITS), random.Random(seed)
    now = S
    for round_number in range(1, 12):
        bound = min(MOST, FIRST << (round_number - 1))
        together = sorted(now + drawn.randrange(bound // 2) for _ in range(connections - 1))
        assert {host.failed(at) for at in (now, *together)} == {round_number}
        assert host.apart_ns == bound // SLOTS
        now += bound
    host.answered()
    assert host.failures == host.apart_ns == 0
    assert [host.lost(now + at) for at in range(3)] == [
        1,
        1,
        1,
    ]  # sockets that are lost do not say that the host is down


class Crowd:
    """Connections to one host, that refuses their dials or takes them, and the timers of all."""

    def __init__(self, connections: int, seed: int) -> None:
        self.host = Host(1_000_000, 300 * S, LIMITS)
        protocol = BinanceProtocol("wss://host", ["trade"], {})
        self.machines = [
            Connection(protocol, LIMITS, self.host, random.Random(f"{seed} {number}")) for number in range(connections)
        ]
        self.timers: list[tuple[int, int]] = []
        self.dials: list[tuple[int, int]] = []
        self.refuses = False
        self.now = 0

    def tell(self, number: int, what: str, *arguments: object) -> None:
        for action in getattr(self.machines[number], what)(*arguments, self.now):
            if isinstance(action, Wake):
                heapq.heappush(self.timers, (action.at_ns, number))
            elif isinstance(action, Dial):
                self.dials.append((self.now, number))
                if self.refuses:
                    self.tell(number, "failed", "connection refused")
                else:
                    self.tell(number, "opened")
            elif isinstance(action, Report):
                assert action.status != "rate_limited"

    def run(self, until: int) -> None:
        while self.timers and self.timers[0][0] <= until:
            self.now, number = heapq.heappop(self.timers)
            self.tell(number, "timer")
        self.now = until
        for machine in self.machines:
            machine.last_heard = until

    @property
    def live(self) -> int:
        return sum(machine.state == "live" for machine in self.machines)


@settings(max_examples=20)
@given(st.integers(2, 40), st.integers(0, 1_000))
def test_connections_that_are_lost_at_once_do_not_storm_and_all_come_back(connections: int, seed: int) -> None:
    crowd = Crowd(connections, seed)
    for number in range(connections):
        crowd.tell(number, "start")
    crowd.run(100 * S)
    assert crowd.live == connections
    crowd.refuses = True
    crowd.dials.clear()
    for number in range(connections):
        crowd.tell(number, "closed", 1006, "")
    down_at = crowd.now
    crowd.run(down_at + 600 * S)
    times = [at - down_at for at, _ in crowd.dials]
    assert len(set(times)) == len(times)  # waits are drawn: no two dial in the same instant
    assert min(times) >= FIRST // 2
    # Once the waits are at their cap, any such wait sees at most SLOTS dials, and a first one at its very beginning.
    late = [at for at in times if at > 90 * S]
    for index in range(len(late) - SLOTS - 1):
        assert late[index + SLOTS + 1] - late[index] >= MOST
    # Until then each doubling of the wait has its own slots.
    assert sum(at <= 90 * S for at in times) <= SLOTS * 12
    # Nobody is forgotten: who has to give way goes on trying.
    for number in range(connections):
        own = [down_at, *(at for at, who in crowd.dials if who == number)]
        pauses = [later - earlier for earlier, later in itertools.pairwise(own)]
        assert min(pauses) >= FIRST // 2
        assert max(*pauses, crowd.now - own[-1]) <= MOST + (connections + 1) * MOST // SLOTS
    crowd.refuses = False
    crowd.run(crowd.now + MOST + 5 * S)
    assert crowd.live == connections
    assert crowd.host.failures == 0


def test_a_connection_that_has_held_begins_anew_at_the_first_wait() -> None:
    crowd = Crowd(3, seed=1)
    for number in range(3):
        crowd.tell(number, "start")
    for _ in range(5):
        crowd.run(crowd.now + 2 * MOST)
        crowd.tell(0, "closed", 1006, "")
        crowd.dials.clear()
        lost_at = crowd.now
        crowd.run(crowd.now + S)
        assert [number for _, number in crowd.dials] == [0]
        assert FIRST // 2 <= crowd.dials[0][0] - lost_at <= FIRST
