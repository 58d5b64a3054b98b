"""What the page is sent: the ring as columns, then what is new, and the status of all parts when it changes."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.events import FeedStatus, Gap, HandlerFailed, Parked, Refused, Resumed, Shed, Signal, WindowOverflow
from engine.ingress import QUOTE
from engine.serving import bulletin as bulletin_module
from engine.serving.bulletin import NEWS, SIGNALS, STATUS_NS, bulletin_of
from engine.serving.closes import closes, volumes
from engine.serving.frames import PULSE_NS, ROWS, Frames, decode, encode
from replay.driver import build_fold
from store.builtin import resolve
from store.ring import Rows
from store.schema import FeatureView
from tests.folding import BTC, recorded, trade, trades
from tests.serving import Daemon

BINANCE_BTC, BINANCE_ETH = ("binance", "BTC/USDT"), ("binance", "ETH/USDT")
BASE = ("time_ms", "price", "volume")
TECHNICAL = ("upper", "middle", "lower", "rsi", "macd", "signal", "histogram")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frames")


@pytest.fixture
def daemon(folder: Path) -> Daemon:
    made = Daemon(folder)
    made.set_clock.stands_at = made.started
    return made


def later(daemon: Daemon, ns: int) -> None:
    """Move the daemon's clock on."""
    assert daemon.set_clock.stands_at is not None
    daemon.set_clock.stands_at += ns


def told(daemon: Daemon, *events: Any) -> None:
    for event in events:
        daemon.report(event)


def signal(number: int, key: tuple[str, str] = BINANCE_BTC, strategy: str = "mine") -> Signal:
    return Signal(strategy, *key, 1.0, f"reason {number}", number, number, number)


# The format -------------------------------------------------------------------------------------------------------------------

VALUES = st.lists(st.floats(width=32), max_size=20)


@given(st.lists(st.tuples(st.sampled_from(["f4", "f8"]), VALUES), max_size=8), st.text(max_size=40))
def test_what_is_encoded_is_decoded_from_places_that_typed_arrays_can_lie_at(
    given_columns: list[tuple[str, list[float]]], text: str
) -> None:
    columns = [("s", f"c{n}", kind, np.array(values)) for n, (kind, values) in enumerate(given_columns)]
    message = encode({"symbol": text}, columns)
    header, found = decode(message)
    assert header["symbol"] == text
    assert len(found) == len(columns)
    for series, name, kind, values in columns:
        np.testing.assert_array_equal(found[series, name], values.astype(kind))
    assert all(offset % 8 == 0 for *_, offset in header["columns"])


def test_a_message_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="expected b'tkf1'"):
        decode(b"GIF89a..")


# Rows -------------------------------------------------------------------------------------------------------------------------


def test_the_first_message_holds_the_ring(daemon: Daemon) -> None:
    daemon.push_recorded(last=3_000)
    header, columns = decode(Frames(daemon, *BINANCE_BTC).first())
    ticks = daemon.fold.features.last("market", *BINANCE_BTC, 512)  # type: ignore[attr-defined]
    technical = daemon.fold.features.last("technical", *BINANCE_BTC, 512)  # type: ignore[attr-defined]
    assert header["full"]
    assert header["series"]["ticks"] == header["series"]["bars"] == {"full": True, "skipped": 0}
    assert sorted(columns) == sorted((series, name) for series in ("ticks", "bars") for name in (*BASE, *TECHNICAL))
    np.testing.assert_array_equal(columns["ticks", "price"], ticks["price"])
    np.testing.assert_array_equal(columns["ticks", "upper"], technical["bollinger_upper"])
    np.testing.assert_array_equal(columns["ticks", "rsi"], technical["rsi_14"].astype("f4"))
    np.testing.assert_allclose(columns["ticks", "time_ms"], ticks.timestamp * 1e-6, rtol=0, atol=1e-3)
    assert header["newest"]["price"] == ticks["price"][-1]
    assert header["sequence"] == daemon.fold.sequence()


