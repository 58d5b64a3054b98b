"""The fold: the order of events, the cursor, and the same bits whatever the block size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from engine.block import Keys
from engine.config import Config
from engine.events import (
    FeatureEvent,
    FeedStatus,
    Gap,
    HandlerFailed,
    Heartbeat,
    Quote,
    Refused,
    Signal,
    Tick,
    WindowOverflow,
)
from engine.indicators import lowest, total
from engine.trade_ids import TradeIds
from replay.driver import build_fold
from replay.sources import open_source
from store.schema import FeatureView
from strategies import Strategy
from tests.folding import (
    BTC,
    ETH,
    LTC,
    SECOND,
    SIZES,
    START,
    VIEWS,
    Listener,
    Run,
    block_of,
    failing,
    listener,
    quote,
    recorded,
    signal,
    trade,
    trades,
)

ALL = 1 << 30
NAMES = tuple(view.name for view in VIEWS)


def kinds(events: list[Any]) -> list[str]:
    """The class of each event, of a feature event its view, with its sequence."""
    return [
        f"{event.view if isinstance(event, FeatureEvent) else type(event).__name__} {event.sequence}"
        for event in events
    ]


# Order


@pytest.mark.parametrize("size", [1, 2, 100])
def test_one_input_gives_its_gap_then_itself_then_the_features_in_the_order_of_the_views(size: int) -> None:
    plugin = listener("bars", "slow", Tick, Gap, "quick")
    rows = [trade(at=0.0, trade_id=1), trade(at=2.5, trade_id=4)]
    Run(plugin).push(rows, size)
    assert kinds(plugin.heard) == [
        "Tick 1", "quick 1", "slow 1",
        "Gap 2", "Tick 3", "quick 3", "slow 3", "bars 3",
    ]  # fmt: skip


def test_the_order_of_the_views_is_that_of_the_configuration_and_not_that_of_subscribing() -> None:
    plugin = listener("quick", "slow", "bars")
    Run(plugin, views=(VIEWS[2], VIEWS[1], VIEWS[0])).push([trade(at=0.0), trade(at=1.0)])
    assert kinds(plugin.heard) == ["slow 1", "quick 1", "bars 2", "slow 2", "quick 2"]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_inputs_of_all_keys_are_heard_in_their_one_order(size: int) -> None:
    plugin = listener(Tick, Quote, "quick", "slow")
    rows = [quote(ETH, 0.0), trade(BTC, 0.0), trade(ETH, 0.1), quote(BTC, 0.2), trade(BTC, 1.3), trade(ETH, 1.4)]
    Run(plugin).push(rows, size)
    assert kinds(plugin.heard) == [
        "Quote 1",
        "Tick 2", "quick 2", "slow 2",
        "Tick 3", "quick 3", "slow 3",
        "Quote 4",
        "Tick 5", "quick 5", "slow 5",
        "Tick 6", "quick 6", "slow 6",
    ]  # fmt: skip
    keys = [event.symbol for event in plugin.heard if isinstance(event, Tick | Quote)]
    assert keys == ["ETH/USDT", "BTC/USDT", "ETH/USDT", "BTC/USDT", "BTC/USDT", "ETH/USDT"]


def test_a_plugin_is_told_of_its_view_what_the_row_holds() -> None:
    plugin = listener("quick", "bars")
    Run(plugin).push([trade(at=0.0, price=1.0), trade(at=0.5, price=2.0), trade(at=1.25, price=6.0)])
    quick = [dict(event.items()) for event in plugin.heard if event.view == "quick"]
    assert quick[-1] == {"price": 6.0, "mean_3": 3.0, "sum_10s": 3.0}
    assert math.isnan(quick[1]["mean_3"])
    (bar,) = (event for event in plugin.heard if event.view == "bars")
    assert dict(bar.items()) == {"close": 2.0, "trades": 2.0}
    assert (bar.timestamp, bar.received, bar.sequence) == (START + SECOND, START + SECOND * 5 // 4, 3)


def test_ticks_and_quotes_reach_plugins_with_all_their_fields() -> None:
    plugin = listener(Tick, Quote)
    Run(plugin).push(
        [
            quote(BTC, 1.0, received=START + 7, trade_id=77, ask_volume=math.nan),
            trade(BTC, 2.0, price=3.0, volume=4.0, side=-1, trade_id=5),
            trade(BTC, 2.0, price=3.0, volume=4.0, side=1),
        ]
    )
    asked, sold, bought = plugin.heard
    assert math.isnan(asked.ask_volume)
    assert msgspec.structs.replace(asked, ask_volume=0.0) == Quote(
        *BTC, 99.0, 1.0, 101.0, 0.0, START + SECOND, START + 7, 77, 1
    )
    assert sold == Tick(*BTC, 3.0, 4.0, "sell", START + 2 * SECOND, START + 2 * SECOND, 5, 2)
    assert bought == Tick(*BTC, 3.0, 4.0, "buy", START + 2 * SECOND, START + 2 * SECOND, None, 3)


def test_a_gap_is_told_with_the_ids_that_are_missing_and_takes_a_number_of_its_own() -> None:
    plugin = listener(Gap)
    run = Run(plugin).push([trade(at=0.0, trade_id=10), trade(at=1.0, trade_id=15)])
    (gap,) = plugin.heard
    assert gap == Gap(*BTC, 11, 14, 4, 0, START + SECOND, START + SECOND, 2)
    assert run.of(Gap) == [gap]
    assert run.fold.folded == 3
    assert run.fold.ingress.next_sequence == 4


# Time and the cursor


class Looking(Listener):
    """At each event, notes all that the online store shows and what time it is."""

    subscribes: ClassVar[list[str | type]] = [Tick, Quote, *NAMES]

    def hear(self, event: Any) -> None:
        now = self.clock.now()
        seen: list[Any] = [event.sequence, now]
        for key in (("binance", "BTC/USDT"), ("binance", "ETH/USDT")):
            for view in NAMES:
                rows = self.features.last(view, *key, 16)
                newest = self.features.latest(view, *key)
                asked = self.features.as_of(view, *key, 1 << 62)
                assert newest is None or event.sequence >= newest.sequence, f"{view} of {key}: latest is of the future"
                assert asked is None or event.sequence >= asked.sequence, f"{view} of {key}: as_of is of the future"
                assert (rows.sequence <= event.sequence).all(), f"{view} of {key}: last is of the future"
                assert (rows.received <= now).all() or len(rows) == 0 or key[1] != event.symbol
                seen.append(tuple(rows.sequence.tolist()))
                seen.append(None if newest is None else (newest.sequence, newest.ready, newest.values.tobytes()))
                seen.append(None if asked is None else asked.sequence)
        self.heard.append(tuple(seen))


def looks(size: int) -> list[Any]:
    plugin = Looking()
    run = Run(plugin, ring_rows=64).push_recorded(size, last=1500)
    assert run.troubles() == [], run.of(type(run.reported[0]))[0] if run.reported else ""
    return plugin.heard


def test_the_online_store_shows_nothing_later_than_the_input_being_folded_at_any_row() -> None:
    whole = looks(ALL)
    assert len(whole) > 3000
    sequences = [seen[0] for seen in whole]
    assert sequences == sorted(sequences)


@pytest.mark.parametrize("size", [1, 7])
def test_what_the_online_store_shows_at_each_event_is_the_same_for_rows_computed_ahead(size: int) -> None:
    whole, alone = looks(ALL), looks(size)
    assert len(whole) == len(alone)
    first = next((at for at, (left, right) in enumerate(zip(whole, alone, strict=True)) if left != right), None)
    assert first is None, f"event {first} saw {whole[first]} in one block, {alone[first]} in blocks of {size}"


@pytest.mark.parametrize("size", [7, ALL])
def test_reads_as_of_long_ago_find_the_same_rows_at_every_block_size(size: int) -> None:
    # store.ring_rows are kept; whether an older one happens to be in memory still must not be seen.
    def run(size: int) -> list[Any]:
        found: list[Any] = []
        plugin = listener(Tick, name="historian")

        def answer(event: Tick) -> None:
            for back in (10, 20, 25, 30, 40):
                row = plugin.features.as_of("quick", *BTC, event.timestamp - back * SECOND, known_by=event.received)
                found.append((event.sequence, back, None if row is None else row.sequence))

        plugin.answer = answer
        Run(plugin, ring_rows=16).push(trades(100, step=1.0), size)
        return found

    alone, together = run(1), run(size)
    differing = [(left, right) for left, right in zip(alone, together, strict=True) if left != right]
    assert differing == [], f"{len(differing)} reads differ: (sequence, seconds back, row) {differing[0]}"


def test_now_is_received_of_the_input_being_folded_and_never_of_its_exchange() -> None:
    times = []
    plugin = listener(Tick, "bars")
    run = Run(plugin)

    def answer(event: Any) -> None:
        times.append((event.sequence, run.fold.now() - START, run.fold.sequence()))

    plugin.answer = answer
    run.push(
        [trade(at=at, received=START + round(at * SECOND) + at_ms) for at, at_ms in ((0.0, 3), (1.5, 4), (1.6, 5))]
    )
    ns = [3, SECOND * 3 // 2 + 4, SECOND * 16 // 10 + 5]
    assert times == [(1, ns[0], 1), (2, ns[1], 2), (2, ns[1], 2), (3, ns[2], 3)]


def test_received_never_decreases_within_a_key_as_plugins_see_it() -> None:
    plugin = listener(Tick, "quick")
    rows = [trade(at=at, received=START + received) for at, received in ((0.0, 50), (0.1, 20), (0.2, 60))]
    Run(plugin).push(rows)
    assert [event.received - START for event in plugin.heard] == [50, 50, 50, 50, 60, 60]


def test_signals_carry_the_name_and_the_times_of_the_input_that_they_answer() -> None:
    run = Run(listener("bars", answer=lambda event: [signal(event, 0.5)]))
    run.push([trade(at=0.0), trade(at=2.5, received=START + 9 * SECOND)])
    (found,) = run.of(Signal)
    assert found == Signal("listener", *BTC, 0.5, "", START + SECOND, START + 9 * SECOND, 2)


def test_after_a_push_the_store_shows_the_newest_rows_though_nobody_listens() -> None:
    run = Run().push(trades(10))
    newest = run.fold.features.latest("quick", *BTC)
    assert newest is not None, "the cursor stands before the first input"
    assert newest.sequence == 10
    assert run.fold.sequence() == 10
    assert run.fold.now() == START + round(9 * 0.25 * SECOND)


def test_signals_at_the_stop_carry_the_times_of_the_last_input_though_nobody_heard_of_it() -> None:
    class Closing(Strategy):
        subscribes: ClassVar[list[str | type]] = ["bars"]

        def on_stop(self) -> list[Signal]:
            return [Signal("", *BTC, 0.0, "close", 0, 0)]

    run = Run(Closing()).push([trade(at=0.0), trade(at=1.0), trade(at=1.5)])
    run.fold.stop()
    (closed,) = run.of(Signal)
    assert (closed.sequence, closed.received - START) == (3, SECOND * 3 // 2)


# The same bits


def examples() -> tuple[Listener, Listener]:
    """Two plugins that answer most of what they hear."""
    return (
        listener("bars", Gap, name="slow", answer=lambda event: [signal(event, getattr(event, "missing", 1.0))]),
        listener(
            Tick,
            "quick",
            name="fast",
            answer=lambda event: [signal(event, event.sequence % 5)] if event.sequence % 3 else None,
        ),
    )


@pytest.mark.parametrize("size", [7, 4096, ALL])
def test_all_digests_are_equal_for_every_block_size(size: int) -> None:
    alone = Run(*examples()).push_recorded(1, last=3000)
    other = Run(*examples()).push_recorded(size, last=3000)
    assert other.fold.digest() == alone.fold.digest()
    assert other.of(Signal) == alone.of(Signal)
    assert len(alone.of(Signal)) > 1000


def test_blocks_of_any_lengths_give_the_digests_of_one() -> None:
    whole = Run(*examples()).push_recorded(ALL)
    pieces = Run(*examples())
    pieces.fold.keys, block = recorded()
    edges = np.sort(np.random.Generator(np.random.PCG64(1)).integers(0, len(block), 60)).tolist()
    for first, end in zip([0, *edges], [*edges, len(block)], strict=True):
        pieces.push(block.take(slice(first, end)))
    assert pieces.fold.digest() == whole.fold.digest()


def test_the_built_in_views_give_the_same_digests_for_every_block_size() -> None:
    digests = [Run(views=None).push_recorded(size).fold.digest() for size in SIZES]
    assert digests[1:] == digests[:1] * 2


def test_digests_are_equal_for_keys_interleaved_and_apart() -> None:
    apart = [*trades(300, BTC), *trades(200, ETH, step=0.4)]
    interleaved = sorted(apart, key=lambda row: int(row["timestamp"]))
    assert interleaved != apart
    first = Run(listener("bars", answer=lambda event: [signal(event)])).push(apart)
    second = Run(listener("bars", answer=lambda event: [signal(event)])).push(interleaved, 50)
    assert second.fold.digest() == first.fold.digest()
    assert len(first.of(Signal)) > 100


def test_the_order_in_which_keys_are_numbered_changes_no_digest() -> None:
    rows = [*trades(50, BTC), *trades(50, ETH)]
    first, second = Run(), Run()
    second.fold.keys.code(ETH)
    assert first.push(rows).fold.digest() == second.push(rows).fold.digest()


@pytest.mark.parametrize("field", ["price", "volume", "side", "timestamp", "trade_id"])
def test_another_value_in_one_field_of_one_trade_is_another_digest_of_the_inputs(field: str) -> None:
    rows = trades(20)
    changed = [dict(row) for row in rows]
    # The last trade: its id may rise without being a duplicate; the gap before it is an input, too.
    changed[-1][field] = {
        "price": np.nextafter(rows[-1]["price"], math.inf), "volume": np.nextafter(rows[-1]["volume"], 0.0),
        "side": -rows[-1]["side"] or 1, "timestamp": rows[-1]["timestamp"] + 1, "trade_id": rows[-1]["trade_id"] + 1,
    }[field]  # fmt: skip
    digests = [Run().push(some).fold.digest() for some in (rows, changed)]
    assert digests[0]["inputs"] != digests[1]["inputs"]


def test_received_is_in_no_digest_but_that_of_the_state() -> None:
    later = [{**row, "received": row["timestamp"] + 5} for row in trades(20)]
    first, second = Run().push(trades(20)), Run().push(later)
    assert first.digest() == second.digest()
    assert first.fold.digest()["state"] != second.fold.digest()["state"]


def test_a_plugin_parked_in_the_middle_of_a_block_hears_no_more_of_it() -> None:
    plugin, other = listener(Tick, "quick", answer=failing), listener(Tick, name="other")
    run = Run(plugin, other).push(trades(50))
    assert kinds(plugin.heard) == ["Tick 1", "quick 1", "Tick 2", "quick 2", "Tick 3"]
    assert run.troubles()[-1] == ("Parked", "listener")
    assert len(other.heard) == 50


# Late ticks, refusals, overflows


def late_rows() -> list[dict[str, Any]]:
    return [
        trade(at=0.0, trade_id=5, price=1.0),
        trade(at=1.0, trade_id=9, price=2.0),
        trade(at=1.5, trade_id=7, price=3.0),  # was missing: late
        trade(at=0.2, trade_id=4, price=4.0, late=1),  # from before we began
        trade(at=2.0, trade_id=8, price=5.0, late=1),
        trade(at=2.0, trade_id=8, price=5.5, late=1),  # a duplicate: no input
        quote(at=2.5, late=1),
        trade(at=3.0, trade_id=10, price=6.0),
    ]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_late_ticks_and_quotes_are_heard_only_by_plugins_that_ask_for_late_ones(size: int) -> None:
    usual, historian = listener(Tick, Quote, name="usual"), listener(Tick, Quote, name="historian", late=True)
    features = listener("quick", name="features")
    Run(usual, historian, features).push(late_rows(), size)
    assert [event.price for event in usual.heard] == [1.0, 2.0, 6.0]
    assert not any(event.late for event in usual.heard)
    late = [getattr(event, "price", "quote") for event in historian.heard if event.late]
    assert late == [3.0, 4.0, 5.0, "quote"]
    assert [getattr(event, "price", "quote") for event in historian.heard] == [1.0, 2.0, 3.0, 4.0, 5.0, "quote", 6.0]
    assert [event["price"] for event in features.heard] == [1.0, 2.0, 6.0]


def test_late_ticks_are_numbered_but_not_counted_as_folded_and_change_no_feature() -> None:
    without = [row for row in late_rows() if not (row.get("late") or row.get("trade_id") == 7)]
    first, second = Run().push(late_rows()), Run().push(without)
    assert first.fold.folded == second.fold.folded == 4
    assert first.fold.ingress.next_sequence - second.fold.ingress.next_sequence == 4
    assert first.digest() == second.digest()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (trade(price=-1.0), "bad price: price -1.0: expected positive and finite"),
        (trade(price=math.nan), "bad price: price nan: expected positive and finite"),
        (trade(price=math.inf), "bad price: price inf: expected positive and finite"),
        (trade(volume=0.0), "bad volume: volume 0.0: expected positive and finite"),
        (quote(ask=0.0), "bad price: bid 99.0, ask 0.0: expected positive and finite"),
        (quote(ask_volume=-2.0), "bad volume: bid_volume 1.0, ask_volume -2.0: expected positive and finite, or NaN where not sent"),
        (trade(timestamp=START + 10_001_000_000, received=START), "timestamp ahead: timestamp is 10001 ms after received, expected at most 10000"),
    ],
)  # fmt: skip
def test_a_refused_row_is_reported_with_field_value_and_expectation_and_is_no_input(
    row: dict[str, Any], reason: str
) -> None:
    hearing = listener(Tick, Quote, "quick")
    run = Run(hearing).push([row])
    (refused,) = run.of(Refused)
    assert (refused.exchange, refused.symbol, refused.reason) == (*BTC, reason)
    assert hearing.heard == []
    assert (run.fold.folded, run.fold.ingress.next_sequence) == (0, 1)


def test_a_timestamp_exactly_at_the_bound_is_taken() -> None:
    run = Run().push([trade(timestamp=START + 10_000_000_000, received=START)])
    assert run.fold.folded == 1


@pytest.mark.parametrize("size", [1, 2, 100])
def test_refusals_gaps_and_signals_are_reported_in_the_order_of_the_inputs(size: int) -> None:
    run = Run(listener(Tick, answer=lambda event: [signal(event)]))
    run.push(
        [
            trade(at=0.0, trade_id=1),
            trade(at=1.0, price=0.0),
            trade(ETH, 1.5, trade_id=1),
            trade(ETH, 1.7, price=-2.0),
            trade(at=2.0, trade_id=5),
        ],
        size,
    )
    assert [type(event).__name__ for event in run.reported] == [
        "Signal",
        "Refused",
        "Signal",
        "Refused",
        "Gap",
        "Signal",
    ]


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("wrong", [{"value": "high"}, {"symbol": None}, {"exchange": 5}])
def test_a_signal_of_wrong_types_is_a_failure_that_nobody_hears_with_digests_or_without(
    wrong: dict[str, Any], digests: bool
) -> None:
    def broken(event: Any) -> list[Any]:
        return [msgspec.structs.replace(signal(event), **wrong)]

    reported: list[Any] = []
    hearing = listener(Signal, name="hearing")
    fold = build_fold(
        Config(), [listener(Tick, answer=broken), hearing], views=VIEWS, digests=digests, report=reported.append
    )
    fold.push(block_of(fold.keys, trades(3)))
    assert hearing.heard == []
    assert [type(event).__name__ for event in reported] == ["HandlerFailed"] * 3
    assert fold.signals == 0


def test_a_report_that_fails_parks_nobody() -> None:
    def broken(event: Any) -> None:
        raise OSError("the pipe is gone")

    fold = build_fold(
        Config(), [listener(Tick, name="good", answer=lambda event: [signal(event)])], views=VIEWS, report=broken
    )
    with pytest.raises(OSError, match="the pipe is gone"):
        fold.push(block_of(fold.keys, trades(3)))
    assert (fold.supervisor.actors["good"].failed, fold.signals) == (0, 3)


BURST = (FeatureView("burst", {"sum_1s": total("volume", "1s"), "low_5s": lowest("price", "5s")}),)
WINDOW_TICKS_MAX = 64


def bursts() -> list[dict[str, Any]]:
    """Twice more trades within a second than a window may hold, with a quiet time between them; a small burst first."""
    rows = [trade(at=i * 0.01) for i in range(50)]
    rows += [trade(at=20.0 + i * 0.001) for i in range(400)]
    rows += [trade(at=40.0 + i) for i in range(10)]
    rows += [trade(at=60.0 + i * 0.001) for i in range(400)]
    return rows


@pytest.mark.parametrize("size", [1, 7, ALL])
def test_a_window_that_outgrows_its_memory_says_so_once_each_time_where_its_first_undefined_row_is(size: int) -> None:
    plugin = listener("burst", WindowOverflow)
    run = Run(plugin, views=BURST, window_ticks_max=WINDOW_TICKS_MAX).push(bursts(), size)
    told = [event for event in plugin.heard if isinstance(event, WindowOverflow)]
    rows = [event for event in plugin.heard if isinstance(event, FeatureEvent)]
    for window, feature in (("1s", "sum_1s"), ("5s", "low_5s")):
        undefined = [math.isnan(row[feature]) for row in rows]
        begins = [rows[at].sequence for at in range(1, len(rows)) if undefined[at] and not undefined[at - 1]]
        assert not any(undefined[:51]), "a window within its memory is undefined"
        assert len(begins) == 2, f"{window}: expected two stretches of NaN, found {begins}"
        assert [event.sequence for event in told if event.window == window] == begins
    assert run.of(WindowOverflow) == told
    assert {(event.exchange, event.symbol, event.capacity) for event in told} == {(*BTC, WINDOW_TICKS_MAX)}
    at = plugin.heard.index(told[0])
    assert isinstance(plugin.heard[at - 1], FeatureEvent)
    assert plugin.heard[at - 1].sequence == told[0].sequence, "an overflow is told after the row that it spoils"


def test_a_window_is_whole_again_once_it_holds_all_its_trades() -> None:
    plugin = listener("burst")
    Run(plugin, views=BURST, window_ticks_max=WINDOW_TICKS_MAX).push(bursts())
    quiet = [event for event in plugin.heard if 40 * SECOND <= event.timestamp - START < 60 * SECOND]
    assert [event["sum_1s"] for event in quiet] == [1.0] * 10
    assert [event["low_5s"] for event in quiet] == [100.0] * 10


def test_a_window_holds_as_many_trades_as_the_configuration_says_and_no_more() -> None:
    plugin = listener(WindowOverflow)
    Run(plugin, views=BURST, window_ticks_max=WINDOW_TICKS_MAX).push([trade(at=i * 0.0001) for i in range(400)])
    held = [event.sequence - 1 for event in plugin.heard]
    assert held == [event.capacity for event in plugin.heard], (
        "trades that were held, and that the event says can be held"
    )


# Feature events and the rows that the fold hands out


def test_a_feature_event_cannot_be_changed_and_says_which_features_there_are() -> None:
    caught: list[Any] = []

    def answer(event: FeatureEvent) -> None:
        for what in (event.values, event.block):
            with pytest.raises(ValueError, match="read-only"):
                what[0] = 1.0
        with pytest.raises(AttributeError):
            event.sequence = 5  # type: ignore[misc]
        with pytest.raises(KeyError, match="quick has no feature 'mean_9'; it has price, mean_3, sum_10s"):
            event["mean_9"]
        caught.append(("mean_3" in event, "mean_9" in event, dict(event.items())))

    run = Run(listener("quick", answer=answer)).push([trade(price=5.0), trade(price=6.0), trade(price=10.0)])
    assert run.of(HandlerFailed) == []
    assert caught[2] == (True, False, {"price": 10.0, "mean_3": 7.0, "sum_10s": 3.0})


def test_a_copy_keeps_its_values_while_the_rows_of_the_store_are_written_over() -> None:
    kept: list[tuple[FeatureEvent, FeatureEvent, list[float]]] = []
    plugin = listener("quick", answer=lambda event: kept.append((event, event.copy(), event.values.tolist())))
    Run(plugin, ring_rows=16).push(trades(400), 5)
    assert all(np.array_equal(copy.values, values, equal_nan=True) for _, copy, values in kept)
    assert all(not copy.values.flags.writeable for _, copy, _ in kept)
    stale = [np.array_equal(event.values, values, equal_nan=True) for event, _, values in kept]
    assert not all(stale), "no row was ever written over: nothing was tried"
    copy = kept[10][1]
    assert (copy.view, copy.symbol, copy.sequence, copy["price"]) == ("quick", "BTC/USDT", 11, trades(11)[10]["price"])


def test_rows_are_handed_out_as_they_are_emitted_by_view_and_key() -> None:
    given: dict[tuple[str, str, str], list[int]] = {}

    def rows(view: str, key: tuple[str, str], stamps: Any, values: Any) -> None:
        assert values.shape[1] == stamps.shape[1]
        given.setdefault((view, *key), []).extend(stamps[2].tolist())

    run = Run()
    run.fold.rows = rows
    run.push([*trades(8, BTC, step=0.5), *trades(4, ETH, step=1.0)], 3)
    assert given["quick", *BTC] == list(range(1, 9))
    assert given["bars", *BTC] == [3, 5, 7]
    assert given["bars", *ETH] == [10, 11, 12]


# Other inputs


def test_feed_statuses_and_heartbeats_are_numbered_and_heard_and_move_no_window() -> None:
    plugin = listener(FeedStatus, Heartbeat, Tick)
    run = Run(plugin).push([trade(at=0.0)])
    run.fold.input(FeedStatus(*BTC, "stalled", "no message for 30 s", START + 30 * SECOND, START + 30 * SECOND))
    run.fold.input(Heartbeat(START + 60 * SECOND, START + 60 * SECOND))
    assert run.fold.now() == START + 60 * SECOND
    run.push([trade(at=1.0)])
    assert kinds(plugin.heard) == ["Tick 1", "FeedStatus 2", "Heartbeat 3", "Tick 4"]
    newest = run.fold.features.latest("quick", *BTC)
    assert newest is not None
    assert newest["sum_10s"] == 2.0


def ids_of(run: Run) -> TradeIds:
    return TradeIds(run.fold.keys, run.fold.ingress, BTC[0])


def test_ids_that_are_declared_lost_are_waited_for_no_longer() -> None:
    run = Run().push([trade(at=0.0, trade_id=1), trade(at=1.0, trade_id=9)])
    assert ids_of(run).missing(BTC[1]) == [(2, 8)]
    run.fold.input(FeedStatus(*BTC, "lost", "not to be had", START + 2 * SECOND, START + 2 * SECOND, 0, 2, 6))
    assert ids_of(run).missing(BTC[1]) == [(7, 8)]
    run.fold.input(FeedStatus(*ETH, "lost", "of a key without inputs", START + 3 * SECOND, START + 3 * SECOND, 0, 2, 6))
    assert ids_of(run).missing(ETH[1]) == []


# Snapshots of a plugin


class Gambler(Strategy):
    """Remembers what it saw, and draws a number at each bar."""

    subscribes: ClassVar[list[str | type]] = ["bars"]

    class State(msgspec.Struct):
        seen: int = 0
        last: dict[str, float] = {}

    def on_start(self) -> Iterator[Signal]:
        yield Signal("", *BTC, -1.0, "start", 0, 0)

    def on_features(self, event: FeatureEvent) -> Iterator[Signal]:
        self.state.seen += 1
        self.state.last[event.symbol] = event["close"]
        drawn = self.random.random() + self.random.integers(0, 9)
        yield self.signal(event, drawn + self.state.seen, f"{self.state.last}")


def rows_of_two_keys() -> list[dict[str, Any]]:
    return sorted([*trades(200, BTC), *trades(200, ETH, step=0.3)], key=lambda row: int(row["timestamp"]))


def test_a_strategy_restored_from_its_snapshot_goes_on_with_the_same_signals() -> None:
    through = Run(Gambler()).push(rows_of_two_keys())
    first = Gambler()
    before = Run(first).push(rows_of_two_keys()[:171])
    second = Gambler()
    after = Run(second).push(rows_of_two_keys()[:171])
    after.reported.clear()
    second.state = second.State()
    second.random.random(99)
    second.restore(first.snapshot())
    after.push(rows_of_two_keys()[171:])
    assert before.of(Signal) + after.of(Signal) == through.of(Signal)
    assert len(after.of(Signal)) > 20
    assert second.snapshot() != first.snapshot()


def test_a_restored_state_keeps_the_order_of_its_keys_so_that_loops_over_it_give_the_same() -> None:
    first, second = Gambler(), Gambler()
    for plugin in (first, second):
        plugin.enter(None, None, 0)  # type: ignore[arg-type]
    first.state.last.update({"ETH/USDT": 2.0, "BTC/USDT": 1.0})
    second.restore(first.snapshot())
    assert list(second.state.last) == list(first.state.last)


def test_a_plugins_state_and_place_in_its_random_numbers_are_in_the_digest_of_the_state() -> None:
    class Drawing(Strategy):
        subscribes: ClassVar[list[str | type]] = [Tick]
        draws = 1

        def on_tick(self, event: Tick) -> None:
            self.random.random(self.draws)

    class Eager(Drawing):
        name = "drawing"
        draws = 2

    first, second, other = (Run(kind()).push(trades(5)).fold.digest()["state"] for kind in (Drawing, Drawing, Eager))
    assert first == second
    assert first != other


def test_blocks_that_hold_nothing_change_nothing() -> None:
    run = Run(*examples()).push(trades(5))
    before = run.fold.digest()
    run.fold.push(block_of(run.fold.keys, []))
    assert run.fold.digest() == before


def test_the_recorded_gaps_are_told_at_every_block_size() -> None:
    def run(size: int) -> list[Gap]:
        keys = Keys()
        (block,) = open_source(LTC).blocks(keys)
        made = Run(listener(Gap))
        made.fold.keys = keys
        found: list[Gap] = made.push(block, size).of(Gap)
        return found

    whole = run(ALL)
    assert [gap.missing for gap in whole] == [4, 4, 11, 2, 2]
    assert run(9) == whole
