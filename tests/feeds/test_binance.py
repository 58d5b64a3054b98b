"""The Binance decoder against recorded messages, their expected events, and any bytes at all."""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import DecodeError
from engine.events import Event, Quote, Tick
from feeds import decoder
from feeds.binance import BinanceDecoder

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "replay" / "recordings" / "binance.jsonl.gz"
RECEIVED = 1_723_161_254_087_896_568
NOW_MS = 1_723_161_255_342
INT64_MAX = 2**63 - 1

TRADE: dict[str, Any] = json.loads(
    '{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000","q":"0.02000000",'
    '"T":1723161255342,"m":true,"M":true}'
)
OLD_TRADE = TRADE | {"b": 20720542158, "a": 20720542592}  # until 2024: the order ids of buyer and seller
AGG_TRADE: dict[str, Any] = json.loads(
    '{"e":"aggTrade","E":1633998523963,"s":"NKNUSDT","a":15683430,"p":"0.35280000","q":"58.00000000","f":19862790,'
    '"l":19862790,"T":1633998523963,"m":false,"M":true}'
)
BOOK: dict[str, Any] = json.loads(
    '{"u":50093239212,"s":"BTCUSDT","b":"61837.63000000","B":"3.78826000","a":"61837.64000000","A":"1.54698000"}'
)
USDM_BOOK = BOOK | {"e": "bookTicker", "E": NOW_MS + 3, "T": NOW_MS}
STREAMS = {"trade": "btcusdt@trade", "aggTrade": "nknusdt@aggTrade"}

binance = decoder("binance")


def raw(payload: Any) -> bytes:
    return json.dumps(payload, separators=(",", ":")).encode()


def combined(payload: dict[str, Any]) -> bytes:
    return raw({"stream": STREAMS.get(str(payload.get("e")), "btcusdt@bookTicker"), "data": payload})


def decode(payload: Any) -> list[Event]:
    return binance.decode(raw(payload), RECEIVED)


def one_tick(payload: dict[str, Any]) -> Tick:
    (event,) = decode(payload)
    assert isinstance(event, Tick)
    return event


def one_quote(payload: dict[str, Any]) -> Quote:
    (event,) = decode(payload)
    assert isinstance(event, Quote)
    return event


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        for line in file:
            yield json.loads(line)


@functools.cache
def recorded() -> dict[int, tuple[bytes, int, list[Event]]]:
    """By line number: the frame, when it came, and what the decoder makes of it."""
    frames = ((row["n"], row["raw"].encode(), row["recv_ns"]) for row in lines(RECORDING) if row["kind"] == "recv")
    return {n: (frame, received, binance.decode(frame, received)) for n, frame, received in frames}


@pytest.fixture(scope="module")
def samples() -> list[bytes]:
    """A few frames of each stream of the recording, as they were on the wire."""
    by_stream: dict[bytes, list[bytes]] = {}
    for frame, _, _ in recorded().values():
        by_stream.setdefault(frame.split(b",", 1)[0], []).append(frame)
    return [frame for frames in by_stream.values() for frame in frames[:3]]


# ---------------------------------------------------------------------------------------------- recorded messages


def test_every_recorded_trade_is_the_tick_that_independent_parsers_make_of_it() -> None:
    events = recorded()
    count = 0
    for row in lines(ROOT / "tests" / "data" / "binance.expected.jsonl.gz"):
        _, received, found = events[row["n"]]
        price, size, trade_id = float(row["price"]), float(row["size"]), int(row["id"])
        wanted = Tick("binance", row["symbol"], price, size, row["side"], row["ts_ns"], received, trade_id)
        assert found == [wanted], f"line {row['n']}"
        count += 1
    assert count == 9_759
    assert count == sum(isinstance(event, Tick) for _, _, found in events.values() for event in found)


def test_every_recorded_quote_is_what_independent_parsers_make_of_it() -> None:
    events = recorded()
    count = 0
    for row in lines(ROOT / "tests" / "data" / "binance.expected_quotes.jsonl.gz"):
        _, received, found = events[row["n"]]
        bid, bid_volume = float(row["bid_px"]), float(row["bid_sz"])
        ask, ask_volume = float(row["ask_px"]), float(row["ask_sz"])
        update_id = row["update_id"]
        wanted = Quote("binance", row["symbol"], bid, bid_volume, ask, ask_volume, received, received, update_id)
        assert found == [wanted], f"line {row['n']}"
        count += 1
    assert count == 28_124
    assert count == sum(isinstance(event, Quote) for _, _, found in events.values() for event in found)


