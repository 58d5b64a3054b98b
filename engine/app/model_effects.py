"""What the daemon does with its models besides folding them: times them, keeps what became of their predictions, tells MLflow.

Nothing here reaches back into the fold, but the command by which an alias that was moved in MLflow is followed: an input like any other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from engine.config import Config
from engine.events import Command
from engine.fold import Fold
from engine.health import TrackingHealth
from store.folder import DataFolder

if TYPE_CHECKING:
    from engine.app.tracking import Tracking
    from store.predictions import PredictionWriter

FLUSH_S = 5.0
"""How long a snapshot waits until what matured before it is on the disk."""


class ModelEffects:
    """Everything is called on the loop. Raises ConfigError if MLflow is wanted and not installed."""

    def __init__(self, config: Config, folder: DataFolder, log: Any) -> None:
        self._config = config
        self._folder = folder
        self._log = log
        self._writer: PredictionWriter | None = None
        self._tracking: Tracking | None = None
        if config.mlflow.enabled:
            from engine.app.tracking import Tracking

            self._tracking = Tracking(config, folder, log)

    def attach(self, fold: Fold) -> None:
        """Hear of what matures, from the journal that a start folds again on: what was not written yet when the daemon was killed is then.

        Raises StoreError if the folder of predictions cannot be made.
        """
        if fold.models is None:
            return
        fold.models.timer = time.perf_counter_ns
        if self._config.models.ledger:
            from engine.tracking.state import schema_hash
            from store.predictions import PredictionWriter

            self._writer = PredictionWriter(
                self._folder.predictions,
                lambda spec: schema_hash(spec.names, spec.target.classes, spec.target.name, spec.horizon.text),
                tell=lambda text: self._log.warning("predictions", detail=text),
            )
            self._writer.start()
            fold.models.matured = self._writer.matured

    def start(
        self,
        fold: Fold,
        command: Callable[[str, str], Command],
        listen: Callable[[Callable[[Any], None]], Any],
        spawn: Callable[[Coroutine[Any, Any, Any]], None],
    ) -> None:
        """Begin to tell MLflow, where that is wanted: the fold is ready."""
        if self._tracking is not None:
            self._tracking.start(fold, command)
            listen(self._tracking.hear)
            spawn(self._tracking.run())

    async def flush(self) -> None:
        """Have what matured so far written: after a snapshot is taken, nobody folds it again."""
        if self._writer is not None:
            await asyncio.to_thread(self._writer.flush, FLUSH_S)

    def health(self) -> TrackingHealth | None:
        """How it is going with MLflow; None where it is not wanted."""
        return None if self._tracking is None else self._tracking.health()

    async def stop(self, timeout_s: float) -> None:
        """Write what is there, log the last versions; wait so long for MLflow."""
        if self._writer is not None:
            await asyncio.to_thread(self._writer.stop)
        if self._tracking is not None:
            await self._tracking.close(timeout_s)
