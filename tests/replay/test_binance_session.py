from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import FeedError
from replay.exchange.binance import METHODS, STREAMS_MAX, BinanceSession, session_of, wrapped


def ask(session: BinanceSession, method: str, params: list[Any] | None = None, number: Any = 1) -> Any:
    request: dict[str, Any] = {"method": method, "id": number}
    if params is not None:
        request["params"] = params
    return json.loads(session.obey(json.dumps(request)))


def test_the_documented_requests_get_the_documented_answers() -> None:
    session = BinanceSession(False, [])
    assert ask(session, "SUBSCRIBE", ["btcusdt@aggTrade", "btcusdt@depth"]) == {"result": None, "id": 1}
    assert ask(session, "UNSUBSCRIBE", ["btcusdt@depth"], 312) == {"result": None, "id": 312}
    assert ask(session, "LIST_SUBSCRIPTIONS", None, 3) == {"result": ["btcusdt@aggTrade"], "id": 3}
    assert ask(session, "GET_PROPERTY", ["combined"], 2) == {"result": False, "id": 2}
    assert ask(session, "SET_PROPERTY", ["combined", True], 5) == {"result": None, "id": 5}
    assert ask(session, "GET_PROPERTY", ["combined"], 2) == {"result": True, "id": 2}
    assert session.combined


@pytest.mark.parametrize("number", [7, -(2**63), 2**63 - 1, "an id of text", "x" * 36, None])
def test_an_id_comes_back_as_it_was_sent(number: Any) -> None:
    assert ask(BinanceSession(False, []), "SUBSCRIBE", ["a@trade"], number) == {"result": None, "id": number}


@pytest.mark.parametrize(
    ("request_text", "answer"),
    [
        ("{", {"code": 3, "msg": "Invalid JSON: "}),
        (b"\xff", {"code": 3, "msg": "Invalid JSON: "}),
        ("[]", {"code": 2, "msg": "Invalid request: expected an object"}),
        ('{"id":1}', {"code": 2, "msg": "Invalid request: missing field `method`"}),
        ('{"method":"BUY","id":1}', {"code": 2, "msg": "Invalid request: unknown variant `BUY`, expected one of SUBSCRIBE, "}),
        ('{"method":["BUY"],"id":1}', {"code": 2, "msg": "Invalid request: unknown variant `['BUY']`"}),
        ('{"method":"SUBSCRIBE","id":1.5}', {"code": 2, "msg": "Invalid request: request ID must be an unsigned integer"}),
        ('{"method":"SUBSCRIBE","id":true}', {"code": 2, "msg": "Invalid request: request ID must be"}),
        ('{"method":"SUBSCRIBE","params":"a@trade","id":1}', {"code": 2, "msg": "Invalid request: params must be a list"}),
        ('{"method":"SUBSCRIBE","params":[1],"id":1}', {"code": 2, "msg": "Invalid request: params must be a list"}),
        ('{"method":"SUBSCRIBE","id":1}', {"code": 2, "msg": "Invalid request: params must be a list"}),
        ('{"method":"SET_PROPERTY","params":["combined",1],"id":1}', {"code": 1, "msg": "Invalid value type: expected Boolean"}),
        ('{"method":"SET_PROPERTY","params":["other",true],"id":1}', {"code": 0, "msg": "Unknown property", "id": 1}),
        ('{"method":"SET_PROPERTY","params":[1,true],"id":1}', {"code": 2, "msg": "Invalid request: property name must be a string"}),
        ('{"method":"SET_PROPERTY","params":["combined",true,1]}', {"code": 2, "msg": "Invalid request: too many parameters"}),
        ('{"method":"GET_PROPERTY","id":4}', {"code": 2, "msg": "Invalid request: property name must be a string"}),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_what_is_wrong_and_changes_nothing(request_text: str, answer: dict[str, Any]) -> None:
    session = BinanceSession(False, ["a@trade"])
    said = json.loads(session.obey(request_text))
    assert said.pop("msg").startswith(answer.pop("msg"))
    assert said == answer
    assert (session.combined, list(session.streams)) == (False, ["a@trade"])


def test_a_connection_has_at_most_1024_streams() -> None:
    session = BinanceSession(True, [f"s{i}@trade" for i in range(STREAMS_MAX - 1)])
    assert ask(session, "SUBSCRIBE", ["one@trade", "more@trade"])["code"] == 2
    assert len(session.streams) == STREAMS_MAX - 1
    assert ask(session, "SUBSCRIBE", ["one@trade", "s0@trade"]) == {"result": None, "id": 1}
    with pytest.raises(FeedError, match="1025 streams on one connection, expected at most 1024"):
        BinanceSession(True, [f"s{i}@trade" for i in range(STREAMS_MAX + 1)])


@pytest.mark.parametrize(
    ("path", "query", "combined", "streams"),
    [
        ("/ws", None, False, []),
        ("/ws/btcusdt@trade", None, False, ["btcusdt@trade"]),
        ("/ws/a@trade/b@depth@100ms/", None, False, ["a@trade", "b@depth@100ms"]),
        ("/stream", None, True, []),
        ("/stream", "a@trade/b@trade/a@trade", True, ["a@trade", "b@trade"]),
    ],
)
def test_an_address_says_how_a_connection_begins(
    path: str, query: str | None, combined: bool, streams: list[str]
) -> None:
    session = session_of(path, query)
    assert session is not None
    assert (session.combined, list(session.streams)) == (combined, streams)


@pytest.mark.parametrize("path", ["/", "/wsx", "/streams", "/api/v3/time"])
def test_nothing_is_served_at_other_addresses(path: str) -> None:
    assert session_of(path, None) is None


def test_the_combined_form_is_that_of_the_exchange() -> None:
    assert wrapped("btcusdt@trade", b"{}") == b'{"stream":"btcusdt@trade","data":{}}'


@given(st.lists(st.tuples(st.sampled_from(METHODS), st.lists(st.sampled_from("abcd"), max_size=3)), max_size=20))
def test_the_list_of_subscriptions_is_what_was_added_and_not_removed(requests: list[tuple[str, list[str]]]) -> None:
    session, model = BinanceSession(False, []), dict[str, None]()
    for method, streams in requests:
        answer = ask(session, method, streams)
        if method == "SUBSCRIBE":
            model.update(dict.fromkeys(streams))
        elif method == "UNSUBSCRIBE":
            model = {stream: None for stream in model if stream not in streams}
        elif method == "LIST_SUBSCRIPTIONS":
            assert answer == {"result": list(model), "id": 1}
        assert list(session.streams) == list(model)


@given(st.binary() | st.text())
def test_no_text_makes_a_session_fail(text: bytes | str) -> None:
    answer = json.loads(BinanceSession(False, []).obey(text))
    assert answer["code"] in (2, 3)
