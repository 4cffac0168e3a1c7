"""Alerts and silences over HTTP: lists with filters and pages, acknowledgement, silences, and what is refused."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.alerting.silences import Silence
from service.gate.access import scope_of
from tests.processes import ServiceProcess
from tests.service.conftest import sample

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def alarmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service in which every van's alert fires at its first sample after warm-up, five vans in a row."""
    process = ServiceProcess(
        tmp_path_factory.mktemp("alarmed"), alert_threshold=1e-6, resolve_threshold=5e-7, alert_for_s=0.0
    ).start()
    with httpx.Client(base_url=process.url, timeout=60.0) as client:
        for i in range(5):
            client.post(f"/v1/vehicles/fleet-{i}/telemetry", json=[sample(k) for k in range(61 + i)])
        yield client
    process.stop_if_running()


def listed(http: httpx.Client, **asked: Any) -> list[dict[str, Any]]:
    """Alerts of a query."""
    response = http.get("/v1/alerts", params=asked)
    assert response.status_code == 200, response.text
    alerts: list[dict[str, Any]] = response.json()["alerts"]
    return alerts


def test_the_list_is_filtered_and_paged(alarmed: httpx.Client) -> None:
    """Every filter, and pages that together are the list, the latest change first."""
    whole = listed(alarmed, vehicle_id="fleet-*")
    assert [a["vehicle_id"] for a in whole if a["phase"] == "firing"]
    assert {a["vehicle_id"] for a in whole} == {f"fleet-{i}" for i in range(5)}
    times = [a["updated_ms"] for a in whole]
    assert times == sorted(times, reverse=True)
    assert listed(alarmed, phase="firing", vehicle_id="fleet-*") == whole
    assert listed(alarmed, phase="resolved", vehicle_id="fleet-*") == []
    assert listed(alarmed, rule="telemetry_anomaly", vehicle_id="fleet-*") == []
    assert len(listed(alarmed, vehicle_id="fleet-3", severity=whole[0]["severity"])) == 1
    pages, cursor = [], None
    while True:
        asked = {"limit": "2", "vehicle_id": "fleet-*"} | ({"cursor": cursor} if cursor else {})
        page = alarmed.get("/v1/alerts", params=asked).json()
        pages.append(page["alerts"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [alert for page in pages for alert in page] == whole
    assert alarmed.get(f"/v1/alerts/{whole[0]['id']}").json() == whole[0]
    vehicle = alarmed.get("/v1/vehicles/fleet-0").json()
    assert vehicle["phases"] == {"thermal_risk": "firing", "telemetry_anomaly": "inactive"}


def test_a_list_is_shared_by_those_who_take_an_older_one(alarmed: httpx.Client) -> None:
    """Who says how old a list may be gets the one made for another; who does not, what is there now; a known one is 304."""
    old = {"Cache-Control": "no-transform, max-age=10"}
    before = alarmed.get("/v1/alerts?vehicle_id=late-*", headers=old)
    assert before.json() == {"alerts": [], "next_cursor": None}
    alarmed.post("/v1/vehicles/late-1/telemetry", json=[sample(k) for k in range(61)])
    assert alarmed.get("/v1/alerts?vehicle_id=late-*", headers=old).json() == before.json()
    assert alarmed.get("/v1/alerts?vehicle_id=late-?", headers=old).json() != before.json()  # another question
    now = alarmed.get("/v1/alerts?vehicle_id=late-*")
    assert [alert["vehicle_id"] for alert in now.json()["alerts"]] == ["late-1"]
    known = alarmed.get("/v1/alerts?vehicle_id=late-*", headers=old | {"If-None-Match": now.headers["etag"]})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", now.headers["etag"])


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/v1/alerts?cursor=abc", 422, "invalid-parameter"),
        ("/v1/alerts?phase=bad", 422, "invalid-parameter"),
        ("/v1/alerts?limit=0", 422, "invalid-parameter"),
        ("/v1/alerts/none", 404, "unknown-alert"),
        ("/v1/alerts/fleet-0.thermal_risk.1.17", 404, "unknown-alert"),
    ],
)
def test_what_cannot_be_listed_is_a_problem(alarmed: httpx.Client, path: str, status: int, kind: str) -> None:
    """Bad filters and ids of alerts that are not there."""
    response = alarmed.get(path)
    assert (response.status_code, response.json()["type"].rpartition(":")[2]) == (status, kind)


def test_an_alert_is_acknowledged_once(alarmed: httpx.Client) -> None:
    """Eight operators at once: one wins, all are told who; over HTTP the flag is a filter; a resolved alert is too late."""
    alert = listed(alarmed, vehicle_id="fleet-1")[0]
    path = f"/v1/alerts/{alert['id']}/ack"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: alarmed.post(path, json={"by": f"operator {i}", "note": "on it"}), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({str(answer.json()["acknowledged"]) for answer in answers}) == 1
    first = answers[0].json()
    assert first["acknowledged"]["note"] == "on it"
    assert (first["transition"], first["event_id"]) == ("acknowledged", f"{alert['id']}-ack")
    assert first["phase"] == "firing"
    assert [a["id"] for a in listed(alarmed, vehicle_id="fleet-*", acknowledged="true")] == [alert["id"]]
    assert len(listed(alarmed, vehicle_id="fleet-*", acknowledged="false")) == 4
    other = listed(alarmed, vehicle_id="fleet-2")[0]
    assert alarmed.post("/v1/vehicles/fleet-2/sessions").status_code == 201
    late = alarmed.post(f"/v1/alerts/{other['id']}/ack", json={"by": "ann"})
    assert (late.status_code, late.json()["type"].rpartition(":")[2]) == (409, "alert-is-over")
    assert alarmed.post(path, json={"by": ""}).status_code == 422
    assert alarmed.post(path, json={"by": "ann", "more": 1}).status_code == 422
    assert alarmed.post("/v1/alerts/none/ack", json={"by": "ann"}).status_code == 404
    assert 'alert_transitions_total{rule="thermal_risk",to="acknowledged"} 1.0' in alarmed.get("/metrics").text


