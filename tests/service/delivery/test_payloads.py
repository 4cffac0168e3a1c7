"""What each kind of receiver is told, by the letter of its specification."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.delivery.notice import Notice
from service.delivery.payloads import body_of
from service.delivery.sink_client import SinkClient
from service.delivery.sinks_file import AnySink
from tests.service.delivery.outboxes import alert, sinks_of
from tests.service.delivery.receivers import SECRET

NOW_MS = 1_800_000_000_000
TEXT = (
    '[[sink]]\nname = "hook"\nkind = "webhook"\nurl = "https://h/x"\nsecrets = [SECRET]\n'
    '[[sink]]\nname = "events"\nkind = "cloudevents"\nurl = "https://h/x"\nsecrets = [SECRET]\nsource = "/fleet/7"\n'
    '[[sink]]\nname = "am"\nkind = "alertmanager"\nurl = "https://h/x"\nlabels = { site = "north" }\n'
    '[[sink]]\nname = "duty"\nkind = "pagerduty"\nrouting_key = SECRET\n'
)


def bodies(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The body for each kind of sink."""
    sinks = sinks_of(folder, TEXT)
    notice = Notice.of(record, NOW_MS)
    return {sink.kind: json.loads(body_of(sink, notice, NOW_MS, "R" * 32)[0]) for sink in sinks}


def test_alertmanager_webhook_v4(tmp_path: Path) -> None:
    """The members of version 4; a firing alert ends at Go's zero time, a resolved one when it did."""
    record = alert("van-1", fired_ms=NOW_MS - 5_000, updated_ms=NOW_MS)
    firing = bodies(tmp_path, record)["webhook"]
    assert set(firing) == {
        "version", "groupKey", "truncatedAlerts", "status", "receiver", "groupLabels", "commonLabels",
        "commonAnnotations", "externalURL", "alerts",
    }  # fmt: skip
    assert (firing["version"], firing["status"], firing["receiver"]) == ("4", "firing", "hook")
    (one,) = firing["alerts"]
    assert set(one) == {"status", "labels", "annotations", "startsAt", "endsAt", "generatorURL", "fingerprint"}
    labels = {"alertname": "ThermalRisk", "rule": "thermal_risk", "severity": "warning", "vehicle_id": "van-1"}
    assert one["labels"] == firing["commonLabels"] == labels
    assert one["startsAt"] == "2027-01-15T07:59:55.000Z"
    assert one["endsAt"] == "0001-01-01T00:00:00Z"
    assert one["annotations"]["summary"] == "van-1: risk of a thermal event within 2 h is 0.71"
    assert one["annotations"]["contributions"] == "motor_temperature 91.0 degC, +4.2 sd"
    resolved = bodies(tmp_path, record | {"phase": "resolved", "transition": "resolved", "resolved_ms": NOW_MS})
    assert resolved["webhook"]["status"] == "resolved"
    assert resolved["webhook"]["alerts"][0]["endsAt"] == "2027-01-15T08:00:00.000Z"
    assert resolved["webhook"]["groupKey"] == firing["groupKey"]
    stale = bodies(tmp_path, record | {"phase": "stale", "transition": "stale"})
    assert stale["webhook"]["status"] == "firing"  # silence resolves nothing


def test_cloudevents_structured_mode(tmp_path: Path) -> None:
    """The required attributes, and the whole record as data; sent as application/cloudevents+json."""
    record = alert("van-1", updated_ms=NOW_MS)
    event = bodies(tmp_path, record)["cloudevents"]
    assert event.pop("data") == record
    assert event == {
        "specversion": "1.0", "id": "van-1-1-0", "source": "/fleet/7", "type": "io.emberwatch.alert.firing",
        "subject": "van-1", "time": "2027-01-15T08:00:00.000Z", "datacontenttype": "application/json",
    }  # fmt: skip
    sink = sinks_of(tmp_path, TEXT)[1]
    assert body_of(sink, Notice.of(record, 0), NOW_MS)[1] == "application/cloudevents+json; charset=utf-8"


