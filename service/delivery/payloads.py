"""Alerts in the words of each kind of receiver. Pure functions; times in are epoch milliseconds.

Sources: Alertmanager API v2 (postableAlerts) and webhook version 4 (prometheus.io/docs/alerting/latest/configuration,
webhook_config); CloudEvents 1.0.2, JSON format, HTTP structured mode; PagerDuty Events API v2.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from service.delivery.notice import Notice, Record, is_open, severity_of
from service.delivery.sinks_file import AlertmanagerSink, AnySink, CloudEventsSink, PagerDutySink, WebhookSink

NEVER = "0001-01-01T00:00:00Z"  # Go's zero time: an alert that has not ended
LONGEST_SUMMARY = 1_024  # PagerDuty
JSON, CLOUDEVENT = "application/json", "application/cloudevents+json; charset=utf-8"
Body = tuple[bytes, str]  # and its content type


def body_of(sink: AnySink, notice: Notice, now_ms: int, routing_key: str = "") -> Body:
    """What is posted to a sink. `routing_key`: of PagerDuty."""
    match sink:
        case AlertmanagerSink():
            return orjson.dumps(postable(sink, notice, now_ms)), JSON
        case WebhookSink():
            return orjson.dumps(webhook(sink, notice)), JSON
        case CloudEventsSink():
            return orjson.dumps(cloud_event(sink, notice)), CLOUDEVENT
        case PagerDutySink():
            return orjson.dumps(pagerduty(notice, routing_key)), JSON


def rfc3339(ms: float) -> str:
    """A time as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(ms / 1000.0, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def labels_of(record: Record, severity: str | None = None) -> dict[str, str]:
    """What identifies the alert: at an Alertmanager, equal labels are the same alert."""
    return {
        "alertname": "".join(word.capitalize() for word in str(record["rule"]).split("_")),
        "rule": str(record["rule"]),
        "severity": severity or severity_of(record),
        "vehicle_id": str(record["vehicle_id"]),
    }


def annotations_of(record: Record) -> dict[str, str]:
    """The explanation, as text."""
    found = {"summary": summary(record), "alert_id": str(record["id"]), "model": str(model_of(record))}
    found |= {
        name: str(record[name])
        for name in ("risk", "peak_risk", "threshold", "horizon_s")
        if record.get(name) is not None
    }
    if record.get("contributions"):
        found["contributions"] = "; ".join(contribution(part) for part in record["contributions"])
    if record.get("position"):
        found["position"] = f"{record['position']['latitude']}, {record['position']['longitude']}"
    if record["phase"] == "stale":
        found["stale"] = "no sample arrives any more; the alert is open all the same"
    if record.get("acknowledged"):
        found["acknowledged_by"] = str(record["acknowledged"].get("by"))
    return found


def model_of(record: Record) -> str | None:
    """Fingerprint of the model; the first records had it under another name."""
    return record.get("model") or record.get("fingerprint")


def summary(record: Record) -> str:
    """One line for people."""
    vehicle, hours = record["vehicle_id"], float(record.get("horizon_s") or 0.0) / 3600.0
    if record["phase"] == "resolved":
        return f"{vehicle}: {record['rule']} is over"
    if record["rule"] == "thermal_risk" and record.get("risk") is not None:
        return f"{vehicle}: risk of a thermal event within {hours:g} h is {float(record['risk']):.2f}"
    if record.get("surprise") is not None:
        return f"{vehicle}: telemetry is not what the model expects, surprise {float(record['surprise']):.1f}"
    return f"{vehicle}: {record['rule']}"


def contribution(part: dict[str, Any]) -> str:
    """One channel of the explanation."""
    said = f"{part.get('channel')} {part.get('value')} {part.get('unit') or ''}".strip()
    return f"{said}, {float(part['deviation']):+.1f} sd" if part.get("deviation") is not None else said


def postable(sink: AlertmanagerSink, notice: Notice, now_ms: int) -> list[dict[str, Any]]:
    """The alerts of POST /api/v2/alerts: one, or two where the severity has changed, for that is another alert there."""
    current = postable_alert(sink, notice.record, now_ms, ended=notice.transition == "resolved")
    if notice.transition != "escalated":
        return [current]
    before = "warning" if severity_of(notice.record) == "critical" else "critical"
    return [postable_alert(sink, notice.record, now_ms, ended=True, severity=before), current]


def postable_alert(
    sink: AlertmanagerSink, record: Record, now_ms: int, *, ended: bool, severity: str | None = None
) -> dict[str, Any]:
    """One alert. Its end is now or, while it is open, when it shall be taken for resolved unless it is repeated.

    A vehicle's clock may be ahead of ours: a start or an end in the future would be refused, or not be an end.
    """
    starts_ms = min(int(record.get("fired_ms") or record["first_crossed_ms"]), now_ms - 1)
    ends_ms = now_ms if ended else now_ms + int(1000 * sink.expire_s)
    return {
        "labels": sink.labels | labels_of(record, severity),
        "annotations": annotations_of(record),
        "startsAt": rfc3339(starts_ms),
        "endsAt": rfc3339(ends_ms),
    }


def repeats(sink: AlertmanagerSink, records: Sequence[Record], now_ms: int) -> Body:
    """Open alerts once more, all in one."""
    return orjson.dumps([postable_alert(sink, record, now_ms, ended=False) for record in records]), JSON


def webhook(sink: WebhookSink, notice: Notice) -> dict[str, Any]:
    """A group of one alert, as Alertmanager would send it."""
    record, labels, annotations = notice.record, labels_of(notice.record), annotations_of(notice.record)
    status = "firing" if is_open(record) else "resolved"
    ended_ms = record.get("resolved_ms") or record["updated_ms"]
    group = {name: labels[name] for name in ("alertname", "vehicle_id")}
    alert = {
        "status": status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": rfc3339(record.get("fired_ms") or record["first_crossed_ms"]),
        "endsAt": NEVER if status == "firing" else rfc3339(ended_ms),
        "generatorURL": "",
        "fingerprint": hashlib.sha256(notice.key.encode()).hexdigest()[:16],
    }
    return {
        "version": "4",
        "groupKey": "{}:{" + ", ".join(f'{name}="{value}"' for name, value in group.items()) + "}",
        "truncatedAlerts": 0,
        "status": status,
        "receiver": sink.name,
        "groupLabels": group,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "",
        "alerts": [alert],
    }


def cloud_event(sink: CloudEventsSink, notice: Notice) -> dict[str, Any]:
    """The whole record as data."""
    return {
        "specversion": "1.0",
        "id": notice.event_id,
        "source": sink.source,
        "type": f"io.emberwatch.alert.{notice.transition}",
        "subject": notice.record["vehicle_id"],
        "time": rfc3339(notice.record["updated_ms"]),
        "datacontenttype": "application/json",
        "data": notice.record | {"transition": notice.transition, "event_id": notice.event_id},
    }


def pagerduty(notice: Notice, routing_key: str) -> dict[str, Any]:
    """One event; the alert's id ties them together as one incident."""
    action = {"resolved": "resolve", "acknowledged": "acknowledge"}.get(notice.transition, "trigger")
    event: dict[str, Any] = {"routing_key": routing_key, "event_action": action, "dedup_key": notice.record["id"]}
    if action == "trigger":
        record = notice.record
        event["client"] = "Emberwatch"
        event["payload"] = {
            "summary": summary(record)[:LONGEST_SUMMARY],
            "source": record["vehicle_id"],
            "severity": severity_of(record),
            "timestamp": rfc3339(record.get("fired_ms") or record["updated_ms"]),
            "component": "battery",
            "class": record["rule"],
            "custom_details": record,
        }
    return event
