"""Writes what happens on one clock: bars fill up, windows move, steps run, a row is put out.

Equal nodes are computed once. A window is a two-stack queue: its older part has suffix aggregates, its newer part one running
aggregate, and nothing is ever subtracted, so that a large value leaves no rounding behind when it leaves the window.
"""

from __future__ import annotations

import math
from typing import Protocol

from engine.indicator import Anchor, Before, Call, Field, Node, Output, Windowed
from engine.jit import Gathered
from store.layout import NO_TIME, STAMPS, Scope, SpanState, ViewPlace
from store.schema import QUOTE_FIELDS, FeatureView


class Slots(Protocol):
    """What a clock's writer needs of the whole function's: slots of the arena, places of views, gathered sources."""

    gathered: Gathered
    slots: dict[str, int]
    places: dict[str, ViewPlace]

    def slot(self, name: str, initial: float = 0.0, integer: bool = False, read_only: bool = False) -> str: ...


class ScopeWriter:
    """Writes what happens on one clock."""

    def __init__(self, writer: Slots, scope: Scope) -> None:
        self.writer = writer
        self.scope = scope
        s = scope.index
        slot = writer.slot
        self.head = slot(f"head_{s}", 0, integer=True)
        self.first = slot(f"first_{s}", NO_TIME, integer=True)
        slot(f"capacity_{s}", 0, integer=True, read_only=True)
        slot(f"capacity_max_{s}", 0, integer=True, read_only=True)
        for state in scope.spans.values():
            for name in ("tail", "middle", "lost"):
                slot(f"{name}_{state.name}", 0, integer=True)
            for number in range(len(state.anchors)):
                slot(f"anchor_{state.name}_{number}")
        for number, node in enumerate(scope.aggregates):
            slot(f"back_{s}_{number}", node.aggregate.identity)
        self.names: dict[Node, str] = {}
        self.locals = 0
        self.lines: list[str] = []
        self.stored: list[Node] = []
        self.is_bar = scope.clock.kind != "tick"
        self.bar_fields = self._used_fields() if self.is_bar else []
        if self.is_bar:
            for name in self.bar_fields:
                slot(f"bar_{s}_{name}")
            slot(f"bar_{s}_trades")
            if scope.clock.kind == "time":
                slot(f"bar_{s}_end", 0, integer=True)

    def _used_fields(self) -> list[str]:
        """The fields of a bar that features or the clock itself need, `price` under the name of `close`."""
        used = {"volume": "volume", "notional": "notional"}.get(self.scope.clock.kind, "close")
        found = {used: None}

        def walk(node: Node) -> None:
            if isinstance(node, Field):
                found["close" if node.name == "price" else node.name] = None
            for part in node.parts():
                walk(part)

        for view in self.scope.views:
            for node in view.nodes.values():
                walk(node)
        found.pop("trades", None)
        return list(found)

    def ring(self, number: int, index: str) -> str:
        """The place of one value in a ring of this clock.

        Unsigned, as all indexes here: for a signed one numba tests at each access whether it counts from the end, which was
        measured to cost a quarter of the whole block.
        """
        s = self.scope.index
        return f"np.uint64(ring_{s} + {number} * capacity_{s} + (({index}) & mask_{s}))"

    def series_ring(self, node: Node) -> int:
        return int(self.scope.has_times) + self.scope.series.index(node)

    def suffix_ring(self, node: Windowed) -> int:
        return int(self.scope.has_times) + len(self.scope.series) + self.scope.aggregates.index(node)

    def growth_check(self) -> list[str]:
        """Ask for larger rings before the trade that might not fit, while they may grow."""
        times = [state for state in self.scope.spans.values() if state.span.time_ns]
        if not times:
            return []
        longest = max(times, key=lambda state: state.span.time_ns)
        s = self.scope.index
        return [
            f"if {self.head} - tail_{longest.name} >= capacity_{s} - 2 and capacity_{s} < capacity_max_{s}:",
            f"    alerts |= {1 << s}",
        ]

    def time_bar_closing(self) -> list[str]:
        """Only the next trade of its own key closes a time bar, and belongs to the bar after it."""
        s = self.scope.index
        return [
            f"if bar_{s}_trades > 0.0 and newest >= bar_{s}_end:",
            *(f"    {line}" for line in self.emission(f"bar_{s}_end")),
            f"    bar_{s}_trades = 0.0",
        ]

    def bar_update(self) -> list[str]:
        """Fold a trade into the bar; bars by ticks, volume or notional emit with the trade that completes them."""
        s = self.scope.index
        clock = self.scope.clock
        bar = f"bar_{s}"
        start = {"open": "t_price", "high": "t_price", "low": "t_price"}
        begin = [
            f"{bar}_{name} = {start.get(name, '0.0')}"
            for name in self.bar_fields
            if name not in ("close", *QUOTE_FIELDS)
        ]
        if clock.kind == "time":
            begin.append(f"{bar}_end = (newest // {clock.size} + 1) * {clock.size}")
        update = {
            "high": f"max({bar}_high, t_price)",
            "low": f"min({bar}_low, t_price)",
            "close": "t_price",
            "volume": f"{bar}_volume + t_volume",
            "notional": f"{bar}_notional + t_price * t_volume",
            "buy_volume": f"{bar}_buy_volume + (t_volume if t_side > 0.0 else 0.0)",
            "sell_volume": f"{bar}_sell_volume + (t_volume if t_side < 0.0 else 0.0)",
            **{name: f"quote_{name}" for name in QUOTE_FIELDS},
        }
        lines = [
            f"if {bar}_trades == 0.0:",
            *(f"    {line}" for line in begin or ["pass"]),
            f"{bar}_trades += 1.0",
            *(f"{bar}_{name} = {update[name]}" for name in self.bar_fields if name in update),
        ]
        if clock.kind != "time":
            measure = {"ticks": "trades", "volume": "volume", "notional": "notional"}[clock.kind]
            lines += [
                f"if {bar}_{measure} >= {float(clock.size)!r}:",
                *(f"    {line}" for line in self.emission("newest")),
                f"    {bar}_trades = 0.0",
            ]
        return lines

    def emission(self, time: str) -> list[str]:
        """One row of this clock at `time`: windows move, steps run, columns are written."""
        s = self.scope.index
        self.names, self.lines, self.stored = {}, [], []
        self.lines += [f"if {self.head} == 0:", f"    {self.first} = {time}"]
        for state in self.scope.spans.values():
            self._move(state, time)
        if self.scope.has_times:
            self.lines.append(f"ids[{self.ring(0, self.head)}] = {time}")
        values = [(view, name, self._value(node)) for view in self.scope.views for name, node in view.nodes.items()]
        self.lines += [
            f"place = rows_{s} + position_{s}",
            f"stamps[np.uint64(place)] = {time}",
            "stamps[np.uint64(place + width)] = received[at]",
            "stamps[np.uint64(place + 2 * width)] = sequence[at]",
            *(
                f"rows[np.uint64(place + {STAMPS + column} * width)] = {name}"
                for column, (_, _, name) in enumerate(values)
            ),
            f"position_{s} += 1",
        ]
        first_column = 0
        for view in self.scope.views:
            first_column = self._readiness(view, first_column, time)
        self.lines.append(f"{self.head} += 1")
        return self.lines

    def _readiness(self, view: FeatureView, first_column: int, time: str) -> int:
        """A view is ready, once and for all, when each feature has seen its warm-up."""
        name: str = self.writer.slot(f"ready_{view.name}", -1, integer=True)
        quotes: dict[str, None] = {}

        def walk(node: Node) -> None:
            if isinstance(node, Field) and node.name in ("bid", "ask"):
                quotes[self._value(node)] = None
            for part in node.parts():
                walk(part)

        for node in view.nodes.values():
            walk(node)
        ticks = max(node.warm_up() for node in view.nodes.values())
        longest = max(node.warm_up_ns() for node in view.nodes.values())
        conditions = [f"{name} < 0", f"{self.head} + 1 >= {ticks}"]
        if longest:
            conditions.append(f"{time} - {self.first} >= {longest}")
        conditions += [f"{quote} - {quote} == 0.0" for quote in quotes]
        self.lines += [f"if {' and '.join(conditions)}:", f"    {name} = {self.head}"]
        columns = {feature: at for at, feature in enumerate(view.features)}
        self.writer.places[view.name] = ViewPlace(
            view, self.scope.index, first_column, self.writer.slots[name], columns
        )
        return first_column + len(columns)

    def _move(self, state: SpanState, time: str) -> None:
        """Let go of what is no longer in a window; renew its suffix aggregates when the older part is used up."""
        w, head = state.name, self.head
        if state.span.time_ns:
            self.lines += [
                f"tail = tail_{w}",
                f"limit = {time} - {state.span.time_ns}",
                f"while tail < {head} and ids[{self.ring(0, 'tail')}] <= limit:",
                "    tail += 1",
                f"if {head} - tail >= window_ticks_max:",
                f"    tail = {head} - window_ticks_max + 1",
                f"    if lost_{w} == 0:",
                f"        lost_{w} = 1",
                f"        alerts |= {1 << state.bit}",
                f"elif lost_{w} != 0 and ids[{self.ring(0, 'tail - 1')}] <= limit:",
                f"    lost_{w} = 0",
            ]
        else:
            self.lines.append(f"tail = max({head} - {state.span.ticks - 1}, 0)")
        if state.aggregates or state.anchors:
            self._renew(state)
        self.lines.append(f"tail_{w} = tail")

    def _renew(self, state: SpanState) -> None:
        """Take the suffix aggregates of a window afresh when its older part is used up: one pass, from the newest to the oldest."""
        s, w, head = self.scope.index, state.name, self.head
        backs = {node: f"back_{s}_{self.scope.aggregates.index(node)}" for node in state.aggregates}
        reset = [f"    {back} = {_literal(node.aggregate.identity)}" for node, back in backs.items()]
        # Also when it has just become empty: the anchor, which is its last value, has left the window then.
        self.lines.append(f"if tail >= middle_{w}:")
        for number, value in enumerate(state.anchors):
            newest = self.ring(self.series_ring(value), f"{head} - 1")
            self.lines.append(f"    anchor_{w}_{number} = arena[{newest}]")
        self.lines += reset
        if backs:
            self.lines.append(f"    for older in range({head} - 1, tail - 1, -1):")
        for node, back in backs.items():
            combine = self.writer.gathered.add(node.aggregate.combine)
            older = self._lifted(node, f"arena[{self.ring(self.series_ring(node.value), 'older')}]")
            self.lines += [
                f"        {back} = {combine}({older}, {back})",
                f"        arena[{self.ring(self.suffix_ring(node), 'older')}] = {back}",
            ]
        self.lines += [*reset, f"    middle_{w} = {head}"]

    def _value(self, node: Node) -> str:
        """Return the local that holds a node's value, writing what computes it once."""
        if node not in self.names:
            self.names[node] = self._compute(node)
            if node in self.scope.series and node not in self.stored:
                self.stored.append(node)
                self.lines.append(f"arena[{self.ring(self.series_ring(node), self.head)}] = {self.names[node]}")
                for state in self.scope.spans.values():
                    if node in state.anchors:
                        anchor = f"anchor_{state.name}_{state.anchors.index(node)}"
                        # Before the first renewal the very first value is as good as any, unless it is undefined.
                        self.lines += [
                            f"if {self.head} == 0 or {anchor} != {anchor}:",
                            f"    {anchor} = {self.names[node]}",
                        ]
        return self.names[node]

    def _compute(self, node: Node) -> str:
        if isinstance(node, Field):
            return self._field(node.name)
        if isinstance(node, Output):
            return f"{self._value(node.call)}_{node.index}"
        if isinstance(node, Call):
            return self._call(node)
        if isinstance(node, Anchor):
            self._value(node.value)
            state = self.scope.spans[node.span]
            return f"anchor_{state.name}_{state.anchors.index(node.value)}"
        name = self._new_local("w")
        if isinstance(node, Windowed):
            return self._windowed(node, name)
        assert isinstance(node, Before)
        self._value(node.value)
        state = self.scope.spans[node.span]
        ring = self.series_ring(node.value)
        if node.span.time_ns:
            there, index = f"tail_{state.name} > 0 and lost_{state.name} == 0", f"tail_{state.name} - 1"
        else:
            there, index = f"{self.head} >= {node.span.ticks}", f"{self.head} - {node.span.ticks}"
        self.lines.append(f"{name} = arena[{self.ring(ring, index)}] if {there} else math.nan")
        return name

    def _is_always_finite(self, node: Node) -> bool:
        """The ingress lets only finite prices and volumes through; sums over a bar may overflow."""
        sure = ("price", "open", "high", "low", "close", "trades") if self.is_bar else ("price", "volume", "side")
        return isinstance(node, Field) and node.name in sure

    def _new_local(self, prefix: str) -> str:
        self.locals += 1
        return f"{prefix}{self.scope.index}_{self.locals}"

    def _field(self, name: str) -> str:
        if self.is_bar:
            return f"bar_{self.scope.index}_{'close' if name == 'price' else name}"
        return f"quote_{name}" if name in QUOTE_FIELDS else f"t_{name}"

    def _lifted(self, node: Windowed, value: str) -> str:
        """What of a value is combined."""
        if node.aggregate.lift is None:
            return value
        state = self.scope.spans[node.span]
        lift = self.writer.gathered.add(node.aggregate.lift)
        return f"{lift}({value}, anchor_{state.name}_{state.anchors.index(node.value)})"

    def _windowed(self, node: Windowed, name: str) -> str:
        value = self._lifted(node, self._value(node.value))
        s, number = self.scope.index, self.scope.aggregates.index(node)
        state = self.scope.spans[node.span]
        combine = self.writer.gathered.add(node.aggregate.combine)
        back, suffix = f"back_{s}_{number}", f"arena[{self.ring(self.suffix_ring(node), f'tail_{state.name}')}]"
        whole = f"lost_{state.name} == 0" if node.span.time_ns else f"{self.head} >= {node.span.ticks - 1}"
        self.lines += [
            f"{back} = {combine}({back}, {value})",
            f"{name} = {combine}({suffix}, {back}) if tail_{state.name} < middle_{state.name} else {back}",
            f"if not ({whole}):",
            f"    {name} = math.nan",
        ]
        return name

    def _call(self, call: Call) -> str:
        """Run a step on its inputs, unless one that it needs is undefined."""
        name = self._new_local("c")
        inputs = [self._value(node) for node in call.inputs]
        state = [self.writer.slot(f"{name}_{key}_state", initial) for key, initial in call.indicator.state.items()]
        outputs = [f"{name}_{index}" for index in range(len(call.indicator.outputs))]
        step = self.writer.gathered.add(call.indicator.step)
        arguments = ", ".join([*state, *inputs, *(_literal(parameter) for parameter in call.parameters)])
        run = f"{', '.join([*state, *outputs])} = {step}({arguments})"
        accepted = call.indicator.undefined
        guarded = [
            local
            for argument, node, local in zip(call.indicator.arguments, call.inputs, inputs, strict=False)
            if argument not in accepted and not self._is_always_finite(node)
        ]
        if not guarded:
            self.lines.append(run)
            return name
        self.lines += [
            f"if {' and '.join(f'{local} - {local} == 0.0' for local in dict.fromkeys(guarded))}:",
            f"    {run}",
            "else:",
            *(f"    {output} = math.nan" for output in outputs),
        ]
        return name


def _literal(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "-math.inf"
    return repr(value)