def test_recorded_depth_and_kline_messages_hold_no_event() -> None:
    others = [found for frame, _, found in recorded().values() if b"@depth" in frame or b"@kline" in frame]
    assert others == [[]] * 10


def test_raw_frames_give_the_same_events_as_the_recorded_combined_ones() -> None:
    for frame, received, found in list(recorded().values())[::50]:
        assert binance.decode(raw(json.loads(frame)["data"]), received) == found


# ------------------------------------------------------------------------------------------------- field by field


def test_a_trade_is_a_tick() -> None:
    wanted = Tick("binance", "BTC/USDT", 61837.63, 0.02, "sell", NOW_MS * 1_000_000, RECEIVED, 3735683259)
    assert decode(TRADE) == [wanted]


def test_an_aggregate_trade_is_a_tick_with_the_aggregate_id() -> None:
    wanted = Tick("binance", "NKN/USDT", 0.3528, 58.0, "buy", 1633998523963000000, RECEIVED, 15683430)
    assert decode(AGG_TRADE) == [wanted]


def test_a_book_ticker_is_a_quote_of_the_moment_it_was_received() -> None:
    wanted = Quote("binance", "BTC/USDT", 61837.63, 3.78826, 61837.64, 1.54698, RECEIVED, RECEIVED, 50093239212)
    assert decode(BOOK) == [wanted]


@pytest.mark.parametrize("payload", [TRADE, OLD_TRADE, AGG_TRADE, BOOK, USDM_BOOK])
def test_raw_combined_spaced_and_reordered_frames_give_the_same_events(payload: dict[str, Any]) -> None:
    events = decode(payload)
    assert len(events) == 1
    assert binance.decode(combined(payload), RECEIVED) == events
    assert binance.decode(json.dumps(payload, indent=2).encode(), RECEIVED) == events
    assert decode(dict(reversed(payload.items()))) == events
    turned_round = {"data": payload, "stream": "somewhere@else"}
    assert decode(turned_round) == events


def test_order_ids_of_old_trades_are_not_taken_for_prices() -> None:
    assert decode(OLD_TRADE) == decode(TRADE)


@pytest.mark.parametrize("payload", [TRADE, AGG_TRADE])
def test_the_side_is_the_takers(payload: dict[str, Any]) -> None:
    assert one_tick(payload | {"m": True}).side == "sell"  # the buyer was the maker
    assert one_tick(payload | {"m": False}).side == "buy"


