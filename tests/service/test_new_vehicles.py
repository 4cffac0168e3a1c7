"""Vehicles that nobody knows yet: how many there may be, and who may bring how many."""

import asyncio
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest

from service.gate.new_vehicles import NewVehicles
from service.observe.metrics import Metrics
from tests.processes import ServiceProcess
from tests.service.conftest import create, sample
from tests.service.hostile import MEGABYTE, Fleet, driving, watch_memory
from tests.service.test_bad_input import assert_problem
from tests.service.test_keys import bearer


def columns(ids: list[str]) -> dict[str, object]:
    """The first sample of each vehicle."""
    n = len(ids)
    return {"columns": {"vehicle_id": ids, "ts": [sample(0)["ts"]] * n, "seq": [0] * n, "speed": [1.0] * n}}


def metric(service: ServiceProcess, key: str, name: str) -> float:
    """A series of the service, summed over its labels."""
    text = httpx.get(f"{service.url}/metrics", headers=bearer(key)).text
    return sum(map(float, re.findall(rf"^emberwatch_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))


def test_a_flood_of_new_vehicles(besieged_service: ServiceProcess, fleet_key: str, vehicle: str) -> None:
    """20,000 vans that nobody knows: the worker keeps no more than its slots, and the fleet is served meanwhile.

    What grows is the store, by the few kilobytes that a van costs there; who may send decides how many there are.
    """
    process = psutil.Process(besieged_service.pid)
    fleet = Fleet(besieged_service, fleet_key, vehicle)
    memory = [process.memory_info().rss]
    loaded = metric(besieged_service, fleet_key, "rehydrations_total")

    async def scenario() -> int:
        found = 0
        headers = bearer(fleet_key) | {"Prefer": "return=minimal"}
        async with (
            driving(fleet),
            httpx.AsyncClient(base_url=besieged_service.url, headers=headers, timeout=60.0) as client,
        ):
            for start in range(0, 20_000, 1_000):
                if (
                    start == 1_000
                ):  # all slots have been used by now: what they take is bounded, and not what is asked here
                    memory[:] = [process.memory_info().rss]
                    watch = asyncio.create_task(watch_memory(process, memory))
                ids = [f"{vehicle}.flood-{start + i}" for i in range(1_000)]
                response = await client.post("/v1/telemetry", json=columns(ids))
                found += response.json()["applied"]
            watch.cancel()
        return found

    applied = asyncio.run(scenario())
    used, capacity = (metric(besieged_service, fleet_key, f"slots_{name}") for name in ("used", "capacity"))
    assert applied == 20_000
    assert used <= capacity < 20_000
    assert metric(besieged_service, fleet_key, "rehydrations_total") == loaded  # no van of the fleet lost its slot
    assert max(memory) - memory[0] < 60 * MEGABYTE
    assert len(fleet.seconds) > 3
    assert statistics.median(fleet.seconds) < 2.0


MOST, PER_H = 700, 500


@pytest.fixture
def small_fleet(tmp_path: Path) -> Iterator[tuple[ServiceProcess, Path]]:
    """A service that takes few vehicles, and its key file."""
    keys = tmp_path / "keys.json"
    create(keys, "admin", name="first")
    service = ServiceProcess(
        tmp_path, keys_file=keys, max_vehicles=MOST, new_vehicles_per_h=PER_H, rate_limit_timeout_s=10.0
    )
    yield service.start(), keys
    service.stop_if_running()


def test_new_vehicles_have_a_bound(small_fleet: tuple[ServiceProcess, Path], vehicle: str) -> None:
    """Two keys flood and get their shares; what is known is served meanwhile; a deleted vehicle makes room for one."""
    service, keys = small_fleet
    fleet_key, flooder, other, admin = (
        create(keys, *scopes) for scopes in (("ingest", "read"), ("ingest",), ("ingest",), ("admin",))
    )
    time.sleep(1.1)  # until the keys are in force
    fleet = Fleet(service, fleet_key, vehicle)

    async def flood(client: httpx.AsyncClient, key: str, name: str) -> tuple[int, set[str], set[str]]:
        applied = 0
        reasons: set[str] = set()
        waits: set[str] = set()
        for start in range(0, 6_000, 1_000):
            ids = [f"{vehicle}.{name}-{start + i}" for i in range(1_000)]
            response = await client.post("/v1/telemetry", json=columns(ids), headers=bearer(key))
            assert response.status_code == 207
            items = response.json()["items"]
            assert [item["i"] for item in items] == list(range(1_000))
            assert {item["status"] for item in items} <= {"applied", "overloaded"}
            applied += response.json()["applied"]
            reasons |= {item["reason"].split(" (")[1] for item in items if item["status"] == "overloaded"}
            waits.add(response.headers["Retry-After"])
        return applied, reasons, waits

    async def scenario() -> None:
        async with driving(fleet), httpx.AsyncClient(base_url=service.url, timeout=60.0) as client:
            applied, reasons, waits = await flood(client, flooder, "a")
            assert (applied, waits) == (PER_H, {"60"})
            assert "EMBERWATCH_NEW_VEHICLES_PER_H)" in reasons
            assert await flood(client, other, "b") == (MOST - PER_H - 24, {"EMBERWATCH_MAX_VEHICLES)"}, {"60"})

    asyncio.run(scenario())
    assert fleet.applied == 24 * len(fleet.seconds)
    assert len(fleet.seconds) > 3
    assert metric(service, fleet_key, "vehicles_refused_total") == 12_000 - (MOST - 24)
    assert metric(service, fleet_key, "rehydrations_total") == 0

    def first_sample(name: str) -> httpx.Response:
        return httpx.post(f"{service.url}/v1/vehicles/{name}/telemetry", json=sample(0), headers=bearer(other))

    document = assert_problem(first_sample(f"{vehicle}.new"), 429)
    assert document["type"].endswith("too-many-vehicles")
    assert document["verdict"] == "overloaded"
    for name in (f"{vehicle}.a-3", f"{vehicle}.b-5"):
        assert httpx.delete(f"{service.url}/v1/vehicles/{name}", headers=bearer(admin)).status_code == 204
    statuses = [first_sample(f"{vehicle}.new-{i}").status_code for i in range(3)]
    assert statuses == [200, 200, 429]
    known = f"{service.url}/v1/vehicles/{vehicle}.a-4/telemetry"
    assert httpx.post(known, json=sample(1), headers=bearer(other)).status_code == 200


class Roll:
    """Which vehicles the store has."""

    def __init__(self) -> None:
        self.there: set[str] = set()

    async def count(self) -> int:
        """All of them."""
        return len(self.there)

    async def known(self, vehicle_ids: list[str]) -> set[str]:
        """Those of these."""
        return self.there & set(vehicle_ids)


def test_vehicles_in_hand_that_have_arrived_count_once() -> None:
    """The last places are not refused because the requests that brought the others have no answer yet."""
    roll = Roll()
    door = NewVehicles(SimpleNamespace(roll=roll), lambda _: False, 4, None, Metrics().vehicles_refused)  # type: ignore[arg-type]

    async def scenario() -> None:
        async with door.admit("key", ["a", "b"]) as first:
            assert not first
            async with door.admit("key", ["c", "d", "e"]) as second:
                assert set(second) == {"e"}  # a to d have their places, none of them is in the store
                roll.there |= {"a", "b", "c"}
                async with door.admit("key", ["d", "f"]) as third:
                    assert set(third) == {"f"}
            async with door.admit("key", ["g", "h"]) as last:
                assert set(last) == {"h"}  # d never came

    asyncio.run(scenario())
