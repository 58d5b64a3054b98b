"""The configuration: text in, frozen structs out, everything checked before anything starts.

Order of precedence: built-in defaults, then `config.toml`, then the environment (`TICKFOLD_SECTION__KEY`, as TOML or plain text).
An error names the key, its value, what was expected, and for an unknown key the nearest known one.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.errors import ConfigError
from engine.models.settings import MlflowConfig, ModelsConfig

PREFIX = "TICKFOLD_"
# Settings of the environment that are not configuration of the fold: where things lie on this machine.
NOT_KEYS = ("CACHE_DIR",)
MS = 1_000_000


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for the fold as a whole."""

    seed: Annotated[int, Meta(ge=0)] = 0
    bus_limit: Annotated[int, Meta(ge=1)] = 10_000


class IngressConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is an input and what is not."""

    max_ahead_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 10_000
    not_contiguous: tuple[str, ...] = ("kucoin",)

    @property
    def max_ahead_ns(self) -> int:
        """`max_ahead_ms` in nanoseconds."""
        return self.max_ahead_ms * MS


class ViewConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A feature view that needs no code: its features are expressions of indicators."""

    features: dict[str, str]
    clock: str = "tick"
    version: str = "1.0.0"
    description: str = ""


class FeaturesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which features are computed, and how much memory their windows may take."""

    views: tuple[str, ...] = ("market", "technical", "technical_1s", "technical_1m", "derived")
    window_ticks_max: Annotated[int, Meta(ge=64, le=1 << 28)] = 1 << 20
    define: dict[str, ViewConfig] = {}


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The online store."""

    ring_rows: Annotated[int, Meta(ge=16, le=1 << 24)] = 512
    block_rows: Annotated[int, Meta(ge=1, le=1 << 24)] = 512


class StrategiesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which strategies take part, and their parameters."""

    run: tuple[str, ...] = ("moving_average_cross", "order_flow_imbalance")
    parameters: dict[str, dict[str, Any]] = {}


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the daemon keeps what it must not lose."""

    dir: Annotated[str, Meta(min_length=1)] = "data"


class JournalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How inputs are kept."""

    segment_mib: Annotated[int, Meta(ge=1, le=1024)] = 64
    fsync: Literal["always", "interval", "never"] = "interval"
    fsync_ms: Annotated[int, Meta(ge=1, le=60_000)] = 1_000
    retention_mib: Annotated[int, Meta(ge=16)] = 16_384
    export: bool = True
    on_failure: Literal["continue", "stop"] = "continue"
    checkpoint_inputs: Annotated[int, Meta(ge=100)] = 100_000


class SnapshotsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often the state is kept, and how many of them."""

    every_s: Annotated[float, Meta(gt=0.0, le=86_400.0)] = 60.0
    keep: Annotated[int, Meta(ge=1, le=1_000)] = 3


class FeedsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is listened to, and what is done when it cannot be heard."""

    run: tuple[Literal["replay", "binance", "coinbase", "kucoin"], ...] = ("replay",)
    symbols: tuple[str, ...] = ("BTC/USDT", "ETH/USDT")
    replay_speed: Annotated[float, Meta(gt=0.0, le=1_000.0)] = 1.0
    backoff_first_s: Annotated[float, Meta(gt=0.0, le=60.0)] = 0.25
    backoff_max_s: Annotated[float, Meta(gt=0.0, le=3_600.0)] = 30.0
    connect_s: Annotated[float, Meta(gt=0.0, le=300.0)] = 10.0
    acknowledge_s: Annotated[float, Meta(gt=0.0, le=300.0)] = 10.0
    heartbeat_s: Annotated[float, Meta(ge=0.1, le=3_600.0)] = 1.0
    stalled_s: Annotated[float, Meta(ge=0.5, le=3_600.0)] = 2.0
    skew_ms: Annotated[int, Meta(ge=10)] = 500
    old_ms: Annotated[int, Meta(ge=100)] = 5_000
    shed_behind_ms: Annotated[int, Meta(ge=10)] = 2_000
    backfill_s: Annotated[float, Meta(ge=0.0, le=3_600.0)] = 60.0
    products_refresh_s: Annotated[float, Meta(ge=60.0, le=604_800.0)] = 3_600.0
    frame_mib: Annotated[int, Meta(ge=1, le=256)] = 16


Websocket = Annotated[str, Meta(pattern="^wss?://[^/]")]
Rest = Annotated[str, Meta(pattern="^https?://[^/]")]
Limit = Annotated[int, Meta(ge=1)]
Span = Annotated[float, Meta(gt=0.0, le=86_400.0)]


class VenueConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One exchange: its hosts, and the limits that it sets to whoever listens."""

    websocket: Websocket
    rest: Rest
    symbols: tuple[str, ...] = ()
    silence_s: Annotated[float, Meta(gt=0.0, le=3_600.0)] = 30.0
    messages: Limit = 5
    messages_s: Span = 1.0
    dials: Limit = 300
    dials_s: Span = 300.0
    requests: Limit = 5
    requests_s: Span = 1.0
    connection_max_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 84_600.0


