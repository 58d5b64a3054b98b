"""The configuration: config.toml says what the code does, and what is wrong is named."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import Config, load, to_toml
from engine.errors import ConfigError
from engine.indicators import highest, lowest, rsi
from engine.indicators.arithmetic import difference
from engine.models.spec import resolve_model
from replay.driver import views_of
from store.builtin import builtin_views
from store.schema import Clock

SHIPPED = Path(__file__).parents[2] / "config.toml"
DEFAULTS: dict[str, dict[str, Any]] = msgspec.to_builtins(Config())
# Tables that are empty by default: config.toml shows them as a comment.
OPEN_TABLES = {("features", "define"), ("strategies", "parameters"), ("models", "define")}


def keys() -> Iterator[tuple[str, str]]:
    for section, values in DEFAULTS.items():
        yield from ((section, key) for key in values)


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Return a function that loads a configuration from its text."""

    def load_text(text: str, **environment: str) -> Config:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return load(path, environment)

    return load_text


def refusal(call: Any, *arguments: Any, **named: Any) -> str:
    """The text of the ConfigError that a call raises."""
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# config.toml and the defaults


@pytest.mark.parametrize(("section", "key"), list(keys()), ids=".".join)
def test_config_toml_shows_every_key_with_its_default(section: str, key: str) -> None:
    shipped = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    if (section, key) in OPEN_TABLES:
        assert f"# [{section}.{key}." in SHIPPED.read_text(encoding="utf-8")
        assert key not in shipped[section]
        return
    default = DEFAULTS[section][key]
    assert shipped[section][key] == (list(default) if isinstance(default, tuple) else default)


def test_config_toml_holds_no_key_beside_those() -> None:
    shipped = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    assert {(section, key) for section, values in shipped.items() for key in values} == set(keys()) - OPEN_TABLES


def test_config_toml_loads_as_the_built_in_defaults() -> None:
    assert load(SHIPPED, {}) == load(None, {}) == Config()


def test_the_examples_that_config_toml_shows_as_comments_are_valid() -> None:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("# [")]
    examples = [list(takewhile(lambda line: line.startswith("# "), lines[at:])) for at in starts]
    text = "\n".join(line.removeprefix("# ") for example in examples for line in example)
    config = msgspec.convert(tomllib.loads(text), Config)
    (view,) = [view for view in views_of(with_views(config, *config.features.define)) if view.name == "fast"]
    assert view.ticking == Clock("ticks", 100)
    assert config.strategies.parameters == {"order_flow_imbalance": {"threshold": 0.6}}
    model = resolve_model("up_60s", config.models.define["up_60s"])
    assert (model.target.classes, model.horizon.ns) == (("down", "up"), 60_000_000_000)


def with_views(config: Config, *names: str) -> Config:
    return msgspec.structs.replace(config, features=msgspec.structs.replace(config.features, views=names))


# What is wrong is named


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[store]\nring_rows = 3", "store.ring_rows = 3: expected int >= 16"),
        ("[store]\nring_rows = 99999999", "store.ring_rows = 99999999: expected int <= 16777216"),
        ('[store]\nring_rows = "many"', "store.ring_rows = 'many': expected int, got str"),
        ("[store]\nring_rows = 64.0", "store.ring_rows = 64.0: expected int, got float"),
        ("[engine]\nseed = -1", "engine.seed = -1: expected int >= 0"),
        ("[engine]\nseed = true", "engine.seed = True: expected int, got bool"),
        ("[engine]\nbus_limit = 0", "engine.bus_limit = 0: expected int >= 1"),
        ("[ingress]\nmax_ahead_ms = 3600001", "ingress.max_ahead_ms = 3600001: expected int <= 3600000"),
        ('[ingress]\nnot_contiguous = "kucoin"', "ingress.not_contiguous = 'kucoin': expected array, got str"),
        ("[features]\nwindow_ticks_max = 63", "features.window_ticks_max = 63: expected int >= 64"),
        ('[features]\nviews = ["market", 3]', "features.views[1] = 3: expected str, got int"),
        ("store = 3", "store = 3: expected a section with ring_rows, block_rows"),
        ("[store]\nring_row = 64", "store.ring_row = 64: no such key; did you mean ring_rows?"),
        ("[store]\nxyz = 64", "store.xyz = 64: no such key; there are ring_rows, block_rows"),
        ("[feature]\nviews = []", "[feature]: no such section; did you mean features?"),
        ("[zzz]", "[zzz]: no such section; there are engine, ingress, features, store, models, strategies, data, journal, mlflow, snapshots, feeds, binance, coinbase, coinbase_exchange, kucoin, server, log, watchdog"),
        (
            '[binance]\nstreams = ["trade", "aggTrade"]',
            "binance.streams = ['trade', 'aggTrade']: expected one of trade and aggTrade, whose ids count apart",
        ),
        ("[store", "expected TOML: Expected ']' at the end of a table declaration (at end of document)"),
    ],
)  # fmt: skip
def test_an_error_names_the_file_the_key_its_value_and_what_was_expected(
    written: Any, tmp_path: Path, text: str, said: str
) -> None:
    assert refusal(written, text) == f"{tmp_path / 'config.toml'}: {said}"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refusal(load, tmp_path / "none.toml", {}) == f"{tmp_path}/none.toml: No such file or directory"
    assert refusal(load, tmp_path, {}).startswith(f"{tmp_path}: ")
    (tmp_path / "latin.toml").write_bytes(b"x = '\xe9'")
    assert refusal(load, tmp_path / "latin.toml", {}).startswith(f"{tmp_path}/latin.toml: expected TOML: ")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('clok = "1s"\nfeatures = { a = "price" }', ["features.define.fast.clok", "'1s'", "clock"]),
        ('clock = 5\nfeatures = { a = "price" }', ["features.define.fast.clock = 5", "expected str"]),
        ('clock = "1s"', ["features.define.fast", "missing", "features"]),
        ("features = { a = 5 }", ["features.define.fast.features.a = 5", "expected str"]),
    ],
)
def test_an_error_in_a_defined_view_names_the_view_the_key_and_its_value(
    written: Any, text: str, parts: list[str]
) -> None:
    said = refusal(written, f"[features.define.slow]\nfeatures = {{ b = 'price' }}\n[features.define.fast]\n{text}")
    missing = [part for part in parts if part not in said]
    assert missing == [], f"not in: {said}"


