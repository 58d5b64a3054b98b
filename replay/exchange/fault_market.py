"""Faults of what an exchange knows: its ids, its clock, its product list, its history, and a market that stands still."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from engine.errors import FeedError
from feeds.product_lists import products_url
from replay.exchange.client import TEXT, frame_of
from replay.exchange.fault_connections import Counting, broken_reply
from replay.exchange.fault_effects import Effect, Parcel
from replay.exchange.fault_plan import Clock, Delist, Quiet, Renumber, Rest
from replay.exchange.venue import Delivery, Message, Reply, Request, RequestKind, Treatment

if TYPE_CHECKING:
    from replay.exchange.client import Client
    from replay.exchange.venue import Venue

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _List(NamedTuple):
    """A product list: where its entries stand ("" for the whole), what names one, and what it says of one that is gone."""

    entries: str
    name: str
    gone: dict[str, Any]


PRODUCT_LISTS: Final = {
    "binance": _List("symbols", "symbol", {"status": "BREAK"}),
    "coinbase": _List("products", "product_id", {"status": "delisted", "is_disabled": True}),
    "coinbase_exchange": _List("", "id", {"status": "delisted", "trading_disabled": True}),
    "kucoin": _List("data", "symbol", {"enableTrading": False}),
}
TRADES: Final = {"binance": "", "coinbase": "trades", "coinbase_exchange": "", "kucoin": "data"}
"""Where the trades of a page stand, by feed."""


class Renumbers(Effect):
    """See `Renumber`."""

    fault: Renumber

    def opened(self) -> None:
        for venue in self.stage.venues(self.fault.feeds):
            for symbol in self.symbols(venue):
                for first in venue.market.renumber(symbol, self.fault.to, self.fault.by):
                    self.hit()
                    self.note(venue.feed, symbol, f"the next trade has the id {first}")

    def closed(self) -> None:
        """It was a moment."""


class Quiets(Effect):
    """See `Quiet`."""

    fault: Quiet
    is_silence = True

    def opened(self) -> None:
        super().opened()
        self._set(True)

    def closed(self) -> None:
        self._set(False)
        super().closed()

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if message.kind == "heartbeat" or not self.of(client, message):
            return parcels
        self.hit()
        return []

    def _set(self, is_quiet: bool) -> None:
        for venue in self.stage.venues(self.fault.feeds):
            for symbol in self.symbols(venue):
                venue.market.stand_still(symbol, is_quiet)
                self.note(venue.feed, symbol, "stands still" if is_quiet else "goes on")


class Clocks(Effect):
    """See `Clock`."""

    fault: Clock

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        """Count what says a wrong time; the time itself is that of the market's clock."""
        if client.venue.feed in self.fault.feeds:
            self.hit()
        return parcels

    def skew_ns(self, feed: str, now: float) -> int:
        ms = self.fault.offset_ms + self.fault.drift_ms_s * (now - self.window.start)
        return round(ms * 1e6)


class Delists(Effect):
    """See `Delist`."""

    fault: Delist
    is_silence = True

    def heard(self, client: Client, request: bytes, now: float) -> Sequence[Delivery] | None:
        feed = client.venue.feed
        if self.fault.how != "error" or feed not in self.fault.feeds:
            return None
        try:
            asked = msgspec.json.decode(request)
        except _UNREADABLE:
            return None
        gone = [name for name in named(feed, asked) if self.concerns(feed, name)]
        if not gone:
            return None
        self.hit()
        self.note(feed, gone[0], "turns a subscription down")
        return [Delivery(frame_of(TEXT, rejection(feed, asked, gone[0])))]

    def message(self, client: Client, message: Message, parcels: list[Parcel], now: float) -> list[Parcel]:
        if not self.of(client, message):
            return parcels
        self.hit()
        return []

    def replied(self, venue: Venue, request: Request, reply: Reply, now: float) -> Reply:
        if self.fault.how in ("error", "silent") or reply.status != 200:
            return reply
        if not _is_product_list(venue.feed, request.path):
            return reply
        place, name, gone = PRODUCT_LISTS[venue.feed]
        answer = msgspec.json.decode(reply.body)
        entries = answer[place] if place else answer
        left = [entry for entry in entries if not self.concerns(venue.feed, entry[name])]
        if self.fault.how == "listed":
            left = [entry | gone if self.concerns(venue.feed, entry[name]) else entry for entry in entries]
        self.hit()
        self.note(venue.feed, "", f"a product list: {', '.join(self.symbols(venue))} {self.fault.how} as gone")
        return reply._replace(body=msgspec.json.encode(answer | {place: left} if place else left))


