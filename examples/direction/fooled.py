"""How one gets fooled: well-known ways to a good figure, each taken on the same recording, beside what is true of it.

None of this is a score of a model; the scores are the ledger's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from engine.events import Key
from engine.models.arm import Batch
from engine.models.layout import LABEL, OUTCOME, REFERENCE, RESOLVED, STATUS
from engine.models.spec import ModelSpec

Floats = npt.NDArray[np.float64]
SMOOTHING = 50
COST_BPS = 20.0
"""In and out at 10 bps: what hold is measured by."""


@dataclass(frozen=True)
class Trades:
    """A recording as it lies in its file: one symbol."""

    exchange: str
    symbol: str
    timestamp: npt.NDArray[np.int64]
    price: Floats

    @classmethod
    def of(cls, path: Path) -> Trades:
        """Read a file. Raises ValueError if it holds several symbols."""
        table = pq.read_table(path, columns=["timestamp", "exchange", "symbol", "price"])
        names = table.select(["exchange", "symbol"]).group_by(["exchange", "symbol"]).aggregate([]).to_pylist()
        if len(names) != 1:
            raise ValueError(f"{path}: expected the trades of one symbol, found {len(names)}")
        (name,) = names
        return cls(name["exchange"], name["symbol"], table["timestamp"].to_numpy(), table["price"].to_numpy())


@dataclass
class Kept:
    """Hears what matures (`ModelStage.matured`) and keeps label, reference and outcome of each prediction, by model, in order."""

    rows: dict[str, list[Floats]] = field(default_factory=dict)

    def __call__(self, spec: ModelSpec, key: Key, batch: Batch, versions: tuple[str, ...]) -> None:
        found = batch.answers[batch.ids[batch.answers, STATUS] == RESOLVED]
        self.rows.setdefault(spec.name, []).append(batch.ledger[np.ix_(found, [LABEL, REFERENCE, OUTCOME])].copy())

    def of(self, model: str) -> Floats:
        """Return label, reference and outcome of each prediction of a model."""
        return np.concatenate(self.rows.get(model, [np.zeros((0, 3))]))


def figures(trades: Trades, kept: Kept, models: Sequence[Mapping[str, Any]], fee_bps: float) -> list[dict[str, str]]:
    """Return each way: its name, the figure that fools, and the one that does not. Of the first model with classes."""
    model = next((one for one in models if one["classes"] and one["versions"][0]["n_eff"] > 1), None)
    if model is None:
        return []
    first = model["versions"][0]
    label, reference, outcome = kept.of(model["model"]).T
    ways = [
        _no_baseline(model),
        _naive_interval(first),
        _early_labels(label, first),
        _smoothed(reference),
        _price_level(reference, outcome),
        _always_hold(reference, outcome),
        _next_change(trades, fee_bps),
    ]
    return [{"name": name, "said": said, "true": true} for name, said, true in ways]


def _no_baseline(model: Mapping[str, Any]) -> tuple[str, str, str]:
    best = max(model["versions"], key=lambda one: one["accuracy"])
    beside = {name: scores["accuracy"] for name, scores in best["beside"].items()}
    name = max(beside, key=lambda one: beside[one])
    return (
        "No baseline",
        f"“{best['accuracy']:.1%} right in a market of three outcomes, where a guess has 33 %” ({best['name']}).",
        f"{name.replace('_', ' ')} is right {beside[name]:.1%} of the time on the same rows, without a model.",
    )


def _naive_interval(first: Mapping[str, Any]) -> tuple[str, str, str]:
    accuracy, n = first["accuracy"], first["n"]
    half = 1.96 * (accuracy * (1.0 - accuracy) / n) ** 0.5
    low, high = first["intervals"]["accuracy"]
    return (
        "Overlapping outcomes taken for independent",
        f"“{accuracy:.1%}, give or take {half:.1%}, from {n:,} predictions.”",
        (
            f"They hold {first['n_eff']:,} outcomes that do not overlap; the interval is {low:.1%} to {high:.1%}, "
            f"{(high - low) / 2 / half:.1f} times as wide."
        ),
    )


def _early_labels(label: Floats, first: Mapping[str, Any]) -> tuple[str, str, str]:
    early = float(np.mean(label[1:] == label[:-1]))
    return (
        "Labels used before they matured",
        f"“Repeat the label of the row before: {early:.1%} right.”",
        (
            f"That label is known only when its horizon has passed. Repeating the newest that has: "
            f"{first['beside']['last_label']['accuracy']:.1%}."
        ),
    )


def _smoothed(price: Floats) -> tuple[str, str, str]:
    sums = np.cumsum(price)
    smooth = np.sign(np.diff(sums[SMOOTHING:] - sums[:-SMOOTHING]))
    raw = np.sign(np.diff(price))
    return (
        "A smoothed target",
        f"“{_repeats(smooth):.1%} right on the direction of the {SMOOTHING}-bar average.”",
        f"The next average shares {SMOOTHING - 1} of its {SMOOTHING} bars with this one. The same rule on the price: {_repeats(raw):.1%}.",
    )


def _repeats(signs: Floats) -> float:
    """Return how often a sign is the one before it, of those that are not 0."""
    moved = signs[signs != 0.0]
    return float(np.mean(moved[1:] == moved[:-1]))


def _price_level(reference: Floats, outcome: Floats) -> tuple[str, str, str]:
    explained = 1.0 - np.mean((outcome - reference) ** 2) / np.var(outcome)
    off = np.mean(np.abs(outcome / reference - 1.0))
    return (
        "The price level as the target",
        f"“R² {explained:.4f}, an error of {off:.3%}.”",
        "This is today's price repeated. Of the change, which is all that can be traded, it explains nothing: R² 0.",
    )


def _always_hold(reference: Floats, outcome: Floats) -> tuple[str, str, str]:
    moved = 1e4 * np.abs(outcome / reference - 1.0)
    held = float(np.mean(moved <= COST_BPS))
    return (
        "A class that nearly always holds",
        f"“{held:.1%} right on buy, sell or hold, where a move has to pay {COST_BPS:g} bps.”",
        "By always saying hold. Its MCC is 0, and it never trades.",
    )


def _next_change(trades: Trades, fee_bps: float) -> tuple[str, str, str]:
    change = 1e4 * np.diff(trades.price) / trades.price[:-1]
    moved = change[change != 0.0]
    turns = float(np.mean(np.sign(moved[1:]) != np.sign(moved[:-1])))
    gained = float(np.mean(np.sign(moved[:-1]) * moved[1:]))
    if turns > 0.5:
        rule, why, gained = (
            "it is the opposite of the last",
            "Prices of trades alternate between bid and ask.",
            -gained,
        )
    else:
        rule, why = "it is that of the last", "An order that takes several prices is several trades, of one moment."
    return (
        "The next change of the price",
        f"“{max(turns, 1.0 - turns):.1%} right on its direction: {rule}.”",
        f"{why} It earns {gained:.2f} bps before costs; a tick is {_tick_bps(trades):.2f}, two fees are {2 * fee_bps:g}.",
    )


def _tick_bps(trades: Trades) -> float:
    steps = np.abs(np.diff(trades.price))
    return float(1e4 * np.min(steps[steps > 1e-9]) / np.median(trades.price))
