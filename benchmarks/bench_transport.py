"""From a websocket to ticks and into the journal: CPU time a message, and messages a second of one core, beside cryptofeed and ccxt.

A sender in another process, on another core, floods a loopback websocket with trades as fast as they are taken; a receiver
(`receivers.py`), with all its threads on one core, takes them. Before anything is measured, every receiver that makes trades takes a
short flood, and each of its trades is compared with what was sent: pair, id, price, size, taker's side, time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Line, Timing, rate_line, ratio_line, require
from benchmarks.live import CORES, DAEMONS, ROOT, Sender, pin
from benchmarks.sender import FIRST_ID, PERIOD, PRICES, SOLD, SYMBOLS, VOLUMES, Turns, flood_times

COINBASE_SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD")
MARKET_TICKS_A_SECOND = 800
"""Of the flood's own time, all symbols, as in bench_live."""
CHECKED = 3_000
WANTED_PER_S = 100_000
WAIT_S = 120.0


@dataclass(frozen=True)
class Taken:
    """A receiver, and the flood that it takes."""

    receiver: str
    kind: str
    form: str
    """Whether in the wrapper of combined streams: raw or combined; empty for Coinbase."""
    messages: int

    @property
    def name(self) -> str:
        what = {"trade": "Binance trade", "aggTrade": "Binance aggTrade", "market_trades": "Coinbase market_trades"}
        form = f", {self.form}" if self.form else ""
        return f"{what[self.kind]}{form}: {WORDS[self.receiver]}"

    @property
    def symbols(self) -> Sequence[str]:
        return COINBASE_SYMBOLS if self.kind == "market_trades" else SYMBOLS

    @property
    def path(self) -> str:
        if self.form == "combined":
            return "/stream"
        # ccxt takes for spot what has /stream in its address: its own host has.
        return "/ws/stream" if self.receiver == "ccxt" else "/ws"


WORDS = {
    "aiohttp": "aiohttp's websocket alone",
    "feed": "tickfold's feed, offered to an inbox",
    "journaled": "received, decoded, checked, journaled, folded without views",
    "views": "and the five default views",
    "cryptofeed": "cryptofeed",
    "ccxt": "ccxt.pro",
}
TAKEN = (
    Taken("aiohttp", "trade", "raw", 500_000),
    Taken("feed", "trade", "raw", 400_000),
    Taken("journaled", "trade", "raw", 400_000),
    Taken("views", "trade", "raw", 300_000),
    Taken("ccxt", "trade", "raw", 60_000),
    Taken("aiohttp", "aggTrade", "combined", 500_000),
    Taken("feed", "aggTrade", "combined", 400_000),
    Taken("journaled", "aggTrade", "combined", 400_000),
    Taken("cryptofeed", "aggTrade", "combined", 250_000),
    Taken("aiohttp", "market_trades", "", 400_000),
    Taken("feed", "market_trades", "", 300_000),
    Taken("journaled", "market_trades", "", 300_000),
)


def take(taken: Taken, messages: int, *, skip: int, until: int, keep: bool = False) -> tuple[dict[str, Any], int]:
    """Have a receiver take a flood; return what it found, and when the flood's times begin (ns UTC)."""
    with (
        tempfile.TemporaryDirectory(prefix="tickfold-bench-") as name,
        Sender(symbols=taken.symbols, kind=taken.kind) as sender,
    ):
        out = Path(name) / "found.json"
        words = [taken.receiver, sender.url(taken.path), str(out), "--kind", taken.kind]
        words += ["--symbols", ",".join(taken.symbols), "--skip", str(skip), "--until", str(until)]
        words += ["--total", str(messages), *(["--keep"] if keep else [])]
        child = subprocess.Popen([sys.executable, "-m", "benchmarks.receivers", *words], cwd=ROOT, text=True)
        pin(child, DAEMONS)
        try:
            sender.begin("accept")  # a receiver that fails before it dials is seen by its end
            sender.begin("flood", count=messages, market_s=messages / MARKET_TICKS_A_SECOND, ahead=True)
            code = child.wait(WAIT_S)
            require(code == 0, f"{taken.name}: exit code {code}")
            sender.answer()
            sent = sender.answer()
        finally:
            child.kill()
            child.wait()
        found = json.loads(out.read_bytes())
    require(sent["count"] == messages, f"{taken.name}: hung up after {sent['count']} of {messages}")
    require(found["count"] == messages, f"{taken.name}: {found['count']} trades, expected {messages}")
    turns = Turns(len(taken.symbols))
    newest = {name: FIRST_ID + turns.last(code, messages - 1) for code, name in enumerate(taken.symbols)}
    require(found["newest"], f"{taken.name}: has no newest trade")
    for symbol, trade_id in found["newest"].items():
        require(
            newest.get(symbol) == trade_id,
            f"{taken.name}: {symbol} ends with {trade_id}, expected {newest.get(symbol)}",
        )
    return found, sent["begin_ns"]


