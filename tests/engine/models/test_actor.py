"""Champion, challengers and what decides between them, through the fold: the same bits for every cut and after every restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.block import Block, Keys
from engine.capture import Capture, restore
from engine.config import Config
from engine.errors import ConfigError
from engine.events import Command, Drift, HandlerFailed, Outcome, Parked, Prediction, Promotion, Resumed
from engine.fold import Fold
from engine.models.settings import ModelConfig, ModelsConfig, SplitConfig
from engine.models.spec import resolve_model
from engine.models.stage import ModelStage
from engine.state import KeyState
from replay.driver import build_fold
from tests.folding import BTC, VIEWS, block_of, cut, listener, trade

KEY = " ".join((":".join(BTC),))
WRONG = {"algorithm": "scaled_logistic", "lr": 1e-9}
"""It learns next to nothing: 50 % for ever."""
RIGHT = {"algorithm": "scaled_logistic", "lr": 0.05}
MODEL = ModelConfig(
    features=("quick:price", "quick:mean_3"),
    algorithm=WRONG,
    challengers=(RIGHT,),
    target="up_down",
    horizon="1t",
    warm_up=20,
    fee_bps=0.0,
    on_drift="report",
)


def fold_of(*models: ModelConfig, strategies: Any = (), report: Any = None, begins: bool = True) -> Fold:
    specs = [resolve_model(f"m{at}", model) for at, model in enumerate(models)]
    config = msgspec.structs.replace(Config(), models=ModelsConfig(run=(), arms_max=4))
    return build_fold(
        config, strategies, views=VIEWS, keys=Keys(), digests=True, models=specs, report=report, begins=begins
    )


def stage_of(fold: Fold) -> ModelStage:
    assert fold.models is not None
    return fold.models


def zigzag(count: int, *, seed: int = 1, turn: int | None = None) -> list[dict[str, Any]]:
    """Trades whose price mostly turns back, so that the price itself tells where it goes; from `turn` on at ten times the level."""
    random = np.random.default_rng(seed)
    rows, up = [], True
    for at in range(count):
        up = (not up) if random.random() < 0.9 else up
        level = 100.0 if turn is None or at < turn else 1_000.0
        rows.append(trade(at=at, price=level + (1.0 if up else -1.0) + 0.01 * random.random(), trade_id=at + 1))
    return rows


def pushed(fold: Fold, block: Block, size: int) -> Fold:
    for part in cut(block, size):
        fold.push(part)
    return fold


def of(events: list[Any], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def tell(fold: Fold, verb: Any, target: str) -> None:
    now = fold.now()
    fold.input(Command(verb, target, now, now))


def test_the_better_challenger_becomes_champion_by_evidence_and_is_served() -> None:
    reports: list[Any] = []
    fold = fold_of(MODEL, report=reports.append)
    ear_rows = block_of(fold.keys, zigzag(3_000))
    pushed(fold, ear_rows, 100)
    (promotion,) = of(reports, Promotion)
    assert (promotion.from_version, promotion.to_version) == ("1", "2")
    assert promotion.reason.startswith("E ")
    (standing,) = stage_of(fold).standings()
    assert (standing.champion, standing.served, standing.promotions) == ("2", "2", 1)
    assert [version.role for version in standing.versions] == ["previous", "champion"]
    latest = stage_of(fold).latest("m0", *BTC)
    assert latest is not None
    assert (latest.version, latest.classes) == ("2", ("down", "up"))
    assert max(latest.probabilities) > 0.7


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_promotions_drifts_and_challengers_are_the_same_for_every_cut(size: int) -> None:
    drifting = msgspec.structs.replace(MODEL, on_drift="challenger")
    results = []
    for each in (250, size):
        reports: list[Any] = []
        fold = fold_of(drifting, MODEL, report=reports.append)
        pushed(fold, block_of(fold.keys, zigzag(6_000, turn=3_000)), each)
        results.append((fold.digest(), [e for e in reports if isinstance(e, Promotion | Drift)]))
    assert of(results[0][1], Drift)
    assert of(results[0][1], Promotion)
    assert any(drift.started for drift in of(results[0][1], Drift))
    assert results[0] == results[1]


def test_what_subscribers_hear_is_in_order_and_the_same_for_every_cut() -> None:
    heard = []
    for size in (1, 64):
        ear = listener("quick", Prediction, Outcome, Promotion)
        ear.on_prediction = ear.on_outcome = ear.hear  # type: ignore[method-assign]
        fold = fold_of(MODEL, strategies=[ear])
        pushed(fold, block_of(fold.keys, zigzag(400)), size)
        heard.append([(type(event).__name__, event.sequence) for event in ear.heard])
    assert heard[0] == heard[1]
    at = heard[0].index(("Prediction", 300))
    assert [name for name, _ in heard[0][at - 2 : at + 1]] == ["FeatureEvent", "Outcome", "Prediction"]


@pytest.mark.parametrize("after", [1, 37, 1_500, 4_321])
def test_a_restart_at_any_input_goes_on_to_the_same_bits(after: int) -> None:
    drifting = msgspec.structs.replace(MODEL, on_drift="challenger")
    whole = fold_of(drifting, MODEL)
    rows = zigzag(5_000, turn=2_500)
    pushed(whole, block_of(whole.keys, rows), 300)

    first = fold_of(drifting, MODEL)
    pushed(first, block_of(first.keys, rows[:after]), 50)
    keys: list[KeyState] = []
    capture = Capture(first, keys.append)
    while capture.step():
        pass
    again = fold_of(drifting, MODEL, begins=False)
    restore(again, capture.state, keys)
    assert again.digest() == first.digest()
    pushed(again, block_of(again.keys, rows[after:]), 77)
    assert again.digest() == whole.digest()


def test_a_capture_holds_what_was_while_the_fold_goes_on() -> None:
    rows = zigzag(2_000)
    first = fold_of(MODEL)
    pushed(first, block_of(first.keys, rows[:1_000]), 50)
    at_once = first.digest()
    keys: list[KeyState] = []
    capture = Capture(first, keys.append)
    pushed(first, block_of(first.keys, rows[1_000:]), 50)
    while capture.step():
        pass
    again = fold_of(MODEL, begins=False)
    restore(again, capture.state, keys)
    assert again.digest() == at_once


# Commands ---------------------------------------------------------------------------------------------------------------------


def test_promote_rollback_and_pin_are_inputs_that_are_obeyed() -> None:
    reports: list[Any] = []
    fold = fold_of(MODEL, report=reports.append)
    rows = zigzag(3_000)
    pushed(fold, block_of(fold.keys, rows[:10]), 10)
    tell(fold, "promote", "m0@2")
    assert stage_of(fold).standings()[0].champion == "2"
    tell(fold, "rollback", f"m0 {KEY}")
    assert stage_of(fold).standings()[0].champion == "1"
    tell(fold, "pin", "m0")
    pushed(fold, block_of(fold.keys, rows[10:]), 100)
    assert [(p.from_version, p.to_version) for p in of(reports, Promotion)] == [("1", "2"), ("2", "1")]
    (standing,) = stage_of(fold).standings()
    assert (standing.champion, standing.is_pinned) == ("1", True)
    assert standing.versions[1].e_value > standing.versions[1].threshold  # the evidence is there, and waits
    tell(fold, "unpin", "m0")
    pushed(
        fold,
        block_of(fold.keys, [trade(at=3_000 + at, price=101.0 - at % 2, trade_id=3_001 + at) for at in range(9)]),
        3,
    )
    assert stage_of(fold).standings()[0].champion == "2"


def test_promotion_by_hand_only_waits_for_a_hand() -> None:
    fold = fold_of(msgspec.structs.replace(MODEL, promote="manual"))
    pushed(fold, block_of(fold.keys, zigzag(3_000)), 100)
    assert stage_of(fold).standings()[0].champion == "1"


@pytest.mark.parametrize(
    ("verb", "target", "said"),
    [
        ("promote", "m9@2", "expected one of m0"),
        ("promote", "m0", "expected MODEL@VERSION"),
        ("promote", "m0@9", "runs the versions 1, 2"),
        ("rollback", "m0 x:ETH/USDT", "no model of x:ETH/USDT; there are x:BTC/USDT"),
    ],
)
def test_a_command_that_cannot_be_obeyed_is_no_input(verb: Any, target: str, said: str) -> None:
    fold = fold_of(MODEL)
    pushed(fold, block_of(fold.keys, zigzag(3)), 3)
    before = fold.ingress.next_sequence
    with pytest.raises(ConfigError, match=said):
        tell(fold, verb, target)
    assert fold.ingress.next_sequence == before


def test_a_split_serves_another_version_on_its_share_of_the_symbols() -> None:
    split = msgspec.structs.replace(MODEL, split=SplitConfig(version="2", share=0.4), promote="manual")
    fold = fold_of(split)
    keys = [("x", f"S{at}/USDT") for at in range(60)]
    fold.push(block_of(fold.keys, [trade(key, 1.0, trade_id=1) for key in keys]))
    served = [standing.served for standing in stage_of(fold).standings()]
    assert {standing.champion for standing in stage_of(fold).standings()} == {"1"}
    assert 12 <= served.count("2") <= 36
    prediction = stage_of(fold).latest("m0", *keys[served.index("2")])
    assert prediction is not None
    assert prediction.version == "2"


# What is wrong ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features": ("none:price",)}, "none:price: that view is not computed; there are quick, slow, bars"),
        ({"features": ("quick:close",)}, "quick has no feature 'close'; it has price, mean_3, sum_10s"),
        ({"features": ("quick:price", "bars:close")}, "bars and quick are on different clocks"),
        ({"target": "log_return"}, "predicts"),
    ],
)
def test_a_model_that_cannot_be_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fold_of(msgspec.structs.replace(MODEL, **change))


CUSTOM = """
def label(reference, outcome, spread_bps, variance):
    if outcome > 101.0:
        raise ValueError("too high")
    return float("nan") if outcome < 99.0 else outcome - reference
