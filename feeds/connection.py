"""One connection to an exchange as a state machine: what happened goes in, what is to be done comes out.

It has no socket, no clock, no event loop and no random number of its own, so equal inputs give equal actions. What an exchange
says and how it wants to be spoken to is its `StreamProtocol`'s; a shell (`feeds.link`) carries the actions out. Times are int ns of
one clock that never goes back.

connecting   dialled, or asked where to dial; not open yet
subscribing  open; not greeted yet, or not all that was asked for is acknowledged
live         open, everything acknowledged
stale        nothing at all came for too long, or no pong; the socket is given up, the next dial is due
waiting      lost, shut or refused; the next dial is due
failed       refused in a way that asking again soon does not mend; dialled again at the longest wait only
stopped      for good

Messages that hold market data do not pass through here: the shell sets `last_heard`, and that is all they cost.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from engine.errors import FeedError
from feeds.conversation import Conversation, seconds
from feeds.limits import Host, RollingWindow, with_margin
from feeds.redial import Pace, Redial
from feeds.speech import (
    Action,
    Address,
    Answer,
    Close,
    Dial,
    Limits,
    Note,
    Report,
    State,
    Status,
    StreamProtocol,
    Wake,
)

GOING_AWAY = 1001
NORMAL = 1000
TOO_MANY_REQUESTS = frozenset({418, 429})
TEMPORARY = frozenset({408, 425, 500, 502, 503, 504})
"""HTTP answers that pass by themselves. Any other needs a person: a moved endpoint, a blocked country."""
LONGEST_BAN_NS = 3 * 86_400 * 1_000_000_000
"""Binance bans an address for up to three days; a Retry-After beyond that is a mistake."""
RENEWAL_SPREAD = 16
"""Connections that were opened together are renewed over the last sixteenth of their age."""


class Connection:
    """The machine. Every input returns the actions it calls for, in order; none raises, whatever the state.

    `connection_id` is a name that no other connection of this exchange has.
    """

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
        self._protocol = protocol
        self._limits = limits
        self._random = random
        self._connection_id = connection_id
        self._redial = Redial(host, limits, random)
        span_ns = with_margin(limits.messages_span_ns)
        messages = host.messages if protocol.counts_together else RollingWindow(limits.messages, span_ns)
        self._conversation = Conversation(protocol, limits, messages, symbols)
        self._address: Address | None = None
        """Where it has dialled, or is to as soon as the host may be."""
        self._fetching = False
        self._connect_by: int | None = None
        self._wake: int | None = None
        self._dials = 0
        self._was_open = False
        self._unexpected_last = ""
        self._was_live = False
        self._down_since = 0
        self._stalled = False
        self._retired = False

    @property
    def symbols(self) -> tuple[str, ...]:
        """What it is to be subscribed to, in the order in which it was asked for."""
        return tuple(self._conversation.subscriptions.wanted)

    @property
    def rejected(self) -> tuple[str, ...]:
        """Those of its symbols that the exchange does not send on this socket, or not in full."""
        return tuple(self._conversation.subscriptions.rejected)

    @property
    def ignored(self) -> int:
        """Messages of no concern: snapshots, types that nobody asked for."""
        return self._conversation.ignored

    @property
    def unexpected(self) -> int:
        """Messages that the protocol does not know."""
        return self._conversation.unexpected

    @property
    def missed(self) -> int:
        """Messages that the exchange has counted and that never came, on all sockets."""
        return self._conversation.missed

    @property
    def is_open(self) -> bool:
        """Whether a socket is open."""
        return self.state in ("subscribing", "live")

    @property
    def waiting_messages(self) -> bool:
        """Whether something is to be said, and has to wait for the limit of messages."""
        return self._conversation.waits

    def start(self, now: int) -> list[Action]:
        """Dial for the first time."""
        actions: list[Action] = []
        if self.state == "waiting" and self._redial.at is None:
            for symbol in self._conversation.subscriptions.left_out:
                actions.append(self._no_room(symbol))
            self._begin(now, actions)
        return self._done(now, actions)

    def fetched(self, body: bytes, now: int) -> list[Action]:
        """What was to be fetched before the dial has come."""
        actions: list[Action] = []
        if self.state == "connecting" and self._fetching:
            self._find(body, now, actions)
        return self._done(now, actions)

    def opened(self, now: int) -> list[Action]:
        """The socket is open."""
        actions: list[Action] = []
        if self.state != "connecting" or self._address is None:
            return actions
        self.state = "subscribing"
        self._connect_by = None
        self.connected_at = self.last_heard = now
        self.reconnects += self._was_open
        self._was_open = True
        renew_ns = self._limits.renew_ns
        jitter_ns = int(self._random.random() * (renew_ns // RENEWAL_SPREAD))
        self._conversation.begin(self._address, now + renew_ns - jitter_ns if renew_ns else None, now)
        if self._conversation.is_greeted:
            self._redial.host.answered()
        self._talk(now, actions)
        return self._done(now, actions)

    def answered(self, answer: Answer | None, now: int, heard: int = 0) -> list[Action]:
        """A message without an event came; `answer` is what the protocol read in it.

        `heard` is how many messages have come on this socket, this one among them; 0 if nobody counts.
        """
        actions: list[Action] = []
        if self.is_open:
            self.last_heard = now
            was_greeted = self._conversation.is_greeted
            end = self._conversation.hear(answer, heard, now, actions)
            if self._conversation.is_greeted and not was_greeted:
                self._redial.host.answered()
            if end is not None:
                actions.append(Close(NORMAL, end.close))
                self._lose(now, end.status, end.detail, actions, self._hurry(now) if end.hurries else "soon")
            self._talk(now, actions)
        return self._done(now, actions)

    def pinged(self, payload: bytes, now: int) -> list[Action]:
        """A websocket ping came."""
        actions: list[Action] = []
        if self.is_open:
            self.last_heard = now
            self._conversation.owe(payload)
            self._talk(now, actions)
        return self._done(now, actions)

    def closed(self, code: int, reason: str, now: int) -> list[Action]:
        """The socket is closed, or broke (1006)."""
        actions: list[Action] = []
        if not self.is_open:
            return actions
        because = f"closed with {code}" + (f": {reason}" if reason else "")
        pace: Pace = "soon"
        if self._protocol.is_rate_limit(code, reason):
            if not self._retired:
                actions.append(Report("rate_limited", "", because))
            pace = "longest"
        elif self._conversation.is_announced:
            because += ", as the exchange announced"
            pace = self._hurry(now)
        self._lose(now, "disconnected", because, actions, pace)
        return self._done(now, actions)

    def failed(self, detail: str, now: int) -> list[Action]:
        """The dial, or the fetch before it, came to nothing: no route, no such name, nobody listening, a broken handshake."""
        actions: list[Action] = []
        if self.state == "connecting":
            self._lose(now, "failed", detail, actions)
        return self._done(now, actions)

    def refused(self, status: int, detail: str, retry_after_ns: int | None, now: int) -> list[Action]:
        """The dial, or the fetch before it, was answered with an HTTP status other than the one that was hoped for."""
        actions: list[Action] = []
        if self.state != "connecting":
            return actions
        barred = 0
        if retry_after_ns is not None:
            barred = now + min(max(retry_after_ns, 0), LONGEST_BAN_NS)
            self._redial.host.bar(barred)
        if status in TOO_MANY_REQUESTS:
            pace: Pace = "longest" if retry_after_ns is None else "soon"
            self._lose(now, "rate_limited", detail, actions, pace, not_before=barred)
            self._redial.host.bar(self._redial.at or 0)  # it is our address that the host is tired of
        elif status in TEMPORARY:
            self._lose(now, "failed", detail, actions, not_before=barred)
        else:
            self._lose(now, "failed", detail, actions, "longest", not_before=barred, state="failed")
        return self._done(now, actions)

    def timer(self, now: int) -> list[Action]:
        """The time of a Wake has come, or may have."""
        actions: list[Action] = []
        self._wake = None
        if self._redial.at is not None:
            if self._redial.at <= now:
                self._begin(now, actions)
        elif self._connect_by is not None:
            if self._connect_by <= now:
                actions.append(Close(GOING_AWAY, "no answer"))
                said = f"{self._protocol.endpoint}: no answer within {seconds(self._limits.connect_ns)}"
                self._lose(now, "failed", said, actions)
        elif self.is_open:
            end = self._conversation.watch(self.last_heard, now)
            if end is not None:
                actions.append(Close(GOING_AWAY, end.close))
                self._stalled = self._stalled or end.status == "stalled"
                state: State = "stale" if end.status == "stalled" else "waiting"
                self._lose(now, end.status, end.detail, actions, state=state)
            elif self.state == "live" and now >= (self._conversation.renew_at or now + 1):
                self._renew(f"it is {seconds(now - self.connected_at)} old", actions)
            self._talk(now, actions)
        return self._done(now, actions)

    def hold(self, now: int) -> list[Action]:
        """The shell reads no further for now, so that silence proves nothing."""
        if self.is_open:
            self._conversation.hold(now)
        return []

    def resume(self, now: int) -> list[Action]:
        """The shell reads again: the deadlines have moved by as long as it did not."""
        if self._conversation.resume(now):
            self.last_heard = now
        return self._done(now, [])

    def add(self, symbols: Iterable[str], now: int) -> list[Action]:
        """Want these symbols too."""
        actions: list[Action] = []
        for symbol in symbols if self.state != "stopped" else ():
            if not self._conversation.subscriptions.add(symbol):
                actions.append(self._no_room(symbol))
        self._talk(now, actions)
        return self._done(now, actions)

    def remove(self, symbols: Iterable[str], now: int) -> list[Action]:
        """No longer want these symbols."""
        actions: list[Action] = []
        for symbol in symbols:
            self._conversation.subscriptions.remove(symbol)
        self._talk(now, actions)
        return self._done(now, actions)

    def renew(self, reason: str, now: int) -> list[Action]:
        """Ask for a renewal, if it is live: there is nothing to hand over otherwise, and it dials anew by itself."""
        actions: list[Action] = []
        if self.state == "live":
            self._renew(reason, actions)
        return self._done(now, actions)

    def retire(self, now: int) -> list[Action]:
        """Its successor is live: go on, but once the socket is lost, stop."""
        self._retired = True
        self._conversation.renew_at = None
        return self._done(now, []) if self.is_open else self.stop(now)

    def stop(self, now: int) -> list[Action]:
        """Close for good: nothing that comes later has any effect."""
        actions: list[Action] = []
        if self.state == "connecting" or self.is_open:
            actions.append(Close(NORMAL, "stopped"))
        self._forget_socket()
        self._redial.at = self._wake = None
        self.state = "stopped"
        return actions

    def _begin(self, now: int, actions: list[Action]) -> None:
        """Dial, or ask where to; if the host may not be dialled yet, wait until it may."""
        if not self._redial.may(now, begun=self._address is not None):
            if self._redial.holds:
                wait = seconds((self._redial.at or now) - now)
                actions.append(Report("rate_limited", "", f"the next dial waits {wait}: {self._redial.holds}"))
            return
        self._connect_by = now + self._limits.connect_ns
        if self._address is not None:
            self.state = "connecting"
            actions.append(Dial(self._address.url))
        elif (fetch := self._protocol.fetch()) is not None:
            self.state = "connecting"
            self._fetching = True
            actions.append(fetch)
        else:
            self._find(None, now, actions)

    def _find(self, fetched: bytes | None, now: int, actions: list[Action]) -> None:
        """Find out where to dial, and do so."""
        self._fetching, self._connect_by = False, None
        self._dials += 1
        try:
            self._address = self._protocol.address(f"{self._connection_id} {self._dials}".strip(), fetched)
        except FeedError as error:
            self._lose(now, "failed", str(error), actions)
            return
        self.state = "waiting"
        self._begin(now, actions)

    def _lose(
        self,
        now: int,
        status: Status,
        detail: str,
        actions: list[Action],
        pace: Pace = "soon",
        *,
        not_before: int = 0,
        state: State = "waiting",
    ) -> None:
        """There is no socket any more: say so, and set the time of the next dial."""
        if self._has_held(now):
            self._redial.held()
        if self._conversation.live_since is not None:
            self._down_since = self.last_heard
        was_answered = self._conversation.is_greeted
        if self._unexpected_last:  # the likely reason, if this is not the exchange that was meant
            detail += f"; unexpected before that: {self._unexpected_last}"
        self._forget_socket()
        if self._retired:
            self.state, self.detail, self._wake = "stopped", detail, None
            return
        self.state = state
        at = self._redial.wait(now, pace, was_answered, not_before)
        when = f"the next dial is in {seconds(at - now)}" if at > now else "dialling anew at once"
        actions.append(Report(status, "", f"{detail}; {when}"))
        if at <= now:
            self._begin(now, actions)

    def _hurry(self, now: int) -> Pace:
        """The exchange wants to be dialled at once."""
        if self._has_held(now):
            self._redial.held()
        return self._redial.hurry()

    def _has_held(self, now: int) -> bool:
        since = self._conversation.live_since
        return since is not None and now - since >= self._limits.stable_ns

    def _renew(self, reason: str, actions: list[Action]) -> None:
        if not self._retired:
            self._conversation.renew(reason, actions)

    def _talk(self, now: int, actions: list[Action]) -> None:
        """Say what is to be said, as far as the limit allows; report it if that has made it live."""
        if not self.is_open:
            return
        if not self._conversation.talk(now, actions):
            return
        self.state = "live"
        wanted, rejected = len(self.symbols), len(self.rejected)
        said = f"live with {wanted - rejected} of {wanted} symbols"
        if self._was_live:
            said += f", after {seconds(now - self._down_since)} without"
        if self._protocol.caveat:
            said += f"; {self._protocol.caveat}"
        actions.append(Report("recovered" if self._stalled else "connected", "", said))
        self._stalled, self._was_live = False, True

    def _no_room(self, symbol: str) -> Report:
        return Report("failed", symbol, f"no room: a connection carries at most {self._protocol.capacity} symbols")

    def _forget_socket(self) -> None:
        self._address = self._connect_by = None
        self._fetching = False
        self.connected_at = 0
        self._unexpected_last = ""
        self._conversation.end()

    def _done(self, now: int, actions: list[Action]) -> list[Action]:
        """Ask for a call of `timer` at the earliest deadline, unless one is due before it anyway; keep what was said last."""
        for action in actions:
            if isinstance(action, Report):
                self.detail = f"{action.symbol}: {action.detail}" if action.symbol else action.detail
            elif isinstance(action, Note):
                self.detail = self._unexpected_last = action.detail
        if self.is_open:
            due = min(self._conversation.deadlines(self.last_heard, now), default=None)
        else:
            due = self._redial.at if self._redial.at is not None else self._connect_by
        if due is not None:
            at = max(due, now + 1)
            if self._wake is None or at < self._wake:
                self._wake = at
                actions.append(Wake(at))
        return actions
