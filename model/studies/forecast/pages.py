"""What the study found, as a report: who won, by how much, and what R2 hides."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.drawing import colour, legend
from model.evaluation.figure_row import Row, count_row, row
from model.evaluation.tables import shown, table
from model.studies.contest import Contest
from model.studies.forecast.judging import LEAST_UNITS, Judged, pooled_skill
from model.studies.forecast.windows import WARMUP
from model.studies.report import Judgement, Plot, Section, StudyReport

Floats = NDArray[np.float64]

STILL = "persistence"
UNITS = {"mape": "%"}
MOST_SHOWN = 5  # features in a plot
SUMMARY = """Every contender sees the past and says how far each feature will have moved. The headline is skill over persistence: the
share of the squared error of "nothing changes" that a forecast takes away, on the scale that is learned (z-scores, after
logarithms where they are taken; all features together in units of their typical moves). Zero is no better than repeating the last value, one is perfect. Persistence alone reaches an
R2 of {least:.4f} to {most:.4f} on levels, {ahead}: an R2 near one says that a series is smooth, not that it was
forecast. At {last} steps {best} is first, {beaten}."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A stretch of the test part and what was forecast of it."""

    source: str
    first: int  # step of the first value
    steps: int  # ahead
    truth: Floats  # (n, n_features); NaN: not measured
    forecasts: Mapping[str, Floats]  # by contender, (n, n_features)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that was measured."""

    names: tuple[str, ...]
    step_s: float
    horizons: tuple[int, ...]
    judged: Mapping[str, Judged]  # by contender
    weights: Floats  # (1 + n_resamples, n_units)
    resampled: str  # what the units are
    parameters: Mapping[str, int]
    seconds: Mapping[str, float]  # of fitting
    order: int  # of the autoregression
    trace: Trace

    def ahead(self, horizon: int) -> str:
        """A horizon in words."""
        steps = self.horizons[horizon]
        return f"{steps} {'step' if steps == 1 else 'steps'} ({span(steps * self.step_s)}) ahead"