def test_first_and_next_together_are_what_a_later_first_holds(daemon: Daemon) -> None:
    daemon.push_recorded(last=200)
    frames = Frames(daemon, *BINANCE_BTC)
    _, got = decode(frames.first())
    for start in range(200, 800, 60):
        daemon.push_recorded(start, start + 60)
        header, columns = decode(frames.next() or b"")
        assert not header["full"]
        got = {name: np.concatenate([values, columns.get(name, [])]) for name, values in got.items()}
    _, whole = decode(Frames(daemon, *BINANCE_BTC).first())
    for name, values in whole.items():
        assert len(values) > 100 or name[0] == "bars"
        if name in {("bars", "price"), ("bars", "volume")}:
            np.testing.assert_allclose(got[name], values, rtol=1e-6)  # from trades then, worked out of indicators now
        else:
            np.testing.assert_array_equal(got[name], values)


def test_many_new_rows_are_thinned_and_their_volume_adds_up(daemon: Daemon) -> None:
    daemon.push_recorded(last=1_000)
    frames = Frames(daemon, *BINANCE_BTC)
    frames.first()
    before = daemon.fold.features.latest("market", *BINANCE_BTC)
    assert before is not None
    since = before.sequence
    daemon.push_recorded(1_000, 1_600)
    message = frames.next() or b""
    header, columns = decode(message)
    ticks = daemon.fold.features.last("market", *BINANCE_BTC, 512)  # type: ignore[attr-defined]
    fresh = ticks.sequence > since
    assert ROWS < fresh.sum() < 512
    assert len(columns["ticks", "price"]) == ROWS
    assert header["series"]["ticks"]["skipped"] == fresh.sum() - ROWS
    assert columns["ticks", "price"][-1] == ticks["price"][-1]
    assert columns["ticks", "volume"].sum() == pytest.approx(ticks["volume"][fresh].sum(), rel=1e-5)
    assert len(message) < 10_000


def test_a_message_at_a_usual_rate_is_a_few_kb_at_most(daemon: Daemon) -> None:
    daemon.push_recorded(last=3_000)
    frames = Frames(daemon, *BINANCE_BTC)
    frames.first()
    sizes = []
    for start in range(3_000, 4_000, 10):
        daemon.push_recorded(start, start + 10)
        later(daemon, 100_000_000)
        sizes.append(len(frames.next() or b""))
    assert max(sizes) < 4_096


def test_without_a_symbol_it_shows_the_one_with_most_trades_once_there_is_one(daemon: Daemon) -> None:
    frames = Frames(daemon)
    header, columns = decode(frames.first())
    assert (header["symbol"], header["newest"], header["series"], columns) == ("", None, {}, {})
    daemon.push_recorded(last=500)
    header, columns = decode(frames.next() or b"")
    counts = {key: len(daemon.fold.features.last("market", *key, 512)) for key in (BINANCE_BTC, BINANCE_ETH)}  # type: ignore[attr-defined]
    assert header["full"]
    assert (header["exchange"], header["symbol"]) == max(counts, key=lambda key: counts[key])


def test_without_a_symbol_it_prefers_those_that_a_feed_listens_to(daemon: Daemon) -> None:
    daemon.fold.keys, rows = recorded()
    daemon.fold.push(rows.take(slice(0, 2_000)))
    assert decode(Frames(daemon).first())[0]["symbol"] == "BTC/USDT"
    daemon.feed = msgspec.structs.replace(daemon.feed, symbols=("ETH/USDT",))
    assert decode(Frames(daemon).first())[0]["symbol"] == "ETH/USDT"
    daemon.feed = msgspec.structs.replace(daemon.feed, symbols=("LTC/USDT",))
    assert decode(Frames(daemon).first())[0]["symbol"] == "BTC/USDT"


