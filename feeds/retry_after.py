"""The Retry-After header of an HTTP answer: how long the exchange wants to be left alone (RFC 9110, 10.2.3)."""

from __future__ import annotations

import email.utils
from typing import Final

NS_PER_S: Final = 1_000_000_000
DAY_S: Final = 86_400
LONGEST_S: Final = 3 * DAY_S
"""Binance bans an address for up to three days; a header that says more is a mistake."""
DIGITS: Final = 12


def retry_after_ns(value: str | None, now: int) -> int | None:
    """Read the header, seconds or a date, into ns from `now` (ns UTC), at most three days. None if there is none that can be read."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return min(int(value[:DIGITS]), LONGEST_S) * NS_PER_S
    try:
        at = int(email.utils.parsedate_to_datetime(value).timestamp())
    except (ValueError, OverflowError):
        return None
    return max(0, min(at * NS_PER_S - now, LONGEST_S * NS_PER_S))
