"""Stalls of symbols: on recordings, by examples, and by laws that hold for any stream."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.liveness import (
    ENOUGH,
    EVERY_NS,
    FACTOR,
    FIRST_NS,
    FLOOR_NS,
    MEMORY_NS,
    PARTS,
    QUIET_NS,
    WARM_UP_NS,
    Change,
    Recovered,
    Silent,
    Stalled,
    SymbolWatch,
)

DATA = Path(__file__).parent.parent / "data"
S = 1_000_000_000
MS = 1_000_000
BTC, ETH = "BTC/USDT", "ETH/USDT"


class Timeline:
    """A watch whose timer looks each 0.25 s, and what it has said."""

    def __init__(self, *symbols: str, begin: int = 0, **settings: int) -> None:
        self.watch = SymbolWatch(**settings)
        self.now = begin
        self.said: list[tuple[int, Change]] = []
        for symbol in symbols:
            self.watch.add(symbol, begin)

    def until(self, end: int, **streams: Iterable[int]) -> list[Change]:
        """Pass the time up to `end` (ns), noting `streams` (BTC=times); return what was said meanwhile."""
        before = len(self.said)
        messages = sorted((at, symbol) for symbol, times in streams.items() for at in times if self.now < at <= end)
        index = 0
        while self.now + EVERY_NS <= end:
            self.now += EVERY_NS
            while index < len(messages) and messages[index][0] <= self.now:
                self.watch.note(messages[index][1], messages[index][0])
                index += 1
            self.said += [(self.now, change) for change in self.watch.look(self.now)]
        return [change for _, change in self.said[before:]]

    def spend(self, ns: int, **pace_ns: int) -> list[Change]:
        """Let `ns` pass, with a message of each symbol every so often."""
        end = self.now + ns
        return self.until(end, **{symbol: range(self.now + pace, end + 1, pace) for symbol, pace in pace_ns.items()})


def received(name: str, symbol: str) -> list[int]:
    times: list[int] = []
    for kind in ("trades", "quotes"):
        table = pq.read_table(DATA / f"{name}_{kind}.parquet", columns=["symbol", "received"])
        times += table.filter(pa.compute.equal(table["symbol"], symbol))["received"].to_pylist()
    return sorted(times)


def play(times: Sequence[int], *, begin: int = 0, end: int | None = None, silent_until: int = 0) -> Timeline:
    """Watch a recording from its message `begin` to `end`, then go on in silence."""
    part = times[begin:end]
    line = Timeline("X", begin=part[0] - 1)
    line.until(max(part[-1], silent_until), X=part)
    return line


def test_a_day_of_a_quiet_symbol_has_no_stall_though_it_pauses_for_149_seconds() -> None:
    times = [ms * MS for ms in pq.read_table(DATA / "binance_20240723_nexo_heard.parquet")["received_ms"].to_pylist()]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert max(pauses) == pytest.approx(148.8 * S, rel=1e-2)
    line = play(times)
    assert line.said == []
    threshold = line.watch.threshold_ns("X")
    assert threshold is not None
    assert 2 * max(pauses) < threshold < FACTOR * max(pauses)  # its longest pauses are 10 h ago


@pytest.mark.parametrize("hours", [1, 8.4, 8.42, 13.7])
def test_a_quiet_symbol_that_is_mute_is_reported_in_a_few_of_its_pauses(hours: float) -> None:
    times = [ms * MS for ms in pq.read_table(DATA / "binance_20240723_nexo_heard.parquet")["received_ms"].to_pylist()]
    begin = bisect.bisect(times, times[0] + int(hours * 3600) * S)
    end = bisect.bisect(times, times[begin] + 3600 * S)
    line = play(times, begin=begin, end=end, silent_until=times[end - 1] + 900 * S)
    ((at, change),) = line.said
    assert isinstance(change, Stalled)
    assert at - times[end - 1] <= 450 * S


@pytest.mark.parametrize("symbol", [BTC, ETH])
@pytest.mark.parametrize("watched_s", [90, 120, 150])
def test_a_mute_stream_of_bitcoin_is_a_stall_in_two_seconds_seen_within_two_and_a_quarter(
    symbol: str, watched_s: int
) -> None:
    times = received("binance_20240808_spot", symbol)
    end = bisect.bisect(times, times[0] + watched_s * S)
    line = play(times, end=end, silent_until=times[end - 1] + 60 * S)
    ((at, change),) = line.said
    assert isinstance(change, Stalled)
    assert change.threshold_ns == 2 * S
    assert 2 * S <= at - times[end - 1] == change.silent_ns <= 2 * S + EVERY_NS
    assert change.detail.startswith("nothing came for 2")


def test_a_minute_is_enough_to_know_a_busy_stream_and_before_a_minute_of_silence_is_needed() -> None:
    cold, warm = Timeline(BTC), Timeline(BTC)
    cold.spend(WARM_UP_NS - S, **{BTC: 100 * MS})
    warm.spend(WARM_UP_NS + S, **{BTC: 100 * MS})
    assert (cold.watch.threshold_ns(BTC), warm.watch.threshold_ns(BTC)) == (WARM_UP_NS, 2 * S)
    (stalled,) = cold.spend(300 * S)
    assert isinstance(stalled, Stalled)
    assert WARM_UP_NS <= stalled.silent_ns <= WARM_UP_NS + EVERY_NS


def test_a_shorter_warm_up_can_be_asked_for() -> None:
    line = Timeline(BTC, warm_up_ns=6 * S)
    line.spend(7 * S, **{BTC: 100 * MS})
    assert line.watch.threshold_ns(BTC) == 2 * S


def test_a_burst_at_the_beginning_teaches_no_haste() -> None:
    line = Timeline("X")
    line.spend(45 * S, X=100 * MS)
    assert line.spend(55 * S) == []


def test_a_symbol_that_never_says_anything_is_silent_and_that_is_no_stall() -> None:
    line = Timeline("XYZ/USDT", BTC)
    said = line.spend(3_600 * S, **{BTC: 100 * MS})
    assert said == [Silent("XYZ/USDT", FIRST_NS, "nothing has come for 60 s: delisted, halted or very quiet")]
    assert line.watch.stalled == ()
    at = line.now
    assert line.spend(S, **{"XYZ/USDT": S, BTC: 100 * MS}) == [
        Recovered("XYZ/USDT", at + S, "heard again after 3601 s")
    ]
    assert line.spend(30 * S) != []  # Bitcoin; the other has said too little


def test_a_symbol_that_says_too_little_to_be_judged_is_reported_once_for_each_subscription() -> None:
    line = Timeline("X")
    line.spend(5 * S, X=S)
    (silent,) = line.spend(2 * QUIET_NS)
    assert isinstance(silent, Silent)
    assert silent.silent_ns == QUIET_NS
    (recovered,) = line.spend(S, X=S)
    assert isinstance(recovered, Recovered)
    assert line.spend(10 * QUIET_NS) == []
    line.watch.remove("X")
    line.watch.add("X", line.now)
    assert len(line.spend(10 * QUIET_NS)) == 1


def test_a_stall_is_said_once_and_its_end_once_with_all_that_was_missed() -> None:
    line = Timeline(BTC, ETH)
    line.spend(120 * S, **{BTC: 100 * MS, ETH: 100 * MS})
    last = line.now
    (stalled,) = line.spend(50 * S, **{ETH: 100 * MS})
    assert stalled == Stalled(
        BTC,
        2 * S,
        2 * S,
        "nothing came for 2 s; its longest pause of late was 0 s; 1 of 1 other symbols were heard since",
    )
    assert list(line.watch.stalled) == [BTC]
    assert not line.watch.all_silent
    assert line.spend(S, **{BTC: S, ETH: 100 * MS}) == [
        Recovered(BTC, line.now - last, f"heard again after {(line.now - last) / 1e9:.3g} s")
    ]
    assert line.watch.stalled == ()


def test_when_all_that_are_known_are_mute_each_is_reported_and_the_whole_too() -> None:
    line = Timeline(BTC, ETH, "NEW/USDT")
    line.spend(120 * S, **{BTC: 100 * MS, ETH: 100 * MS})
    assert not line.watch.all_silent
    said = line.spend(3 * S)
    assert [change.symbol for change in said] == [BTC, ETH]
    assert all(change.detail.endswith("0 of 2 other symbols were heard since") for change in said)
    assert line.watch.all_silent


def test_a_watch_of_nothing_is_not_silent() -> None:
    line = Timeline()
    assert line.spend(10 * S) == []
    assert not line.watch.all_silent


def test_two_stalls_in_a_row_are_noticed_equally_soon() -> None:
    line = Timeline(BTC)
    for _ in range(2):
        line.spend(120 * S, **{BTC: 100 * MS})
        (stalled,) = line.spend(30 * S)
        assert isinstance(stalled, Stalled)
        assert stalled.silent_ns == 2 * S


def test_a_market_that_changes_its_pace_at_once_gives_a_few_alarms_and_no_storm() -> None:
    line = Timeline("X")
    line.spend(1_200 * S, X=20 * MS)
    said = line.spend(7_200 * S, X=31 * S)
    assert [type(change) for change in said] == [Stalled, Recovered] * (len(said) // 2)
    assert 2 <= len(said) // 2 <= 5
    assert line.said[-1][0] < 1_400 * S


def test_a_market_that_gets_busy_again_is_watched_closely_again_within_the_memory() -> None:
    line = Timeline("X")
    line.spend(7_200 * S, X=20 * S)
    assert (line.watch.threshold_ns("X") or 0) > 50 * S
    line.spend(MEMORY_NS + 120 * S, X=100 * MS)
    assert line.watch.threshold_ns("X") == 2 * S


def warm(*symbols: str) -> Timeline:
    line = Timeline(*symbols)
    line.spend(120 * S, **dict.fromkeys(symbols, 100 * MS))
    return line


def test_nothing_stalls_while_the_connection_is_down_nor_for_a_threshold_after() -> None:
    line = warm(BTC)
    line.watch.hold(line.now)
    assert line.spend(300 * S) == []
    line.watch.reset(line.now)
    assert line.spend(2 * S - EVERY_NS) == []
    (stalled,) = line.spend(EVERY_NS)
    assert isinstance(stalled, Stalled)
    assert stalled.silent_ns == 2 * S


def test_an_outage_teaches_nothing() -> None:
    line = warm(BTC)
    line.watch.hold(line.now)
    line.spend(300 * S)
    line.watch.reset(line.now)
    line.spend(60 * S, **{BTC: 100 * MS})
    assert line.watch.threshold_ns(BTC) == 2 * S


def test_a_stall_outlives_a_reset_and_ends_with_the_first_message() -> None:
    line = warm(BTC)
    assert len(line.spend(3 * S)) == 1
    line.watch.reset(line.now)
    assert line.spend(30 * S) == []
    (recovered,) = line.spend(S, **{BTC: 500 * MS})
    assert isinstance(recovered, Recovered)
    assert line.watch.stalled == ()


def test_a_silence_that_was_begun_goes_on_where_reading_was_held() -> None:
    line = warm(BTC)
    line.spend(S)
    line.watch.hold(line.now)
    line.spend(20 * S)
    line.watch.resume(line.now)
    assert line.spend(S - EVERY_NS) == []
    (stalled,) = line.spend(EVERY_NS)
    assert isinstance(stalled, Stalled)
    assert stalled.silent_ns == 2 * S


def test_a_late_timer_proves_nothing() -> None:
    line = warm(BTC)
    line.now += 30 * S  # the loop was held: what came meanwhile is not read yet
    assert line.watch.look(line.now) == []
    line.watch.note(BTC, line.now + 1)
    assert line.spend(S, **{BTC: 100 * MS}) == []


def test_what_comes_of_a_symbol_that_was_removed_is_forgotten() -> None:
    line = warm(BTC, ETH)
    line.watch.remove(BTC)
    for index in range(1_000):
        line.watch.note(f"{index}/USDT", line.now + 1)
    line.watch.note(BTC, line.now + 1)
    assert [change.symbol for change in line.spend(10 * S)] == [ETH]
    assert line.watch.symbols == (ETH,)
    assert len(line.watch._heard) == 1
    assert line.watch.threshold_ns(BTC) is None


def test_memory_of_a_symbol_is_bounded() -> None:
    line = Timeline("X")
    line.spend(2 * MEMORY_NS, X=250 * MS)
    assert len(line.watch._symbols["X"].closed) == PARTS


@settings(max_examples=20)
@given(st.integers(20, 40_000), st.integers(0, 200), st.integers(0, 249))
def test_a_stream_whose_pauses_stay_within_bounds_never_stalls(pace_ms: int, jitter: int, phase_ms: int) -> None:
    """Up to a quarter more than its pace, for four hours or so of a slow one."""
    times, at, index = [], phase_ms * MS + 1, 0
    while index < 1_500 and at < 20_000 * S:
        times.append(at)
        index += 1
        at += pace_ms * MS * (1_000 + (index * 7919 + jitter) % 250) // 1_000
    line = Timeline("X")
    assert line.until(times[-1], X=times) == []


@settings(max_examples=30)
@given(st.integers(20, 20_000), st.integers(0, 249))
def test_a_stream_that_stops_is_reported_once_within_its_threshold_and_a_look(pace_ms: int, phase_ms: int) -> None:
    # Long enough to be warm: 200 looks with something new, and the pause outlived 60 times.
    length = max(WARM_UP_NS, ENOUGH * max(pace_ms * MS, EVERY_NS), 61 * pace_ms * MS) + 2 * S
    length -= length % EVERY_NS
    times = range(phase_ms * MS + 1, length, pace_ms * MS)
    line = Timeline("X")
    assert line.until(length, X=times) == []
    threshold = line.watch.threshold_ns("X")
    assert threshold is not None
    assert FLOOR_NS <= threshold <= max(FLOOR_NS, FACTOR * pace_ms * MS)
    line.spend(4 * threshold + 10 * S)
    ((at, change),) = line.said
    assert isinstance(change, Stalled)
    assert change.threshold_ns == threshold
    assert threshold <= at - times[-1] < threshold + EVERY_NS
    at_last = line.now + 1
    assert line.until(line.now + S, X=[at_last]) == [
        Recovered("X", at_last - times[-1], f"heard again after {(at_last - times[-1]) / 1e9:.3g} s")
    ]


@settings(max_examples=30)
@given(st.integers(20, 5_000), st.integers(1, 20))
def test_longer_pauses_never_make_a_shorter_threshold(pace_ms: int, times_longer: int) -> None:
    lines = [Timeline("X"), Timeline("X")]
    for line, pause in zip(lines, (pace_ms, pace_ms * times_longer), strict=True):
        line.spend(200 * S, X=200 * MS)
        line.until(line.now + 60 * S, X=range(line.now + pause * MS, line.now + 60 * S, pause * MS))
        line.spend(5 * S, X=200 * MS)
    short, long = (line.watch.threshold_ns("X") or 0 for line in lines)
    # What was reported on the way is forgiven, so only streams that were not are compared.
    if not any(line.said for line in lines):
        assert short <= long + FACTOR * EVERY_NS


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["hold", "resume", "reset", "add", "remove"]), st.just(0)),
        st.tuples(st.sampled_from(["spend", "speak"]), st.integers(1, 2_000)),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(STEPS)
def test_whatever_happens_stalls_and_recoveries_take_turns_and_nothing_is_said_while_held(
    steps: list[tuple[str, int]],
) -> None:
    lines = [Timeline(BTC, ETH, warm_up_ns=6 * S), Timeline(BTC, ETH, warm_up_ns=6 * S)]
    for line in lines:
        held, open_reports = False, {BTC: False, ETH: False}
        line.spend(10 * S, **{BTC: 100 * MS, ETH: 3 * S})
        for what, amount in steps:
            before = len(line.said)
            if what == "spend":
                line.spend(amount * 50 * MS)
            elif what == "speak":
                line.spend(min(amount, 100) * 100 * MS, **{BTC: 100 * MS})
            elif what == "add":
                line.watch.add(BTC, line.now)
            elif what == "remove":
                line.watch.remove(BTC)
                open_reports[BTC] = False
            else:
                held = what == "hold"
                getattr(line.watch, what)(line.now)
            assert not (held and len(line.said) > before)
            for _, change in line.said[before:]:
                assert isinstance(change, Recovered) == open_reports[change.symbol]
                open_reports[change.symbol] = not open_reports[change.symbol]
    assert lines[0].said == lines[1].said
