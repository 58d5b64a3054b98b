"""Writes the source of `block`: one numba function out of all the feature views of a key.

A step's state lives in locals over the block, under the names of its slots in the arena. `store/emission.py` writes what happens at a
row of one clock, `store/program.py` says what the function takes and works on.
"""

from __future__ import annotations

import math
from typing import Any

from engine.errors import ConfigError
from engine.indicator import Anchor, Before, Node, Windowed, kernel
from engine.jit import Gathered, entry_point
from store.emission import ScopeWriter
from store.layout import (
    CLOCKS_MAX,
    FIRST_OVERFLOW_BIT,
    KEEP,
    NO_TIME,
    POSITIONS,
    QUOTE,
    STAMPS,
    TRADE,
    WIDTH,
    WINDOWS_MAX,
    Scope,
    SpanState,
    ViewPlace,
)
from store.schema import QUOTE_FIELDS, Clock, FeatureView

ARGUMENTS = "arena, rows, action, timestamp, received, sequence, price, volume, side, ask, ask_volume, start, stop"
SIGNATURE = (
    "int64(float64[::1], float64[::1], Array(uint8, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True), "
    "Array(int64, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True), Array(float64, 1, 'C', readonly=True), "
    "Array(float64, 1, 'C', readonly=True), Array(int8, 1, 'C', readonly=True), Array(float64, 1, 'C', readonly=True), "
    "Array(float64, 1, 'C', readonly=True), int64, int64)"
)


@kernel
def make_room(rows: Any, base: int, columns: int, width: int, keep: int, position: int) -> int:
    """Move the newest `keep` rows of one clock to the front; return the position after them."""
    kept = min(keep, position)
    for column in range(columns):
        first = base + column * width
        for row in range(kept):
            rows[first + row] = rows[first + position - kept + row]
    return kept


