"""What a strategy is: a class that names what it hears, keeps its state in a struct, and returns signals.

    class Breakout(Strategy):
        subscribes = ["derived"]

        class Parameters(msgspec.Struct, frozen=True):
            margin_bps: float = 1.0

        class State(msgspec.Struct):
            above: dict[str, bool] = {}

        def on_features(self, event):
            if event.ready and event["vwap_1m"] >= event["resistance_15m"]:
                yield self.signal(event, +1.0, "at the top of its range")

A strategy runs inside the fold: `self.clock.now()` is the time (`received`) of the input being folded, `self.random` is seeded by its name, and
`self.features` reads the online store up to that input. It does not look at the machine's clock, files or network.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec
import numpy as np

from engine.actor import Subscription
from engine.clock import Clock
from engine.errors import StrategyError
from engine.events import Event, FeatureEvent, FeedStatus, Fill, Gap, Outcome, Prediction, Quote, Refused, Signal, Tick

HANDLERS: Mapping[type, str] = {
    Tick: "on_tick",
    Quote: "on_quote",
    Prediction: "on_prediction",
    Outcome: "on_outcome",
    Fill: "on_fill",
    FeedStatus: "on_feed_status",
    Gap: "on_gap",
}


class Strategy:
    """Base of all strategies. The name is the class's in snake case unless `name` says otherwise."""

    name: str = ""
    subscribes: ClassVar[list[str | type]] = []
    """Names of feature views, and event classes."""
    late: ClassVar[bool] = False
    """Whether it hears late ticks and quotes too."""

    class Parameters(msgspec.Struct, frozen=True):
        """What a user may set; override it."""

    class State(msgspec.Struct):
        """What snapshots keep; override it."""

    clock: Clock
    features: Any
    random: np.random.Generator

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__dict__.get("name"):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, parameters: Mapping[str, Any] | None = None) -> None:
        """Take parameters by name. Raises StrategyError that names the parameter, its value and what was expected."""
        known = self.Parameters.__struct_fields__
        types = {found.name: found.type for found in msgspec.structs.fields(self.Parameters)}
        for name, value in (parameters or {}).items():
            if name not in known:
                raise StrategyError(
                    f"strategy {self.name}: no parameter {name!r}; there are {', '.join(known) or 'none'}"
                )
            try:
                msgspec.convert(value, types[name], strict=False)
            except msgspec.ValidationError as error:
                raise StrategyError(f"strategy {self.name}: parameter {name} = {value!r}: {error}") from error
        try:
            self.parameters: Any = msgspec.convert(dict(parameters or {}), self.Parameters, strict=False)
        except msgspec.ValidationError as error:
            raise StrategyError(f"strategy {self.name}: {error}") from error
        self.state: Any = self.State()

    # -- what a strategy overrides

    def on_start(self) -> Iterable[Signal] | None:
        """The strategy enters the fold; once, never on restore."""

    def on_stop(self) -> Iterable[Signal] | None:
        """The fold ends."""

    def on_features(self, event: FeatureEvent) -> Iterable[Signal] | None:
        """A view it subscribed to has a new row."""

    def on_tick(self, event: Tick) -> Iterable[Signal] | None:
        """A trade."""

    def on_quote(self, event: Quote) -> Iterable[Signal] | None:
        """A best bid and offer."""

    def on_prediction(self, event: Prediction) -> Iterable[Signal] | None:
        """A model predicts."""

    def on_outcome(self, event: Outcome) -> Iterable[Signal] | None:
        """A prediction matured."""

    def on_fill(self, event: Fill) -> Iterable[Signal] | None:
        """A paper order was filled."""

    def on_feed_status(self, event: FeedStatus) -> Iterable[Signal] | None:
        """A feed changed its status."""

    def on_gap(self, event: Gap) -> Iterable[Signal] | None:
        """Trades are missing."""

    def on_event(self, event: Any) -> Iterable[Signal] | None:
        """Any other event class it subscribed to."""

    # -- what a strategy uses

    def signal(self, event: Any, value: float, reason: str = "") -> Signal:
        """Return a signal for the key of `event`; the engine completes its times and sequence."""
        return Signal(
            self.name,
            event.exchange,
            event.symbol,
            float(value),
            reason,
            event.timestamp,
            event.received,
            event.sequence,
        )

    # -- what the engine calls

    def enter(self, clock: Clock, features: Any, seed: int) -> None:
        """Give the strategy its clock, the online store and its random numbers."""
        self.clock = clock
        self.features = features
        mixed = hashlib.sha256(f"{seed} {self.name}".encode()).digest()
        self.random = np.random.Generator(np.random.PCG64(int.from_bytes(mixed[:16], "little")))

    def subscriptions(self) -> list[Subscription]:
        """What it hears. Raises StrategyError for what is neither a view's name nor an event class."""
        topics: Any = self.subscribes
        if isinstance(topics, str):
            raise StrategyError(f"strategy {self.name}: subscribes = {self.subscribes!r}: expected a list")
        found = []
        for topic in topics:
            if isinstance(topic, str):
                found.append(Subscription(topic, self.on_features))
            elif topic is Refused:
                raise StrategyError(
                    f"strategy {self.name} subscribes to Refused: that is no input, and a replay has none"
                )
            elif isinstance(topic, type) and issubclass(topic, Event):
                found.append(Subscription(topic, getattr(self, HANDLERS.get(topic, "on_event")), late=self.late))
            else:
                raise StrategyError(
                    f"strategy {self.name} subscribes to {topic!r}: expected a view's name or an event class"
                )
        return found

    def start(self) -> Iterable[Signal] | None:
        return self.on_start()

    def stop(self) -> Iterable[Signal] | None:
        return self.on_stop()

    def snapshot(self) -> bytes:
        """State and the place in its random numbers, as MessagePack. Dicts keep their order, which a strategy may depend on.

        Raises StrategyError for a State that holds what cannot be kept.
        """
        inner = self.random.bit_generator.state
        place = [inner["state"]["state"], inner["state"]["inc"], inner["has_uint32"], inner["uinteger"]]
        try:
            state = _ordered(msgspec.to_builtins(self.state, builtin_types=(set, frozenset)))
            return msgspec.msgpack.encode((state, [str(number) for number in place]))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise StrategyError(f"strategy {self.name}: its State cannot be kept: {error}") from error

    def restore(self, snapshot: bytes) -> None:
        """Become what the snapshot was made of. Raises StrategyError, and changes nothing, if it was made by another State."""
        try:
            raw, place = msgspec.msgpack.decode(snapshot)
            state = msgspec.convert(raw, self.State)
            value, increment, has_uint32, uinteger = (int(text) for text in place)
            inner: Any = {"state": value, "inc": increment}
            random = np.random.PCG64(0)
            random.state = {"bit_generator": "PCG64", "state": inner, "has_uint32": has_uint32, "uinteger": uinteger}
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
            raise StrategyError(f"strategy {self.name}: its snapshot does not fit its State: {error}") from error
        self.state = state
        self.random = np.random.Generator(random)


def _ordered(value: Any) -> Any:
    """Return builtins with sets as sorted lists: the order of a set is that of this process."""
    if isinstance(value, dict):
        return {key: _ordered(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_ordered(part) for part in value]
    return sorted(value) if isinstance(value, (set, frozenset)) else value
