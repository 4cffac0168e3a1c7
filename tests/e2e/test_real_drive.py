"""The main job: a real drive through HTTP, model, Redis and back, with the service and the store killed on the way."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model.recordings import read_recording
from service.client import Client, Tally, wire_samples
from service.records.vehicle_export import unpack_export
from tests.processes import ServiceProcess, ValkeyProcess, wait_until

ROWS = 964
LEAF = "leaf/leafspy_2025-06-29.csv.gz"


def cli(*arguments: object) -> dict[str, Any]:
    """Run `emberwatch ... --json`; its document with the exit code."""
    command = [sys.executable, "-m", "service.cli", *(str(a) for a in arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document | {"exit_code": done.returncode}


def replay(service: ServiceProcess, drive: Path, vehicle: str) -> dict[str, Any]:
    """`emberwatch replay` of the Leaf drive."""
    return cli("replay", drive, "--format", "leafspy", "--vehicle", vehicle, "--url", service.url)


def counts(service: ServiceProcess) -> dict[str, float]:
    """samples_total by status."""
    text = httpx.get(f"{service.url}/metrics").text
    return {
        s: float(v)
        for s, v in re.findall(r'^emberwatch_samples_total\{status="(\w+)"\} (\S+)$', text, re.MULTILINE)
        if float(v)
    }


def in_vehicle(service: ServiceProcess, vehicle: str) -> int:
    """Samples committed for a vehicle so far."""
    return int(httpx.get(f"{service.url}/v1/vehicles/{vehicle}").json().get("samples", 0))


def ssm_state(service: ServiceProcess, vehicle: str) -> np.ndarray:
    """The state as the API gives it."""
    return unpack_export(httpx.get(f"{service.url}/v1/vehicles/{vehicle}/state").content).snapshot().ssm


@pytest.fixture(scope="module")
def drive(real_data: Path) -> Path:
    """The recorded drive."""
    return real_data / LEAF


@pytest.fixture(scope="module")
def undisturbed(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The final state of a run in which nothing went wrong."""
    service = ServiceProcess(tmp_path_factory.mktemp("undisturbed")).start()
    try:
        replay(service, drive, "leaf-1")
        return ssm_state(service, "leaf-1")
    finally:
        service.stop_if_running()


def test_every_row_gets_a_verdict_and_a_second_replay_changes_nothing(drive: Path, tmp_path: Path) -> None:
    """964 rows applied, counted and verified against the offline scan; replayed again, 964 duplicates; restarted, the same."""
    service = ServiceProcess(tmp_path).start()
    try:
        first = replay(service, drive, "leaf-1")
        assert (first["exit_code"], first["rows"], first["applied"]) == (0, ROWS, ROWS)
        assert counts(service) == {"applied": ROWS}
        before = httpx.get(f"{service.url}/v1/vehicles/leaf-1/state")

        second = replay(service, drive, "leaf-1")
        assert (second["exit_code"], second["applied"], second["duplicate"]) == (0, 0, ROWS)
        assert counts(service) == {"applied": ROWS, "duplicate": ROWS}
        after = httpx.get(f"{service.url}/v1/vehicles/leaf-1/state")
        assert (after.content, after.headers["ETag"]) == (before.content, before.headers["ETag"])

        assert service.stop() == 0
        service.start()
        assert httpx.get(f"{service.url}/v1/vehicles/leaf-1/state").content == before.content
        verified = cli("state", "verify", "leaf-1", drive, "--url", service.url)
        assert (verified["exit_code"], verified["samples"], verified["agrees"]) == (0, ROWS, True)
        assert max(verified["relative_error"].values()) < 1e-4
    finally:
        service.stop_if_running()


def test_verify_notices_a_state_that_is_wrong(drive: Path, tmp_path: Path) -> None:
    """A drive with one altered sample does not verify: the check can fail."""
    service = ServiceProcess(tmp_path).start()
    try:
        samples = list(wire_samples(read_recording(drive, "leafspy")))[:200]
        samples[150]["signals"]["motor_temperature"] += 20.0
        with Client(service.url) as client:
            client.send("leaf-1", samples, Tally())
        verified = cli("state", "verify", "leaf-1", drive, "--url", service.url)
        assert (verified["exit_code"], verified["agrees"]) == (1, False)
    finally:
        service.stop_if_running()


def stream_until_cut(service: ServiceProcess, drive: Path, cut_after: int, cut: Callable[[], None]) -> int:
    """Stream the drive in small arrays and call `cut` from beside once so many samples are in; how many were applied."""
    samples = list(wire_samples(read_recording(drive, "leafspy")))
    acknowledged = 0
    reached = threading.Event()

    def cutter() -> None:
        reached.wait(60)
        time.sleep(float(np.random.default_rng().uniform(0.0, 0.05)))  # anywhere in a batch
        cut()

    beside = threading.Thread(target=cutter)
    beside.start()
    with httpx.Client(base_url=service.url, timeout=30.0) as client:
        for start in range(0, len(samples), 7):
            if start >= cut_after:
                reached.set()
            try:
                answer = client.post("/v1/vehicles/leaf-1/telemetry", json=samples[start : start + 7])
            except httpx.TransportError:
                break  # the service is gone
            statuses = [item["status"] for item in answer.json()["items"]]
            acknowledged += statuses.count("applied")
            if "deferred" in statuses:
                break  # the store is gone
    reached.set()
    beside.join()
    return acknowledged


