"""Where vans charge at home, from their charges alone, and which of them share a depot.

A van's home is the place where it stood longest while charging; vans whose homes are near one another share a depot.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HOME_M = 300.0  # of the place itself
DEPOT_M = 2_000.0  # between homes of one depot
METRES_PER_DEGREE = 111_200.0
NOWHERE = "-"


def metres(latitude: Floats, longitude: Floats, from_latitude: float, from_longitude: float) -> Floats:
    """(n,) distances from one place, on a plane: good to a percent over some kilometres away from the poles."""
    east = (longitude - from_longitude) * np.cos(np.deg2rad(from_latitude))
    distance: Floats = METRES_PER_DEGREE * np.hypot(latitude - from_latitude, east)
    return distance


def home_of(charges: NDArray[np.void]) -> tuple[float, float] | None:
    """Latitude and longitude of the charge (CHARGE_DTYPE) around which the van charged longest; None without a fix."""
    known = charges[~np.isnan(charges["latitude"])]
    if not len(known):
        return None
    lasted = (known["end_ms"] - known["start_ms"]).astype(np.float64)
    around = [
        lasted[metres(known["latitude"], known["longitude"], place["latitude"], place["longitude"]) < HOME_M].sum()
        for place in known
    ]
    best = known[int(np.argmax(around))]
    return float(best["latitude"]), float(best["longitude"])


def at_home(charges: NDArray[np.void], home: tuple[float, float] | None) -> NDArray[np.bool_]:
    """(n,) which charges were at home; none when nobody knows where that is."""
    if home is None:
        return np.zeros(len(charges), np.bool_)
    near: NDArray[np.bool_] = metres(charges["latitude"], charges["longitude"], *home) < HOME_M
    return near


def name_depots(homes: Sequence[tuple[float, float] | None]) -> list[str]:
    """A name for each home: the place of the first one of its depot, in degrees; NOWHERE for those that have none."""
    founders: list[tuple[float, float]] = []
    names = []
    for home in homes:
        if home is None:
            names.append(NOWHERE)
            continue
        near = [f for f in founders if float(metres(np.array([f[0]]), np.array([f[1]]), *home)[0]) < DEPOT_M]
        if not near:
            founders.append(home)
            near = [home]
        names.append(f"{near[0][0]:.2f} {near[0][1]:.2f}")
    return names
