"""Splits that share neither drives nor time: folds of the drives, and one day that parts fitting from testing."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model.studies.backblaze.config import BackblazeConfig
from model.studies.backblaze.drives import NO_FAILURE, Drives, Ints


@dataclass(frozen=True, slots=True)
class Fold:
    """Numbers of drives."""

    train: Ints
    validation: Ints
    test: Ints


def cut_day(drives: Drives, config: BackblazeConfig) -> int:
    """The first day of the test period. Everything that is fitted or chosen was known before it."""
    return round(config.cut * drives.n_days)


def folds(drives: Drives, config: BackblazeConfig) -> Iterator[Fold]:
    """Each drive is tested once, by what was trained and chosen on others.

    Drives that fail before the cut, after it and not at all are spread over the folds apart.

    Raises:
        ValueError: too few drives fail on either side of the cut for so many folds, or the data are too short.
    """
    cut = cut_day(drives, config)
    if min(cut, drives.n_days - cut) < 2 * config.horizon_days:
        raise ValueError(
            f"{drives.n_days} days are too few: before and after the cut at day {cut} there must be two horizons of "
            f"{config.horizon_days} days each"
        )
    late, early = drives.failure_day >= cut, (drives.failure_day != NO_FAILURE) & (drives.failure_day < cut)
    for name, failing in (("before", early), ("after", late)):
        if failing.sum() < config.folds:
            raise ValueError(
                f"{failing.sum()} drives fail {name} day {cut}, which is too few for {config.folds} folds; "
                "take more data, all drive models, or fewer folds"
            )
    rng = np.random.default_rng(config.seed)
    fold = np.empty(len(drives), np.int64)
    for group in (early, late, ~early & ~late):
        members = rng.permutation(np.flatnonzero(group))
        fold[members] = np.arange(len(members)) % config.folds
    for test in range(config.folds):
        validation = (test + 1) % config.folds
        yield Fold(
            train=np.flatnonzero((fold != test) & (fold != validation)),
            validation=np.flatnonzero(fold == validation),
            test=np.flatnonzero(fold == test),
        )