"""


def test_a_custom_target_labels_voids_and_fails_by_itself(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CUSTOM)
    custom = ModelConfig(
        features=("quick:price",), algorithm={"algorithm": "scaled_linear", "optimizer": "nlms"}, horizon="1t",
        target=f"{tmp_path / 'mine.py'}:label", warm_up=0,
    )  # fmt: skip
    results = []
    for size in (1, 5):
        ear = listener(Outcome)
        ear.on_outcome = ear.hear  # type: ignore[method-assign]
        reports: list[Any] = []
        fold = fold_of(custom, strategies=[ear], report=reports.append)
        prices = [100.0, 100.5, 102.0, 98.0, 100.0]
        rows = [trade(at=at, price=price, trade_id=at + 1) for at, price in enumerate(prices)]
        pushed(fold, block_of(fold.keys, rows), size)
        assert [failure.handler for failure in of(reports, HandlerFailed)] == ["label"]
        results.append(([repr(event.value) for event in ear.heard], fold.digest()))
    assert results[0] == results[1]
    assert results[0][0] == ["0.5", "nan", "nan", "2.0"]


# One contest for all keys -----------------------------------------------------------------------------------------------------

POOLED = msgspec.structs.replace(MODEL, pooled=True, pairs_min=50)
KEYS = [("x", f"{name}/USDT") for name in "ABCD"]


def zigzags(count: int) -> list[dict[str, Any]]:
    """The same as `zigzag` on four keys, one after the other at each second."""
    tapes = [zigzag(count, seed=seed) for seed in range(len(KEYS))]
    rows = [{**row, "key": key} for rows in zip(*tapes, strict=True) for key, row in zip(KEYS, rows, strict=True)]
    return rows


def test_a_pooled_contest_promotes_on_all_symbols_at_once_and_a_late_symbol_joins() -> None:
    reports: list[Any] = []
    fold = fold_of(POOLED, report=reports.append)
    pushed(fold, block_of(fold.keys, zigzags(1_500)), 64)
    promotions = of(reports, Promotion)
    assert sorted((one.exchange, one.symbol) for one in promotions) == KEYS
    assert len({one.sequence for one in promotions}) == 1
    late = ("x", "E/USDT")
    fold.push(block_of(fold.keys, [trade(late, 1_600.0, trade_id=1)]))
    assert {standing.champion for standing in stage_of(fold).standings()} == {"2"}


@pytest.mark.parametrize("size", [1, 5, 512])
def test_a_pooled_contest_is_the_same_for_every_cut_and_after_a_restart(size: int) -> None:
    rows = zigzags(1_500)
    whole = fold_of(POOLED)
    pushed(whole, block_of(whole.keys, rows), 100)
    assert {standing.champion for standing in stage_of(whole).standings()} == {"2"}
    first = fold_of(POOLED)
    pushed(first, block_of(first.keys, rows[:1_111]), size)
    keys: list[KeyState] = []
    capture = Capture(first, keys.append)
    while capture.step():
        pass
    again = fold_of(POOLED, begins=False)
    restore(again, capture.state, reversed(keys))
    assert again.digest() == first.digest()
    pushed(again, block_of(again.keys, rows[1_111:]), size)
    assert again.digest() == whole.digest()


def test_a_pooled_contest_hears_of_its_pairs_in_order_whoever_admits_the_block() -> None:
    rows = zigzags(1_500)
    pushed_, taken = fold_of(POOLED), fold_of(POOLED)
    pushed(pushed_, block_of(pushed_.keys, rows), 1)
    block = block_of(taken.keys, rows)
    taken.open_keys()
    for part in cut(block, 256):  # as live: admitted, journaled, then folded
        taken.take(taken.ingress.admit(part))
    assert taken.digest() == pushed_.digest()


def test_the_pin_of_a_pooled_model_holds_for_symbols_that_come_later_and_after_a_restart() -> None:
    rows = zigzags(1_500)
    fold = fold_of(POOLED)
    pushed(fold, block_of(fold.keys, rows[:20]), 20)
    tell(fold, "pin", f"m0 {':'.join(KEYS[0])}")
    keys: list[KeyState] = []
    capture = Capture(fold, keys.append)
    while capture.step():
        pass
    again = fold_of(POOLED, begins=False)
    restore(again, capture.state, keys)
    for one in (fold, again):
        one.push(block_of(one.keys, [trade(("x", "E/USDT"), 6.0, trade_id=1)]))
        pushed(one, block_of(one.keys, rows[20:]), 100)
        standings = stage_of(one).standings()
        assert {(standing.champion, standing.is_pinned) for standing in standings} == {("1", True)}
    assert fold.digest() == again.digest()


def test_a_pooled_model_is_promoted_by_hand_on_all_symbols() -> None:
    fold = fold_of(POOLED)
    pushed(fold, block_of(fold.keys, zigzags(5)), 20)
    tell(fold, "promote", "m0@2")
    assert {standing.champion for standing in stage_of(fold).standings()} == {"2"}
    tell(fold, "rollback", "m0")
    assert {standing.champion for standing in stage_of(fold).standings()} == {"1"}


# A failing model --------------------------------------------------------------------------------------------------------------

FRAIL = """
class Frail:
    def learn_one(self, x, y):
        pass

    def predict_one(self, x):
        if x["quick:price"] > 100.0:
            raise ValueError("cannot stand it")
        return 1.0


