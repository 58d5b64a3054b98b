"""The picture that `tickfold top` draws of a daemon, and the same as a document: rates are differences between two samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich import box
from rich.console import Group, JustifyMethod, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from engine.cli.client import Features, Health, Row, StrategyHealth

COLUMNS = (
    ("market:price", "{:,.6g}"),
    ("market:spread_bps", "{:.2f}"),
    ("technical_1s:rsi_14", "{:.1f}"),
    ("technical:macd", "{:+.3g}"),
    ("derived:volatility_index", "{:.1f}"),
    ("derived:vwap_1m", "{:,.6g}"),
    ("derived:trade_imbalance_1m", "{:+.2f}"),
)
"""Features that are shown, as far as they are computed and there is room; without any of them, the first of each view."""
AGE_WIDTH, VALUE_WIDTH, GAP = 8, 8, 2
WIDE = 110  # columns of a terminal from which what parts say in words is shown too
SPARKS = "▁▂▃▄▅▆▇█"
HISTORY = 120
HOLDS_SHOWN = 4
KEYS_MIN, KEYS_ONCE = 3, 40
BLANK = Text()
NS_PER_S = 1e9
STATES = {
    "ok": "green", "live": "green", "journaling": "green", "listening": "green",
    "starting": "yellow", "degraded": "yellow", "connecting": "yellow", "subscribing": "yellow", "waiting": "yellow", "stale": "yellow",
    "off": "dim", "stopped": "dim",
}  # fmt: skip
"""Colours of states; what is not here is red."""


@dataclass(frozen=True)
class Sample:
    """What a daemon answered at one moment (`at`: s, monotonic, ours)."""

    at: float
    health: Health
    features: Features
    rows: Sequence[Row]


class TopView:
    """Keeps the newest samples of one daemon and draws them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._now: Sample | None = None
        self._before: Sample | None = None
        self._lost = ""
        self._rates: deque[float] = deque(maxlen=HISTORY)

    def add(self, sample: Sample) -> None:
        """Take a new sample. Of a daemon that was started anew in between no difference is taken."""
        same = self._now is not None and self._now.health.started == sample.health.started
        self._before, self._now, self._lost = (self._now if same else None), sample, ""
        if self._before is None:
            self._rates.clear()
        else:
            self._rates.append(self._rate(lambda health: health.live_sequence) or 0.0)

    def lose(self, why: str, at_ns: int) -> None:
        """Note that the daemon cannot be reached since `at_ns` (UTC)."""
        self._lost = self._lost or f"disconnected since {_clock(at_ns)} UTC, trying again: {why}"

    def document(self) -> dict[str, Any]:
        """The newest sample and its rates, for JSON."""
        sample = self._sample()
        feeds = sample.health.parts.feeds
        return {
            "url": self._url,
            "health": msgspec.to_builtins(sample.health),
            "rates": {
                "inputs_per_s": self._rate(lambda health: health.live_sequence),
                "journal_bytes_per_s": self._rate(lambda health: health.parts.journal.bytes_written),
                "messages_per_s": {feed.name: self._rate(_messages(feed.name)) for feed in feeds},
            },
            "keys": msgspec.to_builtins(sample.rows),
        }

    def picture(self, width: int, height: int | None = None) -> RenderableType:
        """The picture for a terminal of `width` columns and, if it is watched, `height` lines."""
        parts = self._sample().health.parts
        holds = min(len(parts.loop.holds), HOLDS_SHOWN)
        others = (
            17
            + len(self._models())
            + max(len(parts.feeds), 1)
            + max(len(parts.strategies), 1)
            + (holds + 1 if holds else 0)
        )
        most = KEYS_ONCE if height is None else max(KEYS_MIN, height - others)
        drawn = [self._head(width), self._numbers(width), BLANK, self._feeds(width), BLANK, self._keys(width, most)]
        drawn += [BLANK, self._strategies(width), BLANK, self._keeping(), *([BLANK, self._holds()] if holds else [])]
        return Group(*drawn)

    # -- parts of the picture

    def _head(self, width: int) -> RenderableType:
        health = self._sample().health
        status = "disconnected" if self._lost else health.status
        text = Text.assemble(("tickfold ", "bold"), f"{health.version}  ")
        text.append(f" {status} ", f"bold reverse {_colour(status)}")
        if any(feed.recording for feed in health.parts.feeds):
            text.append("  ").append(" recording ", "reverse cyan")
        more = (
            (f"  up {_span(health.uptime_s)}", ""),
            (f"  {_clock(health.now)} UTC", "cyan"),
            (f"  {self._url}", "dim"),
        )
        for part, style in more:
            if text.cell_len + len(part) <= width - 4:
                text.append(part, style)
        said = self._lost or health.starting or "; ".join(health.reasons)
        if said:
            text.append("\n" + said, "red" if self._lost else "yellow")
        return Panel(text, box=box.ROUNDED, border_style="red" if self._lost else _colour(status), width=width)

    def _numbers(self, width: int) -> RenderableType:
        """Counts and rates in one line, the most important first, as many as there is room for."""
        health, rate = self._sample().health, self._rate(lambda health: health.live_sequence)
        latency = health.latency_ns
        text = Text(no_wrap=True, overflow="ellipsis")
        for name, value in (
            ("sequence", f"{health.live_sequence:,}"),
            ("inputs/s", "-" if rate is None else f"{rate:,.0f}"),
            ("fold p50", _duration(latency.p50)),
            ("p99", _duration(latency.p99)),
            ("memory", _bytes(health.memory_bytes)),
            ("max", _duration(latency.max)),
            ("store", _bytes(health.store_bytes)),
            ("clock", f"{health.clock_skew_ns / 1e6:+.1f} ms"),
        ):
            if text.cell_len + len(name) + len(value) + 4 <= width:
                text.append(f"{'   ' if text else ''}{name} ", "dim").append(value)
        if width >= WIDE:
            text.append("   ").append(_sparks(self._rates, min(width - text.cell_len - 3, 40)), "green")
        return text

    def _feeds(self, width: int) -> Table:
        table = _table(width, "feeds", "state", ">symbols", ">messages", ">per s", ">newest", ">reconnects", ">bad")
        is_wide = width >= WIDE
        if is_wide:
            _column(table, "says", ratio=1)
        now = self._sample().health.now
        for feed in self._sample().health.parts.feeds:
            rate = self._rate(_messages(feed.name))
            cells = [
                Text(feed.name, "bold"),
                _state(feed.state),
                Text(f"{len(feed.symbols):,}"),
                Text(f"{feed.messages:,}"),
                Text("-" if rate is None else f"{rate:,.0f}"),
                Text(_ago(now, feed.newest)),
                Text(f"{feed.reconnects:,}", "yellow" if feed.reconnects else ""),
                Text(f"{feed.undecodable:,}", "red" if feed.undecodable else ""),
            ]
            table.add_row(*cells, *([Text(feed.detail, "dim")] if is_wide else []))
        return _or_none(table)

    def _keys(self, width: int, most: int) -> Table:
        sample = self._sample()
        rows = sample.rows[:most]
        names = max((len(row.exchange) + len(row.symbol) + 1 for row in rows), default=0)
        room = width - AGE_WIDTH - max(names, len("newest features")) - GAP
        table = _table(width, "newest features")
        shown: list[tuple[str, str]] = []
        for name, form in _columns(sample.features):
            view, _, feature = name.partition(":")
            room -= max(len(feature), len(view), VALUE_WIDTH) + GAP
            if room >= 0 or not shown:
                shown.append((name, form))
                # Which view a column is of matters only where two have a feature of that name.
                _column(table, f">{feature}\n{view}")
        _column(table, ">newest")
        for row in rows:
            cells = [_value(row.values.get(name), form) for name, form in shown]
            key = Text.assemble(f"{row.exchange} ", (row.symbol, "bold"))
            table.add_row(key, *cells, Text(_ago(sample.health.now, _parse(row.timestamp))))
        more = len(sample.features.keys) - len(rows)
        if more > 0:
            table.add_row(Text(f"and {more:,} more", "dim"))
        return _or_none(table)

    def _strategies(self, width: int) -> Table:
        table = _table(width, "strategies", "state", ">signals", ">failures", "last signal", ">ago")
        is_wide = width >= WIDE
        if is_wide:
            _column(table, "why", ratio=1)
        now = self._sample().health.now
        for strategy in self._sample().health.parts.strategies:
            signal = strategy.last_signal
            said = Text("-", "dim")
            if signal is not None:
                style = "green" if signal.value > 0 else "red" if signal.value < 0 else "dim"
                said = Text.assemble(("0" if not signal.value else f"{signal.value:+g}", style), f" {signal.symbol}")
            cells = [
                Text(strategy.name, "bold"),
                _state(strategy.state),
                Text(f"{strategy.signals:,}"),
                Text(f"{strategy.failures:,}", "red" if strategy.failures else ""),
                said,
                Text("-" if signal is None else _ago(now, signal.received)),
            ]
            table.add_row(*cells, *([_why(strategy)] if is_wide else []))
        return _or_none(table)

    def _keeping(self) -> RenderableType:
        """The journal and the snapshots, a line each; what is wrong with them stands first."""
        health = self._sample().health
        journal, snapshots = health.parts.journal, health.parts.snapshots
        rate = self._rate(lambda health: health.parts.journal.bytes_written)
        kept = Text.assemble(("journal    ", "bold"), _state(journal.state))
        kept.append(f"  {journal.detail}" if journal.detail else "", "red")
        kept.append(f"  {_bytes(journal.bytes_written)}" + ("" if rate is None else f", {_bytes(round(rate))}/s"))
        kept.append(
            f"  {journal.segments:,} segment{'' if journal.segments == 1 else 's'}, synced to {journal.synced:,}"
        )
        taken = Text.assemble(("snapshot   ", "bold"), (f"{snapshots.detail}  " if snapshots.detail else "", "red"))
        if snapshots.sequence:
            taken.append(f"at {snapshots.sequence:,}, {_ago(health.now, snapshots.taken_at)} ago")
            taken.append(f"  {_bytes(snapshots.bytes_written)}  held the loop {_duration(snapshots.longest_hold_ns)}")
        else:
            taken.append("none yet", "dim")
        return Group(_one_line(kept), _one_line(taken), *self._models())

    def _models(self) -> list[RenderableType]:
        """The models in a line; what is wrong with them stands first. Their scores are what `tickfold models list` shows."""
        models = self._sample().health.parts.models
        if models is None or not models.running:
            return []
        text = Text.assemble(("models     ", "bold"), (f"{models.alarms[0]}  " if models.alarms else "", "red"))
        text.append(f"{', '.join(models.running)}  ").append(f"{models.ready:,} of {models.instances:,} ready")
        return [_one_line(text.append(f"  {_bytes(models.memory_bytes)}"))]

    def _holds(self) -> RenderableType:
        """What held the loop, newest first."""
        lines = []
        for index, hold in enumerate(reversed(self._sample().health.parts.loop.holds[-HOLDS_SHOWN:])):
            text = Text.assemble(("loop held  " if not index else " " * 11, "bold"), f"{_clock(hold.at)}  ")
            lines.append(_one_line(text.append(f"{_duration(hold.held_ns):>8}", "yellow").append(f"  {hold.what}")))
        return Group(*lines)

    # -- differences

    def _sample(self) -> Sample:
        assert self._now is not None, "a sample is added before anything is drawn"
        return self._now

    def _rate(self, count: Callable[[Health], int]) -> float | None:
        """How fast a count of the health grew between the two newest samples, per second; None of one sample."""
        if self._before is None or self._now is None:
            return None
        seconds = max(self._now.health.uptime_s - self._before.health.uptime_s, 1e-9)
        return max(0, count(self._now.health) - count(self._before.health)) / seconds


