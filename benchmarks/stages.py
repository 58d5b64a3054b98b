"""A part of the path from the socket to the fold, in a process of its own: what a message costs up to there.

    receive     aiohttp's websocket, each frame taken and thrown away
    decode      the live feed: connection, decoder, a Tick; thrown away
    fold        and the intake, the ingress, the views, the default strategies, the digests
    journal     and the journal: what the daemon does, but for HTTP, snapshots, the export and the watchdog

Prints the CPU time of the process (all threads, user and system) and wall time a message, ns, between two messages of a flood.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import ClientWSTimeout, WSMsgType

from benchmarks.sender import SYMBOLS
from engine.app.daemon import SWITCH_S
from engine.clock import LiveClock
from engine.config import BinanceConfig, Config
from engine.events import Event
from engine.intake import Intake
from engine.latency import Latency
from feeds.binance_stream import BinanceProtocol
from feeds.dialling import CLOSE_S, open_session
from feeds.live import Feed
from feeds.products import built_in_products
from feeds.venues import feed_of
from replay.driver import build_fold
from store.journal import Journal
from strategies import load

STAGES = ("receive", "decode", "fold", "journal")
LOOK_S = 0.01


class Sink:
    """An inbox that counts."""

    is_full = False

    def __init__(self) -> None:
        self.count = 0

    def offer(self, events: Sequence[Event]) -> None:
        self.count += len(events)

    async def drained(self) -> None:
        return


async def receive(url: str, symbols: Sequence[str], count: list[int]) -> None:
    """Take frames as the link does, and nothing else."""
    known = {ours: theirs for theirs, ours in built_in_products("binance").items()}
    async with open_session() as session:
        timeout = ClientWSTimeout(ws_close=CLOSE_S)
        ws = await session.ws_connect(
            url, autoping=False, compress=0, decode_text=False, max_msg_size=16 << 20, timeout=timeout
        )
        await ws.send_str(BinanceProtocol(url, ("trade",), known).subscribe(1, "", symbols))
        frames = 0
        while (await ws.receive())[0] is WSMsgType.TEXT:
            count[0] += 1
            frames += 1
            if frames == 256:
                frames = 0
                await asyncio.sleep(0)


def broke(error: BaseException) -> None:
    """End with an error of the fold's own."""
    raise error


async def measure(stage: str, url: str, skip: int, until: int, folder: Path) -> dict[str, float]:
    """Run a stage until it has had `until` messages; return what each cost after the first `skip`."""
    sys.setswitchinterval(SWITCH_S)
    clock = LiveClock()
    known = built_in_products("binance")
    symbols = [known[name] for name in SYMBOLS]
    journal: Journal | None = None
    counted: Callable[[], int]
    running: list[Any] = []
    if stage == "receive":
        count = [0]
        running.append(asyncio.ensure_future(receive(url, symbols, count)))
        counted = lambda: count[0]  # noqa: E731 - one of three ways to count
    else:
        inbox: Sink | Intake
        if stage == "decode":
            inbox = sink = Sink()
            counted = lambda: sink.count  # noqa: E731
        else:
            config = Config()
            fold = build_fold(config, [load(name, None) for name in config.strategies.run], digests=True)
            if stage == "journal":
                mebi, every = config.journal.segment_mib << 20, config.journal.fsync_ms
                journal = Journal.open(
                    folder,
                    segment_bytes=mebi,
                    fsync="interval",
                    fsync_ms=every,
                    retention_bytes=1 << 40,
                    created=clock.now(),
                )
            inbox = Intake(
                fold, journal, clock=clock, later=asyncio.get_running_loop().call_soon, failed=lambda error: False, broke=broke,
                latency=Latency(), shed_behind_ns=1 << 60,
            )  # fmt: skip
            counted = lambda: fold.folded  # noqa: E731
        config = Config(binance=BinanceConfig(websocket=url, streams=("trade",)))
        feed: Feed = feed_of("binance", config, symbols, clock=clock, inbox=inbox, seed=0, refresh_products=False)
        running.append(asyncio.ensure_future(feed.run()))
    gc.collect()
    gc.freeze()
    while counted() < skip:
        await asyncio.sleep(LOOK_S)
    first, cpu, wall = counted(), time.process_time_ns(), time.monotonic_ns()
    while counted() < until:
        await asyncio.sleep(LOOK_S)
    last, cpu, wall = counted(), time.process_time_ns() - cpu, time.monotonic_ns() - wall
    for one in running:
        one.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await one
    if journal is not None:
        journal.close()
    return {"messages": last - first, "cpu_ns": cpu / (last - first), "wall_ns": wall / (last - first)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("url")
    parser.add_argument("--skip", type=int, required=True)
    parser.add_argument("--until", type=int, required=True)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="tickfold-bench-") as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        found = runner.run(measure(options.stage, options.url, options.skip, options.until, Path(name)))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
