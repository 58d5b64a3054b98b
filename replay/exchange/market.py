"""One exchange's market as it goes on: its tapes, the pace, how far it has been sent, and what is known of it at a moment.

Pace        that follows the clock: where it is, is a function of UTC. Else it begins when somebody listens for the first time
View        the market up to a position: what has been sent, for what a session says; the clock's, for REST. Pure
Clock       the venue's own may be wrong: `skew_ns` moves every time that it says, and nothing else
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from engine.clock import Clock
from engine.errors import ReplayError
from feeds.products import built_in_products
from replay.renumbered import Renumbered
from replay.rewrite import Moves
from replay.tape import Pace, Tape
from replay.trades import BEFORE, Made, Trades

EPOCH_NS: Final = 1_704_067_200_000_000_000
"""2024-01-01 UTC: when a looped tape that follows the clock was at its beginning."""


class Market:
    """See the module."""

    def __init__(self, tapes: Sequence[Tape], *, speed: float, loop: bool, from_start: bool, clock: Clock) -> None:
        """Raises ReplayError if two tapes hold the same stream: their ids would contradict each other."""
        self.tapes = tuple(tapes)
        self.looping = loop
        self.feed = tapes[0].exchange
        self.speed = speed
        self.clock = clock
        self.skew_ns = 0
        self.cursor = BEFORE
        """Position up to which all has been sent."""
        self.reached = BEFORE
        """The same, within a round too."""
        self.streams: dict[str, None] = {}
        for tape in self.tapes:
            for stream in tape.streams:
                if stream in self.streams:
                    raise ReplayError(f"{tape.name}: {stream} is in another tape too; hand their captures to one tape")
                self.streams[stream] = None
        self.symbols = tuple(dict.fromkeys(symbol for tape in self.tapes for symbol in tape.symbols))
        """As the exchange spells them."""
        self.products: Mapping[str, str] = built_in_products(self.feed)
        self.pace = Pace.of(EPOCH_NS, speed) if loop and not from_start else None
        self.trades: dict[tuple[str, Moves], Trades | Renumbered] = {}
        for tape in self.tapes:
            for track in tape.tracks:
                self.trades |= track.trades
        self.moved: dict[tuple[str, Moves], int] = {}
        """What ids are moved by beyond what the tape moves them, by symbol and kind."""
        self.opened = self.position()
        """Where it was when it was opened."""
        self._is_listened_to = False

    @property
    def name(self) -> str:
        """The names of its recordings."""
        return ", ".join(tape.name for tape in self.tapes)

    def symbol(self, name: str) -> str:
        """Return tickfold's spelling of a symbol."""
        return self.products.get(name, name)

    def now(self) -> int:
        """Return the venue's time, ns UTC."""
        return self.clock.now() + self.skew_ns

    def position(self) -> int:
        """Return where the market is."""
        return BEFORE if self.pace is None else self.pace.position(self.clock.now())

    def open(self) -> None:
        """Begin to serve: what happens from here on is what `traded` counts."""
        self.opened = self.position()

    def catch_up(self) -> None:
        """Skip what has happened while nobody was subscribed; to be called before somebody may be."""
        if not self._is_listened_to:
            self.cursor = self.reached = self.position()

    def listen(self, is_listened_to: bool) -> None:
        """Note whether anybody is subscribed."""
        self._is_listened_to = is_listened_to
        if is_listened_to and self.pace is None:
            self.pace = Pace.of(self.clock.now(), self.speed)

    def now_view(self, behind: int = 0) -> View:
        """Return what is known now, but for the newest `behind` trades of each symbol."""
        return View(self, self.position(), behind)

    def sent_view(self) -> View:
        """Return what is known to who has heard all so far."""
        return View(self, self.reached)

    def traded(self, symbol: str, kind: Moves) -> list[int]:
        """Return the ids of all trades since the market was opened, in order. `symbol` is the exchange's."""
        trades = self.trades.get((symbol, kind))
        if trades is None:
            return []
        first, end = trades.end(self.opened, self.looping), trades.end(self.position(), self.looping)
        return [made.id for made in trades.between(max(first, trades.first(self.looping)), end, self.looping)]

    # What does not happen to a market every day

    def renumber(self, symbol: str, to: int | None, by: int) -> list[int]:
        """Let a symbol's ids go on from `to`, or jump `by`, from the next trade on; return its id, for each kind of ids."""
        first_ids = []
        for trades in self._changing(symbol):
            first_ids.append(trades.next_id(self.reached) + by if to is None else to)
            trades.renumber(self.reached, first_ids[-1])
        self._note_moved(symbol)
        return first_ids

    def stand_still(self, symbol: str, is_still: bool) -> None:
        """Let a symbol make no trades any more, or go on."""
        for trades in self._changing(symbol):
            trades.stand_still(self.reached, is_still)
        self._note_moved(symbol)

    def _changing(self, symbol: str) -> list[Renumbered]:
        self.catch_up()
        changing = []
        for key, trades in self.trades.items():
            if key[0] == symbol:
                changed = trades if isinstance(trades, Renumbered) else Renumbered(trades, self.looping)
                self.trades[key] = changed
                changing.append(changed)
        return changing

    def _note_moved(self, symbol: str) -> None:
        for key, trades in self.trades.items():
            if key[0] == symbol and isinstance(trades, Renumbered):
                self.moved[key] = trades.shift()


