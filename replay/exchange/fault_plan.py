"""A plan of what shall go wrong at the loopback exchange: TOML in, frozen structs out, everything checked before anything starts.

Plan        any number of [[fault]] tables; `kind` says what goes wrong, the rest where, when and how: docs/faults.md
When        at `at_s` after the exchange began, for `for_s` (left out: to the end); with `every_s` again and again, each time up to
            `jitter_s` later, at most `times` times
Where       `venue`: one or a list of binance, coinbase, coinbase_exchange, kucoin; `symbols` as tickfold spells them, or as the
            exchange does. Left out: all
Errors      name the file, the table, the key, its value, what was expected, and for what is unknown the nearest that is known
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

from engine.errors import ConfigError

Feed: TypeAlias = Literal["binance", "coinbase", "coinbase_exchange", "kucoin"]
FEEDS: Final[tuple[Feed, ...]] = get_args(Feed)
FAULTS_MAX: Final = 256

Moment: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
Span: TypeAlias = Annotated[float, Meta(gt=0, le=1e9)]
Share: TypeAlias = Annotated[float, Meta(gt=0, le=1)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
Some: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]
HttpKind: TypeAlias = Literal["rest", "upgrade", "token"]


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all faults have."""

    venue: Feed | tuple[Feed, ...] = ()
    at_s: Moment = 0.0
    for_s: Span | None = None
    every_s: Moment = 0.0
    jitter_s: Moment = 0.0
    times: Count = 0

    @property
    def kind(self) -> str:
        """What it is called in a plan."""
        tag = self.__struct_config__.tag
        assert isinstance(tag, str)
        return tag

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """The venues that it is meant for."""
        return ((self.venue,) if isinstance(self.venue, str) else self.venue) or FEEDS

    def check(self) -> str:
        """Return what is wrong with its keys taken together, "" if nothing is."""
        if self.every_s and self.for_s is not None and self.for_s + self.jitter_s > self.every_s:
            return f"for_s + jitter_s = {self.for_s + self.jitter_s:g}: expected at most every_s, {self.every_s:g}"
        if self.every_s and self.for_s is None and self.lasts:
            return f"every_s = {self.every_s:g} without for_s: expected how long it lasts each time"
        if self.jitter_s > self.every_s > 0:
            return f"jitter_s = {self.jitter_s:g}: expected at most every_s, {self.every_s:g}"
        if self.times and not self.every_s:
            return f"times = {self.times} without every_s: expected the time from one to the next"
        return ""

    @property
    def lasts(self) -> bool:
        """Whether it goes on for a while, rather than happen at a moment."""
        return True


class Momentary(Fault, frozen=True, kw_only=True):
    """What happens at a moment."""

    @property
    def lasts(self) -> bool:
        return False


class OfSymbols(Fault, frozen=True, kw_only=True):
    """What concerns the messages of symbols."""

    symbols: tuple[str, ...] = ()


class OfMessages(OfSymbols, frozen=True, kw_only=True):
    """What happens to a share of the messages, drawn one by one."""

    share: Share = 1.0
    messages: Count = 0  # at most so many of each stream, each time; 0: no limit


# 1 to 3: silence, drops, closes


class Mute(OfSymbols, frozen=True, tag="mute"):
    """Streams are silent, the connection stays. Without `pings` the server's pings, pongs and heartbeats stay away too."""

    streams: Count = 0  # so many of the matching streams, drawn; 0: all
    pings: bool = True


class Drop(Momentary, frozen=True, tag="drop"):
    """Connections are reset, and for `for_s` no dial is answered; meanwhile the market goes on."""

    connections: Count = 0  # so many, drawn; 0: all
    rest: bool = True  # whether REST answers from then on

    @property
    def lasts(self) -> bool:
        return self.for_s is not None


class Close(Momentary, frozen=True, tag="close"):
    """Connections are closed: at moments, or each at an age."""

    connections: Count = 0
    age_s: Moment = 0.0
    notice_s: Moment = 0.0  # so long before, what announces it is said (Binance)
    code: Annotated[int, Meta(ge=1000, le=4999)] = 1001  # 1006: reset, without a word
    reason: Annotated[str, Meta(max_length=60)] = "Going away"

    @property
    def lasts(self) -> bool:
        return self.age_s > 0

    def check(self) -> str:
        """See `Fault.check`."""
        if self.code in (1004, 1005, 1015):
            return f"code = {self.code}: expected one that a close frame may carry, or 1006 for a reset"
        return super().check()


# 4 and 5: limits, tokens


class Limit(Fault, frozen=True, tag="limit"):
    """Requests are answered 429 or 418 with Retry-After."""

    on: tuple[HttpKind, ...] = ("rest",)
    status: Literal[429, 418] = 429
    retry_after_s: Annotated[int, Meta(ge=0, le=86_400)] = 5
    after: Count = 0  # so many are answered before, each time
    requests: Count = 0  # at most so many, each time; 0: all