# The environment


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("TICKFOLD_STORE__RING_ROWS", "64", ("store", "ring_rows", 64)),
        ("TICKFOLD_INGRESS__MAX_AHEAD_MS", "5_000", ("ingress", "max_ahead_ms", 5000)),
        ("TICKFOLD_FEATURES__VIEWS", '["market", "derived"]', ("features", "views", ("market", "derived"))),
        ("TICKFOLD_FEATURES__VIEWS", "market,derived", ("features", "views", ("market", "derived"))),
        ("TICKFOLD_FEATURES__VIEWS", "market", ("features", "views", ("market",))),
        ("TICKFOLD_STRATEGIES__RUN", "my/plugin.py,moving_average_cross", ("strategies", "run", ("my/plugin.py", "moving_average_cross"))),
        ("TICKFOLD_STRATEGIES__RUN", "[]", ("strategies", "run", ())),
        ("TICKFOLD_STRATEGIES__PARAMETERS", "{ a = { b = 0.5 } }", ("strategies", "parameters", {"a": {"b": 0.5}})),
    ],
)  # fmt: skip
def test_the_environment_overrides_as_toml_plain_text_or_a_list(
    variable: str, text: str, expected: tuple[str, str, Any]
) -> None:
    section, key, value = expected
    assert getattr(getattr(load(None, {variable: text}), section), key) == value


def test_a_list_in_the_environment_may_have_spaces_after_its_commas() -> None:
    assert load(None, {"TICKFOLD_FEATURES__VIEWS": "market, derived"}).features.views == ("market", "derived")


def test_the_environment_goes_before_the_file_and_the_file_before_the_defaults(written: Any) -> None:
    text = "[store]\nring_rows = 64\n[engine]\nseed = 1"
    config = written(text, TICKFOLD_STORE__RING_ROWS="128", PATH="/bin", XTICKFOLD_ENGINE__SEED="9")
    assert (config.store.ring_rows, config.engine.seed, config.engine.bus_limit) == (128, 1, 10_000)


def test_settings_that_are_no_configuration_are_let_alone() -> None:
    assert load(None, {"TICKFOLD_CACHE_DIR": "/somewhere"}) == Config()


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("TICKFOLD_STORE", "3", "TICKFOLD_STORE=3: expected TICKFOLD_SECTION__KEY"),
        ("TICKFOLD_STOR__RING_ROWS", "3", "TICKFOLD_STOR__RING_ROWS=3: no section 'stor'; did you mean store?"),
        ("TICKFOLD_STORE__RINGROWS", "3", "TICKFOLD_STORE__RINGROWS=3: no key store.ringrows; did you mean ring_rows?"),
        ("TICKFOLD_STORE__RING_ROWS", "3", "store.ring_rows = 3: expected int >= 16"),
        (
            "TICKFOLD_BINANCE__STREAMS",
            "aggTrade,bookTicker,trade",
            "expected one of trade and aggTrade, whose ids count",
        ),
        ("TICKFOLD_STORE__RING_ROWS", "many", "store.ring_rows = 'many': expected int, got str"),
    ],
)
def test_an_error_in_the_environment_names_the_variable(variable: str, text: str, said: str) -> None:
    found = refusal(load, None, {variable: text})
    assert found.startswith(variable), found
    assert said in found


# to_toml

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | words
tables = st.dictionaries(words, scalars | st.lists(scalars, max_size=3), min_size=1, max_size=4)


