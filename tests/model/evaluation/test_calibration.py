"""Slope and intercept recover the truth; thresholds obey the budget and are as good as any on a fine grid."""

import numpy as np
import pytest

from model.evaluation import AlertRule, ScoredVan, choose_calibration, fit_platt
from model.evaluation.alerts import Thresholds, event_times, score_at
from model.evaluation.calibration import binned, choose_alert_threshold, count_alarms
from model.scoring import Calibration
from tests.model.evaluation.made_up import made_van, random_van


def drawn(slope: float, intercept: float, n: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels that follow the given curve."""
    rng = np.random.default_rng(5)
    score = rng.normal(-1.0, 2.0, n)
    return score, rng.random(n) < 1.0 / (1.0 + np.exp(-(slope * score + intercept)))


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.4, -3.0), (2.5, -6.0)])
def test_platt_recovers_known_parameters(slope: float, intercept: float) -> None:
    """Within the sampling error of 200,000 instants."""
    found = fit_platt(*drawn(slope, intercept))
    assert found[0] == pytest.approx(slope, rel=0.05)
    assert found[1] == pytest.approx(intercept, rel=0.05, abs=0.05)


def test_platt_does_not_mind_the_scale_of_the_score() -> None:
    """A score in degrees, far from zero, is calibrated as well."""
    score, label = drawn(1.0, -2.0)
    slope, intercept = fit_platt(80.0 + 25.0 * score, label)
    assert slope * 25.0 == pytest.approx(1.0, rel=0.05)
    assert intercept + 80.0 * slope == pytest.approx(-2.0, rel=0.05)


def test_platt_of_bins_is_platt_of_instants() -> None:
    """Binning a large set for speed changes neither number."""
    score, label = drawn(0.8, -4.0)
    assert fit_platt(*binned(score, label)) == pytest.approx(fit_platt(score, label), rel=1e-4)


def test_a_backward_score_gets_no_negative_slope() -> None:
    """It is as good as none: risk is the base rate nearly everywhere."""
    score, label = drawn(-1.0, -2.0)
    slope, intercept = fit_platt(score, label)
    assert slope > 0
    assert Calibration(slope=slope, intercept=intercept).risk(score) == pytest.approx(label.mean(), rel=0.02)


def test_platt_of_separable_scores_stays_finite() -> None:
    """Perfect skill gives a steep slope, not an overflow."""
    score = np.concatenate((np.linspace(-3, -1, 500), np.linspace(1, 3, 50)))
    slope, intercept = fit_platt(score, score > 0)
    risk = Calibration(slope=slope, intercept=intercept).risk(score)
    assert np.isfinite([slope, intercept]).all()
    assert risk[500:].min() > 0.95
    assert risk[:500].max() < 0.05


def test_one_kind_of_label_cannot_be_calibrated() -> None:
    """It says what is missing."""
    with pytest.raises(ValueError, match="only one kind"):
        fit_platt(np.arange(4.0), np.zeros(4, bool))


def noisy_fleet(seed: int, n: int = 12) -> list[ScoredVan]:
    """Vans of a day with an event in every other, foreseen well or badly, and false peaks of random height."""
    rng = np.random.default_rng(seed)
    vans = []
    for i in range(n):
        van = made_van(24, events=[(float(rng.uniform(6, 20)), 21.0)] if i % 2 else [])
        score = rng.normal(-3.0, 0.3, len(van.score))
        if i % 2:
            before = (van.events_ms[0] - van.ts_ms) / 3_600_000
            score += np.where((before > -1) & (before < rng.uniform(0.3, 1.8)), rng.uniform(1.0, 6.0), 0.0)
        for start in rng.integers(200, len(score) - 200, 3):
            score[start : start + 100] += rng.uniform(0.5, 4.0)
        vans.append(ScoredVan(f"van-{i}", "", van.ts_ms, score.astype("f4"), van.label, van.valid, van.events_ms))
    return vans


@pytest.mark.parametrize("seed", range(4))
def test_the_alert_threshold_is_as_good_as_any_within_the_budget(seed: int) -> None:
    """No risk on a fine grid catches more events within the budget."""
    vans, plain = noisy_fleet(seed), Calibration()
    rule = AlertRule(budget=0.25)
    watched = [(van, event_times(van)) for van in vans]

    def at(risk: float) -> tuple[int, float]:
        thresholds = Thresholds(score_at(plain, risk), score_at(plain, rule.resolve_share * risk))
        caught, false, days = count_alarms(watched, thresholds, rule)
        return caught, false / days

    chosen = at(choose_alert_threshold(vans, plain, rule))
    grid = [at(risk) for risk in np.linspace(0.01, 0.99, 200)]
    assert chosen[1] <= rule.budget
    assert chosen[0] >= max(caught for caught, rate in grid if rate <= rule.budget)


def test_with_no_budget_no_alarm_is_false() -> None:
    """A budget of zero is kept even if it costs every event."""
    vans = noisy_fleet(9)
    calibration = choose_calibration(vans, AlertRule(budget=0.0))
    rule = AlertRule()
    thresholds = Thresholds(
        score_at(calibration, calibration.alert_threshold), score_at(calibration, calibration.resolve_threshold)
    )
    assert count_alarms([(van, event_times(van)) for van in vans], thresholds, rule)[1] == 0


def test_the_f2_threshold_is_the_best_one() -> None:
    """No other threshold has a higher F2 on the same vans, up to the width of a bin."""
    rng = np.random.default_rng(8)
    vans = [random_van(rng) for _ in range(6)]
    calibration = choose_calibration(vans)
    kept = [van.valid & (np.arange(len(van.score)) >= 60) for van in vans]
    risk = calibration.risk(np.concatenate([van.score[k] for van, k in zip(vans, kept, strict=True)]))
    label = np.concatenate([van.label[k] for van, k in zip(vans, kept, strict=True)])

    def f2(threshold: float) -> float:
        at = risk >= threshold
        return float(5 * (at & label).sum() / (4 * label.sum() + at.sum()))

    assert f2(calibration.f2_threshold) >= max(f2(t) for t in np.linspace(0.005, 0.9, 300)) - 2e-3
