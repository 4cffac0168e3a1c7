"""The sections of the report, for a depot planner: words, tables, plots."""

from collections.abc import Mapping

import numpy as np

from model.evaluation.figure_row import row
from model.evaluation.tables import shown, table
from model.studies.capacity.accuracy import AHEAD, HOT, TITLES, Accuracy, where
from model.studies.capacity.day_sums import CHARGE_PERCENT, HOLD_MS, MOTOR_BANDS_C, PACK_BANDS_C
from model.studies.capacity.day_table import DayTable
from model.studies.capacity.fleet_days import fleet_days
from model.studies.capacity.judged import BOOSTED, HORIZONS, HOT_MINUTES, SEASONAL
from model.studies.capacity.local_days import iso_day
from model.studies.capacity.outlook import FLEET, Outlook, depot_energy
from model.studies.capacity.panel import Panel
from model.studies.capacity.plots import plot_days, plot_depots, plot_fleet, plot_skill
from model.studies.report import Section

SHOWN_VANS = 12
SHOWN_DAYS = 7
Outlooks = Mapping[tuple[str, int], Outlook]


def spread_cell(mean: float, low: float, high: float) -> str:
    """A forecast with its interval."""
    return f"{mean:,.0f} ({low:,.0f} to {high:,.0f})"


def depot_section(panel: Panel, days: DayTable, outlooks: Outlooks, coverage: float) -> Section:
    """Energy that each depot and the fleet will be asked for."""
    cells: dict[str, dict[int, str]] = {}
    vans: dict[str, int] = {}
    for one in depot_energy(panel, outlooks, coverage):
        cells.setdefault(one.depot, {})[one.horizon] = spread_cell(one.mean, one.low, one.high)
        vans[one.depot] = one.vans
    last = panel.first_day + panel.n_days - 1
    silent = len(panel.vehicle_ids) - vans.get(FLEET, 0)
    text = (
        f"Energy charged at home, kWh into the packs, with {100 * coverage:.0f} % intervals, from the evening of "
        f"{iso_day(last)}: for {iso_day(last + 1)}, and for the seven days to {iso_day(last + 7)}. A depot is where its vans "
        "stand longest while they charge; its name is its latitude and longitude. Fast charges on the road are not in it."
    )
    if silent:
        text += (
            f" {silent} vans were not heard on the last day, or never charged within sight of a fix: they are left out."
        )
    head = ("depot", "vans", "next day, kWh", "next seven days, kWh")
    body = [(name, str(vans[name]), *(cell.get(h, "-") for h in HORIZONS)) for name, cell in cells.items()]
    plots = [plot_depots(panel, outlooks["depot_kwh", 1], coverage)] if ("depot_kwh", 1) in outlooks else []
    return Section("What the depots need", f"{text}\n\n{table(head, body)}", [*plots, plot_days(days)])


def hot_section(panel: Panel, outlooks: Outlooks, coverage: float) -> Section:
    """The vans that the forecast expects to be hottest."""
    parts = [
        (
            "Expected minutes of the next day and of the next seven days in which the sensor stands above the band, the vans "
            f"with most of them first, with {100 * coverage:.0f} % intervals. A van without the sensor is not listed."
        )
    ]
    for target in HOT:
        today, week = (outlooks.get((target, horizon)) for horizon in HORIZONS)
        if today is None or week is None:
            continue
        in_week = {int(van): i for i, van in enumerate(week.rows.van)}
        body = []
        for i in np.argsort(-today.spread.mean, kind="stable")[:SHOWN_VANS]:
            van = int(today.rows.van[i])
            cells = [
                spread_cell(o.spread.mean[k], o.spread.low[k], o.spread.high[k])
                for o, k in ((today, int(i)), (week, in_week.get(van, -1)))
                if k >= 0
            ]
            body.append([panel.vehicle_ids[van], panel.depots[van], *cells, *["-"] * (2 - len(cells))])
        head = ("van", "depot", "next day, min", "next seven days, min")
        parts.append(f"**{TITLES[target][0].upper()}{TITLES[target][1:]}**\n\n{table(head, body)}")
    return Section("Which vans will be hot", "\n\n".join(parts))


def accuracy_section(panel: Panel, accuracy: Accuracy, coverage: float) -> Section:
    """Who forecasts how well."""
    parts = [
        (
            "Judged on the last days, of which nothing was learned. `last_week` is the same weekday (or the seven days) a week "
            "before, `yesterday` the last day again, `weekday_mean` the mean of the same weekdays of four weeks. Pinball loss is "
            "the mean over the interval's ends and the median: it counts width and misses at once; lower is better. Skill is one "
            "minus the loss over that of `last_week`."
        ),
        losses_table(accuracy, "known"),
        "The same on **vans that nobody learned from** (a fifth of the fleet), on the same days:",
        losses_table(accuracy, "new"),
        f"How well the forecast tells the vans that will be hot ({HOT_MINUTES:.0f} minutes of a day) from others, as AUROC:",
        hot_table(accuracy),
        (
            f"Sums of depots, from the same vans ({100 * coverage:.0f} % intervals; of the fleet there is one sum a day, and the sums "
            "of seven days overlap, so that its share is of very few independent ones):"
        ),
        depot_table(accuracy),
    ]
    return Section(
        "How good the forecasts are", "\n\n".join(parts), [plot_skill(accuracy), plot_fleet(panel, accuracy)]
    )


