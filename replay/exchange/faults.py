"""The faults of a plan at work: what the exchange asks at each request, message, answer and ping, and what the plan says to it.

Seed        each fault has random numbers of its own, drawn from seed, place in the plan and kind. Equal seeds, plans, tapes and
            timelines give equal faults
Order       faults treat a message in the order of the plan: what an earlier one loses, a later one does not see
Done        what was done is told: by the newest 10,000 entries of `done`, by counts and by `GET /`
Cost        a fault that is not on is not asked; without any that is on, a message is not treated at all
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.errors import ConfigError
from replay.exchange import fault_connections as connections
from replay.exchange import fault_market as market
from replay.exchange import fault_plan as plan
from replay.exchange import fault_streams as streams
from replay.exchange.client import TEXT, frame_of
from replay.exchange.fault_effects import Effect, Parcel, Stage, parcel_of
from replay.exchange.fault_plan import Plan
from replay.exchange.venue import Delivery, Done, Message, Reply, Request, RequestKind, Treatment

if TYPE_CHECKING:
    from replay.exchange.client import Client
    from replay.exchange.server import Exchange

COUNTING: Final = "coinbase"
"""The feed that counts the messages of each connection, and says so in them: what was never sent is not counted, what was lost is."""
_COUNT: Final = re.compile(rb'("sequence_num"\s*:\s*)([0-9]+)')
SHOWN: Final = 20
"""Of what was done, so much is in `GET /`."""

EFFECTS: Final[Mapping[type[plan.Fault], type[Effect]]] = {
    plan.Mute: streams.Mutes,
    plan.Drop: connections.Drops,
    plan.Close: connections.Closes,
    plan.Limit: connections.Limits,
    plan.Expire: connections.Expires,
    plan.Repeat: streams.Repeats,
    plan.Burst: streams.Bursts,
    plan.Deaf: connections.Deafens,
    plan.Lag: streams.Lags,
    plan.Shuffle: streams.Shuffles,
    plan.Delay: streams.Delays,
    plan.Renumber: market.Renumbers,
    plan.Clock: market.Clocks,
    plan.Delist: market.Delists,
    plan.Garble: streams.Garbles,
    plan.Ack: connections.Acks,
    plan.Cap: streams.Caps,
    plan.Gap: streams.Gaps,
    plan.Quiet: market.Quiets,
    plan.Blackhole: connections.Blackholes,
    plan.Refuse: connections.Refuses,
    plan.Unknown: streams.Unknowns,
    plan.Rest: market.Rests,
    plan.Bad: streams.Bads,
}


class PreparedPlan:
    """A plan that an exchange takes: from equal seeds come equal faults."""

    def __init__(self, planned: Plan) -> None:
        self.plan = planned

    def faults(self, seed: int) -> PlannedFaults:
        """Begin anew."""
        return PlannedFaults(self.plan, seed)


def load(path: Path) -> PreparedPlan:
    """Read a plan from a TOML file. Raises ConfigError as `fault_plan.read` does."""
    return PreparedPlan(plan.read(path))


class PlannedFaults:
    """What goes wrong, as `replay.exchange.venue.Faults` wants it."""

    def __init__(self, planned: Plan, seed: int) -> None:
        self.plan, self.seed = planned, seed
        self._stage = Stage()
        self._effects = [
            EFFECTS[type(fault)](fault, number, seed, self._stage) for number, fault in enumerate(planned.fault, 1)
        ]
        self._moved: dict[Client, int] = {}
        """What the counts of messages that Coinbase Advanced Trade tells its clients are moved by."""
        self._messages = self._with("message")
        self._answers = self._with("answer")
        self._heard = self._with("heard")
        self._pings = self._with("pings")
        self._skews = self._with("skew_ns")
        self._requests = self._with("request")
        self._replies = self._with("replied")

    def _with(self, hook: str) -> list[Effect]:
        """Return the effects that have a hook of their own."""
        return [effect for effect in self._effects if getattr(type(effect), hook) is not getattr(Effect, hook)]

    @property
    def done(self) -> Sequence[Done]:
        """What was done, oldest first; the newest 10,000."""
        return self._stage.done

    def status(self) -> dict[str, Any]:
        """Return what `GET /` says under `faults`."""
        return {
            "plan": self.plan.where,
            "seed": self.seed,
            "counts": dict(self._stage.counts),
            "planned": [effect.status() for effect in self._effects],
            "newest": [done._asdict() for done in list(self._stage.done)[-SHOWN:]],
        }

    def begin(self, exchange: Exchange) -> None:
        """Begin. Raises ConfigError for a venue or a symbol that is not served."""
        self._stage.begin(exchange)
        try:
            for effect in self._effects:
                effect.begin()
        except ConfigError as error:
            self._stage.end()
            raise ConfigError(f"{self.plan.where}: {error}") from error

    def end(self) -> None:
        """Call off all that was to come."""
        self._stage.end()

    def joined(self, client: Client, now: float) -> None:
        """See `Faults`."""
        for effect in self._effects:
            effect.joined(client, now)

    def left(self, client: Client) -> None:
        """See `Faults`."""
        self._moved.pop(client, None)
        for effect in self._effects:
            effect.left(client)

    def request(self, kind: RequestKind, feed: str, path: str, now: float) -> Treatment | None:
        """See `Faults`. The first fault that treats a request does so alone."""
        for venue in self._stage.venues((feed,)) if self._requests else ():
            for effect in self._requests:
                if feed in effect.fault.feeds:
                    treatment = effect.request(kind, venue, path, now)
                    if treatment is not None:
                        return treatment
        return None

    def replied(self, feed: str, request: Request, reply: Reply, now: float) -> Reply:
        """See `Faults`."""
        for venue in self._stage.venues((feed,)) if self._replies else ():
            for effect in self._replies:
                if effect.is_on and feed in effect.fault.feeds:
                    reply = effect.replied(venue, request, reply, now)
        return reply

    def message(self, client: Client, message: Message, now: float) -> Sequence[Delivery] | None:
        """See `Faults`."""
        moved = self._moved.get(client, 0) if self._moved else 0
        if moved:
            message = message._replace(text=counted(message.text, moved))
        parcels: list[Parcel] | None = None
        before: list[Parcel] | None = None
        for effect in self._messages:
            if effect.is_on:
                if parcels is None:
                    before = parcels = [parcel_of(message.text)]
                parcels = effect.message(client, message, parcels, now)
                if not parcels:
                    if effect.is_silence:
                        self._move(client, -1)
                    return ()
        if parcels is None:
            return [Delivery(frame_of(TEXT, message.text))] if moved else None
        if parcels is before and not moved:
            return None
        if len(parcels) > 1:
            self._move(client, len(parcels) - 1)
            parcels = [renumbered(parcel, client.venue.feed, message.text, at) for at, parcel in enumerate(parcels)]
        return [Delivery(parcel.frames, parcel.delay_s) for parcel in parcels]

    def _move(self, client: Client, by: int) -> None:
        """Move the count of a client's messages, where the exchange tells it."""
        if client.venue.feed == COUNTING:
            self._moved[client] = self._moved.get(client, 0) + by

    def heard(self, client: Client, request: str | bytes, now: float) -> Sequence[Delivery] | None:
        """See `Faults`."""
        for effect in self._heard:
            if effect.is_on:
                answers = effect.heard(client, _bytes(request), now)
                if answers is not None:
                    return answers
        return None

    def answer(
        self, client: Client, request: str | bytes, answers: Sequence[bytes], now: float
    ) -> Sequence[Delivery] | None:
        """See `Faults`."""
        deliveries: Sequence[Delivery] | None = None
        if self._moved and (moved := self._moved.get(client, 0)):
            answers = [counted(answer, moved) for answer in answers]
            deliveries = [Delivery(frame_of(TEXT, answer)) for answer in answers]
        for effect in self._answers:
            if effect.is_on:
                if deliveries is None:
                    deliveries = [Delivery(frame_of(TEXT, answer)) for answer in answers]
                deliveries = effect.answer(client, _bytes(request), deliveries, now)
        return deliveries

    def pings(self, client: Client, now: float) -> bool:
        """See `Faults`."""
        return all(effect.pings(client, now) for effect in self._pings if effect.is_on)

    def skew_ns(self, feed: str, now: float) -> int:
        """See `Faults`."""
        return sum(effect.skew_ns(feed, now) for effect in self._skews if effect.is_on and feed in effect.fault.feeds)


def counted(text: bytes, by: int) -> bytes:
    """Return a message with its number among those of its connection moved."""
    return _COUNT.sub(lambda found: found[1] + b"%d" % (int(found[2]) + by), text, count=1)


def renumbered(parcel: Parcel, feed: str, text: bytes, at: int) -> Parcel:
    """Return one of several messages that go out in place of one, numbered as those of a connection are."""
    number = _COUNT.search(text) if feed == COUNTING else None
    if parcel.text is None or number is None:
        return parcel
    return parcel_of(_COUNT.sub(rb"\g<1>%d" % (int(number[2]) + at), parcel.text, count=1), parcel.delay_s)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
