"""Records copied whole, as bytes.

NumPy copies structured records field by field, and works out how for every call: 40 us for one head and 315 us for 240, where
their bytes take 0.2 and 5 us. Field by field says nothing more where both sides are of one dtype without gaps (`record_dtype`).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Records = NDArray[np.void]
Places = NDArray[np.int64] | NDArray[np.bool_]


@cache
def _opaque(size: int) -> np.dtype[np.void]:
    return np.dtype((np.void, size))


def taken(records: Records, places: Places) -> Records:
    """Copies of the records (n,) at these places."""
    return records.view(_opaque(records.dtype.itemsize))[places].view(records.dtype)


def copied(records: Records) -> Records:
    """A copy of records (n,)."""
    return records.view(_opaque(records.dtype.itemsize)).copy().view(records.dtype)


def put(records: Records, places: Places, others: Records) -> None:
    """Write others (places,) to these places of records (n,), in place.

    Raises:
        ValueError: they are of another dtype.
    """
    if others.dtype != records.dtype:
        raise ValueError(f"records of {others.dtype} do not go into {records.dtype}")
    records.view(_opaque(records.dtype.itemsize))[places] = others.view(_opaque(others.dtype.itemsize))
