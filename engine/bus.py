"""The bus: routes events by topic and key, first in first out, without recursion, within a limit.

A topic is an event class, or for feature events the name of their view. What a handler publishes is delivered after the current
event has reached all its subscribers. Handlers are called in the order in which their actors subscribed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from engine.errors import EngineError
from engine.events import FeatureEvent, Key

Topic: TypeAlias = type | str
Handler: TypeAlias = Callable[[Any], Iterable[Any] | None]


class Subscriber(Protocol):
    """Who hears events: told what its handler raised, asked whether it listens at all."""

    name: str
    listening: bool


@dataclass(frozen=True)
class Route:
    """One handler of one subscriber. With `late`, it hears history too."""

    subscriber: Subscriber
    handler: Handler
    late: bool = False


class BusOverflowError(EngineError):
    """More events were published for one input than the bus holds."""


class Bus:
    """Delivers events to handlers through `call`, which isolates a failing one."""

    def __init__(self, call: Callable[[Route, Any], None], limit: int) -> None:
        self._call = call
        self.limit = limit
        self.round = 1
        """Counts the fold's own events; what one brings about belongs to its round."""
        self._queue: deque[Any] = deque()
        self._published: dict[str, int] = {}  # by subscriber, since the fold's own event
        self.muted = False
        """While it is, nobody hears anything; `refresh` after a change."""
        self._subscriptions: dict[Topic, list[tuple[Key | None, Route]]] = {}
        self._routes: dict[tuple[Topic, Key | None], tuple[Route, ...]] = {}

    def subscribe(
        self, topic: Topic, subscriber: Subscriber, handler: Handler, *, key: Key | None = None, late: bool = False
    ) -> None:
        """Add a handler for a topic, of one key or of all. Raises EngineError for what is neither an event class nor a name."""
        if not isinstance(topic, (type, str)):
            raise EngineError(
                f"{subscriber.name}: topic {topic!r}: expected an event class or the name of a feature view"
            )
        self._subscriptions.setdefault(topic, []).append((key, Route(subscriber, handler, late)))
        self.refresh()

    def refresh(self) -> None:
        """Forget the resolved routes: somebody subscribed, was parked or resumed."""
        self._routes.clear()

    def routes(self, topic: Topic, key: Key | None) -> tuple[Route, ...]:
        """Return who hears a topic of a key: one look-up, resolved once."""
        found = self._routes.get((topic, key))
        if found is None:
            wanted = () if self.muted else self._subscriptions.get(topic, ())
            found = tuple(route for only, route in wanted if route.subscriber.listening and only in (None, key))
            self._routes[topic, key] = found
        return found

    def publish(self, subscriber: Subscriber, events: Iterable[Any]) -> None:
        """Queue what a subscriber publishes behind what waits.

        Raises BusOverflowError, and queues none of it, where one event of the fold has made this subscriber publish more than the
        limit: a handler that answers its own events would never let go of the loop. What others publish does not count.
        """
        fresh = tuple(events)
        total = self._published.get(subscriber.name, 0) + len(fresh)
        if total > self.limit:
            raise BusOverflowError(
                f"{subscriber.name} published {total} events for one input, expected at most {self.limit} (engine.bus_limit)"
            )
        self._published[subscriber.name] = total
        self._queue.extend(fresh)

    def report(self, event: Any) -> None:
        """Queue one event whatever the limit: what the engine has to say about its plugins is heard."""
        self._queue.append(event)

    def deliver(self, event: Any, routes: tuple[Route, ...]) -> None:
        """Hand an event to handlers, then deliver all that this brought about."""
        call = self._call
        for route in routes:
            call(route, event)
        if self._queue:
            self._drain()
        self.round += 1

    def send(self, event: Any) -> None:
        """Deliver an event to whoever subscribed to it."""
        self.deliver(event, self._routes_of(event))

    def _drain(self) -> None:
        queue, call = self._queue, self._call
        while queue:
            event = queue.popleft()
            for route in self._routes_of(event):
                call(route, event)
        self._published.clear()

    def _routes_of(self, event: Any) -> tuple[Route, ...]:
        topic: Topic = event.view if isinstance(event, FeatureEvent) else type(event)
        exchange = getattr(event, "exchange", None)
        return self.routes(topic, None if exchange is None else (exchange, event.symbol))
