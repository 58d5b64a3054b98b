"""The loopback exchange as a child process: it serves the built-in recordings to the same clients that dial the real exchanges.

It ends with the daemon, however that ends: it watches its stdin, which the system closes when the daemon is gone.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

import msgspec

from engine.errors import ServiceError
from feeds.venues import Venue

START_S = 20.0
STOP_S = 1.0
AGAIN_S, AGAIN_MAX_S = 0.5, 30.0


class VenueServed(msgspec.Struct, frozen=True):
    """One exchange that is served."""

    exchange: Venue
    websocket: str
    rest: str
    symbols: tuple[str, ...]


class Served(msgspec.Struct, frozen=True):
    """What the loopback exchange says of itself in its first line."""

    url: str
    venues: tuple[VenueServed, ...]


class Recording:
    """One child that serves looping recordings."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._process: asyncio.subprocess.Process | None = None
        self._is_stopping = False

    async def spawn(self, port: int = 0) -> None:
        """Start it on a port (0: any that is free), without waiting until it is there."""
        words = (
            "exchange",
            "--port",
            str(port),
            "--speed",
            str(self._speed),
            "--loop",
            "--json",
            "--until-stdin-closes",
        )
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TICKFOLD_")}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "engine", *words,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=None, env=environment, start_new_session=True,
        )  # fmt: skip

    async def served(self) -> Served:
        """Wait until it serves. Raises ServiceError with what it said if it does not come up."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), START_S)
            return msgspec.json.decode(line, type=Served)
        except (TimeoutError, msgspec.MsgspecError) as error:
            await self._end()
            raise ServiceError(
                f"the loopback exchange did not start: {error}; `tickfold exchange` shows why"
            ) from error

    async def watch(self, port: int, ended: Callable[[int], None]) -> None:
        """Start it again on its port whenever it ends, until cancelled. `ended` hears its exit code."""
        wait_s = AGAIN_S
        while True:
            if self._process is not None:
                code = await self._process.wait()
                if self._is_stopping:
                    return
                ended(code)
            await asyncio.sleep(wait_s)
            try:
                await self.spawn(port)
                await self.served()
                wait_s = AGAIN_S
            except (ServiceError, OSError):
                wait_s = min(2.0 * wait_s, AGAIN_MAX_S)

    async def stop(self) -> None:
        """End it, for good."""
        self._is_stopping = True
        await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
