"""Digests: one hash over all that a fold put out, the same for every block size, cut of a file, hash seed and restart.

Each stream (a view of a key, a strategy's signals of a key, ...) is a chain: its rows are hashed in chunks of 4,096,
d = SHA256(d | chunk), starting with d empty; the open chunk is kept. A set of streams hashes its (name, d, open chunk) in the order
of the names. A row is a timestamp (int64) and values (float64), little-endian, with one bit pattern for every NaN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

CHUNK_ROWS = 4096
Name = tuple[str, ...]
ChainState = tuple[Name, bytes, bytes]
"""A stream's name, the digest of its closed chunks, and its open chunk."""


class Chain:
    """The digest of one stream of rows."""

    def __init__(self) -> None:
        self.digest = b""
        self.open = bytearray()

    def extend(self, rows: npt.NDArray[np.float64]) -> None:
        """Append rows (count x width, float64; the first column is the timestamp's int64 bits)."""
        self.append(np.ascontiguousarray(rows, dtype="<f8").data.cast("B"), rows.shape[1] * 8)

    def append(self, rows: bytes | memoryview, width: int) -> None:
        """Append rows of `width` bytes each."""
        chunk = CHUNK_ROWS * width
        self.open += rows
        done = 0
        while len(self.open) - done >= chunk:
            self.digest = hashlib.sha256(self.digest + self.open[done : done + chunk]).digest()
            done += chunk
        if done:
            del self.open[:done]


class Digests:
    """The chains of one kind of stream, by name."""

    def __init__(self) -> None:
        self._chains: dict[Name, Chain] = {}

    def add(self, name: Name, timestamps: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Append rows to a stream: `timestamps` (count), `values` (columns x count)."""
        rows = np.empty((len(timestamps), 1 + len(values)))
        rows.view(np.int64)[:, 0] = timestamps
        rows[:, 1:] = values.T
        rows[:, 1:][np.isnan(rows[:, 1:])] = np.nan
        self.extend(name, rows)

    def extend(self, name: Name, rows: npt.NDArray[np.float64]) -> None:
        """Append rows that are in their final form."""
        if len(rows):
            self._chains.setdefault(name, Chain()).extend(rows)

    def append(self, name: Name, row: bytes) -> None:
        """Append one row in its final form, as bytes."""
        chain = self._chains.get(name)
        if chain is None:
            chain = self._chains[name] = Chain()
        chain.append(row, len(row))

    def states(self, names: Iterable[Name] | None = None) -> list[ChainState]:
        """Copy the chains of these streams, of all by default; those without a row are left out."""
        wanted = self._chains if names is None else [name for name in names if name in self._chains]
        return [(name, self._chains[name].digest, bytes(self._chains[name].open)) for name in wanted]

    def put(self, states: Iterable[ChainState]) -> None:
        """Go on from copied chains."""
        for name, digest, rows in states:
            chain = self._chains[name] = Chain()
            chain.digest, chain.open = digest, bytearray(rows)

    def clear(self) -> None:
        """Begin all streams anew."""
        self._chains.clear()

    @property
    def open_bytes(self) -> int:
        """Bytes in open chunks: what a `hexdigest` has to hash."""
        return sum(len(chain.open) for chain in self._chains.values())

    def hexdigest(self) -> str:
        """Hash of all streams so far."""
        return hexdigest_of((name, chain.digest, chain.open) for name, chain in self._chains.items())


def hexdigest_of(chains: Iterable[tuple[Name, bytes, bytes | bytearray]]) -> str:
    """Hash streams in the order of their names."""
    total = hashlib.sha256()
    for name, digest, rows in sorted(chains, key=lambda chain: chain[0]):
        update(total, (*(part.encode() for part in name), digest, rows))
    return total.hexdigest()


def update(total: hashlib._Hash, parts: Iterable[bytes | bytearray]) -> None:
    """Feed parts to a hash, each with its length before it, so that none can run into the next."""
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