class BinanceConfig(VenueConfig, frozen=True, forbid_unknown_fields=True):
    """Binance spot."""

    websocket: Websocket = "wss://stream.binance.com:9443"
    rest: Rest = "https://api.binance.com"
    streams: tuple[Literal["trade", "aggTrade", "bookTicker"], ...] = ("trade", "bookTicker")
    streams_a_connection: Limit = 1_024
    requests: Limit = 4


class CoinbaseConfig(VenueConfig, frozen=True, forbid_unknown_fields=True):
    """Coinbase Advanced Trade."""

    api: Literal["advanced", "exchange"] = "advanced"
    websocket: Websocket = "wss://advanced-trade-ws.coinbase.com"
    rest: Rest = "https://api.coinbase.com"
    symbols: tuple[str, ...] = ("BTC/USD", "ETH/USD")
    silence_s: Annotated[float, Meta(gt=0.0, le=3_600.0)] = 5.0
    messages: Limit = 8
    dials: Limit = 8
    dials_s: Span = 1.0
    requests: Limit = 8
    symbols_a_connection: Limit = 100


class CoinbaseExchangeConfig(VenueConfig, frozen=True, forbid_unknown_fields=True):
    """Coinbase Exchange, the older of the two feeds: what holds where `coinbase.api` is "exchange"."""

    websocket: Websocket = "wss://ws-feed.exchange.coinbase.com"
    rest: Rest = "https://api.exchange.coinbase.com"
    silence_s: Annotated[float, Meta(gt=0.0, le=3_600.0)] = 5.0
    messages: Limit = 8
    dials: Limit = 8
    dials_s: Span = 1.0
    requests: Limit = 8
    symbols_a_connection: Limit = 100


class KucoinConfig(VenueConfig, frozen=True, forbid_unknown_fields=True):
    """KuCoin spot, classic. Where to dial is what its `rest` host answers; `websocket`, if it is set, goes before that."""

    websocket: Annotated[str, Meta(pattern="^(wss?://[^/].*)?$")] = ""
    rest: Rest = "https://api.kucoin.com"
    silence_s: Annotated[float, Meta(gt=0.0, le=3_600.0)] = 30.0
    messages: Limit = 100
    messages_s: Span = 10.0
    dials: Limit = 30
    dials_s: Span = 60.0
    requests: Limit = 10
    symbols_a_connection: Limit = 300


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP API and the page."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8_420
    allow_remote: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    token_file: str = ""
    clients_max: Annotated[int, Meta(ge=1, le=10_000)] = 50
    stream_hz: Annotated[float, Meta(gt=0.0, le=50.0)] = 10.0


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is written about what happens."""

    file: str = ""
    file_mib: Annotated[int, Meta(ge=1, le=4_096)] = 64


class WatchdogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a handler is said to hold the loop."""

    hold_ms: Annotated[int, Meta(ge=1, le=60_000)] = 50


FOLD_SECTIONS = ("engine", "ingress", "features", "store", "models", "strategies")
"""What the bits that a fold puts out depend on; the other sections say how the daemon goes about it."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration, resolved."""

    engine: EngineConfig = EngineConfig()
    ingress: IngressConfig = IngressConfig()
    features: FeaturesConfig = FeaturesConfig()
    store: StoreConfig = StoreConfig()
    models: ModelsConfig = ModelsConfig()
    strategies: StrategiesConfig = StrategiesConfig()
    data: DataConfig = DataConfig()
    journal: JournalConfig = JournalConfig()
    mlflow: MlflowConfig = MlflowConfig()
    snapshots: SnapshotsConfig = SnapshotsConfig()
    feeds: FeedsConfig = FeedsConfig()
    binance: BinanceConfig = BinanceConfig()
    coinbase: CoinbaseConfig = CoinbaseConfig()
    coinbase_exchange: CoinbaseExchangeConfig = CoinbaseExchangeConfig()
    kucoin: KucoinConfig = KucoinConfig()
    server: ServerConfig = ServerConfig()
    log: LogConfig = LogConfig()
    watchdog: WatchdogConfig = WatchdogConfig()


def load(path: Path | None, environment: Mapping[str, str]) -> Config:
    """Return the configuration of a file (None: built-in defaults) and the environment.

    Raises ConfigError for a file that cannot be read, is no TOML, or holds an unknown key or a value out of its range.
    """
    raw: dict[str, Any] = {}
    where = "built-in defaults"
    if path is not None:
        where = str(path)
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: expected TOML: {error}") from error
    _check_names(raw, where)
    overridden = {
        _set(raw, variable, text): variable
        for variable, text in sorted(environment.items())
        if variable.startswith(PREFIX) and variable.removeprefix(PREFIX) not in NOT_KEYS
    }
    _check_views(raw, where)
    config = _convert(raw, where, overridden)
    streams = config.binance.streams
    if "trade" in streams and "aggTrade" in streams:
        raise ConfigError(
            f"{overridden.get('binance.streams', where)}: binance.streams = {list(streams)}: "
            "expected one of trade and aggTrade, whose ids count apart"
        )
    return config


