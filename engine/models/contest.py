"""The contest of one model: one champion, its challengers, and the proof by which one replaces the other.

Once a horizon each arm that spoke has a loss and net basis points for a prediction whose outcome is known. A challenger is promoted when
three things hold at once, whenever that is:

    evidence    E >= j (j + 1) / alpha, for the j-th challenger ever started against this champion: the false ones among all that may
                ever be started sum up to alpha, for 1/2 + 1/6 + 1/12 + ... = 1
    pairs       at least `pairs_min` of them
    net         the lower bound of its net basis points less the champion's is above -margin_bps, at the same alpha / (j (j + 1));
                where the target has no position (net is NaN), this does not apply

The old champion stays in shadow as `previous`, with a process of its own against the new one: at E >= 1 / alpha it is back. All that was
known against the old champion says nothing about the new one: every process and the counts of j begin anew. So does a pair's scale.

A pair is of two arms that both spoke. Who speaks must not depend on the outcome; then the bounds hold with pairs missing. Nothing here
depends on anything but the state and the pairs, in their order: a copied state goes on to the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.models.evidence import evidence, rescaled, scale_of, truncated
from engine.models.lower_bound import BOUND, PAIRS, TOTAL, bound_scale, bound_start, bound_step, lower_bound
from engine.models.lower_bound import CUT as NET_CUT

State = npt.NDArray[np.float64]  # (arms + 1) x CONTEST

ABSENT, CHAMPION, CHALLENGER, PREVIOUS = range(4)
ROLES = ("absent", "champion", "challenger", "previous")

# Columns of an arm: its role; the how many-th it is against this champion (0: previous); pairs that are still not counted; whether a drift
# started it; its e-process; mean square and count of the loss differences (their scale); sum of the differences, how many were
# truncated; and from NET on the bound of the net difference.
ROLE, ORDER, WARM, BY_DRIFT, LOG_E, SUM, SQUARES, COUNT, MEAN_SQUARE, SEEN, MOVED, CUT, NET = range(13)
CONTEST = NET + BOUND
# Columns of the row behind the arms: champion, previous (-1: none), challengers started against it, whether losses lie in [0, 1], alpha as
# it was last given, whether the contest decides nothing by itself.
CHAMPION_ARM, PREVIOUS_ARM, STARTED, IS_BOUNDED, ALPHA, IS_HELD = range(6)


@dataclass(frozen=True)
class ContestStanding:
    """How one arm stands against the champion, for display."""

    arm: int
    role: str
    order: int  # j; 0 of the champion and of the previous one
    e_value: float
    threshold: float  # what E has to reach; NaN of the champion
    pairs: int  # counted
    warming: int  # pairs that are still not counted
    mean_difference: float  # loss of the champion less the arm's, in the loss's unit; NaN without pairs
    truncated: int  # pairs whose loss difference was beyond the scale
    net_pairs: int
    net_difference: float  # bps, mean of the arm's less the champion's; NaN without pairs
    net_bound: float  # bps, the lower bound of that; NaN without pairs
    net_truncated: int


def contest_new(arms: int, *, is_bounded: bool, champion: int = 0) -> State:
    """Return the contest of a model with places for `arms` versions, of which one is there: the champion.

    is_bounded: losses lie in [0, 1], as Brier's of two classes, or halved of more; else they are squared errors of any size.
    """
    state = np.zeros((arms + 1, CONTEST))
    state[arms, CHAMPION_ARM] = champion
    state[arms, PREVIOUS_ARM] = -1.0
    state[arms, IS_BOUNDED] = float(is_bounded)
    state[arms, ALPHA] = math.nan
    for arm in range(arms):
        begin_anew(state, arm)
    state[champion, ROLE] = CHAMPION
    return state


def begin_anew(state: State, arm: int) -> None:
    """Forget what an arm has shown."""
    state[arm, LOG_E:] = 0.0
    bound_start(state[arm], NET)


def contest_enter(state: State, arm: int, warm: int = 0, *, by_drift: bool = False) -> None:
    """Start a challenger, whose first `warm` pairs are not counted. Raises ModelError if the arm's place is taken."""
    _expect(state, arm, ABSENT)
    common = len(state) - 1
    state[common, STARTED] += 1.0
    state[arm] = 0.0
    state[arm, ROLE] = CHALLENGER
    state[arm, ORDER] = state[common, STARTED]
    state[arm, WARM] = warm
    state[arm, BY_DRIFT] = float(by_drift)
    begin_anew(state, arm)


