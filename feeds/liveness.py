"""Whether a symbol has fallen silent, judged by its own rate: a quiet symbol is no stall, a mute busy one is, in two seconds.

`note` is a dict store for each event of market data; all else happens in `look`, called by a timer. Pure: times are handed in, int
ns of one clock that never goes back. A look sees how long a silence has lasted; the longest that ended by itself within the memory
is L, and a silence is a stall once it has lasted

    threshold = floor + factor * max(0, L - floor / 2)                                       floor 2 s, factor 4

so a stream whose pauses stay below 1 s gets 2 s, and a quiet one about 4 L. The memory is 15 parts of at least a minute and 8 looks
that found something: 15 minutes, or as long as a sparse symbol needs. Only a message closes a part, so silence forgets nothing.

Warm-up    of a minute or more: 200 looks that found something new, and L outlived 60 times (15 min at most). Until then the
           threshold is 60 s or more, growing with the square of what is missing; before 20 such looks there is none.
Learning   A stall that ends by itself may be a fault, or a market that changed its pace. The first in 15 min is taken for a fault
           and teaches nothing; a further one counts as a pause of up to three thresholds: a few alarms, then none.
No stall   while reading is held or the connection is down (`hold`, `resume`, `reset`), and for as long as our own timer was late:
           what nobody looked at proves nothing.
State      15 numbers a symbol and a few more, whatever comes.

Measured on recordings, trades and quotes by `received`, a look each 0.25 s in three phases; thresholds after an hour or at the end:

| recording | length | longest pause | stalls | threshold |
| --- | --- | --- | --- | --- |
| NEXO/USDT spot | 24 h | 149 s | 0 | 48 to 593 s, median 232 s |
| NEXO/USDT spot, trades only | 24 h | 313 s | 0 | 58 to 1,248 s, median 417 s |
| BTC, ETH spot | 6 min | 0.64, 0.87 s | 0 | 2 s |
| BTC, ETH coin-margined | 6 min | 1.24, 1.71 s | 0 | 2.8, 4.6 s |
| BTC, ETH USD-M | 6 min | 0.75, 0.40 s | 0 | 2 s |
| BTC, ETH USD-M over midnight UTC | 8 min | 2.36, 2.89 s | 1 each: both were mute at 00:00:00, and no trade is missing | 2 s |
| LTC/USDT, trades only | 17 h | 88 s | 1: the recorder lost 117 trades | 19 to 97 s |
| ES, trades only | 41 h | 6.5 h | 1: nothing was traded for hours | 11 to 836 s |

Begun at each of 5,837 moments of NEXO's day and watched for 20 minutes, neither of its streams had a stall. Factors of 1, 1.5, 2, 2.5
and 3 would give NEXO 100, 25, 1, 0 and 0 stalls a day, its trades 58, 7, 5, 2 and 0. Mute after 75 s of watching, BTC/USDT spot is
reported 2.00 to 2.25 s after its last message. A stream of 100 a second that becomes NEXO from one moment to the next is reported 0
to 3 times (20 beginnings), then no more. `note` costs 0.06 us; a look at 1,000 symbols 0.12 ms if nothing came, 0.47 ms if all were
heard (CPython 3.11).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import msgspec

S = 1_000_000_000
FLOOR_NS = 2 * S
FACTOR = 4
FIRST_NS = 60 * S
EVERY_NS = S // 4
PARTS = 15
PART_NS = 60 * S
PART_PAUSES = 8
MEMORY_NS = PARTS * PART_NS
WARM_UP_NS = 60 * S
OUTLIVED = 60
"""How often the longest pause has to have been outlived before it is believed."""
LEAST = 20
"""Looks that found something new, before there is any threshold at all."""
ENOUGH = 200
"""The same, to a minute of warm-up, before it is over."""
QUIET_NS = 600 * S
"""After so long one says of a symbol without a threshold, once, that it has gone quiet."""


class Stalled(msgspec.Struct, frozen=True):
    """A symbol has been silent for longer than it ever is. Said once, until `Recovered`."""

    symbol: str
    silent_ns: int
    threshold_ns: int
    detail: str


class Silent(msgspec.Struct, frozen=True):
    """A symbol of which too little is known has not been heard: no proof of a stall. Said at most once for each `add`."""

    symbol: str
    silent_ns: int
    detail: str


class Recovered(msgspec.Struct, frozen=True):
    """A symbol that was reported as stalled or silent is heard again, after `silent_ns` (since its last message or `add`)."""

    symbol: str
    silent_ns: int
    detail: str


Change: TypeAlias = Stalled | Silent | Recovered


class _Symbol:
    """What is remembered of one symbol. Times in ns; `excused` is the watch's own total when something happened."""

    __slots__ = (
        "closed",
        "count",
        "excused",
        "last",
        "longest",
        "open_count",
        "open_longest",
        "open_since",
        "said",
        "said_silent",
        "silent",
        "silent_from",
        "stall_ended",
        "subscribed",
        "subscribed_excused",
        "threshold",
    )

    def __init__(self, last: int, now: int, excused: int) -> None:
        self.last = last  # newest message that a look has seen, or what stands for none
        self.silent_from = now  # what silence is counted from: the last message, `add` or `reset`
        self.excused = excused
        self.silent = 0  # longest silence that a look has seen since then
        self.subscribed = now
        self.subscribed_excused = excused
        self.count = 0  # looks that found something new
        self.closed: deque[int] = deque(maxlen=PARTS)  # longest pause of each closed part of the memory
        self.open_longest = 0
        self.open_count = 0
        self.open_since = now
        self.longest = 0  # of all parts
        self.threshold: int | None = None
        self.said: type[Stalled | Silent] | None = None  # what was reported and has not ended
        self.said_silent = False
        self.stall_ended: int | None = None


