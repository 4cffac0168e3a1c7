"""The alert record and its reasons, over made-up courses of risk."""

import json
from typing import Any

import numpy as np
import pytest

from model.checkpoint import Checkpoint
from service.alerting.alerts import AlertPolicy, Rule, Transition, advance_alerts
from service.alerting.explanation import Explainer, Forecast, since
from service.alerting.record import Instant, Why, alert_record, dumped, place_of, read_record
from service.alerting.schemas import Alert
from service.engine.news import line_of
from service.records.head import HeadLayout
from service.records.journal import Entries, JournalLayout

POLICY = AlertPolicy(
    threshold=0.5,
    resolve_threshold=0.3,
    for_s=60.0,
    keep_firing_s=120.0,
    warmup_samples=3,
    horizon_s=7_200.0,
    critical_threshold=0.8,
    anomaly_threshold=2.0,
    anomaly_resolve_threshold=1.0,
    anomaly_smoothing_s=60.0,
)
ONE, MODEL, START_MS = np.array([1]), "ab" * 16, 1_760_000_000_000


def told(layout: HeadLayout, risks: list[float], surprise: float = 0.0) -> list[dict[str, Any]]:
    """Records of one vehicle whose risk takes these values, one every half minute."""
    heads, limits, found = layout.new_session(1), POLICY.packed(), []
    heads["samples"] = 10
    for i, risk in enumerate(risks):
        ts = START_MS + 30_000 * i
        course = advance_alerts(
            limits, heads, ONE, np.array([ts]), np.array([30_000]), np.array([risk]), np.array([surprise])
        )
        at = Instant(ts, i, risk, surprise, ts)
        found += [alert_record(POLICY, "van.1-a:b", heads[0], one, at, Why(), MODEL) for one in course.transitions]
    return found


@pytest.fixture
def layout(checkpoint: Checkpoint) -> HeadLayout:
    """Of the shipped model."""
    return HeadLayout(checkpoint.preprocessor(), MODEL)


def test_an_episode_keeps_its_id_and_every_change_has_its_own(layout: HeadLayout) -> None:
    """From pending to resolved one id, the next alert another; event ids never repeat; the API takes every record."""
    records = told(layout, [0.6] * 3 + [0.9] * 3 + [0.1] * 5 + [0.6])
    assert [r["transition"] for r in records] == ["pending", "firing", "escalated", "recovering", "resolved", "pending"]
    assert [r["phase"] for r in records] == ["pending", "firing", "firing", "recovering", "resolved", "pending"]
    assert [r["severity"] for r in records] == ["warning"] * 2 + ["critical"] * 3 + ["warning"]
    assert len({r["id"] for r in records[:5]}) == 1
    assert records[5]["id"] != records[0]["id"]
    assert len({r["event_id"] for r in records}) == 6
    assert [r["resolved_ms"] is None for r in records] == [True] * 4 + [False, True]
    assert [r["fired_ms"] is None for r in records] == [True] + [False] * 4 + [True]
    assert records == told(layout, [0.6] * 3 + [0.9] * 3 + [0.1] * 5 + [0.6])  # computed again: the same, ids too
    for record in records:
        Alert.model_validate(record)
        assert place_of(record["id"]) == ("van.1-a:b", "thermal_risk")
        assert read_record(dumped(record).encode()) == record
        assert "\n" not in line_of(record)
    assert records[2]["peak_risk"] == pytest.approx(0.9, abs=1e-6)


def test_surprise_has_an_alert_of_its_own(layout: HeadLayout) -> None:
    """A long surprise fires telemetry_anomaly and leaves thermal_risk alone."""
    records = told(layout, [0.1] * 10, surprise=5.0)
    assert [(r["rule"], r["transition"]) for r in records] == [
        ("telemetry_anomaly", "pending"),
        ("telemetry_anomaly", "firing"),
    ]
    assert records[1]["threshold"] == 2.0
    assert records[1]["peak_risk"] is None
    assert 2.0 < records[1]["value"] <= records[1]["peak_value"] < 5.0


@pytest.mark.parametrize(
    "text", ["", "van", "van.thermal_risk.1", "van.other.1.2", "van.thermal_risk.x.2", "a.b.c.d.e"]
)
def test_what_is_no_id_names_no_place(text: str) -> None:
    """Whatever a caller writes."""
    assert place_of(text) is None


