"""The outbox: events that are due to those who listen, built out of rows and put into the order of their inputs.

For one input that order is: gap, tick or quote, the features of each view in the order of the views, what each model has to say (outcomes,
drifts and promotions, its prediction), overflow of a window. Where nobody listens nothing is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.block import IS_QUOTE, IS_TRADE, NO_ID
from engine.bus import Bus, Route
from engine.events import FeatureEvent, Key, Quote, Side, Tick
from engine.ingress import LATE, QUOTE, TRADE

GAP_RANK, INPUT_RANK, FIRST_VIEW_RANK = 0, 1, 2
SIDES: Mapping[int, Side | None] = {1: "buy", -1: "sell", 0: None}
Columns = tuple[npt.NDArray[Any], ...]
Routes = tuple[Route, ...]


class FeatureRows(Protocol):
    """The newest rows of one view and key."""

    def stamps(self, scope: int, count: int) -> npt.NDArray[np.int64]: ...
    def emitted(self, scope: int) -> int: ...
    def position(self, scope: int) -> int: ...
    def ready_from(self, view: str) -> int: ...
    def block(self, view: str) -> npt.NDArray[np.float64]: ...


class Outbox:
    """Collects what is due of one block."""

    def __init__(self, bus: Bus, views: Sequence[str], models: int = 0) -> None:
        self._bus = bus
        self.first_model_rank = FIRST_VIEW_RANK + len(views)
        self._ranks = self.first_model_rank + models + 1
        self.last_rank = self._ranks - 1
        self._places: list[npt.NDArray[np.int64]] = []
        self._events: list[Any] = []
        self._routes: list[Routes] = []

    def add(self, sequence: int, rank: int, event: Any, routes: Routes, *, anyway: bool = False) -> None:
        """Add one event, if somebody hears it or it is wanted anyway."""
        if routes or anyway:
            self._extend(np.array([sequence * self._ranks + rank]), [event], [routes])

    def add_in_order(
        self, sequences: Sequence[int], rank: int, events: Sequence[Any], routes: Sequence[Routes]
    ) -> None:
        """Add events of one rank, in the order in which they are to be delivered."""
        if events:
            self._extend(np.array(sequences) * self._ranks + rank, events, routes)

    def add_inputs(self, key: Key, columns: Columns, kind: npt.NDArray[np.uint8], ids: npt.NDArray[np.int64]) -> None:
        """Add the ticks and quotes of one key. Late ones go to those who hear history only."""
        ticks, quotes = self._bus.routes(Tick, key), self._bus.routes(Quote, key)
        if not ticks and not quotes:
            return
        outcome, timestamp, received, sequence, price, volume, side, ask, ask_volume = columns
        if not len(ask):
            ask = ask_volume = price
        picked: Columns = (outcome, kind, timestamp, received, sequence, ids, price, volume, side, ask, ask_volume)
        if len(outcome) > 1:
            wanted = (outcome == TRADE) | (outcome == QUOTE) | (outcome == LATE)
            if not ticks or not quotes:
                wanted &= kind == (IS_TRADE if ticks else IS_QUOTE)
            if not wanted.all():
                picked = tuple(column[wanted] for column in picked)
        elif outcome.item(0) not in (TRADE, QUOTE, LATE):
            return
        late_ticks, late_quotes = _late(ticks), _late(quotes)
        sequences: list[int] = []
        events: list[Any] = []
        hearing: list[Routes] = []
        exchange, symbol = key
        # Of one row, items are had twice as fast as lists.
        rows = (
            [tuple([column.item(0) for column in picked])]
            if len(outcome) == 1
            else zip(*(column.tolist() for column in picked), strict=True)
        )
        for o, k, t, r, n, i, p, v, s, a, av in rows:
            is_late = o == LATE
            number = None if i == NO_ID else i
            if k == IS_TRADE:
                routes = late_ticks if is_late else ticks
                event: Any = Tick(exchange, symbol, p, v, SIDES[s], t, r, number, n, is_late)
            else:
                routes = late_quotes if is_late else quotes
                event = Quote(exchange, symbol, p, v, a, av, t, r, number, n, is_late)
            if routes:
                sequences.append(n)
                events.append(event)
                hearing.append(routes)
        if events:
            self._extend(np.array(sequences) * self._ranks + INPUT_RANK, events, hearing)

    def add_features(
        self, key: Key, lane: FeatureRows, view: str, rank: int, scope: int, columns: Mapping[str, int], count: int
    ) -> None:
        """Add the newest `count` rows of a view, if anybody hears it."""
        routes = self._bus.routes(view, key)
        if not routes:
            return
        stamps = lane.stamps(scope, count)
        block = lane.block(view)
        number, slot = lane.emitted(scope) - count, lane.position(scope) - count
        ready_from = lane.ready_from(view)
        exchange, symbol = key
        events = [
            FeatureEvent(view, exchange, symbol, t, r, s, number + at >= ready_from, columns, block, slot + at)
            for at, (t, r, s) in enumerate(zip(*stamps.tolist(), strict=True))
        ]
        self._extend(stamps[2] * self._ranks + rank, events, [routes] * count)

    def take(self) -> Iterator[tuple[Any, Routes]]:
        """Empty the outbox: (event, who hears it) in the order of the inputs."""
        places, events, routes = self._places, self._events, self._routes
        self._places, self._events, self._routes = [], [], []
        if len(places) > 1 and len(events) > len(places):
            order = np.argsort(np.concatenate(places), kind="stable").tolist()
            events, routes = [events[at] for at in order], [routes[at] for at in order]
        elif len(places) > 1:
            order = sorted(range(len(events)), key=[int(place[0]) for place in places].__getitem__)
            events, routes = [events[at] for at in order], [routes[at] for at in order]
        return zip(events, routes, strict=True)

    def _extend(self, places: npt.NDArray[np.int64], events: Iterable[Any], routes: Iterable[Routes]) -> None:
        self._places.append(places)
        self._events += events
        self._routes += routes


def _late(routes: Routes) -> Routes:
    return tuple(route for route in routes if route.late)
