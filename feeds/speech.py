"""What a connection's state machine hears, does and needs to know of its exchange: the types at the seam.

Actions are what `feeds.connection` wants done, answers what a `StreamProtocol` reads in messages that hold no market data. A new
exchange is a new `StreamProtocol` and a decoder; the machine and the shell stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

State: TypeAlias = Literal["connecting", "subscribing", "live", "stale", "waiting", "failed", "stopped"]
Status: TypeAlias = Literal["connected", "disconnected", "stalled", "recovered", "rate_limited", "failed"]
"""What a connection reports of itself: those statuses of a FeedStatus that it can know of."""


class Dial(msgspec.Struct, frozen=True):
    """Open a socket to `url`; then call `opened`, `refused` or `failed`."""

    url: str


class Send(msgspec.Struct, frozen=True):
    """Send a text message."""

    text: str


class Pong(msgspec.Struct, frozen=True):
    """Answer a websocket ping with its own payload."""

    payload: bytes


class Close(msgspec.Struct, frozen=True):
    """Close the socket, or break off the dial. What it would still bring is no longer waited for."""

    code: int
    reason: str


class Wake(msgspec.Struct, frozen=True):
    """Call `timer` at `at_ns`, unless an earlier call is asked for; a Wake replaces the one before it."""

    at_ns: int


class Report(msgspec.Struct, frozen=True):
    """Tell the world: becomes a FeedStatus. An empty `symbol` speaks of the connection."""

    status: Status
    symbol: str
    detail: str


class Note(msgspec.Struct, frozen=True):
    """Tell the log: something unexpected that changes nothing."""

    detail: str


Action: TypeAlias = Dial | Send | Pong | Close | Wake | Report | Note


class Acknowledged(msgspec.Struct, frozen=True):
    """The exchange accepts request `number`."""

    number: int


class Rejected(msgspec.Struct, frozen=True):
    """The exchange turns a request down; `number` is None if it does not say which."""

    number: int | None
    reason: str


class ShuttingDown(msgspec.Struct, frozen=True):
    """The exchange is about to close this connection."""


class Unexpected(msgspec.Struct, frozen=True):
    """An answer that the protocol does not know: what was expected, and what came."""

    detail: str


Answer: TypeAlias = Acknowledged | Rejected | ShuttingDown | Unexpected


class StreamProtocol(Protocol):
    """How one exchange is spoken to. Pure; symbols are ours."""

    exchange: str
    batch: int
    """Symbols that one request may name."""

    def url(self) -> str:
        """Where to dial."""

    def subscribe(self, number: int, symbols: Sequence[str]) -> str:
        """The text of request `number`."""

    def unsubscribe(self, number: int, symbols: Sequence[str]) -> str:
        """The text of request `number`."""

    def read(self, frame: bytes) -> Answer | None:
        """Read a well-formed message that holds no event; None if it is of no concern (heartbeats, unknown types)."""

    def is_rate_limit(self, code: int, reason: str) -> bool:
        """Whether a close with this code and reason says that we spoke or dialled too often."""


class Limits(msgspec.Struct, frozen=True):
    """The times and rates that a connection keeps to."""

    connect_ns: int
    acknowledge_ns: int
    silence_ns: int
    backoff_first_ns: int
    backoff_max_ns: int
    stable_ns: int
    """A connection that was live for so long has held: the waits begin anew."""
    messages_a_second: int
