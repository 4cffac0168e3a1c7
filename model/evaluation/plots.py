"""The report's plots, as small SVG files."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from model.drawing import colour, legend, save
from model.evaluation.evaluate import Evaluation, Judged
from model.evaluation.examples import Example
from model.evaluation.histogram import PER_LOGIT, bin_risks
from model.evaluation.registry import PRODUCT
from model.evaluation.summary import Summary
from model.scoring import Calibration

POINTS = 300  # of a curve or trace: more cannot be seen
LEAST_RISK = 1e-4  # where logarithmic axes begin
LEAST_INSTANTS = 200  # of a bin of the reliability plot
GAP_H = 0.2  # a line is broken where no sample came for so long

Floats = NDArray[np.float64]


def draw_all(evaluation: Evaluation, shown: Sequence[Example], folder: Path) -> list[Path]:
    """Write every plot that there is data for into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    main = [part for model in evaluation.models if (part := evaluation.find(model, 9)) is not None]
    paths = [
        _reliability(main, folder / "reliability.svg"),
        _precision_recall(main, folder / "precision-recall.svg"),
        _lead_times(main, folder / "lead-time.svg"),
    ]
    if shown and PRODUCT in evaluation.calibrations:
        paths.append(_examples(shown, evaluation.calibrations[PRODUCT], folder / "examples.svg"))
    return paths


def _reliability(parts: Sequence[Judged], path: Path) -> Path:
    """Observed share of positives against mean risk: bins of equal width, and on a log scale bins of half a logit."""
    figure, (linear, log) = plt.subplots(1, 2, figsize=(8.0, 3.8), gridspec_kw={"wspace": 0.3})
    for axes in (linear, log):
        axes.plot([LEAST_RISK, 1], [LEAST_RISK, 1], color="#ced4da", lw=1)
    for part in parts:
        for axes, every in ((linear, part.summary.reliability.sum(axis=0)), (log, half_logits(part.summary))):
            groups = every[every[:, 0] >= LEAST_INSTANTS]
            axes.plot(
                groups[:, 1] / groups[:, 0], groups[:, 2] / groups[:, 0], "o-", ms=3, lw=1,
                color=colour(part.model), label=part.model,
            )  # fmt: skip
    linear.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean risk of the bin", ylabel="share of instants with an event in 2 h")
    log.set(xscale="log", yscale="log", xlim=(LEAST_RISK, 1), ylim=(LEAST_RISK, 1), xlabel="mean risk of the bin")
    legend(linear)
    return save(figure, path)


def half_logits(summary: Summary) -> Floats:
    """(groups, 3) instants, sum of risk, positives, in bins of half a logit."""
    positive, negative = summary.positive.sum(axis=0).astype(float), summary.negative.sum(axis=0).astype(float)
    columns = (positive + negative, (positive + negative) * bin_risks(), positive)
    return np.stack([column.reshape(-1, PER_LOGIT // 2).sum(axis=1) for column in columns], axis=1)


def precision_recall(summary: Summary) -> tuple[Floats, Floats]:
    """(recall, precision) from the highest threshold to the lowest, one point per bin that holds an instant."""
    hits = np.cumsum(summary.positive.sum(axis=0)[::-1]).astype(float)
    alarms = hits + np.cumsum(summary.negative.sum(axis=0)[::-1])
    some = alarms > 0
    return hits[some] / max(hits[-1], 1.0), hits[some] / alarms[some]


def _precision_recall(parts: Sequence[Judged], path: Path) -> Path:
    figure, axes = plt.subplots(figsize=(4.8, 4.0))
    for part in parts:
        recall, precision = precision_recall(part.summary)
        # Thinned evenly in recall.
        kept = np.unique(np.searchsorted(recall, np.linspace(0, recall[-1], POINTS)).clip(max=len(recall) - 1))
        axes.plot(recall[kept], precision[kept], lw=1.2, color=colour(part.model), label=part.model)
    axes.set(xlabel="recall (instants)", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    legend(axes)
    return save(figure, path)


def _lead_times(parts: Sequence[Judged], path: Path) -> Path:
    """Share of all events caught with at least so much lead."""
    figure, axes = plt.subplots(figsize=(4.8, 3.4))
    minutes = np.linspace(0, 240, 241)
    for part in parts:
        lead = np.sort(np.nan_to_num(part.summary.lead_min, nan=-1.0))
        if len(lead):
            share = 1.0 - np.searchsorted(lead, minutes, side="left") / len(lead)
            axes.plot(minutes, share, lw=1.2, color=colour(part.model), label=part.model)
    axes.axvline(45, color="#ced4da", lw=1)
    axes.set(xlabel="lead time, minutes", ylabel="share of events caught at least so early", xlim=(0, 240), ylim=(0, 1))
    legend(axes)
    return save(figure, path)


def _examples(shown: Sequence[Example], calibration: Calibration, path: Path) -> Path:
    figure, grid = plt.subplots(
        2, len(shown), figsize=(3.6 * len(shown), 4.2), sharex="col", squeeze=False, gridspec_kw={"hspace": 0.12}
    )
    for column, example in enumerate(shown):
        hours = (example.ts_ms - example.at_ms) / 3_600_000
        _draw_risk(grid[0, column], example, hours, calibration)
        _draw_temperatures(grid[1, column], example, hours)
    grid[0, 0].set_ylabel("risk")
    grid[1, 0].set_ylabel("measured, degC")
    grid[1, 0].legend(frameon=False, fontsize=8)
    return save(figure, path)


def _draw_risk(axes: Axes, example: Example, hours: Floats, calibration: Calibration) -> None:
    step = max(1, len(hours) // POINTS)
    peaks = np.maximum.reduceat(example.risk, np.arange(0, len(hours), step))  # thinning must not hide a peak
    axes.plot(*_broken(hours[::step], np.maximum(peaks, LEAST_RISK)), lw=1, color=colour(PRODUCT))
    axes.axhline(calibration.alert_threshold, color="#868e96", lw=0.8, ls="--")
    axes.axhline(calibration.resolve_threshold, color="#868e96", lw=0.8, ls=":")
    for event_ms in example.events_ms:
        axes.axvline((event_ms - example.at_ms) / 3_600_000, color="#c92a2a", lw=1)
    if example.fired_ms is not None:
        axes.axvline((example.fired_ms - example.at_ms) / 3_600_000, color="#2f9e44", lw=1)
    axes.set(yscale="log", ylim=(LEAST_RISK, 1.2))
    axes.set_title(f"{example.kind}: {example.vehicle_id}, {example.fault or 'healthy'}", fontsize=9)


def _draw_temperatures(axes: Axes, example: Example, hours: Floats) -> None:
    kept = np.unique(np.linspace(0, len(hours) - 1, POINTS).astype(np.int64))
    for values, shade, label in ((example.motor_c, "#495057", "motor"), (example.pack_c, "#1971c2", "pack")):
        axes.plot(*_broken(hours[kept], values[kept].astype(np.float64)), lw=1, color=shade, label=label)
    for event_ms in example.events_ms:
        axes.axvline((event_ms - example.at_ms) / 3_600_000, color="#c92a2a", lw=1)
    axes.set_xlabel("hours from the event" if example.kind != "false alarm" else "hours from the alarm")


def _broken(hours: Floats, values: Floats) -> tuple[Floats, Floats]:
    """The same points, with a NaN wherever nothing came for a while."""
    gaps = np.flatnonzero(np.diff(hours) > GAP_H) + 1
    return np.insert(hours, gaps, hours[gaps]), np.insert(values, gaps, np.nan)
