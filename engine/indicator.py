"""What an indicator is: pure steps on scalars, and the graph of nodes that feature definitions build out of them.

Three public pieces make every indicator, ours and a user's alike:

`@indicator`   a step: state values and inputs in, new state values and outputs out. The compiled program keeps the state.
`@aggregate`   an associative function of two values, folded over a window of ticks or of time (`total`, `lowest`, ...).
`before`       the value that has just left such a window: a lag by ticks or by time.
`anchor`       a recent value of a window, for aggregates of deviations from it.

Calling a decorated function computes nothing: it gives a `Node` that a feature view names. Inputs are nodes, or the names of fields
(`"price"`); everything else is a parameter. Equal nodes are one node, so views share what they have in common.

    @indicator(state={"last": math.nan})
    def momentum(last, value, scale):
        return value, scale * (value - last)

    FeatureView("mine", features={"momentum": momentum("price", scale=100.0)})

A step is not called while one of its inputs is undefined (NaN or infinite): it keeps its state and its outputs are NaN, so that one
bad value cannot poison it. An input that a step itself can handle undefined is listed in `undefined`.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import update_wrapper
from typing import Any, Protocol, TypeAlias, TypeVar

from engine.errors import ConfigError

NS_PER_UNIT = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
WINDOW_MAX_NS = 36_500 * NS_PER_UNIT["d"]  # a century; times are int64 nanoseconds, and limits are differences of them
WINDOW_MAX_TICKS = 1 << 20  # memory of a window of ticks is reserved from the start
Window: TypeAlias = int | str
"""A number of ticks (or bars), or a time such as "15m": the last so many values, or those in (t - w, t]."""
Parameter: TypeAlias = float | int
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def kernel(function: AnyFunction) -> AnyFunction:
    """Mark a pure scalar helper that steps call. It stays a Python function; programs compile its source."""
    return function


@dataclass(frozen=True)
class Span:
    """A window as the program sees it: exactly one of `ticks` and `time_ns` is positive."""

    text: str
    ticks: int = 0
    time_ns: int = 0

    @classmethod
    def parse(cls, window: Window) -> Span:
        """Read a window. Raises ConfigError unless it is a whole number of ticks >= 1 or a time such as "250ms", "15m"."""
        if isinstance(window, int) and not isinstance(window, bool) and window >= 1:
            if window > WINDOW_MAX_TICKS:
                raise ConfigError(f"window {window!r}: expected at most {WINDOW_MAX_TICKS} ticks")
            return cls(f"{window} ticks", ticks=window)
        if isinstance(window, str) and (time_ns := duration_ns(window)):
            if time_ns > WINDOW_MAX_NS:
                raise ConfigError(f"window {window!r}: expected at most {WINDOW_MAX_NS // NS_PER_UNIT['d']}d")
            return cls(window, time_ns=time_ns)
        raise ConfigError(
            f'window {window!r}: expected a number of ticks >= 1 or a time such as "250ms", "60s" or "15m"'
        )


def duration_ns(text: str) -> int | None:
    """Return the nanoseconds of "250ms", "60s", "15m", "1h", "1d"; None if it is not such a text or not above zero."""
    found = re.fullmatch(r"(\d+)(ns|us|ms|s|m|h|d)", text.strip())
    return int(found[1]) * NS_PER_UNIT[found[2]] or None if found else None


@dataclass(frozen=True)
class Node:
    """One value at each emission of a clock."""

    def parts(self) -> tuple[Node, ...]:
        """The nodes that this one is computed from."""
        return ()

    def warm_up(self) -> int:
        """How many emissions must have been seen before the value is settled."""
        return max([1, *(part.warm_up() for part in self.parts())])

    def warm_up_ns(self) -> int:
        """How much time must have passed since the first emission: windows of time add up along the way."""
        return max([0, *(part.warm_up_ns() for part in self.parts())])


@dataclass(frozen=True)
class Field(Node):
    """What the clock itself provides: `price`, `volume`, `side`, `bid`, ..., on bars also `open`, `high`, `low`."""

    name: str


@dataclass(frozen=True)
class Call(Node):
    """One step bound to its inputs and parameters; several `Output`s may share it."""

    indicator: Indicator
    inputs: tuple[Node, ...]
    parameters: tuple[float, ...] = field(compare=False)
    spelled: tuple[str, ...] = ()  # the parameters to the bit: 0.0 and -0.0 are equal numbers, but not one parameter

    def parts(self) -> tuple[Node, ...]:
        return self.inputs

    def warm_up(self) -> int:
        return super().warm_up() + self.indicator.warm_up(*self.parameters) - 1


@dataclass(frozen=True)
class Output(Node):
    """One output of a call."""

    call: Call
    index: int

    def parts(self) -> tuple[Node, ...]:
        return (self.call,)


@dataclass(frozen=True)
class Windowed(Node):
    """An aggregate over the last `span` of a value. NaN while the window holds an undefined one."""

    aggregate: Aggregate
    value: Node
    span: Span

    def parts(self) -> tuple[Node, ...]:
        return (self.value,)

    def warm_up(self) -> int:
        return self.value.warm_up() + max(self.span.ticks, 1) - 1

    def warm_up_ns(self) -> int:
        return self.value.warm_up_ns() + self.span.time_ns


@dataclass(frozen=True)
class Anchor(Node):
    """The value that lifted aggregates of this value and window measure from: one that was in the window not long ago."""

    value: Node
    span: Span

    def parts(self) -> tuple[Node, ...]:
        return (self.value,)


@dataclass(frozen=True)
class Before(Node):
    """The newest value that is no longer in the last `span`: at or before t - w, or so many ticks ago. NaN if there is none."""

    value: Node
    span: Span

    def parts(self) -> tuple[Node, ...]:
        return (self.value,)

    def warm_up(self) -> int:
        return self.value.warm_up() + self.span.ticks

    def warm_up_ns(self) -> int:
        return self.value.warm_up_ns() + self.span.time_ns


Value: TypeAlias = Node | str


class WarmUp(Protocol):
    """Says from the parameters how many values a step needs."""

    def __call__(self, *parameters: Parameter) -> int: ...


class Indicator:
    """A pure step with its state; calling it gives the node, or a tuple of nodes, of its outputs."""

    def __init__(
        self,
        step: Callable[..., Any],
        state: Mapping[str, float],
        outputs: tuple[str, ...],
        undefined: tuple[str, ...],
        warm_up: Callable[..., int] | int,
        at_least: Mapping[str, float],
    ) -> None:
        self.step = step
        self.name = step.__name__
        self.state = dict(state)
        self.outputs = outputs or (self.name,)
        self.undefined = undefined
        self._warm_up = warm_up
        self.at_least = dict(at_least)
        arguments = list(inspect.signature(step).parameters)
        if arguments[: len(self.state)] != list(self.state):
            raise ConfigError(
                f"indicator {self.name}: expected its first arguments to be its state {list(self.state)}, found {arguments}"
            )
        self.arguments = tuple(arguments[len(self.state) :])
        for what, names in (("undefined", undefined), ("at_least", at_least)):
            for name in names:
                if name not in self.arguments:
                    raise ConfigError(
                        f"indicator {self.name}: {what} names {name!r}, expected one of {list(self.arguments)}"
                    )
        update_wrapper(self, step)

    def __repr__(self) -> str:
        return f"<indicator {self.name}({', '.join(self.arguments)}) -> {', '.join(self.outputs)}>"

    def warm_up(self, *parameters: Parameter) -> int:
        """How many values the step needs with these parameters before its outputs are settled, at least 1."""
        return self._warm_up if isinstance(self._warm_up, int) else self._warm_up(*parameters)

    def __call__(self, *values: Any, **named: Any) -> Any:
        """Bind inputs (nodes or field names) and parameters (numbers), by position or by name; defaults as the step has them.

        Returns one node, or a tuple of them for several outputs. Raises ConfigError for a missing, unknown or misplaced one.
        """
        signature = inspect.signature(self.step)
        rest = [p for p in signature.parameters.values() if p.name in self.arguments]
        try:
            bound = inspect.Signature(rest).bind(*values, **named)
        except TypeError as error:
            raise ConfigError(f"indicator {self.name}: {error}; it takes {', '.join(self.arguments)}") from error
        bound.apply_defaults()
        inputs: list[Node] = []
        parameters: list[float] = []
        for name, value in bound.arguments.items():
            if isinstance(value, (Node, str)):
                if parameters:
                    raise ConfigError(
                        f"indicator {self.name}: expected inputs before parameters, found input {name!r} after a number"
                    )
                inputs.append(as_node(value))
            elif isinstance(value, (int, float)):
                least = self.at_least.get(name, -math.inf)
                if not math.isfinite(value):
                    raise ConfigError(f"indicator {self.name}: {name} = {value!r}: expected a finite number")
                if not value >= least:
                    raise ConfigError(f"indicator {self.name}: {name} = {value!r}: expected at least {least:g}")
                parameters.append(float(value))
            else:
                raise ConfigError(
                    f"indicator {self.name}: {name} = {value!r}: expected a node, a field's name or a number"
                )
        call = Call(self, tuple(inputs), tuple(parameters), tuple(value.hex() for value in parameters))
        nodes = tuple(Output(call, index) for index in range(len(self.outputs)))
        return nodes if len(nodes) > 1 else nodes[0]


class Aggregate:
    """An associative function of two values and its identity; calling it with a value and a window gives the node.

    With `lift`, what is combined is lift(value, anchor) instead of the value.
    """

    def __init__(
        self, combine: Callable[[float, float], float], identity: float, lift: Callable[[float, float], float] | None
    ) -> None:
        self.combine = combine
        self.lift = lift
        self.name = combine.__name__
        self.identity = identity
        update_wrapper(self, combine)

    def __repr__(self) -> str:
        return f"<aggregate {self.name}>"

    def __call__(self, value: Value, window: Window) -> Node:
        """Return the node of this aggregate of `value` over the last `window`."""
        return Windowed(self, as_node(value), Span.parse(window))


def indicator(
    *,
    state: Mapping[str, float] | None = None,
    outputs: tuple[str, ...] = (),
    undefined: tuple[str, ...] = (),
    warm_up: Callable[..., int] | int = 1,
    at_least: Mapping[str, float] | None = None,
) -> Callable[[Callable[..., Any]], Indicator]:
    """Make an indicator of a pure step.

    state: names and initial values, float; the step's first arguments, returned first. outputs: names of what it returns after
    the state, by default one with the step's name. undefined: inputs that it accepts as NaN. warm_up: how many values it needs,
    or a function of its parameters that says so; the step itself returns NaN where nothing is defined yet. at_least: the lowest
    value of a parameter, by name. Parameters arrive as floats.
    """

    def decorate(step: Callable[..., Any]) -> Indicator:
        return Indicator(step, state or {}, outputs, undefined, warm_up, at_least or {})

    return decorate


def aggregate(
    *, identity: float, lift: Callable[[float, float], float] | None = None
) -> Callable[[Callable[[float, float], float]], Aggregate]:
    """Make a windowed aggregate of an associative function; `identity` combined with x must give x.

    The older part comes first. Nothing is ever subtracted, so a large value leaves no rounding behind when it leaves the window.
    lift: what of a value is combined, given the window's `anchor`, for sums that would suffer from values that are large beside
    their differences.
    """

    def decorate(combine: Callable[[float, float], float]) -> Aggregate:
        return Aggregate(combine, identity, lift)

    return decorate


def ticks_of(window: Window, what: str) -> int:
    """Return a number of ticks. Raises ConfigError, which `what` opens, for a time."""
    span = Span.parse(window)
    if not span.ticks:
        raise ConfigError(f"{what}: window {window!r}: expected a number of ticks")
    return span.ticks


def before(value: Value, window: Window) -> Node:
    """Return the node of the newest value that has left the last `window`: a lag by ticks, or "as of" t - w. NaN if none has."""
    return Before(as_node(value), Span.parse(window))


def anchor(value: Value, window: Window) -> Node:
    """Return the node of the value that lifted aggregates of `value` over `window` measure from."""
    return Anchor(as_node(value), Span.parse(window))


def as_node(value: Value) -> Node:
    """Return a node as it is, a field's name as its `Field`. Raises ConfigError for anything else."""
    if isinstance(value, Node):
        return value
    if isinstance(value, str):
        return Field(value)
    raise ConfigError(
        f"{value!r}: expected a node or the name of a field such as 'price', found a {type(value).__name__}"
    )