def frail():
    return Frail()
"""


@pytest.mark.parametrize("size", [1, 4, 50])
def test_a_model_that_raises_says_nothing_is_parked_and_resumed_by_command(tmp_path: Path, size: int) -> None:
    (tmp_path / "frail.py").write_text(FRAIL)
    model = ModelConfig(
        features=("quick:price",), algorithm={"factory": f"{tmp_path / 'frail.py'}:frail"}, horizon="1t", warm_up=0,
        target="log_return", place="loop",
        challengers=({"algorithm": "scaled_linear"},),
    )  # fmt: skip
    reports: list[Any] = []
    fold = fold_of(model, report=reports.append)
    prices = [100.0, 100.0, 101.0, 100.0, *[101.0] * 6, 100.0, 100.0]
    rows = [trade(at=at, price=price, trade_id=at + 1) for at, price in enumerate(prices)]
    pushed(fold, block_of(fold.keys, rows), size)
    failures, name = of(reports, HandlerFailed), f"m0@1 {KEY}"
    assert [(f.actor, f.handler, f.sequence, f.in_a_row) for f in failures] == [
        (name, "predict", at, row) for at, row in ((3, 1), (5, 1), (6, 2), (7, 3), (8, 4), (9, 5))
    ]
    (parked,) = of(reports, Parked)
    assert (parked.actor, parked.sequence) == (name, 9)
    (standing,) = stage_of(fold).standings()
    assert (standing.predictions, standing.versions[0].parked != "", standing.versions[1].parked) == (3, True, "")
    tell(fold, "resume", name)
    assert [event.actor for event in of(reports, Resumed)] == [name]
    pushed(fold, block_of(fold.keys, [trade(at=50.0, price=100.0, trade_id=13)]), 1)
    assert stage_of(fold).standings()[0].predictions == 4
