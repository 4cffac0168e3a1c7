"""What an operator can see of a running service: ids in logs, spans at a collector, a profile, drift and counts."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client import CollectorRegistry, generate_latest

from service.gate.access import scope_of
from service.observe.device_metrics import DeviceGauges, DeviceReading
from service.observe.profile import sample_stacks
from service.settings import Settings
from tests.processes import ServiceProcess, wait_until
from tests.service.conftest import create, sample
from tests.service.span_receiver import SpanReceiver
from tests.service.test_keys import bearer


@pytest.fixture(scope="module")
def receiver() -> Iterator[SpanReceiver]:
    """A collector on loopback."""
    with SpanReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A key that may send and read, one that may do everything, and the file."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    return {"fleet": create(file, "ingest", "read"), "admin": create(file, "admin", "read"), "file": str(file)}


@pytest.fixture(scope="module")
def observed(
    tmp_path_factory: pytest.TempPathFactory, receiver: SpanReceiver, keys: dict[str, str]
) -> Iterator[ServiceProcess]:
    """A service with tracing, keys and every log line."""
    process = ServiceProcess(
        tmp_path_factory.mktemp("observed"),
        keys_file=keys["file"],
        tracing=True,
        log_level="debug",
        max_wait_ms=100,
        environment={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "100"},
    )
    try:
        yield process.start()
    finally:
        process.stop_if_running()


@pytest.fixture(scope="module")
def fleet(observed: ServiceProcess, keys: dict[str, str]) -> Iterator[httpx.Client]:
    """A client with the fleet's key."""
    with httpx.Client(base_url=observed.url, headers=bearer(keys["fleet"]), timeout=60.0) as client:
        yield client


def lines(service: ServiceProcess, **wanted: Any) -> list[dict[str, Any]]:
    """Log lines of the service with these members."""
    found = [json.loads(line) for line in service.log.splitlines() if line.startswith("{")]
    return [line for line in found if wanted.items() <= line.items()]


def post(fleet: httpx.Client, vehicle: str, i: int = 0, headers: dict[str, str] | None = None) -> httpx.Response:
    """One sample."""
    return fleet.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample(i), headers=headers)


def test_a_request_keeps_its_senders_id_in_the_answer_and_in_the_log(
    fleet: httpx.Client, observed: ServiceProcess, vehicle: str
) -> None:
    """The batch that served it says so."""
    answer = post(fleet, vehicle, headers={"X-Request-ID": "gateway-7:41"})
    assert answer.headers["X-Request-ID"] == "gateway-7:41"
    wait_until(lambda: lines(observed, event="request", request_id="gateway-7:41"), "the request's line", 10)
    (request,) = lines(observed, event="request", request_id="gateway-7:41")
    assert (request["status"], request["route"]) == (200, "/v1/vehicles/{vehicle_id}/telemetry")
    batches = [line for line in lines(observed, event="batch") if line["size"] == 1]
    assert batches
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", line["batch_id"]) for line in batches)


@pytest.mark.parametrize("bad", ["", "two words", "x" * 65, "line\tbreak"])
def test_an_id_that_could_forge_a_log_line_is_replaced(fleet: httpx.Client, bad: str) -> None:
    """And two requests never share one."""
    ids = [fleet.get("/livez", headers={"X-Request-ID": bad}).headers["X-Request-ID"] for _ in range(2)]
    assert ids[0] != ids[1]
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", name) for name in ids)


def test_spans_lead_from_the_senders_trace_over_the_batch_to_step_and_commit(
    fleet: httpx.Client, receiver: SpanReceiver, vehicle: str
) -> None:
    """Request -> batch -> load, step, commit, all in the trace that the sender began."""
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    post(fleet, vehicle, headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}).raise_for_status()

    def mine() -> dict[str, Span]:
        return {span.name: span for span in receiver.spans if span.trace_id.hex() == trace_id}

    server = "POST /v1/vehicles/{vehicle_id}/telemetry"
    wait_until(lambda: {server, "batch", "commit"} <= mine().keys(), "the spans", 20)
    spans = mine()
    assert spans[server].parent_span_id.hex() == "b7ad6b7169203331"
    assert spans["batch"].parent_span_id == spans[server].span_id
    stages = ("load", "judge", "preprocess", "step", "alert", "pack", "commit")
    assert [spans[stage].parent_span_id == spans["batch"].span_id for stage in stages] == [True] * len(stages)
    times = [spans[stage].start_time_unix_nano for stage in stages]
    assert times == sorted(times)


