"""Per-van sums from which every figure over instants follows, so that scores need not be kept.

Scores are binned by calibrated logit: two instants whose odds differ by less than 1/64 of a logit (1.6 %) count as
tied. What depends on the order of scores (AUROC, average precision) is computed from the bins, everything else exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.evaluation.alerts import score_at
from model.evaluation.scored import Bools, ScoredVan, Singles
from model.jit import entry_point
from model.scoring import Calibration

LOWEST, HIGHEST = -20.0, 12.0  # calibrated logits; beyond, everything is one bin
PER_LOGIT = 64
N_BINS = int((HIGHEST - LOWEST) * PER_LOGIT)
N_RELIABILITY = 15  # bins of equal width in risk, for the calibration error
INSTANTS, POSITIVES, SQUARED, TRUE_ALARMS, ALARMS = range(5)
N_SUMS = 5

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class VanTally:
    """One van's instants, summed."""

    positive: Counts  # (N_BINS,) positive instants by calibrated logit
    negative: Counts  # (N_BINS,)
    reliability: Floats  # (N_RELIABILITY, 3) instants, sum of risk, positives
    sums: Floats  # (N_SUMS,) see the names above


class InstantSums(Protocol):
    """The tallies of many vans, or of whatever else is resampled, side by side."""

    @property
    def positive(self) -> Counts:
        """(n, N_BINS)."""

    @property
    def negative(self) -> Counts:
        """(n, N_BINS)."""

    @property
    def reliability(self) -> Floats:
        """(n, N_RELIABILITY, 3)."""

    @property
    def sums(self) -> Floats:
        """(n, N_SUMS)."""


@dataclass(frozen=True, slots=True)
class Tallies:
    """Tallies side by side where there are no alerts to keep; see `InstantSums`."""

    positive: Counts
    negative: Counts
    reliability: Floats
    sums: Floats


def side_by_side(tallies: Sequence[VanTally]) -> Tallies:
    """At least one tally."""
    return Tallies(
        positive=np.stack([t.positive for t in tallies]),
        negative=np.stack([t.negative for t in tallies]),
        reliability=np.stack([t.reliability for t in tallies]),
        sums=np.stack([t.sums for t in tallies]),
    )


def bin_logits() -> Floats:
    """(N_BINS + 1,) edges of the bins."""
    return np.linspace(LOWEST, HIGHEST, N_BINS + 1)


def bin_risks() -> Floats:
    """(N_BINS,) risk at the middle of each bin."""
    edges = bin_logits()
    middle = 0.5 * (edges[1:] + edges[:-1])
    return 0.5 * (1.0 + np.tanh(0.5 * middle))


@entry_point
def _tally(
    score: Singles,
    label: Bools,
    valid: Bools,
    skip: int,
    slope: float,
    intercept: float,
    f2_score: float,
    lowest: float,
    per_logit: float,
    counts: Counts,
    reliability: Floats,
    sums: Floats,
) -> None:
    """Add one van's instants to `counts` (2, bins), `reliability` (k, 3) and `sums` (5,), in place."""
    n_bins, n_reliability = counts.shape[1], reliability.shape[0]
    for i in range(skip, score.size):
        if not valid[i]:
            continue
        logit = slope * score[i] + intercept
        risk = 1.0 / (1.0 + np.exp(-logit))
        y = 1.0 if label[i] else 0.0
        place = (logit - lowest) * per_logit
        place = min(max(place, 0.0), n_bins - 1.0)  # before the cast, which would overflow
        counts[1 if label[i] else 0, int(place)] += 1
        group = min(int(risk * n_reliability), n_reliability - 1)
        reliability[group, 0] += 1.0
        reliability[group, 1] += risk
        reliability[group, 2] += y
        sums[0] += 1.0
        sums[1] += y
        sums[2] += (risk - y) ** 2
        if score[i] >= f2_score:
            sums[3] += y
            sums[4] += 1.0


def tally(van: ScoredVan, calibration: Calibration, warmup_samples: int) -> VanTally:
    """Sum up the valid instants of one van after its first `warmup_samples`."""
    counts = np.zeros((2, N_BINS), np.int32)
    reliability, sums = np.zeros((N_RELIABILITY, 3)), np.zeros(N_SUMS)
    _tally(
        van.score, van.label, van.valid, warmup_samples, calibration.slope, calibration.intercept,
        score_at(calibration, calibration.f2_threshold), LOWEST, float(PER_LOGIT), counts, reliability, sums,
    )  # fmt: skip
    return VanTally(counts[1], counts[0], reliability, sums)
