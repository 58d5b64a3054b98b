"""The symbols that share a connection, and the connections that carry them: one, or two while one takes over from the other.

Handover   asked for by the machine (old age, a shutdown that was announced) or because a symbol is mute: a second connection with the
           same symbols; once it has been live for `OVERLAP_NS`, or the first is lost, the first is let go of (`feeds.handover`)
Stalls     what the watch finds is told before the symbol's next tick; a mute symbol has the connection renewed, others go on
Renewals   `RENEW_APART_NS` apart; those because of a mute symbol `STALL_FIRST_NS`, doubling to `STALL_LONGEST_NS` while it lasts
Words      of a connection that has not taken over yet, only what concerns a symbol, or a limit, is a FeedStatus
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import aiohttp
import msgspec
import structlog

from engine.events import Event, FeedStatus, Quote, Tick
from engine.health import FeedHealth
from feeds.handover import Handover
from feeds.link import Link, Outside, Owner
from feeds.liveness import Recovered, Stalled
from feeds.skew import ClockSkew
from feeds.speech import Report
from feeds.streams import StreamWatch
from feeds.subscriptions import few

NS_PER_S = 1_000_000_000
OVERLAP_NS = NS_PER_S
FILTER_NS = 60 * NS_PER_S
"""How far behind the old connection a new one may be: clocks that are set back and ids that begin anew are no lag."""
RENEW_APART_NS = 5 * NS_PER_S
STALL_FIRST_NS = 30 * NS_PER_S
STALL_LONGEST_NS = 900 * NS_PER_S
LONG_AGO = -(2**63)
UP = ("connected", "recovered")

Said = Literal["connected", "disconnected", "stalled", "recovered", "clock_skew", "rate_limited", "failed"]


class Desk(Protocol):
    """What a line wants of the feed that it is part of."""

    def new_link(self, owner: Owner, take: Callable[[Sequence[Event]], None], symbols: Sequence[str]) -> Link:
        """Make a connection that is not started yet."""

    def let_go(self, link: Link) -> None:
        """Stop a connection, in the background."""

    def reconnected(self, symbols: Sequence[str], since_ns: int) -> None:
        """Symbols are heard again that were not since about `since_ns`; 0 if they never were."""

    def muted(self, symbols: Sequence[str]) -> None:
        """These symbols may be mute; they are `reconnected` once that is over."""

    def unmuted(self, symbols: Sequence[str]) -> None:
        """These are not mute after all."""

    def missed(self, symbols: Sequence[str]) -> None:
        """Messages of these symbols were lost."""

    def reached(self, symbol: str, trade_id: int) -> None:
        """The exchange says which trade is the newest of a symbol."""

    def broke(self, defect: BaseException) -> None:
        """A task has ended by a defect of ours."""


class Line:
    """Some symbols of one feed. Everything runs on the loop; `look` is to be called every quarter of a second."""

    def __init__(
        self, desk: Desk, outside: Outside, watch: StreamWatch, skew: ClockSkew, symbols: Sequence[str] = ()
    ) -> None:
        self._desk = desk
        self._outside = outside
        self._now = outside.clock.now
        self._offer = outside.inbox.offer
        self._session: aiohttp.ClientSession | None = None
        self.watch = watch
        self._note_trade = watch.trades.note
        self._note_quote = watch.quotes.note
        self._skew = skew
        self._is_up = False
        self._doubted: dict[str, None] = {}
        self._mute_since = self._mute_told = 0
        self._refused: dict[str, None] = {}
        self._down_since = 0
        self._live: dict[str, Tick] = {}
        self._live_before: dict[str, Tick] = {}
        self._successor: Link | None = None
        self._successor_live: int | None = None
        self._handover = Handover()
        self._filter_until: int | None = None
        self._is_lost = False
        self._reason = ""
        self._wanted = ""
        self._renewed_at = self._remedied_at = LONG_AGO
        self._remedy_wait_ns = 0
        self.link = desk.new_link(self, self._pass, symbols)
        watch.hold(self._now())
        for symbol in symbols:
            watch.add(symbol, self._now())

    # -- what the feed uses

    @property
    def symbols(self) -> tuple[str, ...]:
        """What it listens to, ours."""
        return self.link.machine.symbols

    @property
    def links(self) -> tuple[Link, ...]:
        """The connection, and the one that is about to take over, if there is one."""
        return (self.link,) if self._successor is None else (self.link, self._successor)

    def start(self, session: aiohttp.ClientSession) -> None:
        """Dial."""
        self._session = session
        self.link.start(session)

    def end(self) -> None:
        """Dial no other connection from here on; those that there are have to be stopped."""
        self._session = None

    def add(self, symbol: str) -> None:
        """Listen to `symbol` too."""
        now = self._now()
        self.watch.add(symbol, now)
        for link in self.links:
            link.do(link.machine.add([symbol], now))

    def remove(self, symbol: str) -> None:
        """Listen to `symbol` no longer."""
        self._forget(symbol)
        self._refused.pop(symbol, None)
        for link in self.links:
            link.do(link.machine.remove([symbol], self._now()))

    def health(self) -> list[FeedHealth]:
        """What each of its connections says of itself."""
        first, *others = [link.health() for link in self.links]
        return [msgspec.structs.replace(first, stalled=self.watch.stalled), *others]

    def last_live(self) -> dict[str, Tick]:
        """Return the last live trade of each symbol that had one since this was last asked, as of the last look."""
        live, self._live_before = self._live_before, {}
        return live

    def look(self, now: int) -> None:
        """Look after the symbols and after the handover (`now`: ns)."""
        self._look_for_mutes(now)
        if self._live:
            sample = next(reversed(self._live.values()))
            self._skew.note(sample.received, sample.timestamp)
            self._live_before.update(self._live)
            self._live.clear()
        if (skew := self._skew.look(now)) is not None:
            self._tell(self.link, "clock_skew", skew.detail)
        if self._successor is not None:
            if self.link.machine.state == "stopped" and not self._is_lost:  # which one that is retired does not report
                self._go_down(self.link, Report("disconnected", "", self.link.machine.detail))
                return
            overlapped = self._successor_live is not None and (
                now - self._successor_live >= OVERLAP_NS or self._handover.is_full
            )
            if overlapped or self._is_lost:
                self._take_over(now)
            return
        if self._filter_until is not None and (now >= self._filter_until or self._handover.is_over):
            self._filter_until = None
            self.link.take = self._pass
        if not self._is_up or now - self._renewed_at < RENEW_APART_NS:
            return
        if self._wanted:
            self._renew(now, self._wanted)
        elif now - self._remedied_at >= self._remedy_wait_ns and (mute := self.watch.stalled):
            calm = now - self._remedied_at > 2 * STALL_LONGEST_NS
            self._remedy_wait_ns = STALL_FIRST_NS if calm else min(2 * self._remedy_wait_ns, STALL_LONGEST_NS)
            self._remedied_at = now
            self._renew(now, f"{few(mute)} mute")

    def _look_for_mutes(self, now: int) -> None:
        """Tell of symbols that are mute, or no longer; then have asked for what they were mute about: not everywhere do ids tell.

        What has not been heard since one of them was found mute may have been mute with it.
        """
        is_over = False
        for heard in self.watch.look(now):
            change = heard.change
            if heard.tells:
                status: Said = "recovered" if isinstance(change, Recovered) else "stalled"
                self._tell(self.link, status, change.detail, change.symbol)
            if isinstance(change, Stalled):
                if not self._doubted:
                    self._mute_since, self._mute_told = now - change.silent_ns, now
                    self._doubted = dict.fromkeys(self.symbols)
                    self._desk.muted(self.symbols)
                elif change.symbol not in self._doubted:
                    self._doubted[change.symbol] = None
                    self._desk.muted((change.symbol,))
            is_over |= isinstance(change, Recovered) and change.symbol in self._doubted
        if is_over:
            self._ask(tuple(self._doubted), self._mute_since)
        elif self._doubted and self._is_up:
            self._look_who_trades()

    def _ask(self, symbols: Sequence[str], since_ns: int) -> None:
        """Have asked for what was missed since; what is mute still is in doubt from now on."""
        self._desk.reconnected(symbols, since_ns)
        self._mute_told = self._now()
        self._doubted = dict.fromkeys(self.watch.stalled)
        self._desk.muted(tuple(self._doubted))

    def _look_who_trades(self) -> None:
        """Doubt no longer what has traded since; if its quotes were mute, its trades may have been, for a while."""
        trades, told = self.watch.trades, self._mute_told
        if not (heard := [symbol for symbol in self._doubted if trades.heard_at(symbol) > told]):
            return
        mute = self.watch.stalled
        for symbol in heard:
            del self._doubted[symbol]
        self._desk.unmuted([symbol for symbol in heard if symbol not in mute])
        if back := [symbol for symbol in heard if symbol in mute]:
            self._desk.reconnected(back, self._mute_since)

    def _forget(self, symbol: str) -> None:
        """It is not listened to, or not any more."""
        self.watch.remove(symbol)
        self._handover.forget(symbol)
        self._doubted.pop(symbol, None)
        self._desk.unmuted((symbol,))

    # -- what passes

    def _pass(self, events: Sequence[Event]) -> None:
        for event in events:
            if type(event) is Tick:
                if not event.late:
                    self._note_trade(event.symbol, event.received)
                    self._live[event.symbol] = event
            elif type(event) is Quote and not event.late:
                self._note_quote(event.symbol, event.received)
        self._offer(events)

    def _pass_old(self, events: Sequence[Event]) -> None:
        self._handover.given(events)
        self._pass(events)

    def _pass_news(self, events: Sequence[Event]) -> None:
        if news := self._handover.news(events):
            self._pass(news)

    # -- what connections say

    def reported(self, link: Link, report: Report) -> None:
        if link is not self.link and link is not self._successor:
            return
        if report.symbol:
            self._refused[report.symbol] = None
            self._forget(report.symbol)
            self._tell(link, report.status, report.detail, report.symbol)
        elif link is self._successor:
            self._successor_reported(link, report)
        elif report.status in UP:
            self._tell(link, report.status, report.detail)
            self._come_up()
        elif report.status == "rate_limited" and self._is_up:
            self._tell(link, report.status, report.detail)
        else:
            self._go_down(link, report)

    def _successor_reported(self, link: Link, report: Report) -> None:
        if report.status in UP:
            self._successor_live = now = self._now()
            self.link.do(self.link.machine.retire(now))
            return
        if report.status == "rate_limited":
            self._tell(link, report.status, report.detail)
        else:
            structlog.get_logger(connection=link.name).warning("not taking over yet", detail=report.detail)
        if not link.machine.is_open:
            self._successor_live = None
            self._wanted = ""

    def _come_up(self) -> None:
        """The connection is live: silences count from now on."""
        now = self._now()
        self._is_up = True
        self._see_refused(now)
        self.watch.reset(now)
        self._skew.reset(now)
        since, self._down_since = self._down_since, 0
        if self._doubted and since:
            since = min(since, self._mute_since)
        self._ask([symbol for symbol in self.symbols if symbol not in self._refused], since)

    def _see_refused(self, now: int) -> None:
        """Another socket is live: what was refused on the one before may be granted on this one."""
        symbols, rejected = self.symbols, self.link.machine.rejected
        for symbol in [symbol for symbol in self._refused if symbol not in rejected]:
            del self._refused[symbol]
            if symbol in symbols:
                self._tell(self.link, "recovered", "the exchange subscribes to it again", symbol)
        for symbol in symbols:
            if symbol not in rejected:
                self.watch.add(symbol, now)

    def _go_down(self, link: Link, report: Report) -> None:
        """The connection is lost, or its dial came to nothing."""
        now = self._now()
        self._wanted = ""
        # What is lost while the other connection is live is lost to nobody: what that has brought since waits.
        if self._successor_live is None:
            self._tell(link, report.status, report.detail)
            if self._is_up:
                self._is_up = False
                self._down_since = link.newest
                self.watch.hold(now)
                self._desk.muted(self.symbols)
        if self._successor is not None:
            self._is_lost = True
            self._take_over(now)

    def missed(self, link: Link, count: int) -> None:
        if link is self.link:
            structlog.get_logger(connection=link.name).warning("messages were lost", count=count)
            self._desk.missed(self.symbols)

    def reached(self, link: Link, symbol: str, trade_id: int) -> None:
        if link is self.link:
            self._desk.reached(symbol, trade_id)

    def held(self, link: Link, now: int) -> None:
        if link is self.link:
            self.watch.hold(now)

    def resumed(self, link: Link, now: int) -> None:
        if link is self.link and self._is_up:
            self.watch.resume(now)

    def broke(self, defect: BaseException) -> None:
        self._desk.broke(defect)

    # -- handover

    def renew(self, link: Link, reason: str) -> None:
        """Have another connection take over, as soon as may be; of one that is about to take over, once it has."""
        if link is not self.link or self._successor is not None:
            if link is self._successor:
                self._wanted = reason
            return
        now = self._now()
        if now - self._renewed_at >= RENEW_APART_NS:
            self._renew(now, reason)
        else:
            self._wanted = reason

    def _renew(self, now: int, reason: str) -> None:
        if self._session is None or not self.symbols:
            return
        self._wanted = ""
        self._reason = reason
        self._renewed_at = now
        self._handover = Handover()
        self._successor_live = None
        self._is_lost = False
        self._filter_until = None
        self.link.take = self._pass_old
        self._successor = self._desk.new_link(self, self._handover.keep, self.symbols)
        structlog.get_logger(connection=self._successor.name).info("takes over", of=self.link.name, reason=reason)
        self._successor.start(self._session)

    def _take_over(self, now: int) -> None:
        """Let go of the old connection, and let what waited pass."""
        if self._successor is None or self._outside.inbox.is_full:
            return  # there would be no place for what waits; nobody reads then, and nothing is urgent
        old, self.link, self._successor = self.link, self._successor, None
        old.take = _let_fall
        self.link.take = self._pass_news
        self._filter_until = now + FILTER_NS
        self._desk.let_go(old)
        if self._successor_live is not None:
            self._tell(self.link, "connected", f"took over from {old.name}: {self._reason}")
        released = self._handover.release(now)
        if released:
            self._pass(released)
        if self._successor_live is not None and not self._is_up:  # the old one was lost before
            self._come_up()
        elif self._is_up:
            self._see_refused(now)
            self.watch.resume(now)  # reading of the old one may have been held
        self._successor_live = None  # from here on it is the connection, and what happens to it is told

    def _tell(self, link: Link, status: Said, detail: str, symbol: str = "") -> None:
        now = self._now()
        self._offer([FeedStatus(self._outside.protocol.exchange, symbol, status, f"{link.name}: {detail}", now, now)])


def _let_fall(events: Sequence[Event]) -> None:
    """What a connection brings that was let go of."""
