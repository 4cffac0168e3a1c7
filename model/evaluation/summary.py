"""What is left of one model's scores on one fleet under one condition: sums per van, events, false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.evaluation.alerts import NEVER_MS, AlertRule, Outcome, episodes, event_times, outcome, thresholds_of
from model.evaluation.histogram import VanTally, side_by_side, tally
from model.evaluation.scored import ScoredVan
from model.scoring import Calibration

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]
Millis = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class VanSummary:
    """One van, judged at one operating point."""

    vehicle_id: str
    fault: str
    days: float
    tally: VanTally
    outcome: Outcome


def summarise(van: ScoredVan, calibration: Calibration, rule: AlertRule) -> VanSummary:
    """Judge one van with at least one sample."""
    events = event_times(van)
    alerts = episodes(van.ts_ms, van.score, thresholds_of(calibration), rule)
    return VanSummary(
        vehicle_id=van.vehicle_id,
        fault=van.fault,
        days=events.days,
        tally=tally(van, calibration, rule.warmup_samples),
        outcome=outcome(events, alerts, rule),
    )


@dataclass(frozen=True, slots=True)
class Summary:
    """Vans of one fleet, side by side. Events and false alarms are tables whose first column says which van."""

    vehicle_ids: NDArray[np.str_]  # (n_vans,)
    faults: NDArray[np.str_]  # (n_vans,)
    days: Floats  # (n_vans,)
    positive: Counts  # (n_vans, N_BINS)
    negative: Counts  # (n_vans, N_BINS)
    reliability: Floats  # (n_vans, N_RELIABILITY, 3)
    sums: Floats  # (n_vans, N_SUMS)
    events: Millis  # (n_events, 3) van, start, when the alert fired that was open then (NEVER_MS: none)
    false_alarms: Millis  # (n_false, 2) van, start

    def __len__(self) -> int:
        return len(self.vehicle_ids)

    @property
    def caught(self) -> NDArray[np.bool_]:
        """(n_events,)."""
        caught: NDArray[np.bool_] = self.events[:, 2] != NEVER_MS
        return caught

    @property
    def lead_min(self) -> Floats:
        """(n_events,) minutes from the alert to the event; NaN where it was missed."""
        return np.where(self.caught, (self.events[:, 1] - self.events[:, 2]) / 60_000.0, np.nan)

    def save(self, file: Path) -> None:
        """Write as .npz."""
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part.npz")
        np.savez_compressed(part, **{f.name: getattr(self, f.name) for f in fields(self)})
        part.replace(file)  # a run that is cut off leaves no half file

    @staticmethod
    def load(file: Path) -> Summary:
        """Inverse of `save`."""
        with np.load(file) as arrays:
            return Summary(**{f.name: arrays[f.name] for f in fields(Summary)})


def joined(vans: Sequence[VanSummary]) -> Summary:
    """Summary of at least one van."""
    events = [
        np.stack((np.full(len(van.outcome.event_ms), i), van.outcome.event_ms, van.outcome.fired_ms), axis=1)
        for i, van in enumerate(vans)
    ]
    false_alarms = [
        np.stack((np.full(len(van.outcome.false_ms), i), van.outcome.false_ms), axis=1) for i, van in enumerate(vans)
    ]
    tallies = side_by_side([van.tally for van in vans])
    return Summary(
        vehicle_ids=np.array([van.vehicle_id for van in vans]),
        faults=np.array([van.fault for van in vans]),
        days=np.array([van.days for van in vans]),
        positive=tallies.positive,
        negative=tallies.negative,
        reliability=tallies.reliability,
        sums=tallies.sums,
        events=np.concatenate(events).astype(np.int64),
        false_alarms=np.concatenate(false_alarms).astype(np.int64),
    )
