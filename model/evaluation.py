"""How good the risk is: over instants, and over events as an operator would count them.

The operating point is chosen on one set of vans and judged on another. What it does not do yet: intervals and
baselines.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from model.scoring import Calibration

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Millis = NDArray[np.int64]

DAY_MS = 86_400_000
HORIZON_MS = 7_200_000
ALERT_FOR_SAMPLES = 12  # risk must stay high for a minute, as in service
COOL_DOWN_MS = HORIZON_MS  # alarms of one van within two hours are one alarm


@dataclass(frozen=True, slots=True)
class EventScore:
    """Alarms against events on a set of vans."""

    events: int
    event_recall: float
    false_alarms_per_vehicle_day: float
    lead_time_median_min: float  # of the events that were caught, minutes
    vehicle_days: float


@dataclass(frozen=True, slots=True)
class VanRisk:
    """One van's risks with what really happened."""

    ts_ms: Millis  # (length,)
    risk: Floats  # (length,)
    label: Bools  # (length,)
    valid: Bools  # (length,)
    events_ms: Millis  # (n_events,)


def auroc(score: Floats, label: Bools) -> float:
    """Area under the receiver operating characteristic, ties counted half (Mann & Whitney 1947)."""
    order = np.argsort(score, kind="stable")
    _, first, counts = np.unique(score[order], return_index=True, return_counts=True)
    rank = np.repeat(first + (counts + 1) / 2.0, counts)
    positives = label[order]
    n_pos, n_neg = int(positives.sum()), int((~positives).sum())
    if n_pos == 0 or n_neg == 0:
        return float("nan")
    return float((rank[positives].sum() - n_pos * (n_pos + 1) / 2.0) / (n_pos * n_neg))


def auprc(score: Floats, label: Bools) -> float:
    """Average precision."""
    order = np.argsort(-score, kind="stable")
    hits = label[order]
    if not hits.any():
        return float("nan")
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def calibration_error(risk: Floats, label: Bools, bins: int = 15) -> float:
    """Expected calibration error over equal-width bins of risk (Guo et al. 2017)."""
    which = np.minimum((risk * bins).astype(int), bins - 1)
    total = np.bincount(which, minlength=bins)
    gap = np.abs(np.bincount(which, risk, bins) - np.bincount(which, label, bins))
    return float(gap[total > 0].sum() / len(risk))


def fit_platt(logit: Floats, label: Bools, steps: int = 50) -> tuple[float, float]:
    """Slope and intercept that minimise the log loss, by Newton's method (Platt 1999)."""
    x = np.stack((logit, np.ones_like(logit)), axis=1)
    w = np.array([1.0, 0.0])
    for _ in range(steps):
        p = 0.5 * (1.0 + np.tanh(0.5 * x @ w))
        gradient = x.T @ (p - label)
        hessian = (x * (p * (1.0 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
        w = w - np.linalg.solve(hessian, gradient)
    return float(max(w[0], 1e-3)), float(w[1])


def alarm_times(van: VanRisk, threshold: float) -> Millis:
    """When alarms of one van begin: risk high for a minute, alarms within the cool-down joined."""
    high = van.risk >= threshold
    instants = np.arange(len(high))
    run = instants - np.maximum.accumulate(np.where(high, -1, instants))
    fired = van.ts_ms[run == ALERT_FOR_SAMPLES]
    kept: list[int] = []
    for ts in fired.tolist():
        if not kept or ts - kept[-1] > COOL_DOWN_MS:
            kept.append(ts)
    return np.array(kept, np.int64)


def score_events(vans: list[VanRisk], threshold: float) -> EventScore:
    """Count alarms: one that no event follows within the horizon, outside an event, is false."""
    caught, false, events, days = [], 0, 0, 0.0
    for van in vans:
        alarms = alarm_times(van, threshold)
        during = ~van.valid[np.searchsorted(van.ts_ms, alarms)] if len(alarms) else np.zeros(0, bool)
        seen = [e for e in van.events_ms.tolist() if van.ts_ms[0] < e <= van.ts_ms[-1]]
        for event in seen:
            before = alarms[(alarms < event) & (alarms >= event - HORIZON_MS)]
            if len(before):
                caught.append((event - int(before[0])) / 60_000.0)
        for alarm, ongoing in zip(alarms.tolist(), during.tolist(), strict=True):
            follows = ((van.events_ms > alarm) & (van.events_ms <= alarm + HORIZON_MS)).any()
            false += not follows and not ongoing
        events += len(seen)
        days += float(van.ts_ms[-1] - van.ts_ms[0]) / DAY_MS
    return EventScore(
        events=events,
        event_recall=len(caught) / events if events else float("nan"),
        false_alarms_per_vehicle_day=false / days,
        lead_time_median_min=float(np.median(caught)) if caught else float("nan"),
        vehicle_days=days,
    )


def best_f2(risk: Floats, label: Bools) -> tuple[float, float]:
    """Threshold that maximises F2 over instants, and that F2."""
    order = np.argsort(-risk, kind="stable")
    hits = np.cumsum(label[order])
    predicted = np.arange(1, len(risk) + 1)
    f2 = 5.0 * hits / (4.0 * max(int(label.sum()), 1) + predicted)
    best = int(np.argmax(f2))
    return float(risk[order[best]]), float(f2[best])


def choose_threshold(vans: list[VanRisk], budget: float) -> float:
    """The lowest threshold on a grid whose false alarms per vehicle-day stay within the budget."""
    grid = np.unique(np.concatenate((np.geomspace(0.003, 0.5, 40), np.linspace(0.5, 0.98, 25))))
    for threshold in grid.tolist():
        if score_events(vans, threshold).false_alarms_per_vehicle_day <= budget:
            return float(threshold)
    return float(grid[-1])


def report(vans: list[VanRisk], calibration: Calibration) -> dict[str, float | None]:
    """The figures of a model card for one set of vans; None where there was nothing to measure."""
    risk = np.concatenate([van.risk[van.valid] for van in vans])
    label = np.concatenate([van.label[van.valid] for van in vans])
    at = risk >= calibration.f2_threshold
    hits = float((at & label).sum())
    figures = {
        "vans": float(len(vans)),
        "instants": float(len(risk)),
        "positive_share": float(label.mean()),
        "auroc": auroc(risk, label),
        "auprc": auprc(risk, label),
        "f2": 5.0 * hits / max(4.0 * float(label.sum()) + float(at.sum()), 1.0),
        "ece": calibration_error(risk, label),
        **asdict(score_events(vans, calibration.alert_threshold)),
    }
    return {name: None if np.isnan(value) else round(float(value), 5) for name, value in figures.items()}
