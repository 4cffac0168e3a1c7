"""The product's own model over a vehicle's telemetry, batch by batch: risk quantiles and alerts of each local day.

Preprocessing, network, calibration and alert machine are those of the service; only a state and one histogram a day are kept.
Quantiles are read from the histogram, so they are exact to 1/64 of a logit.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.alert_machine import FIRING, MachineLimits, advance_machines, new_machines
from model.checkpoint import SHIPPED, Checkpoint, load_checkpoint
from model.evaluation.histogram import LOWEST, N_BINS, PER_LOGIT, bin_risks
from model.runtime import BackendUnavailableError, ModelRuntime
from model.studies.capacity.local_days import LocalClock

Millis = NDArray[np.int64]
Floats = NDArray[np.float64]

SLOT = np.array([1])  # 0 is the dummy
QUANTILES = (0.5, 0.95)


@cache
def product(folder: Path) -> Checkpoint:
    """A model, read once in a process."""
    return load_checkpoint(folder)


@dataclass(frozen=True, slots=True)
class RiskDay:
    """Risk of one local day."""

    median: float
    high: float  # 95 % of the samples lie below
    highest: float
    alerts: int  # of thermal_risk that fired


@dataclass(slots=True)
class Tally:
    """A day under way."""

    counts: NDArray[np.int64]  # (N_BINS,) samples by logit of the risk
    highest: float = 0.0
    alerts: int = 0


class RiskCourse:
    """One vehicle through the model from a zero state.

    Raises:
        CheckpointError: the model cannot be read.
    """

    def __init__(self, clock: LocalClock, folder: Path = SHIPPED) -> None:
        checkpoint = product(folder)
        calibration = checkpoint.calibration
        self._clock = clock
        try:
            self._runtime = ModelRuntime(checkpoint, "cpu", n_slots=2)
        except BackendUnavailableError:
            self._runtime = ModelRuntime(checkpoint, "reference", n_slots=2)
        self._preprocessor = checkpoint.preprocessor()
        self._state = self._preprocessor.initial_state(1)
        self._machines = new_machines((1, 1))
        self._limits = MachineLimits(
            calibration.alert_threshold, calibration.resolve_threshold, warmup_samples=checkpoint.warmup_samples
        ).packed()
        self._samples, self._last_ms = 0, -1
        self._days: dict[int, Tally] = {}

    def advance(self, ts_ms: Millis, signals: NDArray[np.floating]) -> None:
        """Take samples (n,) with signals (n, n_signals) in wire order; those that are not later than the last are left out."""
        before = np.maximum.accumulate(np.concatenate(([self._last_ms], ts_ms)))[:-1]
        later = ts_ms > before
        ts_ms, signals = ts_ms[later], signals[later]
        n = np.array([len(ts_ms)])
        if not len(ts_ms):
            return
        gap_ms = np.diff(ts_ms, prepend=ts_ms[0] if self._last_ms < 0 else self._last_ms)
        features = self._preprocessor.advance_runs(self._state, n, ts_ms, signals)
        risk = self._runtime.scan(SLOT, n, features).risk
        course = advance_machines(
            self._machines, np.array([self._samples]), n, ts_ms, gap_ms, risk.reshape(-1, 1), self._limits
        )
        fired = course.row[course.changes & FIRING != 0]
        self._count(self._clock.days(ts_ms), risk, fired)
        self._samples, self._last_ms = self._samples + len(ts_ms), int(ts_ms[-1])

    def _count(self, days: Millis, risk: Floats, fired: Millis) -> None:
        logit = np.log(risk) - np.log1p(-risk)
        place = np.clip((logit - LOWEST) * PER_LOGIT, 0, N_BINS - 1).astype(np.int64)
        for day in np.unique(days).tolist():
            tally = self._days.setdefault(day, Tally(np.zeros(N_BINS, np.int64)))
            tally.counts += np.bincount(place[days == day], minlength=N_BINS)
            tally.highest = max(tally.highest, float(risk[days == day].max()))
            tally.alerts += int((days[fired] == day).sum())

    def days(self) -> dict[int, RiskDay]:
        """By local day, all that were seen."""
        return {
            day: RiskDay(
                median=quantile(tally.counts, QUANTILES[0]),
                high=quantile(tally.counts, QUANTILES[1]),
                highest=tally.highest,
                alerts=tally.alerts,
            )
            for day, tally in self._days.items()
        }


def quantile(counts: NDArray[np.int64], share: float) -> float:
    """The risk below which this share of the counted samples lies."""
    cumulated = np.cumsum(counts)
    return float(bin_risks()[np.searchsorted(cumulated, share * cumulated[-1])])
