"""Days as a grid of vans and days, and from it rows to learn from: what was known in the evening, and what came after.

A row is a van on the evening of a day (its origin). Its features look at that day and the days before, its target at the
next day or the sum over the next seven. A day of which too little was heard is not known, and neither is a sum over it.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.studies.capacity.day_table import COLUMNS, DayTable
from model.studies.capacity.local_days import iso_day, weekday

Floats = NDArray[np.float64]

WEEK = 7
WEEKS_BACK = 4
USUAL_SHARE = 0.9
MOST_DAYS = 3_660
# What a row's features are made of, beside the target's own past.
DESCRIBED = (
    "used_kwh", "charged_kwh", "depot_kwh", "distance_km", "moving_h", "charge_end_percent", "motor_max_c", "pack_max_c",
    "ambient_max_c", "ambient_mean_c",
)  # fmt: skip
NAIVE = ("last_week", "yesterday", "weekday_mean")


@dataclass(frozen=True, slots=True)
class Panel:
    """The table as a grid."""

    vehicle_ids: tuple[str, ...]
    depots: tuple[str, ...]  # by vehicle
    first_day: int
    values: Mapping[str, Floats]  # by COLUMNS, (n_vans, n_days); NaN: not known

    @property
    def n_days(self) -> int:
        """Days from the first to the last."""
        return int(self.values["covered_h"].shape[1])


def panel_of(table: DayTable, least_hours: float) -> Panel:
    """The grid from the first to the last day that nine tenths of the usual number of vans were heard on.

    A van is heard on a day that its telemetry covers for `least_hours` or more; other days of it are not known. Trimmed like
    this, days that are whole in one time zone and cut off in another do not stand at the ends.

    Raises:
        ValueError: no van has such a day, or they lie ten years apart.
    """
    good = np.flatnonzero(np.nan_to_num(table.values["covered_h"]) >= least_hours)
    if not len(good):
        raise ValueError(f"none of the {len(table.vans)} vans was heard for {least_hours:g} h of any day")
    days, count = np.unique(table.day[good], return_counts=True)
    heard = days[count >= USUAL_SHARE * np.median(count)]
    first, last = int(heard[0]), int(heard[-1])
    if last - first >= MOST_DAYS:
        far = table.vehicle_id[good[np.argmax(table.day[good])]]
        raise ValueError(f"days reach from {iso_day(first)} to {iso_day(last)} ({far}): is a clock wrong?")
    good = good[(table.day[good] >= first) & (table.day[good] <= last)]
    vans = table.vans
    row, column = np.searchsorted(np.array(vans), table.vehicle_id[good]), table.day[good] - first
    values = {name: np.full((len(vans), last - first + 1), np.nan) for name in COLUMNS}
    for name, cells in values.items():
        cells[row, column] = table.values[name][good]
    depot = dict(zip(table.vehicle_id.tolist(), table.depot.tolist(), strict=True))
    return Panel(vans, tuple(depot[van] for van in vans), first, values)


@dataclass(frozen=True, slots=True)
class Rows:
    """Vans on the evenings of days."""

    x: Floats  # (n, n_features), NaN where not known
    names: tuple[str, ...]
    y: Floats  # (n,) the target; NaN: not known, or not yet
    van: NDArray[np.int64]  # (n,) into the panel
    origin: NDArray[np.int64]  # (n,) into the panel's days
    naive: Mapping[str, Floats]  # by NAIVE, (n,) forecasts without learning

    def __len__(self) -> int:
        return len(self.van)

    def take(self, chosen: NDArray[np.bool_]) -> "Rows":
        """Some of them."""
        naive = {name: values[chosen] for name, values in self.naive.items()}
        return Rows(self.x[chosen], self.names, self.y[chosen], self.van[chosen], self.origin[chosen], naive)

    @property
    def judgeable(self) -> NDArray[np.bool_]:
        """(n,) the target and every naive forecast are known."""
        known = np.isfinite(np.stack([self.y, *self.naive.values()]))
        return np.asarray(known.all(axis=0), np.bool_)


def rows_of(panel: Panel, target: str, horizon: int) -> Rows:
    """A row for each van and day from the seventh on.

    Args:
        panel: the days.
        target: one of COLUMNS.
        horizon: days ahead that are summed.
    """
    own = panel.values[target]
    n_vans, n_days = own.shape
    features = {f"{name}_today": panel.values[name] for name in DESCRIBED}
    features |= {f"{name}_week": mean_back(panel.values[name], range(WEEK)) for name in DESCRIBED}
    features |= {f"own_{back}": back_by(own, back) for back in (*range(WEEK), 2 * WEEK - 1)}
    features |= {
        "own_week": mean_back(own, range(WEEK)),
        "own_fortnight": mean_back(own, range(2 * WEEK)),
        "own_four_weeks": mean_back(own, range(WEEKS_BACK * WEEK)),
        "own_highest": np.fmax.reduce([back_by(own, back) for back in range(2 * WEEK)]),
        "own_some": mean_back(np.where(np.isnan(own), np.nan, own > 0.0), range(2 * WEEK)),
        "pack_kwh": panel.values["pack_kwh"],
        "weekday_ahead": np.broadcast_to([weekday(panel.first_day + i + 1) for i in range(n_days)], own.shape),
    }
    naive = naive_forecasts(own, horizon)
    features |= {f"naive_{name}": values for name, values in naive.items()}
    van, origin = (part.ravel() for part in np.indices((n_vans, n_days)))
    rows = Rows(
        x=np.stack([np.asarray(values, np.float64).ravel() for values in features.values()], axis=1),
        names=tuple(features),
        y=sum_ahead(own, horizon).ravel(),
        van=van,
        origin=origin,
        naive={name: values.ravel() for name, values in naive.items()},
    )
    return rows.take((origin >= WEEK - 1) & np.isfinite(rows.naive["weekday_mean"]))


def naive_forecasts(own: Floats, horizon: int) -> dict[str, Floats]:
    """(n_vans, n_days) each: the same weekdays last week, today again, the mean of the same weekdays of four weeks."""
    ahead = range(1, horizon + 1)
    return {
        "last_week": sum(back_by(own, WEEK - day) for day in ahead),  # type: ignore[dict-item]
        "yesterday": horizon * own,
        "weekday_mean": sum(  # type: ignore[dict-item]
            mean_back(own, range(WEEK - day, WEEKS_BACK * WEEK, WEEK)) for day in ahead
        ),
    }


def back_by(values: Floats, days: int) -> Floats:
    """(n_vans, n_days) the value so many days before; NaN before the first."""
    shifted = np.full_like(values, np.nan)
    if days < values.shape[1]:
        shifted[:, days:] = values[:, : values.shape[1] - days]
    return shifted


def mean_back(values: Floats, days: range) -> Floats:
    """(n_vans, n_days) the mean over these many days before, of those that are known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a mean of nothing is NaN, as it should be
        mean: Floats = np.nanmean([back_by(values, day) for day in days], axis=0)
    return mean


def sum_ahead(values: Floats, horizon: int) -> Floats:
    """(n_vans, n_days) the sum over the days after; NaN where one is not known."""
    total = np.full_like(values, np.nan)
    n = values.shape[1] - horizon
    if n > 0:
        total[:, :n] = np.lib.stride_tricks.sliding_window_view(values[:, 1:], horizon, axis=1).sum(axis=2)
    return total
