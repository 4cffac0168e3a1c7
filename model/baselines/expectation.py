"""How warm motor and pack of a healthy van would be after this load: ridge regression on relaxed loads.

The residual (how much warmer a van is than its load explains) is a feature of the boosted trees.
"""

from dataclasses import dataclass

import numpy as np

from model.baselines.minute_chunks import SERIES, Chunks
from model.baselines.protocol import Floats
from model.baselines.windows import exponential, relaxation

TIME_CONSTANTS_MIN = (2.0, 5.0, 12.0, 30.0, 75.0, 180.0, 600.0)
AMBIENT_MIN = (30.0, 180.0, 1_440.0)
CORE_LOADS = ("force_sq", "power", "speed_sq", "speed", "regen")
RIDGE = 10.0  # in rows: next to nothing beside a fleet
# target: its series; `_full` uses signals that not every van has
TARGETS = {"motor_core": "motor", "motor_full": "motor", "pack_full": "pack"}


def load_bank(chunks: Chunks, *, full: bool) -> Floats:
    """(n_chunks, n_loads) loads relaxed with several time constants; NaN where a van has no such signal."""
    columns = []
    for load in (*CORE_LOADS, "current_sq", "charge_current") if full else CORE_LOADS:
        series = chunks.mean[:, SERIES.index(load)]
        columns += [relaxation(chunks.end_min, series, minutes) for minutes in TIME_CONSTANTS_MIN]
    if full:
        ambient = chunks.mean[:, SERIES.index("ambient")]
        columns += [exponential(chunks.end_min, ambient, minutes) for minutes in AMBIENT_MIN]
    return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True)
class Expectation:
    """One ridge regression; absent loads count as the fleet's mean."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def predict(self, loads: Floats) -> Floats:
        """(n,) expected temperature, degC."""
        z = np.nan_to_num((loads - np.array(self.mean)) / np.array(self.scale))
        expected: Floats = z @ np.array(self.weights) + self.intercept
        return expected


def fit_expectation(loads: Floats, temperature_c: Floats) -> Expectation:
    """Ridge regression of temperatures (n,) on loads (n, n_loads); rows without a temperature are left out.

    A fleet in which nothing of a column is known gets a zero weight for it.
    """
    rows = ~np.isnan(temperature_c)
    loads, target = loads[rows], temperature_c[rows]
    if len(target) == 0:
        width = loads.shape[1]
        return Expectation((0.0,) * width, (1.0,) * width, (0.0,) * width, 0.0)
    known = ~np.isnan(loads)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, loads, 0.0).sum(axis=0) / count
    scale = np.sqrt(np.where(known, (loads - mean) ** 2, 0.0).sum(axis=0) / count)
    scale = np.where(scale > 1e-9, scale, 1.0)
    z = np.nan_to_num((loads - mean) / scale)
    intercept = float(target.mean())
    gram = z.T @ z + RIDGE * np.eye(z.shape[1])
    weights = np.linalg.solve(gram, z.T @ (target - intercept))
    return Expectation(tuple(mean.tolist()), tuple(scale.tolist()), tuple(weights.tolist()), intercept)
