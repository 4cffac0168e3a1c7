"""Vans and models made by hand, whose figures are known beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.channels import SIGNALS
from model.evaluation import ScoredVan
from model.fleet import TRUE_TEMPERATURES, VehicleTrace

START_MS = 1_783_296_000_000
STEP_MS = 5_000
HOUR_MS = 3_600_000
HORIZON_MS = 7_200_000


def hours(*values: float) -> NDArray[np.int64]:
    """Epoch milliseconds so many hours after the start."""
    return START_MS + (np.array(values) * HOUR_MS).astype(np.int64)


def made_van(
    length_h: float,
    high: Sequence[tuple[float, float]] = (),
    events: Sequence[tuple[float, float]] = (),
    gaps: Sequence[tuple[float, float]] = (),
    fault: str = "",
) -> ScoredVan:
    """A van whose score is 2 within `high` and -2 elsewhere, every 5 s; all spans [from, to) in hours.

    `events` are the spans in which an event goes on, `gaps` those in which nothing arrives.
    """
    ts_ms = np.arange(START_MS, START_MS + round(length_h * HOUR_MS), STEP_MS)

    def within(spans: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
        edges = [hours(*span) for span in spans]
        return np.any([(ts_ms >= a) & (ts_ms < b) for a, b in edges], axis=0) if edges else np.zeros(len(ts_ms), bool)

    starts = hours(*(begin for begin, _ in events))
    ahead = np.append(starts, np.iinfo(np.int64).max)[np.searchsorted(starts, ts_ms, side="right")] - ts_ms
    kept = ~within(gaps)
    return ScoredVan(
        vehicle_id="van",
        fault=fault,
        ts_ms=ts_ms[kept],
        score=np.where(within(high), 2.0, -2.0).astype(np.float32)[kept],
        label=(ahead <= HORIZON_MS)[kept],
        valid=~within(events)[kept],
        events_ms=starts,
    )


def random_van(rng: np.random.Generator, n: int = 3_000, *, steps: float = 0.0, fault: str = "") -> ScoredVan:
    """Scores with some skill; with `steps`, rounded to multiples of it so that many are tied."""
    label = rng.random(n) < rng.uniform(0.02, 0.2)
    score = rng.normal(0.0, 1.5, n) + 1.5 * label - 2.0
    if steps:
        score = np.round(score / steps) * steps
    return ScoredVan(
        vehicle_id=f"van-{rng.integers(1_000_000)}",
        fault=fault,
        ts_ms=START_MS + STEP_MS * np.arange(n),
        score=score.astype(np.float32),
        label=label,
        valid=rng.random(n) < 0.95,
        events_ms=np.empty(0, np.int64),
    )


@dataclass
class MotorScorer:
    """The measured motor temperature as a score; what is missing counts as cool."""

    name: str = "temperature_rule"
    calls: int = 0

    def score(self, traces: Sequence[VehicleTrace]) -> list[NDArray[np.float32]]:
        """See `Scorer`."""
        self.calls += 1
        column = SIGNALS.index("motor_temperature")
        return [np.nan_to_num(trace.signals[:, column], nan=20.0) / 10.0 for trace in traces]


@dataclass
class TrueTemperatureScorer:
    """The hidden cell temperature as a score."""

    name: str = "oracle"

    def score(self, traces: Sequence[VehicleTrace]) -> list[NDArray[np.float32]]:
        """See `Scorer`."""
        column = TRUE_TEMPERATURES.index("hot_cell")
        return [trace.true_temperature[:, column] / 5.0 for trace in traces]
