"""Laws of every program of feature views: the built-in ones, and views that hypothesis makes up.

The same rows come out to the last bit however the input is cut, wherever the state was copied, and with or without a compiler.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.indicator import Call, Field, Node, Value, before, indicator
from engine.indicators import (
    difference,
    ema,
    highest,
    lowest,
    price_change,
    product,
    ratio,
    rsi,
    sma,
    total,
)
from store import FeatureView, compute
from store.builtin import builtin_views
from store.program import Program
from tests.brute_force import (
    SECOND,
    SECOND_BARS,
    START,
    TRADE,
    Columns,
    Folded,
    expected_rows,
    first_difference,
    fold,
    ltc_trades,
    markets,
    numbers,
    of_symbol,
    oldest,
    recorded_columns,
    same_bits,
    spot_quotes,
    spot_trades,
    trade_columns,
)

ROOT = Path(__file__).parents[2]
NAN = math.nan
EVERY_TICK = ("market", "technical", "derived")


@cache
def built_in() -> Program:
    """All built-in views in one program, as the daemon has them."""
    return Program(tuple(builtin_views().values()))


def part(columns: Columns, start: int, stop: int | None = None) -> Columns:
    return tuple(column[start:stop] for column in columns)


def trades_of(table: pa.Table) -> Columns:
    """Input rows of a table of one key."""
    return trade_columns(
        numbers(table, "price"),
        volume=numbers(table, "volume"),
        side=numbers(table, "side"),
        timestamp=numbers(table, "timestamp"),
        received=numbers(table, "received"),
    )


@cache
def recorded() -> Columns:
    """BTC/USDT with its quotes: 3,216 trades in three minutes."""
    return recorded_columns("BTC/USDT", 6_000)


@cache
def thin() -> Columns:
    """LTC/USDT: 4,000 trades in 95 minutes, so that every window is filled."""
    return trades_of(ltc_trades())


# However the input is cut -----------------------------------------------------------------------------------------------------


def assert_same(program: Program, found: Folded, expected: Folded) -> None:
    assert not (said := found.difference(expected)), said
    assert [*program.canonical(found.arena)] == [*program.canonical(expected.arena)], (
        "the rows are equal, the state is not"
    )


def assert_laws(
    program: Program, columns: Columns, cuts: Iterator[int] | tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    """Blocks of any length, a resumed copy, and a prefix, each against one fold of everything."""
    whole = fold(program, columns)
    for size in sizes:
        assert_same(program, fold(program, columns, block_rows=size), whole)
    for cut in cuts:
        head = fold(program, part(columns, 0, cut))
        snapshot = head.arena.copy()
        tail = fold(program, part(columns, cut), arena=head.arena)
        assert_same(program, head + tail, whole)
        assert head.arena.tobytes() == snapshot.tobytes(), "folding on from a copy left the original alone"
        for stamps, values, all_stamps, all_values in zip(
            head.stamps, head.values, whole.stamps, whole.values, strict=True
        ):
            count = stamps.shape[1]
            assert (stamps == all_stamps[:, :count]).all(), f"a prefix of {cut} inputs has other stamps"
            assert same_bits(values, all_values[:, :count]), f"a prefix of {cut} inputs has other values"


@pytest.mark.parametrize("size", [1, 7, 4_096])
@pytest.mark.parametrize("columns", [recorded, thin])
def test_built_in_views_have_the_same_bits_in_blocks_of_any_length(columns: Any, size: int) -> None:
    assert_laws(built_in(), columns(), (), (size,))


@pytest.mark.parametrize("cut", [0, 1, 19, 1_000, 2_777, 3_999])
@pytest.mark.parametrize("columns", [recorded, thin])
def test_built_in_views_resumed_from_a_copied_arena_have_the_same_bits(columns: Any, cut: int) -> None:
    assert_laws(built_in(), columns(), (cut,), ())


@settings(max_examples=80, deadline=None)
@given(columns=markets(most=90), data=st.data())
def test_built_in_views_keep_the_laws_on_any_ticks(columns: Columns, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(columns[0])))
    assert_laws(built_in(), columns, (cut,), (1, 7))


@pytest.mark.parametrize("views", [EVERY_TICK, SECOND_BARS], ids=["ticks", "bars"])
def test_keys_folded_together_or_apart_have_the_same_rows(views: tuple[str | FeatureView, ...]) -> None:
    together = compute(views, spot_trades(), spot_quotes())
    assert together.num_rows > 100
    for symbol in ("BTC/USDT", "ETH/USDT"):
        apart = compute(views, of_symbol(spot_trades(), symbol), of_symbol(spot_quotes(), symbol))
        mine = of_symbol(together, symbol)
        assert mine.select(range(4)).equals(apart.select(range(4)))
        for name in apart.column_names[4:]:
            assert same_bits(numbers(mine, name), numbers(apart, name)), name


@pytest.mark.parametrize("count", [1, 50, 2_500])
def test_a_prefix_of_the_table_gives_a_prefix_of_the_rows(count: int) -> None:
    everything = compute(EVERY_TICK, spot_trades(), spot_quotes())
    # What was received later than the prefix is not there yet.
    known = pc.less_equal(spot_quotes()["received"], spot_trades()["received"][count - 1])
    found = compute(EVERY_TICK, spot_trades().slice(0, count), spot_quotes().filter(known))
    assert found.num_rows == count
    for name in found.column_names[4:]:
        assert same_bits(numbers(found, name), numbers(everything.slice(0, count), name)), name


def test_compute_has_the_bits_of_the_program_that_the_daemon_runs() -> None:
    daemon = fold(built_in(), recorded())
    table = of_symbol(compute(EVERY_TICK, spot_trades(), spot_quotes()), "BTC/USDT")
    for view in EVERY_TICK:
        for name, values in zip(builtin_views()[view].features, daemon.view(built_in(), view), strict=True):
            assert same_bits(numbers(table, name), values), name


# With or without a compiler ---------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
import numpy as np
from store.builtin import builtin_views
from store.program import Program
from tests.brute_force import fold, recorded_columns
columns = recorded_columns("BTC/USDT", 2_000, every_quote=4)
found = fold(Program(tuple(builtin_views().values())), columns, block_rows=500)
np.savez(sys.argv[1], *columns, *found.stamps, *found.values)
"""


