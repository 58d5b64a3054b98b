"""`tickfold exchange`: captures served over real websockets and REST on this machine, as the exchanges themselves do."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.options import DONE, Verbs, add_verb, read_config
from engine.errors import ConfigError

if TYPE_CHECKING:
    from replay.exchange import Exchange
    from replay.tape import Tape

PORT = 9443
SPEED_MAX = 1_000_000.0
BUILT_IN = ("binance", "coinbase", "kucoin")
"""What is served where nothing is named."""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    made = add_verb(
        verbs, "exchange", serve, "serve captures on this machine as Binance, Coinbase and KuCoin do, with faults"
    )
    made.add_argument(
        "captures",
        nargs="*",
        type=Path,
        metavar="CAPTURE",
        help="captures (.jsonl, .jsonl.gz) of one exchange or several; none: the built-in recordings",
    )
    made.add_argument(
        "--capture", dest="more", nargs="+", action="extend", default=[], type=Path, metavar="FILE", help="the same"
    )
    made.add_argument(
        "--exchange",
        type=_names,
        default=(),
        metavar="A,B",
        help=f"built-in recordings to serve: {', '.join(BUILT_IN)}, coinbase_exchange (default: {','.join(BUILT_IN)}); "
        "with captures, serve only those of these exchanges, and built-in ones of those that no capture is of",
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
    made.add_argument(
        "--faults", type=Path, metavar="PLAN", help="a plan (.toml) of what goes wrong; see docs/faults.md"
    )
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the faults' chance (default: 0)")
    made.add_argument("--until-stdin-closes", action="store_true", help="also stop when stdin does, as with its parent")


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal comes. The first line on stdout is the address, or with --json a document that holds it."""
    import uvloop

    from engine.log import configure
    from replay.exchange import Exchange
    from replay.exchange.faults import load

    read_config(options)  # what is wrong there is said here too
    logger = configure(options.verbose)
    plan = None if options.faults is None else load(options.faults)
    tapes = _tapes([*options.captures, *options.more], options.exchange)
    if passed_over := sum(tape.passed_over for tape in tapes):
        logger.info("passed over", messages=passed_over, because="they are no market data of a symbol")
    exchange = Exchange(
        tapes,
        speed=options.speed,
        loop=options.loop,
        from_start=options.from_start,
        faults=plan,
        seed=options.seed,
        logger=logger,
    )
    uvloop.run(_serve(exchange, options))
    return DONE


def _tapes(captures: Sequence[Path], exchanges: Sequence[str]) -> list[Tape]:
    """Return what is to be served. Raises ConfigError for an exchange that is not known, ReplayError for a file that is no capture."""
    from replay.sources import BUILT_INS
    from replay.tape import Tape

    if unknown := [name for name in exchanges if name not in BUILT_INS]:
        raise ConfigError(f"--exchange: {unknown[0]!r}: expected {', '.join(BUILT_INS)}")
    tapes = Tape.each_of(captures)
    if not exchanges:
        return tapes or Tape.each_of(BUILT_INS[name] for name in BUILT_IN)
    by_name = {tape.exchange: tape for tape in tapes}
    return [by_name.get(name) or Tape.of(BUILT_INS[name]) for name in dict.fromkeys(exchanges)]


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


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r}: expected exchanges with commas between them")
    return names


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
