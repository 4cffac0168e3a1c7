"""Per-vehicle z-scores: streaming mean and variance, shrunk to the fleet prior while young, frozen once settled.

Source: Welford 1962 for the stream; the shrinkage is the posterior mean under a normal-inverse-gamma prior worth
`prior_weight` samples. Frozen, so that slow degradation is not normalised away. Compiled, in place;
`tests/model/preprocess_reference.py` has the same in plain NumPy.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.jit import compiled

Z_LIMIT = 8.0  # z-scores, and what is learned, are clipped to so many deviations: a sensor may be broken


@dataclass(frozen=True, slots=True)
class FleetPrior:
    """What a typical vehicle looks like, from the training fleet; part of the checkpoint.

    Attributes:
        mean: per channel, in the channel's unit.
        std: per channel, positive.
        prior_weight: samples that the prior is worth.
        settled_samples: samples of a channel after which its statistics freeze (17,280 are a day at 5 s).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    prior_weight: float = 86_400.0
    settled_samples: int = 17_280

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels, std has {len(self.std)}")
        if not all(np.isfinite(self.mean)) or not all(np.isfinite(s) and s > 0 for s in self.std):
            raise ValueError("mean must be finite and std finite and positive in every channel")

    @staticmethod
    def from_json(data: dict[str, Any]) -> "FleetPrior":
        """From the checkpoint's plain data."""
        return FleetPrior(**{**data, "mean": tuple(data["mean"]), "std": tuple(data["std"])})


def normaliser_dtype(n_channels: int) -> np.dtype[np.void]:
    """One vehicle's running statistics."""
    return np.dtype([("count", "<u4", (n_channels,)), ("mean", "<f8", (n_channels,)), ("m2", "<f8", (n_channels,))])


@compiled
def advance_normaliser(
    state: Any, channel: int, value: float, prior_mean: float, prior_std: float, prior_weight: float, settled: int
) -> float:
    """Score one value of one channel against the past, then learn from it, in place.

    Args:
        state: one record of `normaliser_dtype`.
        channel: its number.
        value: finite, in the channel's unit.
        prior_mean: the fleet's, as the next three.
        prior_std: positive.
        prior_weight: samples that the prior is worth.
        settled: samples after which nothing is learned any more.

    Returns:
        The z-score under the statistics before this value, clipped to +-Z_LIMIT.
    """
    mean, std = shrunk(state, channel, prior_mean, prior_std, prior_weight)
    if state["count"][channel] < settled:
        # Clipped: one absurd reading that passes the range check must not skew a vehicle's statistics until they freeze.
        learn(state, channel, min(max(value, mean - Z_LIMIT * std), mean + Z_LIMIT * std))
    return min(max((value - mean) / std, -Z_LIMIT), Z_LIMIT)


@compiled
def shrunk(state: Any, channel: int, prior_mean: float, prior_std: float, prior_weight: float) -> tuple[float, float]:
    """Mean and standard deviation of a channel so far, shrunk to the prior."""
    n, k = float(state["count"][channel]), prior_weight
    shift = state["mean"][channel] - prior_mean
    mean = prior_mean + shift * n / (k + n)
    variance = (k * prior_std**2 + state["m2"][channel] + shift**2 * (k * n / (k + n))) / (k + n)
    # A channel that never moved (parked for a day) keeps a tenth of the fleet's spread, or noise would look like news.
    return mean, max(math.sqrt(variance), 0.1 * prior_std)


@compiled
def learn(state: Any, channel: int, value: float) -> None:
    """Welford's update, in place."""
    state["count"][channel] += 1
    delta = value - state["mean"][channel]
    state["mean"][channel] += delta / state["count"][channel]
    state["m2"][channel] += delta * (value - state["mean"][channel])
