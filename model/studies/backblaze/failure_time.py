"""How many days are left, of drives that failed: networks against the constant that knows nothing."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from model.evaluation.bootstrap import resample_weights
from model.evaluation.figures import over
from model.studies.backblaze.config import BackblazeConfig
from model.studies.backblaze.drives import NO_FAILURE, Bools, Drives, Floats, Ints
from model.studies.backblaze.inputs import Panel, fit_normaliser, panel
from model.studies.backblaze.networks import NETWORKS
from model.studies.backblaze.splits import Fold, cut_day, folds
from model.studies.backblaze.training import Lessons, absolute_error, days_of, fit_network, neural_config, outputs

logger = logging.getLogger(__name__)

CONSTANT = "constant"  # the median of the training days
CONTENDERS = (*NETWORKS, CONSTANT)
WITHIN = (5, 10)  # days


@dataclass(frozen=True, slots=True)
class Told:
    """What one contender said of the test days of failing drives."""

    drive: Ints  # (n_days,) number of the drive
    days_left: Floats  # (n_days,)
    told: Floats  # (n_days,)

    def figures(self, config: BackblazeConfig) -> dict[str, Floats]:
        """By name: (1 + resamples,), the figure itself first, then on resamples of the drives."""
        _, drive = np.unique(self.drive, return_inverse=True)
        error = self.told - self.days_left
        columns = [np.ones_like(error), np.abs(error), error**2, self.days_left, self.days_left**2]
        columns += [(np.abs(error) <= days).astype(np.float64) for days in WITHIN]
        sums = np.stack([np.bincount(drive, column) for column in columns], axis=1)
        weights = resample_weights(len(sums), config.resamples, config.seed)
        n, absolute, squared, left, left_squared, *within = (weights @ sums).T
        return {
            "mae": over(absolute, n),
            "rmse": np.sqrt(over(squared, n)),
            "r2": 1.0 - over(squared, left_squared - left**2 / n),
            **{f"within_{days}_days": over(share, n) for days, share in zip(WITHIN, within, strict=True)},
        }


def failing(drives: Drives, start: int, end: int) -> Bools:
    """(n_rows,) days from `start` on of drives whose failure lies in [start, end)."""
    end_of = drives.failure_day[drives.drive]
    rows: Bools = (end_of != NO_FAILURE) & (end_of >= start) & (end_of < end) & (drives.day >= start)
    return rows


def days_to_failure(drives: Drives, config: BackblazeConfig, device: torch.device) -> dict[str, Told]:
    """Trained on drives that failed before the cut, judged on other drives that failed after it, on their days after it."""
    found: dict[str, list[Told]] = {name: [] for name in CONTENDERS}
    for number, fold in enumerate(folds(drives, config)):
        for name, told in _of_fold(drives, fold, config, device).items():
            found[name].append(told)
        logger.info("fold %d of %d: days to failure", number + 1, config.folds)
    return {
        name: Told(
            drive=np.concatenate([told.drive for told in parts]),
            days_left=np.concatenate([told.days_left for told in parts]),
            told=np.concatenate([told.told for told in parts]),
        )
        for name, parts in found.items()
    }


def _of_fold(drives: Drives, fold: Fold, config: BackblazeConfig, device: torch.device) -> dict[str, Told]:
    cut = cut_day(drives, config)
    train, validation, test = (drives.take(part) for part in (fold.train, fold.validation, fold.test))
    normaliser = fit_normaliser(train, cut, config.shrink_rows)
    on_validation, on_test = (panel(part, normaliser(part)) for part in (validation, test))
    learnt, chosen, judged = failing(train, 0, cut), failing(validation, 0, cut), failing(test, cut, drives.n_days)
    middle = float(np.median(train.days_left[learnt]))
    spread = max(float(np.abs(train.days_left[learnt] - middle).mean()), 1.0)
    lessons = Lessons(
        panel(train, normaliser(train)),
        target=train.padded(np.nan_to_num((train.days_left - middle) / spread).astype(np.float32)),
        counted=train.padded(learnt, fill=False),
    )
    settings = neural_config(config, "bce", 0.5)  # its loss is replaced by `absolute_error`

    def days(network: nn.Module, of: Panel, asked: Bools) -> Floats:
        said = outputs(network, of, asked, settings, device, days_of)
        return np.maximum(middle + spread * said, 0.0)

    def figure(network: nn.Module) -> float:
        return -float(np.abs(days(network, on_validation, chosen) - validation.days_left)[chosen].mean())

    said = {CONSTANT: np.full(len(test.day), middle)}
    for name in NETWORKS:
        network = fit_network(name, lessons, absolute_error, figure, settings, config, device)
        said[name] = days(network, on_test, judged)
    drive = fold.test[test.drive[judged]]
    return {name: Told(drive, test.days_left[judged], told[judged]) for name, told in said.items()}
