"""Matured predictions as Parquet: every version's, once, whole, whatever the disk does; and nothing is dropped in silence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import polars
import pyarrow.parquet as pq
import pytest

from engine.block import Keys
from engine.config import Config
from engine.events import Outcome, Prediction
from engine.models.arm import Batch
from engine.models.layout import (
    HEAD,
    IS_MID,
    IS_READY,
    LABEL,
    MADE,
    OUTCOME,
    OUTCOME_RECEIVED,
    OUTCOME_SEQUENCE,
    OUTCOME_TIMESTAMP,
    REFERENCE,
    RESOLVED,
    SEQUENCE,
    SERVED,
    SPREAD,
    STATUS,
    STEP,
    TIMESTAMP,
    VOID,
    Layout,
)
from engine.models.settings import ModelConfig, ModelsConfig
from engine.models.spec import ModelSpec, resolve_model
from replay.driver import build_fold
from store.prediction_columns import SCHEMA
from store.predictions import DAY_NS, PredictionWriter
from tests.folding import BTC, VIEWS, block_of, cut, listener, trade
from tests.journaling import wait_for

DAY = 19_943 * DAY_NS  # 2024-08-08
S = 1_000_000_000
FEATURES = ("quick:price",)
CLASSES = resolve_model("side", ModelConfig(FEATURES, {"algorithm": "scaled_softmax"}, target="direction"))
VALUES = resolve_model(
    "moved", ModelConfig(FEATURES, {"algorithm": "scaled_linear"}, target="log_return", horizon="5s")
)


def batch_of(spec: ModelSpec, first: int, said: list[list[list[float]]], *, at: int = DAY, void: bool = False) -> Batch:
    """Answers of predictions made a second apart. said: by row, by arm, outputs and threshold; [] where an arm said nothing."""
    layout = Layout(1, spec.target.outputs, 2, len(said[0]))
    ledger = np.full((len(said) + 1, layout.width), math.nan)
    ids = ledger.view(np.int64)
    for slot, arms in enumerate(said):
        made = at + slot * S
        ids[slot, [SEQUENCE, TIMESTAMP, MADE, STATUS]] = first + slot, made - 5, made, VOID if void else RESOLVED
        ids[slot, [IS_MID, IS_READY, SERVED]] = 1, 1, 0
        ids[slot, [OUTCOME_TIMESTAMP, OUTCOME_RECEIVED, OUTCOME_SEQUENCE]] = made + S - 5, made + S, first + slot + 10
        ledger[slot, [REFERENCE, SPREAD]] = 100.0, 0.5
        if not void:
            ledger[slot, [OUTCOME, LABEL]] = 101.0, 2.0 if spec.target.classes else math.log(1.01)
        ledger[slot, HEAD] = 7.0
        for arm, numbers in enumerate(arms):
            ledger[slot, layout.out_at(arm) : layout.out_at(arm) + len(numbers)] = numbers
    return Batch(layout, ledger, ids, np.zeros((0, STEP), np.int64), np.arange(len(said)))


def value(number: float) -> list[list[float]]:
    return [[number, math.inf]]


class Written:
    """A folder, the writers that had it, and what they told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        self.writers: list[PredictionWriter] = []

    def writer(self, **options: Any) -> PredictionWriter:
        writer = PredictionWriter(self.folder, lambda spec: f"hash of {spec.name}", tell=self.told.append, **options)
        self.writers.append(writer)
        return writer

    def started(self, **options: Any) -> PredictionWriter:
        writer = self.writer(**options)
        writer.start()
        return writer

    def rows(self, model: str = "*") -> list[dict[str, Any]]:
        files = sorted(self.folder.glob(f"{model}/*.parquet"))
        return [row for path in files for row in pq.ParquetFile(path).read().to_pylist()]

    def sequences(self, model: str = "*") -> list[int]:
        return [row["sequence"] for row in self.rows(model)]

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    found = Written(tmp_path / "predictions")
    yield found
    for writer in found.writers:
        writer.stop()


def test_what_each_version_said_about_classes_is_a_row_with_its_outcome(written: Written) -> None:
    writer = written.started()
    said = [[[0.2, 0.3, 0.5, 0.6], [0.1, 0.2, 0.7, math.inf], []], [[0.6, 0.3, 0.1, 0.75], [], []]]
    writer.matured(CLASSES, BTC, batch_of(CLASSES, 40, said), ("1", "4", ""))
    assert writer.flush(20.0)
    first, second, third = written.rows("side")
    assert first == {
        "sequence": 40, "model": "side", "version": "1", "role": "served", "schema": "hash of side", "exchange": BTC[0],
        "symbol": BTC[1], "made": DAY, "timestamp": DAY - 5, "target": "direction", "horizon": "60s", "is_ready": True,
        "probabilities": [0.2, 0.3, 0.5], "class_set": ["up"], "value": None, "low": None, "high": None, "reference": 100.0,
        "is_mid": True, "spread_bps": 0.5, "outcome": 101.0, "outcome_timestamp": DAY + S - 5, "outcome_received": DAY + S,
        "outcome_sequence": 50, "label": 2.0, "label_class": "up", "is_void": False,
    }  # fmt: skip
    assert (second["sequence"], second["version"], second["role"], second["class_set"]) == (40, "4", "shadow", None)
    assert (third["sequence"], third["class_set"]) == (41, ["down", "flat"])
    assert written.names() == ["side/2024-08-08-00000000000000000040.parquet"]


