"""The connection's state machine: by examples, and by any sequence of inputs at all."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.binance_stream import BinanceProtocol
from feeds.connection import LONGEST_BAN_NS, Connection
from feeds.conversation import NOTES
from feeds.limits import Host
from feeds.speech import (
    Acknowledged,
    Action,
    Answer,
    Close,
    Dial,
    Limits,
    Note,
    Pong,
    Rejected,
    Renew,
    Report,
    Send,
    ShuttingDown,
    Unexpected,
    Wake,
)

MS = 1_000_000
S = 1_000_000_000
MINUTE = 60 * S
URL = "wss://stream.binance.com:9443/ws"
SYMBOLS = tuple(f"S{number}/USDT" for number in range(12))
LIMITS = Limits(
    connect_ns=10 * S,
    acknowledge_ns=5 * S,
    silence_ns=30 * S,
    backoff_first_ns=S // 4,
    backoff_max_ns=30 * S,
    stable_ns=30 * S,
    messages=5,
    messages_span_ns=S,
    renew_ns=0,
)


class Harness:
    """A machine, its clock and its timer; keeps what it did, and holds it to what must always be so."""

    def __init__(
        self, symbols: Iterable[str] = ("S0/USDT",), *, dials: int = 300, batch: int = 100, seed: int = 1
    ) -> None:
        protocol = BinanceProtocol(
            "wss://stream.binance.com:9443", ["trade"], {name: name.replace("/", "") for name in SYMBOLS}
        )
        protocol.batch = batch
        self.machine = Connection(protocol, LIMITS, Host(dials, 5 * MINUTE, LIMITS), random.Random(seed), symbols)
        self.now = 1_000 * S
        self.wake: int | None = None
        self.log: list[tuple[int, Action]] = []
        self.socket = "none"
        self.stopped = False
        self.most_dials = dials
        self.spoken: list[int] = []
        self.dialled: list[int] = []
        self.unanswered: list[tuple[int, bool, list[str]]] = []
        self.subscribed: set[str] = set()
        """What an exchange would be sending, if it had taken every request that was sent on this socket."""

    def tell(self, what: str, *arguments: Any) -> list[Action]:
        """Give the machine one input; return its actions, but for Wake."""
        before = self.socket
        if what == "opened" and before == "dialling":
            self.socket = "open"
        if (what in ("refused", "failed") and before == "dialling") or (what == "closed" and before == "open"):
            self._gone()
        actions: list[Action] = getattr(self.machine, what)(*arguments, self.now)
        for action in actions:
            self.log.append((self.now, action))
            self._check(action)
        if what == "stop":
            self.stopped, self.wake = True, None
        return [action for action in actions if not isinstance(action, Wake)]

    def answer(self, answer: Answer | None) -> list[Action]:
        return self.tell("answered", answer)

    def acknowledge(self) -> list[Action]:
        """Let the exchange accept all that was asked."""
        done: list[Action] = []
        while self.unanswered:
            done += self.answer(Acknowledged(self.unanswered.pop(0)[0]))
        return done

    def spend(self, ns: int) -> list[Action]:
        """Let time pass, with the timer going off when it was asked to."""
        until = self.now + ns
        done: list[Action] = []
        while self.wake is not None and self.wake <= until:
            self.now, self.wake = max(self.now, self.wake), None
            done += self.tell("timer")
        self.now = until
        return done

    def spend_until_dial(self) -> int:
        """Let time pass until it dials; return how long that was."""
        began, dials = self.now, len(self.dialled)
        while len(self.dialled) == dials:
            assert self.wake is not None
            self.spend(max(0, self.wake - self.now))
        return self.now - began

    @property
    def state(self) -> str:
        return self.machine.state

    def go_live(self) -> None:
        self.tell("start")
        self.tell("opened")
        self.acknowledge()
        assert self.state == "live"

    def _check(self, action: Action) -> None:
        assert not self.stopped, f"{action} after stop"
        match action:
            case Wake(at_ns):
                assert at_ns > self.now
                self.wake = at_ns
            case Dial(url):
                assert self.socket == "none"
                assert url == URL
                self.socket = "dialling"
                self.dialled.append(self.now)
                assert (
                    len(self.dialled) <= self.most_dials or self.dialled[-self.most_dials - 1] <= self.now - 5 * MINUTE
                )
            case Close():
                assert self.socket != "none"
                self._gone()
            case Send() | Pong():
                assert self.socket == "open"
                self.spoken.append(self.now)
                assert len(self.spoken) <= 5 or self.spoken[-6] <= self.now - S
                if isinstance(action, Send):
                    self._hear(json.loads(action.text))
            case Report(_, _, detail) | Note(detail):
                assert detail

    def _hear(self, request: dict[str, Any]) -> None:
        names = [name.removesuffix("@trade") for name in request["params"]]
        symbols = [name[: -len("usdt")].upper() + "/USDT" for name in names]
        assert len(set(symbols)) == len(symbols) > 0
        subscribes = request["method"] == "SUBSCRIBE"
        self.unanswered.append((request["id"], subscribes, symbols))
        if subscribes:
            assert not self.subscribed & set(symbols), "asked for what is subscribed already"
            self.subscribed |= set(symbols)
        else:
            assert set(symbols) <= self.subscribed, "dropped what was never asked for"
            self.subscribed -= set(symbols)

    def _gone(self) -> None:
        self.socket = "none"
        self.unanswered.clear()
        self.subscribed.clear()


def reports(actions: Iterable[Action]) -> list[tuple[str, str]]:
    return [(action.status, action.symbol) for action in actions if isinstance(action, Report)]


def only(actions: Iterable[Action], kind: type) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def test_it_dials_subscribes_and_is_live_once_all_is_acknowledged() -> None:
    world = Harness(SYMBOLS[:3], batch=2)
    assert world.tell("start") == [Dial(URL)]
    assert world.state == "connecting"
    assert [json.loads(action.text)["params"] for action in only(world.tell("opened"), Send)] == [
        ["s0usdt@trade", "s1usdt@trade"],
        ["s2usdt@trade"],
    ]
    assert world.state == "subscribing"
    assert world.answer(Acknowledged(1)) == []
    assert world.state == "subscribing"
    assert world.answer(Acknowledged(2)) == [Report("connected", "", "live with 3 of 3 symbols")]
    assert world.state == "live"


def test_a_dial_that_nobody_answers_is_broken_off_and_made_again() -> None:
    world = Harness()
    world.tell("start")
    done = world.spend(10 * S)
    assert [type(action) for action in done] == [Close, Report]
    assert done[1].detail.startswith(f"{URL}: no answer within 10 s; the next dial is in 0.")  # type: ignore[union-attr]
    assert only(world.spend(S // 4), Dial)


def test_a_lost_connection_is_dialled_again_and_asks_for_everything_again() -> None:
    world = Harness(SYMBOLS[:2])
    world.go_live()
    world.tell("add", [SYMBOLS[2]])
    world.tell("remove", [SYMBOLS[0]])
    world.acknowledge()
    assert reports(world.tell("closed", 1006, "broke off")) == [("disconnected", "")]
    assert world.state == "waiting"
    assert only(world.spend(S // 4), Dial)
    world.tell("opened")
    assert world.subscribed == set(SYMBOLS[1:3])
    done = world.acknowledge()
    assert reports(done) == [("connected", "")]
    assert "after 0.2" in done[-1].detail  # type: ignore[union-attr]
    assert world.machine.reconnects == 1


def test_a_silent_socket_is_given_up_and_dialled_anew() -> None:
    world = Harness()
    world.go_live()
    assert world.spend(30 * S - 1) == []
    assert reports(world.spend(1)) == [("stalled", "")]
    assert world.state == "stale"
    assert only(world.spend(S // 4), Dial)
    world.tell("opened")
    assert reports(world.acknowledge()) == [("recovered", "")]


@pytest.mark.parametrize("sign", ["data", "ping", "heartbeat"])
def test_any_sign_of_life_puts_the_stall_off(sign: str) -> None:
    world = Harness()
    world.go_live()
    for _ in range(10):
        assert not reports(world.spend(29 * S))
        if sign == "data":
            world.machine.last_heard = world.now
        elif sign == "ping":
            assert world.tell("pinged", b"1770123456789") == [Pong(b"1770123456789")]
        else:
            world.answer(None)
    assert world.state == "live"
    assert world.machine.ignored == (10 if sign == "heartbeat" else 0)
    assert reports(world.spend(30 * S)) == [("stalled", "")]


def test_data_costs_the_machine_no_timer_calls() -> None:
    world = Harness()
    world.go_live()
    before = len(world.log)
    for _ in range(100_000):
        world.now += MS
        world.machine.last_heard = world.now
        if world.wake is not None and world.wake <= world.now:
            world.wake = None
            world.tell("timer")
    assert len(world.log) - before <= 100_000 * MS // (30 * S) + 1


def test_who_does_not_read_cannot_call_the_other_side_silent() -> None:
    world = Harness()
    world.tell("start")
    world.tell("opened")
    world.tell("hold")
    assert world.spend(10 * MINUTE) == []
    world.tell("resume")
    assert world.spend(5 * S - 1) == []
    assert world.state == "subscribing"
    assert reports(world.spend(1)) == [("disconnected", "")]  # the answer had its full 5 s of being listened for


def test_a_request_without_an_answer_ends_the_connection() -> None:
    world = Harness(SYMBOLS[:5])
    world.tell("start")
    world.tell("opened")
    world.machine.last_heard = world.now + 4 * S  # market data comes; the answer does not
    done = world.spend(5 * S)
    assert reports(done) == [("disconnected", "")]
    said = "no answer within 5 s to a request to subscribe to S0/USDT, S1/USDT, S2/USDT and 2 more; the next dial is in"
    assert world.machine.detail.startswith(said)


def test_a_burst_of_requests_keeps_to_five_in_any_rolling_second() -> None:
    world = Harness(SYMBOLS, batch=1)
    world.tell("start")
    world.tell("opened")
    for _ in range(30):
        world.acknowledge()
        world.tell("pinged", b"p")
        world.spend(100 * MS)
    assert world.subscribed == set(SYMBOLS)
    assert world.state == "live"
    assert sum(at < world.spoken[0] + S for at in world.spoken) == 5
    # A pong goes before requests, and the newest ping is the one that is answered.
    world.tell("remove", SYMBOLS[:8])
    assert world.machine.waiting_messages
    world.tell("pinged", b"older")
    world.tell("pinged", b"newer")
    assert only(world.spend(10 * S), Pong) == [Pong(b"newer")]


def test_the_rolling_second_spans_reconnects() -> None:
    world = Harness(SYMBOLS[:5], batch=1)
    world.go_live()
    world.tell("closed", 1006, "")
    world.spend(S // 4)
    assert only(world.tell("opened"), Send) == []
    assert len(only(world.spend(2 * S), Send)) == 5


def test_waits_double_while_it_flaps_and_begin_anew_once_it_has_held() -> None:
    world = Harness()
    world.go_live()
    waits = []
    for _ in range(10):
        world.spend(S)  # live for a second only
        world.tell("closed", 1006, "")
        waits.append(world.spend_until_dial())
        world.tell("opened")
        world.acknowledge()
    for number, wait in enumerate(waits):
        bound = min(30 * S, S // 4 * 2**number)
        assert bound / 2 <= wait <= bound
    for _ in range(2):
        world.spend(29 * S)
        world.machine.last_heard = world.now
    world.tell("closed", 1006, "")
    assert S // 8 <= world.spend_until_dial() <= S // 4


def test_a_shutdown_notice_asks_for_a_successor_and_the_end_for_a_dial_at_once() -> None:
    world = Harness()
    world.go_live()
    assert world.answer(ShuttingDown()) == [Renew("the exchange announced its shutdown")]
    assert world.answer(ShuttingDown()) == []
    assert world.state == "live"
    done = world.tell("closed", 1001, "going away")
    assert [type(action) for action in done] == [Report, Dial]
    assert world.machine.detail == "closed with 1001: going away, as the exchange announced; dialling anew at once"
    world.tell("opened")
    world.acknowledge()
    assert world.state == "live"


def test_an_exchange_that_announces_its_shutdown_at_every_dial_is_not_stormed() -> None:
    world = Harness()
    world.tell("start")
    for _ in range(600):
        if world.socket == "dialling":
            world.tell("opened")
            world.answer(ShuttingDown())
        world.spend(S)
    assert len(world.dialled) < 40


def test_too_many_requests_waits_the_longest() -> None:
    world = Harness()
    world.go_live()
    assert reports(world.tell("closed", 1008, "Too many requests")) == [("rate_limited", ""), ("disconnected", "")]
    assert 15 * S <= world.spend_until_dial() <= 30 * S


@pytest.mark.parametrize(
    ("status", "retry_after_ns", "state", "said", "least", "most"),
    [
        (429, 90 * S, "waiting", "rate_limited", 90 * S, 90 * S),
        (418, 120 * S, "waiting", "rate_limited", 120 * S, 120 * S),
        (418, 999 * 86_400 * S, "waiting", "rate_limited", LONGEST_BAN_NS, LONGEST_BAN_NS),
        (429, None, "waiting", "rate_limited", 15 * S, 30 * S),
        (503, 60 * S, "waiting", "failed", 60 * S, 60 * S),
        (503, None, "waiting", "failed", S // 8, S // 4),
        (404, None, "failed", "failed", 15 * S, 30 * S),
        (451, None, "failed", "failed", 15 * S, 30 * S),
        (200, None, "failed", "failed", 15 * S, 30 * S),
    ],
)
def test_an_http_answer_is_obeyed(
    status: int, retry_after_ns: int | None, state: str, said: str, least: int, most: int
) -> None:
    world = Harness()
    world.tell("start")
    done = world.tell("refused", status, f"expected 101, came {status}", retry_after_ns)
    assert reports(done) == [(said, "")]
    assert world.state == state
    assert least <= world.spend_until_dial() <= most


def test_a_host_that_bars_one_connection_is_not_dialled_by_the_others() -> None:
    first, second = Harness(), Harness()
    second.machine._redial.host = first.machine._redial.host
    second.go_live()
    first.tell("start")
    first.tell("refused", 429, "slow down", 300 * S)
    second.tell("closed", 1006, "")
    second.spend(299 * S)
    assert len(second.dialled) == 1
    second.spend(S)
    assert len(second.dialled) == 2


def test_the_limit_of_dials_is_kept_and_heard_once() -> None:
    world = Harness(dials=3)
    world.tell("start")
    for _ in range(2_999):
        if world.socket == "dialling":
            world.tell("failed", "connection refused")
        world.spend(S)
    limited = [action for _, action in world.log if isinstance(action, Report) and action.status == "rate_limited"]
    assert len(world.dialled) == 3 * 10
    assert limited
    assert all("at most 3 dials in 300 s" in action.detail for action in limited)
    assert len(limited) <= len(world.dialled)


def test_one_bad_symbol_of_a_batch_does_not_cost_the_others() -> None:
    bad = {SYMBOLS[4], SYMBOLS[9]}
    world = Harness(SYMBOLS)
    world.tell("start")
    world.tell("opened")
    accepted: set[str] = set()
    failed = []
    for _ in range(40):
        while world.unanswered:
            number, _, symbols = world.unanswered.pop(0)
            if bad & set(symbols):
                world.subscribed -= set(symbols)
                failed += reports(world.answer(Rejected(number, "Invalid symbol")))
            else:
                accepted |= set(symbols)
                world.answer(Acknowledged(number))
        world.spend(S)
        world.machine.last_heard = world.now
    assert accepted == set(SYMBOLS) - bad
    assert sorted(symbol for status, symbol in failed if status == "failed") == sorted(bad)
    assert world.state == "live"
    assert ("connected", "") in reports(action for _, action in world.log)
    assert "live with 10 of 12 symbols" in str(world.log)


def test_an_error_without_a_number_belongs_to_the_oldest_request() -> None:
    world = Harness(SYMBOLS[:2], batch=1)
    world.tell("start")
    world.tell("opened")
    assert reports(world.answer(Rejected(None, "Invalid json"))) == [("failed", SYMBOLS[0])]
    assert reports(world.answer(Acknowledged(2))) == [("connected", "")]
    assert only(world.answer(Rejected(None, "again")), Note)


def test_symbols_come_and_go_while_it_is_live() -> None:
    world = Harness()
    world.go_live()
    assert world.tell("add", ["S0/USDT"]) == []
    assert len(only(world.tell("add", SYMBOLS[1:3]), Send)) == 1
    assert world.subscribed == set(SYMBOLS[:3])
    assert world.state == "live"
    world.acknowledge()
    assert len(only(world.tell("remove", [SYMBOLS[1], SYMBOLS[7]]), Send)) == 1
    assert world.subscribed == {SYMBOLS[0], SYMBOLS[2]}
    world.answer(Rejected(3, "no"))
    assert world.machine.detail == "the exchange turns down a request to unsubscribe from S1/USDT: no"


def test_unexpected_answers_are_noted_up_to_a_limit_and_then_counted() -> None:
    world = Harness()
    world.go_live()
    for number in range(NOTES + 30):
        world.answer(Unexpected(f"expected an answer, came {number}"))
    assert len(only((action for _, action in world.log), Note)) == NOTES
    assert world.machine.unexpected == NOTES + 30


def test_an_acknowledgement_of_nothing_is_noted() -> None:
    world = Harness()
    world.go_live()
    assert world.answer(Acknowledged(77)) == [Note("request 77 was acknowledged, which is not open")]


@pytest.mark.parametrize("when", ["before the start", "dialling", "live", "waiting"])
def test_stop_closes_what_is_open_and_is_the_end(when: str) -> None:
    world = Harness()
    if when == "dialling":
        world.tell("start")
    elif when != "before the start":
        world.go_live()
    if when == "waiting":
        world.tell("closed", 1006, "")
    closes = when in ("dialling", "live")
    assert world.tell("stop") == ([Close(1000, "stopped")] if closes else [])
    assert world.state == "stopped"
    for what, arguments in INPUTS:
        assert world.tell(what, *arguments) == []
    assert world.tell("timer") == world.tell("stop") == []


INPUTS: list[tuple[str, tuple[Any, ...]]] = [
    ("start", ()),
    ("opened", ()),
    ("closed", (1006, "broke off")),
    ("closed", (1008, "Too many requests")),
    ("failed", ("connection refused",)),
    ("refused", (404, "not found", None)),
    ("refused", (429, "slow down", 7 * S)),
    ("refused", (503, "busy", None)),
    ("pinged", (b"payload",)),
    ("answered", (None,)),
    ("answered", (ShuttingDown(),)),
    ("answered", (Unexpected("what?"),)),
    ("answered", (Rejected(None, "no"),)),
    ("answered", (Acknowledged(10**6),)),
    ("hold", ()),
    ("resume", ()),
    ("timer", ()),
    *[("add", ([symbol],)) for symbol in SYMBOLS],
    *[("remove", ([symbol],)) for symbol in SYMBOLS],
]
STEPS = st.one_of(
    st.sampled_from(INPUTS),
    st.sampled_from(["acknowledge", "reject", "heard"]).map(lambda what: (what, ())),
    st.integers(0, 40 * S).map(lambda ns: ("spend", (ns,))),
    st.integers(0, 300 * MS).map(lambda ns: ("spend", (ns,))),
)


def play(world: Harness, steps: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
    for what, arguments in steps:
        if what == "spend":
            world.spend(*arguments)
        elif what == "acknowledge":
            if world.unanswered:
                world.answer(Acknowledged(world.unanswered.pop(0)[0]))
        elif what == "reject":
            if world.unanswered:
                number, subscribes, symbols = world.unanswered.pop(0)
                if subscribes:
                    world.subscribed -= set(symbols)
                world.answer(Rejected(number, "no such symbol"))
        elif what == "heard":
            world.machine.last_heard = world.now
        elif what == "answered" and isinstance(arguments[0], Rejected) and world.unanswered:
            _, subscribes, symbols = world.unanswered.pop(0)
            if subscribes:
                world.subscribed -= set(symbols)
            world.answer(arguments[0])
        else:
            world.tell(what, *arguments)


ANYTHING = (st.lists(STEPS, max_size=80), st.integers(1, 4), st.integers(1, 6), st.integers(0, 3))


@settings(max_examples=400)
@given(*ANYTHING)
def test_whatever_happens_its_limits_hold_and_it_comes_back(
    steps: list[tuple[str, tuple[Any, ...]]], batch: int, dials: int, seed: int
) -> None:
    comes_back(steps, batch, dials, seed)


@pytest.mark.soak
@settings(max_examples=20_000)
@given(*ANYTHING)
def test_whatever_happens_for_longer_its_limits_hold_and_it_comes_back(
    steps: list[tuple[str, tuple[Any, ...]]], batch: int, dials: int, seed: int
) -> None:
    comes_back(steps, batch, dials, seed)


def comes_back(steps: list[tuple[str, tuple[Any, ...]]], batch: int, dials: int, seed: int) -> None:
    world = Harness(SYMBOLS[:3], dials=dials, batch=batch, seed=seed)
    world.tell("start")
    play(world, steps)
    assert world.state in ("connecting", "subscribing", "live", "stale", "waiting", "failed")
    # From here on the exchange behaves: within a round of the limit of dials and a wait at the cap, all is well.
    world.tell("resume")
    assert world.wake is not None, "nothing would ever call it again"
    for _ in range(400):
        if world.socket == "dialling":
            world.tell("opened")
        world.acknowledge()
        world.machine.last_heard = world.now
        world.spend(S)
    world.acknowledge()
    assert world.state == "live"
    refused = set(world.machine.rejected)
    assert world.subscribed == set(world.machine.symbols) - refused


@given(st.lists(STEPS, max_size=60), st.integers(0, 3))
def test_equal_inputs_give_equal_actions(steps: list[tuple[str, tuple[Any, ...]]], seed: int) -> None:
    first, second = Harness(SYMBOLS[:3], seed=seed), Harness(SYMBOLS[:3], seed=seed)
    for world in (first, second):
        world.tell("start")
        play(world, steps)
    assert first.log == second.log


@given(st.lists(STEPS, max_size=40), st.lists(STEPS, max_size=20))
def test_nothing_follows_a_stop(
    before: list[tuple[str, tuple[Any, ...]]], after: list[tuple[str, tuple[Any, ...]]]
) -> None:
    world = Harness(SYMBOLS[:3])
    world.tell("start")
    play(world, before)
    assert set(map(type, world.tell("stop"))) <= {Close}
    play(world, after)  # the harness fails at any action
    assert world.state == "stopped"


def test_what_was_unexpected_on_a_socket_is_told_with_its_loss() -> None:
    world = Harness()
    world.go_live()
    world.answer(Unexpected("expected market data, came hello"))
    (told,) = only(world.tell("closed", 1006, ""), Report)
    assert told.detail.startswith(
        "closed with 1006; unexpected before that: expected market data, came hello; the next dial is in "
    )
    world.spend_until_dial()
    (told,) = only(world.tell("failed", "connection refused"), Report)
    assert "unexpected" not in told.detail
