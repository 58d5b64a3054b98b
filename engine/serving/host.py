"""What the HTTP side may know of the daemon and ask of it. It reads; only `command` changes anything, and that is a journaled input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from engine.clock import LiveClock
from engine.config import Config
from engine.events import Command
from engine.fold import Fold
from engine.health import Digested, ExchangeHealth, FeedHealth, JournalHealth, SnapshotHealth, TrackingHealth
from engine.latency import Latency


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
    def exchanges(self) -> list[ExchangeHealth]: ...

    def journal(self) -> JournalHealth: ...

    def snapshots(self) -> SnapshotHealth: ...

    def tracking(self) -> TrackingHealth | None:
        """How models are told of to MLflow; None where that is not switched on."""

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
