"""What goes wrong: each of the failures that are known from production alone, and mixtures of them drawn from a seed.

The numbers are those of the list in docs/reliability.md. Times are s since the exchange began. A case says what it excuses and how
fast it has to be over: nothing else is excused.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from replay.exchange import fault_plan as plan
from replay.exchange.fault_plan import AnyFault, Fault
from tests.faults.invariants import Bounds
from tests.faults.market import FEEDS, SYMBOLS
from tests.faults.world import Scenario, Weather

KNOWN_S: Final = 75.0
"""By then the busy symbol is known well enough to be missed: a minute, and some more."""
KNOWN_END_S: Final = 100.0
LONG_S: Final = 72.0
SHORT_S: Final = 45.0
COINBASES: Final = ("coinbase", "coinbase_exchange")


class Case(NamedTuple):
    """One failure, of one feed."""

    number: int
    name: str
    feed: str
    scenario: Scenario
    bounds: Bounds

    def __str__(self) -> str:
        return f"{self.number:02d} {self.name}, {self.feed}"


def _case(
    number: int,
    name: str,
    make: Callable[[str, str], tuple[AnyFault, ...]],
    *,
    over_s: float,
    recovers_s: float = 5.0,
    feeds: tuple[str, ...] = FEEDS,
    seconds: float = SHORT_S,
    weather: tuple[Weather, ...] = (),
    held: tuple[tuple[float, float, float], ...] = (),
    flips: tuple[tuple[float, int], ...] = (),
    settings: dict[str, Any] | None = None,
    calm: bool = False,
    only: int | None = None,
    **bounds: Any,
) -> list[Case]:
    """Make a case for each feed. `only`: the number of the symbol that it concerns, if it is one; `calm`: it concerns none."""
    cases = []
    for feed in feeds:
        symbols = SYMBOLS[feed]
        made = Scenario(
            feeds=(feed,),
            faults=make(feed, symbols[0 if only is None else only]),
            weather=weather,
            held=held,
            flips=flips,
            seconds=seconds,
            settings=((feed, settings),) if settings else (),
        )
        disturbed = () if calm else None if only is None else (symbols[only],)
        if number == 12 and only is not None:
            bounds["gone"] = (symbols[only],)
        cases.append(
            Case(number, name, feed, made, Bounds(disturbed=disturbed, over_s=over_s, recovers_s=recovers_s, **bounds))
        )
    return cases


def singles() -> list[Case]:
    """Each failure alone."""
    case = _case
    return [
        *case(0, "nothing wrong", lambda *_: (), over_s=0, recovers_s=1, calm=True),
        *case(
            1, "all streams mute", lambda *_: (plan.Mute(at_s=KNOWN_S, for_s=12),), over_s=KNOWN_S + 12, recovers_s=3, seconds=KNOWN_END_S,
            mute_s=KNOWN_S, is_lossless=True,
        ),
        *case(
            1, "one symbol mute", lambda _, symbol: (plan.Mute(at_s=KNOWN_S, for_s=8, symbols=(symbol,)),), over_s=KNOWN_S + 8,
            recovers_s=3, seconds=KNOWN_END_S, mute_s=KNOWN_S, only=0,
        ),
        *case(  # one of its two: its trades while quotes come, or the other way round with other seeds
            1, "one stream mute", lambda _, symbol: (plan.Mute(at_s=KNOWN_S, for_s=8, symbols=(symbol,), streams=1),), over_s=KNOWN_S + 8,
            recovers_s=3, seconds=KNOWN_END_S, mute_s=KNOWN_S, only=0, is_lossless=True, tells=("stalled", "recovered"),
        ),
        *case(
            1, "mute, without pings", lambda *_: (plan.Mute(at_s=KNOWN_S, for_s=12, pings=False),), over_s=KNOWN_S + 12, recovers_s=5,
            seconds=KNOWN_END_S, mute_s=KNOWN_S,
        ),
        *case(
            2, "connection lost for 5 s", lambda *_: (plan.Drop(at_s=15, for_s=5),), over_s=20, recovers_s=10,
            is_lossless=True, tells=("disconnected",),
        ),
        *case(  # two trades of the quiet symbol are missed, and it makes no other that would show a gap
            2, "lost, while a quiet symbol trades", lambda *_: (plan.Drop(at_s=45, for_s=6),), over_s=51, recovers_s=12, seconds=LONG_S,
            is_lossless=True,
        ),
        *[
            one
            for feeds, tells in ((("coinbase",), ()), (("binance", "coinbase_exchange", "kucoin"), ("lost",)))  # the first repeats 100 trades
            for one in case(
                2, "lost, and no history", lambda *_: (plan.Drop(at_s=15, for_s=2, rest=False),), over_s=17, recovers_s=10, feeds=feeds,
                tells=("disconnected", *tells),
            )
        ],
        *case(
            3, "closed at an age, after a notice",
            lambda *_: (plan.Close(at_s=0, for_s=35, age_s=12, notice_s=4),), over_s=35, recovers_s=5,
        ),
        *case(3, "reset, without a word", lambda *_: (plan.Close(at_s=15, code=1006),), over_s=15, recovers_s=5),
        *case(
            3, "renewed before the cut", lambda *_: (), over_s=0, recovers_s=1, settings={"connection_max_s": 15.0},
            calm=True, tells=("connected",),
        ),
        *case(
            3, "renewed, then lost", lambda *_: (plan.Drop(at_s=22, for_s=2),), over_s=24, recovers_s=10,
            settings={"connection_max_s": 20.0}, tells=("connected", "disconnected"),
        ),
        *case(
            4, "closed again and again, 429", lambda *_: (
                plan.Close(at_s=8, every_s=2, times=6, code=1006),
                plan.Limit(at_s=10, for_s=8, on=("upgrade", "token"), retry_after_s=3),
            ), over_s=20, recovers_s=25, seconds=60, tells=("rate_limited",),
        ),
        *case(
            4, "40 changes of symbols in a second", lambda *_: (), flips=((10.0, 20),), over_s=12, recovers_s=1, only=1, unproved=True,
        ),
        *case(5, "token expires", lambda *_: (plan.Expire(venue="kucoin", at_s=0, for_s=30, age_s=10),), feeds=("kucoin",), over_s=30),
        *case(5, "token is old at the dial", lambda *_: (
            plan.Close(at_s=12, code=1006), plan.Expire(venue="kucoin", at_s=11, for_s=15, dials=2),
        ), feeds=("kucoin",), over_s=26, recovers_s=8),
        *case(6, "trades sent twice", lambda *_: (plan.Repeat(at_s=5, for_s=30, share=0.3, last=5),), over_s=35, recovers_s=1, calm=True),
        *case(7, "burst", lambda *_: (plan.Burst(at_s=10, for_s=15, faster=20.0),), over_s=25, recovers_s=2),
        *case(7, "own loop held", lambda *_: (), held=((10.0, 12.0, 0.7),), over_s=22, recovers_s=2),
        *case(7, "exchange does not read", lambda *_: (plan.Deaf(at_s=12, for_s=10),), over_s=22, recovers_s=10, dropped=("no pong",)),
        *case(9, "out of order", lambda *_: (plan.Shuffle(at_s=5, for_s=30, share=0.5),), over_s=35, recovers_s=2),
        *case(9, "some seconds late", lambda *_: (plan.Delay(at_s=5, for_s=30, share=0.05, delay_s=3.0),), over_s=38, recovers_s=3),
        *case(10, "ids begin anew", lambda *_: (plan.Renumber(at_s=15, to=1),), over_s=15, recovers_s=15, restarts=True),
        *case(
            10, "ids begin anew, and at known ones", lambda *_: (plan.Renumber(at_s=10, to=1), plan.Renumber(at_s=25, to=20)),
            over_s=25, recovers_s=15, restarts=True,
        ),
        *case(10, "ids jump ahead", lambda *_: (plan.Renumber(at_s=15, by=1_000_000_000),), over_s=15, recovers_s=2, restarts=True),
        *case(11, "clock 1.3 s ahead", lambda *_: (plan.Clock(at_s=0, offset_ms=1_270.0),), over_s=0, recovers_s=1, tells=("clock_skew",)),
        *case(11, "clock steps 8 s back", lambda *_: (plan.Clock(at_s=10, for_s=20, offset_ms=-8_000.0),), over_s=30, recovers_s=1, tells=("clock_skew",)),
        *case(12, "symbol refused", lambda _, symbol: (plan.Delist(symbols=(symbol,), how="error"),), over_s=0, only=2, recovers_s=1, tells=("failed",)),
        *case(12, "symbol silent", lambda _, symbol: (plan.Delist(symbols=(symbol,), how="silent"),), over_s=0, only=2, recovers_s=1, seconds=LONG_S, tells=("stalled",)),
        *[
            one
            for how in ("oversize", "fragments", "cut", "nul", "utf8", "binary", "empty")
            for one in case(
                13, f"garbage: {how}", lambda *_, how=how: (plan.Garble(at_s=8, for_s=15, share=0.005 if how == "oversize" else 0.04, how=how),), over_s=23,
                recovers_s=8, unproved=True, feeds=("binance",) if how != "cut" else FEEDS,
            )
        ],
        *case(14, "acknowledged late", lambda *_: (plan.Ack(at_s=0, for_s=5, delay_s=3.0),), over_s=5, recovers_s=5),
        *case(14, "acknowledgement lost", lambda *_: (plan.Ack(at_s=0, for_s=12, requests=1),), over_s=12, recovers_s=12),
        *case(
            14, "streams beyond a cap", lambda *_: (plan.Cap(streams=4),), over_s=0, only=2, recovers_s=1, seconds=LONG_S, feeds=("binance",),
            gone=("NEXO/USDT",), tells=("stalled",),
        ),
        *case(
            15, "one symbol's gap", lambda _, symbol: (plan.Gap(at_s=12, for_s=10, symbols=(symbol,), share=0.4),), over_s=22, only=1,
            unproved=True, recovers_s=1, is_lossless=True,
        ),
        *case(16, "quiet symbol", lambda *_: (), over_s=0, recovers_s=1, seconds=130.0, calm=True, feeds=("binance", "coinbase", "kucoin")),
        *case(17, "black hole", lambda *_: (plan.Blackhole(at_s=12, for_s=8),), over_s=20, recovers_s=30, seconds=60),
        *case(17, "half-open, one way", lambda *_: (), weather=(Weather("one-way black hole", KNOWN_S, 6),), over_s=KNOWN_S + 6, recovers_s=15, seconds=KNOWN_END_S, mute_s=KNOWN_S),
        *case(17, "no such name", lambda *_: (), weather=(Weather("no name", 10, 15),), over_s=25, recovers_s=20, seconds=60),
        *case(17, "unreachable", lambda *_: (), weather=(Weather("unreachable", 10, 5),), over_s=15, recovers_s=15),
        *case(17, "endpoint moved, 404", lambda *_: (
            plan.Close(at_s=10, code=1006), plan.Refuse(at_s=10, for_s=4, status=404),
        ), over_s=14, recovers_s=35, seconds=60),
        *case(17, "maintenance, 503", lambda *_: (
            plan.Close(at_s=10), plan.Refuse(at_s=10, for_s=6, status=503, retry_after_s=2),
        ), over_s=16, recovers_s=10),
        *case(18, "unknown types", lambda *_: (plan.Unknown(at_s=5, for_s=30, share=0.2, how="type"),), over_s=35, recovers_s=1, calm=True),
        *case(18, "unknown fields", lambda *_: (plan.Unknown(at_s=5, for_s=30, share=0.5, how="field"),), over_s=35, recovers_s=1, calm=True),
        *case(19, "history behind", lambda *_: (
            plan.Gap(at_s=10, for_s=6, share=0.2), plan.Rest(at_s=10, for_s=15, behind=30),
        ), over_s=25, recovers_s=1, unproved=True),
        *case(19, "history says 429", lambda *_: (
            plan.Drop(at_s=10, for_s=3), plan.Rest(at_s=10, for_s=12, status=429, retry_after_s=4, after=1),
        ), over_s=22, recovers_s=8),
        *case(19, "history overlaps", lambda *_: (
            plan.Gap(at_s=10, for_s=6, share=0.2), plan.Rest(at_s=10, for_s=15, overlap=20),
        ), over_s=25, recovers_s=1, unproved=True, is_lossless=True),
        *[
            one
            for how in ("price_zero", "size_negative", "year_one", "crossed", "nan")
            for one in case(
                20, f"bad values: {how}", lambda *_, how=how: (plan.Bad(at_s=8, for_s=15, share=0.1, how=how),), over_s=23,
                recovers_s=2, unproved=True, feeds=FEEDS if how == "price_zero" else ("binance", "coinbase_exchange"),
            )
        ],
    ]  # fmt: skip


# Mixtures ---------------------------------------------------------------------------------------------------------------------

FIRST_S, LAST_S = 5.0, 40.0


def mixture(seed: int) -> tuple[Scenario, Bounds]:
    """Draw two to five failures at once, of one exchange or of three."""
    chance = random.Random(f"mixture {seed}")
    feeds = chance.choice(
        [("binance",), ("coinbase",), ("coinbase_exchange",), ("kucoin",), ("binance", "coinbase", "kucoin")]
    )
    drawn = chance.sample(sorted(DRAWN), chance.randint(2, 5))
    faults = tuple(DRAWN[name](chance, feeds, *_times(chance)) for name in drawn)
    weather = tuple(
        Weather(chance.choice(("black hole", "refused", "reset", "unreachable", "slow")), *_times(chance, 6.0))
        for _ in range(chance.random() < 0.3)
    )
    held = ((*_times(chance, 5.0), 0.6),) if chance.random() < 0.2 else ()
    scenario = Scenario(
        feeds=feeds, faults=faults, weather=weather, held=held, seconds=LONG_S, market=chance.randrange(3)
    )
    over_s = max([0.0, *(_over_s(fault) for fault in faults), *(one.at_s + one.for_s for one in weather)])
    return scenario, Bounds(
        over_s=over_s, recovers_s=32.0, unproved=True, is_lossless=True, dropped=("no pong", "too slow")
    )


def _times(chance: random.Random, longest: float = 10.0) -> tuple[float, float]:
    lasts = round(chance.uniform(1.0, longest), 3)
    return round(chance.uniform(FIRST_S, LAST_S - lasts), 3), lasts


def _over_s(fault: Fault) -> float:
    return fault.at_s + (fault.for_s or 0.0)


Drawn = Callable[[random.Random, tuple[str, ...], float, float], AnyFault]
DRAWN: Final[dict[str, Drawn]] = {
    "mute": lambda chance, _, at, lasts: plan.Mute(at_s=at, for_s=lasts, streams=chance.randint(0, 3), pings=chance.random() < 0.7),
    "drop": lambda _, __, at, lasts: plan.Drop(at_s=at, for_s=lasts),
    "close": lambda chance, _, at, __: plan.Close(at_s=at, code=chance.choice((1000, 1001, 1006, 1012)), notice_s=chance.choice((0.0, 2.0))),
    "age": lambda chance, _, at, lasts: plan.Close(at_s=at, for_s=lasts, age_s=chance.uniform(2.0, 9.0), code=1006),
    "limit": lambda chance, _, at, lasts: plan.Limit(at_s=at, for_s=lasts, on=("upgrade", "token", "rest"), requests=3, retry_after_s=chance.randint(1, 4)),
    "repeat": lambda chance, _, at, lasts: plan.Repeat(at_s=at, for_s=lasts, share=0.2, last=chance.randint(1, 9)),
    "burst": lambda _, __, at, lasts: plan.Burst(at_s=at, for_s=lasts, faster=10.0),
    "lag": lambda chance, _, at, lasts: plan.Lag(at_s=at, for_s=lasts, delay_s=chance.uniform(0.2, 2.0)),
    "shuffle": lambda chance, _, at, lasts: plan.Shuffle(at_s=at, for_s=lasts, share=0.5, within_s=chance.uniform(0.05, 0.5)),
    "delay": lambda chance, _, at, lasts: plan.Delay(at_s=at, for_s=lasts, share=0.05, delay_s=chance.uniform(0.5, 4.0)),
    "clock": lambda chance, _, at, lasts: plan.Clock(at_s=at, for_s=lasts, offset_ms=chance.uniform(-5e3, 5e3)),
    "garble": lambda chance, _, at, lasts: plan.Garble(at_s=at, for_s=lasts, share=0.02, how=chance.choice(("fragments", "cut", "nul", "utf8", "binary", "empty"))),
    "ack": lambda chance, _, at, lasts: plan.Ack(at_s=at, for_s=lasts, share=0.5, delay_s=chance.choice((0.0, 1.0))),
    "gap": lambda chance, _, at, lasts: plan.Gap(at_s=at, for_s=lasts, share=chance.uniform(0.02, 0.5)),
    "black hole": lambda chance, _, at, lasts: plan.Blackhole(at_s=at, for_s=lasts, dials=chance.random() < 0.5),
    "refuse": lambda chance, _, at, lasts: plan.Refuse(at_s=at, for_s=lasts, status=chance.choice((0, 429, 500, 503)), retry_after_s=chance.choice((0, 2))),
    "unknown": lambda chance, _, at, lasts: plan.Unknown(at_s=at, for_s=lasts, share=0.2, how=chance.choice(("type", "field"))),
    "rest": lambda chance, _, at, lasts: plan.Rest(at_s=at, for_s=lasts, behind=chance.randint(0, 50), delay_s=chance.uniform(0.0, 2.0), overlap=chance.randint(1, 30)),
    "expire": lambda chance, feeds, at, lasts: plan.Expire(venue="kucoin", at_s=at, for_s=lasts, age_s=chance.choice((0.0, 3.0)), dials=3) if "kucoin" in feeds else plan.Drop(at_s=at, for_s=lasts),
    "deaf": lambda _, __, at, lasts: plan.Deaf(at_s=at, for_s=lasts),
    "rest broken": lambda chance, _, at, lasts: plan.Rest(at_s=at, for_s=lasts, status=chance.choice((429, 500, 503)), retry_after_s=2, requests=4),
    "bad": lambda chance, _, at, lasts: plan.Bad(at_s=at, for_s=lasts, share=0.05, how=chance.choice(("price_zero", "size_negative", "nan"))),
}  # fmt: skip
"""What a mixture is drawn from: all failures that leave ids what they are, and are over by `LAST_S`."""
