"""An event loop in virtual time: `loop.time()` jumps to the next timer when nothing is ready, so an hour passes in milliseconds.

Nothing is real: time is a number, the network lies in memory (`tests.virtual_network`), chance comes from one seed, and there are no
threads. So a run depends on its seed alone, and repeats bit for bit. aiohttp's server and client, and asyncio's streams, run on it as
they are. What would wait for ever (no timer is set) or spins without time passing is an error that names the tasks.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from unittest.mock import patch
from weakref import WeakKeyDictionary

from tests.virtual_network import Network, VirtualServer

T = TypeVar("T")
BEGIN_S = 1_000.0
"""`loop.time()` at the start: no code may take it for an age."""
END_S = 4e6
"""A run of 46 days does not end by itself; and a float that counts so many seconds still tells ns apart."""
TURNS_MAX = 200_000
"""Turns of the loop at one moment: more is a storm of callbacks that never waits."""


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop. `network` is what its connections go through, `errors` what was reported to its exception handler."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.random = random.Random(f"virtual loop {seed}")
        self.network = Network(self, self.random)
        self.errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.errors.append(context))
        self._dialled: WeakKeyDictionary[socket.socket, VirtualServer] = WeakKeyDictionary()
        self._now = BEGIN_S
        self._turns = 0
        self._selector = self  # asyncio's loop asks it how long to wait
        self._clock_resolution = 1e-9

    # -- time

    def time(self) -> float:
        return self._now

    def hold(self, seconds: float) -> None:
        """Let time pass within a callback, as code that blocks the loop does."""
        self._now += seconds

    def select(self, timeout: float | None) -> list[Any]:
        """Let time jump to the next timer, where a real loop would wait for it or for a socket."""
        if timeout == 0:
            self._turns += 1
            if self._turns > TURNS_MAX:
                raise RuntimeError(
                    f"{TURNS_MAX} turns of the loop at {self._now} s, and no time passes: {self._tasks()}"
                )
            return []
        if self._now > END_S:
            raise RuntimeError(f"{END_S} s have passed: {self._tasks()} does not end")
        if timeout is None:
            raise RuntimeError(f"no timer is set and nothing is ready: {self._tasks()} would wait for ever")
        self._turns = 0
        self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]
        return []

    def _process_events(self, events: list[Any]) -> None:
        """There are none: the network sets timers."""

    def _write_to_self(self) -> None:
        """Nobody else could wake it."""

    def _tasks(self) -> str:
        return ", ".join(sorted(task.get_name() for task in asyncio.all_tasks(self))) or "nobody"

    # -- what touches the world

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Raise: a thread would bring real time in, and with it another order at each run."""
        raise RuntimeError(f"{getattr(func, '__qualname__', func)!r} in a thread: there are none in virtual time")

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[Any, ...]]:
        """Look a name up in the network's own list. Raises socket.gaierror for one that is not in it."""
        address = await self.network.resolve(host)
        return [(socket.AF_INET, type or socket.SOCK_STREAM, proto or socket.IPPROTO_TCP, "", (address, port or 0))]

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Connect a real socket, which stays unused: whoever hands it to `create_connection` gets the connection in memory."""
        self._dialled[sock] = await self.network.connect((address[0], address[1]))

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: Any = None,
        sock: Any = None,
        **_: Any,
    ) -> tuple[Any, Any]:
        self._no_tls(ssl)
        if sock is not None:
            return self.network.attach(self._dialled.pop(sock), protocol_factory, sock)
        server = await self.network.connect((await self.network.resolve(host), port or 0))
        return self.network.attach(server, protocol_factory)

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, *, ssl: Any = None, **_: Any
    ) -> VirtualServer:
        self._no_tls(ssl)
        return self.network.listen(protocol_factory, (await self.network.resolve(host or "127.0.0.1"), port or 0))

    async def create_unix_connection(
        self, protocol_factory: Callable[[], Any], path: Any = None, *, ssl: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        self._no_tls(ssl)
        return self.network.attach(await self.network.connect((str(path), 0)), protocol_factory)

    async def create_unix_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], path: Any = None, *, ssl: Any = None, **_: Any
    ) -> VirtualServer:
        self._no_tls(ssl)
        return self.network.listen(protocol_factory, (str(path), 0), is_path=True)

    @staticmethod
    def _no_tls(ssl: Any) -> None:
        if ssl:
            raise NotImplementedError("the network in memory has no TLS: dial ws:// and http://")


class VirtualClock:
    """The loop's time as ns UTC: an `engine.clock.Clock`. `step` is what a host's clock jumps by."""

    def __init__(self, loop: VirtualLoop, origin_ns: int = 1_700_000_000_000_000_000) -> None:
        """`origin_ns` is the time when the loop began."""
        self._loop = loop
        self._origin_ns = origin_ns - round(BEGIN_S * 1e9)

    def now(self) -> int:
        return self._origin_ns + round(self._loop.time() * 1e9)

    def step(self, seconds: float) -> None:
        self._origin_ns += round(seconds * 1e9)


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]], *, seed: int = 0) -> T:
    """Run a coroutine in virtual time, and return what it does.

    Raises what it raises; AssertionError for an error that only the loop's exception handler heard of, and for tasks and
    connections that are left over.
    """
    loop = VirtualLoop(seed)
    # aiohttp ages its cached names and idle connections by the machine's clock.
    with patch("aiohttp.connector.monotonic", loop.time), asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(_counted(main(loop), loop))
    assert not loop.errors, loop.errors
    return result


async def _counted(work: Coroutine[Any, Any, T], loop: VirtualLoop) -> T:
    result = await work
    await asyncio.sleep(60)  # what is on its way arrives, what was closed ends
    left = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    assert not left, f"tasks are left: {sorted(task.get_name() for task in left)}"
    assert not loop.network.transports, f"connections are left: {len(loop.network.transports)}"
    return result