@pytest.mark.parametrize("payload", [TRADE, AGG_TRADE])
def test_times_in_microseconds_are_told_by_their_size(payload: dict[str, Any]) -> None:
    assert one_tick(payload | {"T": NOW_MS}).timestamp == NOW_MS * 1_000_000
    assert one_tick(payload | {"T": NOW_MS * 1_000 + 7}).timestamp == (NOW_MS * 1_000 + 7) * 1_000
    assert one_tick(payload | {"T": 10**15}).timestamp == 10**18
    assert one_tick(payload | {"T": INT64_MAX // 1_000_000}).timestamp <= INT64_MAX
    assert one_tick(payload | {"T": INT64_MAX // 1_000}).timestamp <= INT64_MAX


@pytest.mark.parametrize("time", [-1, 10**15 - 1, INT64_MAX // 1_000_000 + 1, INT64_MAX // 1_000 + 1, 10**40, 1.5])
def test_a_time_that_is_neither_milliseconds_nor_microseconds_is_refused(time: float) -> None:
    with pytest.raises(DecodeError):
        decode(TRADE | {"T": time})
    with pytest.raises(DecodeError):
        decode(USDM_BOOK | {"T": time})


def test_a_futures_book_ticker_is_stamped_with_its_own_time() -> None:
    assert one_quote(USDM_BOOK).timestamp == NOW_MS * 1_000_000
    assert one_quote(BOOK | {"E": NOW_MS + 3}).timestamp == (NOW_MS + 3) * 1_000_000
    assert one_quote(BOOK | {"T": NOW_MS * 1_000}).timestamp == NOW_MS * 1_000_000


def test_futures_trades_count_only_if_made_on_the_market() -> None:
    assert one_tick(TRADE | {"X": "MARKET"}) == one_tick(TRADE)
    for execution in ("INSURANCE_FUND", "ADL", "NA"):
        assert decode(TRADE | {"X": execution, "p": "0", "q": "0"}) == []


@pytest.mark.parametrize("value", ["0", "0.00000000", "-1.5", "1e-30"])
def test_odd_but_well_formed_numbers_go_through_for_the_ingress_to_judge(value: str) -> None:
    assert one_tick(TRADE | {"p": value}).price == float(value)
    assert one_tick(TRADE | {"q": value}).volume == float(value)
    quote = one_quote(BOOK | {"b": value, "B": value, "a": value, "A": value})
    assert (quote.bid, quote.bid_volume, quote.ask, quote.ask_volume) == (float(value),) * 4


def test_prices_without_decimals_are_floats_all_the_same() -> None:
    quote = one_quote(BOOK | {"b": "61837", "a": "61838", "A": "2"})
    assert [type(value) for value in (quote.bid, quote.ask, quote.ask_volume)] == [float] * 3
    assert (quote.bid, quote.ask) == (61837.0, 61838.0)


def test_a_pair_that_is_not_in_the_list_keeps_the_exchanges_spelling() -> None:
    assert one_tick(TRADE | {"s": "NEWUSDT"}).symbol == "NEWUSDT"
    assert one_quote(BOOK | {"s": "NEWUSDT"}).symbol == "NEWUSDT"


def test_products_handed_in_replace_the_list() -> None:
    futures = decoder("binance", {"BTCUSDT": "BTC/USDT:PERP"})
    assert [event.symbol for event in futures.decode(raw(TRADE), 0) if isinstance(event, Tick)] == ["BTC/USDT:PERP"]
    assert [event.symbol for event in futures.decode(raw(AGG_TRADE), 0) if isinstance(event, Tick)] == ["NKNUSDT"]


# ------------------------------------------------------------------------------------------------------- no event


@pytest.mark.parametrize(
    "text",
    [
        '{"result":null,"id":1}',
        '{"result":["btcusdt@aggTrade"],"id":3}',
        '{"result":true,"id":"a word"}',
        '{"code":2,"msg":"Invalid request: unknown variant SUB, expected one of SUBSCRIBE","id":1}',
        '{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"}',
        '{"id":null,"error":{"code":3,"msg":"Invalid json"}}',
        '{"e":"serverShutdown","E":1770123456789}',
        '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
        '{"e":"depthUpdate","E":1,"s":"NKNUSDT","U":5,"u":7,"b":[["0.35","6195"]],"a":[]}',
        '{"stream":"nknusdt@depth@100ms","data":{"e":"depthUpdate","E":1,"s":"NKNUSDT","U":5,"u":7,"b":[],"a":[["1","2"]]}}',
        '{"stream":"nknusdt@depth5@100ms","data":{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[]}}',
        '{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[["0.0026","100"]]}',
        '{"e":"kline","E":1,"s":"NKNUSDT","k":{"t":1,"T":2,"s":"NKNUSDT","i":"1m","o":"0.35","x":false}}',
        '{"e":"24hrTicker","E":1,"s":"BNBBTC","p":"0.0015","P":"250.00","b":"0.0024","a":"0.0026","B":"10"}',
        '[{"e":"24hrMiniTicker","E":1,"s":"BNBBTC","c":"0.0025"}]',
        '{"stream":"!miniTicker@arr","data":[{"e":"24hrMiniTicker","E":1,"s":"BNBBTC"}]}',
        '{"e":"blockTrade","E":1,"s":"BTCUSDT","t":1,"p":"1","q":"1","T":1,"m":true}',
        '{"stream":"btcusdt@blockTrade","data":{"e":"blockTrade","E":1,"s":"BTCUSDT","t":1,"p":"1","q":"1","T":1,"m":true}}',
        '{"e":"executionReport","E":1,"s":"ETHBTC","c":"x","S":"BUY","p":"0.1","q":"1","x":"TRADE","X":"FILLED","t":7,"T":1,"m":false,"u":9}',
        '{"e":"outboundAccountPosition","E":1,"u":1564034571073,"B":[{"a":"ETH","f":"1","l":"0"}]}',
        '{"e":"not known yet","t":{"nested":[1]},"p":null,"T":"text","m":[]}',
        "{}",
    ],
)
def test_well_formed_messages_without_a_trade_or_quote_give_nothing(text: str) -> None:
    assert binance.decode(text.encode(), RECEIVED) == []


def test_fields_that_are_not_known_yet_are_ignored() -> None:
    news = {"new": {"deep": [1, None]}, "Z": "1", "st": 2}
    for payload in (TRADE, AGG_TRADE, BOOK):
        assert decode(payload | news) == decode(payload)


# ---------------------------------------------------------------------------------------------- broken protocol


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        *((payload, field) for payload in (TRADE, AGG_TRADE) for field in ("s", "p", "q", "T", "m")),
        (TRADE, "t"),
        (AGG_TRADE, "a"),
        *((payload, field) for payload in (BOOK, USDM_BOOK) for field in "usbBaA"),
    ],
)
def test_a_missing_empty_or_wrongly_typed_field_breaks_the_protocol(payload: dict[str, Any], field: str) -> None:
    missing = {name: value for name, value in payload.items() if name != field}
    values: list[object] = [None, [], {}, "" if field == "s" else "word"]
    for broken in (missing, *(payload | {field: value} for value in values)):
        for frame in (raw(broken), combined(broken)):
            with pytest.raises(DecodeError):
                binance.decode(frame, RECEIVED)


@pytest.mark.parametrize("value", ["NaN", "nan", "Infinity", "-inf", "1e400", "0x10", "1_000", "", " 1", True])
def test_numbers_that_are_none_break_the_protocol(value: object) -> None:
    for payload, fields in ((TRADE, "pq"), (BOOK, "bBaA")):
        for field in fields:
            with pytest.raises(DecodeError):
                decode(payload | {field: value})


@pytest.mark.parametrize("value", [INT64_MAX + 1, -(2**63) - 1, 10**30, 1.5, True])
def test_ids_that_no_int64_holds_break_the_protocol(value: object) -> None:
    for payload, field in ((TRADE, "t"), (AGG_TRADE, "a"), (BOOK, "u")):
        with pytest.raises(DecodeError):
            decode(payload | {field: value})


def test_the_greatest_id_is_kept_exactly() -> None:
    assert one_tick(TRADE | {"t": INT64_MAX}).trade_id == INT64_MAX
    assert one_tick(AGG_TRADE | {"a": INT64_MAX}).trade_id == INT64_MAX
    assert one_quote(BOOK | {"u": INT64_MAX}).update_id == INT64_MAX


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b" ",
        b"null",
        b"1",
        b'"text"',
        b"[]",
        b"[1]",
        b"{",
        b"\x00",
        b"\xff\xfe",
        raw(TRADE)[:-1],
        raw(TRADE) + b"x",
        raw(TRADE).replace(b"BTCUSDT", b"BTC\xffUSDT"),
        raw(TRADE).replace(b'"M":true', b'"M":"\xff"'),
        b'{"e":"trade","t":' + b"9" * 10_000 + b"}",
        b"[" * 100_000,
        b'{"x":' * 100_000,
        b'{"e":"depthUpdate","b":' + b"[" * 100_000,
        b'{"stream":"btcusdt@trade"}',
        b'{"stream":"btcusdt@trade","data":null}',
        b'{"stream":"btcusdt@trade","data":{}}',
        b'{"stream":"btcusdt@trade","data":"text"}',
        b'{"stream":"btcusdt@bookTicker","data":{"s":"BTCUSDT"}}',
        b'{"e":5}',
    ],
    ids=lambda frame: repr(frame[:40]),
)
def test_frames_that_break_the_protocol_are_refused(frame: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        binance.decode(frame, RECEIVED)
    assert caught.value.exchange == "binance"
    assert caught.value.frame == frame


# ------------------------------------------------------------------------------------------------------ any bytes


def assert_events_or_decode_error(frame: bytes) -> None:
    try:
        events = binance.decode(frame, RECEIVED)
    except DecodeError:
        return
    for event in events:
        assert isinstance(event, (Tick, Quote))
        assert event.symbol
        assert event.received == RECEIVED
        assert 0 <= event.timestamp <= INT64_MAX


@given(st.binary())
def test_no_bytes_raise_anything_but_decode_error(frame: bytes) -> None:
    assert_events_or_decode_error(frame)


@given(st.data())
def test_no_damage_to_a_real_frame_raises_anything_but_decode_error(samples: list[bytes], data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from(samples), label="frame"))
    places = st.integers(0, len(frame) - 1)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4), label="bytes"):
        frame[place] = byte
    start, end = sorted(data.draw(st.tuples(places, places), label="cut out"))
    assert_events_or_decode_error(bytes(frame))
    assert_events_or_decode_error(bytes(frame[:end]))
    assert_events_or_decode_error(bytes(frame[:start] + frame[end:]))


