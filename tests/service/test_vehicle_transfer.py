"""Vehicles as a whole: exported and imported they go on bit for bit, erased they leave nothing, and nobody is fooled."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from service.records.state_codec import pack_snapshot
from service.records.vehicle_export import MEDIA_TYPE, Export, pack_export, unpack_export
from tests.processes import ServiceProcess, ValkeyProcess
from tests.service.conftest import sample

EVERY = 20  # samples from snapshot to snapshot
ALERTS: dict[str, Any] = {
    "alert_threshold": 1e-6,
    "resolve_threshold": 5e-7,
    "alert_for_s": 0.0,
}  # everybody's alert fires
IMPORT = {"Content-Type": MEDIA_TYPE}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyProcess) -> Iterator[httpx.Client]:
    """A service on the session's Valkey."""
    yield from serving(tmp_path_factory, valkey.url)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyProcess) -> Iterator[httpx.Client]:
    """A second worker on the same store."""
    yield from serving(tmp_path_factory, valkey.url)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with a store of its own, which keeps its snapshots in 8 bits."""
    yield from serving(tmp_path_factory, "embedded")


def serving(tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[httpx.Client]:
    """Start a service, end it afterwards."""
    process = ServiceProcess(tmp_path_factory.mktemp("transfer"), store=store, snapshot_every=EVERY, **ALERTS).start()
    with httpx.Client(base_url=process.url, timeout=60.0) as client:
        yield client
    process.stop_if_running()


def send(http: httpx.Client, vehicle: str, numbers: range) -> list[dict[str, Any]]:
    """Send samples of these numbers as an array; the answers."""
    answer = http.post(f"/v1/vehicles/{vehicle}/telemetry", json=[sample(i) for i in numbers])
    assert answer.status_code in {200, 207}, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def fetch(http: httpx.Client, vehicle: str) -> tuple[bytes, str]:
    """An export and its entity tag."""
    response = http.get(f"/v1/vehicles/{vehicle}/state")
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == MEDIA_TYPE
    return response.content, response.headers["ETag"]


def put(http: httpx.Client, vehicle: str, data: bytes, **headers: str) -> httpx.Response:
    """Import."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.put(f"/v1/vehicles/{vehicle}/state", content=data, headers=IMPORT | named)


