"""One connection to an exchange as a state machine: what happened goes in, what is to be done comes out.

It has no socket, no clock, no event loop and no random number of its own, so equal inputs give equal actions. What an exchange
says and how it wants to be spoken to is its `StreamProtocol`'s; a shell (`feeds.link`) carries the actions out. Times are int ns of
one clock that never goes back.

connecting   dialled, not open yet
subscribing  open; not all that was asked for is acknowledged
live         open, everything acknowledged
stale        nothing at all came for too long; the socket is given up, the next dial is due
waiting      lost, shut or refused; the next dial is due
failed       refused in a way that asking again soon does not mend; dialled again at the longest wait only
stopped      for good

Messages that hold market data do not pass through here: the shell sets `last_heard`, and that is all they cost.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from feeds.backoff import Backoff
from feeds.limits import Host, RollingWindow, with_margin
from feeds.speech import (
    Acknowledged,
    Action,
    Answer,
    Close,
    Dial,
    Limits,
    Note,
    Pong,
    Rejected,
    Report,
    Send,
    ShuttingDown,
    State,
    Status,
    StreamProtocol,
    Unexpected,
    Wake,
)
from feeds.subscriptions import Subscriptions, few

GOING_AWAY = 1001
NORMAL = 1000
TOO_MANY_REQUESTS = frozenset({418, 429})
TEMPORARY = frozenset({408, 425, 500, 502, 503, 504})
"""HTTP answers that pass by themselves. Any other that is no upgrade needs a person: a moved endpoint, a blocked country."""
LONGEST_BAN_NS = 3 * 86_400 * 1_000_000_000
"""Binance bans an address for up to three days; a Retry-After beyond that is a mistake."""
NOTES = 20
"""Unexpected messages of one connection that are passed on; the others are only counted."""


class Connection:
    """The machine. Every input returns the actions it calls for, in order; none raises, whatever the state."""

    def __init__(
        self,
        protocol: StreamProtocol,
        limits: Limits,
        host: Host,
        random: random.Random,
        symbols: Iterable[str] = (),
        connection_id: str = "",
    ) -> None:
        self.state: State = "waiting"
        self.detail = ""
        """What it last had to say, for people."""
        self.last_heard = 0
        """When anything at all last came. The shell sets it for messages with market data."""
        self.connected_at = 0
        self.reconnects = 0
        self.ignored = 0
        """Messages of no concern: heartbeats, types that nobody asked for."""
        self.unexpected = 0
        self._protocol = protocol
        self._limits = limits
        self._connection_id = connection_id
        self._host = host
        self._backoff = Backoff(limits.backoff_first_ns, limits.backoff_max_ns, random)
        self._messages = RollingWindow(limits.messages, with_margin(limits.messages_span_ns))
        self._subscriptions = Subscriptions(protocol, symbols)
        self._pong: bytes | None = None
        # Deadlines: at most one of the first two is set.
        self._dial_at: int | None = None
        self._connect_by: int | None = None
        self._wake: int | None = None
        self._live_since: int | None = None
        self._held_since: int | None = None
        self._was_open = False
        self._was_live = False
        self._down_since = 0
        self._stalled = False
        self._dial_held = False

    @property
    def symbols(self) -> tuple[str, ...]:
        """What it is to be subscribed to, in the order in which it was asked for."""
        return tuple(self._subscriptions.wanted)

    @property
    def is_open(self) -> bool:
        """Whether a socket is open."""
        return self.state in ("subscribing", "live")

    @property
    def waiting_messages(self) -> bool:
        """Whether something is to be said, and has to wait for the limit of messages a second."""
        return self._pong is not None or self._subscriptions.has_to_say

    def start(self, now: int) -> list[Action]:
        """Dial for the first time."""
        actions: list[Action] = []
        if self.state == "waiting" and self._dial_at is None:
            self._dial(now, actions)
        return self._done(now, actions)

    def opened(self, now: int) -> list[Action]:
        """The socket is open."""
        actions: list[Action] = []
        if self.state != "connecting":
            return actions
        self.state = "subscribing"
        self._connect_by = None
        self.connected_at = self.last_heard = now
        self.reconnects += self._was_open
        self._was_open = True
        self._subscriptions.begin()
        self._talk(now, actions)
        return self._done(now, actions)

    def answered(self, answer: Answer | None, now: int, heard: int = 0) -> list[Action]:
        """A message without an event came; `answer` is what the protocol read in it."""
        actions: list[Action] = []
        if not self.is_open:
            return actions
        self.last_heard = now
        if answer is None:
            self.ignored += 1
        elif isinstance(answer, Acknowledged):
            if not self._subscriptions.acknowledge(answer.number):
                self._note(f"request {answer.number} was acknowledged, which is not open", actions)
        elif isinstance(answer, Rejected):
            self._reject(answer, actions)
        elif isinstance(answer, ShuttingDown):
            self._shut(now, actions)
        elif isinstance(answer, Unexpected):
            self._note(answer.detail, actions)
        self._talk(now, actions)
        return self._done(now, actions)

    def pinged(self, payload: bytes, now: int) -> list[Action]:
        """A websocket ping came. The newest is answered, as RFC 6455 5.5.3 allows, once the limit lets us speak."""
        actions: list[Action] = []
        if self.is_open:
            self.last_heard = now
            self._pong = payload
            self._talk(now, actions)
        return self._done(now, actions)

    def closed(self, code: int, reason: str, now: int) -> list[Action]:
        """The socket is closed, or broke (1006)."""
        actions: list[Action] = []
        if not self.is_open:
            return actions
        because = f"closed with {code}" + (f": {reason}" if reason else "")
        if self._protocol.is_rate_limit(code, reason):
            self._report("rate_limited", because, actions)
            self._lose(now, "disconnected", because, actions, wait=self._backoff.longest_ns())
        else:
            self._lose(now, "disconnected", because, actions)
        return self._done(now, actions)

    def failed(self, detail: str, now: int) -> list[Action]:
        """The dial came to nothing: no route, no such name, nobody listening, a broken handshake."""
        actions: list[Action] = []
        if self.state == "connecting":
            self._lose(now, "failed", detail, actions)
        return self._done(now, actions)

    def refused(self, status: int, detail: str, retry_after_ns: int | None, now: int) -> list[Action]:
        """The dial was answered with an HTTP status that is no upgrade."""
        actions: list[Action] = []
        if self.state != "connecting":
            return actions
        barred = 0
        if retry_after_ns is not None:
            barred = now + min(max(retry_after_ns, 0), LONGEST_BAN_NS)
            self._host.bar(barred)
        if status in TOO_MANY_REQUESTS:
            wait = self._backoff.longest_ns() if retry_after_ns is None else self._backoff.next_ns()
            self._lose(now, "rate_limited", detail, actions, wait=wait, not_before=barred)
        elif status in TEMPORARY:
            self._lose(now, "failed", detail, actions, not_before=barred)
        else:
            wait = self._backoff.longest_ns()
            self._lose(now, "failed", detail, actions, wait=wait, not_before=barred, state="failed")
        return self._done(now, actions)

    def timer(self, now: int) -> list[Action]:
        """The time of a Wake has come, or may have."""
        actions: list[Action] = []
        self._wake = None
        if self._dial_at is not None:
            if self._dial_at <= now:
                self._dial(now, actions)
        elif self._connect_by is not None:
            if self._connect_by <= now:
                actions.append(Close(GOING_AWAY, "no answer"))
                self._lose(now, "failed", f"no answer within {_seconds(self._limits.connect_ns)}", actions)
        elif self.is_open:
            if self._held_since is None:
                self._watch(now, actions)
            self._talk(now, actions)
        return self._done(now, actions)

    def hold(self, now: int) -> list[Action]:
        """The shell reads no further for now, so that silence proves nothing."""
        if self.is_open and self._held_since is None:
            self._held_since = now
        return []

    def resume(self, now: int) -> list[Action]:
        """The shell reads again: the deadlines have moved by as long as it did not."""
        if self._held_since is not None:
            self._subscriptions.put_off(self._held_since, now)
            self.last_heard = now
            self._held_since = None
        return self._done(now, [])

    def add(self, symbols: Iterable[str], now: int) -> list[Action]:
        """Want these symbols too."""
        actions: list[Action] = []
        for symbol in symbols if self.state != "stopped" else ():
            self._subscriptions.add(symbol, ask=self.is_open)
        self._talk(now, actions)
        return self._done(now, actions)

    def remove(self, symbols: Iterable[str], now: int) -> list[Action]:
        """No longer want these symbols."""
        actions: list[Action] = []
        for symbol in symbols:
            self._subscriptions.remove(symbol)
        self._talk(now, actions)
        return self._done(now, actions)

    def stop(self, now: int) -> list[Action]:
        """Close for good: nothing that comes later has any effect."""
        actions: list[Action] = []
        if self.state == "connecting" or self.is_open:
            actions.append(Close(NORMAL, "stopped"))
        self._forget_socket()
        self._dial_at = self._wake = None
        self.state = "stopped"
        return actions

    def _dial(self, now: int, actions: list[Action]) -> None:
        free = self._host.begin_at(now)
        if free > now:
            self._dial_at = free
            if not self._dial_held and self._host.why(now):
                self._dial_held = True
                said = f"the next dial waits {_seconds(free - now)}: {self._host.why(now)}"
                self._report("rate_limited", said, actions)
            return
        self._host.begin(now)
        self._host.dial(now)
        self._dial_held = False
        self._dial_at = None
        self._connect_by = now + self._limits.connect_ns
        self.state = "connecting"
        actions.append(Dial(self._protocol.address(self._connection_id, None).url))

    def _lose(
        self,
        now: int,
        status: Status,
        detail: str,
        actions: list[Action],
        *,
        wait: int | None = None,
        not_before: int = 0,
        state: State = "waiting",
    ) -> None:
        """There is no socket any more: say so, and set the time of the next dial."""
        if self._live_since is not None and now - self._live_since >= self._limits.stable_ns and wait is None:
            self._backoff.reset()
        if self._live_since is not None:
            self._down_since = self.last_heard
        self._forget_socket()
        self.state = state
        wait = self._backoff.next_ns() if wait is None else wait
        self._dial_at = max(now + wait, not_before)
        when = (
            f"the next dial is in {_seconds(self._dial_at - now)}" if self._dial_at > now else "dialling anew at once"
        )
        self._report(status, f"{detail}; {when}", actions)

    def _shut(self, now: int, actions: list[Action]) -> None:
        """Redial at once, unless it is a habit: an exchange that says so at every dial would be stormed."""
        held = self._live_since is not None and now - self._live_since >= self._limits.stable_ns
        wait = None
        if held or self._backoff.failures == 0:
            self._backoff.reset()
            self._backoff.next_ns()
            wait = 0
        actions.append(Close(NORMAL, "the exchange is shutting down"))
        self._lose(now, "disconnected", "the exchange announced its shutdown", actions, wait=wait)
        if self._dial_at is not None and self._dial_at <= now:
            self._dial(now, actions)

    def _watch(self, now: int, actions: list[Action]) -> None:
        """Give the socket up if it has been silent, or has left a request unanswered, for too long."""
        limits = self._limits
        if self.last_heard + limits.silence_ns <= now:
            actions.append(Close(GOING_AWAY, "silent for too long"))
            self._stalled = True
            said = f"nothing came for {_seconds(now - self.last_heard)}, not even a ping"
            self._lose(now, "stalled", said, actions, state="stale")
            return
        oldest = self._subscriptions.oldest
        if oldest is not None and oldest.sent_at + limits.acknowledge_ns <= now:
            verb = "subscribe" if oldest.subscribes else "unsubscribe"
            actions.append(Close(GOING_AWAY, f"no answer to a request to {verb}"))
            said = f"no answer to a request to {verb} within {_seconds(limits.acknowledge_ns)}: {few(oldest.symbols)}"
            self._lose(now, "disconnected", said, actions)

    def _talk(self, now: int, actions: list[Action]) -> None:
        """Say what is to be said, as far as the limit allows; become live once nothing is left to ask."""
        if not self.is_open:
            return
        while self.waiting_messages and self._messages.free_at(now) == now:
            if self._pong is not None:
                self._messages.take(now)
                actions.append(Pong(self._pong))
                self._pong = None
            elif (text := self._subscriptions.next_request(now)) is not None:
                self._messages.take(now)
                actions.append(Send(text))
        if self.state == "subscribing" and self._subscriptions.is_settled:
            self.state = "live"
            self._live_since = now
            self._welcome(now, actions)

    def _welcome(self, now: int, actions: list[Action]) -> None:
        wanted, rejected = len(self._subscriptions.wanted), len(self._subscriptions.rejected)
        said = f"live with {wanted - rejected} of {wanted} symbols"
        if self._was_live:
            said += f", after {_seconds(now - self._down_since)} without"
        status: Status = "recovered" if self._stalled else "connected"
        self._stalled, self._was_live = False, True
        self._report(status, said, actions)

    def _reject(self, answer: Rejected, actions: list[Action]) -> None:
        request = self._subscriptions.reject(answer.number)
        if request is None:
            self._note(f"an error that belongs to no open request: {answer.reason}", actions)
        elif not request.subscribes:
            self._note(f"could not unsubscribe from {few(request.symbols)}: {answer.reason}", actions)
        for symbol in request.symbols if request is not None else ():
            if symbol in self._subscriptions.rejected:
                self._report("failed", f"the exchange refuses to subscribe: {answer.reason}", actions, symbol)

    def _forget_socket(self) -> None:
        self._live_since = self._held_since = self._connect_by = self._pong = None
        self.connected_at = 0
        self._subscriptions.forget()

    def _report(self, status: Status, detail: str, actions: list[Action], symbol: str = "") -> None:
        self.detail = f"{symbol}: {detail}" if symbol else detail
        actions.append(Report(status, symbol, detail))

    def _note(self, detail: str, actions: list[Action]) -> None:
        self.unexpected += 1
        if self.unexpected <= NOTES:
            self.detail = detail
            actions.append(Note(detail))

    def _done(self, now: int, actions: list[Action]) -> list[Action]:
        """Ask for a call of `timer` at the earliest deadline, unless one is due before it anyway."""
        deadlines: list[int] = []
        if self._dial_at is not None:
            deadlines.append(self._dial_at)
        elif self._connect_by is not None:
            deadlines.append(self._connect_by)
        elif self.is_open:
            if self._held_since is None:
                deadlines.append(self.last_heard + self._limits.silence_ns)
                oldest = self._subscriptions.oldest
                if oldest is not None:
                    deadlines.append(oldest.sent_at + self._limits.acknowledge_ns)
            if self.waiting_messages:
                deadlines.append(self._messages.free_at(now))
        if deadlines:
            at = max(min(deadlines), now + 1)
            if self._wake is None or at < self._wake:
                self._wake = at
                actions.append(Wake(at))
        return actions


def _seconds(ns: int) -> str:
    return f"{ns / 1e9:.3g} s"