def contest_leave(state: State, arm: int) -> None:
    """Retire an arm: its place is free. Others keep their j. Raises ModelError for the champion and for an empty place."""
    _expect(state, arm, CHALLENGER, PREVIOUS)
    common = len(state) - 1
    if state[common, PREVIOUS_ARM] == arm:
        state[common, PREVIOUS_ARM] = -1.0
    state[arm] = 0.0
    begin_anew(state, arm)


def contest_promote(state: State, arm: int) -> None:
    """Make a challenger, or the previous champion, the champion; the old one stays as `previous`.

    The others begin anew against it, in the order in which they were started; a `previous` of before is one of them, the last.
    Raises ModelError if the arm is neither.
    """
    _expect(state, arm, CHALLENGER, PREVIOUS)
    _crown(state, arm, keep=True)


def contest_rollback(state: State) -> int:
    """Make the previous champion the champion again, and return its arm; the one it replaces is a challenger like the others.

    Raises ModelError if there is none.
    """
    previous = int(state[len(state) - 1, PREVIOUS_ARM])
    if previous < 0:
        raise ModelError(
            "rollback: there is no previous champion: none was promoted since the last rollback, or it was retired"
        )
    _crown(state, previous, keep=False)
    return previous


def contest_hold(state: State, is_held: bool) -> None:
    """Let the contest decide nothing by itself (a pinned champion, promotion by hand), or decide again. Evidence is gathered on."""
    state[len(state) - 1, IS_HELD] = float(is_held)


def champion_of(state: State) -> int:
    """Return the champion's arm."""
    return int(state[len(state) - 1, CHAMPION_ARM])


def previous_of(state: State) -> int:
    """Return the arm that a rollback would bring back, -1 if there is none."""
    return int(state[len(state) - 1, PREVIOUS_ARM])


def is_fresh(state: State, pairs_min: int) -> bool:
    """Whether a challenger that a drift started has too few pairs so far to be promoted."""
    arms = state[:-1]
    found = (arms[:, ROLE] == CHALLENGER) & (arms[:, BY_DRIFT] != 0.0) & (arms[:, COUNT] < pairs_min)
    return bool(found.any())


def vacant(state: State) -> int:
    """Return the first free place, -1 if all are taken."""
    free = np.flatnonzero(state[:-1, ROLE] == ABSENT)
    return int(free[0]) if len(free) else -1


def retiring(state: State) -> int:
    """Return the arm that makes room for a new challenger when all places are taken, -1 if none may be retired.

    Of the challengers that a drift started, the one with the least evidence; of equals the one that had more pairs to show something,
    then the one that was started first. Challengers of the configuration, the champion and the previous one stay.
    """
    arms = [arm for arm in range(len(state) - 1) if state[arm, ROLE] == CHALLENGER and state[arm, BY_DRIFT]]
    return min(arms, key=lambda arm: (state[arm, LOG_E], -state[arm, COUNT], state[arm, ORDER]), default=-1)


def standing(state: State, arm: int) -> ContestStanding:
    """Return how an arm stands. `alpha` is the one that was last decided by: before the first pair there is no threshold (NaN)."""
    row = state[arm]
    count, net_count = int(row[COUNT]), int(row[NET + PAIRS])
    demand = _demand(state, arm) if row[ROLE] in (CHALLENGER, PREVIOUS) else math.nan
    return ContestStanding(
        arm=arm,
        role=ROLES[int(row[ROLE])],
        order=int(row[ORDER]),
        e_value=math.exp(min(float(row[LOG_E]), 700.0)),
        threshold=math.exp(demand),
        pairs=count,
        warming=int(row[WARM]),
        mean_difference=float(row[MOVED]) / count if count else math.nan,
        truncated=int(row[CUT]),
        net_pairs=net_count,
        net_difference=float(row[NET + TOTAL]) / net_count if net_count else math.nan,
        net_bound=lower_bound(row, NET, demand) if net_count else math.nan,
        net_truncated=int(row[NET + NET_CUT]),
    )


def log_threshold(order: float, alpha: float) -> float:
    """Return the logarithm of what E has to reach: j (j + 1) / alpha, or 1 / alpha of the previous champion (order 0)."""
    return math.log(max(order * (order + 1.0), 1.0) / alpha)


