"""What a connection is to be subscribed to, what its socket was asked for, and which requests still wait for their answer.

Requests are answered in the order in which they are made, so one symbol may be dropped and asked for again without waiting. A
batch that the exchange turns down is asked for again in halves: one bad symbol does not cost the others.

An answer names its request by number, or by content: a list of all that the socket is subscribed to. Such a list answers the oldest
open request that it can be the answer to, and turns down whatever of it is not on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from feeds.speech import StreamProtocol


class Request(msgspec.Struct):
    """A request that was made. Without symbols: one of what is asked for once."""

    subscribes: bool
    channel: str
    symbols: tuple[str, ...]
    sent_at: int


class Verdict(msgspec.Struct, frozen=True):
    """What came of a request: the symbols that are refused by it, and were not before."""

    request: Request
    refused: tuple[str, ...]
    is_granted: bool


@dataclass
class _Channel:
    """One channel of a socket: what was asked for on it, and what is to be."""

    asked: dict[str, None] = field(default_factory=dict)
    to_add: dict[str, None] = field(default_factory=dict)
    to_drop: dict[str, None] = field(default_factory=dict)
    halves: deque[tuple[str, ...]] = field(default_factory=deque)

    def forget(self) -> None:
        for left in (self.asked, self.to_add, self.to_drop, self.halves):
            left.clear()


class Subscriptions:
    """The symbols of one connection, over all of its sockets: as many as one socket may carry."""

    def __init__(self, protocol: StreamProtocol, symbols: Iterable[str]) -> None:
        unique = tuple(dict.fromkeys(symbols))
        self.wanted = dict.fromkeys(unique[: protocol.capacity])
        self.left_out = unique[protocol.capacity :]
        """For want of room."""
        self.rejected: dict[str, None] = {}
        """Those of the wanted that the exchange has refused on this socket, on any channel."""
        self._protocol = protocol
        self._is_open = False
        self._once: deque[str] = deque()
        self._channels = {channel: _Channel() for channel in protocol.channels}
        self._open: dict[int, Request] = {}
        self._number = 0

    @property
    def has_to_say(self) -> bool:
        """Whether a request is to be made."""
        return bool(self._once) or any(each.to_drop or each.halves or each.to_add for each in self._channels.values())

    @property
    def is_settled(self) -> bool:
        """Whether all that is wanted was asked for and answered."""
        asking = self._once or any(each.to_add or each.halves for each in self._channels.values())
        return not asking and not any(request.subscribes for request in self._open.values())

    @property
    def oldest(self) -> Request | None:
        """The request that has waited longest for its answer."""
        return next(iter(self._open.values()), None)

    def begin(self) -> None:
        """A socket may be spoken on: everything is to be asked for."""
        self.forget()
        self._is_open = True
        self._once.extend(self._protocol.once)
        for channel in self._channels.values():
            channel.to_add.update(self.wanted)

    def forget(self) -> None:
        """The socket is gone, and what was said on it with it."""
        self._is_open = False
        self._once.clear()
        self._open.clear()
        self.rejected.clear()
        for channel in self._channels.values():
            channel.forget()

    def add(self, symbol: str) -> bool:
        """Want a symbol; return whether there is room for it."""
        if symbol in self.wanted:
            return True
        if len(self.wanted) >= self._protocol.capacity:
            return False
        self.wanted[symbol] = None
        for channel in self._channels.values():
            channel.to_drop.pop(symbol, None)
            if self._is_open and symbol not in channel.asked:
                channel.to_add[symbol] = None
        return True

    def remove(self, symbol: str) -> None:
        """No longer want a symbol."""
        if symbol not in self.wanted:
            return
        del self.wanted[symbol]
        self.rejected.pop(symbol, None)
        for channel in self._channels.values():
            channel.to_add.pop(symbol, None)
            if symbol in channel.asked:
                channel.to_drop[symbol] = None

    def next_request(self, now: int) -> str | None:
        """Make the next request, and return its text: what is to be dropped goes before what is to be added."""
        protocol = self._protocol
        if self._once:
            return self._make(True, self._once.popleft(), (), now)
        for name, channel in self._channels.items():
            if channel.to_drop:
                symbols = _take(channel.to_drop, protocol.batch)
                for symbol in symbols:
                    del channel.asked[symbol]
                return self._make(False, name, symbols, now)
        for name, channel in self._channels.items():
            if not channel.halves and not channel.to_add:
                continue
            symbols = channel.halves.popleft() if channel.halves else _take(channel.to_add, protocol.batch)
            # A half may have been removed, or removed and added again, while it waited.
            symbols = tuple(symbol for symbol in symbols if symbol in self.wanted and symbol not in channel.asked)
            if not symbols:
                return None
            channel.asked.update(dict.fromkeys(symbols))
            return self._make(True, name, symbols, now)
        return None

    def acknowledge(self, number: int) -> bool:
        """Take an acknowledgement; return whether such a request was open."""
        return self._open.pop(number, None) is not None

    def listed(self, channels: Mapping[str, Sequence[str]]) -> Verdict | None:
        """Take a list of all that is subscribed, as the answer to the oldest open request that it can answer, or to the oldest of all.

        Returns None if no request is open.
        """
        if not self._open:
            return None
        answered = (number for number, request in self._open.items() if _answers(channels, request))
        number = next(answered, min(self._open))
        request = self._open.pop(number)
        is_granted = _answers(channels, request)
        if not request.subscribes or not request.symbols:
            return Verdict(request, (), is_granted)
        listed = frozenset(channels.get(request.channel, ()))
        missing = tuple(symbol for symbol in self._at_stake(number, request) if symbol not in listed)
        return Verdict(request, self._refuse(request.channel, missing), is_granted)

    def reject(self, number: int | None) -> Verdict | None:
        """Take a refusal (of the oldest request, if it says not of which); return None if it is of none that is open.

        If the request asked for one symbol that is still wanted, it is refused; if for more, halves of it are to be asked for.
        """
        if number is None and self._open:
            number = min(self._open)
        request = None if number is None else self._open.pop(number, None)
        if request is None or not request.subscribes or not request.symbols:
            return None if request is None else Verdict(request, (), False)
        assert number is not None
        at_stake = self._at_stake(number, request)
        symbols = tuple(symbol for symbol in at_stake if symbol in self.wanted)
        if len(symbols) <= 1:
            return Verdict(request, self._refuse(request.channel, at_stake), False)
        channel = self._channels[request.channel]
        _forget(channel, at_stake)
        middle = len(symbols) // 2
        channel.halves.extend((symbols[:middle], symbols[middle:]))
        return Verdict(request, (), False)

    def put_off(self, since: int, now: int) -> None:
        """Answers could not be heard from `since` to `now`: that time does not count."""
        for request in self._open.values():
            request.sent_at += now - max(since, request.sent_at)

    def _make(self, subscribes: bool, channel: str, symbols: tuple[str, ...], now: int) -> str:
        self._number += 1
        self._open[self._number] = Request(subscribes, channel, symbols, now)
        speak = self._protocol.subscribe if subscribes else self._protocol.unsubscribe
        return speak(self._number, channel, symbols)

    def _at_stake(self, number: int, request: Request) -> tuple[str, ...]:
        """The symbols that no later request on that channel has been made for: of the others, its answer says nothing any more."""
        later = {
            symbol
            for other, made in self._open.items()
            if other > number and made.channel == request.channel
            for symbol in made.symbols
        }
        return tuple(symbol for symbol in request.symbols if symbol not in later)

    def _refuse(self, channel: str, symbols: Sequence[str]) -> tuple[str, ...]:
        """Of the wanted: the exchange will not send them on this channel. Return those that it is the first to refuse."""
        _forget(self._channels[channel], symbols)
        refused = tuple(symbol for symbol in symbols if symbol in self.wanted and symbol not in self.rejected)
        self.rejected.update(dict.fromkeys(refused))
        return refused


def few(symbols: Sequence[str]) -> str:
    """Name the first few of them."""
    shown = ", ".join(symbols[:3])
    return shown if len(symbols) <= 3 else f"{shown} and {len(symbols) - 3} more"


def _answers(channels: Mapping[str, Sequence[str]], request: Request) -> bool:
    """Whether a list of all that is subscribed can be the answer to a request: what was asked for is on it, at least in part."""
    if not request.symbols:
        return request.channel in channels
    listed = channels.get(request.channel, ())
    return any(symbol in listed for symbol in request.symbols) is request.subscribes


def _forget(channel: _Channel, symbols: Sequence[str]) -> None:
    for symbol in symbols:
        channel.asked.pop(symbol, None)
        channel.to_drop.pop(symbol, None)


def _take(symbols: dict[str, None], most: int) -> tuple[str, ...]:
    taken = tuple(symbols)[:most]
    for symbol in taken:
        del symbols[symbol]
    return taken
