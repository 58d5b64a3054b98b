"""What a connection is to be subscribed to, what its socket was asked for, and which requests still wait for their answer.

Requests are answered in the order in which they are made, so one symbol may be dropped and asked for again without waiting. A
batch that the exchange turns down is asked for again in halves: one bad symbol does not cost the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from feeds.speech import StreamProtocol


class Request(msgspec.Struct):
    """A request that was made."""

    subscribes: bool
    symbols: tuple[str, ...]
    sent_at: int


class Subscriptions:
    """The symbols of one connection, over all of its sockets."""

    def __init__(self, protocol: StreamProtocol, symbols: Iterable[str]) -> None:
        self.wanted = dict.fromkeys(symbols)
        self.rejected: dict[str, None] = {}
        """Those of the wanted that the exchange has refused on this socket."""
        self._protocol = protocol
        self._asked: dict[str, None] = {}
        self._to_add: dict[str, None] = {}
        self._to_drop: dict[str, None] = {}
        self._halves: deque[tuple[str, ...]] = deque()
        self._open: dict[int, Request] = {}
        self._number = 0

    @property
    def has_to_say(self) -> bool:
        """Whether a request is to be made."""
        return bool(self._to_drop or self._halves or self._to_add)

    @property
    def is_settled(self) -> bool:
        """Whether all that is wanted was asked for and answered."""
        asking = self._to_add or self._halves or any(request.subscribes for request in self._open.values())
        return not asking

    @property
    def oldest(self) -> Request | None:
        """The request that has waited longest for its answer."""
        return self._open[min(self._open)] if self._open else None

    def begin(self) -> None:
        """A socket is open: everything is to be asked for."""
        self.forget()
        self._to_add = dict(self.wanted)
        self.rejected.clear()

    def forget(self) -> None:
        """The socket is gone, and what was said on it with it."""
        for left in (self._asked, self._to_add, self._to_drop, self._open):
            left.clear()
        self._halves.clear()

    def add(self, symbol: str, *, ask: bool) -> None:
        """Want a symbol; with `ask` there is a socket to ask for it on."""
        if symbol in self.wanted:
            return
        self.wanted[symbol] = None
        self._to_drop.pop(symbol, None)
        if ask and symbol not in self._asked:
            self._to_add[symbol] = None

    def remove(self, symbol: str) -> None:
        """No longer want a symbol."""
        if symbol not in self.wanted:
            return
        del self.wanted[symbol]
        self._to_add.pop(symbol, None)
        self.rejected.pop(symbol, None)
        if symbol in self._asked:
            self._to_drop[symbol] = None

    def next_request(self, now: int) -> str | None:
        """Make the next request, and return its text: what is to be dropped goes before what is to be added."""
        protocol, number = self._protocol, self._number + 1
        if self._to_drop:
            symbols = _take(self._to_drop, protocol.batch)
            for symbol in symbols:
                del self._asked[symbol]
            text = protocol.unsubscribe(number, "", symbols)
            subscribes = False
        else:
            symbols = self._halves.popleft() if self._halves else _take(self._to_add, protocol.batch)
            # A half may have been removed, or removed and added again, while it waited.
            symbols = tuple(symbol for symbol in symbols if symbol in self.wanted and symbol not in self._asked)
            if not symbols:
                return None
            self._asked.update(dict.fromkeys(symbols))
            text = protocol.subscribe(number, "", symbols)
            subscribes = True
        self._number = number
        self._open[number] = Request(subscribes, symbols, now)
        return text

    def acknowledge(self, number: int) -> bool:
        """Take an acknowledgement; return whether such a request was open."""
        return self._open.pop(number, None) is not None

    def reject(self, number: int | None) -> Request | None:
        """Take a refusal (of the oldest request, if it says not of which); return the request that it was of.

        If that asked for one symbol that is still wanted, it is rejected; if for more, halves of it are to be asked for.
        """
        if number is None and self._open:
            number = min(self._open)
        request = None if number is None else self._open.pop(number, None)
        if request is None or not request.subscribes:
            return request
        for symbol in request.symbols:
            self._asked.pop(symbol, None)
            self._to_drop.pop(symbol, None)
        symbols = tuple(symbol for symbol in request.symbols if symbol in self.wanted)
        if len(symbols) > 1:
            middle = len(symbols) // 2
            self._halves.extend((symbols[:middle], symbols[middle:]))
        else:
            self.rejected.update(dict.fromkeys(symbols))
        return request

    def put_off(self, since: int, now: int) -> None:
        """Answers could not be heard from `since` to `now`: that time does not count."""
        for request in self._open.values():
            request.sent_at += now - max(since, request.sent_at)


def few(symbols: Sequence[str]) -> str:
    """Name the first few of them."""
    shown = ", ".join(symbols[:3])
    return shown if len(symbols) <= 3 else f"{shown} and {len(symbols) - 3} more"


def _take(symbols: dict[str, None], most: int) -> tuple[str, ...]:
    taken = tuple(symbols)[:most]
    for symbol in taken:
        del symbols[symbol]
    return taken
