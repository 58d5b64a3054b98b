"""One contest for all symbols of a model: a version is promoted everywhere, on what all symbols have shown.

Pairs of different symbols overlap in time, and prices move together. Were each a bet of its own, a bet could be sized after another symbol
had already told how it will end, and the product would prove too much. So pairs are put together in rounds:

    a round takes the pairs whose predictions were made after the round before was complete, and before its own first outcome was
    known: one a symbol. The next prediction made after its last outcome closes it and opens another; what lies across is left out,
    counted.

A round is one bet: the sum of the differences of its symbols, over the number of symbols known when it was opened, so that nothing about
it is chosen with hindsight. A symbol that has no pair in a round counts as no difference of loss, and as a net difference that lies just
at the margin. Sums over a changing number of symbols have no natural scale, so they are truncated as unbounded losses are.

With symbols out of step a round takes two horizons; with all in step, one. A pair of `pairs_min` is a round here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.models.contest import (
    ABSENT,
    CHAMPION,
    ROLE,
    State,
    champion_of,
    contest_answer,
    contest_enter,
    contest_leave,
    contest_new,
    contest_promote,
    contest_rollback,
)
from engine.models.evidence import FIRST_MAX

OPEN = 2**62
"""Later than any outcome: the round has none yet."""


class PooledContest:
    """A contest over many keys. `state` is for reading, by `standing` and the like; it is changed by the methods alone."""

    def __init__(self, arms: int, *, champion: int = 0) -> None:
        self.state: State = contest_new(arms, is_bounded=False, champion=champion)
        self.skipped = 0
        """Pairs that were left out: they lay across two rounds, were the first of their key, or closed a round that decided."""
        self._keys: dict[int, None] = {}
        self._introduced = -OPEN  # when the newest of them had its first outcome
        self._since, self._until, self._newest = -OPEN, OPEN, -OPEN
        self._symbols = 0
        self._sums = np.zeros((2, arms))
        self._members = np.zeros((2, arms))

    def enter(self, arm: int, warm: int = 0, *, by_drift: bool = False) -> None:
        """Start a challenger, whose first `warm` rounds are not counted. Raises ModelError if the arm's place is taken."""
        contest_enter(self.state, arm, warm, by_drift=by_drift)
        self._sums[:, arm] = 0.0
        self._members[:, arm] = 0.0

    def leave(self, arm: int) -> None:
        """Retire an arm. Raises ModelError for the champion and for an empty place."""
        contest_leave(self.state, arm)

    def promote(self, arm: int) -> None:
        """Make an arm the champion of all keys, as `contest_promote` does; the open round is dropped."""
        contest_promote(self.state, arm)
        self._open()

    def rollback(self) -> int:
        """Bring the previous champion back for all keys, as `contest_rollback` does; the open round is dropped."""
        arm = contest_rollback(self.state)
        self._open()
        return arm

    def answer(
        self,
        key: int,
        made: int,
        resolved: int,
        losses: npt.NDArray[np.float64],
        nets: npt.NDArray[np.float64],
        alpha: float,
        pairs_min: float,
        margin_bps: float,
    ) -> int:
        """Take in one thinned answer; return the arm that shall be champion of all keys now, -1 for the one that is.

        key: a number that stays the key's. made, resolved: when the prediction was made and when its outcome came, in ns of `received`;
        answers come in the order of their inputs, so `resolved` never decreases. losses, nets: as of `contest_answer`.
        """
        if math.isnan(losses[champion_of(self.state)]):
            return -1
        if key not in self._keys:
            self._keys[key] = None
            self._introduced = resolved
            if self._until == OPEN:
                self._open()
            self.skipped += 1
            return -1
        if self._until < OPEN and made >= self._newest:
            winner = self._close(alpha, pairs_min, margin_bps)
            self._open()
            if winner >= 0:
                self.skipped += 1
                return winner
        if not self._since <= made < self._until:
            self.skipped += 1
            return -1
        self._until = min(self._until, resolved)
        self._newest = resolved
        self._add(losses, nets, margin_bps)
        return -1

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Copy all that a restart must know."""
        times = (self._since, self._until, self._newest, self._introduced, self._symbols, self.skipped)
        return {
            "state": self.state.copy(),
            "round": np.array(times, np.int64),
            "keys": np.array(list(self._keys), np.int64),
            "sums": self._sums.copy(),
            "members": self._members.copy(),
        }

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become what `arrays` was made of. Raises ModelError if it was made of a contest with other places."""
        if arrays["state"].shape != self.state.shape:
            raise ModelError(f"contest: expected {len(self.state) - 1} arms, found {len(arrays['state']) - 1}")
        self.state[:] = arrays["state"]
        self._sums[:] = arrays["sums"]
        self._members[:] = arrays["members"]
        self._keys = dict.fromkeys(arrays["keys"].tolist())
        self._since, self._until, self._newest, self._introduced, self._symbols, self.skipped = arrays["round"].tolist()

    def _open(self) -> None:
        """Drop the round, and open one for predictions made once all is known by which it is bet on and divided."""
        self._since, self._until = max(self._newest, self._introduced), OPEN
        self._symbols = len(self._keys)
        self._sums[:] = 0.0
        self._members[:] = 0.0

    def _add(self, losses: npt.NDArray[np.float64], nets: npt.NDArray[np.float64], margin_bps: float) -> None:
        champion = champion_of(self.state)
        for arm in range(len(losses)):
            difference = float(losses[champion]) - float(losses[arm])
            if self.state[arm, ROLE] in (ABSENT, CHAMPION) or math.isnan(difference):
                continue
            self._sums[0, arm] += max(-FIRST_MAX, min(FIRST_MAX, difference))  # an infinite one must not cancel another
            self._members[0, arm] += 1.0
            net = float(nets[arm]) - float(nets[champion])
            if math.isfinite(net):
                # What is missing in the end counts as -margin_bps: it speaks neither for nor against.
                self._sums[1, arm] += net + margin_bps
                self._members[1, arm] += 1.0

    def _close(self, alpha: float, pairs_min: float, margin_bps: float) -> int:
        """Bet on the round as one pair of each arm."""
        means = np.where(self._members > 0.0, self._sums / self._symbols, math.nan)
        losses, nets = -means[0], means[1] - margin_bps
        champion = champion_of(self.state)
        losses[champion] = nets[champion] = 0.0
        return contest_answer(self.state, losses, nets, alpha, pairs_min, margin_bps)
