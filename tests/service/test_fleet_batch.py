"""Fleet batches against a real server: three shapes, packed bodies, limits after unpacking, short answers."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import zstandard

from service.records.vehicle_export import unpack_export
from tests.processes import ServiceProcess
from tests.service.conftest import START_MS, sample
from tests.service.test_bad_input import assert_problem
from tests.service.test_decode import SHAPES, as_shape

JSON = {"Content-Type": "application/json"}


def rows_of(vehicle: str, n: int, vans: int = 3) -> list[dict[str, Any]]:
    """N samples of each of some vans, interleaved as a depot's gateway would send them."""
    return [{"vehicle_id": f"{vehicle}.{v}", **sample(i)} for i in range(n) for v in range(vans)]


def send(http: httpx.Client, rows: list[dict[str, Any]], shape: str, **headers: str) -> httpx.Response:
    """A fleet batch in one of its shapes."""
    body, form = as_shape(rows, shape)
    return http.post("/v1/telemetry", content=body, headers={"Content-Type": form, **headers})


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fleet_batch_equals_samples_sent_one_by_one(shape: str, http: httpx.Client, vehicle: str) -> None:
    """The same answers in the order of the request, and the same state, whatever the shape."""
    response = send(http, rows_of(vehicle, 6), shape)
    assert response.status_code == 200
    answer = response.json()
    assert (answer["applied"], answer["duplicate"], answer["rejected"]) == (18, 0, 0)
    assert [item["i"] for item in answer["items"]] == list(range(18))
    alone = [http.post(f"/v1/vehicles/{vehicle}.alone/telemetry", json=sample(i)).json() for i in range(6)]
    for van in range(3):
        risks = [item["risk"] for item in answer["items"][van::3]]
        assert risks == pytest.approx([item["risk"] for item in alone], rel=1e-5)
    one = unpack_export(http.get(f"/v1/vehicles/{vehicle}.alone/state").content).snapshot()
    two = unpack_export(http.get(f"/v1/vehicles/{vehicle}.2/state").content).snapshot()
    assert two.ssm == pytest.approx(one.ssm, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_row_gets_its_own_verdict(shape: str, http: httpx.Client, vehicle: str) -> None:
    """Applied, duplicate, late, conflict and invalid side by side: 207, and nothing is hidden."""
    send(http, rows_of(vehicle, 3), shape).raise_for_status()
    rows = [
        {"vehicle_id": f"{vehicle}.0", **sample(3)},
        {"vehicle_id": f"{vehicle}.1", **sample(2)},
        {"vehicle_id": f"{vehicle}.1", **sample(4) | {"ts": START_MS}},
        {"vehicle_id": f"{vehicle}.2", **sample(2, speed=9.0)},
        {"vehicle_id": f"{vehicle}.2", **sample(3, speed=-9.0)},
        {"vehicle_id": "not an id", **sample(3)},
        {"vehicle_id": f"{vehicle}.2", **sample(4)},
    ]
    response = send(http, rows, shape)
    assert response.status_code == 207
    answer = response.json()
    assert [item["status"] for item in answer["items"]] == [
        "applied", "duplicate", "late", "conflict", "invalid", "invalid", "applied",
    ]  # fmt: skip
    assert (answer["applied"], answer["duplicate"], answer["rejected"]) == (2, 1, 4)
    assert answer["items"][4]["errors"] == [{"field": "signals.speed", "reason": "must be at least 0 m/s"}]
    assert answer["items"][5]["errors"][0]["field"] == "vehicle_id"
    assert all("reason" in answer["items"][i] for i in (2, 3))


def test_a_minimal_answer_lists_what_was_not_applied(http: httpx.Client, vehicle: str) -> None:
    """Prefer: return=minimal is honoured, said so, and changes only the list."""
    rows = rows_of(vehicle, 4)
    response = send(http, rows, "columns", Prefer="respond-async, return=minimal; x=y")
    assert response.json() == {"applied": 12, "duplicate": 0, "rejected": 0, "items": []}
    assert response.headers["Preference-Applied"] == "return=minimal"
    rows = [
        *rows[:2],
        {"vehicle_id": f"{vehicle}.0", **sample(4)},
        {"vehicle_id": f"{vehicle}.1", **sample(4, speed=-1.0)},
    ]
    response = send(http, rows, "samples", Prefer='return="minimal"')
    assert response.status_code == 207
    assert [(item["i"], item["status"]) for item in response.json()["items"]] == [
        (0, "duplicate"), (1, "duplicate"), (3, "invalid"),
    ]  # fmt: skip
    full = send(http, rows[:2], "samples", Prefer="return=representation")
    assert "Preference-Applied" not in full.headers
    assert len(full.json()["items"]) == 2


def test_a_malformed_column_set_is_a_422_with_its_name(http: httpx.Client, vehicle: str) -> None:
    """Nothing of it is applied."""
    columns = {"vehicle_id": [vehicle, vehicle], "ts": [START_MS, START_MS + 5_000], "speed": [1.0]}
    document = assert_problem(http.post("/v1/telemetry", json={"columns": columns}), 422)
    assert document["type"].endswith("invalid-columns")
    assert document["errors"] == [{"field": "columns.speed", "reason": "has 1 values, ts has 2"}]
    assert http.get(f"/v1/vehicles/{vehicle}").status_code == 404


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_bodies_are_read(encoding: str, shape: str, http: httpx.Client, vehicle: str) -> None:
    """Gzip and zstd, in one piece or streamed, in several members or frames."""
    body, form = as_shape(rows_of(vehicle, 20), shape)
    pack = gzip.compress if encoding == "gzip" else zstandard.compress
    pieces = pack(body[:700]) + pack(body[700:])
    headers = {"Content-Type": form, "Content-Encoding": encoding}
    assert http.post("/v1/telemetry", content=pieces, headers=headers).json()["applied"] == 60
    stream = (pieces[at : at + 13] for at in range(0, len(pieces), 13))
    assert http.post("/v1/telemetry", content=stream, headers=headers).json()["duplicate"] == 60


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_torn_packed_body_is_a_400(encoding: str, http: httpx.Client, vehicle: str) -> None:
    """Cut off at a line's end or not, or not packed at all: refused whole, nothing applied."""
    body, form = as_shape(rows_of(vehicle, 20), "ndjson")
    packed = gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)
    headers = {"Content-Type": form, "Content-Encoding": encoding}
    for content in (packed[:-5], packed[: len(packed) // 2], packed + b"tail", b"", body):
        document = assert_problem(http.post("/v1/telemetry", content=content, headers=headers), 400)
        assert encoding in document["detail"]
    assert http.get(f"/v1/vehicles/{vehicle}.0").status_code == 404


def bombs(size: int) -> Iterator[tuple[str, bytes]]:
    """Bodies that would unpack to `size` bytes of spaces."""
    gz = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = b" " * 1_000_000
    yield "gzip", b"".join(gz.compress(piece) for _ in range(size // len(piece))) + gz.flush()
    zs = zstandard.ZstdCompressor(level=19).compressobj()
    yield "zstd", b"".join(zs.compress(piece) for _ in range(size // len(piece))) + zs.flush()
    # An honest header does not help either.
    yield "zstd", zstandard.compress(b" " * size)


def test_a_decompression_bomb_stops_early(http: httpx.Client, service: ServiceProcess, vehicle: str) -> None:
    """Two gigabytes in a packet: 413 at the limit, memory hardly moves, and the service serves on."""
    http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(0)).raise_for_status()
    process = psutil.Process(service.pid)
    before = process.memory_info().rss
    highest = before
    for encoding, bomb in bombs(500_000_000):
        assert len(bomb) < 1_000_000
        for path in ("/v1/telemetry", f"/v1/vehicles/{vehicle}/telemetry"):
            response = http.post(path, content=bomb, headers=JSON | {"Content-Encoding": encoding})
            assert assert_problem(response, 413)["limit_bytes"] == 1_000_000
            highest = max(highest, process.memory_info().rss)
    assert highest - before < 32_000_000
    assert http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(1)).status_code == 200


def test_a_window_larger_than_the_standard_asks_for_is_refused(http: httpx.Client) -> None:
    """A zstd header may demand gigabytes of memory before the first byte; it does not get them."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27, format=zstandard.FORMAT_ZSTD1)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = packed.compress(json.dumps({"samples": []}).encode()) + packed.flush()
    assert_problem(http.post("/v1/telemetry", content=body, headers=JSON | {"Content-Encoding": "zstd"}), 400)


def test_limits_hold_for_the_whole_request(http: httpx.Client, vehicle: str) -> None:
    """Too many samples or vehicles: 413 with the limit, nothing applied."""
    rows = [{"vehicle_id": f"{vehicle}.{i}", **sample(0)} for i in range(301)]
    assert assert_problem(send(http, rows, "columns"), 413)["limit_vehicles"] == 300
    rows = [{"vehicle_id": vehicle, **sample(i)} for i in range(501)]
    for shape in SHAPES:
        assert assert_problem(send(http, rows, shape), 413)["limit_samples"] == 500
    assert http.get(f"/v1/vehicles/{vehicle}").status_code == 404


def test_lines_and_columns_of_one_vehicle(http: httpx.Client, vehicle: str) -> None:
    """The per-vehicle call takes every shape; the vehicle is in the path."""
    lines, form = as_shape([sample(i) for i in range(4)], "ndjson")
    path = f"/v1/vehicles/{vehicle}/telemetry"
    assert http.post(path, content=lines, headers={"Content-Type": form}).json()["applied"] == 4
    columns, _ = as_shape([sample(i) for i in range(4, 8)], "columns")
    assert http.post(path, content=columns, headers=JSON).json()["applied"] == 4
    assert http.get(f"/v1/vehicles/{vehicle}").json()["seq"] == 7


def test_an_array_of_one_is_answered_as_an_array(http: httpx.Client, vehicle: str) -> None:
    """Only a sample object on its own has its verdict as the status of the response."""
    late = [sample(3), sample(1)]
    response = http.post(f"/v1/vehicles/{vehicle}/telemetry", json=late)
    assert response.status_code == 207
    assert http.post(f"/v1/vehicles/{vehicle}/telemetry", json=[sample(1)]).status_code == 207
    assert http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(1)).status_code == 409


def history(n: int) -> dict[str, list[object]]:
    """N samples of one van, five seconds apart, as columns."""
    rows = [sample(i) for i in range(n)]
    signals = {name: [row["signals"][name] for row in rows] for name in rows[0]["signals"]}
    signals["state_of_charge"] = [80.0 - 1e-3 * i for i in range(n)]
    signals["latitude"] = [48.0 + 1e-5 * i for i in range(n)]
    return {"ts": [row["ts"] for row in rows], "seq": [row["seq"] for row in rows], **signals}


def test_48_hours_of_history_in_one_call(tmp_path: Path, vehicle: str) -> None:
    """34,560 samples of one van fit the default limits, in three shapes, and give the state of the same sent in pieces."""
    n = 34_560
    columns = history(n)
    service = ServiceProcess(tmp_path).start()
    minimal = {"Prefer": "return=minimal"}
    try:
        with httpx.Client(base_url=service.url, timeout=120.0, headers=minimal) as client:
            whole = f"/v1/vehicles/{vehicle}.whole/telemetry"
            answer = client.post(whole, json={"columns": columns})
            assert answer.json() == {"applied": n, "duplicate": 0, "rejected": 0, "items": []}
            for start in range(0, n, 5_000):
                part = {name: column[start : start + 5_000] for name, column in columns.items()}
                client.post(f"/v1/vehicles/{vehicle}.parts/telemetry", json={"columns": part}).raise_for_status()
            names = set(columns) - {"ts", "seq"}
            rows = [
                {"ts": columns["ts"][i], "seq": i, "signals": {name: columns[name][i] for name in names}}
                for i in range(n)
            ]
            assert client.post(whole, json=rows).json()["duplicate"] == n
            lines, form = as_shape(rows, "ndjson")
            headers = {"Content-Type": form, "Content-Encoding": "zstd"}
            assert client.post(whole, content=zstandard.compress(lines), headers=headers).json()["duplicate"] == n
            states = [
                unpack_export(client.get(f"/v1/vehicles/{vehicle}.{name}/state").content).snapshot()
                for name in ("whole", "parts")
            ]
            vans = [client.get(f"/v1/vehicles/{vehicle}.{name}").json() for name in ("whole", "parts")]
    finally:
        service.stop_if_running()
    assert states[0].seq == states[1].seq == n - 1
    error = np.linalg.norm(states[0].ssm - states[1].ssm) / np.linalg.norm(states[1].ssm)
    assert error < 1e-4
    assert vans[0]["risk"] == pytest.approx(vans[1]["risk"], rel=1e-3)
    assert vans[0]["samples"] == n
