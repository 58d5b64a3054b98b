"""Times as Coinbase writes them, 2026-08-09T21:05:48.251397169Z, to int ns UTC: exact, with 0 to 9 digits of fraction.

A datetime holds no more than microseconds, and takes longer. Whole seconds are remembered, since the messages of one second come
together, so that only the fraction is read of most of them.
Refused     anything but RFC 3339 with a capital T and Z; years before 1970 (Coinbase has sent 0001) and after 2261; a 61st second
Reference   RFC 3339, section 5.6
"""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime
from typing import Final

NS_PER_S: Final = 1_000_000_000
SECONDS: Final = len("2026-08-09T21:05:48.")
REMEMBERED_SECONDS: Final = 4096
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2261
"""The last whole year in int64 ns."""

_SCALE: Final[tuple[int, ...]] = (0, *(int(10 ** (9 - digits)) for digits in range(1, 10)))
_WHOLE: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})\.")


def rfc3339_ns(text: str) -> int:
    """Return the ns since 1970 of a time in UTC. Raises ValueError that says what was found and expected."""
    try:
        fraction = text[SECONDS:-1]
        # int() alone would take "+1", "1_0" and the digits of other scripts.
        if fraction.isdigit() and fraction.isascii() and text[-1] == "Z":
            return _whole_seconds_ns(text[:SECONDS]) + int(fraction) * _SCALE[len(fraction)]
        if len(text) == SECONDS and text[-1] == "Z":
            return _whole_seconds_ns(text[:-1] + ".")
    except (ValueError, LookupError):
        pass
    raise ValueError(
        f"found the time {text[:40]!r}, expected RFC 3339 in UTC from {FIRST_YEAR} to {LAST_YEAR}, "
        "such as 2026-08-09T21:05:48.251397169Z"
    )


@functools.lru_cache(REMEMBERED_SECONDS)
def _whole_seconds_ns(text: str) -> int:
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise ValueError
    time = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
    if not FIRST_YEAR <= time.year <= LAST_YEAR:
        raise ValueError
    return int(time.timestamp()) * NS_PER_S
