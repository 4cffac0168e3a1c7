"""Alerts as the commit script leaves them, and deliveries that run in the test's own process."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis

from service.delivery.delivery import Delivery
from service.delivery.outbox import Outbox, partition_for
from service.delivery.silence_watch import Silences
from service.delivery.sinks_file import AnySink, read_sinks
from service.observe.metrics import Metrics
from service.store.store_keys import partition_keys
from tests.service.delivery.receivers import SECRET

PARTITIONS = 4
PHASES = {"firing": "firing", "escalated": "firing", "resolved": "resolved", "stale": "stale", "acknowledged": "firing"}


def alert(vehicle: str, transition: str = "firing", n: int = 0, *, episode: int = 1, **more: Any) -> dict[str, Any]:
    """The n-th transition of a vehicle's alert, now."""
    now = time.time_ns() // 1_000_000
    alert_id = f"{vehicle}-{episode}"
    return {
        "id": alert_id, "event_id": f"{alert_id}-{n}", "vehicle_id": vehicle, "rule": "thermal_risk", "severity": "warning",
        "phase": PHASES.get(transition, transition), "transition": transition, "first_crossed_ms": now - 60_000,
        "fired_ms": now, "resolved_ms": now if transition == "resolved" else None, "updated_ms": now, "risk": 0.71,
        "peak_risk": 0.8, "threshold": 0.48, "resolve_threshold": 0.3, "horizon_s": 7200.0, "contributions": [
            {"channel": "motor_temperature", "unit": "degC", "value": 91.0, "expected": 70.0, "deviation": 4.2, "since_ms": now}
        ], "position": {"latitude": 48.1, "longitude": 11.5, "ts_ms": now}, "model": "ab" * 16, "epoch": 1, "seq": 7,
        "acknowledged": None,
    } | more  # fmt: skip


def commit(client: "redis.Redis | redis.RedisCluster", *records: dict[str, Any], partitions: int = PARTITIONS) -> None:
    """What commit.lua does with alerts that are news."""
    for record in records:
        keys, text = partition_keys(partition_for(record, partitions)), json.dumps(record)
        field = f"{record['vehicle_id']}|{record['rule']}"
        client.hset(keys.alerts, field, text)
        if record["phase"] in {"resolved", "inactive"}:
            client.hdel(keys.open, field)
        else:
            client.hset(keys.open, field, f"{record['phase']}:{record['severity']}")
        client.xadd(keys.transitions, {"alert": text})


def sinks_of(folder: Path, text: str) -> tuple[AnySink, ...]:
    """Sinks from the text of a sinks file; `SECRET` is the file of the receivers' secret."""
    secret = folder / "secret"
    secret.write_text(SECRET + "\n")
    path = folder / "sinks.toml"
    path.write_text(text.replace("SECRET", f'{{ file = "{secret}" }}'))
    return read_sinks(path)


def webhook(name: str, url: str, more: str = "") -> str:
    """A sink that is tried again fast."""
    return (
        f'[[sink]]\nname = "{name}"\nkind = "webhook"\nurl = "{url}"\nsecrets = [SECRET]\n'
        f"first_retry_s = 0.1\nlongest_retry_s = 0.4\n{more}\n"
    )


class Worker:
    """One worker's delivery, with its metrics."""

    def __init__(self, delivery: Delivery, outbox: Outbox, metrics: Metrics) -> None:
        self.delivery = delivery
        self.outbox = outbox
        self.metrics = metrics

    def count(self, sink: str, result: str) -> float:
        """`notifications_total`."""
        return float(self.metrics.registry.get_sample_value(
            "emberwatch_notifications_total", {"sink": sink, "result": result}) or 0.0
        )  # fmt: skip


@asynccontextmanager
async def working(
    url: str, sinks: Sequence[AnySink], silences: Silences | None = None, *, lease_s: float = 10.0
) -> AsyncIterator[Worker]:
    """A worker that delivers, and stops as a worker is stopped."""
    metrics, outbox = Metrics(), Outbox(url, PARTITIONS, 5.0)
    delivery = Delivery(outbox, sinks, silences, metrics, lease_s=lease_s)
    try:
        await delivery.start()
        yield Worker(delivery, outbox, metrics)
    finally:
        await delivery.close()


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait. Raises TimeoutError saying for what."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what}")
        await asyncio.sleep(0.02)


def pending(client: "redis.Redis", sink: str) -> int:
    """Entries that were taken for a sink and are not settled."""
    found = 0
    for partition in range(PARTITIONS):
        groups = client.xinfo_groups(partition_keys(partition).transitions)
        found += sum(g["pending"] for g in groups if g["name"].decode() == sink)
    return found