def test_requests_that_share_a_batch_are_linked_both_ways(
    fleet: httpx.Client, receiver: SpanReceiver, vehicle: str
) -> None:
    """The batch clock is 100 ms here, so two requests at once share a batch."""

    def shared() -> tuple[Span, Span] | None:
        batches = {span.span_id: span for span in receiver.spans if span.name == "batch"}
        for span in receiver.spans:
            for link in span.links:
                if span.name.startswith("POST") and link.span_id in batches:
                    return span, batches[link.span_id]
        return None

    for i in range(20):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: post(fleet, name, i), (f"{vehicle}-a", f"{vehicle}-b")))  # noqa: B023
        time.sleep(0.2)
        if shared():
            break
    found = shared()
    assert found is not None
    request, batch = found
    assert request.span_id in {link.span_id for link in batch.links}
    assert batch.trace_id != request.trace_id


def test_a_profile_shows_the_event_loop_and_needs_admin(
    observed: ServiceProcess, fleet: httpx.Client, keys: dict[str, str]
) -> None:
    """Folded stacks with counts; a reader's key is not enough."""
    assert fleet.get("/debug/profile").status_code == 403
    with httpx.Client(base_url=observed.url, headers=bearer(keys["admin"]), timeout=60.0) as admin:
        answer = admin.get("/debug/profile", params={"seconds": 0.3})
        assert admin.get("/debug/profile", params={"seconds": 61}).status_code == 422
    answer.raise_for_status()
    stacks = [line.rsplit(" ", 1) for line in answer.text.splitlines()]
    assert all(int(count) > 0 for _, count in stacks)
    assert any(stack.startswith("MainThread;") and "service.cli" in stack for stack, _ in stacks)


def test_the_sampler_finds_where_the_time_goes() -> None:
    """A thread that does one thing is seen doing it."""
    stop = threading.Event()
    busy = threading.Thread(target=stop.wait, name="a;waiter")
    busy.start()
    stacks = sample_stacks(0.1)
    stop.set()
    busy.join()
    waiting = [stack for stack in stacks if stack.startswith("a,waiter;")]
    assert waiting
    assert waiting[0].endswith("threading:Condition.wait")


def test_debug_is_for_admins_whatever_the_method() -> None:
    """Also what does not exist yet."""
    assert {scope_of(method, path) for method in ("GET", "POST") for path in ("/debug/profile", "/debug/x")} == {
        "admin"
    }


def test_drift_and_vehicles_are_exported(fleet: httpx.Client) -> None:
    """Each channel has its index once enough was seen; every vehicle of the store is counted."""
    rows = [sample(i) | {"vehicle_id": f"drift-{van}"} for i in range(250) for van in range(10)]
    fleet.post("/v1/telemetry", json={"samples": rows}).raise_for_status()
    text = fleet.get("/metrics").text
    drift = dict(re.findall(r'^emberwatch_input_drift\{channel="(\w+)"\} (\S+)$', text, re.MULTILINE))
    assert drift.keys() >= {"speed", "acceleration", "climb_rate", "state_of_charge", "motor_temperature"}
    assert float(drift["state_of_charge"]) > 0.25  # all vans at 78 to 80 %
    assert drift["pack_current"] == "NaN"  # never sent
    assert re.search(r"^emberwatch_score_drift \d", text, re.MULTILINE)

    def active() -> float:
        return float(re.findall(r"^emberwatch_vehicles_active (\S+)$", fleet.get("/metrics").text, re.MULTILINE)[0])

    wait_until(lambda: active() >= 10, "the vehicles to be counted", 30)


def test_a_service_that_nobody_traces_does_not_import_the_tracer() -> None:
    """Off by default, and no cost when off."""
    assert Settings().tracing is False
    code = "import sys, service.app; sys.exit('opentelemetry.exporter' in sys.modules or 'service.observe.tracing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_accelerators_figures_are_its_own_and_a_silent_one_has_none() -> None:
    """Readings as the driver gives them; without NVML no utilisation; a failing driver fails no scrape."""
    readings = {"cuda:0": DeviceReading(3, 80, 0.25), "cuda:1": DeviceReading(4, 80, None)}

    def scrape(device: str) -> str:
        registry = CollectorRegistry()
        registry.register(DeviceGauges(device, read))
        return generate_latest(registry).decode()

    def read(device: str) -> DeviceReading:
        if device not in readings:
            raise RuntimeError("the driver is gone")
        return readings[device]

    assert 'emberwatch_device_memory_bytes{kind="used"} 3.0' in scrape("cuda:0")
    assert "emberwatch_device_utilisation_ratio 0.25" in scrape("cuda:0")
    assert "utilisation" not in scrape("cuda:1")
    assert scrape("cuda:2") == ""
