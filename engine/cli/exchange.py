"""`tickfold exchange`: captures served over a real websocket on this machine, as the exchange itself does."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.options import DONE, Verbs, add_verb, read_config

if TYPE_CHECKING:
    from replay.exchange import Exchange

PORT = 9443
SPEED_MAX = 1_000_000.0


def add(verbs: Verbs) -> None:
    """Add the verb."""
    made = add_verb(verbs, "exchange", serve, "serve captures over a websocket on this machine, as Binance does")
    made.add_argument(
        "captures",
        nargs="*",
        type=Path,
        metavar="CAPTURE",
        help="captures (.jsonl, .jsonl.gz); none: the built-in recording",
    )
    made.add_argument("--port", type=_port, default=PORT, metavar="N", help=f"0 picks a free one (default: {PORT})")
    made.add_argument(
        "--speed", type=_speed, default=1.0, metavar="X", help="multiple of the recorded pace (default: 1)"
    )
    made.add_argument(
        "--loop", action="store_true", help="begin anew at the end, for ever, with ids and times that go on"
    )
    made.add_argument(
        "--from-start",
        action="store_true",
        help="with --loop: begin at the beginning, when the first client subscribes, instead of where the clock says",
    )
    made.add_argument("--until-stdin-closes", action="store_true", help="also stop when stdin does, as with its parent")


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal comes. The first line on stdout is the address, or with --json a document that holds it."""
    import uvloop

    from engine.log import configure
    from replay.exchange import Exchange
    from replay.sources import BUILT_IN
    from replay.tape import Tape

    read_config(options)  # what is wrong there is said here too
    logger = configure(options.verbose)
    tape = Tape.of(*(options.captures or [BUILT_IN]))
    if tape.passed_over:
        logger.info("passed over", messages=tape.passed_over, because="they are no market data of a symbol")
    exchange = Exchange([tape], speed=options.speed, loop=options.loop, from_start=options.from_start, logger=logger)
    uvloop.run(_serve(exchange, options))
    return DONE


async def _serve(exchange: Exchange, options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    url = await exchange.start(port=options.port)
    try:
        if options.until_stdin_closes:
            threading.Thread(target=_watch_stdin, args=(loop, stopped), daemon=True).start()
        status = exchange.status()
        print(json.dumps({"url": url, **status}) if options.json else url, flush=True)
        if not options.json and sys.stderr.isatty():
            print(f"{status['capture']}: {', '.join(status['symbols'])}; Ctrl-C stops it", file=sys.stderr)
        await exchange.serve_until(stopped)
    finally:
        await exchange.stop()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    """Read stdin to its end, in a thread: an event loop cannot wait for every kind of file."""
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass  # there is none, or no longer
    with contextlib.suppress(RuntimeError):  # of a loop that has closed: it has stopped already
        loop.call_soon_threadsafe(stopped.set)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port, 0 to 65535")
    return int(text)


def _speed(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 / SPEED_MAX <= number <= SPEED_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0, at most {SPEED_MAX:,.0f}")
    return number
