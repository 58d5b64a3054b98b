"""What a client of the stream wants to hear: by type of message, view, key, strategy and model. What is not named is wanted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from engine.events import (
    Configured,
    Drift,
    FeedStatus,
    Fill,
    Gap,
    HandlerFailed,
    Heartbeat,
    Key,
    Outcome,
    Prediction,
    Promotion,
    Signal,
)
from engine.serving.answers import ApiError, invalid

FEATURES = "features"
OTHER = "event"
TYPES: dict[type, str] = {
    Signal: "signal",
    FeedStatus: "feed_status",
    Gap: "gap",
    Prediction: "prediction",
    Outcome: "outcome",
    Drift: "drift",
    Promotion: "promotion",
    Fill: "fill",
}
"""Events with a type of their own; all others are OTHER, and say which they are."""
UNHEARD = (Heartbeat, Configured)
"""What says nothing to a client."""
CONFLATED = (Prediction, Outcome)
"""Events of which only the newest of each model and key is sent, as of features: there may be one at each trade."""
ALL_TYPES = (FEATURES, *TYPES.values(), OTHER)
NAMES_MAX = 1_000


class KeyName(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A key as JSON has it."""

    exchange: str
    symbol: str


class Wish(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a client asks for: None means all."""

    types: list[str] | None = None
    views: list[str] | None = None
    keys: list[KeyName] | None = None
    strategies: list[str] | None = None
    models: list[str] | None = None


@dataclass(frozen=True)
class Selection:
    """What one client hears."""

    types: frozenset[str] | None = None
    views: frozenset[str] | None = None
    keys: dict[Key, None] | None = None
    strategies: frozenset[str] | None = None
    models: frozenset[str] | None = None

    def has_features(self, view: str, key: Key) -> bool:
        """Whether rows of a view and key are wanted."""
        return (
            (self.types is None or FEATURES in self.types)
            and (self.views is None or view in self.views)
            and (self.keys is None or key in self.keys)
        )

    def has_type(self, kind: type) -> bool:
        """Whether events of a kind are wanted at all."""
        return self.types is None or TYPES.get(kind, OTHER) in self.types

    def has(self, event: Any) -> bool:
        """Whether an event is wanted. What concerns no key passes every choice of keys; so with strategies and models."""
        if not self.has_type(type(event)):
            return False
        if self.keys is not None and (exchange := getattr(event, "exchange", "")):
            symbol = event.symbol
            # A status without a symbol speaks of the whole connection.
            if (exchange, symbol) not in self.keys if symbol else not any(exchange == key[0] for key in self.keys):
                return False
        if self.models is not None and (model := getattr(event, "model", "")) and model not in self.models:
            return False
        if self.strategies is not None:
            name = getattr(event, "strategy", "") or getattr(event, "actor", "")
            return not name or name in self.strategies
        return True


def select(wish: Wish, views: tuple[str, ...]) -> Selection:
    """Return the selection of a wish. Raises ApiError for a type or a view that is not there, and for far too many names."""
    for name in Wish.__struct_fields__:
        if len(getattr(wish, name) or ()) > NAMES_MAX:
            raise _wrong(name, f"expected at most {NAMES_MAX}")
    for name, known in (("types", ALL_TYPES), ("views", views)):
        for found in getattr(wish, name) or ():
            if found not in known:
                raise _wrong(name, f"{found[:100]!r}: expected {', '.join(known)}")
    return Selection(
        None if wish.types is None else frozenset(wish.types),
        None if wish.views is None else frozenset(wish.views),
        None if wish.keys is None else {(key.exchange, key.symbol): None for key in wish.keys},
        None if wish.strategies is None else frozenset(wish.strategies),
        None if wish.models is None else frozenset(wish.models),
    )


def of_query(query: Mapping[str, str]) -> Wish:
    """Return what a query asks for: names with commas between them, keys as `exchange:symbol`, or one as exchange= and symbol=."""
    keys = None
    if "keys" in query:
        keys = [_key(text) for text in _words(query["keys"])]
    elif "exchange" in query or "symbol" in query:
        if missing := [name for name in ("exchange", "symbol") if not query.get(name)]:
            raise _wrong(missing[0], "expected exchange and symbol together")
        keys = [KeyName(query["exchange"], query["symbol"])]
    types, views, strategies, models = (
        _words(query[name]) if name in query else None for name in ("types", "views", "strategies", "models")
    )
    return Wish(types, views, keys, strategies, models)


def _key(text: str) -> KeyName:
    exchange, separator, symbol = text.partition(":")
    if not separator or not exchange or not symbol:
        raise _wrong("keys", f"{text[:100]!r}: expected exchange:symbol")
    return KeyName(exchange, symbol)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _wrong(field: str, message: str) -> ApiError:
    return ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", f"{field}: {message}", field)


def message_of(event: Any) -> bytes:
    """Return an event as the stream sends it: its fields, and its type. NaN becomes null."""
    fields = msgspec.structs.asdict(event)
    if isinstance(event, HandlerFailed):
        del fields["traceback"]  # names files of the machine; the log has it
    kind = TYPES.get(type(event), OTHER)
    name = {"event": _snake(type(event).__name__)} if kind == OTHER else {}
    return msgspec.json.encode({"type": kind, **name, **fields})


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class Subscribe(msgspec.Struct, forbid_unknown_fields=True):
    """What a client of the stream may say."""

    subscribe: Wish


_subscribe = msgspec.json.Decoder(Subscribe)


def of_message(text: str) -> Wish:
    """Return what a client's message asks for. Raises ApiError for any other message."""
    try:
        return _subscribe.decode(text).subscribe
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, "bad_json", f"the message is no JSON: {error}") from None
