"""Connections that keep the service waiting: for a head, a body, or a reader of its answer."""

import asyncio
import json
import resource
import socket
import statistics
import time

import psutil
import pytest

from tests.processes import ServiceProcess, wait_until
from tests.service.conftest import BESIEGED_CONNECTIONS, BODY_S, HEAD_S
from tests.service.hostile import MEGABYTE, Fleet, address, closed, driving, watch_memory

SLOW_CONNECTIONS = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1_000)


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
def test_ten_thousand_slow_connections(besieged_service: ServiceProcess, fleet_key: str, vehicle: str) -> None:
    """Each waits in another stage of a request; memory is bounded, all are closed, and the fleet hardly notices."""
    process = psutil.Process(besieged_service.pid)
    fleet = Fleet(besieged_service, fleet_key, vehicle)
    memory = [process.memory_info().rss]

    async def scenario() -> list[tuple[asyncio.Transport, Slow]]:
        async with driving(fleet):
            memory[0] = process.memory_info().rss
            watch = asyncio.create_task(watch_memory(process, memory))
            found = await attack(besieged_service, fleet_key, SLOW_CONNECTIONS)
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
    reasons = closed(besieged_service, fleet_key)
    assert reasons["crowded_out"] >= SLOW_CONNECTIONS - BESIEGED_CONNECTIONS - 1_000
    assert reasons["head_timeout"] + reasons["body_timeout"] > 0


def receive_all(connection: socket.socket) -> bytes:
    """Until the server closes."""
    received = b""
    while piece := connection.recv(65_536):
        received += piece
    return received


def test_a_head_that_does_not_come_ends_the_connection(besieged_service: ServiceProcess, fleet_key: str) -> None:
    """On a new connection and on a kept one, dripping or silent."""
    before = closed(besieged_service, fleet_key).get("head_timeout", 0.0)
    with socket.create_connection(address(besieged_service), timeout=30) as connection:
        started = time.monotonic()
        connection.sendall(b"GET /livez HT")
        assert receive_all(connection) == b""
        assert HEAD_S - 0.5 < time.monotonic() - started < HEAD_S + 3
    with socket.create_connection(address(besieged_service), timeout=30) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.5)
        connection.sendall(b"GET /livez HT")
        answer = receive_all(connection)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b'{"status":"ok"}')
    assert closed(besieged_service, fleet_key)["head_timeout"] == before + 2


def test_a_body_that_does_not_come_is_a_408(besieged_service: ServiceProcess, fleet_key: str) -> None:
    """However it drips; the answer is a problem document and the connection ends."""
    with socket.create_connection(address(besieged_service), timeout=30) as connection:
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


def test_a_refused_body_may_not_drip_for_ever(besieged_service: ServiceProcess) -> None:
    """The 401 comes at once; whoever goes on sending the body all the same is cut off."""
    with socket.create_connection(address(besieged_service), timeout=30) as connection:
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


def test_an_answer_that_nobody_reads_is_dropped(besieged_service: ServiceProcess, fleet_key: str) -> None:
    """Megabytes of answers per connection, none of them read: cut off in time, memory comes back, readers are not affected."""
    process = psutil.Process(besieged_service.pid)
    body = b"7\n" * 40_000  # each line is refused by name: the answer is fifty times as long
    head = WITH_KEY.partition(b"Content-Type")[0] % fleet_key.encode()
    request = head + b"Content-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    before = closed(besieged_service, fleet_key).get("slow_reader", 0.0)
    memory = process.memory_info().rss
    deaf = []
    for _ in range(15):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(30)
        connection.connect(address(besieged_service))
        connection.sendall(request)
        deaf.append(connection)
    with socket.create_connection(address(besieged_service), timeout=60) as slow:
        slow.sendall(request.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        received = 0
        while piece := slow.recv(200_000):
            received += len(piece)
            time.sleep(0.2)
    assert received > 2 * MEGABYTE
    wait_until(
        lambda: closed(besieged_service, fleet_key).get("slow_reader", 0.0) == before + 15, "the cut", 3 * BODY_S + 10
    )
    for connection in deaf:
        connection.close()
    assert process.memory_info().rss - memory < 60 * MEGABYTE
