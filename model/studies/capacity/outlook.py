"""The forecast itself: every van's next day and week from the last evening, fitted once more up to the last days."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.studies.capacity.depot_sums import Sums, depot_numbers, multiple_of, one_group, sums_of
from model.studies.capacity.forecasts import BoostedQuantiles, BoostingPlan, Spread
from model.studies.capacity.judged import HORIZONS, Split
from model.studies.capacity.panel import Panel, Rows, rows_of

FLEET = "fleet"


@dataclass(frozen=True, slots=True)
class Outlook:
    """One target at one horizon, from the panel's last evening."""

    target: str
    horizon: int
    rows: Rows  # one for each van that was heard on the last evening
    spread: Spread
    calibration: Rows
    calibration_spread: Spread

    def sums(self, group: NDArray[np.int64], depot: NDArray[np.int64], coverage: float) -> tuple[Sums, float]:
        """Sums over groups (n_vans,), and the multiple of their scale that the depots' past sums give."""
        multiple = multiple_of(sums_of(self.calibration, self.calibration_spread, depot), coverage)
        return sums_of(self.rows, self.spread, group), multiple


@dataclass(frozen=True, slots=True)
class DepotEnergy:
    """What will be charged at one depot, or at all of them (`FLEET`), kWh."""

    horizon: int
    depot: str
    vans: int
    mean: float
    low: float
    high: float


def depot_energy(panel: Panel, outlooks: Mapping[tuple[str, int], Outlook], coverage: float) -> list[DepotEnergy]:
    """By horizon, the depots and then the fleet."""
    depot, names = depot_numbers(panel)
    found = []
    for horizon in HORIZONS:
        outlook = outlooks.get(("depot_kwh", horizon))
        if outlook is None:
            continue
        for group, labels in ((depot, names), (one_group(panel), [FLEET])):
            sums, multiple = outlook.sums(group, depot, coverage)
            low, high = sums.interval(multiple)
            found += [
                DepotEnergy(
                    horizon, labels[sums.group[i]], int(sums.vans[i]), *map(float, (sums.mean[i], low[i], high[i]))
                )
                for i in range(len(sums.group))
            ]
    return found


def look_ahead(
    panel: Panel, targets: tuple[str, ...], horizons: tuple[int, ...], calibration_days: int, plan: BoostingPlan
) -> Mapping[tuple[str, int], Outlook]:
    """By target and horizon; of all vans, learned from every day but the last ones, which set the intervals."""
    last = panel.n_days - 1
    split = Split(last - calibration_days, last, panel.n_days)
    found = {}
    for target in targets:
        for horizon in horizons:
            rows = rows_of(panel, target, horizon)
            train, calibration, _ = split.parts(rows, horizon)
            today = rows.take((rows.origin == last) & np.isfinite(panel.values["covered_h"][rows.van, rows.origin]))
            if len(np.unique(train.van)) < 2 or not len(calibration) or not len(today):
                continue
            boosted = BoostedQuantiles(plan)
            boosted.fit(train, calibration)
            spreads = boosted.predict(today), boosted.predict(calibration)
            found[target, horizon] = Outlook(target, horizon, today, spreads[0], calibration, spreads[1])
    return found
