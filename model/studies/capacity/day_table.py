"""The table of days: a row for each van and local day, in kWh, minutes and kilometres.

What this module does not know: where the days come from, files (`day_file`), forecasts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.studies.capacity.day_sums import AMBIENT, MOTOR, MOTOR_BANDS_C, PACK, PACK_BANDS_C
from model.studies.capacity.depots import at_home, home_of, name_depots
from model.studies.capacity.recorded_days import VehicleDays

Floats = NDArray[np.float64]

MOTOR_MINUTES = tuple(f"motor_min_{band:.0f}" for band in MOTOR_BANDS_C)
PACK_MINUTES = tuple(f"pack_min_{band:.0f}" for band in PACK_BANDS_C)
# name: (least, most, unit); absent values are NaN, in files empty.
COLUMNS: Mapping[str, tuple[float, float, str]] = {
    "samples": (0, 1e12, "1"),
    "dropped": (0, 1e12, "1"),
    "covered_h": (0, 25.1, "h"),
    "moving_h": (0, 25.1, "h"),
    "distance_km": (0, 1e5, "km"),
    "used_kwh": (-1e4, 1e4, "kWh"),
    "charged_kwh": (0, 1e4, "kWh"),
    "depot_kwh": (0, 1e4, "kWh"),
    "charge_end_percent": (0, 100, "%"),
    "motor_max_c": (-60, 300, "degC"),
    "pack_max_c": (-60, 150, "degC"),
    "ambient_max_c": (-60, 70, "degC"),
    "ambient_mean_c": (-60, 70, "degC"),
    **dict.fromkeys((*MOTOR_MINUTES, *PACK_MINUTES), (0, 1_506, "min")),
    "risk_p50": (0, 1, "1"),
    "risk_p95": (0, 1, "1"),
    "risk_max": (0, 1, "1"),
    "alerts": (0, 1e6, "1"),
    "pack_kwh": (1, 2_000, "kWh"),
}


@dataclass(frozen=True, slots=True)
class DayTable:
    """Rows by van, then by day; no van has a day twice."""

    vehicle_id: NDArray[np.str_]  # (n,)
    depot: NDArray[np.str_]  # (n,) of the van
    zone: NDArray[np.str_]  # (n,) in which its days begin
    day: NDArray[np.int64]  # (n,) local, from 1970-01-01
    values: Mapping[str, Floats]  # by COLUMNS, (n,)

    def __len__(self) -> int:
        return len(self.day)

    @property
    def vans(self) -> tuple[str, ...]:
        """By name."""
        return tuple(np.unique(self.vehicle_id).tolist())


def table_of(vehicles: Sequence[VehicleDays], packs: Mapping[str, float], pack_kwh: float) -> DayTable:
    """The days of vehicles in kWh, minutes and kilometres.

    Args:
        vehicles: at least one.
        packs: by vehicle id, kWh.
        pack_kwh: of the vehicles that `packs` does not name.
    """
    homes = [home_of(vehicle.charges) for vehicle in vehicles]
    depots = name_depots(homes)
    values = [
        vehicle_values(vehicle, home, packs.get(vehicle.vehicle_id, pack_kwh))
        for vehicle, home in zip(vehicles, homes, strict=True)
    ]
    counts = [len(vehicle.days) for vehicle in vehicles]
    table = DayTable(
        vehicle_id=np.repeat([vehicle.vehicle_id for vehicle in vehicles], counts),
        depot=np.repeat(depots, counts),
        zone=np.repeat([vehicle.zone for vehicle in vehicles], counts),
        day=np.concatenate([vehicle.days["day"] for vehicle in vehicles]),
        values={name: np.concatenate([part[name] for part in values]) for name in COLUMNS},
    )
    return sorted_table(table)


def vehicle_values(vehicle: VehicleDays, home: tuple[float, float] | None, pack_kwh: float) -> dict[str, Floats]:
    """One vehicle's columns."""
    days, charges = vehicle.days, vehicle.charges
    per_percent = pack_kwh / 100.0
    homely = charges[at_home(charges, home)]
    depot_percent = np.array([homely["percent"][homely["day"] == day].sum() for day in days["day"]])
    if home is None and len(charges):
        depot_percent[:] = np.nan  # it charged, and nobody knows where
    seen = ~np.isnan(days["charge_end"])
    highest, known_s = days["highest"], days["known_s"]

    def minutes(place: int, band: int) -> Floats:
        enough = known_s[:, MOTOR + place] >= 0.5 * days["covered_s"]
        return np.where(enough & (days["covered_s"] > 0), days["above_s"][:, place, band] / 60.0, np.nan)

    risks = [vehicle.risk.get(int(day)) for day in days["day"]]
    risk = np.array([(r.median, r.high, r.highest, r.alerts) if r else (np.nan,) * 4 for r in risks]).reshape(-1, 4)
    ambient_s = known_s[:, AMBIENT]
    columns = {
        "samples": days["samples"],
        "dropped": days["dropped"],
        "covered_h": days["covered_s"] / 3_600.0,
        "moving_h": days["moving_s"] / 3_600.0,
        "distance_km": days["distance_m"] / 1_000.0,
        "used_kwh": np.where(seen, days["used_percent"] * per_percent, np.nan),
        "charged_kwh": np.where(seen, days["charged_percent"] * per_percent, np.nan),
        "depot_kwh": np.where(seen, depot_percent * per_percent, np.nan),
        "charge_end_percent": days["charge_end"],
        "motor_max_c": highest[:, MOTOR],
        "pack_max_c": highest[:, PACK],
        "ambient_max_c": highest[:, AMBIENT],
        "ambient_mean_c": np.divide(days["ambient_ks"], ambient_s, out=np.full(len(days), np.nan), where=ambient_s > 0),
        **{name: minutes(0, i) for i, name in enumerate(MOTOR_MINUTES)},
        **{name: minutes(1, i) for i, name in enumerate(PACK_MINUTES)},
        **{name: risk[:, i] for i, name in enumerate(("risk_p50", "risk_p95", "risk_max", "alerts"))},
        "pack_kwh": np.full(len(days), pack_kwh),
    }
    return {name: np.asarray(column, np.float64) for name, column in columns.items()}


def sorted_table(table: DayTable) -> DayTable:
    """By van and day; of rows of the same van and day the one that covers most."""
    covered = np.nan_to_num(table.values["covered_h"])
    order = np.lexsort((-covered, table.day, table.vehicle_id))
    vehicle_id, day = table.vehicle_id[order], table.day[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (vehicle_id[1:] != vehicle_id[:-1]) | (day[1:] != day[:-1])
    kept = order[first]
    return DayTable(
        table.vehicle_id[kept],
        table.depot[kept],
        table.zone[kept],
        table.day[kept],
        {name: column[kept] for name, column in table.values.items()},
    )


def merged(tables: Sequence[DayTable]) -> DayTable:
    """At least one table as one; depots are those of a van's latest day."""
    table = sorted_table(
        DayTable(
            vehicle_id=np.concatenate([t.vehicle_id for t in tables]),
            depot=np.concatenate([t.depot for t in tables]),
            zone=np.concatenate([t.zone for t in tables]),
            day=np.concatenate([t.day for t in tables]),
            values={name: np.concatenate([t.values[name] for t in tables]) for name in COLUMNS},
        )
    )
    latest = dict(zip(table.vehicle_id.tolist(), table.depot.tolist(), strict=True))
    depot = np.array([latest[van] for van in table.vehicle_id.tolist()])
    return DayTable(table.vehicle_id, depot, table.zone, table.day, table.values)