class Expire(Fault, frozen=True, tag="expire"):
    """KuCoin's token is no good: 401 in place of the welcome, or at an age; then the connection is closed."""

    age_s: Moment = 0.0
    dials: Count = 0  # at most so many, each time; 0: all

    def check(self) -> str:
        """See `Fault.check`."""
        if self.venue not in ("kucoin", ("kucoin",)):
            return f"venue = {list(self.feeds)!r}: expected kucoin, the only one with tokens"
        return super().check()


# 6 to 9: duplicates, bursts, lateness, order


class Repeat(OfMessages, frozen=True, tag="repeat"):
    """After a message with trades the last few are sent again."""

    last: Annotated[int, Meta(ge=1, le=100)] = 1


class Burst(OfSymbols, frozen=True, tag="burst"):
    """What `for_s` brings comes in its last part only, so many times as fast."""

    faster: Annotated[float, Meta(gt=1, le=1_000)] = 10.0

    def check(self) -> str:
        """See `Fault.check`."""
        return super().check() if self.for_s is not None else "for_s is missing: expected how long a time is compressed"


class Deaf(Fault, frozen=True, tag="deaf"):
    """The exchange does not read what its clients say."""


class Lag(OfSymbols, frozen=True, tag="lag"):
    """All messages come late, in order."""

    delay_s: Span = 1.0


class Shuffle(OfMessages, frozen=True, tag="shuffle"):
    """Messages that lie closer than `within_s` come in another order."""

    within_s: Span = 0.2


class Delay(OfMessages, frozen=True, tag="delay"):
    """A share of the messages comes late, by up to `delay_s`: others overtake it."""

    delay_s: Span = 2.0


# 10 to 12: numbers, clocks, lists


class Renumber(Momentary, frozen=True, tag="renumber"):
    """The trade ids of symbols begin at another number from a moment on; history agrees."""

    symbols: tuple[str, ...] = ()
    to: Annotated[int, Meta(ge=0, le=10**18)] | None = None
    by: Annotated[int, Meta(ge=-(10**18), le=10**18)] = 0

    def check(self) -> str:
        """See `Fault.check`."""
        if (self.to is None) == (self.by == 0):
            return "expected either to, the first id, or by, how far the ids jump"
        return super().check()


class Clock(Fault, frozen=True, tag="clock"):
    """The exchange's clock is wrong: by an offset, and by what it drifts in each second from then on."""

    offset_ms: Annotated[float, Meta(ge=-1e9, le=1e9)] = 0.0
    drift_ms_s: Annotated[float, Meta(ge=-1e3, le=1e3)] = 0.0

    def check(self) -> str:
        """See `Fault.check`."""
        return super().check() if self.offset_ms or self.drift_ms_s else "expected offset_ms, drift_ms_s, or both"


class Delist(OfSymbols, frozen=True, tag="delist"):
    """Symbols are gone: a subscription is an error, or silent, or the product list says so, or no longer has them."""

    how: Literal["error", "silent", "listed", "unlisted"] = "error"

    def check(self) -> str:
        """See `Fault.check`."""
        return super().check() if self.symbols else "symbols is missing: expected the symbols that are gone"


# 13 and 14: frames, acknowledgements


class Garble(OfMessages, frozen=True, tag="garble"):
    """Frames are not what they should be."""

    how: Literal["oversize", "fragments", "cut", "nul", "utf8", "binary", "empty"] = "cut"
    bytes: Annotated[int, Meta(ge=1, le=64 << 20)] = 5_000_000  # of an oversize message
    fragments: Annotated[int, Meta(ge=2, le=1_000)] = 3


class Ack(Fault, frozen=True, tag="ack"):
    """Answers to clients' requests come late, or never."""

    share: Share = 1.0
    delay_s: Moment = 0.0  # 0: never
    requests: Count = 0  # at most so many, each time; 0: all


class Cap(Fault, frozen=True, tag="cap"):
    """A connection gets its first so many streams; those beyond are acknowledged, and silent."""

    streams: Some = 1_024


# 15 to 17: one symbol's gap, quiet symbols, the network


class Gap(OfMessages, frozen=True, tag="gap"):
    """Messages with trades are lost."""


class Quiet(OfSymbols, frozen=True, tag="quiet"):
    """The market of symbols stands still: no trades, no quotes; pings and heartbeats go on."""


class Blackhole(Fault, frozen=True, tag="blackhole"):
    """Nothing goes through any more, either way, and nobody is told; dials hang as well."""

    connections: Count = 0
    dials: bool = True


class Refuse(Fault, frozen=True, tag="refuse"):
    """Dials, or fetches of a token, are turned away."""

    on: tuple[HttpKind, ...] = ("upgrade", "token")
    status: Literal[0, 400, 403, 404, 410, 418, 429, 451, 500, 502, 503, 504] = 503  # 0: reset
    retry_after_s: Annotated[int, Meta(ge=0, le=86_400)] = 0


# 18 to 20: novelties, REST, values


class Unknown(OfMessages, frozen=True, tag="unknown"):
    """Messages of a type that nobody knows come in between, or messages have a field that nobody knows."""

    how: Literal["type", "field"] = "type"


