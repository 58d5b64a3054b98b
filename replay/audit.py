"""Proves that nothing looks ahead, by experiment: the future is cut off, or altered, and the past must not change by a bit.

At each of some random moments T the inputs received after T are taken away (prefix invariance), and then replaced by others
(perturbation). What was put out by T has to be the same each time, in every feature column, prediction, label and signal. Time is `received`,
when a thing could be known: joining quotes by an exchange's clock that runs ahead is caught, because that quote came after T.

`audit` takes any pipeline, a function from inputs to streams of rows; `audit_fold` audits the fold itself with its strategies. What
a pipeline precomputes from the data it must compute inside that function: a table brought along from outside does not change with the
future, so no experiment can see that it holds it. Steps of compiled features cannot bring one (they may not reach arrays).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.actor import Subscription
from engine.block import Block, Keys
from engine.config import Config
from engine.errors import ReplayError
from engine.events import Key, Outcome, Prediction, Signal
from replay.driver import Selection, build_fold, views_of
from replay.merge import merge
from replay.sources import Source
from store.schema import FeatureView

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

STARTS = 3  # of the warm-up report: how many later starts a run is compared with
SAME_WITHIN = 1e-9  # relative to the column's range: sums taken in another order differ in their last bits


@dataclass(frozen=True)
class Stream:
    """Rows that a pipeline put out, in order: when each could be known (`received`, ns), and its values (columns x rows)."""

    columns: tuple[str, ...]
    received: Integers
    values: Floats


Pipeline = Callable[[Block], Mapping[str, Stream]]


@dataclass(frozen=True)
class Offender:
    """The first value that knew of the future."""

    stream: str
    column: str
    received: int
    row: int
    recorded: float | int | None  # an int is a timestamp, ns
    altered: float | int | None
    experiment: str
    cut: int

    def text(self) -> str:
        """Say which value changed, when, and by what."""
        found = "no row" if self.altered is None else repr(self.altered)
        expected = "no row" if self.recorded is None else repr(self.recorded)
        return (
            f"{self.stream}: {self.column} of row {self.row}, known at {_utc(self.received)}, is {expected} as recorded, but {found} "
            f"after the inputs received after {_utc(self.cut)} were {self.experiment}"
        )


@dataclass(frozen=True)
class WarmUp:
    """After how many rows (and ticks of its key) a column no longer depends on where the run began; None: not in this recording."""

    view: str
    column: str
    rows: int | None
    ticks: int | None


@dataclass
class Audit:
    """What an audit found."""

    inputs: int
    cuts: int
    streams: int = 0
    columns: int = 0
    rows: int = 0
    offender: Offender | None = None
    warm_ups: list[WarmUp] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing looked ahead."""
        return self.offender is None

    def to_builtins(self) -> dict[str, Any]:
        """Return it as JSON can write it."""
        return {
            "passed": self.passed,
            "inputs": self.inputs,
            "cuts": self.cuts,
            "streams": self.streams,
            "columns": self.columns,
            "rows": self.rows,
            "offender": None if self.offender is None else {**vars(self.offender), "text": self.offender.text()},
            "warm_up": [vars(found) for found in self.warm_ups],
        }

    def text(self) -> str:
        """Return it as a person reads it."""
        if self.offender is not None:
            return f"LOOKS AHEAD: {self.offender.text()}"
        lines = [
            (
                f"nothing looks ahead: {self.columns} columns of {self.streams} streams "
                f"({self.rows:,} rows of {self.inputs:,} inputs), "
                f"each compared at {self.cuts} cuts with the future taken away and with it altered"
            ),
            "(what a strategy brings along, such as a file it reads, does not change with the inputs and cannot be seen this way)",
        ]
        if self.warm_ups:
            lines += ["", f"{'warm-up: does not depend on where the run began after':<52} {'rows':>9} {'ticks':>9}"]
            shown = [
                (f"  {w.view}:{w.column}", *("never" if n is None else f"{n:,}" for n in (w.rows, w.ticks)))
                for w in self.warm_ups
            ]
            lines += [f"{name:<52} {rows:>9} {ticks:>9}" for name, rows, ticks in shown]
        return "\n".join(lines)


