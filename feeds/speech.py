"""What a connection's state machine hears, does and needs to know of its exchange: the types at the seam.

Actions are what `feeds.connection` wants done, answers what a `StreamProtocol` reads in messages that hold no market data. A new
exchange is a new `StreamProtocol` and a decoder; the machine and the shell stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from engine.errors import FRAME_EXCERPT_CHARACTERS

State: TypeAlias = Literal["connecting", "subscribing", "live", "stale", "waiting", "failed", "stopped"]
Status: TypeAlias = Literal["connected", "disconnected", "stalled", "recovered", "rate_limited", "failed"]
"""What a connection reports of itself: those statuses of a FeedStatus that it can know of."""


class Fetch(msgspec.Struct, frozen=True):
    """Make an HTTP request without a body; then call `fetched`, `refused` (any status but 200) or `failed`."""

    method: Literal["GET", "POST"]
    url: str


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
    """Close the socket, or break off the dial or the fetch. What it would still bring is no longer waited for."""

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


class Missed(msgspec.Struct, frozen=True):
    """`count` messages of this socket never came, of whatever symbol: the newest trades of all of them are in doubt."""

    count: int


class Reach(msgspec.Struct, frozen=True):
    """The exchange says that the newest trade of `symbol` is `trade_id`."""

    symbol: str
    trade_id: int


class Renew(msgspec.Struct, frozen=True):
    """Open a second connection for the same symbols, hand over once it is live (`retire`), then `stop` this one."""

    reason: str


Action: TypeAlias = Fetch | Dial | Send | Pong | Close | Wake | Report | Note | Missed | Reach | Renew


class Greeted(msgspec.Struct, frozen=True):
    """The exchange is ready to be spoken to."""


class Acknowledged(msgspec.Struct, frozen=True):
    """The exchange accepts request `number`."""

    number: int


class Listed(msgspec.Struct, frozen=True):
    """The exchange lists all that this socket is subscribed to, and acknowledges its oldest open request with it.

    `channels` as in `StreamProtocol.channels` and `once`; symbols are ours, or the exchange's spelling where it is not known.
    """

    channels: Mapping[str, tuple[str, ...]]


class Rejected(msgspec.Struct, frozen=True):
    """The exchange turns a request down; `number` is None if it does not say which."""

    number: int | None
    reason: str


class Ponged(msgspec.Struct, frozen=True):
    """The exchange answers a ping of ours."""


class ShuttingDown(msgspec.Struct, frozen=True):
    """The exchange is about to close this connection."""


class Expired(msgspec.Struct, frozen=True):
    """What this connection was dialled with holds no longer: a new address is to be fetched and dialled."""

    reason: str


class Counted(msgspec.Struct, frozen=True):
    """With this message the exchange has sent `messages` on this socket."""

    messages: int


class Reached(msgspec.Struct, frozen=True):
    """The newest trade of `symbol` is `trade_id`."""

    symbol: str
    trade_id: int


class Unexpected(msgspec.Struct, frozen=True):
    """An answer that the protocol does not know: what was expected, and what came."""

    detail: str


Answer: TypeAlias = (
    Greeted | Acknowledged | Listed | Rejected | Ponged | ShuttingDown | Expired | Counted | Reached | Unexpected
)


class Address(msgspec.Struct, frozen=True):
    """Where to dial, and how often the exchange wants to be pinged there by messages of ours (0: never)."""

    url: str
    ping_every_ns: int = 0
    pong_within_ns: int = 0


class StreamProtocol(Protocol):
    """How one exchange is spoken to. Pure; symbols are ours."""

    exchange: str
    endpoint: str
    """Where it is found, for people: what is dialled, or what is asked where to dial."""
    channels: tuple[str, ...]
    """Every symbol is asked for on each of these, in messages of their own."""
    once: tuple[str, ...]
    """What is asked for once a socket, before all else, without symbols."""
    batch: int
    """Symbols that one message may name."""
    capacity: int
    """Symbols that one socket may carry."""
    greets: bool
    """Whether nothing may be said before the exchange has `Greeted`."""
    counts_together: bool
    """Whether the exchange counts the messages of all our sockets together, not of each."""
    caveat: str
    """What whoever trusts this feed should know; said whenever it is connected. May be empty."""

    def fetch(self) -> Fetch | None:
        """What to fetch before each dial; None if nothing."""

    def address(self, connection_id: str, fetched: bytes | None) -> Address:
        """Where to dial, once what `fetch` asks for has come.

        Raises FeedError, with what was expected and what came, if that is no address.
        """

    def subscribe(self, number: int, channel: str, symbols: Sequence[str]) -> str:
        """The text of request `number`."""

    def unsubscribe(self, number: int, channel: str, symbols: Sequence[str]) -> str:
        """The text of request `number`."""

    def ping(self, number: int) -> str:
        """The text of a ping of ours; asked for only where `address` says how often."""

    def read(self, frame: bytes) -> Answer | None:
        """Read a well-formed message that holds no event; None if it is of no concern (unknown types, snapshots)."""

    def is_rate_limit(self, code: int, reason: str) -> bool:
        """Whether a close with this code and reason says that we spoke or dialled too often."""


class Limits(msgspec.Struct, frozen=True):
    """The times and rates that a connection keeps to."""

    connect_ns: int
    """For each of the fetch, the dial and the greeting."""
    acknowledge_ns: int
    silence_ns: int
    backoff_first_ns: int
    backoff_max_ns: int
    stable_ns: int
    """A connection that was live for so long has held: the waits begin anew."""
    messages: int
    """Messages of ours, pings and pongs among them, in any `messages_span_ns`."""
    messages_span_ns: int
    renew_ns: int
    """The age at which a connection is renewed, before the exchange cuts it; 0 for never."""


def unexpected(exchange: str, expected: str, frame: bytes) -> Unexpected:
    """Say what was expected of a message and show what came."""
    return Unexpected(f"{exchange}: expected {expected}, came {excerpt(frame)}")


def excerpt(frame: bytes) -> str:
    """The beginning of a message, for people."""
    shown = frame[:FRAME_EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace")
    return shown + ("..." if len(frame) > FRAME_EXCERPT_CHARACTERS else "")
