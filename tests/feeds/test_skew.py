"""The clocks of exchange and engine: on recordings whose hosts were behind, by examples, and by laws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.skew import LEAST, ClockSkew, Skew

DATA = Path(__file__).parent.parent / "data"
S = 1_000_000_000
MS = 1_000_000
LOOK_NS = S // 4


def play(skew: ClockSkew, offset_ms: Callable[[float], float], seconds: int, begin: int = 0) -> list[tuple[int, Skew]]:
    """Ten trades a second whose `received - timestamp` is a function of the time in s; what was said, and when (s)."""
    said: list[tuple[int, Skew]] = []
    for now in range(begin * S, (begin + seconds) * S + 1, LOOK_NS):
        if (change := skew.look(now)) is not None:
            said.append((now // S, change))
        for received in (now + 50 * MS, now + 150 * MS):
            skew.note(received, received - int(offset_ms(received / S) * MS))
    return said


def test_a_host_that_was_1270_ms_behind_is_reported_once() -> None:
    table = pq.read_table(DATA / "binance_20240808_spot_trades.parquet")
    received, timestamps = table["received"].to_pylist(), table["timestamp"].to_pylist()
    skew, said, look = ClockSkew(), [], received[0]
    for at, timestamp in zip(received, timestamps, strict=True):
        while look <= at:
            if (change := skew.look(look)) is not None:
                said.append(change)
            look += LOOK_NS
        skew.note(at, timestamp)
    ((kind, offset, detail),) = ((change.kind, change.offset_ns, change.detail) for change in said)
    assert kind == "behind"
    assert offset == pytest.approx(-1_272 * MS, abs=3 * MS)
    assert detail == "trades arrive 1.272 s before their own time: our clock is behind the exchange's"
    assert skew.level == "behind"


@pytest.mark.parametrize("offset", [-490, -170, -16, 0, 80, 3_000, 4_990])
def test_what_hosts_usually_are_is_nothing_to_report(offset: int) -> None:
    skew = ClockSkew()
    assert play(skew, lambda _: offset, 120) == []
    assert skew.offset_ns == offset * MS
    assert skew.level == "normal"


def test_a_clock_that_falls_behind_and_comes_back_is_reported_at_both_ends() -> None:
    skew = ClockSkew()
    said = play(skew, lambda s: -700 if 60 <= s < 120 else 50, 300)
    assert [(change.kind, change.offset_ns // MS) for _, change in said] == [("behind", -700), ("normal", 50)]
    assert 60 <= said[0][0] <= 70 + 1
    assert 120 <= said[1][0] <= 140 + 1
    assert said[1][1].detail == "received - timestamp is back at 50 ms"


def test_data_that_gets_old_is_reported_with_its_age() -> None:
    said = play(ClockSkew(), lambda s: max(60.0, (s - 60) * 200), 120)
    stepped = [change for _, change in said if change.kind == "stepped"]
    (old,) = (change for _, change in said if change.kind == "old")
    assert old.offset_ns > 5 * S
    assert (
        old.detail
        == f"the newest trades are {old.offset_ns / S:.3f} s old on arrival: the data is late, or our clock is ahead"
    )
    assert stepped == []  # a drift is no step


def test_single_delays_are_nothing() -> None:
    assert play(ClockSkew(), lambda s: 30_000 if int(s * 10) % 10 else 40, 300) == []


def test_one_wrong_timestamp_is_no_skew() -> None:
    skew = ClockSkew()
    play(skew, lambda _: 40, 5)
    skew.note(5 * S, 3_600 * S)
    assert play(skew, lambda _: 40, 60, begin=5) == []


def test_a_step_within_the_bounds_is_reported_once_it_has_lasted() -> None:
    said = play(ClockSkew(), lambda s: 40 if s < 60 else 1_040, 300)
    ((at, change),) = said
    assert change == Skew("stepped", 1_040 * MS, "received - timestamp went from 40 ms to 1.040 s")
    assert 80 <= at <= 91
    assert play(ClockSkew(), lambda s: 1_040 if 60 <= s < 70 else 40, 300) == []


def test_a_step_behind_the_bound_is_reported_too() -> None:
    said = play(ClockSkew(), lambda s: -800 if s < 60 else -2_300, 200)
    assert [change.kind for _, change in said] == ["behind", "stepped"]


def test_an_offset_on_the_bound_is_said_once() -> None:
    said = play(ClockSkew(), lambda s: -501 if int(s / 10) % 2 else -499, 600)
    assert [change.kind for _, change in said] == ["behind"]


def test_a_few_trades_of_one_moment_prove_nothing() -> None:
    skew = ClockSkew()
    for now in range(0, 60 * S, LOOK_NS):
        assert skew.look(now) is None
        if now == 10 * S:
            for _ in range(100):
                skew.note(now + 1, now + 1 - 8 * S)
    assert skew.offset_ns is None


def test_a_sparse_stream_has_longer_windows() -> None:
    skew, said = ClockSkew(), []
    for now in range(0, 600 * S, LOOK_NS):
        if (change := skew.look(now)) is not None:
            said.append((now, change.kind))
        if now % (30 * S) == 0:
            skew.note(now + 1, now + 1 + 2 * S)
    assert said == [((LEAST - 1) * 30 * S + LOOK_NS, "behind")]


def test_a_reset_drops_the_open_window_and_keeps_what_was_said() -> None:
    skew = ClockSkew()
    assert [change.kind for _, change in play(skew, lambda _: 9_000, 12)] == ["old"]
    play(skew, lambda _: 90_000, 5, begin=12)
    skew.reset(18 * S)
    assert skew.level == "old"
    assert [change.kind for _, change in play(skew, lambda _: 20, 30, begin=18)] == ["normal"]


@given(st.lists(st.integers(-3_000, 9_000), min_size=1, max_size=30))
def test_levels_follow_the_bounds_and_nothing_is_said_twice(offsets: list[int]) -> None:
    skew, twin, level = ClockSkew(), ClockSkew(), "normal"
    for index, offset in enumerate(offsets):
        said = play(skew, lambda _, offset=offset: offset, 10, begin=10 * index)  # type: ignore[misc]
        assert said == play(twin, lambda _, offset=offset: offset, 10, begin=10 * index)  # type: ignore[misc]
        assert len(said) <= 2
        for _, change in said:
            if change.kind != "stepped":
                assert change.kind != level
                level = change.kind
            if change.kind == "behind":
                assert change.offset_ns < -500 * MS
            if change.kind == "old":
                assert change.offset_ns > 5 * S
            if change.kind == "normal":
                assert -500 * MS <= change.offset_ns <= 5 * S  # half a bound on the side from which it comes
        assert skew.level == level