class Rests(Counting):
    """See `Rest`."""

    fault: Rest

    def opened(self) -> None:
        self._rows: dict[tuple[str, str], list[Any]] = {}
        super().opened()

    def request(self, kind: RequestKind, venue: Venue, path: str, now: float) -> Treatment | None:
        fault = self.fault
        if not self.is_on or kind != "rest" or not self.is_next(fault.after, fault.requests):
            return None
        reply = broken_reply(fault.status, fault.retry_after_s) if fault.status else None
        if fault.status == 429:
            reply = venue.too_many(venue.limits.weight + 1, fault.retry_after_s, False)
        said = {
            "leaves it unanswered": fault.hangs,
            f"answers {fault.status}": fault.status,
            f"answers {fault.delay_s:g} s late": fault.delay_s,
            f"is {fault.behind} trades behind": fault.behind,
            f"repeats {fault.overlap} rows": fault.overlap,
        }
        self.note(venue.feed, "", f"{path}: {', '.join(words for words, holds in said.items() if holds)}")
        return Treatment(fault.delay_s, reply, fault.hangs, behind=fault.behind)

    def replied(self, venue: Venue, request: Request, reply: Reply, now: float) -> Reply:
        place = TRADES[venue.feed]
        if not self.fault.overlap or reply.status != 200 or _is_product_list(venue.feed, request.path):
            return reply
        answer = msgspec.json.decode(reply.body)
        rows = answer.get(place) if place and isinstance(answer, dict) else answer
        if not isinstance(rows, list):
            return reply
        key = venue.feed, f"{request.path} {request.query.get('symbol', '')}"
        before = self._rows.get(key) or rows[: self.fault.overlap]
        self._rows[key] = rows[-self.fault.overlap :]
        rows = [*before, *rows]
        return reply._replace(body=msgspec.json.encode(answer | {place: rows} if place else rows))


def named(feed: str, request: Any) -> list[str]:
    """Return the symbols that a request to subscribe names, as the exchange spells them; none for any other."""
    if not isinstance(request, dict):
        return []
    if feed == "binance":
        asked = request.get("params") if request.get("method") == "SUBSCRIBE" else None
        names = [str(name).partition("@")[0].upper() for name in asked] if isinstance(asked, list) else []
    elif request.get("type") != "subscribe":
        names = []
    elif feed == "kucoin":
        names = str(request.get("topic", "")).partition(":")[2].split(",")
    else:
        asked = request.get("product_ids")
        names = [str(name) for name in asked] if isinstance(asked, list) else []
    return list(dict.fromkeys(names))


def rejection(feed: str, request: dict[str, Any], symbol: str) -> bytes:
    """Return what an exchange says to a subscription of what it does not have; Binance would say nothing, this has its form."""
    answer: dict[str, Any]
    if feed == "binance":
        answer = {"error": {"code": 2, "msg": f"Invalid request: unknown symbol {symbol}"}, "id": request.get("id")}
    elif feed == "kucoin":
        number, topic = str(request.get("id", "")), str(request.get("topic", "")).partition(":")[0]
        answer = {"id": number, "type": "error", "code": 404, "data": f"topic {topic}:{symbol} is not found"}
    else:
        answer = {"type": "error", "message": "Failed to subscribe", "reason": f"{symbol} is not a valid product"}
    return msgspec.json.encode(answer)


def _is_product_list(feed: str, path: str) -> bool:
    try:
        return path.rstrip("/") == products_url(feed, "")
    except FeedError:
        return False
