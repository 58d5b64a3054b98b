"""Bytes of exchanges to ticks and quotes: CPU time a message of each decoder, beside cryptofeed's and ccxt's handlers.

The messages are the real ones of replay/recordings, in their order, over and over. Ours, measured: `decode(frame, received)`, the event
built. Theirs is said in decoding_peers.py. Before anything is measured, every message's event is compared with theirs: pair, price,
size, id, and time to the ms; the side too, but for Coinbase's Advanced Trade, where both peers give the maker's as if it were the taker's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Case, Line, require
from engine.errors import DecodeError
from engine.events import Quote, Tick
from feeds import decoder
from tests.heavy_frames import heavy

RECORDINGS = Path(__file__).parents[1] / "replay" / "recordings"
RECEIVED = 1_786_309_548_258_000_000
OTHER_SIDE = {"buy": "sell", "sell": "buy"}
FEEDS = ("binance", "coinbase", "coinbase_exchange", "kucoin")


@dataclass(frozen=True)
class Sort:
    """One kind of message of one feed."""

    name: str
    feed: str
    frames: tuple[bytes, ...]
    kind: str = ""
    """trade or quote, where the peers are asked too; else empty."""
    cryptofeed: bool = False
    at_most_ns: float | None = None


def recorded(feed: str) -> list[bytes]:
    """Return what was received, as it was on the wire."""
    with gzip.open(RECORDINGS / f"{feed}.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    return [row["raw"].encode() for row in rows if row["kind"] == "recv"]


def having(frames: Sequence[bytes], *marks: bytes, most: int = 2_000) -> tuple[bytes, ...]:
    """Return the first frames that hold all of the marks."""
    found = [frame for frame in frames if all(mark in frame for mark in marks)]
    require(found, f"no recorded message with {marks}")
    return tuple(found[:most])


def unwrapped(frames: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the payloads of combined frames of Binance: the raw form, which is what a live feed asks for."""
    return tuple(frame[frame.index(b"{", 1) : -1] for frame in frames)


def sorts() -> list[Sort]:
    """Return the kinds of messages that are measured."""
    binance, coinbase, exchange, kucoin = (recorded(feed) for feed in FEEDS)
    trades, books = having(binance, b"@trade"), having(binance, b"@bookTicker", b"BTCUSDT")
    aggregated = having(binance, b"@aggTrade")
    update, snapshot = b'"type":"update"', b'"type":"snapshot"'
    level = having(coinbase, b'"l2_data"', update)[0]
    return [
        Sort("binance trade, raw", "binance", unwrapped(trades), at_most_ns=700),
        Sort("binance trade, combined", "binance", trades, "trade", at_most_ns=700),
        Sort("binance aggTrade, combined", "binance", aggregated, "trade", cryptofeed=True),
        Sort("binance bookTicker, raw", "binance", unwrapped(books)),
        Sort("binance bookTicker, combined", "binance", books, "quote", cryptofeed=True),
        Sort(
            "coinbase market_trades", "coinbase", having(coinbase, b'"market_trades"', update), "trade", cryptofeed=True
        ),
        Sort("coinbase market_trades, snapshot of 100", "coinbase", having(coinbase, b'"market_trades"', snapshot)),
        Sort("coinbase ticker", "coinbase", having(coinbase, b'"channel":"ticker"', update), "quote"),
        Sort("coinbase heartbeats", "coinbase", having(coinbase, b'"heartbeats"')),
        Sort("coinbase l2_data, 5 MB", "coinbase", (book(level, 5_000_000),)),
        Sort("coinbase_exchange match", "coinbase_exchange", having(exchange, b'"type":"match"'), "trade"),
        Sort("coinbase_exchange ticker", "coinbase_exchange", having(exchange, b'"type":"ticker"'), "quote"),
        Sort("kucoin match", "kucoin", as_today(having(kucoin, b"trade.l3match")), "trade", cryptofeed=True),
        Sort("kucoin match, keys as in 2021", "kucoin", having(kucoin, b"trade.l3match")),
        Sort("kucoin ticker", "kucoin", as_today(having(kucoin, b"trade.ticker")), "quote", cryptofeed=True),
        Sort("kucoin ticker, keys as in 2021", "kucoin", having(kucoin, b"trade.ticker")),
        Sort("kucoin level2", "kucoin", having(kucoin, b"trade.l2update")),
    ]


