"""What an engine and its worker processes say to each other about models: MessagePack, one message a frame, each led by its size (u32).

To a worker    Open, Learn, Ask, Close, Save: handled one after the other, first in, first out
From it        Answered, Saved, Measured, Done: each says how many requests this process has handled by then

Rows of features travel as the bytes of their float64, so nothing is rounded. Learn (and Ask, of a model without labels) is numbered
from 1 on for each arm: a number that an arm has learned from already is passed over, so what may have been handled can be sent again.
"""

from __future__ import annotations

import struct
from typing import IO, Any, NamedTuple, TypeAlias

import msgspec

from engine.errors import ModelError
from engine.models.settings import ModelConfig

SIZE = struct.Struct("<I")
FRAME_MAX = 1 << 26
"""Bytes of the longest message; a row of features takes some hundred."""


class ArmName(NamedTuple):
    """One version of one model for one key."""

    model: str
    version: str
    exchange: str
    symbol: str


class Open(msgspec.Struct, frozen=True, array_like=True, tag="open"):
    """Build an arm, or make it what was saved in the file `load`."""

    arm: ArmName
    config: ModelConfig
    algorithm: dict[str, Any]
    seed: int
    load: str = ""


class Learn(msgspec.Struct, frozen=True, array_like=True, tag="learn"):
    """Learn that the row `x` came to `y`."""

    arm: ArmName
    number: int
    x: bytes
    y: float


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """Say what is expected of the row `x`, of input `sequence`."""

    arm: ArmName
    number: int  # 0: asking teaches it nothing; else it learns from the row by itself, having no labels
    sequence: int
    timestamp: int
    received: int
    x: bytes
    is_quiet: bool = False  # nobody wants to know: the answer is known or too late


class Close(msgspec.Struct, frozen=True, array_like=True, tag="close"):
    """Forget an arm."""

    arm: ArmName


class Save(msgspec.Struct, frozen=True, array_like=True, tag="save"):
    """Write all arms, as they are when their turn comes, into files that end in `suffix`."""

    ticket: int
    folder: str
    suffix: str
    sequence: int
    definition: str


Request: TypeAlias = Open | Learn | Ask | Close | Save


class Answered(msgspec.Struct, frozen=True, array_like=True, tag="answered"):
    """What an arm says to a row. No values: it could say nothing, `error` tells why. With values, `error` is of learning before."""

    arm: ArmName
    sequence: int
    values: tuple[float, ...]
    error: str
    done: int


class Saved(msgspec.Struct, frozen=True, array_like=True, tag="saved"):
    """What came of a Save: all arms are in their files, or `error` says why not."""

    ticket: int
    error: str
    done: int


class Measured(msgspec.Struct, frozen=True, array_like=True, tag="measured"):
    """Bytes that an arm's model takes."""

    arm: ArmName
    memory: int
    done: int


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """So many requests were handled; `trouble` says why an arm could not learn, or `is_broken` and says nothing any more."""

    done: int
    arm: ArmName | None = None
    trouble: str = ""
    is_broken: bool = False


Said: TypeAlias = Answered | Saved | Measured | Done

_encoder = msgspec.msgpack.Encoder()
REQUESTS = msgspec.msgpack.Decoder(Request)
SAID = msgspec.msgpack.Decoder(Said)


def frame(message: Request | Said) -> bytes:
    """Return a message as it travels, with its size before it."""
    body = _encoder.encode(message)
    return SIZE.pack(len(body)) + body


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Return the body of the next message, None at the end of the stream. Raises ModelError for a size that no message has."""
    head = stream.read(SIZE.size)
    if len(head) < SIZE.size:
        return None
    size = SIZE.unpack(head)[0]
    if size > FRAME_MAX:
        raise ModelError(f"a message of {size} bytes: expected at most {FRAME_MAX}")
    body = stream.read(size)
    return body if len(body) == size else None
