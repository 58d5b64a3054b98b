"""The recorded messages that decoders are tested on, and what independent parsers make of them."""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
RECORDINGS = {
    "binance": ROOT / "replay" / "recordings" / "binance.jsonl.gz",
    **{feed: DATA / f"{feed}.jsonl.gz" for feed in ("coinbase", "coinbase_exchange", "kucoin")},
}


@dataclass(frozen=True)
class Message:
    number: int  # line of the full capture
    frame: bytes
    received: int


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a compressed file, one a line."""
    with gzip.open(path, "rt") as file:
        for line in file:
            yield json.loads(line)


def messages(feed: str) -> Iterator[Message]:
    """Yield what was received from an exchange, in order."""
    for row in lines(RECORDINGS[feed]):
        if row["kind"] == "recv":
            yield Message(row["n"], row["raw"].encode(), row["recv_ns"])


@functools.cache
def samples(feed: str, each: int = 3) -> tuple[bytes, ...]:
    """Return the first frames of every kind, as they were on the wire."""
    by_kind: dict[object, list[bytes]] = {}
    for message in messages(feed):
        frames = by_kind.setdefault(_kind(feed, message.frame), [])
        if len(frames) < each and len(message.frame) < 20_000:
            frames.append(message.frame)
    return tuple(frame for frames in by_kind.values() for frame in frames)


def _kind(feed: str, frame: bytes) -> object:
    if feed == "binance":
        return frame.split(b",", 1)[0]
    message = json.loads(frame)
    if feed == "coinbase":
        return message["channel"], message["events"][0].get("type")
    return message.get("subject") or message["type"]
