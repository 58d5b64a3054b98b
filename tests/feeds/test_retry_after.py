"""The Retry-After header."""

from __future__ import annotations

import pytest

from feeds.retry_after import retry_after_ns

NOW = 1_786_309_548_000_000_000  # Sun, 09 Aug 2026 21:05:48 GMT
S = 1_000_000_000


@pytest.mark.parametrize(
    ("value", "wait_ns"),
    [
        ("120", 120 * S),
        (" 7 ", 7 * S),
        ("0", 0),
        ("Sun, 09 Aug 2026 21:06:00 GMT", 12 * S),
        ("Sun, 09 Aug 2026 21:05:00 GMT", 0),  # it is past
        ("Sun, 09 Aug 2099 21:05:00 GMT", 3 * 86_400 * S),
        ("9" * 400, 3 * 86_400 * S),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("\u0661\u0662", None),  # digits, but not those of HTTP
        (None, None),
    ],
)
def test_seconds_and_dates_are_read_and_the_rest_is_not(value: str | None, wait_ns: int | None) -> None:
    assert retry_after_ns(value, NOW) == wait_ns
