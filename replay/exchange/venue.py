"""What the loopback exchange asks of others: of a venue, that it speaks one exchange's protocol, and of faults, what shall go wrong.

Session     one websocket of a client: texts in, texts out. No socket and no clock: `now` is the event loop's time in s, the rest it
            asks of its market
Venue       one exchange: opens sessions, answers requests for history, sets limits
Faults      asked at each request, message, answer and ping; None from it means: as if nothing were wrong
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from replay.exchange.client import Client
    from replay.exchange.market import Market, View
    from replay.exchange.server import Exchange
    from replay.rewrite import Moves

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Request(NamedTuple):
    """One HTTP request to a venue."""

    method: str
    path: str  # below the venue's base: /api/v3/time
    query: Mapping[str, str]


class Reply(NamedTuple):
    """What a request is answered."""

    status: int
    body: bytes
    headers: Mapping[str, str] = NO_HEADERS


class Hangup(NamedTuple):
    """The session is over: what the websocket is closed with, and what the log and the counts call it."""

    code: int
    reason: str
    why: str


class Limits(NamedTuple):
    """What a venue lets one client do; beyond it, a websocket is closed with 1008 and a request is answered 429."""

    messages: int  # of a client, in any rolling `messages_s`
    messages_s: float
    counts_control: bool  # whether pings and pongs are messages
    counts_together: bool  # whether all websockets of one address are counted together
    dials: int  # upgrades from one address, in any rolling `dials_s`
    dials_s: float
    weight: int  # of REST requests from one address, in each `weight_s`
    weight_s: float
    bans: bool  # who goes on while barred, is banned: 418
    ping_s: float | None  # how often the server pings; None: never
    pong_s: float  # a ping that is unanswered for so long ends the connection
    age_s: float | None  # so old a connection is closed; None: never


class Session(Protocol):
    """One websocket of a client."""

    @property
    def streams(self) -> Mapping[str, None]:
        """What it is subscribed to, as the market names its streams. Replaced when it changes, never changed in place."""

    @property
    def form(self) -> Hashable | None:
        """Sessions of equal form get equal messages, which are rendered once; None: `message` has to be asked for each."""

    @property
    def due(self) -> float | None:
        """When `timer` wants to be called, None: never."""

    def opened(self, now: float) -> Sequence[bytes | Hangup]:
        """Return what it says first."""

    def answer(self, text: str | bytes, now: float) -> Sequence[bytes | Hangup]:
        """Obey one message of the client, and return what it is answered, in order."""

    def message(self, stream: str, payload: bytes) -> bytes:
        """Return a message of the market as this client gets it."""

    def timer(self, now: float) -> Sequence[bytes | Hangup]:
        """Return what is due by now: heartbeats, or the end of a client that has not done what it had to."""


class Venue(Protocol):
    """One exchange."""

    feed: str
    """binance, coinbase, coinbase_exchange, kucoin."""
    exchange: str
    """What its events are called: binance, coinbase, kucoin."""
    api: str
    market: Market
    limits: Limits
    ids: Moves
    """Which ids its trades are known by."""

    @property
    def websocket_path(self) -> str | None:
        """Where its websocket is; "" where clients add /ws or /stream, None where they are told by REST."""

    rest_path: str
    """What its REST paths begin with."""
    websocket: str
    """Address of its websocket, once the exchange listens; "" where clients are told by REST."""
    rest: str
    """What its REST addresses begin with, once the exchange listens."""

    def opens(self, path: str) -> bool:
        """Return whether a websocket is served at a path."""

    def session(self, path: str, query: Mapping[str, str], now: float) -> Session:
        """Open a session. Raises FeedError for an address that asks for what cannot be."""

    def weight(self, request: Request) -> int:
        """Return how much of the limit a request takes."""

    def reply(self, request: Request, view: View, origin: str, now: float) -> Reply:
        """Answer a request from what `view` knows. `origin` is HOST:PORT, as the client spells it."""

    def too_many(self, used: int, retry_after_s: int, is_banned: bool) -> Reply:
        """Return what a request, or an upgrade, beyond the limit is answered."""

    def headers(self, used: int) -> Mapping[str, str]:
        """Return the headers of each answer, `used` being the weight that the address has used."""

    def shutdown_notice(self, session: Session) -> bytes | None:
        """Return what tells a client that the exchange is about to shut down; None if this one says nothing."""


# Faults

RequestKind = Literal["upgrade", "token", "rest"]
MessageKind = Literal["trade", "quote", "other", "heartbeat"]


class Treatment(NamedTuple):
    """What becomes of a request."""

    delay_s: float = 0.0
    reply: Reply | None = None  # is answered in place of what was asked
    is_unanswered: bool = False  # it stays without an answer for as long as the client waits
    is_reset: bool = False  # its connection is reset in place of an answer, as if nobody listened
    behind: int = 0  # REST does not know the newest so many trades of a symbol yet


class Message(NamedTuple):
    """A message on its way to one client."""

    stream: str  # "" for what a session says by itself
    symbol: str  # as the exchange spells it
    kind: MessageKind
    ids: tuple[int, ...]  # of its trades
    text: bytes  # as the client would get it


class Delivery(NamedTuple):
    """What goes onto the wire to a client, and when: whole websocket frames (`client.frame_of`), or what is wrong with them."""

    frames: bytes
    delay_s: float = 0.0  # more of it than the next one's: they come in another order


class Done(NamedTuple):
    """What a fault did: `Exchange.faults_done` lists the newest of them."""

    at_s: float  # since the exchange began
    kind: str
    feed: str
    symbol: str  # as tickfold spells it; "" where it is of no symbol
    detail: str


class Faults(Protocol):
    """What goes wrong. `now` is the event loop's time. Nothing may block; what takes time is a Delivery or a timer of its own."""

    @property
    def done(self) -> Sequence[Done]:
        """What was done, oldest first; as much of it as is kept."""

    def status(self) -> dict[str, Any]:
        """Return what `GET /` says of them under `faults`."""

    def begin(self, exchange: Exchange) -> None:
        """The exchange listens: from here on moments can be arranged. Raises ConfigError for a plan that does not fit it.

        There are `exchange.venues`, `clients`, `say` and `close`; a client has `abort`, `hold` and `release`, and a venue's market
        `renumber` and `stand_still`, with which its history and what it traded agree.
        """

    def end(self) -> None:
        """The exchange stops."""

    def joined(self, client: Client, now: float) -> None:
        """A websocket was opened."""

    def left(self, client: Client) -> None:
        """A websocket is gone."""

    def request(self, kind: RequestKind, feed: str, path: str, now: float) -> Treatment | None:
        """Treat an upgrade, a fetch of a token, or a REST request."""

    def replied(self, feed: str, request: Request, reply: Reply, now: float) -> Reply:
        """Treat what a REST request is answered."""

    def message(self, client: Client, message: Message, now: float) -> Sequence[Delivery] | None:
        """Treat a message of the market, or one that a session says by itself; () lets it be lost."""

    def heard(self, client: Client, request: str | bytes, now: float) -> Sequence[Delivery] | None:
        """Treat what a client says, before its session hears it; unless this is None, that never does, and this is the answer."""

    def answer(
        self, client: Client, request: str | bytes, answers: Sequence[bytes], now: float
    ) -> Sequence[Delivery] | None:
        """Treat what a client's message is answered."""

    def pings(self, client: Client, now: float) -> bool:
        """Return whether a client that is due for a ping gets it, and its own are answered."""

    def skew_ns(self, feed: str, now: float) -> int:
        """Return how far a venue's clock is ahead: all times that it says move by so much."""


class FaultPlan(Protocol):
    """Faults as they are planned: from equal seeds come equal ones."""

    def faults(self, seed: int) -> Faults:
        """Begin anew."""
