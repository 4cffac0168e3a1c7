"""Does the drive fail within a week? Contenders trained, calibrated and judged fold by fold."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from model.baselines.booster import Rows, boost
from model.evaluation.bootstrap import resample_weights
from model.evaluation.calibration import best_f2_threshold, binned, fit_platt
from model.evaluation.exact import weighted_auroc
from model.evaluation.figures import instant_figures, over
from model.evaluation.histogram import Tallies, VanTally, side_by_side, tally
from model.evaluation.scored import ScoredVan
from model.scoring import Calibration
from model.studies.backblaze.config import LOSSES, BackblazeConfig
from model.studies.backblaze.drives import Bools, Drives, Floats, Singles
from model.studies.backblaze.inputs import fit_normaliser, panel, rolling, rolling_names, undersampled
from model.studies.backblaze.networks import NETWORKS
from model.studies.backblaze.splits import Fold, cut_day, folds
from model.studies.backblaze.training import Lessons, fit_network, neural_config, outputs, risk_of

logger = logging.getLogger(__name__)

DAY_MS = 86_400_000
TREES = {"num_leaves": 15, "min_data_in_leaf": 20, "feature_fraction": 0.5, "lambda_l2": 1.0}
PATIENCE = 100  # trees without a better validation AUROC
BOOSTING = "lightgbm"


@dataclass(frozen=True, slots=True)
class Contender:
    """A learner and what it minimises."""

    model: str
    loss: str = "bce"

    @property
    def label(self) -> str:
        """For tables and plots."""
        return self.model if self.model == BOOSTING else f"{self.model}, {self.loss}"


CONTENDERS = (Contender(BOOSTING), *(Contender(network, loss) for network in NETWORKS for loss in LOSSES))


@dataclass(frozen=True, slots=True)
class Part:
    """Drives of one split with what the learners see of them and whether each row counts."""

    drives: Drives
    z: Singles  # (n_rows, n_attributes)
    label: Bools  # (n_rows,)
    counted: Bools  # (n_rows,)


@dataclass(frozen=True, slots=True)
class Judged:
    """A contender's test days over all folds, drive by drive, each at its fold's calibration."""

    names: tuple[str, ...]  # of drives with a test day that counts, sorted, in the tallies' order
    tallies: Tallies
    validation_auroc: float  # mean over the folds

    def figures(self, config: BackblazeConfig) -> dict[str, Floats]:
        """By name: (1 + resamples,), the figure itself first, then on resamples of the drives."""
        weights = resample_weights(len(self.names), config.resamples, config.seed)
        found = instant_figures(self.tallies, weights)
        precision, recall = np.nan_to_num(found["precision"]), found["recall"]
        return {**found, "f1": over(2.0 * precision * recall, precision + recall)}

    def of(self, names: set[str]) -> "Judged":
        """These drives only."""
        rows = [i for i, name in enumerate(self.names) if name in names]
        t = self.tallies
        return Judged(
            tuple(self.names[i] for i in rows),
            Tallies(t.positive[rows], t.negative[rows], t.reliability[rows], t.sums[rows]),
            self.validation_auroc,
        )


def parts_of(drives: Drives, fold: Fold, config: BackblazeConfig) -> tuple[Part, Part, Part]:
    """Training, validation and test drives, normalised by what was known of the training drives before the cut.

    Raises:
        ValueError: nothing to learn from, or nothing to choose by.
    """
    cut = cut_day(drives, config)
    train = drives.take(fold.train)
    normaliser = fit_normaliser(train, cut, config.shrink_rows)
    parts = []
    for part, start, end in (
        (train, 0, cut),
        (drives.take(fold.validation), 0, cut),
        (drives.take(fold.test), cut, drives.n_days),
    ):
        counted = part.counted(config.horizon_days, start, end)
        parts.append(Part(part, normaliser(part), part.label(config.horizon_days), counted))
    for name, one in zip(("training", "validation"), parts, strict=False):
        if not one.label[one.counted].any() or one.label[one.counted].all():
            raise ValueError(
                f"the {name} drives of a fold have no counted day of one kind, with or without a failure within "
                f"{config.horizon_days} days; take more data, all drive models, or fewer folds"
            )
    return parts[0], parts[1], parts[2]


def classify(
    drives: Drives,
    config: BackblazeConfig,
    device: torch.device,
    contenders: Sequence[Contender] = CONTENDERS,
    *,
    undersample: bool = True,
) -> dict[Contender, Judged]:
    """Every contender on every fold.

    Raises:
        ValueError: too few drives fail for so many folds.
    """
    found: dict[Contender, dict[str, VanTally]] = {contender: {} for contender in contenders}
    aurocs: dict[Contender, list[float]] = {contender: [] for contender in contenders}
    for number, fold in enumerate(folds(drives, config)):
        train, validation, test = parts_of(drives, fold, config)
        learnt = undersampled(train.z, train.label, train.counted, config) if undersample else train.counted
        taught = Part(train.drives, train.z, train.label, learnt)
        for contender in contenders:
            if contender.model == BOOSTING:
                on_validation, on_test = _boosting(taught, validation, test, config)
            else:
                on_validation, on_test = _network(contender, taught, validation, test, config, device)
            calibration = calibrated(validation, on_validation)
            found[contender] |= drive_tallies(test, on_test, calibration)
            rows = validation.counted
            aurocs[contender].append(weighted_auroc(on_validation[rows], validation.label[rows]))
            logger.info(
                "fold %d of %d, %s: validation AUROC %.3f",
                number + 1,
                config.folds,
                contender.label,
                aurocs[contender][-1],
            )
    return {
        contender: Judged(
            names=tuple(sorted(tallies)),
            tallies=side_by_side([tallies[name] for name in sorted(tallies)]),
            validation_auroc=float(np.mean(aurocs[contender])),
        )
        for contender, tallies in found.items()
    }


def _boosting(train: Part, validation: Part, test: Part, config: BackblazeConfig) -> tuple[Floats, Floats]:
    """Margins of all validation and test rows."""
    names = rolling_names(train.drives.attributes)
    tables = [rolling(part.drives, part.z) for part in (train, validation, test)]
    every = np.ones(len(names), np.bool_)
    rows, judged = (
        Rows(x[part.counted], part.label[part.counted], np.ones(int(part.counted.sum())), names, every)
        for x, part in zip(tables, (train, validation), strict=False)
    )
    booster, _auroc = boost(
        rows, judged, every, TREES, seed=config.seed, trees=config.trees, patience=PATIENCE,
        threads=torch.get_num_threads(),
    )  # fmt: skip
    on_validation, on_test = (np.asarray(booster.predict(x, raw_score=True), np.float64) for x in tables[1:])
    return on_validation, on_test


def _network(
    contender: Contender, train: Part, validation: Part, test: Part, config: BackblazeConfig, device: torch.device
) -> tuple[Floats, Floats]:
    """Logits of the validation and test rows that count."""
    settings = neural_config(config, contender.loss, float(train.label[train.counted].mean()))
    panels = [panel(part.drives, part.z) for part in (train, validation, test)]
    lessons = Lessons(
        panels[0],
        target=train.drives.padded(train.label.astype(np.float32)),
        counted=train.drives.padded(train.counted, fill=False),
    )

    def logits(network: nn.Module, which: int) -> Floats:
        part = (train, validation, test)[which]
        return outputs(network, panels[which], part.counted, settings, device)

    def figure(network: nn.Module) -> float:
        rows = validation.counted
        return weighted_auroc(logits(network, 1)[rows], validation.label[rows])

    network = fit_network(contender.model, lessons, risk_of(settings.training), figure, settings, config, device)
    return logits(network, 1), logits(network, 2)


def calibrated(part: Part, score: Floats) -> Calibration:
    """Slope, intercept and the threshold with the best F2, from the validation drives.

    Raises:
        ValueError: no validation day is positive, or all are.
    """
    slope, intercept = fit_platt(*binned(score[part.counted], part.label[part.counted]))
    plain = Calibration(slope=slope, intercept=intercept)
    return Calibration(
        slope, intercept, f2_threshold=best_f2_threshold(list(drive_tallies(part, score, plain).values()))
    )


def drive_tallies(part: Part, score: Floats, calibration: Calibration) -> dict[str, VanTally]:
    """By name, of drives with a day that counts."""
    drives, found = part.drives, {}
    for i in range(len(drives)):
        rows = slice(drives.starts[i], drives.starts[i + 1])
        if part.counted[rows].any():
            one = ScoredVan(
                vehicle_id=f"{drives.models[i]} {drives.serials[i]}",
                fault="",
                ts_ms=drives.day[rows] * DAY_MS,
                score=score[rows].astype(np.float32),
                label=part.label[rows],
                valid=part.counted[rows],
                events_ms=np.zeros(0, np.int64),
            )
            found[one.vehicle_id] = tally(one, calibration, warmup_samples=0)
    return found
