"""Eleven indicator columns over a block of ticks: tickfold beside TA-Lib's C functions, and beside talipp tick by tick.

The columns are those of the built-in view `technical`: RSI 14, 21, 50; MACD 12, 26, 9 with signal and histogram; Bollinger 20, 2
with three bands; SMA 20 and EMA 12 of volume. Outputs are compared within the bounds of the reference pages before anything is
measured: RSI and MACD 1e-7 absolute, averages 1e-9 relative, bands 1e-6 relative, from the 2,000th value on.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks import harness
from benchmarks.harness import Case, Run, require, require_close
from benchmarks.synthetic import Ticks, walk
from engine.ingress import TRADE
from store import compute
from store.builtin import resolve
from store.program import program_of
from store.ring import Lane

Floats = npt.NDArray[np.float64]
Outputs = dict[str, Floats]

SETTLED = 2_000
OSCILLATORS = ("rsi_14", "rsi_21", "rsi_50", "macd", "macd_signal", "macd_histogram")
BANDS = ("bollinger_upper", "bollinger_middle", "bollinger_lower")
AVERAGES = ("volume_sma_20", "volume_ema_12")
BOUNDS: dict[str, dict[str, float]] = {
    **{name: {"absolute": 1e-7} for name in OSCILLATORS},
    **{name: {"relative": 1e-6} for name in BANDS},
    **{name: {"relative": 1e-9} for name in AVERAGES},
}
COLUMNS = tuple(BOUNDS)


def check_same(who: str, ours: Outputs, theirs: Outputs, start: int = SETTLED) -> None:
    for name, bound in BOUNDS.items():
        require_close(f"{name} beside {who}", ours[name][start:], theirs[name][start:], **bound)


# -- tickfold


class Kernel:
    """The compiled block of the program, on memory that is there already."""

    def __init__(self, ticks: Ticks) -> None:
        self.program = program_of(resolve(("technical",)))
        count = len(ticks)
        self.count = count
        nothing = np.empty(0)
        self.columns = tuple(
            _read_only(column)
            for column in (
                np.full(count, TRADE, np.uint8), ticks.timestamp, ticks.received, np.arange(1, count + 1), ticks.price,
                ticks.volume, ticks.side, nothing, nothing,
            )
        )  # fmt: skip
        self.fresh = self.program.new_arena(1 << 20)
        self.rows = self.program.new_rows(count, 1)
        self.rows[self.program.header :] = 0.0  # touched, so that no page is given out while the clock runs
        self.header = self.rows[: self.program.header].copy()

    def prepare(self) -> Run:
        arena = self.fresh.copy()
        self.rows[: self.program.header] = self.header
        block, rows, columns, count = self.program.block, self.rows, self.columns, self.count
        return lambda: require(block(arena, rows, *columns, 0, count) == count, "the kernel stopped early")

    def outputs(self) -> Outputs:
        place = self.program.places["technical"]
        table = self.program.scope_rows(self.rows, place.scope)
        first = len(table) - len(place.columns)
        return {name: table[first + at, : self.count] for name, at in place.columns.items()}


class Stepped:
    """The same program called from Python with one tick at a time."""

    def __init__(self, ticks: Ticks) -> None:
        self.kernel = Kernel(ticks)
        self.lane: Lane | None = None

    def prepare(self) -> Run:
        count = self.kernel.count
        lane = self.lane = Lane(self.kernel.program, ("binance", "BTC/USDT"), 1, count, 1 << 20)
        block, arena, rows, columns = lane.program.block, lane.arena, lane.rows, self.kernel.columns

        def one_by_one() -> None:
            for at in range(count):
                block(arena, rows, *columns, at, at + 1)

        return one_by_one

    def outputs(self) -> Outputs:
        assert self.lane is not None
        place = self.kernel.program.places["technical"]
        values = self.lane.values("technical", self.kernel.count)
        return {name: values[at] for name, at in place.columns.items()}


class Compute:
    """`store.compute`, Arrow table in, Arrow table out."""

    def __init__(self, ticks: Ticks) -> None:
        self.table = ticks.table()
        self.result: pa.Table | None = None

    def prepare(self) -> Run:
        self.result = None

        def run() -> None:
            self.result = compute("technical", self.table)

        return run

    def outputs(self) -> Outputs:
        assert self.result is not None
        return {name: self.result[name].to_numpy() for name in COLUMNS}


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


# -- TA-Lib


class TALib:
    """TA-Lib's functions as its Python package offers them: each call makes its outputs."""

    def __init__(self, ticks: Ticks) -> None:
        self.price, self.volume = ticks.price, ticks.volume
        self.found: list[Any] = []

    def prepare(self) -> Run:
        import talib

        self.found = []
        price, volume = self.price, self.volume

        def run() -> None:
            self.found = [
                talib.RSI(price, 14),
                talib.RSI(price, 21),
                talib.RSI(price, 50),
                *talib.MACD(price, 12, 26, 9),
                *talib.BBANDS(price, 20, 2.0, 2.0),
                talib.SMA(volume, 20),
                talib.EMA(volume, 12),
            ]

        return run

    def outputs(self) -> Outputs:
        return dict(zip(COLUMNS, self.found, strict=True))


