"""Names of models in MLflow, the record of what this engine logged there, and which version each alias names."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.app.tracking import roles_of
from engine.errors import ModelError
from engine.tracking.registry import (
    KEPT_VERSIONS,
    LoggedVersion,
    Record,
    RegisteredModel,
    Subject,
    engine_id,
    read_record,
    record_path,
    registered_name,
    write_record,
)

BTC = Subject("binance", "BTC/USDT", "direction", "60s")


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (BTC, "btcusdt.direction_60s"),
        (Subject("kucoin", "BTC/USDT:PERP", "log_return", "100t"), "btcusdtperp.log_return_100t"),
        (Subject("x", "ES", "up_60", "10b"), "es.up_60_10b"),
    ],
)
def test_a_name_says_symbol_model_and_horizon(subject: Subject, name: str) -> None:
    assert registered_name(subject) == name


def test_a_name_says_the_exchange_too_where_it_has_to() -> None:
    assert registered_name(BTC, with_exchange=True) == "btcusdt.binance.direction_60s"


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_symbol_makes_a_name_that_an_address_cannot_hold(symbol: str, exchange: str) -> None:
    for with_exchange in (False, True):
        name = registered_name(Subject(exchange, symbol, "direction", "60s"), with_exchange=with_exchange)
        parts = name.split(".")
        assert len(parts) == 2 + with_exchange
        assert all(part and part.isascii() and part.replace("_", "").isalnum() for part in parts)


def logged(number: int, version: str = "1") -> LoggedVersion:
    return LoggedVersion(str(number), version, number, number, "0" * 64)


def test_the_record_is_read_as_it_was_written_and_keeps_the_newest(tmp_path: Path) -> None:
    path = record_path(tmp_path, "sqlite:///a")
    assert read_record(path, "me") == Record("me"), "there is none yet"
    versions = [logged(number) for number in range(KEPT_VERSIONS + 5)]
    model = RegisteredModel("btcusdt.direction_60s", BTC, versions, {"champion": "7"})
    write_record(path, Record("me", {model.name: model}))
    again = read_record(path, "me")
    assert again.models[model.name] == model
    assert len(model.versions) == KEPT_VERSIONS
    assert again.of(BTC) == model
    assert model.numbered("4") is None
    assert model.numbered("5") == logged(5)
    assert read_record(path, "another engine").models == {}
    assert record_path(tmp_path, "sqlite:///b") != path, "numbers of one server mean nothing on another"
    path.write_text("[]")
    with pytest.raises(ModelError, match="delete it"):
        read_record(path, "me")


def test_the_newest_of_a_version_is_the_one_that_was_logged_last() -> None:
    model = RegisteredModel("n", BTC, [logged(1), logged(2, "2"), logged(3)])
    assert model.newest("1") == logged(3)
    assert model.newest("2") == logged(2, "2")
    assert model.newest("3") is None


def test_an_engine_has_one_name_for_as_long_as_its_folder(tmp_path: Path) -> None:
    first = engine_id(tmp_path)
    assert len(first) == 16
    assert engine_id(tmp_path) == first


def version(name: str, role: str, e_value: float = math.nan, parked: str = "") -> Any:
    return SimpleNamespace(version=name, role=role, e_value=e_value, parked=parked)


@pytest.mark.parametrize(
    ("versions", "challenger", "previous"),
    [
        ([version("1", "champion")], None, None),
        ([version("1", "previous"), version("2", "champion")], None, "1"),
        ([version("1", "champion"), version("2", "challenger", 0.5), version("3", "challenger", 2.0)], "3", None),
        ([version("1", "champion"), version("2", "challenger", 1.0), version("3", "challenger", 1.0)], "2", None),
        (
            [version("1", "champion"), version("2", "challenger", 9.0, "broken"), version("3", "challenger", 1.0)],
            "3",
            None,
        ),
    ],
)
def test_the_challenger_is_the_one_with_the_most_evidence(
    versions: list[Any], challenger: str | None, previous: str | None
) -> None:
    champion = next(one.version for one in versions if one.role == "champion")
    standing: Any = SimpleNamespace(versions=versions, champion=champion)
    assert roles_of(standing) == {"champion": champion, "challenger": challenger, "previous": previous}
