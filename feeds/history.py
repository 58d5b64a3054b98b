"""How trades of the past are asked for over HTTP: the types between back-fill and the REST interfaces of the exchanges.

Each exchange is a `HistoryProtocol`: pure, it says what to ask and reads what came. Ids are those of the stream that is listened to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from engine.errors import FRAME_EXCERPT_CHARACTERS, FeedError
from engine.events import Tick
from feeds.spans import Span


class Page(msgspec.Struct, frozen=True):
    """What an answer held."""

    ticks: tuple[Tick, ...]  # late, lowest id first
    covered: Span | None  # of these ids the exchange has no others than those; None if it spoke of none
    until_ns: int | None = None  # where it is asked by time: older trades are found before this, ns UTC


class HistoryProtocol(Protocol):
    """The trades of one exchange's past. Symbols are ours."""

    exchange: str
    proves_gaps: bool
    """Whether trade ids are contiguous, so that a skipped one is a missing trade."""

    def ask(self, symbol: str, first: int, last: int, until_ns: int) -> str:
        """Return the URL for trades first..last, or as many of them as one answer holds; they were made before `until_ns`."""

    def ask_newest(self, symbol: str) -> str:
        """Return the URL for the newest trades there are."""

    def read(self, symbol: str, body: bytes, received: int, wanted: Span | None = None) -> Page:
        """Read an answer to `ask` for `wanted`, or to `ask_newest`.

        Raises FeedError that says what was expected and shows what came.
        """


class Taken(Protocol):
    """What the ingress knows of the trade ids of one exchange."""

    def missing(self, symbol: str) -> list[Span]:
        """Ids that were skipped, have not come since and were not given up."""

    def newest_id(self, symbol: str) -> int | None:
        """The highest id that has come, live or as history; None if there is none."""

    def skipped_below(self, symbol: str) -> int | None:
        """The highest id that has come if ids between the last that was folded and it have not; else None."""

    def forgotten(self, symbol: str) -> int:
        """How many missing spans had to be forgotten, since too many were open."""

    def trades_folded(self, symbol: str) -> int:
        """How many trades were folded."""


def rows_of(exchange: str, body: bytes, read: Callable[[bytes], list[Tick]], expected: str) -> list[Tick]:
    """Return the trades of an answer, lowest id first, of equal ids the first. Raises FeedError."""
    try:
        ticks = read(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        shown = body[:FRAME_EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace")
        raise FeedError(f"{exchange}: expected {expected}, came {shown!r}: {error}") from error
    by_id: dict[int, Tick] = {}
    for tick in ticks:
        assert tick.trade_id is not None
        by_id.setdefault(tick.trade_id, tick)
    return [by_id[number] for number in sorted(by_id)]
