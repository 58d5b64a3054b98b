"""Plans of faults: what they may say, when their faults happen, and what a treated message looks like."""

from __future__ import annotations

import json
import math
import random
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, DecodeError
from engine.events import Event, Quote, Tick
from feeds import decoder
from replay.exchange.fault_frames import (
    UNKNOWN_TYPES,
    How,
    bad_value,
    book,
    cut,
    fragments,
    with_bytes,
    with_unknown_field,
)
from replay.exchange.fault_market import named, rejection
from replay.exchange.fault_plan import FAULTS_MAX, KINDS, Bad, Mute, parse, read
from replay.exchange.fault_schedule import Window, generator, windows
from replay.exchange.faults import EFFECTS, load
from replay.sources import BUILT_INS, Capture

DOCS = Path(__file__).parents[2] / "docs"
FEEDS = tuple(BUILT_INS)


def one(text: str) -> Mute:
    fault = parse(f'[[fault]]\nkind = "mute"\n{text}').fault[0]
    assert isinstance(fault, Mute)
    return fault


# Plans


def test_a_plan_is_read_into_faults_in_its_order() -> None:
    plan = parse(
        """
        [[fault]]
        kind = "mute"
        venue = "binance"
        symbols = ["BTC/USDT"]
        at_s = 10
        for_s = 20.5
        [[fault]]
        kind = "bad"
        venue = ["coinbase", "kucoin"]
        how = "crossed"
        share = 0.25
        """
    )
    assert plan.fault == (
        Mute(venue="binance", symbols=("BTC/USDT",), at_s=10.0, for_s=20.5),
        Bad(venue=("coinbase", "kucoin"), how="crossed", share=0.25),
    )
    assert [fault.kind for fault in plan.fault] == ["mute", "bad"]
    assert plan.fault[0].feeds == ("binance",)
    assert parse('[[fault]]\nkind = "lag"').fault[0].feeds == FEEDS


