"""Slope, intercept and thresholds of a model, from a validation split alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.evaluation.alerts import (
    NEVER_MS,
    AlertRule,
    EventTimes,
    Thresholds,
    episodes,
    event_times,
    outcome,
    score_at,
)
from model.evaluation.figures import f2
from model.evaluation.histogram import VanTally, bin_logits, tally
from model.evaluation.scored import ScoredVan
from model.scoring import Calibration

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

COARSE, FINE = 48, 48  # thresholds tried over the whole range, then around the best
TINY = 1e-6
PLATT_BINS = 20_000  # scores are fitted in so many bins of equal numbers


def fit_platt(
    score: NDArray[np.floating], label: NDArray[np.generic], weight: Floats | None = None, steps: int = 100
) -> tuple[float, float]:
    """Slope and intercept that minimise the log loss, by Newton's method with step halving (Platt 1999).

    Args:
        score: (n,).
        label: (n,) 0 or 1, or a share of positives.
        weight: (n,) how often each counts; once by default.
        steps: at most.

    Returns:
        Slope, at least 1e-3 spreads of the score (a score that ranks backwards is as good as none), and intercept.

    Raises:
        ValueError: the labels are all the same.
    """
    x, y = score.astype(np.float64), label.astype(np.float64)
    w = np.ones_like(x) if weight is None else weight
    total = w.sum()
    share = float((w * y).sum() / total)
    if not 0.0 < share < 1.0:
        raise ValueError("calibration needs positive and negative instants, found only one kind")
    centre = float((w * x).sum() / total)
    spread = max(float(np.sqrt((w * (x - centre) ** 2).sum() / total)), 1e-12)
    design = np.stack(((x - centre) / spread, np.ones_like(x)), axis=1)
    ridge = np.array([1e-9, 0.0])  # of separable scores the slope would grow without end

    def loss(beta: Floats) -> float:
        logit = design @ beta
        return float((w * (np.logaddexp(0.0, logit) - y * logit)).sum() / total + (ridge * beta**2).sum())

    beta = np.array([0.0, np.log(share / (1.0 - share))])
    current = loss(beta)
    for _ in range(steps):
        p = 0.5 * (1.0 + np.tanh(0.5 * (design @ beta)))
        gradient = design.T @ (w * (p - y)) / total + 2.0 * ridge * beta
        hessian = (design * (w * p * (1.0 - p))[:, None]).T @ design / total + np.diag(2.0 * ridge + 1e-15)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while (tried := loss(beta - scale * step)) > current and scale > 1e-6:
            scale *= 0.5
        beta = beta - scale * step
        if current - tried < 1e-12:
            break
        current = tried
    if beta[0] < 1e-3:
        beta = np.array([1e-3, np.log(share / (1.0 - share))])
    return float(beta[0] / spread), float(beta[1] - beta[0] * centre / spread)


def binned(score: NDArray[np.floating], label: Bools) -> tuple[Floats, Floats, Floats]:
    """Mean score, share of positives and number in each bin of about equal numbers: millions of instants for `fit_platt`.

    Positives and negatives are binned apart, and a negative bin holds few of them where positives are dense, so that the
    fit loses nothing that matters.
    """
    parts = []
    for kind in (False, True):
        ordered = np.sort(score[label == kind]).astype(np.float64)
        if not len(ordered):
            continue
        # Half the bins by rank, half of them within the top hundredth, where the negatives meet the positives.
        ranks = np.concatenate((np.linspace(0.0, 0.99, PLATT_BINS // 2), np.linspace(0.99, 1.0, PLATT_BINS // 2)))
        starts = np.unique((ranks * len(ordered)).astype(int))
        starts = starts[starts < len(ordered)]
        count = np.diff(np.append(starts, len(ordered)))
        parts.append((np.add.reduceat(ordered, starts) / count, np.full(len(starts), float(kind)), count.astype(float)))
    mean, positive, count = (np.concatenate(column) for column in zip(*parts, strict=True))
    return mean, positive, count


def choose_calibration(vans: Sequence[ScoredVan], rule: AlertRule | None = None) -> Calibration:
    """Slope, intercept, F2 threshold and alert thresholds of a model on the validation split.

    Args:
        vans: scored vans of the validation split, with positive and negative instants.
        rule: times, and the budget of false alarms.

    Raises:
        ValueError: no instant is positive, or all are.
    """
    rule = rule or AlertRule()
    counted = [van.valid & (np.arange(len(van.score)) >= rule.warmup_samples) for van in vans]
    score = np.concatenate([van.score[rows] for van, rows in zip(vans, counted, strict=True)])
    label = np.concatenate([van.label[rows] for van, rows in zip(vans, counted, strict=True)])
    slope, intercept = fit_platt(*binned(score, label))
    plain = Calibration(slope=slope, intercept=intercept)
    f2_threshold = best_f2_threshold([tally(van, plain, rule.warmup_samples) for van in vans])
    alert = choose_alert_threshold(vans, plain, rule)
    return Calibration(slope, intercept, alert, rule.resolve_share * alert, f2_threshold)


def best_f2_threshold(tallies: Sequence[VanTally]) -> float:
    """The calibrated risk, among the edges of the bins, that maximises F2 over instants."""
    hits = np.cumsum(np.sum([t.positive for t in tallies], axis=0)[::-1])[::-1].astype(float)
    alarms = hits + np.cumsum(np.sum([t.negative for t in tallies], axis=0)[::-1])[::-1]
    best = int(np.nanargmax(f2(hits, alarms, np.full_like(hits, hits[0]))))
    return _risk(float(bin_logits()[best]))


def choose_alert_threshold(vans: Sequence[ScoredVan], calibration: Calibration, rule: AlertRule) -> float:
    """The risk that catches most events within the budget of false alarms; of equals, fewest false alarms, then highest.

    Tried are quantiles of the vans' hourly maxima, then a finer grid where the budget is just kept.
    """
    watched = [(van, event_times(van)) for van in vans if len(van.score)]
    candidates = _candidates([van for van, _ in watched], calibration)
    tried: dict[float, tuple[float, float, float]] = {}

    def rank(risk: float) -> tuple[float, float, float]:
        if risk not in tried:
            caught, false, days = count_alarms(watched, _at(calibration, risk, rule), rule)
            within = false <= rule.budget * days
            # Nothing within the budget: come as near to it as possible.
            tried[risk] = (float(caught), -float(false), risk) if within else (-1.0, -float(false), risk)
        return tried[risk]

    best = max(candidates, key=rank)
    # From just under the lowest that keeps the budget to just over the best: more events may hide between candidates.
    lowest = next((i for i, risk in enumerate(candidates) if rank(risk)[0] >= 0), candidates.index(best))
    low = candidates[max(lowest - 1, 0)]
    high = candidates[min(candidates.index(best) + 1, len(candidates) - 1)]
    logits = np.linspace(np.log(low / (1 - low)), np.log(high / (1 - high)), FINE)
    return max([best, *(_risk(float(logit)) for logit in logits)], key=rank)


def count_alarms(
    watched: Sequence[tuple[ScoredVan, EventTimes]], thresholds: Thresholds, rule: AlertRule
) -> tuple[int, int, float]:
    """Events caught, false alarms and vehicle-days."""
    caught, false, days = 0, 0, 0.0
    for van, events in watched:
        found = outcome(events, episodes(van.ts_ms, van.score, thresholds, rule), rule)
        caught += int((found.fired_ms != NEVER_MS).sum())
        false += len(found.false_ms)
        days += events.days
    return caught, false, days


def _candidates(vans: Sequence[ScoredVan], calibration: Calibration) -> list[float]:
    """At most COARSE rising risks: from the median of the vans' hourly maxima to beyond the highest score there is."""
    hourly = np.concatenate(
        [np.maximum.reduceat(van.score, np.arange(0, len(van.score), 720)).astype(np.float64) for van in vans]
    )
    tail = 1.0 - np.geomspace(0.5, 0.2 / len(hourly), COARSE)
    scores = np.append(np.quantile(hourly, tail), hourly.max() + 1.0 / calibration.slope)
    risks = [_risk(float(calibration.slope * score + calibration.intercept)) for score in np.unique(scores)]
    return sorted(set(risks))


def _risk(logit: float) -> float:
    """Risk of a calibrated logit, kept off 0 and 1 and rounded as a checkpoint stores it."""
    return float(np.clip(np.round(0.5 * (1.0 + np.tanh(0.5 * logit)), 6), TINY, 1.0 - TINY))


def _at(calibration: Calibration, risk: float, rule: AlertRule) -> Thresholds:
    return Thresholds(score_at(calibration, risk), score_at(calibration, rule.resolve_share * risk))
