from __future__ import annotations

import gzip
import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ReplayError
from engine.events import Quote, Tick
from feeds import decoder
from replay.exchange import binance_data
from replay.rewrite import Movable
from replay.sources import BUILT_IN, Line
from replay.tape import Due, Pace, Tape
from tests.folding import LTC

MS = 1_000_000
SECOND = 1_000_000_000
NOW = 1_790_000_000_123_456_789
EVENT_TIMES = "E", "T"


def line(frame: str | bytes, at: int, connection: str = "c", kind: str = "recv") -> Line:
    """A line of a capture."""
    text = frame.decode() if isinstance(frame, bytes) else frame
    return Line(kind, at, connection, msgspec.Raw(msgspec.json.encode(text)))


def trade(number: int, at_ms: int, symbol: str = "BTCUSDT", price: str = "1.50") -> str:
    return f'{{"e":"trade","E":{at_ms},"s":"{symbol}","t":{number},"p":"{price}","q":"1","T":{at_ms - 1},"m":true,"M":true}}'


def recorded(path: Path = BUILT_IN) -> list[Line]:
    with gzip.open(path) as file:
        return [msgspec.json.decode(text, type=Line) for text in file]


def payload_of(frame: bytes) -> bytes:
    """What a frame of the recording says without its combined wrapping, cut by hand."""
    start = frame.index(b'"data":') + len(b'"data":')
    return frame[start:-1]


def movable(frame: bytes) -> Movable | None:
    """What a frame says, if it is market data."""
    found = binance_data.movable(frame)
    assert len(found) <= 1
    return found[0] if found else None


def play(tape: Tape, until: int, pace: Pace, after: int = -1, looping: bool = True) -> Iterator[tuple[Due, bytes]]:
    for due in tape.due(after, until, looping=looping):
        yield due, tape.payload(due, pace)


# What moves, and what does not


def test_every_recorded_message_comes_back_byte_for_byte() -> None:
    for recorded_line in recorded():
        if recorded_line.kind == "recv":
            message = movable(recorded_line.frame)
            assert message is not None
            assert message.payload() == payload_of(recorded_line.frame)


def test_only_the_numbers_of_the_protocol_move() -> None:
    frame = (
        b'{ "e" : "trade", "note": "\\"E\\":17, 100% {", "E":1680652800000,"s":"BTCUSDT","t":3071245454,"p":"28165.47000000",'
        b'"q":"0.00056000","b":20720542158,"a":20720542592,"T":1680652799999,"m":true,"M":true,"x":{"E":5,"t":[6,{"T":7}]}}'
    )
    message = movable(frame)
    assert message is not None
    assert message.template.count(b"%d") == 3
    assert message.payload() == frame
    assert message.template % (1, 2, 3) == frame.replace(b"1680652800000", b"1").replace(b"3071245454", b"2").replace(
        b"1680652799999", b"3"
    )


