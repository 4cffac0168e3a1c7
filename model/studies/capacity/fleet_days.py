"""The fleet's days: sums and extremes over the vans of each date."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from model.studies.capacity.day_table import MOTOR_MINUTES, PACK_MINUTES, DayTable
from model.studies.capacity.local_days import iso_day

Floats = NDArray[np.float64]

SUMMED = (
    "samples", "dropped", "covered_h", "moving_h", "distance_km", "used_kwh", "charged_kwh", "depot_kwh",
    *MOTOR_MINUTES, *PACK_MINUTES, "alerts",
)  # fmt: skip
# The quantiles of the vans' own: half of the vans had a median risk below risk_p50, nine of ten had 95 % of their samples
# below risk_p95_of_most.
COLUMNS = ("vans", *SUMMED, "risk_p50", "risk_p95_of_most", "risk_max", "pack_max_c", "motor_max_c")


def fleet_days(table: DayTable) -> tuple[NDArray[np.int64], dict[str, Floats]]:
    """(n_days,) days and COLUMNS; what no van knows is NaN."""
    days, which = np.unique(table.day, return_inverse=True)
    members = [np.flatnonzero(which == i) for i in range(len(days))]

    def over(name: str, figure: Callable[[Floats], float]) -> Floats:
        parts = [table.values[name][rows] for rows in members]
        known = [part[~np.isnan(part)] for part in parts]
        return np.array([figure(part) if len(part) else np.nan for part in known])

    columns = {name: over(name, lambda values: float(values.sum())) for name in SUMMED}
    columns |= {
        name: over(name, lambda values: float(values.max())) for name in ("pack_max_c", "motor_max_c", "risk_max")
    }
    columns |= {
        "vans": np.bincount(which).astype(np.float64),
        "risk_p50": over("risk_p50", lambda values: float(np.median(values))),
        "risk_p95_of_most": over("risk_p95", lambda values: float(np.quantile(values, 0.9))),
    }
    return days, {name: columns[name] for name in COLUMNS}


def write_fleet_days(table: DayTable, path: Path) -> None:
    """As CSV; what is not known is empty."""
    days, columns = fleet_days(table)
    shown = {name: pa.array(np.round(values, 6), from_pandas=True) for name, values in columns.items()}
    dates = pa.array([iso_day(day) for day in days])
    pa.csv.write_csv(pa.table({"date": dates, **shown}), path, pa.csv.WriteOptions(quoting_style="none"))
