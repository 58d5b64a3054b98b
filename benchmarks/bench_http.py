"""The daemon's HTTP API beside the fold: features a second by `/get-online-features`, and what readers do to the latency of the fold.

The daemon, pinned to one core, is asked while nothing comes and while 10,000 ticks a second come over a websocket. Clients, viewers and the
sender of the ticks share the other core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Line, require
from benchmarks.live import (
    CORES,
    EXCHANGE,
    NS_PER_US,
    OTHERS,
    ROOT,
    Daemon,
    Integers,
    Latencies,
    Sender,
    heard,
    ours,
    pin,
    settings,
    with_stopwatch,
)  # fmt: skip
from benchmarks.sender import SYMBOLS, Turns, price_of
from feeds.products import built_in_products
from store.builtin import builtin_views

ENTITIES = 100
CONNECTIONS = (1, 8, 32)
TICKS_A_SECOND = 10_000
TICKS_A_SYMBOL = 100
WANTED_PER_S = {1: 5_000, ENTITIES: 1_000}
WANTED_P99_US = 5_000.0
WANTED_AT = 8
"""Connections at which the targets are looked at: enough to keep the daemon busy. p99 is looked at while as many ask as are wanted."""
REQUESTS_A_SECOND, VIEWERS = 1_000, 50
LOADS = ("no readers", f"{REQUESTS_A_SECOND:,} requests/s", f"{VIEWERS} viewers")
FEATURES = [f"technical:{name}" for name in builtin_views()["technical"].features]
SETTLE_S = 0.7


def hundred_symbols() -> list[str]:
    """Symbols of one length, the usual four first, as Binance spells them."""
    known = built_in_products(EXCHANGE)
    others = sorted(name for name, spelt in known.items() if len(name) == len(SYMBOLS[0]) and spelt.endswith("/USDT"))
    return [*SYMBOLS, *(name for name in others if name not in SYMBOLS)][:ENTITIES]


def body_of(symbols: Sequence[str]) -> dict[str, Any]:
    names = ours(symbols)
    return {"features": FEATURES, "entities": {"exchange": [EXCHANGE] * len(names), "symbol": names}}


def client(url: str, kind: str, seconds: float, **options: Any) -> subprocess.Popen[str]:
    """Start a client."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.clients", kind, url, "--seconds", str(seconds), *words]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pin(started, OTHERS)
    return started


def result(started: subprocess.Popen[str]) -> dict[str, float]:
    """Wait for a client; return what it found."""
    out, said = started.communicate(timeout=120)
    require(started.returncode == 0, f"a client ended with {started.returncode}: {said[-1000:]}")
    found: dict[str, float] = json.loads(out)
    return found


def check(daemon: Daemon, symbols: Sequence[str], last: int) -> None:
    """Every value is there, and the Bollinger bands lie around the mean of the last 20 prices that were sent."""
    answer = daemon.post("/get-online-features", body_of(symbols))
    require(answer["metadata"]["feature_names"][2:] == [name.partition(":")[2] for name in FEATURES], "other features")
    for name, column in zip(answer["metadata"]["feature_names"], answer["results"], strict=True):
        require(set(column["statuses"]) == {"PRESENT"}, f"{name}: {set(column['statuses'])}")
    middles = daemon.newest(symbols, ["technical:bollinger_middle"])
    turns = Turns(len(symbols))
    for code, (middle,) in enumerate(middles):
        newest = turns.last(code, last)
        prices = [price_of(newest - back) for back in range(20)]
        harness.require_close(f"{symbols[code]} bollinger_middle", middle, np.mean(prices), relative=1e-9)


@dataclass
class Asked:
    """What came of one way to ask."""

    per_s: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)


def named(busy: bool, entities: int, connections: int, rate: int) -> str:
    """Return the name of one way to ask."""
    plural = "connections" if connections > 1 else "connection"
    pace = f", {rate:,} requests/s" if rate else ""
    return f"{f'{TICKS_A_SECOND:,} ticks/s' if busy else 'idle'}, {entities} x {len(FEATURES)}, {connections} {plural}{pace}"


