from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.indicators import sma
from engine.serving.answers import ApiError
from engine.serving.online import ENTITIES_MAX, FEATURES_MAX, PLANS_MAX, OnlineFeatures, rfc3339
from engine.serving.server import serve
from replay.sources import open_source
from store import compute
from store.schema import FeatureView
from tests.folding import START, TRADES, VIEWS, trade
from tests.serving import Daemon

NEVER = "1970-01-01T00:00:00Z"
BTC = {"exchange": ["binance"], "symbol": ["BTC/USDT"]}
TECHNICAL = (
    "rsi_14", "rsi_21", "rsi_50", "macd", "macd_signal", "macd_histogram", "bollinger_upper", "bollinger_middle", "bollinger_lower",
    "volume_sma_20", "volume_ema_12",
)  # fmt: skip


def reader(daemon: Daemon) -> OnlineFeatures:
    return OnlineFeatures(daemon.fold.features, daemon.clock)  # type: ignore[arg-type]  # the fold knows it by its protocol


def ask(online: OnlineFeatures, features: Any, entities: Any = None, **other: Any) -> Any:
    body = {"features": features, "entities": BTC if entities is None else entities, **other}
    return json.loads(online.answer(json.dumps(body).encode()))


def refused(online: OnlineFeatures, body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        online.answer(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert 400 <= caught.value.status < 500
    return caught.value


@cache
def recorded_trades() -> Daemon:
    """The built-in views over the 6,000 recorded trades."""
    daemon = Daemon(Path(mkdtemp()))
    for block in open_source(TRADES).blocks(daemon.fold.keys):
        daemon.fold.push(block)
    return daemon


@pytest.fixture
def small(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path, views=VIEWS)


@pytest.mark.parametrize("symbol", ["BTC/USDT", "ETH/USDT"])
def test_values_and_times_are_those_of_the_last_row_that_a_backfill_gives(symbol: str) -> None:
    ticks = pq.read_table(TRADES)
    rows = compute(["technical"], ticks)
    last = rows.filter(pc.equal(rows["symbol"], symbol)).to_pylist()[-1]
    found = ask(
        reader(recorded_trades()),
        [f"technical:{name}" for name in TECHNICAL],
        {"exchange": ["binance"], "symbol": [symbol]},
    )
    assert found["metadata"] == {"feature_names": ["exchange", "symbol", *TECHNICAL]}
    times = pa.array([last["timestamp"]], pa.int64()).cast(pa.timestamp("ns")).cast(pa.timestamp("us"))
    stamp = times[0].as_py().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    for name, result in zip(TECHNICAL, found["results"][2:], strict=True):
        assert result == {"values": [last[name]], "statuses": ["PRESENT"], "event_timestamps": [stamp]}


def test_entity_keys_come_first_as_they_were_asked_for_then_features_in_their_order() -> None:
    online = reader(recorded_trades())
    entities = {"symbol": ["ETH/USDT", "BTC/USDT"], "exchange": ["binance", "binance"]}
    found = ask(online, ["derived:vwap_1m", "market:price", "technical:rsi_14", "market:volume"], entities)
    assert found["metadata"]["feature_names"] == ["symbol", "exchange", "vwap_1m", "price", "rsi_14", "volume"]
    assert found["results"][0] == {
        "values": ["ETH/USDT", "BTC/USDT"],
        "statuses": ["PRESENT"] * 2,
        "event_timestamps": [NEVER] * 2,
    }
    for at, symbol in enumerate(entities["symbol"]):
        row = recorded_trades().fold.features.latest("market", "binance", symbol)
        assert row is not None
        assert found["results"][3]["values"][at] == row["price"]
        assert found["results"][5]["values"][at] == row["volume"]


def test_full_names_tell_features_of_several_views_apart() -> None:
    online = reader(recorded_trades())
    wanted = ["technical:rsi_14", "technical_1s:rsi_14"]
    found = ask(online, wanted, full_feature_names=True)
    assert found["metadata"]["feature_names"] == ["exchange", "symbol", "technical__rsi_14", "technical_1s__rsi_14"]
    error = refused(online, {"features": wanted, "entities": BTC})
    assert error.field == "features"
    assert "both named rsi_14" in str(error)


def test_a_version_may_be_named_and_must_be_the_one_that_is_served() -> None:
    online = reader(recorded_trades())
    assert ask(online, ["technical@1.0.0:rsi_14"]) == ask(online, ["technical:rsi_14"])
    error = refused(online, {"features": ["technical@2.0.0:rsi_14"], "entities": BTC})
    assert (error.status, error.field) == (404, "features")
    assert "technical has version 1.0.0" in str(error)


def test_what_is_not_defined_yet_is_null_and_an_unknown_entity_is_not_found(small: Daemon) -> None:
    small.push(trade(at=0.25))
    found = ask(
        reader(small),
        ["quick:price", "quick:mean_3", "bars:close"],
        {"exchange": ["x", "x", "y"], "symbol": ["BTC/USDT", "NO/ONE", "BTC/USDT"]},
    )
    at = rfc3339(START + 250_000_000)
    assert found["results"][2:] == [
        {
            "values": [100.0, None, None],
            "statuses": ["PRESENT", "NOT_FOUND", "NOT_FOUND"],
            "event_timestamps": [at, NEVER, NEVER],
        },
        {
            "values": [None, None, None],
            "statuses": ["NULL_VALUE", "NOT_FOUND", "NOT_FOUND"],
            "event_timestamps": [at, NEVER, NEVER],
        },
        {"values": [None] * 3, "statuses": ["NOT_FOUND"] * 3, "event_timestamps": [NEVER] * 3},
    ]


def test_a_value_older_than_its_views_ttl_is_outside_its_age(tmp_path: Path) -> None:
    class Aging(FeatureView):
        ttl_ns = 5_000_000_000

    views = (Aging("aging", {"price": "price"}), FeatureView("lasting", {"mean": sma("price", 1)}))
    daemon = Daemon(tmp_path, views=views)
    daemon.push(trade(at=0.0))
    entities = {"exchange": ["x"], "symbol": ["BTC/USDT"]}
    told = {}
    for age_ns in (5_000_000_000, 5_000_000_001):
        daemon.set_clock.stands_at = START + age_ns
        told[age_ns] = ask(reader(daemon), ["aging:price", "lasting:mean"], entities)["results"][2:]
    assert [result["statuses"] for result in told[5_000_000_000]] == [["PRESENT"], ["PRESENT"]]
    aged, lasting = told[5_000_000_001]
    assert aged == {"values": [None], "statuses": ["OUTSIDE_MAX_AGE"], "event_timestamps": [rfc3339(START)]}
    assert lasting["statuses"] == ["PRESENT"]


def test_the_newest_row_is_read_each_time(small: Daemon) -> None:
    online = reader(small)
    entities = {"exchange": ["x"], "symbol": ["BTC/USDT"]}
    for number in range(600):  # the ring wraps on the way
        small.push(trade(at=number, price=100.0 + number))
        assert ask(online, ["quick:price"], entities)["results"][2]["values"] == [100.0 + number]


@pytest.mark.parametrize(
    ("body", "status", "field", "said"),
    [
        (b"", 400, None, "no JSON"),
        (b"{", 400, None, "no JSON"),
        (b"\xff\xfe", 400, None, "no JSON"),
        (b'{"features":' + b"[" * 100_000, 400, None, "no JSON"),
        (b"[]", 422, None, "object"),
        (b"{}", 422, "entities", "entities"),
        ({"entities": BTC}, 422, "features", "list of names"),
        ({"features": None, "entities": BTC}, 422, "features", "list of names"),
        ({"features": "technical:rsi_14", "entities": BTC}, 422, "features", "list of names"),
        ({"features": ["market:price", 7], "entities": BTC}, 422, "features", "features[1]"),
        ({"features": [], "entities": BTC}, 422, "features", "expected 1 to 200"),
        ({"features": ["market:price"] * (FEATURES_MAX + 1), "entities": BTC}, 422, "features", "201 of them"),
        ({"features": ["rsi_14"], "entities": BTC}, 422, "features", "view:feature"),
        ({"features": ["technical:rsi_14:x"], "entities": BTC}, 422, "features", "view:feature"),
        ({"features": ["tecnical:rsi_14"], "entities": BTC}, 404, "features", "did you mean technical?"),
        ({"features": ["technical:rsi14"], "entities": BTC}, 404, "features", "did you mean rsi_14?"),
        ({"features": ["market:price", "market:price"], "entities": BTC}, 422, "features", "both named price"),
        ({"feature_service": "mine", "entities": BTC}, 422, "feature_service", "feature services"),
        ({"features": ["market:price"], "entities": BTC, "full_feature_names": 1}, 422, "full_feature_names", "bool"),
        ({"features": ["market:price"], "entities": []}, 422, "entities", "object"),
        ({"features": ["market:price"], "entities": {}}, 422, "entities.exchange", "missing"),
        ({"features": ["market:price"], "entities": {"exchange": ["x"]}}, 422, "entities.symbol", "missing"),
        ({"features": ["market:price"], "entities": {**BTC, "side": ["x"]}}, 422, "entities.side", "expected only"),
        (
            {"features": ["market:price"], "entities": {"exchange": "x", "symbol": ["y"]}},
            422,
            "entities.exchange",
            "a list",
        ),
        (
            {"features": ["market:price"], "entities": {"exchange": [1], "symbol": ["y"]}},
            422,
            "entities.exchange",
            "text",
        ),
        (
            {"features": ["market:price"], "entities": {"exchange": ["x"], "symbol": []}},
            422,
            "entities",
            "1 exchanges and 0",
        ),
        (
            {"features": ["market:price"], "entities": {"exchange": [], "symbol": []}},
            422,
            "entities",
            "expected 1 to 100",
        ),
        (
            {"features": ["market:price"], "entities": {"exchange": ["x"] * 101, "symbol": ["y"] * 101}},
            422,
            "entities",
            "101 of them",
        ),
    ],
)
def test_a_mistake_is_named_with_its_field(body: Any, status: int, field: str | None, said: str) -> None:
    error = refused(reader(recorded_trades()), body)
    assert (error.status, error.field) == (status, field)
    assert said in str(error)


def test_as_many_entities_and_features_as_may_be_are_answered(tmp_path: Path) -> None:
    view = FeatureView("wide", {f"price_{number}": "price" for number in range(FEATURES_MAX)})
    daemon = Daemon(tmp_path, views=(view,))
    daemon.push(trade())
    found = ask(
        reader(daemon),
        [f"wide:price_{number}" for number in range(FEATURES_MAX)],
        {"exchange": ["x"] * ENTITIES_MAX, "symbol": ["BTC/USDT"] * ENTITIES_MAX},
    )
    assert [result["values"] for result in found["results"][2:]] == [[100.0] * ENTITIES_MAX] * FEATURES_MAX


def test_plans_are_kept_and_no_more_of_them_than_there_is_room_for(tmp_path: Path) -> None:
    names = [f"price_{number}" for number in range(PLANS_MAX + 10)]
    daemon = Daemon(tmp_path, views=(FeatureView("wide", dict.fromkeys(names, "price")),))
    daemon.push(trade())
    online = reader(daemon)
    entities = {"exchange": ["x"], "symbol": ["BTC/USDT"]}
    for _ in range(2):
        for name in names:
            assert ask(online, [f"wide:{name}"], entities)["metadata"]["feature_names"][-1] == name
    assert len(online._plans) == PLANS_MAX


@given(st.integers(-(2**63) + 1_000, 2**63 - 1))
@example(0)
@example(-1)
@example(1_723_161_599_999_000_000)
def test_times_are_written_as_numpy_writes_them(timestamp: int) -> None:
    # numpy truncates, and a time before 1970 must not be rounded up into the next microsecond.
    expected = str(np.datetime64(timestamp - timestamp % 1_000, "ns"))
    assert rfc3339(timestamp) == expected[:26] + "Z"


BODIES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.text()
    | st.sampled_from(["technical:rsi_14", "market:price", "binance"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text()
            | st.sampled_from(["features", "entities", "exchange", "symbol", "full_feature_names", "feature_service"]),
            inner,
            max_size=5,
        )
    ),
)


@given(st.binary() | BODIES.map(lambda value: json.dumps(value).encode()))
@example(b'{"features":["\\ud800"],"entities":{"exchange":["\\ud800"],"symbol":["a"]}}')
@example(b'{"features":["market:price"],"entities":{"exchange":["\\ud800"],"symbol":["\\udfff"]}}')
def test_whatever_is_sent_is_answered_or_refused_with_a_reason(body: bytes) -> None:
    error = None
    try:
        json.loads(reader(recorded_trades()).answer(body))
    except ApiError as caught:
        error = caught
    if error is not None:
        assert 400 <= error.status < 500
        assert str(error)
        msgspec.json.encode(error.body())


def finite_or_null(values: list[Any]) -> Iterator[bool]:
    return (value is None or math.isfinite(value) for value in values)


@pytest.mark.asyncio
async def test_it_is_served_without_a_token_and_whatever_the_content_type_says(tmp_path: Path) -> None:
    """Feast's own clients send no content type at all, and curl one of forms."""
    daemon = Daemon(tmp_path)
    daemon.push_recorded()
    server = await serve(daemon)
    body = json.dumps({"features": ["technical:rsi_14"], "entities": BTC}).encode()
    try:
        async with aiohttp.ClientSession() as session:
            for kind in ("application/json", "application/x-www-form-urlencoded", "application/octet-stream"):
                async with session.post(
                    f"{server.url}/get-online-features", data=body, headers={"Content-Type": kind}
                ) as got:
                    assert got.status == 200
                    found = await got.json()
                assert found["metadata"]["feature_names"] == ["exchange", "symbol", "rsi_14"]
                assert all(finite_or_null(found["results"][2]["values"]))
            async with session.post(f"{server.url}/get-online-features", data=b"{}") as got:
                assert got.status == 422
                assert (await got.json())["error"]["field"] == "entities"
    finally:
        await server.stop()