def as_today(frames: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return messages of KuCoin with their keys in today's order; those in the recording are of 2021, when it was another."""
    made = []
    for frame in frames:
        message = json.loads(frame)
        outer = {key: message[key] for key in ("topic", "type", "subject")}
        made.append(outer | {"data": dict(sorted(message["data"].items()))})
    return tuple(json.dumps(message, separators=(",", ":")).encode() for message in made)


def book(frame: bytes, size: int) -> bytes:
    """Return a message of Coinbase's level2 with its levels repeated: real snapshots have 5,079,379 bytes, and none is in the recording."""
    message = json.loads(frame)
    event = message["events"][0]
    each = len(json.dumps(event["updates"], separators=(",", ":")))
    message["events"] = [event | {"type": "snapshot", "updates": event["updates"] * (size // each + 1)}]
    return json.dumps(message, separators=(",", ":")).encode()


def repeated(frames: Sequence[Any], count: int) -> list[Any]:
    """Return `count` messages: those of the recording, over and over."""
    return [frames[at % len(frames)] for at in range(count)]


def ours(sort: Sort, count: int) -> Case:
    """Measure our decoder."""
    decode, frames = decoder(sort.feed).decode, repeated(sort.frames, count)

    def run() -> None:
        for frame in frames:
            decode(frame, RECEIVED)

    return Case(sort.name, count, lambda: run)


def theirs(name: str, handle: Callable[[Any], None], frames: Sequence[Any], count: int) -> Case:
    """Measure a peer's handler."""
    messages = repeated(frames, count)

    def run() -> None:
        for message in messages:
            handle(message)

    return Case(name, count, lambda: run)


def same(sort: Sort, frame: bytes, event: Tick | Quote, told: Any, who: str) -> None:
    """Compare our newest event of a message with a peer's of the same pair."""
    first, second, side, ms, number = told
    where = f"{sort.name}, {who}: {frame[:300]!r}"
    if isinstance(event, Tick):
        found = event.price, event.volume
        # Both give the maker's side on Advanced Trade.
        wanted = OTHER_SIDE[str(event.side)] if sort.feed == "coinbase" else event.side
        require(side == wanted, f"side {side!r} of theirs, expected {wanted!r}: {where}")
        # KuCoin's were hexadecimal in 2021; our id is its sequence.
        require(
            sort.feed == "kucoin" or event.trade_id == int(number), f"id {event.trade_id}, theirs {number}: {where}"
        )
    else:
        found = event.bid, event.ask
    require(found == (first, second), f"{found}, theirs {told}: {where}")
    require(ms is None or abs(event.timestamp / 1e6 - ms) < 1.5, f"time {event.timestamp}, theirs {ms} ms: {where}")


def check(sort: Sort, peers: dict[str, Any]) -> None:
    """Compare every message's newest event with that of each peer; without peers, that there is one where there should be."""
    decode = decoder(sort.feed).decode
    for frame in sort.frames:
        events = decode(frame, RECEIVED)
        if not sort.kind:
            continue
        require(events, f"{sort.name}: no event in {frame[:300]!r}")
        for who, peer in peers.items():
            peer.handle(frame.decode() if peer.takes_text else frame)
            newest = events[-1]
            assert isinstance(newest, (Tick, Quote))
            same(sort, frame, newest, peer.newest(newest.symbol), who)


def at_most(line: Line, limit: float, text: str) -> Line:
    """Add a target to a line."""
    line.wanted, line.met = text, float(np.median(line.values)) <= limit
    return line


def worst(repetitions: int) -> list[Line]:
    """Measure frames of 64 kB made to be costly: for each decoder the costliest three."""
    lines = []
    for feed in FEEDS:
        decode = decoder(feed).decode
        costs: dict[str, list[float]] = {}
        for _ in range(repetitions):
            for shape, frame in heavy(feed).items():
                begin = time.process_time_ns()
                with contextlib.suppress(DecodeError):
                    decode(frame, RECEIVED)
                costs.setdefault(shape, []).append((time.process_time_ns() - begin) / 1e6)
        for shape in sorted(costs, key=lambda shape: -float(np.median(costs[shape])))[:3]:
            lines.append(at_most(Line(f"{feed}, 64 kB: {shape}", "ms CPU a frame", costs[shape]), 1.0, "at most 1 ms"))
    return lines


def main() -> int:
    options = harness.arguments(__doc__)
    return measure(options, *((2_000, 200, 3) if options.quick else (20_000, 2_000, 25)))


def measure(options: Any, count: int, few: int, repetitions: int) -> int:
    report = harness.Report("bench_decode", "Messages of exchanges to events: one thread, no socket.", options)
    has_peers = all(util.find_spec(name) for name in ("cryptofeed", "ccxt", "orjson"))
    cases: list[Case] = []
    pairs_of_cases: list[tuple[Sort, str, str]] = []
    opened: list[Any] = []
    kinds = sorts()
    harness.say("comparing outputs")
    for sort in kinds:
        peers: dict[str, Any] = {}
        if has_peers and sort.kind:
            from benchmarks import decoding_peers

            pairs = pairs_in(sort)
            peers["ccxt"], exchange = decoding_peers.ccxt(sort.feed, pairs, sort.kind)
            opened.append(exchange)
            if sort.cryptofeed:
                peers["cryptofeed"] = decoding_peers.cryptofeed(sort.feed, pairs, sort.kind)
        check(sort, peers)
        big = len(sort.frames[0]) > 100_000
        cases.append(ours(sort, 5 if big else count // 20 if "snapshot" in sort.name else count))
        for who, peer in peers.items():
            name = f"{sort.name}: {who}"
            frames = [frame.decode() for frame in sort.frames] if peer.takes_text else sort.frames
            cases.append(theirs(name, peer.handle, frames, few))
            pairs_of_cases.append((sort, who, name))
    found = harness.interleaved(cases, repetitions)
    for sort in kinds:
        line = harness.rate_line(sort.name, found[sort.name], unit="ns CPU a message")
        report.add(
            line if sort.at_most_ns is None else at_most(line, sort.at_most_ns, f"at most {sort.at_most_ns:g} ns")
        )
    report.add(*(harness.rate_line(name, found[name], unit="ns CPU a message") for _, _, name in pairs_of_cases))
    wanted = {"cryptofeed": 5.0, "ccxt": 20.0}
    for sort, who, name in pairs_of_cases:
        report.add(harness.ratio_line(f"{sort.name} / {who}", found[name], found[sort.name], wanted[who]))
    harness.say("measuring frames made to be costly")
    report.add(*worst(repetitions))
    notes(report, kinds, has_peers)
    asyncio.run(closed(opened))
    return report.finish()


def pairs_in(sort: Sort) -> list[tuple[str, str, str]]:
    """Return (name, base, quote) of the pairs in the messages of one kind, by our product list."""
    bare, listed = decoder(sort.feed, {}), decoder(sort.feed)
    pairs: dict[str, tuple[str, str, str]] = {}
    for frame in sort.frames:
        for name, symbol in zip(bare.decode(frame, 0), listed.decode(frame, 0), strict=True):
            assert isinstance(name, (Tick, Quote))
            assert isinstance(symbol, (Tick, Quote))
            base, _, quote = symbol.symbol.partition("/")
            pairs[name.symbol] = (name.symbol, base, quote)
    return list(pairs.values())


async def closed(exchanges: Sequence[Any]) -> None:
    """Let go of what ccxt opened, which complains otherwise."""
    for exchange in exchanges:
        await exchange.close()


def notes(report: harness.Report, kinds: Sequence[Sort], has_peers: bool) -> None:
    """Say what is in the lines."""
    if not has_peers:
        report.note("cryptofeed and ccxt are not installed here: `make bench` installs them into .venv-bench.")
    mean = {sort.name: sum(map(len, sort.frames)) / len(sort.frames) for sort in kinds}
    report.note("Bytes a message: " + ", ".join(f"{name} {size:,.0f}" for name, size in mean.items()) + ".")
    report.note(
        "Every message's newest event was compared with the peers': pair, prices, size, id, time to the ms, side. On Coinbase's Advanced "
        "Trade both peers say the opposite side of every trade: the maker's."
    )
    report.note(
        "cryptofeed has no handler for Binance's `trade`, Coinbase's tickers and ws-feed. It builds Decimals, gives times as float "
        "seconds, and no sizes of quotes; ours gives int64 ns. ccxt's handlers fill its caches too."
    )
    report.note(
        "The loop around each call, some 10 ns, is in every line. Messages of several trades or tickers count as one."
    )


if __name__ == "__main__":
    harness.run(main)
