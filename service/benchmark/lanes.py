"""A load generator on kept-alive sockets: prebuilt requests out, answers checked after the clock has stopped."""

import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

CHUNK = 262_144
TIMEOUT_S = 60.0
APART_S = 0.003  # between the first requests of two connections, which the service might read in either order


class LoadError(RuntimeError):
    """The service gave no answer, or one that makes the measurement worthless."""


@dataclass(slots=True)
class Lane:
    """One connection: what it still has to send and what came back."""

    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)  # due time and request, oldest first
    in_flight: float | None = None  # due time of the request that was sent


def connect(port: int, n: int) -> list[Lane]:
    """Open `n` connections to the service on loopback."""
    lanes = []
    for _ in range(n):
        connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lanes.append(Lane(connection))
    return lanes


def close(lanes: Iterable[Lane]) -> None:
    """Hang up."""
    for lane in lanes:
        lane.socket.close()


def take_response(buffer: bytearray) -> bytes | None:
    """The first whole response in the buffer, removed from it; None while it is incomplete."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(buffer[:end]).lower()
    at = head.find(b"content-length:")
    if at < 0:
        raise LoadError(f"an answer without length: {head[:200]!r}")
    length = int(head[at + 15 :].split(b"\r\n", 1)[0])
    if len(buffer) < end + 4 + length:
        return None
    response = bytes(buffer[: end + 4 + length])
    del buffer[: end + 4 + length]
    return response


def receive(lane: Lane) -> bytes:
    """Wait for one whole response. Raises LoadError if the service hangs up or says nothing."""
    while (response := take_response(lane.received)) is None:
        try:
            data = lane.socket.recv(CHUNK)
        except TimeoutError:
            raise LoadError(f"no answer in {TIMEOUT_S} s") from None
        if not data:
            raise LoadError("the service hung up")
        lane.received += data
    return response


def in_order(lanes: Sequence[Lane], requests: Sequence[bytes], deadline: float) -> tuple[list[bytes], float]:
    """Send the requests in order, one more in flight for each lane; their responses and the seconds it took.

    No request is begun after `deadline` (perf_counter).
    """
    responses: list[bytes] = []
    sent = 0
    started = time.perf_counter()
    for request in requests:
        lane = lanes[sent % len(lanes)]
        if sent >= len(lanes):
            responses.append(receive(lane))
        elif sent:
            time.sleep(APART_S)
        if time.perf_counter() > deadline:
            break
        lane.socket.sendall(request)
        sent += 1
    while len(responses) < sent:
        responses.append(receive(lanes[len(responses) % len(lanes)]))
    return responses, time.perf_counter() - started


def at_times(
    lanes: Sequence[Lane], requests: Sequence[bytes], due_s: Sequence[float], deadline: float
) -> tuple[list[bytes], list[float], float]:
    """Send request i at due_s[i] on lane i % n, whether or not others were answered; each lane keeps its order.

    Args:
        lanes: the connections.
        requests: prebuilt.
        due_s: rising, seconds after the start. All zero: as fast as the lanes allow.
        deadline: perf_counter seconds after which nothing more is sent.

    Returns:
        Responses, latencies in seconds from the due time (or, when all are due at once, from the sending), and the
        seconds that it took. A request that had to wait for its lane has waited for us: the time counts.
    """
    selector = selectors.DefaultSelector()
    for lane in lanes:
        lane.socket.setblocking(False)
        selector.register(lane.socket, selectors.EVENT_READ, lane)
    try:
        return drive(selector, lanes, requests, due_s, deadline)
    finally:
        selector.close()
        for lane in lanes:
            lane.socket.settimeout(TIMEOUT_S)


def drive(
    selector: selectors.BaseSelector,
    lanes: Sequence[Lane],
    requests: Sequence[bytes],
    due_s: Sequence[float],
    deadline: float,
) -> tuple[list[bytes], list[float], float]:
    """The loop of `at_times`."""
    clock: Callable[[], float] = time.perf_counter
    responses, latencies = list[bytes](), list[float]()
    closed = not due_s[-1]
    started = last_heard = clock()
    handed_out, flying = 0, 0
    while True:
        now = clock()
        while handed_out < len(requests) and now < deadline and due_s[handed_out] <= now - started:
            lane = lanes[handed_out % len(lanes)]
            if closed and (lane.in_flight is not None or lane.waiting):
                break
            lane.waiting.append((now if closed else started + due_s[handed_out], requests[handed_out]))
            handed_out += 1
            flying += send_next(lane)
        if not flying and (handed_out == len(requests) or now >= deadline):
            return responses, latencies, clock() - started
        if now - last_heard > TIMEOUT_S:
            raise LoadError(f"no answer in {TIMEOUT_S} s")
        until_due = 0.05 if closed or handed_out == len(requests) else started + due_s[handed_out] - now
        for key, _ in selector.select(min(max(until_due, 0.0), 0.05)):
            lane = key.data
            data = lane.socket.recv(CHUNK)
            if not data:
                raise LoadError("the service hung up")
            lane.received += data
            response = take_response(lane.received)
            if response is not None:
                last_heard = clock()
                responses.append(response)
                latencies.append(last_heard - lane.in_flight)
                lane.in_flight = None
                flying += send_next(lane) - 1


def send_next(lane: Lane) -> int:
    """Send what waits longest if the lane is free; how many requests were sent."""
    if lane.in_flight is not None or not lane.waiting:
        return 0
    due, request = lane.waiting.popleft()
    lane.socket.setblocking(True)
    lane.socket.sendall(request)
    lane.socket.setblocking(False)
    lane.in_flight = due
    return 1
