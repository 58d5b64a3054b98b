"""Recorded data sets that are no ticks: rows of features and a target, of a CSV or ARFF file or one of River's, for `models evaluate`.

A value that reads as a number is one, an empty one (ARFF: ?) is NaN, and any other is text. A target that is a whole number, or says
true or false, names a class as well as a value; which of the two it is, the model decides.
"""

from __future__ import annotations

import csv
import difflib
import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from engine.errors import ConfigError, ReplayError

RIVER = "river:"
SUFFIXES = (".csv", ".arff")
COLUMNS_MAX = 10_000
MISSING = float("nan")
FLAGS = {"true": True, "false": False}

Row: TypeAlias = tuple[dict[str, Any], Any]
"""(features, target)."""


@dataclass(frozen=True)
class DataSet:
    """Rows that can be read again and again."""

    name: str
    target: str
    rows: Callable[[], Iterator[Row]]
    count: int | None  # rows, where that is known


def is_data_set(source: str) -> bool:
    """Whether a source is of these kinds."""
    return source.startswith(RIVER) or source.lower().endswith(SUFFIXES)


def open_data_set(source: str, target: str | None = None, rows: int | None = None) -> DataSet:
    """Return the data set of a name ("river:Phishing") or file. target: its column (default: the last); rows: at most so many.

    Raises ConfigError for a name or column that is not there, ReplayError for a file that cannot be read.
    """
    found = _river(source, target) if source.startswith(RIVER) else _file(Path(source), target)
    if rows is None:
        if found.count is None and source.startswith(RIVER):
            raise ConfigError(f"{source}: has no end; expected --rows N with it")
        return found
    count = rows if found.count is None else min(rows, found.count)
    return DataSet(found.name, found.target, lambda: itertools.islice(found.rows(), rows), count)


# River's ------------------------------------------------------------------------------------------------------------------------


def _river(source: str, target: str | None) -> DataSet:
    from river import datasets
    from river.datasets import base

    name = source.removeprefix(RIVER)
    where: Any = datasets
    for part in name.split("."):
        where = getattr(where, part, None) if not part.startswith("_") else None
    if not (isinstance(where, type) and issubclass(where, base.Dataset)) or inspect.isabstract(where):
        known = [one for one in dir(datasets) if isinstance(getattr(datasets, one), type)]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{source}: expected a data set of river.datasets: {', '.join(known)}{hint}")
    if target is not None:
        raise ConfigError(f"--target {target}: expected none for {source}, which has its own")
    made: Any = where()  # type: ignore[call-arg]  # each has its own arguments, all with defaults
    if isinstance(made, base.RemoteDataset) and not made.is_downloaded:
        raise ReplayError(
            f"{source}: is not on this machine; `python -c 'from river import datasets as d; d.{name}().download()'` fetches it"
        )
    own = getattr(made, "target", None)
    return DataSet(
        name, own if isinstance(own, str) else "target", lambda: iter(made), getattr(made, "n_samples", None)
    )


# Files --------------------------------------------------------------------------------------------------------------------------


def _file(path: Path, target: str | None) -> DataSet:
    is_csv = path.suffix.lower() == ".csv"
    columns = _csv_columns(path) if is_csv else _arff_columns(path)
    if target is not None and target not in columns:
        near = difflib.get_close_matches(target, columns, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{path}: no column {target!r}; it has {', '.join(columns[:50])}{hint}")
    if len(columns) < 2:
        raise ReplayError(f"{path}: expected columns of features and of a target, found {len(columns)}")
    wanted = columns[-1] if target is None else target
    read = _csv_values if is_csv else _arff_values

    def rows() -> Iterator[Row]:
        for line, values in read(path, len(columns)):
            features = dict(zip(columns, map(_value, values), strict=True))
            label = _label(values[columns.index(wanted)])
            if label is None:
                raise ReplayError(f"{path}, line {line}: {wanted} is empty; expected a target in each row")
            del features[wanted]
            yield features, label

    return DataSet(path.stem, wanted, rows, None)


def _value(text: str | None) -> Any:
    if text is None or not text:
        return MISSING
    try:
        return float(text)
    except ValueError:
        return FLAGS.get(text.lower(), text)


def _label(text: str | None) -> Any:
    if text is None or not text:
        return None
    if re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    return _value(text)


def _opened(path: Path) -> Any:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise ReplayError(f"{path}: cannot be read: {error.strerror}") from error


def _csv_columns(path: Path) -> list[str]:
    with _opened(path) as lines:
        try:
            header = [name.strip() for name in next(csv.reader(lines), [])]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ReplayError(f"{path}: no CSV file: {error}") from error
    return _checked(path, header)


def _csv_values(path: Path, width: int) -> Iterator[tuple[int, list[str | None]]]:
    with _opened(path) as lines:
        reader = csv.reader(lines)
        try:
            next(reader)
            for values in reader:
                if not values:
                    continue
                if len(values) != width:
                    raise ReplayError(f"{path}, line {reader.line_num}: {len(values)} values; expected {width}")
                yield reader.line_num, [value.strip() for value in values]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ReplayError(f"{path}, line {reader.line_num}: no CSV: {error}") from error


_ATTRIBUTE = re.compile(r"@attribute\s+(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|(\S+))\s+\S", re.IGNORECASE)
_WORD = re.compile(r"\s*(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|([^,]*?))\s*(?:,|$)")


def _arff_columns(path: Path) -> list[str]:
    names: list[str] = []
    for line, text in _arff_lines(path):
        word = text.split(None, 1)[0].lower()
        if word == "@data":
            return _checked(path, names)
        if word == "@attribute":
            found = _ATTRIBUTE.match(text)
            if found is None:
                raise ReplayError(f"{path}, line {line}: {text[:60]!r}: expected @attribute NAME TYPE")
            single, double, plain = found.groups()
            names.append(plain if plain is not None else _unquoted(single if single is not None else double))
    raise ReplayError(f"{path}: no ARFF file: expected a line @data")


def _arff_values(path: Path, width: int) -> Iterator[tuple[int, list[str | None]]]:
    is_data = False
    for line, text in _arff_lines(path):
        if not is_data:
            is_data = text.lower() == "@data"
            continue
        if text.startswith("{"):
            raise ReplayError(f"{path}, line {line}: a sparse row; expected a value for each of the {width} columns")
        values: list[str | None] = []
        at = 0
        while at < len(text) or text.endswith(",", 0, at):
            found = _WORD.match(text, at)
            if found is None:
                raise ReplayError(
                    f"{path}, line {line}: {text[at : at + 40]!r}: expected values with commas between them"
                )
            quoted, double, plain = found.groups()
            if plain is None:
                values.append(_unquoted(quoted if quoted is not None else double))
            else:
                values.append(None if plain == "?" else plain)
            if at == (at := found.end()):
                break
        if len(values) != width:
            raise ReplayError(f"{path}, line {line}: {len(values)} values; expected {width}")
        yield line, values


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _arff_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that say something, with their numbers from 1."""
    with _opened(path) as lines:
        try:
            for number, line in enumerate(lines, 1):
                if (text := line.strip()) and not text.startswith("%"):
                    yield number, text
        except UnicodeDecodeError as error:
            raise ReplayError(f"{path}: no text: {error}") from error


def _checked(path: Path, columns: list[str]) -> list[str]:
    if len(columns) > COLUMNS_MAX:
        raise ReplayError(f"{path}: {len(columns)} columns; expected at most {COLUMNS_MAX}")
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ReplayError(f"{path}: two columns {twice[0]!r}; expected each name once")
    return columns