def test_a_symbol_that_nobody_trades_has_no_rows_and_gets_them_when_they_come(daemon: Daemon) -> None:
    frames = Frames(daemon, *BTC)
    header, columns = decode(frames.first())
    assert header["newest"] is None
    assert columns == {}
    daemon.push(*trades(3))
    header, columns = decode(frames.next() or b"")
    assert header["series"]["ticks"]["full"]
    assert columns["ticks", "volume"].tolist() == [1.0, 2.0, 3.0]
    assert np.isnan(columns["ticks", "rsi"]).all()


def test_views_that_are_not_computed_are_left_out(folder: Path) -> None:
    own = Daemon(folder, views=(FeatureView("mine", {"price": "price"}),))
    own.push(*trades(3))
    header, columns = decode(Frames(own, *BTC).first())
    assert (header["series"], columns) == ({}, {})
    market = Daemon(folder, views=resolve(["market"]))
    market.push(*trades(3))
    header, columns = decode(Frames(market, *BTC).first())
    assert sorted(name for _, name in columns) == sorted(BASE)
    assert list(header["series"]) == ["ticks"]


# Closes and volumes of bars ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [400, 3_000, 9_285])
@pytest.mark.parametrize("key", [BINANCE_BTC, BINANCE_ETH])
def test_closes_and_volumes_are_those_of_the_bars(daemon: Daemon, key: tuple[str, str], stop: int) -> None:
    views = (
        *resolve(["market", "technical_1s"]),
        FeatureView("bars", {"close": "close", "volume": "volume"}, clock="1s"),
    )
    fold = build_fold(daemon.config, (), views=views)
    fold.keys, block = recorded()
    for start in range(0, stop, 400):
        fold.push(block.take(slice(start, min(start + 400, stop))))
    last = fold.features.last  # type: ignore[attr-defined]
    bars, ticks, real = last("technical_1s", *key, 512), last("market", *key, 512), last("bars", *key, 512)
    assert len(bars) > 2
    found = closes(bars, ticks, 1_000_000_000)
    known = ~np.isnan(found)
    # Bars 24 and 25 and those 20 before them: nothing tells them until there are 46.
    assert known.all() or (len(bars) < 46 and np.count_nonzero(~known) <= 4)
    np.testing.assert_allclose(found[known], real["close"][known], rtol=0, atol=1e-8)
    found = volumes(bars, ticks, 1_000_000_000, 512)
    known = ~np.isnan(found)
    assert known[12:].all()
    np.testing.assert_allclose(found[known], real["volume"][known], rtol=0, atol=1e-9)


def test_closes_that_nothing_tells_are_nan() -> None:
    nothing = np.empty(0, np.int64)
    second = np.array([1_000_000_000], np.int64)
    bars = Rows({"macd": 0, "bollinger_middle": 1}, second, second, second, np.full((2, 1), np.nan))
    ticks = Rows({"price": 0, "volume": 1}, nothing, nothing, nothing, np.empty((2, 0)))
    assert np.isnan(closes(bars, ticks, 1_000_000_000)).all()
    assert np.isnan(volumes(bars, ticks, 1_000_000_000, 512)).all()


# Status and news --------------------------------------------------------------------------------------------------------------


def test_nothing_new_is_no_message_until_it_is_time_to_say_that_the_engine_lives(daemon: Daemon) -> None:
    daemon.push_recorded(last=100)
    frames = Frames(daemon, *BINANCE_BTC)
    frames.first()
    assert frames.next() is None
    later(daemon, PULSE_NS - 1)
    assert frames.next() is None
    later(daemon, 1)
    header, columns = decode(frames.next() or b"")
    assert columns == {}
    assert header["clock_ms"] == pytest.approx(daemon.clock.now() * 1e-6)
    assert frames.next() is None


