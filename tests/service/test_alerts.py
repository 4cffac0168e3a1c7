"""The alert state machine over made-up courses of risk."""

import numpy as np
import pytest

from model.channels import VAN_SCHEMA
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor
from service.alerts import AlertPolicy, advance_alerts, alert_record
from service.head import HeadLayout, Heads, Phase

N = len(VAN_SCHEMA.channels)
POLICY = AlertPolicy(
    threshold=0.5, resolve_threshold=0.3, for_s=60.0, keep_firing_s=120.0, warmup_samples=3, horizon_s=7_200.0
)
ONE = np.array([1])
LAYOUT = HeadLayout(Preprocessor(VAN_SCHEMA, FleetPrior((0.0,) * N, (1.0,) * N), 5.0), "ab" * 16)


def course(risks: list[float], *, step_s: float = 30.0, start_samples: int = 10) -> tuple[list[str], Heads]:
    """Transitions of one vehicle whose risk takes these values, one every `step_s`."""
    heads = LAYOUT.new_session(1)
    heads["samples"] = start_samples
    seen = []
    for i, risk in enumerate(risks):
        ts = np.array([int(1_000_000 + 1_000 * step_s * i)])
        seen += [transition.to for transition in advance_alerts(POLICY, heads, ONE, ts, np.array([risk])).transitions]
        heads["samples"] += 1
    return seen, heads


@pytest.mark.parametrize(
    ("risks", "expected", "phase"),
    [
        ([0.1, 0.49], [], Phase.INACTIVE),
        ([0.6], ["pending"], Phase.PENDING),
        ([0.6, 0.6, 0.6], ["pending", "firing"], Phase.FIRING),
        ([0.6, 0.6, 0.4], ["pending", "lapsed"], Phase.INACTIVE),
        ([0.6] * 3 + [0.4] * 9, ["pending", "firing"], Phase.FIRING),  # between the thresholds: hysteresis
        ([0.6] * 3 + [0.2] * 4, ["pending", "firing"], Phase.FIRING),
        ([0.6] * 3 + [0.2] * 5, ["pending", "firing", "resolved"], Phase.INACTIVE),
        ([0.6] * 3 + [0.2, 0.2, 0.4] * 4, ["pending", "firing"], Phase.FIRING),  # low, but never for long
        ([0.6] * 3 + [0.2] * 5 + [0.7] * 3, ["pending", "firing", "resolved", "pending", "firing"], Phase.FIRING),
    ],
)
def test_courses_of_risk(risks: list[float], expected: list[str], phase: Phase) -> None:
    """Pending on crossing, firing after a minute, resolved after two minutes below the lower threshold."""
    seen, heads = course(risks)
    assert seen == expected
    assert int(heads["alert"]["phase"][0]) == phase


def test_nothing_is_raised_while_warming_up() -> None:
    """The first samples of a session cannot raise, however high the risk."""
    assert course([0.9] * 3, start_samples=0)[0] == []
    assert course([0.9] * 4, start_samples=0)[0] == ["pending"]


def test_a_gap_counts_by_the_clock_of_the_samples() -> None:
    """Two samples an hour apart, both high, are an hour of high risk."""
    assert course([0.6, 0.6], step_s=3_600.0)[0] == ["pending", "firing"]


def test_vehicles_of_a_batch_do_not_touch_each_other() -> None:
    """A batch of courses gives what each course gives alone."""
    rng = np.random.default_rng()
    courses = rng.choice([0.2, 0.4, 0.6], size=(20, 40))
    heads = np.concatenate([LAYOUT.new_session(1) for _ in courses])
    heads["samples"] = 10
    together: list[list[str]] = [[] for _ in courses]
    for t in range(courses.shape[1]):
        ts = np.full(len(courses), int(1_000_000 + 30_000 * t))
        for transition in advance_alerts(
            POLICY, heads, np.ones(len(courses), np.int64), ts, courses[:, t].copy()
        ).transitions:
            together[transition.row].append(transition.to)
    assert together == [course(list(risks))[0] for risks in courses]


def test_runs_give_what_single_samples_give() -> None:
    """Courses of different lengths in one call: the transitions and phases of each alone."""
    rng = np.random.default_rng()
    courses = [rng.choice([0.2, 0.4, 0.6], size=n) for n in (1, 40, 0, 7)]
    heads = np.concatenate([LAYOUT.new_session(1) for _ in courses])
    heads["samples"] = 10
    lengths = np.array([len(risks) for risks in courses])
    ts = np.concatenate([1_000_000 + 30_000 * np.arange(n) for n in lengths])
    run = advance_alerts(POLICY, heads, lengths, ts, np.concatenate(courses))
    owner = np.repeat(np.arange(len(courses)), lengths)
    for k, risks in enumerate(courses):
        seen, alone = course(list(risks))
        assert [t.to for t in run.transitions if owner[t.row] == k] == seen
        assert heads["alert"][k].tobytes() == alone["alert"][0].tobytes()
        if len(risks):
            assert run.phase[owner == k][-1] == int(alone["alert"]["phase"][0])


def test_the_record_keeps_one_id_through_its_life() -> None:
    """Pending, firing and resolved of one alert share an id; the next alert has another."""
    heads = LAYOUT.new_session(1)
    heads["samples"] = 10
    ids: dict[str, list[str]] = {}
    for i, risk in enumerate([0.6] * 3 + [0.1] * 5 + [0.6]):
        ts = 1_000_000 + 30_000 * i
        for transition in advance_alerts(POLICY, heads, ONE, np.array([ts]), np.array([risk])).transitions:
            record = alert_record(
                POLICY, "van", heads[0], transition, ts_ms=ts, seq=i, risk=risk, fingerprint="ab" * 16
            )
            ids.setdefault(transition.to, []).append(record["id"])
    first, second = ids["pending"]
    assert ids["firing"] == ids["resolved"] == [first]
    assert second != first
