"""Rows of features on their way into the digests: hashed some hundred at a time, and before the ring lets go of them.

Hashing each as it comes took a third of a tick's time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engine.digest import Digests
from engine.events import Key

ROWS = 256
"""Rows of a clock that may wait in the ring."""


class Place(Protocol):
    """Which clock a view shares with others."""

    @property
    def scope(self) -> int: ...


class Program(Protocol):
    """The views that are computed."""

    @property
    def places(self) -> Mapping[str, Place]: ...


class Rows(Protocol):
    """One key's newest rows."""

    def stamps(self, scope: int, count: int) -> npt.NDArray[np.int64]: ...
    def values(self, view: str, count: int) -> npt.NDArray[np.float64]: ...


class Store(Protocol):
    """Where the rows are."""

    @property
    def program(self) -> Program: ...
    @property
    def keep(self) -> int: ...
    def lane(self, key: Key) -> Rows: ...


class RowsToHash:
    """The newest rows of each key and clock that are in the ring and in no digest yet."""

    def __init__(self, digests: Digests, store: Store, key_of: Callable[[int], Key]) -> None:
        """`key_of` tells the key of a number."""
        self._digests = digests
        self._store = store
        self._key_of = key_of
        self._most = min(ROWS, store.keep)
        self._counts: dict[int, list[int]] = {}

    def note(self, code: int, fresh: list[int]) -> None:
        """Count new rows of a key by clock; hash those of the key before the ring might let go of them."""
        counts = self._counts.get(code)
        if counts is None:
            counts = self._counts[code] = [0] * len(fresh)
        most = 0
        for scope, count in enumerate(fresh):
            if count:
                counts[scope] += count
                most = max(most, counts[scope])
        if most >= self._most:
            self.hash(code)

    def hash(self, code: int) -> None:
        """Hash what waits of a key."""
        counts = self._counts.pop(code, None)
        if counts is None:
            return
        key = self._key_of(code)
        lane = self._store.lane(key)
        for view, place in self._store.program.places.items():
            if count := counts[place.scope]:
                self._digests.add((view, *key), lane.stamps(place.scope, count)[0], lane.values(view, count))

    def hash_all(self) -> None:
        """Hash all that waits."""
        for code in list(self._counts):
            self.hash(code)
