"""The product list of one exchange API, kept current: fetched, kept on disk, fetched again. The shell around `feeds.listing`.

Start      the list on disk, else the one inside the package: at once, without the network
Refresh    the exchange's own list, by one GET; when it fails, the old list stays, and that is reported
Due        every `refresh_s`; after a failure sooner (RETRY_S, doubling), after 429 or 418 never before its Retry-After
On disk    FOLDER/API.json, written beside its name, synced and renamed: after a kill there is the old list or the new one
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
import structlog

from engine.clock import Clock
from engine.errors import FeedError
from feeds.listing import NO_CHANGES, Changes, Listing, Source, changes
from feeds.product_lists import Product, excerpt, read_list
from feeds.products import built_in_products
from feeds.retry_after import retry_after_ns

NS_PER_S: Final = 1_000_000_000
BODY_MIB: Final = 64
REFRESH_S: Final = 3_600.0
TIMEOUT_S: Final = 30.0
RETRY_S: Final = 30.0
"""When to ask again after a first failure."""
BANNED: Final = {418: 120, 429: 60}
"""Statuses that ask to be left alone, and for how many seconds if they do not say: Binance's shortest ban, and its unit of counting."""
CACHE_FORMAT: Final = 1


class _Cache(msgspec.Struct):
    format: int
    url: str
    fetched: int  # ns UTC
    products: tuple[Product, ...]


class RefusedError(FeedError):
    """The exchange has answered with an HTTP error. `retry_after_ns`: how long it wants to be left alone; None if it does not say."""

    def __init__(self, status: int, detail: str, wait_ns: int | None) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after_ns = wait_ns


