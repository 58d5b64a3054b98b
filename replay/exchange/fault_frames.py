"""What can be wrong with a message: texts and frames in, texts and frames out, pure.

Texts are JSON objects as exchanges send them. Values are changed in place, byte for byte, so that all else stays as it was. What a
change does not fit returns None: a quote has no trade's price, a message of Binance spot's bookTicker no time.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Final, Literal

from replay.exchange.client import frame_of

TEXT_BEGINS, MORE, LAST = 0x01, 0x00, 0x80
"""First byte of a frame of a message in several: the first, those in between, the last."""
BINARY: Final = 0x82

How = Literal["price_zero", "size_negative", "year_one", "crossed", "nan"]

# Names of fields of all venues; those of Binance are one letter, and mean this in its trades and quotes only.
_TRADE_PRICE: Final = re.compile(rb'("(?:p|price)"\s*:\s*"?)([-+0-9.eE]+)("?)')
_TRADE_SIZE: Final = re.compile(rb'("(?:q|size)"\s*:\s*"?)([-+0-9.eE]+)("?)')
_TRADE_TIME: Final = re.compile(rb'("(?:T|time)"\s*:\s*)("[^"]*"|[0-9]+)')
_QUOTE_TIME: Final = re.compile(rb'("(?:time|timestamp)"\s*:\s*)("[^"]*"|[0-9]+)')
_BID: Final = re.compile(rb'("(?:b|best_bid|bestBid)"\s*:\s*"?)([-+0-9.eE]+)("?)')
_ASK: Final = re.compile(rb'("(?:a|best_ask|bestAsk)"\s*:\s*"?)([-+0-9.eE]+)("?)')
_BID_SIZE: Final = re.compile(rb'("(?:B|best_bid_quantity|best_bid_size|bestBidSize)"\s*:\s*"?)([-+0-9.eE]+)("?)')
YEAR_ONE: Final = b'"0001-01-01T00:00:00.000000Z"'
YEAR_ONE_MS: Final = b"-62135596800000"
YEAR_ONE_NS: Final = b'"-62135596800000000000"'
UNKNOWN_FIELD: Final = b'"tickfoldUnknown":{"since":1,"list":[null,true,"x"]}'

UNKNOWN_TYPES: Final = {
    "binance": b'{"e":"tickfoldUnknown","E":1700000000000,"s":"TICKFOLD","x":[1,{"y":null}]}',
    "coinbase": b'{"channel":"tickfold_unknown","timestamp":"2026-01-01T00:00:00Z","sequence_num":0,"events":[{"type":"update"}]}',
    "coinbase_exchange": b'{"type":"tickfold_unknown","product_id":"TICK-FOLD","sequence":1,"x":[1,{"y":null}]}',
    "kucoin": b'{"type":"message","topic":"/tickfold/unknown:ALL","subject":"tickfold.unknown","data":{"x":[1,{"y":null}]}}',
}
"""A message of a type that nobody knows, by feed. The number of Coinbase Advanced Trade's is set when it is sent."""

_BOOKS: Final = {
    "binance": (
        b'{"e":"depthUpdate","E":0,"s":"TICKFOLD","U":1,"u":1,"b":[',
        b'["0.10000000","1.00000000"]',
        b'],"a":[]}',
    ),
    "coinbase": (
        b'{"channel":"l2_data","sequence_num":0,"events":[{"type":"snapshot","product_id":"TICK-FOLD","updates":[',
        b'{"side":"bid","event_time":"2026-01-01T00:00:00.000000Z","price_level":"0.1","new_quantity":"1"}',
        b"]}]}",
    ),
    "coinbase_exchange": (b'{"type":"snapshot","product_id":"TICK-FOLD","asks":[],"bids":[', b'["0.1","1"]', b"]}"),
    "kucoin": (
        b'{"type":"message","topic":"/market/level2:TICK-FOLD","subject":"trade.l2update","data":{"changes":{"bids":[',
        b'["0.1","1","1"]',
        b"]}}}",
    ),
}
"""A book's beginning, one level, and its end, by feed. The largest message of Coinbase that was recorded is one, of 5,079,379 bytes."""