def test_what_was_said_of_a_value_has_an_interval_and_a_void_one_no_outcome(written: Written) -> None:
    writer = written.started()
    writer.matured(VALUES, BTC, batch_of(VALUES, 1, [[[0.01, 0.5]], [[0.02, math.inf]]]), ("1",))
    writer.matured(VALUES, BTC, batch_of(VALUES, 3, [[[0.03, 0.5]]], at=DAY + 9 * S, void=True), ("1",))
    assert writer.flush(20.0)
    first, second, third = written.rows("moved")
    assert (first["value"], first["low"], first["high"]) == (0.01, -0.49, 0.51)
    assert (first["probabilities"], first["class_set"], first["label_class"]) == (None, None, None)
    assert (second["value"], second["low"], second["high"]) == (0.02, None, None)
    assert (third["is_void"], third["outcome"], third["label"]) == (True, None, None)


def test_duckdb_and_polars_read_all_models_as_they_lie(written: Written) -> None:
    writer = written.started()
    writer.matured(CLASSES, BTC, batch_of(CLASSES, 1, [[[0.2, 0.3, 0.5, 0.6]]] * 3), ("1",))
    writer.matured(VALUES, BTC, batch_of(VALUES, 1, [value(0.5)] * 2), ("1",))
    assert writer.flush(20.0)
    pattern = str(written.folder / "*" / "*.parquet")
    asked = (
        duckdb.connect()
        .execute(
            f"select model, count(*), avg((argmax = label_class)::int) from "
            f"(select *, ['down', 'flat', 'up'][list_position(probabilities, list_max(probabilities))] as argmax from '{pattern}') "
            "group by model order by model"
        )
        .fetchall()
    )
    assert asked == [("moved", 2, None), ("side", 3, 1.0)]
    frame = polars.read_parquet(pattern)
    assert frame.columns == SCHEMA.names
    assert frame.filter(polars.col("model") == "side")["probabilities"].list.max().to_list() == [0.5] * 3


def test_a_file_grows_until_it_is_full_and_days_do_not_mix(written: Written) -> None:
    writer = written.started(file_rows=3)
    for first, rows, at in (
        (1, 1, DAY),
        (2, 1, DAY + S),
        (3, 2, DAY + 2 * S),
        (5, 1, DAY + 5 * S),
        (6, 2, DAY + DAY_NS - S),
    ):
        writer.matured(VALUES, BTC, batch_of(VALUES, first, [value(0.1)] * rows, at=at), ("1",))
        assert writer.flush(20.0)
    assert written.names() == [
        "moved/2024-08-08-00000000000000000001.parquet",
        "moved/2024-08-08-00000000000000000005.parquet",
        "moved/2024-08-09-00000000000000000007.parquet",
    ]
    assert written.sequences() == [1, 2, 3, 4, 5, 6, 7]
    assert writer.rows == 7


def test_time_that_passes_on_the_market_has_a_file_written(written: Written) -> None:
    writer = written.started(every_s=10.0)
    for at in range(12):
        writer.matured(VALUES, BTC, batch_of(VALUES, at + 1, [value(0.1)], at=DAY + at * S), ("1",))
    wait_for(lambda: len(written.sequences()) >= 11)


def test_what_was_written_before_a_restart_is_not_written_again(written: Written) -> None:
    first = written.started()
    first.matured(VALUES, BTC, batch_of(VALUES, 1, [value(0.1)] * 3), ("1",))
    first.matured(VALUES, ("binance", "ETH/USDT"), batch_of(VALUES, 11, [value(0.1)]), ("1",))
    first.stop()
    second = written.started()
    second.matured(VALUES, BTC, batch_of(VALUES, 2, [value(0.1)] * 4, at=DAY + S), ("1",))
    second.matured(VALUES, ("binance", "ETH/USDT"), batch_of(VALUES, 12, [value(0.1)], at=DAY + S), ("1",))
    second.stop()
    assert sorted(written.sequences()) == [1, 2, 3, 4, 5, 11, 12]
    assert second.repeated == 2
    third = written.started()  # another journal, later, that counts from 1 again
    third.matured(VALUES, BTC, batch_of(VALUES, 1, [value(0.1)], at=DAY + 100 * S), ("1",))
    third.stop()
    assert sorted(written.sequences()) == [1, 1, 2, 3, 4, 5, 11, 12]
    assert written.told == []


