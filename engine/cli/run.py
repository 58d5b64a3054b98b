"""`tickfold run`: the daemon."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.options import Verbs, add_verb, load_strategies, open_sources, read_config

if TYPE_CHECKING:
    from engine.app.daemon import Daemon
    from engine.config import Config


def add(verbs: Verbs) -> None:
    """Add the verb."""
    run = add_verb(
        verbs, "run", run_daemon, "start the daemon: feeds, journal, features, strategies, HTTP and the page"
    )
    run.add_argument(
        "--feeds",
        type=feed_names,
        metavar="A,B",
        help="replay (the built-in recordings), binance, coinbase, kucoin; default: feeds.run",
    )
    run.add_argument("--data", type=Path, metavar="DIR", help="journal, snapshots and log; default: data.dir")
    run.add_argument(
        "--warm",
        type=Path,
        action="append",
        default=[],
        metavar="SOURCE",
        help="first fold these recorded ticks as history: no strategy hears of them (repeat it for more)",
    )


def feed_names(text: str) -> tuple[str, ...]:
    """Read names of feeds with commas between them."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    if not found:
        raise argparse.ArgumentTypeError("expected names of feeds with commas between them, such as replay")
    return found


def run_daemon(options: argparse.Namespace) -> int:
    """Run the daemon until SIGINT or SIGTERM; a second one ends it at once."""
    # Until the loop takes the signals over, SIGTERM ends it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    import asyncio

    import uvloop

    from engine.app.daemon import Daemon
    from engine.log import close_daemon, configure_daemon
    from store.folder import DataFolder

    config = _configured(options, read_config(options))
    warm = open_sources(options.warm) if options.warm else []
    folder = DataFolder(Path(config.data.dir))
    folder.acquire()  # before anything in it is touched
    daemon: Daemon | None = None
    log = configure_daemon(
        Path(config.log.file) if config.log.file else folder.log,
        file_bytes=config.log.file_mib << 20,
        verbose=options.verbose,
        sequence=lambda: daemon.sequence() if daemon is not None else 0,
    )
    daemon = Daemon(
        config,
        folder,
        lambda: load_strategies(config),
        log=log,
        warm=warm,
        ready=None if options.json else _say_where_it_is,
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(daemon.run())
    finally:
        close_daemon()
        folder.release()
    _print(options, daemon, daemon.result())
    return code


def _configured(options: argparse.Namespace, config: Config) -> Config:
    """Apply the options that say the same as keys of the configuration."""
    import msgspec

    from engine.config import FeedsConfig
    from engine.errors import ConfigError

    if options.data is not None:
        if not options.data.name:
            raise ConfigError(f"--data {str(options.data)!r}: expected a folder of its own, such as data")
        config = msgspec.structs.replace(config, data=msgspec.structs.replace(config.data, dir=str(options.data)))
    if options.feeds is not None:
        raw = {**msgspec.to_builtins(config.feeds), "run": options.feeds}
        try:
            config = msgspec.structs.replace(config, feeds=msgspec.convert(raw, FeedsConfig))
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"--feeds {','.join(options.feeds)}: expected replay, or some of binance, coinbase, kucoin"
            ) from error
    if "replay" in config.feeds.run and len(config.feeds.run) > 1:
        raise ConfigError(
            f"feeds.run: {', '.join(config.feeds.run)}: expected replay alone, for the recordings are of the same exchanges"
        )
    if len(set(config.feeds.run)) < len(config.feeds.run):
        raise ConfigError(f"feeds.run: {', '.join(config.feeds.run)}: expected each of them once")
    return config


def _say_where_it_is(daemon: Daemon) -> None:
    assert daemon.server is not None
    feeds = ", ".join(daemon.config.feeds.run) or "none"
    recording = (
        "  (recordings of binance, coinbase and kucoin, served by the loopback exchange)"
        if "replay" in daemon.config.feeds.run
        else ""
    )
    lines = (
        f"tickfold {daemon.version}",
        f"  page       {daemon.server.url}",
        f"  feeds      {feeds}{recording}",
        f"  data       {daemon.folder.path}/   journal, snapshots, log.jsonl, token",
        f"  reproduce  {_reproduce(daemon)}",
        "  Ctrl-C stops it; the same command goes on from there",
    )
    print("\n".join(lines), file=sys.stderr, flush=True)


def _reproduce(daemon: Daemon) -> str:
    return f"tickfold replay {shlex.quote(str(daemon.folder.path))} --digest"


def _print(options: argparse.Namespace, daemon: Daemon, result: dict[str, Any]) -> None:
    if options.json:
        print(json.dumps(result))
        return
    if result["digest"] is None:
        print("the last state was not kept; the journal has all that leads to it", file=sys.stderr)
        return
    print(
        f"{result['inputs']:,} inputs folded, up to sequence {result['sequence']:,}; the digests are in {daemon.folder.digest}"
    )
    for name, value in result["digest"].items():
        print(f"{name:<12}{value}")
    print(f"the same again: {_reproduce(daemon)}")
