"""Figures from sums per van equal those from sorting every score, within the error that the bins state."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model.evaluation import AlertRule, ScoredVan
from model.evaluation.figures import all_figures, auroc_error, fault_figures, weighted_median
from model.evaluation.summary import Summary, joined, summarise
from model.scoring import Calibration
from tests.model.evaluation.made_up import made_van, random_van

POINT = Calibration(slope=1.3, intercept=0.4, alert_threshold=0.6, resolve_threshold=0.3, f2_threshold=0.35)
RULE = AlertRule()


def fleet(seed: int = 0, n: int = 7, steps: float = 0.0) -> list[ScoredVan]:
    """Random vans, every other one faulty."""
    rng = np.random.default_rng(seed)
    return [random_van(rng, steps=steps, fault="pump" if i % 2 else "") for i in range(n)]


def summary_of(vans: list[ScoredVan]) -> Summary:
    """Judged at POINT."""
    return joined([summarise(van, POINT, RULE) for van in vans])


def instants(vans: list[ScoredVan]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores and labels of what is judged."""
    kept = [van.valid & (np.arange(len(van.score)) >= RULE.warmup_samples) for van in vans]
    score = np.concatenate([van.score[k] for van, k in zip(vans, kept, strict=True)]).astype(np.float64)
    return score, np.concatenate([van.label[k] for van, k in zip(vans, kept, strict=True)])


def mann_whitney(score: NDArray[np.float64], label: NDArray[np.bool_]) -> float:
    """Share of (positive, negative) pairs in the right order, ties half: every pair looked at."""
    positive, negative = score[label], np.sort(score[~label])
    below = np.searchsorted(negative, positive, side="left")
    tied = np.searchsorted(negative, positive, side="right") - below
    return float((below + 0.5 * tied).sum() / (len(positive) * len(negative)))


def sorted_average_precision(score: NDArray[np.float64], label: NDArray[np.bool_]) -> float:
    """Precision at every distinct score, weighed by the step in recall."""
    total = 0.0
    for value in np.unique(score[label]):
        at = score >= value
        total += label[at].mean() * (score[label] == value).sum()
    return float(total / label.sum())


@pytest.mark.parametrize("steps", [0.0, 0.25])
def test_rank_figures_agree_with_sorting(steps: float) -> None:
    """AUROC within the stated bin error, average precision closely; exactly where scores are coarser than the bins."""
    vans = fleet(steps=steps)
    score, label = instants(vans)
    summary = summary_of(vans)
    found = {name: float(values[0]) for name, values in all_figures(summary, np.ones((1, len(vans)))).items()}
    bound = float(auroc_error(summary.positive.sum(axis=0).astype(float), summary.negative.sum(axis=0).astype(float)))
    exact = mann_whitney(score, label)
    if steps:
        assert found["auroc"] == pytest.approx(exact, abs=1e-12)
        assert found["auprc"] == pytest.approx(sorted_average_precision(score, label), abs=1e-12)
    else:
        assert 0.0 < bound < 2e-3
        assert abs(found["auroc"] - exact) <= bound
        assert found["auprc"] == pytest.approx(sorted_average_precision(score, label), abs=2e-3)


def test_constant_scores_rank_nothing() -> None:
    """All tied: AUROC a half, average precision the share of positives."""
    vans = [
        ScoredVan(v.vehicle_id, "", v.ts_ms, np.zeros_like(v.score), v.label, v.valid, v.events_ms) for v in fleet()
    ]
    found = all_figures(summary_of(vans), np.ones((1, len(vans))))
    assert found["auroc"][0] == pytest.approx(0.5, abs=1e-12)
    assert found["auprc"][0] == pytest.approx(instants(vans)[1].mean(), abs=1e-12)


def test_threshold_figures_are_exact() -> None:
    """F2, precision, recall, Brier and calibration error equal their definitions over instants."""
    vans = fleet(1)
    score, label = instants(vans)
    risk = POINT.risk(score)
    at = risk >= POINT.f2_threshold
    precision, recall = label[at].mean(), at[label].mean()
    which = np.minimum((risk * 15).astype(int), 14)
    ece = sum(abs(risk[which == b].sum() - label[which == b].sum()) for b in range(15)) / len(risk)
    found = {name: float(values[0]) for name, values in all_figures(summary_of(vans), np.ones((1, len(vans)))).items()}
    assert found["precision"] == pytest.approx(precision, abs=1e-12)
    assert found["recall"] == pytest.approx(recall, abs=1e-12)
    assert found["f2"] == pytest.approx(5 * precision * recall / (4 * precision + recall), abs=1e-12)
    assert found["brier"] == pytest.approx(((risk - label) ** 2).mean(), abs=1e-9)
    assert found["ece"] == pytest.approx(ece, abs=1e-9)


