"""95 % intervals by resampling vans, not instants: the instants of one van are far from independent."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 1_000
SEED = 20_260_706
COVERAGE = 0.95

# What a fleet of so many vans drawn from the fleet that was judged would show, for `emberwatch evaluate --quick`.
SMALL_VANS = 24
SMALL_DRAWS = 2_000
SMALL_COVERAGE = 0.998  # of one figure: dozens are compared, and chance alone should rarely make one of them disagree


def resample_weights(n_vans: int, n_resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """(1 + n_resamples, n_vans) how often each van counts: once each in row 0, then as drawn with replacement.

    The same arguments give the same draws, so that two models compared on them are compared on the same vans.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_vans, np.full(n_vans, 1.0 / n_vans), n_resamples)
    return np.concatenate((np.ones((1, n_vans)), drawn))


def small_fleet_weights(n_vans: int, seed: int = SEED) -> Floats:
    """(SMALL_DRAWS, n_vans) how often each van counts in fleets of SMALL_VANS drawn with replacement."""
    return np.random.default_rng(seed).multinomial(SMALL_VANS, np.full(n_vans, 1.0 / n_vans), SMALL_DRAWS).astype(float)


def interval(values: Floats, coverage: float = COVERAGE) -> tuple[float, float]:
    """Percentile interval of the resamples (n_resamples,) that had something to measure; NaN if none had."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)
