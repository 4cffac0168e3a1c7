"""The demo's vans show what the demo says of them, with the weights that are shipped."""

import time

import numpy as np
import pytest

from model.fleet import simulate_vehicle
from service.cli.demo_choice import WANTED, Day, Judge, kind
from service.cli.demo_fleet import DAY_MS, FIRST_HOUR, FLEET, HOUR_MS, VANS, simulate_fleet


@pytest.fixture(scope="module")
def days() -> list[Day]:
    """The shipped model's answer to each van's day."""
    judge = Judge()
    return [judge.day(simulate_vehicle(FLEET, van), van, day) for van, day in VANS]


def test_the_shipped_vans_are_still_what_they_were_chosen_for(days: list[Day]) -> None:
    """In the order that the demo promises; after a change of weights or simulator, choose again."""
    kinds = [kind(day) for day in days]
    assert kinds == ["caught", "caught", "missed", "healthy", "caught", "healthy"], days
    assert {found: kinds.count(found) for found in WANTED} == WANTED


def test_the_first_alert_comes_within_three_minutes_and_before_its_event(days: list[Day]) -> None:
    """Of the first van alone, at the demo's 180 times real time."""
    first = days[0]
    assert first.alert_h is not None
    assert first.event_h is not None
    assert first.alert_h < first.event_h
    assert first.alert_h * 3_600 / 180 < 180


def test_the_vans_are_moved_to_end_within_the_last_day_at_the_right_hour() -> None:
    """All begin at the same 06:00 UTC, are over by now, and their events lie within their samples."""
    now = int(time.time() * 1000)
    fleet = simulate_fleet(3, 5.0)
    assert len({van.vehicle_id for van in fleet}) == 3
    for van in fleet:
        ts_ms = van.recording.ts_ms
        assert (np.diff(ts_ms) > 0).all()
        assert 0 <= ts_ms[0] % DAY_MS - FIRST_HOUR * HOUR_MS < 0.25 * HOUR_MS
        assert now - DAY_MS - 5 * HOUR_MS <= ts_ms[0] < ts_ms[-1] <= now
        assert all(ts_ms[0] < event <= ts_ms[-1] for event, _ in van.events)
    assert [len(van.events) > 0 for van in fleet] == [True, False, True]  # the second overheats in the ninth hour
