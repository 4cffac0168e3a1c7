"""Bad input: each kind gets a clear problem document naming field and reason, and changes nothing."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.service.conftest import START_MS, sample

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def untouched(http: httpx.Client, vehicle: str) -> Callable[[], None]:
    """A vehicle with ten samples, and a check that status and state are bit for bit what they were."""
    for i in range(10):
        http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(i)).raise_for_status()

    def status() -> dict[str, Any]:
        told: dict[str, Any] = http.get(f"/v1/vehicles/{vehicle}").json()
        del told["stored_bytes"]  # a snapshot may be written in the background meanwhile
        return told

    before = status()
    state = http.get(f"/v1/vehicles/{vehicle}/state")

    def check() -> None:
        now = http.get(f"/v1/vehicles/{vehicle}/state")
        assert status() == before
        assert now.content == state.content
        assert now.headers["ETag"] == state.headers["ETag"]

    return check


def assert_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of a refusal, with the standard members checked."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["type"].startswith("urn:emberwatch:problem:")
    assert document["title"]
    assert document["detail"]
    return document


def with_signals(**signals: Any) -> dict[str, Any]:
    """The next sample with these signals changed; None removes one."""
    data = sample(10)
    merged = data["signals"] | signals
    data["signals"] = {name: value for name, value in merged.items() if value is not None}
    return data


INVALID: dict[str, tuple[dict[str, Any], str, str]] = {
    "missing signals": ({"ts": START_MS + 50_000, "seq": 10}, "signals", "is required"),
    "no signal at all": ({"ts": START_MS + 50_000, "seq": 10, "signals": {}}, "signals", "no signal has a value"),
    "missing ts": ({"seq": 10, "signals": {"speed": 1.0}}, "ts", "is required"),
    "unknown signal": (with_signals(tyre_pressure=2.5), "signals.tyre_pressure", "unknown signal"),
    "unknown field": (sample(10) | {"colour": "red"}, "colour", "unknown field"),
    "too high": (with_signals(state_of_charge=100.5), "signals.state_of_charge", "must be at most 100 %"),
    "too low": (with_signals(speed=-1.0), "signals.speed", "must be at least 0 m/s"),
    "latitude out of range": (with_signals(latitude=91.0), "signals.latitude", "must be at most 90 deg"),
    "a string": (with_signals(speed="12"), "signals.speed", "must be a number"),
    "a boolean": (with_signals(brake_events=True), "signals.brake_events", "must be a number"),
    "latitude alone": (with_signals(longitude=None), "signals", "longitude is missing"),
    "longitude alone": (with_signals(latitude=None), "signals", "latitude is missing"),
    "negative seq": (sample(10) | {"seq": -1}, "seq", "must be at least 0"),
    "seq of 1.5": (sample(10) | {"seq": 1.5}, "seq", "must be an integer"),
    "epoch zero": (sample(10) | {"epoch": 0}, "epoch", "must be at least 1"),
    "ts in seconds": (sample(10) | {"ts": 1_760_000_050}, "ts", "milliseconds, not seconds"),
    "ts without zone": (sample(10) | {"ts": "2026-09-14T08:00:05"}, "ts", "no time zone"),
    "ts that is no time": (sample(10) | {"ts": "yesterday"}, "ts", "RFC 3339"),
    "ts as a fraction": (sample(10) | {"ts": 1.76e12 + 0.5}, "ts", "integer"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_values_are_named(name: str, http: httpx.Client, vehicle: str, untouched: Callable[[], None]) -> None:
    """422 with the path of the field and the reason; the vehicle stays as it was."""
    data, field, reason = INVALID[name]
    document = assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", json=data), 422)
    assert document["verdict"] == "invalid"
    assert any(error["field"] == field and reason in error["reason"] for error in document["errors"]), document
    assert field in document["detail"]
    untouched()


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_not_a_number_is_refused_by_field(
    value: str, http: httpx.Client, vehicle: str, untouched: Callable[[], None]
) -> None:
    """NaN and the infinities, which JSON does not have but senders do, are named like any other bad value."""
    body = json.dumps(sample(10)).replace('"speed": 2.2', f'"speed": {value}')
    assert value in body
    document = assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", content=body, headers=JSON), 422)
    assert document["errors"] == [{"field": "signals.speed", "reason": "must be a finite number"}]
    untouched()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'"text"', b"12", b"null", b"[" * 100_000])
def test_an_unreadable_body_is_a_400(
    body: bytes, http: httpx.Client, vehicle: str, untouched: Callable[[], None]
) -> None:
    """What is not a JSON object or array is refused whole."""
    assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", content=body, headers=JSON), 400)
    untouched()


def test_another_media_type_is_a_415(http: httpx.Client, vehicle: str, untouched: Callable[[], None]) -> None:
    """Only JSON is read; the answer says so."""
    response = http.post(f"/v1/vehicles/{vehicle}/telemetry", content=b"a,b", headers={"Content-Type": "text/csv"})
    assert "application/json" in assert_problem(response, 415)["detail"]
    untouched()


def test_a_ten_megabyte_body_is_a_413(http: httpx.Client, vehicle: str, untouched: Callable[[], None]) -> None:
    """Refused by its declared length, or while it streams in when none is declared."""
    body = b" " * 10_000_000
    assert assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", content=body, headers=JSON), 413)[
        "limit_bytes"
    ]
    pieces = (body[:65_536] for _ in range(160))
    assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", content=pieces, headers=JSON), 413)
    untouched()


def test_too_long_an_array_is_a_413(http: httpx.Client, vehicle: str, untouched: Callable[[], None]) -> None:
    """The limit of samples holds for the whole request; none of it is applied."""
    data = [sample(10 + i) for i in range(501)]
    assert assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", json=data), 413)["limit_samples"] == 500
    untouched()


@pytest.mark.parametrize("name", ["van 1", "van%2F1", "vän", "x" * 65, "van%0A"])
def test_an_impossible_vehicle_id_is_refused(name: str, http: httpx.Client) -> None:
    """Ids with spaces, slashes, other letters or more than 64 of them never reach the store."""
    response = http.post(f"/v1/vehicles/{name}/telemetry", json=sample(0))
    assert response.status_code in {404, 422}
    assert assert_problem(response, response.status_code)


def test_a_wrong_epoch_is_a_conflict(http: httpx.Client, vehicle: str, untouched: Callable[[], None]) -> None:
    """A session that is over or has not begun is named with the current one."""
    document = assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(10) | {"epoch": 7}), 409)
    assert document["verdict"] == "conflict"
    assert "epoch 7 has not begun; the current session is epoch 1" in document["detail"]
    untouched()


def test_time_running_backwards_is_late(http: httpx.Client, vehicle: str, untouched: Callable[[], None]) -> None:
    """A new seq with an old or equal ts is refused, with by how much."""
    backwards = sample(10) | {"ts": START_MS + 40_000}
    document = assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", json=backwards), 409)
    assert document["verdict"] == "late"
    assert "5.000 s before" in document["detail"]
    assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(10) | {"ts": START_MS + 45_000}), 409)
    untouched()


def test_an_old_timestamp_without_seq_is_late(http: httpx.Client, vehicle: str, untouched: Callable[[], None]) -> None:
    """Without seq the ts is the identity; one that was never accepted and is not new is late."""
    unnumbered = {"ts": START_MS + 42_000, "signals": {"speed": 1.0}}
    document = assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", json=unnumbered), 409)
    assert document["verdict"] == "late"
    untouched()


def test_the_far_future_is_invalid(http: httpx.Client, vehicle: str, untouched: Callable[[], None]) -> None:
    """More than max_future_skew ahead of the server's clock is a broken clock."""
    future = sample(10) | {"ts": int(time.time() * 1000) + 600_000}
    document = assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", json=future), 422)
    assert document["verdict"] == "invalid"
    assert document["errors"][0]["field"] == "ts"
    assert "ahead of the server's clock" in document["detail"]
    untouched()


