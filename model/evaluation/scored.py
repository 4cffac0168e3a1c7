"""One van's scores beside what really happened: all that evaluation keeps of a trace."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.dataset import Trace

Singles = NDArray[np.float32]
Bools = NDArray[np.bool_]
Millis = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ScoredVan:
    """Scores of one van's samples, before calibration.

    Raises:
        ValueError: lengths differ, or a score is not finite.
    """

    vehicle_id: str
    fault: str  # '' when healthy
    ts_ms: Millis  # (length,) rising
    score: Singles  # (length,) logits
    label: Bools  # (length,) an event starts within the horizon
    valid: Bools  # (length,) no event is going on
    events_ms: Millis  # (n_events,) starts, also those up to one horizon past the last sample

    def __post_init__(self) -> None:
        lengths = {len(self.ts_ms), len(self.score), len(self.label), len(self.valid)}
        if len(lengths) > 1:
            raise ValueError(f"{self.vehicle_id}: arrays of different lengths {sorted(lengths)}")
        if not np.isfinite(self.score).all():
            row = int(np.flatnonzero(~np.isfinite(self.score))[0])
            raise ValueError(f"{self.vehicle_id}: score of sample {row} is {self.score[row]}")

    def until(self, end_ms: int) -> "ScoredVan":
        """Its samples before `end_ms`; what is known of later events stays."""
        stop = int(np.searchsorted(self.ts_ms, end_ms))
        return ScoredVan(
            self.vehicle_id,
            self.fault,
            self.ts_ms[:stop],
            self.score[:stop],
            self.label[:stop],
            self.valid[:stop],
            self.events_ms,
        )


def scored(trace: Trace, score: Singles) -> ScoredVan:
    """A trace with its scores (length,)."""
    return ScoredVan(
        vehicle_id=trace.vehicle_id,
        fault=trace.fault,
        ts_ms=trace.ts_ms,
        score=np.asarray(score, np.float32),
        label=trace.label,
        valid=trace.valid,
        events_ms=trace.events_ms,
    )
