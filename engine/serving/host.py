"""What the HTTP side may know of the daemon and ask of it. It reads; only `command` changes anything, and that is a journaled input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec

from engine.clock import LiveClock
from engine.config import Config
from engine.events import Command
from engine.fold import Fold
from engine.latency import Latency


class FeedHealth(msgspec.Struct, frozen=True):
    """One connection to an exchange."""

    name: str  # "binance 1"
    exchange: str
    url: str
    state: str  # connecting, subscribing, live, stale, waiting, failed, stopped
    symbols: tuple[str, ...]
    recording: bool  # the loopback exchange serves a recording
    connected_at: int  # ns UTC, 0 if it is not
    newest: int  # `received` of its newest message, ns UTC, 0 if none
    messages: int
    undecodable: int
    reconnects: int
    detail: str  # what it last had to say, "" if nothing


class JournalHealth(msgspec.Struct, frozen=True):
    """How inputs are being kept."""

    state: Literal["journaling", "not journaling", "off"]
    folder: str
    sequence: int  # newest that was written
    synced: int  # newest that was synced to the disk
    bytes_written: int
    segments: int
    detail: str  # why it does not journal, "" otherwise


class SnapshotHealth(msgspec.Struct, frozen=True):
    """The newest snapshot that is on disk."""

    sequence: int  # 0 if there is none
    taken_at: int  # ns UTC
    bytes_written: int
    longest_hold_ns: int  # the longest time that taking it held the loop at a stretch
    detail: str  # why the last try failed, "" otherwise


class Digested(msgspec.Struct, frozen=True):
    """The chain digests at one sequence: what a replay up to there gives too."""

    sequence: int
    inputs: str
    features: str
    predictions: str
    signals: str


class Host(Protocol):
    """The daemon, as the HTTP side sees it. All of it is called on the loop, between two inputs."""

    config: Config
    clock: LiveClock
    fold: Fold
    """Its `features` is the online store; `keys` are the keys; `supervisor.actors` the strategies."""
    started: int
    """When the daemon started, ns UTC."""
    latency: Latency
    """From `received` of an input to the end of its fold."""
    version: str

    def starting(self) -> str:
        """Why it is not ready yet ("folding the journal: 40 %"); empty once it is."""

    def feeds(self) -> list[FeedHealth]: ...

    def journal(self) -> JournalHealth: ...

    def snapshots(self) -> SnapshotHealth: ...

    def holds(self) -> list[tuple[int, int, str]]:
        """The newest times that something held the loop: (when, how long, what), ns, newest last; at most 20."""

    def digest(self) -> Digested:
        """The newest chain digests that there are. Costs up to a few milliseconds, and is not made anew more often than that allows."""

    def command(self, verb: str, target: str) -> Command:
        """Journal and fold an operator's command; return it with its sequence. Raises ConfigError for what cannot be done."""

    def listen(self, hear: Callable[[Any], None]) -> Callable[[], None]:
        """Let `hear` know of each event that the fold reports (signals, gaps, feed statuses, failing plugins, ...); return what ends it.

        Called on the loop, right after the input; it must be quick and may not raise.
        """