class TALibC:
    """The C functions themselves, called through ctypes on memory that is there already: nothing but their own work."""

    def __init__(self, ticks: Ticks) -> None:
        self.price, self.volume = ticks.price, ticks.volume
        self.count = len(ticks)
        self.functions = _talib_library()
        self.begins = [ctypes.c_int() for _ in range(7)]
        self.memory = np.zeros((len(COLUMNS), self.count))

    def prepare(self) -> Run:
        c, library, last, made = ctypes, self.functions, self.count - 1, ctypes.c_int()
        price, volume = (x.ctypes.data_as(c.c_void_p) for x in (self.price, self.volume))
        out = [row.ctypes.data_as(c.c_void_p) for row in self.memory]
        counts = [(c.byref(begin), c.byref(made)) for begin in self.begins]
        two = c.c_double(2.0)
        calls: list[tuple[Callable[..., int], tuple[Any, ...]]] = [
            (library.TA_RSI, (0, last, price, 14, *counts[0], out[0])),
            (library.TA_RSI, (0, last, price, 21, *counts[1], out[1])),
            (library.TA_RSI, (0, last, price, 50, *counts[2], out[2])),
            (library.TA_MACD, (0, last, price, 12, 26, 9, *counts[3], *out[3:6])),
            (library.TA_BBANDS, (0, last, price, 20, two, two, 0, *counts[4], *out[6:9])),
            (library.TA_SMA, (0, last, volume, 20, *counts[5], out[9])),
            (library.TA_EMA, (0, last, volume, 12, *counts[6], out[10])),
        ]

        def run() -> None:
            for function, given in calls:
                require(function(*given) == 0, "a function of TA-Lib failed")

        return run

    def outputs(self) -> Outputs:
        """The C functions begin to write at their first defined value, so each row is moved to where it belongs."""
        function = [0, 1, 2, 3, 3, 3, 4, 4, 4, 5, 6]
        found = {}
        for at, name in enumerate(COLUMNS):
            begin = self.begins[function[at]].value
            found[name] = np.concatenate([np.full(begin, math.nan), self.memory[at, : self.count - begin]])
        return found


def _talib_library() -> ctypes.CDLL:
    """Return the C library that the Python package brings along, initialised by its import."""
    import talib  # noqa: F401 - loads and initialises it

    spec = util.find_spec("talib")
    assert spec is not None
    assert spec.origin is not None
    found = sorted((Path(spec.origin).parents[1] / "ta_lib.libs").glob("libta-lib*"))
    require(found, "expected the C library of TA-Lib beside its Python package, in ta_lib.libs")
    return ctypes.CDLL(str(found[0]))


# -- talipp


class Talipp:
    """talipp's incremental objects, one `add` an indicator and tick."""

    def __init__(self, ticks: Ticks) -> None:
        self.price, self.volume = ticks.price.tolist(), ticks.volume.tolist()
        self.objects: list[Any] = []

    def prepare(self) -> Run:
        from talipp.indicators import BB, EMA, MACD, RSI, SMA

        on_price = [RSI(14), RSI(21), RSI(50), MACD(12, 26, 9), BB(20, 2.0)]
        on_volume = [SMA(20), EMA(12)]
        self.objects = [*on_price, *on_volume]
        price_adds, volume_adds = [x.add for x in on_price], [x.add for x in on_volume]

        def run() -> None:
            for price, volume in zip(self.price, self.volume, strict=True):
                for add in price_adds:
                    add(price)
                for add in volume_adds:
                    add(volume)

        return run

    def outputs(self) -> Outputs:
        *rsi, macd, bands, sma, ema = self.objects
        columns = [
            *rsi,
            *([getattr(x, part, None) for x in macd] for part in ("macd", "signal", "histogram")),
            *([getattr(x, part, None) for x in bands] for part in ("ub", "cb", "lb")),
            sma,
            ema,
        ]
        return {name: np.array(list(column), float) for name, column in zip(COLUMNS, columns, strict=True)}