def to_toml(config: Config | Mapping[str, Any]) -> str:
    """Return the configuration, as structs or as plain tables, as TOML: every key with its resolved value."""
    lines: list[str] = []

    def table(name: str, values: Mapping[str, Any]) -> None:
        plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
        if plain:
            lines.extend([f"[{name}]", *(f"{_key(key)} = {_toml(value)}" for key, value in plain.items()), ""])
        for key, value in values.items():
            if isinstance(value, dict):
                table(f"{name}.{_key(key)}", value)

    for section, values in msgspec.to_builtins(config).items():
        table(section, values)
    return "\n".join(lines).rstrip() + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        # JSON's text is TOML's but for one character, which TOML wants escaped.
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(part)}" for key, part in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _convert(raw: dict[str, Any], where: str, overridden: Mapping[str, str]) -> Config:
    try:
        return msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        expected, _, at = str(error).partition(" - at `")
        key = at.rstrip("`").removeprefix("$").lstrip(".")
        value: Any = raw
        for part in re.findall(r"[^.\[\]]+", key):
            if isinstance(value, (list, tuple)) and part.isdigit():
                value = value[int(part)]
            elif isinstance(value, dict) and part in value:
                value = value[part]
        expected = expected[0].lower() + expected[1:].replace("`", "")
        where = next(
            (overridden[name] for name in overridden if key == name or key.startswith((f"{name}.", f"{name}["))), where
        )
        raise ConfigError(f"{where}: {key or 'the whole'} = {value!r}: {expected}") from error


def _check_names(raw: Mapping[str, Any], where: str) -> None:
    """Name the nearest known key for one that is unknown."""
    for section, values in raw.items():
        if section not in Config.__struct_fields__:
            raise ConfigError(f"{where}: [{section}]: no such section{_near(section, Config.__struct_fields__)}")
        known = _fields(section)
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: {section} = {values!r}: expected a section with {', '.join(known)}")
        for key, value in values.items():
            if key not in known:
                raise ConfigError(f"{where}: {section}.{key} = {value!r}: no such key{_near(key, known)}")


def _check_views(raw: Mapping[str, Any], where: str) -> None:
    """Name the view, the key and the value of what is wrong in a view that is defined in the configuration."""
    define = raw.get("features", {}).get("define", {})
    for name, view in define.items() if isinstance(define, dict) else ():
        key = f"features.define.{name}"
        if not isinstance(view, dict):
            raise ConfigError(f"{where}: {key} = {view!r}: expected a section with features and clock")
        for part, value in view.items():
            known = ViewConfig.__struct_fields__
            if part not in known:
                raise ConfigError(f"{where}: {key}.{part} = {value!r}: no such key{_near(part, known)}")
            if part != "features" and not isinstance(value, str):
                raise ConfigError(f"{where}: {key}.{part} = {value!r}: expected str")
        features = view.get("features")
        if features is None:
            raise ConfigError(f"{where}: {key}: features is missing; expected a table of names and expressions")
        if not isinstance(features, dict) or not features:
            raise ConfigError(f"{where}: {key}.features = {features!r}: expected a table of names and expressions")
        for feature, text in features.items():
            if not isinstance(text, str):
                raise ConfigError(f"{where}: {key}.features.{feature} = {text!r}: expected str, an expression")


def _fields(section: str) -> tuple[str, ...]:
    found: tuple[str, ...] = type(getattr(Config(), section)).__struct_fields__
    return found


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def _set(raw: dict[str, Any], variable: str, text: str) -> str:
    """Apply one variable of the environment; return the key that it sets."""
    section, separator, key = variable.removeprefix(PREFIX).lower().partition("__")
    if not separator:
        raise ConfigError(f"{variable}={text}: expected {PREFIX}SECTION__KEY, such as {PREFIX}INGRESS__MAX_AHEAD_MS")
    if section not in Config.__struct_fields__:
        raise ConfigError(f"{variable}={text}: no section {section!r}{_near(section, Config.__struct_fields__)}")
    if key not in _fields(section):
        raise ConfigError(f"{variable}={text}: no key {section}.{key}{_near(key, _fields(section))}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        # Plain text needs no quotes; a list may be given as its parts.
        value = (
            [part.strip() for part in text.split(",") if part.strip()]
            if isinstance(getattr(getattr(Config(), section), key), tuple)
            else text
        )
    raw.setdefault(section, {})[key] = value
    return f"{section}.{key}"
