"""How this worker fares, taken every few seconds and kept for a quarter of an hour: rates, latencies, batches, the store.

Prometheus keeps the same figures for longer and for all workers; this is for somebody who looks now, and it answers
when the store does not.
"""

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import orjson
from prometheus_client import Counter, Gauge, Histogram

from service.errors import ServiceError
from service.observe.metrics import Metrics
from service.store.store import Store

EVERY_S = 5.0
KEPT = 180  # 15 min
PING_S = 2.0
TELEMETRY = ("/v1/telemetry", "/v1/vehicles/{vehicle_id}/telemetry")

Buckets = dict[float, float]  # by upper bound, cumulative


class Pulse:
    """Takes the pulse of one worker; `document` is what it was last."""

    def __init__(self, metrics: Metrics, store: Store, facts: dict[str, Any]) -> None:
        self._metrics = metrics
        self._store = store
        self._facts = {
            "worker": f"{socket.gethostname()}:{os.getpid()}",
            "version": version("emberwatch"),
            "started_ms": int(time.time() * 1000),
            "every_s": EVERY_S,
            **facts,
        }
        self._history: deque[dict[str, float | None]] = deque(maxlen=KEPT)
        self._before = self._readings()
        self._taken = time.monotonic()
        self._store_error: str | None = None
        self.document = b"{}"

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.take()
            await asyncio.sleep(EVERY_S)

    async def take(self) -> None:
        """One reading."""
        store_ms = await self._ping()
        now, readings = time.monotonic(), self._readings()
        elapsed = max(now - self._taken, 1e-3)
        row = beat(self._before, readings, elapsed)
        row |= {"ts_ms": int(time.time() * 1000), "store_ms": store_ms}
        self._before, self._taken = readings, now
        self._history.append(row)
        names = list(row)
        self.document = orjson.dumps(
            self._facts
            | {
                "store": {"ok": self._store_error is None, "reason": self._store_error},
                "now": row,
                "history": {name: [old.get(name) for old in self._history] for name in names},
            }
        )

    async def _ping(self) -> float | None:
        """Milliseconds that the store took to answer; None if it does not."""
        started = time.perf_counter()
        try:
            await asyncio.wait_for(self._store.ping(), PING_S)
        except TimeoutError:
            self._store_error = f"no answer within {PING_S:g} s"
            return None
        except ServiceError as error:
            self._store_error = str(error.__cause__ or error)[:200]
            return None
        self._store_error = None
        return round(1000.0 * (time.perf_counter() - started), 3)

    def _readings(self) -> dict[str, Any]:
        metrics = self._metrics
        return {
            "samples": by_label(metrics.samples, "status"),
            "http": buckets(metrics.http_duration, "route", TELEMETRY),
            "step": buckets(metrics.step_duration),
            "commit": buckets(metrics.store_duration, "op", ("commit",)),
            "batch": total(metrics.batch_size),
            "queue_depth": value(metrics.queue_depth),
            "slots_used": value(metrics.slots_used),
        }


def beat(before: dict[str, Any], after: dict[str, Any], elapsed_s: float) -> dict[str, float | None]:
    """What happened between two readings."""
    gained = {status: n - before["samples"].get(status, 0.0) for status, n in after["samples"].items()}
    n_batches, n_in_batches = (now - then for now, then in zip(after["batch"], before["batch"], strict=True))
    row: dict[str, float | None] = {
        "applied_per_s": round(gained.pop("applied", 0.0) / elapsed_s, 2),
        "not_applied_per_s": round(sum(gained.values()) / elapsed_s, 2),
        "batch_size": round(n_in_batches / n_batches, 1) if n_batches else None,
        "queue_depth": after["queue_depth"],
        "slots_used": after["slots_used"],
    }
    for name in ("http", "step", "commit"):
        between = {bound: n - before[name].get(bound, 0.0) for bound, n in after[name].items()}
        for share, label in ((0.5, "p50"), (0.99, "p99")):
            seconds = quantile(between, share)
            row[f"{name}_{label}_ms"] = None if seconds is None else round(1000.0 * seconds, 3)
    return row


def quantile(counts: Buckets, share: float) -> float | None:
    """A quantile in seconds from cumulative counts by upper bound, linear within a bucket; None of nothing."""
    n = max(counts.values(), default=0.0)
    if not n:
        return None
    below_bound, below = 0.0, 0.0
    for bound in sorted(counts):
        if counts[bound] >= share * n:
            if bound == float("inf"):
                return below_bound
            return below_bound + (bound - below_bound) * (share * n - below) / max(counts[bound] - below, 1.0)
        below_bound, below = bound, counts[bound]
    return below_bound


def buckets(histogram: Histogram, label: str | None = None, wanted: Iterable[str] = ()) -> Buckets:
    """Cumulative counts, added over the series whose `label` is one of `wanted`."""
    found: Buckets = {}
    for sample in readings(histogram):
        if sample.name.endswith("_bucket") and (label is None or sample.labels[label] in wanted):
            bound = float(sample.labels["le"])
            found[bound] = found.get(bound, 0.0) + sample.value
    return found


def total(histogram: Histogram) -> tuple[float, float]:
    """Count and sum."""
    found = {
        sample.name.rpartition("_")[2]: sample.value for sample in readings(histogram) if "le" not in sample.labels
    }
    return found.get("count", 0.0), found.get("sum", 0.0)


def by_label(counter: Counter, label: str) -> dict[str, float]:
    """A counter's values by one label."""
    return {s.labels[label]: s.value for s in readings(counter) if s.name.endswith("_total")}


def value(gauge: Gauge) -> float:
    """What a gauge stands at."""
    return float(next(iter(readings(gauge))).value)


def readings(metric: Counter | Gauge | Histogram) -> list[Any]:
    """The samples of a metric."""
    return [sample for family in metric.collect() for sample in family.samples]