@pytest.mark.parametrize(
    ("frame", "stream", "moving"),
    [
        ('{"u":1,"s":"BTCUSDT","b":"2","B":"3","a":"4","A":"5"}', "btcusdt@bookTicker", [1]),
        ('{"e":"aggTrade","E":9,"s":"BNBBTC","a":12,"p":"1","q":"1","f":100,"l":105,"T":8,"m":true,"M":true}', "bnbbtc@aggTrade", [9, 12, 100, 105, 8]),
        ('{"e":"depthUpdate","E":9,"s":"NKNUSDT","U":10,"u":12,"b":[["0.3","61"]],"a":[]}', "nknusdt@depth", [9, 10, 12]),
        ('{"stream":"nknusdt@depth5@100ms","data":{"lastUpdateId":160,"bids":[["1","2"]],"asks":[]}}', "nknusdt@depth5@100ms", [160]),
        ('{"e":"kline","E":9,"s":"X","k":{"t":1,"T":2,"s":"X","i":"1m","f":3,"L":4,"n":30}}', "x@kline_1m", [9, 1, 2, 3, 4]),
        ('{"e":"kline","E":9,"s":"X","k":{"t":1,"T":2,"s":"X","i":"1h","f":-1,"L":-1,"n":0}}', "x@kline_1h", [9, 1, 2]),
        ('{"e":"24hrTicker","E":9,"s":"X","O":1,"C":2,"F":3,"L":4,"n":5}', "x@ticker", [9, 1, 2, 3, 4]),
        ('{"e":"blockTrade","E":9,"s":"X","T":8,"t":7}', "x@blockTrade", [9, 8]),
        ('{"stream":"x@trade","data":{"e":"trade","E":9,"s":"X","t":7,"T":8}}', "x@trade", [9, 7, 8]),
        ('{"\\u0065":"trade","\\u0045":9,"s":"X","t":7,"T":8}', "x@trade", [9, 7, 8]),
    ],
)  # fmt: skip
def test_each_kind_of_message_moves_its_own_fields(frame: str, stream: str, moving: list[int]) -> None:
    message = movable(frame.encode())
    assert message is not None
    assert message.stream == stream
    assert [number.value // (number.unit or 1) for number in message.numbers] == moving


@pytest.mark.parametrize(
    "frame",
    ['{"result":null,"id":1}', '{"code":2,"msg":"x"}', '{"stream":"!miniTicker@arr","data":[{"e":"24hrMiniTicker"}]}', "",
     "[]", "nonsense", '{"e":"trade"', '{"e":"serverShutdown","E":1}', '{"stream":"a@trade","data":"text"}', "[" * 5000],
)  # fmt: skip
def test_what_is_no_market_data_of_a_symbol_is_passed_over(frame: str) -> None:
    assert movable(frame.encode()) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["E", "T", "t", "a", "u", "U", "f", "l", "k", "x", "%d", 'q"'])
                       | st.text(max_size=2), JSON, max_size=8),
       st.sampled_from(["trade", "aggTrade", "bookTicker", "depthUpdate", "kline", "24hrTicker", "new"]),
       st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]), st.booleans())  # fmt: skip
