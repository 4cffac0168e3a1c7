"""A fleet of retrying devices: each van is sent by one thread, in order, and nothing is given up before it is answered."""

import http.client
import json
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from tests.chaos.vans import RETRYABLE, START_MS, Van, make_drive
from tests.processes import wait_until

logger = logging.getLogger(__name__)

TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
LONGEST_PAUSE_S = 0.3  # Retry-After is in whole seconds; a test has not so many


class Unreachable(Exception):
    """No answer: refused, cut, or too late."""


class Connection:
    """A kept-alive connection to one worker; made again after every failure."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._parts = urlsplit(url)
        self._timeout_s = timeout_s
        self._http: http.client.HTTPConnection | None = None

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, float, bytes]:
        """Status, seconds to wait before another try, and body of the answer. Raises Unreachable."""
        try:
            if self._http is None:
                host, port = self._parts.hostname or "", self._parts.port
                self._http = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
                self._http.connect()
                self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._http.request("POST", path, body, {"Content-Type": "application/json", **headers})
            response = self._http.getresponse()
            return response.status, float(response.headers.get("Retry-After", 0)), response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(str(error)) from error

    def close(self) -> None:
        """Leave the worker alone with what it has not answered."""
        if self._http is not None:
            self._http.close()
            self._http = None


class Fleet:
    """Vans that send under load until told to stop, and then until everything they began is acknowledged.

    Args:
        urls: of the workers; every request goes to a random one, or with `sticky` to the van's own while that answers.
        keep_s: how long a device keeps what was acknowledged, to send it once more after a failure.
        pause_s: mean pause of a sender between two requests.
        start_ms, interval_ms: when the drives begin, and how far apart their samples mostly are.
        retryable: the verdicts after which a sample is sent again.
    """

    def __init__(
        self,
        urls: Sequence[str],
        seed: int,
        *,
        n_vans: int = 12,
        n_threads: int = 4,
        length: int = 2_000,
        largest_array: int = 5,
        timeout_s: float = 3.0,
        keep_s: float = 0.0,
        pause_s: float = 0.05,
        sticky: bool = False,
        start_ms: int = START_MS,
        interval_ms: int = 5_000,
        retryable: frozenset[str] = RETRYABLE,
    ) -> None:
        self.urls = list(urls)
        self.seed = seed
        rng = np.random.default_rng(seed)
        name = f"chaos-{seed}-{time.monotonic_ns() % 1_000_000}"
        self.vans = [Van(f"{name}-{i}", make_drive(rng, length, start_ms, interval_ms)) for i in range(n_vans)]
        self.outcomes: Counter[str] = Counter()  # of requests: status codes and failures
        self._n_threads = n_threads
        self._largest_array, self._timeout_s = largest_array, timeout_s
        self._keep_s, self._pause_s, self._sticky = keep_s, pause_s, sticky
        self._retryable = retryable
        self._stopping = threading.Event()
        self._paused = threading.Event()
        self._idle = threading.Barrier(n_threads + 1)
        self._resume = threading.Event()
        self._deadline = float("inf")
        self._threads: list[threading.Thread] = []

    @property
    def acknowledged(self) -> int:
        """Samples of all vans."""
        return sum(van.acknowledged for van in self.vans)

    @contextmanager
    def sending(self, finish_s: float = 60.0) -> Iterator[None]:
        """Send while the body runs, and until there is enough to judge by; then no new samples, and every begun one to its end.

        Raises:
            AssertionError: some sample was not acknowledged `finish_s` seconds after the body, or was answered oddly.
        """
        for number in range(self._n_threads):
            thread = threading.Thread(target=self._send, args=(number,), name=f"sender-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
        try:
            yield
            enough = 3 * len(self.vans)  # a busy machine may have been too slow to send anything that can be judged
            wait_until(lambda: self.acknowledged > enough, "enough samples to judge by", timeout_s=finish_s)
        finally:
            self._deadline = time.monotonic() + finish_s
            self._stopping.set()
            self._resume.set()
            for thread in self._threads:
                thread.join()
        unfinished = [van.vehicle_id for van in self.vans if van.unfinished]
        longest = max(van.acknowledged for van in self.vans)
        logger.info("%d samples acknowledged, at most %d of a van; %s", self.acknowledged, longest, dict(self.outcomes))
        odd = [line for van in self.vans for line in van.odd]
        assert not odd, "\n".join([f"{len(odd)} odd answers (seed {self.seed}), {self.outcomes}", *odd[:20]])
        assert not unfinished, f"not acknowledged {finish_s} s after the trouble: {unfinished}, {self.outcomes}"

    def wait_until_all_failed(self) -> None:
        """Until every van has met a failure since now: each knows that there is trouble."""
        since = time.monotonic()
        wait_until(lambda: all(van.failed_at > since for van in self.vans), "every van to notice", timeout_s=60)

    def move(self, *urls: str) -> None:
        """From now on, send to these workers."""
        self.urls = list(urls)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """No request is in flight while the body runs: a moment to look at what the store holds."""
        self._resume.clear()
        self._paused.set()
        self._idle.wait(timeout=60)
        try:
            yield
        finally:
            self._paused.clear()
            self._resume.set()

    def _send(self, number: int) -> None:
        rng = random.Random(self.seed * 1_000 + number)  # noqa: S311  (reproducible, not secret)
        connections: dict[str, Connection] = {}
        mine = self.vans[number :: self._n_threads]
        while time.monotonic() < self._deadline:
            if self._paused.is_set():
                self._idle.wait()
                self._resume.wait()
            stopping = self._stopping.is_set()
            candidates = [van for van in mine if van.unfinished] if stopping else mine
            if not candidates:
                break
            van = rng.choice(candidates)
            first, last = van.next, van.begun if stopping else van.next + rng.randint(1, self._largest_array)
            url = self._choose(rng, van)
            connection = connections.setdefault(url, Connection(url, self._timeout_s))
            self._one_request(rng, van, first, last, connection)
            time.sleep(rng.expovariate(1.0 / self._pause_s))
        for connection in connections.values():
            connection.close()

    def _choose(self, rng: random.Random, van: Van) -> str:
        if self._sticky and not van.unfinished:
            return self.urls[self.vans.index(van) % len(self.urls)]
        return rng.choice(self.urls)

    def _one_request(self, rng: random.Random, van: Van, first: int, last: int, connection: Connection) -> None:
        """Send the van's samples from `first` to before `last`, and move it on as far as they were accepted."""
        samples = [van.drive.wire(i) for i in range(first, last)]
        van.begun = max(van.begun, last)
        if rng.random() < 0.5:
            samples = [sample | {"epoch": 1} for sample in samples]
        single = len(samples) == 1 and rng.random() < 0.5
        body = json.dumps(samples[0] if single else samples).encode()
        wait_s = LONGEST_PAUSE_S
        try:
            status, wait_s, answer = connection.post(f"/v1/vehicles/{van.vehicle_id}/telemetry", body, {})
        except Unreachable as error:
            self.outcomes[type(error.__cause__).__name__] += 1
            failed = True
        else:
            self.outcomes[str(status)] += 1
            failed = status in TRY_AGAIN or van.hear(first, items_of(status, answer), self._retryable)
        if failed:
            van.rewind(self._keep_s)
            time.sleep(rng.random() * min(wait_s, LONGEST_PAUSE_S))


def items_of(status: int, answer: bytes) -> list[dict[str, Any]]:
    """The item answers of a response, whether to one sample or to an array."""
    data = json.loads(answer)
    if "items" in data:
        items: list[dict[str, Any]] = data["items"]
        return items
    return [data if "i" in data else data | {"i": 0, "status": data.get("verdict", f"refused with {status}")}]
