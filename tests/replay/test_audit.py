"""The audit: the real fold passes, and pipelines that look ahead are caught and named."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from engine.block import IS_QUOTE, IS_TRADE, Block, Keys
from engine.config import Config
from engine.errors import ReplayError
from engine.events import FeatureEvent, Signal, Tick
from engine.indicator import indicator
from engine.indicators import sma
from engine.models.settings import ModelConfig, ModelsConfig
from replay.audit import Audit, Pipeline, Stream, audit, audit_fold, fold_pipeline
from replay.driver import Selection
from replay.sources import open_source
from store.builtin import resolve
from store.schema import FeatureView
from strategies import Strategy, load
from tests.folding import BTC, LTC, QUOTES, SECOND, START, TRADES, VIEWS, block_of, quote, recorded, trade, trades

SOURCES = (QUOTES, TRADES)
EXAMPLES = ("moving_average_cross", "order_flow_imbalance")


def sources() -> list[Any]:
    return [open_source(path) for path in SOURCES]


def market(count: int = 400) -> Block:
    """Trades and quotes of one key, a tenth of a second apart."""
    random = np.random.Generator(np.random.PCG64(5))
    rows = []
    for i in range(count):
        make = quote if i % 2 else trade
        rows.append(make(at=i / 10.0, price=100.0 + float(random.normal()), ask=103.0 + float(random.normal())))
    return block_of(Keys(), rows)


def fold_of(*plugins: type[Strategy], views: tuple[FeatureView, ...] = VIEWS) -> Pipeline:
    keys = Keys()
    keys.code(BTC)
    return fold_pipeline(Config(), lambda: [kind() for kind in plugins], keys, views)


# What does not look ahead


@cache
def passing() -> Audit:
    selection = Selection(start=None, stop=1_723_161_314_000_000_000)  # a minute
    return audit_fold(Config(), lambda: [load(name) for name in EXAMPLES], sources, selection, cuts=4)


def test_the_fold_and_its_strategies_pass_on_recorded_trades_and_quotes() -> None:
    result = passing()
    assert result.passed, result.text()
    assert result.columns >= 2 * 50
    assert result.inputs > 5000
    assert result.rows > 1000
    assert result.text().startswith("nothing looks ahead: ")


def test_a_result_can_be_written_as_json_and_says_all() -> None:
    result = passing()
    said = json.loads(json.dumps(result.to_builtins()))
    assert {name: said[name] for name in ("passed", "offender", "cuts", "columns")} == {
        "passed": True, "offender": None, "cuts": 4, "columns": result.columns,
    }  # fmt: skip
    assert {(found["view"], found["column"]) for found in said["warm_up"]} >= {
        ("market", "price"),
        ("derived", "vwap_1m"),
    }


def test_the_signals_of_strategies_are_among_what_is_compared() -> None:
    selection = Selection(stop=1_723_161_260_000_000_000)
    with_signals = audit_fold(Config(), lambda: [load(name) for name in EXAMPLES], sources, selection, cuts=1)
    without = audit_fold(Config(), list, sources, selection, cuts=1)
    assert with_signals.streams > without.streams


# (a) Joining by the exchange's time


def joined_by(column: str) -> Pipeline:
    """A pipeline that gives each trade the newest quote by `timestamp`, or by `received`."""

    def run(block: Block) -> Mapping[str, Stream]:
        times = getattr(block, column)
        is_quote = block.kind == IS_QUOTE
        order = np.argsort(times[is_quote], kind="stable")
        bids = np.append(np.nan, block.price[is_quote][order])
        found = np.searchsorted(times[is_quote][order], times[~is_quote], side="right")
        return {"joined": Stream(("bid",), block.received[~is_quote], bids[found][np.newaxis])}

    return run


def ahead(by_ns: int) -> Block:
    """A market in which a quote reaches us later than the exchange's clock says, while trades do not."""
    block = market()
    received = block.received + np.where(block.kind == IS_QUOTE, by_ns, 0)
    order = np.argsort(received, kind="stable")
    return msgspec.structs.replace(block, received=received).take(order)


def test_a_join_by_timestamp_is_caught_and_named_where_quotes_arrive_later_than_they_are_stamped() -> None:
    result = audit(joined_by("timestamp"), ahead(SECOND), cuts=5)
    assert result.offender is not None
    assert (result.offender.stream, result.offender.column) == ("joined", "bid")
    assert result.offender.recorded != result.offender.altered
    assert result.offender.received <= result.offender.cut
    assert result.text().startswith("LOOKS AHEAD: joined: bid of row ")


def test_a_join_by_timestamp_is_caught_on_a_recording_whose_trades_are_stamped_after_they_were_received() -> None:
    _, block = recorded()
    (only,) = {0} & set(block.key.tolist())
    result = audit(joined_by("timestamp"), block.take(block.key == only), cuts=5)
    assert result.offender is not None
    assert (result.offender.stream, result.offender.column) == ("joined", "bid")


def test_the_same_join_by_received_passes() -> None:
    assert audit(joined_by("received"), ahead(SECOND), cuts=10).passed


# (b) A step that reads a table of the future


