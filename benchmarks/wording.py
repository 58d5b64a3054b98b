"""How exchanges word a trade: websocket frames of one length, built column by column.

    trade          Binance: a trade, raw or in the wrapper of combined streams
    aggTrade       Binance: trades of one order at one price, likewise
    market_trades  Coinbase Advanced Trade: one trade a message; its `side` is the maker's

Numbers have fixed widths, and what is shorter than another is filled up where nobody reads: before `m`, in `M`, behind `side`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Rows = npt.NDArray[np.uint8]

TRADE = '{"e":"trade","E":0000000000000,"s":"%s","t":0000000000,"p":"00000.00000000","q":"0.00000000","T":0000000000000,"m":00000,"M":00000}'
AGG_TRADE = (
    '{"e":"aggTrade","E":0000000000000,"s":"%s","a":0000000000,"p":"00000.00000000","q":"0.00000000","f":0000000000,"l":0000000000,'
    '"T":0000000000000,"m":00000,"M":00000}'
)
MARKET_TRADES = (
    '{"channel":"market_trades","timestamp":"0000-00-00T00:00:00.000000000Z","sequence_num":0000000000,"events":[{"type":"update",'
    '"trades":[{"product_id":"%s","trade_id":"0000000000","price":"00000.00","size":"0.00000000","time":"0000-00-00T00:00:00.000000Z",'
    '"side":000000}]}]}'
)
TEXT = 0x81
SHORT = 126
"""From here on the length of a frame takes two bytes more."""
KINDS = ("trade", "aggTrade", "market_trades")


@dataclass(frozen=True)
class Trades:
    """What trades are, a row each."""

    code: Integers
    """Whose: a place in the list of symbols."""
    number: Integers
    """Which message of all, from 0."""
    trade_id: Integers
    """Ten digits."""
    ms: Integers
    cents: Integers
    """The price: seven digits."""
    volume: Integers
    """1e-5 of the base currency."""
    sold: npt.NDArray[np.bool_]
    """Whether the taker sold."""


def frames(kind: str, symbols: Sequence[str], trades: Trades, *, combined: bool) -> Rows:
    """Build frames, one a row. `symbols` are spelled as the exchange does, all of one length."""
    rows = np.array([list(template(kind, name, combined)) for name in symbols], np.uint8)[trades.code]
    text = bytes(rows[0])
    if kind == "market_trades":
        moments = np.datetime_as_string(trades.ms.astype("datetime64[ms]")).astype("S23")
        for mark in (b'"timestamp":"', b'"time":"'):
            _words(rows, text, mark, moments)
        # The maker's side, which is not the taker's.
        _words(rows, text, b'"side":', np.array([b'"SELL"', b'"BUY" '])[trades.sold.astype(int)])
        digits = [
            (b'"sequence_num":', 1_000_000_000 + trades.number, 10),
            (b'"trade_id":"', trades.trade_id, 10),
            (b'"price":"', trades.cents // 100, 5),
            (b'"price":"00000.', trades.cents % 100, 2),
            (b'"size":"0.', trades.volume, 5),
        ]
    else:
        _words(rows, text, b'"m":', np.array([b"false", b" true"])[trades.sold.astype(int)])
        _words(rows, text, b'"M":', np.array([b" true", b"false"])[trades.sold.astype(int)])
        ids = (b'"t":',) if kind == "trade" else (b'"a":', b'"f":', b'"l":')
        digits = [
            (b'"E":', trades.ms, 13),
            (b'"T":', trades.ms, 13),
            *((mark, trades.trade_id, 10) for mark in ids),
            (b'"p":"', trades.cents // 100, 5),
            (b'"p":"00000.', trades.cents % 100, 2),
            (b'"q":"0.', trades.volume, 5),
        ]
    for mark, values, width in digits:
        _digits(rows, text.index(mark) + len(mark), values, width)
    return rows


def template(kind: str, name: str, combined: bool) -> bytes:
    """Return the frame of a trade of one symbol with zeros for what differs."""
    payload = {"trade": TRADE, "aggTrade": AGG_TRADE, "market_trades": MARKET_TRADES}[kind] % name
    if combined:
        payload = f'{{"stream":"{name.lower()}@{kind}","data":{payload}}}'
    return framed(payload.encode())


def framed(payload: bytes) -> bytes:
    """Wrap a text in a frame as a server sends it (RFC 6455, 5.2), below 64 kB."""
    length = len(payload)
    head = bytes((TEXT, length)) if length < SHORT else struct.pack(">BBH", TEXT, SHORT, length)
    return head + payload


def _words(rows: Rows, text: bytes, mark: bytes, words: npt.NDArray[np.bytes_]) -> None:
    """Write words of one length behind a mark."""
    begin, width = text.index(mark) + len(mark), words.dtype.itemsize
    rows[:, begin : begin + width] = np.ascontiguousarray(words).view(np.uint8).reshape(-1, width)


def _digits(rows: Rows, column: int, values: Integers, width: int) -> None:
    """Write numbers as digits."""
    for place in range(width):
        values, digit = np.divmod(values, 10)
        rows[:, column + width - 1 - place] = 48 + digit
