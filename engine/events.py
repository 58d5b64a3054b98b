"""Every event that travels on the bus: frozen, typed, with the unit of each field.

Times are int nanoseconds UTC: `timestamp` is when it was true (the exchange's clock), `received` is when this engine could know it.
`sequence` is the number the ingress gave the input that an event is, or that caused it; 0 means not numbered yet. What a fold put
out (FeatureEvent, Signal, ...) carries the sequence of the input being folded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Side: TypeAlias = Literal["buy", "sell"]
Key: TypeAlias = tuple[str, str]
"""(exchange, symbol): what all state is keyed by."""


class Event(msgspec.Struct, frozen=True, gc=False, tag=True):
    """What all events share: nothing but being one. `gc=False` because no event refers back to itself."""


class Tick(Event, frozen=True, gc=False, tag=True):
    """One trade. `side` is the taker's; None where the exchange does not say."""

    exchange: str
    symbol: str
    price: float  # quote currency, positive and finite once past the ingress
    volume: float  # base currency, positive and finite once past the ingress
    side: Side | None
    timestamp: int  # ns UTC, the exchange's clock
    received: int  # ns UTC, ours
    trade_id: int | None = None  # KuCoin: its `sequence`
    sequence: int = 0
    late: bool = False  # history: a snapshot, a filled gap, a lower id after a higher one


class Quote(Event, frozen=True, gc=False, tag=True):
    """Best bid and offer. Sizes that the exchange does not send are NaN."""

    exchange: str
    symbol: str
    bid: float
    bid_volume: float
    ask: float
    ask_volume: float
    timestamp: int
    received: int
    update_id: int | None = None  # the exchange's own counter: rises, but is not contiguous
    sequence: int = 0
    late: bool = False


class Gap(Event, frozen=True, gc=False, tag=True):
    """Trade ids that were skipped: `first_id` to `last_id`, both inclusive."""

    exchange: str
    symbol: str
    first_id: int
    last_id: int
    missing: int  # ids in the range that were not folded
    filled: int  # of those, how many had been received as history by then
    timestamp: int
    received: int
    sequence: int = 0


class FeedStatus(Event, frozen=True, gc=False, tag=True):
    """What a feed says of itself. An empty `symbol` speaks of the whole connection.

    Of trades that a `Gap` named, each id is spoken of once more: `filled` (it came as history, late) or `lost` (it will not).
    `restarted`: the exchange numbers the trades of `symbol` anew; ids that were known before say nothing of those to come.
    """

    exchange: str
    symbol: str
    status: Literal[
        "connected",
        "disconnected",
        "stalled",
        "recovered",
        "gap",
        "filled",
        "lost",
        "restarted",
        "clock_skew",
        "rate_limited",
        "failed",
    ]
    detail: str
    timestamp: int
    received: int
    sequence: int = 0
    first_id: int | None = None  # of `gap`, `filled` and `lost`: the ids that it speaks of, both inclusive;
    last_id: int | None = None  # None where an exchange has no ids that would tell


class Heartbeat(Event, frozen=True, gc=False, tag=True):
    """Time passed without a tick. Moves no window and matures no label."""

    timestamp: int
    received: int
    sequence: int = 0


class Command(Event, frozen=True, gc=False, tag=True):
    """What an operator asked for: an input like any other, so that a replay obeys it at the same place."""

    verb: Literal["resume", "park", "add_symbol", "remove_symbol", "snapshot", "promote", "rollback", "pin", "unpin"]
    target: str  # the actor's name, exchange:symbol, or MODEL[@VERSION] [EXCHANGE:SYMBOL]; empty for a snapshot
    timestamp: int
    received: int
    sequence: int = 0


class Configured(Event, frozen=True, gc=False, tag=True):
    """The configuration of the fold as it was resolved: what a replay of the journal folds by, unless told otherwise."""

    config: str  # the sections that the fold depends on, as JSON
    definition: str  # hash of what was computed by it: the views' program and the strategies' sources
    begins: int  # the sequence of the first input that the fold under this configuration has folded
    timestamp: int
    received: int
    sequence: int = 0


class History(Event, frozen=True, gc=False, tag=True):
    """Recorded ticks are folded as history from here on, or no longer: meanwhile no strategy hears anything."""

    phase: Literal["begins", "ends"]
    source: str
    timestamp: int
    received: int
    sequence: int = 0


class Answer(Event, frozen=True, gc=False, tag=True):
    """What a worker process says to a row of features: an input, so that a replay of the journal needs no worker."""

    model: str
    version: str
    exchange: str
    symbol: str
    asked: int  # sequence of the row
    values: tuple[
        float, ...
    ]  # probabilities by class, or one value; empty if the model failed or the row was let go of
    error: str
    timestamp: int
    received: int
    sequence: int = 0


class Shed(Event, frozen=True, gc=False, tag=True):
    """The engine fell behind and let go of quotes that it had not yet numbered: never of a trade."""

    quotes: int
    reason: str
    timestamp: int
    received: int
    sequence: int = 0