def peeking(table: tuple[float, ...], ahead_by: int) -> FeatureView:
    """A view whose step reads what it is given beforehand, so many rows ahead."""

    @indicator(state={"count": 0.0})
    def peek(count: float, price: float) -> tuple[float, float]:
        place = min(int(count) + ahead_by, len(table) - 1)
        return count + 1.0, table[place] + 0.0 * price

    return FeatureView("peek", {"own": sma("price", 2), "next_price": peek("price")})


def precomputed(ahead_by: int) -> Pipeline:
    def run(block: Block) -> Mapping[str, Stream]:
        table = tuple(block.price[block.kind == IS_TRADE].tolist())
        return fold_of(views=(peeking(table, ahead_by),))(block)

    return run


def test_a_step_that_reads_a_precomputed_table_at_the_next_row_is_caught_and_named() -> None:
    result = audit(precomputed(1), block_of(Keys(), trades(40)), cuts=2)
    assert result.offender is not None
    assert (result.offender.stream, result.offender.column) == ("peek x BTC/USDT", "next_price")
    assert "peek x BTC/USDT: next_price of row " in result.text()


def test_a_step_that_reads_its_table_at_its_own_row_passes() -> None:
    assert audit(precomputed(0), block_of(Keys(), trades(40)), cuts=1).passed


# (c) A strategy that remembers the last run

REMEMBERED: dict[int, float] = {}


class Clairvoyant(Strategy):
    """Knows the next price from the run before, and keeps it where no new instance forgets it."""

    subscribes: ClassVar[list[str | type]] = [Tick]
    last: int = 0

    def on_tick(self, event: Tick) -> Iterator[Signal]:
        known = REMEMBERED.get(event.timestamp)
        if self.last:
            REMEMBERED.setdefault(self.last, event.price)
        self.last = event.timestamp
        if known is not None:
            yield self.signal(event, math.copysign(1.0, known - event.price))


class Honest(Strategy):
    """Signals on what it hears."""

    subscribes: ClassVar[list[str | type]] = ["quick", Tick]

    def on_tick(self, event: Tick) -> Iterator[Signal]:
        yield self.signal(event, event.price)

    def on_features(self, event: FeatureEvent) -> Iterator[Signal]:
        yield self.signal(event, event["mean_3"])


def test_a_strategy_that_remembers_the_future_of_the_run_before_is_caught_and_named() -> None:
    REMEMBERED.clear()
    result = audit(fold_of(Honest, Clairvoyant), market(), cuts=3)
    assert result.offender is not None
    assert result.offender.stream == "signals of clairvoyant x BTC/USDT"
    assert "LOOKS AHEAD: signals of clairvoyant x BTC/USDT: " in result.text()


def test_the_honest_one_beside_it_passes() -> None:
    assert audit(fold_of(Honest), market(), cuts=3).passed


class Borrowing(Strategy):
    """Reads the store as of a time that has not come."""

    subscribes: ClassVar[list[str | type]] = [Tick]

    def on_tick(self, event: Tick) -> Iterator[Signal]:
        row = self.features.as_of("quick", event.exchange, event.symbol, event.timestamp + 60 * SECOND)
        yield self.signal(event, row["price"])


def test_the_online_store_gives_no_future_to_a_strategy_that_asks_for_it() -> None:
    assert audit(fold_of(Borrowing), market(), cuts=5).passed


# Other ways of knowing too much


def shown(name: str, values: Any) -> Pipeline:
    return lambda block: {name: Stream((name,), block.received, np.atleast_2d(values(block)))}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("scaled_by_the_mean_of_all", lambda block: block.price / block.price.mean()),
        ("next", lambda block: np.append(block.price[1:], np.nan)),
        ("count_of_all", lambda block: np.full(len(block), float(len(block)))),
        ("filled_backwards", lambda block: np.minimum.accumulate(block.price[::-1])[::-1]),
        ("centred", lambda block: np.convolve(block.price, [0.25, 0.5, 0.25], "same")),
    ],
)
def test_the_usual_ways_of_looking_ahead_are_caught_and_named(name: str, values: Any) -> None:
    result = audit(shown(name, values), market(), cuts=10)
    assert result.offender is not None
    assert (result.offender.stream, result.offender.column) == (name, name)


@pytest.mark.parametrize(
    ("name", "values"),
    [("price", lambda block: block.price), ("highest_so_far", lambda block: np.maximum.accumulate(block.price)), ("undefined", lambda block: block.price * np.nan)],
)  # fmt: skip
def test_what_only_knows_the_past_passes(name: str, values: Any) -> None:
    assert audit(shown(name, values), market(), cuts=10).passed


def test_a_row_that_appears_only_because_of_the_future_is_caught() -> None:
    def run(block: Block) -> Mapping[str, Stream]:
        best = block.received[[int(np.argmax(block.price))]]
        return {"top": Stream(("at",), best, np.ones((1, 1)))}

    result = audit(run, market(), cuts=10)
    assert result.offender is not None
    assert result.offender.stream == "top"
    assert None in (result.offender.recorded, result.offender.altered) or result.offender.column == "at"


