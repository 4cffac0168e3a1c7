"""Alerts as the service would raise them, over a whole trace at once, and how they meet the events.

The machine is that of the service (model/alert_machine.py). This module does not know thresholds of risk: it compares
scores, of which risk is a rising function.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.alert_machine import FIRING, RESOLVED, MachineLimits, advance_machines, new_machines
from model.evaluation.scored import ScoredVan
from model.scoring import Calibration

Bools = NDArray[np.bool_]
Millis = NDArray[np.int64]
Singles = NDArray[np.float32]

NEVER_MS = np.iinfo(np.int64).max  # an alert that is still open after the last sample
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class AlertRule:
    """What holds for every model's alerts; the times are the service's defaults."""

    for_ms: int = 60_000  # risk must stay high so long before an alert fires
    keep_firing_ms: int = 300_000  # and low so long before it resolves
    stale_after_ms: int = 300_000  # a gap so long is no recovery
    warmup_samples: int = 60  # no alert before, and no instant judged
    horizon_ms: int = 7_200_000
    resolve_share: float = 0.5  # of the alert threshold
    budget: float = 0.02  # false alarms per vehicle-day, on the validation split


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The two thresholds of an alert in units of the score."""

    alert: float
    resolve: float


def score_at(calibration: Calibration, risk: float) -> float:
    """The score whose calibrated risk is `risk`."""
    return float((np.log(risk) - np.log1p(-risk) - calibration.intercept) / calibration.slope)


def thresholds_of(calibration: Calibration) -> Thresholds:
    """An operating point as scores."""
    return Thresholds(
        score_at(calibration, calibration.alert_threshold), score_at(calibration, calibration.resolve_threshold)
    )


def episodes(ts_ms: Millis, score: Singles, thresholds: Thresholds, rule: AlertRule) -> Millis:
    """Alerts of one van: (n, 2) epoch ms at which each fired and was resolved (NEVER_MS: still open at the end).

    Args:
        ts_ms: (length,) rising.
        score: (length,).
        thresholds: in units of the score.
        rule: times and warm-up.
    """
    if not len(score) or float(score.max()) < thresholds.alert:
        return np.empty((0, 2), np.int64)
    limits = MachineLimits(
        threshold=thresholds.alert,
        resolve_threshold=thresholds.resolve,
        for_ms=rule.for_ms,
        keep_firing_ms=rule.keep_firing_ms,
        stale_after_ms=rule.stale_after_ms,
        warmup_samples=rule.warmup_samples,
    )
    gap_ms, values = np.diff(ts_ms, prepend=ts_ms[0]), score.astype(np.float64).reshape(-1, 1)
    whole = np.array([len(ts_ms)])
    course = advance_machines(
        new_machines((1, 1)), np.zeros(1, np.int64), whole, ts_ms, gap_ms, values, limits.packed()
    )
    fired_ms = course.after["fired_ms"][course.changes & FIRING != 0]
    resolved_ms = ts_ms[course.row[course.changes & RESOLVED != 0]]
    still_open = np.full(len(fired_ms) - len(resolved_ms), NEVER_MS)
    return np.stack((fired_ms, np.concatenate((resolved_ms, still_open))), axis=1)


@dataclass(frozen=True, slots=True)
class EventTimes:
    """What really happened to one van while it was watched."""

    first_ms: int
    last_ms: int
    starts_ms: Millis  # (n,) of all events that are known, also past the last sample
    spans_ms: Millis  # (m, 2) [from, to) in which an event was going on; they may overlap

    @property
    def seen(self) -> Bools:
        """(n,) which events could be caught: those after the first sample and not after the last."""
        seen: Bools = (self.starts_ms > self.first_ms) & (self.starts_ms <= self.last_ms)
        return seen

    @property
    def days(self) -> float:
        """Length of the watch."""
        return (self.last_ms - self.first_ms) / DAY_MS


def event_times(van: ScoredVan) -> EventTimes:
    """Events of a van with at least one sample.

    An event lasts from its start to the first valid sample after it; where samples are missing, its end is not known
    any better. Samples that are not valid without a start (the watch began within an event) count as well.
    """
    ends = np.append(van.ts_ms[van.valid], NEVER_MS)
    edges = np.diff(np.concatenate(([0], (~van.valid).astype(np.int8), [0])))
    begins = np.concatenate((van.events_ms, van.ts_ms[np.flatnonzero(edges == 1)]))
    spans = np.stack((begins, ends[np.searchsorted(ends[:-1], begins, side="left")]), axis=1)
    return EventTimes(int(van.ts_ms[0]), int(van.ts_ms[-1]), van.events_ms, spans)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the alerts of one van met its events."""

    event_ms: Millis  # (n_events,) starts of the events that could be caught
    fired_ms: Millis  # (n_events,) when the alert fired that was open at the start; NEVER_MS where none was
    false_ms: Millis  # (n_false,) starts of the pieces that count as false alarms


def outcome(events: EventTimes, alerts: Millis, rule: AlertRule) -> Outcome:
    """Match alerts (n, 2) of one van with its events.

    An event is caught if an alert that fired before its start is open at its start. Each alert is cut into pieces of
    one horizon from its firing; a piece is a false alarm unless an event starts within one horizon after the piece's
    start, or is going on during the piece. Because no alert can resolve sooner, an event counts as going on for
    `keep_firing_ms` after its end.
    """
    starts = events.starts_ms[events.seen]
    fired = np.full(len(starts), NEVER_MS)
    if not len(alerts):
        return Outcome(starts, fired, np.empty(0, np.int64))
    before = np.searchsorted(alerts[:, 0], starts, side="left") - 1  # the last alert that fired before
    open_at = (before >= 0) & (alerts[before, 1] > starts)
    fired[open_at] = alerts[before[open_at], 0]
    pieces, ends = _pieces(alerts, events.last_ms, rule.horizon_ms)
    following = np.append(events.starts_ms, NEVER_MS)[np.searchsorted(events.starts_ms, pieces, side="right")]
    soon = following - pieces <= rule.horizon_ms
    begins, over = events.spans_ms[:, 0], events.spans_ms[:, 1]
    during = ((begins < ends[:, None]) & (over > pieces[:, None] - rule.keep_firing_ms)).any(axis=1)
    return Outcome(starts, fired, pieces[~soon & ~during])


def _pieces(alerts: Millis, last_ms: int, horizon_ms: int) -> tuple[Millis, Millis]:
    """Starts and ends of the alerts' pieces; an alert that is open at the last sample ends with it."""
    closes = np.minimum(alerts[:, 1], last_ms + 1)
    count = np.maximum(-(-(closes - alerts[:, 0]) // horizon_ms), 1)
    which = np.repeat(np.arange(len(alerts)), count)
    number = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    starts = alerts[which, 0] + number * horizon_ms
    return starts, np.minimum(starts + horizon_ms, closes[which])