Running = dict[str, tuple[subprocess.Popen[str], Path]]
Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module", autouse=True)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Processes that fold the same ticks uncompiled, or check every index; they work while the other tests run.

    What is compiled with checks of indexes lies in a folder of its own, where the next run of the tests finds it.
    """
    started: Running = {}
    kept = getattr(request.config, "cache", None)
    for name, setting in {"uncompiled": "NUMBA_DISABLE_JIT", "bounds-checked": "NUMBA_BOUNDSCHECK"}.items():
        folder = tmp_path_factory.mktemp(name)
        place = str(folder if kept is None else kept.mkdir(f"tickfold-{name}"))
        environment = {**os.environ, setting: "1", "TICKFOLD_CACHE_DIR": place, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-W", "error", "-c", SCRIPT, str(folder / "found.npz")]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        started[name] = (process, folder / "found.npz")
    yield started
    for process, _ in started.values():
        if process.stderr is not None and not process.stderr.closed:  # nobody asked for its result
            process.kill()
            process.communicate()


@cache
def result_of(process: subprocess.Popen[str], path: Path) -> Arrays:
    """What one of them found."""
    _, said = process.communicate()
    assert process.returncode == 0, said
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("way", ["uncompiled", "bounds-checked"])
def test_the_program_gives_the_same_bits_uncompiled_and_bounds_checked(way: str, running: Running) -> None:
    columns = recorded_columns("BTC/USDT", 2_000, every_quote=4)
    found = fold(built_in(), columns)
    expected = [*columns, *found.stamps, *found.values]
    assert found.stamps[0].shape[1] == 2_000
    assert found.grew > 0, "windows were to outgrow their first memory"
    others = list(result_of(*running[way]).values())
    assert len(others) == len(expected)
    for number, (other, mine) in enumerate(zip(others, expected, strict=True)):
        assert other.dtype == mine.dtype
        assert not (said := first_difference(other, mine)), f"array {number}: {said}"
        if mine.dtype == np.float64:
            assert same_bits(other, mine)
        else:
            assert (other == mine).all()


# Integers ---------------------------------------------------------------------------------------------------------------------

EDGES = FeatureView(
    "edges",
    {
        "count_3ns": total(ratio("volume", "volume"), "3ns"),
        "sum_1s": total("volume", "1s"),
        "sum_10s": total("volume", "10s"),
        "highest_1s": highest("price", "1s"),
        "before_1s": before("price", "1s"),
        "before_10s": before("price", "10s"),
    },
)
"""Windows of time only, over values that are integers in the tests, so that their sums are exact in any order."""


@cache
def edges() -> Program:
    return Program((EDGES,))


@pytest.mark.parametrize("base", [2**53 + 1, 2**62 + 1])
def test_times_and_sequences_are_exact_integers_beyond_2_to_the_53(base: int) -> None:
    count = 40
    timestamp = [base + i for i in range(count)]
    received = [base + 2 * i + 1 for i in range(count)]
    sequence = [base + 3 * i for i in range(count)]
    columns = trade_columns([1.0] * count, timestamp=timestamp, received=received, sequence=sequence)
    found = fold(edges(), columns, block_rows=7)
    assert found.stamps[0].tolist() == [timestamp, received, sequence]
    assert found.view(edges(), "edges")[0].tolist() == [1.0, 2.0, *[3.0] * (count - 2)]


def test_an_arena_keeps_integers_as_integers_in_its_canonical_bytes() -> None:
    program = edges()
    # As a float64 the bytes of these times are NaN; a snapshot that took them for floats would lose them.
    nan_like = int(np.array([NAN]).view(np.int64)[0])
    times = [nan_like + 1, nan_like + 3]
    arenas = [fold(program, trade_columns([1.0], timestamp=[time])).arena for time in times]
    assert [*program.canonical(arenas[0])] != [*program.canonical(arenas[1])]


# Warm-up and readiness --------------------------------------------------------------------------------------------------------

FIRST_DEFINED = {
    "rsi_14": 14,
    "rsi_21": 21,
    "rsi_50": 50,
    "macd": 25,
    "macd_signal": 33,
    "macd_histogram": 33,
    "bollinger_upper": 19,
    "bollinger_middle": 19,
    "bollinger_lower": 19,
    "volume_sma_20": 19,
    "volume_ema_12": 11,
    "volume_ratio": 19,
    "volatility_index": 1,
    "support_15m": 0,
    "resistance_15m": 0,
    "vwap_1m": 0,
    "trade_imbalance_1m": 0,
}


@pytest.mark.parametrize("view", ["technical", "technical_1s", "technical_1m", "derived"])
def test_a_feature_is_undefined_exactly_until_it_has_seen_what_it_needs(view: str) -> None:
    found = fold(built_in(), thin())
    times = found.stamps_of(built_in(), view)[0]
    for name, values in zip(builtin_views()[view].features, found.view(built_in(), view), strict=True):
        if name.startswith("price_change_"):
            minutes = int(name.removeprefix("price_change_").removesuffix("m"))
            first = int(np.argmax(times - times[0] >= minutes * 60 * SECOND))
        else:
            first = FIRST_DEFINED[name]
        assert np.isnan(values[:first]).all(), f"{name} is defined before row {first}"
        assert np.isfinite(values[first:]).all(), f"{name} is undefined after row {first}"


def test_market_is_undefined_and_not_ready_until_the_first_quote() -> None:
    price = [100.0, 99.0, 98.0, 97.0]
    columns = trade_columns(price, action=[1, 1, 2, 1], ask=[NAN, NAN, 99.0, NAN], ask_volume=[NAN, NAN, 3.0, NAN])
    found = fold(built_in(), columns)
    values = dict(zip(builtin_views()["market"].features, found.view(built_in(), "market"), strict=True))
    assert values["price"].tolist() == [100.0, 99.0, 97.0]
    for name in ("bid", "ask", "mid", "spread_bps", "imbalance"):
        assert np.isnan(values[name][:2]).all(), name
        assert np.isfinite(values[name][2]), name
    assert found.ready_from(built_in(), "market") == 2


def test_views_are_ready_once_every_feature_of_theirs_has_warmed_up() -> None:
    found = fold(built_in(), thin())
    for view in ("technical", "technical_1s", "technical_1m"):
        assert found.ready_from(built_in(), view) == 50, f"{view}: rsi_50 needs 51 values"
    times = found.stamps_of(built_in(), "derived")[0]
    assert found.ready_from(built_in(), "derived") == np.argmax(times - times[0] >= 900 * SECOND)
    assert found.ready_from(built_in(), "market") == -1, "there was no quote"


@pytest.mark.parametrize("view", builtin_views())
def test_a_row_that_is_ready_has_no_undefined_feature(view: str) -> None:
    columns = thin() if view != "market" else recorded()
    found = fold(built_in(), columns)
    first = found.ready_from(built_in(), view)
    assert first >= 0
    assert np.isfinite(found.view(built_in(), view)[:, first:]).all()


def test_readiness_once_reached_stays_where_it_was_reached() -> None:
    whole = fold(built_in(), thin())
    for count in (51, 1_000, 4_000):
        found = fold(built_in(), part(thin(), 0, count))
        assert found.ready_from(built_in(), "technical") == whole.ready_from(built_in(), "technical") == 50
    assert fold(built_in(), part(thin(), 0, 50)).ready_from(built_in(), "technical") == -1


# Memory of windows ------------------------------------------------------------------------------------------------------------


def crowded(seed: int, count: int) -> Columns:
    """Integer trades in bursts and lulls: some 10 s hold hundreds of them, some none."""
    random = np.random.default_rng(seed)
    lull = random.random(count) < 0.02
    # Whole milliseconds: a trade is often exactly as old as a window is long.
    steps = 1_000_000 * np.where(lull, random.integers(0, 12_000, count), random.integers(0, 25, count))
    steps[random.random(count) < 0.05] *= -1
    return trade_columns(
        random.integers(1, 1_000, count), volume=random.integers(1, 100, count), timestamp=START + np.cumsum(steps)
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_memory_that_grows_changes_no_bit(seed: int) -> None:
    columns = crowded(seed, 1_500)
    found = fold(edges(), columns)
    assert found.grew >= 1, "the fixture was to outgrow the first memory"
    assert found.overflows == []
    _, expected = expected_rows(EDGES, columns)
    assert not (said := first_difference(found.view(edges(), "edges"), expected)), said
    roomy = edges().new_arena(1 << 16)
    for _ in range(5):
        roomy = edges().grown(roomy, 0)
    enough = fold(edges(), columns, arena=roomy)
    assert enough.grew == 0
    assert not (said := found.difference(enough)), said


@pytest.mark.parametrize("limit", [1, 2, 127, 128, 1_000])
def test_a_window_holds_exactly_as_many_trades_as_its_limit_says(limit: int) -> None:
    columns = trade_columns([1.0] * (limit + 1), timestamp=[START] * (limit + 1))
    found = fold(edges(), columns, window_ticks_max=limit)
    sums = found.view(edges(), "edges")[EDGES_COLUMN["sum_1s"]]
    assert sums[:-1].tolist() == [i + 1.0 for i in range(limit)]
    assert math.isnan(sums[-1])
    assert sorted((row, span.text) for row, span in found.overflows) == [(limit, "10s"), (limit, "1s"), (limit, "3ns")]


EDGES_COLUMN = {name: at for at, name in enumerate(EDGES.features)}
WIDTHS = {"3ns": 3, "1s": SECOND, "10s": 10 * SECOND}
LIMIT = 127


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("block_rows", [1, 7, 5_000])
def test_an_outgrown_window_is_undefined_exactly_while_it_is_not_whole(seed: int, block_rows: int) -> None:
    columns = crowded(seed, 1_500)
    found = fold(edges(), columns, block_rows=block_rows, window_ticks_max=LIMIT)
    emitted, expected = expected_rows(EDGES, columns)
    times = [row.timestamp for row in emitted]
    reports: list[tuple[int, str]] = []
    for name, values, wanted in zip(EDGES.features, found.view(edges(), "edges"), expected, strict=True):
        text = "3ns" if name == "count_3ns" else name.split("_")[1]
        held = np.array([i - oldest(times, i, WIDTHS[text]) + 1 for i in range(len(times))])
        is_whole = held <= LIMIT
        assert not (said := first_difference(values, np.where(is_whole, wanted, NAN))), f"{name}: {said}"
        starts = np.flatnonzero(~is_whole & np.insert(is_whole[:-1], 0, True))
        reports += [(row, text) for row in starts.tolist()]
        if text == "10s":
            assert len(starts) >= 2, "the window was to outgrow its memory, recover and outgrow it again"
    assert sorted((row, span.text) for row, span in found.overflows) == sorted(set(reports))


def test_an_outgrown_window_of_time_is_not_reported_for_windows_of_ticks() -> None:
    view = FeatureView("mixed", {"time": total("price", "1m"), "ticks": total("price", 3)})
    program = Program((view,))
    found = fold(program, trade_columns([1.0] * 140, timestamp=[START] * 140), window_ticks_max=LIMIT)
    values = found.view(program, "mixed")
    assert values[1].tolist()[2:] == [3.0] * 138, "three ticks are three ticks"
    assert [(row, span.text) for row, span in found.overflows] == [(LIMIT, "1m")]


# Views that nobody thought of -------------------------------------------------------------------------------------------------


@indicator(state={"seen": 0.0, "last": NAN}, outputs=("seen", "step"), undefined=("other",), warm_up=2)
def count_and_step(
    seen: float, last: float, value: float, other: float, weight: float
) -> tuple[float, float, float, float]:
    """Two outputs, a state that begins undefined, an input that may be undefined."""
    seen += 1.0
    addition = 0.0 if math.isnan(other) else weight
    return seen, value, seen + addition, value - last


WINDOWS: tuple[int | str, ...] = (1, 2, 3, 7, 20, "1ns", "250ms", "3s", "1m")
CLOCKS = ("tick", "2s", "3 ticks", "40 volume", "2500 notional")


@st.composite
def exact_nodes(draw: st.DrawFn, fields: tuple[str, ...], depth: int) -> Node:
    """Nodes whose values are integers as long as the trades are, so that sums are exact in whatever order."""
    leaf = st.sampled_from(fields).map(Field)
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(leaf)
    inner = exact_nodes(fields, depth - 1)
    window = draw(st.sampled_from(WINDOWS))
    made: Node = draw(
        st.one_of(
            st.builds(difference, inner, inner),
            st.builds(product, leaf, leaf),
            *(st.builds(over, inner, st.just(window)) for over in (total, lowest, highest, before)),
        )
    )
    return made


@st.composite
def nodes(draw: st.DrawFn, fields: tuple[str, ...], depth: int) -> Node:
    """Any node: steps over windows over steps; but sums only over integers."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(exact_nodes(fields, 2))
    inner = nodes(fields, depth - 1)
    window = draw(st.sampled_from(WINDOWS))
    period = draw(st.integers(1, 9))
    made: Node = draw(
        st.one_of(
            st.builds(ratio, inner, inner),
            st.builds(lambda a, b: count_and_step(a, b, float(period))[0], inner, inner),
            st.builds(lambda a, b: count_and_step(a, b, float(period))[1], inner, inner),
            inner.map(lambda node: ema(node, period)),
            inner.map(lambda node: rsi(node, period)),
            inner.map(lambda node: price_change(node, window)),
            exact_nodes(fields, 1).map(lambda node: sma(node, period)),
            *(st.builds(over, inner, st.just(window)) for over in (lowest, highest, before)),
        )
    )
    return made


