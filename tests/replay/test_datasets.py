"""Data sets as `models evaluate` reads them: CSV, ARFF, and River's own by name."""

from __future__ import annotations

import csv
import io
import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError, ReplayError
from replay.datasets import is_data_set, open_data_set

ARFF = """% made by hand
@RELATION weather

@attribute 'wind \\'speed\\'' NUMERIC
@attribute sky {'clear', "over cast", rain}
@ATTRIBUTE play {yes, no}

@DATA
3.5, clear, yes
?, 'over cast', no
% a comment
-1e3,rain , yes
"""


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_csv_gives_numbers_words_and_its_last_column_as_the_target(tmp_path: Path) -> None:
    source = written(tmp_path, "some.csv", "a,b,open,y\n1,x,true,0\n2.5,,false,1\n")
    data = open_data_set(source)
    assert (data.name, data.target) == ("some", "y")
    (first, label), (second, other) = data.rows()
    assert first == {"a": 1.0, "b": "x", "open": True}
    assert (label, other) == (0, 1)
    assert isinstance(label, int)
    assert math.isnan(second["b"])
    assert next(data.rows())[0] == first  # it can be read again


def test_another_column_can_be_the_target_and_rows_can_be_fewer(tmp_path: Path) -> None:
    source = written(tmp_path, "some.csv", "a,b,y\n1,up,0\n2,down,1\n3,up,1\n")
    data = open_data_set(source, "b", rows=2)
    assert data.count == 2 or data.count is None
    assert list(data.rows()) == [({"a": 1.0, "y": 0.0}, "up"), ({"a": 2.0, "y": 1.0}, "down")]


def test_an_arff_gives_quoted_names_nominals_and_missing_values(tmp_path: Path) -> None:
    data = open_data_set(written(tmp_path, "weather.ARFF", ARFF))
    rows = list(data.rows())
    assert data.target == "play"
    assert [label for _, label in rows] == ["yes", "no", "yes"]
    assert rows[0][0] == {"wind 'speed'": 3.5, "sky": "clear"}
    assert math.isnan(rows[1][0]["wind 'speed'"])
    assert rows[1][0]["sky"] == "over cast"
    assert rows[2][0] == {"wind 'speed'": -1000.0, "sky": "rain"}


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**17), 10**17)),
        min_size=1,
        max_size=8,
    )
)
def test_numbers_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int]]
) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("value", "label"), *((repr(value), label) for value, label in rows)])
    source = written(tmp_path_factory.mktemp("csv"), "some.csv", text.getvalue())
    assert [(row["value"], label) for row, label in open_data_set(source).rows()] == rows


def test_rivers_own_are_known_by_name() -> None:
    data = open_data_set("river:Phishing")
    assert (data.count, data.target) == (1_250, "target")
    (row, label) = next(data.rows())
    assert len(row) == 9
    assert label in (True, False)
    endless = open_data_set("river:synth.SEA", rows=7)
    assert len(list(endless.rows())) == 7


def test_what_is_a_data_set_and_what_is_not() -> None:
    found = [
        is_data_set(name) for name in ("river:Phishing", "a/b.csv", "x.ARFF", "ticks.parquet", "data", "x.jsonl.gz")
    ]
    assert found == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("river:Phishin", None, "did you mean Phishing"),
        ("river:base.Dataset", None, "expected a data set of river.datasets"),
        ("river:_sys", None, "expected a data set of river.datasets"),
        ("river:Phishing", "y", "has its own"),
        ("river:synth.SEA", None, "expected --rows N"),
    ],
)
def test_a_name_that_cannot_be_is_refused(source: str, target: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_data_set(source, target)


@pytest.mark.parametrize(
    ("name", "text", "target", "says"),
    [
        ("a.csv", "x,y\n1,2\n3\n", None, "line 3: 1 values; expected 2"),
        ("a.csv", "x,y\n1,\n", None, "line 2: y is empty"),
        ("a.csv", "x,x\n1,2\n", None, "two columns 'x'"),
        ("a.csv", "x\n1\n", None, "found 1"),
        ("a.csv", "value,y\n1,2\n", "valve", "did you mean value"),
        ("a.csv", "", None, "found 0"),
        ("a.arff", "x,y\n1,2\n", None, "expected a line @data"),
        ("a.arff", "@attribute x\n@data\n", None, "expected @attribute NAME TYPE"),
        ("a.arff", "@attribute x numeric\n@attribute y numeric\n@data\n{0 1}\n", None, "a sparse row"),
        ("a.arff", "@attribute x numeric\n@attribute y numeric\n@data\n1,2,3\n", None, "line 4: 3 values; expected 2"),
    ],
)
def test_a_file_that_is_none_says_where_and_what(
    tmp_path: Path, name: str, text: str, target: str | None, says: str
) -> None:
    with pytest.raises((ConfigError, ReplayError), match=says):
        list(itertools.chain(open_data_set(written(tmp_path, name, text), target).rows()))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"absent\.csv: cannot be read"):
        open_data_set(str(tmp_path / "absent.csv"))
    (tmp_path / "bytes.csv").write_bytes(b"a,b\n\xff\xfe\n")
    with pytest.raises(ReplayError, match="no CSV"):
        list(open_data_set(str(tmp_path / "bytes.csv")).rows())
