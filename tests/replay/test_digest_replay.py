"""`tickfold replay` gives one digest for one recording: whatever the hash seed, the cut of the files, the size of the rings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import inside
from tests.daemons import command
from tests.folding import LTC, QUOTES, TRADES

# Inputs of the recording that comes with tickfold. Change it only where the recording, the decoder or INTERFACES ("Digest") changed.
BUILT_IN_INPUTS = "6b6da8bd6aa01734b8cae44e6bad2ed6d1f6682aca646ce79a22b724224f6b3b"
PARTS = ("inputs", "features", "predictions", "signals", "state")
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@cache
def replay(*sources: Path, options: tuple[str, ...] = (), seed: str | None = None, **settings: str) -> dict[str, Any]:
    """What `tickfold replay SOURCE... --digest --json` says: with a hash seed in a process of its own, else in this one."""
    words: tuple[str | Path, ...] = ("replay", *sources, "--digest", "--json", *options)
    if seed is None:
        done = inside(*words, cwd=TRADES.parent, **settings)
    else:
        done = command(*words, cwd=TRADES.parent, PYTHONHASHSEED=seed, **settings)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def differing(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    return [name for name in PARTS if left["digest"][name] != right["digest"][name]]


def pieces(folder: Path, table: pa.Table, name: str, edges: Sequence[int]) -> list[Path]:
    paths = []
    for number, (first, end) in enumerate(zip([0, *edges], [*edges, len(table)], strict=True)):
        paths.append(folder / f"{name}{number}.parquet")
        pq.write_table(table.slice(first, end - first), paths[-1])
    return paths


def test_the_answer_has_the_documented_form() -> None:
    said = replay(QUOTES, TRADES)
    assert sorted(said) == ["digest", "inputs", "sequence"]
    assert tuple(said["digest"]) == PARTS
    assert all(len(value) == 64 and int(value, 16) >= 0 for value in said["digest"].values())
    assert said["inputs"] == said["sequence"] == 32_275
    assert EMPTY not in said["digest"].values()


def test_without_models_the_digest_of_predictions_is_that_of_nothing() -> None:
    said, other = replay(QUOTES, TRADES, TICKFOLD_MODELS__RUN="[]"), replay(QUOTES, TRADES)
    assert said["digest"]["predictions"] == EMPTY
    assert differing(said, other) == ["predictions", "state"]


@pytest.mark.parametrize("sources", [(QUOTES, TRADES), (LTC,)], ids=["quotes and trades", "gaps"])
def test_the_digest_is_the_same_for_every_hash_seed(sources: tuple[Path, ...]) -> None:
    assert replay(*sources, seed="77") == replay(*sources)


def test_files_cut_in_five_give_the_digest_of_the_whole_ones(tmp_path: Path) -> None:
    cut = [
        *pieces(tmp_path, pq.read_table(QUOTES), "quotes", (1, 9_000, 9_001, 20_000)),
        *pieces(tmp_path, pq.read_table(TRADES), "trades", (500, 501, 2_500, 5_999)),
    ]
    assert replay(*cut) == replay(QUOTES, TRADES)


def test_a_file_cut_in_the_middle_of_a_gap_of_ids_gives_the_digest_of_the_whole(tmp_path: Path) -> None:
    table = pq.read_table(LTC)
    behind = (np.flatnonzero(np.diff(table["trade_id"].to_numpy()) > 1) + 1).tolist()
    assert len(behind) == 5
    assert replay(*pieces(tmp_path, table, "ltc", behind)) == replay(LTC)


@pytest.mark.parametrize("rows", ["1", "7", "4096"])
def test_the_digest_is_the_same_for_blocks_of_any_length(rows: str) -> None:
    assert replay(LTC, TICKFOLD_STORE__BLOCK_ROWS=rows) == replay(LTC)
    assert replay(QUOTES, TRADES, TICKFOLD_STORE__BLOCK_ROWS=rows) == replay(QUOTES, TRADES)


def test_the_size_of_the_rings_changes_the_state_and_nothing_else() -> None:
    # `state` covers the rows that are kept for reading (store.ring_rows of them), so more or fewer of them are another state.
    # What is computed does not depend on it, though the ring is also the length of the blocks that are folded at once.
    assert differing(replay(QUOTES, TRADES), replay(QUOTES, TRADES, TICKFOLD_STORE__RING_ROWS="16")) == ["state"]


def test_the_pace_of_a_replay_is_in_no_digest() -> None:
    assert replay(QUOTES, TRADES, options=("--speed", "1000")) == replay(QUOTES, TRADES)


def test_other_strategies_change_the_signals_and_the_state_and_nothing_else() -> None:
    found = differing(replay(QUOTES, TRADES), replay(QUOTES, TRADES, TICKFOLD_STRATEGIES__RUN="moving_average_cross"))
    assert found == ["signals", "state"]


@pytest.mark.parametrize(("column", "row"), [("price", 5_000), ("volume", 0)])
def test_one_bit_of_one_value_gives_another_digest(tmp_path: Path, column: str, row: int) -> None:
    table = pq.read_table(TRADES)
    values = table[column].to_numpy().copy()
    values.view(np.int64)[row] ^= 1
    path = tmp_path / "flipped.parquet"
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(values)), path)
    found = differing(replay(TRADES), replay(path))
    assert {"inputs", "features"} <= set(found), f"only {found} differ"


def test_a_part_of_the_recording_has_another_digest_and_its_two_symbols_add_up() -> None:
    both = replay(TRADES)
    one, other = (replay(TRADES, options=("--symbols", symbol)) for symbol in ("BTC/USDT", "binance:ETH/USDT"))
    assert one["inputs"] + other["inputs"] == both["inputs"]
    assert len({said["digest"]["inputs"] for said in (one, other, both)}) == 3


def test_until_sequence_says_where_it_stopped() -> None:
    said = replay(TRADES, options=("--until-sequence", "1000"))
    assert (said["inputs"], said["sequence"]) == (1000, 1000)


def test_the_built_in_recording_has_the_digest_that_is_written_here_and_the_same_on_every_run() -> None:
    first, second = replay(), replay(seed="77")
    assert first["inputs"] == 37_883
    assert first["digest"]["inputs"] == BUILT_IN_INPUTS
    assert first["digest"] == second["digest"]
    assert first["digest"]["signals"] != EMPTY
