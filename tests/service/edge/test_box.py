"""A box without a network for a day: everything is kept within bounds, and arrives once, in order, afterwards."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient

from service.edge.box import create_box
from tests.chaos.truth import differences
from tests.chaos.vans import START_MS, Van, make_drive
from tests.processes import ServiceProcess, free_port, wait_until

DAY = 17_280  # samples of a van, one each five seconds
LIMIT = 16_000_000


@contextmanager
def running_box(folder: Path, upstream: str) -> Iterator[str]:
    """URL of `emberwatch forward` in a process of its own."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "service.cli", "forward", "--spool", str(folder), "--port", str(port)]
    command += ["--max-bytes", str(LIMIT), "--longest-wait-s", "1", "--to", upstream]
    with (folder.parent / "box.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or alive(url), "the box")
        assert process.poll() is None, (folder.parent / "box.log").read_text()
        yield url
    finally:
        process.terminate()
        ended = process.wait(60)
    assert ended == 0


def alive(url: str) -> bool:
    """Whether it answers."""
    try:
        return httpx.get(f"{url}/livez").is_success
    except httpx.TransportError:
        return False


def send(box: httpx.Client, van: Van, first: int, last: int) -> None:
    """Samples of a van in arrays, each acknowledged by the box."""
    for start in range(first, last, 720):
        samples = [van.drive.wire(i) for i in range(start, min(start + 720, last))]
        answer = box.post(f"/v1/vehicles/{van.vehicle_id}/telemetry", content=orjson.dumps(samples))
        assert (answer.status_code, answer.json()) == (202, {"spooled": len(samples)})


def test_a_day_without_network_arrives_once_and_in_order(tmp_path: Path) -> None:
    """A van's whole day, over a crash of the box; of another van the state is compared with the offline scan."""
    service = ServiceProcess(tmp_path, max_batch_size=64, slots=160)
    day, minutes = (Van(name, make_drive(np.random.default_rng(7), n)) for name, n in (("day", DAY), ("minutes", 240)))
    spool = tmp_path / "spool"
    crashed = TestClient(create_box(spool, [service.url], LIMIT, None, 1.0))  # it never gets to close anything
    send(crashed, day, 0, DAY // 2)
    with running_box(spool, service.url) as url, httpx.Client(base_url=url, timeout=60.0) as box:
        send(box, day, DAY // 2 - 10, DAY)  # a sender that was not answered before the crash sends again
        send(box, minutes, 0, 240)
        state = box.get("/v1/spool").json()
        assert state["bytes"] == state["upstreams"][0]["waiting_bytes"]
        assert 0.1 * LIMIT < state["bytes"] < LIMIT
        service.start()
        try:
            wait_until(lambda: not box.get("/v1/spool").json()["upstreams"][0]["waiting_bytes"], "all to be sent", 200)
            with httpx.Client(base_url=service.url, timeout=60.0) as http:
                assert differences(http, minutes, 240) == []
                held = http.get("/v1/vehicles/day").json()
            assert (held["samples"], held["seq"]) == (DAY, int(day.drive.seqs[-1]))
            counted = box.get("/metrics").text
            label = f'{{status="%s",upstream="{service.url}"}}'
            assert f"emberwatch_forward_samples_total{label % 'applied'} {DAY + 240}.0" in counted
            assert f"emberwatch_forward_samples_total{label % 'duplicate'} 10.0" in counted
        finally:
            service.stop_if_running()


def test_a_full_box_says_so_and_bad_samples_are_named(tmp_path: Path) -> None:
    """429 with Retry-After, and what is wrong where; nothing of a refused body is kept."""
    app = create_box(tmp_path, ["http://127.0.0.1:9"], 8_388_608, None, 60.0)
    with TestClient(app) as box:
        path, good = "/v1/vehicles/van-1/telemetry", {"ts": START_MS, "signals": {"speed": 1.0}}
        for body, reason in (
            (b"{", "not JSON"),
            (b"[]", "no samples"),
            (orjson.dumps([good, {"ts": True, "signals": {}}]), "sample 1, ts"),
            (orjson.dumps([good, {"ts": START_MS}]), "sample 1, signals"),
            (orjson.dumps([good, 3]), "sample 1 is not an object"),
            (b" " * 4_194_305, "more than 4,194,304 bytes"),
        ):
            answer = box.post(path, content=body)
            assert answer.status_code == 422
            assert reason in answer.json()["detail"]
        assert box.post("/v1/vehicles/van%201/telemetry", json=good).status_code == 422
        assert box.post("/v1/telemetry", json={"samples": [good]}).json()["detail"].startswith("sample 0, vehicle_id")
        assert box.get("/v1/spool").json()["bytes"] == 0
        assert box.post("/v1/telemetry", json={"samples": [good | {"vehicle_id": "v"}]}).json() == {"spooled": 1}
        large = orjson.dumps([good | {"note": "x" * 1_000}] * 3_000)
        answers = [box.post(path, content=large) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert answers[-1].headers["retry-after"] == "60"
        assert "emberwatch_forward_full_total 1.0" in box.get("/metrics").text


def test_two_upstreams_of_one_name_are_refused(tmp_path: Path) -> None:
    """Each has one place of reading."""
    with pytest.raises(ValueError, match="twice"):
        create_box(tmp_path, ["http://a", "http://a"], 8_388_608, None, 1.0)
