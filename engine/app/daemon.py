"""The daemon: recovers the fold, then lets feeds put inputs in, keeps them, serves what comes out, and stops without losing any.

Everything runs on one loop. What is slow (disks, compression, hashing of snapshots) runs in threads and cannot reach back.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from engine.app.feeding import Feeding
from engine.app.keeper import Keeper, write_digest
from engine.app.model_effects import ModelEffects
from engine.app.workers import Workers
from engine.clock import LiveClock
from engine.config import Config
from engine.errors import ConfigError, EngineError, JournalError
from engine.events import Command, Configured, Gap, Heartbeat, History
from engine.fold import Fold
from engine.health import Digested, ExchangeHealth, FeedHealth, JournalHealth, SnapshotHealth, TrackingHealth
from engine.intake import Intake
from engine.latency import Latency
from engine.log import Reporter
from engine.models.placing import place_models
from engine.models.worker_state import PoolHealth, check_saved
from engine.serving.server import Server, serve
from engine.watchdog import PROCESS_HELD, Watchdog
from replay.definition import definition_of, fold_config
from replay.driver import build_fold
from replay.history import fold_journal, restore_newest
from replay.merge import merge
from replay.sources import Source
from store.folder import DataFolder
from store.journal import Journal
from store.segment import first_sequence
from store.snapshot import Found

if TYPE_CHECKING:
    from store.export import Exporter

NS_PER_S = 1_000_000_000
TICK_S = 0.2
"""How often the daemon looks whether something is due: a heartbeat, a digest, another try to journal."""
RETRY_S, RETRY_MAX_S = 1.0, 30.0
"""How long after a failure it tries to journal again: each try writes a snapshot with the loop held."""
STOP_S = 2.0
"""How long each part may take to stop: a SIGTERM is to be done with within 5 s."""
TRACK_S = 1.5
"""How long MLflow may take of that; what it has not been told by then is kept for the next start."""
SWITCH_S = 0.0005
"""A thread gives way to the loop after this long; Python's own 5 ms would be the worst latency there is."""


