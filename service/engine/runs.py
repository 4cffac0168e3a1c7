"""Rows of a batch grouped by vehicle: each vehicle's rows in order, one vehicle after another."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.samples import Samples

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Runs:
    """A grouping of n rows.

    Attributes:
        vehicle_ids: (vehicles,) distinct, in order of first appearance.
        lengths: (vehicles,) rows of each.
        order: (n,) the rows, vehicle after vehicle.
        samples: the rows in that order.
    """

    vehicle_ids: list[str]
    lengths: Rows
    order: Rows
    samples: Samples

    @property
    def owner(self) -> Rows:
        """(n,) place in `vehicle_ids` of each row in order."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def ends(self) -> Rows:
        """(vehicles,) one past each vehicle's last row."""
        return np.cumsum(self.lengths)


def group(samples: Samples) -> Runs:
    """Group rows by vehicle; their order within a vehicle stays."""
    ids = samples.vehicle_ids
    place = {vehicle_id: i for i, vehicle_id in enumerate(dict.fromkeys(ids))}
    n = len(ids)
    if len(place) == n:
        return Runs(ids, np.ones(n, np.int64), np.arange(n), samples)
    owner = np.fromiter((place[vehicle_id] for vehicle_id in ids), np.int64, n)
    order = np.argsort(owner, kind="stable")
    lengths = np.bincount(owner, minlength=len(place))
    return Runs(list(place), lengths.astype(np.int64), order, samples.take(order))
