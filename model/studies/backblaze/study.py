"""The study as a whole: what is run on what, and what becomes of it."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from model.studies.backblaze.classification import BOOSTING, Contender, Judged, classify
from model.studies.backblaze.config import BackblazeConfig
from model.studies.backblaze.drives import NO_FAILURE, Drives
from model.studies.backblaze.failure_time import days_to_failure
from model.studies.backblaze.findings import Figures, Findings, Single
from model.studies.backblaze.loader import load
from model.studies.backblaze.page import report_of
from model.studies.report import StudyReport

logger = logging.getLogger(__name__)

# What is repeated on all training days, and on one drive model alone.
PROBES = (Contender(BOOSTING), Contender("mamba"))


def run(folder: Path, config: BackblazeConfig, device: torch.device) -> StudyReport:
    """Read the drives, hold every contest, write down who won.

    Raises:
        ValueError: the data cannot be used, or too few drives fail in them.
    """
    drives = load(folder, config)
    main = classify(drives, config, device)
    logger.info("again, on all training days")
    plain = classify(drives, config, device, PROBES, undersample=False)
    single = single_model(drives, main, config, device)
    days = {name: told.figures(config) for name, told in days_to_failure(drives, config, device).items()}
    return report_of(
        Findings(
            config=config,
            drives=drives,
            classified=figures(main, config),
            validation={contender: judged.validation_auroc for contender, judged in main.items()},
            all_days=figures(plain, config),
            single=single,
            days=days,
        )
    )


def figures(judged: Mapping[Contender, Judged], config: BackblazeConfig) -> dict[Contender, Figures]:
    """The figures of every contender."""
    return {contender: one.figures(config) for contender, one in judged.items()}


def single_model(
    drives: Drives, main: Mapping[Contender, Judged], config: BackblazeConfig, device: torch.device
) -> Single | None:
    """The drive model that fails most, by what was trained on it alone and by what was trained on all, on the same drives.

    None when there is only one drive model, or too few of its drives fail.
    """
    name, failures = Counter(drives.models[drives.failure_day != NO_FAILURE].tolist()).most_common(1)[0]
    own = drives.take(np.flatnonzero(drives.models == name))
    if len(own) == len(drives):
        return None
    logger.info("again, on %s alone", name)
    try:
        alone = classify(own, config, device, PROBES)
    except ValueError as error:
        logger.info("not on one drive model alone: %s", error)
        return None
    names = set(alone[PROBES[0]].names)
    mixed = {contender: main[contender].of(names) for contender in PROBES}
    return Single(name, len(own), failures, alone=figures(alone, config), mixed=figures(mixed, config))