def audit(
    pipeline: Pipeline, block: Block, *, cuts: int = 20, seed: int = 0, progress: Callable[[int], None] | None = None
) -> Audit:
    """Run a pipeline on inputs, and again with another future at each of `cuts` random moments.

    Stops at the first value that changed. `progress` hears how many cuts are done. Raises ReplayError if there are too few inputs to cut, or `cuts` is not positive.
    """
    if cuts < 1:
        raise ReplayError(f"audit: {cuts} cuts: expected at least 1")
    known = _known(block)
    moments = np.unique(known)
    if len(moments) < 2:
        raise ReplayError(f"audit: expected inputs received at two moments or more, found {len(moments)}")
    random = np.random.Generator(np.random.PCG64(seed))
    recorded = pipeline(block)
    columns = sum(len(stream.columns) for stream in recorded.values())
    rows = sum(len(stream.received) for stream in recorded.values())
    result = Audit(len(block), cuts, len(recorded), columns, rows)
    for number, at in enumerate(np.sort(random.integers(0, len(moments) - 1, cuts)).tolist(), 1):
        cut = int(moments[at])
        past = known <= cut
        experiments = (("taken away", block.take(past)), ("altered", _altered(block, past, random)))
        for experiment, inputs in experiments:
            result.offender = _compare(recorded, pipeline(inputs), cut, experiment)
            if result.offender is not None:
                return result
        if progress is not None:
            progress(number)
    return result


