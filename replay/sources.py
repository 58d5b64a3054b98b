"""Recordings as blocks: Parquet ticks and quotes, and captures of raw websocket messages.

A capture goes through the very decoder that a live feed uses. Its connections are rebased to a common start, the first one's, and
merged; `timestamp` moves with `received`, so windows and latencies stay what they were.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Annotated, Final, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from engine.block import IS_QUOTE, IS_TRADE, NO_ID, Block, Keys
from engine.errors import DecodeError, EngineError, ReplayError
from engine.events import Quote, Tick
from engine.ingress import Admitted
from feeds import DECODERS, Decoder, decoder
from replay.merge import merge
from store.folder import DataFolder
from store.journal_reader import read

BATCH_ROWS = 1 << 16
PROBE_LINES = 500
SIDE_CODES = {"buy": 1, "sell": -1, None: 0}
BUILT_INS: Final = MappingProxyType(
    {
        name: Path(__file__).parent / "recordings" / f"{name}.jsonl.gz"
        for name in ("binance", "coinbase", "coinbase_exchange", "kucoin")
    }
)
"""The recordings that come with tickfold, by the feed whose real messages they are."""
BUILT_IN: Final = BUILT_INS["binance"]
"""What is replayed if nothing else is named."""


class Source(Protocol):
    """A recording: read once, in its own order."""

    @property
    def name(self) -> str: ...
    def rows(self) -> int | None:
        """How many rows it holds, None if that is not known before reading."""

    def blocks(self, keys: Keys) -> Iterator[Block]:
        """Yield its rows as blocks under the numbers of `keys`."""

    def notes(self) -> list[str]:
        """What its reader should know once it was read: what was passed over."""


def open_source(path: str | Path) -> Source:
    """Return the recording at a path. Raises ReplayError that says what was found and what was expected."""
    path = Path(path)
    if not path.exists():
        raise ReplayError(f"{path}: no such file")
    if path.is_dir():
        if DataFolder(path).exists():
            return JournalSource(DataFolder(path))
        raise ReplayError(
            f"{path}: expected a Parquet file of ticks or quotes, a capture (.jsonl, .jsonl.gz) or a data folder of the daemon "
            "(with journal/ in it), found another folder"
        )
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return Capture(path)
    if path.suffix == ".parquet":
        return ParquetSource(path)
    raise ReplayError(f"{path}: expected Parquet ticks or quotes (.parquet) or a capture (.jsonl, .jsonl.gz)")


class ParquetSource:
    """A Parquet file of ticks or of quotes. Arrow is imported with the first: it costs a start of the daemon a fifth of a second."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from store.tables import is_quotes

        self.path = path
        self.name = path.name
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise ReplayError(f"{path}: expected a Parquet file: {error}") from error
        if is_quotes(self._file.schema_arrow.names) is None:
            found = ", ".join(self._file.schema_arrow.names)
            raise ReplayError(
                f"{path}: expected ticks (price, volume, ...) or quotes (bid, ask, ...), found columns {found}"
            )

    def rows(self) -> int:
        count: int = self._file.metadata.num_rows
        return count

    def blocks(self, keys: Keys) -> Iterator[Block]:
        import pyarrow as pa

        from store.tables import to_block

        try:
            for batch in self._file.iter_batches(BATCH_ROWS):
                yield to_block(pa.Table.from_batches([batch]), keys, str(self.path))
        except (pa.ArrowInvalid, OSError) as error:
            raise ReplayError(f"{self.path}: cannot be read to its end: {error}") from error

    def notes(self) -> list[str]:
        return []


class JournalSource:
    """The trades and quotes of a daemon's data folder, as its ingress admitted them."""

    def __init__(self, folder: DataFolder) -> None:
        self.folder = folder
        self.name = folder.path.name

    def rows(self) -> int | None:
        return None

    def blocks(self, keys: Keys) -> Iterator[Block]:
        for item in read(self.folder.journal, keys):
            if isinstance(item, Admitted):
                yield msgspec.structs.replace(item.block, received=item.received)

    def notes(self) -> list[str]:
        return []


class Line(msgspec.Struct):
    """One line of a capture, as far as a replay needs it."""

    kind: str
    recv_ns: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    conn: str = ""
    raw: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def frame(self) -> bytes:
        """The message as it was on the wire."""
        raw = bytes(self.raw)
        return msgspec.json.decode(raw, type=str).encode() if raw.startswith(b'"') else raw


