"""An evaluation as rows of the project's report format."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluation.bootstrap import SMALL_COVERAGE, interval, resample_weights, small_fleet_weights
from model.evaluation.conditions import NINE
from model.evaluation.evaluate import Evaluation, Judged
from model.evaluation.figure_row import Row, count_row, number, row
from model.evaluation.figures import all_figures, auroc, auroc_error, fault_figures
from model.evaluation.histogram import INSTANTS, POSITIVES
from model.evaluation.registry import PRODUCT
from model.evaluation.summary import Summary

Floats = NDArray[np.float64]

UNITS = {"lead_time_median": "min", "false_alarms_per_vehicle_day": "1/d"}


def rows_of(evaluation: Evaluation) -> list[Row]:
    """All rows, in the order of the report."""
    weights = {
        len(part.summary): resample_weights(len(part.summary), evaluation.plan.resamples, evaluation.plan.resample_seed)
        for part in evaluation.judged
    }
    rows: list[Row] = []
    for part in evaluation.judged:
        of_part = list(_part_rows(part, weights[len(part.summary)]))
        if part.condition == NINE.name and part.split == evaluation.plan.split:
            _add_small_fleets(of_part, part.summary)
        rows += of_part
    for part in evaluation.judged:
        if part.condition == NINE.name and part.channels == NINE.channels and part.split == evaluation.plan.split:
            rows += _fault_rows(part, weights[len(part.summary)])
    rows += _difference_rows(evaluation, weights)
    return rows


def _params(part: Judged) -> dict[str, Any]:
    return {
        "model": part.model,
        "channels": part.channels,
        "split": part.split,
        "condition": part.condition,
        "seed": part.seed,
    }


def _part_rows(part: Judged, weights: Floats) -> Iterator[Row]:
    params, summary = _params(part), part.summary
    for name, values in all_figures(summary, weights).items():
        yield row(name, params, values, UNITS.get(name, "1"))
    positive, negative = summary.positive.sum(axis=0).astype(float), summary.negative.sum(axis=0).astype(float)
    sums = summary.sums.sum(axis=0)
    yield count_row("auroc_bin_error", params, float(auroc_error(positive, negative)))
    yield count_row("instants", params, float(sums[INSTANTS]))
    yield count_row("positive_share", params, float(sums[POSITIVES] / max(sums[INSTANTS], 1.0)))
    yield count_row("vehicle_days", params, float(summary.days.sum()))
    yield count_row("events", params, float(len(summary.events)))
    yield count_row("false_alarms", params, float(len(summary.false_alarms)))


def _add_small_fleets(rows: list[Row], summary: Summary) -> None:
    """Add to each figure `small_lo` and `small_hi`, between which a small fleet drawn from this one would show it."""
    figures = all_figures(summary, small_fleet_weights(len(summary)))
    for one in rows:
        if one["name"] in figures:
            low, high = interval(figures[one["name"]], SMALL_COVERAGE)
            one["small_lo"], one["small_hi"] = number(low), number(high)


def faults_of(summary: Summary) -> list[str]:
    """Kinds of fault that occur, healthy vans first if an event of theirs was seen."""
    kinds = sorted(set(summary.faults.tolist()) - {""})
    healthy_events = (summary.faults[summary.events[:, 0]] == "").any()
    return ["", *kinds] if healthy_events else kinds


def _fault_rows(part: Judged, weights: Floats) -> Iterator[Row]:
    summary = part.summary
    for kind in faults_of(summary):
        of_kind = summary.faults == kind
        params = {**_params(part), "fault": kind or "healthy"}
        for name, values in fault_figures(summary, weights, kind).items():
            yield row(name, params, values, UNITS.get(name, "1"))
        yield count_row("vans", params, float(of_kind.sum()))
        yield count_row("events", params, float(of_kind[summary.events[:, 0]].sum()))


def _difference_rows(evaluation: Evaluation, weights: dict[int, Floats]) -> Iterator[Row]:
    """The product's AUROC minus each other model's on the same resamples of the same vans."""
    for channels in sorted({part.channels for part in evaluation.judged}, reverse=True):
        product = evaluation.find(PRODUCT, channels)
        for model in evaluation.models:
            other = evaluation.find(model, channels)
            if product is None or other is None or model == PRODUCT:
                continue
            params = {**_params(product), "against": model}
            w = weights[len(product.summary)]
            yield row("auroc_difference", params, _auroc(product.summary, w) - _auroc(other.summary, w))


def _auroc(summary: Summary, weights: Floats) -> Floats:
    return auroc(weights @ summary.positive, weights @ summary.negative)
