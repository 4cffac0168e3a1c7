"""Bodies that want more memory than they may have: bounded memory, clear answers, the fleet served meanwhile."""

import asyncio
import gzip
import json
import socket
import statistics
import time
from pathlib import Path

import httpx
import psutil

from tests.processes import ServiceProcess, wait_until
from tests.service.conftest import BODY_S, create
from tests.service.hostile import MEGABYTE, Fleet, address, driving, probe, watch_memory
from tests.service.test_bad_input import assert_problem
from tests.service.test_fleet_batch import bombs
from tests.service.test_keys import bearer


def test_bytes_in_hand_are_bounded(besieged_service: ServiceProcess, fleet_key: str) -> None:
    """Bodies that stall after unpacking to a megabyte each: 429 for the ninth, probes answer, and all is given back."""
    packed = gzip.compress(b" " * (MEGABYTE - 10))
    head = (
        b"POST /v1/telemetry HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % (fleet_key.encode(), len(packed))
    )
    held = [socket.create_connection(address(besieged_service), timeout=30) for _ in range(12)]
    try:
        for connection in held:
            connection.sendall(head + packed[:-1])
        time.sleep(0.5)
        with httpx.Client(base_url=besieged_service.url, headers=bearer(fleet_key), timeout=30.0) as client:
            body = json.dumps({"samples": []}) + " " * (MEGABYTE - 100)
            response = client.post("/v1/telemetry", content=body, headers={"Content-Type": "application/json"})
            assert assert_problem(response, 429)["type"].endswith("too-much-in-flight")
            assert response.headers["Retry-After"] == "1"
            assert asyncio.run(probe(besieged_service, fleet_key)) == 200
            wait_until(
                lambda: (
                    client.post("/v1/telemetry", content=body, headers={"Content-Type": "application/json"}).is_success
                ),
                "the bytes to be given back",
                BODY_S + 5,
            )
    finally:
        for connection in held:
            connection.close()


def test_bombs_and_wrong_keys_beside_the_fleet(
    besieged_service: ServiceProcess, besieged_keys: Path, fleet_key: str, vehicle: str
) -> None:
    """A mob with keys of other scopes, without keys, and with a key and bombs: each is told, the fleet is served."""
    reader = create(besieged_keys, "read")
    time.sleep(1.1)
    process = psutil.Process(besieged_service.pid)
    fleet = Fleet(besieged_service, fleet_key, vehicle)
    memory = [process.memory_info().rss]
    packed = list(bombs(100 * MEGABYTE))
    statuses: list[set[int]] = [set(), set(), set()]

    async def mob(n: int, headers: dict[str, str], stop: asyncio.Event) -> None:
        async with httpx.AsyncClient(base_url=besieged_service.url, headers=headers, timeout=30.0) as client:
            while not stop.is_set():
                encoding, body = packed[n % len(packed)]
                form = {"Content-Type": "application/json", "Content-Encoding": encoding}
                response = await client.post("/v1/telemetry", content=body, headers=form)
                statuses[n % 3].add(response.status_code)

    async def scenario() -> None:
        stop = asyncio.Event()
        headers: tuple[dict[str, str], ...] = ({}, bearer(reader), bearer(fleet_key))
        async with driving(fleet):
            memory[0] = process.memory_info().rss
            watch = asyncio.create_task(watch_memory(process, memory))
            crowd = [asyncio.create_task(mob(n, headers[n % 3], stop)) for n in range(9)]
            await asyncio.sleep(4.0)
            stop.set()
            await asyncio.gather(*crowd)
            watch.cancel()

    asyncio.run(scenario())
    assert statuses == [{401}, {403}, {413}]
    assert max(memory) - memory[0] < 60 * MEGABYTE
    assert len(fleet.seconds) > 5
    assert statistics.median(fleet.seconds) < 1.0