NEVER = -1


class SymbolWatch:
    """Watches the symbols of one connection. None of its methods raises, whatever the order of the calls.

    A symbol is any word: who wants to notice that trades are mute while quotes come watches the streams under names of their own.
    """

    def __init__(
        self,
        *,
        floor_ns: int = FLOOR_NS,
        factor: int = FACTOR,
        first_ns: int = FIRST_NS,
        warm_up_ns: int = WARM_UP_NS,
        every_ns: int = EVERY_NS,
    ) -> None:
        self._floor_ns = floor_ns
        self._factor = factor
        self._first_ns = first_ns
        self._warm_up_ns = warm_up_ns
        self._enough = max(LEAST, warm_up_ns * ENOUGH // WARM_UP_NS)
        self._every_ns = every_ns
        self._heard: dict[str, int] = {}
        self._symbols: dict[str, _Symbol] = {}
        self._excused = 0  # time in which silence proved nothing, all together
        self._looked: int | None = None
        self._held_since: int | None = None
        self.note: Callable[[str, int], None] = self._heard.__setitem__
        """note(symbol, received): an event of market data came. One dict store, for that is all a message may cost."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """What is watched, in the order in which it was added."""
        return tuple(self._symbols)

    @property
    def stalled(self) -> tuple[str, ...]:
        """What was reported as stalled and has not been heard since."""
        return tuple(symbol for symbol, watched in self._symbols.items() if watched.said is Stalled)

    @property
    def all_silent(self) -> bool:
        """Whether every symbol that has a threshold is stalled, and there is one: the cause may be the connection's."""
        known = [watched.said is Stalled for watched in self._symbols.values() if watched.threshold is not None]
        return bool(known) and all(known)

    def heard_at(self, symbol: str) -> int:
        """When `symbol` was last heard, below 0 if it never was."""
        return self._heard.get(symbol, NEVER)

    def threshold_ns(self, symbol: str) -> int | None:
        """How long a silence of `symbol` would be a stall, as of its last message; None while too little is known of it."""
        watched = self._symbols.get(symbol)
        return None if watched is None else watched.threshold

    def add(self, symbol: str, now: int) -> None:
        """Watch `symbol` from `now` on: it was subscribed to. What was known of it is kept if it is watched already."""
        if symbol not in self._symbols:
            self._heard[symbol] = NEVER
            self._symbols[symbol] = _Symbol(NEVER, now, self._excused_at(now))

    def remove(self, symbol: str) -> None:
        """Forget `symbol`. What is still on its way is ignored."""
        self._symbols.pop(symbol, None)
        self._heard.pop(symbol, None)

    def hold(self, now: int) -> None:
        """Nothing is read from `now` on, or there is no connection: silence proves nothing until `resume` or `reset`."""
        if self._held_since is None:
            self._held_since = now

    def resume(self, now: int) -> None:
        """Reading goes on: silences continue where they were held."""
        if self._held_since is not None:
            self._excused += now - self._held_since
            self._held_since = None
            self._looked = now

    def reset(self, now: int) -> None:
        """The connection is live anew: silences begin at `now`.

        What is known of each symbol's rate stays, and so does a stall that was reported, until the symbol is heard.
        """
        self.resume(now)
        for watched in self._symbols.values():
            watched.silent_from = now
            watched.excused = self._excused
            watched.silent = 0

    def look(self, now: int) -> list[Change]:
        """Return what has changed since the last look. To be called every `every_ns`; while held it sees nothing."""
        changes: list[Change] = []
        if self._held_since is not None:
            return changes
        if self._looked is not None and now - self._looked > 2 * self._every_ns:
            self._excused += now - self._looked - self._every_ns
        self._looked = now
        if len(self._heard) > len(self._symbols):
            self._drop_strangers()
        excused, first_ns, heard = self._excused, self._first_ns, self._heard
        newest: list[int] | None = None
        for symbol, watched in self._symbols.items():
            last = heard[symbol]
            if last != watched.last:
                if watched.said is not None:
                    changes.append(_recovered(symbol, watched, last))
                self._learn(watched, last)
                continue
            silent = now - watched.silent_from - (excused - watched.excused)
            watched.silent = silent
            threshold = watched.threshold
            if threshold is None:
                limit = QUIET_NS if watched.count else first_ns
                if silent >= limit and not watched.said_silent:
                    watched.said, watched.said_silent = Silent, True
                    changes.append(_silent(symbol, silent, watched.count))
            elif silent >= threshold and watched.said is not Stalled:
                watched.said = Stalled
                if newest is None:
                    newest = sorted(heard.values())
                others = len(newest) - bisect_right(newest, last)
                changes.append(_stalled(symbol, silent, watched, others, len(newest) - 1))
        return changes

    def _learn(self, watched: _Symbol, last: int) -> None:
        """A look has found that messages came, the newest at `last`: the silence before them is a pause."""
        pause = watched.silent
        if watched.said is Stalled:
            assert watched.threshold is not None
            ended, watched.stall_ended = watched.stall_ended, last
            forgiven = ended is None or last - ended > MEMORY_NS
            pause = 0 if forgiven else min(pause, 3 * watched.threshold)
        watched.said = None
        watched.last = last
        watched.silent = 0
        watched.silent_from = max(last, watched.silent_from)
        watched.excused = self._excused
        watched.count += 1
        watched.open_count += 1
        rotates = last - watched.open_since >= PART_NS and watched.open_count >= PART_PAUSES
        watched.open_longest = max(watched.open_longest, pause)
        age = last - watched.subscribed - (self._excused - watched.subscribed_excused)
        if rotates:
            watched.closed.append(watched.open_longest)
            watched.open_longest = watched.open_count = 0
            watched.open_since = last
            watched.longest = max(watched.closed)
        elif pause > watched.longest:
            watched.longest = pause
        elif age > MEMORY_NS and watched.count > self._enough:
            return  # warm, and nothing has changed
        if watched.count >= LEAST and age > 0:
            watched.threshold = self._threshold(watched.longest, age, watched.count)

    def _threshold(self, longest: int, age: int, count: int) -> int:
        threshold = self._floor_ns + self._factor * max(0, longest - self._floor_ns // 2)
        needed = min(max(OUTLIVED * longest, self._warm_up_ns), max(MEMORY_NS, self._warm_up_ns))
        # Which of the two has come less far decides.
        part, whole = (age, needed) if age * self._enough < count * needed else (count, self._enough)
        if part >= whole:
            return threshold
        return max(self._warm_up_ns, threshold * whole * whole // (part * part))

    def _excused_at(self, now: int) -> int:
        """What will have been excused once a hold that lasts at `now` is over, less what is still to come."""
        return self._excused if self._held_since is None else self._excused + now - self._held_since

    def _drop_strangers(self) -> None:
        """Forget what came of symbols that nobody watches (any more)."""
        for symbol in [symbol for symbol in self._heard if symbol not in self._symbols]:
            del self._heard[symbol]


def _stalled(symbol: str, silent: int, watched: _Symbol, others: int, of: int) -> Stalled:
    assert watched.threshold is not None
    detail = f"nothing came for {_seconds(silent)}; its longest pause of late was {_seconds(watched.longest)}"
    if of:
        detail += f"; {others} of {of} other symbols were heard since"
    return Stalled(symbol, silent, watched.threshold, detail)


def _silent(symbol: str, silent: int, count: int) -> Silent:
    if count == 0:
        return Silent(symbol, silent, f"nothing has come for {_seconds(silent)}: delisted, halted or very quiet")
    return Silent(symbol, silent, f"nothing came for {_seconds(silent)}; too little came before to tell what is usual")


def _recovered(symbol: str, watched: _Symbol, last: int) -> Recovered:
    silent = last - (watched.subscribed if watched.last == NEVER else watched.last)
    return Recovered(symbol, silent, f"heard again after {_seconds(silent)}")


def _seconds(ns: int) -> str:
    return f"{ns / 1e9:.0f} s" if ns >= 1_000 * S else f"{ns / 1e9:.3g} s"
