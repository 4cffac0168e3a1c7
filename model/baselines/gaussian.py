"""Windowed Gaussian anomaly: how far a van's recent window lies from its own past, in Mahalanobis distance.

The past is an exponentially weighted mean and covariance that starts from the training fleet's and leaves the recent
window out. Unsupervised but for the choice of window, memory and kind of score.
"""

import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.baselines.minute_chunks import EVERY, SERIES, Chunks, chunk_series, held
from model.baselines.protocol import BaselineError, Bools, Floats, Singles
from model.baselines.selection import TUNING_STRIDE, over_fleet, spread
from model.baselines.windows import window_mean
from model.dataset import Trace, TraceSource
from model.evaluation.exact import weighted_auroc
from model.jit import compiled, entry_point

logger = logging.getLogger(__name__)

VECTOR = ("speed", "hard_acceleration", "climb", "brakes", "motor", "current", "pack", "ambient")
TEMPERATURES = tuple(VECTOR.index(name) for name in ("motor", "pack"))
WINDOWS_MIN = (10.0, 60.0, 360.0)
MEMORIES_DAYS = (1.0, 3.0, 7.0)
KINDS = ("distance", "likelihood", "hot")
PRIOR_MIN = 720.0  # what the fleet's mean and covariance are worth
STRIDE = TUNING_STRIDE // EVERY
TUNING_VEHICLES = 240
PRIOR_VEHICLES = 48


@dataclass(frozen=True, slots=True)
class GaussianConfig:
    """What was chosen on the training fleet.

    Attributes:
        windows_min: the score is the largest over these windows.
        memory_days: of the van's own past.
        kind: 'distance' (log of the Mahalanobis distance), 'likelihood' (negative log-likelihood), or 'hot': the
            distance with the sign of what the temperatures do, so that a cold van is no anomaly.
    """

    windows_min: tuple[float, ...] = (60.0,)
    memory_days: float = 3.0
    kind: str = "hot"


class Prior(NamedTuple):
    """The fleet's mean (n_windows, d) and covariance (n_windows, d, d) of window means."""

    mean: Floats
    covariance: Floats


@compiled
def learn(mean: Floats, covariance: Floats, vector: Floats, share: float) -> None:
    """Move mean (d,) and covariance (d, d) towards a vector (d,), in place; absent components (NaN) teach nothing."""
    deviation = vector - mean
    for a in range(mean.size):
        for b in range(mean.size):
            if not (np.isnan(deviation[a]) or np.isnan(deviation[b])):
                covariance[a, b] = (1.0 - share) * (covariance[a, b] + share * deviation[a] * deviation[b])
    for a in range(mean.size):
        if not np.isnan(deviation[a]):
            mean[a] += share * deviation[a]


@compiled
def distance_and_determinant(covariance: Floats, deviation: Floats, floor: Floats) -> tuple[float, float, int]:
    """Squared Mahalanobis distance, half the log-determinant, and the number of present components, by Cholesky.

    Args:
        covariance: (d, d); a twentieth of `floor` on the diagonal keeps it definite.
        deviation: (d,) NaN where absent.
        floor: (d,) variances.
    """
    present = np.flatnonzero(~np.isnan(deviation))
    m = present.size
    factor, white = np.zeros((m, m)), np.zeros(m)
    distance, determinant = 0.0, 0.0
    for p in range(m):
        a = present[p]
        for q in range(p):
            factor[p, q] = (covariance[a, present[q]] - (factor[p, :q] * factor[q, :q]).sum()) / factor[q, q]
        rest = covariance[a, a] + 0.05 * floor[a] - (factor[p, :p] ** 2).sum()
        factor[p, p] = np.sqrt(max(rest, 1e-4 * floor[a]))
        white[p] = (deviation[a] - (factor[p, :p] * white[:p]).sum()) / factor[p, p]
        distance += white[p] ** 2
        determinant += np.log(factor[p, p])
    return distance, determinant, m


@entry_point
def against_own_past(
    vectors: Floats, prior_mean: Floats, prior_covariance: Floats, delay: int, memory: float, prior_rows: float
) -> Floats:
    """(n, 3): squared distance and half log-determinant, both per present component; sum of temperature deviations.

    Args:
        vectors: (n, d) window means of VECTOR, NaN where absent.
        prior_mean: (d,).
        prior_covariance: (d, d) positive definite.
        delay: rows that the past stays behind, so that it does not contain the window.
        memory: time constant of the past in rows.
        prior_rows: rows that the prior is worth.
    """
    out = np.zeros((len(vectors), 3))
    mean, covariance = prior_mean.copy(), prior_covariance.copy()
    floor = np.diag(prior_covariance)
    for i in range(len(vectors)):
        if i >= delay:
            share = 1.0 / min(prior_rows + (i - delay) + 1.0, prior_rows + memory)
            learn(mean, covariance, vectors[i - delay], share)
        deviation = vectors[i] - mean
        distance, determinant, m = distance_and_determinant(covariance, deviation, floor)
        if m > 0:
            out[i, 0], out[i, 1] = distance / m, determinant / m
        for a in TEMPERATURES:
            if not np.isnan(deviation[a]):
                out[i, 2] += deviation[a] / np.sqrt(covariance[a, a] + 0.05 * floor[a])
    return out


def window_vectors(chunks: Chunks, window_min: float) -> Floats:
    """(n_chunks, d) means of VECTOR over the window."""
    columns = [SERIES.index(name) for name in VECTOR]
    return np.stack(
        [window_mean(chunks.end_min, chunks.mean[:, j], chunks.readings[:, j], window_min) for j in columns], axis=1
    )