def test_any_message_comes_back_byte_for_byte(
    fields: dict[str, Any], kind: str, wrapped: bool, separators: tuple[str, str], ascii_only: bool
) -> None:
    fields |= {"e": kind, "s": "BTCUSDT"}
    text = json.dumps(fields, separators=separators, ensure_ascii=ascii_only)
    payload = text.encode()
    frame = b'{"stream":"btcusdt@x","data":' + payload + b"}" if wrapped else payload
    message = movable(frame)
    assert message is not None
    assert message.payload() == payload
    # Moved by 1, the same JSON with those numbers greater, and nothing else changed.
    moved = json.loads(message.template % tuple(number.value // (number.unit or 1) + 1 for number in message.numbers))
    changed = {name for name in fields if moved[name] != fields[name]}
    assert changed <= {"E", "T", "t", "a", "f", "l", "u", "U", "k", "F", "L", "O", "C"}
    assert all(moved[name] == fields[name] + 1 for name in changed if name != "k")


@given(st.binary())
def test_no_bytes_make_reading_a_message_fail(frame: bytes) -> None:
    found = movable(frame)
    assert found is None or isinstance(found, Movable)


# Laws of the tape


@st.composite
def captures(draw: st.DrawFn) -> list[Line]:
    """Connections of trades with contiguous ids and of quotes, whose host's clock is off by up to 3 s."""
    lines = []
    for number in range(draw(st.integers(1, 3))):
        symbol = f"S{number}USDT"
        at = 1_700_000_000 * SECOND + draw(st.integers(0, 10**12))
        first, update = draw(st.integers(1, 10**10)), draw(st.integers(1, 10**10))
        skew_ms = draw(st.integers(-3_000, 3_000))
        moment_ms = at // MS + skew_ms
        for _ in range(draw(st.integers(1, 12))):
            step = draw(st.integers(0, 400 * MS))
            at += step
            moment_ms = max(moment_ms, at // MS + skew_ms - draw(st.integers(0, 50)))
            if draw(st.booleans()):
                lines.append(line(trade(first, moment_ms, symbol), at, f"c{number}"))
                first += 1
            else:
                update += draw(st.integers(1, 9))
                quote = f'{{"u":{update},"s":"{symbol}","b":"1.00","B":"2.0","a":"3.000","A":"4"}}'
                lines.append(line(quote, at, f"c{number}"))
    return lines


PACES = st.builds(Pace.of, st.just(NOW), st.sampled_from([0.5, 1.0, 1.7, 10.0, 333.3]))


@given(captures(), PACES, st.integers(0, 10**7))
def test_ids_go_on_over_loops_and_times_never_step_back_nor_lie_ahead(lines: list[Line], pace: Pace, loop: int) -> None:
    tape = Tape.from_lines("binance", "x", lines)
    longest = max(track.duration_ns for track in tape.tracks)
    after = loop * longest
    ids: dict[str, int] = {}
    times: dict[tuple[str, str], int] = {}
    for due, payload in play(tape, after + 4 * longest, pace, after):
        message, stream = json.loads(payload), tape.stream(due)
        number = message.get("t") or message["u"]
        if stream in ids:
            assert number == ids[stream] + 1 if stream.endswith("trade") else number > ids[stream]
        ids[stream] = number
        for name in EVENT_TIMES:
            if name in message:
                assert message[name] >= times.get((stream, name), 0)
                assert message[name] * MS <= pace.moment(due[0])
                times[stream, name] = message[name]


@given(captures(), st.lists(st.integers(0, 4 * SECOND), max_size=20), st.booleans(), st.integers(-1, 10**12))
def test_at_a_position_exactly_the_messages_are_due_that_lie_before_it(
    lines: list[Line], steps: list[int], looping: bool, after: int
) -> None:
    tape = Tape.from_lines("binance", "x", lines)
    end = after + sum(steps)
    whole = list(tape.due(after, end, looping=looping))
    assert whole == sorted(whole)
    assert all(after < due[0] <= end for due in whole)
    pieces: list[Due] = []
    position = after
    for step in steps:
        following = tape.following(position, looping=looping)
        found = list(tape.due(position, position + step, looping=looping))
        assert bool(found) == (following is not None and following <= position + step)
        assert not found or found[0][0] == following
        pieces += found
        position += step
    assert pieces == whole
    for track in tape.tracks:
        mine = [due for due in whole if due[1] == track.number]
        count = [0 if at < 0 else at // track.duration_ns * len(track.positions) + bisect_right(track.positions, at % track.duration_ns)
                 for at in (after, end)] if looping else [bisect_right(track.positions, at) for at in (after, end)]  # fmt: skip
        assert len(mine) == count[1] - count[0]


@given(captures())
def test_the_first_loop_has_the_recorded_ids_in_the_recorded_order_and_all_else_byte_for_byte(
    lines: list[Line],
) -> None:
    tape = Tape.from_lines("binance", "x", lines)
    for track in tape.tracks:
        sent = [track.payload(0, index, Pace.of(NOW, 1.0)) for index in range(len(track.positions))]
        symbols = set(track.symbols)
        was = [one.frame for one in lines if json.loads(one.frame)["s"] in symbols]
        blank = re.compile(rb'("[ET]":)\d+')
        assert [blank.sub(rb"\1", frame) for frame in sent] == [blank.sub(rb"\1", frame) for frame in was]
        positions = [one.recv_ns for one in lines if json.loads(one.frame)["s"] in symbols]
        assert track.positions == [at - positions[0] for at in positions]


@given(captures(), st.integers(0, 1000), st.integers(1, 4))
def test_at_the_recorded_pace_times_keep_their_distances(lines: list[Line], loop: int, loops: int) -> None:
    tape = Tape.from_lines("binance", "x", lines)
    track = tape.tracks[0]
    pace = Pace.of(NOW, 1.0)
    was = [json.loads(one.frame).get("T") for one in lines if json.loads(one.frame)["s"] in track.symbols]
    for number in range(loop, loop + loops):
        sent = [json.loads(track.payload(number, index, pace)).get("T") for index in range(len(was))]
        assert len({new - old for new, old in zip(sent, was, strict=True) if old is not None}) <= 1


@given(st.integers(-(10**18), 10**18), st.fractions(Fraction(1, 1000), 1000, max_denominator=1000))
def test_a_position_is_reached_at_its_moment_and_not_before(position: int, speed: Fraction) -> None:
    pace = Pace.of(NOW, float(speed))
    moment = pace.moment(position)
    assert pace.position(moment) >= position
    assert pace.position(moment - 1) < position


# The recordings


def test_the_built_in_recording_loops_without_a_gap_and_without_a_time_in_the_future() -> None:
    tape = Tape.of(BUILT_IN)
    assert [track.symbols[0] for track in tape.tracks] == ["BTCUSDT", "NKNUSDT"]
    assert tape.passed_over == 0
    # Each connection loops over its own duration, which is hardly longer than the recording.
    assert [round(track.duration_ns / SECOND, 1) for track in tape.tracks] == [345.9, 29.4]
    pace = Pace.of(NOW, 1.0)
    feed = decoder("binance")
    ids: dict[tuple[str, type], int] = {}
    counts: defaultdict[str, int] = defaultdict(int)
    for due, payload in play(tape, 2 * tape.tracks[0].duration_ns, pace):
        sent_ns = pace.moment(due[0])
        for event in feed.decode(payload, sent_ns):
            key = event.symbol, type(event)  # type: ignore[attr-defined]
            if isinstance(event, Tick):
                assert event.trade_id is not None
                assert event.timestamp <= sent_ns
                assert event.trade_id == ids.get(key, event.trade_id - 1) + 1
                ids[key] = event.trade_id
                counts[event.symbol] += 1
            elif isinstance(event, Quote):
                assert event.update_id is not None
                assert event.update_id > ids.get(key, 0)
                ids[key] = event.update_id
    assert counts["BTC/USDT"] == 2 * 9_757
    assert counts["NKN/USDT"] in (23, 24)


def test_the_clock_of_the_recording_host_is_set_right() -> None:
    tape = Tape.of(BUILT_IN)
    pace = Pace.of(NOW, 1.0)
    ages = [
        pace.moment(due[0]) - json.loads(payload)["E"] * MS
        for due, payload in play(tape, tape.tracks[0].positions[-1], pace)
        if tape.stream(due) == "btcusdt@trade"
    ]
    assert 0 <= min(ages) < 2 * MS
    assert max(ages) < 30 * MS


# How captures become tracks


def kept_ids(tape: Tape) -> list[list[int]]:
    pace = Pace.of(NOW, 1.0)
    return [
        [json.loads(track.payload(0, index, pace))["t"] for index in range(len(track.positions))]
        for track in tape.tracks
    ]


def test_connections_of_the_same_symbols_are_one_market_with_their_distance_kept() -> None:
    ms = 1_700_000_000_000
    lines = [
        line(trade(1, ms), ms * MS, "a"),
        line(trade(7, ms, "ETHUSDT"), (ms + 5) * MS, "other"),
        line(trade(2, ms + 10), (ms + 10) * MS, "a"),
        line(trade(3, ms + 500), (ms + 500) * MS, "b"),
    ]
    tape = Tape.from_lines("binance", "x", lines)
    assert kept_ids(tape) == [[1, 2, 3], [7]]
    assert tape.tracks[0].positions == [0, 10 * MS, 500 * MS]
    assert tape.tracks[1].positions == [0]


def test_nobody_waits_out_a_night_between_two_recordings_of_a_market() -> None:
    ms = 1_700_000_000_000
    night = 10 * 3_600_000
    lines = [
        line(trade(1, ms), ms * MS, "a"),
        line(trade(2, ms + 10), (ms + 10) * MS, "a"),
        line(trade(9, ms + night), (ms + night) * MS, "b"),
        line(trade(10, ms + night + 20), (ms + night + 20) * MS, "b"),
    ]
    tape = Tape.from_lines("binance", "x", lines)
    assert tape.tracks[0].positions == [0, 10 * MS, 60_010 * MS, 60_030 * MS]
    pace = Pace.of(NOW, 1.0)
    times = [json.loads(payload)["E"] for _, payload in play(tape, 61_000 * MS, pace, looping=False)]
    assert [time - times[0] for time in times] == [0, 10, 60_010, 60_030]


def test_several_files_are_one_tape_even_if_their_connections_have_equal_names(tmp_path: Path) -> None:
    ms = 1_700_000_000_000
    paths = []
    for hour in range(2):
        path = tmp_path / f"binance-{hour}.jsonl"
        rows = [{"kind": "recv", "recv_ns": (ms + 1000 * hour + i) * MS, "conn": "binance 1", "raw": trade(5 * hour + i, ms + i)}
                for i in range(5)]  # fmt: skip
        path.write_bytes(b"\n".join(map(msgspec.json.encode, rows)) + b"\n")
        paths.append(path)
    tape = Tape.of(*paths)
    assert tape.name == "binance-0.jsonl, binance-1.jsonl"
    assert kept_ids(tape) == [list(range(10))]
    assert tape.tracks[0].positions[5] == 1000 * MS


def test_a_raw_connection_that_recorded_aggregates_keeps_their_ids_contiguous_too() -> None:
    ms = 1_700_000_000_000
    frames = [
        f'{{"e":"aggTrade","E":{ms},"s":"BNBBTC","a":{12 + i},"p":"1","q":"1","f":{100 + 6 * i},"l":{105 + 6 * i},"T":{ms},"m":true}}'
        for i in range(3)
    ]
    tape = Tape.from_lines("binance", "x", [line(frame, ms * MS + i * MS) for i, frame in enumerate(frames)])
    found = [json.loads(payload) for _, payload in play(tape, tape.tracks[0].duration_ns * 3 - 1, Pace.of(NOW, 1.0))]
    assert [message["a"] for message in found] == list(range(12, 21))
    assert [message["f"] for message in found] == list(range(100, 154, 6))
    assert [message["l"] for message in found] == list(range(105, 159, 6))


def test_a_time_that_is_no_clocks_fault_moves_nobody_elses() -> None:
    ms = 1_700_000_000_000
    absurd = trade(2, ms + 400 * 86_400_000)
    tape = Tape.from_lines("binance", "x", [line(trade(1, ms), ms * MS), line(absurd, (ms + 1) * MS)])
    pace = Pace.of(NOW, 1.0)
    first = json.loads(tape.tracks[0].payload(0, 0, pace))
    assert first["E"] * MS > pace.moment(0) - MS
    assert tape.tracks[0].duration_ns <= 61 * SECOND


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([], "expected messages of a market, found none"),
        (['{"result":null,"id":1}'], "found none in 1 received ones"),
    ],
)
def test_a_capture_without_a_market_is_refused(frames: Sequence[str], said: str) -> None:
    with pytest.raises(ReplayError, match=said):
        Tape.from_lines("binance", "x", [line(frame, 1) for frame in frames])


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="captures of mtgox cannot be served, only those of binance, coinbase"):
        Tape.from_lines("mtgox", "x", [])
    with pytest.raises(ReplayError, match="expected a capture"):
        Tape.of(LTC)
    with pytest.raises(ReplayError, match="no such file"):
        Tape.of(tmp_path / "none.jsonl")
    with pytest.raises(ReplayError, match="one exchange, found none"):
        Tape.of()


def test_lines_that_hold_no_frame_are_passed_over_and_counted() -> None:
    ms = 1_700_000_000_000
    broken = Line("recv", ms * MS, "c", msgspec.Raw(b'"\\ud800"'))
    tape = Tape.from_lines("binance", "x", [broken, line(trade(1, ms), ms * MS), line("", ms * MS, kind="connect")])
    assert tape.passed_over == 1
    assert tape.streams == ("btcusdt@trade",)
