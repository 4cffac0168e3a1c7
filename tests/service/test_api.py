"""The calls as their users see them, against a real server with a real store."""

import json
import re

import httpx
import pytest

from service.records.journal import KEEP
from service.records.vehicle_export import unpack_export
from tests.service.conftest import START_MS, sample


def send(http: httpx.Client, vehicle: str, first: int, last: int) -> httpx.Response:
    """An array of the samples [first, last)."""
    return http.post(f"/v1/vehicles/{vehicle}/telemetry", json=[sample(i) for i in range(first, last)])


def test_a_sample_is_answered_with_its_risk(http: httpx.Client, vehicle: str) -> None:
    """One sample: applied, with a probability, the alert's phase and whether the model is warming up."""
    first = http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(0)).json()
    assert first["status"] == "applied"
    assert 0.0 <= first["risk"] <= 1.0
    assert first["phase"] == "inactive"
    assert first["warming_up"] is True
    assert "surprise" not in first  # there was no forecast yet
    assert http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(1)).json()["surprise"] is not None


def test_one_by_one_equals_an_array(http: httpx.Client, vehicle: str) -> None:
    """The same samples give the same risks and the same state, however they are cut into requests."""
    other = f"{vehicle}.array"
    singles = [http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(i)).json() for i in range(12)]
    array = send(http, other, 0, 12).json()["items"]
    assert [item["risk"] for item in singles] == pytest.approx([item["risk"] for item in array], rel=1e-5)
    one = unpack_export(http.get(f"/v1/vehicles/{vehicle}/state").content).snapshot()
    two = unpack_export(http.get(f"/v1/vehicles/{other}/state").content).snapshot()
    assert one.ssm == pytest.approx(two.ssm, rel=1e-4, abs=1e-6)


def test_a_retry_returns_the_stored_answer(http: httpx.Client, vehicle: str) -> None:
    """Recent retries get risk and surprise back; older ones are duplicates without numbers; nothing changes."""
    n = KEEP + 10
    applied = send(http, vehicle, 0, n).json()["items"]
    etag = http.get(f"/v1/vehicles/{vehicle}/state").headers["ETag"]
    again = send(http, vehicle, 0, n)
    assert again.status_code == 200
    items = again.json()["items"]
    assert {item["status"] for item in items} == {"duplicate"}
    for before, after in list(zip(applied, items, strict=True))[-KEEP:]:
        assert (after["risk"], after["surprise"]) == (before["risk"], before["surprise"])
    assert all("risk" not in item for item in items[: n - KEEP])
    assert http.get(f"/v1/vehicles/{vehicle}/state").headers["ETag"] == etag


def test_without_seq_the_timestamp_is_the_identity(http: httpx.Client, vehicle: str) -> None:
    """Samples without numbers are numbered by the service; the same ts and content is a duplicate."""
    unnumbered = [{key: value for key, value in sample(i).items() if key != "seq"} for i in range(3)]
    answers = http.post(f"/v1/vehicles/{vehicle}/telemetry", json=unnumbered).json()["items"]
    assert [answer["seq"] for answer in answers] == [0, 1, 2]
    again = http.post(f"/v1/vehicles/{vehicle}/telemetry", json=unnumbered[1]).json()
    assert (again["status"], again["seq"], again["risk"]) == ("duplicate", 1, answers[1]["risk"])
    changed = unnumbered[1] | {"signals": {"speed": 1.0}}
    assert http.post(f"/v1/vehicles/{vehicle}/telemetry", json=changed).json()["verdict"] == "conflict"


def test_seqs_that_were_skipped_are_late(http: httpx.Client, vehicle: str) -> None:
    """A number passed over and sent later is late, not a duplicate."""
    for i in (0, 1, 5):
        http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(i)).raise_for_status()
    response = http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(3))
    assert response.status_code == 409
    assert response.json()["verdict"] == "late"


def test_a_reset_begins_the_next_epoch_with_a_zero_state(http: httpx.Client, vehicle: str) -> None:
    """After a reset seq and ts start over and the first answer equals that of a new vehicle."""
    first = http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(0)).json()
    send(http, vehicle, 1, 5)
    response = http.post(f"/v1/vehicles/{vehicle}/sessions")
    assert response.status_code == 201
    assert response.json() == {"vehicle_id": vehicle, "epoch": 2}
    status = http.get(f"/v1/vehicles/{vehicle}").json()
    assert (status["epoch"], status["seq"], status["samples"]) == (2, None, 0)
    assert http.get(f"/v1/vehicles/{vehicle}/state").json()["type"] == "urn:emberwatch:problem:no-state"
    again = http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(0) | {"epoch": 2}).json()
    assert (again["status"], again["risk"]) == ("applied", first["risk"])
    stale = http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(6) | {"epoch": 1})
    assert stale.status_code == 409
    assert "epoch 1 is over" in stale.json()["detail"]


def test_the_first_reset_of_a_new_vehicle_is_epoch_one(http: httpx.Client, vehicle: str) -> None:
    """A vehicle may be announced before its first sample."""
    assert http.post(f"/v1/vehicles/{vehicle}/sessions").json()["epoch"] == 1
    assert http.get(f"/v1/vehicles/{vehicle}").json()["samples"] == 0


def test_status_tells_where_a_vehicle_stands(http: httpx.Client, vehicle: str) -> None:
    """Last sample, filtered position and what it costs in the store."""
    answers = send(http, vehicle, 0, 30).json()["items"]
    status = http.get(f"/v1/vehicles/{vehicle}").json()
    assert (status["epoch"], status["seq"], status["samples"]) == (1, 29, 30)
    assert status["last_ts_ms"] == START_MS + 29 * 5_000
    assert status["risk"] == answers[-1]["risk"]
    assert status["position"]["latitude"] == pytest.approx(48.0029, abs=2e-4)
    assert status["current_model"] is True
    bound = http.get("/v1/model").json()["bytes_per_vehicle"]["total_in_store"]
    assert 1_000 < status["stored_bytes"] <= bound


