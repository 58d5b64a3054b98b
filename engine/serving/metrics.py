"""`GET /metrics`: counters of the daemon in Prometheus' text, read when they are asked for. Nothing here runs while a tick is folded.

Names are `tickfold_...` with their unit; counters of what the fold did begin with the process, and so do those of a restart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from engine.events import FeedStatus, Gap, Key, Shed
from engine.health import FeedHealth
from engine.ingress import BAD_PRICE, DUPLICATE, LATE, OUTCOMES, QUOTE, TRADE
from engine.latency import STEP_BITS, STEPS, Latency
from engine.serving.bulletin import Bulletin
from engine.serving.host import Host
from engine.serving.model_metrics import model_metrics
from engine.serving.models import Board
from engine.serving.operations import keys_of, live_sequence, memory_bytes
from engine.serving.tracking_metrics import tracking_metrics

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
FEED_STATES = ("connecting", "subscribing", "live", "stale", "waiting", "failed", "stopped")
JOURNAL_STATES = ("journaling", "not journaling", "off")
KEY = ("exchange", "symbol")
NS_PER_S = 1e9
NONE = (0, 0, 0)
FIRST_POWER, LAST_POWER = 10, 35  # buckets of the latency end at powers of two of ns: 1 us to 34 s


class LinkTotals:
    """Messages, undecodable ones and reconnects by exchange, which go on where one connection takes over from another.

    A connection that is gone counts as it was at the last look. One whose count fell since then is another of the same name.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[int, int, int]] = {}  # by (exchange, name), of those that are there
        self._gone: dict[str, tuple[int, int, int]] = {}  # by exchange

    def totals(self, feeds: list[FeedHealth]) -> dict[str, tuple[int, int, int]]:
        """Take a look; return the sums by exchange: none is ever below what it was."""
        seen = {(feed.exchange, feed.name): (feed.messages, feed.undecodable, feed.reconnects) for feed in feeds}
        for link, counts in self._seen.items():
            now = seen.get(link)
            if now is None or any(new < old for new, old in zip(now, counts, strict=True)):
                self._gone[link[0]] = _sum(self._gone.get(link[0], NONE), counts)
        self._seen = seen
        found = dict(self._gone)
        for (exchange, _), counts in seen.items():
            found[exchange] = _sum(found.get(exchange, NONE), counts)
        return found