def kind_scores(parts: Floats) -> dict[str, Floats]:
    """Every kind of score from the parts (n, 3) of `against_own_past`."""
    distance, determinant, warmth = parts.T
    logarithm = np.log1p(distance)
    return {
        "distance": logarithm,
        "likelihood": 0.5 * distance + determinant,
        "hot": np.where(warmth >= 0, logarithm, -logarithm),
    }


def all_scores(prior: Prior, trace: Trace, _vehicle: int) -> tuple[Singles, Bools]:
    """Scores (n_windows, n_memories, n_kinds, n) and labels (n,) at the tuning instants of one van."""
    rows = np.flatnonzero(trace.valid[::TUNING_STRIDE]) * STRIDE
    chunks = chunk_series(trace)
    scores = np.empty((len(WINDOWS_MIN), len(MEMORIES_DAYS), len(KINDS), len(rows)), np.float32)
    for (i, window), (j, memory) in itertools.product(enumerate(WINDOWS_MIN), enumerate(MEMORIES_DAYS)):
        made = kind_scores(own_past_parts(prior, chunks, window, memory))
        for k, kind in enumerate(KINDS):
            scores[i, j, k] = made[kind][rows]
    return scores, trace.label[::EVERY][rows]


def own_past_parts(prior: Prior, chunks: Chunks, window_min: float, memory_days: float) -> Floats:
    """`against_own_past` for one window and memory."""
    i = WINDOWS_MIN.index(window_min)
    vectors = window_vectors(chunks, window_min)
    memory = 1_440.0 * memory_days
    return against_own_past(vectors, prior.mean[i], prior.covariance[i], int(window_min), memory, PRIOR_MIN)


def prior_rows(trace: Trace, _vehicle: int) -> Floats:
    """(n_windows, n, d) window means of every tenth minute of one van."""
    chunks = chunk_series(trace)
    return np.stack([window_vectors(chunks, window)[::10] for window in WINDOWS_MIN])


def fit_fleet_prior(parts: Sequence[Floats]) -> Prior:
    """Mean and covariance over the fleet; a component that no van has gets unit variance.

    Covariances are of the pairs that are present, with a hundredth of the variance added so that they are definite.
    """
    rows = np.concatenate(parts, axis=1)
    known = ~np.isnan(rows)
    mean = np.where(known, rows, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    deviation = np.where(known, rows - mean[:, None], 0.0)
    pairs = np.einsum("wna,wnb->wab", known.astype(np.float64), known.astype(np.float64))
    covariance = np.einsum("wna,wnb->wab", deviation, deviation) / np.maximum(pairs, 1.0)
    variance = np.maximum(np.einsum("waa->wa", covariance), 1e-3)
    return Prior(mean, covariance + 0.01 * variance[:, :, None] * np.eye(len(VECTOR)))


class Gaussian:
    """The detector with the fleet's prior."""

    name = "gaussian"

    def __init__(self, config: GaussianConfig | None = None, prior: Prior | None = None) -> None:
        self.config = config or GaussianConfig()
        self.prior = prior

    def fit(self, train: TraceSource, validation: TraceSource, *, seed: int = 0, workers: int = 1) -> None:
        """Estimate the prior, then take the best combination by AUROC on the training fleet; nothing is random."""
        del validation, seed
        prior = fit_fleet_prior(over_fleet(train, spread(len(train), PRIOR_VEHICLES), prior_rows, workers))
        parts = over_fleet(train, spread(len(train), TUNING_VEHICLES), partial(all_scores, prior), workers)
        scores = np.concatenate([part[0] for part in parts], axis=-1)
        label = np.concatenate([part[1] for part in parts])
        best = -np.inf
        choices = [c for size in (1, 2, 3) for c in itertools.combinations(range(len(WINDOWS_MIN)), size)]
        for windows, j, k in itertools.product(choices, range(len(MEMORIES_DAYS)), range(len(KINDS))):
            auroc = weighted_auroc(scores[list(windows), j, k].max(axis=0), label)
            if auroc > best:
                best = auroc
                self.config = GaussianConfig(tuple(WINDOWS_MIN[i] for i in windows), MEMORIES_DAYS[j], KINDS[k])
        self.prior = prior
        logger.info("gaussian: %s, AUROC %.4f on the training fleet", self.config, best)

    def score(self, traces: Sequence[Trace]) -> list[Singles]:
        """One score per sample of each trace, renewed once a minute.

        Raises:
            BaselineError: not fitted.
        """
        prior = self.prior
        if prior is None:
            raise BaselineError("gaussian is not fitted")
        return [self._score_one(prior, trace) for trace in traces]

    def _score_one(self, prior: Prior, trace: Trace) -> Singles:
        chunks = chunk_series(trace)
        parts = [own_past_parts(prior, chunks, window, self.config.memory_days) for window in self.config.windows_min]
        scores = [kind_scores(part)[self.config.kind] for part in parts]
        return held(np.max(scores, axis=0), len(trace.ts_ms))

    def save(self, folder: Path) -> None:
        """Write `baseline.json`."""
        if self.prior is None:
            raise BaselineError("gaussian is not fitted")
        folder.mkdir(parents=True, exist_ok=True)
        prior = {"mean": self.prior.mean.tolist(), "covariance": self.prior.covariance.tolist()}
        text = {"name": self.name, "config": asdict(self.config), "prior": prior}
        (folder / "baseline.json").write_text(json.dumps(text, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Gaussian":
        """Inverse of `save`."""
        text = json.loads((folder / "baseline.json").read_text())
        config = GaussianConfig(**{**text["config"], "windows_min": tuple(text["config"]["windows_min"])})
        prior = Prior(np.array(text["prior"]["mean"]), np.array(text["prior"]["covariance"]))
        return cls(config, prior)
