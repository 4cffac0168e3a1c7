"""The few figures that a training run writes into a model card."""

import math
from collections.abc import Sequence

import numpy as np

from model.evaluation.alerts import AlertRule
from model.evaluation.figures import all_figures
from model.evaluation.histogram import INSTANTS, POSITIVES
from model.evaluation.scored import ScoredVan
from model.evaluation.summary import joined, summarise
from model.scoring import Calibration


def figures_of_vans(
    vans: Sequence[ScoredVan], calibration: Calibration, rule: AlertRule | None = None
) -> dict[str, float | None]:
    """Every figure of the main table for one set of vans, without intervals; None where there was nothing to measure."""
    rule = rule or AlertRule()
    summary = joined([summarise(van, calibration, rule) for van in vans])
    sums = summary.sums.sum(axis=0)
    figures = {
        "vans": float(len(summary)),
        "instants": float(sums[INSTANTS]),
        "positive_share": float(sums[POSITIVES] / max(sums[INSTANTS], 1.0)),
        "events": float(len(summary.events)),
        "vehicle_days": float(summary.days.sum()),
        **{name: float(values[0]) for name, values in all_figures(summary, np.ones((1, len(summary)))).items()},
    }
    return {name: None if math.isnan(value) else round(value, 5) for name, value in figures.items()}
