"""The laws of a feed, whatever goes wrong: what the engine folded, against what the exchange says it traded.

Each law yields what breaks it, in words; an empty list is a run that keeps all of them. What a law needs to know of a scenario is
its `Bounds`: a fault may excuse something (ids that begin anew cannot ascend), and nothing that is not written there is excused.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Final, NamedTuple

from engine.config import Config, VenueConfig
from engine.events import FeedStatus, Gap, Tick
from engine.intake import CAPACITY
from feeds.spans import Span, of_ids, text, within, without
from tests.faults.market import BEGIN_NS, SYMBOLS, Happened, happenings
from tests.faults.world import NS_PER_S, SAMPLE_S, VENUES, Key, Outcome

STALL_S: Final = 2.25
"""Within this a mute busy symbol is noticed."""
SHOWN: Final = 6
NOT_PROVED: Final = ("kucoin",)
NO_WORD_OF_THE_LAST: Final = ("binance", "kucoin")
"""Exchanges that do not say which trade was the last: that it was lost shows by the next one, and by nothing before."""
KUCOIN_FIRST: Final = 11_067_996_000_000_000
"""What the made-up market adds to KuCoin's ids."""


class Bounds(NamedTuple):
    """What holds for one scenario besides what holds for all."""

    disturbed: tuple[str, ...] | None = None
    """The symbols that a fault concerns; None: all. Of the others nothing may be missing, late, or said."""
    restarts: bool = False
    """Ids begin anew."""
    recovers_s: float = 5.0
    """From `over_s` on, so long until the busy symbol flows again for good."""
    over_s: float = 0.0
    """When the last fault is over: s since the exchange began."""
    mute_s: float | None = None
    """When the busy symbol falls mute: it is to be noticed within `STALL_S`."""
    unproved: bool = False
    """KuCoin's trades are lost on a connection that stays: nothing can tell."""
    dropped: tuple[str, ...] = ()
    """What the exchange may disconnect a client for."""
    waiting_max: int = CAPACITY
    tasks_max: int = 60
    tells: tuple[str, ...] = ()
    """Statuses that have to be said."""
    gone: tuple[str, ...] = ()
    """Symbols that the exchange does not have: none of their trades comes."""
    is_lossless: bool = False
    """Nothing is declared lost: history has it all."""


def violations(outcome: Outcome, bounds: Bounds) -> list[str]:
    """Return all that a run did against the laws, in words."""
    found: list[str] = []
    for key in outcome.traded:
        for law in (
            nothing_twice, ascending, whole_after_restarts, nothing_invented, values_as_traded, nothing_missing, gaps_spoken_of_once,
        ):  # fmt: skip
            found += [f"{' '.join(key)}: {said}" for said in law(outcome, key, bounds)]
        if bounds.disturbed is not None and key[1] not in bounds.disturbed:
            found += [f"{' '.join(key)}: {said}" for said in undisturbed(outcome, key)]
    for general in (in_order, told, losses_told, limits_kept, bounded, noticed, recovered):
        found += general(outcome, bounds)
    return found


# Trades -----------------------------------------------------------------------------------------------------------------------


def nothing_twice(outcome: Outcome, key: Key, bounds: Bounds) -> Iterator[str]:
    """No trade is folded twice, or comes as history twice, or once it was folded.

    What came as history before the stream brought it is folded all the same: no feature has seen it.
    """
    if bounds.restarts:
        return
    folded: set[int] = set()
    history: set[int] = set()
    twice: list[int] = []
    for tick in outcome.heard:
        if type(tick) is Tick and (tick.exchange, tick.symbol) == key and tick.trade_id is not None:
            number, taken = tick.trade_id, history if tick.late else folded
            if number in folded or number in taken:
                twice.append(number)
            taken.add(number)
    yield from _said("taken twice", twice)


def ascending(outcome: Outcome, key: Key, bounds: Bounds) -> Iterator[str]:
    """Ids ascend, trade by trade; after ids that began anew, again."""
    descents = [(one, other) for one, other in pairwise(_ids(outcome, key)) if other <= one]
    restarts = outcome.statuses("restarted", exchange=key[0], symbol=key[1]) if bounds.restarts else []
    for one, other in descents[len(restarts) :]:
        yield f"trade {other} was folded after {one}"