def _messages(name: str) -> Callable[[Health], int]:
    """What counts the messages of one feed."""
    return lambda health: next((feed.messages for feed in health.parts.feeds if feed.name == name), 0)


def shown_features(features: Features) -> list[str]:
    """Return what is to be asked for, "view:feature"."""
    return [name for name, _ in _columns(features)]


def _columns(features: Features) -> list[tuple[str, str]]:
    known = {f"{view.name}:{feature}" for view in features.views for feature in view.features}
    found = [(name, form) for name, form in COLUMNS if name in known]
    return found or [(f"{view.name}:{view.features[0]}", "{:,.6g}") for view in features.views if view.features][:7]


def _table(width: int, *columns: str) -> Table:
    """A table without lines. The name of the first column is that of the whole; a ">" before a name puts it to the right."""
    table = Table(box=None, width=width, padding=(0, GAP, 0, 0), pad_edge=False, expand=True, header_style="dim")
    for name in columns:
        _column(table, name)
    return table


def _column(table: Table, name: str, ratio: int | None = None) -> None:
    title = Text(name.removeprefix(">"), "dim" if table.columns else "bold not dim")
    justify: JustifyMethod = "right" if name.startswith(">") else "left"
    table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis", ratio=ratio)


def _or_none(table: Table) -> Table:
    if not table.row_count:
        table.add_row(Text("none yet", "dim"))
    return table


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _colour(state: str) -> str:
    return STATES.get(state, "red")


