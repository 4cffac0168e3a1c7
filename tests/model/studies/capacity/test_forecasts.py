"""Intervals hold what they say, and trees find what there is to find."""

import math

import numpy as np
import pytest

from model.studies.capacity.depot_sums import multiple_of, sums_of
from model.studies.capacity.forecasts import BoostedQuantiles, BoostingPlan, Naive, Spread, conformal_quantile, pinball
from model.studies.capacity.panel import NAIVE, Rows


def made_up_rows(rng: np.random.Generator, n: int, noise: float = 1.0) -> Rows:
    """What comes is ten times a feature above the level, give or take noise that grows with another."""
    x = rng.uniform(0.0, 1.0, (n, 3))
    level = rng.uniform(20.0, 40.0, n)
    y = level + 10.0 * x[:, 0] + noise * (0.2 + x[:, 1]) * rng.normal(0.0, 1.0, n)
    van = rng.integers(0, 40, n)
    return Rows(x, ("signal", "spread", "nothing"), y, van, rng.integers(0, 50, n), dict.fromkeys(NAIVE, level))


def test_the_conformal_quantile_is_the_one_of_n_plus_one() -> None:
    """Of 99 scores the 90th, of too few the largest."""
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))
    assert conformal_quantile(scores, 0.9) == 90.0
    assert conformal_quantile(np.array([3.0, 1.0, 2.0]), 0.9) == 3.0


def test_intervals_cover_what_they_say_of_rows_like_those_calibrated_on() -> None:
    """Within four standard errors of the share: of n rows judged after m calibrated on, Beta and binomial."""
    rng = np.random.default_rng(7)
    train, calibration, test = (made_up_rows(rng, n) for n in (1_000, 2_000, 4_000))
    error = math.sqrt(0.9 * 0.1 * (1 / 2_000 + 1 / 4_000))
    plan = BoostingPlan(coverage=0.9, most_trees=80)
    for forecast in (BoostedQuantiles(plan), Naive("last_week", 0.9)):
        forecast.fit(train, calibration)
        spread = forecast.predict(test)
        covered = ((test.y >= spread.low) & (test.y <= spread.high)).mean()
        assert abs(covered - 0.9) < 4.0 * error + 1 / 2_000


def test_trees_find_what_a_naive_forecast_does_not_see() -> None:
    """Half of the naive error at most, and wide intervals where there is much noise."""
    rng = np.random.default_rng(8)
    train, calibration, test = (made_up_rows(rng, n) for n in (1_500, 1_000, 1_000))
    boosted, naive = BoostedQuantiles(BoostingPlan(most_trees=300)), Naive("yesterday", 0.9)
    for forecast in (boosted, naive):
        forecast.fit(train, calibration)
    spread, plain = boosted.predict(test), naive.predict(test)
    assert np.abs(test.y - spread.middle).mean() < 0.5 * np.abs(test.y - plain.middle).mean()
    assert (spread.low <= spread.middle).all()
    assert (spread.middle <= spread.high).all()
    noisy = test.x[:, 1] > 0.8
    assert (spread.high - spread.low)[noisy].mean() > 1.2 * (spread.high - spread.low)[test.x[:, 1] < 0.2].mean()


@pytest.mark.parametrize("vans", [(0, 4), (1, 2)])
def test_two_vans_are_enough(vans: tuple[int, int]) -> None:
    """Whatever their numbers, one of them chooses how many trees there are."""
    rng = np.random.default_rng(13)
    rows = made_up_rows(rng, 200)
    two = Rows(rows.x, rows.names, rows.y, np.where(rows.van % 2, *vans), rows.origin, rows.naive)
    boosted = BoostedQuantiles(BoostingPlan(most_trees=20))
    boosted.fit(two, made_up_rows(rng, 100))
    assert np.isfinite(boosted.predict(two).high).all()


def test_the_same_seed_gives_the_same_forecast() -> None:
    """Bit for bit."""
    rng = np.random.default_rng(9)
    train, calibration, test = (made_up_rows(rng, n) for n in (300, 200, 100))
    both = []
    for _ in range(2):
        boosted = BoostedQuantiles(BoostingPlan(most_trees=30, bag=2, seed=3))
        boosted.fit(train, calibration)
        both.append(boosted.predict(test).high.tobytes())
    assert both[0] == both[1]


def test_what_is_never_negative_gets_no_negative_forecast() -> None:
    """Minutes and kilowatt-hours end at zero."""
    rng = np.random.default_rng(10)
    rows = [made_up_rows(rng, n) for n in (300, 200, 100)]
    zeros = [Rows(r.x, r.names, np.where(r.x[:, 2] < 0.7, 0.0, r.y), r.van, r.origin, r.naive) for r in rows]
    for forecast in (BoostedQuantiles(BoostingPlan(most_trees=30)), Naive("last_week", 0.9)):
        forecast.fit(zeros[0], zeros[1])
        spread = forecast.predict(zeros[2])
        assert min(part.min() for part in (spread.low, spread.middle, spread.high, spread.mean)) >= 0.0


def test_pinball_is_least_at_the_quantile() -> None:
    """Against the definition, on a grid."""
    y = np.random.default_rng(11).normal(0.0, 1.0, 2_001)
    grid = np.linspace(-2.0, 2.0, 401)
    for share in (0.05, 0.5, 0.95):
        best = grid[int(np.argmin([pinball(y, np.full_like(y, g), share).mean() for g in grid]))]
        assert best == pytest.approx(np.quantile(y, share), abs=0.02)


def test_sums_are_over_groups_and_evenings() -> None:
    """Added up by hand; the multiple covers nine tenths of the sums that it was chosen on."""
    rng = np.random.default_rng(12)
    rows = made_up_rows(rng, 500)
    spread = Spread(rows.y - 2.0, rows.y, rows.y + 2.0, rows.y + rng.normal(0.0, 1.0, 500))
    group = np.arange(40) % 3
    sums = sums_of(rows, spread, group)
    for i in range(len(sums.group)):
        some = (group[rows.van] == sums.group[i]) & (rows.origin == sums.origin[i])
        assert sums.vans[i] == some.sum()
        assert sums.y[i] == pytest.approx(rows.y[some].sum())
        assert sums.mean[i] == pytest.approx(spread.mean[some].sum())
        assert sums.scale[i] == pytest.approx(2.0 * math.sqrt(some.sum()))
    assert 0.9 <= sums.covered(multiple_of(sums, 0.9)).mean() <= 0.9 + 2.0 / len(sums.group)