@dataclass
class Columns:
    """Events on their way into a block, column by column."""

    rows: list[tuple[int, int, int, int, float, float, int, float, float, int, bool]] = field(default_factory=list)

    def add(self, event: Tick | Quote, keys: Keys, shift: int) -> None:
        """Append an event whose times move by `shift` ns."""
        code = keys.code((event.exchange, event.symbol))
        times = event.timestamp + shift, event.received + shift
        if isinstance(event, Tick):
            number = NO_ID if event.trade_id is None else event.trade_id
            side = SIDE_CODES[event.side]
            row = (code, IS_TRADE, *times, event.price, event.volume, side, np.nan, np.nan, number, event.late)
        else:
            number = NO_ID if event.update_id is None else event.update_id
            row = (
                code,
                IS_QUOTE,
                *times,
                event.bid,
                event.bid_volume,
                0,
                event.ask,
                event.ask_volume,
                number,
                event.late,
            )
        self.rows.append(row)

    def block(self) -> Block:
        """Return all events as one block."""
        types = (
            np.int32,
            np.uint8,
            np.int64,
            np.int64,
            *[np.float64] * 2,
            np.int8,
            *[np.float64] * 2,
            np.int64,
            np.uint8,
        )
        columns = zip(*self.rows, strict=True) if self.rows else iter([()] * len(types))
        return Block(*(np.array(column, kind) for column, kind in zip(columns, types, strict=True)))


class Capture:
    """A file of raw websocket messages, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.undecodable = 0
        """Frames that break the protocol; they are counted and passed over."""
        self.first_error = ""
        self._rows: int | None = None

    def rows(self) -> int | None:
        return self._rows

    def blocks(self, keys: Keys) -> Iterator[Block]:
        feed = decoder(self.feed())
        connections: dict[str, Columns] = {}
        starts: dict[str, int] = {}
        for number, line in self.lines():
            start = starts.setdefault(line.conn, line.recv_ns)
            if line.kind != "recv":
                continue
            columns = connections.setdefault(line.conn, Columns())
            shift = next(iter(starts.values())) - start
            try:
                events = feed.decode(line.frame, line.recv_ns)
            except (DecodeError, msgspec.DecodeError, UnicodeError) as error:
                self.undecodable += 1
                self.first_error = self.first_error or f"{self.path}:{number}: {error}"
                continue
            for event in events:
                if isinstance(event, (Tick, Quote)):
                    columns.add(event, keys, shift)
        self._rows = sum(len(columns.rows) for columns in connections.values())
        yield from merge([iter([columns.block()]) for columns in connections.values()])

    def notes(self) -> list[str]:
        if not self.undecodable:
            return []
        return [f"{self.undecodable} frames of {self.path} could not be decoded; the first: {self.first_error}"]

    def feed(self) -> str:
        """Name the feed that was captured: by the name of the file, else by which decoder finds most events in its first lines."""
        named = [name for name in DECODERS if self.name.startswith(name)]
        if named:
            return max(named, key=len)
        lines = [line for (_, line), _ in zip(self.lines(), range(PROBE_LINES), strict=False) if line.kind == "recv"]
        counts = {name: _events_in(lines, decoder(name)) for name in DECODERS}
        best = max(counts, key=lambda name: counts[name])
        if not counts[best]:
            raise ReplayError(
                f"{self.path}: expected messages of one of {', '.join(DECODERS)}, found none in its first {PROBE_LINES} lines"
            )
        return best

    def lines(self) -> Iterator[tuple[int, Line]]:
        """Yield its lines with their numbers. Raises ReplayError that names the first one that is no line of a capture."""
        reader = msgspec.json.Decoder(Line)
        try:
            with _open(self.path) as file:
                for number, text in enumerate(file, 1):
                    if not text.strip():
                        continue
                    try:
                        yield number, reader.decode(text)
                    except (msgspec.DecodeError, UnicodeDecodeError) as error:
                        raise ReplayError(
                            f"{self.path}:{number}: expected a JSON object with kind, recv_ns, conn, raw: {error}"
                        ) from error
        except (OSError, EOFError, zlib.error) as error:
            raise ReplayError(f"{self.path}: cannot be read to its end: {error}") from error


def _events_in(lines: Iterable[Line], feed: Decoder) -> int:
    """Count the events that a decoder finds in lines; one that it cannot read has none."""
    count = 0
    for line in lines:
        with contextlib.suppress(EngineError, msgspec.DecodeError, UnicodeError):
            count += len(feed.decode(line.frame, line.recv_ns))
    return count


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def total_rows(sources: Iterable[Source]) -> int | None:
    """Return how many rows all sources hold, None if one does not know."""
    counts = [source.rows() for source in sources]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