def _state(state: str) -> Text:
    return Text(state, _colour(state))


def _why(strategy: StrategyHealth) -> Text:
    """What a strategy last had to say: its failure if that is newer than its signal. As Text: it is no markup."""
    error, signal = strategy.last_error, strategy.last_signal
    if error is not None and (signal is None or error.sequence >= signal.sequence):
        return Text(error.error, "red")
    return Text("" if signal is None else signal.reason, "dim")


def _value(value: float | None, form: str) -> Text:
    return Text("-", "dim") if value is None else Text(form.format(value))


def _sparks(rates: Sequence[float], width: int) -> str:
    """Rates as a line of blocks, newest last."""
    newest = list(rates)[-width:] if width > 0 else []
    most = max(newest, default=0.0)
    return "".join(SPARKS[round(rate / most * (len(SPARKS) - 1))] if most else SPARKS[0] for rate in newest)


def _duration(ns: float | None) -> str:
    """Write a duration in the unit that suits it."""
    if ns is None:
        return "-"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}" if ns < 1000 * size else f"{ns / size:,.0f} {unit}"
    return f"{ns:.0f} ns"


def _span(seconds: float) -> str:
    """Write a time that goes on, in its two largest units."""
    whole = int(seconds)
    for unit, size, lower, below in (("d", 86_400, "h", 3_600), ("h", 3_600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // below:02d}{lower}"
    return f"{whole}s"


def _ago(now: int, then: int) -> str:
    """Write how long ago something was; "-" if it never was."""
    if then <= 0:
        return "-"
    seconds = max(0, now - then) / NS_PER_S
    return f"{seconds:.1f}s" if seconds < 10 else _span(seconds)


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _clock(time_ns: int) -> str:
    """Write a time of day, UTC."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%H:%M:%S")


def _parse(stamp: str) -> int:
    """Read an RFC 3339 time as ns UTC; 0 of nothing."""
    if not stamp:
        return 0
    found = datetime.fromisoformat(stamp)
    return int(found.timestamp()) * 1_000_000_000 + found.microsecond * 1_000
