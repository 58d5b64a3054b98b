"""What is asked, and what becomes of it, beside a slow reading of the definition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.block import IS_QUOTE, Keys
from engine.config import Config
from engine.events import Outcome, Prediction
from engine.fold import Fold
from engine.models.settings import ModelConfig, ModelsConfig
from engine.models.spec import resolve_model
from engine.models.stage import ModelStage
from replay.driver import build_fold
from tests.folding import BTC, SECOND, START, VIEWS, block_of, cut, listener, quote, trade

SIMPLE = ModelConfig(
    features=("quick:price",),
    algorithm={"algorithm": "scaled_linear", "optimizer": "nlms", "lr": 0.1},
    target="log_return",
    horizon="3s",
    staleness_s=2.0,
    warm_up=0,
)


def fold_of(*models: ModelConfig, hearing: Sequence[Any] = (), config: ModelsConfig | None = None) -> Fold:
    """A fold with models named m0, m1, ... and one listener."""
    specs = [resolve_model(f"m{at}", model) for at, model in enumerate(models)]
    settled = msgspec.structs.replace(Config(), models=config or ModelsConfig(run=()))
    return build_fold(settled, list(hearing), views=VIEWS, keys=Keys(), digests=True, models=specs)


def stage_of(fold: Fold) -> ModelStage:
    assert fold.models is not None
    return fold.models


def heard(
    model: ModelConfig, rows: Sequence[Mapping[str, Any]], size: int, config: ModelsConfig | None = None
) -> tuple[list[Prediction], list[Outcome], Fold]:
    """What a model says to rows, folded `size` at a time."""
    ear = listener(Prediction, Outcome)
    ear.on_prediction = ear.on_outcome = ear.hear  # type: ignore[method-assign]
    fold = fold_of(model, hearing=[ear], config=config)
    for part in cut(block_of(fold.keys, rows), size):
        fold.push(part)
    predictions = [event for event in ear.heard if isinstance(event, Prediction)]
    return predictions, [event for event in ear.heard if isinstance(event, Outcome)], fold


def by_definition(rows: Sequence[Mapping[str, Any]], horizon_ns: int, stale_ns: int) -> dict[int, float]:
    """By the index of each trade, the log return that its prediction comes to: NaN if void; absent while it is not known."""
    known: dict[int, float] = {}
    for at, row in enumerate(rows):
        if row["kind"] == IS_QUOTE:
            continue
        quotes = [other for other in rows[:at] if other["kind"] == IS_QUOTE]
        mids = bool(quotes)
        if mids and row["timestamp"] - quotes[-1]["timestamp"] > stale_ns:
            continue  # no price to measure from
        reference = (quotes[-1]["price"] + quotes[-1]["ask"]) / 2 if mids else row["price"]
        due = row["timestamp"] + horizon_ns
        for later in rows[at + 1 :]:
            if later["timestamp"] < due:
                continue
            if later["timestamp"] - due > stale_ns:
                known[at] = math.nan
                break
            if (later["kind"] == IS_QUOTE) == mids:
                price = (later["price"] + later["ask"]) / 2 if mids else later["price"]
                known[at] = math.log(price / reference)
                break
    return known


@st.composite
def tapes(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Trades and quotes some tenths of a second to some seconds apart, often at the same moment."""
    at, rows, number = 0.0, [], 0
    for kind, gap, price in draw(
        st.lists(
            st.tuples(st.sampled_from("ttq"), st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.5, 7.0]), st.integers(90, 110)),
            min_size=3,
            max_size=60,
        )
    ):
        at += gap
        if kind == "t":
            number += 1
            rows.append(trade(at=at, price=float(price), trade_id=number))
        else:
            rows.append(quote(at=at, price=price - 0.5, ask=price + 0.5))
    return rows


@settings(max_examples=60, deadline=None)
@given(rows=tapes(), size=st.sampled_from([1, 2, 7, 64]))
def test_outcomes_are_those_of_the_definition(rows: list[dict[str, Any]], size: int) -> None:
    predictions, outcomes, fold = heard(SIMPLE, rows, size)
    expected = by_definition(rows, 3 * SECOND, 2 * SECOND)
    # Every row is an input, so its number is its place; no gap has one of its own.
    said = {event.prediction_sequence - 1: event.value for event in outcomes}
    last_row = max((at for at, row in enumerate(rows) if row["kind"] != IS_QUOTE), default=-1)
    # What came to an end behind the last row of features is told at the next one; and in the order of the predictions.
    told = {}
    for at in sorted({event.sequence - 1 for event in predictions}):
        until = by_definition(rows[: last_row + 1], 3 * SECOND, 2 * SECOND)
        if at not in until:
            break
        told[at] = until[at]
    assert list(said) == sorted(said)
    assert said.keys() == told.keys()
    assert all(said[at] == value or (math.isnan(said[at]) and math.isnan(value)) for at, value in told.items())
    assert {at: v for at, v in told.items() if not math.isnan(v)} == {
        at: expected[at] for at, v in told.items() if not math.isnan(v)
    }
    void = sum(math.isnan(value) for value in told.values())
    if stage_of(fold).standings():
        (standing,) = stage_of(fold).standings()
        assert (standing.void, standing.outcomes) == (void, len(told))