class Writer:
    """Writes the source of `block`. Slots of the arena and locals of the function have the same names."""

    def __init__(self, views: tuple[FeatureView, ...]) -> None:
        self.gathered = Gathered()
        self.slots: dict[str, int] = {}
        self.initial: list[tuple[float, bool]] = []
        self.read_only: list[str] = []
        self.places: dict[str, ViewPlace] = {}
        self.scopes: list[Scope] = []
        self.bits = FIRST_OVERFLOW_BIT
        for view in views:
            self._scope(view.ticking).views.append(view)
        if len(self.scopes) > CLOCKS_MAX:
            raise ConfigError(f"expected at most {CLOCKS_MAX} clocks in one program, found {len(self.scopes)}")
        for scope in self.scopes:
            for view in scope.views:
                for node in view.nodes.values():
                    self._collect(scope, node)

    def _scope(self, clock: Clock) -> Scope:
        for scope in self.scopes:
            if scope.clock == clock:
                return scope
        self.scopes.append(Scope(len(self.scopes), clock))
        return self.scopes[-1]

    def _collect(self, scope: Scope, node: Node) -> None:
        """Find the windows of a clock and the values whose history they need."""
        for part in node.parts():
            self._collect(scope, part)
        if not isinstance(node, (Windowed, Before, Anchor)):
            return
        if node.span not in scope.spans:
            if node.span.time_ns:
                self.bits += 1
                if self.bits - FIRST_OVERFLOW_BIT > WINDOWS_MAX:
                    raise ConfigError(
                        f"expected at most {WINDOWS_MAX} windows of time in one program, the next is {node.span.text}"
                    )
            scope.spans[node.span] = SpanState(f"{scope.index}_{len(scope.spans)}", node.span, self.bits)
        if node.value not in scope.series:
            scope.series.append(node.value)
        anchors = scope.spans[node.span].anchors
        is_lifted = isinstance(node, Windowed) and node.aggregate.lift is not None
        if (is_lifted or isinstance(node, Anchor)) and node.value not in anchors:
            anchors.append(node.value)
        if isinstance(node, Windowed) and node not in scope.aggregates:
            scope.aggregates.append(node)
            scope.spans[node.span].aggregates.append(node)

    def slot(self, name: str, initial: float = 0.0, integer: bool = False, read_only: bool = False) -> str:
        """Give a local of the function its place in the arena."""
        if name not in self.slots:
            self.slots[name] = len(self.initial)
            self.initial.append((initial, integer))
            if read_only:
                self.read_only.append(name)
        return name

    def write(self) -> str:
        """Return the text of the whole module."""
        self.slot("newest", NO_TIME, integer=True)
        self.slot("alerts", 0, integer=True)
        self.slot("window_ticks_max", 0, integer=True, read_only=True)
        for name in QUOTE_FIELDS:
            self.slot(f"quote_{name}", math.nan)
        bodies = [ScopeWriter(self, scope) for scope in self.scopes]
        closings = [line for body in bodies if body.scope.clock.kind == "time" for line in body.time_bar_closing()]
        ticks = [line for body in bodies if body.scope.clock.kind == "tick" for line in body.emission("newest")]
        bars = [line for body in bodies if body.scope.clock.kind != "tick" for line in body.bar_update()]
        growth = [line for body in bodies for line in body.growth_check()]
        room = self.gathered.add(make_room)
        preamble = [
            "ids = arena.view(np.int64)",
            "stamps = rows.view(np.int64)",
            f"width = stamps[{WIDTH}]",
            *(f"{name} = {'ids' if self.initial[at][1] else 'arena'}[{at}]" for name, at in self.slots.items()),
            *self._addresses(room),
            "done = stop",
        ]
        loop = [
            "at = np.uint64(i)",
            "kind = action[at]",
            f"if kind == {QUOTE}:",
            "    quote_bid = price[at]",
            "    quote_bid_volume = volume[at]",
            "    quote_ask = ask[at]",
            "    quote_ask_volume = ask_volume[at]",
            "    continue",
            f"if kind != {TRADE}:",
            "    continue",
            *growth,
            "if alerts != 0:",
            "    done = i",
            "    break",
            "t_price = price[at]",
            "t_volume = volume[at]",
            "t_side = float(side[at])",
            "if timestamp[at] > newest:",
            "    newest = timestamp[at]",
            *closings,
            *ticks,
            *bars,
            "if alerts != 0:",
            "    done = i + 1",
            "    break",
        ]
        writable = [name for name in self.slots if name not in self.read_only]
        closing = [
            *(f"{'ids' if self.initial[self.slots[n]][1] else 'arena'}[{self.slots[n]}] = {n}" for n in writable),
            *(f"stamps[{POSITIONS + scope.index}] = position_{scope.index}" for scope in self.scopes),
            "return done",
        ]
        lines = [*preamble, "for i in range(start, stop):", *(f"    {line}" for line in loop), *closing]
        body = "\n".join(f"    {line}" for line in lines)
        return self.gathered.text(entry_point("block", SIGNATURE, ARGUMENTS, body))

    def _addresses(self, room: str) -> list[str]:
        """Where each clock's rings and rows begin, and room for the rows of this block."""
        lines = []
        ring, first = str(len(self.initial)), f"{POSITIONS + len(self.scopes)}"
        for scope in self.scopes:
            s = scope.index
            columns = STAMPS + scope.columns
            lines += [
                f"mask_{s} = capacity_{s} - 1",
                f"ring_{s} = {ring}",
                f"rows_{s} = {first}",
                f"position_{s} = stamps[{POSITIONS + s}]",
                f"if position_{s} + (stop - start) > width:",
                f"    position_{s} = {room}(rows, rows_{s}, {columns}, width, stamps[{KEEP}], position_{s})",
            ]
            ring, first = f"ring_{s} + {scope.rings} * capacity_{s}", f"rows_{s} + {columns} * width"
        return lines