def test_equal_mass_calibration_error_agrees_with_sorted_groups() -> None:
    """Fifteen groups of equal numbers of instants, cut from the sorted risks."""
    vans = fleet(2)
    score, label = instants(vans)
    order = np.argsort(score)
    groups = np.array_split(order, 15)
    risk = POINT.risk(score)
    exact = sum(abs(risk[g].sum() - label[g].sum()) for g in groups) / len(risk)
    found = all_figures(summary_of(vans), np.ones((1, len(vans))))["ece_equal_mass"][0]
    assert found == pytest.approx(exact, abs=2e-3)


def test_a_resample_is_the_fleet_with_vans_repeated() -> None:
    """Weights of 2, 0, 1, ... give the figures of a fleet that has the van twice, not at all, once."""
    vans = [*fleet(3, 4), made_van(12, high=[(3, 5), (8, 8.1)], events=[(4, 5)], fault="pump")]
    vans += [made_van(12, high=[(6, 6.2)], events=[(7, 8)]), made_van(9, high=[(1, 3)], events=[(2, 3)])]
    weights = np.array([[2.0, 0.0, 1.0, 0.0, 1.0, 1.0, 2.0]])
    repeated = [van for van, times in zip(vans, weights[0], strict=True) for _ in range(int(times))]
    weighted = all_figures(summary_of(vans), weights)
    plain = all_figures(summary_of(repeated), np.ones((1, len(repeated))))
    for name, values in plain.items():
        tolerance = 1e-3 if name == "ece_equal_mass" else 1e-12  # its groups are cut on the fleet as it is
        assert weighted[name][0] == pytest.approx(values[0], abs=tolerance), name


def test_event_figures_of_hand_made_vans() -> None:
    """Two of three events caught, one of them early; two false alarms in 36 hours."""
    vans = [
        made_van(12, high=[(3, 5)], events=[(4, 5)]),
        made_van(12, high=[(1, 2), (8, 12)], events=[(11, 12)]),
        made_van(12, events=[(6, 7)]),
    ]
    found = {name: float(values[0]) for name, values in all_figures(summary_of(vans), np.ones((1, 3))).items()}
    assert found["event_recall"] == pytest.approx(2 / 3)
    assert found["event_recall_within_horizon"] == pytest.approx(1 / 3)
    assert found["lead_time_median"] == pytest.approx((59 + 179) / 2)
    assert found["false_alarms_per_vehicle_day"] == pytest.approx(2 / 1.5, rel=1e-3)


def test_a_fault_is_judged_against_healthy_vans() -> None:
    """Positive instants of the kind's vans, negative ones of the healthy vans, nothing else."""
    vans = fleet(4, steps=0.25)
    sick, healthy = [v for v in vans if v.fault == "pump"], [v for v in vans if not v.fault]
    (score, label), (healthy_score, healthy_label) = instants(sick), instants(healthy)
    both = np.concatenate((score[label], healthy_score[~healthy_label]))
    kinds = np.concatenate((np.ones(int(label.sum()), bool), np.zeros(int((~healthy_label).sum()), bool)))
    found = fault_figures(summary_of(vans), np.ones((1, len(vans))), "pump")
    assert found["auroc"][0] == pytest.approx(mann_whitney(both, kinds), abs=1e-12)


def test_nothing_to_measure_is_nan() -> None:
    """A fleet without events or positives has no recall, no AUROC and no lead time, but false alarms."""
    found = all_figures(summary_of([made_van(24, high=[(2, 2.5)])]), np.ones((1, 1)))
    for name in ("auroc", "auprc", "f2", "recall", "event_recall", "lead_time_median"):
        assert np.isnan(found[name][0]), name
    assert found["false_alarms_per_vehicle_day"][0] == pytest.approx(1.0, rel=1e-3)


def test_weighted_median_equals_the_median_of_repeated_values() -> None:
    """Odd and even numbers, and no values at all."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=11)
    weights = rng.integers(0, 4, (20, 11)).astype(float)
    expected = [np.median(np.repeat(values, row.astype(int))) for row in weights]
    np.testing.assert_allclose(weighted_median(values, weights), expected)
    assert np.isnan(weighted_median(np.empty(0), np.empty((3, 0)))).all()


def test_a_score_that_is_not_finite_is_refused() -> None:
    """The message names the van and the sample."""
    van = made_van(1)
    broken = van.score.copy()
    broken[17] = np.nan
    with pytest.raises(ValueError, match="van: score of sample 17 is nan"):
        ScoredVan("van", "", van.ts_ms, broken, van.label, van.valid, van.events_ms)
