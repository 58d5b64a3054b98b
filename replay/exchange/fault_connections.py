"""Faults of connections: resets, closes, black holes, dials that are turned away, limits, tokens, lost acknowledgements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from replay.exchange.fault_effects import Effect, Parcel, parcel_of
from replay.exchange.fault_plan import Ack, Blackhole, Close, Deaf, Drop, Expire, Limit, Refuse
from replay.exchange.venue import Delivery, Message, Reply, RequestKind, Treatment

if TYPE_CHECKING:
    from replay.exchange.client import Client
    from replay.exchange.venue import Venue

BROKEN: Final = 1006
"""The code that no frame carries: a connection that ended without one."""
POLICY_VIOLATION: Final = 1008
UNAVAILABLE: Final = Reply(503, b"Service Unavailable\n")
EXPIRED: Final = "token is expired"


class Drops(Effect):
    """See `Drop`."""

    fault: Drop

    def begin(self) -> None:
        self._has_dropped = False
        super().begin()

    def opened(self) -> None:
        clients = self.draw_clients(self.fault.connections)
        for client in clients:
            client.abort()
        self.hits, self.total = len(clients), self.total + len(clients)
        self._has_dropped = True
        dials = f", no dial for {self.fault.for_s:g} s" if self.fault.for_s else ""
        self.note("", "", f"resets {len(clients)} connections{dials}{'' if self.fault.rest else ', and REST for good'}")

    def request(self, kind: RequestKind, venue: Venue, path: str, now: float) -> Treatment | None:
        if kind == "rest":
            if self.fault.rest or not self._has_dropped:
                return None
            self.hit()
            return Treatment(reply=UNAVAILABLE)
        if not self.is_on or not self.fault.lasts:
            return None
        self.hit()
        self.note(venue.feed, "", f"resets the {kind}")
        return Treatment(is_reset=True)


class Closes(Effect):
    """See `Close`."""

    fault: Close

    def opened(self) -> None:
        if self.fault.age_s:
            super().opened()
            return
        for client in self.draw_clients(self.fault.connections):
            self._announce(client, self.stage.now + self.fault.notice_s)

    def closed(self) -> None:
        if self.fault.age_s:
            super().closed()

    def joined(self, client: Client, now: float) -> None:
        if not self.is_on or not self.fault.age_s or client.venue.feed not in self.fault.feeds:
            return
        at = now + self.fault.age_s
        self.stage.later(at - min(self.fault.notice_s, self.fault.age_s), lambda: self._announce(client, at))

    def _announce(self, client: Client, at: float) -> None:
        """Say that the end is near, if that is wanted and the exchange does so, and arrange it."""
        if client not in self.stage.exchange.clients:
            return
        notice = client.venue.shutdown_notice(client.session) if self.fault.notice_s else None
        if notice is not None:
            self.note(client.venue.feed, "", f"announces the end in {at - self.stage.now:g} s")
            self.stage.exchange.say(client, notice)
        self.stage.later(at, lambda: self._end(client))

    def _end(self, client: Client) -> None:
        if client not in self.stage.exchange.clients:
            return
        self.hit()
        self.note(client.venue.feed, "", f"closes a connection with {self.fault.code}")
        if self.fault.code == BROKEN:
            client.abort()
        else:
            self.stage.exchange.close(client, self.fault.code, self.fault.reason)


class Counting(Effect):
    """Treats some of the requests of a window: those after the first `after`, at most `requests`."""

    def opened(self) -> None:
        self._passed = 0
        super().opened()

    def is_next(self, after: int, requests: int) -> bool:
        """Count a request, and return whether it is one that is treated."""
        if self._passed < after:
            self._passed += 1
            return False
        if requests and self.hits >= requests:
            return False
        self.hit()
        return True


class Limits(Counting):
    """See `Limit`."""

    fault: Limit

    def request(self, kind: RequestKind, venue: Venue, path: str, now: float) -> Treatment | None:
        fault = self.fault
        if not self.is_on or kind not in fault.on or not self.is_next(fault.after, fault.requests):
            return None
        self.note(venue.feed, "", f"answers {kind} {path} with {fault.status}, Retry-After {fault.retry_after_s}")
        reply = venue.too_many(venue.limits.weight + 1, fault.retry_after_s, fault.status == 418)
        headers = {**reply.headers, "Retry-After": str(fault.retry_after_s)}
        return Treatment(reply=reply._replace(status=fault.status, headers=headers))


class Refuses(Effect):
    """See `Refuse`."""

    fault: Refuse

    def request(self, kind: RequestKind, venue: Venue, path: str, now: float) -> Treatment | None:
        fault = self.fault
        if not self.is_on or kind not in fault.on:
            return None
        self.hit()
        self.note(venue.feed, "", f"answers the {kind} with {fault.status}" if fault.status else f"resets the {kind}")
        if not fault.status:
            return Treatment(is_reset=True)
        return Treatment(reply=broken_reply(fault.status, fault.retry_after_s))


class Expires(Counting):
    """See `Expire`."""

    fault: Expire

    def joined(self, client: Client, now: float) -> None:
        if self.is_on and self.fault.age_s and client.venue.feed in self.fault.feeds:
            self.stage.later(now + self.fault.age_s, lambda: self._expire(client))

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        is_welcome = not message.stream and b'"welcome"' in message.text
        if self.fault.age_s or not is_welcome or client.venue.feed not in self.fault.feeds:
            return parcels
        if not self.is_next(0, self.fault.dials):
            return parcels
        self.note(client.venue.feed, "", f"401 in place of the welcome: {EXPIRED}")
        self.stage.later(now, lambda: self._close_if_there(client))
        return [parcel_of(_expired(message.text))]

    def _expire(self, client: Client) -> None:
        if client in self.stage.exchange.clients and self.is_next(0, self.fault.dials):
            self.note(client.venue.feed, "", f"401: {EXPIRED}")
            self.stage.exchange.say(client, _expired(b"{}"))
            self._close_if_there(client)

    def _close_if_there(self, client: Client) -> None:
        if client in self.stage.exchange.clients:
            self.stage.exchange.close(client, POLICY_VIOLATION, EXPIRED)


class Deafens(Effect):
    """See `Deaf`."""

    fault: Deaf

    def opened(self) -> None:
        super().opened()
        for client in self.stage.clients(self.fault.feeds):
            self._deafen(client)

    def joined(self, client: Client, now: float) -> None:
        if self.is_on and client.venue.feed in self.fault.feeds:
            self._deafen(client)

    def _deafen(self, client: Client) -> None:
        self.hit()
        client.hold()

    def closed(self) -> None:
        for client in self.stage.clients(self.fault.feeds):
            client.release()
        super().closed()


class Blackholes(Effect):
    """See `Blackhole`."""

    fault: Blackhole

    def begin(self) -> None:
        self._held: dict[Client, None] = {}
        super().begin()

    def opened(self) -> None:
        self._held = dict.fromkeys(self.draw_clients(self.fault.connections))
        for client in self._held:
            self.hit()
            client.hold()
        self.note("", "", f"nothing goes through {len(self._held)} connections")

    def closed(self) -> None:
        """What a network that is back answers to whoever still speaks of such a connection is a reset."""
        for client in self._held:
            client.abort()
        self.note("", "", f"ended, and resets {len(self._held)} connections")
        self._held = {}

    def left(self, client: Client) -> None:
        self._held.pop(client, None)

    def request(self, kind: RequestKind, venue: Venue, path: str, now: float) -> Treatment | None:
        if not self.is_on or not self.fault.dials or kind == "rest":
            return None
        self.hit()
        self.note(venue.feed, "", f"leaves the {kind} unanswered")
        return Treatment(is_unanswered=True)

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        return [] if client in self._held else parcels

    def answer(self, client: Client, request: bytes, deliveries: Sequence[Delivery], now: float) -> Sequence[Delivery]:
        return () if client in self._held else deliveries

    def pings(self, client: Client, now: float) -> bool:
        return client not in self._held


class Acks(Counting):
    """See `Ack`."""

    fault: Ack

    def answer(self, client: Client, request: bytes, deliveries: Sequence[Delivery], now: float) -> Sequence[Delivery]:
        feed = client.venue.feed
        if feed not in self.fault.feeds or not deliveries or b'"ping"' in request:
            return deliveries
        if self.chance.random() >= self.fault.share or not self.is_next(0, self.fault.requests):
            return deliveries
        self.note(feed, "", f"the answer comes {self.fault.delay_s:g} s late" if self.fault.delay_s else "no answer")
        if not self.fault.delay_s:
            return ()
        return [delivery._replace(delay_s=delivery.delay_s + self.fault.delay_s) for delivery in deliveries]


def broken_reply(status: int, retry_after_s: int) -> Reply:
    """Return what an exchange's front answers: a status, and a page that is no JSON."""
    headers = {"Content-Type": "text/html", **({"Retry-After": str(retry_after_s)} if retry_after_s else {})}
    return Reply(status, b"<html><body><h1>%d</h1></body></html>\n" % status, headers)


def _expired(welcome: bytes) -> bytes:
    """Return KuCoin's error, with the connection's id where a welcome says it."""
    number = msgspec.json.decode(welcome).get("id", "tickfold")
    return msgspec.json.encode({"id": number, "type": "error", "code": 401, "data": EXPIRED})
