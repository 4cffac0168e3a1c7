"""Hostile senders: bounded memory, clear answers, and the fleet's own traffic served meanwhile."""

import asyncio
import gzip
import json
import re
import resource
import socket
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.processes import ServiceProcess, wait_until
from tests.service.conftest import sample
from tests.service.test_bad_input import assert_problem
from tests.service.test_fleet_batch import bombs
from tests.service.test_keys import bearer, create

MAX_CONNECTIONS = 1_500
SLOW_CONNECTIONS = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1_000)
HEAD_S, BODY_S = 4.0, 3.0
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key file that `key` adds to."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    create(file, "read", name="first")
    return file


@pytest.fixture(scope="module")
def fleet_key(keys_file: Path) -> str:
    """What the fleet's gateway sends with."""
    return create(keys_file, "ingest", "read")


@pytest.fixture(scope="module")
def guarded_service(
    tmp_path_factory: pytest.TempPathFactory, keys_file: Path, fleet_key: str
) -> Iterator[ServiceProcess]:
    """A service with keys and small limits."""
    assert fleet_key
    process = ServiceProcess(
        tmp_path_factory.mktemp("overload"),
        keys_file=keys_file,
        max_connections=MAX_CONNECTIONS,
        head_timeout_s=HEAD_S,
        body_timeout_s=BODY_S,
        max_body_bytes=MEGABYTE,
        max_inflight_bytes=8 * MEGABYTE,
    )
    yield process.start()
    process.stop_if_running()


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


class Slow(asyncio.Protocol):
    """A connection that sends a little at a time and never finishes."""

    lost = False

    def connection_lost(self, _: Exception | None) -> None:
        """The server had enough."""
        self.lost = True


WITH_KEY = (
    b"POST /v1/telemetry HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
    b"Content-Length: 900000\r\n\r\n{"
)
HEADS = (
    b"",
    b"GET /v1/vehicles HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    b"POST /v1/telemetry HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n{",
    WITH_KEY,
)


async def attack(service: ServiceProcess, key: str, n: int) -> list[tuple[asyncio.Transport, Slow]]:
    """Open n slow connections, in every stage of a request, and drip into them until the server has closed most."""
    loop = asyncio.get_running_loop()
    found: list[tuple[asyncio.Transport, Slow]] = []
    for at in range(0, n, 200):
        made = await asyncio.gather(
            *(loop.create_connection(Slow, *address(service)) for _ in range(min(200, n - at))),
            return_exceptions=True,
        )
        opened = [pair for pair in made if not isinstance(pair, BaseException)]
        for i, (transport, _) in enumerate(opened):
            head = HEADS[i % len(HEADS)]
            transport.write(head % key.encode() if b"%s" in head else head)
        found += opened
    for _ in range(int(HEAD_S + BODY_S)):
        await asyncio.sleep(1.0)
        for transport, protocol in found:
            if not protocol.lost:
                transport.write(b"x")
    return found


@pytest.mark.slow
def test_ten_thousand_slow_connections(guarded_service: ServiceProcess, fleet_key: str, vehicle: str) -> None:
    """Each waits in another stage of a request; memory is bounded, all are closed, and the fleet hardly notices."""
    process = psutil.Process(guarded_service.pid)
    fleet = Fleet(guarded_service, fleet_key, vehicle)
    memory = [process.memory_info().rss]

    async def scenario() -> list[tuple[asyncio.Transport, Slow]]:
        async with driving(fleet):
            memory[0] = process.memory_info().rss
            watch = asyncio.create_task(watch_memory(process, memory))
            found = await attack(guarded_service, fleet_key, SLOW_CONNECTIONS)
            watch.cancel()
        for transport, _ in found:
            transport.abort()
        return found

    found = asyncio.run(scenario())
    print(  # noqa: T201  (the figures of docs/api.md)
        f"{len(found)} slow connections, {len(fleet.seconds)} batches: median {statistics.median(fleet.seconds):.3f} s, "
        f"longest {max(fleet.seconds):.3f} s; three probes: median {statistics.median(fleet.probes):.3f} s, longest "
        f"{max(fleet.probes):.3f} s; memory {memory[0] / MEGABYTE:.0f} to {max(memory) / MEGABYTE:.0f} MB"
    )
    assert len(found) > 0.95 * SLOW_CONNECTIONS
    assert sum(protocol.lost for _, protocol in found) > 0.99 * len(found)
    assert max(memory) - memory[0] < 150 * MEGABYTE
    assert len(fleet.seconds) > 20
    assert statistics.median(fleet.seconds) < 1.0
    assert max(fleet.probes) < 10.0
    assert fleet.applied == 24 * len(fleet.seconds)
    reasons = closed(guarded_service, fleet_key)
    assert reasons["crowded_out"] >= SLOW_CONNECTIONS - MAX_CONNECTIONS - 1_000
    assert reasons["head_timeout"] + reasons["body_timeout"] > 0


async def watch_memory(process: psutil.Process, memory: list[int]) -> None:
    """Note the memory of a process ten times a second."""
    while True:
        memory.append(process.memory_info().rss)
        await asyncio.sleep(0.1)


def receive_all(connection: socket.socket) -> bytes:
    """Until the server closes."""
    received = b""
    while piece := connection.recv(65_536):
        received += piece
    return received


def test_a_head_that_does_not_come_ends_the_connection(guarded_service: ServiceProcess, fleet_key: str) -> None:
    """On a new connection and on a kept one, dripping or silent."""
    before = closed(guarded_service, fleet_key).get("head_timeout", 0.0)
    with socket.create_connection(address(guarded_service), timeout=30) as connection:
        started = time.monotonic()
        connection.sendall(b"GET /livez HT")
        assert receive_all(connection) == b""
        assert HEAD_S - 0.5 < time.monotonic() - started < HEAD_S + 3
    with socket.create_connection(address(guarded_service), timeout=30) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.5)
        connection.sendall(b"GET /livez HT")
        answer = receive_all(connection)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b'{"status":"ok"}')
    assert closed(guarded_service, fleet_key)["head_timeout"] == before + 2


