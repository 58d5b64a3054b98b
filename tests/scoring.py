"""The judge's steps on a tape of prices that is small enough to look at: predictions are given, or learned by an arm.

`run` is compiled as the judge is: at each tick what has matured is answered, then a prediction is asked for. With `early` the baselines
hear of an outcome at the next tick, long before it matures: the leak that they are to show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jit import compile_function
from engine.models.baselines import baselines_answer, baselines_ask, baselines_size, baselines_width
from engine.models.layout import HEAD, LABEL, LAST_RETURN, LAST_SIDE, MADE, OUTCOME, REFERENCE, SPREAD, Layout
from engine.models.score import score_answer, score_size
from engine.models.target import CLASSES, CUSTOM, DIRECTION, label_of
from engine.models.triviality import features_answer, features_size

Floats = npt.NDArray[np.float64]
SECOND = 1_000_000_000


def run(
    prices: Any, sides: Any, said: Any, features: Any, labels: Any, horizon: int, kind: int, early: bool, band: float, fee_bps: float,
    ledger: Any, ids: Any, baselines: Any, state: Any, watch: Any, losses: Any,
) -> None:  # fmt: skip
    """Verify `said` (a row a tick, with its conformal threshold behind) on `prices`; `labels` overrule those of the kind unless NaN."""
    outputs = said.shape[1] - 1
    count = features.shape[1]
    base_at = HEAD + count
    out_at = said_at(kind, outputs, base_at)
    slots = ledger.shape[0]
    direction = 0.0
    for now in range(len(prices)):
        if now > 0 and prices[now] != prices[now - 1]:
            direction = 1.0 if prices[now] > prices[now - 1] else -1.0
        due = now - horizon
        if due >= 0:
            row = ledger[due % slots]
            if not early:
                fill(row, prices[now], labels[due], kind, band, fee_bps)
            is_thin = due % horizon == 0
            losses[due] = score_answer(state, row, out_at, base_at, kind, outputs, is_thin, fee_bps)
            if is_thin:
                features_answer(watch, row, HEAD, count)
            if not early:
                baselines_answer(baselines, row, base_at, kind, outputs)
        if early and 0 < now <= len(prices) - horizon:
            row = ledger[(now - 1) % slots]
            fill(row, prices[now - 1 + horizon], labels[now - 1], kind, band, fee_bps)
            baselines_answer(baselines, row, base_at, kind, outputs)
        row = ledger[now % slots]
        ids[now % slots, MADE] = now * SECOND
        row[REFERENCE] = prices[now]
        row[SPREAD] = math.nan
        row[LABEL] = math.nan
        row[LAST_RETURN] = direction
        row[LAST_SIDE] = sides[now]
        for at in range(count):
            row[HEAD + at] = features[now, at]
        baselines_ask(baselines, row, base_at, kind, outputs)
        for at in range(outputs + 1):
            row[out_at + at] = said[now, at]


def said_at(kind: Any, outputs: Any, base_at: Any) -> Any:
    """Return where the only arm's outputs lie."""
    if kind < DIRECTION:
        return base_at + 6
    return base_at + (22 if outputs == 3 else 13)


def fill(row: Any, price: float, label: float, kind: Any, band: float, fee_bps: float) -> None:
    """Write an outcome into a row."""
    row[OUTCOME] = price
    row[LABEL] = (
        label if not math.isnan(label) else label_of(kind, row[REFERENCE], price, math.nan, 0.0, band, False, fee_bps)
    )


@cache
def compiled() -> Callable[..., None]:
    """Return `run`, compiled."""
    array, matrix = "float64[::1]", "float64[:, ::1]"
    return compile_function(
        run,
        f"void({array}, {array}, {matrix}, {matrix}, {array}, int64, int64, boolean, float64, float64, {matrix}, int64[:, ::1], {array}, {array}, "
        f"{array}, {array})",
        "the tests' judge",
    )


@dataclass
class Verified:
    """What became of a tape."""

    state: Floats
    watch: Floats
    losses: Floats
    ledger: Floats


def verify(
    prices: Floats,
    said: Floats,
    *,
    kind: int,
    horizon: int,
    thresholds: Floats | float = math.inf,
    features: Floats | None = None,
    labels: Floats | None = None,
    sides: Floats | None = None,
    early: bool = False,
    band: float = 1.0,
    fee_bps: float = 0.0,
    function: Callable[..., None] | None = None,
) -> Verified:
    """Run a tape through the steps, a tick a second of a sort: `said` are predictions by tick, probabilities or values."""
    outputs = len(CLASSES.get(kind, ())) or 1
    count = len(prices)
    x = np.zeros((count, 0)) if features is None else np.ascontiguousarray(features)
    layout = Layout(x.shape[1], outputs, baselines_width(kind, outputs), 1)
    assert layout.out_at(0) == said_at(kind, outputs, layout.baselines_at)
    assert kind != CUSTOM or labels is not None
    ends = np.broadcast_to(np.asarray(thresholds, np.float64), (count,))[:, None]
    made = Verified(
        np.zeros(score_size(kind, outputs)),
        np.zeros(features_size(x.shape[1])),
        np.full(count, np.nan),
        np.full((horizon + 1, layout.width), np.nan),
    )
    (function or compiled())(
        prices,
        np.zeros(count) if sides is None else sides,
        np.ascontiguousarray(np.hstack([said.reshape(count, outputs), ends])),
        x,
        np.full(count, np.nan) if labels is None else labels,
        horizon,
        kind,
        early,
        band,
        fee_bps,
        made.ledger,
        made.ledger.view(np.int64),
        np.zeros(baselines_size(kind, outputs)),
        made.state,
        made.watch,
        made.losses,
    )
    return made


def random_walk(count: int, seed: int, *, step: float = 1e-4, start: float = 100.0) -> Floats:
    """Prices that rise or fall by the same share at each tick, by a fair coin."""
    moves = np.random.default_rng(seed).integers(0, 2, count) * 2 - 1
    prices: Floats = start * np.exp(step * np.cumsum(moves))
    return prices


def outcomes(prices: Floats, kind: int, horizon: int, band: float = 1.0) -> Floats:
    """The labels of all ticks whose horizon the tape holds."""
    pairs = zip(prices[:-horizon].tolist(), prices[horizon:].tolist(), strict=True)
    return np.array([label_of(kind, a, b, math.nan, 0.0, band, False, 0.0) for a, b in pairs])