WRONG = {
    'kind = "mut"': "plan.toml: fault 1: kind = 'mut': no such kind of fault; did you mean mute?",
    "kind = 3": "plan.toml: fault 1: kind = 3: no such kind of fault; there are mute, drop, close",
    'venue = "binance"': "plan.toml: fault 1: kind is missing: expected one of mute, drop",
    'kind = "mute"\nfor_secs = 20': "plan.toml: fault 1 (mute): for_secs = 20: no such key; did you mean for_s?",
    'kind = "mute"\nvenue = "binanc"': "plan.toml: fault 1 (mute): venue = 'binanc': 'binanc' is none of its values; did you mean binance?",
    'kind = "mute"\nvenue = ["kucoin", 4]': "plan.toml: fault 1 (mute): venue = ['kucoin', 4]: 4 is none of its values; there are binance, coinbase, coinbase_exchange, kucoin",
    'kind = "mute"\nfor_s = 0': "plan.toml: fault 1 (mute): for_s = 0: expected float > 0.0",
    'kind = "mute"\nat_s = true': "plan.toml: fault 1 (mute): at_s = True: expected float, got bool",
    'kind = "mute"\nsymbols = "BTC/USDT"': "plan.toml: fault 1 (mute): symbols = 'BTC/USDT': expected array, got str",
    'kind = "mute"\npings = 1': "plan.toml: fault 1 (mute): pings = 1: expected bool, got int",
    'kind = "garble"\nhow = "cutt"': "plan.toml: fault 1 (garble): how = 'cutt': 'cutt' is none of its values; did you mean cut?",
    'kind = "limit"\nstatus = 500': "plan.toml: fault 1 (limit): status = 500: 500 is none of its values; there are 429, 418",
    'kind = "limit"\non = ["res"]': "plan.toml: fault 1 (limit): on = ['res']: 'res' is none of its values; did you mean rest?",
    'kind = "gap"\nshare = 1.5': "plan.toml: fault 1 (gap): share = 1.5: expected float <= 1.0",
    'kind = "mute"\nevery_s = 9': "plan.toml: fault 1 (mute): every_s = 9 without for_s: expected how long",
    'kind = "mute"\nevery_s = 9\nfor_s = 10': "plan.toml: fault 1 (mute): for_s + jitter_s = 10: expected at most every_s, 9",
    'kind = "mute"\ntimes = 2': "plan.toml: fault 1 (mute): times = 2 without every_s",
    'kind = "drop"\nevery_s = 1\njitter_s = 2': "plan.toml: fault 1 (drop): jitter_s = 2: expected at most every_s, 1",
    'kind = "expire"': "plan.toml: fault 1 (expire): venue = ['binance',",
    'kind = "renumber"': "plan.toml: fault 1 (renumber): expected either to, the first id, or by",
    'kind = "clock"': "plan.toml: fault 1 (clock): expected offset_ms, drift_ms_s, or both",
    'kind = "delist"': "plan.toml: fault 1 (delist): symbols is missing",
    'kind = "burst"': "plan.toml: fault 1 (burst): for_s is missing",
    'kind = "rest"': "plan.toml: fault 1 (rest): expected behind, delay_s, status, overlap or hangs",
    'kind = "close"\ncode = 1005': "plan.toml: fault 1 (close): code = 1005: expected one that a close frame may carry",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_mistake_in_a_plan_names_the_file_the_table_the_key_its_value_and_what_was_expected(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(f"[[fault]]\n{text}", "plan.toml")
    assert str(error.value).startswith(WRONG[text])


def test_a_mistake_is_found_in_whichever_table_it_stands() -> None:
    with pytest.raises(ConfigError, match=r"fault 2 \(lag\): delay = 1: no such key; did you mean delay_s"):
        parse('[[fault]]\nkind = "mute"\n[[fault]]\nkind = "lag"\ndelay = 1')


def test_what_is_no_plan_at_all_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a fault plan in TOML"):
        parse("[[fault")
    with pytest.raises(ConfigError, match=r"faults = .*no such key; expected \[\[fault\]\] tables"):
        parse('faults = ["mute"]')
    with pytest.raises(ConfigError, match="with two brackets"):
        parse('[fault]\nkind = "mute"')
    with pytest.raises(ConfigError, match=f"expected at most {FAULTS_MAX}"):
        parse('[[fault]]\nkind = "mute"\n' * (FAULTS_MAX + 1))
    with pytest.raises(ConfigError, match="cannot read the fault plan: No such file"):
        read(tmp_path / "none.toml")
    (tmp_path / "empty.toml").write_text("# nothing")
    with pytest.raises(
        ConfigError, match=r"empty.toml: no \[\[fault\]\] table, so nothing would happen: expected some"
    ):
        read(tmp_path / "empty.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match="which is UTF-8"):
        read(tmp_path / "latin.toml")


@settings(max_examples=200)
@given(
    st.sampled_from(sorted(KINDS)),
    st.dictionaries(
        st.sampled_from(["venue", "at_s", "for_s", "every_s", "jitter_s", "times", "symbols", "share", "how", "code"]),
        st.one_of(st.booleans(), st.integers(-3, 3), st.floats(-1, 9), st.sampled_from(["kucoin", "cut", ""])),
    ),
)
def test_whatever_a_table_holds_it_is_a_fault_or_a_config_error(kind: str, keys: dict[str, object]) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    try:
        plan = parse("\n".join(["[[fault]]", f'kind = "{kind}"', *lines]))
    except ConfigError:
        return
    assert plan.fault[0].kind == kind


def test_every_kind_has_an_effect() -> None:
    assert set(EFFECTS) == set(KINDS.values())


def test_each_kind_and_each_of_its_keys_is_in_the_reference() -> None:
    text = (DOCS / "faults.md").read_text()
    for name, kind in KINDS.items():
        section = text.partition(f"### `{name}`")[2].partition("\n### ")[0]
        assert section, f"{name} is not in docs/faults.md"
        own = set(kind.__struct_fields__) - {
            "venue",
            "symbols",
            "at_s",
            "for_s",
            "every_s",
            "jitter_s",
            "times",
            "share",
            "messages",
        }
        for key in own:
            assert f"`{key}`" in section, f"{key} of {name} is not in docs/faults.md"


def test_each_example_of_the_reference_is_a_plan() -> None:
    examples = (DOCS / "faults.md").read_text().split("```toml\n")[1:]
    assert len(examples) >= len(KINDS)
    kinds = {fault.kind for example in examples for fault in parse(example.partition("```")[0]).fault}
    assert kinds == set(KINDS)


def test_the_plan_to_watch_has_faults_of_all_venues() -> None:
    plan = load(DOCS / "faults.toml").plan
    assert {feed for fault in plan.fault for feed in fault.feeds} >= {"binance", "coinbase", "kucoin"}
    assert len(plan.fault) >= 10


# Schedules


def test_a_fault_without_a_schedule_is_on_from_the_beginning_to_the_end() -> None:
    assert list(windows(one(""), random.Random(1))) == [Window(0.0, math.inf)]


def test_a_fault_comes_once_or_again_and_again() -> None:
    assert list(windows(one("at_s = 5\nfor_s = 2"), random.Random(1))) == [Window(5.0, 7.0)]
    again = windows(one("at_s = 5\nfor_s = 2\nevery_s = 10"), random.Random(1))
    assert list(islice(again, 3)) == [Window(5.0, 7.0), Window(15.0, 17.0), Window(25.0, 27.0)]
    assert len(list(windows(one("for_s = 2\nevery_s = 10\ntimes = 4"), random.Random(1)))) == 4


def test_what_happens_at_a_moment_has_no_length() -> None:
    fault = parse('[[fault]]\nkind = "drop"\nat_s = 3\nevery_s = 4\ntimes = 2').fault[0]
    assert list(windows(fault, random.Random(1))) == [Window(3.0, 3.0), Window(7.0, 7.0)]


@settings(max_examples=50)
@given(st.integers(0, 2**64), st.floats(0, 5), st.floats(0.1, 5))
def test_windows_never_overlap_and_stay_within_their_jitter(seed: int, jitter_s: float, for_s: float) -> None:
    fault = one(f"at_s = 1\nfor_s = {for_s}\nevery_s = 10\njitter_s = {jitter_s}")
    found = list(islice(windows(fault, generator(seed, 1, fault, "windows")), 20))
    assert found == list(islice(windows(fault, generator(seed, 1, fault, "windows")), 20))
    for number, window in enumerate(found):
        assert 1 + 10 * number <= window.start <= 1 + 10 * number + jitter_s
    assert all(before.stop <= after.start for before, after in pairwise(found))


def test_seeds_places_and_uses_have_random_numbers_of_their_own() -> None:
    fault = one("")
    drawn = {
        generator(seed, number, fault, use).random()
        for seed in range(5)
        for number in range(5)
        for use in ("effects", "windows")
    }
    assert len(drawn) == 50


# Messages


def messages(feed: str) -> list[tuple[bytes, Tick | Quote]]:
    """Some recorded trades and quotes of a feed, and what its decoder makes of them."""
    found: dict[type[Event], list[tuple[bytes, Tick | Quote]]] = {Tick: [], Quote: []}
    decode = decoder(feed).decode
    for _, line in Capture(BUILT_INS[feed]).lines():
        for event in decode(line.frame, 1)[:1] if line.kind == "recv" else ():
            if isinstance(event, Tick | Quote) and len(found[type(event)]) < 5:
                found[type(event)].append((line.frame, event))
        if all(len(some) == 5 for some in found.values()):
            break
    return [*found[Tick], *found[Quote]]


@pytest.mark.parametrize("feed", FEEDS)
def test_a_bad_value_is_bad_in_this_alone(feed: str) -> None:
    decode = decoder(feed).decode
    for frame, event in messages(feed):
        is_trade = isinstance(event, Tick)

        def changed(how: How, frame: bytes = frame, is_trade: bool = is_trade) -> Tick | Quote:
            text = bad_value(frame, how, is_trade)
            assert text is not None
            found = decode(text, 1)[0]
            assert isinstance(found, Tick | Quote)
            return found

        if isinstance(event, Tick):
            assert changed("price_zero") == msgspec.structs.replace(event, price=0.0)
            assert changed("size_negative") == msgspec.structs.replace(event, volume=-event.volume)
            assert bad_value(frame, "crossed", True) is None
        else:
            assert changed("price_zero") == msgspec.structs.replace(event, bid=0.0)
            assert changed("crossed") == msgspec.structs.replace(event, bid=event.ask, ask=event.bid)
        for how in ("nan", "year_one"):
            text = bad_value(frame, how, is_trade)
            if text is None:
                assert (feed, how) == ("binance", "year_one")
                assert not is_trade
                continue
            with pytest.raises(DecodeError):
                decode(text, 1)


@pytest.mark.parametrize("feed", FEEDS)
def test_unknown_types_and_fields_change_nothing_for_a_decoder(feed: str) -> None:
    decode = decoder(feed).decode
    assert decode(UNKNOWN_TYPES[feed], 1) == []
    for size in (1_000, 100_000, 100_007):
        text = book(feed, size)
        assert len(text) == size
        assert json.loads(text)
        assert decode(text, 1) == []
    for frame, event in messages(feed):
        text = with_unknown_field(frame)
        assert text.count(b"tickfoldUnknown") >= 1
        assert json.loads(text)
        assert decode(text, 1)[0] == event


@settings(max_examples=100)
@given(st.binary(min_size=1, max_size=300), st.integers(2, 9), st.integers(0, 9))
def test_fragments_are_the_message_again(text: bytes, count: int, seed: int) -> None:
    frames = fragments(text, count, random.Random(seed))
    parts, kinds = [], []
    while frames:
        kinds.append(frames[0])
        length, head = (frames[1], 2) if frames[1] < 126 else (int.from_bytes(frames[2:4], "big"), 4)
        parts.append(frames[head : head + length])
        frames = frames[head + length :]
    assert b"".join(parts) == text
    assert kinds == [0x01, *[0x00] * (count - 2), 0x80]


@settings(max_examples=100)
@given(st.text(min_size=2, max_size=200), st.integers(0, 9))
def test_a_cut_text_is_a_true_beginning_and_an_inserted_byte_is_within(text: str, seed: int) -> None:
    whole = text.encode()
    part = cut(whole, random.Random(seed))
    assert 0 < len(part) < len(whole) or len(whole) < 3
    assert whole.startswith(part)
    assert with_bytes(whole, b"\xff\xfe", random.Random(seed)).replace(b"\xff\xfe", b"", 1) == whole


def test_a_request_names_its_symbols_and_a_rejection_is_read_by_number_where_it_has_one() -> None:
    asked = {"method": "SUBSCRIBE", "params": ["btcusdt@trade", "btcusdt@bookTicker", "ethusdt@trade"], "id": 4}
    assert named("binance", asked) == ["BTCUSDT", "ETHUSDT"]
    assert named("binance", asked | {"method": "UNSUBSCRIBE"}) == []
    assert named("coinbase", {"type": "subscribe", "product_ids": ["BTC-USD"], "channel": "ticker"}) == ["BTC-USD"]
    assert named("kucoin", {"type": "subscribe", "topic": "/market/match:A-B,C-D", "id": 1}) == ["A-B", "C-D"]
    assert named("kucoin", {"type": "ping", "id": 1}) == []
    assert named("coinbase", []) == []
    assert json.loads(rejection("binance", asked, "ETHUSDT"))["id"] == 4
    assert json.loads(rejection("kucoin", {"id": 1, "topic": "/market/match:A-B"}, "A-B"))["id"] == "1"
    assert json.loads(rejection("coinbase", {}, "A-B"))["type"] == "error"