def contest_pair(row: Any, difference: float, net: float, is_bounded: float, surprise: float) -> None:
    """Take in one pair of an arm.

    difference: the champion's loss less the arm's; net: the arm's basis points less the champion's, NaN where there are none;
    surprise: the logarithm of what E has to reach.
    """
    scale = 1.0
    if is_bounded == 0.0:
        scale = scale_of(row[MEAN_SQUARE])
        row[MEAN_SQUARE], row[SEEN] = rescaled(row[MEAN_SQUARE], row[SEEN], difference)
    if row[WARM] > 0.0:
        row[WARM] -= 1.0
        if math.isfinite(net):
            bound_scale(row, NET, net)
        return
    share = truncated(difference, scale)
    if scale > 0.0 and abs(difference) > scale:
        row[CUT] += 1.0
    row[MOVED] += share * scale
    row[LOG_E], row[SUM], row[SQUARES], row[COUNT] = evidence(row[LOG_E], row[SUM], row[SQUARES], row[COUNT], share)
    if math.isfinite(net):
        bound_step(row, NET, net, surprise)


def contest_answer(state: Any, losses: Any, nets: Any, alpha: float, pairs_min: float, margin_bps: float) -> int:
    """Take in what each arm lost and earned on one prediction; return the arm that shall be champion now, -1 for the one that is.

    losses[arm], nets[arm] (bps): NaN where an arm said nothing. The state is left as it is otherwise: whoever heeds the answer calls
    `contest_promote`, or `contest_rollback` if the arm is the previous champion. If several are due at once, the one that is further
    beyond its threshold wins.
    """
    arms = state.shape[0] - 1
    state[arms, ALPHA] = alpha
    champion = int(state[arms, CHAMPION_ARM])
    winner = -1
    if math.isnan(losses[champion]):
        return winner
    most = 0.0
    for arm in range(arms):
        role = state[arm, ROLE]
        if role not in (CHALLENGER, PREVIOUS) or math.isnan(losses[arm]):
            continue
        # Two infinite losses are equal; their difference would be NaN.
        difference = losses[champion] - losses[arm] if losses[champion] != losses[arm] else 0.0
        row = state[arm]
        surprise = log_threshold(row[ORDER], alpha)
        contest_pair(row, difference, nets[arm] - nets[champion], state[arms, IS_BOUNDED], surprise)
        beyond = row[LOG_E] - surprise
        if beyond < 0.0 or (winner >= 0 and beyond <= most):
            continue
        if role == CHALLENGER:
            if row[COUNT] < pairs_min:
                continue
            if row[NET + PAIRS] > 0.0 and not lower_bound(row, NET, surprise) > -margin_bps:
                continue
        winner = arm
        most = beyond
    return -1 if state[arms, IS_HELD] != 0.0 else winner


def _demand(state: State, arm: int) -> float:
    alpha = float(state[len(state) - 1, ALPHA])
    return log_threshold(float(state[arm, ORDER]), alpha) if alpha > 0.0 else math.nan


def _crown(state: State, arm: int, *, keep: bool) -> None:
    """Make an arm the champion and begin anew. `keep`: the old champion is `previous`, not a challenger."""
    common = len(state) - 1
    old, before = champion_of(state), previous_of(state)
    waiting = [other for other in range(common) if state[other, ROLE] == CHALLENGER and other != arm]
    waiting.sort(key=lambda other: state[other, ORDER])
    if before not in (-1, arm):
        waiting.append(before)
    if not keep:
        waiting.append(old)
    for order, other in enumerate(waiting, 1):
        state[other, ROLE], state[other, ORDER] = CHALLENGER, order
        begin_anew(state, other)
    for other, role in ((arm, CHAMPION), *(((old, PREVIOUS),) if keep else ())):
        state[other, ROLE], state[other, ORDER], state[other, WARM] = role, 0.0, 0.0
        begin_anew(state, other)
    state[common, CHAMPION_ARM] = arm
    state[common, PREVIOUS_ARM] = old if keep else -1
    state[common, STARTED] = len(waiting)


def _expect(state: State, arm: int, *roles: int) -> None:
    if not 0 <= arm < len(state) - 1:
        raise ModelError(f"arm {arm}: expected one of 0 to {len(state) - 2}")
    role = int(state[arm, ROLE])
    if role not in roles:
        raise ModelError(f"arm {arm}: expected {' or '.join(ROLES[one] for one in roles)}, found {ROLES[role]}")