class View:
    """The market up to a position. Lists of trades are oldest first, and empty for a symbol that has none."""

    def __init__(self, market: Market, position: int, behind: int = 0) -> None:
        self.market = market
        self.position = position
        self.now_ns = market.now()
        self._behind = behind
        self._looping = market.looping
        pace = market.pace or Pace.of(market.clock.now(), market.speed)
        self._pace = pace.shifted(market.skew_ns)

    def time_ns(self, made: Made) -> int:
        """Return when a trade was made, ns UTC."""
        return self._pace.time(made.tape_ns)

    def newest(self, symbol: str, kind: Moves, count: int) -> list[Made]:
        """Return the newest trades."""
        trades, first, end = self._known(symbol, kind)
        return trades.between(max(first, end - count), end, self._looping) if trades else []

    def from_id(self, symbol: str, kind: Moves, number: int, count: int) -> list[Made]:
        """Return the oldest trades whose id is at least `number`."""
        trades, first, end = self._known(symbol, kind)
        if trades is None:
            return []
        start = max(first, trades.ordinal(number, self._looping))
        return trades.between(start, min(start + count, end), self._looping)

    def older(self, symbol: str, kind: Moves, number: int, count: int) -> list[Made]:
        """Return the newest trades whose id is below `number`."""
        trades, first, end = self._known(symbol, kind)
        if trades is None:
            return []
        end = min(end, trades.ordinal(number, self._looping))
        return trades.between(max(first, end - count), end, self._looping)

    def newer(self, symbol: str, kind: Moves, number: int, count: int) -> list[Made]:
        """Return the newest trades whose id is above `number`."""
        trades, first, end = self._known(symbol, kind)
        if trades is None:
            return []
        start = max(first, trades.ordinal(number + 1, self._looping))
        return trades.between(max(start, end - count), end, self._looping)

    def during(
        self, symbol: str, kind: Moves, start_ns: int | None, end_ns: int | None, count: int, oldest: bool = False
    ) -> list[Made]:
        """Return the newest (or oldest) trades made at start_ns <= time <= end_ns; None sets no bound."""
        trades, first, end = self._known(symbol, kind)
        if trades is None:
            return []
        if start_ns is not None:
            first = max(first, trades.since(self._pace.position(start_ns), self._looping))
        if end_ns is not None:
            end = min(end, trades.until(self._pace.position(end_ns + 1), self._looping))
        found: list[Made] = []
        for ordinal in range(first, end) if oldest else range(end - 1, first - 1, -1):
            (made,) = trades.between(ordinal, ordinal + 1, self._looping)
            time_ns = self.time_ns(made)
            if (start_ns is None or start_ns <= time_ns) and (end_ns is None or time_ns <= end_ns):
                found.append(made)
                if len(found) == count:
                    break
        return found if oldest else found[::-1]

    def message(self, stream: str) -> bytes | None:
        """Return the newest message of a stream, None if there was none yet."""
        for tape in self.market.tapes:
            found = tape.newest(stream, self.position, self._pace, self.market.moved, looping=self._looping)
            if found is not None:
                return found
        return None

    def _known(self, symbol: str, kind: Moves) -> tuple[Trades | Renumbered | None, int, int]:
        trades = self.market.trades.get((symbol, kind))
        if trades is None:
            return None, 0, 0
        # At a pace so slow that a loop takes years, the past begins with the epoch: exchanges know no times before it.
        first = max(trades.first(self._looping), trades.until(self._pace.position(0), self._looping))
        return trades, first, max(first, trades.end(self.position, self._looping) - self._behind)
