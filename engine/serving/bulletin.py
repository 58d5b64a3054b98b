"""What the page knows besides the rows: signals, news and troubles as they were reported, rates, and the status of each part.

One per daemon, shared by all viewers. Everything is kept in deques of fixed length: what falls out is old, and the page says how many
it shows. Status parts are encoded at most every `STATUS_NS`, whoever asks.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.events import FeedStatus, Gap, HandlerFailed, Key, Parked, Refused, Resumed, Shed, Signal, WindowOverflow
from engine.health import ExchangeHealth
from engine.ingress import QUOTE, TRADE
from engine.latency import Latency
from engine.serving.host import Host

STATUS_NS = 400_000_000  # status parts are made anew no more often than this
RATE_NS = 3_000_000_000  # ticks a second are counted over this
LATENCY_NS = 10_000_000_000  # quantiles of the latency are over this
SAMPLE_NS = 250_000_000
SIGNALS = 100  # newest signals a key
SIGNAL_KEYS = 1_024
NEWS = 40  # newest gaps, refusals and the like
TROUBLES = 1_024
GAPS = 1_024  # newest gaps that are remembered, for what the feed says of them too
LASTING_NS = 300_000_000_000  # a trouble that an exchange is asked about again and again counts after this
STRATEGIES = 100  # that the page lists
FEEDS = 50
MS = 1e-6  # ns to ms, as the page counts


@dataclass(frozen=True)
class Sample:
    """What had been counted at one moment."""

    at: int
    trades: int
    quotes: int
    latency: npt.NDArray[np.int64]


class Bulletin:
    """Listens to one daemon."""

    def __init__(self) -> None:
        self.number = 0
        """Of the newest signal or piece of news: both are numbered from 1 as they come."""
        self.news: deque[tuple[int, dict[str, Any]]] = deque(maxlen=NEWS)
        self.troubles: OrderedDict[Key, FeedStatus] = OrderedDict()
        self.counts: dict[str, int] = {}
        self.last_signals: dict[str, Signal] = {}
        self.last_errors: dict[str, HandlerFailed | Parked] = {}
        self._gaps: OrderedDict[tuple[str, str, int | None, int | None], None] = OrderedDict()
        self._since: dict[tuple[str, str], int] = {}  # by (exchange, what), since when it was seen to be in trouble
        self._signals: OrderedDict[Key, deque[tuple[int, Signal]]] = OrderedDict()
        self._samples: deque[Sample] = deque(maxlen=LATENCY_NS // SAMPLE_NS + 1)
        self._parts: dict[str, msgspec.Raw] = {}
        self._parts_at = 0
        self._keys: tuple[Any, msgspec.Raw] = (None, msgspec.Raw(b"[]"))

    # -- what is heard

    def hear(self, event: Any) -> None:
        """Note an event that the fold reported."""
        if isinstance(event, Signal):
            self._signal(event)
        elif isinstance(event, FeedStatus):
            self._status(event)
        elif isinstance(event, Gap):
            self._gap(event)
        elif isinstance(event, Refused):
            self._tell(event, "refused", event.reason)
        elif isinstance(event, WindowOverflow):
            self._tell(
                event, "overflow", f"window of {event.window} outgrew {event.capacity} trades: NaN until it fits"
            )
        elif isinstance(event, Shed):
            self._tell(event, "shed", f"{event.quotes} quotes let go of: {event.reason}")
        elif isinstance(event, HandlerFailed):
            self.last_errors[event.actor] = event
            self._tell(event, "failed", f"{event.actor}.{event.handler}: {event.error}")
        elif isinstance(event, Parked):
            self.last_errors.setdefault(event.actor, event)
            self._tell(event, "parked", f"{event.actor}: {event.reason}")
        elif isinstance(event, Resumed):
            self._tell(event, "resumed", event.actor)

    def _signal(self, event: Signal) -> None:
        self.number += 1
        key = (event.exchange, event.symbol)
        kept = self._signals.get(key)
        if kept is None:
            if len(self._signals) >= SIGNAL_KEYS:
                self._signals.popitem(last=False)
            kept = self._signals[key] = deque(maxlen=SIGNALS)
        kept.append((self.number, event))
        self._signals.move_to_end(key)
        self.last_signals[event.strategy] = event
        self.counts[event.strategy] = self.counts.get(event.strategy, 0) + 1

    def _gap(self, event: Gap) -> None:
        if event.first_id == event.last_id:
            what = f"{event.missing} trade missing, id {event.first_id}"
        else:
            what = f"{event.missing} trades missing, ids {event.first_id} to {event.last_id}"
        self._tell(event, "gap", f"{what}; {event.filled} known as history" if event.filled else what)
        self._gaps[event.exchange, event.symbol, event.first_id, event.last_id] = None
        if len(self._gaps) > GAPS:
            self._gaps.popitem(last=False)

    def _status(self, event: FeedStatus) -> None:
        span = (event.exchange, event.symbol, event.first_id, event.last_id)
        if event.status == "gap" and self._gaps.pop(span, self) is None:
            return  # the feed only repeats what was told when the ingress noticed
        key = (event.exchange, event.symbol)
        if event.status in ("connected", "recovered"):
            self.troubles.pop(key, None)
        elif event.status in ("stalled", "disconnected", "failed") or (
            event.status == "rate_limited"
            and not event.symbol  # of a symbol: its history has to wait, its feed is well
        ):
            self.troubles[key] = event
            self.troubles.move_to_end(key)
            if len(self.troubles) > TROUBLES:
                self.troubles.popitem(last=False)
        self._tell(event, event.status, event.detail)

    def trouble_of(self, key: Key) -> FeedStatus | None:
        """What is wrong with the feed of a key now: with its symbol, or with its exchange as a whole; None if nothing is."""
        return self.troubles.get(key) or self.troubles.get((key[0], ""))

    def lasting(self, exchanges: list[ExchangeHealth], now: int) -> list[str]:
        """Troubles of exchanges that were there at each look for `LASTING_NS`, in words: one that passes is none."""
        found = {}
        for one in exchanges:
            if one.products_trouble:
                found[one.exchange, "product list"] = one.products_trouble
            if one.backfill_trouble and one.gaps_open:
                found[one.exchange, "back-fill"] = one.backfill_trouble
        self._since = {what: self._since.get(what, now) for what in found}
        return [
            f"the {what} of {exchange} is in trouble: {found[exchange, what]}"
            for (exchange, what), since in self._since.items()
            if now - since >= LASTING_NS
        ]

    def _tell(self, event: Any, kind: str, text: str) -> None:
        self.number += 1
        where = {"exchange": getattr(event, "exchange", ""), "symbol": getattr(event, "symbol", "")}
        self.news.append((self.number, {"kind": kind, "text": text[:300], "at_ms": event.received * MS, **where}))

    # -- what is told

    def signals(self, key: Key, after: int) -> list[dict[str, Any]]:
        """Signals of a key with a number above `after`, oldest first."""
        return [
            {
                "strategy": event.strategy,
                "value": event.value,
                "reason": event.reason[:300],
                "at_ms": event.timestamp * MS,
            }
            for number, event in self._signals.get(key, ())
            if number > after
        ]

    def newer(self, after: int) -> list[dict[str, Any]]:
        """News with a number above `after`, oldest first."""
        return [piece for number, piece in self.news if number > after]

    def rates(self, host: Host, now: int) -> dict[str, float | None]:
        """Trades and quotes a second, and quantiles of the fold's latency in us, all of the last seconds; None while unknown."""
        if not self._samples or now - self._samples[-1].at >= SAMPLE_NS:
            trades, quotes = host.fold.ingress.counts[:, [TRADE, QUOTE]].sum(axis=0).tolist()
            self._samples.append(Sample(now, trades, quotes, host.latency.counts.copy()))
        newest = self._samples[-1]
        first = next((sample for sample in self._samples if newest.at - sample.at <= RATE_NS), newest)
        seconds = (newest.at - first.at) * 1e-9
        recent = Latency()
        recent.counts = newest.latency - self._samples[0].latency
        if (recent.counts < 0).any() or not recent.counts.any():
            recent.counts = newest.latency  # counted anew meanwhile, or nothing was folded of late: since it began
        recent.count, recent.max_ns = int(recent.counts.sum()), host.latency.max_ns
        return {
            "ticks": (newest.trades - first.trades) / seconds if seconds > 0.0 else None,
            "quotes": (newest.quotes - first.quotes) / seconds if seconds > 0.0 else None,
            "p50_us": recent.quantile(0.5) * 1e-3,
            "p99_us": recent.quantile(0.99) * 1e-3,
        }

    def parts(self, host: Host, now: int) -> dict[str, msgspec.Raw]:
        """Status of each part as JSON: the same bytes for as long as nothing has changed."""
        if not self._parts or now - self._parts_at >= STATUS_NS:
            feeds, exchanges = host.feeds(), host.exchanges()
            self.lasting(exchanges, now)
            made = {
                "engine": _engine(host),
                "feeds": _feeds(feeds),
                "exchanges": _exchanges(exchanges),
                "troubles": _troubles(self.troubles),
                "strategies": self._strategies(host),
                "journal": _journal(host),
                "holds": [{"at_ms": at * MS, "ms": took * MS, "what": what} for at, took, what in host.holds()[-5:]],
            }
            self._parts = {name: msgspec.Raw(msgspec.json.encode(part)) for name, part in made.items()}
            self._parts["keys"] = self._encoded_keys(host, [(feed.exchange, feed.symbols) for feed in feeds])
            self._parts_at = now
        return self._parts

    def _encoded_keys(self, host: Host, listened: list[tuple[str, tuple[str, ...]]]) -> msgspec.Raw:
        """All keys that were seen or are subscribed to, as [exchange, symbol]."""
        seen = len(host.fold.keys)
        made_of, encoded = self._keys
        if made_of != (seen, listened):
            keys = dict.fromkeys(host.fold.keys[code] for code in range(seen))
            keys |= dict.fromkeys((exchange, symbol) for exchange, symbols in listened for symbol in symbols)
            encoded = msgspec.Raw(msgspec.json.encode(sorted(keys, key=lambda key: (key[1], key[0]))))
            self._keys = ((seen, listened), encoded)
        return encoded

    def _strategies(self, host: Host) -> list[dict[str, Any]]:
        found = []
        for name, supervised in list(host.fold.supervisor.actors.items())[:STRATEGIES]:
            signal, error = self.last_signals.get(name), self.last_errors.get(name)
            found.append(
                {
                    "name": name,
                    "listening": supervised.listening,
                    "failures": supervised.failures,
                    "failed": supervised.failed,
                    "signals": self.counts.get(name, 0),
                    "last": signal
                    and {
                        "exchange": signal.exchange,
                        "symbol": signal.symbol,
                        "value": signal.value,
                        "reason": signal.reason[:300],
                        "at_ms": signal.received * MS,
                    },
                    "error": error
                    and {
                        "text": (error.error if isinstance(error, HandlerFailed) else error.reason)[:300],
                        "at_ms": error.received * MS,
                    },
                }
            )
        return found


