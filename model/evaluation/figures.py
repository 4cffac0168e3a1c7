"""The figures of a report from a summary, for many resamples of the vans at once.

Every function takes `weights` (n_resamples, n_vans): how often each van counts. Ones give the plain figure, multinomial
draws its bootstrap distribution; NaN where a resample has nothing to measure.
"""

import numpy as np
from numpy.typing import NDArray

from model.evaluation.histogram import (
    ALARMS,
    INSTANTS,
    N_RELIABILITY,
    POSITIVES,
    SQUARED,
    TRUE_ALARMS,
    InstantSums,
    bin_risks,
)
from model.evaluation.summary import Summary

Floats = NDArray[np.float64]

HORIZON_MIN = 120.0


def over(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, NaN where the denominator is zero."""
    quotient: Floats = np.divide(
        numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0
    )
    return quotient


def auroc(positive: Floats, negative: Floats) -> Floats:
    """Area under the receiver operating characteristic, ties counted half (Mann & Whitney 1947).

    Args:
        positive: (..., n_bins) positive instants by rising score.
        negative: (..., n_bins).
    """
    below = np.cumsum(negative, axis=-1) - 0.5 * negative
    return over((positive * below).sum(axis=-1), positive.sum(axis=-1) * negative.sum(axis=-1))


def auroc_error(positive: Floats, negative: Floats) -> Floats:
    """How far `auroc` can be from the area of the scores before binning: half the pairs within a bin."""
    return over(0.5 * (positive * negative).sum(axis=-1), positive.sum(axis=-1) * negative.sum(axis=-1))


def average_precision(positive: Floats, negative: Floats) -> Floats:
    """Sum over thresholds of precision times the step in recall; arguments as `auroc`."""
    hits = np.cumsum(positive[..., ::-1], axis=-1)
    alarms = hits + np.cumsum(negative[..., ::-1], axis=-1)
    precision = np.divide(hits, alarms, out=np.zeros_like(hits), where=alarms > 0)
    return over((positive[..., ::-1] * precision).sum(axis=-1), hits[..., -1])


def f2(hits: Floats, alarms: Floats, positives: Floats) -> Floats:
    """F-measure that weighs recall twice as much as precision; NaN without positives."""
    return np.where(positives > 0, over(5.0 * hits, 4.0 * positives + alarms), np.nan)


def calibration_error(groups: Floats) -> Floats:
    """Expected calibration error (Guo et al. 2017) of (..., groups, 3): instants, sum of risk, positives."""
    return over(np.abs(groups[..., 1] - groups[..., 2]).sum(axis=-1), groups[..., 0].sum(axis=-1))


def equal_mass(summary: InstantSums, weights: Floats) -> Floats:
    """(n_resamples, N_RELIABILITY, 3) as `calibration_error` takes it, in groups of as equal numbers of instants as ties allow.

    The groups are cut once, on all vans. The risk of an instant is taken as that of its bin's middle (within 0.8 %).
    """
    total = (summary.positive + summary.negative).sum(axis=0).astype(float)
    share = (np.cumsum(total) - 0.5 * total) / max(total.sum(), 1.0)
    group = np.minimum((share * N_RELIABILITY).astype(int), N_RELIABILITY - 1)
    member = np.eye(N_RELIABILITY)[group]  # (n_bins, groups)
    positive, negative = weights @ summary.positive, weights @ summary.negative
    instants = positive + negative
    return np.stack((instants @ member, (instants * bin_risks()) @ member, positive @ member), axis=-1)


def instant_figures(summary: InstantSums, weights: Floats) -> dict[str, Floats]:
    """Figures over instants, each (n_resamples,)."""
    positive, negative = weights @ summary.positive, weights @ summary.negative
    sums = weights @ summary.sums
    hits, alarms, positives = sums[:, TRUE_ALARMS], sums[:, ALARMS], sums[:, POSITIVES]
    reliability = np.tensordot(weights, summary.reliability, axes=1)
    return {
        "auroc": auroc(positive, negative),
        "auprc": average_precision(positive, negative),
        "f2": f2(hits, alarms, positives),
        "precision": over(hits, alarms),
        "recall": over(hits, positives),
        "brier": over(sums[:, SQUARED], sums[:, INSTANTS]),
        "ece": calibration_error(reliability),
        "ece_equal_mass": calibration_error(equal_mass(summary, weights)),
    }


def weighted_median(values: Floats, weights: Floats) -> Floats:
    """(n_resamples,) lower medians of `values` (n,) counted `weights` (n_resamples, n) times."""
    if not len(values):
        return np.full(len(weights), np.nan)
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[:, order], axis=1)
    place = (total >= 0.5 * total[:, -1:]).argmax(axis=1)
    upper = (total > 0.5 * total[:, -1:]).argmax(axis=1)  # differs where half the weight lies on each side
    median = 0.5 * (values[order][place] + values[order][upper])
    return np.where(total[:, -1] > 0, median, np.nan)


def event_figures(summary: Summary, weights: Floats) -> dict[str, Floats]:
    """Figures over events, each (n_resamples,). The share caught `soon` asks that the alert fired within the horizon."""
    of_event = weights[:, summary.events[:, 0]]
    lead, caught = summary.lead_min, summary.caught
    soon = caught & (np.nan_to_num(lead, nan=np.inf) <= HORIZON_MIN)
    events = of_event.sum(axis=1)
    return {
        "event_recall": over(of_event[:, caught].sum(axis=1), events),
        "event_recall_within_horizon": over(of_event[:, soon].sum(axis=1), events),
        "false_alarms_per_vehicle_day": over(
            weights[:, summary.false_alarms[:, 0]].sum(axis=1), weights @ summary.days
        ),
        "lead_time_median": weighted_median(lead[caught], of_event[:, caught]),
    }


def all_figures(summary: Summary, weights: Floats) -> dict[str, Floats]:
    """Every figure of the main table, each (n_resamples,)."""
    return instant_figures(summary, weights) | event_figures(summary, weights)


def fault_figures(summary: Summary, weights: Floats, fault: str) -> dict[str, Floats]:
    """Figures of the vans with one kind of fault; AUROC of their positive instants against all healthy vans' negatives."""
    kind, healthy = summary.faults == fault, summary.faults == ""
    figures = event_figures(summary, weights * kind)
    del figures["event_recall_within_horizon"]
    positive = (weights * kind) @ summary.positive
    negative = (weights * healthy) @ summary.negative
    return figures | {"auroc": auroc(positive, negative)}
