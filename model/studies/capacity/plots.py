"""The report's plots."""

import matplotlib.pyplot as plt
import numpy as np

from model.drawing import colour, legend
from model.evaluation.bootstrap import interval
from model.studies.capacity.accuracy import AHEAD, TITLES, Accuracy
from model.studies.capacity.day_table import DayTable
from model.studies.capacity.depot_sums import depot_numbers
from model.studies.capacity.fleet_days import fleet_days
from model.studies.capacity.judged import BOOSTED
from model.studies.capacity.local_days import iso_day
from model.studies.capacity.outlook import Outlook
from model.studies.capacity.panel import Panel
from model.studies.report import Plot

GREY, BAND = "#868e96", "#b2f2bb"


def plot_depots(panel: Panel, outlook: Outlook, coverage: float) -> Plot:
    """Each depot's energy of the next day."""
    depot, names = depot_numbers(panel)
    sums, multiple = outlook.sums(depot, depot, coverage)
    low, high = sums.interval(multiple)
    places = np.arange(len(sums.group))
    figure, axes = plt.subplots(figsize=(6.4, 0.9 + 0.28 * len(places)))
    axes.barh(places, sums.mean, color=BAND)
    axes.errorbar(
        sums.mean, places, xerr=np.abs([low, high] - sums.mean), fmt="none", ecolor=colour(BOOSTED), capsize=3, lw=1.2
    )
    axes.set_yticks(places, [f"{names[group]} ({n} vans)" for group, n in zip(sums.group, sums.vans, strict=True)])
    axes.invert_yaxis()
    axes.set_xlabel(f"kWh to charge at home, next day, {100 * coverage:.0f} % intervals")
    return Plot("depots", "Energy of the next day by depot", figure)


def plot_days(days: DayTable) -> Plot:
    """The fleet's energy and warmth day by day."""
    numbers, columns = fleet_days(days)
    figure, (energy, warmth) = plt.subplots(2, 1, figsize=(7.2, 4.4), sharex=True, gridspec_kw={"hspace": 0.15})
    for name, label, tone in (("used_kwh", "used", "#1971c2"), ("depot_kwh", "charged at home", colour(BOOSTED))):
        energy.plot(numbers, columns[name], lw=1.2, color=tone, label=label)
    for name, label, tone in (
        ("pack_min_35", "pack at 35 degC or above", "#d9480f"),
        ("motor_min_70", "motor at 70 degC or above", "#7048e8"),
    ):
        warmth.plot(numbers, columns[name] / 60.0, lw=1.2, color=tone, label=label)
    energy.set_ylabel("kWh, fleet")
    warmth.set_ylabel("van-hours")
    ticks = numbers[:: max(1, len(numbers) // 6)]
    warmth.set_xticks(ticks, [iso_day(day) for day in ticks])
    legend(energy)
    legend(warmth)
    return Plot("days", "The fleet day by day", figure)


def plot_skill(accuracy: Accuracy) -> Plot:
    """Skill of the boosted trees on vans they know and on new ones."""
    keys = [(target, horizon) for target, horizon, vans in accuracy.figures if vans == "known"]
    figure, axes = plt.subplots(figsize=(6.4, 0.9 + 0.4 * len(keys)))
    for offset, vans, tone in ((-0.14, "known", colour(BOOSTED)), (0.14, "new", GREY)):
        values = [accuracy.skill((*key, vans), "pinball") for key in keys]
        middle = np.array([value[0] for value in values])
        ends = np.array([interval(value[1:]) for value in values]).T
        axes.errorbar(
            middle, np.arange(len(keys)) + offset, xerr=np.abs(ends - middle), fmt="o", ms=4, lw=1.2, capsize=3,
            color=tone, label=f"{vans} vans",
        )  # fmt: skip
    axes.axvline(0.0, color="#ced4da", lw=1)
    axes.set_yticks(range(len(keys)), [f"{TITLES[target]}, {AHEAD[horizon]}" for target, horizon in keys])
    axes.invert_yaxis()
    axes.set_xlim(left=max(-1.0, axes.get_xlim()[0]))
    axes.set_xlabel("skill against the same weekday last week (pinball loss), 95 % intervals over vans")
    legend(axes)
    return Plot("skill", "Skill of the boosted trees", figure)


def plot_fleet(panel: Panel, accuracy: Accuracy) -> Plot:
    """The fleet's energy on the judged days: what came, and what had been forecast the evening before."""
    figure, axes = plt.subplots(figsize=(7.2, 2.8))
    found = accuracy.depots.get(1, {}).get(BOOSTED)
    if found is not None:
        low, high = found.fleet.interval(found.multiple)
        days = panel.first_day + found.fleet.origin + 1
        axes.fill_between(days, low, high, color=BAND, lw=0, label="forecast, interval")
        axes.plot(days, found.fleet.mean, color=colour(BOOSTED), lw=1.2, label="forecast the evening before")
        axes.plot(days, found.fleet.y, "o", ms=4, color="#212529", label="what came")
        axes.set_xticks(days[::3], [iso_day(day) for day in days[::3]])
    axes.set_ylabel("kWh charged at home, fleet")
    legend(axes)
    return Plot("fleet", "The fleet's energy on the judged days", figure)