def test_a_full_queue_is_counted_and_told_of_when_it_begins_and_when_it_ends(written: Written) -> None:
    writer = written.writer(queue_rows=5)
    for at in range(4):  # nobody takes them yet
        writer.matured(VALUES, BTC, batch_of(VALUES, 2 * at + 1, [value(0.1)] * 2, at=DAY + 2 * at * S), ("1",))
    assert writer.dropped == 4
    assert len(written.told) == 1
    assert "behind by 4 predictions" in written.told[0]
    writer.start()
    assert writer.flush(20.0)
    writer.matured(VALUES, BTC, batch_of(VALUES, 9, [value(0.1)], at=DAY + 8 * S), ("1",))
    writer.stop()
    assert written.told[1:] == [f"{written.folder}: writing again; 4 predictions were dropped so far"]
    assert written.sequences() == [1, 2, 3, 4, 9]


def test_a_writer_that_waits_drops_nothing(written: Written) -> None:
    writer = written.started(queue_rows=4, waits=True)
    for at in range(50):
        writer.matured(VALUES, BTC, batch_of(VALUES, 3 * at + 1, [value(0.1)] * 3, at=DAY + 3 * at * S), ("1",))
    writer.stop()
    assert (writer.dropped, len(written.sequences())) == (0, 150)


def test_what_the_disk_refuses_is_kept_told_of_and_written_later(written: Written) -> None:
    written.folder.mkdir()
    (written.folder / "moved").write_text("no folder")
    writer = written.started(queue_rows=4)
    writer.matured(VALUES, BTC, batch_of(VALUES, 1, [value(0.1)]), ("1",))
    assert not writer.flush(20.0)
    assert "cannot be written" in written.told[0]
    writer.matured(VALUES, BTC, batch_of(VALUES, 2, [value(0.1)] * 4, at=DAY + S), ("1",))
    writer.matured(VALUES, BTC, batch_of(VALUES, 6, [value(0.1)], at=DAY + 5 * S), ("1",))
    assert not writer.flush(20.0)
    assert (writer.failures, writer.dropped) == (2, 1)
    (written.folder / "moved").unlink()
    assert writer.flush(20.0)
    assert writer.error == ""
    assert written.sequences() == [1, 2, 3, 4, 5]
    assert written.told[-1] == f"{written.folder}: written to again"


def test_what_the_disk_refuses_to_the_end_is_counted_as_dropped(written: Written) -> None:
    written.folder.mkdir()
    (written.folder / "moved").write_text("no folder")
    writer = written.started()
    writer.matured(VALUES, BTC, batch_of(VALUES, 1, [value(0.1)] * 3), ("1",))
    writer.stop()
    assert writer.dropped == 3
    assert "3 predictions could not be written and are lost" in written.told[-1]


def test_what_a_killed_writer_left_is_removed_and_what_is_no_file_of_ours_is_told_of(written: Written) -> None:
    folder = written.folder / "moved"
    folder.mkdir(parents=True)
    (folder / "2024-08-08-00000000000000000001.parquet.tmp").write_bytes(b"half")
    (folder / "2024-08-07-00000000000000000001.parquet").write_bytes(b"torn")
    writer = written.started()
    assert writer.flush(20.0)
    assert written.names() == ["moved/2024-08-07-00000000000000000001.parquet"]
    assert "cannot be read" in written.told[0]


def test_the_fold_does_not_wait_for_the_thread(written: Written) -> None:
    """The arrays are the fold's again at once: what is written is what they held when they were handed over."""
    writer = written.writer()
    batch = batch_of(VALUES, 1, [value(0.25)])
    writer.matured(VALUES, BTC, batch, ("1",))
    batch.ledger[:] = math.nan
    writer.start()
    writer.stop()
    assert [row["value"] for row in written.rows()] == [0.25]


MODEL = ModelConfig(
    features=("quick:price", "quick:mean_3"), algorithm={"algorithm": "scaled_logistic"},
    challengers=({"algorithm": "scaled_logistic", "lr": 0.05},), target="up_down", horizon="3t", warm_up=20,
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 50])
def test_all_that_a_fold_predicts_and_hears_of_is_there_once(written: Written, size: int) -> None:
    ear = listener("quick", Prediction, Outcome)
    ear.on_prediction = ear.on_outcome = ear.hear  # type: ignore[method-assign]
    fold = build_fold(
        msgspec.structs.replace(Config(), models=ModelsConfig(run=(), arms_max=4)), [ear], views=VIEWS, keys=Keys(),
        models=[resolve_model("zigzag", MODEL)],
    )  # fmt: skip
    writer = written.started(waits=True)
    assert fold.models is not None
    fold.models.matured = writer.matured
    random = np.random.default_rng(1)
    rows = [trade(at=at, price=100.0 + at % 2 + random.random(), trade_id=at + 1) for at in range(300)]
    for block in cut(block_of(fold.keys, rows), size):
        fold.push(block)
    writer.stop()
    outcomes = {event.prediction_sequence: event for event in ear.heard if isinstance(event, Outcome)}
    served = {row["sequence"]: row for row in written.rows() if row["role"] == "served"}
    shadow = [row for row in written.rows() if row["role"] == "shadow"]
    assert len(outcomes) > 200
    assert outcomes.keys() <= served.keys()
    for sequence, event in outcomes.items():
        assert served[sequence]["outcome_received"] == event.received
    assert {row["version"] for row in served.values()} == {"1"}
    assert {row["version"] for row in shadow} == {"2"}
    assert len(shadow) == len(served)