# -- the benchmark


def main() -> int:
    options = harness.arguments(__doc__)
    count, few, repetitions = (200_000, 5_000, 5) if options.quick else (1_000_000, 20_000, 31)
    report = harness.Report(
        "bench_indicators", f"Eleven columns of `technical` over {count:,} ticks of one symbol, one thread.", options
    )
    ticks = walk(count)
    start = ticks.head(few)
    kernel, whole, talib, talib_c = Kernel(ticks), Compute(ticks), TALib(ticks), TALibC(ticks)
    stepped = Stepped(start)
    has_talipp = util.find_spec("talipp") is not None
    talipp = Talipp(start) if has_talipp else None

    harness.say("comparing outputs")
    for prepare in (x.prepare for x in (kernel, whole, talib, talib_c, stepped)):
        prepare()()
    if talipp:
        talipp.prepare()()
    check_same("TA-Lib (Python)", kernel.outputs(), talib.outputs())
    check_same("TA-Lib (C)", kernel.outputs(), talib_c.outputs())
    for name in COLUMNS:
        column = kernel.outputs()[name]
        require(
            np.array_equal(column, whole.outputs()[name], equal_nan=True), f"{name}: compute differs from the kernel"
        )
        require(
            np.array_equal(column[:few], stepped.outputs()[name], equal_nan=True),
            f"{name}: tick by tick differs from a block",
        )
    if talipp:
        check_same("talipp", stepped.outputs(), talipp.outputs())

    cases = [
        Case("kernel, preallocated", count, kernel.prepare),
        Case("TA-Lib C functions, preallocated", count, talib_c.prepare),
        Case("compute, Arrow to Arrow", count, whole.prepare),
        Case("TA-Lib from Python", count, talib.prepare),
        Case("program tick by tick from Python", few, stepped.prepare),
        *([Case("talipp tick by tick", few, talipp.prepare)] if talipp else []),
    ]
    found = harness.interleaved(cases, repetitions)
    report.add(*(harness.rate_line(case.name, found[case.name], unit="ns CPU a row") for case in cases))
    ours, c = found["kernel, preallocated"], found["TA-Lib C functions, preallocated"]
    python, arrow = found["TA-Lib from Python"], found["compute, Arrow to Arrow"]
    report.add(
        harness.ratio_line("kernel beside TA-Lib C functions, both preallocated", c, ours, 1.0),
        harness.ratio_line("kernel beside TA-Lib from Python", python, ours),
        harness.ratio_line("compute beside TA-Lib from Python", python, arrow, 0.5),
        harness.ratio_line("compute beside TA-Lib C functions", c, arrow),
    )
    if talipp:
        slow = found["talipp tick by tick"]
        report.add(
            harness.ratio_line("kernel beside talipp", slow, ours, 500.0),
            harness.ratio_line("compute beside talipp", slow, arrow),
            harness.ratio_line(
                "program tick by tick from Python beside talipp", slow, found["program tick by tick from Python"]
            ),
        )
    else:
        report.note("talipp is not installed here: `make bench` installs it into .venv-bench.")
    report.note(
        "kernel: `Program.block` over numpy columns, rows already in memory; also writes timestamp, received and sequence of each row."
    )
    report.note(
        "TA-Lib C functions: TA_RSI x3, TA_MACD, TA_BBANDS, TA_SMA, TA_EMA one after the other through ctypes, outputs already in memory."
    )
    report.note(
        "compute: the table's columns checked, each tick judged by the ingress (ids, prices, times), folded, put out as an Arrow table."
    )
    report.note("TA-Lib from Python: the talib package on numpy columns; it makes and fills its outputs at each call.")
    report.note(
        f"talipp and the program tick by tick: {few:,} ticks, one at a time from Python; the other lines take the whole block in a call."
    )
    return report.finish()


if __name__ == "__main__":
    harness.run(main)