def whole_after_restarts(outcome: Outcome, key: Key, bounds: Bounds) -> Iterator[str]:
    """Ids that began anew are told, and no others; from then on each trade since the first that was folded is folded."""
    told = [number for number, one in enumerate(outcome.heard) if type(one) is FeedStatus and one.status == "restarted"]
    told = [number for number in told if (outcome.heard[number].exchange, outcome.heard[number].symbol) == key]
    traded = outcome.traded[key]
    begun = [number for number, (one, other) in enumerate(pairwise(traded), 1) if other <= one]
    if len(told) > len(begun):
        yield f"ids were said to begin anew {len(told)} times, and did {len(begun)} times"
    if not bounds.restarts or not begun or len(told) < len(begun):
        return  # there were too few trades to tell; `recovered` sees to it that of a busy symbol there are enough
    since = outcome.heard[told[-1] :]
    ticks = [one for one in since if type(one) is Tick and (one.exchange, one.symbol) == key and not one.late]
    if folded := [tick.trade_id or 0 for tick in ticks]:
        expected = [number for number in traded[begun[-1] :] if number >= folded[0]]
        yield from _said("missing after ids began anew", set(expected) - set(folded))


def nothing_invented(outcome: Outcome, key: Key, bounds: Bounds) -> Iterator[str]:
    """Whatever was folded or came as history, the exchange has traded."""
    ids = {*_ids(outcome, key), *_ids(outcome, key, late=True)}
    yield from _said("never traded", ids - set(outcome.traded[key]))


def values_as_traded(outcome: Outcome, key: Key, bounds: Bounds) -> Iterator[str]:
    """Price, size and the taker's side are those of the trade."""
    if bounds.restarts:
        return
    made = _made(outcome, key)
    for tick in (*outcome.ticks(key), *outcome.ticks(key, late=True)):
        trade = made.get(tick.trade_id or 0)
        if trade is None:
            continue  # `nothing_invented` says so
        side = "buy" if trade.bought else "sell"
        if abs(tick.price - trade.price) > 0.006 or abs(tick.volume - trade.size) > 0.0001 or tick.side != side:
            yield (
                f"trade {tick.trade_id} is {tick.side} {tick.volume} at {tick.price}, "
                f"expected {side} {trade.size} at {trade.price}"
            )


def _made(outcome: Outcome, key: Key) -> dict[int, Happened]:
    """The trades of a symbol by id, as the market was made up."""
    exchange, symbol = key
    feed = next(feed for feed in outcome.scenario.feeds if VENUES[feed] == exchange)
    return _market(SYMBOLS[feed].index(symbol), outcome.scenario.seconds, outcome.scenario.market, exchange == "kucoin")


@cache
def _market(number: int, seconds: float, seed: int, is_kucoin: bool) -> dict[int, Happened]:
    return {
        one.trade_id + KUCOIN_FIRST * is_kucoin: one
        for one in happenings(seconds, seed, contiguous=not is_kucoin)
        if one.number == number and one.trade_id is not None
    }


def nothing_missing(outcome: Outcome, key: Key, bounds: Bounds) -> Iterator[str]:
    """Every trade since the first that was folded is folded, history, or declared lost; where ids prove nothing, see `_unproved`."""
    live, late = _ids(outcome, key), set(_ids(outcome, key, late=True))
    traded = outcome.traded[key]
    if outcome.missing[key]:
        yield f"still missing at the end: {outcome.missing[key][:SHOWN]}"
    if key[1] in bounds.gone:
        return
    since = traded[traded.index(live[0]) :] if live and live[0] in traded else traded
    if not live:  # what was traded before the faults were over may have come as history, or not have been heard of
        over_ns = round((bounds.over_s + bounds.recovers_s) * NS_PER_S)
        since = [] if bounds.restarts else [n for n in traded if _made(outcome, key)[n].at_ns - BEGIN_NS > over_ns]
    lost = _spans(outcome, key, "lost")
    taken = {*live, *late}
    gone = [number for number in since if number not in taken and not within(lost, number, number)]
    if key[0] in NO_WORD_OF_THE_LAST and not bounds.restarts:
        newest = max([*taken, *(last for _, last in lost)], default=0)
        over_ns = round((bounds.over_s + bounds.recovers_s) * NS_PER_S)
        made = _made(outcome, key)
        gone = [number for number in gone if number < newest or made[number].at_ns - BEGIN_NS > over_ns]
    if key[0] in NOT_PROVED:
        yield from _unproved(outcome, key, gone, bounds)
    else:
        yield from _said("missing, and nobody said so", gone)
        if bounds.is_lossless:
            yield from _said(
                "lost, though history has them", [number for number in since if within(lost, number, number)]
            )
    yield from _said("declared lost, and not missing", [number for number in taken if within(lost, number, number)])


def _unproved(outcome: Outcome, key: Key, gone: list[int], bounds: Bounds) -> Iterator[str]:
    """KuCoin: of trades that are missing a `lost` says that they may be, or the connection stayed and nothing can tell."""
    caveats = [one for one in outcome.statuses("connected", exchange=key[0]) if "cannot be proved" in one.detail]
    if not caveats:
        yield "nobody said that gaps cannot be proved"
    if gone and not bounds.unproved and not outcome.statuses("lost", exchange=key[0], symbol=key[1]):
        yield from _said("missing, and nobody said so", gone)