def losses_table(accuracy: Accuracy, vans: str) -> str:
    """Loss, skill, coverage and width of every contender."""
    body = []
    for (target, horizon, which), by_figure in accuracy.figures.items():
        if which != vans or np.isnan(by_figure["pinball"][BOOSTED][0]):
            continue
        for name in by_figure["pinball"]:
            skill = shown(row("skill", {}, accuracy.skill((target, horizon, which), "pinball", name)), 2)
            figures = [shown(row(f, {}, by_figure[f][name]), 2) for f in ("pinball", "mae")]
            covered, width = shown(row("coverage", {}, by_figure["coverage"][name]), 2), by_figure["width"][name][0]
            words = where(target, horizon) if name == BOOSTED else ""
            body.append(
                [words, name, figures[0], "0" if name == SEASONAL else skill, figures[1], covered, f"{width:,.1f}"]
            )
    head = ("target", "forecast", "pinball", "skill", "mean absolute error", "coverage", "width")
    return table(head, body) if body else "There are none."


def hot_table(accuracy: Accuracy) -> str:
    """AUROC of every contender."""
    names = list(next(iter(accuracy.hot.values()))) if accuracy.hot else []
    body = [
        [where(*key), *(shown(row("auroc", {}, by_model[name]), 2) for name in names)]
        for key, by_model in accuracy.hot.items()
    ]
    return table(("target", *names), body)


def depot_table(accuracy: Accuracy) -> str:
    """Sums of depots and of the fleet."""
    rows = {(r["name"], r["params"]["horizon_days"], r["params"]["model"]): r for r in accuracy.depot_rows()}
    figures = (
        ("depot_mae", 1), ("depot_coverage", 2), ("depot_width", 0), ("fleet_mae", 0), ("fleet_coverage", 2),
        ("fleet_width", 0),
    )  # fmt: skip
    body = [
        [
            AHEAD[horizon] if name == BOOSTED else "",
            name,
            *(shown(rows[figure, horizon, name], digits) for figure, digits in figures),
        ]
        for horizon, by_model in accuracy.depots.items()
        for name in by_model
    ]
    head = (
        "horizon", "forecast", "depot: mean absolute error, kWh", "coverage", "width, kWh",
        "fleet: mean absolute error, kWh", "coverage", "width, kWh",
    )  # fmt: skip
    return table(head, body)


def days_section(days: DayTable) -> Section:
    """The fleet's last days."""
    numbers, columns = fleet_days(days)
    names = {
        "vans": "vans", "used_kwh": "used, kWh", "charged_kwh": "charged, kWh", "depot_kwh": "at home, kWh",
        "distance_km": "km", "pack_min_35": "pack at 35 degC, min", "motor_min_70": "motor at 70 degC, min",
        "alerts": "alerts", "risk_p50": "median risk", "risk_max": "highest risk",
    }  # fmt: skip

    def cell(name: str, i: int) -> str:
        value = columns[name][i]
        if np.isnan(value):
            return "-"
        return f"{value:.2g}" if name.startswith("risk") else f"{value:,.0f}"

    body = [[iso_day(numbers[i]), *(cell(name, i) for name in names)] for i in range(len(numbers))][-SHOWN_DAYS:]
    text = (
        "The last days of the fleet; every day of every van is in `days.csv`, every day of the fleet in `fleet_days.csv`. The "
        "first and the last day are cut off wherever recordings begin or end within them.\n\n"
        + table(("day", *names.values()), body)
    )
    text += (
        "\n\nRisk and alerts (`thermal_risk`, by the service's alert machine) are those of the product's own model over these "
        "recordings, for the last days only unless all were asked for (`--risk-days`, `--full`), from a zero state two days "
        "earlier; or what the service said. A dash: nobody let the model score that day."
    )
    return Section("The days", text)


def notes_section(pack_kwh: float, packs: bool, least_hours: float) -> Section:
    """What figures mean and what they do not."""
    known = "are those of the file of packs, and" if packs else "are not known:"
    bands = ", ".join(f"{band:g}" for band in (*PACK_BANDS_C, *MOTOR_BANDS_C))
    lines = [
        (
            f"**Energy** is read from the state of charge, because every van sends it: a share of the pack, times its kWh. Packs' sizes {known} "
            f"a van without one counts as {pack_kwh:g} kWh. Where that is wrong, the van's kWh are wrong by the same factor. Charger losses are not in it."
        ),
        f"**A charge** is a rise of at least {CHARGE_PERCENT:g} % while the van stands or is not heard; every other change is use, recuperation included.",
        (
            "**A day** begins at local midnight: of the zone given by `--zone`, or of the van's nautical zone, whole hours from UTC by longitude, "
            "without summer time. It is fixed for a van by its first positions, so that driving across a meridian moves no midnight."
        ),
        (
            f"**Minutes and kilometres**: a value stands until the next one of its signal, for at most {HOLD_MS // 1000} s, and the time "
            "between two samples counts for the day of the earlier one; a change of "
            f"charge counts for the day in which it was seen. Bands: {bands} degC (pack, then motor); they are for planning, no limits of anybody's pack."
        ),
        f"**A day is known** when telemetry covers {least_hours:g} h of it. Targets that reach over a day that is not known are left out.",
        (
            "**Intervals** of forecasts: conformal coverage holds on average over vans and days that are like those calibrated on. Days of one "
            "van depend on one another, and weather changes for all vans at once; hence coverage is measured, and not only promised."
        ),
    ]
    return Section("What the figures mean", "\n".join(f"- {line}" for line in lines))
