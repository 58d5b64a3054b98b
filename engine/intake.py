"""The intake: what feeds heard becomes inputs, is journaled, and is folded, one iteration of the loop at a time.

Feeds put events in with `offer`; the next turn of the loop takes all that waits, up to `BATCH`: admits it, writes it to the journal, and
only then folds the first of it. What cannot be journaled is folded all the same, in a declared state, or stops the engine, as configured.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np

from engine.block import IS_QUOTE, IS_TRADE, NO_ID, Block, Keys
from engine.clock import Clock
from engine.errors import JournalError
from engine.events import Event, Key, Quote, Shed, Tick
from engine.fold import Fold, Told
from engine.ingress import Admitted
from engine.latency import Latency

BATCH = 512
"""Most inputs of one turn: between two turns sockets and HTTP are served."""
CAPACITY = 1 << 16
"""Rows there is room for at first. It grows where it has to: feeds stop reading at `HIGH_WATER`, but a frame that was read by then is
taken whole, so what waits is bounded by that and one frame (`feeds.frame_mib`) a connection."""
HIGH_WATER, LOW_WATER = CAPACITY // 2, CAPACITY // 8
SHED_EVERY_NS = 100_000_000
SIDE_CODES = {"buy": 1, "sell": -1, None: 0}
T = TypeVar("T", bound=Told)


class Journal(Protocol):
    """Where inputs are written before they are folded."""

    def append(self, admitted: Admitted, keys: Keys) -> None: ...
    def append_event(self, event: Any) -> None: ...


class Intake:
    """Feeds' way into the fold. Everything runs on the loop.

    journal: None folds without one. later: schedules a call for the next turn of the loop. failed: hears of the first input that could
    not be journaled; False says that nothing more is to be folded. broke: hears of an error of the engine's own while inputs were
    folded; nothing more is. latency: gets the time from an input's `received` to the end of its fold.
    """

    def __init__(
        self,
        fold: Fold,
        journal: Journal | None,
        *,
        clock: Clock,
        later: Callable[[Callable[[], None]], object],
        failed: Callable[[JournalError], bool],
        broke: Callable[[BaseException], None],
        latency: Latency,
        shed_behind_ns: int,
    ) -> None:
        self._fold = fold
        self.journal = journal
        """None while it is not to be written to."""
        self._clock = clock
        self._later = later
        self._failed = failed
        self._broke = broke
        self._shed_behind_ns = shed_behind_ns
        self._shed_at = 0
        self._latency = latency
        self.shed = 0
        self.newest = 0
        """`received` of the newest input, ns UTC."""
        self.stopped = False
        self._columns = Block(
            key=np.zeros(CAPACITY, np.int32),
            kind=np.zeros(CAPACITY, np.uint8),
            timestamp=np.zeros(CAPACITY, np.int64),
            received=np.zeros(CAPACITY, np.int64),
            price=np.zeros(CAPACITY),
            volume=np.zeros(CAPACITY),
            side=np.zeros(CAPACITY, np.int8),
            ask=np.full(CAPACITY, np.nan),
            ask_volume=np.full(CAPACITY, np.nan),
            trade_id=np.full(CAPACITY, NO_ID),
            late=np.zeros(CAPACITY, np.uint8),
        )
        self._codes: dict[Key, int] = {}
        self._head = self._tail = 0
        self._told: deque[tuple[int, Told]] = deque()  # (row before which it came, event)
        self._scheduled = False
        self.afterwards: Callable[[], None] | None = None
        """Called once inputs have been folded: what the fold asked of worker processes is sent to them."""
        self.is_held: Callable[[], bool] | None = None
        """Whether feeds have to wait for something else than the fold; whoever says so calls `release` once they have not."""
        self._drained = asyncio.Event()
        self._drained.set()

    # -- what feeds use

    @property
    def is_full(self) -> bool:
        """Whether a feed should stop reading and wait for `drained`."""
        return self._tail - self._head >= HIGH_WATER or (self.is_held is not None and self.is_held())

    @property
    def waiting(self) -> int:
        """Inputs that wait."""
        return self._tail - self._head + len(self._told)

    async def drained(self) -> None:
        """Wait until much of what waits was folded."""
        self._drained.clear()
        await self._drained.wait()

    def release(self) -> None:
        """Let feeds look again whether they have to wait."""
        self._drained.set()

    def offer(self, events: Sequence[Event]) -> None:
        """Take events in their order: ticks, quotes, and inputs that are not of the market. Their sequence numbers are made here."""
        columns = self._columns
        for event in events:
            at = self._tail
            if at == len(columns):
                self._make_room()
                columns, at = self._columns, self._tail
            kind = type(event)
            if kind is Tick:
                self._put_tick(columns, at, event)  # type: ignore[arg-type]
            elif kind is Quote:
                self._put_quote(columns, at, event)  # type: ignore[arg-type]
            else:
                self._told.append((at, event))  # type: ignore[arg-type]
                continue
            self._tail = at + 1
        if not self._scheduled and self.waiting:
            self._scheduled = True
            self._later(self._turn)

    def _put_tick(self, columns: Block, at: int, tick: Tick) -> None:
        columns.key[at] = self._code(tick.exchange, tick.symbol)
        columns.kind[at] = IS_TRADE
        columns.timestamp[at] = tick.timestamp
        columns.received[at] = tick.received
        columns.price[at] = tick.price
        columns.volume[at] = tick.volume
        columns.side[at] = SIDE_CODES[tick.side]
        columns.ask[at] = columns.ask_volume[at] = np.nan
        columns.trade_id[at] = NO_ID if tick.trade_id is None else tick.trade_id
        columns.late[at] = tick.late

    def _put_quote(self, columns: Block, at: int, quote: Quote) -> None:
        columns.key[at] = self._code(quote.exchange, quote.symbol)
        columns.kind[at] = IS_QUOTE
        columns.timestamp[at] = quote.timestamp
        columns.received[at] = quote.received
        columns.price[at] = quote.bid
        columns.volume[at] = quote.bid_volume
        columns.side[at] = 0
        columns.ask[at] = quote.ask
        columns.ask_volume[at] = quote.ask_volume
        columns.trade_id[at] = NO_ID if quote.update_id is None else quote.update_id
        columns.late[at] = quote.late

    def _code(self, exchange: str, symbol: str) -> int:
        key = (exchange, symbol)
        code = self._codes.get(key)
        if code is None:
            code = self._codes[key] = self._fold.keys.code(key)
        return code

    # -- what the daemon uses

    def tell(self, event: T) -> T:
        """Number, journal and fold an input that is not of the market, behind all that waits; return it with its sequence.

        Raises ConfigError for a command that cannot be obeyed; it is no input then.
        """
        self.drain()
        self._fold.check(event)
        numbered = self._fold.number(event)
        self._write(lambda journal: journal.append_event(numbered))
        if self._is_stopped():
            raise JournalError(f"{type(event).__name__} cannot be journaled, and the engine stops")
        with self._unbroken():
            self._fold.obey(numbered)
        self.newest = numbered.received
        self._ended()
        return numbered

    def admit(self, block: Block) -> None:
        """Admit, journal and fold a block: history that no feed brings."""
        self._fold.open_keys()
        size = min(BATCH, self._fold.features.block_rows)
        for start in range(0, len(block), size):
            admitted = self._fold.ingress.admit(block.take(slice(start, start + size)))
            self._journal(admitted)
            if self._is_stopped():
                return
            with self._unbroken():
                self._fold.take(admitted)
            self.newest = max(self.newest, int(admitted.received[-1]))
            self._ended()

    def use_clock(self, clock: Clock) -> None:
        """Stamp by another clock from now on: one that does not fall behind what was journaled."""
        self._clock = clock

    def drain(self) -> None:
        """Fold all that waits."""
        while self.waiting and not self.stopped:
            self._turn()

    # -- a turn of the loop

    def _turn(self) -> None:
        """Admit and journal what waits, then fold it in its order."""
        self._scheduled = False
        if self.stopped:
            return
        now = self._clock.now()
        if self._tail > self._head and now - self._columns.received.item(self._head) > self._shed_behind_ns:
            self._shed(now)
        first = self._columns.received.item(self._head) if self._tail > self._head else now
        staged: list[Admitted | Told] = []
        count = 0
        size = min(BATCH, self._fold.features.block_rows)
        self._fold.open_keys()
        while count < BATCH and self.waiting:
            limit = self._told[0][0] if self._told else self._tail
            rows = min(limit - self._head, size, BATCH - count)
            if rows > 0:
                admitted = self._fold.ingress.admit(self._columns.take(slice(self._head, self._head + rows)))
                self._head += rows
                count += rows
                self._journal(admitted)
                staged.append(admitted)
            else:
                event = self._told.popleft()[1]
                numbered = self._fold.number(event)
                count += 1
                self._write(lambda journal, numbered=numbered: journal.append_event(numbered))  # type: ignore[misc]
                staged.append(numbered)
        if self._is_stopped():
            return
        with self._unbroken():
            for part in staged:
                if isinstance(part, Admitted):
                    self._fold.take(part)
                else:
                    self._fold.obey(part)
        done = self._clock.now()
        self._ended()
        self.newest = max(self.newest, first)
        self._latency.add(done - first, count)
        if not self.waiting:
            self._head = self._tail = 0
        elif not self._scheduled:
            self._scheduled = True
            self._later(self._turn)
        if not self._drained.is_set() and self._tail - self._head <= LOW_WATER and not self.is_full:
            self._drained.set()

    def _ended(self) -> None:
        if self.afterwards is not None:
            self.afterwards()

    @contextmanager
    def _unbroken(self) -> Iterator[None]:
        """Let nothing be folded any more once something was journaled and not folded: its state is not what the journal makes."""
        try:
            yield
        except BaseException as error:
            self.stopped = True
            self._broke(error)
            raise

    def _journal(self, admitted: Admitted) -> None:
        if admitted.sequence.any():
            self._write(lambda journal: journal.append(admitted, self._fold.keys))

    def _write(self, write: Callable[[Journal], None]) -> None:
        """Write inputs; without a journal, or once it failed, they are folded all the same, unless `failed` says otherwise."""
        if self.journal is None:
            return
        try:
            write(self.journal)
        except JournalError as error:
            self.journal = None
            # What is numbered by now and never folded would be a hole to whoever went on from here: nobody does.
            self.stopped = not self._failed(error)

    def _is_stopped(self) -> bool:
        return self.stopped

    def _make_room(self) -> None:
        """Move what waits to the front, of columns twice as long if these are nearly full of it."""
        head, waiting = self._head, self._tail - self._head
        size = len(self._columns)
        # Nearly: to move all of it for the sake of a few rows would be done over and over.
        room = 2 * size if 4 * waiting > 3 * size else size
        moved = [np.empty(room, column.dtype) for column in self._columns.columns()]
        for column, old in zip(moved, self._columns.columns(), strict=True):
            column[:waiting] = old[head : self._tail]
        self._columns = Block(*moved)
        self._told = deque((row - head, event) for row, event in self._told)
        self._head, self._tail = 0, waiting

    def _shed(self, now: int) -> None:
        """Let go of the quotes that wait, and say so before the next input. Of a trade never: a hole in the ids would be ours."""
        at = slice(self._head, self._tail)
        keep = self._columns.kind[at] != IS_QUOTE
        gone = int(np.count_nonzero(~keep))
        if not gone or now - self._shed_at < SHED_EVERY_NS:
            return
        self._shed_at = now
        behind_ms = (now - self._columns.received.item(self._head)) // 1_000_000
        places = self._head + np.concatenate([[0], np.cumsum(keep)])
        self._told = deque((int(places[row - self._head]), event) for row, event in self._told)
        left = int(np.count_nonzero(keep))
        for column in self._columns.columns():
            column[self._head : self._head + left] = column[at][keep]
        self._tail = self._head + left
        self.shed += gone
        # It stands before what waited longest, so it is of that time: `received` never decreases from input to input.
        first = max(self.newest, self._columns.received.item(self._head) if left else now)
        self._told.appendleft((self._head, Shed(gone, f"{behind_ms} ms behind", first, first)))
