"""Sends what a spool has to one service, in order, for as long as it takes."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import orjson
import structlog
import zstandard
from prometheus_client import CollectorRegistry, Counter, Gauge

from service.client import RETRYABLE, Client, ClientError
from service.edge.spool import Spool

BATCH = 2_000  # samples in one request
LONGEST_WAIT_S = 30.0
IDLE_S = 1.0
ACCEPTED = frozenset({"applied", "duplicate"})
REFUSED_BYTES = 1_048_576  # of refused samples kept to be looked at
logger = structlog.get_logger(__name__)


class ForwardMetrics:
    """What a box says of itself; `upstream` is a URL of its configuration."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.spooled = Counter("emberwatch_forward_spooled", "Samples kept", registry=self.registry)
        self.full = Counter("emberwatch_forward_full", "Requests refused: the spool is full", registry=self.registry)
        self.samples = Counter(
            "emberwatch_forward_samples", "Samples by verdict", ["upstream", "status"], registry=self.registry
        )
        self.up = Gauge("emberwatch_forward_up", "Whether it answered last", ["upstream"], registry=self.registry)
        self.waiting = Gauge(
            "emberwatch_forward_waiting_bytes", "Not yet answered", ["upstream"], registry=self.registry
        )
        self.size = Gauge("emberwatch_forward_spool_bytes", "On the disk", registry=self.registry)
        self.limit = Gauge("emberwatch_forward_spool_limit_bytes", "At most on the disk", registry=self.registry)
        self.damaged = Gauge("emberwatch_forward_damaged", "Segments found damaged", registry=self.registry)


def reader_of(url: str) -> str:
    """The name of an upstream in the spool's folder."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


class Forwarder:
    """One upstream and the thread that serves it.

    A batch is left behind when every sample of it has its verdict. What is refused for good (late, invalid, conflict) is counted and
    kept in `refused-<reader>.ndjson`: it must not hold up what comes after it.

    Args:
        spool: it has a reader of this upstream's name.
        url: of the service.
        key: API key.
        metrics: of the box.
        longest_wait_s: between two tries while nobody answers; the first wait is a sixteenth of it.
    """

    def __init__(
        self, spool: Spool, url: str, key: str | None, metrics: ForwardMetrics, longest_wait_s: float = LONGEST_WAIT_S
    ) -> None:
        self.url, self.reader = url, reader_of(url)
        self._spool, self._metrics, self._longest_wait_s = spool, metrics, longest_wait_s
        self._client = Client(url, key)
        self._refused = spool.folder / f"refused-{self.reader}.ndjson"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"forward-{self.reader}", daemon=True)
        metrics.up.labels(url).set(0)

    def start(self) -> None:
        """Begin where it was left."""
        self._thread.start()

    def stop(self) -> None:
        """After the request in hand."""
        self._stopping.set()
        self._thread.join()
        self._client.__exit__()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                records, position = self._spool.read(self.reader, BATCH, IDLE_S)
                if records and not self._send([orjson.loads(record) for record in records]):
                    return  # stopped before it was answered: sent again after the next start
                self._spool.advance(self.reader, position)
            except (OSError, ValueError, KeyError, TypeError):  # the disk, or an answer that is none of ours
                self._metrics.up.labels(self.url).set(0)
                logger.exception("forward_failed", upstream=self.url)
                self._stopping.wait(self._longest_wait_s)

    def _send(self, samples: list[dict[str, Any]]) -> bool:
        """Until every sample has a verdict; False if told to stop before that."""
        wait_s = self._longest_wait_s / 16
        while samples:
            try:
                answer = self._client.post_content("/v1/telemetry", *packed(samples))
            except (
                ClientError
            ) as error:  # no network, busy, or a key that is not let in: none of it is the samples' fault
                self._metrics.up.labels(self.url).set(0)
                logger.warning("forward_waits", upstream=self.url, samples=len(samples), reason=str(error)[:300])
                problem = True
            else:
                self._metrics.up.labels(self.url).set(1)
                left = self._sort(samples, answer)
                problem = len(left) == len(samples)
                samples = left
            if samples and self._stopping.wait(wait_s):
                return False
            wait_s = min(2 * wait_s, self._longest_wait_s) if problem else self._longest_wait_s / 16
        return True

    def _sort(self, samples: list[dict[str, Any]], answer: dict[str, Any]) -> list[dict[str, Any]]:
        """Count the verdicts; the samples that have to be sent again, in order."""
        count = self._metrics.samples.labels
        count(self.url, "applied").inc(answer["applied"])
        again = []
        for item in answer["items"]:  # those that were not applied
            if item["status"] in RETRYABLE:
                again.append(samples[item["i"]])
                continue
            count(self.url, item["status"]).inc()
            if item["status"] not in ACCEPTED:
                keep(self._refused, orjson.dumps({"verdict": item, "sample": samples[item["i"]]}))
                logger.warning("forward_refused", upstream=self.url, verdict=item)
        return again


def packed(samples: list[dict[str, Any]]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a fleet batch."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "zstd", "Prefer": "return=minimal"}
    return zstandard.compress(orjson.dumps({"samples": samples})), headers


def keep(path: Path, line: bytes) -> None:
    """Append a line; when the file is full, the one before it goes."""
    if path.exists() and path.stat().st_size > REFUSED_BYTES:
        path.replace(path.with_suffix(".old"))
    with path.open("ab") as file:
        file.write(line + b"\n")
