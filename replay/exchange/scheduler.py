"""Who hears what and when: the clients of all venues behind one loop, which sends what is due in rounds.

Rounds      at most 1,000 messages of each market, then others have the loop
Timers      pings, heartbeats, and the ends of clients that have not done in time what they had to
Limits      bytes that a client leaves unread, unanswered pings: whoever is beyond one is disconnected, which is counted and logged,
            and nobody else notices
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Sequence
from typing import Any, Final

from aiohttp import WSCloseCode

from replay.exchange.client import CLOSE, CLOSE_S, PING, PONG, TEXT, Client, frame_of
from replay.exchange.market import Market
from replay.exchange.venue import Delivery, Faults, Hangup, Message, MessageKind, Venue
from replay.tape import Due, Tape

NS_PER_S: Final = 1_000_000_000
ROUND_MESSAGES: Final = 1_000  # then others have the loop: some 3 ms
ROUND_S: Final = (
    0.001  # rounds are not closer than this: a write for each message of a burst would cost more than the messages
)
BEHIND_NS: Final = NS_PER_S  # from here on it says that it cannot keep the pace
BEHIND_EVERY_NS: Final = 10 * NS_PER_S
HELD_S: Final = 1.0  # how often it is looked whether a client is still held
REASON_BYTES_MAX: Final = 123  # of a close frame
MISSED_PINGS: Final = "no pong"
DELAYED_BYTES_MAX: Final = 256 << 20  # that faults hold back; what is beyond is sent at once, which is logged
LARGE_BYTES: Final = 1 << 20  # a message so large may be unread besides what a client may leave unread


class Scheduler:
    """Counts what it did in `sent`, `dropped`, `behind_ns`."""

    def __init__(self, venues: Sequence[Venue], faults: Faults | None, unread_bytes_max: int, logger: Any) -> None:
        self.clients: dict[Client, None] = {}
        """In the order in which they came."""
        self.sent = 0
        """Messages of markets that went to clients."""
        self.dropped: dict[str, int] = {}
        """Clients that were disconnected, by why."""
        self.behind_ns = 0
        """How late its latest round was."""
        self._venues = tuple(venues)
        self._faults = faults
        self._unread_bytes_max = unread_bytes_max
        self._log = logger
        self._subscribers: dict[str, dict[str, list[Client]]] = {venue.feed: {} for venue in venues}
        self._due: dict[str, Iterator[tuple[Tape, Due]]] = {}
        """What of a market is being sent, by feed."""
        self._until: dict[str, int] = {}
        self._timers: list[tuple[float, int, Client]] = []  # when, a number that no other has, whose
        self._timers_made = 0
        self._delayed: list[tuple[float, int, Client, bytes]] = []
        self._delayed_count = self._delayed_bytes = 0
        self._is_hurrying = False
        self._waiting: asyncio.Future[None] | None = None
        self._behind_said_ns = 0

    # Clients

    def join(self, client: Client) -> None:
        """Take a client in, and say what it is said first."""
        now = _now()
        self.clients[client] = None
        limits = client.venue.limits
        client.ping_at = None if limits.ping_s is None else now + limits.ping_s
        client.ends_at = None if limits.age_s is None else now + limits.age_s
        self._see(client, now)
        if self._faults is not None:
            self._faults.joined(client, now)
        said = client.session.opened(now)
        self._subscribe(client, {}, client.session.streams)
        self._say_all(client, said, "other", now)
        self._arm(client)

    def leave(self, client: Client) -> None:
        """Forget a client."""
        if client in self.clients:
            del self.clients[client]
            self._subscribe(client, client.session.streams, {})
            if self._faults is not None:
                self._faults.left(client)

    def hear(self, client: Client, text: str | bytes) -> None:
        """Let a client's session answer a message."""
        now = _now()
        faults = self._faults
        if faults is not None and (answers := faults.heard(client, text, now)) is not None:
            self._deliver(client, answers, now)
            return
        self._see(client, now)
        session = client.session
        before = session.streams
        said = session.answer(text, now)
        answers_of_session = [one for one in said if isinstance(one, bytes)]
        deliveries = faults.answer(client, text, answers_of_session, now) if faults is not None and said else None
        if deliveries is None:
            deliveries = [Delivery(frame_of(TEXT, answer)) for answer in answers_of_session]
        self._deliver(client, deliveries, now)
        if session.streams is not before:
            self._subscribe(client, before, session.streams)
        for one in said:
            if isinstance(one, Hangup):
                self._hang_up(client, one)
        self._arm(client)

    def ping_of(self, client: Client, payload: bytes) -> None:
        """Answer a client's ping."""
        if self._faults is None or self._faults.pings(client, _now()):
            self.write(client, frame_of(PONG, payload))

    def say(self, client: Client, text: bytes) -> None:
        """Send a client a text."""
        self.write(client, frame_of(TEXT, text))

    def close(self, client: Client, code: int, reason: str) -> None:
        """Close a client's connection, without waiting for it, and without counting it as one that broke a limit."""
        if not client.is_dropped:
            client.is_dropped = True
            self.leave(client)
            if client.transport.is_closing():
                return
            client.transport.write(frame_of(CLOSE, code.to_bytes(2, "big") + reason.encode()[:REASON_BYTES_MAX]))
            asyncio.get_running_loop().call_later(CLOSE_S, client.abort)

    def note_drop(self, client: Client, why: str) -> None:
        """Count and log a client that is to be disconnected."""
        self.dropped[why] = self.dropped.get(why, 0) + 1
        self._log.warning(
            "disconnected a client", why=why, exchange=client.venue.feed, streams=len(client.session.streams)
        )

    def write(self, client: Client, frames: bytes) -> None:
        """Send frames, unless the client leaves too much unread."""
        if client.is_dropped or client.transport.is_closing():
            return
        unread = client.transport.get_write_buffer_size()
        if len(frames) > LARGE_BYTES:
            client.large_bytes = max(client.large_bytes, len(frames))
        elif client.large_bytes and not unread:
            client.large_bytes = 0
        if unread + len(frames) > self._unread_bytes_max + client.large_bytes:
            self._hang_up(client, Hangup(WSCloseCode.POLICY_VIOLATION, "Too slow", "too slow"))
        else:
            client.transport.write(frames)

    def _hang_up(self, client: Client, hangup: Hangup) -> None:
        if not client.is_dropped:
            self.note_drop(client, hangup.why)
            self.close(client, hangup.code, hangup.reason)

    def _subscribe(self, client: Client, before: Any, after: Any) -> None:
        """Note what a client wants to hear. Streams that do not exist are no error, and silent."""
        market = client.venue.market
        subscribers = self._subscribers[client.venue.feed]
        for stream in before:
            if stream not in after and stream in market.streams:
                subscribers[stream].remove(client)
                if not subscribers[stream]:
                    del subscribers[stream]
                if not subscribers:
                    self._due.pop(client.venue.feed, None)
        for stream in after:
            if stream not in before and stream in market.streams:
                subscribers.setdefault(stream, []).append(client)
        market.listen(bool(subscribers))
        self._wake()

    # What goes to one client

    def _see(self, client: Client, now: float) -> None:
        """Let a venue's market be where it is, and its clock what it shall be."""
        client.venue.market.catch_up()
        if self._faults is not None:
            client.venue.market.skew_ns = self._faults.skew_ns(client.venue.feed, now)

    def _say_all(self, client: Client, said: Sequence[bytes | Hangup], kind: MessageKind, now: float) -> None:
        for one in said:
            if isinstance(one, Hangup):
                self._hang_up(client, one)
            elif self._faults is None:
                self.say(client, one)
            else:
                self._treat(client, Message("", "", kind, (), one), now)

    def _treat(self, client: Client, message: Message, now: float) -> None:
        assert self._faults is not None
        deliveries = self._faults.message(client, message, now)
        if deliveries is None:
            self.say(client, message.text)
        else:
            self._deliver(client, deliveries, now)

    def _deliver(self, client: Client, deliveries: Sequence[Delivery], now: float) -> None:
        for frames, delay_s in deliveries:
            if delay_s > 0.0:
                self._delay(client, frames, now + delay_s)
            else:
                self.write(client, frames)

    def _delay(self, client: Client, frames: bytes, at: float) -> None:
        """Write at a time of the loop. What is due at one moment leaves in the order in which it came.

        The time is counted from the `now` that the faults were told: one that is read anew would be later by as long as the round
        has taken, and a later round would overtake it.
        """
        if self._delayed_bytes + len(frames) > DELAYED_BYTES_MAX:
            if not self._is_hurrying:
                self._is_hurrying = True
                self._log.warning("a fault delays too much; it is sent at once", bytes=self._delayed_bytes)
            self.write(client, frames)
            return
        self._delayed_count += 1
        self._delayed_bytes += len(frames)
        heapq.heappush(self._delayed, (at, self._delayed_count, client, frames))
        asyncio.get_running_loop().call_at(at, self._write_delayed, at)

    def _write_delayed(self, until: float) -> None:
        while self._delayed and self._delayed[0][0] <= until:
            _, _, client, frames = heapq.heappop(self._delayed)
            self._delayed_bytes -= len(frames)
            self.write(client, frames)
        self._is_hurrying = self._is_hurrying and bool(self._delayed)

    # Timers

    def _arm(self, client: Client) -> None:
        """See that a client is looked at when something of it is due."""
        moments = [moment for moment in (client.ping_at, client.ends_at, client.session.due) if moment is not None]
        if client.is_dropped or not moments:
            return
        wakes_at = min(moments)
        if client.wakes_at is None or wakes_at < client.wakes_at:
            self._wake_at(client, wakes_at)
            self._wake()

    def _wake_at(self, client: Client, moment: float) -> None:
        client.wakes_at = moment
        self._timers_made += 1
        heapq.heappush(self._timers, (moment, self._timers_made, client))

    def _on_time(self, now: float) -> None:
        """Look at the clients that something is due of."""
        while self._timers and self._timers[0][0] <= now:
            wakes_at, _, client = heapq.heappop(self._timers)
            if client.wakes_at != wakes_at or client not in self.clients:
                continue
            client.wakes_at = None
            if client.is_held:
                # Who is not heard is not blamed for its silence; all else goes on.
                if client.ping_at is not None and client.ping_at <= now:
                    self._ping(client, now)
                if client.session.due is not None and client.session.due <= now:
                    self._see(client, now)
                    said = [one for one in client.session.timer(now) if isinstance(one, bytes)]
                    self._say_all(client, said, "heartbeat", now)
                self._wake_at(client, now + HELD_S)
                continue
            if client.ends_at is not None and client.ends_at <= now:
                self._hang_up(client, Hangup(WSCloseCode.GOING_AWAY, "Connection has reached its maximum age", "age"))
                continue
            if client.ping_at is not None and client.ping_at <= now:
                self._ping(client, now)
            if client.session.due is not None and client.session.due <= now:
                self._see(client, now)
                self._say_all(client, client.session.timer(now), "heartbeat", now)
            self._arm(client)

    def _ping(self, client: Client, now: float) -> None:
        """Ping a client, or disconnect it if it has not answered for too long."""
        limits = client.venue.limits
        since = None if client.is_held else client.unanswered_since
        if since is not None and now - since >= limits.pong_s:
            self._hang_up(client, Hangup(WSCloseCode.POLICY_VIOLATION, "Pong timeout", MISSED_PINGS))
            return
        client.ping_at = now + (limits.ping_s or 0.0)
        if self._faults is None or self._faults.pings(client, now):
            payload = str(client.venue.market.now() // 1_000_000).encode()
            client.pings[payload] = now
            self.write(client, frame_of(PING, payload))

    # Rounds

    async def run(self) -> None:
        """Send what is due, and wait for what is next."""
        while True:
            now = _now()
            is_late = False
            waits: list[float] = []
            for venue in self._venues:
                if self._faults is not None:
                    venue.market.skew_ns = self._faults.skew_ns(venue.feed, now)
                if self._round(venue, now):
                    is_late = True
                elif self._subscribers[venue.feed] and (wait_s := _until_next(venue.market)) is not None:
                    waits.append(max(wait_s, ROUND_S))
            self._flush()
            self._on_time(_now())
            if is_late:
                await asyncio.sleep(0)
                continue
            if self._timers:
                waits.append(max(self._timers[0][0] - _now(), 0.0))
            await self._wait(min(waits, default=None))

    def _round(self, venue: Venue, now: float) -> bool:
        """Send of what is due as much as fits into a round; return whether more is."""
        market, feed = venue.market, venue.feed
        subscribers = self._subscribers[feed]
        pace = market.pace
        if not subscribers or pace is None:
            self._due.pop(feed, None)
            return False
        due = self._due.get(feed)
        if due is None:
            self._until[feed] = market.position()
            due = self._due[feed] = _all_due(market, self._until[feed])
        shown = pace.shifted(market.skew_ns)
        faults, moved = self._faults, market.moved
        for count, (tape, one) in enumerate(due, 1):
            # As tape.stream and tape.payload: calls cost as much as what they do.
            _, number, loop, index = one
            track = tape.tracks[number]
            stream = track.streams[index]
            clients = subscribers.get(stream)
            if clients:
                payload = track.payload(loop, index, shown, moved)
                if faults is None:
                    _render(stream, payload, clients)
                else:
                    self._render_with_faults(market, tape, one, payload, clients, now)
                self.sent += len(clients)
            if count == ROUND_MESSAGES:
                market.reached = one[0]
                self._note_behind(market, pace.moment(one[0]))
                return True
        market.cursor = market.reached = max(market.cursor, self._until[feed])
        del self._due[feed]
        self._note_behind(market, pace.moment(self._until[feed]))
        return False

    def _render_with_faults(
        self, market: Market, tape: Tape, due: Due, payload: bytes, clients: Sequence[Client], now: float
    ) -> None:
        assert self._faults is not None
        stream, ids = tape.stream(due), tape.ids(due, market.moved)
        kind: MessageKind = "trade" if ids else _kind_of(stream)
        symbol = tape.recorded(due).symbol
        for client in list(clients):
            text = client.session.message(stream, payload)
            deliveries = self._faults.message(client, Message(stream, symbol, kind, ids, text), now)
            if deliveries is None:
                client.frames.append(frame_of(TEXT, text))
                continue
            for frames, delay_s in deliveries:
                if delay_s > 0.0:
                    self._delay(client, frames, now + delay_s)
                else:
                    client.frames.append(frames)

    def _flush(self) -> None:
        for client in list(self.clients):
            if client.frames:
                frames = b"".join(client.frames)
                client.frames.clear()
                self.write(client, frames)

    def _note_behind(self, market: Market, due_ns: int) -> None:
        now_ns = market.clock.now()
        self.behind_ns = now_ns - due_ns
        if self.behind_ns > BEHIND_NS and now_ns - self._behind_said_ns > BEHIND_EVERY_NS:
            self._behind_said_ns = now_ns
            self._log.warning(
                "cannot keep the pace", exchange=market.feed, behind_s=self.behind_ns / NS_PER_S, speed=market.speed
            )

    async def _wait(self, seconds: float | None) -> None:
        """Wait until so much time has passed (None: for ever) or somebody calls `_wake`."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(seconds, self._wake) if seconds is not None else None
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _all_due(market: Market, until: int) -> Iterator[tuple[Tape, Due]]:
    for tape in market.tapes:
        for due in tape.due(market.cursor, until, looping=market.looping):
            yield tape, due


def _until_next(market: Market) -> float | None:
    """Return in how many s the next message of a market is due, None if there is none."""
    assert market.pace is not None
    following = [tape.following(market.cursor, looping=market.looping) for tape in market.tapes]
    positions = [position for position in following if position is not None]
    return (market.pace.moment(min(positions)) - market.clock.now()) / NS_PER_S if positions else None


def _render(stream: str, payload: bytes, clients: Sequence[Client]) -> None:
    """Give each client its frame; those of one form get the same."""
    if len(clients) == 1:
        (client,) = clients
        client.frames.append(frame_of(TEXT, client.session.message(stream, payload)))
        return
    shared: dict[object, bytes] = {}
    for client in clients:
        session = client.session
        form = session.form
        frame = shared.get(form) if form is not None else None
        if frame is None:
            frame = frame_of(TEXT, session.message(stream, payload))
            if form is not None:
                shared[form] = frame
        client.frames.append(frame)


def _kind_of(stream: str) -> MessageKind:
    is_quote = stream.endswith("@bookTicker") or stream.startswith(("ticker:", "/market/ticker:"))
    return "quote" if is_quote else "other"
