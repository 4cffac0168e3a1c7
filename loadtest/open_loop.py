"""A generator that does not slow down with the service: what is due is due, and latency counts from then.

Each van has a connection of its own and keeps its order: while its last request is unanswered it collects, and then sends
all that it has, as a device does. Its waiting is in the latency of every sample that waited.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from urllib.parse import urlsplit

from loadtest.measure import Heard
from loadtest.scenarios import Event, Plan
from loadtest.vans import ARRAY, LoadError, Van

RETRY_S = 0.25  # Retry-After is in whole seconds
RECONNECT_S = 0.1
SILENCE_S = 30.0  # without an answer to anything
CLOSE_TO_S = 0.001  # what is due so soon is sent now


class Lane(asyncio.Protocol):
    """One van's connection: what is due, what is on its way, what came back."""

    def __init__(self, van: Van, number: int, address: tuple[str, int], heard: Heard, at_most: int) -> None:
        self.van, self.number = van, number
        self._address, self._heard, self._at_most = address, heard, at_most
        self._transport: asyncio.Transport | None = None
        self._due: deque[tuple[int, float]] = deque()  # (samples made by then, perf_counter when due), oldest first
        self._first: int | None = None  # of the request on its way
        self._again = 0
        self._received = bytearray()
        self._waiting: asyncio.TimerHandle | None = None  # for a retry

    @property
    def idle(self) -> bool:
        """Whether everything that was due is acknowledged."""
        return not self._due

    async def connect(self) -> None:
        """Open the connection. Raises OSError."""
        await asyncio.get_running_loop().create_connection(lambda: self, *self._address)

    def fire(self, event: Event, due: float) -> None:
        """It is time: make the samples and send them, now or after what is on its way."""
        self.van.made += event.samples
        self._due.append((self.van.made, due))
        self._again = event.again
        if event.reconnect and self._transport is not None:
            self._transport.abort()  # connection_lost opens another one and sends
        elif self._first is None and self._waiting is None:
            self._send()

    def _send(self) -> None:
        self._waiting = None
        if self._transport is None or self._first is not None or self.idle:
            return
        self._first, body = self.van.request(self._again, self._at_most)
        self._again = 0
        head = (
            f"POST {self.van.path} HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\n"
            f"Prefer: return=minimal\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what is due."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Connect again; a request whose answer was lost is sent once more."""
        del exc
        self._transport, self._first = None, None
        self._received.clear()
        if not self._heard.over:
            asyncio.ensure_future(self._reconnect())  # noqa: RUF006  (ends by itself, or with the loop)

    async def _reconnect(self) -> None:
        while not self._heard.over:
            with contextlib.suppress(OSError):
                await self.connect()
                return
            await asyncio.sleep(RECONNECT_S)

    def data_received(self, data: bytes) -> None:
        """A whole answer acknowledges, or asks for a retry."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        at = head.find(b"content-length:")
        if at < 0:
            self._heard.failed = LoadError(f"an answer without length: {head[:200]!r}")
            return
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._received) < end + 4 + length:
            return
        body = bytes(self._received[end + 4 : end + 4 + length])
        del self._received[: end + 4 + length]
        self._answer(int(head[9:12]), body)

    def _answer(self, status: int, body: bytes) -> None:
        first, self._first = self._first, None
        now = time.perf_counter()
        self._heard.last = now
        try:
            done = self.van.hear(0 if first is None else first, status, body)
        except LoadError as error:
            self._heard.failed = error
            return
        while self._due and self._due[0][0] <= self.van.acknowledged:
            self._heard.note(self.number, self._due.popleft()[1], now)
        if done:
            self._send()
        else:
            self._waiting = asyncio.get_running_loop().call_later(RETRY_S, self._send)

    def hang_up(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()


async def drive(plan: Plan, vans: Sequence[Van], url: str, *, at_most: int = ARRAY) -> Heard:
    """Send what the plan says, then wait until all of it is acknowledged.

    Args:
        plan: it.
        vans: as many as the plan has roles.
        url: of the service.
        at_most: samples in one request.

    Raises:
        LoadError: a sample was refused, or nothing was answered for half a minute.
        OSError: nobody listens there.
    """
    parts = urlsplit(url)
    heard = Heard(time.perf_counter())
    lanes = [Lane(van, i, (parts.hostname or "", parts.port or 80), heard, at_most) for i, van in enumerate(vans)]
    for start in range(0, len(lanes), 100):
        await asyncio.gather(*(lane.connect() for lane in lanes[start : start + 100]))
    heard.begin()
    try:
        for event in plan.events():
            while (ahead := heard.started + event.due_s - time.perf_counter()) > CLOSE_TO_S:
                await asyncio.sleep(min(ahead, 1.0))
                heard.raise_failure()
            due = heard.started + event.due_s
            heard.late.append(max(0.0, time.perf_counter() - due))
            lanes[event.van].fire(event, due)
            if len(heard.late) % 16 == 0:
                await asyncio.sleep(0)  # answers first, even when we are behind
        while not all(lane.idle for lane in lanes):
            heard.raise_failure()
            if time.perf_counter() - heard.last > SILENCE_S:
                raise LoadError(f"{sum(not lane.idle for lane in lanes)} vans wait, no answer for {SILENCE_S:.0f} s")
            await asyncio.sleep(0.01)
        heard.raise_failure()
    finally:
        heard.over = True
        for lane in lanes:
            lane.hang_up()
        await asyncio.sleep(0)
    return heard
