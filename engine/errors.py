"""Every exception that tickfold raises on purpose.

The class says whose fault it is; the text says where, what was found and what was expected; the facts stay on the exception as
attributes. Anything else that escapes is a defect of tickfold itself.
"""

from __future__ import annotations

from pathlib import Path

FRAME_EXCERPT_CHARACTERS = 120


class EngineError(Exception):
    """The root of all of them: `except EngineError` catches what a user can mend."""


class ConfigError(EngineError):
    """The configuration, a feature definition or a command-line word is wrong."""


class FeedError(EngineError):
    """An exchange sent, or failed to send, something."""


class DecodeError(FeedError):
    """A frame breaks the protocol of its exchange."""

    def __init__(self, exchange: str, reason: str, frame: bytes) -> None:
        shown = frame[:FRAME_EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace")
        tail = "..." if len(frame) > FRAME_EXCERPT_CHARACTERS else ""
        super().__init__(f"{exchange}: {reason}, in a frame of {len(frame)} bytes: {shown}{tail}")
        self.exchange = exchange
        self.reason = reason
        self.frame = frame


class StoreError(EngineError):
    """Features cannot be compiled, kept or read."""


class JournalError(StoreError):
    """A journal or a snapshot cannot be written, or what was read is not what was written."""


class JournalCorruptError(JournalError):
    """A file of the daemon's does not hold what was written into it."""

    def __init__(self, path: Path, offset: int, found: str, expected: str) -> None:
        super().__init__(f"{path}: byte {offset}: found {found}, expected {expected}")
        self.path = path
        self.offset = offset
        self.found = found
        self.expected = expected


class ServiceError(EngineError):
    """Something that is needed from outside the process is not there: a port, a server."""


class ReplayError(EngineError):
    """A recording cannot be read, merged or replayed."""


class ModelError(EngineError):
    """A model cannot be built, kept or read."""


class StrategyError(EngineError):
    """A strategy plugin cannot be loaded or is declared wrongly."""
