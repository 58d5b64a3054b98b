"""The fold: inputs in, features and signals out. Live, replay and back-test are this one class; only what feeds it differs.

A block goes through the ingress, then key by key through the compiled program, which may so write rows ahead of the Python that is
to hear of them. Then the events that somebody subscribed to are built and delivered in the order of their inputs; while one is
delivered, `now()` and the store's cursor stand at its input, so nothing later can be seen. Where nobody listens, nothing is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from engine.actor import Actor, Supervisor
from engine.block import Block, Keys
from engine.bus import Route
from engine.digest import Digests
from engine.errors import ConfigError, StrategyError
from engine.events import (
    Answer,
    Command,
    Configured,
    Drift,
    Event,
    FeedStatus,
    Gap,
    HandlerFailed,
    Heartbeat,
    History,
    Key,
    Outcome,
    Parked,
    Prediction,
    Promotion,
    Quote,
    Refused,
    Resumed,
    Shed,
    Signal,
    Tick,
    WindowOverflow,
)
from engine.features import Features, Lane
from engine.ingress import BAD_PRICE, DUPLICATE, OUTCOMES, QUOTE, TRADE, Admitted, Ingress
from engine.input_digest import hash_inputs
from engine.models.state import model_parts
from engine.outbox import FIRST_VIEW_RANK, GAP_RANK, Columns, Outbox
from engine.row_digests import RowsToHash
from engine.state import ActorState, FoldState, KeyState, key_digest, state_digest

if TYPE_CHECKING:
    from engine.models.stage import ModelStage

NOTICES = frozenset((Gap, Refused, WindowOverflow, Drift, Promotion, HandlerFailed, Parked, Resumed))
"""What is reported when its turn has come, whether or not anybody hears it."""
TOLD = (FeedStatus, Heartbeat, Command, Configured, History, Shed, Answer)
INPUTS = (Tick, Quote, Gap, *TOLD)
MODEL_VERBS = ("promote", "rollback", "pin", "unpin")
T = TypeVar("T", bound="Told")
Told: TypeAlias = FeedStatus | Heartbeat | Command | Configured | History | Shed | Answer
"""Inputs that are not of the market: they reach the fold one by one."""


class Fold:
    """Folds inputs in one order. Pure: what it knows of the world is what it is given.

    `keys` numbers the keys of the blocks; several folds may share one. `digests` off saves the hashing. `report` hears of everything
    published, and of what the ingress refused. `rows` is given all new rows of a view and key, (timestamp, received, sequence) x
    count and features x count, valid until it returns.
    """

    def __init__(
        self,
        ingress: Ingress,
        features: Features,
        *,
        keys: Keys | None = None,
        models: ModelStage | None = None,
        bus_limit: int = 10_000,
        digests: bool = False,
        report: Callable[[Any], None] | None = None,
        rows: Callable[[str, Key, npt.NDArray[np.int64], npt.NDArray[np.float64]], None] | None = None,
    ) -> None:
        self.ingress = ingress
        self.features = features
        self.models = models
        self.keys = Keys() if keys is None else keys
        self.report = report
        self.rows = rows
        self.supervisor = Supervisor(now=self._stamp, bus_limit=bus_limit, outlet=self._published, fill=self._completed)
        self.bus = self.supervisor.bus
        self.is_digested = digests
        self._digests = {"inputs": Digests(), "features": Digests(), "predictions": Digests(), "signals": Digests()}
        self._rows_to_hash = RowsToHash(self._digests["features"], features, lambda code: self.keys[code])
        self._gaps = 0
        self.signals = 0
        self.symbols: dict[str, bool] = {}
        """What operators added (True) and removed (False), by "exchange:symbol"."""
        self.is_history = False
        """Whether recorded ticks are folded as history, of which no strategy hears."""
        self.journal: Callable[[Admitted], None] | None = None
        """Gets what `push` has admitted before it is folded: a replay into a data folder writes it there."""
        self.configured: Configured | None = None
        """The newest configuration among the inputs: says by what they are folded, and changes nothing."""
        self.before_change: Callable[[int], None] | None = None
        """Hears the number of a key whose state is about to change; a snapshot that is being taken copies it then."""
        self._current: Any = Heartbeat(0, 0)
        self._places = features.program.places
        self._outbox = Outbox(self.bus, features.views, 0 if models is None else len(models.specs))
        self._reports: list[Any] = []
        features.cursor = self.sequence
        if models is not None:
            models.before_change = self._touch
            models.number_of = self._code

    @property
    def digests(self) -> dict[str, Digests]:
        """The digests of each kind of stream, up to the last input."""
        self._rows_to_hash.hash_all()
        return self._digests

    @property
    def digest_kinds(self) -> tuple[str, ...]:
        """inputs, features, predictions, signals."""
        return tuple(self._digests)

    @property
    def digest_bytes(self) -> int:
        """Bytes in open chunks: what hashing all streams takes."""
        return sum(digests.open_bytes for digests in self._digests.values())

    @property
    def gaps(self) -> int:
        """Gaps found: how often trade ids were skipped."""
        return self._gaps

    @property
    def folded(self) -> int:
        """Inputs folded: trades, quotes and gaps; neither late ones nor what the ingress dropped."""
        return self._gaps + int(self.ingress.counts[:, [TRADE, QUOTE]].sum())

    # -- time and identity, as actors see them

    def now(self) -> int:
        """`received` of the input being folded, ns UTC: the only time there is inside the fold."""
        received: int = self._current.received
        return received

    def timestamp(self) -> int:
        """`timestamp` of the input being folded, ns UTC."""
        found: int = self._current.timestamp
        return found

    def sequence(self) -> int:
        """The sequence of the input being folded."""
        found: int = self._current.sequence
        return found

    def stand_at(self, event: Heartbeat) -> None:
        """Stand behind an input that was folded before: a snapshot was restored."""
        self._current = event

    def become(self, gaps: int, signals: int, symbols: Mapping[str, bool], is_history: bool) -> None:
        """Take over counts and switches of a snapshot."""
        self._gaps, self.signals, self.symbols = gaps, signals, dict(symbols)
        self._mute(is_history)

    def _mute(self, is_history: bool) -> None:
        self.is_history = self.bus.muted = is_history
        if self.models is not None:
            self.models.mute(is_history)

    def _stamp(self) -> tuple[int, int, int]:
        return self._current.timestamp, self._current.received, self._current.sequence

    # -- actors

    def add(self, actor: Actor) -> None:
        """Let an actor take part. Before the first input."""
        self.supervisor.add(actor)

    def start(self) -> None:
        """Start all actors."""
        self.supervisor.start()
        self._give_out()

    def stop(self) -> None:
        """Stop all actors; signals that they give then carry the last input's times."""
        self.supervisor.stop()
        self._give_out()

    def _completed(self, actor: Actor, event: Any) -> Any:
        """Give a signal its strategy's name and the times of the input that it answers.

        Raises StrategyError for what is no event, is an input (only the ingress makes those), or holds values of another type:
        whatever passes can be delivered, digested and reported.
        """
        if not isinstance(event, Event) or isinstance(event, INPUTS):
            raise StrategyError(
                f"{actor.name} published {type(event).__name__} {event!r:.80}: expected events such as Signal"
            )
        if isinstance(event, Signal):
            timestamp, received, sequence = self._stamp()
            event = msgspec.structs.replace(
                event, strategy=actor.name, timestamp=timestamp, received=received, sequence=sequence
            )
        try:
            return msgspec.convert(msgspec.structs.asdict(event), type(event))
        except msgspec.ValidationError as error:
            raise StrategyError(f"{actor.name} published {type(event).__name__} {event!r:.80}: {error}") from error

    def _published(self, event: Any) -> None:
        if isinstance(event, Signal):
            self.signals += 1
            if self.is_digested:
                values = np.array([[event.value]], np.float64)
                name = (event.strategy, event.exchange, event.symbol)
                self._digests["signals"].add(name, np.array([event.timestamp], np.int64), values)
        if self.report is not None:
            self._reports.append(event)

    def _give_out(self) -> None:
        """Report what happened, in its order. Nothing here can reach back: the fold is done with it."""
        reports, self._reports = self._reports, []
        if self.report is not None:
            for event in reports:
                self.report(event)

    # -- inputs

    def input(self, event: Told) -> None:
        """Number an input that is not of the market, and fold it.

        Raises ConfigError for a command that cannot be obeyed; it is no input then.
        """
        self.check(event)
        self.obey(self.number(event))

    def check(self, event: Told) -> None:
        """Raise ConfigError for a command that cannot be obeyed: to an actor that is not there, of what is no key."""
        if not isinstance(event, Command):
            return
        if self._is_of_models(event):
            if self.models is None:
                raise ConfigError(f"{event.verb} {event.target!r}: expected a fold with models; models.run names none")
            self.models.check(event)
        elif event.verb in ("park", "resume"):
            self.supervisor.check(event)
        elif event.verb in ("add_symbol", "remove_symbol") and not all(event.target.partition(":")):
            raise ConfigError(f"{event.verb} {event.target!r}: expected exchange:symbol, such as binance:BTC/USDT")

    def _is_of_models(self, command: Command) -> bool:
        """Whether a command is for models: a parked version is resumed by the name that the failure had, MODEL@VERSION EXCHANGE:SYMBOL."""
        if command.verb == "resume":
            return self.models is not None and "@" in command.target and command.target not in self.supervisor.actors
        return command.verb in MODEL_VERBS

    def number(self, event: T) -> T:
        """Give an input that is not of the market its number. Its place is between what was admitted before and what will be after.

        So it does to the ingress here what it does: ids that are declared lost are waited for no longer, a count begins anew.
        """
        numbered = msgspec.structs.replace(event, sequence=self.ingress.number())
        if isinstance(numbered, FeedStatus) and numbered.status in ("lost", "restarted"):
            code = self.keys.find((numbered.exchange, numbered.symbol))
            if code is not None and numbered.status == "restarted":
                self.ingress.begin_anew(code)
            elif code is not None and numbered.first_id is not None and numbered.last_id is not None:
                self.ingress.give_up(code, numbered.first_id, numbered.last_id)
        return numbered

    def obey(self, event: Told) -> None:
        """Fold an input that has its number already."""
        self._current = event
        if isinstance(event, Command):
            if event.verb in ("park", "resume") and not self._is_of_models(event):
                self.supervisor.obey(event)
            elif event.verb in ("add_symbol", "remove_symbol"):
                self.symbols[event.target] = event.verb == "add_symbol"
        elif isinstance(event, Configured):
            self.configured = event
        elif isinstance(event, History):
            self._mute(event.phase == "begins")
            self.bus.refresh()
        if self.report is not None and not isinstance(event, (Heartbeat, Answer)):
            self._reports.append(event)
        self.bus.send(event)
        for brought in self._of_models(event):
            if self.report is not None and type(brought) in NOTICES:
                self._reports.append(brought)
            self.bus.send(brought)
        self._give_out()

    def _of_models(self, event: Told) -> Iterable[Any]:
        """Let the models obey; return the events that it brought about."""
        if self.models is None:
            return ()
        if isinstance(event, Command) and self._is_of_models(event):
            for code in range(len(self.keys)):
                if self.before_change is not None:
                    self.before_change(code)
            return self.models.obey(event)
        if isinstance(event, Answer):
            found = self.keys.find((event.exchange, event.symbol))
            if self.before_change is not None and found is not None:
                self.before_change(found)
            served = self.models.answer(event, self._digests["predictions"] if self.is_digested else None)
            return () if served is None else (served,)
        return ()

    def push(self, block: Block) -> None:
        """Admit market inputs and fold them, in their order. The keys in the block are numbers of `self.keys`."""
        self.open_keys()
        for start, stop in self.cuts(block):
            admitted = self.ingress.admit(block if stop - start == len(block) else block.take(slice(start, stop)))
            if self.journal is not None:
                self.journal(admitted)
            self.take(admitted)

    def replay(self, admitted: Admitted) -> None:
        """Fold market inputs that were admitted, numbered and journaled before."""
        self.open_keys()
        for start, stop in self.cuts(admitted.block):
            part = admitted.part(start, stop)
            self.ingress.follow(part)
            self.take(part)

    def open_keys(self) -> None:
        """Let the ingress know of keys that are new."""
        if len(self.keys) > len(self.ingress.state):
            self.ingress.open([self.keys[code][0] for code in range(len(self.keys))])

    def cuts(self, block: Block) -> Iterator[tuple[int, int]]:
        """Say where to cut a block so that no key has more rows in a part than its lane takes at once."""
        start = 0
        while start < len(block):
            stop = self._stop(block, start)
            yield start, stop
            start = stop

    def _stop(self, block: Block, start: int) -> int:
        """The end of the longest part in which no key has more rows than its lane takes at once."""
        most = self.features.block_rows
        if len(block) - start <= most:
            return len(block)
        size = min(len(block) - start, most * max(1, len(self.keys)))
        while size > most and np.bincount(block.key[start : start + size]).max() > most:
            size = max(most, size // 2)
        return start + size

    def take(self, admitted: Admitted) -> None:
        """Fold a part that went through the ingress, now or before it was journaled."""
        count = len(admitted.block)
        if count > 1 and self.models is not None and self.models.is_one_by_one:
            for at in range(count):
                self._take(admitted.part(at, at + 1))
        else:
            self._take(admitted)

    def _take(self, admitted: Admitted) -> None:
        block, outcome = admitted.block, admitted.outcome
        columns = (
            outcome, block.timestamp, admitted.received, admitted.sequence, block.price, block.volume, block.side,
            block.ask, block.ask_volume,
        )  # fmt: skip
        self._gaps += len(admitted.gaps)
        if len(block) == 1 or (block.key == block.key[0]).all():
            self._fold_key(block.key.item(0), columns, admitted, None, admitted.gaps)
        else:
            codes = np.flatnonzero(np.bincount(block.key, minlength=len(self.keys)))
            order = np.argsort(block.key, kind="stable")
            ends = np.searchsorted(block.key[order], codes, side="right").tolist()
            gap_codes = block.key[admitted.gaps[:, 0]]
            gap_order = np.argsort(gap_codes, kind="stable")
            gap_ends = np.searchsorted(gap_codes[gap_order], codes, side="right").tolist()
            first = first_gap = 0
            for code, end, gap_end in zip(codes.tolist(), ends, gap_ends, strict=True):
                rows, gaps = order[first:end], admitted.gaps[gap_order[first_gap:gap_end]]
                self._fold_key(code, tuple(c[rows] if len(c) else c for c in columns), admitted, rows, gaps)
                first, first_gap = end, gap_end
        if self.report is not None and outcome.max() > DUPLICATE:
            self._refused(admitted)
        for event, hearing in self._outbox.take():
            if type(event) in NOTICES and self.report is not None:
                self._reports.append(event)
                if type(event) is Refused:
                    continue  # no input, so nobody in the fold may know of it: a replay of the journal has none
            self._current = event
            self.bus.deliver(event, hearing)
        last = len(block) - 1 if len(block) == 1 else int(admitted.sequence.argmax())
        if sequence := admitted.sequence.item(last):
            # Readers from outside, and what comes between blocks, stand behind the last input.
            self._current = Heartbeat(block.timestamp.item(last), admitted.received.item(last), sequence)
        self._give_out()

    def _fold_key(
        self,
        code: int,
        columns: Columns,
        admitted: Admitted,
        rows: npt.NDArray[np.intp] | None,
        gaps: npt.NDArray[np.int64],
    ) -> None:
        """Fold one key's rows, and build what is due to those who listen."""
        key = self.keys[code]
        if not self.ingress.has_input(code):
            return  # refused or dropped throughout so far: no memory is spent on it
        if self.before_change is not None:
            self.before_change(code)
        lane = self.features.lane(key)
        before = lane.all_emitted()
        overflows = lane.run(columns)
        fresh = [after - count for after, count in zip(lane.all_emitted(), before, strict=True)]
        if self.is_digested:
            hash_inputs(self._digests["inputs"], key, columns, admitted, rows, gaps)
            self._rows_to_hash.note(code, fresh)
        if self.rows is not None:
            for view, place in self._places.items():
                if count := fresh[place.scope]:
                    self.rows(view, key, lane.stamps(place.scope, count), lane.values(view, count))
        if len(gaps):
            self._gaps_of(key, gaps, admitted)
        own = (admitted.block.kind, admitted.block.trade_id)
        kind, ids = own if rows is None else (own[0][rows], own[1][rows])
        self._outbox.add_inputs(key, columns, kind, ids)
        for rank, (view, place) in enumerate(self._places.items(), FIRST_VIEW_RANK):
            if count := fresh[place.scope]:
                self._outbox.add_features(key, lane, view, rank, place.scope, place.columns, count)
        if self.models is not None:
            self._run_models(self.models, key, lane, columns, fresh)
        for row, span in overflows:
            times = columns[1].item(row), columns[2].item(row), columns[3].item(row)
            event = WindowOverflow(*key, span.text, self.features.window_ticks_max, *times)
            self._tell(event.sequence, self._outbox.last_rank, event, key)

    def _run_models(self, models: ModelStage, key: Key, lane: Lane, columns: Columns, fresh: list[int]) -> None:
        """Let the models of a key learn and predict; queue what is due of it."""
        bus, digests = self.bus, self._digests["predictions"] if self.is_digested else None
        hears = {"predictions": bool(bus.routes(Prediction, key)), "outcomes": bool(bus.routes(Outcome, key))}
        for number, due in models.run(key, lane, columns, fresh, digests, **hears):
            wanted = [
                (one.sequence, one.event, routes)
                for one in due
                if (routes := self._hearing(one.event, key)) or (one.is_news and self.report is not None)
            ]
            if wanted:
                sequences, events, hearing = zip(*wanted, strict=True)
                self._outbox.add_in_order(sequences, self._outbox.first_model_rank + number, events, hearing)

    def _hearing(self, event: Any, key: Key) -> tuple[Route, ...]:
        """Who hears an event of a model; a promotion of all keys speaks of others than the key that brought it about."""
        return self.bus.routes(type(event), (event.exchange, event.symbol) if isinstance(event, Promotion) else key)

    def _code(self, key: Key) -> int:
        return self.keys.code(key)

    def _touch(self, key: Key) -> None:
        code = self.keys.find(key)
        if self.before_change is not None and code is not None:
            self.before_change(code)

    def _tell(self, sequence: int, rank: int, event: Any, key: Key) -> None:
        """Queue an event of the engine's own for who hears it, and for the report."""
        self._outbox.add(sequence, rank, event, self.bus.routes(type(event), key), anyway=self.report is not None)

    def _gaps_of(self, key: Key, gaps: npt.NDArray[np.int64], admitted: Admitted) -> None:
        if self.report is None and not self.bus.routes(Gap, key):
            return
        block = admitted.block
        for row, sequence, first, last, missing, filled in gaps.tolist():
            times = block.timestamp.item(row), admitted.received.item(row)
            self._tell(sequence, GAP_RANK, Gap(*key, first, last, missing, filled, *times, sequence), key)

    def _refused(self, admitted: Admitted) -> None:
        """Queue a report of each refused row behind the input before it; it has no sequence of its own."""
        block, outcome = admitted.block, admitted.outcome
        latest = np.maximum.accumulate(admitted.sequence)
        for row in np.flatnonzero(outcome >= BAD_PRICE).tolist():
            key = self.keys[block.key.item(row)]
            reason = f"{OUTCOMES[outcome[row]]}: {self.ingress.describe(block, row, outcome.item(row))}"
            event = Refused(*key, reason, block.timestamp.item(row), block.received.item(row))
            self._outbox.add(latest.item(row), self._outbox.last_rank, event, (), anyway=True)

    # -- digests

    def digest(self) -> dict[str, str]:
        """Return the digests so far: inputs, features, predictions, signals (empty unless they are kept), and of the state."""
        return {**{name: digests.hexdigest() for name, digests in self.digests.items()}, "state": self.state_digest()}

    def state_digest(self) -> str:
        """Hash all that a restart must know."""
        codes = [code for code in range(len(self.keys)) if self.ingress.has_input(code)]
        keys = {self.keys[code]: self.key_digest(self._key_copy(code)) for code in codes}
        return state_digest(self.state(), keys)

    def key_digest(self, state: KeyState) -> bytes:
        """Hash one key's lane and models."""
        return key_digest(chain(self.features.state_parts(state.lane), model_parts(state.models)))

    # -- its state

    def state(self) -> FoldState:
        """Copy all that is not a key's own. Raises what an actor's `snapshot` raises."""
        supervised = self.supervisor.actors.values()
        return FoldState(
            sequence=self.ingress.next_sequence - 1,
            timestamp=self.timestamp(),
            received=self.now(),
            keys=tuple(self.keys[code] for code in range(len(self.ingress.state))),
            ingress=self.ingress.state.copy(),
            counts=self.ingress.counts.copy(),
            gaps=self._gaps,
            signals=self.signals,
            round=self.bus.round,
            is_history=self.is_history,
            symbols=dict(self.symbols),
            actors=tuple(
                ActorState(one.name, one.listening, *one.record(), one.actor.snapshot()) for one in supervised
            ),
            chains={"signals": self._digests["signals"].states()},
            models={} if self.models is None else self.models.common(),
        )

    def key_state(self, code: int, *, has_lane: bool, room: npt.NDArray[np.float64] | None = None) -> KeyState:
        """Copy one key's own, with `has_lane` its arena, rows and models too: the arena into `room` if that fits."""
        key = self.keys[code]
        self._rows_to_hash.hash(code)
        names = () if self.models is None else [spec.name for spec in self.models.specs]
        chains = {
            "inputs": self._digests["inputs"].states([key]),
            "features": self._digests["features"].states([(view, *key) for view in self.features.views]),
            "predictions": self._digests["predictions"].states([(name, *key) for name in names]),
        }
        return self._key_copy(code, chains, room) if has_lane else KeyState(key, {}, chains)

    def _key_copy(
        self, code: int, chains: dict[str, Any] | None = None, room: npt.NDArray[np.float64] | None = None
    ) -> KeyState:
        key = self.keys[code]
        models = {} if self.models is None else self.models.arrays(key)
        return KeyState(key, self.features.lane(key).copy(room), chains or {}, models)
