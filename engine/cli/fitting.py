"""Tables that fit a terminal: less important columns are folded, then left out, and nothing is cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

GAP = 2  # columns of the terminal between two of a table
UNLIMITED = 1 << 16
"""The width where nobody has to fit anything: stdout is no terminal."""


@dataclass(frozen=True)
class Column:
    """One column. `rank` 0 always stays; of the others, the highest is left out first."""

    title: str
    rank: int = 0
    is_right: bool = False


def fitted(columns: Sequence[Column], rows: Iterable[Sequence[Text | str]], width: int) -> RenderableType:
    """Return a table of at most `width` columns of the terminal, and below it which of its columns had no room.

    A cell may hold line breaks: it is shown in one line where there is room, folded at them where there is not.
    """
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    flat = [
        max([len(column.title), *(_in_one_line(row[at]).cell_len for row in cells)])
        for at, column in enumerate(columns)
    ]
    folded = [
        max([len(column.title), *(line.cell_len for row in cells for line in row[at].split("\n"))])
        for at, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    while True:
        folds = _folds(shown, flat, folded, width)
        if folds is not None:
            break
        least = max(shown, key=lambda at: columns[at].rank)
        if not columns[least].rank:
            folds = set(shown)  # even those that stay are too wide: they are broken, not cut
            break
        shown.remove(least)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    for at in shown:
        justify = "right" if columns[at].is_right else "left"
        table.add_column(columns[at].title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in cells:
        table.add_row(*(row[at] if at in folds else _in_one_line(row[at]) for at in shown))
    left_out = [column.title or "name" for at, column in enumerate(columns) if at not in shown]
    if not left_out:
        return table
    return Group(table, Text(f"no room for {', '.join(left_out)}: a wider terminal, or --json, has it", "dim"))


def _in_one_line(cell: Text) -> Text:
    return Text(" ").join(cell.split("\n"))


def _folds(shown: Sequence[int], flat: Sequence[int], folded: Sequence[int], width: int) -> set[int] | None:
    """Return which columns have to be folded, as few as will do, those first that save most; None if that is not enough."""
    too_much = sum(flat[at] for at in shown) + GAP * (len(shown) - 1) - width
    folds: set[int] = set()
    for at in sorted(shown, key=lambda at: folded[at] - flat[at]):
        if too_much <= 0:
            break
        if folded[at] < flat[at]:
            folds.add(at)
            too_much -= flat[at] - folded[at]
    return folds if too_much <= 0 else None