def bad_value(text: bytes, how: How, is_trade: bool) -> bytes | None:
    """Return a trade or a quote with a value that cannot be."""
    if how == "crossed":
        return None if is_trade else _crossed(text)
    if how == "year_one":
        return _at_year_one(text, is_trade)
    if how == "size_negative":
        size = _TRADE_SIZE if is_trade else _BID_SIZE
        return _changed(text, size, lambda value: b"-" + value.lstrip(b"-+") if value.strip(b"0.") else b"-1")
    price = _TRADE_PRICE if is_trade else _BID
    if how == "price_zero":
        return _changed(text, price, lambda _: b"0.00000000")
    return _changed(text, price, lambda _: b"NaN")


def book(feed: str, size: int) -> bytes:
    """Return a message of an order book that is so many bytes long, or a little more if that is too few for any."""
    head, level, tail = _BOOKS[feed]
    count = max((size - len(head) - len(tail) + 1) // (len(level) + 1), 1)
    text = head + b",".join([level] * count) + tail
    return text + b" " * (size - len(text))


def with_unknown_field(text: bytes) -> bytes:
    """Return a message with a field that nobody knows, in its innermost first object and in its outermost."""
    end = text.rfind(b"}")
    if end < 0:
        return text
    begin = text.rfind(b"{", 0, end) + 1
    separator = b"," if text[begin:end].strip() else b""
    inner = text[:begin] + UNKNOWN_FIELD + separator + text[begin:]
    return inner if begin == text.find(b"{") + 1 else _outermost(inner)


def cut(text: bytes, chance: random.Random) -> bytes:
    """Return the beginning of a message."""
    return text[: chance.randrange(1, max(len(text) - 1, 2))]


def with_bytes(text: bytes, what: bytes, chance: random.Random) -> bytes:
    """Return a message with some bytes somewhere in its middle."""
    at = chance.randrange(1, max(len(text), 2))
    return text[:at] + what + text[at:]


def fragments(text: bytes, count: int, chance: random.Random) -> bytes:
    """Return one message as so many frames, cut anywhere, also within a character; a fragment may be empty."""
    places = sorted(chance.randrange(len(text) + 1) for _ in range(count - 1))
    parts = [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]
    frames = [frame_of(MORE, part) for part in parts]
    frames[0] = bytes((TEXT_BEGINS,)) + frames[0][1:]
    frames[-1] = bytes((LAST,)) + frames[-1][1:]
    return b"".join(frames)


def _changed(text: bytes, pattern: re.Pattern[bytes], change: Callable[[bytes], bytes]) -> bytes | None:
    changed, count = pattern.subn(lambda found: found[1] + change(found[2]) + found[3], text)
    return changed if count else None


def _crossed(text: bytes) -> bytes | None:
    """Exchange bid and ask."""
    bid, ask = _BID.search(text), _ASK.search(text)
    if bid is None or ask is None:
        return None
    crossed = _BID.sub(lambda found: found[1] + ask[2] + found[3], text, count=1)
    return _ASK.sub(lambda found: found[1] + bid[2] + found[3], crossed, count=1)


def _at_year_one(text: bytes, is_trade: bool) -> bytes | None:
    def moved(found: re.Match[bytes]) -> bytes:
        time = found[2]
        if not time.startswith(b'"'):
            return found[1] + YEAR_ONE_MS
        return found[1] + (YEAR_ONE_NS if time[1:-1].isdigit() else YEAR_ONE)

    changed, count = (_TRADE_TIME if is_trade else _QUOTE_TIME).subn(moved, text)
    return changed if count else None


def _outermost(text: bytes) -> bytes:
    end = text.rfind(b"}")
    return text[:end] + b"," + UNKNOWN_FIELD + text[end:]
