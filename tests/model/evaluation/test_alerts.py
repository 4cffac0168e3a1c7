"""Alerts are those of the service, and each way in which they can meet events is counted as documented."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model.channels import VAN_SCHEMA
from model.evaluation import AlertRule, ScoredVan
from model.evaluation.alerts import NEVER_MS, Outcome, Thresholds, episodes, event_times, outcome
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor
from service.alerting.alerts import AlertPolicy, advance_alerts
from service.records.head import HeadLayout
from service.settings import Settings
from tests.model.evaluation.made_up import HOUR_MS, hours, made_van

THRESHOLDS = Thresholds(1.0, 0.0)
RULE = AlertRule()
MINUTE_H = 1.0 / 60.0


def judged(van: ScoredVan) -> Outcome:
    """Its alerts against its events."""
    return outcome(event_times(van), episodes(van.ts_ms, van.score, THRESHOLDS, RULE), RULE)


def service_episodes(ts_ms: NDArray[np.int64], score: NDArray[np.float32]) -> list[tuple[int, int]]:
    """What the service makes of the same course, sample by sample."""
    policy = AlertPolicy(
        threshold=THRESHOLDS.alert,
        resolve_threshold=THRESHOLDS.resolve,
        for_s=RULE.for_ms / 1_000,
        keep_firing_s=RULE.keep_firing_ms / 1_000,
        warmup_samples=RULE.warmup_samples,
        horizon_s=RULE.horizon_ms / 1_000,
        stale_after_s=RULE.stale_after_ms / 1_000,
    )
    limits, one = policy.packed(), np.array([1])
    n = len(VAN_SCHEMA.channels)
    heads = HeadLayout(Preprocessor(VAN_SCHEMA, FleetPrior((0.0,) * n, (1.0,) * n), 5.0), "ab" * 16).new_session(1)
    found: list[tuple[int, int]] = []
    gaps = np.diff(ts_ms, prepend=ts_ms[0] - 5_000)
    for ts, gap, value in zip(ts_ms, gaps, score.astype(np.float64), strict=True):
        course = advance_alerts(
            limits, heads, one, np.array([ts]), np.array([gap]), np.array([value]), np.array([np.nan])
        )
        for transition in course.transitions:
            if transition.to == "firing":
                found.append((int(transition.machine["fired_ms"]), NEVER_MS))
            if transition.to == "resolved":
                found[-1] = (found[-1][0], int(ts))
        heads["samples"] += 1
    return found


@pytest.mark.parametrize("seed", range(6))
def test_alerts_are_those_of_the_service(seed: int) -> None:
    """Any course of risk, with gaps, fires and resolves at the same samples as in the service."""
    rng = np.random.default_rng(seed)
    steps = rng.choice([1, 1, 1, 1, 1, 1, 2, 40, 90], 3_000)
    ts_ms = 1_000_000 + 5_000 * np.cumsum(steps)
    noise, score = rng.normal(0, 0.2, 3_000), np.full(3_000, 0.5, np.float32)
    for i in range(1, 3_000):
        score[i] = 0.5 + 0.97 * (score[i - 1] - 0.5) + noise[i]
    found = episodes(ts_ms, score, THRESHOLDS, RULE)
    assert len(found) > 5
    assert [tuple(row) for row in found.tolist()] == service_episodes(ts_ms, score)


def test_the_rule_has_the_times_of_the_service() -> None:
    """The defaults are those that the service starts with."""
    settings = Settings()
    assert settings.alert_for_s * 1_000 == RULE.for_ms
    assert settings.alert_keep_firing_s * 1_000 == RULE.keep_firing_ms
    assert settings.stale_after_s * 1_000 == RULE.stale_after_ms


def test_an_alert_before_an_event_catches_it() -> None:
    """Lead time counts from the firing, a minute after the crossing, and no alarm is false."""
    found = judged(made_van(8, high=[(3, 5)], events=[(4, 5)]))
    assert (found.event_ms - found.fired_ms).tolist() == [HOUR_MS - 60_000]
    assert found.false_ms.size == 0


def test_an_alert_that_fires_during_an_event_is_neither_caught_nor_false() -> None:
    """Too late to help, but about something that is going on."""
    found = judged(made_van(8, high=[(4.1, 4.5)], events=[(4, 5)]))
    assert found.fired_ms.tolist() == [NEVER_MS]
    assert found.false_ms.size == 0


def test_an_alert_that_has_resolved_before_the_event_does_not_catch_it() -> None:
    """Whoever looked at the start of the event saw nothing open; yet the alarm was right, so it is not false."""
    found = judged(made_van(8, high=[(3, 3.2)], events=[(4, 5)]))
    assert found.fired_ms.tolist() == [NEVER_MS]
    assert found.false_ms.size == 0


def test_an_alert_is_kept_open_over_the_event_for_five_minutes() -> None:
    """Risk that falls four minutes before the event still leaves an open alert; six minutes before it does not."""
    for minutes, caught in ((4, True), (6, False)):
        found = judged(made_van(8, high=[(3, 4 - minutes * MINUTE_H)], events=[(4, 5)]))
        assert (found.fired_ms[0] != NEVER_MS) == caught


def test_an_early_alert_is_false_until_two_hours_before_the_event() -> None:
    """Fired seven hours ahead: pieces at 7, 5 and 3 hours are false, the one at 1 hour is not."""
    found = judged(made_van(12, high=[(1, 9)], events=[(8 + MINUTE_H, 9)]))
    assert found.false_ms.tolist() == (hours(1, 3, 5) + 60_000).tolist()
    assert (found.event_ms - found.fired_ms).tolist() == [7 * HOUR_MS]


def test_an_alert_that_never_resolves_is_punished_every_two_hours() -> None:
    """Always on for ten healthy hours: five false alarms, the last piece being short."""
    found = judged(made_van(10, high=[(0, 10)]))
    assert len(found.false_ms) == 5


def test_an_always_on_alert_is_excused_only_near_the_event() -> None:
    """Of twelve pieces in a day those before, during and just after the event of one hour do not count."""
    van = made_van(24, high=[(0, 24)], events=[(11, 12)])
    found = judged(van)
    first_ms = van.ts_ms[RULE.warmup_samples] + 60_000
    pieces = first_ms + 2 * HOUR_MS * np.arange(12)
    # The event starts at 11 h: only the piece from about 10.1 h has it within its two hours.
    assert found.false_ms.tolist() == np.delete(pieces, 5).tolist()
    assert found.fired_ms.tolist() == [first_ms]


def test_alerts_that_fire_again_are_separate() -> None:
    """Two healthy peaks, resolved in between, are two false alarms."""
    found = judged(made_van(10, high=[(2, 2.1), (2.5, 2.6)]))
    assert found.false_ms.tolist() == (hours(2, 2.5) + 60_000).tolist()


def test_an_alert_stays_open_over_a_gap() -> None:
    """Telemetry that is lost before the event does not resolve the alert: a silent van is stale, not well."""
    found = judged(made_van(8, high=[(3, 5)], events=[(4, 5)], gaps=[(3.2, 4.5)]))
    assert (found.event_ms - found.fired_ms).tolist() == [HOUR_MS - 60_000]


def test_an_event_within_a_gap_excuses_the_alarm_before_it() -> None:
    """The start is known though no sample shows it."""
    found = judged(made_van(8, high=[(3.5, 3.7)], events=[(4, 4.2)], gaps=[(3.9, 5)]))
    assert found.false_ms.size == 0
    assert found.fired_ms.tolist() == [NEVER_MS]


def test_an_event_at_the_first_sample_cannot_be_caught() -> None:
    """Nobody watched before: it does not count as missed, and alarms during it are not false."""
    found = judged(made_van(6, high=[(0, 0.9)], events=[(0, 1)]))
    assert found.event_ms.size == 0
    assert found.false_ms.size == 0


def test_an_event_past_the_last_sample_does_not_count_but_excuses() -> None:
    """The alarm was right, whether the event was missed or caught is not known."""
    van = made_van(6, high=[(5, 6)])
    late = ScoredVan(van.vehicle_id, "", van.ts_ms, van.score, van.label, van.valid, hours(6.5))
    found = judged(late)
    assert found.event_ms.size == 0
    assert found.false_ms.size == 0


def test_no_alert_during_warm_up() -> None:
    """High from the first sample: fires a minute after the warm-up's last sample."""
    van = made_van(1, high=[(0, 1)])
    assert episodes(van.ts_ms, van.score, THRESHOLDS, RULE)[0, 0] == van.ts_ms[RULE.warmup_samples] + 60_000


def test_a_second_event_under_the_same_alert_counts_from_its_firing() -> None:
    """An alert that stays open from one event to the next catches both."""
    found = judged(made_van(10, high=[(3, 7)], events=[(4, 4.5), (6, 7)]))
    assert (found.event_ms - found.fired_ms).tolist() == [HOUR_MS - 60_000, 3 * HOUR_MS - 60_000]
    assert found.false_ms.size == 0