def _engine(host: Host) -> dict[str, Any]:
    return {
        "starting": host.starting(),
        "version": host.version,
        "started_ms": host.started * MS,
        "views": host.fold.features.views,
        "hz": host.config.server.stream_hz,
    }


def _feeds(feeds: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": feed.name,
            "exchange": feed.exchange,
            "state": feed.state,
            "symbols": len(feed.symbols),
            "recording": feed.recording,
            "newest_ms": feed.newest * MS,
            "messages": feed.messages,
            "undecodable": feed.undecodable,
            "reconnects": feed.reconnects,
            "detail": feed.detail[:300],
        }
        for feed in feeds[:FEEDS]
    ]


def _exchanges(exchanges: list[ExchangeHealth]) -> list[dict[str, Any]]:
    return [
        {
            "exchange": one.exchange,
            "filled": one.trades_filled,
            "lost": one.trades_lost,
            "open": one.gaps_open,
            "unlisted": one.unlisted[:FEEDS],
            "unlisted_more": max(0, len(one.unlisted) - FEEDS),
            "backfill_trouble": one.backfill_trouble[:300] if one.gaps_open else "",
        }
        for one in exchanges[:FEEDS]
    ]


def _troubles(troubles: OrderedDict[Key, FeedStatus]) -> list[dict[str, Any]]:
    return [
        {
            "exchange": exchange,
            "symbol": symbol,
            "status": event.status,
            "detail": event.detail[:300],
            "at_ms": event.received * MS,
        }
        for (exchange, symbol), event in troubles.items()
    ]


def _journal(host: Host) -> dict[str, Any]:
    journal, snapshot = host.journal(), host.snapshots()
    return {
        "state": journal.state,
        "sequence": journal.sequence,
        "synced": journal.synced,
        "bytes": journal.bytes_written,
        "segments": journal.segments,
        "detail": journal.detail[:300],
        "snapshot": {
            "sequence": snapshot.sequence,
            "taken_ms": snapshot.taken_at * MS,
            "bytes": snapshot.bytes_written,
            "detail": snapshot.detail[:300],
        },
    }


_BULLETINS: weakref.WeakKeyDictionary[Host, Bulletin] = weakref.WeakKeyDictionary()


def bulletin_of(host: Host) -> Bulletin:
    """Return the one bulletin of a daemon, which listens from the first time that it is asked for, and is gone when the daemon is."""
    bulletin = _BULLETINS.get(host)
    if bulletin is None:
        bulletin = _BULLETINS[host] = Bulletin()
        host.listen(bulletin.hear)
    return bulletin
