"""cryptofeed and ccxt.pro over a loopback websocket, each with its own connection: the peers of the receive path.

cryptofeed  `Binance(channels=[TRADES])`, which asks for combined aggTrade by the address that it dials; `Feed.connect`, `Feed.start`, its
            ConnectionHandler and its WSAsyncConn (the websockets library), `message_handler`, a callback that counts. It dials nothing
            but wss://, so the address is put in after the connection was made: what it receives is not encrypted, as with all others
ccxt        `binance.watch_trades_for_symbols` in a loop, as its manual says, raw trades; the address is in its `urls`. Its trades end in
            its cache of the newest 1,000 a symbol

Both with their defaults, on uvloop; markets are handed in, as in decoding_peers.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from cryptofeed.defines import TRADES
from cryptofeed.exchanges import Binance
from cryptofeed.symbols import Symbol, Symbols

from benchmarks import decoding_peers
from benchmarks.sender import FIRST_ID

if TYPE_CHECKING:
    from benchmarks.receivers import Flood, Row


class Cryptofeed:
    """cryptofeed's Binance feed."""

    def __init__(self, flood: Flood) -> None:
        self._count = 0
        self._last: Any = None
        self._kept: list[Any] | None = [] if flood.keep else None
        pairs = [Symbol(*ours.split("/")) for ours in flood.spelling]
        self._names = {pair.normalized: theirs for pair, theirs in zip(pairs, flood.spelling.values(), strict=True)}
        Symbols.set(
            Binance.id, dict(self._names), {"instrument_type": dict.fromkeys(self._names, "spot"), "tick_size": {}}
        )
        feed: Any = Binance(symbols=list(self._names), channels=[TRADES], callbacks={TRADES: self._hear})
        (made,) = feed.connect()
        made[0].address = made[0].address.replace(feed.address, flood.url.removesuffix("/stream"))
        feed.connect = lambda: [made]
        feed.start(asyncio.get_running_loop())
        self._feed = feed

    async def _hear(self, trade: Any, _: float) -> None:
        self._count += 1
        self._last = trade
        if self._kept is not None:
            self._kept.append(trade)

    def count(self) -> int:
        return self._count

    def newest(self) -> dict[str, int]:
        return {self._names[self._last.symbol]: int(self._last.id)}

    async def stop(self) -> None:
        self._feed.stop()
        await self._feed.shutdown()

    def rows(self) -> list[Row]:
        return [
            (
                self._names[told.symbol],
                int(told.id),
                float(told.price),
                float(told.amount),
                told.side,
                round(told.timestamp * 1000),
            )
            for told in self._kept or ()
        ]


class Ccxt:
    """ccxt.pro's Binance."""

    def __init__(self, flood: Flood) -> None:
        self._keep = flood.keep
        self._names = dict(flood.spelling)
        pairs = [(theirs, *ours.split("/")) for ours, theirs in self._names.items()]
        _, self._exchange = decoding_peers.ccxt("binance", pairs, "trade")  # type: ignore[arg-type]
        for market in self._exchange.markets.values():
            market["lowercaseId"] = market["id"].lower()  # as its own reader of product lists does
        self._exchange.urls["api"]["ws"]["spot"] = flood.url
        if flood.keep:
            self._exchange.options["tradesLimit"] = 1_000_000
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        symbols = list(self._names)
        while True:
            await self._exchange.watch_trades_for_symbols(symbols)

    def count(self) -> int:
        """By ids, which are contiguous: what `watch_trades_for_symbols` returns at a flood are only the newest 1,000."""
        if self._task.done():
            self._task.result()
        return sum(trade_id - FIRST_ID + 1 for trade_id in self.newest().values())

    def newest(self) -> dict[str, int]:
        return {self._names[symbol]: int(trades[-1]["id"]) for symbol, trades in self._exchange.trades.items()}

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._exchange.close()

    def rows(self) -> list[Row]:
        if not self._keep:
            return []
        return [
            (
                self._names[told["symbol"]],
                int(told["id"]),
                told["price"],
                told["amount"],
                told["side"],
                told["timestamp"],
            )
            for trades in self._exchange.trades.values()
            for told in trades
        ]