def gaps_spoken_of_once(outcome: Outcome, key: Key, bounds: Bounds) -> Iterator[str]:
    """Of every id of a Gap it is said exactly once that it was filled or is lost; what was filled came as history."""
    if bounds.restarts:
        return
    late = of_ids(sorted(_ids(outcome, key, late=True)))
    gaps = sorted(
        (one.first_id, one.last_id) for one in outcome.heard if type(one) is Gap and (one.exchange, one.symbol) == key
    )
    filled, lost = _spans(outcome, key, "filled"), _spans(outcome, key, "lost")
    said = sorted(filled + lost)
    if key[0] in NOT_PROVED:
        yield from _spans_said("a gap, where ids prove nothing", gaps)
        return
    yield from _spans_said("filled, and never came", [part for span in filled for part in without([span], late)])
    yield from _spans_said(
        "of a gap, and never spoken of again", [part for gap in gaps for part in without([gap], said)]
    )
    yield from _spans_said("spoken of more than once", _doubled(said))
    yield from _spans_said("named in two gaps", _doubled(gaps))


def _doubled(spans: list[Span]) -> list[Span]:
    """Return what of spans, lowest first, lies in two that follow one another."""
    return [(other[0], min(one[1], other[1])) for one, other in pairwise(spans) if other[0] <= one[1]]


def undisturbed(outcome: Outcome, key: Key) -> Iterator[str]:
    """A symbol that no fault concerns has folded every trade, live, and nothing was said of it."""
    live = _ids(outcome, key)
    traded = outcome.traded[key]
    if live and traded[traded.index(live[0]) :] != live:
        yield f"{len(traded)} trades, and {len(live)} folded, though the fault is another symbol's"
    yield from _said("late, though the fault is another symbol's", _ids(outcome, key, late=True))
    for one in outcome.heard:
        is_over = (
            outcome.after_s(one.received) > outcome.scenario.seconds
        )  # the market has ended: silence is what is left
        if type(one) in (Gap, FeedStatus) and (one.exchange, one.symbol) == key and not is_over:
            yield f"disturbed by {one}"


# Runs -------------------------------------------------------------------------------------------------------------------------


def in_order(outcome: Outcome, bounds: Bounds) -> Iterator[str]:
    """Sequences rise, and nothing is folded that was received before what stands in front of it: who is told, is told first."""
    sequence = 0
    received: dict[str, int] = {}
    for one in outcome.heard:
        if one.sequence <= sequence:
            yield f"sequence {one.sequence} after {sequence}: {one}"
        sequence = one.sequence
        if type(one) in (Tick, FeedStatus) and not getattr(one, "late", False):
            before = received.get(one.exchange, 0)
            if one.received < before:
                yield f"{one} was folded {(before - one.received) / 1e6:.3f} ms too late"
            received[one.exchange] = one.received


def told(outcome: Outcome, bounds: Bounds) -> Iterator[str]:
    """What strategies have to be told they were told, by every exchange; of a symbol that is gone, by its name."""
    for feed in outcome.scenario.feeds:
        for status in bounds.tells:
            found = outcome.statuses(status, exchange=VENUES[feed])
            if not any(one.symbol in bounds.gone for one in found) if bounds.gone else not found:
                yield f"{feed} never said {status}"


def losses_told(outcome: Outcome, bounds: Bounds) -> Iterator[str]:
    """A connection that is said to be there again was said to be lost, unless it took over from one that was not."""
    is_up: dict[str, bool] = {}
    for one in outcome.heard:
        if type(one) is not FeedStatus or one.symbol:
            continue
        if one.status in ("connected", "recovered"):
            if is_up.get(one.exchange) and "took over" not in one.detail:
                yield f"{one.exchange}: {one.status}, and nobody had said that it was lost: {one.detail}"
            is_up[one.exchange] = True
        elif one.status in ("disconnected", "stalled", "failed"):
            is_up[one.exchange] = False


def limits_kept(outcome: Outcome, bounds: Bounds) -> Iterator[str]:
    """No exchange had to disconnect us, and no limit of messages or dials was passed in any rolling window."""
    for why, count in outcome.dropped.items():
        if why not in bounds.dropped:
            yield f"the exchange disconnected {count} clients: {why}"
    for feed in outcome.scenario.feeds:
        venue: VenueConfig = getattr(Config(), feed)
        for connection in {one.connection for one in outcome.sent if one.feed == feed}:
            times = [one.at_ns for one in outcome.sent if one.feed == feed and one.connection == connection]
            yield from _windows(times, venue.messages, venue.messages_s, f"messages on {connection}")
        yield from _windows(
            [one.at_ns for one in outcome.dials if one.feed == feed], venue.dials, venue.dials_s, f"dials of {feed}"
        )


