"""What each van is meant to do each day: when it leaves, where to, how many stops, how loaded, where it charges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.fleet.depots import DAY_MS, Depot, local_day_start_ms

DAY_PLAN = np.dtype(
    [
        ("works", "i8"),
        ("depart_s", "f8"),  # seconds since the start of the trace
        ("home_s", "f8"),  # no further stop after this
        ("stops", "i8"),
        ("area_x_m", "f8"),  # centre of the delivery area from the depot, along the street grid
        ("area_y_m", "f8"),
        ("area_radius_m", "f8"),
        ("spacing_m", "f8"),  # mean distance between stops
        ("city_mps", "f8"),
        ("highway_mps", "f8"),
        ("payload_kg", "f8"),
        ("trailer_kg", "f8"),
        ("fast_charge_at", "i8"),  # stops left when the van fast charges on the road; -1 never
        ("charge_to", "f8"),  # state of charge to leave the AC charger with, 0 to 1
    ]
)

# name: (share of vans, stops per round, stem km, spacing m, area radius m, city m/s, highway m/s, share that fast charges daily)
PROFILES = {
    "parcel": (0.45, (90, 170), (4, 18), 480.0, 3_000.0, 12.0, 23.0, 0.5),
    "grocery": (0.25, (24, 44), (4, 18), 2_200.0, 6_000.0, 14.5, 25.0, 0.65),
    "regional": (0.30, (9, 18), (15, 38), 7_500.0, 16_000.0, 17.0, 27.0, 0.85),
}


def draw_day_plans(depot: Depot, start_ms: int, days: float, rng: np.random.Generator) -> NDArray[np.void]:
    """(n_days,) DAY_PLAN of one van, from the local midnight at or before the start to past the end of the trace."""
    shares = [profile[0] for profile in PROFILES.values()]
    _, stops, stem_km, spacing, radius, city, highway, fast_days = list(PROFILES.values())[
        int(rng.choice(len(shares), p=shares))
    ]
    midnight_ms = local_day_start_ms(depot, start_ms)
    n_days = int(days + 2.0 / 24) + 2
    plan = np.zeros(n_days, DAY_PLAN)
    # Habits: a van mostly does today what it did yesterday, so its past says something about its next hours.
    habitual_start_h = rng.uniform(5.5, 10.5)
    habitual_stops, habitual_stem_km = rng.integers(*stops), rng.uniform(*stem_km)
    habitual_payload_kg = rng.uniform(350.0, 1_250.0)
    charges_on_the_road = rng.random() < fast_days
    charge_after = rng.uniform(0.2, 0.6)  # share of the stops left when it does
    bearing = rng.uniform(0, 2 * np.pi)
    for i in range(n_days):
        weekday = ((midnight_ms + depot.utc_offset_ms) // DAY_MS + i + 3) % 7  # 1970-01-01 was a Thursday; 0 = Monday
        day = plan[i]
        day["works"] = rng.random() < (0.95 if weekday < 5 else 0.55 if weekday == 5 else 0.08)
        day["depart_s"] = (
            (midnight_ms - start_ms) / 1_000 + i * 86_400 + 3_600 * (habitual_start_h + rng.normal(0, 0.3))
        )
        day["home_s"] = day["depart_s"] + 3_600 * rng.uniform(7.0, 9.5)
        day["stops"] = round(habitual_stops * rng.uniform(0.85, 1.15))
        bearing += rng.normal(0, 0.1)
        stem_m = 1_000 * habitual_stem_km * rng.uniform(0.85, 1.15)
        day["area_x_m"], day["area_y_m"] = stem_m * np.cos(bearing), stem_m * np.sin(bearing)
        day["area_radius_m"], day["spacing_m"] = radius, spacing * rng.uniform(0.8, 1.25)
        day["city_mps"], day["highway_mps"] = city, highway * rng.uniform(0.92, 1.12)
        day["payload_kg"] = habitual_payload_kg * rng.uniform(0.7, 1.2)
        day["trailer_kg"] = rng.uniform(600.0, 1_700.0) if rng.random() < 0.03 else 0.0
        fast = rng.random() < (0.9 if charges_on_the_road else 0.04)
        day["fast_charge_at"] = int(day["stops"] * charge_after * rng.uniform(0.85, 1.15)) if fast else -1
        day["charge_to"] = 1.0 if rng.random() < 0.5 else rng.uniform(0.8, 0.95)
    return plan
