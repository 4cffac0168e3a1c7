"""How good the forecasts were on the days they were judged on: figures with intervals, contests, and sums of depots."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.evaluation.bootstrap import resample_weights
from model.evaluation.figure_row import Row, count_row, row
from model.evaluation.tables import shown
from model.studies.capacity.depot_sums import Sums, depot_numbers, multiple_of, one_group, sums_of
from model.studies.capacity.forecasts import BoostingPlan
from model.studies.capacity.judged import (
    BOOSTED,
    FIGURES,
    HORIZONS,
    SEASONAL,
    TARGETS,
    Judged,
    Split,
    figures,
    hot_auroc,
    judge,
)
from model.studies.capacity.panel import Panel
from model.studies.contest import Contest

Floats = NDArray[np.float64]

UNITS = {"used_kwh": "kWh", "depot_kwh": "kWh", "pack_min_35": "min", "motor_min_70": "min"}
TITLES = {
    "used_kwh": "energy used",
    "depot_kwh": "energy charged at the depot",
    "pack_min_35": "minutes of the pack at 35 degC or above",
    "motor_min_70": "minutes of the motor at 70 degC or above",
}
AHEAD = {1: "next day", 7: "next seven days"}
HOT = ("pack_min_35", "motor_min_70")
Key = tuple[str, int, str]  # target, horizon, known or new


def where(target: str, horizon: int) -> str:
    """In words."""
    return f"{TITLES[target]}, {AHEAD[horizon]}"


@dataclass(frozen=True, slots=True)
class DepotFigures:
    """Sums over depots and over the fleet on the judged days, of one contender."""

    depots: Sums
    fleet: Sums
    multiple: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Everything measured; arrays are (1 + n_resamples,), the figure itself first."""

    coverage: float  # what intervals are meant to have
    judged: Mapping[tuple[str, int], Judged]
    figures: Mapping[Key, Mapping[str, Mapping[str, Floats]]]  # by figure and contender
    hot: Mapping[tuple[str, int], Mapping[str, Floats]]
    depots: Mapping[int, Mapping[str, DepotFigures]]  # by horizon and contender
    depot_weights: Floats  # (1 + n_resamples, n_depots)

    @property
    def contests(self) -> dict[str, Contest]:
        """By what was forecast: pinball loss on vans that the forecast knows, and the error of depots' sums."""
        found = {
            where(target, horizon): Contest(
                "pinball", {"target": target, "horizon_days": horizon, "vans": "known"},
                self.figures[target, horizon, "known"]["pinball"], higher_is_better=False, unit=UNITS[target],
            )
            for target, horizon in self.judged
        }  # fmt: skip
        for horizon, by_model in self.depots.items():
            values = {name: self.of_depots(depots)["mae"] for name, depots in by_model.items()}
            params = {"target": "depot_kwh", "horizon_days": horizon, "resampled": "depots"}
            found[f"sum of a depot, {AHEAD[horizon]}, kWh, resampling depots"] = Contest(
                "depot_mae", params, values, higher_is_better=False, unit="kWh"
            )
        return found

    @property
    def sizes(self) -> Mapping[str, int]:
        """Rows by part, for the first target."""
        return next(iter(self.judged.values())).sizes if self.judged else {}

    def skill(self, key: Key, figure: str, name: str = BOOSTED, against: str = SEASONAL) -> Floats:
        """(1 + n_resamples,) one minus a contender's loss over that of another one."""
        values = self.figures[key][figure]
        ours, theirs = values[name], values[against]
        share: Floats = np.divide(ours, theirs, out=np.full(len(ours), np.nan), where=theirs > 0)
        return 1.0 - share

    def rows(self) -> list[Row]:
        """Everything as rows of the report."""
        rows = []
        for (target, horizon, vans), by_figure in self.figures.items():
            params = {"target": target, "horizon_days": horizon, "vans": vans}
            for figure in FIGURES:
                if figure == "pinball" and vans == "known":
                    continue  # in the contests
                unit = "1" if figure == "coverage" else UNITS[target]
                rows += [row(figure, {**params, "model": name}, v, unit) for name, v in by_figure[figure].items()]
            rows += [
                row(f"skill_{figure}", {**params, "model": BOOSTED, "against": against},
                    self.skill((target, horizon, vans), figure, against=against))
                for figure in ("mae", "pinball") for against in by_figure[figure] if against != BOOSTED
            ]  # fmt: skip
        for (target, horizon), by_model in self.hot.items():
            params = {"target": target, "horizon_days": horizon, "vans": "known"}
            rows += [row("auroc_hot", {**params, "model": name}, values) for name, values in by_model.items()]
        return rows + [r for r in self.depot_rows() if r["name"] != "depot_mae"]  # which the contests have

    def depot_rows(self) -> list[Row]:
        """Sums of depots, with intervals over depots, and of the fleet, whose days are too few for one."""
        rows = []
        for horizon, by_model in self.depots.items():
            for name, found in by_model.items():
                params = {"target": "depot_kwh", "horizon_days": horizon, "model": name}
                fleet = sum_figures(found.fleet, found.multiple)
                for figure, values in self.of_depots(found).items():
                    unit = "1" if figure == "coverage" else "kWh"
                    rows.append(row(f"depot_{figure}", params, values, unit))
                    rows.append(count_row(f"fleet_{figure}", params, float(fleet[figure].mean()), unit))
        return rows

    def of_depots(self, found: DepotFigures) -> dict[str, Floats]:
        """(1 + n_resamples,) by figure: coverage, width, absolute error."""
        n = self.depot_weights.shape[1]
        count = self.depot_weights @ np.bincount(found.depots.group, minlength=n)
        return {
            figure: (self.depot_weights @ np.bincount(found.depots.group, values, minlength=n)) / np.maximum(count, 1.0)
            for figure, values in sum_figures(found.depots, found.multiple).items()
        }

    def in_words(self) -> list[str]:
        """A sentence on who forecasts better, and one on coverage, for the summary."""
        key = ("used_kwh", 1, "known")
        if key not in self.figures:
            return []
        skill = row("skill", {}, self.skill(key, "pinball"))
        covered = [float(self.figures[k]["coverage"][BOOSTED][0]) for k in self.figures if k[2] == "known"]
        return [
            (
                f"On days that nobody learned from, LightGBM's pinball loss for the next day's energy is lower than that of "
                f"the same weekday last week by a share of {shown(skill, 2)}."
            ),
            (
                f"Of targets judged on vans it knows, {100 * min(covered):.0f} to {100 * max(covered):.0f} % lay inside "
                f"its {100 * self.coverage:.0f} % intervals, by target and horizon."
            ),
        ]


