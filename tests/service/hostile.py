"""What tests of hostile senders share: the fleet that is to be served meanwhile, and what they watch."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import httpx
import psutil

from tests.processes import ServiceProcess
from tests.service.conftest import sample
from tests.service.test_keys import bearer

MEGABYTE = 1_000_000


def address(service: ServiceProcess) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(service.url)
    return str(parts.hostname), int(parts.port or 0)


def closed(service: ServiceProcess, key: str) -> dict[str, float]:
    """Connections closed so far, by reason."""
    text = httpx.get(f"{service.url}/metrics", headers=bearer(key)).text
    return {reason: float(n) for reason, n in re.findall(r'connections_closed_total\{reason="(\w+)"\} (\S+)', text)}


class Fleet:
    """The fleet's own traffic: a batch of 24 vans after the other, on a connection that is kept, and a probe on a new one."""

    def __init__(self, service: ServiceProcess, key: str, vehicle: str) -> None:
        self._service, self._key, self._vehicle = service, key, vehicle
        self.seconds: list[float] = []
        self.probes: list[float] = []
        self.applied = 0

    async def drive(self, stop: asyncio.Event) -> None:
        """Send until told to stop. Raises on anything but success."""
        async with httpx.AsyncClient(base_url=self._service.url, headers=bearer(self._key), timeout=20.0) as client:
            for i in range(10_000):
                if stop.is_set():
                    return
                rows = [{"vehicle_id": f"{self._vehicle}.{v}", **sample(i)} for v in range(24)]
                started = time.perf_counter()
                response = await send_again(partial(client.post, "/v1/telemetry", json={"samples": rows}))
                self.seconds.append(time.perf_counter() - started)
                assert response.status_code == 200, response.text
                self.applied += response.json()["applied"] + response.json()["duplicate"]
                started = time.perf_counter()
                assert (await probe(self._service, self._key)) == 200
                self.probes.append(time.perf_counter() - started)
                await asyncio.sleep(0.05)


async def send_again(send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """As any client does: a kept connection that the server closed is opened again, 429 and 503 are waited for."""
    for _ in range(20):
        try:
            response = await send()
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.ConnectError):
            continue
        if response.status_code not in {429, 503}:
            return response
        await asyncio.sleep(float(response.headers["Retry-After"]))
    raise AssertionError("the service never recovered")


async def probe(service: ServiceProcess, key: str) -> int:
    """Status of health and metrics, each on a new connection."""
    async with httpx.AsyncClient(base_url=service.url, timeout=20.0) as client:
        statuses = [
            (await client.get("/livez")).status_code,
            (await client.get("/readyz")).status_code,
            (await client.get("/metrics", headers=bearer(key))).status_code,
        ]
    return max(statuses)


@asynccontextmanager
async def driving(fleet: Fleet) -> AsyncIterator[None]:
    """The fleet drives throughout; whatever went wrong there fails the test."""
    stop = asyncio.Event()
    task = asyncio.create_task(fleet.drive(stop))
    await asyncio.sleep(0.5)
    try:
        yield
    finally:
        stop.set()
        await task


async def watch_memory(process: psutil.Process, memory: list[int]) -> None:
    """Note the memory of a process ten times a second."""
    while True:
        memory.append(process.memory_info().rss)
        await asyncio.sleep(0.1)