def test_pagerduty_events(tmp_path: Path) -> None:
    """Trigger, acknowledge and resolve of one alert share the dedup key; only a trigger has a payload."""
    events = {
        t: bodies(tmp_path, alert("van-1", t))["pagerduty"]
        for t in ("firing", "escalated", "stale", "acknowledged", "resolved")
    }
    assert {t: event["event_action"] for t, event in events.items()} == {
        "firing": "trigger", "escalated": "trigger", "stale": "trigger", "acknowledged": "acknowledge",
        "resolved": "resolve",
    }  # fmt: skip
    assert {event["dedup_key"] for event in events.values()} == {"van-1-1"}
    assert {event["routing_key"] for event in events.values()} == {"R" * 32}
    payload = events["firing"]["payload"]
    assert (payload["source"], payload["severity"], payload["class"]) == ("van-1", "warning", "thermal_risk")
    assert payload["custom_details"]["contributions"][0]["channel"] == "motor_temperature"
    assert "payload" not in events["resolved"]


def test_alertmanager_alerts(tmp_path: Path) -> None:
    """Open ones expire in the future, ended ones end now, and an escalation ends what had the other severity."""
    record = alert("van-1", fired_ms=NOW_MS + 60_000)  # a vehicle whose clock is ahead
    (firing,) = bodies(tmp_path, record)["alertmanager"]
    assert firing["labels"]["site"] == "north"
    assert firing["startsAt"] < "2027-01-15T08:00:00.000Z" < firing["endsAt"] == "2027-01-15T09:00:00.000Z"
    (resolved,) = bodies(tmp_path, record | {"phase": "resolved", "transition": "resolved"})["alertmanager"]
    assert resolved["endsAt"] == "2027-01-15T08:00:00.000Z"
    assert resolved["labels"] == firing["labels"]
    before, after = bodies(tmp_path, record | {"transition": "escalated", "severity": "critical"})["alertmanager"]
    assert before["labels"] == firing["labels"]
    assert before["endsAt"] == "2027-01-15T08:00:00.000Z"
    assert after["labels"] == firing["labels"] | {"severity": "critical"}
    assert after["endsAt"] == "2027-01-15T09:00:00.000Z"


def test_a_record_of_before_the_full_machine_is_told(tmp_path: Path) -> None:
    """Without transition, severity, event id or contributions: the phase says what happened, and the id is stable."""
    old = {
        "id": "9f2c1a0b4d5e6f70", "vehicle_id": "van-1", "rule": "thermal_risk", "phase": "firing", "risk": None,
        "threshold": 0.35, "horizon_s": 7200.0, "first_crossed_ms": NOW_MS - 1, "fired_ms": NOW_MS, "updated_ms": NOW_MS,
        "position": None, "epoch": 1, "seq": 963, "fingerprint": "0f",
    }  # fmt: skip
    found = bodies(tmp_path, old)
    assert found["cloudevents"]["id"] == f"9f2c1a0b4d5e6f70-firing-{NOW_MS}"
    assert found["pagerduty"]["payload"]["severity"] == "critical"
    assert found["webhook"]["alerts"][0]["annotations"]["model"] == "0f"


def test_signatures_are_those_of_standard_webhooks(tmp_path: Path) -> None:
    """The specification's own example, and with two secrets two signatures, the newest first."""
    from standardwebhooks import Webhook  # noqa: PLC0415

    example = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    at = datetime.fromtimestamp(1_614_265_330, UTC)
    signature = example.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, '{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    other = "whsec_" + base64.b64encode(b"x" * 24).decode()
    (tmp_path / "other").write_text(other)
    text = TEXT.split("[[sink]]")[1].replace("[SECRET]", f'[SECRET, {{ file = "{tmp_path / "other"}" }}]')
    sink: AnySink
    (sink,) = sinks_of(tmp_path, "[[sink]]" + text)
    headers = SinkClient(sink).signed("evt-1", b"{}")
    assert len(headers["webhook-signature"].split()) == 2
    assert SinkClient(sink).signed("van-1.thermal_risk.1.7-2", b"")["webhook-id"] == "van-1~thermal_risk~1~7-2"
    for secret in (SECRET, other):
        assert Webhook(secret).verify(b"{}", headers) == {}
