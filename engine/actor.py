"""Actors and their supervisor.

An actor owns its state, handles one event at a time with plain `def`, and returns the events it wants published. The supervisor
isolates a failing one: it publishes nothing for that event and keeps the state it has, its error is an event; `FAILURES_IN_A_ROW`
park it, a `Command("resume", name)` wakes it. Everybody else goes on as if it were not there.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from engine.bus import Bus, Handler, Route, Topic
from engine.errors import ConfigError
from engine.events import Command, Event, HandlerFailed, Key, Parked, Resumed

FAILURES_IN_A_ROW = 5


@dataclass(frozen=True)
class Subscription:
    """What an actor wants to hear: a topic, of one key or of all, and by which of its methods."""

    topic: Topic
    handler: Handler
    key: Key | None = None
    late: bool = False


class Actor(Protocol):
    """What the supervisor needs of a plugin."""

    name: str

    def subscriptions(self) -> list[Subscription]:
        """What the actor wants to hear; asked once, when it enters the fold."""

    def start(self) -> Iterable[Any] | None:
        """The actor enters the fold for the first time; never called on restore."""

    def stop(self) -> Iterable[Any] | None:
        """The fold ends."""

    def snapshot(self) -> bytes:
        """All that a restart must know."""

    def restore(self, snapshot: bytes) -> None:
        """Become what `snapshot` was made of."""


class Supervised:
    """One actor as the supervisor keeps it.

    Failures are in a row if no event of the fold went by, with all that it brought about, in which the actor succeeded and did not
    fail: the first answers of a handler that answers itself without end do not make up for its failure.
    """

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.name = actor.name
        self.listening = True
        self.failures = 0  # in a row
        self.failed = 0  # ever
        self._failed_in = 0  # the round of the newest failure
        self._succeeded_in = 0  # the newest round that has gone well so far, 0 if none since

    def succeed(self, round_number: int) -> None:
        """Note a success; called only while there are failures in a row."""
        if self._failed_in != round_number:
            self._succeeded_in = round_number

    def fail(self, round_number: int) -> None:
        """Count a failure."""
        if self._succeeded_in not in (0, round_number):
            self.failures = 0
        self.failures += 1
        self.failed += 1
        self._failed_in, self._succeeded_in = round_number, 0

    def record(self) -> tuple[int, int, int, int]:
        """Failures in a row and ever, and the rounds of the newest failure and of the success after it: for a snapshot."""
        return self.failures, self.failed, self._failed_in, self._succeeded_in

    def put_record(self, failures: int, failed: int, failed_in: int, succeeded_in: int) -> None:
        """Go on from what `record` gave."""
        self.failures, self.failed, self._failed_in, self._succeeded_in = failures, failed, failed_in, succeeded_in


class Supervisor:
    """Runs actors on a bus of its own.

    `now` gives (timestamp, received, sequence) of the input being folded, `outlet` sees every event that an actor published, and
    `fill` completes it (a signal's name and times) before it is published.
    """

    def __init__(
        self,
        *,
        now: Callable[[], tuple[int, int, int]],
        bus_limit: int,
        outlet: Callable[[Any], None],
        fill: Callable[[Actor, Any], Any],
    ) -> None:
        self._now = now
        self._outlet = outlet
        self._fill = fill
        self.bus = Bus(self._call, bus_limit)
        self.actors: dict[str, Supervised] = {}

    def add(self, actor: Actor) -> None:
        """Subscribe an actor. Raises ConfigError for a name that is taken."""
        if actor.name in self.actors:
            raise ConfigError(f"actor {actor.name!r} is there already; names must differ")
        supervised = self.actors[actor.name] = Supervised(actor)
        for wanted in actor.subscriptions():
            self.bus.subscribe(wanted.topic, supervised, wanted.handler, key=wanted.key, late=wanted.late)

    def start(self) -> None:
        """Let every actor begin, in the order in which they were added."""
        for supervised in self.actors.values():
            self._run(supervised, "start", supervised.actor.start)

    def stop(self) -> None:
        """Let every actor that still listens end."""
        for supervised in self.actors.values():
            if supervised.listening:
                self._run(supervised, "stop", supervised.actor.stop)

    def obey(self, command: Command) -> None:
        """Park or resume an actor."""
        supervised = self.check(command)
        if command.verb == "park" and supervised.listening:
            self._park(supervised, "by command")
        elif command.verb == "resume" and not supervised.listening:
            supervised.listening = True
            supervised.failures = 0
            self.bus.refresh()
            self._emit(Resumed(supervised.name, *self._now()))

    def check(self, command: Command) -> Supervised:
        """Return the actor that a command is for. Raises ConfigError naming the actors there are."""
        if command.target not in self.actors:
            known = ", ".join(self.actors) or "no actors"
            raise ConfigError(f"{command.verb} {command.target!r}: expected one of {known}")
        return self.actors[command.target]

    def _run(self, supervised: Supervised, name: str, handler: Callable[[], Iterable[Any] | None]) -> None:
        self._call(Route(supervised, lambda _: handler()), None, name)
        self.bus.deliver(None, ())

    def _call(self, route: Route, event: Any, name: str = "") -> None:
        """Call one handler. It has published everything it returned, or nothing."""
        supervised: Any = route.subscriber
        if not supervised.listening:
            return
        try:
            result = route.handler(event)
            events = [] if result is None else self._publish(supervised, result)
        except KeyboardInterrupt:
            raise
        # A plugin may raise anything, sys.exit() and a cancellation included: it is reported with its traceback.
        except BaseException as error:
            self._failed(supervised, name or getattr(route.handler, "__name__", "handler"), error)
            return
        if supervised.failures:
            supervised.succeed(self.bus.round)
        for published in events:
            self._outlet(published)

    def _publish(self, supervised: Supervised, result: Iterable[Any]) -> list[Any]:
        # A single event is taken as what it obviously means. Of a generator without end no more is read than may be published.
        given = (result,) if isinstance(result, Event) else islice(result, self.bus.limit + 1)
        events = [self._fill(supervised.actor, event) for event in given]
        if events:
            self.bus.publish(supervised, events)
        return events

    def _failed(self, supervised: Supervised, handler: str, error: BaseException) -> None:
        supervised.fail(self.bus.round)
        text = "".join(traceback.format_exception(error))
        said = traceback.format_exception_only(error)[-1].strip()  # survives an error that cannot be printed
        self._emit(HandlerFailed(supervised.name, handler, said, text, supervised.failures, *self._now()))
        if supervised.failures >= FAILURES_IN_A_ROW:
            self._park(supervised, f"{FAILURES_IN_A_ROW} failures in a row, the last in {handler}: {said}")

    def _park(self, supervised: Supervised, reason: str) -> None:
        supervised.listening = False
        self.bus.refresh()
        self._emit(Parked(supervised.name, reason, *self._now()))

    def _emit(self, event: Any) -> None:
        """Report what happened to an actor. The queue's limit does not hold for this: it must be heard."""
        self._outlet(event)
        self.bus.report(event)
