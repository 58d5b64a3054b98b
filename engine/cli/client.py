"""A daemon as other processes of this machine see it: its HTTP answers, typed. For `tickfold top`, `models` and `doctor`."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from engine.errors import ConfigError, ServiceError
from engine.events import Key, Signal
from engine.health import FeedHealth, JournalHealth, SnapshotHealth

ANSWER_BYTES_MAX = 16 << 20
ENTITIES_MAX = 100  # of one request to /get-online-features

T = TypeVar("T")


class Quantiles(msgspec.Struct, frozen=True):
    """Durations in ns; None while there is none."""

    p50: float | None
    p99: float | None
    max: int
    count: int


class LastError(msgspec.Struct, frozen=True):
    """A strategy's newest failure, or why it is parked."""

    error: str
    received: int
    sequence: int
    handler: str | None = None


class StrategyHealth(msgspec.Struct, frozen=True):
    """One strategy."""

    name: str
    state: str  # listening, parked
    failures: int
    signals: int
    last_signal: Signal | None = None
    last_error: LastError | None = None


class HoldHealth(msgspec.Struct, frozen=True):
    """A time that something held the loop: from `at` (ns UTC) for `held_ns`."""

    at: int
    held_ns: int
    what: str


class LoopHealth(msgspec.Struct, frozen=True):
    """The newest holds, newest last."""

    holds: tuple[HoldHealth, ...]


class ModelsHealth(msgspec.Struct, frozen=True):
    """The models that run, how many there are over all keys, and how many of them are warm."""

    running: tuple[str, ...]
    instances: int
    ready: int
    memory_bytes: int
    alarms: tuple[str, ...]


class Parts(msgspec.Struct, frozen=True):
    """What the parts of the daemon say of themselves."""

    feeds: tuple[FeedHealth, ...]
    journal: JournalHealth
    snapshots: SnapshotHealth
    strategies: tuple[StrategyHealth, ...]
    loop: LoopHealth
    models: ModelsHealth | None = None


class Health(msgspec.Struct, frozen=True):
    """`GET /health`, as far as it is needed here."""

    status: str  # ok, degraded, starting
    starting: str
    reasons: tuple[str, ...]
    version: str
    started: int  # ns UTC
    uptime_s: float
    live_sequence: int
    latency_ns: Quantiles
    clock_skew_ns: int
    memory_bytes: int
    store_bytes: int
    parts: Parts

    @property
    def now(self) -> int:
        """The daemon's clock when it answered, ns UTC."""
        return self.started + round(self.uptime_s * 1e9)


class View(msgspec.Struct, frozen=True):
    """A feature view that is computed."""

    name: str
    features: tuple[str, ...]


class KeyName(msgspec.Struct, frozen=True):
    """A key that there are values of."""

    exchange: str
    symbol: str


class Features(msgspec.Struct, frozen=True):
    """`GET /features`, as far as it is needed here."""

    views: tuple[View, ...]
    keys: tuple[KeyName, ...]


class Row(msgspec.Struct, frozen=True):
    """The newest values of one key: "view:feature" to value, None where there is none; and the newest time of any of them."""

    exchange: str
    symbol: str
    values: dict[str, float | None]
    timestamp: str  # RFC 3339; "" if there is no value yet


class Commanded(msgspec.Struct, frozen=True):
    """A command that was folded."""

    sequence: int
    verb: str
    target: str


class TokenWantedError(ServiceError):
    """A daemon that listens beyond this machine answers only those who have its token."""


