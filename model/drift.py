"""How far the inputs and scores of a running fleet have moved from those of training: the population stability index.

The reference is a small file beside the weights, written by `python -m model.drift_reference`. What this does not know:
metrics, time zones, who asks. Inputs are compared as the network sees them, as z-scores; a z-score is shrunk towards the
training fleet's mean for days (model/normaliser.py), so a changed unit or a broken sensor of a whole fleet shows at once.

Source of the index and of its usual reading (below 0.1 none, above 0.25 a lot): Siddiqi, Credit Risk Scorecards, 2006.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FILE = "drift.json"
LEAST_SHARE = 1e-4  # of a bin, in the index: an empty one would make it infinite
LEAST_SAMPLES = 2_000.0  # of the window before there is an index at all


class DriftReferenceError(ValueError):
    """The reference cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A reference distribution by bins.

    Attributes:
        edges: (n_bins - 1,) rising; a value equal to an edge belongs below it.
        shares: (n_bins,) of the values in each bin, adding up to 1.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.edges) + 1 or not self.edges:
            raise DriftReferenceError(f"{len(self.edges)} edges need one share more, got {len(self.shares)}")
        if not np.all(np.diff(self.edges) > 0) or not np.all(np.isfinite(self.edges)):
            raise DriftReferenceError("edges must be finite and rise")
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-3:
            raise DriftReferenceError("shares must not be negative and add up to 1")


@dataclass(frozen=True, slots=True)
class DriftReference:
    """What training saw.

    Attributes:
        fingerprint: of the model whose inputs and scores these are.
        command: that wrote it.
        channels: z-scores where present, by the channel's name, in the model's order.
        score: calibrated risks.
    """

    fingerprint: str
    command: str
    channels: dict[str, Distribution]
    score: Distribution

    def save(self, folder: Path) -> None:
        """Write it beside the checkpoint."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def load(folder: Path, fingerprint: str) -> "DriftReference | None":
        """The reference of the checkpoint in `folder`; None if it has none.

        Raises:
            DriftReferenceError: there is one that cannot be read or belongs to another model.
        """
        file = folder / FILE
        if not file.exists():
            return None
        try:
            text = json.loads(file.read_text())
            found = DriftReference(
                text["fingerprint"],
                text["command"],
                {name: distribution(part) for name, part in text["channels"].items()},
                distribution(text["score"]),
            )
        except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DriftReferenceError(f"no readable reference at {file}: {error!r}") from error
        if found.fingerprint != fingerprint:
            raise DriftReferenceError(
                f"{file} is of model {found.fingerprint}, the checkpoint is {fingerprint}; "
                f"run python -m model.drift_reference --checkpoint {folder}"
            )
        return found


def distribution(part: dict[str, list[float]]) -> Distribution:
    """From plain data."""
    return Distribution(tuple(map(float, part["edges"])), tuple(map(float, part["shares"])))


def stability_index(shares: Floats, reference: Floats) -> Floats:
    """Population stability index over the last axis: sum of (p - q) ln(p / q), each share at least LEAST_SHARE."""
    p, q = np.maximum(shares, LEAST_SHARE), np.maximum(reference, LEAST_SHARE)
    index: Floats = ((p - q) * np.log(p / q)).sum(axis=-1)
    return index


class DriftMonitor:
    """Counts what passes by bins, forgets it by half in every `half_life_s`, and compares. Safe to read from any thread.

    A batch of 240 costs about 60 microseconds (docs/log.md).

    Args:
        reference: to compare with.
        half_life_s: how long until a sample counts half.
        clock: seconds that never go back.
    """

    def __init__(
        self, reference: DriftReference, half_life_s: float = 86_400.0, clock: Callable[[], float] = monotonic
    ) -> None:
        self.channels = tuple(reference.channels)
        self._half_life_s, self._clock = half_life_s, clock
        rows = [*reference.channels.values(), reference.score]
        self._n_bins = max(len(row.shares) for row in rows)
        # Rows are padded with edges that nothing exceeds and with bins that stay empty on both sides.
        self._edges = np.full((len(rows), self._n_bins - 1), np.inf, np.float32)
        self._reference = np.zeros((len(rows), self._n_bins))
        for i, row in enumerate(rows):
            self._edges[i, : len(row.edges)] = row.edges
            self._reference[i, : len(row.shares)] = row.shares
        self._counts = np.zeros((len(rows), self._n_bins))
        self._offsets = np.arange(len(rows)) * self._n_bins
        self._since = clock()
        self._lock = threading.Lock()

    def observe(self, z: NDArray[np.float32], present: NDArray[np.bool_], risk: Floats) -> None:
        """Count a batch: z-scores and presence (rows, n_channels), risks (rows,); what is not finite does not count."""
        values = np.concatenate([z, risk[:, None]], axis=1, dtype=np.float32)
        counted = np.concatenate([present, np.isfinite(risk)[:, None]], axis=1)
        bins = (values[:, :, None] > self._edges).sum(axis=2) + self._offsets
        found = np.bincount(bins[counted], minlength=self._counts.size).reshape(self._counts.shape)
        with self._lock:
            self._forget()
            self._counts += found

    def _forget(self) -> None:
        now = self._clock()
        self._counts *= 0.5 ** ((now - self._since) / self._half_life_s)
        self._since = now

    def read(self) -> tuple[dict[str, float], float]:
        """Index of each channel and of the score; NaN where too little has been seen."""
        with self._lock:
            self._forget()
            counts = self._counts.copy()
        total = counts.sum(axis=1, keepdims=True)
        index = stability_index(counts / np.maximum(total, 1.0), self._reference)
        index[total[:, 0] < LEAST_SAMPLES] = np.nan
        *channels, score = index.tolist()
        return dict(zip(self.channels, channels, strict=True)), score
