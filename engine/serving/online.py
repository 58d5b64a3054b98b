"""`POST /get-online-features`: the newest values of features by entity, in Feast's JSON.

What a list of features asks for is worked out once and kept (`Plan`); a request then reads the ring, and nothing else. It reads what
has been folded: requests are served on the loop, between two inputs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from http import HTTPStatus
from typing import Any, cast

import msgspec

from engine.clock import LiveClock
from engine.serving.answers import ApiError, decode, invalid
from store.ring import Lane, OnlineStore

ENTITIES_MAX = 100
FEATURES_MAX = 200
PLANS_MAX = 256
PLAN_BYTES_MAX = 65_536  # a longer list of features is planned anew each time
ENTITY_KEYS = ("exchange", "symbol")
REFERENCE = re.compile(r"([a-z][a-z0-9_]*)(?:@(\d+\.\d+\.\d+))?:([a-z][a-z0-9_]*)")

PRESENT, NULL_VALUE, NOT_FOUND, OUTSIDE_MAX_AGE = "PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"
NEVER = "1970-01-01T00:00:00Z"
"""The time of what has none, as Feast gives it: an entity key, a value that was not found."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NS_PER_S = 1_000_000_000
NS_PER_US = 1_000


class Asked(msgspec.Struct):
    """A request. Unknown fields are passed over, as Feast does."""

    entities: dict[str, list[str]]
    features: msgspec.Raw = msgspec.Raw(b"null")
    full_feature_names: bool = False
    feature_service: str | None = None


class Result(msgspec.Struct):
    """All entities' values of one name."""

    values: list[Any]
    statuses: list[str] | msgspec.Raw
    event_timestamps: list[str] | msgspec.Raw


class Answer(msgspec.Struct):
    """The whole answer."""

    metadata: msgspec.Raw
    results: list[Result]


class Names(msgspec.Struct):
    """What the results are, in their order."""

    feature_names: list[str]


@dataclass(frozen=True)
class Wanted:
    """What is read of one view."""

    view: str
    scope: int
    columns: tuple[int, ...]  # rows of the view's block
    places: tuple[int, ...]  # of the features among those asked for
    ttl_ns: int | None


@dataclass(frozen=True)
class Plan:
    """What a list of features asks for."""

    names: tuple[str, ...]
    views: tuple[Wanted, ...]


_asked = msgspec.json.Decoder(Asked)
_names = msgspec.json.Decoder(list[str])
_encode = msgspec.json.Encoder().encode


