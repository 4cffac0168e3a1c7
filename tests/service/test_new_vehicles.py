"""Vehicles that nobody knows yet: how many there may be, and who may bring how many."""

import asyncio
import re
import statistics

import httpx
import psutil

from tests.processes import ServiceProcess
from tests.service.conftest import sample
from tests.service.hostile import MEGABYTE, Fleet, driving, watch_memory
from tests.service.test_keys import bearer


def test_a_flood_of_new_vehicles(besieged_service: ServiceProcess, fleet_key: str, vehicle: str) -> None:
    """20,000 vans that nobody knows: the worker keeps no more than its slots, and the fleet is served meanwhile.

    What grows is the store, by the few kilobytes that a van costs there; who may send decides how many there are.
    """
    process = psutil.Process(besieged_service.pid)
    fleet = Fleet(besieged_service, fleet_key, vehicle)
    memory = [process.memory_info().rss]

    async def scenario() -> int:
        found = 0
        headers = bearer(fleet_key) | {"Prefer": "return=minimal"}
        async with (
            driving(fleet),
            httpx.AsyncClient(base_url=besieged_service.url, headers=headers, timeout=60.0) as client,
        ):
            memory[0] = process.memory_info().rss
            watch = asyncio.create_task(watch_memory(process, memory))
            for start in range(0, 20_000, 1_000):
                ids = [f"{vehicle}.flood-{start + i}" for i in range(1_000)]
                columns = {"vehicle_id": ids, "ts": [sample(0)["ts"]] * 1_000, "speed": [1.0] * 1_000}
                response = await client.post("/v1/telemetry", json={"columns": columns})
                found += response.json()["applied"]
            watch.cancel()
        return found

    applied = asyncio.run(scenario())
    text = httpx.get(f"{besieged_service.url}/metrics", headers=bearer(fleet_key)).text
    used, capacity = (
        float(re.findall(rf"^emberwatch_slots_{name} (\S+)", text, re.MULTILINE)[0]) for name in ("used", "capacity")
    )
    assert applied == 20_000
    assert used <= capacity < 20_000
    assert max(memory) - memory[0] < 60 * MEGABYTE
    assert len(fleet.seconds) > 3
    assert statistics.median(fleet.seconds) < 2.0
