"""What an exchange sells, as a feed needs it: which symbols there are, and how they are spelled, now and after the next list.

Protocols and histories hold `spelling` (ours to theirs) for good: it is changed in its place. A decoder is made anew, since it has its
own copy of the other direction.
"""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

from feeds import Decoder, decoder
from feeds.catalogue import Catalogue
from feeds.listing import NO_CHANGES, Changes, Listing


class Wares:
    """The products of one exchange API: a `Catalogue`'s, or those of one list for good.

    Raises FeedError if there is no decoder for `exchange_api`.
    """

    def __init__(self, exchange_api: str, products: Catalogue | Listing) -> None:
        self._api = exchange_api
        self._source = products
        self.spelling: dict[str, str] = dict(products.known)
        """Ours to theirs."""
        self.decoder: Decoder = decoder(exchange_api, products.products)

    @property
    def listing(self) -> Listing:
        """All that is known now."""
        return self._source.listing if isinstance(self._source, Catalogue) else self._source

    @property
    def trouble(self) -> str:
        """What was wrong with the last refresh; empty if nothing was."""
        return self._source.trouble if isinstance(self._source, Catalogue) else ""

    def refresh_due(self, now: int) -> bool:
        """Whether it is time to ask the exchange (`now`: ns UTC)."""
        return isinstance(self._source, Catalogue) and self._source.refresh_due(now)

    async def refresh(self, session: aiohttp.ClientSession) -> Changes:
        """Ask the exchange, and return what its list changes. Raises nothing that the network has done."""
        if not isinstance(self._source, Catalogue):
            return NO_CHANGES
        before = self._source.products
        changed = await self._source.refresh(session)
        known: Mapping[str, str] = self._source.known
        self.spelling.update(known)
        if self._source.products != before:
            self.decoder = decoder(self._api, self._source.products)
        return changed
