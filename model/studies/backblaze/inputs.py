"""What the learners are shown: attributes per drive model as z-scores, and for boosting their last week besides."""

from dataclasses import dataclass

import numpy as np

from model.baselines.windows import value_before, window_mean
from model.studies.backblaze.config import BackblazeConfig
from model.studies.backblaze.drives import Bools, Drives, Floats, Ints, Singles

LEAST_SPREAD = 0.1  # of log(1 + raw value): a counter that never moved would turn any move into an outlier
CLIP = 8.0  # spreads
WEEK_MIN = 7 * 1_440.0
ROLLING = ("mean7", "deviation7", "change7")


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Mean and spread of each attribute, per drive model; rare models borrow from the whole fleet."""

    models: dict[str, int]  # rows of the tables below; the last row is the fleet's, for models never seen
    mean: Floats  # (n_models + 1, n_attributes)
    spread: Floats

    def __call__(self, drives: Drives) -> Singles:
        """(n_rows, n_attributes) z-scores, NaN where absent."""
        fleet = len(self.models)
        row = np.array([self.models.get(str(name), fleet) for name in drives.models])[drives.drive]
        z = (drives.values - self.mean[row]) / self.spread[row]
        clipped: Singles = np.clip(z, -CLIP, CLIP).astype(np.float32)
        return clipped


def fit_normaliser(drives: Drives, before: int, shrink_rows: int) -> Normaliser:
    """From these drives' days before day `before`; labels are not looked at.

    Args:
        drives: of the training split.
        before: the first day that is not used.
        shrink_rows: days of the fleet that each model's statistics start with.
    """
    rows = drives.day < before
    values = drives.values[rows].astype(np.float64)
    names, model = np.unique(drives.models, return_inverse=True)
    model = model[drives.drive[rows]]
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    count = np.stack([np.bincount(model, k, len(names)) for k in known.T.astype(float)], axis=1)
    total = np.stack([np.bincount(model, v, len(names)) for v in filled.T], axis=1)
    square = np.stack([np.bincount(model, v, len(names)) for v in (filled**2).T], axis=1)
    fleet_mean = total.sum(axis=0) / np.maximum(count.sum(axis=0), 1.0)
    fleet_square = square.sum(axis=0) / np.maximum(count.sum(axis=0), 1.0)
    mean = (total + shrink_rows * fleet_mean) / (count + shrink_rows)
    variance = (square + shrink_rows * fleet_square) / (count + shrink_rows) - mean**2
    mean = np.concatenate((mean, fleet_mean[None]))
    variance = np.concatenate((variance, (fleet_square - fleet_mean**2)[None]))
    return Normaliser(
        models={str(name): i for i, name in enumerate(names)},
        mean=mean,
        spread=np.sqrt(np.maximum(variance, LEAST_SPREAD**2)),
    )


@dataclass(frozen=True, slots=True)
class Panel:
    """Drives as padded sequences for the networks."""

    inputs: Singles  # (n_drives, longest, 2 * n_attributes) z-scores, 0 where absent, then present bits
    ratio: Singles  # (n_drives, longest) days since the row before; 1 for the first and in the padding
    day: Ints  # (n_drives, longest); -1 in the padding


def panel(drives: Drives, z: Singles) -> Panel:
    """Sequences of z-scores (n_rows, n_attributes)."""
    present = ~np.isnan(z)
    elapsed = np.diff(drives.day, prepend=drives.day[0] - 1).astype(np.float32)
    elapsed[drives.starts[:-1]] = 1.0
    return Panel(
        inputs=drives.padded(np.concatenate((np.where(present, z, 0.0), present), axis=1).astype(np.float32)),
        ratio=drives.padded(elapsed, 1.0),
        day=drives.padded(drives.day, -1),
    )


def rolling_names(attributes: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the columns of `rolling`."""
    return tuple(f"smart_{a}{suffix}" for a in attributes for suffix in ("", *(f"_{name}" for name in ROLLING)))


def rolling(drives: Drives, z: Singles) -> Singles:
    """(n_rows, 4 * n_attributes) each attribute, its mean and deviation over seven days and its change in seven days."""
    out = np.full((len(z), z.shape[1], 1 + len(ROLLING)), np.nan, np.float32)
    out[:, :, 0] = z
    for drive in range(len(drives)):
        rows = slice(drives.starts[drive], drives.starts[drive + 1])
        minutes = (drives.day[rows] * 1_440).astype(np.float64)
        for i in range(z.shape[1]):
            values = z[rows, i].astype(np.float64)
            count = (~np.isnan(values)).astype(np.float64)
            mean = window_mean(minutes, values, count, WEEK_MIN)
            square = window_mean(minutes, values**2, count, WEEK_MIN)
            out[rows, i, 1] = mean
            out[rows, i, 2] = np.sqrt(np.maximum(square - mean**2, 0.0))
            out[rows, i, 3] = values - value_before(minutes, values, WEEK_MIN)
    return out.reshape(len(z), -1)


def undersampled(z: Singles, label: Bools, counted: Bools, config: BackblazeConfig) -> Bools:
    """(n_rows,) all counted positives, and of the counted negatives about `negatives` for each.

    Every k-means cluster of the negatives gives its share, at least one day, so that rare healthy behaviour is not lost. As
    many of each cluster would teach that what is rare is healthy (docs/log.md).
    """
    from scipy.cluster.vq import kmeans2  # noqa: PLC0415  (an extra)

    positive, negative = counted & label, np.flatnonzero(counted & ~label)
    keep = int(config.negatives * positive.sum())
    if len(negative) <= keep:
        return counted
    points = np.nan_to_num(z[negative]).astype(np.float64)
    clusters = min(config.clusters, keep)
    _, cluster = kmeans2(points, clusters, minit="++", missing="warn", rng=np.random.default_rng(config.seed))
    rng = np.random.default_rng((config.seed, 1))
    chosen = positive.copy()
    for k in range(clusters):
        of_cluster = np.flatnonzero(cluster == k)
        take = min(len(of_cluster), max(round(keep * len(of_cluster) / len(negative)), 1))
        chosen[negative[rng.choice(of_cluster, take, replace=False)]] = True
    return chosen
