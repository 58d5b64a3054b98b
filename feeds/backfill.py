"""Back-fill: trades that the stream skipped are asked for by REST, and come as history; those that cannot be had are declared lost.

What is missing is what the ingress says, so a restart goes on where it was. Nothing is held back for it: what was folded meanwhile
stays as it is, and what comes is late, so it is journaled and stored, and rewrites nothing.

Gap        a span of ids becomes a job (`feeds.gap_job`): FeedStatus `gap`, then page by page, each of its ids in exactly one `filled` or
           `lost`: filled once the ingress has it
Lost       what two answers did not hold though they held what is around it; what did not come within `give_up_ns` of the last that
           did; what was refused; what had to be forgotten because too many spans were open
Tail       an id that the exchange says it has reached, and messages that a connection has missed: the newest trades are asked for
Unproven   where ids are not contiguous the newest trades are asked for after each reconnect, and it is said if they do not reach
           back to what was heard before
Restarted  ids that begin anew (`feeds.restarts`): what was missing of the old ones is lost

Jobs take turns, a request each, so a long one keeps no other symbol waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

import aiohttp
import msgspec
import structlog

from engine.clock import Clock
from engine.errors import FeedError
from engine.events import Event, FeedStatus, Tick
from feeds.backoff import Backoff
from feeds.gap_job import LOOK_AGAIN_NS, GapJob
from feeds.history import HistoryProtocol, Page, Taken
from feeds.rest import BarredError, Rest
from feeds.restarts import Restarts
from feeds.spans import Span, common, count, text, within, without

NS_PER_S: Final = 1_000_000_000
TAIL_NS: Final = NS_PER_S
"""How long a trade that the exchange has spoken of may still be on its way by the stream."""
SKIPPED_LOOKS: Final = 2
"""So often ids that history has skipped are seen missing before they are asked for; once, until there is newer history."""
RETRY_FIRST_NS: Final = NS_PER_S // 2
RETRY_MAX_NS: Final = 10 * NS_PER_S
JOBS_MAX: Final = 1_000
"""Spans that wait; beyond that the newest are declared lost at once."""
LOOK_NS: Final = 5 * NS_PER_S
"""How much older than the loss of a connection a trade has to be for its page to reach back to it: clocks differ."""


class Inbox(Protocol):
    """Where what was found goes; see `feeds.link`."""

    @property
    def is_full(self) -> bool: ...
    def offer(self, events: Sequence[Event]) -> None: ...
    async def drained(self) -> None: ...


class BackfillHealth(msgspec.Struct, frozen=True):
    """What back-fill says of itself."""

    open: int  # spans that are asked for
    filled: int  # trades
    lost: int  # trades
    requests: int
    detail: str  # what last went wrong, "" if nothing


class _Look(msgspec.Struct):
    """A look at the newest trades of a symbol."""

    symbol: str
    due: int
    give_up: int
    since_ns: int | None  # when the connection was lost; None: nothing is to be said of how far back they reach
    newest: int | None  # the newest trade that is known, as of then
    retries: Backoff


class Backfill:
    """The back-fill of one exchange. Everything runs on the loop; between `start` and `stop` one task asks."""

    def __init__(
        self,
        history: HistoryProtocol,
        rest: Rest,
        taken: Taken,
        *,
        clock: Clock,
        inbox: Inbox,
        give_up_ns: int,
        random: random.Random,
        on_defect: Callable[[BaseException], None],
    ) -> None:
        """`on_defect` hears of a defect of ours, which ends the asking."""
        self._history = history
        self._rest = rest
        self._taken = taken
        self._clock = clock
        self._inbox = inbox
        self._give_up_ns = give_up_ns
        self._random = random
        self._on_defect = on_defect
        self._restarts = Restarts(taken)
        self._jobs: deque[GapJob] = deque()
        self._looks: dict[str, _Look] = {}
        self._before: dict[str, int | None] = {}
        """Newest ids of symbols from before they fell mute."""
        self._skipped: dict[str, tuple[int, int]] = {}
        """By symbol the newest id of its history, where that has skipped some, and in how many looks it was."""
        self._ended: dict[str, list[Span]] = {}
        """Spans that were declared lost, as far as the ingress has not heard of it yet."""
        self._forgotten: dict[str, int] = {}
        """How many spans the ingress had forgotten when it was last asked."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._filled = self._lost = 0
        self._detail = ""
        self._barred_until = 0
        self._log = structlog.get_logger(exchange=history.exchange)

    def start(self, session: aiohttp.ClientSession) -> None:
        """Begin to ask."""
        self._task = asyncio.get_running_loop().create_task(
            self._run(session), name=f"back-fill of {self._history.exchange}"
        )
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._on_defect(defect)

    async def stop(self) -> None:
        """Ask no longer. What is missing stays missing in the ingress, and is asked for by whoever starts next."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await asyncio.sleep(0)  # the ingress takes what was offered last
        for job in self._jobs:
            self._settle(job)

    def health(self) -> BackfillHealth:
        return BackfillHealth(len(self._jobs), self._filled, self._lost, self._rest.requests, self._detail)

    # -- what is heard

    def gap(self, symbol: str, first: int, last: int, timestamp: int) -> None:
        """Ids were skipped, and the ingress said so; `timestamp` is that of the trade behind them."""
        if not self._history.proves_gaps:
            return
        span = first, last
        if len(self._jobs) >= JOBS_MAX:
            self._say("gap", symbol, f"{text(span)} missing", span)
            lost = within(self._taken.missing(symbol), first, last)
            self._came(symbol, without([span], lost))
            self._give_up(symbol, lost, f"{JOBS_MAX} spans wait already")
            return
        known = not within(self._taken.missing(symbol), *span)
        said = "came as history already" if known else "missing; asked for by REST"
        self._say("gap", symbol, f"{text(span)} {said}", span)
        self._add(symbol, span, timestamp)

    def resume(self, symbols: Sequence[str]) -> None:
        """Ask for what was missing when an earlier run ended."""
        for symbol in symbols if self._history.proves_gaps else ():
            missing = self._taken.missing(symbol)
            self._forgotten.setdefault(symbol, self._taken.forgotten(symbol))
            ended = self._ended[symbol] = common(self._ended.get(symbol, []), missing)
            known = ended + [job.span for job in self._jobs if job.symbol == symbol]
            for span in without(missing, known):
                if len(self._jobs) < JOBS_MAX:
                    self._add(symbol, span, self._clock.now())

    def reconnected(self, symbols: Sequence[str], since_ns: int) -> None:
        """A connection is there again; the one before was last heard at `since_ns` (ns UTC)."""
        self.resume(symbols)
        if not self._history.proves_gaps:
            for symbol in symbols:
                self._look(symbol, 0, since_ns)

    def muted(self, symbols: Sequence[str]) -> None:
        """Trades of these symbols may be missing from here on; `reconnected` follows once they are heard again."""
        for symbol in symbols if not self._history.proves_gaps else ():
            self._before.setdefault(symbol, self._taken.newest_id(symbol))

    def unmuted(self, symbols: Sequence[str]) -> None:
        """These were not mute after all."""
        for symbol in symbols:
            self._before.pop(symbol, None)

    def missed(self, symbols: Sequence[str]) -> None:
        """Messages of a connection were lost: any of its symbols may have a newer trade than we know."""
        for symbol in symbols:
            self._look(symbol, TAIL_NS, None)

    def reached(self, symbol: str, trade_id: int) -> None:
        """The exchange says that its newest trade is this."""
        newest = self._taken.newest_id(symbol)
        if newest is not None and trade_id > newest:
            self._look(symbol, TAIL_NS, None)

    def look(self, symbols: Sequence[str], live: Mapping[str, Tick]) -> None:
        """Look whether ids have begun anew, or history has skipped some. To be called about every second.

        live: the last live trade of each symbol that had one since the last look.
        """
        for symbol in symbols if self._history.proves_gaps else ():
            self._look_below(symbol)
        for restarted in self._restarts.look(live):
            symbol = restarted.symbol
            for job in [job for job in self._jobs if job.symbol == symbol]:
                self._settle(job)
                self._jobs.remove(job)
                self._give_up(symbol, job.lost, "the exchange numbers its trades anew")
            why = (
                f"the exchange numbers its trades anew, as trades {restarted.first_id} to {restarted.last_id} show, "
                "of which those were dropped whose ids were known"
            )
            self._say("restarted", symbol, f"{why}; the next one begins a new count")

    def _look_below(self, symbol: str) -> None:
        """Ask for what history has skipped: the next trade would show a gap, but a quiet symbol may be long in making one."""
        newest = self._taken.skipped_below(symbol)
        if newest is None:
            self._skipped.pop(symbol, None)
            return
        before, looks = self._skipped.get(symbol, (newest, 0))
        looks = looks + 1 if newest == before else 1
        if looks == SKIPPED_LOOKS:
            self._look(symbol, 0, None)
        self._skipped[symbol] = newest, looks

    # -- jobs

    def _add(self, symbol: str, span: Span, until_ns: int) -> None:
        job = GapJob(
            symbol,
            span,
            self._taken.missing(symbol),
            now=self._clock.now(),
            until_ns=until_ns,
            forgotten=self._forgotten.get(symbol, 0),
            retries=self._new_retries(),
        )
        self._jobs.append(job)
        self._settle(job)
        self._wake.set()

    def _look(self, symbol: str, after_ns: int, since_ns: int | None) -> None:
        newest = self._before.pop(symbol, None) or self._taken.newest_id(symbol)
        known = self._looks.get(symbol)
        if known is not None:
            if since_ns is not None:
                known.since_ns = since_ns if known.since_ns is None else min(known.since_ns, since_ns)
            return
        now = self._clock.now()
        self._looks[symbol] = _Look(
            symbol,
            now + after_ns,
            now + after_ns + self._give_up_ns,
            since_ns,
            newest,
            self._new_retries(),
        )
        self._wake.set()

    def _new_retries(self) -> Backoff:
        return Backoff(RETRY_FIRST_NS, RETRY_MAX_NS, self._random)

    async def _run(self, session: aiohttp.ClientSession) -> None:
        while True:
            now = self._clock.now()
            look = min(self._looks.values(), key=lambda look: look.due, default=None)
            job = min(self._jobs, key=lambda job: job.due, default=None)
            due = min((one.due for one in (look, job) if one is not None), default=None)
            if due is None or due > now:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if due is None else (due - now) / NS_PER_S):
                        await self._wake.wait()
                continue
            if self._inbox.is_full:
                await self._inbox.drained()
            if look is not None and look.due == due:
                await self._try_look(session, look)
            elif job is not None:
                await self._try_job(session, job)

    async def _try_job(self, session: aiohttp.ClientSession, job: GapJob) -> None:
        """Ask once for something of it, and end it if that was the last."""
        # All gaps of a turn of the loop were heard by now.
        self._forgotten[job.symbol] = self._taken.forgotten(job.symbol)
        self._settle(job)
        if job.left and self._give_up_ns:
            wanted = job.left[0]
            try:
                url = self._history.ask(job.symbol, *wanted, job.until_ns)
                page = self._history.read(job.symbol, await self._rest.get(session, url), self._clock.now(), wanted)
            except (FeedError, KeyError) as error:  # of a symbol that is no longer in the product list
                self._put_off(job, error)
            else:
                self._detail = ""
                if job in self._jobs and (found := job.take(page, self._clock.now())):
                    self._inbox.offer(found)
            if job not in self._jobs:
                return  # ended while it was asked for
        else:
            job.due = self._clock.now() + LOOK_AGAIN_NS
        is_over = self._clock.now() - job.progress >= self._give_up_ns
        if job.is_done or (job.left and is_over):
            self._end(job)
        else:  # behind all that wait: jobs take turns
            self._jobs.remove(job)
            self._jobs.append(job)

    def _settle(self, job: GapJob) -> None:
        """Say what has come of it by now."""
        symbol = job.symbol
        self._came(symbol, job.settle(self._taken.missing(symbol), self._taken.forgotten(symbol), self._clock.now()))

    def _end(self, job: GapJob) -> None:
        """Say of all of it that was not said of yet that it is lost, and why."""
        self._jobs.remove(job)
        if job.left:
            why = f"not to be had within {self._give_up_ns / NS_PER_S:g} s" + (
                f": {self._detail}" if self._detail else ""
            )
        elif job.was_forgotten:
            why = "too many gaps were open at once to keep count of them all"
        elif job.was_refused:
            why = "what the exchange sent for it was refused"
        else:
            why = "the exchange has no such trade"
        self._give_up(job.symbol, job.lost, why)

    def _came(self, symbol: str, spans: Sequence[Span]) -> None:
        for span in spans:
            self._filled += count([span])
            self._say("filled", symbol, f"{text(span)} came as history", span)

    def _give_up(self, symbol: str, spans: Sequence[Span], why: str) -> None:
        missing = self._taken.missing(symbol)
        self._ended[symbol] = [*common(self._ended.get(symbol, []), missing), *spans]
        for span in spans:
            self._lost += count([span])
            self._say("lost", symbol, f"{text(span)} lost: {why}", span)

    def _put_off(self, job: GapJob | _Look, error: FeedError | KeyError) -> None:
        now = self._clock.now()
        if str(error) != self._detail:
            self._detail = str(error)
            self._log.warning("back-fill", symbol=job.symbol, error=self._detail)
        job.due = now + job.retries.next_ns()
        if isinstance(error, BarredError):
            job.due = max(job.due, error.until_ns)
            if error.until_ns > self._barred_until:  # once for each time that the exchange wants to be left alone
                self._barred_until = error.until_ns
                self._say("rate_limited", job.symbol, f"back-fill: {error}")

    # -- looks at the newest

    async def _try_look(self, session: aiohttp.ClientSession, look: _Look) -> None:
        symbol = look.symbol
        try:
            body = await self._rest.get(session, self._history.ask_newest(symbol))
            page = self._history.read(symbol, body, self._clock.now())
        except (FeedError, KeyError) as error:
            self._put_off(look, error)
            if look.due < look.give_up:
                return
            del self._looks[symbol]
            if look.since_ns is not None and look.newest is not None:
                self._say("lost", symbol, f"trades may be lost, which cannot be proved: {error}")
            return
        self._detail = ""
        self._looks.pop(symbol, None)
        if page.ticks:
            self._inbox.offer(page.ticks)
        if look.since_ns is not None:
            self._say_how_far(symbol, page, look.since_ns, look.newest)

    def _say_how_far(self, symbol: str, page: Page, since_ns: int, last: int | None) -> None:
        """Say whether the newest trades reach back to what was heard before the connection was lost."""
        if last is None:
            return
        ids = [tick.trade_id for tick in page.ticks if tick.trade_id is not None]
        if ids and (ids[0] <= last or page.ticks[0].timestamp < since_ns - LOOK_NS):
            return
        oldest = f"trade {ids[0]}" if ids else "none"
        self._say(
            "lost",
            symbol,
            f"trades between {last} and {oldest} may be lost, which cannot be proved: "
            f"the newest {len(ids)} are all that {self._history.exchange} tells",
        )

    def _say(
        self,
        status: Literal["gap", "filled", "lost", "restarted", "rate_limited"],
        symbol: str,
        detail: str,
        span: tuple[int | None, int | None] = (None, None),
    ) -> None:
        now = self._clock.now()
        self._inbox.offer([FeedStatus(self._history.exchange, symbol, status, detail, now, now, 0, *span)])