def entries_of(checkpoint: Checkpoint, motor_z: list[float]) -> Entries:
    """Journal entries in which the motor temperature has these z-scores and all else is as usual."""
    entries = JournalLayout(checkpoint.config.d_input).entries(len(motor_z))
    n, motor = len(checkpoint.schema.channels), checkpoint.schema.channel_names.index("motor_temperature")
    entries["ts_ms"] = START_MS + 5_000 * np.arange(len(motor_z))
    entries["risk"] = np.linspace(0.1, 0.6, len(motor_z))
    entries["inputs"][:, motor], entries["inputs"][:, n : 2 * n] = motor_z, 1.0
    return entries


def test_a_thermal_alert_says_which_channel_is_far_off_and_since_when(
    checkpoint: Checkpoint, layout: HeadLayout
) -> None:
    """The channel beyond its usual spread, with its value as it came, the usual one, and when it went half so far."""
    explain, head = Explainer(checkpoint.schema, checkpoint.prior), layout.new_session(1)[0]
    entries = entries_of(checkpoint, [0.0] * 10 + [1.0, 1.9, 2.0, 3.0, 4.0])
    change = Transition(Rule.THERMAL_RISK, "firing", 2, head["alert"][0])
    signals = np.full(len(checkpoint.schema.signals), np.nan)
    signals[checkpoint.schema.signal_names.index("motor_temperature")] = 131.5
    why = explain(change, head, entries, signals)
    motor = checkpoint.schema.channel_names.index("motor_temperature")
    assert why.contributions == [
        {
            "channel": "motor_temperature",
            "unit": "degC",
            "value": 131.5,
            "expected": pytest.approx(checkpoint.prior.mean[motor], abs=1e-3),
            "deviation": 4.0,
            "since_ms": START_MS + 5_000 * 12,
            "since_at_least": False,
        }
    ]
    assert len(why.course) == 8
    assert why.course[-1] == (int(entries["ts_ms"][-1]), 0.6)
    json.dumps(why.contributions)


def test_a_clipped_value_is_not_made_up(checkpoint: Checkpoint, layout: HeadLayout) -> None:
    """Beyond eight deviations the z-score no longer tells the value: without the sample itself it stays unsaid."""
    explain, head = Explainer(checkpoint.schema, checkpoint.prior), layout.new_session(1)[0]
    change = Transition(Rule.THERMAL_RISK, "firing", 2, head["alert"][0])
    (one,) = explain(change, head, entries_of(checkpoint, [8.0] * 5)).contributions
    assert (one["value"], one["deviation"], one["since_at_least"]) == (None, 8.0, True)
    assert explain(change, head, entries_of(checkpoint, [0.5] * 5)).contributions == []
    assert explain(change, head, entries_of(checkpoint, [])) == Why()


def test_an_anomaly_says_what_was_expected(checkpoint: Checkpoint, layout: HeadLayout) -> None:
    """The distance from the forecast, in its own standard deviations."""
    explain, head = Explainer(checkpoint.schema, checkpoint.prior), layout.new_session(1)[0]
    n, motor = len(checkpoint.schema.channels), checkpoint.schema.channel_names.index("motor_temperature")
    forecast = Forecast(np.zeros(n, np.float32), np.full(n, np.log(0.1), np.float32))
    change = Transition(Rule.TELEMETRY_ANOMALY, "firing", 2, head["alert"][1])
    (one,) = explain(change, head, entries_of(checkpoint, [0.0] * 5 + [-1.0]), None, forecast).contributions
    assert one["channel"] == "motor_temperature"
    assert one["deviation"] == pytest.approx(-10 / np.sqrt(2), abs=0.01)
    assert one["value"] == pytest.approx(checkpoint.prior.mean[motor] - checkpoint.prior.std[motor], abs=0.01)
    assert one["expected"] == pytest.approx(checkpoint.prior.mean[motor], abs=0.01)


def test_since_when() -> None:
    """Back to the first sample of the last stretch that was half as far off, the same way."""
    ts = np.arange(6) * 10
    assert since(np.array([0.0, 3.0, 0.9, 1.0, 1.5, 2.0]), ts) == (30, False)
    assert since(np.array([-2.0, -2.0, -2.0, -2.0, 2.0, 2.0]), ts) == (40, False)
    assert since(np.array([2.0] * 6), ts) == (0, True)