def test_parts_are_sent_first_and_then_when_they_have_changed(daemon: Daemon) -> None:
    frames = Frames(daemon)
    header, _ = decode(frames.first())
    parts = {"engine", "keys", "feeds", "exchanges", "troubles", "strategies", "journal", "holds"}
    assert parts < set(header)
    assert header["feeds"][0]["recording"] is True
    assert [strategy["name"] for strategy in header["strategies"]] == ["moving_average_cross", "order_flow_imbalance"]
    later(daemon, STATUS_NS)
    header, _ = decode(frames.next() or b"")
    assert not parts & set(header)
    daemon.not_ready = "folding the journal: 40 %"
    later(daemon, STATUS_NS)
    header, _ = decode(frames.next() or b"")
    assert parts & set(header) == {"engine"}
    assert header["engine"]["starting"] == "folding the journal: 40 %"


def test_all_keys_are_listed_seen_or_subscribed_to(daemon: Daemon) -> None:
    daemon.push(trade(BTC))
    header, _ = decode(Frames(daemon).first())
    assert header["keys"] == [["binance", "BTC/USDT"], ["x", "BTC/USDT"], ["binance", "ETH/USDT"]]


def test_signals_go_to_who_looks_at_their_symbol_once(daemon: Daemon) -> None:
    frames = Frames(daemon, *BINANCE_BTC)
    told(daemon, signal(1))
    header, _ = decode(frames.first())
    assert [found["reason"] for found in header["signals"]] == ["reason 1"]
    told(daemon, signal(2), signal(3, BINANCE_ETH))
    header, _ = decode(frames.next() or b"")
    assert [found["reason"] for found in header["signals"]] == ["reason 2"]
    assert header["news"] == []
    assert frames.next() is None


def test_more_signals_and_news_than_are_kept_push_out_the_oldest(daemon: Daemon) -> None:
    bulletin = bulletin_of(daemon)
    told(daemon, *(signal(number) for number in range(SIGNALS + 5)))
    told(daemon, *(Refused(*BTC, f"reason {number}", 1, 1) for number in range(NEWS + 5)))
    header, _ = decode(Frames(daemon, *BINANCE_BTC).first())
    assert [found["reason"] for found in header["signals"]] == [f"reason {n}" for n in range(5, SIGNALS + 5)]
    assert [piece["text"] for piece in header["news"]] == [f"reason {n}" for n in range(5, NEWS + 5)]
    assert bulletin.counts["mine"] == SIGNALS + 5


def test_signals_of_more_keys_than_are_kept_push_out_those_of_the_quietest(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulletin_module, "SIGNAL_KEYS", 2)
    bulletin = bulletin_of(daemon)
    keys = [("x", name) for name in "abc"]
    told(daemon, signal(1, keys[0]), signal(2, keys[1]), signal(3, keys[0]), signal(4, keys[2]))
    assert [len(bulletin.signals(key, 0)) for key in keys] == [2, 0, 1]


def test_every_kind_of_trouble_is_news(daemon: Daemon) -> None:
    bulletin_of(daemon)
    told(
        daemon,
        Gap(*BTC, 4, 8, 5, 2, 1, 1),
        Refused(*BTC, "price 0", 1, 1),
        WindowOverflow(*BTC, "15m", 64, 1, 1),
        Shed(7, "3 s behind", 1, 1),
        HandlerFailed("mine", "on_tick", "ValueError: no", "", 1, 1, 1),
        Parked("mine", "5 failures in a row", 1, 1),
        Resumed("mine", 1, 1),
        FeedStatus(*BTC, "stalled", "no trade for 31 s", 1, 1),
    )
    header, _ = decode(Frames(daemon).first())
    assert [piece["kind"] for piece in header["news"]] == [
        "gap", "refused", "overflow", "shed", "failed", "parked", "resumed", "stalled",
    ]  # fmt: skip
    assert header["news"][0]["text"] == "5 trades missing, ids 4 to 8; 2 known as history"


