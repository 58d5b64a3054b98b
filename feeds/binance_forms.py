"""The forms in which Binance spot usually sends trades and best prices, as structs that the parser checks to the last field.

What fits is right; what does not may be another form of the same, and `feeds.binance` looks at it again.
Closed      a field that is not known does not fit, so nothing is skipped, and no bytes are left of which nobody has asked whether
            they are text
Order       fields stand as on the wire, where the parser looks for each first; those that nobody asks for are named, since to skip
            an unknown one takes longer: a trade in a wrapper is read in 0.38 us, into a struct for all kinds in 0.49
Names       of pairs are a closed list: the parser finds the text that is there already, with its hash, and makes no new one. That
            takes 0.06 us off an event, symbol look-up included
Reference   https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Meta

from feeds.wire import Identifier, Number, Word

LAST_MS: Final = (2**63 - 1) // 1_000_000  # where int64 ns end
LAST_US: Final = (2**63 - 1) // 1_000
NS_PER_MS: Final = 1_000_000
REMEMBERED_LISTS: Final = 8

_Ms: TypeAlias = Annotated[int, Meta(ge=0, le=LAST_MS)]
_Time: TypeAlias = Annotated[int, Meta(ge=0, le=LAST_US)]
_Name = TypeVar("_Name")


class Trade(
    msgspec.Struct,
    Generic[_Name],
    gc=False,
    forbid_unknown_fields=True,
    tag_field="e",
    tag="trade",
    rename={
        "event_time": "E",
        "symbol": "s",
        "trade_id": "t",
        "price": "p",
        "volume": "q",
        "time": "T",
        "buyer_is_maker": "m",
        "is_best_match": "M",
    },
):
    """A trade as it is today: without the order ids that were sent until 2024, and without the X of USD-M."""

    event_time: _Time
    symbol: _Name
    trade_id: Identifier
    price: Number
    volume: Number
    time: _Ms
    buyer_is_maker: bool
    is_best_match: bool


class AggTrade(
    msgspec.Struct,
    Generic[_Name],
    gc=False,
    forbid_unknown_fields=True,
    tag_field="e",
    tag="aggTrade",
    rename={
        "event_time": "E",
        "symbol": "s",
        "trade_id": "a",
        "price": "p",
        "volume": "q",
        "first_id": "f",
        "last_id": "l",
        "time": "T",
        "buyer_is_maker": "m",
        "is_best_match": "M",
    },
):
    """Trades of one order at one price."""

    event_time: _Time
    symbol: _Name
    trade_id: Identifier
    price: Number
    volume: Number
    first_id: int
    last_id: int
    time: _Ms
    buyer_is_maker: bool
    is_best_match: bool


class Book(
    msgspec.Struct,
    Generic[_Name],
    gc=False,
    forbid_unknown_fields=True,
    rename={
        "update_id": "u",
        "symbol": "s",
        "bid": "b",
        "bid_volume": "B",
        "ask": "a",
        "ask_volume": "A",
        "kind": "e",
        "event_time": "E",
        "time": "T",
    },
):
    """Spot's best prices, which have no type and no time: the last three are USD-M's, and may not be there."""

    update_id: Identifier
    symbol: _Name
    bid: Number
    bid_volume: Number
    ask: Number
    ask_volume: Number
    kind: None = None
    event_time: None = None
    time: None = None


class StreamedTrade(msgspec.Struct, Generic[_Name], gc=False, forbid_unknown_fields=True):
    """A trade in the wrapper of combined streams."""

    stream: str
    data: Trade[_Name] | AggTrade[_Name]


class StreamedBook(msgspec.Struct, Generic[_Name], gc=False, forbid_unknown_fields=True):
    """Best prices in the wrapper of combined streams."""

    stream: str
    data: Book[_Name]


class Readers(NamedTuple):
    """A parser for each form. Each raises one of `feeds.wire.UNREADABLE` if a frame does not fit."""

    trade: Callable[[bytes], Trade[str] | AggTrade[str]]
    streamed_trade: Callable[[bytes], StreamedTrade[str]]
    book: Callable[[bytes], Book[str]]
    streamed_book: Callable[[bytes], StreamedBook[str]]


@functools.lru_cache(REMEMBERED_LISTS)
def readers(names: tuple[str, ...]) -> Readers:
    """Build the parsers for the pairs `names`, as the exchange spells them; without any, for all."""
    name: Any = cast(Any, Literal)[names] if names else Word
    forms: tuple[Any, ...] = (Trade[name] | AggTrade[name], StreamedTrade[name], Book[name], StreamedBook[name])
    return Readers(*(msgspec.json.Decoder(form, strict=False).decode for form in forms))
