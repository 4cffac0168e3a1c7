"""From true temperatures to events, and from events to the label of each instant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.fleet.limits import (
    CELL_HYSTERESIS_K,
    DRIVE_HYSTERESIS_K,
    EVENT_MERGE_S,
    HOT_CELL_LIMIT_C,
    INVERTER_LIMIT_C,
    LABEL_HORIZON_S,
    MOTOR_WINDING_LIMIT_C,
    SAMPLE_PERIOD_S,
)
from model.jit import entry_point

LIMITS_C = np.array([HOT_CELL_LIMIT_C, MOTOR_WINDING_LIMIT_C, INVERTER_LIMIT_C])
HYSTERESIS_K = np.array([CELL_HYSTERESIS_K, DRIVE_HYSTERESIS_K, DRIVE_HYSTERESIS_K])


@entry_point
def over_limit(
    temperatures_c: NDArray[np.float64], limits_c: NDArray[np.float64], hysteresis_k: NDArray[np.float64]
) -> NDArray[np.int8]:
    """(n,) -1 where nothing is over its limit, else the first column that is, of `temperatures_c` (n, k).

    A column counts as over from reaching its limit until it is `hysteresis_k` below.
    """
    n, k = temperatures_c.shape
    over = np.zeros(k, np.bool_)
    first = np.full(n, -1, np.int8)
    for i in range(n):
        for j in range(k):
            if temperatures_c[i, j] >= limits_c[j]:
                over[j] = True
            elif temperatures_c[i, j] < limits_c[j] - hysteresis_k[j]:
                over[j] = False
        for j in range(k):
            if over[j]:
                first[i] = j
                break
    return first


def find_events(
    temperatures_c: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
    """Events in `temperatures_c` (n, 3): hottest cell, motor winding, inverter, at the sample period.

    Returns (starts, ends, causes), each (n_events,): sample indices, the end exclusive, and the column that crossed first.
    Crossings less than half an hour apart are one event.
    """
    first = over_limit(temperatures_c, LIMITS_C, HYSTERESIS_K)
    edges = np.diff(np.concatenate(([0], (first >= 0).astype(np.int8), [0])))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if starts.size == 0:
        return starts, ends, np.zeros(0, np.int8)
    apart = (starts[1:] - ends[:-1]) * SAMPLE_PERIOD_S >= EVENT_MERGE_S
    starts = starts[np.concatenate(([True], apart))]
    ends = ends[np.concatenate((apart, [True]))]
    return starts, ends, first[starts]


def label_instants(
    starts: NDArray[np.int64], ends: NDArray[np.int64], n: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(label, valid), each (n,): an event starts within the next two hours; no event is going on.

    The label at an event's own first instant is that of the next event, and not valid.
    """
    horizon = LABEL_HORIZON_S // SAMPLE_PERIOD_S
    instants = np.arange(n)
    following = np.searchsorted(starts, instants, side="right")
    ahead = np.concatenate((starts, [np.iinfo(np.int64).max // 2]))[following] - instants
    before = following - 1
    ongoing = (before >= 0) & (instants < np.concatenate((ends, [0]))[before])
    return ahead <= horizon, ~ongoing