def answers(items: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What a sender learns from each answer."""
    return [tuple(item.get(name) for name in ("status", "seq", "risk", "surprise", "phase")) for item in items]


def test_an_imported_vehicle_goes_on_bit_for_bit(here: httpx.Client, elsewhere: httpx.Client, vehicle: str) -> None:
    """Same answers, same state, same alert, over snapshots, from any sample between two of them."""
    n = int(np.random.default_rng().integers(70, 150))
    send(here, vehicle, range(n))
    data, _ = fetch(here, vehicle)
    response = put(elsewhere, vehicle, data)
    assert response.status_code == 201, response.text
    assert response.headers["ETag"] == fetch(elsewhere, vehicle)[1]
    for first in range(n, n + 90, 30):
        mine, theirs = (send(http, vehicle, range(first, first + 30)) for http in (here, elsewhere))
        assert answers(mine) == answers(theirs)
        assert {item["status"] for item in mine} == {"applied"}
    one, two = (unpack_export(fetch(http, vehicle)[0]) for http in (here, elsewhere))
    assert one.state == two.state
    assert one.alert == two.alert
    assert one.alert
    status = [http.get(f"/v1/vehicles/{vehicle}").json() for http in (here, elsewhere)]
    for name in ("epoch", "seq", "samples", "last_ts_ms", "risk", "phase", "position"):
        assert status[0][name] == status[1][name]


def test_retries_of_samples_from_before_the_move_are_answered(
    here: httpx.Client, elsewhere: httpx.Client, vehicle: str
) -> None:
    """The last 64 with their risk and compared in content, older ones as duplicates."""
    before = send(here, vehicle, range(100))
    assert put(elsewhere, vehicle, fetch(here, vehicle)[0]).status_code == 201
    again = send(elsewhere, vehicle, range(100))
    assert {item["status"] for item in again} == {"duplicate"}
    assert [item["risk"] for item in again[-64:]] == [item["risk"] for item in before[-64:]]
    other = elsewhere.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(99, speed=33.0))
    assert other.status_code == 409


def test_a_firing_alert_moves_without_being_news(here: httpx.Client, valkey: ValkeyProcess, vehicle: str) -> None:
    """It is listed at its new place; the stream of changes there does not hear of it again."""
    send(here, vehicle, range(100))
    data, _ = fetch(here, vehicle)
    assert here.delete(f"/v1/vehicles/{vehicle}").status_code == 204
    assert left_of(valkey, vehicle) == []
    assert put(here, vehicle, data).status_code == 201
    with valkey.client as store:
        told = [key for key in store.keys("*transitions") if about(store.xrange(key), vehicle)]
    assert told == []
    alerts = here.get("/v1/alerts").json()["alerts"]
    assert [alert["phase"] for alert in alerts if alert["vehicle_id"] == vehicle] == ["firing"]


def about(entries: Any, vehicle: str) -> bool:
    """Whether stream entries name the vehicle."""
    return f'"{vehicle}"' in str(entries)


def left_of(valkey: ValkeyProcess, vehicle: str) -> list[str]:
    """Where in the store the vehicle is still named."""
    found = []
    with valkey.client as store:
        for key in store.keys("*"):
            kind, name = store.type(key), key.decode()
            if f":{vehicle}:" in name:
                found.append(name)
            elif kind == b"zset":
                found += [name] if store.zscore(key, vehicle) is not None else []
            elif kind == b"hash":
                found += [name for place in store.hkeys(key) if place.decode().split("|")[0] == vehicle]
            elif kind == b"stream":
                found += [name] if about(store.xrange(key), vehicle) else []
    return found


def test_an_erased_vehicle_leaves_nothing(here: httpx.Client, valkey: ValkeyProcess, vehicle: str) -> None:
    """No key, no index entry, no alert, no word in the stream; erasing again is fine, and it may begin anew."""
    neighbour = f"{vehicle}-neighbour"
    send(here, neighbour, range(80))
    send(here, vehicle, range(80))
    assert left_of(valkey, vehicle)
    for _ in range(2):
        assert here.delete(f"/v1/vehicles/{vehicle}").status_code == 204
        assert left_of(valkey, vehicle) == []
    assert here.get(f"/v1/vehicles/{vehicle}").status_code == 404
    assert here.get(f"/v1/vehicles/{vehicle}/state").status_code == 404
    assert [item["status"] for item in send(here, vehicle, range(3))] == ["applied"] * 3
    assert here.get(f"/v1/vehicles/{vehicle}").json()["epoch"] == 1
    assert here.get(f"/v1/vehicles/{neighbour}").json()["seq"] == 79


def test_a_worker_that_knew_the_vehicle_notices(here: httpx.Client, beside: httpx.Client, vehicle: str) -> None:
    """Erased or replaced behind its back: its next answers come from what is there now."""
    send(here, vehicle, range(50))
    early, _ = fetch(here, vehicle)
    first = send(beside, vehicle, range(50, 80))
    etag = fetch(here, vehicle)[1]
    assert put(here, vehicle, early, if_match=etag).status_code == 204
    assert answers(send(beside, vehicle, range(50, 80))) == answers(first)
    assert here.delete(f"/v1/vehicles/{vehicle}").status_code == 204
    assert beside.get(f"/v1/vehicles/{vehicle}/state").status_code == 404
    assert [item["status"] for item in send(beside, vehicle, range(2))] == ["applied"] * 2


def test_an_import_never_takes_back_samples_by_accident(here: httpx.Client, vehicle: str) -> None:
    """An older export is refused, unless the version to be replaced is named; the same one may come twice."""
    send(here, vehicle, range(30))
    data, _ = fetch(here, vehicle)
    assert put(here, vehicle, data).status_code == 204
    send(here, vehicle, range(30, 40))
    refused = put(here, vehicle, data)
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (409, "vehicle-went-on")
    assert here.get(f"/v1/vehicles/{vehicle}").json()["seq"] == 39
    assert put(here, vehicle, data, if_match=fetch(here, vehicle)[1]).status_code == 204
    assert here.get(f"/v1/vehicles/{vehicle}").json()["seq"] == 29


def test_preconditions_are_kept(here: httpx.Client, vehicle: str) -> None:
    """If-Match, If-None-Match, and GET's 304."""
    send(here, vehicle, range(3))
    data, etag = fetch(here, vehicle)
    assert put(here, vehicle, data, if_none_match="*").status_code == 412
    assert put(here, vehicle, data, if_match='"1-1-0000000000000000"').status_code == 412
    assert put(here, f"{vehicle}-absent", data, if_match="*").status_code == 422  # it is another vehicle's
    assert here.delete(f"/v1/vehicles/{vehicle}", headers={"If-Match": '"no"'}).status_code == 412
    assert put(here, vehicle, data, if_match="no quotes").status_code == 412
    assert put(here, vehicle, data, if_none_match=f'"x", {etag}').status_code == 412
    assert here.get(f"/v1/vehicles/{vehicle}/state", headers={"If-None-Match": etag}).status_code == 304
    assert put(here, vehicle, data, if_match=f'"no", {etag}').status_code == 204
    assert here.get(f"/v1/vehicles/{vehicle}/state", headers={"If-None-Match": etag}).status_code == 200
    assert here.delete(f"/v1/vehicles/{vehicle}", headers={"If-Match": "*"}).status_code == 204
    assert here.delete(f"/v1/vehicles/{vehicle}", headers={"If-Match": "*"}).status_code == 412


def test_what_does_not_hold_together_is_refused(here: httpx.Client, vehicle: str) -> None:
    """Damaged, another vehicle's, another model's, head and state of different samples: with a reason, nothing changed."""
    send(here, vehicle, range(10))
    old = unpack_export(fetch(here, vehicle)[0])
    send(here, vehicle, range(10, 12))
    data, etag = fetch(here, vehicle)
    now = unpack_export(data)
    snapshot = now.snapshot()
    foreign = pack_snapshot(type(snapshot)("ab" * 16, snapshot.epoch, snapshot.seq, snapshot.conv, snapshot.ssm))
    cases: list[tuple[bytes, int, str]] = [
        (data[:-1] + bytes([data[-1] ^ 1]), 422, "checksum"),
        (b"hello", 422, "less than a header"),
        (changed(now, vehicle_id="somebody-else"), 422, "somebody-else"),
        (changed(now, state=foreign), 409, "belongs to model"),
        (changed(now, state=old.state), 422, "its state at"),
        (changed(now, head=old.head, state=old.state), 422, "journal"),
        (changed(now, head=now.head[:-1]), 422, "bytes"),
        (changed(now, alert=b'{"vehicle_id": "x"}'), 422, "another vehicle"),
        (changed(now, alert=b"[1]"), 422, "alert"),
        (changed(now, alert=b"{"), 422, "alert"),
        (changed(now, trend=b"a"), 422, "trend"),
        (changed(now, entries=now.entries[: -now.entry_bytes]), 422, "journal"),
        (changed(now, entries=b"", entry_bytes=1), 422, "journal"),
    ]
    for body, status, reason in cases:
        response = put(here, vehicle, body, if_match="*")
        assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")
        assert reason in response.json()["detail"]
    assert here.put(f"/v1/vehicles/{vehicle}/state", content=data).status_code == 415
    assert fetch(here, vehicle) == (data, etag)


def changed(export: Export, **parts: Any) -> bytes:
    """An export with other parts and a right checksum."""
    names = ("vehicle_id", "head", "state", "alert", "trend", "entries", "entry_bytes")
    kept = {name: getattr(export, name) for name in names}
    return pack_export(Export(**(kept | parts)))