def sum_figures(sums: Sums, multiple: float) -> dict[str, Floats]:
    """(n,) each, of sums whose truth is known."""
    low, high = sums.interval(multiple)
    return {"coverage": sums.covered(multiple), "width": high - low, "mae": np.abs(sums.y - sums.mean)}


def depot_figures(panel: Panel, judged: Judged, name: str, coverage: float) -> DepotFigures:
    """Sums of one contender, their intervals as the calibration's days give them."""
    depot = depot_numbers(panel)[0]
    calibrated, tested = judged.spreads[name]
    multiple = multiple_of(sums_of(judged.calibration, calibrated, depot), coverage)
    depots, fleet = (sums_of(judged.test, tested, group) for group in (depot, one_group(panel)))
    return DepotFigures(depots, fleet, multiple)


def accuracy_of(panel: Panel, split: Split, plan: BoostingPlan, weights: Floats) -> Accuracy:
    """Judge every target at every horizon.

    Args:
        panel: the days.
        split: of the days.
        plan: how trees are grown.
        weights: (1 + n_resamples, n_vans) how often each van counts.

    Raises:
        ValueError: too little is known of every target.
    """
    judged = {
        (t, h): found for t in TARGETS for h in HORIZONS if (found := judge(panel, t, h, split, plan)) is not None
    }
    if not judged:
        raise ValueError("no target is known on enough days of at least two vans")
    depots: dict[int, dict[str, DepotFigures]] = {}
    for (target, horizon), one in judged.items():
        if target == "depot_kwh":
            depots[horizon] = {name: depot_figures(panel, one, name, plan.coverage) for name in one.spreads}
    return Accuracy(
        coverage=plan.coverage,
        judged=judged,
        figures={
            (*key, vans): figures(one, weights, plan.coverage, new=vans == "new")
            for key, one in judged.items()
            for vans in ("known", "new")
        },
        hot={key: hot_auroc(one, weights) for key, one in judged.items() if key[0] in HOT},
        depots=depots,
        depot_weights=resample_weights(len(set(panel.depots)), len(weights) - 1),
    )
