"""How a clean trace reaches the service: with retries and late samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.fleet.config import VehicleTrace


def wire_order(
    trace: VehicleTrace,
    rng: np.random.Generator,
    duplicate_share: float = 0.005,
    late_share: float = 0.003,
    latest_samples: int = 24,
) -> NDArray[np.int64]:
    """Row numbers of `trace` in the order of arrival: every row once, some again, some up to `latest_samples` late.

    A duplicate follows its original by one to three arrivals; the rows in between keep their order.
    """
    n = trace.ts_ms.size
    when = np.arange(n, dtype=np.float64)
    late = rng.random(n) < late_share
    when[late] += rng.integers(1, latest_samples + 1, int(late.sum())) + 0.5
    again = np.flatnonzero(rng.random(n) < duplicate_share)
    when_again = when[again] + rng.integers(1, 4, again.size) + 0.25
    rows = np.concatenate((np.arange(n), again))
    return rows[np.argsort(np.concatenate((when, when_again)), kind="stable")]
