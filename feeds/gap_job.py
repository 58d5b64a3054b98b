"""One span of missing trades that is being asked for: what is left of it, what was offered, what became of which id. Pure.

An id is left until it comes, by an answer or by itself; offered until the ingress has taken it; then it came, and is to be said once.
It is gone when two answers have shown that there is no such trade, when what came for it was refused, or when the ingress had to
forget it, since too many spans were open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.events import Tick
from feeds.backoff import Backoff
from feeds.history import Page
from feeds.spans import Span, common, of_ids, within, without

NS_PER_S: Final = 1_000_000_000
CONFIRM_NS: Final = NS_PER_S
"""Between the two answers that prove an id does not exist: a database may be behind in the middle too."""
TAKEN_WITHIN_NS: Final = NS_PER_S
"""What was offered and is missing after so long was refused."""
LOOK_AGAIN_NS: Final = NS_PER_S // 50
"""When to look whether the ingress has taken what was offered."""


class GapJob:
    """The job. `due` is when it is to be looked at again, `progress` when something of it last came (ns UTC)."""

    def __init__(
        self,
        symbol: str,
        span: Span,
        missing: Sequence[Span],
        *,
        now: int,
        until_ns: int,
        forgotten: int,
        retries: Backoff,
    ) -> None:
        """`missing` and `forgotten` (how many spans) as the ingress says; `until_ns` is where to begin asking, by time."""
        self.symbol = symbol
        self.span = span
        self.left = within(missing, *span)
        self.gone: list[Span] = []
        self.was_refused = self.was_forgotten = False
        self.until_ns = until_ns
        self.due = self.progress = now
        self.retries = retries
        self._first_until_ns = until_ns
        self._forgotten = forgotten
        self._offered: list[Span] = []
        self._offered_at = now
        self._doubted: list[Span] = []
        self._unsaid = [span]

    @property
    def is_done(self) -> bool:
        """Whether nothing more is to be waited for."""
        return not self.left and not self._offered

    @property
    def lost(self) -> list[Span]:
        """What will not come, if it ends now."""
        return sorted([*self.left, *self._offered, *self.gone])

    def _forget_below(self, lowest: int) -> None:
        """The ingress had to forget spans, and knows of none below `lowest`: what was not said to have come counts as gone."""
        unknown = without(self._unsaid, [*self._offered, *self.gone])
        forgotten = within(unknown, self.span[0], lowest - 1)
        self.was_forgotten = self.was_forgotten or bool(forgotten)
        self.gone = sorted([*self.gone, *forgotten])
        self.left = without(self.left, self.gone)

    def settle(self, missing: Sequence[Span], forgotten: int, now: int) -> list[Span]:
        """Hear what the ingress says now; return the ids that have come and were not said yet."""
        if forgotten != self._forgotten:
            self._forgotten = forgotten
            self._forget_below(missing[0][0] if missing else self.span[1] + 1)
        self.left = common(self.left, missing)
        self._offered = common(self._offered, missing)
        if self._offered and now - self._offered_at >= TAKEN_WITHIN_NS:
            self.gone = sorted([*self.gone, *self._offered])
            self._offered = []
            self.was_refused = True
        came = without(self._unsaid, [*self.left, *self._offered, *self.gone])
        self._unsaid = without(self._unsaid, came)
        return came

    def take(self, page: Page, now: int) -> list[Tick]:
        """Return the trades of an answer that are to be offered, and draw the conclusions from what it does not hold."""
        found = [tick for tick in page.ticks if within(self.left, tick.trade_id or 0, tick.trade_id or 0)]
        if found:
            self.progress = self._offered_at = now
            self.retries.reset()
            ids = of_ids(tick.trade_id for tick in found if tick.trade_id is not None)
            self._offered = sorted([*self._offered, *ids])
            self.left = without(self.left, ids)
        absent = within(self.left, *page.covered) if page.covered is not None else []
        proven = common(absent, self._doubted)
        self.gone = sorted([*self.gone, *proven])
        self.left = without(self.left, proven)
        self._doubted = without(absent, proven)
        if not self.left:
            self.due = now + LOOK_AGAIN_NS
        elif self._doubted:
            self.due = now + CONFIRM_NS
        elif found or proven:
            self.due = now
        else:
            self.due = now + self.retries.next_ns()
        self._page_on(page, now)
        return found

    def _page_on(self, page: Page, now: int) -> None:
        """Where it is asked by time: go on below the page, as long as what is left lies there."""
        below = (
            page.until_ns is not None and self.left and page.covered is not None and page.covered[0] > self.left[0][0]
        )
        if not below or page.until_ns is None:
            self.until_ns = self._first_until_ns
            return
        # A page that begins where the one before did is full of one moment: that moment is stepped over.
        whole_s = -(-self.until_ns // NS_PER_S)
        self.until_ns = page.until_ns if page.until_ns < self.until_ns else (whole_s - 1) * NS_PER_S
        self.due = now