def test_the_same_seq_with_other_content_is_a_conflict(
    http: httpx.Client, vehicle: str, untouched: Callable[[], None]
) -> None:
    """A number that was accepted with other content is neither applied nor called a duplicate."""
    document = assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(9, speed=50.0)), 409)
    assert document["verdict"] == "conflict"
    untouched()


def test_a_bad_sample_in_an_array_fails_alone(http: httpx.Client, vehicle: str) -> None:
    """The others are applied in order, the answer is a 207 and each item says its own."""
    bad = [sample(0), sample(1, speed=-4.0), sample(2), sample(0, speed=9.0), sample(3)]
    response = http.post(f"/v1/vehicles/{vehicle}/telemetry", json=bad)
    assert response.status_code == 207
    answer = response.json()
    statuses = [item["status"] for item in answer["items"]]
    assert statuses == ["applied", "invalid", "applied", "conflict", "applied"]
    assert (answer["applied"], answer["duplicate"], answer["rejected"]) == (3, 0, 2)
    assert answer["items"][1]["errors"][0]["field"] == "signals.speed"
    assert [item["i"] for item in answer["items"]] == list(range(5))


def test_nothing_is_stored_for_a_vehicle_that_only_sent_rubbish(http: httpx.Client, vehicle: str) -> None:
    """A vehicle exists from its first accepted sample on."""
    assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", json=with_signals(speed=-1.0)), 422)
    assert_problem(http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(0) | {"epoch": 2}), 409)
    assert_problem(http.get(f"/v1/vehicles/{vehicle}"), 404)
    assert_problem(http.get(f"/v1/vehicles/{vehicle}/state"), 404)


