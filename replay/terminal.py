"""The live terminal view of a replay: rates, newest features, signals. Drawn on stderr, and only if that is a terminal."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from engine.events import Gap, HandlerFailed, Parked, Refused, Signal, WindowOverflow
from engine.fold import Fold
from engine.ingress import DUPLICATE, LATE, QUOTE, TRADE

SIGNALS_SHOWN = 8
KEYS_SHOWN = 8
NOTICES_SHOWN = 3
DRAWS_A_SECOND = 8
KEY_WIDTH, COLUMN_WIDTH = 26, 14
REASON_FROM_WIDTH = 100
COLUMNS = (
    ("market", "price", "{:,.6g}"),
    ("market", "spread_bps", "{:.2f}"),
    ("technical_1s", "rsi_14", "{:.1f}"),
    ("technical", "macd", "{:+.3g}"),
    ("derived", "volatility_index", "{:.1f}"),
    ("derived", "vwap_1m", "{:,.6g}"),
    ("derived", "trade_imbalance_1m", "{:+.2f}"),
)


class TerminalView:
    """Shows a fold while it runs. Reads what the fold put out, and cannot change it."""

    def __init__(self, title: str, total_rows: Callable[[], int | None]) -> None:
        self._console = Console(stderr=True)
        self._signals: deque[Signal] = deque(maxlen=SIGNALS_SHOWN)
        self._notices: deque[str] = deque(maxlen=NOTICES_SHOWN)
        self._fold: Fold | None = None
        self._started = time.perf_counter()
        self._drawn = 0.0
        self._title = title
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            expand=True,
        )
        self._total_rows = total_rows  # a capture knows only once it is decoded
        self._task = self._progress.add_task("rows", total=total_rows(), rate="")
        self._live = Live(console=self._console, auto_refresh=False, transient=False)

    @staticmethod
    def is_wanted() -> bool:
        """Whether somebody is there to see it."""
        return sys.stderr.isatty()

    def __enter__(self) -> TerminalView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()
        self._live.stop()

    def watch(self, fold: Fold) -> None:
        """Show this fold from now on."""
        self._fold = fold
        self._started = time.perf_counter()

    def hear(self, event: Any) -> None:
        """Take note of a signal or of trouble."""
        if isinstance(event, Signal):
            self._signals.append(event)
        elif isinstance(event, Gap):
            self._notices.append(
                f"gap: {event.exchange} {event.symbol}, {event.missing} trades missing before id {event.last_id + 1}"
            )
        elif isinstance(event, Refused):
            self._notices.append(f"refused: {event.exchange} {event.symbol}: {event.reason}")
        elif isinstance(event, WindowOverflow):
            self._notices.append(f"window {event.window} of {event.exchange} {event.symbol} outgrew its memory")
        elif isinstance(event, HandlerFailed):
            self._notices.append(f"strategy {event.actor} failed: {event.error}")
        elif isinstance(event, Parked):
            self._notices.append(f"strategy {event.actor} parked: {event.reason}")

    def advance(self, rows: int) -> None:
        """Count rows that were read, and draw if it is time."""
        self._progress.advance(self._task, rows)
        now = time.perf_counter()
        if now - self._drawn >= 1.0 / DRAWS_A_SECOND:
            self._drawn = now
            self._draw()

    def finish(self) -> None:
        """All rows were read."""
        task = self._progress.tasks[0]
        self._progress.update(self._task, total=task.completed)

    def _draw(self) -> None:
        if self._fold is not None:
            self._live.update(self._picture(self._fold), refresh=True)

    def _picture(self, fold: Fold) -> RenderableType:
        seconds = max(time.perf_counter() - self._started, 1e-9)
        total = self._progress.tasks[0].total or self._total_rows()
        self._progress.update(self._task, total=total, rate=f"{fold.folded / seconds:,.0f} inputs/s")
        parts: list[RenderableType] = [
            self._progress,
            self._counts(fold, seconds),
            self._features(fold),
            self._signal_table(),
        ]
        parts += [Text(f"! {notice}", style="yellow", overflow="ellipsis", no_wrap=True) for notice in self._notices]
        return Panel(
            Group(*parts),
            title=Text.assemble(("tickfold", "bold"), f" {self._title}"),
            title_align="left",
            box=box.ROUNDED,
        )

    def _counts(self, fold: Fold, seconds: float) -> Text:
        counts = fold.ingress.counts.sum(axis=0)
        refused = int(counts[DUPLICATE + 1 :].sum())
        text = Text.assemble(
            ("trades ", "dim"), f"{int(counts[TRADE]):,}   ", ("quotes ", "dim"), f"{int(counts[QUOTE]):,}   ",
            ("late ", "dim"), f"{int(counts[LATE]):,}   ", ("duplicates ", "dim"), f"{int(counts[DUPLICATE]):,}   ",
            ("refused ", "dim"), (f"{refused:,}   ", "red" if refused else ""), ("signals ", "dim"), f"{fold.signals:,}   ",
            ("seconds ", "dim"), f"{seconds:.1f}",
        )  # fmt: skip
        now = fold.now()
        if now:
            text.append(f"   {_clock(now)} UTC", style="cyan")
        return text

    def _features(self, fold: Fold) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD, expand=True, title="newest features", title_justify="left", title_style="bold"
        )
        table.add_column("key", no_wrap=True)
        known = [column for column in COLUMNS if column[0] in fold.features.views]
        shown = known[: max(1, (self._console.width - KEY_WIDTH) // COLUMN_WIDTH)]
        for view, feature, _ in shown:
            # Which view a column is of matters only where two have a feature of that name.
            table.add_column(f"{feature}\n[dim]{view}[/]", justify="right")
        for code in range(min(len(fold.keys), KEYS_SHOWN)):
            exchange, symbol = fold.keys[code]
            cells = []
            for view, feature, form in shown:
                row = fold.features.latest(view, exchange, symbol)
                value = float("nan") if row is None else row[feature]
                cells.append(form.format(value) if value == value else "[dim]-[/]")  # noqa: PLR0124 - NaN
            table.add_row(Text.assemble(f"{exchange} ", (symbol, "bold")), *cells)
        if len(fold.keys) > KEYS_SHOWN:
            table.caption = f"and {len(fold.keys) - KEYS_SHOWN} more"
        return table

    def _signal_table(self) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD, expand=True, title="newest signals", title_justify="left", title_style="bold"
        )
        names = ("time", "strategy", "key", "value", "reason")[: 5 if self._console.width >= REASON_FROM_WIDTH else 4]
        for name in names:
            table.add_column(name, justify="right" if name == "value" else "left", no_wrap=True, overflow="ellipsis")
        for signal in reversed(self._signals):
            style = "green" if signal.value > 0 else "red" if signal.value < 0 else "dim"
            key = f"{signal.exchange} {signal.symbol}"
            value = Text("0" if signal.value == 0.0 else f"{signal.value:+g}", style=style)
            cells = (_clock(signal.received), signal.strategy, key, value, signal.reason)
            # As Text: what a plugin says is no markup.
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells[: len(names)]))
        return table


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that hears how much of `total` (None: not known) is done; drawn on stderr, and only if that is a terminal."""
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _clock(time_ns: int) -> str:
    """Write a time of day, UTC, to the millisecond."""
    return (
        datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%H:%M:%S")
        + f".{time_ns // 1_000_000 % 1000:03d}"
    )
