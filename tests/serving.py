"""A daemon that the HTTP side can be tried on: a real fold over recorded ticks, real statuses, and a clock that stands still if asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.block import Block, Keys
from engine.clock import LiveClock
from engine.config import Config, DataConfig, ServerConfig
from engine.events import Command
from engine.health import Digested, ExchangeHealth, FeedHealth, JournalHealth, SnapshotHealth
from engine.latency import Latency
from engine.models.settings import ModelsConfig
from replay.driver import build_fold
from store.schema import FeatureView
from strategies.moving_average_cross import MovingAverageCross
from strategies.order_flow_imbalance import OrderFlowImbalance
from tests.folding import block_of, recorded

FEED = FeedHealth(
    name="binance 1",
    exchange="binance",
    url="ws://127.0.0.1:9000",
    state="live",
    symbols=("BTC/USDT", "ETH/USDT"),
    recording=True,
    connected_at=1_700_000_000_000_000_000,
    newest=1_700_000_000_000_000_000,
    messages=6_000,
    undecodable=1,
    reconnects=2,
    detail="",
)


class SetClock(LiveClock):
    """The live clock, which a test may stop at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.stands_at: int | None = None

    def now(self) -> int:
        return super().now() if self.stands_at is None else self.stands_at


class Daemon:
    """What `engine.serving.host.Host` says, over a fold of its own. `views=None` are the built-in ones."""

    def __init__(
        self,
        folder: Path,
        *strategies: Any,
        views: tuple[FeatureView, ...] | None = None,
        models: ModelsConfig | None = None,
        **server: Any,
    ) -> None:
        self.config = Config(
            data=DataConfig(dir=str(folder)),
            server=ServerConfig(**{"port": 0, **server}),
            models=ModelsConfig(run=()) if models is None else models,
        )
        self.set_clock = SetClock()
        self.clock: LiveClock = self.set_clock
        self.version = "0.0.1"
        self.latency = Latency()
        self.ears: list[Callable[[Any], None]] = []
        self.not_ready = ""
        self.feed = FEED
        self.journal_state = JournalHealth("journaling", str(folder / "journal"), 9, 7, 4_096, 1, "")
        self.exchange = ExchangeHealth("binance", "4 symbols, built-in", "", (), 1, 20, 3, 7, "")
        self.command_error: Exception | None = None
        built_in: Sequence[Any] = (MovingAverageCross(), OrderFlowImbalance()) if views is None else ()
        chosen = strategies or built_in
        self.fold = build_fold(self.config, chosen, views=views, keys=Keys(), digests=True, report=self.report)
        self.started = self.clock.now()

    # -- what the tests do to it

    def push_recorded(self, first: int = 0, last: int | None = 2_000) -> None:
        """Fold rows of the fixture."""
        self.fold.keys, block = _same_keys(self.fold.keys)
        for start in range(first, len(block) if last is None else last, 256):
            self.fold.push(block.take(slice(start, min(start + 256, len(block) if last is None else last))))
        self.latency.add(25_000, times=100)

    def push(self, *rows: dict[str, Any]) -> None:
        """Fold rows as `tests.folding.trade` and `quote` make them."""
        self.fold.push(block_of(self.fold.keys, rows))

    def report(self, event: Any) -> None:
        for hear in self.ears:
            hear(event)

    # -- Host

    def starting(self) -> str:
        return self.not_ready

    def feeds(self) -> list[FeedHealth]:
        return [self.feed]

    def exchanges(self) -> list[ExchangeHealth]:
        return [self.exchange]

    def journal(self) -> JournalHealth:
        return self.journal_state

    def snapshots(self) -> SnapshotHealth:
        return SnapshotHealth(5, self.started, 1_000, 2_000_000, "")

    def workers(self) -> None:
        return None

    def tracking(self) -> None:
        return None

    def holds(self) -> list[tuple[int, int, str]]:
        return [(self.started, 60_000_000, "moving_average_cross.on_features")]

    def digest(self) -> Digested:
        found = {name: digests.hexdigest() for name, digests in self.fold.digests.items()}
        return Digested(self.fold.sequence(), **found)

    def command(self, verb: str, target: str) -> Command:
        if self.command_error is not None:
            raise self.command_error
        now = self.clock.now()
        command = msgspec.convert(
            {"type": "Command", "verb": verb, "target": target, "timestamp": now, "received": now}, Command
        )
        self.fold.input(command)
        return msgspec.structs.replace(command, sequence=self.fold.sequence())

    def listen(self, hear: Callable[[Any], None]) -> Callable[[], None]:
        self.ears.append(hear)
        return lambda: self.ears.remove(hear)


def _same_keys(keys: Keys) -> tuple[Keys, Block]:
    """The fixture's rows, by numbers of these keys."""
    theirs, block = recorded()
    codes = np.array([keys.code(theirs[code]) for code in range(len(theirs))], np.int32)
    return keys, block.with_key(codes[block.key])