def test_an_unknown_encoding_is_a_415(http: httpx.Client, vehicle: str) -> None:
    """An encoding that is not read is named, and the header says which are."""
    headers = JSON | {"Content-Encoding": "br"}
    response = http.post(f"/v1/vehicles/{vehicle}/telemetry", content=b"\x1f\x8b", headers=headers)
    assert "br" in assert_problem(response, 415)["detail"]
    assert response.headers["Accept-Encoding"] == "gzip, zstd"


def test_an_answer_does_not_outgrow_its_question(http: httpx.Client, vehicle: str) -> None:
    """Tens of thousands of unknown fields are answered with the first ten and a count, long names cut short."""
    rubbish = sample(0) | {f"{'x' * 500}{i}": 1 for i in range(1_000)}
    response = http.post(f"/v1/vehicles/{vehicle}/telemetry", json=rubbish)
    document = assert_problem(response, 422)
    assert len(document["errors"]) == 11
    assert document["errors"][-1]["reason"] == "and 990 more"
    assert len(response.content) < 10_000


def test_pages_from_elsewhere_may_not_write(http: httpx.Client, vehicle: str) -> None:
    """A browser on this machine cannot be made to reset vans by a foreign page; our own page may."""
    foreign = {"Origin": "https://example.org"}
    assert_problem(http.post(f"/v1/vehicles/{vehicle}/sessions", headers=foreign), 403)
    assert_problem(http.get(f"/v1/vehicles/{vehicle}"), 404)
    own = {"Origin": str(http.base_url).rstrip("/")}
    assert http.post(f"/v1/vehicles/{vehicle}/sessions", headers=own).status_code == 201


def test_unknown_paths_and_methods_are_problems_too(http: httpx.Client) -> None:
    """Whatever goes wrong, the answer has one shape."""
    assert_problem(http.get("/v1/nothing"), 404)
    assert_problem(http.delete("/v1/model"), 405)
    both = http.post("/v1/vehicles/van-1")
    assert_problem(both, 405)
    assert both.headers["Allow"] == "DELETE, GET"
    assert_problem(http.get("/v1/vehicles", params={"limit": 0}), 422)
    for cursor in ("rubbish", base64.urlsafe_b64encode(b"nan van-1").decode(), "AAAA"):
        assert_problem(http.get("/v1/vehicles", params={"cursor": cursor}), 422)
