"""Per-vehicle z-scores: streaming mean and variance, shrunk to the fleet prior while young, frozen once settled.

Source: Welford 1962 for the stream; the shrinkage is the posterior mean under a normal-inverse-gamma prior worth
`prior_weight` samples. Frozen, so that slow degradation is not normalised away.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

Z_LIMIT = 8.0  # z-scores are clipped to +-Z_LIMIT: a broken sensor must not blow up the state


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
    prior_weight: float = 8_640.0
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


def advance_normaliser(state: NDArray[np.void], prior: FleetPrior, values: Floats, present: Bools) -> Floats:
    """Score a batch of samples against the past, then learn from them, in place.

    Args:
        state: (batch,) of `normaliser_dtype`.
        prior: the fleet's.
        values: (batch, n_channels), finite wherever a value is wanted.
        present: (batch, n_channels): learn from this value.

    Returns:
        (batch, n_channels) z-scores under the statistics before this sample, clipped to +-Z_LIMIT.
    """
    z = score(state, prior, values)
    learn = present & (state["count"] < prior.settled_samples)
    count = state["count"] + learn
    delta = np.where(learn, values - state["mean"], 0.0)
    mean = state["mean"] + delta / np.maximum(count, 1)
    state["m2"] += delta * np.where(learn, values - mean, 0.0)
    state["mean"] = mean
    state["count"] = count
    return z


def score(state: NDArray[np.void], prior: FleetPrior, values: Floats) -> Floats:
    """Z-scores (batch, n_channels) of `values` under the shrunk statistics."""
    n, k = state["count"].astype(np.float64), prior.prior_weight
    prior_mean, prior_std = np.array(prior.mean), np.array(prior.std)
    shift = state["mean"] - prior_mean
    mean = prior_mean + shift * n / (k + n)
    variance = (k * prior_std**2 + state["m2"] + shift**2 * (k * n / (k + n))) / (k + n)
    # A channel that never moved (parked for a day) keeps a tenth of the fleet's spread, or noise would look like news.
    std = np.maximum(np.sqrt(variance), 0.1 * prior_std)
    z: Floats = np.clip((values - mean) / std, -Z_LIMIT, Z_LIMIT)
    return z