def test_the_same_seed_cuts_at_the_same_places_and_progress_hears_of_each() -> None:
    def moments(seed: int) -> list[int]:
        seen: list[int] = []

        def run(block: Block) -> Mapping[str, Stream]:
            seen.append(len(block))
            return {"p": Stream(("p",), block.received, block.price[np.newaxis])}

        assert audit(run, market(), cuts=6, seed=seed).passed
        return seen

    assert moments(1) == moments(1)
    assert moments(1) != moments(2)
    assert len(moments(1)) == 1 + 2 * 6
    heard: list[Any] = []
    audit(shown("price", lambda block: block.price), market(), cuts=6, progress=heard.append)
    assert len(heard) == 6


@pytest.mark.parametrize(
    ("count", "cuts", "said"),
    [(100, 0, "0 cuts: expected at least 1"), (1, 5, "received at two moments or more, found 1"), (0, 5, "found 0")],
)
def test_what_cannot_be_audited_is_refused(count: int, cuts: int, said: str) -> None:
    with pytest.raises(ReplayError, match=said):
        audit(shown("price", lambda block: block.price), block_of(Keys(), trades(count)), cuts=cuts)


# Warm-up


MEANS = (FeatureView("mine", {"price": "price", "sma_20": sma("price", 20), "sma_2": sma("price", 2)}),)


@cache
def of_means() -> Audit:
    return audit_fold(Config(), list, lambda: [open_source(LTC)], cuts=1, views=MEANS)


def test_a_plain_average_of_20_does_not_depend_on_where_the_run_began_after_19_rows() -> None:
    assert of_means().passed
    assert {found.column: found.rows for found in of_means().warm_ups} == {"price": 0, "sma_20": 19, "sma_2": 1}


def test_on_a_view_by_ticks_the_warm_up_is_as_many_ticks_as_rows() -> None:
    # Some of these trades were received at the same moment, which must not be counted for one that was waited for.
    assert [(found.column, found.rows, found.ticks) for found in of_means().warm_ups if found.rows != found.ticks] == []


def test_the_warm_up_is_shown_by_column() -> None:
    (shown,) = [line.split() for line in of_means().text().splitlines() if "mine:sma_20" in line]
    assert shown[:2] == ["mine:sma_20", "19"]


def test_times_in_the_report_are_utc() -> None:
    result = audit(shown("next", lambda block: np.append(block.price[1:], np.nan)), market(), cuts=1)
    assert result.offender is not None
    assert START == 1_700_000_000 * SECOND
    assert "known at 2023-11-14T22:1" in result.text()


def test_only_what_was_selected_is_audited() -> None:
    few = audit_fold(
        Config(), list, lambda: [open_source(TRADES)], Selection(symbols=("ETH/USDT",)), cuts=1, views=VIEWS
    )
    assert (few.inputs, few.streams) == (2784, 3)


def test_predictions_and_labels_are_among_what_is_compared() -> None:
    result = audit_fold(Config(), list, lambda: [open_source(LTC)], cuts=2)
    assert result.passed, result.text()
    without = audit_fold(
        msgspec.structs.replace(Config(), models=ModelsConfig(run=())), list, lambda: [open_source(LTC)], cuts=1
    )
    assert result.streams == without.streams + 4
    # direction: timestamp, three classes, low, high; log_return: timestamp, value, low, high; labels: timestamp, label, twice.
    assert result.columns == without.columns + 6 + 4 + 2 + 2


def test_models_of_worker_processes_are_audited_too() -> None:
    model = ModelConfig(
        features=("technical:rsi_14", "technical:macd"), algorithm={"river": "tree.HoeffdingTreeRegressor"}, horizon="5t",
        target="log_return", place="worker",
    )  # fmt: skip
    config = msgspec.structs.replace(Config(), models=ModelsConfig(run=("heavy",), define={"heavy": model}))
    keys = Keys()
    pipeline = fold_pipeline(config, list, keys, resolve(("technical",)))
    (block, *_) = open_source(LTC).blocks(keys)
    said = pipeline(block.take(slice(0, 500)))["predictions of heavy binance LTC/USDT"]
    assert len(said.received) > 400
    assert said.values[1].any()


def test_a_target_that_knows_the_run_before_is_caught_and_named(tmp_path: Path) -> None:
    (tmp_path / "leak.py").write_text(
        "import sys\n\nkept = sys.modules.setdefault('kept_from_run_to_run', type(sys)('kept'))\n"
        "seen = kept.__dict__.setdefault('seen', [])\n\ndef label(reference, outcome, spread_bps, variance):\n"
        "    seen.append(outcome)\n    return outcome + len(seen)\n"
    )
    model = ModelConfig(
        features=("technical:rsi_14",), algorithm={"algorithm": "scaled_linear"}, horizon="5t",
        target=f"{tmp_path / 'leak.py'}:label",
    )  # fmt: skip
    config = msgspec.structs.replace(Config(), models=ModelsConfig(run=("leaking",), define={"leaking": model}))
    result = audit_fold(config, list, lambda: [open_source(LTC)], cuts=1)
    assert result.offender is not None
    assert result.offender.stream.endswith("of leaking binance LTC/USDT")