def check(taken: Taken) -> None:
    """Compare every trade of a short flood with what was sent."""
    found, begin_ns = take(taken, CHECKED, skip=1, until=CHECKED, keep=True)
    if taken.receiver == "aiohttp":
        return  # it makes no trades: their number and the last one were compared
    code, turn = Turns(len(taken.symbols)).of(np.arange(CHECKED))
    at = turn % PERIOD
    columns = (
        [taken.symbols[number] for number in code.tolist()],
        (FIRST_ID + turn).tolist(),
        [round(cents / 100, 2) for cents in PRICES[at].tolist()],
        [round(volume / 100_000, 5) for volume in VOLUMES[at].tolist()],
        ["sell" if sold else "buy" for sold in SOLD[at].tolist()],
        flood_times(begin_ns, CHECKED, CHECKED / MARKET_TICKS_A_SECOND).tolist(),
    )
    expected = sorted(zip(*columns, strict=True))
    came = sorted(tuple(row) for row in found["rows"])
    require(len(came) == len(expected), f"{taken.name}: {len(came)} trades, expected {len(expected)}")
    for ours, sent in zip(came, expected, strict=True):
        require(ours == sent, f"{taken.name}: {ours}, expected {sent}")


def main() -> int:
    options = harness.arguments(__doc__ or "")
    report = harness.Report(
        "bench_transport", "Trades over a loopback websocket: from the socket to the journal.", options
    )
    has = {name: util.find_spec(name) is not None for name in ("ccxt", "cryptofeed")}
    cases = [taken for taken in TAKEN if has.get(taken.receiver, True)]
    rounds, share = (1, 4) if options.quick else (7, 1)
    for taken in cases:
        harness.say(f"comparing: {taken.name}")
        check(taken)
    found: dict[Taken, list[Timing]] = {taken: [] for taken in cases}
    loads = []
    for number in range(1, rounds + 1):
        first = number % len(cases)
        for taken in [*cases[first:], *cases[:first]]:
            count = taken.messages // share
            took, _ = take(taken, count, skip=count // 4, until=count * 7 // 8)
            require(took["messages"] > count // 8, f"{taken.name}: {took['messages']} messages between two looks")
            found[taken].append(Timing(took["cpu_ns"], took["wall_ns"]))
            harness.say(f"  {number}/{rounds} {taken.name}: {took['cpu_ns']:,.0f} ns CPU a message")
        loads.append(os.getloadavg()[0])
    for taken, timings in found.items():
        wanted = WANTED_PER_S if taken.receiver == "journaled" else None
        report.add(rate_line(taken.name, timings, wanted, unit="ns CPU a message"))
    by_case = {(taken.receiver, taken.kind): timings for taken, timings in found.items()}
    for kind, peer in (("aggTrade", "cryptofeed"), ("trade", "ccxt")):
        if (peer, kind) in by_case:
            for ours in ("feed", "journaled"):
                name = f"{kind}: {WORDS[ours]} / {WORDS[peer]}"
                report.add(ratio_line(name, by_case[peer, kind], by_case[ours, kind]))
    for kind in ("trade", "aggTrade", "market_trades"):
        more = zip(by_case["aiohttp", kind], by_case["feed", kind], by_case["journaled", kind], strict=True)
        adds = [(feed.cpu_ns - alone.cpu_ns, kept.cpu_ns - feed.cpu_ns) for alone, feed, kept in more]
        report.add(
            Line(f"{kind}: what the feed adds to aiohttp", "ns CPU a message", [one for one, _ in adds]),
            Line(f"{kind}: what checking, journal and fold add", "ns CPU a message", [one for _, one in adds]),
        )
    notes(report, has, rounds, loads)
    return report.finish()


def notes(report: harness.Report, has: dict[str, bool], rounds: int, loads: Sequence[float]) -> None:
    """Say what is in the lines."""
    report.note(
        f"{rounds} rounds of each, in turn, a fresh process each; the first quarter and the last eighth of a flood are left out, messages: "
        + ", ".join(f"{taken.messages:,} ({taken.receiver}, {taken.kind})" for taken in TAKEN)
        + ". CPU is that of the whole process, kernel included; `per second` is what one core takes at that."
    )
    report.note(
        "4 symbols (50, 25, 15 and 10 %) in a mixed order, one trade a message, no quotes, times "
        f"{MARKET_TICKS_A_SECOND} a second that end now. Checked before: every trade of {CHECKED:,} messages; after each flood: their number and "
        "the newest id."
    )
    report.note(
        "`journaled`: digests and fsync each second as in the daemon, no strategies; HTTP, snapshots, export and watchdog are in bench_live's flood."
    )
    report.note(
        "cryptofeed has no Binance `trade`, so it is asked for aggTrade, and is compared with tickfold on aggTrade. It takes no address but wss://: "
        "the loopback one is put into its connection after that was made; connection (websockets), handler and callback are its own. ccxt.pro dials "
        "the address in its `urls`, with its own client (aiohttp), raw trades. Both run on uvloop like tickfold, with their defaults, "
        "and no frames are compressed. Neither checks ids or writes anything."
    )
    report.note(f"Load average after each round: {', '.join(f'{load:.1f}' for load in loads)}.")
    if missing := [name for name, there in has.items() if not there]:
        report.note(f"Not installed here: {', '.join(missing)}; `make bench` installs them into .venv-peers.")
    if len(CORES) < 2:
        report.note("There is one core only: the sender takes part of it, and wall times are of no use.")


if __name__ == "__main__":
    harness.run(main)
