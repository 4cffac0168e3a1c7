"""Plans: who sends what when, within their limits."""

import json
from collections import Counter

import pytest

from loadtest.scenarios import BACKFILL_ARRAY, HOT_TIMES, OUTAGE_SAMPLES, SCENARIOS, Size
from loadtest.target import loopback
from loadtest.vans import LoadError, Van

SIZE = Size(vans=30, seconds=12.0, period_s=1.0, seed=3)


@pytest.mark.parametrize("name", SCENARIOS)
def test_events_come_in_the_order_of_time_and_within_the_run(name: str) -> None:
    """Of every van that has a role, the same each time they are made."""
    plan = SCENARIOS[name](SIZE)
    events = list(plan.events())
    assert events == list(plan.events())
    assert [e.due_s for e in events] == sorted(e.due_s for e in events)
    assert {e.van for e in events} == set(range(len(plan.roles)))
    assert all(0 <= e.due_s < SIZE.seconds for e in events)


def samples(name: str, first_s: float, last_s: float) -> Counter[int]:
    """By van, those that are due between."""
    found: Counter[int] = Counter()
    for event in SCENARIOS[name](SIZE).events():
        if first_s <= event.due_s < last_s:
            found[event.van] += event.samples
    return found


def test_a_steady_van_sends_one_sample_each_period() -> None:
    """All the time."""
    assert set(samples("steady", 0, 12).values()) == {12}


def test_the_rush_grows_from_a_tenth_to_all() -> None:
    """Three vans at first, all of them in the end."""
    assert len(samples("rush", 0, 1)) <= 5
    assert set(samples("rush", 10, 11).values()) == {1}
    assert len(samples("rush", 10, 11)) == 30


def test_after_the_outage_all_come_back_at_once_with_what_they_kept() -> None:
    """Nothing in the middle third, then everything within a second, on new connections."""
    assert not samples("storm", 4, 8)
    back = [e for e in SCENARIOS["storm"](SIZE).events() if 8 <= e.due_s < 9 and e.reconnect]
    assert len(back) == 30
    assert {e.samples for e in back} == {OUTAGE_SAMPLES}
    assert all(e.again > 0 for e in back)


def test_beside_the_fleet_four_bring_in_their_past_or_one_is_hot() -> None:
    """The fleet sends what it always sends."""
    backfill, hot = samples("backfill", 0, 12), samples("hot", 0, 12)
    assert [backfill[van] for van in range(30, 34)] == [12 * BACKFILL_ARRAY] * 4
    assert hot[30] == 12 * HOT_TIMES
    assert {backfill[van] for van in range(30)} == {hot[van] for van in range(30)} == {12}


def test_a_run_has_limits_on_time_and_count_and_stays_on_this_machine() -> None:
    """What is beyond them is refused before anything is sent."""
    for size in ((1, 3_601.0, 1.0), (1, 0.0, 1.0), (0, 1.0, 1.0), (100_000, 3_600.0, 1.0)):
        with pytest.raises(ValueError, match=r"seconds|vans"):
            Size(*size)
    with pytest.raises(ValueError, match="this machine only"):
        loopback("http://203.0.113.7:8000")


def test_a_van_keeps_what_is_not_acknowledged() -> None:
    """Overloaded, it sends the same again; deferred in an array, from there on; refused, the run is worth nothing."""
    van = Van("v", 0, made=5)
    first, body = van.request()
    assert [sample["seq"] for sample in json.loads(body)] == [0, 1, 2, 3, 4]
    assert not van.hear(first, 429, b"")
    answer = {"applied": 1, "duplicate": 1, "rejected": 3}
    answer["items"] = [{"i": 1, "status": "duplicate"}, *({"i": i, "status": "deferred"} for i in (2, 3, 4))]  # type: ignore[assignment]
    assert not van.hear(first, 207, json.dumps(answer).encode())
    assert (van.acknowledged, van.duplicates, van.retries) == (2, 1, 2)
    assert van.request(again=1)[0] == 1
    assert van.request()[0] == 2
    for status, data in ((409, {}), (207, {"applied": 0, "duplicate": 0, "items": [{"i": 0, "status": "late"}]})):
        with pytest.raises(LoadError, match="v, sample 2"):
            van.hear(2, status, json.dumps(data).encode())
