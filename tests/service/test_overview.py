"""The two documents that pages share: the fleet in columns, and how the service fares."""

import asyncio
import json
import math
import time
from typing import Any

import httpx
import pytest

from model.checkpoint import Checkpoint
from service.errors import StoreUnavailable
from service.observe.metrics import Metrics
from service.overview.fleet_view import FleetView
from service.overview.pulse import Pulse, quantile
from service.store.roll import AtRisk
from tests.processes import ValkeyProcess, wait_until
from tests.service.conftest import sample
from tests.service.workers import policy, run, worker


def columns(http: httpx.Client, vehicle: str) -> dict[str, Any]:
    """The vehicle's row of the fleet; empty if it is not listed."""
    table = http.get("/v1/fleet").json()["columns"]
    if vehicle not in table["vehicle_id"]:
        return {}
    i = table["vehicle_id"].index(vehicle)
    return {name: column[i] for name, column in table.items()}


def test_a_vehicle_is_in_the_fleet_as_it_is_on_its_own(http: httpx.Client, vehicle: str) -> None:
    """Within seconds of its samples it is listed with the same risk, phase and position, the highest risk first."""
    http.post(f"/v1/vehicles/{vehicle}/telemetry", json=[sample(i) for i in range(40)])
    wait_until(lambda: columns(http, vehicle), f"{vehicle} in the fleet")
    row, alone = columns(http, vehicle), http.get(f"/v1/vehicles/{vehicle}").json()
    assert row["risk"] == pytest.approx(alone["risk"], abs=1e-5)
    assert row["surprise"] == pytest.approx(alone["surprise"], abs=1e-3)
    assert (row["phase"], row["last_ts_ms"], row["warming_up"]) == (
        alone["phase"],
        alone["last_ts_ms"],
        alone["warming_up"],
    )
    assert row["latitude"] == pytest.approx(alone["position"]["latitude"], abs=1e-5)
    assert abs(row["heard_ms"] / 1000 - time.time()) < 600
    risks = [risk or 0.0 for risk in http.get("/v1/fleet").json()["columns"]["risk"]]
    assert risks == sorted(risks, reverse=True)


def test_the_same_fleet_is_not_sent_twice(http: httpx.Client, vehicle: str) -> None:
    """The entity tag spares the body, gzip is used where it is understood, and the packed body is the same."""
    http.post(f"/v1/vehicles/{vehicle}/telemetry", json=sample())
    wait_until(lambda: columns(http, vehicle), f"{vehicle} in the fleet")
    plain = http.get("/v1/fleet", headers={"Accept-Encoding": "identity"})
    packed = http.get("/v1/fleet", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.json() == plain.json()
    known = http.get("/v1/fleet", headers={"If-None-Match": plain.headers["ETag"]})
    assert (known.status_code, known.content) == (304, b"")


def test_fifty_readers_cost_one_reading(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Who asks at the same moment, or soon after, is given the same document; the store is read once."""
    one = worker(valkey.url, checkpoint)

    async def scenario() -> None:
        await one.run(vehicle, 0, 5)
        view = FleetView(one.store, one.engine.context.layout, policy(), 300.0)
        first = await asyncio.gather(*(view.document() for _ in range(50)))
        assert len({id(document) for document in first}) == 1
        assert vehicle.encode() in first[0].body
        assert (await view.document()) is first[0]
        listed = [s for m in one.metrics.store_duration.collect() for s in m.samples if s.name.endswith("_count")]
        assert [s.value for s in listed if s.labels["op"] == "list"] == [1.0]
        await view.close()

    run([one], scenario)


def test_a_store_that_is_gone_is_told_and_the_next_reader_tries_again(
    valkey: ValkeyProcess, checkpoint: Checkpoint
) -> None:
    """Every waiting reader gets the refusal; once the store answers, a document is made."""
    one = worker(valkey.url, checkpoint)

    async def scenario() -> None:
        view = FleetView(one.store, one.engine.context.layout, policy(), 300.0)
        whole = one.store.roll.most_at_risk

        async def gone(limit: int) -> AtRisk:
            raise StoreUnavailable(f"no answer for {limit}")

        one.store.roll.most_at_risk = gone  # type: ignore[method-assign]
        answers = await asyncio.gather(view.document(), view.document(), return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        one.store.roll.most_at_risk = whole  # type: ignore[method-assign]
        assert (await view.document()).etag
        await view.close()

    run([one], scenario)


def test_the_pulse_counts_what_happened_between_two_readings(valkey: ValkeyProcess, checkpoint: Checkpoint) -> None:
    """Rates, batch size and latencies are those of the interval, not since the start; the store's answer is timed."""
    one, metrics = worker(valkey.url, checkpoint), Metrics()

    async def scenario() -> None:
        metrics.samples.labels("applied").inc(1_000_000)
        pulse = Pulse(metrics, one.store, {"backend": "cpu"})
        metrics.samples.labels("applied").inc(500)
        metrics.samples.labels("late").inc(5)
        for _ in range(4):
            metrics.batch_size.observe(125)
            metrics.http_duration.labels("/v1/telemetry", "200").observe(0.004)
        metrics.http_duration.labels("/v1/vehicles", "200").observe(4.0)
        await pulse.take()
        beat = read(pulse)["now"]
        assert 500 / 60 < beat["applied_per_s"] < 1e6
        assert beat["not_applied_per_s"] == pytest.approx(beat["applied_per_s"] / 100, rel=0.2)
        assert beat["batch_size"] == 125
        assert 2.5 <= beat["http_p50_ms"] <= beat["http_p99_ms"] <= 5.0
        assert beat["store_ms"] > 0
        assert read(pulse)["store"] == {"ok": True, "reason": None}
        await pulse.take()
        assert read(pulse)["now"]["http_p99_ms"] is None
        assert len(read(pulse)["history"]["ts_ms"]) == 2

    run([one], scenario)


def read(pulse: Pulse) -> dict[str, Any]:
    """The document, read."""
    document: dict[str, Any] = json.loads(pulse.document)
    return document


def test_quantiles_of_buckets() -> None:
    """Linear within a bucket; nothing has none; beyond the last bound it is the last bound."""
    counts = {0.1: 10.0, 0.2: 20.0, math.inf: 20.0}
    assert quantile(counts, 0.5) == pytest.approx(0.1)
    assert quantile(counts, 0.75) == pytest.approx(0.15)
    assert quantile({0.1: 0.0, math.inf: 0.0}, 0.5) is None
    assert quantile({0.1: 0.0, math.inf: 3.0}, 0.5) == pytest.approx(0.1)


def test_the_service_says_how_it_fares(http: httpx.Client) -> None:
    """Without a question to the store."""
    told = http.get("/v1/service").json()
    assert told["store"]["ok"] is True
    assert told["slots_capacity"] > 0
    assert set(told["now"]) == set(told["history"])


def test_the_page_is_served_with_headers_that_keep_it_to_itself(http: httpx.Client) -> None:
    """From the bare address to the page; nothing inline, nothing from elsewhere; what is not there is a 404."""
    page = http.get("/", follow_redirects=True)
    assert str(page.url).endswith("/dashboard/")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert "http" not in page.text.replace("http-equiv", "")
    assert http.get("/dashboard/js/main.js").headers["Content-Type"].startswith("text/javascript")
    assert http.get("/dashboard/../settings.py").status_code == 404