def rates(report: harness.Report, quick: bool) -> None:
    """Measure requests a second."""
    rounds, seconds = (1, 1.0) if quick else (3, 2.0)
    symbols = hundred_symbols()
    require(len(symbols) == ENTITIES, f"{len(symbols)} symbols, expected {ENTITIES}")
    cells = [(entities, connections, 0) for entities in (1, ENTITIES) for connections in CONNECTIONS]
    at_rate = [(entities, WANTED_AT, rate) for entities, rate in WANTED_PER_S.items()]
    asking = {False: [*cells, *at_rate], True: cells}
    found = {(busy, cell): Asked() for busy in asking for cell in asking[busy]}
    with tempfile.TemporaryDirectory(prefix="tickfold-bench-") as name, Sender(symbols=symbols) as sender:
        bodies = {}
        for entities in (1, ENTITIES):
            bodies[entities] = Path(name) / f"body-{entities}"
            bodies[entities].write_text(json.dumps(body_of(symbols[:entities])))
        with Daemon(Path(name) / "data", settings(sender)) as daemon:
            sender.do("accept")
            total = sender.do("pace", rate=TICKS_A_SECOND, count=ENTITIES * TICKS_A_SYMBOL)["count"]
            daemon.wait_for(total)
            check(daemon, symbols, total - 1)
            for number in range(1, rounds + 1):
                for busy in (False, True):
                    if busy:
                        # A client needs a second to start; ticks come until the last of them is done.
                        count = round(TICKS_A_SECOND * len(cells) * (seconds + 1.5))
                        sender.begin("pace", rate=TICKS_A_SECOND, count=count, nap=True)
                        time.sleep(SETTLE_S)
                    for entities, connections, rate in asking[busy]:
                        options = {"count": connections, "rate": rate, "body": bodies[entities]}
                        took = result(client(daemon.url, "requests", seconds, **options))
                        asked = found[busy, (entities, connections, rate)]
                        asked.per_s.append(took["per_s"])
                        asked.p50_us.append(took["p50_us"])
                        asked.p99_us.append(took["p99_us"])
                        what = named(busy, entities, connections, rate)
                        harness.say(f"  {number}/{rounds} {what}: {took['per_s']:,.0f}/s, p99 {took['p99_us']:,.0f} us")
                    if busy:
                        total += sender.answer()["count"]
                        daemon.wait_for(total)
                        check(daemon, symbols, total - 1)
    for (busy, (entities, connections, rate)), asked in found.items():
        what = named(busy, entities, connections, rate)
        answers = Line(f"{what}: answers", "requests/s", asked.per_s)
        p99 = Line(f"{what}: p99", "us", asked.p99_us)
        if rate:
            p99.wanted, p99.met = f"below {WANTED_P99_US:,.0f} us", float(np.median(asked.p99_us)) < WANTED_P99_US
        elif not busy and connections == WANTED_AT:
            answers.wanted = f"at least {WANTED_PER_S[entities]:,}/s"
            answers.met = float(np.median(asked.per_s)) >= WANTED_PER_S[entities]
        report.add(answers, Line(f"{what}: p50", "us", asked.p50_us), p99)
    report.note(
        f"Requests: {rounds} rounds of {seconds:g} s; each connection asks again once it is answered, so p50 is about connections / rate; where a rate is named, all ask at that pace. {ENTITIES} symbols "
        f"are listened to; ticks come for all of them alike."
    )


def effects(report: harness.Report, quick: bool) -> None:
    """Measure the way of a tick to a strategy without readers, and with each kind."""
    rounds, seconds = (1, 2.0) if quick else (3, 5.0)
    lead = 1.5  # for clients to start
    count, skip = round(TICKS_A_SECOND * (seconds + lead)), round(TICKS_A_SECOND * lead)
    rows = count * rounds * len(LOADS)
    parts: dict[str, list[Integers]] = {load: [] for load in LOADS}
    said: dict[str, list[str]] = {load: [] for load in LOADS}
    with tempfile.TemporaryDirectory(prefix="tickfold-bench-") as name:
        folder = Path(name)
        body = folder / "body"
        body.write_text(json.dumps(body_of(SYMBOLS[:1])))
        with Sender(stamps=folder / "sent", rows=rows) as sender:
            configured = with_stopwatch(settings(sender), folder / "heard", rows, SYMBOLS)
            with Daemon(folder / "data", configured) as daemon:
                sender.do("accept")
                for number in range(1, rounds + 1):
                    turn = number % len(LOADS)
                    for load in (*LOADS[turn:], *LOADS[:turn]):
                        sender.begin("pace", rate=TICKS_A_SECOND, count=count, nap=True)
                        reader = None
                        if load == LOADS[1]:
                            reader = client(
                                daemon.url, "requests", seconds + lead, count=8, rate=REQUESTS_A_SECOND, body=body
                            )
                        elif load == LOADS[2]:
                            reader = client(daemon.url, "viewers", seconds + lead, count=VIEWERS)
                        phase = sender.answer()
                        if reader is not None:
                            said[load].append(json.dumps({k: round(v) for k, v in result(reader).items()}))
                        daemon.wait_for(phase["first"] + count)
                        both = heard(sender, folder / "heard", phase["first"] + skip, count - skip)
                        parts[load].append(both.on_features - both.sent)
                        p50, p99 = np.quantile(parts[load][-1], (0.5, 0.99)) / NS_PER_US
                        harness.say(
                            f"  {number}/{rounds} {load}: sent to on_features p50 {p50:,.0f} us, p99 {p99:,.0f} us"
                        )
                daemon.check_prices(rows - 1, SYMBOLS)
    for load in LOADS:
        report.add(Latencies.of(f"10,000 ticks/s, {load}: sent to on_features", parts[load]))
    for load in LOADS[1:]:
        for share, label in ((0.5, "p50"), (0.99, "p99")):
            pairs = zip(parts[load], parts[LOADS[0]], strict=True)
            values = [float(np.quantile(one, share) / np.quantile(none, share)) for one, none in pairs]
            report.add(Line(f"10,000 ticks/s, {load} / {LOADS[0]}: {label}", "times as long", values))
    report.note(
        f"Readers: {rounds} rounds of {seconds:g} s each, at {TICKS_A_SECOND:,} ticks/s of 4 symbols; requests are of 1 x {len(FEATURES)} over 8 connections, viewers read "
        f"/stream?format=columns. They got, in each round: "
        + "; ".join(f"{load}: {', '.join(found)}" for load, found in said.items() if found)
    )


def main() -> int:
    options: argparse.Namespace = harness.arguments(__doc__ or "")
    report = harness.Report("bench_http", "HTTP beside the fold.", options)
    rates(report, options.quick)
    effects(report, options.quick)
    if len(CORES) < 2:
        report.note("There is one core only: clients and the sender take part of it, and no figure here is of use.")
    return report.finish()


if __name__ == "__main__":
    harness.run(main)
