"""What docs/promotion.md says of how often promotion is wrong, in fewer runs; all of them as soak."""

import pytest

from benchmarks.promotion_power import NULLS, calibrated, costly, false_promotions, power, simulate, watch


@pytest.mark.parametrize("name", NULLS)
def test_equal_models_are_promoted_in_fewer_runs_than_alpha_allows(name: str) -> None:
    """200 runs at 5 %: were alpha used up, more than 18 would be so many in 1 of 100 tries."""
    _, make, challengers, is_bounded = NULLS[name]
    found = simulate(
        make, runs=200, pairs=5_000, seed=1, challengers=challengers, is_bounded=is_bounded, with_net=False, pairs_min=1
    )
    assert len(found.times) <= 18


def test_a_z_test_at_each_look_promotes_equal_models_again_and_again() -> None:
    assert watch(NULLS["equal"][1], runs=100, pairs=5_000, seed=1).share > 0.2


def test_a_calibrated_challenger_of_60_percent_is_promoted_soon() -> None:
    found = simulate(calibrated(0.6), runs=60, pairs=4_000, seed=2)
    assert found.share == 1.0
    median = found.within(0.5)
    assert median is not None
    assert 400 < median < 1_200


def test_a_better_score_does_not_buy_a_loss_beyond_the_margin() -> None:
    assert len(simulate(costly, runs=40, pairs=5_000, seed=3).times) <= 5


def test_a_bad_promotion_is_rolled_back() -> None:
    found = simulate(calibrated(0.6), runs=40, pairs=4_000, seed=4, is_rollback=True)
    assert found.share == 1.0


@pytest.mark.soak
def test_a_thousand_seeded_runs_of_equal_models_are_below_five_percent() -> None:
    for seed, (_, make, challengers, is_bounded) in enumerate(NULLS.values()):
        found = simulate(
            make, runs=1_000, pairs=20_000, seed=seed, challengers=challengers, is_bounded=is_bounded, with_net=False
        )
        assert found.share < 0.05


@pytest.mark.soak
def test_the_tables_of_the_page_are_made() -> None:
    assert len(false_promotions(20, 2_000)) > 2
    assert len(power(20)) > 2
