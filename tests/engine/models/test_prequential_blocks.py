"""Intervals of progressive validation: sums by blocks of rows that keep to their memory, and hold what they promise."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from river import dummy, stats

from engine.models.prequential_blocks import BLOCKS_MAX, COUNTS_AT, LOSS, RIGHT, Blocks, N, stream_intervals
from engine.models.progressive import progressive


class Says:
    """Says what the row says, and learns nothing."""

    def learn_one(self, x: Any, y: Any) -> None:
        """Learn nothing."""

    def predict_proba_one(self, x: Any) -> Any:
        """Return the row's own probability."""
        return {True: x["p"], False: 1.0 - x["p"]}


def coin_rows(seed: int, count: int, right: float) -> list[tuple[dict[str, float], bool]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.random() < 0.5
        said = label if draw.random() < right else not label
        rows.append(({"p": 0.7 if said else 0.3}, label))
    return rows


@pytest.mark.parametrize("rows", [1, 7])
def test_blocks_keep_every_row_in_bounded_memory(rows: int) -> None:
    blocks = Blocks(rows)
    count = rows * BLOCKS_MAX * 3 + 5
    for at in range(count):
        blocks.heard(at % 3, at % 2, math.nan if at % 11 == 0 else 0.25, is_class=True)
    sums = blocks.sums()
    scored = [at for at in range(count) if at % 11]
    assert len(sums) <= BLOCKS_MAX
    assert blocks.units == 4.0
    assert sums[:, N].sum() == len(scored)
    assert sums[:, LOSS].sum() == 0.25 * len(scored)
    assert sums[:, RIGHT].sum() == sum(at % 3 == at % 2 for at in scored)
    labels, picks = np.split(sums[:, COUNTS_AT:].sum(axis=0), 2)
    assert labels.tolist() == [sum(at % 3 == one for at in scored) for one in range(3)]
    assert picks.tolist() == [sum(at % 2 == one for at in scored) for one in range(2)] + [0.0]


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(60):
        blocks = Blocks(1)
        progressive(Says(), coin_rows(seed, 400, 0.6), blocks=blocks)
        low, high = stream_intervals(blocks, None, is_class=True, draws=300)["accuracy"]
        held += low <= 0.6 <= high
        assert 0.06 < high - low < 0.14  # about 2 * 1.96 * sqrt(0.24 / 400)
    assert held >= 52


def test_scores_lie_in_their_intervals_which_are_the_same_each_time() -> None:
    found = []
    for _ in range(2):
        own, beside = Blocks(1), Blocks(1)
        rows = coin_rows(3, 900, 0.65)
        scores = progressive(Says(), rows, blocks=own)
        base = progressive(dummy.PriorClassifier(), rows, blocks=beside)
        spans = stream_intervals(own, beside, is_class=True)
        for name in ("accuracy", "mcc", "brier"):
            assert spans[name][0] < scores[name] < spans[name][1]
        assert spans["skill"][0] < 1.0 - scores["brier"] / base["brier"] < spans["skill"][1]
        found.append(spans)
    assert found[0] == found[1]


def test_values_have_intervals_too() -> None:
    draw = random.Random(5)
    rows = [({"x": 0.0}, draw.gauss(1.0, 2.0)) for _ in range(600)]
    blocks = Blocks(3)
    scores = progressive(dummy.StatisticRegressor(stats.Mean()), rows, 3, blocks=blocks)
    spans = stream_intervals(blocks, None, is_class=False)
    assert set(spans) == {"mse", "rmse", "mae"}
    for name in ("rmse", "mae"):
        assert spans[name][0] < scores[name] < spans[name][1]


def test_of_few_rows_nothing_is_said() -> None:
    blocks = Blocks(10)
    progressive(Says(), coin_rows(1, 60, 0.6), 10, blocks=blocks)
    assert stream_intervals(blocks, None, is_class=True) == {}
