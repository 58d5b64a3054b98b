"""Faults of messages on their way: silence, loss, repetition, lateness, disorder, garbage, novelties and values that cannot be."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from replay.exchange.client import TEXT, frame_of
from replay.exchange.fault_effects import Effect, Parcel, parcel_of
from replay.exchange.fault_frames import (
    BINARY,
    UNKNOWN_TYPES,
    bad_value,
    book,
    cut,
    fragments,
    with_bytes,
    with_unknown_field,
)
from replay.exchange.fault_plan import Bad, Burst, Cap, Delay, Gap, Garble, Lag, Mute, Repeat, Shuffle, Unknown
from replay.exchange.fault_schedule import Window
from replay.exchange.venue import Delivery, Message

if TYPE_CHECKING:
    from replay.exchange.client import Client
    from replay.exchange.venue import Venue

LOOK_AGAIN_S: Final = 1.0
"""How often it is looked for subscriptions while there are none."""
KEPT_STREAMS_MAX: Final = 4_096
"""Streams of clients whose last messages are kept to be repeated; of those beyond nothing is."""


class Mutes(Effect):
    """See `Mute`."""

    fault: Mute
    is_silence = True

    def opened(self) -> None:
        self._chosen: frozenset[tuple[str, str]] | None = None
        super().opened()
        if self.fault.streams:
            self._choose(self.window)

    def _choose(self, window: Window) -> None:
        """Draw among what somebody is subscribed to; as long as that is nothing, look again each second."""
        if not self.is_on or self.window != window:
            return
        streams = [
            (venue.feed, stream, symbol)
            for venue in self.stage.venues(self.fault.feeds)
            for stream, symbol in subscribed(venue, self.stage.clients((venue.feed,))).items()
            if self.concerns(venue.feed, symbol)
        ]
        drawn = self.chance.sample(streams, min(self.fault.streams, len(streams)))
        self._chosen = frozenset((feed, stream) for feed, stream, _ in drawn)
        for feed, stream, symbol in sorted(drawn):
            self.note(feed, symbol, f"mutes {stream}")
        if not drawn:
            self.stage.later(self.stage.now + LOOK_AGAIN_S, lambda: self._choose(window))

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if message.kind == "heartbeat":
            is_muted = not self.fault.pings and client.venue.feed in self.fault.feeds
        else:
            is_muted = self.of(client, message) and (
                self._chosen is None or (client.venue.feed, message.stream) in self._chosen
            )
        if not is_muted:
            return parcels
        self.hit()
        return []

    def answer(self, client: Client, request: bytes, deliveries: Sequence[Delivery], now: float) -> Sequence[Delivery]:
        is_ping = not self.fault.pings and client.venue.feed in self.fault.feeds and b'"ping"' in request
        return () if is_ping else deliveries

    def pings(self, client: Client, now: float) -> bool:
        return self.fault.pings or client.venue.feed not in self.fault.feeds


class Caps(Effect):
    """See `Cap`."""

    fault: Cap
    is_silence = True

    def opened(self) -> None:
        self._within: dict[Client, tuple[object, frozenset[str]]] = {}
        super().opened()

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if not message.stream or client.venue.feed not in self.fault.feeds:
            return parcels
        streams, within = self._within.get(client, (None, frozenset()))
        if streams is not client.session.streams:
            streams = client.session.streams
            within = frozenset(list(streams)[: self.fault.streams])
            self._within[client] = streams, within
            if len(within) < len(streams):
                self.note(client.venue.feed, "", f"{len(streams) - len(within)} of {len(streams)} streams are silent")
        if message.stream in within:
            return parcels
        self.hit()
        return []

    def left(self, client: Client) -> None:
        if self.is_on:
            self._within.pop(client, None)


class Gaps(Effect):
    """See `Gap`."""

    fault: Gap

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if not message.ids or not self.of(client, message) or not self.draw(client.venue.feed, message):
            return parcels
        self.tell(client, message, "is lost")
        return []


class Repeats(Effect):
    """See `Repeat`."""

    fault: Repeat

    def opened(self) -> None:
        self._last: dict[tuple[Client, str], deque[bytes]] = {}
        super().opened()

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if not message.ids or not self.of(client, message):
            return parcels
        key = client, message.stream
        last = self._last.get(key)
        if last is None:
            if len(self._last) >= KEPT_STREAMS_MAX:
                return parcels
            last = self._last[key] = deque(maxlen=self.fault.last)
        last.append(message.text)
        if not self.draw(client.venue.feed, message):
            return parcels
        self.tell(client, message, f"the last {len(last)} are repeated")
        return [*parcels, *map(parcel_of, last)]

    def left(self, client: Client) -> None:
        if self.is_on:
            self._last = {key: last for key, last in self._last.items() if key[0] is not client}


class Bursts(Effect):
    """See `Burst`."""

    fault: Burst

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if not self.of(client, message):
            return parcels
        start, stop = self.window
        lasts_s = (stop - start) / self.fault.faster
        at = stop - lasts_s + (now - start) / self.fault.faster
        self.hit()
        return _later(parcels, max(at - now, 0.0))


class Lags(Effect):
    """See `Lag`."""

    fault: Lag

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if not self.of(client, message):
            return parcels
        self.hit()
        return _later(parcels, self.fault.delay_s)


class Shuffles(Effect):
    """See `Shuffle`."""

    fault: Shuffle

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if not self.of(client, message) or not self.draw(client.venue.feed, message):
            return parcels
        self.hit()
        return _later(parcels, self.chance.random() * self.fault.within_s)


class Delays(Effect):
    """See `Delay`."""

    fault: Delay

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if not self.of(client, message) or not self.draw(client.venue.feed, message):
            return parcels
        delay_s = self.fault.delay_s * (0.5 + 0.5 * self.chance.random())
        self.tell(client, message, f"{delay_s:.3f} s late")
        return _later(parcels, delay_s)


class Garbles(Effect):
    """See `Garble`."""

    fault: Garble

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if not self.of(client, message) or not self.draw(client.venue.feed, message):
            return parcels
        self.tell(client, message, self.fault.how)
        if self.fault.how == "oversize":
            return [_spoken(client, "tickfold@depth", book(client.venue.feed, self.fault.bytes)), *parcels]
        return [garbled for parcel in parcels for garbled in self._garbled(parcel)]

    def _garbled(self, parcel: Parcel) -> list[Parcel]:
        text, how = parcel.text, self.fault.how
        if text is None:
            return [parcel]
        if how == "empty":
            return [Parcel(frame_of(TEXT, b""), parcel.delay_s), parcel]
        if how == "fragments":
            frames = fragments(text, self.fault.fragments, self.chance)
        elif how == "binary":
            frames = frame_of(BINARY, text)
        elif how == "cut":
            frames = frame_of(TEXT, cut(text, self.chance))
        else:
            frames = frame_of(TEXT, with_bytes(text, b"\0" if how == "nul" else b"\xff\xfe", self.chance))
        return [Parcel(frames, parcel.delay_s)]


class Unknowns(Effect):
    """See `Unknown`."""

    fault: Unknown

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if not self.of(client, message) or not self.draw(client.venue.feed, message):
            return parcels
        self.tell(client, message, f"unknown {self.fault.how}")
        if self.fault.how == "type":
            return [_spoken(client, "tickfold@unknown", UNKNOWN_TYPES[client.venue.feed]), *parcels]
        return [
            parcel if parcel.text is None else parcel_of(with_unknown_field(parcel.text), parcel.delay_s)
            for parcel in parcels
        ]


class Bads(Effect):
    """See `Bad`."""

    fault: Bad

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if message.kind not in ("trade", "quote") or not self.of(client, message):
            return parcels
        feed, how = client.venue.feed, self.fault.how
        if bad_value(message.text, how, message.kind == "trade") is None:
            return parcels  # nothing in it could be wrong in this way
        if not self.draw(feed, message):
            return parcels
        self.tell(client, message, how)
        return [self._bad(parcel, message.kind == "trade") for parcel in parcels]

    def _bad(self, parcel: Parcel, is_trade: bool) -> Parcel:
        changed = None if parcel.text is None else bad_value(parcel.text, self.fault.how, is_trade)
        return parcel if changed is None else parcel_of(changed, parcel.delay_s)


def subscribed(venue: Venue, clients: Sequence[Client]) -> dict[str, str]:
    """Return the streams of a venue that some of its clients are subscribed to, and the symbol of each, in the market's order."""
    wanted = {stream for client in clients for stream in client.session.streams}
    tracks = [track for tape in venue.market.tapes for track in tape.tracks]
    return {
        message.stream: message.symbol for track in tracks for message in track.messages if message.stream in wanted
    }


def _spoken(client: Client, stream: str, text: bytes) -> Parcel:
    """Return a message as the client gets messages of streams."""
    return parcel_of(client.session.message(stream, text) if client.venue.feed == "binance" else text)


def _later(parcels: Sequence[Parcel], delay_s: float) -> list[Parcel]:
    return [parcel._replace(delay_s=parcel.delay_s + delay_s) for parcel in parcels]
