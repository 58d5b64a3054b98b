"""Sets of ids as spans (first, last), both inclusive, lowest first, apart from one another: what is missing, and what is left of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]


def within(spans: Iterable[Span], first: int, last: int) -> list[Span]:
    """Return the parts of `spans` that lie in first..last."""
    cut = ((max(low, first), min(high, last)) for low, high in spans)
    return [span for span in cut if span[0] <= span[1]]


def without(spans: Iterable[Span], gone: Iterable[Span]) -> list[Span]:
    """Return `spans` without the ids of `gone`."""
    left = list(spans)
    for first, last in gone:
        left = [
            part
            for low, high in left
            for part in ((low, min(high, first - 1)), (max(low, last + 1), high))
            if part[0] <= part[1]
        ]
    return left


def common(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """Return the ids that both hold."""
    others = list(others)
    return [part for low, high in spans for part in within(others, low, high)]


def of_ids(ids: Iterable[int]) -> list[Span]:
    """Return ids in any order, once or more often, as spans."""
    spans: list[Span] = []
    for found in sorted(set(ids)):
        if spans and spans[-1][1] == found - 1:
            spans[-1] = spans[-1][0], found
        else:
            spans.append((found, found))
    return spans


def count(spans: Iterable[Span]) -> int:
    """Return how many ids they are."""
    return sum(last - first + 1 for first, last in spans)


def text(span: Span) -> str:
    """Return a span in words: "trade 7", "trades 7 to 9"."""
    first, last = span
    return f"trade {first}" if first == last else f"trades {first} to {last}"
