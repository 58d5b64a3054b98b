"""What each kind of fault shares: when it is on, what it concerns, chance of its own, and a place to say what it did.

Effect      one [[fault]] of a plan at work; `replay.exchange.faults` asks it at the hooks that its kind has
Stage       what effects see of the exchange
Parcel      what goes to a client in place of one message
Chance      a message is drawn once, however many clients get it, so that what an exchange loses, it loses for all
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from engine.errors import ConfigError
from replay.exchange.client import TEXT, frame_of
from replay.exchange.fault_plan import Fault, OfMessages
from replay.exchange.fault_schedule import Window, generator, windows
from replay.exchange.venue import Delivery, Done, Message, Reply, Request, RequestKind, Treatment

if TYPE_CHECKING:
    from replay.exchange.client import Client
    from replay.exchange.server import Exchange
    from replay.exchange.venue import Venue

DONE_MAX: Final = 10_000
"""Of what was done the newest so many are kept; all are counted."""


class Parcel(NamedTuple):
    """Frames for a client, and when. `text` is what they say if they are one whole message in one frame."""

    frames: bytes
    delay_s: float = 0.0
    text: bytes | None = None


def parcel_of(text: bytes, delay_s: float = 0.0) -> Parcel:
    """Return a message as it should be."""
    return Parcel(frame_of(TEXT, text), delay_s, text)


class Stage:
    """The exchange as effects see it, and the list of what they did."""

    def __init__(self) -> None:
        self.done: deque[Done] = deque(maxlen=DONE_MAX)
        self.counts: Counter[str] = Counter()
        self.begun = 0.0
        self._exchange: Exchange | None = None
        self._log = structlog.get_logger()
        self._timers: dict[asyncio.TimerHandle, None] = {}

    @property
    def exchange(self) -> Exchange:
        """The exchange, once it listens."""
        assert self._exchange is not None
        return self._exchange

    @property
    def now(self) -> float:
        """The event loop's time."""
        return asyncio.get_running_loop().time()

    def begin(self, exchange: Exchange) -> None:
        """Take the exchange, and this moment for 0."""
        self._exchange = exchange
        self.begun = self.now

    def end(self) -> None:
        """Call off all that was to come."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def later(self, at: float, what: Callable[[], None]) -> None:
        """Do something at a time of the loop, unless the exchange stops before."""
        loop = asyncio.get_running_loop()

        def due() -> None:
            self._timers.pop(timer, None)
            what()

        timer = loop.call_at(max(at, loop.time()), due)
        self._timers[timer] = None

    def venues(self, feeds: Iterable[str]) -> list[Venue]:
        """Return the venues of these feeds that are served."""
        return [venue for venue in self.exchange.venues if venue.feed in feeds]

    def clients(self, feeds: Iterable[str]) -> list[Client]:
        """Return the clients of these feeds, oldest first."""
        return [client for client in self.exchange.clients if client.venue.feed in feeds]

    def note(self, done: Done, number: int, concerns: tuple[str, str] | None) -> None:
        """Note what fault `number` of the plan did; `concerns`, exchange and symbol, is for what is rare enough to be logged."""
        self.counts[done.kind] += 1
        if concerns is not None:
            feed, symbol = concerns
            told = {"fault": done.kind, "number": number, "exchange": feed} | ({"symbol": symbol} if symbol else {})
            self._log.warning(done.detail, at_s=round(done.at_s, 1), **told)
        self.done.append(done)


class Effect:
    """One fault. Subclasses override the hooks that they need; `faults` asks no other."""

    fault: Fault
    is_silence = False
    """Whether what it withholds was never sent: an exchange that counts its messages does not count it."""

    def __init__(self, fault: Fault, number: int, seed: int, stage: Stage) -> None:
        self.fault = fault
        self.number = number
        self.stage = stage
        self.is_on = False
        self.window = Window(math.inf, math.inf)
        """The one that is open, or was last, in s of the loop's time."""
        self.hits = 0
        """What was treated in it."""
        self.total = 0
        self.chance = generator(seed, number, fault, "effects")
        self._windows = windows(fault, generator(seed, number, fault, "windows"))
        self._concerned: dict[str, frozenset[str] | None] = {}
        self._spelling: dict[str, Mapping[str, str]] = {}
        self._drawn: dict[tuple[str, str], tuple[tuple[int, ...], bool]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    # What happens at all

    def begin(self) -> None:
        """Find out what it concerns, and wait for its time. Raises ConfigError for venues or a symbol that are not served."""
        wanted: tuple[str, ...] = getattr(self.fault, "symbols", ())
        found: set[str] = set()
        venues = self.stage.venues(self.fault.feeds)
        if not venues:
            raise ConfigError(
                f"fault {self.number} ({self.fault.kind}): venue = {', '.join(self.fault.feeds)}: not served, so it would "
                f"never happen; there are {', '.join(venue.feed for venue in self.stage.exchange.venues)}"
            )
        for venue in venues:
            spelling = self._spelling[venue.feed] = venue.market.products
            served = {name for name in venue.market.symbols if name in wanted or spelling.get(name) in wanted}
            found |= served | {spelling[name] for name in served if name in spelling}
            self._concerned[venue.feed] = frozenset(served) if wanted else None
        missing = [name for name in wanted if name not in found]
        if missing:
            there = sorted({venue.market.symbol(name) for venue in venues for name in venue.market.symbols})
            raise ConfigError(
                f"fault {self.number} ({self.fault.kind}): symbols = {list(wanted)!r}: {missing[0]!r} is not served; "
                f"there are {', '.join(there)}"
            )
        self._next()

    def _next(self) -> None:
        """Wait for the next window; one that has begun already opens now."""
        window = next(self._windows, None)
        if window is None:
            return
        self.window = Window(window.start + self.stage.begun, window.stop + self.stage.begun)
        if self.window.start <= self.stage.now:
            self._open()
        else:
            self.stage.later(self.window.start, self._open)

    def _open(self) -> None:
        self.hits = 0
        self._counts.clear()
        self._drawn.clear()
        self.is_on = True
        self.opened()
        if self.window.stop < math.inf:
            if self.fault.lasts:
                self.stage.later(self.window.stop, self._close)
            else:
                self._close()

    def _close(self) -> None:
        self.is_on = False
        self.closed()
        self._next()

    def opened(self) -> None:
        """Do what is to be done when it begins, or at its moment."""
        lasts_s = self.window.stop - self.window.start
        self.note("", "", f"begins, for {lasts_s:g} s" if lasts_s < math.inf else "begins")

    def closed(self) -> None:
        """Do what is to be done when it ends."""
        self.note("", "", f"ended: {self.hits}")

    # What it concerns

    def concerns(self, feed: str, symbol: str) -> bool:
        """Return whether a symbol, as the exchange spells it, is one of its own."""
        if feed not in self._concerned:
            return False
        names = self._concerned[feed]
        return names is None or symbol in names

    def of(self, client: Client, message: Message) -> bool:
        """Return whether a message of a market is one of its own."""
        return bool(message.stream) and self.concerns(client.venue.feed, message.symbol)

    def symbols(self, venue: Venue) -> list[str]:
        """Return its symbols of a venue, as the exchange spells them."""
        return [name for name in venue.market.symbols if self.concerns(venue.feed, name)]

    def draw(self, feed: str, message: Message) -> bool:
        """Return whether a message is drawn; one with trades is drawn once, for all clients."""
        fault = self.fault
        assert isinstance(fault, OfMessages)
        key = feed, message.stream
        if message.ids:
            ids, was_drawn = self._drawn.get(key, ((), False))
            if ids == message.ids:
                return was_drawn
        is_drawn = not fault.messages or self._counts[key] < fault.messages
        is_drawn = is_drawn and (fault.share >= 1.0 or self.chance.random() < fault.share)
        self._counts[key] += is_drawn
        if message.ids:
            self._drawn[key] = message.ids, is_drawn
        return is_drawn

    def draw_clients(self, count: int) -> list[Client]:
        """Draw so many of the clients that there are; 0: all."""
        clients = self.stage.clients(self.fault.feeds)
        if not count or count >= len(clients):
            return clients
        return [clients[index] for index in sorted(self.chance.sample(range(len(clients)), count))]

    # What it says

    def hit(self) -> None:
        """Count what was treated, of what is too much to be told one by one."""
        self.hits += 1
        self.total += 1

    def note(self, feed: str, symbol: str, detail: str, is_logged: bool = True) -> None:
        """Tell what was done; in the log, what is of no venue or symbol alone, is of all that it concerns."""
        symbol = spelled(self._spelling.get(feed, {}), symbol)
        concerns = (
            feed or ",".join(self._concerned),
            symbol or ",".join(getattr(self.fault, "symbols", ())),
        )
        done = Done(round(self.stage.now - self.stage.begun, 6), self.fault.kind, feed, symbol, detail)
        self.stage.note(done, self.number, concerns if is_logged else None)

    def tell(self, client: Client, message: Message, detail: str) -> None:
        """Count and tell what was done with a message."""
        self.hit()
        ids = f" {_few(message.ids)}" if message.ids else ""
        self.note(client.venue.feed, message.symbol, f"{message.kind}{ids}: {detail}", is_logged=False)

    def status(self) -> dict[str, Any]:
        """Return what `GET /` says of it."""
        fault = self.fault
        return {
            "kind": fault.kind,
            "venues": [feed for feed in fault.feeds if feed in self._concerned],
            "symbols": list(getattr(fault, "symbols", ())),
            "on": self.is_on,
            "treated": self.total,
        }

    # Hooks: see `replay.exchange.venue.Faults`

    def joined(self, client: Client, now: float) -> None:
        """See `Faults`."""

    def left(self, client: Client) -> None:
        """See `Faults`."""

    def request(self, kind: RequestKind, venue: Venue, path: str, now: float) -> Treatment | None:
        """See `Faults`. Asked also while it is not on."""
        return None

    def replied(self, venue: Venue, request: Request, reply: Reply, now: float) -> Reply:
        """See `Faults`."""
        return reply

    def heard(self, client: Client, request: bytes, now: float) -> Sequence[Delivery] | None:
        """See `Faults`."""
        return None

    def answer(self, client: Client, request: bytes, deliveries: Sequence[Delivery], now: float) -> Sequence[Delivery]:
        """See `Faults`; takes and returns what it is answered so far."""
        return deliveries

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        """See `Faults`; takes and returns what goes out so far."""
        return parcels

    def pings(self, client: Client, now: float) -> bool:
        """See `Faults`."""
        return True

    def skew_ns(self, feed: str, now: float) -> int:
        """See `Faults`."""
        return 0


def spelled(spelling: Mapping[str, str], symbol: str) -> str:
    """Return a symbol as tickfold spells it, or as the exchange does if it is not known."""
    return spelling.get(symbol, symbol)


def _few(ids: Sequence[int]) -> str:
    return str(ids[0]) if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"
