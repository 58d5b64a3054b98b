import math

import numpy as np
import numpy.typing as npt
import pytest

from engine.errors import ModelError
from engine.models.contest import champion_of, previous_of, standing
from engine.models.pooled_contest import PooledContest

NAN = math.nan
HORIZON = 60


def pool(arms: int = 2) -> PooledContest:
    contest = PooledContest(arms)
    contest.enter(1)
    return contest


def tell(
    contest: PooledContest,
    key: int,
    made: int,
    losses: list[float],
    nets: list[float] | None = None,
    took: int = HORIZON,
) -> int:
    said = [NAN] * len(losses) if nets is None else nets
    return contest.answer(key, made, made + took, np.array(losses), np.array(said), 0.05, 200, 0.5)


def test_pairs_of_all_keys_that_overlap_are_one_round_of_evidence() -> None:
    contest = pool()
    for key in range(3):  # the first of each key only makes it known
        tell(contest, key, 0, [0.5, 0.1])
    assert contest.skipped == 3
    for turn in range(1, 11):
        for key in range(3):
            tell(contest, key, turn * HORIZON, [0.5, 0.4])
    assert standing(contest.state, 1).pairs == 9  # the tenth is open
    assert contest.skipped == 3
    assert standing(contest.state, 1).mean_difference == pytest.approx(0.1 * 8 / 9)  # the first round has no scale yet


def test_what_lies_across_two_rounds_is_left_out() -> None:
    contest = pool()
    tell(contest, 1, 0, [0.5, 0.4])
    tell(contest, 2, 30, [0.5, 0.4])
    # Known since 90. A is made at 60, 120, ..., B at 90, 150, ...
    tell(contest, 1, 60, [0.5, 0.4])  # before that: out
    tell(contest, 2, 90, [0.5, 0.4])  # in; outcome at 150
    tell(contest, 1, 120, [0.5, 0.4])  # in; outcome at 180
    tell(contest, 2, 150, [0.5, 0.4])  # made when a first outcome was known, before the last one was: out
    assert contest.skipped == 4
    assert standing(contest.state, 1).pairs == 0
    tell(contest, 1, 180, [0.5, 0.4])  # closes that round
    assert (contest.skipped, standing(contest.state, 1).pairs) == (4, 1)


def test_a_key_without_a_pair_in_a_round_counts_as_no_difference_and_as_a_net_at_the_margin() -> None:
    contest = pool()
    for key in range(4):
        tell(contest, key, 0, [0.5, 0.5])
    for turn in range(1, 4):
        tell(contest, 0, turn * HORIZON, [0.5, 0.3], [0.0, 2.0])
    found = standing(contest.state, 1)
    assert found.pairs == 2
    assert found.mean_difference == pytest.approx(0.2 / 4 / 2)  # the first of the two has no scale yet
    assert found.net_difference == pytest.approx((2.0 + 0.5) / 4 - 0.5)


def test_a_new_key_counts_from_the_next_round_on() -> None:
    contest = pool()
    tell(contest, 0, 0, [0.5, 0.5])
    tell(contest, 0, 60, [0.5, 0.3])
    tell(contest, 1, 61, [0.5, 0.3])  # new: known since 121
    tell(contest, 0, 120, [0.5, 0.3])  # closes the round of one key, too early for the next
    assert contest.skipped == 3
    tell(contest, 0, 180, [0.5, 0.3])
    tell(contest, 1, 181, [0.5, 0.1])
    tell(contest, 0, 241, [0.5, 0.3])
    assert standing(contest.state, 1).pairs == 2
    assert standing(contest.state, 1).mean_difference == pytest.approx((0.2 + 0.4) / 2 / 2)


def decide(contest: PooledContest, losses: list[float], most: int = 2_000) -> tuple[int, int]:
    for turn in range(1, most):
        for key in range(3):
            if (arm := tell(contest, key, turn * HORIZON, losses)) >= 0:
                return arm, turn
    return -1, most


def test_a_version_that_is_better_on_all_keys_is_promoted_for_all_and_rolled_back_for_all() -> None:
    contest = pool()
    assert decide(contest, [0.5, 0.3]) == (1, 202)  # keys are known after 1, 200 rounds are closed by the next
    contest.promote(1)
    assert (champion_of(contest.state), previous_of(contest.state)) == (1, 0)
    start, winner = 203 * HORIZON, -1
    for turn in range(1_000):
        winner = max(tell(contest, key, start + turn * HORIZON, [0.3, 0.5]) for key in range(3))
        if winner >= 0:
            break
    assert winner == contest.rollback() == champion_of(contest.state) == 0
    with pytest.raises(ModelError, match="no previous"):
        contest.rollback()


def test_promoting_drops_what_the_open_round_holds_against_the_old_champion() -> None:
    contest = pool(3)
    contest.enter(2)
    tell(contest, 0, 0, [0.5, 0.5, 0.5])
    tell(contest, 0, 60, [0.5, 0.3, 0.1])
    contest.promote(1)
    tell(contest, 0, 120, [0.5, 0.3, 0.1])
    tell(contest, 0, 180, [0.5, 0.3, 0.1])
    assert standing(contest.state, 2).pairs == standing(contest.state, 0).pairs == 1
    contest.leave(2)
    contest.enter(2, 5)
    tell(contest, 0, 240, [0.5, 0.3, 0.1])
    assert standing(contest.state, 2).warming == 5  # nothing of the round belongs to the newcomer


def test_a_copy_goes_on_to_the_same_bits() -> None:
    random = np.random.default_rng(4)
    calls = []
    for at in range(300):
        losses: npt.NDArray[np.float64] = np.square(random.standard_normal(2))
        calls.append((int(random.integers(4)), 20 * at, losses.tolist(), random.standard_normal(2).tolist()))
    straight, first = pool(), pool()
    for at, call in enumerate(calls):
        tell(straight, *call)
        if at == 150:
            second = PooledContest(2)
            second.restore(first.arrays())
            first = second
        tell(first, *call)
    for name, array in straight.arrays().items():
        np.testing.assert_array_equal(array, first.arrays()[name])
    with pytest.raises(ModelError, match="expected 3 arms, found 2"):
        PooledContest(3).restore(first.arrays())


def test_keys_that_move_together_do_not_make_a_false_proof() -> None:
    """Equal versions on 8 keys with the same outcomes, out of step.

    Were each pair a bet of its own, the others would have told its outcome: that promoted in 95 of 200 such runs.
    """
    promoted = 0
    for run in range(20):
        random = np.random.default_rng([9, run])
        contest = pool()
        winner = -1
        for turn in range(300):
            shared = 0.1 * random.standard_normal()
            for key in range(8):
                winner = max(winner, tell(contest, key, turn * 80 + key * 10, [0.5, 0.5 - shared]))
        promoted += winner >= 0
    assert promoted <= 3
