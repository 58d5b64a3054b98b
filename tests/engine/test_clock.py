"""The live clock: anchored to UTC, and never turned back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import engine.clock
from engine.clock import LiveClock

UTC_NS = 1_723_161_255_000_000_000


class Machine:
    """A machine whose two clocks are moved by hand."""

    def __init__(self) -> None:
        self.wall, self.monotonic = UTC_NS, 5_000_000

    def passes(self, wall: int, monotonic: int) -> None:
        self.wall += wall
        self.monotonic += monotonic


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    clocks = SimpleNamespace(time_ns=lambda: made.wall, clock_gettime_ns=lambda _: made.monotonic)
    monkeypatch.setattr(engine.clock, "time", clocks)
    return made


def test_it_begins_with_utc_and_runs_with_the_monotonic_clock(machine: Machine) -> None:
    clock = LiveClock()
    assert clock.now() == UTC_NS
    machine.passes(wall=999, monotonic=250)
    assert clock.now() == UTC_NS + 250


def test_a_step_back_of_the_wall_clock_does_not_turn_it_back_and_is_said_as_skew(machine: Machine) -> None:
    clock = LiveClock()
    times = [clock.now()]
    for wall, monotonic in ((1_000, 1_000), (-3_600_000_000_000, 10), (5, 5), (7_200_000_000_000, 1)):
        machine.passes(wall, monotonic)
        times.append(clock.now())
        assert clock.skew_ns() == machine.wall - times[-1]
    assert times == sorted(times)
    assert times[-1] == UTC_NS + 1_016


def test_the_skew_is_none_as_long_as_both_clocks_agree(machine: Machine) -> None:
    clock = LiveClock()
    machine.passes(wall=123, monotonic=123)
    assert clock.skew_ns() == 0


def test_it_never_begins_before_the_last_time_of_an_earlier_run(machine: Machine) -> None:
    last = UTC_NS + 60_000_000_000
    clock = LiveClock(not_before=last)
    assert clock.now() == last
    machine.passes(wall=100, monotonic=100)
    assert clock.now() == last + 100
    assert clock.skew_ns() == -60_000_000_000


def test_an_earlier_run_that_ended_in_the_past_does_not_hold_it_back(machine: Machine) -> None:
    assert LiveClock(not_before=UTC_NS - 1).now() == UTC_NS


def test_the_real_one_never_decreases() -> None:
    clock = LiveClock()
    times = [clock.now() for _ in range(1000)]
    assert times == sorted(times)
