"""How baselines are tuned: scores of a whole fleet at a few instants of each van, and the AUROC over them."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model.baselines.protocol import Bools
from model.dataset import Trace, TraceSource, processes, run_all

Result = TypeVar("Result")

TUNING_STRIDE = 60  # every five minutes: neighbours say the same


def weighted_auroc(score: NDArray[np.floating], label: Bools, weight: NDArray[np.floating] | None = None) -> float:
    """Area under the receiver operating characteristic, ties counted half; NaN without both classes.

    Args:
        score: (n,) monotone in risk, finite.
        label: (n,).
        weight: (n,) how many instants each stands for; one each when None.
    """
    weight = np.ones(len(score)) if weight is None else weight.astype(np.float64)
    _, rank = np.unique(score, return_inverse=True)
    positive = np.bincount(rank, weight * label)
    negative = np.bincount(rank, weight * ~label)
    if positive.sum() == 0 or negative.sum() == 0:
        return math.nan
    below = np.cumsum(negative) - 0.5 * negative
    return float((positive * below).sum() / positive.sum() / negative.sum())


def spread(n_vehicles: int, most: int) -> list[int]:
    """At most `most` vehicle numbers, evenly spread over a fleet."""
    return sorted(set(np.linspace(0, n_vehicles - 1, min(n_vehicles, most)).round().astype(int).tolist()))


def over_fleet(
    source: TraceSource, vehicles: Sequence[int], reduce: Callable[[Trace, int], Result], workers: int
) -> list[Result]:
    """`reduce(trace, number)` of each of these vehicles, in order, made in `workers` processes.

    `reduce` and `source` must be picklable when `workers` is more than one.
    """
    with processes(min(workers, len(vehicles))) as pool:
        return run_all(pool, partial(_reduce_one, source, reduce), vehicles, "vehicles")


def _reduce_one(source: TraceSource, reduce: Callable[[Trace, int], Result], vehicle: int) -> Result:
    return reduce(source.trace(vehicle), vehicle)
