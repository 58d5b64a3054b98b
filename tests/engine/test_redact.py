"""What is a secret and what is not, in keys and in text."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.redact import REDACTED, is_secret, redact, redact_text


@pytest.mark.parametrize(
    "key",
    ["token", "Authorization", "password", "db_password", "passwd", "api_key", "apiKey", "apikey", "API_SECRET", "client-secret",
     "accessToken", "tokens", "credentials", "private_key", "Set-Cookie", "passphrase"],
)  # fmt: skip
def test_a_key_that_says_so_holds_a_secret(key: str) -> None:
    assert is_secret(key)
    assert redact({key: "hunter2"}) == {key: REDACTED}


@pytest.mark.parametrize(
    "key", ["token_file", "key", "keys", "symbol", "tokenizer", "secretary", "cookies_max", "monkey"]
)
def test_a_key_that_only_sounds_like_it_holds_none(key: str) -> None:
    assert not is_secret(key)
    assert redact({key: "DIR/token"}) == {key: "DIR/token"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:hunter2@cache:6379/0", "redis://[redacted]@cache:6379/0"),
        ("postgresql://ann:hunter2@db/ticks", "postgresql://[redacted]@db/ticks"),
        ("postgresql+psycopg://ann:hun/ter2@db/ticks", "postgresql+psycopg://[redacted]@db/ticks"),
        ("postgresql://ann:p@ss@db/ticks", "postgresql://[redacted]@db/ticks"),
        ("cannot reach https://ghp_hunter2@host/x, giving up", "cannot reach https://[redacted]@host/x, giving up"),
        ("wss://x/ws?listenKey=1&token=hunter2&a=b", "wss://x/ws?listenKey=1&token=[redacted]&a=b"),
        ("wss://x/ws?access_token=hunter2", "wss://x/ws?access_token=[redacted]"),
        ("{'Authorization': 'Bearer hunter2hunter2'}", "{'Authorization': 'Bearer [redacted]'}"),
        ("authorization: basic YW5uOmh1bnRlcjI=", "authorization: basic [redacted]"),
    ],
)
def test_secrets_inside_a_text_are_taken_out(text: str, shown: str) -> None:
    assert redact_text(text) == shown
    assert redact_text(shown) == shown
    assert "hunter2" not in str(redact({"error": ValueError(text), "urls": (text,), "deep": {"er": [text.encode()]}}))


@pytest.mark.parametrize(
    "text",
    [
        "wss://stream.binance.com:9443/ws/btcusdt@trade",
        "wss://stream.binance.com:9443/stream?streams=btcusdt@trade/btcusdt@bookTicker",
        "ws://[::1]:8420/ws/btcusdt@trade",
        "http://127.0.0.1:8420/get-online-features",
        "write to ann@example.com, see https://example.com/a",
        "a bearer of bad news: basic type",
    ],
)
def test_what_is_no_secret_is_let_alone(text: str) -> None:
    assert redact_text(text) == text


class Feed(msgspec.Struct):
    url: str
    password: str


@dataclass
class Plain:
    api_key: str
    volume: float


def test_structs_dataclasses_and_numpy_are_gone_through_and_numbers_stay_numbers() -> None:
    value = {
        "feed": Feed("redis://:hunter2@c", "hunter2"),
        "plain": Plain("hunter2", 2.5),
        "n": np.int64(3),
        "path": Path("a/b"),
    }
    assert redact(value) == {
        "feed": {"url": "redis://[redacted]@c", "password": REDACTED},
        "plain": {"api_key": REDACTED, "volume": 2.5},
        "n": 3,
        "path": "a/b",
    }  # fmt: skip
    assert redact({"token": "", "password": None, "secret": 0}) == {"token": "", "password": None, "secret": 0}


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="ascii", exclude_characters="@:=")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["price", "symbols", "a"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(json)
def test_what_holds_no_secret_comes_out_as_it_went_in(value: Any) -> None:
    assert redact(value) == value or "earer" in str(value).lower() or "basic" in str(value).lower()


@pytest.mark.parametrize(
    "text", ["a" * 40_000, "?" * 40_000, "?" + "a" * 40_000, "a://" * 10_000, "a://b:" * 7_000, "Bearer " * 6_000]
)
def test_a_hostile_text_costs_no_more_than_its_length(text: str) -> None:
    # A second is far from what it takes (some milliseconds), and far from what backtracking over it would take (minutes).
    started = time.perf_counter()
    redact_text(text)
    assert time.perf_counter() - started < 1.0
