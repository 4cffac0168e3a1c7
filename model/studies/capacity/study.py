"""`emberwatch study capacity`: from telemetry, the service's trend or earlier days to the depot planner's report."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.evaluation.bootstrap import RESAMPLES, SEED, resample_weights
from model.evaluation.figure_row import Row, count_row, number
from model.studies.capacity.accuracy import Accuracy, accuracy_of
from model.studies.capacity.day_file import read_history, read_packs, write_days
from model.studies.capacity.day_table import DayTable, merged, table_of
from model.studies.capacity.fleet_days import write_fleet_days
from model.studies.capacity.forecasts import BoostingPlan
from model.studies.capacity.judged import HORIZONS, TARGETS, Split, new_vans, split_days
from model.studies.capacity.local_days import civil, iso_day
from model.studies.capacity.outlook import FLEET, Outlook, depot_energy, look_ahead
from model.studies.capacity.pages import accuracy_section, days_section, depot_section, hot_section, notes_section
from model.studies.capacity.panel import Panel, panel_of
from model.studies.capacity.recorded_days import read_days
from model.studies.capacity.trend_days import fired_by_van, trend_days
from model.studies.report import Judgement, StudyReport

logger = logging.getLogger(__name__)

FULL_BAG, FULL_TREES = 5, 2_000


@dataclass(frozen=True, slots=True)
class CapacitySettings:
    """What the command line asks for.

    Raises:
        ValueError: a value that cannot be.
    """

    data: Path | None = None  # folder of recordings
    history: Path | None = None  # days of an earlier run
    service: str = ""  # where `Heard` came from, for the report
    packs: Path | None = None  # kWh by van
    pack_kwh: float = 50.0  # of the other vans
    zone: str | None = None  # IANA name; None: every van's nautical zone
    least_hours: float = 18.0  # of a day that must be covered for it to be known
    test_days: int = 14
    calibration_days: int = 14
    coverage: float = 0.9
    risk_days: int | None = 7  # the last ones, which the product's model scores; 0: none, None: all
    full: bool = False
    seed: int = 0
    resamples: int = RESAMPLES
    workers: int = 2
    days_out: Path | None = None  # folder of days.csv and fleet_days.csv

    def __post_init__(self) -> None:
        if not 0.5 <= self.coverage < 1.0:
            raise ValueError(f"coverage must lie in [0.5, 1), got {self.coverage}")
        if not 0.0 < self.least_hours <= 23.0:
            raise ValueError(f"least hours must lie in (0, 23], got {self.least_hours}")
        if self.risk_days is not None and self.risk_days < 0:
            raise ValueError(f"risk days must not be negative, got {self.risk_days}")
        if not 1.0 <= self.pack_kwh <= 2_000.0:
            raise ValueError(f"the pack must have 1 to 2,000 kWh, got {self.pack_kwh}")

    def plan(self) -> BoostingPlan:
        """How trees are grown."""
        plan = BoostingPlan(coverage=self.coverage, seed=self.seed)
        return replace(plan, bag=FULL_BAG, most_trees=FULL_TREES) if self.full else plan


@dataclass(frozen=True, slots=True)
class Heard:
    """What a running service answered: trends of vehicles, and the list of alerts."""

    trends: Iterable[Mapping[str, Any]] = ()  # gone through once
    alerts: Iterable[Mapping[str, Any]] = ()


def run(settings: CapacitySettings, device: torch.device, heard: Heard | None = None) -> StudyReport:
    """The whole study. `device` is not used: trees and sums run on the CPU, and so does the model's risk.

    Raises:
        OwnDataError, ValueError: data that cannot be used, with file, row and column; no data at all.
    """
    del device
    table = gather(settings, heard or Heard())
    if settings.days_out is not None:
        settings.days_out.mkdir(parents=True, exist_ok=True)
        write_days(table, settings.days_out / "days.csv")
        write_fleet_days(table, settings.days_out / "fleet_days.csv")
    panel = panel_of(table, settings.least_hours)
    try:
        split = split_days(panel.n_days, settings.test_days, settings.calibration_days)
    except ValueError as error:
        return days_only(settings, table, panel, str(error))
    weights = resample_weights(len(panel.vehicle_ids), settings.resamples, SEED)
    accuracy = accuracy_of(panel, split, settings.plan(), weights)
    outlooks = look_ahead(panel, TARGETS, HORIZONS, settings.calibration_days, settings.plan())
    return with_forecasts(settings, table, panel, split, accuracy, outlooks)


def gather(settings: CapacitySettings, heard: Heard) -> DayTable:
    """The days of all sources as one table; of a van's day told twice, the fuller one."""
    packs = {} if settings.packs is None else read_packs(settings.packs)
    tables = [] if settings.history is None else [read_history(settings.history)]
    vehicles = []
    if settings.data is not None:
        vehicles += read_days(settings.data, zone=settings.zone, risk_days=settings.risk_days, workers=settings.workers)
    clock = None if settings.zone is None else civil(settings.zone)
    fired = fired_by_van(heard.alerts)
    vehicles += [trend_days(trend, fired.get(str(trend.get("vehicle_id")), ()), clock) for trend in heard.trends]
    vehicles = [vehicle for vehicle in vehicles if len(vehicle.days)]
    if vehicles:
        tables.append(table_of(vehicles, packs, settings.pack_kwh))
    if not tables:
        raise ValueError("there is nothing to look at: give --data, --history or --service")
    strangers = sorted(set(packs) - {vehicle.vehicle_id for vehicle in vehicles})
    if strangers:
        logger.warning("%s names vans that sent nothing: %s", settings.packs, ", ".join(strangers[:10]))
    return merged(tables)