def span(seconds: float) -> str:
    """A time in words."""
    for size, unit in ((3_600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def report(
    outcome: Outcome,
    settings: Mapping[str, Any],
    data: Mapping[str, str | float],
    splits: Mapping[str, Mapping[str, str | float]],
    seed: int,
) -> StudyReport:
    """The whole report."""
    rows = {(r["name"], *r["params"].values()): r for r in figure_rows(outcome)}
    contests = [
        Contest("skill", {"feature": "all", "steps": steps}, pooled_skill(outcome.judged, outcome.weights, h), True)
        for h, steps in enumerate(outcome.horizons)
    ]
    return StudyReport(
        study="forecast",
        title="Forecasts from long contexts",
        summary=_summary(outcome, contests, rows),
        data=data,
        splits=splits,
        seeds={"networks, windows and generated data": seed},
        resampled=f"{outcome.resampled} of the test part"
        + (" (too few for intervals)" if outcome.weights.shape[1] < LEAST_UNITS else ""),
        resamples=len(outcome.weights) - 1,
        settings=settings,
        judgements=[Judgement(contest, f"all features, {outcome.ahead(h)}") for h, contest in enumerate(contests)],
        rows=[*rows.values(), *_costs(outcome)],
        sections=(
            Section(
                "Skill over persistence",
                _skills(outcome, rows),
                (Plot("skill", "Skill over persistence", _bars(outcome, rows)),),
            ),
            Section("What R2 on levels says", _levels(outcome, rows)),
            Section("All figures", _figures(outcome, rows)),
            Section(
                "An example",
                f"{outcome.trace.source}, {outcome.trace.steps} steps ahead, from step {outcome.trace.first} on.",
                (Plot("example", "The test part and what was forecast of it", _example(outcome)),),
            ),
            Section("What was fitted", _contenders(outcome)),
        ),
    )


def figure_rows(outcome: Outcome) -> Iterator[Row]:
    """Every figure of every contender, feature and horizon."""
    for model, judged in outcome.judged.items():
        for name, values in judged.figures(outcome.weights).items():
            for h, steps in enumerate(outcome.horizons):
                for f, feature in enumerate(outcome.names):
                    params = {"model": model, "feature": feature, "steps": steps}
                    yield row(name, params, values[:, h, f], UNITS.get(name, "1"))


def _costs(outcome: Outcome) -> Iterator[Row]:
    for model, seconds in outcome.seconds.items():
        yield count_row("fit_seconds", {"model": model}, round(seconds, 1), "s")
    for model, parameters in outcome.parameters.items():
        yield count_row("parameters", {"model": model}, parameters)


def _summary(outcome: Outcome, contests: list[Contest], rows: Mapping[tuple[Any, ...], Row]) -> str:
    still = [rows["r2", STILL, feature, outcome.horizons[0]]["value"] for feature in outcome.names]
    levels = [value for value in still if value is not None]
    best = contests[-1].order[0] if contests[-1].order else STILL
    beaten = STILL in contests[-1].told_apart()
    return SUMMARY.format(
        least=min(levels, default=math.nan),
        most=max(levels, default=math.nan),
        ahead=outcome.ahead(0),
        last=outcome.horizons[-1],
        best=best,
        beaten="and ahead of persistence beyond chance"
        if beaten
        else "and nobody is ahead of persistence beyond chance",
    )


def _skills(outcome: Outcome, rows: Mapping[tuple[Any, ...], Row]) -> str:
    body = [
        [f"{outcome.ahead(h)}", model, *(shown(rows["skill", model, feature, steps]) for feature in outcome.names)]
        for h, steps in enumerate(outcome.horizons)
        for model in outcome.judged
        if model != STILL
    ]
    return table(("horizon", "model", *outcome.names), body)


def _levels(outcome: Outcome, rows: Mapping[tuple[Any, ...], Row]) -> str:
    steps = outcome.horizons[0]
    body = [
        [model, *(shown(rows["r2", model, feature, steps], 5) for feature in outcome.names)] for model in outcome.judged
    ]
    return f"R2 in the features' own units, {outcome.ahead(0)}.\n\n" + table(("model", *outcome.names), body)


def _figures(outcome: Outcome, rows: Mapping[tuple[Any, ...], Row]) -> str:
    names = ("mse", "rmse", "mae", "mape", "r2")
    body = [
        [feature, str(steps), model, *(_short(rows[name, model, feature, steps]["value"]) for name in names)]
        for feature in outcome.names
        for steps in outcome.horizons
        for model in outcome.judged
    ]
    text = (
        "In the features' own units; MAPE in per cent, over the values that are not zero. Intervals are in report.json. Judged is every measured "
        f"step of the test part from the {WARMUP + 1}th of its segment on, once.\n\n"
    )
    return text + table(("feature", "steps", "model", "MSE", "RMSE", "MAE", "MAPE", "R2"), body)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _contenders(outcome: Outcome) -> str:
    body = [
        [model, _size(outcome, model), f"{outcome.seconds[model]:.0f}" if model in outcome.seconds else "-"]
        for model in outcome.judged
    ]
    return table(("model", "size", "seconds to fit"), body)


def _size(outcome: Outcome, model: str) -> str:
    if model in outcome.parameters:
        return f"{outcome.parameters[model]:,} parameters"
    return f"order {outcome.order}, chosen on validation" if model == "autoregression" else "the last value"


def _bars(outcome: Outcome, rows: Mapping[tuple[Any, ...], Row]) -> Figure:
    names, models = outcome.names[:MOST_SHOWN], [model for model in outcome.judged if model != STILL]
    figure, grid = plt.subplots(
        1, len(outcome.horizons), figsize=(2.8 * len(outcome.horizons), 2.8), sharey=True, squeeze=False
    )
    width = 0.8 / len(models)
    for h, (axes, steps) in enumerate(zip(grid[0], outcome.horizons, strict=True)):
        for m, model in enumerate(models):
            known = [rows["skill", model, feature, steps] for feature in names]
            value, low, high = (
                np.array([np.nan if r[key] is None else r[key] for r in known]) for key in ("value", "lo", "hi")
            )
            reach = np.maximum(np.stack((value - low, high - value)), 0.0)
            at = np.arange(len(names)) + (m - (len(models) - 1) / 2) * width
            axes.bar(at, value, width, yerr=reach, color=_colour(model), label=model, error_kw={"lw": 0.7})
        axes.axhline(0.0, color="#495057", lw=0.8)
        axes.set_xticks(np.arange(len(names)), [name.replace("_", " ") for name in names], fontsize=7, rotation=20)
        axes.set_title(outcome.ahead(h), fontsize=8)
    grid[0, 0].set_ylabel("skill over persistence")
    legend(grid[0, 0])
    return figure


def _example(outcome: Outcome) -> Figure:
    trace, names = outcome.trace, outcome.names[:MOST_SHOWN]
    figure, grid = plt.subplots(len(names), 1, figsize=(8.0, 1.6 * len(names)), sharex=True, squeeze=False)
    steps = trace.first + np.arange(len(trace.truth))
    for f, axes in enumerate(grid[:, 0]):
        axes.plot(steps, trace.truth[:, f], color="#212529", lw=1, label="measured")
        for model in (STILL, *outcome.parameters):
            axes.plot(steps, trace.forecasts[model][:, f], lw=0.8, color=_colour(model), label=model)
        axes.set_ylabel(names[f].replace("_", " "), fontsize=7)
    grid[-1, 0].set_xlabel("step")
    legend(grid[0, 0])
    return figure


def _colour(model: str) -> str:
    return {STILL: "#adb5bd", "autoregression": "#1098ad"}.get(model, colour(model.rstrip("12")))