class Rest(OfSymbols, frozen=True, tag="rest"):
    """History is behind, slow, broken, or says things twice."""

    behind: Count = 0  # trades of each symbol that it does not know yet
    delay_s: Moment = 0.0
    status: Literal[0, 400, 404, 429, 500, 502, 503, 504] = 0  # 0: as it should be
    retry_after_s: Annotated[int, Meta(ge=0, le=86_400)] = 0
    after: Count = 0  # so many requests are answered as they should be before, each time
    requests: Count = 0  # at most so many are broken, each time; 0: all
    overlap: Annotated[int, Meta(ge=0, le=1_000)] = 0  # rows of the answer before that come again
    hangs: bool = False  # no answer at all

    def check(self) -> str:
        """See `Fault.check`."""
        if not (self.behind or self.delay_s or self.status or self.overlap or self.hangs):
            return "expected behind, delay_s, status, overlap or hangs: what is wrong with it"
        return super().check()


class Bad(OfMessages, frozen=True, tag="bad"):
    """Messages hold values that cannot be. History has the right ones."""

    how: Literal["price_zero", "size_negative", "year_one", "crossed", "nan"] = "price_zero"


AnyFault: TypeAlias = (
    Mute | Drop | Close | Limit | Expire | Repeat | Burst | Deaf | Lag | Shuffle | Delay | Renumber | Clock | Delist
    | Garble | Ack | Cap | Gap | Quiet | Blackhole | Refuse | Unknown | Rest | Bad
)  # fmt: skip
KINDS: Final[Mapping[str, type[Fault]]] = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyFault)}


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Faults, in the order in which they treat a message."""

    fault: Annotated[tuple[AnyFault, ...], Meta(max_length=FAULTS_MAX)] = ()
    where: str = ""
    """The file that it was read from."""


def read(path: Path) -> Plan:
    """Read a plan. Raises ConfigError that names the file, the table, the key, its value and what was expected."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the fault plan: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected a fault plan in TOML, which is UTF-8: {error}") from error
    plan = parse(text, str(path))
    if not plan.fault:
        raise ConfigError(f"{path}: no [[fault]] table, so nothing would happen: expected some, of {', '.join(KINDS)}")
    return plan


def parse(text: str, where: str = "the fault plan") -> Plan:
    """Read a plan from its text; see `read`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: expected a fault plan in TOML: {error}") from error
    for key, value in raw.items():
        if key != "fault":
            raise ConfigError(f"{where}: {key} = {value!r}: no such key; expected [[fault]] tables")
    tables = raw.get("fault", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{where}: fault = {tables!r}: expected [[fault]] tables, with two brackets")
    if len(tables) > FAULTS_MAX:
        raise ConfigError(f"{where}: {len(tables)} [[fault]] tables: expected at most {FAULTS_MAX}")
    return Plan(tuple(_fault(table, f"{where}: fault {number}") for number, table in enumerate(tables, 1)), where)


def _fault(table: dict[str, Any], where: str) -> AnyFault:
    name = table.get("kind")
    if name is None:
        raise ConfigError(f"{where}: kind is missing: expected one of {', '.join(KINDS)}")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigError(f"{where}: kind = {name!r}: no such kind of fault{_near(str(name), tuple(KINDS))}")
    known = kind.__struct_fields__
    for key, value in table.items():
        if key != "kind" and key not in known:
            raise ConfigError(f"{where} ({name}): {key} = {value!r}: no such key{_near(key, known)}")
        _check_choice(kind, key, value, f"{where} ({name})")
    try:
        fault = msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        expected, _, at = str(error).partition(" - at `$")
        key = re.split(r"[.\[]", at.strip("`.") + ".")[0] or "the whole"
        said = expected[:1].lower() + expected[1:].replace("`", "")
        raise ConfigError(f"{where} ({name}): {key} = {table.get(key)!r}: {said}") from error
    wrong = fault.check()
    if wrong:
        raise ConfigError(f"{where} ({name}): {wrong}")
    return fault  # type: ignore[return-value]  # KINDS holds these kinds alone


def _check_choice(kind: type[Fault], key: str, value: Any, where: str) -> None:
    """Name the choices where a value is none of them."""
    choices = FEEDS if key == "venue" else _choices(kind, key)
    if not choices:
        return
    for one in value if isinstance(value, list) else [value]:
        if one not in choices or isinstance(one, bool):
            near = _near(one, tuple(map(str, choices))) if isinstance(one, str) else ""
            near = near or f"; there are {', '.join(map(str, choices))}"
            raise ConfigError(f"{where}: {key} = {value!r}: {one!r} is none of its values{near}")


def _choices(kind: type[Fault], key: str) -> tuple[Any, ...]:
    """Return the values of a key that has a fixed set of them."""
    for field in msgspec.structs.fields(kind):
        if field.name == key:
            return tuple(get_args(get_args(field.type)[0] if key == "on" else field.type)) if key in _CHOSEN else ()
    return ()


_CHOSEN: Final = ("how", "status", "on")


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