@lru_cache(4_096)
def _second(seconds: int) -> str:
    return (EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")


def rfc3339(timestamp: int) -> str:
    """Return ns UTC as RFC 3339 with microseconds."""
    seconds, rest = divmod(timestamp, NS_PER_S)
    return f"{_second(seconds)}.{rest // NS_PER_US:06d}Z"


@lru_cache(ENTITIES_MAX + 1)
def _repeated(text: str, count: int) -> msgspec.Raw:
    return msgspec.Raw(_encode([text] * count))


class OnlineFeatures:
    """Answers requests out of the online store."""

    def __init__(self, store: OnlineStore, clock: LiveClock) -> None:
        self._store = store
        self._clock = clock
        self._views = {view.name: view for view in store.program.views}
        self._plans: dict[tuple[bytes, bool], Plan] = {}

    def answer(self, body: bytes) -> bytes:
        """Return the answer to a request, JSON both. Raises ApiError that names the field which is wrong."""
        try:
            asked = _asked.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _explained(body) from None
        if asked.feature_service is not None:
            raise _invalid("feature_service", "there are no feature services here; list the features")
        entities = asked.entities
        if len(entities) != len(ENTITY_KEYS):
            raise _entities_error(entities)
        try:
            exchanges, symbols = entities["exchange"], entities["symbol"]
        except KeyError:
            raise _entities_error(entities) from None
        count = len(exchanges)
        if len(symbols) != count or not 1 <= count <= ENTITIES_MAX:
            raise _entities_error(entities)
        raw = bytes(asked.features)
        plan = self._plans.get((raw, asked.full_feature_names)) or self._plan(raw, asked)
        results = self._read(plan, list(zip(exchanges, symbols, strict=True)))
        present, never = _repeated(PRESENT, count), _repeated(NEVER, count)
        keys = [Result(values, present, never) for values in entities.values()]
        names = msgspec.Raw(_encode(Names([*entities, *plan.names])))
        return _encode(Answer(names, keys + results))

    def _read(self, plan: Plan, keys: list[tuple[str, str]]) -> list[Result]:
        """Return the results of the features, in the order in which they were asked for."""
        found = [self._store.lanes.get(key) for key in keys]
        results: list[Any] = [None] * len(plan.names)
        for wanted in plan.views:
            rows, times, statuses = _rows(found, wanted, self._clock.now if wanted.ttl_ns is not None else None)
            stamps = msgspec.Raw(_encode(times))
            present = _repeated(PRESENT, len(keys))
            for column, place in zip(wanted.columns, wanted.places, strict=True):
                values: list[Any] = [row and row[column] for row in rows]
                if statuses is None and _all_finite(values):
                    results[place] = Result(values, present, stamps)
                    continue
                told = statuses or [PRESENT] * len(values)
                # NaN - NaN and inf - inf are NaN: neither can be said in JSON, and msgspec writes null.
                said = [
                    NULL_VALUE if status is PRESENT and value - value != 0.0 else status
                    for value, status in zip(values, told, strict=True)
                ]
                results[place] = Result(values, said, stamps)
        return results

    def _plan(self, raw: bytes, asked: Asked) -> Plan:
        """Work out what a list of features asks for, and keep it. Raises ApiError for one that cannot be served."""
        try:
            references = _names.decode(raw)
        except msgspec.ValidationError as error:
            place = invalid(error).field or ""
            message = f'features{place}: expected a list of names such as "technical:rsi_14"'
            raise _invalid("features", message) from None
        if not 1 <= len(references) <= FEATURES_MAX:
            raise _invalid("features", f"features: {len(references)} of them, expected 1 to {FEATURES_MAX}")
        places: dict[str, list[tuple[int, int]]] = {}
        names: dict[str, str] = {}
        for at, reference in enumerate(references):
            view, feature = self._resolve(f"features[{at}] {reference[:200]!r}", reference)
            name = f"{view}__{feature}" if asked.full_feature_names else feature
            if name in names:
                clash = f"{names[name]} and {reference} are both named {name}"
                raise _invalid("features", f"features[{at}]: {clash}; full_feature_names tells views apart")
            names[name] = reference
            column: int = self._store.program.places[view].columns[feature]
            places.setdefault(view, []).append((column, at))
        plan = Plan(tuple(names), tuple(self._wanted(view, pairs) for view, pairs in places.items()))
        if len(raw) <= PLAN_BYTES_MAX:
            if len(self._plans) >= PLANS_MAX:
                del self._plans[next(iter(self._plans))]
            self._plans[raw, asked.full_feature_names] = plan
        return plan

    def _wanted(self, view: str, pairs: list[tuple[int, int]]) -> Wanted:
        columns, places = zip(*pairs, strict=True)
        ttl_ns = cast("int | None", getattr(self._views[view], "ttl_ns", None))
        return Wanted(view, self._store.program.places[view].scope, columns, places, ttl_ns)

    def _resolve(self, where: str, reference: str) -> tuple[str, str]:
        """Return (view, feature) of `view:feature` or `view@version:feature`."""
        found = REFERENCE.fullmatch(reference)
        if not found:
            raise _invalid("features", f"{where}: expected view:feature or view@version:feature")
        name, version, feature = found.groups()
        view = self._views.get(name)
        if view is None:
            raise _unknown(f"{where}: no feature view {name}{_near(name, list(self._views))}")
        if version not in (None, view.version):
            raise _unknown(f"{where}: {name} has version {view.version} here")
        columns = self._store.program.places[name].columns
        if feature not in columns:
            raise _unknown(f"{where}: {name} has no feature {feature}{_near(feature, list(columns))}")
        return name, feature


def _rows(
    lanes: list[Lane | None], wanted: Wanted, now: Callable[[], int] | None
) -> tuple[list[list[float] | None], list[str], list[str] | None]:
    """Return each entity's newest row of a view (None where it is not given), its time, and the statuses if not all are PRESENT."""
    rows: list[list[float] | None] = []
    times: list[str] = []
    statuses: dict[int, str] = {}
    for number, lane in enumerate(lanes):
        stop = 0 if lane is None else lane.position(wanted.scope)
        if lane is None or not stop:
            rows.append(None)
            times.append(NEVER)
            statuses[number] = NOT_FOUND
            continue
        timestamp = lane.stamp(wanted.scope, stop - 1)[0]
        times.append(rfc3339(timestamp))
        if now is not None and wanted.ttl_ns is not None and now() - timestamp > wanted.ttl_ns:
            rows.append(None)
            statuses[number] = OUTSIDE_MAX_AGE
        else:
            row: list[float] = lane.block(wanted.view)[:, stop - 1].tolist()
            rows.append(row)
    return rows, times, [statuses.get(number, PRESENT) for number in range(len(lanes))] if statuses else None


def _all_finite(values: list[Any]) -> bool:
    total: float = sum(values)
    return total - total == 0.0


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def _invalid(field: str, message: str) -> ApiError:
    return ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", message, field)


def _unknown(message: str) -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, "unknown_feature", message, "features")


def _entities_error(entities: dict[str, list[str]]) -> ApiError:
    """Say what is wrong with entities."""
    for name in ENTITY_KEYS:
        if name not in entities:
            return _invalid(f"entities.{name}", f"entities.{name} is missing; expected a list of text, one an entity")
    for name in entities:
        if name not in ENTITY_KEYS:
            return _invalid(f"entities.{name[:100]}", f"entities.{name[:100]}: expected only {', '.join(ENTITY_KEYS)}")
    lengths = [len(entities[name]) for name in ENTITY_KEYS]
    if lengths[0] != lengths[1]:
        return _invalid("entities", f"entities: {lengths[0]} exchanges and {lengths[1]} symbols: expected as many")
    return _invalid("entities", f"entities: {lengths[0]} of them, expected 1 to {ENTITIES_MAX}")


class _Loose(msgspec.Struct):
    """A request with nothing said of its entities, to find out which of them is wrong."""

    entities: dict[str, Any]
    features: Any = None
    full_feature_names: bool = False
    feature_service: str | None = None


_loose = msgspec.json.Decoder(_Loose)


def _explained(body: bytes) -> ApiError:
    """Return the error of a request that does not fit."""
    try:
        loose = decode(body, _loose)
    except ApiError as error:
        return error
    for name, values in loose.entities.items():
        if not isinstance(values, list):
            return _invalid(f"entities.{name[:100]}", f"entities.{name[:100]}: expected a list of text, one an entity")
        for at, value in enumerate(values):
            if not isinstance(value, str):
                where = f"entities.{name[:100]}"
                return _invalid(where, f"{where}[{at}] = {value!r:.100}: expected text")
    return _invalid("features", "features: expected a list of names such as technical:rsi_14")
