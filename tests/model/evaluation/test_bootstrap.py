"""Intervals over vans: reproducible, as wide as theory says, and narrower when models are paired."""

import numpy as np
import pytest

from model.evaluation.bootstrap import SMALL_VANS, interval, resample_weights, small_fleet_weights


def test_the_first_row_is_the_fleet_itself_and_every_resample_has_as_many_vans() -> None:
    """Ones, then multinomial draws; the same seed draws the same."""
    weights = resample_weights(50, 200, seed=3)
    assert weights.shape == (201, 50)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 50).all()
    assert np.array_equal(weights, resample_weights(50, 200, seed=3))
    assert not np.array_equal(weights, resample_weights(50, 200, seed=4))


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    """1.96 standard errors on either side."""
    values = np.random.default_rng(0).normal(10.0, 2.0, 400)
    means = resample_weights(400, 4_000) @ values / 400
    low, high = interval(means[1:])
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.02)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.02)


def test_resamples_without_a_value_are_left_out() -> None:
    """NaN does not spoil the rest; nothing but NaN has no interval."""
    assert interval(np.array([np.nan, 1.0, 1.0, np.nan])) == (1.0, 1.0)
    assert np.isnan(interval(np.array([np.nan, np.nan]))).all()


def test_pairing_removes_what_both_models_share() -> None:
    """The difference of two models on the same vans is much more certain than either."""
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 1, 200)
    a, b = hard + rng.normal(0, 0.05, 200) + 0.1, hard + rng.normal(0, 0.05, 200)
    weights = resample_weights(200, 1_000) / 200
    low, high = interval((weights @ a - weights @ b)[1:])
    assert 0.0 < low < 0.1 < high < 0.2
    assert interval((weights @ a)[1:])[0] < interval((weights @ b)[1:])[1]


def test_a_small_fleet_scatters_as_its_size_says() -> None:
    """The spread of a mean of 24 vans out of 400 is that of 24 draws."""
    values = np.random.default_rng(0).normal(10.0, 2.0, 400)
    weights = small_fleet_weights(400)
    assert (weights.sum(axis=1) == SMALL_VANS).all()
    assert (weights @ values / SMALL_VANS).std() == pytest.approx(values.std() / np.sqrt(SMALL_VANS), rel=0.1)
