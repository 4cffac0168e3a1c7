"""How baselines are tuned: a whole fleet, reduced van by van to a few instants of each."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from model.dataset import Trace, TraceSource, processes, run_all

Result = TypeVar("Result")

TUNING_STRIDE = 60  # every five minutes: neighbours say the same


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
