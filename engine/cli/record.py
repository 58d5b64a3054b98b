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

FEEDS = ("binance",)
TICK_S = 1.0


def add(verbs: Verbs) -> None:
    """Add the verb."""
    made = add_verb(verbs, "record", record, "record what live feeds send, raw, without folding it")
    made.add_argument(
        "--feeds", type=_feeds, default=FEEDS, metavar="A,B", help=f"of {', '.join(FEEDS)} (default: {','.join(FEEDS)})"
    )
    made.add_argument(
        "--symbols", type=words, default=(), metavar="A,B", help="such as BTC/USDT (default: feeds.symbols)"
    )
    made.add_argument(
        "--dir", type=Path, default=Path("captures"), metavar="DIR", help="where the files go (default: captures)"
    )
    made.add_argument("--minutes", type=_minutes, metavar="N", help="stop after so long (default: when interrupted)")


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
    if not session.recorder.received and not session.interrupted:
        said = "; ".join(f"{one.url}: {one.state}, {one.detail}" for one in session.health)
        raise ServiceError(f"no message was received in {options.minutes:g} min: {said}")
    return INTERRUPTED if session.interrupted else DONE


class Session:
    """One run of the verb. It is the inbox of its feed too: events are counted and let go."""

    is_full = False

    def __init__(self, config: Config, options: argparse.Namespace, logger: Any) -> None:
        """Raises ConfigError if no symbol is known, StoreError if the folder cannot be had."""
        from engine.clock import LiveClock
        from engine.errors import ConfigError
        from feeds.recorder import Recorder, recover
        from feeds.venues import binance_feed

        self.minutes: float | None = options.minutes
        self.interrupted = False
        self.ticks = self.quotes = 0
        self._log = logger
        self._shows_progress = sys.stderr.isatty() and not options.json and not options.verbose
        self._clock = LiveClock()
        self.recovered = recover(options.dir, FEEDS[0])
        for one in self.recovered:
            self._log.warning("recovered", path=one.path or "nothing", lines=one.lines, bytes_cut=one.bytes_cut)
        self.recorder: Recorder = Recorder(options.dir, name=FEEDS[0])
        symbols = options.symbols or config.feeds.symbols
        self._feed: Feed = binance_feed(
            config.binance,
            config.feeds,
            symbols,
            clock=self._clock,
            inbox=self,
            seed=config.engine.seed,
            raw=self.recorder,
        )
        self.health = self._feed.health()
        if not self._feed.symbols:
            raise ConfigError(f"{', '.join(symbols) or 'no symbol'}: not in the product list of {FEEDS[0]}")

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
                say(event.status, symbol=event.symbol or "all", detail=event.detail)

    async def drained(self) -> None:
        """Return at once: it is never full."""

    async def run(self) -> None:
        """Record. Raises StoreError if the disk fails; what was recorded until then is complete."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt, stopped)
        end = None if self.minutes is None else loop.time() + 60.0 * self.minutes
        running = asyncio.create_task(self._feed.run())
        try:
            while not stopped.is_set() and not running.done() and (end is None or loop.time() < end):
                wait_s = TICK_S if end is None else min(TICK_S, max(end - loop.time(), 0.0))
                try:
                    async with asyncio.timeout(wait_s):
                        await stopped.wait()
                except TimeoutError:
                    pass
                self.recorder.tick(self._clock.now())
                self._show()
        finally:
            self.health = self._feed.health()
            await self._feed.stop()
            await running
            self._show(last=True)
            self.recorder.close()

    def _interrupt(self, stopped: asyncio.Event) -> None:
        self.interrupted = True
        stopped.set()

    def _show(self, last: bool = False) -> None:
        if self._shows_progress:
            states = ", ".join(f"{one.name} {one.state}" for one in self._feed.health())
            line = f"{self.recorder.received:,} messages, {self.recorder.bytes_written / 1e6:,.1f} MB; {states}"
            print("\r\x1b[K" + ("" if last else line), end="", file=sys.stderr, flush=True)

    def summary(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        import msgspec

        return {
            "files": [str(path) for path in self.recorder.files],
            "messages": self.recorder.messages,
            "received": self.recorder.received,
            "lost": self.recorder.lost,
            "bytes": self.recorder.bytes_written,
            "ticks": self.ticks,
            "quotes": self.quotes,
            "recovered": msgspec.to_builtins(self.recovered),
            "feeds": msgspec.to_builtins(self.health),
        }

    def text(self) -> str:
        """Return the summary for people."""
        recorder = self.recorder
        files = "\n".join(str(path) for path in recorder.files)
        return (
            f"{recorder.received:,} messages ({self.ticks:,} trades, {self.quotes:,} quotes), "
            f"{recorder.bytes_written / 1e6:,.1f} MB in {len(recorder.files)} files\n{files}"
        ).rstrip()


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
