"""The shell of an exchange's REST interface: one request after another, within its limit, and never before it wants to be asked.

A 429 or 418 bars every request until its Retry-After is over.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

from engine.clock import Clock
from engine.errors import FeedError
from feeds.limits import RollingWindow
from feeds.retry_after import retry_after_ns

NS_PER_S: Final = 1_000_000_000
TIMEOUT_S: Final = 10.0
BODY_BYTES_MAX: Final = 16 << 20
EXCERPT: Final = 200
BARRED_NS: Final = 30 * NS_PER_S
"""How long a 429 without a Retry-After bars."""
MARGIN_NS: Final = NS_PER_S // 4
"""Added to the span of the limit: what left apart may arrive together, and it is the exchange that counts."""


class BarredError(FeedError):
    """The exchange wants to be left alone until `until_ns` (ns UTC)."""

    def __init__(self, text: str, until_ns: int) -> None:
        super().__init__(text)
        self.until_ns = until_ns


class Rest:
    """GETs of one host. Requests wait for one another and for the limit of `requests` in any `span_ns`."""

    def __init__(self, clock: Clock, requests: int, span_ns: int) -> None:
        self._clock = clock
        self._window = RollingWindow(requests, span_ns + MARGIN_NS)
        self._turn = asyncio.Lock()
        self.barred_until = 0
        """ns UTC."""
        self.requests = 0

    async def get(self, session: aiohttp.ClientSession, url: str) -> bytes:
        """Return the body of the answer. Raises BarredError, or FeedError with what was answered instead of 200."""
        async with self._turn:
            now = self._clock.now()
            if self.barred_until > now:
                raise BarredError(
                    f"{url}: left alone for {(self.barred_until - now) / NS_PER_S:.3g} s", self.barred_until
                )
            while (free := self._window.free_at(now)) > now:
                await asyncio.sleep((free - now) / NS_PER_S)
                now = self._clock.now()
            self._window.take(now)
        self.requests += 1
        return await self._get(session, url)

    async def _get(self, session: aiohttp.ClientSession, url: str) -> bytes:
        try:
            async with asyncio.timeout(TIMEOUT_S), session.get(url, allow_redirects=False) as answer:
                body = await _limited(answer)
                status, reason = answer.status, answer.reason or ""
                header = answer.headers.get("Retry-After")
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            raise FeedError(f"{url}: {str(error) or type(error).__name__}") from error
        now = self._clock.now()
        if status == 200:
            return body
        said = " ".join(body[:EXCERPT].decode("utf-8", "replace").split())
        text = f"{url}: expected 200, came {status} {reason}".rstrip() + (f": {said}" if said else "")
        wait_ns = retry_after_ns(header, now)
        if status in (418, 429) or wait_ns is not None:
            self.barred_until = now + (BARRED_NS if wait_ns is None else wait_ns)
            raise BarredError(text, self.barred_until)
        raise FeedError(text)


async def _limited(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for part in answer.content.iter_chunked(1 << 16):
        body += part
        if len(body) > BODY_BYTES_MAX:
            raise ValueError(f"the answer is longer than {BODY_BYTES_MAX} bytes")
    return bytes(body)
