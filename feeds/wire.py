"""What the decoders of all exchanges have in common: what they ask of a field, which the parser checks while it reads.

Lax         exchanges send numbers as JSON text, so the parsers take text for numbers (strict=False)
Number      finite: a lax parser would read "nan" and "inf" too. Zero and negative ones pass: the ingress judges values
Identifier  an integer that int64 holds
Word        text that is not empty
Spelling    an exchange's name of a pair to ours
UNREADABLE  what a parser raises, whatever the bytes
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

Number: TypeAlias = Annotated[float, Meta(ge=-1.7976931348623157e308, le=1.7976931348623157e308)]
Identifier: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Word: TypeAlias = Annotated[str, Meta(min_length=1)]

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

ABSENT: Final = msgspec.Raw()
"""The default of a field of which only its kind is asked: anything fits into a Raw, and nothing is built of it."""


def is_text(value: msgspec.Raw) -> bool:
    """Whether an unparsed value is text."""
    return bytes(memoryview(value)[:1]) == b'"'


class Spelling(dict[str, str]):
    """The exchange's spelling of a pair to ours: `spelling["BTCUSDT"]`. A pair that is not in it keeps the exchange's."""

    __slots__ = ()

    def __missing__(self, name: str) -> str:
        return name