def with_forecasts(
    settings: CapacitySettings,
    table: DayTable,
    panel: Panel,
    split: Split,
    accuracy: Accuracy,
    outlooks: Mapping[tuple[str, int], Outlook],
) -> StudyReport:
    """The report where there are days enough."""
    return replace(
        days_only(settings, table, panel, ""),
        summary=summary(panel, accuracy, outlooks, settings),
        splits=described_splits(panel, split, accuracy),
        judgements=[Judgement(contest, words, 2) for words, contest in accuracy.contests.items()],
        rows=[*accuracy.rows(), *outlook_rows(panel, outlooks, settings.coverage), *day_rows(table)],
        sections=[
            depot_section(panel, table, outlooks, settings.coverage),
            hot_section(panel, outlooks, settings.coverage),
            accuracy_section(panel, accuracy, settings.coverage),
            days_section(table),
            notes_section(settings.pack_kwh, settings.packs is not None, settings.least_hours),
        ],
    )


def days_only(settings: CapacitySettings, table: DayTable, panel: Panel, why: str) -> StudyReport:
    """The report where there are too few days for forecasts; `why` says how many it takes."""
    return StudyReport(
        study="capacity",
        title="The daily view: what the depot needs",
        summary=f"Daily aggregates of {len(panel.vehicle_ids)} vans. No forecast: {why}.",
        data=described_data(settings, table, panel),
        splits={},
        seeds={"trees": settings.seed, "resamples": SEED},
        resampled="vans",
        resamples=settings.resamples,
        settings={name: str(v) if isinstance(v, Path) else v for name, v in asdict(settings).items()},
        judgements=(),
        rows=day_rows(table),
        sections=[
            days_section(table),
            notes_section(settings.pack_kwh, settings.packs is not None, settings.least_hours),
        ],
    )


def described_data(settings: CapacitySettings, table: DayTable, panel: Panel) -> dict[str, str | float]:
    """What was read."""
    sources = [settings.data, settings.history, settings.service]
    zones = np.unique(table.zone).tolist()
    return {
        "sources": ", ".join(str(source) for source in sources if source),
        "vans": len(panel.vehicle_ids),
        "van-days": len(table),
        "van-days that are known": int(np.isfinite(panel.values["covered_h"]).sum()),
        "samples": float(np.nansum(table.values["samples"])),
        "samples dropped as repeated or late": float(np.nansum(table.values["dropped"])),
        "first and last day": f"{iso_day(panel.first_day)} to {iso_day(panel.first_day + panel.n_days - 1)}",
        "days begin at midnight of": ", ".join(zones[:12]) + (" ..." if len(zones) > 12 else ""),
        "depots": len(set(panel.depots)),
        "pack, kWh": f"{np.nanmin(table.values['pack_kwh']):g} to {np.nanmax(table.values['pack_kwh']):g}",
        "van-days with risk and alerts": int(np.isfinite(table.values["alerts"]).sum()),
    }


def described_splits(panel: Panel, split: Split, accuracy: Accuracy) -> dict[str, dict[str, str | float]]:
    """Days, vans and rows of each part, the rows for the next day's energy."""
    new = new_vans(panel)
    spans = {
        "learned": (0, split.learned),
        "calibrated": (split.learned + 1, split.calibrated),
        "judged": (split.calibrated + 1, panel.n_days - 1),
    }
    sizes = accuracy.sizes
    return {
        name: {
            "targets from": iso_day(panel.first_day + first),
            "to": iso_day(panel.first_day + last),
            "days": last - first + 1,
            "vans": len(new) if name == "judged" else int((~new).sum()),
            "of them new": int(new.sum()) if name == "judged" else 0,
            "van-days (energy, next day)": sizes.get(name, 0),
        }
        for name, (first, last) in spans.items()
    }


def summary(
    panel: Panel, accuracy: Accuracy, outlooks: Mapping[tuple[str, int], Outlook], settings: CapacitySettings
) -> str:
    """What was asked and what came out."""
    parts = [
        (
            "What energy does the depot need tomorrow and next week, and which vans will be hot? Daily aggregates of "
            f"{len(panel.vehicle_ids)} vans over {panel.n_days} days; LightGBM on their past days, with conformal "
            f"{100 * settings.coverage:.0f} % intervals, against the same weekday last week and two other forecasts without learning."
        )
    ]
    for one in depot_energy(panel, outlooks, settings.coverage):
        if one.depot == FLEET:
            words = "Tomorrow" if one.horizon == 1 else "Over the next seven days"
            parts.append(f"{words} the depots are asked for {one.mean:,.0f} kWh ({one.low:,.0f} to {one.high:,.0f}).")
    parts += accuracy.in_words()
    return " ".join(parts)


def outlook_rows(panel: Panel, outlooks: Mapping[tuple[str, int], Outlook], coverage: float) -> list[Row]:
    """The depots' energy ahead as rows; lo and hi are those of the forecast's interval."""
    return [
        count_row(
            "forecast_depot_energy",
            {"horizon_days": one.horizon, "depot": one.depot, "vans": one.vans},
            one.mean,
            "kWh",
        )
        | {"lo": number(one.low), "hi": number(one.high)}
        for one in depot_energy(panel, outlooks, coverage)
    ]


def day_rows(table: DayTable) -> list[Row]:
    """What the whole span was, as rows."""
    units = {"used_kwh": "kWh", "charged_kwh": "kWh", "depot_kwh": "kWh", "distance_km": "km"}
    totals = {name: float(np.nansum(table.values[name])) for name in units}
    return [count_row(f"total_{name}", {}, totals[name], unit) for name, unit in units.items()]
