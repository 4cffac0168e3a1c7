"""The tuning figure itself."""

import math

import numpy as np

from model.baselines.selection import spread
from model.evaluation.exact import weighted_auroc


def test_weighted_auroc_counts_every_pair() -> None:
    """It equals the share of (positive, negative) pairs in the right order, ties half, rows repeated by weight."""
    rng = np.random.default_rng(0)
    score, label = rng.integers(0, 8, 60).astype(float), rng.random(60) < 0.3
    weight = rng.integers(1, 4, 60).astype(float)
    s, y = np.repeat(score, weight.astype(int)), np.repeat(label, weight.astype(int))
    pairs = s[y][:, None] - s[~y][None, :]
    assert math.isclose(weighted_auroc(score, label, weight), ((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert math.isnan(weighted_auroc(score, np.zeros(60, np.bool_)))


def test_spread_covers_a_fleet() -> None:
    """First and last are in it and nothing repeats."""
    assert spread(5, 9) == [0, 1, 2, 3, 4]
    assert spread(100, 3) == [0, 50, 99] or spread(100, 3) == [0, 49, 99]