@pytest.mark.parametrize("cut_after", [100, 400, 700])
def test_killing_the_service_in_mid_replay_loses_and_doubles_nothing(
    drive: Path, tmp_path: Path, undisturbed: np.ndarray, cut_after: int
) -> None:
    """Kill -9, restart, replay from the start: what was acknowledged is a duplicate, the final state is undisturbed."""
    service = ServiceProcess(tmp_path).start()
    try:
        acknowledged = stream_until_cut(service, drive, cut_after, service.kill)
        assert 0 < acknowledged < ROWS
        service.start()
        again = replay(service, drive, "leaf-1")
        assert again["exit_code"] == 0
        assert again["applied"] + again["duplicate"] == ROWS
        assert again["duplicate"] >= acknowledged
        assert ssm_state(service, "leaf-1") == pytest.approx(undisturbed, rel=1e-4, abs=1e-5)
        assert cli("state", "verify", "leaf-1", drive, "--url", service.url)["agrees"]
    finally:
        service.stop_if_running()


@pytest.mark.parametrize("cut_after", [100, 600])
def test_killing_the_store_in_mid_replay_loses_and_doubles_nothing(
    drive: Path, tmp_path: Path, undisturbed: np.ndarray, cut_after: int
) -> None:
    """Kill -9 of the store under a running service, restart, replay from the start: the same final state."""
    valkey = ValkeyProcess(tmp_path).start()
    service = ServiceProcess(tmp_path, store=valkey.url).start()
    try:
        acknowledged = stream_until_cut(service, drive, cut_after, valkey.kill)
        assert 0 < acknowledged < ROWS
        assert httpx.get(f"{service.url}/livez").status_code == 200
        down = httpx.get(f"{service.url}/readyz")
        assert down.status_code == 503
        assert down.headers["Retry-After"]
        valkey.start()
        again = replay(service, drive, "leaf-1")
        assert again["exit_code"] == 0
        assert again["applied"] + again["duplicate"] == ROWS
        assert again["duplicate"] >= acknowledged
        assert ssm_state(service, "leaf-1") == pytest.approx(undisturbed, rel=1e-4, abs=1e-5)
        assert cli("state", "verify", "leaf-1", drive, "--url", service.url)["agrees"]
    finally:
        service.stop_if_running()
        valkey.stop_if_running()


def test_an_embedded_store_that_dies_is_started_again(drive: Path, tmp_path: Path) -> None:
    """The replay's client rides out the death of the embedded Valkey; the service brings it back and counts it."""
    service = ServiceProcess(tmp_path).start()
    try:
        replayed: list[dict[str, Any]] = []
        beside = threading.Thread(target=lambda: replayed.append(replay(service, drive, "leaf-1")))
        beside.start()
        pid = int((tmp_path / "data" / "valkey.pid").read_text())
        deadline = time.monotonic() + 30
        while in_vehicle(service, "leaf-1") < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        subprocess.run(["kill", "-9", str(pid)], check=True)
        beside.join()
        assert replayed[0]["exit_code"] == 0
        assert replayed[0]["applied"] + replayed[0]["duplicate"] == ROWS
        assert replayed[0]["retries"] > 0
        restarts = re.search(
            r"^emberwatch_store_restarts_total (\S+)$", httpx.get(f"{service.url}/metrics").text, re.MULTILINE
        )
        assert restarts is not None
        assert float(restarts[1]) >= 1
        assert cli("state", "verify", "leaf-1", drive, "--url", service.url)["agrees"]
    finally:
        service.stop_if_running()


def test_a_graceful_stop_answers_what_it_has_taken(drive: Path, tmp_path: Path) -> None:
    """SIGTERM in mid-request: the request in hand is answered in full, the exit code is 0, nothing is lost."""
    service = ServiceProcess(tmp_path).start()
    once = list(wire_samples(read_recording(drive, "leafspy")))
    lap_ms = once[-1]["ts"] - once[0]["ts"] + 5_000
    samples = [
        row | {"ts": row["ts"] + lap * lap_ms, "seq": lap * len(once) + i}
        for lap in range(30)
        for i, row in enumerate(once)
    ]
    answers: list[httpx.Response] = []
    try:
        url = f"{service.url}/v1/vehicles/leaf-1/telemetry"
        beside = threading.Thread(target=lambda: answers.append(httpx.post(url, json=samples, timeout=60)))
        beside.start()
        wait_until(lambda: in_vehicle(service, "leaf-1") >= 20, "the first samples", timeout_s=30)
        assert in_vehicle(service, "leaf-1") < len(samples)
        assert service.stop() == 0
        beside.join()
        assert answers[0].status_code == 200
        assert answers[0].json()["applied"] == len(samples)
        service.start()
        assert httpx.get(f"{service.url}/v1/vehicles/leaf-1").json()["samples"] == len(samples)
    finally:
        service.stop_if_running()


def test_a_bmw_trip_streams_at_one_hertz(real_data: Path, tmp_path: Path) -> None:
    """Another car, without GPS or motor temperature and five times as fast, streams and verifies too."""
    trip = real_data / "bmw_i3" / "TripA01.csv.gz"
    service = ServiceProcess(tmp_path).start()
    try:
        options = ("--format", "bmw-i3", "--url", service.url)
        done = cli("replay", trip, "--vehicle", "i3", *options)
        assert (done["exit_code"], done["applied"]) == (0, done["rows"])
        assert cli("state", "verify", "i3", trip, *options)["agrees"]
    finally:
        service.stop_if_running()