class Client:
    """Asks one daemon over one connection, made again when it is lost."""

    def __init__(self, url: str, *, timeout_s: float = 2.0, token: str = "") -> None:
        """Raises ConfigError for what is no address of a server."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port, host = parts.port, parts.hostname
        except ValueError:
            port = host = None
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigError(f"--url {url!r}: expected an address such as http://127.0.0.1:8420")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._connection = kind(host, port, timeout=timeout_s)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def health(self) -> Health:
        """How the daemon is. Raises ServiceError if there is none, or if it is something else that answers."""
        return self._decoded("/health", self._ask("GET", "/health"), Health)

    def features(self) -> Features:
        """Which views and keys there are."""
        return self._decoded("/features", self._ask("GET", "/features"), Features)

    def newest(self, keys: list[Key], features: list[str]) -> list[Row]:
        """The newest values of keys, as many as one request may ask for; [] while the daemon is starting."""
        keys = keys[:ENTITIES_MAX]
        if not keys or not features:
            return []
        entities = {"exchange": [exchange for exchange, _ in keys], "symbol": [symbol for _, symbol in keys]}
        asked = {"features": features, "entities": entities, "full_feature_names": True}
        answer = self._decoded("/get-online-features", self._ask("POST", "/get-online-features", asked), _Online)
        columns = answer.results[len(entities) :]
        rows = []
        for at, (exchange, symbol) in enumerate(keys):
            stamps = [c.event_timestamps[at] for c in columns if c.statuses[at] in ("PRESENT", "NULL_VALUE")]
            values = {name: c.values[at] for name, c in zip(features, columns, strict=True)}
            rows.append(Row(exchange, symbol, values, max(stamps, default="")))
        return rows

    def models(self, model: str = "", exchange: str = "", symbol: str = "") -> list[dict[str, Any]]:
        """`GET /models`: what each model is and how it does, by key; of one model or key, if they are named."""
        wish = {name: text for name, text in (("model", model), ("exchange", exchange), ("symbol", symbol)) if text}
        path = f"/models?{urlencode(wish)}" if wish else "/models"
        return self._decoded(path, self._ask("GET", path), list[dict[str, Any]])

    def command(self, verb: str, target: str) -> Commanded:
        """Have a command journaled and folded. Raises ConfigError for one that cannot be obeyed, ServiceError if it was not."""
        path = "/commands"
        status, answer = self._reach("POST", path, {"verb": verb, "target": target})
        if status in (http.client.NOT_FOUND, http.client.UNPROCESSABLE_ENTITY):
            said, order = _said(answer), f"{verb} {target!r}: "  # which the engine's own errors begin with
            raise ConfigError(f"{order}{said.removeprefix(order)}")
        return self._decoded(path, self._checked(path, status, answer), Commanded)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        return self._checked(path, *self._reach(method, path, body))

    def _reach(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Send a request; return status and body. Raises ServiceError if nobody answers."""
        headers = {**self._headers, **({} if body is None else {"Content-Type": "application/json"})}
        data = None if body is None else msgspec.json.encode(body)
        try:
            return self._exchange(method, path, data, headers)
        except (OSError, http.client.HTTPException) as error:
            raise ServiceError(
                f"no daemon answers at {self.url}: {_reason(error)}; `tickfold run` starts one"
            ) from error

    def _checked(self, path: str, status: int, answer: bytes) -> bytes:
        if status == http.client.UNAUTHORIZED:
            raise TokenWantedError(f"{self.url}{path}: wants the token of its data folder: --token-file DIR/token")
        if status != http.client.OK:
            raise ServiceError(f"{self.url}{path}: answered {status} {_said(answer)}; expected 200")
        return answer

    def _exchange(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        """Send a request; return status and body. A connection that was kept may have been closed meanwhile: then a new one."""
        was_open = self._connection.sock is not None
        try:
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
            return response.status, response.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if not was_open or isinstance(error, TimeoutError):
                raise
        return self._exchange(method, path, data, headers)

    def _decoded(self, path: str, answer: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            raise ServiceError(
                f"{self.url}{path}: expected the answer of a tickfold of this version, found {answer[:60]!r}: {error}"
            ) from error


class _Column(msgspec.Struct):
    values: list[Any]
    statuses: list[str]
    event_timestamps: list[str]


class _Online(msgspec.Struct):
    results: list[_Column]


class _Failure(msgspec.Struct):
    error: dict[str, Any]


def read_token(path: Path | None) -> str:
    """Return the token in a file, "" for None. Raises ConfigError if it cannot be read."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path}: {getattr(error, 'strerror', None) or error}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _said(answer: bytes) -> str:
    """What an error of tickfold's says, or how the answer begins."""
    try:
        return str(msgspec.json.decode(answer, type=_Failure).error["message"])
    except (msgspec.DecodeError, KeyError):
        return answer[:60].decode("utf-8", "backslashreplace")
