"""What several vans need together. Intervals do not add up: their width comes from how far sums were off before.

The error of a sum is put in relation to the root of the summed squares of its vans' half widths, which is what it would grow by
were vans independent. The share of the calibration's days and depots that lay within some multiple of it gives the multiple.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.studies.capacity.forecasts import Spread, conformal_quantile
from model.studies.capacity.panel import Panel, Rows

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the vans of each group on each evening."""

    group: NDArray[np.int64]  # (n,)
    origin: NDArray[np.int64]  # (n,)
    vans: NDArray[np.int64]  # (n,) that were summed
    y: Floats  # (n,) NaN: not known yet
    mean: Floats  # (n,)
    scale: Floats  # (n,) see above

    def interval(self, multiple: float) -> tuple[Floats, Floats]:
        """(n,) each; no sum of energies is negative."""
        return np.maximum(self.mean - multiple * self.scale, 0.0), self.mean + multiple * self.scale

    def covered(self, multiple: float) -> Floats:
        """(n,) 1 where the sum lies inside."""
        low, high = self.interval(multiple)
        return ((self.y >= low) & (self.y <= high)).astype(np.float64)


def sums_of(rows: Rows, spread: Spread, group: NDArray[np.int64]) -> Sums:
    """Sum rows with their forecasts; `group` (n_vans,) says where each van belongs."""
    key = np.stack((group[rows.van], rows.origin), axis=1)
    places, which = np.unique(key, axis=0, return_inverse=True)
    which = which.ravel()

    def total(values: Floats) -> Floats:
        return np.bincount(which, values, minlength=len(places)).astype(np.float64)

    return Sums(
        group=places[:, 0],
        origin=places[:, 1],
        vans=np.bincount(which, minlength=len(places)),
        y=total(rows.y),
        mean=total(spread.mean),
        scale=np.sqrt(total(spread.half_width**2)),
    )


def multiple_of(calibration: Sums, coverage: float) -> float:
    """How many times its scale a sum's interval reaches to either side."""
    known = calibration.scale > 0.0
    if not known.any():
        return 1.0
    return conformal_quantile(np.abs(calibration.y - calibration.mean)[known] / calibration.scale[known], coverage)


def depot_numbers(panel: Panel) -> tuple[NDArray[np.int64], list[str]]:
    """(n_vans,) the number of each van's depot, and the depots' names."""
    names, numbers = np.unique(panel.depots, return_inverse=True)
    return numbers.astype(np.int64), names.tolist()


def one_group(panel: Panel) -> NDArray[np.int64]:
    """(n_vans,) all vans together: the fleet."""
    return np.zeros(len(panel.vehicle_ids), np.int64)