def test_a_body_that_does_not_come_is_a_408(guarded_service: ServiceProcess, fleet_key: str) -> None:
    """However it drips; the answer is a problem document and the connection ends."""
    with socket.create_connection(address(guarded_service), timeout=30) as connection:
        connection.sendall(WITH_KEY % fleet_key.encode())
        started = time.monotonic()
        for _ in range(4):
            time.sleep(0.5)
            connection.sendall(b" ")
        answer = receive_all(connection)
        assert BODY_S - 0.5 < time.monotonic() - started < BODY_S + 3
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout")
    assert b"application/problem+json" in head
    assert json.loads(body)["type"] == "urn:emberwatch:problem:body-timeout"


def test_a_refused_body_may_not_drip_for_ever(guarded_service: ServiceProcess) -> None:
    """The 401 comes at once; whoever goes on sending the body all the same is cut off."""
    with socket.create_connection(address(guarded_service), timeout=30) as connection:
        connection.sendall(HEADS[2])
        assert connection.recv(65_536).startswith(b"HTTP/1.1 401")
        wait_until(lambda: cut_off(connection), "the server to cut the connection", BODY_S + 5)


def cut_off(connection: socket.socket) -> bool:
    """Whether another byte cannot be sent."""
    try:
        connection.sendall(b" ")
    except (BrokenPipeError, ConnectionResetError):
        return True
    return False


