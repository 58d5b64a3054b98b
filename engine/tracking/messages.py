"""What the engine and the process that talks to MLflow say to each other: frames of msgpack over pipes, one answer to each request.

Frame    length as 4 bytes, little-endian, then msgpack. Arrays travel as npz: nothing that is read here can run.
"""

from __future__ import annotations

import struct
from typing import IO, Any, TypeAlias

import msgspec

from engine.tracking.follow import Moved
from engine.tracking.registry import Subject

LENGTH = struct.Struct("<I")
FRAME_MAX = 512 << 20
"""Bytes of one frame. A state that is larger than this is refused by name before it is sent."""


class Begin(msgspec.Struct, frozen=True, tag=True):
    """The first request: where MLflow is. Its answer comes once MLflow is imported and the experiment is there."""

    uri: str
    experiment: str
    artifacts: str  # where artifacts of a new experiment go; empty: where the server likes
    folder: str  # of the record
    engine: str
    allow_pickle: bool


class Scores(msgspec.Struct, frozen=True):
    """How one version stands: the state of its scores, reported on over there."""

    version: str
    score: bytes  # float64
    learned: int
    memory: int
    e_value: float
    threshold: float
    pairs: int


class State(msgspec.Struct, frozen=True):
    """One version's model, to be logged."""

    version: str
    sequence: int  # of the newest input folded into it
    learned: int
    algorithm: dict[str, Any]
    arrays: bytes  # npz; empty if it is a pickle
    pickled: bytes = b""


class Report(msgspec.Struct, frozen=True, tag=True):
    """All there is to say of one model of one key at one sequence. Said twice, it changes nothing more."""

    subject: Subject
    sequence: int
    received: int  # ns UTC
    parameters: dict[str, str]
    features: tuple[str, ...]
    classes: tuple[str, ...]
    kind: int  # engine.models.target
    target: str
    coverage: float
    counts: dict[str, float] = {}  # metrics
    scores: tuple[Scores, ...] = ()
    states: tuple[State, ...] = ()
    aliases: dict[str, str | None] = {}  # alias to the engine's version, None for none; empty: leave them
    is_following: bool = False

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        states = sum(len(one.arrays) + len(one.pickled) for one in self.states)
        return 2_048 + states + sum(len(one.score) for one in self.scores)


class Follow(msgspec.Struct, frozen=True, tag=True):
    """Look whether someone moved an alias."""


class Done(msgspec.Struct, frozen=True):
    """The answer to each request."""

    error: str = ""  # empty: it is done
    is_lasting: bool = False  # another try would fail like this one
    logged: int = 0  # versions that were logged
    moved: tuple[Moved, ...] = ()


Request: TypeAlias = Begin | Report | Follow
"""What may be asked."""


def write_frame(pipe: IO[bytes], message: Any) -> None:
    """Write one frame. Raises OSError if nobody reads any more."""
    data = msgspec.msgpack.encode(message)
    pipe.write(LENGTH.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> bytes:
    """Read the content of one frame. Raises EOFError at the end, ValueError for a length that none has."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError("the other side is gone")
    (length,) = LENGTH.unpack(head)
    if length > FRAME_MAX:
        raise ValueError(f"a frame of {length} bytes; expected at most {FRAME_MAX}")
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError("the other side is gone")
    return data
