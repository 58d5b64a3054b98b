"""Bytes from exchanges to events: `decoder("binance").decode(frame, received)`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol, cast

from engine.errors import FeedError
from engine.events import Event

__all__ = ["DECODERS", "Decoder", "decoder"]

DECODERS = {
    "binance": "feeds.binance:BinanceDecoder",
    "coinbase": "feeds.coinbase:CoinbaseDecoder",
    "coinbase_exchange": "feeds.coinbase_exchange:CoinbaseExchangeDecoder",
    "kucoin": "feeds.kucoin:KucoinDecoder",
}
"""Name of a feed to module:class. Imported when asked for, so that `import feeds` builds no parser."""


class Decoder(Protocol):
    """One exchange's wire format. Pure: equal frames give equal events, whatever came before."""

    def decode(self, frame: bytes, received: int) -> list[Event]:
        """Turn one frame into events stamped with `received` (ns UTC, our clock).

        A well-formed message that holds no event (acknowledgement, heartbeat, unknown type) gives [].
        Raises DecodeError if the frame breaks the exchange's protocol, and nothing else, whatever the bytes.
        """
        ...


def decoder(name: str, products: Mapping[str, str] | None = None) -> Decoder:
    """Build the decoder of the exchange `name`.

    `products` maps the exchange's spelling of a pair to ours; None means the dated list inside the package. A pair
    that is not in it keeps the exchange's spelling. Raises FeedError if there is no decoder of that name.
    """
    try:
        module, _, class_name = DECODERS[name].partition(":")
    except KeyError:
        raise FeedError(f"no decoder named {name!r}: expected one of {', '.join(sorted(DECODERS))}") from None
    return cast(Decoder, getattr(importlib.import_module(module), class_name)(products))
