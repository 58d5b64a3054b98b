"""What the parts of a running daemon say of themselves: for /health, /metrics, `tickfold top` and the page."""

from __future__ import annotations

from typing import Literal

import msgspec


class FeedHealth(msgspec.Struct, frozen=True):
    """One connection to an exchange."""

    name: str  # "binance 1"
    exchange: str
    url: str
    state: str  # connecting, subscribing, live, stale, waiting, failed, stopped
    symbols: tuple[str, ...]
    recording: bool  # the loopback exchange serves a recording
    connected_at: int  # ns UTC, 0 if it is not
    newest: int  # `received` of its newest message, ns UTC, 0 if none
    messages: int
    undecodable: int
    reconnects: int
    detail: str  # what it last had to say, "" if nothing
    ignored: int = 0  # messages of types that hold no market data and answer nothing
    stalled: tuple[str, ...] = ()  # symbols that are silent for longer than is usual for them


class ExchangeHealth(msgspec.Struct, frozen=True):
    """What the connections to one exchange have in common."""

    exchange: str
    products: str  # its product list: how much there is, and how old it is
    products_trouble: str  # why the newest list could not be had, "" if it could
    unlisted: tuple[str, ...]  # symbols that are wanted, and that the list does not have
    gaps_open: int  # spans of missing trades that are asked for
    trades_filled: int
    trades_lost: int
    requests: int  # of back-fill
    backfill_trouble: str  # what last went wrong in asking, "" if nothing


class JournalHealth(msgspec.Struct, frozen=True):
    """How inputs are being kept."""

    state: Literal["journaling", "not journaling", "off"]
    folder: str
    sequence: int  # newest that was written
    synced: int  # newest that was synced to the disk
    bytes_written: int
    segments: int
    detail: str  # why it does not journal, "" otherwise


class SnapshotHealth(msgspec.Struct, frozen=True):
    """The newest snapshot that is on disk."""

    sequence: int  # 0 if there is none
    taken_at: int  # ns UTC
    bytes_written: int
    longest_hold_ns: int  # the longest time that taking it held the loop at a stretch
    detail: str  # why the last try failed, "" otherwise


class Digested(msgspec.Struct, frozen=True):
    """The chain digests at one sequence: what a replay up to there gives too."""

    sequence: int
    inputs: str
    features: str
    predictions: str
    signals: str


class TrackingHealth(msgspec.Struct, frozen=True):
    """How models are told of to MLflow."""

    state: Literal["starting", "tracking", "retrying", "stopped"]
    uri: str
    waiting: int  # reports that MLflow has not got yet
    sent: int
    logged: int  # versions of models that were logged
    dropped: int  # reports let go of because too many waited
    refused: int  # reports that MLflow will not have
    failures: int  # tries that failed
    detail: str  # why the last try failed, "" while it works
