"""Tables that fit a terminal: what is folded, what is left out, and that nothing is ever cut."""

from __future__ import annotations

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from engine.cli.fitting import UNLIMITED, Column, fitted

COLUMNS = (Column("model"), Column("key"), Column("skill", 1), Column("n", 3, is_right=True), Column("evidence", 2))
ROW = ("direction", "binance BTC/USDT", "+12.34 %\n(+10.00 to +14.00)", "1,234", "2: E 3.1 of 40, 120 pairs")


def drawn(width: int, *rows: tuple[str | Text, ...]) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(fitted(COLUMNS, rows or (ROW,), width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_with_room_each_row_is_one_line_with_all_columns() -> None:
    title, row = drawn(UNLIMITED)
    assert title.split() == ["model", "key", "skill", "n", "evidence"]
    assert row.split("  ") == [
        "direction", "binance BTC/USDT", "+12.34 % (+10.00 to +14.00)", "1,234", "2: E 3.1 of 40, 120 pairs",
    ]  # fmt: skip


def test_cells_are_folded_where_they_may_be_before_a_column_goes() -> None:
    lines = drawn(85)
    assert [line.strip() for line in lines[2:]] == ["(+10.00 to +14.00)"]
    assert "no room" not in "".join(lines)


def test_the_least_important_column_goes_first_and_that_is_said() -> None:
    lines = drawn(80)
    assert lines[0].split() == ["model", "key", "skill", "evidence"]
    assert lines[-1] == "no room for n: a wider terminal, or --json, has it"
    assert drawn(40)[0].split() == ["model", "key"]


@settings(max_examples=60, deadline=None)
@given(width=st.integers(4, 120))
def test_what_always_stays_is_broken_rather_than_cut(width: int) -> None:
    lines = drawn(width)
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= width
    letters = sorted("".join(lines).replace(" ", ""))
    for letter in set("directionbinanceBTC/USDT"):
        assert letters.count(letter) >= "directionbinanceBTC/USDT".count(letter)
