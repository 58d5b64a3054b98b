"""RFC 3339 to int ns, against datetime and by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.timestamps import rfc3339_ns

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_618_677_817_000_000_000  # 2021-04-17T16:43:37Z


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("2021-04-17T16:43:37Z", SECOND),
        ("2021-04-17T16:43:37.0Z", SECOND),
        ("2021-04-17T16:43:37.5Z", SECOND + 500_000_000),
        ("2021-04-17T16:43:37.089723Z", SECOND + 89_723_000),
        ("2021-04-17T16:43:37.50436Z", SECOND + 504_360_000),
        ("2021-04-17T16:43:37.123456789Z", SECOND + 123_456_789),
        ("2021-04-17T16:43:37.999999999Z", SECOND + 999_999_999),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000_000),
        ("2261-12-31T23:59:59.999999999Z", 9_214_646_399_999_999_999),
    ],
)
def test_times_are_exact_to_the_last_digit(text: str, ns: int) -> None:
    assert rfc3339_ns(text) == ns


@given(
    st.datetimes(datetime(1970, 1, 1), datetime(2261, 12, 31, 23, 59, 59), timezones=st.just(UTC)),  # noqa: DTZ001
    st.integers(0, 9),
    st.integers(0, 10**9 - 1),
)
def test_any_time_with_any_number_of_digits_is_exact(time: datetime, digits: int, fraction: int) -> None:
    time = time.replace(microsecond=0)
    kept = f"{fraction:09}"[:digits]
    text = f"{time:%Y-%m-%dT%H:%M:%S}"
    wanted = (time - EPOCH) // timedelta(seconds=1) * 10**9 + int(kept.ljust(9, "0"))
    assert rfc3339_ns(text + (f".{kept}" if kept else "") + "Z") == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Z",
        "0001-01-01T00:00:00.000000Z",
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999999Z",
        "2262-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "2021-04-17T16:43:37",
        "2021-04-17T16:43:37.089723",
        "2021-04-17T16:43:37.Z",
        "2021-04-17T16:43:37.1234567890Z",
        "2021-04-17T16:43:37+00:00",
        "2021-04-17T16:43:37.1+00:00",
        "2021-04-17t16:43:37Z",
        "2021-04-17T16:43:37z",
        "2021-04-17 16:43:37Z",
        "2021-04-17T16:43:37,5Z",
        "2021-04-17T16:43:37Z5Z",
        "2021-04-17T16:43:37.+5Z",
        "2021-04-17T16:43:37.-5Z",
        "2021-04-17T16:43:37.1_0Z",
        "2021-04-17T16:43:37. 5Z",
        "2021-04-17T16:43:37.5 Z",
        "2021-04-17T16:43:37.\u0665Z",
        "2021-04-17T16:43:37.\u00b2Z",
        "\u0662\u0660\u0662\u0661-04-17T16:43:37Z",
        "2021-04-17T16:43:60Z",
        "2021-04-17T24:00:00Z",
        "2021-02-29T00:00:00Z",
        "2021-13-01T00:00:00Z",
        "20210417T164337.1234567Z",
        "2021-W15-6T16:43:37Z",
        "+2021-04-17T16:43:37Z",
        "2026-08-09 21:05:48.854840045 +0000 UTC m=+41691.260485341",
    ],
)
def test_everything_else_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected RFC 3339 in UTC from 1970 to 2261") as caught:
        rfc3339_ns(text)
    assert repr(text[:40]) in str(caught.value)


@given(st.text(max_size=32))
def test_no_text_raises_anything_but_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="expected RFC 3339"):
        rfc3339_ns(text)