def _sum(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


@dataclass
class Served:
    """What the server counts of itself."""

    requests: dict[tuple[str, int], int] = field(default_factory=dict)  # by (route, status)
    refused_connections: int = 0
    stream_clients: int = 0
    stream_messages: int = 0
    stream_dropped: int = 0
    stream_cut: int = 0
    stream_refused: int = 0
    gaps: dict[Key, int] = field(default_factory=dict)
    missing: dict[Key, int] = field(default_factory=dict)
    filled: dict[Key, int] = field(default_factory=dict)
    lost: dict[Key, int] = field(default_factory=dict)
    feed_statuses: dict[tuple[str, str], int] = field(default_factory=dict)  # by (exchange, status)
    quotes_shed: int = 0
    links: LinkTotals = field(default_factory=LinkTotals)

    def hear(self, event: Any) -> None:
        """Count what the fold reports and keeps no count of."""
        if isinstance(event, Gap):
            key = (event.exchange, event.symbol)
            self.gaps[key] = self.gaps.get(key, 0) + 1
            self.missing[key] = self.missing.get(key, 0) + event.missing
        elif isinstance(event, FeedStatus):
            kind = (event.exchange, event.status)
            self.feed_statuses[kind] = self.feed_statuses.get(kind, 0) + 1
            counts = {"filled": self.filled, "lost": self.lost}.get(event.status)
            if counts is not None and event.first_id is not None and event.last_id is not None:
                key = (event.exchange, event.symbol)
                counts[key] = counts.get(key, 0) + event.last_id - event.first_id + 1
        elif isinstance(event, Shed):
            self.quotes_shed += event.quotes


class Counters(Collector):
    """Reads a daemon when Prometheus asks."""

    def __init__(self, host: Host, bulletin: Bulletin, served: Served, board: Board) -> None:
        self._host = host
        self._bulletin = bulletin
        self._served = served
        self._board = board

    def collect(self) -> Iterator[Metric]:
        yield from self._of_fold()
        yield from self._of_strategies()
        yield from model_metrics(self._board.known())
        yield from self._of_feeds()
        yield from self._of_keeping()
        yield from tracking_metrics(self._host.tracking())
        yield from self._of_process()
        yield from self._of_server()

    def _of_fold(self) -> Iterator[Metric]:
        fold, served = self._host.fold, self._served
        rows = CounterMetricFamily(
            "tickfold_rows", "Messages of the market by what became of them", labels=(*KEY, "outcome")
        )
        refused = CounterMetricFamily("tickfold_refused", "Messages that the ingress refused", labels=(*KEY, "reason"))
        for code in range(min(len(fold.keys), len(fold.ingress.counts))):
            key, counts = fold.keys[code], fold.ingress.counts[code].tolist()
            for outcome in (TRADE, QUOTE, LATE, DUPLICATE):
                rows.add_metric((*key, OUTCOMES[outcome]), counts[outcome])
            for outcome in range(BAD_PRICE, len(OUTCOMES)):
                refused.add_metric((*key, OUTCOMES[outcome]), counts[outcome])
        yield rows
        yield refused
        yield _by_key("tickfold_gaps", "Gaps in trade ids", served.gaps)
        yield _by_key("tickfold_missing_trades", "Trade ids in gaps", served.missing)
        yield _by_key("tickfold_filled_trades", "Trade ids of gaps that came as history", served.filled)
        yield _by_key("tickfold_lost_trades", "Trade ids of gaps that were declared lost", served.lost)
        yield CounterMetricFamily(
            "tickfold_forgotten_gaps", "Ranges of missing ids that had to be forgotten", fold.ingress.forgotten()
        )
        yield CounterMetricFamily(
            "tickfold_quotes_shed", "Quotes let go of because the engine fell behind", served.quotes_shed
        )
        yield CounterMetricFamily("tickfold_folded", "Trades, quotes and gaps that were folded", fold.folded)
        yield GaugeMetricFamily(
            "tickfold_sequence", "Number of the newest input that was folded", live_sequence(self._host)
        )
        yield GaugeMetricFamily("tickfold_keys", "Symbols of exchanges with a state", len(keys_of(self._host)))
        yield GaugeMetricFamily(
            "tickfold_store_bytes", "Memory of the states and rows of all keys", fold.features.memory()
        )
        yield _histogram(self._host.latency)

    def _of_strategies(self) -> Iterator[Metric]:
        label = ("strategy",)
        signals = CounterMetricFamily("tickfold_signals", "Signals given", labels=label)
        failures = CounterMetricFamily("tickfold_handler_failures", "Events at which a handler raised", labels=label)
        listening = GaugeMetricFamily("tickfold_strategy_listening", "1, or 0 while it is parked", labels=label)
        for name, supervised in self._host.fold.supervisor.actors.items():
            signals.add_metric((name,), self._bulletin.counts.get(name, 0))
            failures.add_metric((name,), supervised.failed)
            listening.add_metric((name,), float(supervised.listening))
        yield from (signals, failures, listening)

    def _of_feeds(self) -> Iterator[Metric]:
        label, one = ("feed", "exchange"), ("exchange",)
        state = GaugeMetricFamily("tickfold_feed_state", "1 for the state that a feed is in", labels=(*label, "state"))
        messages = CounterMetricFamily("tickfold_feed_messages", "Messages received", labels=one)
        undecodable = CounterMetricFamily("tickfold_feed_undecodable", "Messages that break the protocol", labels=one)
        reconnects = CounterMetricFamily("tickfold_feed_reconnects", "Times that it was dialled again", labels=one)
        newest = GaugeMetricFamily(
            "tickfold_feed_newest_timestamp_seconds", "When the newest message came", labels=label
        )
        for feed in self._host.feeds():
            labels = (feed.name, feed.exchange)
            for name in dict.fromkeys((*FEED_STATES, feed.state)):
                state.add_metric((*labels, name), float(feed.state == name))
            newest.add_metric(labels, feed.newest / NS_PER_S)
        for exchange, totals in self._served.links.totals(self._host.feeds()).items():
            for family, total in zip((messages, undecodable, reconnects), totals, strict=True):
                family.add_metric((exchange,), total)
        statuses = CounterMetricFamily(
            "tickfold_feed_statuses", "What feeds said of themselves", labels=("exchange", "status")
        )
        for kind, count in self._served.feed_statuses.items():
            statuses.add_metric(kind, count)
        stalled = GaugeMetricFamily("tickfold_symbol_stalled", "1 while a symbol is silent for too long", labels=KEY)
        for key, trouble in self._bulletin.troubles.items():
            if trouble.status == "stalled" and trouble.symbol:
                stalled.add_metric(key, 1.0)
        yield from (state, messages, undecodable, reconnects, newest, statuses, stalled)
        open_gaps = GaugeMetricFamily("tickfold_gaps_open", "Spans of missing trades that are asked for", labels=one)
        requests = CounterMetricFamily("tickfold_backfill_requests", "Requests for missing trades", labels=one)
        for health in self._host.exchanges():
            open_gaps.add_metric((health.exchange,), health.gaps_open)
            requests.add_metric((health.exchange,), health.requests)
        yield from (open_gaps, requests)

    def _of_keeping(self) -> Iterator[Metric]:
        journal, snapshots, now = self._host.journal(), self._host.snapshots(), self._host.clock.now()
        state = GaugeMetricFamily("tickfold_journal_state", "1 for the state that the journal is in", labels=("state",))
        for name in JOURNAL_STATES:
            state.add_metric((name,), float(journal.state == name))
        yield state
        unsynced = max(0, journal.sequence - journal.synced)
        yield CounterMetricFamily(
            "tickfold_journal_written_bytes", "Bytes written to the journal", journal.bytes_written
        )
        yield GaugeMetricFamily(
            "tickfold_journal_sequence", "Number of the newest input in the journal", journal.sequence
        )
        yield GaugeMetricFamily("tickfold_journal_unsynced_inputs", "Inputs not yet forced to the disk", unsynced)
        yield GaugeMetricFamily("tickfold_journal_segments", "Segments of the journal", journal.segments)
        yield GaugeMetricFamily(
            "tickfold_snapshot_sequence", "Input at which the newest snapshot stands", snapshots.sequence
        )
        if snapshots.taken_at:
            age = max(0, now - snapshots.taken_at) / NS_PER_S
            yield GaugeMetricFamily("tickfold_snapshot_age_seconds", "Age of the newest snapshot", age)
        yield GaugeMetricFamily("tickfold_snapshot_bytes", "Size of the newest snapshot", snapshots.bytes_written)
        hold = snapshots.longest_hold_ns / NS_PER_S
        yield GaugeMetricFamily(
            "tickfold_snapshot_longest_hold_seconds", "Longest time it held the loop at a stretch", hold
        )
        yield GaugeMetricFamily("tickfold_snapshot_failed", "1 if the last try failed", float(bool(snapshots.detail)))

    def _of_process(self) -> Iterator[Metric]:
        host = self._host
        holds = host.holds()
        yield GaugeMetricFamily("tickfold_ready", "1, or 0 while it starts", float(not host.starting()))
        yield GaugeMetricFamily("tickfold_loop_holds", "Newest holds of the loop that are remembered", len(holds))
        longest = max((held for _, held, _ in holds), default=0) / NS_PER_S
        yield GaugeMetricFamily("tickfold_loop_hold_longest_seconds", "The longest of them", longest)
        yield GaugeMetricFamily("tickfold_resident_memory_bytes", "Resident memory of the process", memory_bytes())
        yield GaugeMetricFamily("tickfold_start_time_seconds", "When the daemon started", host.started / NS_PER_S)
        yield GaugeMetricFamily(
            "tickfold_clock_skew_seconds", "How far the wall clock is ahead", host.clock.skew_ns() / NS_PER_S
        )
        info = GaugeMetricFamily("tickfold_info", "Version of tickfold", labels=("version",))
        info.add_metric((host.version,), 1.0)
        yield info

    def _of_server(self) -> Iterator[Metric]:
        served = self._served
        requests = CounterMetricFamily("tickfold_http_requests", "Requests answered", labels=("route", "status"))
        for (route, status), count in served.requests.items():
            requests.add_metric((route, str(status)), count)
        yield requests
        refused = served.refused_connections
        yield CounterMetricFamily("tickfold_http_connections_refused", "Connections beyond the limit", refused)
        yield GaugeMetricFamily("tickfold_stream_clients", "Clients of the stream", served.stream_clients)
        yield CounterMetricFamily(
            "tickfold_stream_clients_refused", "Clients beyond server.clients_max", served.stream_refused
        )
        yield CounterMetricFamily(
            "tickfold_stream_messages", "Messages sent to clients of the stream", served.stream_messages
        )
        yield CounterMetricFamily(
            "tickfold_stream_dropped", "Events that a slow client did not get", served.stream_dropped
        )
        yield CounterMetricFamily("tickfold_stream_cut", "Clients cut because they did not read", served.stream_cut)


def _by_key(name: str, documentation: str, counts: dict[Key, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, documentation, labels=KEY)
    for key, count in counts.items():
        family.add_metric(key, count)
    return family


def _histogram(latency: Latency) -> HistogramMetricFamily:
    """Return the latency in buckets that end at powers of two of ns, which the finer ones of `Latency` end at too."""
    totals = np.cumsum(latency.counts)
    powers = range(FIRST_POWER, LAST_POWER + 1)
    buckets = [(repr(2**power / NS_PER_S), float(totals[(power - STEP_BITS + 1) * STEPS - 1])) for power in powers]
    return HistogramMetricFamily(
        "tickfold_latency_seconds",
        "From the reception of an input to the end of its fold",
        buckets=[*buckets, ("+Inf", float(totals[-1]))],
        sum_value=latency.total_ns / NS_PER_S,
    )


class Exposition:
    """The text that Prometheus reads."""

    def __init__(self, host: Host, bulletin: Bulletin, served: Served, board: Board) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Counters(host, bulletin, served, board))

    def text(self) -> bytes:
        """Return all metrics as they are now."""
        return generate_latest(self._registry)
