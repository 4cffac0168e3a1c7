"""How good forecasts are: sums per independent unit, and figures of any resampling of the units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.evaluation.bootstrap import resample_weights
from model.studies.forecast.scales import Scales
from model.studies.forecast.windows import WARMUP, Task

Floats = NDArray[np.float64]

UNIT_STEPS = 512  # of a unit where there are too few files to resample
LEAST_FILES = 8
LEAST_UNITS = 5  # for an interval
# Sums of a unit, for each horizon and feature: instants; the squared error in the task's units, and that of persistence; in the
# feature's own unit: squared and absolute error, absolute error over the value where that is not zero and how many those
# are, the value, its square.
SUMS = ("n", "z2", "still2", "e2", "e", "share", "shares", "y", "y2")


@dataclass(frozen=True, slots=True)
class Judged:
    """One contender's sums: (n_units, n_horizons, n_features, len(SUMS))."""

    sums: Floats

    def figures(self, weights: Floats) -> dict[str, Floats]:
        """By name: (1 + n_resamples, n_horizons, n_features) for weights (1 + n_resamples, n_units); NaN: nothing to measure."""
        of = dict(zip(SUMS, np.moveaxis(np.tensordot(weights, self.sums, axes=1), -1, 0), strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            mse = of["e2"] / of["n"]
            spread = of["y2"] - of["y"] ** 2 / of["n"]
            figures = {
                "skill": 1.0 - of["z2"] / of["still2"],
                "mse": mse,
                "rmse": np.sqrt(mse),
                "mae": of["e"] / of["n"],
                "mape": 100.0 * of["share"] / of["shares"],
                "r2": 1.0 - of["e2"] / spread,
            }
        return {name: np.where(np.isfinite(values), values, np.nan) for name, values in figures.items()}


def units_of(task: Task) -> tuple[list[NDArray[np.int64]], str]:
    """For each piece the unit (length,) of each step, and what a unit is, as a plural."""
    sources = list(dict.fromkeys(piece.source for piece in task.pieces))
    if len(sources) >= LEAST_FILES:
        return [np.full(len(piece), sources.index(piece.source)) for piece in task.pieces], "files"
    units, first = [], 0
    for piece in task.pieces:
        units.append(first + np.arange(len(piece)) // UNIT_STEPS)
        first = int(units[-1][-1]) + 1
    return units, f"blocks of {UNIT_STEPS} steps"


def judge(task: Task, scales: Scales, moved: Sequence[Floats]) -> Judged:
    """One contender on the judged steps of every piece."""
    units, _ = units_of(task)
    shape = task.unit.shape
    sums = np.zeros((1 + max(int(unit.max()) for unit in units), *shape, len(SUMS)))
    for piece, unit, forecast in zip(task.pieces, units, moved, strict=True):
        target, own = task.targets(piece).reshape(-1, *shape), forecast.reshape(-1, *shape)
        truth = scales.values(piece.held[:, None] + target * task.unit)
        error = scales.values(piece.held[:, None] + own * task.unit) - truth
        share = np.where(truth != 0.0, np.abs(error) / np.where(truth != 0.0, np.abs(truth), 1.0), 0.0)
        known = ~np.isnan(target)
        known[:WARMUP] = False
        columns = (
            np.ones_like(target), (own - target) ** 2, target**2, error**2, np.abs(error), share, truth != 0.0, truth, truth**2,
        )  # fmt: skip
        rows = np.stack([np.where(known, column, 0.0) for column in columns], axis=-1)
        np.add.at(sums, unit, rows)
    return Judged(sums)


def weights_of(n_units: int, n_resamples: int) -> Floats:
    """(1 + n_resamples, n_units) how often each unit counts; of too few units there is nothing to resample: NaN."""
    weights = resample_weights(n_units, n_resamples)
    if n_units < LEAST_UNITS:
        weights[1:] = np.nan
    return weights


def pooled_skill(judged: Mapping[str, Judged], weights: Floats, horizon: int) -> dict[str, Floats]:
    """By contender: (1 + n_resamples,) skill at a horizon of all features together.

    Errors are summed in units of each feature's typical move in the training part: a feature that hardly moves in the
    test part, of which persistence is nearly perfect, cannot decide alone.
    """
    out = {}
    for name, one in judged.items():
        own, still = ((weights @ one.sums[:, horizon, :, SUMS.index(which)]).sum(axis=1) for which in ("z2", "still2"))
        out[name] = 1.0 - own / np.where(still > 0, still, np.nan)
    return out