class Daemon:
    """One daemon over one data folder, which the caller has acquired. `run` returns its exit code."""

    def __init__(
        self,
        config: Config,
        folder: DataFolder,
        strategies: Callable[[], list[Any]],
        *,
        log: Any,
        warm: Sequence[Source] = (),
        ready: Callable[[Daemon], None] | None = None,
    ) -> None:
        self.config = config
        self.version = version("tickfold")
        self.folder = folder
        self.clock = LiveClock()
        self.started = self.clock.now()
        self.latency = Latency()
        self.server: Server | None = None
        self._log = log
        self._report = Reporter(log, True)
        self._strategies = strategies
        self._warm = warm
        self._ready = ready
        self._starting = "starting"
        self._listeners: list[Callable[[Any], None]] = []
        self._feeding = Feeding(config, log, folder.products)
        self._tasks: list[asyncio.Task[Any]] = []
        self._stop = asyncio.Event()
        self._exit = 0
        self._failure = ""
        self._retry_at, self._retry_s = 0.0, RETRY_S
        self._watchdog = Watchdog(config.watchdog.hold_ms, heard=self._held, lasting=self._held)
        self._holds: deque[tuple[int, int, str]] = deque(maxlen=20)
        self._result: dict[str, Any] | None = None
        self.fold: Fold
        self._intake: Intake
        self._journal: Journal
        self._keeper: Keeper
        self._workers: Workers | None = None
        self._exporter: Exporter | None = None
        self._models: ModelEffects

    # -- what the HTTP side asks (engine.serving.host.Host)

    def starting(self) -> str:
        return self._starting

    def feeds(self) -> list[FeedHealth]:
        return self._feeding.health()

    def exchanges(self) -> list[ExchangeHealth]:
        return self._feeding.exchanges()

    def journal(self) -> JournalHealth:
        journal, is_kept = self._journal, self._intake.journal is not None
        return JournalHealth(
            state="journaling" if is_kept else "not journaling",
            folder=str(self.folder.journal),
            sequence=journal.next_sequence - 1,
            synced=journal.synced,
            bytes_written=journal.bytes_written,
            segments=journal.segments,
            detail=self._failure or (self._exporter.error if self._exporter is not None else ""),
        )

    def workers(self) -> PoolHealth | None:
        return None if self._workers is None else self._workers.health()

    def snapshots(self) -> SnapshotHealth:
        return self._keeper.health()

    def tracking(self) -> TrackingHealth | None:
        return self._models.health() if hasattr(self, "_models") else None

    def holds(self) -> list[tuple[int, int, str]]:
        return list(self._holds)

    def digest(self) -> Digested:
        return self._keeper.digest()

    def listen(self, hear: Callable[[Any], None]) -> Callable[[], None]:
        self._listeners.append(hear)
        return lambda: self._listeners.remove(hear) if hear in self._listeners else None

    def command(self, verb: str, target: str) -> Command:
        if self._starting or self._stop.is_set():
            raise ConfigError(
                f"{verb} {target!r}: expected a daemon that is ready; it is {self._starting or 'stopping'}"
            )
        if verb == "snapshot" and target:
            raise ConfigError(f"target {target!r}: expected none for a snapshot")
        if verb == "snapshot" and self._intake.journal is None:
            raise ConfigError(
                "snapshot: expected a daemon that journals; a snapshot of other inputs could not be folded again"
            )
        now = self.clock.now()
        try:
            command = msgspec.convert(
                {"type": "Command", "verb": verb, "target": target, "timestamp": now, "received": now}, Command
            )
        except msgspec.ValidationError as error:
            raise ConfigError(f"verb {verb!r}: expected add_symbol, remove_symbol, park, resume or snapshot") from error
        self.fold.check(command)
        self._feeding.check(command)
        numbered = self._intake.tell(command)
        self._feeding.obey(numbered)
        if verb == "snapshot":
            self._keeper.wanted.set()
        return numbered

    # -- life

    async def run(self) -> int:
        """Run until a signal. Returns the exit code; raises EngineError for what keeps it from starting."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)
        sys.setswitchinterval(SWITCH_S)
        try:
            await self._start()
            await self._stop.wait()
            return self._exit
        except EngineError as error:
            self._log.info("did not start", error=str(error))  # whoever started it is told by its exit
            raise
        finally:
            await self._finish()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _signalled(self, number: int) -> None:
        if self._stop.is_set():
            os._exit(128 + number)  # asked a second time: at once
        self._stop.set()

    async def _start(self) -> None:
        # Where it is measured what a model costs, that may take seconds: no signal waits for it.
        models = await asyncio.to_thread(place_models, self.config.models, self.folder.models)
        config = self.config = msgspec.structs.replace(self.config, models=models)
        self._models = ModelEffects(config, self.folder, self._log)
        await self._feeding.prepare()
        self._journal = Journal.open(
            self.folder.journal,
            segment_bytes=config.journal.segment_mib << 20,
            fsync=config.journal.fsync,
            fsync_ms=config.journal.fsync_ms,
            retention_bytes=config.journal.retention_mib << 20,
            created=self.clock.now(),
        )
        if self._journal.torn is not None:
            self._log.warning("torn tail cut", **msgspec.to_builtins(self._journal.torn, enc_hook=str))
        self.fold, definition, found = restore_newest(
            self._build, self.folder, self._journal.next_sequence - 1, self._passed_over, fits=self._has_models
        )
        self._intake = Intake(
            self.fold,
            None,
            clock=self.clock,
            later=asyncio.get_running_loop().call_soon,
            failed=self._cannot_journal,
            broke=self._broke,
            latency=self.latency,
            shed_behind_ns=config.feeds.shed_behind_ms * 1_000_000,
        )
        self._models.attach(self.fold)
        self._begin_workers(definition)
        unknown = Configured("", definition, 1, 0, 0)  # until it is known what the fold was configured by
        self._keeper = self._new_keeper(unknown)
        self.server = await serve(self)
        if self._workers is not None and self.fold.models is not None:
            self._starting = "building models in workers"
            await self._workers.check(self.fold.models.specs)
            if found is not None:
                self._workers.load(found.head.sequence)
        await self._recover(definition, found)
        if self._stop.is_set():
            return
        if not self._failure:
            self._intake.journal = self._journal
        self.fold.report = self._hear
        if self._workers is not None:
            self._workers.recovered()
        await self._warm_up()
        if self._stop.is_set():
            return
        await self._feeding.start(self.fold, clock=self.clock, inbox=self._intake, spawn=self._spawn)
        self._spawn(self._keeper.run(config.snapshots.every_s))
        self._spawn(self._look_after())
        if self._workers is not None:
            self._spawn(self._workers.relieve(self._intake.release))
        self._models.start(self.fold, self.command, self.listen, self._spawn)
        gc.collect()
        gc.freeze()
        self._watchdog.start()
        self._starting = ""
        self._log.info("ready", sequence=self.fold.sequence(), url=self.server.url, data=str(self.folder.path))
        if self._ready is not None:
            self._ready(self)
        if config.journal.export:
            self._spawn(self._export())

    async def _export(self) -> None:
        """Export what is sealed, until cancelled. Arrow takes a fifth of a second to import, which a start does not wait for."""
        module = await asyncio.to_thread(importlib.import_module, "store.export")
        self._exporter = module.Exporter(self.folder.journal, self.folder.ticks)
        self._exporter.start()
        await asyncio.Event().wait()

    def _exported(self) -> int | None:
        """The sequence up to which segments were exported; None where they are not to be."""
        if not self.config.journal.export:
            return None
        return 0 if self._exporter is None else self._exporter.exported

    def _new_keeper(self, configured: Configured) -> Keeper:
        return Keeper(
            self.fold,
            self.folder,
            self._journal,
            clock=self.clock,
            keep=self.config.snapshots.keep,
            configured=configured,
            may=lambda: self._intake.journal is not None,
            checkpoint_inputs=self.config.journal.checkpoint_inputs,
            exported=self._exported,
            warn=lambda text: self._log.warning("snapshot failed", error=text),
            models=self._workers,
            first=self._models.flush,
        )

    def _build(self) -> tuple[Fold, str]:
        """Make a fold that is not started yet, and the hash of what it computes."""
        strategies = self._strategies()
        fold = build_fold(self.config, strategies, digests=True, begins=False)
        return fold, definition_of(self.config, fold.features, strategies)  # type: ignore[arg-type]

    def _has_models(self, fold: Fold, found: Found) -> None:
        """Raise ModelError unless the models of worker processes were saved with a snapshot."""
        if fold.models is not None and fold.models.requests is not None:
            check_saved(fold.models.requests, self.folder.models, found.head.sequence, found.head.definition)

    def _begin_workers(self, definition: str) -> None:
        """Start worker processes if a model runs in them."""
        requests = None if self.fold.models is None else self.fold.models.requests
        if requests is None:
            return
        self._workers = workers = Workers(
            self.fold, requests, self.folder.models, definition, clock=self.clock, offer=self._intake.offer, log=self._log
        )  # fmt: skip
        self._intake.afterwards = workers.turned
        self._intake.is_held = lambda: workers.is_pressed

    async def _recover(self, definition: str, found: Found | None) -> None:
        """Fold what the journal holds behind the snapshot, or all of it; journal the configuration if it is another."""
        last = self._journal.next_sequence - 1
        self._forget_digest(last)
        began = time.perf_counter()
        begins = first_sequence(self.folder.journal) if found is None else found.head.configured.begins
        if found is None:
            self.fold.start()
            self.fold.ingress.next_sequence = begins
        restored = self.fold.ingress.next_sequence - 1
        for sequence in fold_journal(self.fold, self.folder.journal):
            done = (sequence - restored) / max(last - restored, 1)
            self._starting = f"folding the journal: {done:.0%}"
            await (asyncio.sleep(0) if self._workers is None else self._workers.recover())
            if self._stop.is_set():
                return
        if self.fold.ingress.next_sequence != self._journal.next_sequence:
            raise JournalError(
                f"{self.folder.journal}: folded up to sequence {self.fold.ingress.next_sequence - 1}, expected {last}"
            )
        self.clock = LiveClock(max(self._journal.last_received, self.fold.now()) + 1)
        self._intake.use_clock(self.clock)
        if self._workers is not None:
            self._workers.use_clock(self.clock)
        configured = self.fold.configured
        if configured is None or (configured.definition, configured.begins) != (definition, begins):
            # Before the first input of all nothing was received; history that comes next is older than now.
            now = self.clock.now() if last else 0
            self._intake.journal = self._journal
            configured = self._intake.tell(Configured(fold_config(self.config), definition, begins, now, now))
        self._keeper = self._new_keeper(configured)
        if last:
            seconds = time.perf_counter() - began
            self._log.info(
                "recovered", snapshot=restored if found is not None else 0, inputs=last - restored, seconds=round(seconds, 3),
            )  # fmt: skip
            if found is None and begins > 1:
                self._log.warning(
                    "history is gone",
                    begins=begins,
                    hint="values are NaN until they are warm: no snapshot fits what is computed now",
                )

    def _forget_digest(self, last: int) -> None:
        """Delete digests of inputs that the journal has lost: others will get their numbers."""
        try:
            noted = msgspec.json.decode(self.folder.digest.read_bytes(), type=dict[str, Any])
            if int(noted["sequence"]) > last:
                self.folder.digest.unlink()
                self._log.error(
                    "acknowledged inputs are missing", journal_ends_at=last, digest_of=noted["sequence"],
                    hint="a power cut before they were on the disk, or a journal that is not this folder's",
                )  # fmt: skip
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            self._log.warning("digest.json cannot be read", error=str(error))

    def _passed_over(self, why: str) -> None:
        self._log.warning("snapshot passed over", reason=why)

    async def _warm_up(self) -> None:
        """Fold recorded ticks as history, before the first tick of a feed. A folder that knows of inputs has its history."""
        fresh = self.fold.folded == 0
        if self.fold.is_history:
            self._tell_history("ends", "interrupted", self.clock.now())
            self._log.warning("history was interrupted", hint="what was folded of it stays; the rest is missing")
        elif self._warm and not fresh:
            self._log.warning(
                "not warmed", hint=f"{self.folder.path} holds inputs already, and history would come after them"
            )
        if not self._warm or not fresh:
            return
        name = ", ".join(source.name for source in self._warm)
        self._starting = f"folding history: {name}"
        blocks = (block for block in merge([source.blocks(self.fold.keys) for source in self._warm]) if len(block))
        for count, block in enumerate(blocks):
            if not count:
                # Recorded ticks were received when they were recorded, and so was the news that they come.
                self._tell_history("begins", name, int(block.received[0]))
            self._intake.admit(block)
            await (asyncio.sleep(0) if self._workers is None else self._workers.caught_up())
            if self._stop.is_set():
                break
        is_whole = not self._stop.is_set()
        if self.fold.is_history:
            self._tell_history("ends", name if is_whole else "interrupted", self.clock.now())
        self._log.info("warmed" if is_whole else "history was interrupted", source=name, inputs=self.fold.folded)

    def _tell_history(self, phase: Literal["begins", "ends"], source: str, received: int) -> None:
        self._intake.tell(History(phase, source, received, received))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """A part that ends by itself while the daemon runs has a defect: it is said, and the daemon stops rather than limp on."""
        if task.cancelled() or self._stop.is_set():
            return
        error = task.exception()
        self._log.error("a part of the daemon ended", part=task.get_coro().__qualname__, exc_info=error)  # type: ignore[union-attr]
        self._exit = 1
        self._stop.set()

    async def _look_after(self) -> None:
        """Do what is due: heartbeats, digests in the journal, another try to journal."""
        heartbeat_ns = round(self.config.feeds.heartbeat_s * NS_PER_S)
        sealed = 0
        while True:
            await asyncio.sleep(TICK_S)
            now = self.clock.now()
            if now - self._intake.newest >= heartbeat_ns and not self._intake.waiting:
                self._intake.offer([Heartbeat(now, now)])
            if self._intake.journal is not None:
                if self._exporter is not None and self._journal.sealed != sealed:
                    sealed = self._journal.sealed
                    self._exporter.notify()
                try:
                    await self._keeper.note_digest()
                except JournalError as error:
                    self._intake.journal = None
                    if not self._cannot_journal(error):
                        self._intake.stopped = True
            elif self._failure and time.monotonic() >= self._retry_at:
                self._journal_again()

    # -- trouble

    def _held(self, when: int, how_long: int, what: str) -> None:
        self._holds.append((when, how_long, what))
        # A starved machine is nobody's fault here.
        say = self._log.info if what == PROCESS_HELD else self._log.warning
        say("loop held", ms=round(how_long / 1e6, 1), by=what)

    def _cannot_journal(self, error: JournalError) -> bool:
        """The journal cannot be written. Returns whether to fold on without it."""
        self._failure = str(error)
        self._keeper.abort()
        self._retry_at = time.monotonic() + self._retry_s
        if self.config.journal.on_failure == "continue":
            self._log.error(
                "not journaling",
                error=str(error),
                hint="inputs are folded and not kept until the disk takes them again",
            )
            return True
        self._log.error("stopping", error=str(error), hint='journal.on_failure = "stop"')
        self._exit = 3
        self._stop.set()
        return False

    def _broke(self, error: BaseException) -> None:
        """Inputs were journaled and could not be folded: a defect. The journal has them; what the fold has become is not kept."""
        self._log.error(
            "the fold broke",
            error=f"{type(error).__name__}: {error}",
            exc_info=error,
            hint="a restart folds the journal",
        )
        self._exit = 1
        self._stop.set()

    def _journal_again(self) -> None:
        """Try to journal again: a snapshot and a break record first, digests anew."""
        self._retry_s = min(2.0 * self._retry_s, RETRY_MAX_S)
        self._retry_at = time.monotonic() + self._retry_s
        sequence = self.fold.ingress.next_sequence
        for digests in self.fold.digests.values():
            digests.clear()
        try:
            # The snapshot before the segment: where there is no room for it, no segment is begun for nothing.
            self._keeper.take_at_once()
            self._journal.resume(sequence, self._failure)
        except (EngineError, OSError) as error:
            self._failure = str(error)
            return
        self._intake.journal = self._journal
        self._failure, self._retry_s = "", RETRY_S
        self._log.warning(
            "journaling again", sequence=sequence, hint="what came meanwhile was folded, and is not in the journal"
        )

    def _hear(self, event: Any) -> None:
        """Tell the log and all listeners what the fold reports. What they make of it cannot reach back, errors included."""
        if isinstance(event, Gap):
            self._feeding.gap(event)  # what comes of it are new inputs
        hearing: list[Callable[[Any], None]] = [self._report, *self._listeners]
        for hear in hearing:
            try:
                hear(event)
            except Exception as error:
                if hear in self._listeners:
                    self._listeners.remove(hear)
                self._log.error("a listener failed and hears no more", event_type=type(event).__name__, exc_info=error)

    # -- the end

    async def _finish(self) -> None:
        """Stop in the order of the flow: no new inputs, fold what waits, keep the state, say what it is. Each part has its time."""
        self._log.info("stopping")
        await self._feeding.stop(STOP_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._watchdog.stop()
        if hasattr(self, "_journal"):
            await self._keep()
        if hasattr(self, "_models"):
            await self._models.stop(TRACK_S)
        if self.server is not None:
            await self.server.stop()
        self._log.info("stopped", sequence=self.sequence())

    async def _keep(self) -> None:
        """Fold what waits, take a last snapshot, write the digests. The journal has all that leads to them, whatever fails here."""
        try:
            if hasattr(self, "_keeper") and not self._starting and not self._intake.stopped:
                self._intake.drain()
                if self._intake.journal is not None:
                    await asyncio.wait_for(self._keeper.take(), STOP_S)
                    self._result = write_digest(self.folder, self.fold)
        except TimeoutError:
            self._log.warning(
                "the last snapshot was given up", hint=f"it took more than {STOP_S} s; the next start folds the journal"
            )
            self._result = write_digest(self.folder, self.fold)
        except (EngineError, OSError) as error:
            self._log.error(
                "the last state was not kept", error=str(error), hint="the journal has all that leads to it"
            )
        finally:
            if self._workers is not None:
                self._workers.close()  # before the keeper, whose thread may wait for them
            if hasattr(self, "_keeper"):
                self._keeper.close()
            if self._exporter is not None:
                self._exporter.stop()
            try:
                self._journal.close()
            except JournalError as error:
                self._log.error("the journal could not be closed", error=str(error))

    def sequence(self) -> int:
        """The sequence of the input being folded; 0 before there is a fold. Any thread may ask."""
        return self.fold.sequence() if hasattr(self, "fold") else 0

    def result(self) -> dict[str, Any]:
        """What `tickfold replay DIR --digest --json` prints of the same inputs; its digest is None where the end was not reached."""
        if self._result is not None:
            return self._result
        has_fold = hasattr(self, "fold")
        inputs, sequence = (self.fold.folded, self.fold.ingress.next_sequence - 1) if has_fold else (0, 0)
        return {"inputs": inputs, "sequence": sequence, "digest": None}