WORDS = st.sampled_from(["", "1.5", "2", "-1", "nan", "null", "true", "trade", "aggTrade", "bookTicker", "MARKET"])
FIELDS = st.sampled_from("estpqbBaATEmXu")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from([TRADE, AGG_TRADE, BOOK, USDM_BOOK]), st.dictionaries(FIELDS, JSON, max_size=3))
def test_no_values_raise_anything_but_decode_error(payload: dict[str, Any], changes: dict[str, Any]) -> None:
    for form in (raw, combined):
        assert_events_or_decode_error(form(payload | changes))


@given(JSON)
def test_no_json_raises_anything_but_decode_error(value: object) -> None:
    assert_events_or_decode_error(raw(value))
    assert_events_or_decode_error(raw({"stream": "btcusdt@trade", "data": value}))


# ------------------------------------------------------------------------------------------------- the shortest way


def test_the_shortest_way_gives_what_the_longer_one_gives() -> None:
    """Usual forms have structs of their own, all else is read by one for everything: both must say the same of any frame."""
    decoder = BinanceDecoder()
    for frame, received, found in list(recorded().values())[::20]:
        assert decoder._decode_any(frame, received) == found
    for payload in (TRADE, OLD_TRADE, AGG_TRADE, BOOK, USDM_BOOK):
        for frame in (raw(payload), combined(payload)):
            assert decoder._decode_any(frame, RECEIVED) == decoder.decode(frame, RECEIVED) != []