def test_a_gap_is_told_once_though_the_feed_says_it_too(daemon: Daemon) -> None:
    bulletin_of(daemon)
    span = (0, 4, 8)  # sequence, and the ids that are spoken of
    told(
        daemon,
        FeedStatus(*BTC, "gap", "trades 4 to 8 missing", 1, 1, *span),  # of an earlier run: no Gap comes before it
        Gap(*BTC, 4, 8, 5, 0, 1, 1),
        Gap(*BTC, 10, 10, 1, 0, 1, 1),
        FeedStatus(*BTC, "gap", "trades 4 to 8 missing; asked for by REST", 1, 1, *span),
        FeedStatus(*BTC, "filled", "trades 4 to 8 came as history", 2, 2, *span),
    )
    header, _ = decode(Frames(daemon).first())
    assert [(piece["kind"], piece["text"]) for piece in header["news"]] == [
        ("gap", "trades 4 to 8 missing"),
        ("gap", "5 trades missing, ids 4 to 8"),
        ("gap", "1 trade missing, id 10"),
        ("filled", "trades 4 to 8 came as history"),
    ]


def test_what_an_exchange_lost_and_does_not_list_is_a_part(daemon: Daemon) -> None:
    daemon.exchange = msgspec.structs.replace(
        daemon.exchange, unlisted=tuple(map(str, range(60))), backfill_trouble="HTTP 503"
    )
    header, _ = decode(Frames(daemon).first())
    assert header["exchanges"] == [
        {
            "exchange": "binance", "filled": 20, "lost": 3, "open": 1, "backfill_trouble": "HTTP 503",
            "unlisted": [str(number) for number in range(50)], "unlisted_more": 10,
        },
    ]  # fmt: skip


def test_a_symbol_is_in_trouble_from_stalled_to_recovered(daemon: Daemon) -> None:
    frames = Frames(daemon)
    told(daemon, FeedStatus(*BTC, "stalled", "no trade for 31 s", 1, 1))
    header, _ = decode(frames.first())
    assert [(found["symbol"], found["status"]) for found in header["troubles"]] == [("BTC/USDT", "stalled")]
    told(daemon, FeedStatus(*BTC, "recovered", "", 2, 2))
    later(daemon, STATUS_NS)
    header, _ = decode(frames.next() or b"")
    assert header["troubles"] == []


def test_rates_are_counted_by_the_engines_clock(daemon: Daemon) -> None:
    frames = Frames(daemon)
    header, _ = decode(frames.first())
    assert header["rates"]["ticks"] is None
    daemon.push_recorded(last=1_000)
    later(daemon, 2_000_000_000)
    header, _ = decode(frames.next() or b"")
    trades_and_quotes = daemon.fold.ingress.counts[:, [1, QUOTE]].sum(axis=0)
    assert header["rates"]["ticks"] == pytest.approx(trades_and_quotes[0] / 2.0)
    assert header["rates"]["quotes"] == pytest.approx(trades_and_quotes[1] / 2.0)
    assert header["rates"]["p50_us"] == pytest.approx(25.0, rel=0.13)


def test_a_daemon_has_one_bulletin_which_goes_with_it(folder: Path) -> None:
    daemon = Daemon(folder)
    assert bulletin_of(daemon) is bulletin_of(daemon)
    assert len(daemon.ears) == 1
    bulletin = weakref.ref(bulletin_of(daemon))
    del daemon
    gc.collect()
    assert bulletin() is None


def test_reading_for_viewers_changes_no_bit(folder: Path) -> None:
    quiet, watched = Daemon(folder), Daemon(folder)
    frames = Frames(watched, *BINANCE_BTC)
    frames.first()
    for start in range(0, 2_000, 250):
        quiet.push_recorded(start, start + 250)
        watched.push_recorded(start, start + 250)
        frames.next()
    assert watched.fold.digest() == quiet.fold.digest()