TICK = ("price", "volume", "side", "bid", "ask_volume")
BAR = ("price", "volume", "open", "high", "low", "trades", "notional", "buy_volume", "bid")


@st.composite
def view_sets(draw: st.DrawFn) -> tuple[FeatureView, ...]:
    """Views on one or two clocks, and a second view on the first of them."""
    clocks = draw(st.lists(st.sampled_from(CLOCKS), min_size=1, max_size=2, unique=True))
    views = []
    for number, clock in enumerate([*clocks, clocks[0]]):
        found = draw(st.lists(nodes(TICK if clock == "tick" else BAR, 2), min_size=1, max_size=3))
        features: dict[str, Value] = {f"f{at}": node for at, node in enumerate(found)}
        views.append(FeatureView(f"view_{number}", features, clock=clock))
    return tuple(views)


def integer_market(seed: int, count: int = 160) -> Columns:
    """Trades and quotes of small integers, in bursts, steps back and gaps, some rows passed over."""
    random = np.random.default_rng(seed)
    steps = random.choice([0, 0, 1, 125_000_000, 250_000_000, SECOND, 3 * SECOND, 61 * SECOND, -SECOND], count)
    steps = np.where(random.random(count) < 0.5, steps, random.integers(0, SECOND // 2, count))
    timestamp = START + np.cumsum(steps)
    return trade_columns(
        random.integers(1, 60, count),
        volume=random.integers(1, 20, count),
        side=random.integers(-1, 2, count),
        timestamp=timestamp,
        received=np.maximum.accumulate(timestamp) + SECOND,
        sequence=2**60 + np.cumsum(random.integers(1, 4, count)),
        action=random.choice([TRADE, TRADE, TRADE, 2, 0], count),
        ask=random.integers(1, 60, count),
        ask_volume=random.integers(1, 20, count),
    )


def expected_readiness(view: FeatureView, columns: Columns) -> int:
    """The first row at which each feature has seen its warm-up, -1 if there is none."""
    emitted, _ = expected_rows(view, columns)
    every = list(itertools.chain.from_iterable(walk(node) for node in view.nodes.values()))
    longest = max(getattr(node, "span").time_ns if hasattr(node, "span") else 0 for node in every)  # noqa: B009
    quotes = {node.name for node in every if isinstance(node, Field) and node.name in ("bid", "ask")}
    for number, row in enumerate(emitted):
        if (
            number + 1 >= max(node.warm_up() for node in view.nodes.values())
            and row.timestamp - emitted[0].timestamp >= longest
            and all(math.isfinite(row.fields[name]) for name in quotes)
        ):
            return number
    return -1


def walk(node: Node) -> Iterator[Node]:
    yield node
    for inner in node.parts():
        yield from walk(inner)


@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,  # each example is a compilation; the same ones each time are found in the cache
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(views=view_sets())
def test_any_views_equal_an_interpretation_of_their_graphs_and_keep_the_laws(views: tuple[FeatureView, ...]) -> None:
    program = Program(views)
    for seed in range(6):
        columns = integer_market(seed)
        found = fold(program, columns)
        for view in views:
            emitted, expected = expected_rows(view, columns)
            stamps = [[getattr(row, name) for row in emitted] for name in ("timestamp", "received", "sequence")]
            assert found.stamps_of(program, view.name).tolist() == stamps, f"{view.name} on {view.clock}"
            for name, values, wanted in zip(view.features, found.view(program, view.name), expected, strict=True):
                said = first_difference(values, wanted)
                assert not said, f"{view.name} on {view.clock}, {name} = {view.nodes[name]}: {said}"
            assert found.ready_from(program, view.name) == expected_readiness(view, columns)
        assert_laws(program, columns, (0, 1, 63, 159), (1, 7))


def test_made_up_views_reach_what_they_are_meant_to_test() -> None:
    # The strategy is only worth what it makes: over a few draws every clock, windows and steps occur.
    seen: set[str] = set()

    @settings(max_examples=25, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
    @given(views=view_sets())
    def look(views: tuple[FeatureView, ...]) -> None:
        for view in views:
            seen.add(str(view.ticking.kind))
            for node in view.nodes.values():
                for inner in walk(node):
                    seen.add(inner.indicator.name if isinstance(inner, Call) else type(inner).__name__)

    look()
    assert {"tick", "time", "ticks", "volume", "notional"} <= seen
    assert {"Windowed", "Before", "ema", "rsi", "ratio", "count_and_step", "relative_change"} <= seen
