"""Curves are of the same instants as the figures."""

import numpy as np
import pytest

from model.evaluation import AlertRule
from model.evaluation.figures import all_figures
from model.evaluation.histogram import INSTANTS, POSITIVES
from model.evaluation.plots import half_logits, precision_recall
from model.evaluation.summary import Summary, joined, summarise
from model.scoring import Calibration
from tests.model.evaluation.made_up import random_van


@pytest.fixture(scope="module")
def summary() -> Summary:
    """Five random vans."""
    rng = np.random.default_rng(3)
    return joined([summarise(random_van(rng), Calibration(), AlertRule()) for _ in range(5)])


def test_the_area_under_the_precision_recall_curve_is_the_average_precision(summary: Summary) -> None:
    """By steps, as the figure is defined."""
    recall, precision = precision_recall(summary)
    area = float((np.diff(np.concatenate(([0.0], recall))) * precision).sum())
    assert area == pytest.approx(all_figures(summary, np.ones((1, 5)))["auprc"][0], abs=1e-12)
    assert recall[-1] == 1.0


def test_half_logit_bins_lose_no_instant(summary: Summary) -> None:
    """Numbers of instants and positives, and nearly the sum of risks, are those of the whole."""
    groups, sums = half_logits(summary).sum(axis=0), summary.sums.sum(axis=0)
    assert groups[0] == sums[INSTANTS]
    assert groups[2] == sums[POSITIVES]
    assert groups[1] == pytest.approx(summary.reliability[:, :, 1].sum(), rel=1e-3)