def test_acknowledged_alerts_move_with_their_vehicle(alarmed: httpx.Client) -> None:
    """Export, erase and import keep the flag, and whoever it was."""
    alert = listed(alarmed, vehicle_id="fleet-4")[0]
    alarmed.post(f"/v1/alerts/{alert['id']}/ack", json={"by": "ann", "note": "x"})
    before = alarmed.get(f"/v1/alerts/{alert['id']}").json()
    data = alarmed.get("/v1/vehicles/fleet-4/state")
    assert alarmed.delete("/v1/vehicles/fleet-4").status_code == 204
    assert alarmed.get(f"/v1/alerts/{alert['id']}").status_code == 404
    headers = {"Content-Type": data.headers["Content-Type"]}
    assert alarmed.put("/v1/vehicles/fleet-4/state", content=data.content, headers=headers).status_code == 201
    assert alarmed.get(f"/v1/alerts/{alert['id']}").json() == before


def test_silences_come_and_go(alarmed: httpx.Client) -> None:
    """One in force, one ahead (a maintenance window); deleted they are gone."""
    now = round(1_000 * time.time())
    asked = {"vehicle_id": "depot-*", "rule": "thermal_risk", "created_by": "ann", "comment": "workshop"}
    one = alarmed.post("/v1/silences", json=asked | {"ends_ms": now + HOUR_MS})
    ahead = alarmed.post("/v1/silences", json=asked | {"starts_ms": now + HOUR_MS, "ends_ms": now + 2 * HOUR_MS})
    assert (one.status_code, ahead.status_code) == (201, 201)
    assert (one.json()["state"], ahead.json()["state"]) == ("active", "pending")
    assert [s["id"] for s in alarmed.get("/v1/silences").json()["silences"]] == [ahead.json()["id"], one.json()["id"]]
    assert [s["id"] for s in alarmed.get("/v1/silences?active=true").json()["silences"]] == [one.json()["id"]]
    assert alarmed.delete(f"/v1/silences/{one.json()['id']}").status_code == 204
    gone = alarmed.delete(f"/v1/silences/{one.json()['id']}")
    assert (gone.status_code, gone.json()["type"].rpartition(":")[2]) == (404, "unknown-silence")
    assert [s["id"] for s in alarmed.get("/v1/silences").json()["silences"]] == [ahead.json()["id"]]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"vehicle_id": None}, "give vehicle_id, rule or severity"),
        ({"vehicle_id": "van 1"}, "vehicle_id"),
        ({"ends_ms": 5}, "ends_ms"),
        ({"ends_ms": 10**15}, "ends_ms"),
        ({"rule": "other"}, "rule"),
        ({"created_by": ""}, "created_by"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_silence_that_makes_no_sense_is_refused(alarmed: httpx.Client, change: dict[str, Any], field: str) -> None:
    """With the field and the reason."""
    asked = {"vehicle_id": "van-1", "created_by": "ann", "ends_ms": round(1_000 * time.time()) + HOUR_MS}
    response = alarmed.post("/v1/silences", json=asked | change)
    assert response.status_code == 422
    assert field in response.json()["detail"]


@pytest.mark.parametrize(
    ("matchers", "expected"),
    [
        ((None, None, None), True),
        (("van-7", None, None), True),
        (("van-?", "thermal_risk", "critical"), True),
        (("van-*", "telemetry_anomaly", None), False),
        (("VAN-7", None, None), False),
        (("van", None, None), False),
        (("van-7", None, "warning"), False),
    ],
)
def test_a_silence_matches_when_all_its_matchers_do(matchers: tuple[str | None, ...], expected: bool) -> None:
    """Exact ids, globs, rule and severity."""
    vehicle_id, rule, severity = matchers
    silence = Silence("x", 0, 10, vehicle_id, rule, severity, "ann", 0, "")
    alert = {"vehicle_id": "van-7", "rule": "thermal_risk", "severity": "critical"}
    assert silence.matches(alert) is expected
    assert [silence.active(t) for t in (-1, 0, 9, 10)] == [False, True, True, False]


def test_reading_needs_read_and_the_rest_admin() -> None:
    """The scopes of all calls on alerts and silences."""
    assert [scope_of("GET", path) for path in ("/v1/alerts", "/v1/alerts/x", "/v1/silences")] == ["read"] * 3
    calls = [("POST", "/v1/alerts/x/ack"), ("POST", "/v1/silences"), ("DELETE", "/v1/silences/x")]
    assert [scope_of(*call) for call in calls] == ["admin"] * 3