def bounded(outcome: Outcome, bounds: Bounds) -> Iterator[str]:
    """Queues and tasks stay small, and are at the end what they were at the beginning."""
    if outcome.waiting_max > bounds.waiting_max:
        yield f"{outcome.waiting_max} inputs waited, expected at most {bounds.waiting_max}"
    if max(outcome.tasks) > bounds.tasks_max:
        yield f"{max(outcome.tasks)} tasks, expected at most {bounds.tasks_max}"
    settled = round(5 / SAMPLE_S)
    for name, counts in (("tasks", outcome.tasks), ("connections", outcome.connections)):
        # Within the last seconds: an idle connection of REST may come or go.
        if min(counts[-settled:]) > max(counts[settled : 3 * settled]):
            yield f"{min(counts[-settled:])} {name} at the end, {max(counts[settled : 3 * settled])} at the beginning"


def noticed(outcome: Outcome, bounds: Bounds) -> Iterator[str]:
    """A mute busy symbol is called stalled within `STALL_S` of its last message."""
    if bounds.mute_s is None:
        return
    for feed in outcome.scenario.feeds:
        took_s = noticed_s(outcome, feed, bounds.mute_s)
        if took_s is None:
            yield f"{feed}: a mute {SYMBOLS[feed][0]} was never noticed"
        elif took_s > STALL_S:
            yield f"{feed}: a mute {SYMBOLS[feed][0]} was noticed after {took_s:.3f} s, expected {STALL_S} s"


def noticed_s(outcome: Outcome, feed: str, mute_s: float) -> float | None:
    """How long after the last message of a stream of it the busy symbol of a feed was called stalled; None if it never was."""
    key = (VENUES[feed], SYMBOLS[feed][0])
    last: dict[type, int] = {}
    for one in outcome.heard:
        if one.exchange != key[0]:
            continue
        if type(one) is not FeedStatus:
            if type(one) is not Gap and one.symbol == key[1] and not getattr(one, "late", False):
                last[type(one)] = one.received
        elif one.status == "stalled" and one.symbol in ("", key[1]) and outcome.after_s(one.received) >= mute_s:
            return (one.received - min(last.values(), default=0)) / NS_PER_S
    return None


def recovered(outcome: Outcome, bounds: Bounds) -> Iterator[str]:
    """Once all faults are over the busy symbol flows again, within the stated time, and goes on to the end of the market."""
    for feed in outcome.scenario.feeds:
        took_s = recovery_s(outcome, feed, bounds.over_s)
        if took_s > bounds.recovers_s:
            yield f"{feed}: recovered after {took_s:.2f} s, expected {bounds.recovers_s} s"


def recovery_s(outcome: Outcome, feed: str, over_s: float) -> float:
    """How long after the last fault was over the busy symbol of a feed last fell silent: 0 if it did not."""
    ticks = outcome.ticks((VENUES[feed], SYMBOLS[feed][0]))
    over_ns = outcome.begin_ns + round(over_s * NS_PER_S)
    end_ns = outcome.begin_ns + round(outcome.scenario.seconds * NS_PER_S)
    times = [over_ns, *(tick.received for tick in ticks if tick.received > over_ns), end_ns]
    late = [other for one, other in pairwise(times) if other - one > STALL_S * NS_PER_S]
    return (late[-1] - over_ns) / NS_PER_S if late else 0.0


# Helpers ----------------------------------------------------------------------------------------------------------------------


def _ids(outcome: Outcome, key: Key, *, late: bool = False) -> list[int]:
    return [tick.trade_id for tick in outcome.ticks(key, late=late) if tick.trade_id is not None]


def _spans(outcome: Outcome, key: Key, status: str) -> list[Span]:
    """The ids that a status was said of, lowest first."""
    found = outcome.statuses(status, exchange=key[0], symbol=key[1])
    return sorted((one.first_id, one.last_id) for one in found if one.first_id is not None and one.last_id is not None)


def _spans_said(what: str, spans: list[Span]) -> Iterator[str]:
    """Say what is wrong with spans of trades, if there are any."""
    if spans:
        more = "" if len(spans) <= SHOWN else f" and {len(spans) - SHOWN} more"
        yield f"{', '.join(map(text, spans[:SHOWN]))}{more}: {what}"


def _said(what: str, numbers: object) -> Iterator[str]:
    """Say what is wrong with trades, if there are any."""
    found = sorted(numbers)  # type: ignore[call-overload]
    if found:
        more = "" if len(found) <= SHOWN else f" and {len(found) - SHOWN} more"
        yield f"trades {', '.join(map(str, found[:SHOWN]))}{more}: {what}"


def _windows(times: list[int], most: int, seconds: float, what: str) -> Iterator[str]:
    for first, beyond in zip(times, times[most:], strict=False):
        if beyond - first < seconds * NS_PER_S:
            yield f"more than {most} {what} within {seconds:g} s"
            return
