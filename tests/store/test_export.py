"""Sealed segments as Parquet: what was appended, once, whole, whatever was killed on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import store.export
from engine.block import NO_ID, Block, Keys
from engine.errors import JournalCorruptError, JournalError
from replay.sources import open_source
from store.export import QUOTES, TICKS, Exporter
from store.folder import write_atomically
from store.journal_reader import scan
from store.tables import QUOTE_COLUMNS, TICK_COLUMNS
from tests.journaling import block_at, fill, heartbeat_at, keys_of, open_journal, wait_for


@pytest.fixture
def journal(tmp_path: Path) -> tuple[Path, list[Any]]:
    """The folder of a journal of several sealed segments and an open one, and the rows in the sealed ones."""
    folder = tmp_path / "journal"
    with open_journal(folder) as written:
        rows = fill(written, keys_of(3), [30] * 14)
        written.append_event(heartbeat_at(written.next_sequence))
    last = [segment.last_sequence for segment in scan(folder).segments if segment.is_sealed][-1]
    return folder, [row for row in rows if row[0] <= last]


def exported(ticks: Path) -> list[tuple[Any, ...]]:
    """What was exported, as rows of the kind that `tests.journaling` gives, in the order of their sequences."""
    rows: list[tuple[Any, ...]] = []
    for path in sorted(ticks.glob("*.parquet")):
        kind = path.name.partition("-")[0].removesuffix("s").replace("tick", "trade")
        floats = ("price", "volume") if kind == "trade" else ("bid", "bid_volume", "ask", "ask_volume")
        table = pq.read_table(path)
        bits = [table[name].to_numpy().view(np.int64).tolist() for name in floats]
        for row, *values in zip(table.to_pylist(), *bits, strict=True):
            key = row["exchange"], row["symbol"]
            number = row["trade_id" if kind == "trade" else "update_id"]
            times = row["timestamp"], row["received"]
            rows.append((row["sequence"], kind, key, *times, row.get("side", 0), number, *values, row["late"]))
    return sorted(rows)


def test_exports_hold_what_was_appended(journal: tuple[Path, list[Any]], tmp_path: Path) -> None:
    folder, rows = journal
    exporter = Exporter(folder, tmp_path / "ticks")
    sealed = [segment for segment in scan(folder).segments if segment.is_sealed]
    assert exporter.export() == len(sealed) > 2
    assert exported(tmp_path / "ticks") == [row for row in rows if row[1] != "gap"]
    assert exporter.exported == sealed[-1].last_sequence
    assert exporter.rows == len([row for row in rows if row[1] != "gap"])
    names = {path.name for path in (tmp_path / "ticks").glob("*.parquet")}
    assert names == {
        f"{kind}-{segment.first_sequence:020d}-{segment.last_sequence:020d}.parquet"
        for segment in sealed
        for kind in ("ticks", "quotes")
    }


def test_the_columns_are_those_of_tick_and_quote_tables(journal: tuple[Path, list[Any]], tmp_path: Path) -> None:
    Exporter(journal[0], tmp_path / "ticks").export()
    assert TICKS.names == [*TICK_COLUMNS, "late", "sequence"]
    assert QUOTES.names == [*QUOTE_COLUMNS, "late", "sequence"]
    for kind, schema in (("ticks", TICKS), ("quotes", QUOTES)):
        for path in (tmp_path / "ticks").glob(f"{kind}-*.parquet"):
            assert pq.read_schema(path).equals(schema)
            assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"


def test_an_export_is_a_source_of_replays(journal: tuple[Path, list[Any]], tmp_path: Path) -> None:
    folder, rows = journal
    Exporter(folder, tmp_path / "ticks").export()
    keys = Keys()
    blocks: list[Block] = []
    for path in sorted((tmp_path / "ticks").glob("ticks-*.parquet")):
        blocks += open_source(path).blocks(keys)
    block = Block.concatenate(blocks)
    trades = [row for row in rows if row[1] == "trade"]
    assert block.trade_id.tolist() == [row[6] for row in trades]
    assert block.price.view(np.int64).tolist() == [row[7] for row in trades]
    assert block.late.tolist() == [row[-1] for row in trades]
    assert [keys[code] for code in block.key.tolist()] == [row[2] for row in trades]


def test_an_id_that_is_not_there_is_null(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal") as written:
        admitted = block_at(1, 100)
        admitted.block.trade_id[::2] = NO_ID
        written.append(admitted, keys_of(3))
        fill(written, keys_of(3), [100])
    Exporter(tmp_path / "journal", tmp_path / "ticks").export()
    (path,) = (tmp_path / "ticks").glob("ticks-*.parquet")
    ids = pq.read_table(path)["trade_id"]
    is_trade = admitted.block.kind == 0
    assert ids.is_null().to_pylist() == (admitted.block.trade_id[is_trade] == NO_ID).tolist()


def test_a_segment_without_ticks_or_quotes_counts_as_exported(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal") as written:
        for sequence in range(1, 200):
            written.append_event(heartbeat_at(sequence))
    exporter = Exporter(tmp_path / "journal", tmp_path / "ticks")
    exporter.export()
    assert exporter.exported == [s.last_sequence for s in scan(tmp_path / "journal").segments if s.is_sealed][-1]
    assert list((tmp_path / "ticks").glob("*.parquet")) == []
    assert Exporter(tmp_path / "journal", tmp_path / "ticks").export() == 0


def test_what_is_exported_is_not_exported_again(journal: tuple[Path, list[Any]], tmp_path: Path) -> None:
    folder, _ = journal
    ticks = tmp_path / "ticks"
    Exporter(folder, ticks).export()
    before = {path.name: path.stat().st_mtime_ns for path in ticks.glob("*.parquet")}
    again = Exporter(folder, ticks)
    assert again.exported == 0
    assert again.export() == 0
    assert again.exported == [s.last_sequence for s in scan(folder).segments if s.is_sealed][-1]
    with open_journal(folder) as written:
        fill(written, keys_of(3), [30] * 5)
    assert again.export() == again.segments > 0
    assert {name: (ticks / name).stat().st_mtime_ns for name in before} == before


def test_the_files_of_another_journal_are_not_taken_for_this_one(
    journal: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    folder, _ = journal
    Exporter(folder, tmp_path / "ticks").export()
    other = tmp_path / "other"
    with open_journal(other, created=5) as written:
        fill(written, keys_of(3), [30] * 14)
    assert Exporter(other, tmp_path / "ticks").export() > 0


class Killed(BaseException):
    """What a kill is to the code that it hits."""


@pytest.mark.parametrize("step", range(12))
def test_killed_at_any_step_an_export_is_done_again_to_the_same_files(
    journal: tuple[Path, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    folder, rows = journal
    ticks = tmp_path / "ticks"
    left = step
    with monkeypatch.context() as patch:
        # A process that is killed leaves its unfinished files behind, so nothing may tidy up.
        patch.setattr(store.export._File, "__exit__", lambda self, *exception: None)

        def around(real: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return real(*arguments, **options)

            return run

        patch.setattr(store.export._File, "write", around(store.export._File.write))
        patch.setattr(store.export._File, "finish", around(store.export._File.finish))
        patch.setattr(store.export, "write_atomically", around(write_atomically))
        with pytest.raises(Killed):
            Exporter(folder, ticks).export()
    Exporter(folder, ticks).export()
    assert exported(ticks) == [row for row in rows if row[1] != "gap"]
    assert not list(ticks.glob("*.tmp"))


def test_an_error_is_counted_kept_and_tried_again(
    journal: tuple[Path, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows = journal
    exporter = Exporter(folder, tmp_path / "ticks")
    (tmp_path / "ticks").write_text("a file where the folder should be")
    with pytest.raises(JournalError, match="ticks: cannot be exported to: File exists"):
        exporter.export()
    assert (exporter.failures, exporter.exported) == (1, 0)
    assert "File exists" in exporter.error
    (tmp_path / "ticks").unlink()
    exporter.export()
    assert (exporter.failures, exporter.error) == (1, "")
    assert exported(tmp_path / "ticks") == [row for row in rows if row[1] != "gap"]


def test_a_damaged_segment_is_never_exported_as_if_it_were_whole(
    journal: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    folder, _ = journal
    first, second, *_ = scan(folder).segments
    data = bytearray(second.path.read_bytes())
    data[-100] ^= 1
    second.path.write_bytes(data)
    exporter = Exporter(folder, tmp_path / "ticks")
    with pytest.raises(JournalCorruptError, match=second.path.name):
        exporter.export()
    assert exporter.exported == first.last_sequence
    assert len(list((tmp_path / "ticks").iterdir())) == 3  # ticks and quotes of the first, and the note of it


def test_in_the_background_it_exports_what_is_there_and_what_comes(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    with open_journal(folder) as written:
        rows = fill(written, keys_of(3), [30] * 10)
        wait_for(lambda: written.sealed > 0)
        exporter = Exporter(folder, tmp_path / "ticks")
        exporter.start()
        wait_for(lambda: exporter.exported > 0)
        rows += fill(written, keys_of(3), [30] * 10)
        last = scan(folder).segments[-2].last_sequence
        wait_for(lambda: written.sealed == last)
        exporter.notify()
        wait_for(lambda: exporter.exported == last)
        exporter.stop()
        assert exporter.export() == 0
    assert exported(tmp_path / "ticks") == [row for row in rows if row[0] <= last and row[1] != "gap"]
    assert (exporter.failures, exporter.error) == (0, "")


def test_stopped_in_the_middle_it_leaves_nothing_half_done(
    journal: tuple[Path, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows = journal
    exporter = Exporter(folder, tmp_path / "ticks")
    real = store.export._File.write

    def write(file: store.export._File, columns: list[pa.Array]) -> None:
        real(file, columns)
        exporter._stopping.set()

    monkeypatch.setattr(store.export, "ROWS", 8)
    with monkeypatch.context() as patch:
        patch.setattr(store.export._File, "write", write)
        assert exporter.export() == 0
    assert list((tmp_path / "ticks").iterdir()) == []
    exporter.stop()
    assert exporter.export() > 0
    assert exported(tmp_path / "ticks") == [row for row in rows if row[1] != "gap"]