@given(st.data())
def test_the_shortest_way_gives_what_the_longer_one_gives_of_damaged_frames(
    samples: list[bytes], data: st.DataObject
) -> None:
    decoder = BinanceDecoder()
    frame = bytearray(samples[data.draw(st.integers(0, len(samples) - 1), label="frame")])
    places = st.integers(0, len(frame) - 1)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(32, 127)), max_size=2), label="bytes"):
        frame[place] = byte
    assert outcome(decoder.decode, bytes(frame)) == outcome(decoder._decode_any, bytes(frame))


def outcome(decode: Callable[[bytes, int], list[Event]], frame: bytes) -> list[Event] | str:
    try:
        return decode(frame, RECEIVED)
    except DecodeError as error:
        return str(error)


def test_a_long_frame_is_only_asked_what_it_is() -> None:
    news = {"new": "x" * 10_000}
    depth = {"e": "depthUpdate", "s": "BTCUSDT", "u": 1, "b": [["1", "2"]] * 2_000}
    assert decode(depth) == []
    assert decode({"stream": "btcusdt@depth20", "data": depth}) == []
    assert decode([{"e": "24hrMiniTicker", "s": "BNBBTC"}] * 2_000) == []
    for payload in (TRADE | news, BOOK | news, {"stream": "btcusdt@trade", "data": TRADE | news}):
        with pytest.raises(DecodeError, match="expected a trade or quote in at most 8192 bytes"):
            decode(payload)
    with pytest.raises(DecodeError, match="truncated"):
        binance.decode(raw(depth)[:-1], RECEIVED)
