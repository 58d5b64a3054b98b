"""What is said on one socket, from its opening to its end: greeting, requests, answers, pings, and when to give it up.

Which socket that is, and what follows its end, is the connection's (`feeds.connection`). What is wanted outlives the socket; so do
the counts, and the window that our messages have to pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from feeds.keepalive import KeepAlive
from feeds.limits import RollingWindow
from feeds.speech import (
    Acknowledged,
    Action,
    Address,
    Answer,
    Counted,
    Expired,
    Greeted,
    Limits,
    Listed,
    Missed,
    Note,
    Pong,
    Ponged,
    Reach,
    Reached,
    Rejected,
    Renew,
    Report,
    Send,
    ShuttingDown,
    Status,
    StreamProtocol,
    Unexpected,
)
from feeds.subscriptions import Request, Subscriptions, Verdict, few

NOTES = 20
"""Unexpected messages of one connection that are passed on; the others are only counted."""


class End(msgspec.Struct, frozen=True):
    """Why a socket is to be given up."""

    status: Status
    detail: str
    close: str
    """The reason that the exchange is told."""
    hurries: bool = False
    """Whether the exchange wants the next dial at once."""


class Conversation:
    """The sockets of one connection, one after the other. Methods add what they call for to `actions`."""

    def __init__(
        self, protocol: StreamProtocol, limits: Limits, messages: RollingWindow, symbols: Iterable[str]
    ) -> None:
        self.subscriptions = Subscriptions(protocol, symbols)
        self.ignored = 0
        """Messages of no concern: snapshots, types that nobody asked for."""
        self.unexpected = 0
        self.missed = 0
        """Messages that the exchange has counted and that never came."""
        self.is_greeted = False
        """Whether the exchange may be spoken to on this socket."""
        self.is_announced = False
        """Whether the exchange has announced that it will close this socket."""
        self.live_since: int | None = None
        self.renew_at: int | None = None
        self._protocol = protocol
        self._limits = limits
        self._messages = messages
        self._keepalive = KeepAlive()
        self._address = Address("")
        self._greet_by: int | None = None
        self._held_since: int | None = None
        self._skipped = 0
        """What the exchange's count of this socket's messages is ahead of ours by."""

    @property
    def waits(self) -> bool:
        """Whether something is to be said, and has to wait for the limit of messages."""
        return self._keepalive.owed is not None or self.subscriptions.has_to_say

    def begin(self, address: Address, renew_at: int | None, now: int) -> None:
        """A socket is open."""
        self._address, self.renew_at = address, renew_at
        self._skipped = 0
        if self._protocol.greets:
            self._greet_by = now + self._limits.connect_ns
        else:
            self._greeted(now)

    def end(self) -> None:
        """The socket is gone."""
        self.live_since = self.renew_at = self._greet_by = self._held_since = None
        self.is_greeted = self.is_announced = False
        self._keepalive.end()
        self.subscriptions.forget()

    def hear(self, answer: Answer | None, heard: int, now: int, actions: list[Action]) -> End | None:
        """Take an answer; return an End if it is the last on this socket. `heard` as in `Connection.answered`."""
        match answer:
            case None:
                self.ignored += 1
            case Greeted():
                if not self.is_greeted:
                    self._greeted(now)
            case Acknowledged(number):
                if not self.subscriptions.acknowledge(number):
                    self._note(f"request {number} was acknowledged, which is not open", actions)
            case Listed(channels):
                self._judge(self.subscriptions.listed(channels), f"it lists {_listed(channels)}", actions)
            case Rejected(number, reason):
                self._judge(self.subscriptions.reject(number), reason, actions)
            case Ponged():
                self._keepalive.ponged()
            case Counted(messages):
                self._count(messages, heard, actions)
            case Reached(symbol, trade_id):
                actions.append(Reach(symbol, trade_id))
            case ShuttingDown():
                return self._shut(actions)
            case Expired(reason):
                return End("disconnected", reason, "to be dialled anew", hurries=True)
            case Unexpected(detail):
                self._note(detail, actions)
        return None

    def owe(self, payload: bytes) -> None:
        """The exchange has pinged: the newest ping is answered, as RFC 6455 5.5.3 allows, once the limit lets us speak."""
        self._keepalive.owed = payload

    def talk(self, now: int, actions: list[Action]) -> bool:
        """Say what is to be said, as far as the limit allows; return whether that has made it live."""
        keepalive, subscriptions = self._keepalive, self.subscriptions
        while self._messages.free_at(now) == now:
            if keepalive.owed is not None:
                actions.append(Pong(keepalive.owed))
                keepalive.owed = None
            elif keepalive.is_due(now):
                actions.append(Send(self._protocol.ping(keepalive.sent(now))))
            elif not subscriptions.has_to_say:
                break
            elif (text := subscriptions.next_request(now)) is not None:
                actions.append(Send(text))
            else:
                continue
            self._messages.take(now)
        if self.live_since is None and self.is_greeted and subscriptions.is_settled:
            self.live_since = now
            return True
        return False

    def watch(self, last_heard: int, now: int) -> End | None:
        """Return an End if the exchange has been silent, or has left something unanswered, for too long."""
        limits = self._limits
        if self._held_since is not None:
            return None
        if last_heard + limits.silence_ns <= now:
            return End(
                "stalled", f"nothing came for {seconds(now - last_heard)}, not even a ping", "silent for too long"
            )
        waited = self._keepalive.waited(now)
        if waited is not None:
            return End("stalled", f"no answer to a ping for {seconds(waited)}", "no answer to a ping")
        if self._greet_by is not None and self._greet_by <= now:
            return End("failed", f"no greeting within {seconds(limits.connect_ns)} of the dial", "no greeting")
        oldest = self.subscriptions.oldest
        if oldest is not None and oldest.sent_at + limits.acknowledge_ns <= now:
            said = f"no answer within {seconds(limits.acknowledge_ns)} to a {_request(oldest)}"
            return End("disconnected", said, "no answer to a request")
        return None

    def renew(self, reason: str, actions: list[Action]) -> None:
        """Ask for a successor of this socket."""
        self.renew_at = None
        actions.append(Renew(reason))

    def hold(self, now: int) -> None:
        """Nobody listens from here on."""
        if self._held_since is None:
            self._held_since = now

    def resume(self, now: int) -> bool:
        """Somebody listens again: the deadlines have moved by as long as nobody did. Return whether it was held."""
        since, self._held_since = self._held_since, None
        if since is None:
            return False
        self.subscriptions.put_off(since, now)
        self._keepalive.put_off(since, now)
        if self._greet_by is not None:
            self._greet_by += now - since
        return True

    def deadlines(self, last_heard: int, now: int) -> Iterator[int]:
        """When something will be due, if nothing comes before."""
        keepalive = self._keepalive
        if self._held_since is None:
            yield last_heard + self._limits.silence_ns
            oldest = self.subscriptions.oldest
            if oldest is not None:
                yield oldest.sent_at + self._limits.acknowledge_ns
            if keepalive.pong_by is not None:
                yield keepalive.pong_by
            if self._greet_by is not None:
                yield self._greet_by
        if self.live_since is not None and self.renew_at is not None:
            yield self.renew_at
        free = self._messages.free_at(now)
        if self.waits:
            yield free
        if keepalive.ping_at is not None:
            yield max(keepalive.ping_at, free)

    def _greeted(self, now: int) -> None:
        self.is_greeted, self._greet_by = True, None
        self._keepalive.begin(self._address.ping_every_ns, self._address.pong_within_ns, now)
        self.subscriptions.begin()

    def _shut(self, actions: list[Action]) -> End | None:
        """A socket that is live is renewed; another is not worth it."""
        said = "the exchange announced its shutdown"
        if self.live_since is None:
            return End("disconnected", said, "the exchange is shutting down", hurries=True)
        if not self.is_announced:
            self.is_announced = True
            self.renew(said, actions)
        return None

    def _judge(self, verdict: Verdict | None, reason: str, actions: list[Action]) -> None:
        """Say what an answer has turned down."""
        if verdict is None:
            self._note(f"an answer that belongs to no open request: {reason}", actions)
            return
        request = verdict.request
        if not verdict.is_granted and not (request.subscribes and request.symbols):
            self._note(f"the exchange turns down a {_request(request)}: {reason}", actions)
        for symbol in verdict.refused:
            actions.append(Report("failed", symbol, f"the exchange refuses to subscribe: {reason}"))

    def _count(self, messages: int, heard: int, actions: list[Action]) -> None:
        """Compare the exchange's count of this socket's messages with ours. One that goes back begins anew."""
        if heard <= 0:
            return
        missing = messages - heard - self._skipped
        self._skipped += missing
        if missing > 0:
            self.missed += missing
            actions.append(Missed(missing))

    def _note(self, detail: str, actions: list[Action]) -> None:
        self.unexpected += 1
        if self.unexpected <= NOTES:
            actions.append(Note(detail))


def seconds(ns: int) -> str:
    """A span, for people."""
    return f"{ns / 1e9:.3g} s"


def _request(request: Request) -> str:
    what = few(request.symbols) if request.symbols else request.channel
    return f"request to {'subscribe to' if request.subscribes else 'unsubscribe from'} {what}"


def _listed(channels: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{name} {few(symbols)}".strip() for name, symbols in channels.items()) or "nothing"
