"""Many sources, one order: by `received`, then by position on the command line, then by row.

A source is read in its own order: a row that steps back in time stays behind the row before it. Blocks are taken and given out
as they come, so that memory does not grow with the length of the recordings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.block import Block


@dataclass
class _Head:
    """What has been read of one source and not yet given out."""

    blocks: Iterator[Block]
    block: Block | None = None
    order: npt.NDArray[np.int64] | None = None  # `received`, made never to decrease
    latest: int = int(np.iinfo(np.int64).min)

    def fill(self) -> bool:
        """Read on if nothing is left; return whether there is something."""
        while self.block is None or not len(self.block):
            found = next(self.blocks, None)
            if found is None:
                self.block = None
                return False
            if len(found):
                self.block = found
                self.order = np.maximum(np.maximum.accumulate(found.received), self.latest)
                self.latest = int(self.order[-1])
        return True

    def take(self, count: int) -> tuple[Block, npt.NDArray[np.int64]]:
        """Give out the first rows."""
        assert self.block is not None
        assert self.order is not None
        taken = self.block.take(slice(0, count)), self.order[:count]
        self.block, self.order = self.block.take(slice(count, None)), self.order[count:]
        return taken


def merge(sources: Sequence[Iterator[Block]]) -> Iterator[Block]:
    """Yield the rows of all sources in one order."""
    if len(sources) == 1:
        yield from sources[0]
        return
    heads = [_Head(blocks) for blocks in sources]
    while True:
        alive = [(position, head) for position, head in enumerate(heads) if head.fill()]
        if not alive:
            return
        # All rows are there up to where the first of the sources ends; on a tie only those of positions up to that one.
        ends = [(int(head.order[-1]), position) for position, head in alive if head.order is not None]
        horizon, last = min(ends)
        parts, orders, positions = [], [], []
        for position, head in alive:
            assert head.order is not None
            count = int(np.searchsorted(head.order, horizon, side="right" if position <= last else "left"))
            if count:
                block, order = head.take(count)
                parts.append(block)
                orders.append(order)
                positions.append(np.full(count, position))
        if len(parts) == 1:
            yield parts[0]
            continue
        together = Block.concatenate(parts)
        yield together.take(np.lexsort((np.concatenate(positions), np.concatenate(orders))))