def test_an_answer_that_nobody_reads_is_dropped(guarded_service: ServiceProcess, fleet_key: str) -> None:
    """Megabytes of answers per connection, none of them read: cut off in time, memory comes back, readers are not affected."""
    process = psutil.Process(guarded_service.pid)
    body = b"7\n" * 40_000  # each line is refused by name: the answer is fifty times as long
    head = WITH_KEY.partition(b"Content-Type")[0] % fleet_key.encode()
    request = head + b"Content-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    before = closed(guarded_service, fleet_key).get("slow_reader", 0.0)
    memory = process.memory_info().rss
    deaf = []
    for _ in range(15):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(30)
        connection.connect(address(guarded_service))
        connection.sendall(request)
        deaf.append(connection)
    with socket.create_connection(address(guarded_service), timeout=60) as slow:
        slow.sendall(request.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        received = 0
        while piece := slow.recv(200_000):
            received += len(piece)
            time.sleep(0.2)
    assert received > 2 * MEGABYTE
    wait_until(
        lambda: closed(guarded_service, fleet_key).get("slow_reader", 0.0) == before + 15, "the cut", 3 * BODY_S + 10
    )
    for connection in deaf:
        connection.close()
    assert process.memory_info().rss - memory < 60 * MEGABYTE


def test_bytes_in_hand_are_bounded(guarded_service: ServiceProcess, fleet_key: str) -> None:
    """Bodies that stall after unpacking to a megabyte each: 429 for the ninth, probes answer, and all is given back."""
    packed = gzip.compress(b" " * (MEGABYTE - 10))
    head = (
        b"POST /v1/telemetry HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % (fleet_key.encode(), len(packed))
    )
    held = [socket.create_connection(address(guarded_service), timeout=30) for _ in range(12)]
    try:
        for connection in held:
            connection.sendall(head + packed[:-1])
        time.sleep(0.5)
        with httpx.Client(base_url=guarded_service.url, headers=bearer(fleet_key), timeout=30.0) as client:
            body = json.dumps({"samples": []}) + " " * (MEGABYTE - 100)
            response = client.post("/v1/telemetry", content=body, headers={"Content-Type": "application/json"})
            assert assert_problem(response, 429)["type"].endswith("too-much-in-flight")
            assert response.headers["Retry-After"] == "1"
            assert asyncio.run(probe(guarded_service, fleet_key)) == 200
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
    guarded_service: ServiceProcess, keys_file: Path, fleet_key: str, vehicle: str
) -> None:
    """A mob with keys of other scopes, without keys, and with a key and bombs: each is told, the fleet is served."""
    reader = create(keys_file, "read")
    time.sleep(1.1)
    process = psutil.Process(guarded_service.pid)
    fleet = Fleet(guarded_service, fleet_key, vehicle)
    memory = [process.memory_info().rss]
    packed = list(bombs(100 * MEGABYTE))
    statuses: list[set[int]] = [set(), set(), set()]

    async def mob(n: int, headers: dict[str, str], stop: asyncio.Event) -> None:
        async with httpx.AsyncClient(base_url=guarded_service.url, headers=headers, timeout=30.0) as client:
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


def test_a_flood_of_new_vehicles(guarded_service: ServiceProcess, fleet_key: str, vehicle: str) -> None:
    """20,000 vans that nobody knows: the worker keeps no more than its slots, and the fleet is served meanwhile.

    What grows is the store, by the few kilobytes that a van costs there; who may send decides how many there are.
    """
    process = psutil.Process(guarded_service.pid)
    fleet = Fleet(guarded_service, fleet_key, vehicle)
    memory = [process.memory_info().rss]

    async def scenario() -> int:
        found = 0
        headers = bearer(fleet_key) | {"Prefer": "return=minimal"}
        async with (
            driving(fleet),
            httpx.AsyncClient(base_url=guarded_service.url, headers=headers, timeout=60.0) as client,
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
    text = httpx.get(f"{guarded_service.url}/metrics", headers=bearer(fleet_key)).text
    used, capacity = (
        float(re.findall(rf"^emberwatch_slots_{name} (\S+)", text, re.MULTILINE)[0]) for name in ("used", "capacity")
    )
    assert applied == 20_000
    assert used <= capacity < 20_000
    assert max(memory) - memory[0] < 60 * MEGABYTE
    assert len(fleet.seconds) > 3
    assert statistics.median(fleet.seconds) < 2.0