class Catalogue:
    """The products of one exchange API, as well as they are known. Of the event loop that refreshes it."""

    def __init__(
        self,
        exchange_api: str,
        url: str,
        folder: Path | None,
        *,
        clock: Clock,
        refresh_s: float = REFRESH_S,
        timeout_s: float = TIMEOUT_S,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        """Begin with the list inside the package; `load` takes the one on disk.

        `url` is `product_lists.products_url`'s; `folder` None keeps nothing on disk. `on_trouble` hears in one line of all that went
        wrong and did not stop anything; None logs it. Raises FeedError if there is no such API.
        """
        self.exchange_api = exchange_api
        self.url = url
        self.trouble = ""
        """What was wrong with the last refresh; empty if nothing was."""
        self.unreadable = 0
        """Entries of the last answer that could not be read."""
        self._path = None if folder is None else folder / f"{exchange_api}.json"
        self._clock = clock
        self._refresh_ns = round(refresh_s * NS_PER_S)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._log = structlog.get_logger("feeds").bind(exchange=exchange_api)
        self._on_trouble = on_trouble
        self._built_in = built_in_products(exchange_api)
        self._listing = self._make(None, "built-in", 0)
        self._due = 0
        self._banned_until = 0
        self._failures = 0
        self._is_asking = False

    @property
    def listing(self) -> Listing:
        """All that is known now; a refresh puts another one in its place, and never changes this one."""
        return self._listing

    @property
    def products(self) -> Mapping[str, str]:
        """Their spelling to ours, delisted ones included: what a decoder takes.

        Decoders copy it, and a refresh makes a new one: where the two are unequal, a new decoder has to be built.
        """
        return self._listing.products

    @property
    def known(self) -> Mapping[str, str]:
        """Ours to their spelling, delisted ones included: `why_not` says what can be listened to. The next refresh makes a new one."""
        return self._listing.known

    @property
    def source(self) -> Source:
        return self._listing.source

    @property
    def as_of(self) -> int:
        """When the exchange said so, ns UTC; 0 for the list inside the package."""
        return self._listing.as_of

    def why_not(self, symbol: str) -> str:
        """Why a symbol cannot be listened to; empty if it can."""
        return self._listing.why_not(symbol)

    def load(self) -> Changes:
        """Take the list on disk, if there is one that can be read and is of the same URL; say what it changes. Raises nothing."""
        if self._path is None:
            return NO_CHANGES
        try:
            with self._path.open("rb") as file:
                text = file.read((BODY_MIB << 20) + 1)
            if len(text) > BODY_MIB << 20:
                raise FeedError(f"expected at most {BODY_MIB} MiB")
            cache = msgspec.json.decode(text, type=_Cache)
            if cache.format != CACHE_FORMAT or not cache.products:
                raise FeedError(f"expected products in format {CACHE_FORMAT}, came {excerpt(text)}")
        except FileNotFoundError:
            return NO_CHANGES
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, FeedError) as error:
            self._say(f"{self._path}: {error}; it is ignored, and the next list fetched replaces it")
            return NO_CHANGES
        if cache.url != self.url:
            self._say(f"{self._path}: came from {cache.url}, not from {self.url}; it is ignored")
            return NO_CHANGES
        # A file that is ahead of the clock tells nothing about its age.
        if cache.fetched <= self._clock.now():
            self._due = cache.fetched + self._refresh_ns
        return self._replace(self._make(cache.products, "cache", cache.fetched))

    def refresh_due(self, now: int) -> bool:
        """Whether it is time to ask the exchange again (`now`: ns UTC)."""
        return now >= self.due_at() and not self._is_asking

    def due_at(self) -> int:
        """When it is time to ask again, ns UTC; 0 for at once."""
        return max(self._due, self._banned_until)

    async def refresh(self, session: aiohttp.ClientSession) -> Changes:
        """Ask the exchange, whether it is due or not, and take its list; return what that changes.

        Nothing is asked while a ban or another refresh lasts. What fails is reported, and changes nothing. Raises nothing that the network,
        the exchange or the disk has done.
        """
        now = self._clock.now()
        if self._is_asking or now < self._banned_until:
            return NO_CHANGES
        self._is_asking = True
        try:
            body = await self._fetch(session, now)
            found = read_list(self.exchange_api, body)
            if not any(product.tradable for product in found.products):
                raise FeedError(
                    f"{self.exchange_api}: expected products that can be traded, came {len(found.products)}, none of them tradable: "
                    f"taken for maintenance: {excerpt(body)}"
                )
            await asyncio.sleep(0)  # reading Binance's 11 MB has held the loop for 18 ms, comparing takes 13 more
            fetched = self._clock.now()
            self._due = fetched + self._refresh_ns
            self._failures = 0
            self.trouble, self.unreadable = "", found.unreadable
            if found.unreadable:
                self._say(f"{found.unreadable} of the products could not be read: {found.first_unreadable}")
            changed = self._replace(self._make(found.products, "fetched", fetched))
            await self._keep(_Cache(CACHE_FORMAT, self.url, fetched, found.products))
            return changed
        except FeedError as error:
            self._fail(error)
            return NO_CHANGES
        finally:
            self._is_asking = False

    def _make(self, products: tuple[Product, ...] | None, source: Source, as_of: int) -> Listing:
        return Listing(self.exchange_api, products, source, as_of, self._built_in)

    def _replace(self, listing: Listing) -> Changes:
        before, self._listing = self._listing, listing
        if listing.ambiguous > before.ambiguous:
            self._say(f"{listing.ambiguous} products have the symbol of another one; the tradable one of each is meant")
        return changes(before, listing)

    def _fail(self, error: FeedError) -> None:
        now = self._clock.now()
        wait_ns = min(round(RETRY_S * NS_PER_S) << min(self._failures, 20), self._refresh_ns)
        self._failures += 1
        self._due = now + wait_ns
        if isinstance(error, RefusedError) and error.retry_after_ns is not None:
            self._banned_until = now + error.retry_after_ns
        self.trouble = str(error)
        wait_s = max(0, self.due_at() - now) / NS_PER_S
        self._say(f"{error}; the list of {self._listing.describe()} stays, and is asked for again in {wait_s:,.0f} s")

    def _say(self, trouble: str) -> None:
        if self._on_trouble is not None:
            self._on_trouble(trouble)
        else:
            self._log.warning("product list", trouble=trouble)

    async def _fetch(self, session: aiohttp.ClientSession, now: int) -> bytes:
        """The body of a 200. Raises FeedError for any other answer, and for none."""
        try:
            async with session.get(
                self.url,
                timeout=self._timeout,
                allow_redirects=False,  # whoever configured the host should hear that it has moved
                middlewares=(),  # those of a session for websockets take an answer to a GET for a refusal
            ) as answer:
                if answer.status != 200:
                    raise await _refusal(self.url, answer, now)
                return await _body(self.url, answer)
        except FeedError:
            raise
        except TimeoutError as error:
            raise FeedError(
                f"{self.url}: expected a product list within {self._timeout.total:g} s, came none"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FeedError(f"{self.url}: {str(error) or type(error).__name__}") from error

    async def _keep(self, cache: _Cache) -> None:
        """Write the list to disk, off the loop: a sync can take long."""
        if self._path is None:
            return
        try:
            await asyncio.to_thread(_write, self._path, msgspec.json.encode(cache))
        except OSError as error:
            self._say(f"{self._path}: the product list cannot be kept: {error.strerror or error}")


async def _refusal(url: str, answer: aiohttp.ClientResponse, now: int) -> RefusedError:
    said = excerpt(await answer.content.read(1_024))
    wait_ns = retry_after_ns(answer.headers.get("Retry-After"), now)
    if wait_ns is None and answer.status in BANNED:
        wait_ns = BANNED[answer.status] * NS_PER_S
    reason = f" {answer.reason}" if answer.reason else ""
    to = f" to {answer.headers['Location']}" if "Location" in answer.headers else ""
    return RefusedError(answer.status, f"{url}: expected 200, came {answer.status}{reason}{to}: {said}", wait_ns)


async def _body(url: str, answer: aiohttp.ClientResponse) -> bytes:
    """Read a body of at most BODY_MIB, counted as it is unpacked."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > BODY_MIB << 20:
            raise FeedError(
                f"{url}: expected a product list of at most {BODY_MIB} MiB, came more: {excerpt(bytes(body[:64]))}"
            )
    return bytes(body)


def _write(path: Path, text: bytes) -> None:
    """Put a file in place all at once. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
