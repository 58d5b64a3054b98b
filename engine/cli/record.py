"""`tickfold record`: what live feeds send, raw, into captures; nothing is folded."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.options import DONE, INTERRUPTED, Verbs, add_verb, read_config, words

if TYPE_CHECKING:
    from engine.config import Config
    from engine.events import Event
    from feeds.live import Feed
    from feeds.recorder import Recorder
    from replay.capture_export import ExportedCapture

FEEDS = ("binance", "coinbase", "kucoin")
DEFAULT = ("binance",)
TICK_S = 1.0


def add(verbs: Verbs) -> None:
    """Add the verb."""
    made = add_verb(verbs, "record", record, "record what live feeds send, raw, without folding it")
    made.add_argument(
        "--feeds",
        type=_feeds,
        default=DEFAULT,
        metavar="A,B",
        help=f"of {', '.join(FEEDS)} (default: {','.join(DEFAULT)})",
    )
    made.add_argument(
        "--symbols",
        type=words,
        default=(),
        metavar="A,B",
        help="such as BTC/USDT, or coinbase:BTC/USD for one feed alone (default: as configured)",
    )
    made.add_argument(
        "--dir", type=Path, default=Path("captures"), metavar="DIR", help="where the files go (default: captures)"
    )
    made.add_argument("--minutes", type=_minutes, metavar="N", help="stop after so long (default: when interrupted)")
    made.add_argument(
        "--parquet", action="store_true", help="write each complete capture as Parquet ticks and quotes too"
    )


def record(options: argparse.Namespace) -> int:
    """Record until the time is over or a signal comes, and say what there is now."""
    import uvloop

    from engine.errors import ServiceError
    from engine.log import configure

    config = read_config(options)
    session = Session(config, options, configure(options.verbose))
    uvloop.run(session.run())
    if options.json:
        print(json.dumps(session.summary()))
    else:
        print(session.text())
    if not session.received and not session.interrupted:
        said = "; ".join(f"{one.url or one.name}: {one.state}, {one.detail}" for one in session.health())
        raise ServiceError(f"no message was received in {options.minutes:g} min: {said}")
    return INTERRUPTED if session.interrupted else DONE


class Session:
    """One run of the verb. It is the inbox of its feeds too: events are counted and let go."""

    is_full = False

    def __init__(self, config: Config, options: argparse.Namespace, logger: Any) -> None:
        """Raises ConfigError if a feed knows none of its symbols, StoreError if the folder cannot be had."""
        from engine.clock import LiveClock
        from engine.errors import ConfigError
        from feeds.recorder import Recorder, recover
        from feeds.venues import feed_of, symbols_of

        self.minutes: float | None = options.minutes
        self.interrupted = False
        self.ticks = self.quotes = 0
        self.exported: list[ExportedCapture] = []
        self._log = logger
        self._parquet: bool = options.parquet
        self._shows_progress = sys.stderr.isatty() and not options.json and not options.verbose
        self._clock = LiveClock()
        self.recorders: list[Recorder] = []
        self.recovered = []
        self._feeds: list[Feed] = []
        self._health: list[Any] = []
        self._unexported: list[Path] = []
        self._noted: set[Path] = set()
        for name in options.feeds:
            kind = "coinbase_exchange" if name == "coinbase" and config.coinbase.api == "exchange" else name
            for one in recover(options.dir, kind):
                self._log.warning("recovered", path=one.path or "nothing", lines=one.lines, bytes_cut=one.bytes_cut)
                self.recovered.append(one)
                self._unexported += [Path(one.path)] if one.path else []
            recorder = Recorder(options.dir, name=kind)
            symbols = _named(name, options.symbols) or symbols_of(name, config)
            feed = feed_of(name, config, symbols, clock=self._clock, inbox=self, seed=config.engine.seed, raw=recorder)
            if not feed.symbols:
                raise ConfigError(f"{', '.join(symbols) or 'no symbol'}: not in the product list of {name}")
            self.recorders.append(recorder)
            self._feeds.append(feed)

    @property
    def received(self) -> int:
        """Messages that came from exchanges."""
        return sum(recorder.received for recorder in self.recorders)

    def health(self) -> list[Any]:
        """What each connection says of itself, or last said."""
        return self._health or [one for feed in self._feeds for one in feed.health()]

    def offer(self, events: Sequence[Event]) -> None:
        """Count what a frame held, and log what the feed says of itself."""
        from engine.events import FeedStatus, Quote, Tick

        for event in events:
            if isinstance(event, Tick):
                self.ticks += 1
            elif isinstance(event, Quote):
                self.quotes += 1
            elif isinstance(event, FeedStatus):
                say = self._log.info if event.status in ("connected", "recovered") else self._log.warning
                say(event.status, exchange=event.exchange, symbol=event.symbol or "all", detail=event.detail)

    async def drained(self) -> None:
        """Return at once: it is never full."""

    async def run(self) -> None:
        """Record. Raises StoreError if the disk fails; what was recorded until then is complete."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt, stopped)
        end = None if self.minutes is None else loop.time() + 60.0 * self.minutes
        running = [asyncio.create_task(feed.run()) for feed in self._feeds]
        try:
            while not stopped.is_set() and not any(task.done() for task in running):
                if end is not None and loop.time() >= end:
                    break
                wait_s = TICK_S if end is None else min(TICK_S, max(end - loop.time(), 0.0))
                try:
                    async with asyncio.timeout(wait_s):
                        await stopped.wait()
                except TimeoutError:
                    pass
                for recorder in self.recorders:
                    recorder.tick(self._clock.now())
                await self._export()
                self._show()
        finally:
            self._health = [one for feed in self._feeds for one in feed.health()]
            await asyncio.gather(*(feed.stop() for feed in self._feeds))
            await asyncio.gather(*running)
            self._show(last=True)
            for recorder in self.recorders:
                recorder.close()
            await self._export()

    async def _export(self) -> None:
        """Write what is complete as Parquet, in a thread: the feeds go on meanwhile."""
        if not self._parquet:
            return
        from engine.errors import ReplayError
        from replay.capture_export import export_capture

        complete = [path for recorder in self.recorders for path in recorder.files]
        self._unexported += [path for path in complete if path not in self._noted]
        self._noted.update(complete)
        while self._unexported:
            path = self._unexported.pop(0)
            try:
                self.exported.append(await asyncio.to_thread(export_capture, path))
            except ReplayError as error:  # the capture itself is complete
                self._log.error("not exported", path=str(path), error=str(error))

    def _interrupt(self, stopped: asyncio.Event) -> None:
        self.interrupted = True
        stopped.set()

    def _show(self, last: bool = False) -> None:
        if self._shows_progress:
            states = ", ".join(f"{one.name} {one.state}" for one in self.health())
            size = sum(recorder.bytes_written for recorder in self.recorders)
            line = f"{self.received:,} messages, {size / 1e6:,.1f} MB; {states}"
            print("\r\x1b[K" + ("" if last else line), end="", file=sys.stderr, flush=True)

    def summary(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        import msgspec

        recorders = self.recorders
        return {
            "files": [str(path) for recorder in recorders for path in recorder.files],
            "parquet": [str(path) for one in self.exported for path in one.files],
            "messages": sum(recorder.messages for recorder in recorders),
            "received": self.received,
            "lost": sum(recorder.lost for recorder in recorders),
            "bytes": sum(recorder.bytes_written for recorder in recorders),
            "ticks": self.ticks,
            "quotes": self.quotes,
            "recovered": msgspec.to_builtins(self.recovered),
            "feeds": msgspec.to_builtins(self.health()),
        }

    def text(self) -> str:
        """Return the summary for people."""
        files = [path for recorder in self.recorders for path in recorder.files]
        files += [path for one in self.exported for path in one.files]
        size = sum(recorder.bytes_written for recorder in self.recorders)
        shown = "\n".join(str(path) for path in files)
        return (
            f"{self.received:,} messages ({self.ticks:,} trades, {self.quotes:,} quotes), "
            f"{size / 1e6:,.1f} MB in {len(files)} files\n{shown}"
        ).rstrip()


def _named(feed: str, symbols: Sequence[str]) -> tuple[str, ...]:
    """Return those of the words that are meant for a feed: all that name no other one."""
    named = [symbol.partition(":") if symbol.partition(":")[0] in FEEDS else ("", "", symbol) for symbol in symbols]
    return tuple(symbol for exchange, _, symbol in named if exchange in ("", feed))


def _feeds(text: str) -> tuple[str, ...]:
    found = words(text)
    if unknown := [name for name in found if name not in FEEDS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: expected {', '.join(FEEDS)}")
    return found


def _minutes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected minutes, a number above 0")
    return number