def test_the_list_is_ordered_by_risk_and_pages_without_gaps(http: httpx.Client, vehicle: str) -> None:
    """Every vehicle appears once across the pages, highest risk first, ties included."""
    mine = {f"{vehicle}.{i}" for i in range(7)}
    for name in mine:
        http.post(f"/v1/vehicles/{name}/sessions").raise_for_status()  # all with risk 0: ties
    send(http, f"{vehicle}.driven", 0, 3)
    mine.add(f"{vehicle}.driven")
    seen, cursor = [], None
    while True:
        page = http.get("/v1/vehicles", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += page["vehicles"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    names = [item["vehicle_id"] for item in seen]
    assert len(names) == len(set(names))
    assert mine <= set(names)
    risks = [item["risk"] or 0.0 for item in seen]
    assert risks == sorted(risks, reverse=True)


def test_the_model_card_states_the_bound_per_vehicle(http: httpx.Client) -> None:
    """Sizes, channels with units, thresholds and provenance are served with the fingerprint of the weights."""
    card = http.get("/v1/model").json()
    assert re.fullmatch(r"[0-9a-f]{32}", card["fingerprint"])
    assert card["config"]["block"] == "mamba1"
    assert card["bytes_per_vehicle"]["state"] == 4 * 4 * 256 * (3 + 64)
    assert [channel["name"] for channel in card["channels"]][:2] == ["speed", "acceleration"]
    assert 0 < card["resolve_threshold"] <= card["alert_threshold"] < 1
    assert card["provenance"]["data"]


def test_probes_answer(http: httpx.Client) -> None:
    """Alive and ready."""
    assert http.get("/livez").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ok"}


def test_metrics_count_every_verdict_and_name_no_vehicle(http: httpx.Client, vehicle: str) -> None:
    """samples_total grows by exactly what was sent; no series carries a vehicle."""

    def counts() -> dict[str, float]:
        text = http.get("/metrics").text
        assert vehicle not in text
        pairs = re.findall(r'^emberwatch_samples_total\{status="(\w+)"\} (\S+)$', text, re.MULTILINE)
        return {status: float(value) for status, value in pairs}

    before = counts()
    send(http, vehicle, 0, 5)
    send(http, vehicle, 3, 6)
    http.post(f"/v1/vehicles/{vehicle}/telemetry", json=[sample(2, speed=-1.0), sample(4, speed=9.0)])
    grown = {status: value - before.get(status, 0.0) for status, value in counts().items()}
    assert {status: n for status, n in grown.items() if n} == {
        "applied": 6, "duplicate": 2, "invalid": 1, "conflict": 1,
    }  # fmt: skip


def test_openapi_describes_every_call_with_examples(http: httpx.Client) -> None:
    """Each JSON answer and body in the document has an example, and the signals carry their units."""
    document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            assert call["summary"], path
            for code, response in call["responses"].items():
                media = response.get("content", {}).get("application/json")
                if media is None or not media.get("schema"):
                    continue
                name = media["schema"].get("$ref", "").rsplit("/", 1)[-1]
                shown = media.get("examples") or media.get("example") or schemas.get(name, {}).get("examples")
                assert shown, f"{method} {path} {code} has no example"
    body = document["paths"]["/v1/vehicles/{vehicle_id}/telemetry"]["post"]["requestBody"]["content"][
        "application/json"
    ]
    assert set(body["examples"]) == {"one", "array", "columns"}
    assert "(degC)" in str(body["schema"])


def test_the_documented_examples_are_accepted(http: httpx.Client, vehicle: str) -> None:
    """What the document shows can be sent as it stands."""
    document = http.get("/openapi.json").json()
    for path in ("/v1/vehicles/{vehicle_id}/telemetry", "/v1/telemetry"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        shown = [
            (name, json.dumps(example["value"])) for name, example in content["application/json"]["examples"].items()
        ]
        shown.append(("lines", content["application/x-ndjson"]["example"]))
        for name, text in shown:
            mine = f"{vehicle}.{name}.{len(path)}"
            form = {"Content-Type": "application/x-ndjson" if name == "lines" else "application/json"}
            body = text.replace('"van-', f'"{mine}-')
            response = http.post(path.replace("{vehicle_id}", mine), content=body, headers=form)
            assert response.status_code == 200, response.text


def overloaded(metrics: str) -> float:
    """Samples so far that did not fit."""
    return sum(map(float, re.findall(r'samples_total{status="overloaded"} (\S+)', metrics)))


def test_a_full_queue_is_a_429_with_retry_after(http: httpx.Client, vehicle: str) -> None:
    """More than max_queue samples at once: some requests are refused whole, and say when to come back."""
    import asyncio  # noqa: PLC0415

    async def flood() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=str(http.base_url), timeout=120.0) as client:
            calls = (
                client.post(f"/v1/vehicles/{vehicle}.{n}/telemetry", json=[sample(i) for i in range(500)])
                for n in range(24)
            )
            return await asyncio.gather(*calls)

    before = http.get("/metrics").text
    responses = asyncio.run(flood())
    refused = [response for response in responses if response.status_code == 429]
    assert {response.status_code for response in responses} == {200, 429}
    assert all(response.headers["Retry-After"] for response in refused)
    assert all(response.json()["type"].endswith("queue-full") for response in refused)
    assert {response.json()["verdict"] for response in refused} == {"overloaded"}
    assert overloaded(http.get("/metrics").text) - overloaded(before) == 500 * len(refused)
    assert http.get("/livez").status_code == 200
