"""That the laws of the fault suite bite: each is broken on purpose in a run that keeps all of them, and has to be heard."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from engine.events import FeedStatus, Gap, Tick
from replay.exchange import fault_plan as plan
from tests.faults.invariants import Bounds, violations
from tests.faults.market import FEEDS, SYMBOLS, happenings, lines
from tests.faults.world import NS_PER_S, Dial, Outcome, Scenario, play

SCENARIO = Scenario(faults=(plan.Drop(at_s=12, for_s=3),), seconds=30.0)
BOUNDS = Bounds(over_s=15.0)
BTC, ETH = ("binance", "BTC/USDT"), ("binance", "ETH/USDT")


@cache
def honest() -> Outcome:
    """A run in which a connection was lost, and history filled what was missed."""
    return play(SCENARIO)


def broken(change: Callable[[Outcome], Any], bounds: Bounds = BOUNDS) -> str:
    """Return what is said of the run once it was changed."""
    outcome = honest()

    made = Outcome(**{name: _copied(value) for name, value in vars(outcome).items()})
    change(made)
    return "\n".join(violations(made, bounds))


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, (list, dict)) else value


def place(outcome: Outcome, wanted: Callable[[Any], bool], which: int = 50) -> int:
    """Where in what was heard the so-many-th event stands that is wanted."""
    return [at for at, one in enumerate(outcome.heard) if wanted(one)][which]


def live(one: Any) -> bool:
    return type(one) is Tick and one.symbol == BTC[1] and not one.late


def late(one: Any) -> bool:
    return type(one) is Tick and one.symbol == BTC[1] and one.late


def said(status: str) -> Callable[[Any], bool]:
    return lambda one: type(one) is FeedStatus and one.status == status


def put(outcome: Outcome, at: int, **changes: Any) -> None:
    outcome.heard[at] = msgspec.structs.replace(outcome.heard[at], **changes)


def test_a_run_that_keeps_all_laws_is_not_accused() -> None:
    assert violations(honest(), BOUNDS) == []
    assert any(late(one) for one in honest().heard)
    assert honest().statuses("filled")
    assert honest().statuses("disconnected")


def lose(outcome: Outcome) -> None:
    del outcome.heard[place(outcome, live)]


def lose_history(outcome: Outcome) -> None:
    del outcome.heard[place(outcome, late, 3)]


def repeat(outcome: Outcome) -> None:
    at = place(outcome, live)
    outcome.heard.insert(at, outcome.heard[at])


def fold_history(outcome: Outcome) -> None:
    put(outcome, place(outcome, late, 3), late=False)


def swap(outcome: Outcome) -> None:
    one, other = place(outcome, live, 50), place(outcome, live, 51)
    outcome.heard[one], outcome.heard[other] = outcome.heard[other], outcome.heard[one]


def invent(outcome: Outcome) -> None:
    put(outcome, place(outcome, live, -1), trade_id=10**12)


def turn_round(outcome: Outcome) -> None:
    at = place(outcome, live)
    put(outcome, at, side="sell" if outcome.heard[at].side == "buy" else "buy")


def misprice(outcome: Outcome) -> None:
    put(outcome, place(outcome, live), price=1.0)


def forget_to_say(outcome: Outcome) -> None:
    del outcome.heard[place(outcome, said("filled"), 0)]


def say_twice(outcome: Outcome) -> None:
    at = place(outcome, said("filled"), 0)
    outcome.heard.insert(at, msgspec.structs.replace(outcome.heard[at], sequence=outcome.heard[at].sequence - 1))


def give_up_what_came(outcome: Outcome) -> None:
    put(outcome, place(outcome, said("filled"), 0), status="lost")


def report_twice(outcome: Outcome) -> None:
    at = place(outcome, lambda one: type(one) is Gap, 0)
    outcome.heard.insert(at, outcome.heard[at])


def tell_too_late(outcome: Outcome) -> None:
    at = place(outcome, said("disconnected"), 0)
    status = outcome.heard.pop(at)
    following = next(index for index, one in enumerate(outcome.heard[at:], at) if live(one))
    outcome.heard.insert(following + 1, status)


def leave_open(outcome: Outcome) -> None:
    outcome.missing[BTC] = [(1, 2)]


def speak_too_often(outcome: Outcome) -> None:
    outcome.sent += [Dial(n * NS_PER_S // 10, "binance", "binance 9") for n in range(6)]


def storm(outcome: Outcome) -> None:
    outcome.dials += [Dial(n * NS_PER_S // 2, "binance", "binance 1") for n in range(301)]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lose, "missing, and nobody said so"),
        (lose_history, "missing, and nobody said so"),
        (lose_history, "filled, and never came"),
        (repeat, "taken twice"),
        (repeat, "sequence"),
        (fold_history, "was folded after"),
        (swap, "was folded after"),
        (invent, "never traded"),
        (turn_round, "expected"),
        (misprice, "at 1.0, expected"),
        (forget_to_say, "never spoken of again"),
        (say_twice, "spoken of more than once"),
        (give_up_what_came, "declared lost, and not missing"),
        (report_twice, "named in two gaps"),
        (tell_too_late, "too late"),
        (leave_open, "still missing at the end"),
        (speak_too_often, "more than 5 messages on binance 9 within 1 s"),
        (storm, "more than 300 dials of binance within 300 s"),
        (lambda outcome: outcome.dropped.update({"too many requests": 1}), "disconnected 1 clients: too many requests"),
        (lambda outcome: setattr(outcome, "waiting_max", 10**6), "1000000 inputs waited"),
        (lambda outcome: outcome.tasks.extend([40] * 10), "40 tasks at the end"),
        (lambda outcome: outcome.connections.extend([40] * 10), "40 connections at the end"),
    ],
)
def test_what_breaks_a_law_is_heard(change: Callable[[Outcome], Any], complaint: str) -> None:
    assert complaint in broken(change)


def test_what_is_lost_silently_for_one_symbol_is_heard_by_another() -> None:
    bounds = BOUNDS._replace(disturbed=(ETH[1],))
    assert "binance BTC/USDT: disturbed by Gap" in broken(lambda _: None, bounds)
    assert "though the fault is another symbol's" in broken(lambda _: None, bounds)


def test_a_stall_that_is_noticed_late_or_never_is_heard() -> None:
    assert "never noticed" in broken(lambda _: None, BOUNDS._replace(mute_s=12.0))

    def notice(outcome: Outcome) -> None:
        at = place(outcome, said("disconnected"), 0)
        put(outcome, at, status="stalled", received=outcome.heard[at].received + 3 * NS_PER_S)

    assert "was noticed after 3" in broken(notice, BOUNDS._replace(mute_s=10.0))


def test_a_recovery_that_takes_too_long_is_heard() -> None:
    assert "recovered after" in broken(lambda _: None, BOUNDS._replace(over_s=5.0, recovers_s=5.0))


def test_history_that_is_declared_lost_where_nothing_is_to_be_lost_is_heard() -> None:
    assert "lost, though history has them" in broken(give_up_what_came, BOUNDS._replace(is_lossless=True))


def test_equal_seeds_repeat_a_run_bit_for_bit_and_others_do_not() -> None:
    assert play(SCENARIO).digest() == honest().digest()
    assert play(SCENARIO, seed=1).digest() != honest().digest()


# The market -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feed", FEEDS)
def test_a_made_up_market_is_what_the_decoders_make_of_the_exchange_s_messages(feed: str) -> None:
    from feeds import decoder

    decode = decoder(feed).decode
    heard: dict[str, list[int]] = {symbol: [] for symbol in SYMBOLS[feed]}
    for line in lines(feed, 130.0, 0):
        events = decode(line.frame, line.recv_ns)
        assert len(events) == 1
        for event in events:
            if isinstance(event, Tick) and event.trade_id is not None:
                heard[event.symbol].append(event.trade_id)
    for ids in heard.values():
        assert len(ids) > 2
        assert (ids == list(range(ids[0], ids[-1] + 1))) == (feed != "kucoin")


def test_a_busy_symbol_never_pauses_for_a_second_and_a_quiet_one_does_for_40() -> None:
    pauses = {}
    for number in (0, 2):
        times = [one.at_ns / NS_PER_S for one in happenings(300.0, 0) if one.number == number]
        pauses[number] = max(other - one for one, other in pairwise(times))
    assert pauses[0] < 0.9
    assert 25.0 < pauses[2] < 50.0