@given(st.dictionaries(words, tables, max_size=3), st.lists(words, max_size=3))
def test_to_toml_loads_as_the_same_configuration(parameters: dict[str, dict[str, Any]], run: list[str]) -> None:
    config = msgspec.convert({"strategies": {"parameters": parameters, "run": run}}, Config)
    assert msgspec.convert(tomllib.loads(to_toml(config)), Config) == config


@pytest.mark.parametrize(
    "text",
    [
        'levels = [{ at = 1.0, size = 2 }, { at = 2.0, size = 3 }]',
        'deep = { er = { still = "here" } }',
        'control = "a\\u007fb\\tc\\u0001"',
        "limits = [inf, -inf, 1e300, 0.1]",
    ],
)  # fmt: skip
def test_to_toml_writes_parameters_of_every_shape(written: Any, text: str) -> None:
    config = written(f"[strategies.parameters.mine]\n{text}")
    assert msgspec.convert(tomllib.loads(to_toml(config)), Config) == config


def test_to_toml_writes_not_a_number() -> None:
    config = msgspec.convert({"strategies": {"parameters": {"mine": {"x": math.nan}}}}, Config)
    assert math.isnan(tomllib.loads(to_toml(config))["strategies"]["parameters"]["mine"]["x"])


def test_to_toml_of_the_defaults_shows_every_key() -> None:
    shown = tomllib.loads(to_toml(Config()))
    assert {(section, key) for section, values in shown.items() for key in values} == set(keys()) - OPEN_TABLES


# Views that are defined in the configuration

FAST = """
[features]
views = ["market", "fast"]
[features.define.fast]
clock = "100 ticks"
version = "2.1.0"
description = "for the test"
features = { rsi_9 = "rsi(price, 9)", range_20 = "difference(highest(high, 20), lowest(low, 20))" }
"""


def test_a_defined_view_is_the_one_that_code_would_have_made(written: Any) -> None:
    market, fast = views_of(written(FAST))
    assert market is builtin_views()["market"]
    assert (fast.name, fast.version, fast.description, fast.ticking) == (
        "fast",
        "2.1.0",
        "for the test",
        Clock("ticks", 100),
    )
    assert fast.nodes == {"rsi_9": rsi("price", 9), "range_20": difference(highest("high", 20), lowest("low", 20))}


def test_a_defined_view_that_is_not_asked_for_is_not_computed(written: Any) -> None:
    assert [view.name for view in views_of(written(FAST.replace(', "fast"', "")))] == ["market"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"market", "fast"', '"market", "fats"', "features.views: 'fats': expected one of market, technical, technical_1s, technical_1m, derived, fast"),
        ('"market", "fast"', '"fast", "fast"', "feature view 'fast' is given twice"),
        ("100 ticks", "100 tacks", "clock '100 tacks': expected"),
        ("2.1.0", "2.1", "version '2.1': expected three numbers"),
        ("rsi(price, 9)", "rsy(price, 9)", "features.define.fast.features.rsi_9 = 'rsy(price, 9)': no indicator 'rsy'; did you mean rsi?"),
        ("rsi(price, 9)", "rsi(pric, 9)", "no field 'pric'; did you mean price?"),
        ("rsi(price, 9)", "__import__('os')", "no indicator '__import__'"),
        ("rsi(price, 9)", "rsi(price, 9", "features.define.fast.features.rsi_9 = 'rsi(price, 9': "),
        ("rsi(price, 9)", "macd(price, 12, 26, 9)", "gives 3 values, expected one; pick it: macd(price, 12, 26, 9)[0]"),
        ("lowest(low, 20)", "lowest(low, 0)", "window 0: expected a number of ticks >= 1"),
    ],
)  # fmt: skip
def test_a_definition_that_cannot_be_is_refused_with_what_was_expected(
    written: Any, old: str, new: str, said: str
) -> None:
    assert old in FAST
    assert said in refusal(lambda: views_of(written(FAST.replace(old, new))))


def test_a_mistake_in_an_expression_is_said_with_the_key_that_holds_it(written: Any) -> None:
    said = refusal(lambda: views_of(written(FAST.replace("lowest(low, 20)", "lowest(low, 0)"))))
    assert said.startswith("features.define.fast.features.range_20"), said


def test_a_defined_view_cannot_take_the_name_of_a_built_in_one(written: Any) -> None:
    text = FAST.replace("define.fast", "define.market").replace('"market", "fast"', '"market"')
    assert refusal(lambda: views_of(written(text))) == "features.define.market: that name is a built-in view's"


def test_parameters_of_strategies_are_kept_as_they_are_given(written: Any) -> None:
    config = written('[strategies]\nrun = ["a"]\n[strategies.parameters.a]\nthreshold = 0.25\nnames = ["x"]')
    assert config.strategies.parameters == {"a": {"threshold": 0.25, "names": ["x"]}}
