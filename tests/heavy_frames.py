"""Frames of 64 kB made to be costly for a decoder: nested, long, of many small things, of real messages over and over."""

from __future__ import annotations

SIZE = 64 * 1024


def stuffed(unit: bytes, head: bytes = b"", tail: bytes = b"") -> bytes:
    return head + unit * ((SIZE - len(head) - len(tail)) // len(unit)) + tail


def heavy(feed: str) -> dict[str, bytes]:
    """Return the frames for the decoder of `feed`, by what they are made of."""
    shapes = {
        "nested arrays": b"[" * SIZE,
        "nested objects": stuffed(b'{"x":'),
        "empty objects": stuffed(b"{},", b"[", b"{}]"),
        "spaces": b" " * SIZE,
        "digits": b"9" * SIZE,
        "long text": b'"' + b"a" * SIZE + b'"',
        "escapes": stuffed(b"\\u00e9", b'"', b'"'),
        "no UTF-8": b"\xff" * SIZE,
        "unknown keys": stuffed(b'"":0,', b"{", b'"":0}'),
    }
    names = {"binance": "etpbTausXE", "coinbase": ("channel", "events", "timestamp")}
    for name in names.get(feed, ("type", "subject", "topic", "data", "time", "price", "trade_id", "sequence")):
        key = b'{"' + name.encode() + b'":'
        shapes[f"{name}: digits"] = key + b"9" * SIZE + b"}"
        shapes[f"{name}: number text"] = key + b'"0.' + b"3" * SIZE + b'"}'
        shapes[f"{name}: array"] = stuffed(b"1,", key + b"[", b"1]}")
        shapes[f"{name}: objects"] = stuffed(b"{},", key + b"[", b"{}]}")
        shapes[f"{name}: nested"] = key + b"[" * SIZE
        shapes[f"{name}: again and again"] = stuffed(b'"' + name.encode() + b'":1,', b"{", b'"x":1}')
    if feed == "coinbase":
        trade = b'{"product_id":"A","trade_id":1,"price":1,"size":1,"time":"2026-08-09T21:05:48.1Z","side":"BUY"},'
        shapes["trades"] = stuffed(
            trade, b'{"channel":"market_trades","events":[{"type":"u","trades":[', trade[:-1] + b"]}]}"
        )
        event = b'{"type":"","trades":[]},'
        shapes["events"] = stuffed(event, b'{"channel":"market_trades","events":[', event[:-1] + b"]}")
    return shapes