@settings(max_examples=40, deadline=None)
@given(rows=tapes(), size=st.integers(2, 64), horizon=st.sampled_from(["2s", "3t", "2b"]))
def test_a_cut_changes_no_bit(rows: list[dict[str, Any]], size: int, horizon: str) -> None:
    model = msgspec.structs.replace(
        SIMPLE, horizon=horizon, target="direction", algorithm={"algorithm": "scaled_softmax"}
    )
    one, whole = (heard(model, rows, each) for each in (1, size))
    assert one[:2] == whole[:2] or repr(one[:2]) == repr(whole[:2])
    assert one[2].digest() == whole[2].digest()


def test_a_prediction_is_not_learned_from_before_its_time() -> None:
    rows = [trade(at=at, price=100.0 + at, trade_id=at + 1) for at in range(10)]
    predictions, outcomes, _ = heard(SIMPLE, rows, 1)
    assert [event.value for event in predictions[:3]] == [0.0] * 3  # nothing is known before 3 s have passed
    assert predictions[3].value != 0.0
    assert all(event.sequence - event.prediction_sequence == 3 for event in outcomes)


def test_a_horizon_of_trades_ends_at_the_trade_that_completes_it() -> None:
    model = msgspec.structs.replace(SIMPLE, horizon="2t")
    rows = [trade(at=at * 9.0, price=100.0 + at, trade_id=at + 1) for at in range(5)]
    _, outcomes, _ = heard(model, rows, 5)
    assert [event.value for event in outcomes] == [math.log((102 + at) / (100 + at)) for at in range(3)]


def test_a_horizon_of_rows_counts_bars() -> None:
    model = msgspec.structs.replace(SIMPLE, horizon="2b", features=("bars:close",))
    rows = [trade(at=at, price=100.0 + at, trade_id=at + 1) for at in range(6)]
    predictions, outcomes, _ = heard(model, rows, 6)
    assert [event.timestamp for event in predictions] == [START + at * SECOND for at in range(1, 6)]
    assert [event.value for event in outcomes] == [math.log((103 + at) / (101 + at)) for at in range(3)]


@pytest.mark.parametrize(("missing", "asked", "imputed"), [("skip", 3, 0), ("last", 3, 0), ("mean", 6, 3)])
def test_what_is_not_finite_reaches_no_model(missing: Any, asked: int, imputed: int) -> None:
    model = msgspec.structs.replace(SIMPLE, missing=missing, features=("slow:mid", "quick:price"))
    rows = [trade(at=at, price=100.0, trade_id=at + 1) for at in range(3)]  # there is no mid yet
    rows += [quote(at=2.5), *(trade(at=at, price=100.0, trade_id=at + 1) for at in (3, 4))]
    rows += [quote(at=4.5), trade(at=5, price=100.0, trade_id=6)]
    predictions, _, fold = heard(model, rows, 4)
    (standing,) = stage_of(fold).standings()
    assert (len(predictions), standing.imputed) == (asked, imputed)
    assert standing.skipped["not finite"] == 6 - asked
    assert all(np.isfinite(event.value) for event in predictions)


def test_a_mid_that_is_too_old_is_nothing_to_measure_from() -> None:
    rows = [quote(at=0), *(trade(at=at, price=100.0, trade_id=at + 1) for at in range(1, 6))]
    predictions, _, fold = heard(SIMPLE, rows, 3)
    assert [event.timestamp for event in predictions] == [START + SECOND, START + 2 * SECOND]
    assert stage_of(fold).standings()[0].skipped["no price"] == 3


def test_a_ledger_that_is_full_asks_no_more_and_says_so() -> None:
    rows = [trade(at=at * 0.1, price=100.0, trade_id=at + 1) for at in range(60)]
    predictions, outcomes, fold = heard(SIMPLE, rows, 16, ModelsConfig(run=(), ledger_rows=16))
    (standing,) = stage_of(fold).standings()
    assert standing.waiting <= 16
    assert standing.skipped["ledger full"] == 60 - len(predictions) > 0
    assert len(outcomes) == len(predictions) - standing.waiting


def test_history_is_learned_from_and_not_scored() -> None:
    fold = fold_of(SIMPLE)
    fold._mute(True)
    fold.push(block_of(fold.keys, [trade(at=at, price=100.0 + at % 3, trade_id=at + 1) for at in range(50)]))
    (before,) = stage_of(fold).standings()
    assert before.versions[0].learned > 0
    assert not before.versions[0].score.any()
    fold._mute(False)
    fold.push(block_of(fold.keys, [trade(at=at, price=100.0 + at % 3, trade_id=at + 1) for at in range(50, 90)]))
    (after,) = stage_of(fold).standings()
    assert after.versions[0].score.any()


def test_keys_do_not_touch_one_another() -> None:
    both, alone = fold_of(SIMPLE), fold_of(SIMPLE)
    mine = [trade(BTC, at, price=100.0 + at % 7, trade_id=at + 1) for at in range(40)]
    other = [trade(("x", "ETH/USDT"), at, price=50.0 + at % 3, trade_id=at + 1) for at in range(40)]
    both.push(block_of(both.keys, [row for pair in zip(mine, other, strict=True) for row in pair]))
    alone.push(block_of(alone.keys, mine))
    names = ("score", "learned", "memory")
    first, second = (stage_of(fold).standings()[0].versions[0] for fold in (both, alone))
    assert all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)