def audit_fold(
    config: Config,
    strategies: Callable[[], Sequence[Any]],
    sources: Callable[[], Sequence[Source]],
    selection: Selection | None = None,
    *,
    cuts: int = 20,
    seed: int = 0,
    views: tuple[FeatureView, ...] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Audit:
    """Audit the fold of a configuration: every feature column, prediction, label and signal; then report the warm-up of each column.

    strategies and sources give new ones at each call: a strategy that carries something from one run to the next is caught, too.
    """
    keys = Keys()
    selected = selection or Selection()
    blocks = [selected.apply(block, keys) for block in merge([source.blocks(keys) for source in sources()])]
    if not blocks:
        raise ReplayError("audit: the sources hold no inputs")
    block = Block.concatenate(blocks)
    found = views_of(config) if views is None else views
    result = audit(fold_pipeline(config, strategies, keys, found), block, cuts=cuts, seed=seed, progress=progress)
    if result.passed:
        without = msgspec.structs.replace(config, models=msgspec.structs.replace(config.models, run=()))
        result.warm_ups = warm_up(fold_pipeline(without, list, keys, found), block, keys, found)
    return result


class Overheard:
    """An actor that hears all predictions and outcomes, with when they could be known, and says nothing."""

    name = "audit"
    subscribes = (Prediction, Outcome)

    def __init__(self, tell: Callable[[Any, int], None]) -> None:
        self._tell = tell
        self._now: Callable[[], int] = lambda: 0

    def enter(self, clock: Any, _features: Any, _seed: int) -> None:
        """Take the fold's clock."""
        self._now = clock.now

    def subscriptions(self) -> list[Subscription]:
        return [Subscription(topic, self.hear) for topic in self.subscribes]

    def hear(self, event: Any) -> None:
        """Pass an event on."""
        self._tell(event, self._now())

    def start(self) -> None:
        """Say nothing."""

    def stop(self) -> None:
        """Say nothing."""

    def snapshot(self) -> bytes:
        return b""

    def restore(self, _snapshot: bytes) -> None:
        """There is nothing to restore."""


def fold_pipeline(
    config: Config, strategies: Callable[[], Sequence[Any]], keys: Keys, views: tuple[FeatureView, ...]
) -> Pipeline:
    """Return the fold as a pipeline.

    A stream is a view of a key ("view exchange symbol"), a model's predictions or labels of one, or a strategy's signals.
    """
    config = _in_loop(config)

    def run(block: Block) -> Mapping[str, Stream]:
        parts: dict[str, list[tuple[Integers, Floats]]] = {}
        columns = {view.name: ("timestamp", *view.features) for view in views}

        def rows(view: str, key: Key, stamps: Integers, values: Floats) -> None:
            # The timestamp is compared as its bits: a float cannot hold it.
            together = np.vstack([stamps[0].copy().view(np.float64), values])
            parts.setdefault(f"{view} {' '.join(key)}", []).append((stamps[1].copy(), together))

        def report(event: Any) -> None:
            if isinstance(event, Signal):
                values = np.array([[0.0], [event.value]])
                values.view(np.int64)[0, 0] = event.timestamp
                name = f"signals of {event.strategy} {event.exchange} {event.symbol}"
                parts.setdefault(name, []).append((np.array([event.received]), values))

        def overheard(event: Prediction | Outcome, received: int) -> None:
            if isinstance(event, Prediction):
                said = event.probabilities or (event.value,)
                name, names = f"predictions of {event.model}", (*(event.classes or ("value",)), "low", "high")
                values = [*said, event.low, event.high]
            else:
                name, names, values = f"labels of {event.model}", ("label",), [event.value]
            name = f"{name} {event.exchange} {event.symbol}"
            columns[name] = ("timestamp", *names)
            together = np.array([[0.0], *([value] for value in values)])
            together.view(np.int64)[0, 0] = event.timestamp
            parts.setdefault(name, []).append((np.array([received]), together))

        fold = build_fold(
            config, [*strategies(), Overheard(overheard)], views=views, keys=keys, rows=rows, report=report
        )
        # Not stopped: what is said at the end belongs to the end of the inputs, which is another one each time.
        fold.push(block)
        return {
            name: Stream(
                columns.get(name) or columns.get(name.split(" ", 1)[0], ("timestamp", "value")),
                np.concatenate([received for received, _ in found]),
                np.concatenate([values for _, values in found], axis=1),
            )
            for name, found in parts.items()
        }

    return run


def _in_loop(config: Config) -> Config:
    """Have all models run in the loop: there they say the same as in workers, and no process has to be fed twice for each cut."""
    define = {name: msgspec.structs.replace(one, place="loop") for name, one in config.models.define.items()}
    return msgspec.structs.replace(config, models=msgspec.structs.replace(config.models, define=define))


def warm_up(pipeline: Pipeline, block: Block, keys: Keys, views: tuple[FeatureView, ...]) -> list[WarmUp]:
    """Report, by column, after how many rows a run that began later gives what the whole one gives; the worst of keys and starts."""
    whole = pipeline(block)
    clocks = {view.name: view.ticking for view in views}
    worst: dict[tuple[str, str], tuple[int, int] | None] = {(v.name, c): (0, 0) for v in views for c in v.features}
    for start in range(1, STARTS + 1):
        # Early starts, so that there is much left to converge in.
        first = len(block) * start // (4 * (STARTS + 1))
        late = block.take(slice(first, None))
        for name, stream in pipeline(late).items():
            view, exchange, symbol = name.split(" ", 2)
            trades = np.sort(_known(late)[(late.key == keys.code((exchange, symbol))) & (late.kind == 0)])
            reference = whole[name]
            count = min(len(stream.received), len(reference.received))
            for at, column in enumerate(stream.columns[1:], 1):
                same = _same(stream.values[at, -count:], reference.values[at, -count:])
                wrong = np.flatnonzero(~same)
                before = worst[view, column]
                if before is None or not len(wrong):
                    continue
                rows = len(stream.received) - count + int(wrong[-1]) + 1
                if rows == len(stream.received):
                    worst[view, column] = None
                    continue
                # On a clock of ticks rows are ticks; there a tie of `received` does not matter.
                is_tick = clocks[view].kind == "tick"
                ticks = rows if is_tick else int(np.searchsorted(trades, stream.received[rows - 1], side="right"))
                worst[view, column] = max(before, (rows, ticks))
    return [WarmUp(view, column, *(found or (None, None))) for (view, column), found in worst.items()]


def _same(left: Floats, right: Floats) -> npt.NDArray[np.bool_]:
    finite = np.abs(right[np.isfinite(right)])
    tolerance = SAME_WITHIN * (float(finite.max()) if len(finite) else 1.0)
    with np.errstate(invalid="ignore"):
        near = np.abs(left - right) <= tolerance
    result: npt.NDArray[np.bool_] = near | (left == right) | (np.isnan(left) & np.isnan(right))
    return result


def _known(block: Block) -> Integers:
    """When each row could be known: `received`, which never decreases within a key."""
    known = block.received.copy()
    for code in np.unique(block.key):
        mine = block.key == code
        known[mine] = np.maximum.accumulate(known[mine])
    return known


def _altered(block: Block, past: npt.NDArray[np.bool_], random: np.random.Generator) -> Block:
    """Return the block with another future: other prices, volumes, sides and times; a tenth of the rows is gone."""
    future = ~past
    count = int(future.sum())

    def changed(column: Floats) -> Floats:
        if not len(column):
            return column
        result = column.copy()
        result[future] *= np.exp(random.normal(0.0, 0.05, count))
        return result

    side = block.side.copy()
    side[future] = -side[future]
    timestamp, received = block.timestamp.copy(), block.received.copy()
    # Only ever later: an input must not slip into the past.
    delay = np.cumsum(random.integers(0, 50_000_000, count))
    timestamp[future] += delay
    received[future] += delay
    altered = msgspec.structs.replace(
        block,
        price=changed(block.price),
        volume=changed(block.volume),
        ask=changed(block.ask),
        ask_volume=changed(block.ask_volume),
        side=side,
        timestamp=timestamp,
        received=received,
    )
    kept = past | (random.random(len(block)) > 0.1)
    return altered.take(kept)


def _compare(recorded: Mapping[str, Stream], other: Mapping[str, Stream], cut: int, experiment: str) -> Offender | None:
    """Return the first difference among rows known by the cut."""
    nothing = Stream(("row",), np.empty(0, np.int64), np.empty((1, 0)))
    for name in sorted({*recorded, *other}):
        left, right = recorded.get(name, nothing), other.get(name, nothing)
        # Not by search: across keys `received` may step back.
        left, right = (_until(stream, cut) for stream in (left, right))
        counts = [len(left.received), len(right.received)]
        both = min(counts)
        if both:
            bits = [np.ascontiguousarray(stream.values[:, :both]).view(np.int64) for stream in (left, right)]
            nans = [np.isnan(stream.values[:, :both]) for stream in (left, right)]
            differs = (bits[0] != bits[1]) & ~(nans[0] & nans[1])
            differs[0] |= left.received[:both] != right.received[:both]
            if differs.any():
                row = int(np.flatnonzero(differs.any(axis=0))[0])
                column = int(np.flatnonzero(differs[:, row])[0])
                values: list[Any] = [float(stream.values[column, row]) for stream in (left, right)]
                if left.columns[column] == "timestamp":
                    values = [stream.values[column].copy().view(np.int64).item(row) for stream in (left, right)]
                return Offender(
                    name, left.columns[column], int(left.received[row]), row, values[0], values[1], experiment, cut
                )
        if counts[0] != counts[1]:
            longer = left if counts[0] > counts[1] else right
            value = float(longer.values[-1, both])
            before, after = (value, None) if longer is left else (None, value)
            return Offender(name, longer.columns[-1], int(longer.received[both]), both, before, after, experiment, cut)
    return None


def _until(stream: Stream, cut: int) -> Stream:
    known = stream.received <= cut
    return stream if known.all() else Stream(stream.columns, stream.received[known], stream.values[:, known])


def _utc(time_ns: int) -> str:
    whole, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
