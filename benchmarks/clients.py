"""Clients of the daemon's HTTP API in a process of their own, as light as they can be in Python: one says what it found as JSON.

    requests    POST /get-online-features over some connections: each asks again once it is answered, or all together at a pace
    viewers     websockets on /stream?format=columns, as the page opens them; they read, and count

They run nicer than whoever sends ticks on the same core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import deque
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import uvloop

from benchmarks.harness import require

END_OF_HEAD = b"\r\n\r\n"
PACE_S = 0.001
NICE = 5
NS_PER_S = 1_000_000_000


class Asker(asyncio.Protocol):
    """One connection. `ask` sends the request; each answer's time goes to `took`."""

    def __init__(self, request: bytes, took: list[int], again: bool) -> None:
        self._request = request
        self._took = took
        self._again = again
        self._asked: deque[int] = deque()
        self._data = bytearray()
        self._transport: asyncio.Transport
        self.length = 0
        self.failure = ""
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own has no base class

    def ask(self) -> None:
        self._asked.append(time.monotonic_ns())
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(END_OF_HEAD)) >= 0:
            head = bytes(self._data[:end])
            begin = head.lower().index(b"content-length:") + 15
            size = int(head[begin : head.index(b"\r", begin)] if b"\r" in head[begin:] else head[begin:])
            if len(self._data) < end + 4 + size:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self.failure = bytes(self._data[: end + 4 + size]).decode("utf-8", "replace")
            self.length = size
            del self._data[: end + 4 + size]
            self._took.append(time.monotonic_ns() - self._asked.popleft())
            if self._again and not self.failure:
                self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._again and exc is not None:
            self.failure = self.failure or repr(exc)
        self.closed.set()

    def stop(self) -> None:
        self._again = False
        self._transport.close()


async def requests(url: str, body: bytes, connections: int, seconds: float, rate: float) -> dict[str, float]:
    """Ask for `seconds`; at `rate` a second if it is above 0, else as fast as answers come."""
    where = urlsplit(url)
    head = f"POST /get-online-features HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    loop = asyncio.get_running_loop()
    host, port = where.hostname or "", where.port or 0
    took: list[int] = []
    askers: list[Asker] = []
    for _ in range(connections):
        _, asker = await loop.create_connection(lambda: Asker(head.encode() + body, took, rate <= 0.0), host, port)
        askers.append(asker)
    begun = time.monotonic_ns()
    if rate > 0.0:
        asked = 0
        while (passed := time.monotonic_ns() - begun) < seconds * NS_PER_S:
            while asked < passed * rate / NS_PER_S:
                askers[asked % connections].ask()
                asked += 1
            await asyncio.sleep(PACE_S)
    else:
        for asker in askers:
            asker.ask()
        await asyncio.sleep(seconds)
    passed, answers = time.monotonic_ns() - begun, np.array(took) / 1e3
    for asker in askers:
        asker.stop()
    failures = [asker.failure for asker in askers if asker.failure]
    require(not failures, f"a request failed: {failures[:1]}")
    require(len(answers), "no request was answered")
    p50, p99, most = np.quantile(answers, (0.5, 0.99, 1.0)).tolist()
    return {
        "answers": len(answers), "per_s": len(answers) * NS_PER_S / passed, "p50_us": p50, "p99_us": p99, "max_us": most, "bytes": askers[0].length,
    }  # fmt: skip


async def viewers(url: str, count: int, seconds: float) -> dict[str, float]:
    """Read `count` streams of columns for `seconds`."""
    messages = size = 0

    async def view(session: aiohttp.ClientSession) -> None:
        nonlocal messages, size
        async with session.ws_connect(f"{url}/stream?format=columns", max_msg_size=0) as socket:
            async for message in socket:
                messages += 1
                size += len(message.data)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        begun = time.monotonic_ns()
        views = [asyncio.ensure_future(view(session)) for _ in range(count)]
        done, _ = await asyncio.wait(views, timeout=seconds)
        passed = (time.monotonic_ns() - begun) / NS_PER_S
        require(not done, f"{len(done)} of {count} viewers were cut off")
        for one in views:
            one.cancel()
        await asyncio.gather(*views, return_exceptions=True)
    return {"messages_per_s": messages / passed, "bytes_per_s": size / passed}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=("requests", "viewers"))
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--count", type=int, default=1, help="connections")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: as fast as answers come")
    parser.add_argument("--body", type=Path, help="a file with the request's body")
    options = parser.parse_args()
    os.nice(NICE)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if options.kind == "requests":
            body = options.body.read_bytes()
            found = runner.run(requests(options.url, body, options.count, options.seconds, options.rate))
        else:
            found = runner.run(viewers(options.url, options.count, options.seconds))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