class FeatureEvent(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One emission of a feature view: `event["rsi_14"]`, `event.values`, `dict(event.items())`.

    The values lie in the online store: they are read-only, and valid until the handler returns. `copy()` keeps them.
    """

    view: str
    exchange: str
    symbol: str
    timestamp: int
    received: int
    sequence: int
    ready: bool  # every feature of the view has seen its warm-up
    columns: Mapping[str, int]  # name of the feature to its row in `block`
    block: npt.NDArray[np.float64]  # features x slots, read-only
    slot: int

    def __getitem__(self, feature: str) -> float:
        """The value of one feature, NaN while undefined. Raises KeyError naming the features there are."""
        try:
            return self.block.item(self.columns[feature], self.slot)
        except KeyError:
            raise KeyError(f"{self.view} has no feature {feature!r}; it has {', '.join(self.columns)}") from None

    def __contains__(self, feature: str) -> bool:
        return feature in self.columns

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """All values in the order of the view's features, float64, read-only."""
        return self.block[:, self.slot]

    def items(self) -> Iterator[tuple[str, float]]:
        """(feature, value) in the order of the view."""
        return zip(self.columns, self.block[:, self.slot].tolist(), strict=True)

    def copy(self) -> FeatureEvent:
        """The same event over values of its own, which stay as they are."""
        kept = self.block[:, self.slot : self.slot + 1].copy()
        kept.flags.writeable = False
        return msgspec.structs.replace(self, block=kept, slot=0)


class Prediction(Event, frozen=True, gc=False, tag=True):
    """What a model expects of (exchange, symbol) over `horizon`, before the outcome exists. `sequence` names it."""

    model: str
    version: str
    exchange: str
    symbol: str
    horizon_ns: int  # 0 of a horizon by trades or rows
    value: float  # of a regression; NaN of a classification
    probabilities: tuple[float, ...]  # of a classification, in the order of its classes; empty of a regression
    reference: float  # mid (or last price) that the outcome is measured from
    timestamp: int
    received: int
    sequence: int = 0
    horizon: str = ""  # "60s", "100t", "10b"
    classes: tuple[str, ...] = ()  # names, in the order of the probabilities
    low: float = float("nan")  # interval of a regression, at the model's coverage
    high: float = float("nan")
    likely: tuple[str, ...] = ()  # set of classes of a classification, at the model's coverage
    coverage: float = float("nan")
    ready: bool = True  # the model has learned from as many outcomes as its warm-up asks for


class Outcome(Event, frozen=True, gc=False, tag=True):
    """What became of a prediction once its horizon had passed."""

    model: str
    version: str
    exchange: str
    symbol: str
    prediction_sequence: int
    value: float  # the realised target (a class by its number); NaN if void
    score: float  # loss of the prediction made then (Brier halved, or squared error); NaN if void
    timestamp: int
    received: int
    sequence: int = 0
    reference: float = float("nan")  # the price that the prediction was made at, and the one that it came to
    outcome: float = float("nan")


class Drift(Event, frozen=True, gc=False, tag=True):
    """A detector says that a stream (a model's matured loss, a feature) is no longer what it was."""

    detector: str
    stream: str  # "MODEL:loss", "MODEL:prediction" or "MODEL:view:feature"
    exchange: str
    symbol: str
    statistic: float
    timestamp: int
    received: int
    sequence: int = 0
    model: str = ""
    started: str = ""  # version of the challenger that it started, if any


class Promotion(Event, frozen=True, gc=False, tag=True):
    """A challenger became champion, or a champion was rolled back."""

    model: str
    from_version: str
    to_version: str
    exchange: str
    symbol: str
    reason: str
    timestamp: int
    received: int
    sequence: int = 0


class Signal(Event, frozen=True, gc=False, tag=True):
    """What a strategy wants known: `value` by its own convention, by custom -1 (sell) to +1 (buy)."""

    strategy: str
    exchange: str
    symbol: str
    value: float
    reason: str
    timestamp: int
    received: int
    sequence: int = 0


class Fill(Event, frozen=True, gc=False, tag=True):
    """A paper order met a price."""

    strategy: str
    exchange: str
    symbol: str
    side: Side
    price: float
    volume: float
    fee: float
    timestamp: int
    received: int
    sequence: int = 0


class Refused(Event, frozen=True, gc=False, tag=True):
    """The ingress turned a message away: it is no input, has no sequence and reached no kernel."""

    exchange: str
    symbol: str
    reason: str  # which field, its value, and what was expected
    timestamp: int
    received: int


class WindowOverflow(Event, frozen=True, gc=False, tag=True):
    """A time window outgrew its memory: its features are NaN until it again holds all its trades."""

    exchange: str
    symbol: str
    window: str  # as the feature definition writes it: "15m"
    capacity: int  # trades it can hold, `features.window_ticks_max`
    timestamp: int
    received: int
    sequence: int = 0


class HandlerFailed(Event, frozen=True, gc=False, tag=True):
    """A handler of a plugin raised: it published nothing for that event and keeps the state it has."""

    actor: str
    handler: str
    error: str
    traceback: str
    in_a_row: int
    timestamp: int
    received: int
    sequence: int = 0


class Parked(Event, frozen=True, gc=False, tag=True):
    """A plugin hears no events any more, until a `Command("resume", actor)`."""

    actor: str
    reason: str
    timestamp: int
    received: int
    sequence: int = 0


class Resumed(Event, frozen=True, gc=False, tag=True):
    """A parked plugin hears events again."""

    actor: str
    timestamp: int
    received: int
    sequence: int = 0
